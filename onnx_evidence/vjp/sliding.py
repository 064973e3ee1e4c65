"""The transpose of sliding a window, for convolutions and pools: where each cotangent goes back to.

A window of ``k`` cells, dilated by ``d``, slides over ``I`` cells with ``pb`` and ``pe`` cells of padding and
stride ``s``; it makes ``O`` results. Going back, the ``O`` cotangents are set ``s`` cells apart with zeros between
them and a window of ``k`` cells slides over them with stride 1 and pads ``(k-1)d - pb`` in front and
``(k-1)d - pe + r`` behind, ``r`` being the cells at the end that no window reached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onnx_evidence.errors import GradientError
from onnx_evidence.vjp.step import Step
from onnx_evidence.vjp.tape import Value


@dataclass(frozen=True)
class Sliding:
    """How a window slides, per spatial axis.

    Attributes
    ----------
    sizes, results : tuple of int
        Cells that are read, and windows.
    kernel, strides, dilations : tuple of int
        Of the window.
    before, after : tuple of int
        Cells of padding.
    """

    sizes: tuple[int, ...]
    results: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, step: Step, kernel: Sequence[int | None]) -> "Sliding":
        """Read the attributes of a Conv or a pool, ``kernel`` being the cells of its window per axis.

        `GradientError` if a window begins behind the last cell: runtimes leave it out, and inference of shapes does
        not.
        """
        rank = len(kernel)
        sides = tuple(side or 1 for side in kernel)
        strides = tuple(step.attribute("strides", [1] * rank))
        dilations = tuple(step.attribute("dilations", [1] * rank))
        sizes = tuple(step.side(axis + 2) for axis in range(rank))
        results = tuple(side or 1 for side in step.result_shape[2:])
        pads = step.attribute("pads", [0] * 2 * rank)
        before, after = tuple(pads[:rank]), tuple(pads[rank:])
        automatic = step.attribute("auto_pad", "NOTSET")
        if automatic in ("SAME_UPPER", "SAME_LOWER"):
            needed = [
                max((out - 1) * stride + (side - 1) * dilation + 1 - size, 0)
                for out, stride, side, dilation, size in zip(results, strides, sides, dilations, sizes, strict=True)
            ]
            before = tuple(each // 2 if automatic == "SAME_UPPER" else each - each // 2 for each in needed)
            after = tuple(each - first for each, first in zip(needed, before, strict=True))
        elif automatic == "VALID":
            before = after = (0,) * rank
        starts = [(out - 1) * stride - first for out, stride, first in zip(results, strides, before, strict=True)]
        if step.attribute("ceil_mode", 0) and any(start >= size for start, size in zip(starts, sizes, strict=True)):
            raise GradientError("a window of ceil_mode lies in the padding alone")
        return cls(sizes, results, sides, strides, dilations, before, after)

    def reach(self) -> list[int]:
        """Cells from the first to the last that a window reads, per axis, less one."""
        return [(side - 1) * dilation for side, dilation in zip(self.kernel, self.dilations, strict=True)]

    def back_pads(self) -> list[tuple[int, int]]:
        """Padding of the cotangents, set apart by the stride, in front and behind; negative where cells are cut."""
        pads = []
        for axis, reach in enumerate(self.reach()):
            front = reach - self.before[axis]
            length = (self.results[axis] - 1) * self.strides[axis] + 1
            pads.append((front, self.sizes[axis] + reach - length - front))
        return pads

    def as_transposed(self) -> dict[str, Any] | None:
        """Attributes of the ConvTranspose that goes back; None where it would need negative output padding."""
        surplus = []
        for axis, reach in enumerate(self.reach()):
            full = (self.results[axis] - 1) * self.strides[axis] + reach + 1 - self.before[axis] - self.after[axis]
            surplus.append(self.sizes[axis] - full)
        if any(not 0 <= each < max(stride, 1) for each, stride in zip(surplus, self.strides, strict=True)):
            return None
        return {
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [*self.before, *self.after],
            "output_padding": surplus,
        }


def spread(
    cotangent: Value, channels: int, geometry: Sliding, convolve: Callable[[Value, list[int]], Value] | None
) -> Value:
    """Set cotangents (N, channels, ...) apart by the stride and slide over them: those of the cells that were read.

    ``convolve`` slides with stride 1, given what to slide over and its pads; it is None where the window is one cell
    and has been applied already.
    """
    strides, results = geometry.strides, geometry.results
    pads = geometry.back_pads()
    if max(strides) > 1:
        cotangent = _set_apart(cotangent, channels, results, strides)
        # The last result has zeros behind it as well now.
        pads = [(front, behind - (stride - 1)) for (front, behind), stride in zip(pads, strides, strict=True)]
    if convolve is None:
        return _crop(cotangent, [(front, behind) for front, behind in pads])
    cropped = _crop(cotangent, [(min(front, 0), min(behind, 0)) for front, behind in pads])
    return convolve(cropped, [*(max(front, 0) for front, _ in pads), *(max(behind, 0) for _, behind in pads)])


def _crop(value: Value, pads: Sequence[tuple[int, int]]) -> Value:
    return value.pad([0, 0, *(front for front, _ in pads)], [0, 0, *(behind for _, behind in pads)])


def _set_apart(value: Value, channels: int, sides: Sequence[int], strides: Sequence[int]) -> Value:
    """Zeros between neighbours, and behind the last: every side grows by its stride.

    One product with a matrix of zeros and ones, which writes a row of cells, set apart, and the rows of zeros
    behind it: many times faster than padding along many axes.
    """
    if len(sides) > 2:
        return _pad_apart(value, channels, sides, strides)
    rows, last = prod(strides[:-1]), sides[-1]
    matrix = np.zeros((last, rows * strides[-1] * last))
    matrix[np.arange(last), np.arange(last) * strides[-1]] = 1
    lined = value.reshape(-1, last).op("MatMul", value.typed(matrix))
    return lined.reshape(-1, channels, *(side * stride for side, stride in zip(sides, strides, strict=True)))


def _pad_apart(value: Value, channels: int, sides: Sequence[int], strides: Sequence[int]) -> Value:
    """`_set_apart` for volumes, where rows of zeros do not lie behind their row."""
    rank = len(sides)
    spaced = value.reshape(-1, channels, *(each for side in sides for each in (side, 1)))
    zeros = [0, 0, *(each for stride in strides for each in (0, stride - 1))]
    wide = spaced.pad([0] * (2 + 2 * rank), zeros)
    return wide.reshape(-1, channels, *(side * stride for side, stride in zip(sides, strides, strict=True)))

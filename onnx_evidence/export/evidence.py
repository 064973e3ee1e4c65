"""Evidence of every cell of a cut, written into a graph: `evidence.path.integrate` with steps that are settled before.

All pictures of a batch go through the backward graph of the tail at once, at several places along their paths, as many
as a slice has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_evidence.evidence import LN2, CellField
from onnx_evidence.export.arithmetic import GraphBudget, GraphScore, stacked, summed, trapezoid
from onnx_evidence.export.parts import Whole
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp import Value


@dataclass(frozen=True)
class Site:
    """A cut, in the graph.

    Attributes
    ----------
    features : Value
        Of the pictures, (N, C, A, B).
    starts : sequence of Value
        Where paths begin, one for each background; of the same shape, or one that is broadcast to it.
    backward : onnx.ModelProto
        Of the tail: from features, cotangent and, for scores that are not linear, rest, to gradient and logits.
    shape : (int, int, int)
        C, A, B.
    kept : int
        How many of the last channels hold tokens that are no cells.
    field : CellField
        Where the cells look.
    """

    features: Value
    starts: Sequence[Value]
    backward: onnx.ModelProto
    shape: tuple[int, int, int]
    kept: int
    field: CellField


@dataclass(frozen=True)
class GraphMaps:
    """What one cut answers: maps (backgrounds, N, H, W), bits per pixel, mean cells (N, A, B), and their budget."""

    values: Value
    cells: Value
    budget: GraphBudget


def integrate(whole: Whole, site: Site, score: GraphScore, steps: int, at_once: int) -> GraphMaps:
    """Evidence along the paths of all backgrounds, of ``steps`` places each, ``at_once`` of which are run together."""
    places, weights = trapezoid(steps)
    count = len(site.starts)
    # The end is common to all; every place has a weight in the path of each background.
    points = [(number, place) for number in range(count) for place in places[:-1]] + [(0, 1.0)]
    shares = np.zeros((count, len(points)), np.float32)
    for number in range(count):
        shares[number, number * (steps - 1) : (number + 1) * (steps - 1)] = weights[:-1]
    shares[:, -1] = weights[-1]
    changes = [site.features - start for start in site.starts]
    slopes: list[Value] = []
    scores: dict[int, Value] = {}
    zero = whole.tape.integers(0)
    for first in range(0, len(points), at_once):
        part = range(first, min(first + at_once, len(points)))
        gradient, logits = _run(whole, site, changes, score, [points[index] for index in part])
        slopes.append(_weighed(whole, gradient, shares[:, part.start : part.stop]))
        ends = [index for index in part if points[index][1] in (0.0, 1.0)]
        bits = score.bits(logits.reshape(len(part), -1, score.classes))
        scores |= {index: bits.op("Gather", whole.tape.integers(index - first)).op("Squeeze", zero) for index in ends}
    cells = _cells(whole, site, summed(slopes), changes)
    without = summed([scores[number * (steps - 1)] for number in range(count)]) / float(count)
    mean = cells.reduce("Mean", [0], keepdims=False)
    budget = GraphBudget.of(mean, scores[len(points) - 1], without)
    return GraphMaps(_to_pixels(whole, cells, site.field), mean, budget)


def _run(
    whole: Whole, site: Site, changes: Sequence[Value], score: GraphScore, points: Sequence[tuple[int, float]]
) -> tuple[Value, Value]:
    """Gradients (places * N, C, A, B) and logits (places * N, K)."""
    tape, pieces = whole.tape, []
    for number, change in enumerate(changes):
        places = [place for start, place in points if start == number and place < 1]
        if places:
            at = site.features.typed(np.array(places).reshape(-1, 1, 1, 1, 1))
            pieces.append(site.starts[number] + at * change)
    if points[-1][1] == 1:
        pieces.append(site.features.op("Unsqueeze", tape.integers(0)))  # not a digit less
    rows = pieces[0] if len(pieces) == 1 else pieces[0].op("Concat", *pieces[1:], axis=0)
    batch = rows.reshape(-1, *site.shape)
    given = [_repeated(whole, each, len(points)) for each in (score.direction, score.rest) if each is not None]
    gradient, logits = whole.put(site.backward, batch, *given, rows=f"{len(points)} places of each")
    return gradient, logits


def _repeated(whole: Whole, rows: Value, count: int) -> Value:
    """Rows (N, K) so many times: (count * N, K)."""
    return rows if count == 1 else rows.op("Tile", whole.tape.integers(count, 1))


def _weighed(whole: Whole, gradient: Value, shares: AnyArray) -> Value:
    """Sums over places, one for each background, of gradients by their shares: (backgrounds, N * C * A * B)."""
    flat = gradient.op("Reshape", whole.tape.integers(shares.shape[1], -1))
    return whole.constant(shares).op("MatMul", flat)


def _cells(whole: Whole, site: Site, slope: Value, changes: Sequence[Value]) -> Value:
    """Bits of every cell, (backgrounds, N, A, B), from mean gradients (backgrounds, N * C * A * B)."""
    channels, *grid = site.shape
    shaped = slope.reshape(len(changes), -1, channels, *grid)
    if site.kept:
        counts = np.ones((channels, 1, 1))
        counts[-site.kept :] = 0
        shaped = shaped * shaped.typed(counts)
    cells = (shaped * stacked(changes, 0)).reduce("Sum", [2], keepdims=False)
    return cells / LN2


def _to_pixels(whole: Whole, cells: Value, field: CellField) -> Value:
    """Cells (..., A, B) spread over the pixels that they stand for, (..., H, W)."""
    rows, cols = (whole.constant(each.shares().astype(np.float32)) for each in (field.rows, field.cols))
    return rows.op("MatMul", cells).op("MatMul", cols.transpose(1, 0))

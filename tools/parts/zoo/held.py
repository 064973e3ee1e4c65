"""The location test again, with the statistics of norms over whole pictures held.

Even grey has hardly any variance of its own. Where norms over rows and columns measure it, a patch changes the scale of
every other cell, and what parts its picture from the bare one may truly lie far from it. Whether that is why a map is
misplaced, shows when every such norm has the statistics of the picture with the patch, as constants, for both pictures:
to the picture with the patch that file gives the scores that it had, and nothing may be wrong with its map.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from onnx_evidence import Explainer
from parts.zoo.location import locate_one, patched_inputs

Array = npt.NDArray[Any]

_NORM = "InstanceNormalization"  # what exporters write GroupNorm as, too
# What a file gives for canonical inputs at the output of that name, one flat row for each.
RunFile = Callable[[Path, Array, str], Array]


def hold_statistics(model: onnx.ModelProto, measured: Iterable[Array]) -> onnx.ModelProto:
    """The same model with the statistics of its norms over rows and columns as constants.

    Parameters
    ----------
    model : onnx.ModelProto
        Left as it is.
    measured : iterable of ndarray of float
        What goes into each of these norms for the picture whose statistics are held, in graph order; flat.

    Returns
    -------
    onnx.ModelProto
    """
    held = onnx.ModelProto()
    held.CopyFrom(model)
    sizes = _sizes(held)
    for node, value in zip(norms(held), measured, strict=True):
        cells = np.asarray(value, np.float64).reshape(sizes[node.input[1]], -1)
        node.op_type = "BatchNormalization"  # the same but for where its statistics are from
        for word, given in (("mean", cells.mean(axis=1)), ("variance", cells.var(axis=1))):
            name = f"{node.output[0]}/{word}"
            held.graph.initializer.append(numpy_helper.from_array(given.astype(np.float32), name))
            node.input.append(name)
    return held


def norms(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that normalise by statistics over rows and columns."""
    return [node for node in model.graph.node if node.op_type == _NORM]


def _sizes(model: onnx.ModelProto) -> dict[str, int]:
    """How many elements constants have."""
    nodes = [node for node in model.graph.node if node.op_type == "Constant"]
    tensors = {node.output[0]: node.attribute[0].t for node in nodes} | {
        each.name: each for each in model.graph.initializer
    }
    return {name: int(np.prod(tensor.dims)) for name, tensor in tensors.items()}


def locate_held(path: Path, opened: Callable[[Path], Explainer], run: RunFile) -> list[dict[str, Any]]:
    """The location test for the same model with its statistics held.

    Parameters
    ----------
    path : Path
        The file as it is.
    opened : callable
        A file, as the location test opened this one.
    run : callable
        A file's own output (N, elements) for canonical inputs.

    Returns
    -------
    list of dict
        As `location.locate` makes it; empty where there is nothing to hold.
    """
    model, deployed = onnx.load(path), opened(path).deployed
    found = []
    for swapped in (False, True) if norms(model) else ():
        with_patch = patched_inputs(deployed, swapped=swapped)[:1]
        with tempfile.TemporaryDirectory() as folder:
            held = Path(folder, "held.onnx")
            onnx.save(hold_statistics(model, _measured(model, Path(folder, "probe.onnx"), run, with_patch)), held)
            found.append(_locate(opened(held), run, swapped=swapped))
    return found


def _locate(explainer: Explainer, run: RunFile, *, swapped: bool) -> dict[str, Any]:
    model = explainer.deployed.model
    return locate_one(explainer, lambda x: run(model.path, x, model.output_name), model.output_kind, swapped=swapped)


def _measured(model: onnx.ModelProto, probe: Path, run: RunFile, inputs: Array) -> list[Array]:
    """What goes into every norm for one picture."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [node.input[0] for node in norms(model)]
    shown.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(shown, probe)
    return [run(probe, inputs, name)[0] for name in names]

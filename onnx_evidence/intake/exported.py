"""Models that explain themselves, as `export` writes them: their record, and the deployed model in them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import Net

# Under this key of a file's metadata, as JSON.
RECORD = "onnx_evidence.export"
SCHEMA = 1
_RECORDED = frozenset(
    "version model_sha256 input targets target_labels versus unit settings background cuts classes at_once apart "
    "self_test".split()
)


def export_record(metadata: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """What is recorded in an exported model; None of others.

    Parameters
    ----------
    metadata : mapping
        Of the file.
    path : Path
        The file.

    Returns
    -------
    dict or None

    Raises
    ------
    ModelError
        If the record is of another version, or none.
    """
    if RECORD not in metadata:
        return None
    try:
        record = json.loads(metadata[RECORD])
        names = [*record["outputs"].values(), *(record["picture"] or {}).values(), *record["scores"].values()]
        whole = record["schema"] == SCHEMA and all(isinstance(each, str) for each in names)
        whole &= {"evidence", "budget"} <= {*record["outputs"]} and {*record} >= _RECORDED
    except (ValueError, TypeError, KeyError, AttributeError):
        whole = False
    if not whole:
        raise ModelError(
            f"{path}: what 'export' recorded in it ({RECORD!r}) is damaged, or of another version: export the model "
            "again"
        )
    return dict(record)


def without_evidence(proto: onnx.ModelProto, record: Mapping[str, Any]) -> None:
    """Leave the deployed model alone of an exported one: what explains it goes; in place."""
    from_own_input(proto, record)
    added = {*record["outputs"].values(), record["input"]}
    _reduce(
        proto,
        [value for value in proto.graph.input if value.name not in added],
        [value for value in proto.graph.output if value.name not in added],
    )


def from_own_input(proto: onnx.ModelProto, record: Mapping[str, Any]) -> None:
    """Leave out what makes the model's input of decoded pictures, and evidence in theirs, if there is any; in place."""
    if (picture := record["picture"]) is None:
        return
    graph = proto.graph
    # What was the input is a tensor inside.
    inputs = [value for value in graph.value_info if value.name == picture["stands_for"]]
    inputs += [value for value in graph.input if value.name != picture["input"]]
    _reduce(proto, inputs, [value for value in graph.output if value.name != picture["evidence"]])


def _reduce(
    proto: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> None:
    """Leave what makes some outputs of some inputs."""
    graph, net = proto.graph, Net(proto)
    nodes = net.needed(*(value.name for value in outputs), stop=[value.name for value in inputs])
    needed = Net(net.model_of(nodes, [], [], graph.name))
    # Old files list weights among the inputs, those that nothing reads too.
    inputs = [value for value in inputs if value.name not in net.constants or value.name in needed.constants]
    there = {name for node in nodes for name in node.output}
    told = [value for value in graph.value_info if value.name in there]
    for field, values in (
        (graph.output, outputs),
        (graph.input, inputs),
        (graph.node, nodes),
        (graph.value_info, told),
        (graph.initializer, needed.constants.values()),
    ):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)

"""What stands for class scores at the end of a file, and leads back to them: maps from names to scores, and winners.

Converters of scikit-learn and its like, and Azure Custom Vision, end in two outputs: the winner's name, picked from a
constant by ArgMax, and a ZipMap, which gives each score its class's name. Both are looked through to the scores behind,
and say what the classes are called.
"""

from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

import numpy as np
import onnx

from onnx_evidence.graphs import Net, TensorInfo, attributes_of
from onnx_evidence.intake.endings import MOVES
from onnx_evidence.intake.external import as_text
from onnx_evidence.types import AnyArray

ML = "ai.onnx.ml"
# What gives the winner in its first output, the scores in its second.
CLASSIFIERS = frozenset({"LinearClassifier", "TreeEnsembleClassifier", "SVMClassifier"})
# What picks rows of its first input by the numbers in its second.
_PICKS = frozenset({"ArrayFeatureExtractor", "Gather"})

Names = tuple[str, ...]


class Behind(NamedTuple):
    """What an output leads back to.

    Attributes
    ----------
    scores : str
        The tensor of class scores.
    names : tuple of str or None
        What the classes are called; None where they have numbers alone.
    is_winner : bool
        Whether the output itself is the winner alone.
    """

    scores: str
    names: Names | None
    is_winner: bool


def find_behind(net: Net) -> dict[str, Behind]:
    """Outputs, by their names, that are no class scores and lead back to some."""
    trail = _Trail(net)
    found = ((name, trail.follow(name)) for name in net.outputs)
    return {name: behind for name, behind in found if behind is not None}


def class_names(net: Net, tensors: Mapping[str, TensorInfo], scores: str) -> Names | None:
    """What ZipMaps and constants of winners call the classes of the scores.

    None where nothing is said, or the classes are their numbers from 0, or the names are not as many.
    """
    base = _Trail(net).base
    told = sorted(find_behind(net).values(), key=lambda each: each.is_winner)
    names = next((each.names for each in told if each.names is not None and base(each.scores) == base(scores)), None)
    sides = tensors[scores].shape[1:] if scores in tensors else (None,)
    fits = names is None or None in sides or prod(side or 1 for side in sides) == len(names)
    return names if fits else None


class _Trail:
    """Follows tensors backwards."""

    def __init__(self, net: Net) -> None:
        self.net = net

    def base(self, name: str) -> str:
        """The tensor behind what only moves values."""
        for node in self._moves(name):
            name = str(node.input[0])
        return name

    def _moves(self, name: str) -> Iterator[onnx.NodeProto]:
        while (node := self.net.producer.get(name)) is not None and node.op_type in MOVES:
            yield node
            name = node.input[0]

    def follow(self, output: str) -> Behind | None:
        name = self.base(output)
        node = self.net.producer.get(name)
        if node is None:
            return None
        if node.op_type == "ZipMap" and node.domain == ML:
            return Behind(str(node.input[0]), _attribute_names(node), is_winner=False)
        if node.op_type in CLASSIFIERS and node.domain == ML and name == node.output[0] and len(node.output) > 1:
            return Behind(str(node.output[1]), _attribute_names(node), is_winner=True)
        if node.op_type in _PICKS and len(node.input) > 1:
            values = self._constant(node.input[0])
            # A row of names or numbers; a table of floats is an embedding.
            if values is None or values.dtype.kind not in "OSUiu" or values.size != max(values.shape, default=1):
                return None
            return self._winner(node.input[1], _texts(values.reshape(-1).tolist()))
        if node.op_type == "LabelEncoder" and node.domain == ML:
            return self._winner(node.input[0], _encoded(node))
        return None

    def _winner(self, number: str, names: Names | None) -> Behind | None:
        node = self.net.producer.get(self.base(number))
        if node is None or node.op_type not in ("ArgMax", "TopK"):
            return None
        # Where the least wins, as of distances, numbers are no scores.
        if any(attribute.name == "largest" and attribute.i == 0 for attribute in node.attribute):
            return None
        return Behind(str(node.input[0]), names, is_winner=True)

    def _constant(self, name: str) -> AnyArray | None:
        """A constant; those of texts are left as nodes."""
        node = self.net.producer.get(name)
        if node is None or node.op_type != "Constant" or len(node.attribute) != 1:
            return self.net.array(name)
        return np.asarray(*attributes_of(node).values())


def _texts(values: list[object]) -> Names | None:
    """Names in order of classes; None where these are only the numbers of the classes."""
    names = tuple(as_text(value) if isinstance(value, bytes) else str(value) for value in values)
    return None if not names or names == tuple(map(str, range(len(names)))) else names


def _attribute_names(node: onnx.NodeProto) -> Names | None:
    given = attributes_of(node)
    lists = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
    return next((_texts(list(given[name])) for name in lists if given.get(name)), None)


def _encoded(node: onnx.NodeProto) -> Names | None:
    """What a LabelEncoder calls the numbers from 0."""
    given = attributes_of(node)
    if given.get("classes_strings"):
        return _texts(list(given["classes_strings"]))
    values = given.get("values_strings") or given.get("values_int64s")
    pairs = dict(zip(given.get("keys_int64s") or (), values or (), strict=False))
    if not pairs or set(pairs) != set(range(len(pairs))):
        return None
    return _texts([pairs[number] for number in range(len(pairs))])

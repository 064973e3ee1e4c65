"""Operators of ai.onnx.ml and of old exporters, written as standard ones of the file's own opset.

ONNX Runtime has them all, but what follows in the intake, and the rules of gradients, know standard operators alone.
What the formats say: https://onnx.ai/onnx/operators (LinearClassifier, Normalizer, Scaler, BatchNormalization-1 to 8),
and, for those that ONNX has dropped, onnxruntime/core/graph/contrib_ops/contrib_defs.cc.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.intake.rewrite import add_constant, new_name, replace_nodes, taken_names
from onnx_evidence.intake.winners import ML
from onnx_evidence.types import AnyArray

# Since when axes and bounds are inputs: of ReduceSum, of Slice.
_SUM_AXES, _SLICE_BOUNDS = 13, 10
# Since when ThresholdedRelu is in the standard, and BatchNormalization has one scale per channel always.
_THRESHOLDED, _SPATIAL = 10, 9
_FAR = 2**31 - 1
_ENDINGS = {"NONE": None, "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}


def rewrite_special(proto: onnx.ModelProto) -> int:
    """Rewrite the operators that have a standard twin; others stay as they are.

    Parameters
    ----------
    proto : onnx.ModelProto
        The model, with constants as initializers; changed in place.

    Returns
    -------
    int
        How many operators were rewritten.
    """
    if all((_domain(node), node.op_type) not in _REWRITES for node in proto.graph.node):
        return 0
    return _Rewriter(proto).run()


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


class _Rewriter:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.opset = next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0)
        self.taken = taken_names(self.graph)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> int:
        rewritten = 0
        for node in list(self.graph.node):
            rewrite = _REWRITES.get((_domain(node), node.op_type))
            given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            if rewrite is not None and rewrite(self, node, given):
                rewritten += 1
            else:
                self.nodes.append(node)
        replace_nodes(self.graph, self.nodes)
        return rewritten

    # --- ai.onnx.ml -----------------------------------------------------------------------------------------------

    def linear_classifier(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """``x C' + b``, and what is made of it; the winner is the class of the largest score."""
        names = list(given.get("classlabels_strings") or given.get("classlabels_ints") or ())
        rows, bias = len(names), given.get("intercepts") or [0.0] * len(names)
        post = given.get("post_transform", b"NONE").decode()
        factors = np.array(given.get("coefficients", ()), np.float32)
        if rows < 2 or post not in _ENDINGS or len(bias) != rows or not factors.size or factors.size % rows:
            return False
        winner, scores = map(str, node.output)
        x = self._add("Cast", [node.input[0]], f"{scores}/features", to=TensorProto.FLOAT)
        weights = [
            self._constant(f"{scores}/weight", factors.reshape(rows, -1)),
            self._constant(f"{scores}/bias", np.array(bias, np.float32)),
        ]
        self._end("Gemm", [x, *weights], scores, _ENDINGS[post], transB=1)
        number = self._add("ArgMax", [scores], f"{winner}/number", axis=1, keepdims=0)
        held = self._constant(f"{winner}/names", np.array(names, object if isinstance(names[0], bytes) else np.int64))
        self._add("Gather", [held, number], winner, own=True)
        return True

    def _end(self, op_type: str, inputs: Sequence[str], output: str, last: str | None, **attributes: Any) -> None:
        if last is None:
            self._add(op_type, inputs, output, own=True, **attributes)
            return
        inner = self._add(op_type, inputs, f"{output}/logits", **attributes)
        self._add(last, [inner], output, own=True, **({"axis": 1} if last == "Softmax" else {}))

    def normalizer(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """Rows divided by their length, or by the sum of what is in them."""
        norm, output = given.get("norm", b"MAX").decode(), str(node.output[0])
        if norm not in ("L1", "L2"):
            return False
        x = self._add("Cast", [node.input[0]], f"{output}/float", to=TensorProto.FLOAT)
        if norm == "L2":
            self._add("LpNormalization", [x], output, own=True, axis=1, p=2)
            return True
        parts = self._add("Abs", [x], f"{output}/abs")
        if self.opset < _SUM_AXES:
            total = self._add("ReduceSum", [parts], f"{output}/sum", axes=[1], keepdims=1)
        else:
            total = self._add("ReduceSum", [parts, self._constant(f"{output}/axis", np.array([1]))], f"{output}/sum")
        # A row of zeros stays one.
        least = self._constant(f"{output}/least", np.array(np.finfo(np.float32).tiny))
        self._add("Div", [x, self._add("Max", [total, least], f"{output}/some")], output, own=True)
        return True

    def scaler(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """``(x - offset) scale``."""
        output = str(node.output[0])
        x = self._add("Cast", [node.input[0]], f"{output}/float", to=TensorProto.FLOAT)
        offset = self._constant(f"{output}/offset", np.array(given.get("offset", [0.0]), np.float32))
        factor = self._constant(f"{output}/scale", np.array(given.get("scale", [1.0]), np.float32))
        self._add("Mul", [self._add("Sub", [x, offset], f"{output}/moved"), factor], output, own=True)
        return True

    # --- what ONNX has dropped ------------------------------------------------------------------------------------

    def affine(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """Affine, ImageScaler and Scale: a factor, and an offset for all or for each channel."""
        output = str(node.output[0])
        named = {"Affine": ("alpha", "beta"), "ImageScaler": ("scale", "bias"), "Scale": ("scale", "")}
        factor, offset = (given.get(name) for name in named[node.op_type])
        bias = np.array(0.0 if offset is None else offset, np.float32)
        scale = self._constant(f"{output}/scale", np.array(1.0 if factor is None else factor, np.float32))
        x = self._add("Mul", [node.input[0], scale], f"{output}/scaled")
        shift = self._constant(f"{output}/bias", bias.reshape(-1, 1, 1) if bias.ndim else bias)
        self._add("Add", [x, shift], output, own=True)
        return True

    def outer(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """ScaledTanh and ParametricSoftplus: ``alpha f(beta x)``."""
        output, inner = str(node.output[0]), {"ScaledTanh": "Tanh", "ParametricSoftplus": "Softplus"}[node.op_type]
        if not {"alpha", "beta"} <= set(given):
            return False
        alpha, beta = (
            self._constant(f"{output}/{name}", np.array(given[name], np.float32)) for name in ("alpha", "beta")
        )
        x = self._add("Mul", [node.input[0], beta], f"{output}/scaled")
        self._add("Mul", [self._add(inner, [x], f"{output}/mapped"), alpha], output, own=True)
        return True

    def thresholded(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """``x`` where it is above alpha, else 0, before it was in the standard."""
        if self.opset >= _THRESHOLDED:
            return False
        output, x = str(node.output[0]), node.input[0]
        alpha = self._constant(f"{output}/alpha", np.array(given.get("alpha", 1.0), np.float32))
        above = self._add("Greater", [x, alpha], f"{output}/above")
        kept = self._add("Cast", [above], f"{output}/kept", to=TensorProto.FLOAT)
        self._add("Mul", [x, kept], output, own=True)
        return True

    def crop(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """Rows and columns taken off at the left, top, right and bottom."""
        border = given.get("border", ())
        if len(border) != 4 or "scale" in given:
            return False
        left, top, right, bottom = border
        bounds = {"starts": [top, left], "ends": [-bottom or _FAR, -right or _FAR], "axes": [2, 3]}
        output = str(node.output[0])
        if self.opset < _SLICE_BOUNDS:
            self._add("Slice", node.input[:1], output, own=True, **bounds)
        else:
            told = [self._constant(f"{output}/{word}", np.array(values)) for word, values in bounds.items()]
            self._add("Slice", [node.input[0], *told], output, own=True)
        return True

    def batch_normalization(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """With a scale for every place, as up to opset 8: a product and a sum."""
        if self.opset >= _SPATIAL or given.get("spatial", 1) or any(node.output[1:]):
            return False
        values = [self._value(name) for name in node.input[1:]]
        known = [value for value in values if value is not None]
        if len(known) != 4:
            return False
        scale, bias, mean, variance = known
        factor = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
        output = str(node.output[0])
        told = [
            self._constant(f"{output}/{word}", each.astype(np.float32))
            for word, each in (("factor", factor), ("offset", bias - mean * factor))
        ]
        self._add("Add", [self._add("Mul", [node.input[0], told[0]], f"{output}/scaled"), told[1]], output, own=True)
        return True

    # --- building -------------------------------------------------------------------------------------------------

    def _value(self, name: str) -> AnyArray | None:
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor).astype(np.float64)

    def _constant(self, name: str, value: AnyArray) -> str:
        return add_constant(self.graph, name, value, self.taken)

    def _add(self, op_type: str, inputs: Sequence[str], name: str, *, own: bool = False, **attributes: Any) -> str:
        """Append a node; ``own`` where its output is the rewritten node's own."""
        output = name if own else new_name(name, self.taken)
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output


_REWRITES: dict[tuple[str, str], Callable[[_Rewriter, onnx.NodeProto, dict[str, Any]], bool]] = {
    (ML, "LinearClassifier"): _Rewriter.linear_classifier,
    (ML, "Normalizer"): _Rewriter.normalizer,
    (ML, "Scaler"): _Rewriter.scaler,
    ("", "Affine"): _Rewriter.affine,
    ("", "ImageScaler"): _Rewriter.affine,
    ("", "Scale"): _Rewriter.affine,
    ("", "ScaledTanh"): _Rewriter.outer,
    ("", "ParametricSoftplus"): _Rewriter.outer,
    ("", "ThresholdedRelu"): _Rewriter.thresholded,
    ("", "Crop"): _Rewriter.crop,
    ("", "BatchNormalization"): _Rewriter.batch_normalization,
}

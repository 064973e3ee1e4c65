"""Operators of ai.onnx.ml and of old exporters, written as standard ones of the file's own opset.

ONNX Runtime has them all, but what follows in the intake, and the rules of gradients, know standard operators alone.
What the formats say: https://onnx.ai/onnx/operators (LinearClassifier, Normalizer, Scaler, BatchNormalization-1 to 8),
and, for those that ONNX has dropped, onnxruntime/core/graph/contrib_ops/contrib_defs.cc.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from onnx_evidence.graphs import Net, attributes_of
from onnx_evidence.intake.winners import ML

# Since when axes and bounds are inputs: of ReduceSum, of Slice.
_SUM_AXES, _SLICE_BOUNDS = 13, 10
# Since when ThresholdedRelu is in the standard, and BatchNormalization has one scale per channel always.
_THRESHOLDED, _SPATIAL = 10, 9
_FAR = 2**31 - 1
_ENDINGS = {"NONE": None, "SOFTMAX": "Softmax", "LOGISTIC": "Sigmoid"}


def rewrite_special(proto: onnx.ModelProto) -> int:
    """Rewrite in place the operators that have a standard twin, others stay as they are; how many were rewritten.

    Constants are initializers already.
    """
    if all((_domain(node), node.op_type) not in _REWRITES for node in proto.graph.node):
        return 0
    return _Rewriter(proto).run()


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


class _Rewriter(Net):
    def run(self) -> int:
        rewritten = 0
        for node in self.take():
            rewrite = _REWRITES.get((_domain(node), node.op_type))
            if rewrite is not None and rewrite(self, node, attributes_of(node)):
                rewritten += 1
            else:
                self.add(node)
        self.finish()
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
        x = self._inner("Cast", [node.input[0]], f"{scores}/features", to=TensorProto.FLOAT)
        weights = [
            self.constant(f"{scores}/weight", factors.reshape(rows, -1)),
            self.constant(f"{scores}/bias", np.array(bias, np.float32)),
        ]
        self._end("Gemm", [x, *weights], scores, _ENDINGS[post], transB=1)
        number = self._inner("ArgMax", [scores], f"{winner}/number", axis=1, keepdims=0)
        held = self.constant(f"{winner}/names", np.array(names, object if isinstance(names[0], bytes) else np.int64))
        self.write("Gather", [held, number], winner)
        return True

    def _end(self, op_type: str, inputs: Sequence[str], output: str, last: str | None, **attributes: Any) -> None:
        if last is None:
            self.write(op_type, inputs, output, **attributes)
            return
        inner = self._inner(op_type, inputs, f"{output}/logits", **attributes)
        self.write(last, [inner], output, axis=1 if last == "Softmax" else None)

    def normalizer(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """Rows divided by their length, or by the sum of what is in them."""
        norm, output = given.get("norm", b"MAX").decode(), str(node.output[0])
        if norm not in ("L1", "L2"):
            return False
        x = self._inner("Cast", [node.input[0]], f"{output}/float", to=TensorProto.FLOAT)
        if norm == "L2":
            self.write("LpNormalization", [x], output, axis=1, p=2)
            return True
        parts = self._inner("Abs", [x], f"{output}/abs")
        if self.opset < _SUM_AXES:
            total = self._inner("ReduceSum", [parts], f"{output}/sum", axes=[1], keepdims=1)
        else:
            total = self._inner("ReduceSum", [parts, self.constant(f"{output}/axis", np.array([1]))], f"{output}/sum")
        # A row of zeros stays one.
        least = self.constant(f"{output}/least", np.array(np.finfo(np.float32).tiny))
        self.write("Div", [x, self._inner("Max", [total, least], f"{output}/some")], output)
        return True

    def scaler(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """``(x - offset) scale``."""
        output = str(node.output[0])
        x = self._inner("Cast", [node.input[0]], f"{output}/float", to=TensorProto.FLOAT)
        offset = self.constant(f"{output}/offset", np.array(given.get("offset", [0.0]), np.float32))
        factor = self.constant(f"{output}/scale", np.array(given.get("scale", [1.0]), np.float32))
        self.write("Mul", [self._inner("Sub", [x, offset], f"{output}/moved"), factor], output)
        return True

    # --- what ONNX has dropped ------------------------------------------------------------------------------------

    def affine(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """Affine, ImageScaler and Scale: a factor, and an offset for all or for each channel."""
        output = str(node.output[0])
        named = {"Affine": ("alpha", "beta"), "ImageScaler": ("scale", "bias"), "Scale": ("scale", "")}
        factor, offset = (given.get(name) for name in named[node.op_type])
        bias = np.array(0.0 if offset is None else offset, np.float32)
        scale = self.constant(f"{output}/scale", np.array(1.0 if factor is None else factor, np.float32))
        x = self._inner("Mul", [node.input[0], scale], f"{output}/scaled")
        shift = self.constant(f"{output}/bias", bias.reshape(-1, 1, 1) if bias.ndim else bias)
        self.write("Add", [x, shift], output)
        return True

    def outer(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """ScaledTanh and ParametricSoftplus: ``alpha f(beta x)``."""
        output, inner = str(node.output[0]), {"ScaledTanh": "Tanh", "ParametricSoftplus": "Softplus"}[node.op_type]
        if not {"alpha", "beta"} <= set(given):
            return False
        alpha, beta = (
            self.constant(f"{output}/{name}", np.array(given[name], np.float32)) for name in ("alpha", "beta")
        )
        x = self._inner("Mul", [node.input[0], beta], f"{output}/scaled")
        self.write("Mul", [self._inner(inner, [x], f"{output}/mapped"), alpha], output)
        return True

    def thresholded(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """``x`` where it is above alpha, else 0, before it was in the standard."""
        if self.opset >= _THRESHOLDED:
            return False
        output, x = str(node.output[0]), node.input[0]
        alpha = self.constant(f"{output}/alpha", np.array(given.get("alpha", 1.0), np.float32))
        above = self._inner("Greater", [x, alpha], f"{output}/above")
        kept = self._inner("Cast", [above], f"{output}/kept", to=TensorProto.FLOAT)
        self.write("Mul", [x, kept], output)
        return True

    def crop(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """Rows and columns taken off at the left, top, right and bottom."""
        border = given.get("border", ())
        if len(border) != 4 or "scale" in given:
            return False
        left, top, right, bottom = border
        bounds: dict[str, Any] = {"starts": [top, left], "ends": [-bottom or _FAR, -right or _FAR], "axes": [2, 3]}
        output = str(node.output[0])
        if self.opset < _SLICE_BOUNDS:
            self.write("Slice", node.input[:1], output, **bounds)
        else:
            told = [self.constant(f"{output}/{word}", np.array(values)) for word, values in bounds.items()]
            self.write("Slice", [node.input[0], *told], output)
        return True

    def batch_normalization(self, node: onnx.NodeProto, given: dict[str, Any]) -> bool:
        """With a scale for every place, as up to opset 8: a product and a sum."""
        if self.opset >= _SPATIAL or given.get("spatial", 1) or any(node.output[1:]):
            return False
        values = [self.array(name) for name in node.input[1:]]
        known = [value.astype(np.float64) for value in values if value is not None]
        if len(known) != 4:
            return False
        scale, bias, mean, variance = known
        factor = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
        output = str(node.output[0])
        told = [
            self.constant(f"{output}/{word}", each.astype(np.float32))
            for word, each in (("factor", factor), ("offset", bias - mean * factor))
        ]
        self.write("Add", [self._inner("Mul", [node.input[0], told[0]], f"{output}/scaled"), told[1]], output)
        return True

    # --- building -------------------------------------------------------------------------------------------------

    def _inner(self, op_type: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Write a node between others, whose output gets a name of its own."""
        return self.write(op_type, inputs, self.fresh(name), **attributes)


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

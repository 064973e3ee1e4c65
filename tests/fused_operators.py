"""Models of one fused operator of ONNX Runtime each, in the forms that its optimisers write."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VENDOR = "com.microsoft"
RNG = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


@dataclass
class Case:
    """An operator on 'x' of a shape (behind the batch), and constants; strings among the inputs are tensors."""

    op_type: str
    shape: Sequence[int]
    inputs: Sequence[Any] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ("y",)
    opset: int = 17
    domain: str = VENDOR
    before: Sequence[onnx.NodeProto] = ()
    half: bool = False
    rank: int | None = None

    def model(self) -> onnx.ModelProto:
        kind = TensorProto.FLOAT16 if self.half else TensorProto.FLOAT
        names, constants = [], []
        for place, each in enumerate(self.inputs or ["x"]):
            names.append(each if isinstance(each, str) else f"c{place}")
            if not isinstance(each, str):
                typed = each.astype(np.float16) if self.half and each.dtype == np.float32 else each
                constants.append(numpy_helper.from_array(np.asarray(typed), names[-1]))
        node = helper.make_node(self.op_type, names, list(self.outputs), domain=self.domain, **self.attributes)
        graph = helper.make_graph(
            [*self.before, node],
            "one",
            [helper.make_tensor_value_info("x", kind, ["N", *self.shape])],
            [
                helper.make_tensor_value_info(name, kind, [None] * (self.rank or 1 + len(self.shape)))
                for name in self.outputs
                if name
            ],
            constants,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(VENDOR, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _convolutions() -> dict[str, Case]:
    w, b = normal(5, 4, 3, 3), normal(5)
    found = {
        f"conv {name}": Case("FusedConv", (4, 6, 7), ["x", w, b], {"activation": name, **more})
        for name, more in {
            "Relu": {},
            "Sigmoid": {"pads": [1, 0, 1, 2], "strides": [2, 1]},
            "Tanh": {"dilations": [2, 1]},
            "LeakyRelu": {"activation_params": [0.3]},
            "HardSigmoid": {"activation_params": [0.3, 0.4]},
            "Clip": {"activation_params": [-0.2, 0.7]},
        }.items()
    }
    found["conv, old bounds"] = Case(
        "FusedConv", (4, 6, 7), ["x", w, b], {"activation": "Clip", "activation_params": [-0.2, 0.7]}, opset=9
    )
    found["conv, sum"] = Case("FusedConv", (5, 6, 7), ["x", normal(5, 5, 3, 3), b, "x"], {"pads": [1] * 4})
    found["conv, sum without bias"] = Case(
        "FusedConv", (5, 6, 7), ["x", normal(5, 5, 3, 3), "", "x"], {"pads": [1] * 4, "activation": "Relu"}
    )
    return found


def _products() -> dict[str, Case]:
    swapped = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3])]
    batch = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2])]
    back = {"transBatchA": 1}
    found = {
        "gemm": Case("FusedGemm", (4,), ["x", normal(5, 4), normal(5)], {"transB": 1, "activation": "Relu"}),
        "gemm, leaky": Case(
            "FusedGemm",
            (4,),
            ["x", normal(4, 5), normal(5)],
            {"activation": "LeakyRelu", "activation_alpha": 0.3, "alpha": 0.5, "beta": 2.0},
        ),
        "gemm, no bias": Case("FusedGemm", (4,), ["x", normal(4, 5)], {"activation": "Sigmoid"}),
        "matrix, alpha": Case("FusedMatMul", (3, 4), ["x", normal(4, 5)], {"alpha": 0.25}),
        "matrix, turned": Case("FusedMatMul", (3, 4), ["x", normal(5, 4)], {"transB": 1}),
        "matrix, both turned": Case("FusedMatMul", (4, 3), ["x", normal(5, 4)], {"transA": 1, "transB": 1}),
        "matrices of data": Case("FusedMatMul", (2, 3, 4), ["x", "x"], {"transB": 1, "alpha": 0.125}),
        "matrices, old name": Case("TransposeMatMul", (2, 3, 4), ["x", "x"], {"transA": 1}),
        "stack behind": Case("FusedMatMul", (3, 4), ["t", normal(1, 4, 5)], back, before=batch),
        "stack behind, turned": Case("FusedMatMul", (3, 4), ["t", "x"], {**back, "transA": 1}, before=batch),
        "stacks, four axes": Case("FusedMatMul", (3, 2, 4), ["t", "t"], {"transB": 1}, before=swapped),
    }
    return found


def _gates() -> dict[str, Case]:
    found = {}
    for opset in (13, 20):
        found |= {
            f"gelu {opset}": Case("Gelu", (3, 4), opset=opset),
            f"gelu, bias {opset}": Case("BiasGelu", (3, 4), ["x", normal(4)], opset=opset),
            f"fast {opset}": Case("FastGelu", (3, 4), opset=opset),
            f"fast, bias {opset}": Case("FastGelu", (3, 4), ["x", normal(4)], opset=opset),
        }
    found["quick"] = Case("QuickGelu", (3, 4))
    found["quick, slope"] = Case("QuickGelu", (3, 4), attributes={"alpha": 1.0})
    return found


def _normalisations() -> dict[str, Case]:
    g, b, c = 1 + 0.3 * normal(6), normal(6), normal(6)
    four = ("y", "", "", "s")
    found = {}
    for opset in (11, 17, 18, 23):
        found |= {
            f"skip {opset}": Case("SkipLayerNormalization", (3, 6), ["x", "x", g, b], {"epsilon": 1e-5}, opset=opset),
            f"skip, bias, sum {opset}": Case(
                "SkipLayerNormalization", (3, 6), ["x", normal(3, 6), g, b, c], outputs=four, opset=opset
            ),
            f"skip without shift {opset}": Case("SkipLayerNormalization", (3, 6), ["x", "x", g], opset=opset),
            f"skip, simplified {opset}": Case(
                "SkipSimplifiedLayerNormalization", (3, 6), ["x", "x", g], {"epsilon": 1e-5}, opset=opset
            ),
            f"skip, simplified, bias {opset}": Case(
                "SkipSimplifiedLayerNormalization", (3, 6), ["x", "x", g, c], outputs=four, opset=opset
            ),
            f"simplified {opset}": Case(
                "SimplifiedLayerNormalization", (3, 6), ["x", g], {"epsilon": 1e-4}, opset=opset, domain=""
            ),
        }
    found["layer 11"] = Case("LayerNormalization", (3, 6), ["x", g, b], {"axis": -1}, opset=11, domain="")
    found["layer, axes"] = Case(
        "LayerNormalization", (3, 6), ["x", normal(3, 6), normal(3, 6)], {"axis": 1}, opset=14, domain=""
    )
    found["skip, half"] = Case("SkipLayerNormalization", (3, 6), ["x", "x", g, b], opset=13, half=True)
    return found


def _attentions() -> dict[str, Case]:
    apart = [helper.make_node("Split", ["x"], ["q", "k", "v"], axis=2)]
    heads = [
        helper.make_node("Reshape", ["x", "sides"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
    ]
    sides = numpy_helper.from_array(np.array([0, 0, 2, 3]), "sides")
    constant = helper.make_node("Constant", [], ["sides"], value=sides)
    two = {"num_heads": 2}
    w, b = normal(6, 18), normal(18)
    found = {f"attention {opset}": Case("Attention", (5, 6), ["x", w, b], two, opset=opset) for opset in (11, 17)}
    return found | {
        "attention, scale, added": Case(
            "Attention", (5, 6), ["x", w, b, "", "", normal(1, 2, 5, 5)], {**two, "scale": 0.3}
        ),
        "attention, widths": Case(
            "Attention", (5, 6), ["x", normal(6, 4 + 4 + 8), normal(16)], {**two, "qkv_hidden_sizes": [4, 4, 8]}
        ),
        "heads": Case("MultiHeadAttention", (5, 18), ["q", "k", "v"], two, before=apart),
        "heads, bias": Case("MultiHeadAttention", (5, 18), ["q", "k", "v", normal(18)], two, before=apart),
        "heads, added": Case(
            "MultiHeadAttention", (5, 18), ["q", "k", "v", "", "", normal(1, 2, 5, 5)], two, before=apart
        ),
        "heads, turned": Case(
            "MultiHeadAttention", (5, 6), ["x", "t", "t"], {**two, "scale": 0.2}, before=[constant, *heads]
        ),
    }


def packed(rows: int, cols: int, block: int, bits: int = 4) -> list[np.ndarray]:
    """Weights of a few bits, their scales and zero points."""
    blocks = -(-cols // block)
    codes = RNG.integers(0, 256, (rows, blocks, block * bits // 8)).astype(np.uint8)
    zeros = RNG.integers(0, 256, (rows, -(-blocks * bits // 8))).astype(np.uint8)
    return [codes, RNG.uniform(0.01, 0.05, (rows, blocks)).astype(np.float32), zeros]


def _renamed() -> dict[str, Case]:
    few = {"K": 40, "N": 3, "bits": 4, "block_size": 16}
    codes, scales, zeros = packed(3, 40, 16)
    eight = packed(3, 32, 16, 8)
    angles = normal(7, 3)
    tables = [np.cos(angles), np.sin(angles)]
    scale, zero = np.float32(0.05), np.uint8(100)
    coded = helper.make_node("QuantizeLinear", ["x", "c1", "c2"], ["q"], domain=VENDOR)
    found = {
        "triangle": Case("Trilu", (3, 4), ["x", np.array(1)], {"upper": 0}),
        "pad": Case("Pad", (3, 4), ["x", np.array([0, 1, 2, 0, 0, 1]), np.float32(0.5)]),
        "sampled": Case("GridSample", (2, 4, 5), ["x", np.tanh(normal(3, 2, 3, 2))], {"mode": "bilinear"}),
        "sampled 20": Case(
            "GridSample",
            (2, 4, 5),
            ["x", np.tanh(normal(3, 2, 3, 2))],
            {"mode": "bicubic", "align_corners": 1},
            opset=20,
        ),
        "more axes": Case("ExpandDims", (3, 4), ["x", np.array(1, np.int32)], rank=4),
        "codes and back": Case("DequantizeLinear", (3, 4), ["q", scale, zero], before=[coded]),
        "sixteen bits": Case("DequantizeLinear", (3, 4), ["q", scale, np.uint16(9000)], before=[coded], opset=21),
        "transposed": Case(
            "ConvTransposeWithDynamicPads",
            (2, 4, 5),
            ["x", normal(2, 3, 3, 3), np.array([1, 0, 1, 1])],
            {"strides": [2, 2]},
        ),
        "four bits": Case("MatMulNBits", (2, 40), ["x", codes, scales], few),
        "four bits, zero points": Case("MatMulNBits", (2, 40), ["x", codes, scales, zeros], few),
        "four bits, bias": Case("MatMulNBits", (2, 40), ["x", codes, scales, "", "", normal(3)], few),
        "eight bits": Case("MatMulNBits", (2, 32), ["x", *eight], {"K": 32, "N": 3, "bits": 8, "block_size": 16}),
    }
    for name, more in {"turned": {}, "turned in pairs": {"interleaved": 1}}.items():
        found[name] = Case("RotaryEmbedding", (2, 4, 6), ["x", np.array([2]), *tables], more)
        found[f"{name}, lined"] = Case(
            "RotaryEmbedding", (4, 12), ["x", np.array([1]), *tables], {**more, "num_heads": 2}
        )
    return found


CASES = {**_renamed(), **_convolutions(), **_products(), **_gates(), **_normalisations(), **_attentions()}

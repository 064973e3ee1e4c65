"""The rule of every operator through which rows and columns can be followed."""

from collections.abc import Callable

from onnx_evidence.axes import meeting, mixing, moving
from onnx_evidence.axes.reading import Reading
from onnx_evidence.graphs import ACTIVATIONS, SLIDING, Layout, fits

Rule = Callable[[Reading], Layout | None]

_MEETING = ACTIVATIONS | frozenset(
    "Add Sub Mul Div Pow Sum Max Min Mean Erf Softsign ThresholdedRelu Neg Abs Sqrt Exp Log Reciprocal Where Sin Cos "
    "Sign Floor Ceil Round Shrink Greater Less Equal Mod Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh".split()
)
_SAME = frozenset(
    "BatchNormalization LRN Dropout Identity Cast QuantizeLinear DequantizeLinear DynamicQuantizeLinear Trilu "
    "RotaryEmbedding".split()
)
_NORMAL = frozenset(
    "LayerNormalization RMSNormalization InstanceNormalization GroupNormalization Softmax LogSoftmax Hardmax "
    "LpNormalization MeanVarianceNormalization".split()
)
_REDUCING = frozenset(
    "ReduceMean ReduceMax ReduceMin ReduceSum ReduceL2 ReduceSumSquare ReduceL1 ReduceLogSum ReduceLogSumExp "
    "ReduceProd".split()
)

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_MEETING, meeting.meet),
    **dict.fromkeys(_SAME, moving.same),
    **dict.fromkeys(_NORMAL, mixing.normal),
    **dict.fromkeys(_REDUCING, mixing.reduce),
    **dict.fromkeys(SLIDING, mixing.slide),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), mixing.pool_all),
    **dict.fromkeys(("ConvTranspose", "Resize", "Upsample", "CenterCropPad"), mixing.resample),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth", "DeformConv"), mixing.rearrange),
    **dict.fromkeys(("Expand", "Tile"), meeting.spread),
    **dict.fromkeys(("Reshape", "Flatten"), moving.reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), moving.squeeze),
    "CumSum": mixing.accumulate,
    "Pad": mixing.pad,
    "MatMul": mixing.product,
    "MatMulInteger": mixing.product,
    "Gemm": mixing.gemm,
    "Einsum": mixing.einsum,
    "Attention": mixing.attend,
    "Transpose": moving.transpose,
    "Concat": moving.concat,
    "Slice": moving.slice_,
    "Split": moving.split,
    "Gather": moving.gather,
}
# Operators whose output has at every token what its first input has there, or others that meet it there: a product of
# queries and keys belongs to the queries.
LOCAL = frozenset(name for name, rule in _RULES.items() if rule in (meeting.meet, moving.same, moving.transpose)) | {
    "LayerNormalization",
    "RMSNormalization",
    "MatMul",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Softmax",
    "Split",
    "Gather",
    "Slice",
}


def follow(reading: Reading) -> Layout | None:
    """The layout of a node's output; None where rows and columns cannot be followed."""
    rule = _RULES.get(reading.node.op_type)
    layout = rule(reading) if rule is not None and reading.result else None
    return layout if layout is not None and fits(layout, reading.result) else None

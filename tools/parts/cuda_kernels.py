"""Which operators ONNX Runtime's CUDA provider computes, and which nodes of a graph it would therefore leave.

From the list that ONNX Runtime publishes of itself (docs/OperatorKernels.md of its repository, of version 1.24):
standard operators of opset 13 and newer, by the types of what they compute with.
"""

import onnx
from onnx import TensorProto

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16})
_WHOLE = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64})
_SMALL = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16})
_BOOL = frozenset({TensorProto.BOOL})
_ALL = _FLOATS | _WHOLE | _SMALL | _BOOL
_INT = frozenset({TensorProto.INT32, TensorProto.INT64})

_BY_TYPES = {
    _FLOATS: (
        "Affine ArgMax ArgMin AveragePool BatchNormalization Ceil Conv ConvTranspose Cos DepthToSpace Dropout Einsum "
        "Elu Erf Exp Floor Gelu Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish InstanceNormalization LRN "
        "LayerNormalization LeakyRelu Log LogSoftmax MatMul PRelu RMSNormalization Reciprocal ReduceLogSum "
        "ReduceLogSumExp ReduceSumSquare Relu Round Selu Sigmoid Sin Softmax Softplus Softsign SpaceToDepth Sqrt Sum "
        "Tanh ThresholdedRelu"
    ),
    _FLOATS | _WHOLE: "CumSum Greater GreaterOrEqual Less LessOrEqual Max Min Mod",
    _FLOATS | _INT: "Pow ReduceMax ReduceMin ReduceSum Tile TopK Range",
    _FLOATS | {TensorProto.INT32}: "ReduceL1 ReduceL2 ReduceMean ReduceProd",
    _FLOATS | _WHOLE | _BOOL: "Equal",
    _FLOATS | _BOOL: "Pad",
    _FLOATS | {TensorProto.INT64, TensorProto.UINT64, TensorProto.INT8, TensorProto.UINT8}: "Clip",
    _FLOATS | {TensorProto.INT8, TensorProto.UINT8}: "MaxPool",
    _FLOATS | {TensorProto.INT32, TensorProto.UINT8}: "Resize",
    _FLOATS | _INT | {TensorProto.UINT8}: "Where",
    _FLOATS | _WHOLE | _SMALL: "Abs Add Div Mul Shrink Sign Sub",
    _FLOATS | _INT | {TensorProto.INT8, TensorProto.INT16}: "Neg",
    _FLOATS | _INT | _BOOL | {TensorProto.UINT8}: "NonZero",
    _FLOATS | {TensorProto.INT64, TensorProto.BOOL}: "GatherND",
    _BOOL: "And Not Or Xor",
    frozenset({TensorProto.FLOAT}): "GridSample",
    frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64}): "OneHot",
    frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT, TensorProto.FLOAT16}): (
        "DequantizeLinear QuantizeLinear"
    ),
    frozenset({TensorProto.INT8}): "MatMulInteger",
    _ALL: (
        "Cast Compress Concat ConstantOfShape Expand Flatten Gather GatherElements Identity Reshape ReverseSequence "
        "ScatterElements ScatterND Shape Size Slice Split Squeeze Transpose Trilu Unsqueeze Constant"
    ),
}
KERNELS = {name: types for types, names in _BY_TYPES.items() for name in names.split()}
# Whose first input is not what they compute with.
_SECOND = frozenset({"Where"})


def typed(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all tensors, as far as shape inference finds them."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def left(model: onnx.ModelProto) -> dict[str, int]:
    """Nodes that the CUDA provider would leave to the CPU, counted by operator and type, in words."""
    types, found = typed(model), dict[str, int]()
    for node in model.graph.node:
        names = node.input[1:] if node.op_type in _SECOND else node.input
        kind = (types.get(names[0]) if names else None) or TensorProto.FLOAT  # where inference does not know
        if node.domain not in ("", "ai.onnx") or kind not in KERNELS.get(node.op_type, ()):
            words = f"{node.op_type} of {TensorProto.DataType.Name(kind).lower()}"
            found[words] = found.get(words, 0) + 1
    return found

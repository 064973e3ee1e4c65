"""Operators that ONNX Runtime's optimisers fuse, spelt out in standard ones: cuts, axes and gradients exist for these.

What each computes is said in onnxruntime/docs/ContribOperators.md. An operator of which a rule does not know an
attribute or an input stays as it is. Those that the CPU has no kernel for have no rule: nothing could be proved.
"""

import math
from collections.abc import Callable, Sequence

import onnx
from onnx import TensorProto

from onnx_evidence.intake import renamed
from onnx_evidence.intake.fused import Form, Fused, Rule, Spelling, UnknownFormError
from onnx_evidence.intake.trial import VENDOR

_CONVOLUTION = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
# Attributes of each activation in the order of `activation_params`.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSwish"), ()),
    **dict.fromkeys(("LeakyRelu", "Elu", "ThresholdedRelu"), ("alpha",)),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
    "Clip": ("min", "max"),
}
# Since when there are: bounds of Clip as inputs; LayerNormalization; Gelu; RMSNormalization.
_CLIP_GIVEN, _LAYER, _GELU, _RMS = 11, 17, 20, 23
_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def spell_out(proto: onnx.ModelProto, image: str, batch: int | None) -> int:
    """Write fused operators as standard ones, in place, where their rules know them; how many were written anew.

    Constants are initializers already; ``batch`` is the size that the graph insists on.
    """
    if all(node.domain != VENDOR or node.op_type not in _FORMS for node in proto.graph.node):
        return 0
    spelling = Spelling(proto, image, batch)
    written = sum(spell(spelling, node) for node in spelling.take())
    spelling.finish()
    return written


def spell(spelling: Spelling, node: onnx.NodeProto) -> bool:
    """Write one node, as its rule says, or as it is; whether a rule was followed."""
    form = _FORMS.get(node.op_type) if node.domain == VENDOR else None
    if form is not None and form.fits(node) and spelling.spell(node, form.rule):
        return True
    spelling.add(node)
    return False


def activate(step: Fused, x: str, name: str, given: Sequence[float]) -> str:
    """What a fused activation makes of a tensor; its operator ``name`` is '' or 'Identity' for none.

    ``given`` are its attributes in the order of `activation_params`, none of them for the defaults. `UnknownFormError`
    if there is no such activation, or it has other attributes.
    """
    if name in ("", "Identity"):
        return x
    if name not in _ACTIVATIONS or len(given) not in (0, len(_ACTIVATIONS[name])):
        raise UnknownFormError
    if name == "Clip" and step.opset >= _CLIP_GIVEN:
        return step.op(name, x, *(step.number(bound, x) for bound in given))
    return step.op(name, x, **dict(zip(_ACTIVATIONS[name], given, strict=False)))


def _convolution(step: Fused) -> list[str]:
    """Conv, a sum, an activation."""
    y = step.op("Conv", *(step.input(index) for index in range(3)), **step.attributes(_CONVOLUTION))
    if step.has(3):
        y = step.op("Add", y, step.input(3))
    return [activate(step, y, step.attribute("activation", ""), step.attribute("activation_params", []))]


def _named_parameters(step: Fused, name: str) -> list[float]:
    """Attributes of an activation that are listed by name, all or none of them."""
    values = [step.attribute(f"activation_{each}") for each in _ACTIVATIONS.get(name, ())]
    return [value for value in values if value is not None]


def _gemm(step: Fused) -> list[str]:
    y = step.op("Gemm", *step.node.input, **step.attributes(("alpha", "beta", "transA", "transB")))
    name = step.attribute("activation", "")
    return [activate(step, y, name, _named_parameters(step, name))]


def _matmul(step: Fused) -> list[str]:
    """A product of matrices that are transposed first, times a number."""
    sides = [_turned(step, place, letter) for place, letter in enumerate("AB")]
    return [step.scaled(step.op("MatMul", *sides), step.attribute("alpha", 1.0))]


def _turned(step: Fused, place: int, letter: str) -> str:
    """A factor: first its first axis behind those of the batch, then its last two axes transposed."""
    turned, batch = step.attribute(f"trans{letter}", 0), step.attribute(f"transBatch{letter}", 0)
    name = step.input(place)
    rank = step.spelling.rank(name) if turned or batch else 0
    if rank < 2:  # a vector is never transposed
        return name
    perm = list(range(rank))
    if batch:
        perm = [*perm[1:-1], perm[0], perm[-1]]
    if turned:
        perm = [*perm[:-2], perm[-1], perm[-2]]
    return name if perm == sorted(perm) else step.transpose(name, *perm)


def _gelu(step: Fused, x: str, *, exact: bool) -> str:
    """``x`` times the normal distribution up to it, or its approximation by a tanh."""
    if step.opset >= _GELU:
        return step.op("Gelu", x, approximate="none" if exact else "tanh")
    if exact:
        gate = step.op("Erf", step.op("Div", x, step.number(math.sqrt(2), x)))
    else:
        cube = step.scaled(step.op("Mul", step.op("Mul", x, x), x), 0.044715)
        gate = step.op("Tanh", step.scaled(step.op("Add", x, cube), math.sqrt(2 / math.pi)))
    return step.scaled(step.op("Mul", x, step.op("Add", gate, step.number(1, x))), 0.5)


def _of_sum(*, exact: bool) -> Rule:
    """Gelu and its like, of an input and maybe a bias."""

    def rule(step: Fused) -> list[str]:
        x = step.op("Add", step.input(0), step.input(1)) if step.has(1) else step.input(0)
        return [_gelu(step, x, exact=exact)]

    return rule


def _quick_gelu(step: Fused) -> list[str]:
    x = step.input(0)
    return [step.op("Mul", x, step.op("Sigmoid", step.scaled(x, step.attribute("alpha", 1.702))))]


def _normal(step: Fused, x: str, scale: str, shift: str, *, epsilon: float, axis: int = -1) -> str:
    """LayerNormalization."""
    if step.opset >= _LAYER:
        return step.op("LayerNormalization", x, scale, shift, axis=axis, epsilon=epsilon)
    axes = _behind(step, x, axis)
    y = _in_full(step, x, lambda wide: _divided(step, step.op("Sub", wide, step.mean(wide, axes)), axes, epsilon))
    y = step.op("Mul", y, scale)
    return step.op("Add", y, shift) if shift else y


def _rms(step: Fused, x: str, scale: str, *, epsilon: float, axis: int = -1) -> str:
    """RMSNormalization."""
    if step.opset >= _RMS:
        return step.op("RMSNormalization", x, scale, axis=axis, epsilon=epsilon)
    axes = _behind(step, x, axis)
    return step.op("Mul", _in_full(step, x, lambda wide: _divided(step, wide, axes, epsilon)), scale)


def _behind(step: Fused, x: str, axis: int) -> list[int]:
    """Axes from one on, counted from the last."""
    return list(range(axis if axis < 0 else axis - step.spelling.rank(x), 0))


def _in_full(step: Fused, x: str, compute: Callable[[str], str]) -> str:
    """What is computed in float32, in the type that was."""
    kind = step.spelling.kind(x)
    if kind not in _HALVES:
        return compute(x)
    return step.op("Cast", compute(step.op("Cast", x, to=TensorProto.FLOAT)), to=kind)


def _divided(step: Fused, x: str, axes: Sequence[int], epsilon: float) -> str:
    """A tensor divided by the root of the mean of its squares."""
    square = step.mean(step.op("Mul", x, x), axes)
    return step.op("Div", x, step.op("Sqrt", step.op("Add", square, step.number(epsilon, x))))


def _layer(step: Fused) -> list[str]:
    given = {"epsilon": step.attribute("epsilon", 1e-5), "axis": step.attribute("axis", -1)}
    return [_normal(step, step.input(0), step.input(1), step.input(2), **given)]


def _simplified(step: Fused) -> list[str]:
    given = {"epsilon": step.attribute("epsilon", 1e-5), "axis": step.attribute("axis", -1)}
    return [_rms(step, step.input(0), step.input(1), **given)]


def _skip(step: Fused) -> list[str | None]:
    """A block's output: what it adds, its bias, what it is added to; and that normalised."""
    total = _added(step, bias=4)
    y = _normal(step, total, step.input(2), step.input(3), epsilon=step.attribute("epsilon", 1e-12))
    return [y, None, None, total]


def _skip_simplified(step: Fused) -> list[str | None]:
    total = _added(step, bias=3)
    return [_rms(step, total, step.input(2), epsilon=step.attribute("epsilon", 1e-12)), None, None, total]


def _added(step: Fused, bias: int) -> str:
    x = step.op("Add", step.input(0), step.input(bias)) if step.has(bias) else step.input(0)
    return step.op("Add", x, step.input(1))


def _attention(step: Fused) -> list[str]:
    """Queries, keys and values by one product with a constant; no mask, nothing past."""
    if any(step.has(index) for index in (3, 4, 6)) or any(map(step.attribute, ("unidirectional", "do_rotary"))):
        raise UnknownFormError
    joint = step.op("MatMul", step.input(0), step.input(1))
    joint = step.op("Add", joint, step.input(2)) if step.has(2) else joint
    width = step.spelling.shape(step.input(1))[-1] or 0
    sides = step.attribute("qkv_hidden_sizes") or [width // 3] * 3
    parts = step.split(joint, sides, 2)
    return [_looked(step, [_by_heads(step, part) for part in parts], sides, step.input(5))]


def _by_heads(step: Fused, x: str) -> str:
    """(batch, tokens, width) to (batch, heads, tokens, channels)."""
    return step.transpose(step.reshape(x, 0, 0, step.attribute("num_heads"), -1), 0, 2, 1, 3)


def _looked(step: Fused, parts: Sequence[str], sides: Sequence[int], bias: str) -> str:
    """What queries find among keys and values of every head: (batch, tokens, width)."""
    query, key, value = parts
    factor = step.attribute("scale", 0.0) or 1 / math.sqrt(sides[0] // step.attribute("num_heads"))
    scores = step.scaled(step.op("MatMul", query, step.transpose(key, 0, 1, 3, 2)), factor)
    scores = step.op("Add", scores, bias) if bias else scores
    found = step.op("MatMul", step.op("Softmax", scores, axis=3), value)
    return step.reshape(step.transpose(found, 0, 2, 1, 3), 0, 0, sides[2])


def _heads(step: Fused) -> list[str]:
    """MultiHeadAttention: queries, keys and values that were projected before; packed ones no CPU has a kernel for."""
    if any(step.has(index) for index in (4, 6, 7, 8, 9)) or step.attribute("unidirectional", 0):
        raise UnknownFormError
    sides = [_width(step, index) for index in range(3)]
    names = [step.input(index) for index in range(3)]
    if step.has(3):
        biases = step.split(step.input(3), sides, 0)
        names = [step.op("Add", name, bias) for name, bias in zip(names, biases, strict=True)]
    return [_looked(step, [_apart(step, name) for name in names], sides, step.input(5))]


def _width(step: Fused, index: int) -> int:
    """Channels of all heads of queries, keys or values: (batch, tokens, width) or (batch, heads, tokens, channels)."""
    if not step.has(index):
        raise UnknownFormError
    shape = step.spelling.shape(step.input(index))
    if len(shape) not in (3, 4) or (len(shape) == 4 and step.has(3)):
        raise UnknownFormError
    return (shape[-1] or 0) * (step.attribute("num_heads") if len(shape) == 4 else 1)


def _apart(step: Fused, name: str) -> str:
    return name if step.spelling.rank(name) == 4 else _by_heads(step, name)


_HEADS = ("num_heads", "scale", "unidirectional", "mask_filter_value", "do_rotary", "past_present_share_buffer")
_MATRICES = ("alpha", "transA", "transB", "transBatchA", "transBatchB")
_FORMS: dict[str, Form] = {
    "FusedConv": Form(_convolution, 2, (*_CONVOLUTION, "activation", "activation_params")),
    "FusedGemm": Form(
        _gemm,
        2,
        (*_MATRICES[:3], "beta", "activation", *(f"activation_{name}" for name in ("alpha", "beta", "gamma"))),
    ),
    "FusedMatMul": Form(_matmul, 2, _MATRICES),
    "TransposeMatMul": Form(_matmul, 2, _MATRICES),
    "Gelu": Form(_of_sum(exact=True), 1),
    "BiasGelu": Form(_of_sum(exact=True), 2),
    "FastGelu": Form(_of_sum(exact=False), 1),
    "QuickGelu": Form(_quick_gelu, 1, ("alpha",)),
    "LayerNormalization": Form(_layer, 2, ("axis", "epsilon", "stash_type")),
    "SimplifiedLayerNormalization": Form(_simplified, 2, ("axis", "epsilon", "stash_type")),
    "SkipLayerNormalization": Form(_skip, 3, ("epsilon",)),
    "SkipSimplifiedLayerNormalization": Form(_skip_simplified, 3, ("epsilon",)),
    "Attention": Form(_attention, 2, (*_HEADS, "qkv_hidden_sizes", "rotary_embedding_dim")),
    "MultiHeadAttention": Form(_heads, 1, _HEADS),
    **renamed.FORMS,
}

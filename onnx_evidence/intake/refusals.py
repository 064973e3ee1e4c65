"""Why a tensor is not the class scores of one picture: what kind of model this seems to be, and what would help."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

import onnx
from onnx import TensorProto

from onnx_evidence.graphs import Net, Shape, TensorInfo, bodies, type_name
from onnx_evidence.intake.endings import MOVES, shape_words

_INTEGERS = frozenset({TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8})
_SUPPRESSION = frozenset(
    "NonMaxSuppression EfficientNMS_TRT BatchedNMS_TRT BatchedNMSDynamic_TRT RoiAlign MaxRoiPool".split()
)
_RECURRENT = frozenset({"LSTM", "GRU", "RNN", "Scan"})
# Fewer places along an axis are steps of a sequence, more are candidates for boxes.
_MANY_PLACES = 300
# Four corners and a score for each of at least one class.
_BOX_NUMBERS = 5
# Numbers of a box, with an angle, a score, a class and a picture or without.
_CORNERS = range(4, 8)
# Operators between a vector and its length.
_BETWEEN = MOVES | frozenset("Clip Max Add Expand Sqrt Pow Mul Abs Reciprocal Div".split())

# The remedy where there is a score for every place.
_ONE_PLACE = "append to the graph what makes one row of class scores of it (a mean, or the scores of one place)"

_Facts = tuple[Net, Mapping[str, TensorInfo], str]


def why_no_scores(net: Net, tensors: Mapping[str, TensorInfo], names: Sequence[str]) -> str | None:
    """Why outputs or other tensors are not the class scores of one picture, in words, with what would help.

    What they are called has no say in it: their shapes do, and what computes them. Of several reasons the most telling
    one; None where nothing speaks against any of them.
    """
    facts: list[_Facts] = [(net, tensors, name) for name in names]
    return next((reason for look in _LOOKS for each in facts if (reason := look(each))), None)


def why_never(net: Net, tensors: Mapping[str, TensorInfo], name: str) -> str | None:
    """Why one row of numbers per picture is no class scores even where somebody says that it is; else None."""
    return _ranks((net, tensors, name))


def regression(name: str) -> str:
    """What to say of a single number that no sigmoid makes."""
    return (
        f"output {name!r} is one number per picture, and no sigmoid makes it: a regression has no classes to speak for "
        "or against; if it is the logit of one class, pass --classes independent"
    )


def _no_tensor(facts: _Facts) -> str | None:
    net, _, name = facts
    value = next((value for value in net.graph.output if value.name == name), None)
    form = None if value is None else value.type.WhichOneof("value")
    if form in (None, "tensor_type"):
        return None
    words = form.removesuffix("_type") if form else ""
    producer = net.producer.get(name)
    made = producer.input[0] if producer is not None and producer.input else None
    inside = f"; it is made of {made!r}: pass --output with what holds the scores" if made else ""
    return f"output {name!r} is a {words}, not a tensor{inside}"


def _detector(facts: _Facts) -> str | None:
    net, tensors, name = facts
    kinds = _kinds_before(net, name)
    sides = _sides(tensors, name)
    maps = {each[1:] for value in net.graph.output if len(each := _sides(tensors, value.name)) >= 3}
    if suppressed := sorted(kinds & _SUPPRESSION):
        found = f"output {name!r} has {suppressed[0]} before it"
    elif beside := _boxes_beside(net, tensors, name):
        # Either may have been looked at first; four numbers are those of a box.
        swapped = 4 in sides and 4 not in _sides(tensors, beside)
        boxes, scores = (name, beside) if swapped else (beside, name)
        found = f"output {boxes!r} with {_words(tensors, boxes)} holds a box for each of the scores in {scores!r}"
    elif _is_boxes(sides) and not kinds & _RECURRENT and not _is_softmax(net, name):
        found = f"output {name!r} has {_words(tensors, name)}: some numbers for each of many boxes"
    elif len(sides) >= 3 and len(maps) > 1:
        found = "its outputs are maps of several sizes"
    else:
        return None
    is_row = sum(side != 1 for side in sides) == 1
    way_out = f", or pass --output {name} if it holds scores of the whole picture" if is_row else ""
    return (
        f"this is a detector ({found}), not a classifier of whole pictures: explain a classifier of its crops{way_out}"
    )


def _kinds_before(net: Net, name: str) -> set[str]:
    """Operators that a tensor comes from, those inside of branches and loops too."""
    found: set[str] = set()
    waiting = [*net.ancestors(name)]
    while waiting:
        node = waiting.pop()
        found.add(node.op_type)
        for graph in bodies(node):
            waiting += graph.node
    return found


def _boxes_beside(net: Net, tensors: Mapping[str, TensorInfo], name: str) -> str | None:
    """Another output, with the numbers of a box for each place of this one; of a softmax over classes it is none."""
    sides = _sides(tensors, name)
    places = [side for side in sides if side != 1]
    if not 0 < len(places) <= 2 or (len(places) == 1 and _is_softmax(net, name)):
        return None
    for value in net.graph.output:
        other = _sides(tensors, value.name)
        if value.name == name or len(other) != 2:
            continue
        for place, numbers in (other, other[::-1]):
            many = place is None or place >= _MANY_PLACES
            boxes = numbers in _CORNERS or (many and numbers is not None and _CORNERS.start <= numbers < (place or inf))
            if boxes and place in places and place != 1 and other != sides:
                return str(value.name)
    return None


def _is_boxes(sides: Shape) -> bool:
    """Whether there are a few numbers for each of very many places."""
    if len(sides) != 2 or None in sides:
        return False
    few, many = sorted(side or 0 for side in sides)
    return many >= _MANY_PLACES and _BOX_NUMBERS <= few < many


def _is_softmax(net: Net, name: str) -> bool:
    node = _maker(net, name)
    return node is not None and node.op_type in ("Softmax", "LogSoftmax")


def _ranks(facts: _Facts) -> str | None:
    """ArgMax and TopK: the winners without the scores."""
    net, tensors, name = facts
    node = _maker(net, name)
    if node is not None and node.op_type in ("ArgMax", "ArgMin", "TopK"):
        words = "the best classes" if node.op_type == "TopK" else "the winner's number"
        return (
            f"output {name!r} holds {words} ({node.op_type}), not the scores of all classes; they are in "
            f"{node.input[0]!r}: pass --output {node.input[0]}"
        )
    info = tensors.get(name)
    if info is not None and info.elem_type in _INTEGERS:
        return f"output {name!r} holds whole numbers, not class scores: export the scores before they are rounded"
    return None


def is_time_first(shape: Shape) -> bool:
    """Whether the pictures are not along the first axis: that is as long for one picture as for many."""
    return len(shape) > 2 and shape[0] is not None and shape[0] > 1


def _sequence(facts: _Facts) -> str | None:
    net, tensors, name = facts
    sides = _sides(tensors, name)
    time_first = name in tensors and is_time_first(tensors[name].shape)
    if not time_first and (len(sides) != 2 or 1 in sides):
        return None
    recurrent = sorted(_kinds_before(net, name) & _RECURRENT)
    if recurrent or time_first or _is_softmax(net, name):
        how = f", with {recurrent[0]} inside" if recurrent else ""
        kind = f"class scores for every step of a sequence (a recogniser of text or speech{how})"
    else:
        kind = "some numbers for each of many places (boxes of a detector, steps of a sequence, or tokens)"
    return f"output {name!r} has {_words(tensors, name)}: {kind}; {_ONE_PLACE}"


def _map(facts: _Facts) -> str | None:
    _, tensors, name = facts
    sides = _sides(tensors, name)
    if len(sides) < 3 or sum(side != 1 for side in sides) < 2:
        return None
    words = _words(tensors, name)
    return f"output {name!r} has {words}: scores for every place of a map (a segmenter, or features); {_ONE_PLACE}"


def _embedding(facts: _Facts) -> str | None:
    net, _, name = facts
    node = _maker(net, name)
    if node is None or not (node.op_type == "LpNormalization" or _is_divided_by_length(net, node)):
        return None
    return (
        f"output {name!r} is a vector of length 1 ({node.op_type} at {node.output[0]!r}): an embedding, whose numbers "
        "are no classes; append the similarities to the things it is compared with as class scores"
    )


def _is_divided_by_length(net: Net, node: onnx.NodeProto) -> bool:
    """``x / ||x||``, whatever is done in between to keep the length from being 0."""
    if node.op_type not in ("Div", "Mul") or len(node.input) < 2:
        return False
    first, second = node.input[:2]
    return _is_length_of(net.producer, second, first) or _is_length_of(net.producer, first, second)


def _is_length_of(producer: Mapping[str, onnx.NodeProto], length: str, vector: str) -> bool:
    """Whether a tensor is the length of a vector, or made of that by a few operators."""
    for _ in range(len(_BETWEEN)):
        maker = producer.get(length)
        if maker is None:
            return False
        if maker.op_type in ("ReduceL2", "ReduceSumSquare"):
            return bool(maker.input[0] == vector)
        if maker.op_type == "ReduceSum":
            square = producer.get(maker.input[0])
            return square is not None and square.op_type in ("Mul", "Pow") and square.input[0] == vector
        if maker.op_type not in _BETWEEN:
            return False
        length = next((each for each in maker.input if each in producer), "")
    return False


def _other_shape(facts: _Facts) -> str | None:
    _, tensors, name = facts
    info = tensors.get(name)
    if info is None:
        return None
    if info.elem_type not in (
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.BFLOAT16,
    ):
        kind = type_name(info.elem_type)
        return f"output {name!r} holds {kind}, not class scores"
    if not info.shape:
        return f"output {name!r} is a single number, whatever the number of pictures"
    return None


_LOOKS: tuple[Callable[[_Facts], str | None], ...] = (
    _detector,
    _no_tensor,
    _ranks,
    _sequence,
    _map,
    _embedding,
    _other_shape,
)


def _maker(net: Net, name: str) -> onnx.NodeProto | None:
    """The node that made the values of a tensor."""
    node = net.producer.get(name)
    while node is not None and node.op_type in MOVES:
        node = net.producer.get(node.input[0])
    return node


def _sides(tensors: Mapping[str, TensorInfo], name: str) -> Shape:
    """Sides of what a tensor holds of one picture."""
    return tensors[name].shape[1:] if name in tensors else ()


def _words(tensors: Mapping[str, TensorInfo], name: str) -> str:
    return f"shape {shape_words(tensors[name].shape)}"

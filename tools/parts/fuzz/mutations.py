"""What `fuzz.py` does to models and pictures: hypothesis strategies of damaged files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

# One in so many models is one of those that are given: these are large.
_RARELY = 100
_NUMBERS = (0, 1, -1, 2, 7, 255, 65535, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63))
_TEXTS = ("", "x", "input", "logits", "../x", "/etc/passwd", "\0", "\x1b[2J", "=1+1", "é" * 300, "%s%n", "..")
_PLACES = ("mutated.bin", "weights.bin", "../outside.bin", "/etc/passwd", "/dev/zero", "/proc/self/mem", "link", ".")
_OPERATORS = ("If", "Loop", "Foo", "Split", "Softmax", "Resize", "NonMaxSuppression", "Constant")


class Case(NamedTuple):
    """A damaged file.

    Attributes
    ----------
    seed : str
        What it was made from.
    steps : list of str
        What was done to it, in words.
    name : str
        The file that is opened.
    files : mapping of str to bytes
        It, and what lies beside it.
    """

    seed: str
    steps: list[str]
    name: str
    files: Mapping[str, bytes]

    def kept(self) -> Mapping[str, bytes]:
        """All files."""
        return self.files


class Choice:
    """Draws of a strategy; the first is the simplest."""

    def __init__(self, draw: st.DrawFn) -> None:
        # Not draws of their own: hypothesis would repeat one for another, and a sixth of all answers is never seen.
        self._random, self._draw = draw(st.randoms(use_true_random=False)), draw
        self.steps: list[str] = []

    def below(self, number: int) -> int:
        """A number from 0 on."""
        return self._random.randrange(number)

    def of(self, values: Sequence[Any]) -> Any:
        """One of several."""
        return values[self.below(len(values))]

    def bytes(self, length: int) -> bytes:
        """Any bytes."""
        return self._draw(st.binary(min_size=length, max_size=length))


def mutated_models(seeds: Mapping[str, Mapping[str, bytes]], also: Sequence[Path]) -> st.SearchStrategy[Case]:
    """Damaged models.

    Parameters
    ----------
    seeds : mapping of str to mapping of str to bytes
        By name, the files of a model; that of the graph is 'mutated.onnx'.
    also : sequence of Path
        Models of which one in a hundred cases is made, by mutations of bytes.

    Returns
    -------
    SearchStrategy
    """
    names = sorted(seeds)

    @st.composite
    def models(draw: st.DrawFn) -> Case:
        choose = Choice(draw)
        if also and choose.below(_RARELY) == _RARELY - 1:
            path = choose.of(also)
            return Case(path.name, choose.steps, "mutated.onnx", {"mutated.onnx": _bytes(path.read_bytes(), choose)})
        seed = choose.of(names)
        files = dict(seeds[seed])
        way = choose.below(10)
        if way < len(_WAYS):
            files["mutated.onnx"] = _message(files["mutated.onnx"], choose, _WAYS[way])
        else:
            name = "mutated.onnx" if way < 9 else choose.of(sorted(files))
            files[name] = _bytes(files[name], choose)
        return Case(seed, choose.steps, "mutated.onnx", files)

    return models()


def mutated_pictures(seeds: Mapping[str, bytes]) -> st.SearchStrategy[Case]:
    """Damaged pictures.

    Parameters
    ----------
    seeds : mapping of str to bytes
        Pictures, by their names, which end as their format wants.

    Returns
    -------
    SearchStrategy
    """
    names = sorted(seeds)

    @st.composite
    def pictures(draw: st.DrawFn) -> Case:
        choose = Choice(draw)
        seed = choose.of(names)
        name = f"mutated{Path(seed).suffix}"
        return Case(seed, choose.steps, name, {name: _bytes(seeds[seed], choose)})

    return pictures()


# Mutations of bytes


def _bytes(data: bytes, choose: Choice) -> bytes:
    changed = bytearray(data)
    for _ in range(choose.of((1, 1, 2, 4, 16))):
        # Half of the places are in the header.
        length = len(changed) + 1
        place = choose.below(length if choose.below(2) else min(length, 256))
        action = choose.below(6)
        choose.steps.append(f"byte {place}: {_ACTIONS[action]}")
        if action == 0 and changed:
            changed[place % len(changed)] ^= 1 << choose.below(8)
        elif action == 1:
            changed[place : place + 4] = choose.of(
                (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x80")
            )
        elif action == 2:
            changed[place:place] = choose.bytes(choose.of((1, 4, 64)))
        elif action == 3:
            del changed[place : place + choose.of((1, 4, 64, 4096))]
        elif action == 4:
            other = choose.below(length)
            changed[place:place] = changed[other : other + choose.of((4, 64, 1024))]
        elif choose.below(5) == 0:
            del changed[place:]
    return bytes(changed)


_ACTIONS = ("one bit", "a number", "bytes put in", "bytes taken out", "bytes from elsewhere", "the end")


# Mutations of messages


def _message(data: bytes, choose: Choice, way: Callable[[onnx.ModelProto, Choice], None]) -> bytes:
    model = onnx.load_model_from_string(data)
    way(model, choose)
    return bytes(model.SerializeToString())


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every field that is set, of a message and of all inside it."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _fields(inner)


def _some_fields(model: onnx.ModelProto, choose: Choice) -> None:
    for _ in range(choose.of((1, 1, 2, 4))):
        # Weights and names are as many as all else: first the name of a field, then one of these.
        found: dict[str, list[tuple[Any, Any]]] = {}
        for message, field in _fields(model):
            found.setdefault(field.full_name, []).append((message, field))
        if found:
            name = choose.of(sorted(found))
            choose.steps.append(name)
            _field(found[name], choose)


def _field(found: list[tuple[Any, Any]], choose: Choice) -> None:
    """Change one of the fields of a name: others of that name are what it may become."""
    message, field = choose.of(found)
    if field.is_repeated:
        others = [value for each, _ in found for value in getattr(each, field.name)]
        values = getattr(message, field.name)
        place, action = choose.below(len(values)), choose.below(4)
        if action == 0:
            del values[place]
        elif field.message_type is None:
            changed = choose.of(others) if action == 1 else _other(values[place], others, choose)
            values[place : place + (action > 1)] = [changed]
        else:
            copy = type(values[place])()
            copy.CopyFrom(choose.of(others))
            values.append(copy) if action == 1 else values[place].CopyFrom(copy)
    elif field.message_type is not None or choose.below(5) == 4:
        message.ClearField(field.name)
    elif field.enum_type is not None:
        setattr(message, field.name, choose.of(sorted(field.enum_type.values_by_number)))
    else:
        others = [getattr(each, field.name) for each, _ in found]
        setattr(message, field.name, _other(getattr(message, field.name), others, choose))


def _other(value: Any, others: Sequence[Any], choose: Choice) -> Any:
    if choose.below(2) == 0:
        return choose.of(others)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return choose.of([value + 1, value - 1, -value % 2**31, *(n for n in _NUMBERS if abs(n) < 2**31)])
    if isinstance(value, float):
        return choose.of([0.0, -value, float("nan"), float("inf"), 1e38])
    if isinstance(value, bytes):
        return _bytes(value, choose)
    return choose.of([*_TEXTS, value[::-1]])


def _outside(model: onnx.ModelProto, choose: Choice) -> None:
    """Have a weight lie in a file: anywhere, and as long as it likes."""
    tensor = choose.of(list(model.graph.initializer))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    given = {"location": choose.of(_PLACES), "offset": choose.of(("0", "-1", "x", str(2**62)))}
    given |= {"length": choose.of(("16", str(2**40), "-5", ""))} if choose.below(3) else {}
    for key, value in given.items():
        tensor.external_data.add(key=key, value=value)
    choose.steps.append(f"{tensor.name} lies in {given}")


def _put_in(model: onnx.ModelProto, choose: Choice) -> None:
    """Put an operator between two others."""
    node = choose.of(list(model.graph.node))
    operator = choose.of(_OPERATORS)
    choose.steps.append(f"{operator} behind {node.name or node.op_type}")
    inner = helper.make_node(operator, [node.output[0]], [f"{node.output[0]}/put in"])
    for other in model.graph.node:
        other.input[:] = [inner.output[0] if name == node.output[0] else name for name in other.input]
    model.graph.node.append(inner)
    if choose.below(2):
        _some_fields(model, choose)


# Of ten; the rest are mutations of bytes, most of which end in the parser.
_WAYS = (_some_fields,) * 5 + (_outside, _put_in)

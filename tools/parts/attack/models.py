"""Hostile models for `attack.py`: endless, growing, claiming, pointing elsewhere, or no models at all."""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from parts.attack.cases import case, explain
from parts.attack.run import SECRET, Attack, Place

SIDE, CLASSES = 32, 5
_PREPROCESS = {"size": [SIDE, SIDE], "resize_to": 36, "scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3}
Nodes = Sequence[onnx.NodeProto]


def whole(number: int, *more: int) -> Any:
    """Whole numbers as ONNX counts; one alone has no axis."""
    return np.array([number, *more] if more else number, np.int64)


def graph_of(nodes: Nodes, inputs: Sequence[str], outputs: Sequence[str], kinds: Sequence[int] = ()) -> onnx.GraphProto:
    """A body of a loop or a branch, of single numbers; types of inputs and outputs, floats where they are not given."""
    names = (*inputs, *outputs)
    kinds = kinds or [TensorProto.FLOAT] * len(names)
    infos = [helper.make_tensor_value_info(name, kind, ()) for name, kind in zip(names, kinds, strict=True)]
    return helper.make_graph(nodes, "body", infos[: len(inputs)], infos[len(inputs) :])


def model_with(
    nodes: Nodes = (), constants: Mapping[str, Any] | None = None, number: str = "", **how: Any
) -> onnx.ModelProto:
    """A classifier of small pictures, to each pixel of which a number is added that the nodes compute."""
    rng = np.random.default_rng(0)
    given = {"kernel": rng.normal(size=(8, 3, 3, 3)) / 5, "matrix": rng.normal(size=(8, CLASSES))}
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in given.items()]
    weights += [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    joined = "joined" if number else "input"
    add = [helper.make_node("Add", ["input", number], ["joined"])] if number else []
    rest = [
        helper.make_node("Conv", [joined, "kernel"], ["conv"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, how.get("shape", ("N", 3, SIDE, SIDE)))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("N", CLASSES))
    graph = helper.make_graph([*nodes, *add, *rest], "hostile", [image], [logits], weights)
    opsets = [helper.make_opsetid("", how.get("opset", 17)), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=how.get("functions", ()))
    recorded = {"preprocess": json.dumps(_PREPROCESS), **how.get("metadata", {})}
    helper.set_model_props(model, {f"onnx_evidence.{key}": value for key, value in recorded.items()})
    return model


def attack(place: Place, model: onnx.ModelProto | bytes, *codes: int) -> Attack:
    """Explain with a model, and look into it."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    place.write("model.onnx", data)
    pictures = place.pictures()
    commands = (explain("model.onnx", pictures), ("inspect", "model.onnx", "--device", "cpu"))
    return Attack(commands, codes or (1,))


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def _mean(x: str) -> onnx.NodeProto:
    return _node("ReduceMean", [x], ["number"], keepdims=0)


# Loops

_TURN = (TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT, TensorProto.BOOL, TensorProto.FLOAT)


def _body(nodes: Nodes = ()) -> onnx.GraphProto:
    still = _node("Identity", ["on"], ["on_still"])
    inner = nodes or [_node("Sin", ["state"], ["next"])]
    return graph_of([still, *inner], ["turn", "on", "state"], ["on_still", "next"], _TURN)


def _loop(trips: str, body: onnx.GraphProto | None = None) -> onnx.NodeProto:
    return _node("Loop", [trips, "yes", "zero"], ["number"], body=body or _body())


_CONSTANTS = {"yes": np.array(True), "zero": np.float32(0), "trips": whole(2**40)}


@case("models", "a Loop without a count whose condition stays true", quick=True)
def _endless(place: Place) -> Attack:
    return attack(place, model_with([_loop("")], _CONSTANTS, "number"))


@case("models", "a Loop of {} turns", {"1e9": 10**9, "2^40": 2**40, "2^63 - 1": 2**63 - 1}, quick=True)
def _long(place: Place, trips: int) -> Attack:
    return attack(place, model_with([_loop("trips")], {**_CONSTANTS, "trips": whole(trips)}, "number"))


@case("models", "Loops of 16 turns within each other, {} deep", [6, 10])
def _nested(place: Place, depth: int) -> Attack:
    body = _body()
    for level in range(depth - 1):
        # Every level has names of its own, as the format wants.
        inner = _node("Loop", ["trips", "yes", "state"], ["next"], body=_renamed(body, level))
        body = _body([inner])
    return attack(place, model_with([_loop("trips", body)], {**_CONSTANTS, "trips": whole(16)}, "number"))


def _renamed(body: onnx.GraphProto, level: int) -> onnx.GraphProto:
    ours = {"turn", "on", "state", "on_still", "next"}
    for node in body.node:
        node.input[:] = [f"{name}{level}" if name in ours else name for name in node.input]
        node.output[:] = [f"{name}{level}" if name in ours else name for name in node.output]
    for info in (*body.input, *body.output):
        info.name = f"{info.name}{level}"
    return body


@case("models", "a Loop that ends when the picture says so, which it never does")
def _undecided(place: Place) -> Attack:
    test = [_node("Cos", ["state"], ["next"]), _node("Less", ["next", "two"], ["on_still"])]
    body = graph_of(test, ["turn", "on", "state"], ["on_still", "next"], _TURN)
    start = _node("ReduceMean", ["input"], ["start"], keepdims=0)
    loop = _node("Loop", ["", "yes", "start"], ["number"], body=body)
    tried = attack(place, model_with([start, loop], {**_CONSTANTS, "two": np.float32(2)}, "number"))
    return replace(tried, seconds=30)  # the clock ends it, after 15


@case("models", "a Loop of 2^40 turns inside {}", ["If", "a function", "Scan"])
def _hidden_loop(place: Place, where: str) -> Attack:
    if where == "If":
        then, other = (graph_of([node], [], ["inner"]) for node in (_named_loop("inner"), _same("inner")))
        node = _node("If", ["yes"], ["number"], then_branch=then, else_branch=other)
        return attack(place, model_with([node], _CONSTANTS, "number"))
    if where == "a function":
        opsets = [helper.make_opsetid("", 17)]
        inner = _node("Loop", ["a", "b", "c"], ["d"], body=_body())
        function = helper.make_function("local", "Counts", ["a", "b", "c"], ["d"], [inner], opsets)
        node = _node("Counts", ["trips", "yes", "zero"], ["number"], domain="local")
        return attack(place, model_with([node], _CONSTANTS, "number", functions=[function]))
    inner = _node("Loop", ["trips", "yes", "before"], ["after"], body=_body())
    body = graph_of([inner, _same("seen", "item")], ["before", "item"], ["after", "seen"])
    node = _node("Scan", ["zero", "items"], ["number", "all"], body=body, num_scan_inputs=1)
    return attack(place, model_with([node], {**_CONSTANTS, "items": np.zeros(4, np.float32)}, "number"))


def _named_loop(name: str) -> onnx.NodeProto:
    return _node("Loop", ["trips", "yes", "zero"], [name], body=_body())


def _same(name: str, x: str = "zero") -> onnx.NodeProto:
    return _node("Identity", [x], [name])


@case("models", "a Scan over {} rows that the graph makes", {"3e8": 3 * 10**8, "2^40": 2**40})
def _scan(place: Place, rows: int) -> Attack:
    body = graph_of([_node("Sin", ["item"], ["seen"]), _same("after", "before")], ["before", "item"], ["after", "seen"])
    items = _node("ConstantOfShape", ["rows"], ["items"])
    node = _node("Scan", ["zero", "items"], ["number", "all"], body=body, num_scan_inputs=1)
    return attack(place, model_with([items, node], {**_CONSTANTS, "rows": np.array([rows])}, "number"))


# What grows

_BOMBS: dict[str, tuple[Nodes, Mapping[str, Any]]] = {
    "Range of 750 million": (
        [_node("Range", ["a", "b", "c"], ["big"])],
        {"a": np.float32(0), "b": np.float32(7.5e8), "c": np.float32(1)},
    ),
    "Range with a step of 1e-9": (
        [_node("Range", ["a", "b", "c"], ["big"])],
        {"a": np.float64(0), "b": np.float64(1e9), "c": np.float64(1e-9)},
    ),
    "Range of 2^62 whole numbers": (
        [_node("Range", ["a", "b", "c"], ["wide"]), _node("Cast", ["wide"], ["big"], to=TensorProto.FLOAT)],
        {"a": whole(0), "b": whole(2**62), "c": whole(1)},
    ),
    "ConstantOfShape of 2^40": ([_node("ConstantOfShape", ["a"], ["big"])], {"a": np.array([2**40])}),
    "ConstantOfShape of 2^20 x 2^20 x 2^20": ([_node("ConstantOfShape", ["a"], ["big"])], {"a": np.array([2**20] * 3)}),
    "ConstantOfShape of 900 million": ([_node("ConstantOfShape", ["a"], ["big"])], {"a": np.array([9 * 10**8])}),
    "Tile 2^40 times": ([_node("Tile", ["a", "b"], ["big"])], {"a": np.ones(4, np.float32), "b": np.array([2**40])}),
    "Expand to 2^40": ([_node("Expand", ["a", "b"], ["big"])], {"a": np.ones(1, np.float32), "b": np.array([2**40])}),
    "Expand to 2^20 x 2^10 and a sum": (
        [_node("Expand", ["a", "b"], ["wide"]), _node("ReduceSum", ["wide"], ["big"])],
        {"a": np.ones(1, np.float32), "b": np.array([2**20, 2**10])},
    ),
    "Pad by 2^40": ([_node("Pad", ["a", "b"], ["big"])], {"a": np.ones(4, np.float32), "b": np.array([0, 2**40])}),
    "Resize to a million times": (
        [_node("Resize", ["a", "", "b"], ["big"], mode="nearest")],
        {"a": np.ones((1, 1, 4, 4), np.float32), "b": np.array([1, 1, 1e6, 1e6], np.float32)},
    ),
    "OneHot of depth 2^40": (
        [_node("OneHot", ["a", "b", "c"], ["big"])],
        {"a": np.zeros(4, np.int64), "b": whole(2**40), "c": np.array([0, 1], np.float32)},
    ),
    "HannWindow of 2^40": ([_node("HannWindow", ["a"], ["big"])], {"a": whole(2**40)}),
    "RandomNormal of 2^40": ([_node("RandomNormal", [], ["big"], shape=[2**20, 2**20])], {}),
    "MelWeightMatrix of 2^40": (
        [_node("MelWeightMatrix", ["a", "b", "c", "d", "e"], ["big"])],
        {"a": whole(2**20), "b": whole(2**20), "c": whole(16000), "d": np.float32(0), "e": np.float32(8000)},
    ),
    "ConvTranspose with a stride of 2^30": (
        [_node("ConvTranspose", ["a", "b"], ["big"], strides=[2**30, 2**30])],
        {"a": np.ones((1, 1, 4, 4), np.float32), "b": np.ones((1, 1, 3, 3), np.float32)},
    ),
    "an outer product of 2^20 x 2^20": (
        [_node("MatMul", ["a", "b"], ["big"])],
        {"a": np.ones((2**20, 1), np.float32), "b": np.ones((1, 2**20), np.float32)},
    ),
    "Trilu of an expanded 2^20 x 2^20": (
        [_node("Expand", ["a", "b"], ["wide"]), _node("Trilu", ["wide"], ["big"])],
        {"a": np.ones((1, 1), np.float32), "b": np.array([2**20, 2**20])},
    ),
    "a sequence of 30 million": (
        [
            _node("ConstantOfShape", ["a"], ["wide"]),
            _node("SplitToSequence", ["wide", "b"], ["many"]),
            _node("ConcatFromSequence", ["many"], ["big"], axis=0),
        ],
        {"a": np.array([3 * 10**7]), "b": whole(1)},
    ),
    "Upsampling by Kronecker's product 20 times": (
        [
            _node("Mul" if n % 2 else "Concat", [f"k{n}"] * 2, [f"k{n + 1}"], **({} if n % 2 else {"axis": 0}))
            for n in range(80)
        ]
        + [_same("big", "k80")],
        {"k0": np.ones(4, np.float32)},
    ),
    "Einsum that sums over 2^50 terms": (
        [_node("Einsum", ["a"] * 5, ["big"], equation="i,j,k,l,m->")],
        {"a": np.ones(1024, np.float32)},
    ),
    "MaxPool with a kernel of 2^31": (
        [_node("MaxPool", ["a"], ["big"], kernel_shape=[2**31 - 1] * 2, pads=[2**30] * 4)],
        {"a": np.ones((1, 1, 4, 4), np.float32)},
    ),
    "TopK of 2^40": (
        [_node("TopK", ["a", "b"], ["big", "places"])],
        {"a": np.ones(4, np.float32), "b": np.array([2**40])},
    ),
    "Gather of a billion places": (
        [
            _node("ConstantOfShape", ["a"], ["places"], value=numpy_helper.from_array(np.zeros(1, np.int64))),
            _node("Gather", ["b", "places"], ["big"]),
        ],
        {"a": np.array([10**9]), "b": np.ones(1, np.float32)},
    ),
}


@case("models", "{}", _BOMBS, quick=True)
def _bomb(place: Place, bomb: tuple[Nodes, Mapping[str, Any]]) -> Attack:
    nodes, constants = bomb
    first = [_node("Cast", ["big"], ["floats"], to=TensorProto.FLOAT), _mean("floats")]
    return attack(place, model_with([*nodes, *first], constants, "number"))


@case("models", "a tensor joined to itself {} times", [28, 60])
def _doubling(place: Place, times: int) -> Attack:
    nodes = [_node("Concat", [f"k{n}"] * 2, [f"k{n + 1}"], axis=0) for n in range(times)]
    return attack(place, model_with([*nodes, _mean(f"k{times}")], {"k0": np.ones(4, np.float32)}, "number"))


@case("models", "the picture joined to itself 24 times, along its rows")
def _picture_doubling(place: Place) -> Attack:
    nodes = [_node("Concat", ["input" if not n else f"k{n}"] * 2, [f"k{n + 1}"], axis=2) for n in range(24)]
    return attack(place, model_with([*nodes, _mean("k24")], {}, "number"))


@case("models", "a function that calls another twice, {} deep", [18, 40, 400], quick=True)
def _expanding(place: Place, depth: int) -> Attack:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    functions = [helper.make_function("local", "F0", ["a"], ["b"], [_node("Sin", ["a"], ["b"])], opsets)]
    for level in range(1, depth):
        inner = [_node(f"F{level - 1}", [x], [y], domain="local") for x, y in (("a", "m"), ("m", "b"))]
        functions.append(helper.make_function("local", f"F{level}", ["a"], ["b"], inner, opsets))
    call = _node(f"F{depth - 1}", ["zero"], ["number"], domain="local")
    return attack(place, model_with([call], _CONSTANTS, "number", functions=functions))


@case("models", "a function that calls {}", {"itself": "F0", "another that calls it": "F1"}, quick=True)
def _recursive(place: Place, called: str) -> Attack:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    functions = [
        helper.make_function("local", name, ["a"], ["b"], [_node(other, ["a"], ["b"], domain="local")], opsets)
        for name, other in (("F0", called), ("F1", "F0"))
    ]
    call = _node("F0", ["zero"], ["number"], domain="local")
    return attack(place, model_with([call], _CONSTANTS, "number", functions=functions))


@case("models", "branches within each other, {} deep", [10, 20])
def _deep(place: Place, depth: int) -> Attack:
    inner = _node("Sin", ["zero"], ["deep0"])
    for level in range(depth):
        then = graph_of([inner], [], [f"deep{level}"])
        other = graph_of([_same(f"other{level}")], [], [f"other{level}"])
        inner = _node("If", ["yes"], [f"deep{level + 1}"], then_branch=then, else_branch=other)
    return attack(place, model_with([inner], _CONSTANTS, f"deep{depth}"), 0, 1)


@case("models", "a chain of {} nodes", [20_000, 300_000])
def _chain(place: Place, length: int) -> Attack:
    nodes = [_node("Sin", [f"k{n}"], [f"k{n + 1}"]) for n in range(length)]
    tried = attack(place, model_with(nodes, {"k0": np.float32(1)}, f"k{length}"), 0, 1)
    return replace(tried, seconds=60)  # as long as its nodes are many: 0.8 ms each


# What the file records of itself

_LABELS = {
    "200,000 brackets": "[" * 200_000,
    "200,000 closed brackets": "[" * 200_000 + "]" * 200_000,
    "a number of 10,000 digits": "[" + "1" * 10_000 + "]",
    "an object": '{"a": 1}',
    "numbers": "[1, 2, 3, 4, 5]",
    "nested lists": '[["a"], "b", "c", "d", "e"]',
    "a million": json.dumps(["x"] * 10**6),
    "not a number": "[NaN, Infinity, 1, 2, 3]",
    "no UTF-8 in the end": '["\\ud800", "b", "c", "d", "e"]',
    "nothing": "",
}


@case("models", "labels in the metadata: {}", _LABELS, quick=True)
def _labels(place: Place, labels: str) -> Attack:
    return attack(place, model_with(metadata={"labels": labels}), 0, 1)


_NASTY_LABELS = {
    "a way out": "../../../../tmp/x",
    "escape sequences": "\x1b]0;x\x07\x1b[2J",
    "a new line": "a\nError: b",
    "from right to left": "\u202egpj.exe",
    "a formula": "=cmd|' /C calc'!A0",
    "a NUL": "a\0b",
    "a megabyte": "x" * 10**6,
    "a surrogate": "\ud83d",
}


@case("models", "a class named by {}", _NASTY_LABELS, quick=True)
def _nasty_label(place: Place, label: str) -> Attack:
    labels = json.dumps([f"{label}{number}" for number in range(CLASSES)])
    tried = attack(place, model_with(metadata={"labels": labels}), 0, 1)
    more = (("summary", "../out", "-o", "../out/table.csv"), ("verify", "../out"))
    return Attack((*tried.commands[:1], *more, tried.commands[1]), (0, 1), _no_formulas)


def _no_formulas(place: Place) -> str:
    table = place.out / "table.csv"
    cells = (
        [cell for line in table.read_text("utf-8").split("\n") for cell in line.split(",")] if table.exists() else []
    )
    return next((f"the table holds {cell[:20]!r}" for cell in cells if cell.strip('"')[:1] in ("=", "@")), "")


_RECORDED = {
    "200,000 brackets": "[" * 200_000,
    "objects within each other": '{"a":' * 100_000,
    "a size of 10^9": json.dumps({**_PREPROCESS, "size": [10**9, 10**9]}),
    "resized to 10^9": json.dumps({**_PREPROCESS, "resize_to": 10**9}),
    "a size of 10^400": '{"size": [' + "1" * 400 + ", 32]}",
    "a scale that is no number": '{"size": [32, 32], "scale": NaN}',
    "text": "x",
    "a list": "[]",
}


@case("models", "preprocessing in the metadata: {}", _RECORDED, quick=True)
def _recorded(place: Place, recorded: str) -> Attack:
    return attack(place, model_with(metadata={"preprocess": recorded}))


# Weights elsewhere


def _elsewhere(**where: str) -> onnx.ModelProto:
    model = model_with()
    (tensor,) = [each for each in model.graph.initializer if each.name == "matrix"]
    length = str(len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"offset": "0", "length": length, **where}.items():
        tensor.external_data.add(key=key, value=value)
    return model


_LOCATIONS = (
    "../outside/secret",
    "x/../../outside/secret",
    "./../outside/secret",
    "/etc/passwd",
    "/dev/zero",
    "/proc/self/mem",
    "/dev/stdin",
    "link",
    "folder/file",
    "loop",
    "pipe",
    ".",
    "..",
    "",
    "missing",
    "weights.bin\0x",
    "x" * 5000,
    "\u2025/outside/secret",
    "..\\outside\\secret",
    "file:///etc/passwd",
    "C:\\x",
)


@case("models", "a weight that lies in '{}'", _LOCATIONS, quick=True)
def _location(place: Place, location: str) -> Attack:
    place.secret.write_bytes(SECRET * 100)
    (place.inside / "link").symlink_to(place.secret)
    (place.inside / "folder").symlink_to(place.outside / "folder")
    (place.inside / "loop").symlink_to("loop")
    place.pipe(place.inside / "pipe")
    (place.outside / "folder" / "file").write_bytes(SECRET * 100)
    return attack(place, _elsewhere(location=location))


@case("models", "a weight that lies in an absolute path outside")
def _absolute(place: Place) -> Attack:
    place.secret.write_bytes(SECRET * 100)
    return attack(place, _elsewhere(location=str(place.secret)))


_CLAIMS: dict[str, dict[str, str]] = {
    "an offset below zero": {"offset": "-1"},
    "an offset of 2^62": {"offset": str(2**62)},
    "an offset of 10^100": {"offset": "1" + "0" * 100},
    "an offset that is text": {"offset": "x"},
    "a length of 2^40": {"length": str(2**40)},
    "a length below zero": {"length": "-1"},
    "a length that is another": {"length": "3"},
}


@case("models", "a weight in a file, at {}", _CLAIMS)
def _claim(place: Place, claim: Mapping[str, str]) -> Attack:
    place.sparse(place.inside / "weights.bin")
    return attack(place, _elsewhere(location="weights.bin", **claim))


@case("models", "a weight of 2^40 numbers, in a file that holds nothing of a terabyte")
def _hollow(place: Place) -> Attack:
    place.sparse(place.inside / "weights.bin", 1 << 42)
    model = _elsewhere(location="weights.bin", length=str(1 << 42))
    (tensor,) = [each for each in model.graph.initializer if each.name == "matrix"]
    tensor.dims[:] = [8, 1 << 37]
    return attack(place, model)


@case("models", "a weight outside that {} holds", ["a branch", "a constant", "a function", "a sparse tensor"])
def _inner_elsewhere(place: Place, where: str) -> Attack:
    place.secret.write_bytes(SECRET * 100)
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "inner")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "../outside/secret", "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    constant = _node("Constant", [], ["number"], value=tensor)
    if where == "a branch":
        branch = helper.make_graph(
            [_same("inner_out", "inner")], "b", [], graph_of([], [], ["inner_out"]).output, [tensor]
        )
        other = graph_of([_same("other")], [], ["other"])
        node = _node("If", ["yes"], ["number"], then_branch=branch, else_branch=other)
        return attack(place, model_with([node], _CONSTANTS, "number"))
    if where == "a constant":
        return attack(place, model_with([constant], {}, "number"))
    if where == "a function":
        function = helper.make_function("local", "F", ["a"], ["number"], [constant], [helper.make_opsetid("", 17)])
        return attack(
            place,
            model_with([_node("F", ["zero"], ["number"], domain="local")], _CONSTANTS, "number", functions=[function]),
        )
    model = model_with([_mean("inner")], {}, "number")
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor)
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0]), "places"))
    sparse.dims[:] = [2**40]
    return attack(place, model)


# What claims to be something

_TENSORS: dict[str, dict[str, Any]] = {
    "2^40 floats": {"dims": [2**40]},
    "2^32 x 2^32 floats": {"dims": [2**32, 2**32]},
    "less than none": {"dims": [-8, 5]},
    "a type that there is not": {"data_type": 99},
    "strings": {"data_type": TensorProto.STRING},
    "nothing": {"raw_data": b""},
    "a byte too few": {"raw_data": bytes(159)},
    "a million axes": {"dims": [1] * 10**6},
    "an axis of nothing": {"dims": [0, 5], "raw_data": b""},
}


@case("models", "a weight that claims {}", _TENSORS, quick=True)
def _tensor(place: Place, claim: Mapping[str, Any]) -> Attack:
    model = model_with()
    (tensor,) = [each for each in model.graph.initializer if each.name == "matrix"]
    for name, value in claim.items():
        if name == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, name, value)
    return attack(place, model)


def _odd(change: str) -> onnx.ModelProto:
    """A model with something odd about it."""
    model = model_with()
    graph, first = model.graph, model.graph.node[0]
    shape = graph.input[0].type.tensor_type.shape
    oddities: dict[str, Any] = {
        "a version of 2^62": lambda: setattr(model, "ir_version", 2**62),
        "no version": lambda: model.ClearField("ir_version"),
        "a version below zero": lambda: setattr(model, "ir_version", -1),
        "operators of version 2^40": lambda: setattr(model.opset_import[0], "version", 2**40),
        "operators of version -1": lambda: setattr(model.opset_import[0], "version", -1),
        "no operators' version": lambda: model.ClearField("opset_import"),
        "two versions of operators": lambda: model.opset_import.add(domain="", version=9),
        "no graph": lambda: model.ClearField("graph"),
        "an empty graph": lambda: graph.Clear(),
        "no nodes": lambda: graph.ClearField("node"),
        "no inputs": lambda: graph.ClearField("input"),
        "no outputs": lambda: graph.ClearField("output"),
        "an operator that there is not": lambda: setattr(first, "op_type", "Magic"),
        "an operator of nobody's": lambda: setattr(first, "domain", "nobody"),
        "an operator without a name": lambda: setattr(first, "op_type", ""),
        "a circle": lambda: first.input.__setitem__(0, "logits"),
        "an input that nobody makes": lambda: first.input.__setitem__(0, "nobody"),
        "two makers of one tensor": lambda: graph.node[1].output.__setitem__(0, "conv"),
        "names with escape sequences": lambda: setattr(first, "name", "\x1b[2J\n"),
        "a tensor named by an escape sequence": lambda: graph.output.add(name="\x1b[2J\x07"),
        "an operator named by an escape sequence": lambda: setattr(first, "op_type", "\x1b[2J\nError: x"),
        "a producer with escape sequences": lambda: setattr(model, "producer_name", "\x1b[2J"),
        "a comment of 100 MB": lambda: setattr(model, "doc_string", "x" * 10**8),
        "100,000 inputs": lambda: [graph.input.add(name=f"i{n}") for n in range(10**5)],
        "100,000 outputs": lambda: [graph.output.add(name=f"o{n}") for n in range(10**5)],
        "pictures of 2^31 rows": lambda: setattr(shape.dim[2], "dim_value", 2**31),
        "pictures of 50,000 x 50,000": lambda: [
            shape.dim[n].CopyFrom(type(shape.dim[n])(dim_value=50_000)) for n in (2, 3)
        ],
        "2^40 channels": lambda: setattr(shape.dim[1], "dim_value", 2**40),
        "a batch of 2^40": lambda: setattr(shape.dim[0], "dim_value", 2**40),
        "a batch of 100,000": lambda: setattr(shape.dim[0], "dim_value", 100_000),
        "sides below zero": lambda: setattr(shape.dim[2], "dim_value", -32),
        "100,000 axes": lambda: [shape.dim.add(dim_value=1) for n in range(10**5)],
        "a sequence as its input": lambda: graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent(),
        "a text as its input": lambda: setattr(graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING),
        "an attribute that points to another's": lambda: setattr(first.attribute[0], "ref_attr_name", "x"),
        "an attribute of no type": lambda: setattr(first.attribute[0], "type", AttributeProto.UNDEFINED),
        "strides of zero": lambda: first.attribute[-1].ints.__setitem__(slice(None), [0, 0]),
        "strides below zero": lambda: first.attribute[-1].ints.__setitem__(slice(None), [-1, -1]),
        "groups of 2^40": lambda: first.attribute.append(helper.make_attribute("group", 2**40)),
        "the metadata said twice": lambda: model.metadata_props.add(key="onnx_evidence.preprocess", value="{}"),
        "100,000 metadata": lambda: [model.metadata_props.add(key=f"k{n}", value="x") for n in range(10**5)],
        "metadata named by an escape sequence": lambda: model.metadata_props.add(
            key="onnx_evidence.\x1b[2J", value="x"
        ),
        "a training graph": lambda: model.training_info.add().algorithm.CopyFrom(graph),
    }
    oddities[change]()
    return model


ODDITIES = (
    "a version of 2^62|no version|a version below zero|operators of version 2^40|operators of version -1|"
    "no operators' version|two versions of operators|no graph|an empty graph|no nodes|no inputs|no outputs|"
    "an operator that there is not|an operator of nobody's|an operator without a name|a circle|"
    "an input that nobody makes|two makers of one tensor|names with escape sequences|"
    "a tensor named by an escape sequence|an operator named by an escape sequence|a producer with escape sequences|"
    "a comment of 100 MB|100,000 inputs|100,000 outputs|pictures of 2^31 rows|pictures of 50,000 x 50,000|"
    "2^40 channels|a batch of 2^40|a batch of 100,000|sides below zero|100,000 axes|a sequence as its input|"
    "a text as its input|"
    "an attribute that points to another's|an attribute of no type|strides of zero|strides below zero|groups of 2^40|"
    "the metadata said twice|100,000 metadata|metadata named by an escape sequence|a training graph"
).split("|")


@case("models", "a model with {}", ODDITIES, quick=True)
def _oddity(place: Place, change: str) -> Attack:
    return attack(place, _odd(change), 0, 1)


# What is no model

_BYTES = {
    "nothing": b"",
    "zeros": bytes(1000),
    "text": b"no model\n" * 100,
    "a field that claims 2^60 bytes": b"\x3a" + b"\xff" * 8 + b"\x0f",
    "fields within each other": b"\x3a\xfe\x01" * 10_000,
    "a number without an end": b"\xff" * 1000,
}


@case("models", "a file of {}", _BYTES, quick=True)
def _no_model(place: Place, data: bytes) -> Attack:
    return attack(place, data)


def special(place: Place, path: Path, kind: str) -> None:
    """Make something at a path that is no regular file, or claims to be a large one."""
    targets = {"a link to /dev/zero": "/dev/zero", "a link to /dev/stdin": "/dev/stdin", "a dangling link": "nowhere"}
    targets |= {
        "a link to itself": path.name,
        "a link to /proc/self/mem": "/proc/self/mem",
        "a link to a tty": "/dev/tty",
    }
    if kind in targets:
        path.symlink_to(targets[kind])
    elif kind == "a pipe":
        place.pipe(path)
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as bound:
            here = os.getcwd()
            os.chdir(path.parent)  # paths of sockets are short
            bound.bind(path.name)
            os.chdir(here)
    elif kind == "a folder":
        path.mkdir()
    else:
        place.sparse(path)


SPECIAL = (
    "a pipe",
    "a socket",
    "a folder",
    "a terabyte of nothing",
    "a link to /dev/zero",
    "a link to /dev/stdin",
    "a link to /proc/self/mem",
    "a link to a tty",
    "a dangling link",
    "a link to itself",
)


@case("models", "{} as the model", SPECIAL, quick=True)
def _special_model(place: Place, kind: str) -> Attack:
    special(place, place.inside / "model.onnx", kind)
    pictures = place.pictures()
    commands = [explain("model.onnx", pictures), ("inspect", "model.onnx"), ("preprocess", "model.onnx")]
    return Attack((*commands, ("gradient", "model.onnx", "-o", "../out/x.onnx")))


_BESIDE = ("model.toml", "config.json", "preprocessor_config.json")


@case(
    "models", "beside the model, as its preprocessing: {}", [f"{name}: {kind}" for name in _BESIDE for kind in SPECIAL]
)
def _beside(place: Place, given: str) -> Attack:
    name, _, kind = given.partition(": ")
    model = model_with()
    del model.metadata_props[:]
    special(place, place.inside / name, kind)
    return attack(place, model, 0, 1)  # what is no file is passed over by `inspect`


_NESTED = {
    "model.toml: 100,000 brackets": "size = " + "[" * 100_000,
    "model.toml: 100,000 tables": "\n".join(["[" + ".".join(["a"] * 5000) + "]"] * 20),
    "model.toml: 5,000 closed brackets": "size = " + "[" * 5000 + "]" * 5000,
    "config.json: 100,000 brackets": "[" * 100_000,
    "preprocessor_config.json: 100,000 brackets": "[" * 100_000,
    "preprocessor_config.json: a size of 10^9": json.dumps(
        {"do_resize": True, "size": {"height": 10**9, "width": 10**9}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ),
    "preprocessor_config.json: numbers of 10,000 digits": '{"size": ' + "9" * 10_000 + "}",
    "preprocessor_config.json: no UTF-8": "\udcff",
}


@case("models", "beside the model, {}", _NESTED, quick=True)
def _nested_beside(place: Place, text: str) -> Attack:
    name = next(key for key, value in _NESTED.items() if value == text).partition(":")[0]
    model = model_with()
    del model.metadata_props[:]
    place.write(name, text.encode("utf-8", "surrogateescape"))
    return attack(place, model, 0, 1)  # what is no object of settings is passed over by `inspect`

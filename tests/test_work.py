"""What a model would compute is counted before anything is computed; what never ends or fills the memory is refused."""

import json
import os
import resource
import subprocess
import sys
from collections import ChainMap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.counting.held import of_shape
from onnx_evidence.counting.tally import MAX_WORK, NODE, Limits, Work, in_words
from onnx_evidence.counting.turns import WholeWalk
from onnx_evidence.counting.work import refuse_endless
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ModelError
from onnx_evidence.explainer import Explainer
from onnx_evidence.intake.branches import settle_branches
from onnx_evidence.sessions import EndlessError, Session, settle_device
from tests.tiny import PREPROCESS, classifier

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
_MEMORY, _SECONDS = 3 << 30, 60


def whole(*numbers, name=""):
    return numpy_helper.from_array(np.array(numbers if len(numbers) > 1 else numbers[0], np.int64), name)


def row(*numbers, name=""):
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def real(value, name=""):
    return numpy_helper.from_array(np.asarray(value, np.float32), name)


def info(name, kind=FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def model_with(nodes, constants=(), *, functions=(), opset=18, shape=("N", 3, 32, 32), sparse=(), number="number"):
    """A classifier that adds to the picture a 'number' which nodes compute."""
    rng = np.random.default_rng(0)
    weights = [real(rng.normal(size=(8, 3, 3, 3)), "kernel"), real(rng.normal(size=(8, 5)), "matrix")]
    rest = [
        node("Add", ["input", number], ["sum"]) if number else node("Identity", ["input"], ["sum"]),
        node("Conv", ["sum", "kernel"], ["conv"], pads=[1] * 4),
        node("Relu", ["conv"], ["relu"]),
        node("GlobalAveragePool", ["relu"], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    graph = helper.make_graph(
        [*nodes, *rest],
        "hostile",
        [info("input", shape=shape)],
        [info("logits", shape=["N", 5])],
        [*weights, real(0, "zero"), *constants],
        sparse_initializer=list(sparse),
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    helper.set_model_props(model, {"onnx_evidence.preprocess": json.dumps(PREPROCESS)})
    return model


def used(tensor, kind="float"):
    """Nodes that make nothing of a tensor, but read it."""
    first = node("Cast", [tensor], ["asfloat"], to=FLOAT)
    return [
        first,
        node("ReduceMax", ["asfloat"], ["largest"], keepdims=0),
        node("Mul", ["largest", "zero"], ["number"]),
    ]


def body(nodes, state=FLOAT, condition=None, results=("after",)):
    """What a Loop repeats: state 'before', a float or so, becomes 'after'."""
    nodes = [node("Identity", ["going"], ["goes"]), *nodes] if condition is None else [*nodes, condition]
    inputs = [info("turn", INT64, []), info("going", BOOL, []), info("before", state)]
    return helper.make_graph(nodes, "body", inputs, [info("goes", BOOL, []), *(info(name, state) for name in results)])


def loop(count, inside, begin="begins", out=("number",), state="start"):
    return node("Loop", [count, begin, state], list(out), body=inside)


ADDED = node("Add", ["before", "little"], ["after"])
BEGIN = [numpy_helper.from_array(np.array(True), "begins"), real(0, "start"), real(1e-6, "little")]


def nested(depth):
    inside = ADDED
    for _ in range(depth - 1):
        inside = node("Loop", ["count", "going", "before"], ["after"], body=body([inside]))
    return loop("count", body([inside]))


def own(name, nodes, given=("X",), made=("Y",)):
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, list(given), list(made), nodes, opsets)


def doubling(levels):
    """Functions of which each calls the one below twice."""
    calls = lambda name: [node(name, ["X"], ["half"], domain="own"), node(name, ["half"], ["Y"], domain="own")]  # noqa: E731
    return [
        own("level0", [node("Relu", ["X"], ["Y"])]),
        *(own(f"level{n + 1}", calls(f"level{n}")) for n in range(levels)),
    ]


def less_than(limit):
    return node("Less", ["turn", limit], ["goes"])


LOOPS = {
    "endless": model_with([loop("", body([ADDED]))], BEGIN),
    "without a condition": model_with([loop("", body([ADDED]), begin="")], BEGIN),
    "a thousand million turns": model_with([loop("count", body([ADDED]))], [*BEGIN, whole(10**9, name="count")]),
    "of nothing": model_with([loop("count", body([], results=("before",)))], [*BEGIN, whole(10**12, name="count")]),
    "turns that are computed": model_with(
        [node("Pow", ["ten", "nine"], ["f"]), node("Cast", ["f"], ["count"], to=INT64), loop("count", body([ADDED]))],
        [*BEGIN, real(10, "ten"), real(9, "nine")],
    ),
    "turns by the size of the picture": model_with(
        [
            node("Shape", ["input"], ["sides"]),
            node("ReduceProd", ["sides"], ["pixels"], keepdims=0),
            node("Mul", ["pixels", "million"], ["count"]),
            loop("count", body([ADDED])),
        ],
        [*BEGIN, whole(10**6, name="million")],
    ),
    "a condition that stays true": model_with(
        [loop("", body([ADDED], condition=less_than("far")))], [*BEGIN, whole(2**62, name="far")]
    ),
    "six inside each other": model_with([nested(6)], [*BEGIN, whole(16, name="count")]),
    "thirty inside each other": model_with([nested(25)], [*BEGIN, whole(2, name="count")]),
    "doubling what it holds": model_with(
        [loop("count", body([node("Concat", ["before"] * 2, ["after"], axis=0)]), out=["made"]), *used("made")],
        [*BEGIN[:1], real([1, 2], "start"), whole(40, name="count")],
    ),
    "gathering": model_with(
        [
            loop(
                "count",
                body([ADDED, node("Expand", ["before", "sides"], ["wide"])], results=("after", "wide")),
                out=["last", "made"],
            ),
            *used("made"),
        ],
        [*BEGIN, row(10**6, name="sides"), whole(2000, name="count")],
    ),
    "in a function": model_with(
        [node("turning", ["start"], ["number"], domain="own")],
        BEGIN,
        functions=[
            own(
                "turning",
                [
                    node("Constant", [], ["count"], value=whole(10**10)),
                    node("Constant", [], ["little"], value=real(1)),
                    node("Loop", ["count", "", "X"], ["Y"], body=body([ADDED])),
                ],
            )
        ],
    ),
    "functions that double": model_with([node("level40", ["zero"], ["number"], domain="own")], functions=doubling(40)),
    "a function that calls itself": model_with(
        [node("self", ["zero"], ["number"], domain="own")],
        functions=[own("self", [node("self", ["X"], ["Y"], domain="own")])],
    ),
}


def made(operator, constants, inputs, kind="float", opset=18, **attributes):
    return model_with([node(operator, inputs, ["made"], **attributes), *used("made", kind)], constants, opset=opset)


MAKERS = {
    "Range": made("Range", [whole(0, name="a"), whole(750_000_000, name="b"), whole(1, name="c")], ["a", "b", "c"]),
    "Range of small steps": made("Range", [real(0, "a"), real(1, "b"), real(1e-9, "c")], ["a", "b", "c"]),
    "Tile": made("Tile", [real([1, 2], "a"), row(10**9, name="b")], ["a", "b"]),
    "Tile of the picture": made("Tile", [row(1, 1, 3000, 3000, name="b")], ["input", "b"]),
    "Expand": made("Expand", [real([1], "a"), row(30000, 30000, name="b")], ["a", "b"]),
    "Expand of the picture": made("Expand", [row(10**6, 3, 32, 32, name="b")], ["input", "b"]),
    "ConstantOfShape": made("ConstantOfShape", [row(2**17, 2**15, name="a")], ["a"]),
    "ConstantOfShape of more than there are": made("ConstantOfShape", [row(2**40, 2**40, name="a")], ["a"]),
    "OneHot": made("OneHot", [row(*[0] * 9, name="a"), whole(10**9, name="b"), real([0, 1], "c")], ["a", "b", "c"]),
    "Resize": made("Resize", [real([1, 1, 5000, 5000], "a")], ["input", "", "a"]),
    "Upsample": made("Upsample", [real([1, 1, 9000, 9000], "a")], ["input", "a"], opset=9),
    "Pad": made("Pad", [row(0, 0, 30000, 30000, 0, 0, 30000, 30000, name="a")], ["input", "a"]),
    "RandomNormal": made("RandomNormal", [], [], shape=[40000, 40000]),
    "RandomUniform": made("RandomUniform", [], [], shape=[10**10]),
    "Multinomial": made("Multinomial", [real([[1, 2]], "a")], ["a"], sample_size=2 * 10**9),
    "outer product": made("Mul", [real(np.ones((20000, 1)), "a"), real(np.ones((1, 20000)), "b")], ["a", "b"]),
    "Einsum": made("Einsum", [real(np.ones(3000), "a")], ["a"] * 3, equation="a,b,c->abc"),
    "Concat of itself many times": made("Concat", [real(np.ones(2000), "a")], ["a"] * 100_000, axis=0),
    "ConvTranspose by strides": made(
        "ConvTranspose", [real(np.ones((3, 1, 1, 1)), "a")], ["input", "a"], strides=[5000] * 2
    ),
    "ConvTranspose by its shape": made(
        "ConvTranspose", [real(np.ones((3, 1, 1, 1)), "a")], ["input", "a"], output_shape=[90000, 90000]
    ),
    "Conv by pads": made("Conv", [real(np.ones((1, 3, 1, 1)), "a")], ["input", "a"], pads=[50000] * 4),
    "HannWindow": made("HannWindow", [whole(2 * 10**9, name="a")], ["a"]),
    "DFT": made("DFT", [real(np.ones((1, 4, 1)), "a"), whole(2 * 10**9, name="b")], ["a", "b"]),
    "AffineGrid": made(
        "AffineGrid", [real(np.ones((1, 2, 3)), "a"), row(1, 1, 50000, 50000, name="b")], ["a", "b"], opset=20
    ),
    "CenterCropPad": made("CenterCropPad", [real(np.ones((2, 2)), "a"), row(50000, 50000, name="b")], ["a", "b"]),
    "Col2Im": made(
        "Col2Im", [real(np.ones((1, 1, 4)), "a"), row(90000, 90000, name="b"), row(1, 1, name="c")], ["a", "b", "c"]
    ),
    "RoiAlign": made(
        "RoiAlign",
        [real([[0, 0, 1, 1]], "a"), row(0, name="b")],
        ["input", "a", "b"],
        output_height=30000,
        output_width=30000,
    ),
    "doubling Concat": model_with(
        [*(node("Concat", [f"part{n}"] * 2, [f"part{n + 1}"], axis=0) for n in range(32)), *used("part32")],
        [row(1, 2, name="part0")],
    ),
    "a size that is computed": model_with(
        [
            node("Exp", ["a"], ["b"]),
            node("Cast", ["b"], ["c"], to=INT64),
            node("ConstantOfShape", ["c"], ["made"]),
            *used("made"),
        ],
        [real([21], "a")],
    ),
    "a size by the batch": model_with(
        [
            node("Shape", ["input"], ["sides"]),
            node("Gather", ["sides", "a"], ["batch"]),
            node("Mul", ["batch", "b"], ["far"]),
            node("Range", ["a", "far", "c"], ["made"]),
            *used("made"),
        ],
        [whole(0, name="a"), whole(100_000, name="b"), whole(1, name="c")],
    ),
    "a size by the picture's values": model_with(
        [
            node("NonZero", ["input"], ["places"]),
            node("Size", ["places"], ["count"]),
            node("Mul", ["count", "b"], ["far"]),
            node("Range", ["a", "far", "c"], ["made"]),
            *used("made"),
        ],
        [whole(0, name="a"), whole(10**6, name="b"), whole(1, name="c")],
    ),
    "in a branch that is not taken": model_with(
        [
            node(
                "If",
                ["begins"],
                ["made"],
                then_branch=helper.make_graph([node("Identity", ["start"], ["t"])], "t", [], [info("t")]),
                else_branch=helper.make_graph(
                    [node("Constant", [], ["n"], value=row(10**9)), node("ConstantOfShape", ["n"], ["e"])],
                    "e",
                    [],
                    [info("e")],
                ),
            ),
            *used("made"),
        ],
        BEGIN,
    ),
    "Scan over a long constant": model_with(
        [
            node("Expand", ["start", "sides"], ["long"]),
            node(
                "Scan",
                ["start", "long"],
                ["number", "all"],
                num_scan_inputs=1,
                body=helper.make_graph(
                    [node("Add", ["b", "s"], ["a"]), node("Identity", ["s"], ["o"])],
                    "scan",
                    [info("b"), info("s")],
                    [info("a"), info("o")],
                ),
            ),
        ],
        [*BEGIN, row(10**6, name="sides")],
    ),
    "many layers at once": model_with(
        [
            *(node("Resize", ["input", "", "scales"], [f"layer{n}"]) for n in range(60)),
            node("Sum", [f"layer{n}" for n in range(60)], ["made"]),
            *used("made"),
        ],
        [real([1, 1, 170, 170], "scales")],
    ),
    "gathered by a Loop": model_with(
        [
            loop(
                "count",
                body([ADDED, node("Expand", ["before", "sides"], ["wide"])], results=("after", "wide")),
                out=["last", "made"],
            ),
            *used("made"),
        ],
        [*BEGIN, row(1000, 1000, name="sides"), whole(1000, name="count")],
    ),
    "gathered as long as the picture says": model_with(
        [
            node("ReduceMax", ["input"], ["largest"], keepdims=0),
            loop(
                "",
                body(
                    [node("Add", ["before", "largest"], ["after"])],
                    condition=node("Greater", ["largest", "little"], ["goes"]),
                    results=("after", "before"),
                ),
                out=["number", "made"],
            ),
        ],
        BEGIN,
    ),
    "texts": model_with(
        [
            *(node("StringConcat", [f"text{n}"] * 2, [f"text{n + 1}"]) for n in range(40)),
            node("Shape", ["text40"], ["made"]),
            *used("made"),
        ],
        [helper.make_tensor("text0", TensorProto.STRING, [1], [b"ab"])],
        opset=20,
    ),
    "a sparse weight": model_with(used("made"), sparse=[helper.make_sparse_tensor(real([1], "made"), row(0), [2**33])]),
    "a picture": model_with([], shape=(1, 3, 2**20, 2**20), number=""),
}

_OPENS = """
import sys
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ModelError
for path in sys.argv[1:]:
    try:
        DeployedModel(path, device="cpu")
        print("opened")
    except ModelError as error:
        print(error)
"""


def opened(folder, models):
    """What opening each says, in a process of its own with little memory and time."""
    paths = [folder / f"{number}.onnx" for number, _ in enumerate(models)]
    for path, model in zip(paths, models, strict=True):
        path.write_bytes(model.SerializeToString())
    done = subprocess.run(
        [sys.executable, "-c", _OPENS, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [line.partition(".onnx: ")[2] or line for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", [LOOPS, MAKERS], ids=["turns", "numbers"])
def test_what_never_ends_or_fills_the_memory_is_refused_in_one_line(kind, tmp_path: Path):
    said = dict(zip(kind, opened(tmp_path, kind.values()), strict=True))
    let_through = [name for name, words in said.items() if words == "opened"]
    assert let_through == []
    for name, words in said.items():
        assert "export the model" in words, (name, words)
    if "Range" in said:
        assert said["Range"] == (
            "the model counts 7.53e+15 multiply-adds, more than 1e+13; Range at 'made' is the most costly, and makes "
            "7.5e+08 numbers of constants: no classifier needs as much: export the model without it, or raise "
            "--max-work"
        )


def test_a_larger_limit_opens_what_the_default_refuses(tmp_path: Path):
    path = tmp_path / "model.onnx"
    model = made("Range", [whole(0, name="a"), whole(2_000_000, name="b"), whole(1, name="c")], ["a", "b", "c"])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"counts 2.01e\+13 multiply-adds, more than 1e\+13; Range at 'made'"):
        DeployedModel(path)
    assert DeployedModel(path, max_work=10**14).classes == 5
    with pytest.raises(ModelError, match=r"counts 2.01e\+13 multiply-adds, more than 2e\+13"):
        Explainer(path, max_work=2 * 10**13)


NOTHING = helper.make_graph([], "nothing", [], [])
ONE = helper.make_graph([node("Neg", ["little"], ["t"])], "one", [], [info("t")])


def scan(count, inputs=("start", "long"), **attributes):
    inside = helper.make_graph([node("Add", ["b", "s"], ["a"])], "scan", [info("b"), info("s")], [info("a")])
    return node("Scan", list(inputs), ["number"], num_scan_inputs=count, body=inside, **attributes)


MALFORMED = {
    "a Loop whose body makes nothing": (loop("count", NOTHING), "index out of range"),
    "a Loop without a body": (node("Loop", ["count", "begins", "start"], ["number"]), "0 bodies in the place of 1"),
    "a Loop of no number of turns": (loop("nan", body([ADDED])), "cannot convert float NaN"),
    "an If with one branch": (node("If", ["begins"], ["number"], then_branch=ONE), "1 bodies in the place of 2"),
    "an If with three": (
        node("If", ["begins"], ["number"], then_branch=ONE, else_branch=ONE, third=ONE),
        "3 bodies in the place of 2",
    ),
    "an If with branches of other names": (node("If", ["begins"], ["number"], one=ONE, two=ONE), "is not in list"),
    "an If of nothing": (node("If", [], ["number"], then_branch=ONE, else_branch=ONE), "index out of range"),
    "a Scan of more than there is": (scan(2**40), "num_scan_inputs=1099511627776 of 2"),
    "a Scan of less than nothing": (scan(-1), "num_scan_inputs=-1 of 2"),
    "a Scan along an axis that is not there": (scan(1, scan_input_axes=[9]), "index out of range"),
    "a Scan along a text": (scan(1, scan_input_axes=["a"]), "must be integers"),
    "a SequenceMap of nothing": (node("SequenceMap", ["start"], ["number"]), "0 bodies in the place of 1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_control_flow_that_cannot_be_followed_is_refused_in_a_line(name: str, tmp_path: Path):
    wrong, why = MALFORMED[name]
    constants = [*BEGIN, whole(3, name="count"), real(np.nan, "nan"), real(np.ones(4), "long")]
    path = tmp_path / "model.onnx"
    path.write_bytes(model_with([wrong], constants).SerializeToString())
    with pytest.raises(
        ModelError, match=rf"model.onnx: {wrong.op_type} .* is not as the standard has it.*{why}"
    ) as caught:
        DeployedModel(path)
    assert "\n" not in str(caught.value)


# --- what real classifiers have -----------------------------------------------------------------------------------

WHOLE_BODY = body([node("Add", ["before", "input"], ["after"])])
LEGITIMATE = {
    "a Loop of three turns": model_with([loop("count", WHOLE_BODY)], [*BEGIN, whole(3, name="count")]),
    "as many turns as pictures": model_with(
        [node("Shape", ["input"], ["sides"]), node("Gather", ["sides", "first"], ["count"]), loop("count", WHOLE_BODY)],
        [*BEGIN, whole(0, name="first")],
        shape=(1, 3, 32, 32),
    ),
    "while the turn is less than 3": model_with(
        [loop("far", body([node("Add", ["before", "input"], ["after"])], condition=less_than("three")))],
        [*BEGIN, whole(2**63 - 1, name="far"), whole(3, name="three")],
    ),
    "as many turns as the picture says, but no more than seven": model_with(
        [
            node("ReduceMax", ["input"], ["largest"], keepdims=0),
            loop(
                "seven",
                body(
                    [node("Add", ["before", "little"], ["after"])],
                    condition=node("Less", ["before", "largest"], ["goes"]),
                ),
            ),
        ],
        [*BEGIN, whole(7, name="seven")],
        shape=(1, 3, 32, 32),
    ),
    "as many turns as the picture says": model_with(
        [
            node("ReduceMax", ["input"], ["largest"], keepdims=0),
            node("Abs", ["largest"], ["positive"]),
            node("Cast", ["positive"], ["count"], to=INT64),
            loop("count", body([ADDED])),
        ],
        BEGIN,
        shape=(1, 3, 32, 32),
    ),
    "a branch by the picture": model_with(
        [
            node("ReduceMax", ["input"], ["largest"], keepdims=0),
            node("Greater", ["largest", "zero"], ["bright"]),
            node(
                "If",
                ["bright"],
                ["number"],
                then_branch=helper.make_graph([node("Neg", ["little"], ["t"])], "t", [], [info("t")]),
                else_branch=helper.make_graph([node("Abs", ["little"], ["e"])], "e", [], [info("e")]),
            ),
        ],
        BEGIN,
        shape=(1, 3, 32, 32),
    ),
    "functions": model_with([node("level3", ["zero"], ["number"], domain="own")], functions=doubling(3)),
    "a table of a million numbers": model_with(
        [node("Expand", ["start", "sides"], ["made"]), *used("made")], [*BEGIN, row(1000, 1000, name="sides")]
    ),
    "many layers joined while the picture's size is open": model_with(
        [
            node("Conv", ["input", "patches"], ["part0"], strides=[32, 32]),
            *(node("Concat", [f"part{n}"] * 2, [f"part{n + 1}"], axis=1) for n in range(13)),
            *used("part13"),
        ],
        [real(np.ones((8, 3, 32, 32)) / 3072, "patches")],
        shape=("N", 3, "H", "W"),
    ),
    "a layer of 3 million numbers": model_with(
        [node("Resize", ["input", "", "scales"], ["made"]), *used("made")], [real([1, 1, 32, 32], "scales")]
    ),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_control_what_classifiers_have_is_explained(name: str, tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(LEGITIMATE[name].SerializeToString())
    explainer = Explainer(path, layer="input", method="window", window=8, background="mean", device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    explanation = explainer.explain(picture)
    assert np.isfinite(explanation.values).all()
    _, inputs, _ = explainer.deployed.prepare(picture)
    expected = ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": inputs[None]})[0]
    np.testing.assert_allclose(explainer.deployed.logits(inputs[None]), expected, rtol=1e-5, atol=1e-5)


def test_a_loop_that_the_picture_never_ends_is_ended_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnx_evidence.sessions.runtime._PATIENCE", 0.5)
    monkeypatch.setattr("onnx_evidence.sessions.runtime._PATIENCE_EACH", 0.0)
    endless = model_with(
        [
            node("ReduceMax", ["input"], ["largest"], keepdims=0),
            loop("", body([ADDED], condition=node("Greater", ["largest", "low"], ["goes"]))),
        ],
        [*BEGIN, real(-1e30, "low")],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(endless.SerializeToString())
    with pytest.raises(ModelError, match=r"model.onnx: a Loop of the model had not ended after 0.5 s: the picture"):
        DeployedModel(path, device="cpu")
    session = Session(endless, settle_device("cpu"))
    with pytest.raises(EndlessError, match="export the model with a largest number of turns"):
        session.run(np.zeros((2, 3, 32, 32), np.float32))


# --- the numbers ---------------------------------------------------------------------------------------------------


def counted(nodes, constants, shape=(1, 3, 8, 8), opset=18):
    """What is told of 'made', with the work, beside what plain ONNX Runtime makes of noise."""
    graph = helper.make_graph(nodes, "g", [info("input", shape=shape)], [onnx.ValueInfoProto(name="made")], constants)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    walk = WholeWalk(model, Path("m"), Limits(MAX_WORK, 1, 0), settled=True)
    picture = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    work = Work()
    (told,) = walk.graph(model.graph, {"input": of_shape(shape)}, work, ChainMap())
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return told, work, session.run(None, {"input": picture})[0]


X = "input"
SIZES = {
    "Conv": (
        [node("Conv", [X, "w"], ["made"], strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2])],
        [real(np.ones((4, 3, 3, 2)), "w")],
    ),
    "Conv same": (
        [node("Conv", [X, "w"], ["made"], strides=[3, 3], auto_pad="SAME_UPPER")],
        [real(np.ones((4, 3, 2, 2)), "w")],
    ),
    "ConvTranspose": (
        [node("ConvTranspose", [X, "w"], ["made"], strides=[3, 2], pads=[1, 0, 0, 1], output_padding=[1, 0])],
        [real(np.ones((3, 2, 4, 3)), "w")],
    ),
    "ConvTranspose same": (
        [node("ConvTranspose", [X, "w"], ["made"], strides=[3, 2], auto_pad="SAME_LOWER")],
        [real(np.ones((3, 2, 4, 3)), "w")],
    ),
    "ConvTranspose shape": (
        [node("ConvTranspose", [X, "w"], ["made"], strides=[2, 2], output_shape=[18, 17])],
        [real(np.ones((3, 2, 3, 3)), "w")],
    ),
    "MaxPool": ([node("MaxPool", [X], ["made"], kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1)], []),
    "AveragePool": ([node("AveragePool", [X], ["made"], kernel_shape=[2, 3], pads=[1, 1, 0, 0])], []),
    "GlobalAveragePool": ([node("GlobalAveragePool", [X], ["made"])], []),
    "MatMul": (
        [node("MatMul", [X, "w"], ["made"])],
        [real(np.ones((3, 8, 2)), "w")],
    ),
    "MatMul of a vector": ([node("MatMul", [X, "w"], ["made"])], [real(np.ones(8), "w")]),
    "Gemm": (
        [node("Flatten", [X], ["f"]), node("Gemm", ["f", "w"], ["made"], transB=1)],
        [real(np.ones((7, 192)), "w")],
    ),
    "Einsum": ([node("Einsum", [X, "w"], ["made"], equation="bchw,ck->bkh")], [real(np.ones((3, 4)), "w")]),
    "Einsum with dots": (
        [node("Einsum", [X, "w"], ["made"], equation="...hw,wk->...kh")],
        [real(np.ones((8, 4)), "w")],
    ),
    "Einsum with dots in both": (
        [node("Einsum", [X, "w"], ["made"], equation="...hw,...wk->...hk")],
        [real(np.ones((1, 3, 8, 4)), "w")],
    ),
    "Einsum without a result": ([node("Einsum", [X, "w"], ["made"], equation="bchw,wk")], [real(np.ones((8, 4)), "w")]),
    "ReduceMean": ([node("ReduceMean", [X, "a"], ["made"], keepdims=0)], [row(1, -1, name="a")]),
    "ArgMax": ([node("ArgMax", [X], ["made"], axis=-1, keepdims=0)], []),
    "Concat": ([node("Concat", [X, X, X], ["made"], axis=-2)], []),
    "Split": ([node("Split", [X], ["made", "b"], axis=2, num_outputs=2)], []),
    "Split in parts": ([node("Split", [X, "p"], ["b", "made"], axis=3)], [row(3, 5, name="p")]),
    "Gather": (
        [node("Gather", [X, "i"], ["made"], axis=1)],
        [numpy_helper.from_array(np.zeros((2, 5), np.int64), "i")],
    ),
    "GatherND": ([node("GatherND", [X, "i"], ["made"])], [numpy_helper.from_array(np.zeros((4, 2), np.int64), "i")]),
    "GatherElements": (
        [node("GatherElements", [X, "i"], ["made"])],
        [numpy_helper.from_array(np.zeros((1, 2, 8, 3), np.int64), "i")],
    ),
    "Slice": (
        [node("Slice", [X, "s", "e", "a", "t"], ["made"])],
        [row(-1, 1, name="s"), row(-9, 7, name="e"), row(2, -1, name="a"), row(-2, 3, name="t")],
    ),
    "Transpose": ([node("Transpose", [X], ["made"], perm=[3, 1, 0, 2])], []),
    "Reshape": ([node("Reshape", [X, "s"], ["made"])], [row(0, -1, 4, name="s")]),
    "Squeeze": ([node("Squeeze", [X, "a"], ["made"])], [row(0, name="a")]),
    "Unsqueeze": ([node("Unsqueeze", [X, "a"], ["made"])], [row(0, -1, name="a")]),
    "DepthToSpace": ([node("Concat", [X] * 4, ["f"], axis=1), node("DepthToSpace", ["f"], ["made"], blocksize=2)], []),
    "SpaceToDepth": ([node("SpaceToDepth", [X], ["made"], blocksize=4)], []),
    "TopK": ([node("TopK", [X, "k"], ["made", "b"], axis=2)], [row(3, name="k")]),
    "Expand": ([node("Expand", [X, "s"], ["made"])], [row(5, 1, 1, 1, name="s")]),
    "Tile": ([node("Tile", [X, "r"], ["made"])], [row(1, 2, 3, 1, name="r")]),
    "OneHot": (
        [node("ArgMax", [X], ["i"], axis=3), node("OneHot", ["i", "d", "v"], ["made"], axis=1)],
        [whole(7, name="d"), real([0, 1], "v")],
    ),
    "Resize by scales": ([node("Resize", [X, "", "s"], ["made"])], [real([1, 1, 2.6, 0.7], "s")]),
    "Resize by sizes": ([node("Resize", [X, "", "", "s"], ["made"])], [row(1, 3, 5, 21, name="s")]),
    "Resize of some axes": (
        [node("Resize", [X, "", "", "s"], ["made"], axes=[2, 3], keep_aspect_ratio_policy="not_smaller")],
        [row(5, 21, name="s")],
    ),
    "Pad": ([node("Pad", [X, "p"], ["made"])], [row(0, 0, 2, -1, 0, 1, 0, 3, name="p")]),
    "Pad of some axes": ([node("Pad", [X, "p", "", "a"], ["made"])], [row(2, 3, name="p"), row(-1, name="a")]),
    "broadcasting": ([node("Add", [X, "w"], ["made"])], [real(np.ones((4, 1, 1, 1, 1)), "w")]),
    "GridSample": ([node("GridSample", [X, "g"], ["made"])], [real(np.zeros((1, 5, 6, 2)), "g")]),
    "LSTM": (
        [node("Reshape", [X, "s"], ["f"]), node("LSTM", ["f", "w", "r"], ["made", "", ""], hidden_size=5)],
        [row(6, 4, 8, name="s"), real(np.ones((1, 20, 8)), "w"), real(np.ones((1, 20, 5)), "r")],
    ),
    "by its own sides": (
        [
            node("Shape", [X], ["s"], start=2),
            node("Concat", ["two", "s"], ["t"], axis=0),
            node("ConstantOfShape", ["t"], ["made"]),
        ],
        [row(2, name="two")],
    ),
    "by arithmetic": (
        [
            node("Shape", [X], ["s"]),
            node("Gather", ["s", "two"], ["h"]),
            node("Div", ["h", "three"], ["d"]),
            node("Mul", ["d", "three"], ["m"]),
            node("Range", ["zero", "m", "one"], ["made"]),
        ],
        [whole(2, name="two"), whole(3, name="three"), whole(0, name="zero"), whole(1, name="one")],
    ),
    "Range down": (
        [node("Range", ["a", "b", "c"], ["made"])],
        [whole(9, name="a"), whole(-3, name="b"), whole(-5, name="c")],
    ),
    "Range of fractions": ([node("Range", ["a", "b", "c"], ["made"])], [real(0, "a"), real(1, "b"), real(0.3, "c")]),
    "gathered by a Loop": (
        [
            loop(
                "count",
                body([ADDED, node("Expand", ["before", "sides"], ["wide"])], results=("after", "wide")),
                out=["last", "made"],
            )
        ],
        [*BEGIN, row(4, 5, name="sides"), whole(6, name="count")],
    ),
    "growing in a Loop": (
        [loop("count", body([node("Concat", ["before", "before"], ["after"], axis=0)]), out=["made"])],
        [BEGIN[0], real([1, 2, 3], "start"), whole(4, name="count")],
    ),
}
# What values decide is only bounded.
BOUNDED = {
    "NonZero": ([node("Relu", [X], ["r"]), node("NonZero", ["r"], ["made"])], []),
    "Unique": ([node("Cast", [X], ["i"], to=INT64), node("Unique", ["i"], ["made"])], []),
    "Compress": (
        [
            node("Greater", [X, "z"], ["c"]),
            node("Flatten", ["c"], ["f"], axis=0),
            node("Squeeze", ["f"], ["g"]),
            node("Compress", [X, "g"], ["made"]),
        ],
        [real(0, "z")],
    ),
    "Slice by values": (
        [
            node("ReduceMax", [X], ["m"], keepdims=0),
            node("Cast", ["m"], ["i"], to=INT64),
            node("Unsqueeze", ["i", "a"], ["e"]),
            node("Slice", [X, "a", "e", "t"], ["made"]),
        ],
        [row(0, name="a"), row(2, name="t")],
    ),
    "a Loop that ends by values": (
        [
            loop(
                "count",
                body([ADDED], condition=node("Less", ["before", "limit"], ["goes"]), results=("after", "before")),
                out=["last", "made"],
            )
        ],
        [*BEGIN, real(3e-6, "limit"), whole(9, name="count")],
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_that_the_runtime_makes(name: str):
    told, work, made = counted(*SIZES[name])
    assert told.size == made.size
    if told.shape is not None:
        assert told.shape == made.shape
    assert work.run >= made.size + NODE


@pytest.mark.parametrize("name", BOUNDED)
def test_what_values_decide_is_bounded(name: str):
    told, _, made = counted(*BOUNDED[name])
    assert told.size is not None
    assert told.size >= made.size
    assert not told.exact


def test_multiply_adds_are_those_of_closed_forms(tmp_path: Path):
    work = refuse_endless(classifier(), tmp_path, picture="input")
    convs = 8 * 27 * 256 + 2 * 8 * 72 * 256 + 12 * 72 * 64 + 12 * 108 * 64
    nodes = len(classifier().graph.node)
    assert convs + 60 < work.run - nodes * NODE < 1.1 * convs
    assert (work.made, work.told) == (0, 0)


def test_turns_are_multiplied_through_bodies():
    inside = body([node("MatMul", ["before", "square"], ["after"])])
    once, _, _ = (
        counted(
            [loop("count", inside, out=["made"])],
            [BEGIN[0], real(np.ones((4, 4)), "start"), real(np.ones((4, 4)), "square"), whole(count, name="count")],
        )[1].run
        for count in (1, 1, 1)
    )
    many = counted(
        [loop("count", inside, out=["made"])],
        [BEGIN[0], real(np.ones((4, 4)), "start"), real(np.ones((4, 4)), "square"), whole(50, name="count")],
    )[1].run
    # A turn: the turn itself, Identity of the condition, and a product of 64 multiply-adds with 16 results.
    assert (many - once) / 49 == NODE + (NODE + 1) + (NODE + 64 + 16)


def test_a_small_limit_bounds_nodes_too(tmp_path: Path):
    chain = [node("Relu", [f"n{n}" if n else "zero"], [f"n{n + 1}" if n < 119 else "number"]) for n in range(120)]
    with pytest.raises(ModelError, match=r"126 nodes .*more than 100: .*--max-work"):
        refuse_endless(model_with(chain), tmp_path, 10**10)


def test_loops_inside_each_other_are_not_written_out_without_end(tmp_path: Path):
    inside = node("Add", ["state2", "little"], ["after2"])
    for depth in (2, 1, 0):
        nodes = [node("Identity", [f"going{depth}"], [f"goes{depth}"]), inside]
        names = (f"turn{depth}", INT64), (f"going{depth}", BOOL), (f"state{depth}", FLOAT)
        results = [info(f"goes{depth}", BOOL, []), info(f"after{depth}", FLOAT, [])]
        repeated = helper.make_graph(nodes, "body", [info(name, kind, []) for name, kind in names], results)
        given, made = (f"state{depth - 1}", f"after{depth - 1}") if depth else ("start", "number")
        inside = node("Loop", ["count", "begins", given], [made], body=repeated)
    model = model_with([inside], [*BEGIN, whole(16, name="count")], shape=(1, 3, 32, 32))
    settled = settle_branches(model, "input", 1)
    assert settled > 0
    assert len(model.graph.node) < 3000
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    picture = np.ones((1, 3, 32, 32), np.float32)
    plain = model_with([], [real(4096e-6, "number")], shape=(1, 3, 32, 32))
    expected = ort.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"])
    found, sought = (each.run(None, {"input": picture})[0] for each in (session, expected))
    np.testing.assert_allclose(found, sought, rtol=1e-4)


def test_numbers_in_words():
    assert [in_words(number) for number in (7, 999_999, 750_000_000, 2**64)] == ["7", "999999", "7.5e+08", "1.84e+19"]
    assert in_words(10**400) == "about 1e398"

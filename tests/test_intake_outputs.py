"""Which output holds the class scores, in what form, where the logits are, and what is refused in which words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.errors import EvidenceError, ModelError, SettingError
from onnx_evidence.intake.model import Model, load_model
from tests import tiny

node = helper.make_node
Nodes = list[onnx.NodeProto]
K = 4
RNG = np.random.default_rng(2)
WEIGHTS = {"w": RNG.normal(size=(K, 3, 3, 3)).astype(np.float32), "b": np.array([0.4, -1, 0.3, 2], np.float32)}


def scores(
    *ending: onnx.NodeProto,
    outputs: dict[str, tuple[int | str, ...]] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
    classes: int = K,
    kinds: dict[str, int] | None = None,
) -> onnx.ModelProto:
    """Scores of four classes (N, 4, 1, 1) in 'pool' and (N, 4) in 'z', then ``ending``, which makes the outputs."""
    nodes = [
        node("Conv", ["input", "w", "b"], ["c"]),
        node("GlobalAveragePool", ["c"], ["pool"]),
        node("Flatten", ["pool"], ["z"]),
        *ending,
    ]
    held = {name: value[:classes] for name, value in WEIGHTS.items()} | (weights or {})
    wanted = outputs or {ending[-1].output[0] if ending else "z": ("N", classes)}
    first = next(iter(wanted))
    model = tiny.make_model(
        nodes, held, input_shape=("N", 3, 8, 8), output=first, output_shape=wanted[first], opset=opset
    )
    for name, shape in list(wanted.items())[1:]:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    for value in model.graph.output:
        if value.name in (kinds or {}):
            value.type.tensor_type.elem_type = kinds[value.name]
    return model


def write(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def opened(model: onnx.ModelProto, folder: Path, **options) -> DeployedModel:
    return DeployedModel(write(model, folder), device="cpu", **options)


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, 3, 8, 8)).astype(np.float32)


def tensor(model: onnx.ModelProto, name: str, x: np.ndarray) -> np.ndarray:
    """What the file itself holds in a tensor, run by ONNX Runtime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run([name], {"input": x})[0].astype(np.float64).reshape(len(x), -1)


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def refused(model: onnx.ModelProto, folder: Path, *words: str, error: type[EvidenceError] = ModelError, **given) -> str:
    with pytest.raises(error) as caught:
        _ = opened(model, folder, **given).classes
    said = str(caught.value)
    assert "\n" not in said
    for each in words:
        assert each in said, said
    return said


# --- the many ways to write a softmax -------------------------------------------------------------------------

AXIS = {"one": np.array([1]), "row": np.array([0, -1])}
TAKEN_OFF = [node("ReduceMax", ["z"], ["m"], axes=[1], keepdims=1), node("Sub", ["z", "m"], ["d"])]


def divided(of: str) -> Nodes:
    return [
        node("Exp", [of], ["e"]),
        node("ReduceSum", ["e", "one"], ["s"], keepdims=1),
        node("Div", ["e", "s"], ["out"]),
    ]


SOFTMAXES: dict[str, tuple[Nodes, int, str]] = {
    "node": ([node("Softmax", ["z"], ["out"])], 17, "z"),
    "opset 12, default axis": ([node("Softmax", ["pool"], ["p"]), node("Flatten", ["p"], ["out"])], 12, "pool"),
    "opset 13, named axis": ([node("Softmax", ["pool"], ["p"], axis=1), node("Flatten", ["p"], ["out"])], 13, "pool"),
    "exponentials": (divided("z"), 17, "z"),
    "exponentials, largest off": ([*TAKEN_OFF, *divided("d")], 17, "z"),
    "log-sum-exp": (
        [
            node("ReduceLogSumExp", ["z"], ["l"], axes=[1], keepdims=1),
            node("Sub", ["z", "l"], ["lp"]),
            node("Exp", ["lp"], ["out"]),
        ],
        17,
        "z",
    ),
    "transposed": (
        [
            node("Transpose", ["pool"], ["t"], perm=[0, 2, 3, 1]),
            node("Softmax", ["t"], ["p"], axis=3),
            node("Squeeze", ["p", "inner"], ["out"]),
        ],
        17,
        "t",
    ),
    "clipped": ([node("Softmax", ["z"], ["p"]), node("Clip", ["p", "low", "high"], ["out"])], 17, "z"),
    "temperature": ([node("Div", ["z", "two"], ["t"]), node("Softmax", ["t"], ["out"])], 17, "t"),
    "dropped out": (
        [node("Dropout", ["z"], ["q"]), node("Softmax", ["q"], ["p"]), node("Identity", ["p"], ["out"])],
        17,
        "q",
    ),
    "half precision": (
        [
            node("Cast", ["z"], ["h"], to=TensorProto.FLOAT16),
            node("Softmax", ["h"], ["p"]),
            node("Cast", ["p"], ["out"], to=TensorProto.FLOAT),
        ],
        17,
        "onnx_evidence.cast",
    ),
    "computed shape": (
        [
            node("Softmax", ["z"], ["p"]),
            node("Shape", ["c"], ["sh"]),
            node("Gather", ["sh", "nought"], ["n"]),
            node("Concat", ["n", "minus"], ["to"], axis=0),
            node("Reshape", ["p", "to"], ["out"]),
        ],
        17,
        "z",
    ),
}
CONSTANTS = AXIS | {
    "inner": np.array([1, 2]),
    "low": np.array(1e-7, np.float32),
    "high": np.array(1 - 1e-7, np.float32),
    "two": np.array(2, np.float32),
    "nought": np.array([0]),
    "minus": np.array([-1]),
}


def used(nodes: Nodes) -> dict[str, np.ndarray]:
    return {name: value for name, value in CONSTANTS.items() if any(name in each.input for each in nodes)}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_is_seen_through_however_it_is_written(tmp_path: Path, name: str):
    nodes, opset, logits = SOFTMAXES[name]
    model = scores(*nodes, weights=used(nodes), opset=opset)
    deployed = opened(model, tmp_path)
    found = deployed.model
    assert (found.output_kind, found.logits_name, found.class_kind.name) == ("probabilities", logits, "exclusive")
    assert (found.binary, found.output_note) == (False, None)
    x = pictures()
    z = deployed.canonical(x)
    assert z.min() < 0, "probabilities would not be"
    np.testing.assert_allclose(softmax(z), tensor(model, "out", x), atol=2e-3 if name == "half precision" else 1e-6)
    # A gradient goes all the way back, through what was appended too.
    assert not deployed.missing_rules("input")


def test_a_log_softmax_is_seen_through(tmp_path: Path):
    model = scores(node("LogSoftmax", ["z"], ["out"]))
    found = opened(model, tmp_path)
    assert (found.model.output_kind, found.model.logits_name) == ("log-probabilities", "z")
    x = pictures()
    np.testing.assert_allclose(np.log(softmax(found.canonical(x))), tensor(model, "out", x), atol=1e-5)


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ([node("Softmax", ["z"], ["out"], axis=0)], "Softmax along axis 0 of N x 4, not over the classes"),
        ([node("Softmax", ["pool"], ["out"], axis=2)], "Softmax along axis 2 of N x 4 x 1 x 1"),
        ([node("Softmax", ["pool"], ["p"]), node("Flatten", ["p"], ["out"])], "Softmax along axis its default"),
        ([node("LogSoftmax", ["z"], ["out"], axis=0)], "LogSoftmax along axis 0"),
    ],
)
def test_a_softmax_along_another_axis_is_refused(tmp_path: Path, ending: Nodes, words: str):
    shape = ("N", K, 1, 1) if ending[-1].input[0] == "pool" else ("N", K)
    refused(scores(*ending, outputs={"out": shape}), tmp_path, words, "export the model with its logits")


def test_what_only_looks_like_a_softmax_is_none(tmp_path: Path):
    """Exponentials over the sum of something else: attention-like, no probabilities."""
    nodes = [
        node("Exp", ["z"], ["e"]),
        node("ReduceSum", ["e", "nought"], ["s"], keepdims=1),  # over the batch
        node("Div", ["e", "s"], ["p"]),
        node("Mul", ["p", "z"], ["out"]),
    ]
    found = opened(scores(*nodes, weights={"nought": np.array([0])}), tmp_path).model
    assert (found.output_kind, found.logits_name) == ("logits", "out")


@pytest.mark.parametrize("shape", [(0, -1, 1, 1), (0, 1, -1), (0, -1), (0, 1, 1, -1)])
def test_singleton_axes_may_be_anywhere(tmp_path: Path, shape: tuple[int, ...]):
    wanted = ("N", *(K if side == -1 else 1 for side in shape[1:]))
    for last in ([], [node("Softmax", ["v"], ["out"], axis=list(shape).index(-1))]):
        end = "out" if last else "v"
        model = scores(
            node("Reshape", ["pool", "to"], ["v"]), *last, outputs={end: wanted}, weights={"to": np.array(shape)}
        )
        deployed = opened(model, tmp_path)
        assert deployed.classes == K
        x = pictures()
        z = deployed.canonical(x)
        np.testing.assert_allclose(softmax(z) if last else z, tensor(model, end, x), atol=1e-6)


# --- sigmoids -------------------------------------------------------------------------------------------------


def test_sigmoids_of_several_are_independent_labels(tmp_path: Path):
    model = scores(node("Sigmoid", ["z"], ["p"]), node("Identity", ["p"], ["out"]))
    deployed = opened(model, tmp_path)
    found = deployed.model
    assert (found.output_kind, found.logits_name, found.class_kind.name) == ("probabilities", "z", "independent")
    x = pictures()
    np.testing.assert_allclose(sigmoid(deployed.canonical(x)), tensor(model, "out", x), atol=1e-6)


ONE_SIGMOID: dict[str, tuple[Nodes, dict[str, tuple[int | str, ...]], int]] = {
    "column": ([node("Sigmoid", ["z"], ["out"])], {"out": ("N", 1)}, 1),
    "four axes": ([node("Sigmoid", ["pool"], ["out"])], {"out": ("N", 1, 1, 1)}, 1),
    "squeezed": ([node("Sigmoid", ["z"], ["p"]), node("Squeeze", ["p", "one"], ["out"])], {"out": ("N",)}, 1),
    "both, that last": (
        [node("Sigmoid", ["z"], ["p"]), node("Sub", ["unit", "p"], ["q"]), node("Concat", ["q", "p"], ["out"], axis=1)],
        {"out": ("N", 2)},
        1,
    ),
    "both, that first": (
        [node("Sigmoid", ["z"], ["p"]), node("Sub", ["unit", "p"], ["q"]), node("Concat", ["p", "q"], ["out"], axis=1)],
        {"out": ("N", 2)},
        0,
    ),
}


@pytest.mark.parametrize("name", ONE_SIGMOID)
def test_one_sigmoid_becomes_two_classes(tmp_path: Path, name: str):
    nodes, outputs, place = ONE_SIGMOID[name]
    held = {"one": np.array([1]), "unit": np.array(1, np.float32)}
    weights = {key: value for key, value in held.items() if any(key in each.input for each in nodes)}
    model = scores(*nodes, outputs=outputs, classes=1, weights=weights)
    deployed = opened(model, tmp_path)
    assert (deployed.classes, deployed.model.binary, deployed.model.class_kind.name) == (2, True, "exclusive")
    x = pictures()
    logits = deployed.canonical(x)
    p = tensor(model, "p" if any("p" in each.output for each in nodes) else "out", x)[:, 0]
    np.testing.assert_allclose(softmax(logits)[:, place], p, atol=1e-6)
    np.testing.assert_allclose(logits[:, 1 - place], 0, atol=0)
    gradient = deployed.gradient(deployed.graph.cuts[0])
    from onnx_evidence.evidence.score import Score

    score = Score.of(2, place)
    slope = gradient(x[:1], score.direction, score.rest)[1][0]
    step = np.zeros_like(x[:1])
    step[0, 1, 4, 4] = 0.05
    ends = score.bits(deployed.canonical(np.concatenate([x[:1] - step, x[:1] + step]))) * np.log(2)
    assert slope[1, 4, 4] == pytest.approx((ends[1] - ends[0]) / 0.1, rel=1e-3)
    assert abs(slope[1, 4, 4]) > 1e-3


@pytest.mark.parametrize("names", [["dog"], ["not dog", "dog"]])
def test_a_binary_classifier_takes_one_name_or_two(tmp_path: Path, names: list[str]):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(names))
    model = scores(node("Sigmoid", ["z"], ["out"]), outputs={"out": ("N", 1)}, classes=1)
    deployed = opened(model, tmp_path, labels=file)
    assert [deployed.label(number) for number in range(deployed.classes)] == ["not dog", "dog"]
    assert deployed.find_class("dog") == 1


def test_a_number_without_sigmoid_is_a_regression_unless_it_is_said_to_be_a_label(tmp_path: Path):
    model = scores(outputs={"z": ("N", 1)}, classes=1)
    refused(model, tmp_path, "one number per picture", "regression", "--classes independent")
    deployed = opened(model, tmp_path, classes="independent")
    assert (deployed.classes, deployed.model.binary) == (2, True)
    x = pictures()
    np.testing.assert_allclose(deployed.canonical(x)[:, 1], tensor(model, "z", x)[:, 0], atol=1e-6)


# --- exclusive or independent ---------------------------------------------------------------------------------


def kind(model: Model) -> tuple[str, str]:
    return model.output_kind, model.class_kind.name


def test_logits_are_exclusive_unless_somebody_knows_better(tmp_path: Path):
    path = write(scores(), tmp_path)
    assert kind(load_model(path)) == ("logits", "exclusive")
    assert kind(load_model(path, recorded_classes="independent")) == ("logits", "independent")
    assert kind(load_model(path, classes="independent")) == ("logits", "independent")
    assert kind(load_model(path, classes="exclusive", recorded_classes="independent")) == ("logits", "exclusive")
    explainer = Explainer(path, device="cpu", classes="independent", preprocess="none")
    found = explainer.explain(np.full((8, 8, 3), 99, np.uint8), target=1)
    assert found.log_odds_bits == pytest.approx(
        tensor(onnx.load(path), "z", np.full((1, 3, 8, 8), 99, np.float32))[0, 1] / np.log(2), rel=1e-5
    )


@pytest.mark.parametrize(("last", "given"), [("Softmax", "independent"), ("Sigmoid", "exclusive")])
def test_a_kind_that_contradicts_the_graph_is_refused(tmp_path: Path, last: str, given: str):
    model = scores(node(last, ["z"], ["out"]))
    refused(model, tmp_path, f"classes {given!r}", "'out'", "leave it out", error=SettingError, classes=given)
    # What lies beside the file does not go before the graph.
    assert load_model(write(model, tmp_path), recorded_classes=given).class_kind.name != given


def test_an_unknown_kind_is_refused(tmp_path: Path):
    refused(scores(), tmp_path, "'both' is unknown", "exclusive, independent", error=SettingError, classes="both")


# --- probabilities whose logits cannot be found ---------------------------------------------------------------

TWO_HEADS = [
    node("Softmax", ["z"], ["p"]),
    node("Mul", ["z", "two"], ["y"]),
    node("Neg", ["y"], ["x"]),
    node("Softmax", ["x"], ["q"]),
    node("Add", ["p", "q"], ["sum"]),
    node("Div", ["sum", "two"], ["out"]),
]
TWO = {"two": np.array(2, np.float32)}


@pytest.mark.parametrize("opset", [9, 17])
def test_of_a_mean_of_softmaxes_the_logarithms_are_the_logits(tmp_path: Path, opset: int):
    model = scores(*TWO_HEADS, weights=TWO, opset=opset)
    deployed = opened(model, tmp_path)
    found = deployed.model
    assert kind(found) == ("probabilities", "exclusive")
    assert "logarithms of the probabilities" in found.output_note
    x = pictures()
    np.testing.assert_allclose(np.exp(deployed.canonical(x)), tensor(model, "out", x), rtol=1e-5)
    assert not deployed.missing_rules("input")


def test_probabilities_of_zero_have_the_least_logarithm(tmp_path: Path):
    model = scores(*TWO_HEADS, weights=TWO | {"b": np.array([0, 400, 0, -400], np.float32)})
    logits = opened(model, tmp_path).canonical(pictures())
    assert np.isfinite(logits).all()
    assert logits.min() == pytest.approx(np.log(np.finfo(np.float32).tiny), rel=1e-6)


def test_of_a_mean_of_sigmoids_the_log_odds_are_the_logits(tmp_path: Path):
    nodes = [
        node("Sigmoid" if each.op_type == "Softmax" else each.op_type, each.input, each.output) for each in TWO_HEADS
    ]
    model = scores(*nodes, weights=TWO)
    deployed = opened(model, tmp_path)
    assert kind(deployed.model) == ("probabilities", "independent")
    x = pictures()
    np.testing.assert_allclose(sigmoid(deployed.canonical(x)), tensor(model, "out", x), rtol=1e-5)
    single = scores(*nodes, outputs={"out": ("N", 1)}, classes=1, weights=TWO)
    deployed = opened(single, tmp_path)
    assert (deployed.classes, deployed.model.binary) == (2, True)
    np.testing.assert_allclose(softmax(deployed.canonical(x))[:, 1], tensor(single, "out", x)[:, 0], rtol=1e-5)


def test_scores_that_are_not_negative_are_still_logits(tmp_path: Path):
    model = scores(node("Relu", ["z"], ["out"]))
    deployed = opened(model, tmp_path)
    assert kind(deployed.model) == ("logits", "exclusive")
    x = pictures()
    np.testing.assert_allclose(deployed.canonical(x), tensor(model, "out", x), atol=1e-6)


def test_rows_that_are_no_probabilities_are_refused(tmp_path: Path):
    """A gate that shuts for dark pictures: all scores are 0 there."""
    gate = [
        node("ReduceMax", ["input"], ["most"], axes=[1, 2, 3], keepdims=0),
        node("Unsqueeze", ["most", "one"], ["column"]),
        node("Sign", ["column"], ["sign"]),
        node("Relu", ["sign"], ["open"]),
        node("Mul", ["mean", "open"], ["out"]),
    ]
    heads = [*TWO_HEADS[:-1], node("Div", ["sum", "two"], ["mean"])]
    deployed = opened(scores(*heads, *gate, weights=TWO | AXIS | {}), tmp_path)
    assert deployed.model.output_note is not None
    deployed.logits(np.abs(pictures()))
    with pytest.raises(ModelError, match=r"no probabilities for this picture: they add up to .*, not to 1"):
        deployed.logits(-np.abs(pictures()) - 1)


HUNDRED = {"hundred": np.array(100, np.float32)}


@pytest.mark.parametrize("maker", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("half", [False, True])
def test_percentages_are_refused_and_their_probabilities_named(maker: str, half: bool, tmp_path: Path):
    """Taken as logits, 86 % would become a probability of 1.0000."""
    nodes = [node(maker, ["z"], ["p"]), node("Mul", ["p", "hundred"], ["wide"])]
    nodes.append(node("Cast", ["wide"], ["out"], to=TensorProto.FLOAT16 if half else TensorProto.FLOAT))
    kinds = {"out": TensorProto.FLOAT16} if half else {}
    model = scores(*nodes, weights=HUNDRED, kinds=kinds)
    with pytest.raises(ModelError, match=r"'out' holds probabilities times \d.*; they are in 'p': pass --output p$"):
        opened(model, tmp_path)
    x = pictures()
    deployed = opened(model, tmp_path, output="p")
    assert kind(deployed.model) == ("probabilities", "exclusive" if maker == "Softmax" else "independent")
    answer = deployed.answer(x[0])
    np.testing.assert_allclose(answer.probabilities(list(range(K))), tensor(model, "p", x)[0], atol=1e-9)


def test_percentages_of_a_mean_of_softmaxes_are_refused(tmp_path: Path):
    model = scores(*TWO_HEADS, node("Mul", ["out", "hundred"], ["pct"]), weights=TWO | HUNDRED)
    with pytest.raises(ModelError, match=r"output 'pct' holds shares that add up to 100, not to 1"):
        opened(model, tmp_path)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("maker", ["Softmax", "Sigmoid"])
def test_probabilities_may_be_rounded_to_half_precision(maker: str, wide: bool, tmp_path: Path):
    nodes = [node(maker, ["z"], ["p"]), node("Cast", ["p"], ["half"], to=TensorProto.FLOAT16)]
    nodes += [node("Cast", ["half"], ["out"], to=TensorProto.FLOAT)] if wide else []
    name = nodes[-1].output[0]
    model = scores(*nodes, outputs={name: ("N", K)}, kinds={} if wide else {name: TensorProto.FLOAT16})
    deployed, x = opened(model, tmp_path), pictures()
    assert (kind(deployed.model)[0], deployed.model.source_name) == ("probabilities", "z")
    answer = deployed.answer(x[0])
    np.testing.assert_array_equal(answer.probabilities(list(range(K))), tensor(model, name, x)[0])


@pytest.mark.parametrize("maker", ["Softmax", "Sigmoid"])
def test_probabilities_may_be_rounded_to_bfloat16(maker: str, tmp_path: Path):
    nodes = [node(maker, ["z"], ["p"]), node("Cast", ["p"], ["out"], to=TensorProto.BFLOAT16)]
    model = scores(*nodes, outputs={"out": ("N", K)}, kinds={"out": TensorProto.BFLOAT16})
    deployed, x = opened(model, tmp_path), pictures()
    assert (kind(deployed.model)[0], deployed.model.source_name) == ("probabilities", "z")
    said = deployed.answer(x[0]).probabilities(list(range(K)))
    wide = tensor(model, "p", x)[0]
    np.testing.assert_array_equal(said, wide.astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)))
    assert np.abs(said - wide).max() > 1e-5  # the control


def test_a_softmax_over_something_else_is_none_in_bfloat16_either(tmp_path: Path):
    nodes = [node("Softmax", ["z"], ["p"], axis=0), node("Cast", ["p"], ["out"], to=TensorProto.BFLOAT16)]
    model = scores(*nodes, outputs={"out": ("N", K)}, kinds={"out": TensorProto.BFLOAT16})
    refused(model, tmp_path, "output 'out' is a Softmax along axis 0 of N x 4, not over the classes of one picture")


# --- which output ---------------------------------------------------------------------------------------------


def test_the_only_output_that_looks_like_scores_is_taken(tmp_path: Path):
    ending = [node("ArgMax", ["z"], ["label"], axis=1, keepdims=0), node("Softmax", ["z"], ["probabilities"])]
    outputs = {"label": ("N",), "probabilities": ("N", K), "c": ("N", K, 6, 6)}
    deployed = opened(scores(*ending, outputs=outputs, kinds={"label": TensorProto.INT64}), tmp_path)
    assert (deployed.model.output_name, deployed.model.other_outputs) == ("probabilities", ("label", "c"))


def test_logits_and_their_probabilities_are_the_same_scores(tmp_path: Path):
    model = scores(node("Softmax", ["z"], ["p"]), outputs={"p": ("N", K), "z": ("N", K)})
    found = opened(model, tmp_path).model
    assert (found.output_name, found.logits_name) == ("p", "z")


def test_two_that_might_be_are_listed(tmp_path: Path):
    model = scores(node("Mul", ["z", "two"], ["y"]), outputs={"z": ("N", K), "y": ("N", K)}, weights=TWO)
    refused(model, tmp_path, "2 outputs look like class scores", "--output NAME", "'z' (float N x 4)", "'y' (float")
    for name in ("z", "y"):
        deployed = opened(model, tmp_path, output=name)
        assert deployed.model.output_name == name
        np.testing.assert_allclose(deployed.canonical(pictures()), tensor(model, name, pictures()), atol=1e-6)


def test_an_output_that_is_not_there_is_refused(tmp_path: Path):
    refused(scores(), tmp_path, "no output 'scores'", "'z' (float N x 4)", output="scores")


def test_a_tensor_inside_may_be_named(tmp_path: Path):
    """Where the file ends in the winner's number, as the refusal says."""
    model = scores(
        node("ArgMax", ["z"], ["label"], axis=1, keepdims=0),
        outputs={"label": ("N",)},
        kinds={"label": TensorProto.INT64},
    )
    refused(model, tmp_path, "'label' holds the winner's number (ArgMax)", "pass --output z")
    np.testing.assert_allclose(
        opened(model, tmp_path, output="z").canonical(pictures()), tensor(model, "z", pictures())
    )


# --- what is no classifier ------------------------------------------------------------------------------------


def plain(*nodes: onnx.NodeProto, outputs: dict[str, tuple[int | str, ...]], **more) -> onnx.ModelProto:
    return scores(*nodes, outputs=outputs, **more)


def boxes() -> onnx.ModelProto:
    """One row of 9 numbers for each of 400 places, as YOLO has them."""
    return plain(
        node("MatMul", ["z", "wide"], ["flat"]),
        node("Reshape", ["flat", "to"], ["out"]),
        outputs={"out": ("N", 400, 9)},
        weights={"wide": RNG.normal(size=(K, 3600)).astype(np.float32), "to": np.array([0, 400, 9])},
    )


def suppressed() -> onnx.ModelProto:
    nodes = [
        node("Reshape", ["z", "box"], ["boxes"]),
        node("Reshape", ["z", "three"], ["s"]),
        node("NonMaxSuppression", ["boxes", "s"], ["kept"]),
        node("Cast", ["kept"], ["k"], to=TensorProto.FLOAT),
        node("ReduceMean", ["k"], ["mean"], keepdims=0),
        node("Mul", ["z", "mean"], ["out"]),
    ]
    return plain(*nodes, outputs={"out": ("N", K)}, weights={"box": np.array([0, 1, 4]), "three": np.array([0, 4, 1])})


def steps() -> onnx.ModelProto:
    return plain(
        node("Reshape", ["c", "to"], ["r"]),
        node("Softmax", ["r"], ["out"], axis=2),
        outputs={"out": ("N", 36, 4)},
        weights={"to": np.array([0, 36, 4])},
    )


def time_first() -> onnx.ModelProto:
    return plain(
        node("Reshape", ["c", "to"], ["r"]),
        node("Transpose", ["r"], ["out"], perm=[2, 0, 1]),
        outputs={"out": (36, "N", 4)},
        weights={"to": np.array([0, 4, 36])},
    )


def unit_vector(*lengths: onnx.NodeProto, op_type: str = "Div") -> onnx.ModelProto:
    weights = {"least": np.array(1e-6, np.float32), "one": np.array([1])}
    held = {name: value for name, value in weights.items() if any(name in each.input for each in lengths)}
    last = node(op_type, ["z", lengths[-1].output[0]], ["out"])
    return plain(*lengths, last, outputs={"out": ("N", K)}, weights=held)


def topped() -> onnx.ModelProto:
    return plain(node("TopK", ["z", "two"], ["out", "i"]), outputs={"out": ("N", 2)}, weights={"two": np.array([2])})


def listed() -> onnx.ModelProto:
    model = plain(node("SequenceConstruct", ["z", "z"], ["out"]), outputs={"out": ("N", K)})
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output[0].type.CopyFrom(kind)
    return model


REFUSALS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...]]] = {
    "boxes": (boxes, ("this is a detector", "N x 400 x 9", "explain a classifier of its crops")),
    "suppression": (suppressed, ("this is a detector", "NonMaxSuppression")),
    "maps of several sizes": (
        lambda: plain(
            node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2]), outputs={"c": ("N", K, 6, 6), "d": ("N", K, 5, 5)}
        ),
        ("this is a detector", "maps of several sizes"),
    ),
    "map": (lambda: plain(outputs={"c": ("N", K, 6, 6)}), ("N x 4 x 6 x 6", "a segmenter", "append to the graph")),
    "winners of a map": (
        lambda: plain(
            node("ArgMax", ["c"], ["out"], axis=1, keepdims=0),
            outputs={"out": ("N", 6, 6)},
            kinds={"out": TensorProto.INT64},
        ),
        ("the winner's number (ArgMax)",),
    ),
    "steps": (steps, ("N x 36 x 4", "every step of a sequence")),
    "time first": (time_first, ("36 x 1 x 4", "every step of a sequence")),
    "LpNormalization": (
        lambda: plain(node("LpNormalization", ["z"], ["out"], axis=1), outputs={"out": ("N", K)}),
        ("a vector of length 1 (LpNormalization", "an embedding"),
    ),
    "x / |x|": (
        lambda: unit_vector(
            node("ReduceL2", ["z"], ["l"], axes=[1], keepdims=1), node("Max", ["l", "least"], ["length"])
        ),
        ("a vector of length 1 (Div", "an embedding"),
    ),
    "x / sqrt(x x)": (
        lambda: unit_vector(
            node("Mul", ["z", "z"], ["sq"]), node("ReduceSum", ["sq", "one"], ["s"]), node("Sqrt", ["s"], ["length"])
        ),
        ("an embedding",),
    ),
    "x * 1 / |x|": (
        lambda: unit_vector(
            node("ReduceL2", ["z"], ["l"], axes=[1], keepdims=1), node("Reciprocal", ["l"], ["r"]), op_type="Mul"
        ),
        ("an embedding",),
    ),
    "best two": (topped, ("the best classes (TopK)", "pass --output z")),
    "a sequence": (listed, ("is a sequence, not a tensor", "made of 'z'", "pass --output")),
    "one number for all": (
        lambda: plain(node("ReduceMean", ["z"], ["out"], keepdims=0), outputs={"out": ()}),
        ("a single number, whatever the number of pictures",),
    ),
    "whole numbers": (
        lambda: plain(
            node("Cast", ["z"], ["out"], to=TensorProto.INT32),
            outputs={"out": ("N", K)},
            kinds={"out": TensorProto.INT32},
        ),
        ("holds whole numbers",),
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_classifier_is_refused_with_the_reason(tmp_path: Path, name: str):
    make, words = REFUSALS[name]
    refused(make(), tmp_path, *words)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Div", ["z", "two"], ["out"])],
        [node("ReduceL2", ["c"], ["l"], axes=[1, 2, 3], keepdims=0), node("Unsqueeze", ["l", "one"], ["u"]),
         node("Div", ["z", "u"], ["out"])],
        [node("ReduceMax", ["z"], ["m"], axes=[1], keepdims=1), node("Div", ["z", "m"], ["out"])],
    ],
    ids=["a constant", "another length", "the largest"],
)  # fmt: skip
def test_control_what_is_divided_by_something_else_is_no_embedding(tmp_path: Path, nodes: Nodes):
    weights = {
        key: value for key, value in (TWO | {"one": np.array([1])}).items() if any(key in each.input for each in nodes)
    }
    assert opened(scores(*nodes, weights=weights), tmp_path).classes == K


def test_labels_of_a_file_are_not_multiplied_where_nothing_is_binary():
    from onnx_evidence.intake.labels import name_both

    assert name_both(None) is None
    assert name_both(("a", "b")) == ("a", "b")
    assert numpy_helper.to_array(numpy_helper.from_array(WEIGHTS["b"])).shape == (K,)

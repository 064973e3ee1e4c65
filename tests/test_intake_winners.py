"""Ends of files that Azure Custom Vision and converters of scikit-learn write: winners' names, and ZipMaps."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.errors import ModelError, TargetError
from onnx_evidence.intake.labels import find_class
from tests import tiny

node = helper.make_node
ML = "ai.onnx.ml"
NAMES = ["none", "red", "blue", "green", "grey"]
RNG = np.random.default_rng(9)
FACTORS, BIAS = RNG.normal(size=(5, 12)).astype(np.float32), RNG.normal(size=5).astype(np.float32)
STRINGS, NUMBERS, FLOATS = TensorProto.STRING, TensorProto.INT64, TensorProto.FLOAT


def ml(op_type: str, inputs: list[str], outputs: list[str], **given: object) -> onnx.NodeProto:
    return node(op_type, inputs, outputs, domain=ML, **given)


def ending(
    *nodes: onnx.NodeProto,
    outputs: dict[str, int],
    opset: int = 17,
    recorded: bool = False,
    rank: int = 1,
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """The tiny classifier, (N, 12) in 'flat' and (N, 5) in 'logits', with another end.

    Of outputs, a type is that of a tensor with as many axes as ``rank``, a negative one that of the keys of a map.
    """
    model = tiny.classifier(recorded=recorded)
    model.graph.node.extend(nodes)
    model.opset_import[0].version = opset
    model.opset_import.append(helper.make_opsetid(ML, 2))
    held = {"names": np.array(NAMES, object)} | (constants or {})
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in held.items())
    del model.graph.output[:]
    for name, kind in outputs.items():
        value = model.graph.output.add(name=name)
        if kind > 0:
            value.type.CopyFrom(helper.make_tensor_type_proto(kind, [None] * rank))
        else:
            pairs = helper.make_map_type_proto(-kind, helper.make_tensor_type_proto(FLOATS, []))
            value.type.CopyFrom(helper.make_sequence_type_proto(pairs))
    onnx.checker.check_model(model)
    return model


def written(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(path: Path, output: str) -> tuple[np.ndarray, object]:
    """Pictures, and what the file itself says of them."""
    x = np.random.default_rng(3).normal(size=(6, 3, 32, 32)).astype(np.float32)
    # Of different strength, so that not all have the same winner.
    x *= np.array([3, 1, 0.1, 0, -0.3, -2], np.float32).reshape(-1, 1, 1, 1)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return x, session.run([output], {"input": x})[0]


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


PROBABILITIES = [node("Softmax", ["logits"], ["prob"])]
WINNER = [
    node("ArgMax", ["prob"], ["best"], axis=1, keepdims=1),
    ml("ArrayFeatureExtractor", ["names", "best"], ["classLabel"]),
]
SWAPPED = [NAMES[1], NAMES[0], *NAMES[2:]]
ZIPPED = [ml("ZipMap", ["prob"], ["loss"], classlabels_strings=NAMES)]


@pytest.mark.parametrize("given", [{}, {"output": "loss"}, {"output": "classLabel"}, {"output": "prob"}])
def test_a_map_of_names_is_looked_through(tmp_path: Path, given: dict[str, str]):
    """As Azure Custom Vision writes it."""
    model = ending(*PROBABILITIES, *WINNER, *ZIPPED, outputs={"classLabel": STRINGS, "loss": -STRINGS}, rank=2)
    path = written(model, tmp_path)
    deployed = DeployedModel(path, device="cpu", **given)
    found = deployed.model
    assert (found.output_name, found.output_kind, found.logits_name) == ("prob", "probabilities", "logits")
    assert (found.labels, found.other_outputs) == (tuple(NAMES), ())
    x, maps = run(path, "loss")
    p = softmax(deployed.logits(x))
    assert [max(each, key=each.get) for each in maps] == [deployed.label(int(row.argmax())) for row in p]
    np.testing.assert_allclose(p, [[each[name] for name in NAMES] for each in maps], atol=1e-6)


@pytest.mark.parametrize(
    "winner",
    [
        WINNER,
        [node("ArgMax", ["prob"], ["best"], axis=1, keepdims=0), node("Gather", ["names", "best"], ["classLabel"])],
        [
            node("ArgMax", ["prob"], ["best"], axis=1, keepdims=0),
            ml("LabelEncoder", ["best"], ["classLabel"], keys_int64s=[1, 0, 2, 3, 4], values_strings=SWAPPED),
        ],
        [
            node("TopK", ["prob", "single"], ["most", "best"], axis=1),
            node("Gather", ["names", "best"], ["name"]),
            node("Reshape", ["name", "row"], ["classLabel"]),
        ],
    ],
    ids=["ArrayFeatureExtractor", "Gather", "LabelEncoder", "TopK"],
)  # fmt: skip
def test_the_name_of_the_winner_is_looked_through(tmp_path: Path, winner: list[onnx.NodeProto]):
    rank = 2 if winner is WINNER else 1
    held = {"single": np.array([1]), "row": np.array([-1])}
    model = ending(*PROBABILITIES, *winner, outputs={"classLabel": STRINGS}, rank=rank, constants=held)
    path = written(model, tmp_path)
    deployed = DeployedModel(path, device="cpu")
    assert (deployed.model.output_name, deployed.model.labels) == ("prob", tuple(NAMES))
    x, names = run(path, "classLabel")
    best = [deployed.label(int(row.argmax())) for row in deployed.logits(x)]
    assert best == names.reshape(-1).tolist()
    assert len(set(best)) > 1, "one class alone would prove little"


def test_other_names_go_first(tmp_path: Path):
    path = written(ending(*PROBABILITIES, *ZIPPED, outputs={"loss": -STRINGS}, recorded=True), tmp_path)
    assert DeployedModel(path, device="cpu").labels == tuple(tiny.LABELS)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    assert DeployedModel(path, device="cpu", labels=tmp_path / "names.txt").labels == tuple("abcde")


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        ([0, 1, 2, 3, 4], None),
        ([1, 2, 3, 4, 5], ("1", "2", "3", "4", "5")),
        ([3, 5, 8, 13, 21], ("3", "5", "8", "13", "21")),
    ],
)
def test_numbers_are_names_unless_they_are_those_of_the_classes(
    tmp_path: Path, numbers: list[int], names: tuple[str, ...] | None
):
    zipped = ml("ZipMap", ["prob"], ["loss"], classlabels_int64s=numbers)
    path = written(ending(*PROBABILITIES, zipped, outputs={"loss": -NUMBERS}), tmp_path)
    assert DeployedModel(path, device="cpu").labels == names


def test_a_number_that_means_two_classes_is_ambiguous():
    names = ("1", "2", "3")
    for text, words in (("1", "class 1 is named '2', and class 0 is named '1'"), ("2", "class 2 is named '3'")):
        with pytest.raises(TargetError, match=words):
            find_class(text, names, 3)
    assert find_class("3", names, 3) == 2, "there is no class of that number"
    assert find_class("0", names, 3) == 0, "there is none of that name"
    assert find_class(1, names, 3) == 1, "an int is a number"
    assert find_class("1", ("0", "1", "2"), 3) == 1
    with pytest.raises(TargetError, match="does not exist"):
        find_class("7", names, 3)


def test_a_map_with_other_numbers_of_names_names_nothing(tmp_path: Path):
    """ONNX Runtime cannot make that map, so the file as it is deployed cannot be run."""
    zipped = ml("ZipMap", ["prob"], ["loss"], classlabels_strings=NAMES[:3])
    path = written(ending(*PROBABILITIES, zipped, outputs={"loss": -STRINGS}), tmp_path)
    deployed = DeployedModel(path, device="cpu")
    assert deployed.labels is None
    with pytest.raises(ModelError, match="number of classlabels"):
        _ = deployed.classes


def test_two_maps_are_two_heads(tmp_path: Path):
    nodes = [
        *PROBABILITIES,
        *ZIPPED,
        node("Neg", ["logits"], ["less"]),
        node("Softmax", ["less"], ["other"]),
        ml("ZipMap", ["other"], ["second"], classlabels_strings=[name.upper() for name in NAMES]),
    ]
    path = written(ending(*nodes, outputs={"loss": -STRINGS, "second": -STRINGS}), tmp_path)
    with pytest.raises(ModelError, match=r"2 outputs look like class scores.*--output NAME: 'prob' .*, 'other' "):
        DeployedModel(path, device="cpu")
    deployed = DeployedModel(path, device="cpu", output="second")
    assert (deployed.model.output_name, deployed.model.other_outputs) == ("other", ("loss",))
    assert deployed.labels == tuple(name.upper() for name in NAMES)


def linear(post: str, **labels: object) -> onnx.NodeProto:
    return ml(
        "LinearClassifier",
        ["flat"],
        ["label", "scores"],
        coefficients=FACTORS.reshape(-1).tolist(),
        intercepts=BIAS.tolist(),
        post_transform=post,
        **(labels or {"classlabels_strings": NAMES}),
    )


NORMAL = [
    ml("Normalizer", ["scores"], ["prob"], norm="L1"),
    ml("ZipMap", ["prob"], ["loss"], classlabels_strings=NAMES),
]


@pytest.mark.parametrize("opset", [9, 12, 17])
@pytest.mark.parametrize(
    ("post", "logits"),
    [("SOFTMAX", "scores/logits"), ("LOGISTIC", "onnx_evidence.log")],
    ids=["softmax", "one vs rest"],
)
def test_classifiers_of_scikit_learn_have_gradients(tmp_path: Path, post: str, logits: str, opset: int):
    model = ending(linear(post), *NORMAL, outputs={"label": STRINGS, "loss": -STRINGS}, opset=opset)
    path = written(model, tmp_path)
    deployed = DeployedModel(path, device="cpu")
    found = deployed.model
    assert (found.output_name, found.logits_name, found.labels) == ("prob", logits, tuple(NAMES))
    assert not deployed.missing_rules("input")
    assert found.proof is not None
    assert found.proof.holds
    x, maps = run(path, "loss")
    np.testing.assert_allclose(
        softmax(deployed.logits(x)), [[each[name] for name in NAMES] for each in maps], rtol=1e-4, atol=1e-7
    )
    assert np.ptp(softmax(deployed.logits(x)), axis=0).max() > 0.01
    explainer = Explainer(path, device="cpu", preprocess="unit", quality="fast")
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    assert np.abs(explainer.explain(picture).values).sum() > 0.01


@pytest.mark.parametrize("labels", [{"classlabels_strings": NAMES}, {"classlabels_ints": [2, 4, 6, 8, 10]}])
def test_the_winner_of_a_linear_classifier_leads_to_its_scores(tmp_path: Path, labels: dict[str, object]):
    kind = STRINGS if "classlabels_strings" in labels else NUMBERS
    path = written(ending(linear("NONE", **labels), outputs={"label": kind}), tmp_path)
    deployed = DeployedModel(path, device="cpu")
    assert deployed.model.output_name == "scores"
    x, winners = run(path, "label")
    assert [deployed.label(int(row.argmax())) for row in deployed.logits(x)] == [str(each) for each in winners]


def trees() -> onnx.NodeProto:
    """One stump: what is in 'flat' first decides."""
    return ml(
        "TreeEnsembleClassifier",
        ["flat"],
        ["label", "scores"],
        classlabels_int64s=[0, 1],
        post_transform="NONE",
        nodes_treeids=[0] * 3,
        nodes_nodeids=[0, 1, 2],
        nodes_featureids=[0] * 3,
        nodes_values=[0.2, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        class_treeids=[0] * 4,
        class_nodeids=[1, 1, 2, 2],
        class_ids=[0, 1, 0, 1],
        class_weights=[0.8, 0.2, 0.3, 0.7],
    )


def test_probabilities_of_trees_are_taken_for_that(tmp_path: Path):
    zipped = ml("ZipMap", ["scores"], ["loss"], classlabels_int64s=[0, 1])
    path = written(ending(trees(), zipped, outputs={"label": NUMBERS, "loss": -NUMBERS}), tmp_path)
    deployed = DeployedModel(path, device="cpu")
    assert (deployed.model.output_kind, deployed.model.class_kind.name) == ("probabilities", "exclusive")
    x, maps = run(path, "loss")
    np.testing.assert_allclose(softmax(deployed.logits(x)), [[each[0], each[1]] for each in maps], rtol=1e-5)
    assert deployed.missing_rules("input"), "trees have no gradient"


def test_control_a_table_of_numbers_picked_by_the_winner_is_no_name(tmp_path: Path):
    table = RNG.normal(size=(5, 4)).astype(np.float32)
    nodes = [node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0), node("Gather", ["table", "best"], ["vector"])]
    model = ending(*nodes, outputs={"vector": FLOATS}, rank=2, constants={"table": table})
    deployed = DeployedModel(written(model, tmp_path), device="cpu")
    assert (deployed.model.output_name, deployed.labels) == ("vector", None)


def test_control_strings_that_are_no_winners_are_refused(tmp_path: Path):
    model = ending(*PROBABILITIES, node("Cast", ["prob"], ["text"], to=STRINGS), outputs={"text": STRINGS}, rank=2)
    with pytest.raises(ModelError, match="output 'text' holds string, not class scores"):
        DeployedModel(written(model, tmp_path), device="cpu")


@pytest.mark.parametrize("shaped", [True, False])
def test_names_of_what_has_the_least_are_no_winners(shaped: bool, tmp_path: Path):
    """Nearest of some prototypes, for one: the class with the largest number is the least likely."""
    least = node("TopK", ["logits", "one"], ["_", "best"], largest=0)
    nodes = [least, ml("ArrayFeatureExtractor", ["names", "best"], ["label"])]
    for outputs in ({"label": STRINGS}, {"label": STRINGS, "logits": FLOATS}):
        model = ending(*nodes, outputs=outputs, rank=2, constants={"one": np.array([1])})
        if not shaped:
            model.graph.output[0].type.tensor_type.ClearField("shape")
        path = written(model, tmp_path)
        with pytest.raises(ModelError, match=r"holds string|is not one row of class scores"):
            DeployedModel(path, device="cpu", output="label")
        if "logits" in outputs:
            deployed = DeployedModel(path, device="cpu")
            assert (deployed.model.output_name, deployed.labels) == ("logits", None)
        else:
            with pytest.raises(ModelError, match=r"holds string|no output holds one row of class scores"):
                DeployedModel(path, device="cpu")

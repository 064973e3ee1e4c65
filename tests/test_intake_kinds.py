"""Detectors, segmenters, embeddings and readers are told from classifiers by what they compute, not by their names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnx_evidence import DeployedModel
from onnx_evidence.errors import ModelError
from tests import tiny

node = helper.make_node
K = 4
RNG = np.random.default_rng(6)
# Each with outputs called so, and each classifier with the others' names.
NEUTRAL = ("first", "second", "third")
OF_CLASSIFIERS = ("probabilities", "class_scores", "logits")
OF_DETECTORS = ("detection_boxes", "anchors", "num_dets")


class Net:
    """A small network, (N, 4) in 'z' and (N, 4, 6, 6) in 'c', to which outputs of any shape are put."""

    def __init__(self) -> None:
        self.nodes = [
            node("Conv", ["input", "w"], ["c"]),
            node("GlobalAveragePool", ["c"], ["pool"]),
            node("Flatten", ["pool"], ["z"]),
        ]
        self.weights = {"w": RNG.normal(size=(K, 3, 3, 3)).astype(np.float32)}
        self.outputs: list[tuple[str, int, tuple[int | str, ...]]] = []

    def const(self, name: str, value: object) -> str:
        self.weights[name] = np.asarray(value)
        return name

    def tensor(self, name: str, *sides: int) -> str:
        """A tensor (N, *sides) made of 'z' by a matrix."""
        matrix = RNG.normal(size=(K, int(np.prod(sides)))).astype(np.float32)
        self.nodes += [
            node("MatMul", ["z", self.const(f"{name}.w", matrix)], [f"{name}.flat"]),
            node("Reshape", [f"{name}.flat", self.const(f"{name}.to", np.array([-1, *sides]))], [name]),
        ]
        return name

    def add(self, op_type: str, inputs: list[str], *outputs: str, **given: object) -> str:
        self.nodes.append(node(op_type, inputs, list(outputs), **given))
        return outputs[0]

    def out(self, name: str, *sides: int | str, kind: int = TensorProto.FLOAT) -> None:
        self.outputs.append((name, kind, sides))

    def model(self, names: tuple[str, ...]) -> onnx.ModelProto:
        """With the outputs in their order under these names."""
        called = {inner: name for (inner, _, _), name in zip(self.outputs, names, strict=False)}
        nodes = [*self.nodes, *(node("Identity", [inner], [name]) for inner, name in called.items())]
        model = tiny.make_model(nodes, self.weights, input_shape=("N", 3, 8, 8), output="x", output_shape=None)
        del model.graph.output[:]
        for inner, kind, sides in self.outputs:
            model.graph.output.append(helper.make_tensor_value_info(called[inner], kind, sides))
        onnx.checker.check_model(model)
        return model


def ssd() -> Net:
    net = Net()
    net.out(net.tensor("s", 50, 6), "N", 50, 6)
    net.out(net.tensor("b", 50, 4), "N", 50, 4)
    return net


def faces() -> Net:
    """BlazeFace: a score, and a box with keypoints, for each of 896 places."""
    net = Net()
    net.out(net.tensor("s", 896, 1), "N", 896, 1)
    net.out(net.tensor("b", 896, 16), "N", 896, 16)
    return net


def yolo() -> Net:
    net = Net()
    net.out(net.tensor("p", 9, 400), "N", 9, 400)
    return net


def yolo_without_suppression() -> Net:
    net = Net()
    net.out(net.tensor("p", 300, 6), "N", 300, 6)
    return net


def yolo_of_three_sizes() -> Net:
    net = Net()
    for side in (2, 4, 8):
        net.out(net.tensor(f"m{side}", 27, side, side), "N", 27, side, side)
    return net


def detr() -> Net:
    net = Net()
    net.out(net.tensor("s", 100, 7), "N", 100, 7)
    net.out(net.add("Sigmoid", [net.tensor("b", 100, 4)], "boxes"), "N", 100, 4)
    return net


def scores_of_boxes() -> Net:
    """RT-DETR and others: the score of each box is a row per picture, as class scores are."""
    net = Net()
    net.add("Cast", [net.tensor("l", 20)], "labels", to=TensorProto.INT64)
    net.out("labels", "N", 20, kind=TensorProto.INT64)
    net.out(net.tensor("b", 20, 4), "N", 20, 4)
    net.out(net.add("Sigmoid", [net.tensor("s", 20)], "scores"), "N", 20)
    return net


def boxes_of_any_number() -> Net:
    net = scores_of_boxes()
    net.outputs = [
        (name, kind, tuple("P" if side == 20 else side for side in sides)) for name, kind, sides in net.outputs
    ]
    for name in ("l", "b", "s"):
        net.weights[f"{name}.to"] = np.array([-1, 20, 4] if name == "b" else [-1, 20])
    return net


def suppression_in_a_loop() -> Net:
    """As converters of TensorFlow write it: NonMaxSuppression inside a Loop over pictures, and rows of scores."""
    net = Net()
    boxes, held = net.tensor("b", 20, 4), net.tensor("s", 1, 20)
    inner = helper.make_graph(
        [
            node("NonMaxSuppression", [boxes, held], ["kept"]),
            node("Cast", ["kept"], ["floats"], to=TensorProto.FLOAT),
            node("ReduceMean", ["floats"], ["mean"], keepdims=0),
            node("Identity", ["going"], ["on"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, []),
        ],
    )
    net.add("Shape", ["z"], "sides")
    net.add("Gather", ["sides", net.const("nought", np.array(0))], "count")
    net.add("Loop", ["count", net.const("yes", np.array(True))], "means", body=inner)
    net.add("Unsqueeze", ["means", net.const("one", np.array([1]))], "column")
    net.out(net.add("Mul", ["z", "column"], "found"), "N", K)
    return net


def centres() -> Net:
    net = Net()
    net.out("c", "N", K, 6, 6)
    net.out(net.add("Relu", ["c"], "r"), "N", K, 6, 6)
    return net


def segmenter() -> Net:
    net = Net()
    net.out(net.add("Softmax", ["c"], "s", axis=1), "N", K, 6, 6)
    return net


def embedding() -> Net:
    net = Net()
    net.out(net.add("LpNormalization", ["z"], "e", axis=1), "N", K)
    return net


def reader() -> Net:
    net = Net()
    net.out(net.add("Softmax", [net.tensor("t", 12, 9)], "s", axis=2), "N", 12, 9)
    return net


OTHERS: dict[str, tuple[Callable[[], Net], str]] = {
    "SSD": (ssd, "this is a detector"),
    "BlazeFace": (faces, "this is a detector"),
    "YOLO": (yolo, "this is a detector"),
    "YOLO without suppression": (yolo_without_suppression, "this is a detector"),
    "YOLO of three sizes": (yolo_of_three_sizes, "this is a detector"),
    "DETR": (detr, "this is a detector"),
    "scores of boxes": (scores_of_boxes, "this is a detector"),
    "boxes of any number": (boxes_of_any_number, "this is a detector"),
    "suppression in a loop": (suppression_in_a_loop, "this is a detector"),
    "centres": (centres, "scores for every place of a map"),
    "segmenter": (segmenter, "scores for every place of a map"),
    "embedding": (embedding, "an embedding"),
    "reader": (reader, "class scores for every step of a sequence"),
}


def written(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refusal(model: onnx.ModelProto, folder: Path, **given: str) -> str:
    with pytest.raises(ModelError) as caught:
        DeployedModel(written(model, folder), device="cpu", **given)
    return str(caught.value)


@pytest.mark.parametrize("names", [NEUTRAL, OF_CLASSIFIERS, OF_DETECTORS], ids=["neutral", "misleading", "plain"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_classifier_is_told_by_what_it_computes(tmp_path: Path, kind: str, names: tuple[str, ...]):
    make, words = OTHERS[kind]
    said = refusal(make().model(names), tmp_path)
    assert words in said, said
    # Rows of numbers might be class scores all the same, and the way out is said.
    rows = ("BlazeFace", "scores of boxes", "boxes of any number", "suppression in a loop")
    assert (f"or pass --output {names[0] if kind.startswith(('Blaze', 'supp')) else names[2]}" in said) == (
        kind in rows
    )


@pytest.mark.parametrize(
    "name", ["detection", "boxer_vs_other", "tumor_detection", "anchor", "bbox", "keypoints", "rois"]
)
@pytest.mark.parametrize("last", ["", "Softmax", "Sigmoid"])
def test_a_classifier_is_one_whatever_its_output_is_called(tmp_path: Path, name: str, last: str):
    net = Net()
    net.out(net.add(last, ["z"], "last") if last else "z", "N", K)
    deployed = DeployedModel(written(net.model((name,)), tmp_path), device="cpu")
    assert (deployed.model.output_name, deployed.classes) == (name, K)


def heads() -> Net:
    net = Net()
    net.out(net.add("Softmax", ["z"], "p"), "N", K)
    net.out(net.add("Softmax", [net.tensor("y", 5)], "q"), "N", 5)
    return net


def test_several_heads_are_listed_with_the_remedy(tmp_path: Path):
    model = heads().model(("detection", "distance"))
    said = refusal(model, tmp_path)
    assert "2 outputs look like class scores; choose one of them with --output NAME" in said
    assert "'detection' (float N x 4), 'distance' (float N x 5)" in said
    x = RNG.normal(size=(3, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, values in zip(("detection", "distance"), session.run(None, {"input": x}), strict=True):
        deployed = DeployedModel(tmp_path / "model.onnx", device="cpu", output=name)
        powers = np.exp(deployed.logits(x))
        np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), values, atol=1e-6)


@pytest.mark.parametrize("names", [NEUTRAL, OF_DETECTORS])
def test_what_is_no_class_score_drops_out(tmp_path: Path, names: tuple[str, ...]):
    """An embedding, a map, the winner's number and boxes beside class scores."""
    net = Net()
    net.out(net.add("LpNormalization", [net.tensor("y", 16)], "e", axis=1), "N", 16)
    net.out("z", "N", K)
    net.out(net.tensor("b", 30, 4), "N", 30, 4)
    deployed = DeployedModel(written(net.model(names), tmp_path), device="cpu")
    assert (deployed.model.output_name, deployed.classes) == (names[1], K)
    assert deployed.model.other_outputs == (names[0], names[2])


def test_a_softmax_over_as_many_classes_as_there_are_boxes_is_one_over_classes(tmp_path: Path):
    net = Net()
    net.out(net.add("Softmax", ["z"], "p"), "N", K)
    net.out(net.tensor("b", K, 4), "N", K, 4)
    assert DeployedModel(written(net.model(NEUTRAL), tmp_path), device="cpu").model.output_name == "first"


@pytest.mark.parametrize(
    ("make", "place", "classes"),
    [(scores_of_boxes, 2, 20), (suppression_in_a_loop, 0, K), (embedding, 0, K), (faces, 0, 896)],
)
def test_what_somebody_names_is_taken_if_it_is_a_row_per_picture(
    tmp_path: Path, make: Callable[[], Net], place: int, classes: int
):
    model = make().model(NEUTRAL)
    deployed = DeployedModel(written(model, tmp_path), device="cpu", output=NEUTRAL[place])
    assert (deployed.model.output_name, deployed.classes) == (NEUTRAL[place], classes)


@pytest.mark.parametrize(("make", "place"), [(ssd, 0), (scores_of_boxes, 0), (scores_of_boxes, 1), (segmenter, 0)])
def test_what_is_no_row_per_picture_is_refused_even_if_it_is_named(tmp_path: Path, make: Callable[[], Net], place: int):
    said = refusal(make().model(NEUTRAL), tmp_path, output=NEUTRAL[place])
    assert f"{NEUTRAL[place]!r}" in said or "this is a detector" in said


def test_the_best_scores_are_refused_even_if_they_are_named(tmp_path: Path):
    net = Net()
    net.out(net.add("TopK", ["z", net.const("two", np.array([2]))], "best", "numbers"), "N", 2)
    assert "(TopK), not the scores of all classes" in refusal(net.model(NEUTRAL), tmp_path, output="first")

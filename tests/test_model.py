"""What the file says of itself, what is refused and in which words, and which class a user means."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.cuts.certificate import certify
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import CutError, DataError, EvidenceError, ModelError, TargetError
from onnx_evidence.intake.labels import find_class, read_labels
from onnx_evidence.intake.model import load_model
from onnx_evidence.preprocessing.contract import Preprocess
from tests import tiny

node = helper.make_node
GIVEN = Preprocess(size=(20, 24), mean=(0, 0, 0), std=(1, 1, 1), resize_to=30)


def write(model: onnx.ModelProto, folder: Path) -> Path:
    """Write without checking: some of these models are wrong on purpose."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def pooled(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray] | None = None, **more) -> onnx.ModelProto:
    """Channel means (N, channels) of a picture in 'flat', then ``nodes``; they are the logits where there are none."""
    first = [node("GlobalAveragePool", ["input"], ["pool"]), node("Flatten", ["pool"], ["flat" if nodes else "logits"])]
    return tiny.make_model([*first, *nodes], weights or {}, **{"output_shape": ("N", 3)} | more)


# --- what the file says ---------------------------------------------------------------------------------------


def test_a_plain_classifier_is_described(tmp_path: Path):
    path = tiny.save(tiny.classifier(), tmp_path / "a.onnx")
    model = load_model(path)
    assert model.path == path
    assert (model.input_name, model.input_shape, model.batch) == ("input", (3, 32, 32), None)
    assert (model.output_name, model.output_kind, model.logits_name) == ("logits", "logits", "logits")
    assert model.opset == 17
    assert model.labels == tuple(tiny.LABELS)
    assert model.preprocess == Preprocess.model_validate(tiny.PREPROCESS)


def test_the_hash_is_that_of_the_bytes(tmp_path: Path):
    import hashlib

    a = tiny.save(tiny.classifier(), tmp_path / "a.onnx")
    b = tiny.save(tiny.classifier(seed=1), tmp_path / "b.onnx")
    assert load_model(a).sha256 == hashlib.sha256(a.read_bytes()).hexdigest()
    assert load_model(a).sha256 != load_model(b).sha256


def test_a_model_that_records_nothing_says_so(tmp_path: Path):
    model = load_model(tiny.save(tiny.classifier(recorded=False), tmp_path / "a.onnx"))
    assert model.preprocess is None
    assert model.labels is None


def test_the_softmax_at_the_end_is_seen_through(tmp_path: Path):
    model = load_model(tiny.save(tiny.classifier(ending="softmax"), tmp_path / "a.onnx"))
    assert (model.output_name, model.output_kind, model.logits_name) == ("probabilities", "probabilities", "logits")


def test_a_softmax_inside_is_no_ending(tmp_path: Path):
    nodes = [node("Softmax", ["flat"], ["attention"]), node("Mul", ["attention", "flat"], ["logits"])]
    assert load_model(write(pooled(*nodes), tmp_path)).output_kind == "logits"


def test_a_fixed_batch_is_read(tmp_path: Path):
    """Pictures that are taken apart by their numbers cannot be more or fewer; see test_intake_alone.py."""
    nodes = [node("Split", ["flat"], ["a", "b"], axis=0), node("Concat", ["a", "b"], ["logits"], axis=0)]
    model = load_model(write(pooled(*nodes, input_shape=(4, 3, 8, 8), output_shape=(4, 3)), tmp_path))
    assert model.entry.batch == 4


def test_a_grey_input_is_an_image(tmp_path: Path):
    assert load_model(write(pooled(input_shape=("N", 1, 8, 9), output_shape=("N", 1)), tmp_path)).input_shape == (
        1,
        8,
        9,
    )


def test_open_height_and_width_are_closed_by_the_preprocessing(tmp_path: Path):
    path = write(pooled(input_shape=("N", 3, "H", "W")), tmp_path)
    model = load_model(path, GIVEN)
    assert model.input_shape == (3, 20, 24)
    dims = model.proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims[1:]] == [3, 20, 24]


def test_open_channels_are_closed_by_the_preprocessing(tmp_path: Path):
    assert load_model(write(pooled(input_shape=("N", "C", 20, "W")), tmp_path), GIVEN).input_shape == (3, 20, 24)


def test_recorded_preprocessing_closes_open_sides_too(tmp_path: Path):
    model = pooled(input_shape=("N", 3, "H", "W"), metadata={"preprocess": tiny.PREPROCESS})
    assert load_model(write(model, tmp_path)).input_shape == (3, 32, 32)


def test_given_preprocessing_takes_the_place_of_the_recorded_one(tmp_path: Path):
    other = Preprocess.model_validate(tiny.PREPROCESS | {"resize_to": 40})
    path = tiny.save(tiny.classifier(), tmp_path / "a.onnx")
    assert load_model(path, other).preprocess == other
    assert load_model(path).preprocess != other


def test_weights_in_a_file_beside_the_model_are_loaded(tmp_path: Path):
    path = tmp_path / "external.onnx"
    onnx.save(
        tiny.classifier(),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=False,
    )
    assert (tmp_path / "weights.bin").exists()
    inside = DeployedModel(tiny.save(tiny.classifier(), tmp_path / "inside.onnx"), device="cpu")
    outside = DeployedModel(path, device="cpu")
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(outside.canonical(x), inside.canonical(x))


# --- files that are no model ----------------------------------------------------------------------------------


def refused(path: Path, match: str, error: type[EvidenceError] = ModelError) -> None:
    with pytest.raises(error, match=match) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    refused(tmp_path / "absent.onnx", "cannot read the model: No such file")


def test_a_folder_is_refused(tmp_path: Path):
    refused(tmp_path, "cannot read the model: ")


def test_an_empty_file_is_refused(tmp_path: Path):
    path = tmp_path / "empty.onnx"
    path.touch()
    refused(path, "the file is empty, not an ONNX model")


@pytest.mark.parametrize("content", [b"this is a text file\n", "Modèle\n".encode(), b"\xff\xd8\xff\xe0" * 50, b"\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    refused(path, "not an? (valid )?ONNX model, or a truncated one")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_is_refused(tmp_path: Path, share: float):
    whole = tiny.classifier().SerializeToString()
    path = tmp_path / "part.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "not an? (valid )?ONNX model, or a truncated one")


@pytest.mark.parametrize("kind", [29, 65535, TensorProto.FLOAT16, TensorProto.UINT8])
def test_a_weight_of_no_known_type_or_of_too_many_bytes_is_refused(tmp_path: Path, kind: int):
    """The checker lets both pass."""
    model = tiny.classifier()
    next(tensor for tensor in model.graph.initializer if tensor.name == "b6").data_type = kind
    onnx.checker.check_model(model)
    refused(write(model, tmp_path), r"not a valid ONNX model, or a truncated one: weight 'b6' is no .* of shape \(5,\)")


def padded(pads: list[int]) -> onnx.ModelProto:
    """The tiny classifier, whose second convolution pads otherwise."""
    model = tiny.classifier()
    conv = next(each for each in model.graph.node if each.output[0] == "block.b")
    next(each for each in conv.attribute if each.name == "pads").ints[:] = pads
    skip = next(each for each in model.graph.node if each.output[0] == "block.add")
    skip.op_type = "Identity"
    del skip.input[1:]
    return model


@pytest.mark.parametrize("pads", [[1, 1, 65535, 1], [1, 65535, 1, 1], [1, 17000, 1, 1], [1, 1, 3000, 3000]])
def test_a_layer_that_no_picture_fills_is_refused_before_it_runs(tmp_path: Path, pads: list[int]):
    """One damaged number in a small file asks for minutes, or gigabytes."""
    refused(write(padded(pads), tmp_path), "layer 'block.b' has shape N x 8 x .*, absurdly more than .* 3 x 32 x 32:")


def test_a_layer_of_more_than_any_has_is_refused_before_its_shape_is_inferred(tmp_path: Path):
    words = "Conv at 'block.b' makes 1.29e[+]08 numbers of a picture, and a layer may have 1e[+]08: "
    refused(write(padded([1, 1, 4000, 4000]), tmp_path), words)


def test_control_a_layer_of_twenty_times_the_picture_is_taken(tmp_path: Path):
    """Small pictures are enlarged inside many a model."""
    assert load_model(write(padded([300, 300, 300, 300]), tmp_path)).tensors["block.b"].shape == (None, 8, 614, 614)


def test_a_fixed_batch_that_nobody_has_is_refused(tmp_path: Path):
    model = tiny.classifier()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**31 - 2
    refused(write(model, tmp_path), "insists on 2147483646 pictures at a time, more than 4096")


def test_missing_external_weights_are_refused(tmp_path: Path):
    path = tmp_path / "external.onnx"
    onnx.save(tiny.classifier(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    refused(path, "not a valid ONNX model, or a truncated one: .*weights.bin")


def test_an_operator_that_onnx_does_not_have_is_refused(tmp_path: Path):
    refused(write(pooled(node("Wish", ["flat"], ["logits"])), tmp_path), "not a valid ONNX model.*Wish")


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path):
    model = tiny.make_model([node("MatMul", ["input", "m"], ["logits"])], {"m": np.ones((9, 5), np.float32)})
    with pytest.raises(ModelError, match=r"(shapes of the graph|ONNX Runtime cannot run).*MatMul"):
        deployed(model, tmp_path).classes  # noqa: B018 - runs the model


# --- models that are no classifier of one picture -------------------------------------------------------------


def test_no_input_is_refused(tmp_path: Path):
    model = tiny.make_model(
        [node("Identity", ["w"], ["logits"])], {"w": np.ones((1, 3), np.float32)}, output_shape=(1, 3)
    )
    del model.graph.input[:]
    refused(write(model, tmp_path), r"the model has 0 inputs \(none\); one image input is needed")


def test_several_inputs_are_refused_by_name(tmp_path: Path):
    model = pooled()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 3]))
    refused(write(model, tmp_path), r"the model has 2 inputs \('input', 'mask'\); one image input is needed")


def test_an_input_that_is_no_image_is_refused(tmp_path: Path):
    model = tiny.make_model([node("Identity", ["input"], ["logits"])], {}, input_shape=("N", 8), output_shape=("N", 8))
    refused(
        write(model, tmp_path), r"input 'input' has 2 axes .*; an image input has 4: batch, channels, height, width"
    )


def test_open_channels_without_preprocessing_are_refused_with_the_remedy(tmp_path: Path):
    model = pooled(input_shape=("N", "C", 8, 8), output_shape=("N", "C"))
    refused(write(model, tmp_path), "input 'input' leaves its channels open; pass --preprocess FILE.toml")


def test_many_channels_are_taken(tmp_path: Path):
    model = load_model(write(pooled(input_shape=("N", 12, 8, 8), output_shape=("N", 12)), tmp_path))
    assert model.input_shape == (12, 8, 8)


@pytest.mark.parametrize("sides", [("H", "W"), ("H", 8), (8, "W")])
def test_open_sides_without_preprocessing_are_refused_with_the_remedy(tmp_path: Path, sides: tuple[int | str, ...]):
    model = pooled(input_shape=("N", 3, *sides))
    refused(write(model, tmp_path), "leaves height and width open; pass --preprocess FILE.toml with a 'size'")


# --- preprocessing and labels ---------------------------------------------------------------------------------


def test_recorded_preprocessing_of_another_size_is_refused(tmp_path: Path):
    model = pooled(input_shape=("N", 3, 32, 40), metadata={"preprocess": tiny.PREPROCESS})
    message = "preprocessing makes 3 x 32 x 32, but input 'input' takes 3 x 32 x 40"
    refused(write(model, tmp_path), message, DataError)


def test_given_preprocessing_of_another_size_is_refused(tmp_path: Path):
    path = tiny.save(tiny.classifier(), tmp_path / "a.onnx")
    with pytest.raises(DataError, match="preprocessing makes 3 x 20 x 24, but input 'input' takes 3 x 32 x 32"):
        load_model(path, GIVEN)


def test_grey_preprocessing_for_a_coloured_input_is_refused(tmp_path: Path):
    grey = Preprocess(size=(32, 32), color="GRAY", mean=(0,), std=(1,))
    with pytest.raises(DataError, match="preprocessing makes 1 x 32 x 32, but input 'input' takes 3 x 32 x 32"):
        load_model(tiny.save(tiny.classifier(), tmp_path / "a.onnx"), grey)


def test_the_side_that_is_open_is_shown_as_open(tmp_path: Path):
    path = write(pooled(input_shape=("N", 3, 21, "W")), tmp_path)
    with pytest.raises(DataError, match=r"takes 3 x 21 x \?"):
        load_model(path, GIVEN)


def test_recorded_preprocessing_that_is_wrong_is_refused(tmp_path: Path):
    model = pooled(metadata={"preprocess": tiny.PREPROCESS | {"color": "CMYK"}})
    refused(write(model, tmp_path), "the preprocessing is not valid: color: ", DataError)


@pytest.mark.parametrize("labels", [{"0": "ant"}, ["ant", 1], "ant", None])
def test_recorded_labels_that_are_no_list_of_names_are_refused(tmp_path: Path, labels: object):
    refused(
        write(pooled(metadata={"labels": labels}), tmp_path), "recorded in the model are no list of names", DataError
    )


def test_recorded_labels_that_are_no_json_are_refused(tmp_path: Path):
    model = pooled()
    helper.set_model_props(model, {"onnx_evidence.labels": "ant, bee"})
    refused(write(model, tmp_path), "the labels recorded in the model are no JSON: ", DataError)


def test_labels_are_read_one_per_line(tmp_path: Path):
    path = tmp_path / "labels.txt"
    path.write_text("fourmi\nabeille\nécureuil roux\n", encoding="utf-8")
    assert read_labels(path) == ("fourmi", "abeille", "écureuil roux")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "no labels: one class name per line"), (b"\xff\xfe\xff", "cannot read the labels: ")]
)
def test_label_files_that_cannot_be_used_are_refused(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"labels.txt: {message}"):
        read_labels(path)


def test_a_missing_label_file_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"absent.txt: cannot read the labels: .*No such file"):
        read_labels(tmp_path / "absent.txt")


# --- which class a user means ---------------------------------------------------------------------------------

LABELS = ("ant", "Bee", "crane", "great grey owl", "Crane")


@pytest.mark.parametrize(
    ("name", "number"),
    [(0, 0), (4, 4), ("2", 2), (" 3 ", 3), ("ant", 0), ("bee", 1), ("BEE", 1), ("Great Grey Owl", 3), (" ant ", 0)],
)
def test_a_class_is_found_by_number_and_by_name(name: str | int, number: int):
    assert find_class(name, LABELS, 5) == number


def test_a_name_that_two_classes_share_lists_their_numbers():
    with pytest.raises(
        TargetError, match="class 'crane' is ambiguous: classes 2 and 4 have that name; give the number"
    ):
        find_class("crane", LABELS, 5)


@pytest.mark.parametrize("number", [5, "5", "1000"])
def test_a_number_beyond_the_classes_is_refused(number: int | str):
    with pytest.raises(TargetError, match=f"class {number} does not exist: the model has classes 0 to 4"):
        find_class(number, LABELS, 5)


@pytest.mark.parametrize("name", [-1, "-1", "1.5", "²"])
def test_what_is_neither_number_nor_name_is_refused(name: str | int):
    with pytest.raises(TargetError, match=f"class '{name}' is unknown"):
        find_class(name, LABELS, 5)


def test_a_misspelt_name_gets_a_suggestion():
    with pytest.raises(TargetError, match=r"class 'great gray owl' is unknown; did you mean 'great grey owl'\?"):
        find_class("great gray owl", LABELS, 5)


def test_a_name_like_no_other_gets_none():
    with pytest.raises(TargetError, match=r"class 'zeppelin' is unknown$"):
        find_class("zeppelin", LABELS, 5)


def test_a_name_needs_labels():
    with pytest.raises(TargetError, match="class 'ant': the model carries no class names; give a number, or --labels"):
        find_class("ant", None, 5)
    assert find_class("3", None, 5) == 3


# --- opened and run -------------------------------------------------------------------------------------------


def deployed(model: onnx.ModelProto, folder: Path, **options) -> DeployedModel:
    return DeployedModel(write(model, folder), device="cpu", **options)


def some(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(11).normal(size=shape).astype(np.float32)


def test_logits_are_those_of_numpy(tmp_path: Path):
    x = some((3, 3, 8, 8))
    found = deployed(pooled(input_shape=("N", 3, 8, 8)), tmp_path).canonical(x)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, x.mean(axis=(2, 3)), atol=1e-6)


def test_a_softmax_of_a_confident_model_keeps_its_logits_finite(tmp_path: Path):
    nodes = [node("Mul", ["flat", "large"], ["scaled"]), node("Softmax", ["scaled"], ["logits"])]
    model = deployed(pooled(*nodes, weights={"large": np.array(1e4, np.float32)}, input_shape=("N", 3, 8, 8)), tmp_path)
    x = some((2, 3, 8, 8))
    np.testing.assert_allclose(model.canonical(x), 1e4 * x.mean(axis=(2, 3)), rtol=1e-4, atol=1e-2)


def test_small_positive_logits_are_no_probabilities(tmp_path: Path):
    model = deployed(pooled(input_shape=("N", 3, 8, 8)), tmp_path)
    np.testing.assert_allclose(model.canonical(np.full((1, 3, 8, 8), 0.3, np.float32)), 0.3, atol=1e-6)


def converted(ending: list[onnx.NodeProto], output_type: int) -> onnx.ModelProto:
    model = pooled(*ending, input_shape=("N", 3, 8, 8))
    model.graph.output[0].type.tensor_type.elem_type = output_type
    return model


@pytest.mark.parametrize("to", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_logits_of_another_float_type_are_read(tmp_path: Path, to: int):
    model = deployed(converted([node("Cast", ["flat"], ["logits"], to=to)], to), tmp_path)
    x = some((2, 3, 8, 8))
    np.testing.assert_allclose(model.canonical(x), x.mean(axis=(2, 3)), atol=1e-3)


def test_a_softmax_in_half_precision_is_seen_through_its_cast(tmp_path: Path):
    ending = [
        node("Cast", ["flat"], ["half"], to=TensorProto.FLOAT16),
        node("Softmax", ["half"], ["s"]),
        node("Cast", ["s"], ["logits"], to=TensorProto.FLOAT),
    ]
    model = deployed(converted(ending, TensorProto.FLOAT), tmp_path)
    assert model.model.output_kind == "probabilities"
    x = some((2, 3, 8, 8))
    np.testing.assert_allclose(model.canonical(x), x.mean(axis=(2, 3)), atol=1e-3)


def test_scores_that_are_not_finite_are_refused(tmp_path: Path):
    model = deployed(pooled(node("Log", ["flat"], ["logits"]), input_shape=("N", 3, 8, 8)), tmp_path)
    with pytest.raises(ModelError, match="the model gave a class score that is not a finite number"):
        model.canonical(np.zeros((1, 3, 8, 8), np.float32))


def test_classes_are_counted(tmp_path: Path):
    assert deployed(pooled(input_shape=("N", 3, 8, 8)), tmp_path).classes == 3


def test_classes_of_scores_with_singleton_axes_are_counted(tmp_path: Path):
    model = tiny.make_model([node("GlobalAveragePool", ["input"], ["logits"])], {}, output_shape=("N", 3, 1, 1))
    opened = deployed(model, tmp_path)
    assert opened.classes == 3
    assert opened.canonical(some((2, 3, 32, 32))).shape == (2, 3)


def test_one_row_for_the_whole_batch_is_asked_for_one_picture_at_a_time(tmp_path: Path):
    model = pooled(node("ReduceMean", ["flat"], ["logits"], axes=[0], keepdims=1), input_shape=("N", 3, 8, 8))
    opened = deployed(model, tmp_path)
    x = some((2, 3, 8, 8))
    np.testing.assert_allclose(opened.canonical(x), x.mean(axis=(2, 3)), atol=1e-6)
    assert opened.model.changes == ("one picture at a time: the graph does not take several",)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"]])
def test_labels_must_be_as_many_as_the_classes(tmp_path: Path, names: list[str]):
    file = tmp_path / "labels.txt"
    file.write_text("\n".join(names))
    message = f"{len(names)} labels for a model of 3 classes: they must be as many"
    for model, options in (
        (pooled(input_shape=("N", 3, 8, 8)), {"labels": file}),
        (pooled(input_shape=("N", 3, 8, 8), metadata={"labels": names}), {}),
    ):
        with pytest.raises(DataError, match=message):
            deployed(model, tmp_path, **options).find_class("a")


def test_given_labels_take_the_place_of_the_recorded_ones(tmp_path: Path):
    file = tmp_path / "labels.txt"
    file.write_text("x\ny\nz\n")
    model = pooled(input_shape=("N", 3, 8, 8), metadata={"labels": ["a", "b", "c"]})
    opened = deployed(model, tmp_path, labels=file)
    assert opened.find_class("y") == 1
    assert [opened.label(k) for k in range(3)] == ["x", "y", "z"]


def test_a_class_without_name_is_called_by_its_number(tmp_path: Path):
    assert deployed(pooled(input_shape=("N", 3, 8, 8)), tmp_path).label(2) == "class 2"


def test_missing_preprocessing_says_what_to_pass(tmp_path: Path):
    opened = deployed(pooled(input_shape=("N", 3, 8, 8)), tmp_path)
    with pytest.raises(
        DataError, match=r"does not record its preprocessing and it cannot be guessed; pass --preprocess"
    ):
        opened.prepare(np.zeros((9, 9, 3), np.uint8))


def test_preprocessing_may_be_given_as_a_file(tmp_path: Path):
    file = tmp_path / "p.toml"
    file.write_text("size = [20, 24]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\nresize_to = 30\n")
    assert deployed(pooled(input_shape=("N", 3, "H", "W")), tmp_path, preprocess=file).preprocess == GIVEN


# --- the certificate ------------------------------------------------------------------------------------------


@pytest.fixture
def opened(tiny_model: Path) -> DeployedModel:
    return DeployedModel(tiny_model, device="cpu")


@pytest.mark.parametrize("layer", ["input", "stem", "block.add", "deep.add"])
def test_a_right_split_gets_a_certificate(opened: DeployedModel, layer: str):
    cut, x = opened.graph.find(layer), some((1, 3, 32, 32))
    split_logits = opened.tail(cut)(opened.head(cut)(x))[0]
    assert 0 <= certify(cut, split_logits, opened.canonical(x)[0]) < 1e-5


@pytest.mark.parametrize("fault", ["features", "logits", "not a number"])
def test_a_wrong_split_gets_none(opened: DeployedModel, fault: str):
    cut, x = opened.graph.find("block.add"), some((1, 3, 32, 32))
    features, logits = opened.head(cut)(x), opened.canonical(x)[0]
    if fault == "features":
        features = features + np.float32(0.01)
    elif fault == "logits":
        logits = logits + 1e-3 * np.abs(logits).max() * np.eye(5)[1]
    else:
        features = np.full_like(features, np.nan)
    differs = r"layer 'block.add': the model split there differs from the whole by .*largest logit"
    with pytest.raises((CutError, ModelError), match=f"{differs}|not a finite number"):
        certify(cut, opened.tail(cut)(features)[0], logits)


def test_logits_that_are_no_numbers_get_no_certificate(opened: DeployedModel):
    logits = opened.canonical(some((1, 3, 32, 32)))[0]
    with pytest.raises(CutError, match="differs from the whole by nan"):
        certify(opened.graph.find("block.add"), np.full_like(logits, np.nan), logits)


def test_recorded_metadata_is_json(tiny_model: Path):
    """What the other tests write is what `load_model` promises to read."""
    props = {entry.key: json.loads(entry.value) for entry in onnx.load(tiny_model).metadata_props}
    assert props == {"onnx_evidence.preprocess": tiny.PREPROCESS, "onnx_evidence.labels": tiny.LABELS}
    assert numpy_helper.to_array(onnx.load(tiny_model).graph.initializer[0]).dtype == np.float32


def test_metadata_that_is_no_text_is_read_with_its_bad_bytes_replaced(tmp_path):
    model = tiny.classifier()
    entry = next(each for each in model.metadata_props if each.key.endswith("labels"))
    marker = "@" * len(json.loads(entry.value)[0])
    entry.value = json.dumps([marker, *json.loads(entry.value)[1:]])
    data = model.SerializeToString().replace(marker.encode(), b"\xff" + marker.encode()[1:])
    (tmp_path / "odd.onnx").write_bytes(data)
    assert load_model(tmp_path / "odd.onnx").labels[0] == "\ufffd" + marker[1:]

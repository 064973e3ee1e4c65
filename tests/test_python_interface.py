"""What is given to the package from Python: taken where its meaning is plain, else refused by an error of its own."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnx_evidence import (
    DataError,
    DeployedModel,
    Explainer,
    ModelError,
    Preprocess,
    SettingError,
    TargetError,
    fit_background,
)
from tests import tiny

NAMES = ["one", "two", "three", "four", "five"]
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory) -> Path:
    return tiny.save(tiny.classifier(), tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def explainer(model_path: Path) -> Explainer:
    return Explainer(model_path, device="cpu")


# --- classes --------------------------------------------------------------------------------------------------


def test_classes_may_come_one_by_one(explainer):
    (first, second) = explainer.explain_all(PIXELS, iter([1, "dog"]))
    assert (first.target.number, second.target.number) == (1, 3)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], "no class to explain: name at least one"),
        ("dog", r"no list of classes: give \['dog'\]"),
        (3, r"give \[3\]"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(explainer, targets, message):
    with pytest.raises(SettingError, match=message):
        explainer.explain_all(PIXELS, targets)


def test_a_label_is_that_of_a_class_that_is_there(explainer, tmp_path):
    assert explainer.deployed.label(4) == "crane" == explainer.deployed.label(np.int64(4))
    nameless = DeployedModel(tiny.save(tiny.classifier(recorded=False), tmp_path / "m.onnx"), device="cpu")
    assert nameless.label(4) == "class 4"
    for deployed in (explainer.deployed, nameless):
        for number in (5, -1, "ant", None, 1.5):
            with pytest.raises(TargetError, match="does not exist: the model has classes 0 to 4"):
                deployed.label(number)


# --- models, labels, preprocessing ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [3, None, b"model.onnx"])
def test_what_is_no_path_is_no_model(model):
    with pytest.raises(ModelError, match=r"give the path of an \.onnx file"):
        Explainer(model)


def test_names_with_nul_are_names_of_no_file(model_path, explainer):
    with pytest.raises(ModelError, match="no name of a file holds the character NUL"):
        Explainer("a\0b.onnx")
    for call in (
        lambda: explainer.explain("a\0b"),
        lambda: Explainer(model_path, labels="a\0b"),
        lambda: Explainer(model_path, preprocess="a\0b.toml"),
        lambda: Explainer(model_path, background="a\0b", device="cpu"),
    ):
        with pytest.raises(DataError, match="no name of a file holds the character NUL"):
            call()


def test_labels_may_be_the_names_themselves(model_path, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    given, read = (Explainer(model_path, labels=each, device="cpu") for each in (NAMES, tmp_path / "labels.txt"))
    assert given.deployed.labels == read.deployed.labels == tuple(NAMES)
    assert given.record["hashes"]["labels"] == read.record["hashes"]["labels"]
    assert (given.record["labels"], read.record["labels"]) == (None, str(tmp_path / "labels.txt"))


@pytest.mark.parametrize("labels", [[], [1, 2, 3, 4, 5], {0: "ant"}, 3, {"ant", "bee"}])
def test_what_is_no_list_of_names_is_refused(model_path, labels):
    with pytest.raises(DataError, match=r"labels of type \w+: give a text file with a name per line, or a list"):
        Explainer(model_path, labels=labels, device="cpu")


def test_a_preprocessing_may_be_a_dictionary(model_path):
    wider = {**tiny.PREPROCESS, "resize_to": 40}
    assert DeployedModel(model_path, preprocess=wider, device="cpu").preprocess == Preprocess(**wider)
    with pytest.raises(DataError, match="preprocess: the preprocessing is not valid: size"):
        DeployedModel(model_path, preprocess={}, device="cpu")
    for other in (3, ["unit"]):
        with pytest.raises(DataError, match=r"preprocess of type \w+: give a preset's name"):
            DeployedModel(model_path, preprocess=other, device="cpu")


@pytest.mark.parametrize("work", ["x", None, -5, 0, 1e12, True])
def test_what_is_no_number_of_multiply_adds_is_refused(model_path, work):
    with pytest.raises(SettingError, match=r"^max work .* is no number of multiply-adds: give a whole one"):
        DeployedModel(model_path, max_work=work)


# --- pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [None, 3, b"picture.png", Image.fromarray(PIXELS), [[1, 2]]])
def test_what_is_no_picture_is_told_how_to_be_one(explainer, image):
    with pytest.raises(DataError, match=r"give the path of a file, or uint8 RGB .* such as numpy.asarray\("):
        explainer.explain(image)


def test_inputs_in_memory_are_as_those_in_files(model_path, tmp_path):
    deployed = DeployedModel(model_path, preprocess="preprocessed", device="cpu")
    inputs = np.random.default_rng(1).normal(size=(3, 32, 32)).astype(np.float32)
    for swapped in (inputs.astype(">f4"), inputs.astype("<f4")):
        np.save(tmp_path / "inputs.npy", swapped)
        for given in (swapped, tmp_path / "inputs.npy"):
            np.testing.assert_array_equal(deployed.prepare(given)[1], inputs)
    inputs[0, 0, 0] = np.nan
    np.save(tmp_path / "inputs.npy", inputs)
    for given in (inputs, tmp_path / "inputs.npy"):
        with pytest.raises(DataError, match="the array holds values that are not finite: replace them"):
            deployed.prepare(given)


def test_an_input_without_preprocessed_is_told_of_it(explainer, tmp_path):
    inputs = np.zeros((3, 32, 32), np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    for given in (inputs, tmp_path / "inputs.npy"):
        with pytest.raises(DataError, match="color = 'BANDS', the model's input itself needs --preprocessed"):
            explainer.explain(given)
    np.save(tmp_path / "inputs.npy", np.zeros((5, 32, 32), np.uint8))
    with pytest.raises(DataError, match=r"color = 'BANDS'$"):
        explainer.explain(tmp_path / "inputs.npy")


# --- backgrounds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [{"window": 0}, {"window": -1}, {"patch": 0}, {"patch": 1.5}, {"window": "3"}])
def test_a_side_of_a_background_is_a_whole_number(explainer, sides):
    with pytest.raises(SettingError, match=r"^(window|patch) .* is no side: give a whole number of at least 1"):
        fit_background(explainer.deployed, ["deep.add"], [], **sides)


def test_a_background_is_of_cuts_and_pictures(explainer):
    with pytest.raises(SettingError, match="no cut to fit a background for"):
        fit_background(explainer.deployed, [], [])
    with pytest.raises(DataError, match="0 pictures are too few"):
        fit_background(explainer.deployed, "deep.add", [])
    with pytest.raises(DataError, match="images 'folder': give the pictures themselves"):
        fit_background(explainer.deployed, "deep.add", "folder")


# --- threads --------------------------------------------------------------------------------------------------


def test_a_second_thread_is_sent_away_and_the_first_one_is_not_disturbed(explainer):
    alone = explainer.explain(PIXELS, target="dog")
    said: list[str] = []

    def second() -> None:
        with pytest.raises(ModelError, match="it is for one thread at a time") as caught:
            explainer.explain(PIXELS[:30], target=1)
        said.append(str(caught.value))

    def progress(copies: int) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    (found,) = explainer.explain_all(PIXELS, ["dog"], progress=progress)
    assert said
    np.testing.assert_array_equal(found.values, alone.values)
    explainer.explain(PIXELS, target="dog")  # free again


def test_an_explainer_is_free_again_after_a_refusal(explainer):
    with pytest.raises(TargetError):
        explainer.explain(PIXELS, target="gnu")
    explainer.explain(PIXELS, target="dog")

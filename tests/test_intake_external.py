"""Weights beside the model: read, hashed, left outside where they are many, and never fetched from elsewhere."""

import hashlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper

from onnx_evidence.batch.work import Hand, explain_job
from onnx_evidence.cuts.certificate import certify
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import ChangedError, ModelError
from onnx_evidence.explainer import Explainer
from onnx_evidence.intake.model import load_model
from onnx_evidence.preprocessing.contract import Preprocess
from tests import tiny
from tests.batch import jobs_of, write_pictures

X = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


def outside(folder: Path, *, one_file: bool = True) -> Path:
    """The tiny classifier with all its weights beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(
        tiny.classifier(),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location="weights.bin" if one_file else None,
        size_threshold=0,
    )
    return path


def pointing(folder: Path, **changed: str) -> Path:
    """The same, where the reference of the first weight was changed."""
    path = outside(folder)
    model = onnx.load(path, load_external_data=False)
    given = {entry.key: entry.value for entry in model.graph.initializer[0].external_data} | changed
    del model.graph.initializer[0].external_data[:]
    for key, value in given.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("one_file", [True, False])
def test_weights_are_read_and_hashed(tmp_path: Path, one_file: bool):
    path = outside(tmp_path / "a", one_file=one_file)
    model = load_model(path)
    assert not any(external_data_helper.uses_external_data(each) for each in model.proto.graph.initializer)
    assert model.proof is None
    beside = sorted(each for each in path.parent.iterdir() if each != path)
    assert len(beside) == (1 if one_file else 7)
    total = hashlib.sha256(path.read_bytes() + b"".join(each.read_bytes() for each in beside))
    assert model.sha256 == total.hexdigest()
    with beside[-1].open("r+b") as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(bytes([first[0] ^ 1]))
    assert load_model(path).sha256 != model.sha256


def test_many_weights_stay_outside_and_everything_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnx_evidence.intake.external._SMALL", 512)
    path = outside(tmp_path / "a")
    inside = DeployedModel(tiny.save(tiny.classifier(), tmp_path / "inside.onnx"), device="cpu")
    monkeypatch.setattr(load_model, "__kwdefaults__", load_model.__kwdefaults__ | {"inline_limit": 1000})
    opened = DeployedModel(path, device="cpu")
    stays = {each.name for each in opened.model.proto.graph.initializer if not each.raw_data}
    assert stays == {"w1", "w2", "w3", "w4", "w5"}
    assert opened.model.sha256 == load_model(path).sha256
    np.testing.assert_array_equal(opened.canonical(X), inside.canonical(X))
    for layer in ("stem", "block.add", "deep.add"):
        mine, theirs = opened.graph.find(layer), inside.graph.find(layer)
        features = opened.head(mine)(X[:1])
        np.testing.assert_array_equal(features, inside.head(theirs)(X[:1]))
        assert certify(mine, opened.tail(mine)(features)[0], inside.canonical(X[:1])[0]) < 1e-6
        direction, rest = np.eye(5)[1], 1 - np.eye(5)[1]
        for found, expected in zip(
            opened.gradient(mine)(features, direction, rest),
            inside.gradient(theirs)(features, direction, rest),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_control_below_the_limit_nothing_stays_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnx_evidence.intake.external._SMALL", 512)
    path = outside(tmp_path / "a")
    total = (path.parent / "weights.bin").stat().st_size
    for limit, stays in ((total, False), (1000, True)):
        model = load_model(path, inline_limit=limit)
        found = [external_data_helper.uses_external_data(each) for each in model.proto.graph.initializer]
        assert any(found) == stays


@pytest.mark.parametrize(
    "location", ["../secret.bin", "a/../../secret.bin", "/etc/passwd", "..\\secret.bin", "", "x\0y"]
)
def test_references_out_of_the_folder_are_refused(tmp_path: Path, location: str):
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    refused(
        pointing(tmp_path / "m", location=location, offset="0"), "outside the model's folder, where nothing is read"
    )


def test_links_out_of_the_folder_are_refused_and_links_inside_are_followed(tmp_path: Path):
    path = outside(tmp_path / "m")
    weights = path.parent / "weights.bin"
    weights.rename(tmp_path / "elsewhere.bin")
    weights.symlink_to(tmp_path / "elsewhere.bin")
    refused(path, "outside the model's folder")
    weights.unlink()
    (tmp_path / "elsewhere.bin").rename(path.parent / "there.bin")
    weights.symlink_to(path.parent / "there.bin")
    assert load_model(path).batch is None


def test_a_folder_that_is_a_link_itself_is_no_way_out(tmp_path: Path):
    (tmp_path / "link").symlink_to(outside(tmp_path / "m").parent)
    assert load_model(tmp_path / "link" / "model.onnx").batch is None


def test_devices_and_folders_are_refused(tmp_path: Path):
    import os

    path = outside(tmp_path / "m")
    (path.parent / "weights.bin").unlink()
    os.mkfifo(path.parent / "weights.bin")
    refused(path, "which is no regular file; nothing is read")
    (path.parent / "weights.bin").unlink()
    (path.parent / "weights.bin").mkdir()
    refused(path, "which is no regular file; nothing is read")


@pytest.mark.parametrize(
    "changed",
    [
        {"offset": "1000000000000"},
        {"offset": "-8"},
        {"length": "1000000000000"},
        {"length": "-1"},
        {"length": "4"},
        {"length": "many"},
    ],
)
def test_what_the_file_does_not_have_is_not_promised(tmp_path: Path, changed: dict[str, str]):
    refused(pointing(tmp_path / "m", **changed), "weight 'w1' needs 864 bytes, and 'weights.bin' does not have them")


def test_a_place_that_is_no_text_is_refused(tmp_path: Path):
    path = pointing(tmp_path, location="@eights.bin")
    path.write_bytes(path.read_bytes().replace(b"@eights.bin", b"\xffeights.bin"))
    refused(path, "cannot read the weights in '\ufffdeights.bin'")


def test_sides_that_claim_terabytes_allocate_nothing(tmp_path: Path):
    path = pointing(tmp_path / "m")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].dims[:] = [1 << 40, 3, 3, 3]
    del model.graph.initializer[0].external_data[2:]  # no length
    path.write_bytes(model.SerializeToString())
    refused(path, f"weight 'w1' needs {(1 << 40) * 27 * 4} bytes, and")


def test_a_truncated_file_of_weights_is_refused(tmp_path: Path):
    path = outside(tmp_path / "m")
    with (path.parent / "weights.bin").open("r+b") as stream:
        stream.truncate(500)
    refused(path, "needs 864 bytes, and 'weights.bin' does not have them")


@pytest.mark.parametrize(("kind", "size"), [(TensorProto.INT4, 5), (TensorProto.FLOAT16, 18), (TensorProto.BOOL, 9)])
def test_packed_elements_are_counted(tmp_path: Path, kind: int, size: int):
    from onnx_evidence.intake.external import settle_external

    model = tiny.classifier()
    tensor = model.graph.initializer.add(name="codes", data_type=kind, dims=[9])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="codes.bin")
    (tmp_path / "codes.bin").write_bytes(bytes(range(size)))
    settle_external(model, tmp_path / "model.onnx")
    assert tensor.raw_data == bytes(range(size))
    tensor.CopyFrom(onnx.TensorProto(name="codes", data_type=kind, dims=[9], data_location=TensorProto.EXTERNAL))
    tensor.external_data.add(key="location", value="codes.bin")
    (tmp_path / "codes.bin").write_bytes(bytes(size - 1))
    with pytest.raises(ModelError, match=f"needs {size} bytes"):
        settle_external(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("how", ["written to", "replaced", "removed"])
def test_weights_that_change_end_the_use_of_the_model(tmp_path: Path, how: str):
    deployed = DeployedModel(outside(tmp_path / "m"))
    before = deployed.answer(X[0])
    assert (deployed.answer(X[0]).logits == before.logits).all()  # control
    weights = tmp_path / "m" / "weights.bin"
    match how:
        case "written to":
            # The same bytes in the same place: it could as well have been others.
            with weights.open("r+b") as stream:
                stream.write(weights.read_bytes()[:4])
        case "replaced":
            other = tmp_path / "other.bin"
            other.write_bytes(weights.read_bytes())
            other.replace(weights)
        case _:
            weights.unlink()
    with pytest.raises(ChangedError, match=r"its weights in .weights.bin. were changed while the model was"):
        deployed.answer(X[0])


def test_what_was_hashed_is_what_was_read(tmp_path: Path, monkeypatch):
    path = outside(tmp_path / "m")
    check = onnx.checker.check_model

    def meanwhile(model):
        with (tmp_path / "m" / "weights.bin").open("r+b") as stream:
            stream.write(b"other")
        check(model)

    monkeypatch.setattr("onnx.checker.check_model", meanwhile)
    refused(path, "its weights in 'weights.bin' were changed")


def test_a_run_ends_where_weights_change(tmp_path: Path):
    path = outside(tmp_path / "m")
    job = jobs_of(write_pictures(tmp_path / "in", 1))[0]
    hand = Hand(Explainer(DeployedModel(path, preprocess=Preprocess(**tiny.PREPROCESS)), method="grad-cam"))
    assert explain_job(hand, job, lambda *_: None).reason == ""  # control
    weights = path.parent / "weights.bin"
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(ChangedError, match=r".weights.bin. were changed"):
        explain_job(hand, job, lambda *_: None)


def test_a_model_that_is_a_device_is_not_read():
    refused(Path("/dev/zero"), "cannot read the model: it is no regular file")


@pytest.mark.skipif(os.name == "nt", reason="files of nothing take room there")
def test_weights_that_are_large_by_their_claim_alone_are_not_read(tmp_path):
    path = outside(tmp_path / "model")
    load_model(path)
    (weights,) = [each for each in path.parent.iterdir() if each != path]
    os.truncate(weights, 1 << 40)
    with pytest.raises(ModelError, match="claim 1099511627776 bytes, of which the disk holds"):
        load_model(path)

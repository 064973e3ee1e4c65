"""Decoded pictures that go into exported models: resized as outside, to the bit; and evidence in their pixels."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cli import main
from onnx_evidence.errors import SettingError
from onnx_evidence.export.build import Asked
from onnx_evidence.export.check import check_exported
from onnx_evidence.export.file import export_model
from onnx_evidence.export.placing import placed, to_picture
from onnx_evidence.export.resampling import decoded_input
from onnx_evidence.graphs import Net
from onnx_evidence.pictures import spread_to_original
from onnx_evidence.preprocessing import Preprocess, read_picture, to_input
from onnx_evidence.vjp import Tape, Value
from tests.test_export import run

SCALING = {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# Levels: not to the bit where OpenCV's own arithmetic is of float32, or of another order of sums.
ROUNDED = {"opencv bicubic": 1, "opencv area": 1}
RESIZING = {
    **{
        f"pil {name}": {"library": "pil", "interpolation": name, "rounding": "torchvision"}
        for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
    },
    **{
        f"opencv {name}": {"interpolation": name, "rounding": "huggingface"}
        for name in ("nearest", "bilinear", "bicubic", "lanczos", "area")
    },
    "fitted into": {"resize": "long", "pad": (3.0, 100.0, 7.0), "color": "BGR"},
    "fitted into the corner": {"resize": "long", "library": "pil", "anchor": "top-left"},
    "stretched": {"resize": "stretch", "library": "pil", "resize_to": (44, 50)},
    "cropped, padded": {"resize": "crop", "pad": (9.0,), "rounding": "torchvision"},
    "cropped, padded otherwise": {"resize": "crop", "rounding": "huggingface"},
    "smaller than the input": {"resize_to": 30, "pad": (1.0,), "rounding": "torchvision"},
    "grey of Pillow": {"library": "pil", "color": "GRAY", "scale": 1.0, "mean": (3.0,), "std": (2.0,)},
    "grey of OpenCV": {"color": "GRAY", "scale": 1.0, "mean": (3.0,), "std": (2.0,)},
}
SIZES = [(75, 100), (101, 75), (33, 40), (20, 17), (7, 90), (132, 160), (301, 40), (1, 1), (66, 80), (88, 100)]


def front(preprocess: Preprocess) -> onnx.ModelProto:
    """What makes the input of pictures, and carries evidence back."""
    size, channels = preprocess.size, preprocess.channels
    given = [("picture", TensorProto.UINT8, ["N", "h", "w", 3]), ("evidence", TensorProto.FLOAT, ["N", 1, *size])]
    made = [("x", TensorProto.FLOAT, ["N", channels, *size]), ("back", TensorProto.FLOAT, ["N", 1, "h", "w"])]
    inputs, outputs = ([helper.make_tensor_value_info(*each) for each in values] for values in (given, made))
    graph = helper.make_graph([], "front", inputs, outputs)
    net = Net(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    tape = Tape(net, {}, {})
    picture, evidence = (Value(tape, name, kind) for name, kind, _ in given)
    sides = placed(picture, preprocess)
    for name, value in (
        ("x", decoded_input(picture, *sides, preprocess)),
        ("back", to_picture(evidence, *sides)),
    ):
        tape.rename(value.op("Identity"), name)
    net.finish()
    return net.proto


@pytest.mark.parametrize("name", RESIZING)
def test_pictures_of_all_sizes_become_what_they_become_outside(name: str):
    """All libraries' filters, ways to resize, roundings, corners, and paddings; two pictures at once."""
    wanted = {"size": (33, 40), "resize": "short", **SCALING, **RESIZING[name]}
    if wanted["resize"] == "short":
        wanted.setdefault("resize_to", 44)
    preprocess = Preprocess(**wanted)
    model = front(preprocess)
    onnx.checker.check_model(model, full_check=True)
    rng = np.random.default_rng(0)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in SIZES:
        pictures = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
        evidence = rng.normal(size=(2, 1, *preprocess.size)).astype(np.float32)
        found, back = session.run(None, {"picture": pictures, "evidence": evidence})
        for number, picture in enumerate(pictures):
            expected, placement = to_input(read_picture(picture, preprocess), preprocess)
            if (most := ROUNDED.get(name)) is None:
                assert np.array_equal(found[number], expected), size
            else:
                unit = preprocess.scale / np.array(preprocess.std)[:, None, None]
                assert np.abs((found[number] - expected) / unit).max() < most + 1e-3, size
            carried = spread_to_original(evidence[number, 0], placement)
            # Sums of up to all of the input's pixels, in float32.
            assert np.abs(back[number, 0] - carried).max() < 2e-6 * np.abs(evidence[number]).sum() ** 0.5, size


def test_what_is_resized_otherwise_is_told():
    """The control: the same picture by another filter is another input."""
    wanted = {"size": (33, 40), "resize_to": 44, "library": "pil", **SCALING}
    picture = np.random.default_rng(0).integers(0, 256, (1, 75, 100, 3), dtype=np.uint8)
    evidence = np.zeros((1, 1, 33, 40), np.float32)
    found, _ = run(front(Preprocess(**wanted, interpolation="bicubic")), picture, evidence)
    preprocess = Preprocess(**wanted)
    assert np.abs(found[0] - to_input(read_picture(picture[0], preprocess), preprocess)[0]).max() > 0.05


def test_an_exported_model_takes_decoded_pictures(tiny_model: Path, tmp_path: Path):
    """What `explain` says of the picture, in its own pixels too; and the model inside is taken out again."""
    with DeployedModel(tiny_model, device="cpu", cache=False) as deployed:
        explainer = Explainer(deployed, steps=4, most_steps=4)
        exported = export_model(explainer, Asked(decoded=True), pictures=3)
        assert exported.info["proof"]["levels_apart"] == 0
        assert exported.info["picture"] == {
            "input": "picture",
            "stands_for": "input",
            "evidence": "evidence_in_picture",
        }
        onnx.checker.check_model(onnx.load_model_from_string(exported.data), full_check=True)
        pictures = np.random.default_rng(1).integers(0, 256, (3, 50, 91, 3), dtype=np.uint8)
        *_, evidence, budget, in_picture = run(exported.data, pictures)
        for number, picture in enumerate(pictures):
            found = explainer.explain(picture)
            assert np.abs(found.values - evidence[number, 0]).max() < 1e-5
            assert np.abs(found.pixels - in_picture[number, 0]).max() < 1e-5
            assert budget[number, 0, 0] == pytest.approx(found.budget.with_features, abs=1e-4)
        path = tmp_path / "explained.onnx"
        path.write_bytes(exported.data)
        assert check_exported(path, tiny_model, device="cpu").passed
        with DeployedModel(path, device="cpu", cache=False) as inner:
            inputs = inner.prepare(pictures[0])[1]
            assert np.array_equal(inner.logits(inputs[None]), deployed.logits(inputs[None]))


def test_the_command_puts_preprocessing_inside(tiny_model: Path, tmp_path: Path):
    out = tmp_path / "out.onnx"
    told = CliRunner().invoke(
        main, ["export", str(tiny_model), "-o", str(out), "--steps", "2", "--preprocess", "inside:tf", "--json"]
    )
    assert told.exit_code == 0, told.output
    info = json.loads(told.stdout)
    assert info["settings"]["preprocess"]["resize"] == "stretch"
    given = onnx.load(out).graph.input[0]
    assert given.name == "picture"
    assert given.type.tensor_type.elem_type == TensorProto.UINT8
    again = CliRunner().invoke(main, ["verify", str(out), "--model", str(tiny_model)])
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"color": "BANDS"}, "takes no decoded pictures"),
        ({"white": 4095}, "of samples of 16 bits"),
    ],
)
def test_what_is_no_decoded_picture_is_refused(tiny_model: Path, changes: dict[str, object], message: str):
    size = DeployedModel(tiny_model, device="cpu").model.input_shape[1:]
    given = Preprocess(size=size, **{**SCALING, **changes})
    with (
        DeployedModel(tiny_model, device="cpu", preprocess=given) as deployed,
        Explainer(deployed, steps=2, most_steps=2) as explainer,
        pytest.raises(SettingError, match=message),
    ):
        export_model(explainer, Asked(decoded=True))

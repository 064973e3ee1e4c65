"""Bad input gets one clear line and exit code 1 (2 for wrong usage, 3 for pictures), and leaves nothing half-written.

The installed command is run as users run it; wrong usage and variations of a case run inside this process, which
is faster.
"""

import ctypes
import gc
import logging
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence import DeployedModel, fit_background
from onnx_evidence.cli import main
from onnx_evidence.errors import ModelError
from onnx_evidence.intake.model import load_model
from onnx_evidence.methods.background_file import save_background
from tests import tiny

COMMAND = shutil.which("onnx-evidence", path=str(Path(sys.executable).parent))

TOML = """
size = [32, 32]
resize_to = 36
scale = 0.00392156862745098
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


def smooth(rng: np.random.Generator) -> np.ndarray:
    """A picture whose parts predict one another, as a background needs them."""
    coarse = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (60, 44), interpolation=cv2.INTER_CUBIC)


def huge_png() -> bytes:
    """A PNG that claims 60000 x 60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def head(shape: tuple[int | str, ...], *first: onnx.NodeProto, features: int = 3) -> onnx.ModelProto:
    """The smallest classifier of ``shape``: what the ``first`` nodes make of 'input' in 'x', pooled, by a matrix."""
    weights = {"w": np.ones((features, 5), np.float32) * np.arange(5, dtype=np.float32)}
    pool = helper.make_node("GlobalAveragePool", ["x"], ["pool"])
    nodes = [*first, pool, helper.make_node("Flatten", ["pool"], ["flat"])]
    return tiny.make_model([*nodes, helper.make_node("MatMul", ["flat", "w"], ["logits"])], weights, input_shape=shape)


def bad_models(folder: Path) -> None:
    """Write every model that cannot be used."""
    good = (folder / "good.onnx").read_bytes()
    (folder / "truncated.onnx").write_bytes(good[: len(good) // 2])
    (folder / "beheaded.onnx").write_bytes(good[len(good) // 2 :])
    (folder / "text.onnx").write_text("these are no weights\n" * 40)
    (folder / "empty.onnx").touch()
    (folder / "picture.onnx").write_bytes((folder / "good.png").read_bytes())
    (folder / "folder.onnx").mkdir()
    matrix = {"w": np.ones((10, 5), np.float32)}
    gemm = helper.make_node("MatMul", ["input", "w"], ["logits"])
    tiny.save(tiny.make_model([gemm], matrix, input_shape=("N", 10)), folder / "table.onnx")
    tiny.save(tiny.classifier(recorded=False), folder / "bare.onnx")
    tiny.save(tiny.classifier(ending="softmax"), folder / "soft.onnx")
    transpose = helper.make_node("Transpose", ["input"], ["x"], perm=[0, 3, 1, 2])
    tiny.save(head(("N", 32, 32, 3), transpose), folder / "nhwc.onnx")
    same = helper.make_node("Identity", ["input"], ["x"])
    tiny.save(head(("N", 4, 32, 32), same, features=4), folder / "four-channels.onnx")
    tiny.save(head(("N", 3, "h", "w"), same), folder / "open.onnx")
    double = head(("N", 3, 32, 32), same)
    for value in (*double.graph.input, *double.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    wide = [
        numpy_helper.from_array(numpy_helper.to_array(each).astype(np.float64), each.name)
        for each in double.graph.initializer
    ]
    del double.graph.initializer[:]
    double.graph.initializer.extend(wide)
    tiny.save(double, folder / "double.onnx")
    two = head(("N", 3, 32, 32), helper.make_node("Add", ["input", "mask"], ["x"]))
    two.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ("N", 3, 32, 32)))
    tiny.save(two, folder / "two-inputs.onnx")
    two_outputs = head(("N", 3, 32, 32), same)
    two_outputs.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ("N", 3)))
    tiny.save(two_outputs, folder / "two-outputs.onnx")
    pool = helper.make_node("ReduceMean", ["input"], ["logits"], axes=[1, 2, 3], keepdims=0)
    number = tiny.make_model([pool], {}, output_shape=("N",), metadata={"preprocess": tiny.PREPROCESS})
    tiny.save(number, folder / "number.onnx")
    tiny.accumulating(folder / "accumulating.onnx")


def bad_pictures(folder: Path) -> None:
    """Write every picture that cannot be used."""
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("this is no picture\n" * 40)
    (folder / "huge.png").write_bytes(huge_png())
    for suffix in (".png", ".jpg"):
        data = cv2.imencode(suffix, smooth(np.random.default_rng(9)))[1].tobytes()
        (folder / f"truncated{suffix}").write_bytes(data[: len(data) * 2 // 3])
    (folder / "papers").mkdir()
    (folder / "papers" / "notes.txt").write_text("no picture")
    (folder / "three").mkdir()
    (folder / "damaged").mkdir()
    for picture in sorted((folder / "pictures").iterdir()):
        shutil.copy(picture, folder / "damaged")
        if picture.stem in "012":
            shutil.copy(picture, folder / "three")
    shutil.copy(folder / "truncated.png", folder / "damaged" / "99.png")


def backgrounds(folder: Path) -> None:
    """Write a good background and all that cannot be used."""
    pictures = sorted((folder / "pictures").iterdir())
    for name, model, cut in (
        ("good", "good", "block.add"),
        ("other-cut", "good", "down"),
        ("other-model", "other", "block.add"),
    ):
        deployed = DeployedModel(folder / f"{model}.onnx", device="cpu")
        save_background(folder / f"{name}.npz", fit_background(deployed, [cut], pictures))
    data = (folder / "good.npz").read_bytes()
    (folder / "text.npz").write_text("these are no arrays\n" * 40)
    (folder / "empty.npz").touch()
    (folder / "truncated.npz").write_bytes(data[: len(data) // 2])
    np.savez(folder / "other-arrays.npz", mean=np.zeros(3))
    np.savez(folder / "other-header.npz", header=np.array('{"format": 1}'))
    np.savez(folder / "no-header.npz", header=np.array("no json"))
    with (folder / "one-array.npz").open("wb") as stream:
        np.save(stream, np.zeros(3))
    damaged = bytearray(data)
    # The first member's compressed data: an impossible block type.
    start = 30 + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    damaged[start] |= 0b110
    (folder / "damaged.npz").write_bytes(damaged)


def other_files(folder: Path) -> None:
    """Write settings and labels."""
    (folder / "good.toml").write_text(TOML)
    (folder / "other.toml").write_text(TOML.replace("mean = [0.5", "mean = [0.4"))
    (folder / "syntax.toml").write_text("size = [32, 32\n")
    (folder / "value.toml").write_text(TOML.replace("std = [0.25, 0.25, 0.25]", "std = [0.25, 0, 0.25]"))
    (folder / "key.toml").write_text(TOML + "sise = 3\n")
    (folder / "size.toml").write_text(TOML.replace("[32, 32]", "[48, 40]").replace("36", "60"))
    (folder / "three.txt").write_text("ant\nbee\ncrane\n")
    (folder / "seven.txt").write_text("\n".join("abcdefg"))
    (folder / "empty.txt").touch()
    (folder / "blocker").write_text("a regular file where a folder is wanted")


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad files; no test writes into it."""
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(1)
    (folder / "pictures").mkdir()
    for index in range(12):
        cv2.imwrite(str(folder / "pictures" / f"{index}.png"), smooth(rng))
    shutil.copy(folder / "pictures" / "1.png", folder / "good.png")
    tiny.save(tiny.classifier(), folder / "good.onnx")
    tiny.save(tiny.classifier(seed=1), folder / "other.onnx")
    bad_models(folder)
    bad_pictures(folder)
    backgrounds(folder)
    other_files(folder)
    return folder


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """The command sets up logging for its own process; inside this one, undo that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@dataclass(frozen=True)
class Case:
    """What is typed, with 'OUT' for the test's output folder, and what the one line must hold."""

    typed: str
    words: tuple[str, ...]
    code: int
    installed: bool


def case(typed: str, *words: str, code: int = 1) -> Case:
    """A case for the installed command."""
    return Case(typed, words, code, installed=True)


def inside(typed: str, *words: str, code: int = 1) -> Case:
    """A case that runs inside this process."""
    return Case(typed, words, code, installed=False)


def run(folder: Path, out: Path, typed: str, *, installed: bool = True) -> tuple[int, str, str]:
    """Run the command in ``folder``; exit code, stdout and stderr."""
    arguments = [argument.replace("OUT", str(out)) for argument in typed.split()]
    if not installed:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            inner = CliRunner().invoke(main, arguments, catch_exceptions=False)
        return inner.exit_code, inner.stdout, inner.stderr
    assert COMMAND is not None, "the command is not installed beside this Python"
    outer = subprocess.run([COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return outer.returncode, outer.stdout, outer.stderr


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def check_refused(material: Path, out: Path, refused: Case) -> None:
    before = listing(material)
    code, stdout, stderr = run(material, out, refused.typed, installed=refused.installed)
    assert "Traceback" not in stdout + stderr
    assert code == refused.code, stderr
    lines = stderr.splitlines()
    errors = [line for line in lines if line.startswith("Error: ")]
    assert len(errors) == 1, stderr
    if refused.code != 2:
        assert lines == errors
    missing = [word for word in refused.words if word not in errors[0]]
    assert not missing, errors[0]
    # A picture that cannot be used is on record; nothing else is.
    assert files(out.parent) == ([out / "failures.jsonl"] if refused.code == 3 else [])
    assert listing(material) == before


def case_tests(cases: dict[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("refused", cases.values(), ids=[name.replace(" ", "-") for name in cases])


EXPLAIN = "explain good.onnx good.png -o OUT"
WINDOW = f"{EXPLAIN} --method window"

MODELS = {
    "not onnx, a picture": case("explain picture.onnx good.png -o OUT", "picture.onnx", "not an ONNX model"),
    "text named onnx": case("explain text.onnx good.png -o OUT", "text.onnx", "not an ONNX model"),
    "truncated": case("explain truncated.onnx good.png -o OUT", "truncated.onnx", "truncated"),
    "first half missing": inside("explain beheaded.onnx good.png -o OUT", "beheaded.onnx", "ONNX model"),
    "empty": case("explain empty.onnx good.png -o OUT", "empty.onnx", "the file is empty"),
    "missing": case("explain nowhere.onnx good.png -o OUT", "nowhere.onnx", "No such file"),
    "a folder": inside("explain folder.onnx good.png -o OUT", "folder.onnx", "no regular file"),
    "no image input": case("explain table.onnx good.png -o OUT", "table.onnx", "'input' has 2 axes", "image input"),
    "several inputs": case("explain two-inputs.onnx good.png -o OUT", "2 inputs", "'input', 'mask'"),
    "several outputs": inside("explain two-outputs.onnx good.png -o OUT", "2 outputs", "'flat'", "--output NAME"),
    "a missing output": inside("explain two-outputs.onnx good.png -o OUT --output last", "no output 'last'", "'flat'"),
    "regression": case("explain number.onnx good.png -o OUT", "number.onnx", "regression", "--classes independent"),
    "classes of a softmax": inside(
        "explain soft.onnx good.png -o OUT --classes independent", "'independent'", "softmax", "exclusive", code=2
    ),
    "channels last, at its pixels alone": case(
        "explain nhwc.onnx good.png -o OUT --preprocess good.toml --method window",
        "no cut inside",
        "--method occlusion",
    ),
    "four channels": inside(
        "explain four-channels.onnx good.png -o OUT --preprocess good.toml", "four-channels.onnx", "takes 4 x 32 x 32"
    ),
    "open size": inside("inspect open.onnx", "open.onnx", "height and width open", "--preprocess"),
    "double": case("explain double.onnx good.png -o OUT --preprocess good.toml", "double.onnx", "double"),
    "inspect a text": inside("inspect text.onnx", "text.onnx", "not an ONNX model"),
    "inspect nothing": inside("inspect nowhere.onnx", "nowhere.onnx", "No such file"),
    "background of a text": inside("background text.onnx pictures -o OUT/b.npz", "text.onnx", "not an ONNX model"),
}

CUTS = {
    "bypassed": case(
        f"{EXPLAIN} --layer block.b", "'block.b' is not a cut", "'stem.relu' bypasses", "nearest", "'block.add'"
    ),
    "unknown": case(f"{EXPLAIN} --layer deap.add", "'deap.add' is not a tensor", "nearest", "'deep.add'"),
    "a weight": inside(f"{EXPLAIN} --layer w1", "'w1' is not a tensor", "nearest"),
    "no grid": inside(f"{EXPLAIN} --layer flat", "'flat' has no grid", "nearest", "'deep.add'"),
    "one of two": inside(f"{EXPLAIN} --layer block.add --layer block.a", "'block.a' is not a cut", "nearest"),
    "background at a bypassed layer": inside(
        "background good.onnx pictures -o OUT/b.npz --layer block.b", "'block.b' is not a cut", "'stem.relu'"
    ),
}

PICTURES = {
    "missing": case("explain good.onnx nowhere.jpg -o OUT", "nowhere.jpg", "No such file"),
    "empty": case("explain good.onnx empty.png -o OUT", "empty.png", "the file is empty", code=3),
    "truncated png": case(
        "explain good.onnx truncated.png -o OUT", "truncated.png", "cannot decode", "damaged", code=3
    ),
    "truncated jpg": case(
        "explain good.onnx truncated.jpg -o OUT", "truncated.jpg", "cannot decode", "damaged", code=3
    ),
    "text named jpg": case("explain good.onnx text.jpg -o OUT", "text.jpg", "cannot decode", "no picture", code=3),
    "absurdly large": case(
        "explain good.onnx huge.png -o OUT", "huge.png", "absurdly large", "250 million pixels", code=3
    ),
    "folder without pictures": inside("explain good.onnx papers -o OUT", "papers", "no pictures"),
    "background from no folder": inside("background good.onnx nowhere -o OUT/b.npz", "nowhere", "no such folder"),
    "background from no pictures": inside("background good.onnx papers -o OUT/b.npz", "papers", "no pictures"),
    "background from three pictures": inside(
        "background good.onnx three -o OUT/b.npz", "3 pictures", "10 is the least"
    ),
    "background with a damaged picture": case("background good.onnx damaged -o OUT/b.npz", "99.png", "cannot decode"),
}

CLASSES = {
    "unknown name": case(f"{EXPLAIN} --target anl", "'anl' is unknown", "did you mean 'ant'"),
    "unknown number": inside(f"{EXPLAIN} --target 5", "class 5 does not exist", "0 to 4"),
    "negative number": inside(f"{EXPLAIN} --target=-1", "'-1' is unknown"),
    "ambiguous name": case(f"{EXPLAIN} --target crane", "'crane' is ambiguous", "2 and 4", "give the number"),
    "unknown versus": inside(f"{EXPLAIN} --versus zebra", "'zebra' is unknown"),
    "ambiguous versus": inside(f"{EXPLAIN} --versus Crane", "'Crane' is ambiguous", "2 and 4"),
    "no names at all": inside(
        "explain bare.onnx good.png -o OUT --preprocess good.toml --target ant", "'ant'", "no class names", "--labels"
    ),
    "too few labels": case(f"{EXPLAIN} --labels three.txt", "3 labels", "5 classes"),
    "too many labels": case(f"{EXPLAIN} --labels seven.txt", "7 labels", "5 classes"),
    "too few labels in inspect": inside("inspect good.onnx --labels three.txt", "3 labels", "5 classes"),
    "empty labels": inside(f"{EXPLAIN} --labels empty.txt", "empty.txt", "no labels"),
    "missing labels": inside(f"{EXPLAIN} --labels nowhere.txt", "nowhere.txt", "cannot read the labels"),
    "held against itself": case(f"{EXPLAIN} --target ant --versus ant", "'ant'", "against itself", "--versus", code=2),
    "held against its number": inside(f"{EXPLAIN} --target ant --versus 0", "'ant'", "against itself", code=2),
}

BACKGROUNDS = {
    "of another model": case(
        f"{EXPLAIN} --layer block.add --background other-model.npz", "other-model.npz", "another model", "sha256"
    ),
    "of another cut": case(
        f"{EXPLAIN} --layer block.add --background other-cut.npz", "other-cut.npz", "cut 'down'", "not for 'block.add'"
    ),
    "of another preprocessing": inside(
        f"{EXPLAIN} --layer block.add --background good.npz --preprocess other.toml",
        "good.npz",
        "another preprocessing",
    ),
    "text": case(f"{EXPLAIN} --background text.npz", "text.npz", "not a background file"),
    "empty": inside(f"{EXPLAIN} --background empty.npz", "empty.npz", "not a background file, or a damaged one"),
    "truncated": inside(
        f"{EXPLAIN} --background truncated.npz", "truncated.npz", "not a background file, or a damaged one"
    ),
    "damaged": case(f"{EXPLAIN} --background damaged.npz", "damaged.npz", "background"),
    "one array": inside(f"{EXPLAIN} --background one-array.npz", "one-array.npz", "not a background file"),
    "other arrays": case(f"{EXPLAIN} --background other-arrays.npz", "other-arrays.npz", "not a background file"),
    "other header": inside(f"{EXPLAIN} --background other-header.npz", "other-header.npz", "not a background file"),
    "header no json": inside(f"{EXPLAIN} --background no-header.npz", "no-header.npz", "not a background file"),
    "missing": inside(f"{EXPLAIN} --background nowhere.npz", "nowhere.npz", "No such file"),
    "missing for pda": inside(f"{EXPLAIN} --method pda", "'pda'", "--background FILE.npz", code=2),
    "of another cut, for windows": inside(
        f"{WINDOW} --layer block.add --background other-cut.npz", "other-cut.npz", "cut 'down'", "not for 'block.add'"
    ),
    "a folder that is missing": inside(f"{EXPLAIN} --background nowhere", "nowhere", "mean, zero, blur, blur+mean"),
    "a folder without pictures": case(f"{EXPLAIN} --background papers", "papers", "no pictures"),
    "a folder with too few pictures": case(f"{EXPLAIN} --background three", "3 pictures", "8", "--samples"),
    "a folder with fewer than asked for": inside(f"{EXPLAIN} --background three --samples 4", "3 pictures", "4 are"),
    "a folder with a damaged picture": inside(
        f"{EXPLAIN} --background damaged --samples 13", "99.png", "cannot decode"
    ),
}

METHODS = {
    "an operator without a rule": case(
        "explain accumulating.onnx good.png -o OUT --method integrated", "no backward rule", "Scan", "'summed'"
    ),
    "the same for a slope": inside(
        "explain accumulating.onnx good.png -o OUT --method grad-cam", "no backward rule", "Scan", "'summed'"
    ),
    "the same in pixels": inside(
        "explain accumulating.onnx good.png -o OUT --method integrated-gradients", "Scan", "'summed'"
    ),
    "window for integration": case(f"{EXPLAIN} --window 3", "--window", "drop it", "window, occlusion, pda", code=2),
    "stride for integration": inside(
        f"{EXPLAIN} --stride 3 --method integrated", "'integrated'", "--stride", "window, occlusion, pda", code=2
    ),
    "laplace for integration": inside(f"{EXPLAIN} --laplace 3,5", "--laplace", "window, occlusion, pda", code=2),
    "statistic for windows": inside(
        f"{WINDOW} --layer block.add --background good.npz --statistic channel",
        "'window'",
        "--statistic",
        "integrated",
        code=2,
    ),
    "score for windows": inside(f"{WINDOW} --score logit", "'window'", "--score", "integrated", code=2),
    "blur for windows": inside(f"{WINDOW} --background blur", "'window'", "--background blur", "FILE.npz", code=2),
    "projection for windows": inside(f"{WINDOW} --project backward", "'window'", "--project", "integrated", code=2),
    "projection of pixels": inside(
        f"{EXPLAIN} --method integrated-gradients --project backward", "on pixels already", "drop --project", code=2
    ),
    "completeness for windows": inside(f"{WINDOW} --completeness 0.1", "'window'", "--completeness", code=2),
    "a folder for windows": inside(
        f"{WINDOW} --background pictures", "'window'", "pictures", "onnx-evidence background", code=2
    ),
    "a folder for occlusion": inside(
        f"{EXPLAIN} --method occlusion --background pictures", "'occlusion'", "pictures", code=2
    ),
    "background of a slope": inside(
        f"{EXPLAIN} --method gradient --background zero", "'gradient'", "--background", code=2
    ),
    "samples of a path": inside(f"{EXPLAIN} --samples 4", "samples 4", "--background FOLDER", code=2),
    "samples of a file": inside(
        f"{EXPLAIN} --layer block.add --background good.npz --samples 4", "samples 4", "FOLDER", code=2
    ),
    "statistic of the picture's own means": inside(
        f"{EXPLAIN} --statistic channel", "'channel'", "--background FILE.npz", code=2
    ),
    "what the chosen method has no use for": inside(
        "explain accumulating.onnx good.png -o OUT --score logit", "'window'", "--score", code=2
    ),
    "layer with integrated gradients": inside(
        f"{EXPLAIN} --method integrated-gradients --layer down", "'integrated-gradients'", "drop --layer", code=2
    ),
    "two layers for one map": case(
        f"{EXPLAIN} --method grad-cam --layer down --layer deep.add", "'grad-cam'", "one layer, not 2", code=2
    ),
    "unknown statistic": inside(f"{EXPLAIN} --statistic magic", "'magic'", "position", "channel", code=2),
    "unknown score": inside(f"{EXPLAIN} --score magic", "'magic'", "log-odds", "logit", code=2),
    "unknown projection": inside(f"{EXPLAIN} --project magic", "'magic'", "field", "backward", code=2),
    "completeness of nothing": case(f"{EXPLAIN} --completeness 0", "--completeness", "0<x<1", code=2),
    "completeness of everything": inside(f"{EXPLAIN} --completeness 1", "--completeness", "0<x<1", code=2),
    "completeness beyond everything": inside(f"{EXPLAIN} --completeness 1.5", "--completeness", "0<x<1", code=2),
    "completeness below nothing": inside(f"{EXPLAIN} --completeness=-0.1", "--completeness", "0<x<1", code=2),
    "completeness no number": inside(f"{EXPLAIN} --completeness 5%", "--completeness", "'5%'", code=2),
}

SETTINGS = {
    "folder not writable": case("explain good.onnx good.png -o blocker/out", "blocker/out", "cannot write"),
    "folder is a file": inside("explain good.onnx good.png -o blocker", "blocker", "cannot write"),
    "background not writable": case("background good.onnx pictures -o blocker/b.npz", "blocker", "cannot write"),
    "preprocessing unknown": case(
        "explain bare.onnx good.png -o OUT", "bare.onnx", "does not record its preprocessing", "--preprocess FILE.toml"
    ),
    "preprocessing unknown to background": inside(
        "background bare.onnx pictures -o OUT/b.npz", "bare.onnx", "--preprocess FILE.toml"
    ),
    "toml syntax": case(f"{EXPLAIN} --preprocess syntax.toml", "syntax.toml", "cannot read the preprocessing"),
    "toml value": inside(f"{EXPLAIN} --preprocess value.toml", "value.toml", "std.1", "greater than 0"),
    "toml key": inside(f"{EXPLAIN} --preprocess key.toml", "key.toml", "sise"),
    "toml size": inside(f"{EXPLAIN} --preprocess size.toml", "3 x 48 x 40", "3 x 32 x 32"),
    "toml missing": inside(f"{EXPLAIN} --preprocess nowhere.toml", "nowhere.toml", "No such file"),
    "odd samples": case(
        f"{WINDOW} --layer block.add --background good.npz --samples 3", "3 samples", "even number", code=2
    ),
    "odd samples of a constant": inside(f"{WINDOW} --samples 5", "5 samples", "even number", code=2),
    "samples of a constant": inside(f"{WINDOW} --samples 4", "4 samples", "constant", "background", code=2),
    "zero samples": inside(f"{EXPLAIN} --samples 0", "--samples", "0 is not in the range", code=2),
    "window of a background too small": inside(
        f"{WINDOW} --layer block.add --background good.npz --window 9", "window 9", "patch of 5", "--patch", code=2
    ),
    "stride over the window": inside(f"{WINDOW} --window 3 --stride 4", "stride 4", "leaves cells out", code=2),
    "layer with occlusion": inside(f"{EXPLAIN} --method occlusion --layer down", "'occlusion'", "drop --layer", code=2),
    "auto with a layer": inside(f"{EXPLAIN} --layer auto --layer down", "'auto'", "alone", code=2),
    "laplace": inside(f"{EXPLAIN} --laplace 100", "'100'", "two whole numbers", code=2),
    "laplace of other classes": inside(
        f"{WINDOW} --laplace 100,7", "laplace 100,7", "5 here", "--laplace 100,5", code=2
    ),
    "laplace zero": inside(f"{WINDOW} --laplace 0,5", "laplace 0,5", "at least 1", code=2),
    "quiet and verbose": inside(f"{EXPLAIN} -q -v", "-q and -v", code=2),
    "unknown method": inside(f"{EXPLAIN} --method magic", "'magic'", "occlusion", code=2),
    "unknown option": inside(f"{EXPLAIN} --magic", "--magic", code=2),
    "no image": inside("explain good.onnx -o OUT", "IMAGES", code=2),
    "no folder to write": inside("explain good.onnx good.png", "--out", code=2),
}


@case_tests(MODELS)
def test_a_model_that_cannot_be_used_is_refused(material, tmp_path, refused):
    check_refused(material, tmp_path / "out", refused)


@case_tests(CUTS)
def test_a_layer_that_is_no_cut_is_refused(material, tmp_path, refused):
    check_refused(material, tmp_path / "out", refused)


@case_tests(PICTURES)
def test_a_picture_that_cannot_be_used_is_refused(material, tmp_path, refused):
    check_refused(material, tmp_path / "out", refused)


@case_tests(CLASSES)
def test_a_class_that_cannot_be_meant_is_refused(material, tmp_path, refused):
    check_refused(material, tmp_path / "out", refused)


@case_tests(BACKGROUNDS)
def test_a_background_that_does_not_belong_is_refused(material, tmp_path, refused):
    check_refused(material, tmp_path / "out", refused)
    # A file that was left open warns here, where it was opened, and not in some later test.
    gc.collect()


@case_tests(METHODS)
def test_what_a_method_has_no_use_for_or_cannot_do_is_refused(material, tmp_path, refused):
    check_refused(material, tmp_path / "out", refused)


@case_tests(SETTINGS)
def test_settings_that_cannot_work_are_refused(material, tmp_path, refused):
    check_refused(material, tmp_path / "out", refused)


def test_cuda_without_a_gpu_is_refused_and_says_what_is_missing(material, tmp_path):
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        pytest.skip("an NVIDIA driver is installed, so a GPU may work here")
    words = ("device 'cuda' does not work here", "the NVIDIA driver" if sys.platform != "darwin" else "CUDA provider")
    check_refused(material, tmp_path / "out", case(f"{EXPLAIN} --device cuda", *words))


def test_the_same_command_with_good_input_writes_results(material, tmp_path):
    """The control of all tests above: what they look for, and do not find, is there when nothing is wrong."""
    rest = "--layer block.add --background good.npz --preprocess good.toml --target ant -q"
    for start in (EXPLAIN, WINDOW):
        for installed in (True, False):
            out = tmp_path / f"{start == WINDOW}-{installed}"
            assert run(material, out, f"{start} {rest}", installed=installed) == (0, "", "")
            assert {path.suffix for path in files(out)} == {".npz", ".png", ".jsonl"}


@pytest.mark.parametrize(
    "typed",
    [
        f"{EXPLAIN} --background three --samples 3 --completeness 0.5",
        f"{EXPLAIN} --layer block.add --background good.npz --statistic channel --score logit",
        f"{EXPLAIN} --layer down --layer deep.add --background blur",
        f"{EXPLAIN} --method grad-cam --layer down --score logit",
        f"{WINDOW} --window 3 --stride 1 --laplace 3,5",
        "explain accumulating.onnx good.png -o OUT",
        "explain accumulating.onnx good.png -o OUT --method window --window 4",
    ],
)
def test_control_what_differs_from_a_refusal_in_one_word_works(material, tmp_path, typed):
    assert run(material, tmp_path / "out", f"{typed} -q", installed=False) == (0, "", "")
    assert {path.suffix for path in files(tmp_path)} == {".npz", ".png", ".jsonl"}


def test_no_part_of_a_model_passes_for_the_whole(material, tmp_path):
    """Wherever the file ends: within a message of its format or between two."""
    data = (material / "good.onnx").read_bytes()
    recorded = data.index(b"onnx_evidence.")
    assert load_model(material / "good.onnx").input_name == "input"
    # What the file records of itself comes last; up to there every byte is needed.
    ends = [*range(0, 60), *range(60, recorded - 20, 997), *range(recorded - 60, recorded - 20)]
    for end in ends:
        (tmp_path / "part.onnx").write_bytes(data[:end])
        with pytest.raises(ModelError, match=r"part\.onnx: .*ONNX model") as caught:
            load_model(tmp_path / "part.onnx")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("typed", ["preprocess MODEL", "--help", "--version", "explain --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_is_full_is_one_line(tiny_model, typed, unbuffered):
    """Python tries what is left in a buffer again as it ends, with an exit code of its own."""
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "onnx_evidence", *typed.replace("MODEL", str(tiny_model)).split()]
        ended = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("Error: cannot read or write: [Errno 28]")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("typed", ["inspect nothing.onnx", "frobnicate"])
def test_where_errors_cannot_be_written_the_exit_code_says_so(typed):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "onnx_evidence", *typed.split()]
        ended = subprocess.run(
            command, stderr=full, timeout=60, check=False, env={**os.environ, "PYTHONUNBUFFERED": ""}
        )
    assert ended.returncode == 1


@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="no such shell")
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-"])
def test_closed_streams_keep_nobody_from_working(tiny_model, tmp_path, closed):
    cv2.imwrite(str(tmp_path / "p.png"), np.zeros((40, 50, 3), np.uint8))
    out = str(tmp_path / "out")
    for arguments in (
        ("explain", str(tiny_model), str(tmp_path / "p.png"), "-o", out),
        ("verify", out),
        ("summary", out),
    ):
        command = ["/bin/sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "onnx_evidence", *arguments]
        ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert ended.returncode == 0, arguments
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes().count(b"\n") == 1


def test_names_that_the_systems_encoding_does_not_have_are_worked_with(tiny_model, tmp_path):
    cv2.imwrite(str(tmp_path / "h\u00fcte.png"), np.zeros((40, 50, 3), np.uint8))
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    out = str(tmp_path / "out")
    for arguments in (("explain", str(tiny_model), str(tmp_path), "-o", out), ("verify", out), ("summary", out)):
        ended = subprocess.run(
            [sys.executable, "-m", "onnx_evidence", *arguments],
            env={**os.environ, **ascii_only},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (ended.returncode, ended.stderr.count(b"Traceback")) == (0, 0), ended.stderr
    assert sorted(path.name[:4] for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["hte-"]

"""What an exported model gives for a picture in Python: for drive.mjs to hold a browser against.

    python tools/browser/expect.py model-explained.onnx photo.jpg -o expected

It needs numpy, onnx, click, Pillow and ONNX Runtime, and nothing of this package. The folder gets arrays as they lie
in memory (little-endian: pixels.u8, evidence.f32, evidence_in_picture.f32), and expected.json: shapes, class, budget
and times.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from PIL import Image, ImageOps

_KEY = "onnx_evidence.export"
_REPEATS = 9


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder.")
@click.option("--repeats", type=click.IntRange(min=1), default=_REPEATS, show_default=True, help="Runs that are timed.")
def main(model: Path, picture: Path, out: Path, repeats: int) -> None:
    """Run MODEL on PICTURE, and write what comes of it."""
    proto = onnx.load(model)
    record = json.loads(next(each.value for each in proto.metadata_props if each.key == _KEY))
    if not record.get("picture") or record["input"] is not None:
        raise click.UsageError(f"{model}: export it with --preprocess inside, and for the winner or classes by name")
    with Image.open(picture) as image:
        pixels = np.ascontiguousarray(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    given = {record["picture"]["input"]: pixels[None]}
    out.mkdir(parents=True, exist_ok=True)
    found, one = _run(model, given, 1, repeats)
    _, every = _run(model, given, 0, repeats)
    names = record["outputs"]
    arrays = {"evidence": found[names["evidence"]], "evidence_in_picture": found[record["picture"]["evidence"]]}
    for name, values in arrays.items():
        values.astype("<f4").tofile(out / f"{name}.f32")
    pixels.tofile(out / "pixels.u8")
    scores = next(values for name, values in found.items() if name not in names.values())
    info: dict[str, Any] = {
        "picture": picture.name,
        "shapes": {name: values.shape for name, values in arrays.items()} | {"pixels": pixels.shape},
        "winner": int(scores[0].argmax()),
        "budget": found[names["budget"]][0].tolist(),
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "ms": {"one thread": one, "all threads": every},
    }
    (out / "expected.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    for count, spent in info["ms"].items():
        click.echo(f"{info['runtime']}, {count}: {spent['median']:.0f} ms, at least {spent['least']:.0f} ms")


def _run(model: Path, given: dict[str, Any], threads: int, repeats: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Outputs by their names, and times in ms, after a first run that is not counted."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    values = session.run(names, given)
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        session.run(names, given)
        spent.append((time.perf_counter() - start) * 1000)
    times = {"median": statistics.median(spent), "least": min(spent)}
    return dict(zip(names, values, strict=True)), times


if __name__ == "__main__":
    main()

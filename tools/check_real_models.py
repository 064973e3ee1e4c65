"""Check that classifiers as people deploy them are explained, or refused with the reason; a table of one row per model.

``build FOLDER`` makes a zoo of models (see ``parts/zoo/``: ``torch_models.py``, ``tf_models.py``, ``lite0.py``,
``packages.py``) and goes on where it stopped. PyTorch and TensorFlow are needed for that alone, in environments of
their own:

    python -m venv torchenv && torchenv/bin/pip install torch torchvision onnxscript timm click . pytest hypothesis
    python -m venv tfenv && tfenv/bin/pip install tensorflow-cpu tf2onnx skl2onnx scikit-learn

``check FOLDER`` explains a photograph with every model there, with default options, each in a process of its own with
limits of time and memory. A row has, beside what the file is:

* certificate: of the cuts that were used, the largest: max |model - tail(head)| as a share of the largest logit;
* file: the same of the model as it was taken in against the file as it is, run by plain ONNX Runtime, as the file
  gives it (scores or probabilities), for two pictures;
* batch: two pictures at once against one at a time;
* place: the location test (see ``parts/zoo/location.py``): evidence at a patch over that anywhere, the least of two
  patches for the map, and for the worst cut's own; '-' where the patch raises no class;
* left: share of the multiply-adds behind the deepest cut.

With ``--rows ROWS`` every row is kept there as soon as it is known, ROWS/SOURCE+NAME.json, and those that are there are
not made again: a check of hours goes on where it stopped, and once all rows are there the table takes seconds. Verdicts
are made anew from what the rows hold. To check a model again, delete its row.

A verdict in capitals is a defect. The status is 1 where there is one.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from parts.zoo import packages, tf_models, torch_models
from parts.zoo.location import LIFT, lift
from parts.zoo.spec import Spec
from parts.zoo.verdict import MOST_LEFT, Verdict, judge

_HERE = Path(__file__).parent
_MODULES = ("lite0", "packages", "torch_models", "tf_models")
_ABOUT = """# The models that were checked

`python tools/check_real_models.py build ZOO` makes them, `check ZOO --quality {quality} -o docs/models-checked.md`
checks them and writes this: default options, each in a process of its own, one photograph and two pictures with a
patch. `*`: trained weights; all others have random ones; "narrow": made narrower or shorter, to save time.
"preprocessing" is what was given where nothing is recorded. "certificate": largest |model - tail(head)| over the cuts
taken; "file": the canonical graph against the file run by plain ONNX Runtime; "batch": two pictures together against
one at a time; all as shares of the largest score. "place": even grey with one patch of noise: how many times as much
evidence for the class that the patch speaks for lies at the patch as if it lay anywhere, the least of two patches; in
brackets the worst cut's own; `-` where the patch raises no class. Below {lift:g}, or with the evidence nearer to a
mirrored or turned image of the patch, it is WRONG PLACE. "left": share of the multiply-adds behind the deepest cut;
above {left:.0%} without a word it is SHALLOW; where the default method cannot be computed, the receipt's
reason stands behind the verdict. Random weights are set so that places matter: kernels weigh their middle most,
statistics of BatchNorm are measured, and what mixes all places by weights of its own (token mixers, gates made of means
over all places) is damped: where a patch moves every cell of a network, its evidence is rightly everywhere, and a
misplaced map cannot be told from a sound one. Norms over the whole picture do that too. Where a map is not at the
patch, two trials say whether the evidence is: cells of a cut are exchanged between the pictures with and without the
patch, and ONNX Runtime says how many bits go ("beside": in what is no cell, class tokens); and the test is done again
with the norms' statistics held at those of the picture with the patch ("held"). Only where the cells have more
elsewhere, and the map is right once statistics are held, it is explained, and says so. Seconds with {workers} at once.
"""
_HEAD = (
    "| model | exporter | opset | input | preprocessing | output | cuts (auto) | method | certificate | file | batch "
    "| place | left | seconds | verdict |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)

Row = dict[str, Any]


def _environment() -> dict[str, str]:
    """Of processes that find the parts of this tool, and the package, from wherever they are started."""
    homes = os.pathsep.join([str(_HERE), str(_HERE.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": homes}


def catalogue() -> dict[str, Spec]:
    """All specs by ``source/name``."""
    from parts.zoo.lite0 import SPECS  # brings the quantiser, which only building needs otherwise

    specs = (*SPECS, *packages.SPECS, *torch_models.SPECS, *tf_models.SPECS)
    return {f"{spec.source}/{spec.name}": spec for spec in specs}


def find_specs(folder: Path) -> list[Spec]:
    """One spec per .onnx file of ``FOLDER/SOURCE/``; one that is not in the catalogue must record what it needs."""
    known = catalogue()
    found = []
    for path in sorted(folder.glob("[!.]*/*.onnx")):
        key = f"{path.parent.name}/{path.stem}"
        found.append(known.get(key, Spec(path.parent.name, path.stem, "")))
    return found


def run_row(spec: Spec, folder: Path, picture: Path, quality: str, limits: tuple[int, float]) -> Row:
    """Explain with one model in a process of its own, with limits of seconds and gigabytes."""
    seconds, gigabytes = limits
    job = {"model": str(spec.path(folder)), "picture": str(picture), "output": spec.output, "layer": spec.layer}
    job["quality"] = quality
    if spec.preset is not None:
        beside = folder / spec.preset
        job["preprocess"] = str(beside) if beside.suffix == ".toml" else spec.preset

    def limit() -> None:
        size = int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        os.nice(10)

    with tempfile.TemporaryDirectory() as work:
        asked, answer = Path(work, "job.json"), Path(work, "row.json")
        asked.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "parts.zoo.row", str(asked), str(answer)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=seconds,
                preexec_fn=limit,
                check=False,
                env={**_environment(), "OPENBLAS_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired:
            return {"end": "timeout", "reason": f"more than {seconds} s"}
        if not answer.exists():
            last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
            return {"end": "died", "reason": f"exit status {done.returncode}: {last}"}
        row: Row = json.loads(answer.read_text(encoding="utf-8"))
        return row


def kept_row(rows: Path | None, spec: Spec, make: Callable[[], Row]) -> Row:
    """The row of a model that is kept in a folder; where it is not there yet, made and kept whole or not at all."""
    if rows is None:
        return make()
    path = rows / f"{spec.source}+{spec.name}.json"
    if not path.exists():
        row = make()
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=rows, delete=False) as stream:
            json.dump(row, stream)
        Path(stream.name).replace(path)
    found: Row = json.loads(path.read_text(encoding="utf-8"))
    return found


def as_line(spec: Spec, row: Row, verdict: Verdict) -> str:
    """One row of the table."""
    preset = "recorded" if spec.preset is None else Path(spec.preset).name
    exporter = spec.exporter or row.get("producer", "")
    explained = row["end"] == "explained"
    cells = [
        f"{spec.source}/{spec.name}{' *' if spec.pretrained else ''}",
        exporter,
        str(row.get("opset", "")),
        row.get("input", ""),
        preset,
        f"{row['kind']}, {row['classes']}" if explained else "",
        f"{row['cuts']} ({', '.join(row['used'])})" if explained else "",
        row.get("method", ""),
        *(f"{row[name]:.1e}" if explained else "" for name in ("certificate", "file", "batch")),
        place_in_words(row) if explained else "",
        f"{row['left']:.0%}" if explained else "",
        str(row.get("total", "")),
        verdict.words,
    ]
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def place_in_words(row: Row) -> str:
    """Evidence at the patch, as a multiple of that anywhere: the map's, and the worst cut's own."""
    held = f"; held {_least(row['held'])}" if row.get("held") else ""
    return _least(row["places"]) + held


def _least(places: Sequence[Row]) -> str:
    shown = [place for place in places if "map" in place]
    if not shown:
        return "-"
    least = min(lift(place["map"]) for place in shown)
    return f"{least:.1f} ({min(lift(cut) for place in shown for cut in place['cuts']):.1f})"


def tally(rows: Iterable[tuple[Spec, Verdict]]) -> str:
    """How many were explained, refused as they should be, and not; trained ones apart."""
    rows = list(rows)
    counts = Counter(verdict.kind for _, verdict in rows)
    trained = sum(spec.pretrained and verdict.kind == "explained" for spec, verdict in rows)
    each = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return f"{len(rows)} models: {each}. Explained with trained weights (*): {trained}."


@click.group()
def main() -> None:
    """Build a zoo of classifiers, and check that each is explained or refused with the reason."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--torch-python", type=click.Path(exists=True), help="Of an environment with PyTorch; else left out.")
@click.option("--tf-python", type=click.Path(exists=True), help="Of an environment with TensorFlow; else left out.")
@click.option("--lite0", type=click.Path(exists=True), default="models/efficientnet-lite0.onnx", show_default=True)
@click.option("--pictures", type=click.Path(exists=True), required=True, help="Photographs to calibrate int8 on.")
@click.option("--only", multiple=True, help="Names of models.")
def build(
    folder: Path, torch_python: str | None, tf_python: str | None, lite0: str, pictures: str, only: Sequence[str]
) -> None:
    """Build what is not there yet in FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    pythons = {"torch_models": torch_python, "tf_models": tf_python}
    paths = {"LITE0": str(Path(lite0).resolve()), "PICTURES": str(Path(pictures).resolve())}
    failed = False
    for module in _MODULES:
        python = pythons.get(module, sys.executable)
        if python is None:
            click.echo(f"{module}: left out, no Python was given for it", err=True)
            continue
        command = [python, "-m", f"parts.zoo.{module}", str(folder.resolve()), *only]
        failed |= bool(subprocess.run(command, env={**_environment(), **paths}, check=False).returncode)
    raise SystemExit(int(failed))


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown file; default: printed only.")
@click.option("--picture", type=click.Path(exists=True, path_type=Path), help="Default: Grace Hopper, from matplotlib.")
@click.option("--only", multiple=True, help="Parts of SOURCE/NAME; any of them.")
@click.option("--quality", default="default", show_default=True, help="As `explain` takes it; 'fast' for a quick look.")
@click.option("--seconds", default=600, show_default=True, help="At most, for one model.")
@click.option("--rows", type=click.Path(path_type=Path), help="Folder of rows: kept there, and not made again.")
@click.option("--workers", default=1, show_default=True, help="Models at once.")
@click.option("--gigabytes", default=12.0, show_default=True, help="Address space at most, for one model.")
def check(
    folder: Path,
    output: Path | None,
    picture: Path | None,
    only: Sequence[str],
    quality: str,
    seconds: int,
    gigabytes: float,
    rows: Path | None,
    workers: int,
) -> None:
    """Explain a photograph, and find a patch, with every model of FOLDER/SOURCE/NAME.onnx."""
    picture = picture or default_picture()
    if rows is not None:
        rows.mkdir(parents=True, exist_ok=True)
    lines, judged = [_ABOUT.format(quality=quality, lift=LIFT, left=MOST_LEFT, workers=workers), _HEAD], []
    click.echo(_HEAD)
    specs = [
        spec for spec in find_specs(folder) if not only or any(part in f"{spec.source}/{spec.name}" for part in only)
    ]
    with ThreadPoolExecutor(workers) as pool:
        limits = seconds, gigabytes
        made = pool.map(
            lambda spec: kept_row(rows, spec, lambda: run_row(spec, folder, picture, quality, limits)), specs
        )
        for spec, row in zip(specs, made, strict=True):
            verdict = judge(row, refusal_expected=spec.refused)
            judged.append((spec, verdict))
            lines.append(as_line(spec, row, verdict))
            click.echo(lines[-1])
    lines.append(f"\n{tally(judged)}")
    click.echo(lines[-1])
    if output is not None:
        output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    raise SystemExit(int(any(verdict.defect for _, verdict in judged)))


def default_picture() -> Path:
    """The photograph that matplotlib carries."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")


if __name__ == "__main__":
    main()

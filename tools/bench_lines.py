"""A folder of very many maps: seconds per line and peak memory of whatever reads its manifest.

One picture is explained by a tiny model; its receipt is repeated for as many small files, each with a map of its own,
so that every hash and every seal is right. Each command then runs in a process of its own. Seconds are those of
processors, which other work on the machine changes little.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from parts.small_model import write_model, write_pictures

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.journal import sealed
from onnx_evidence.cli import main as command_line

# Those of them that need no file but the manifest and what the first line names.
BARE = ("explain, one asked for", "merge, all there")
# What is run, by what it is called in the table.
STEPS = {
    "explain, all finished": ("explain", "{place}/model.onnx", "{place}/list.txt", "-o", "{place}/out", "-q"),
    "explain, one asked for": ("explain", "{place}/model.onnx", "{place}/in/0.png", "-o", "{place}/out", "-q"),
    "verify --sample 0": ("verify", "{place}/out", "--sample", "0", "-q"),
    "summary": ("summary", "{place}/out", "-o", "{place}/table.csv", "-q"),
    "merge, all there": ("merge", "{place}/out", "-o", "{place}/merged", "-q"),
    "merge": ("merge", "{place}/out", "-o", "{place}/new", "-q"),  # seconds are the disk's: every map is flushed
}


def make(place: Path, count: int, *, bare: bool = False) -> None:
    """A model, a list of pictures, and the folder of their results."""
    out, pictures = place / "out", place / "in"
    model = write_model(place / "model.onnx")
    write_pictures(pictures, 1).joinpath("0000.png").rename(pictures / "0.png")
    command_line(["explain", str(model), str(pictures / "0.png"), "-o", str(out), "-q"], standalone_mode=False)
    first: dict[str, Any] = json.loads((out / "manifest.jsonl").read_text(encoding="utf-8"))
    data = (out / first["map"]).read_bytes()
    for name in ("previous", "seal"):
        del first[name]
    with (out / "manifest.jsonl").open("wb") as stream, (place / "list.txt").open("w", encoding="utf-8") as names:
        for number, line in enumerate(_lines(first, place, data, 1 if bare else count, count)):
            stream.write(line)
            names.write(f"in/{number}.png\n")
    (place / "merged").mkdir()
    shutil.copy(out / "manifest.jsonl", place / "merged")


def _lines(first: dict[str, Any], place: Path, data: bytes, files: int, count: int) -> Iterator[bytes]:
    head: str | None = None
    figure = (place / "out" / first["figure"]).read_bytes()
    for number in range(count):
        picture = place / "in" / f"{number}.png"
        content = b"%d" % number
        names = {kind: first[kind].replace("0/", f"{number}/", 1) for kind in ("map", "figure")}
        if 0 < number < files:  # the first one is there
            picture.write_bytes(content)
            (place / "out" / str(number)).mkdir()
            (place / "out" / names["map"]).write_bytes(data)
            (place / "out" / names["figure"]).write_bytes(figure)
        digest = hashlib.sha256(content if number else picture.read_bytes()).hexdigest()
        entry = {**first, **names, "image": str(picture), "hashes": {**first["hashes"], "image": digest}}
        entry["places"] = {**first["places"], "image": f"../in/{picture.name}"}
        entry["work"] = fingerprint.of_work(first["configuration"], digest, first["target"], first["versus"])
        line, head = sealed(entry, head)
        yield line


def measured(place: Path, step: str) -> tuple[float, float]:
    """Seconds of processors and peak memory in MB of a command in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "step", str(place), step], stdout=subprocess.PIPE, check=True)
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


@click.group()
def main() -> None:
    """Time commands over a manifest of many lines."""


@main.command(hidden=True)
@click.argument("place")
@click.argument("name")
def step(place: str, name: str) -> None:
    """Run one command, and print what it took."""
    code = command_line([word.format(place=place) for word in STEPS[name]], standalone_mode=False)
    seconds = time.process_time()
    if code:
        raise click.ClickException(f"{name} ended with exit code {code}")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    click.echo(json.dumps([seconds, int(status.partition("VmHWM:")[2].split()[0]) / 1e3]))


@main.command()
@click.argument("counts", type=int, nargs=-1)
@click.option("--only", multiple=True, type=click.Choice(list(STEPS)), help="Default: all but the last.")
@click.option("--bare", is_flag=True, help="No files but the manifest: for what reads nothing else.")
@click.option("--place", type=click.Path(path_type=Path), help="A folder for the files; default: a temporary one.")
def run(counts: tuple[int, ...], only: tuple[str, ...], bare: bool, place: Path | None) -> None:
    """Print a table for manifests of COUNTS lines (10, 10,000 and 100,000).

    The first one gives what a command takes without lines.
    """
    names = only or (BARE if bare else tuple(STEPS)[:-1])
    spent: dict[tuple[str, int], tuple[float, float]] = {}
    counts = counts or (10, 10_000, 100_000)
    for count in counts:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            make(Path(folder), count, bare=bare)
            for name in names:
                spent[name, count] = measured(Path(folder), name)
                click.echo(f"{name}, {count}: {spent[name, count]}", err=True)
    click.echo("| command | lines | seconds of processors | ms per line | peak memory |\n|---|---|---|---|---|")
    for name in names:
        without = spent[name, counts[0]][0]
        for count in counts:
            seconds, peak = spent[name, count]
            per_line = "" if count == counts[0] else f"{(seconds - without) / (count - counts[0]) * 1e3:.3f}"
            click.echo(f"| `{name}` | {count:,} | {seconds:.1f} | {per_line} | {peak:.0f} MB |")


if __name__ == "__main__":
    main()

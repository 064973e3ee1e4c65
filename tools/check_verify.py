"""Check that `verify` finds what is done to results, and passes what nothing was done to.

Explains some pictures, then damages copies of the results, one thing at a time, and prints a line for each: what was
done, the exit code of `verify`, its verdict, and the line that names the problem. Exit code 1 if anything is missed or
blamed wrongly. What is damaged must be found by the hashes alone, so no map is computed again there; all maps are where
nothing was damaged, and where a forger made all hashes anew. Then every key of a line is changed in turn, with
fingerprints and seals made anew (`forgeries`), and a table says what finds it, or why nothing can. Files that are given
are only read.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import onnx
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper
from parts import forgeries

from onnx_evidence.batch import recompute
from onnx_evidence.batch import reopen as reopening
from onnx_evidence.batch.compare import NOT_COMPARED
from onnx_evidence.cli import main as onnx_evidence
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.explainer import Explainer
from onnx_evidence.pictures.photograph import list_images

_BATCH = 3  # unlike the default
_CHANGE = 1e-3
_FORGED = 0.02  # bits; twice what `verify` tolerates
_EVERY = 0.0098  # bits off every cell; less than it tolerates of one
_SAME = ("identical", "within tolerance")

Damage = Callable[[Path], str]


class _Found(NamedTuple):
    """What `verify` said.

    Attributes
    ----------
    code : int
        Its exit code.
    verdict : str
        In a word.
    lines : list of str
        A line per problem.
    """

    code: int
    verdict: str
    lines: list[str]

    def names(self, place: str) -> str:
        """The first problem of a place; '' where none is of it."""
        return next((line for line in self.lines if line.startswith(place)), "")


def _explain(model: Path, pictures: Path, out: Path, *options: object) -> dict[str, Any]:
    """Explain pictures; the last line of the manifest."""
    command = [sys.executable, "-m", "onnx_evidence", "explain", model, pictures, "-o", out, "-q", "--quality", "fast"]
    ended = subprocess.run([*map(str, command), *map(str, options)], check=False)
    if ended.returncode:
        raise click.ClickException(f"explain: exit code {ended.returncode}")
    line: dict[str, Any] = json.loads((out / "manifest.jsonl").read_text().splitlines()[-1])
    return line


def _verify(folder: Path, *options: object) -> _Found:
    """Run the command."""
    ended = CliRunner().invoke(onnx_evidence, ["verify", str(folder), "--json", *map(str, options)])
    try:
        report = json.loads(ended.stdout)
    except ValueError:
        return _Found(ended.exit_code, "none", [f"{ended.exception!r} {ended.output}".strip()])
    lines = [f"{each['place']}: {each['what']}" for each in report["problems"]]
    lines += [f"{image}: the picture is not there" for image in report["absent"]]
    for each in report["pictures"]:
        if each["verdict"] not in _SAME:
            said = "; ".join(f"{one['key']}: {one['there']}, {one['now']} now" for one in each["differences"][:2])
            lines.append(f"{each['map']}: {each['verdict']} by {each['deviation']} bits; {said} {each['note']}".strip())
    if (largest := report["largest_deviation_bits"]) is not None:
        lines.append(f"the largest deviation is {largest:.3g} bits")
    return _Found(ended.exit_code, report["verdict"], lines)


def _flip(path: Path, bit: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


class _Bench:
    """Results that are there, of pictures that are there."""

    def __init__(self, place: Path, pictures: Path, rng: random.Random) -> None:
        self.place, self.pictures, self.rng = place, pictures, rng
        self.fine = True

    def _say(self, what: str, found: _Found, fine: bool, line: str) -> None:
        self.fine &= fine
        click.echo(f"{'' if fine else 'WRONG: '}{what}: exit code {found.code}, {found.verdict}; {line or found.lines}")

    def passes(self, what: str, folder: Path, *options: object) -> None:
        """Nothing was done to a folder: all maps, computed again, must be the same."""
        found = _verify(folder, *options)
        fine = found.code == 0 and found.verdict in _SAME
        self._say(what, found, fine, found.lines[0] if fine else "")

    def finds(
        self, what: str, place: str, *options: object, folder: Path | None = None, verdict: str = "damaged"
    ) -> None:
        """Something was done to a place: it must be named."""
        computed = () if verdict == "different" or "--expect-seal" in options else ("--sample", 0)
        found = _verify(folder or self.place, *computed, *options)
        line = found.names(place)
        self._say(what, found, found.code == 1 and found.verdict == verdict and bool(line), line)

    def forged(self, what: str, forge: Damage, *options: object, verdict: str = "different") -> None:
        """A copy is forged, with all seals made anew; the damage tells its place."""
        with tempfile.TemporaryDirectory() as name:
            copy = shutil.copytree(self.place, Path(name) / "out")
            self.finds(f"{what}, all sealed anew", forge(copy), *options, folder=copy, verdict=verdict)

    def damaged(self, what: str, damage: Damage, verdict: str = "damaged") -> None:
        """A copy is damaged; the damage tells its place."""
        with tempfile.TemporaryDirectory() as name:
            copy = shutil.copytree(self.place, Path(name) / "out")
            self.finds(what, damage(copy), folder=copy, verdict=verdict)

    def bits(self, what: str, files: Sequence[Path], count: int) -> None:
        """One bit after the other is flipped at places drawn from all bytes of some files."""
        sizes = [path.stat().st_size for path in files]
        missed, example = [], _Found(0, "", [])
        for path in self.rng.choices(files, sizes, k=count):
            bit = self.rng.randrange(8 * path.stat().st_size)
            name = path.relative_to(self.place).as_posix()
            _flip(path, bit)
            found = _verify(self.place, "--sample", 0)
            _flip(path, bit)
            if found.code == 1 and found.verdict == "damaged" and found.names(name):
                example = found
            else:
                missed.append(f"bit {bit} of {name}: exit code {found.code}, {found.verdict}, {found.lines}")
        self._say(
            f"{what}, {count} places: {count - len(missed)} found",
            example,
            not missed,
            "; ".join(missed) or example.lines[0],
        )


def _line_removed(number: int) -> Damage:
    """Remove a line of the manifest; the next one says so, or the files that nobody knows."""

    def damage(folder: Path) -> str:
        path = folder / "manifest.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        removed = json.loads(lines.pop(number))
        path.write_bytes(b"".join(lines))
        return removed["map"] if number == -1 else f"manifest.jsonl line {number + 1}"

    return damage


def _line_doubled(folder: Path) -> str:
    path = folder / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines]))
    return "manifest.jsonl line 2"


def _swapped(bench: _Bench) -> None:
    """Put another picture in the place of one, for a while."""
    first, second = list_images([bench.pictures])[:2]
    before = first.read_bytes()
    first.write_bytes(second.read_bytes())
    bench.finds(f"{first.name} is now {second.name}", str(first))
    first.write_bytes(before)


def _other_weight(model: Path, folder: Path) -> tuple[Path, str]:
    """The model with one weight changed, and which."""
    loaded = onnx.load(model)
    for tensor in loaded.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            weights = numpy_helper.to_array(tensor).copy()
            weights.flat[0] += np.float32(_CHANGE)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
            onnx.save(loaded, folder / "changed.onnx")
            return folder / "changed.onnx", tensor.name
    raise click.ClickException(f"{model}: has no float32 weights to change")


def _untouched(bench: _Bench, model: Path, other: Path, made: dict[str, Any]) -> None:
    """Folders that must pass, whatever batches and threads they were made with."""
    batch, threads = made["settings"]["batch_size"], made["machine"]["threads"]
    bench.passes("untouched", bench.place)
    bench.passes(f"untouched, made in batches of {batch}, verified in {_BATCH}", bench.place, "--batch-size", _BATCH)
    line = _explain(model, bench.pictures, other, "--batch-size", _BATCH, "--workers", 2)
    made_with = f"{line['settings']['batch_size']} by 2 workers with {line['machine']['threads']} threads"
    bench.passes(
        f"untouched, made in batches of {made_with}, verified in {batch} with {threads}", other, "--batch-size", batch
    )


def _check(model: Path, bench: _Bench, spare: Path, made: dict[str, Any], places: int) -> None:
    """All cases, a line each."""
    folder, rng = bench.place, bench.rng
    _untouched(bench, model, spare / "other", made)
    for what, name in (("a map", made["map"]), ("a figure", made["figure"])):
        bit = rng.randrange(8 * (folder / name).stat().st_size)

        def flip(copy: Path, name: str = name, bit: int = bit) -> str:
            _flip(copy / name, bit)
            return name

        bench.damaged(f"bit {bit} of {what} flipped", flip)
    _swapped(bench)
    changed, weight = _other_weight(model, spare)
    bench.finds(f"{_CHANGE} added to a weight of {weight}", "model", "--model", changed, verdict="refused")
    model_sha256 = made["hashes"]["model"]
    bench.finds("another model expected", "model", "--expect-model", "0" * 64, verdict="unexpected")
    seal = ("--expect-seal", made["seal"])
    bench.passes("the model and the seal expected", folder, "--expect-model", model_sha256, *seal)
    bench.damaged("the second manifest line removed", _line_removed(1))
    bench.damaged("the last manifest line removed", _line_removed(-1))
    bench.damaged("the first manifest line doubled", _line_doubled)
    for what, plant in forgeries.PLANTED.items():
        bench.damaged(what, plant)
    bench.damaged("the manifest emptied", forgeries.empty_manifest)
    bench.forged(f"{_FORGED} bits added to a cell of a map", partial(forgeries.shift, bits=-_FORGED, cells=1))
    bench.forged(f"{_EVERY} bits off every cell of a map", partial(forgeries.shift, bits=_EVERY))
    bench.forged("a figure redrawn at another scale", forgeries.paint)
    bench.forged("two lines swapped", forgeries.swap_lines, *seal, verdict="unexpected")
    bench.forged("the last line removed with its files", forgeries.cut_end, *seal, verdict="unexpected")
    bench.bits("a bit of the manifest flipped", [folder / "manifest.jsonl"], places)
    bench.bits("a bit of any file flipped", sorted(path for path in folder.rglob("*") if path.is_file()), places)
    bench.passes("all of it undone", folder)


def _kept_open() -> None:
    """Have explainers opened once for all lines that they fit: a hundred forgeries are of one model."""
    opened: dict[str, Explainer] = {}

    def reopen_once(entry: dict[str, Any], origin: reopening.Origin) -> Explainer:
        key = reopening.opening(entry)
        if key not in opened:
            while opened:  # one at a time: models are large
                DeployedModel.close(opened.popitem()[1].deployed)
            opened[key] = reopening.reopen(entry, origin)
            opened[key].deployed.close = lambda: None  # type: ignore[method-assign]
        return opened[key]

    recompute.reopen = reopen_once  # type: ignore[attr-defined]


def _found_by(found: _Found, key: str) -> str:
    """What finds a forged key, in words."""
    line = found.lines[0] if found.lines else ""
    if found.code == 0:
        reason = next((why for name, why in NOT_COMPARED.items() if f"{key}.".startswith(f"{name}.")), None)
        return f"NOT FOUND: {reason or 'a run with that setting makes the same map and line'}"
    if found.code == 3:
        return f"not passed: {line.partition(' bits; ')[2] or line}"
    if found.verdict == "refused":
        return "the model's hash" if "another model" in line else "opening the model"
    if found.verdict == "damaged":
        kinds = {"fingerprints": "fingerprints", "not what a run calls": "names", "no folder": "names"}
        kinds |= {"SHA-256": "hashes"}
        return next((kind for words, kind in kinds.items() if words in line), "the schema")
    drawn = line.partition(" bits; ")[2].startswith("the figure")
    return "the figure, drawn again" if drawn else "computing it again"


def _forge_keys(bench: _Bench, spare: Path, model: Path) -> None:
    """Every key of a line of one picture in turn; a table."""
    picture = shutil.copy(list_images([bench.pictures])[0], spare)
    line = _explain(model, Path(picture), spare / "one")
    _kept_open()
    counts: dict[str, int] = {}
    click.echo("\n| changed in a line that was sealed anew | found by |\n|---|---|")
    for key, forged in forgeries.forgeries(line):
        if key == "schema":  # there is one number that is read
            continue
        forgeries.write_lines(spare / "one", [forged])
        found = _verify(spare / "one")
        by = _found_by(found, key)
        counts[by.partition(":")[0]] = counts.get(by.partition(":")[0], 0) + 1
        bench.fine &= found.code in (0, 1, 3) and (found.code > 0 or "NOT FOUND" in by)
        may_pass = key.startswith((*NOT_COMPARED, "settings.seed", "settings.completeness"))
        bench.fine &= found.code > 0 or may_pass
        click.echo(f"| {key} | {by}{'' if found.code or may_pass else ' WRONG'} |")
    click.echo("\n" + ", ".join(f"{count} {by}" for by, count in counts.items()))
    forgeries.write_lines(spare / "one", [line])
    bench.passes("every key as it was", spare / "one")


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--limit", type=click.IntRange(min=3), default=6, show_default=True, help="Pictures.")
@click.option("--places", default=50, show_default=True, help="Bits flipped in the manifest, and in all files.")
@click.option("--keys/--no-keys", default=True, show_default=True, help="Forge every key of a line.")
@click.option("--seed", default=0, show_default=True)
def main(model: Path, folder: Path, limit: int, places: int, keys: bool, seed: int) -> None:
    """Check that verify finds damage to the results of MODEL on some pictures of FOLDER, and nothing else."""
    with tempfile.TemporaryDirectory() as name:
        spare = Path(name)
        pictures = spare / "pictures"
        pictures.mkdir()
        for path in list_images([folder])[:limit]:
            shutil.copy(path, pictures)
        made = _explain(model, pictures, spare / "out")
        bench = _Bench(spare / "out", pictures, random.Random(seed))
        _check(model, bench, spare, made, places)
        if keys:
            _forge_keys(bench, spare, model)
    if not bench.fine:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()

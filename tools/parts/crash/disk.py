"""The disturbance `full-disk` of `crash_test.py`: the folder is on a small tmpfs that a run fills."""

import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import click

from parts.crash.runs import Bench, Ending, Run, bench, compare, listed, results, rewritten, together

_PAGE = os.sysconf("SC_PAGE_SIZE")
_REFUSAL = re.compile(r"Error: (.*): cannot write: No space left on device\n")
_ENOUGH = "size=1g"
# Bytes that the lines of two runs may differ in length by: they say how long each picture took.
_SPARE = 100
# Where a disk can fill up: from what is left over when a picture begins, its files and its line.
_MOMENTS = ("folder", "map", "figure", "line")


class _Size(NamedTuple):
    """A disk in pages, and how many of them are taken before the run begins."""

    pages: int
    taken: int = 0


@dataclass(frozen=True)
class _Full:
    """What became of a run on a disk that was too small.

    Attributes
    ----------
    moment : str
        One of `_MOMENTS`, as the message of the run says.
    ending : Ending
        What it came to, with more space.
    """

    moment: str
    ending: Ending


def _pages(count: int) -> int:
    """Pages that so many bytes take."""
    return -(-count // _PAGE)


def _size_for(moment: str, calm: Path, rng: random.Random) -> _Size:
    """A disk that fills up at a moment of a picture that is drawn, where one process writes what ``calm`` holds."""
    if moment == "folder":
        return _Size(1, taken=1)
    written = (calm / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    ends = list(accumulate(map(len, written), initial=0))
    files, by_map, _ = results(calm)
    sizes = [(_pages(len(files[line["map"]])), _pages(len(files[line["figure"]]))) for line in by_map.values()]
    # Not every line begins a page.
    begins = [_pages(end - _SPARE) > _pages(start + _SPARE) for start, end in pairwise(ends)]
    picture = rng.choice([number for number in range(len(sizes)) if begins[number] or moment != "line"])
    map_pages, figure_pages = sizes[picture]
    # The lock takes a page.
    used = 1 + sum(map(sum, sizes[:picture])) + _pages(ends[picture])
    if moment == "map":
        return _Size(used + rng.randrange(map_pages))
    if moment == "figure":
        return _Size(used + map_pages + rng.randrange(figure_pages))
    return _Size(used + map_pages + figure_pages)


@contextmanager
def _disk(place: Path, pages: int) -> Iterator[Path]:
    """A tmpfs for as long as the ``with`` lasts."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={pages * _PAGE}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise click.ClickException(f"mount cannot be run: {error.strerror}: there is no full disk to test") from error
    if mounted.returncode:
        said = mounted.stderr.strip().split("\n")[0]
        raise click.ClickException(f"mounting is refused, there is no full disk to test: run this as root ({said})")
    try:
        yield place
    finally:
        # What is still in use goes when it is used no more.
        if subprocess.run(["umount", str(place)], stderr=subprocess.DEVNULL, check=False).returncode:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def _refused(run: Run, out: Path, wanted: dict[str, bytes]) -> str:
    """Where a run that must find the disk full says that it did; whatever else it does ends this tool."""
    code, said = run.end()
    found = _REFUSAL.fullmatch(said)
    if code != 1 or found is None:
        raise click.ClickException(f"the disk is full: exit code {code}, not 1, or not one clear line: {said}")
    if left := [path.name for path in out.rglob("*.partial")]:
        raise click.ClickException(f"the disk is full: files are left half-written: {', '.join(left)}")
    for name in listed(out):
        for path in (name, str(Path(name).with_suffix(".png"))):
            if not (out / path).is_file() or (out / path).read_bytes() != wanted[path]:
                raise click.ClickException(f"the disk is full: {path} is listed and not there as a whole")
    moments = {".npz": "map", ".png": "figure", ".jsonl": "line"}
    return moments.get(Path(found[1]).suffix, "folder")


def _fill(here: Bench, place: Path, calm: Path, size: _Size, workers: int) -> _Full:
    """Explain until the disk is full, twice, then make it larger and go on."""
    wanted = results(calm)[0]
    with _disk(place, size.pages) as disk:
        out = disk / "out"
        (disk / "others").write_bytes(b"\1" * (size.taken * _PAGE))
        moment = _refused(here.start(out, "--workers", workers), out, wanted)
        before = listed(out)
        _refused(here.start(out, "--workers", workers), out, wanted)  # somebody tries again before there is space
        twice = rewritten(before, out)
        before = listed(out)
        subprocess.run(["mount", "-o", f"remount,{_ENOUGH}", str(disk)], check=True)
        here.start(out, "--workers", workers).finish()
        return _Full(moment, compare(out, calm, twice + rewritten(before, out)))


def _disturb(here: Bench, workers: int, times: int, rng: random.Random) -> bool:
    """Fill disks at every kind of moment; False if an end is another, or no disk was full at some moment."""
    start, calm = time.monotonic(), here.place / f"calm{workers}"
    here.start(calm, "--workers", workers).finish()
    full = []
    for number in range(times):
        for moment in _MOMENTS:
            size = _size_for(moment, calm, rng)
            full.append(_fill(here, here.place / f"disk{workers}-{moment}{number}", calm, size, workers))
    moments = Counter(each.moment for each in full)
    ending = together([each.ending for each in full])
    places = ", ".join(f"{moments[moment]} at a {moment}" for moment in _MOMENTS)
    click.echo(
        f"--workers {workers}: {len(full)} full disks survived ({places}), each found full twice; {here.pictures} "
        f"pictures each, {ending}; {time.monotonic() - start:.0f} s"
    )
    # Where several write, what is written when the disk is full is a matter of chance.
    return ending.fine and (workers > 1 or all(moments[moment] == times for moment in _MOMENTS))


@click.command()
@click.option("--times", default=3, show_default=True, help="Disks that are full at the same kind of moment.")
@click.option("--pictures", default=12, show_default=True)
@click.option("--workers", multiple=True, type=int, default=[1, 2], show_default=True)
@click.option("--seed", default=0, show_default=True)
def full_disk(times: int, pictures: int, workers: tuple[int, ...], seed: int) -> None:
    """Fill its disk, a small tmpfs (needs root), and go on when there is space."""
    with bench(pictures) as here:
        with _disk(here.place / "probe", 1):
            pass  # mounting works
        fine = [_disturb(here, count, times, random.Random(seed)) for count in workers]
    if not all(fine):
        raise click.exceptions.Exit(1)

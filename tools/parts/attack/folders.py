"""Folders of results as hypothesis changes them, for every command that reads one: for `attack.py folders`.

Changes reach past the seals: a line is sealed anew, with the fingerprints of what it says now, and with the hashes of
the files that it names. Commands run inside the watched process, through the command line's own function; models are
opened once, and processes and clusters stand in for by pickles, as far as not otherwise said.
"""

import hashlib
import importlib
import json
import logging
import os
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from click.testing import CliRunner
from hypothesis import strategies as st

from parts.attack.files import BACKGROUNDS
from parts.attack.models import SPECIAL
from parts.attack.outputs import KINDS, LINES, PATHS, VALUES, commands, explained, path_of, plant, reseal
from parts.attack.run import SECRET, Attack, Ended, Place, overwrite, remove, through
from parts.fuzz.mutations import Choice
from parts.watched import Answer, Bench

READERS = ("explain", "verify", "summary", "merge", "merge into", "workers", "cluster")
REAL = ("real workers", "real cluster")
# All of the former in turn, each with a folder of its own.
EVERY = "every"
_NAMES = (
    "manifest.jsonl", "manifest.jsonl", "failures.jsonl", ".lock", ".writable", "0000", "0001", "MAP", "FIGURE",
    ".x.partial", "0000/.x.partial", "0002", "0000/x.npz", "table.csv", "\x1b[2J", "\udcff", "a\nb",
)  # fmt: skip
_KINDS = (*KINDS, *SPECIAL, "a device", "nothing", "an empty file")
# Where a line may say that pictures, models and backgrounds are: `verify` looks there, at files that are no secret.
_NAMED = (
    "0000.png",
    "../in/pictures/0000.png",
    "model.onnx",
    "pipe",
    "/dev/zero",
    "/dev/stdin",
    "\0",
    "",
    "x" * 5000,
    "\x1b[2J",
)
_POINTERS = (
    "map",
    "figure",
    "image",
    "model",
    "places/image",
    "places/model",
    "places/background",
    "settings/background",
)
_CHEAP = tuple(name for name in BACKGROUNDS if "bomb" not in name and "LZMA" not in name and "million" not in name)
_TURNS = ("removed", "doubled", "swapped", "emptied", "two hundred times", "a blank one", "torn")


class Folder(NamedTuple):
    """A folder that is drawn: what is done to it, and how its lines are sealed."""

    seed: str
    steps: list[str]
    changes: tuple[tuple[Any, ...], ...]
    sealing: str

    def kept(self) -> Mapping[str, bytes]:
        """The changes, to be made again."""
        return {"folder.txt": repr(self).encode("utf-8", "backslashreplace")}


def changed_folders() -> st.SearchStrategy[Folder]:
    """Folders with one to five changes.

    Returns
    -------
    SearchStrategy
    """

    @st.composite
    def folders(draw: st.DrawFn) -> Folder:
        choose = Choice(draw)
        ways = (_planted, _pointing, _pointing, _said, _said, _lines, _raw, _flipped, _packed, _failed)
        changes = tuple(choose.of(ways)(choose) for _ in range(choose.of((1, 1, 2, 3, 5))))
        sealing = choose.of(
            (
                "seals, fingerprints and hashes",
                "seals, fingerprints and hashes",
                "seals and fingerprints",
                "seals",
                "nothing",
            )
        )
        steps = [", ".join(str(part)[:60] for part in change) for change in changes]
        return Folder("two maps", [*steps, f"sealed: {sealing}"], changes, sealing)

    return folders()


def _planted(choose: Choice) -> tuple[Any, ...]:
    return "plant", choose.of(_NAMES), choose.of(_KINDS)


def _pointing(choose: Choice) -> tuple[Any, ...]:
    pointer = choose.of(_POINTERS)
    return "set", choose.below(2), pointer, choose.of(PATHS if pointer in ("map", "figure") else _NAMED)


def _said(choose: Choice) -> tuple[Any, ...]:
    return (
        choose.of(("say", "say", "drop", "add")),
        choose.below(2),
        choose.below(1 << 16),
        choose.of(tuple(VALUES.values())),
    )


def _lines(choose: Choice) -> tuple[Any, ...]:
    return "lines", choose.of(_TURNS)


def _raw(choose: Choice) -> tuple[Any, ...]:
    return "raw", choose.of(("manifest.jsonl", "failures.jsonl")), choose.of(tuple(LINES))


def _flipped(choose: Choice) -> tuple[Any, ...]:
    return "flip", choose.of(("manifest.jsonl", "MAP", "FIGURE")), choose.below(1 << 16), choose.below(4)


def _packed(choose: Choice) -> tuple[Any, ...]:
    return "pack", choose.of((*_CHEAP, "other arrays", "half of them", "huge numbers", "another shape"))


def _failed(choose: Choice) -> tuple[Any, ...]:
    return (
        "fail",
        choose.of(("image", "targets", "versus", "picture", "kind", "reason", "schema", "")),
        choose.of(tuple(VALUES.values())),
    )


# Changes made

# A later change may find that there is nothing left, a folder in the way, no zip or a damaged one, or arrays of a
# terabyte.
_IN_THE_WAY = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def change(place: Place, folder: Folder) -> None:
    """Do to a place's folder of results what was drawn.

    Parameters
    ----------
    place : Place
        Holds two maps.
    folder : Folder
        What is done.
    """
    entries: list[Any] = explained(place)
    lists = {each[1] for each in folder.changes if each[0] in ("plant", "raw", "flip")}
    for step in folder.changes:
        if step[0] in ("set", "say", "drop", "add", "lines"):
            _edit(entries, step)
        else:
            with suppress(*_IN_THE_WAY):
                _FILES[step[0]](place, *step[1:])
    if folder.sealing == "nothing" or "manifest.jsonl" in lists:
        return
    for entry in entries if "hashes" in folder.sealing else ():
        _hash(place.out, entry)
    with suppress(OSError, ValueError):
        reseal(place.out, entries, prints="fingerprints" in folder.sealing)


def _edit(entries: list[Any], step: tuple[Any, ...]) -> None:
    """Change what lines say."""
    if step[0] == "lines":
        first = entries[:1]
        turned: dict[str, Callable[[], Sequence[Any]]] = {
            "removed": lambda: entries[1:],
            "doubled": lambda: [*first, *entries],
            "swapped": lambda: entries[::-1],
            "two hundred times": lambda: first * 200,
        }
        entries[:] = turned.get(step[1], lambda: [])()
    elif entries:
        entry = entries[step[1] % len(entries)]
        keys = list(_keys(entry))
        chosen = step[2].split("/") if step[0] == "set" else keys[step[2] % len(keys)] if keys else []
        _put(entry, chosen, step)


def _keys(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values lie in another."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*before, key)
        yield from _keys(each, (*before, key))


def _put(entry: Any, keys: Sequence[Any], step: tuple[Any, ...]) -> None:
    for key in keys[:-1]:
        if not isinstance(entry, dict | list) or (isinstance(entry, dict) and key not in entry):
            return
        entry = entry[key]
    if (
        not keys
        or not isinstance(entry, dict | list)
        or (isinstance(entry, list) and keys[-1] not in range(len(entry)))
    ):
        return
    if step[0] == "drop":
        with suppress(KeyError):
            del entry[keys[-1]]
    elif step[0] == "add" and isinstance(entry, dict):
        entry["\x1b[2J"] = json.loads(json.dumps(step[3]))
    else:
        entry[keys[-1]] = json.loads(json.dumps(step[3]))


def _hash(out: Path, entry: Any) -> None:
    """Have a line say the hashes of the files that it names, where there are any, links or not."""
    for name in ("map", "figure"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            path = out / entry[name]
            if path.is_file() and path.stat().st_size < 1 << 24:
                entry["hashes"][name] = hashlib.sha256(path.read_bytes()).hexdigest()


def _paths(place: Place, name: str) -> Path:
    return path_of(place, name, _entries())


@cache
def _entries() -> list[dict[str, Any]]:
    return [{"map": "0000/x.npz", "figure": "0000/x.png"}]


def _plant(place: Place, name: str, kind: str) -> None:
    path = _paths(place, name)
    if kind == "nothing":
        remove(path)
    elif kind == "an empty file":
        remove(path)
        path.touch()
    else:
        plant(place, path, kind)


def _write_raw(place: Place, name: str, kind: str) -> None:
    overwrite(place.out / name, LINES[kind])


def _flip(place: Place, name: str, where: int, how: int) -> None:
    path = _paths(place, name)
    if not path.is_file() or path.stat().st_size > 1 << 24:
        return
    data = bytearray(path.read_bytes())
    if not data:  # nothing is there to be changed
        return
    at = where % len(data)
    changes: tuple[Callable[[], object], ...] = (
        lambda: data.__setitem__(at, data[at] ^ (1 << where % 8)),
        lambda: data.__delitem__(slice(at, None)),
        lambda: data.__setitem__(slice(at, at + 4), b"\xff\xff\xff\x7f"),
        lambda: data.__setitem__(slice(at, at), data[:300]),
    )
    changes[how]()
    path.write_bytes(data)


@cache
def _content(name: str) -> bytes:
    return BACKGROUNDS[name]()


def _pack(place: Place, kind: str) -> None:
    path = _paths(place, "MAP")
    if path.exists() and not path.is_file():
        return
    if kind in BACKGROUNDS:
        path.write_bytes(_content(kind))
        return
    if kind == "other arrays":
        np.savez_compressed(path, x=np.zeros(3, np.float32))
        return
    arrays: dict[str, Any] = dict(np.load(path))
    changed: dict[str, Callable[[], dict[str, Any]]] = {
        "half of them": lambda: dict(list(arrays.items())[: len(arrays) // 2]),
        "huge numbers": lambda: {key: np.full_like(value, 3e38) for key, value in arrays.items()},
        "another shape": lambda: {key: value.reshape(-1)[:3] for key, value in arrays.items()},
    }
    np.savez_compressed(path, **changed[kind]())


def _fail(place: Place, name: str, value: Any) -> None:
    entry = {"schema": 3, "image": "x.png", "targets": ["top1"], "versus": None, "picture": None, "kind": "DataError"}
    entry["reason"] = "x.png: cannot be read"
    reseal(place.out, [{**entry, **({name: value} if name else {})}], "failures.jsonl", prints=False)


_FILES: dict[str, Callable[..., None]] = {
    "plant": _plant,
    "raw": _write_raw,
    "flip": _flip,
    "pack": _pack,
    "fail": _fail,
}


# In the watched process


class _Reads:
    """Reads folders of results with a command."""

    def __init__(self, reader: str, place: Path) -> None:
        import onnx_evidence.cli.commands  # noqa: F401 - before what is written is watched

        self.reader = reader
        self.place = Place(place / "place")
        self.out = self.place.out
        (self.place.outside / "twice").write_bytes(SECRET)
        explained(self.place)
        shutil.copytree(self.out, self.place.inside / "whole")
        self.place.pipe(self.place.inside / "pipe")
        found = _entries()[0]
        found |= {key: value for key, value in explained(self.place)[0].items() if key in ("map", "figure")}
        os.chdir(self.place.inside)
        _stand_in(processes=reader not in REAL)
        self._address = _cluster() if reader == "real cluster" else "tcp://nowhere:1"

    def put(self, folder: Folder) -> None:
        """Make the folder."""
        remove(self.out)
        self.out.mkdir()
        change(self.place, folder)

    def run(self, folder: Folder) -> Answer:
        """Read it."""
        if self.reader != EVERY:
            return self._read(self.reader)
        answers = []
        for number, reader in enumerate(READERS):
            if number:
                self.put(folder)
            answers.append(self._read(reader))
        return next((answer for answer in answers if answer.finding), answers[0])

    def _read(self, reader: str) -> Answer:
        from onnx_evidence.cli import main

        more = {"workers": ("--workers", 2), "cluster": ("--cluster", self._address)}.get(reader.split()[-1], ())
        command = commands("explain" if more else reader)
        logging.getLogger().handlers[:] = []
        ended = CliRunner().invoke(main, [str(each) for each in (*command, *more)], catch_exceptions=False)
        said = Ended(ended.exit_code, ended.stdout, ended.stderr, 0.0, 0, "", ())
        return Answer(f"exit code {ended.exit_code}", through(Attack((command,), (0, 1, 3)), str(command[0]), said))


def careless(place: Path) -> Bench:
    """A bench for a reader that goes through links, to show that it is seen.

    Parameters
    ----------
    place : Path
        An empty folder.

    Returns
    -------
    Bench
    """
    made = _Reads("summary", place)
    _patch("files.inside", "_NO_LINK", 0)
    _patch("files.inside", "_CAREFUL", 0)
    return made


def _stand_in(*, processes: bool) -> None:
    """Put something quick in the place of what takes long and reads no folder: figures, models, other processes."""
    from onnx_evidence.batch import work

    opened: dict[str, Any] = {}
    real: Callable[..., Any] = work.Recipe.open

    def once(recipe: Any, **changed: Any) -> Any:
        key = repr((recipe.model, recipe.options, changed))
        if key not in opened:
            opened[key] = real(recipe, **changed)
        return opened[key]

    _patch("batch.work", "write_figure", lambda figure, stream: stream.write(repr(figure).encode()))
    _patch("batch.work", "Recipe.open", once)
    _patch("explainer", "Explainer.close", lambda explainer: None)
    _patch("deployed", "DeployedModel.close", lambda deployed: None)
    _patch("results.explanation", "Explanation.figure", lambda explanation, limit=None, **how: limit)
    if processes:
        _patch("cli.batch", "spawned", lambda recipe, count, *, gpus: _pickled(recipe))
        _patch("cli.batch", "on_cluster", lambda recipe, address: _pickled(recipe))


def _patch(module: str, name: str, value: object) -> None:
    """Put something in the place of a name of the package."""
    *inner, last = name.split(".")
    home: Any = importlib.import_module(f"onnx_evidence.{module}")
    for each in inner:
        home = getattr(home, each)
    setattr(home, last, value)


def _pickled(recipe: Any) -> Any:
    """Jobs and outcomes go as they would to another process and back."""
    from onnx_evidence.batch.work import Hand, explain_job

    def through_pickle(value: Any) -> Any:
        return pickle.loads(pickle.dumps(value))

    def run(jobs: Any, tick: Any, check: Callable[[], None]) -> Iterator[Any]:
        hand = Hand(through_pickle(recipe).open(), recipe)
        for job in jobs:
            check()
            yield through_pickle(explain_job(hand, through_pickle(job), tick))

    return run


def _cluster() -> str:
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    _kept.append(cluster)
    return str(cluster.scheduler_address)


_kept: list[Any] = []


def reads(reader: str) -> Callable[[Path], Bench]:
    """What makes a bench for a reader.

    Parameters
    ----------
    reader : str
        Of `READERS` or `REAL`, or `EVERY`.

    Returns
    -------
    callable
    """
    return partial(_Reads, reader)

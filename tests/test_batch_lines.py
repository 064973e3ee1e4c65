"""Very many lines: found again through a database as dictionaries would find them, checked as fully, memory flat."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from onnx_evidence.batch import fingerprint, sound, summary
from onnx_evidence.batch.failures import Failures
from onnx_evidence.batch.index import Index, Listed, Names, Scratch, listed
from onnx_evidence.batch.journal import read_at, read_lines, sealed
from onnx_evidence.batch.manifest import Manifest
from onnx_evidence.batch.plan import Item
from onnx_evidence.batch.receipt import Failure, Receipt, unlike, unlike_receipt
from onnx_evidence.batch.shards import merge
from onnx_evidence.batch.sound import Sample, Some, Sound
from onnx_evidence.batch.summary import Cohort, Row, summarise, write_table
from onnx_evidence.batch.verify import check_hashes
from onnx_evidence.errors import DataError, StoreError
from onnx_evidence.methods.questions import TOP
from tests.batch import call, explained, manifest, without_drawing


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    without_drawing(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    return explained(tmp_path_factory.mktemp("made"), tiny_model, 1)


@pytest.fixture(scope="module")
def receipt(made) -> dict[str, Any]:
    return manifest(made / "out")[0]


def changed(receipt: dict[str, Any], image: str, path: str, picture: str, map_sha256: str | None = None) -> dict:
    """A receipt about another picture, without its seal."""
    hashes = {**receipt["hashes"], "image": picture, "map": map_sha256 or receipt["hashes"]["map"]}
    entry = {**receipt, "image": image, "map": path, "hashes": hashes}
    entry["work"] = fingerprint.of_work(entry["configuration"], picture, entry["target"], entry["versus"])
    return {key: value for key, value in entry.items() if key not in ("previous", "seal")}


def write_lines(folder: Path, entries: Sequence[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    head: str | None = None
    with (folder / "manifest.jsonl").open("wb") as stream:
        for entry in entries:
            line, head = sealed(entry, head)
            stream.write(line)
    return folder


def many(receipt: dict[str, Any], folder: Path, count: int) -> Path:
    names = [f"{number:05}" for number in range(count)]
    return write_lines(folder, [changed(receipt, f"{name}.png", f"{name}/a.npz", name * 12 + "0000") for name in names])


# The index against dictionaries


class Twin:
    """The same in dictionaries, as it was before there was an index."""

    def __init__(self, lines: Sequence[Listed], files: dict[str, str]) -> None:
        self.files = files
        self.lines: dict[str, Listed] = {}
        self.pictures: dict[str, dict[str, list[Listed]]] = {}
        self.owners: dict[str, str] = {}
        for line in lines:
            path = next(iter(line.files))
            self.lines[path] = line
            self.pictures.setdefault(line.picture, {}).setdefault(line.image, []).append(line)
            self.owners.setdefault(path.split("/")[0].casefold(), line.picture)

    def maps_in(self, folder: str) -> set[str]:
        return {path for path in self.lines if path.split("/")[0] == folder}

    def damaged(self, items: Sequence[Item]) -> set[str]:
        found = set()
        for picture in {item.sha256 for item in items if item.sha256 is not None}:
            for lines in self.pictures.get(picture, {}).values():
                found |= {next(iter(line.files)) for line in lines if not self._is_there(line)}
        return found

    def _is_there(self, line: Listed) -> bool:
        return all(self.files.get(path) == digest for path, digest in line.files.items())

    def unfinished(self, items: Sequence[Item], find_class: Callable[[str], int]) -> list[Item]:
        names = {item.name for item in items}
        spent: set[Any] = set()
        left = []
        for item in items:
            there = self.pictures.get(item.sha256 or "", {})
            former = [name for name in there if name not in names and (name, item.targets, item.versus) not in spent]
            done = next((n for n in [item.name, *former] if self._answers(there.get(n, []), item, find_class)), None)
            if done is None:
                left.append(item)
            elif done != item.name:
                spent.add((done, item.targets, item.versus))
        return left

    @staticmethod
    def _answers(lines: Sequence[Listed], item: Item, find_class: Callable[[str], int]) -> bool:
        versus = None if item.versus is None else find_class(item.versus)
        there = [line for line in lines if line.versus == versus]
        return all(
            any(line.top if target == TOP else line.target == find_class(target) for line in there)
            for target in item.targets
        )


FOLDERS = ["cat", "Cat", "STRASSE", "straße", "ſ", "s", "\U0001f600", "\uffee", "a%", "a_b"]
SHA = [digit * 64 for digit in "0123"]
NAMES = [f"{name}.png" for name in "abcd"]
PATHS = st.builds("{}/{}.npz".format, st.sampled_from(FOLDERS), st.sampled_from("xy"))
TARGETS = st.integers(0, 2) | st.just(10**40)


@st.composite
def some_lines(draw: st.DrawFn) -> Listed:
    path = draw(PATHS)
    files = {path: draw(st.sampled_from(SHA[:2])), **({f"{path}.png": SHA[2]} if draw(st.booleans()) else {})}
    versus = draw(st.none() | st.integers(0, 1))
    return Listed(
        draw(st.sampled_from(NAMES)), draw(st.sampled_from(SHA)), draw(TARGETS), versus, draw(st.booleans()), files
    )


ITEMS = st.builds(
    lambda name, targets, versus, sha256: Item(Path(name), targets, versus, sha256=sha256),
    st.sampled_from(NAMES),
    st.lists(st.sampled_from(["top1", "0", "1", "2"]), min_size=1, max_size=2, unique=True).map(tuple),
    st.none() | st.sampled_from("01"),
    st.none() | st.sampled_from(SHA),
)


@settings(max_examples=60)
@given(
    st.lists(some_lines(), max_size=12),
    st.lists(ITEMS, max_size=8, unique=True),
    st.dictionaries(PATHS, st.sampled_from(SHA[:2]), max_size=8),
)
def test_everything_is_found_as_dictionaries_find_it(lines, items, there):
    files = {**there, **{f"{path}.png": SHA[2] for path in there}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnx_evidence.batch.manifest.file_sha256", lambda folder, path: files.get(path))
        patch.setattr("onnx_evidence.batch.index._ROWS", 3)
        with closing(Manifest(Path("/nowhere"))) as found:
            for line in lines:
                found.index.note(line)
            _agree(found, Twin(lines, files), items)
            dropped = set(found.damaged(items))
            assert found.index.drop(found.damaged(items)) == len(dropped)
            assert {line.map for line in lines if found.index.is_dropped(line.map)} == dropped
            found.index.forget()
            _agree(found, Twin([line for line in lines if line.map not in dropped], files), items)
            for line in lines:  # what is added after the sort
                found.index.note(line)
            _agree(found, Twin([line for line in lines if line.map not in dropped] + lines, files), items)


def _agree(found: Manifest, twin: Twin, items: Sequence[Item]) -> None:
    assert found.index.count() == len(twin.lines)
    assert {path: found.index.of_map(path) for path in twin.lines} == twin.lines
    assert found.index.of_map("cat/none.npz") is None
    for name in FOLDERS:
        assert found.index.owner(name) == twin.owners.get(name.casefold())
        assert found.index.maps_in(name) == twin.maps_in(name)
        exact = found.index.owner(name, exact=True)
        assert (exact is None) == (not twin.maps_in(name))
    for sha256, by_name in twin.pictures.items():
        there: dict[str, list[Listed]] = {}
        for line in found.index.of_picture(sha256):
            there.setdefault(line.image, []).append(line)
        assert list(there.items()) == list(by_name.items())
    assert set(found.damaged(items)) == twin.damaged(items)
    assert found.unfinished(items, int) == twin.unfinished(items, int)


def test_an_index_without_room_is_one_line(receipt):
    with closing(Index("OUT")) as index:
        index._scratch.do("PRAGMA max_page_count = 8")  # what a full disk answers, too
        lines = [listed(changed(receipt, f"{number}.png", f"{number}/a.npz", "0" * 64)) for number in range(400)]
        with pytest.raises(
            StoreError, match=r"^OUT: cannot keep .* \(database or disk is full\): have TMPDIR name"
        ) as e:
            deque(map(index.note, lines))
        assert "\n" not in str(e.value)
    with pytest.raises(StoreError, match="cannot keep"):
        Scratch("OUT", "CREATE nothing")


def test_manifests_that_are_refused_leave_no_database_open(receipt, tmp_path, recwarn):
    write_lines(tmp_path, [{**changed(receipt, "a.png", "a/a.npz", "0" * 64), "work": "0" * 64}])
    with pytest.raises(StoreError, match="its fingerprints are not"):
        Manifest(tmp_path)
    assert not recwarn.list


ABOUT = st.builds(
    lambda name, targets, sha256: Item(Path(name), targets, None, sha256=sha256),
    st.sampled_from(NAMES),
    st.sampled_from([("top1",), ("1", "2")]),
    st.none() | st.sampled_from(SHA),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "tidy", "again"]), ABOUT), max_size=12))
def test_failures_are_those_of_a_dictionary(steps):
    twin: dict[Any, str] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as held:
        folder = Path(name)
        failures = held.enter_context(closing(Failures(folder)))
        for number, (what, item) in enumerate(steps):
            if what == "add":
                failures.add(item, "DataError", str(number))
                twin[item.name, item.targets] = str(number)
            elif what == "drop":
                failures.drop(item)
                twin.pop((item.name, item.targets), None)
            else:
                failures.tidy()
            if what == "again":
                failures = held.enter_context(closing(Failures(folder)))
            assert failures.count() == len(twin)
        failures.tidy()
        path = folder / "failures.jsonl"
        lines = [line.value for line in read_lines(path)] if path.exists() else []
        assert [((line["image"], tuple(line["targets"])), line["reason"]) for line in lines] == list(twin.items())


# Lines against what JSON and their schema say


def slow_unlike(entry: dict[str, Any], kind: Any = Receipt) -> bool:
    """Whether an object is no such line, by the schema on its JSON."""
    try:
        kind.model_validate_json(json.dumps(entry))
    except ValidationError:
        return True
    return False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested values."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places_in(each, (*place, key))


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Nested values with another one at a place."""
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = put(value[place[0]], place[1:], new)
    return copy


@settings(max_examples=150)
@given(data=st.data())
def test_the_schema_says_of_parsed_lines_what_it_says_of_their_json(receipt, data):
    entry = data.draw(
        st.sampled_from([receipt, {**receipt, "strongest_for": {**receipt["strongest_for"], "interval": [0.5, 1]}}])
    )
    place = data.draw(st.sampled_from(list(places_in(entry))[1:]))
    near = st.sampled_from(
        [0, 1, -1, 3, 3.0, 0.5, True, None, "", "cpu", "0" * 64, "A" * 64, [], [1], [1, 2], [0.5, 1]]
    )
    entry = put(entry, place, data.draw(near | JSON))
    assert bool(unlike(entry)) == slow_unlike(entry), place


@settings(max_examples=100)
@given(data=st.data())
def test_so_it_does_of_failures(data):
    failure = {"schema": 3, "image": "a.png", "targets": ["top1"], "versus": None, "picture": None, "kind": "DataError"}
    failure |= {"reason": "none", "previous": None, "seal": "0" * 64}
    place = data.draw(st.sampled_from(list(places_in(failure))[1:]))
    entry = put(failure, place, data.draw(JSON | st.just("0" * 64)))
    assert bool(unlike(entry, Failure)) == slow_unlike(entry, Failure), place
    assert not unlike(failure, Failure)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4))
def test_lines_are_parsed_as_the_standard_library_parses_them(value):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.jsonl"
        path.write_bytes(sealed(value, None)[0])
        (line,) = read_lines(path)
        assert line.problem == ""
        # repr: 1, 1.0 and True are different things, and so is the order of keys.
        assert repr(line.value) == repr(json.loads(path.read_bytes()))
        assert read_at(path, 0).value == line.value


@pytest.mark.parametrize("text", ['"a": NaN', '"a": Infinity', r'"a": "\ud800"', '"a": ' + "[" * 300 + "]" * 300])
def test_what_no_line_holds_is_no_line(tmp_path, text):
    (tmp_path / "x.jsonl").write_text(f"{{{text}}}\n")
    assert [line.problem for line in read_lines(tmp_path / "x.jsonl")] == ["the line is no JSON object"]


def test_fingerprints_that_are_remembered_are_those_of_every_line(receipt):
    assert fingerprint.digest_of_entry(receipt) == receipt["configuration"]
    for place in [("settings", "seed"), ("settings", "preprocess", "scale"), ("hashes", "model"), ("output",)]:
        other = put(receipt, place, "other")
        assert fingerprint.digest_of_entry(other) == fingerprint.digest(fingerprint.of_entry(other))
        assert fingerprint.digest_of_entry(other) != receipt["configuration"]
        assert unlike_receipt(other) != ""
    # Equal to a dictionary, another number to JSON.
    assert receipt["settings"]["seed"] == 0
    for value in (False, 0.0):
        assert (
            unlike_receipt(put(receipt, ("settings", "seed"), value))
            == "its fingerprints are not those of its settings"
        )
    endless = put(receipt, ("settings", "steps"), float("inf"))
    assert unlike_receipt(endless).startswith("settings are not complete")


# Memory


def peak(work: Callable[[], object]) -> int:
    """Bytes that Python's objects take at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _resume(folder: Path) -> None:
    item = Item(Path("00003.png"), ("top1",), None, sha256="00003" * 12 + "0000")
    with closing(Manifest(folder)) as found:
        assert found.drop(found.damaged([item])) == 1
        assert found.unfinished([item], int) == [item]


def _merge(folder: Path) -> None:
    out = folder.parent / f"{folder.name}-merged"
    shutil.copytree(folder, out)
    assert merge([folder], out).maps == 0


def _summary(folder: Path) -> None:
    arrays = {"input_pixels": np.ones((4, 4), np.float32)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "load_map", lambda folder, name: arrays)
        cohort = Cohort()
        write_table(folder / "table.csv", cohort.noting(summarise(folder)))
        assert cohort.maps == int(folder.name)


def _verify(folder: Path) -> None:
    """All pictures are missing, and maps, whose names are none of their class; and there are empty folders."""
    count = int(folder.name)
    for number in range(0, count, 4):
        (folder / f"x{number}").mkdir()
    with closing(check_hashes(folder, lambda entry: folder / "none")) as checked:
        assert (len(checked.absent), len(checked.entries), checked.lines) == (count, 0, count)
        assert len(checked.problems) == 2 * count + len(range(0, count, 4))
        assert len(list(checked.problems)) == len(list(checked.absent)) == sound.NAMED


def _fail(folder: Path) -> None:
    with closing(Failures(folder)) as failures:
        for number in range(int(folder.name)):
            failures.add(Item(Path(f"{number}.png"), ("top1",), None), "DataError", "none")
        failures.drop(Item(Path("3.png"), ("top1",), None))
        failures.tidy()
        assert failures.count() == int(folder.name) - 1


@pytest.mark.parametrize("reader", [_resume, _merge, _summary, _verify, _fail])
def test_memory_does_not_grow_with_the_lines(receipt, tmp_path, reader, monkeypatch):
    monkeypatch.setattr(sound, "NAMED", 4)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    few, *lots = (many(receipt, tmp_path / name, int(Path(name).name)) for name in ("100", "one/800", "two/800"))
    reader(many(receipt, tmp_path / "10", 10))
    # Eight times the lines; twice, because what is traced is the whole process, with what other tests left to it.
    assert min(peak(partial(reader, each)) for each in lots) < 2 * peak(partial(reader, few))


def test_lines_to_be_computed_again_are_read_again_and_must_be_the_same(receipt, tmp_path):
    folder = many(receipt, tmp_path / "in", 6)
    path, start = folder / "manifest.jsonl", 0
    with closing(Sound(path)) as found:
        assert (len(found), list(Sample(found, None))) == (0, [])
        for line in read_lines(path):
            if line.number != 3:
                found.note(line, start)
            start = line.end
        lines = manifest(folder)
        del lines[2]
        assert list(found.works()) == [line["work"] for line in lines]
        assert (list(Sample(found, None)), len(Sample(found, None))) == (lines, 5)
        assert (list(Sample(found, [1, 4])), len(Sample(found, [1, 4]))) == ([lines[1], lines[4]], 2)
        many(receipt, tmp_path / "in", 5)  # the seals of these are the same
        assert list(Sample(found, [1])) == [lines[1]]
        with pytest.raises(StoreError, match=r"manifest\.jsonl: was changed meanwhile"):
            list(Sample(found, None))


@given(st.lists(st.lists(st.integers(0, 9))), st.lists(st.integers(0, 9)), st.integers(0, 6))
def test_the_first_of_many_are_kept_and_all_are_counted(given, last, room):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sound, "NAMED", room)
        some: Some[int] = Some()
        for each in given:
            some.add(*each)
        some.add_sorted(iter(last), by=lambda number: number)
    everything = [*(number for each in given for number in each), *sorted(last)]
    assert (len(some), list(some)) == (len(everything), everything[:room])


def test_names_are_a_set_and_know_their_folders():
    with closing(Names("OUT")) as names:
        names.add("a/x.npz", "a/x.npz", "ab", "\U0001f600/y", "a/x.png")
        for text in ("a/x.npz", "ab", "\U0001f600/y"):
            assert text in names
        for text in ("a", "a/", "A/x.npz", "b"):
            assert text not in names
        found = [name for name in ("a", "ab", "\U0001f600", "A", "abc", "a/x", "x", "", "a.") if names.has_folder(name)]
        assert found == ["a", "ab", "\U0001f600"]


def test_what_is_not_named_is_counted(made, receipt, tmp_path, monkeypatch):
    monkeypatch.setattr(sound, "NAMED", 2)
    folder = many(receipt, tmp_path / "in", 4)
    for name in ("9", "8"):
        (folder / name).mkdir()
    report = json.loads(call("verify", folder, "--json", code=1).stdout)
    assert {name: report[f"{name}_count"] for name in ("problems", "absent", "unchecked")} == {
        "problems": 10,
        "absent": 4,
        "unchecked": 0,
    }
    assert [len(report[name]) for name in ("problems", "absent")] == [2, 2]
    shown = call("verify", folder, code=1).stdout.splitlines()
    assert "and 8 things are not as they were written besides these" in shown
    assert "and 2 pictures are not there besides these" in shown


# Order and sums


def test_merged_lines_are_in_the_order_of_their_names(receipt, tmp_path):
    """By code points: \U0001f600 is behind \uffee, which UTF-16 has the other way."""
    names = ["b", "a", "\U0001f600", "\uffee", "a\u0301", "Z"]
    entries = [changed(receipt, f"{n}.png", f"{place}/{m}.npz", SHA[1]) for place, n in enumerate(names) for m in "yx"]
    data = b"a map"
    for entry in entries:
        entry["hashes"]["map"] = fingerprint.hashlib.sha256(data).hexdigest()
    for source, part in (("one", entries[::2]), ("two", entries[1::2])):
        write_lines(tmp_path / source, part)
        for entry in part:
            (tmp_path / source / entry["map"]).parent.mkdir(exist_ok=True)
            (tmp_path / source / entry["map"]).write_bytes(data)
    merge([tmp_path / "two", tmp_path / "one"], tmp_path / "out")
    found = [(entry["image"], entry["map"]) for entry in manifest(tmp_path / "out")]
    assert found == sorted((entry["image"], entry["map"]) for entry in entries)


def test_a_source_that_changes_during_a_merge_is_refused(receipt, tmp_path, monkeypatch):
    source = many(receipt, tmp_path / "in", 2)
    shutil.copytree(source, tmp_path / "out")
    original = summary.read_lines

    def read(path):
        yield from original(path)
        if path.parent == source:
            many(receipt, source, 1)

    monkeypatch.setattr("onnx_evidence.batch.shards.read_lines", read)
    with pytest.raises(StoreError, match=r"in.manifest\.jsonl: was changed meanwhile"):
        merge([source], tmp_path / "out")


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["", "bee"]), st.floats(-1e9, 1e9), st.booleans())))
def test_means_that_grow_are_those_of_all_rows(drawn):
    def row(target: int, versus: str, bits: float, has: bool) -> Row:
        return Row("a", "m", target, f"c{target}", versus, 0.5, bits, bits if has else None, 1.0, 0.1, None, None, 1.0)

    rows = [row(*each) for each in drawn]
    cohort = Cohort()
    assert list(cohort.noting(iter(rows))) == rows
    members: dict[Any, list[Row]] = {}
    for each in rows:
        members.setdefault((each.target, each.versus), []).append(each)
    expected = sorted(members.values(), key=len, reverse=True)
    assert [each.maps for each in cohort.classes()] == [len(each) for each in expected]
    for found, those in zip(cohort.classes(), expected, strict=True):
        assert found.name == (f"{those[0].label} rather than bee" if those[0].versus else those[0].label)
        assert found.means["log_odds_bits"] == pytest.approx(np.mean([e.log_odds_bits for e in those]), abs=1e-6)
        there = [each.for_bits for each in those if each.for_bits is not None]
        assert ("for_bits" in found.means) == bool(there)
        assert not there or found.means["for_bits"] == pytest.approx(np.mean(there), abs=1e-6)
        assert "inside" not in found.means or found.means["inside"] == pytest.approx(0.1)
    names = [
        name for name, some in (("all", ""), ("all rather than another", "bee")) if any(r.versus == some for r in rows)
    ]
    assert [each.name for each in cohort.totals()] == names
    assert sum(each.maps for each in cohort.totals()) == cohort.maps == len(rows)


def test_a_mean_loses_nothing_to_rounding():
    bare = Row("a", "m", 0, "c", "", 0.5, 1e16, None, None, None, None, None, 1.0)
    cohort = Cohort()
    rows = [bare, *[bare._replace(log_odds_bits=1.0)] * 8, bare._replace(log_odds_bits=-1e16)]
    list(cohort.noting(rows))
    assert cohort.totals()[0].means["log_odds_bits"] == 0.8


def test_a_table_whose_rows_end_in_an_error_is_not_written(tmp_path):
    def rows() -> Iterator[Row]:
        yield Row("a", "m", 0, "c", "", 0.5, 1.0, None, None, None, None, None, 1.0)
        raise DataError("the second one is none")

    with pytest.raises(DataError):
        write_table(tmp_path / "t.csv", rows())
    assert list(tmp_path.iterdir()) == []


# Few file handles


@pytest.mark.parametrize(
    "where", ["verify.open_regular", "manifest.open_inside", "recompute.load_map", "plan.open_regular"]
)
def test_no_file_is_blamed_where_too_many_are_open(made, monkeypatch, where):
    def short(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    command = ["explain", made / "model.onnx", made / "in", "-q", "-o"] if "plan" in where else ["verify"]
    monkeypatch.setattr(f"onnx_evidence.batch.{where}", short)
    before = sorted(made.rglob("*"))
    result = call(*command, made / "out", code=1)
    assert result.stderr.endswith("Too many open files: allow more of them (ulimit -n)\n")
    assert (result.stderr.count("\n"), result.stdout) == (1, "")
    assert sorted(made.rglob("*")) == before


def limited(handles: int, *arguments: object) -> "subprocess.CompletedProcess[str]":
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))

    command = [sys.executable, "-m", "onnx_evidence", *map(str, arguments)]
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("handles", [7, 9, 12])
def test_few_file_handles_end_a_run_in_one_line(made, tmp_path, handles):
    out = tmp_path / "out"
    done = limited(handles, "explain", made / "model.onnx", made / "in", "-o", out, "-q", "--no-figures")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Warning")]
    if done.returncode:
        assert (done.returncode, len(lines)) == (1, 1)
        assert lines[0].startswith("Error: ")
        assert lines[0].endswith("Too many open files: allow more of them (ulimit -n)")
        assert not (out / "failures.jsonl").exists()
        assert not list(tmp_path.rglob("*.npz"))
    assert not list(tmp_path.rglob(".*"))
    call("explain", made / "model.onnx", made / "in", "-o", out, "-q", "--no-figures")

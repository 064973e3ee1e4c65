"""Whoever made a folder of results, nothing is read or written outside it, and nothing in it hangs a reader."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_evidence.batch import fingerprint
from onnx_evidence.batch.journal import sealed
from onnx_evidence.batch.summary import load_map
from onnx_evidence.errors import StoreError
from onnx_evidence.files.arrays import pack_arrays, unpack_arrays
from onnx_evidence.files.inside import open_inside
from onnx_evidence.files.store import write_files
from tests.batch import call, copy_of, explained, manifest, without_drawing, write_pictures

SECRET = b"not for us"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    without_drawing(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    return explained(tmp_path_factory.mktemp("made"), tiny_model, 2)


@pytest.fixture
def out(made, tmp_path):
    return copy_of(made / "out", tmp_path / "out")


@pytest.fixture
def victim(tmp_path):
    """A folder that is nobody's business, with a file in it."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_bytes(SECRET)
    return tmp_path / "victim"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reseal(out: Path, entries: list[dict[str, Any]], name: str = "manifest.jsonl") -> None:
    data, head = b"", None
    for entry in entries:
        line, head = sealed({key: value for key, value in entry.items() if key not in ("previous", "seal")}, head)
        data += line
    (out / name).write_bytes(data)


def everyone(made: Path, out: Path) -> dict[str, tuple[object, ...]]:
    """Every reader of a folder of results."""
    return {
        "explain": ("explain", made / "model.onnx", made / "in", "-o", out, "-q"),
        "verify": ("verify", out),
        "summary": ("summary", out),
        "merge": ("merge", out, "-o", out.parent / "merged", "-q"),
    }


READERS = ("explain", "verify", "summary", "merge")


@pytest.mark.parametrize("name", [".lock", "manifest.jsonl", "failures.jsonl"])
@pytest.mark.parametrize("dangling", [False, True])
def test_no_list_and_no_lock_is_written_through_a_link(made, out, victim, name, dangling):
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(victim / ("new" if dangling else "file"))
    result = call("explain", made / "model.onnx", made / "in", made / "none.png", "-o", out, "-q", code=1)
    assert "it is a link" in result.stderr
    assert content(victim) == {"file": SECRET}


def test_no_map_is_written_into_a_folder_that_is_a_link(made, tmp_path, victim):
    out = tmp_path / "out"
    out.mkdir()
    (out / "00").symlink_to(victim, target_is_directory=True)
    result = call("explain", made / "model.onnx", made / "in", "-o", out, "-q", code=1)
    assert "it is a link" in result.stderr
    assert content(victim) == {"file": SECRET}


def test_a_link_in_the_place_of_a_file_is_replaced_itself(tmp_path, victim):
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "map.npz").symlink_to(victim / "file")
    write_files(tmp_path / "out", {"a/map.npz": b"new"})
    assert content(victim) == {"file": SECRET}
    assert (tmp_path / "out" / "a" / "map.npz").read_bytes() == b"new"
    assert not (tmp_path / "out" / "a" / "map.npz").is_symlink()


def test_a_file_with_another_name_elsewhere_is_not_added_to(made, out, victim):
    (out / "manifest.jsonl").replace(victim / "manifest")
    os.link(victim / "manifest", out / "manifest.jsonl")
    before = content(victim)
    write_pictures(made / "more", 1, seed=5)
    result = call("explain", made / "model.onnx", made / "more", "-o", out, "-q", code=1)
    assert "another name elsewhere" in result.stderr
    assert content(victim) == before


@pytest.mark.parametrize("kind", ["map", "folder"])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_follows_a_link_to_a_map(made, out, victim, reader, kind):
    """What lies behind it has the right hash: only the link itself speaks against it."""
    first = out / manifest(out)[0]["map"]
    behind, place = (first, first) if kind == "map" else (first.parent, first.parent)
    moved = behind.replace(victim / behind.name)
    place.symlink_to(moved, target_is_directory=kind == "folder")
    result = call(*everyone(made, out)[reader], code=1)
    assert "a link" in result.stdout + result.stderr


PATHS = ["../x", "a/../../x", "/etc/passwd", "..", "a", ".lock", "failures.jsonl", "a/b/c", "a/.hidden", ""]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_takes_a_name_that_leads_elsewhere(made, out, reader, path):
    entries = manifest(out)
    entries[0]["map"] = path
    reseal(out, entries)
    before = sorted(each for each in out.parent.rglob("*"))
    result = call(*everyone(made, out)[reader], code=1)
    assert "map" in result.stdout + result.stderr
    new = [each for each in out.parent.rglob("*") if each not in before and "merged" not in str(each)]
    assert new == []
    if reader == "merge":
        assert not list((out.parent / "merged").rglob("*")) if (out.parent / "merged").exists() else True


def test_a_refused_merge_leaves_no_maps(made, out, tmp_path):
    copy = copy_of(out, tmp_path / "copy")
    entries = manifest(copy)
    entries[1]["map"] = "../x"
    reseal(copy, entries)
    call("merge", out, copy, "-o", tmp_path / "merged", code=1)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("harm", ["junk", "missing", "failures are a link", "failures are junk"])
def test_a_merge_that_is_refused_halfway_takes_back_what_it_copied(out, tmp_path, harm):
    copy, merged = copy_of(out, tmp_path / "copy"), tmp_path / "merged"
    last = copy / manifest(copy)[-1]["map"]
    failures = copy / "failures.jsonl"
    if harm == "junk":
        last.write_bytes(b"junk")
    elif harm == "missing":
        last.unlink()
    elif harm == "failures are a link":
        failures.symlink_to("/dev/null")
    else:
        reseal(copy, [{"schema": 1}], "failures.jsonl")
    result = call("merge", copy, "-o", merged, "-q", code=1)
    assert str(last if harm in ("junk", "missing") else failures) in result.stderr
    assert [path for path in merged.rglob("*") if path.name != "manifest.jsonl"] == []
    assert not (merged / "manifest.jsonl").exists() or (merged / "manifest.jsonl").read_bytes() == b""
    # Mended, the same command does all of it.
    failures.unlink(missing_ok=True)
    last.write_bytes((out / last.relative_to(copy)).read_bytes())
    call("merge", copy, "-o", merged, "-q")
    assert len(manifest(merged)) == len(manifest(out))


def test_an_interrupt_while_lines_are_added_takes_no_maps_from_them(out, tmp_path, monkeypatch):
    def interrupted(handle: int) -> None:
        fsync(handle)
        if os.readlink(f"/proc/self/fd/{handle}").endswith("manifest.jsonl"):
            raise KeyboardInterrupt

    merged, fsync = tmp_path / "merged", os.fsync
    monkeypatch.setattr(os, "fsync", interrupted)
    call("merge", out, "-o", merged, "-q", code=130)
    monkeypatch.undo()
    call("merge", out, "-o", merged, "-q")
    assert json.loads(call("verify", merged, "--sample", 0, "--json").stdout)["problems"] == []
    assert all((merged / entry["map"]).exists() for entry in manifest(merged))
    assert len(manifest(merged)) == len(manifest(out))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
@pytest.mark.parametrize("name", ["manifest.jsonl", "failures.jsonl", "map", ".lock"])
@pytest.mark.parametrize("reader", READERS)
def test_nobody_waits_for_a_pipe(made, out, reader, name):
    path = out / manifest(out)[0]["map"] if name == "map" else out / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    result = call(*everyone(made, out)[reader], code=0 if _reads_not(reader, name) else 1)
    assert _reads_not(reader, name) or "no regular file" in result.stdout + result.stderr


def _reads_not(reader: str, name: str) -> bool:
    """The lock is the writer's, and named by `verify`; a summary reads no failures."""
    return (name == ".lock" and reader in ("summary", "merge")) or (name == "failures.jsonl" and reader == "summary")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_named_as_the_picture_is_no_picture(out, tmp_path):
    os.mkfifo(tmp_path / "00.pipe")
    entries = manifest(out)
    entries[0]["image"] = str(tmp_path / "00.pipe")
    entries[0]["places"]["image"] = "../00.pipe"
    reseal(out, entries)
    report = json.loads(call("verify", out, "--json", "--sample", 0, code=3).stdout)
    assert report["absent"] == [str(tmp_path / "00.pipe")]


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["manifest.jsonl", "failures.jsonl"])
@pytest.mark.parametrize(
    "line", ["{}", '{"schema": 3}', "[1]", _nested(100_000), '{"a": ' + _nested(100_000) + "}", '"text"']
)
def test_lines_that_are_none_end_in_a_line(made, out, reader, name, line):
    (out / name).write_text(line + "\n")
    if name == "failures.jsonl" and reader == "summary":
        return
    result = call(*everyone(made, out)[reader], code=1)
    assert "line" in result.stdout + result.stderr


def test_settings_that_nobody_knows_are_said(made, out):
    for change in ({"unknown": 1}, {"window": "wide"}, {"layers": [1]}, {"laplace": [1]}, {"preprocess": []}):
        entries = manifest(made / "out")
        for entry in entries:
            entry["settings"] |= change
            entry["configuration"] = fingerprint.digest(fingerprint.of_entry(entry))
            entry["work"] = fingerprint.of_work(
                entry["configuration"], entry["hashes"]["image"], entry["target"], entry["versus"]
            )
        reseal(out, entries)
        result = call("verify", out, code=1)
        assert "settings" in result.stdout or "preprocess" in result.stdout, (change, result.stdout)


@pytest.mark.parametrize("change", [{"input_pixels": None}, {"pixels": (3,)}, {"stderr": (2, 2)}])
def test_a_map_that_lacks_its_arrays_is_none(out, change):
    entries = manifest(out)
    path = out / entries[0]["map"]
    arrays = dict(np.load(path))
    for name, shape in change.items():
        arrays.pop(name)
        arrays |= {} if shape is None else {name: np.zeros(shape, np.float32)}
    np.savez_compressed(path, **arrays)
    entries[0]["hashes"]["map"] = hashlib.sha256(path.read_bytes()).hexdigest()
    reseal(out, entries)
    result = call("summary", out, code=1)
    assert f"{next(iter(change))!r} is missing, or no picture's" in result.stderr


def test_arrays_that_claim_more_than_they_hold_are_refused(tmp_path):
    import io
    import zipfile

    good = io.BytesIO()
    np.savez_compressed(good, a=np.arange(6, dtype=np.float32).reshape(2, 3), b=np.zeros((0, 1 << 40), np.float32))
    found = unpack_arrays(good)
    assert {name: values.shape for name, values in found.items()} == {"a": (2, 3), "b": (0, 1 << 40)}
    np.testing.assert_array_equal(found["a"], np.arange(6).reshape(2, 3))

    def member(head: str, body: bytes, mode: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
        text = head.encode() + b"\n"
        data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", mode) as archive:
            archive.writestr("a.npy", data)
        return stream

    def head(descr: str, shape: str) -> str:
        return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"

    for stream, words in (
        (member(head("<f4", "(1000000000, 1000000000)"), bytes(8)), "claims"),
        (member(head("<f4", "(-1,)"), bytes(8)), "claims"),
        (member(head("|O", "(1,)"), bytes(8)), "objects"),
        (member("(" * 5000, bytes(8)), "header|damaged"),
        (member("{'descr': '<f4'", bytes(8)), "header|damaged"),
        (member(head("<f4", "(1,)"), bytes(1 << 24)), "claims"),
        (io.BytesIO(b"PK\x03\x04 no"), "no .npz"),
        (io.BytesIO(b""), "no .npz"),
    ):
        with pytest.raises(ValueError, match=words):
            unpack_arrays(stream)
    with pytest.raises(ValueError, match="claim more than 20 bytes"):
        unpack_arrays(good, 20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"pixels": np.zeros(8, np.float32)}, "'pixels' is missing, or no picture's"),
        ({"cut0": np.zeros((2, 2))}, "'cut0' holds no float32"),
        ({"stderr": np.zeros((2, 3), np.float32)}, "'stderr' is missing, or no picture's"),
    ],
)
def test_what_is_no_map_is_refused_before_its_numbers_take_memory(tmp_path, monkeypatch, change, words):
    arrays = {name: np.ones((2, 2), np.float32) for name in ("input_pixels", "pixels", "stderr", "cut0")} | change
    (tmp_path / "map.npz").write_bytes(pack_arrays(arrays))
    if words is None:
        assert load_map(tmp_path, "map.npz").keys() == arrays.keys()
        return
    monkeypatch.setattr("onnx_evidence.batch.summary.unpack_arrays", None)
    with pytest.raises(StoreError, match=words):
        load_map(tmp_path, "map.npz")


def test_names_that_lead_out_of_a_folder_are_never_opened(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "out.txt").write_bytes(SECRET)
    (tmp_path / "in" / "a" / "b").write_bytes(b"ours")
    with open_inside(tmp_path / "in", "a/b") as stream:
        assert stream.read() == b"ours"
    for name in ("../out.txt", "a/../../out.txt", str(tmp_path / "out.txt"), "..", "", "a/.."):
        with pytest.raises(OSError, match="leads out of the folder"):
            open_inside(tmp_path / "in", name)
    with pytest.raises(StoreError, match="leads out of the folder"):
        write_files(tmp_path / "in", {"../out.txt": b"x"})
    assert (tmp_path / "out.txt").read_bytes() == SECRET

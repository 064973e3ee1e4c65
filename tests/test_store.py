"""Files are written whole or not at all, and the manifest keeps one line per map."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from onnx_evidence.errors import StoreError
from onnx_evidence.store import MANIFEST, Manifest, check_writable, write_arrays, write_atomic


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text(encoding="utf-8").split("\n") if line]


def entry(name: str, **values) -> dict:
    return {"map": name, **values}


def test_write_atomic_makes_the_folder_and_writes_exactly_what_the_writer_gave(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "file.bin", lambda stream: stream.write(b"content"))
    assert (tmp_path / "a" / "b" / "file.bin").read_bytes() == b"content"
    assert everything(tmp_path) == ["a", "a/b", "a/b/file.bin"]


@pytest.mark.parametrize("error", [ValueError("half way"), KeyboardInterrupt("half way"), MemoryError("half way")])
def test_a_writer_that_raises_leaves_nothing_behind(tmp_path, error):
    during = []

    def write(stream):
        stream.write(b"half")
        stream.flush()
        during.extend(everything(tmp_path))
        raise error

    with pytest.raises(type(error), match="half way"):
        write_atomic(tmp_path / "file.bin", write)
    # Control: something was on the disk when the writer failed.
    assert len(during) == 1
    assert during != ["file.bin"]
    assert everything(tmp_path) == []


def test_a_full_disk_becomes_a_store_error_that_names_the_file(tmp_path):
    def write(stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"file\.bin: cannot write: No space left on device"):
        write_atomic(tmp_path / "file.bin", write)
    assert everything(tmp_path) == []


def test_a_writer_that_raises_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(stream):
        stream.write(b"new")
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert everything(tmp_path) == ["file.bin"]


def test_write_atomic_replaces_a_file(tmp_path):
    path = tmp_path / "file.bin"
    for content in (b"first and long", b"second"):
        write_atomic(path, lambda stream, content=content: stream.write(content))
        assert path.read_bytes() == content


def test_a_folder_below_a_regular_file_is_a_store_error(tmp_path):
    (tmp_path / "blocker").write_text("a file")
    with pytest.raises(StoreError, match=r"blocker.*cannot write"):
        write_atomic(tmp_path / "blocker" / "folder" / "file.bin", lambda stream: stream.write(b"x"))
    assert (tmp_path / "blocker").read_text() == "a file"


def test_a_folder_in_the_place_of_the_file_is_a_store_error(tmp_path):
    (tmp_path / "file.bin").mkdir()
    with pytest.raises(StoreError, match=r"file\.bin: cannot write"):
        write_atomic(tmp_path / "file.bin", lambda stream: stream.write(b"x"))
    assert everything(tmp_path) == ["file.bin"]


def test_check_writable_makes_the_folder_and_leaves_nothing_in_it(tmp_path):
    check_writable(tmp_path / "deep" / "out")
    assert everything(tmp_path) == ["deep", "deep/out"]


def test_check_writable_refuses_a_folder_below_a_regular_file(tmp_path):
    (tmp_path / "blocker").write_text("a file")
    with pytest.raises(StoreError, match=r"blocker.*cannot write"):
        check_writable(tmp_path / "blocker" / "out")


def test_arrays_come_back_bit_for_bit_without_pickles(tmp_path, rng):
    values = rng.normal(size=(7, 9)).astype(np.float32)
    values[0, 0], values[1, 1] = np.nan, -0.0
    write_arrays(tmp_path / "a.npz", {"values": values})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert loaded.files == ["values"]
        assert loaded["values"].dtype == np.float32
        assert loaded["values"].tobytes() == values.tobytes()


def test_arrays_that_would_need_pickles_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        write_arrays(tmp_path / "a.npz", {"values": np.array([{}], dtype=object)})
    assert everything(tmp_path) == []


def test_equal_arrays_give_equal_bytes_whatever_the_time(tmp_path, rng):
    values = rng.normal(size=(50, 40)).astype(np.float32)
    for name in ("a.npz", "b.npz"):
        write_arrays(tmp_path / name, {"values": values.copy(), "other": np.arange(5)})
    first = (tmp_path / "a.npz").read_bytes()
    assert first == (tmp_path / "b.npz").read_bytes()
    # No clock in the archive: the members carry the format's first date.
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    # Control: one changed bit changes the bytes.
    values[3, 3] = np.nextafter(values[3, 3], np.float32(9))
    write_arrays(tmp_path / "c.npz", {"values": values, "other": np.arange(5)})
    assert first != (tmp_path / "c.npz").read_bytes()


def test_manifest_appends_new_maps_in_order(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.add([entry("a.npz", bits=1.5), entry("b.npz", bits=2.5)])
    manifest.add([entry("c.npz", bits=3.5)])
    assert lines(tmp_path) == [entry("a.npz", bits=1.5), entry("b.npz", bits=2.5), entry("c.npz", bits=3.5)]
    assert (tmp_path / MANIFEST).read_bytes().endswith(b"}\n")


def test_manifest_replaces_the_line_of_a_map_computed_again_in_its_place(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.add([entry("a.npz", seed=0), entry("b.npz", seed=0)])
    manifest.add([entry("a.npz", seed=1), entry("c.npz", seed=1)])
    assert lines(tmp_path) == [entry("a.npz", seed=1), entry("b.npz", seed=0), entry("c.npz", seed=1)]
    assert everything(tmp_path) == [MANIFEST]


def test_manifest_opened_again_keeps_what_was_listed(tmp_path):
    Manifest(tmp_path).add([entry("a.npz", seed=0), entry("b.npz", seed=0)])
    Manifest(tmp_path).add([entry("c.npz", seed=1)])
    Manifest(tmp_path).add([entry("b.npz", seed=2)])
    assert lines(tmp_path) == [entry("a.npz", seed=0), entry("b.npz", seed=2), entry("c.npz", seed=1)]


def test_manifest_whose_last_line_lacks_its_end_is_continued_on_a_new_line(tmp_path):
    (tmp_path / MANIFEST).write_text('{"map": "a.npz"}', encoding="utf-8")
    Manifest(tmp_path).add([entry("b.npz")])
    assert lines(tmp_path) == [entry("a.npz"), entry("b.npz")]


@pytest.mark.parametrize("char", ["\u2028", "\u0085", "\x0c", "\x1c", "\n", "\u4e2d", '"'])
def test_manifest_with_any_character_in_a_name_can_be_read_again(tmp_path, char):
    name = f"a{char}b.npz"
    Manifest(tmp_path).add([entry(name, label=char)])
    Manifest(tmp_path).add([entry("other.npz", label="x")])
    assert lines(tmp_path) == [entry(name, label=char), entry("other.npz", label="x")]


def test_manifest_refuses_what_is_no_json_number_and_keeps_the_old_lines(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.add([entry("a.npz", bits=1.0)])
    with pytest.raises(ValueError, match="JSON compliant"):
        manifest.add([entry("b.npz", bits=float("nan"))])
    assert lines(tmp_path) == [entry("a.npz", bits=1.0)]


@pytest.mark.parametrize(
    "content",
    [
        b'{"map": "a.npz"}\n{"map": "b',
        b"no json\n",
        b'{"image": "a.png"}\n',
        b"[1, 2]\n",
        b'{"map": []}\n',
        b"\xff\xfe\n",
    ],
    ids=["truncated", "text", "no-map", "a-list", "map-is-a-list", "not-utf8"],
)
def test_a_corrupt_manifest_is_a_store_error_and_is_not_touched(tmp_path, content):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest\.jsonl: cannot read the manifest: \S") as caught:
        Manifest(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / MANIFEST).read_bytes() == content


def test_a_folder_named_like_the_manifest_is_a_store_error(tmp_path):
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(StoreError, match=r"manifest\.jsonl: cannot read the manifest"):
        Manifest(tmp_path)

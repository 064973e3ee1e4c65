"""Files are written whole or not at all."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from onnx_evidence.errors import StoreError
from onnx_evidence.files.arrays import heads_of, pack_arrays, unpack_arrays
from onnx_evidence.files.store import check_writable, write_arrays, write_atomic


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


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


ARRAYS = {
    "no array": {},
    "a map": {"values": np.linspace(-1, 1, 2000, dtype=np.float32).reshape(50, 40)},
    "several": {f"cut{index}": np.full((3, 4), index, np.float16) for index in range(5)},
    "one number": {"whole": np.array(7), "share": np.array(0.5), "text": np.array('{"a": "\u00e9"}')},
    "no number": {"values": np.zeros((0, 3), np.float32), "texts": np.array(["", ""])},
    "strided": {"values": np.arange(2400, dtype=np.float32).reshape(40, 60)[::2, ::-3]},
    "by columns": {"values": np.asfortranarray(np.arange(63.0).reshape(9, 7))},
    "other types": {
        "mask": np.arange(9) % 2 == 0,
        "texts": np.array(["a", "b\u00e9"]),
        "other order": np.arange(5, dtype=">f4"),
    },
    "larger than a buffer": {"values": np.arange(17).repeat(1 << 20).astype(np.uint8)},
    "names of others' arguments": {"allow_pickle": np.arange(3), "file": np.arange(4)},
}


@pytest.mark.parametrize("name", ARRAYS)
def test_files_of_arrays_hold_what_was_given_and_nothing_else(name):
    arrays = ARRAYS[name]
    data = pack_arrays(arrays)
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        theirs = {key: loaded[key] for key in loaded.files}
    for found in (theirs, unpack_arrays(io.BytesIO(data))):
        assert list(found) == list(arrays)
        for key, values in arrays.items():
            np.testing.assert_array_equal(found[key], values, strict=True)


@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)
def test_heads_are_known_before_arrays_are_read(arrays):
    stream = io.BytesIO(pack_arrays(arrays))
    heads = heads_of(stream)
    assert {key: (head.shape, head.dtype) for key, head in heads.items()} == {
        key: (np.asarray(values).shape, np.asarray(values).dtype) for key, values in arrays.items()
    }
    assert stream.tell() == 0


@pytest.mark.parametrize("name", [name for name in ARRAYS if "file" not in ARRAYS[name]])
def test_files_of_arrays_are_those_of_numpy_byte_for_byte(name):
    stream = io.BytesIO()
    # Without a keyword of its own: before numpy 2.2 `allow_pickle` became an array.
    np.savez_compressed(stream, **ARRAYS[name])
    assert pack_arrays(ARRAYS[name]) == stream.getvalue()


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

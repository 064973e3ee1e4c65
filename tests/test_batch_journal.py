"""Lines are there as a whole or not at all, whatever is done to the file; one process writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onnx_evidence.batch.journal import Journal, read_lines, sealed
from onnx_evidence.batch.lock import FolderLock
from onnx_evidence.errors import ModelError, StoreError

VALUES = [{"map": f"{number}/a.npz", "bits": number / 3, "label": "crane"} for number in range(4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.jsonl"
    Journal(path, lambda value: None).add(VALUES)
    return path


def reopened(path: Path) -> tuple[list[dict], Journal]:
    seen: list[dict] = []
    journal = Journal(path, seen.append)
    return [{key: each for key, each in value.items() if key not in ("previous", "seal")} for value in seen], journal


def problems(path: Path) -> list[tuple[int, str]]:
    return [(line.number, line.problem) for line in read_lines(path) if line.problem]


def test_lines_come_back_and_each_names_the_seal_of_the_one_before(path):
    assert reopened(path)[0] == VALUES
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["previous"] for line in lines] == [None, *(line["seal"] for line in lines[:-1])]
    assert problems(path) == []


def test_opened_again_the_chain_goes_on(path):
    reopened(path)[1].add([{"map": "new"}])
    assert problems(path) == []
    assert reopened(path)[0] == [*VALUES, {"map": "new"}]


def test_wherever_the_file_is_torn_whole_lines_stay_and_work_goes_on(path):
    data = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(data) if byte == ord("\n")]
    assert len(ends) == 4
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        values, journal = reopened(path)
        assert values == VALUES[:whole]
        assert path.read_bytes() == data[: ends[whole - 1] if whole else 0]
        if cut % 101 == 0:
            journal.add(VALUES[whole:])
            assert path.read_bytes() == data


def test_zeros_that_a_power_cut_leaves_are_cut_off(path):
    data = path.read_bytes()
    path.write_bytes(data + b"\0" * 40 + b"\n")
    assert reopened(path)[0] == VALUES
    assert path.read_bytes() == data


def test_every_flipped_bit_is_found_and_nothing_is_added_to_such_a_file(path):
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        for bit in (0, 6):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            assert problems(path), (place, bit, bytes(changed[max(place - 9, 0) : place + 9]))
    changed = bytearray(data)
    changed[data.index(b"0.333")] = ord("1")
    path.write_bytes(changed)
    with pytest.raises(StoreError, match=r"manifest\.jsonl: line 2: the line was changed.*nothing is added"):
        reopened(path)
    assert path.read_bytes() == changed


@pytest.mark.parametrize(
    ("order", "found"),
    [([0, 1, 2, 3], []), ([0, 2, 3], [2]), ([1, 2, 3], [1]), ([0, 1, 1, 2, 3], [3]), ([0, 2, 1, 3], [2, 3, 4])],
    ids=["control", "removed", "first-removed", "twice", "swapped"],
)
def test_lines_that_were_removed_added_or_moved_are_found(path, order, found):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[place] for place in order))
    assert [number for number, _ in problems(path)] == found


def test_a_changed_line_with_a_seal_of_its_own_breaks_the_chain_behind_it(path):
    lines = path.read_bytes().splitlines(keepends=True)
    value = json.loads(lines[1])
    lines[1] = sealed({**VALUES[1], "bits": 9.0}, value["previous"])[0]
    path.write_bytes(b"".join(lines))
    assert [number for number, _ in problems(path)] == [3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no json\n", "no JSON object"),
        (b"[1, 2]\n", "no JSON object"),
        (b'{"map": "a.npz"}\n', "no seal"),
        (b"\xff\xfe\n", "no JSON object"),
    ],
)
def test_what_is_no_journal_is_refused_and_not_touched(path, content, words):
    path.write_bytes(content)
    with pytest.raises(StoreError, match=words):
        reopened(path)
    assert path.read_bytes() == content


def test_no_number_is_lost_and_nothing_that_json_lacks_is_written(path):
    with pytest.raises(ModelError, match=r"^cuts\[1\]\.bits \(nan\) is not a finite number"):
        reopened(path)[1].add([{"bits": 1.0}, {"cuts": [{"bits": 2.0}, {"bits": float("nan")}]}])
    assert reopened(path)[0] == VALUES


@pytest.mark.parametrize("char", ["\u2028", "\u0085", "\x0c", "\x1c", "\n", "\u4e2d", '"', "\udcff"])
def test_any_character_may_be_in_a_name(path, char):
    reopened(path)[1].add([{"map": f"a{char}b"}])
    assert problems(path) == []
    assert reopened(path)[0][-1] == {"map": f"a{char}b".replace("\udcff", "?")}


def test_a_disk_that_is_full_half_way_leaves_the_lines_before(path, monkeypatch):
    data = path.read_bytes()
    journal = reopened(path)[1]
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match=r"manifest\.jsonl: cannot write: No space left on device"):
        journal.add([{"map": "new"}])
    assert path.read_bytes() == data
    monkeypatch.undo()
    journal.add([{"map": "new"}])
    assert problems(path) == []


def test_lines_can_be_taken_out_and_the_others_are_sealed_anew(path):
    journal = reopened(path)[1]
    journal.rewrite(value for value in journal.values() if value["map"] != "1/a.npz")
    journal.add([{"map": "new"}])
    assert reopened(path)[0] == [VALUES[0], VALUES[2], VALUES[3], {"map": "new"}]
    assert problems(path) == []
    journal.rewrite([])
    assert not path.exists()


HOLDER = """
import sys, time
from pathlib import Path
from onnx_evidence.batch.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_and_free_again_when_that_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=rf"another run writes there now \(process {holder.pid}\)"):
            FolderLock(tmp_path).__enter__()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with FolderLock(tmp_path) as lock:
        assert lock.left
        with pytest.raises(StoreError, match="another run"):
            FolderLock(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path) as lock:
        assert not lock.left


def test_zeros_in_the_middle_are_damage_and_nothing_behind_them_is_cut_off(path):
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], b"\0" * len(lines[1]), b"\n", *lines[2:]])
    path.write_bytes(damaged)
    assert problems(path)[0] == (2, "the line is not finished")
    with pytest.raises(StoreError, match="line 2: the line is not finished; nothing is added to it"):
        reopened(path)
    assert path.read_bytes() == damaged


def test_a_line_without_end_is_not_read_to_its_end(path, monkeypatch):
    monkeypatch.setattr("onnx_evidence.batch.journal._LONGEST", 1 << 10)
    path.write_bytes(path.read_bytes() + b"x" * (1 << 12))
    with pytest.raises(StoreError, match="line 5: is longer than any"):
        list(read_lines(path))

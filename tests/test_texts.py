"""What is read of files that users give: regular ones, of sizes that can be, nested as deep as can be read."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from onnx_evidence.batch.plan import _matching, make_plan, parse_shard
from onnx_evidence.cli.golden import expectations
from onnx_evidence.errors import DataError, SettingError, TargetError, short_of_handles
from onnx_evidence.files import below, inside, machine, texts
from onnx_evidence.files.arrays import unpack_arrays
from onnx_evidence.files.inside import open_regular
from onnx_evidence.files.texts import parse_json, parse_toml, read_text
from onnx_evidence.intake.labels import check_labels, find_class, read_labels, recorded_labels
from onnx_evidence.pictures import decoding
from onnx_evidence.pictures.photograph import read_photograph
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.found import read_preprocess
from tests import tiny
from tests.batch import write_pictures

DEEP = "[" * 100_000


def test_a_text_is_read_as_its_file_has_it(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffgrün\r\nrot\rblau\n".encode())
    assert read_text(path) == "grün\nrot\nblau\n" == path.read_text(encoding="utf-8-sig")


def test_the_mark_that_windows_puts_in_front_is_no_part_of_any_text(tmp_path):
    def marked(name: str, text: str):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        return tmp_path / name

    assert read_labels(marked("l.txt", "ant\nbee\n")) == ("ant", "bee")
    plain = {**tiny.PREPROCESS, "size": [32, 32]}
    toml = "\n".join(f"{key} = {json.dumps(value)}" for key, value in plain.items())
    for path in (marked("p.toml", toml), marked("p.json", json.dumps(plain))):
        assert read_preprocess(path) == Preprocess(**tiny.PREPROCESS)
    (found,) = expectations([str(marked("g.csv", "a.png,ant\n"))], [])
    assert found.picture == tmp_path / "a.png"
    write_pictures(tmp_path, 1)
    for path in (marked("list.txt", "00.png\n"), marked("list.csv", "image,target\n00.png,ant\n")):
        assert [item.path for item in make_plan([path], ["top1"], None)] == [tmp_path / "00.png"]


def test_lines_end_where_files_say_so_and_nowhere_else(tmp_path):
    odd = ["form\ffeed", "tab\vulator", "next\x85line", "line\u2028end", "part\u2029end", "file\x1csign"]
    for end in ("\n", "\r\n", "\r"):
        for last in ("", end):
            (tmp_path / "l.txt").write_bytes((end.join(odd) + last).encode())
            assert read_labels(tmp_path / "l.txt") == tuple(odd)
    assert len("".join(odd).splitlines()) > 1  # what this is about
    (tmp_path / "l.txt").write_bytes(b"ant\n\nbee\n\n")
    assert read_labels(tmp_path / "l.txt") == ("ant", "", "bee", "")
    (tmp_path / "g.csv").write_text("a.png,ant\x85x\nb.png,bee\n", encoding="utf-8")
    assert [each.label for each in expectations([str(tmp_path / "g.csv")], [])] == ["ant\x85x", "bee"]


def test_an_empty_line_behind_the_labels_is_said_to_be_one():
    check_labels(("ant", "", "bee"), 3, None, binary=False)
    check_labels(("ant", "bee", ""), 3, None, binary=False)  # a class without a name
    with pytest.raises(DataError, match=r"^4 labels for a model of 3 classes: they must be as many$"):
        check_labels(("ant", "", "bee", "cat"), 3, None, binary=False)
    message = r"^l.txt: 4 labels for a model of 3 classes: they must be as many; the last one is empty: remove"
    with pytest.raises(DataError, match=message):
        check_labels(("ant", "bee", "cat", " "), 3, Path("l.txt"), binary=False)
    # One name and an empty line would name the wrong class of two that were made of one number.
    with pytest.raises(DataError, match=r"^2 labels for a model of 2 classes: the last one is empty: remove the blank"):
        check_labels(("cat", ""), 2, None, binary=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_nobody_waits_for_a_pipe_that_is_given(tmp_path):
    for name in ("p.txt", "p.toml", "p.json", "p.csv"):
        os.mkfifo(tmp_path / name)
    for call in (
        lambda: read_labels(tmp_path / "p.txt"),
        lambda: read_preprocess(tmp_path / "p.toml"),
        lambda: read_preprocess(tmp_path / "p.json"),
        lambda: expectations([str(tmp_path / "p.json")], []),
    ):
        with pytest.raises(DataError, match="no regular file"):
            call()


@pytest.mark.skipif(os.name == "nt", reason="files of nothing take room there")
def test_files_that_claim_more_than_any_has_are_not_read(tmp_path, monkeypatch):
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, texts.LARGEST)
    assert len(read_text(path)) == texts.LARGEST
    os.truncate(path, texts.LARGEST + 1)
    with pytest.raises(DataError, match="at most 64 MB"):
        read_labels(path)
    os.truncate(path, inside.MOST + 1)
    with pytest.raises(OSError, match="absurdly large"):
        open_regular(path)
    with pytest.raises(DataError, match="absurdly large"):
        read_photograph(path)


def test_what_is_nested_too_deeply_is_said_so(tmp_path):
    for parse, text in ((parse_json, DEEP), (parse_toml, f"a = {DEEP}"), (parse_toml, "a." * 3000 + "a = 1")):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse(text)
    assert parse_json("[[1]]") == [[1]]
    assert parse_toml("a.b = 1") == {"a": {"b": 1}}
    with pytest.raises(DataError, match="labels recorded in the model are no JSON: it is nested too deeply"):
        recorded_labels({"onnx_evidence.labels": DEEP}, tmp_path / "x.onnx")
    (tmp_path / "g.json").write_text(DEEP)
    with pytest.raises(DataError, match="nested too deeply"):
        expectations([str(tmp_path / "g.json")], [])


def test_numbers_of_more_digits_than_python_reads_are_no_class_and_no_shard():
    with pytest.raises(TargetError, match=r"class 9{18}\.\.\. does not exist: the model has classes 0 to 4"):
        find_class("9" * 10_000, None, 5)
    for shard in ("1/" + "9" * 10_000, "¹/²", "٣/٣"):
        with pytest.raises(SettingError, match="is not I/N"):
            parse_shard(shard)
    assert parse_shard("3/16") == (3, 16)


def test_many_stars_search_every_folder_once(tmp_path, monkeypatch):
    place = tmp_path
    for _ in range(8):
        place = place / "d"
        place.mkdir()
    write_pictures(place, 1)
    pattern = tmp_path.joinpath(*["**"] * 40, "*.png")
    seen: list[str] = []
    monkeypatch.setattr("onnx_evidence.batch.plan.below", lambda top, **how: seen.append(str(top)) or below(top, **how))
    assert [item.path for item in make_plan([pattern], ["top1"], None)] == [place / "00.png"]
    assert len(seen) == 1
    assert _matching(tmp_path / "**" / "**", set()) == _matching(tmp_path / "**", set())


def test_a_header_of_nothing_but_comments_is_refused_at_once(tmp_path):
    for kind in (b"P6", b"P4"):
        (tmp_path / "x.ppm").write_bytes(kind + b"\n" + b"#\n" * (1 << 16) + b"4 4\n255\n" + bytes(48))
        with pytest.raises(DataError, match="the header is not whole in the first 65536 bytes"):
            read_photograph(tmp_path / "x.ppm")
    (tmp_path / "x.ppm").write_bytes(b"P6\n# a comment\n4 4\n255\n" + bytes(range(48)))
    assert read_photograph(tmp_path / "x.ppm").pixels[0, 1].tolist() == [3, 4, 5]


def test_links_that_lead_in_circles_are_passed_over(tmp_path):
    pictures = write_pictures(tmp_path / "in", 1)
    (pictures / "x.png").symlink_to("x.png")
    (tmp_path / "out").mkdir()
    items = make_plan([pictures], ["top1"], None, leave_out=tmp_path / "out")
    assert [item.name for item in items] == [str(pictures / "00.png")]


def test_names_and_sizes_that_no_result_has_are_refused(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="leads out of the folder"):
        inside.open_inside(tmp_path, "a/b\0c")
    (tmp_path / "large").write_bytes(bytes(10))
    with inside.open_inside(tmp_path, "large", most=10) as stream:
        assert stream.read() == bytes(10)
    with pytest.raises(OSError, match="absurdly large: 10 bytes"):
        inside.open_inside(tmp_path, "large", most=9)


def test_no_error_is_its_own_cause(tmp_path):
    """Whoever goes through the causes of an error comes to an end."""
    (tmp_path / "a").write_bytes(b"no folder")
    for name in ("a/b", "a/b/c"):
        with pytest.raises(OSError, match="Not a directory") as caught:
            inside.open_inside(tmp_path, name)
        assert caught.value.__cause__ is None
        assert not short_of_handles(caught.value)
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(OSError, match="it is a link"):
        inside.open_inside(tmp_path, "link")


def test_arrays_that_no_head_speaks_of_are_not_unpacked():
    stream = io.BytesIO()
    np.savez_compressed(stream, header=np.zeros(2), other=np.zeros(1 << 16))
    assert set(unpack_arrays(stream, 1000, ["header"])) == {"header"}
    with pytest.raises(ValueError, match="claim more than 1000 bytes"):
        unpack_arrays(stream, 1000)
    with pytest.raises(ValueError, match="claim more than 100 bytes"):
        unpack_arrays(stream, 100, ["header"])


def test_pictures_are_held_against_the_memory_that_is_free(tmp_path, monkeypatch):
    (path,) = write_pictures(tmp_path / "in", 1).iterdir()
    monkeypatch.setattr(decoding, "_FEW", 1)
    monkeypatch.setattr(machine, "free_memory", lambda: 50 * 40 * 28)
    assert read_photograph(path).pixels.shape == (40, 50, 3)
    monkeypatch.setattr(machine, "free_memory", lambda: 50 * 40 * 28 - 1)
    with pytest.raises(DataError, match=r"50 x 40 pixels, which take 28 bytes each .* 0 MB of memory are free"):
        read_photograph(path)
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    assert read_photograph(path).pixels.shape == (40, 50, 3)


def test_free_memory_is_what_system_container_and_limit_leave(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    free = machine.free_memory()
    assert free is None or free > 0
    if free is not None:
        (tmp_path / "memory.max").write_text("max\n")
        assert machine.free_memory() is not None
        assert machine.free_memory() > 1 << 20
        (tmp_path / "memory.max").write_text("1000\n")
        (tmp_path / "memory.current").write_text("900\n")
        (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50\n")
        assert machine.free_memory() == 150


def test_halves_of_characters_are_refused_and_pairs_are_not(tmp_path):
    assert parse_json(r'["\ud83d\ude00"]') == ["\U0001f600"]
    with pytest.raises(ValueError, match="half of a character"):
        parse_json(r'{"a": ["cat", "\uD83d"]}')
    with pytest.raises(DataError, match="no JSON: it holds half of a character"):
        recorded_labels({"onnx_evidence.labels": r'["\ud800", "dog"]'}, tmp_path)

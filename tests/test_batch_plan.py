"""What is asked for, in which order, under which names; and what finished work is known by."""

import inspect
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onnx_evidence.batch import ResultFolder, fingerprint
from onnx_evidence.batch.plan import Item, check_questions, look, make_plan, parse_shard, take_shard, together
from onnx_evidence.batch.work import folder_name
from onnx_evidence.errors import DataError, SettingError, TargetError
from onnx_evidence.files import PARTIAL
from onnx_evidence.files.text import csv_text, visible


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "deep/c.png", "deep/a.png", "notes.md"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "in"


def names(items: list[Item], folder: Path) -> list[str]:
    return [item.path.relative_to(folder).as_posix() for item in items]


def plan(*given: Path) -> list[Item]:
    return make_plan(given, ["top1"], None)


def test_folders_patterns_lists_and_files_name_pictures_in_a_fixed_order(pictures, tmp_path):
    everything = ["a.jpg", "b.png", "deep/a.png", "deep/c.png"]
    assert names(plan(pictures), pictures) == everything
    assert names(plan(pictures / "*.png"), pictures) == ["b.png"]
    assert names(plan(pictures / "**" / "*.png"), pictures) == ["b.png", "deep/a.png", "deep/c.png"]
    (tmp_path / "list.txt").write_text("in/deep/c.png\n\nin/a.jpg\nin/deep/c.png\n", encoding="utf-8-sig")
    assert names(plan(tmp_path / "list.txt"), pictures) == ["deep/c.png", "a.jpg"]
    # A file that is not there is a picture's failure, later, not the end of everything.
    assert names(plan(pictures / "b.png", pictures / "no.png", pictures), pictures) == [
        "b.png",
        "no.png",
        "a.jpg",
        "deep/a.png",
        "deep/c.png",
    ]


def test_what_is_passed_over_is_said(pictures, caplog):
    plan(pictures)
    assert caplog.messages == [f"{pictures}: passed over 1 file that is no picture by name: notes.md"]
    caplog.clear()
    plan(pictures / "*")
    assert caplog.messages == [
        f"{pictures}/*: 1 folder of this name is passed over, such as {pictures}/deep: give folders themselves, or **"
    ]
    caplog.clear()
    plan(pictures / "**" / "*.png", pictures / "*.jpg", pictures / "deep")
    make_plan([pictures / "*"], ["top1"], None, pictures / "deep")
    assert caplog.messages == []


def test_links_pipes_and_what_is_behind_them_are_passed_over_and_named(pictures, tmp_path, caplog):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.png").write_text("far")
    (pictures / "link.png").symlink_to(elsewhere / "far.png")
    (pictures / "gone.png").symlink_to(elsewhere / "nothing.png")
    (pictures / "linked").symlink_to(elsewhere)
    os.mkfifo(pictures / "pipe.png")
    (pictures / ".hidden").symlink_to(elsewhere)
    (pictures / "notes.md").unlink()
    (tmp_path / "results").mkdir()
    (pictures / "out").symlink_to(tmp_path / "results")
    found = make_plan([pictures], ["top1"], None, leave_out=pictures / "out")
    assert [item.path.name for item in found] == ["a.jpg", "b.png", "a.png", "c.png", "link.png"]
    # The folder of results is not missed, wherever it lies.
    assert [message.split(": ", 1)[1] for message in caplog.messages] == [
        "passed over 3 names that are no file here (links to folders or to nothing, pipes, folders without access): "
        "gone.png, linked, pipe.png"
    ]
    caplog.clear()
    plan(pictures)
    assert [message.rsplit(": ", 1)[1] for message in caplog.messages] == ["gone.png, linked, out (and 1 more)"]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "gone.png").symlink_to("nothing")
    with pytest.raises(DataError, match=r"no pictures in this folder .*: 1 name that is no file here .*: gone\.png"):
        plan(tmp_path / "bare")


def test_a_pattern_for_all_folders_goes_through_no_link_and_says_so(pictures, caplog):
    for name in ("round", "again"):  # glob would go 40 deep, through two of them 2 to the 40th
        (pictures / name).symlink_to(".")
    (pictures / "deep" / ".hidden").mkdir()
    (pictures / "deep" / ".hidden" / "h.png").write_text("h")
    (pictures / "[x]" / "**").mkdir(parents=True)
    (pictures / "[x]" / "**" / "d.png").write_text("d")
    everywhere = ["[x]/**/d.png", "b.png", "deep/a.png", "deep/c.png"]
    assert names(plan(pictures / "**" / "*.png"), pictures) == everywhere
    assert caplog.messages == [
        f"{pictures}/**/*.png: 2 links to folders are passed over, such as {pictures}/again: give folders themselves"
    ]
    assert names(plan(pictures / "**" / "**" / "[ab].*"), pictures) == ["a.jpg", "b.png", "deep/a.png"]
    assert names(plan(pictures / "**" / "deep" / "*.png"), pictures) == ["deep/a.png", "deep/c.png"]
    assert names(plan(pictures / "**"), pictures) == sorted([*everywhere, "a.jpg", "notes.md"])


@contextmanager
def few_calls() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def test_folders_lie_deeper_inside_each_other_than_calls_may(tmp_path):
    deep = tmp_path.joinpath(*"d" * 200)
    deep.mkdir(parents=True)
    picture, unfinished = deep / "x.png", deep / f".x{PARTIAL}"
    picture.write_text("x")
    unfinished.write_text("half")
    with few_calls():
        with pytest.raises(RecursionError):
            list(tmp_path.rglob("*"))
        assert [item.path for item in plan(tmp_path / "d")] == [picture]
        assert [item.path for item in plan(tmp_path / "**" / "*.png")] == [picture]
        with ResultFolder(tmp_path / "d") as held:
            held.sweep()
    assert not unfinished.exists()


def test_a_pattern_for_all_folders_starts_where_one_works(pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    assert [str(item.path) for item in plan(Path("**/*.png"))] == ["b.png", "deep/a.png", "deep/c.png"]


def test_a_picture_without_access_fails_alone(pictures, monkeypatch):
    def denied(path, **how):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)  # what a closed folder does, even to root
    assert [item.path.name for item in plan(pictures / "b.png", pictures / "deep" / "no.csv")] == ["b.png", "no.csv"]


def test_a_table_gives_every_picture_its_questions(pictures, tmp_path):
    (tmp_path / "list.csv").write_text('image,versus,target\nin/b.png,bee,dog\n"in/a.jpg",,\nin/b.png,,ant\n')
    items = make_plan([tmp_path / "list.csv"], ["top1", "3"], "crane")
    assert [(item.path.name, item.targets, item.versus) for item in items] == [
        ("b.png", ("dog",), "bee"),
        ("a.jpg", ("top1", "3"), "crane"),
        ("b.png", ("ant",), "crane"),
    ]


def test_what_is_asked_of_a_picture_in_several_lines_is_one_item_with_every_class_once(pictures, tmp_path):
    rows = [
        "b.png,top1,",
        "deep/a.png,bee,",
        "./b.png,BEE,",
        "deep/../b.png,1,",
        f"{pictures}/b.png,3,ant",
        "b.png,,ant",
    ]
    (pictures / "list.csv").write_text("\n".join(["image,target,versus", *rows, "b.png,03,ant"]))
    numbers = {"bee": 1, "BEE": 1, "1": 1, "3": 3, "03": 3, "ant": 0}
    items = together(plan(pictures / "list.csv"), numbers.__getitem__)
    assert [(item.path, item.targets, item.versus, item.alone) for item in items] == [
        (pictures / "b.png", ("top1", "BEE"), None, True),
        (pictures / "deep" / "a.png", ("bee",), None, True),
        (pictures / "b.png", ("3",), "ant", True),
        # Held against a class: the answer may be that class, and would take the other with it.
        (pictures / "b.png", ("top1",), "ant", True),
    ]


def test_copies_and_links_of_other_names_are_other_pictures(pictures):
    os.symlink("b.png", pictures / "other.png")
    assert len(plan(pictures / "b.png", pictures / "other.png")) == 2


def test_options_that_do_not_hold_for_a_list_are_said(pictures, tmp_path, caplog):
    path = tmp_path / "list.csv"
    path.write_text("image,versus,target\nin/b.png,bee,dog\nin/a.jpg,,\nin/deep/a.png,,ant\nin/../in/b.png,,ant\n")
    for targets, versus, said in (
        (None, None, []),
        (["top1"], None, [f"{path}: --target does not hold for 2 pictures"]),
        (None, "crane", [f"{path}: --versus does not hold for 1 picture"]),
        (["top1", "3"], "crane", [f"{path}: --target and --versus do not hold for 2 pictures"]),
    ):
        caplog.clear()
        make_plan([path], targets, versus)
        assert caplog.messages == [f"{each}: the list names classes of its own there" for each in said]


@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_spaces_around_a_name_in_a_list_are_of_the_name_unless_no_picture_is_called_so(pictures, suffix):
    (pictures / " spaced.png ").write_text("x")
    (pictures / "b.png ").write_text("x")
    path = pictures / f"list.{suffix}"
    path.write_text(
        "image\n" * (suffix == "csv") + " spaced.png \n  \nb.png \n b.png\r\n b.png  \nno.png \n", newline=""
    )
    assert names(plan(path), pictures) == [" spaced.png ", "b.png ", "b.png", "no.png "]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("l.csv", "", "first line is missing"),
        ("l.csv", "picture\na.jpg\n", "first line is picture: name the columns image, target, versus"),
        ("l.csv", "image,tagret\na.jpg,dog\n", "first line is image, tagret"),
        ("l.csv", "image,image\na.jpg,dog\n", "name the columns"),
        ("l.csv", "image\n", "the list is empty"),
        ("l.csv", "image\na.jpg,dog\n", "row 2 does not fit"),
        ("l.csv", 'image\n"a.jpg\n', "cannot read the list"),
        ("l.txt", "\n\n", "the list is empty"),
        ("l.txt", b"\xff\xfe\x00a", "cannot read the list"),
        ("none*", None, "no picture has a name like this"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(pictures, name, content, words):
    if content is not None:
        (pictures / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=words) as caught:
        plan(pictures / name)
    assert "\n" not in str(caught.value)


def test_a_wrong_class_in_a_list_is_refused_before_anything_is_explained(pictures, tmp_path):
    (tmp_path / "list.csv").write_text("image,target\nin/b.png,dog\nin/a.jpg,zebra\n")

    def check(targets, versus):
        if "zebra" in targets:
            raise TargetError("class 'zebra' is unknown")

    with pytest.raises(TargetError, match=r"in/a\.jpg: class 'zebra' is unknown"):
        check_questions(plan(tmp_path / "list.csv"), check)


def test_shards_share_the_plan_and_keep_the_questions_of_a_picture_together(pictures, tmp_path):
    lines = [f"{name},{target}" for target in ("ant", "bee") for name in ("in/a.jpg", "in/b.png", "in/deep/c.png")]
    (tmp_path / "list.csv").write_text("\n".join(["image,target", *lines]))
    items = plan(tmp_path / "list.csv")
    shards = [take_shard(items, number, 2) for number in (1, 2)]
    assert sorted(map(repr, shards[0] + shards[1])) == sorted(map(repr, items))
    assert [{item.path.name for item in shard} for shard in shards] == [{"a.jpg", "c.png"}, {"b.png"}]
    assert [take_shard(items, number, 9) for number in (4, 9)] == [[], []]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3", "1.5/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(SettingError, match=r"is not I/N"):
        parse_shard(text)


def test_a_shard_is_read():
    assert parse_shard("3/16") == (3, 16)


def test_folders_of_results_are_the_pictures_alone_and_lead_nowhere_else(pictures):
    items = [look(item) for item in plan(pictures)]
    owned = {"b": items[1].sha256}
    found = [folder_name(item, owned.get) for item in items]
    assert (found[1], found[3]) == ("b", "c")
    assert found[0] != found[2]
    assert {name.rpartition("-")[0] for name in (found[0], found[2])} == {"a"}
    # Another picture had that name once.
    assert folder_name(items[1], {"b": "0" * 64}.get).startswith("b-")
    for stem in ("..", ".", ".lock", "manifest.jsonl", "Failures.jsonl", "x" * 250):
        item = Item(pictures / f"{stem}.png", (), None, alone=len(stem) < 200, sha256="1" * 64)
        name = folder_name(item, lambda name: None)
        assert name not in ("..", ".", stem)
        assert not name.startswith(".")
        assert len(name) < 100


def test_what_is_no_regular_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s.png"))
        for name in ("pipe.png", "folder.png", "s.png", "none.png"):
            item = look(Item(tmp_path / name, (), None))
            assert item.sha256 is None
            assert item.problem.startswith(f"{tmp_path / name}: cannot read the picture: ")
    assert "no regular file" in look(Item(tmp_path / "pipe.png", (), None)).problem


def test_differences_of_configurations_are_named():
    there = {"model": "a" * 64, "preprocess": {"size": [32, 32], "color": "RGB"}, "seed": 0, "tolerance": None}
    now = {"model": "b" * 64, "preprocess": {"size": [32, 64], "color": "RGB"}, "seed": 0, "tolerance": 0.1}
    assert fingerprint.differences(there, now) == [
        "model is aaaaaaaaaaaa... there and bbbbbbbbbbbb... now",
        "preprocess.size is 32, 32 there and 32, 64 now",
        "tolerance is not set there and 0.1 now",
    ]
    assert fingerprint.differences(there, dict(there)) == []


def test_a_digest_knows_no_order_of_keys_and_every_value():
    one = {"a": 1, "b": [1, 2]}
    assert fingerprint.digest(one) == fingerprint.digest({"b": [1, 2], "a": 1})
    others = ({"a": 1, "b": [2, 1]}, {"a": 1.5, "b": [1, 2]}, {"a": 1, "b": [1, 2], "c": None})
    assert fingerprint.digest(one) not in [fingerprint.digest(other) for other in others]
    assert fingerprint.of_work("c", "p", 1, None) != fingerprint.of_work("c", "p", None, 1)  # type: ignore[arg-type]


def test_names_obey_nothing_in_terminals_and_tables():
    assert visible("Größe 中 😀.png") == "Größe 中 😀.png"
    assert visible("a\x1b[31m\r\nb\u202e\u2028\udcff") == r"a\x1b[31m\r\nb\u202e\u2028\udcff"
    for start in "=+-@":
        assert csv_text(f"{start}cmd()") == f"'{start}cmd()"
        assert csv_text(f"  {start}cmd()").startswith("'")
    assert csv_text("\t=1") == r"\t=1"
    assert csv_text("a=1-2") == "a=1-2"

"""Attacks that are quickly tried; and what goes through is seen, on a stand-in that does everything wrong."""

import importlib
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="limits and witnesses are those of Linux"),
]


def load(name: str):
    return importlib.import_module(name)


@pytest.mark.parametrize("kind", ["models", "pictures", "backgrounds", "labels", "lists", "output folders", "streams"])
def test_no_attack_that_is_quickly_tried_goes_through(kind):
    load("attack")
    runner = load("parts.attack.run").Runner()
    tried = [each for each in load("parts.attack.cases").CASES if each.kind == kind and each.quick]
    assert tried
    verdicts = {each.name: runner.judge(each.make).through for each in tried}
    assert not any(verdicts.values()), verdicts


def drawn(prepare, cases: int, tmp_path: Path):
    watched = load("parts.watched")
    fuzz = watched.Fuzz("test", prepare, load("parts.attack.folders").changed_folders(), tmp_path / "keep")
    try:
        fuzz.block(0, cases, 0)
    finally:
        fuzz.watched.stop()
    return fuzz


def test_no_reader_of_results_leaves_a_folder_that_was_changed(tmp_path):
    folders = load("parts.attack.folders")
    fuzz = drawn(folders.reads(folders.EVERY), 12, tmp_path)
    assert fuzz.total == 12
    assert not fuzz.bad, fuzz.bad


def test_a_reader_that_goes_through_links_is_seen(tmp_path):
    assert "written or read outside the output folder" in drawn(load("parts.attack.folders").careless, 20, tmp_path).bad


MISDEEDS = {
    "spin": "s of the processor",
    "sleep": "sleeps",
    "eat": "more than 400 MB",
    "crash": "signal 6",
    "raise": "traceback",
    "be silent": "0 lines say why",
    "say it twice": "2 lines say why",
    "take another code": "exit code 7",
    "print colours": "control characters",
    "write outside": "outside/new",
    "write beside the input": "in/new is written",
    "change a file outside": "outside/secret",
    "read outside": "outside/secret is read",
    "read the system's": "opens /etc/passwd",
    "do nothing": "",
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_whatever_goes_through_is_seen(misdeed, monkeypatch):
    run = load("parts.attack.run")
    monkeypatch.setattr(run, "ASLEEP", 1.0)
    tried = run.Attack(((misdeed,),), (0, 1), seconds=0.5 if misdeed == "spin" else 10, memory=400 << 20)
    found = run.Runner("parts.attack.standin:main").judge(lambda place: tried).through
    assert MISDEEDS[misdeed] in found
    assert bool(found) == bool(MISDEEDS[misdeed])


VULNERABLE = {
    "a link to a file outside as .lock": "outside/secret is written",
    "a line whose map is '../outside/secret'": "outside/secret is read",
    "a preprocessed .npy of a pickle": "outside/pickled is written",
    "expected answers in a file: 100,000 brackets": "traceback",
    "a pipe as the labels": "sleeps",
    "a picture named '\\x1b[2J.png'": "control characters",
}


@pytest.mark.parametrize("name", VULNERABLE)
def test_attacks_go_through_where_a_program_trusts_its_files(name, monkeypatch):
    load("attack")
    run = load("parts.attack.run")
    monkeypatch.setattr(run, "ASLEEP", 1.0)
    (tried,) = [each for each in load("parts.attack.cases").CASES if each.name == name]
    assert VULNERABLE[name] in run.Runner("parts.attack.standin:main").judge(tried.make).through

"""tools/README.md and the folder: what can be run is listed, what is listed is there and says how it is used."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ROOT / "tools"
README = (TOOLS / "README.md").read_text(encoding="utf-8")
RUN = sorted(str(path.relative_to(TOOLS)) for folder in ("", "studies") for path in (TOOLS / folder).glob("*.py"))
# Where tools are named by their paths.
NAMING = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), ROOT / "Makefile"]


def test_every_tool_is_listed_once_and_every_listed_one_is_there():
    assert sorted(re.findall(r"^\| `([\w/]+\.py)` \|", README, re.M)) == RUN
    assert len(RUN) > 20


def test_every_row_is_whole():
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    heads = [line.count("|") for line in README.splitlines() if line.startswith("| tool |")]
    assert heads
    assert {row.count("|") for row in rows} == set(heads)
    assert not [row for row in rows if any(not cell.strip() for cell in row.strip("|").split("|"))]


def test_paths_of_tools_that_are_named_anywhere_are_there():
    named = {
        (page.name, path)
        for page in NAMING
        if page.name != "CHANGELOG.md"  # which tells of the past
        for path in re.findall(r"\btools/[\w/]+\.py\b", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert sorted((page, path) for page, path in named if not (ROOT / path).is_file()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="some watch processes by what Linux says of them")
@pytest.mark.parametrize("name", RUN)
def test_every_tool_says_how_it_is_used(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOLS / name), run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.casefold().startswith("usage: ")


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    return {
        name
        for node in found
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [part.name for part in node.names])
    }


def test_no_tool_is_a_part_of_another():
    tools = {path.stem for path in TOOLS.glob("*.py")}
    for path in TOOLS.rglob("*.py"):
        assert not imported(path) & tools, path
    assert imported(TOOLS / "studies" / "integrated.py") > {"first_light"}  # control: imports are found

"""Which versions pyproject.toml allows, and which constraints.txt pins."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text()
PAGE = (ROOT / "docs" / "versions.md").read_text()


@pytest.fixture
def tool() -> ModuleType:
    return importlib.import_module("check_versions")


def pins() -> dict[str, Version]:
    lines = map(Requirement, (ROOT / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(line.name): Version(str(line.specifier).removeprefix("==")) for line in lines}


def test_lower_bounds_are_those_that_stand_in_the_file(tool):
    found = tool.lower_bounds(PROJECT)
    # Read again, with the eye of a person: a name in quotes, >=, a version.
    written = dict(re.findall(r'"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)', PROJECT.partition("[project]")[2]))
    assert {"onnx", "numpy", "click", "pydantic", "distributed", "pytest"} < set(found)
    assert found.items() <= written.items()
    assert set(written) - set(found) <= {"onnxruntime", "onnxruntime-gpu"}
    assert len({"onnxruntime", "onnxruntime-gpu"} & set(found)) == 1


def test_what_is_pinned_is_allowed_and_nothing_is_left_open(tool):
    pinned, found = pins(), tool.lower_bounds(PROJECT)
    assert {name for name, bound in found.items() if pinned.get(name, Version("0")) < Version(bound)} <= {"onnxruntime"}


@pytest.mark.parametrize(
    ("dependencies", "words"),
    [
        ('"numpy"', "say one lower bound"),
        ('"numpy>2"', "say one lower bound"),
        ('"numpy>=2,<3"', "say one lower bound"),
        ('"numpy>=2", "NumPy>=3"', "say the same"),
    ],
)
def test_bounds_that_cannot_be_tried_are_refused(tool, dependencies, words):
    text = f'[project]\nname = "x"\ndependencies = [{dependencies}]\noptional-dependencies = {{}}\n'
    with pytest.raises(ValueError, match=words):
        tool.lower_bounds(text)
    assert tool.lower_bounds(text.replace(dependencies, '"numpy>=2", "x[a]", "y; sys_platform == \'none\'"')) == {
        "numpy": "2"
    }


def test_the_page_has_what_is_allowed_now(tool):
    oldest = PAGE.partition("\n## Oldest\n")[2].partition("\n## ")[0]
    assert "failed" not in oldest
    tried = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|$", oldest, re.M))
    other = {
        name for name, bound in tool.lower_bounds(PROJECT).items() if Version(tried.get(name, "0")) != Version(bound)
    }
    assert other <= {"onnxruntime"}  # on this machine, if the page is from one with the other build


def test_files_of_the_core_are_there(tool):
    assert [name for name in tool.CORE if not (ROOT / "tests" / f"test_{name}.py").exists()] == []

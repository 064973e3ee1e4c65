"""Who may import whom, read from the source: the mathematics knows no ONNX, each library has one home."""

import ast
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "onnx_evidence"
FOLDER = Path(__file__).parent.parent / PACKAGE
# Lines of code: docstrings and comments are what readers are glad of.
LONGEST = 300

# The home of each library; what is not listed here nor in EVERYWHERE may not be imported at all.
HOMES = {
    "onnx": {
        "arranging",
        "axes.reading",
        "axes.sweep",
        "cells",
        "counting.held",
        "counting.reckoning",
        "counting.turns",
        "counting.walk",
        "counting.work",
        "deployed",
        "fields",
        "graph",
        "intake.append",
        "intake.batch",
        "intake.blocked",
        "intake.branches",
        "intake.canonical",
        "intake.codes",
        "intake.deployed_file",
        "intake.dialect",
        "intake.endings",
        "intake.entry",
        "intake.external",
        "intake.fused",
        "intake.inside",
        "intake.outputs",
        "intake.peek",
        "intake.picturewise",
        "intake.probe",
        "intake.proof",
        "intake.qoperator",
        "intake.ranges",
        "intake.reach",
        "intake.read",
        "intake.refusals",
        "intake.renamed",
        "intake.rewrite",
        "intake.sizes",
        "intake.standard",
        "intake.take_in",
        "intake.trial",
        "intake.tried",
        "intake.unsteady",
        "intake.vendor",
        "intake.winners",
        "kernels",
        "model",
        "nodes",
        "parts",
        "randomise",
        "runtime",
        "shapes",
        "vjp.attention",
        "vjp.build",
        "vjp.elementwise",
        "vjp.indexing",
        "vjp.modern",
        "vjp.normalization",
        "vjp.pooling",
        "vjp.reduction",
        "vjp.sampling",
        "vjp.shaping",
        "vjp.step",
        "vjp.tape",
    },
    "onnxruntime": {"runtime", "vjp.shaping"},  # the latter asks what the matrix of a Resize is
    "cv2": {"opencv"},
    "PIL": {"pictures.pillow"},
    "matplotlib": {"render", "explanation", "evaluation.figure"},  # explanation names the type of a figure, see below
    "click": {"cli", "cli_batch", "options", "options_methods"},
    "tqdm": {"cli", "cli_batch", "options"},
    "pydantic_core": {"batch.journal"},
    "pydantic": {"preprocessing.contract", "background_file", "batch.receipt", "batch.reopen"},
    "google": {"intake.read"},
    "distributed": {"batch.cluster"},
}
EVERYWHERE = {"numpy"}
ABSENT = {"torch", "torchvision", "tensorflow", "keras", "jax", "scipy", "skimage", "pandas"}

# The mathematics: numpy alone, and inside the package only each other.
MATHEMATICS = {
    "types",
    "errors",
    "rng",
    "evidence",
    "class_kind",
    "windows",
    "background",
    "geometry",
    "samplers",
    "difference",
    "intervals",
    "sequential",
    "score",
    "path",
    "attribution",
    "masking",
    "resample",
    "preprocessing.pil",
    "ordering",
    "evaluation.flipping",
    "evaluation.measures",
    "evaluation.bootstrap",
}
# What knows no model, in whatever form.
NO_MODEL = {"graph", "model", "parts", "vjp", "vjp.build", "runtime", "deployed", "pipeline", "images", "store"}
# What a module may never import, even through others.
UNREACHABLE = {
    "difference": NO_MODEL,
    "evidence": NO_MODEL,
    "score": NO_MODEL | {"samplers", "background", "windows"},
    "path": NO_MODEL | {"samplers", "background", "windows"},
    "attribution": NO_MODEL | {"samplers", "background", "windows"},
    "masking": NO_MODEL | {"samplers", "background", "windows"},
    "ordering": NO_MODEL | {"samplers", "background", "windows", "score", "masking"},
    # The file is run while it is taken in, to prove its canonical form; graph and parts themselves run nothing.
    "graph": {"deployed", "pipeline", "images"},
    "parts": {"graph", "deployed", "pipeline", "images", "vjp"},
    # The backward graph is made from any forward one, and knows neither what it is for nor what runs it.
    "vjp": {"runtime", "pipeline", "images", "graph", "model", "parts", "deployed", "score", "path"},
    # An engine knows no other one.
    "removal": {"integration", "slopes", "masked", "ordered", "attribution", "baselines", "pipeline", "render"},
    "integration": {"removal", "slopes", "masked", "ordered", "attribution", "pipeline", "render"},
    "slopes": {"removal", "integration", "masked", "ordered", "pipeline", "render"},
    "masked": {"removal", "integration", "slopes", "ordered", "attribution", "pipeline", "render"},
    "ordered": {"removal", "integration", "slopes", "masked", "attribution", "pipeline", "render"},
    "runtime": {"graph", "model", "pipeline", "vjp"},
    "projection": {"graph", "model", "runtime", "pipeline"},
    "receptive": {"graph", "model", "runtime", "pipeline"},
    # Taking a file in may feed noise, and knows no photographs.
    "preprocessing.synthetic": NO_MODEL,
    "render": {"pipeline", "graph", "model", "runtime"},
    "store": {"pipeline", "graph", "model", "runtime", "images"},
}


class Source:
    """What one module imports, from its syntax tree; imports for type checkers only are kept apart."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.tree = name, ast.parse(text)
        self.inside: set[str] = set()
        self.outside: set[str] = set()
        self.outside_for_types: set[str] = set()
        self.relative = False
        for_types = {
            id(statement)
            for branch in ast.walk(self.tree)
            if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
            for inner in branch.body
            for statement in ast.walk(inner)
        }
        for statement in ast.walk(self.tree):
            for module in self._modules(statement):
                self._note(module, typing_only=id(statement) in for_types)

    def _modules(self, statement: ast.AST) -> list[str]:
        if isinstance(statement, ast.Import):
            return [alias.name for alias in statement.names]
        if isinstance(statement, ast.ImportFrom):
            self.relative |= statement.level > 0
            if statement.module in (PACKAGE, *(f"{PACKAGE}.{folder}" for folder in _folders())):
                return [self._of_package(statement.module, alias.name) for alias in statement.names]
            return [statement.module or ""]
        if isinstance(statement, ast.Call) and ast.unparse(statement.func) in ("__import__", "importlib.import_module"):
            return ["dynamic"]
        return []

    def _of_package(self, package: str, name: str) -> str:
        """A module of a package, or the sub-package itself where the name is something that it defines."""
        module = f"{package}.{name}"
        return module if package == PACKAGE or module.partition(".")[2] in names() else package

    def _note(self, module: str, *, typing_only: bool) -> None:
        root, _, rest = module.partition(".")
        if root == PACKAGE:
            if not typing_only:
                self.inside.add(rest or "__init__")
        elif typing_only:
            self.outside_for_types.add(root)
        else:
            self.outside.add(root)


def dotted(path: Path) -> str:
    """The name of a module inside the package: 'graph', 'vjp.tape'; 'vjp' for the sub-package itself."""
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def file_of(name: str) -> Path:
    """The file of a module."""
    path = FOLDER.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def names() -> frozenset[str]:
    """All modules of the package."""
    return frozenset(dotted(path) for path in FOLDER.rglob("*.py"))


def _folders() -> set[str]:
    return {name.partition(".")[0] for name in names() if "." in name}


@cache
def _sources() -> dict[str, Source]:
    return {name: Source(name, file_of(name).read_text(encoding="utf-8")) for name in sorted(names())}


def read() -> dict[str, Source]:
    """The modules of the package, in a dictionary of one's own."""
    return dict(_sources())


def reach(sources: dict[str, Source], name: str) -> set[str]:
    """Modules that a module imports, directly or through others."""
    found: set[str] = set()
    waiting = [*sources[name].inside]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += sources[module].inside
    return found


def broken_by(source: Source, modules: set[str]) -> list[str]:
    """Rules that one module breaks by itself, in words."""
    third_party = (source.outside | source.outside_for_types) - sys.stdlib_module_names
    found = [
        f"{source.name} imports {library}"
        for library in sorted(third_party - EVERYWHERE)
        if source.name not in HOMES.get(library, ())
    ]
    if source.relative:
        found.append(f"{source.name} imports relatively")
    if unknown := source.inside - modules:
        found.append(f"{source.name} imports what is not there: {sorted(unknown)}")
    if source.name != "__main__" and "cli" in source.inside:
        found.append(f"{source.name} imports cli")
    if source.name not in ("cli", "cli_batch", "options_methods") and "options" in source.inside:
        found.append(f"{source.name} imports options")
    if source.name not in ("__main__", "cli") and "__init__" in source.inside:
        found.append(f"{source.name} imports the package as a whole")
    return found


def violations(sources: dict[str, Source]) -> list[str]:
    """Every broken rule, in words; what modules reach is only asked where each imports what it may."""
    found = [line for source in sources.values() for line in broken_by(source, set(sources))]
    if found:
        return found
    for name in sorted(MATHEMATICS):
        if outside := reach(sources, name) - MATHEMATICS:
            found.append(f"{name} is mathematics and reaches {sorted(outside)}")
    for name, forbidden in UNREACHABLE.items():
        if reached := {module for module in reach(sources, name) if forbidden & {module, module.partition(".")[0]}}:
            found.append(f"{name} reaches {sorted(reached)}")
    try:
        TopologicalSorter({name: source.inside for name, source in sources.items()}).prepare()
    except CycleError as error:
        found.append(f"cycle: {' -> '.join(error.args[1])}")
    return found


def test_nobody_imports_what_is_not_theirs():
    sources = read()
    assert MATHEMATICS | set(UNREACHABLE) | set().union(*HOMES.values()) <= set(sources), "a rule names no module"
    assert len(sources) > 30
    assert violations(sources) == []


def test_the_table_of_methods_imports_nothing():
    source = read()["methods"]
    assert (source.inside, source.outside) == (set(), {"dataclasses"})


def test_every_home_is_lived_in():
    sources = read()
    for library, homes in HOMES.items():
        for home in homes:
            assert library in sources[home].outside | sources[home].outside_for_types, f"{home}: {library}"


PLANTED = [
    ("evidence", "import onnx", "evidence imports onnx"),
    ("difference", "from onnxruntime import InferenceSession", "difference imports onnxruntime"),
    ("windows", "import cv2", "windows imports cv2"),
    ("pipeline", "from matplotlib.figure import Figure", "pipeline imports matplotlib"),
    ("output", "import click", "output imports click"),
    ("settings", "import pydantic", "settings imports pydantic"),
    ("fit", "def f():\n    import torch", "fit imports torch"),
    ("images", "from PIL import Image", "images imports PIL"),
    ("pictures.tiff", "from PIL import Image", "pictures.tiff imports PIL"),
    ("background", "import scipy.linalg", "background imports scipy"),
    ("model", "from . import graph", "model imports relatively"),
    ("output", "from onnx_evidence import cli", "output imports cli"),
    ("fit", "from onnx_evidence.cli import main", "fit imports cli"),
    ("output", "from onnx_evidence.options import PATH", "output imports options"),
    ("fit", "import onnx_evidence", "fit imports the package as a whole"),
    (
        "fit",
        "from importlib import import_module\nimport importlib\nimportlib.import_module('x')",
        "fit imports dynamic",
    ),
    ("fit", "from onnx_evidence.absent import x", "fit imports what is not there: ['absent']"),
    ("evidence", "from onnx_evidence.preprocessing.contract import Preprocess", "evidence is mathematics and reaches"),
    ("difference", "from onnx_evidence.runtime import Session", "difference reaches ['runtime']"),
    ("render", "def f():\n    from onnx_evidence.pipeline import Explainer", "render reaches"),
    ("model", "from onnx_evidence.graph import Graph", "cycle: "),
    ("path", "import onnx", "path imports onnx"),
    ("masking", "import cv2", "masking imports cv2"),
    ("masked", "from onnx_evidence.removal import RemovalEngine", "masked reaches ["),
    ("ordering", "from onnx_evidence.settings import Settings", "ordering is mathematics and reaches"),
    ("ordered", "from onnx_evidence.integration import PathEngine", "ordered reaches ["),
    ("integration", "from onnx_evidence.ordered import OrderEngine", "integration reaches ["),
    ("methods", "from onnx_evidence.settings import Settings", "cycle: "),
    ("path", "from onnx_evidence.preprocessing.contract import Preprocess", "path is mathematics and reaches"),
    ("score", "from onnx_evidence.vjp.tape import Tape", "score reaches ['vjp.tape']"),
    ("attribution", "from onnx_evidence.vjp import build_vjp", "attribution reaches ['vjp', 'vjp.attention'"),
    ("path", "from onnx_evidence import vjp", "path reaches ['vjp', 'vjp.attention'"),
    ("vjp.linear", "import onnx", "vjp.linear imports onnx"),
    ("vjp.tape", "from . import table", "vjp.tape imports relatively"),
    ("vjp.table", "from onnx_evidence.vjp.absent import x", "vjp.table imports what is not there: ['vjp.absent']"),
    ("vjp.build", "from onnx_evidence.runtime import Session", "vjp reaches ['runtime']"),
    ("vjp.shaping", "from onnx_evidence.graph import Graph", "vjp reaches ['graph', "),
    ("vjp.tape", "from onnx_evidence.vjp import table", "cycle: "),
    ("runtime", "from onnx_evidence.vjp import build_vjp", "runtime reaches ['vjp', "),
    ("removal", "from onnx_evidence.integration import PathEngine", "removal reaches ["),
]


@pytest.mark.parametrize(("name", "line", "complaint"), PLANTED, ids=[complaint for _, _, complaint in PLANTED])
def test_control_a_planted_import_is_caught(name: str, line: str, complaint: str):
    sources = read()
    text = file_of(name).read_text(encoding="utf-8")
    sources[name] = Source(name, f"{text}\n{line}\n")
    assert any(found.startswith(complaint) for found in violations(sources))


def test_frameworks_of_training_are_named_nowhere_in_the_package_or_its_dependencies():
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    assert len(wanted) > 8
    for line in wanted:
        for library in ABSENT | {"opencv-python>", "opencv-python="}:
            assert not line.casefold().startswith(library.casefold()), line


def test_every_package_is_installed():
    listed = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert set(listed["packages"]) == {PACKAGE, *(f"{PACKAGE}.{folder}" for folder in _folders())}


def test_pictures_are_drawn_without_pyplot_and_only_when_asked_for():
    sources = read()
    modules = {
        module
        for statement in ast.walk(sources["render"].tree)
        if isinstance(statement, ast.ImportFrom | ast.Import)
        for module in sources["render"]._modules(statement)
    }
    assert "matplotlib.figure" in modules
    assert not any("pyplot" in module for module in modules)
    assert "matplotlib" not in sources["explanation"].outside
    # `render` is imported inside functions alone.
    for name, source in sources.items():
        top = [item for item in source.tree.body if isinstance(item, ast.ImportFrom)]
        assert all(item.module != f"{PACKAGE}.render" for item in top), name


def undocumented(source: Source) -> list[str]:
    """Public modules, classes, functions and methods without a docstring."""
    found = [] if ast.get_docstring(source.tree) else [source.name]

    def visit(owner: ast.Module | ast.ClassDef, prefix: str) -> None:
        for item in owner.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                if item.name.startswith("_"):
                    continue
                if not ast.get_docstring(item):
                    found.append(f"{prefix}.{item.name}")
                if isinstance(item, ast.ClassDef):
                    visit(item, f"{prefix}.{item.name}")

    visit(source.tree, source.name)
    return found


def test_everything_public_has_a_docstring():
    assert [name for source in read().values() for name in undocumented(source)] == []


def test_control_what_lacks_a_docstring_is_found():
    text = (
        '"""m."""\nclass A:\n    """a."""\n    def f(self): ...\n    def _g(self): ...\n\ndef h(): ...\nclass B: ...\n'
    )
    assert undocumented(Source("m", text)) == ["m.A.f", "m.h", "m.B"]
    assert undocumented(Source("m", "x = 1")) == ["m"]


def lines_of_code(text: str) -> int:
    """Lines that hold code, without docstrings, comments and empty ones."""
    tree = ast.parse(text)
    documented = {
        line
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return sum(number not in documented and bool(line.split("#")[0].strip()) for number, line in lines)


def test_no_module_is_longer_than_a_reader_bears():
    lengths = {name: lines_of_code(file_of(name).read_text(encoding="utf-8")) for name in names()}
    assert len(lengths) > 30
    assert "vjp.tape" in lengths
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}

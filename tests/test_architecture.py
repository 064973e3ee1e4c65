"""Who may import whom, read from the source: rooms and their doors, and the one home of each library."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

from onnx_evidence.methods import METHODS

PACKAGE = "onnx_evidence"
FOLDER = Path(__file__).parent.parent / PACKAGE
# Lines of code: docstrings and comments are what readers are glad of.
LONGEST = 400
MOST_AT_TOP, MOST_ROOMS = 6, 21
# What stands above all rooms.
ENTRANCES = ("__init__", "__main__")

# The home of each library; what is not listed here nor in EVERYWHERE may not be imported at all.
HOMES = {
    "onnx": {
        "axes.reading",
        "axes.sweep",
        "counting.held",
        "counting.reckoning",
        "counting.turns",
        "counting.walk",
        "counting.work",
        "cuts.arranging",
        "cuts.cells",
        "cuts.graph",
        "cuts.parts",
        "deployed",
        "evaluation.randomise",
        "export.arithmetic",
        "export.build",
        "export.check",
        "export.dialect",
        "export.evidence",
        "export.file",
        "export.parts",
        "export.pictures",
        "export.placing",
        "export.proof",
        "export.resampling",
        "export.selftest",
        "graphs.apart",
        "graphs.fields",
        "graphs.net",
        "graphs.nodes",
        "graphs.shapes",
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
        "intake.exported",
        "intake.external",
        "intake.fused",
        "intake.inside",
        "intake.model",
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
        "intake.sizes",
        "intake.standard",
        "intake.take_in",
        "intake.trial",
        "intake.tried",
        "intake.unsteady",
        "intake.vendor",
        "intake.winners",
        "sessions.bfloat16",
        "sessions.device",
        "sessions.kernels",
        "sessions.limit",
        "sessions.runtime",
        "vjp.attention",
        "vjp.build",
        "vjp.elementwise",
        "vjp.indexing",
        "vjp.modern",
        "vjp.normalization",
        "vjp.pooling",
        "vjp.relevance",
        "vjp.telling",
        "vjp.reduction",
        "vjp.sampling",
        "vjp.shaping",
        "vjp.step",
        "vjp.tape",
        "vjp.written",
    },
    "onnxruntime": {
        "sessions.bfloat16",
        "sessions.device",
        "sessions.runtime",
        "vjp.shaping",
    },  # the latter asks what the matrix of a Resize is
    "cv2": {"pictures.opencv"},
    "PIL": {"pictures.pillow"},
    "matplotlib": {
        "evaluation.figure",
        "evaluation.links_figure",
        "results.explanation",
        "results.figure",
        "results.sheet",
    },  # explanation names the type of a figure, see below
    "click": {"cli.batch", "cli.commands", "cli.exporting", "cli.group", "cli.options", "cli.options_methods"},
    "tqdm": {"cli.batch", "cli.commands", "cli.options"},
    "platformdirs": {"files.cache"},
    "pydantic_core": {"batch.journal"},
    "pydantic": {"batch.receipt", "batch.reopen", "methods.background_file", "preprocessing.contract"},
    "google": {"export.file", "intake.read", "vjp.written"},
    "distributed": {"batch.cluster"},
}
EVERYWHERE = {"numpy"}
ABSENT = {"torch", "torchvision", "tensorflow", "keras", "jax", "scipy", "skimage", "pandas"}

# The mathematics: numpy alone, and inside the package only each other.
MATHEMATICS = {
    "types",
    "errors",
    "evidence",
    "preprocessing.pil",
    "evaluation.flipping",
    "evaluation.measures",
    "evaluation.bootstrap",
}
_DRAWN = {"evidence.samplers", "evidence.background", "evidence.windows"}
# What families of methods were or might be called, besides the methods' own names.
_KINDS = set("path removal slope slopes mask masks order".split())
# What a module may never import, even through others in its room; what rooms may import is said at their doors.
UNREACHABLE = {
    "cuts.parts": {"cuts.graph"},
    "evidence.odds": _DRAWN,
    "evidence.score": _DRAWN,
    "evidence.path": _DRAWN,
    "evidence.attribution": _DRAWN,
    "evidence.masks": _DRAWN,
    "evidence.order": _DRAWN | {"evidence.score", "evidence.masks"},
}
# What tells those outside of a room how to use a thing; inside of it one sentence does.
SECTIONS = ("Parameters", "Returns", "Yields", "Raises", "Examples")
# Rooms whose insides are documented in full: the mathematics, and what is an entrance itself.
TOLD_IN_FULL = {"evidence", "deployed", "errors", "explainer", "types", *ENTRANCES}


class Source:
    """What one module imports, from its syntax tree; imports for type checkers only are kept apart."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.tree = name, ast.parse(text)
        self.room = name.partition(".")[0]
        self.inside: set[str] = set()
        self.outside: set[str] = set()
        self.outside_for_types: set[str] = set()
        # Of other rooms: the module named, and what is taken from it.
        self.entered: list[tuple[str, str]] = []
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
            return self._taken(statement.module or "", [alias.name for alias in statement.names])
        if isinstance(statement, ast.Call) and ast.unparse(statement.func) in ("__import__", "importlib.import_module"):
            return ["dynamic"]
        return []

    def _taken(self, module: str, taken: list[str]) -> list[str]:
        """The modules that an import names: those taken from a folder, or the folder's door where it is no module."""
        root, _, inner = module.partition(".")
        if root != PACKAGE:
            return [module]
        room = inner.partition(".")[0]
        if room and room != self.room:
            self.entered += [(inner, name) for name in taken]
            return [module]
        return [f"{module}.{name}" if f"{inner}.{name}".lstrip(".") in names() else module for name in taken]

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
    """The name of a module inside the package: 'deployed', 'vjp.tape'; 'vjp' for the folder's door."""
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


class Door:
    """What a room says of itself: who imports it, what it gives, and what is entered past it for a reason."""

    def __init__(self, source: Source) -> None:
        said = " ".join((ast.get_docstring(source.tree) or "").split())
        users = re.search(r"Imported by: ([a-z_, ]+)\.", said)
        alone = re.search(r"Entered on its own, because [^:]+: ([a-z_, ]+)\.", said)
        self.users = set(users[1].split(", ")) if users else set()
        self.alone = set(alone[1].split(", ")) if alone else set()
        self.names = {
            name
            for statement in source.tree.body
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
            for name in ast.literal_eval(statement.value)
        }


def rooms(sources: dict[str, Source]) -> dict[str, set[str]]:
    """By room, the rooms that it imports."""
    found: dict[str, set[str]] = {}
    for source in sources.values():
        if source.room not in ENTRANCES:
            others = {module.partition(".")[0] for module in source.inside} - {source.room, *ENTRANCES}
            found.setdefault(source.room, set()).update(others)
    return found


def reach(sources: dict[str, Source], name: str) -> set[str]:
    """Modules that a module imports, directly or through others; a folder's own door is not gone through."""
    found: set[str] = set()
    waiting = [*sources[name].inside]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += sources[module].inside if module in sources else ()
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
    if source.name not in ENTRANCES and source.room != "cli" and "__init__" in source.inside:
        found.append(f"{source.name} imports the package as a whole")
    return found


def past_doors(sources: dict[str, Source]) -> list[str]:
    """Imports of another room's inside, or of what its door does not name."""
    doors = {name: Door(source) for name, source in sources.items() if "." not in name}
    found = []
    for source in sources.values():
        for module, name in source.entered:
            room, _, inner = module.partition(".")
            if inner and inner not in doors[room].alone:
                found.append(f"{source.name} goes past the door of {room}: {inner}")
            elif not inner and room in _folders() and name not in doors[room].names:
                found.append(f"{source.name} takes {name}, which is not at the door of {room}")
    return found


def violations(sources: dict[str, Source]) -> list[str]:
    """Every broken rule, in words; what modules reach is only asked where each imports what it may."""
    found = [line for source in sources.values() for line in broken_by(source, set(sources))]
    found = found or past_doors(sources)
    return found or between_rooms(sources) + far_reaches(sources)


def between_rooms(sources: dict[str, Source]) -> list[str]:
    """Rooms that import others which do not name them, and imports in circles."""
    found, between = [], rooms(sources)
    for room, others in between.items():
        for other in sorted(others):
            if room not in Door(sources[other]).users:
                found.append(f"{room} imports {other}, whose door does not name it")
    for graph in (between, {name: source.inside for name, source in sources.items()}):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            found.append(f"cycle: {' -> '.join(error.args[1])}")
    return found


def families_of(sources: dict[str, Source]) -> set[str]:
    """The files of methods: those in the table."""
    return sources["methods.table"].inside - {"methods.method"}


def far_reaches(sources: dict[str, Source]) -> list[str]:
    """What modules reach through others and should not."""
    found = []
    for name in sorted(name for name in sources if {name, name.partition(".")[0]} & MATHEMATICS):
        reached = reach(sources, name)
        if outside := {module for module in reached if not {module, module.partition(".")[0]} & MATHEMATICS}:
            found.append(f"{name} is mathematics and reaches {sorted(outside)}")
    families = families_of(sources)
    apart = {name: families - {name} | {"methods.table", "methods.preparation"} for name in sorted(families)}
    for name, forbidden in {**UNREACHABLE, **apart}.items():
        if reached := reach(sources, name) & forbidden:
            found.append(f"{name} reaches {sorted(reached)}")
    return found


def test_nobody_imports_what_is_not_theirs():
    sources = read()
    assert MATHEMATICS | set(UNREACHABLE) | set().union(*HOMES.values()) <= set(sources), "a rule names no module"
    assert len(sources) > 30
    assert violations(sources) == []


def test_the_house_has_few_rooms_and_little_at_the_top():
    at_top = {path.name for path in FOLDER.glob("*.py")}
    assert len(at_top) <= MOST_AT_TOP, sorted(at_top)
    assert len(rooms(read())) <= MOST_ROOMS


def test_doors_name_who_comes_in_and_what_is_taken():
    sources = read()
    between = rooms(sources)
    for room in between:
        door = Door(sources[room])
        assert door.users == {other for other, used in between.items() if room in used} or room == "cli", room
        taken = {name for source in sources.values() for module, name in source.entered if module == room}
        if room in _folders() and room != "cli":
            unused = door.names - taken
            assert not unused, f"{room}: nobody takes {sorted(unused)}"


def test_the_table_of_methods_is_a_list_of_what_is_in_their_files():
    source = read()["methods.table"]
    assert families_of(read()) >= {f"methods.{name}" for name in ("path", "order", "removal", "slopes", "masks")}
    assert {module.partition(".")[0] for module in source.inside} == {"methods"}
    assert source.outside == set()
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Call) for node in ast.walk(source.tree))


def asked_by_name(source: Source) -> list[str]:
    """Where a method is known by its name, or by its family's, and not by what it says of itself."""
    found = []
    for node in ast.walk(source.tree):
        names: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            names = [each for side in sides for each in getattr(side, "elts", [side])]
        elif isinstance(node, ast.MatchValue):
            names = [node.value]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).split(".")[-1] == "METHODS":
            names = [node.slice]
        elif isinstance(node, ast.Dict) and len(_words(node.keys) & set(METHODS)) > 1:
            names = [*node.keys]
        found += [f"{source.name} asks for {word!r}" for word in sorted(_words(names) & (set(METHODS) | _KINDS))]
    return found


def _words(nodes: Iterable[ast.expr | None]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_nobody_asks_for_a_method_by_its_name():
    assert [line for source in read().values() for line in asked_by_name(source)] == []


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("smooth = settings.method == 'smoothgrad'", "smoothgrad"),
        ("one = kind in ('mask', SLOPE)", "mask"),
        ("size = methods.METHODS['pda'].window", "pda"),
        ("match name:\n    case 'rise':\n        pass", "rise"),
        ("passes = {'rise': 4000, 'score-cam': 320}[name]", "rise"),
    ],
)
def test_control_a_method_that_is_asked_for_by_its_name_is_found(line: str, word: str):
    assert f"x asks for {word!r}" in asked_by_name(Source("x", line))
    assert asked_by_name(Source("x", "{'window': 3}, name == 'other', METHODS[name], {'other': 1}['other']")) == []


def test_every_home_is_lived_in():
    sources = read()
    for library, homes in HOMES.items():
        for home in homes:
            assert library in sources[home].outside | sources[home].outside_for_types, f"{home}: {library}"


PLANTED = [
    ("evidence.odds", "import onnx", "evidence.odds imports onnx"),
    ("evidence.difference", "from onnxruntime import InferenceSession", "evidence.difference imports onnxruntime"),
    ("evidence.windows", "import cv2", "evidence.windows imports cv2"),
    ("explainer", "from matplotlib.figure import Figure", "explainer imports matplotlib"),
    ("results.figure", "import click", "results.figure imports click"),
    ("methods.settings", "import pydantic", "methods.settings imports pydantic"),
    ("methods.fit", "def f():\n    import torch", "methods.fit imports torch"),
    ("pictures.photograph", "from PIL import Image", "pictures.photograph imports PIL"),
    ("pictures.tiff", "from PIL import Image", "pictures.tiff imports PIL"),
    ("evidence.background", "import scipy.linalg", "evidence.background imports scipy"),
    ("intake.model", "from . import outputs", "intake.model imports relatively"),
    ("methods.fit", "from onnx_evidence.cli import main", "methods imports cli, whose door does not name it"),
    ("methods.fit", "import onnx_evidence", "methods.fit imports the package as a whole"),
    (
        "methods.fit",
        "from importlib import import_module\nimport importlib\nimportlib.import_module('x')",
        "methods.fit imports dynamic",
    ),
    ("methods.fit", "from onnx_evidence.absent import x", "methods.fit imports what is not there: ['absent']"),
    ("methods.fit", "from onnx_evidence.cuts.graph import Cut", "methods.fit goes past the door of cuts: graph"),
    ("methods.fit", "from onnx_evidence.cuts import part", "methods.fit takes part, which is not at the door of cuts"),
    ("evidence.odds", "from onnx_evidence.preprocessing import Preprocess", "evidence imports preprocessing, whose"),
    ("evidence.odds", "from onnx_evidence.preprocessing import Preprocess", "evidence.odds is mathematics and"),
    ("evidence.difference", "from onnx_evidence.sessions import Session", "evidence imports sessions, whose door"),
    ("results.figure", "def f():\n    from onnx_evidence.explainer import Explainer", "results imports explainer"),
    ("intake.model", "from onnx_evidence.cuts import Graph", "cycle: "),
    ("methods.masks", "from onnx_evidence.methods.removal import RemovalEngine", "methods.masks reaches ["),
    ("methods.order", "from onnx_evidence.methods.path import PathEngine", "methods.order reaches ["),
    ("methods.path", "from onnx_evidence.methods.order import OrderEngine", "methods.path reaches ["),
    ("methods.settings", "from onnx_evidence.methods.table import METHODS", "cycle: "),
    ("evidence.order", "from onnx_evidence.evidence.masks import Parts", "evidence.order reaches ["),
    ("evaluation.flipping", "from onnx_evidence.explainer import Explainer", "evaluation.flipping is mathematics and"),
    ("vjp.linear", "import onnx", "vjp.linear imports onnx"),
    ("vjp.tape", "from . import table", "vjp.tape imports relatively"),
    ("vjp.table", "from onnx_evidence.vjp.absent import x", "vjp.table imports what is not there: ['vjp.absent']"),
    ("vjp.build", "from onnx_evidence.sessions import Session", "vjp imports sessions, whose door does not name it"),
    ("vjp.tape", "from onnx_evidence.vjp import table", "cycle: "),
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
    drawing = {"results.figure", "results.sheet", "evaluation.figure", "evaluation.links_figure"}
    for name in drawing:
        modules = {
            module
            for statement in ast.walk(sources[name].tree)
            if isinstance(statement, ast.ImportFrom | ast.Import)
            for module in sources[name]._modules(statement)
        }
        assert "matplotlib.figure" in modules
        assert not any("pyplot" in module for module in modules)
    assert "matplotlib" not in sources["results.explanation"].outside
    # They are imported inside functions alone, but by each other.
    for name, source in sources.items():
        top = {item.module for item in source.tree.body if isinstance(item, ast.ImportFrom)}
        assert name in drawing or not top & {f"{PACKAGE}.{module}" for module in drawing}, name


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


def given_of(source: Source, door: Source) -> set[str]:
    """Names of a module that the door of its room gives."""
    taken = {
        alias.name
        for statement in door.tree.body
        if isinstance(statement, ast.ImportFrom) and statement.module == f"{PACKAGE}.{source.name}"
        for alias in statement.names
    }
    return taken & Door(door).names


def sections_of(item: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The sections of a docstring that are for those outside."""
    lines = (ast.get_docstring(item) or "").split("\n")
    return [line for line, rule in pairwise(lines) if line in SECTIONS and rule and not rule.strip("-")]


def told_inside(source: Source, given: set[str]) -> list[str]:
    """Classes, functions and methods with such sections that nobody outside sees, and that are no protocol."""
    found = []

    def visit(owner: ast.AST, prefix: str, inner: set[str] | None) -> None:
        """``inner`` are the names in it that are seen outside; None for all but private ones."""
        for item in ast.iter_child_nodes(owner):
            if not isinstance(item, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                visit(item, prefix, inner)
                continue
            name = f"{prefix}.{item.name}"
            private = item.name.startswith("_") and not item.name.endswith("__")
            is_class = isinstance(item, ast.ClassDef)
            protocol = is_class and any(ast.unparse(base) in ("Protocol", "ABC") for base in item.bases)
            seen = protocol or (not private if inner is None else item.name in inner)
            if not seen:
                found.extend(f"{name}: {section}" for section in sections_of(item))
            visit(item, name, None if is_class and seen else set())

    visit(source.tree, source.name, given)
    return found


def told_in_rooms(sources: dict[str, Source]) -> dict[str, list[str]]:
    """By module, what its inside says in sections."""
    inside = {name: source for name, source in sources.items() if source.room not in TOLD_IN_FULL}
    return {name: told_inside(source, given_of(source, sources[source.room])) for name, source in inside.items()}


def test_inside_rooms_one_sentence_says_what_a_function_does():
    told = told_in_rooms(read())
    assert len(told) > 100
    assert {name: found for name, found in told.items() if found} == {}


def test_control_a_section_inside_a_room_is_found():
    lines = ["One.", "", "Parameters", "----------", "path : Path", "", "Raises", "------", "E", ""]

    def told(head: str, indent: str = "") -> str:
        said = "\n".join(f"{indent}    {line}".rstrip() for line in lines).lstrip()
        return f'{indent}{head}:\n{indent}    """{said}{indent}    """\n'

    def found(text: str, *given: str) -> list[str]:
        return told_inside(Source("m.a", text), set(given))

    assert found(told("def f()"), "g") == ["m.a.f: Parameters", "m.a.f: Raises"]
    assert found("if x:\n" + told("async def f()", "    "), "g") == ["m.a.f: Parameters", "m.a.f: Raises"]
    assert found(told("def f()"), "f") == []
    assert found('def f():\n    """One.\n\n    Notes\n    -----\n    Two.\n    """\n') == []
    # Nobody outside sees what is in a function; of a class at the door they see methods that are not private.
    assert found("def g():\n" + told("def f()", "    "), "g", "f") == ["m.a.g.f: Parameters", "m.a.g.f: Raises"]
    methods = "".join(told(f"def {name}(self)", "    ") for name in ("f", "__call__", "_f"))
    private = ["m.a.C._f: Parameters", "m.a.C._f: Raises"]
    assert found("class C:\n" + methods, "C") == found("class C(Protocol):\n" + methods) == private
    assert len(found("class C:\n" + methods, "f")) == 6


def test_control_a_section_planted_in_a_room_is_found():
    sources = read()
    for name, door in (("files.inside", "open_inside"), ("batch.loop", "run_jobs")):
        text = file_of(name).read_text(encoding="utf-8")
        assert f"def {door}(" in text
        sources[name] = Source(name, text.replace(f"def {door}(", f"def {door}_(", 1))
    told = told_in_rooms(sources)
    assert {line.partition(":")[0] for line in told["files.inside"]} == {"files.inside.open_inside_"}
    assert {line.partition(":")[0] for line in told["batch.loop"]} == {"batch.loop.run_jobs_"}


def maps_by_hand(source: Source) -> list[str]:
    """Maps that a module makes of a graph for itself: from tensors to their nodes, and from names to constants."""
    found = []
    for item in ast.walk(source.tree):
        if isinstance(item, ast.DictComp) and isinstance(item.value, ast.Name):
            value, first = item.value.id, item.generators[0]
            of_each = ast.unparse(first.target) == value
            said = [ast.unparse(part) for part in (item.key, *(each.iter for each in item.generators[1:]))]
            if of_each and any(part.startswith(f"{value}.output") for part in said):
                found.append(f"{source.name} finds by itself who makes which tensor")
            if of_each and ast.unparse(first.iter).endswith(".initializer"):
                found.append(f"{source.name} finds constants by itself")
        if isinstance(item, ast.Tuple) and ast.unparse(item) == "('', 'ai.onnx')":
            found.append(f"{source.name} knows by itself which operators are standard")
    return found


def test_graphs_are_read_by_one_object():
    assert [line for source in read().values() if source.room != "graphs" for line in maps_by_hand(source)] == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (
            "made = {name: node for node in graph.node for name in node.output}",
            "finds by itself who makes which tensor",
        ),
        ("made = {n.output[0]: n for n in nodes if n.output}", "finds by itself who makes which tensor"),
        ("held = {each.name: each for each in proto.graph.initializer}", "finds constants by itself"),
        ("old = node.domain in ('', 'ai.onnx')", "knows by itself which operators are standard"),
        ("kinds = {each.name: each.data_type for each in proto.graph.initializer}", None),
        ("places = {name: i for i, node in enumerate(nodes) for name in node.output}", None),
    ],
)
def test_control_a_map_by_hand_is_found(line: str, complaint: str | None):
    assert maps_by_hand(Source("m", line)) == ([] if complaint is None else [f"m {complaint}"])


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

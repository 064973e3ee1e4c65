"""Measure how the package is built: rooms, floors, lines, doors, and the ways of an image and others through it.

A room is a folder of the package, or a module that stands in none. Its floor is the length of the longest chain of
imports below it. The ways are followed in a real run: what a function of the package makes from image or class name is
followed too, and each call that takes such a thing into another room is a move; it goes up where that room's floor is
the higher one.
"""

import ast
import inspect
import io
import sys
import time
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, is_dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakSet

import click
import numpy as np
from parts.measuring import most_held

PACKAGE = "onnx_evidence"
# Lines of code that make a block worth naming when they stand twice.
_BLOCK = 6
# Entries of a collection that is looked through.
_SHORT = 40
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass
class Module:
    """A file of the package."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        """What it says."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """What it says, parsed."""
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """The folder that it stands in, or itself."""
        return self.name.partition(".")[0]

    @cached_property
    def docstrings(self) -> set[int]:
        """The numbers of lines of docstrings."""
        found: set[int] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                first = node.body[0]
                found |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        return found

    @cached_property
    def code(self) -> set[int]:
        """The numbers of lines of code: no docstrings, comments and empty lines."""
        found: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in _SILENT:
                found |= set(range(token.start[0], token.end[0] + 1))
        return found - self.docstrings

    def functions(self) -> Iterator[tuple[str, int]]:
        """Names of functions, and their lines of code."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                yield f"{self.name}.{node.name}", len(self.code.intersection(lines))

    def imports(self, names: set[str]) -> Iterator[tuple[str, str]]:
        """Modules of the package that are imported when it is, and the name that is taken from each."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == PACKAGE:
                inner = node.module.partition(".")[2]
                for alias in node.names:
                    whole = f"{inner}.{alias.name}".lstrip(".")
                    yield (whole, "") if whole in names else (inner, alias.name)


@dataclass
class House:
    """All modules."""

    modules: dict[str, Module]

    @classmethod
    def at(cls, root: Path) -> "House":
        """The package below a folder."""
        folder = root / PACKAGE
        found = {}
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(path, name)
        return cls(found)

    @cached_property
    def links(self) -> dict[str, set[str]]:
        """Modules by module that imports them; the package's own door stands above all and is left out."""
        names = set(self.modules)
        return {
            module.name: {other for other, _ in module.imports(names) if other in names} - {module.name, ""}
            for module in self.modules.values()
            if module.name
        }

    @cached_property
    def between(self) -> dict[str, set[str]]:
        """Rooms by room that imports them."""
        found: dict[str, set[str]] = defaultdict(set)
        for name, others in self.links.items():
            room = self.modules[name].room
            found[room] |= {self.modules[other].room for other in others} - {room}
        return dict(found)

    def floors(self, links: dict[str, set[str]]) -> dict[str, int]:
        """The floor of each, from 1; where they import in circles, without the circle's closing links."""
        links = {name: set(others) for name, others in links.items()}
        while True:
            try:
                order = list(TopologicalSorter(links).static_order())
                break
            except CycleError as error:
                circle = error.args[1]
                links[circle[1]].discard(circle[0])
        found: dict[str, int] = {}
        for name in order:
            found[name] = 1 + max((found[other] for other in links.get(name, ())), default=0)
        return found

    def circles(self) -> set[frozenset[str]]:
        """Pairs of rooms that import each other."""
        return {
            frozenset((room, other))
            for room, others in self.between.items()
            for other in others
            if room in self.between.get(other, ())
        }

    def doors(self) -> dict[str, dict[str, set[str]]]:
        """By room, the modules that others enter, and the names that they take there."""
        found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        names = set(self.modules)
        for module in self.modules.values():
            for other, name in module.imports(names):
                if other in names and self.modules[other].room != module.room and self.modules[other].room:
                    found[self.modules[other].room][other].add(name or "(module)")
        return found

    def twice(self) -> list[tuple[str, ...]]:
        """Places of blocks of code that stand more than once, by their text; what overlaps is named once."""
        places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
        for module in self.modules.values():
            lines = module.text.split("\n")
            numbers = [number for number in sorted(module.code) if not lines[number - 1].startswith(("import", "from"))]
            for start in range(len(numbers) - _BLOCK + 1):
                block = numbers[start : start + _BLOCK]
                if block[-1] - block[0] < 2 * _BLOCK:
                    places[tuple(lines[number - 1].strip() for number in block)].append((module.name, block[0]))
        found, seen = [], set[tuple[str, int]]()
        for where in places.values():
            if len(where) > 1:
                if not any((name, line - 1) in seen or (name, line - 2) in seen for name, line in where):
                    found.append(tuple(f"{name}:{line}" for name, line in where))
                seen |= set(where)
        return found


@click.group()
def main() -> None:
    """Measure how the package is built."""


@main.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False), default=".")
@click.option("--rooms/--no-rooms", default=True, help="A table of rooms as well.")
def plan(root: Path, rooms: bool) -> None:
    """Rooms, floors and lines of the package below ROOT, from its source."""
    house = House.at(root)
    modules = list(house.modules.values())
    floors, levels = house.floors(house.links), house.floors(house.between)
    longest = max(modules, key=lambda module: len(module.code))
    functions = [function for module in modules for function in module.functions()]
    function = max(functions, key=lambda each: each[1])
    above = [
        (name, other)
        for name, others in house.links.items()
        for other in others
        if _goes_up(house, levels, name, other)
    ]
    rows: list[tuple[str, Any]] = [
        ("files", len(modules)),
        ("files at the top", sum(1 for module in modules if module.path.parent.name == PACKAGE)),
        ("folders", len({module.path.parent for module in modules}) - 1),
        ("rooms: folders, and modules in none", len(levels)),
        ("floors of modules", max(floors.values())),
        ("floors of rooms", max(levels.values())),
        ("pairs of rooms that import each other", len(house.circles())),
        ("imports that go up", len(above)),
        ("lines", sum(module.text.count("\n") for module in modules)),
        ("lines of code", sum(len(module.code) for module in modules)),
        ("lines of docstrings", sum(len(module.docstrings) for module in modules)),
        ("longest module, lines of code", f"{longest.name}, {len(longest.code)}"),
        ("longest function, lines of code", f"{function[0]}, {function[1]}"),
        ("mean function, lines of code", f"{sum(size for _, size in functions) / len(functions):.1f}"),
        (f"blocks of {_BLOCK} lines that stand twice", len(house.twice())),
    ]
    click.echo("| | |\n|---|---|\n" + "\n".join(f"| {what} | {value} |" for what, value in rows))
    if rooms:
        click.echo(f"\n{_rooms(house, levels)}")


def _goes_up(house: House, levels: dict[str, int], name: str, other: str) -> bool:
    here, there = house.modules[name].room, house.modules[other].room
    return here != there and levels[there] >= levels[here]


def _rooms(house: House, levels: dict[str, int]) -> str:
    inside: dict[str, list[Module]] = defaultdict(list)
    for module in house.modules.values():
        inside[module.room].append(module)
    doors = house.doors()
    lines = ["| floor | room | files | lines | of code | entered at | names taken |", "|---|---|---|---|---|---|---|"]
    for room in sorted(levels, key=lambda room: (levels[room], room)):
        modules, door = inside[room], doors.get(room, {})
        size = sum(module.text.count("\n") for module in modules)
        code = sum(len(module.code) for module in modules)
        names = sum(map(len, door.values()))
        lines.append(f"| {levels[room]} | {room} | {len(modules)} | {size} | {code} | {len(door)} | {names} |")
    return "\n".join(lines)


@dataclass
class Way:
    """How something, and what is made from it, goes through rooms."""

    is_start: Callable[[Any], bool]
    made: bool
    levels: dict[str, int]
    moves: list[str] = field(default_factory=list)
    up: int = 0
    entered: Counter[str] = field(default_factory=Counter)
    # Kept alive, so that no other thing gets their identity.
    _followed: dict[int, Any] = field(default_factory=dict)
    _frames: set[int] = field(default_factory=set)

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        """What `sys.setprofile` calls."""
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(f"{PACKAGE}."):
            return
        if event == "call" and self._takes(frame):
            self._frames.add(id(frame))
            self._go(module.split(".")[1])
        elif event == "return" and id(frame) in self._frames:
            self._frames.discard(id(frame))
            if self.made and result is not None and not isinstance(result, bool | int | float | type):
                self._followed[id(result)] = result

    def _takes(self, frame: FrameType) -> bool:
        code = frame.f_code
        count = code.co_argcount + code.co_kwonlyargcount
        count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
        given = [frame.f_locals.get(name) for name in code.co_varnames[:count]]
        return any(id(each) in self._followed or self._starts(each) for each in given)

    def _starts(self, each: Any) -> bool:
        return self.is_start(each)

    def _go(self, room: str) -> None:
        if self.moves and self.moves[-1] == room:
            return
        if self.moves and self.levels.get(room, 0) > self.levels.get(self.moves[-1], 0):
            self.up += 1
        self.moves.append(room)
        self.entered[room] += 1


@main.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="A class name, whose way is followed too.")
def ways(model: Path, image: Path, out: Path, target: str) -> None:
    """Follow image, model, class name and one option from the command line to the files in OUT, which is made new."""
    from onnx_evidence.cli import main as command

    house = House.at(Path(__file__).parent.parent)
    levels = house.floors(house.between)
    given = {"image": str(image), "model's path": str(model), "class name": target, "option --project": "backward"}
    click.echo("| what | rooms | moves | up | entered most |\n|---|---|---|---|---|")
    for number, (what, start) in enumerate(given.items()):
        # Of a model and an option everything is made.
        way = Way(lambda each, start=start: _is(each, start), what in ("image", "class name"), levels)  # type: ignore[misc]
        arguments = ["explain", str(model), str(image), "--target", target, "-o", str(out / str(number)), "-q"]
        if what.startswith("option"):
            arguments += ["--project", start]
        sys.setprofile(way)
        try:
            command(arguments, standalone_mode=False)
        finally:
            sys.setprofile(None)
        most = ", ".join(f"{room} {times}" for room, times in way.entered.most_common(3))
        click.echo(f"| {what} | {len(way.entered)} | {len(way.moves)} | {way.up} | {most} |")


def _is(each: Any, start: str, depth: int = 1) -> bool:
    """Whether it is the thing, or holds it: in a short list, in a dictionary, or as an attribute of plain data."""
    if isinstance(each, str | Path):
        return str(each) == start
    if depth and isinstance(each, tuple | list):
        return len(each) < _SHORT and any(_is(inner, start, depth - 1) for inner in each)
    if depth and (isinstance(each, dict) or is_dataclass(each)):
        values = each if isinstance(each, dict) else getattr(each, "__dict__", {})
        return len(values) < _SHORT and any(_is(inner, start, depth - 1) for inner in values.values())
    return False


@dataclass
class Step:
    """Something that is done, and what ONNX Runtime did for it; seconds are those of the processor."""

    what: str
    opened: list[str] = field(default_factory=list)
    rows: int = 0
    opening: float = 0.0
    running: float = 0.0


def _watched(steps: list[Step]) -> "WeakSet[Any]":
    """Have all sessions written down in the last of some steps; those that are open."""
    import onnxruntime

    there = WeakSet[Any]()

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *given: Any, **named: Any) -> None:
            start = time.process_time()
            super().__init__(*given, **named)
            steps[-1].opening += time.process_time() - start
            ends = [[each.name for each in some] for some in (self.get_inputs(), self.get_outputs())]
            steps[-1].opened.append(" -> ".join(map(", ".join, ends)))
            there.add(self)

        def run(self, outputs: Any, given: dict[str, Any], *options: Any) -> Any:
            start = time.process_time()
            found = super().run(outputs, given, *options)
            steps[-1].running += time.process_time() - start
            steps[-1].rows += len(next(iter(given.values())))
            return found

    onnxruntime.InferenceSession = Session
    return there


@main.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("image", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--quality", default="default", show_default=True, help="As of 'explain'.")
def opening(model: Path, image: Path | None, quality: str) -> None:
    """Sessions, rows, seconds of the processor and memory to open MODEL and to explain IMAGE, or noise, twice."""
    steps = [Step("what it takes to import")]
    there = _watched(steps)
    from onnx_evidence import DeployedModel, Explainer

    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    made: dict[str, Any] = {}
    todo: dict[str, Callable[[], Any]] = {
        "read the file": lambda: DeployedModel(model, device="cpu"),
        "get ready": lambda: Explainer(made["read the file"], quality=quality),
        "first picture": lambda: made["get ready"].explain(noise if image is None else str(image)),
        "the same again": lambda: made["get ready"].explain(noise if image is None else str(image)),
    }
    click.echo("| | sessions opened | open then | rows run | seconds | opening | running | at most held, MB |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for what, do in todo.items():
        steps.append(step := Step(what))
        start = time.process_time()
        made[what] = do()
        seconds = time.process_time() - start
        shares = " | ".join(f"{part / seconds:.0%}" for part in (step.opening, step.running))
        row = f"{len(step.opened)} | {len(there)} | {step.rows} | {seconds:.1f} | {shares}"
        click.echo(f"| {what} | {row} | {most_held() / 1e6:.0f} |")
    for part, times in Counter(part for step in steps for part in step.opened).items():
        click.echo(f"{times} x {part}")


if __name__ == "__main__":
    main()

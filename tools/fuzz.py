"""Feed damaged models and pictures to the package: whatever they are, one line says what is wrong, soon, or they work.

Every case is made from its number, in a process that is watched: a crash, an error that is not ours, more than 10
seconds, 2 GB, or a file opened for writing outside the output folder is a finding, and its number makes it again.
"""

import multiprocessing
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import click
import cv2
import onnx
from onnx import TensorProto, helper
from small_model import write_model, write_pictures

_SECONDS, _BYTES = 10, 2 << 30
_SUFFIXES = (".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm", ".jp2")
_NUMBERS = (0, 1, -1, 7, 255, 65535, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63))
_TEXTS = ("", "x", "input", "logits", "../x", "/etc/passwd", "\0", "\x1b[2J", "=1+1", "é" * 300, "%s%n", "..")


class _Answer(NamedTuple):
    """What became of a case; ``finding`` is empty where that is all right."""

    kind: str
    finding: str


# Mutations of bytes


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(changed) + 1)
        action = rng.randrange(6)
        if action == 0 and changed:
            changed[place % len(changed)] ^= 1 << rng.randrange(8)
        elif action == 1:
            changed[place:place] = rng.randbytes(rng.choice((1, 4, 64)))
        elif action == 2:
            del changed[place : place + rng.choice((1, 4, 64, 4096))]
        elif action == 3:
            changed[place : place + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"))
        elif action == 4:
            other = rng.randrange(len(changed) + 1)
            changed[place:place] = changed[other : other + rng.choice((4, 64, 1024))]
        elif rng.random() < 0.2:
            del changed[place:]
    return bytes(changed)


# Mutations of messages


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every field that is set, of a message and of all inside it."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _fields(inner)


def _mutate_message(model: onnx.ModelProto, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 4))):
        # Weights and names are as many as all else: first the name of a field, then one of these.
        found: dict[str, list[tuple[Any, Any]]] = {}
        for message, field in _fields(model):
            found.setdefault(field.full_name, []).append((message, field))
        _mutate_field(*rng.choice(found[rng.choice(sorted(found))]), rng)


def _mutate_field(message: Any, field: Any, rng: random.Random) -> None:
    if field.is_repeated:
        values = getattr(message, field.name)
        place, action = rng.randrange(len(values)), rng.randrange(4)
        if action == 0:
            del values[place]
        elif field.message_type is not None:
            values.add().CopyFrom(values[place])
        elif action == 1:
            values.append(values[place])
        else:
            values[place] = _other(values[place], rng)
    elif field.message_type is not None or rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.enum_type is not None:
        setattr(message, field.name, rng.choice(list(field.enum_type.values_by_number)))
    else:
        setattr(message, field.name, _other(getattr(message, field.name), rng))


def _other(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([value + 1, value - 1, -value % 2**31, *(n for n in _NUMBERS if abs(n) < 2**31)])
    if isinstance(value, float):
        return rng.choice([0.0, -value, float("nan"), float("inf"), 1e38])
    if isinstance(value, bytes):
        return _mutate_bytes(value, rng)
    return rng.choice([*_TEXTS, value[::-1]])


def _outside(model: onnx.ModelProto, rng: random.Random) -> None:
    """Have a weight lie in a file: anywhere, and as long as it likes."""
    tensor = rng.choice(list(model.graph.initializer))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ("weights.bin", "../outside.bin", "/etc/passwd", "/dev/zero", "/proc/self/mem", "link", "missing", "", ".")
    given = {"location": rng.choice(places), "offset": rng.choice(("0", "-1", "x", str(2**62)))}
    given |= {"length": rng.choice(("16", str(2**40), "-5", ""))} if rng.random() < 0.7 else {}
    for key, value in given.items():
        tensor.external_data.add(key=key, value=value)


# Cases


class _Model:
    """A mutated model, explained as by the command."""

    def __init__(self, place: Path) -> None:
        from onnx_evidence.images import read_photograph

        self.place, self.path = place, place / "mutated.onnx"
        self.seeds = [write_model(place / f"{seed}.onnx", seed).read_bytes() for seed in range(3)]
        (picture,) = write_pictures(place / "pictures", 1).iterdir()
        self.picture = read_photograph(picture)
        (place / "weights.bin").write_bytes(bytes(64))
        (place.parent / "outside.bin").write_bytes(bytes(1 << 16))
        if not (place / "link").is_symlink():
            (place / "link").symlink_to("/etc/passwd")

    def run(self, rng: random.Random) -> None:
        from onnx_evidence import Explainer

        data, way = rng.choice(self.seeds), rng.random()
        if way < 0.4:
            data = _mutate_bytes(data, rng)
        else:
            model = onnx.load_model_from_string(data)
            (_outside if way < 0.5 else _mutate_message)(model, rng)
            if way > 0.9:
                model.graph.node.append(helper.make_node(rng.choice(("If", "Loop", "Foo", "Split")), ["logits"], ["y"]))
            data = model.SerializeToString()
        self.path.write_bytes(data)
        explainer = Explainer(self.path, device="cpu", quality="fast")
        explainer.explain(self.picture).save(self.place / "out" / "map.npz")


class _Picture:
    """A mutated picture, made the input of a model."""

    def __init__(self, place: Path) -> None:
        from onnx_evidence import DeployedModel

        self.place = place
        self.deployed = DeployedModel(write_model(place / "model.onnx"), device="cpu")
        (picture,) = write_pictures(place / "pictures", 1).iterdir()
        pixels = cv2.imread(str(picture))
        assert pixels is not None
        self.seeds = [(suffix, cv2.imencode(suffix, pixels)[1].tobytes()) for suffix in _SUFFIXES]

    def run(self, rng: random.Random) -> None:
        suffix, data = rng.choice(self.seeds)
        path = self.place / f"mutated{suffix}"
        path.write_bytes(_mutate_bytes(data, rng))
        _, inputs, _ = self.deployed.prepare(path)
        self.deployed.logits(inputs[None])


_CASES: dict[str, Callable[[Path], _Model | _Picture]] = {"models": _Model, "pictures": _Picture}


def _serve(kind: str, place: Path, pipe: Connection) -> None:
    """Run the cases whose numbers are sent."""
    from onnx_evidence import EvidenceError

    opened: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            opened.append(arguments[0])

    case = _CASES[kind](place)
    inside = (str(place / "out"), str(place / "mutated"), os.devnull)
    sys.addaudithook(hear)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pipe.send(_Answer("ready", ""))
    while True:
        number = pipe.recv()
        opened.clear()
        name, finding = "works", ""
        try:
            case.run(random.Random(f"{kind} {number}"))
        except EvidenceError as error:
            # Paths, names and numbers differ from case to case.
            words = re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|-?\d[\d.]*", "_", str(error))
            name = f"{type(error).__name__}: {words[:90]}"
            finding = "the message has several lines" if "\n" in str(error) else ""
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            name = f"{type(error).__name__} at {traceback.extract_tb(error.__traceback__)[-1].name}"
            finding = "".join(traceback.format_exception(error)[-6:])
        strangers = [path for path in opened if not path.startswith(inside)]
        if strangers:
            finding = f"opened for writing: {strangers[0]}"
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > _BYTES:
            finding = "more than 2 GB of memory"
        pipe.send(_Answer(name, finding))
        if "memory" in finding:
            return


class _Watched:
    """A process that runs cases, replaced when it dies or hangs."""

    def __init__(self, kind: str, place: Path) -> None:
        self.kind, self.place = kind, place
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.kind, self.place, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def run(self, number: int) -> _Answer:
        """One case."""
        begin = time.monotonic()
        try:
            self.pipe.send(number)
            answer = self.pipe.recv() if self.pipe.poll(_SECONDS) else _Answer("hang", f"more than {_SECONDS} seconds")
        except (EOFError, OSError):
            self.process.join()
            answer = _Answer("crash", f"exit code {self.process.exitcode}")
        if answer.kind in ("hang", "crash") or "memory" in answer.finding:
            self.process.kill()
            self.process.join()
            self._start()
        slow = time.monotonic() - begin > _SECONDS
        return answer._replace(finding=answer.finding or ("too slow" if slow else ""))


def _fuzz(kind: str, numbers: range, place: Path, shown: int) -> int:
    """Run cases, print kinds of answers and findings; how many findings."""
    watched, kinds, bad, findings = _Watched(kind, place), Counter[str](), Counter[str](), 0
    for number in numbers:
        answer = watched.run(number)
        kinds[answer.kind] += 1
        if answer.finding:
            findings += 1
            bad[answer.kind] += 1
            if bad[answer.kind] == 1 and len(bad) <= shown:
                click.echo(f"FINDING {kind} {number}: {answer.kind}\n{answer.finding}")
    watched.process.kill()
    click.echo(f"{kind}: {len(numbers)} cases, {kinds['works']} work, {findings} findings")
    for name, count in bad.most_common():
        click.echo(f"{count:7} FOUND {name}")
    for name, count in kinds.most_common(40):
        click.echo(f"{count:7} {name}")
    return findings


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(list(_CASES)))
@click.option("--cases", default=20_000, show_default=True)
@click.option("--start", default=0, show_default=True, help="First number: a finding's makes it again.")
@click.option("--shown", default=10, show_default=True, help="Kinds of findings of which one is printed in full.")
def main(kinds: tuple[str, ...], cases: int, start: int, shown: int) -> None:
    """Feed damaged models and pictures to the package, and count what it says."""
    findings = 0
    for kind in kinds or tuple(_CASES):
        with tempfile.TemporaryDirectory() as name:
            place = Path(name) / "in"
            place.mkdir()
            findings += _fuzz(kind, range(start, start + cases), place, shown)
    if findings:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()

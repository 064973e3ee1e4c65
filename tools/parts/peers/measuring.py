"""Maps of one package, timed beside plain forward passes, and kept in files.

It runs in the environments of the peers, some of which have an old numpy: of this project only types are imported.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from onnx_evidence.types import AnyArray

# Plain forward passes before each map, and as many behind it.
_PLAIN = 4
PICTURES, INPUTS, TIMES = "pictures.json", "inputs", "times.json"


@dataclass(frozen=True)
class Picture:
    """One picture, as every package gets it.

    Attributes
    ----------
    name : str
        Of its files, without a suffix.
    target : int
        The class that is explained.
    photograph : Path
        What ``x`` was made of.
    x : ndarray of float32, shape (C, H, W)
        The preprocessed picture.
    """

    name: str
    target: int
    photograph: Path
    x: AnyArray


# A picture to its map (H, W), positive for the class, in any unit.
Mapper = Callable[[Picture], AnyArray]


@dataclass
class Tally:
    """What a map took of the model, where that can be counted, and what else is worth saying.

    Attributes
    ----------
    forward, backward : int
        Pictures that went through the whole model, and gradients that came back; 0 where they cannot be counted.
    notes : dict
        What was found of the peer, by name: it is kept beside the times.
    """

    forward: int = 0
    backward: int = 0
    notes: dict[str, str] = field(default_factory=dict)

    def went(self, count: int) -> None:
        """So many pictures went through the model."""
        self.forward += count

    def came(self, count: int) -> None:
        """So many gradients came back."""
        self.backward += count


@dataclass(frozen=True)
class Peer:
    """A row of the table of peers.

    Attributes
    ----------
    packages : tuple of str
        Distributions whose versions are told, the peer itself first.
    method : str
        As the package calls it.
    setting : str
        What was chosen, in words; everything else is as shipped.
    make : callable
        Of the model's file, a tally and a picture to try: what makes maps.
    warm : bool
        Whether a map is made first that is not timed; of thousands of passes the first matters little.
    """

    packages: tuple[str, ...]
    method: str
    setting: str
    make: Callable[[Path, Tally, Picture], Mapper]
    warm: bool = True


class Taken(NamedTuple):
    """Seconds by the clock, and of processors."""

    seconds: float
    processor: float


def timed(work: Callable[[], AnyArray]) -> tuple[AnyArray, Taken]:
    """What some work gives, and what it took."""
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    return found, Taken(time.perf_counter() - clock, time.process_time() - processor)


class PlainPass:
    """The model by ONNX Runtime on the CPU, a picture at a time."""

    def __init__(self, model: Path) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Else its threads go on turning for a while, and what is timed next has fewer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name

    def logits(self, batch: AnyArray) -> AnyArray:
        """Whatever the file gives of pictures (N, C, H, W)."""
        return np.asarray(self._session.run(None, {self._name: batch})[0])

    def times(self, x: AnyArray) -> list[Taken]:
        """What some passes of one picture took."""
        return [timed(lambda: self.logits(x[None]))[1] for _ in range(_PLAIN)]


def read_pictures(folder: Path) -> list[Picture]:
    """The pictures of a folder that `bench_peers.py prepare` made."""
    listed = json.loads((folder / PICTURES).read_text(encoding="utf-8"))
    return [
        Picture(name, each["target"], Path(each["file"]), np.load(folder / INPUTS / f"{name}.npy"))
        for name, each in listed.items()
    ]


def measure(name: str, peer: Peer, model: Path, pictures: list[Picture], out: Path) -> list[float]:
    """Make and keep the maps of all pictures that have none; what each took, in plain forward passes."""
    out.mkdir(parents=True, exist_ok=True)
    head = {
        "peer": name,
        "versions": {package: version(package) for package in peer.packages},
        "method": peer.method,
        "setting": peer.setting,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    found = _begun(out / TIMES, head)
    waiting = [picture for picture in pictures if picture.name not in found["pictures"]]
    if waiting:
        _go_on(name, peer, model, waiting, found, out)
    return ratios(found, "seconds")


def _begun(path: Path, head: dict[str, Any]) -> dict[str, Any]:
    """What was measured before, of the same version and setting."""
    if path.exists():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if all(before[key] == value for key, value in head.items()):
            return before
    return {**head, "pictures": {}}


def _go_on(name: str, peer: Peer, model: Path, pictures: list[Picture], found: dict[str, Any], out: Path) -> None:
    plain, tally = PlainPass(model), Tally()
    mapper = peer.make(model, tally, pictures[0])
    if peer.warm:
        mapper(pictures[0])  # the first run of everything is slow
    found["notes"] = tally.notes
    for picture in pictures:
        tally.forward = tally.backward = 0
        before = plain.times(picture.x)
        values, spent = timed(partial(mapper, picture))
        values = np.asarray(values, dtype=np.float64)
        _check(name, values, picture)
        np.save(out / f"{picture.name}.npy", values)
        passes = zip(*before, *plain.times(picture.x), strict=True)
        found["pictures"][picture.name] = {
            **spent._asdict(),
            "plain": Taken(*(statistics.median(each) for each in passes))._asdict(),
            "forward": tally.forward,
            "backward": tally.backward,
        }
        # Each time, so that what was measured is there if the next picture is never done.
        (out / TIMES).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def ratios(found: dict[str, Any], clock: str) -> list[float]:
    """What maps took in plain passes, a number per picture, from the file of times; see `Taken` for the clocks."""
    return [each[clock] / each["plain"][clock] for each in found["pictures"].values()]


def _check(name: str, values: AnyArray, picture: Picture) -> None:
    if values.shape != picture.x.shape[1:] or not np.isfinite(values).all():
        raise ValueError(f"{name}: a map of shape {values.shape} of {picture.name}, or one that is not finite")

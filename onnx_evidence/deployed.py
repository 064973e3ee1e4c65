"""A deployed model, opened: the file, its graph, the device, its preprocessing and class names.

Imported by: batch, cli, evaluation, explainer, export, methods.
"""

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from hashlib import sha256
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
import onnx

from onnx_evidence.counting import MAX_WORK
from onnx_evidence.cuts import Cut, Graph, are_read, certify, measure_field, measured_together, unmeasured
from onnx_evidence.errors import DataError, GradientError, ModelError, SettingError, TargetError
from onnx_evidence.evidence import OPEN, CellField, ClassKind, input_field
from onnx_evidence.files import NOTHING_KEPT, Cache, describe_machine
from onnx_evidence.graphs import bytes_at_once
from onnx_evidence.intake import (
    CODES,
    FULL,
    Answer,
    Answers,
    Model,
    as_file_takes_it,
    check_labels,
    exported_graph,
    find_class,
    given_labels,
    load_model,
    name_both,
    representable,
    unsigned,
)
from onnx_evidence.pictures import MAX_PIXELS, OPENCV_VERSION, Photograph, Placement
from onnx_evidence.preprocessing import (
    MARGIN,
    Preprocess,
    check_whole,
    given_preprocess,
    not_recorded,
    range_of,
    read_picture,
    to_input,
)
from onnx_evidence.sessions import (
    RUNTIME_VERSION,
    Classifier,
    Device,
    Differentiator,
    Session,
    ran_on,
    settle_device,
)
from onnx_evidence.types import AnyArray, Features, FloatArray, Gradient, Head, Predict, ProviderLike
from onnx_evidence.vjp import GRADIENT, build_vjp, missing_rules, relevance_tells

log = logging.getLogger(__name__)

# Another one whenever something else is measured, or otherwise: what was kept before is then of no use.
_MEASURED = 1
# Bytes of features that are remembered.
MOST_SEEN = 2**28
# Of the pictures of noise on which a cut is tried: a gate may be open for some alone.
_CONTRASTS = (1.0, 0.2, 5.0, 1.0, 0.5, 2.0)


class _Parts:
    """Sessions of a graph's parts: each is open once, while somebody uses it; that of the whole until `close`."""

    def __init__(self, model: Model, graph: Graph, device: Device) -> None:
        self.model, self.graph, self.device = model, graph, device
        self.closed = False
        self._open = WeakValueDictionary[tuple[object, ...], Session]()
        self._kept: list[Session] | None = None

    def open(self, key: tuple[object, ...], make: Callable[[], onnx.ModelProto]) -> Session:
        """The session of that key; of the part that ``make`` gives, where none is open."""
        self.check_open()
        session = self._open.get(key)
        if session is None:
            part = make()
            taken, folder = bytes_at_once(part.graph, self.graph.shapes), self.model.path.parent
            kind, batch = str(key[0]), self.model.batch
            session = Session(part, self.device, batch=batch, folder=folder, row_bytes=taken, part=kind)
            self._open[key] = session
        if self._kept is not None:
            self._kept.append(session)
        return session

    @cached_property
    def whole(self) -> Session:
        """Input to logits."""
        return self.open(("whole",), self.graph.whole)

    def canonical(self, inputs: Features) -> FloatArray:
        """See `DeployedModel.canonical`."""
        return Classifier(self.whole)(inputs)

    @contextmanager
    def shared(self, *, keep: bool = True) -> Iterator[None]:
        """See `DeployedModel.shared`; or, inside of that, keep nothing."""
        before, self._kept = self._kept, [] if keep else None
        try:
            yield
        finally:
            self._kept = before

    def check_open(self) -> None:
        """Refuse to go on where all is closed."""
        if self.closed:
            raise ModelError(f"{self.model.path}: the model was closed: open it again to use it")

    def close(self) -> None:
        """See `DeployedModel.close`."""
        self.closed = True
        for session in list(self._open.values()):
            session.close()


class Heads:
    """The model from the input to some cuts, ready to run.

    One session gives the features of all, so that weights are held once. Only between codes every cut has one of its
    own: an output in the middle of such a graph keeps the runtime from computing with integers around it, and the
    features behind would not be the file's.

    Attributes
    ----------
    cuts : tuple of Cut
        As they were asked for; the input may be one.
    """

    def __init__(self, cuts: Sequence[Cut], sessions: dict[str, tuple[Session, int]], input_name: str) -> None:
        self.cuts = tuple(cuts)
        # By the name of a cut its session, and its place among the outputs; the input has none.
        self._sessions, self._input = sessions, input_name
        self._seen: dict[tuple[bytes, Session], list[Features]] | None = None

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Inside, what was computed of a batch for one cut is there for the others; `MOST_SEEN` bytes of it."""
        self._seen = {}
        try:
            yield
        finally:
            self._seen = None

    def at(self, cut: Cut) -> Head:
        """The model from the input to one of the cuts; outside of `remembering` others are run in vain."""
        if cut.name == self._input:
            return lambda batch: batch
        session, place = self._sessions[cut.name]
        return lambda batch: self._run(session, batch)[place]

    def look(self, inputs: Features) -> list[Features]:
        """The features of one picture (channels, H, W) at all cuts, in their order."""
        found = {session: session.run_all(inputs[None]) for session in {each for each, _ in self._sessions.values()}}
        ways = [self._sessions.get(cut.name) for cut in self.cuts]
        return [inputs if way is None else found[way[0]][way[1]][0] for way in ways]

    def _run(self, session: Session, batch: Features) -> list[Features]:
        if self._seen is None or len(self.cuts) == 1:
            return session.run_all(batch)
        key = sha256(np.ascontiguousarray(batch).data).digest(), session
        if (found := self._seen.get(key)) is None:
            found = session.run_all(batch)
            if sum(each.nbytes for known in (*self._seen.values(), found) for each in known) <= MOST_SEEN:
                self._seen[key] = found
        return found


class Inside:
    """What explains a file inside of it, ready to run.

    Attributes
    ----------
    record : dict
        As 'export' has it in the file.
    """

    def __init__(self, model: Model, device: Device) -> None:
        assert model.explains is not None
        self.record, self._entry = model.explains, model.entry
        proto = exported_graph(model)
        self._names = [value.name for value in proto.graph.output]
        self._session = Session(proto, device, batch=model.rows)

    def run(self, inputs: Features, target: int) -> tuple[FloatArray, FloatArray]:
        """Evidence and budget of one picture, in the file's order of targets.

        Parameters
        ----------
        inputs : ndarray of float32, shape (channels, H, W)
            The preprocessed picture.
        target : int
            The class, for a file that takes one with the picture.

        Returns
        -------
        evidence : ndarray of float64, shape (targets, H, W)
            Bits per pixel of the input.
        budget : ndarray of float64, shape (targets, 5)
            Bits with all features, without, for, against, unaccounted.
        """
        given = [] if self.record["input"] is None else [np.array([target], np.int64)]
        found = self._session.run_all(as_file_takes_it(inputs[None], self._entry), *given)
        by_name = dict(zip(self._names, found, strict=True))
        evidence, budget = (by_name[self.record["outputs"][kind]][0] for kind in ("evidence", "budget"))
        return evidence.astype(np.float64), budget.astype(np.float64)


def _refuse_empty(**given: object) -> None:
    """Refuse empty texts, which as paths would be the current folder."""
    for name, value in given.items():
        if isinstance(value, str) and not value:
            raise DataError(f"{name} '' is empty: give the name of a file")


def _most_work(given: object) -> int:
    if isinstance(given, Integral) and not isinstance(given, bool) and int(given) >= 1:
        return int(given)
    raise SettingError(f"max work {given!r} is no number of multiply-adds: give a whole one of at least 1")


class DeployedModel:
    """An .onnx classifier ready to run.

    What is run of it is opened when it is first needed, and stays open until nobody uses it any more, or until `close`;
    ``with DeployedModel(path) as deployed:`` closes it at the end. What the file says can be read afterwards too. It is
    for one thread at a time; processes open their own.

    Parameters
    ----------
    path : str or Path
        The .onnx file.
    preprocess : str or Path or Preprocess or dict, optional
        A preset, a TOML or JSON file, a folder with Hugging Face's or timm's, 'preprocessed' (pictures are .npy files
        of the input itself), or the settings; by default what is recorded in the file or beside it.
    labels : str or Path or sequence of str, optional
        A text file of class names, one per line, or the names; by default what the model records. `verify` finds a
        file again, names are to be given to it in one.
    device : {'auto', 'cpu', 'cuda'}
        Where to run.
    providers : sequence of str or (str, dict)
        In place of a device: execution providers of the installed ONNX Runtime, the preferred first, as
        ``NAME[:key=value,...]`` or as its own pairs of a name and options.
    output : str, optional
        The output of class scores; by default the only one that looks like it.
    classes : {'exclusive', 'independent'}, optional
        Whether one class holds, or each label holds or not, where the model gives logits and does not say; by default
        exclusive.
    max_work : int
        Multiply-adds that the model may take for a picture; one that takes more is refused before anything of it is
        computed. A node that is run counts for 10^7, a number made of constants for 40,000.
    cache : bool
        Whether what is measured of the model is kept in the user's cache folder, and taken from there.

    Attributes
    ----------
    model : Model
        What the file says of itself.
    graph : Graph
        Its cuts.
    device : Device
        Where it runs, and why.
    labels : tuple of str or None
        Class names in class order.
    labels_file : Path or None
        Where they are from, where a file of them was given.

    Raises
    ------
    ModelError, DataError, DeviceError, SettingError
        If the file, the preprocessing, the labels or the device cannot be used, or ``classes`` contradicts the model.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
        labels: str | Path | Sequence[str] | None = None,
        device: str = "auto",
        providers: Sequence[ProviderLike] = (),
        output: str | None = None,
        classes: str | None = None,
        max_work: int = MAX_WORK,
        cache: bool = True,
    ) -> None:
        _refuse_empty(model=path, preprocess=preprocess, labels=labels)
        if not isinstance(path, str | os.PathLike):
            raise ModelError(f"a model of type {type(path).__name__}: give the path of an .onnx file")
        if not isinstance(cache, bool):
            raise SettingError(f"cache {cache!r}: give True or False")
        given, most = given_preprocess(preprocess), _most_work(max_work)
        self.device = settle_device(device, providers)

        def cached(sha256: str) -> Cache:
            return Cache(self._measured_by(sha256)) if cache else NOTHING_KEPT

        self.model = load_model(Path(path), given, output=output, classes=classes, max_work=most, cached=cached)
        self.graph = Graph(self.model)
        names = given_labels(labels) if labels is not None else self.model.labels
        self.labels = name_both(names) if self.model.binary else names
        self.labels_file = Path(labels) if isinstance(labels, str | os.PathLike) else None
        self._cache = cached(self.model.sha256)
        self._fields: dict[tuple[str, bytes, bytes], CellField] = {}
        self._read: dict[str, bool] = {}
        self._heads: dict[str, Head] = {}
        self._parts = _Parts(self.model, self.graph, self.device)
        self._asked: Answers | None = None
        self._has_file = True
        log.info("preprocessing: %s", self.model.preprocess_source or "not known")
        log.info("device: %s (%s)", self.device.name, self.device.reason)

    def close(self) -> None:
        """Close all that is open of it; once is enough. Whatever runs it from now on raises ModelError."""
        self._parts.close()
        self._asked = None
        self._heads.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def shared(self) -> AbstractContextManager[None]:
        """What is opened inside stays open until the end of it, so that others find it there."""
        return self._parts.shared()

    @property
    def session(self) -> Session:
        """The whole canonical graph, input to logits."""
        return self._parts.whole

    @property
    def _answers(self) -> Answers:
        self._parts.check_open()
        if self._asked is None:
            # By the parts alone: a model that it holds would hold it in turn, and stay when nobody has it any more.
            self._asked = Answers(self.model, self.device if self._has_file else None, self._parts.canonical)
        return self._asked

    def canonical(self, inputs: Features) -> FloatArray:
        """Logits (N, K) by the canonical graph, which maps are made of: the file's but for rounding; see `logits`."""
        return self._parts.canonical(inputs)

    @cached_property
    def elsewhere(self) -> dict[str, dict[str, int]] | None:
        """Nodes of the file that other execution providers ran than the first that was asked for, on zeros.

        By provider and operator, how many: ONNX Runtime gives a provider only what it takes, without a word. None on
        the CPU's own provider, which runs all.
        """
        if self.device.plain:
            return None
        model, zeros = self.model, np.zeros((self.model.rows or 1, *self.model.input_shape), np.float32)
        found = ran_on(model.data, self.device, [as_file_takes_it(zeros, model.entry)], model.path.parent)
        return {name: kinds for name, kinds in found.items() if name != self.device.provider}

    @cached_property
    def classes(self) -> int:
        """K, the number of classes, found by running the model once on zeros.

        Raises
        ------
        ModelError
            If the output is no vector of at least two logits.
        DataError
            If there are more or fewer labels than classes; an empty line at the end of a file of them is one.
        """
        found = self._answers.classes
        if self.labels is not None:
            check_labels(self.labels, found, self.labels_file, binary=self.model.binary)
        return found

    def answer(self, inputs: Features) -> Answer:
        """What the deployed file says of one picture: see `intake.answer.Answers`.

        Parameters
        ----------
        inputs : ndarray of float32, shape (channels, H, W)
            The preprocessed picture, as `prepare` makes it.

        Returns
        -------
        Answer

        Raises
        ------
        ModelError
            If the file cannot be run on it, what it gives are no scores of classes, or weights beside it were changed
            since it was read.
        """
        answer = self._answers.of(inputs)
        self.model.check_unchanged()
        return answer

    def logits(self, inputs: Features) -> FloatArray:
        """Logits of pictures, by the deployed file: (N, channels, H, W) to float64 (N, K); see `answer`."""
        return self._answers.logits(inputs)

    def certify(self, cut: Cut, split_logits: FloatArray, logits: FloatArray) -> float:
        """Prove the split at a cut, given the tail's logits (K,) and those of the file; see `cuts.certify`."""
        arithmetic = self.model.arithmetic
        return certify(cut, split_logits, logits, arithmetic, 0.0 if arithmetic == FULL else self._answers.scale)

    def of_graph(self, graph: Graph) -> "DeployedModel":
        """The same model with another graph in place of its own; no file has it, so the graph answers for it.

        It is opened, and closed, by itself.

        Parameters
        ----------
        graph : Graph
            With the same cuts.

        Returns
        -------
        DeployedModel
            `model` still describes the file. Fields that were measured are kept.
        """
        twin = copy.copy(self)
        twin.graph, twin._has_file = graph, False
        # What is measured, tried or opened of other weights stays with them.
        twin._fields, twin._read, twin._heads = dict(self._fields), {}, {}
        twin._cache = NOTHING_KEPT
        twin._parts, twin._asked = _Parts(self.model, graph, self.device), None
        return twin

    def _measured_by(self, sha256: str) -> dict[str, Any]:
        """What all that is measured of a model depends on."""
        return {
            "model": sha256,
            "machine": describe_machine(gpu=self.device.nvidia),
            "device": self.device.name,
            "versions": {
                "onnx-evidence": version("onnx-evidence"),
                "onnxruntime": RUNTIME_VERSION,
                "onnx": onnx.__version__,
                "numpy": np.__version__,
                "opencv": OPENCV_VERSION,
                "measured": _MEASURED,
            },
        }

    @property
    def class_kind(self) -> ClassKind:
        """What the logits mean: classes of which one holds, or labels of which each holds or not."""
        return self.model.class_kind

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing in use.

        Raises
        ------
        DataError
            If the model records none and none was given.
        """
        if self.model.preprocess is None:
            raise not_recorded(self.model.path)
        return self.model.preprocess

    def read(self, image: str | Path | AnyArray | Photograph, most: int = MAX_PIXELS) -> Photograph:
        """Read an image of at most ``most`` pixels the way that the preprocessing takes it; see `prepare`."""
        _refuse_empty(image=image)
        return read_picture(image, self.preprocess, most)

    def prepare(self, image: str | Path | AnyArray | Photograph) -> tuple[Photograph, Features, Placement]:
        """Read an image and make the model's input (channels, H, W) from it.

        Parameters
        ----------
        image : str or Path or ndarray, shape (H, W, C) or (H, W), or Photograph
            A file; pixels of 8 or 16 bits, or what the preprocessing's ``color`` calls for; or one read already.

        Returns
        -------
        photograph : Photograph
        inputs : ndarray of float32, shape (channels, H, W)
            Rounded to values that the file's own input can have.
        placement : Placement
            Where the input lies in the photograph.

        Raises
        ------
        DataError
            If the image cannot be used, or the preprocessing is not known.
        """
        photograph = self.read(image)
        inputs, placement = to_input(photograph, self.preprocess)
        taken = representable(inputs, self.model.entry)
        if self.preprocess.color == "INPUT" and self.model.entry.levels is not None:
            check_whole(photograph.name, inputs, taken, self.model.entry.levels)
        return photograph, taken, placement

    def find_class(self, name: str | int) -> int:
        """The number of a class, from its number or name.

        Parameters
        ----------
        name : str or int
            A class number, or a class name (case does not matter).

        Returns
        -------
        int
            0..K-1.

        Raises
        ------
        TargetError
            If there is no such class, or two classes share the name.
        """
        return find_class(name, self.labels, self.classes)

    def label(self, number: int) -> str:
        """The name of class ``number``, 0..K-1; 'class 7' where the model has no names.

        Parameters
        ----------
        number : int
            Not counted from the end.

        Returns
        -------
        str

        Raises
        ------
        TargetError
            If there is no such class.
        """
        count = self.classes if self.labels is None else len(self.labels)
        if number not in range(count):
            raise TargetError(f"class {number} does not exist: the model has classes 0 to {count - 1}")
        return f"class {number}" if self.labels is None else self.labels[int(number)]

    def head(self, cut: Cut) -> Head:
        """The model from the input to a cut, ready to run, and open until the model is closed; see `heads`.

        Parameters
        ----------
        cut : Cut
            One of the graph's.

        Returns
        -------
        Head

        Raises
        ------
        ModelError, DeviceError
            If ONNX Runtime cannot run it, or not on the device.
        """
        if cut.name not in self._heads:
            self._heads[cut.name] = self.heads([cut]).at(cut)
        return self._heads[cut.name]

    def heads(self, cuts: Sequence[Cut]) -> Heads:
        """The model from the input to some cuts, ready to run.

        Parameters
        ----------
        cuts : sequence of Cut
            Cuts of the graph; the input may be one.

        Returns
        -------
        Heads

        Raises
        ------
        ModelError, DeviceError
            As `head`.
        """
        inside = list({cut.name: cut for cut in cuts if cut.name != self.model.input_name}.values())
        sessions: dict[str, tuple[Session, int]] = {}
        for group in [[cut] for cut in inside] if self.model.arithmetic == CODES else [inside] * bool(inside):
            names = [cut.name for cut in group]
            session = self._parts.open(("head", *names), partial(self.graph.head, *group))
            sessions |= {name: (session, place) for place, name in enumerate(names)}
        return Heads(cuts, sessions, self.model.input_name)

    def looker(self, cuts: Sequence[Cut]) -> Callable[[Features], list[Features]]:
        """The features of one picture at some cuts; see `Heads.look`."""
        return self.heads(cuts).look

    def tail(self, cut: Cut) -> Predict:
        """The model from a cut to the logits, ready to run; see `head`."""
        # At the input the tail is the whole model, which is open already.
        at_input = cut.name == self.model.input_name
        open_tail = partial(self._parts.open, ("tail", cut.name), partial(self.graph.tail, cut))
        return Classifier(self.session if at_input else open_tail())

    def inside(self) -> Inside:
        """What explains the file, inside of it.

        Returns
        -------
        Inside

        Raises
        ------
        ModelError, DeviceError
            As `head`; `ChangedError`, which is one, if the file was changed since it was read.
        """
        self._parts.check_open()
        return Inside(self.model, self.device)

    def field(self, cut: Cut, inputs: Features | None = None, heads: Heads | None = None) -> CellField:
        """Where the cells of a cut look; measured once for every range that inputs have.

        Parameters
        ----------
        cut : Cut
            One of the graph's.
        inputs : ndarray of float32, shape (channels, H, W), optional
            A preprocessed picture, for its range; see `synthetic.range_of`.
        heads : Heads, optional
            Of this cut and others, where they are open already.

        Returns
        -------
        CellField
            ``how`` is 'open' where there is nothing that it could be measured on yet.

        Raises
        ------
        ModelError, DeviceError
            As `head`.
        """
        size = self.model.input_shape[1:]
        if cut.name == self.model.input_name:
            return input_field(size)
        if (source := range_of(self.model.preprocess, inputs)) is None:
            return unmeasured(size, cut.grid, cut.field, "", how=OPEN)
        key = cut.name, source.low.tobytes(), source.high.tobytes()
        # What one picture spans is hardly ever spanned again.
        cache = self._cache if source.preprocess is not None else NOTHING_KEPT
        asked = {"field": cut.name, "grid": cut.grid, "size": size, "range": source.to_plain()}
        if key not in self._fields and (kept := CellField.from_plain(cache.get(asked), size, cut.grid)):
            self._fields[key] = kept
        if key not in self._fields:
            if heads is None or cut.name not in measured_together(heads.cuts, size, MOST_SEEN):
                # Many pictures, and no more of them: what that takes is given back behind it.
                with self._parts.shared(keep=False):
                    heads = self.heads([cut])
            head = heads.at(cut)
            inside = np.s_[:, : cut.cell_shape[0]]
            field = measure_field(lambda batch: head(batch)[inside], source, size, cut.grid, cut.field)
            cache.put(asked, field.to_plain())
            self._fields[key] = field
        return self._fields[key]

    def is_read(
        self, cut: Cut, heads: Heads | None = None, tail: Predict | None = None, *, features: Features | None = None
    ) -> bool:
        """Whether the scores change with what the cells of a cut hold; see `cuts.are_read`.

        Parameters
        ----------
        cut : Cut
            One of the graph's, inside.
        heads : Heads, optional
            Of this cut and others, where they are open already.
        tail : Predict, optional
            The model behind the cut, where it is open already.
        features : ndarray of float32, shape (C, A, B), optional
            Of the picture that is asked about. Without them several of noise are tried until one is read, once: a cut
            may be read for some pictures alone.

        Returns
        -------
        bool

        Raises
        ------
        ModelError, DeviceError
            As `head`.
        """
        if features is not None:
            return are_read(tail or self.tail(cut), features, cut.kept)
        source = self.model.entry.ranges[0]
        asked = {"read": cut.name, "output": self.model.output_name, "range": source.to_plain()}
        if cut.name not in self._read and isinstance(kept := self._cache.get(asked), bool):
            self._read[cut.name] = kept
        if cut.name not in self._read:
            tail = tail or self.tail(cut)
            head = (heads or self.heads([cut])).at(cut)
            pictures = (
                source.noise(self.model.input_shape[1:], number, contrast=contrast, margin=MARGIN)
                for number, contrast in enumerate(_CONTRASTS)
            )
            self._read[cut.name] = any(are_read(tail, head(picture[None])[0], cut.kept) for picture in pictures)
            self._cache.put(asked, self._read[cut.name])
        return self._read[cut.name]

    def gradient(self, cut: Cut, *, rules: str = GRADIENT) -> Gradient:
        """The backward graph of the tail, ready to run; 0 by channels that hold tokens which are no cells.

        Parameters
        ----------
        cut : Cut
            One of the graph's.
        rules : str
            What cotangents mean; see `vjp.build_vjp`.

        Returns
        -------
        Gradient

        Raises
        ------
        GradientError
            If an operator of the tail has no rule.
        ModelError, DeviceError
            As `head`.
        """
        return self._backward(cut, rules)

    def tail_of_gradient(self, cut: Cut, *, rules: str = GRADIENT) -> Predict:
        """As `tail`, but by the graph of `gradient`, for those who need that one anyway."""
        backward = self._backward(cut, rules)
        return lambda batch: backward.logits(batch, self.classes)

    def _backward(self, cut: Cut, rules: str) -> Differentiator:
        def make() -> onnx.ModelProto:
            return build_vjp(unsigned(self.graph.tail(cut)), rest=True, rules=rules)

        return self._differentiator(("gradient", cut.name, rules), make, cut.kept)

    def _differentiator(
        self, key: tuple[object, ...], make: Callable[[], onnx.ModelProto], kept: int = 0
    ) -> Differentiator:
        def witness() -> Session:
            cpu = Device("cpu", "what another device computes is held against it")
            return Session(make(), cpu, batch=self.model.batch, folder=self.model.path.parent)

        return Differentiator(self._parts.open(key, make), kept, None if self.device.plain else witness)

    def head_gradient(self, cut: Cut) -> Gradient:
        """The backward graph of the head, for linear forms of the features; see `gradient`."""
        key = ("gradient of head", cut.name)
        return self._differentiator(key, lambda: build_vjp(unsigned(self.graph.head(cut))))

    @cached_property
    def relevance_tells(self) -> bool:
        """Whether relevance tells of the model what gradients do not: it normalises tokens, or is smooth."""
        return relevance_tells(self.graph.net, self.graph.data, self.graph.shapes)

    def missing_rules(self, layer: str) -> list[str]:
        """What keeps the backward graph behind the cut of that name from being built; empty where nothing does."""
        try:
            return missing_rules(self.graph.tail(self.graph.find(layer)))
        except GradientError as error:
            return [str(error)]

"""ONNX Runtime sessions: model bytes turned into plain callables."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Timer

import numpy as np
import onnx
import onnxruntime as ort
from onnx.external_data_helper import uses_external_data

from onnx_evidence.errors import DeviceError, ModelError, one_line
from onnx_evidence.files import available_threads
from onnx_evidence.graphs import held_of
from onnx_evidence.sessions.bfloat16 import needs_care, run_with_care
from onnx_evidence.sessions.device import FATAL, Device, opened
from onnx_evidence.sessions.kernels import why_not, without_source
from onnx_evidence.sessions.watch import counted
from onnx_evidence.types import AnyArray, Features, FloatArray

# Seconds that a graph with a Loop may run for nothing and for each picture: how often it turns may hang on the picture,
# and then nobody knows whether it ends.
_PATIENCE, _PATIENCE_EACH = 10.0, 5.0
# What ONNX Runtime says of a run that was ended.
_TERMINATED = "terminate flag"
# How far a gradient may be from the CPU's, as a share of its size.
_ALIKE = 0.02
# What no gradient is told from 0 by, nats per unit of the features.
_NOTHING = 1e-9
# Memory that the tensors of one run may take; sessions keep what they once took, and a dozen are open at a time.
_MOST_BYTES = 2**30
# Rows that are run at once unless somebody says otherwise.
_USUAL_ROWS = 32
RUNTIME_VERSION = str(ort.__version__)
# The package forbids telemetry before ONNX Runtime is imported; where another library was quicker, from here on.
ort.disable_telemetry_events()


def _options(threads: int, folder: Path | None, *, share: bool, keep: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    # Kept for the next run, which is quicker, or given back.
    options.enable_cpu_mem_arena = keep
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    if share:
        # Weights beside the graph are shared by all sessions: packed anew each would copy them.
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads
    # Threads that spin after a run slow numpy's own threads down many times.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _open(
    model: onnx.ModelProto | bytes,
    device: Device,
    threads: int | None,
    folder: Path | None,
    *,
    keep: bool = True,
    profile: str = "",
) -> ort.InferenceSession:
    held: dict[str, ort.OrtValue] = {}
    if isinstance(model, bytes):
        data, place, beside = model, folder, False
    else:
        model, weights = held_of(model)
        data, beside = model.SerializeToString(), any(map(uses_external_data, model.graph.initializer))
        place = folder if beside else None
        # Their memory, not a copy.
        held = {name: ort.OrtValue.ortvalue_from_numpy(values) for name, values in weights.items()}
    options = _options(threads or available_threads(), place, share=beside, keep=keep)
    if held:
        options.add_external_initializers(list(held), list(held.values()))
        for name, values in held.items() if device.plain else ():
            options.add_initializer(name, values)  # read where they are; another device needs its own copy
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    try:
        session = opened(data, options, device)
    except DeviceError:
        raise
    except Exception as error:
        graph = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
        raise ModelError(f"ONNX Runtime cannot run the model: {why_not(graph, error, device.name)}") from error
    # Its copy of the graph and all weights, kept for falling back to another device, which is refused here.
    session._model_bytes = None
    session._held = held  # the session reads there
    return session


class EndlessError(ModelError):
    """A run has not ended in time; to try it again, in another batch, would take as long."""


class Session:
    """One graph whose inputs and outputs have the batch in front, ready to run.

    `run` of one with one input that ends at a cut is a `types.Head`.

    Parameters
    ----------
    model : onnx.ModelProto or bytes
        The graph; bytes are opened as they are, the way that ONNX Runtime itself opens a file.
    device : Device
        Where to run.
    batch : int, optional
        The batch size that the graph insists on; batches are then cut and filled up to it.
    threads : int, optional
        Threads of the CPU provider; all available ones by default.
    folder : Path, optional
        Where weights lie that the graph only refers to.
    outputs : sequence of str, optional
        The outputs that are asked for; by default all, in the order of the graph.
    part : str
        What of the model it is, for `watched`.
    row_bytes : int
        Memory that one row takes, as far as that is known. Batches are cut so that a run takes no more than a
        gibibyte, and a session whose usual batches would take more keeps none of it between runs.

    Raises
    ------
    ModelError
        If ONNX Runtime cannot run the graph (an operator it does not have, for instance).
    DeviceError
        If the session does not run on ``device``.
    """

    def __init__(
        self,
        model: onnx.ModelProto | bytes,
        device: Device,
        *,
        batch: int | None = None,
        threads: int | None = None,
        folder: Path | None = None,
        outputs: Sequence[str] | None = None,
        row_bytes: int = 0,
        part: str = "",
    ) -> None:
        self._session: ort.InferenceSession | None = _open(
            model, device, threads, folder, keep=row_bytes * _USUAL_ROWS <= _MOST_BYTES
        )
        self._most = max(1, _MOST_BYTES // max(row_bytes, 1))
        self._outputs = None if outputs is None else list(outputs)
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._last = [each.name for each in self._session.get_outputs()][-1:]  # a graph may give nothing
        self.inputs = len(self._inputs)
        self._batch, self._part = batch, part
        self._turns = _has_loop(model)
        self._careful = needs_care(self._session)
        self.passes = 0

    def run(self, batch: AnyArray) -> AnyArray:
        """The first output for a batch of any size; see `run_all`."""
        return self.run_all(batch)[0]

    def run_last(self, *batches: AnyArray) -> AnyArray:
        """The last output alone; see `run_all`."""
        return self._run_all(batches, self._last)[0]

    def close(self) -> None:
        """Give back what it takes; whoever runs it from now on is refused."""
        self._session = None

    def run_all(self, *batches: AnyArray) -> list[AnyArray]:
        """All outputs for a batch of any size; rows of the results belong to rows of the batch.

        Parameters
        ----------
        *batches : ndarray, shape (N, ...)
            One per input of the graph, in its order.

        Returns
        -------
        list of ndarray, shape (N, ...)
            One per output, in the graph's own dtype; bfloat16, which numpy does not have, as float32.

        Raises
        ------
        ModelError
            If the run fails, does not end, or gives another number of rows than it got, or the session is closed.
        """
        return self._run_all(batches, self._outputs)

    def _run_all(self, batches: tuple[AnyArray, ...], outputs: list[str] | None) -> list[AnyArray]:
        rows = len(batches[0])
        self.passes += rows
        size = self._batch or self._most
        if self._batch is None and rows <= size:
            return self._run(batches, outputs)
        parts = []
        for start in range(0, rows, size):
            given = tuple(batch[start : start + size] for batch in batches)
            if self._batch is not None:
                given = tuple(_filled(batch, size) for batch in given)
            parts.append([each[: min(size, rows - start)] for each in self._run(given, outputs)])
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def _run(self, batches: tuple[AnyArray, ...], outputs: list[str] | None) -> list[AnyArray]:
        session = self._session
        if session is None:
            raise ModelError("the model was closed, and nothing of it can be run any more: open it again")
        try:
            with _limited(len(batches[0]) if self._turns else None) as options, counted(self._part):
                given = dict(zip(self._inputs, batches, strict=True))
                run = partial(run_with_care, session) if self._careful else session.run
                results = run(outputs, given, options)
        except Exception as error:
            if _TERMINATED in str(error):
                raise EndlessError(
                    f"a Loop of the model had not ended after {_patience(len(batches[0])):g} s: the picture decides "
                    "how often it turns, so it may never end; export the model with a largest number of turns"
                ) from error
            raise _failed(error) from error
        for result in results:
            rows = len(result) if np.ndim(result) else "no"
            if rows != len(batches[0]) == 1 and np.ndim(result) == 1:
                raise ModelError(
                    f"the model gave one row of {rows} numbers without an axis for the batch, which was squeezed away: "
                    "pass --output with the name of the tensor before, or export the model without that"
                )
            if rows != len(batches[0]):
                raise ModelError(
                    f"the model gave {rows} rows for a batch of {len(batches[0])}: its batch size is fixed inside "
                    "the graph, or it answers about the steps of a sequence (a reader of text or sound, no classifier)"
                )
        return [np.asarray(result) for result in results]


def ran_on(
    model: onnx.ModelProto | bytes, device: Device, batches: Sequence[AnyArray], folder: Path | None = None
) -> dict[str, dict[str, int]]:
    """Which execution providers really ran the nodes of a graph, as ONNX Runtime's own profile of one run has it.

    Parameters
    ----------
    model : onnx.ModelProto or bytes
        As `Session` takes it.
    device : Device
        Where it runs.
    batches : sequence of ndarray
        One per input of the graph, in its order.
    folder : Path, optional
        Where weights lie that the graph only refers to.

    Returns
    -------
    dict
        By the name of a provider its operators, and how many nodes there are of each. Nodes are those that are left
        behind the runtime's optimisations; a provider that takes whole subgraphs has one node for each.

    Raises
    ------
    ModelError, DeviceError
        As `Session`; ModelError too if the run fails.
    """
    with tempfile.TemporaryDirectory() as place:
        session = _open(model, device, None, folder, profile=str(Path(place) / "run"))
        try:
            run = partial(run_with_care, session) if needs_care(session) else session.run
            with _limited(len(batches[0]) if _has_loop(model) else None) as limits:
                run(None, dict(zip([each.name for each in session.get_inputs()], batches, strict=True)), limits)
        except Exception as error:
            raise _failed(error) from error
        finally:
            written = Path(session.end_profiling())
        events = json.loads(written.read_text(encoding="utf-8"))
    found: dict[str, dict[str, int]] = {}
    for event in events:
        if event.get("cat") == "Node" and (provider := event["args"].get("provider")):
            operators = found.setdefault(provider, {})
            operators[event["args"]["op_name"]] = operators.get(event["args"]["op_name"], 0) + 1
    return found


def _failed(error: Exception) -> ModelError:
    return ModelError(f"ONNX Runtime failed while running the model: {without_source(one_line(error))}")


def _has_loop(model: onnx.ModelProto | bytes) -> bool:
    """Whether there may be a Loop, inside of other nodes too; serialized text may happen to have the word."""
    if isinstance(model, bytes):
        return b"Loop" in model
    return any(
        node.op_type == "Loop" or any(each.HasField("g") for each in node.attribute) for node in model.graph.node
    )


def _patience(rows: int) -> float:
    """Seconds that a run of so many pictures may take."""
    return _PATIENCE + _PATIENCE_EACH * rows


@contextlib.contextmanager
def _limited(rows: int | None) -> Iterator[ort.RunOptions | None]:
    """Options of a run of so many pictures, which ends when its time is over; None for one without limit."""
    if rows is None:
        yield None
        return
    options = ort.RunOptions()
    options.log_severity_level = FATAL
    timer = Timer(_patience(rows), lambda: setattr(options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def _filled(part: AnyArray, size: int) -> AnyArray:
    if len(part) == size:
        return part
    return np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])


class Classifier:
    """A `Session` that ends in logits, as a `types.Predict`.

    Parameters
    ----------
    session : Session
        Its output is logits.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def __call__(self, batch: Features) -> FloatArray:
        """Logits (N, K) in float64; singleton axes of the output are dropped.

        Parameters
        ----------
        batch : ndarray of float32, shape (N, C, A, B)
            What the session takes: inputs, or features at a cut.

        Returns
        -------
        ndarray of float64, shape (N, K)

        Raises
        ------
        ModelError
            If one is not a finite number.
        """
        return finite_logits(self.session.run(batch))


class Differentiator:
    """A `Session` of a backward graph, as a `types.Gradient`.

    Parameters
    ----------
    session : Session
        Its inputs are features, cotangent and, for scores that are not linear, rest; its outputs gradient and logits.
    kept : int
        How many of the last channels hold tokens that are no cells (a class token, registers): they get nothing.
    witness : callable, optional
        Opens the same graph on the CPU. The first gradient is held against that one's: a device that computes some
        operator otherwise gives a wrong map, and nothing else would tell.
    """

    def __init__(self, session: Session, kept: int = 0, witness: Callable[[], Session] | None = None) -> None:
        self.session, self._kept, self._witness = session, kept, witness

    def __call__(self, batch: Features, direction: FloatArray, rest: FloatArray) -> tuple[FloatArray, Features]:
        """Logits and the gradient of a score; see `types.Gradient`.

        Raises
        ------
        ModelError
            If one is not a finite number.
        DeviceError
            If the device gives another gradient than the CPU.
        """
        given = (direction, rest)[: self.session.inputs - 1]
        rows = [np.repeat(each[None].astype(batch.dtype), len(batch), axis=0) for each in given]
        gradient, logits = self.session.run_all(batch, *rows)
        if self._witness is not None:
            # The last is the picture itself, or nearest to it; what is even may lie where rounding is all there is.
            _hold_against(gradient[-1:], self._witness().run_all(batch[-1:], *(each[-1:] for each in rows))[0])
            self._witness = None
        if not np.isfinite(gradient).all():
            raise ModelError(
                "the backward graph gave a number that is not finite: take another --background, or --method window"
            )
        if self._kept:
            gradient[:, -self._kept :] = 0
        return finite_logits(logits), gradient

    def logits(self, batch: Features, classes: int) -> FloatArray:
        """Logits alone, (N, K) for K classes, whatever the gradient is; see `Classifier`."""
        nothing = np.zeros((len(batch), classes), batch.dtype)
        return finite_logits(self.session.run_last(batch, *[nothing] * (self.session.inputs - 1)))


def _hold_against(gradient: Features, other: Features) -> None:
    """Refuse a gradient that is not the CPU's, but for rounding, which may open or shut a few rectifiers."""
    apart = float(np.linalg.norm(gradient.astype(np.float64) - other))
    size = float(np.linalg.norm(other.astype(np.float64)))
    if not (np.isfinite(size) and apart <= _ALIKE * size + _NOTHING):
        raise DeviceError(
            f"the backward graph gives another gradient on this device than the CPU: they are {apart:.3g} apart, and "
            f"the CPU's is {size:.3g} long; more than {_ALIKE:.0%} of that is no rounding: take --device cpu"
        )


def finite_logits(output: AnyArray) -> FloatArray:
    """Class scores (N, K) in float64, from an output with singleton axes.

    Parameters
    ----------
    output : ndarray, shape (N, K) with axes of length 1 anywhere behind the first

    Returns
    -------
    ndarray of float64, shape (N, K)

    Raises
    ------
    ModelError
        If one is not a finite number.
    """
    logits = output.reshape(len(output), -1).astype(np.float64)
    if not np.isfinite(logits).all():
        raise ModelError("the model gave a class score that is not a finite number: no evidence can be counted")
    return logits

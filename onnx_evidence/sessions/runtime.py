"""ONNX Runtime sessions: which device really runs, and model bytes turned into plain callables.

ONNX Runtime falls back to the CPU in silence: the device is settled once, by trying, and sessions are held to it.
"""

import contextlib
import ctypes
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx.external_data_helper import uses_external_data

from onnx_evidence.errors import DeviceError, ModelError, SettingError, one_line
from onnx_evidence.files import available_threads
from onnx_evidence.sessions.bfloat16 import needs_care, run_with_care
from onnx_evidence.sessions.kernels import why_not, without_source
from onnx_evidence.types import AnyArray, Features, FloatArray

DEVICES = ("auto", "cpu", "cuda")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Shared libraries that ONNX Runtime's CUDA provider loads, and the package that brings each.
_CUDA_LIBRARIES = {
    "libcuda.so.1": "the NVIDIA driver",
    "libcudart.so.13": "the CUDA 13 runtime",
    "libcublasLt.so.13": "cuBLAS for CUDA 13",
    "libcufft.so.12": "cuFFT for CUDA 13",
    "libcudnn.so.9": "cuDNN 9",
}
# Seconds that a graph with a Loop may run for nothing and for each picture: how often it turns may hang on the picture,
# and then nobody knows whether it ends.
_PATIENCE, _PATIENCE_EACH = 10.0, 5.0
# What ONNX Runtime says of a run that was ended.
_TERMINATED = "terminate flag"
# Exact float32: the split is proved to 1e-4 of a logit, and TensorFloat-32 alone loses 1e-3. New batch shapes must
# not start a search among algorithms.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
# How far a gradient may be from the CPU's, as a share of its size.
_ALIKE = 0.02
# What no gradient is told from 0 by, nats per unit of the features.
_NOTHING = 1e-9
# Above its errors: what fails is raised, and said in our own line.
_FATAL = 4
# Memory that the tensors of one run may take; sessions keep what they once took, and a dozen are open at a time.
_MOST_BYTES = 2**30
# Rows that are run at once unless somebody says otherwise.
_USUAL_ROWS = 32
RUNTIME_VERSION = str(ort.__version__)
# The package forbids telemetry before ONNX Runtime is imported; where another library was quicker, from here on.
ort.disable_telemetry_events()


@dataclass(frozen=True)
class Device:
    """The device that sessions run on.

    Attributes
    ----------
    name : {'cpu', 'cuda'}
        Where the work is done.
    reason : str
        Why it was taken.
    """

    name: str
    reason: str

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider."""
        return _PROVIDERS[self.name]


def settle_device(requested: str) -> Device:
    """Settle where to run, by trying.

    Parameters
    ----------
    requested : {'auto', 'cpu', 'cuda'}
        'auto' takes the GPU where it works.

    Returns
    -------
    Device
        'cpu' or 'cuda', never 'auto'.

    Raises
    ------
    DeviceError
        If 'cuda' was asked for and does not work; the message says what is missing.
    SettingError
        If it is none of the three.
    """
    if requested not in DEVICES:
        raise SettingError(f"device {requested!r} is unknown: take one of {', '.join(DEVICES)}")
    if requested == "cpu":
        return Device("cpu", "asked for")
    missing = _why_no_cuda()
    if missing is None:
        return Device("cuda", "asked for" if requested == "cuda" else "a working GPU was found")
    if requested == "cuda":
        raise DeviceError(f"device 'cuda' does not work here: {missing}; or take --device cpu")
    return Device("cpu", f"no working GPU: {missing}")


def _why_no_cuda() -> str | None:
    """What keeps CUDA from working; None if it works."""
    if _PROVIDERS["cuda"] not in ort.get_available_providers():
        return "the installed onnxruntime has no CUDA provider (install onnxruntime-gpu, without onnxruntime beside it)"
    # The driver first: without it the provider would fail after printing a page to stderr.
    if not _loads("libcuda.so.1") and not _loads("nvcuda.dll"):
        return "the NVIDIA driver is missing (libcuda.so.1 cannot be loaded)"
    try:
        # It reports what it cannot load on stdout, which belongs to our own output.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
        session = _session(_identity(), "cuda", threads=1)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many types here; each means: no CUDA
        return one_line(error)
    if _PROVIDERS["cuda"] in session.get_providers():
        return None
    absent = [f"{owner} ({name})" for name, owner in _CUDA_LIBRARIES.items() if not _loads(name)]
    return f"missing: {', '.join(absent)}" if absent else "ONNX Runtime fell back to the CPU (see its log)"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _identity() -> bytes:
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _session(
    model: bytes, device: str, threads: int, folder: Path | None = None, *, share: bool = True, keep: bool = True
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # Kept for the next run, which is quicker, or given back.
    options.enable_cpu_mem_arena = keep
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
        if share:
            # Weights beside the model are mapped, and shared by all sessions: packed anew each would copy them.
            options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    # Threads that spin after a run slow numpy's own threads down many times.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [_PROVIDERS["cpu"]]
    if device == "cuda":
        providers.insert(0, (_PROVIDERS["cuda"], _CUDA_OPTIONS))
    return ort.InferenceSession(model, options, providers=providers)


def _open(
    model: onnx.ModelProto | bytes, device: Device, threads: int | None, folder: Path | None, *, keep: bool = True
) -> ort.InferenceSession:
    try:
        if isinstance(model, bytes):
            session = _session(model, device.name, threads or available_threads(), folder, share=False, keep=keep)
        else:
            place = folder if any(map(uses_external_data, model.graph.initializer)) else None
            session = _session(model.SerializeToString(), device.name, threads or available_threads(), place, keep=keep)
    except Exception as error:
        graph = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
        raise ModelError(f"ONNX Runtime cannot run the model: {why_not(graph, error, device.name)}") from error
    if device.provider not in session.get_providers():
        raise DeviceError(f"the session fell back from {device.name} to {session.get_providers()[0]}")
    # Its copy of the graph and all weights, kept for falling back to another device, which is refused here.
    session._model_bytes = None
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
    ) -> None:
        self._session: ort.InferenceSession | None = _open(
            model, device, threads, folder, keep=row_bytes * _USUAL_ROWS <= _MOST_BYTES
        )
        self._most = max(1, _MOST_BYTES // max(row_bytes, 1))
        self._outputs = None if outputs is None else list(outputs)
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._last = [each.name for each in self._session.get_outputs()][-1:]  # a graph may give nothing
        self.inputs = len(self._inputs)
        self._batch = batch
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
            with _limited(len(batches[0]) if self._turns else None) as options:
                given = dict(zip(self._inputs, batches, strict=True))
                run = partial(run_with_care, session) if self._careful else session.run
                results = run(outputs, given, options)
        except Exception as error:
            if _TERMINATED in str(error):
                raise EndlessError(
                    f"a Loop of the model had not ended after {_patience(len(batches[0])):g} s: the picture decides "
                    "how often it turns, so it may never end; export the model with a largest number of turns"
                ) from error
            raise ModelError(
                f"ONNX Runtime failed while running the model: {without_source(one_line(error))}"
            ) from error
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
    options.log_severity_level = _FATAL
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

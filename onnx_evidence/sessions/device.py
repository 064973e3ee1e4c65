"""Where sessions run: a device is settled once, by trying, and sessions are held to it.

ONNX Runtime falls back to the CPU in silence, for a whole session or for single nodes.
"""

import contextlib
import ctypes
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
import onnxruntime as ort

from onnx_evidence.errors import DeviceError, SettingError, one_line
from onnx_evidence.sessions.kernels import without_source
from onnx_evidence.types import ProviderLike

DEVICES = ("auto", "cpu", "cuda")
# Above its errors: what fails is raised, and said in our own line.
FATAL = 4
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_NVIDIA = frozenset({_CUDA, "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"})
_FORM = "give NAME[:key=value,...], as OpenVINOExecutionProvider:device_type=CPU"
# Exact float32: the split is proved to 1e-4 of a logit, and TensorFloat-32 alone loses 1e-3. New batch shapes must
# not start a search among algorithms.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
# Shared libraries that ONNX Runtime's CUDA provider loads, and the package that brings each.
_CUDA_LIBRARIES = {
    "libcuda.so.1": "the NVIDIA driver",
    "libcudart.so.13": "the CUDA 13 runtime",
    "libcublasLt.so.13": "cuBLAS for CUDA 13",
    "libcufft.so.12": "cuFFT for CUDA 13",
    "libcudnn.so.9": "cuDNN 9",
}


@dataclass(frozen=True)
class Provider:
    """One of ONNX Runtime's execution providers, under its own name, with its own options."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """NAME[:key=value,...], which `read_provider` reads."""
        return self.name + ":" * bool(self.options) + ",".join(f"{key}={value}" for key, value in self.options)


_PROVIDERS = {"cpu": (Provider(_CPU),), "cuda": (Provider(_CUDA, tuple(_CUDA_OPTIONS.items())),)}


@dataclass(frozen=True)
class Device:
    """The device that sessions run on.

    Attributes
    ----------
    name : str
        'cpu', 'cuda', or the execution providers that were asked for, as text.
    reason : str
        Why it was taken.
    given : tuple of Provider
        The providers that were asked for, the preferred first.
    """

    name: str
    reason: str
    given: tuple[Provider, ...] = ()

    @property
    def providers(self) -> tuple[Provider, ...]:
        """What a node is offered to, in this order; in the end all go to the CPU."""
        wanted = self.given or _PROVIDERS[self.name]
        return wanted if any(each.name == _CPU for each in wanted) else (*wanted, Provider(_CPU))

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the preferred execution provider."""
        return self.providers[0].name

    @property
    def nvidia(self) -> bool:
        """Whether work is offered to NVIDIA's GPUs."""
        return any(each.name in _NVIDIA for each in self.providers)

    @property
    def plain(self) -> bool:
        """Whether it is the CPU's own provider, which computes what others are held against."""
        return self.provider == _CPU


def read_provider(given: ProviderLike) -> Provider:
    """A provider from NAME[:key=value,...], or from ONNX Runtime's own pair of name and options.

    In text what has no '=' belongs to the value before its comma, as in ``device_type=HETERO:GPU,CPU``. SettingError if
    it is neither, or an option is there twice.
    """
    if isinstance(given, str):
        name, _, text = given.partition(":")
        options = [each.partition("=")[::2] for each in _split(text)]
    else:
        try:
            name, pairs = given
            options = [(str(key), str(value)) for key, value in pairs.items()]
        except (TypeError, ValueError, AttributeError):
            raise SettingError(f"provider {given!r}: {_FORM}, or a name with a dict of options") from None
    found = Provider(str(name).strip(), tuple((key.strip(), value.strip()) for key, value in options))
    if not found.name or not all(key and value for key, value in found.options):
        raise SettingError(f"provider {given!r}: {_FORM}")
    if len(dict(found.options)) < len(found.options):
        raise SettingError(f"provider {given!r}: an option is there twice: give it once")
    return found


def _split(text: str) -> list[str]:
    """Options of a text, each with all that follows it up to the next."""
    options: list[str] = []
    for part in text.split(",") if text else ():
        if "=" in part or not options:
            options.append(part)
        else:
            options[-1] += f",{part}"
    return options


def settle_device(requested: str, providers: Sequence[ProviderLike] = ()) -> Device:
    """Settle where to run, by trying.

    Parameters
    ----------
    requested : {'auto', 'cpu', 'cuda'}
        'auto' takes the GPU where it works.
    providers : sequence of str or (str, dict)
        Execution providers of the installed ONNX Runtime, the preferred first, in place of a device.

    Returns
    -------
    Device
        Never 'auto'.

    Raises
    ------
    DeviceError
        If what was asked for does not work; the message says what is missing.
    SettingError
        If the device is none of the three, providers are asked for beside one, or one cannot be read.
    """
    if requested not in DEVICES:
        raise SettingError(f"device {requested!r} is unknown: take one of {', '.join(DEVICES)}")
    if providers is None or not isinstance(providers, Iterable):
        raise SettingError(f"providers {providers!r}: give a list of them")
    if providers:
        return _settle_providers(requested, providers)
    if requested == "cpu":
        return Device("cpu", "asked for")
    missing = _why_no_cuda()
    if missing is None:
        return Device("cuda", "asked for" if requested == "cuda" else "a working GPU was found")
    if requested == "cuda":
        raise DeviceError(f"device 'cuda' does not work here: {missing}; or take --device cpu")
    return Device("cpu", f"no working GPU: {missing}")


def _settle_providers(requested: str, given: Sequence[ProviderLike]) -> Device:
    if isinstance(given, str):
        raise SettingError(f"providers {given!r}: give a list of them")
    if requested != "auto":
        raise SettingError(f"device {requested!r} and providers are two answers to one question: give one of them")
    wanted = tuple(read_provider(each) for each in given)
    names, there = [each.name for each in wanted], ort.get_available_providers()
    for name in names:
        if name not in there:
            raise DeviceError(f"provider {name!r} is none that the installed onnxruntime has: {', '.join(there)}")
        if names.count(name) > 1:
            raise SettingError(f"provider {name!r} is given twice: give it once")
    if any(each.name == _CPU and each.options for each in wanted):
        raise SettingError(f"provider {_CPU!r} has no options: leave them out")
    if names == [_CPU]:
        return Device("cpu", "asked for")
    device = Device(" then ".join(map(str, wanted)), "asked for", wanted)
    if missing := (_why_no_cuda() if names[0] == _CUDA else None) or _why_not(device):
        raise DeviceError(f"{device.name} does not work here: {missing}; see the provider's own options")
    return device


def opened(model: bytes, options: ort.SessionOptions, device: Device) -> ort.InferenceSession:
    """A session on a device; DeviceError, with what ONNX Runtime says, if it is not on each of its providers."""
    if device.plain:
        return ort.InferenceSession(model, options, providers=_for_runtime(device))
    # It reports what it cannot load on stdout, which belongs to our own output.
    with contextlib.redirect_stdout(io.StringIO()) as said:
        session = ort.InferenceSession(model, options, providers=_for_runtime(device))
    got = session.get_providers()
    for name in (each.name for each in device.providers):
        if name not in got:
            told = re.search(r"^EP Error (.*)", said.getvalue(), re.MULTILINE)
            raise DeviceError(without_source(told[1]) if told else f"the session fell back from {name} to {got[0]}")
    return session


def _for_runtime(device: Device) -> list[str | tuple[str, dict[str, str]]]:
    return [(each.name, dict(each.options)) if each.options else each.name for each in device.providers]


def _why_not(device: Device) -> str | None:
    """What keeps a device from working; None if it works."""
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    try:
        opened(_identity(), options, device)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many types here; each means: not that one
        return without_source(one_line(error))
    return None


def _why_no_cuda() -> str | None:
    """What keeps CUDA from working; None if it works."""
    if _CUDA not in ort.get_available_providers():
        return "the installed onnxruntime has no CUDA provider (install onnxruntime-gpu, without onnxruntime beside it)"
    # The driver first: without it the provider would fail after printing a page to stderr.
    if not _loads("libcuda.so.1") and not _loads("nvcuda.dll"):
        return "the NVIDIA driver is missing (libcuda.so.1 cannot be loaded)"
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    why = _why_not(Device("cuda", "tried"))
    absent = [f"{owner} ({name})" for name, owner in _CUDA_LIBRARIES.items() if not _loads(name)]
    return f"missing: {', '.join(absent)}" if why and absent else why


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

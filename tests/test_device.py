"""The device that was asked for is the device that runs: CUDA, or execution providers by their own names."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cli import main
from onnx_evidence.errors import DeviceError, EvidenceError, SettingError
from onnx_evidence.sessions import Device, Session, device, ran_on, settle_device
from onnx_evidence.sessions.device import read_provider
from tests.batch import write_pictures
from tests.test_runtime import NEGATION, one_node

CPU = Device("cpu", "asked for")
CUDA = Device("cuda", "asked for")
CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"


def computer(monkeypatch: pytest.MonkeyPatch, *, built: bool, loads: set[str], runs_on: str | Exception) -> None:
    """Make this computer one with these libraries, whose probing session runs on that provider."""
    providers = [CUDA_PROVIDER, CPU_PROVIDER] if built else [CPU_PROVIDER]
    monkeypatch.setattr(device.ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(device.ort, "preload_dlls", lambda: sys.stdout.write("Failed to load a library\n"))
    monkeypatch.setattr(device, "_loads", lambda library: library in loads)

    def session(model: bytes, options: object, providers: list[tuple[str, dict[str, str]]]) -> SimpleNamespace:
        assert loads & {"libcuda.so.1", "nvcuda.dll"}, "without a driver the provider prints a page of its own"
        assert providers[0][0] == CUDA_PROVIDER
        if isinstance(runs_on, Exception):
            raise runs_on
        return SimpleNamespace(get_providers=lambda: [runs_on, CPU_PROVIDER])

    monkeypatch.setattr(device.ort, "InferenceSession", session)


EVERYTHING = set(device._CUDA_LIBRARIES)
BROKEN = {
    "no CUDA build": (
        {"built": False, "loads": EVERYTHING, "runs_on": CUDA_PROVIDER},
        r"the installed onnxruntime has no CUDA provider \(install onnxruntime-gpu",
    ),
    "no driver": (
        {"built": True, "loads": set(), "runs_on": CUDA_PROVIDER},
        r"the NVIDIA driver is missing \(libcuda.so.1 cannot be loaded\)",
    ),
    "no cuDNN": (
        {"built": True, "loads": EVERYTHING - {"libcudnn.so.9"}, "runs_on": CPU_PROVIDER},
        r"missing: cuDNN 9 \(libcudnn.so.9\)(; or|$)",
    ),
    "no CUDA libraries": (
        {"built": True, "loads": {"libcuda.so.1"}, "runs_on": CPU_PROVIDER},
        r"missing: the CUDA 13 runtime \(libcudart.so.13\), cuBLAS .*, cuFFT .*, cuDNN 9 \(libcudnn.so.9\)",
    ),
    "silent": (
        {"built": True, "loads": EVERYTHING, "runs_on": CPU_PROVIDER},
        r"the session fell back from CUDAExecutionProvider to CPUExecutionProvider",
    ),
    "no GPU": (
        {"built": True, "loads": EVERYTHING, "runs_on": RuntimeError("CUDA failure 100: no device\nstack\ntrace")},
        r"CUDA failure 100: no device(; or|$)",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_cuda_that_does_not_work_is_an_error_that_says_what_is_missing(fault: str, monkeypatch: pytest.MonkeyPatch):
    state, missing = BROKEN[fault]
    computer(monkeypatch, **state)
    with pytest.raises(DeviceError, match=rf"^device 'cuda' does not work here: {missing}") as caught:
        settle_device("cuda")
    assert str(caught.value).endswith("; or take --device cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", BROKEN)
def test_auto_takes_the_cpu_where_cuda_does_not_work_and_says_why(fault: str, monkeypatch: pytest.MonkeyPatch):
    state, missing = BROKEN[fault]
    computer(monkeypatch, **state)
    settled = settle_device("auto")
    assert (settled.name, settled.provider) == ("cpu", CPU_PROVIDER)
    assert re.match(rf"no working GPU: {missing}", settled.reason)


@pytest.mark.parametrize("driver", ["libcuda.so.1", "nvcuda.dll"])
@pytest.mark.parametrize(("asked", "reason"), [("cuda", "asked for"), ("auto", "a working GPU was found")])
def test_cuda_that_works_is_taken(asked: str, reason: str, driver: str, monkeypatch: pytest.MonkeyPatch):
    computer(monkeypatch, built=True, loads={driver}, runs_on=CUDA_PROVIDER)
    settled = settle_device(asked)
    assert settled == Device("cuda", reason)
    assert settled.provider == CUDA_PROVIDER
    assert settled.nvidia


def test_looking_for_a_gpu_prints_nothing_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    computer(monkeypatch, built=True, loads=EVERYTHING, runs_on=CPU_PROVIDER)
    settle_device("auto")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_cuda_sessions_compute_in_exact_float32(name: str, monkeypatch: pytest.MonkeyPatch):
    """TensorFloat-32, ONNX Runtime's default, would break the certificate of every split."""
    asked = []

    def session(model: bytes, options: object, providers: list[Any]) -> SimpleNamespace:
        asked.append(providers)
        return SimpleNamespace(get_providers=lambda: [CUDA_PROVIDER, CPU_PROVIDER])

    monkeypatch.setattr(device.ort, "InferenceSession", session)
    device.opened(b"", ort.SessionOptions(), Device(name, "asked for"))
    (providers,) = asked
    assert providers[-1] == CPU_PROVIDER
    if name == "cpu":
        assert providers == [CPU_PROVIDER]
    else:
        assert providers[0][0] == CUDA_PROVIDER
        assert providers[0][1]["use_tf32"] == "0"


def test_the_cpu_is_taken_without_looking_for_a_gpu(monkeypatch: pytest.MonkeyPatch):
    def look() -> None:
        raise AssertionError("looked for a GPU")

    monkeypatch.setattr(device, "_why_no_cuda", look)
    assert settle_device("cpu") == CPU
    with pytest.raises(AssertionError, match="looked for a GPU"):
        settle_device("auto")


@pytest.mark.parametrize("name", ["gpu", "CUDA", "tensorrt"])
def test_an_unknown_device_is_refused_and_not_taken_for_auto(name: str, monkeypatch: pytest.MonkeyPatch):
    computer(monkeypatch, built=True, loads=EVERYTHING, runs_on=CUDA_PROVIDER)
    with pytest.raises(EvidenceError, match=rf"device '{name}'"):
        settle_device(name)


def test_a_library_that_cannot_be_loaded_is_seen():
    assert not device._loads("libthere-is-no-such-library.so.0")


class FallenBack:
    """An ONNX Runtime session that was asked for CUDA and runs on the CPU without a word."""

    def __init__(self, model: bytes, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
        assert providers[0][0] == CUDA_PROVIDER

    def get_providers(self) -> list[str]:
        return [CPU_PROVIDER]


def test_a_session_that_fell_back_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device.ort, "InferenceSession", FallenBack)
    with pytest.raises(DeviceError, match="the session fell back from CUDAExecutionProvider to CPUExecutionProvider"):
        Session(one_node(NEGATION), CUDA)


# --- providers by their own names -----------------------------------------------------------------------------


GHOST = "GhostExecutionProvider"


@pytest.fixture
def ghost(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A provider that is there and takes no node, as ONNX Runtime allows; what sessions were asked for."""
    asked: list[Any] = []

    class Session(ort.InferenceSession):
        def __init__(self, model: bytes, options: ort.SessionOptions, providers: list[Any]) -> None:
            asked.append(providers)
            self._haunted = [each if isinstance(each, str) else each[0] for each in providers]
            super().__init__(model, options, providers=[CPU_PROVIDER])

        def get_providers(self) -> list[str]:
            return self._haunted

    monkeypatch.setattr(device.ort, "InferenceSession", Session)
    monkeypatch.setattr(device.ort, "get_available_providers", lambda: [GHOST, CPU_PROVIDER])
    return asked


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (GHOST, {}),
        (f"{GHOST}:", {}),
        (f"{GHOST}:device_type=CPU", {"device_type": "CPU"}),
        (f"{GHOST}:device_type=HETERO:GPU,CPU,threads=2", {"device_type": "HETERO:GPU,CPU", "threads": "2"}),
        (f"{GHOST}:config=a=b", {"config": "a=b"}),
        ((GHOST, {"device_type": "CPU", "threads": 2}), {"device_type": "CPU", "threads": "2"}),
        ((GHOST, {}), {}),
    ],
)
def test_providers_are_read_with_their_options(given, options):
    found = read_provider(given)
    assert (found.name, dict(found.options)) == (GHOST, options)
    assert read_provider(str(found)) == found


def test_pairs_of_name_and_options_are_taken_as_they_are():
    """With commas and equal signs that text has no way to write."""
    options = {"k": "a,device_type=GPU", "load": '{"CPU":{"A":"x","B":"y=z"}}'}
    assert dict(read_provider((GHOST, options)).options) == options


@pytest.mark.parametrize(
    "given",
    ["", ":a=b", f"{GHOST}:a", f"{GHOST}:=b", f"{GHOST}:a=", 7, (GHOST,), (GHOST, 3), (GHOST, {"a": ""})],
)
def test_what_is_no_provider_is_refused(given, ghost):
    with pytest.raises(SettingError, match=r"^provider .*: give NAME\[:key=value,...\]"):
        settle_device("auto", [given])


def test_providers_are_offered_nodes_in_the_order_given_and_the_cpu_last(ghost):
    settled = settle_device("auto", [f"{GHOST}:threads=2"])
    Session(one_node(NEGATION), settled)
    assert ghost == [[(GHOST, {"threads": "2"}), CPU_PROVIDER]] * 2
    assert (settled.name, settled.provider, settled.plain, settled.nvidia) == (
        f"{GHOST}:threads=2",
        GHOST,
        False,
        False,
    )
    assert settle_device("auto", [CPU_PROVIDER]) == CPU
    first = settle_device("auto", [CPU_PROVIDER, GHOST])
    assert (first.provider, first.plain) == (CPU_PROVIDER, True)


@pytest.mark.parametrize(
    ("asked", "given", "kind", "words"),
    [
        ("cpu", [GHOST], SettingError, "device 'cpu' and providers are two answers to one question"),
        ("auto", [GHOST, GHOST], SettingError, "is given twice"),
        ("auto", GHOST, SettingError, "give a list of them"),
        ("auto", None, SettingError, "providers None: give a list of them"),
        ("auto", 5, SettingError, "providers 5: give a list of them"),
        ("auto", [f"{GHOST}:a=1,a=2"], SettingError, "an option is there twice"),
        ("auto", [f"{CPU_PROVIDER}:a=1"], SettingError, "has no options: leave them out"),
        ("auto", ["ghost"], DeviceError, f"provider 'ghost' is none that the installed onnxruntime has: {GHOST}, CPU"),
    ],
)
def test_providers_that_cannot_be_had_are_refused_with_the_reason(asked, given, kind, words, ghost):
    with pytest.raises(kind, match=words):
        settle_device(asked, given)


@pytest.mark.parametrize("told", [True, False])
def test_a_provider_that_falls_back_is_refused_with_what_the_runtime_says(told, ghost, monkeypatch, capsys):
    class FallsBack(ort.InferenceSession):
        def __init__(self, model: bytes, options: object, providers: object) -> None:
            if told:
                print("*************** EP Error ***************")  # noqa: T201
                print("EP Error /onnxruntime_src/a.cc:1 auto f(int) no option threads\n when using []")  # noqa: T201

        def get_providers(self) -> list[str]:
            return [CPU_PROVIDER]

    monkeypatch.setattr(device.ort, "InferenceSession", FallsBack)
    words = "no option threads" if told else f"the session fell back from {GHOST} to {CPU_PROVIDER}"
    with pytest.raises(DeviceError, match=rf"^{GHOST}:threads=2 does not work here: .*{words}; see"):
        settle_device("auto", [f"{GHOST}:threads=2"])
    assert capsys.readouterr().out == ""


def test_nodes_that_ran_elsewhere_are_counted(ghost):
    given = [np.zeros((2, 3), np.float32)]
    assert ran_on(one_node(NEGATION), settle_device("auto", [GHOST]), given) == {CPU_PROVIDER: {"Neg": 1}}
    assert ran_on(one_node(NEGATION), CPU, given) == {CPU_PROVIDER: {"Neg": 1}}


def test_a_model_says_which_of_its_nodes_its_provider_did_not_run(ghost, tiny_model: Path):
    with DeployedModel(tiny_model, providers=[GHOST]) as deployed, DeployedModel(tiny_model) as usual:
        assert list(deployed.elsewhere) == [CPU_PROVIDER]
        assert sum(deployed.elsewhere[CPU_PROVIDER].values()) >= 1
        assert usual.elsewhere is None
    with pytest.raises(SettingError, match="has its preprocess, labels, device, providers"):
        Explainer(DeployedModel(tiny_model), providers=[GHOST])
    with pytest.raises(SettingError, match="has its preprocess, labels, device, providers"):
        Explainer(DeployedModel(tiny_model), providers=5)


def test_header_inspection_and_receipt_name_provider_and_nodes_elsewhere(ghost, tiny_model, tmp_path):
    run, pictures = CliRunner().invoke, write_pictures(tmp_path / "pictures", 1)
    out = tmp_path / "out"
    done = run(main, ["explain", str(tiny_model), str(pictures), "-o", str(out), "--provider", f"{GHOST}:threads=2"])
    assert done.exit_code == 0, done.output
    assert re.search(
        rf"^device: {GHOST}:threads=2 \(asked for\); not there, but by {CPU_PROVIDER}: \d+ \w+", done.output
    )
    line = (out / "manifest.jsonl").read_text()
    assert f'"device": "{GHOST}:threads=2"' in line
    assert f'"elsewhere": {{"{CPU_PROVIDER}": {{' in line
    checked = run(main, ["verify", str(out), "--provider", GHOST])
    assert checked.exit_code == 0, checked.output
    assert (
        f"device       {GHOST} (asked for); not there"
        in run(main, ["inspect", str(tiny_model), "--provider", GHOST]).output
    )
    both = run(main, ["inspect", str(tiny_model), "--provider", GHOST, "--device", "cpu"])
    assert (both.exit_code, "two answers to one question" in both.output) == (2, True)


def test_what_is_typed_wrongly_says_nothing_against_a_receipt(ghost, tiny_model, tmp_path):
    run, pictures = CliRunner().invoke, write_pictures(tmp_path / "pictures", 1)
    out = str(tmp_path / "out")
    assert run(main, ["explain", str(tiny_model), str(pictures), "-o", out, "--no-figures", "-q"]).exit_code == 0
    for wrong in (["--provider", f"{GHOST}:x"], ["--provider", GHOST, "--device", "cpu"], ["--provider", GHOST] * 2):
        found = run(main, ["verify", out, *wrong])
        assert (found.exit_code, "verdict" in found.output) == (2, False)


def test_counting_nodes_takes_what_a_session_takes(ghost):
    """bfloat16, which numpy does not have."""
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    model = one_node(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    found = ran_on(model, settle_device("auto", [GHOST]), [np.ones((1, 3), kind)])
    assert found == {CPU_PROVIDER: {"Cast": 1}}

"""The device that was asked for is the device that runs; sessions that run batches of any size."""

import re
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_evidence.errors import DeviceError, EvidenceError, ModelError
from onnx_evidence.files import machine
from onnx_evidence.sessions import runtime
from onnx_evidence.sessions.runtime import Classifier, Device, Differentiator, Session, available_threads, settle_device

node = helper.make_node
CPU = Device("cpu", "asked for")
CUDA = Device("cuda", "asked for")
CUDA_PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"


def one_node(item: onnx.NodeProto, shape: tuple[int | str, ...] = ("N", 3), domain: str = "") -> onnx.ModelProto:
    graph = helper.make_graph(
        [item],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


NEGATION = node("Neg", ["x"], ["y"])


def test_bfloat16_is_handed_over_exactly():
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    model = one_node(node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    x = np.random.default_rng(0).normal(0, [1e-30, 1.0, 1e30], (7, 3)).astype(np.float32)
    rounded = x.astype(kind).astype(np.float32)
    found = Session(model, CPU).run(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, rounded)
    assert not np.array_equal(found, x)  # the control
    back = one_node(node("Cast", ["x"], ["y"], to=TensorProto.FLOAT))
    back.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    np.testing.assert_array_equal(Session(back, CPU, batch=2).run(x.astype(kind)), rounded)


# --- the device -----------------------------------------------------------------------------------------------


def computer(monkeypatch: pytest.MonkeyPatch, *, built: bool, loads: set[str], runs_on: str | Exception) -> None:
    """Make this computer one with these libraries, whose probing session runs on that provider."""
    providers = [CUDA_PROVIDER, CPU_PROVIDER] if built else [CPU_PROVIDER]
    monkeypatch.setattr(runtime.ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(runtime.ort, "preload_dlls", lambda: sys.stdout.write("Failed to load a library\n"))
    monkeypatch.setattr(runtime, "_loads", lambda library: library in loads)

    def session(model: bytes, device: str, threads: int) -> SimpleNamespace:
        assert loads & {"libcuda.so.1", "nvcuda.dll"}, "without a driver the provider prints a page of its own"
        assert device == "cuda"
        if isinstance(runs_on, Exception):
            raise runs_on
        return SimpleNamespace(get_providers=lambda: [runs_on, CPU_PROVIDER])

    monkeypatch.setattr(runtime, "_session", session)


EVERYTHING = set(runtime._CUDA_LIBRARIES)
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
        r"ONNX Runtime fell back to the CPU",
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
    device = settle_device("auto")
    assert (device.name, device.provider) == ("cpu", CPU_PROVIDER)
    assert re.match(rf"no working GPU: {missing}", device.reason)


@pytest.mark.parametrize("driver", ["libcuda.so.1", "nvcuda.dll"])
@pytest.mark.parametrize(("asked", "reason"), [("cuda", "asked for"), ("auto", "a working GPU was found")])
def test_cuda_that_works_is_taken(asked: str, reason: str, driver: str, monkeypatch: pytest.MonkeyPatch):
    computer(monkeypatch, built=True, loads={driver}, runs_on=CUDA_PROVIDER)
    device = settle_device(asked)
    assert device == Device("cuda", reason)
    assert device.provider == CUDA_PROVIDER


def test_looking_for_a_gpu_prints_nothing_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    computer(monkeypatch, built=True, loads=EVERYTHING, runs_on=CPU_PROVIDER)
    settle_device("auto")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cuda_sessions_compute_in_exact_float32(device: str, monkeypatch: pytest.MonkeyPatch):
    """TensorFloat-32, ONNX Runtime's default, would break the certificate of every split."""
    asked = []
    monkeypatch.setattr(runtime.ort, "InferenceSession", lambda model, options, providers: asked.append(providers))
    runtime._session(b"", device, 1)
    (providers,) = asked
    assert providers[-1] == CPU_PROVIDER
    if device == "cpu":
        assert providers == [CPU_PROVIDER]
    else:
        assert providers[0][0] == CUDA_PROVIDER
        assert providers[0][1]["use_tf32"] == "0"


def test_the_cpu_is_taken_without_looking_for_a_gpu(monkeypatch: pytest.MonkeyPatch):
    def look() -> None:
        raise AssertionError("looked for a GPU")

    monkeypatch.setattr(runtime, "_why_no_cuda", look)
    assert settle_device("cpu") == CPU
    with pytest.raises(AssertionError, match="looked for a GPU"):
        settle_device("auto")


@pytest.mark.parametrize("name", ["gpu", "CUDA", "tensorrt"])
def test_an_unknown_device_is_refused_and_not_taken_for_auto(name: str, monkeypatch: pytest.MonkeyPatch):
    computer(monkeypatch, built=True, loads=EVERYTHING, runs_on=CUDA_PROVIDER)
    with pytest.raises(EvidenceError, match=rf"device '{name}'"):
        settle_device(name)


def test_a_library_that_cannot_be_loaded_is_seen():
    assert not runtime._loads("libthere-is-no-such-library.so.0")


class FallenBack:
    """An ONNX Runtime session that was asked for CUDA and runs on the CPU without a word."""

    def __init__(self, model: bytes, options: object, providers: list[tuple[str, dict[str, str]]]) -> None:
        assert providers[0][0] == CUDA_PROVIDER

    def get_providers(self) -> list[str]:
        return [CPU_PROVIDER]


def test_a_session_that_fell_back_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime.ort, "InferenceSession", FallenBack)
    with pytest.raises(DeviceError, match="the session fell back from cuda to CPUExecutionProvider"):
        Session(one_node(NEGATION), CUDA)


@pytest.mark.parametrize(
    ("limit", "threads"),
    [
        ("max 100000", 6),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("900000 100000", 6),
        ("100 0", 6),
        ("", 6),
        (None, 6),
    ],
)
def test_a_container_has_the_processors_whose_time_it_may_use(limit, threads, monkeypatch, tmp_path):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr("onnx_evidence.files.machine._CGROUP", tmp_path)
    if limit is not None:
        (tmp_path / "cpu.max").write_text(limit + "\n")
    assert available_threads() == threads
    monkeypatch.setenv("ONNX_EVIDENCE_THREADS", "2")
    assert available_threads() == min(2, threads)


def test_available_threads_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr("onnx_evidence.files.machine._CGROUP", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: {3, 5, 8}, raising=False)
    assert available_threads() == 3
    monkeypatch.delattr(machine.os, "sched_getaffinity")
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 7)
    assert available_threads() == 7


# --- sessions -------------------------------------------------------------------------------------------------


def rows(count: int) -> np.ndarray:
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3) + 1


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_session_runs_batches_of_any_size(count: int):
    session = Session(one_node(NEGATION), CPU, threads=1)
    np.testing.assert_array_equal(session.run(rows(count)), -rows(count))


@pytest.mark.parametrize("fixed", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_a_fixed_batch_is_filled_and_looped_over(count: int, fixed: int):
    session = Session(one_node(NEGATION, (fixed, 3)), CPU, batch=fixed, threads=1)
    np.testing.assert_array_equal(session.run(rows(count)), -rows(count))


def test_what_fills_a_fixed_batch_changes_nothing():
    # Filled with zeros, the logarithm would be infinite.
    session = Session(one_node(node("Log", ["x"], ["y"]), (4, 3)), CPU, batch=4, threads=1)
    np.testing.assert_allclose(session.run(rows(5)), np.log(rows(5)), rtol=1e-6)


@pytest.mark.parametrize(
    ("row_bytes", "sizes"),
    [
        (0, [7]),
        (2**30 // 7, [7]),
        (2**30 // 4 + 1, [3, 3, 1]),
        (2**29, [2, 2, 2, 1]),
        (2**30, [1] * 7),
        (2**40, [1] * 7),
    ],
)
def test_batches_are_cut_to_the_memory_that_a_row_takes(monkeypatch, row_bytes: int, sizes: list[int]):
    session = Session(sum_and_difference(("N", 3)), CPU, threads=1, row_bytes=row_bytes)
    ran, run = [], session._run
    monkeypatch.setattr(session, "_run", lambda given, asked: ran.append(len(given[0])) or run(given, asked))
    both = session.run_all(rows(7), rows(7) ** 2)
    np.testing.assert_array_equal(both[0], rows(7) + rows(7) ** 2)
    np.testing.assert_array_equal(both[1], rows(7) - rows(7) ** 2)
    assert ran == sizes
    assert session.passes == 7


def test_what_large_runs_took_is_given_back(monkeypatch):
    kept = []
    right = runtime._session
    monkeypatch.setattr(
        runtime, "_session", lambda *given, keep, **named: kept.append(keep) or right(*given, keep=keep, **named)
    )
    for row_bytes in (0, 2**25, 2**25 + 1):
        Session(one_node(NEGATION), CPU, threads=1, row_bytes=row_bytes)
    assert kept == [True, True, False]


def test_control_a_fixed_batch_does_not_run_another_size():
    with pytest.raises(ModelError, match=r"ONNX Runtime failed while running the model: .*[Ii]nvalid"):
        Session(one_node(NEGATION, (2, 3)), CPU, threads=1).run(rows(3))


def test_passes_count_rows_asked_for_not_fillings():
    session = Session(one_node(NEGATION, (4, 3)), CPU, batch=4, threads=1)
    assert session.passes == 0
    session.run(rows(5))
    session.run(rows(1))
    assert session.passes == 6


def test_a_result_of_another_number_of_rows_is_refused():
    constant = node("Constant", [], ["y"], value=helper.make_tensor("v", TensorProto.FLOAT, [1, 3], [1, 2, 3]))
    session = Session(one_node(constant), CPU, threads=1)
    np.testing.assert_array_equal(session.run(rows(1)), [[1, 2, 3]])
    with pytest.raises(ModelError, match="the model gave 1 rows for a batch of 2: its batch size is fixed inside"):
        session.run(rows(2))


def test_a_result_without_rows_is_refused():
    with pytest.raises(ModelError, match="for a batch of 1"):
        Session(one_node(node("ReduceSum", ["x"], ["y"], keepdims=0)), CPU, threads=1).run(rows(1))


def test_a_row_whose_batch_was_squeezed_away_is_told_as_such():
    """As exporters of one picture write it: the tensor before has the axis."""
    session = Session(one_node(node("Squeeze", ["x"], ["y"]), (1, 3)), CPU, threads=1)
    with pytest.raises(ModelError, match=r"one row of 3 numbers without an axis for the batch.*pass --output"):
        session.run(rows(1))


def sum_and_difference(shape: tuple[int | str, ...]) -> onnx.ModelProto:
    """Two inputs, two outputs: a + b and a - b."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("a", "b", "sum", "difference")]
    nodes = [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])]
    graph = helper.make_graph(nodes, "two", ends[:2], ends[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("fixed", [None, 1, 3])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_several_inputs_and_outputs_keep_their_order_whatever_the_batch(count: int, fixed: int | None):
    session = Session(sum_and_difference((fixed or "N", 3)), CPU, batch=fixed, threads=1)
    a, b = rows(count), rows(count)[::-1] ** 2
    total, difference = session.run_all(a, b)
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(difference, a - b)
    assert session.passes == count
    np.testing.assert_array_equal(Session(one_node(NEGATION), CPU, threads=1).run_all(a)[0], -a)


def backward(factor: str) -> onnx.ModelProto:
    """A backward graph, by hand: the logits are the features, and the gradient is cotangent less rest."""
    names = ("x", "cotangent", "rest", "gradient", "value")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 3)) for name in names]
    nodes = [node("Sub", ["cotangent", "rest"], ["slope"]), node("Div", ["slope", factor], ["gradient"])]
    nodes.append(node("Identity", ["x"], ["value"]))
    divisors = {"one": 1.0, "half": 0.5, "zero": 0.0}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in divisors.items()]
    graph = helper.make_graph(nodes, "backward", ends[:3], ends[3:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_differentiator_asks_the_same_of_every_row_and_gives_logits_first():
    direction, rest = np.array([1.0, -1, 0]), np.array([0.0, 0, 1])
    logits, gradient = Differentiator(Session(backward("one"), CPU, threads=1))(rows(4), direction, rest)
    assert (logits.dtype, gradient.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(logits, rows(4))
    np.testing.assert_array_equal(gradient, np.broadcast_to(direction - rest, (4, 3)))


def test_the_first_gradient_of_a_device_is_held_against_the_cpus():
    opened = []

    def witness(factor: str) -> Callable[[], Session]:
        def opens() -> Session:
            opened.append(factor)
            return Session(backward(factor), CPU, threads=1)

        return opens

    given = np.array([1.0, -1, 0]), np.zeros(3)
    right = Differentiator(Session(backward("one"), CPU, threads=1), witness=witness("one"))
    for _ in range(3):
        right(rows(4), *given)
    assert opened == ["one"]
    for factor, words in (("half", "1.41 apart, and the CPU's is 2.83 long"), ("zero", "nan long")):
        wrong = Differentiator(Session(backward("one"), CPU, threads=1), witness=witness(factor))
        for _ in range(2):  # nor is it taken when it is asked again
            with pytest.raises(DeviceError, match=f"gradient on this device than the CPU: .*{words}.*device cpu"):
                wrong(rows(4), *given)
    nothing = Differentiator(Session(backward("one"), CPU, threads=1), witness=witness("one"))
    np.testing.assert_array_equal(nothing(rows(2), np.zeros(3), np.zeros(3))[1], np.zeros((2, 3)))
    runtime._hold_against(np.full((1, 3), 1e-12, np.float32), np.zeros((1, 3), np.float32))
    with pytest.raises(DeviceError):
        runtime._hold_against(np.full((1, 3), 1e-3, np.float32), np.zeros((1, 3), np.float32))


def test_a_gradient_that_is_no_number_is_refused():
    with pytest.raises(ModelError, match="not finite: take another --background, or --method window"):
        Differentiator(Session(backward("zero"), CPU, threads=1))(rows(1), np.array([1.0, -1, 0]), np.zeros(3))


def test_an_operator_that_onnx_runtime_lacks_is_one_line():
    model = one_node(node("Wish", ["x"], ["y"], domain="com.example"), domain="com.example")
    with pytest.raises(ModelError, match=r"^ONNX Runtime cannot run the model: .*Wish") as caught:
        Session(model, CPU)
    assert "\n" not in str(caught.value)


def test_a_failure_while_running_is_one_line_and_nothing_else(capfd: pytest.CaptureFixture[str]):
    # Three columns cannot be laid out in two: known only when it runs.
    model = one_node(node("Reshape", ["x", "shape"], ["y"]), ("N", "C"))
    model.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 2]))
    session = Session(model, CPU, threads=1)
    with pytest.raises(ModelError, match=r"^ONNX Runtime failed while running the model: ") as caught:
        session.run(rows(1))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_classifier_gives_float64_logits_without_singleton_axes():
    shape = ("N", 3, 1, 1)
    logits = Classifier(Session(one_node(NEGATION, shape), CPU, threads=1))(rows(2).reshape(2, 3, 1, 1))
    assert logits.dtype == np.float64
    np.testing.assert_array_equal(logits, -rows(2))


def test_features_keep_shape_and_float32():
    x = rows(8).reshape(2, 3, 2, 2)
    features = Session(one_node(NEGATION, ("N", 3, 2, 2)), CPU, threads=1).run(x)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, -x)

"""The device that was asked for is the device that runs; sessions that run batches of any size."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_evidence.errors import DeviceError, ModelError
from onnx_evidence.files import machine
from onnx_evidence.sessions import runtime
from onnx_evidence.sessions.runtime import Classifier, Device, Differentiator, Session, available_threads

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
    right = runtime._options
    monkeypatch.setattr(
        runtime, "_options", lambda *given, keep, **named: kept.append(keep) or right(*given, keep=keep, **named)
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

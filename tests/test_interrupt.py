"""Signals end a process: the first where nothing is lost, the second at once, whatever native code is at work."""

import signal
import subprocess
import sys
import time

import onnx
import pytest
from onnx import TensorProto, helper

from onnx_evidence.batch.interrupt import Interrupt

# In native code for hours: ONNX Runtime counts to a trillion there. What is said of it comes from another thread, when
# the main one has been at work for half a second: a signal that came before would be heard by Python.
PROGRAM = """
import sys, threading, time, numpy as np, onnxruntime as ort
from onnx_evidence.batch.interrupt import Interrupt
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
def tell():
    while time.process_time() < start + 0.5:
        time.sleep(0.01)
    print("counting", flush=True)
with Interrupt(at_once=sys.argv[2] == "at once"):
    start = time.process_time()
    threading.Thread(target=tell, daemon=True).start()
    session.run(None, {"x": np.zeros(1, np.float32)})
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["state", "state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1]),
        ],
    )
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph(
        [helper.make_node("Loop", ["trips", "true", "x"], ["y"], body=body)],
        "endless",
        [x],
        [y],
        [
            helper.make_tensor("trips", TensorProto.INT64, [], [2**40]),
            helper.make_tensor("true", TensorProto.BOOL, [], [1]),
        ],
    )
    path = tmp_path_factory.mktemp("endless") / "endless.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("how", ["at once", "at the next check"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process_inside_native_code(endless, number, how):
    command = [sys.executable, "-c", PROGRAM, str(endless), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "counting\n"
        process.send_signal(number)
        time.sleep(0.3)
        # Control: the first alone cannot end what Python does not see.
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=30) == 130


def test_the_first_signal_waits_for_a_check_or_does_not():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on from there"):
            interrupt.check()
    with pytest.raises(KeyboardInterrupt), Interrupt(at_once=True):
        signal.raise_signal(signal.SIGINT)


def test_signals_are_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupt(at_once=True), Interrupt():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1

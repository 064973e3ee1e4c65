"""The most that this machine computes through ONNX Runtime: one large convolution."""

from statistics import median
from time import perf_counter

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.sessions.device import Device
from onnx_evidence.sessions.runtime import Session

_CHANNELS, _SIDE, _KERNEL, _RUNS = 256, 56, 3, 5


def convolution_rate(device: Device) -> float:
    """Multiply-adds per second of a 3 x 3 convolution of 256 channels on 56 x 56 places, alone in its graph.

    Parameters
    ----------
    device : Device
        Where it runs.

    Returns
    -------
    float
        Of the median of five runs; what no network of smaller layers reaches.
    """
    shape = [1, _CHANNELS, _SIDE, _SIDE]
    kernel = np.full((_CHANNELS, _CHANNELS, _KERNEL, _KERNEL), 1e-3, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
        "limit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(kernel, "w")],
    )
    session = Session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), device)
    picture, seconds = np.ones(shape, np.float32), []
    for _ in range(_RUNS + 1):
        start = perf_counter()
        session.run(picture)
        seconds.append(perf_counter() - start)
    return _CHANNELS**2 * _KERNEL**2 * _SIDE**2 / median(seconds[1:])

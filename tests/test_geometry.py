"""Receptive fields against brute force: light one pixel of a network of ones and see which cells change."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from onnx_evidence.cuts.graph import Graph
from onnx_evidence.errors import CutError
from onnx_evidence.graphs.reach import Axis, Field, merge, slide
from onnx_evidence.intake.model import load_model
from tests import tiny

node = helper.make_node


def seen(model: onnx.ModelProto, tensor: str) -> np.ndarray:
    """Which pixels each cell of ``tensor`` looks at: bool (rows, cols, height, width)."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    _, channels, height, width = session.get_inputs()[0].shape
    dark = np.zeros((1, channels, height, width), np.float32)
    lit = np.repeat(np.eye(height * width, dtype=np.float32).reshape(-1, 1, height, width), channels, axis=1)
    (before,), (after,) = (session.run([tensor], {"input": x}) for x in (dark, lit))
    changed = (after != before).any(axis=1)
    return changed.reshape(height, width, *changed.shape[1:]).transpose(2, 3, 0, 1)


def field_of(model: onnx.ModelProto, tensor: str) -> Field | None:
    with tempfile.TemporaryDirectory() as folder:
        return Graph(load_model(tiny.save(model, Path(folder) / "model.onnx"))).find(tensor).field


def check(field: Field, pixels: np.ndarray) -> int:
    """Compare a nominal field with the pixels seen; give the number of cells compared exactly.

    No cell may look beyond its field. Where the field lies inside the input, its corners must be looked at.
    """
    assert pixels.any(axis=(2, 3)).all(), "a cell that looks at nothing would prove nothing"
    if field.everything:
        assert pixels.all()
        return pixels.shape[0] * pixels.shape[1]
    inner = np.ones(pixels.shape[:2], bool)
    low_seen, high_seen = (np.empty((2, *inner.shape), int) for _ in range(2))
    low, high = (np.empty_like(low_seen) for _ in range(2))
    for k, axis in enumerate((field.rows, field.cols)):
        lit = pixels.any(axis=3 - k)
        side = lit.shape[2]
        low_seen[k], high_seen[k] = lit.argmax(axis=2), side - 1 - lit[..., ::-1].argmax(axis=2)
        cell = np.indices(inner.shape)[k]
        low[k], high[k] = axis.low + axis.stride * cell, axis.high + axis.stride * cell
        inner &= (low[k] >= 0) & (high[k] < side)
    assert (low_seen >= low).all() and (high_seen <= high).all(), "a cell looks beyond its field"  # noqa: PT018
    assert (low_seen == low)[:, inner].all(), "an inner cell does not look at the start of its field"
    assert (high_seen == high)[:, inner].all(), "an inner cell does not look at the end of its field"
    return int(inner.sum())


def network(
    body: list[onnx.NodeProto], weights: dict[str, np.ndarray], size: tuple[int, int], channels: int = 1, **more
) -> onnx.ModelProto:
    """``body`` makes 'last' from 'input'; pooled and flattened it is a classifier."""
    nodes = [*body, node("GlobalAveragePool", ["last"], ["pool"]), node("Flatten", ["pool"], ["logits"])]
    outputs = ("N", more.pop("classes", channels))
    return tiny.make_model(nodes, weights, input_shape=("N", channels, *size), output_shape=outputs, **more)


# --- stacks of windows ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """One sliding window; ``pads`` is an ``auto_pad`` or (top, left, bottom, right)."""

    op: str
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: str | tuple[int, int, int, int]

    @property
    def attributes(self) -> dict:
        found = {"kernel_shape": self.kernel, "strides": self.strides}
        if self.op != "AveragePool":
            found["dilations"] = self.dilations
        if isinstance(self.pads, str):
            return found | {"auto_pad": self.pads}
        return found | {"pads": self.pads}


@st.composite
def windows(draw: st.DrawFn) -> Window:
    op = draw(st.sampled_from(["Conv", "Conv", "MaxPool", "AveragePool"]))
    strides = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2))) if op != "AveragePool" else (1, 1)
    # ONNX Runtime refuses automatic pads with dilations and with windows smaller than their stride, and pads
    # as wide as the window of a pool.
    same = dilations == (1, 1) and all(k >= s for k, s in zip(kernel, strides, strict=True))
    automatic = ["VALID", "SAME_UPPER", "SAME_LOWER"] if same else ["VALID"]
    narrow = [st.integers(0, min(2, k - 1)) for k in kernel * 2]
    pads = draw(st.one_of(st.sampled_from(automatic), st.tuples(*narrow)))
    return Window(op, kernel, strides, dilations, pads)


def stacked(layers: list[Window], size: tuple[int, int]) -> onnx.ModelProto:
    body, weights, x = [], {}, "input"
    for k, layer in enumerate(layers):
        y = "last" if k == len(layers) - 1 else f"layer{k}"
        inputs = [x]
        if layer.op == "Conv":
            weights[f"w{k}"] = np.ones((1, 1, *layer.kernel), np.float32)
            inputs.append(f"w{k}")
        body.append(node(layer.op, inputs, [y], **layer.attributes))
        x = y
    return network(body, weights, size)


def by_hand(layers: list[Window], size: tuple[int, int]) -> tuple[Field, list[int]]:
    """The field from `slide` alone, automatic pads as the ONNX text defines them; and the sides of the last map."""
    field, sides = Field(), list(size)
    for layer in layers:
        begin, total = [0, 0], [0, 0]
        for axis, (side, k, s, d) in enumerate(zip(sides, layer.kernel, layer.strides, layer.dilations, strict=True)):
            if layer.pads == "VALID":
                pass
            elif isinstance(layer.pads, str):
                outputs = (side + s - 1) // s
                total[axis] = max((outputs - 1) * s + d * (k - 1) + 1 - side, 0)
                begin[axis] = total[axis] // 2 + (total[axis] % 2 if layer.pads == "SAME_LOWER" else 0)
            else:
                begin[axis], total[axis] = layer.pads[axis], layer.pads[axis] + layer.pads[axis + 2]
            sides[axis] = (side + total[axis] - d * (k - 1) - 1) // s + 1
        field = slide(field, layer.kernel, layer.strides, layer.dilations, begin)
        if min(sides) < 2:
            break
    return field, sides


STACKS = st.lists(windows(), min_size=1, max_size=3)
SIZE = (27, 32)


@settings(max_examples=60, deadline=None)
@given(STACKS)
def test_no_cell_of_a_stack_looks_beyond_its_field(layers: list[Window]):
    expected, sides = by_hand(layers, SIZE)
    assume(min(sides) >= 2)
    model = stacked(layers, SIZE)
    field = field_of(model, "last")
    assert field == expected
    check(field, seen(model, "last"))


@pytest.mark.parametrize(
    "layers",
    [
        [Window("Conv", (3, 5), (2, 1), (1, 1), (1, 2, 1, 2))],
        [Window("Conv", (3, 4), (1, 2), (2, 1), (0, 1, 2, 0)), Window("MaxPool", (2, 3), (2, 2), (1, 1), (1, 0, 0, 2))],
        [Window("Conv", (2, 4), (2, 2), (1, 1), "SAME_UPPER"), Window("Conv", (4, 2), (1, 2), (1, 1), "SAME_UPPER")],
        [Window("Conv", (2, 4), (2, 2), (1, 1), "SAME_LOWER"), Window("Conv", (4, 2), (1, 2), (1, 1), "SAME_LOWER")],
        [
            Window("MaxPool", (2, 3), (1, 2), (1, 1), "SAME_LOWER"),
            Window("AveragePool", (4, 2), (2, 2), (1, 1), "VALID"),
        ],
        [
            Window("AveragePool", (3, 2), (2, 1), (1, 1), "SAME_UPPER"),
            Window("Conv", (1, 3), (3, 1), (1, 3), (0, 3, 0, 1)),
        ],
        [Window("MaxPool", (3, 2), (1, 1), (2, 2), (1, 0, 0, 1)), Window("Conv", (3, 3), (2, 2), (1, 1), (0, 0, 2, 2))],
    ],
    ids=lambda layers: "-".join(f"{layer.op}:{layer.pads}" for layer in layers),
)
def test_the_field_of_inner_cells_is_tight(layers: list[Window]):
    model = stacked(layers, SIZE)
    field = field_of(model, "last")
    assert field == by_hand(layers, SIZE)[0]
    assert check(field, seen(model, "last")) >= 10


@pytest.mark.parametrize("wrong", ["low", "high", "stride"])
def test_control_a_field_off_by_one_is_caught(wrong: str):
    layers = [Window("Conv", (3, 3), (2, 2), (1, 1), (1, 1, 1, 1))]
    pixels = seen(stacked(layers, SIZE), "last")
    right = Axis(stride=2, low=-1, high=1)
    assert check(Field(right, right), pixels) >= 10
    for change in (-1, 1):
        off = Axis(**{**vars(right), wrong: getattr(right, wrong) + change})
        for field in (Field(off, right), Field(right, off)):
            with pytest.raises(AssertionError, match=r"a cell looks beyond|an inner cell does not look"):
                check(field, pixels)


def test_a_kernel_shape_left_to_the_weight_is_read_from_it():
    weights = {"w": np.ones((1, 1, 3, 5), np.float32)}
    model = network([node("Conv", ["input", "w"], ["last"])], weights, (9, 11))
    assert field_of(model, "last") == Field(Axis(1, 0, 2), Axis(1, 0, 4))


# --- branches, gates, shuffles --------------------------------------------------------------------------------


def test_fields_of_branches_unite_to_what_both_see():
    weights = {"w3": np.ones((1, 1, 3, 3), np.float32), "w15": np.ones((1, 1, 1, 5), np.float32)}
    body = [
        node("Conv", ["input", "w3"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Conv", ["input", "w15"], ["b"], pads=[0, 2, 0, 2], strides=[2, 2]),
        node("Add", ["a", "b"], ["last"]),
    ]
    model = network(body, weights, (18, 22))
    assert field_of(model, "last") == Field(Axis(2, -1, 1), Axis(2, -2, 2))
    # The union's corners lie in neither branch, but its sides do.
    assert check(Field(Axis(2, -1, 1), Axis(2, -2, 2)), seen(model, "last")) >= 10


def test_a_concatenation_of_channels_unites_fields():
    weights = {"w3": np.ones((1, 1, 3, 3), np.float32)}
    body = [
        node("Conv", ["input", "w3"], ["a"], pads=[1, 1, 1, 1]),
        node("Concat", ["input", "a"], ["last"], axis=1),
    ]
    model = network(body, weights, (10, 12), classes=2)
    field = field_of(model, "last")
    assert field == Field(Axis(1, -1, 1), Axis(1, -1, 1))
    assert check(field, seen(model, "last")) >= 10


def gated(body: list[onnx.NodeProto], **more) -> onnx.ModelProto:
    weights = {
        "w3": np.ones((2, 1, 3, 3), np.float32),
        "squeeze": np.ones((1, 2, 1, 1), np.float32),
        "excite": np.ones((2, 1, 1, 1), np.float32),
        "flat": np.array([0, -1]),
        "matrix": np.ones((2, 2), np.float32),
        "unflat": np.array([0, 2, 1, 1]),
    }
    first = node("Conv", ["input", "w3"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2])
    return network([first, *body], weights, (12, 14), classes=2, **more)


GATES = {
    "GlobalAveragePool": [
        node("GlobalAveragePool", ["a"], ["g"]),
        node("Conv", ["g", "squeeze"], ["s"]),
        node("Relu", ["s"], ["s.relu"]),
        node("Conv", ["s.relu", "excite"], ["e"]),
        node("Sigmoid", ["e"], ["gate"]),
    ],
    "AveragePool": [node("AveragePool", ["a"], ["e"], kernel_shape=[6, 7]), node("Sigmoid", ["e"], ["gate"])],
    "ReduceMean": [node("ReduceMean", ["a"], ["e"], axes=[2, 3], keepdims=1), node("Sigmoid", ["e"], ["gate"])],
    "ReduceMean from the end": [
        node("ReduceMean", ["a"], ["e"], axes=[-1, -2], keepdims=1),
        node("Sigmoid", ["e"], ["gate"]),
    ],
    "dense": [
        node("GlobalAveragePool", ["a"], ["g"]),
        node("Reshape", ["g", "flat"], ["row"]),
        node("MatMul", ["row", "matrix"], ["m"]),
        node("Reshape", ["m", "unflat"], ["e"]),
        node("Sigmoid", ["e"], ["gate"]),
    ],
}


@pytest.mark.parametrize("gated_by", [["biased", "gate"], ["gate", "biased"]], ids=["after", "before"])
@pytest.mark.parametrize("gate", GATES)
def test_behind_a_gate_every_cell_sees_everything(gate: str, gated_by: list[str]):
    # The bias lets a cell that sees a pixel through the gate only change visibly.
    bias = node("Add", ["a", "matrix.one"], ["biased"])
    one = helper.make_node("Constant", [], ["matrix.one"], value_float=1.0)
    model = gated([one, bias, *GATES[gate], node("Mul", gated_by, ["last"])])
    field = field_of(model, "last")
    assert field is not None
    assert field.everything
    assert field.stride == (2, 2)
    assert field.size((12, 14)) == (12, 14)
    assert check(field, seen(model, "last")) == 6 * 7


def test_before_the_gate_cells_see_their_window_only():
    model = gated([*GATES["GlobalAveragePool"], node("Mul", ["a", "gate"], ["last"])])
    assert field_of(model, "a") == Field(Axis(2, -1, 1), Axis(2, -1, 1))


def test_a_constant_of_one_cell_is_no_gate():
    weights = {"w3": np.ones((1, 1, 3, 3), np.float32), "scale": np.full((1, 1, 1, 1), 2, np.float32)}
    body = [node("Conv", ["input", "w3"], ["a"]), node("Mul", ["a", "scale"], ["last"])]
    model = network(body, weights, (9, 11))
    assert field_of(model, "last") == Field(Axis(1, 0, 2), Axis(1, 0, 2))


@pytest.mark.parametrize("norm", ["InstanceNormalization", "LRN"])
def test_a_normalization_over_the_picture_is_global_and_one_over_channels_is_not(norm: str):
    weights = {"one": np.ones(3, np.float32), "zero": np.zeros(3, np.float32)}
    body = [
        node(norm, ["input", "one", "zero"], ["last"])
        if norm == "InstanceNormalization"
        else node(norm, ["input"], ["last"], size=3)
    ]
    model = network(body, weights, (6, 8), channels=3)
    field = field_of(model, "last")
    assert field.everything == (norm == "InstanceNormalization")
    assert check(field, seen(model, "last")) >= 10


def test_a_channel_shuffle_keeps_the_field():
    weights = {
        "w": np.ones((4, 1, 3, 3), np.float32),
        "apart": np.array([0, 2, 2, 5, 6]),
        "together": np.array([0, 4, 5, 6]),
    }
    body = [
        node("Conv", ["input", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Reshape", ["a", "apart"], ["five"]),
        node("Transpose", ["five"], ["swapped"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["swapped", "together"], ["last"]),
    ]
    model = network(body, weights, (10, 12), classes=4)
    field = field_of(model, "last")
    assert field == Field(Axis(2, -1, 1), Axis(2, -1, 1))
    assert check(field, seen(model, "last")) >= 10


# Operators that move cells about: a wrong field is worse than none.
MOVES = {
    "transpose": [node("Transpose", ["a"], ["last"], perm=[0, 1, 3, 2])],
    "space to depth": [node("SpaceToDepth", ["a"], ["last"], blocksize=2)],
    "space to channels by reshape": [node("Reshape", ["a", "folded"], ["last"])],
    "upsampling": [node("Resize", ["a", "", "scales"], ["last"])],
    "transposed convolution": [node("ConvTranspose", ["a", "up"], ["last"], strides=[2, 2])],
    "rows put below": [node("Neg", ["a"], ["b"]), node("Concat", ["a", "b"], ["last"], axis=2)],
    "columns put beside": [node("Neg", ["a"], ["b"]), node("Concat", ["a", "b"], ["last"], axis=-1)],
    "halves of the rows": [
        node("Split", ["a", "halves"], ["top", "bottom"], axis=2),
        node("Add", ["top", "bottom"], ["last"]),
    ],
    "halves of the columns": [
        node("Split", ["a", "halves"], ["left", "right"], axis=-1),
        node("Add", ["left", "right"], ["last"]),
    ],
    "different strides": [
        node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["a"], ["c"], kernel_shape=[5, 5]),
        node("Add", ["b", "c"], ["last"]),
    ],
}


@pytest.mark.parametrize("move", MOVES)
def test_where_cells_are_moved_about_no_wrong_field_is_claimed(move: str):
    weights = {
        "w": np.ones((4, 1, 1, 1), np.float32),
        "up": np.ones((4, 4, 2, 2), np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "folded": np.array([0, 16, 4, 4]),
        "halves": np.array([4, 4]),
    }
    body = [node("Conv", ["input", "w"], ["a"]), *MOVES[move]]
    classes = 16 if "space" in move else 4
    model = network(body, weights, (8, 8), classes=classes)
    if move in ("transpose", "space to channels by reshape", "rows put below", "columns put beside"):
        # What its axes mean is not known, or no other than before: a map would be wrong with any field.
        with pytest.raises(CutError, match=r"no grid of cells that can be followed back|in another order"):
            field_of(model, "last")
        return
    field = field_of(model, "last")
    if field is not None:
        check(field, seen(model, "last"))


def test_a_padded_window_as_large_as_the_map_does_not_see_everything_from_every_cell():
    body = [node("MaxPool", ["input"], ["last"], kernel_shape=[4, 5], auto_pad="SAME_UPPER")]
    model = network(body, {}, (4, 5))
    pixels = seen(model, "last")
    assert not pixels.all()
    check(field_of(model, "last"), pixels)


# --- the arithmetic -------------------------------------------------------------------------------------------


def test_slide_by_hand():
    field = slide(Field(), (3, 5), (2, 1), (1, 2), (1, 0))
    assert field == Field(Axis(2, -1, 1), Axis(1, 0, 8))
    assert slide(field, (2, 2), (2, 3), (1, 1), (0, 1)) == Field(Axis(4, -1, 3), Axis(3, -1, 8))


def test_size_counts_pixels_and_stays_inside_the_input():
    field = Field(Axis(4, -3, 7), Axis(2, 0, 4))
    assert (field.rows.size, field.cols.size) == (11, 5)
    assert field.size((32, 32)) == (11, 5)
    assert field.size((9, 3)) == (9, 3)
    assert Field(everything=True).size((20, 30)) == (20, 30)


def test_merge_unites_each_axis_for_itself():
    a, b = Field(Axis(2, -3, 1), Axis(2, 0, 9)), Field(Axis(2, -1, 4), Axis(2, 2, 3))
    assert merge([a, b]) == merge([b, a]) == Field(Axis(2, -3, 4), Axis(2, 0, 9))
    assert merge([a]) == a


def test_merge_gives_up_on_unknown_fields_and_unequal_strides():
    a = Field(Axis(2, 0, 1), Axis(2, 0, 1))
    assert merge([a, None]) is None
    assert merge([]) is None
    assert merge([a, Field(Axis(2, 0, 1), Axis(4, 0, 1))]) is None


def test_merge_with_a_field_that_sees_everything_sees_everything():
    a = Field(Axis(2, 0, 1), Axis(2, 0, 1))
    assert merge([a, Field(a.rows, a.cols, everything=True)]) == Field(a.rows, a.cols, everything=True)

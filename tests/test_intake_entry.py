"""Which input is the picture, and how it becomes float32 with channels first: against the file run as it is."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.cli.inspection import inspect_model
from onnx_evidence.cli.tables import inspection_table
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import DataError, ModelError
from onnx_evidence.intake.entry import find_entry
from onnx_evidence.intake.model import load_model
from onnx_evidence.intake.peek import look
from onnx_evidence.preprocessing import check_levels
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.sessions.kernels import why_not
from tests import tiny

node = helper.make_node
RNG = np.random.default_rng(5)
KERNEL = RNG.normal(size=(5, 3, 3, 3)).astype(np.float32)
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
BYTES = {"kernel": KERNEL / 255}


def model_of(
    front: list[onnx.NodeProto],
    inner: str,
    kind: int,
    shape: tuple[int | str, ...],
    weights: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """``front`` makes a float NCHW tensor ``inner`` of the input; class scores are its means over a convolution."""
    nodes = [
        *front,
        node("Conv", [inner, "kernel"], ["conv"]),
        node("GlobalAveragePool", ["conv"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    model = tiny.make_model(nodes, {"kernel": KERNEL} | (weights or {}), input_shape=shape, opset=opset)
    model.graph.input[0].type.tensor_type.elem_type = kind
    return model


def write(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run_file(path: Path, given: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": given})[0].reshape(len(given), -1)


def pixels(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(3).integers(info.min, info.max + 1, shape).astype(dtype)


CAST = [node("Transpose", ["input"], ["first"], perm=TO_FIRST), node("Cast", ["first"], ["x"], to=TensorProto.FLOAT)]
CAST_FIRST = [
    node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
    node("Transpose", ["float"], ["x"], perm=TO_FIRST),
]
CODES = [
    node("DequantizeLinear", ["input", "scale", "zero"], ["x"]),
]
# ((nodes in front, element type, axes last?, constants), what is given to the file)
WHOLE = {
    "uint8 nhwc, transposed, cast": (CAST, np.uint8, True, BYTES),
    "uint8 nhwc, cast, transposed": (CAST_FIRST, np.uint8, True, BYTES),
    "uint16 nchw": (
        [node("Cast", ["input"], ["x"], to=TensorProto.FLOAT)],
        np.uint16,
        False,
        {"kernel": KERNEL / 65535},
    ),
    "int8 codes": (CODES, np.int8, False, {"scale": np.float32(0.02), "zero": np.int8(-7)}),
    "uint8 codes": (CODES, np.uint8, False, {"scale": np.float32(0.02), "zero": np.uint8(113)}),
}


@pytest.mark.parametrize("case", WHOLE)
def test_whole_numbers_are_taken_as_floats_and_gradients_reach_them(case: str, tmp_path: Path):
    front, dtype, last, weights = WHOLE[case]
    given = pixels((2, 9, 8, 3) if last else (2, 3, 9, 8), dtype)
    shape = ("N", 9, 8, 3) if last else ("N", 3, 9, 8)
    path = write(model_of(front, "x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape, weights), tmp_path)
    opened = DeployedModel(path, device="cpu")
    canonical = (given.transpose(TO_FIRST) if last else given).astype(np.float32)
    expected = run_file(path, given)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(opened.canonical(canonical), expected, atol=1e-5 * largest)
    # The control: other pixels give other scores.
    assert np.abs(opened.canonical(canonical[::-1].copy()) - expected).max() > 1e-2 * largest
    # Half a grey level counts in the canonical graph: nothing is rounded.
    assert np.abs(opened.canonical(canonical + 0.4) - expected).max() > 5e-6 * largest
    gradient = opened.gradient(opened.graph.find("input"))
    _, found = gradient(canonical, np.eye(5)[2], np.zeros(5))
    nudge = np.zeros_like(canonical)
    nudge[:, 1, 4, 4] = step = np.float32(np.iinfo(dtype).max)
    slope = (opened.canonical(canonical + nudge) - opened.canonical(canonical - nudge))[:, 2] / (2 * step)
    np.testing.assert_allclose(found[:, 1, 4, 4], slope, rtol=1e-2)
    model = opened.model
    assert model.entry.dtype == np.dtype(dtype).name
    assert model.entry.layout == ("NHWC" if last else "NCHW")
    assert model.input_shape == (3, 9, 8)
    assert model.proof is not None
    assert model.proof.deviation <= 1e-5
    assert model.proof.words.startswith("the same scores as the file's to ")


def test_whole_numbers_that_are_computed_with_are_rounded_there(tmp_path: Path):
    """A uint8 maximum: what is given between two grey levels goes to the nearer."""
    front = [
        node("MaxPool", ["input"], ["small"], kernel_shape=[2, 2]),
        node("Cast", ["small"], ["x"], to=TensorProto.FLOAT),
    ]
    path = write(model_of(front, "x", TensorProto.UINT8, ("N", 3, 9, 8), BYTES), tmp_path)
    opened = DeployedModel(path, device="cpu")
    given = pixels((2, 3, 9, 8))
    expected = run_file(path, given)
    for off in (0.0, 0.4, -0.4):
        np.testing.assert_allclose(opened.canonical(given.astype(np.float32) + np.float32(off)), expected, atol=1e-4)
    assert np.abs(opened.canonical(given.astype(np.float32) + 1) - expected).max() > 1e-3
    np.testing.assert_allclose(
        opened.canonical(given.astype(np.float32) * 3),
        run_file(path, np.minimum(given * 3.0, 255).astype(np.uint8)),
        atol=1e-4,
    )
    assert opened.model.changes == ("uint8 input rounded inside: no gradient reaches it",)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats_are_taken_as_float32(kind: int, tmp_path: Path):
    path = write(model_of([node("Cast", ["input"], ["x"], to=TensorProto.FLOAT)], "x", kind, ("N", 3, 9, 8)), tmp_path)
    x = RNG.normal(size=(2, 3, 9, 8)).astype(helper.tensor_dtype_to_np_dtype(kind))
    opened = DeployedModel(path, device="cpu")
    np.testing.assert_allclose(opened.canonical(x.astype(np.float32)), run_file(path, x), atol=1e-5)
    assert opened.model.entry.dtype == x.dtype.name


def test_a_transpose_without_an_order_reads_channels_last(tmp_path: Path):
    front = [
        node("Transpose", ["input"], ["reversed"]),
        node("Transpose", ["reversed"], ["again"]),
        node("Transpose", ["again"], ["x"], perm=TO_FIRST),
    ]
    path = write(model_of(front, "x", TensorProto.FLOAT, ("N", 9, 8, 3)), tmp_path)
    x = RNG.normal(size=(2, 9, 8, 3)).astype(np.float32)
    opened = DeployedModel(path, device="cpu")
    np.testing.assert_allclose(opened.canonical(x.transpose(TO_FIRST)), run_file(path, x), atol=1e-5)
    assert opened.model.changes == ("channels put first",)


def test_a_transpose_that_only_undoes_the_layout_goes(tmp_path: Path):
    front = [node("Transpose", ["input"], ["x"], perm=TO_FIRST)]
    path = write(model_of(front, "x", TensorProto.FLOAT, ("N", 9, 8, 3)), tmp_path)
    model = load_model(path)
    assert [each.op_type for each in model.proto.graph.node] == ["Conv", "GlobalAveragePool", "Flatten"]
    assert model.tensors["conv"].shape == (None, 5, 7, 6)


def test_channels_last_inside_stays_and_is_fed_so(tmp_path: Path):
    nodes = [node("ReduceMean", ["input"], ["flat"], axes=[1, 2], keepdims=0), node("Gemm", ["flat", "w"], ["logits"])]
    path = write(tiny.make_model(nodes, {"w": KERNEL[:, :, 0, 0].T.copy()}, input_shape=("N", 9, 8, 3)), tmp_path)
    x = RNG.normal(size=(2, 3, 9, 8)).astype(np.float32)
    np.testing.assert_allclose(
        DeployedModel(path, device="cpu").canonical(x), run_file(path, x.transpose(0, 2, 3, 1)), atol=1e-6
    )


def entry_of(*sides: int | str, preprocess: Preprocess | None = None, layout: str | None = None) -> tuple:
    model = tiny.make_model([], {}, input_shape=("N", *sides))
    entry = find_entry(model, preprocess, Path("m.onnx"), layout)
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    assert tuple(dims) == entry.sides
    return entry.layout, entry.shape


def grey(rows: int, cols: int) -> Preprocess:
    return Preprocess(size=(rows, cols), mean=(0,), std=(1,), color="GRAY", resize="stretch")


def colour(rows: int, cols: int) -> Preprocess:
    return Preprocess(size=(rows, cols), mean=(0, 0, 0), std=(1, 1, 1), resize="stretch")


@pytest.mark.parametrize(
    ("sides", "preprocess", "layout", "shape"),
    [
        ((3, 20, 24), None, "NCHW", (3, 20, 24)),
        ((20, 24, 3), None, "NHWC", (3, 20, 24)),
        ((1, 28, 28), None, "NCHW", (1, 28, 28)),
        ((28, 28, 1), None, "NHWC", (1, 28, 28)),
        (("H", "W", 3), colour(20, 24), "NHWC", (3, 20, 24)),
        (("C", "H", "W"), colour(20, 24), "NCHW", (3, 20, 24)),
        ((12, 64, 64), None, "NCHW", (12, 64, 64)),
        ((64, 64, 12), None, "NHWC", (12, 64, 64)),
        ((12, 60, 64), None, "NCHW", (12, 60, 64)),
        ((60, 64, 12), None, "NHWC", (12, 60, 64)),
        ((3, 40, 3), colour(40, 3), "NCHW", (3, 40, 3)),
        ((3, 40, 3), colour(3, 40), "NHWC", (3, 3, 40)),
        ((1, 40, 3), grey(40, 3), "NCHW", (1, 40, 3)),
        ((3, 40, 1), grey(3, 40), "NHWC", (1, 3, 40)),
    ],
)
def test_layouts_are_told_by_sizes_and_preprocessing(
    sides: tuple, preprocess: Preprocess | None, layout: str, shape: tuple
):
    assert entry_of(*sides, preprocess=preprocess) == (layout, shape)


def test_a_layout_that_nothing_tells_is_asked_for_and_may_be_given():
    with pytest.raises(ModelError, match="input 'input' is 3 x 40 x 3: its channels may be the first or the last"):
        entry_of(3, 40, 3)
    assert entry_of(3, 40, 3, layout="NHWC") == ("NHWC", (3, 3, 40))


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        (("N", 8), TensorProto.FLOAT, r"has 2 axes \(rows of features: a table, or text\); an image input has 4"),
        (("N", 8), TensorProto.INT64, "is int64: token ids of a text, it seems; an image input is float, uint8"),
        (("N", 8, 8, 3), TensorProto.INT64, "is int64: no type of pictures"),
        (("N", 3, 8), TensorProto.FLOAT, r"has 3 axes \(a sequence, or a picture without batch"),
        (("N", 3, 4, 8, 8), TensorProto.FLOAT, r"has 5 axes \(a video or a volume; only single pictures"),
        (("N", 3, 8, 8), TensorProto.BOOL, "is bool; an image input is float, uint8, int8 or uint16"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(shape: tuple, kind: int, message: str, tmp_path: Path):
    model = tiny.make_model([node("Identity", ["input"], ["logits"])], {}, input_shape=shape)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", kind, shape))
    model.graph.output[0].type.tensor_type.elem_type = kind
    with pytest.raises(ModelError, match=f"input 'input' {message}") as caught:
        load_model(write(model, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 8, 8), ("N", 3), ("N", 3, 4, 8, 8)])
@pytest.mark.parametrize("given", [None, "unit", "torchvision", "none"])
def test_a_preset_does_not_hide_what_is_wrong_with_the_input(shape: tuple, given: str | None, tmp_path: Path):
    path = write(tiny.make_model([node("Identity", ["input"], ["logits"])], {}, input_shape=shape), tmp_path)
    with pytest.raises(ModelError, match=f"input 'input' has {len(shape)} axes"):
        load_model(path, given)
    with pytest.raises(ModelError, match=f"input 'input' has {len(shape)} axes"):
        look(path, given)


SWITCH = "seems to switch between training and inference: export the model for inference, without it"


@pytest.mark.parametrize(
    ("name", "kind", "shape", "is_switch"),
    [
        ("is_training", TensorProto.BOOL, (), True),
        ("flag", TensorProto.BOOL, (1,), True),
        ("keep_prob", TensorProto.FLOAT, (), True),
        ("keras_learning_phase", TensorProto.INT32, (1,), True),
        ("dropout_rate", TensorProto.FLOAT, (1, 1), True),
        ("training_pictures", TensorProto.FLOAT, ("N", 3, 8, 8), False),
        ("age", TensorProto.FLOAT, (1,), False),
    ],
)
@pytest.mark.parametrize("given", [None, "unit"])
def test_a_second_input_is_named_and_a_switch_told(
    tmp_path: Path, name: str, kind: int, shape: tuple, is_switch: bool, given: str | None
):
    model = tiny.classifier(recorded=False)
    model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    path = write(model, tmp_path)
    with pytest.raises(ModelError, match=f"has 2 inputs \\('input', '{name}'\\); one image input is needed") as caught:
        load_model(path, given)
    assert str(caught.value).endswith(f"; {name!r} {SWITCH}") == is_switch
    # With a value of its own it need not be given, nor is it by us.
    model.graph.initializer.append(
        numpy_helper.from_array(np.zeros([1 if s == "N" else s for s in shape], np.float32), name)
    )
    model.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT
    assert load_model(write(model, tmp_path)).input_name == "input"


def test_an_old_opset_is_named_where_the_runtime_has_no_kernels(tmp_path: Path):
    """Weights are float32: to convert them would not help."""
    model = tiny.classifier(recorded=False)
    model.opset_import[0].version = 6
    path = write(model, tmp_path)
    words = r"no kernel of Add \(at 'block.add'\); the file is of opset 6, below 7, .*\(onnx.version_converter"
    for given in (None, "unit"):
        with pytest.raises(ModelError, match=words) as caught:
            load_model(path, given)
        assert "float32" not in str(caught.value)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    converted = onnx.version_converter.convert_version(model, 13)
    assert load_model(write(converted, tmp_path)).opset == 13, "the remedy helps"


def test_a_shape_of_old_that_is_an_attribute_is_refused_as_old(tmp_path: Path):
    """Up to opset 4 Reshape has one input."""
    model = tiny.appended(node("Reshape", ["deep.add"], ["y"], shape=[0, 12, 8, 8]))
    model.opset_import[0].version = 4
    with pytest.raises(ModelError, match="of opset 4, below 7"):
        load_model(write(model, tmp_path))


def test_an_old_opset_whose_operators_have_kernels_is_taken(tmp_path: Path):
    nodes = [
        node("Conv", ["input", "kernel"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["pool"]),
        node("Flatten", ["pool"], ["logits"]),
    ]
    path = write(tiny.make_model(nodes, {"kernel": KERNEL}, input_shape=("N", 3, 9, 8), opset=6), tmp_path)
    x = RNG.normal(size=(2, 3, 9, 8)).astype(np.float32)
    np.testing.assert_allclose(DeployedModel(path, device="cpu").logits(x), run_file(path, x), atol=1e-6)


@pytest.mark.parametrize(
    ("opset", "words"),
    [
        (999, "Opset 999 is under development and support for this is limited"),
        (17, "export the model with operators that it has, or with another opset"),
    ],
)
def test_the_place_in_the_runtimes_source_is_left_out(opset: int, words: str):
    """And a missing kernel of a float32 operator is no matter of types."""
    model = tiny.classifier()
    model.opset_import[0].version = opset
    error: Exception = RuntimeError("Could not find an implementation for Conv(11) node with name ''")
    if opset > 26:
        with pytest.raises(Exception, match="onnxruntime_src") as caught:
            ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        error = caught.value
    said = why_not(model, error, "cpu")
    assert words in said
    assert "onnxruntime_src" not in said
    assert "convert the model to float32" not in said


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path):
    model = tiny.make_model([node("SequenceAt", ["input", "i"], ["logits"])], {"i": np.array(0)})
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8]))
    with pytest.raises(ModelError, match="input 'input' is a sequence, no tensor; one image input is needed"):
        load_model(write(model, tmp_path))


def test_weights_listed_as_inputs_are_no_inputs(tmp_path: Path):
    model = tiny.classifier()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    loaded = load_model(write(model, tmp_path))
    assert [value.name for value in loaded.proto.graph.input] == ["input"]
    assert loaded.proof is None
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in loaded.proto.graph.initializer}
    assert set(kept) == {"w1", "w2", "w3", "w4", "w5", "w6", "b6"}


def test_a_type_that_the_runtime_has_no_kernel_for_is_named(tmp_path: Path):
    model = model_of([], "input", TensorProto.DOUBLE, ("N", 3, 9, 8), {"kernel": KERNEL.astype(np.float64)})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    model.graph.node[0].name = "first"
    message = r"cpu provider has no kernel of Conv for double \(node 'first'\); convert the model to float32$"
    with pytest.raises(ModelError, match=message) as caught:
        load_model(write(model, tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / 'model.onnx'}: ONNX Runtime cannot run the model: its ")


def test_inspect_says_what_was_done(tmp_path: Path):
    path = write(model_of(CAST, "x", TensorProto.UINT8, ("N", 9, 8, 3), BYTES), tmp_path)
    report = inspect_model(DeployedModel(path, device="cpu"))
    assert report["input"] == {
        "name": "input", "layout": "NHWC", "dtype": "uint8", "shape": [None, 9, 8, 3], "batch": None
    }  # fmt: skip
    table = inspection_table(report)
    assert "input: N x 9 x 8 x 3, uint8, NHWC" in table
    assert "taken in     uint8 input made float32; channels put first: the same scores as the file's to " in table


def test_an_element_type_that_does_not_exist_is_refused_by_its_number(tmp_path):
    model = tiny.classifier()
    model.graph.input[0].type.tensor_type.elem_type = 77
    (tmp_path / "odd.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"type 77|elem_type"):
        load_model(tmp_path / "odd.onnx")


LEVELS_KEPT = [
    # The samples of a photograph that stay apart where a uint8, an int8 and a uint16 input round and clip.
    ({"scale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}, 256, 128, 256),
    ({"scale": 1.0, "mean": (128.0,) * 3, "std": (1.0,) * 3}, 128, 256, 128),
    ({"scale": 1.0, "mean": (0.0,) * 3, "std": (8.0,) * 3}, 33, 33, 33),
    ({"scale": 1.0, "mean": (0.0,) * 3, "std": (1.0, 36.0, 1.0)}, 8, 8, 8),
    ({"scale": 1.0, "mean": (0.0,) * 3, "std": (1.0, 44.0, 1.0)}, 7, 7, 7),
    ({"scale": 2 / 255, "mean": (1.0,) * 3, "std": (1.0,) * 3}, 2, 3, 2),
    ({"scale": 1 / 255, "mean": (0.0,) * 3, "std": (1.0,) * 3}, 2, 2, 2),
    ({"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, 3, 5, 3),
]


@pytest.mark.parametrize(("how", "bytes_", "codes", "words"), LEVELS_KEPT)
def test_whole_numbers_that_leave_next_to_nothing_of_a_photograph_are_refused(how, bytes_, codes, words):
    preprocess = Preprocess(size=(8, 8), **how)
    for levels, kept in (((0, 255), bytes_), ((-128, 127), codes), ((0, 65535), words)):
        if kept >= 8:
            check_levels(preprocess, levels, "input 'x'")
            continue
        with pytest.raises(
            DataError, match=f"input 'x' takes whole numbers {levels[0]}.* {kept} levels of grey would stay apart"
        ):
            check_levels(preprocess, levels, "input 'x'")
    check_levels(preprocess, None, "floats")


def test_a_normalising_preset_is_none_for_grey_levels(tmp_path):
    path = write(model_of(CAST, "x", TensorProto.UINT8, ("N", 9, 8, 3), BYTES), tmp_path)
    for preset in ("unit", "tf", "torchvision", "timm"):
        with pytest.raises(
            DataError, match=r"0\.\.255, and of .*; pass --preprocess none, or a file with scale 1, mean 0"
        ):
            load_model(path, preset)
    assert load_model(path, "none").entry.levels == (0, 255)
    codes = write(model_of(CAST, "x", TensorProto.INT8, ("N", 9, 8, 3), BYTES), tmp_path)
    with pytest.raises(DataError, match="pass --preprocess with a file with scale 1, mean 128 and std 1"):
        load_model(codes, "unit")
    load_model(codes, Preprocess(size=(9, 8), resize="stretch", mean=(128.0,) * 3, std=(1.0,) * 3))


def test_an_array_of_the_input_itself_is_taken_as_it_is_or_not_at_all(tmp_path):
    path = write(model_of(CAST, "x", TensorProto.UINT8, ("N", 9, 8, 3), BYTES), tmp_path)
    opened = DeployedModel(path, device="cpu", preprocess="preprocessed")
    levels = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(opened.prepare(levels)[1], levels.transpose(2, 0, 1))
    for other, such in ((levels / 255, "0[.]"), (levels + 255, ""), (levels - 1000, "-")):
        with pytest.raises(DataError, match=f"array: the model's input takes whole numbers 0..255, .* such as {such}"):
            opened.prepare(other)

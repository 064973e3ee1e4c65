"""Nine published architectures, as the onnx package carries them: cuts, and halves that give the whole.

Their weights are made by ConstantOfShape nodes and all equal, so that all classes get one score and any wrong
split would pass. Here seeded noise takes the place of these nodes.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_evidence.cli.inspection import inspect_model
from onnx_evidence.cuts.certificate import certify
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import CutError
from onnx_evidence.graphs import with_weights
from tests.test_graph import separating

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# Cuts of each, counted by the slow oracle below.
CUTS = {
    "light_bvlc_alexnet": 16,
    "light_densenet121": 87,
    "light_inception_v1": 22,
    "light_inception_v2": 28,
    "light_resnet50": 37,
    "light_shufflenet": 37,
    "light_squeezenet": 33,
    "light_vgg19": 38,
    "light_zfnet512": 16,
}
SHAPE = (1, 3, 224, 224)
TOLERANCE = 1e-5
# Hidden dense layers get this many units, so that VGG's weights take 80 MB and not 575.
HIDDEN = 64


def attributes(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def with_noise(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with seeded random initializers (He's scale) where it has ConstantOfShape nodes."""
    graph, rng = model.graph, np.random.default_rng(seed)
    readers = {name: (node, k) for node in graph.node for k, name in enumerate(node.input)}
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    dense = [node.output[0] for node in graph.node if node.op_type == "Gemm"]
    makers = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    for maker in makers:
        name, shape = maker.output[0], sizes[maker.input[0]].copy()
        reader, slot = readers[name]
        while reader.op_type in ("Unsqueeze", "Reshape"):
            reader, slot = readers[reader.output[0]]
        if reader.op_type == "Gemm":
            narrow(shape, reader, dense)
        graph.initializer.append(numpy_helper.from_array(noise(shape, reader, slot, rng), name))
        # IR version 3 lists initializers as inputs.
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape.tolist()))
    kept = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    del graph.node[:]
    graph.node.extend(kept)
    return model


def narrow(shape: np.ndarray, gemm: onnx.NodeProto, dense: list[str]) -> None:
    """Give all dense layers but the last fewer units."""
    inner, outer = (1, 0) if attributes(gemm).get("transB") else (0, 1)
    if gemm.output[0] != dense[0] and len(shape) == 2:
        shape[inner] = min(shape[inner], HIDDEN)
    if gemm.output[0] != dense[-1]:
        shape[outer if len(shape) == 2 else -1] = min(shape[outer if len(shape) == 2 else -1], HIDDEN)


def noise(shape: np.ndarray, reader: onnx.NodeProto, slot: int, rng: np.random.Generator) -> np.ndarray:
    if reader.op_type in ("Conv", "Gemm") and slot == 1:
        rows = reader.op_type == "Conv" or attributes(reader).get("transB")
        inputs = np.prod(shape[1:]) if rows else shape[0]
        values = rng.normal(scale=np.sqrt(2 / inputs), size=shape)
    elif reader.op_type == "Mul" or (reader.op_type == "BatchNormalization" and slot in (1, 4)):
        values = rng.uniform(0.5, 1.5, size=shape)  # scales and variances
    else:
        values = rng.normal(scale=0.05, size=shape)  # biases and means
    return values.astype(np.float32)


def open_with_noise(name: str, folder: Path) -> DeployedModel:
    path = folder / f"{name}.onnx"
    onnx.save(with_noise(onnx.load(FOLDER / f"{name}.onnx"), seed=0), path)
    deployed = DeployedModel(path, device="cpu")
    path.unlink()
    return deployed


def run(model: onnx.ModelProto, source: str, x: np.ndarray, weights: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run a model; large weights are fed, not stored in it: to copy 100 MB for each cut takes minutes."""
    graph, fed = model.graph, {source: x}
    kept = []
    for tensor in graph.initializer:
        if tensor.name in weights:
            fed[tensor.name] = weights[tensor.name]
            graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
        else:
            kept.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, fed)


def large_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 10_000
    }


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of coarse and fine noise, of about unit variance."""
    rng = np.random.default_rng(2016)
    coarse = np.kron(rng.normal(size=(2, 3, 7, 7)), np.ones((32, 32)))
    first, second = (coarse + 0.3 * rng.normal(size=coarse.shape)).astype(np.float32)
    return first[None], second[None]


def test_the_package_carries_the_nine_models():
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(CUTS)


@pytest.mark.parametrize("name", CUTS)
def test_inspect_gives_a_table_of_exactly_the_separating_grids(name: str):
    deployed = DeployedModel(FOLDER / f"{name}.onnx", device="cpu")
    found = inspect_model(deployed)
    assert json.loads(json.dumps(found)) == found
    assert found["input"]["shape"] == list(SHAPE)
    assert found["classes"] == 1000
    assert found["output"]["kind"] == ("logits" if name == "light_densenet121" else "probabilities")
    assert len(found["cuts"]) == CUTS[name]
    model = deployed.model
    inferred = onnx.shape_inference.infer_shapes(model.proto).graph
    grids = {
        value.name
        for value in (*inferred.value_info, *inferred.input)
        if len(value.type.tensor_type.shape.dim) == 4 and value.type.tensor_type.shape.dim[3].dim_value >= 2
    }
    separators = separating(model.proto.graph, model.input_name, model.logits_name)
    assert {cut["name"] for cut in found["cuts"]} == separators & grids
    shares = [cut["tail_share"] for cut in found["cuts"]]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
    assert 0 <= shares[-1] < 0.2
    for cut in found["cuts"]:
        assert cut["stride"] is not None, cut["name"]
        assert all(1 <= size <= 224 for size in cut["receptive_field"]), cut["name"]
        # Cells are a stride apart, and the map spans the input.
        assert cut["shape"][1] * cut["stride"][0] == pytest.approx(224, abs=4 * cut["stride"][0]), cut["name"]
    # The grids of 28, 14 and 7 cells, as far as they are there: one cut each.
    assert 1 <= len(found["auto"]) <= 3
    by_name = {cut["name"]: cut["shape"][1] for cut in found["cuts"]}
    assert len({by_name[name] for name in found["auto"]}) == len(found["auto"])
    assert all(5 <= by_name[name] <= 28 for name in found["auto"])
    assert found["auto_refusal"] is None
    assert found["without_rule"] == []
    assert {cut["name"] for cut in found["cuts"] if cut["auto"]} == set(found["auto"])


@pytest.mark.parametrize("name", CUTS)
def test_tail_of_head_is_the_model_at_every_cut(name: str, tmp_path: Path):
    deployed = open_with_noise(name, tmp_path)
    graph, source = deployed.graph, deployed.model.input_name
    x, other = pictures()
    assert len(graph.cuts) == CUTS[name]
    # The features at all cuts from one run of the whole model.
    probe = with_weights(graph.whole())
    names = [cut.name for cut in graph.cuts[1:]]
    probe.graph.output.extend(helper.make_tensor_value_info(cut, TensorProto.FLOAT, None) for cut in names)
    weights = large_weights(probe)
    features = {source: x} | dict(zip(names, run(probe, source, x, weights)[1:], strict=True))
    logits = deployed.canonical(x)[0]
    largest = np.abs(logits).max()
    assert np.ptp(logits) > 0.1 * largest, "equal logits would prove nothing"
    assert np.abs(deployed.canonical(other)[0] - logits).max() > 100 * TOLERANCE * largest, (
        "a deaf model would prove nothing"
    )
    for cut in graph.cuts:
        tail = with_weights(graph.split(cut)[1])
        (found,) = run(tail, cut.name, features[cut.name], weights)
        assert np.abs(found.ravel() - logits).max() <= TOLERANCE * largest, cut.name
    for layer in inspect_model(deployed)["auto"]:
        cut = graph.find(layer)
        assert certify(cut, deployed.tail(cut)(deployed.head(cut)(x))[0], logits) <= TOLERANCE
    # One pass for the logits and the features of all these cuts.
    found, (seen, inputs) = deployed.answer(x[0]).logits, deployed.looker([cut, graph.cuts[0]])(x[0])
    assert np.abs(found - logits).max() <= TOLERANCE * largest
    np.testing.assert_allclose(seen, features[cut.name][0], atol=TOLERANCE * np.abs(seen).max())
    np.testing.assert_array_equal(inputs, x[0])


@pytest.mark.parametrize("fault", ["features", "tail"])
def test_control_a_corrupted_split_gets_no_certificate(fault: str, tmp_path: Path):
    deployed = open_with_noise("light_squeezenet", tmp_path)
    x, _ = pictures()
    cut = deployed.graph.cuts[10]
    features, logits, tail = deployed.head(cut)(x), deployed.canonical(x)[0], deployed.tail(cut)
    assert certify(cut, tail(features)[0], logits) <= TOLERANCE
    wrong = tail(features[:, ::-1].copy()) if fault == "features" else tail(features) * 1.001
    with pytest.raises(CutError, match=r"the model split there differs from the whole by .* of the largest logit"):
        certify(cut, wrong[0], logits)


def test_control_with_the_equal_weights_of_the_package_a_corrupted_split_would_pass():
    deployed = DeployedModel(FOLDER / "light_squeezenet.onnx", device="cpu")
    x, _ = pictures()
    cut = deployed.graph.cuts[10]
    logits = deployed.canonical(x)[0]
    assert np.ptp(logits) <= TOLERANCE * np.abs(logits).max()
    wrong = deployed.tail(cut)(deployed.head(cut)(x)[:, ::-1].copy())[0]
    assert certify(cut, wrong, logits) <= TOLERANCE

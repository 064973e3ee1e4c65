"""One row of ``check_real_models.py``: one model, explained with default options, in a process of its own.

Run as ``python -m parts.zoo.row JOB.json ROW.json``. A job has ``model``, ``picture``, ``layer``, ``quality`` and
perhaps ``preprocess`` and ``output``. What the package says of a file is held against the file itself, run by plain
ONNX Runtime on the same picture: the input is turned into what the file takes, and the logits into what it gives, anew.
"""

import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto

from onnx_evidence import DeployedModel, EvidenceError, Explainer
from onnx_evidence.cli.inspection import inspect_model
from onnx_evidence.pictures.photograph import read_photograph
from parts.zoo.held import locate_held
from parts.zoo.location import locate
from parts.zoo.verdict import wrong_places

Array = npt.NDArray[Any]
Row = dict[str, Any]

_REDUCED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
_HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


def file_facts(path: Path) -> Row:
    """What a file says of itself: exporter, opset, input, outputs, and whether it computes in fewer bits.

    ``input`` has words such as ``float32 N x 3 x 224 x 224``; for a file that cannot be read there is nothing.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # noqa: BLE001 - protobuf has many; what the package makes of it is what is checked
        return {}
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    kinds = {node.op_type for node in graph.node}
    halves = {tensor.data_type for tensor in graph.initializer} & _HALVES
    return {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0),
        "input": "; ".join(_in_words(value) for value in inputs),
        "reduced": bool(halves or kinds & _REDUCED),
    }


def _in_words(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower()
    sides = [
        str(dim.dim_value) if dim.dim_value > 0 else "N" if not k else "?" for k, dim in enumerate(tensor.shape.dim)
    ]
    return f"{ {'float': 'float32'}.get(kind, kind) } {' x '.join(sides)}"


def run_file(path: Path, inputs: Array, output: str) -> Array:
    """The file's own output for canonical inputs (N, channels, rows, columns), one picture at a time.

    Parameters
    ----------
    path : Path
        The file.
    inputs : ndarray of float32, shape (N, channels, rows, columns)
        Preprocessed pictures.
    output : str
        The name of one of its outputs.

    Returns
    -------
    ndarray of float64, shape (N, K)
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (wanted,) = session.get_inputs()
    rows = [session.run([output], {wanted.name: as_fed(row[None], wanted.type, wanted.shape)})[0] for row in inputs]
    return np.stack([np.asarray(row, np.float64).ravel() for row in rows])


def as_fed(inputs: Array, kind: str, shape: list[Any]) -> Array:
    """Canonical inputs as a file takes them: its element type, its layout (channels last where they are few there)."""
    last, second = shape[-1], shape[1]
    if isinstance(last, int) and last == inputs.shape[1] and second != inputs.shape[1]:
        inputs = inputs.transpose(0, 2, 3, 1)
    dtypes = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
    if kind in dtypes:
        return np.ascontiguousarray(inputs, dtype=dtypes[kind])
    dtype = np.dtype(kind.removeprefix("tensor(").removesuffix(")"))
    info = np.iinfo(dtype)
    return np.ascontiguousarray(np.clip(np.rint(inputs), info.min, info.max).astype(dtype))


def as_given(logits: Array, given: Array, kind: str) -> Array:
    """Canonical logits as the file's output holds them; ``kind`` is the package's word for that.

    A binary output holds one number for the second of two classes.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if given.shape[1] == 1 and logits.shape[1] == 2:
        margin: Array = logits[:, 1:] - logits[:, :1]
        return np.asarray(1 / (1 + np.exp(-margin))) if _is_share(given) and kind != "logits" else margin
    if kind == "log-probabilities":
        return log_p
    if kind == "logits":
        return logits
    # Softmax and sigmoid are told apart by what the file gives: exclusive classes add up to one.
    if np.abs(given.sum(axis=1) - 1).max() < 1e-2:
        return np.asarray(np.exp(log_p))
    return np.asarray(1 / (1 + np.exp(-logits)))


def _is_share(given: Array) -> bool:
    return bool(given.min() >= 0 and given.max() <= 1)


def make_row(job: Row) -> Row:
    """Everything about one model that is explained; the package's errors pass through."""
    path = Path(job["model"])
    opened: Row = {"preprocess": job.get("preprocess")} | ({"output": job["output"]} if job.get("output") else {})
    deployed = DeployedModel(path, **opened)
    report = inspect_model(deployed)
    row: Row = {
        "kind": report["output"]["kind"],
        "classes": report["classes"],
        "layout": report["input"]["layout"],
        "cuts": len(report["cuts"]),
        "auto": report["auto"],
        "proof": report.get("proof") or report["input"].get("proof") or "",
    }
    explainer = Explainer(deployed, layer=job["layer"], quality=job["quality"])
    start = time.perf_counter()
    explanation = explainer.explain(job["picture"])
    row["seconds"] = round(time.perf_counter() - start, 1)
    row["method"] = explainer.settings.method
    record = explanation.record
    row["certificate"] = max((cut["certificate"] for cut in record["cuts"]), default=0.0)
    row["used"] = [cut["name"] for cut in record["cuts"]]
    row["map"] = _judge_map(explanation.values)
    left = {cut["name"]: cut["tail_share"] for cut in report["cuts"]}
    row["left"] = min(left[name] for name in row["used"])
    # On pixels for want of a cut, or by windows for want of a rule: the receipt says so, in its own words.
    row["instead"] = explainer.reason if says_why(explainer.reason) else ""
    row["shallow"] = says(record, "shallow") or bool(row["instead"] and row["used"] == [deployed.model.input_name])
    photograph = read_photograph(Path(job["picture"]))
    two = np.stack([deployed.prepare(photograph)[1], deployed.prepare(photograph.pixels[:, ::-1].copy())[1]])
    together = deployed.canonical(two)
    alone = np.concatenate([deployed.canonical(each[None]) for each in two])
    row["batch"] = _share(together, alone)
    given = run_file(path, two, deployed.model.output_name)
    row["file"] = _share(as_given(alone, given, row["kind"]), given)
    output = deployed.model.output_name
    row["places"] = locate(explainer, lambda inputs: run_file(path, inputs, output), row["kind"])
    if wrong_places(row):
        again = {**opened, "preprocess": deployed.preprocess}
        row["held"] = locate_held(
            path,
            lambda held: Explainer(DeployedModel(held, **again), layer=job["layer"], quality=job["quality"]),
            run_file,
        )
    return row


def says_why(reason: str) -> bool:
    """Whether a reason for a method is that the default one cannot be computed."""
    return "cannot be computed" in reason


def says(record: Any, word: str) -> bool:
    """Whether a key with this word, anywhere in a record, holds something."""
    if isinstance(record, dict):
        return any((word in key and bool(value)) or says(value, word) for key, value in record.items())
    return isinstance(record, list) and any(says(value, word) for value in record)


def _share(one: Array, other: Array) -> float:
    """The largest difference as a share of the largest value."""
    return float(np.abs(one - other).max() / max(np.abs(other).max(), 1e-30))


def _judge_map(values: Array) -> str:
    if not np.isfinite(values).all():
        return "NOT FINITE"
    return "all zero" if not values.any() else "fine"


def main() -> None:
    """Do the job; the row says how it ended."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    start = time.perf_counter()
    try:
        row = {"end": "explained", **make_row(job)}
    except EvidenceError as error:
        # The table names a file by its place in the zoo, wherever that is.
        reason = str(error).replace(f"{Path(job['model']).parents[1]}/", "")
        row = {"end": "refused", "reason": reason, "error": type(error).__name__}
    except Exception:  # noqa: BLE001 - that is what is looked for
        row = {"end": "traceback", "reason": "".join(traceback.format_exc())}
    row["total"] = round(time.perf_counter() - start, 1)
    Path(sys.argv[2]).write_text(json.dumps({**file_facts(Path(job["model"])), **row}), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What ``inspect`` reports, as plain values."""

from typing import Any

from onnx_evidence.choose import Verdict, choose_cuts, judge_cuts
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import CutError
from onnx_evidence.graph import Cut


def inspect_model(deployed: DeployedModel) -> dict[str, Any]:
    """Describe a model: input, output, preprocessing, cuts, and which ones 'auto' takes and why.

    Parameters
    ----------
    deployed : DeployedModel
        The model; it is run once on zeros, to count its classes.

    Returns
    -------
    dict
        Plain values, ready for JSON. ``cuts`` is a list of objects with ``name``, ``op_type``, ``shape``
        (channels, rows, columns), ``tail_share``, ``stride``, ``receptive_field`` (rows, columns in
        pixels; null where unknown), ``skipped_by`` (what steps over its cells), ``auto`` (the reason, where
        'auto' takes it) and ``left`` (the reason where it does not). ``without_rule`` lists operators without a
        backward rule.

    Raises
    ------
    ModelError, DataError
        If the output is no vector of class scores, or the labels are not as many.
    """
    model = deployed.model
    verdicts = judge_cuts(deployed.graph.cuts)
    refusal = None
    try:
        choose_cuts(deployed.graph.cuts)
    except CutError as error:
        refusal = str(error)
    return {
        "model": str(model.path),
        "sha256": model.sha256,
        "opset": model.opset,
        "device": deployed.device.name,
        "device_reason": deployed.device.reason,
        "input": {
            "name": model.input_name,
            "layout": "NCHW",
            "dtype": "float32",
            "shape": [model.batch, *model.input_shape],
        },
        "output": {"name": model.output_name, "kind": model.output_kind, "logits": model.logits_name},
        "classes": deployed.classes,
        "labels": None if deployed.labels is None else len(deployed.labels),
        "preprocess": None if model.preprocess is None else model.preprocess.model_dump(mode="json"),
        "multiply_adds": deployed.graph.total_cost,
        "auto": [cut.name for cut, verdict in verdicts.items() if verdict.taken],
        "auto_refusal": refusal,
        "cuts": [_describe(cut, verdict, model.input_shape[1:]) for cut, verdict in verdicts.items()],
        "without_rule": deployed.missing_rules(model.input_name),
    }


def _describe(cut: Cut, verdict: Verdict, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": cut.name,
        "op_type": cut.op_type,
        "shape": list(cut.shape),
        "tail_share": round(cut.tail_share, 4),
        "stride": None if cut.field is None else list(cut.field.stride),
        "receptive_field": None if cut.field is None else list(cut.field.size(size)),
        "skipped_by": cut.skipped_by,
        "auto": verdict.reason if verdict.taken else None,
        "left": None if verdict.taken else verdict.reason,
    }

"""What ``inspect`` reports, as plain values."""

from dataclasses import asdict
from typing import Any

from onnx_evidence.cuts import Cut, Verdict, choose_cuts, judge_cuts, why_shallow
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import CutError
from onnx_evidence.methods import FALLBACK_METHODS


def inspect_model(deployed: DeployedModel) -> dict[str, Any]:
    """Describe a model: input, output, preprocessing, cuts, and which ones 'auto' takes and why; ready for JSON.

    It is run on zeros, to count its classes, and behind the cuts that 'auto' would take, to see whether their cells are
    read; ModelError where the output is no vector of class scores, DataError where the labels are not as many.
    """
    model = deployed.model
    cuts = deployed.graph.cuts
    verdicts = judge_cuts(cuts, is_read=deployed.is_read)
    refusal = shallow = None
    try:
        shallow = why_shallow(list(choose_cuts(cuts, is_read=deployed.is_read)), cuts, deployed.graph.lost)
    except CutError as error:
        refusal = str(error)
    return {
        "model": str(model.path),
        "sha256": model.sha256,
        "opset": model.opset,
        "device": deployed.device.name,
        "device_reason": deployed.device.reason,
        "elsewhere": deployed.elsewhere,  # nodes that another provider ran; null on the CPU
        "input": {  # as the file has it
            "name": model.input_name,
            "layout": model.entry.layout,
            "dtype": model.entry.dtype,
            "shape": [model.entry.batch, *model.entry.sides],
            "batch": model.batch,  # how many pictures run at once; null: any number
        },
        "changes": list(model.changes),  # what was done to the graph
        "explains": None if model.explains is None else {**model.explains, "self_test": None},  # recorded by 'export'
        "proof": None if model.proof is None else asdict(model.proof),  # how far that is from the file
        "output": {
            "name": model.output_name,
            "kind": model.output_kind,  # what it holds
            "logits": model.logits_name,  # where they are
            "classes": model.class_kind.name,  # 'exclusive' or 'independent'
            "binary": model.binary,
            "note": model.output_note,  # how logits were made
            "others": list(model.other_outputs),
        },
        "classes": deployed.classes,
        "labels": None if deployed.labels is None else len(deployed.labels),
        "preprocess": None if model.preprocess is None else model.preprocess.model_dump(mode="json"),
        "preprocess_source": model.preprocess_source,
        "multiply_adds": deployed.graph.total_cost,
        "auto": [cut.name for cut, verdict in verdicts.items() if verdict.taken],
        "auto_refusal": refusal,
        "instead": FALLBACK_METHODS[-1] if refusal else None,
        "shallow": shallow,  # where deep stages are no cuts: which, and why
        "cuts": [_describe(cut, verdict, model.input_shape[1:]) for cut, verdict in verdicts.items()],
        "without_rule": deployed.missing_rules(model.input_name),
    }


def _describe(cut: Cut, verdict: Verdict, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": cut.name,
        "op_type": cut.op_type,
        "shape": list(cut.shape),  # channels, rows, columns
        "tail_share": round(cut.tail_share, 4),
        "stride": None if cut.field is None else list(cut.field.stride),
        "receptive_field": None if cut.field is None else list(cut.field.size(size)),  # in pixels
        "sees_everything": cut.field is not None and cut.field.everything,
        "axes": cut.axes,  # what the tensor's axes mean, and how that is known
        "kept": cut.kept,  # channels, of those, that hold tokens which are no cells
        "skipped_by": cut.skipped_by,  # what steps over its cells
        "unread_by": cut.unread_by,  # what reads none of them
        "auto": verdict.reason if verdict.taken else None,
        "left": None if verdict.taken else verdict.reason,
    }

"""Where a graph can be cut in two, what the cells there are and see, and which cuts are taken.

Imported by: batch, cli, deployed, evaluation, explainer, export, methods.
"""

from onnx_evidence.cuts.cells import PLAIN_AXES
from onnx_evidence.cuts.certificate import are_read, certify
from onnx_evidence.cuts.choose import (
    AUTO,
    DEEP,
    IsRead,
    Verdict,
    choose_cuts,
    judge_cuts,
    last_cut,
    resolve_layers,
    why_no_grid,
    why_shallow,
)
from onnx_evidence.cuts.graph import Cut, Graph
from onnx_evidence.cuts.receptive import measure_field, measured_together, unmeasured

__all__ = [
    "AUTO",
    "DEEP",
    "PLAIN_AXES",
    "Cut",
    "Graph",
    "IsRead",
    "Verdict",
    "are_read",
    "certify",
    "choose_cuts",
    "judge_cuts",
    "last_cut",
    "measure_field",
    "measured_together",
    "resolve_layers",
    "unmeasured",
    "why_no_grid",
    "why_shallow",
]

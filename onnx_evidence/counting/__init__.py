"""How much a model computes, counted from its file alone before anything is computed; see `work`.

Imported by: batch, cli, deployed, explainer, intake.
"""

from onnx_evidence.counting.tally import MAX_WORK
from onnx_evidence.counting.work import refuse_endless

__all__ = ["MAX_WORK", "refuse_endless"]

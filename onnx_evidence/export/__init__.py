"""The model that explains itself: evidence compiled into the deployed file, in standard operators alone.

* `build`: the file's graph with what explains it; `parts` puts models into it, each node once.
* `evidence`, `arithmetic`: paths, scores and combination of maps, as `evidence` has them, in tensors; `pictures`:
  what is done to the input; `placing`, `resampling`: what makes it of decoded pictures.
* `proof`: the file, the explainer and the exported model run side by side; `selftest`: what it carries to be checked
  elsewhere; `file`: all of it as a file, with its record.

Imported by: cli.
"""

from onnx_evidence.export.build import CELLS, INPUT, RUNNER_UP, STEPS, WINNER, Asked
from onnx_evidence.export.check import Checked, check_exported
from onnx_evidence.export.file import export_model, is_exported
from onnx_evidence.export.proof import ROUNDING
from onnx_evidence.export.selftest import TOLERANCE

__all__ = [
    "CELLS",
    "INPUT",
    "ROUNDING",
    "RUNNER_UP",
    "STEPS",
    "TOLERANCE",
    "WINNER",
    "Asked",
    "Checked",
    "check_exported",
    "export_model",
    "is_exported",
]

"""How faithful maps are, measured on the deployed file: what ``onnx-evidence evaluate`` prints.

A method is any function from a `case.Case` to a map in the pixels of the model's input, so that maps computed elsewhere
are measured by the same instruments.

* `flipping`: what the model says while blocks of pixels are removed, and areas under it; `substrates`: what removed
  pixels become.
* `measures`: localisation, noise and focus of one map; `seen`: pictures changed by a little, for stability.
* `mosaics`: four pictures in one, each class's evidence in its quarter or not.
* `bootstrap`: intervals over pictures.
* `mappers`: methods and controls as functions; `given`: true classes, masks and boxes from files.
* `cost`: what maps take on this machine, and where the time goes.
* `loop`: everything of every method on every picture; `summary`, `report`, `figure`: what is made of it.

Imported by: cli.
"""

from onnx_evidence.evaluation.cost import measure_cost
from onnx_evidence.evaluation.links import walk_photograph
from onnx_evidence.evaluation.loop import TOLERANCE, Plan
from onnx_evidence.evaluation.mappers import DEFAULT_METHODS
from onnx_evidence.evaluation.report import comparison
from onnx_evidence.evaluation.sanity import DRAWS, plan_sanity
from onnx_evidence.evaluation.study import plan_study
from onnx_evidence.evaluation.substrates import SUBSTRATES

__all__ = [
    "DEFAULT_METHODS",
    "DRAWS",
    "SUBSTRATES",
    "TOLERANCE",
    "Plan",
    "comparison",
    "measure_cost",
    "plan_sanity",
    "plan_study",
    "walk_photograph",
]

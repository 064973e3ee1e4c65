"""The backward graph of a deployed file: vector-Jacobian products as ONNX models of standard operators.

ONNX files store no gradients, and need not: every forward operator has a rule that says, in standard operators
again, what a cotangent of its outputs means for its inputs. `build_vjp` applies the rules from the output back
to the input.

* `build`: the sweep, from a forward model to a backward one.
* `tape`: what rules write with, values with arithmetic; `step`: what they see of the forward graph.
* `table`: one rule per operator; `attention`, `elementwise`, `indexing`, `linear`, `pooling`, `normalization`,
  `reduction`, `sampling` and `shaping` hold them; `relevance` has others in place of some, which hand back relevance;
  `telling` says of which models that is worth it.
* `written`: which files hold what it made.

Imported by: cli, deployed, export, methods.
"""

from onnx_evidence.vjp.build import build_vjp, missing_rules
from onnx_evidence.vjp.modern import modern
from onnx_evidence.vjp.table import GRADIENT, GUIDED, RELEVANCE
from onnx_evidence.vjp.tape import Tape, Value
from onnx_evidence.vjp.telling import relevance_tells
from onnx_evidence.vjp.written import is_backward

__all__ = [
    "GRADIENT",
    "GUIDED",
    "RELEVANCE",
    "Tape",
    "Value",
    "build_vjp",
    "is_backward",
    "missing_rules",
    "modern",
    "relevance_tells",
]

"""Evidence of hidden features carried to single pixels, through the head's backward graph.

The evidence of a map is a linear form of the features: with v the mean gradient along the hidden path and m its
baseline, ``v . (h - m)``. How much of it each pixel brought about is integrated again, along the path from the blurred
picture x0 to the picture x in input space, with v as the cotangent:

    P = sum over colours of (x - x0) * integral over s in 0..1 of J(x0 + s (x - x0))' v,

J being the head's Jacobian. By the fundamental theorem the pixels add up to ``v . (head(x) - head(x0))``, which is
all of the cells' evidence where the hidden baseline is ``head(x0)`` itself; else there is a remainder, and it is said.
"""

import numpy as np

from onnx_evidence.evidence import PathEvidence, Score, integrate
from onnx_evidence.methods.baselines import blurred_picture
from onnx_evidence.methods.engine import View
from onnx_evidence.methods.settings import Settings
from onnx_evidence.types import FloatArray, Gradient


def carry_back(view: View, evidence: PathEvidence, head: Gradient, settings: Settings) -> FloatArray:
    """Carry the evidence of one path to the pixels of the model's input.

    Parameters
    ----------
    view : View
        The picture.
    evidence : PathEvidence
        At a cut inside.
    head : Gradient
        Of linear forms of the features (flattened, row by row), by the input.
    settings : Settings
        Completeness of the path in input space, and batch size.

    Returns
    -------
    ndarray of float64, shape (H, W)
        Bits per pixel.
    """
    form = evidence.slope.astype(np.float64).reshape(-1)
    score = Score(form, np.zeros(form.shape))
    start = blurred_picture(view)
    return integrate(
        view.inputs,
        start,
        head,
        score,
        first_steps=settings.steps,
        completeness=settings.completeness,
        batch_size=settings.batch_size,
    ).cells

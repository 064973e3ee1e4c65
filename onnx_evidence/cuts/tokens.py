"""Gradients at a cut by its cells alone: tokens that are none (a class token, registers) get nothing."""

from onnx_evidence.types import Features, FloatArray, Gradient


def by_cells(gradient: Gradient, kept: int) -> Gradient:
    """The same gradient, but 0 by channels that hold tokens which are no cells.

    Parameters
    ----------
    gradient : Gradient
        Of the tail.
    kept : int
        How many of the last channels are kept.

    Returns
    -------
    Gradient
    """
    if not kept:
        return gradient

    def found(batch: Features, direction: FloatArray, rest: FloatArray) -> tuple[FloatArray, Features]:
        logits, slopes = gradient(batch, direction, rest)
        slopes[:, -kept:] = 0
        return logits, slopes

    return found

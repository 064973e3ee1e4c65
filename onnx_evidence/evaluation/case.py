"""What a method is asked to map: one picture, as the model sees it, and one class."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx_evidence.pictures import Photograph
from onnx_evidence.types import Features, FloatArray


@dataclass(frozen=True)
class Case:
    """A picture and a class.

    Attributes
    ----------
    path : Path
        Where the picture came from.
    photograph : Photograph
        The picture; where it was changed (see `seen`), the changed one.
    inputs : ndarray of float32, shape (C, H, W)
        What the model makes its logits of.
    target : int
        The class that is explained.
    seed : int
        Key of all randomness of the method.
    """

    path: Path
    photograph: Photograph
    inputs: Features
    target: int
    seed: int = 0


# A method: a case to a map (H, W), float64, positive for the class, in any unit.
Mapper = Callable[[Case], FloatArray]

"""What a method is asked to map: one picture, as the model sees it, and one class."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx_evidence.pictures import Photograph
from onnx_evidence.types import Features, FloatArray


@dataclass(frozen=True)
class Case:
    """A picture and a class."""

    path: Path  # where the picture came from
    photograph: Photograph  # where the picture was changed (see `seen`), the changed one
    inputs: Features  # (C, H, W): what the model makes its logits of
    target: int  # the class that is explained
    seed: int = 0  # key of all randomness of the method


# A method: a case to a map (H, W), float64, in pixels of the model's input, positive for the class, in any unit.
Mapper = Callable[[Case], FloatArray]

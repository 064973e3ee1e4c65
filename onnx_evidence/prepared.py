"""A cut made ready: everything about it that is the same for every picture."""

from dataclasses import dataclass

from onnx_evidence.deployed import SplitModel
from onnx_evidence.graph import Cut
from onnx_evidence.projection import CellField
from onnx_evidence.samplers import Sampler
from onnx_evidence.windows import Windows


@dataclass(frozen=True)
class PreparedCut:
    """One cut of an `Explainer`.

    Attributes
    ----------
    split : SplitModel
        Head and tail.
    field : CellField
        Where its cells look.
    windows : Windows
        What is removed.
    sampler : Sampler
        What it is replaced by.
    samples : int
        Draws per window.
    """

    split: SplitModel
    field: CellField
    windows: Windows
    sampler: Sampler
    samples: int

    @property
    def cut(self) -> Cut:
        """The cut itself."""
        return self.split.cut

    @property
    def copies(self) -> int:
        """Edited copies that are run per picture."""
        return len(self.windows) * self.samples

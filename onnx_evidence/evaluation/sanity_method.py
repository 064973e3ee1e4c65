"""A method as `sanity` sees it: a map of one class, for any model, picture and class."""

from collections.abc import Callable
from typing import Protocol

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import SettingError
from onnx_evidence.evaluation.randomise import choose_stages
from onnx_evidence.explainer import Explainer
from onnx_evidence.pictures import Photograph
from onnx_evidence.types import AnyArray


class Mapper(Protocol):
    """Any method: ``(deployed, picture, target) -> map``, real numbers of shape (H, W), the same for every call."""

    def __call__(self, deployed: DeployedModel, picture: Photograph, target: int, /) -> AnyArray:
        """Explain one class of one picture."""
        ...


class Explained:
    """A method of the package as a `Mapper`; ``make`` is called once for each model in turn.

    SettingError where its background was fitted to features that a re-drawn network does not have, beside what
    `Explainer` and `evaluation.randomise.choose_stages` raise.

    Attributes
    ----------
    explainer : Explainer
        Of the model that was explained last.
    stages : list of Stage
        What to re-draw, given the cuts that the method explains.
    in_bits : bool
        Whether its maps count evidence.
    """

    def __init__(self, deployed: DeployedModel, make: Callable[[DeployedModel], Explainer]) -> None:
        self._make = make
        self.explainer = make(deployed)
        method = self.explainer.method
        path = method.background_path(self.explainer.settings)
        if path is not None and not path.is_dir() and not method.at_input:
            raise SettingError(
                f"background {path} holds what features of this model look like, and a re-drawn one has others: take "
                "--background mean, zero, blur or a folder of pictures"
            )
        self.stages = choose_stages(deployed, [engine.cut.name for engine in self.explainer.engines])
        self.in_bits = method.in_bits

    def __call__(self, deployed: DeployedModel, picture: Photograph, target: int, /) -> AnyArray:
        """The map of a class, (H, W) of the model's input, float32, in the method's unit; errors as of `Explainer`."""
        if self.explainer.deployed is not deployed:
            self.explainer = self._make(deployed)
        return self.explainer.explain(picture, target=target).values

"""Methods of `explain` and controls, as functions from a case to a map."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import CutError, GradientError, SettingError
from onnx_evidence.evaluation.case import Case, Mapper
from onnx_evidence.evidence import generator, key_of
from onnx_evidence.explainer import Explainer
from onnx_evidence.methods import DEFAULT_METHOD, FALLBACK_METHODS, METHODS, QUALITIES
from onnx_evidence.types import FloatArray

DEFAULT_METHODS = (DEFAULT_METHOD, *FALLBACK_METHODS)


def random_map(case: Case) -> FloatArray:
    """Control: noise, standard normal, without any knowledge of model or picture."""
    # Another picture or seed gives an independent one.
    return generator(case.seed, key_of(case.inputs.tobytes())).normal(size=case.inputs.shape[1:])


def centre_prior(case: Case) -> FloatArray:
    """Control: photographers put things in the middle; how much nearer to it than the corners a pixel is, in pixels."""
    rows, cols = (np.arange(side) - (side - 1) / 2 for side in case.inputs.shape[1:])
    distance: FloatArray = np.hypot(rows[:, None], cols[None, :])
    nearness: FloatArray = distance.max() - distance
    return nearness


CONTROLS: Mapping[str, Mapper] = {"random map": random_map, "centre prior": centre_prior}


class MethodMapper:
    """A method of `explain` at its defaults, or one of its qualities."""

    def __init__(self, make: Callable[[int], Explainer], seed: int = 0) -> None:
        self._make = make
        self._explainers = {seed: make(seed)}  # at once, so that what cannot be used is refused early

    def __call__(self, case: Case) -> FloatArray:
        """The map of one case, in the unit of the method; float64, shape (H, W)."""
        if case.seed not in self._explainers:
            self._explainers[case.seed] = self._make(case.seed)
        explainer = self._explainers[case.seed]
        return explainer.explain(case.photograph, target=case.target).values.astype(np.float64)


def make_mappers(
    deployed: DeployedModel,
    names: Sequence[str] | None,
    background: str | None,
    seed: int,
    left_out: Callable[[str, CutError | GradientError], object],
) -> dict[str, Mapper]:
    """Methods in the order given, then the controls, ready to map; an `EvidenceError` where one cannot be used.

    Without ``names`` they are those of `DEFAULT_METHODS` that the model's operators allow; ``left_out`` is told of
    others.
    """
    wanted = list(dict.fromkeys(DEFAULT_METHODS if names is None else names))
    check_methods(wanted, background)
    found: dict[str, Mapper] = {}
    for name in wanted:
        try:
            found[name] = method_mapper(deployed, name, background, seed)
        except (CutError, GradientError) as error:
            if names is not None:
                raise
            left_out(name, error)
    return {**found, **CONTROLS}


def check_methods(names: Sequence[str], background: str | None) -> None:
    """Refuse methods that are not there, or none at all, and a background that none of them needs."""
    if not names:
        raise SettingError(f"no methods: take some of {', '.join(METHODS)}")
    for name in names:
        if name not in METHODS and name not in QUALITIES:
            raise SettingError(f"method {name!r} is unknown: take some of {', '.join((*METHODS, *QUALITIES))}")
    needy = [name for name, method in METHODS.items() if method.needs_file]
    if background is not None and not set(needy) & set(names):
        raise SettingError(
            f"--background {background}: none of the methods {', '.join(names)} needs a fitted background, and each is "
            f"measured at its defaults: drop it, or add one of {', '.join(needy)}"
        )


def method_mapper(deployed: DeployedModel, name: str, background: str | None = None, seed: int = 0) -> MethodMapper:
    """A method of `explain`, or a quality, ready to map; an `EvidenceError` where it cannot be used on the model."""
    if name in QUALITIES:
        return MethodMapper(lambda key: Explainer(deployed, quality=name, seed=key), seed)
    given = background if METHODS[name].needs_file else None
    return MethodMapper(lambda key: Explainer(deployed, method=name, background=given, seed=key), seed)

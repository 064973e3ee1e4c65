"""From removal to the gradient-based pictures, one simplification at a time, on the user's own model and picture.

Every step answers the same question with one assumption more than the step before it. The rank correlation of
neighbours says what the assumption costs on this picture. docs/links.md has the formulas.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onnx_evidence.cuts import AUTO, Cut, resolve_layers
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.evidence import (
    LN2,
    MeanSampler,
    Score,
    Windows,
    attribution,
    default_size,
    integrate,
    remove_windows,
    window_evidence,
)
from onnx_evidence.files import check_writable, finite_json, write_atomic
from onnx_evidence.methods import Question, View, ask, check_targets, own_means
from onnx_evidence.results import write_figure
from onnx_evidence.types import Features, FloatArray, Gradient, Pixels, Predict

# Windows on which the path of one window is compared with its exact removal.
_PROVED = 4
_STRICT = 1e-3


@dataclass(frozen=True)
class Link:
    """One step of the walk.

    Attributes
    ----------
    name : str
        What it is known as.
    change : str
        What was simplified from the step before; of the first one, what it is.
    values : ndarray of float64, shape (A, B)
        The map on the grid of the cut.
    correlation : float
        Rank correlation with the step before; NaN of the first.
    """

    name: str
    change: str
    values: FloatArray
    correlation: float


@dataclass(frozen=True)
class Links:
    """The walk at one cut, for one class of one picture.

    Attributes
    ----------
    steps : tuple of Link
        From full removal to the plain gradient.
    proof : float
        Largest difference, in bits, between the exact removal of a window and the path integral restricted to it,
        over a few windows.
    """

    steps: tuple[Link, ...]
    proof: float


@dataclass(frozen=True)
class Walked:
    """The walk of one photograph, with what was asked.

    Attributes
    ----------
    links : Links
        The walk.
    cut : str
        Where.
    question : str
        The class, and the one that it is held against.
    name : str
        The picture's.
    seen : ndarray of uint8, shape (H, W, 3)
        The part of the photograph that the model saw.
    """

    links: Links
    cut: str
    question: str
    name: str
    seen: Pixels

    def report(self) -> dict[str, Any]:
        """Plain values, ready for JSON; ``steps`` have ``name``, ``change``, ``correlation`` (null for the first)."""
        steps = [
            {
                "name": link.name,
                "change": link.change,
                "correlation": None if np.isnan(link.correlation) else round(link.correlation, 4),
            }
            for link in self.links.steps
        ]
        return {"question": self.question, "cut": self.cut, "proof_bits": self.links.proof, "steps": steps}

    def write(self, out: Path) -> None:
        """Write links.png and links.json into a folder; StoreError where they cannot be written."""
        from onnx_evidence.evaluation.links_figure import draw_links  # matplotlib is slow to import

        figure = draw_links(self.links, self.seen, f"{self.name}  -  {self.question}  -  cut {self.cut}")
        check_writable(out)
        write_atomic(out / "links.png", partial(write_figure, figure))
        report = finite_json(self.report(), indent=2).encode()
        write_atomic(out / "links.json", lambda stream: stream.write(report))


def walk_photograph(deployed: DeployedModel, image: Path, target: str, versus: str | None, layer: str) -> Walked:
    """Walk on one photograph, asking as people do.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    image : Path
        A picture file.
    target : str
        The class, as `--target` takes it.
    versus : str or None
        The class that it is held against.
    layer : str
        The cut, as `--layer` takes it; the middle one of several.

    Returns
    -------
    Walked

    Raises
    ------
    EvidenceError
        One of its leaves, if anything given cannot be used.
    """
    names = resolve_layers([layer or AUTO], deployed.graph.cuts, integrate=True, is_read=deployed.is_read)
    cut = deployed.graph.find(names[len(names) // 2])
    check_targets(deployed, [target], versus)
    photograph, inputs, placement = deployed.prepare(image)
    top = deployed.answer(inputs).ranked[0]
    (asked,) = ask(deployed, photograph.name, top, [target], versus)
    question = deployed.label(asked.target)
    if asked.versus is not None:
        question += f" rather than {deployed.label(asked.versus)}"
    upper, left, lower, right = (round(side) for side in placement.seen())
    seen = photograph.pixels[max(upper, 0) : lower, max(left, 0) : right]
    links = walk(deployed, cut, inputs, asked.target, asked.versus)
    return Walked(links, cut.name, question, photograph.name.rsplit("/", 1)[-1], seen)


def walk(deployed: DeployedModel, cut: Cut, inputs: Features, target: int, versus: int | None = None) -> Links:
    """Walk from removal to the gradient at a cut inside, for a class or for that against another one.

    ``inputs`` is the preprocessed picture, (channels, H, W); GradientError where an operator has no backward rule.
    """
    logits, features = deployed.answer(inputs).logits, deployed.head(cut)(inputs[None])[0]
    view = View(inputs, features, logits, 0, deployed.class_kind)
    score = view.score(Question(target, versus))
    start = own_means(view)[0]
    tail, gradient = deployed.tail(cut), deployed.gradient(cut)
    slope = gradient(features[None], score.direction, score.rest)[1][0] / np.float32(LN2)
    whole = deployed.gradient(deployed.graph.cuts[0])
    at_input = whole(inputs[None], score.direction, score.rest)[1][0] / np.float32(LN2)
    windows = Windows.place(cut.grid, default_size(cut.grid))
    removal = _removal(view, tail, windows, target, versus)
    pooled = attribution.grad_cam(features, slope)
    by_pixel = attribution.layer_times_gradient(inputs, at_input)
    maps = [
        ("removal of windows", "windows become the channel means, exactly", removal),
        ("path integral", "all cells leave together, along a path", integrate(features, start, gradient, score).cells),
        ("first-order evidence", "the path has length zero", attribution.layer_times_gradient(features - start, slope)),
        ("HiResCAM", "removed means zero", attribution.layer_times_gradient(features, slope)),
        ("Grad-CAM, signed", "the gradient is pooled over the cells", pooled),
        ("Grad-CAM", "what speaks against is dropped", np.maximum(pooled, 0)),
        ("gradient x input", "the cut is the input", _on_grid(by_pixel, cut.grid)),
        ("gradient", "pixels of any value, without sign", _on_grid(attribution.largest_slope(at_input), cut.grid)),
    ]
    steps: list[Link] = []
    for name, change, values in maps:
        correlation = rank_correlation(steps[-1].values, values) if steps else float("nan")
        steps.append(Link(name, change, values, correlation))
    return Links(tuple(steps), _proof(features, start, tail, gradient, score, windows))


def _removal(view: View, tail: Predict, windows: Windows, target: int, versus: int | None) -> FloatArray:
    classes = [target] if versus is None else [target, versus]
    removal = remove_windows(view.features, tail, MeanSampler(), windows, classes, class_kind=view.class_kind)
    return windows.average(window_evidence(removal, 0, None if versus is None else 1).bits)


def _proof(
    features: Features, start: Features, tail: Predict, gradient: Gradient, score: Score, windows: Windows
) -> float:
    """Compare exact removal with the path restricted to a window, for windows spread over the grid."""
    sites = list(windows.sites())
    rows, cols = windows.size
    differences = []
    for row, col in sites[:: max(1, len(sites) // _PROVED)][:_PROVED]:
        removed = features.copy()
        inside = np.s_[:, row : row + rows, col : col + cols]
        removed[inside] = start[inside]
        exact = np.diff(score.bits(tail(np.stack([removed, features]))))[0]
        path = integrate(features, removed, gradient, score, completeness=_STRICT).cells.sum()
        differences.append(abs(exact - path))
    return float(max(differences))


def _on_grid(pixels: FloatArray, grid: tuple[int, int]) -> FloatArray:
    """Sums of pixels over the cells of a grid."""
    rows, cols = (
        np.linspace(0, side, cells, endpoint=False).round().astype(np.int64)
        for side, cells in zip(pixels.shape, grid, strict=True)
    )
    sums: FloatArray = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0), cols, axis=1)
    return sums


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Spearman's rank correlation of two maps of one shape; equal values share ranks, NaN where a map is constant."""
    ranks = [_ranks(each.ravel()) for each in (first, second)]
    centred = [each - each.mean() for each in ranks]
    size = float(np.sqrt(np.prod([each @ each for each in centred])))
    return float(centred[0] @ centred[1] / size) if size else float("nan")


def _ranks(values: FloatArray) -> FloatArray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: FloatArray = (last - (counts - 1) / 2)[place]
    return ranks

"""Compare maps of one model in several precisions: how much of an explanation survives quantising.

MODEL is the reference, OTHER... the same network in fewer bits. On every picture each explains the class that the
reference gives, with default options, and its map in the pixels of the input is correlated with the reference's
(Pearson). As a control the last row correlates the reference's maps of neighbouring pictures of the folder: what two
maps share that have nothing to do with each other but the model. ``refused`` counts pictures that could not be
explained, ``same top-1`` is the share of pictures to which a model gives the reference's class, ``bits`` the median
difference of the log-odds of that class.

The second table holds each against its own file: ``p`` is the largest difference between a recorded probability (of the
class explained, or one of the five most probable) and plain ONNX Runtime's on the same tensor; ``certificate`` and
``rounding``, in bits, are those of the manifest, the worst cut of a picture; median and largest over the pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
from onnxruntime import InferenceSession, SessionOptions
from tqdm import tqdm

from onnx_evidence import EvidenceError, Explainer, Explanation
from onnx_evidence.errors import GradientError
from onnx_evidence.files.machine import available_threads
from onnx_evidence.pictures.photograph import list_images
from onnx_evidence.types import AnyArray

_FILE_HEAD = ("model", "refused", "p", "certificate, median", "largest", "rounding, median", "largest")
_HEAD = ("model", "pictures", "refused", "mean", "min", "quartile", "median", "third quartile", "same top-1", "bits")


@dataclass
class Row:
    """What was measured of one model, one number per picture.

    Attributes
    ----------
    name : str
        Of the file.
    correlations : list of float
        With the reference's map.
    same : list of bool
        Whether the class is the reference's.
    shifts : list of float
        Difference of the log-odds of the reference's class, bits.
    refused : int
        Pictures that could not be explained.
    apart : list of float
        Largest difference of a probability from plain ONNX Runtime's.
    certificates, roundings : list of float
        Of the worst cut; the latter in bits.
    """

    name: str
    correlations: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    shifts: list[float] = field(default_factory=list)
    refused: int = 0
    apart: list[float] = field(default_factory=list)
    certificates: list[float] = field(default_factory=list)
    roundings: list[float] = field(default_factory=list)

    def add(self, explanation: Explanation, top: int, reference: Explanation) -> None:
        """Note one picture."""
        self.correlations.append(correlation(explanation.values, reference.values))
        self.same.append(top == reference.target.number)
        self.shifts.append(abs(explanation.log_odds_bits - reference.log_odds_bits))
        cuts = explanation.record["cuts"]
        self.certificates.append(max(cut["certificate"] for cut in cuts))
        self.roundings.append(max(abs(cut["rounding_bits"]) for cut in cuts))

    def hold(self, explanation: Explanation, plain: AnyArray) -> None:
        """Note how far what is recorded is from plain ONNX Runtime's probabilities."""
        said = {each["class"]: each["probability"] for each in explanation.record["top"]}
        said[explanation.target.number] = explanation.probability
        self.apart.append(max(abs(p - plain[number]) for number, p in said.items()))

    def file_line(self) -> str:
        """The row of the second table."""
        spread = [f(each) for each in (self.certificates, self.roundings) for f in (np.median, np.max)]
        numbers = [f"{max(self.apart):.1e}", *(f"{number:.1e}" for number in spread)] if self.apart else [""] * 5
        return f"| {' | '.join([self.name, str(self.refused), *numbers])} |"

    def line(self) -> str:
        """The row of the table."""
        values = np.array(self.correlations or [np.nan])
        numbers = [values.mean(), values.min(), *np.percentile(values, [25, 50, 75])]
        rest = [f"{np.mean(self.same):.2f}", f"{np.median(self.shifts):.2f}"] if self.same else ["", ""]
        counts = [str(len(self.correlations)), str(self.refused)]
        return f"| {' | '.join([self.name, *counts, *(f'{number:.3f}' for number in numbers), *rest])} |"


def correlation(one: AnyArray, other: AnyArray) -> float:
    """Pearson's correlation of two maps over all pixels; 0 where one of them is even.

    Parameters
    ----------
    one, other : ndarray, shape (H, W)
        Maps of the same picture.

    Returns
    -------
    float
        -1..1.
    """
    a, b = (np.asarray(each, np.float64) - np.mean(each, dtype=np.float64) for each in (one, other))
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale else 0.0


class Plain:
    """A file in plain ONNX Runtime, with nothing of ours but the picture's tensor."""

    def __init__(self, explainer: Explainer) -> None:
        model = self.model = explainer.deployed.model
        options = SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = available_threads()
        self.session = InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        self.prepare = explainer.deployed.prepare

    def __call__(self, path: Path) -> AnyArray:
        """Probabilities (K,)."""
        inputs = self.prepare(path)[1][None]
        entry = self.model.entry
        given = (inputs if entry.layout == "NCHW" else inputs.transpose(0, 2, 3, 1)).astype(entry.dtype)
        name = self.session.get_inputs()[0].name
        scores = self.session.run([self.model.output_name], {name: given})[0].reshape(-1).astype(np.float64)
        if self.model.output_kind != "logits":
            return np.asarray(scores)
        powers = np.exp(scores - scores.max())
        return np.asarray(powers / powers.sum())


def measure(reference: Explainer, others: Sequence[Explainer], paths: Sequence[Path]) -> list[Row]:
    """All rows, the control last."""
    rows = [Row(each.deployed.model.path.stem) for each in others]
    plain = [Plain(each) for each in others]
    control = Row("another picture, the same model (control)")
    before: Explanation | None = None
    for path in tqdm(paths, unit="picture", disable=None):
        first = reference.explain(path)
        for row, explainer, file in zip(rows, others, plain, strict=True):
            try:
                found = explainer.explain(path, target=first.target.number)
            except EvidenceError as error:
                click.echo(f"{row.name}, {path.name}: {error}", err=True)
                row.refused += 1
            else:
                row.add(found, found.record["top"][0]["class"], first)
                row.hold(found, file(path))
        if before is not None:
            control.correlations.append(correlation(before.values, first.values))
        before = first
    return [*rows, *([control] if control.correlations else [])]


def _open(path: Path, quality: str) -> Explainer:
    """By windows, where an operator has no backward rule."""
    try:
        return Explainer(path, quality=quality)
    except GradientError:
        return Explainer(path, method="window")


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("others", metavar="OTHER...", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pictures", type=click.IntRange(min=1), default=50, show_default=True, help="Evenly from the folder.")
@click.option("--quality", default="default", show_default=True, help="As `explain` takes it.")
def main(model: Path, others: tuple[Path, ...], folder: Path, pictures: int, quality: str) -> None:
    """Correlate maps of every OTHER with those of MODEL on pictures of FOLDER."""
    paths = list_images([folder])
    chosen = [paths[index] for index in np.linspace(0, len(paths) - 1, min(pictures, len(paths))).astype(int)]
    opened = []
    for path in others:
        try:
            opened.append(_open(path, quality))
        except EvidenceError as error:
            # One precision that cannot be run must not cost the others.
            click.echo(f"{path.stem} is left out: {error}", err=True)
    rows = measure(Explainer(model, quality=quality), opened, chosen)
    click.echo(f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}")
    for row in rows:
        click.echo(row.line())
    click.echo(f"\n| {' | '.join(_FILE_HEAD)} |\n|{'---|' * len(_FILE_HEAD)}")
    for row in rows:
        if row.certificates or row.refused:
            click.echo(row.file_line())


if __name__ == "__main__":
    main()

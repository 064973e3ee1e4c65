"""A whole run of ``onnx-evidence evaluate``: what is given, the methods, the loop and the files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import CutError, DataError, EvidenceError, GradientError, SettingError
from onnx_evidence.evaluation.case import Mapper
from onnx_evidence.evaluation.given import Marker, choose_pictures, find_masks, read_boxes, read_truth
from onnx_evidence.evaluation.loop import Plan, Scored, evaluate
from onnx_evidence.evaluation.mappers import make_mappers
from onnx_evidence.evaluation.mosaics import Answered, Mosaic, ask_mosaics, find_mosaics
from onnx_evidence.evaluation.report import write_report
from onnx_evidence.evaluation.summary import check_reference, summarise, summarise_mosaics
from onnx_evidence.files import check_writable, several
from onnx_evidence.pictures import printable


@dataclass(frozen=True)
class Study:
    """What is measured, on what."""

    deployed: DeployedModel
    mappers: dict[str, Mapper]
    pictures: list[Path]
    others: list[Path]  # that the substrate 'pictures' draws from
    plan: Plan
    reference: str  # the method that the others are compared with
    truth: Mapping[Path, int] | None  # the class to explain
    objects: Marker | None
    mosaics: list[Mosaic]

    @property
    def maps(self) -> int:
        """Maps that are measured."""
        questions = sum(len(mosaic.targets) for mosaic in self.mosaics)
        return (len(self.pictures) + questions) * len(self.mappers)

    def run(
        self, failed: Callable[[Path, EvidenceError], object], progress: Callable[[], object] = lambda: None
    ) -> list[Scored]:
        """What was measured, on one picture at least; see `loop.evaluate`."""
        results = evaluate(
            self.deployed,
            self.pictures,
            self.mappers,
            self.plan,
            truth=self.truth,
            objects=self.objects,
            others=self.others,
            failed=failed,
            progress=progress,
        )
        if found := list(results):
            return found
        pictures = several(len(self.pictures), "picture")
        raise DataError(f"none of {pictures} could be measured: nothing was written")

    def ask(self, progress: Callable[[], object] = lambda: None) -> list[Answered]:
        """What was measured of mosaics, where some are wanted; see `mosaics.ask_mosaics`."""
        return list(ask_mosaics(self.mosaics, self.mappers, progress))

    def write(self, out: Path, results: Sequence[Scored], answered: Sequence[Answered] = ()) -> dict[str, Any]:
        """Write numbers.csv, summary.json, which is also returned (see `summary.summarise`), and curves.png."""
        model, device = self.deployed.model, self.deployed.device
        summary = {
            "model": printable(model.path),
            "model_sha256": model.sha256,
            "device": device.name,
            "failed": len(self.pictures) - len(results),
            **summarise(results, self.plan, self.reference, judged=self.truth is not None),
            "mosaics": summarise_mosaics(answered, self.plan, self.reference),
        }
        write_report(out, results, summary, answered)
        return summary


def plan_study(
    deployed: DeployedModel,
    folder: Path,
    out: Path,
    plan: Plan,
    *,
    methods: Sequence[str] | None = None,
    background: str | None = None,
    reference: str | None = None,
    limit: int | None = None,
    truth: Path | None = None,
    masks: Path | None = None,
    boxes: Path | None = None,
    left_out: Callable[[str, CutError | GradientError], object] = lambda name, error: None,
) -> Study:
    """Settle everything that can be refused, before hours are spent.

    Parameters
    ----------
    deployed : DeployedModel
    folder : Path
        Of pictures; those in folders inside are measured too.
    out : Path
        Where files will go; pictures inside are left out.
    plan : Plan
    methods : sequence of str, optional
        As in `mappers.make_mappers`, like ``background`` and ``left_out``.
    background : str, optional
        A fitted background, for the methods that need one.
    reference : str, optional
        The method that the others are compared with; by default the first.
    limit : int, optional
        As in `given.choose_pictures`.
    truth, masks, boxes : Path, optional
        What is known of the pictures: see `given.read_truth`, `given.find_masks` and `given.read_boxes`.
    left_out : callable
        Told of default methods that the model does not allow.

    Returns
    -------
    Study
        Nothing of it is measured yet.

    Raises
    ------
    EvidenceError
        One of its leaves, if anything given cannot be used.
    """
    if masks is not None and boxes is not None:
        raise SettingError("--masks and --boxes both say where objects are: give one of them")
    # Refuse a model without preprocessing, or with other labels than classes, too.
    _ = deployed.preprocess, deployed.classes
    pictures, others = choose_pictures(folder, limit, [out, *([masks] if masks else [])])
    plan.check(len(others))
    true = None if truth is None else read_truth(truth, pictures, folder, deployed.find_class)
    objects = find_masks(masks, pictures, folder) if masks else read_boxes(boxes, pictures, folder) if boxes else None
    mappers = make_mappers(deployed, methods, background, plan.seed, left_out)
    reference = reference or next(iter(mappers))
    check_reference(reference, list(mappers))
    check_writable(out)
    mosaics = find_mosaics(deployed, others, plan.mosaics, plan.seed) if plan.mosaics else []
    return Study(deployed, mappers, pictures, others, plan, reference, true, objects, mosaics)

"""Feed damaged models and pictures to the package: whatever they are, one line says what is wrong, soon, or they work.

Hypothesis draws every mutation; cases run in a process that is watched, see `parts/watched.py`.
"""

import contextlib
from pathlib import Path

import click
from parts.fuzz.mutations import Case, mutated_models, mutated_pictures
from parts.fuzz.seeds import model_seeds, picture_seeds
from parts.small_model import write_model, write_pictures
from parts.watched import BLOCK, Answer, Fuzz, Prepare

WORKS = Answer("works", "")


class _Explains:
    """Explains a picture with a model, as the command does."""

    def __init__(self, place: Path) -> None:
        from onnx_evidence.pictures.photograph import read_photograph

        self.place, self.out = place, place / "out"
        (path,) = write_pictures(place / "pictures", 1).iterdir()
        self._picture = read_photograph(path)
        (place / "weights.bin").write_bytes(bytes(64))
        (place.parent / "outside.bin").write_bytes(bytes(1 << 16))
        (place / "link").symlink_to("/etc/passwd")

    def put(self, case: Case) -> None:
        """Write the files of a model."""
        _write(self.place, case)

    def run(self, case: Case) -> Answer:
        """Explain."""
        from onnx_evidence import Explainer

        explainer = Explainer(self.place / case.name, device="cpu", quality="fast")
        explainer.explain(self._picture).save(self.out / "map.npz")
        return WORKS


class _Looks:
    """Makes a picture the input of a model, and reads it as bands."""

    def __init__(self, place: Path) -> None:
        from onnx_evidence import DeployedModel

        self.place, self.out = place, place / "out"
        self._deployed = DeployedModel(write_model(place / "model.onnx"), device="cpu")

    def put(self, case: Case) -> None:
        """Write a picture."""
        _write(self.place, case)

    def run(self, case: Case) -> Answer:
        """Look at it."""
        from onnx_evidence import EvidenceError
        from onnx_evidence.pictures.photograph import read_photograph

        picture = self.place / case.name
        with contextlib.suppress(EvidenceError):
            read_photograph(picture, bands=True)
        _, inputs, _ = self._deployed.prepare(picture)
        self._deployed.logits(inputs[None])
        return WORKS


def _write(place: Path, case: Case) -> None:
    for name, data in case.files.items():
        (place / name).write_bytes(data)


_RUNS: dict[str, Prepare] = {"models": _Explains, "pictures": _Looks}


@click.command()
@click.argument("kinds", nargs=-1, type=click.Choice(list(_RUNS)))
@click.option("--cases", default=20_000, show_default=True)
@click.option("--start", default=0, show_default=True, help="First block: a finding's makes it again.")
@click.option("--shown", default=10, show_default=True, help="Kinds of findings of which one is shrunk and printed.")
@click.option("--keep", default=Path("build/fuzz"), show_default=True, type=click.Path(path_type=Path))
@click.option("--also", multiple=True, type=click.Path(path_type=Path, exists=True), help="Files to damage besides.")
def main(kinds: tuple[str, ...], cases: int, start: int, shown: int, keep: Path, also: tuple[Path, ...]) -> None:
    """Feed damaged models and pictures to the package, and count what it says."""
    findings = 0
    for kind in kinds or tuple(_RUNS):
        given = [path for path in also if (path.suffix == ".onnx") == (kind == "models")]
        drawn = mutated_models(model_seeds(), given) if kind == "models" else mutated_pictures(picture_seeds(given))
        fuzz = Fuzz(kind, _RUNS[kind], drawn, keep)
        try:
            for number, done in enumerate(range(0, cases, BLOCK), start):
                fuzz.block(number, min(BLOCK, cases - done), shown)
            findings += fuzz.report()
        finally:
            fuzz.watched.stop()
    if findings:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()

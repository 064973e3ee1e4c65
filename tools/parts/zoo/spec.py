"""What a zoo of models is: one `Spec` per file, and a loop that builds what is not there yet.

Nothing but the standard library is imported here: the modules ``torch_models`` and ``tf_models`` run in
environments of their own, and each that builds has ``SPECS`` and calls `build_missing`. Files lie at
``FOLDER/SOURCE/NAME.onnx``.
"""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spec:
    """One model of the zoo.

    Attributes
    ----------
    source : str
        Where it comes from; the folder that it lies in.
    name : str
        The file's name without its ending.
    exporter : str
        What wrote the file, in words.
    preset : str or None
        The preprocessing to name, as `--preprocess` takes it; None where the model records its own.
    output : str or None
        The output to name where there are several that could hold class scores.
    layer : str
        The cut to name; 'auto' where the default must do.
    refused : bool
        It is no image classifier: the right answer is a refusal.
    pretrained : bool
        It has weights that somebody trained.
    options : dict
        For whoever builds it.
    """

    source: str
    name: str
    exporter: str
    preset: str | None = None
    output: str | None = None
    layer: str = "auto"
    refused: bool = False
    pretrained: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def path(self, folder: Path) -> Path:
        """The file, in the zoo's folder."""
        return folder / self.source / f"{self.name}.onnx"


Make = Callable[[Spec, Path], None]


def build_missing(specs: Sequence[Spec], make: Make, folder: Path, only: Sequence[str] = ()) -> int:
    """Build the models that are not there, each whole or not at all, and say so; the number that could not be built.

    ``make`` writes the file that it is given, in a new folder; external data must lie beside it.
    """
    failed = 0
    for spec in specs:
        path = spec.path(folder)
        if path.exists() or (only and spec.name not in only):
            continue
        start = time.perf_counter()
        work = folder / f".{spec.source}-{spec.name}"
        work.mkdir(parents=True, exist_ok=True)
        try:
            make(spec, work / path.name)
        except Exception:  # noqa: BLE001 - one exporter that fails must not keep the others from being tried
            failed += 1
            print(
                f"{spec.source}/{spec.name}: NOT BUILT: {traceback.format_exc().strip().splitlines()[-1]}", flush=True
            )
        else:
            # The .onnx file last: it says that all is there.
            path.parent.mkdir(exist_ok=True)
            for made in sorted(work.iterdir(), key=lambda each: each.suffix == ".onnx"):
                made.replace(path.parent / made.name)
            print(f"{spec.source}/{spec.name}: {time.perf_counter() - start:.0f} s", flush=True)
        for left in work.iterdir():
            left.unlink()
        work.rmdir()
    return failed


def run_as_program(specs: Sequence[Spec], make: Make) -> None:
    """``python -m parts.zoo.SOURCE FOLDER [NAME...]``: what the modules do when they are run."""
    folder, *only = sys.argv[1:]
    raise SystemExit(min(build_missing(specs, make, Path(folder), only), 1))

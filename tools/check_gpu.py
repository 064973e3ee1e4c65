"""Compare the CPU with CUDA on one model: logits, maps, memory and speed.

Run it on a machine with a GPU; elsewhere it says what is missing and exits 1.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from onnx_evidence import DeployedModel, DeviceError, Explainer
from onnx_evidence.pictures.photograph import list_images

_BATCHES = (1, 8, 32, 128, 256)
_REPEATS = 7


def _memory() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.used", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"nvidia-smi failed: {error}"


def _milliseconds(deployed: DeployedModel, batch: int) -> float:
    x = np.random.default_rng(0).normal(size=(batch, *deployed.model.input_shape)).astype(np.float32)
    deployed.session.run(x)
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        deployed.session.run(x)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000 / batch


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--background", default="mean", show_default=True, help="Of --method window.")
@click.option("--limit", default=10, show_default=True, help="How many pictures.")
def main(model: Path, images: tuple[Path, ...], background: str, limit: int) -> None:
    """Explain IMAGES (files or folders) with MODEL on both devices."""
    try:
        gpu = DeployedModel(model, device="cuda")
    except DeviceError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    cpu = DeployedModel(model, device="cpu")
    click.echo(f"GPU, driver, memory with a session open: {_memory()}")
    click.echo("batch   CPU ms/picture   CUDA ms/picture   ratio")
    for batch in _BATCHES:
        slow, fast = _milliseconds(cpu, batch), _milliseconds(gpu, batch)
        click.echo(f"{batch:5}   {slow:14.3f}   {fast:15.4f}   {slow / fast:5.1f}")
    click.echo("picture   method   largest logit difference   largest map difference   CPU s   CUDA s")
    methods = {
        "integrated": [Explainer(deployed, method="integrated") for deployed in (cpu, gpu)],
        "window": [
            Explainer(deployed, method="window", background=background, batch_size=128) for deployed in (cpu, gpu)
        ],
    }
    for path in list_images(list(images))[:limit]:
        _, x, _ = cpu.prepare(path)
        logits = np.abs(cpu.logits(x[None]) - gpu.logits(x[None])).max()
        for name, both in methods.items():
            found, seconds = [], []
            for explainer in both:
                start = time.perf_counter()
                found.append(explainer.explain(path, target=int(cpu.logits(x[None])[0].argmax())))
                seconds.append(time.perf_counter() - start)
            difference = f"{np.abs(found[0].shown - found[1].shown).max():.2e} {found[0].shown_unit}"
            click.echo(f"{path.name}   {name}   {logits:.2e}   {difference}   {seconds[0]:.2f}   {seconds[1]:.2f}")
    click.echo(f"memory at the end: {_memory()}")


if __name__ == "__main__":
    main()

"""Hold maps against those of the packages that people would take instead, on the same file and pictures, as shipped.

Peers are in environments of their own: `maps` is run once per peer, in its environment, with this checkout on
PYTHONPATH; everything else is run in this project's.

    python tools/bench_peers.py prepare MODEL FOLDER --synsets FILE -o OUT
    python tools/bench_peers.py maps PEER MODEL OUT            # for `fast` and `default` here, for others there
    python tools/bench_peers.py table MODEL OUT
    python tools/bench_peers.py gradients MODEL... --export resnet18

`prepare` takes every third photograph (the report part of docs/faithfulness.md), of those the ones that the model gets
right, spread evenly, and keeps what the model sees of them: every peer gets that same array, and the same class.

`maps` keeps the maps, and the time of each; one that was stopped goes on where it was. Seconds mean little on a shared
machine: each is told in plain forward passes, a picture at a time by ONNX Runtime on the CPU, before and after it in
the same process. Making the explainer and a first map are not counted. On a busy machine processor time, in that of
plain passes, is steadier; threads that turn while they wait are in it. Where a package runs the model by a function or
a PyTorch module, the pictures that go through it are counted, and the gradients that come back; OpenVINO's are runs of
its graph. Ours are told by time alone, from the photograph on: with the input itself for a picture, its range is not
known beforehand, and where cells look is measured again for each.

PyTorch takes as many threads as there are processors; where others use these too, its threads wait for one another,
for up to fifty times as long. With OMP_NUM_THREADS=1 in the surroundings it takes one; the table says so.

`table` measures all maps by pixel flipping (`onnx_evidence.evaluation`): 32 x 32 blocks, blurred or of the mean colour,
insertion less deletion of the probability; means and 95 % intervals over the pictures that a peer has maps of, and over
those that `default` has, too, the difference. Peers with other pictures have other means: the difference tells more.
Intervals of fewer than twenty pictures are too narrow.

`gradients` holds the backward graphs of onnx-ad against ours, on the models of the tests, on those given, and on
exports of torchvision with random weights; see `parts/peers/backward.py`. `autograd` times them beside PyTorch's own,
see `parts/peers/autograd.py`.

What each environment needs, beside numpy, onnx, onnxruntime and click:

* dianna-rise: dianna
* openvino-recipro-cam, openvino-rise: openvino-xai
* captum-ig, captum-occlusion: torch, torchvision, onnx2torch, captum
* grad-cam, grad-cam++: torch, torchvision, onnx2torch, grad-cam
* rex: rex-xai
* gradients: torch, torchvision, onnxscript, onnx-ad, pytest, hypothesis and what this project needs; autograd: these
  but onnx-ad, pytest and hypothesis
"""

import json
import os
import random
import statistics
from pathlib import Path

import click
import numpy as np
from parts.peers.adapters import PEERS
from parts.peers.measuring import INPUTS, PICTURES, measure, read_pictures

# What this project needs is not in the environments of peers: it is imported where it is used.

_MODEL = click.argument("model", type=click.Path(exists=True, path_type=Path))
_OUT = click.argument("out", type=click.Path(exists=True, path_type=Path))
_REPORT = 2


@click.group()
def main() -> None:
    """Hold maps and gradients against those of other packages."""


@main.command()
@_MODEL
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--synsets", type=click.Path(exists=True, path_type=Path), required=True, help="Synsets, class order.")
@click.option("--limit", default=12, show_default=True, help="How many pictures, spread over the part.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True)
def prepare(model: Path, folder: Path, synsets: Path, limit: int, out: Path) -> None:
    """Keep what MODEL sees of photographs in FOLDER that it gets right."""
    from onnx_evidence import DeployedModel
    from onnx_evidence.pictures.photograph import list_images

    deployed, order = DeployedModel(model, device="cpu"), synsets.read_text(encoding="utf-8").split()
    right = []
    for path in list_images([folder])[_REPORT::3]:
        x, target = deployed.prepare(path)[1], order.index(path.name.split("_")[0])
        if deployed.logits(x[None])[0].argmax() == target:
            right.append((path, x, target))
    count = min(limit, len(right))
    chosen = [right[number * len(right) // count] for number in range(count)]
    (out / INPUTS).mkdir(parents=True, exist_ok=True)
    for path, x, _ in chosen:
        np.save(out / INPUTS / f"{path.stem}.npy", x)
    listed = {path.stem: {"file": str(path.resolve()), "target": target} for path, _, target in chosen}
    (out / PICTURES).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    click.echo(f"{count} of {len(right)} pictures that the model gets right")


@main.command()
@click.argument("peer", type=click.Choice(list(PEERS)))
@_MODEL
@_OUT
@click.option("--limit", type=int, help="The first so many pictures alone.")
def maps(peer: str, model: Path, out: Path, limit: int | None) -> None:
    """Make and time maps of PEER of the pictures that `prepare` kept in OUT, but for those that are there."""
    os.environ["TQDM_DISABLE"] = "1"
    # Some draw masks by these, and cannot be given a generator.
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    spent = measure(peer, PEERS[peer], model, read_pictures(out)[:limit], out / peer)
    click.echo(
        f"{peer}: {statistics.median(spent):.1f} plain passes (from {min(spent):.1f} to {max(spent):.1f}, "
        f"{len(spent)} pictures)"
    )


@main.command()
@_MODEL
@_OUT
def table(model: Path, out: Path) -> None:
    """Print the table of all maps in OUT."""
    from parts.peers import judging

    from onnx_evidence import DeployedModel

    found = judging.read_times(out)
    times = {peer: found[peer] for peer in PEERS if peer in found}
    results = judging.score(DeployedModel(model, device="cpu"), out, times)
    click.echo("\n".join(judging.table(results, times)))
    for peer, each in times.items():
        for note, said in each["notes"].items():
            click.echo(f"\n{peer}, {note}: {said}")


@main.command()
@click.argument("models", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--export", "exports", multiple=True, metavar="NAME", help="A network of torchvision; may be repeated.")
@click.option("--skip-tests", is_flag=True, help="Leave out the models of the tests.")
@click.option("--quick", is_flag=True, help="Run nothing in float64, which takes most of the time.")
def gradients(models: tuple[Path, ...], exports: tuple[str, ...], skip_tests: bool, quick: bool) -> None:
    """Hold backward graphs of onnx-ad against ours, on MODELS, those of the tests, and exports."""
    from parts.peers import backward

    backward.compare(models, exports, with_tests=not skip_tests, quick=quick)


@main.command()
@click.option(
    "--export", "exports", multiple=True, default=["squeezenet1_1", "resnet50", "mobilenet_v2"], metavar="NAME"
)
@click.option("--batch", "batches", multiple=True, default=[1, 4], show_default=True)
def autograd(exports: tuple[str, ...], batches: tuple[int, ...]) -> None:
    """Time gradients by PyTorch's autograd and by our backward graphs, on exports of torchvision."""
    from parts.peers import autograd

    autograd.compare(exports, batches)


if __name__ == "__main__":
    main()

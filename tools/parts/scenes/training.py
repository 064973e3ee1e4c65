"""Train a family on scenes and export it, with PyTorch: ``python -m parts.scenes.training FAMILY OUT``.

Scenes lose parts at random, and half of the pictures some of the cells of a grid, which turn grey: what the judges
remove is part of what the networks know (IDSDS, Hesse, Schaub-Meyer and Roth, CVPR 2024).
"""

import json
import time
import warnings
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from parts.scenes.networks import FAMILIES
from parts.scenes.scene import CLASSES, GREY, GRID, HELD_OUT, SIDE, AnyArray, draw_scene, render

TRAINED_ON = 20_000
LOST_PART = 0.12
_BATCH = 64
# What networks of tokens learn from: another network's answers beside the classes.
_TEACHER = Path(__file__).parents[3] / "models" / "scenes" / "resnet-half.onnx"
_TAUGHT, _SOFT = 0.7, 2.0
# Pixels that a batch is moved by at most, along either axis.
_MOVED = 6
_ASKED = 1000
# Tensors of no more numbers stay as they are.
_SMALL = 64
_MEAN, _STD = 0.5, 0.25


def scenes(first: int, count: int, lost: float = 0.0) -> tuple[AnyArray, AnyArray]:
    """Pictures (N, SIDE, SIDE, 3) of uint8 and their classes."""
    pictures, labels = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty(count, np.int64)
    for number in range(count):
        scene = draw_scene(first + number)
        rng = np.random.default_rng([first + number, 13])
        gone = {name for name in scene.things if name.startswith("part") and rng.random() < lost}
        pictures[number], labels[number] = render(scene, gone), scene.label
    return pictures, labels


def normalised(pictures: AnyArray) -> torch.Tensor:
    """As the networks take them."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - _MEAN) / _STD


def without_cells(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half of the pictures lose up to half of the cells."""
    count = len(batch)
    share = torch.rand(count, 1, 1, 1, generator=generator) * 0.5
    share = share * (torch.rand(count, 1, 1, 1, generator=generator) < 0.5)
    gone = torch.rand(count, 1, GRID, GRID, generator=generator) < share
    gone = gone.repeat_interleave(SIDE // GRID, 2).repeat_interleave(SIDE // GRID, 3)
    return torch.where(gone, (GREY / 255 - _MEAN) / _STD, batch)


def moved(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """All of them elsewhere by some pixels; what comes in at an edge repeats the edge."""
    row, column = torch.randint(2 * _MOVED + 1, (2,), generator=generator).tolist()
    wide = functional.pad(batch, (_MOVED,) * 4, mode="replicate")
    return wide[:, :, row : row + SIDE, column : column + SIDE]


class Teacher:
    """A trained network whose answers are learnt beside the classes, by which attention learns from far fewer pictures.

    Softened cross-entropy as in Hinton, Vinyals and Dean (2015), eq. 1; a convolutional teacher of transformers as in
    Touvron et al. (DeiT, 2021).
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(_TEACHER.read_bytes(), options)

    def loss(self, batch: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """How far answers (N, K) are from the teacher's."""
        (answers,) = self._session.run(None, {"input": batch.contiguous().numpy()})
        wanted = (torch.from_numpy(answers) / _SOFT).softmax(1)
        return _SOFT**2 * functional.cross_entropy(logits / _SOFT, wanted)


def train(
    net: torch.nn.Module, pictures: AnyArray, labels: AnyArray, epochs: int, rate: float, teacher: Teacher | None
) -> None:
    """Train it."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    steps = epochs * (len(pictures) // _BATCH)
    half = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    net.train().to(memory_format=torch.channels_last)
    for epoch in range(epochs):
        order, losses = torch.randperm(len(pictures), generator=generator), []
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            chosen = order[start : start + _BATCH].numpy()
            batch = without_cells(moved(normalised(pictures[chosen]), generator), generator)
            batch = batch.to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):  # many times slower where it is emulated
                logits = net(batch).float()
            loss = functional.cross_entropy(logits, torch.from_numpy(labels[chosen]), label_smoothing=0.02)
            if teacher is not None:
                loss = (1 - _TAUGHT) * loss + _TAUGHT * teacher.loss(batch, logits)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        click.echo(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}")


def right(net: torch.nn.Module, pictures: AnyArray, labels: AnyArray) -> float:
    """Share of right answers."""
    net.eval()
    with torch.no_grad():
        answers = [net(normalised(pictures[start : start + 100])).argmax(1) for start in range(0, len(pictures), 100)]
    return float((torch.cat(answers).numpy() == labels).mean())


def export(net: torch.nn.Module, out: Path, name: str) -> None:
    """By both exporters; and the first with weights of half the size, which models/scenes has."""
    names = {"input_names": ["input"], "output_names": ["logits"]}
    one, two = torch.zeros(1, 3, SIDE, SIDE), torch.zeros(2, 3, SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = {"dynamo": False, "opset_version": 17, "dynamic_axes": {"input": {0: "n"}}}
        torch.onnx.export(net, (one,), out / f"{name}-script.onnx", **script, **names)
        shapes = ({0: torch.export.Dim("n")},)
        program = torch.onnx.export(
            net, (two,), dynamo=True, opset_version=18, dynamic_shapes=shapes, verbose=False, **names
        )
        program.save(out / f"{name}-dynamo.onnx", external_data=False)
    onnx.save(halved(onnx.load(out / f"{name}-script.onnx")), out / f"{name}-half.onnx")


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights in float16, which become float32 before they are used, and its preprocessing."""
    nodes, weights = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > _SMALL:
            kept = f"{tensor.name}/half"
            weights.append(numpy_helper.from_array(values.astype(np.float16), kept))
            nodes.append(helper.make_node("Cast", [kept], [tensor.name], f"{tensor.name}/float", to=TensorProto.FLOAT))
        else:
            weights.append(tensor)
    graph = helper.make_graph(
        [*nodes, *model.graph.node], model.graph.name, model.graph.input, model.graph.output, weights
    )
    found = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    # As the product finds it recorded.
    normal = {"size": [SIDE, SIDE], "scale": 1 / 255, "mean": [_MEAN] * 3, "std": [_STD] * 3}
    helper.set_model_props(found, {"onnx_evidence.preprocess": json.dumps(normal)})
    onnx.checker.check_model(found)
    return found


def _kept_scenes(out: Path) -> tuple[AnyArray, AnyArray]:
    """Those to train on, drawn once for all families."""
    kept, begun = out / "scenes.npz", out / "scenes.part.npz"
    if not kept.exists():
        pictures, labels = scenes(0, TRAINED_ON, LOST_PART)
        np.savez(begun, pictures=pictures, labels=labels)
        begun.rename(kept)
    with np.load(kept) as file:
        return file["pictures"], file["labels"]


@click.command()
@click.argument("family", type=click.Choice([*FAMILIES]))
@click.argument("out", type=click.Path(path_type=Path))
def main(family: str, out: Path) -> None:
    """Train FAMILY and write it to OUT, by both exporters; last FAMILY.json, which says that all is there."""
    out.mkdir(parents=True, exist_ok=True)
    pictures, labels = _kept_scenes(out)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # cores that are shared wait for each other
    row = FAMILIES[family]
    net, start = row.make(), time.perf_counter()
    train(net, pictures, labels, row.epochs, row.rate, Teacher() if row.taught else None)
    about = {
        "family": family,
        "parameters": sum(weights.numel() for weights in net.parameters()),
        "right": right(net, *scenes(HELD_OUT, _ASKED)),
        "classes": CLASSES,
        "seconds": time.perf_counter() - start,
    }
    click.echo(about)
    torch.save(net.state_dict(), out / f"{family}.pt")
    export(net, out, family)
    (out / f"{family}.json").write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()

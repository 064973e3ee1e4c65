"""Which nodes of the graphs that explain MODELS would leave a GPU: the CUDA provider has no kernel of them.

Of the model itself, and of its backward graphs at the default's cuts, beside the list in `parts.cuda_kernels`. It needs
no GPU. Exit code 1 where a backward graph has a node that would leave and the model has none of that kind.
"""

import sys
from pathlib import Path

import click
import onnx
from parts.cuda_kernels import left, typed

from onnx_evidence import DeployedModel, EvidenceError
from onnx_evidence.cuts import AUTO, resolve_layers
from onnx_evidence.intake import unsigned
from onnx_evidence.vjp import RELEVANCE, build_vjp


def _words(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {words}" for words, count in sorted(found.items())) or "none"


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(models: tuple[Path, ...]) -> None:
    """Print a row per model, and all operators of the backward graphs."""
    new, kinds = 0, dict[str, set[str]]()
    click.echo("| model | nodes, leaving | backward graphs | nodes, leaving |\n|---|---|---|---|")
    for path in models:
        try:
            with DeployedModel(path, device="cpu") as deployed:
                cuts = deployed.graph.cuts
                names = resolve_layers((AUTO,), cuts, integrate=True, is_read=deployed.is_read)
                whole = deployed.graph.whole()
                backward = [
                    build_vjp(unsigned(deployed.graph.tail(deployed.graph.find(name))), rest=True) for name in names
                ]
                if deployed.relevance_tells:  # what their maps are held against
                    backward.append(build_vjp(unsigned(whole), rest=True, rules=RELEVANCE[0]))
        except EvidenceError as error:
            click.echo(f"| {path.stem} | refused: {error} | | |")
            continue
        own, theirs = left(whole), [left(graph) for graph in backward]
        together = {
            words: max(each.get(words, 0) for each in theirs) for words in {word for each in theirs for word in each}
        }
        new += len(set(together) - set(own))
        sizes = f"{min(len(each.graph.node) for each in backward)} to {max(len(each.graph.node) for each in backward)}"
        click.echo(
            f"| {path.stem} | {len(whole.graph.node)}, {_words(own)} | {len(backward)} | {sizes}, {_words(together)} |"
        )
        for graph in backward:
            _note(kinds, graph)
    click.echo("\n" + "; ".join(f"{name} ({', '.join(sorted(types))})" for name, types in sorted(kinds.items())))
    sys.exit(1 if new else 0)


def _note(kinds: dict[str, set[str]], graph: onnx.ModelProto) -> None:
    types = typed(graph)
    for node in graph.graph.node:
        kind = types.get(node.output[0], 0)
        kinds.setdefault(node.op_type, set()).add(onnx.TensorProto.DataType.Name(kind).lower())


if __name__ == "__main__":
    main()

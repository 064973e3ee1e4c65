"""Cuts of a graph: prove that a tensor separates input from output, list such tensors, split there.

A cut is a tensor that every data path from the input to the logits crosses. `onnx.utils.Extractor`
accepts a tensor that a skip connection bypasses and gives a wrong or invalid tail; here separation is
proved first, by sweeping the set of live tensors. Uses by ``Shape`` alone are no data: `parts` rebuilds them
behind the cut.
"""

from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cached_property
from math import prod

import onnx

from onnx_evidence.axes import find_layouts, find_unread
from onnx_evidence.cuts.cells import Cut, Inside, Lost, cells_inside
from onnx_evidence.cuts.parts import End, part, rounding
from onnx_evidence.errors import CutError
from onnx_evidence.graphs import (
    UNARY,
    Layout,
    Net,
    image_layout,
    kind_of,
    multiply_adds,
    node_inputs,
    steps_over_cells,
)
from onnx_evidence.intake import Model
from onnx_evidence.types import AnyArray

__all__ = ["Cut", "Graph", "Lost"]

# Constants of more elements are weights, whose values no rule of layouts asks for.
_SMALL = 4096
# Operators that only put values in another order.
_MOVING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Cast"})


class Graph:
    """A model's graph, pruned to what the logits need, with its cuts.

    Parameters
    ----------
    model : Model
        Shapes must be inferred, as `load_model` does.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.net = Net(model.proto)
        self.shapes = {name: info.shape for name, info in model.tensors.items()}
        self._known = frozenset(self.net.producer)
        # Tensors that carry values of the input, not only its shape.
        self.data = frozenset(self.net.reached(model.input_name, stops=self._is_shape_known))
        self.nodes = self.net.needed(model.logits_name, is_leaf=self.is_free_shape)
        self._position = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        self._position[model.input_name] = -1

    def _is_shape_known(self, node: onnx.NodeProto) -> bool:
        shape = self.shapes.get(node.input[0], (0,)) if node.op_type == "Shape" else (0,)
        return len(shape) > 0 and shape[0] is None and all(shape[1:])

    def is_free_shape(self, node: onnx.NodeProto) -> bool:
        """Whether a node only asks for the shape of data, which follows from the batch size anywhere."""
        return self._is_shape_known(node) and node.input[0] in self.data

    @cached_property
    def _last_use(self) -> dict[str, int]:
        """Position of the last node that reads each data tensor's values."""
        last = {name: -1 for name in self.data if name in self._position}
        for position, node in enumerate(self.nodes):
            if not self.is_free_shape(node):
                last.update((name, position) for name in node_inputs(node) if name in last)
        last[self.model.logits_name] = len(self.nodes)
        return last

    def bypassing(self, tensor: str) -> list[str]:
        """Data tensors made before ``tensor`` that are still read after it: none, if it is a cut.

        Parameters
        ----------
        tensor : str
            A data tensor that the logits need.

        Returns
        -------
        list of str
        """
        here = self._position[tensor]
        return [name for name, last in self._last_use.items() if name != tensor and self._position[name] <= here < last]

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Every cut with a grid of cells, from the input to the output."""
        return tuple(self._describe(name, inside) for name in self._sweep() if (inside := self._inside(name)))

    @cached_property
    def lost(self) -> Lost | None:
        """What keeps a coarser grid behind the last cut from being one; None where there is none."""
        last = self.cuts[-1]
        behind = {name for name in self._position if self._position[name] > self._position[last.name]}
        for name in self._sweep():
            if name in behind and self._layouts.get(name) is None:
                operator = self.net.producer[name].op_type
                return Lost(name, f"rows and columns cannot be followed from {name!r} ({operator}) on")
        for name in sorted(behind, key=self._position.__getitem__):
            layout, info = self._layouts.get(name), self.model.tensors.get(name)
            inside = cells_inside(layout, info) if layout is not None and info is not None else None
            if inside is not None and min(inside.grid) >= 2 and prod(inside.grid) < prod(last.grid):
                other, (rows, cols) = self.bypassing(name), inside.grid
                return Lost(name, f"{other[0]!r} bypasses the {rows} x {cols} grid of {name!r}") if other else None
        return None

    def _sweep(self) -> Iterator[str]:
        """Tensors that are the only live one after their node: exactly the separating ones.

        Pruning left only ancestors of the logits; whatever does not descend from a separating tensor is its
        ancestor, so in any topological order the live set shrinks to it when it is made.
        """
        live: set[str] = set()
        for position in range(-1, len(self.nodes)):
            made = [self.model.input_name] if position < 0 else list(self.nodes[position].output)
            live = {name for name in live if self._last_use[name] > position}
            live.update(name for name in made if self._last_use.get(name, -1) > position)
            if len(live) == 1 and (tensor := next(iter(live))) in made:
                yield tensor

    def _inside(self, tensor: str) -> Inside | None:
        """How the cells of a tensor lie; None where it has none, or they are rounded before they are read."""
        info, layout = self.model.tensors.get(tensor), self._layouts.get(tensor)
        if info is None or layout is None or self._rounded(tensor):
            return None
        inside = cells_inside(layout, info)
        return inside if inside is not None and min(inside.grid) >= 2 and not self._moved(tensor) else None

    def _moved(self, tensor: str) -> str | None:
        """The tensor whose values this one has in another order or type, which makes it no cut of its own.

        What has become channels, rows, columns is one, whatever it was before.
        """
        info, layout, producer = (
            self.model.tensors.get(tensor),
            self._layouts.get(tensor),
            self.net.producer.get(tensor),
        )
        inside = cells_inside(layout, info) if layout is not None and info is not None else None
        if inside is None or inside.is_plain or producer is None or producer.op_type not in _MOVING:
            return None
        return str(producer.input[0])

    def _rounded(self, tensor: str) -> str | None:
        """What a tensor is rounded to, where only a quantiser reads it: the split would move it off its codes."""
        readers = self._readers(tensor)
        if tensor == self.model.input_name or len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
            return None
        after = self._readers(readers[0].output[0])
        return str(after[0].output[0]) if after and rounding(after[0].output[0], self.net) else None

    def _readers(self, tensor: str) -> list[onnx.NodeProto]:
        """Nodes that read a tensor's values on the way to the logits."""
        readers = self.net.readers.get(tensor, [])
        return [node for node in readers if node.output[0] in self._position and not self.is_free_shape(node)]

    @cached_property
    def _layouts(self) -> dict[str, Layout | None]:
        source = self.model.input_name, image_layout(self.model.input_shape)
        return find_layouts(self.nodes, self.data, self.shapes, self._value, source)

    def _value(self, name: str) -> AnyArray | None:
        """The numbers of a constant that is no weight."""
        tensor = self.net.constants.get(name)
        return None if tensor is None or prod(tensor.dims) > _SMALL else self.net.array(name)

    @cached_property
    def _unread(self) -> dict[str, str]:
        nodes = [node for node in self.nodes if not self.is_free_shape(node)]
        return find_unread(nodes, self._layouts, self.model.logits_name)

    def find(self, name: str) -> Cut:
        """The cut of that name.

        Parameters
        ----------
        name : str
            A tensor.

        Returns
        -------
        Cut

        Raises
        ------
        CutError
            If the tensor does not exist (near names are listed), is bypassed (the bypassing tensor is named)
            or has no grid of cells.
        """
        for cut in self.cuts:
            if cut.name == name:
                return cut
        if name not in self._position or name not in self.data:
            reason = "does not lead to the class scores" if name in self._known else "is not a tensor of the model"
            raise CutError(f"layer {name!r} {reason}; {self._nearest(name)}")
        if bypass := self.bypassing(name):
            raise CutError(f"layer {name!r} is not a cut: tensor {bypass[0]!r} bypasses it; {self._nearest(name)}")
        if moved := self._moved(name):
            raise CutError(f"layer {name!r} holds {moved!r} in another order or type: take that; {self._nearest(name)}")
        if rounded := self._rounded(name):
            raise CutError(f"layer {name!r} is rounded to codes before it is read: take {rounded!r}")
        shape = " x ".join(str(side or "?") for side in self.shapes.get(name, ())[1:])
        raise CutError(
            f"layer {name!r} has no grid of cells that can be followed back to the picture (its shape is "
            f"{shape or 'unknown'}); {self._nearest(name)}"
        )

    def _nearest(self, name: str) -> str:
        """The three cuts nearest to ``name`` in the graph, or in spelling where it is not in the graph."""
        if name in self._position:
            here = self._position[name]
            ranked = sorted(self.cuts, key=lambda cut: abs(self._position[cut.name] - here))
        else:
            ranked = sorted(self.cuts, key=lambda cut: -SequenceMatcher(None, cut.name, name).ratio())
        return "the nearest cuts are " + ", ".join(repr(cut.name) for cut in ranked[:3])

    def _describe(self, name: str, inside: Inside) -> Cut:
        quantiser = rounding(name, self.net)
        producer = self.net.producer.get(name if quantiser is None else quantiser[0].input[0])
        layout = self._layouts[name]
        total = sum(self._costs)
        behind = sum(self._costs[self._position[name] + 1 :])
        return Cut(
            name=name,
            op_type=producer.op_type if producer else "Input",
            shape=inside.shape,
            tail_share=behind / total if total else 1.0,
            field=layout.settled().field if layout is not None else None,
            joins=producer is not None and self._joins(producer),
            skipped_by=self._skipped_by(name),
            inside=inside,
            unread_by=self._unread.get(name),
            lost_at=self._lost_at() if name == self.model.input_name else None,
        )

    def _lost_at(self) -> str | None:
        """The first operator that has rows and columns before it, and behind it none that can be followed."""
        for node in self.nodes:
            read = [self._layouts.get(name) for name in node_inputs(node)]
            made = [self._layouts.get(name) for name in node.output if name in self.data]
            placed = any(layout is not None and layout.is_placed for layout in read)
            if placed and made and not any(made):
                return f"{kind_of(node)} at {node.output[0]!r}"
        return self._bypassed()

    def _bypassed(self) -> str | None:
        """The first cells that are no cut because others are read beside them, as in models of several branches."""
        for name in (name for node in self.nodes for name in node.output if name in self.data):
            inside = self._inside(name)
            if inside is not None and min(inside.grid) > 1 and (others := self.bypassing(name)):
                rows, cols = inside.grid
                return f"{name!r}: {others[0]!r} bypasses its {rows} x {cols} cells"
        return None

    def _joins(self, node: onnx.NodeProto) -> bool:
        """Whether branches meet here as equals; products are gates and activations."""
        return node.op_type in ("Add", "Sum", "Concat") and len(self.data.intersection(node_inputs(node))) > 1

    def _skipped_by(self, name: str) -> str | None:
        """Look behind cell-by-cell operators whether every reader steps over cells."""
        reached, skipping = {name}, ""
        for node in self.nodes[self._position[name] + 1 :]:
            if reached.isdisjoint(node_inputs(node)) or self.is_free_shape(node):
                continue
            if node.op_type in UNARY or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                reached.update(node.output)
            elif steps_over_cells(node, self.shapes):
                skipping = skipping or str(node.output[0])
            else:
                return None
        return skipping or None

    @cached_property
    def _costs(self) -> list[int]:
        return [multiply_adds(node, self.shapes) for node in self.nodes]

    @property
    def total_cost(self) -> int:
        """Multiply-adds of one forward pass of one picture."""
        return sum(self._costs)

    def split(self, cut: Cut) -> tuple[onnx.ModelProto | None, onnx.ModelProto]:
        """Split the model.

        Parameters
        ----------
        cut : Cut
            One of `cuts`.

        Returns
        -------
        head : onnx.ModelProto or None
            Input to features; None at the input itself.
        tail : onnx.ModelProto
            Features to logits. ``tail(head(x))`` equals the logits of ``model(x)``. Weights of both as `whole` says.
        """
        return None if cut.name == self.model.input_name else self.head(cut), self.tail(cut)

    def head(self, *cuts: Cut) -> onnx.ModelProto:
        """The model from the input to the features at some cuts inside, in the order given; see `whole`."""
        return part(self, self._source, [_end(cut) for cut in cuts])

    def tail(self, cut: Cut) -> onnx.ModelProto:
        """The model from a cut to the logits; see `whole`."""
        return part(self, _end(cut), [End(self.model.logits_name)])

    def whole(self) -> onnx.ModelProto:
        """The model from input to logits.

        Weights may be held apart, to be read by sessions of this package alone: `graphs.with_weights` puts them in.
        """
        return part(self, self._source, [End(self.model.logits_name)])

    @property
    def _source(self) -> End:
        return End(self.model.input_name, self.model.input_shape)


def _end(cut: Cut) -> End:
    return End(cut.name, cut.shape, cut.inside)

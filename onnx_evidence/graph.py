"""Cuts of a graph: prove that a tensor separates input from output, list such tensors, split there.

A cut is a tensor that every data path from the input to the logits crosses. `onnx.utils.Extractor`
accepts a tensor that a skip connection bypasses and gives a wrong or invalid tail; here separation is
proved first, by sweeping the set of live tensors. Uses by ``Shape`` alone are no data: `parts` rebuilds them
behind the cut.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

import onnx
from onnx import TensorProto

from onnx_evidence.errors import CutError
from onnx_evidence.fields import UNARY, keeps_layout, node_field, spreads_gate, steps_over_cells
from onnx_evidence.geometry import Field
from onnx_evidence.model import Model
from onnx_evidence.nodes import ancestors, multiply_adds, node_inputs
from onnx_evidence.parts import part


@dataclass(frozen=True)
class Cut:
    """A place where the model can be split.

    Attributes
    ----------
    name : str
        The tensor.
    op_type : str
        The operator that makes it; 'Input' for the model's input.
    shape : (int, int, int)
        Channels, rows, columns.
    tail_share : float
        Share of the model's multiply-adds that the tail keeps, 0..1.
    field : Field or None
        Nominal receptive field; None where the operators before it defy the arithmetic.
    joins : bool
        Whether branches of the data meet here (a residual sum, a concatenation): the end of a block.
    skipped_by : str or None
        The output of an operator behind the cut whose stride steps over cells unread (a 1 x 1 convolution of
        stride 2 reads a quarter of them); None if every cell is read.
    """

    name: str
    op_type: str
    shape: tuple[int, int, int]
    tail_share: float
    field: Field | None
    joins: bool = False
    skipped_by: str | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.shape[1:]


class Graph:
    """A model's graph, pruned to what the logits need, with its cuts.

    Parameters
    ----------
    model : Model
        Shapes must be inferred, as `load_model` does.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        proto = model.proto.graph
        self.constants = {tensor.name: tensor for tensor in proto.initializer}
        self.shapes = {name: info.shape for name, info in model.tensors.items()}
        self._known = frozenset(name for node in proto.node for name in node.output)
        self.data = self._find_data(proto.node)
        self.producer = {name: node for node in proto.node for name in node.output}
        needed = {id(node) for node in ancestors(model.logits_name, self.producer, is_leaf=self.is_free_shape)}
        self.nodes = [node for node in proto.node if id(node) in needed]
        self._position = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        self._position[model.input_name] = -1

    def _find_data(self, nodes: Iterable[onnx.NodeProto]) -> frozenset[str]:
        """Tensors that carry values of the input, not only its shape."""
        found = {self.model.input_name}
        for node in nodes:
            if any(name in found for name in node_inputs(node)) and not self._is_shape_known(node):
                found.update(node.output)
        return frozenset(found)

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
        return tuple(self._describe(name) for name in self._sweep() if self._is_grid(name))

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

    def _is_grid(self, tensor: str) -> bool:
        info = self.model.tensors.get(tensor)
        if info is None or info.elem_type != TensorProto.FLOAT or tensor not in self._layout:
            return False
        batch, *rest = info.shape
        return len(rest) == 3 and batch is None and all(rest) and min(side or 0 for side in rest[1:]) >= 2

    @cached_property
    def _layout(self) -> frozenset[str]:
        """Tensors whose axes are known to be batch, channels, rows, columns."""
        found = {self.model.input_name}
        for node in self.nodes:
            inputs = [name for name in node_inputs(node) if name in self.data]
            # A gate of one cell may come from anywhere: it is spread over all cells.
            cells = [name for name in inputs if self.shapes.get(name, ())[-2:] != (1, 1)] or inputs
            followed = bool(cells) and found.issuperset(cells)
            followed = followed and keeps_layout(node, self.shapes.get(cells[0], ()), self.shapes)
            if followed or (inputs and spreads_gate(node, self.shapes)):
                found.update(node.output)
        return frozenset(found)

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

    def _describe(self, name: str) -> Cut:
        _, channels, rows, cols = self.shapes[name]
        assert channels is not None and rows is not None and cols is not None  # noqa: PT018 - known by _is_grid
        producer = self.producer.get(name)
        total = sum(self._costs)
        behind = sum(self._costs[self._position[name] + 1 :])
        return Cut(
            name=name,
            op_type=producer.op_type if producer else "Input",
            shape=(channels, rows, cols),
            tail_share=behind / total if total else 1.0,
            field=self._fields.get(name),
            joins=producer is not None and self._joins(producer),
            skipped_by=self._skipped_by(name),
        )

    def _joins(self, node: onnx.NodeProto) -> bool:
        """Whether branches meet here as equals; products are gates and activations."""
        return node.op_type in ("Add", "Sum", "Concat") and len(self.data.intersection(node_inputs(node))) > 1

    def _skipped_by(self, name: str) -> str | None:
        """Look behind cell-by-cell operators whether every reader steps over cells."""
        reached, skipping = {name}, ""
        for node in self.nodes[self._position[name] + 1 :]:
            if reached.isdisjoint(node_inputs(node)) or self.is_free_shape(node):
                continue
            if node.op_type in UNARY:
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

    @cached_property
    def _fields(self) -> dict[str, Field | None]:
        fields: dict[str, Field | None] = {self.model.input_name: Field()}
        for node in self.nodes:
            inputs = [name for name in node_inputs(node) if name in self.data]
            if inputs:
                field = node_field(node, [(fields.get(n), self.shapes.get(n)) for n in inputs], self.shapes)
                fields.update((name, field) for name in node.output)
        return fields

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
            Features to logits. ``tail(head(x))`` equals the logits of ``model(x)``.
        """
        return self.head(cut), self.tail(cut)

    def head(self, cut: Cut) -> onnx.ModelProto | None:
        """The model from the input to a cut; None at the input itself."""
        return None if cut.name == self.model.input_name else part(self, self._source, [cut.name])

    def tail(self, cut: Cut) -> onnx.ModelProto:
        """The model from a cut to the logits."""
        return part(self, (cut.name, cut.shape), [self.model.logits_name])

    def whole(self, *cuts: Cut) -> onnx.ModelProto:
        """The model from input to logits, with the features at some cuts as further outputs.

        Parameters
        ----------
        *cuts : Cut
            Cuts inside the model.

        Returns
        -------
        onnx.ModelProto
            Outputs: the logits, then the features in the order given.
        """
        return part(self, self._source, [self.model.logits_name, *(cut.name for cut in cuts)])

    @property
    def _source(self) -> tuple[str, tuple[int, int, int]]:
        return self.model.input_name, self.model.input_shape

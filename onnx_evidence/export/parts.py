"""One graph that parts of models are put into: what is there already, be it of the deployed file, is not written again.

The head of a part is the deployed file's own beginning, and every tail begins with what others go through too. Nodes of
one operator, with the same attributes, that read the same tensors are one node (value numbering); constants of the same
content are one constant.
"""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

import onnx
from onnx import helper, numpy_helper

from onnx_evidence.graphs import Net, array_of, attributes_of, bodies, infer_with_values, node_inputs, rename_inputs
from onnx_evidence.types import AnyArray
from onnx_evidence.vjp import Tape, Value

# What is another number every time.
_DRAWN = frozenset("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli".split())
# Behind what a runtime does not know how many rows there are.
_RESHAPED = frozenset({"Reshape", "Expand"})
# Of what this room writes.
_PREFIX = "evidence"


class Whole:
    """A graph to which others are added.

    Attributes
    ----------
    net : Net
        Of the model that it began with.
    tape : Tape
        Writes arithmetic there.
    """

    def __init__(self, net: Net) -> None:
        self.net, self.tape = net, Tape(net, {}, {}, prefix=_PREFIX)
        # Graphs inside of nodes may not make what is made outside.
        net.taken.update(_made_inside(net.nodes))
        self._written = 0
        self._told: set[str] = set()
        self._constants: dict[bytes, str] = {}
        self._nodes: dict[bytes, list[str]] = {}
        # Of square constants that Gemm multiplies by: whether it takes them turned.
        self._ways: dict[str, int] = {}
        for tensor in net.constants.values():
            self._constants.setdefault(_content(tensor), tensor.name)
        for node in net.nodes:
            if (key := _key(node)) is not None:
                self._nodes.setdefault(key, list(node.output))
            self._way(node)

    def put(self, part: onnx.ModelProto, *given: Value, rows: str = "") -> list[Value]:
        """Add the nodes of a model that are not there yet, its inputs being tensors that are; its outputs.

        ``rows`` is what the number of rows is called where the runtime could not know that there are as many: then it
        does not know which tensors may lie in each other's memory, and takes ever longer to open the model.
        """
        own = Net(part)
        names = {value.name: each.name for value, each in zip(own.inputs, given, strict=True)}
        for node in own.nodes:
            names |= {name: self._constant(own.constants[name]) for name in node.input if name in own.constants}
            names |= dict(zip(node.output, self._made(node, names), strict=True))
        if rows:
            for value, each in zip(own.inputs, given, strict=True):
                self._tell(each.name, value.type.tensor_type.elem_type, _shape(value), rows)
            tensors, _ = infer_with_values(part, own.inputs[0].name, None)
            for name in (node.output[0] for node in own.nodes if node.op_type in _RESHAPED):
                if name in tensors and all(tensors[name].shape[1:]):
                    self._tell(names[name], tensors[name].elem_type, tensors[name].shape, rows)
        kinds = [value.type.tensor_type.elem_type for value in part.graph.output]
        return [Value(self.tape, names[name], kind) for name, kind in zip(own.outputs, kinds, strict=True)]

    def _tell(self, name: str, elem_type: int, shape: Sequence[int | None], rows: str) -> None:
        """Say what shape a tensor has, once, if its rows are not known."""
        if shape[:1] == (None,) and name not in self._told:
            self._told.add(name)
            info = helper.make_tensor_value_info(name, elem_type, [rows, *shape[1:]])
            self.net.graph.value_info.append(info)

    def constant(self, array: AnyArray) -> Value:
        """A constant, in its own dtype, which may be one of the file's."""
        tensor = numpy_helper.from_array(array)
        return Value(self.tape, self._constant(tensor), tensor.data_type)

    def forget_unread(self) -> None:
        """Take back constants that nothing reads after all."""
        read = {name for node in self.net.nodes for name in node_inputs(node)}
        own = {tensor.name for tensor in self.net.graph.initializer}
        for name in [name for name in self.net.constants if name not in own and name not in read]:
            del self.net.constants[name]

    def _made(self, node: onnx.NodeProto, names: dict[str, str]) -> Sequence[str]:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        rename_inputs(copy, names)
        key = _key(copy)
        found = None if key is None else self._nodes.get(key)
        if found is not None:
            return found
        if copy.op_type == "Transpose" and self._is_square(copy.input[0]):
            made = [self._turned(copy.input[0])]
        else:
            self._read_one_way(copy)
            made = self._written_anew(copy)
        if key is not None:
            self._nodes[key] = made
        return made

    def _written_anew(self, node: onnx.NodeProto) -> list[str]:
        """Add a node; names, and what exporters say of it, are most of what it takes in a file."""
        made = [name and self._name() for name in node.output]
        node.output[:] = made
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        self.net.add(node)
        return made

    def _is_square(self, name: str) -> bool:
        """Whether it is a square constant."""
        value = self.net.array(name)
        return value is not None and value.ndim == 2 and value.shape[0] == value.shape[1] > 1

    def _way(self, node: onnx.NodeProto) -> bool:
        """Whether a node reads its weights as those before it do, if it is a Gemm and they are square."""
        if node.op_type != "Gemm" or not self._is_square(node.input[1]):
            return True
        turned = int(attributes_of(node).get("transB", 0))
        return self._ways.setdefault(node.input[1], turned) == turned

    def _read_one_way(self, node: onnx.NodeProto) -> None:
        """Let Gemm read the transpose of a square constant that others read the other way; see `_turned`."""
        if self._way(node):
            return
        transpose = helper.make_node("Transpose", [node.input[1]], ["turned"], perm=[1, 0])
        turned = self._ways[node.input[1]]
        node.input[1] = self._made(transpose, {})[0]
        kept = [each for each in node.attribute if each.name != "transB"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("transB", turned)])

    def _turned(self, name: str) -> str:
        """The transpose of a square constant, put together of two parts.

        OpenVINO (2024.4, 2026.4) takes a square matrix for its transpose where a graph has use for both; of what
        runtimes put together when they load a model it does not know that. Without it maps of transformers are wrong.
        """
        matrix = Value(self.tape, name, self.net.constants[name].data_type)
        side = len(array_of(self.net.constants[name]))
        first, others = (matrix.slice([start], [end], [0]).transpose(1, 0) for start, end in ((0, 1), (1, side)))
        return first.op("Concat", others, axis=1).name

    def _constant(self, tensor: onnx.TensorProto) -> str:
        content = _content(tensor)
        if content not in self._constants:
            self._constants[content] = self.net.store(numpy_helper.from_array(array_of(tensor), self._name()))
        return self._constants[content]

    def _name(self) -> str:
        self._written += 1
        return self.net.fresh(f"{_PREFIX}/{self._written}")


def _made_inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of what is made in the graphs inside of nodes."""
    for body in (body for node in nodes for body in bodies(node)):
        yield from (value.name for value in (*body.input, *body.initializer))
        yield from (name for node in body.node for name in node.output)
        yield from _made_inside(body.node)


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)


def _content(tensor: onnx.TensorProto) -> bytes:
    """What tells constants of other contents apart."""
    array = array_of(tensor)
    kind = f"{tensor.data_type} {tuple(tensor.dims)}".encode()
    return sha256(kind + array.tobytes()).digest()


def _key(node: onnx.NodeProto) -> bytes | None:
    """What nodes that make the same have in common; None for those that are not told alike."""
    if node.op_type in _DRAWN or any(each.HasField("g") or each.graphs for each in node.attribute):
        return None
    attributes = sorted(each.SerializeToString(deterministic=True) for each in node.attribute)
    kept = "".join("1" if name else "0" for name in node.output)
    words = "\0".join([node.domain, node.op_type, kept, *node.input]).encode()
    return sha256(b"\0".join([words, *attributes])).digest()

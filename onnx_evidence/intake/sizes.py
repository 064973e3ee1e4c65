"""Types, sizes and small values, node by node, for one batch size."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference

from onnx_evidence.graphs import asked_sides, evaluate, is_standard
from onnx_evidence.types import AnyArray

# Constants of more elements are weights, not shapes.
_SMALL = 64


class Sizes:
    """What is known of tensors going forward through a graph; a node may be looked at again after it was changed.

    Constants of the model are taken as they are; ``batch`` is the batch size of the image.

    Attributes
    ----------
    values : dict of str to ndarray
        Small constants, computed ones included.
    """

    def __init__(self, proto: onnx.ModelProto, image: str, batch: int) -> None:
        self._opsets = list(proto.opset_import)
        self._versions = {each.domain: each.version for each in proto.opset_import}
        self._ir_version = proto.ir_version
        self._types: dict[str, onnx.TypeProto] = {}
        self._data: dict[str, onnx.TensorProto] = {}
        self.values: dict[str, AnyArray] = {}
        for tensor in proto.graph.initializer:
            self.add(tensor)
        for value in proto.graph.input:
            kind = onnx.TypeProto()
            kind.CopyFrom(value.type)
            if value.name == image:
                kind.tensor_type.shape.dim[0].dim_value = batch
            self._types[value.name] = kind

    def add(self, tensor: onnx.TensorProto) -> None:
        """Take note of a constant, an initializer."""
        self._types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        if int(np.prod(tensor.dims)) <= _SMALL:
            self._data[tensor.name] = tensor
            self.values[tensor.name] = numpy_helper.to_array(tensor)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Sides of a tensor; None where one of them is not known."""
        kind = self._types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        sides = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.tensor_type.shape.dim)
        return None if -1 in sides else sides

    def look(self, node: onnx.NodeProto) -> str | None:
        """Find out about the outputs of a node, whose inputs have been looked at.

        What contradicts itself is returned, if something does.
        """
        for name in node.output:
            self._types.pop(name, None)
            self.values.pop(name, None)
            self._data.pop(name, None)
        if (found := self._evaluate(node)) is not None:
            for name, value in found.items():
                self.add(numpy_helper.from_array(value, name))
            return None
        known = {name: self._types[name] for name in node.input if name in self._types}
        if not is_standard(node) or len(known) < len({name for name in node.input if name}):
            return None
        try:
            self._types.update(self._infer(node, known))
        except shape_inference.InferenceError as error:
            return str(error)
        except Exception:  # noqa: BLE001 - an operator that inference does not know stays open
            return None
        return None

    def _infer(self, node: onnx.NodeProto, known: Mapping[str, onnx.TypeProto]) -> dict[str, onnx.TypeProto]:
        schema = defs.get_schema(node.op_type, self._versions.get(node.domain, 1), "")
        data = {name: self._data[name] for name in node.input if name in self._data}
        found = shape_inference.infer_node_outputs(
            schema, node, dict(known), data, opset_imports=self._opsets, ir_version=self._ir_version
        )
        return dict(found)

    def _evaluate(self, node: onnx.NodeProto) -> dict[str, AnyArray] | None:
        if node.op_type == "Shape" and (sides := self.shape(node.input[0])) is not None:
            return {node.output[0]: np.array(sides[asked_sides(node)], np.int64)}
        return evaluate(node, self.values, self._opsets)

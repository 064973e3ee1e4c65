"""One way through a model, from what is known of its inputs to how much it computes; nothing large is computed."""

from abc import ABC, abstractmethod
from collections import ChainMap
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import onnx

from onnx_evidence.counting.held import LOST, PICTURE, STORED, TOLD, UNKNOWN, Call, Held, Open, constant, stored
from onnx_evidence.counting.reckoning import reckoned
from onnx_evidence.counting.table import grown
from onnx_evidence.counting.tally import NODE, Limits, Work, in_words
from onnx_evidence.errors import ModelError
from onnx_evidence.graphs import bodies, is_standard, node_inputs, opset_of, tensors_of

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
# Texts that are joined to themselves double in length, which sizes do not show.
_TEXTS = frozenset({"StringConcat"})
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_CHANCE = frozenset("RandomNormal RandomUniform RandomNormalLike RandomUniformLike Multinomial Bernoulli".split())
# What a node that is not put together as its operator wants it may raise: whoever runs it says so.
MALFORMED = (IndexError, ValueError, TypeError, KeyError, ZeroDivisionError, OverflowError)
_REMEDY = "no classifier needs as much: export the model without it, or raise --max-work"

Scope = ChainMap[str, Held]
Key = tuple[str, str, str]


class Unsettled(Exception):  # noqa: N818 - caught where a Loop is followed
    """What the turns of a Loop have in common does not tell how much they compute."""


class Walk(ABC):
    """A way through a model; unless it is ``settled``, what hangs on the sizes of the picture is let pass."""

    def __init__(self, proto: onnx.ModelProto, path: Path, limits: Limits, *, settled: bool) -> None:
        self.path, self._proto, self.limits, self.settled = path, proto, limits, settled
        self._opsets = list(proto.opset_import)
        self.opset = opset_of(proto.opset_import)
        self._functions = {(each.domain, each.name, each.overload): each for each in proto.functions}
        self.given: Mapping[str, onnx.AttributeProto] = {}
        self.visits = self.trying = self._at_once = 0
        limits.stored = sum(prod(max(side, 0) for side in tensor.dims) for tensor in tensors_of(proto))

    def whole(self, given: Mapping[str, Held]) -> Work:
        """What the whole model computes; `ModelError` where that is more than the limits allow."""
        self._refuse_written_out()
        work = Work()
        self.graph(self._proto.graph, given, work, ChainMap())
        return work

    # --- how many nodes there are -------------------------------------------------------------------------------------

    def _refuse_written_out(self) -> None:
        """Refuse functions that call themselves, or are too many nodes when they are put in place."""
        counts: dict[Key, int] = {}
        for key in self._functions:
            self._written_out(key, counts, ())
        total = sum(self._of_node(node, counts, ()) for node in self._proto.graph.node)
        if total > self.limits.nodes:
            what = "with its functions put in place" if self._functions else "with those inside of others"
            raise ModelError(
                f"{self.path}: the graph has {in_words(total)} nodes {what}, more than {in_words(self.limits.nodes)}: "
                f"{_REMEDY}"
            )

    def _written_out(self, key: Key, counts: dict[Key, int], around: tuple[Key, ...]) -> int:
        if key in around:
            raise ModelError(
                f"{self.path}: function {key[1]!r} calls itself, so it never ends: export the model without functions"
            )
        if key not in counts:
            nodes = self._functions[key].node
            counts[key] = sum(self._of_node(node, counts, (*around, key)) for node in nodes)
        return counts[key]

    def _of_node(self, node: onnx.NodeProto, counts: dict[Key, int], around: tuple[Key, ...]) -> int:
        key = (node.domain, node.op_type, node.overload)
        if any(each.ref_attr_name and each.type in _GRAPHS for each in node.attribute):
            raise ModelError(
                f"{self.path}: {named(node)} is given its body by the function around it, which cannot be followed: "
                "export the model without functions"
            )
        if node.op_type in _TEXTS:
            raise ModelError(
                f"{self.path}: {named(node)} makes texts longer, which no classifier of pictures does: export the "
                "model without it"
            )
        inside = sum(self._of_node(inner, counts, around) for graph in bodies(node) for inner in graph.node)
        return 1 + inside + (self._written_out(key, counts, around) if key in self._functions else 0)

    # --- graphs and nodes ---------------------------------------------------------------------------------------------

    def graph(self, graph: onnx.GraphProto, given: Mapping[str, Held], work: Work, outer: Scope) -> list[Held]:
        """Follow a graph, its nodes in order, or a body; what it computes is put to ``work``, its outputs come back."""
        scope = outer.new_child(dict(given))
        for tensor in graph.initializer:
            scope[tensor.name] = _stored(tensor)
        for sparse in graph.sparse_initializer:
            made = prod(max(side, 0) for side in sparse.dims)
            scope[sparse.values.name] = Held(tuple(sparse.dims), made, True, STORED)
            work.made += made
            self.check(work, f"the sparse weight {sparse.values.name!r}, written out,", made, STORED)
        before, (last, ends) = self._at_once, _last_read(graph)
        for place, node in enumerate(graph.node):
            self._node(node, scope, work)
            self._keep([scope[name] for name in node.output if name in last], node, 1)
            self._keep([scope.maps[0].get(name, UNKNOWN) for name in ends.get(place, ())], node, -1)
        self._at_once = before
        return [scope.get(value.name, UNKNOWN) for value in graph.output]

    def _keep(self, tensors: Sequence[Held], node: onnx.NodeProto, sign: int) -> None:
        """Take what is made of the picture as held from now on, or as held no more."""
        self._at_once += sign * sum(held.size or 0 for held in tensors if held.kind < STORED)
        if self._at_once > self.limits.at_once:
            raise ModelError(
                f"{self.path}: when {named(node)} is run, {in_words(self._at_once)} numbers of a picture are still to "
                f"be read, and there may be {in_words(self.limits.at_once)} at once: {_REMEDY}"
            )

    def _node(self, node: onnx.NodeProto, scope: Scope, work: Work) -> None:
        self.visits += 1
        if self.visits > self.limits.nodes:
            raise ModelError(
                f"{self.path}: more than {in_words(self.limits.nodes)} nodes inside of others would have to be "
                f"followed, {named(node)} among them: {_REMEDY}"
            )
        inputs = [scope.get(name, UNKNOWN) if name else None for name in node.input]
        if function := self._functions.get((node.domain, node.op_type, node.overload)):
            made = self._function(function, node, inputs, work)
        elif node.op_type in CONTROL and is_standard(node):
            made = self.control(node, inputs, scope, work)
            self._hold(node, made, work)
        elif node.op_type == "Constant" and is_standard(node):
            made = [self._constant(node, work)]
        else:
            for body in bodies(node):  # of operators that ONNX Runtime alone has
                self.graph(body, {}, work, scope)
            made = self._plain(node, inputs, work)
        for place, name in enumerate(node.output):
            scope[name] = made[place] if place < len(made) else UNKNOWN

    def _constant(self, node: onnx.NodeProto, work: Work) -> Held:
        try:
            held = constant(node)
        except MALFORMED:
            return UNKNOWN._replace(kind=STORED)
        if any(attribute.name == "sparse_value" for attribute in node.attribute):
            work.made += held.size or 0
            self.check(work, node, held.size or 0, STORED)
        return held

    def _plain(self, node: onnx.NodeProto, inputs: Sequence[Held | None], work: Work) -> list[Held]:
        call = Call(node, inputs, self.opset, self.given)
        try:
            found = grown(call)
        except Open as error:
            self._refuse_open(node, error)
            found = [UNKNOWN]
        except MALFORMED:
            found = [UNKNOWN]
        if len(found) < len(node.output):
            found = [*found, *found[-1:] * (len(node.output) - len(found))]
        if self.settled and any(held.size is None and held.length is None for held in found):
            # Of what cannot be followed it is assumed that it makes as much as it reads.
            most = max((held.size or 0 for held in inputs if held is not None), default=0)
            found = [held if held.size is not None else held._replace(size=most or None) for held in found]
        kind = _kind(node, inputs)
        values = reckoned(call, found, self._opsets) if kind == TOLD or node.op_type in ("Shape", "Size") else None
        made = [
            held._replace(kind=kind, value=values[place] if values is not None and place < len(values) else None)
            for place, held in enumerate(found)
        ]
        if values is not None:
            made = [
                held if held.value is None else held._replace(shape=held.value.shape, size=held.value.size, exact=True)
                for held in made
            ]
        self._count(node, call.adds, made, work)
        return made

    def _count(self, node: onnx.NodeProto, adds: int, made: Sequence[Held], work: Work) -> None:
        sizes = [held.size or 0 for held in made]
        written, kind = sum(sizes), made[0].kind if made else PICTURE
        one = Work(run=NODE + adds + written)
        if kind >= STORED:
            one.made = written
        if kind == TOLD:
            one.told = sum(held.size or 0 for held in made if held.shape is not None and len(held.shape) <= 1)
        cost = one.run if kind < STORED else self.limits.count(one)
        work.run, work.made, work.told = work.run + one.run, work.made + one.made, work.told + one.told
        if cost > work.most:
            work.most, work.where = cost, named(node)
        self.check(work, node, max(sizes, default=0), kind)

    def _hold(self, node: onnx.NodeProto, made: Sequence[Held], work: Work) -> None:
        """Check what comes out of a body, gathered turn by turn perhaps."""
        sizes = [held.size or 0 for held in made]
        kind = min((held.kind for held in made), default=PICTURE)
        work.made += sum(sizes) if kind >= STORED else 0
        self.check(work, node, max(sizes, default=0), kind)

    def check(self, work: Work, what: onnx.NodeProto | str, largest: int = 0, kind: int = PICTURE) -> None:
        """Refuse what is too much by now."""
        if kind < STORED and largest > self.limits.layer:
            raise ModelError(
                f"{self.path}: {named(what)} makes {in_words(largest)} numbers of a picture, and a layer may have "
                f"{in_words(self.limits.layer)}: {_REMEDY}"
            )
        count = self.limits.count(work)
        if count > self.limits.work:
            made = f", and makes {in_words(largest)} numbers of constants" if kind >= STORED and largest > NODE else ""
            most = work.where or named(what)
            raise ModelError(
                f"{self.path}: the model counts {in_words(count)} multiply-adds, more than "
                f"{in_words(self.limits.work)}; {most} is the most costly{made}: {_REMEDY}"
            )

    def _refuse_open(self, node: onnx.NodeProto, error: Open) -> None:
        """Refuse a node of which the picture says how much it makes."""
        name, kind = error.args
        if self.trying:
            raise Unsettled
        if self.settled and kind == PICTURE:
            raise ModelError(
                f"{self.path}: how much {named(node)} makes hangs on the values of {name!r}, which the picture "
                "decides, so nothing bounds it: export the model with sizes that are fixed"
            )

    # --- functions and control flow -----------------------------------------------------------------------------------

    def _function(
        self, function: onnx.FunctionProto, node: onnx.NodeProto, inputs: Sequence[Held | None], work: Work
    ) -> list[Held]:
        before = self.given, self.opset
        defaults = {each.name: each for each in function.attribute_proto}
        own = {each.name: self._resolved(each) for each in node.attribute}
        given = defaults | {name: each for name, each in own.items() if each is not None}
        # Inputs that are left out are known as such inside.
        pairs = zip(function.input, inputs, strict=False)
        scope: Scope = ChainMap({name: held for name, held in pairs if held is not None})
        self.given, self.opset = given, opset_of(function.opset_import) or self.opset
        try:
            for inner in function.node:
                self._node(inner, scope, work)
        finally:
            self.given, self.opset = before
        return [scope.get(name, UNKNOWN) for name in function.output]

    def _resolved(self, attribute: onnx.AttributeProto) -> onnx.AttributeProto | None:
        return self.given.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute

    @abstractmethod
    def control(self, node: onnx.NodeProto, inputs: Sequence[Held | None], scope: Scope, work: Work) -> list[Held]:
        """What a node of control flow makes; see `turns`."""


def _last_read(graph: onnx.GraphProto) -> tuple[dict[str, int], dict[int, list[str]]]:
    """The place of the last node that reads each tensor, and the tensors that each place is the last for."""
    last: dict[str, int] = {}
    for place, node in enumerate(graph.node):
        last.update(dict.fromkeys(node_inputs(node) if bodies(node) else node.input, place))
    ends: dict[int, list[str]] = {}
    for name, place in last.items():
        ends.setdefault(place, []).append(name)
    return last, ends


def _stored(tensor: onnx.TensorProto) -> Held:
    try:
        return stored(tensor)
    except Exception:  # noqa: BLE001 - whatever is wrong with its bytes, it is said when they are checked
        return UNKNOWN._replace(kind=STORED)


def _kind(node: onnx.NodeProto, inputs: Sequence[Held | None]) -> int:
    read = [held for held in inputs if held is not None]
    if node.op_type in ("Shape", "Size") and read:
        # Sides that are only bounds hang on values.
        return LOST if read[0].shape is None else TOLD if read[0].exact else read[0].kind
    kind = min((held.kind for held in read), default=TOLD)
    return min(kind, STORED) if node.op_type in _CHANCE else kind


def named(node: onnx.NodeProto | str) -> str:
    """A node in words; words as they are."""
    if isinstance(node, str):
        return node
    return f"{node.op_type} at {next((name for name in node.output if name), node.name)!r}"

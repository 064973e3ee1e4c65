"""The deployed file's graph with what explains it: evidence and its budget, in standard operators."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper

from onnx_evidence.cuts import Cut
from onnx_evidence.deployed import DeployedModel
from onnx_evidence.errors import SettingError
from onnx_evidence.evidence import EXCLUSIVE, LN2, OPEN
from onnx_evidence.explainer import Explainer
from onnx_evidence.export.arithmetic import GraphScore, agreed, counted, held_against, mean, mean_budget, stacked
from onnx_evidence.export.dialect import OLDEST, lower, lowered
from onnx_evidence.export.evidence import GraphMaps, Site, integrate
from onnx_evidence.export.parts import Whole
from onnx_evidence.export.pictures import blurred, canonical, handed_over, set_apart
from onnx_evidence.export.placing import Axis, placed, to_picture
from onnx_evidence.export.resampling import check_decoded, decoded_input
from onnx_evidence.graphs import Net
from onnx_evidence.intake import CODES, unsigned
from onnx_evidence.methods import (
    BLUR,
    BLURRED,
    BOTH,
    MEAN,
    PLAIN_MEAN,
    SMOOTHED,
    WITH_RELEVANCE,
    ZERO,
    PathEngine,
    View,
)
from onnx_evidence.types import Features
from onnx_evidence.vjp import GRADIENT, Value, build_vjp, modern

EVIDENCE, BUDGET, TARGET = "evidence", "budget", "target"
# And where decoded pictures go in.
PICTURE, IN_PICTURE = "picture", "evidence_in_picture"
# Which class, if not one by number: that which the model gives, one that is asked for with the picture; and what it is
# held against: that which comes next.
WINNER, INPUT, RUNNER_UP = "winner", "input", "runner-up"
# What evidence that is left on a grid is in.
CELLS = "bits per cell"
# Of every path, unless they are set.
STEPS = 9
# The methods whose steps are settled beforehand.
_METHODS = ("integrated", "integrated-gradients")
# What is between a picture's logits, in float32.
_FAR = 1e30


@dataclass(frozen=True)
class Asked:
    """What an exported model answers.

    Attributes
    ----------
    targets : sequence of int or str
        Why these classes: by number, 'winner' or 'input'.
    versus : int or str or None
        Rather than which: by number, or 'runner-up'.
    at_once : int
        Places along paths that are run together, for every picture of a batch.
    apart : bool
        Whether nothing that the file computes is used for evidence: then no optimiser has a reason to compute the
        file's own outputs otherwise, and the picture goes through the model once more.
    decoded : bool
        Whether it takes decoded pictures of any size, uint8 (N, height, width, 3), and does all that is done to them.
    cells : bool
        Whether evidence is left on the grid of the one cut, in bits per cell: the mean over backgrounds.
    """

    targets: Sequence[int | str] = (WINNER,)
    versus: int | str | None = None
    at_once: int = 5
    apart: bool = False
    decoded: bool = False
    cells: bool = False


def explained(explainer: Explainer, asked: Asked) -> onnx.ModelProto:
    """The deployed file with outputs that explain it, as the explainer does, whose steps are settled.

    It is of the opset that `vjp.build_vjp` writes. Further outputs are ``evidence``, (N, targets, H, W) in bits per
    pixel of the input, and ``budget``, (N, targets, 5): bits with and without all features, for, against, unaccounted;
    of decoded pictures ``evidence_in_picture``, (N, targets, height, width) in bits per pixel of the picture.
    `SettingError` if the explainer does what cannot be exported; `GradientError` if an operator has no newer form.
    """
    _check(explainer, asked)
    own = explainer.deployed.model.opset
    try:
        return _Export(explainer, asked, own if own >= OLDEST else None).model()
    except _UnsaidError:
        return _Export(explainer, asked, None).model()


def _check(explainer: Explainer, asked: Asked) -> None:
    settings, model = explainer.settings, explainer.deployed.model
    if settings.method not in _METHODS:
        raise SettingError(
            f"method {settings.method!r} cannot be exported: take {' or '.join(_METHODS)}, whose steps are settled "
            f"beforehand ({explainer.reason})"
        )
    if settings.most_steps > settings.steps:
        raise SettingError(
            f"most steps {settings.most_steps} cannot be exported: a graph takes as many for every picture: take "
            f"--most-steps {settings.steps}, as many as --steps"
        )
    if settings.project != "field":
        raise SettingError(f"project {settings.project!r} cannot be exported: take field")
    if explainer.method.has_error(settings) or settings.statistic == "conditional":
        raise SettingError(
            f"background {settings.background!r} cannot be exported: take mean, zero, blur, blur+mean, or FILE.npz "
            "with --statistic position or channel"
        )
    if asked.cells and len(explainer.engines) != 1:
        raise SettingError(
            f"cells of {len(explainer.engines)} cuts cannot be exported: name one with --layer, or take --pixels"
        )
    if asked.cells and asked.decoded:
        raise SettingError("cells are of the model's input, not of decoded pictures: drop --cells, or 'inside'")
    if asked.decoded:
        check_decoded(explainer.deployed.preprocess)
    if any(engine.field.how == OPEN for engine in explainer.engines):
        raise SettingError(
            f"{model.path}: where cells look depends on the picture, as nothing is known of what it goes through: give "
            "--preprocess"
        )
    if asked.versus is not None and asked.versus in asked.targets:
        raise SettingError(f"class {asked.versus} cannot be held against itself: give another --versus")


class _UnsaidError(Exception):
    """What is added cannot be said in the opset that was wanted."""


class _Export:
    """A graph in the making, of an opset, or of that of what is added."""

    def __init__(self, explainer: Explainer, asked: Asked, opset: int | None) -> None:
        self.explainer, self.asked, self.opset = explainer, asked, opset
        self.deployed: DeployedModel = explainer.deployed
        self.settings, self.kind = explainer.settings, explainer.method
        self.whole = Whole(Net(_file(self.deployed, newer=opset is None)))
        self.tape, self.size = self.whole.tape, self.deployed.model.input_shape[1:]
        self.source = self.whole.net.inputs[0]

    def model(self) -> onnx.ModelProto:
        """See `explained`."""
        net, model = self.whole.net, self.deployed.model
        own = len(net.nodes)
        names = [net.fresh(name) for name in (EVIDENCE, BUDGET, TARGET, PICTURE, IN_PICTURE)]
        sides = self._decoded(names[3]) if self.asked.decoded else None
        front = len(net.nodes)
        pictures = canonical(self.whole, self.source.name, model.entry, apart=self.asked.apart)
        logits = self._put(self.deployed.graph.whole(), pictures)[0].op("Flatten", axis=1)
        sites = self._sites(pictures)
        classes = _Classes(self.whole, logits, self.deployed.classes)
        found = [self._answer(pictures, sites, self._score(classes, target, names[2])) for target in self.asked.targets]
        outputs = [stacked(values, 1) for values in zip(*found, strict=True)]
        for name, values in zip(names, outputs, strict=False):
            self._named(values, name)
        if sides is not None:
            self._named(to_picture(outputs[0], *sides), names[4])
        if self.opset is not None and not lower(net, own, self.opset):
            raise _UnsaidError
        for node in net.nodes[own:]:
            node.ClearField("name")
        self.whole.forget_unread()
        # What is done to pictures goes before the file's own.
        nodes = net.take()
        net.add(*nodes[own:front], *nodes[:own], *nodes[front:])
        # Some converters append nodes, which the runtime does not mind; ONNX does.
        net.sort()
        net.finish()
        self._declare(names)
        return net.proto

    def _named(self, value: Value, name: str) -> None:
        value.op("Identity")
        self.tape.rename(Value(self.tape, self.whole.net.nodes[-1].output[0], value.elem_type), name)

    def _decoded(self, name: str) -> tuple[Axis, Axis]:
        """Make the file's own input of decoded pictures; where it lies in them."""
        picture, entry = Value(self.tape, name, TensorProto.UINT8), self.deployed.model.entry
        sides = placed(picture, self.deployed.preprocess)
        self._named(handed_over(decoded_input(picture, *sides, self.deployed.preprocess), entry), self.source.name)
        return sides

    def _put(self, part: onnx.ModelProto, *given: Value) -> list[Value]:
        return self.whole.put(self._said(modern(part)), *given)

    def _said(self, part: onnx.ModelProto) -> onnx.ModelProto:
        """In the opset of the whole."""
        found = part if self.opset is None else lowered(part, self.opset)
        if found is None:
            raise _UnsaidError
        return found

    def _declare(self, names: Sequence[str]) -> None:
        """Name what goes in and comes out."""
        graph, model = self.whole.net.graph, self.deployed.model
        sides = self.source.type.tensor_type.shape.dim
        if not sides:
            sides.extend(onnx.TensorShapeProto.Dimension() for _ in range(len(model.entry.sides) + 1))
        for dim, side in zip(sides[1:], model.entry.sides, strict=True):
            dim.dim_value = side
        if sides[0].dim_value < 1:
            sides[0].ClearField("dim_value")  # an open side as some exporters write it
        batch: int | str = model.rows or sides[0].dim_param or "N"
        if INPUT in self.asked.targets:
            graph.input.append(helper.make_tensor_value_info(names[2], TensorProto.INT64, [batch]))
        targets = len(self.asked.targets)
        grid = self.explainer.engines[0].cut.grid if self.asked.cells else self.size
        for name, shape in ((names[0], [targets, *grid]), (names[1], [targets, 5])):
            graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]))
        if self.asked.decoded:
            self._declare_decoded(batch, names[3], names[4])

    def _declare_decoded(self, batch: int | str, picture: str, in_picture: str) -> None:
        """What was the input becomes a tensor inside."""
        graph, as_it_is = self.whole.net.graph, self.deployed.preprocess.resize == "none"
        size: Sequence[int | str] = self.size if as_it_is else ("picture_height", "picture_width")
        graph.value_info.append(self.source)
        place = next(place for place, value in enumerate(graph.input) if value.name == self.source.name)
        graph.input[place].CopyFrom(helper.make_tensor_value_info(picture, TensorProto.UINT8, [batch, *size, 3]))
        shape = [batch, len(self.asked.targets), *size]
        graph.output.append(helper.make_tensor_value_info(in_picture, TensorProto.FLOAT, shape))

    def _sites(self, pictures: Value) -> list[Site]:
        """The cuts, with the features of the pictures there and where paths start."""
        cuts = [engine.cut for engine in self.explainer.engines]
        seen = self._features(cuts, pictures)
        stand_in = self.kind.stand_in(self.settings)
        soft = blurred(self.whole, pictures, self.size, BLURRED * min(self.size)) if BLUR in stand_in else None
        from_soft = [None] * len(cuts) if soft is None or stand_in not in (BLUR, BOTH) else self._features(cuts, soft)
        sites = []
        for number, engine in enumerate(self.explainer.engines):
            features, cut = seen[number], engine.cut
            starts = [each for each in (from_soft[number],) if each is not None]
            if stand_in in (MEAN, BOTH):
                exact = features.cast(TensorProto.DOUBLE).reduce("Mean", [2, 3])
                starts.append(exact.cast(TensorProto.FLOAT))
            elif stand_in == ZERO:
                starts.append(features.number(0.0))
            elif stand_in != BLUR:
                starts.append(self._fitted(number))
            starts = [self._keeping(start, features, cut) for start in starts]
            sites.append(Site(features, starts, self._backward(cut, GRADIENT), cut.shape, cut.kept, engine.field))
        return sites

    def _keeping(self, start: Value, features: Value, cut: Cut) -> Value:
        """With tokens that are no cells as they are in the picture; see `methods.kept`."""
        if not cut.kept:
            return start
        channels = np.arange(cut.shape[0]).reshape(-1, 1, 1)
        cells = self.tape.constant(channels < cut.cell_shape[0])
        return cells.op("Where", start, features, elem_type=features.elem_type)

    def _fitted(self, number: int) -> Value:
        """What a fitted background has in place of any picture's features."""
        engine = self.explainer.engines[number]
        assert isinstance(engine, PathEngine)  # both methods have these
        nothing: Features = np.zeros(engine.cut.shape, np.float32)
        view = View(np.zeros(self.deployed.model.input_shape, np.float32), nothing, np.zeros(2), 0)
        return self.whole.constant(engine.baselines(view).astype(np.float32))

    def _features(self, cuts: Sequence[Cut], pictures: Value) -> list[Value]:
        source, graph = self.deployed.model.input_name, self.deployed.graph
        inside = [cut for cut in cuts if cut.name != source]
        if self.deployed.model.arithmetic == CODES:
            found = iter(self._one_by_one(inside, pictures))
        else:
            found = iter(self._put(graph.head(*inside), pictures) if inside else ())
        return [pictures if cut.name == source else next(found) for cut in cuts]

    def _one_by_one(self, cuts: Sequence[Cut], pictures: Value) -> list[Value]:
        """Features between codes, each from the picture on.

        What is read in the middle keeps the runtime from computing with integers, and what is behind would be another.
        """
        found = []
        for cut in cuts:
            pictures = set_apart(pictures)
            found += self._put(self.deployed.graph.head(cut), pictures)
        return found

    def _backward(self, cut: Cut, rules: str) -> onnx.ModelProto:
        rest = self._has_rest
        return self._said(build_vjp(unsigned(self.deployed.graph.tail(cut)), rest=rest, rules=rules))

    @property
    def _has_rest(self) -> bool:
        """Whether other classes count together."""
        exclusive = self.deployed.class_kind is EXCLUSIVE
        return exclusive and self.asked.versus is None and self.settings.score == "log-odds"

    def _score(self, classes: "_Classes", target: int | str, name: str) -> GraphScore:
        chosen = (
            classes.winner if target == WINNER else classes.asked(name) if target == INPUT else classes.fixed(target)
        )
        direction = classes.marked(chosen)
        if self.asked.versus is not None:
            rival = classes.next_to(direction) if self.asked.versus == RUNNER_UP else classes.fixed(self.asked.versus)
            return GraphScore(direction - classes.marked(rival), None, classes.count)
        return GraphScore(direction, 1.0 - direction if self._has_rest else None, classes.count)

    def _answer(self, pictures: Value, sites: Sequence[Site], score: GraphScore) -> tuple[Value, Value]:
        """Evidence, (N, H, W) or of cells (N, A, B), and budget (N, 5)."""
        maps = [integrate(self.whole, site, score, self.settings.steps, self.asked.at_once) for site in sites]
        budget = mean_budget([each.budget for each in maps])
        return (maps[0].cells if self.asked.cells else self._combined(pictures, maps, score)), budget

    def _combined(self, pictures: Value, maps: Sequence[GraphMaps], score: GraphScore) -> Value:
        first, *others = [each.values for each in maps]
        values = first.op("Concat", *others, axis=0) if others else first
        backgrounds = len(self._starts)
        counts = [each for each in counted([each.budget.speaks for each in maps]) for _ in range(backgrounds)]
        weights = stacked([each.op("Unsqueeze", self.tape.integers(1, 2)) for each in counts], 0)
        how = self.settings.combine if "combine" in self.kind.uses else PLAIN_MEAN
        if how == PLAIN_MEAN:
            return mean(values, weights)
        if how != WITH_RELEVANCE:
            return agreed(values, weights)
        return held_against(values, weights, self._relevance(pictures, score), backgrounds)

    @property
    def _starts(self) -> Sequence[str]:
        return (BLUR, MEAN) if self.kind.stand_in(self.settings) == BOTH else ("one",)

    def _relevance(self, pictures: Value, score: GraphScore) -> Value:
        """As `methods.relevance.PixelRelevance`: (N, H, W)."""
        source = self.deployed.graph.find(self.deployed.model.input_name)
        given = [each for each in (score.direction, score.rest) if each is not None]
        handed, _ = self.whole.put(self._backward(source, self.settings.rules), pictures, *given)
        pixels = (pictures * handed).reduce("Sum", [1], keepdims=False) / LN2
        return blurred(self.whole, pixels, self.size, SMOOTHED * min(self.size))


class _Classes:
    """Which classes, for every picture: numbers (N,), and as rows of zeros and ones."""

    def __init__(self, whole: Whole, logits: Value, count: int) -> None:
        self.tape, self.logits, self.count = whole.tape, logits, count
        self.winner = logits.op("ArgMax", elem_type=TensorProto.INT64, axis=1, keepdims=0)

    def fixed(self, number: int | str) -> Value:
        """The same class for all."""
        return self.winner * self.tape.integers(0) + self.tape.integers(int(number))

    def asked(self, name: str) -> Value:
        """What the second input says; the run fails where there is no such class, or not one for every picture."""
        numbers, asked = self.tape.constant(np.arange(self.count)), Value(self.tape, name, TensorProto.INT64)
        # Numbers below 0 would count from the end.
        below = asked.op("Less", asked.number(0), elem_type=TensorProto.BOOL)
        place = below.op("Where", asked.number(self.count), asked, elem_type=TensorProto.INT64)
        return numbers.op("Gather", place).reshape_like(self.winner)

    def marked(self, chosen: Value) -> Value:
        """1 at the class, 0 at all others: (N, K)."""
        column = chosen.op("Unsqueeze", self.tape.integers(1))
        here = column.op("Equal", self.tape.constant(np.arange(self.count)[None]), elem_type=TensorProto.BOOL)
        return here.cast(self.logits.elem_type)

    def next_to(self, marked: Value) -> Value:
        """The likeliest class besides that one."""
        others = self.logits - marked * _FAR
        return others.op("ArgMax", elem_type=TensorProto.INT64, axis=1, keepdims=0)


def _file(deployed: DeployedModel, *, newer: bool) -> onnx.ModelProto:
    """The file, with the weights that lie beside it; in the opset of the rules where that is newer, if it is to be."""
    model = deployed.model
    proto = onnx.load_model_from_string(model.data)
    if model.beside:
        external_data_helper.load_external_data_for_model(proto, str(model.path.parent))
    found = modern(proto) if newer else proto
    if found is not proto:
        # The converter tells shapes that the file does not, and with them the runtime may compute otherwise.
        del found.graph.value_info[:]
        found.graph.value_info.extend(proto.graph.value_info)
        del found.metadata_props[:]
        found.metadata_props.extend(proto.metadata_props)
    return found

"""Control flow: how often bodies are run, and what comes of it."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx

from onnx_evidence.counting.held import PICTURE, TOLD, UNKNOWN, Call, Held
from onnx_evidence.counting.tally import NODE, Work, in_words
from onnx_evidence.counting.walk import MALFORMED, Scope, Unsettled, Walk, named
from onnx_evidence.errors import ModelError, one_line
from onnx_evidence.graphs import bodies

# Turns of a Loop are followed one by one through at most so many nodes.
_FOLLOWED = 20_000
# What the states of a Loop have in common is found after so many turns, or not.
_LOOKS = 4
# A trip count that is left out.
_NO_END = 2**63 - 1


class WholeWalk(Walk):
    """A way that goes through control flow, too."""

    def control(self, node: onnx.NodeProto, inputs: Sequence[Held | None], scope: Scope, work: Work) -> list[Held]:
        """What a node of control flow makes."""
        ways = {"If": self._if, "Loop": self._loop, "Scan": self._scan, "SequenceMap": self._sequence_map}
        try:
            return ways[node.op_type](node, inputs, scope, work)
        except MALFORMED as error:
            # Nothing bounds what cannot be followed.
            raise ModelError(
                f"{self.path}: {named(node)} is not as the standard has it, its bodies, inputs or attributes "
                f"({one_line(error)}): export the model again"
            ) from error

    def _if(self, node: onnx.NodeProto, inputs: Sequence[Held | None], scope: Scope, work: Work) -> list[Held]:
        """Both branches: constants are folded in the one that is not taken, too."""
        found = [self.graph(body, {}, work, scope) for body in _bodies(node, 2)]
        work.run += NODE
        value = None if inputs[0] is None else inputs[0].value
        if value is not None:
            names = [attribute.name for attribute in node.attribute if attribute.HasField("g")]
            return found[names.index("then_branch" if value.all() else "else_branch")]
        kind = PICTURE if inputs[0] is None else inputs[0].kind
        merged = [_joined(*pair) for pair in zip(*found, strict=False)]
        return [held._replace(kind=min(kind, held.kind), value=None) for held in merged]

    def _loop(self, node: onnx.NodeProto, inputs: Sequence[Held | None], scope: Scope, work: Work) -> list[Held]:
        (body,) = _bodies(node, 1)
        most, goes_on = _trips(inputs), _condition(inputs)
        states = [UNKNOWN if held is None else held for held in inputs[2:]]
        if most == 0 or goes_on is False:
            self._turn(body, None, states, scope, inner := Work())
            work.add(inner, 0)
            return states
        common = self._in_common(body, states, scope)
        if common is not None:
            inner, results = common
            ends = None if results[0].value is None else not results[0].value.all()
            turns = 1 if ends else most
            bounded = turns is not None and self.limits.count(Work(run=inner.run * turns)) <= self.limits.work
            if not bounded and ends is None and results[0].kind != PICTURE and goes_on is not None and self.settled:
                common = None  # the condition is computed from constants: it may end long before
            elif turns is None or (ends is None and not bounded):
                # The picture decides: runs of it are limited in time.
                if len(results) > 1 + len(states):
                    self._refuse_growing(node)
                work.add(inner)
                return [held._replace(kind=PICTURE, value=None, exact=False) for held in results[1:]]
            else:
                self._repeat(node, inner, turns, work)
                exact = ends is not None and goes_on is not None
                return _stacked(results[1:], len(states), turns, exact)
        return self._followed(node, body, states, scope, work, most)

    def _repeat(self, node: onnx.NodeProto, inner: Work, turns: int, work: Work) -> None:
        """Put so many turns of a body to the work."""
        where = f"{named(node)}, of {'endless' if turns >= _NO_END else in_words(turns)} turns,"
        inner.most, inner.where = 0, where
        work.add(inner, turns)
        self.check(work, where)

    def _in_common(self, body: onnx.GraphProto, states: list[Held], scope: Scope) -> tuple[Work, list[Held]] | None:
        """One turn as all of them are, states and results included; None where they differ in size."""
        self.trying += 1
        try:
            for _ in range(_LOOKS):
                results = self._turn(body, None, states, scope, inner := Work())
                after = results[1 : 1 + len(states)]
                joined = [_joined(*pair) for pair in zip(states, after, strict=False)]
                sizes = [(one.size, held.size) for one, held in zip(states, after, strict=False)]
                if any(None not in pair and pair[0] != pair[1] for pair in sizes):
                    return None
                if all(_same(*pair) for pair in zip(states, joined, strict=False)):
                    return inner, results
                states = joined
        except Unsettled:
            pass
        finally:
            self.trying -= 1
        return None

    def _turn(
        self, body: onnx.GraphProto, number: int | None, states: Sequence[Held], scope: Scope, inner: Work
    ) -> list[Held]:
        told = Held((), 1, True, TOLD, None if number is None else np.array(number, np.int64))
        going = Held((), 1, True, TOLD, np.array(True))
        names = [value.name for value in body.input]
        inner.run += NODE  # a turn takes its time even where nothing is done in it
        return self.graph(body, dict(zip(names, [told, going, *states], strict=False)), inner, scope)

    def _followed(
        self,
        node: onnx.NodeProto,
        body: onnx.GraphProto,
        states: list[Held],
        scope: Scope,
        work: Work,
        most: int | None,
    ) -> list[Held]:
        """Turn by turn, where what is made grows from turn to turn or the end is computed."""
        end, total, turn = self.visits + _FOLLOWED, Work(), 0
        gathered: list[Held] = []
        while most is None or turn < most:
            results = self._turn(body, turn, states, scope, total)
            self.check(total, node)
            turn, states = turn + 1, results[1 : 1 + len(states)]
            gathered = [_gathered(*pair) for pair in zip(gathered or [UNKNOWN] * 99, results[1:], strict=False)]
            going = results[0].value
            if going is not None and not going.all():
                break
            if most is None and going is None:
                self._refuse_growing(node)
                break
            if self.visits > end:
                raise ModelError(
                    f"{self.path}: {named(node)} has not ended after {turn} turns that were followed: give it a "
                    "number of turns, or export the model without it"
                )
        work.add(total)
        self.check(work, node)
        return [*states, *gathered[len(states) :]]

    def _refuse_growing(self, node: onnx.NodeProto) -> None:
        """Refuse a Loop of which the picture decides how much it holds."""
        if self.settled:
            raise ModelError(
                f"{self.path}: {named(node)} may hold more with every turn, and the picture decides how many there "
                "are, so nothing bounds it: export the model with a largest number of turns"
            )

    def _scan(self, node: onnx.NodeProto, inputs: Sequence[Held | None], scope: Scope, work: Work) -> list[Held]:
        (body,) = _bodies(node, 1)
        call = Call(node, inputs, self.opset, self.given)
        # Up to opset 8 lengths of sequences stand in front, and the batch is the first axis.
        old = self.opset < 9
        read = [UNKNOWN if held is None else held for held in (inputs[1:] if old else inputs)]
        count = call.attr("num_scan_inputs", 0)
        if not 0 <= count <= len(read):
            raise ValueError(f"num_scan_inputs={count} of {len(read)}")
        states, scanned = read[: len(read) - count], read[len(read) - count :]
        axes = [1] * count if old else call.attr("scan_input_axes") or [0] * count
        lengths = [held.shape[axis] for held, axis in zip(scanned, axes, strict=False) if held.shape]
        turns = max(lengths, default=1)
        slices = [_slice_of(held, axis, old) for held, axis in zip(scanned, axes, strict=False)]
        names = [value.name for value in body.input]
        inner = Work(run=NODE)
        results = self.graph(body, dict(zip(names, [*states, *slices], strict=False)), inner, scope)
        self._repeat(node, inner, turns, work)
        return _stacked(results, len(states), turns, exact=False)

    def _sequence_map(
        self, node: onnx.NodeProto, inputs: Sequence[Held | None], scope: Scope, work: Work
    ) -> list[Held]:
        (body,) = _bodies(node, 1)
        read = [UNKNOWN if held is None else held for held in inputs]
        turns = next((held.length for held in read if held.length is not None), 1)
        given = [held if held.length is None else Held(None, held.size, kind=held.kind) for held in read]
        inner = Work(run=NODE)
        results = self.graph(body, dict(zip((v.name for v in body.input), given, strict=False)), inner, scope)
        self._repeat(node, inner, turns, work)
        sizes = [None if held.size is None else held.size * turns for held in results]
        return [Held(None, size, length=turns) for size in sizes]


def _bodies(node: onnx.NodeProto, count: int) -> list[onnx.GraphProto]:
    found = bodies(node)
    if len(found) != count:
        raise ValueError(f"{len(found)} bodies in the place of {count}")
    return found


def _trips(inputs: Sequence[Held | None]) -> int | None:
    """How often a Loop turns at most; None where that is not known."""
    if not inputs or inputs[0] is None:
        return _NO_END
    value = inputs[0].value
    return None if value is None or value.size != 1 else max(int(value.item()), 0)


def _condition(inputs: Sequence[Held | None]) -> bool | None:
    """Whether a Loop begins; None where that is not known."""
    if len(inputs) < 2 or inputs[1] is None:
        return True
    value = inputs[1].value
    return None if value is None else bool(value.all())


def _joined(one: Held, other: Held) -> Held:
    """What holds of both."""
    sizes = [held.size for held in (one, other) if held.size is not None]
    size = max(sizes) if len(sizes) == 2 else None
    kind = min(one.kind, other.kind)
    length = None if one.length is None or other.length is None else max(one.length, other.length)
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return Held(None, size, False, kind, None, length)
    shape = tuple(map(max, zip(one.shape, other.shape, strict=True)))
    exact = one.exact and other.exact and one.shape == other.shape
    alike = one.value is not None and other.value is not None and np.array_equal(one.value, other.value)
    return Held(shape, prod(shape), exact, kind, one.value if alike else None, length)


def _same(one: Held, other: Held) -> bool:
    return one._replace(value=None) == other._replace(value=None) and (one.value is None) == (other.value is None)


def _stacked(results: Sequence[Held], states: int, turns: int, exact: bool) -> list[Held]:
    """What a body gives in the end: its states as they are, everything else once for each turn."""
    found = [held._replace(value=None) for held in results[:states]]
    for held in results[states:]:
        shape = None if held.shape is None else (turns, *held.shape)
        size = None if held.size is None else held.size * turns
        found.append(Held(shape, size, exact and held.exact, held.kind))
    return found


def _gathered(before: Held, new: Held) -> Held:
    """What was gathered in earlier turns, with that of a new one."""
    if before is UNKNOWN:
        return new._replace(shape=None, value=None, exact=False)
    size = None if before.size is None or new.size is None else before.size + new.size
    return Held(None, size, kind=min(before.kind, new.kind))


def _slice_of(held: Held, axis: int, old: bool) -> Held:
    """What a body of a Scan reads of a tensor in one turn."""
    if held.shape is None or not held.shape:
        return held._replace(value=None)
    sides = [side for place, side in enumerate(held.shape) if place != axis % len(held.shape)]
    sides = sides[1:] if old else sides
    return Held(tuple(sides), prod(sides), held.exact, held.kind)

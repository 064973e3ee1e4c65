"""Which cuts ``--layer auto`` takes, from the graph alone, and why each was taken or left."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from onnx_evidence.cuts.graph import Cut, Lost
from onnx_evidence.errors import CutError, SettingError
from onnx_evidence.graphs import ACTIVATIONS

AUTO, DEEP = "auto", "deep"
# A grid with fewer cells along a side places nothing.
_FEWEST_CELLS = 5
# Nor does one of many cells that stand for fewer pixels along a side: it carries their noise.
_FEWEST_PIXELS = 8
_MOST_CELLS = 28
# One grid for so many joins is a transformer's: the last of them says little of where evidence is.
_MANY_JOINS = 6
# Where one grid is all there is, what cells hold is told to others with depth, and to tokens that are no cells: the
# cells before the first block are taken, and the block output nearest to this share of the work left.
_EARLY_SHARE = 0.9
_WHY_EARLY = "deeper cells hold what other cells saw"
# What only pads or reorders values: grids that come of nothing else are no stages.
_MOVING = frozenset({"Pad", "Slice", "Transpose", "Reshape"})
# Cuts of a plain transformer leave most of the work on purpose; whoever else leaves clearly more than half has lost the
# deep stages.
_SHALLOW = 0.6
# What is behind the last grid that can be followed is a head, if it is less than this share of the work.
_HEAD = 0.1
# Windows are removed in the deepest stages alone: their cost grows with the grid.
_STAGES_OF_WINDOWS = 2


UNREAD = "on trial pictures no score changes, whatever its cells hold"
# Whether the scores change with what the cells of a cut hold.
IsRead = Callable[[Cut], bool]


def _believed(cut: Cut) -> bool:
    """Whatever is not known to be unread is read."""
    return True


class Verdict(NamedTuple):
    """What became of a cut.

    Attributes
    ----------
    taken : bool
        Whether 'auto' takes it.
    reason : str
        Why, or why not.
    """

    taken: bool
    reason: str


def judge_cuts(cuts: tuple[Cut, ...], *, integrate: bool = True, is_read: IsRead = _believed) -> dict[Cut, Verdict]:
    """Judge every cut for ``--layer auto``: a few are taken, spread over the resolutions.

    A stage is all cuts with grids of one size; stages whose grids are too coarse to place anything, or so fine that
    cells carry the noise of single pixels, are left. In a stage, block outputs are preferred (a residual sum, a
    concatenation), then tensors before an activation, which keep their sign. A tensor whose readers step over cells is
    passed over while there is another: most of its evidence would be hidden. Of what remains the last is taken: it has
    seen the most, and its tail is the cheapest. Where one grid has six joins or more and there is no other grid, as in
    a plain transformer (or none that is not too fine, where there is a class token, as in one behind a convolutional
    stem), the cells before the first block and an early block output are taken instead; never one of whose cells
    nothing is read any more. Integration takes one in every stage, removal of windows in the two deepest
    (docs/integrated.md and docs/first-light.md have the measurements).

    Parameters
    ----------
    cuts : tuple of Cut
        All cuts of a model, the input first.
    integrate : bool
        Whether evidence is integrated there, or windows removed.
    is_read : callable
        Asked of the cuts that would be taken alone, as it may take a while; see `DeployedModel.is_read`.

    Returns
    -------
    dict of Cut to Verdict
        In graph order.
    """
    believed = verdicts = _judge(cuts, {}, integrate)
    unread: dict[Cut, str] = {}
    while dead := next((cut for cut in cuts if verdicts[cut].taken and not is_read(cut)), None):
        behind = cuts[cuts.index(dead) + 1 :]
        unread[dead] = UNREAD
        unread |= {cut: f"its cells come of {dead.name!r}, whose cells change no score" for cut in behind}
        verdicts = _judge(cuts, unread, integrate)
    # A model whose scores nothing moved is no model whose cuts can be told apart: what is explained will say so.
    return verdicts if any(verdict.taken for verdict in verdicts.values()) else believed


def _judge(cuts: tuple[Cut, ...], unread: Mapping[Cut, str], integrate: bool) -> dict[Cut, Verdict]:
    """The verdicts where some cuts are known to be unread."""
    verdicts: dict[Cut, Verdict] = {}
    stages: dict[tuple[int, int], list[Cut]] = {}
    for cut in cuts:
        if cut in unread:
            verdicts[cut] = Verdict(False, unread[cut])
        elif cut.unread_by is not None:
            verdicts[cut] = Verdict(False, f"{cut.unread_by!r} reads none of its cells")
        elif cut.op_type == "Input":
            verdicts[cut] = Verdict(False, "the pixels themselves; methods like occlusion work there")
        elif min(cut.grid) < _FEWEST_CELLS:
            verdicts[cut] = Verdict(False, f"fewer than {_FEWEST_CELLS} cells along a side place nothing")
        else:
            stages.setdefault(cut.grid, []).append(cut)
    moved = [grid for grid, stage in stages.items() if all(cut.op_type in _MOVING for cut in stage)]
    for grid in moved if len(moved) < len(stages) else ():
        words = "pads or reorders the values of another stage"
        verdicts.update((cut, Verdict(False, words)) for cut in stages.pop(grid))
    judged = []
    for number, stage in enumerate(stages.values(), start=1):
        if reason := _why_left(stage, cuts[0].grid, len(stages) - number, integrate):
            verdicts.update((cut, Verdict(False, reason)) for cut in stage)
        else:
            judged.append(stage)
    for stage in judged:
        alone = len(stages) == 1 or (len(judged) == 1 and any(cut.kept for cut in stage))
        along = alone and sum(cut.joins for cut in stage) >= _MANY_JOINS
        verdicts.update(_judge_depth(stage) if along else _judge_stage(stage))
    return {cut: verdicts[cut] for cut in cuts}


def _why_left(stage: Sequence[Cut], size: tuple[int, int], deeper: int, integrate: bool) -> str:
    """Why a whole stage is left; empty where it is not."""
    if not deeper:
        return ""  # the deepest is always judged: there may be no other
    if not integrate and deeper >= _STAGES_OF_WINDOWS:
        return "windows are removed in the deepest stages alone"
    if integrate and max(stage[0].grid) > _MOST_CELLS and min(_pixels_of_a_cell(stage, size)) < _FEWEST_PIXELS:
        many = f"more than {_MOST_CELLS} cells along a side, of fewer than {_FEWEST_PIXELS} pixels"
        return f"{many}, carry the noise of pixels"
    return ""


def _pixels_of_a_cell(stage: Sequence[Cut], size: tuple[int, int]) -> tuple[int, int]:
    """Pixels from one cell to the next; where that is not known, those that a grid with a padded end makes likely."""
    strides = [cut.field.stride for cut in stage if cut.field is not None and min(cut.field.stride) > 0]
    rows, cols = stage[0].grid
    return strides[0] if strides else (-(-size[0] // rows), -(-size[1] // cols))


def _judge_depth(stage: list[Cut]) -> dict[Cut, Verdict]:
    """Early in a model that has one grid."""
    joins = [cut for cut in stage if cut.joins]
    before = stage[max(stage.index(joins[0]) - 1, 0)]
    early = min(joins, key=lambda cut: abs(cut.tail_share - _EARLY_SHARE))
    rows, cols = stage[0].grid
    nearest = f"the block output nearest to {_EARLY_SHARE:.0%} of the work left, of {len(joins)} of {rows} x {cols}"
    first = f"the {rows} x {cols} cells before the first block"
    taken = {early: f"{nearest}: {_WHY_EARLY}", before: f"{first}: {_WHY_EARLY}"}
    left = {True: f"{early.name!r} is nearer to {_EARLY_SHARE:.0%} of the work left", False: "no block output"}
    return {cut: Verdict(True, taken[cut]) if cut in taken else Verdict(False, left[cut.joins]) for cut in stage}


def _judge_stage(stage: list[Cut]) -> dict[Cut, Verdict]:
    joins = [cut for cut in stage if cut.joins]
    signed = [cut for cut in stage if cut.op_type not in ACTIVATIONS]
    candidates = joins or signed or stage
    kind = "block output" if joins else "tensor before an activation" if signed else "tensor"
    read = [cut for cut in candidates if cut.skipped_by is None] or candidates
    rows, cols = stage[0].grid
    reason = f"the last {kind} of the {rows} x {cols} stage"
    if read[-1] != candidates[-1]:
        reason += f", but for {candidates[-1].name!r}, whose reader steps over cells"
    verdicts = {}
    for cut in stage:
        if cut == read[-1]:
            verdicts[cut] = Verdict(True, reason)
        elif cut not in candidates:
            verdicts[cut] = Verdict(False, f"no {kind}")
        elif cut not in read:
            verdicts[cut] = Verdict(False, f"{cut.skipped_by!r} steps over its cells")
        else:
            verdicts[cut] = Verdict(False, f"{read[-1].name!r} behind it is taken")
    return verdicts


def choose_cuts(cuts: tuple[Cut, ...], *, integrate: bool = True, is_read: IsRead = _believed) -> dict[Cut, str]:
    """The cuts that `judge_cuts` takes.

    Parameters
    ----------
    cuts : tuple of Cut
        All cuts of a model, the input first.
    integrate : bool
        As in `judge_cuts`.
    is_read : callable
        As in `judge_cuts`.

    Returns
    -------
    dict of Cut to str
        In graph order, and the reason for each.

    Raises
    ------
    CutError
        If no cut inside the model has a grid of at least 5 x 5 cells.
    """
    verdicts = judge_cuts(cuts, integrate=integrate, is_read=is_read)
    taken = {cut: verdict.reason for cut, verdict in verdicts.items() if verdict.taken}
    if not taken:
        raise _no_grid(cuts)
    return taken


def why_no_grid(cuts: tuple[Cut, ...]) -> str:
    """Why nothing can be chosen of cuts that are all too coarse.

    Parameters
    ----------
    cuts : tuple of Cut
        All cuts of a model, the input first.

    Returns
    -------
    str
        With the place where rows and columns are lost, where that is known.
    """
    place = next((cut.lost_at for cut in cuts if cut.lost_at), None)
    lost = f" (rows and columns are lost at {place})" if place else ""
    return f"no cut inside the model has a grid of {_FEWEST_CELLS} x {_FEWEST_CELLS} cells or more{lost}"


def _no_grid(cuts: tuple[Cut, ...]) -> CutError:
    return CutError(
        f"{why_no_grid(cuts)}: name one with --layer, or work on pixels with --method occlusion or integrated-gradients"
    )


def last_cut(cuts: tuple[Cut, ...], *, is_read: IsRead = _believed) -> str:
    """The last cut that has a grid: where class activation mapping looks by custom.

    Parameters
    ----------
    cuts : tuple of Cut
        All cuts of a model, the input first.
    is_read : callable
        As in `judge_cuts`.

    Returns
    -------
    str
        Its name.

    Raises
    ------
    CutError
        If no cut inside the model has a grid of at least 5 x 5 cells.
    """
    inside = [cut for cut in reversed(cuts) if cut.op_type != "Input" and cut.unread_by is None]
    gridded = [cut for cut in inside if min(cut.grid) >= _FEWEST_CELLS]
    if not gridded:
        raise _no_grid(cuts)
    return next((cut for cut in gridded if is_read(cut)), gridded[0]).name


def why_shallow(taken: Sequence[Cut], cuts: tuple[Cut, ...], lost: Lost | None) -> str | None:
    """What the cuts taken miss of the depth of a model.

    Parameters
    ----------
    taken : sequence of Cut
        Those that were chosen.
    cuts : tuple of Cut
        All cuts of the model, the input first.
    lost : Lost or None
        What became of coarser grids behind the last cut; see `Graph.lost`.

    Returns
    -------
    str or None
        In words; None where stages are as they should be.
    """
    deepest = min(taken, key=lambda cut: cut.tail_share)
    if deepest.op_type == "Input":
        return None  # pixels were asked for
    if lost is not None and cuts[-1].tail_share > _HEAD:
        return f"{lost.words}: {cuts[-1].tail_share:.0%} of the work is behind {cuts[-1].name!r}, the last cut"
    if deepest.tail_share <= _SHALLOW:
        return None
    alike = [cut for cut in cuts if cut.joins and cut.grid == deepest.grid]
    on_purpose = len(alike) >= _MANY_JOINS and alike[-1].tail_share < deepest.tail_share
    why = f", on purpose: {_WHY_EARLY}" if on_purpose else ""
    return f"{deepest.tail_share:.0%} of the work is behind {deepest.name!r}, the deepest cut taken{why}"


def resolve_layers(
    layers: Sequence[str], cuts: tuple[Cut, ...], *, integrate: bool, is_read: IsRead = _believed
) -> list[str]:
    """Names of the cuts that a user asked for, each once.

    'auto' stands for the choice of `choose_cuts`, 'deep' for its choice in the two deepest stages alone.

    Parameters
    ----------
    layers : sequence of str
        Names of cuts, or 'auto' or 'deep' alone. Names are not looked up here.
    cuts : tuple of Cut
        All cuts of the model, the input first.
    integrate : bool
        As in `judge_cuts`.
    is_read : callable
        As in `judge_cuts`.

    Returns
    -------
    list of str
        In the order given; for 'auto', in graph order.

    Raises
    ------
    SettingError
        If 'auto' or 'deep' is given beside names.
    CutError
        If there is nothing to choose from.
    """
    names = list(dict.fromkeys(layers))
    for word in (AUTO, DEEP):
        if word in names and len(names) > 1:
            raise SettingError(f"layer {word!r} chooses alone: name layers, or leave the choice to it")
    if names not in ([AUTO], [DEEP]):
        return names
    return [cut.name for cut in choose_cuts(cuts, integrate=integrate and names == [AUTO], is_read=is_read)]

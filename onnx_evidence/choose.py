"""Which cuts ``--layer auto`` takes, from the graph alone, and why."""

from collections.abc import Sequence

from onnx_evidence.errors import CutError, SettingError
from onnx_evidence.fields import ACTIVATIONS
from onnx_evidence.graph import Cut

AUTO = "auto"
# A grid with fewer cells along a side places nothing.
_FEWEST_CELLS = 5
_STAGES = 2


def choose_cuts(cuts: tuple[Cut, ...]) -> dict[Cut, str]:
    """Choose one cut in each of the two deepest stages that still have a grid worth the name.

    A stage is all cuts with grids of one size. The last block output of it is taken: it has seen the most
    there, and its tail is the cheapest. A tensor whose reader steps over cells is passed over while there is
    another: most of its evidence would be hidden. Two resolutions averaged measured better than either
    (docs/first-light.md).

    Parameters
    ----------
    cuts : tuple of Cut
        All cuts of a model, the input first.

    Returns
    -------
    dict of Cut to str
        The cuts taken, in graph order, and the reason for each.

    Raises
    ------
    CutError
        If no cut inside the model has a grid of at least 5 x 5 cells.
    """
    stages: dict[tuple[int, int], list[Cut]] = {}
    for cut in cuts:
        if cut.op_type != "Input" and min(cut.grid) >= _FEWEST_CELLS:
            stages.setdefault(cut.grid, []).append(cut)
    if not stages:
        raise CutError(
            f"no cut inside the model has a grid of {_FEWEST_CELLS} x {_FEWEST_CELLS} cells or more: name one with "
            "--layer, or remove pixels with --method occlusion"
        )
    return dict(_choose(stage) for stage in list(stages.values())[-_STAGES:])


def resolve_layers(layers: Sequence[str], cuts: tuple[Cut, ...]) -> list[str]:
    """Names of the cuts that a user asked for, each once; 'auto' stands for the choice of `choose_cuts`.

    Parameters
    ----------
    layers : sequence of str
        Names of cuts, or 'auto' alone. Names are not looked up here.
    cuts : tuple of Cut
        All cuts of the model, the input first.

    Returns
    -------
    list of str
        In the order given; for 'auto', in graph order.

    Raises
    ------
    SettingError
        If 'auto' is given beside names.
    CutError
        If there is nothing to choose from.
    """
    names = list(dict.fromkeys(layers))
    if names == [AUTO]:
        return [cut.name for cut in choose_cuts(cuts)]
    if AUTO in names:
        raise SettingError("layer 'auto' chooses alone: name layers, or leave the choice to it")
    return names


def _choose(stage: list[Cut]) -> tuple[Cut, str]:
    joins = [cut for cut in stage if cut.joins]
    signed = [cut for cut in stage if cut.op_type not in ACTIVATIONS]
    candidates = joins or signed or stage
    kind = "block output" if joins else "tensor before an activation" if signed else "tensor"
    read = [cut for cut in candidates if cut.skipped_by is None] or candidates
    passed_over = f", but for {candidates[-1].name!r}, whose reader steps over cells" * (read[-1] != candidates[-1])
    rows, cols = read[-1].grid
    return read[-1], f"the last {kind} of the {rows} x {cols} stage{passed_over}"

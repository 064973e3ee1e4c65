"""The location test of the zoo: evidence for the class that one textured patch speaks for lies where the patch is.

A picture of even grey has one patch of coloured noise, off the centre in such a way that no mirroring, turn or swap
of rows and columns brings it near itself. Plain ONNX Runtime says which class the patch raises most over the bare
grey. The map of that class, less its map for the bare grey (where the padded edge differs from the mean and so has
evidence of its own), is held against the pixels of the model's input that the patch changed. The same again with rows
and columns swapped. What is asked of a map is the same for all models:

* share over chance: what lies within a cell (of the coarsest cut) of the patch has at least half as much again of the
  absolute evidence as its area has of the picture: cells in no order have about as much;
* nearest: the centre of what stands out of the map is nearer to the patch than to any of its seven images under the
  turns and mirrorings of the square.

One wrong cut hides behind the others: no cut's own map may be all zero, and what the patch changes in its cells must
not lie rather at an image of the patch than at the patch. No more is asked of a single cut, and not of its evidence:
deep in a network of random weights that mixes all places, that is everywhere.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_evidence import DeployedModel, Explainer
from onnx_evidence.cuts.graph import Cut
from onnx_evidence.evidence.rng import generator, natural_noise

Array = npt.NDArray[Any]

# The patch's middle (rows, columns) and side, as shares of the picture: its eight images are at least a quarter of the
# side apart, and it is whole where preprocessing crops.
_PLACE = (0.2, 0.62)
_SIDE = 0.19
_GREY = 128
# Standard deviation of the noise, in grey levels.
_CONTRAST = 70.0
# A patch that raises no class by so many bits is no evidence to place.
_FEWEST_BITS = 0.01
# Share of the evidence within the neighbourhood, over its share of the area: less is no better than anywhere.
LIFT = 1.5
# The same at an image of the patch, from which on a cut's evidence is said to be there.
_THERE = 2.0


class Place(NamedTuple):
    """Where a map puts the evidence of the patch.

    Attributes
    ----------
    share : float
        Of the absolute evidence, within the neighbourhood of the patch.
    chance : float
        Share of the picture's area that the neighbourhood has.
    elsewhere : float
        Share of the absolute evidence within the neighbourhood of the patch's images under turns and mirrorings, the
        largest of the seven.
    distance : float
        From the centre of the evidence to the patch's, as a share of the picture's side.
    other : float
        The same to the nearest of the patch's images.
    """

    share: float
    chance: float
    elsewhere: float
    distance: float
    other: float


def patch_pictures(size: tuple[int, int], *, swapped: bool = False, seed: int = 0) -> tuple[Array, Array]:
    """A picture of grey with the patch, and without it.

    Parameters
    ----------
    size : (int, int)
        Rows and columns.
    swapped : bool
        The patch's row and column exchanged, as shares of the sides.
    seed : int
        Of the noise.

    Returns
    -------
    (ndarray of uint8, ndarray of uint8), shape (rows, columns, 3)
    """
    place = _PLACE[::-1] if swapped else _PLACE
    sides = [max(2, round(_SIDE * side)) for side in size]
    starts = [round(middle * side - patch / 2) for middle, side, patch in zip(place, size, sides, strict=True)]
    noise = natural_noise((3, sides[0], sides[1]), generator(seed)) * (_CONTRAST / 0.5)
    plain = np.full((*size, 3), _GREY, np.uint8)
    picture = plain.copy()
    rows, cols = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    picture[rows, cols] = np.clip(np.rint(_GREY + noise.transpose(1, 2, 0)), 0, 255)
    return picture, plain


def changed(one: Array, other: Array) -> Array:
    """Where two prepared pictures (channels, rows, columns) differ: the pixels (rows, columns) of the patch."""
    mask: Array = (one != other).any(axis=0)
    return mask


def log_odds(given: Array, kind: str, *, independent: bool) -> Array:
    """Log-odds in bits of all classes, from what a file gives.

    Parameters
    ----------
    given : ndarray of float64, shape (N, K)
        The file's output; one column for a binary output.
    kind : str
        'logits', 'probabilities' or 'log-probabilities'.
    independent : bool
        Whether each label holds or not by itself.

    Returns
    -------
    ndarray of float64, shape (N, K), or (N, 2) for one column
    """
    if kind == "probabilities":
        log_p = np.log(np.maximum(given, 1e-300))
        odds = log_p - np.log(np.maximum(1 - given, 1e-17))
    elif independent or given.shape[1] == 1:
        odds = given
    else:
        log_p = given - given.max(axis=1, keepdims=True)
        log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        odds = log_p - np.log(np.maximum(-np.expm1(log_p), 1e-300))
    odds = odds / np.log(2)
    return np.concatenate([-odds, odds], axis=1) if given.shape[1] == 1 else odds


def judge_place(values: Array, mask: Array, grid: Sequence[int]) -> Place:
    """Where the absolute evidence of a map lies, beside where the patch is.

    Parameters
    ----------
    values : ndarray of float32, shape (rows, columns)
        Evidence.
    mask : ndarray of bool, shape (rows, columns)
        Where the patch is.
    grid : (int, int)
        Rows and columns of the coarsest cut: one cell around the patch belongs to its neighbourhood.

    Returns
    -------
    Place
    """
    amount = np.abs(values.astype(np.float64))
    amount /= max(amount.sum(), 1e-300)
    found = np.argwhere(mask)
    size = np.array(mask.shape)
    low, high = found.min(axis=0) / size, (found.max(axis=0) + 1) / size
    reach = (high - low) / 2 + 1 / np.array(grid)
    boxes = [_box(middle, reach, size, turned=number >= 4) for number, middle in enumerate(_images((low + high) / 2))]
    shares = [float(amount[box].sum()) for box in boxes]
    distances = [float(np.hypot(*(_centre(amount) / size - image))) for image in _images((low + high) / 2)]
    chance = amount[boxes[0]].size / amount.size
    return Place(shares[0], chance, max(shares[1:]), distances[0], min(distances[1:]))


def _box(middle: Array, reach: Array, size: Array, *, turned: bool) -> tuple[slice, slice]:
    """The pixels within ``reach`` of ``middle``, both shares of the sides; rows and columns exchanged where turned."""
    reach = reach[::-1] if turned else reach
    low = np.maximum(np.floor((middle - reach) * size), 0).astype(int)
    high = np.minimum(np.ceil((middle + reach) * size), size).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1])


def _centre(amount: Array) -> Array:
    """The centre, in pixels, of what exceeds the mean: evidence spread evenly would draw it to the middle."""
    standing = np.maximum(amount - amount.mean(), 0)
    total = max(standing.sum(), 1e-300)
    places = np.indices(standing.shape) + 0.5
    centre: Array = (places * standing).sum(axis=(1, 2)) / total
    return centre


def _images(place: Array) -> list[Array]:
    """A place (shares of the sides) under the eight turns and mirrorings of the square, itself first."""
    row, col = place
    both = [(row, col), (1 - row, col), (row, 1 - col), (1 - row, 1 - col)]
    return [np.array(each) for each in both + [(second, first) for first, second in both]]


def locate(explainer: Explainer, run: Callable[[Array], Array], kind: str) -> list[dict[str, Any]]:
    """The test for one model, with two patches.

    Parameters
    ----------
    explainer : Explainer
        Of this model.
    run : callable
        The file's own output (N, K) for prepared pictures (N, channels, rows, columns).
    kind : str
        The package's word for what the output holds.

    Returns
    -------
    list of dict
        As `locate_one` makes it.
    """
    return [locate_one(explainer, run, kind, swapped=swapped) for swapped in (False, True)]


def patched_inputs(deployed: DeployedModel, *, swapped: bool) -> Array:
    """The pictures of `patch_pictures` as the model takes them: (2, channels, rows, columns)."""
    pictures = patch_pictures(deployed.model.input_shape[1:], swapped=swapped)
    return np.stack([deployed.prepare(each)[1] for each in pictures])


def locate_one(explainer: Explainer, run: Callable[[Array], Array], kind: str, *, swapped: bool) -> dict[str, Any]:
    """The test with one patch.

    Parameters
    ----------
    explainer, run, kind
        As for `locate`.
    swapped : bool
        As for `patch_pictures`.

    Returns
    -------
    dict
        ``bits`` (by which the patch raises the class) and, where it raises one at all, ``map`` and ``cuts``: `Place` as
        a dict of the whole map, and of what the patch changes in the cells of every cut, None where its map is all
        zero; ``own``: `own_bits` of every cut.
    """
    deployed = explainer.deployed
    picture, plain = patch_pictures(deployed.model.input_shape[1:], swapped=swapped)
    inputs = patched_inputs(deployed, swapped=swapped)
    with_patch, without = log_odds(run(inputs), kind, independent=deployed.class_kind.name == "independent")
    target = int((with_patch - without).argmax())
    found: dict[str, Any] = {"bits": float(with_patch[target] - without[target])}
    if not found["bits"] >= _FEWEST_BITS:
        return found
    explanation, bare = (explainer.explain(each, target=target) for each in (picture, plain))
    mask = changed(*inputs)
    grids = [grid.astype(np.float64) - less for grid, less in zip(explanation.grids, bare.grids, strict=True)]
    alone = [
        judge_place(engine.field.spread(_stirred(explainer, engine.cut, inputs)), mask, grid.shape)._asdict()
        if grid.any()
        else None
        for engine, grid in zip(explainer.engines, grids, strict=True)
    ]
    coarsest = np.min([grid.shape for grid in grids], axis=0)
    whole = judge_place(explanation.values - bare.values, mask, coarsest)
    own = [own_bits(deployed, engine.cut, inputs, target) for engine in explainer.engines]
    return found | {"map": whole._asdict(), "cuts": alone, "own": own}


def own_bits(deployed: DeployedModel, cut: Cut, inputs: Array, target: int) -> dict[str, float]:
    """Where the model itself has the bits, without any map: by exchanging cells of a cut between the two pictures.

    Parameters
    ----------
    deployed : DeployedModel
        The model.
    cut : Cut
        Whose cells are exchanged.
    inputs : ndarray of float32, shape (2, channels, rows, columns)
        The picture with the patch, and the bare one.
    target : int
        The class.

    Returns
    -------
    dict of str to float
        Bits of the picture with the patch that go when it has the bare one's cells ``at`` the patch or within a cell of
        it, ``elsewhere``, or what is no cell (``beside``: class tokens).
    """
    with_patch, without = deployed.head(cut)(inputs)
    where = np.zeros((3, *with_patch.shape), bool)
    where[0, : cut.cell_shape[0]] = _near(changed(*inputs), with_patch.shape[1:])
    where[2, cut.cell_shape[0] :] = True
    where[1] = ~(where[0] | where[2])
    tail = deployed.tail(cut)
    logits = np.concatenate([tail(np.where(each, without, with_patch)[None]) for each in (False, *where)])
    odds = log_odds(logits, "logits", independent=deployed.class_kind.name == "independent")[:, target]
    return dict(zip(("at", "elsewhere", "beside"), (odds[0] - odds[1:]).tolist(), strict=True))


def _near(mask: Array, grid: tuple[int, ...]) -> Array:
    """Cells of a grid whose middle is within a cell of the patch."""
    near = []
    for axis, cells in enumerate(grid):
        hit = np.flatnonzero(mask.any(axis=1 - axis)) / mask.shape[axis] * cells
        middles = np.arange(cells) + 0.5
        near.append((middles > hit.min() - 1) & (middles < hit.max() + 1 + cells / mask.shape[axis]))
    both: Array = near[0][:, None] & near[1]
    return both


def _stirred(explainer: Explainer, cut: Cut, inputs: Array) -> Array:
    """How much the patch changes each cell of a cut: the sum of squares over its channels."""
    with_patch, without = explainer.deployed.head(cut)(inputs)[:, : cut.cell_shape[0]].astype(np.float64)
    stirred: Array = ((with_patch - without) ** 2).sum(axis=0)
    return stirred


def lift(place: dict[str, float] | None) -> float:
    """The share of the evidence at the patch over the share of the area that this is; 0 where all is zero."""
    return place["share"] / place["chance"] if place else 0.0


def misplaced(place: dict[str, float]) -> bool:
    """Whether a map's evidence is hardly more at the patch than elsewhere, or nearer to an image of it; NaN is."""
    return not (lift(place) >= LIFT and place["distance"] < place["other"])


def moved(place: dict[str, float] | None) -> bool:
    """Whether a cut's map is all zero, or its cells change rather at an image of the patch than at the patch; NaN is.

    Neighbourhoods overlap where cells are large, so its centre must be nearer to the image too.
    """
    if place is None:
        return True
    at_the_patch = place["elsewhere"] <= place["share"] or place["distance"] <= place["other"]
    return not (at_the_patch or place["elsewhere"] < _THERE * place["chance"])

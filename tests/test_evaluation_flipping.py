"""Pixel flipping against a slow twin that removes block by block, and on models whose answer is known."""

import cv2
import numpy as np
import pytest

from onnx_evidence.errors import SettingError
from onnx_evidence.evaluation.case import Case
from onnx_evidence.evaluation.flipping import Flips, flip, rank_blocks
from onnx_evidence.evaluation.seen import grey_levels
from onnx_evidence.evaluation.substrates import SUBSTRATES, Scene, flip_map
from onnx_evidence.pictures.photograph import as_photograph
from onnx_evidence.preprocessing.apply import to_input
from onnx_evidence.preprocessing.contract import Preprocess

PREPROCESS = Preprocess(size=(224, 224), resize_to=256, scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


def picture(rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)
    return to_input(as_photograph(cv2.resize(coarse, (330, 270), interpolation=cv2.INTER_CUBIC)), PREPROCESS)[0]


def linear(rng: np.random.Generator, shape: tuple[int, ...], size: float = 8.0):
    """A model whose three logits are linear in the pixels."""
    weights = rng.normal(size=(int(np.prod(shape)), 3)) * size / np.sqrt(np.prod(shape))
    return lambda batch: batch.reshape(len(batch), -1).astype(np.float64) @ weights


def planted(batch: np.ndarray) -> np.ndarray:
    """Log-odds of class 1: the mean of a patch of four by four pixels, less 0.5, times 16."""
    return np.stack([np.zeros(len(batch)), 16 * (batch[:, :, 8:12, 4:8].mean(axis=(1, 2, 3)) - 0.5)], axis=1)


def patch_map() -> np.ndarray:
    values = np.random.default_rng(0).random((32, 32)) * 1e-3  # no ties
    values[8:12, 4:8] += 1
    return values


def zeros(x: np.ndarray):
    return lambda removed: np.where(removed, np.float32(0), x)[None]


def slow_gain(predict, x: np.ndarray, removed: np.ndarray, values: np.ndarray, target: int) -> float:
    """Mean probability while blocks are restored, less that while they are removed: 32 x 32 blocks, one at a time."""
    height, width = values.shape
    total = {}
    for row in range(height):
        for col in range(width):
            block = (row * 32 // height, col * 32 // width)
            total[block] = total.get(block, 0.0) + values[row, col]
    order = sorted(total, key=total.get, reverse=True)
    deleted, inserted = x.copy(), removed.copy()
    answers = {"deleted": [], "inserted": []}
    for done in range(1025):
        if done % 32 == 0:
            for name, each in (("deleted", deleted), ("inserted", inserted)):
                z = predict(each[None])[0]
                answers[name].append(np.exp(z[target] - z.max()) / np.exp(z - z.max()).sum())
        if done < 1024:
            row, col = order[done]
            place = np.s_[
                :,
                -(-row * height // 32) : -(-(row + 1) * height // 32),
                -(-col * width // 32) : -(-(col + 1) * width // 32),
            ]
            deleted[place], inserted[place] = removed[place], x[place]
    return float(np.mean(answers["inserted"]) - np.mean(answers["deleted"]))


def softened(x: np.ndarray) -> np.ndarray:
    """Blurred in float64, and rounded once."""
    return np.stack([cv2.GaussianBlur(channel.astype(np.float64), (0, 0), 11.0) for channel in x]).astype(np.float32)


@pytest.mark.parametrize("substrate", ["blur", "mean"])
def test_the_gain_is_insertion_minus_deletion_of_a_slow_twin(substrate, rng):
    x = picture(rng)
    predict, values = linear(rng, x.shape), cv2.GaussianBlur(rng.normal(size=x.shape[1:]), (0, 0), 5)
    if substrate == "blur":
        removed = softened(x)
    else:
        removed = np.empty_like(x)
        removed[:] = x.mean(axis=(1, 2), keepdims=True)
    case = Case(None, None, x, 2)
    fill = SUBSTRATES[substrate].fill(Scene(x, PREPROCESS))
    areas = flip_map(predict, fill, case, values, substrate, batch_size=7).areas()
    expected = slow_gain(predict, x, removed, values, 2)
    assert areas["srg.probability"] == pytest.approx(expected, abs=1e-9)
    assert areas["insertion.probability"] - areas["deletion.probability"] == pytest.approx(expected, abs=1e-9)
    # Control: the other class, and the other substrate, give other numbers.
    assert abs(slow_gain(predict, x, removed, values, 1) - expected) > 1e-3
    other = SUBSTRATES["mean" if substrate == "blur" else "blur"].fill(Scene(x, PREPROCESS))
    assert abs(flip_map(predict, other, case, values, substrate).areas()["srg.probability"] - expected) > 1e-4


def flipped(values: np.ndarray, rng: np.random.Generator, steps: int = 16) -> Flips:
    x = np.ones((3, 32, 32), np.float32)
    return flip(planted, zeros(x), rank_blocks(values, 8, rng), 1, steps=steps)


def test_a_perfect_map_of_a_planted_patch_has_the_curves_that_arithmetic_gives(rng):
    found = flipped(patch_map(), rng, steps=64)
    # 64 blocks of 4 x 4: the first one removed is the patch, the last one removed is, too. +8 bits of nats, then -8.
    nats = 8 / np.log(2)
    assert found.removed == pytest.approx(np.arange(65) / 64)
    assert found.most.bits == pytest.approx([nats, *[-nats] * 64])
    assert found.least.bits == pytest.approx([*[nats] * 64, -nats])
    assert found.most.probability == pytest.approx(1 / (1 + np.exp(-np.array([8, *[-8] * 64]))))
    assert found.areas()["srg.bits"] == pytest.approx(2 * nats * 63 / 65)
    assert found.areas()["deletion.bits"] == pytest.approx(-nats * 63 / 65)
    assert found.areas()["insertion.bits"] == pytest.approx(nats * 63 / 65)


def test_a_reversed_map_gives_the_reverse(rng):
    first, second = flipped(patch_map(), rng), flipped(-patch_map(), rng)
    for scale in ("probability", "bits"):
        assert getattr(first.most, scale) == pytest.approx(getattr(second.least, scale))
        assert first.areas()[f"srg.{scale}"] == pytest.approx(-second.areas()[f"srg.{scale}"])
        assert first.areas()[f"srg.{scale}"] > 0.5


def test_random_maps_are_at_chance_and_a_perfect_one_is_not(rng):
    gains = np.array([flipped(rng.normal(size=(32, 32)), rng).areas()["srg.probability"] for _ in range(300)])
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    assert abs(gains.mean()) < 4 * error
    assert flipped(patch_map(), rng).areas()["srg.probability"] > 20 * error
    assert flipped(patch_map(), rng).areas()["srg.probability"] >= gains.max()


def test_ties_are_broken_by_chance_and_not_by_the_order_of_rows(rng):
    flat = np.zeros((32, 32))
    gains = np.array([flipped(flat, rng).areas()["srg.probability"] for _ in range(300)])
    assert abs(gains.mean()) < 4 * gains.std(ddof=1) / np.sqrt(len(gains))
    # Control: by rows, the planted patch would always be removed early.
    by_rows = -np.arange(32 * 32.0).reshape(32, 32)
    assert abs(flipped(by_rows, rng).areas()["srg.probability"]) > 10 * gains.std(ddof=1) / np.sqrt(len(gains))
    # What is not tied keeps its order; the same key breaks ties alike.
    first, second = (rank_blocks(flat, 8, np.random.default_rng(5)).ranks for _ in range(2))
    assert (first == second).all()
    assert (rank_blocks(flat, 8, np.random.default_rng(6)).ranks != first).any()
    flat[20, 20] = 1
    assert (rank_blocks(flat, 8, rng).ranks[20:24, 20:24] == 0).all()


def test_blocks_are_a_regular_grid_and_no_smaller_than_pixels(rng):
    ranks, blocks = rank_blocks(-np.arange(35.0).reshape(5, 7), 32, rng)
    assert blocks == 35
    assert (ranks == np.arange(35).reshape(5, 7)).all()
    # 10 pixels on 4 blocks: 0 0 0 1 1 2 2 2 3 3, as in r * 4 // 10.
    ranks, blocks = rank_blocks(-np.arange(10.0)[:, None] * np.ones((10, 1)), 4, rng)
    sums = {0: 0 + 1 + 2, 1: 3 + 4, 2: 5 + 6 + 7, 3: 8 + 9}
    assert blocks == 4
    assert list(ranks[:, 0]) == [sorted(sums, key=sums.get).index(block) for block in (0, 0, 0, 1, 1, 2, 2, 2, 3, 3)]


def test_every_picture_is_run_once_whatever_the_batch(rng):
    x = rng.random((3, 32, 32)).astype(np.float32)
    ranking = rank_blocks(patch_map(), 32, rng)
    runs = []

    def counting(batch):
        runs.append(len(batch))
        return planted(batch)

    one = flip(counting, zeros(x), ranking, 1, batch_size=5)
    assert sum(runs) == 64
    assert set(runs[:-1]) == {5}
    two = flip(counting, zeros(x), ranking, 1, batch_size=64)
    assert two.most.bits == pytest.approx(one.most.bits, abs=1e-12)


def test_several_draws_are_averaged(rng):
    x, *others = (rng.random((3, 32, 32)).astype(np.float32) for _ in range(3))
    ranking = rank_blocks(rng.normal(size=(32, 32)), 8, rng)
    fills = [lambda removed, other=other: np.where(removed, other, x)[None] for other in others]
    both = flip(planted, SUBSTRATES["pictures"].fill(Scene(x, PREPROCESS, others)), ranking, 1, batch_size=3)
    single = [flip(planted, fill, ranking, 1) for fill in fills]
    for scale in ("probability", "bits"):
        mean = np.mean([getattr(each.most, scale) for each in single], axis=0)
        assert getattr(both.most, scale) == pytest.approx(mean)
    assert np.abs(single[0].most.bits - single[1].most.bits).max() > 0.1


@pytest.mark.parametrize("name", SUBSTRATES)
def test_what_is_kept_stays_and_what_is_removed_is_gone(name, rng):
    x, *others = (picture(rng) for _ in range(3))
    removed = rng.random((14, 14)).repeat(16, 0).repeat(16, 1) < 0.4
    filled = SUBSTRATES[name].fill(Scene(x, PREPROCESS, others))(removed)
    assert filled.dtype == np.float32
    assert filled.shape == (2 if name == "pictures" else 1, 3, 224, 224)
    assert all((each[:, ~removed] == x[:, ~removed]).all() for each in filled)
    assert np.mean(filled[:, :, removed] != x[:, removed]) > 0.9
    whole = SUBSTRATES[name].fill(Scene(x, PREPROCESS, others))(np.ones((224, 224), bool))
    expected = {
        "blur": lambda: softened(x)[None],
        "mean": lambda: np.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)[None],
        "inpaint": lambda: np.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)[None],
        "pictures": lambda: np.stack(others),
    }[name]()
    assert (whole == expected).all()


def test_inpainting_is_blind_to_what_it_replaces(rng):
    x, other = picture(rng), picture(rng)
    removed = np.zeros((224, 224), bool)
    removed[32:80, 64:128] = True
    swapped = np.where(removed, other, x)
    first, second = (SUBSTRATES["inpaint"].fill(Scene(each, PREPROCESS))(removed) for each in (x, swapped))
    assert (first == second).all()
    # Control: the blur is not.
    first, second = (SUBSTRATES["blur"].fill(Scene(each, PREPROCESS))(removed) for each in (x, swapped))
    assert (first != second).any()
    # One colour around is that colour inside, but for some grey levels that OpenCV's rounding adds up to.
    flat = np.full((300, 260, 3), (200, 30, 90), np.uint8)
    plain = to_input(as_photograph(flat), PREPROCESS)[0]
    holed = np.where(removed, other, plain)
    painted = SUBSTRATES["inpaint"].fill(Scene(holed, PREPROCESS))(removed)[0]
    levels = [grey_levels(each, PREPROCESS).astype(int) for each in (painted, holed, plain)]
    assert np.abs(levels[0] - levels[2]).max() <= 8
    assert np.abs(levels[1] - levels[2]).max() > 50


def test_pictures_that_are_not_given_are_asked_for(rng):
    with pytest.raises(SettingError, match="1 other pictures given where 2 are drawn"):
        SUBSTRATES["pictures"].fill(Scene(picture(rng), PREPROCESS, [picture(rng)]))

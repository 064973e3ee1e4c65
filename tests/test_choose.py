"""Which cuts ``auto`` takes, on lists written by hand.

``chosen`` is the choice for the removal of windows, ``integrated`` the one for integration.
"""

from dataclasses import replace

import pytest

from onnx_evidence.cuts.cells import Inside
from onnx_evidence.cuts.choose import choose_cuts, judge_cuts, last_cut, resolve_layers, why_shallow
from onnx_evidence.cuts.graph import Cut
from onnx_evidence.errors import CutError, SettingError
from onnx_evidence.graphs.reach import Axis, Field


def cut(name: str, op_type: str, side: int | tuple[int, int], tail_share: float, skipped_by: str | None = None) -> Cut:
    grid = (side, side) if isinstance(side, int) else side
    joins = op_type in ("Add", "Sum", "Concat", "Mul")
    return Cut(name, op_type, (8, *grid), tail_share, field=None, joins=joins, skipped_by=skipped_by)


INPUT = cut("input", "Input", 224, 1.0)


def chosen(*cuts: Cut) -> list[str]:
    return [found.name for found in choose_cuts(cuts, integrate=False)]


def integrated(*cuts: Cut) -> list[str]:
    return [found.name for found in choose_cuts(cuts, integrate=True)]


def test_one_cut_in_each_of_the_two_deepest_stages_is_taken_in_graph_order():
    cuts = [
        INPUT,
        cut("a", "Add", 56, 0.9),
        cut("b", "Add", 28, 0.7),
        cut("c", "Add", 14, 0.5),
        cut("d", "Add", 7, 0.2),
    ]
    assert chosen(*cuts) == ["c", "d"]


def test_grids_of_fewer_than_five_cells_along_a_side_are_passed_over():
    cuts = [INPUT, cut("a", "Add", 16, 0.8), cut("b", "Add", 8, 0.5), cut("c", "Add", 4, 0.1)]
    assert chosen(*cuts) == ["a", "b"]
    assert chosen(INPUT, cut("five", "Add", 5, 0.5), cut("four", "Add", 4, 0.4)) == ["five"]


@pytest.mark.parametrize("grid", [(4, 9), (9, 4)])
def test_the_shorter_side_of_a_grid_counts(grid: tuple[int, int]):
    assert chosen(INPUT, cut("a", "Add", (9, 9), 0.5), cut("b", "Add", grid, 0.1)) == ["a"]


def test_grids_of_other_proportions_are_stages_of_their_own():
    assert chosen(INPUT, cut("a", "Add", (9, 6), 0.5), cut("b", "Add", (6, 9), 0.1)) == ["a", "b"]


def test_a_model_of_one_stage_gets_one_cut():
    assert chosen(INPUT, cut("a", "Conv", 7, 0.4)) == ["a"]


def test_the_input_is_never_taken():
    same_size = [INPUT, cut("a", "Conv", 224, 0.5)]
    assert chosen(*same_size) == ["a"]


@pytest.mark.parametrize(
    "cuts", [(), (INPUT,), (INPUT, cut("a", "Add", 4, 0.5)), (INPUT, cut("a", "Add", (4, 40), 0.5))]
)
@pytest.mark.parametrize("integrate", [True, False])
def test_a_model_without_a_grid_inside_is_refused_with_remedies(cuts: tuple[Cut, ...], integrate: bool):
    message = r"no cut inside the model has a grid of 5 x 5 cells or more: name one with --layer, or .*occlusion"
    with pytest.raises(CutError, match=message):
        choose_cuts(cuts, integrate=integrate)


@pytest.mark.parametrize("join", ["Add", "Sum", "Concat", "Mul"])
def test_the_last_block_output_comes_before_later_tensors_of_other_kinds(join: str):
    cuts = [
        INPUT,
        cut("first", "Conv", 7, 0.6),
        cut("join0", join, 7, 0.5),
        cut("join1", join, 7, 0.3),
        cut("conv", "Conv", 7, 0.2),
        cut("relu", "Relu", 7, 0.2),
    ]
    assert chosen(*cuts) == ["join1"]


@pytest.mark.parametrize("activation", ["Relu", "Clip", "LeakyRelu", "HardSwish", "Sigmoid"])
def test_without_block_outputs_the_last_tensor_before_an_activation_is_taken(activation: str):
    cuts = [
        INPUT,
        cut("conv0", "Conv", 7, 0.6),
        cut("act0", activation, 7, 0.6),
        cut("norm1", "BatchNormalization", 7, 0.3),
        cut("act1", activation, 7, 0.3),
    ]
    assert chosen(*cuts) == ["norm1"]


def test_where_only_activations_are_cuts_the_last_one_is_taken():
    cuts = [INPUT, cut("a", "Relu", 7, 0.9), cut("b", "Clip", 7, 0.52), cut("c", "Relu", 7, 0.1)]
    assert chosen(*cuts) == ["c"]


def test_a_tensor_whose_cells_are_stepped_over_is_passed_over():
    cuts = [INPUT, cut("a", "Add", 7, 0.5), cut("b", "Add", 7, 0.4), cut("c", "Add", 7, 0.3, skipped_by="shortcut")]
    assert chosen(*cuts) == ["b"]


def test_being_read_in_full_matters_less_than_being_a_block_output():
    cuts = [INPUT, cut("a", "Conv", 7, 0.5), cut("b", "Add", 7, 0.3, skipped_by="shortcut")]
    assert chosen(*cuts) == ["b"]


def test_where_every_block_output_is_stepped_over_the_last_is_taken():
    cuts = [INPUT, cut("a", "Add", 7, 0.5, skipped_by="x"), cut("b", "Add", 7, 0.3, skipped_by="y")]
    assert chosen(*cuts) == ["b"]


def test_the_reason_says_what_was_taken_of_which_stage():
    cuts = (
        INPUT,
        cut("stepped", "Add", (20, 30), 0.95, skipped_by="shortcut"),
        cut("conv", "Conv", (9, 14), 0.8),
        cut("act", "Relu", (9, 14), 0.8),
        cut("join", "Add", (7, 5), 0.2),
    )
    reasons = {found.name: reason for found, reason in choose_cuts(cuts, integrate=False).items()}
    assert reasons == {
        "conv": "the last tensor before an activation of the 9 x 14 stage",
        "join": "the last block output of the 7 x 5 stage",
    }
    for integrate in (True, False):
        reasons = choose_cuts((INPUT, cut("act", "Relu", 6, 0.5)), integrate=integrate)
        assert list(reasons.values()) == ["the last tensor of the 6 x 6 stage"]


def test_the_reason_names_what_was_passed_over():
    cuts = (INPUT, cut("a", "Add", 7, 0.5), cut("b", "Add", 7, 0.3, skipped_by="shortcut"))
    expected = "the last block output of the 7 x 7 stage, but for 'b', whose reader steps over cells"
    assert list(choose_cuts(cuts, integrate=False).values()) == [expected]
    assert list(choose_cuts(cuts, integrate=True).values()) == [expected]


# Integration: the last block output of every coarse stage


def adds(grid: int | tuple[int, int], *names: str) -> list[Cut]:
    return [cut(name, "Add", grid, 0.5) for name in names]


def test_integration_takes_the_last_of_every_stage_of_coarse_cells():
    cuts = [INPUT, *adds(56, "a", "b", "c"), *adds(28, "d", "e", "f"), *adds(14, "g", "h", "i"), *adds(7, "j", "k")]
    assert integrated(*cuts) == ["f", "i", "k"]
    assert chosen(*cuts) == ["i", "k"]


def test_many_cells_of_fewer_than_eight_pixels_carry_their_noise_and_are_passed_over():
    eight, seven, few = (cut("input", "Input", side, 1.0) for side in (8 * 29, 7 * 29, 2 * 28))
    both = [*adds(29, "fine"), *adds(15, "coarse")]
    assert integrated(eight, *both) == ["fine", "coarse"]
    assert integrated(seven, *both) == ["coarse"]
    assert chosen(seven, *both) == ["fine", "coarse"]
    assert integrated(few, *adds(28, "fine"), *adds(14, "coarse")) == ["fine", "coarse"]


@pytest.mark.parametrize("grid", [(29, 15), (15, 29)])
def test_the_side_of_the_smaller_and_more_cells_counts(grid: tuple[int, int]):
    small = cut("input", "Input", (7 * 29, 7 * 29), 1.0)
    assert integrated(small, *adds(grid, "fine"), *adds(5, "coarse")) == ["coarse"]


@pytest.mark.parametrize("side", [260, 300, 350, 380])
def test_cells_count_by_their_stride_where_the_end_of_a_grid_is_padded(side: int):
    """As many cells as strides begin: 260 / 33 is 7.88, and the stride is 8."""
    image = cut("input", "Input", side, 1.0)
    cells = -(-side // 8)
    both = [*adds(cells, "fine"), *adds(-(-side // 16), "coarse")]
    assert side % 8, "the control: a side that is no multiple"
    assert integrated(image, *both) == ["fine", "coarse"]
    known = [replace(each, field=Field(Axis(stride), Axis(stride))) for each, stride in zip(both, (8, 16), strict=True)]
    assert integrated(image, *known) == ["fine", "coarse"]
    seven = replace(both[0], field=Field(Axis(7), Axis(8)))
    assert integrated(image, seven, both[1]) == ["coarse"], "what is known goes before what is likely"
    nowhere = replace(both[0], field=Field(Axis(0), Axis(0)))
    assert integrated(image, nowhere, both[1]) == ["fine", "coarse"]


def test_where_all_cells_are_fine_the_deepest_stage_is_taken():
    small = cut("input", "Input", 160, 1.0)
    assert integrated(small, *adds(80, "a", "b"), *adds(40, "c", "d", "e")) == ["e"]


def test_integration_passes_over_grids_of_fewer_than_five_cells():
    assert integrated(INPUT, *adds(5, "five"), *adds(4, "four")) == ["five"]
    assert integrated(INPUT, *adds((9, 6), "a"), *adds((4, 9), "b")) == ["a"]


def test_integration_prefers_block_outputs_then_tensors_before_an_activation():
    tensors = [cut(name, "Conv", 14, 0.5) for name in ("p", "q", "r")]
    activations = [cut(name, "Relu", 14, 0.5) for name in ("s", "t", "u")]
    mixed = [each for pair in zip(tensors, activations, strict=True) for each in pair]
    assert integrated(INPUT, *adds(14, "join"), *mixed) == ["join"]
    assert integrated(INPUT, *mixed) == ["r"]
    assert integrated(INPUT, *activations) == ["u"]


def test_integration_passes_over_tensors_whose_cells_are_stepped_over():
    cuts = [
        INPUT,
        cut("a", "Add", 14, 0.5),
        cut("b", "Add", 14, 0.5, skipped_by="shortcut"),
        cut("c", "Add", 14, 0.5),
        cut("d", "Add", 14, 0.5, skipped_by="shortcut"),
    ]
    assert integrated(*cuts) == ["c"]
    only = [cut(name, "Add", 14, 0.5, skipped_by="shortcut") for name in ("a", "b", "c")]
    assert integrated(INPUT, *only) == ["c"]


# Why, for every cut


JUDGED = (
    INPUT,
    cut("fine", "Add", 56, 0.9),
    cut("early", "Add", 14, 0.8),
    cut("conv", "Conv", 14, 0.7),
    cut("late", "Add", 14, 0.6),
    cut("stepped", "Add", 14, 0.5, skipped_by="shortcut"),
    cut("act", "Relu", (9, 7), 0.3),
    cut("raw", "Conv", (9, 7), 0.2),
    cut("few", "Add", 4, 0.1),
)


def test_every_cut_is_judged_in_graph_order_and_what_is_taken_is_what_is_chosen():
    for integrate in (True, False):
        verdicts = judge_cuts(JUDGED, integrate=integrate)
        assert tuple(verdicts) == JUDGED
        assert choose_cuts(JUDGED, integrate=integrate) == {
            found: verdict.reason for found, verdict in verdicts.items() if verdict.taken
        }
        assert [found.name for found, verdict in verdicts.items() if verdict.taken] == ["late", "raw"]


def test_the_reasons_of_integration_say_what_was_taken_and_what_was_left():
    assert {found.name: verdict.reason for found, verdict in judge_cuts(JUDGED).items()} == {
        "input": "the pixels themselves; methods like occlusion work there",
        "fine": "more than 28 cells along a side, of fewer than 8 pixels, carry the noise of pixels",
        "early": "'late' behind it is taken",
        "conv": "no block output",
        "late": "the last block output of the 14 x 14 stage, but for 'stepped', whose reader steps over cells",
        "stepped": "'shortcut' steps over its cells",
        "act": "no tensor before an activation",
        "raw": "the last tensor before an activation of the 9 x 7 stage",
        "few": "fewer than 5 cells along a side place nothing",
    }


def test_windows_are_removed_in_the_deepest_stages_alone_and_that_is_the_reason():
    reasons = {found.name: verdict.reason for found, verdict in judge_cuts(JUDGED, integrate=False).items()}
    assert reasons["fine"] == "windows are removed in the deepest stages alone"
    assert reasons["late"].startswith("the last block output of the 14 x 14 stage")


# What a user asks for


@pytest.mark.parametrize("integrate", [True, False])
def test_auto_stands_for_the_choice_and_names_for_themselves(integrate: bool):
    cuts = (INPUT, *adds(28, "z"), *adds(14, "a", "b"), *adds(7, "d"))
    expected = [found.name for found in choose_cuts(cuts, integrate=integrate)]
    found = resolve_layers(["auto"], cuts, integrate=integrate)
    assert found == expected == (["z", "b", "d"] if integrate else ["b", "d"])
    assert resolve_layers(["x", "b", "x"], cuts, integrate=integrate) == ["x", "b"]
    with pytest.raises(SettingError, match="chooses alone"):
        resolve_layers(["auto", "b"], cuts, integrate=integrate)


def test_class_activation_mapping_looks_at_the_last_grid_whatever_auto_takes():
    cuts = (
        INPUT,
        cut("add", "Add", 14, 0.5),
        cut("deep", "Add", 7, 0.2),
        cut("head", "Relu", 7, 0.1),
        cut("p", "Relu", 3, 0),
    )
    assert last_cut(cuts) == "head"
    assert integrated(*cuts) == ["add", "deep"]
    with pytest.raises(CutError, match="5 x 5"):
        last_cut((INPUT, cut("p", "Relu", 3, 0.1)))


# One grid: along the depth


def depth(*shares: float, kept: int = 0) -> list[Cut]:
    """Joins of one grid of 14 x 14; the channels ``kept`` of 8 hold tokens that are no cells."""
    inside = Inside((-1, 196, 8), (-1, 196, 8), (0, 2, 1), 8, (14, 14), kept // 8, 0, 1, "tokens")
    return [Cut(f"at {share:g}", "Add", inside.shape, share, None, joins=True, inside=inside) for share in shares]


SHARES = (0.97, 0.85, 0.7, 0.6, 0.45, 0.3, 0.2, 0.1)


def test_where_one_grid_has_many_joins_cuts_are_early():
    placed = replace(depth(1.0)[0], name="placed", joins=False)
    for choose in (integrated, chosen):
        assert choose(INPUT, placed, *depth(*SHARES)) == ["placed", "at 0.85"]
        # Where cells meet at once.
        assert choose(INPUT, *depth(*SHARES)) == ["at 0.97", "at 0.85"]
    assert choose_cuts((INPUT, placed, *depth(*SHARES))) == {
        placed: "the 14 x 14 cells before the first block: deeper cells hold what other cells saw",
        depth(0.85)[0]: "the block output nearest to 90% of the work left, of 8 of 14 x 14: deeper cells "
        "hold what other cells saw",
    }
    left = judge_cuts((INPUT, placed, *depth(*SHARES)))[depth(0.1)[0]]
    assert left == (False, "'at 0.85' is nearer to 90% of the work left")


def test_whoever_has_one_grid_leaves_most_of_the_work_on_purpose():
    early, late = depth(0.85), depth(*SHARES[2:])
    words = "85% of the work is behind 'at 0.85', the deepest cut taken"
    purpose = ", on purpose: deeper cells hold what other cells saw"
    assert why_shallow(early, (INPUT, *early, *late), None) == words + purpose
    # The controls: where nothing is behind it, or not enough to be a transformer.
    assert why_shallow(early, (INPUT, *depth(0.97, 0.96, 0.95, 0.94, 0.93), *early), None) == words
    assert why_shallow(early, (INPUT, *early, *late[:4]), None) == words


def test_behind_a_fine_stem_a_class_token_has_been_told_as_much():
    stem = [cut("stem", "Conv", 112, 0.97), cut("pool", "MaxPool", 56, 0.96)]
    assert integrated(INPUT, *stem, *depth(*SHARES, kept=8)) == ["at 0.97", "at 0.85"]
    # Controls: without the token, with fewer joins, or behind a grid that places something.
    assert integrated(INPUT, *stem, *depth(*SHARES)) == ["at 0.1"]
    assert integrated(INPUT, *stem, *depth(*SHARES[:5], kept=8)) == ["at 0.45"]
    assert integrated(INPUT, *stem, *adds(28, "fine"), *depth(*SHARES, kept=8)) == ["fine", "at 0.1"]


def test_control_five_joins_or_a_second_grid_are_a_pyramid():
    assert integrated(INPUT, *depth(*SHARES[:5])) == ["at 0.45"]
    assert integrated(INPUT, *depth(*SHARES), *adds(7, "deep")) == ["at 0.1", "deep"]


def test_cells_that_nothing_reads_are_never_taken_nor_are_they_the_last():
    unread = replace(cut("unread", "Add", 14, 0.01), unread_by="token")
    cuts = (INPUT, *depth(*SHARES[:5]), unread)
    assert integrated(*cuts) == ["at 0.45"]
    assert judge_cuts(cuts)[unread] == (False, "'token' reads none of its cells")
    assert last_cut(cuts) == "at 0.45"
    with pytest.raises(CutError, match="5 x 5"):
        choose_cuts((INPUT, unread))


def test_a_grid_that_comes_of_padding_alone_is_no_stage():
    padded = [cut("pad", "Pad", 17, 0.4), cut("turned", "Transpose", 17, 0.4)]
    cuts = (INPUT, *adds(14, "a"), *padded, *adds(7, "b"))
    assert integrated(*cuts) == ["a", "b"]
    assert judge_cuts(cuts)[padded[0]] == (False, "pads or reorders the values of another stage")
    assert integrated(INPUT, *padded) == ["turned"], "unless there is nothing else"
    assert integrated(INPUT, *adds(14, "a"), padded[0], cut("conv", "Conv", 17, 0.3)) == ["a", "conv"]

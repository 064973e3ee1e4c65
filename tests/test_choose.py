"""Which cuts ``auto`` takes, on lists written by hand."""

import pytest

from onnx_evidence.choose import choose_cuts
from onnx_evidence.errors import CutError
from onnx_evidence.graph import Cut


def cut(name: str, op_type: str, side: int | tuple[int, int], tail_share: float, skipped_by: str | None = None) -> Cut:
    grid = (side, side) if isinstance(side, int) else side
    joins = op_type in ("Add", "Sum", "Concat", "Mul")
    return Cut(name, op_type, (8, *grid), tail_share, field=None, joins=joins, skipped_by=skipped_by)


INPUT = cut("input", "Input", 224, 1.0)


def chosen(*cuts: Cut) -> list[str]:
    return [found.name for found in choose_cuts(cuts)]


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
def test_a_model_without_a_grid_inside_is_refused_with_remedies(cuts: tuple[Cut, ...]):
    message = r"no cut inside the model has a grid of 5 x 5 cells or more: name one with --layer, or .*occlusion"
    with pytest.raises(CutError, match=message):
        choose_cuts(cuts)


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
    reasons = {found.name: reason for found, reason in choose_cuts(cuts).items()}
    assert reasons == {
        "conv": "the last tensor before an activation of the 9 x 14 stage",
        "join": "the last block output of the 7 x 5 stage",
    }
    assert list(choose_cuts((INPUT, cut("act", "Relu", 6, 0.5))).values()) == ["the last tensor of the 6 x 6 stage"]


def test_the_reason_names_what_was_passed_over():
    cuts = (INPUT, cut("a", "Add", 7, 0.5), cut("b", "Add", 7, 0.3, skipped_by="shortcut"))
    expected = "the last block output of the 7 x 7 stage, but for 'b', whose reader steps over cells"
    assert list(choose_cuts(cuts).values()) == [expected]

"""Layouts against numpy: what reshapes and transposes do to numbered cells."""

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnx_evidence.axes import find_unread
from onnx_evidence.axes.reading import Reading
from onnx_evidence.axes.table import follow
from onnx_evidence.cuts.cells import cells_inside
from onnx_evidence.graphs.layout import Layout, Part, agreed, fits, image_layout, merged, regrouped
from onnx_evidence.graphs.reach import Axis, Field
from onnx_evidence.graphs.shapes import TensorInfo

node = helper.make_node
CHANNELS, ROWS, COLS = 4, 6, 10


def step(
    item: onnx.NodeProto, layout: Layout | None, shape: tuple, after: tuple, **values: np.ndarray
) -> Layout | None:
    """The layout of the output 'y' of one node that reads 'x' and constants."""
    layouts = {"x": layout}
    shapes = {"x": shape, "y": after, **{name: value.shape for name, value in values.items()}}
    return follow(Reading(item, layouts, shapes, values.get, item.output[0]))


def factorings(total: int, most: int) -> list[list[int]]:
    """Every way to write a number as a product of at most some factors, order counting."""
    if most == 1:
        return [[total]]
    found = [[total]]
    for first in range(2, total):
        if total % first == 0:
            found += [[first, *rest] for rest in factorings(total // first, most - 1)]
    return found


@st.composite
def walks(draw: st.DrawFn) -> list[tuple[str, tuple[int, ...]]]:
    """Reshapes into other groups of sides (the batch stays in front) and transposes behind the batch."""
    steps, sides = [], [CHANNELS, ROWS, COLS]
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(len(sides))))
            steps.append(("Transpose", tuple(order)))
            sides = [sides[each] for each in order]
        else:
            # Cut one side, or join two neighbours: what exporters do.
            place = draw(st.integers(0, len(sides) - 1))
            if draw(st.booleans()) and place + 1 < len(sides):
                sides = [*sides[:place], sides[place] * sides[place + 1], *sides[place + 2 :]]
            else:
                cut = draw(st.sampled_from(factorings(sides[place], 3)))
                sides = [*sides[:place], *cut, *sides[place + 1 :]]
            steps.append(("Reshape", tuple(sides)))
    return steps


@settings(max_examples=300, deadline=None)
@given(walks())
def test_followed_through_reshapes_and_transposes_every_cell_has_its_own_values(
    walk: list[tuple[str, tuple[int, ...]]],
):
    layout: Layout | None = image_layout((CHANNELS, ROWS, COLS))
    values = np.arange(2 * CHANNELS * ROWS * COLS).reshape(2, CHANNELS, ROWS, COLS)
    moved = values
    for kind, numbers in walk:
        before = (None, *moved.shape[1:])
        if kind == "Transpose":
            moved = moved.transpose(0, *(each + 1 for each in numbers))
            made = node("Transpose", ["x"], ["y"], perm=[0, *(each + 1 for each in numbers)])
        else:
            moved = moved.reshape(2, *numbers)
            made = node("Reshape", ["x", "s"], ["y"])
        layout = step(made, layout, before, (None, *moved.shape[1:]))
        assert layout is None or fits(layout, (None, *moved.shape[1:]))
    # Nothing was mixed, so no walk may lose what it began with unless a side was cut across two of them.
    inside = None if layout is None else cells_inside(layout, TensorInfo(TensorProto.FLOAT, (None, *moved.shape[1:])))
    assume(inside is not None)
    assert inside is not None
    parts = moved.reshape([2 if side == -1 else side for side in inside.parts])
    found = parts.transpose(inside.order).reshape(2, *inside.shape)
    assert inside.shape == (CHANNELS, ROWS, COLS)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(values, axis=1))


def test_walks_are_followed_nearly_always():
    """A control of the property above: what is never followed would hold it for nothing."""
    outcomes = []

    @settings(max_examples=200, deadline=None, database=None)
    @given(walks())
    def collect(walk):
        layout: Layout | None = image_layout((CHANNELS, ROWS, COLS))
        sides = [CHANNELS, ROWS, COLS]
        for kind, numbers in walk:
            before = (None, *sides)
            sides = [sides[each] for each in numbers] if kind == "Transpose" else list(numbers)
            order = [0, *(each + 1 for each in numbers)]
            made = (
                node("Transpose", ["x"], ["y"], perm=order)
                if kind == "Transpose"
                else node("Reshape", ["x", "s"], ["y"])
            )
            layout = step(made, layout, before, (None, *sides))
        outcomes.append(layout is not None and layout.grid is not None)

    collect()
    assert np.mean(outcomes) > 0.8


BATCH = Part("N", 1)
TOKENS = Layout(((BATCH,), (Part("R", 4), Part("L", 9)), (Part("C", 8),)), (4, 9), Field())
EXTRA = Layout(((BATCH,), (Part("E", 39, 1, 2, 1),), (Part("C", 8),)), (4, 9), Field())


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 39, (Part("E", 39, 1, 2, 1),)),
        (1, 39, (Part("E", 38, 1, 1, 1),)),
        (2, 38, (Part("R", 4), Part("L", 9))),
        (0, 38, (Part("E", 38, 1, 2, 0),)),
        (0, 1, ()),
        (0, 2, (Part("C", 2),)),
        (38, 39, ()),
        (0, 3, None),
        (3, 39, None),
        (2, 37, None),
    ],
)
def test_of_tokens_with_others_beside_them_cells_are_taken_whole_or_not_at_all(start: int, stop: int, expected):
    after = (None, stop - start, 8)
    numbers = {name: np.array([each]) for name, each in (("a", start), ("b", stop), ("c", 1))}
    sliced = step(node("Slice", ["x", "a", "b", "c"], ["y"]), EXTRA, (None, 39, 8), after, **numbers)
    indices = {"i": np.arange(start, stop)}
    gathered = step(node("Gather", ["x", "i"], ["y"], axis=1), EXTRA, (None, 39, 8), after, **indices)
    assert sliced == gathered
    assert (None if sliced is None else sliced.axes[1]) == expected


@pytest.mark.parametrize("sizes", [(2, 36, 1), (3, 36), (36, 1, 1)])
def test_concatenation_puts_tokens_before_and_behind(sizes: tuple[int, ...]):
    place = sizes.index(36)
    names = ["x" if number == place else f"t{number}" for number in range(len(sizes))]
    extra = {name: np.zeros((1, size, 8)) for name, size in zip(names, sizes, strict=True) if name != "x"}
    found = step(node("Concat", names, ["y"], axis=1), TOKENS, (None, 36, 8), (None, sum(sizes), 8), **extra)
    assert found is not None
    before, behind = sum(sizes[:place]), sum(sizes[place + 1 :])
    assert found.axes[1] == (Part("E", sum(sizes), 1, before, behind),)


def test_a_convolution_that_looks_where_it_is_told_has_rows_and_columns():
    made = node("DeformConv", ["x", "w", "o"], ["y"])
    shape, after = (None, CHANNELS, ROWS, COLS), (None, 8, 3, 5)
    layout = step(made, image_layout((CHANNELS, ROWS, COLS)), shape, after, w=np.ones((8, 4, 3, 3)))
    assert layout is not None
    assert (layout.extent, layout.field) == ((3, 5), None)
    sampled = node("GridSample", ["x", "g"], ["y"])
    assert step(sampled, image_layout((CHANNELS, ROWS, COLS)), shape, shape, g=np.ones((1, ROWS, COLS, 2))) is None


def test_two_grids_beside_each_other_are_none():
    layouts = {"x": TOKENS, "z": TOKENS}
    shapes = {"x": (None, 36, 8), "z": (None, 36, 8), "y": (None, 72, 8)}
    assert follow(Reading(node("Concat", ["x", "z"], ["y"], axis=1), layouts, shapes, {}.get, "y")) is None


def test_a_split_of_tokens_gives_those_that_are_none_and_the_grid():
    item = node("Split", ["x", "n"], ["p", "q", "r"], axis=1)
    shapes = {"x": (None, 39, 8), "p": (None, 2, 8), "q": (None, 36, 8), "r": (None, 1, 8)}
    parts = [follow(Reading(item, {"x": EXTRA}, shapes, {}.get, name)) for name in "pqr"]
    assert [None if part is None else part.axes[1] for part in parts] == [(Part("C", 2),), TOKENS.axes[1], ()]


def test_parts_are_joined_only_where_they_are_neighbours_in_memory():
    assert merged([Part("R", 8, 7), Part("R", 7)]) == (Part("R", 56),)
    assert merged([Part("R", 7), Part("R", 8, 7)]) == (Part("R", 7), Part("R", 8, 7))
    assert merged([Part("C", 2), Part("C", 1), Part("C", 3)]) == (Part("C", 6),)
    assert merged([Part("R", 6), Part("L", 6)]) == (Part("R", 6), Part("L", 6))


def test_axes_agree_where_they_mean_the_same_or_one_has_a_single_value():
    rows, cols = (Part("R", 6),), (Part("L", 6),)
    assert agreed(rows, rows) == rows == agreed(rows, ()) == agreed((), rows)
    assert agreed(rows, (Part("S", 6),)) == rows
    assert agreed(rows, cols) is None
    assert agreed(rows, (Part("C", 6),)) is None
    assert agreed((Part("C", 6),), (Part("C", 2), Part("C", 3))) == (Part("C", 6),)


def test_patches_cut_out_by_reshapes_are_cells_once_their_pixels_are_mixed():
    layout = image_layout((3, 12, 20))
    apart = regrouped(layout, (None, 3, 3, 4, 5, 4))
    assert apart is not None
    order = node("Transpose", ["x"], ["y"], perm=[0, 2, 4, 3, 5, 1])
    turned = step(order, apart, (None, 3, 3, 4, 5, 4), (None, 3, 5, 4, 4, 3))
    assert turned is not None
    lined = regrouped(turned, (None, 15, 48))
    assert lined is not None
    mixed = step(node("MatMul", ["x", "w"], ["y"]), lined, (None, 15, 48), (None, 15, 7), w=np.zeros((48, 7)))
    assert mixed is not None
    inside = cells_inside(mixed, TensorInfo(TensorProto.FLOAT, (None, 15, 7)))
    assert inside is not None
    assert inside.shape == (7, 3, 5)
    field = mixed.settled().field
    assert field is not None
    assert (field.stride, field.size((12, 20)), field.everything) == ((4, 4), (4, 4), False)


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT8])
def test_values_that_float32_does_not_hold_make_no_cut(kind: int):
    layout = image_layout((3, 6, 6))
    assert cells_inside(layout, TensorInfo(TensorProto.FLOAT16, (None, 3, 6, 6))) is not None
    assert cells_inside(layout, TensorInfo(kind, (None, 3, 6, 6))) is None


def test_what_one_reader_leaves_and_another_reads_is_read():
    nodes = [
        node("Gather", ["x", "i"], ["a"], axis=1),
        node("MatMul", ["x", "w"], ["b"]),
        node("Gather", ["b", "i"], ["c"], axis=1),
        node("ReduceMean", ["x"], ["d"], axes=[1]),
        node("Sum", ["a", "c"], ["e"]),
        node("Sum", ["e", "d"], ["y"]),
    ]
    one = Layout(((BATCH,), (Part("C", 8),)), (4, 9), Field())
    layouts = {"x": EXTRA, "b": EXTRA, "a": one, "c": one, "d": one, "e": one, "y": one}
    assert find_unread(nodes, layouts, "y") == {"b": "c"}
    without = [item for item in nodes if item.output[0] != "d"]
    assert set(find_unread(without, layouts, "y")) == {"x", "b"}


# Unfolding by Gather, and pads


@pytest.mark.parametrize("turned", [False, True])
def test_an_axis_taken_apart_by_indices_is_the_axis_reshaped(turned: bool):
    image = image_layout((CHANNELS, ROWS, COLS))
    places = np.arange(2)[:, None] + 2 * np.arange(5)[None]
    if turned:
        places = places.T
    after = (None, CHANNELS, ROWS, *places.shape)
    found = step(node("Gather", ["x", "i"], ["y"], axis=3), image, (None, CHANNELS, ROWS, COLS), after, i=places)
    assert found is not None
    fine, coarse = (Part("L", 2, 1),), (Part("L", 5, 2),)
    assert found.axes[3:] == ((coarse, fine) if turned else (fine, coarse))
    # The control: values, taken by numpy, are where the parts say.
    columns = np.arange(COLS)
    taken = columns[places]
    expected = columns.reshape(5, 2) if turned else columns.reshape(5, 2).T
    np.testing.assert_array_equal(taken, expected)


@pytest.mark.parametrize(
    "places",
    [
        np.arange(3)[:, None] + 2 * np.arange(4)[None],  # they overlap
        np.arange(9, -1, -1).reshape(2, 5),  # mirrored
        np.array([[0, 1, 2, 3, 4], [5, 6, 7, 9, 8]]),
        np.zeros((2, 5), np.int64),
        np.arange(8).reshape(2, 4),  # some are left out
    ],
)
def test_control_indices_that_take_cells_twice_or_out_of_order_are_not_followed(places: np.ndarray):
    image = image_layout((CHANNELS, ROWS, COLS))
    after = (None, CHANNELS, ROWS, *places.shape)
    made = node("Gather", ["x", "i"], ["y"], axis=3)
    assert step(made, image, (None, CHANNELS, ROWS, COLS), after, i=places) is None


def test_pads_move_the_field_and_leave_its_stride():
    image = image_layout((CHANNELS, ROWS, COLS))
    before, after = (None, CHANNELS, ROWS, COLS), (None, CHANNELS, ROWS + 3, COLS - 1)
    made = node("Pad", ["x", "p"], ["y"])
    found = step(made, image, before, after, p=np.array([0, 0, 1, -2, 0, 0, 2, 1]))
    assert found is not None
    assert found.extent == (ROWS + 3, COLS - 1)
    assert found.field is not None
    assert (found.field.rows, found.field.cols) == (Axis(1, -1, -1), Axis(1, 2, 2))
    named = step(
        node("Pad", ["x", "p", "", "a"], ["y"]), image, before, after, p=np.array([-2, 1, 1, 2]), a=np.array([3, 2])
    )
    assert named is not None
    assert named.field == found.field
    unknown = step(node("Pad", ["x", "z"], ["y"]), image, before, after)
    assert unknown is None or unknown.field is None


@pytest.mark.parametrize(
    ("sides", "fits_"),
    [
        ((2, 2), True),
        ((4, 4), True),
        ((2, 4), True),
        ((3, 2), False),
        ((2, 3), False),
        ((8, 2), True),
        ((16, 2), False),
    ],
)
def test_windows_that_are_a_batch_are_convolved_each_by_itself(sides: tuple[int, int], fits_: bool):
    """Of 40 x 40 pixels in windows of 8 x 8: a window's rows stay its own, in front of those of the next."""
    windows = ((Part("N", 1), Part("R", 5, 8), Part("L", 5, 8)), (Part("C", 3),), (Part("R", 8),), (Part("L", 8),))
    layout = image_layout((3, 40, 40)).with_axes(windows)
    weight = np.zeros((4, 3, 5, 5), np.float32)
    before, after = (25, 3, 8, 8), (25, 4, *sides)
    found = step(node("Conv", ["x", "w"], ["y"]), layout, before, after, w=weight)
    assert (found is not None) == fits_
    if found is not None:
        assert found.extent == (5 * sides[0], 5 * sides[1])
        assert found.axes[0][1:] == (Part("R", 5, sides[0]), Part("L", 5, sides[1]))
        assert [part.side for part in found.grid or ()] == list(found.extent)
        assert found.field is None


def test_windows_of_every_fifth_pixel_are_convolved_as_pictures_of_cells():
    """The control: where each window holds pixels from everywhere, five apart, a cell is what lies between them."""
    windows = ((Part("N", 1), Part("R", 5), Part("L", 5)), (Part("C", 3),), (Part("R", 8, 5),), (Part("L", 8, 5),))
    layout = image_layout((3, 40, 40)).with_axes(windows)
    made = node("Conv", ["x", "w"], ["y"], pads=[2] * 4, strides=[2, 2])
    found = step(made, layout, (25, 3, 8, 8), (25, 4, 4, 4), w=np.zeros((4, 3, 5, 5), np.float32))
    assert found is not None
    assert found.extent == (4, 4)
    assert found.axes[0] == (Part("N", 1), Part("C", 25))
    assert found.field is not None
    assert found.field.stride == (10, 10)

"""Pictures of maps: colours mean what the colour bar says, and matplotlib is loaded only to draw."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from onnx_evidence.evidence.path import Budget
from onnx_evidence.pictures.photograph import as_photograph
from onnx_evidence.preprocessing.contract import Preprocess
from onnx_evidence.preprocessing.geometry import place
from onnx_evidence.results.explanation import Explanation, Named, write_figure
from onnx_evidence.results.figure import COLORS, colorize, overlay
from tests import tiny

WHITE = (255, 255, 255)


def explanation(
    values: np.ndarray,
    *,
    shape: tuple[int, int] = (44, 60),
    target: str = "ant",
    versus: str | None = None,
    unit: str = "bits",
    budgets: tuple[Budget, ...] = (),
) -> Explanation:
    pixels = np.random.default_rng(5).integers(0, 256, (*shape, 3), dtype=np.uint8)
    return Explanation(
        values=values.astype(np.float32),
        stderr=np.full(values.shape, np.nan, np.float32),
        grids=(np.zeros((8, 8), np.float32),),
        budgets=budgets,
        target=Named(0, target),
        versus=None if versus is None else Named(1, versus),
        probability=0.25,
        log_odds_bits=-1.585,
        photograph=as_photograph(pixels),
        placement=place(shape, Preprocess.model_validate(tiny.PREPROCESS)),
        unit=unit,
        record={"cuts": [{"name": "block_1/add$0"}]},
    )


def sampled(values: np.ndarray, stderr: np.ndarray, freedom: float | None, **more) -> Explanation:
    exact = explanation(values, **more)
    given = None if freedom is None else np.full(values.shape, freedom)
    return Explanation(**{**vars(exact), "stderr": stderr.astype(np.float32), "freedom": given})


def some_map(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(32, 32))


def bar_label(figure: Figure) -> str:
    return figure.axes[-1].get_xlabel().replace(r"\$", "$")


def png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


# Colours


@pytest.mark.parametrize("limit", [1e-6, 0.37, 1.0, 3.3, 1e4])
def test_zero_is_exactly_white(limit):
    colours = colorize(np.array([[0.0, -0.0, limit]], np.float32), limit)
    assert colours.shape == (1, 3, 4)
    assert colours.dtype == np.uint8
    assert tuple(colours[0, 0, :3]) == tuple(colours[0, 1, :3]) == WHITE
    assert tuple(colours[0, 2, :3]) != WHITE


def test_evidence_for_is_red_and_evidence_against_is_blue():
    strengths = np.linspace(0.02, 1, 50)[None]
    red, green, blue = colorize(strengths, 1.0)[..., :3].astype(int).transpose(2, 0, 1)
    assert (red > blue).all()
    assert (red >= green).all()
    red, green, blue = colorize(-strengths, 1.0)[..., :3].astype(int).transpose(2, 0, 1)
    assert (blue > red).all()
    assert (blue >= green).all()


@pytest.mark.parametrize("limit", [0.5, 2.0, 7.7])
def test_opposite_values_lie_equally_far_from_white_on_the_scale(rng, limit):
    scale = COLORS(np.arange(257), bytes=True)
    values = rng.uniform(0, 1.2 * limit, (1, 300))
    steps = np.minimum(np.floor(0.5 + 257 * values / (2 * limit)), 128).astype(int)
    assert np.unique(steps).size > 50
    assert np.array_equal(colorize(values, limit), scale[128 + steps])
    assert np.array_equal(colorize(-values, limit), scale[128 - steps])


def test_stronger_evidence_is_never_nearer_to_white():
    strengths = np.linspace(0, 1, 200)[None]
    for sign in (1, -1):
        distance = np.abs(colorize(sign * strengths, 1.0)[0, :, :3].astype(int) - 255).sum(axis=1)
        # The scale's far ends turn darker, not paler.
        assert (np.diff(distance) >= 0).all()
        assert distance[-1] > 400


def test_values_beyond_the_limit_take_the_colour_of_the_limit():
    colours = colorize(np.array([[1.0, 5.0, -1.0, -5.0]]), 1.0)
    assert np.array_equal(colours[0, 0], colours[0, 1])
    assert np.array_equal(colours[0, 2], colours[0, 3])
    assert not np.array_equal(colours[0, 0], colours[0, 2])


def test_the_overlay_is_the_grey_photograph_where_the_map_is_zero(rng):
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    values = rng.normal(size=(40, 50)).astype(np.float32)
    values[:, 20:] = 0
    mixed = overlay(pixels, values, 2.0)
    assert mixed.shape == pixels.shape
    assert mixed.dtype == np.uint8
    unseen = mixed[:, 20:].astype(int)
    assert (unseen == unseen[..., :1]).all()
    # Grey, and ordered as the photograph's brightness is.
    brightness = pixels[:, 20:] @ np.array([0.299, 0.587, 0.114])
    order = np.argsort(brightness.ravel())
    assert (np.diff(unseen[..., 0].ravel()[order]) >= 0).all()
    assert np.corrcoef(unseen[..., 0].ravel(), brightness.ravel())[0, 1] > 0.999
    # Control: elsewhere there is colour.
    seen = mixed[:, :20].astype(int)
    assert (seen != seen[..., :1]).any(axis=2).mean() > 0.9


def test_the_overlay_turns_red_for_and_blue_against():
    pixels = np.full((1, 4, 3), 128, np.uint8)
    mixed = overlay(pixels, np.array([[1.0, 0.3, -0.3, -1.0]], np.float32), 1.0)[0].astype(int)
    difference = mixed[:, 0] - mixed[:, 2]
    assert difference[0] > difference[1] > 0 > difference[2] > difference[3]


# Figures


def test_the_figure_shows_photograph_evidence_and_overlay_with_a_bar_in_bits(rng):
    figure = explanation(some_map(rng), target="military uniform").figure()
    assert isinstance(figure, Figure)
    titles = [axis.get_title().splitlines() for axis in figure.axes[:3]]
    assert [lines[-1] for lines in titles] == ["photograph", "evidence", "overlay"]
    assert "military uniform" in titles[1][0]
    assert "bits" in bar_label(figure)
    assert "military uniform" in bar_label(figure)
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("size", [(44, 60), (60, 44), (20, 90), (90, 20), (30, 400), (400, 30), (1, 900), (300, 3)])
@pytest.mark.parametrize("label", ["ant", "gjpqy|(Éy]", "\u00c5ngstr\u00f6m, {Q}", "$x_1$", "long name, " * 30])
@pytest.mark.parametrize("drawn", [False, True])
def test_nothing_in_a_figure_overlaps_or_is_cut_off(size: tuple[int, int], label: str, drawn: bool, rng):
    """As matplotlib measures it, whatever the photograph's shape and the letters: places are reckoned without that."""
    budget = Budget(2.0, -1.0, 4.0, -1.0, 9, 3.0)
    more = {"shape": size, "target": label, "budgets": (budget,), "unit": "bits per pixel"}
    scale = 10.0 ** rng.integers(-4, 4)
    stderr = scale * rng.uniform(0.1, 0.3, (32, 32))
    shown = sampled(scale * some_map(rng), stderr, 7, **more) if drawn else explanation(scale * some_map(rng), **more)
    figure = shown.figure()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    pictures = [axis.get_window_extent(renderer) for axis in figure.axes[: 3 + drawn]]
    titles = [axis.title.get_window_extent(renderer) for axis in figure.axes[: 3 + drawn]]
    bars = [axis.get_tightbbox(renderer) for axis in figure.axes[3 + drawn :]]
    assert len(bars) == 1 + drawn
    # The headline is a line of its own above them all.
    headline = titles.pop(1)
    assert all(title.y1 <= (headline.y0 + headline.y1) / 2 + 2 for title in titles)
    assert headline.y0 >= pictures[1].y1
    assert headline.y1 <= figure.bbox.y1
    everything = [*pictures, *titles, *bars]
    for number, box in enumerate(everything):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in everything[:number])
    # Pictures keep the photograph's shape, and the bar lies below them, the other one to their right.
    for picture in pictures:
        assert picture.width / picture.height == pytest.approx(size[1] / size[0])
        assert all(title.y0 >= picture.y1 for title in titles)
        assert bars[0].y1 <= picture.y0
        assert all(bar.x0 > picture.x1 for bar in bars[1:])
    # No more than a quarter of the height is air.
    used = max(size[0] / size[1] * pictures[0].width, 85) + headline.height + bars[0].height
    assert used > 0.75 * figure.bbox.height


@pytest.mark.parametrize(
    "setting",
    [
        {"image.origin": "lower"},
        {"axes.labelpad": 30, "xtick.major.size": 12, "xtick.major.pad": 10, "font.size": 20},
        {"axes.titlelocation": "left", "axes.titlepad": 30, "axes.titley": 0.5},
        {"figure.autolayout": True, "savefig.dpi": 50},
    ],
)
@pytest.mark.parametrize("drawn", [False, True])
def test_a_figure_is_the_same_whatever_matplotlib_is_set_to(setting: dict, drawn: bool, rng):
    values, stderr = 1e-7 * some_map(rng), 1e-8 * rng.uniform(1, 3, (32, 32))
    shown = sampled(values, stderr, 7) if drawn else explanation(values)

    def written() -> bytes:
        stream = BytesIO()
        write_figure(shown.figure(), stream)
        return stream.getvalue()

    before = written()
    with matplotlib.rc_context(setting):
        assert written() == before


def test_a_figure_that_is_drawn_on_again_is_the_one_that_is_drawn_anew(rng):
    """Whatever it showed before: other shapes, frames, limits, texts, or a map that was sampled in between."""
    errors = rng.uniform(0, 0.3, (32, 32))
    maps = [
        explanation(some_map(rng)),
        explanation(100 * some_map(rng), shape=(20, 90), target="gjpqy", unit="bits per pixel"),
        explanation(some_map(rng), shape=(90, 20), budgets=(Budget(2.0, -1.0, 4.0, -1.0, 9, 3.0),)),
        replace(explanation(some_map(rng)), stderr=np.full((32, 32), 0.1, np.float32)),
        sampled(10 * some_map(rng), errors, 7, shape=(200, 30)),
    ]

    def written(number: int, limit: float | None, *, again: bool) -> bytes:
        stream = BytesIO()
        write_figure(maps[number].figure(limit, again=again), stream)
        return stream.getvalue()

    asked = [(number, limit) for number in (0, 1, 2, 3, 4, 0, 2, 1) for limit in (None, 3.0)]
    anew = {each: written(*each, again=False) for each in set(asked)}
    assert len(set(anew.values())) == len(anew)
    assert all(written(*each, again=True) == anew[each] for each in asked)
    # The control: it is the same figure indeed, of this thread alone; and nobody gets it who did not ask for it.
    same = maps[0].figure(again=True)
    assert maps[1].figure(again=True) is same
    assert maps[1].figure() is not same
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: maps[0].figure(again=True)).result() is not same


def test_the_bar_of_a_comparison_names_both_classes(rng):
    label = bar_label(explanation(some_map(rng), target="gown", versus="uniform").figure())
    assert "gown rather than uniform" in label
    assert "bits" in label


def test_maps_that_add_up_are_shown_per_patch_with_their_account(rng):
    budget = Budget(3.25, -1.5, 6.0, -1.5, 9, 4.5)
    shown = explanation(some_map(rng), target="gown", unit="bits per pixel", budgets=(budget,))
    figure = shown.figure()
    label = bar_label(figure)
    assert "bits per 2 x 2 pixels for gown" in label
    assert "+3.2 bits with all features, -1.5 without" in label
    assert "for +6.0, against -1.5, unaccounted 0.25" in label
    # A colour of 1 is what four pixels of a quarter of a bit come to.
    norm = figure.axes[1].images[-1].norm
    assert norm.vmax == pytest.approx(4 * np.abs(shown.values).max())
    plain = explanation(4 * shown.values, target="gown").figure()
    for axis in (1, 2):
        pictures = (each.axes[axis].images[0].get_array() for each in (figure, plain))
        assert np.array_equal(*pictures)
    assert "with all features" not in bar_label(plain)


def test_the_photograph_in_the_figure_is_the_photograph(rng):
    shown = explanation(some_map(rng))
    axes = shown.figure().axes
    assert np.array_equal(axes[0].images[0].get_array(), shown.photograph.pixels)


def test_the_map_in_the_figure_is_in_the_photographs_place_and_white_outside_the_crop(rng):
    shown = explanation(np.abs(some_map(rng)) + 0.5, shape=(44, 90))
    picture = np.asarray(shown.figure().axes[1].images[0].get_array())
    assert picture.shape == (44, 90, 4)
    outside = shown.pixels == 0
    assert 0 < outside.sum() < outside.size
    assert (picture[outside][:, :3] == 255).all()
    assert (picture[~outside][:, :3] != 255).any(axis=1).all()


@pytest.mark.parametrize("limit", [None, 2.5, 100.0])
def test_the_scale_is_symmetric_and_reaches_the_limit(rng, limit):
    shown = explanation(some_map(rng) + 1)
    figure = shown.figure(limit)
    norm = figure.axes[1].images[-1].norm
    expected = np.abs(shown.values).max() if limit is None else limit
    assert (norm.vmin, norm.vmax) == pytest.approx((-expected, expected))
    assert figure.axes[-1].get_xlim() == pytest.approx((-expected, expected))


def test_a_larger_limit_pales_the_map(rng):
    shown = explanation(some_map(rng))
    strong, pale = (np.asarray(shown.figure(limit).axes[1].images[0].get_array()).astype(int) for limit in (None, 50.0))
    assert pale[..., :3].sum() > strong[..., :3].sum()


def test_a_map_of_zeros_can_be_drawn_and_is_white():
    figure = explanation(np.zeros((32, 32))).figure()
    picture = np.asarray(figure.axes[1].images[0].get_array())
    assert (picture[..., :3] == 255).all()
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "label", ["a$b_c^d", "$x_1$", r"$\frac{$", "$$", r"100\$ or 5$", "under_score", "50 % off", "{brace", "a\\b"]
)
def test_a_class_name_is_never_taken_for_a_formula(rng, label):
    figure = explanation(some_map(rng), target=label, versus=f"{label} too").figure()
    assert png(figure).startswith(b"\x89PNG")
    assert f"{label} rather than {label} too" in bar_label(figure)
    texts = [text for text in figure.findobj(Text) if label in text.get_text().replace(r"\$", "$")]
    assert len(texts) >= 2


def test_a_formula_that_is_not_escaped_would_break_the_figure():
    figure = Figure()
    figure.suptitle(r"$\frac{$")
    with pytest.raises(ValueError, match="frac"):
        png(figure)


@pytest.mark.parametrize("shape", [(30, 400), (400, 30), (1, 900), (36, 36)])
def test_pictures_of_any_aspect_can_be_drawn(rng, shape):
    figure = explanation(some_map(rng), shape=shape).figure()
    width, height = figure.get_size_inches()
    assert 2 < height < 12 < width < 15
    assert png(figure).startswith(b"\x89PNG")


def test_a_large_photograph_is_drawn_smaller_but_in_its_own_coordinates(rng):
    axes = explanation(some_map(rng), shape=(1500, 2600)).figure().axes
    for axis in axes[:3]:
        assert max(axis.images[0].get_array().shape) <= 1000
        assert axis.images[0].get_extent() == [0, 2600, 1500, 0]


def test_equal_maps_give_equal_pictures(rng):
    values = some_map(rng)
    assert png(explanation(values).figure()) == png(explanation(values.copy()).figure())
    assert png(explanation(values).figure()) != png(explanation(-values).figure())


# Errors


def picture_of(figure: Figure, number: int) -> np.ndarray:
    """What is seen of one of the pictures, as a reader sees it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.axes[number].get_window_extent()
    drawn = np.asarray(canvas.buffer_rgba())[::-1]
    return drawn[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1), :3][::-1].astype(int)


def strokes(figure: Figure, number: int) -> np.ndarray:
    """Where a picture changes when its hatching is taken away."""
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")  # laid out once more, all may move by a pixel
    marked = picture_of(figure, number)
    for collection in list(figure.axes[number].collections):
        collection.remove()
    return (np.abs(marked - picture_of(figure, number)) > 10).any(axis=2)


def halves(stderr_left: float, stderr_right: float) -> Figure:
    """Evidence of 1 bit everywhere, known well or badly on either side; all of the picture is seen."""
    stderr = np.full((32, 32), stderr_left)
    stderr[:, 16:] = stderr_right
    return sampled(np.ones((32, 32)), stderr, 7, shape=(36, 36)).figure()


@pytest.mark.parametrize("number", [1, 2])
def test_what_cannot_be_told_from_zero_is_hatched_and_nothing_else(number):
    # 2.365 standard errors are the half-width: 0.5 is too much for 1 bit, 0.4 is not.
    changed = strokes(halves(0.4, 0.5), number)
    height, width = changed.shape
    inside = changed[height // 5 : -height // 5]
    left, right = inside[:, width // 5 : width // 2 - 12], inside[:, width // 2 + 12 : -width // 5]
    assert not left.any()
    assert 0.1 < right.mean() < 0.8
    # Strokes cross every part of it.
    assert all(block.any() for rows in np.array_split(right, 6) for block in np.array_split(rows, 3, axis=1))


def test_all_or_nothing_can_be_hatched():
    assert strokes(halves(0.5, 0.5), 1).mean() > 0.1
    assert not strokes(halves(0.4, 0.4), 1).any()
    assert png(sampled(np.zeros((32, 32)), np.zeros((32, 32)), 7).figure()).startswith(b"\x89PNG")


def test_the_standard_error_has_a_picture_and_a_bar_of_its_own(rng):
    stderr = rng.uniform(0, 0.3, (32, 32))
    figure = sampled(some_map(rng), stderr, 7, target="gown").figure()
    assert [axis.get_title().splitlines()[-1] for axis in figure.axes[:4]] == [
        "photograph", "evidence", "overlay", "standard error",
    ]  # fmt: skip
    assert figure.axes[5].get_ylabel() == "bits"
    assert "bits for gown" in figure.axes[4].get_xlabel()
    image = figure.axes[3].images[0]
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx((0, stderr.max()), rel=0.05)
    assert tuple(image.cmap(0.0)[:3]) == (1, 1, 1)
    # Nothing exact has one.
    assert len(explanation(some_map(rng)).figure().axes) == 4


def test_the_caption_says_what_is_hatched_and_how_far_the_strongest_evidence_is_known(rng):
    values, stderr = rng.normal(size=(32, 32)), np.full((32, 32), 0.3)
    label = sampled(values, stderr, 7).figure().axes[4].get_xlabel()
    assert "hatched: cannot be told from 0 (95 % interval)" in label
    found = re.search(r"strongest for ([+-][\d.]+) ± ([\d.]+), against ([+-][\d.]+) ± ([\d.]+) bits \(95 %\)", label)
    assert found is not None
    assert [float(each) for each in found.groups()] == pytest.approx(
        [values.max(), 2.365 * 0.3, values.min(), 2.365 * 0.3], abs=0.006
    )


def test_a_figure_without_errors_says_nothing_of_them(rng):
    label = bar_label(explanation(some_map(rng)).figure())
    assert "hatched" not in label
    assert "±" not in label


@pytest.mark.parametrize("shape", [(30, 400), (400, 30), (1, 900), (36, 36), (1500, 2600)])
def test_errors_of_pictures_of_any_aspect_can_be_drawn(rng, shape):
    figure = sampled(some_map(rng), np.full((32, 32), 0.3), 7, shape=shape).figure()
    assert png(figure).startswith(b"\x89PNG")
    for axis in figure.axes[:4]:
        assert (axis.get_xlim(), axis.get_ylim()) == ((0, shape[1]), (shape[0], 0))
    bar, error_bar = (axis.get_tightbbox() for axis in figure.axes[4:])
    assert figure.bbox.x0 <= bar.x0
    assert not bar.overlaps(error_bar)
    for axis in figure.axes[:4]:
        assert not bar.overlaps(axis.get_window_extent())


# What is loaded


def modules_after(code: str, folder: Path) -> set[str]:
    program = f"import sys\n{code}\nprint(*sys.modules, sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


INSPECT = "from onnx_evidence.cli import main\nmain(['inspect', {model!r}, '--device', 'cpu'], standalone_mode=False)"


def test_importing_and_inspecting_do_not_load_matplotlib(tiny_model, tmp_path):
    loaded = modules_after("import onnx_evidence\n" + INSPECT.format(model=str(tiny_model)), tmp_path)
    assert "onnx_evidence.cli.inspection" in loaded
    assert not [name for name in loaded if name.split(".")[0] == "matplotlib"]


def test_drawing_loads_matplotlib_but_never_pyplot(tiny_model, tmp_path):
    code = (
        "import numpy as np\nfrom onnx_evidence import Explainer\n"
        f"explainer = Explainer({str(tiny_model)!r}, device='cpu')\n"
        "figure = explainer.explain(np.zeros((40, 50, 3), np.uint8)).figure()\nfigure.savefig('figure.png')"
    )
    loaded = modules_after(code, tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert "matplotlib.figure" in loaded
    assert "matplotlib.pyplot" not in loaded

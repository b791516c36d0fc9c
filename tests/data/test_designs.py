"""Synthetic designs: their grammar, their scores against hand-made layouts, their pictures."""

from __future__ import annotations

import builtins
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.data.designs import (
    FORMATS,
    GOALS,
    GRAMMAR,
    GRID,
    PAPERS,
    Box,
    Element,
    Layout,
    Meta,
    colour_names,
    contrast_table,
    feature_maps,
    grammar_scores,
    make_layout,
    palette,
    render,
)
from tinygrad_edu.data.designs.palette import DARK, DESK, LIGHT, hues_by_warmth, luminance
from tinygrad_edu.errors import ConfigError, DtypeError

pytest.importorskip("PIL")

SOME = range(300)
CANVAS = Box(0, 0, 32, 32)


@pytest.fixture(scope="module")
def layouts() -> list[Layout]:
    return [make_layout(0, index) for index in SOME]


def layout_of(*elements: Element, background: int = LIGHT, paper: Box = CANVAS) -> Layout:
    return Layout(Meta(0, 3, (0.0, 0.0, 0.0)), paper, background, elements, palette(8))


def text(x: int, y: int, w: int, h: int, colour: int = DARK, lines: int = 1) -> Element:
    return Element("text", Box(x, y, w, h), colour, lines=lines)


def score(name: str, layout: Layout) -> float:
    return float(grammar_scores(layout)[GRAMMAR.index(name)])


# -- the series --------------------------------------------------------------------------------------------


def test_a_design_is_the_same_each_time_and_no_two_are_alike(layouts: list[Layout]) -> None:
    again = make_layout(0, 7)
    assert again.elements == layouts[7].elements and again.meta == layouts[7].meta
    np.testing.assert_array_equal(render(again), render(layouts[7]))
    assert make_layout(1, 7).elements != layouts[7].elements
    assert len({layout.elements for layout in layouts}) == len(layouts)


def test_everything_lies_on_the_paper_and_texts_are_apart(layouts: list[Layout]) -> None:
    for layout in layouts:
        paper = layout.paper
        assert paper == Box(*PAPERS[FORMATS[layout.meta.format]])
        texts = np.zeros((GRID, GRID), int)
        for element in layout.elements:
            b = element.box
            assert b.w > 0 and b.h > 0 and b.x >= paper.x and b.y >= paper.y
            assert b.x + b.w <= paper.x + paper.w and b.y + b.h <= paper.y + paper.h
            assert DESK <= element.colour < 8 and 0 < element.importance <= 1
            if element.kind == "text":
                texts[b.y : b.y + b.h, b.x : b.x + b.w] += 1
                assert b.h % element.lines == 0 and 2 <= element.line_height <= 8
        assert texts.max() == 1 and texts.sum() > 0


def test_the_meaning_can_be_given() -> None:
    meta = Meta(GOALS.index("invite"), FORMATS.index("banner"), (-1.0, 0.0, 1.0))
    one, two = make_layout(0, 1, meta=meta), make_layout(0, 2, meta=meta)
    assert one.meta == two.meta == meta and one.elements != two.elements
    assert any(element.form == "frame" for element in one.elements)


def test_the_meaning_decides_what_is_seen() -> None:
    """Each part of the meaning moves something that can be measured."""

    def mean_of(measure: Any, **given: Any) -> float:
        meta = replace(Meta(0, 0, (0.0, 0.0, 0.0)), **given)
        return float(np.mean([measure(make_layout(3, index, meta=meta)) for index in range(60)]))

    def pictures(layout: Layout) -> float:
        return float(feature_maps(layout)[1].mean())

    def texts(layout: Layout) -> float:
        return float(feature_maps(layout)[0].mean())

    def covered(layout: Layout) -> float:
        return float((feature_maps(layout)[3] > 0).mean())

    def redness(layout: Layout) -> float:
        image = render(layout).astype(float)
        return float((image[0] - image[2]).mean())

    def colourfulness(layout: Layout) -> float:
        image = render(layout).astype(float)
        return float((image.max(axis=0) - image.min(axis=0)).mean())

    by_goal = [mean_of(pictures, goal=goal) for goal in range(4)]
    assert by_goal[GOALS.index("entertain")] > by_goal[GOALS.index("sell")] > 2 * by_goal[GOALS.index("inform")]
    assert mean_of(texts, goal=GOALS.index("inform")) > 1.3 * mean_of(texts, goal=GOALS.index("sell"))
    assert mean_of(redness, tone=(1.0, 0.0, 0.0)) > mean_of(redness, tone=(-1.0, 0.0, 0.0)) + 20
    assert mean_of(colourfulness, tone=(0.0, 1.0, 0.0)) > mean_of(colourfulness, tone=(0.0, -1.0, 0.0)) + 5
    for goal in range(4):
        dense, bare = (mean_of(covered, goal=goal, tone=(0.0, 0.0, tone)) for tone in (1.0, -1.0))
        assert dense > bare + 0.02


def test_scores_are_spread(layouts: list[Layout]) -> None:
    scores = np.array([grammar_scores(layout) for layout in layouts])
    assert scores.min() >= 0 and scores.max() <= 1
    low, high = np.quantile(scores, (0.1, 0.9), axis=0)
    assert (high - low > 0.5).all() and (scores.std(axis=0) > 0.2).all()


# -- the scores, against what the formulas give by hand ----------------------------------------------------


def test_alignment() -> None:
    column = [text(4, y, w, 2) for y, w in ((2, 10), (6, 20), (10, 6))]
    assert score("alignment", layout_of(*column)) == 1  # their left edges
    centred = [text(16 - w // 2, y, w, 2) for y, w in ((2, 10), (6, 20), (10, 6))]
    assert score("alignment", layout_of(*centred)) == 1
    right = [text(28 - w, y, w, 2) for y, w in ((2, 10), (6, 20), (10, 6))]
    assert score("alignment", layout_of(*right)) == 1
    # Two texts whose nearest lines, the right edges 14 and 17, are 3 units apart.
    assert score("alignment", layout_of(text(4, 2, 10, 2), text(9, 6, 8, 2))) == pytest.approx(math.exp(-3 / 2))
    columns = [text(x, y, 8, 2) for x in (4, 18) for y in (2, 6)]
    # Half of the three others, two: the one above or below (0 apart), and one of the other column (14).
    assert score("alignment", layout_of(*columns)) == pytest.approx(math.exp(-7 / 2))
    three = [text(x, y, 8, 2) for x in (4, 18) for y in (2, 6, 10)]
    # Of five others three are taken: two of its own column, one of the other.
    assert score("alignment", layout_of(*three)) == pytest.approx(math.exp(-(14 / 3) / 2))
    assert score("alignment", layout_of(text(4, 2, 10, 2))) == 1
    shapes = [replace(element, kind="shape") for element in (text(1, 2, 5, 2), text(20, 9, 3, 3))]
    assert score("alignment", layout_of(text(4, 2, 10, 2), *shapes)) == 1  # shapes are ornament


def test_contrast() -> None:
    table = contrast_table(8)
    assert table.shape == (8, 8) and np.allclose(table, table.T) and (np.diag(table) == 0).all()
    light, dark = (luminance(palette(8)[colour]) + 0.05 for colour in (LIGHT, DARK))
    assert table[LIGHT, DARK] == pytest.approx(math.log(light / dark) / math.log(21))
    assert score("contrast", layout_of(text(4, 2, 10, 2))) == pytest.approx(table[LIGHT, DARK], rel=1e-6)
    assert score("contrast", layout_of(text(4, 2, 10, 2, LIGHT))) == 0
    # Half of a text on a picture in red, half of it on the paper.
    picture = Element("picture", Box(0, 0, 9, 32), 3)
    half = score("contrast", layout_of(picture, text(4, 2, 10, 2)))
    assert half == pytest.approx((table[3, DARK] + table[LIGHT, DARK]) / 2, rel=1e-6)
    # By area: 20 units of dark text, 60 of light.
    mixed = score("contrast", layout_of(text(4, 2, 10, 2), text(4, 10, 20, 3, LIGHT)))
    assert mixed == pytest.approx(table[LIGHT, DARK] / 4, rel=1e-6)
    assert score("contrast", layout_of(picture)) == 0


def test_the_contrast_of_black_on_white_is_21() -> None:
    """The definition of WCAG 2.2: black on white 21 to 1, and #777777 on white 4.48 to 1."""
    white, black, grey = luminance(np.ones(3)), luminance(np.zeros(3)), luminance(np.full(3, 0x77 / 255))
    assert (white + 0.05) / (black + 0.05) == pytest.approx(21)
    assert (white + 0.05) / (grey + 0.05) == pytest.approx(4.48, abs=0.005)


def test_white_space() -> None:
    assert score("white_space", layout_of()) == 0
    assert score("white_space", layout_of(Element("picture", Box(0, 0, 32, 32), 3))) == 0
    assert score("white_space", layout_of(Element("picture", Box(0, 0, 32, 16), 3))) == 1
    assert score("white_space", layout_of(Element("picture", Box(0, 0, 32, 8), 3))) == 0.5
    # A quarter covered by two that overlap; and of a paper, not of the canvas.
    overlapping = Element("picture", Box(0, 0, 32, 8), 3), text(4, 2, 10, 2)
    assert score("white_space", layout_of(*overlapping)) == 0.5
    paper = Box(8, 8, 16, 16)
    assert score("white_space", layout_of(Element("shape", Box(8, 8, 16, 8), 3), paper=paper)) == 1


def test_hierarchy() -> None:
    assert score("hierarchy", layout_of(text(4, 2, 10, 2))) == 0
    assert score("hierarchy", layout_of(text(4, 2, 10, 2), text(4, 6, 10, 2))) == 0
    assert score("hierarchy", layout_of(text(4, 2, 10, 4), text(4, 8, 10, 2))) == 0.5
    assert score("hierarchy", layout_of(text(4, 2, 10, 8), text(4, 12, 10, 6, lines=3))) == 1
    three = layout_of(text(4, 2, 10, 6), text(4, 10, 10, 2), text(4, 14, 10, 4))
    assert score("hierarchy", three) == pytest.approx(0.5)  # 6 over the mean of 2 and 4


# -- maps --------------------------------------------------------------------------------------------------


def test_maps_of_a_layout_by_hand() -> None:
    picture = Element("picture", Box(2, 2, 10, 10), 5)
    badge = Element("shape", Box(8, 8, 6, 6), 3)
    title = text(4, 4, 6, 4, colour=4)
    maps = feature_maps(layout_of(picture, title, badge, paper=Box(1, 1, 30, 30)))
    assert maps.shape == (4, GRID, GRID) and maps.dtype == np.float32
    shown, letters, colour, importance = maps[1], maps[0], maps[2], maps[3]
    assert (
        shown[3, 3] == 1 and shown[5, 5] == 1 and shown[9, 9] == 0 and shown[20, 20] == 0
    )  # behind letters; not badge
    assert letters[5, 5] == 1 and letters[3, 3] == 0 and letters.sum() == 24
    assert [colour[at] for at in ((0, 0), (1, 1), (3, 3), (5, 5), (9, 9))] == [DESK, LIGHT, 5, 4, 3]
    assert importance[5, 5] == 0.5 and importance[1, 1] == importance[0, 0] == 0
    assert importance[3, 3] == pytest.approx(0.9 * math.sqrt(100 / 1024))
    covered_text = feature_maps(layout_of(title, picture))
    assert covered_text[0].sum() == 0


@pytest.mark.parametrize("form", ["rectangle", "ellipse", "triangle", "frame"])
def test_forms_cover_what_their_area_says(form: Any) -> None:
    element = Element("shape", Box(4, 8, 20, 12), 3, form=form)
    wanted = {"rectangle": 240, "ellipse": math.pi * 60, "triangle": 120, "frame": 240 - 180}[form]
    fine = element.covers(256)
    assert fine.sum() / 64 == pytest.approx(wanted, rel=0.02)
    outside = fine.copy()
    outside[64:160, 32:192] = False
    assert not outside.any()
    if form in ("rectangle", "frame"):  # on the grid, every size says the same
        np.testing.assert_array_equal(element.covers(32).repeat(4, 0).repeat(4, 1), element.covers(128))


def test_maps_of_larger_sizes_are_the_same_maps(layouts: list[Layout]) -> None:
    for layout in layouts[:40]:
        small, large = feature_maps(layout, 32), feature_maps(layout, 96)
        square = all(element.form in ("rectangle", "frame") for element in layout.elements)
        repeated = small.repeat(3, 1).repeat(3, 2)
        if square:
            np.testing.assert_array_equal(repeated, large)
        else:
            assert (repeated != large).mean() < 0.02


# -- pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 96, 256])
def test_pictures_agree_with_the_maps(layouts: list[Layout], size: int) -> None:
    """Bare paper and desk have exactly their colours; where there is text, there is ink."""
    for layout in layouts[:12]:
        image, maps = render(layout, size), feature_maps(layout, size)
        assert image.shape == (3, size, size) and image.dtype == np.uint8
        seen = image.transpose(1, 2, 0).astype(int)
        rgb = np.rint(255 * layout.colours).astype(int)
        # Away from edges, which are smoothed at round shapes.
        bare = maps[3] == 0
        for axis in (0, 1):
            for step in (1, -1):
                bare &= np.roll(maps[3] == 0, step, axis)
        for colour, where in ((DESK, maps[2] == DESK), (layout.background, maps[2] == layout.background)):
            assert np.abs(seen[bare & where] - rgb[colour]).max(initial=0) <= 1
        for element in layout.elements:
            if element.kind == "text" and layout.elements[-1] is element:
                b, unit = element.box, size // GRID
                part = seen[b.y * unit : (b.y + b.h) * unit, b.x * unit : (b.x + b.w) * unit]
                assert part.std(axis=(0, 1)).max() > 1  # letters on something


def test_colours_can_be_told_from_the_picture(layouts: list[Layout]) -> None:
    """Seen in the middle of shapes, the nearest colour of the palette is the right one."""
    nominal, right, total = palette(8) * 255, 0, 0
    for layout in layouts:
        image = render(layout, 64).transpose(1, 2, 0).astype(float)
        for at, element in enumerate(layout.elements):
            last = all(not (element.covers(64) & other.covers(64)).any() for other in layout.elements[at + 1 :])
            if element.kind == "shape" and element.form == "ellipse" and last:
                b = element.box
                middle = image[2 * b.y + b.h, 2 * b.x + b.w]
                right += int(np.abs(nominal - middle).sum(axis=1).argmin()) == element.colour
                total += 1
    assert total > 50 and right / total > 0.97


def test_palettes() -> None:
    for count in range(5, 17):
        colours = palette(count)
        assert colours.shape == (count, 3) and len(colour_names(count)) == count
        apart = np.abs(colours[:, None] - colours).sum(axis=2) + 9 * np.eye(count)
        assert apart.min() > 0.2
        assert sorted(hues_by_warmth(count, 0.3)) == list(range(3, count))
        assert make_layout(0, 0, count).n_colours == count
    assert colour_names(8)[hues_by_warmth(8, 1.0)[0]] == "red" and colour_names(8)[hues_by_warmth(8, -1.0)[0]] == "blue"


# -- what users get wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 31, 33, 16, 288, 32.0, True])
def test_sizes_that_cannot_be_drawn(size: Any) -> None:
    with pytest.raises(ConfigError, match="size: .*, wanted a multiple of 32 from 32 to 256"):
        render(make_layout(0, 0), size)


@pytest.mark.parametrize("n_colours", [4, 17, 8.0, True])
def test_palettes_that_there_are_not(n_colours: Any) -> None:
    with pytest.raises(ConfigError, match="n_colours: .*, wanted an integer from 5 to 16"):
        make_layout(0, 0, n_colours)


def test_seeds_and_meanings_that_are_refused() -> None:
    with pytest.raises(ConfigError, match="seed: -1, wanted an integer >= 0"):
        make_layout(-1, 0)
    with pytest.raises(DtypeError, match="index: 1.5, wanted an integer"):
        make_layout(0, 1.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="meta.goal: 4, wanted one of 0 sell, 1 inform, 2 invite, 3 entertain"):
        make_layout(0, 0, meta=Meta(4, 0, (0.0, 0.0, 0.0)))
    with pytest.raises(ConfigError, match="meta.format: -1, wanted one of 0 poster"):
        make_layout(0, 0, meta=Meta(0, -1, (0.0, 0.0, 0.0)))
    with pytest.raises(ConfigError, match="meta.tone: .*, wanted 3 numbers from -1 to 1"):
        make_layout(0, 0, meta=Meta(0, 0, (0.0, 0.0, 1.5)))
    with pytest.raises(ConfigError, match="meta.tone"):
        make_layout(0, 0, meta=Meta(0, 0, (0.0, math.nan, 0.0)))


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ImportError("No module named 'PIL'")
        return real(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ConfigError, match=r"Pillow, which is not installed: run `pip install 'tinygrad_edu\[vision\]'`"
    ):
        render(make_layout(0, 0))

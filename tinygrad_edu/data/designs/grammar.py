"""The grammar by which synthetic designs are composed: from what one means to where everything lies.

The goal decides what there is and how it stands, the format on what paper, the tone in which colours and how densely.
What is left to chance (how carefully things are aligned, how strong the contrasts are, how much larger the headline is)
makes designs of one meaning differ, and is what the grammar scores measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np

from ...errors import ConfigError, DtypeError
from .layout import FORMATS, GOALS, PAPERS, TALLEST_LINE, TONES, Box, Element, Layout, Meta
from .palette import DARK, DESK, LIGHT, check_colours, contrast_table, hues_by_warmth, palette, tinted

Align = Literal["left", "centre"]
T = TypeVar("T")


def check_meta(meta: Meta) -> None:
    """Raise ConfigError unless `meta` names classes that there are, and a tone within [-1, 1]."""
    for name, value, names in (("goal", meta.goal, GOALS), ("format", meta.format, FORMATS)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < len(names):
            listed = ", ".join(f"{at} {word}" for at, word in enumerate(names))
            raise ConfigError(f"meta.{name}: {value!r}, wanted one of {listed}")
    if len(meta.tone) != len(TONES) or not all(-1 <= part <= 1 for part in meta.tone):
        raise ConfigError(f"meta.tone: {meta.tone!r}, wanted {len(TONES)} numbers from -1 to 1 ({', '.join(TONES)})")


def draw_meta(rng: np.random.Generator) -> Meta:
    """A meaning at random: any goal, any format, any tone."""
    warm, playful, dense = (float(part) for part in rng.uniform(-1, 1, len(TONES)))
    return Meta(int(rng.integers(len(GOALS))), int(rng.integers(len(FORMATS))), (warm, playful, dense))


def make_layout(seed: int, index: int, n_colours: int = 8, meta: Meta | None = None) -> Layout:
    """Compose design `index` of the series `seed`.

    Parameters
    ----------
    seed, index : integers >= 0; the same two always give the same design
    n_colours : of the palette, 5 to 16
    meta : what it is to mean; drawn at random if None

    Raises
    ------
    ConfigError
        For arguments that are out of range.
    """
    check_colours(n_colours)
    for name, value in (("seed", seed), ("index", index)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise DtypeError(f"{name}: {value!r}, wanted an integer")
        if value < 0:
            raise ConfigError(f"{name}: {value!r}, wanted an integer >= 0")
    rng = np.random.default_rng([seed, index])
    drawn = draw_meta(rng)  # also where it is not used: the rest is then the same
    if meta is not None:
        check_meta(meta)
    return _Composer(drawn if meta is None else meta, n_colours, rng).compose()


@dataclass
class _Composer:
    """Lays one design out.

    Attributes
    ----------
    meta, n_colours, rng : what it means, of how many colours, and chance
    elements : so far
    """

    meta: Meta
    n_colours: int
    rng: np.random.Generator
    elements: list[Element] = field(default_factory=list)

    def compose(self) -> Layout:
        rng, (warm, playful, dense) = self.rng, self.meta.tone
        self.paper = Box(*PAPERS[FORMATS[self.meta.format]])
        self.wide = self.paper.w >= 1.4 * self.paper.h
        self.playful = playful > 0.6 * rng.uniform(-1, 1)
        self.fullness = float(np.clip(0.5 + 0.5 * dense + 0.12 * rng.standard_normal(), 0, 1))  # bare 0, full 1
        # How careful the designer was. None of it follows from the meaning.
        self.carelessness = float(np.clip(rng.uniform(-0.5, 1), 0, 1))
        self.wanted_contrast = float(rng.uniform(0, 1))
        self.emphasis = float(rng.uniform(0, 1))
        hues = hues_by_warmth(self.n_colours, float(np.clip(warm + 0.1 * rng.standard_normal(), -1, 1)))
        self.accent, self.second = hues[0], hues[-1]
        self.background = LIGHT
        self.align: Align = "left"
        getattr(self, f"_{GOALS[self.meta.goal]}")()
        saturation = float(np.clip(0.8 + 0.25 * playful + 0.06 * rng.standard_normal(), 0.45, 1.1))
        colours = tinted(palette(self.n_colours), saturation, rng)
        return Layout(self.meta, self.paper, self.background, tuple(self._inked()), colours)

    # -- the goals ----------------------------------------------------------------------------------------

    def _sell(self) -> None:
        """A large picture of the goods, a headline, and a badge with the price."""
        self.background = self._either(0.6, self.accent, LIGHT)
        self.align = self._either(0.5, "left", "centre")
        inner = self.paper.inset(2)
        share = 0.45 + 0.2 * self.fullness
        shown, written = self._divide(inner, share, first=self.rng.random() < 0.6)
        shown = self._set_picture(shown, self._other_than(self.background, self.accent, self.second), motif=1)
        lines = [self._sub(), (1, 2)]
        self._stack(written, [self._head(written), *lines[: 1 + (self.fullness > 0.5)]])
        # The badge sits on the corner of the picture that the text is not at.
        d = int(np.clip(round(0.3 * min(inner.w, inner.h)) + 2, 5, 8))
        x = shown.x if shown.x > written.x else shown.x + shown.w - d
        y = self._either(0.5, shown.y, shown.y + shown.h - d)
        form: Literal["ellipse", "rectangle"] = "ellipse" if self.playful else "rectangle"
        used = {self.background, self.elements[0].colour}
        fill = next(c for c in (self.second, self.accent, DARK, LIGHT, DESK) if c not in used)
        self._add(Element("shape", Box(x, y, d, d), fill, form))
        self._add(self._text(Box(x + 1, y + d // 2 - 1, d - 2, 2), 1, "sans-bold", "centre"))

    def _inform(self) -> None:
        """A headline and much text, in columns where there is room, with at most a small picture."""
        inner = self.paper.inset(2)
        if self.fullness > 0.25 and self.rng.random() < 0.6:
            shown, inner = self._divide(inner, 0.26, first=self.rng.random() < 0.4)
            self._set_picture(shown, self.accent, motif=int(self.rng.choice([0, 2])))
        head = self._head(inner, most=5)
        if inner.h < 10 and inner.w >= 16:  # no room below the headline, but beside it
            beside = inner.w * 2 // 5
            self._stack(replace(inner, w=beside), [head, self._sub()], anchor="top")
            self._paragraphs(Box(inner.x + beside + 1, inner.y, inner.w - beside - 1, inner.h))
            return
        rest = self._stack(inner, [head], anchor="top")
        columns = 2 if rest.w >= 18 else 1
        width = (rest.w - 2 * (columns - 1)) // columns
        for column in range(columns):
            self._paragraphs(Box(rest.x + column * (width + 2), rest.y, width, rest.h))

    def _invite(self) -> None:
        """A frame, and a few lines in its middle with air around them."""
        self.background = self._either(0.25, self.accent, LIGHT)
        self.align = "centre"
        frame = self.paper.inset(1)
        colour = self._other_than(self.background, self.accent, self.second)
        self._add(Element("shape", frame, colour, "frame"))
        inner = frame.inset(2)
        rows: list[tuple[int, int]] = [(1, 2), self._head(inner), self._sub()]
        if inner.h >= 12 and self.fullness > 0.4:
            rows.append((2, 2))
        if inner.h >= 16 and self.rng.random() < 0.4:
            d = int(self.rng.integers(6, 9))
            inner, shown = self._below(inner, d + 1), Box(inner.x + (inner.w - d) // 2, inner.y, d, d)
            self._add(Element("picture", shown, self.second, "ellipse", motif=self._motif(), seed=self._seed()))
        elif inner.h < 8:
            rows = rows[1:]
        rest = self._stack(inner, rows, narrow=0.75)
        if rest.h >= 3 and self.playful:
            w = int(self.rng.integers(4, 9))
            self._add(Element("shape", Box(inner.x + (inner.w - w) // 2, inner.y + inner.h - 1, w, 1), colour))

    def _entertain(self) -> None:
        """A picture over most of the paper, a large headline on it, and confetti."""
        self.background = self._either(0.7, DARK, self.accent)
        self.align = self._either(0.5, "left", "centre")
        share = 0.6 + 0.4 * self.fullness
        if self.wide:
            shown = Box(self.paper.x, self.paper.y, round(share * self.paper.w), self.paper.h)
            if self.rng.random() < 0.5:
                shown = replace(shown, x=self.paper.x + self.paper.w - shown.w)
        else:
            shown = Box(self.paper.x, self.paper.y, self.paper.w, round(share * self.paper.h))
        colour = self._other_than(self.background, self.accent, self.second)
        motif = int(self.rng.choice([2, 3, 3]))
        self._add(Element("picture", shown, colour, motif=motif, seed=self._seed()))
        inner = self.paper.inset(2)
        self._stack(inner, [self._head(inner, least=3), self._sub()], anchor=self._either(0.5, "middle", "bottom"))
        self._confetti(shown, colour)

    # -- parts --------------------------------------------------------------------------------------------

    def _divide(self, box: Box, share: float, first: bool) -> tuple[Box, Box]:
        """A box in two, side by side on wide paper, else one above the other: that of the picture, and the rest."""
        if self.wide:
            w = max(6, round(share * (box.w - 1)))
            one, two = Box(box.x, box.y, w, box.h), Box(box.x + w + 1, box.y, box.w - w - 1, box.h)
            if not first:
                one, two = replace(one, x=box.x + box.w - w), replace(two, x=box.x)
            return one, two
        h = max(5, round(share * (box.h - 1)))
        one, two = Box(box.x, box.y, box.w, h), self._below(box, h + 1)
        if not first:
            one, two = replace(one, y=box.y + box.h - h), replace(two, y=box.y)
        return one, two

    @staticmethod
    def _below(box: Box, height: int) -> Box:
        return Box(box.x, box.y + height, box.w, box.h - height)

    def _set_picture(self, box: Box, colour: int, motif: int) -> Box:
        """Put a picture into a box, narrower than it where it is not wide already; where it lies."""
        w = max(5, round(box.w * self.rng.uniform(0.75, 1.0)))
        placed = Box(self._across(box, w), box.y, w, box.h)
        self._add(Element("picture", placed, colour, motif=motif, seed=self._seed()))
        return placed

    def _head(self, box: Box, least: int = 2, most: int = TALLEST_LINE) -> tuple[int, int]:
        """Lines and line height of the headline, as large as the design's emphasis and the box allow."""
        tallest = min(most, TALLEST_LINE, max(least, box.h // 2), max(least, box.w // 2))
        height = least * (tallest / least) ** self.emphasis
        return 1, round(height)

    def _sub(self) -> tuple[int, int]:
        """Lines and line height of what stands below the headline."""
        return 1, self._either(0.7, 2, 3)

    def _stack(
        self,
        box: Box,
        rows: list[tuple[int, int]],
        anchor: Literal["top", "middle", "bottom"] = "middle",
        narrow: float = 1.0,
    ) -> Box:
        """Set texts of (lines, line height) one below the other; what is left of the box below them."""
        gap = 2 - round(self.fullness)
        rows = self._fitting(rows, box.h, gap)
        used = sum(lines * height for lines, height in rows) + gap * (len(rows) - 1)
        y = box.y + {"top": 0, "middle": (box.h - used) // 2, "bottom": box.h - used}[anchor]
        for lines, height in rows:
            leads = height == max(size for _, size in rows)
            wide = self.rng.uniform(2.4, 4.5) * height if lines == 1 else box.w
            w = int(np.clip(round(wide), min(4, box.w), max(4, narrow * box.w)))
            font = ("sans" if self.playful else "serif") + ("-bold" if leads else "")
            self._add(self._text(Box(self._across(box, w), y, w, lines * height), lines, font, self.align))
            y += lines * height + gap
        return Box(box.x, y, box.w, max(0, box.y + box.h - y))

    @staticmethod
    def _fitting(rows: list[tuple[int, int]], height: int, gap: int) -> list[tuple[int, int]]:
        """As many rows as there is room for; a first one alone is made as large as fits."""
        kept: list[tuple[int, int]] = []
        for lines, size in rows:
            taken = sum(n * tall + gap for n, tall in kept)
            if taken + lines * size <= height:
                kept.append((lines, size))
        return kept or [(1, max(2, height))]

    def _paragraphs(self, box: Box) -> None:
        """Body text from the top of a box, the denser the design the more of it."""
        height = round(box.h * (0.45 + 0.55 * self.fullness))
        y, end = box.y, box.y + height
        while end - y >= 4:
            lines = min((end - y) // 2, int(self.rng.integers(2, 6)))
            w = int(np.clip(round(box.w * self.rng.uniform(0.75, 1.0)), 4, box.w))
            self._add(self._text(Box(self._across(box, w), y, w, 2 * lines), lines, self._body_font(), "left"))
            y += 2 * lines + 1

    def _confetti(self, shown: Box, beneath: int) -> None:
        """Small shapes strewn over the picture where there is no text."""
        taken = [e.box for e in self.elements if e.kind == "text"]
        colours = [c for c in (self.second, self.accent, LIGHT) if c != beneath]
        for _ in range(int(self.rng.integers(2, 5)) + 2 * self.playful):
            d = int(self.rng.integers(2, 5))
            x = int(self.rng.integers(shown.x, shown.x + shown.w - d + 1))
            y = int(self.rng.integers(shown.y, shown.y + shown.h - d + 1))
            form: Literal["ellipse", "triangle"] = "ellipse" if self.rng.random() < 0.5 else "triangle"
            if all(x + d <= b.x or b.x + b.w <= x or y + d <= b.y or b.y + b.h <= y for b in taken):
                self._add(Element("shape", Box(x, y, d, d), int(self.rng.choice(colours)), form))

    # -- chance and colour ----------------------------------------------------------------------------------

    def _across(self, box: Box, w: int) -> int:
        """Where something of this width begins: on the common line, or by carelessness off it."""
        room = max(0, box.w - w)
        proper = room // 2 if self.align == "centre" else 0
        return box.x + round((1 - self.carelessness) * proper + self.carelessness * self.rng.uniform(0, room))

    def _add(self, element: Element) -> None:
        self.elements.append(element)

    def _text(self, box: Box, lines: int, font: str, align: Align) -> Element:
        return Element("text", box, DARK, lines=lines, font=font, align=align, seed=self._seed())

    def _body_font(self) -> str:
        return "sans" if self.playful else "serif"

    def _motif(self) -> int:
        return int(self.rng.integers(4))

    def _seed(self) -> int:
        return int(self.rng.integers(2**31))

    def _either(self, chance: float, one: T, other: T) -> T:
        return one if self.rng.random() < chance else other

    @staticmethod
    def _other_than(taken: int, *wanted: int) -> int:
        return next(colour for colour in wanted if colour != taken)

    def _inked(self) -> list[Element]:
        """The elements, each text in the colour whose contrast to what is beneath it is nearest to what is wanted."""
        table = contrast_table(self.n_colours)
        inked: list[Element] = []
        for element in self.elements:
            if element.kind == "text":
                beneath = self._beneath(element, inked)
                off = np.abs(table[beneath] - self.wanted_contrast)
                off[[DESK, beneath]] = math.inf
                element = replace(element, colour=int(off.argmin()))
            inked.append(element)
        return inked

    def _beneath(self, text: Element, laid: list[Element]) -> int:
        """The colour id in the middle of a text, before it is set."""
        x, y = text.box.x + text.box.w / 2, text.box.y + text.box.h / 2
        for element in reversed(laid):
            b = element.box
            if element.form != "frame" and b.x <= x < b.x + b.w and b.y <= y < b.y + b.h:
                return element.colour
        return self.background

"""What a synthetic design consists of: a paper, and elements on a grid of 32 by 32 units.

Designers put things on a grid (Müller-Brockmann, 1981). Here it also makes every picture size honest: at any multiple
of 32 pixels the edges of all boxes fall between pixels, so that what a map says of a pixel is true of all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

GRID = 32  #: units along a side of the canvas

GOALS = ("sell", "inform", "invite", "entertain")
FORMATS = ("poster", "card", "banner", "square")
TONES = ("warm", "playful", "dense")

#: x, y, width and height of the paper of each format; the canvas around it is the desk that it lies on.
PAPERS = {"poster": (5, 1, 22, 30), "card": (1, 6, 30, 20), "banner": (1, 10, 30, 12), "square": (2, 2, 28, 28)}

TALLEST_LINE = 8  #: units, of text


@dataclass(frozen=True)
class Meta:
    """What a design means: V_Meta.

    Attributes
    ----------
    goal : class, index into :data:`GOALS`
    format : class, index into :data:`FORMATS`
    tone : warm, playful and dense, each in [-1, 1]
    """

    goal: int
    format: int
    tone: tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle in grid units."""

    x: int
    y: int
    w: int
    h: int

    def inset(self, margin: int) -> Box:
        """What is left within a margin."""
        return Box(self.x + margin, self.y + margin, self.w - 2 * margin, self.h - 2 * margin)

    @property
    def area(self) -> int:
        return self.w * self.h


@dataclass(frozen=True)
class Element:
    """A text, a picture or a shape in a box.

    Attributes
    ----------
    kind : ``"text"``, ``"picture"`` or ``"shape"``
    box : where it is
    colour : id of its ink, of the main colour of a picture, of the fill of a shape
    form : outline of pictures and shapes; texts are rectangles
    lines : of text
    font : ``"sans"`` or ``"serif"``, either with ``"-bold"``
    align : of the lines within the box
    motif : number of what a picture shows
    seed : of the words, and of what is drawn at random in a picture
    """

    kind: Literal["text", "picture", "shape"]
    box: Box
    colour: int
    form: Literal["rectangle", "ellipse", "triangle", "frame"] = "rectangle"
    lines: int = 1
    font: str = "sans"
    align: Literal["left", "centre"] = "left"
    motif: int = 0
    seed: int = 0

    @property
    def line_height(self) -> float:
        """Of a text, in units."""
        return self.box.h / self.lines

    @property
    def importance(self) -> float:
        """How much the eye is drawn to it, in [0, 1]: of a text by its size, of the rest by its area."""
        if self.kind == "text":
            return self.line_height / TALLEST_LINE
        share = self.box.area / GRID**2
        return min(1.0, (0.9 if self.kind == "picture" else 0.5) * share**0.5)

    def covers(self, size: int) -> NDArray[np.bool_]:
        """Which pixels of a canvas of (size, size) lie in it, by their centres."""
        unit = size / GRID
        along = (np.arange(size) + 0.5) / unit  # in units
        x, y = along[None, :] - self.box.x, along[:, None] - self.box.y
        w, h = self.box.w, self.box.h
        inside = (x > 0) & (x < w) & (y > 0) & (y < h)
        if self.form == "ellipse":
            inside &= (2 * x / w - 1) ** 2 + (2 * y / h - 1) ** 2 <= 1
        elif self.form == "triangle":  # its tip in the middle of the upper edge
            inside &= np.abs(2 * x / w - 1) <= y / h
        elif self.form == "frame":  # one unit wide
            inside &= ~((x > 1) & (x < w - 1) & (y > 1) & (y < h - 1))
        return inside


@dataclass(frozen=True)
class Layout:
    """A whole design, before it is drawn.

    Attributes
    ----------
    meta : what it means
    paper : its sheet
    background : colour id of the paper
    elements : in the order in which they are laid, later ones above
    colours : (n_colours, 3) RGB in [0, 1], the palette as this design has it
    """

    meta: Meta
    paper: Box
    background: int
    elements: tuple[Element, ...]
    colours: NDArray[np.float64]

    @property
    def n_colours(self) -> int:
        return len(self.colours)

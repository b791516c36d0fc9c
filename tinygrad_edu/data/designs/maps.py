"""What a layout says of itself as numbers: the maps of F_Tensor, and the four scores of V_Grammar."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .layout import GRID, Element, Layout
from .palette import DESK, contrast_table

MAPS = ("text", "picture", "colour", "hierarchy")
GRAMMAR = ("alignment", "contrast", "white_space", "hierarchy")

_NEAR = 2.0  # units within which two lines still look like one: a sixteenth of the canvas


def feature_maps(layout: Layout, size: int = GRID) -> NDArray[np.float32]:
    """F_Tensor of a design.

    Parameters
    ----------
    layout : of the design
    size : pixels along a side

    Returns
    -------
    (4, size, size) float32
        For each pixel: 1 in the box of a text, else 0; 1 where a picture shows, behind letters too, else 0; the
        colour id of what lies there, in the box of a text that of its ink; and the importance of the element there
        in [0, 1], 0 on the bare paper and around it.
    """
    text, picture = np.zeros((size, size), bool), np.zeros((size, size), bool)
    colour, importance = _bare(layout, size), np.zeros((size, size), np.float32)
    for element in layout.elements:
        inside = element.covers(size)
        text[inside] = element.kind == "text"
        if element.kind != "text":
            picture[inside] = element.kind == "picture"
        colour[inside], importance[inside] = element.colour, element.importance
    return np.stack([text, picture, colour, importance]).astype(np.float32)


def _bare(layout: Layout, size: int) -> NDArray[np.int64]:
    """The colour ids of the desk and of the paper on it, (size, size)."""
    colour = np.full((size, size), DESK)
    colour[Element("shape", layout.paper, layout.background).covers(size)] = layout.background
    return colour


def grammar_scores(layout: Layout) -> NDArray[np.float32]:
    """V_Grammar of a design: alignment, contrast, use of white space and hierarchy, (4,) float32 in [0, 1].

    Each is a plain formula over the layout; see the functions of these names. The idea of scoring a layout by such
    terms is that of Ngo, Teo & Byrne (2003) and O'Donovan, Agarwala & Hertzmann (2014).
    """
    return np.array(
        [alignment(layout), contrast(layout), white_space(layout), hierarchy(layout)],
        np.float32,
    )


def alignment(layout: Layout) -> float:
    r"""How far texts and pictures stand on common vertical lines.

    Each of the n elements i has three lines :math:`x_i^k`: left edge, middle and right edge. It is as well aligned as
    its best line is with the same line of the nearer half :math:`N_i^k` of the others, and the score is the mean:

    .. math:: A = \frac1n \sum_i \max_k \exp\Big(-\frac1\tau \operatorname*{mean}_{j \in N_i^k} |x_i^k - x_j^k|\Big)

    with :math:`\tau` a sixteenth of the canvas. Half of the others, so that two columns are no mistake.
    """
    boxes = np.array([[e.box.x, e.box.x + e.box.w] for e in layout.elements if e.kind != "shape"], float)
    if len(boxes) < 2:
        return 1.0
    lines = np.stack([boxes[:, 0], boxes.mean(axis=1), boxes[:, 1]])  # (3, n)
    apart = np.sort(np.abs(lines[:, :, None] - lines[:, None, :]), axis=2)[:, :, 1:]  # without itself
    nearer = apart[:, :, : -(-apart.shape[2] // 2)].mean(axis=2)  # (3, n)
    return float(np.exp(-nearer / _NEAR).max(axis=0).mean())


def contrast(layout: Layout) -> float:
    """How well the texts can be told from what is beneath them, by the palette: the mean over their area.

    See :func:`tinygrad_edu.data.designs.contrast_table` for the contrast of two colours. Without a text it is 0.
    """
    table, colour = contrast_table(layout.n_colours), _bare(layout, GRID)
    found = []
    for element in layout.elements:
        inside = element.covers(GRID)
        if element.kind == "text":
            found.append(table[element.colour, colour[inside]])
        colour[inside] = element.colour
    return float(np.concatenate(found).mean()) if found else 0.0


def white_space(layout: Layout) -> float:
    r"""How well the paper is used: 1 where half of it is empty, falling to 0 for a bare sheet and for a full one.

    .. math:: W = 1 - |2 w - 1|

    where w is the share of the paper that no element covers. Of pages with 25, 50 and 75 % of white space, those with
    more than 50 % lost in usability (Coursaris & Kripintris, 2012); that a full sheet is as bad as a bare one is set
    here.
    """
    covered = np.zeros((GRID, GRID), bool)
    for element in layout.elements:
        covered |= element.covers(GRID)
    paper = Element("shape", layout.paper, 0).covers(GRID)
    empty = 1 - float((covered & paper).sum()) / layout.paper.area
    return 1 - abs(2 * empty - 1)


def hierarchy(layout: Layout) -> float:
    r"""How clearly the largest text leads the others.

    .. math:: H = \min\Big(1, \tfrac12 \log_2 \frac{s_1}{\bar s}\Big)

    where :math:`s_1` is the line height of the largest text and :math:`\bar s` the mean of those of the others: 0 where
    all are of one size, 1 where it is four times as tall. Texts of one size have no hierarchy, nor has a text alone.
    """
    sizes = sorted((e.line_height for e in layout.elements if e.kind == "text"), reverse=True)
    if len(sizes) < 2:
        return 0.0
    return float(min(1.0, 0.5 * np.log2(sizes[0] / np.mean(sizes[1:]))))

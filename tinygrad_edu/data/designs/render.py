"""Drawing a layout with Pillow: P_Image."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .layout import GRID, Element, Layout
from .palette import DESK
from .pictures import picture
from .words import body_line, headline

_FINE = 256  # pixels along a side, at least, on which is drawn before it is reduced

#: Fonts that come with matplotlib, by the names that elements use.
FONTS = {
    "sans": "DejaVuSans.ttf",
    "sans-bold": "DejaVuSans-Bold.ttf",
    "serif": "DejaVuSerif.ttf",
    "serif-bold": "DejaVuSerif-Bold.ttf",
}
_FONT_SIZE = 48  # pixels; a line is drawn once at this size and then fitted into its box


def check_size(size: int) -> None:
    """Raise ConfigError unless a design can be drawn with so many pixels along a side."""
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    if not whole or size % GRID or not GRID <= size <= 256:
        raise ConfigError(f"size: {size!r}, wanted a multiple of {GRID} from {GRID} to 256")


def render(layout: Layout, size: int = GRID) -> NDArray[np.uint8]:
    """Draw a design: P_Image.

    It is drawn several times as large and then reduced, so that small text becomes the grey that a camera would see
    and not noise.

    Parameters
    ----------
    layout : what to draw
    size : pixels along a side, a multiple of 32 from 32 to 256

    Returns
    -------
    (3, size, size) uint8
        Red, green and blue. Divide by 255 for [0, 1].

    Raises
    ------
    ConfigError
        For another size, or when Pillow is not installed.
    """
    check_size(size)
    image_module = pillow()
    reduction = max(2, _FINE // size)
    fine = size * reduction
    unit = fine // GRID
    colours = [tuple(round(255 * part) for part in colour) for colour in layout.colours]
    canvas = image_module.new("RGB", (fine, fine), colours[DESK])
    paper = layout.paper
    canvas.paste(colours[layout.background], _pixels(paper, unit))
    for element in layout.elements:
        where = _pixels(element.box, unit)
        if element.kind == "text":
            canvas.paste(colours[element.colour], where, _text_mask(element, unit))
        elif element.kind == "picture":
            rng = np.random.default_rng(element.seed)
            drawn = picture(element.motif, layout.colours[element.colour], _extent(element, unit), rng)
            canvas.paste(drawn, where[:2], _outline(element, unit))
        else:
            canvas.paste(colours[element.colour], where, _outline(element, unit))
    return np.ascontiguousarray(np.asarray(canvas.reduce(reduction), np.uint8).transpose(2, 0, 1))


def pillow() -> Any:
    """Pillow's module ``Image``.

    Raises
    ------
    ConfigError
        If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(
            "designs are drawn by Pillow, which is not installed: run `pip install 'tinygrad_edu[vision]'` or "
            "`pip install Pillow`"
        ) from error
    return Image


def _pixels(box: Any, unit: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom."""
    return box.x * unit, box.y * unit, (box.x + box.w) * unit, (box.y + box.h) * unit


def _extent(element: Element, unit: int) -> tuple[int, int]:
    """Width and height in pixels."""
    return element.box.w * unit, element.box.h * unit


def _outline(element: Element, unit: int) -> Any:
    """Where in its box a shape or picture is, as a mask for Pillow."""
    from PIL import Image, ImageDraw

    w, h = _extent(element, unit)
    mask = Image.new("L", (w, h), 255 if element.form == "rectangle" else 0)
    draw = ImageDraw.Draw(mask)
    if element.form == "ellipse":
        draw.ellipse((0, 0, w - 1, h - 1), fill=255)
    elif element.form == "triangle":
        draw.polygon([(w / 2, 0), (w, h), (0, h)], fill=255)
    elif element.form == "frame":
        draw.rectangle((0, 0, w - 1, h - 1), outline=255, width=unit)
    return mask


# -- text ------------------------------------------------------------------------------------------------


def _text_mask(element: Element, unit: int) -> Any:
    """The ink of a text, as a mask for Pillow that fills its box."""
    from PIL import Image

    w, h = _extent(element, unit)
    mask = Image.new("L", (w, h), 0)
    rng = np.random.default_rng(element.seed)
    pitch = h // element.lines
    inked = max(1, round(pitch * (0.92 if element.lines == 1 else 0.78)))
    for line in range(element.lines):
        last = line == element.lines - 1 and element.lines > 1
        width = round(w * (rng.uniform(0.45, 0.9) if last else 1.0 - 0.08 * rng.random() * (element.lines > 1)))
        # Letters are as wide as the box wants: the text that comes nearest to it by itself is taken.
        wanted = width / inked
        words = headline(wanted, rng) if element.lines == 1 else body_line(wanted, rng)
        ink = _line_of(words, element.font).resize((max(1, width), inked), Image.Resampling.BOX)
        left = (w - width) // 2 if element.align == "centre" else 0
        mask.paste(ink, (left, line * pitch + (pitch - inked) // 2))
    return mask


@lru_cache(maxsize=4096)
def _line_of(words: str, font: str) -> Any:
    """A line of text in white on black, cut to its ink."""
    from PIL import Image, ImageDraw

    face = _face(font)
    left, top, right, bottom = (int(edge) for edge in face.getbbox(words))
    line = Image.new("L", (max(1, right - left), max(1, bottom - top)), 0)
    ImageDraw.Draw(line).text((-left, -top), words, fill=255, font=face)
    return line


@lru_cache
def _face(font: str) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FONTS[font]), _FONT_SIZE)

"""Synthetic pictures: landscapes, objects, textures and rays in the shades of one colour."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Colour = NDArray[np.float64]


def shade(colour: Colour, lightness: float) -> tuple[int, int, int]:
    """A colour lighter (above 0) or darker (below 0), as Pillow wants it."""
    toward = np.ones(3) if lightness > 0 else np.zeros(3)
    mixed = colour + abs(lightness) * (toward - colour)
    red, green, blue = (round(255 * part) for part in mixed)
    return red, green, blue


def picture(motif: int, colour: Colour, extent: tuple[int, int], rng: np.random.Generator) -> Any:
    """Draw a picture in the shades of a colour.

    Parameters
    ----------
    motif : its number, modulo 4: hills under a sun, an object on a table, a woven texture, rays
    colour : (3,) RGB in [0, 1], its main colour
    extent : width and height in pixels
    rng : decides the rest

    Returns
    -------
    PIL.Image.Image
    """
    return (_hills, _object, _texture, _rays)[motif % 4](colour, extent, rng)


def _gradient(colour: Colour, extent: tuple[int, int], above: float, below: float) -> Any:
    """From one lightness at the upper edge to another at the lower one."""
    from PIL import Image

    w, h = extent
    lightness = np.linspace(above, below, max(h, 2))[:, None]  # (h, 1)
    toward = (lightness > 0).astype(float)
    rows = colour + np.abs(lightness) * (toward - colour)  # (h, 3)
    pixels = np.broadcast_to(np.rint(255 * rows)[:, None, :], (len(rows), w, 3)).astype(np.uint8)
    return Image.fromarray(pixels).crop((0, 0, w, h))


def _hills(colour: Colour, extent: tuple[int, int], rng: np.random.Generator) -> Any:
    from PIL import ImageDraw

    w, h = extent
    image = _gradient(colour, extent, 0.15, 0.6)
    draw = ImageDraw.Draw(image)
    r, x, y = 0.13 * min(w, h), w * rng.uniform(0.2, 0.8), h * rng.uniform(0.2, 0.35)
    draw.ellipse((x - r, y - r, x + r, y + r), fill=shade(colour, 0.85))
    along = np.linspace(0, 1, 24)
    for base, dark in ((0.5, -0.1), (0.72, -0.4)):
        waves = np.sin(2 * np.pi * (rng.uniform(0.7, 1.8) * along + rng.random()))
        heights = base - 0.13 * waves * rng.uniform(0.5, 1)
        ridge = [(w * x, h * y) for x, y in zip(along, heights, strict=True)]
        draw.polygon([*ridge, (w, h), (0, h)], fill=shade(colour, dark))
    return image


def _object(colour: Colour, extent: tuple[int, int], rng: np.random.Generator) -> Any:
    from PIL import ImageDraw

    w, h = extent
    image = _gradient(colour, extent, 0.3, 0.05)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0.72 * h, w, h), fill=shade(colour, -0.3))
    r = min(w, h) * rng.uniform(0.24, 0.34)
    x, y = w * rng.uniform(0.4, 0.6), 0.72 * h - 0.55 * r
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    other = np.array(colorsys.hsv_to_rgb((hue + rng.uniform(-0.04, 0.04)) % 1, saturation, 0.55 * value))
    if rng.random() < 0.5:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=shade(other, 0))
        draw.ellipse((x - 0.55 * r, y - 0.65 * r, x - 0.05 * r, y - 0.15 * r), fill=shade(colour, 0.6))
    else:
        draw.rectangle((x - 0.7 * r, y - r, x + 0.7 * r, y + r), fill=shade(other, 0))
        draw.rectangle((x - 0.7 * r, y - 0.2 * r, x + 0.7 * r, y + 0.35 * r), fill=shade(colour, 0.6))
    return image


def _texture(colour: Colour, extent: tuple[int, int], rng: np.random.Generator) -> Any:
    from PIL import Image

    w, h = extent
    noise = np.zeros((h, w))
    for cells in (3, 8):
        coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        noise += np.asarray(coarse.resize((w, h), Image.Resampling.BICUBIC)) * 2 / cells
    lightness = np.clip(0.35 * noise, -0.5, 0.5)[..., None]  # (h, w, 1)
    pixels = colour + np.abs(lightness) * ((lightness > 0) - colour)
    return Image.fromarray(np.rint(255 * pixels).astype(np.uint8))


def _rays(colour: Colour, extent: tuple[int, int], rng: np.random.Generator) -> Any:
    from PIL import ImageDraw

    w, h = extent
    image = _gradient(colour, extent, -0.05, -0.25)
    draw = ImageDraw.Draw(image)
    x, y, reach = w * rng.uniform(0.2, 0.8), h * rng.uniform(0.7, 1.0), 2 * max(w, h)
    for angle in np.arange(0, 2 * np.pi, np.pi / 7) + rng.random():
        ends = [(x + reach * np.cos(a), y + reach * np.sin(a)) for a in (angle - 0.1, angle + 0.1)]
        draw.polygon([(x, y), *ends], fill=shade(colour, 0.35))
    return image

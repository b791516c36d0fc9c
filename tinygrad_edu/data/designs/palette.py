"""The colours of synthetic designs: a palette by id, how warm each is, and how well two can be told apart."""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError

#: Colour ids that every palette has: what lies around the paper, white paper, and black ink.
DESK, LIGHT, DARK = 0, 1, 2

#: Name, hexadecimal RGB, and warmth in [-1, 1] (None: neutral). A palette of n colours has the first n.
_COLOURS: tuple[tuple[str, str, float | None], ...] = (
    ("desk", "b9bbbe", None),
    ("light", "f8f5ef", None),
    ("dark", "1e1e26", None),
    ("red", "d1382f", 0.9),
    ("blue", "2b62c0", -0.9),
    ("yellow", "f2b632", 0.45),
    ("green", "2f9e5b", -0.05),
    ("purple", "7d3fa8", -0.5),
    ("pink", "ea7fa4", 0.65),
    ("teal", "15999b", -0.7),
    ("brown", "7a4f2b", 0.75),
    ("sky", "7cc0ee", -1.0),
    ("lime", "a8cc3c", 0.15),
    ("navy", "14305e", -0.8),
    ("orange", "ee7a24", 0.7),
    ("olive", "6b7030", 0.3),
)
FEWEST_COLOURS, MOST_COLOURS = 5, len(_COLOURS)


def check_colours(n_colours: int) -> None:
    """Raise ConfigError unless a palette can have so many colours."""
    whole = isinstance(n_colours, int | np.integer) and not isinstance(n_colours, bool)
    if not whole or not FEWEST_COLOURS <= n_colours <= MOST_COLOURS:
        raise ConfigError(f"n_colours: {n_colours!r}, wanted an integer from {FEWEST_COLOURS} to {MOST_COLOURS}")


def palette(n_colours: int = 8) -> NDArray[np.float64]:
    """The colours by id, (n_colours, 3), RGB in [0, 1]. A design varies them a little (:func:`tinted`).

    Raises
    ------
    ConfigError
        Unless `n_colours` is from 5 to 16.
    """
    check_colours(n_colours)
    return np.array([[int(code[at : at + 2], 16) for at in (0, 2, 4)] for _, code, _ in _COLOURS[:n_colours]]) / 255


def colour_names(n_colours: int = 8) -> tuple[str, ...]:
    """The name of each colour id."""
    check_colours(n_colours)
    return tuple(name for name, _, _ in _COLOURS[:n_colours])


def hues_by_warmth(n_colours: int, warmth: float) -> list[int]:
    """The ids of all colours that are not neutral, those of about this `warmth` in [-1, 1] first."""
    known = [(at, own) for at, (_, _, own) in enumerate(_COLOURS[:n_colours]) if own is not None]
    return [at for at, own in sorted(known, key=lambda pair: abs(pair[1] - warmth))]


def tinted(colours: NDArray[np.float64], saturation: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The palette as one design has it: more or less saturated, every hue and lightness a little off."""
    varied = []
    for red, green, blue in colours:
        hue, own, value = colorsys.rgb_to_hsv(red, green, blue)
        hue = (hue + 0.012 * rng.standard_normal()) % 1.0
        own = min(1.0, own * saturation)
        value = min(1.0, max(0.0, value + 0.025 * rng.standard_normal()))
        varied.append(colorsys.hsv_to_rgb(hue, own, value))
    return np.array(varied)


def luminance(colour: NDArray[np.float64]) -> float:
    """Relative luminance of an RGB colour in [0, 1] (WCAG 2.2, after sRGB)."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast_table(n_colours: int = 8) -> NDArray[np.float64]:
    r"""How well each pair of colour ids can be told apart, (n_colours, n_colours), in [0, 1].

    .. math:: c_{ab} = \log_{21} \frac{\max(Y_a, Y_b) + 0.05}{\min(Y_a, Y_b) + 0.05}

    the logarithm of the contrast ratio of the Web Content Accessibility Guidelines 2.2 (W3C, 2023), which goes from
    1 (the same luminance Y) to 21 (black on white).
    """
    y = np.array([luminance(colour) for colour in palette(n_colours)]) + 0.05
    return np.abs(np.log(y[:, None] / y)) / math.log(21)

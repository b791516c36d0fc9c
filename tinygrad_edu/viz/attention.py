"""Where attention looks: weights as shades, between the words that are written and those that are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ShapeError, format_shape
from .figure import new_figure, put_title, save_figure


def plot_attention(
    weights: Sequence[Any],
    read: Sequence[str],
    written: Sequence[str],
    path: str | Path,
    *,
    titles: Sequence[str] = (),
    dpi: int = 150,
) -> Path:
    """Draw attention weights into a picture file, a panel for each array.

    Parameters
    ----------
    weights : arrays (T, S) on the host, each row the weights with which one place looks at all that is read
    read : S texts, of what is read
    written : T texts, of what was written at each place
    path : of the picture; its suffix decides the format (``.png``, ``.svg``, ``.pdf``)
    titles : above the panels
    dpi : dots an inch

    Returns
    -------
    Path
        Of the picture, written whole or not at all.

    Raises
    ------
    ShapeError
        If there are no weights, or they do not have the shape (T, S).
    DataError
        If the picture cannot be written.
    """
    wanted = (len(written), len(read))
    if not len(weights):
        raise ShapeError("plot_attention: there are no weights to draw")
    for number, panel in enumerate(weights):
        if tuple(panel.shape) != wanted:
            raise ShapeError(
                f"plot_attention: weights {number} must be (written, read), {format_shape(wanted)}, "
                f"got {format_shape(tuple(panel.shape))}"
            )
    size = (max(2.2, 0.32 * wanted[1] + 1.2) * len(weights), max(2.0, 0.3 * wanted[0] + 1.2))
    figure = new_figure(*size)
    rows = figure.subplots(1, len(weights), squeeze=False, sharey=True)
    for number, (axes, panel) in enumerate(zip(rows[0], weights, strict=True)):
        axes.imshow(panel, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(wanted[1]), [_plain(text) for text in read], fontsize=8)
        axes.set_yticks(range(wanted[0]), [_plain(text) for text in written], fontsize=8)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        put_title(axes, titles[number] if number < len(titles) else "")
    return save_figure(figure, path, dpi)


def _plain(text: str) -> str:
    """A token as it can be seen: no formula, and a space at its beginning as a mark."""
    return text.replace(" ", "␣", 1 if text.strip() else -1).replace("$", r"\$")

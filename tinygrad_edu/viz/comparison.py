"""The picture of several models beside each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from .figure import new_figure, put_title, save_figure


def plot_comparison(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    baseline: tuple[str, float] | None = None,
    dashed: Collection[str] = (),
    title: str = "",
    axes: tuple[str, str] = ("seconds of training", "bits per byte of validation text"),
) -> Path:
    """Draw one curve a model into a picture file.

    Parameters
    ----------
    curves : name of a model to its points (x, y), in order
    path : of the picture; its suffix decides the format
    baseline : name and height of a horizontal line
    dashed : models whose curve is dashed, because their figure answers another question
    title : above the picture
    axes : names of x and y

    Raises
    ------
    DataError
        If there is nothing to draw, or the picture cannot be written.
    """
    if not any(curves.values()):
        raise DataError(f"{path}: no points to draw")
    figure = new_figure(8.0, 5.0)
    picture = figure.subplots()
    for name, points in curves.items():
        if points:
            style = "--" if name in dashed else "-"
            (line,) = picture.plot(*zip(*points, strict=True), style, marker="o", markersize=3.5, linewidth=1.6)
            line.set_label(f"{name}{' (masked)' * (name in dashed)}, {points[-1][1]:.3f}")
    if baseline is not None:
        picture.axhline(baseline[1], color="#6b7280", linestyle=":", linewidth=1.4, label=baseline[0])
    picture.set_xlabel(axes[0])
    picture.set_ylabel(axes[1])
    picture.grid(alpha=0.25, linewidth=0.6)
    picture.spines[["top", "right"]].set_visible(False)
    picture.legend(frameon=False)
    put_title(picture, title)
    return save_figure(figure, path)

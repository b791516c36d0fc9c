"""What all pictures share: a figure that touches nothing else, a title, and a file that is whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..storage import write_atomic


def new_figure(width: float, height: float) -> Any:
    """A figure of its own: no pyplot, no window, no change of matplotlib's global settings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def put_title(axes: Any, title: str) -> None:
    """A title above `axes`, if there is one; a dollar sign is no formula."""
    if title:
        axes.set_title(title.replace("$", r"\$"), loc="left", fontsize=11, fontweight="bold")


def save_figure(figure: Any, path: str | Path, dpi: int = 150) -> Path:
    """Write `figure` whole or not at all; the suffix of `path` decides the format.

    Raises
    ------
    DataError
        If the format is unknown, or the file cannot be written.
    """
    path = Path(path)
    buffer = io.BytesIO()
    kind = path.suffix.removeprefix(".") or "png"
    try:
        figure.savefig(buffer, format=kind, dpi=dpi)
    except ValueError as error:  # an unknown format
        raise DataError(f"{path}: cannot be drawn: {error}") from error
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path

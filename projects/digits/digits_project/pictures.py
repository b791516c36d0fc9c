"""Sheets of digits, with a word beside each row and above each column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_edu.viz.figure import new_figure, put_title, save_figure


def draw_sheet(
    images: Any,
    path: str | Path,
    *,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Draw pictures (rows, columns, S, S) in [-1, 1] into a file, dark on light."""
    images = np.clip(np.asarray(images, dtype=np.float32), -1, 1)
    down, across, side = images.shape[:3]
    pitch = side + 1
    sheet = np.full((down * pitch + 1, across * pitch + 1), np.nan, np.float32)
    for i in range(down):
        for j in range(across):
            sheet[i * pitch + 1 : (i + 1) * pitch, j * pitch + 1 : (j + 1) * pitch] = images[i, j]
    figure = new_figure(max(3.0, 0.5 * across + 0.8), 0.5 * down + 0.8)
    axes = figure.subplots()
    axes.imshow(sheet, cmap="gray_r", vmin=-1, vmax=1, interpolation="nearest")
    middle = pitch / 2
    axes.set_yticks([i * pitch + middle for i in range(len(rows))], list(rows), fontsize=8)
    axes.set_xticks([j * pitch + middle for j in range(len(columns))], list(columns), fontsize=8)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    for side_line in axes.spines.values():
        side_line.set_visible(False)
    put_title(axes, title)
    return save_figure(figure, path)

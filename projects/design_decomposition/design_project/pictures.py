"""Pictures of designs and of what networks make of them: tiles side by side, written as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_edu.backend import to_host
from tinygrad_edu.data.designs import palette
from tinygrad_edu.data.designs.render import pillow
from tinygrad_edu.storage import write_atomic

Tile = NDArray[Any]
_GAP = 3
_LEAST = 96  # pixels along the side of a tile, at least


def image_tile(image: Any) -> Tile:
    """(3, S, S) in [0, 1] as (S, S, 3) bytes."""
    return np.rint(255 * np.clip(to_host(image), 0, 1)).astype(np.uint8).transpose(1, 2, 0)


def map_tile(values: Any) -> Tile:
    """(S, S) in [0, 1] in shades of grey."""
    return np.repeat(np.rint(255 * np.clip(to_host(values), 0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def colour_tile(ids: Any, n_colours: int) -> Tile:
    """(S, S) colour ids in their colours."""
    return np.rint(255 * palette(n_colours)[to_host(ids).astype(int)]).astype(np.uint8)


def save_grid(path: str | Path, rows: Sequence[Sequence[Tile]]) -> Path:
    """Write rows of tiles of one size as a PNG, small ones enlarged pixel by pixel."""
    side = len(rows[0][0])
    times = max(1, -(-_LEAST // side))
    pitch = side * times + _GAP
    height, width = len(rows) * pitch + _GAP, max(map(len, rows)) * pitch + _GAP
    sheet = np.full((height, width, 3), 255, np.uint8)
    for down, row in enumerate(rows):
        for across, tile in enumerate(row):
            y, x = down * pitch + _GAP, across * pitch + _GAP
            sheet[y : y + side * times, x : x + side * times] = tile.repeat(times, 0).repeat(times, 1)
    buffer = io.BytesIO()
    pillow().fromarray(sheet).save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())
    return Path(path)

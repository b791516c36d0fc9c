"""Pictures of attention: drawn whole, refused where weights do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tinygrad_edu.errors import DataError, ShapeError
from tinygrad_edu.viz import plot_attention

WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(3), 4)  # (4, 3)


def test_a_picture_with_a_panel_for_each(tmp_path: Path) -> None:
    sizes = []
    for panels in (1, 3):
        path = plot_attention(
            [WEIGHTS] * panels, ["a", " $b", " "], [*"wxy", "</s>"], tmp_path / f"{panels}.png", titles=["Block $1"]
        )
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(data[16:20], "big"))
    assert sizes[1] == 3 * sizes[0]


def test_what_is_written_and_read_stands_beside_it(tmp_path: Path) -> None:
    text = plot_attention([WEIGHTS], ["42", ",", "0"], ["four", " ty", "two", "!"], tmp_path / "a.svg").read_text()
    for word in ("42", ",", "0", "four", "␣ty", "two", "!"):
        assert f"<!-- {word} -->" in text


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match=r"weights 1 must be \(written, read\), \(4, 3\), got \(3, 4\)"):
        plot_attention([WEIGHTS, WEIGHTS.T], list("abc"), list("wxyz"), tmp_path / "a.png")
    with pytest.raises(ShapeError, match="there are no weights to draw"):
        plot_attention([], [], [], tmp_path / "a.png")
    with pytest.raises(DataError, match="cannot be drawn"):
        plot_attention([WEIGHTS], list("abc"), list("wxyz"), tmp_path / "a.xyz")
    assert not list(tmp_path.iterdir())

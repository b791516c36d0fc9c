"""The affine map by register tiles, against float64, where BLAS would otherwise be asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.draw import lay_out
from tinygrad_edu.kernels.cpu import linear_product
from tinygrad_edu.kernels.cpu.linear_product import product

# rows, inputs, outputs: whole panels and blocks, one more or one less, and several depths
SHAPES = [
    (128, 256, 512),
    (129, 1088, 513),
    (255, 289, 775),
    (33, 2100, 604),
    (9, 64, 1031),
    (530, 512, 517),
    (1100, 256, 638),
]
LAYOUTS = ("plain", "backwards", "broadcast", "offset", "some columns")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the tiles were taken, whatever this machine would take."""
    monkeypatch.setattr(linear_product, "_FAST", True)
    count, loop = [0], linear_product._product

    def run(*args: Any) -> None:
        count[0] += 1
        loop(*args)

    monkeypatch.setattr(linear_product, "_product", run)
    return count


def rows_of(rng: np.random.Generator, rows: int, columns: int, layout: str = "plain") -> np.ndarray:
    if layout == "some columns":
        return rng.standard_normal((rows, columns + 7), dtype=np.float32)[:, 3 : columns + 3]
    return lay_out(rng.standard_normal((rows, columns), dtype=np.float32), layout)


def close(found: np.ndarray, x: np.ndarray, weight: np.ndarray, bias: Any = 0.0) -> None:
    """Within what float32 sums of so many products may be off by: n u abs(x) abs(W) (Higham, 2002, chapter 3)."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    bound = (x.shape[1] + 2) * np.finfo(np.float32).eps / 2 * (np.abs(x) @ np.abs(weight.T) + np.abs(bias))
    assert (np.abs(found - (x @ weight.T + bias)) <= bound).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_a_product_with_weights(taken: list[int], rows: int, inputs: int, outputs: int, layout: str) -> None:
    rng = np.random.default_rng(rows)
    x, weight = rows_of(rng, rows, inputs, layout), rows_of(rng, outputs, inputs, layout)
    bias = rng.standard_normal(outputs, dtype=np.float32)
    close(product(x, weight), x, weight)
    close(product(x, weight, bias), x, weight, bias)
    close(product(x, weight, np.repeat(bias, 2)[::2]), x, weight, bias)
    around = np.full((rows + 2, outputs), np.nan, np.float32)
    assert np.shares_memory(product(x, weight, bias, around[1:-1]), around)
    close(around[1:-1], x, weight, bias)
    assert np.isnan(around[[0, -1]]).all()
    assert taken == [4]


def test_the_check_sees_one_product_left_out(taken: list[int]) -> None:
    rng = np.random.default_rng(0)
    x, weight = rows_of(rng, 128, 512), rows_of(rng, 512, 512)
    y = product(x, weight)
    y[3, 5] -= x[3, 511] * weight[5, 511]
    with pytest.raises(AssertionError):
        close(y, x, weight)


def test_what_does_not_suit_is_left_to_blas(taken: list[int]) -> None:
    rng = np.random.default_rng(1)
    x, weight, bias = rows_of(rng, 128, 300), rows_of(rng, 512, 300), np.ones(512, np.float32)
    for rows, matrix in [
        (x, np.asfortranarray(weight)),
        (np.asfortranarray(x), weight),
        (x[:8], weight),
        (x, weight[:9]),
    ]:
        close(product(rows, matrix, bias[: len(matrix)]), rows, matrix, 1.0)
    with pytest.raises(ValueError, match="matmul"):
        product(x, weight[:, 1:])
    assert taken == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(taken: list[int], value: float) -> None:
    rng = np.random.default_rng(2)
    x, weight = rows_of(rng, 133, 256), rows_of(rng, 515, 256)
    x[132, 7] = value
    y = product(x, weight)
    assert not np.isfinite(y[132]).any() and np.isfinite(y[:132]).all()
    assert taken == [1]

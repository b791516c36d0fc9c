"""What the kernels of convolution promise beyond being right: layout, memory, threads, precision, errors.

That they equal their ops, on random shapes, is in `test_against_ops.py`.
"""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numba
import numpy as np
import pytest

from tinygrad_edu.backend import dispatch, reference_ops, registered_ops
from tinygrad_edu.errors import ShapeError
from tinygrad_edu.layers.convolution_ops import (
    channel_sum,
    convolution,
    convolution_input_gradient,
    convolution_weight_gradient,
    convolved_size,
)

EPS = float(np.finfo("float32").eps)

pytestmark = pytest.mark.skipif(
    not any(name == "convolution" for name, *_ in dispatch.registered_kernels("cpu")), reason="needs Numba"
)


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


class Case:
    """One convolution: its arrays, and its three products.

    Parameters
    ----------
    batch, inputs, outputs, side, taps, stride, padding, groups : of square images and kernels
    """

    def __init__(
        self,
        batch: int,
        inputs: int,
        outputs: int,
        side: int,
        taps: int = 3,
        stride: int = 1,
        padding: int = 1,
        groups: int = 1,
    ):
        rng = np.random.default_rng(7)
        self.size, self.kernel = (side, side), (taps, taps)
        self.how = ((stride, stride), (padding, padding), (1, 1), groups)
        output = convolved_size(self.size, self.kernel, *self.how[:3])
        self.x = rng.standard_normal((batch, inputs, *self.size)).astype("float32")
        self.weight = rng.standard_normal((outputs, inputs // groups, *self.kernel)).astype("float32")
        self.bias = rng.standard_normal(outputs).astype("float32")
        self.dy = rng.standard_normal((batch, outputs, *output)).astype("float32")

    def run(self, change: Any = lambda x: x) -> dict[str, np.ndarray]:
        """All results, of images that `change` has changed: their layout, or their type."""
        x, dy = change(self.x), change(self.dy)
        weight, bias = self.weight.astype(x.dtype), self.bias.astype(x.dtype)
        return {
            "y": convolution(x, weight, bias, *self.how),
            "dx": convolution_input_gradient(dy, weight, self.size, *self.how),
            "dweight": convolution_weight_gradient(dy, x, self.kernel, *self.how),
            "dbias": channel_sum(dy),
        }


# One for each way that a kernel may go.
CASES: dict[str, Case] = {
    "Winograd": Case(3, 33, 48, 9),
    "Winograd, filters that outweigh the image": Case(2, 160, 128, 4),
    "Winograd, sums that outweigh the arrays": Case(8, 96, 96, 17),
    "stride 2": Case(3, 33, 48, 19, stride=2),
    "stride 2, filters that outweigh the image": Case(2, 128, 160, 4, stride=2),
    "one tap": Case(2, 40, 33, 20, taps=1, padding=0),
    "stride larger than the kernel": Case(2, 40, 33, 20, taps=1, stride=3, padding=0),
    "lines of the kernel": Case(2, 3, 64, 21, taps=7, stride=2, padding=3),
    "folded": Case(2, 40, 3, 37),
    "groups": Case(2, 36, 54, 9, groups=2),
    "groups in bundles": Case(2, 32, 64, 9, groups=8),
    "groups of one channel, in bundles": Case(2, 16, 48, 9, stride=2, groups=16),
    "depthwise": Case(2, 37, 37, 9, groups=37),
}
each_case = pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))


@each_case
def test_layout_of_the_images_changes_nothing(case: Case) -> None:
    """Not even rounding: whatever lies otherwise is laid out anew, and then takes the same way."""
    plain, last = case.run(), case.run(channels_last)
    strided = case.run(lambda x: np.repeat(x, 2, axis=-1)[..., ::2])
    for name in ("y", "dx", "dweight"):
        np.testing.assert_array_equal(plain[name], last[name], err_msg=name)
        np.testing.assert_array_equal(plain[name], strided[name], err_msg=name)


@each_case
def test_rounding_stays_within_that_of_a_sum(case: Case) -> None:
    """Of a sum of n products with sqrt(n) eps; of Winograd, sums are shorter, and the transforms add to them.

    In units of the sum of absolute products, by which sums that cancel cannot hide an error nor show one.
    """
    found = case.run()
    with reference_ops():
        wanted = case.run(lambda x: x.astype("float64"))
        size = Case.__new__(Case)
        size.__dict__ = case.__dict__ | {
            name: abs(getattr(case, name)).astype("float64") for name in ("x", "weight", "bias", "dy")
        }
        largest = size.run()
    for name, result in found.items():
        assert result.dtype == np.float32
        error = np.abs(result - wanted[name]) / np.maximum(largest[name], 1e-30)
        assert error.max(initial=0.0) < 8 * EPS, name


@each_case
def test_threads_change_rounding_at_most(case: Case) -> None:
    many = case.run()
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = case.run()
    finally:
        numba.set_num_threads(before)
    for name, result in many.items():
        np.testing.assert_allclose(one[name], result, rtol=1e-4, atol=1e-3, err_msg=name)


@pytest.mark.parametrize(
    "case",
    [
        Case(8, 64, 64, 64),
        Case(4, 384, 96, 28),
        Case(8, 512, 512, 4),
        Case(4, 512, 32, 20),
        Case(16, 512, 512, 2),
        Case(8, 64, 64, 64, stride=2),
        Case(8, 256, 512, 8, stride=2),
        Case(8, 64, 64, 64, taps=1, padding=0),
        Case(8, 3, 64, 64, taps=7, stride=2, padding=3),
        Case(8, 32, 3, 64),
        Case(8, 64, 64, 64, groups=4),
        Case(8, 64, 64, 64, groups=64),
    ],
    ids=lambda case: f"{case.x.shape} {case.weight.shape} {case.how}".replace(" ", ""),
)
def test_no_more_memory_than_twice_the_arrays(case: Case) -> None:
    """Beyond results, and half a megabyte for each thread: neither an unfolded image nor the factors of one."""
    x, dy = channels_last(case.x), channels_last(case.dy)
    arrays = x.nbytes + dy.nbytes + case.weight.nbytes
    calls = {
        "convolution": lambda: convolution(x, case.weight, case.bias, *case.how),
        "convolution_input_gradient": lambda: convolution_input_gradient(dy, case.weight, case.size, *case.how),
        "convolution_weight_gradient": lambda: convolution_weight_gradient(dy, x, case.kernel, *case.how),
    }
    for name, call in calls.items():
        call()  # compiles
        tracemalloc.start()
        result = call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak - result.nbytes < 2 * arrays + numba.get_num_threads() * 2**19, name


def test_results_are_channels_last() -> None:
    """So that the next convolution reads them as they lie."""
    results = CASES["Winograd"].run()
    for name in ("y", "dx"):
        assert results[name].transpose(0, 2, 3, 1).flags.c_contiguous
    assert results["dweight"].flags.c_contiguous


def test_a_line_is_an_image_of_one_row() -> None:
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(s).astype("float32") for s in ((2, 20, 30), (24, 20, 3), (24,)))
    line = convolution(x, weight, bias, (2,), (1,), (1,), 1)
    image = convolution(x[:, :, None], weight[:, :, None], bias, (1, 2), (0, 1), (1, 1), 1)
    np.testing.assert_array_equal(line, image[:, :, 0])


def test_what_is_not_finite_shows() -> None:
    """Winograd's transforms mix the pixels of a tile, so it shows in all four results of one, and in no other tile."""
    case = Case(1, 32, 32, 8)
    case.x[0, 5, 3, 3] = np.inf
    y = convolution(case.x, case.weight, case.bias, *case.how)
    seen = np.zeros((8, 8), dtype=bool)
    seen[2:5, 2:5] = True  # by the taps
    broken = ~np.isfinite(y[0]).all(axis=0)
    assert broken[seen].all()
    assert not broken[6:].any() and not broken[:, 6:].any() and not broken[:2, :].any() and not broken[:, :2].any()


def test_no_image_at_all() -> None:
    x, weight = np.zeros((0, 3, 4, 5), dtype="float32"), np.zeros((6, 3, 3, 3), dtype="float32")
    assert convolution(x, weight, None, (1, 1), (1, 1), (1, 1), 1).shape == (0, 6, 4, 5)


def test_three_axes_are_left_to_the_op() -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((1, 2, 3, 4, 5)).astype("float32"), np.ones((3, 2, 2, 2, 2), dtype="float32")
    how: tuple[Any, ...] = ((1,) * 3, (0,) * 3, (1,) * 3, 1)
    np.testing.assert_array_equal(
        convolution(x, weight, None, *how), registered_ops()["convolution"].reference(x, weight, None, *how)
    )


def test_arrays_that_do_not_fit_are_refused() -> None:
    """Compiled loops would read past the end of them."""
    case = CASES["Winograd"]
    x, weight, bias, dy, how = case.x, case.weight, case.bias, case.dy, case.how
    for call in (
        lambda: convolution(x[:, 1:], weight, bias, *how),
        lambda: convolution(x, weight, bias[1:], *how),
        lambda: convolution_input_gradient(dy[:, :, 1:], weight, case.size, *how),
        lambda: convolution_input_gradient(dy[:, 1:], weight, case.size, *how),
        lambda: convolution_weight_gradient(dy, x[:, :, 1:], case.kernel, *how),
        lambda: convolution_weight_gradient(dy, x[1:], case.kernel, *how),
    ):
        with pytest.raises(ShapeError, match="must be"):
            call()
    with pytest.raises(ShapeError, match="multiple of the 3 groups"):
        convolution(x, weight[1:, :11], bias[1:], *how[:3], 3)


@pytest.mark.parametrize("stride, padding, dilation", [*itertools.product([1, 2, 3], [0, 1, 4], [1, 2])])
def test_small_images(stride: int, padding: int, dilation: int) -> None:
    """Down to a single pixel, and padding larger than the kernel."""
    rng = np.random.default_rng(0)
    how: tuple[Any, ...] = ((stride,) * 2, (padding,) * 2, (dilation,) * 2, 1)
    for height, width in itertools.product(range(1, 5), repeat=2):
        x = rng.standard_normal((2, 17, height, width)).astype("float32")
        weight = rng.standard_normal((18, 17, 3, 3)).astype("float32")
        output = convolved_size((height, width), (3, 3), *how[:3])
        if min(output) < 1:
            continue
        dy = rng.standard_normal((2, 18, *output)).astype("float32")
        for op, arguments in (
            (convolution, (x, weight, None, *how)),
            (convolution_input_gradient, (dy, weight, (height, width), *how)),
            (convolution_weight_gradient, (dy, x, (3, 3), *how)),
        ):
            with reference_ops():
                wanted = op(*arguments)
            np.testing.assert_allclose(op(*arguments), wanted, rtol=1e-4, atol=1e-4)

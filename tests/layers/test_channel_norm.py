"""Norms of images: running statistics as torch has them, modes, digits, memory, and what a user can get wrong."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import BackwardError, ConfigError, DeviceError, DtypeError, ShapeError
from tinygrad_edu.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    Layer,
    ReLU,
    Sequential,
)
from tinygrad_edu.layers.channel_norm_ops import batchnorm, groupnorm

RNG = np.random.default_rng(0)


def images(*shape: int, dtype: str = "float64") -> np.ndarray:
    return (RNG.normal(size=shape) * 3 + np.arange(shape[1]).reshape(-1, *(1,) * (len(shape) - 2))).astype(dtype)


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.moveaxis(x, 1, -1).copy(), -1, 1)


# -- running statistics ------------------------------------------------------------------------------------

RUNNING: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "BatchNorm1d, vectors": ("BatchNorm1d", {}, (5, 4)),
    "BatchNorm1d": ("BatchNorm1d", {"momentum": 0.3}, (3, 4, 5)),
    "BatchNorm2d": ("BatchNorm2d", {}, (3, 4, 5, 2)),
    "BatchNorm2d, plain mean": ("BatchNorm2d", {"momentum": None}, (3, 4, 5, 2)),
    "BatchNorm2d, the last batch": ("BatchNorm2d", {"momentum": 1}, (3, 4, 5, 2)),
    "BatchNorm2d, none": ("BatchNorm2d", {"momentum": 0.0}, (3, 4, 5, 2)),
    "InstanceNorm1d": ("InstanceNorm1d", {"track_running_stats": True}, (3, 4, 6)),
    "InstanceNorm2d": ("InstanceNorm2d", {"track_running_stats": True, "affine": True}, (3, 4, 5, 2)),
    "InstanceNorm2d, one image": ("InstanceNorm2d", {"track_running_stats": True}, (4, 5, 2)),
}


@pytest.mark.parametrize("lay", [np.array, channels_last], ids=["plain", "channels last"])
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("name", RUNNING)
def test_running_statistics_are_torchs(name: str, dtype: str, rtol: float, lay: Any) -> None:
    torch = pytest.importorskip("torch")
    kind, settings, shape = RUNNING[name]
    ours: Layer = getattr(tg.layers, kind)(4, **settings).astype(dtype)
    theirs = getattr(torch.nn, kind)(4, **settings).to(getattr(torch, dtype))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for step in range(3):
        x = images(*shape, dtype=dtype)
        if step == 2:  # of another size
            x = x[..., :2] if x.ndim > 2 else x[1:]
        x = lay(x)
        np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=rtol, atol=rtol)
        for key, values in theirs.state_dict().items():
            if key == "num_batches_tracked" and kind.startswith("Instance"):
                continue  # torch does not count them
            np.testing.assert_allclose(ours.state_dict()[key], values.numpy(), rtol=rtol, atol=rtol, err_msg=key)
    ours.eval()
    theirs.eval()
    before = {key: values.copy() for key, values in ours.state_dict().items()}
    x = lay(images(*shape, dtype=dtype))
    dy = RNG.normal(size=x.shape).astype(dtype)
    leaf = torch.from_numpy(x).requires_grad_()
    y = theirs(leaf)
    y.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(ours(x), y.detach().numpy(), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(ours.backward(dy), leaf.grad.numpy(), rtol=rtol, atol=rtol)
    assert all(np.array_equal(values, before[key]) for key, values in ours.state_dict().items())


def test_how_they_are_shown() -> None:
    shown = "BatchNorm2d(4, eps=1e-05, momentum=None, affine=True, bias=False, track_running_stats=False)"
    assert repr(BatchNorm2d(4, momentum=None, track_running_stats=False, bias=False)) == shown
    assert repr(GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05, affine=True)"
    assert repr(InstanceNorm1d(4)).endswith("affine=False, track_running_stats=False)")


def test_torchs_state_goes_in_and_out() -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.nn.BatchNorm2d(4)
    theirs(torch.randn(3, 4, 5, 5))
    ours = BatchNorm2d(4)
    ours.load_state_dict(theirs.state_dict())
    assert int(ours.num_batches_tracked.data) == 1  # type: ignore[union-attr]
    back = torch.nn.BatchNorm2d(4)
    back.load_state_dict({key: torch.from_numpy(values) for key, values in ours.state_dict().items()})
    x = images(2, 4, 3, 3, dtype="float32")
    np.testing.assert_allclose(ours.eval()(x), back.eval()(torch.from_numpy(x)).detach().numpy(), rtol=1e-6, atol=1e-6)


def test_the_gradient_is_that_of_the_mode_in_which_forward_ran() -> None:
    """Forwards of both modes on one stack; the statistics of the first are those of then."""
    x, dy = images(4, 3, 5, 5), RNG.normal(size=(4, 3, 5, 5))
    layer = BatchNorm2d(3).astype("float64")
    layer(x * 2)
    layer.backward(dy)
    alone = []
    for mode in (False, True):
        layer.train(mode)
        layer(x)
        alone.append(layer.backward(dy))
    layer = BatchNorm2d(3).astype("float64")
    layer(x * 2)
    layer.backward(dy)
    layer.eval()(x)
    layer.train()(x)  # changes the running statistics in place
    np.testing.assert_array_equal(layer.backward(dy), alone[1])
    np.testing.assert_array_equal(layer.eval().backward(dy), alone[0])


def test_a_forward_in_training_counts_under_inference_too() -> None:
    layer = BatchNorm2d(3)
    with tg.inference():
        layer(images(2, 3, 4, 4, dtype="float32"))
    assert int(layer.num_batches_tracked.data) == 1  # type: ignore[union-attr]
    with pytest.raises(BackwardError):
        layer.backward(np.zeros((2, 3, 4, 4), "float32"))


def test_evaluation_takes_any_batch() -> None:
    for layer, shape in ((BatchNorm2d(3), (0, 3, 2, 2)), (BatchNorm1d(3), (1, 3)), (GroupNorm(1, 3), (0, 3, 2, 2))):
        x = np.zeros(shape, "float32")
        assert layer.eval()(x).shape == shape
        assert layer.backward(x).shape == shape
    tracking = InstanceNorm2d(3, track_running_stats=True)
    assert tracking(np.zeros((0, 3, 2, 2), "float32")).shape == (0, 3, 2, 2)
    assert np.array_equal(tracking.running_mean.data, np.zeros(3))  # type: ignore[union-attr]


# -- digits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lay", [np.array, channels_last], ids=["plain", "channels last"])
@pytest.mark.parametrize("mean", [1e3, -1e5])
@pytest.mark.parametrize("shape", [(16, 8, 32, 32), (2, 3, 5, 7), (40, 6)])
def test_a_mean_far_from_zero_costs_no_digits_of_the_variance(shape: tuple[int, ...], mean: float, lay: Any) -> None:
    """float32 holds no more than x itself: against float64 on the very same numbers."""
    x = lay((RNG.normal(size=shape) + mean).astype("float32"))
    exact = x.astype("float64")
    for op, args in ((batchnorm, (None, None, 1e-5)), (groupnorm, (1, None, None, 1e-5))):
        y, _, var = op(x, *args)
        wanted, _, exact_var = op(exact, *args)
        # Sums of squares in float64 keep 16 digits, of which the square of the mean takes its own number.
        rtol = 1e-5 + 2e-15 * mean**2
        np.testing.assert_allclose(var, exact_var, rtol=rtol)
        np.testing.assert_allclose(y, wanted, rtol=rtol, atol=rtol)


def test_a_constant_channel_becomes_its_bias() -> None:
    layer = BatchNorm2d(2)
    layer.bias.data[...] = [3, -1]  # type: ignore[union-attr]
    x = np.full((2, 2, 4, 4), 1e4 / 3, "float32")
    np.testing.assert_allclose(layer(x), np.array([3, -1], "float32")[:, None, None] + 0 * x, atol=1e-3)
    dx = layer.backward(RNG.normal(size=x.shape).astype("float32"))
    assert np.isfinite(dx).all()


def test_nan_reaches_the_result() -> None:
    x = images(2, 3, 4, 4, dtype="float32")
    for bad in (np.nan, np.inf):
        for lay in (np.array, channels_last):
            broken = lay(x)
            broken[1, 1, 2, 2] = bad
            y = BatchNorm2d(3)(broken)
            assert not np.isfinite(y[:, 1]).any() and np.isfinite(y[:, [0, 2]]).all()
            y = GroupNorm(3, 3)(broken)
            assert not np.isfinite(y[1, 1]).any() and np.isfinite(y[0]).all()


# -- memory --------------------------------------------------------------------------------------------------


def test_results_lie_as_their_input_does() -> None:
    """A layer that laid images another way would make the next one lay them back."""
    for lay in (np.array, channels_last):
        x, dy = (lay(images(2, 8, 6, 5, dtype="float32")) for _ in range(2))
        for layer in (BatchNorm2d(8), GroupNorm(2, 8), InstanceNorm2d(8), ReLU(), tg.layers.SiLU(), tg.layers.Tanh()):
            assert layer(x).strides == x.strides
            assert layer.backward(lay(dy)).strides == x.strides
            layer(x)
            other = np.array if lay is channels_last else channels_last
            assert layer.backward(other(dy)).strides == x.strides  # a gradient of the other layout


def test_a_block_keeps_three_images() -> None:
    """What convolution, norm and activation keep for backward: x, what the norm read, what the activation gave."""
    block = Sequential(Conv2d(8, 8, 3, padding=1), BatchNorm2d(8), ReLU(), Conv2d(8, 8, 3, padding=1))
    x = images(4, 8, 32, 32, dtype="float32")
    block.backward(block(x))  # kernels are compiled, gradients there
    image = x.nbytes
    tracemalloc.start()
    try:
        y = block(x)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept - y.nbytes < 2.3 * image  # x itself is the caller's


# -- mistakes ------------------------------------------------------------------------------------------------


def zeros(*shape: int) -> Any:
    return np.zeros(shape, "float32")


CONFIG = [
    (lambda: BatchNorm2d(0), "BatchNorm2d: num_features must be an integer >= 1, got 0"),
    (lambda: BatchNorm1d(2.0), r"BatchNorm1d: num_features must be an integer >= 1, got 2\.0"),
    (lambda: BatchNorm2d(4, eps=-1e-5), "BatchNorm2d: eps must be a number >= 0, got -1e-05"),
    (lambda: BatchNorm2d(4, eps=float("nan")), "BatchNorm2d: eps must be a number >= 0, got nan"),
    (lambda: BatchNorm2d(4, momentum=1.1), r"BatchNorm2d: momentum must be a number in \[0, 1\], or None .*, got 1\.1"),
    (lambda: BatchNorm2d(4, momentum=-0.1), r"BatchNorm2d: momentum must be .*, got -0\.1"),
    (lambda: BatchNorm2d(4, momentum="0.1"), r"BatchNorm2d: momentum must be .*, got '0\.1'"),
    (lambda: InstanceNorm2d(4, momentum=True), r"InstanceNorm2d: momentum must be .*, got True"),
    (lambda: GroupNorm(0, 4), "GroupNorm: num_groups must be an integer >= 1, got 0"),
    (lambda: GroupNorm(2, -4), "GroupNorm: num_channels must be an integer >= 1, got -4"),
    (lambda: GroupNorm(3, 4), "GroupNorm: num_channels must be divisible by num_groups, got 4 and 3"),
    (lambda: GroupNorm(2, 4, eps=None), "GroupNorm: eps must be a number >= 0, got None"),
]  # fmt: skip
INPUTS = [
    (
        lambda: BatchNorm2d(4)(zeros(2, 3, 5, 5)),
        r"BatchNorm2d: expected \(batch, 4, height, width\), got \(2, 3, 5, 5\)",
    ),
    (lambda: BatchNorm2d(4)(zeros(2, 3, 5, 5)), "the image has 3 channels where 4 are wanted"),
    (lambda: BatchNorm2d(4)(zeros(4, 5, 5)), r"BatchNorm2d: expected \(batch, 4, height, width\), got \(4, 5, 5\)"),
    (
        lambda: BatchNorm1d(4)(zeros(2, 4, 5, 5)),
        r"BatchNorm1d: expected \(batch, 4\) or \(batch, 4, length\), got \(2,",
    ),
    (lambda: BatchNorm1d(4)(zeros(3, 5)), r"BatchNorm1d: expected \(batch, 4\), got \(3, 5\)"),
    (
        lambda: BatchNorm1d(4)(zeros(1, 4)),
        r"more than one value a channel, got \(1, 4\); give a larger batch, or use eval",
    ),
    (lambda: BatchNorm2d(4)(zeros(1, 4, 1, 1)), "BatchNorm2d: .* more than one value a channel"),
    (lambda: BatchNorm2d(4)(zeros(0, 4, 3, 3)), "BatchNorm2d: .* more than one value a channel"),
    (lambda: BatchNorm2d(4, track_running_stats=False).eval()(zeros(1, 4, 1, 1)), "more than one value a channel"),
    (lambda: BatchNorm2d(4)(zeros(2, 4, 0, 3)), r"BatchNorm2d: only the batch may be empty, got \(2, 4, 0, 3\)"),
    (
        lambda: InstanceNorm2d(4)(zeros(2, 4, 1, 1)),
        r"InstanceNorm2d: .* more than one value a channel, got \(2, 4, 1, 1\)",
    ),
    (lambda: InstanceNorm1d(4)(zeros(2, 5, 4)), r"InstanceNorm1d: expected \(batch, 4, length\), got \(2, 5, 4\)"),
    (
        lambda: InstanceNorm2d(4)(zeros(2, 4)),
        r"InstanceNorm2d: .* or \(4, height, width\) for a single image, got \(2, 4\)",
    ),
    (lambda: GroupNorm(2, 4)(zeros(4)), r"GroupNorm: expected \(batch, 4, \.\.\.\), got \(4,\)"),
    (lambda: GroupNorm(2, 4)(zeros(2, 6, 3, 3)), "the image has 6 channels where 4 are wanted"),
    (lambda: GroupNorm(4, 4)(zeros(2, 4, 1, 1)), r"GroupNorm: 4 groups of an image \(4, 1, 1\) have one value each"),
]


@pytest.mark.parametrize("build, message", CONFIG)
def test_a_setting_out_of_range(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("call, message", INPUTS)
def test_an_input_that_does_not_fit(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()


def test_an_input_that_is_no_image() -> None:
    with pytest.raises(DtypeError, match="BatchNorm2d: x must hold floating-point numbers, got uint8"):
        BatchNorm2d(4)(np.zeros((2, 4, 3, 3), "uint8"))
    for layer in (BatchNorm2d(4), GroupNorm(2, 4), InstanceNorm2d(4)):
        with pytest.raises(DeviceError, match="list"):
            layer([[1.0]])


@pytest.mark.parametrize("layer", [BatchNorm2d(4), BatchNorm2d(4).eval(), GroupNorm(2, 4), InstanceNorm2d(4)])
def test_a_gradient_of_another_shape(layer: Layer) -> None:
    layer(zeros(2, 4, 3, 3))
    with pytest.raises(ShapeError, match=r"backward: expected a gradient \(2, 4, 3, 3\).* got \(2, 4, 3, 2\)"):
        layer.backward(zeros(2, 4, 3, 2))


def test_a_failed_forward_leaves_the_running_statistics() -> None:
    layer = BatchNorm2d(4)
    with pytest.raises(ShapeError):
        layer(zeros(1, 4, 1, 1) + 9)
    assert int(layer.num_batches_tracked.data) == 0  # type: ignore[union-attr]
    assert not layer.running_mean.data.any()  # type: ignore[union-attr]

"""Checkpointed blocks: the same gradients bit for bit, for less memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import Generator, to_device, to_host
from tinygrad_edu.errors import BackwardError
from tinygrad_edu.layers import (
    KeyValueCache,
    Layer,
    LayerList,
    Linear,
    RotaryPositions,
    TransformerBlock,
    checkpoint_backward,
    checkpoint_forward,
)

RNG = np.random.default_rng(0)
X, DY = (RNG.normal(size=(2, 5, 8)).astype("float32") for _ in range(2))
PADDING = (np.arange(5) < np.array([5, 3])[:, None])[:, None, None]


def block(**settings: Any) -> TransformerBlock:
    return TransformerBlock(8, 2, 12, 0.3, generator=Generator(7), **settings)


def gradients(layer: Layer) -> dict[str, np.ndarray]:
    return {name: to_host(parameter.grad).copy() for name, parameter in layer.named_parameters()}


def both_ways(build: Callable[[], Layer], *args: Any, dy: Any = DY, **kwargs: Any) -> list[tuple[Any, ...]]:
    """Output, gradients of inputs and of parameters, and what the generator draws next: plainly and checkpointed."""
    found = []
    for forward, backward in (
        (Layer.__call__, lambda l, *d: l.backward(*d)),
        (checkpoint_forward, checkpoint_backward),
    ):
        layer = build()
        y = forward(layer, *args, **kwargs)
        between = [generator.draw_seed() for generator in layer.generators()]  # as the next block would
        dx = backward(layer, dy)
        after = [generator.draw_seed() for generator in layer.generators()]
        found.append((y, dx, gradients(layer), between, after))
    return found


def assert_same(plain: Any, checkpointed: Any) -> None:
    if isinstance(plain, dict):
        assert plain.keys() == checkpointed.keys()
        for name in plain:
            np.testing.assert_array_equal(checkpointed[name], plain[name], err_msg=name)
    elif isinstance(plain, tuple):
        assert len(plain) == len(checkpointed)
        for one, other in zip(plain, checkpointed, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(to_host(checkpointed), to_host(plain))


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("rotary", [None, RotaryPositions(9, 4)], ids=["plain", "rotary"])
@pytest.mark.parametrize("args", [(), (None, True), (PADDING, True)], ids=["all", "causal", "padding and causal"])
def test_gradients_are_equal_bit_for_bit(placement: str, rotary: Any, args: tuple[Any, ...]) -> None:
    plain, checkpointed = both_ways(lambda: block(norm_placement=placement, rotary=rotary), X, *args)
    assert_same(plain, checkpointed)
    assert any(np.any(grad != 0) for grad in plain[2].values())


def test_without_kernels_and_in_float64() -> None:
    with tg.reference_ops():
        assert_same(*both_ways(lambda: block().astype("float64"), X.astype("float64"), dy=DY.astype("float64")))


def test_on_a_strict_stand_in_for_cupy(strict_cuda: Any) -> None:
    x, dy = to_device(X, "cuda"), to_device(DY, "cuda")
    assert_same(*both_ways(lambda: block().to("cuda"), x, dy=dy))


def test_several_forwards_before_their_backwards() -> None:
    """Each is gone back through with its own noise; the latest first, as on any stack."""
    plain, other = block(), block()
    for layer, forward in ((plain, Layer.__call__), (other, checkpoint_forward)):
        forward(layer, X)
        forward(layer, 2 * X)
    dx = [plain.backward(DY), plain.backward(3 * DY)]
    found = [checkpoint_backward(other, DY), checkpoint_backward(other, 3 * DY)]
    np.testing.assert_array_equal(found, dx)
    assert_same(gradients(plain), gradients(other))


def test_the_mode_of_the_forward_counts() -> None:
    plain, other = block(), block()
    plain(X)
    wanted = plain.backward(DY)
    checkpoint_forward(other, X)
    other.eval()
    np.testing.assert_array_equal(checkpoint_backward(other, DY), wanted)
    assert not any(layer.training for layer in other.layers())


def test_generators_and_modes_are_put_right_when_the_second_forward_fails() -> None:
    layer = block()
    x = X.copy()
    checkpoint_forward(layer, x)
    layer.linear1.weight.data = layer.linear1.weight.data[:, :3]  # somebody broke it in between
    layer.eval()
    state = layer.self_attn.generator.get_state()
    with pytest.raises(ValueError):
        checkpoint_backward(layer, DY)
    assert layer.self_attn.generator.get_state() == state
    assert not layer.linear1.training


def test_it_adds_no_name_and_leaves_nothing_behind() -> None:
    layer = block()
    names = list(layer.state_dict())
    checkpoint_forward(layer, X)
    assert list(layer.state_dict()) == names
    checkpoint_backward(layer, DY)
    assert not any(part._saved for part in layer.layers())
    checkpoint_forward(layer, X)
    layer.clear_saved()
    assert not any(part._saved for part in layer.layers())


def test_nothing_is_kept_in_inference() -> None:
    layer, cache = block().eval(), KeyValueCache(5)
    with tg.inference():
        y = checkpoint_forward(layer, X, None, True, cache)
    np.testing.assert_array_equal(y, layer(X, None, True))
    assert cache.length == 5 and not layer._saved


def test_misuse_is_refused() -> None:
    layer = block()
    with pytest.raises(BackwardError, match="a key/value cache has no backward"):
        checkpoint_forward(layer, X, cache=KeyValueCache(5))
    with pytest.raises(BackwardError, match="latest forward of TransformerBlock was not run by checkpoint_forward"):
        checkpoint_backward(layer, DY)
    checkpoint_forward(layer, X)
    checkpoint_backward(layer, DY)
    with pytest.raises(BackwardError, match="was backward called twice"):
        checkpoint_backward(layer, DY)
    linear = Linear(8, 8)
    linear(X)
    with pytest.raises(BackwardError, match="latest forward of Linear was not run by checkpoint_forward"):
        checkpoint_backward(linear, DY)
    linear.backward(DY)  # the plain forward is still there


def held(blocks: LayerList, x: Any, forward: Any, backward: Any) -> tuple[int, int]:
    """Bytes held after the forward of a stack, and the most there were until the end of its backward."""
    tracemalloc.start()
    try:
        for layer in blocks:
            x = forward(layer, x, None, True)
        after = tracemalloc.get_traced_memory()[0]
        for layer in reversed(list(blocks)):
            x = backward(layer, x)
        return after, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_falls() -> None:
    def build(count: int) -> LayerList:
        blocks = LayerList(TransformerBlock(32, 2, 64, 0.1, generator=Generator(0)) for _ in range(count))
        blocks.zero_grad()
        for parameter in blocks.parameters():
            parameter.grad  # noqa: B018 - allocated now, so that it is not counted
        return blocks

    x = RNG.normal(size=(4, 64, 32)).astype("float32")
    plain = (Layer.__call__, lambda layer, dy: layer.backward(dy))
    kept = (checkpoint_forward, checkpoint_backward)
    held(build(1), x, *plain)  # compiles what is not compiled yet
    few, many = held(build(2), x, *plain), held(build(8), x, *plain)
    few_kept, many_kept = held(build(2), x, *kept), held(build(8), x, *kept)
    # A block that is kept whole holds some ten arrays of the size of its input; checkpointed, its input alone.
    assert (many_kept[0] - few_kept[0]) / 6 < 1.2 * x.nbytes
    assert (many[0] - few[0]) / 6 > 8 * x.nbytes
    assert many_kept[1] < 0.4 * many[1]

"""Gradient checkpointing: keep what goes into a block instead of what its backward needs, and compute that again.

A stack of n blocks keeps, for its backward pass, everything that every layer inside them saved. Checkpointed, each
block keeps its inputs; in the backward pass its forward runs a second time, now saving, and at once its backward takes
what was saved. So the memory of one block is held at a time, for one more forward (Chen et al., 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..backend import Array, inference, is_inference
from ..errors import BackwardError
from .base import Layer
from .caches import KeyValueCache, MemoryCache


@dataclass(frozen=True)
class _Checkpoint:
    """What a forward is computed again from: its arguments, and all else that it depends on but the weights."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    states: list[dict[str, Any]]  # of the random generators, so that dropout drops the same again
    modes: list[bool]  # whether each layer was training
    buffers: list[Array]  # copies of their values, from before the forward changed them


def checkpoint_forward(layer: Layer, *args: Any, **kwargs: Any) -> Any:
    """``layer(*args, **kwargs)``, of which only the arguments are kept; :func:`checkpoint_backward` goes back.

    What is kept lies on the layer's own stack of forwards. So the layer may run several times before its backwards,
    ``clear_saved`` forgets it, and nothing new stands in the tree: names of parameters stay as they are.

    Parameters
    ----------
    layer : any layer whose forward depends on its arguments, its weights and buffers, its mode and its random
        generators alone
    args, kwargs : what its forward takes; the arrays among them are kept, so do not change them in place

    Raises
    ------
    BackwardError
        With a key/value cache outside of ``tg.inference()``: a second forward would extend it a second time.

    Notes
    -----
    Training Deep Nets with Sublinear Memory Cost (Chen, Xu, Zhang & Guestrin, 2016).

    Examples
    --------
    >>> y = checkpoint_forward(block, x, mask, True)
    >>> dx = checkpoint_backward(block, dy)  # the gradients that block.backward(dy) gives, bit for bit
    """
    if is_inference():  # there will be no backward
        return layer(*args, **kwargs)
    if any(isinstance(value, KeyValueCache | MemoryCache) for value in (*args, *kwargs.values())):
        raise BackwardError(f"{type(layer).__name__}: a key/value cache has no backward; use tg.inference()")
    checkpoint = _Checkpoint(args, kwargs, *_surroundings(layer))
    with inference():
        y = layer(*args, **kwargs)
    layer.save(checkpoint)
    return y


def checkpoint_backward(layer: Layer, *dy: Any) -> Any:
    """Run the latest :func:`checkpoint_forward` of `layer` again, saving this time, and go back through it.

    The random generators draw what they drew then, and go on afterwards from where they stand now. So do the
    buffers: running statistics have taken in the batch once, and stay as they are.

    Parameters
    ----------
    dy : what the layer's backward takes

    Returns
    -------
    what the layer's backward returns

    Raises
    ------
    BackwardError
        If the layer's latest forward was not checkpointed, or its backward has been taken.
    """
    latest = layer._saved[-1] if layer._saved else ()
    if not latest or not isinstance(latest[0], _Checkpoint):
        raise BackwardError(
            f"checkpoint_backward: the latest forward of {type(layer).__name__} was not run by checkpoint_forward "
            "(was backward called twice, or did forward run under tg.inference()?)"
        )
    kept: _Checkpoint = layer.saved()
    now = _Checkpoint((), {}, *_surroundings(layer))
    try:
        _set(layer, kept)
        layer(*kept.args, **kept.kwargs)
    finally:
        _set(layer, now)
    return layer.backward(*dy)


def _surroundings(layer: Layer) -> tuple[list[dict[str, Any]], list[bool], list[Array]]:
    """What a forward depends on beside its arguments and weights: generators, modes and buffers, as they are now."""
    return (
        [generator.get_state() for generator in layer.generators()],
        [child.training for child in layer.layers()],
        [buffer.data.copy() for buffer in layer.buffers()],
    )


def _set(layer: Layer, at: _Checkpoint) -> None:
    """Put the surroundings of `layer` where they were `at` a checkpoint."""
    for generator, state in zip(layer.generators(), at.states, strict=True):
        generator.set_state(state)
    for child, mode in zip(layer.layers(), at.modes, strict=True):
        child.training = mode
    for buffer, values in zip(layer.buffers(), at.buffers, strict=True):
        buffer.data[...] = values

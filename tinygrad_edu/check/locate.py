"""Of a layer made of layers: in which order the backward pass comes by them, and which of them is wrong by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ..layers.base import Layer
from .subject import LayerSubject


def trace(subject: LayerSubject, upstream: list[np.ndarray]) -> tuple[list[str], dict[str, tuple[Any, ...]]]:
    """Run forward and backward once and watch every layer inside.

    Returns
    -------
    order : names of the layers, in the order in which their backward ended
    calls : by layer name, the layer and the arguments and keyword arguments of its first forward
    """
    watched = subject.like(subject.dtype)
    order: list[str] = []
    calls: dict[str, tuple[Any, ...]] = {}

    def watch(name: str, layer: Layer, original: Layer) -> None:
        forward, backward = layer.forward, layer.backward

        def seen_forward(*args: Any, **kwargs: Any) -> Any:
            calls.setdefault(name, (original, copy.deepcopy(args), copy.deepcopy(kwargs)))
            return forward(*args, **kwargs)

        def seen_backward(*args: Any, **kwargs: Any) -> Any:
            result = backward(*args, **kwargs)
            if name not in order:
                order.append(name)
            return result

        layer.__dict__["forward"], layer.__dict__["backward"] = seen_forward, seen_backward

    inner = zip(list(watched.layer.named_layers())[1:], list(subject.layer.named_layers())[1:], strict=True)
    for (name, layer), (_, original) in inner:
        if hasattr(layer, "forward"):  # a mere list of layers has none
            watch(name, layer, original)
    watched.backward(subject.values, upstream)
    return order, calls


def backward_order(subject: LayerSubject, layers: list[str]) -> list[str]:
    """The differentiated values in the order in which the backward pass comes by them.

    Parameters of the layers inside as `layers` has it, then the layer's own, then the inputs.
    """
    parameters = [key for key, kind in subject.kinds.items() if kind == "parameter"]
    places = {name: place for place, name in enumerate(layers)}

    def place(item: tuple[int, str]) -> tuple[int, int]:
        number, key = item
        owner = key.rpartition(".")[0]
        return places.get(owner, len(places)), number

    ordered = [key for _, key in sorted(enumerate(parameters), key=place)]
    return ordered + [key for key, kind in subject.kinds.items() if kind == "input"]


def blame(subject: LayerSubject, calls: dict[str, tuple[Any, ...]], is_right: Callable[[LayerSubject], bool]) -> str:
    """Say which of the layers inside is wrong by itself, the innermost first."""
    for name in sorted(calls, key=lambda name: -name.count(".")):
        layer, args, kwargs = calls[name]
        child = LayerSubject(layer, args, kwargs, jitter=0.0, device=subject.device)
        if child.values and not is_right(child):
            return f"The fault is in `{name}` ({child.name}): checked by itself it is wrong too."
    if calls:
        return f"Each layer inside is right by itself: the fault is in {subject.name}'s own code, which joins them."
    return ""

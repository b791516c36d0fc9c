"""Where NaN and infinity came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..backend import namespace
from ..layers.base import Layer
from ..optim import first_nonfinite
from .trainable import Batch, Trainable


class _FoundError(Exception):
    """The first output that is not finite was found: nothing after it needs to be computed."""


def locate_nonfinite(model: Layer, trainable: Trainable, batches: Iterable[Batch]) -> str:
    """Say where the first number that is not finite arises: in words, naming a layer or a parameter.

    Looks at the weights and running statistics, then at what each layer puts out on these batches (without dropout,
    which may hide it), then at the gradients. Ends with the model as it was, but for its gradients: they are forgotten.
    """
    for name, held in model.named_state():
        if not _finite(held.data):
            return f"{type(held).__name__.lower()} {name!r} holds NaN or infinity"
    name_of_gradient = first_nonfinite(model)  # before the model runs again
    layer = first_nonfinite_output(model, trainable, batches)
    if layer is not None:
        return f"first in the output of layer {layer!r}"
    if name_of_gradient is not None:
        return f"first, going backward, in the gradient of {name_of_gradient!r}"
    return "in the loss alone"


def first_nonfinite_output(model: Layer, trainable: Trainable, batches: Iterable[Batch]) -> str | None:
    """The dotted name of the first layer whose output on these batches is not finite; None if all are.

    Inner layers finish before the ones that hold them, so the one that is named is the innermost.
    """
    found: list[str] = []
    watched: list[Layer] = []

    def watch(name: str, layer: Layer) -> None:
        forward: Callable[..., Any] = layer.forward

        def watched_forward(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            first = out[0] if isinstance(out, tuple) else out
            if hasattr(first, "dtype") and not _finite(first):
                found.append(name)
                raise _FoundError
            return out

        layer.__dict__["forward"] = watched_forward  # on the instance, and only while we look
        watched.append(layer)

    modes = [(layer, layer.training) for layer in model.layers()]
    try:
        for name, layer in model.named_layers():
            if (name or not isinstance(trainable, Layer)) and hasattr(layer, "forward"):
                watch(name or type(layer).__name__, layer)
        model.eval()
        for batch in batches:
            trainable.forward_backward(*batch.args, **batch.named)
    except (_FoundError, FloatingPointError):  # the latter from a test's np.errstate, or the user's
        pass
    finally:
        for layer in watched:
            del layer.__dict__["forward"]
        for layer, training in modes:
            layer.training = training
        model.clear_saved()
        model.zero_grad()
    return found[0] if found else None


def _finite(array: Any) -> bool:
    return array.dtype.kind not in "fc" or bool(namespace(array).isfinite(array).all())

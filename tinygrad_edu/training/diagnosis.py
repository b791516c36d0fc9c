"""Where NaN and infinity came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend import namespace
from ..layers.base import Layer
from ..models import BaseLanguageModel
from ..optim import first_nonfinite


def locate_nonfinite(model: BaseLanguageModel, input_ids: Any, labels: Any) -> str:
    """Say where the first number that is not finite arises: in words, naming a layer or a parameter.

    Looks at the weights, then at what each layer puts out on this batch (without dropout, which may hide
    it), then at the gradients. Ends with the model as it was, but for nothing being saved for backward.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter.data):
            return f"parameter {name!r} holds NaN or infinity"
    layer = first_nonfinite_output(model, input_ids, labels)
    if layer is not None:
        return f"first in the output of layer {layer!r}"
    name_of_gradient = first_nonfinite(model)
    if name_of_gradient is not None:
        return f"first, going backward, in the gradient of {name_of_gradient!r}"
    return "in the loss alone"


def first_nonfinite_output(model: BaseLanguageModel, input_ids: Any, labels: Any) -> str | None:
    """The dotted name of the first layer whose output on this batch is not finite; None if all are.

    Inner layers finish before the ones that hold them, so the one that is named is the innermost.
    """
    found: list[str] = []
    watched: list[Layer] = []

    def watch(name: str, layer: Layer) -> None:
        forward: Callable[..., Any] = layer.forward

        def watched_forward(*args: Any, **kwargs: Any) -> Any:
            out = forward(*args, **kwargs)
            first = out[0] if isinstance(out, tuple) else out
            if not found and hasattr(first, "dtype") and not _finite(first):
                found.append(name)
            return out

        layer.__dict__["forward"] = watched_forward  # on the instance, and only while we look
        watched.append(layer)

    try:
        for name, layer in model.named_layers():
            if name and hasattr(layer, "forward"):
                watch(name, layer)
        model.token_losses(input_ids, labels)
    except FloatingPointError:  # a test's np.errstate, or the user's
        pass
    finally:
        for layer in watched:
            del layer.__dict__["forward"]
    return found[0] if found else None


def _finite(array: Any) -> bool:
    return array.dtype.kind not in "fc" or bool(namespace(array).isfinite(array).all())

"""Gradient checking: is a hand-written backward the derivative of its forward, and if not, where and how is it wrong?

>>> import numpy as np, tinygrad_edu as tg
>>> report = tg.check.layer(tg.layers.LayerNorm(6), np.random.default_rng(0).normal(size=(2, 5, 6)))
>>> report.ok
True

Everything runs in float64 on copies, with a random gradient of the output and central differences of fourth
order, to a relative tolerance of 1e-7; beside it, where a torch twin is given, stands torch's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ConfigError
from ..layers.base import Layer
from .contract import promises
from .engine import Examination
from .report import Finding, GradientError, Report, TensorResult
from .subject import Fault, LayerSubject, OpSubject, Subject
from .twin import Twin

__all__ = ["Finding", "GradientError", "Report", "TensorResult", "layer", "loss", "op"]

Axes = Mapping[str, Sequence[str]]


def layer(
    layer: Layer,
    *inputs: Any,
    torch: Any = None,
    seed: int = 0,
    seeds: int = 3,
    names: Sequence[str] | None = None,
    wrt: Sequence[str] | None = None,
    axes: Axes | None = None,
    rtol: float = 1e-7,
    torch_rtol: float = 1e-10,
    jitter: float = 0.25,
    contract: bool = True,
    batched: bool = False,
    device: str | None = None,
    **options: Any,
) -> Report:
    """Check the gradients of a layer, for every floating-point input and every parameter.

    It works on a copy of the layer in float64; the layer itself is left as it is.

    Parameters
    ----------
    layer : the layer, in the mode (training or evaluation) in which it is to be checked
    inputs, options : what its forward takes, by position and by name
    torch : its twin, for a third column: a ``torch.nn.Module`` with the same parameter names, a function of the
        same inputs, or a pair ``(module, call)`` with ``call(module, *inputs)``
    seed : of the random directions and gradients
    seeds : how many of them are tried
    names : names for the inputs in the report, instead of those in forward's signature
    wrt : names of the inputs of which backward returns the gradient; by default every floating-point one
    axes : names of axes by tensor, such as ``{"x": ("batch", "time", "channel")}``; ``y`` is the output
    rtol : allowed difference between backward and central differences
    torch_rtol : allowed difference from torch
    jitter : parameters are moved by so much, relative to their size: a weight of one hides a forgotten factor
    contract : whether to try the contract too (inputs unchanged, a stack, accumulation, float32 ...)
    batched : whether each example of a batch must give what it gives alone
    device : where to compute; by default where the layer is

    Returns
    -------
    Report

    Raises
    ------
    ConfigError
        If the arguments do not fit the layer or the twin. What forward itself raises comes through.
    """
    wrt = _renamed(layer, names, wrt)
    try:
        subject = LayerSubject(layer, inputs, options, wrt=wrt, jitter=jitter, seed=seed, device=device)
    except Fault as fault:  # a method is missing
        return Report(type(layer).__name__, failure=str(fault), stage=fault.stage, seeds=seeds)
    if names is not None:
        _rename(subject, names)
    return _run(subject, torch, contract, batched, seed=seed, seeds=seeds, rtol=rtol, torch_rtol=torch_rtol, axes=axes)


def loss(loss: Layer, prediction: Any, target: Any, **options: Any) -> Report:
    """Check the gradient of a loss for its prediction; the target has none.

    Parameters
    ----------
    loss : ``loss.forward(prediction, target)`` gives the loss, ``loss.backward(dloss)`` the gradient of the prediction
    options : as in :func:`layer`

    Returns
    -------
    Report
    """
    first = next(iter(LayerSubject(loss, (prediction, target), {}, wrt=()).inputs))
    return layer(loss, prediction, target, **{"wrt": [first], **options})


def op(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    *inputs: Any,
    torch: Any = None,
    seed: int = 0,
    seeds: int = 3,
    wrt: Sequence[str] | None = None,
    axes: Axes | None = None,
    rtol: float = 1e-7,
    torch_rtol: float = 1e-12,
    contract: bool = True,
    device: str | None = None,
    **options: Any,
) -> Report:
    """Check a pair of functions, such as ``softmax`` and ``softmax_backward``.

    `backward` is called by the names of its parameters: the first is the gradient of forward's (first) result, a
    name that forward's input has is that input, ``y`` is the result, and other names are forward's further results
    in order. It returns one gradient for each floating-point input of forward, in order.

    Parameters
    ----------
    forward, backward : the two functions
    inputs, options : what `forward` takes, by position and by name
    torch : a function of the same inputs, written with torch
    wrt, axes, seed, seeds, rtol, torch_rtol, contract, device : as in :func:`layer`

    Returns
    -------
    Report

    Examples
    --------
    >>> import numpy as np, tinygrad_edu as tg
    >>> x = np.random.default_rng(0).normal(size=(2, 5))
    >>> tg.check.op(np.tanh, lambda dy, y: dy * (1 - y * y), x).ok
    True
    """
    subject = OpSubject(forward, backward, inputs, options, wrt=wrt, device=device)
    return _run(subject, torch, contract, False, seed=seed, seeds=seeds, rtol=rtol, torch_rtol=torch_rtol, axes=axes)


def _run(subject: Subject, torch: Any, contract: bool, batched: bool, **settings: Any) -> Report:
    if settings["seeds"] < 1:
        raise ConfigError(f"seeds must be an integer >= 1, got {settings['seeds']!r}")
    twin = None if torch is None else Twin(torch, subject)
    try:
        examination = Examination(subject, twin, **settings)
        report = examination.report()
    except Fault as fault:
        return Report(subject.name, failure=str(fault), stage=fault.stage, seeds=settings["seeds"])
    if contract:
        report.findings = promises(subject, examination.upstream(), batched)
    return report


def _renamed(layer: Layer, names: Sequence[str] | None, wrt: Sequence[str] | None) -> Sequence[str] | None:
    """`wrt` in the names of forward's own signature."""
    if names is None or wrt is None or not isinstance(layer, Layer):
        return wrt
    import inspect

    own = dict(zip(names, inspect.signature(layer.forward).parameters, strict=False))
    return [own.get(name, name) for name in wrt]


def _rename(subject: LayerSubject, names: Sequence[str]) -> None:
    """Call the inputs `names` in the report; calls by position are not touched."""
    if len(names) != subject.positional:
        raise ConfigError(f"names: {subject.name} got {subject.positional} inputs by position, {len(names)} names")
    subject.rename(dict(zip(list(subject.forms), names, strict=False)))

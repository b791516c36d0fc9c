"""The torch column: the same function written by others, with their gradient. torch loads only if a twin is given."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import to_host
from ..errors import ConfigError, format_shape
from .subject import Subject, Values, is_array, to_list


class Twin:
    """A torch function of a subject's arguments, in float64.

    Parameters
    ----------
    given : a ``torch.nn.Module`` whose parameters have the layer's names; a function of the arguments; or a pair
        ``(module, call)``, where ``call(module, *arguments)`` tells how the module is to be called
    subject : the subject that it is a twin of

    Raises
    ------
    ConfigError
        If the module's parameters do not fit the layer's in name or shape, listing all that do not.
    """

    def __init__(self, given: Any, subject: Subject):
        import torch

        self._torch = torch
        call: Callable[..., Any] | None = None
        if isinstance(given, tuple):
            given, call = given
        self._subject = subject
        self._module: Any = None
        if isinstance(given, torch.nn.Module):
            module = self._module = copy.deepcopy(given).double().train()
            self._call: Callable[..., Any] = module if call is None else functools.partial(call, module)
            self._check_names()
        elif callable(given):
            self._call = given
        else:
            raise ConfigError(
                f"torch: expected a module, a function or a pair (module, call), got {type(given).__name__}"
            )

    def _check_names(self) -> None:
        own = {key: self._subject.values[key].shape for key, kind in self._subject.kinds.items() if kind == "parameter"}
        theirs = {key: tuple(parameter.shape) for key, parameter in self._module.named_parameters()}
        wrong = [f"only the layer has {key}" for key in own if key not in theirs]
        wrong += [f"only torch has {key}" for key in theirs if key not in own]
        wrong += [
            f"{key} is {format_shape(own[key])} here and {format_shape(theirs[key])} in torch"
            for key in own
            if key in theirs and own[key] != theirs[key]
        ]
        if wrong:
            raise ConfigError(f"torch: the module is no twin of {self._subject.name}:\n  " + "\n  ".join(wrong))

    def run(self, values: Values, upstream: list[np.ndarray]) -> tuple[list[np.ndarray], Values]:
        """Outputs, and gradients by name, at `values`."""
        torch = self._torch
        leaves: dict[str, Any] = {}
        if self._module is not None:
            leaves.update(self._module.named_parameters())
            with torch.no_grad():
                for key, parameter in leaves.items():
                    parameter.copy_(torch.from_numpy(values[key]))
        arguments: dict[str, Any] = {}
        for key, value in self._subject.inputs.items():
            if key in values:
                leaves[key] = torch.tensor(values[key], dtype=torch.float64, requires_grad=True)
                value = leaves[key]
            elif is_array(value):
                host = np.array(to_host(value))
                value = torch.from_numpy(host.astype(np.float64) if host.dtype.kind == "f" else host)
            arguments[key] = value
        positional, named = self._subject.gather(arguments)  # given by name here, so by name there
        outputs = to_list(self._call(*positional, **named))
        if len(outputs) != len(upstream):
            raise ConfigError(
                f"torch: the twin returned {len(outputs)} arrays, {self._subject.name} returned {len(upstream)}"
            )
        given = [torch.tensor(u).reshape(y.shape) for u, y in zip(upstream, outputs, strict=True)]
        gradients = torch.autograd.grad(outputs, list(leaves.values()), given, allow_unused=True)
        found = {
            key: np.zeros(tuple(leaf.shape)) if gradient is None else gradient.detach().numpy()
            for (key, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        }
        return [y.detach().numpy() for y in outputs], found

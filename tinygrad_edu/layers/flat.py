"""One buffer for all parameters of a model, one for all gradients.

Clearing the gradients, clipping them, a step of AdamW, an all-reduce: each is then one pass over one array
instead of a loop over hundreds (the layout of llm.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backend import namespace
from ..errors import DtypeError
from ..runtime import release_freed_memory

if TYPE_CHECKING:
    from .base import Layer

_WORTH_RELEASING = 64 << 20  # bytes
_ALIGN = 64  # bytes: a cache line, and the widest vector register


class FlatParameters:
    """Makes the parameters of `layer` views of ``data`` and their gradients views of ``grad``.

    Parameters that decay come first, so that an optimizer has two runs to pass over, not one for each name.
    Between parameters lie a few zeros, so that each begins on a cache line; they stay zero.

    Attributes
    ----------
    data, grad : (N,)
    slices : where each parameter lies, by name
    """

    def __init__(self, layer: Layer):
        named = sorted(layer.named_parameters(), key=lambda item: not item[1].decay)  # stable: keeps the order
        dtypes = {parameter.data.dtype for _, parameter in named}
        if len(dtypes) > 1:
            raise DtypeError(f"flatten: all parameters must have one dtype, found {sorted(map(str, dtypes))}")
        step = _ALIGN // named[0][1].data.dtype.itemsize if named else 1
        self.slices: dict[str, slice] = {}
        end = 0
        for name, parameter in named:
            self.slices[name] = slice(end, end + parameter.size)
            end += -(-parameter.size // step) * step
        if not named:
            return
        xp = namespace(named[0][1].data)
        self.data = xp.zeros(end, dtype=named[0][1].data.dtype)
        self.grad = xp.zeros(end, dtype=named[0][1].data.dtype)
        for name, parameter in named:
            place = self.slices[name]
            self.data[place] = parameter.data.reshape(-1)
            if parameter._grad is not None:
                self.grad[place] = parameter._grad.reshape(-1)
            parameter.data = self.data[place].reshape(parameter.shape)
            parameter.grad = self.grad[place].reshape(parameter.shape)
        if self.data.nbytes >= _WORTH_RELEASING:  # the heap would keep what the single arrays took
            release_freed_memory()

    def holds(self, layer: Layer) -> bool:
        """Whether `layer` has parameters, and all of them, and nothing else, still lie in these buffers."""
        own = list(layer.parameters())
        return 0 < len(own) == len(self.slices) and all(
            parameter.data.base is self.data and parameter._grad is not None and parameter._grad.base is self.grad
            for parameter in own
        )

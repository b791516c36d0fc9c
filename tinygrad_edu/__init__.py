"""tinygrad_edu: deep learning from scratch on NumPy and CuPy, every gradient by hand.

>>> import tinygrad_edu as tg
>>> layer = tg.layers.Linear(4, 2)

Importing needs NumPy alone. ``tg.layers``, ``tg.models`` and the other rooms load when first touched, and
heavy packages (Numba, CuPy, matplotlib, tokenizers, datasets) when a function first needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors, runtime

runtime.apply()  # before the next line loads NumPy, whose thread pools read their settings as they load

from .backend import inference, namespace, reference_ops, use  # noqa: E402

if TYPE_CHECKING:
    from . import check, data, layers, losses, metrics, models, optim, training

__version__ = "0.1.0"

_ROOMS = ("check", "data", "layers", "losses", "metrics", "models", "optim", "training")

__all__ = [
    "__version__",
    "check",
    "data",
    "errors",
    "inference",
    "layers",
    "losses",
    "metrics",
    "models",
    "namespace",
    "optim",
    "reference_ops",
    "runtime",
    "training",
    "use",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    message = f"module {__name__!r} has no attribute {name!r}."
    raise AttributeError(message + errors.did_you_mean(name, __all__), name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS})

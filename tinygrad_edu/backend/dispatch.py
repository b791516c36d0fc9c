"""Ops and kernels: one piece of maths, written once to be read and, where it is hot, once to be fast.

An **op** is a pure function in plain array code. A **kernel** of the same name and signature may stand in
for it on one device, for the element types it claims. Which of them runs is decided at each call from the
first array argument, and where another array holds floats of another type it is the op: a kernel is compiled
for one. ``with reference_ops():`` or ``TINYGRAD_EDU_KERNELS=off`` runs the textbook alone.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy

from .device import Array, _lookup, _namespaces

_ops: dict[str, Op] = {}
_kernels: dict[tuple[str, str, str], Callable[..., Any]] = {}  # (op name, device, dtype) -> function
_loaded: set[str] = set()
_reference: ContextVar[bool] = ContextVar(
    "tinygrad_edu_reference",
    default=os.environ.get("TINYGRAD_EDU_KERNELS", "on").lower() in ("off", "0", "no", "false"),
)


class Op:
    """A reference function and the kernels that may stand in for it. Call it as the function.

    Attributes
    ----------
    name : str
    reference : the readable function itself
    """

    def __init__(self, reference: Callable[..., Any]):
        functools.update_wrapper(self, reference)
        self.reference = reference
        self.name = reference.__name__
        self._table: dict[tuple[str, Any], Callable[..., Any]] = {}  # (device, dtype) -> kernel

    def __call__(self, x: Array, *args: Any, **kwargs: Any) -> Any:
        if _reference.get():
            return self.reference(x, *args, **kwargs)
        device = _lookup(x)[0]
        if device not in _loaded:
            _load_kernels(device)
        chosen = self._table.get((device, x.dtype))
        if chosen is None or _other_floats(x.dtype, args) or (kwargs and _other_floats(x.dtype, kwargs.values())):
            return self.reference(x, *args, **kwargs)
        return chosen(x, *args, **kwargs)

    def kernel_for(self, device: str, dtype: str) -> Callable[..., Any] | None:
        """The kernel that would run for an array of `dtype` on `device`, or None for the reference."""
        _load_kernels(device)
        return self._table.get((device, numpy.dtype(dtype)))

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def _other_floats(dtype: Any, values: Iterable[Any]) -> bool:
    """Whether an array among `values` holds neither integers nor booleans nor elements of `dtype`."""
    for value in values:
        if type(value) in _namespaces or isinstance(value, numpy.ndarray):
            found = value.dtype
            if found != dtype and found.kind not in "biu" and value.ndim:
                return True
    return False


def op(reference: Callable[..., Any]) -> Op:
    """Register a readable, pure function as an op.

    Its first argument is the array by whose device and element type a kernel is chosen.
    """
    name = reference.__name__
    if name in _ops:
        raise ValueError(f"an op named {name!r} is registered already, by {_ops[name].reference.__module__}")
    _ops[name] = new = Op(reference)
    for (wanted, device, dtype), function in _kernels.items():  # kernels that were loaded before this op
        if wanted == name:
            new._table[device, numpy.dtype(dtype)] = function
    return new


def kernel(
    op_name: str, *, device: str, dtypes: tuple[str, ...] = ("float32",)
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let the decorated function stand in for the op `op_name` on `device`, for arrays of `dtypes`.

    The op is named by a string because a kernel imports nothing above the backend. The signature must be
    the op's own; a test holds every kernel against its op.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for dtype in dtypes:
            key = (op_name, device, numpy.dtype(dtype).name)
            if key in _kernels:
                raise ValueError(f"op {op_name!r} has a kernel for {dtype} on {device!r} already")
            _kernels[key] = function
            if op_name in _ops:
                _ops[op_name]._table[device, numpy.dtype(dtype)] = function
        return function

    return register


def _load_kernels(device: str) -> None:
    """Import the kernels of `device` once."""
    if device in _loaded:
        return
    _loaded.add(device)
    package = f"{__package__.partition('.')[0]}.kernels.{device}"
    if importlib.util.find_spec(package) is None:
        return
    try:
        importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:  # no Numba for this Python, or no LLVM: slow, but right
        warnings.warn(f"kernels for {device!r} are off, the readable ops run instead: {error}", stacklevel=3)


@contextmanager
def reference_ops() -> Iterator[None]:
    """Under ``with reference_ops():`` every op runs its readable form; no kernel stands in."""
    token = _reference.set(True)
    try:
        yield
    finally:
        _reference.reset(token)


def kernels_enabled() -> bool:
    """Whether kernels may stand in for ops here."""
    return not _reference.get()


def registered_ops() -> dict[str, Op]:
    """All ops by name."""
    return dict(_ops)


def registered_kernels(device: str | None = None) -> list[tuple[str, str, str, Callable[..., Any]]]:
    """All kernels as ``(op name, device, dtype, function)``, loading those of `device` first."""
    if device is not None:
        _load_kernels(device)
    return [(name, where, dtype, f) for (name, where, dtype), f in _kernels.items() if device in (None, where)]


def same_signature(function: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two functions take the same parameters with the same defaults."""
    first, second = (inspect.signature(f).parameters.values() for f in (function, other))
    return [(p.name, p.kind, p.default) for p in first] == [(p.name, p.kind, p.default) for p in second]

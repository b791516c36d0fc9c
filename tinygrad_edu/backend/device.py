"""Device follows data: which array library an array belongs to, and where new arrays are made.

A NumPy array is on ``"cpu"``, a CuPy array on ``"cuda"``. CuPy is imported only when ``use("cuda")``,
``use("auto")`` or a CuPy array asks for it, so a machine without a GPU never notices.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy

from ..errors import DeviceError

Array = Any
"""A NumPy or CuPy array. The two share no base class, so the type says nothing to a checker."""

_namespaces: dict[type, tuple[str, Any]] = {numpy.ndarray: ("cpu", numpy)}
_modules: dict[str, Any] = {"cpu": numpy}
_current = "cpu"


def register_namespace(array_type: type, device: str, module: Any) -> None:
    """Teach :func:`namespace` one more array type: arrays of `array_type` live on `device` and speak to `module`."""
    _namespaces[array_type] = (device, module)
    _modules[device] = module


def _lookup(x: Any) -> tuple[str, Any]:
    kind = type(x)
    found = _namespaces.get(kind)
    if found is not None:
        return found
    if kind.__module__.partition(".")[0] == "cupy":
        cupy = sys.modules["cupy"]
        register_namespace(kind, "cuda", cupy)
        return "cuda", cupy
    for base in kind.__mro__:  # subclasses such as numpy.memmap, and NumPy's scalars
        if base in _namespaces or base is numpy.generic:
            _namespaces[kind] = _namespaces.get(base, ("cpu", numpy))
            return _namespaces[kind]
    raise DeviceError(
        f"expected a NumPy or CuPy array, got {kind.__module__}.{kind.__qualname__}. "
        "Convert it first, for example with numpy.asarray(...)."
    )


def namespace(*arrays: Array | None) -> Any:
    """The array library (``numpy`` or ``cupy``) that all of `arrays` belong to; None is skipped.

    Raises
    ------
    DeviceError
        If they live on different devices, or one is not an array at all.
    """
    if len(arrays) == 1:
        return _lookup(arrays[0])[1]
    device, module = "", None
    for position, x in enumerate(arrays):
        if x is None:
            continue
        here, mod = _lookup(x)
        if module is None:
            device, module = here, mod
        elif here != device:
            raise DeviceError(
                f"arrays of two devices met: array {position} is on {here!r}, the one before it on {device!r}. "
                "Move one with tg.backend.to_device(array, device), or the model with model.to(device)."
            )
    if module is None:
        raise DeviceError("namespace() needs at least one array")
    return module


def device_of(x: Array) -> str:
    """``"cpu"`` or ``"cuda"``: where `x` lives."""
    return _lookup(x)[0]


def _import_cupy() -> tuple[ModuleType | None, str]:
    """CuPy with a device that answers, or None and the reason why not."""
    try:
        import cupy
    except Exception as error:  # a broken CUDA installation may raise anything here
        return None, f"CuPy cannot be imported ({error}); install the extra: pip install 'tinygrad_edu[cuda]'"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CUDARuntimeError without a driver
        return None, f"CuPy is installed but finds no CUDA device ({error})"
    return (cupy, "") if count else (None, "CuPy is installed but finds no CUDA device")


def cuda_available() -> bool:
    """Whether CuPy can be imported and a CUDA device answers."""
    return _import_cupy()[0] is not None


def _module(device: str) -> Any:
    if device not in ("cpu", "cuda"):
        raise DeviceError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device not in _modules:
        cupy, reason = _import_cupy()
        if cupy is None:
            raise DeviceError(f"device 'cuda' is not available: {reason}")
        register_namespace(cupy.ndarray, "cuda", cupy)
    return _modules[device]


def check_device(device: str) -> None:
    """Raise DeviceError unless `device` is ``"cpu"`` or a ``"cuda"`` that is there."""
    _module(device)


class _Restore:
    """What :func:`use` returns: nothing to do if ignored, the old device again at the end of a ``with``."""

    def __init__(self, previous: str, device: str):
        self._previous = previous
        self.device = device

    def __enter__(self) -> str:
        return self.device

    def __exit__(self, *exc: object) -> None:
        global _current
        _current = self._previous

    def __repr__(self) -> str:
        return f"<using {self.device!r}>"


def use(device: str) -> _Restore:
    """Set where new arrays are created: ``"cpu"``, ``"cuda"``, or ``"auto"`` (CUDA where it works).

    Also a context manager, ``with tg.use("cuda"): ...``, that goes back at the end.

    Raises
    ------
    DeviceError
        If the device is unknown, or ``"cuda"`` was asked for and is not there (with the reason).
    """
    global _current
    if device == "auto":
        device = "cuda" if cuda_available() else "cpu"
    elif device not in ("cpu", "cuda"):
        raise DeviceError(f"device must be 'cpu', 'cuda' or 'auto', got {device!r}")
    _module(device)
    previous, _current = _current, device
    return _Restore(previous, device)


def current_device() -> str:
    """Where new arrays are created now."""
    return _current


@contextmanager
def _on(device: str) -> Iterator[None]:
    with use(device):
        yield


def array(value: Any, dtype: Any = None) -> Array:
    """A new array on the current device with a copy of `value`."""
    return _module(_current).array(to_host(value), dtype=dtype)


def asarray(value: Any, dtype: Any = None) -> Array:
    """`value` as an array of the current device; NumPy arrays are moved there, device arrays stay."""
    if type(value) in _namespaces and _lookup(value)[0] == _current:
        return value if dtype is None else value.astype(dtype, copy=False)
    return _module(_current).asarray(to_host(value), dtype=dtype)


def zeros(*shape: int, dtype: Any = "float32") -> Array:
    """Zeros on the current device."""
    return _module(_current).zeros(shape, dtype=dtype)


def ones(*shape: int, dtype: Any = "float32") -> Array:
    """Ones on the current device."""
    return _module(_current).ones(shape, dtype=dtype)


def empty(*shape: int, dtype: Any = "float32") -> Array:
    """Uninitialised memory on the current device."""
    return _module(_current).empty(shape, dtype=dtype)


def full(shape: tuple[int, ...], value: float, dtype: Any = "float32") -> Array:
    """`value` everywhere, on the current device."""
    return _module(_current).full(shape, value, dtype=dtype)


def zeros_like(x: Array) -> Array:
    """Zeros of the shape, type and device of `x`."""
    return namespace(x).zeros(x.shape, dtype=x.dtype)


def empty_like(x: Array) -> Array:
    """Uninitialised memory of the shape, type and device of `x` (contiguous, whatever `x` is)."""
    return namespace(x).empty(x.shape, dtype=x.dtype)


def to_host(x: Any) -> Any:
    """`x` as a NumPy array; a NumPy array is returned as it is."""
    if isinstance(x, numpy.ndarray):
        return x
    if hasattr(x, "get") and hasattr(x, "device"):  # CuPy refuses implicit conversion, so ask it
        return x.get()
    if hasattr(x, "detach"):  # a torch tensor, so that a torch state_dict can be loaded as it is
        x = x.detach().cpu().numpy()
    return numpy.asarray(x)


def to_device(x: Array, device: str) -> Array:
    """`x` on `device`, without a copy if it is there already.

    Raises
    ------
    DeviceError
        If `device` is unknown or not available.
    """
    module = _module(device)
    if type(x) in _namespaces and _lookup(x)[0] == device:
        return x
    host = to_host(x)
    return host if device == "cpu" else module.asarray(host)


def same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one type are views of the very same elements in the same order."""
    attribute = "__array_interface__" if device_of(a) == "cpu" else "__cuda_array_interface__"
    pointers = [getattr(x, attribute, {}).get("data") for x in (a, b)]
    return pointers[0] is not None and pointers[0] == pointers[1] and a.shape == b.shape and a.strides == b.strides


def synchronize() -> None:
    """Wait until the GPU has done all that was asked of it; nothing to wait for on the CPU."""
    if "cuda" in _modules and hasattr(_modules["cuda"], "cuda"):
        _modules["cuda"].cuda.get_current_stream().synchronize()

"""A stand-in for CuPy on machines without a GPU, stricter than CuPy itself.

Its arrays are NumPy arrays in a wrapper that never turns into one by itself: mixing with a NumPy array, handing one
to a NumPy function, or a name or argument that CuPy lacks is an error. Code that runs on it and agrees with the CPU
names no library but its namespace.
"""

from __future__ import annotations

import copy
import functools
import operator
import re
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_edu.backend import device, dispatch, reference_ops

SCALARS = (bool, int, float, complex, np.generic)
TRANSFERS = {"array", "asarray", "asanyarray", "ascontiguousarray"}  # may take what lies on the host
# Arguments that NumPy's functions and methods have and CuPy's have not.
REFUSED = {
    **{name: {"where", "initial"} for name in ("sum", "prod", "max", "min", "amax", "amin")},
    **{name: {"where"} for name in ("mean", "var", "std", "any", "all")},
    "take": {"mode"},
}


def real_names() -> tuple[frozenset[str], frozenset[str]]:
    """Names of CuPy and of its arrays: of the one that is installed, or those kept in a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without a GPU it warns of what it does not find
            import cupy
    except Exception:
        text = (Path(__file__).with_name("cupy_names.txt")).read_text(encoding="utf-8")
        _, module, ndarray = re.split(r"^\[\w+\]$", text, flags=re.MULTILINE)
        return frozenset(module.split()), frozenset(ndarray.split())
    return frozenset(dir(cupy)), frozenset(dir(cupy.ndarray))


MODULE, NDARRAY = real_names()


def unwrap(value: Any, name: str, host: bool = False) -> Any:
    """The NumPy array inside; an error for anything that CuPy would not take, unless it comes from the `host`."""
    if isinstance(value, StrictArray):
        return value.inside
    if isinstance(value, np.ndarray) and not host:
        raise TypeError(f"{name}: unsupported type {type(value)}: a NumPy array met one of CuPy")
    if isinstance(value, tuple | list):
        return type(value)(unwrap(item, name, host) for item in value)
    return value


def wrap(value: Any) -> Any:
    """Arrays, and results that NumPy gives as scalars: CuPy leaves them on the device as arrays of no axes."""
    if isinstance(value, np.ndarray):
        return StrictArray(value)
    if isinstance(value, np.generic):
        return StrictArray(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(wrap(item) for item in value)
    return value


def strict(function: Any, name: str) -> Any:
    @functools.wraps(function, assigned=("__name__", "__doc__"), updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        refused = REFUSED.get(name, set()) & set(kwargs)
        if refused:
            raise TypeError(f"cupy.{name} has no argument {', '.join(sorted(refused))}")
        host = name in TRANSFERS
        return wrap(function(*unwrap(args, name, host), **{k: unwrap(v, name, host) for k, v in kwargs.items()}))

    return call


class StrictArray:
    """An array that knows its own kind only."""

    __slots__ = ("__weakref__", "inside")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, inside: np.ndarray):
        self.inside = inside

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` explicitly.")

    def __array_function__(self, function: Any, *_: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called on an array of CuPy; use namespace(x)")

    def __array_ufunc__(self, function: Any, *_: Any, **__: Any) -> Any:
        raise TypeError(f"numpy.{function.__name__} was called on an array of CuPy; use namespace(x)")

    def get(self) -> np.ndarray:
        return self.inside.copy()

    @property
    def device(self) -> str:
        return "<CUDA Device 0>"

    @property
    def base(self) -> Any:
        return None if self.inside.base is None else wrap(self.inside.base)

    def __getattr__(self, name: str) -> Any:
        if name not in NDARRAY:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        value = getattr(self.inside, name)
        return strict(value, name) if callable(value) else wrap(value)

    def __getitem__(self, key: Any) -> Any:
        return wrap(self.inside[unwrap(key, "index")])

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(value, (StrictArray, *SCALARS)):
            raise TypeError(f"cannot assign a {type(value).__name__} to an array of CuPy")
        self.inside[unwrap(key, "index")] = unwrap(value, "assignment")

    def __iter__(self) -> Iterator[Any]:
        return (wrap(item) for item in self.inside)

    def __len__(self) -> int:
        return len(self.inside)

    def __bool__(self) -> bool:
        return bool(self.inside)

    def __float__(self) -> float:
        return float(self.inside)

    def __int__(self) -> int:
        return int(self.inside)

    def __index__(self) -> int:
        return operator.index(self.inside)

    def __copy__(self) -> StrictArray:
        return StrictArray(self.inside.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> StrictArray:
        return StrictArray(copy.deepcopy(self.inside, memo))

    def __repr__(self) -> str:
        return f"strict({self.inside!r})"


def _operand(other: Any) -> Any:
    if isinstance(other, StrictArray):
        return other.inside
    if isinstance(other, SCALARS):
        return other
    raise TypeError(f"unsupported operand: an array of CuPy and a {type(other).__module__}.{type(other).__name__}")


def _install_operators() -> None:
    def binary(function: Any) -> Any:
        return lambda self, other: wrap(function(self.inside, _operand(other)))

    def reflected(function: Any) -> Any:
        return lambda self, other: wrap(function(_operand(other), self.inside))

    def in_place(function: Any) -> Any:
        def run(self: StrictArray, other: Any) -> StrictArray:
            self.inside = function(self.inside, _operand(other))
            return self

        return run

    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
        plain = getattr(operator, f"{name}_" if name in ("and", "or") else name)
        setattr(StrictArray, f"__{name}__", binary(plain))
        setattr(StrictArray, f"__r{name}__", reflected(plain))
        setattr(StrictArray, f"__i{name}__", in_place(getattr(operator, f"i{name}")))
    for name in ("lshift", "rshift"):
        setattr(StrictArray, f"__{name}__", binary(getattr(operator, name)))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(StrictArray, f"__{name}__", binary(getattr(operator, name)))
    for name in ("neg", "pos", "abs", "invert"):
        function = getattr(operator, name)
        setattr(StrictArray, f"__{name}__", lambda self, function=function: wrap(function(self.inside)))


_install_operators()


class StrictModule(types.ModuleType):
    """What ``namespace`` gives for such arrays: the names of CuPy, and ``erf`` (which CuPy keeps elsewhere)."""

    ndarray = StrictArray

    def __getattr__(self, name: str) -> Any:
        if name not in MODULE:
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        value = getattr(np, name)
        if isinstance(value, types.ModuleType):
            raise AttributeError(f"the stand-in for CuPy has no {name!r}")
        if isinstance(value, np.ufunc):
            function = strict(value, name)
            function.at = strict(value.at, name)
            return function
        return strict(value, name) if callable(value) and not isinstance(value, type) else value

    @staticmethod
    def erf(x: StrictArray) -> StrictArray:
        from tinygrad_edu.backend import special

        return StrictArray(special.erf.reference(x.inside))


cupy = StrictModule("strict_cupy_module")


@contextmanager
def strict_cuda() -> Iterator[StrictModule]:
    """Within it, ``"cuda"`` is the stand-in, and the textbook ops run; everything is as before at the end."""
    tables: tuple[Any, ...] = (device._namespaces, device._modules, dispatch._loaded)
    before = [copy.copy(table) for table in tables]
    device.register_namespace(StrictArray, "cuda", cupy)
    dispatch._loaded.add("cuda")
    try:
        with reference_ops():
            yield cupy
    finally:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)

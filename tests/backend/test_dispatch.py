"""Ops and kernels: which of them runs, and what is said when they do not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import backend
from tinygrad_edu.backend import dispatch


@pytest.fixture(autouse=True)
def restore_tables() -> Iterator[None]:
    ops, kernels = dict(dispatch._ops), dict(dispatch._kernels)
    yield
    for table, old in ((dispatch._ops, ops), (dispatch._kernels, kernels)):
        table.clear()
        table.update(old)


def test_a_kernel_stands_in_for_the_types_it_claims() -> None:
    @backend.op
    def doubled(x: Any, times: int = 2) -> Any:
        """Twice x."""
        return x * times

    @backend.kernel("doubled", device="cpu", dtypes=("float32", "int64"))
    def fast(x: Any, times: int = 2) -> Any:
        return x * times + 1000

    ones = np.ones(1)
    assert doubled(ones.astype("float32")) == 1002
    assert doubled(ones.astype("int64"), 3) == 1003
    assert doubled(ones) == 2
    with tg.reference_ops():
        assert not backend.kernels_enabled()
        assert doubled(ones.astype("float32")) == 2
    assert backend.kernels_enabled()
    assert doubled.kernel_for("cpu", "float32") is fast
    assert doubled.kernel_for("cpu", "float64") is None
    assert (doubled.name, doubled.__doc__, repr(doubled)) == ("doubled", "Twice x.", "<op doubled>")
    assert backend.registered_ops()["doubled"] is doubled
    assert ("doubled", "cpu", "int64", fast) in dispatch.registered_kernels("cpu")


def test_a_kernel_may_come_before_its_op() -> None:
    @backend.kernel("late", device="cpu")
    def fast(x: Any) -> Any:
        return x + 1

    @backend.op
    def late(x: Any) -> Any:
        return x

    assert late(np.zeros(1, dtype="float32")) == 1


def test_names_are_taken_once() -> None:
    @backend.op
    def once(x: Any) -> Any:
        return x

    with pytest.raises(ValueError, match="an op named 'once' is registered already, by "):
        backend.op(once.reference)

    backend.kernel("once", device="cpu")(once.reference)
    with pytest.raises(ValueError, match="op 'once' has a kernel for float32 on 'cpu' already"):
        backend.kernel("once", device="cpu")(once.reference)


def test_reference_mode_ends_after_an_error() -> None:
    with pytest.raises(KeyError), tg.reference_ops():
        raise KeyError
    assert backend.kernels_enabled()


@pytest.mark.parametrize(
    "value, enabled",
    [("off", False), ("0", False), ("no", False), ("false", False), ("OFF", False), ("on", True), ("", True)],
)
def test_the_environment_switches_kernels_off(value: str, enabled: bool) -> None:
    import os

    code = "import tinygrad_edu as tg; print(tg.backend.kernels_enabled())"
    env = {**os.environ, "TINYGRAD_EDU_KERNELS": value}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert result.stdout == f"{enabled}\n"


def test_kernels_that_cannot_be_loaded_warn_once_and_the_textbook_runs() -> None:
    code = (
        "import sys, warnings; sys.modules['numba'] = None\n"
        "import numpy as np, tinygrad_edu as tg\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    y = tg.layers.GELU()(np.ones((2, 3), dtype='float32')); tg.layers.GELU()(y)\n"
        "print(len(caught), caught[0].message, y.dtype)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("1 kernels for 'cpu' are off, the readable ops run instead: ")
    assert result.stdout.endswith("float32\n")


@pytest.mark.parametrize(
    "other, same",
    [
        (lambda x, y=1: 0, True),
        (lambda x, y=2: 0, False),
        (lambda x, z=1: 0, False),
        (lambda x: 0, False),
        (lambda x, *, y=1: 0, False),
    ],
)
def test_signatures(other: Any, same: bool) -> None:
    assert dispatch.same_signature(lambda x, y=1: 0, other) == same


def test_inference_keeps_nothing_and_ends_after_an_error() -> None:
    layer = tg.layers.Tanh()
    with pytest.raises(KeyError), tg.inference():
        layer(np.ones(2))
        assert backend.is_inference()
        raise KeyError
    assert not layer._saved
    assert not backend.is_inference()

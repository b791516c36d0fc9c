"""Every kernel against the op that it stands in for, on random shapes, layouts and values.

`ARGUMENTS` says for each op how to draw arguments; a kernel without an entry fails the first test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_edu.losses
import tinygrad_edu.optim  # noqa: F401  (its ops must be registered too)
from tests.kernels.arguments import ARGUMENTS
from tests.kernels.draw import Draw
from tinygrad_edu import reference_ops
from tinygrad_edu.backend import dispatch, registered_ops, to_device, to_host

# torch.testing.assert_close: rtol, atol by element type.
TOLERANCE = {"float64": (1e-7, 1e-7), "float32": (1.3e-6, 1e-5), "float16": (1e-3, 1e-5), "bfloat16": (1.6e-2, 1e-5)}

CPU = sorted(dispatch.registered_kernels("cpu"), key=lambda kernel: kernel[:3])
each_kernel = pytest.mark.parametrize(
    "name, device, dtype, kernel", CPU, ids=[f"{name} {dtype}" for name, _, dtype, _ in CPU]
)


def to_list(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def compare(
    name: str, device: str, dtype: str, kernel: Callable[..., Any], data: st.DataObject, large: bool = False
) -> None:
    """Call both on the same arguments: they return the same, change the same, and change nothing else."""
    entry, reference = ARGUMENTS[name], registered_ops()[name].reference
    drawn = entry.draw(Draw(data, dtype, large))

    def place(value: Any, at: int, where: str) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        # An array that is changed is given to each as an array of its own, in its own layout.
        return to_device(_copy(value) if at in entry.changed else value, where)

    here = [place(value, at, "cpu") for at, value in enumerate(drawn)]
    there = [place(value, at, device) for at, value in enumerate(drawn)]
    before = [np.array(value) if isinstance(value, np.ndarray) else value for value in drawn]
    with reference_ops():
        wanted = to_list(reference(*here))
    found = to_list(kernel(*there))
    assert len(found) == len(wanted)
    size = max((value.size for value in drawn if isinstance(value, np.ndarray)), default=1)
    for result, right in zip(found, wanted, strict=True):
        check_equal(result, right, dtype, size, entry.longer, exact=name in ("random_uniform", "embedding"))
    for at, value in enumerate(before):
        if not isinstance(value, np.ndarray):
            continue
        if at in entry.changed:
            check_equal(there[at], here[at], dtype, size, entry.longer)
        else:
            np.testing.assert_array_equal(to_host(there[at]), value, err_msg=f"{name} changed argument {at}")


def _copy(value: np.ndarray) -> np.ndarray:
    """A copy with the same strides, so that a view stays a view of that kind."""
    if value.flags.c_contiguous:
        return value.copy()
    if value.flags.f_contiguous:
        return value.T.copy().T
    wide = np.zeros((len(value), value.shape[1] + 3), dtype=value.dtype)
    wide[:, 1 : value.shape[1] + 1] = value
    return wide[:, 1 : value.shape[1] + 1]


def check_equal(found: Any, wanted: Any, dtype: str, size: int, longer: float, exact: bool = False) -> None:
    if wanted is None:
        assert found is None
        return
    found, wanted = np.asarray(to_host(found)), np.asarray(wanted)
    assert found.shape == wanted.shape
    if wanted.dtype.kind != "f" or exact:
        np.testing.assert_array_equal(found, wanted)
        return
    rtol, atol = TOLERANCE[dtype]
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(found[~finite], wanted[~finite])
    largest = float(np.max(np.abs(wanted[finite]), initial=1.0))
    grown = longer * math.sqrt(max(size, 1))
    np.testing.assert_allclose(
        found[finite], wanted[finite], rtol=rtol * grown, atol=max(atol, rtol * grown * largest) * longer
    )


@each_kernel
def test_a_kernel_names_an_op_and_has_its_signature(
    name: str, device: str, dtype: str, kernel: Callable[..., Any]
) -> None:
    assert name in registered_ops()
    assert dispatch.same_signature(kernel, registered_ops()[name].reference)


def test_every_kernel_has_an_entry_here() -> None:
    assert {name for name, *_ in dispatch.registered_kernels()} <= set(ARGUMENTS)


def test_the_kernels_of_the_cpu_are_there() -> None:
    """Without Numba they are off, and then this file tests nothing."""
    assert {"attention", "gemm", "layernorm", "cross_entropy"} <= {name for name, *_ in CPU}


# Of the profile, so that HYPOTHESIS_PROFILE=explore really looks further; large inputs cost more.
EXAMPLES = settings().max_examples
LARGE_EXAMPLES = max(5, EXAMPLES // 10)


@each_kernel
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_against_its_op(name: str, device: str, dtype: str, kernel: Callable[..., Any], data: st.DataObject) -> None:
    compare(name, device, dtype, kernel, data)


@each_kernel
@settings(max_examples=LARGE_EXAMPLES)
@given(data=st.data())
def test_against_its_op_in_many_threads(
    name: str, device: str, dtype: str, kernel: Callable[..., Any], data: st.DataObject
) -> None:
    from tinygrad_edu.kernels.cpu import common

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "_SMALL", 1)  # every loop is shared, however little it does
        compare(name, device, dtype, kernel, data, large=True)


@pytest.mark.gpu
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_kernels_of_cuda(large: bool) -> None:
    for name, device, dtype, kernel in dispatch.registered_kernels("cuda"):

        @settings(max_examples=LARGE_EXAMPLES if large else EXAMPLES)
        @given(data=st.data())
        def check(data: st.DataObject, kernel: tuple[Any, ...] = (name, device, dtype, kernel)) -> None:
            compare(*kernel, data, large)

        check()


@each_kernel
def test_the_op_runs_it(name: str, device: str, dtype: str, kernel: Callable[..., Any]) -> None:
    assert registered_ops()[name].kernel_for(device, dtype) is kernel


@pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0, 80.0, 1e4, 1e12])  # x^3 in float32 ends at 7e12
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_extreme_values(name: str, scale: float) -> None:
    """The kernels bring an exponential of their own: it must neither overflow nor lose the tails."""
    x = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], dtype="float32") * np.float32(scale)
    dy = np.ones_like(x)
    op, back = registered_ops()[name], registered_ops()[f"{name}_backward"]
    with reference_ops():
        wanted = op(x.astype("float64")), back(dy.astype("float64"), x.astype("float64"))
    for found, right in zip((op(x), back(dy, x)), wanted, strict=True):
        np.testing.assert_allclose(found, right, rtol=2e-6, atol=5e-7 * max(1.0, scale if scale < 100 else 1.0))


def test_nan_and_infinity_are_not_hidden() -> None:
    """A kernel that optimises them away would hide that training has broken."""
    x = np.array([[0.5, np.nan, 1.0], [np.inf, 1.0, 2.0]], dtype="float32")
    for name in ("gelu", "gelu_tanh", "silu"):
        y = registered_ops()[name](x)
        assert np.isnan(y[0, 1]) and np.isinf(y[1, 0])
    ops = registered_ops()
    assert np.isnan(ops["layernorm"](x, np.ones(3, "float32"), np.ones(3, "float32"), 1e-5)[0][0]).all()
    assert np.isnan(ops["rmsnorm"](x, np.ones(3, "float32"), 1e-5)[0][0]).all()
    assert np.isnan(ops["cross_entropy"](x[:1], np.array([0]), None, -100, 0.0)[0][0])
    assert np.isnan(ops["squared_sum"](x)) or np.isinf(ops["squared_sum"](x))
    heads = np.ones((1, 1, 3, 4), dtype="float32")
    broken = heads.copy()
    broken[0, 0, 1, 2] = np.nan
    assert np.isnan(ops["attention"](broken, heads, heads, None, False, 1.0)[0][0, 0, 1]).all()
    assert np.isnan(ops["attention"](heads, broken, heads, None, False, 1.0)[0]).all()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    """What sums over rows in parallel may round otherwise; what gives a row each must not."""
    import numba

    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(1000, 330)).astype("float32") for _ in range(2))
    before = numba.get_num_threads()
    results = []
    try:
        for threads in {1, before}:
            numba.set_num_threads(threads)
            results.append((registered_ops()["gelu"](x), registered_ops()["dropout"](dy, 0.3, 9)))
    finally:
        numba.set_num_threads(before)
    for left, right in zip(results[0], results[-1], strict=True):
        np.testing.assert_array_equal(left, right)


def test_repeated_ids_are_added_in_order() -> None:
    """Bit for bit the same however often it is run: the sum for an id is taken by one thread."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, 500)
    dy = rng.normal(size=(500, 17)).astype("float32")
    op = registered_ops()["embedding_backward"]
    first = op(dy, ids, np.zeros((5, 17), "float32"))
    for _ in range(5):
        np.testing.assert_array_equal(op(dy, ids, np.zeros((5, 17), "float32")), first)
    assert not first[3:].any()

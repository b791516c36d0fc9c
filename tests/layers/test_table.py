"""Every row of the table of layers and losses against central differences, torch, and the contract."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import layers, losses
from tinygrad_edu.backend import to_device, to_host
from tinygrad_edu.check.cases import CASES, Case
from tinygrad_edu.check.subject import to_list
from tinygrad_edu.layers import Layer
from tinygrad_edu.layers.base import Layer as Base

SIZES = {"batch and time": (3, 4), "batch of one": (1, 4), "time of one": (3, 1), "both one": (1, 1)}
# Classes that are no function of arrays: the base class, and a list that only keeps layers.
NO_FUNCTION = {"Layer", "LayerList"}

rows = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def public_layers() -> set[str]:
    found = {
        name
        for name in layers.__all__
        if inspect.isclass(getattr(layers, name)) and issubclass(getattr(layers, name), Base)
    }
    return found | {
        name
        for name, value in vars(losses).items()
        if inspect.isclass(value) and issubclass(value, Base) and value.__module__.startswith(losses.__name__)
    }


def test_every_public_layer_and_loss_has_a_row() -> None:
    assert public_layers() - NO_FUNCTION == {case.of for case in CASES}


def test_no_two_rows_have_one_name() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@rows
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_gradients_torch_and_contract(case: Case, size: tuple[int, int]) -> None:
    pytest.importorskip("torch")
    report = case.check(*size, torch=True).raise_if_wrong()
    assert report.tensors[0].kind == "output"
    compared = [t for t in report.tensors if t.torch is not None]
    assert bool(compared) == (case.torch is not None)


@rows
def test_without_kernels(case: Case) -> None:
    with tg.reference_ops():
        case.check().raise_if_wrong()


@rows
def test_another_seed(case: Case) -> None:
    case.check(2, 3, seed=1, contract=False).raise_if_wrong()


def run(case: Case, device: str, dtype: Any) -> dict[str, np.ndarray]:
    """Output and gradients of a row on a device."""
    layer, inputs = case.make(device=device)
    layer.to(device).astype(dtype)

    def place(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(place, value))
        if not hasattr(value, "dtype"):
            return value
        return to_device(value.astype(dtype) if value.dtype.kind == "f" else value, device)

    rng = np.random.default_rng(5)

    def upstream(y: Any) -> Any:
        if isinstance(y, tuple):
            return tuple(map(upstream, y))
        dy = rng.standard_normal(np.shape(to_host(y))).astype(dtype)
        return to_device(dy, device) if dy.ndim else float(dy)

    outputs = layer(*map(place, inputs), **case.forward)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    returned = to_list(layer.backward(*upstream(outputs)))
    found = {f"y{i}": to_host(y) for i, y in enumerate(to_list(outputs))}
    found |= {f"d{i}": to_host(dx) for i, dx in enumerate(returned) if dx is not None}
    return found | {name: to_host(parameter.grad) for name, parameter in layer.named_parameters()}


@rows
def test_on_a_strict_stand_in_for_cupy(case: Case, strict_cuda: Any) -> None:
    """Code that names NumPy, mixes devices, or uses what CuPy lacks fails here, on any machine."""
    here, there = run(case, "cpu", "float64"), run(case, "cuda", "float64")
    assert here.keys() == there.keys()
    for name in here:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-12, atol=1e-14, err_msg=name)


@rows
def test_checked_on_a_strict_stand_in_for_cupy(case: Case, strict_cuda: Any) -> None:
    case.check(device="cuda", seeds=1).raise_if_wrong()


@pytest.mark.gpu
@rows
@pytest.mark.parametrize("dtype, rtol", [("float64", 1e-10), ("float32", 1e-4)])
def test_on_cuda(case: Case, dtype: str, rtol: float) -> None:
    here, there = run(case, "cpu", dtype), run(case, "cuda", dtype)
    for name in here:
        size = float(np.max(np.abs(here[name]), initial=0.0))
        np.testing.assert_allclose(
            there[name], here[name], rtol=rtol, atol=rtol * size + 1e-7 * (dtype == "float32"), err_msg=name
        )


@pytest.mark.gpu
@rows
def test_gradients_on_cuda(case: Case) -> None:
    case.check(device="cuda").raise_if_wrong()


def test_a_layer_used_twice_appears_once() -> None:
    case = next(case for case in CASES if case.options == "one layer three times")
    layer, _ = case.make()
    assert isinstance(layer, Layer)
    assert [name for name, _ in layer.named_parameters()] == ["0.weight", "0.bias"]

"""Every row of the table of ops: central differences, torch to 1e-12, the adjoint of what is linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu.losses
import tinygrad_edu.optim  # noqa: F401  (its ops must be registered too)
from tinygrad_edu import reference_ops
from tinygrad_edu.backend import registered_ops
from tinygrad_edu.check.contract import adjoint_error
from tinygrad_edu.check.op_cases import OP_CASES, OpCase

# Ops that are no differentiable function: noise, and the steps of optimizers (which have tests of their own).
NO_GRADIENT = {"random_uniform", "adam_update", "sgd_update", "ema_update", "squared_sum"}

rows = pytest.mark.parametrize("case", OP_CASES, ids=lambda case: case.name)


def test_every_op_has_a_row() -> None:
    covered = {name for case in OP_CASES for name in case.ops}
    assert set(registered_ops()) - NO_GRADIENT == covered


@rows
@pytest.mark.parametrize("size", [(3, 4), (1, 4), (3, 1), (1, 1)], ids="B{0[0]}T{0[1]}".format)
def test_gradients_and_torch(case: OpCase, size: tuple[int, int]) -> None:
    pytest.importorskip("torch")
    with reference_ops():
        report = case.check(*size, torch=True)
    report.raise_if_wrong()
    assert (report.tensors[0].torch is not None) == (case.torch is not None)


@rows
def test_with_kernels(case: OpCase) -> None:
    case.check(2, 3, seed=1).raise_if_wrong()


@pytest.mark.parametrize(
    "case, name", [pytest.param(case, name, id=f"{case.name} in {name}") for case in OP_CASES for name in case.linear]
)
def test_the_backward_of_a_linear_op_is_its_adjoint(case: OpCase, name: str) -> None:
    assert adjoint_error(case.subject(), name, np.random.default_rng(0)) < 1e-12


@rows
def test_on_a_strict_stand_in_for_cupy(case: OpCase, strict_cuda: Any) -> None:
    case.check(device="cuda", seeds=1).raise_if_wrong()


@pytest.mark.gpu
@rows
def test_on_cuda(case: OpCase) -> None:
    case.check(device="cuda").raise_if_wrong()

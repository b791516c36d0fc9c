"""The benchmark of attention: what it counts, that both sides compute the same, and how it takes memory."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
try:
    worker = importlib.import_module("bench.worker")
    attention = importlib.import_module("bench.attention")
    layers = importlib.import_module("bench.layers")
    process = importlib.import_module("bench.process")
finally:
    sys.path.pop(0)

Heads = attention.Heads


def test_operations_are_those_of_the_products() -> None:
    assert Heads().flops == 7 * 2 * 4 * 4096**2 * 64
    pairs = sum(range(1, 11))
    assert Heads(2, 3, 10, 8, causal=True).flops == 7 * 2 * 2 * 3 * pairs * 8


def test_inputs_are_heads_of_one_projection_and_the_same_for_both_sides() -> None:
    w = Heads(2, 3, 10, 8, padded=True)
    (q, k, v, dy), mask = w.inputs()
    assert q.shape == dy.shape == (2, 3, 10, 8) and q.dtype == np.float32
    assert q.base is k.base is v.base and q.strides[2] == 3 * 3 * 8 * 4
    assert mask is not None and mask.shape == (2, 1, 1, 10) and 5 <= mask[0].sum() <= 10
    for one, other in zip(w.inputs()[0], (q, k, v, dy), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="dtype must be float32 or float64, got 'float16'"):
        Heads(dtype="float16")


@pytest.mark.parametrize("settings", [{}, {"causal": True, "padded": True, "dtype": "float64"}], ids=["plain", "all"])
def test_both_sides_compute_the_same(settings: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    heads = {"batch": 2, "heads": 2, "time": 24, "dim": 8, **settings}
    job = {"job": "results", "heads": heads, "threads": None}
    ours, theirs = (process.run_worker(module, job) for module in ("attention_ours", "attention_twin"))
    assert layers.check_agreement(ours, theirs, settings.get("dtype", "float32")) < 1e-5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from /proc")
def test_growth_is_what_a_step_needs_at_once() -> None:
    def step() -> None:
        np.ones(160 * 2**20 // 8)  # too large for the heap, which may hold freed memory

    step()
    found = worker.growth_mib(step)
    assert found is not None and 155 < found < 170

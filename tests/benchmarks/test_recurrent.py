"""The benchmark of recurrent layers: what it counts, and that it notices two sides that differ."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
try:
    layers = importlib.import_module("bench.layers")
    process = importlib.import_module("bench.process")
    recurrent = importlib.import_module("bench.recurrent")
finally:
    sys.path.pop(0)

Recurrence, check_agreement, fingerprint = recurrent.Recurrence, layers.check_agreement, layers.fingerprint
BenchmarkError = process.BenchmarkError


def test_operations_are_those_of_the_products() -> None:
    tokens, square = 32 * 64, 2 * 256 * 256
    assert Recurrence("lstm").flops == 3 * tokens * 4 * 2 * square
    assert Recurrence("gru", inference=True).flops == tokens * 3 * 2 * square
    two = Recurrence("rnn", layers=2, bidirectional=True)
    assert two.flops == 3 * tokens * (2 * 2 * square + 2 * (2 * square + square))
    lengths = Recurrence("rnn", lengths=True)
    assert lengths.flops == 3 * int(lengths.inputs()[2].sum()) * 2 * square


def test_both_sides_get_the_same_inputs_and_weights() -> None:
    w, shapes = Recurrence("lstm", batch=2, time=3, width=4), {"b": (4,), "a": (4, 2)}
    assert fingerprint(dict(enumerate(w.inputs()[:2]))) == fingerprint(dict(enumerate(w.inputs()[:2])))
    assert fingerprint(w.weights(shapes)) == fingerprint(w.weights(dict(reversed(shapes.items()))))


def test_sides_that_differ_are_refused() -> None:
    ours = {"y": [10.0, 3.0], "dx": [2.0, -1.0]}
    assert check_agreement(ours, {"y": [10.0, 3.0], "dx": [2.0, -1.0 + 1e-5]}, "float32") == pytest.approx(5e-6)
    with pytest.raises(BenchmarkError, match="dx differs by 5.0e-02 of its norm"):
        check_agreement(ours, {"y": [10.0, 3.0], "dx": [2.0, -0.9]}, "float32")
    with pytest.raises(BenchmarkError, match="y differs by nan"):
        check_agreement({**ours, "y": [float("nan"), 3.0]}, ours, "float32")
    with pytest.raises(BenchmarkError, match="tensors of our side"):
        check_agreement(ours, {"y": [10.0, 3.0]}, "float32")

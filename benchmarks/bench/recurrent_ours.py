"""This library's side of :mod:`bench.recurrent`: jobs of the process ``bench.ours``."""

from __future__ import annotations

import tinygrad_edu as tg  # first: it settles the thread pools before NumPy loads

from collections.abc import Callable
from typing import Any

import numpy as np

from bench import worker
from bench.layers import fingerprint
from bench.recurrent import Recurrence


def _layer(w: Recurrence) -> Any:
    kind = getattr(tg.layers, w.kind.upper())
    layer = kind(w.width, w.width, num_layers=w.layers, bidirectional=w.bidirectional).astype(w.dtype)
    layer.load_state_dict(w.weights({name: parameter.shape for name, parameter in layer.named_parameters()}))
    return layer


def _step(w: Recurrence) -> tuple[Any, Callable[[int], dict[str, Any]]]:
    layer, (x, dy, lengths) = _layer(w), w.inputs()

    def learn(_: int) -> dict[str, Any]:
        layer.zero_grad()
        y, _state = layer(x, None, lengths)
        return {"y": y, "dx": layer.backward(dy)}

    def infer(_: int) -> dict[str, Any]:
        with tg.inference():
            return {"y": layer(x, None, lengths)[0]}

    return layer, infer if w.inference else learn


def results(job: dict[str, Any]) -> dict[str, Any]:
    """Outputs and gradients of one step, in a few numbers each."""
    w = Recurrence(**job["layer"])
    layer, step = _step(w)
    found = step(0)
    if not w.inference:
        found |= {name: parameter.grad for name, parameter in layer.named_parameters()}
    return fingerprint(found)


def timing(job: dict[str, Any], facts: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Time steps."""
    w = Recurrence(**job["layer"])
    _, step = _step(w)
    timed = worker.time_steps(step, job["warmup"], job["steps"], 1, lambda: None)
    peak, size = worker.peak_mib(), worker.gemm_size("cpu")
    a, out = np.ones((size, size), dtype=w.dtype), np.empty((size, size), dtype=w.dtype)
    rate = worker.gemm_rate(lambda: np.matmul(a, a, out=out), lambda: None, size)
    return {**timed, "peak_mib": peak, "gemm_gflops": rate, "facts": facts()}

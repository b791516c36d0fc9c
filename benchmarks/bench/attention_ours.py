"""This library's side of :mod:`bench.attention`, in a process of its own. torch is never imported here."""

from __future__ import annotations

from bench import ours  # first: it loads the library, which settles the thread pools before NumPy loads

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bench import worker
from bench.attention import Heads
from bench.layers import fingerprint
from tinygrad_edu.layers.blocked_attention import attention_ops


def _step(w: Heads) -> Callable[[int], dict[str, Any]]:
    """What :class:`MultiHeadAttention` runs for such heads: the kernel, or the readable op by blocks."""
    (q, k, v, dy), mask = w.inputs()
    forward, backward = attention_ops(q, k, v)
    scale = w.dim**-0.5

    def step(_: int) -> dict[str, Any]:
        y, lse = forward(q, k, v, mask, w.causal, scale)
        dq, dk, dv = backward(dy, q, k, v, mask, y, lse, w.causal, scale)
        return {"y": y, "dq": dq, "dk": dk, "dv": dv}

    return step


def results(job: dict[str, Any]) -> dict[str, Any]:
    """Output and gradients, in a few numbers each."""
    return fingerprint(_step(Heads(**job["heads"]))(0))


def memory(job: dict[str, Any]) -> dict[str, Any]:
    """What one step adds to the memory of the process beyond its inputs, in MiB."""
    w = Heads(**job["heads"])
    _step(replace(w, time=min(w.time, 256)))(0)  # loads and compiles
    step = _step(w)
    return {"grown_mib": worker.growth_mib(lambda: step(0))}


def timing(job: dict[str, Any]) -> dict[str, Any]:
    """Time steps."""
    w = Heads(**job["heads"])
    timed = worker.time_steps(_step(w), job["warmup"], job["steps"], 1, lambda: None)
    peak, size = worker.peak_mib(), worker.gemm_size("cpu")
    a, out = np.ones((size, size), dtype=w.dtype), np.empty((size, size), dtype=w.dtype)
    rate = worker.gemm_rate(lambda: np.matmul(a, a, out=out), lambda: None, size)
    return {**timed, "peak_mib": peak, "gemm_gflops": rate, "facts": ours.facts()}


if __name__ == "__main__":
    ours.serve({"results": results, "memory": memory, "timing": timing})

"""torch's side of :mod:`bench.attention`, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from bench import twin, worker
from bench.attention import Heads
from bench.layers import fingerprint


def _step(w: Heads) -> Callable[[int], dict[str, Any]]:
    arrays, hidden = w.inputs()
    q, k, v, dy = (torch.from_numpy(array) for array in arrays)
    mask = None if hidden is None else torch.from_numpy(hidden)
    if mask is not None and w.causal:  # torch takes the one or the other
        mask = mask & torch.ones(w.time, w.time, dtype=torch.bool).tril()
    for x in (q, k, v):
        x.requires_grad_()

    def step(_: int) -> dict[str, Any]:
        q.grad = k.grad = v.grad = None
        y = scaled_dot_product_attention(q, k, v, mask, is_causal=w.causal and mask is None)
        y.backward(dy)
        return {"y": y.detach(), "dq": q.grad, "dk": k.grad, "dv": v.grad}

    return step


def _set_threads(job: dict[str, Any]) -> None:
    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])


def results(job: dict[str, Any]) -> dict[str, Any]:
    """Output and gradients, in a few numbers each."""
    _set_threads(job)
    return fingerprint({name: tensor.numpy() for name, tensor in _step(Heads(**job["heads"]))(0).items()})


def memory(job: dict[str, Any]) -> dict[str, Any]:
    """What one step adds to the memory of the process beyond its inputs, in MiB."""
    _set_threads(job)
    w = Heads(**job["heads"])
    _step(replace(w, time=min(w.time, 256)))(0)
    step = _step(w)
    return {"grown_mib": worker.growth_mib(lambda: step(0))}


def timing(job: dict[str, Any]) -> dict[str, Any]:
    """Time steps."""
    _set_threads(job)
    w = Heads(**job["heads"])
    timed = worker.time_steps(_step(w), job["warmup"], job["steps"], 1, lambda: None)
    peak, size = worker.peak_mib(), worker.gemm_size("cpu")
    a = torch.ones((size, size), dtype=getattr(torch, w.dtype))
    out = torch.empty_like(a)
    rate = worker.gemm_rate(lambda: torch.mm(a, a, out=out), lambda: None, size)
    return {**timed, "peak_mib": peak, "gemm_gflops": rate, "facts": twin.facts()}


if __name__ == "__main__":
    twin.serve({"results": results, "memory": memory, "timing": timing})

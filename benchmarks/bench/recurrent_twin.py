"""torch's side of :mod:`bench.recurrent`: jobs of the process ``bench.twin``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bench import worker
from bench.layers import fingerprint
from bench.recurrent import Recurrence


def _step(w: Recurrence) -> tuple[Any, Callable[[int], dict[str, Any]]]:
    module = getattr(torch.nn, w.kind.upper())(
        w.width, w.width, w.layers, batch_first=True, bidirectional=w.bidirectional, dtype=getattr(torch, w.dtype)
    )
    state = w.weights({name: tuple(parameter.shape) for name, parameter in module.named_parameters()})
    module.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()})
    x, dy, lengths = (None if array is None else torch.from_numpy(array) for array in w.inputs())
    assert x is not None

    def forward() -> Any:
        if lengths is None:
            return module(x)[0]
        packed, _ = module(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(packed, batch_first=True, total_length=w.time)[0]

    def learn(_: int) -> dict[str, Any]:
        module.zero_grad(set_to_none=True)
        x.grad = None
        y = forward()
        y.backward(dy)
        return {"y": y.detach(), "dx": x.grad}

    def infer(_: int) -> dict[str, Any]:
        with torch.inference_mode():
            return {"y": forward()}

    x.requires_grad_(not w.inference)
    return module, infer if w.inference else learn


def _set_threads(job: dict[str, Any]) -> None:
    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])


def results(job: dict[str, Any]) -> dict[str, Any]:
    """Outputs and gradients of one step, in a few numbers each."""
    _set_threads(job)
    w = Recurrence(**job["layer"])
    module, step = _step(w)
    found = step(0)
    if not w.inference:
        found |= {name: parameter.grad for name, parameter in module.named_parameters()}
    return fingerprint({name: tensor.numpy() for name, tensor in found.items()})


def timing(job: dict[str, Any], facts: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Time steps."""
    _set_threads(job)
    w = Recurrence(**job["layer"])
    _, step = _step(w)
    timed = worker.time_steps(step, job["warmup"], job["steps"], 1, lambda: None)
    peak, size = worker.peak_mib(), worker.gemm_size("cpu")
    a = torch.ones((size, size), dtype=getattr(torch, w.dtype))
    out = torch.empty_like(a)
    rate = worker.gemm_rate(lambda: torch.mm(a, a, out=out), lambda: None, size)
    return {**timed, "peak_mib": peak, "gemm_gflops": rate, "facts": facts()}

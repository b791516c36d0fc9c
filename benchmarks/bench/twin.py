"""The same model as a torch user would write it, in a process of its own, without tinygrad_edu.

Scaled dot-product attention with ``is_causal``, fused AdamW, ``clip_grad_norm_``, cross-entropy of (B T, V)
logits; names and layouts of weights are this library's, which are torch.nn's.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from bench import worker
from bench.workload import IGNORED, Workload

try:
    import torch
    import torch.nn.functional as F  # noqa: N812  (torch's own custom)
    from torch import Tensor, nn
except ImportError as error:
    raise SystemExit(f"torch is needed for the twin ({error}): pip install 'tinygrad_edu[test]'") from None


class Attention(nn.Module):
    def __init__(self, w: Workload):
        super().__init__()
        self.heads = w.heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * w.d_model, w.d_model))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * w.d_model))
        self.out_proj = nn.Linear(w.d_model, w.d_model)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(batch, time, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).reshape(batch, time, width))


class Block(nn.Module):
    def __init__(self, w: Workload):
        super().__init__()
        self.self_attn = Attention(w)
        self.linear1, self.linear2 = nn.Linear(w.d_model, w.ffn), nn.Linear(w.ffn, w.d_model)
        self.norm1, self.norm2 = nn.LayerNorm(w.d_model), nn.LayerNorm(w.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class Twin(nn.Module):
    def __init__(self, w: Workload):
        super().__init__()
        self.token_embedding = nn.Embedding(w.vocab, w.d_model)
        self.position = nn.Embedding(w.time, w.d_model)
        self.blocks = nn.ModuleList(Block(w) for _ in range(w.blocks))
        self.norm = nn.LayerNorm(w.d_model)
        self.head = None if w.tied else nn.Linear(w.d_model, w.vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                last = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * w.blocks) if last else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        weight = self.token_embedding.weight if self.head is None else self.head.weight
        logits = F.linear(self.norm(x), weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=IGNORED)


class Trainer:
    """A training step around the twin."""

    def __init__(self, w: Any, compiled: bool):
        torch.manual_seed(w.seed)
        self.w, self.device = w, torch.device(w.device)
        self.module = self.make_module().to(self.device, getattr(torch, w.dtype))
        self.model: Any = torch.compile(self.module) if compiled else self.module
        self.make_optimizer()

    def make_module(self) -> nn.Module:
        return Twin(self.w)

    def make_optimizer(self) -> None:
        matrices = [p for p in self.module.parameters() if p.ndim >= 2]
        others = [p for p in self.module.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": self.w.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.w.learning_rate, fused=True)

    def loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        targets = torch.full_like(labels, IGNORED)
        targets[:, :-1] = labels[:, 1:]
        return self.model(ids, targets)

    def gradients(self, batch: Any) -> Tensor:
        """Fresh gradients of one batch, ids and labels on the host; returns the loss, still on the device."""
        ids, labels = (torch.from_numpy(array).to(self.device) for array in batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(ids, labels)
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        """Clip and apply the gradients."""
        nn.utils.clip_grad_norm_(self.module.parameters(), self.w.clip_norm)
        self.optimizer.step()

    def step(self, batch: Any) -> Tensor:
        """One training step; returns the loss before the update, still on the device."""
        loss = self.gradients(batch)
        self.update()
        return loss

    def grad_norm(self) -> float:
        """Norm of all gradients, summed in float64.

        ``clip_grad_norm_`` sums the 12.9 million float32 squares of the preset's embedding in float32, which
        was seen to lose 1.6e-3 of that norm: too inexact to compare two sides by.
        """
        squares = [p.grad.double().square().sum() for p in self.module.parameters() if p.grad is not None]
        return float(torch.stack(squares).sum().sqrt())


def synchronize() -> None:
    """Wait for the GPU, if it was used."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def choose_threads(attempt: Callable[[int], Any], asked: int | None, device: str) -> dict[str, Any]:
    """Give torch the threads with which `attempt(index)` is fastest: its default, or one for each usable core."""
    default = torch.get_num_threads()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    candidates = [asked or default]
    tried: dict[str, float] = {}
    if asked is None and usable != default and device == "cpu":
        candidates = [default, usable]
        for threads in candidates:
            torch.set_num_threads(threads)
            attempt(0)
            start = time.perf_counter()
            attempt(0)
            attempt(1)
            tried[str(threads)] = (time.perf_counter() - start) / 2
        candidates.sort(key=lambda threads: tried[str(threads)])
    torch.set_num_threads(candidates[0])
    return {"threads": candidates[0], "default_threads": default, "seconds_by_threads": tried}


def _gemm(w: Workload) -> float:
    size = worker.gemm_size(w.device)
    a = torch.ones(size, size, dtype=getattr(torch, w.dtype), device=w.device)
    b, out = torch.ones_like(a), torch.empty_like(a)
    return worker.gemm_rate(lambda: torch.mm(a, b, out=out), synchronize, size)


def _memory(w: Workload) -> dict[str, float | None]:
    if w.device == "cpu":
        return {"peak_mib": worker.peak_mib()}
    free, total = torch.cuda.mem_get_info()
    return {
        "peak_mib": torch.cuda.max_memory_reserved() / worker.MIB,
        "peak_allocated_mib": torch.cuda.max_memory_allocated() / worker.MIB,
        "device_used_mib": (total - free) / worker.MIB,
        "host_peak_mib": worker.peak_mib(),
    }


def facts() -> dict[str, Any]:
    """Versions and settings of torch and of what stands on it."""
    loaded = {name: sys.modules[name].__version__ for name in ("torch", "transformers") if name in sys.modules}
    return {
        "versions": loaded,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkl": torch.backends.mkl.is_available(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _check_device(w: Workload) -> None:
    if w.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device cuda: torch {torch.__version__} finds no CUDA device")


def time_training(job: dict[str, Any], w: Any, make: Callable[[Any, bool], Trainer]) -> dict[str, Any]:
    """Time steps of the trainer that `make` makes of the workload `w`."""
    start_mib = worker.resident_mib()
    trainer = make(w, job["compile"])
    batches = w.batches(8)
    threads = choose_threads(lambda index: trainer.step(batches[index]), job["threads"], w.device)
    losses: list[Any] = []

    def step(index: int) -> None:
        loss = trainer.step(batches[index % len(batches)])
        losses.append(loss.item() if w.device == "cpu" else loss)

    timing = worker.time_steps(step, job["warmup"], job["steps"], job["block"], synchronize)
    memory = _memory(w)
    return {
        **timing,
        **memory,
        "after_import_mib": start_mib,
        "loss_first": float(losses[0]),
        "loss_last": float(losses[-1]),
        "parameters": sum(p.numel() for p in trainer.module.parameters()),
        "threads": threads,
        "gemm_gflops": _gemm(w),
        "facts": facts(),
    }


def follow_training(job: dict[str, Any], trainer: Trainer) -> dict[str, Any]:
    """Losses of a few steps, and gradient norms before clipping."""
    result: dict[str, list[float]] = {"losses": [], "grad_norms": []}
    for batch in trainer.w.batches(job["steps"]):
        result["losses"].append(trainer.gradients(batch).item())
        result["grad_norms"].append(trainer.grad_norm())
        trainer.update()
    return result


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Time training steps."""
    w = Workload(**job["workload"])
    _check_device(w)
    return time_training(job, w, Trainer)


def losses(job: dict[str, Any]) -> dict[str, Any]:
    """A few steps from the weights that the other side saved."""
    import numpy as np

    w = Workload(**job["workload"])
    _check_device(w)
    trainer = Trainer(w, job["compile"])
    with np.load(f"{job['weights']}.npz", allow_pickle=False) as weights:
        state = {name: torch.from_numpy(weights[name]) for name in weights.files}
    trainer.module.load_state_dict(state)
    return follow_training(job, trainer)


def serve(jobs: dict[str, worker.Job]) -> None:
    """Do the job that was asked for."""
    worker.serve(jobs)
    assert "tinygrad_edu" not in sys.modules, "tinygrad_edu was imported on torch's side"


def main() -> None:
    from bench import recurrent_twin

    serve(
        {
            "steps": steps,
            "losses": losses,
            "recurrent": lambda job: recurrent_twin.timing(job, facts),
            "recurrent_results": recurrent_twin.results,
        }
    )


if __name__ == "__main__":
    main()

"""Forward and backward of attention at length, ours and torch's, in alternation, each in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench.process import alternate, machine, run_worker
from bench.recurrent import check_agreement
from bench.summary import spread

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Heads:
    """The heads of one attention layer.

    Attributes
    ----------
    batch, heads, time, dim : B, H, T, and the width of a head
    causal : whether no query sees a later key
    padded : whether sequences have lengths from T / 2 to T, by a mask
    dtype, seed : of the data
    """

    batch: int = 1
    heads: int = 4
    time: int = 4096
    dim: int = 64
    causal: bool = False
    padded: bool = False
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")

    def inputs(self) -> tuple[list[np.ndarray], np.ndarray | None]:
        """q, k, v as a layer cuts them out of its packed projection, and dy, (B, H, T, hd) each; and the mask."""
        import numpy as np

        rng = np.random.default_rng(self.seed)
        packed = rng.standard_normal((self.batch, self.time, 3, self.heads, self.dim)).astype(self.dtype)
        dy = rng.standard_normal((self.batch, self.time, self.heads, self.dim)).astype(self.dtype)
        lengths = rng.integers(self.time // 2, self.time + 1, self.batch)
        mask = (np.arange(self.time) < lengths[:, None])[:, None, None] if self.padded else None
        return [*packed.transpose(2, 0, 3, 1, 4), dy.transpose(0, 2, 1, 3)], mask

    @property
    def flops(self) -> int:
        """Operations of the products: two forward and five backward; causal, of the half that counts."""
        pairs = self.time * (self.time + 1) // 2 if self.causal else self.time**2
        return 7 * 2 * self.batch * self.heads * pairs * self.dim


@dataclass(frozen=True)
class Plan:
    """What is run; fields as of :class:`bench.transformer.Plan`."""

    heads: Heads
    pairs: int = 5
    steps: int = 5
    warmup: int = 2
    threads: int | None = None
    torch_env: dict[str, str] = field(default_factory=dict)


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Hold both sides together, time them, and take their memory at three lengths.

    Raises
    ------
    BenchmarkError
        If a process fails or the sides do not agree.
    """
    common = {} if plan.threads is None else {"OMP_NUM_THREADS": str(plan.threads)}
    sides = {
        "ours": ("attention_ours", {**common, "TINYGRAD_EDU_KERNELS": "on"}),
        "torch": ("attention_twin", {**common, **plan.torch_env}),
    }
    w, facts = plan.heads, machine()
    job = {"heads": asdict(w), "warmup": plan.warmup, "steps": plan.steps, "threads": plan.threads}
    what = "causal" if w.causal else "all"
    say(f"{what}: do both sides compute the same?")
    prints = {side: run_worker(module, {**job, "job": "results"}, env) for side, (module, env) in sides.items()}
    difference = check_agreement(prints["ours"], prints["torch"], w.dtype)
    memory: dict[str, dict[str, float | None]] = {side: {} for side in sides}
    for time in (w.time // 4, w.time // 2, w.time):
        shorter = asdict(replace(w, time=time))
        for side, (module, env) in sides.items():
            say(f"{what}: memory of {side} at T {time}")
            found = run_worker(module, {**job, "heads": shorter, "job": "memory"}, env)
            memory[side][str(time)] = found["grown_mib"]
    runs, described = alternate(sides, {**job, "job": "timing"}, plan.pairs, lambda now: say(f"{what}: {now}"))
    medians = {side: [statistics.median(result["seconds"]) for result in own] for side, own in runs.items()}
    return {
        "benchmark": "attention",
        "plan": asdict(plan),
        "flops": w.flops,
        "machine": facts,
        "facts": described,
        "largest_difference": difference,
        "summary": {
            "seconds": {side: statistics.median(values) for side, values in medians.items()},
            "ratio": spread([b / a for a, b in zip(medians["ours"], medians["torch"], strict=True)]),
            "memory_mib": memory,
            "gemm_gflops": max(statistics.median(result["gemm_gflops"] for result in own) for own in runs.values()),
        },
        "runs": runs,
    }

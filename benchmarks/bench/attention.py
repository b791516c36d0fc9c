"""Forward and backward of attention at length, ours and torch's, in alternation, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bench.layers import compare, job_of, sides_of
from bench.process import run_worker

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
    w = plan.heads
    sides = sides_of(plan, "attention_ours", "attention_twin")
    job = job_of(plan, heads=asdict(w))
    what = "causal" if w.causal else "all"
    found = compare(plan, sides, job, w.dtype, lambda now: say(f"{what}: {now}"))
    memory: dict[str, dict[str, float | None]] = {side: {} for side in sides}
    for time in (w.time // 4, w.time // 2, w.time):
        shorter = asdict(replace(w, time=time))
        for side, (module, env) in sides.items():
            say(f"{what}: memory of {side} at T {time}")
            grown = run_worker(module, {**job, "heads": shorter, "job": "memory"}, env)
            memory[side][str(time)] = grown["grown_mib"]
    found["summary"]["memory_mib"] = memory
    return {"benchmark": "attention", "plan": asdict(plan), "flops": w.flops, **found}

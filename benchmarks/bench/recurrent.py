"""Forward and backward of one recurrent layer, ours and torch's, in alternation, each in a process of its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.process import BenchmarkError, alternate, machine, run_worker
from bench.summary import spread

if TYPE_CHECKING:
    import numpy as np

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
TOLERANCES = {"float32": 1e-4, "float64": 1e-10}  # of norms and projections, relative to the norm


@dataclass(frozen=True)
class Recurrence:
    """The layer and its input.

    Attributes
    ----------
    kind : ``"rnn"``, ``"lstm"`` or ``"gru"``
    batch, time, width : B, T, and the width of input and state
    layers, bidirectional : of the layer
    lengths : whether sequences have lengths from T / 2 to T, packed on torch's side
    inference : the forward pass alone, nothing kept for a backward
    dtype, seed : of weights and data
    """

    kind: str
    batch: int = 32
    time: int = 64
    width: int = 256
    layers: int = 1
    bidirectional: bool = False
    lengths: bool = False
    inference: bool = False
    dtype: str = "float32"
    seed: int = 0

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """x (B, T, C), the gradient of the output, and lengths: the same for everyone who asks."""
        import numpy as np

        rng = np.random.default_rng(self.seed)
        shape = (self.batch, self.time, self.width * (2 if self.bidirectional else 1))
        x = rng.standard_normal((self.batch, self.time, self.width)).astype(self.dtype)
        dy = rng.standard_normal(shape).astype(self.dtype)
        lengths = rng.integers(max(1, self.time // 2), self.time + 1, self.batch) if self.lengths else None
        return x, dy, lengths

    def weights(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Initial weights by name, as torch draws them: uniform in ±1/sqrt(width)."""
        import numpy as np

        rng, bound = np.random.default_rng(self.seed + 1), 1 / math.sqrt(self.width)
        return {name: rng.uniform(-bound, bound, shapes[name]).astype(self.dtype) for name in sorted(shapes)}

    @property
    def flops(self) -> int:
        """Operations of the matrix products: 2 G C (C_in + C) a token and direction, three times that with backward."""
        directions = 2 if self.bidirectional else 1
        widths = [self.width, *[directions * self.width] * (self.layers - 1)]
        per_token = sum(2 * GATES[self.kind] * self.width * (width + self.width) * directions for width in widths)
        lengths = self.inputs()[2]
        tokens = self.batch * self.time if lengths is None else int(lengths.sum())
        return per_token * tokens * (1 if self.inference else 3)


def fingerprint(arrays: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """By name, the norm of an array, and its product with a random array: enough to tell two apart."""
    import numpy as np

    found = {}
    for name, array in arrays.items():
        values = np.asarray(array, dtype=np.float64).ravel()
        noise = np.random.default_rng(7).standard_normal(values.size)
        found[name] = [float(np.linalg.norm(values)), float(values @ noise)]
    return found


def check_agreement(ours: dict[str, list[float]], theirs: dict[str, list[float]], dtype: str) -> float:
    """The largest difference of norms and products, relative to the norm.

    Raises
    ------
    BenchmarkError
        If it is more than rounding, or the two sides do not have the same tensors.
    """
    if ours.keys() != theirs.keys():
        raise BenchmarkError(f"tensors of our side: {sorted(ours)}; of torch's: {sorted(theirs)}")
    worst = 0.0
    for name, wanted in theirs.items():
        for found, right in zip(ours[name], wanted, strict=True):
            difference = abs(found - right) / (wanted[0] or 1.0)
            if not difference <= TOLERANCES[dtype]:
                raise BenchmarkError(
                    f"the two sides do not compute the same: {name} differs by {difference:.1e} of its norm, "
                    f"where {TOLERANCES[dtype]:.0e} is allowed"
                )
            worst = max(worst, difference)
    return worst


@dataclass(frozen=True)
class Plan:
    """What is run; fields as of :class:`bench.transformer.Plan`."""

    layer: Recurrence
    pairs: int = 5
    steps: int = 20
    warmup: int = 5
    threads: int | None = None
    torch_env: dict[str, str] = field(default_factory=dict)


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Hold both sides together, then time them.

    Raises
    ------
    BenchmarkError
        If a process fails or the sides do not agree.
    """
    common = {} if plan.threads is None else {"OMP_NUM_THREADS": str(plan.threads)}
    sides = {
        "ours": ("ours", {**common, "TINYGRAD_EDU_KERNELS": "on"}),
        "torch": ("twin", {**common, **plan.torch_env}),
    }
    job = {"layer": asdict(plan.layer), "warmup": plan.warmup, "steps": plan.steps, "threads": plan.threads}
    facts, name = machine(), plan.layer.kind
    say(f"{name}: do both sides compute the same?")
    prints = {
        side: run_worker(module, {**job, "job": "recurrent_results"}, env) for side, (module, env) in sides.items()
    }
    difference = check_agreement(prints["ours"], prints["torch"], plan.layer.dtype)
    runs, described = alternate(sides, {**job, "job": "recurrent"}, plan.pairs, lambda now: say(f"{name}: {now}"))
    medians = {side: [statistics.median(result["seconds"]) for result in own] for side, own in runs.items()}
    ratios = [b / a for a, b in zip(medians["ours"], medians["torch"], strict=True)]
    return {
        "benchmark": "recurrent",
        "plan": asdict(plan),
        "flops": plan.layer.flops,
        "machine": facts,
        "facts": described,
        "largest_difference": difference,
        "summary": {
            "seconds": {side: statistics.median(values) for side, values in medians.items()},
            "ratio": spread(ratios),
            "gemm_gflops": max(statistics.median(result["gemm_gflops"] for result in own) for own in runs.values()),
        },
        "runs": runs,
    }

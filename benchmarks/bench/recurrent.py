"""Forward and backward of one recurrent layer, ours and torch's, in alternation, each in a process of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.layers import compare, job_of, sides_of

if TYPE_CHECKING:
    import numpy as np

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


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
    name = plan.layer.kind
    found = compare(
        plan,
        sides_of(plan, "ours", "twin"),
        job_of(plan, layer=asdict(plan.layer)),
        plan.layer.dtype,
        lambda now: say(f"{name}: {now}"),
        jobs=("recurrent_results", "recurrent"),
    )
    return {"benchmark": "recurrent", "plan": asdict(plan), "flops": plan.layer.flops, **found}

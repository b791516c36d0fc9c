"""Forward and backward of a 2-d convolution, ours and torch's in both memory formats, in alternation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bench.layers import compare, job_of, sides_of
from bench.process import run_worker

if TYPE_CHECKING:
    import numpy as np

#: Kernel size, stride and padding.
KINDS = {"3x3": (3, 1, 1), "1x1": (1, 1, 0), "strided": (3, 2, 1)}
#: What torch's processes are told in this variable, and by which name the record has the side.
FORMAT = "BENCH_MEMORY_FORMAT"
FORMATS = {"torch": "contiguous_format", "torch channels-last": "channels_last"}


@dataclass(frozen=True)
class Convolution:
    """The layer and its images.

    Attributes
    ----------
    kind : of :data:`KINDS`
    batch, size : images, and their height and width
    in_channels, out_channels : before and after
    dtype, seed : of weights and data

    Raises
    ------
    ValueError
        Naming the field, the value found and the value wanted.
    """

    kind: str
    batch: int = 16
    size: int = 64
    in_channels: int = 64
    out_channels: int = 64
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")

    @property
    def out_size(self) -> int:
        """Height and width of the result."""
        kernel, stride, padding = KINDS[self.kind]
        return (self.size + 2 * padding - kernel) // stride + 1

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """x (B, C, H, W) and the gradient of the result, the same for everyone who asks."""
        import numpy as np

        rng = np.random.default_rng(self.seed)
        return (
            rng.standard_normal((self.batch, self.in_channels, self.size, self.size)).astype(self.dtype),
            rng.standard_normal((self.batch, self.out_channels, self.out_size, self.out_size)).astype(self.dtype),
        )

    def weights(self) -> dict[str, np.ndarray]:
        """Kernel and bias by name, of the size that torch draws them in."""
        import numpy as np

        rng, side = np.random.default_rng(self.seed + 1), KINDS[self.kind][0]
        shape = (self.out_channels, self.in_channels, side, side)
        bound = (self.in_channels * side * side) ** -0.5
        return {
            "weight": rng.uniform(-bound, bound, shape).astype(self.dtype),
            "bias": rng.uniform(-bound, bound, self.out_channels).astype(self.dtype),
        }

    @property
    def flops(self) -> int:
        """Operations by definition, of the forward pass and both gradients: 2 B C C' k^2 H' W' each.

        Winograd's algorithm and taps on the padding need fewer, on either side, so the share of the GEMM rate may be
        above 1.
        """
        return 3 * convolution_flops(
            self.batch, self.in_channels, self.out_channels, KINDS[self.kind][0], self.out_size
        )


def convolution_flops(batch: int, in_channels: int, out_channels: int, kernel: int, out_size: int) -> int:
    """Operations of the forward pass of a convolution, 2 B C C' k^2 H' W'."""
    return 2 * batch * in_channels * out_channels * kernel**2 * out_size**2


@dataclass(frozen=True)
class Plan:
    """What is run; fields as of :class:`bench.transformer.Plan`."""

    layer: Convolution
    pairs: int = 5
    steps: int = 20
    warmup: int = 5
    threads: int | None = None
    torch_env: dict[str, str] = field(default_factory=dict)


def in_both_formats(sides: Any) -> dict[str, tuple[str, dict[str, str]]]:
    """Sides of which torch's stands twice, once for each memory format."""
    ours, (module, env) = sides["ours"], sides["torch"]
    return {"ours": ours, **{name: (module, {**env, FORMAT: wanted}) for name, wanted in FORMATS.items()}}


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Hold the sides together, take their memory, and time them.

    Raises
    ------
    BenchmarkError
        If a process fails or the sides do not agree.
    """
    w = plan.layer
    sides = in_both_formats(sides_of(plan, "vision_ours", "vision_twin"))
    job = job_of(plan, layer=asdict(w))
    found = compare(plan, sides, job, w.dtype, lambda now: say(f"{w.kind}: {now}"))
    memory = {}
    for side, (module, env) in sides.items():
        say(f"{w.kind}: memory of {side}")
        memory[side] = run_worker(module, {**job, "job": "memory"}, env)["grown_mib"]
    found["summary"]["memory_mib"] = memory
    return {"benchmark": "convolution", "plan": asdict(plan), "flops": w.flops, **found}

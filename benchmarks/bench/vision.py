"""U-Net and ResNet-18, ours and the same in torch: what is trained on which images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.convolution import convolution_flops, in_both_formats
from bench.transformer import Plan, run

if TYPE_CHECKING:
    import numpy as np

DEPTH = 4  # of the U-Net: how often an image is halved
STAGES = (64, 128, 256, 512)  # channels of ResNet-18
OPTIMIZERS = {"adamw": {"learning_rate": 1e-4, "weight_decay": 1e-2}, "sgd": {"learning_rate": 1e-2, "momentum": 0.9}}


@dataclass(frozen=True)
class Pictures:
    """A network and the images that it learns from.

    Attributes
    ----------
    kind : ``"unet"``, which learns a map of `outputs` channels by the mean squared error, or ``"resnet"``, which
        learns one of `outputs` classes by cross-entropy
    batch, size : images of a step, and their height and width
    outputs : channels of the map, or classes
    base : channels of the U-Net's first level
    optimizer : of :data:`OPTIMIZERS`
    clip_norm : gradients are clipped to this norm
    dtype, seed : of weights and data

    Raises
    ------
    ValueError
        Naming the field, the value found and the value wanted.
    """

    modules: ClassVar[tuple[str, str]] = ("vision_ours", "vision_twin")
    device: ClassVar[str] = "cpu"
    channels: ClassVar[int] = 3
    unit: ClassVar[str] = "images"

    kind: str
    batch: int
    size: int = 64
    outputs: int = 10
    base: int = 32
    optimizer: str = "adamw"
    clip_norm: float = 1.0
    dtype: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("unet", "resnet"):
            raise ValueError(f"kind must be unet or resnet, got {self.kind!r}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")
        if self.kind == "unet" and self.size % 2**DEPTH:
            raise ValueError(f"size must be divisible by {2**DEPTH} for the U-Net, got {self.size}")
        if self.kind == "resnet" and self.size < 32:
            raise ValueError(f"size must be >= 32 for ResNet-18, got {self.size}")

    @property
    def benchmark(self) -> str:
        return self.kind

    @property
    def tokens(self) -> int:
        """Images of a step."""
        return self.batch

    @property
    def settings(self) -> dict[str, float]:
        """Of the optimizer."""
        return OPTIMIZERS[self.optimizer]

    @property
    def learning_rate(self) -> float:
        return self.settings["learning_rate"]

    @property
    def weight_decay(self) -> float:
        return self.settings.get("weight_decay", 0.0)

    def batches(self, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """`count` pairs of images (B, C, H, W) and targets, a map or classes; the same for everyone who asks."""
        import numpy as np

        rng = np.random.default_rng(self.seed + 1)
        found = []
        for _ in range(count):
            images = rng.standard_normal((self.batch, self.channels, self.size, self.size)).astype(self.dtype)
            if self.kind == "unet":
                targets = rng.standard_normal((self.batch, self.outputs, self.size, self.size)).astype(self.dtype)
            else:
                targets = rng.integers(0, self.outputs, self.batch)
            found.append((images, targets))
        return found

    @property
    def flops(self) -> int:
        """Operations of a step: three times those of every convolution, and of ResNet's last map.

        As of :class:`bench.convolution.Convolution`: what the definition needs, whatever the algorithm saves.
        """
        last = 2 * self.batch * STAGES[-1] * self.outputs if self.kind == "resnet" else 0
        shapes = self._unet() if self.kind == "unet" else self._resnet()
        return 3 * (last + sum(convolution_flops(self.batch, *shape) for shape in shapes))

    def _unet(self) -> Iterator[tuple[int, int, int, int]]:
        """Channels before and after, kernel, and size after, of each convolution."""
        inputs = self.channels
        for level in range(DEPTH + 1):
            width, size = self.base << level, self.size >> level
            yield from ((inputs, width, 3, size), (width, width, 3, size))
            if level < DEPTH:
                # Of the transposed one each pixel below gives 2 x 2 above: as many products as of a 1 x 1 above.
                yield from ((2 * width, width, 1, size), (2 * width, width, 3, size), (width, width, 3, size))
            inputs = width
        yield self.base, self.outputs, 1, self.size

    def _resnet(self) -> Iterator[tuple[int, int, int, int]]:
        size = (self.size + 1) // 2
        yield self.channels, STAGES[0], 7, size
        inputs, size = STAGES[0], (size + 1) // 2  # the pooling
        for number, width in enumerate(STAGES):
            if number:
                size = (size + 1) // 2
                yield inputs, width, 1, size  # the shortcut
            yield inputs, width, 3, size
            yield from [(width, width, 3, size)] * 3
            inputs = width


@dataclass(frozen=True)
class PicturePlan(Plan):
    """A plan in which torch runs in both memory formats."""

    def sides(self) -> dict[str, tuple[str, dict[str, str]]]:
        """See :meth:`Plan.sides`."""
        return in_both_formats(super().sides())


def train(plan: PicturePlan, say: Callable[[str], None]) -> dict[str, Any]:
    """See :func:`bench.transformer.run`; the record names the faster of torch's formats."""
    record = run(plan, say)
    sides = record["summary"]["sides"]
    others = [name for name in sides if name != "ours"]
    record["summary"]["fastest_other"] = min(others, key=lambda name: sides[name]["seconds"])
    return record

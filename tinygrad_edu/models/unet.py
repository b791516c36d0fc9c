"""The U-Net: from an image to a map of the same size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..backend import Array, Generator, use
from ..layers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    GroupNorm,
    MaxPool2d,
    ReLU,
    Sequential,
    SkipConnection,
    Upsample,
)
from ..layers.base import Layer
from .config import ModelConfig, choice, count, number
from .network import Network


@dataclass
class UNetConfig(ModelConfig):
    """Settings of :class:`UNet`; all mistakes are reported at once.

    Attributes
    ----------
    in_channels, out_channels : of the image, of the map
    base : channels of the first level; each level down doubles them
    depth : how often the image is halved
    norm : batch or group, after each 3 x 3 convolution
    num_groups : of the group norm; divides base
    up : transpose (a learned convolution) or bilinear
    dropout : at the bottom
    seed, device, dtype : as in :class:`~tinygrad_edu.models.config.ModelConfig`
    """

    in_channels: int = count()
    out_channels: int = count()
    base: int = count(32)
    depth: int = count(4)
    norm: str = choice("batch", "batch", "group")
    num_groups: int = count(8)
    up: str = choice("transpose", "transpose", "bilinear")
    dropout: float = number(0.0, 0.0, 1.0)

    @classmethod
    def _conflicts(cls, settings: dict[str, Any]) -> list[str]:
        base, groups = settings["base"], settings["num_groups"]
        if settings["norm"] == "group" and base % groups:
            return [f"base must be divisible by num_groups, got {base} and {groups}"]
        return []


class UNet(Network):
    """Image to map, pixel by pixel: down to see far, up to say where, with skips between (Ronneberger et al., 2015).

    A level is two convolutions of 3 x 3, and below them, inside a :class:`SkipConnection`, the next level on the image
    halved. As there, channels double from level to level; unlike there, convolutions are padded, so that the map has
    the size of the image, and each is followed by a norm. Images may have any size of at least 2^depth: where an odd
    one was halved and doubled, a row of zeros stands at its far end.

    Parameters
    ----------
    in_channels, out_channels, base, depth, norm, num_groups, up, dropout : as in :class:`UNetConfig`
    flat : whether to lay the parameters in one buffer; see :meth:`Layer.flatten`
    common : seed, device, dtype

    Raises
    ------
    ConfigError
        Listing every setting that is not allowed.

    Examples
    --------
    >>> net = UNet(3, 2, base=8)
    >>> net(images).shape  # of (16, 3, 64, 64)  # doctest: +SKIP
    (16, 2, 64, 64)
    """

    model_type = "unet"
    config_class: ClassVar[type[ModelConfig]] = UNetConfig

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        base: int = 32,
        depth: int = 4,
        norm: str = "batch",
        num_groups: int = 8,
        up: str = "transpose",
        dropout: float = 0.0,
        *,
        flat: bool = True,
        **common: Any,
    ):
        super().__init__()
        self.config = c = UNetConfig(in_channels, out_channels, base, depth, norm, num_groups, up, dropout, **common)
        with use(c.device):
            self.generator = Generator(c.seed)
            self.level = self._level(in_channels, 0)
            self.head = Conv2d(base, out_channels, 1, generator=self.generator)
            self._draw_he(lambda layer: 1.0 if layer is self.head else 2.0)
        self._settle(flat)

    def _level(self, in_channels: int, number: int) -> Layer:
        """Level `number` and all below it: (B, in_channels, H, W) -> (B, base 2^number, H, W)."""
        width = self.config.base << number
        encode = self._two_convolutions(in_channels, width)
        if number == self.config.depth:
            return Sequential(*encode, Dropout(self.config.dropout, self.generator))
        below = Sequential(MaxPool2d(2), self._level(width, number + 1), self._enlarge(2 * width, width))
        return Sequential(*encode, SkipConnection(below), *self._two_convolutions(2 * width, width))

    def _two_convolutions(self, in_channels: int, channels: int) -> list[Layer]:
        layers: list[Layer] = []
        for inputs in (in_channels, channels):
            # The norm takes the mean away, and with it any bias.
            layers.append(Conv2d(inputs, channels, 3, padding=1, bias=False, generator=self.generator))
            layers.append(self._norm(channels))
            layers.append(ReLU())
        return layers

    def _norm(self, channels: int) -> Layer:
        return BatchNorm2d(channels) if self.config.norm == "batch" else GroupNorm(self.config.num_groups, channels)

    def _enlarge(self, in_channels: int, channels: int) -> Layer:
        """Twice the size, half the channels."""
        if self.config.up == "transpose":
            return ConvTranspose2d(in_channels, channels, 2, stride=2, generator=self.generator)
        # Mixing channels and interpolating pixels may change places; on the small image it is a fourth of the work.
        mix = Conv2d(in_channels, channels, 1, generator=self.generator)
        return Sequential(mix, Upsample(scale_factor=2, mode="bilinear"))

    def forward(self, x: Array) -> Array:  # (B, in_channels, H, W) -> (B, out_channels, H, W)
        least = 1 << self.config.depth
        self._check_images(x, self.config.in_channels, least, f", to be halved {self.config.depth} times")
        return self.head(self.level(x))

    def backward(self, dy: Array) -> Array:
        return self.level.backward(self.head.backward(dy))

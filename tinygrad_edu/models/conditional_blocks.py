"""Blocks of the conditional U-Net: each is told the step, and some look at the condition."""

from __future__ import annotations

from dataclasses import dataclass

from ..backend import Array, Generator, namespace
from ..layers import (
    Conv2d,
    Dropout,
    GroupNorm,
    Linear,
    SiLU,
    SpatialCrossAttention,
    SpatialSelfAttention,
    Upsample,
)
from ..layers.base import Layer
from ..layers.skip import Size, cut_or_fill


@dataclass
class Given:
    """What a block is told besides its image.

    Attributes
    ----------
    embedding : (B, E), of the step and the condition
    context : (B, L, D), or None
    mask : (B, L) bool, False at padding of the context, or None
    """

    embedding: Array
    context: Array | None = None
    mask: Array | None = None


@dataclass
class GivenGradient:
    """The gradient of a :class:`Given`: the sum of what comes back from every block that was told."""

    embedding: Array | None = None
    context: Array | None = None

    def add(self, gradients: Array | tuple[Array, ...]) -> Array:
        """Take in what a block's backward returned; its first, the gradient of the image, is given back."""
        if not isinstance(gradients, tuple):
            return gradients
        dx, dembedding, *dcontext = gradients
        self.embedding = dembedding if self.embedding is None else self.embedding + dembedding
        if dcontext:
            self.context = dcontext[0] if self.context is None else self.context + dcontext[0]
        return dx


class ResidualBlock(Layer):
    """Norm, SiLU, convolution, twice, and the step in between (Ho et al., 2020); named as diffusers' ``ResnetBlock2D``.

    ``y = shortcut(x) + conv2(dropout(silu(norm2(conv1(silu(norm1(x))) + e))))`` with ``e = time_emb_proj(embedding)``;
    or, with `scale_shift`, ``norm2(conv1(...)) * (1 + s) + h`` with ``(s, h) = time_emb_proj(embedding)``
    (Dhariwal & Nichol, 2021). The embedding comes through its SiLU already. conv2 begins as zeros.

    Parameters
    ----------
    in_channels, channels : before and after; where they differ the shortcut is a 1 x 1 convolution
    embed_dim : E
    num_groups : of the norms
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        embed_dim: int,
        num_groups: int,
        scale_shift: bool,
        dropout: float,
        generator: Generator,
    ):
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1, self.act1 = GroupNorm(num_groups, in_channels), SiLU()
        self.conv1 = Conv2d(in_channels, channels, 3, padding=1, generator=generator)
        self.time_emb_proj = Linear(embed_dim, 2 * channels if scale_shift else channels, generator=generator)
        self.norm2, self.act2 = GroupNorm(num_groups, channels), SiLU()
        self.dropout = Dropout(dropout, generator)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, generator=generator)
        for parameter in self.conv2.parameters():
            parameter.data.fill(0)
        self.conv_shortcut = None
        if in_channels != channels:
            self.conv_shortcut = Conv2d(in_channels, channels, 1, generator=generator)

    def forward(self, x: Array, embedding: Array) -> Array:
        """(B, in_channels, H, W), (B, E) -> (B, channels, H, W)."""
        y = self.conv1(self.act1(self.norm1(x)))
        told = self.time_emb_proj(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told[:, : y.shape[1]], told[:, y.shape[1] :]
            y = self.norm2(y)
            self.save(y, scale)
            y = y * (1 + scale) + shift
        else:
            y += told  # nobody else has it
            y = self.norm2(y)
        y = self.conv2(self.dropout(self.act2(y)))
        y += x if self.conv_shortcut is None else self.conv_shortcut(x)
        return y

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """Gradients of the image and of the embedding."""
        dx = dy if self.conv_shortcut is None else self.conv_shortcut.backward(dy)
        dy = self.act2.backward(self.dropout.backward(self.conv2.backward(dy)))
        if self.scale_shift:
            y, scale = self.saved()
            dscale, dshift = (dy * y).sum(axis=(2, 3)), dy.sum(axis=(2, 3))
            dtold = namespace(dscale).concatenate([dscale, dshift], axis=1)
            dy = self.norm2.backward(dy * (1 + scale))
        else:
            dy = self.norm2.backward(dy)
            dtold = dy.sum(axis=(2, 3))  # it was added at each place
        dembedding = self.time_emb_proj.backward(dtold)
        return dx + self.norm1.backward(self.act1.backward(self.conv1.backward(dy))), dembedding


class AttendingBlock(Layer):
    """A :class:`ResidualBlock`, then attention among the pixels, then to the context, as far as it is wanted.

    Parameters
    ----------
    num_heads : of the attention; 0 for none
    context_dim : D, or None where there is no context to look at
    others : as in :class:`ResidualBlock`
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        embed_dim: int,
        num_groups: int,
        num_heads: int,
        context_dim: int | None,
        scale_shift: bool,
        dropout: float,
        generator: Generator,
    ):
        super().__init__()
        self.resnet = ResidualBlock(in_channels, channels, embed_dim, num_groups, scale_shift, dropout, generator)
        self.attention: SpatialSelfAttention | None = None
        self.cross_attention: SpatialCrossAttention | None = None
        if num_heads:
            self.attention = SpatialSelfAttention(channels, num_heads, num_groups, generator=generator)
            self.attention.attention.out_proj.weight.data.fill(0)
        if num_heads and context_dim is not None:
            self.cross_attention = SpatialCrossAttention(
                channels, context_dim, num_heads, num_groups, generator=generator
            )
            self.cross_attention.attention.out_proj.weight.data.fill(0)

    def forward(self, x: Array, given: Given) -> Array:  # (B, in_channels, H, W) -> (B, channels, H, W)
        x = self.resnet(x, given.embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross_attention is not None:
            x = self.cross_attention(x, given.context, given.mask)
        return x

    def backward(self, dy: Array) -> tuple[Array, ...]:
        """Gradients of the image, of the embedding, and of the context if it was looked at."""
        dcontext = []
        if self.cross_attention is not None:
            dy, one = self.cross_attention.backward(dy)
            dcontext = [one]
        if self.attention is not None:
            dy = self.attention.backward(dy)
        return (*self.resnet.backward(dy), *dcontext)


class Halve(Layer):
    """A convolution of stride 2: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""

    def __init__(self, channels: int, generator: Generator):
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=1, generator=generator)

    def forward(self, x: Array, given: Given) -> Array:
        return self.conv(x)

    def backward(self, dy: Array) -> Array:
        return self.conv.backward(dy)


class Enlarge(Layer):
    """Each pixel four times, cut to a size, and a convolution: (B, C, H, W) -> (B, C, *size)."""

    def __init__(self, channels: int, generator: Generator):
        super().__init__()
        self.double = Upsample(scale_factor=2)
        self.conv = Conv2d(channels, channels, 3, padding=1, generator=generator)

    def forward(self, x: Array, size: Size) -> Array:
        y = self.double(x)
        self.save(y.shape[2:])
        return self.conv(cut_or_fill(y, size))

    def backward(self, dy: Array) -> Array:
        whole = self.saved()
        return self.double.backward(cut_or_fill(self.conv.backward(dy), whole))

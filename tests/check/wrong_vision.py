"""Backwards of skips, steps and attention among pixels that are wrong on purpose: test_wrong_gradients.py runs them."""

from __future__ import annotations

from typing import Any

from tinygrad_edu import layers
from tinygrad_edu.layers.skip import split_channels
from tinygrad_edu.layers.spatial_attention import to_image, to_tokens


class SkipOnePath(layers.SkipConnection):
    """x goes two ways; here only what comes straight back is counted."""

    def backward(self, dy: Any) -> Any:
        (_, channels, *_), (_, _, *other) = self.saved()
        dx, dz = split_channels(dy, channels, tuple(other))
        self.inner.backward(dz)
        return dx


class SkipPartsExchanged(layers.SkipConnection):
    """The inner layer's part taken from the wrong end."""

    def backward(self, dy: Any) -> Any:
        (_, _, *_), (_, inner, *other) = self.saved()
        dz, dx = split_channels(dy, inner, tuple(other))
        return dx + self.inner.backward(dz)


class StepsWithoutActivation(layers.TimestepEmbedding):
    def backward(self, dy: Any) -> Any:
        self.act.saved()
        self.linear_1.backward(self.linear_2.backward(dy))


class PixelsWithoutResidual(layers.SpatialSelfAttention):
    def backward(self, dy: Any) -> Any:
        size = self.saved()
        return self.norm.backward(to_image(self.attention.backward(to_tokens(dy)), size))


class PixelsTurned(layers.SpatialSelfAttention):
    """Rows and columns exchanged on the way back."""

    def backward(self, dy: Any) -> Any:
        height, width = self.saved()
        turned = to_image(self.attention.backward(to_tokens(dy)), (width, height)).transpose(0, 1, 3, 2)
        return dy + self.norm.backward(turned)


class ContextOfFirstHalf(layers.SpatialCrossAttention):
    """Every place of the context may be looked at; here the last gets nothing."""

    def backward(self, dy: Any) -> Any:
        dx, dcontext = super().backward(dy)
        dcontext[:, -1] = 0
        return dx, dcontext


# (stands in for, wrong class, row that must find it, a part of what the report says)
WRONG_VISION = [
    ("SkipConnection", SkipOnePath, "SkipConnection", "the fault is in SkipOnePath's own code"),
    ("SkipConnection", SkipPartsExchanged, "SkipConnection", "backward WRONG in"),
    ("TimestepEmbedding", StepsWithoutActivation, "TimestepEmbedding", "backward WRONG in linear_1.weight"),
    ("SpatialSelfAttention", PixelsWithoutResidual, "SpatialSelfAttention", "backward WRONG in dx"),
    ("SpatialSelfAttention", PixelsTurned, "SpatialSelfAttention", "backward WRONG in"),
    ("SpatialCrossAttention", ContextOfFirstHalf, "SpatialCrossAttention", "backward WRONG in dcontext"),
]

"""Attention for images: each pixel is a token."""

from __future__ import annotations

from ..backend import Array, Generator, default_generator, namespace
from ..errors import DtypeError, ShapeError, format_shape
from .attention import MultiHeadAttention
from .base import Layer, check_positive
from .channel_norm import GroupNorm
from .images import batched, check_image
from .linear import Linear


def to_tokens(x: Array) -> Array:
    """(B, C, H, W) -> (B, H W, C), pixels in row order: a view where x lies channels-last."""
    batch, channels, height, width = x.shape
    return x.transpose(0, 2, 3, 1).reshape(batch, height * width, channels)


def to_image(tokens: Array, size: tuple[int, int]) -> Array:
    """(B, H W, C) -> (B, C, H, W), the inverse of :func:`to_tokens`: a view, channels-last."""
    batch, _, channels = tokens.shape
    return tokens.reshape(batch, *size, channels).transpose(0, 3, 1, 2)


class SpatialSelfAttention(Layer):
    """``y = x + attention(norm(x))`` among the pixels of an image (Ho et al., 2020).

    Each pixel is a token and looks at all others, so the work grows with the square of their number: it belongs to
    small images, deep in a network. Kept besides x are the normalised tokens, their queries, keys and values, and what
    attention gave: five arrays of its size, and never the weights.

    Parameters
    ----------
    channels : C, divisible by num_heads and by num_groups
    num_heads : heads of the attention
    num_groups, eps : of the :class:`GroupNorm`
    dropout : on the attention weights
    generator : draws the initial weights, and the dropout seeds
    """

    axes = 2

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_groups: int = 32,
        eps: float = 1e-5,
        dropout: float = 0.0,
        generator: Generator | None = None,
    ):
        super().__init__()
        generator = generator or default_generator()
        self.channels = channels
        self.norm = GroupNorm(num_groups, channels, eps)
        self.attention = MultiHeadAttention(channels, num_heads, dropout, generator=generator)

    @batched
    def forward(self, x: Array) -> Array:  # (B, C, H, W)
        check_image(self, x, 2, self.channels)
        self.save(x.shape[2:])
        return x + to_image(self.attention(to_tokens(self.norm(x))), x.shape[2:])

    @batched
    def backward(self, dy: Array) -> Array:
        size = self.saved()
        dtokens = self.attention.backward(to_tokens(dy))
        return dy + self.norm.backward(to_image(dtokens, size))


class SpatialCrossAttention(Layer):
    """``y = x + attention(norm(x), context)``: each pixel looks at a sequence (Rombach et al., 2022).

    Kept besides x are three arrays of its size, and up to four of that of the context; never the weights.

    Parameters
    ----------
    channels : C, divisible by num_heads and by num_groups
    context_dim : D, width of the sequence. If it is not C, a linear map without bias takes it there; None means C
    num_heads, num_groups, eps, dropout, generator : as in :class:`SpatialSelfAttention`
    """

    def __init__(
        self,
        channels: int,
        context_dim: int | None = None,
        num_heads: int = 1,
        num_groups: int = 32,
        eps: float = 1e-5,
        dropout: float = 0.0,
        generator: Generator | None = None,
    ):
        super().__init__()
        generator = generator or default_generator()
        context_dim = channels if context_dim is None else context_dim
        check_positive("SpatialCrossAttention", context_dim=context_dim)
        self.channels, self.context_dim = channels, context_dim
        self.norm = GroupNorm(num_groups, channels, eps)
        self.to_width = None
        if context_dim != channels:
            self.to_width = Linear(context_dim, channels, bias=False, generator=generator)
        self.attention = MultiHeadAttention(channels, num_heads, dropout, generator=generator)

    def _check(self, x: Array, context: Array, mask: Array | None) -> None:
        namespace(x, context, mask)
        if x.ndim != 4:
            raise ShapeError(
                f"SpatialCrossAttention: expected (batch, {self.channels}, height, width), "
                f"got {format_shape(tuple(x.shape))}"
            )
        check_image(self, x, 2, self.channels)
        wanted = (len(x), "length", self.context_dim)
        if context.ndim != 3 or len(context) != len(x) or context.shape[2] != self.context_dim:
            raise ShapeError(
                f"SpatialCrossAttention: context must be {format_shape(wanted)}, for images "
                f"{format_shape(tuple(x.shape))}, got {format_shape(tuple(context.shape))}"
            )
        if context.dtype.kind != "f":
            raise DtypeError(
                f"SpatialCrossAttention: context must hold floating-point numbers, got {context.dtype}; "
                "ids become such by an Embedding"
            )
        if mask is None:
            return
        if mask.dtype != bool:
            raise DtypeError(f"SpatialCrossAttention: mask must be bool, False at padding, got {mask.dtype}")
        if tuple(mask.shape) != tuple(context.shape[:2]):
            raise ShapeError(
                f"SpatialCrossAttention: mask must be (batch, length), here {format_shape(tuple(context.shape[:2]))}, "
                f"got {format_shape(tuple(mask.shape))}"
            )

    def forward(self, x: Array, context: Array, mask: Array | None = None) -> Array:
        """Let every pixel look at the context.

        Parameters
        ----------
        x : (B, C, H, W)
        context : (B, L, D)
        mask : (B, L) bool, False at padding. An image whose whole context is padding sees nothing there

        Returns
        -------
        (B, C, H, W)
        """
        self._check(x, context, mask)
        memory = context if self.to_width is None else self.to_width(context)  # (B, L, C)
        seen = None if mask is None else mask[:, None, None, :]  # (B, heads, pixels, L)
        self.save(x.shape[2:])
        return x + to_image(self.attention(to_tokens(self.norm(x)), memory, seen), x.shape[2:])

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """Gradients of x and of the context."""
        size = self.saved()
        dtokens, dmemory = self.attention.backward(to_tokens(dy))
        dcontext = dmemory if self.to_width is None else self.to_width.backward(dmemory)
        return dy + self.norm.backward(to_image(dtokens, size)), dcontext

"""Skip connections: what a layer read stands beside what it made."""

from __future__ import annotations

from ..backend import Array, namespace
from ..errors import ShapeError, format_shape
from .base import Layer
from .images import check_gradient

Size = tuple[int, ...]  # of an image, a number for each axis


def cut_or_fill(z: Array, size: Size) -> Array:
    """Images z (B, C, *other) as (B, C, *size): cut at the far end of an axis, or filled up with zeros there.

    The near ends stay together, because pixel i of a layer that halves stands for pixels 2i and 2i + 1. As a map it is
    the transpose of the one that goes back, so its gradient is the same function with the two sizes exchanged.
    """
    if z.shape[2:] == size:
        return z
    common = (..., *(slice(min(n, m)) for n, m in zip(size, z.shape[2:], strict=True)))
    if all(n <= m for n, m in zip(size, z.shape[2:], strict=True)):
        return z[common]
    filled = namespace(z).zeros_like(z, shape=(*z.shape[:2], *size))  # lies in memory as z does
    filled[common] = z[common]
    return filled


def join_channels(x: Array, z: Array) -> Array:
    """Channels of x, then those of z, cut or filled to the size of x.

    Parameters
    ----------
    x : (B, C, *size)
    z : (B, D, *other)

    Returns
    -------
    (B, C + D, *size)
    """
    return namespace(x, z).concatenate([x, cut_or_fill(z, x.shape[2:])], axis=1)


def split_channels(dy: Array, channels: int, other: Size) -> tuple[Array, Array]:
    """Gradient of :func:`join_channels`: to each its own part of dy.

    Parameters
    ----------
    dy : (B, C + D, *size)
    channels : C
    other : size of z

    Returns
    -------
    dx : (B, C, *size); dz : (B, D, *other). Both may be views of dy
    """
    return dy[:, :channels], cut_or_fill(dy[:, channels:], other)


class SkipConnection(Layer):
    """``y = concat([x, inner(x)])`` along the channels: the bridge of a U-Net (Ronneberger et al., 2015).

    x goes two ways, straight on and through the inner layer. So backward takes the two parts of dy apart, sends one
    through the inner layer, and adds what comes back to the other.

    The inner layer may give images of another size, as one that halves and doubles an odd size does: they are cut, or
    filled up with zeros, at the far end of each axis. Nothing is kept but sizes; what is concatenated is a copy.

    Parameters
    ----------
    inner : takes (B, C, *size), and gives (B, D, *other) with as many axes

    Examples
    --------
    >>> level = SkipConnection(Sequential(MaxPool2d(2), Conv2d(8, 8, 3, padding=1), Upsample(scale_factor=2)))
    """

    def __init__(self, inner: Layer):
        super().__init__()
        self.inner = inner

    def forward(self, x: Array) -> Array:  # (B, C, *size) -> (B, C + D, *size)
        namespace(x)  # an error for what is no array
        if x.ndim < 3:
            raise ShapeError(f"SkipConnection: expected (batch, channels, *size), got {format_shape(tuple(x.shape))}")
        z = self.inner(x)
        if z.ndim != x.ndim or len(z) != len(x):
            raise ShapeError(
                "SkipConnection: the inner layer must keep the batch and the number of axes of its input, "
                f"{format_shape(tuple(x.shape))}, it gave {format_shape(tuple(z.shape))}"
            )
        self.save(tuple(x.shape), tuple(z.shape))
        return join_channels(x, z)

    def backward(self, dy: Array) -> Array:
        (batch, channels, *size), (_, more, *other) = self.saved()
        check_gradient(self, dy, (batch, channels + more, *size))  # a smaller one would be filled up in silence
        dx, dz = split_channels(dy, channels, tuple(other))
        return dx + self.inner.backward(dz)

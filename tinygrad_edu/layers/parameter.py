"""The arrays of a layer: those that are learned, and those that are only kept."""

from __future__ import annotations

from typing import Any

from ..backend import Array, zeros_like
from ..errors import ShapeError, format_shape


class Parameter:
    """An array that is learned, and its gradient.

    Attributes
    ----------
    data : the values
    grad : the gradient accumulated so far, of the shape of `data`
    decay : whether weight decay applies; by default to matrices, not to biases and norms
    """

    __slots__ = ("_grad", "data", "decay")

    def __init__(self, data: Array, decay: bool | None = None):
        self.data = data
        self._grad: Array | None = None
        self.decay = data.ndim >= 2 if decay is None else decay

    @property
    def grad(self) -> Array:
        if self._grad is None:
            self._grad = zeros_like(self.data)
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        self._grad = value

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def size(self) -> int:
        return int(self.data.size)

    def accumulate(self, gradient: Array) -> None:
        """Add `gradient`: a parameter that is used twice has the sum of both gradients.

        Raises
        ------
        ShapeError
            If it has not the parameter's shape: a smaller one would be spread over it in silence.
        """
        if gradient.shape != self.data.shape:
            found, extra = tuple(gradient.shape), gradient.ndim - self.data.ndim
            hint = "; sum it over the leading axes first" if extra > 0 and found[extra:] == self.shape else ""
            raise ShapeError(
                f"accumulate: expected a gradient {format_shape(self.shape)}, the parameter's shape, "
                f"got {format_shape(found)}{hint}"
            )
        grad = self.grad
        grad += gradient

    def zero_grad(self) -> None:
        """Forget the gradient."""
        if self._grad is not None:
            self._grad.fill(0)

    def __repr__(self) -> str:
        return f"Parameter({format_shape(self.shape)}, {self.data.dtype})"


class Buffer:
    """An array that belongs to a layer's state and is not learned, such as a running mean.

    It has no gradient and no optimizer sees it; otherwise it is treated as a parameter is: it is in the
    ``state_dict``, saved and loaded, moved with the layer and, if it holds floats, cast with it. A layer changes its
    values in place: ``self.running_mean.data[...] = ...``.

    Attributes
    ----------
    data : the values
    """

    __slots__ = ("data",)

    def __init__(self, data: Array):
        self.data = data

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def __repr__(self) -> str:
        return f"Buffer({format_shape(self.shape)}, {self.data.dtype})"

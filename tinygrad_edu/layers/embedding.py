"""Rows of a table, chosen by integer ids."""

from __future__ import annotations

from ..backend import Array, Generator, default_generator, namespace, op
from ..errors import ConfigError, DtypeError, RangeError
from .base import Layer, Parameter, check_positive


@op
def embedding(weight: Array, ids: Array) -> Array:
    r"""Row `ids` of a table, :math:`y_{n} = W_{i_n}`.

    Parameters
    ----------
    weight : (V, C)
    ids : (...), integers in [0, V)

    Returns
    -------
    y : (..., C)
    """
    return weight[ids]


@op
def embedding_backward(dy: Array, ids: Array, dweight: Array) -> Array:
    r"""Gradient of :func:`embedding`: row v gets the sum of dy over the places where v was read.

    .. math:: dW_v \mathrel{+}= \sum_{n:\, i_n = v} dy_n

    A table is large and few of its rows are read, so the sums are added in place to `dweight`.

    Parameters
    ----------
    dy : (..., C)
    ids : (...), the ids of the forward pass
    dweight : (V, C), added to

    Returns
    -------
    dweight, the same array
    """
    xp = namespace(dy, dweight)
    xp.add.at(dweight, ids.reshape(-1), dy.reshape(-1, dy.shape[-1]))  # += would count a repeated id once
    return dweight


def check_ids(name: str, ids: Array, size: int) -> None:
    """Raise unless `ids` are integers in [0, size): NumPy would wrap a negative id, CuPy any."""
    if ids.dtype.kind not in "iu":
        raise DtypeError(f"{name}: ids must be integers, got {ids.dtype}")
    if ids.size == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        xp = namespace(ids)
        bad = (ids < 0) | (ids >= size)
        first = tuple(int(axis[0]) for axis in xp.nonzero(bad))
        raise RangeError(f"{name}: ids must be in [0, {size}), got {int(ids[first])} at position {first}")


class Embedding(Layer):
    """A table of vectors looked up by id, state_dict-compatible with torch.nn.Embedding.

    Parameters
    ----------
    num_embeddings, embedding_dim : the size of the table
    generator : draws the initial table, normal with standard deviation `std`
    std : 1, as torch has it; language models use 0.02
    padding_idx : the id of padding, whose row begins as zeros and gets no gradient from where it is read
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        generator: Generator | None = None,
        std: float = 1.0,
        padding_idx: int | None = None,
    ):
        super().__init__()
        check_positive("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
            raise ConfigError(f"Embedding: padding_idx must be in [0, {num_embeddings}), got {padding_idx!r}")
        generator = generator or default_generator()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = Parameter(generator.normal(num_embeddings, embedding_dim, std=std))
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, ids: Array) -> Array:  # (...) -> (..., embedding_dim)
        namespace(self.weight.data, ids)
        check_ids("Embedding", ids, self.num_embeddings)
        self.save(ids)
        return embedding(self.weight.data, ids)

    def backward(self, dy: Array) -> None:
        """Accumulate the gradient of the table; ids have none, so nothing is returned."""
        ids = self.saved()
        if self.padding_idx is not None:
            dy = namespace(dy).where(ids[..., None] == self.padding_idx, 0, dy)
        embedding_backward(dy, ids, self.weight.grad)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"

"""Batches of tokens: windows shuffled for training, strands for models with a carried state, all once to evaluate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, DtypeError, ShapeError
from .checks import IGNORE, check_integer
from .resumable import ResumableLoader
from .tokens import TokenFile

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


def _ids_of(tokens: TokenFile | NDArray[Any]) -> NDArray[Any]:
    """Return the one-dimensional integer array behind `tokens`, or raise saying what it is instead."""
    ids = tokens.ids if isinstance(tokens, TokenFile) else np.asarray(tokens)
    if ids.ndim != 1:
        raise ShapeError(f"tokens: shape {ids.shape}, wanted one axis (tokens,)")
    if ids.dtype.kind not in "iu":
        raise DtypeError(f"tokens: dtype {ids.dtype}, wanted integers")
    return ids


class _TokensLoader(ResumableLoader):
    """A loader that cuts batches out of one line of tokens."""

    def __init__(
        self,
        tokens: TokenFile | NDArray[Any],
        batch_size: int,
        seq_len: int,
        collate: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(collate)
        check_integer("batch_size", batch_size, 1)
        check_integer("seq_len", seq_len, 2)
        self.ids = _ids_of(tokens)
        self.batch_size, self.seq_len = int(batch_size), int(seq_len)
        self._sum = tokens.sha256 if isinstance(tokens, TokenFile) else ""

    def _data_sum(self) -> str:
        if not self._sum:
            self._sum = hashlib.sha256(np.ascontiguousarray(self.ids, dtype="<i8").data).hexdigest()
        return self._sum

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {len(self):,} batches of {self.batch_size} x {self.seq_len}: "
            f"epoch {self.epoch}, position {self.position}>"
        )


class TokenLoader(_TokensLoader):
    """Batches of windows of `seq_len` tokens that do not overlap, in an order that the seed decides.

    Windows start at multiples of `seq_len` after an offset drawn anew each epoch, so that no token is always
    the first of its window (the first is never predicted) or always deprived of what stands before it.

    Iterating yields (input_ids, labels), int64, each ``(batch, seq_len)``. The labels are the same ids, in an
    array of their own: the model shifts them inside. See `ResumableLoader` for epochs and resuming.

    Parameters
    ----------
    tokens : TokenFile or ndarray
        Integer ids, shape ``(tokens,)``. They are not held in memory beyond the batch in hand.
    batch_size, seq_len : int
        Shape of a batch; `seq_len` at least 2, as nothing stands before the first token of a window.
    seed : int
        Decides offset and order of every epoch, through NumPy's generators.
    shuffle : bool
        False: offset 0 and the order of the text, at every epoch.
    drop_last : bool
        Leave out the last batch of an epoch if it would be smaller.
    collate : callable, optional
        Makes the batch of an array of windows, ``(batch, seq_len)``: `MaskedLMDataCollator`, for example.

    Raises
    ------
    ConfigError, ShapeError, DtypeError
        For arguments that are not allowed.
    DataError
        When the tokens do not fill a window, or the windows do not fill a batch that may not be smaller.
    """

    def __init__(
        self,
        tokens: TokenFile | NDArray[Any],
        batch_size: int,
        seq_len: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        collate: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(tokens, batch_size, seq_len, collate)
        check_integer("seed", seed, 0)
        self.seed = int(seed)
        self.shuffle, self.drop_last = bool(shuffle), bool(drop_last)
        n = len(self.ids)
        if n < seq_len:
            raise DataError(f"tokens: {n:,} in the split, fewer than one window of seq_len {seq_len:,}")
        # As many windows as fit behind the largest offset, so that all epochs are equally long.
        self.windows = max(1, (n - seq_len + 1) // seq_len) if shuffle else n // seq_len
        self._offsets = min(seq_len, n - self.windows * seq_len + 1)  # how many there are to draw from
        if drop_last and self.windows < batch_size:
            raise DataError(
                f"tokens: {self.windows:,} windows of seq_len {seq_len:,} in the split ({n:,} tokens), fewer "
                f"than one batch of batch_size {batch_size:,}; make either smaller, or set drop_last=False"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.windows, self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def _starts(self, epoch: int) -> NDArray[np.int64]:
        """Return where each window of an epoch starts, in the order of their use."""
        starts = np.arange(self.windows, dtype=np.int64) * self.seq_len
        if not self.shuffle:
            return starts
        draw = np.random.default_rng([self.seed, epoch])
        starts += int(draw.integers(self._offsets))
        return draw.permutation(starts)

    def _batches(self, epoch: int, position: int) -> Iterator[Any]:
        starts, within = self._starts(epoch), np.arange(self.seq_len)
        for number in range(position, len(self)):
            some = starts[number * self.batch_size : (number + 1) * self.batch_size]
            input_ids = self.ids[some[:, None] + within].astype(np.int64)  # (batch, seq_len)
            yield (input_ids, input_ids.copy()) if self.collate is None else self.collate(input_ids)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "tokens": len(self.ids),
            "data_sha256": self._data_sum(),
        }


class StreamLoader(_TokensLoader):
    """Batches for a model that carries its state on: row `i` of each batch continues row `i` of the one before.

    The tokens are cut into `batch_size` strands of equal length that are read side by side, `seq_len` tokens
    at a time. Each chunk begins with the last token of the one before, and each strand ends with the first of
    the next, because a chunk's first token is not predicted in it: so every token of the strands is predicted
    exactly once in an epoch, but the first of the text. The model reads the shared token once, as the first
    of a chunk: it leaves the last of a chunk for the next. (Fewer than `batch_size` tokens at the end of the
    text are left over.)

    Iterating yields (input_ids, labels) like `TokenLoader`; the last batch of an epoch may have fewer tokens
    in a row, never fewer rows. At the start of an epoch the state has to be forgotten.

    Parameters
    ----------
    tokens : TokenFile or ndarray
        Integer ids, shape ``(tokens,)``.
    batch_size, seq_len : int
        Shape of a batch; `seq_len` at least 2.
    drop_last : bool
        Leave out the last batch of an epoch if it would be shorter.

    Raises
    ------
    ConfigError, ShapeError, DtypeError
        For arguments that are not allowed.
    DataError
        When a strand has fewer than 2 tokens, or does not fill a batch that may not be shorter.
    """

    def __init__(
        self, tokens: TokenFile | NDArray[Any], batch_size: int, seq_len: int, *, drop_last: bool = False
    ) -> None:
        super().__init__(tokens, batch_size, seq_len)
        self.drop_last = bool(drop_last)
        n = len(self.ids)
        self.strand = (n - 1) // self.batch_size  #: tokens of a strand that are predicted
        wanted = self.seq_len - 1 if drop_last else 1
        if self.strand < wanted:
            raise DataError(
                f"tokens: {n:,} in the split give {batch_size:,} strands of {max(self.strand, 0):,} tokens to predict, "
                f"fewer than {wanted:,}; make batch_size{' or seq_len' if drop_last else ''} smaller"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.strand, self.seq_len - 1)
        return whole if self.drop_last or not rest else whole + 1

    def _batches(self, epoch: int, position: int) -> Iterator[Batch]:
        starts = np.arange(self.batch_size, dtype=np.int64)[:, None] * self.strand
        for number in range(position, len(self)):
            begin = number * (self.seq_len - 1)
            within = np.arange(begin, min(begin + self.seq_len, self.strand + 1))
            input_ids = self.ids[starts + within].astype(np.int64)  # (batch, seq_len)
            yield input_ids, input_ids.copy()

    def _identity(self) -> dict[str, Any]:
        return {
            "drop_last": self.drop_last,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "tokens": len(self.ids),
            "data_sha256": self._data_sum(),
        }


def evaluation_windows(
    tokens: TokenFile | NDArray[Any], seq_len: int, stride: int | None = None, batch_size: int = 8
) -> Iterator[Batch]:
    """Yield batches in which every token but the first is predicted exactly once.

    Windows of `seq_len` start every `stride` tokens, the last one where it ends with the text. Of each
    window only the tokens that no earlier one covered are scored, so each of them sees at least
    ``seq_len - stride`` tokens before it, or all there are. A smaller stride gives more context and costs
    more: ``seq_len / stride`` times the text.

    Parameters
    ----------
    tokens : TokenFile or ndarray
        Integer ids, shape ``(tokens,)``, at least 2.
    seq_len : int
        At least 2.
    stride : int, optional
        1 to ``seq_len - 1``; half of `seq_len` by default.
    batch_size : int
        Windows in a batch; the last batch may have fewer.

    Yields
    ------
    input_ids, labels : ndarray
        int64, ``(batch, seq_len)``. Labels are unshifted: position `t` of the labels is predicted from the
        ids before `t`. They are -100 where not scored. Text shorter than a window is padded with id 0 and
        label -100.
    """
    check_integer("seq_len", seq_len, 2)
    check_integer("batch_size", batch_size, 1)
    stride = seq_len // 2 if stride is None else stride
    check_integer("stride", stride, 1)
    if stride >= seq_len:
        raise ConfigError(
            f"stride: {stride}, wanted at most {seq_len - 1} (seq_len {seq_len} less 1): the first token of "
            "a window is not predicted, so windows must overlap"
        )
    ids = _ids_of(tokens)
    if len(ids) < 2:
        raise DataError(f"tokens: {len(ids)} in the split, wanted at least 2: one to predict from, one to predict")
    return _evaluation_batches(ids, seq_len, stride, batch_size)


def _evaluation_batches(ids: NDArray[Any], seq_len: int, stride: int, batch_size: int) -> Iterator[Batch]:
    n = len(ids)
    last = max(0, n - seq_len)
    starts = [*range(0, last, stride), last]
    for at in range(0, len(starts), batch_size):
        some = starts[at : at + batch_size]
        input_ids = np.zeros((len(some), seq_len), np.int64)
        labels = np.full((len(some), seq_len), IGNORE, np.int64)
        for row, start in enumerate(some):
            window = ids[start : start + seq_len]
            number = at + row
            # Everything before this position was scored by the window before; of the first, only token 0.
            fresh = starts[number - 1] + seq_len - start if number else 1
            input_ids[row, : len(window)] = window
            labels[row, fresh : len(window)] = window[fresh:]
        yield input_ids, labels

"""Batches of token windows: shuffled for training and resumable, each token exactly once for evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, DtypeError, ShapeError
from .tokens import TokenFile

IGNORE = -100  #: label of a position that is not scored

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


def _ids_of(tokens: TokenFile | NDArray[Any]) -> NDArray[Any]:
    """Return the one-dimensional integer array behind `tokens`, or raise saying what it is instead."""
    ids = tokens.ids if isinstance(tokens, TokenFile) else np.asarray(tokens)
    if ids.ndim != 1:
        raise ShapeError(f"tokens: shape {ids.shape}, wanted one axis (tokens,)")
    if ids.dtype.kind not in "iu":
        raise DtypeError(f"tokens: dtype {ids.dtype}, wanted integers")
    return ids


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name}: {value!r}, wanted an integer of at least {least}")


class TokenLoader:
    """Batches of windows of `seq_len` tokens that do not overlap, in an order that the seed decides.

    Windows start at multiples of `seq_len` after an offset drawn anew each epoch, so that no token is always
    the first of its window (the first is never predicted) or always deprived of what stands before it.

    Iterating yields what is left of the current epoch and then moves on to the next one. The position belongs
    to the loader: leaving a loop early and starting another goes on where the first stopped.

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
    ) -> None:
        _check_integer("batch_size", batch_size, 1)
        _check_integer("seq_len", seq_len, 2)
        _check_integer("seed", seed, 0)
        self.ids = _ids_of(tokens)
        self.batch_size, self.seq_len, self.seed = int(batch_size), int(seq_len), int(seed)
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
        self.epoch = 0  #: epochs finished
        self.position = 0  #: batches of this epoch that were handed out
        self._sum = tokens.sha256 if isinstance(tokens, TokenFile) else ""

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

    def __iter__(self) -> Iterator[Batch]:
        """Yield (input_ids, labels), int64, each ``(batch, seq_len)``, until the epoch ends.

        The labels are the same ids: the model shifts them inside. The two arrays are separate copies.
        """
        epoch, starts = self.epoch, self._starts(self.epoch)
        within = np.arange(self.seq_len)
        while self.epoch == epoch and self.position < len(self):
            some = starts[self.position * self.batch_size : (self.position + 1) * self.batch_size]
            input_ids = self.ids[some[:, None] + within].astype(np.int64)  # (batch, seq_len)
            self.position += 1
            yield input_ids, input_ids.copy()
        if self.epoch == epoch:
            self.epoch, self.position = epoch + 1, 0

    def _data_sum(self) -> str:
        if not self._sum:
            self._sum = hashlib.sha256(np.ascontiguousarray(self.ids, dtype="<i8").data).hexdigest()
        return self._sum

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader is and what it reads, in types that JSON can hold."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "batch_size": self.batch_size,
            "seq_len": self.seq_len,
            "tokens": len(self.ids),
            "data_sha256": self._data_sum(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the loader stood that gave `state`: the next batch is the one it would have handed out.

        Seed, shuffle and drop_last are part of what is being resumed, and must be the same too.

        Raises
        ------
        DataError
            When the state comes from other data or settings (all differences are named), or is damaged. The
            loader is then as it was.
        """
        mine = self.state_dict()
        if not isinstance(state, Mapping) or state.keys() != mine.keys():
            found = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise DataError(f"loader state: fields {found}, wanted {sorted(mine)}")
        fixed = [key for key in mine if key not in ("epoch", "position")]
        other = [f"{key} {state[key]!r}, this loader has {mine[key]!r}" for key in fixed if state[key] != mine[key]]
        if other:
            raise DataError("loader state comes from other data or settings: " + "; ".join(other))
        for key, most in (("epoch", None), ("position", len(self))):
            value = state[key]
            if type(value) is not int or value < 0 or (most is not None and value > most):
                limit = "" if most is None else f" and at most {most}, the batches of an epoch"
                raise DataError(f"loader state: {key} is {value!r}, wanted an integer of at least 0{limit}")
        self.epoch, self.position = state["epoch"], state["position"]

    def __repr__(self) -> str:
        return (
            f"<TokenLoader {len(self):,} batches of {self.batch_size} x {self.seq_len}: "
            f"epoch {self.epoch}, position {self.position}>"
        )


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
    _check_integer("seq_len", seq_len, 2)
    _check_integer("batch_size", batch_size, 1)
    stride = seq_len // 2 if stride is None else stride
    _check_integer("stride", stride, 1)
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

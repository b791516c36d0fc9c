"""Batches that a masked model is scored on: each token hidden alone, or a share of them, the same every time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import TokenFile
from ..errors import ConfigError, DataError
from ..models.base import IGNORE_INDEX

Ids = NDArray[Any]


def window_of_each_token(n_tokens: int, seq_len: int, stride: int) -> tuple[Ids, Ids]:
    """Starts of overlapping windows, and for each token the window in which it stands nearest to the middle.

    A masked model reads both sides of a token, so both should be long: neighbouring windows share what they
    have in common half and half.

    Parameters
    ----------
    n_tokens : length of the text
    seq_len, stride : length of the windows, and tokens between their starts

    Returns
    -------
    starts : (windows,), the last one where its window ends with the text
    window : (n_tokens,), an index into `starts`
    """
    last = max(0, n_tokens - seq_len)
    starts = np.array([*range(0, last, stride), last])
    middles = starts + min(seq_len, n_tokens) / 2
    borders = np.ceil((middles[:-1] + middles[1:]) / 2)
    return starts, np.searchsorted(borders, np.arange(n_tokens), side="right")


def masked_windows(
    ids: Ids,
    seq_len: int,
    stride: int,
    batch_size: int,
    mask_token_id: int,
    not_scored: Collection[int] = (),
    *,
    fraction: float = 1.0,
    most: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[Ids, Ids]]:
    """Windows in which one token is masked, a window a token: what the pseudo-perplexity is made of.

    Parameters
    ----------
    ids : (tokens,) integers
    seq_len, stride : as :func:`window_of_each_token` takes them
    batch_size : windows at a time
    mask_token_id : what stands in the place of the hidden token
    not_scored : ids that are left as they are
    fraction, most : a random share of the tokens, and so many of them at most
    seed : draws them

    Yields
    ------
    input_ids, labels : (batch, seq_len), labels -100 but at the masked token

    Raises
    ------
    ConfigError, DataError
        For values out of range, or a text with nothing to score.
    """
    if not 1 <= stride <= seq_len:
        raise ConfigError(f"stride: {stride}, wanted 1 to seq_len {seq_len}")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise ConfigError(f"fraction: {fraction!r}, wanted a number in (0, 1]")
    places = np.flatnonzero(~np.isin(ids, list(not_scored)))
    if places.size == 0:
        raise DataError(f"tokens: none of {len(ids)} can be scored")
    count = max(1, round(fraction * places.size))
    count = count if most is None else min(count, most)
    if count < places.size:
        places = np.sort(np.random.default_rng(seed).choice(places, count, replace=False))
    starts, window = window_of_each_token(len(ids), seq_len, stride)
    width = min(seq_len, len(ids))
    for at in range(0, count, batch_size):
        some = places[at : at + batch_size]
        first = starts[window[some]]
        rows = np.arange(len(some))
        input_ids = ids[first[:, None] + np.arange(width)].astype(np.int64)
        labels = np.full_like(input_ids, IGNORE_INDEX)
        labels[rows, some - first] = ids[some]
        input_ids[rows, some - first] = mask_token_id
        yield input_ids, labels


def masked_batches(
    tokens: TokenFile | Ids,
    collate: Callable[[list[Any]], Any],
    *,
    seq_len: int,
    batch_size: int,
    max_batches: int | None = None,
) -> list[Any]:
    """Windows of a text, masked once by a collator: a list, so that each evaluation asks the same questions.

    The windows do not overlap; `max_batches` of them are spread over the text. Scoring them
    (:func:`evaluate_batches`) takes a forward pass a window and not one a token as the pseudo-perplexity does:
    for following a training run.

    Parameters
    ----------
    tokens : a token file, or ids of shape (tokens,)
    collate : a new :class:`tinygrad_edu.data.MaskedLMDataCollator` with its own seed, or its like
    seq_len, batch_size : length and number of windows in a batch
    max_batches : so many at most; None for all of the text

    Raises
    ------
    DataError
        If the text does not fill a window.
    """
    ids = tokens.ids if isinstance(tokens, TokenFile) else np.asarray(tokens)
    windows = len(ids) // seq_len
    if windows == 0:
        raise DataError(f"tokens: {len(ids):,} in the split, fewer than one window of seq_len {seq_len:,}")
    chosen = np.arange(windows)
    if max_batches is not None and windows > max_batches * batch_size:
        chosen = np.linspace(0, windows - 1, max_batches * batch_size).astype(int)
    rows = [ids[number * seq_len : (number + 1) * seq_len].astype(np.int64) for number in chosen]
    return [collate(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)]

"""Scoring a language model on text it did not learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import TokenFile, evaluation_windows
from ..errors import ConfigError
from ..metrics import LanguageScore
from ..models import BaseLanguageModel

Ids = NDArray[Any]


class EvaluationStopped(Exception):  # noqa: N818  (no error: somebody asked for it)
    """An evaluation was given up because its `stop` function said so."""


def spread_windows(
    ids: Ids, seq_len: int, stride: int, batch_size: int, max_batches: int | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Batches of evaluation windows over all of `ids`, or `max_batches` of them evenly spread over it.

    The first batches of a text are its first documents; spread out, a few batches stand for all of it.

    Parameters
    ----------
    ids : (tokens,) integers
    seq_len, stride, batch_size : as :func:`tinygrad_edu.data.evaluation_windows` takes them
    max_batches : how many batches at most; None for every token
    """
    span = seq_len + (batch_size - 1) * stride  # tokens that the windows of one batch cover
    if max_batches is None or len(ids) <= max_batches * span:
        yield from evaluation_windows(ids, seq_len, stride, batch_size)
        return
    for start in np.linspace(0, len(ids) - span, max_batches).astype(int):
        yield from evaluation_windows(ids[start : start + span], seq_len, stride, batch_size)


def evaluate_language_model(
    model: BaseLanguageModel,
    tokens: TokenFile | Ids,
    *,
    seq_len: int,
    batch_size: int = 8,
    stride: int | None = None,
    max_batches: int | None = None,
    token_bytes: Ids | None = None,
    stop: Callable[[], bool] | None = None,
) -> LanguageScore:
    """Loss, perplexity, accuracy and bits per byte of `model` on `tokens`, each token predicted once.

    Dropout is off, nothing is saved for a backward pass, and no random number is drawn.

    Parameters
    ----------
    model : a language model
    tokens : a token file, or ids of shape (tokens,)
    seq_len : length of the windows, at most the model's max_seq_len
    batch_size : windows at a time
    stride : tokens scored in each window, half of `seq_len` if None; the rest is context
    max_batches : score only so many batches, spread over the text; None scores all of it
    token_bytes : (V,) bytes of text behind each id; without it bits per byte are NaN
    stop : asked before each batch; True gives up

    Raises
    ------
    EvaluationStopped
        If `stop` said so.
    ConfigError
        If `seq_len` is longer than the model can take, or `max_batches` < 1.
    """
    if seq_len > model.max_seq_len:
        raise ConfigError(f"seq_len: {seq_len}, wanted at most the model's max_seq_len {model.max_seq_len}")
    if max_batches is not None and max_batches < 1:
        raise ConfigError(f"max_batches: {max_batches}, wanted at least 1, or None for all")
    ids = tokens.ids if isinstance(tokens, TokenFile) else np.asarray(tokens)
    stride = seq_len // 2 if stride is None else stride
    score = LanguageScore()
    for input_ids, labels in spread_windows(ids, seq_len, stride, batch_size, max_batches):
        if stop is not None and stop():
            raise EvaluationStopped
        losses, correct = model.token_losses(input_ids, labels)
        scored = labels[:, 1:]
        scored = scored[scored != -100]
        n_bytes = 0 if token_bytes is None else int(token_bytes[scored].sum())
        score.add(losses, correct, n_tokens=scored.size, n_bytes=n_bytes)
    return score

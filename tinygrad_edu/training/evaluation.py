"""Scoring a model on what it did not learn from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import to_host
from ..data import TokenFile, evaluation_windows
from ..errors import ConfigError, DataError
from ..losses import CrossEntropyLoss
from ..metrics import LanguageScore
from ..models import BaseLanguageModel
from ..models.base import IGNORE_INDEX
from .batches import as_loader, one_pass
from .masking import masked_windows
from .strands import strand_losses
from .trainable import Batch, LayerWithLoss, Trainable, mean_over

Ids = NDArray[Any]


class EvaluationStopped(Exception):  # noqa: N818  (no error: somebody asked for it)
    """An evaluation was given up because its `stop` function said so."""


def _check_stop(stop: Callable[[], bool] | None) -> None:
    if stop is not None and stop():
        raise EvaluationStopped


# -- text, each token predicted once -----------------------------------------------------------------


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
    mask_token_id: int | None = None,
    not_scored: Collection[int] = (),
    fraction: float = 1.0,
    seed: int = 0,
) -> LanguageScore:
    """Loss, perplexity, accuracy and bits per byte of `model` on `tokens`, each token predicted once.

    Dropout is off, nothing is saved for a backward pass, and no random number of the model is drawn.

    - A causal model predicts each token but the first from those before it in its window. One that carries its
      state from batch to batch in training does so here too, over `batch_size` parts of the text side by side.
    - A masked model is scored by its pseudo-perplexity (Salazar et al., 2020): each token is masked alone and
      predicted from both sides, which takes a forward pass a token. `fraction` or `max_batches` score a random
      sample of the positions instead, the same for the same `seed`. It sees the future of each token, so it is
      no probability of the text: beside the figures of causal models it is a different, easier question.

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
    mask_token_id : of a masked model: the id that hides a token
    not_scored : of a masked model: ids that are never masked in training, such as special tokens, and of which
        it therefore learned nothing
    fraction, seed : of a masked model: which share of the positions is scored, and the seed that draws them

    Raises
    ------
    EvaluationStopped
        If `stop` said so.
    ConfigError
        If `seq_len` is longer than the model can take, `max_batches` < 1, or a masked model has no mask.
    """
    if seq_len > model.max_seq_len:
        raise ConfigError(f"seq_len: {seq_len}, wanted at most the model's max_seq_len {model.max_seq_len}")
    if max_batches is not None and max_batches < 1:
        raise ConfigError(f"max_batches: {max_batches}, wanted at least 1, or None for all")
    if model.objective == "translation":
        raise ConfigError(f"{model.model_type} translates: score it on pairs, with evaluate_batches")
    ids = tokens.ids if isinstance(tokens, TokenFile) else np.asarray(tokens)
    stride = seq_len // 2 if stride is None else stride
    if model.objective == "masked_lm":
        if mask_token_id is None:
            raise ConfigError(f"mask_token_id: {model.model_type} learned to predict masked tokens, and needs it")
        most = None if max_batches is None else max_batches * batch_size
        windows = masked_windows(
            ids, seq_len, stride, batch_size, mask_token_id, not_scored, fraction=fraction, most=most, seed=seed
        )
        return evaluate_batches(model, windows, token_bytes=token_bytes, stop=stop)
    if getattr(model.config, "carry_state", False):
        score = LanguageScore()
        for losses, correct, scored in strand_losses(model, ids, seq_len, batch_size, max_batches):
            _check_stop(stop)
            add_scored(score, losses, correct, scored, token_bytes)
        return score
    windows = spread_windows(ids, seq_len, stride, batch_size, max_batches)
    return evaluate_batches(model, windows, token_bytes=token_bytes, stop=stop)


# -- batches of a loader -----------------------------------------------------------------------------


def evaluate_batches(
    model: BaseLanguageModel,
    batches: Iterable[Any],
    *,
    max_batches: int | None = None,
    token_bytes: Ids | None = None,
    stop: Callable[[], bool] | None = None,
) -> LanguageScore:
    """Score a language model on batches as they are: of masked text, of pairs, of anything with labels.

    A loader is read from where it stands to the end of its epoch and then put back, so that the same batches,
    and the same masks, come at every evaluation.

    Parameters
    ----------
    model : a language model
    batches : tuples or mappings, as for training; a loader or anything iterable
    max_batches : read only so many; None reads all
    token_bytes : (V,) bytes of text behind each id; without it bits per byte are NaN
    stop : asked before each batch; True gives up

    Raises
    ------
    EvaluationStopped
        If `stop` said so.
    DataError
        If nothing in the batches is scored.
    """
    score = LanguageScore()
    again = one_pass(batches) if hasattr(batches, "__len__") else (batch for batch in batches)
    with closing(again):
        for value in islice(again, max_batches):
            _check_stop(stop)
            batch = Batch.of(value)
            losses, correct = model.token_losses(*batch.args, **batch.named)
            labels = batch.named.get("labels", batch.args[1] if len(batch.args) > 1 else batch.first)
            labels = to_host(labels) if hasattr(labels, "shape") else np.asarray(labels)
            scored = labels[:, 1:] if model.objective == "causal_lm" else labels
            add_scored(score, losses, correct, scored[scored != IGNORE_INDEX], token_bytes)
    if score.n_tokens == 0:
        raise DataError("evaluation: nothing is scored: there are no batches, or every label is -100")
    return score


def add_scored(score: LanguageScore, losses: Ids, correct: Ids, tokens: Ids, token_bytes: Ids | None) -> None:
    """Add a batch to `score`: `tokens` are the ids that were predicted."""
    n_bytes = 0 if token_bytes is None else int(token_bytes[tokens].sum())
    score.add(losses, correct, n_tokens=tokens.size, n_bytes=n_bytes)


def evaluate_loss(
    trainable: Trainable, batches: Any, *, stop: Callable[[], bool] | None = None
) -> dict[str, float] | LanguageScore:
    """Score anything that can be trained on the batches of a loader; see :func:`evaluate_batches`.

    Parameters
    ----------
    trainable : a language model, a layer with its loss, or a model that brings its own
    batches : a loader or a list of batches
    stop : asked before each batch; True gives up

    Returns
    -------
    Of a language model its score. Else the ``loss`` over all batches together, and of a classifier trained with
    cross-entropy the ``accuracy``.

    Raises
    ------
    EvaluationStopped
        If `stop` said so.
    DataError
        If nothing in the batches is scored.
    """
    if isinstance(trainable, BaseLanguageModel):
        return evaluate_batches(trainable, as_loader(batches, "val_loader"), stop=stop)
    total = weight = right = count = 0.0
    with closing(one_pass(batches)) as again:
        for value in again:
            _check_stop(stop)
            batch = Batch.of(value)
            if isinstance(trainable, LayerWithLoss):
                loss, share, batch_right, batch_count = _measure_layer(trainable, batch)
                right, count = right + batch_right, count + batch_count
            else:
                loss, share = _measure_own_loss(trainable, batch)
            if share:  # else there is no target in it, and no loss
                total, weight = total + loss * share, weight + share
    if not weight > 0:
        raise DataError("evaluation: the batches have no targets")
    return {"loss": total / weight, **({"accuracy": right / count} if count else {})}


def _measure_layer(trainable: LayerWithLoss, batch: Batch) -> tuple[float, float, int, int]:
    """Loss of a batch and what it is the mean over; right answers and answers in all, of a classifier."""
    layer, loss = trainable.layer, trainable.loss
    with layer.evaluating():
        prediction, targets = trainable.predict(*batch.args, **batch.named)
        share = mean_over(loss, targets)
        if share == 0:  # every target is ignored
            return 0.0, 0.0, 0, 0
        if isinstance(loss, CrossEntropyLoss):  # smoothing is for training
            loss = CrossEntropyLoss(loss.weight, loss.ignore_index, loss.reduction, class_axis=loss.class_axis)
        value = float(loss(prediction, targets))
    if not isinstance(loss, CrossEntropyLoss):
        return value, share, 0, 0
    counted = targets != loss.ignore_index
    right = (prediction.argmax(axis=loss.axis_of(prediction)) == targets) & counted
    return value, share, int(right.sum()), int(counted.sum())


def _measure_own_loss(trainable: Any, batch: Batch) -> tuple[float, float]:
    """Loss of a batch and what it is the mean over, of a model that has it only together with its gradient."""
    modes = [(layer, layer.training) for layer in trainable.layers()]
    trainable.eval()
    try:
        share = float(trainable.count_targets(*batch.args, **batch.named))
        return float(trainable.forward_backward(*batch.args, **batch.named)) if share else 0.0, share
    finally:
        trainable.zero_grad()
        for layer, training in modes:
            layer.training = training

"""How well a language model predicts: perplexity, bits per byte, token accuracy.

Perplexity depends on the tokenizer: longer tokens are harder to guess and fewer. Bits per byte does not,
and is what models with different vocabularies, and character n-grams, can be compared by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DtypeError, ShapeError


def perplexity(nll_per_token: float) -> float:
    """Return ``exp`` of the mean negative log-likelihood in nats; infinite where that overflows."""
    try:
        return math.exp(nll_per_token)
    except OverflowError:
        return math.inf


def bits_per_byte(total_nll: float, n_bytes: int) -> float:
    """Return ``total_nll / (n_bytes ln 2)``.

    Parameters
    ----------
    total_nll : float
        Negative log-likelihood of the whole text in nats, summed over every token, end-of-text tokens
        included: where a document ends is part of what must be told.
    n_bytes : int
        Length of the text in UTF-8 bytes; end-of-text tokens have none.

    Raises
    ------
    ConfigError
        When `n_bytes` is not positive.
    """
    if not n_bytes > 0:
        raise ConfigError(f"n_bytes: {n_bytes}, wanted at least 1; bits per byte of no text are not defined")
    return float(total_nll) / (math.log(2) * n_bytes)


def token_accuracy(predictions: NDArray[Any], labels: NDArray[Any], ignore_index: int = -100) -> float:
    """Return the share of scored positions at which `predictions` equals `labels`; NaN if none is scored.

    Parameters
    ----------
    predictions, labels : ndarray
        Integers of one shape, aligned: the prediction at a position is the guess for the label there (shift a
        causal model's output first).
    ignore_index : int
        Label of positions that are not scored.

    Raises
    ------
    ShapeError, DtypeError
        When the shapes differ, or one holds no integers.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape:
        raise ShapeError(f"predictions: shape {predictions.shape}, wanted the labels' {labels.shape}")
    for name, values in (("predictions", predictions), ("labels", labels)):
        if values.dtype.kind not in "iu":
            raise DtypeError(f"{name}: dtype {values.dtype}, wanted integers")
    scored = labels != ignore_index
    n = int(scored.sum())
    return int((predictions == labels)[scored].sum()) / n if n else math.nan


@dataclass
class LanguageScore:
    """Sums over batches, from which the figures of a whole split follow.

    Examples
    --------
    >>> score = LanguageScore()
    >>> score.add(np.array([[0.5, 1.5]]), np.array([[True, False]]), n_tokens=2, n_bytes=4)
    >>> round(score.loss, 3), score.accuracy, round(score.bits_per_byte, 3)
    (1.0, 0.5, 0.721)
    """

    total_nll: float = 0.0  #: nats
    n_tokens: int = 0
    n_correct: int = 0
    n_bytes: int = 0

    def add(self, losses: NDArray[Any], correct: NDArray[Any], *, n_tokens: int, n_bytes: int) -> None:
        """Add a batch.

        Parameters
        ----------
        losses : ndarray
            Negative log-likelihood of each token in nats, 0 where it is not scored.
        correct : ndarray
            True where the most likely token was the right one, False where it is not scored. Same shape.
        n_tokens : int
            How many tokens were scored, which is not to be seen in `losses`: a loss may be 0.
        n_bytes : int
            Bytes of text that the scored tokens stand for: `Tokenizer.token_bytes` of them, summed.
        """
        if losses.shape != correct.shape:
            raise ShapeError(f"correct: shape {correct.shape}, wanted the losses' {losses.shape}")
        self.total_nll += float(losses.sum(dtype=np.float64))
        self.n_correct += int(correct.sum())
        self.n_tokens += int(n_tokens)
        self.n_bytes += int(n_bytes)

    @property
    def loss(self) -> float:
        """Nats per token; NaN before anything was added."""
        return self.total_nll / self.n_tokens if self.n_tokens else math.nan

    @property
    def perplexity(self) -> float:
        """``exp(loss)``."""
        return perplexity(self.loss)

    @property
    def accuracy(self) -> float:
        """Share of tokens whose most likely guess was right; NaN before anything was added."""
        return self.n_correct / self.n_tokens if self.n_tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte; NaN before any text was added."""
        return bits_per_byte(self.total_nll, self.n_bytes) if self.n_bytes else math.nan

"""Beam search: the likeliest whole sequence, looked for with several beginnings in hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..backend import Array, asarray, device_of, namespace, to_device, to_host, use
from ..errors import ConfigError
from .continuation import Continuation
from .sampling import check_finite

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence.

    Attributes
    ----------
    score : its log-probability, divided by its length to the power of the length penalty
    tokens : (n,) what was written, the end included, on the host
    """

    score: float
    tokens: Array


@dataclass(frozen=True)
class BeamSettings:
    """How to search; see :func:`beam_search`.

    Raises
    ------
    ConfigError
        For a value that is not allowed.
    """

    num_beams: int = 4
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False

    def __post_init__(self) -> None:
        n, penalty = self.num_beams, self.length_penalty
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"generate: num_beams must be an integer >= 1, got {n!r}")
        if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not math.isfinite(penalty):
            raise ConfigError(f"generate: length_penalty must be a finite number, got {penalty!r}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ConfigError(f"generate: early_stopping must be True, False or 'never', got {self.early_stopping!r}")


def beam_search(
    continuation: Continuation, ids: Array, length: int, settings: BeamSettings, eos_token_id: int | None
) -> list[list[Hypothesis]]:
    r"""For each sequence the best continuations that were found.

    At each token every beam is continued by every id, and the `num_beams` likeliest of all these go on. One
    that reached its end, or the length asked for, is kept aside with the score

    .. math:: \frac{\log p(y)}{|y|^\alpha}

    where the length counts what was written, the end included, and :math:`\alpha` is the length penalty: 0 is
    the probability alone, which favours the short, 1 the mean per token. This is the penalty of Hugging Face's
    ``generate``, which this function follows in all else too; Wu et al. (2016) have
    :math:`((5 + |y|) / 6)^\alpha` in its place.

    Parameters
    ----------
    continuation : gives the logits
    ids : (B, T), the prompts
    length : to reach, counting the prompt
    settings : `num_beams`; `length_penalty`; `early_stopping`, which says when a sequence is done once it has
        `num_beams` finished ones. True: at once. False: when the best beam would lose against them if it ended
        where it is. ``"never"``: when no beam can win any more, however it goes on; that changes nothing but
        the time it takes, the result is that of going on to the end
    eos_token_id : the end; None if there is none

    Returns
    -------
    for each sequence at most `num_beams`, the best first

    Raises
    ------
    NonFiniteError
        If logits are NaN or infinite.
    """
    batch, steps = len(ids), length - ids.shape[1]
    width, device = settings.num_beams, device_of(ids)
    finished: list[list[Hypothesis]] = [[] for _ in range(batch)]
    if steps == 0:
        return [[Hypothesis(0.0, to_host([]).astype("int64"))] for _ in range(batch)]
    with use("cpu"):
        active = asarray(list(range(batch)))  # numbers of the sequences that are not done
        scores = asarray([[0.0]] * batch, dtype="float64")  # (active, beams); there is one beginning each
        written = asarray([[[]]] * batch, dtype="int64")  # (active, beams, n)
    xp, unread = namespace(scores), ids
    for n in range(1, steps + 1):
        log_probs = _log_softmax(to_host(continuation.logits(unread)))  # (active * beams, V)
        rows, beams = scores.shape
        vocab = log_probs.shape[1]
        every = (scores[:, :, None] + log_probs.reshape(rows, beams, vocab)).reshape(rows, beams * vocab)
        # An end takes a place from one that could go on; each beam has one end, so twice as many suffice.
        order = _largest(every, 2 * width)
        scores = xp.take_along_axis(every, order, axis=1)
        beam, token = order // vocab, order % vocab
        written = xp.concatenate([xp.take_along_axis(written, beam[:, :, None], axis=1), token[:, :, None]], axis=2)
        ended = xp.full(token.shape, n == steps) if eos_token_id is None else (token == eos_token_id) | (n == steps)
        # Only what is among the best counts: the rest is there to fill the places of what ended.
        for row, place in zip(*xp.nonzero(ended[:, :width] & (scores[:, :width] > -math.inf)), strict=True):
            score = float(scores[row, place]) / n**settings.length_penalty
            _keep(finished[int(active[row])], Hypothesis(score, written[row, place]), width)
        if n == steps:
            break
        scores = xp.where(ended, -math.inf, scores)
        best = _largest(scores, width)
        scores, beam, token = (xp.take_along_axis(values, best, axis=1) for values in (scores, beam, token))
        written = xp.take_along_axis(written, best[:, :, None], axis=1)
        bests = scores[:, 0].tolist()
        going_on = [
            row
            for row, number in enumerate(active.tolist())
            if not _is_done(finished[number], bests[row], n, steps, settings)
        ]
        if not going_on:
            break
        reads = (xp.arange(rows)[:, None] * beams + beam)[going_on].reshape(-1)
        active, scores, written = active[going_on], scores[going_on], written[going_on]
        continuation.reorder(reads)
        unread = to_device(token[going_on].reshape(-1, 1), device)
    return finished


def _log_softmax(logits: Array) -> Array:
    check_finite(logits)
    xp = namespace(logits)
    logits = logits.astype(xp.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - xp.log(xp.exp(logits).sum(axis=1, keepdims=True))


def _largest(values: Array, count: int) -> Array:
    """Places of the `count` largest of each row (or of all there are), the largest first; (rows, count)."""
    xp = namespace(values)
    if count < values.shape[1]:
        places = xp.argpartition(-values, count - 1, axis=1)[:, :count]
        places.sort(axis=1)  # so that of equals the first comes first, as argmax has it
    else:
        places = xp.broadcast_to(xp.arange(values.shape[1]), values.shape)
    order = xp.argsort(-xp.take_along_axis(values, places, axis=1), axis=1, kind="stable")
    return xp.take_along_axis(places, order, axis=1)


def _keep(hypotheses: list[Hypothesis], new: Hypothesis, most: int) -> None:
    """Put `new` among the best, of which there are `most`."""
    hypotheses.append(new)
    hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
    del hypotheses[most:]


def _is_done(hypotheses: list[Hypothesis], best: float, n: int, steps: int, settings: BeamSettings) -> bool:
    """Whether a sequence need not be searched any more; `best` is the log-probability of its best beam."""
    if best == -math.inf:
        return True
    if len(hypotheses) < settings.num_beams:
        return False
    if settings.early_stopping is True:
        return True
    # A log-probability only falls. Divided by a growing length it may rise all the same, at most to this.
    longest = settings.early_stopping == "never" and settings.length_penalty > 0
    return best / (steps if longest else n) ** settings.length_penalty <= hypotheses[-1].score

"""Choosing the next token from logits, on the host."""

from __future__ import annotations

import math

from ..backend import Array, Generator, namespace, to_host
from ..errors import ConfigError, NonFiniteError, RangeError


def check_sampling(
    temperature: float, top_k: int | None, top_p: float | None, eos_token_id: int | None, vocab_size: int
) -> None:
    """Raise unless the settings of :meth:`BaseLanguageModel.generate` are in range.

    Raises
    ------
    ConfigError, RangeError
    """
    if not _is_number(temperature) or not 0 <= temperature < math.inf:
        raise ConfigError(f"generate: temperature must be a finite number >= 0 (0 is greedy), got {temperature!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ConfigError(f"generate: top_k must be an integer >= 1 or None, got {top_k!r}")
    if top_p is not None and (not _is_number(top_p) or not 0 < top_p <= 1):
        raise ConfigError(f"generate: top_p must be in (0, 1] or None, got {top_p!r}")
    if eos_token_id is not None and (
        isinstance(eos_token_id, bool) or not isinstance(eos_token_id, int) or not 0 <= eos_token_id < vocab_size
    ):
        raise RangeError(f"generate: eos_token_id must be an integer in [0, {vocab_size}), got {eos_token_id!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def keep_top_k(logits: Array, k: int) -> Array:
    """All but the `k` largest logits of each row set to -inf; ties with the k-th stay.

    Parameters
    ----------
    logits : (B, V)
    """
    xp = namespace(logits)
    if k >= logits.shape[1]:
        return logits
    threshold = xp.partition(logits, -k, axis=1)[:, -k, None]
    return xp.where(logits < threshold, -math.inf, logits)


def keep_top_p(logits: Array, p: float) -> Array:
    """Nucleus sampling (Holtzman et al., 2020): keep the fewest tokens whose probabilities reach `p`.

    Parameters
    ----------
    logits : (B, V)
    """
    xp = namespace(logits)
    order = xp.argsort(-logits, axis=1, kind="stable")
    descending = xp.take_along_axis(logits, order, axis=1)
    probs = xp.exp(descending - descending[:, :1])
    probs /= probs.sum(axis=1, keepdims=True)
    before = xp.cumsum(probs, axis=1) - probs  # a token is kept while those before it have not reached p
    kept = xp.where(before < p, descending, -math.inf)
    out = xp.empty_like(kept)
    xp.put_along_axis(out, order, kept, axis=1)
    return out


def check_finite(logits: Array) -> None:
    """Raise NonFiniteError if the largest logit of a row is NaN or infinite; -inf is a token that is never chosen.

    Parameters
    ----------
    logits : (B, V)
    """
    if not bool(namespace(logits).isfinite(logits.max(axis=1)).all()):
        raise NonFiniteError("generate: the logits of the next token are not finite; the weights hold NaN or infinity")


def choose_next(
    logits: Array,
    greedy: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: Generator,
) -> Array:
    """One token for each row of (B, V) logits on the host: (B,) int64.

    Raises
    ------
    NonFiniteError
        If the largest logit of a row is NaN or infinite. A logit of -inf is a token that is never chosen.
    """
    xp = namespace(logits)
    check_finite(logits)
    if greedy:
        return logits.argmax(axis=1).astype(xp.int64)
    logits = logits.astype(xp.float64)
    # The likeliest is 0 at any temperature; far below the limit all others have probability 0 already.
    scaled = (logits - logits.max(axis=1, keepdims=True)) / max(temperature, 1e-200)
    if top_k is not None:
        scaled = keep_top_k(scaled, top_k)
    if top_p is not None and top_p < 1:
        scaled = keep_top_p(scaled, top_p)
    probs = xp.exp(scaled)
    cumulative = xp.cumsum(probs, axis=1)
    draws = to_host([[generator.random()] for _ in range(len(logits))]) * cumulative[:, -1:]
    # The first token whose cumulative probability exceeds the draw; a token of probability 0 never is.
    return (cumulative <= draws).sum(axis=1).astype(xp.int64)

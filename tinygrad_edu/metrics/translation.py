"""How good translations are: the share that is exactly right, and BLEU."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, DataError


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of translations that are exactly the wanted one; space around them does not count.

    Parameters
    ----------
    hypotheses, references : sequence of str
        What was written, and what was wanted, in the same order.

    Raises
    ------
    DataError
        When there are none, or not as many of both.
    """
    _check(hypotheses, references)
    right = sum(one.strip() == other.strip() for one, other in zip(hypotheses, references, strict=True))
    return right / len(references)


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Return BLEU of all translations together, 0 to 100 (Papineni et al., 2002; as Post, 2018, has it).

    Counted by sacrebleu with its defaults: tokens as in 13a, case matters, one reference, exponential smoothing.
    On texts of few words it says little: one that is shorter than four words has no 4-gram.

    Parameters
    ----------
    hypotheses, references : sequence of str
        What was written, and what was wanted, in the same order.

    Raises
    ------
    ConfigError
        When sacrebleu is not installed.
    DataError
        When there are none, or not as many of both.
    """
    _check(hypotheses, references)
    try:
        import sacrebleu
    except ImportError as error:
        raise ConfigError(
            "bleu: sacrebleu is not installed; run `pip install 'tinygrad_edu[translation]'` or `pip install sacrebleu`"
        ) from error
    return float(sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    for name, texts in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{name}: wanted a list of texts")
    if len(hypotheses) != len(references):
        raise DataError(f"hypotheses: {len(hypotheses):,}, wanted as many as references, {len(references):,}")
    if not references:
        raise DataError("references: there are none, so nothing can be measured")

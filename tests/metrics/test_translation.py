"""Exact match by hand, BLEU as sacrebleu's and as the paper has it."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from tinygrad_edu.errors import ConfigError, DataError
from tinygrad_edu.metrics import bleu, exact_match

pytest.importorskip("sacrebleu")


def test_exact_match() -> None:
    assert exact_match(["a b", " c ", "d", "E"], ["a b", "c", "x", "e"]) == 0.5
    assert exact_match(["a"], ["a"]) == 1.0
    assert exact_match(["a"], ["b"]) == 0.0


def test_bleu_by_hand() -> None:
    """Where nothing fits, half a fit counts, then a quarter: exponential smoothing."""
    found, wanted = ["the cat sat on mats"], ["the cat sits on mats"]
    assert bleu(wanted, wanted) == pytest.approx(100)
    # 1-grams: the, cat, on, mats of 5; 2-grams: "the cat", "on mats" of 4; 3-grams 0 of 3; 4-grams 0 of 2.
    precisions = [4 / 5, 2 / 4, 1 / 2 / 3, 1 / 4 / 2]
    assert bleu(found, wanted) == pytest.approx(100 * math.prod(precisions) ** 0.25, rel=1e-6)


def test_short_translations_are_punished() -> None:
    wanted = ["one two three four five six seven eight"]
    short = ["one two three four five six"]
    assert bleu(short, wanted) == pytest.approx(100 * math.exp(1 - 8 / 6), rel=1e-6)


def test_bleu_counts_over_all_texts_together() -> None:
    found, wanted = ["a b c d e", "x y z v w"], ["a b c d e", "p q r s t"]
    assert bleu(found, wanted) == pytest.approx(100 * (5 / 10 * 4 / 8 * 3 / 6 * 2 / 4) ** 0.25, rel=1e-6)


@pytest.mark.parametrize("measure", [exact_match, bleu])
@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        (["a"], ["a", "b"], "hypotheses: 1, wanted as many as references, 2"),
        ([], [], "references: there are none"),
        ("ab", "ab", "hypotheses: wanted a list of texts"),
        ([1], ["a"], "hypotheses: wanted a list of texts"),
        (["a"], [None], "references: wanted a list of texts"),
    ],
)
def test_mistakes(measure: Any, found: Any, wanted: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        measure(found, wanted)
    assert message in str(caught.value)


def test_without_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(
        ConfigError, match=r"sacrebleu is not installed; run `pip install 'tinygrad_edu\[translation\]'`"
    ):
        bleu(["a"], ["a"])

"""The comparison with ``transformers``: formulas, data, agreement of both sides. Nothing here looks at a clock."""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    foundry = importlib.import_module("bench.foundry")
    process = importlib.import_module("bench.process")
    summary = importlib.import_module("bench.summary")
    transformer = importlib.import_module("bench.transformer")
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

GPT2 = foundry.Published("gpt2", vocab=50, batch=3, time=10, width=8, layers=2, heads=2)
BERT = replace(GPT2, kind="bert")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "t5"}, "kind must be one of gpt2, bert, got 't5'"),
        ({"heads": 3}, "width must be divisible by heads, got 8 and 3"),
        ({"time": 1025}, "time must be between 2 and gpt2's 1024, got 1025"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_a_wrong_workload_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GPT2, **change)


@pytest.mark.parametrize("w", [GPT2, BERT], ids=lambda w: w.kind)
def test_flops_are_those_of_every_product_of_the_step(w: object) -> None:
    """Added up product by product, and what a token may see pair by pair."""
    rows = 30
    block = 2 * rows * 8 * 24 + 2 * rows * 8 * 8  # queries, keys and values; output projection
    block += 2 * (2 * rows * 8 * 32)  # feed-forward part
    pairs = sum(1 for t in range(10) for s in range(10) if w.kind == "bert" or s <= t)
    block += 2 * (2 * 3 * 2 * pairs * 4)  # scores, and the weighted sum
    labelled = round(0.15 * rows)
    head = 2 * rows * 8 * 50 if w.kind == "gpt2" else 2 * labelled * 8 * 8 + 2 * labelled * 8 * 50
    assert w.flops == 3 * (2 * block + head)


def test_batches_of_bert_hide_what_their_labels_tell() -> None:
    w = replace(BERT, vocab=500)
    (ids, labels), (again, _) = w.batches(1)[0], w.batches(1)[0]
    assert (ids == again).all()
    chosen = labels != -100
    assert chosen.sum() == w.labels == round(0.15 * w.tokens)
    assert (ids[chosen] == 103).all()
    assert (labels[chosen] != 103).any()
    assert ids.min() > 0  # 0 would be padding


def test_batches_of_gpt2_have_their_ids_as_labels() -> None:
    first, second = GPT2.batches(2)
    assert (first[0] == first[1]).all()
    assert (first[0] != second[0]).any()


#: So that dropout, were it not put aside, would be seen, and clipping is at work.
HARD = {"dropout": 0.3, "clip_norm": 0.5, "initializer_range": 0.1}


def check_training(agreement: dict) -> None:
    assert agreement["largest_relative_difference"]["losses"] < 1e-5
    assert min(agreement["ours"]["grad_norms"]) > HARD["clip_norm"]
    assert len(set(agreement["ours"]["losses"])) == transformer.AGREEMENT_STEPS


def test_both_sides_train_the_same_bert(tmp_path: Path) -> None:
    """Three steps from the weights that our side saved."""
    pytest.importorskip("transformers")
    w = replace(BERT, **HARD)
    job = transformer.Plan(w).job("losses", steps=transformer.AGREEMENT_STEPS, weights=str(tmp_path / "weights"))
    ours, theirs = (process.run_worker(module, job) for module in w.modules)
    check_training(summary.check_agreement(ours, theirs, "float32"))


def test_both_sides_train_the_same_gpt2_and_are_timed() -> None:
    pytest.importorskip("transformers")
    w = replace(GPT2, **HARD)
    record = transformer.run(transformer.Plan(w, pairs=1, steps=2, warmup=1), lambda now: None)
    check_training(record["agreement"])
    assert record["benchmark"] == "gpt2"
    assert record["model_flops_per_step"] == w.flops
    assert [len(record["runs"][side][0]["seconds"]) for side in ("ours", "torch")] == [2, 2]
    assert {run["parameters"] for own in record["runs"].values() for run in own} == {10352}
    assert record["facts"]["torch"]["versions"].keys() == {"torch", "transformers"}


def test_both_sides_write_the_same_text() -> None:
    pytest.importorskip("transformers")
    model = replace(GPT2, vocab=200, width=32, initializer_range=0.5)
    plan = foundry.Writing(model, prompt=3, tokens=20, repeats=2, pairs=1)
    record = foundry.run_writing(plan, lambda now: None)
    foundry.check_partings(record["partings"])
    assert min(record["distinct"]) > 5  # the text depends on more than its last token
    assert [len(record["runs"][side][0]["seconds"]) for side in ("ours", "torch")] == [2, 2]
    assert "texts" not in record["runs"]["ours"][0]


def test_a_wrong_token_is_no_tie(tmp_path: Path) -> None:
    plan = foundry.Writing(replace(GPT2, initializer_range=0.5), prompt=3, tokens=8, repeats=1)
    job = {"writing": asdict(plan), "weights": str(tmp_path / "weights")}
    process.run_worker("foundry_ours", {**job, "job": "save"})
    text = process.run_worker("foundry_ours", {**job, "job": "write"})["texts"][0]
    wrong = [*text[:6], (text[6] + 1) % 50, *text[7:]]
    found = process.run_worker("foundry_ours", {**job, "job": "partings", "pairs": [(text, wrong)]})["partings"]
    assert found[0]["position"] == 6
    with pytest.raises(process.BenchmarkError, match="different tokens, first at position 6"):
        foundry.check_partings(found)
    foundry.check_partings([{"position": 6, "relative_gap_of_logits": 1e-6}])


def test_differing_texts_are_found_once() -> None:
    ours = [{"texts": [[1, 2, 3], [4, 5, 6]]}] * 2
    theirs = [{"texts": [[1, 2, 3], [4, 5, 7]]}] * 2
    assert foundry.differing(ours, ours, 3) == []
    assert foundry.differing(ours, theirs, 3) == [([4, 5, 6], [4, 5, 7])]
    with pytest.raises(process.BenchmarkError, match="ours wrote a text of 3 tokens where 4 were asked for"):
        foundry.differing(ours, theirs, 4)


def test_time_texts_leaves_out_the_first_prompt() -> None:
    prompts = np.arange(3).reshape(3, 1, 1)
    found = foundry.time_texts(lambda prompt: np.concatenate([prompt, prompt + 7], axis=1), prompts)
    assert found["texts"] == [[0, 7], [1, 8], [2, 9]]
    assert len(found["seconds"]) == 2


def test_a_text_must_fit_the_model() -> None:
    with pytest.raises(ValueError, match="prompt and tokens together must be <= 1024, got 1030"):
        foundry.Writing(GPT2, prompt=30, tokens=1000)

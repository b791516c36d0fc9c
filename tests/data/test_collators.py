"""Collators: what is padded, what is predicted, how often what is masked, and clear errors."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_edu.data import (
    CausalLMDataCollator,
    MaskedLMDataCollator,
    Seq2SeqDataCollator,
    get_data_collator,
    train_bpe,
    train_wordpiece,
)
from tinygrad_edu.errors import ConfigError, DataError, DtypeError, RangeError, ShapeError

from .conftest import TEXTS

PIECES = train_wordpiece(TEXTS, 120)  # [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4
PLAIN = train_bpe(TEXTS, 300)  # <|endoftext|> 0, no padding
LAST = PIECES.vocab_size - 1


# -- causal -----------------------------------------------------------------------------------------------


def test_causal_batches_are_padded_and_nothing_is_predicted_there():
    batch = CausalLMDataCollator(9)([[5, 6, 7], np.array([8], np.uint16), [9, 9]])
    assert {name: array.dtype for name, array in batch.items()} == dict.fromkeys(batch, np.dtype(np.int64))
    np.testing.assert_array_equal(batch["input_ids"], [[5, 6, 7], [8, 9, 9], [9, 9, 9]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    # A 9 that is text is predicted, a 9 that is padding is not.
    np.testing.assert_array_equal(batch["labels"], [[5, 6, 7], [8, -100, -100], [9, 9, -100]])


@given(st.lists(st.lists(st.integers(0, 99), min_size=2, max_size=9), min_size=1, max_size=5), st.integers(1, 8))
def test_any_examples_come_back_out_of_their_batch(examples, multiple):
    batch = CausalLMDataCollator(0, pad_to_multiple_of=multiple)(examples)
    width = max(map(len, examples))
    assert batch["input_ids"].shape == (len(examples), -(-width // multiple) * multiple)
    for row, mask, labels, example in zip(
        *(batch[k] for k in ("input_ids", "attention_mask", "labels")), examples, strict=True
    ):
        assert row[mask == 1].tolist() == labels[labels != -100].tolist() == example
        assert (np.diff(mask) <= 0).all()  # padding stands at the end


def test_fields_that_examples_bring_are_kept():
    examples = [
        {"labels": [-100, 6], "input_ids": [5, 6], "attention_mask": [1, 1], "token_type_ids": [0, 1]},
        {"attention_mask": [0, 1, 1], "input_ids": [5, 6, 7], "labels": [5, 6, -100], "token_type_ids": [0, 0, 1]},
    ]
    batch = CausalLMDataCollator(0)(examples)
    np.testing.assert_array_equal(batch["labels"], [[-100, 6, -100], [5, 6, -100]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(batch["token_type_ids"], [[0, 1, 0], [0, 0, 1]])
    for example in examples:
        del example["labels"]
    np.testing.assert_array_equal(CausalLMDataCollator(0)(examples)["labels"], [[5, 6, -100], [-100, 6, 7]])


def test_examples_are_cut_at_max_length():
    batch = CausalLMDataCollator(0, max_length=4, pad_to_multiple_of=4)([list(range(9)), [1, 2]])
    np.testing.assert_array_equal(batch["input_ids"], [[0, 1, 2, 3], [1, 2, 0, 0]])


def test_without_a_pad_token_only_equal_lengths_will_do():
    collator = CausalLMDataCollator(PLAIN)
    assert collator([[1, 2], [3, 4]])["attention_mask"].all()
    with pytest.raises(ConfigError, match="has no pad token, but the examples have several lengths.*pad_token_id="):
        collator([[1, 2], [3]])
    with pytest.raises(ConfigError, match="has no pad token.*no multiple of pad_to_multiple_of"):
        CausalLMDataCollator(PLAIN, pad_to_multiple_of=4)([[1, 2], [3, 4]])
    with pytest.raises(ConfigError, match="pad_token_id: None, but the examples have several lengths"):
        CausalLMDataCollator()([[1, 2], [3]])
    batch = CausalLMDataCollator(PLAIN, pad_token_id=PLAIN.eos_token_id)([[1, 0], [3]])
    np.testing.assert_array_equal(batch["labels"], [[1, 0], [3, -100]])


@pytest.mark.parametrize(
    ("examples", "kind", "message"),
    [
        ([], DataError, "examples: the batch is empty"),
        (5, ConfigError, "examples: int, wanted a list of examples"),
        ("text", ConfigError, "examples: str, wanted a list"),
        ([[1, 2], []], DataError, "example 1: has no tokens"),
        ([[1], [2]], DataError, "none has 2 tokens or more: one to predict from, one to predict"),
        ([[1, 2], [1.0, 2.0]], DtypeError, "example 1: input_ids: dtype float64, wanted integers"),
        ([[1, 2], [[1], [2]]], ShapeError, r"example 1: input_ids: shape \(2, 1\), wanted one axis \(time,\)"),
        ([[1, [2]]], ShapeError, "example 0: input_ids: "),
        ([[1, -1]], RangeError, f"example 0: input_ids: -1 at position 1, wanted 0 to {LAST}"),
        ([[1, 2], [0, LAST + 1]], RangeError, f"example 1: input_ids: {LAST + 1} at position 1, wanted 0 to {LAST}"),
        (
            [{"input_ids": [1, 2], "labels": [1, -5]}],
            RangeError,
            f"example 0: labels: -5 at position 1, wanted 0 to {LAST} or -100",
        ),
        (
            [{"input_ids": [1, 2], "attention_mask": [1, 2]}],
            RangeError,
            "attention_mask: 2 at position 1, wanted 0 to 1",
        ),
        ([{"labels": [1], "input_ids": [1, 2]}], ShapeError, "example 0: labels has length 1, input_ids 2"),
        ([{"ids": [1, 2]}], DataError, r"example 0: fields \['ids'\], wanted input_ids and at most"),
        ([[1, 2], {"input_ids": [1, 2], "labels": [1, 2]}], DataError, "example 1: fields .*, the first has"),
    ],
)
def test_examples_that_are_refused(examples, kind, message):
    with pytest.raises(kind, match=message):
        CausalLMDataCollator(PIECES)(examples)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CausalLMDataCollator("gpt2"), "tokenizer: str, wanted a tinygrad_edu.data.Tokenizer"),
        (lambda: CausalLMDataCollator(-1), "pad_token_id: -1, wanted an integer of at least 0"),
        (
            lambda: CausalLMDataCollator(0, pad_to_multiple_of=0),
            "pad_to_multiple_of: 0, wanted an integer of at least 1",
        ),
        (lambda: CausalLMDataCollator(0, max_length=2.5), "max_length: 2.5, wanted an integer"),
        (lambda: CausalLMDataCollator(0, max_length=10, pad_to_multiple_of=8), "10 is no multiple of .* 8"),
        (lambda: MaskedLMDataCollator(PLAIN), "has no mask token, which masked language modelling needs; train it"),
        (lambda: MaskedLMDataCollator(0), "tokenizer: 0, wanted a tinygrad_edu.data.Tokenizer with a mask token"),
        (lambda: MaskedLMDataCollator(PIECES, 0), "mlm_probability: 0, wanted a number above 0, at most 1"),
        (lambda: MaskedLMDataCollator(PIECES, 1.1), "mlm_probability: 1.1, wanted"),
        (lambda: MaskedLMDataCollator(PIECES, math.nan), "mlm_probability: nan, wanted"),
        (lambda: MaskedLMDataCollator(PIECES, "0.15"), "mlm_probability: '0.15', wanted"),
        (
            lambda: MaskedLMDataCollator(PIECES, mask_replace_prob=-0.1),
            "mask_replace_prob: -0.1, wanted a number from 0",
        ),
        (
            lambda: MaskedLMDataCollator(PIECES, random_replace_prob=0.3),
            "0.8 and random_replace_prob 0.3 add up to more",
        ),
        (lambda: MaskedLMDataCollator(PIECES, seed=-1), "seed: -1, wanted an integer of at least 0"),
        (lambda: Seq2SeqDataCollator(0), "eos_token_id: None, wanted the id that ends a target"),
        (lambda: Seq2SeqDataCollator(PIECES), "has no eos token, which a target that ends needs"),
        (lambda: get_data_collator({"objective": "gan"}, PIECES), "objective: 'gan', wanted causal_lm, masked_lm or"),
    ],
)
def test_collators_that_cannot_be(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


# -- masked -----------------------------------------------------------------------------------------------


def rates(collator, rows=2000, width=64):
    """Mask a great deal of text, and count: eligible, chosen, masked, replaced by another, unchanged."""
    draw = np.random.default_rng(1)
    true = PIECES.ordinary_token_ids()[draw.integers(len(PIECES.ordinary_token_ids()), size=(rows, width))]
    true[:, 0], true[:, -1] = PIECES.cls_token_id, PIECES.sep_token_id
    batch = collator([{"input_ids": row, "attention_mask": np.arange(width) < width - 7} for row in true])
    found, labels = batch["input_ids"], batch["labels"]
    chosen = labels != -100
    assert not chosen[:, [0, -1]].any() and not chosen[:, -7:].any()  # special tokens and padding
    np.testing.assert_array_equal(labels[chosen], true[chosen])
    np.testing.assert_array_equal(found[~chosen], true[~chosen])  # nothing else is touched
    masked = found[chosen] == PIECES.mask_token_id
    other = ~masked & (found[chosen] != true[chosen])
    assert not np.isin(found[chosen][other], PIECES.special_token_ids).any()
    n_eligible = rows * (width - 8)
    return n_eligible, int(chosen.sum()), int(masked.sum()), int(other.sum())


def within(count, n, share, sigmas=5):
    """Say whether `count` of `n` can be expected of a chance `share`: 5 standard deviations are 1 in 1.7 million."""
    return abs(count - n * share) <= sigmas * math.sqrt(n * share * (1 - share))


@pytest.mark.parametrize(
    ("probability", "mask", "random"), [(0.15, 0.8, 0.1), (0.4, 0.5, 0.5), (0.15, 1.0, 0.0), (0.15, 0.0, 0.2)]
)
def test_rates_of_masking(probability, mask, random):
    settings = {"mask_replace_prob": mask, "random_replace_prob": random, "seed": 3}
    eligible, chosen, masked, other = rates(MaskedLMDataCollator(PIECES, probability, **settings))
    assert within(chosen, eligible, probability)
    assert within(masked, chosen, mask)
    ordinary = len(PIECES.ordinary_token_ids())
    assert within(other, chosen, random * (1 - 1 / ordinary))  # a random token may be the same one


def test_the_statistics_notice_rates_that_are_slightly_off():
    eligible, chosen, masked, other = rates(MaskedLMDataCollator(PIECES, 0.16, mask_replace_prob=0.82))
    assert not within(chosen, eligible, 0.15)
    assert not within(masked, chosen, 0.8)
    assert not within(other, chosen, 0.12)


def test_random_tokens_are_uniform_over_the_ordinary_ones():
    collator = MaskedLMDataCollator(PIECES, 1.0, mask_replace_prob=0, random_replace_prob=1)
    ids = PIECES.ordinary_token_ids()
    found = collator(np.full((400, 500), ids[0]))["input_ids"]
    counts = np.bincount(found.ravel(), minlength=PIECES.vocab_size)
    assert not counts[list(PIECES.special_token_ids)].any()
    assert all(within(count, found.size, 1 / len(ids)) for count in counts[ids])


def test_draws_follow_from_the_seed_and_the_number_of_calls():
    rows = np.full((8, 32), 7)
    first, same, other = (MaskedLMDataCollator(PIECES, seed=seed) for seed in (5, 5, 6))
    a, b = first(rows), first(rows)
    np.testing.assert_array_equal(a["input_ids"], same(rows)["input_ids"])
    assert not np.array_equal(a["labels"], b["labels"]) and not np.array_equal(a["labels"], other(rows)["labels"])
    np.testing.assert_array_equal(MaskedLMDataCollator(PIECES, seed=5)(rows)["labels"], a["labels"])


def test_going_on_draws_the_same():
    rows = np.full((8, 32), 7)
    first, again = MaskedLMDataCollator(PIECES, seed=5), MaskedLMDataCollator(PIECES, seed=5)
    for _ in range(3):
        first(rows)
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for _ in range(3):
        wanted, found = first(rows), again(rows)
        for name in wanted:
            np.testing.assert_array_equal(wanted[name], found[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "collator state comes from other data or settings: seed 1, this collator has 0"),
        ({"mlm_probability": 0.2}, "mlm_probability 0.2, this collator has 0.15"),
        ({"calls": -1}, "collator state: calls is -1, wanted an integer of at least 0"),
        ({"more": 1}, "collator state: fields"),
    ],
)
def test_a_state_that_does_not_fit(change, message):
    collator = MaskedLMDataCollator(PIECES)
    with pytest.raises(DataError, match=message):
        collator.load_state_dict({**collator.state_dict(), **change})
    assert collator.calls == 0


def test_a_batch_in_which_chance_chooses_none_has_one_all_the_same():
    collator = MaskedLMDataCollator(PIECES, 1e-9)
    where = set()
    for _ in range(60):
        labels = collator([[2, 9, 10, 3], [2, 11, 3]])["labels"]
        assert (labels != -100).sum() == 1
        where |= set(map(tuple, np.argwhere(labels != -100)))
    assert where == {(0, 1), (0, 2), (1, 1)}  # any token that is not special


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([[2, 3], [2, 4, 3]], "no token can be masked, as all are special or padding"),
        ([{"input_ids": [2, 9], "attention_mask": [1, 0]}], "no token can be masked"),
        ([{"input_ids": [2, 9], "labels": [2, 9]}], "have labels, which masking makes itself"),
        ([], "the batch is empty"),
    ],
)
def test_batches_that_cannot_be_masked(examples, message):
    collator = MaskedLMDataCollator(PIECES)
    with pytest.raises(DataError, match=message):
        collator(examples)
    assert collator.calls == 0  # a batch that failed draws nothing


def test_the_input_is_not_changed():
    rows = np.full((4, 16), 7)
    MaskedLMDataCollator(PIECES, 1.0)(rows)
    assert (rows == 7).all()


# -- sequence to sequence ---------------------------------------------------------------------------------


def test_targets_end_and_each_side_has_its_own_length():
    batch = Seq2SeqDataCollator(0, eos_token_id=1, bos_token_id=2)(
        [([5, 6, 7], [8]), {"input_ids": [5], "labels": [8, 9, 1]}]
    )
    np.testing.assert_array_equal(batch["input_ids"], [[5, 6, 7], [5, 0, 0]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1], [1, 0, 0]])
    np.testing.assert_array_equal(batch["labels"], [[8, 1, -100], [8, 9, 1]])
    np.testing.assert_array_equal(batch["decoder_input_ids"], [[2, 8, 1], [2, 8, 9]])


def test_texts_are_encoded():
    tokenizer = train_bpe(TEXTS, 300, special_tokens=("<pad>", "<s>", "</s>"))
    batch = Seq2SeqDataCollator(tokenizer)([("the cat", "le chat"), ("a", "b c")])
    assert "decoder_input_ids" not in batch
    assert tokenizer.decode(batch["input_ids"][0]) == "the cat"
    assert batch["labels"][0].tolist() == [*tokenizer.encode("le chat"), tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("examples", "kind", "message"),
    [
        ([([1], [2]), ([], [2])], DataError, "example 1: has no tokens"),
        ([[1, 2, 3]], DataError, r"example 0: list, wanted a pair \(source, target\)"),
        ([{"input_ids": [1]}], DataError, r"example 0: fields \['input_ids'\], wanted input_ids and labels"),
        ([("a", [2])], DtypeError, "example 0: source: is a text, wanted ids, as there is no tokenizer"),
        ([([1], [2.5])], DtypeError, "example 0: target: dtype float64"),
        ([([1], [-3])], RangeError, "example 0: target: -3 at position 0, wanted 0 or more"),
        ([], DataError, "the batch is empty"),
    ],
)
def test_pairs_that_are_refused(examples, kind, message):
    with pytest.raises(kind, match=message):
        Seq2SeqDataCollator(0, eos_token_id=1)(examples)


# -- by configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"training": {"objective": "masked_lm", "mlm_probability": 0.3, "seed": 4}},
        {"objective": "masked_lm", "mlm_probability": 0.3, "seed": 4},
        SimpleNamespace(training=SimpleNamespace(objective="masked_lm", mlm_probability=0.3, seed=4)),
        SimpleNamespace(objective="masked_lm", mlm_probability=0.3, seed=4),
    ],
)
def test_the_collator_of_a_configuration(config):
    collator = get_data_collator(config, PIECES)
    assert isinstance(collator, MaskedLMDataCollator)
    assert (collator.mlm_probability, collator.seed) == (0.3, 4)


def test_other_objectives():
    assert isinstance(get_data_collator({}, PLAIN), CausalLMDataCollator)
    assert get_data_collator({"objective": "masked_lm"}, PIECES).mlm_probability == 0.15
    assert isinstance(get_data_collator({"objective": "translation"}, PLAIN), Seq2SeqDataCollator)

"""BERT besides its parity with transformers: what it refuses, what it keeps, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, DtypeError, RangeError, ShapeError
from tinygrad_edu.layers import Embedding
from tinygrad_edu.models import BertConfig, BertForMaskedLM, BertModel
from tinygrad_edu.models.bert import BertPooler
from tinygrad_edu.optim import AdamW

SMALL: dict[str, Any] = {
    "vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
    "max_position_embeddings": 8,
}  # fmt: skip


def build(**changes: Any) -> BertForMaskedLM:
    return BertForMaskedLM({**SMALL, **changes})


def batch(seed: int = 0, time: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 30, (3, time))


# -- the config -----------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_bert_base() -> None:
    with tg.backend.outline():
        model = BertForMaskedLM({})
    assert model.num_parameters() == 109_514_298  # transformers' BertForMaskedLM has as many


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 13}, "hidden_size must be divisible by num_attention_heads, got 13 and 2"),
        ({"pad_token_id": 30}, "pad_token_id must be below vocab_size 30, got 30; give None if there is none"),
        ({"pad_token_id": -1}, "pad_token_id must be an integer >= 0"),
        ({"hidden_act": "mish"}, "hidden_act must be one of gelu_new"),
        ({"type_vocab_size": 0}, "type_vocab_size must be an integer >= 1"),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob must be a number in \[0, 1\)"),
        ({"n_layer": 3}, "unknown key 'n_layer'"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**changes)


# -- initial weights ------------------------------------------------------------------------------------------


def test_the_start_is_berts() -> None:
    model = build(hidden_size=64, intermediate_size=128, vocab_size=500, initializer_range=0.05, pad_token_id=3,
                  tie_word_embeddings=False, add_pooling_layer=True)  # fmt: skip
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert np.all(parameter.data == (1 if name.endswith("weight") else 0)), name
        elif name.endswith("bias"):
            assert not np.any(parameter.data), name
        else:
            assert parameter.data.std() == pytest.approx(0.05, rel=0.1), name
    assert not np.any(model.bert.word_embeddings.weight.data[3])
    assert model.decoder.weight is not model.bert.word_embeddings.weight


def test_the_seed_says_all() -> None:
    one, two, other = build(), build(), build(seed=1)
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.data, b.data, err_msg=name)
    assert np.any(one.head_weight.data != other.head_weight.data)


# -- what it refuses ------------------------------------------------------------------------------------------


def test_it_does_not_generate_and_says_why() -> None:
    for call in (build().generate, build().stream):
        with pytest.raises(ConfigError, match="bert cannot generate: it learned masked_lm, with both sides of a token"):
            call(batch(), max_new_tokens=1)


def test_it_wants_labels() -> None:
    model = build()
    for call in (model.forward_backward, model.train_step, model.token_losses):
        with pytest.raises(ConfigError, match="labels: bert learns masked_lm and needs labels"):
            call(batch())


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        (
            {"token_type_ids": batch() * 0 + 2},
            RangeError,
            r"token_type_ids: ids must be in \[0, 2\), got 2 at position",
        ),
        ({"token_type_ids": batch() * 0 - 1}, RangeError, r"token_type_ids: ids must be in \[0, 2\), got -1"),
        ({"token_type_ids": batch() * 0.5}, DtypeError, "token_type_ids: ids must be integers, got float64"),
        ({"token_type_ids": batch()[:, 1:]}, ShapeError, r"token_type_ids must have the shape of input_ids, \(3, 7\)"),
        ({"position_ids": batch() * 0 + 8}, RangeError, r"position_ids: ids must be in \[0, 8\), got 8"),
        ({"position_ids": np.arange(7)}, ShapeError, r"position_ids must have the shape of input_ids"),
        ({"labels": batch() + 25}, RangeError, r"targets must be in \[0, 30\)"),
        ({"labels": batch()[:2]}, ShapeError, r"labels must have the shape of input_ids, got"),
        ({"segments": batch()}, ConfigError, "bert takes no 'segments'; it takes .*token_type_ids, position_ids"),
    ],
)
def test_inputs_that_are_refused(more: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build().forward(batch(), **more)


def test_a_sequence_that_is_too_long() -> None:
    with pytest.raises(ShapeError, match="sequence of length 9 is longer than max_seq_len 8"):
        build().forward(batch(time=9))


def test_a_batch_without_a_masked_token() -> None:
    with pytest.raises(ConfigError, match="every label of the batch is -100"):
        build().train_step(batch(), batch() * 0 - 100)


# -- the encoder by itself ------------------------------------------------------------------------------------


def encoder(**changes: Any) -> BertModel:
    return BertModel(
        {**SMALL, "dtype": "float64", "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0, **changes}
    )


@pytest.mark.parametrize("given", ["sequence", "pooled", "both"])
def test_the_gradient_of_both_outputs(given: str) -> None:
    """Central differences of a random direction through all parameters."""
    model, rng = encoder(add_pooling_layer=True, pad_token_id=None), np.random.default_rng(3)
    for parameter in model.parameters():
        parameter.data += rng.normal(scale=0.3, size=parameter.shape)
    ids, segments = batch(), rng.integers(0, 2, (3, 7))
    sequence, pooled = model(ids, token_type_ids=segments)
    dsequence = rng.normal(size=sequence.shape) if given != "pooled" else None
    dpooled = rng.normal(size=pooled.shape) if given != "sequence" else None
    model.backward(dsequence, dpooled)
    assert all(not layer._saved for layer in model.layers())
    start = [parameter.data.copy() for parameter in model.parameters()]
    direction = [rng.normal(size=parameter.shape) for parameter in model.parameters()]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(model.parameters(), direction, strict=True))

    def value(step: float) -> float:
        for parameter, at, d in zip(model.parameters(), start, direction, strict=True):
            parameter.data[...] = at + step * d
        with tg.inference():
            one, two = model(ids, token_type_ids=segments)
        return sum(float((y * dy).sum()) for y, dy in ((one, dsequence), (two, dpooled)) if dy is not None)

    h = 1e-4
    numeric = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    assert slope == pytest.approx(numeric, rel=1e-7)


def test_what_its_backward_refuses() -> None:
    model = encoder()
    sequence, pooled = model(batch())
    assert pooled is None
    with pytest.raises(ConfigError, match="give dsequence, dpooled, or both"):
        model.backward(None)
    with pytest.raises(ConfigError, match="got dpooled, but there is no pooler"):
        model.backward(sequence, np.zeros((3, 12)))
    model.backward(sequence)


def test_the_pooler_reads_the_first_token_alone() -> None:
    pooler = BertPooler(5).astype("float64")
    x = np.random.default_rng(0).normal(size=(2, 3, 5))
    report = tg.check.layer(pooler, x)
    assert report.ok, report
    pooler(x)
    dx = pooler.backward(np.ones((2, 5)))
    assert not np.any(dx[:, 1:])


# -- padding --------------------------------------------------------------------------------------------------


def test_an_embedding_with_padding_has_torchs_gradients() -> None:
    torch = pytest.importorskip("torch")
    ours = Embedding(6, 4, std=1.0, padding_idx=2).astype("float64")
    theirs = torch.nn.Embedding(6, 4, padding_idx=2, dtype=torch.float64)
    assert not np.any(ours.weight.data[2])
    theirs.load_state_dict({name: torch.tensor(value) for name, value in ours.state_dict().items()})
    ids, dy = np.array([[2, 1, 5], [1, 2, 2]]), np.random.default_rng(0).normal(size=(2, 3, 4))
    theirs(torch.tensor(ids)).backward(torch.tensor(dy))
    ours(ids)
    ours.backward(dy)
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=1e-12)
    assert "padding_idx=2" in repr(ours)
    assert not np.any(ours.weight.grad[2])
    assert np.all(dy != 0)


@pytest.mark.parametrize("index", [-1, 6])
def test_an_embedding_has_the_row_of_its_padding(index: int) -> None:
    with pytest.raises(ConfigError, match=rf"padding_idx must be in \[0, 6\), got {index}"):
        Embedding(6, 4, padding_idx=index)


def test_what_stands_at_padding_changes_nothing() -> None:
    model = build(dtype="float64").eval()
    ids, mask = batch(), np.array([[1] * 7, [1] * 4 + [0] * 3, [0] * 2 + [1] * 5])
    other = np.where(mask == 1, ids, 0)
    with tg.inference():
        one, two = (model.forward(x, attention_mask=mask).logits for x in (ids, other))
        alone = model.forward(ids[1:2, :4]).logits
    np.testing.assert_allclose(one[mask == 1], two[mask == 1], rtol=1e-12)
    np.testing.assert_allclose(one[1, :4], alone[0], rtol=1e-9)


# -- training -------------------------------------------------------------------------------------------------


def masked(ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    hidden = rng.random(ids.shape) < 0.3
    hidden[:, 3] = True
    return np.where(hidden, 29, ids), np.where(hidden, ids, -100)


def test_it_learns_to_fill_gaps() -> None:
    """Sequences count upwards: a gap is known from either side."""
    model = build(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, hidden_size=32, intermediate_size=64)
    model.optimizer = AdamW(model, lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(1, 20, (16, 1)) + np.arange(8)
        model.train_step(*masked(ids, rng))
    ids = np.arange(1, 20)[:, None] + np.arange(8)
    inputs, labels = masked(ids, rng)
    _, correct = model.token_losses(inputs, labels)
    assert correct[labels != -100].mean() > 0.9


def test_checkpointing_gives_the_same_gradients_bit_for_bit() -> None:
    plain, kept = build(), build(checkpointing=True)
    segments = np.random.default_rng(5).integers(0, 2, (3, 7))
    for model in (plain, kept):
        for _ in range(2):  # dropout is on, and its generator goes on alike
            model.train_step(batch(), batch(1), token_type_ids=segments)
    np.testing.assert_array_equal(plain.flat.grad, kept.flat.grad)
    np.testing.assert_array_equal(plain.flat.data, kept.flat.data)


def test_parts_of_a_batch_add_up() -> None:
    model = build(dtype="float64", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ids, (inputs, labels) = batch(), masked(batch(), np.random.default_rng(2))
    model.forward_backward(inputs, labels)
    whole = model.flat.grad.copy()
    model.zero_grad()
    total = model.count_targets(inputs, labels)
    for row in range(len(ids)):
        model.forward_backward(inputs[row : row + 1], labels[row : row + 1], divisor=total)
    np.testing.assert_allclose(model.flat.grad, whole, rtol=1e-12, atol=1e-15)


def test_a_checkpoint_goes_on_where_it_was(tmp_path: Any) -> None:
    model = build()
    model.train_step(batch(), batch(1))
    again = BertForMaskedLM.load_checkpoint(model.save_checkpoint(tmp_path))
    assert again.train_step(batch(2), batch(3)) == model.train_step(batch(2), batch(3))
    np.testing.assert_array_equal(again.flat.data, model.flat.data)


def test_a_config_may_be_itself() -> None:
    config = BertConfig(**SMALL)
    assert BertForMaskedLM(config).config is config

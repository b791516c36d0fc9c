"""More and fewer token ids: what stays, what is new, and what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError, RangeError
from tinygrad_edu.models import BaseLanguageModel, GPT2Config, available_architectures, create_model, from_pretrained
from tinygrad_edu.optim import SGD, AdamW

from .test_pretrained import build

#: Architecture, and settings that make its head another parameter than its embedding.
UNTIED = {
    "custom_transformer": {"tied_head": False},
    "gpt2": {"tie_word_embeddings": False},
    "bert": {"tie_word_embeddings": False},
    **{name: {"tied_head": False} for name in ("lstm", "gru", "rnn")},
}
CASES = [(name, {}) for name in available_architectures()] + list(UNTIED.items())


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    return case[0] + ("-untied" if case[1] else "")


def tables(model: BaseLanguageModel) -> dict[str, np.ndarray]:
    """The parameters with a row for each token, by name."""
    return {name: p.data.copy() for name, p in model.named_parameters() if p.shape[0] == model.vocab_size}


def batch(vocab: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, (3, 7))


@pytest.mark.parametrize("size", [23, 41])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_rows_are_kept_and_all_else_is_untouched(case: tuple[str, dict[str, Any]], size: int) -> None:
    name, changes = case
    model = build(name, vocab_size=29, **changes)  # no other parameter has as many rows
    for parameter in model.parameters():  # biases too
        parameter.data += np.random.default_rng(1).normal(size=parameter.shape).astype("float32")
    before = {key: p.data.copy() for key, p in model.named_parameters()}
    resized = tables(model)
    embedding = model.resize_token_embeddings(size)
    assert embedding is model.get_input_embeddings()
    assert embedding.num_embeddings == len(embedding.weight.data) == model.vocab_size == model.config.vocab_size == size
    assert len(model.head_weight.data) == size
    if name in UNTIED:
        assert (model.head_weight is embedding.weight) == (not changes)
    kept = min(29, size)
    for key, parameter in model.named_parameters():
        if key in resized:
            assert len(parameter.data) == size
            np.testing.assert_array_equal(parameter.data[:kept], before[key][:kept], err_msg=key)
        else:
            np.testing.assert_array_equal(parameter.data, before[key], err_msg=key)
    ids = batch(size)
    model.eval()
    assert model.forward(ids, labels=ids).logits.shape == (3, 7, size)
    with pytest.raises(RangeError, match=rf"in \[0, {size}\)"):
        model.forward(ids * 0 + size, labels=ids)
    model.clear_saved()


def test_every_architecture_with_a_table_has_one_row_in_the_cases() -> None:
    assert {"gpt2", "bert", "lstm", "custom_transformer"} <= {name for name, _ in CASES}


@pytest.mark.parametrize("name", ["gpt2", "bert", "custom_transformer", "lstm"])
@pytest.mark.parametrize("std", [0.02, 0.5])
def test_new_rows_are_drawn_as_at_the_start_and_new_biases_are_zero(name: str, std: float) -> None:
    key = "initializer_range" if name in ("gpt2", "bert") else "init_std"
    model = build(name, **{key: std})
    model.resize_token_embeddings(30 + 4000)
    new = model.get_input_embeddings().weight.data[30:]
    assert new.std() == pytest.approx(std, rel=0.02)
    assert new.mean() == pytest.approx(0, abs=0.02 * std)
    if model.head_bias is not None:
        assert not np.any(model.head_bias.data[30:])


def test_the_same_seed_draws_the_same_rows() -> None:
    first, second = build("gpt2"), build("gpt2")
    for model in (first, second):
        model.resize_token_embeddings(50)
    np.testing.assert_array_equal(first.head_weight.data, second.head_weight.data)


@pytest.mark.parametrize("untied", [False, True])
def test_the_head_scores_old_tokens_as_before(untied: bool) -> None:
    model = build("bert", tie_word_embeddings=not untied).eval()
    model.decoder_bias.data[...] = np.arange(30)
    ids = batch(30)
    before = model.forward(ids).logits
    model.resize_token_embeddings(44)
    after = model.forward(ids).logits
    np.testing.assert_allclose(after[..., :30], before, rtol=1e-5, atol=1e-5)
    model.clear_saved()


@pytest.mark.parametrize(
    "make",
    [
        lambda model: AdamW(model, lr=1e-2),
        lambda model: SGD(model, lr=1e-2, momentum=0.9),
        lambda model: SGD(model, lr=1e-2, momentum=0.9, nesterov=True),
    ],
    ids=["adamw", "momentum", "nesterov"],
)
@pytest.mark.parametrize("size", [23, 41])
@pytest.mark.parametrize("name", ["gpt2", "bert", "lstm"])
def test_the_state_of_the_optimizer_follows(name: str, size: int, make: Any) -> None:
    model = build(name)
    model.optimizer = make(model)
    ids = batch(20)
    for _ in range(3):
        model.train_step(ids, ids)
    names = tables(model)
    before = {key: array.copy() for key, array in model.optimizer.state_dict()["arrays"].items()}
    model.resize_token_embeddings(size)
    state = model.optimizer.state_dict()
    assert state["step"] == 3
    assert set(state["arrays"]) == set(before)
    for key, array in state["arrays"].items():
        kept = min(30, size) if key.rsplit(".", 1)[0] in names else len(array)
        np.testing.assert_array_equal(array[:kept], before[key][:kept], err_msg=key)
        assert not np.any(array[kept:])
        assert np.any(array) or "padding" in key, key


@pytest.mark.parametrize("name", available_architectures())
def test_training_goes_on(name: str) -> None:
    model = build(name)
    first = model.train_step(batch(30), batch(30), 1e-2)["loss"]
    model.resize_token_embeddings(37)
    assert model.flat.holds(model)
    ids = batch(37)
    losses = [model.train_step(ids, ids, 1e-2)["loss"] for _ in range(20)]
    assert losses[-1] < losses[0]
    assert losses[-1] < first


def test_a_step_after_it_is_the_step_of_a_model_that_was_never_resized() -> None:
    """Where nobody reads a new row, weights and momentum of the old ones go as they would have gone."""
    grown, plain = build("lstm", tied_head=False), build("lstm", tied_head=False)
    ids = batch(20)
    for model in (grown, plain):
        model.optimizer = SGD(model, lr=0.1, momentum=0.9)
        model.train_step(ids)
    grown.resize_token_embeddings(31)
    grown.head.bias.data[30] = -1e4  # so that the softmax gives the new token nothing
    for model in (grown, plain):
        model.train_step(ids)
    np.testing.assert_allclose(grown.embedding.weight.data[:30], plain.embedding.weight.data, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grown.head.weight.data[:30], plain.head.weight.data, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", available_architectures())
def test_it_is_saved_and_loaded_with_its_new_size(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.train_step(batch(30), batch(30))
    model.resize_token_embeddings(37)
    again = type(model).load_checkpoint(model.save_checkpoint(tmp_path / "checkpoint"))
    published = from_pretrained(model.save_pretrained(tmp_path / "folder"))
    for other in (again, published):
        assert other.vocab_size == other.config.vocab_size == 37
        for (key, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
            np.testing.assert_array_equal(one.data, two.data, err_msg=key)
    assert again.train_step(batch(37), batch(37)) == model.train_step(batch(37), batch(37))


def test_a_config_that_two_models_share_is_left_as_it_is() -> None:
    config = GPT2Config(vocab_size=30, n_embd=12, n_head=2, n_layer=1, n_positions=8)
    first, second = create_model(config), create_model(config)
    first.resize_token_embeddings(40)
    assert (first.config.vocab_size, second.config.vocab_size, config.vocab_size) == (40, 30, 30)
    assert second.config is config


def test_the_same_size_changes_nothing() -> None:
    model = build("gpt2")
    table = model.head_weight.data
    model.resize_token_embeddings(30)
    assert model.head_weight.data is table


@pytest.mark.parametrize("size", [0, -3, 2.0, True, "40", None])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"vocab_size must be an integer >= 1, got "):
        build("gpt2").resize_token_embeddings(size)


def test_padding_cannot_be_cut_off() -> None:
    model = build("bert", pad_token_id=20)
    before = {key: p.data for key, p in model.named_parameters()}
    with pytest.raises(ConfigError, match="pad_token_id must be below vocab_size 20, got 20"):
        model.resize_token_embeddings(20)
    assert model.vocab_size == 30
    assert all(p.data is before[key] for key, p in model.named_parameters())
    assert model.resize_token_embeddings(21).padding_idx == 20

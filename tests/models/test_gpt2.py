"""GPT-2 besides its parity with transformers: its start, its settings, its rates of dropout, and generation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.backend import outline
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.layers import Dropout, MultiHeadAttention
from tinygrad_edu.models import GPT2, GPT2Config, from_pretrained

from .published import saved, theirs, torch

SMALL: dict[str, Any] = {"vocab_size": 37, "n_embd": 12, "n_head": 2, "n_layer": 2, "n_positions": 20}


def build(**changes: Any) -> GPT2:
    return GPT2({**SMALL, **changes})


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, 124_439_808),
        ({"n_embd": 1024, "n_layer": 24, "n_head": 16}, 354_823_168),
        ({"n_embd": 1600, "n_layer": 48, "n_head": 25}, 1_557_611_200),
    ],
)
def test_the_published_sizes(settings: dict[str, Any], wanted: int) -> None:
    with outline():
        assert GPT2(settings).get_parameter_count() == wanted


def test_the_start_is_gpt2s() -> None:
    """Normal weights, the last map of each branch smaller by 1/sqrt(2 n_layer), zero biases."""
    model = build(n_embd=96, n_layer=8, vocab_size=500, initializer_range=0.05)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert np.all(parameter.data == (1 if name.endswith("weight") else 0)), name
        elif name.endswith("bias"):
            assert not np.any(parameter.data), name
        else:
            small = name.endswith(("out_proj.weight", "linear2.weight"))
            assert parameter.data.std() == pytest.approx(0.05 / (math.sqrt(16) if small else 1), rel=0.1), name


def test_each_rate_of_dropout_is_where_gpt2_has_it() -> None:
    model = build(resid_pdrop=0.3, embd_pdrop=0.2, attn_pdrop=0.1)
    assert model.model.dropout.p == 0.2
    for name, layer in model.named_layers():
        if isinstance(layer, MultiHeadAttention):
            assert layer.dropout == 0.1
        elif isinstance(layer, Dropout) and name != "model.dropout":
            assert layer.p == (0.0 if "feed_forward" in name else 0.3), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_head": 5}, "n_embd must be divisible by n_head, got 12 and 5"),
        ({"activation_function": "gelu_tanh"}, "activation_function must be one of gelu_new, .*got 'gelu_tanh'"),
        ({"attn_pdrop": 1}, r"attn_pdrop must be a number in \[0, 1\), got 1"),
        ({"n_positions": 0}, "n_positions must be an integer >= 1, got 0"),
        ({"eos_token_id": -1}, "eos_token_id must be an integer >= 0, got -1"),
        ({"layer_norm_eps": 1e-5}, r"unknown key 'layer_norm_eps'. Did you mean 'layer_norm_epsilon'\?"),
    ],
)
def test_configs_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_the_width_inside_is_four_times_that_outside_if_not_given() -> None:
    assert build().model.blocks[0].linear1.weight.shape == (48, 12)
    assert build(n_inner=7).model.blocks[0].linear1.weight.shape == (7, 12)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("prompt", [1, 5])
def test_it_writes_what_transformers_writes(prompt: int, use_cache: bool, tmp_path: Path) -> None:
    """The likeliest tokens, from random weights: each depends on all before it."""
    other = theirs("gpt2", n_positions=20, eos_token_id=None, tie_word_embeddings=False)
    with torch.no_grad():
        other.transformer.wpe.weight *= 8  # so that the next token depends on where it stands
    model = from_pretrained(saved(other, tmp_path))
    ids = np.random.default_rng(prompt).integers(0, 37, (3, prompt))
    mask = torch.ones(3, prompt, dtype=torch.long)
    wanted = other.generate(
        torch.tensor(ids), attention_mask=mask, max_new_tokens=15, do_sample=False, use_cache=use_cache, pad_token_id=0
    )
    written = model.generate(ids, max_new_tokens=15, do_sample=False, use_cache=use_cache)
    np.testing.assert_array_equal(written, wanted.numpy())
    assert len(np.unique(written[:, prompt:])) > 5  # and not one token over and over


def test_a_few_steps_of_training_are_those_of_torch(tmp_path: Path) -> None:
    other = theirs("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = from_pretrained(saved(other, tmp_path))
    model.clip_norm = None
    decays = [p for p in other.parameters() if p.ndim >= 2]
    rest = [p for p in other.parameters() if p.ndim < 2]
    groups = [{"params": decays, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    rng = np.random.default_rng(7)
    for _ in range(5):
        ids = rng.integers(0, 37, (4, 9))
        optimizer.zero_grad()
        logits = other(torch.tensor(ids)).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), torch.tensor(ids)[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        assert model.train_step(ids, learning_rate=1e-2)["loss"] == pytest.approx(loss.item(), rel=1e-9)


def test_a_config_may_be_itself() -> None:
    config = GPT2Config(**SMALL)
    assert GPT2(config).config is config


def test_checkpointing_gives_the_same_gradients_bit_for_bit() -> None:
    plain, kept = build(), build(checkpointing=True)
    ids = np.random.default_rng(0).integers(0, 37, (3, 9))
    for model in (plain, kept):
        for _ in range(2):
            model.train_step(ids)
    np.testing.assert_array_equal(plain.flat.data, kept.flat.data)

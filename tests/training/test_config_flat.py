"""Flat configs of former times: recognised, and shown in the form of today."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.training import FoundryConfig, make_config
from tinygrad_edu.training.flat_config import _MEANING, _OTHER_NAMES, _SHAPE, in_new_form
from tinygrad_edu.training.schema import field_paths, leaves
from tinygrad_edu.training.yaml_reader import parse_yaml

PREFACE = "old.yaml: an old, flat configuration; settings now stand in sections. The same, to paste:"


def told(text: str) -> tuple[str, list[str]]:
    """The YAML to paste and the lines below it."""
    document = parse_yaml(text, "old.yaml")
    with pytest.raises(ConfigError) as caught:
        make_config(
            document.values,
            (),
            FoundryConfig,
            where="old.yaml",
            lines=document.lines,
            mistakes=document.mistakes,
        )
    preface, _, rest = str(caught.value).partition("\n\n")
    assert preface == PREFACE
    pasted, _, notes = rest.partition("\n\nTo look at:\n")
    return pasted, [line.strip() for line in notes.splitlines()]


@pytest.mark.parametrize(
    ("old", "new", "notes"),
    [
        (
            "model_type: lstm\nhidden_size: 256\nlearning_rate: 0.002\nvocab_size: 5000\nnum_layers: 2\n",
            (
                "model:\n  architecture: lstm\n  rnn:\n    hidden_size: 256\n    num_layers: 2\n"
                "tokenizer:\n  vocab_size: 5000\ntraining:\n  learning_rate: 0.002"
            ),
            [],
        ),
        (
            (
                "model:\n  type: gpt2\n  n_embd: 64\n  n_layer: 2\n  n_head: 2\n  n_positions: 64\n  resid_pdrop: 0.1\n"
                "  attn_pdrop: 0.1\n"
            ),
            (
                "model:\n  architecture: gpt2\n  max_seq_len: 64\n  dropout: 0.1\n  transformer:\n    d_model: 64\n"
                "    n_blocks: 2\n    n_heads: 2\ndata:\n  max_length: 64"
            ),
            [],
        ),
        (
            (
                "model_type: BERT\nhidden_size: 64\nnum_hidden_layers: 2\nnum_attention_heads: 2\nhidden_act: gelu\n"
                "max_position_embeddings: 512\nepochs: 3\n"
            ),
            (
                "model:\n  architecture: bert\n  max_seq_len: 512\n  bert:\n    hidden_size: 64\n"
                "    num_hidden_layers: 2\n"
                "    num_attention_heads: 2\n    hidden_act: gelu\ntraining:\n  num_epochs: 3\n  objective: masked_lm"
            ),
            [],
        ),
        (
            (
                "model: rnn\nembedding_dim: 32\nactivation: relu\nseq_length: 512\ntraining:\n  lr: 0.1\n  seed: 3\n"
                "optimizer:\n  type: sgd\n"
            ),
            (
                "model:\n  architecture: rnn\n  max_seq_len: 512\n  rnn:\n    embedding_size: 32\n"
                "    nonlinearity: relu\n"
                "data:\n  max_length: 512\ntraining:\n  learning_rate: 0.1\n  optimizer: sgd\n  seed: 3"
            ),
            [],
        ),
        (
            "arch: transformer\nd_model: 64\nnhead: 2\ntokenizer: wordpiece\ndata: corpus.txt\ndropout: 0.2\n",
            (
                "model:\n  architecture: custom_transformer\n  dropout: 0.2\n  transformer:\n    d_model: 64\n"
                "    n_heads: 2\n"
                "data:\n  dataset: corpus.txt\ntokenizer:\n  type: wordpiece"
            ),
            [],
        ),
        (
            "model_type: encoder-decoder\nnum_encoder_layers: 3\nnum_decoder_layers: 2\nsrc_file: a\ntgt_file: b\n",
            (
                "model:\n  architecture: seq2seq\n  transformer:\n    n_blocks: 3\ndata:\n  src_path: a\n"
                "  tgt_path: b\n"
                "training:\n  objective: translation"
            ),
            ["old.yaml, line 3: num_decoder_layers: says model.transformer.n_blocks once more; 3 was taken"],
        ),
        (
            "model:\n  d_model: 64\n  n_blocks: 2\n  n_heads: 2\n",
            (
                "model:\n  architecture: custom_transformer\n  transformer:\n    d_model: 64\n    n_blocks: 2\n"
                "    n_heads: 2"
            ),
            [
                (
                    "old.yaml: model.architecture: not given; custom_transformer is a guess; wanted one of "
                    "custom_transformer, gpt2, bert, lstm, gru, rnn, seq2seq"
                )
            ],
        ),
        (
            "model_type: xlnet\nhidden_size: 64\nbidirectional: false\nfoo: 3\nlr: 1e-3\n",
            (
                "model:\n  architecture: lstm\n  rnn:\n    hidden_size: 64\n    bidirectional: false\n"
                "training:\n  learning_rate: 0.001"
            ),
            [
                (
                    "old.yaml, line 1: model_type: 'xlnet' is no architecture; lstm is a guess; wanted one of "
                    "custom_transformer, gpt2, bert, lstm, gru, rnn, seq2seq"
                ),
                "old.yaml, line 4: foo: has no place with architecture lstm",
                "old.yaml, line 5: lr: 1e-3 is text to YAML 1.1, not a number; write 1.0e-3",
            ],
        ),
        (
            "architecture: gru\ntransformer:\n  position: rotary\n",
            "model:\n  architecture: gru\n  rnn: {}",
            ["old.yaml, line 3: transformer.position: has no place with architecture gru"],
        ),
    ],
)
def test_the_message_shows_the_new_form_and_it_can_be_pasted(old: str, new: str, notes: list[str]) -> None:
    assert told(old) == (new, notes)
    document = parse_yaml(new)
    assert not document.mistakes
    config = make_config(document.values, schema=FoundryConfig)
    taken = dict(leaves(config.model_dump()))
    for path, value in leaves(document.values):
        assert taken[path] == value


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"model": {"architecture": "lstm", "hidden_size": 3}},
        {"model": {"max_seq_len": 64}},
        {"model": {"transformer": {"n_layer": 3}}},
        {"model": {"architectur": "lstm", "rnn": {"hidden_size": 3}}},
        {"batch_size": 3},
        {"name": "my run", "model": {"rnn": {}}},
        {"training": {"lr": 0.1, "epochs": 3}},
        {"model": 3, "data": {"dataset": "a"}},
        {"zzz": {"yyy": 1}},
    ],
)
def test_what_is_not_flat_gets_the_usual_messages(values: dict[str, Any]) -> None:
    assert in_new_form(values, FoundryConfig) is None
    with pytest.raises(ConfigError, match="mistakes? in the configuration"):
        make_config(values, schema=FoundryConfig)


def test_every_other_name_leads_to_a_setting() -> None:
    paths = set(field_paths(FoundryConfig))
    assert {f"model.{section}.{name}" for section, shape in _SHAPE.items() for name in shape.values()} <= paths
    assert {meaning for meaning in _OTHER_NAMES if "." in meaning} <= paths
    assert {meaning for shape in _SHAPE.values() for meaning in shape} == {m for m in _OTHER_NAMES if "." not in m}


def test_no_other_name_has_two_meanings() -> None:
    counts = Counter(name for names in _OTHER_NAMES.values() for name in names.split())
    assert [name for name, count in counts.items() if count > 1] == []
    assert len(counts) == len(_MEANING)

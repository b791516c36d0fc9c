"""Settings of the foundry: what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.training import FoundryConfig, make_config
from tinygrad_edu.training.schema import Rule, field_paths
from tinygrad_edu.training.yaml_reader import parse_yaml

GPT2 = "model:\n  architecture: gpt2\n  transformer:\n"
SEQ2SEQ = "model:\n  architecture: seq2seq\n  transformer:\ndata:\n"
BERT = "model:\n  architecture: bert\n  bert:\n"
LSTM = "model:\n  architecture: lstm\n  rnn:\n"


def mistakes(text: str, *overrides: str) -> list[str]:
    document = parse_yaml(text, "c.yaml")
    with pytest.raises(ConfigError) as caught:
        make_config(
            document.values,
            overrides,
            FoundryConfig,
            where="c.yaml",
            lines=document.lines,
            mistakes=document.mistakes,
        )
    count, *lines = str(caught.value).splitlines()
    assert count == f"{len(lines)} mistake{'s' * (len(lines) > 1)} in the configuration:"
    return [line.strip() for line in lines]


MISTAKES: list[tuple[str, str]] = [
    # architecture and its section
    ("", "c.yaml: model.architecture: missing; wanted one of custom_transformer, gpt2, bert, lstm, gru, rnn, seq2seq"),
    (
        "model:\n  architecture: lsmt\n  rnn:",
        (
            'c.yaml, line 2: model.architecture: found "lsmt", wanted one of custom_transformer, gpt2, bert, '
            "lstm, gru, rnn, seq2seq. Did you mean 'lstm'?"
        ),
    ),
    (
        "model:\n  architecture: 3",
        "c.yaml, line 2: model.architecture: found 3, wanted text",
    ),
    (
        "model:\n  architecture: lstm",
        "c.yaml, line 2: model.rnn: missing; lstm needs 'rnn:' below 'model:', with hidden_size, num_layers",
    ),
    (
        "training:\n  objective: masked_lm\nmodel:\n  architecture: bert",
        (
            "c.yaml, line 4: model.bert: missing; bert needs 'bert:' below 'model:', with hidden_size, "
            "num_hidden_layers, num_attention_heads"
        ),
    ),
    (
        "model:\n  architecture: gpt2",
        (
            "c.yaml, line 2: model.transformer: missing; gpt2 needs 'transformer:' below 'model:', with d_model, "
            "n_blocks, n_heads"
        ),
    ),
    (
        LSTM + "  bert:\n    hidden_size: 4",
        (
            "c.yaml, line 4: model.bert: lstm does not read this section, but model.rnn; take it out, or choose "
            "another architecture"
        ),
    ),
    (
        GPT2 + "  rnn: {}",
        (
            "c.yaml, line 4: model.rnn: gpt2 does not read this section, but model.transformer; take it out, or "
            "choose another architecture"
        ),
    ),
    (
        LSTM + "  transformer:",
        (
            "c.yaml, line 4: model.transformer: lstm does not read this section, but model.rnn; take it out, or "
            "choose another architecture"
        ),
    ),
    (
        "model:\n  architecture: lstm\n  rnn: 5",
        (
            "c.yaml, line 3: model.rnn: found 5, wanted keys below it: hidden_size, embedding_size, num_layers, "
            "bidirectional, nonlinearity, tied_head"
        ),
    ),
    # names
    (
        GPT2 + "    n_layer: 3",
        "c.yaml, line 4: model.transformer.n_layer: unknown key. Did you mean 'model.transformer.n_blocks'?",
    ),
    (
        LSTM + "  hidden_size: 3",
        "c.yaml, line 4: model.hidden_size: unknown key. Did you mean 'model.rnn.hidden_size'?",
    ),
    (
        LSTM + "    hiden_size: 3",
        "c.yaml, line 4: model.rnn.hiden_size: unknown key. Did you mean 'hidden_size'?",
    ),
    (
        LSTM + "    zzz: 3",
        (
            "c.yaml, line 4: model.rnn.zzz: unknown key; wanted one of hidden_size, embedding_size, num_layers, "
            "bidirectional, nonlinearity, tied_head"
        ),
    ),
    (
        LSTM + "training:\n  lr: 0.1",
        "c.yaml, line 5: training.lr: unknown key. Did you mean 'training.learning_rate'?",
    ),
    # shapes
    (
        GPT2 + "    d_model: 130",
        "c.yaml, line 4: model.transformer.d_model: 130 is not a multiple of n_heads 4",
    ),
    (
        BERT + "    num_attention_heads: 5\ntraining: {objective: masked_lm}",
        "c.yaml, line 4: model.bert.hidden_size: 128 is not a multiple of num_attention_heads 5",
    ),
    (
        "model:\n  architecture: custom_transformer\n  transformer: {n_heads: 128, position: rotary}",
        "c.yaml, line 3: model.transformer.position: rotary wants an even d_model / n_heads, found 128 / 128",
    ),
    (
        SEQ2SEQ.replace("transformer:", "transformer: {position: rotary}") + "  task: numbers\n"
        "training: {objective: translation}",
        (
            "c.yaml, line 3: model.transformer.position: seq2seq adds positions to its embeddings; write learned, "
            "sinusoidal or none"
        ),
    ),
    *[
        (
            GPT2 + f"    {name}: {value}",
            (
                f"c.yaml, line 4: model.transformer.{name}: gpt2 has {name} {own}; leave it out, or take architecture "
                "custom_transformer"
            ),
        )
        for name, value, own in [
            ("position", "rotary", "learned"),
            ("norm_placement", "post", "pre"),
            ("activation", "relu", "gelu_tanh"),
        ]
    ],
    (
        GPT2 + "    activation: gleu",
        (
            "c.yaml, line 4: model.transformer.activation: found \"gleu\", wanted 'gelu', 'gelu_tanh', 'relu', 'silu' "
            "or 'tanh'. Did you mean 'gelu'?"
        ),
    ),
    (
        LSTM + "    nonlinearity: tanh",
        "c.yaml, line 4: model.rnn.nonlinearity: the gates of lstm are fixed; leave it out, or take architecture rnn",
    ),
    (LSTM + "  dropout: 1.0", "c.yaml, line 4: model.dropout: found 1.0, wanted less than 1"),
    (LSTM + "    dropout: 0.1", "c.yaml, line 4: model.rnn.dropout: unknown key. Did you mean 'model.dropout'?"),
    (
        BERT + "    type_vocab_size: 0\ntraining: {objective: masked_lm}",
        "c.yaml, line 4: model.bert.type_vocab_size: found 0, wanted at least 1",
    ),
    # objectives
    (
        BERT,
        (
            "c.yaml, line 2: training.objective: causal_lm is not for bert, which reads what it would have to predict; "
            "write objective: masked_lm, or take architecture custom_transformer, gpt2, lstm, gru, rnn"
        ),
    ),
    (
        GPT2 + "training:\n  objective: masked_lm",
        (
            "c.yaml, line 5: training.objective: masked_lm is not for gpt2, which sees only what stands before a "
            "masked token; write objective: causal_lm, or take architecture bert, lstm, gru, rnn"
        ),
    ),
    (
        "model:\n  architecture: custom_transformer\n  transformer:\ntraining:\n  objective: masked_lm",
        (
            "c.yaml, line 5: training.objective: masked_lm is not for custom_transformer, which sees only what stands "
            "before a masked token; write objective: causal_lm, or take architecture bert, lstm, gru, rnn"
        ),
    ),
    (
        SEQ2SEQ,
        (
            "c.yaml, line 2: training.objective: causal_lm is not for seq2seq, which has an encoder that wants a "
            "source text; write objective: translation, or take architecture custom_transformer, gpt2, lstm, gru, rnn"
        ),
    ),
    (
        LSTM + "data: {task: numbers}\ntraining:\n  objective: translation",
        (
            "c.yaml, line 6: training.objective: translation is not for lstm, which has no encoder and decoder; write "
            "objective: causal_lm or masked_lm, or take architecture seq2seq"
        ),
    ),
    (
        LSTM + "    bidirectional: true",
        (
            "c.yaml, line 4: model.rnn.bidirectional: read backwards, the text shows the token to predict, so "
            "causal_lm cannot be learned; write false, or training.objective: masked_lm"
        ),
    ),
    (
        BERT + "training:\n  objective: masked_lm\n  mlm_probability: 0",
        "c.yaml, line 6: training.mlm_probability: 0 leaves nothing to predict in masked_lm; 0.15 is usual",
    ),
    (
        LSTM + "training:\n  mlm_probability: 1.0",
        "c.yaml, line 5: training.mlm_probability: found 1.0, wanted less than 1",
    ),
    (
        GPT2 + "training:\n  carry_state: true",
        (
            "c.yaml, line 5: training.carry_state: gpt2 has no state to carry; leave it out, or take "
            "architecture lstm, gru, rnn"
        ),
    ),
    (
        LSTM + "training:\n  carry_state: true\n  objective: masked_lm",
        (
            "c.yaml, line 5: training.carry_state: masked_lm reads each sequence by itself; leave carry_state out, or "
            "write objective: causal_lm"
        ),
    ),
    # what is shared with other projects
    (
        LSTM + "  max_seq_len: 64",
        "c.yaml, line 4: data.max_length: 128 is longer than model.max_seq_len 64",
    ),
    (
        LSTM + "training:\n  label_smoothing: 1.0",
        "c.yaml, line 5: training.label_smoothing: found 1.0, wanted less than 1",
    ),
    (
        LSTM + "training:\n  early_stopping_patience: 2\n  eval_every: null",
        (
            "c.yaml, line 5: training.early_stopping_patience: 2 evaluations are waited for, but eval_every is null: "
            "there are none"
        ),
    ),
    # tokenizers
    (
        BERT + "training: {objective: masked_lm}\ntokenizer:\n  type: gpt2",
        (
            "c.yaml, line 6: tokenizer.type: gpt2 has no mask token, which masked_lm wants; take one of bpe, "
            "wordpiece, sentencepiece, character"
        ),
    ),
    (
        BERT + "training: {objective: masked_lm}\ntokenizer:\n  special_tokens: [a]",
        (
            'c.yaml, line 6: tokenizer.special_tokens: masked_lm wants a mask token; add "[MASK]", or leave '
            "special_tokens out"
        ),
    ),
    (
        LSTM + "tokenizer:\n  type: wordpeice",
        (
            "c.yaml, line 5: tokenizer.type: 'wordpeice' is neither bpe, nor wordpiece, nor sentencepiece, nor "
            "character, nor gpt2, nor a file or folder, nor a hub name with a '/'. Did you mean 'wordpiece'?"
        ),
    ),
    (
        LSTM + "tokenizer:\n  type: ~nobody",
        (
            "c.yaml, line 5: tokenizer.type: '~nobody' is neither bpe, nor wordpiece, nor sentencepiece, nor "
            "character, nor gpt2, nor a file or folder, nor a hub name with a '/'."
        ),
    ),
    (
        LSTM + "tokenizer:\n  vocab_size: 256",
        "c.yaml, line 5: tokenizer.vocab_size: found 256, wanted at least 257: 256 bytes and 1 special",
    ),
    (
        BERT + "training: {objective: masked_lm}\ntokenizer:\n  vocab_size: 260",
        "c.yaml, line 6: tokenizer.vocab_size: found 260, wanted at least 261: 256 bytes and 5 special",
    ),
    (
        LSTM + "tokenizer:\n  type: character\n  vocab_size: 3\n  special_tokens: [a, b, c]",
        "c.yaml, line 6: tokenizer.vocab_size: found 3, wanted at least 4: one token and 3 special",
    ),
    (
        LSTM + "tokenizer:\n  special_tokens: [a, b, a]",
        "c.yaml, line 5: tokenizer.special_tokens: one of them stands there twice",
    ),
    (
        LSTM + "tokenizer:\n  special_tokens: a",
        'c.yaml, line 5: tokenizer.special_tokens: found "a", wanted a list',
    ),
    (
        LSTM + "tokenizer:\n  special_tokens: [a, 3]",
        "c.yaml, line 5: tokenizer.special_tokens[1]: found 3, wanted text",
    ),
    (
        LSTM + "tokenizer:\n  type: gpt2\n  special_tokens: [a]",
        "c.yaml, line 6: tokenizer.special_tokens: gpt2 has its own already; leave special_tokens out",
    ),
    (
        LSTM + "tokenizer:\n  min_frequency: 0",
        "c.yaml, line 5: tokenizer.min_frequency: found 0, wanted at least 1",
    ),
    # pairs
    (
        SEQ2SEQ + "  src_path: a\ntraining: {objective: translation}",
        "c.yaml, line 5: data.src_path: src_path and tgt_path belong together; give both, or neither",
    ),
    (
        SEQ2SEQ + "  tgt_path: a\ntraining: {objective: translation}",
        "c.yaml, line 5: data.src_path: src_path and tgt_path belong together; give both, or neither",
    ),
    (
        SEQ2SEQ + "  src_path: a\n  tgt_path: a\ntraining: {objective: translation}",
        "c.yaml, line 6: data.tgt_path: a is src_path as well; wanted another file, aligned line by line",
    ),
    (
        SEQ2SEQ + "  src_path: a\n  tgt_path: b\n  task: numbers\ntraining: {objective: translation}",
        (
            "c.yaml, line 7: data.task: the pairs come either from a task or from src_path and tgt_path; leave one of "
            "them out"
        ),
    ),
    (
        SEQ2SEQ + "training:\n  objective: translation",
        "c.yaml, line 6: data.src_path: translation wants pairs: give data.src_path and data.tgt_path, or data.task",
    ),
    (
        LSTM + "data:\n  task: numbers",
        (
            "c.yaml, line 5: data.src_path: src_path, tgt_path and task are for objective translation; give the text "
            "for causal_lm as data.dataset"
        ),
    ),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes(text: str, message: str) -> None:
    assert mistakes(text) == [message]


def test_every_rule_is_broken_in_the_table_above() -> None:
    broken: set[str] = set()

    def recorded(rule: Rule) -> Rule:
        def check(config: Any) -> str | None:
            text = rule[1](config)
            broken.update([f"{rule[0]} {id(rule)}"] if text else [])
            return text

        return rule[0], check

    class Recorded(FoundryConfig):
        rules = tuple(map(recorded, FoundryConfig.rules))

    for text, _ in MISTAKES:
        with pytest.raises(ConfigError):
            make_config(parse_yaml(text).values, schema=Recorded)
    unbroken = {rule[0][0] for rule in FoundryConfig.rules if f"{rule[0]} {id(rule)}" not in broken}
    # These are common to all projects, and stand in the table of test_config.py.
    assert unbroken == {
        "data.subset_size",
        "data.text_column",
        "training.min_learning_rate",
        "training.warmup_steps",
    }


def test_all_mistakes_at_once_with_their_places() -> None:
    text = "model:\n  architecture: lstm\n  rnn:\n    hidden_size: 0\n    bidirectional: true\n  bert:\n"
    text += "data:\n  max_length: 512\ntraining:\n  learning_rate: 1e-3\n  label_smoothing: 2.0\n"
    assert mistakes(text, "model.rnn.n_layer=2", "training.objective=mlm", "model.rnn.num_layers=0") == [
        "c.yaml, line 10: training.learning_rate: 1e-3 is text to YAML 1.1, not a number; write 1.0e-3",
        (
            "override model.rnn.n_layer=2: unknown key 'model.rnn.n_layer'. Did you mean "
            "'model.rnn.num_layers'? Keys look "
            "like training.max_steps"
        ),
        "c.yaml, line 4: model.rnn.hidden_size: found 0, wanted at least 1",
        "override model.rnn.num_layers=0: found 0, wanted at least 1",
        "c.yaml, line 11: training.label_smoothing: found 2.0, wanted less than 1",
        "override training.objective=mlm: found \"mlm\", wanted 'causal_lm', 'masked_lm' or 'translation'",
        (
            "c.yaml, line 6: model.bert: lstm does not read this section, but model.rnn; take it out, or choose "
            "another architecture"
        ),
        "c.yaml, line 8: data.max_length: 512 is longer than model.max_seq_len 128",
    ]


def test_an_override_that_breaks_a_rule_is_its_place() -> None:
    assert mistakes(LSTM, "model.rnn.bidirectional=true") == [
        (
            "override model.rnn.bidirectional=true: read backwards, the text shows the token to predict, so causal_lm "
            "cannot be learned; write false, or training.objective: masked_lm"
        )
    ]
    assert mistakes(GPT2 + "    d_model: 64", "model.transformer.n_heads=3") == [
        "c.yaml, line 4: model.transformer.d_model: 64 is not a multiple of n_heads 3"
    ]
    assert mistakes("model: {architecture: gpt2, transformer: {}}", "model.transformer.n_heads=3") == [
        "override model.transformer.n_heads=3: model.transformer.d_model: 128 is not a multiple of n_heads 3"
    ]


@pytest.mark.parametrize("section", ["model", "transformer"])
def test_an_override_below_what_is_no_section_leaves_the_mistake_to_it(section: str) -> None:
    text = "model: 3" if section == "model" else "model: {architecture: gpt2, transformer: 3}"
    place = "model" if section == "model" else "model.transformer"
    (line,) = mistakes(text, "model.transformer.n_blocks=2")
    assert line.startswith(f"c.yaml, line 1: {place}: found 3, wanted keys below it: ")


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-2, 600)
    | st.floats()
    | st.sampled_from(["", "lstm", "gpt2", "bert", "seq2seq", "masked_lm", "translation", "rotary", "{model}", "~x"])
)
NAMES = [
    "model",
    "type",
    "n_layer",
    "zzz",
    "",
    *{part for path in field_paths(FoundryConfig) for part in path.split(".")},
]
KEYS = st.sampled_from(sorted(NAMES))
ANYTHING = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3))


@given(
    values=st.dictionaries(KEYS, ANYTHING, max_size=4),
    model=st.none() | st.dictionaries(KEYS, ANYTHING, max_size=4),
    overrides=st.lists(st.tuples(st.sampled_from(list(field_paths(FoundryConfig))), PLAIN), max_size=2),
)
def test_whatever_is_given_is_read_or_refused_as_a_mistake(
    values: dict[str, Any], model: dict[str, Any] | None, overrides: list[tuple[str, Any]]
) -> None:
    try:
        config = make_config(
            {**values, "model": model}, [f"{path}={value}" for path, value in overrides], FoundryConfig
        )
    except ConfigError:
        return
    assert make_config(config.model_dump(mode="json"), schema=FoundryConfig) == config

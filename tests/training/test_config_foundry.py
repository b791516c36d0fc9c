"""Settings of the foundry: what is read, for every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.models import registry
from tinygrad_edu.training import FoundryConfig, dump_config, load_config, make_config
from tinygrad_edu.training.config import config_differences
from tinygrad_edu.training.foundry_schema import section_rule
from tinygrad_edu.training.foundry_sections import (
    ARCHITECTURES,
    Architecture,
    FoundryModelSection,
    RnnSection,
    TransformerSection,
)
from tinygrad_edu.training.schema import Section, TrainingSection
from tinygrad_edu.training.yaml_reader import parse_yaml

#: The least that a config of each architecture must say.
MINIMAL = {
    "custom_transformer": "model: {architecture: custom_transformer, transformer: {}}",
    "gpt2": "model: {architecture: gpt2, transformer: {}}",
    "bert": "model: {architecture: bert, bert: {}}\ntraining: {objective: masked_lm}",
    "lstm": "model: {architecture: lstm, rnn: {}}",
    "gru": "model: {architecture: gru, rnn: {}}",
    "rnn": "model: {architecture: rnn, rnn: {}}",
    "seq2seq": "model: {architecture: seq2seq, transformer: {}}\n"
    "data: {task: numbers}\ntraining: {objective: translation}",
}


def read(text: str, *overrides: str) -> FoundryConfig:
    document = parse_yaml(text, "c.yaml")
    return make_config(
        document.values,
        overrides,
        FoundryConfig,
        where="c.yaml",
        lines=document.lines,
        mistakes=document.mistakes,
    )


# -- what is read ----------------------------------------------------------------------------------


def test_the_table_holds_the_architectures_that_are_registered() -> None:
    own = [name for name in registry.available_architectures() if _is_of_the_library(name)]
    assert own and set(own) <= set(ARCHITECTURES)
    assert {about.section for about in ARCHITECTURES.values()} == {"transformer", "bert", "rnn"}


def _is_of_the_library(name: str) -> bool:
    return registry.get_architecture(name).__module__.startswith("tinygrad_edu.")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_minimal_config_is_right_and_reads_back_the_same(architecture: str) -> None:
    config = read(MINIMAL[architecture])
    assert config.model.architecture == architecture
    assert config.training.objective in ARCHITECTURES[architecture].objectives
    section = ARCHITECTURES[architecture].section
    values = config.model_dump(mode="json")
    assert set(values["model"]) == {"architecture", "max_seq_len", "dropout", section}
    assert read(dump_config(config)) == config
    assert make_config(values, schema=FoundryConfig) == config


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name in registry.available_architectures()])
def test_a_minimal_config_makes_its_model(architecture: str) -> None:
    small = ["model.max_seq_len=16", "data.max_length=16"]
    model = registry.create_model_from_config(read(MINIMAL[architecture], *small), vocab_size=40)
    assert model.model_type == architecture
    assert model.max_seq_len == 16
    dropped = registry.create_model_from_config(read(MINIMAL[architecture], *small, "model.dropout=0.25"), 40).config
    assert {name: value for name, value in vars(dropped).items() if value == 0.25}


@given(
    d_model=st.integers(1, 64).map(lambda n: 4 * n),
    special=st.none() | st.lists(st.text(min_size=1), max_size=4, unique=True),
    mlm=st.floats(0, 1, exclude_max=True),
    patience=st.none() | st.integers(1),
    path=st.text(min_size=1),
)
def test_a_dumped_config_reads_back_the_same(
    d_model: int, special: list[str] | None, mlm: float, patience: int | None, path: str
) -> None:
    config = make_config(
        {
            "model": {"architecture": "gpt2", "transformer": {"d_model": d_model, "activation": None}},
            "data": {"dataset": path},
            "tokenizer": {"special_tokens": special},
            "training": {"mlm_probability": mlm, "early_stopping_patience": patience},
        },
        schema=FoundryConfig,
    )
    document = parse_yaml(dump_config(config))
    assert not document.mistakes
    assert make_config(document.values, schema=FoundryConfig) == config


def test_file_and_overrides(tmp_path: Path) -> None:
    text = "model:\n  architecture: lstm\n  rnn:\n    hidden_size: 64\n    num_layers: 2\n"
    (tmp_path / "c.yaml").write_text(text + "tokenizer:\n  special_tokens: ['<pad>']\n", encoding="utf-8")
    config = load_config(tmp_path / "c.yaml", ["model.rnn.num_layers=3", "training.carry_state=true"], FoundryConfig)
    rnn = config.model.rnn
    assert rnn is not None and (rnn.hidden_size, rnn.num_layers, rnn.bidirectional) == (64, 3, False)
    assert config.training.carry_state and config.tokenizer.special_tokens == ("<pad>",)


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("model.transformer.n_blocks=6", "model.transformer.n_blocks", 6),
        ("model.transformer.d_ffn=null", "model.transformer.d_ffn", None),
        ("model.transformer.activation=relu", "model.transformer.activation", "relu"),
        ("model.transformer.activation=null", "model.transformer.activation", None),
        ("model.transformer.tied_head=false", "model.transformer.tied_head", False),
        ("training.ema_decay=0.999", "training.ema_decay", 0.999),
        ("training.max_seconds=60", "training.max_seconds", 60.0),
        ("training.early_stopping_patience=null", "training.early_stopping_patience", None),
        ("tokenizer.special_tokens=[<pad>,[MASK]]", "tokenizer.special_tokens", ("<pad>", "[MASK]")),
        ("tokenizer.special_tokens=['<pad>', \"</s>\"]", "tokenizer.special_tokens", ("<pad>", "</s>")),
        ("tokenizer.special_tokens=[1]", "tokenizer.special_tokens", ("1",)),
        ("tokenizer.special_tokens=[]", "tokenizer.special_tokens", ()),
        ("tokenizer.special_tokens=null", "tokenizer.special_tokens", None),
        ("data.text_column=null", "data.text_column", None),
    ],
)
def test_overrides(override: str, path: str, value: object) -> None:
    found: Any = read(MINIMAL["custom_transformer"], override)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)


def test_an_empty_section_is_one_of_defaults_and_an_override_makes_one() -> None:
    assert read("model:\n  architecture: lstm\n  rnn:\n").model.rnn == RnnSection()
    made = make_config({}, ["model.architecture=gpt2", "model.transformer.n_heads=2"], FoundryConfig)
    assert made.model.transformer == TransformerSection(n_heads=2)


def test_sections_can_be_made_in_python() -> None:
    model = FoundryModelSection(architecture="gru", rnn=RnnSection(num_layers=2))
    assert read(dump_config(FoundryConfig(model=model))).model == model
    with pytest.raises(pydantic.ValidationError, match="model.rnn: missing; lstm needs 'rnn:' below 'model:'"):
        FoundryConfig(model=FoundryModelSection(architecture="lstm"))
    with pytest.raises(pydantic.ValidationError, match="one of custom_transformer"):
        FoundryModelSection(architecture="elman")


def test_the_new_training_settings_change_nothing_unless_given() -> None:
    settings = TrainingSection()
    assert settings.gradient_accumulation_steps == 1
    assert (settings.ema_decay, settings.early_stopping_patience, settings.max_seconds) == (None, None, None)
    assert (settings.label_smoothing, settings.tensorboard) == (0.0, False)


def test_differences_reach_into_sections() -> None:
    old = read(MINIMAL["lstm"]).model_dump(mode="json")
    new = read(MINIMAL["lstm"], "model.rnn.num_layers=2", "training.seed=1").model_dump(mode="json")
    assert config_differences(old, new, ignore=["training.seed"]) == ["model.rnn.num_layers: 1 before, 2 now"]
    other = read(MINIMAL["gpt2"]).model_dump(mode="json")
    assert "model.rnn.hidden_size: 128 before, null now" in config_differences(old, other)


def test_a_further_architecture_brings_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    class BigramSection(Section):
        smoothing: float = 1.0

    class Model(FoundryModelSection):
        bigram: BigramSection | None = None

    class Config(FoundryConfig):
        model: Model
        rules = (*FoundryConfig.rules, section_rule("bigram"))

    monkeypatch.setitem(ARCHITECTURES, "bigram", Architecture("bigram", ("causal_lm",)))
    config = make_config({}, ["model.architecture=bigram", "model.bigram.smoothing=0.5"], Config)
    assert config.model.bigram == BigramSection(smoothing=0.5)
    with pytest.raises(ConfigError, match="model.bigram: missing; bigram needs 'bigram:' below 'model:'$"):
        make_config({}, ["model.architecture=bigram"], Config)
    with pytest.raises(ConfigError, match="model.bigram: gpt2 does not read this section, but model.transformer"):
        make_config({"model": {"architecture": "gpt2", "bigram": {}, "transformer": {}}}, schema=Config)

"""Architectures by name: registering, finding, and making them from settings."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.models import (
    GPT2,
    BaseLanguageModel,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    available_architectures,
    create_model,
    create_model_from_config,
    get_architecture,
    register_architecture,
    registry,
)
from tinygrad_edu.training import FoundryConfig
from tinygrad_edu.training.foundry_sections import ARCHITECTURES

from .test_pretrained import SMALL, build


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is registered is forgotten again."""
    available_architectures()
    monkeypatch.setattr(registry, "_architectures", dict(registry._architectures))


# -- registering ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh")
def test_a_new_architecture_is_known_everywhere() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Config(GPT2Config):
        pass

    @register_architecture("mine")
    class Mine(GPT2):
        config_class = Config

    assert Mine.model_type == Config.model_type == "mine"
    assert available_architectures()[-1] == "mine"
    assert get_architecture("mine") is Mine
    small = SMALL["gpt2"]
    assert type(create_model({"architecture": "mine", **small})) is Mine
    assert type(create_model(Config(**small))) is Mine
    assert GPT2.model_type == GPT2Config.model_type == "gpt2"


@pytest.mark.usefixtures("fresh")
def test_a_name_that_is_taken_is_refused() -> None:
    class Other(GPT2):
        pass

    with pytest.raises(ConfigError, match=r"'gpt2' is tinygrad_edu.models.gpt2.GPT2 already; choose another name"):
        register_architecture("gpt2")(Other)
    with pytest.raises(ConfigError, match="already"):
        register_architecture("gpt2")(GPT2)
    assert get_architecture("gpt2") is GPT2


@pytest.mark.parametrize("name", ["GPT2", "two words", "", "3d", "a-b", None, 5])
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"name must be one word in lower case, such as 'gpt2', got "):
        register_architecture(name)


# -- finding --------------------------------------------------------------------------------------------------


def test_the_architectures_of_the_library_are_there() -> None:
    assert {"custom_transformer", "gpt2", "bert", "lstm", "gru", "rnn"} <= set(available_architectures())


def test_settings_of_a_run_know_the_same_architectures() -> None:
    assert set(available_architectures()) == set(ARCHITECTURES)
    for name, about in ARCHITECTURES.items():
        assert build(name).objective in about.objectives


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gtp2", "Did you mean 'gpt2'?"), ("BERT", ""), ("transformer", "custom_transformer"), (None, "")],
)
def test_an_unknown_name_lists_what_there_is(name: Any, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_architecture(name)
    message = str(caught.value)
    assert f"{name!r} is unknown; available are {', '.join(available_architectures())}." in message
    assert hint in message


@pytest.mark.parametrize("name", available_architectures())
def test_each_says_what_it_is(name: str) -> None:
    kind = get_architecture(name)
    model = build(name)
    assert issubclass(kind, BaseLanguageModel)
    assert type(model) is kind
    assert model.model_type == kind.config_class.model_type == model.config.model_type == name
    assert model.get_input_embeddings().num_embeddings == model.vocab_size == model.config.vocab_size
    info = model.get_model_info()
    assert info["model_type"] == name
    assert info["parameters"] == model.get_parameter_count() == sum(p.size for p in model.parameters())


# -- making ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["architecture", "model_type"])
@pytest.mark.parametrize("name", available_architectures())
def test_a_mapping_makes_a_model(name: str, key: str) -> None:
    model = create_model({key: name, **SMALL[name]})
    assert model.model_type == name
    for setting, value in SMALL[name].items():
        assert getattr(model.config, setting) == value


def test_a_config_makes_a_model() -> None:
    config = BertConfig(**SMALL["bert"])
    model = create_model(config)
    assert type(model) is BertForMaskedLM
    assert model.config is config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": 5}, "no 'architecture' in config; available are .*gpt2"),
        ({"architecture": "gpt2", "model_type": "bert"}, "architecture and model_type differ"),
        ({"architecture": "gpt3"}, "'gpt3' is unknown; available are .*Did you mean 'gpt2'"),
        ({"architecture": "gpt2", "n_layers": 3}, r"unknown key 'n_layers'. Did you mean 'n_layer'\?"),
        (5, "config must be a mapping or an architecture's config, got int"),
        (None, "got NoneType"),
    ],
)
def test_configs_that_make_none(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model(config)


def test_all_mistakes_of_a_config_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        create_model({"architecture": "bert", "hidden_size": 0, "hidden_act": "gleu", "type_vocab": 2})
    for part in ("hidden_size must be", "hidden_act must be one of", "Did you mean 'gelu'", "unknown key 'type_vocab'"):
        assert part in str(caught.value)


RUNS: dict[str, dict[str, Any]] = {
    "custom_transformer": {"transformer": {"d_model": 16, "n_blocks": 2, "n_heads": 2, "position": "rotary"}},
    "gpt2": {"transformer": {"d_model": 16, "n_blocks": 2, "n_heads": 2, "d_ffn": 24}},
    "bert": {"bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu_tanh"}},
    "lstm": {"rnn": {"hidden_size": 16, "num_layers": 2}},
    "gru": {"rnn": {"hidden_size": 16, "embedding_size": 8, "tied_head": False}},
    "rnn": {"rnn": {"hidden_size": 16, "nonlinearity": "relu"}},
    "seq2seq": {"transformer": {"d_model": 16, "n_blocks": 2, "n_heads": 2}},
}


def run_settings(name: str, **training: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": {"architecture": name, "max_seq_len": 24, "dropout": 0.25, **RUNS[name]},
        "training": {"objective": ARCHITECTURES[name].objectives[0], "seed": 7, **training},
        "tokenizer": {"type": "bpe", "vocab_size": 300},
        "data": {"max_length": 24},
    }
    if name == "seq2seq":
        settings["data"]["task"] = "numbers"
    return settings


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_settings_of_a_run_make_a_model(name: str) -> None:
    config = FoundryConfig(**run_settings(name))
    model = create_model_from_config(config, vocab_size=41)
    assert (model.model_type, model.vocab_size, model.config.seed) == (name, 41, 7)
    assert create_model_from_config(config).vocab_size == 300
    assert (
        create_model_from_config(config.model_dump()).get_model_info()
        == create_model_from_config(config).get_model_info()
    )


def test_bert_from_a_run() -> None:
    c = create_model_from_config(FoundryConfig(**run_settings("bert"))).config
    assert (c.max_position_embeddings, c.intermediate_size, c.hidden_act) == (24, 64, "gelu_new")
    assert (c.hidden_dropout_prob, c.attention_probs_dropout_prob) == (0.25, 0.25)
    settings = run_settings("bert")
    settings["model"]["bert"] |= {"hidden_dropout_prob": 0.5, "intermediate_size": 40}
    c = create_model_from_config(FoundryConfig(**settings)).config
    assert (c.hidden_dropout_prob, c.attention_probs_dropout_prob, c.intermediate_size) == (0.5, 0.25, 40)


def test_gpt2_from_a_run() -> None:
    c = create_model_from_config(FoundryConfig(**run_settings("gpt2"))).config
    assert (c.n_positions, c.n_embd, c.n_layer, c.n_head, c.n_inner) == (24, 16, 2, 2, 24)
    assert (c.resid_pdrop, c.embd_pdrop, c.attn_pdrop) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config has no model.architecture; available are"),
        ({"model": {}}, "config has no model.architecture"),
        ([], "config has no model.architecture"),
        ({"model": {"architecture": "gtp2"}, "tokenizer": {"vocab_size": 9}}, "'gtp2' is unknown.*Did you mean 'gpt2'"),
        ({"model": {"architecture": "gpt2"}}, "no tokenizer.vocab_size, and none was given"),
    ],
)
def test_settings_that_make_none(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model_from_config(config)

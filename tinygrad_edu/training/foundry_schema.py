"""The settings of the language-model foundry: any architecture, each with a section of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .flat_config import in_new_form, meant_by
from .foundry_sections import (
    ARCHITECTURES,
    TRAINED_TOKENIZERS,
    FoundryDataSection,
    FoundryModelSection,
    FoundryTokenizerSection,
    FoundryTrainingSection,
)
from .schema import COMMON_RULES, BaseConfig, Rule, rule, tokenizer_rule

_RECURRENT = tuple(name for name, about in ARCHITECTURES.items() if about.section == "rnn")

#: The keys that a new config would begin with.
_SECTION_KEYS = {
    "transformer": ("d_model", "n_blocks", "n_heads"),
    "bert": ("hidden_size", "num_hidden_layers", "num_attention_heads"),
    "rnn": ("hidden_size", "num_layers"),
}

#: Why an architecture cannot learn an objective.
_WHY_NOT = {
    "causal_lm": "reads what it would have to predict",
    "masked_lm": "sees only what stands before a masked token",
    "translation": "has no encoder and decoder",
}


def section_rule(name: str) -> Rule:
    """Section `name` of ``model`` is there if the architecture reads it, and only then."""

    def check(config: Any) -> str | None:
        model = config.model
        needed, given = ARCHITECTURES[model.architecture].section == name, getattr(model, name) is not None
        if given and not needed:
            return (
                f"{model.architecture} does not read this section, but "
                f"model.{ARCHITECTURES[model.architecture].section}; take it out, or choose another architecture"
            )
        if needed and not given:
            keys = f", with {', '.join(_SECTION_KEYS[name])}" if name in _SECTION_KEYS else ""
            return f"missing; {model.architecture} needs '{name}:' below 'model:'{keys}"
        return None

    return (f"model.{name}", "model.architecture"), check


def _objective(config: Any) -> str | None:
    name, objective = config.model.architecture, config.training.objective
    possible = ARCHITECTURES[name].objectives
    if objective in possible:
        return None
    why = "has an encoder that wants a source text" if possible == ("translation",) else _WHY_NOT[objective]
    others = [other for other, about in ARCHITECTURES.items() if objective in about.objectives]
    return (
        f"{objective} is not for {name}, which {why}; write objective: {' or '.join(possible)}, "
        f"or take architecture {', '.join(others)}"
    )


def _least_vocab_size(config: Any) -> str | None:
    t = config.tokenizer
    if t.type not in TRAINED_TOKENIZERS:
        return None
    usual = 5 if config.training.objective == "masked_lm" else 1  # those of BERT, or the end of text
    usual += t.type != "bpe" and usual == 1  # and an unknown token, which bytes do not need
    special, alphabet = len(t.special_tokens or ()) or usual, 256 if t.type == "bpe" else 1
    if t.vocab_size >= special + alphabet:
        return None
    contents = "256 bytes" if t.type == "bpe" else "one token"
    return f"found {t.vocab_size}, wanted at least {special + alphabet}: {contents} and {special} special"


def _gpt2_is_fixed(name: str, own: str) -> Rule:
    return rule(
        (f"model.transformer.{name}", "model.architecture", "model.transformer"),
        lambda c: _own(c, "transformer", "gpt2") is None or getattr(c.model.transformer, name) in (None, own),
        f"gpt2 has {name} {own}; leave it out, or take architecture custom_transformer",
    )


def _own(config: Any, section: str, *architectures: str) -> Any:
    """The section `section`, if the architecture reads it (and is one of `architectures`); else None."""
    name = config.model.architecture
    reads = ARCHITECTURES[name].section == section and (not architectures or name in architectures)
    return getattr(config.model, section) if reads else None


def _divides(section: str, width: str, heads: str) -> Rule:
    def holds(config: Any) -> bool:
        own = _own(config, section)
        return own is None or getattr(own, width) % getattr(own, heads) == 0

    return rule(
        (f"model.{section}.{width}", f"model.{section}.{heads}", "model.architecture"),
        holds,
        f"{{model.{section}.{width}}} is not a multiple of {heads} {{model.{section}.{heads}}}",
    )


class FoundryConfig(BaseConfig):
    """All settings of a run of the foundry.

    A further architecture stands in :data:`ARCHITECTURES`. If it has a section of its own, subclass
    :class:`FoundryModelSection` with it, and this class with the new ``model`` and
    ``rules = (*FoundryConfig.rules, section_rule("name"))``.
    """

    model: FoundryModelSection
    data: FoundryDataSection = FoundryDataSection()
    tokenizer: FoundryTokenizerSection = FoundryTokenizerSection()
    training: FoundryTrainingSection = FoundryTrainingSection()

    rules: ClassVar[tuple[Rule, ...]] = (
        section_rule("transformer"),
        section_rule("bert"),
        section_rule("rnn"),
        _divides("transformer", "d_model", "n_heads"),
        _divides("bert", "hidden_size", "num_attention_heads"),
        rule(
            ("model.transformer.position", "model.transformer.d_model", "model.transformer.n_heads"),
            lambda c: (t := c.model.transformer) is None or t.position != "rotary" or t.d_model // t.n_heads % 2 == 0,
            "rotary wants an even d_model / n_heads, found {model.transformer.d_model} / {model.transformer.n_heads}",
        ),
        rule(
            ("model.transformer.position", "model.architecture"),
            lambda c: (t := _own(c, "transformer", "seq2seq")) is None or t.position != "rotary",
            "seq2seq adds positions to its embeddings; write learned, sinusoidal or none",
        ),
        _gpt2_is_fixed("position", "learned"),
        _gpt2_is_fixed("norm_placement", "pre"),
        _gpt2_is_fixed("activation", "gelu_tanh"),
        rule(
            ("model.rnn.nonlinearity", "model.architecture"),
            lambda c: (r := _own(c, "rnn", "lstm", "gru")) is None or r.nonlinearity is None,
            "the gates of {model.architecture} are fixed; leave it out, or take architecture rnn",
        ),
        (("training.objective", "model.architecture"), _objective),
        rule(
            ("model.rnn.bidirectional", "training.objective", "model.architecture"),
            lambda c: (r := _own(c, "rnn")) is None or not r.bidirectional or c.training.objective != "causal_lm",
            "read backwards, the text shows the token to predict, so causal_lm cannot be learned; "
            "write false, or training.objective: masked_lm",
        ),
        rule(
            ("training.mlm_probability", "training.objective"),
            lambda c: c.training.objective != "masked_lm" or c.training.mlm_probability > 0,
            "0 leaves nothing to predict in masked_lm; 0.15 is usual",
        ),
        rule(
            ("training.carry_state", "model.architecture"),
            lambda c: not c.training.carry_state or c.model.architecture in _RECURRENT,
            "{model.architecture} has no state to carry; leave it out, or take architecture " + ", ".join(_RECURRENT),
        ),
        rule(
            ("training.carry_state", "training.objective"),
            lambda c: not c.training.carry_state or c.training.objective != "masked_lm",
            "masked_lm reads each sequence by itself; leave carry_state out, or write objective: causal_lm",
        ),
        rule(
            ("tokenizer.type", "training.objective"),
            lambda c: c.training.objective != "masked_lm" or c.tokenizer.type != "gpt2",
            "gpt2 has no mask token, which masked_lm wants; take one of " + ", ".join(TRAINED_TOKENIZERS),
        ),
        rule(
            ("tokenizer.special_tokens", "training.objective"),
            lambda c: (
                c.training.objective != "masked_lm"
                or c.tokenizer.special_tokens is None
                or any("mask" in token.lower() for token in c.tokenizer.special_tokens)
            ),
            'masked_lm wants a mask token; add "[MASK]", or leave special_tokens out',
        ),
        tokenizer_rule(*TRAINED_TOKENIZERS, "gpt2"),
        (
            ("tokenizer.vocab_size", "tokenizer.type", "tokenizer.special_tokens", "training.objective"),
            _least_vocab_size,
        ),
        rule(
            ("tokenizer.special_tokens", "tokenizer.type"),
            lambda c: not c.tokenizer.special_tokens or c.tokenizer.type in TRAINED_TOKENIZERS,
            "{tokenizer.type} has its own already; leave special_tokens out",
        ),
        rule(
            ("tokenizer.special_tokens",),
            lambda c: len(set(c.tokenizer.special_tokens or ())) == len(c.tokenizer.special_tokens or ()),
            "one of them stands there twice",
        ),
        rule(
            ("data.src_path", "data.tgt_path"),
            lambda c: (c.data.src_path is None) == (c.data.tgt_path is None),
            "src_path and tgt_path belong together; give both, or neither",
        ),
        rule(
            ("data.tgt_path", "data.src_path"),
            lambda c: c.data.tgt_path is None or c.data.tgt_path != c.data.src_path,
            "{data.tgt_path} is src_path as well; wanted another file, aligned line by line",
        ),
        rule(
            ("data.task", "data.src_path", "data.tgt_path"),
            lambda c: c.data.task is None or (c.data.src_path is None and c.data.tgt_path is None),
            "the pairs come either from a task or from src_path and tgt_path; leave one of them out",
        ),
        rule(
            ("data.src_path", "data.task", "data.tgt_path", "training.objective"),
            lambda c: c.training.objective != "translation" or any((c.data.src_path, c.data.tgt_path, c.data.task)),
            "translation wants pairs: give data.src_path and data.tgt_path, or data.task",
        ),
        rule(
            ("data.src_path", "data.tgt_path", "data.task", "training.objective"),
            lambda c: c.training.objective == "translation" or not any((c.data.src_path, c.data.tgt_path, c.data.task)),
            "src_path, tgt_path and task are for objective translation; give the text for "
            "{training.objective} as data.dataset",
        ),
        *COMMON_RULES,
    )

    @classmethod
    def meant_by(cls, name: str, values: Mapping[str, Any]) -> str | None:
        return meant_by(name, values, cls)

    @classmethod
    def in_new_form(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]] | None:
        return in_new_form(values, cls)

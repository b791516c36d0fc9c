"""Flat configs of former times, and the names that others give to the same settings, in the form of today.

``model_type: lstm`` beside ``hidden_size: 256`` and ``lr: 0.001``, or ``model: {type: gpt2, n_embd: 64}``,
say all that is needed; only their places and names have changed.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from .foundry_sections import ARCHITECTURES
from .schema import BaseConfig, field_paths, leaves

#: What every section calls by a name of its own: width, depth, heads and so on.
_SHAPE = {
    "transformer": {
        "width": "d_model",
        "embedding": "d_model",
        "depth": "n_blocks",
        "heads": "n_heads",
        "inner": "d_ffn",
        "activation": "activation",
        "init": "init_std",
        "tied": "tied_head",
    },
    "bert": {
        "width": "hidden_size",
        "embedding": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "inner": "intermediate_size",
        "activation": "hidden_act",
        "init": "initializer_range",
        "eps": "layer_norm_eps",
    },
    "rnn": {
        "width": "hidden_size",
        "embedding": "embedding_size",
        "depth": "num_layers",
        "activation": "nonlinearity",
        "tied": "tied_head",
    },
}

#: Names seen elsewhere, by what they mean: a word of :data:`_SHAPE`, or a path.
_OTHER_NAMES = {
    "width": "d_model dim hidden_dim hidden_size model_dim n_embd n_hidden width",
    "embedding": "emb_size embed_dim embedding_dim embedding_size",
    "depth": "depth n_blocks n_layer n_layers num_blocks num_decoder_layers num_encoder_layers num_hidden_layers"
    " num_layers",
    "heads": "n_head n_heads nhead num_attention_heads num_heads",
    "inner": "d_ff d_ffn dim_feedforward ff_dim ffn_dim intermediate_size n_inner",
    "activation": "activation activation_function hidden_act nonlinearity",
    "init": "init_std initializer_range",
    "eps": "layer_norm_eps layer_norm_epsilon",
    "tied": "tie_embeddings tie_weights tie_word_embeddings tied_head weight_tying",
    "model.architecture": "arch architecture model model_type",
    "model.dropout": "attn_pdrop dropout_prob dropout_rate embd_pdrop resid_pdrop",
    "model.max_seq_len": "block_size context_length max_position_embeddings max_seq_length n_ctx n_positions",
    "data.max_length": "seq_len seq_length sequence_length",
    "data.dataset": "corpus data data_path dataset_name dataset_path",
    "data.src_path": "source_file source_path src_file",
    "data.tgt_path": "target_file target_path tgt_file",
    "tokenizer.type": "tokenizer tokenizer_name tokenizer_type",
    "training.batch_size": "bs train_batch_size",
    "training.learning_rate": "lr max_lr",
    "training.min_learning_rate": "min_lr",
    "training.schedule": "lr_schedule lr_scheduler lr_scheduler_type scheduler",
    "training.warmup_steps": "num_warmup_steps warmup",
    "training.num_epochs": "epochs n_epochs num_train_epochs",
    "training.max_steps": "max_iters num_steps total_steps",
    "training.gradient_accumulation_steps": "accumulation_steps grad_accum_steps",
    "training.clip_norm": "clip gradient_clip grad_clip max_grad_norm",
    "training.label_smoothing": "label_smoothing_factor",
    "training.early_stopping_patience": "patience",
    "training.mlm_probability": "mask_prob mlm_prob",
    "training.optimizer": "optim",
    "training.seed": "random_seed",
    "training.eval_every": "eval_interval eval_steps",
    "training.save_every": "save_interval save_steps",
    "training.log_every": "log_interval logging_steps",
    "training.output_dir": "out_dir save_dir",
}
_MEANING = {name: meaning for meaning, names in _OTHER_NAMES.items() for name in names.split()}

_OTHER_ARCHITECTURES = {
    "transformer": "custom_transformer",
    "gpt": "gpt2",
    "encoder_decoder": "seq2seq",
    "translation": "seq2seq",
}


def meant_by(name: str, values: Mapping[str, Any], schema: type[BaseConfig]) -> str | None:
    """Path of the setting that is meant by `name`, for the architecture that `values` name; None if there is none."""
    model = values.get("model")
    named = model.get("architecture") if isinstance(model, Mapping) else None
    return _path_of(name, named if isinstance(named, str) else "", set(field_paths(schema)))


def in_new_form(
    values: Mapping[str, Any], schema: type[BaseConfig]
) -> tuple[dict[str, Any], list[tuple[str, str]]] | None:
    """Flat `values` in sections; None if they are not flat.

    They are flat if no ``model.architecture`` is given, but something else that says how the model looks
    stands at the top or directly below ``model``.

    Returns
    -------
    The same settings, nested, and what could not be taken over: path and reason.
    """
    model, given = values.get("model"), dict(leaves(values))
    if isinstance(model, Mapping) and "architecture" in model:
        return None
    paths = list(field_paths(schema))
    architecture, notes = _architecture(given, paths)
    places = {path: path if path in paths else _path_of(_word(path), architecture, paths) for path in given}
    own = f"model.{ARCHITECTURES[architecture].section}."
    flat = [
        path
        for path, place in places.items()
        if path != place
        and path.rpartition(".")[0] in ("", "model")
        and (place or "").startswith("model.")
        and (place != "model.architecture" or isinstance(given[path], str))
    ]
    if not flat:
        return None
    placed: dict[str, Any] = {"model.architecture": architecture}
    for path, value in given.items():
        place = places[path]
        if place is None or (place.count(".") > 1 and not place.startswith(own)):
            notes.append((path, f"has no place with architecture {architecture}"))
        elif place == "model.architecture":
            continue
        elif placed.setdefault(place, value) != value:
            notes.append((path, f"says {place} once more; {placed[place]} was taken"))
    _complete(placed, architecture, schema)
    nested: dict[str, Any] = {}
    for path in sorted(placed, key=paths.index):
        *sections, name = path.split(".")
        place_in = nested
        for section in sections:
            place_in = place_in.setdefault(section, {})
        place_in[name] = placed[path]
    nested["model"].setdefault(ARCHITECTURES[architecture].section, {})
    return nested, notes


def _word(path: str) -> str:
    """The name that says what is set: ``lr`` of ``training.lr``, ``optimizer`` of ``optimizer.type``."""
    above, _, name = path.rpartition(".")
    if path == "type" or path in ("model.type", "model.name"):
        return "model_type"
    return above.rpartition(".")[2] if name in ("type", "name") and above else name


def _path_of(name: str, architecture: str, paths: Collection[str]) -> str | None:
    """Where the setting `name` has its place for an architecture, or None if it has none."""
    own = ARCHITECTURES[architecture].section if architecture in ARCHITECTURES else ""
    for section in ("model", f"model.{own}", "data", "tokenizer", "training"):
        if f"{section}.{name}" in paths:
            return f"{section}.{name}"
    meaning = _MEANING.get(name, "")
    ours = _SHAPE.get(own, {}).get(meaning)
    return meaning if "." in meaning else f"model.{own}.{ours}" if ours else None


def _architecture(given: Mapping[str, Any], paths: Collection[str]) -> tuple[str, list[tuple[str, str]]]:
    """The architecture that flat settings name, be it spelt otherwise; or else a guess, with a note on it."""
    named = {path: value for path, value in given.items() if _MEANING.get(_word(path)) == "model.architecture"}
    for value in named.values():
        plain = str(value).lower().replace("-", "_")
        plain = _OTHER_ARCHITECTURES.get(plain, plain)
        for known in (plain, *difflib.get_close_matches(plain, ARCHITECTURES, n=1, cutoff=0.75)):
            if known in ARCHITECTURES:
                return known, []
    guess = max(ARCHITECTURES, key=lambda name: sum(_path_of(_word(p), name, paths) is not None for p in given))
    listed = f"{guess} is a guess; wanted one of {', '.join(ARCHITECTURES)}"
    if not named:
        return guess, [("model.architecture", f"not given; {listed}")]
    return guess, [(path, f"{value!r} is no architecture; {listed}") for path, value in named.items()]


def _complete(placed: dict[str, Any], architecture: str, schema: type[BaseConfig]) -> None:
    """Add what today's form wants to be told, and a flat config left open."""
    objectives = ARCHITECTURES[architecture].objectives
    if "causal_lm" not in objectives:
        placed.setdefault("training.objective", objectives[0])
    sequence, longest = placed.get("data.max_length"), placed.get("model.max_seq_len")
    usual = schema.model_fields["data"].default.max_length
    if sequence is None and isinstance(longest, int) and longest < usual:
        placed["data.max_length"] = longest
    if longest is None and isinstance(sequence, int) and sequence > usual:
        placed["model.max_seq_len"] = sequence

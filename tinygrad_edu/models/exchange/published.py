"""The tables of the architectures whose weights are exchanged with ``transformers``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .table import Copy, Entry, Exchange, Layout

#: Settings of any architecture that would make it another model.
_OF_ANY: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": ({}, None),  # the folder brings Python code of its own
}


def _linear(ours: str, theirs: str, layout: Layout = Layout.SAME) -> list[Entry]:
    """The rows of a map with weight and bias."""
    return [Entry(f"{ours}.weight", (f"{theirs}.weight",), layout), Entry(f"{ours}.bias", (f"{theirs}.bias",))]


def _join(rows: Iterable[list[Entry]]) -> list[Entry]:
    return [entry for entries in rows for entry in entries]


# -- GPT-2 -----------------------------------------------------------------------------------------


def _gpt2(config: Any) -> list[Entry]:
    entries = [
        Entry("model.token_embedding.weight", ("transformer.wte.weight",)),
        Entry("model.position.weight", ("transformer.wpe.weight",)),
        *_linear("model.norm", "transformer.ln_f"),
        *_join(_gpt2_block(f"model.blocks.{i}.", f"transformer.h.{i}.") for i in range(config.n_layer)),
    ]
    return entries if config.tie_word_embeddings else [*entries, Entry("model.head.weight", ("lm_head.weight",))]


def _gpt2_block(ours: str, theirs: str) -> list[Entry]:
    return [
        Entry(f"{ours}self_attn.in_proj_weight", (f"{theirs}attn.c_attn.weight",), Layout.TRANSPOSED),
        Entry(f"{ours}self_attn.in_proj_bias", (f"{theirs}attn.c_attn.bias",)),
        *_linear(f"{ours}self_attn.out_proj", f"{theirs}attn.c_proj", Layout.TRANSPOSED),
        *_linear(f"{ours}linear1", f"{theirs}mlp.c_fc", Layout.TRANSPOSED),
        *_linear(f"{ours}linear2", f"{theirs}mlp.c_proj", Layout.TRANSPOSED),
        *_linear(f"{ours}norm1", f"{theirs}ln_1"),
        *_linear(f"{ours}norm2", f"{theirs}ln_2"),
    ]


# -- BERT ------------------------------------------------------------------------------------------


def _bert(config: Any) -> list[Entry]:
    head, decoder = "cls.predictions.", "cls.predictions.decoder."
    entries = [
        *(
            Entry(f"bert.{name}.weight", (f"bert.embeddings.{name}.weight",))
            for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
        ),
        *_linear("bert.norm", "bert.embeddings.LayerNorm"),
        *_join(_bert_block(f"bert.blocks.{i}.", f"bert.encoder.layer.{i}.") for i in range(config.num_hidden_layers)),
        *(_linear("bert.pooler.dense", "bert.pooler.dense") if config.add_pooling_layer else []),
        *_linear("transform", f"{head}transform.dense"),
        *_linear("transform_norm", f"{head}transform.LayerNorm"),
    ]
    if config.tie_word_embeddings:
        return [*entries, Entry("decoder_bias", (f"{head}bias",))]
    return [*entries, Entry("decoder.weight", (f"{decoder}weight",)), Entry("decoder_bias", (f"{decoder}bias",))]


def _bert_block(ours: str, theirs: str) -> list[Entry]:
    attention = f"{theirs}attention."
    packed = [
        Entry(
            f"{ours}self_attn.in_proj_{kind}",
            tuple(f"{attention}self.{part}.{kind}" for part in ("query", "key", "value")),
            Layout.STACKED,
        )
        for kind in ("weight", "bias")
    ]
    return [
        *packed,
        *_linear(f"{ours}self_attn.out_proj", f"{attention}output.dense"),
        *_linear(f"{ours}norm1", f"{attention}output.LayerNorm"),
        *_linear(f"{ours}linear1", f"{theirs}intermediate.dense"),
        *_linear(f"{ours}linear2", f"{theirs}output.dense"),
        *_linear(f"{ours}norm2", f"{theirs}output.LayerNorm"),
    ]


def _bert_copies(config: Any) -> list[Copy]:
    head, decoder = "cls.predictions.", "cls.predictions.decoder."
    if config.tie_word_embeddings:
        return [
            Copy(f"{decoder}weight", "bert.embeddings.word_embeddings.weight"),
            Copy(f"{decoder}bias", f"{head}bias"),
        ]
    return [Copy(f"{head}bias", f"{decoder}bias", equal=False, written=True)]  # it is there, and nothing reads it


# -- all of them -----------------------------------------------------------------------------------

EXCHANGES = {
    "gpt2": Exchange(
        "GPT2LMHeadModel",
        _gpt2,
        lambda c: [Copy("lm_head.weight", "transformer.wte.weight")] if c.tie_word_embeddings else [],
        prefix="transformer.",
        head=("lm_head.",),
        unread=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),  # the causal mask, as old files keep it
        must_be={**_OF_ANY, "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,)},
        defaults={"bos_token_id": 50256, "eos_token_id": 50256},
        own=("seed", "device", "checkpointing"),
    ),
    "bert": Exchange(
        "BertForMaskedLM",
        _bert,
        _bert_copies,
        prefix="bert.",
        head=("cls.",),
        renamed={".gamma": ".weight", ".beta": ".bias"},
        unread=(
            r"cls\.seq_relationship\..*",  # the other task of BERT's own training
            r"bert\.pooler\..*",
            r"bert\.embeddings\.(position_ids|token_type_ids)",  # constants, as old files keep them
        ),
        must_be={**_OF_ANY, "is_decoder": (False,), "position_embedding_type": ("absolute", None)},
        own=("seed", "device", "checkpointing", "add_pooling_layer"),
    ),
}

"""Pairs of texts for a run: from a task or two files to ids in splits; and texts to their translations."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backend import to_host
from ..data import (
    DataLoader,
    Seq2SeqDataCollator,
    Tokenizer,
    load_parallel_text,
    load_tokenizer,
    make_task_pairs,
    split_pairs,
    train_joint_bpe_tokenizer,
    train_tokenizer_from_config,
)
from ..data.padding import padded, row_of
from ..data.tokenizers.factory import TRANSLATION_TOKENS
from ..errors import ConfigError, DataError, ShapeError
from ..models import BaseLanguageModel
from .foundry_sections import TRAINED_TOKENIZERS

HELD_OUT = 0.05  #: share of the pairs for validation, and for testing
Pair = tuple[str, str]
Example = tuple[list[int], list[int]]


@dataclass(frozen=True)
class PairData:
    """Pairs by split, the tokenizer of both sides, and the pairs as ids.

    Attributes
    ----------
    name : of the task, or the two files
    pairs : those that are not too long, by split
    examples : ids of source and target of the same pairs; the target is without its end
    left_out : how many pairs of all splits were longer than ``data.max_length``
    content_hash : SHA-256, in hexadecimal, over all pairs and which split each is in
    """

    name: str
    tokenizer: Tokenizer
    pairs: Mapping[str, list[Pair]]
    examples: Mapping[str, list[Example]]
    left_out: int
    content_hash: str

    def document(self) -> dict[str, Any]:
        """What a checkpoint says of the data it was trained on; the tokenizer is in it whole."""
        with tempfile.TemporaryDirectory() as folder:
            text = self.tokenizer.save(folder).read_text(encoding="utf-8")
        return {
            "corpus": self.name,
            "content_hash": self.content_hash,
            "tokenizer": self.tokenizer.fingerprint,
            "tokenizer_json": text,
        }

    def loader(self, split: str, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> DataLoader:
        """Batches of about equal lengths, ``input_ids``, ``attention_mask`` and ``labels``."""
        collate = Seq2SeqDataCollator(self.tokenizer)
        return DataLoader(self.examples[split], batch_size, collate, shuffle, seed, sort_by_length=True)


def prepare_pairs(config: Any, tokenizer: Tokenizer | None = None) -> PairData:
    """Make or read the pairs, divide them, train or load the tokenizer, and encode them.

    Pairs of which a side is longer than ``data.max_length`` tokens, the end included, are left out.

    Parameters
    ----------
    config : its sections data, tokenizer and training are used
    tokenizer : take this one instead, as when a trained model is evaluated

    Raises
    ------
    ConfigError, DataError
        Naming what is wrong.
    """
    name, splits = _split_pairs(config)
    if tokenizer is None:
        tokenizer = _tokenizer(config, splits["train"])
    for role in ("pad", "bos", "eos"):
        tokenizer.require(role, "a model that translates")
    pairs: dict[str, list[Pair]] = {}
    examples: dict[str, list[Example]] = {}
    content, left_out, longest = hashlib.sha256(), 0, config.data.max_length
    for split, all_of_it in splits.items():
        content.update(f"{split}\0".encode())
        content.update("".join(f"{source}\n{target}\0" for source, target in all_of_it).encode())
        sides = (tokenizer.encode_batch([pair[side] for pair in all_of_it]) for side in (0, 1))
        encoded = zip(all_of_it, *sides, strict=True)
        kept = [(pair, (s, t)) for pair, s, t in encoded if len(s) <= longest and len(t) < longest]
        if not kept:
            raise DataError(
                f"{name}: of the {len(all_of_it):,} pairs of the split {split} none is at most data.max_length "
                f"{longest} tokens long on both sides; make it larger"
            )
        pairs[split], examples[split] = [pair for pair, _ in kept], [ids for _, ids in kept]
        left_out += len(all_of_it) - len(kept)
    return PairData(name, tokenizer, pairs, examples, left_out, content.hexdigest())


def _split_pairs(config: Any) -> tuple[str, dict[str, list[Pair]]]:
    """Name and pairs of each split. They do not depend on the seed of the training, so that runs can be compared."""
    data = config.data
    if data.task is not None:
        return data.task, make_task_pairs(data.task, data.task_size, validation=HELD_OUT, test=HELD_OUT)
    pairs = load_parallel_text(data.src_path, data.tgt_path)
    if data.use_subset:
        pairs = pairs[: data.subset_size]
    splits = split_pairs(pairs, HELD_OUT, HELD_OUT)
    empty = [split for split, some in splits.items() if not some]
    if empty:
        raise DataError(
            f"{data.src_path}: {len(pairs):,} pairs are too few: none is left for {', '.join(empty)}; wanted at "
            "least 3 with different sources"
        )
    return f"{data.src_path} and {data.tgt_path}", splits


def _tokenizer(config: Any, pairs: Sequence[Pair]) -> Tokenizer:
    """Trained on both sides of the training pairs, or loaded."""
    wanted = config.tokenizer
    if wanted.type not in TRAINED_TOKENIZERS:
        return load_tokenizer(wanted.type)
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    if wanted.type == "bpe" and wanted.special_tokens is None:
        return train_joint_bpe_tokenizer(sources, targets, wanted.vocab_size, wanted.min_frequency)
    settings = {
        "type": wanted.type,
        "vocab_size": wanted.vocab_size,
        "min_frequency": wanted.min_frequency,
        "special_tokens": wanted.special_tokens or TRANSLATION_TOKENS,
    }
    return train_tokenizer_from_config(settings, texts=[*sources, *targets])


def use_tokens_of(model: BaseLanguageModel, tokenizer: Tokenizer) -> None:
    """Let a translating model begin, end and pad with the special tokens of `tokenizer`."""
    for role in ("pad", "bos", "eos"):
        setattr(model.config, f"{role}_token_id", tokenizer.require(role, "a model that translates"))


def translate(
    model: BaseLanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
) -> list[str]:
    """Translate texts, those of about equal length together.

    Parameters
    ----------
    model, tokenizer : that belong together
    texts : what is to be translated
    num_beams, length_penalty : as :meth:`tinygrad_edu.models.BaseLanguageModel.generate` takes them
    max_new_tokens : longest translation, its end included; what the model can give if None
    batch_size : texts that are translated at once

    Raises
    ------
    ConfigError, DataError, ShapeError
        For a model that does not translate, a text without tokens, or one that is too long for the model.
    """
    if model.objective != "translation":
        raise ConfigError(f"translate: {model.model_type} learned {model.objective}, and translates nothing")
    if isinstance(texts, str):
        raise ConfigError("texts: one string, wanted a list of texts; put it in a list")
    pad = tokenizer.require("pad", "translating")
    rows = [row_of(ids, f"text {number}", None) for number, ids in enumerate(tokenizer.encode_batch(list(texts)))]
    for number, row in enumerate(rows):
        if not 0 < len(row) <= model.max_seq_len:
            wanted = f"wanted 1 to the model's max_seq_len {model.max_seq_len}"
            raise ShapeError(f"text {number}: {len(row)} tokens, {wanted}")
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    found = [""] * len(rows)
    for at in range(0, len(order), batch_size):
        numbers = order[at : at + batch_size]
        source = padded([rows[number] for number in numbers], pad, None)
        mask = padded([row * 0 + 1 for row in (rows[number] for number in numbers)], 0, None)
        out = model.generate(
            source,
            max_new_tokens=model.max_seq_len if max_new_tokens is None else min(max_new_tokens, model.max_seq_len),
            num_beams=num_beams,
            length_penalty=length_penalty,
            attention_mask=mask,
        )
        for number, ids in zip(numbers, to_host(out), strict=True):
            found[number] = tokenizer.decode(ids.tolist())
    return found

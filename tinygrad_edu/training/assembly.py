"""From settings to the parts of a run: data, tokenizer, model; and back from a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backend import cuda_available
from ..data import Corpus, TokenFile, Tokenizer, corpus_tokenizer, load_corpus, load_tokenizer, prepare_tokens
from ..errors import CheckpointError, ConfigError, ShapeError
from ..models import CustomTransformerConfig, CustomTransformerWrapper
from ..storage import Checkpoint
from .config import make_config
from .schema import RunConfig


@dataclass(frozen=True)
class TextData:
    """A corpus, its tokenizer, and its tokens by split."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: Mapping[str, TokenFile]

    def document(self) -> dict[str, Any]:
        """What a checkpoint says of the data it was trained on; the tokenizer is in it whole."""
        with tempfile.TemporaryDirectory() as folder:
            text = self.tokenizer.save(folder).read_text(encoding="utf-8")
        return {
            "corpus": self.corpus.name,
            "content_hash": self.corpus.content_hash,
            "tokenizer": self.tokenizer.fingerprint,
            "tokenizer_json": text,
        }


def prepare_data(config: RunConfig, tokenizer: Tokenizer | None = None) -> TextData:
    """Load the corpus, train or load the tokenizer, and write the tokens (or take all that from the cache).

    Parameters
    ----------
    config : its sections data and tokenizer are used
    tokenizer : take this one instead, as when a trained model is evaluated

    Raises
    ------
    ConfigError, DataError
        Naming what is wrong.
    """
    data = config.data
    corpus = load_corpus(
        data.dataset, text_column=data.text_column, use_subset=data.use_subset, subset_size=data.subset_size
    )
    if tokenizer is None and config.tokenizer.type == "bpe":
        tokenizer = corpus_tokenizer(corpus, config.tokenizer.vocab_size)
    elif tokenizer is None:
        tokenizer = load_tokenizer(config.tokenizer.type)
    return TextData(corpus, tokenizer, prepare_tokens(corpus, tokenizer))


def build_model(config: RunConfig, vocab_size: int) -> CustomTransformerWrapper:
    """A new CustomTransformer of the size that `config` asks for."""
    model, training = config.model, config.training
    return CustomTransformerWrapper(
        CustomTransformerConfig(
            vocab_size=vocab_size,
            max_seq_len=model.max_seq_len,
            n_blocks=model.n_blocks,
            n_heads=model.n_heads,
            d_model=model.d_model,
            d_ffn=model.d_ffn or 4 * model.d_model,
            dropout=model.dropout,
            position=model.position,
            norm_placement=model.norm_placement,
            activation=model.activation,
            tied_head=model.tied_head,
            init_std=model.init_std,
            seed=training.seed,
            device=training.device,
        )
    )


def restore_model(
    checkpoint: Checkpoint, device: str | None = None
) -> tuple[RunConfig, CustomTransformerWrapper, Tokenizer]:
    """The settings, the trained model and the tokenizer that a run's checkpoint holds.

    Parameters
    ----------
    checkpoint : as :func:`tinygrad_edu.storage.load_checkpoint` gives it
    device : where the model goes; if None, where it was trained, or the CPU if there is no such device here

    Raises
    ------
    CheckpointError
        If one of them is missing from it or does not fit the others.
    """
    documents = checkpoint.documents
    missing = [name for name in ("config", "data") if not isinstance(documents.get(name), Mapping)]
    if missing or "model" not in checkpoint.arrays:
        lacking = ", ".join(missing or ["model"])
        raise CheckpointError(f"{checkpoint.path}: holds no {lacking}; wanted a checkpoint of a training run")
    try:
        config: RunConfig = make_config(documents["config"], where=f"{checkpoint.path / 'config.json'}")
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    text = documents["data"].get("tokenizer_json")
    if not isinstance(text, str):
        raise CheckpointError(f"{checkpoint.path}: data.json holds no tokenizer_json")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        file.write_text(text, encoding="utf-8")
        tokenizer = load_tokenizer(file)
    trained_on = config.training.device
    device = device or ("cpu" if trained_on == "cuda" and not cuda_available() else trained_on)
    training = config.training.model_copy(update={"device": device})
    model = build_model(config.model_copy(update={"training": training}), tokenizer.vocab_size)
    try:
        model.load_state_dict(checkpoint.arrays["model"])
    except ShapeError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    return config, model, tokenizer

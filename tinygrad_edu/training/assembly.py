"""From settings to the parts of a run: data, tokenizer, model; and back from a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import cuda_available
from ..data import Corpus, TokenFile, Tokenizer, corpus_tokenizer, load_corpus, load_tokenizer, prepare_tokens
from ..data.tokenizers import END_OF_TEXT
from ..errors import CheckpointError, ConfigError, ShapeError
from ..models import BaseLanguageModel, create_model_from_config
from ..storage import Checkpoint
from .config import make_config
from .foundry_schema import FoundryConfig
from .foundry_sections import TRAINED_TOKENIZERS
from .schema import RunConfig

#: Of a tokenizer for a masked model, where the settings name none: BERT's.
MASKED_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class TextData:
    """A corpus, its tokenizer, and its tokens by split."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: Mapping[str, TokenFile]

    def token_bytes(self, split: str) -> NDArray[np.float64]:
        """Bytes of text that each id stands for, (V,), so that those of a whole split sum up to its bytes.

        A byte-level BPE has exact lengths. The others drop something, such as the spaces of WordPiece, whose
        bytes are then spread over all tokens in proportion.
        """
        tokens, lengths = self.tokens[split], self.tokenizer.token_bytes().astype(np.float64)
        if self.tokenizer.kind != "bpe":
            lengths *= tokens.text_bytes / max(1.0, lengths[np.asarray(tokens.ids)].sum())
        return lengths

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


def prepare_data(config: Any, tokenizer: Tokenizer | None = None) -> TextData:
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
    if tokenizer is None:
        tokenizer = _tokenizer(config, corpus)
    return TextData(corpus, tokenizer, prepare_tokens(corpus, tokenizer))


def _tokenizer(config: Any, corpus: Corpus) -> Tokenizer:
    """Trained on the corpus, or loaded."""
    wanted = config.tokenizer
    if wanted.type not in TRAINED_TOKENIZERS:
        return load_tokenizer(wanted.type)
    if getattr(config.training, "objective", "causal_lm") == "masked_lm":
        special = wanted.special_tokens or MASKED_TOKENS
    else:
        special = getattr(wanted, "special_tokens", None) or (END_OF_TEXT,)
    return corpus_tokenizer(
        corpus,
        wanted.vocab_size,
        kind=wanted.type,
        special_tokens=special,
        min_frequency=getattr(wanted, "min_frequency", 2),
    )


def build_model(config: Any, vocab_size: int) -> BaseLanguageModel:
    """A new model of the architecture and size that `config` asks for."""
    if hasattr(config.model, "architecture"):
        return create_model_from_config(config, vocab_size)
    settings = config.model_dump()
    settings["model"] |= {"architecture": "custom_transformer"}  # the one that such settings are for
    return create_model_from_config(settings, vocab_size)


def config_of(checkpoint: Checkpoint) -> Any:
    """The settings of the run that saved `checkpoint`.

    Their schema is the library's own, or else a subclass of it that allows them: it is known once the module that
    defines it is imported, as the architecture is for which it has a section.

    Raises
    ------
    CheckpointError
        If it holds none, or some that are not allowed.
    """
    settings = checkpoint.documents.get("config")
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{checkpoint.path}: holds no config; wanted a checkpoint of a training run")
    model = settings.get("model")
    schema: type[Any] = FoundryConfig if isinstance(model, Mapping) and "architecture" in model else RunConfig
    refused: ConfigError | None = None
    for candidate in (schema, *_subclasses(schema)):
        try:
            return make_config(settings, schema=candidate, where=f"{checkpoint.path / 'config.json'}")
        except ConfigError as error:
            refused = refused or error
    data = checkpoint.documents.get("data")
    if not (isinstance(data, Mapping) and "tokenizer_json" in data):
        raise CheckpointError(
            f"{checkpoint.path}: holds no tokenizer, so it is not of a language model; use the program that trained it"
        ) from refused
    raise CheckpointError(
        f"{refused}\nIf the run had a schema of your own, import the module that defines it first"
    ) from refused


def _subclasses(schema: type[Any]) -> list[type[Any]]:
    """All that are derived from `schema`, each before those derived from it."""
    return [found for child in schema.__subclasses__() for found in (child, *_subclasses(child))]


def restore_model(checkpoint: Checkpoint, device: str | None = None) -> tuple[Any, BaseLanguageModel, Tokenizer]:
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
    config = config_of(checkpoint)
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
    # Where averaged weights were kept, they are what was measured, and what is to be used.
    weights = checkpoint.arrays.get("ema") or checkpoint.arrays["model"]
    try:
        model.load_state_dict(weights)
    except ShapeError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    return config, model, tokenizer

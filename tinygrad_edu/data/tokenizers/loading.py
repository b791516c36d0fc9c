"""Tokenizers from files, folders and the hub, and the tokenizer of a corpus, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, DataError
from ..files import default_cache_dir, whole_file
from . import training
from .special import END_NAMES, END_OF_TEXT, ROLES
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..corpora import Corpus


def corpus_tokenizer(
    corpus: Corpus,
    vocab_size: int,
    kind: str = "bpe",
    *,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    min_frequency: int = 2,
    cache_dir: str | Path | None = None,
) -> Tokenizer:
    """Return the tokenizer of a corpus's training split, trained now or taken from the cache.

    The cache is `cache_dir` or `tinygrad_edu.data.default_cache_dir`; its key is the corpus's content hash
    and the settings. A cached file whose hash is wrong is made anew, with a warning.

    Parameters
    ----------
    corpus : Corpus
    vocab_size : int
    kind : str
        One of `tinygrad_edu.data.KINDS`: ``bpe``, ``wordpiece``, ``sentencepiece`` (also called
        ``unigram``) or ``character``.
    special_tokens, min_frequency
        As for `tinygrad_edu.data.train_bpe`. One special token must end documents: one of `END_NAMES`, or
        ``[SEP]``.

    Raises
    ------
    ConfigError, DataError
        As training does.
    """
    import tokenizers

    kind = training.check_kind(kind)
    special = training.special_tokens_for(kind, special_tokens)
    training.check_settings(vocab_size, min_frequency)
    if not any(name in (*END_NAMES, *ROLES["sep"]) for name in special):
        raise ConfigError(
            f"special_tokens: {special!r} has none that ends a document; wanted one of "
            f"{', '.join((*END_NAMES, *ROLES['sep']))}"
        )
    settings = [corpus.content_hash, kind, vocab_size, list(special), min_frequency, tokenizers.__version__]
    key = hashlib.sha256(json.dumps([training.FORMAT, *settings]).encode()).hexdigest()[:24]
    file = Path(cache_dir or default_cache_dir()) / "tokenizers" / f"{kind}-{vocab_size}-{key}.json"
    sum_file = file.with_suffix(".sha256")
    if file.is_file() and sum_file.is_file():
        if hashlib.sha256(file.read_bytes()).hexdigest() == sum_file.read_text("ascii", errors="replace"):
            return load_tokenizer(file)
        warnings.warn(f"{file}: damaged (its SHA-256 is not that in {sum_file.name}); trained anew", stacklevel=2)
    tokenizer = training.train(
        kind, corpus.splits["train"], vocab_size, special_tokens=special, min_frequency=min_frequency
    )
    tokenizer.save(file)
    with whole_file(sum_file) as out:
        out.write(hashlib.sha256(file.read_bytes()).hexdigest().encode())
    return tokenizer


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Load a tokenizer of any kind.

    Parameters
    ----------
    name_or_path : str or Path
        A ``tokenizer.json``; a folder with one, or with GPT-2's ``vocab.json`` and ``merges.txt``; or the
        name of a repository on the hub, such as ``gpt2``. What exists as a path is taken as a path. Names
        that the ``tokenizer_config.json`` or ``special_tokens_map.json`` beside it gives to special tokens
        are known; a file alone is read for the usual names.

    Raises
    ------
    DataError
        When it cannot be found or read.
    """
    path = Path(name_or_path).expanduser()
    name = str(name_or_path)
    if path.is_dir():
        file = path / "tokenizer.json"
        if not file.is_file() and (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return _load_vocabulary(path)
        if not file.is_file():
            raise DataError(f"{file}: no such tokenizer file; wanted a tokenizer.json, or vocab.json and merges.txt")
        return Tokenizer(_read(file), str(file), _named_roles(path))
    if path.is_file():
        return Tokenizer(_read(path), str(path))
    if path.suffix == ".json" or path.is_absolute() or name.startswith((".", "~")):
        raise DataError(f"{path}: no such tokenizer file; wanted a tokenizer.json, or vocab.json and merges.txt")
    return _fetch(name)


def _read(file: Path) -> Any:
    from tokenizers import Tokenizer as Inner

    try:
        return Inner.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{file}: cannot be read as a tokenizer: {error}") from error


def _named_roles(folder: Path) -> dict[str, str]:
    """Return the names that the files beside ``tokenizer.json`` give to special tokens, by role."""
    named = {}
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        if not file.is_file():
            continue
        try:
            values = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file}: cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise DataError(f"{file}: {type(values).__name__}, wanted an object")
        for role in ROLES:
            value = values.get(f"{role}_token")
            value = value.get("content") if isinstance(value, dict) else value  # an AddedToken, written out
            if isinstance(value, str):
                named[role] = value
    return named


def _load_vocabulary(folder: Path) -> Tokenizer:
    """Make GPT-2's tokenizer from ``vocab.json`` and ``merges.txt``."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Inner

    try:
        inner = Inner(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{folder}: vocab.json and merges.txt cannot be read: {error}") from error
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if inner.token_to_id(END_OF_TEXT) is not None:
        inner.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return Tokenizer(inner, str(folder), _named_roles(folder))


def _fetch(name: str) -> Tokenizer:
    """Fetch a tokenizer from the hub, or from the hub client's cache."""
    from huggingface_hub import hf_hub_download

    from ..hub import quick_offline

    with quick_offline() as online:
        try:
            file = Path(hf_hub_download(name, "tokenizer.json"))
        except Exception as error:  # the client raises a dozen types of four libraries
            reason = (
                " ".join(str(error).split())[:300] if online else "the hub cannot be reached, and its cache has none"
            )
            raise DataError(
                f"tokenizer {name!r}: {reason}; give a local tokenizer.json, or train one with train_bpe, "
                "which needs no download"
            ) from error
        for beside in ("special_tokens_map.json", "tokenizer_config.json"):
            try:
                hf_hub_download(name, beside)  # into the same folder of the client's cache
            except Exception as error:  # not every repository has it
                if online and "404" not in str(error):
                    warnings.warn(f"tokenizer {name!r}: {beside} could not be fetched: {error}", stacklevel=3)
    return Tokenizer(_read(file), name, _named_roles(file.parent))

"""Byte-level BPE tokenizers: trained here, read from a file, or fetched from the hub.

Byte-level means that the smallest tokens are the 256 bytes, so any text can be encoded and comes back
exactly, and each token stands for a known number of bytes, which bits per byte needs.
Source: Sennrich et al., 2016 (BPE); Radford et al., 2019 (on bytes).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, DtypeError, RangeError
from .files import default_cache_dir, whole_file

if TYPE_CHECKING:
    from .corpora import Corpus

END_OF_TEXT = "<|endoftext|>"
#: Names by which the token that ends a document is found; the lowest id wins.
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")


def byte_alphabet() -> dict[str, int]:
    """Return the 256 characters in which byte-level tokens are written, each with the byte it stands for.

    Printable bytes of Latin-1 stand for themselves, the other 68 for the characters from U+0100 on (GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Tokenizer:
    """A byte-level BPE tokenizer: text to ids and back.

    Special tokens never come out of text: ``<|endoftext|>`` written in a document is encoded as ordinary
    characters, so a document can neither end itself nor change in going there and back.

    Parameters
    ----------
    inner : tokenizers.Tokenizer
        The tokenizer of the `tokenizers` library. Its padding and truncation are switched off.
    where : str
        Where it came from, for messages.

    Attributes
    ----------
    vocab_size : int
        Number of ids, special ones included; every id is below it.
    eos_token_id : int or None
        The id that ends a document, found by its name (`END_NAMES`).
    fingerprint : str
        SHA-256, in hexadecimal, over vocabulary, merges and rules: equal when every text is encoded equally.

    Raises
    ------
    DataError
        When it is not a byte-level BPE, or lacks some of the 256 bytes.
    """

    def __init__(self, inner: Any, where: str = "tokenizer") -> None:
        rules = json.loads(inner.to_str())
        kind = rules["model"].get("type")
        if kind != "BPE" or '"ByteLevel"' not in json.dumps(rules["decoder"]):
            raise DataError(
                f"{where}: a {kind or 'different'} tokenizer; wanted a byte-level BPE, "
                "which gives any text back exactly"
            )
        vocabulary: dict[str, int] = rules["model"]["vocab"]
        lacking = [byte for character, byte in byte_alphabet().items() if character not in vocabulary]
        if lacking:
            raise DataError(
                f"{where}: {len(lacking)} of the 256 bytes have no token, the first 0x{min(lacking):02x}; "
                "text that holds them could not be encoded"
            )
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True
        self._inner, self._rules, self.where = inner, rules, where
        self._added = {token["id"]: token for token in rules["added_tokens"]}
        names: dict[str, int] = inner.get_vocab(with_added_tokens=True)
        self._ids = frozenset(names.values())
        self.vocab_size = max(self._ids) + 1
        self.eos_token_id: int | None = min((names[name] for name in END_NAMES if name in names), default=None)
        self.fingerprint = _fingerprint(rules)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens.

        Raises
        ------
        DtypeError
            When `text` is not a string, or holds an unpaired surrogate, which no bytes stand for.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, encoded on all cores. Raises as `encode` does, with its position."""
        try:
            encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            for position, text in enumerate(texts):
                if not isinstance(text, str):
                    raise DtypeError(f"text {position} is {type(text).__name__}, wanted str") from error
                with contextlib.suppress(UnicodeEncodeError):
                    text.encode()
                    continue
                raise DtypeError(f"text {position} holds an unpaired surrogate; it is not Unicode text") from error
            raise
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`. Bytes that are not UTF-8, as a cut-off text may end in, become U+FFFD.

        Raises
        ------
        RangeError
            When an id has no token, with its position.
        DtypeError
            When an id is not an integer.
        """
        values = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if values.size and values.dtype.kind not in "iu":
            raise DtypeError(f"ids: dtype {values.dtype}, wanted integers")
        if values.ndim != 1:
            raise DtypeError(f"ids: {values.ndim} axes, wanted 1; decode one row at a time")
        numbers = values.tolist()
        for position, number in enumerate(numbers):
            if number not in self._ids:
                raise RangeError(
                    f"ids: id {number} at position {position} has no token; wanted 0 to {self.vocab_size - 1}"
                )
        text: str = self._inner.decode(numbers, skip_special_tokens=skip_special_tokens)
        return text

    def token_bytes(self) -> NDArray[np.int64]:
        """Return how many bytes of text each id stands for, shape ``(vocab_size,)``; 0 for special tokens."""
        lengths = np.zeros(self.vocab_size, np.int64)
        for token, number in self._rules["model"]["vocab"].items():
            lengths[number] = len(token)  # one character of the alphabet is one byte
        for number, token in self._added.items():
            lengths[number] = 0 if token["special"] else len(token["content"].encode())
        return lengths

    def save(self, path: str | Path) -> Path:
        """Write the tokenizer to `path`, a ``.json`` file, or a folder that gets a ``tokenizer.json``.

        Returns
        -------
        Path
            The file, which `load_tokenizer` and the `tokenizers` library can read.
        """
        path = Path(path)
        file = path if path.suffix == ".json" else path / "tokenizer.json"
        with whole_file(file) as out:
            out.write(self._inner.to_str(pretty=True).encode())
        return file

    def __repr__(self) -> str:
        return f"<Tokenizer {self.where}: {self.vocab_size:,} ids, sha256 {self.fingerprint[:12]}>"


def _fingerprint(rules: dict[str, Any]) -> str:
    """Hash what decides how text is encoded, in a form that is the same for old and new library versions."""
    model = rules["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    essence = {
        "vocabulary": model["vocab"],
        "merges": merges,
        "added": sorted((token["id"], token["content"], token["special"]) for token in rules["added_tokens"]),
        "normalizer": rules["normalizer"],
        "pre_tokenizer": rules["pre_tokenizer"],
    }
    return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()


def _check_training(vocab_size: int, special_tokens: Sequence[str], min_frequency: int) -> None:
    """Raise ConfigError unless a vocabulary of this size can be trained."""
    if isinstance(special_tokens, str) or not special_tokens or not all(special_tokens):
        raise ConfigError(f"special_tokens: {special_tokens!r}; wanted a sequence of names, the end of text first")
    if special_tokens[0] not in END_NAMES:
        raise ConfigError(
            f"special_tokens: {special_tokens[0]!r} comes first; wanted one of {END_NAMES}, the names by "
            "which the token that ends a document is known when the tokenizer is loaded again"
        )
    if len(set(special_tokens)) != len(special_tokens):
        raise ConfigError(f"special_tokens: {special_tokens!r} names one twice")
    least = 256 + len(special_tokens)
    if isinstance(vocab_size, bool) or not isinstance(vocab_size, int) or vocab_size < least:
        raise ConfigError(
            f"vocab_size: {vocab_size!r}; wanted an integer of at least {least} "
            f"(256 bytes and {len(special_tokens)} special)"
        )
    if isinstance(min_frequency, bool) or not isinstance(min_frequency, int) or min_frequency < 1:
        raise ConfigError(f"min_frequency: {min_frequency!r}; wanted an integer of at least 1")


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    min_frequency: int = 2,
) -> Tokenizer:
    """Train a byte-level BPE. The same texts and settings always give the same tokenizer.

    Parameters
    ----------
    texts : iterable of str
        Read once; need not fit in memory.
    vocab_size : int
        Ids wanted, the 256 bytes and the special tokens included. Fewer come out if the texts hold too few
        pairs that occur `min_frequency` times.
    special_tokens : sequence of str
        Get the lowest ids in this order; the first ends documents, and must be one of `END_NAMES`.
    min_frequency : int
        A pair must occur so often to be merged.

    Raises
    ------
    ConfigError
        When an argument has a value that is not allowed.
    DataError
        When there is no text.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    _check_training(vocab_size, special_tokens, min_frequency)
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=min_frequency,
        show_progress=False,
    )
    characters = 0

    def counted() -> Iterable[str]:
        nonlocal characters
        for text in texts:
            characters += len(text)
            yield text

    inner.train_from_iterator(counted(), trainer)
    if not characters:
        raise DataError("texts: no text to train a tokenizer on")
    return Tokenizer(inner, f"bpe-{vocab_size}")


def corpus_tokenizer(
    corpus: Corpus,
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    min_frequency: int = 2,
    cache_dir: str | Path | None = None,
) -> Tokenizer:
    """Return the BPE of a corpus's training split, trained now or taken from the cache.

    The cache is `cache_dir` or `tinygrad_edu.data.default_cache_dir`; its key is the corpus's content hash
    and the settings. A cached file whose hash is wrong is made anew, with a warning.
    """
    import tokenizers

    _check_training(vocab_size, special_tokens, min_frequency)
    settings = [corpus.content_hash, vocab_size, list(special_tokens), min_frequency, tokenizers.__version__]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:24]
    file = Path(cache_dir or default_cache_dir()) / "tokenizers" / f"bpe-{vocab_size}-{key}.json"
    sum_file = file.with_suffix(".sha256")
    if file.is_file() and sum_file.is_file():
        if hashlib.sha256(file.read_bytes()).hexdigest() == sum_file.read_text("ascii", errors="replace"):
            return load_tokenizer(file)
        warnings.warn(f"{file}: damaged (its SHA-256 is not that in {sum_file.name}); trained anew", stacklevel=2)
    tokenizer = train_bpe(
        corpus.splits["train"], vocab_size, special_tokens=special_tokens, min_frequency=min_frequency
    )
    tokenizer.save(file)
    with whole_file(sum_file) as out:
        out.write(hashlib.sha256(file.read_bytes()).hexdigest().encode())
    return tokenizer


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Load a byte-level BPE tokenizer.

    Parameters
    ----------
    name_or_path : str or Path
        A ``tokenizer.json``; a folder with one, or with GPT-2's ``vocab.json`` and ``merges.txt``; or the
        name of a repository on the hub, such as ``gpt2``. What exists as a path is taken as a path.

    Raises
    ------
    DataError
        When it cannot be found, read, or is not a byte-level BPE.
    """
    from tokenizers import Tokenizer as Inner

    path = Path(name_or_path).expanduser()
    name = str(name_or_path)
    if path.is_dir():
        file = path / "tokenizer.json"
        if not file.is_file() and (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
            return _load_vocabulary(path)
        path = file
    if path.is_file():
        try:
            inner = Inner.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{path}: cannot be read as a tokenizer: {error}") from error
        return Tokenizer(inner, str(path))
    if path.suffix == ".json" or path.is_absolute() or name.startswith((".", "~")):
        raise DataError(f"{path}: no such tokenizer file; wanted a tokenizer.json, or vocab.json and merges.txt")
    return Tokenizer(_fetch(name), name)


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
    return Tokenizer(inner, str(folder))


def _fetch(name: str) -> Any:
    """Fetch a tokenizer from the hub, or from the hub client's cache."""
    from huggingface_hub import hf_hub_download
    from tokenizers import Tokenizer as Inner

    from .hub import quick_offline

    with quick_offline() as online:
        try:
            return Inner.from_file(hf_hub_download(name, "tokenizer.json"))
        except Exception as error:  # the client raises a dozen types of four libraries
            reason = (
                " ".join(str(error).split())[:300] if online else "the hub cannot be reached, and its cache has none"
            )
            raise DataError(
                f"tokenizer {name!r}: {reason}; give a local tokenizer.json, or train one with train_bpe, "
                "which needs no download"
            ) from error

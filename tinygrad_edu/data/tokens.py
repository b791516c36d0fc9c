"""The tokens of a split in one memory-mapped file, so that a corpus larger than memory can be trained on.

``train.bin`` holds nothing but the ids, little-endian, in the smallest unsigned integer that fits the
vocabulary: first the end-of-text token, so that the first real token is predicted too, then each document
followed by it. ``train.json`` beside it says what they are, and their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from .corpora import SPLITS, Corpus
from .files import default_cache_dir, make_folder, whole_file
from .tokenizers import Tokenizer

FORMAT = 1
_CHUNK = 1 << 20  # characters encoded, or ids verified, at a time


@dataclass(frozen=True)
class TokenInfo:
    """What the JSON beside a token file says."""

    format: int
    dtype: str
    count: int  #: ids in the file
    vocab_size: int
    text_bytes: int  #: length of the documents in UTF-8
    documents: int
    tokenizer: str  #: `Tokenizer.fingerprint`
    corpus: str  #: `Corpus.content_hash`
    sha256: str  #: of the file of ids


def smallest_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest little-endian unsigned integer type that holds ids below `vocab_size`."""
    for name, limit in (("u1", 1 << 8), ("<u2", 1 << 16), ("<u4", 1 << 32)):
        if 0 < vocab_size <= limit:
            return np.dtype(name)
    raise ConfigError(f"vocab_size: {vocab_size}; wanted 1 to {1 << 32}")


class TokenFile:
    """An open token file: its ids as a read-only memory-mapped array, and what is known of them.

    Attributes
    ----------
    ids : ndarray
        Shape ``(count,)``, unsigned; pages are read from disk when touched.
    info : TokenInfo
    """

    def __init__(self, path: Path, info: TokenInfo, ids: NDArray[Any]) -> None:
        self.path, self.info, self.ids = path, info, ids

    def __len__(self) -> int:
        return self.info.count

    @property
    def sha256(self) -> str:
        """SHA-256 of the ids as they lie in the file."""
        return self.info.sha256

    @property
    def vocab_size(self) -> int:
        """Every id is below this."""
        return self.info.vocab_size

    @property
    def text_bytes(self) -> int:
        """Length of the documents in UTF-8 bytes."""
        return self.info.text_bytes

    def __repr__(self) -> str:
        return f"<TokenFile {self.path}: {self.info.count:,} ids below {self.info.vocab_size:,}>"

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> TokenFile:
        """Open a file written by `write_tokens`.

        Parameters
        ----------
        path : str or Path
            The ``.bin`` file; its ``.json`` stands beside it.
        verify : bool
            Read the file once to compare its SHA-256 and check that each id is below the vocabulary size.
            The size is compared in any case.

        Raises
        ------
        DataError
            When either file is missing or damaged, naming it with the value found and the value wanted.
        """
        path = Path(path)
        info = _read_info(path.with_suffix(".json"))
        dtype = np.dtype(info.dtype)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        wanted = info.count * dtype.itemsize
        if size != wanted:
            raise DataError(f"{path}: {size:,} bytes, wanted {wanted:,} ({info.count:,} ids of {dtype.itemsize})")
        try:
            ids: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r", shape=(info.count,))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be mapped into memory: {error}") from error
        if verify:
            _verify(path, ids, info)
        return cls(path, info, ids)


def _read_info(path: Path) -> TokenInfo:
    """Read and check the JSON beside a token file."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: {type(values).__name__}, wanted an object")
    if values.get("format") != FORMAT:
        raise DataError(f"{path}: format {values.get('format')!r}, wanted {FORMAT}")
    kinds = {field.name: str if field.type == "str" else int for field in fields(TokenInfo)}
    if values.keys() != kinds.keys():
        raise DataError(f"{path}: fields {sorted(values)}, wanted {sorted(kinds)}")
    for name, kind in kinds.items():
        if type(values[name]) is not kind or (kind is int and values[name] < 0):
            raise DataError(f"{path}: {name} is {values[name]!r}, wanted a {kind.__name__} that is not negative")
    info = TokenInfo(**values)
    if info.count < 1 or not 1 <= info.vocab_size <= 1 << 32:
        raise DataError(f"{path}: count {info.count} and vocab_size {info.vocab_size}, wanted at least 1 of each")
    if info.dtype != smallest_dtype(info.vocab_size).str:
        raise DataError(
            f"{path}: dtype {info.dtype!r}, wanted {smallest_dtype(info.vocab_size).str!r} for "
            f"a vocabulary of {info.vocab_size:,}"
        )
    return info


def _verify(path: Path, ids: NDArray[Any], info: TokenInfo) -> None:
    """Compare the SHA-256 of the ids and look for one that is too large."""
    digest = hashlib.sha256()
    for at in range(0, len(ids), _CHUNK):
        part = ids[at : at + _CHUNK]
        digest.update(part.data)
        if int(part.max()) >= info.vocab_size:
            where = at + int(np.argmax(part >= info.vocab_size))
            raise DataError(f"{path}: id {ids[where]} at position {where}, wanted below {info.vocab_size}")
    if digest.hexdigest() != info.sha256:
        raise DataError(f"{path}: SHA-256 {digest.hexdigest()}, wanted {info.sha256}; the file is damaged")


def write_tokens(
    path: str | Path, documents: Iterable[str], tokenizer: Tokenizer, *, corpus_hash: str = ""
) -> TokenFile:
    """Encode `documents` into a token file, about a million characters in memory at a time.

    Parameters
    ----------
    path : str or Path
        The file of ids, ending in ``.bin``. The JSON takes the same name with ``.json``.
    documents : iterable of str
    tokenizer : Tokenizer
        Must have an end-of-text token, or a separator (``[SEP]``).
    corpus_hash : str
        Where the documents come from: `Corpus.content_hash`.

    Returns
    -------
    TokenFile
        Opened, not read again.

    Raises
    ------
    ConfigError
        When the tokenizer has no end-of-text token, or `path` does not end in ``.bin``.
    DataError
        When the file cannot be written; nothing half-written stays behind.
    """
    path = Path(path)
    if path.suffix != ".bin":
        raise ConfigError(f"path: {path}, wanted a name that ends in .bin")
    end = tokenizer.end_token_id
    if end is None:
        raise ConfigError(f"{tokenizer.where}: has no end-of-text token, which separates documents")
    dtype = smallest_dtype(tokenizer.vocab_size)
    digest, size, n_bytes, n_documents = hashlib.sha256(), 0, 0, 0
    with whole_file(path.with_suffix(".json")) as description, whole_file(path) as out:
        for texts in _batches(documents):
            pieces = [ids for text in tokenizer.encode_batch(texts) for ids in (text, [end])]
            if not n_documents:
                pieces.insert(0, [end])
            part = np.concatenate([np.asarray(piece, np.int64) for piece in pieces]).astype(dtype)
            out.write(part.data)
            digest.update(part.data)
            size += len(part)
            n_documents += len(texts)
            n_bytes += sum(len(text.encode()) for text in texts)
        if not n_documents:
            raise DataError(f"{path}: no documents to write")
        known = (tokenizer.vocab_size, n_bytes, n_documents, tokenizer.fingerprint, corpus_hash)
        info = TokenInfo(FORMAT, dtype.str, size, *known, digest.hexdigest())
        # On disk before the ids take their name: after that only a rename is left that could fail.
        description.write((json.dumps(asdict(info), indent=2) + "\n").encode())
        description.flush()
        os.fsync(description.fileno())
    return TokenFile.open(path, verify=False)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Group documents into lists of about a million characters."""
    held: list[str] = []
    length = 0
    for text in documents:
        held.append(text)
        length += len(text)
        if length >= _CHUNK:
            yield held
            held, length = [], 0
    if held:
        yield held


def prepare_tokens(
    corpus: Corpus, tokenizer: Tokenizer, *, cache_dir: str | Path | None = None
) -> dict[str, TokenFile]:
    """Return the token files of a corpus's splits, written now or taken from the cache.

    Parameters
    ----------
    corpus : Corpus
    tokenizer : Tokenizer
    cache_dir : str or Path, optional
        Default `tinygrad_edu.data.default_cache_dir`. The key is the corpus's content hash and the
        tokenizer's fingerprint; a cached file is verified, and written anew, with a warning, if damaged.

    Returns
    -------
    dict of str to TokenFile
        ``train``, ``validation``, ``test``.
    """
    key = hashlib.sha256(f"{FORMAT} {corpus.content_hash} {tokenizer.fingerprint}".encode()).hexdigest()[:24]
    folder = make_folder(Path(cache_dir or default_cache_dir()) / "tokens" / key)
    opened = {}
    for split in SPLITS:
        path = folder / f"{split}.bin"
        if path.with_suffix(".json").exists():
            try:
                opened[split] = TokenFile.open(path)
                continue
            except DataError as error:
                warnings.warn(f"cached tokens are written anew: {error}", stacklevel=2)
        opened[split] = write_tokens(path, corpus.splits[split], tokenizer, corpus_hash=corpus.content_hash)
    return opened

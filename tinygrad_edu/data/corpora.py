"""Corpora: documents of text, divided into train, validation and test.

`load_corpus` gives the same `Corpus` whatever the text comes from: the built-in ``python-docs``, files of the
user, a saved data set, or one of the hub. A corpus is divided **by document**, and identical documents always
fall into the same split, so that what is held out was never trained on.
"""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, did_you_mean
from .hub import (
    ArrowSource,
    is_hub_name,
    is_saved_dataset,
    load_hub_dataset,
    load_saved_dataset,
)
from .python_docs import python_docs, split_of
from .sources import SUFFIXES, FileSource, check_text

SPLITS = ("train", "validation", "test")
_TRAIN, _VALIDATION, _TEST = range(3)
_FREE = 3  # not given a split by the source

#: Share of the documents held out for validation, and as many for test.
HELD_OUT_SHARE = 0.1


class Source(Protocol):
    """What a corpus is made from: records of (text, split or None), in the same order at every iteration."""

    def __iter__(self) -> Iterator[tuple[str, str | None]]: ...


class Documents:
    """The documents of one split (or all of them): a sized collection, read anew at each iteration."""

    def __init__(self, corpus: Corpus, name: str, rows: NDArray[np.int64], n_bytes: int) -> None:
        self._corpus, self.name, self._rows = corpus, name, rows
        #: Length of the text in UTF-8 bytes.
        self.n_bytes = n_bytes

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        for text, _ in take(self._corpus.source, self._rows):
            yield text

    def __repr__(self) -> str:
        return f"<{len(self):,} documents, {self.n_bytes:,} bytes: {self._corpus.name} {self.name}>"


class Corpus:
    """Documents of text with a fixed division into ``train``, ``validation`` and ``test``.

    Building one reads the source once, to count, check and hash it; nothing but a few bytes for each
    document stays in memory.

    Parameters
    ----------
    name : str
        For messages and figures.
    source : Source
        Records of (text, split or None). Records whose text is empty are left out. Splits that the source
        does not name are taken, by a hash of the text, from the documents it leaves free or calls ``train``.
    subset_size : int, optional
        Take this many records, drawn by `seed`, or all if there are fewer.
    seed : int
        Seed of that draw. It has no influence on which split a document falls into.

    Attributes
    ----------
    documents : Documents
        All documents, in the source's order.
    splits : dict of str to Documents
        ``train``, ``validation``, ``test``; none is empty.
    content_hash : str
        SHA-256, in hexadecimal, over the text and split of every document in order.

    Raises
    ------
    DataError
        When there is no text, or too few different documents to hold some out.
    """

    def __init__(self, name: str, source: Source, *, subset_size: int | None = None, seed: int = 0) -> None:
        self.name, self.source = name, source
        wanted = None if subset_size is None else _draw(count(source), subset_size, seed)
        rows, hashes, sizes, given, total = _scan(source, wanted)
        if not len(rows):
            raise DataError(f"no examples in {name}: every document is empty")
        labels = assign_splits(hashes, given, name)
        total.update(labels.tobytes())
        self.content_hash = total.hexdigest()
        self.documents = Documents(self, "all", rows, int(sizes.sum()))
        self.splits = {
            split: Documents(self, split, rows[labels == code], int(sizes[labels == code].sum()))
            for code, split in enumerate(SPLITS)
        }

    @classmethod
    def from_texts(cls, texts: Sequence[str], name: str = "texts") -> Corpus:
        """Make a corpus of texts that are in memory, divided like any other."""
        return cls(name, [(check_text(text, f"{name}, document {i}"), None) for i, text in enumerate(texts)])

    def __repr__(self) -> str:
        shares = ", ".join(f"{len(part):,} {split}" for split, part in self.splits.items())
        size = self.documents.n_bytes
        return f"<Corpus {self.name}: {shares}; {size:,} bytes, sha256 {self.content_hash[:12]}>"


def take(source: Source, rows: NDArray[np.int64]) -> Iterator[tuple[str, str | None]]:
    """Yield the records of `source` at `rows` (ascending), by number where the source can do that."""
    if isinstance(source, ArrowSource):
        yield from source.take(rows)
        return
    wanted = iter(rows.tolist())
    following = next(wanted, None)
    for row, record in enumerate(source):
        if following is None:
            return
        if row == following:
            yield record
            following = next(wanted, None)


def count(source: Source) -> int:
    """Return the number of records, empty ones included, by reading them if need be."""
    return len(source) if isinstance(source, ArrowSource | list) else sum(1 for _ in source)


def _draw(n: int, size: int, seed: int) -> NDArray[np.int64]:
    """Return `size` of the numbers below `n`, ascending, drawn by `seed`."""
    if n <= size:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, size, replace=False))


def _scan(
    source: Source, wanted: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint8], hashlib._Hash]:
    """Read the wanted records once: row, hash, size in bytes and given split of each that is not empty."""
    rows, hashes, sizes, given = array("q"), array("Q"), array("q"), bytearray()
    total = hashlib.sha256()
    numbered: Iterable[tuple[int, tuple[str, str | None]]] = enumerate(source)
    if wanted is not None:
        numbered = zip(wanted.tolist(), take(source, wanted), strict=True)
    for row, (text, split) in numbered:
        if not text.strip():
            continue
        raw = text.encode()
        digest = hashlib.sha256(raw).digest()
        total.update(digest)
        rows.append(row)
        hashes.append(int.from_bytes(digest[:8], "big"))
        sizes.append(len(raw))
        given.append(_FREE if split is None else SPLITS.index(split))
    return (
        np.array(rows, np.int64),
        np.array(hashes, np.uint64),
        np.array(sizes, np.int64),
        np.frombuffer(given, np.uint8),
        total,
    )


def assign_splits(hashes: NDArray[np.uint64], given: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """Return each document's split: the given one, else one that follows from the hash of its text.

    Of the different hashes, the lowest tenth goes to test and the next to validation (at least one each);
    documents with one text have one hash and so stay together.
    """
    labels = given.copy()
    missing = [code for code in (_TEST, _VALIDATION) if not (given == code).any()]
    pool = (given == _FREE) | (given == _TRAIN)
    labels[given == _FREE] = _TRAIN
    distinct = np.unique(hashes[pool])
    if not len(distinct):
        raise DataError(f"{name}: no documents for training, only held-out ones")
    if len(distinct) <= len(missing):
        held_out = " and ".join(SPLITS[code] for code in reversed(missing))
        raise DataError(
            f"{name}: {len(distinct)} different documents; wanted at least {len(missing) + 1}, so that train "
            f"and {held_out} each get one"
        )
    share = max(1, round(HELD_OUT_SHARE * len(distinct)))
    for number, code in enumerate(missing):
        chosen = distinct[number * share : (number + 1) * share]
        labels[pool & np.isin(hashes, chosen)] = code
    return labels


def _local_path(dataset: str) -> Path | None:
    """Return the path if `dataset` is one (or can only be meant as one), None if it may be a hub name.

    Raises
    ------
    DataError
        When it looks like a path and nothing is there.
    """
    try:
        path = Path(dataset).expanduser()
        if path.exists():
            return path
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a name too long, a folder closed to us, an unknown ~user
        raise DataError(f"{dataset[:200]}: cannot be looked at: {error}") from error
    looks_local = dataset.startswith((".", "/", "~", "\\")) or path.is_absolute() or dataset.lower().endswith(SUFFIXES)
    if not looks_local:
        return None
    siblings: list[str] = []
    with contextlib.suppress(OSError):
        siblings = [entry.name for entry in path.parent.iterdir() if entry.name != path.name]
    raise DataError(f"{dataset}: no such file or folder.{did_you_mean(path.name, siblings)}")


def _make_source(dataset: str, text_column: str | None) -> Source:
    """Find out what `dataset` names and open it."""
    if dataset == "python-docs":
        if text_column not in (None, "text"):
            raise ConfigError(f"text_column: python-docs is plain text and has no column {text_column!r}; leave it out")
        return [(text, split_of(name)) for name, text in python_docs()]
    path = _local_path(dataset)
    if path is not None:
        if path.is_dir() and is_saved_dataset(path):
            return ArrowSource(load_saved_dataset(path), text_column, dataset)
        return FileSource(path, text_column)
    if is_hub_name(dataset):
        return ArrowSource(load_hub_dataset(dataset), text_column, f"hub data set {dataset!r}")
    raise DataError(
        f"dataset {dataset!r} is neither 'python-docs', nor a file or folder, nor a hub name like "
        f"'nampdn-ai/tiny-textbooks'.{did_you_mean(dataset, ['python-docs'])}"
    )


def load_corpus(
    dataset: str | Path = "python-docs",
    *,
    text_column: str | None = None,
    use_subset: bool = False,
    subset_size: int | None = None,
    seed: int = 0,
) -> Corpus:
    """Load a corpus and divide it into train, validation and test, by document.

    Parameters
    ----------
    dataset : str or Path
        ``python-docs`` (built in, no download); a ``.txt``, ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``
        file; a folder of such files; a folder written by ``datasets.save_to_disk``; or a data set of the hub
        as ``owner/name`` or ``owner/name:configuration``. What exists as a path is taken as a path.
    text_column : str, optional
        The column of a table that holds the text. Default: ``text``, else the only column of strings.
    use_subset : bool
        Take only `subset_size` records, drawn by `seed`.
    subset_size : int, optional
        How many; needed when `use_subset` is true, of no effect otherwise.
    seed : int
        Seed of the draw.

    Returns
    -------
    Corpus

    Raises
    ------
    ConfigError
        When an argument has a value that is not allowed.
    DataError
        When the text cannot be found or read: names the file and line, column or hub data set.
    """
    if use_subset and (isinstance(subset_size, bool) or not isinstance(subset_size, int) or subset_size < 1):
        raise ConfigError(f"subset_size: {subset_size!r} with use_subset=True; wanted an integer of at least 1")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"seed: {seed!r}; wanted an integer of at least 0")
    if not str(dataset).strip():
        raise ConfigError("dataset: is empty; wanted 'python-docs', a path, or a hub name")
    source = _make_source(str(dataset), text_column)
    return Corpus(str(dataset), source, subset_size=subset_size if use_subset else None, seed=seed)

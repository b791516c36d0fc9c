"""Data sets of the Hugging Face hub, and folders written by ``datasets.save_to_disk``."""

from __future__ import annotations

import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .sources import check_text, pick_column, split_name

#: Seconds to wait for the hub's first answer. The hub's own client retries for half a minute.
PROBE_SECONDS = 5.0

BUILT_IN = "the corpus 'python-docs' is built in and needs no download"


def is_hub_name(name: str) -> bool:
    """Say whether `name` has the form ``owner/name`` or ``owner/name:configuration``."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.-]+)?", name) is not None


def hub_answers(seconds: float = PROBE_SECONDS) -> bool:
    """Say whether the hub can be reached now: one small request, through the proxies of the environment."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if not constants.ENDPOINT.startswith(("https://", "http://")):
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 - looked at just above
    try:
        with urllib.request.urlopen(request, timeout=seconds):  # noqa: S310
            return True
    except urllib.error.HTTPError:
        return True  # it answered, whatever it said
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def quick_offline() -> Iterator[bool]:
    """Yield whether the hub answers; while it does not, hub clients use their cache only and never retry.

    Both libraries read these flags at each request, and have no argument that does the same for all of them.
    """
    if hub_answers():
        yield True
        return
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield False
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def load_hub_dataset(name: str) -> Any:
    """Download ``owner/name`` or ``owner/name:configuration``, or take it from the hub client's cache.

    Raises
    ------
    DataError
        When the hub cannot be reached and there is no cached copy, or it has no such data set.
    """
    import datasets

    repository, _, configuration = name.partition(":")
    with quick_offline() as online:
        try:
            return datasets.load_dataset(repository, configuration or None)
        except Exception as error:  # the client raises a dozen types of four libraries
            if not online:
                raise DataError(
                    f"hub data set {name!r}: the hub cannot be reached, and there is no copy in its cache; {BUILT_IN}"
                ) from error
            reason = " ".join(str(error).split())[:500]
            raise DataError(f"hub data set {name!r}: {reason} ({type(error).__name__}); {BUILT_IN}") from error


def is_saved_dataset(path: Path) -> bool:
    """Say whether a folder was written by ``datasets.save_to_disk``."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def load_saved_dataset(path: Path) -> Any:
    """Open a folder written by ``datasets.save_to_disk``; its rows stay on disk."""
    import datasets

    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # Arrow, JSON, key and file errors, all meaning the same
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{path}: cannot be read as a saved data set: {type(error).__name__}: {reason}") from error


class ArrowSource:
    """The rows of a `datasets.Dataset`, or of all splits of a `datasets.DatasetDict`, read by number.

    Parameters
    ----------
    dataset : datasets.Dataset or datasets.DatasetDict
        Splits named train, validation (valid, val, dev) and test are kept; others of a dictionary are left
        out, unless none has such a name.
    text_column : str, optional
        The column that holds the text.
    where : str
        Name of the data set, for messages.
    """

    def __init__(self, dataset: Any, text_column: str | None, where: str) -> None:
        parts: list[tuple[str | None, Any]]
        if isinstance(dataset, Mapping):
            named = [(split_name(str(key)), part) for key, part in dataset.items()]
            # A lone "train", as most data sets have, is not a division: its documents are split here.
            parts = (
                [(name, part) for name, part in named if name]
                if len(named) > 1
                else [(None, part) for _, part in named]
            )
            parts = parts or [(None, part) for _, part in named]
        else:
            parts = [(None, dataset)]
        self.where = where
        self.parts = []
        for name, part in parts:
            strings = [key for key, kind in part.features.items() if getattr(kind, "dtype", None) in _TEXT_DTYPES]
            column = pick_column(part.column_names, strings, text_column, where)
            self.parts.append((name, part.select_columns([column]), column))

    def __len__(self) -> int:
        return sum(len(part) for _, part, _ in self.parts)

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        return self.take(np.arange(len(self)))

    def take(self, rows: NDArray[np.int64]) -> Iterator[tuple[str, str | None]]:
        """Yield (text, split) of the given rows, which ascend; a thousand are in memory at a time."""
        start = 0
        for split, part, column in self.parts:
            mine = rows[(rows >= start) & (rows < start + len(part))] - start
            for at in range(0, len(mine), 1000):
                some = mine[at : at + 1000]
                try:
                    texts = part[some.tolist()][column]
                except Exception as error:  # a damaged Arrow file shows only when its pages are touched
                    raise DataError(f"{self.where}: rows {some[0]} to {some[-1]} cannot be read: {error}") from error
                for row, text in zip(some, texts, strict=True):
                    yield check_text(text, f"{self.where}, row {row}, column {column!r}"), split
            start += len(part)


_TEXT_DTYPES = ("string", "large_string", "string_view")

"""Examples of any length, checked and filled up to one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError, DtypeError, RangeError, ShapeError
from .checks import IGNORE, check_integer
from .tokenizers import Tokenizer

Ids = NDArray[np.int64]
Batch = dict[str, Ids]

_FIELDS = ("input_ids", "attention_mask", "token_type_ids", "labels")


def row_of(values: Any, where: str, limit: int | None, *, ignore: bool = False) -> Ids:
    """Return one field of an example as int64, shape ``(time,)``, or raise naming it as `where`.

    Values are at least 0 and below `limit`, if there is one; with `ignore`, -100 is allowed too.
    """
    try:
        row = np.asarray(values)
    except ValueError as error:
        raise ShapeError(f"{where}: {error}") from error
    if row.ndim != 1:
        raise ShapeError(f"{where}: shape {row.shape}, wanted one axis (time,)")
    if row.size and row.dtype.kind not in "iub":
        raise DtypeError(f"{where}: dtype {row.dtype}, wanted integers")
    row = row.astype(np.int64)
    bad = row < 0 if limit is None else (row < 0) | (row >= limit)
    if ignore:
        bad &= row != IGNORE
    if bad.any():
        at = int(np.argmax(bad))
        wanted = "0 or more" if limit is None else f"0 to {limit - 1}"
        raise RangeError(f"{where}: {row[at]} at position {at}, wanted {wanted}{f' or {IGNORE}' * ignore}")
    return row


def columns_of(examples: Any, vocab_size: int | None) -> dict[str, list[Ids]]:
    """Return the rows of each field that the examples have, all checked."""
    if isinstance(examples, Mapping | str) or not hasattr(examples, "__len__"):
        raise ConfigError(f"examples: {type(examples).__name__}, wanted a list of examples")
    if not len(examples):
        raise DataError("examples: the batch is empty")
    columns: dict[str, list[Ids]] = {}
    limits = {"attention_mask": 2, "token_type_ids": None}
    for number, example in enumerate(examples):
        fields = example if isinstance(example, Mapping) else {"input_ids": example}
        if number and fields.keys() != columns.keys():
            raise DataError(f"example {number}: fields {sorted(fields)}, the first has {sorted(columns)}")
        if "input_ids" not in fields or not set(fields) <= set(_FIELDS):
            raise DataError(f"example {number}: fields {sorted(fields)}, wanted input_ids and at most {_FIELDS[1:]}")
        length = 0
        for name in _FIELDS:
            if name not in fields:
                continue
            where = f"example {number}: {name}"
            row = row_of(fields[name], where, limits.get(name, vocab_size), ignore=name == "labels")
            length = length or len(row)  # of input_ids, which come first
            if not length:
                raise DataError(f"example {number}: has no tokens")
            if len(row) != length:
                raise ShapeError(f"{where} has length {len(row)}, input_ids {length}")
            columns.setdefault(name, []).append(row)
    return columns


def padded(rows: Sequence[Ids], value: int, multiple: int | None) -> Ids:
    """Return the rows in one array, each filled up at its end with `value`."""
    width = max(map(len, rows))
    if multiple is not None:
        width = -(-width // multiple) * multiple
    array = np.full((len(rows), width), value, np.int64)
    for number, row in enumerate(rows):
        array[number, : len(row)] = row
    return array


class Padding:
    """What all collators share: the id of padding, and how wide a batch becomes.

    Parameters
    ----------
    tokenizer : Tokenizer, or the id of padding, or None
    pad_token_id : int, optional
        Instead of the tokenizer's.
    pad_to_multiple_of : int, optional
    max_length : int, optional
    """

    def __init__(
        self,
        tokenizer: Tokenizer | int | None,
        pad_token_id: int | None,
        pad_to_multiple_of: int | None,
        max_length: int | None,
    ) -> None:
        if isinstance(tokenizer, int | np.integer) and not isinstance(tokenizer, bool):
            pad_token_id = int(tokenizer)
            tokenizer = None
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            raise ConfigError(
                f"tokenizer: {type(tokenizer).__name__}, wanted a tinygrad_edu.data.Tokenizer (load_tokenizer "
                "reads those of other libraries), or the id of padding"
            )
        for name, value, least in (
            ("pad_token_id", pad_token_id, 0),
            ("pad_to_multiple_of", pad_to_multiple_of, 1),
            ("max_length", max_length, 1),
        ):
            if value is not None:
                check_integer(name, value, least)
        if max_length is not None and pad_to_multiple_of is not None and max_length % pad_to_multiple_of:
            raise ConfigError(
                f"max_length: {max_length} is no multiple of pad_to_multiple_of {pad_to_multiple_of}, so a padded "
                "batch would be longer"
            )
        self.tokenizer, self.vocab_size = tokenizer, None if tokenizer is None else tokenizer.vocab_size
        self.pad_token_id = tokenizer.pad_token_id if pad_token_id is None and tokenizer is not None else pad_token_id
        self.pad_to_multiple_of, self.max_length = pad_to_multiple_of, max_length

    def pad_id(self) -> int:
        """Return the id of padding, or raise ConfigError: there is none, and now one is needed."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        if self.tokenizer is None:
            raise ConfigError("pad_token_id: None, but the examples have several lengths; wanted the id of padding")
        hint = "give pad_token_id=tokenizer.eos_token_id, which the attention mask keeps apart, or train it with <pad>"
        raise ConfigError(
            f"{self.tokenizer.where}: has no pad token, but the examples have several lengths, or their length is no "
            f"multiple of pad_to_multiple_of; {hint}"
        )

    def batch(self, examples: Any) -> Batch:
        """Return the padded fields of the examples; labels as they were given."""
        columns = columns_of(examples, self.vocab_size)
        if self.max_length is not None:
            columns = {name: [row[: self.max_length] for row in rows] for name, rows in columns.items()}
        rows = columns["input_ids"]
        lengths = {len(row) for row in rows}
        multiple = self.pad_to_multiple_of
        needed = len(lengths) > 1 or (multiple is not None and lengths.pop() % multiple != 0)
        batch = {"input_ids": padded(rows, self.pad_id() if needed else 0, multiple)}
        mask = columns.get("attention_mask") or [np.ones(len(row), np.int64) for row in rows]
        batch["attention_mask"] = padded(mask, 0, multiple)
        if "token_type_ids" in columns:
            batch["token_type_ids"] = padded(columns["token_type_ids"], 0, multiple)
        if "labels" in columns:
            batch["labels"] = padded(columns["labels"], IGNORE, multiple)
        return batch

"""The history of a run: one JSON object a line, whole lines only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import DataError
from ..storage import write_atomic
from .callbacks import Callback

if TYPE_CHECKING:
    from .trainer import Trainer


def read_history(path: str | Path) -> list[dict[str, Any]]:
    """The records of a ``history.jsonl``, in order. A last line cut off by a crash is left out.

    Raises
    ------
    DataError
        If the file cannot be read, or another line is no JSON object, with its number.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was cut off
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: {type(record).__name__}, wanted an object")
        records.append(record)
    return records


class JsonlHistory(Callback):
    """Appends every record to a file, a line each, as it happens.

    A new run begins the file anew. On resuming, lines written after the checkpoint was saved are dropped:
    they are about to happen again.

    Parameters
    ----------
    path : the file, in an existing folder
    """

    name = "history"

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.records = 0
        self._file: TextIO | None = None

    def on_start(self, trainer: Trainer) -> None:
        kept = read_history(self.path)[: self.records] if self.records and self.path.exists() else []
        self.records = len(kept)
        write_atomic(self.path, "".join(map(_line, kept)).encode())
        self._file = self.path.open("a", encoding="utf-8", newline="\n")

    def on_record(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(_line(record))
            self._file.flush()
            self.records += 1

    def on_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.records = int(state["records"])


def _line(record: Mapping[str, Any]) -> str:
    """One line of strict JSON: NaN and infinities, which JSON has not, become null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(plain, allow_nan=False) + "\n"

"""The history of a run: records as they happen, one JSON object a line, and as plain data afterwards."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
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


class History:
    """What happened in a run, as plain data.

    Parameters
    ----------
    records : one mapping an event, with ``"event"`` (``"train"``, ``"evaluation"``, ...) and ``"step"``

    Attributes
    ----------
    records : list of dicts, in order

    Examples
    --------
    >>> history = History([{"event": "train", "step": 1, "loss": 2.5}, {"event": "evaluation", "step": 1, "loss": 3.0}])
    >>> history["train"]
    {'step': [1], 'loss': [2.5]}
    >>> history.best["loss"]
    3.0
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()):
        self.records = [dict(record) for record in records]

    @classmethod
    def read(cls, path: str | Path) -> History:
        """The history that :class:`JsonlHistory` or :meth:`to_json` wrote (``.jsonl`` or ``.json``).

        Raises
        ------
        DataError
            If the file cannot be read or holds no records.
        """
        path = Path(path)
        if path.suffix != ".json":
            return cls(read_history(path))
        try:
            records = json.loads(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON: {error}") from None
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise DataError(f"{path}: wanted a list of records")
        return cls(records)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def __getitem__(self, event: str) -> dict[str, list[Any]]:
        """The figures of one kind of event as columns, in order; None where a record has no such figure."""
        chosen = [record for record in self.records if record.get("event") == event]
        names = list(dict.fromkeys(name for record in chosen for name in record if name != "event"))
        return {name: [record.get(name) for record in chosen] for name in names}

    @property
    def best(self) -> dict[str, Any] | None:
        """The evaluation with the lowest loss; None if there was none."""
        found = [record for record in self.records if record.get("event") == "evaluation" and _is_finite(record)]
        return min(found, key=lambda record: record["loss"], default=None)

    def plot(self, path: str | Path, *, title: str = "") -> Path:
        """Draw loss, learning rate and gradient norm into a picture; see :func:`tinygrad_edu.viz.plot_history`."""
        from ..viz import plot_history

        return plot_history(self.records, path, title=title)

    def to_json(self, path: str | Path) -> Path:
        """Write a list of records, whole or not at all; what JSON has not (NaN, infinity) becomes null.

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        lines = ",\n".join(_line(record).rstrip("\n") for record in self.records)
        return _write(path, f"[\n{lines}\n]\n" if lines else "[]\n")

    def to_csv(self, path: str | Path) -> Path:
        """Write a table with a column a figure, whole or not at all; empty where a record has no such figure.

        Raises
        ------
        DataError
            If the file cannot be written.
        """
        rows = [dict(_flat(record)) for record in self.records]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return _write(path, text.getvalue())

    def __repr__(self) -> str:
        steps = max((record.get("step", 0) for record in self.records), default=0)
        best = self.best
        lowest = f", best validation loss {best['loss']:.4f} at step {best['step']}" if best else ""
        return f"<History of {steps:,} steps, {len(self):,} records{lowest}>"


class RecordHistory(Callback):
    """Keeps every record in memory, as a :class:`History`.

    Attributes
    ----------
    history : so far
    """

    name = "records"

    def __init__(self) -> None:
        self.history = History()

    def on_record(self, record: Mapping[str, Any]) -> None:
        self.history.records.append(dict(record))

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.history.records}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.history = History(state["records"])


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


def _is_finite(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("loss"), int | float) and math.isfinite(record["loss"])


def _plain(value: Any) -> Any:
    """What strict JSON can hold: NaN and infinities, which it has not, become null."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(_plain(record), allow_nan=False) + "\n"


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Figures, those of mappings within under the names of both, as in ``groups.embedding.norm``."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "" if value is None else value


def _write(path: str | Path, text: str) -> Path:
    path = Path(path)
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path

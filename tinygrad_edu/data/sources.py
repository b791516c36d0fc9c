"""Texts out of local files, one record at a time, so that a file larger than memory will do.

Every reader yields the texts of one file in order. A file that cannot be read as what its name says is a
DataError with the file and the line (or byte offset) where it goes wrong; nothing is repaired in silence.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean

#: Lines longer than this are refused: almost always a file that is not text, and a line is held whole.
MAX_LINE_BYTES = 16 * 2**20

#: A plain text file has no documents of its own. It is cut at blank lines into documents of about so many
#: characters, fewer in a small corpus (see `document_size`), or at lines that hold this mark alone.
TEXT_DOCUMENT_CHARS = 8192
DOCUMENT_MARK = "<|endoftext|>"

TEXT_SUFFIXES = (".txt", ".text")
TABLE_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
SUFFIXES = TEXT_SUFFIXES + TABLE_SUFFIXES


def document_size(total_bytes: int) -> int:
    """Return the length at which plain text is cut: 8,192 characters, or a hundredth of a small corpus."""
    return max(256, min(TEXT_DOCUMENT_CHARS, total_bytes // 100))


def check_text(text: object, where: str) -> str:
    """Return `text` if it is a string that can be written as UTF-8 and holds no NUL; None becomes ``""``.

    Raises
    ------
    DataError
        Naming `where` and what was found.
    """
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError(f"{where}: the text is {type(text).__name__} {str(text)[:40]!r}, wanted a string")
    nul = text.find("\0")
    if nul >= 0:
        raise DataError(f"{where}: NUL character at position {nul} of the text; this is not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: unpaired surrogate {text[error.start]!r} at position {error.start} of the text"
        ) from error
    return text


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Yield (line number, line without its end) of a UTF-8 file, at most one line in memory.

    A byte-order mark is dropped. Line ends are ``\n`` or ``\r\n``.
    """
    offset = 0
    with open(path, "rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
                raise DataError(
                    f"{where}: longer than {MAX_LINE_BYTES:,} bytes; break the text into lines, or store it as parquet"
                )
            utf16 = "; it looks like UTF-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else ""
            if (nul := raw.find(b"\0")) >= 0:
                raise DataError(f"{where}: NUL byte at offset {offset + nul} of the file; not UTF-8 text{utf16}")
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                # utf-8-sig counts from behind the mark
                start = error.start + (3 if number == 1 and raw.startswith(b"\xef\xbb\xbf") else 0)
                raise DataError(
                    f"{where}: byte 0x{raw[start]:02x} at offset {offset + start} of the file is not UTF-8 "
                    f"({error.reason}); save the file as UTF-8{utf16}"
                ) from error
            offset += len(raw)
            yield number, line.removesuffix("\n").removesuffix("\r")


def read_text(path: Path, size: int) -> Iterator[str]:
    """Yield the documents of a plain text file: cut at the first blank line after `size` characters.

    A line that holds only ``<|endoftext|>`` always ends a document. Text without blank lines is cut at the
    end of a line once it has four times `size` characters.
    """
    held: list[str] = []
    length = 0
    for _, line in read_lines(path):
        mark = line.strip() == DOCUMENT_MARK
        if not mark:
            held.append(line)
            length += len(line) + 1
        if mark or (length >= size and (not line.strip() or length >= 4 * size)):
            yield "\n".join(held).strip("\n")
            held, length = [], 0
    yield "\n".join(held).strip("\n")


def pick_column(columns: Iterable[str], text_columns: Iterable[str], wanted: str | None, where: str) -> str:
    """Return the column that holds the text: `wanted`, else ``text``, else the only one that holds strings.

    Raises
    ------
    DataError
        When the column asked for is missing, is not text, or none was asked for and several would do.
    """
    every, strings = list(columns), list(text_columns)
    if wanted is not None:
        if wanted not in every:
            raise DataError(
                f"{where}: no column {wanted!r}; it has {', '.join(map(repr, every))}." + did_you_mean(wanted, every)
            )
        if wanted not in strings:
            raise DataError(f"{where}: column {wanted!r} does not hold text; text is in {strings}")
        return wanted
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    found = "no column holds text" if not strings else f"several columns hold text ({', '.join(map(repr, strings))})"
    raise DataError(f"{where}: {found}; say which one with text_column=...")


def read_jsonl(path: Path, text_column: str | None) -> Iterator[str]:
    """Yield the text of each line's JSON object; blank lines are passed over."""
    column: str | None = None
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}, column {error.colno}: broken JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, 10,000 brackets
            raise DataError(f"{where}: broken JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f'{where}: {type(record).__name__} {line[:40]!r}, wanted an object like {{"text": ...}}')
        if column is None:
            # A column known by name is taken whatever it holds here; `check_text` looks at every line.
            strings = [key for key, value in record.items() if isinstance(value, str) or key in (text_column, "text")]
            column = pick_column(record, strings, text_column, where)
        if column not in record:
            raise DataError(f"{where}: no column {column!r}; it has {list(record)}." + did_you_mean(column, record))
        yield check_text(record[column], f"{where}, column {column!r}")


def read_csv(path: Path, text_column: str | None) -> Iterator[str]:
    """Yield one column of a CSV or TSV file whose first row names the columns; ragged rows are refused."""
    # The module's limit on a field is process-wide and 128 KiB; raise it, never lower what someone else set.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    lines = (line + "\n" for _, line in read_lines(path))
    rows = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    header: list[str] | None = None
    index = 0
    while True:
        start = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: broken CSV: {error}") from error
        if row is None:
            return
        if not row:
            continue  # a blank line
        if header is None:
            header = row
            twice = sorted({name for name in header if header.count(name) > 1})
            if twice:
                raise DataError(f"{path}, line {start}: columns named twice: {twice}")
            index = header.index(pick_column(header, header, text_column, f"{path}, line {start}"))
        elif len(row) != len(header):
            raise DataError(f"{path}, line {start}: {len(row)} fields, wanted {len(header)} ({', '.join(header)})")
        else:
            yield check_text(row[index], f"{path}, line {start}, column {header[index]!r}")


def read_parquet(path: Path, text_column: str | None) -> Iterator[str]:
    """Yield one text column of a parquet file, a thousand rows in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            strings = [field.name for field in schema if _is_text(pa, field.type)]
            column = pick_column(schema.names, strings, text_column, str(path))
            row = 0
            for batch in file.iter_batches(batch_size=1000, columns=[column]):
                for text in batch.column(0).to_pylist():
                    yield check_text(text, f"{path}, row {row}, column {column!r}")
                    row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from error


def _is_text(pa: Any, kind: Any) -> bool:
    """Say whether an Arrow type holds strings, dictionary-encoded ones included."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def list_files(path: Path) -> list[Path]:
    """Return `path` itself, or the readable files below it in the order of their names.

    Hidden files and folders are passed over, and so are files of other kinds.

    Raises
    ------
    DataError
        When the file is of no kind that can be read, or the folder holds none that is.
    """
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            found = f"a {path.suffix!r} file" if path.suffix else "a file without suffix"
            raise DataError(f"{path}: cannot read {found}; wanted {', '.join(SUFFIXES)}")
        return [path]
    files = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(folder, name) for name in names if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
    # A pipe or a device would be waited for; a link that leads nowhere stays, and is named when it is opened.
    files = [file for file in files if file.is_file() or not file.exists()]
    if not files:
        raise DataError(f"no examples in {path}: it holds no {', '.join(SUFFIXES)} file")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


_SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation"}
_SPLIT_NAMES |= {"val": "validation", "dev": "validation", "test": "test", "testing": "test"}


def split_name(name: str) -> str | None:
    """Return train, validation or test for the names that data sets give their splits, else None."""
    return _SPLIT_NAMES.get(name.lower())


def _named_split(file: Path, root: Path) -> str | None:
    """Return the split that a file's name (``train-00000.parquet``) or its folder's says, else None."""
    relative = file.relative_to(root)
    first = re.split(r"[-_.]", relative.stem, maxsplit=1)[0]
    return split_name(first) or next(filter(None, map(split_name, reversed(relative.parent.parts))), None)


class FileSource:
    """The records of one file, or of all files of a folder, read anew at each iteration.

    Parameters
    ----------
    path : Path
        A file, or a folder. Where *every* file of a folder is named after a split
        (``train.jsonl``, ``test-00000.parquet``, ``validation/a.txt``), those splits are kept.
    text_column : str, optional
        The column of tables that holds the text.
    """

    def __init__(self, path: Path, text_column: str | None) -> None:
        self.path, self.text_column = path, text_column
        self.files = list_files(path)
        names = [_named_split(file, path) for file in self.files] if path.is_dir() else [None]
        self.split_of = dict(zip(self.files, names if all(names) else [None] * len(names), strict=True))
        self.stamps = {file: self._stamp(file) for file in self.files}
        plain = sum(size for file, (size, _) in self.stamps.items() if file.suffix.lower() in TEXT_SUFFIXES)
        self.document_size = document_size(plain)
        if text_column not in (None, "text") and all(f.suffix.lower() in TEXT_SUFFIXES for f in self.files):
            raise DataError(f"{path}: plain text has no columns, so text_column={text_column!r} cannot be found in it")

    @staticmethod
    def _stamp(file: Path) -> tuple[int, int]:
        try:
            state = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
        return state.st_size, state.st_mtime_ns

    def _reader(self, file: Path) -> Iterator[str]:
        suffix = file.suffix.lower()
        if suffix in TEXT_SUFFIXES:
            return read_text(file, self.document_size)
        readers: dict[str, Callable[[Path, str | None], Iterator[str]]]
        readers = {".csv": read_csv, ".tsv": read_csv, ".parquet": read_parquet}
        return readers.get(suffix, read_jsonl)(file, self.text_column)

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        for file in self.files:
            if self._stamp(file) != self.stamps[file]:
                raise DataError(f"{file}: changed while it was in use; load the corpus again")
            try:
                for text in self._reader(file):
                    yield text, self.split_of[file]
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error

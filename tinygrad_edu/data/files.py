"""Where cached files live, and how a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import DataError

STALE_SECONDS = 24 * 60 * 60


def default_cache_dir() -> Path:
    """Return the folder for tokenizers and token files that can be made again at any time.

    ``TINYGRAD_EDU_CACHE`` if it is set; otherwise the platform's place for caches:
    ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows, ``$XDG_CACHE_HOME`` or ``~/.cache``
    elsewhere. The folder is not created here.
    """
    chosen = os.environ.get("TINYGRAD_EDU_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tinygrad_edu"


def make_folder(path: Path) -> Path:
    """Create `path` and its parents, or raise DataError saying why that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot create the folder {path}: {error.strerror or error}; "
            "set TINYGRAD_EDU_CACHE to a folder that can be written"
        ) from error
    return path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only once it is complete and on disk.

    The bytes go to a temporary file in the same folder, are flushed, and are renamed onto `path` when the
    block ends. When the block raises, the temporary file is removed and `path` is as it was. What a killed
    process left behind is removed by the next one to write `path`, a day later.

    Raises
    ------
    DataError
        When the file cannot be written (full disk, no permission, ...), naming `path`.
    """
    make_folder(path.parent)
    _remove_stale(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise DataError(f"cannot write {path}: {error.strerror or error}") from error
        raise


def _remove_stale(path: Path) -> None:
    """Remove temporary files of `path` that are too old to belong to a process still writing."""
    for file in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # gone already, or someone else's
            if time.time() - file.stat().st_mtime > STALE_SECONDS:
                file.unlink()

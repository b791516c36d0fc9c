"""Where a run keeps its files: one new folder a run, checked before any work is done."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

from ..errors import ConfigError
from ..storage import list_checkpoints

CHECKPOINTS = "checkpoints"

#: For each run folder that this process made, the folders above it that had to be made for it, innermost first.
_made_above: dict[Path, list[Path]] = {}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def create_run_folder(output_dir: str | Path, name: str | None = None) -> Path:
    """Make a new, empty run folder ``output_dir/name``.

    Parameters
    ----------
    output_dir : where runs are kept; made if it is not there
    name : of the run; by default the time, as in ``2025-01-31_17-05-09``

    Raises
    ------
    ConfigError
        If either is a link or a file, the run folder is there with something in it, or nothing can be
        written there. Nothing is left behind then.
    """
    root = Path(output_dir)
    if name is not None and not _NAME.fullmatch(name):
        raise ConfigError(f"run name: {name!r}, wanted letters, digits, '.', '_' and '-' only")
    _refuse_link_or_file(root, "training.output_dir")
    absent = [path for path in (root, *root.parents) if not path.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        _probe(root)
        if name is not None:
            folder = root / name
            _refuse_link_or_file(folder, "run folder")
            if folder.is_dir() and any(folder.iterdir()):
                raise ConfigError(f"run folder: {folder} is not empty; choose another name, or --resume {folder}")
            folder.mkdir(exist_ok=True)
            _made_above[folder] = absent
            return folder
        stamp, number = time.strftime("%Y-%m-%d_%H-%M-%S"), 1
        while True:  # two runs may begin in the same second
            folder = root / (stamp if number == 1 else f"{stamp}_{number}")
            try:
                folder.mkdir()
                _made_above[folder] = absent
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"training.output_dir: nothing can be written to {root}: {reason}") from error


def discard_run_folder(folder: Path) -> None:
    """Take away a run folder in which nothing came about, and what was made above it, as far as it is empty."""
    shutil.rmtree(folder, ignore_errors=True)
    for path in _made_above.pop(folder, []):
        with contextlib.suppress(OSError):  # another run is in it by now
            path.rmdir()


def _refuse_link_or_file(path: Path, what: str) -> None:
    if path.is_symlink():
        raise ConfigError(f"{what}: {path} is a symbolic link to {os.readlink(path)}; give the folder itself")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{what}: {path} is a file, wanted a folder")


def _probe(folder: Path) -> None:
    """Write and remove a file: permissions alone do not tell (read-only mounts, full disks, access lists)."""
    probe = folder / f".probe-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"?")
    finally:
        probe.unlink(missing_ok=True)


def newest_run(output_dir: str | Path) -> Path:
    """The run folder in `output_dir` whose latest checkpoint is the youngest.

    Raises
    ------
    ConfigError
        If there is no run with a checkpoint.
    """
    root = Path(output_dir)
    candidates = []
    for folder in root.iterdir() if root.is_dir() else ():
        newest = next(iter(list_checkpoints(folder / CHECKPOINTS)), None)
        if newest is not None:
            candidates.append((newest.stat().st_mtime_ns, folder.name, folder))
    if not candidates:
        raise ConfigError(f"nothing to resume: {root} holds no run with a checkpoint")
    return max(candidates)[2]


def checkpoints_of(path: str | Path) -> Path:
    """The folder to load from, given a run folder, its checkpoints folder, or one checkpoint."""
    path = Path(path)
    return path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder of one checkpoint's folder, two levels up."""
    return checkpoint.resolve().parent.parent

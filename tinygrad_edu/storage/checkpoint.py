"""Checkpoints: folders that are either whole and verified, or refused.

A root folder holds one folder a checkpoint::

    checkpoints/
      0007-step-500/
        model.safetensors       weights
        optimizer.safetensors   the optimizer's arrays
        config.json             any number of JSON documents
        trainer.json
        manifest.json           size and SHA-256 of each of them, and of itself

The number in front counts the saves, so names sort in the order in which they were written, even
when training went on from an older checkpoint and reached the same step twice. A checkpoint is
written under a temporary name, each file flushed to the disk, the manifest last, then the folder;
then it is renamed into place and the root flushed. A process killed at any moment therefore leaves
the earlier checkpoints as they were, and at most a temporary folder that the next save collects.

The best checkpoint carries a mark in its manifest: no second copy, no link, no file that could
disagree with the folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import CheckpointError, ConfigError
from .files import (
    decode_arrays,
    decode_json,
    encode_arrays,
    encode_json,
    fsync_folder,
    load_weights,
    read_file,
    save_weights,
    write_file,
)
from .manifest import FORMAT, MANIFEST, VERSION, read_manifest, render_manifest

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "collect_stale",
    "list_checkpoints",
    "load_checkpoint",
    "load_weights",
    "save_checkpoint",
    "save_weights",
    "verify_checkpoint",
]

_FOLDER = re.compile(r"(\d{4,12})-step-(\d{1,18})")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")
_TEMPORARY = ".tmp-"
_STALE_AFTER = 24 * 3600.0  # seconds, where one cannot ask whether the writer still lives

#: Temporary folders that this process is writing at the moment.
_in_progress: set[Path] = set()


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged and another one was taken in its place."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read and verified.

    Attributes
    ----------
    step : training steps done when it was saved
    arrays : group (``"model"``, ``"optimizer"``) to name to array
    documents : name (``"config"``, ``"trainer"``) to what was saved under it
    path : its folder
    best : whether it was the best so far when it was saved
    skipped : what was wrong with each newer checkpoint that was passed over, if any
    """

    step: int
    arrays: dict[str, dict[str, np.ndarray]]
    documents: dict[str, Any]
    path: Path
    best: bool = False
    skipped: tuple[str, ...] = field(default=())


# -- saving ----------------------------------------------------------------------------------------


def save_checkpoint(
    root: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, Mapping[str, Any]],
    documents: Mapping[str, Any] | None = None,
    *,
    keep_last: int | None = None,
    best: bool = False,
) -> Path:
    """Save a checkpoint, then drop those that are no longer wanted.

    Parameters
    ----------
    root : folder of the checkpoints; made if it is not there
    step : training steps done
    arrays : group to name to array, as in ``{"model": model.state_dict()}``
    documents : name to anything that JSON can hold; NaN and infinities may be in it
    keep_last : how many to keep at least; ``None`` keeps all. The newest one marked best is kept besides
    best : mark this one as the best so far

    Returns
    -------
    Path
        The folder of the new checkpoint, read back and verified.

    Raises
    ------
    CheckpointError
        When it cannot be written (full disk, permissions) or held by the formats. The checkpoints
        that were there are untouched, and nothing half-written stays.
    ConfigError
        For a step or `keep_last` out of range.
    """
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
        raise ConfigError(f"step is {step!r}, wanted an integer >= 0")
    if keep_last is not None and (isinstance(keep_last, bool) or not isinstance(keep_last, int) or keep_last < 1):
        raise ConfigError(f"keep_last is {keep_last!r}, wanted an integer >= 1, or None to keep all")
    root = Path(root)
    temporary = root / f"{_TEMPORARY}{_writer()}-{secrets.token_hex(4)}"
    _in_progress.add(temporary)
    try:
        root.mkdir(parents=True, exist_ok=True)
        collect_stale(root)
        temporary.mkdir()
        _write_parts(temporary, int(step), arrays, documents or {}, best=bool(best))
        final = _move_into_place(temporary, root, int(step))
    except OSError as error:
        newest = next(iter(list_checkpoints(root)), None)
        left = f"{newest.name} is untouched" if newest else "there was none before"
        raise CheckpointError(
            f"checkpoint of step {step} cannot be written to {root}: {error.strerror or error}; {left}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # only there if something failed
        _in_progress.discard(temporary)
    if keep_last is not None:
        verify_checkpoint(final)  # before anything older is let go
        _prune(root, keep_last)
    return final


def _write_parts(
    folder: Path,
    step: int,
    arrays: Mapping[str, Mapping[str, Any]],
    documents: Mapping[str, Any],
    *,
    best: bool,
) -> None:
    """Write every file and, last, the manifest; flush them and the folder."""
    files = {}
    for kind, suffix, parts in (("group", "safetensors", arrays), ("document", "json", documents)):
        for name, part in parts.items():
            if not isinstance(name, str) or not _PART.fullmatch(name) or f"{name}.{suffix}" == MANIFEST:
                raise CheckpointError(
                    f"{kind} name {name!r} is not allowed; wanted letters, digits and _, not 'manifest'"
                )
            data = encode_arrays(part) if suffix == "safetensors" else encode_json(part, name)
            write_file(folder / f"{name}.{suffix}", data)
            files[f"{name}.{suffix}"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            del data  # the next group must not find this one still in memory
    body = {"format": FORMAT, "version": VERSION, "step": step, "best": best, "files": files}
    write_file(folder / MANIFEST, render_manifest(body))
    fsync_folder(folder)


def _move_into_place(temporary: Path, root: Path, step: int) -> Path:
    """Rename to the next free number. A rename onto a folder that is not empty fails: then the next."""
    number = (
        max(
            (int(match[1]) for match in (_FOLDER.fullmatch(path.name) for path in root.iterdir()) if match),
            default=0,
        )
        + 1
    )
    while True:
        final = root / f"{number:04d}-step-{step}"
        try:
            temporary.rename(final)
        except OSError:
            if not os.path.lexists(final):
                raise
            number += 1
            continue
        fsync_folder(root)
        return final


def _prune(root: Path, keep_last: int) -> None:
    """Drop all but the newest `keep_last` and the newest one marked best."""
    best_found = False
    for place, path in enumerate(list_checkpoints(root)):
        try:
            best = read_manifest(path)["best"] and not best_found
        except CheckpointError:
            best = False
        best_found = best_found or best
        if place >= keep_last and not best:
            # Renamed first, so that a kill in the middle cannot leave half a checkpoint under its name.
            # What another process holds open (Windows) stays until the next save.
            doomed = root / f"{_TEMPORARY}{_writer()}-{secrets.token_hex(4)}"
            with contextlib.suppress(OSError):
                path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)


def _writer() -> str:
    """Host and process, as they stand in the name of a temporary folder."""
    host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32] or "host"
    return f"{host}-{os.getpid()}"


def collect_stale(root: str | os.PathLike[str]) -> list[Path]:
    """Remove temporary folders whose writer was killed; returns what was removed.

    A folder of a process that still lives on this machine is left alone, and so is a young one of
    another machine (the root may be a network drive).
    """
    removed = []
    for path in Path(root).glob(f"{_TEMPORARY}*"):
        if path in _in_progress or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError):
            if _is_abandoned(path):
                shutil.rmtree(path)
                removed.append(path)
    return removed


def _is_abandoned(path: Path) -> bool:
    host, _, process = path.name.removeprefix(_TEMPORARY).rpartition("-")[0].partition("-")
    own_host, _, own_process = _writer().partition("-")
    # os.kill(pid, 0) asks on POSIX; on Windows it would end the process, so only age counts there.
    if host == own_host and process.isdigit() and os.name != "nt":
        if process == own_process:
            return True
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, OverflowError):
            return True
        except OSError:  # it is there, and another user's
            pass
    return time.time() - path.stat().st_mtime > _STALE_AFTER


# -- loading ---------------------------------------------------------------------------------------


def list_checkpoints(root: str | os.PathLike[str]) -> list[Path]:
    """Folders of the checkpoints in `root`, newest first, without reading them. Links are passed over."""
    try:
        with os.scandir(root) as entries:
            named = [(_FOLDER.fullmatch(e.name), Path(e.path)) for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [path for _, path in sorted(((int(m[1]), p) for m, p in named if m), reverse=True)]


def verify_checkpoint(path: str | os.PathLike[str]) -> int:
    """Hold every file of one checkpoint against its size and SHA-256; returns its step.

    Raises
    ------
    CheckpointError
        Naming the first file that is missing, of another size, or changed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    for name in manifest["files"]:
        _read_part(folder, name, manifest)
    return int(manifest["step"])


def _read_part(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    about = manifest["files"][name]
    data = read_file(folder / name, size=about["size"])
    found = hashlib.sha256(data).hexdigest()
    if found != about["sha256"]:
        raise CheckpointError(f"{folder / name}: damaged: SHA-256 {found[:12]}..., wanted {about['sha256'][:12]}...")
    return data


def _load_one(folder: Path) -> Checkpoint:
    manifest = read_manifest(folder)
    arrays: dict[str, dict[str, np.ndarray]] = {}
    documents: dict[str, Any] = {}
    for name in manifest["files"]:
        data = _read_part(folder, name, manifest)  # what was hashed is what is decoded
        part, _, kind = name.partition(".")
        if kind == "safetensors":
            arrays[part] = decode_arrays(data, str(folder / name))
        else:
            documents[part] = decode_json(data, str(folder / name))
    return Checkpoint(manifest["step"], arrays, documents, folder, manifest["best"])


def load_checkpoint(path: str | os.PathLike[str], *, which: Literal["last", "best"] = "last") -> Checkpoint:
    """Read a checkpoint and verify every byte of it.

    Parameters
    ----------
    path : one checkpoint's folder, or the root that holds them
    which : with a root, the newest one, or the newest of those marked best (the newest if none is)

    Returns
    -------
    Checkpoint
        With a root, the newest intact one. Whatever was passed over is told in a
        :class:`CheckpointWarning` and in :attr:`Checkpoint.skipped`.

    Raises
    ------
    CheckpointError
        If nothing intact is there, listing what is wrong with each; or if the one checkpoint asked
        for is damaged, naming an intact one beside it where there is one.
    """
    if which not in ("last", "best"):
        raise ConfigError(f"which is {which!r}, wanted 'last' or 'best'")
    path = Path(path)
    if not path.is_dir():
        state = "not a folder" if path.exists() else "does not exist"
        raise CheckpointError(f"{path}: {state}; wanted a checkpoint or a folder of them")
    if (path / MANIFEST).exists() or _FOLDER.fullmatch(path.name):
        return _load_asked_for(path)
    candidates = list_checkpoints(path)
    if not candidates:
        raise CheckpointError(f"{path}: holds no checkpoint (wanted folders named like '0001-step-500')")
    if which == "best":
        candidates = _best_first(candidates)
    skipped: list[str] = []
    for candidate in candidates:
        try:
            found = _load_one(candidate)
        except CheckpointError as error:
            skipped.append(str(error))
            continue
        if skipped:
            listed = "".join(f"\n  {reason}" for reason in skipped)
            warnings.warn(
                f"took {found.path.name} (step {found.step}), because this cannot be used:{listed}",
                CheckpointWarning,
                stacklevel=2,
            )
        return Checkpoint(found.step, found.arrays, found.documents, found.path, found.best, tuple(skipped))
    raise CheckpointError(
        f"{path}: none of {len(skipped)} checkpoints is intact:" + "".join(f"\n  {r}" for r in skipped)
    )


def _best_first(candidates: list[Path]) -> list[Path]:
    """The same checkpoints, those marked best in front; both halves newest first.

    One whose manifest cannot be read may have been the best: it goes in front too, to be told of.
    """

    def marked(path: Path) -> bool:
        try:
            return bool(read_manifest(path)["best"])
        except CheckpointError:
            return True

    flags = {path: marked(path) for path in candidates}
    return sorted(candidates, key=lambda path: not flags[path])


def _load_asked_for(folder: Path) -> Checkpoint:
    """One certain checkpoint: never silently another one, but say which other one could be read."""
    try:
        return _load_one(folder)
    except CheckpointError as error:
        for other in list_checkpoints(folder.parent):
            try:
                verify_checkpoint(other)
            except CheckpointError:
                continue
            raise CheckpointError(f"{error}\n  intact beside it: {other}") from None
        raise

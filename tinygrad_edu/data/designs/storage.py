"""A folder of designs as it lies on disk, and what proves it whole.

It holds one ``.npy`` file a field and ``manifest.json``, which says how they were made and has the SHA-256 of each. The
arrays are plain NumPy files, so that anything else can read them too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from .layout import FORMATS, GOALS, TONES
from .maps import GRAMMAR, MAPS

KIND, VERSION = "tinygrad_edu designs", 1
MANIFEST = "manifest.json"
SPLITS = ("train", "validation", "test")
#: What an example may have, in the order in which it has it.
FIELDS = ("image", "features", "goal", "format", "tone", "grammar")

_CHUNK = 1 << 22  # bytes hashed at a time


def arrays_of(count: int, size: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each field's array on disk."""
    return {
        "image": ((count, 3, size, size), "|u1"),
        "features": ((count, len(MAPS), size, size), "|u1"),
        "goal": ((count,), "<i8"),
        "format": ((count,), "<i8"),
        "tone": ((count, len(TONES)), "<f4"),
        "grammar": ((count, len(GRAMMAR)), "<f4"),
    }


def stored_maps(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """F_Tensor as it is on disk, (..., 4, S, S): importance in steps of 1/255, all else whole numbers already."""
    stored = maps.copy()
    stored[..., 3, :, :] *= 255
    return np.rint(stored).astype(np.uint8)


def read_maps(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Inverse of :func:`stored_maps`."""
    maps = stored.astype(np.float32)
    maps[..., 3, :, :] /= 255
    return maps


def sum_of(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            total.update(part)
    return {"bytes": path.stat().st_size, "sha256": total.hexdigest()}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of designs, with every entry of its kind."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}; wanted a folder that write_designs made"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise DataError(f"{path}: is not the manifest of a folder of designs (kind {KIND!r} wanted)")
    version = manifest.get("version")
    if isinstance(version, int) and version > VERSION:
        raise DataError(f"{path}: version {version}, wanted at most {VERSION}: a newer release wrote it")
    _check_manifest(manifest, path)
    return manifest


def _check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Every field is there and of its kind; what was edited by hand is not trusted either."""
    if manifest.get("version") != VERSION:
        raise DataError(f"{path}: version {manifest.get('version')!r}, wanted {VERSION}")
    for name in ("count", "size", "n_colours", "seed"):
        value = manifest.get(name)
        if type(value) is not int or value < 0:
            raise DataError(f"{path}: {name} is {value!r}, wanted an integer >= 0")
    splits, files = manifest.get("splits"), manifest.get("files")
    whole = isinstance(splits, dict) and splits.keys() == set(SPLITS)
    if not whole or not all(type(n) is int and n > 0 for n in splits.values()):  # type: ignore[union-attr]
        raise DataError(f"{path}: splits is {splits!r}, wanted numbers of designs for {', '.join(SPLITS)}")
    if sum(splits.values()) != manifest["count"]:  # type: ignore[union-attr]
        raise DataError(f"{path}: splits have {sum(splits.values())} designs, count is {manifest['count']}")  # type: ignore[union-attr]
    for name, wanted in (("goals", GOALS), ("formats", FORMATS), ("tones", TONES), ("grammar", GRAMMAR)):
        if manifest.get(name) != list(wanted):
            raise DataError(f"{path}: {name} is {manifest.get(name)!r}, wanted {list(wanted)}")
    if not isinstance(files, dict) or files.keys() != {f"{name}.npy" for name in FIELDS}:
        raise DataError(f"{path}: files is {files!r:.80}, wanted one .npy for each of {', '.join(FIELDS)}")


def open_arrays(folder: Path, manifest: Mapping[str, Any], verify: bool) -> dict[str, NDArray[Any]]:
    """All arrays, mapped, after their files were held against the manifest."""
    arrays = {}
    for name, (shape, dtype) in arrays_of(manifest["count"], manifest["size"]).items():
        path, about = folder / f"{name}.npy", manifest["files"][f"{name}.npy"]
        wanted = about if isinstance(about, dict) else {}
        try:
            size = path.stat().st_size
            if size != wanted.get("bytes"):
                raise DataError(f"{path}: {size:,} bytes, wanted {wanted.get('bytes')!r}: cut off or overwritten")
            if verify and (found := sum_of(path)["sha256"]) != wanted.get("sha256"):
                raise DataError(f"{path}: damaged: SHA-256 {found[:12]}..., wanted {str(wanted.get('sha256'))[:12]}...")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: is not a NumPy file: {error}") from error
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise DataError(f"{path}: {array.dtype} {array.shape}, wanted {np.dtype(dtype)} {shape}")
        arrays[name] = array
    return arrays

"""The manifest of a checkpoint: what files it has, and the sums that prove them whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import decode_json, read_file

FORMAT, VERSION = "tinygrad_edu checkpoint", 1
MANIFEST = "manifest.json"
_LIMIT = 1 << 20  # bytes; a manifest has about 150 a file
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*\.(safetensors|json)")


def render_manifest(body: Mapping[str, Any]) -> bytes:
    """The manifest's only valid text: any other byte anywhere is noticed on reading."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, sort_keys=True, indent=2) + "\n").encode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and verify the manifest: format, version, its own digest, harmless file names."""
    path = folder / MANIFEST
    data = read_file(path, limit=_LIMIT)
    manifest = decode_json(data, str(path))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the manifest of a checkpoint (format {FORMAT!r} wanted)")
    version = manifest.get("version")
    if isinstance(version, int) and version > VERSION:
        raise CheckpointError(f"{path}: format version {version}, wanted at most {VERSION}: a newer release wrote it")
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    try:
        fits = version == VERSION and data == render_manifest(body)
    except RecursionError:  # reading stands deeper nesting than writing does
        fits = False
    if not fits:
        raise CheckpointError(f"{path}: damaged: its text does not fit its own digest")
    _check_manifest(body, path)
    return body


def _check_manifest(body: Mapping[str, Any], path: Path) -> None:
    """A digest can be recomputed by whoever wants to do harm, so every field is checked too."""
    step, best, files = body.get("step"), body.get("best"), body.get("files")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise CheckpointError(f"{path}: field 'step' is {step!r}, wanted an integer >= 0")
    if not isinstance(best, bool):
        raise CheckpointError(f"{path}: field 'best' is {best!r}, wanted true or false")
    if not isinstance(files, dict):
        raise CheckpointError(f"{path}: field 'files' is {type(files).__name__}, wanted an object")
    for name, about in files.items():
        # A plain name in this very folder: no separators, no dots in front, no drive, no stream.
        if not _FILE.fullmatch(name) or name == MANIFEST:
            raise CheckpointError(
                f"{path}: file name {name!r} is not allowed; wanted like 'model.safetensors' or 'config.json'"
            )
        size, digest = (about.get("size"), about.get("sha256")) if isinstance(about, dict) else (None, None)
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise CheckpointError(f"{path}: size of {name!r} is {size!r}, wanted an integer >= 0")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise CheckpointError(f"{path}: sha256 of {name!r} is {digest!r}, wanted 64 hexadecimal digits")

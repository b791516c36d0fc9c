"""Weights in a safetensors file that are looked at before they are read, and read one at a time.

:func:`~tinygrad_edu.storage.load_weights` gives all arrays of a file at once. Published weights are larger, come in
several files, may be of bfloat16, and are first compared with the model that is to take them.
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, format_shape
from .files import DIGEST, digest

__all__ = ["StoredArray", "StoredWeights", "open_weights"]

#: The format's names of real types, and NumPy's. NumPy has no bfloat16: it is the upper half of a float32.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class StoredArray:
    """One array of a file, not read yet.

    Attributes
    ----------
    path : the file
    name, kind, shape : what its header says; `kind` is a NumPy type's name, or bfloat16
    offset : where its bytes begin
    """

    path: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what :meth:`read` gives: bfloat16 is read as float32, which holds each of its values."""
        return np.dtype("float32" if self.kind == _BFLOAT16 else self.kind)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """The values, in memory of their own.

        Raises
        ------
        CheckpointError
            If the file has become shorter, or cannot be read.
        """
        stored = np.dtype("<u2" if self.kind == _BFLOAT16 else self.kind).newbyteorder("<")
        try:
            values = np.fromfile(self.path, stored, self.size, offset=self.offset)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        if values.size != self.size:
            raise CheckpointError(f"{self.path}: ends within {self.name!r} {format_shape(self.shape)}: truncated")
        if self.kind == _BFLOAT16:
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return values.astype(self.dtype, copy=False).reshape(self.shape)


@dataclass(frozen=True)
class StoredWeights:
    """What a safetensors file holds.

    Attributes
    ----------
    path : the file
    arrays : by name
    metadata : text to text
    """

    path: Path
    arrays: dict[str, StoredArray]
    metadata: dict[str, str]

    def verify(self) -> None:
        """Compare the values with the digest in the header. Only files of this library have one.

        Raises
        ------
        CheckpointError
            If they differ.
        """
        about = dict(self.metadata)
        wanted = about.pop(DIGEST, None)
        if wanted is not None and wanted != digest(self.arrays, about, StoredArray.read):
            raise CheckpointError(f"{self.path}: the {DIGEST} digest of its arrays does not fit: damaged")


def open_weights(path: str | os.PathLike[str]) -> StoredWeights:
    """Read the header of a safetensors file, and hold it against the file's length.

    Parameters
    ----------
    path : the file; a link to one is fine, because hubs keep their files behind links

    Raises
    ------
    CheckpointError
        When it is missing, no regular file, no safetensors file, shorter or longer than its header says, or of a
        type that has no counterpart here.
    """
    from safetensors import safe_open

    real = Path(os.path.realpath(path))
    try:
        if not stat.S_ISREG(real.stat().st_mode):
            raise CheckpointError(f"{path}: not a regular file (a folder or device); wanted a safetensors file")
        with safe_open(real, framework="np") as file:
            metadata = dict(file.metadata() or {})
        with real.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(start - 8))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # the Rust parser's own type
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None
    header.pop("__metadata__", None)
    unknown = sorted({about["dtype"] for about in header.values() if about["dtype"] not in _DTYPES})
    if unknown:
        raise CheckpointError(f"{path}: holds arrays of {', '.join(unknown)}; wanted {', '.join(_DTYPES)}")
    arrays = {
        name: StoredArray(real, name, _DTYPES[about["dtype"]], tuple(about["shape"]), start + about["data_offsets"][0])
        for name, about in header.items()
    }
    return StoredWeights(Path(path), arrays, metadata)

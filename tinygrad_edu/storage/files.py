"""Files that are either whole or not there: atomic writing, strict reading.

Everything in this library that must survive a crash goes through here. Four rules:

- a file is written under a temporary name, flushed to the disk, and renamed into place, so that
  its name never stands for half of it;
- arrays are safetensors, everything else is JSON: reading a file can never run code;
- safetensors protects its header and not its payload, so a digest of the arrays travels in the
  header's metadata and is checked whenever it is there;
- whatever is wrong with a file on disk is told as one type, :class:`~tinygrad_edu.errors.CheckpointError`.

Source: the format at https://github.com/huggingface/safetensors; for why both the file and its
folder need ``fsync``, Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError

__all__ = [
    "decode_arrays",
    "decode_json",
    "digest",
    "encode_arrays",
    "encode_json",
    "fsync_folder",
    "load_weights",
    "read_file",
    "save_weights",
    "write_atomic",
    "write_file",
]

#: What safetensors can hold of NumPy's types.
_INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_DTYPES = frozenset((*_INTEGERS, "float16", "float32", "float64", "complex64"))
_FORMAT = "tinygrad_edu"
DIGEST = "sha256"
#: JSON has no NaN and no infinity: they are written as an object with this one key.
_FLOAT_KEY = "$float"
_NAMED_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


# -- writing and reading whole files ---------------------------------------------------------------


def _flush_to_disk(descriptor: int) -> None:
    """``fsync``; on macOS ``F_FULLFSYNC``, because there ``fsync`` stops at the drive's own cache."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # network file systems refuse it: plain fsync then
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def fsync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a folder's list of names to the disk, so that a rename in it survives a power cut.

    Windows cannot open folders and orders these writes itself: nothing is done there.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to a new file and flush it to the disk. Not atomic: for files under a temporary name.

    Raises
    ------
    OSError
        As the operating system gives it: full disk, no permission, the file exists ...
    """
    with Path(path).open("xb") as file:
        file.write(data)
        file.flush()
        _flush_to_disk(file.fileno())


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Put `data` at `path` so that, whatever happens, either the old file or the new one is there.

    Parameters
    ----------
    path : path of the file; its folder must exist
    data : the whole content

    Raises
    ------
    OSError
        When it cannot be written. What was at `path` is untouched then, and no temporary stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_file(temporary, data)
        temporary.replace(path)
    except BaseException:  # also KeyboardInterrupt: leave nothing half-written
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def read_file(path: str | os.PathLike[str], *, size: int | None = None, limit: int | None = None) -> bytes:
    """Read a regular file whole.

    Parameters
    ----------
    path : the file; a symbolic link, folder, device or pipe is refused
    size : number of bytes it must have
    limit : number of bytes it may have at most

    Raises
    ------
    CheckpointError
        Naming the file and what was found where what was wanted.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CheckpointError(f"{path}: not a regular file (a link, folder or device); wanted a plain file")
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                raise CheckpointError(f"{path}: {found:,} bytes long, wanted {size:,}: truncated or overwritten")
            if limit is not None and found > limit:
                raise CheckpointError(f"{path}: {found:,} bytes long, wanted at most {limit:,}")
            return file.read()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


# -- JSON ------------------------------------------------------------------------------------------


def encode_json(value: Any, where: str = "document") -> bytes:
    """JSON text of `value`, exact for floats, with NaN and infinities as ``{"$float": "nan"}``.

    Tuples become lists; NumPy scalars become Python's. What JSON cannot hold, a key that is not
    text among it (Python's own encoder would turn it into text silently), is refused.

    Raises
    ------
    CheckpointError
        Naming the place in `value`, for anything that would not read back as it was.
    """
    try:
        text = json.dumps(_to_json(value, where), indent=2, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deeply, or within itself, to be written as JSON") from None
    except ValueError as error:  # lone surrogates in a text, an integer of thousands of digits
        raise CheckpointError(f"{where}: cannot be kept in JSON: {error}") from None


def _to_json(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT_KEY: "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key == _FLOAT_KEY:
                raise CheckpointError(
                    f"{where}: key {key!r} cannot be kept in JSON; wanted text other than {_FLOAT_KEY!r}"
                )
        return {key: _to_json(item, f"{where}.{key}") for key, item in value.items()}
    raise CheckpointError(
        f"{where}: {type(value).__name__} cannot be kept in JSON; wanted numbers, text, lists and mappings"
    )


def decode_json(data: bytes, where: str) -> Any:
    """Inverse of :func:`encode_json`; `where` names the file in errors.

    Raises
    ------
    CheckpointError
        For anything that is not JSON, and for JSON with NaN literals or a key given twice.
    """

    def pairs(items: list[tuple[str, Any]]) -> Any:
        result = dict(items)
        if len(result) != len(items):
            raise ValueError("a key stands twice in one object")
        if _FLOAT_KEY in result:
            if len(result) != 1 or result[_FLOAT_KEY] not in _NAMED_FLOATS:
                raise ValueError(f"a {_FLOAT_KEY} object holds something other than nan, inf or -inf")
            return _NAMED_FLOATS[result[_FLOAT_KEY]]
        return result

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, TypeError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise CheckpointError(f"{where}: not readable as JSON: {error}") from None


# -- arrays ----------------------------------------------------------------------------------------


def _host_array(name: str, value: Any) -> np.ndarray:
    """`value` as a C-contiguous little-endian NumPy array, copied only where it is not one already."""
    if hasattr(value, "__cuda_array_interface__"):
        value = value.get()
    if not isinstance(value, np.ndarray | np.generic):
        raise CheckpointError(f"array {name!r}: found {type(value).__name__}, wanted an array")
    array = np.asarray(value)
    if array.dtype.name not in _DTYPES:
        raise CheckpointError(f"array {name!r}: dtype {array.dtype} cannot be saved; wanted one of {sorted(_DTYPES)}")
    # safetensors 0.8 reads `nbytes` from the data pointer and never looks at the strides, so a
    # transposed view would be written scrambled. np.ascontiguousarray would turn () into (1,).
    return np.require(array, dtype=array.dtype.newbyteorder("<"), requirements="C")


def digest(
    arrays: Mapping[str, Any], metadata: Mapping[str, str], read: Callable[[Any], np.ndarray] = lambda array: array
) -> str:
    """SHA-256 over names, dtypes, shapes, values and metadata, in one order whatever the mapping's.

    Parameters
    ----------
    arrays : anything with ``dtype`` and ``shape``, by name
    read : gives the values of one of them; they are asked for one at a time
    """
    total = hashlib.sha256()
    about = [[name, arrays[name].dtype.name, list(arrays[name].shape)] for name in sorted(arrays)]
    total.update(json.dumps([about, sorted(metadata.items())]).encode())
    for name in sorted(arrays):
        total.update(read(arrays[name]).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def encode_arrays(arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file holding `arrays`.

    Parameters
    ----------
    arrays : name to NumPy or CuPy array, of any layout; 0-d and empty ones included
    metadata : text to text, kept in the header; other libraries want ``{"format": "pt"}`` in it

    Returns
    -------
    bytes
        Takes as much memory again as the arrays do.

    Raises
    ------
    CheckpointError
        For a name or a dtype that the format cannot hold, and if what was written is not what was given.
    """
    import safetensors.numpy

    for name in arrays:
        if not isinstance(name, str) or not name or name == "__metadata__":
            raise CheckpointError(
                f"array name {name!r} is not allowed; wanted non-empty text other than '__metadata__'"
            )
    host = {name: _host_array(name, array) for name, array in arrays.items()}
    about = {"format": _FORMAT, **(metadata or {})}
    about[DIGEST] = digest(host, about)
    data = safetensors.numpy.save(host, metadata=about)

    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    for name, array in host.items():  # one comparison of memory: cheap beside a silently scrambled model
        first, last = header[name]["data_offsets"]
        written = np.frombuffer(data, np.uint8, count=last - first, offset=start + first)
        if not np.array_equal(written, array.reshape(-1).view(np.uint8)):
            raise CheckpointError(f"array {name!r}: safetensors wrote other values than it was given")
    return data


def decode_arrays(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Inverse of :func:`encode_arrays`; reads any safetensors file of NumPy's types.

    Files of this library carry a digest of their arrays, which is checked; files of others need none.

    Raises
    ------
    CheckpointError
        Naming the file (`where`): not safetensors, sizes beyond the file, an unknown dtype, a wrong digest.
    """
    import safetensors.numpy

    try:
        arrays: dict[str, np.ndarray] = safetensors.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata: dict[str, str] = header.get("__metadata__") or {}
    except KeyError as error:
        raise CheckpointError(f"{where}: dtype {error} has no NumPy counterpart") from None
    except Exception as error:  # the Rust parser's own type, and what a hostile header makes NumPy say
        raise CheckpointError(f"{where}: not a readable safetensors file: {error}") from None
    wanted = metadata.pop(DIGEST, None)
    if wanted is None and metadata.get("format") == _FORMAT:
        raise CheckpointError(f"{where}: its header has lost the {DIGEST} digest: damaged")
    if wanted is not None and wanted != digest(arrays, metadata):
        raise CheckpointError(f"{where}: the {DIGEST} digest of its arrays does not fit: damaged")
    return {name: array if array.flags.writeable else array.copy() for name, array in arrays.items()}


def save_weights(
    path: str | os.PathLike[str], state_dict: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write one safetensors file, atomically, with a digest of its arrays in its metadata.

    Any safetensors reader reads it; torch's, transformers' and this library's.

    Parameters
    ----------
    path : where; a file already there is replaced in one step, or left as it was on failure
    state_dict : name to NumPy or CuPy array
    metadata : text to text, kept in the file's header

    Raises
    ------
    CheckpointError
        When it cannot be written, naming the path and the reason.
    """
    data = encode_arrays(state_dict, metadata)
    try:
        write_atomic(path, data)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}; nothing was changed") from error


def load_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read one safetensors file, ours or another's, into writable NumPy arrays.

    Raises
    ------
    CheckpointError
        When it is missing, no regular file, damaged, or no safetensors file.
    """
    real = os.path.realpath(path)  # hubs keep their files behind links; a link to a file is fine here
    return decode_arrays(read_file(real), str(path))

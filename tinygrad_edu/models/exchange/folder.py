"""The folder in which a model lies: ``config.json``, and weights in one file or in several with an index."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError, ConfigError
from ...storage import StoredArray, encode_json, open_weights
from ...storage.files import decode_json, encode_arrays, fsync_folder, read_file, write_file

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

#: Weights in formats whose reading may run code, or that are another library's own.
_REFUSED = {
    "pytorch_model.bin": "a pickle, and reading one can run any code",
    "pytorch_model.bin.index.json": "an index of pickles, and reading one can run any code",
    "tf_model.h5": "of TensorFlow",
    "flax_model.msgpack": "of Flax",
}
#: What a folder of this kind may hold besides; such a folder may be replaced.
_BESIDE = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|vocab\.txt|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
)
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_LARGEST_TEXT = 64 * 2**20  # bytes, of a JSON file


# -- reading ---------------------------------------------------------------------------------------


def _read_json(file: Path) -> dict[str, Any]:
    document = decode_json(read_file(os.path.realpath(file), limit=_LARGEST_TEXT), str(file))
    if not isinstance(document, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(document).__name__}")
    return document


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says.

    Raises
    ------
    CheckpointError
        If it is missing or no JSON object.
    """
    file = folder / CONFIG
    if not file.exists():
        raise CheckpointError(f"{folder}: there is no {CONFIG}, so this is no folder of a model")
    return _read_json(file)


def open_folder(folder: Path) -> dict[str, StoredArray]:
    """All arrays of a folder, by the names they have there; nothing is read yet but headers and our digests.

    Raises
    ------
    CheckpointError
        Naming everything that is missing, damaged, or said differently by index and files.
    """
    if (folder / WEIGHTS).exists():
        weights = open_weights(folder / WEIGHTS)
        weights.verify()
        return weights.arrays
    if not (folder / INDEX).exists():
        raise CheckpointError(_no_weights(folder))
    places = _read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{folder / INDEX}: weight_map must be an object of names and files")
    wrong, arrays = [], {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard:
            wrong.append(f"the index names {shard!r}, which is no file of this folder")
            continue
        try:
            weights = open_weights(folder / shard)
            weights.verify()
        except CheckpointError as error:
            wrong.append(str(error))
            continue
        said = {name for name, file in places.items() if file == shard}
        wrong += [f"{shard}: holds no {name}, though the index says so" for name in sorted(said - set(weights.arrays))]
        wrong += [f"{shard}: holds {name}, which the index does not say" for name in sorted(set(weights.arrays) - said)]
        arrays.update(weights.arrays)
    if wrong:
        raise CheckpointError(f"{folder / INDEX}:\n  " + "\n  ".join(wrong))
    return arrays


def _no_weights(folder: Path) -> str:
    text = f"{folder}: there is no {WEIGHTS} and no {INDEX}"
    for name, what in _REFUSED.items():
        if (folder / name).exists():
            return (
                f"{text}. {name} is {what}, so it is not read here. Where it is trusted, transformers writes the same "
                "weights as safetensors: AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
            )
    return text


# -- writing ---------------------------------------------------------------------------------------


def parse_size(size: int | str) -> int:
    """A number of bytes: 5_000_000, "200MB", "2GB", "512MiB".

    Raises
    ------
    ConfigError
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", size.strip()) if isinstance(size, str) else None
    number = float(found[1]) * _UNITS.get(found[2].upper(), 0) if found else 0
    if number < 1:
        raise ConfigError(f"max_shard_size must be a number of bytes, or text such as '200MB' or '5GB', got {size!r}")
    return int(number)


def shard(arrays: Mapping[str, np.ndarray], largest: int) -> list[dict[str, np.ndarray]]:
    """`arrays` in files of at most `largest` bytes each, in order; one that is larger alone has a file of its own."""
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, array in arrays.items():
        if shards[-1] and size + array.nbytes > largest:
            shards.append({})
            size = 0
        shards[-1][name] = array
        size += array.nbytes
    return shards


def check_destination(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The folder to write, made absolute; nothing is changed yet.

    Raises
    ------
    CheckpointError
        If it is a link or a file, or holds something that may not be replaced.
    """
    folder = Path(os.path.abspath(Path(path).expanduser()))
    if folder.is_symlink():
        raise CheckpointError(f"{path}: is a symbolic link; give the folder itself")
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{path}: is a file; wanted a folder")
    there = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else []
    strange = [name for name in there if not _BESIDE.fullmatch(name) or (folder / name).is_dir()]
    if strange:
        raise CheckpointError(f"{path}: holds {strange[0]!r}, which is no part of a saved model; give another folder")
    if there and not overwrite:
        raise CheckpointError(
            f"{path}: holds {there[0]!r} already; give another folder, or overwrite=True to replace it"
        )
    return folder


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    max_shard_size: int,
    beside: Callable[[Path], object] | None = None,
) -> None:
    """Write config and weights to `folder`, all or nothing: under another name, flushed to the disk, then renamed.

    Parameters
    ----------
    folder : as :func:`check_destination` gave it; what is there is replaced
    config : for ``config.json``
    arrays : by the names they are to have; contiguous or not
    max_shard_size : bytes of weights in one file
    beside : writes what else belongs into the folder, into the one that it is given

    Raises
    ------
    CheckpointError
        If it cannot be written. What was there is untouched, and nothing half-written stays.
    """
    mark = secrets.token_hex(4)
    temporary = folder.with_name(f".{folder.name}.{mark}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            write_file(temporary / CONFIG, encode_json(config, CONFIG))
            _write_weights(temporary, shard(arrays, max_shard_size))
            if beside is not None:
                beside(temporary)
            fsync_folder(temporary)
            _put_into_place(temporary, folder, folder.with_name(f".{folder.name}.{mark}.old"))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}; nothing was changed") from error


def _write_weights(folder: Path, shards: list[dict[str, np.ndarray]]) -> None:
    metadata = {"format": "pt"}  # whose names and layouts these are; transformers asks for it
    if len(shards) == 1:
        write_file(folder / WEIGHTS, encode_arrays(shards[0], metadata))
        return
    places, total = {}, 0
    for number, arrays in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, encode_arrays(arrays, metadata))
        places.update(dict.fromkeys(arrays, name))
        total += sum(array.nbytes for array in arrays.values())
    write_file(folder / INDEX, encode_json({"metadata": {"total_size": total}, "weight_map": places}, INDEX))


def _put_into_place(temporary: Path, folder: Path, aside: Path) -> None:
    """Rename `temporary` to `folder`; what was there goes aside first, and comes back if that fails."""
    there = folder.exists()
    if there:
        folder.rename(aside)
    try:
        temporary.rename(folder)
    except BaseException:
        if there:
            with contextlib.suppress(OSError):
                aside.rename(folder)
        raise
    fsync_folder(folder.parent)
    if there:
        shutil.rmtree(aside, ignore_errors=True)

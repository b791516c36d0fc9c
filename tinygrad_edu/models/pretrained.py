"""Models from folders and to folders, in the layout of Hugging Face's ``transformers``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import device_of, is_outline, outline, to_device, to_host
from ..errors import CheckpointError, ConfigError, did_you_mean, format_shape
from ..storage import StoredArray
from .exchange import EXCHANGES, Copy, Entry, Exchange, open_folder, own_names, read_config, write_folder
from .exchange.folder import check_destination, parse_size
from .registry import available_architectures, get_architecture

if TYPE_CHECKING:
    from .base import BaseLanguageModel
    from .config import ModelConfig

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_HUB_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")


def from_pretrained(name_or_path: str | os.PathLike[str], *, new_head: bool = False, **overrides: Any) -> Any:
    """A model from a folder of Hugging Face's layout, or from the hub; which class, its ``config.json`` says.

    Weights of float16 and bfloat16 become float32; so does float64, unless ``config.json`` or `overrides` ask for
    ``dtype`` float64. What is kept in the folder and not read by the model of that class in ``transformers`` either,
    such as BERT's pooler and its sentence task, is left out.

    Parameters
    ----------
    name_or_path : a folder with ``config.json`` and ``model.safetensors`` (or its index and shards), or a name on the
        hub, such as ``openai-community/gpt2``. What exists as a path is taken as a path
    new_head : draw the head anew where the folder holds only the model below it
    overrides : settings other than the folder's, such as ``device="cuda"``, ``seed=1`` or a rate of dropout

    Returns
    -------
    The model, in evaluation mode (dropout off) as in ``transformers``; ``train_step`` switches to training by itself.

    Raises
    ------
    CheckpointError
        If the folder, its weights or the hub cannot be read, or they do not fit: all that is missing, unexpected,
        misshapen or of a wrong type is listed.
    ConfigError
        If ``config.json`` asks for something that this library does not compute, or a setting is not allowed.

    Examples
    --------
    >>> model = from_pretrained("openai-community/gpt2")  # doctest: +SKIP
    """
    return load_pretrained(None, name_or_path, new_head, overrides)


def load_pretrained(
    wanted: type[BaseLanguageModel] | None,
    name_or_path: str | os.PathLike[str],
    new_head: bool,
    overrides: Mapping[str, Any],
) -> BaseLanguageModel:
    """:func:`from_pretrained`, of a model that must be a `wanted`."""
    folder = _folder(name_or_path)
    document = read_config(folder)
    kind = _kind(wanted, document, folder)
    exchange = EXCHANGES.get(kind.model_type)
    config = _config(kind.config_class, exchange, document, overrides, folder)
    with outline():  # names and shapes first: nothing is allocated, or drawn, for weights that do not fit
        model: BaseLanguageModel = kind(config)  # type: ignore[call-arg]  # every architecture takes its config
    exchange = own_names(model) if exchange is None else exchange
    entries = exchange.entries(config)
    arrays, wrong = _their_arrays(exchange, config, entries, open_folder(folder))
    head = [entry for entry in entries if entry.theirs[0].startswith(exchange.head or ("\0",))]
    anew = head if new_head and not any(name in arrays for entry in head for name in entry.theirs) else []
    read = [entry for entry in entries if entry not in anew]
    wrong += _mistakes(model, entries, read, arrays)
    if wrong:
        lacking = len(head) and not any(name in arrays for entry in head for name in entry.theirs)
        hint = f"\n{folder} holds the model without its head; new_head=True draws one" if lacking else ""
        raise CheckpointError(f"the weights in {folder} do not fit {kind.__name__}:\n  " + "\n  ".join(wrong) + hint)
    if anew:  # only a model that was really made has drawn one
        model = kind(config)  # type: ignore[call-arg]
    else:
        _allocate(model)
    state = dict(model.named_state())
    for entry in read:
        _assign(state[entry.ours], entry, [arrays[name] for name in entry.theirs])
    model.eval()
    return model


def save_pretrained(
    model: BaseLanguageModel,
    path: str | os.PathLike[str],
    max_shard_size: int | str = "5GB",
    tokenizer: Any = None,
    overwrite: bool = False,
) -> Path:
    """See :meth:`BaseLanguageModel.save_pretrained`."""
    largest = parse_size(max_shard_size)
    if tokenizer is not None and not hasattr(tokenizer, "save"):
        raise ConfigError(f"save_pretrained: tokenizer must have a method save(folder), got {type(tokenizer).__name__}")
    folder = check_destination(path, overwrite)
    exchange = EXCHANGES.get(model.model_type) or own_names(model)
    ours = {name: to_host(values) for name, values in model.state_dict().items()}
    document = {"architectures": [exchange.class_name], "model_type": model.model_type}
    document |= _settings(model, exchange)
    beside = None if tokenizer is None else tokenizer.save
    write_folder(folder, document, exchange.to_theirs(model, ours), largest, beside)
    return folder


# -- where it is -----------------------------------------------------------------------------------


def _folder(name_or_path: str | os.PathLike[str]) -> Path:
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"from_pretrained: {path} is a file; give the folder that holds config.json and weights")
    name = str(name_or_path)
    if not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"from_pretrained: there is no folder {path}")
    return _fetch(name)


def _fetch(name: str) -> Path:
    """The folder in the hub client's cache, downloaded if need be."""
    from huggingface_hub import snapshot_download

    from ..data.hub import quick_offline

    with quick_offline() as online:
        try:
            return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
        except Exception as error:  # the client raises a dozen types of four libraries
            here = f"from_pretrained: there is no folder {name!r} here"
            if not online:
                raise CheckpointError(
                    f"{here}, the hub cannot be reached, and its client's cache has no such model"
                ) from error
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{here}, and the hub says: {reason} ({type(error).__name__})") from error


# -- config.json -----------------------------------------------------------------------------------


def _kind(wanted: type[BaseLanguageModel] | None, document: Mapping[str, Any], folder: Path) -> type[BaseLanguageModel]:
    name, known = document.get("model_type"), available_architectures()
    if name not in known:
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type {name!r} is unknown; available are {', '.join(known)}."
            f"{did_you_mean(str(name), known)}"
        )
    kind = get_architecture(str(name))
    if wanted is None or issubclass(kind, wanted):
        return kind
    if issubclass(wanted, kind):
        return wanted
    raise CheckpointError(
        f"{folder}: holds a model of type {name!r}, and {wanted.__name__} is of type {wanted.model_type!r}; "
        "tinygrad_edu.models.from_pretrained takes either"
    )


def _config(
    kind: type[ModelConfig],
    exchange: Exchange | None,
    document: Mapping[str, Any],
    overrides: Mapping[str, Any],
    folder: Path,
) -> ModelConfig:
    """The config of the model, of what ``config.json`` says and `overrides` say otherwise; all mistakes at once."""
    names = {f.name: f.default for f in fields(kind)}
    defaults = exchange.defaults if exchange else {}
    settings = {name: document[name] for name in names if name in document and name not in ("device", "dtype")}
    kept = document.get("dtype", document.get("torch_dtype"))  # torch_dtype: before transformers 5
    settings["dtype"] = "float64" if kept in ("float64", "torch.float64") else "float32"
    settings = {**{key: value for key, value in defaults.items() if key in names}, **settings, **overrides}
    eos = settings.get("eos_token_id")
    if isinstance(eos, list) and len(eos) == 1:
        settings["eos_token_id"] = eos[0]
    wrong = [f"unknown setting {name!r}.{did_you_mean(name, names)}" for name in overrides if name not in names]
    for name, allowed in (exchange.must_be if exchange else {}).items():
        if name in document and document[name] not in allowed:
            wrong.append(f"{name} is {document[name]!r} there, and only {allowed[0]!r} is computed here")
    wrong += kind._mistakes({**names, **{name: value for name, value in settings.items() if name in names}})
    if wrong:
        raise ConfigError(f"{folder / 'config.json'}, as {kind.__name__}:\n  " + "\n  ".join(wrong))
    return kind(**settings)


def _settings(model: BaseLanguageModel, exchange: Exchange) -> dict[str, Any]:
    """What ``config.json`` says of a model's settings."""
    defaults = {f.name: f.default for f in fields(model.config)}
    settings = {
        name: value
        for name, value in model.config.get().items()
        if name != "device" and (name not in exchange.own or value != defaults[name])
    }
    settings["dtype"] = str(next(model.parameters()).dtype)  # the model may have been cast since it was made
    return settings


# -- weights ---------------------------------------------------------------------------------------


def _their_arrays(
    exchange: Exchange, config: ModelConfig, entries: list[Entry], found: Mapping[str, StoredArray]
) -> tuple[dict[str, StoredArray], list[str]]:
    """The arrays of a folder by the names of the table, and what is wrong with their names."""
    known = {name for entry in entries for name in entry.theirs}
    bare = exchange.prefix and not any(name.startswith(exchange.prefix) for name in found)
    arrays: dict[str, StoredArray] = {}
    wrong = []
    for original, array in found.items():
        name = original
        for old, new in exchange.renamed.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        if bare and not name.startswith(exchange.head):
            name = exchange.prefix + name
        if name in arrays:
            wrong.append(f"twice: {original} and {arrays[name].name} are the same array")
        arrays[name] = array
    for copy in exchange.copies(config):
        wrong += _resolve(copy, arrays)
    for name in [name for name in arrays if name not in known]:
        array = arrays.pop(name)
        if not any(re.fullmatch(pattern, name) for pattern in exchange.unread):
            wrong.append(f"unexpected: {array.name}{did_you_mean(name, known)}")
    return arrays, wrong


def _resolve(copy: Copy, arrays: dict[str, StoredArray]) -> list[str]:
    """Take the second name of an array out of `arrays`, in place; what is wrong with it."""
    if copy.name not in arrays:
        return []
    second = arrays.pop(copy.name)
    first = arrays.setdefault(copy.of, second)
    if not copy.equal or first is second:
        return []
    if first.shape != second.shape or not np.array_equal(first.read(), second.read()):
        return [f"different: {copy.name} should be {copy.of} again; give tie_word_embeddings=False to keep both"]
    return []


def _mistakes(
    model: BaseLanguageModel, entries: list[Entry], read: list[Entry], arrays: Mapping[str, StoredArray]
) -> list[str]:
    """What is missing, misshapen or of a wrong type, a line each."""
    state = dict(model.named_state())
    wrong = [f"no row in the table of names: {name}" for name in set(state) - {entry.ours for entry in entries}]
    for entry in read:
        shapes = entry.layout.shapes(state[entry.ours].shape, len(entry.theirs))
        kind = state[entry.ours].dtype.kind
        for name, shape in zip(entry.theirs, shapes, strict=True):
            if name not in arrays:
                wrong.append(f"missing: {name} {format_shape(shape)}")
            elif arrays[name].shape != shape:
                wrong.append(
                    f"misshapen: {name} expected {format_shape(shape)}, got {format_shape(arrays[name].shape)}"
                )
            elif arrays[name].dtype.kind != kind:
                expected = "float16, bfloat16, float32 or float64" if kind == "f" else str(state[entry.ours].dtype)
                wrong.append(f"wrong type: {name} expected {expected}, got {arrays[name].dtype}")
    return wrong


def _allocate(model: BaseLanguageModel) -> None:
    """Give the parameters and buffers of an outline memory, on the device of its config."""
    assert not is_outline(), "an outline takes memory outside of outline()"
    device = model.config.get_device()
    if device != "cpu":
        for _, held in model.named_state():
            held.data = to_device(np.empty(held.shape, held.dtype), device)
    if "_flatten_again" in model.__dict__:
        model.flatten()
    elif device == "cpu":
        for parameter in model.parameters():
            parameter.data = np.empty(parameter.shape, parameter.dtype)


def _assign(held: Any, entry: Entry, arrays: list[StoredArray]) -> None:
    values = entry.layout.ours([array.read() for array in arrays]).astype(held.dtype, copy=False)
    held.data[...] = to_device(values, device_of(held.data))

"""The architectures by name, and models made from settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from .base import BaseLanguageModel

Kind = TypeVar("Kind", bound="type[BaseLanguageModel]")

_architectures: dict[str, type[BaseLanguageModel]] = {}
#: Modules whose import registers the library's own architectures.
_BUILT_IN = ("transformer", "gpt2", "bert", "recurrent", "seq2seq")


def register_architecture(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: make a model known as `name` to :func:`create_model`, configs and the command line.

    The class takes its config, ``kind.config_class``, as its only argument; `name` becomes its
    ``model_type`` and that of its config.

    Raises
    ------
    ConfigError
        If the name is taken, or is not one word in lower case.

    Examples
    --------
    >>> @register_architecture("bigram")  # doctest: +SKIP
    ... class Bigram(BaseLanguageModel): ...
    """
    if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
        raise ConfigError(f"register_architecture: name must be one word in lower case, such as 'gpt2', got {name!r}")

    def register(kind: Kind) -> Kind:
        known = _architectures.get(name)
        if known is not None:
            raise ConfigError(
                f"register_architecture: {name!r} is {known.__module__}.{known.__qualname__} already; "
                "choose another name"
            )
        kind.model_type = kind.config_class.model_type = name
        _architectures[name] = kind
        return kind

    return register


def _load() -> None:
    for module in _BUILT_IN:
        import_module(f"{__package__}.{module}")


def available_architectures() -> list[str]:
    """Names of all architectures, in order of registration."""
    _load()
    return list(_architectures)


def get_architecture(name: str) -> type[BaseLanguageModel]:
    """The class of an architecture.

    Raises
    ------
    ConfigError
        If there is none of this name; it lists those there are.
    """
    _load()
    if name not in _architectures:
        names = list(_architectures)
        raise ConfigError(
            f"architecture: {name!r} is unknown; available are {', '.join(names)}.{did_you_mean(str(name), names)}"
        )
    return _architectures[name]


def create_model(config: Any) -> BaseLanguageModel:
    """A new model.

    Parameters
    ----------
    config : an architecture's config, such as ``GPT2Config(...)``; or a mapping of its settings with
        ``"architecture"`` (or ``"model_type"``) beside them

    Raises
    ------
    ConfigError
        If the architecture is unknown, or its settings are not allowed: all mistakes at once.

    Examples
    --------
    >>> model = create_model({"architecture": "gpt2", "vocab_size": 100, "n_layer": 2, "n_embd": 32, "n_head": 2})
    >>> model.model_type
    'gpt2'
    """
    if isinstance(config, Mapping):
        settings = dict(config)
        given = {key: settings.pop(key) for key in ("architecture", "model_type") if key in settings}
        if not given:
            raise ConfigError(f"create_model: no 'architecture' in config; available are {_listed()}")
        if len(set(given.values())) > 1:
            raise ConfigError(f"create_model: architecture and model_type differ: {given}")
        return _build(next(iter(given.values())), settings)
    name = getattr(config, "model_type", None)
    if not name:
        raise ConfigError(
            f"create_model: config must be a mapping or an architecture's config, got {type(config).__name__}"
        )
    return _build(name, config)


def create_model_from_config(config: Any, vocab_size: int | None = None) -> BaseLanguageModel:
    """A new model from the settings of a run.

    Parameters
    ----------
    config : settings with ``model.architecture`` and the section that it needs (nested mappings, or an object
        with ``model_dump``, as the configs of :mod:`tinygrad_edu.training` are)
    vocab_size : that of the tokenizer; ``tokenizer.vocab_size`` if None

    Raises
    ------
    ConfigError
    """
    run = config.model_dump() if hasattr(config, "model_dump") else config
    model = run.get("model") if isinstance(run, Mapping) else None
    if not isinstance(model, Mapping) or "architecture" not in model:
        raise ConfigError(f"create_model_from_config: config has no model.architecture; available are {_listed()}")
    if vocab_size is None:
        vocab_size = (run.get("tokenizer") or {}).get("vocab_size")
    if vocab_size is None:
        raise ConfigError("create_model_from_config: config has no tokenizer.vocab_size, and none was given")
    kind = get_architecture(model["architecture"])
    settings = kind.settings_from_run(model)
    training, known = run.get("training") or {}, {f.name for f in fields(kind.config_class)}
    beside = ("seed", "device", "objective", "carry_state")
    settings |= {name: training[name] for name in beside if name in training and name in known}
    return _build(kind.model_type, {**settings, "vocab_size": vocab_size})


def _build(name: str, config: Any) -> BaseLanguageModel:
    kind: Callable[[Any], BaseLanguageModel] = get_architecture(name)  # every architecture takes its config
    return kind(config)


def _listed() -> str:
    return ", ".join(available_architectures())

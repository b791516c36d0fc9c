"""What the configs of all architectures share: fields with limits, and every mistake told at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

from ..backend import use
from ..errors import ConfigError, did_you_mean

Check = Callable[[str, Any], str | None]


def count(default: Any = ..., at_least: int = 1) -> Any:
    """A whole number."""

    def check(name: str, value: Any) -> str | None:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= at_least
        return None if right else f"{name} must be an integer >= {at_least}, got {value!r}"

    return _field(default, check)


def number(default: Any, low: float = 0.0, high: float = math.inf) -> Any:
    """A number in [low, high)."""

    def check(name: str, value: Any) -> str | None:
        right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value < high
        return None if right else f"{name} must be a number in [{low:g}, {high:g}), got {value!r}"

    return _field(default, check)


def flag(default: bool) -> Any:
    """True or False."""
    return _field(
        default, lambda name, value: None if isinstance(value, bool) else f"{name} must be True or False, got {value!r}"
    )


def choice(default: str, *allowed: str) -> Any:
    """One of some words."""

    def check(name: str, value: Any) -> str | None:
        if value in allowed:
            return None
        return f"{name} must be one of {', '.join(allowed)}, got {value!r}.{did_you_mean(str(value), allowed)}"

    return _field(default, check)


def optional(described: Any, default: Any = None) -> Any:
    """None, or what `described` allows."""
    inner: Check = described.metadata["check"]
    return _field(default, lambda name, value: None if value is None else inner(name, value))


def _field(default: Any, check: Check) -> Any:
    return field(metadata={"check": check}) if default is ... else field(default=default, metadata={"check": check})


ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "tanh", "sigmoid")
#: Names of activations in published ``config.json`` files, and ours.
PUBLISHED_ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
}


@dataclass(kw_only=True)
class ModelConfig:
    """Base of the configs. A subclass is a dataclass whose fields say what they allow; see :func:`count`.

    Attributes
    ----------
    seed : of the initial weights and of dropout
    device : cpu, cuda or auto
    dtype : float32 or float64

    Raises
    ------
    ConfigError
        Listing every value that is not allowed.
    """

    #: The architecture that this is the config of, and as what :func:`create_model` knows it.
    model_type: ClassVar[str] = ""

    seed: int = count(0, at_least=0)
    device: str = choice("cpu", "cpu", "cuda", "auto")
    dtype: str = choice("float32", "float32", "float64")

    def __post_init__(self) -> None:
        wrong = self._mistakes({f.name: getattr(self, f.name) for f in fields(self)})
        if wrong:
            raise ConfigError(f"{type(self).__name__}:\n  " + "\n  ".join(wrong))

    @classmethod
    def _mistakes(cls, settings: dict[str, Any]) -> list[str]:
        """All values that are not allowed, a line each."""
        checked = ((f.name, f.metadata["check"]) for f in fields(cls) if "check" in f.metadata)
        wrong = [text for name, check in checked if (text := check(name, settings[name]))]
        return wrong or cls._conflicts(settings)

    @classmethod
    def _conflicts(cls, _settings: dict[str, Any]) -> list[str]:
        """Values that are allowed each, but not together."""
        return []

    @classmethod
    def from_any(cls, config: Any) -> Self:
        """A config from itself, from a dict, or from any object with attributes of these names.

        Raises
        ------
        ConfigError
            For a dict with an unknown key; its other mistakes are listed with it.
        """
        if isinstance(config, cls):
            return config
        names = [f.name for f in fields(cls)]
        if isinstance(config, dict):
            unknown = [f"unknown key {key!r}.{did_you_mean(str(key), names)}" for key in config if key not in names]
            if unknown:
                known = {f.name: config.get(f.name, f.default) for f in fields(cls)}
                raise ConfigError(f"{cls.__name__}:\n  " + "\n  ".join(unknown + cls._mistakes(known)))
            return cls(**config)
        return cls(**{name: getattr(config, name) for name in names if hasattr(config, name)})

    def get(self, name: str | None = None, default: Any = None) -> Any:
        """The setting `name`, or `default` if there is none; all settings as a dict without a name."""
        return asdict(self) if name is None else getattr(self, name, default)

    def get_device(self) -> str:
        """``"cpu"`` or ``"cuda"``, with ``"auto"`` settled."""
        with use(self.device) as device:
            return device

    def get_dtype(self) -> str:
        """``"float32"`` or ``"float64"``."""
        return self.dtype

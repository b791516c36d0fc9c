"""What the models of images share: settings, a start by He et al., checks of their input, and a folder to live in."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from ..backend import Array, Generator, namespace, to_host
from ..errors import CheckpointError, ConfigError, DtypeError, ShapeError, TinygradEduError, did_you_mean, format_shape
from ..layers import Conv2d, ConvTranspose2d
from ..layers.base import Layer
from .config import ModelConfig
from .exchange import open_folder, read_config, write_folder
from .exchange.folder import check_destination, parse_size


def counts(default: tuple[int, ...], at_least: int = 1) -> Any:
    """A field of a config: whole numbers, one or more for each level."""

    def check(name: str, value: Any) -> str | None:
        right = isinstance(value, tuple | list) and all(
            isinstance(item, int) and not isinstance(item, bool) and item >= at_least for item in value
        )
        return None if right else f"{name} must be a tuple of integers >= {at_least}, got {value!r}"

    return field(default=default, metadata={"check": check})


def check_named_counts(name: str, value: Any) -> str | None:
    """What is wrong with `value`, if it is neither None nor a dict of names and whole numbers."""
    right = value is None or (
        isinstance(value, dict)
        and value
        and all(isinstance(key, str) and key and "." not in key for key in value)
        and all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in value.values())
    )
    return None if right else f"{name} must be a dict of names, without dots, and integers >= 1, got {value!r}"


class Network(Layer):
    """A model with settings of its own: it is made of them, saved with them, and comes back from its folder.

    A subclass says its name and its config, and its constructor takes the config's fields by name.

    Attributes
    ----------
    config : the settings
    model_type : its name in ``config.json``
    """

    model_type: ClassVar[str] = ""
    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    _kinds: ClassVar[dict[str, type[Network]]] = {}

    config: Any
    generator: Generator

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.model_type:
            Network._kinds[cls.model_type] = cls

    # -- how it begins ---------------------------------------------------------------------------------

    def _draw_he(self, gain_of: Callable[[Layer], float] = lambda layer: 2.0, mode: str = "fan_in") -> None:
        """Normal filters of variance gain / fan and zero biases, which keep the size of signals (He et al., 2015).

        Parameters
        ----------
        gain_of : 2 where a rectifier follows, which halves the variance
        mode : ``"fan_in"`` keeps the size of activations, ``"fan_out"`` that of gradients
        """
        for layer in self.layers():
            if not isinstance(layer, Conv2d | ConvTranspose2d):
                continue
            out_axis, in_axis = (1, 0) if isinstance(layer, ConvTranspose2d) else (0, 1)
            shape = layer.weight.shape
            fan = shape[in_axis if mode == "fan_in" else out_axis] * math.prod(shape[2:])
            if isinstance(layer, ConvTranspose2d):  # of its taps each output sees one in stride
                fan //= math.prod(layer.stride)
            layer.weight.data[...] = self.generator.normal(*shape, std=math.sqrt(gain_of(layer) / fan))
            if layer.bias is not None:
                layer.bias.data.fill(0)

    def _settle(self, flat: bool) -> None:
        """The last line of a constructor: the element type, and one buffer for all parameters."""
        if self.config.dtype != "float32":
            self.astype(self.config.dtype)
        if flat:
            self.flatten()

    # -- what it is given ------------------------------------------------------------------------------

    def _check_images(self, x: Array, channels: int, least: int, why: str = "") -> None:
        """Raise unless `x` is (B, channels, H, W), of floats, with at least `least` pixels a side."""
        namespace(x, next(self.parameters()).data)  # an error for what is no array, or on another device
        name, wanted = type(self).__name__, format_shape(("batch", channels, "height", "width"))
        found = format_shape(tuple(x.shape))
        if x.ndim != 4:
            raise ShapeError(f"{name}: expected {wanted}, got {found}")
        if x.shape[1] != channels:
            raise ShapeError(
                f"{name}: expected {wanted}, got {found}: "
                f"the image has {x.shape[1]} channels where {channels} are wanted"
            )
        if len(x) == 0:
            raise ShapeError(f"{name}: the batch is empty, got {found}")
        if min(x.shape[2:]) < least:
            raise ShapeError(f"{name}: images must be at least {least} x {least}{why}, got {found}")
        if x.dtype.kind != "f":
            raise DtypeError(f"{name}: x must hold floating-point numbers, got {x.dtype}; divide bytes by 255")

    # -- on disk ---------------------------------------------------------------------------------------

    def save_pretrained(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write settings and weights to the folder `path`, all or nothing: ``config.json`` and ``model.safetensors``.

        Raises
        ------
        CheckpointError
            If the folder cannot be written, or holds something and `overwrite` is False.
        """
        folder = check_destination(path, overwrite)
        settings = {name: value for name, value in self.config.get().items() if name != "device"}
        settings["dtype"] = str(next(self.parameters()).dtype)  # it may have been cast since it was made
        document = {"architectures": [type(self).__name__], "model_type": self.model_type, **settings}
        arrays = {name: to_host(values) for name, values in self.state_dict().items()}
        write_folder(folder, document, arrays, parse_size("5GB"))
        return folder

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """The model that :meth:`save_pretrained` wrote, in evaluation mode.

        Called on :class:`Network`, it gives whichever of its kinds lies there.

        Parameters
        ----------
        path : the folder
        overrides : settings other than those saved, such as ``device="cuda"``

        Raises
        ------
        CheckpointError
            If the folder is damaged, holds another kind of model, or its weights do not fit its settings.
        ConfigError
            If an override is unknown, or not allowed.
        """
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise CheckpointError(f"{path}: there is no such folder")
        document = read_config(folder)
        kind = cls._kind_of(document.get("model_type"), folder)
        names = [f.name for f in fields(kind.config_class)]
        for name in overrides:
            if name not in names:
                raise ConfigError(f"{kind.__name__}: unknown setting {name!r}.{did_you_mean(name, names)}")
        settings = {name: document[name] for name in names if name in document and name != "device"}
        try:
            model = kind(**settings | overrides)
            model.load_state_dict({name: array.read() for name, array in open_folder(folder).items()})
        except CheckpointError:
            raise
        except (TypeError, TinygradEduError) as error:
            if overrides:  # they are the caller's
                raise
            raise CheckpointError(f"{folder} does not hold a whole {kind.__name__}: {error}") from error
        return model.eval()

    @classmethod
    def _kind_of(cls, name: Any, folder: Path) -> type[Self]:
        kind = Network._kinds.get(str(name))
        if kind is None or not issubclass(kind, cls):
            wanted = sorted(known for known, one in Network._kinds.items() if issubclass(one, cls))
            raise CheckpointError(
                f"{folder}: holds a model of type {name!r}, wanted {' or '.join(wanted)}."
                f"{did_you_mean(str(name), wanted)}"
            )
        return kind

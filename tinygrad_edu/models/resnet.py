"""ResNet-18: from an image to classes, or to several answers at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from ..backend import Array, Generator, use
from ..errors import CheckpointError, ConfigError, ShapeError, did_you_mean
from ..layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Linear, MaxPool2d, ReLU, Sequential
from ..layers.base import Layer
from ..storage import StoredArray, open_weights
from .config import ModelConfig, count, flag
from .network import Network, check_named_counts

WIDTHS = (64, 128, 256, 512)
_HEAD = re.compile(r"heads\.[^.]+\.weight")
_PICKLES = (".pth", ".pt", ".bin", ".pkl", ".ckpt")


@dataclass
class ResNetConfig(ModelConfig):
    """Settings of :class:`ResNet18`; all mistakes are reported at once.

    Attributes
    ----------
    num_classes : outputs of the head ``fc``; not looked at where `heads` are given
    in_channels : of the image
    heads : several heads instead, a number of outputs by name; or None
    small_input : a 3 x 3 convolution to begin with, and no pooling, for images of 32 x 32 or so
    zero_init_residual : let each block begin as the identity (Goyal et al., 2017)
    seed, device, dtype : as in :class:`~tinygrad_edu.models.config.ModelConfig`
    """

    num_classes: int = count(1000)
    in_channels: int = count(3)
    heads: dict[str, int] | None = field(default=None, metadata={"check": check_named_counts})
    small_input: bool = flag(False)
    zero_init_residual: bool = flag(False)


class BasicBlock(Layer):
    """``relu(shortcut(x) + bn2(conv2(relu(bn1(conv1(x))))))`` (He et al., 2015), named as in torchvision.

    Parameters
    ----------
    in_channels, channels : before and after
    stride : of the first convolution. Where it or the channels change the shape, so does the shortcut, ``downsample``
    """

    def __init__(self, in_channels: int, channels: int, stride: int, generator: Generator):
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False, generator=generator)
        self.bn1, self.relu1 = BatchNorm2d(channels), ReLU()
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False, generator=generator)
        self.bn2, self.relu2 = BatchNorm2d(channels), ReLU()
        self.downsample = None
        if stride != 1 or in_channels != channels:
            mix = Conv2d(in_channels, channels, 1, stride, bias=False, generator=generator)
            self.downsample = Sequential(mix, BatchNorm2d(channels))

    def forward(self, x: Array) -> Array:  # (B, in_channels, H, W) -> (B, channels, H / stride, W / stride)
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        y += x if self.downsample is None else self.downsample(x)  # nobody else has y
        return self.relu2(y)

    def backward(self, dy: Array) -> Array:
        dy = self.relu2.backward(dy)  # the sum passes it to both terms, and what comes back adds up
        dx = self.conv1.backward(self.bn1.backward(self.relu1.backward(self.conv2.backward(self.bn2.backward(dy)))))
        dx += dy if self.downsample is None else self.downsample.backward(dy)
        return dx


class Heads(Layer):
    """Several linear maps of the same features, by name.

    Parameters
    ----------
    in_features : C
    outputs : number of outputs by name
    """

    def __init__(self, in_features: int, outputs: Mapping[str, int], generator: Generator):
        super().__init__()
        for name, size in outputs.items():  # as a child only: as an attribute it might hide a method, say "train"
            self._children[name] = Linear(in_features, size, generator=generator)

    def items(self) -> Iterator[tuple[str, Layer]]:
        """The maps by name."""
        return iter(self._children.items())

    def forward(self, x: Array) -> dict[str, Array]:  # (B, C) -> (B, outputs) by name
        return {name: head(x) for name, head in self.items()}

    def backward(self, dy: Mapping[str, Array]) -> Array:
        """The features serve every head, so their gradient is the sum of what comes from each.

        Raises
        ------
        ConfigError
            If `dy` has not a gradient for each head, and no other.
        """
        unknown = [name for name in dy if name not in self._children]
        missing = [name for name in self._children if name not in dy]
        if unknown or missing:
            wrong = (
                f"unknown {unknown[0]!r}.{did_you_mean(unknown[0], missing)}" if unknown else f"missing {missing[0]!r}"
            )
            raise ConfigError(f"backward: a gradient by name of each head, {', '.join(self._children)}; {wrong}")
        first, *others = (head.backward(dy[name]) for name, head in self.items())
        return sum(others, start=first)


class ResNet18(Network):
    """Residual network of 18 layers (He et al., 2015); parameters named and shaped as in torchvision's ``resnet18``.

    Parameters
    ----------
    num_classes, in_channels, heads, small_input, zero_init_residual : as in :class:`ResNetConfig`
    flat : whether to lay the parameters in one buffer; see :meth:`Layer.flatten`
    common : seed, device, dtype

    Raises
    ------
    ConfigError
        Listing every setting that is not allowed.

    Examples
    --------
    >>> net = ResNet18(in_channels=4, heads={"grammar": 4, "goal": 5})
    >>> outputs = net(images)  # {"grammar": (B, 4), "goal": (B, 5)}
    >>> dimages = net.backward({"grammar": dgrammar, "goal": dgoal})
    """

    model_type = "resnet18"
    config_class: ClassVar[type[ModelConfig]] = ResNetConfig

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        heads: Mapping[str, int] | None = None,
        small_input: bool = False,
        zero_init_residual: bool = False,
        *,
        flat: bool = True,
        **common: Any,
    ):
        super().__init__()
        given = None if heads is None else dict(heads) if isinstance(heads, Mapping) else heads
        self.config = c = ResNetConfig(num_classes, in_channels, given, small_input, zero_init_residual, **common)
        with use(c.device):
            self.generator = generator = Generator(c.seed)
            kernel, stride = (3, 1) if small_input else (7, 2)
            self.conv1 = Conv2d(in_channels, 64, kernel, stride, kernel // 2, bias=False, generator=generator)
            self.bn1, self.relu = BatchNorm2d(64), ReLU()
            self.maxpool = None if small_input else MaxPool2d(3, 2, padding=1)
            self.layer1 = _stage(64, WIDTHS[0], 1, generator)
            self.layer2 = _stage(WIDTHS[0], WIDTHS[1], 2, generator)
            self.layer3 = _stage(WIDTHS[1], WIDTHS[2], 2, generator)
            self.layer4 = _stage(WIDTHS[2], WIDTHS[3], 2, generator)
            self.avgpool = AdaptiveAvgPool2d(1)
            self.fc = None if c.heads else Linear(WIDTHS[-1], num_classes, generator=generator)
            self.heads = Heads(WIDTHS[-1], c.heads, generator) if c.heads else None
            self._draw_he(mode="fan_out")
            if zero_init_residual:
                for layer in self.layers():
                    if isinstance(layer, BasicBlock) and layer.bn2.weight is not None:
                        layer.bn2.weight.data.fill(0)
        self._settle(flat)

    @property
    def _body(self) -> list[Layer]:
        stem = [self.conv1, self.bn1, self.relu, *([] if self.maxpool is None else [self.maxpool])]
        return [*stem, self.layer1, self.layer2, self.layer3, self.layer4, self.avgpool]

    def features(self, x: Array) -> Array:
        """What the heads read: (B, in_channels, H, W) -> (B, 512)."""
        self._check_images(x, self.config.in_channels, 1)
        for layer in self._body:
            x = layer(x)
        return x.reshape(len(x), -1)

    def features_backward(self, dfeatures: Array) -> Array:
        """Gradient of :meth:`features`: (B, 512) -> (B, in_channels, H, W)."""
        dx = dfeatures.reshape(*dfeatures.shape, 1, 1)
        for layer in reversed(self._body):
            dx = layer.backward(dx)
        return dx

    def forward(self, x: Array) -> Array | dict[str, Array]:
        """(B, in_channels, H, W) -> (B, num_classes), or with heads the outputs of each by name."""
        head = self.fc if self.heads is None else self.heads
        return head(self.features(x))  # type: ignore[misc]  # one of the two is there

    def backward(self, dy: Array | Mapping[str, Array]) -> Array:
        """Gradient of the image; `dy` is by name if the outputs were."""
        if self.heads is not None:
            if not isinstance(dy, Mapping):
                raise ConfigError(f"ResNet18.backward: wanted a dict of gradients by head, got {type(dy).__name__}")
            return self.features_backward(self.heads.backward(dy))
        assert self.fc is not None, "without heads there is fc"
        return self.features_backward(self.fc.backward(dy))

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **overrides: Any) -> Self:
        """The model of a folder that :meth:`save_pretrained` wrote, or published weights, in evaluation mode.

        Parameters
        ----------
        path : a folder, or a ``.safetensors`` file with torchvision's names. Of such a file, channels, outputs and the
            kind of beginning are read from its shapes
        overrides : settings other than those. With other `heads`, or another `num_classes`, a file's own head is left
            out and the new one begins afresh

        Raises
        ------
        CheckpointError
            If it is missing, damaged, a pickle, or does not fit: all that is missing or misshapen is listed.
        """
        file = Path(path).expanduser()
        if file.suffix in _PICKLES:
            raise CheckpointError(
                f"{path}: a {file.suffix} file is a pickle, and reading one can run any code, so it is not read here. "
                "Where it is trusted, torch writes the same weights as safetensors: safetensors.torch.save_file("
                f"torch.load({file.name!r}, weights_only=True), {file.stem + '.safetensors'!r})"
            )
        if not file.is_file():
            return super().from_pretrained(path, **overrides)
        weights = open_weights(file)
        weights.verify()
        return cls._from_arrays(file, weights.arrays, overrides)

    @classmethod
    def _from_arrays(cls, file: Path, arrays: Mapping[str, StoredArray], overrides: Mapping[str, Any]) -> Self:
        begin, end = arrays.get("conv1.weight"), arrays.get("fc.weight")
        if begin is None or len(begin.shape) != 4:
            raise CheckpointError(
                f"{file}: has no conv1.weight (64, channels, 7, 7), so these are no weights of a ResNet"
            )
        settings: dict[str, Any] = {"in_channels": begin.shape[1], "small_input": begin.shape[2] == 3}
        if end is not None:
            settings["num_classes"] = end.shape[0]
        elif heads := {name[6:-7]: array.shape[0] for name, array in arrays.items() if _HEAD.fullmatch(name)}:
            settings["heads"] = heads
        model = cls(**settings | dict(overrides))
        own, head = model.state_dict(), ("fc.", "heads.")
        same = all(name in arrays and arrays[name].shape == own[name].shape for name in own if name.startswith(head))
        state = {name: array.read() for name, array in arrays.items() if same or not name.startswith(head)}
        for name, values in own.items():
            # Files from before torch counted batches have no counts, which matter to no output.
            if name.endswith("num_batches_tracked") or (not same and name.startswith(head)):
                state.setdefault(name, values)
        try:
            model.load_state_dict(state)
        except ShapeError as error:
            raise CheckpointError(f"{file}: {error}") from error
        return model.eval()


def _stage(in_channels: int, channels: int, stride: int, generator: Generator) -> Sequential:
    """Two blocks; the first may halve the image."""
    return Sequential(
        BasicBlock(in_channels, channels, stride, generator), BasicBlock(channels, channels, 1, generator)
    )

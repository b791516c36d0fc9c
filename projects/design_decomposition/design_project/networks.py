"""The networks that read a design: pictures to maps, maps to what they mean; and both in a row.

Networks see pictures in [-1, 1] (:func:`as_seen`), which is also where the decoder paints. Between encoder and
abstractor go *soft maps*, (B, 2 + n_colours + 1, S, S): the probabilities that there is text, that there is a picture,
and of each colour, and the importance. An F_Tensor is a soft map that is certain (:func:`soft_maps_of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import tinygrad_edu as tg
from tinygrad_edu.backend import Array, asarray, device_of, namespace
from tinygrad_edu.data.designs import FORMATS, GOALS, GRAMMAR, TONES
from tinygrad_edu.errors import CheckpointError, ConfigError, ShapeError
from tinygrad_edu.layers import Sigmoid
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.losses import CrossEntropyLoss, MeanSquaredError
from tinygrad_edu.models.resnet import ResNet18
from tinygrad_edu.models.unet import UNet
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import make_config, trained_weights
from tinygrad_edu.training.run_folder import checkpoints_of

from .settings import AbstractorConfig, DesignConfig, EncoderConfig

HEADS = {"grammar": len(GRAMMAR), "goal": len(GOALS), "format": len(FORMATS), "tone": len(TONES)}
#: What the errors of the abstractor's heads count: the scores vary by a quarter, all else by about one.
WEIGHTS = {"grammar": 16.0, "goal": 1.0, "format": 1.0, "tone": 1.0}

Network = TypeVar("Network", bound=Layer)


def as_seen(image: Array) -> Array:
    """Pictures in [0, 1] as networks see them, in [-1, 1]."""
    return 2 * image - 1


def as_shown(x: Array) -> Array:
    """Pictures in [-1, 1], or a little beyond, as they are shown: in [0, 1]."""
    return ((x + 1) / 2).clip(0, 1)


def soft_maps_of(features: Array, n_colours: int) -> Array:
    """F_Tensor (B, 4, S, S) as soft maps (B, 2 + n_colours + 1, S, S), each pixel certain of its colour."""
    xp = namespace(features)
    maps = xp.zeros((len(features), n_colours + 3, *features.shape[2:]), dtype=features.dtype)
    maps[:, :2], maps[:, -1] = features[:, :2], features[:, 3]
    maps[:, 2:-1] = features[:, 2:3] == xp.arange(n_colours, dtype=features.dtype)[:, None, None]
    return maps


class SoftMaps(Layer):
    """What the encoder puts out as probabilities: sigmoid of the masks, softmax of the colours, importance as it is."""

    def forward(self, logits: Array) -> Array:  # (B, 2 + n_colours + 1, S, S) -> the same
        xp = namespace(logits)
        y = logits.copy()
        y[:, :2] = 1 / (1 + xp.exp(-logits[:, :2].clip(-60, 60)))
        powers = xp.exp(logits[:, 2:-1] - logits[:, 2:-1].max(axis=1, keepdims=True))
        y[:, 2:-1] = powers / powers.sum(axis=1, keepdims=True)
        self.save(y)
        return y

    def backward(self, dy: Array) -> Array:
        y = self.saved()
        dlogits = dy.copy()
        dlogits[:, :2] *= y[:, :2] * (1 - y[:, :2])
        p, dp = y[:, 2:-1], dy[:, 2:-1]
        dlogits[:, 2:-1] = p * (dp - (p * dp).sum(axis=1, keepdims=True))
        return dlogits


class Abstractor(Layer):
    """A ResNet-18 that says of soft maps how well the design is made and what it means.

    It brings its own loss: the mean over designs of the squared errors of grammar and tone, summed over their numbers,
    and of the cross-entropies of goal and format, each times its :data:`WEIGHTS`. A batch is a mapping with ``maps``,
    ``grammar``, ``goal``, ``format`` and ``tone``.

    Parameters
    ----------
    n_colours : of the palette
    small_input : as :class:`~tinygrad_edu.models.resnet.ResNet18` has it
    seed : of the initial weights
    """

    unit = "examples"

    def __init__(self, n_colours: int, small_input: bool = False, seed: int = 0):
        super().__init__()
        self.net = ResNet18(in_channels=n_colours + 3, heads=HEADS, small_input=small_input, seed=seed, flat=False)
        self.sigmoid = Sigmoid()
        self.losses = {"grammar": MeanSquaredError("sum"), "tone": MeanSquaredError("sum")}
        self.losses |= {name: CrossEntropyLoss(reduction="sum") for name in ("goal", "format")}
        self.flatten()

    def forward(self, maps: Array) -> dict[str, Array]:
        """Of (B, n_colours + 3, S, S): ``grammar`` (B, 4) in [0, 1], ``tone`` (B, 3), and logits of goal and format."""
        answers = self.net(maps)
        return {**answers, "grammar": self.sigmoid(answers["grammar"])}

    def backward(self, danswers: Mapping[str, Array]) -> Array:
        """Gradient of the maps, given that of every answer."""
        return self.net.backward({**danswers, "grammar": self.sigmoid.backward(danswers["grammar"])})

    def features(self, maps: Array) -> Array:
        """What the heads read, (B, 512)."""
        return self.net.features(maps)

    def count_targets(self, maps: Array, **named: Any) -> int:
        return len(maps)

    def forward_backward(self, maps: Array, divisor: float | None = None, **targets: Any) -> float:
        """Loss of a batch, with the gradients of the parameters accumulated."""
        self.clear_saved()
        with tg.use(device_of(next(self.parameters()).data)):
            maps, targets = asarray(maps), {name: asarray(values) for name, values in targets.items()}
        answers = self(maps)
        share = 1 / (len(maps) if divisor is None else divisor)
        value = self.loss_of(answers, targets)
        self.backward({name: loss.backward(share * WEIGHTS[name]) for name, loss in self.losses.items()})
        return value * share

    def loss_of(self, answers: Mapping[str, Array], targets: Mapping[str, Array]) -> float:
        """The loss summed over the designs of a batch."""
        return sum(WEIGHTS[name] * float(loss(answers[name], targets[name])) for name, loss in self.losses.items())


class Reader(Layer):
    """Encoder and abstractor in a row, from a picture to all answers; frozen, but its gradient reaches the picture.

    Both stay in evaluation mode whatever is asked, and nobody updates them.

    Parameters
    ----------
    encoder, abstractor : trained ones, of one palette
    """

    def __init__(self, encoder: Layer, abstractor: Abstractor):
        super().__init__()
        self.encoder, self.soft, self.abstractor = encoder, SoftMaps(), abstractor
        self.eval()

    def train(self, mode: bool = True) -> Reader:
        return super().train(False)

    def forward(self, x: Array) -> dict[str, Array]:  # (B, 3, S, S) in [-1, 1]
        return self.abstractor(self.soft(self.encoder(x)))

    def backward(self, danswers: Mapping[str, Array]) -> Array:
        """Gradient of the picture. What the frozen weights accumulated is thrown away."""
        dx = self.encoder.backward(self.soft.backward(self.abstractor.backward(danswers)))
        self.zero_grad()
        return dx

    def features(self, x: Array) -> Array:
        """What the abstractor's heads read off a picture, (B, 512): the features of this project's FID."""
        return self.abstractor.features(self.soft(self.encoder(x)))


# -- making and loading -----------------------------------------------------------------------------------


def build_encoder(config: EncoderConfig) -> UNet:
    """A new encoder as the settings want it."""
    c, data, training = config.model, config.data, config.training
    common = {"seed": training.seed, "device": training.device}
    return UNet(3, data.n_colours + 3, base=c.base, depth=c.depth, up=c.up, **common)


def build_abstractor(config: AbstractorConfig) -> Abstractor:
    """A new abstractor as the settings want it, on the device in use."""
    return Abstractor(config.data.n_colours, config.model.small_input, config.training.seed)


def load_trained(path: str | Path, schema: type[DesignConfig], build: Any, which: str = "best") -> tuple[Any, Any]:
    """A trained network of this project from its run folder, in evaluation mode, and the settings it was trained under.

    Parameters
    ----------
    path : a run folder, or one checkpoint
    schema : of its settings
    build : makes the network from them
    which : of a run folder: ``"best"`` or ``"last"``

    Raises
    ------
    CheckpointError
        If there is none, or it does not hold such a network.
    """
    checkpoint = load_checkpoint(checkpoints_of(path), which=which)
    try:
        config = make_config(checkpoint.documents["config"], schema=schema, where=str(checkpoint.path / "config.json"))
        network = build(config)
        network.load_state_dict(dict(trained_weights(checkpoint)))
    except (KeyError, ConfigError, ShapeError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: holds no {schema.__name__.removesuffix('Config')}: {error}"
        ) from error
    return network.eval(), config


def load_reader(encoder: str | Path, abstractor: str | Path) -> tuple[Reader, EncoderConfig]:
    """Encoder and abstractor from their run folders, in a row, and the encoder's settings.

    Raises
    ------
    CheckpointError
        If one is missing or damaged, or they are not of one palette.
    """
    first, config = load_trained(encoder, EncoderConfig, build_encoder)
    second, other = load_trained(abstractor, AbstractorConfig, build_abstractor)
    if config.data.n_colours != other.data.n_colours:
        raise CheckpointError(
            f"{abstractor}: trained on {other.data.n_colours} colours, the encoder {encoder} on {config.data.n_colours}"
        )
    return Reader(first, second), config

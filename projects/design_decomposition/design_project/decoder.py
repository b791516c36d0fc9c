"""The third network: from what a design means to a picture of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinygrad_edu.backend import Array, Generator, namespace
from tinygrad_edu.data.designs import FORMATS, GOALS, TONES, stack_examples
from tinygrad_edu.layers import Linear
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.models.conditional_unet import ConditionalUNet
from tinygrad_edu.models.diffusion import DiffusionProcess
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training.evaluation import EvaluationStopped
from tinygrad_edu.training.run_folder import checkpoints_of

from .data import loader_of
from .decoder_settings import DecoderConfig, DecoderModel, FinetuneConfig
from .networks import as_seen, as_shown, load_trained
from .painting import Painter
from .pictures import image_tile, save_grid
from .stages import DesignJob

_AT_ONCE = 100  # designs in a batch of an evaluation
#: How long the parts of a meaning are as numbers: classes are one-hot.
PARTS = {"goal": len(GOALS), "format": len(FORMATS), "tone": len(TONES)}


def meaning_of(batch: Mapping[str, Any]) -> Any:
    """V_Meta as a row of numbers each, (B, 11) float32: goal and format one-hot, then the tone."""
    one_hot = [np.eye(PARTS[name], dtype=np.float32)[np.asarray(batch[name])] for name in ("goal", "format")]
    return np.concatenate([*one_hot, np.asarray(batch["tone"], np.float32)], axis=1)


def decoder_batch(examples: list[Any]) -> tuple[Any, Any]:
    """Pictures as networks see them, and what they mean."""
    batch = stack_examples(examples)
    return as_seen(batch["image"]), meaning_of(batch)


class MeaningUNet(Layer):
    """A conditional U-Net that is told a meaning: goal, format and tone become a token each.

    The U-Net attends to the three tokens and adds their mean to what it is told of the time; a meaning that is put
    aside is its own learned vector in their places.

    Parameters
    ----------
    settings : of the U-Net
    seed : of the initial weights
    """

    def __init__(self, settings: DecoderModel, seed: int = 0):
        super().__init__()
        generator = Generator(seed)
        self.tokens = {name: Linear(size, settings.context_dim, generator=generator) for name, size in PARTS.items()}
        for name, layer in self.tokens.items():
            setattr(self, f"{name}_token", layer)
        self.unet = ConditionalUNet(
            3,
            settings.base,
            settings.channel_multipliers,
            settings.blocks_per_level,
            settings.attention_levels,
            context_dim=settings.context_dim,
            num_steps=settings.steps,
            dropout=settings.dropout,
            seed=seed,
            flat=False,
        )

    def forward(self, x: Array, t: Array, meaning: Array, drop: Array | None = None) -> Array:
        """What the U-Net makes of pictures (B, 3, S, S) at times (B,), of meanings (B, 11)."""
        xp, at, tokens = namespace(x, meaning), 0, []
        for layer in self.tokens.values():
            size = layer.weight.shape[1]
            tokens.append(layer(meaning[:, at : at + size]))
            at += size
        return self.unet(x, t, xp.stack(tokens, axis=1), drop=drop)

    def backward(self, dy: Array) -> tuple[Array, Array]:
        """Gradients of the pictures and of the meanings."""
        dx, dtokens = self.unet.backward(dy)
        parts = [layer.backward(dtokens[:, at]) for at, layer in enumerate(self.tokens.values())]
        return dx, namespace(dx).concatenate(parts, axis=1)


def build_decoder(config: DecoderConfig) -> DiffusionProcess:
    """A new decoder as the settings want it, on the device in use."""
    c = config.model
    process = DiffusionProcess(
        MeaningUNet(c, config.training.seed),
        c.schedule,
        c.steps,
        prediction=c.prediction,
        condition_dropout=c.condition_dropout,
        seed=config.training.seed,
    )
    return process.flatten()


def load_decoder(path: str | Path) -> tuple[DiffusionProcess, Any]:
    """A trained decoder, fine-tuned or not, from its run folder or checkpoint, and its settings.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    document = load_checkpoint(checkpoints_of(path), which="best").documents.get("config", {})
    schema = FinetuneConfig if "finetune" in document else DecoderConfig
    return load_trained(path, schema, build_decoder)


class DecoderJob(DesignJob):
    """A diffusion, trained to find the noise in pictures of designs."""

    stage = "decoder"
    schema = DecoderConfig
    fields = ("image", "goal", "format", "tone")
    shown: ClassVar[Mapping[str, str]] = {}

    model: DiffusionProcess

    @classmethod
    def build(cls, config: Any) -> Layer:
        return build_decoder(config)

    def loader(self, split: str) -> Any:
        training = self.config.training
        if split == "train":
            return loader_of(self.designs[split], training.batch_size, decoder_batch, training.seed)
        return loader_of(self.designs[split], _AT_ONCE, decoder_batch)

    def figures(self, split: str, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        def until_stopped() -> Any:
            for batch in self.loader(split):
                if stop():
                    raise EvaluationStopped
                yield batch

        return self.model.evaluate(until_stopped())

    def sample(self, name: str) -> None:
        if not name.startswith("predictions/"):  # after training the weights are the averaged ones already
            return super().sample(name)
        with self.trainer.averaged():
            return super().sample(name)

    def painter(self, model: DiffusionProcess | None = None) -> Painter:
        """Paints with the network as it is."""
        sampling = self.config.sampling
        return Painter(self.model if model is None else model, sampling.steps, sampling.guidance)

    def picture(self, path: Path) -> None:
        """Designs of the validation split, and below each what was painted of its meaning."""
        designs = self.designs["validation"]
        examples = [designs[i] for i in range(min(self.config.training.shown, len(designs)))]
        x, meaning = decoder_batch(examples)
        painted = self.painter().paint(meaning, size=self.config.data.size, seed=self.config.training.seed)
        save_grid(path, [[image_tile(as_shown(image)) for image in row] for row in (x, painted)])

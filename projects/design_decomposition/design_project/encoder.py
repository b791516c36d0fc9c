"""The first network: from a picture of a design to its maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinygrad_edu.backend import asarray, to_host
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.losses import design_loss
from tinygrad_edu.metrics import SegmentationScore
from tinygrad_edu.training.evaluation import EvaluationStopped

from .data import encoder_batch, loader_of
from .networks import SoftMaps, as_shown, build_encoder
from .pictures import colour_tile, image_tile, map_tile, save_grid
from .settings import EncoderConfig
from .stages import Criterion, DesignJob

_AT_ONCE = 100  # designs in a batch of an evaluation


class EncoderJob(DesignJob):
    """A U-Net, trained with Dice on the masks, cross-entropy on the colours and squared error on the hierarchy."""

    stage = "encoder"
    schema = EncoderConfig
    fields = ("image", "features")
    criteria = (
        Criterion("text mask IoU", "text_iou", ">", 0.90),
        Criterion("image mask IoU", "image_iou", ">", 0.85),
        Criterion("colour accuracy", "colour_accuracy", ">", 0.80),
        Criterion("hierarchy MSE", "hierarchy_mse", "<", 0.05),
    )
    shown: ClassVar[Mapping[str, str]] = {
        "text_iou": ", text IoU {:.3f}",
        "image_iou": ", image IoU {:.3f}",
        "colour_accuracy": ", colours {:.1%}",
        "hierarchy_mse": ", hierarchy MSE {:.4f}",
    }

    @classmethod
    def build(cls, config: EncoderConfig) -> Layer:
        return build_encoder(config)

    def make_loss(self) -> Layer:
        return design_loss(self.config.data.n_colours)

    def loader(self, split: str) -> Any:
        training = self.config.training
        if split == "train":
            return loader_of(self.designs[split], training.batch_size, encoder_batch, training.seed)
        return loader_of(self.designs[split], _AT_ONCE, encoder_batch)

    def figures(self, split: str, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        loss, weighted, squared, designs = self.make_loss(), 0.0, 0.0, 0
        text, image = SegmentationScore(2), SegmentationScore(2)
        colours = SegmentationScore(self.config.data.n_colours)
        with self.model.evaluating():
            for x, features in self.loader(split):
                if stop():
                    raise EvaluationStopped
                logits = self.model(asarray(x))
                weighted += len(x) * float(loss(logits, asarray(features)))
                logits = to_host(logits)
                text.add((logits[:, 0] > 0).astype(int), features[:, 0].astype(int))
                image.add((logits[:, 1] > 0).astype(int), features[:, 1].astype(int))
                colours.add(logits[:, 2:-1].argmax(axis=1), features[:, 2].astype(int))
                squared += float(np.square(logits[:, -1] - features[:, 3], dtype=np.float64).mean(axis=(1, 2)).sum())
                designs += len(x)
        return {
            "loss": weighted / designs,
            "text_iou": float(text.iou[1]),
            "image_iou": float(image.iou[1]),
            "colour_accuracy": colours.pixel_accuracy,
            "hierarchy_mse": squared / designs,
        }

    def picture(self, path: Path) -> None:
        """Rows: pictures, then each map as it is and as it was read, one below the other."""
        count, n_colours = self.config.training.shown, self.config.data.n_colours
        designs = self.designs["validation"]
        x, true = encoder_batch([designs[i] for i in range(min(count, len(designs)))])
        with self.model.evaluating():
            found = to_host(SoftMaps()(self.model(asarray(x))))
        rows = [[image_tile(as_shown(image)) for image in x]]
        for channel in (0, 1):
            rows.append([map_tile(maps[channel]) for maps in true])
            rows.append([map_tile(maps[channel]) for maps in found])
        rows.append([colour_tile(maps[2], n_colours) for maps in true])
        rows.append([colour_tile(maps[2:-1].argmax(axis=0), n_colours) for maps in found])
        rows.append([map_tile(maps[3]) for maps in true])
        rows.append([map_tile(maps[-1]) for maps in found])
        save_grid(path, rows)

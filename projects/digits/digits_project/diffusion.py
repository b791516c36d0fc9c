"""The network that draws digits: noise is taken away little by little, towards the class that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_edu.backend import asarray, to_host
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.metrics import conditioning_fidelity, feature_statistics, fid, inception_score
from tinygrad_edu.models import ConditionalUNet
from tinygrad_edu.models.diffusion import DiffusionProcess
from tinygrad_edu.training import evaluate_loss

from .classifier import Judge
from .data import CLASSES, SIDE
from .job import DigitsJob
from .pictures import draw_sheet

_QUICK_STEPS = 20  # of the pictures that show how training goes
_AT_ONCE = 250  # pictures that are drawn together
_DIGITS = [str(digit) for digit in range(CLASSES)]


def build_process(config: Any) -> DiffusionProcess:
    """Network and objective as the settings want them."""
    model, process, seed = config.model, config.process, config.training.seed
    net = ConditionalUNet(
        in_channels=1,
        base=model.base,
        channel_multipliers=tuple(2**level for level in range(model.levels)),
        blocks_per_level=model.blocks,
        attention_levels=(model.levels - 1,),
        num_classes=CLASSES,
        num_groups=min(8, model.base // 4),
        num_steps=process.steps,
        dropout=model.dropout,
        seed=seed,
    )
    return DiffusionProcess(
        net,
        process.schedule,
        process.steps,
        prediction=process.prediction,
        condition_dropout=process.condition_dropout,
        seed=seed,
    )


class DiffusionJob(DigitsJob):
    """Trains a class-conditional diffusion, with averaged weights, and judges it by the classifier."""

    name = "diffusion"
    model: DiffusionProcess

    def build(self) -> tuple[Layer, None]:
        self.judge = Judge(self.config.sampling.classifier, self.config.data)  # missing: said before any training
        return build_process(self.config), None

    # -- drawing -------------------------------------------------------------------------------------------

    def draw_digits(self, labels: Any, steps: int | None = None) -> Any:
        """Pictures of these classes, (N, 1, 8, 8) on the host, with the weights as they are."""
        sampling = self.config.sampling
        sampler = self.model.sampler("ddim", steps=sampling.steps if steps is None else steps)
        net = self._guided()
        parts = []
        for start in range(0, len(labels), _AT_ONCE):
            some = asarray(np.asarray(labels[start : start + _AT_ONCE]))
            seed = sampling.seed + 1000 * start
            parts.append(to_host(sampler.sample(net, (len(some), 1, SIDE, SIDE), some, seed=seed)))
        return np.concatenate(parts)

    def _guided(self) -> Any:
        scale = self.config.sampling.guidance
        return self.model.net if scale == 1 else self.model.guided(scale)

    def picture(self, path: Path) -> None:
        """A row for each of eight noises, a column for each digit."""
        rows = 8
        steps = min(_QUICK_STEPS, self.config.sampling.steps)
        found = self.draw_digits(np.tile(np.arange(CLASSES), rows), steps).reshape(rows, CLASSES, SIDE, SIDE)
        draw_sheet(found, path, columns=_DIGITS, title=f"Drawn after {self.trainer.state.step:,} steps")

    def strip(self, path: Path) -> None:
        """How each digit comes out of its noise."""
        sampling = self.config.sampling
        sampler = self.model.sampler("ddim", steps=sampling.steps)
        shape, labels = (CLASSES, 1, SIDE, SIDE), asarray(np.arange(CLASSES))
        found = sampler.strip(self._guided(), shape, labels, frames=sampling.frames, seed=sampling.seed)
        frames = to_host(found)[:, :, 0].swapaxes(0, 1)  # (10, frames, 8, 8)
        done = [f"{i / (sampling.frames - 1):.0%}" for i in range(sampling.frames)]
        draw_sheet(frames, path, rows=_DIGITS, columns=done, title="Out of the noise: steps done")

    # -- measuring -----------------------------------------------------------------------------------------

    def figures(self, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        figures = evaluate_loss(self.model, self.digits["validation"].loader(180), stop=stop)
        super().sample(f"samples/step_{self.trainer.state.step:06d}")  # the trainer has put the averaged weights in
        return figures

    def sample(self, name: str) -> None:
        with self.trainer.averaged():
            super().sample(name)

    def results(self) -> dict[str, Any]:
        sampling, judge, test = self.config.sampling, self.judge, self.digits["test"]
        asked = np.tile(np.arange(CLASSES), sampling.per_class)
        self.say(f"Drawing {len(asked):,} digits in {sampling.steps} steps each ...")
        with self.trainer.averaged():
            drawn = self.draw_digits(asked)
            self.strip(self.folder / "denoising.png")
        draw_sheet(
            drawn[: 10 * CLASSES, 0].reshape(-1, CLASSES, SIDE, SIDE),
            self.folder / "digits.png",
            columns=_DIGITS,
            title=f"Drawn, guidance {sampling.guidance:g}",
        )
        noise = np.random.default_rng(sampling.seed).uniform(-1, 1, test.images.shape).astype(np.float32)
        learned = feature_statistics(self.digits["train"].images, judge.features)
        distances = {
            name: fid(learned, images[: len(test)], judge.features, name=judge.name)  # as many of each: fewer cost more
            for name, images in (("drawn", drawn), ("real", test.images), ("noise", noise))
        }
        fidelity = {
            name: conditioning_fidelity(
                {"digit": judge.classes(images)}, {"digit": labels}, name="the digits classifier"
            )
            for name, images, labels in (("drawn", drawn, asked), ("real", test.images, test.labels))
        }
        scores = {
            name: inception_score(images[: len(test)], judge.probabilities, name="the digits classifier", splits=1)
            for name, images in (("drawn", drawn), ("real", test.images))
        }
        self.say(f"{fidelity['drawn']['digit']}; real test digits {float(fidelity['real']['digit']):.1%}")
        for name, distance in distances.items():
            self.say(f"{name + ':':<7}{distance}")
        for name, score in scores.items():
            self.say(f"{name + ':':<7}{score}")
        return {
            "fidelity": {name: vars(found["digit"]) for name, found in fidelity.items()},
            "fid": {
                name: {**vars(distance), "samples": list(distance.samples)} for name, distance in distances.items()
            },
            "inception_score": {name: vars(score) for name, score in scores.items()},
            "nearest": self._nearest(drawn),
        }

    def _nearest(self, drawn: Any) -> dict[str, float]:
        """Root mean square distance to the nearest digit that was learned from: of drawn ones and of real test digits.

        Near zero for the drawn ones would mean that they are copies.
        """

        def distance(images: Any) -> float:
            learned = self.digits["train"].images.reshape(len(self.digits["train"]), -1)
            rows = images.reshape(len(images), -1)
            squared = (rows**2).sum(1)[:, None] + (learned**2).sum(1) - 2 * rows @ learned.T
            return float(np.sqrt(np.maximum(squared.min(axis=1), 0) / rows.shape[1]).mean())

        return {"drawn": distance(drawn), "real": distance(self.digits["test"].images)}

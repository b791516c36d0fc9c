"""The network that tells digits apart; it also judges those that the other program draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinygrad_edu.backend import Array, Generator, asarray, to_host
from tinygrad_edu.errors import CheckpointError, ConfigError
from tinygrad_edu.layers import BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d, ReLU, Sequential, Softmax
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.losses import CrossEntropyLoss
from tinygrad_edu.metrics import SegmentationScore
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import evaluate_loss, make_config, trained_weights
from tinygrad_edu.training.run_folder import checkpoints_of
from tinygrad_edu.training.trainable import LayerWithLoss

from .data import CLASSES, SIDE, Digits
from .job import DigitsJob
from .pictures import draw_sheet
from .settings import ClassifierConfig, ClassifierModel, DigitsData


class DigitClassifier(Layer):
    """Three convolutions, a pooling between them, and two linear maps.

    Parameters
    ----------
    model : settings
    seed : of the initial weights and of dropout
    """

    def __init__(self, model: ClassifierModel, seed: int = 0):
        super().__init__()
        self.generator = generator = Generator(seed)
        width = model.base

        def convolution(inputs: int, outputs: int) -> list[Layer]:
            # The norm takes any constant away again, so a bias would learn nothing.
            layer = Conv2d(inputs, outputs, 3, padding=1, bias=False, generator=generator)
            return [layer, BatchNorm2d(outputs), ReLU()]

        self.body = Sequential(
            *convolution(1, width), *convolution(width, width), MaxPool2d(2), *convolution(width, 2 * width)
        )
        pixels = (SIDE // 2) ** 2
        self.to_features = Sequential(Linear(2 * width * pixels, model.features, generator=generator), ReLU())
        self.head = Sequential(Dropout(model.dropout, generator), Linear(model.features, CLASSES, generator=generator))

    def features(self, x: Array) -> Array:
        """(B, 1, 8, 8) -> (B, features): what it sees in a digit, before it names it."""
        maps = self.body(x)  # (B, 2 base, 4, 4)
        self.save(maps.shape)
        return self.to_features(maps.reshape(len(x), -1))

    def forward(self, x: Array) -> Array:
        """(B, 1, 8, 8) -> logits (B, 10)."""
        return self.head(self.features(x))

    def backward(self, dlogits: Array) -> Array:
        dflat = self.to_features.backward(self.head.backward(dlogits))
        return self.body.backward(dflat.reshape(self.saved()))


class Judge:
    """A trained classifier, as the metrics want it: features, probabilities, classes of pictures on the host.

    Parameters
    ----------
    run : folder of a run of ``train_classifier.py``, or a checkpoint of it
    data : of whoever is judged; digits held out there must be held out here as well

    Raises
    ------
    CheckpointError
        If there is no such run, or it is damaged.
    ConfigError
        If it was trained on other digits.
    """

    def __init__(self, run: str, data: DigitsData):
        if not Path(run).is_dir():
            raise ConfigError(
                f"sampling.classifier: there is no run {run}; train one first: "
                "python projects/digits/train_classifier.py"
            )
        checkpoint = load_checkpoint(checkpoints_of(run), which="best")
        config = make_config(
            checkpoint.documents.get("config", {}), schema=ClassifierConfig, where=str(checkpoint.path)
        )
        if config.data.split_seed != data.split_seed:
            raise ConfigError(
                f"sampling.classifier: {run} was trained with data.split_seed {config.data.split_seed}, wanted "
                f"{data.split_seed}: it has learned from digits that are held out here"
            )
        self.network = DigitClassifier(config.model)
        try:
            self.network.load_state_dict(dict(trained_weights(checkpoint)))
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from error
        self.name = f"the digits classifier's {config.model.features} features"

    def features(self, images: Any) -> Any:
        """(B, features)."""
        with self.network.evaluating():
            return to_host(self.network.features(asarray(images)))

    def probabilities(self, images: Any) -> Any:
        """(B, 10)."""
        with self.network.evaluating():
            return to_host(Softmax()(self.network(asarray(images))))

    def classes(self, images: Any) -> Any:
        """(B,)."""
        return self.probabilities(images).argmax(axis=1)


class ClassifierJob(DigitsJob):
    """Trains a :class:`DigitClassifier` with cross-entropy, and keeps the best on the validation digits."""

    name = "classifier"
    shown: ClassVar[Mapping[str, str]] = {"accuracy": ", {:.1%} right"}

    def build(self) -> tuple[Layer, Layer]:
        settings = self.config.training
        return DigitClassifier(self.config.model, settings.seed), CrossEntropyLoss()

    def figures(self, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        return self._measure(self.digits["validation"], stop)

    def _measure(self, digits: Digits, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        return evaluate_loss(LayerWithLoss(self.model, CrossEntropyLoss()), digits.loader(256), stop=stop)

    def _logits(self, digits: Digits) -> Any:
        with self.model.evaluating():
            return to_host(self.model(asarray(digits.images)))

    def picture(self, path: Path) -> None:
        """The validation digits that it is least sure of, and what it takes them for."""
        digits = self.digits["validation"]
        with self.model.evaluating():
            probabilities = to_host(Softmax()(self.model(asarray(digits.images))))
        least = np.argsort(probabilities[np.arange(len(digits)), digits.labels], kind="stable")[:10]
        found = [f"{probabilities[i].argmax()} ({digits.labels[i]})" for i in least]
        draw_sheet(digits.images[least, 0][None], path, columns=found, title="Least sure: found (true)")

    def results(self) -> dict[str, Any]:
        best = load_checkpoint(self.checkpoints, which="best")
        self.model.load_state_dict(dict(trained_weights(best)))
        test = self.digits["test"]
        figures = self._measure(test)
        found = self._logits(test).argmax(axis=1)
        score = SegmentationScore(CLASSES)
        score.add(found, test.labels)
        wrong = np.flatnonzero(found != test.labels)
        self.say(
            f"{figures['accuracy']:.2%} of {len(test)} test digits right, {len(wrong)} wrong "
            f"(best weights, step {best.step:,})"
        )
        if wrong.size:
            named = [f"{found[i]} ({test.labels[i]})" for i in wrong[:12]]
            draw_sheet(
                test.images[wrong[:12], 0][None], self.folder / "mistakes.png", columns=named, title="Found (true)"
            )
        return {"test": figures, "best_step": best.step, "confusion": score.confusion.tolist()}

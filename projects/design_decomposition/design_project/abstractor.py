"""The second network: from the maps of a design to how well it is made, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinygrad_edu.backend import asarray, to_host
from tinygrad_edu.data.designs import FORMATS, GOALS, GRAMMAR, TONES
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.metrics import mean_absolute_error, pearson_correlation
from tinygrad_edu.training.evaluation import EvaluationStopped
from tinygrad_edu.viz.figure import new_figure, put_title, save_figure

from .data import abstractor_batch, loader_of
from .networks import build_abstractor
from .settings import AbstractorConfig
from .stages import Criterion, DesignJob

_AT_ONCE = 100  # designs in a batch of an evaluation


class AbstractorJob(DesignJob):
    """A ResNet-18 with a head each for grammar, goal, format and tone."""

    stage = "abstractor"
    schema = AbstractorConfig
    fields = ("features", "goal", "format", "tone", "grammar")
    criteria = (
        *(Criterion(f"grammar MAE, {name.replace('_', ' ')}", f"{name}_mae", "<", 0.10) for name in GRAMMAR),
        Criterion("goal accuracy", "goal_accuracy", ">", 0.85),
        Criterion("format accuracy", "format_accuracy", ">", 0.85),
    )
    shown: ClassVar[Mapping[str, str]] = {
        "grammar_mae": ", grammar MAE {:.3f}",
        "goal_accuracy": ", goal {:.1%}",
        "format_accuracy": ", format {:.1%}",
    }

    @classmethod
    def build(cls, config: AbstractorConfig) -> Layer:
        return build_abstractor(config)

    def loader(self, split: str) -> Any:
        training = self.config.training
        collate = partial(abstractor_batch, n_colours=self.config.data.n_colours, mirror=split == "train")
        if split == "train":
            return loader_of(self.designs[split], training.batch_size, collate, training.seed)
        return loader_of(self.designs[split], _AT_ONCE, collate)

    def answers(self, split: str, stop: Callable[[], bool] = lambda: False) -> tuple[float, dict[str, Any]]:
        """Mean loss of a split; what was said of its designs (``grammar`` ...), what is true (``true_grammar`` ...)."""
        total, found = 0.0, {}
        with self.model.evaluating():
            for batch in self.loader(split):
                if stop():
                    raise EvaluationStopped
                maps = asarray(batch.pop("maps"))
                answers = self.model(maps)
                total += self.model.loss_of(answers, {name: asarray(values) for name, values in batch.items()})
                for name, values in batch.items():
                    found.setdefault(name, []).append(to_host(answers[name]))
                    found.setdefault(f"true_{name}", []).append(values)
        together = {name: np.concatenate(parts) for name, parts in found.items()}
        return total / len(together["goal"]), together

    def figures(self, split: str, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        loss, found = self.answers(split, stop)
        figures = {"loss": loss, "grammar_mae": mean_absolute_error(found["grammar"], found["true_grammar"])}
        for kind, names in (("grammar", GRAMMAR), ("tone", TONES)):
            errors = mean_absolute_error(found[kind], found[f"true_{kind}"], each=True)
            alike = pearson_correlation(found[kind], found[f"true_{kind}"], each=True)
            figures |= {f"{name}_mae": float(error) for name, error in zip(names, errors, strict=True)}
            figures |= {f"{name}_correlation": float(r) for name, r in zip(names, alike, strict=True)}
        for name in ("goal", "format"):
            figures[f"{name}_accuracy"] = float((found[name].argmax(axis=1) == found[f"true_{name}"]).mean())
        return figures

    def picture(self, path: Path) -> None:
        """What was said of the validation designs over what is true: a panel a score, and the classes as tables."""
        _, found = self.answers("validation")
        figure = new_figure(11.0, 5.2)
        panels = figure.subplots(2, 4)
        for at, name in enumerate(GRAMMAR):
            axes = panels[0, at]
            axes.plot([0, 1], [0, 1], color="#9ca3af", linewidth=0.8)
            axes.plot(
                found["true_grammar"][:, at], found["grammar"][:, at], ".", color="#4c78a8", markersize=3, alpha=0.5
            )
            axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel="true", ylabel="said" if at == 0 else "")
            put_title(axes, name.replace("_", " "))
        for axes, name, words in ((panels[1, 0], "goal", GOALS), (panels[1, 1], "format", FORMATS)):
            table = np.zeros((len(words), len(words)), int)
            np.add.at(table, (found[f"true_{name}"], found[name].argmax(axis=1)), 1)
            axes.imshow(table, cmap="Blues", vmin=0)
            for (y, x), count in np.ndenumerate(table):
                axes.text(x, y, count, ha="center", va="center", color="white" if 2 * count > table.max() else "black")
            axes.set_xticks(range(len(words)), words, rotation=30)
            axes.set_yticks(range(len(words)), words)
            put_title(axes, f"{name}: true (row), said")
        for at, axes in enumerate(panels[1, 2:]):
            axes.plot([-1, 1], [-1, 1], color="#9ca3af", linewidth=0.8)
            axes.plot(found["true_tone"][:, at], found["tone"][:, at], ".", color="#54a24b", markersize=3, alpha=0.5)
            axes.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), xlabel="true")
            put_title(axes, f"tone: {TONES[at]}")
        save_figure(figure, path, dpi=100)

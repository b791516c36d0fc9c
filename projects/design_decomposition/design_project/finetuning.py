"""Fine-tuning the decoder on what the frozen networks think of its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tinygrad_edu.backend import Array, namespace
from tinygrad_edu.data.designs import FORMATS, GOALS, GRAMMAR, TONES
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.models.diffusion import RewardedDiffusion

from .decoder import DecoderJob, decoder_batch, load_decoder, meaning_of
from .decoder_settings import FinetuneConfig
from .networks import Reader, as_seen, as_shown, load_reader
from .painting import distance_figures, fidelity_figures, grammar_figures, read
from .pictures import image_tile, save_grid
from .stages import Criterion
from tinygrad_edu.data.designs import stack_examples

_WIDTHS = {"goal": len(GOALS), "format": len(FORMATS), "tone": len(TONES)}


class GrammarScore(Layer):
    """The mean of the four grammar scores that the frozen networks read off a picture.

    Parameters
    ----------
    reader : encoder and abstractor in a row
    """

    def __init__(self, reader: Reader):
        super().__init__()
        self.reader = reader

    def train(self, mode: bool = True) -> GrammarScore:
        """It stays in evaluation mode."""
        return super().train(False)

    def forward(self, x: Array) -> Array:  # (B, 3, S, S) -> (B,)
        answers = self.reader(x)
        self.save({name: values.shape for name, values in answers.items()}, answers["grammar"])
        return answers["grammar"].mean(axis=1)

    def backward(self, dscores: Array) -> Array:  # (B,) -> (B, 3, S, S)
        shapes, grammar = self.saved()
        xp = namespace(dscores)
        danswers = {name: xp.zeros(shape, dtype=grammar.dtype) for name, shape in shapes.items()}
        danswers["grammar"] += (dscores / grammar.shape[1])[:, None].astype(grammar.dtype)
        return self.reader.backward(danswers)


class FinetuneJob(DecoderJob):
    """A trained decoder, rewarded for the grammar that encoder and abstractor find in its pictures."""

    stage = "finetuned"
    schema = FinetuneConfig
    criteria = (Criterion("mean grammar score, by how much it rose", "grammar_rise", ">", 0.0),)
    shown: ClassVar[Mapping[str, str]] = {"grammar": ", grammar {:.3f}"}

    model: RewardedDiffusion

    @staticmethod
    def paths(config: FinetuneConfig) -> dict[str, Path]:
        """The runs of decoder, encoder and abstractor."""
        runs = Path(config.training.output_dir)
        names = ("decoder", "encoder", "abstractor")
        return {name: Path(getattr(config.finetune, name) or runs / name) for name in names}

    @classmethod
    def build(cls, config: FinetuneConfig) -> Layer:
        paths = cls.paths(config)
        decoder, _ = load_decoder(paths["decoder"])
        reader, _ = load_reader(paths["encoder"], paths["abstractor"])
        process = RewardedDiffusion(
            decoder.net,
            GrammarScore(reader).eval(),
            decoder.schedule,
            prediction=decoder.prediction,
            condition_dropout=decoder.condition_dropout,
            reward_weight=config.finetune.reward_weight,
            seed=config.training.seed,
        )
        return process.flatten()

    def _assemble(self) -> None:
        _, theirs = load_decoder(self.paths(self.config)["decoder"])
        if self.config.model not in (None, theirs.model):
            raise ConfigError("model: is that of the decoder that fine-tuning begins with; leave it out")
        self.config = self.config.model_copy(update={"model": theirs.model})  # so that checkpoints can say it
        super()._assemble()

    @property
    def reader(self) -> Reader:
        """The frozen networks."""
        judge = self.model.judge
        assert isinstance(judge, GrammarScore)
        return judge.reader

    def figures(self, split: str, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        if split == "test":
            return self.compare()
        found = super().figures(split, stop)
        designs = self.designs[split]
        examples = stack_examples([designs[i] for i in range(min(self.config.finetune.judged, len(designs)))])
        return {**found, **grammar_figures(self.judge_of(meaning_of(examples))["grammar"])}

    def judge_of(self, meaning: Any, model: Any = None) -> dict[str, Any]:
        """What is read off pictures painted of meanings; from the same noise each time."""
        painted = self.painter(model).paint(meaning, size=self.config.data.size, seed=self.config.training.seed)
        return {**read(self.reader, painted), "painted": painted}

    def compare(self) -> dict[str, float]:
        """Before and after on the meanings of test designs: the decoder it began with, and what it has become."""
        designs = self.designs["test"]
        test = stack_examples([designs[i] for i in range(min(self.config.sampling.count, len(designs)))])
        meaning, asked = meaning_of(test), {name: test[name] for name in _WIDTHS}
        before, _ = load_decoder(self.paths(self.config)["decoder"])
        real = read(self.reader, as_seen(test["image"]))
        figures = super().figures("test") | grammar_figures(real["grammar"], "_of_real")
        for suffix, model in (("_before", before), ("_after", self.model)):
            found = self.judge_of(meaning, model)
            figures |= grammar_figures(found["grammar"], suffix)
            figures |= {f"{name}{suffix}": value for name, value in fidelity_figures(found, asked).items()}
            figures |= distance_figures(real["features"], found["features"], f"fid{suffix}")
        figures["grammar_rise"] = figures["grammar_after"] - figures["grammar_before"]
        for name in GRAMMAR:
            figures[f"{name}_rise"] = figures[f"{name}_after"] - figures[f"{name}_before"]
        return figures

    def picture(self, path: Path) -> None:
        """Pictures of held-out meanings before fine-tuning, and below from the same noise as the network is now."""
        designs = self.designs["validation"]
        _, meaning = decoder_batch([designs[i] for i in range(min(self.config.training.shown, len(designs)))])
        before, _ = load_decoder(self.paths(self.config)["decoder"])
        rows = np.stack([self.judge_of(meaning, model)["painted"] for model in (before, self.model)])
        save_grid(path, [[image_tile(as_shown(image)) for image in row] for row in rows])

"""Training a model that translates, on pairs of texts, and using it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import __version__
from ...backend import to_host, use
from ...data import Tokenizer
from ...errors import ConfigError
from ...layers.attention import keep_attention_weights
from ...metrics import LanguageScore, bleu, exact_match
from ...models import BaseLanguageModel
from ...storage import Checkpoint, encode_json
from ...viz import plot_attention
from ..assembly import build_model, restore_model
from ..evaluation import evaluate_batches
from ..pairs import Pair, PairData, prepare_pairs, translate, use_tokens_of
from ..progress import format_seconds
from ..trainer import Trainer
from .job import Job

if TYPE_CHECKING:
    from rich.console import Console

BEAMS = 4  #: of the search that is measured beside greedy
FOLLOWED = 200  #: validation pairs that are translated at each evaluation
_SHOWN = 8  # translations in a sample, and mistakes in the final report


class TranslationJob(Job):
    """An encoder-decoder on a task or on two aligned files.

    Attributes
    ----------
    data : pairs, tokenizer and ids
    """

    data: PairData

    def _assemble(self) -> None:
        config, settings = self.config, self.config.training
        self.data = prepare_pairs(config)
        self.model = build_model(config, self.data.tokenizer.vocab_size)
        use_tokens_of(self.model, self.data.tokenizer)
        self.trainer = Trainer(
            self.model,
            self.data.loader("train", settings.batch_size, shuffle=True, seed=settings.seed),
            settings,
            evaluate=self._follow,
            callbacks=self.callbacks(),
            checkpoints=self.checkpoints,
            documents={"config": config.model_dump(mode="json"), "data": self.data.document()},
        )

    # -- measuring ------------------------------------------------------------------------------------

    def _follow(self, stop: Any) -> dict[str, Any]:
        """The loss on validation pairs, and how many of some are translated exactly."""
        score = _score(self.config, self.model, self.data, "validation", self.config.training.eval_batches, stop)
        pairs = self.data.pairs["validation"][:FOLLOWED]
        found = _translations(self.config, self.model, self.data.tokenizer, pairs)
        return {**_loss_figures(score), "exact_match": exact_match(found, [target for _, target in pairs])}

    # -- before and after -----------------------------------------------------------------------------

    @property
    def title(self) -> str:
        shape, settings = self.model.config, self.config.training
        decoder = shape.n_blocks if shape.n_decoder_blocks is None else shape.n_decoder_blocks
        return (
            f"{self.model.get_parameter_count():,} parameters: {shape.n_blocks} + {decoder} blocks, width "
            f"{shape.d_model}, {shape.n_heads} heads, batch {settings.batch_size}"
        )

    def describe(self) -> Mapping[str, str]:
        data, trainer = self.data, self.trainer
        counts = {split: f"{len(pairs):,}" for split, pairs in data.pairs.items()}
        left_out = f"; {data.left_out:,} longer than {self.config.data.max_length} tokens are left out"
        epochs = trainer.total_steps / len(trainer.loader)
        source, target = data.pairs["train"][0]
        return {
            "pairs": f"{data.name}: {counts['train']} to train on, {counts['validation']} for validation, "
            f"{counts['test']} for testing{left_out if data.left_out else ''}",
            "example": f"{source} -> {target}",
            "tokenizer": f"{data.tokenizer.vocab_size:,} tokens for both sides",
            "model": self.title,
            "training": f"{trainer.total_steps:,} steps, {epochs:.2f} epochs, {self.model.config.get_device()}",
        }

    def sample(self, name: str) -> None:
        pairs = self.data.pairs["validation"][:_SHOWN]
        found = _translations(self.config, self.model, self.data.tokenizer, pairs)
        lines = [f"{source}\n    {text}" for (source, _), text in zip(pairs, found, strict=True)]
        self.write(name, "\n".join(lines) + "\n")

    def finish(self) -> None:
        state = self.trainer.state
        self.say(f"Translating {len(self.data.pairs['test']):,} held-out pairs, greedily and with {BEAMS} beams ...")
        scores, found = _measure(self.config, self.model, self.data, "test")
        results = {
            "test": scores,
            "steps": state.step,
            "skipped_steps": state.skipped,
            "training_seconds": state.seconds,
            "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
            "parameters": self.model.get_parameter_count(),
            "pairs": {"name": self.data.name, "content_hash": self.data.content_hash, "left_out": self.data.left_out},
            "tinygrad_edu": __version__,
        }
        self.write("results.json", encode_json(results, "results").decode())
        self.sample("sample_after.txt")
        mistakes = _mistakes(self.data.pairs["test"], found)
        self.write("mistakes.txt", "".join(mistakes) or "none\n")
        self.draw()
        source, _ = self.data.pairs["validation"][0]
        draw_attention(self.model, self.data.tokenizer, source, self.folder / "attention.png")
        for name in ("before", "after"):
            text = (self.folder / f"sample_{name}.txt").read_text(encoding="utf-8").strip()
            self.say(f"\nTranslations {name} training:\n{text}")
        self.say()
        _report(self.console, f"On the {len(self.data.pairs['test']):,} pairs held out for testing:", scores, mistakes)
        self.say(f"\n{state.step:,} steps took {format_seconds(state.seconds)}. Everything is in {self.folder}")

    # -- using what was trained -----------------------------------------------------------------------

    @classmethod
    def evaluate(cls, checkpoint: Checkpoint, args: Any, console: Console) -> int:
        if getattr(args, "ngrams", False) or getattr(args, "stride", None) is not None:
            raise ConfigError("--ngrams and --stride are for language models; this one translates")
        config, model, tokenizer = restore_translator(checkpoint, args.device)
        with use(model.config.get_device()):
            data = prepare_pairs(config, tokenizer)
            if data.content_hash != checkpoint.documents["data"].get("content_hash"):
                warnings.warn(
                    f"{data.name}: these are not the pairs the model was trained on (another content hash): it may "
                    "have seen those that are held out, and the figures cannot be compared with those of the run",
                    stacklevel=1,
                )
            beams = args.num_beams if (getattr(args, "num_beams", None) or 1) > 1 else BEAMS
            penalty = getattr(args, "length_penalty", 1.0)
            scores, found = _measure(config, model, data, args.split, beams, penalty)
        if args.json:
            about = {"checkpoint": str(checkpoint.path), "step": checkpoint.step, "split": args.split}
            print(json.dumps({**about, **scores}))
            return 0
        name, count = Path(checkpoint.path).name, len(data.pairs[args.split])
        title = f"{name}, {count:,} pairs of {data.name} ({args.split}):"
        _report(console, title, scores, _mistakes(data.pairs[args.split], found))
        return 0

    @classmethod
    def generate(cls, checkpoint: Checkpoint, args: Any, console: Console) -> int:
        """Translate the prompt, by search or greedily; nothing is drawn."""
        if args.prompt is None:
            raise ConfigError("give --prompt with the text that is to be translated")
        config, model, tokenizer = restore_translator(checkpoint, args.device)
        with use(model.config.get_device()):
            (found,) = _translations(config, model, tokenizer, [(args.prompt, "")], args.num_beams)
        console.print(found, markup=False, highlight=False, soft_wrap=True)
        return 0


def restore_translator(checkpoint: Checkpoint, device: str | None = None) -> tuple[Any, BaseLanguageModel, Tokenizer]:
    """The settings, the trained model and the tokenizer that a run's checkpoint holds.

    Parameters
    ----------
    checkpoint, device : as :func:`tinygrad_edu.training.assembly.restore_model` takes them

    Raises
    ------
    ConfigError
        If the model does not translate.
    CheckpointError
        If something is missing from the checkpoint, or does not fit.
    """
    config, model, tokenizer = restore_model(checkpoint, device)
    if model.objective != "translation":
        raise ConfigError(
            f"{checkpoint.path}: its {model.model_type} learned {model.objective}, and does not translate"
        )
    use_tokens_of(model, tokenizer)
    return config, model, tokenizer


# -- figures ------------------------------------------------------------------------------------------


def _score(
    config: Any, model: BaseLanguageModel, data: PairData, split: str, max_batches: int | None = None, stop: Any = None
) -> LanguageScore:
    batches = data.loader(split, config.training.batch_size, shuffle=True)  # some of them are of every length
    return evaluate_batches(model, batches, max_batches=max_batches, stop=stop)


def _loss_figures(score: LanguageScore) -> dict[str, Any]:
    return {"loss": score.loss, "perplexity": score.perplexity, "accuracy": score.accuracy}


def _translations(
    config: Any,
    model: BaseLanguageModel,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> list[str]:
    return translate(
        model,
        tokenizer,
        [source for source, _ in pairs],
        num_beams=num_beams,
        length_penalty=length_penalty,
        max_new_tokens=config.data.max_length,
        batch_size=max(64, config.training.batch_size),
    )


def _measure(
    config: Any, model: BaseLanguageModel, data: PairData, split: str, beams: int = BEAMS, length_penalty: float = 1.0
) -> tuple[dict[str, Any], list[str]]:
    """Figures of a split, greedily and with beams, and the greedy translations."""
    pairs = data.pairs[split]
    wanted = [target for _, target in pairs]
    scores: dict[str, Any] = {**_loss_figures(_score(config, model, data, split)), "pairs": len(pairs)}
    greedy: list[str] = []
    for name, width in (("greedy", 1), (f"{beams} beams", beams)):
        found = _translations(config, model, data.tokenizer, pairs, width, length_penalty)
        greedy = greedy or found
        scores[name] = {"exact_match": exact_match(found, wanted)}
        if find_spec("sacrebleu"):  # the extra [translation]
            scores[name]["bleu"] = bleu(found, wanted)
    return scores, greedy


def _mistakes(pairs: Sequence[Pair], found: Sequence[str]) -> list[str]:
    """What was translated otherwise than wanted."""
    return [
        f"{source}\n    wanted {target}\n    found  {text}\n"
        for (source, target), text in zip(pairs, found, strict=True)
        if text.strip() != target.strip()
    ]


def _report(console: Console, title: str, scores: Mapping[str, Any], mistakes: Sequence[str]) -> None:
    """Print a table of the figures, and some mistakes."""
    from rich.table import Table

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    say(title)
    table = Table()
    table.add_column("", no_wrap=True)
    for column in ("exact match", "BLEU"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures in scores.items():
        if isinstance(figures, Mapping):
            bleu_score = f"{figures['bleu']:.2f}" if "bleu" in figures else "(needs sacrebleu)"
            table.add_row(name, f"{figures['exact_match']:.2%}", bleu_score)
    console.print(table)
    say(f"Loss {scores['loss']:.4f}, perplexity {scores['perplexity']:.3f}, {scores['accuracy']:.2%} of tokens right.")
    shown = f", of which {_SHOWN}" if len(mistakes) > _SHOWN else ""
    say(f"\nMistakes of the greedy translations: {len(mistakes):,}{shown}{':' if mistakes else '.'}")
    if mistakes:
        say("".join(mistakes[:_SHOWN]).rstrip())


def draw_attention(model: BaseLanguageModel, tokenizer: Tokenizer, text: str, path: str | Path) -> Path:
    """Draw what each block of the decoder looks at in `text` while it writes the (greedy) translation.

    Parameters
    ----------
    model, tokenizer : that belong together
    text : what is translated
    path : of the picture; its suffix decides the format

    Returns
    -------
    Path
    """
    source = np.array([tokenizer.encode(text)])
    written = to_host(model.generate(source, max_new_tokens=model.max_seq_len))  # (1, T), bos and end included
    with keep_attention_weights(model) as layers, model.evaluating():
        model.forward(source, decoder_input_ids=written[:, :-1])
        blocks = [layer for name, layer in layers.items() if name.endswith("multihead_attn")]
        weights = [to_host(layer.last_weights)[0].mean(axis=0) for layer in blocks]  # (T - 1, S), the mean of the heads
    return plot_attention(
        weights,
        [tokenizer.decode([token]) for token in source[0].tolist()],
        [tokenizer.decode([token], skip_special_tokens=False) for token in written[0, 1:].tolist()],
        path,
        titles=[f"Block {number}" for number in range(1, len(weights) + 1)],
    )

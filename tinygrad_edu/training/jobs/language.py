"""Training a language model on a corpus, and using it."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...backend import use
from ...data import Tokenizer, TokenLoader
from ...metrics import LanguageScore, ngram_bits_per_byte
from ...models import BaseLanguageModel
from ...storage import Checkpoint, encode_json
from ..assembly import TextData, build_model, prepare_data, restore_model
from ..evaluation import evaluate_language_model
from ..progress import format_seconds
from ..report import generate_text, prompt_ids, score_figures, score_table, verdict
from ..trainer import Trainer
from .job import Job

if TYPE_CHECKING:
    from rich.console import Console

NGRAM_ORDERS = (3, 4, 5, 6)


class LanguageJob(Job):
    """A causal language model on a corpus of text.

    Attributes
    ----------
    data : corpus, tokenizer and tokens
    """

    data: TextData
    measured_on = "all validation text"

    def _assemble(self) -> None:
        config, settings = self.config, self.config.training
        self.data = prepare_data(config)
        self.model = build_model(config, self.data.tokenizer.vocab_size)
        self.trainer = Trainer(
            self.model,
            self._loader(),
            settings,
            evaluate=self._follow,
            callbacks=self.callbacks(),
            checkpoints=self.checkpoints,
            documents={"config": config.model_dump(mode="json"), "data": self.data.document()},
        )

    def _loader(self) -> Any:
        """Batches of training text."""
        settings, tokens, length = self.config.training, self.data.tokens["train"], self.config.data.max_length
        if getattr(settings, "carry_state", False):
            from ...data import StreamLoader

            return StreamLoader(tokens, settings.batch_size, length)
        return TokenLoader(tokens, settings.batch_size, length, seed=settings.seed)

    # -- measuring ------------------------------------------------------------------------------------

    def _follow(self, stop: Any) -> LanguageScore:
        """The score by which training is followed."""
        return self.score("validation", self.config.training.eval_batches, stop)

    def score(self, split: str, max_batches: int | None, stop: Any = None) -> LanguageScore:
        """How well the model does on a split: all of it, or some batches spread over it."""
        return self._score(self.config, self.model, self.data, split, max_batches, stop)

    @classmethod
    def _score(
        cls,
        config: Any,
        model: BaseLanguageModel,
        data: TextData,
        split: str,
        max_batches: int | None = None,
        stop: Any = None,
        stride: int | None = None,
    ) -> LanguageScore:
        return evaluate_language_model(
            model,
            data.tokens[split],
            seq_len=config.data.max_length,
            stride=stride,
            batch_size=config.training.batch_size,
            max_batches=max_batches,
            token_bytes=data.token_bytes(split),
            stop=stop,
            **cls._masking(data.tokenizer),
        )

    @classmethod
    def _at_most(cls, config: Any) -> int | None:
        """Batches in a final measurement; None for all there are."""
        return None

    @classmethod
    def _masking(cls, tokenizer: Tokenizer) -> dict[str, Any]:
        """What the evaluation of a masked model needs besides."""
        return {}

    # -- before and after -----------------------------------------------------------------------------

    @property
    def title(self) -> str:
        length, batch = self.config.data.max_length, self.config.training.batch_size
        return f"{self.model.get_parameter_count():,} parameters: {self._shape()}, T {length}, batch {batch}"

    def _shape(self) -> str:
        model = self.config.model
        shape = getattr(model, "transformer", model) or model
        if hasattr(shape, "n_blocks"):
            return f"{shape.n_blocks} blocks, width {shape.d_model}, {shape.n_heads} heads"
        if getattr(model, "bert", None):
            b = model.bert
            return f"bert, {b.num_hidden_layers} blocks, width {b.hidden_size}, {b.num_attention_heads} heads"
        r = model.rnn
        if r is None:  # a further architecture, whose section is its own
            return str(model.architecture)
        return f"{model.architecture}, {r.num_layers} layers, width {r.hidden_size}{', both ways' * r.bidirectional}"

    def describe(self) -> Mapping[str, str]:
        corpus, tokens, trainer = self.data.corpus, self.data.tokens["train"], self.trainer
        content, epochs = corpus.content_hash[:12], trainer.total_steps / len(trainer.loader)
        return {
            "corpus": f"{corpus.name}, {tokens.text_bytes:,} bytes to train on, sha256 {content}",
            "tokenizer": f"{self.data.tokenizer.vocab_size:,} tokens; the training text is {len(tokens):,}",
            "model": self.title,
            "training": f"{trainer.total_steps:,} steps, {epochs:.2f} epochs, {self.model.config.get_device()}",
        }

    def sample(self, name: str) -> None:
        settings = self.config.training
        text = generate_text(
            self.model,
            self.data.tokenizer,
            settings.sample_prompt,
            max_new_tokens=settings.sample_tokens,
            seed=settings.seed,
        )
        self.write(name, text + "\n")

    def _final_scores(self) -> dict[str, LanguageScore]:
        scored_at_once = self.config.training.batch_size * (self.config.data.max_length // 2)
        as_much = math.ceil(len(self.data.tokens["validation"]) / scored_at_once)  # of the training text
        return {"train": self.score("train", as_much), "validation": self.score("validation", None)}

    @classmethod
    def _verdict(cls, score: LanguageScore, ngrams: Mapping[int, float]) -> str:
        return verdict(score, ngrams)

    def finish(self) -> None:
        splits, state = self.data.corpus.splits, self.trainer.state
        self.say(f"Measuring on {self.measured_on} ...")
        scores = self._final_scores()
        ngrams = ngram_bits_per_byte(splits["train"], splits["validation"], orders=NGRAM_ORDERS)
        results = {
            **{split: score_figures(score) for split, score in scores.items()},
            "ngram_bits_per_byte": {str(order): bits for order, bits in ngrams.items()},
            "architecture": self.model.model_type,
            "objective": self.model.objective,
            "steps": state.step,
            "skipped_steps": state.skipped,
            "training_seconds": state.seconds,
            "tokens_per_second": state.tokens / max(state.seconds, 1e-9),
            "parameters": self.model.get_parameter_count(),
            "corpus": {"name": self.data.corpus.name, "content_hash": self.data.corpus.content_hash},
            "tinygrad_edu": __version__,
        }
        self.write("results.json", encode_json(results, "results").decode())
        self.sample("sample_after.txt")
        self.draw()
        for name in ("before", "after"):
            text = (self.folder / f"sample_{name}.txt").read_text(encoding="utf-8").strip()
            self.say(f"\nA sample {name} training:\n{text}")
        self.console.print()
        self.console.print(score_table(scores, ngrams, f"On {self.measured_on}, and on as much training text"))
        self.say(self._verdict(scores["validation"], ngrams))
        seconds = format_seconds(state.seconds)
        self.console.print(
            f"{state.step:,} steps took {seconds}. Everything is in {self.folder}", markup=False, soft_wrap=True
        )

    # -- using what was trained -----------------------------------------------------------------------

    @classmethod
    def evaluate(cls, checkpoint: Checkpoint, args: Any, console: Console) -> int:
        config, model, tokenizer = restore_model(checkpoint, args.device)
        with use(model.config.get_device()):
            data = prepare_data(config, tokenizer)
            if data.corpus.content_hash != checkpoint.documents["data"].get("content_hash"):
                warnings.warn(
                    f"{data.corpus.name} is not the text the model was trained on (another content hash): it may "
                    "have seen this test text, and the figures cannot be compared with those of the run",
                    stacklevel=1,
                )
            score = cls._score(config, model, data, args.split, cls._at_most(config), stride=args.stride)
        ngrams: dict[int, float] = {}
        if args.ngrams:
            splits = data.corpus.splits
            ngrams = ngram_bits_per_byte(splits["train"], splits[args.split], orders=NGRAM_ORDERS)
        if args.json:
            about = {"checkpoint": str(checkpoint.path), "step": checkpoint.step, "split": args.split}
            beside = {"ngram_bits_per_byte": ngrams} if ngrams else {}
            print(json.dumps({**about, **score_figures(score), **beside}))
            return 0
        title = f"{Path(checkpoint.path).name}, {score.n_tokens:,} tokens of {data.corpus.name}"
        console.print(score_table({args.split: score}, ngrams, title))
        if ngrams:
            console.print(cls._verdict(score, ngrams), markup=False, highlight=False, soft_wrap=True)
        return 0

    @classmethod
    def generate(cls, checkpoint: Checkpoint, args: Any, console: Console) -> int:
        """Write on from the prompt, each word as soon as it is chosen."""
        config, model, tokenizer = restore_model(checkpoint, args.device)
        prompt = config.training.sample_prompt if args.prompt is None else args.prompt
        ids, length = prompt_ids(model, tokenizer, prompt, args.max_new_tokens)
        with use(model.config.get_device()):
            tokens = model.stream(
                [ids],
                length,
                args.temperature,
                args.top_k or None,
                args.top_p,
                tokenizer.eos_token_id,
                seed=args.seed,
            )
            for piece in streamed_text(tokenizer, ids, tokens):
                console.file.write(piece)
                console.file.flush()
        console.file.write("\n")
        return 0


def streamed_text(tokenizer: Tokenizer, ids: list[int], tokens: Iterable[Any]) -> Iterator[str]:
    """The text of a prompt, and then of each token after it; a character of several tokens comes whole."""
    seen = list(ids)
    shown = tokenizer.decode(seen)
    yield shown
    for token in tokens:
        seen.append(int(token[0]))
        text = tokenizer.decode(seen)
        if not text.endswith("\ufffd"):  # else the rest of a character's bytes is still to come
            yield text[len(shown) :]
            shown = text
    yield tokenizer.decode(seen)[len(shown) :]

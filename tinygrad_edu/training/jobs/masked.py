"""Training a masked language model on a corpus, and using it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backend import to_host, use
from ...data import Tokenizer, TokenLoader, get_data_collator
from ...errors import ConfigError
from ...metrics import LanguageScore
from ...models import BaseLanguageModel
from ...storage import Checkpoint
from ..assembly import restore_model
from ..evaluation import evaluate_batches
from ..masking import masked_batches
from .language import LanguageJob

if TYPE_CHECKING:
    from rich.console import Console

_SCORED = 4096  # tokens that are masked in turn for the figures of a run; each takes a forward pass
_SHOWN = 12  # tokens hidden in a sample
_LISTED = 5  # guesses for each of them


class MaskedLanguageJob(LanguageJob):
    """A model that fills in masked tokens: BERT, or a recurrent model that reads both ways."""

    _questions: list[Any] | None = None
    measured_on = f"{_SCORED:,} tokens of the validation text, each masked alone"

    def _loader(self) -> Any:
        settings, tokens, length = self.config.training, self.data.tokens["train"], self.config.data.max_length
        collate = get_data_collator(self.config, self.data.tokenizer)
        return TokenLoader(tokens, settings.batch_size, length, seed=settings.seed, collate=collate)

    def _follow(self, stop: Any) -> LanguageScore:
        """A share of the tokens masked at once, as in training, and the same ones at every evaluation."""
        if self._questions is None:
            settings = self.config.training
            self._questions = masked_batches(
                self.data.tokens["validation"],
                get_data_collator(self.config, self.data.tokenizer),
                seq_len=self.config.data.max_length,
                batch_size=settings.batch_size,
                max_batches=settings.eval_batches,
            )
        token_bytes = self.data.token_bytes("validation")
        return evaluate_batches(self.model, self._questions, token_bytes=token_bytes, stop=stop)

    @classmethod
    def _masking(cls, tokenizer: Tokenizer) -> dict[str, Any]:
        return {"mask_token_id": tokenizer.mask_token_id, "not_scored": tokenizer.special_token_ids}

    @classmethod
    def _at_most(cls, config: Any) -> int | None:
        return -(-_SCORED // int(config.training.batch_size))

    def _final_scores(self) -> dict[str, LanguageScore]:
        most = self._at_most(self.config)
        return {"train": self.score("train", most), "validation": self.score("validation", most)}

    @classmethod
    def _verdict(cls, score: LanguageScore, ngrams: Mapping[int, float]) -> str:
        return (
            f"Pseudo-perplexity {score.perplexity:.2f}, {score.bits_per_byte:.3f} bits per byte. It saw both sides of "
            "each token, which is an easier question than the n-grams', so the two cannot be compared."
        )

    # -- filling in -----------------------------------------------------------------------------------

    def sample(self, name: str) -> None:
        """Some tokens of the validation text hidden, and what the model puts in their place."""
        tokens, tokenizer = self.data.tokens["validation"], self.data.tokenizer
        ids = np.asarray(tokens.ids[: self.config.data.max_length]).astype(np.int64)
        rng = np.random.default_rng(self.config.training.seed)
        places = np.flatnonzero(~np.isin(ids, tokenizer.special_token_ids))
        hidden = np.sort(rng.choice(places, min(_SHOWN, len(places)), replace=False))
        masked, mask = ids.copy(), tokenizer.require("mask", "masked_lm")
        masked[hidden] = mask
        lines = [tokenizer.decode(masked, skip_special_tokens=False), "", "hidden              likeliest in its place"]
        for place, guesses in zip(hidden, _guesses(self.model, masked, mask), strict=True):
            lines.append(f"{tokenizer.decode([int(ids[place])])!r:20}{_listed(tokenizer, guesses)}")
        self.write(name, "\n".join(lines) + "\n")

    @classmethod
    def generate(cls, checkpoint: Checkpoint, args: Any, console: Console) -> int:
        """Fill in the masks of the prompt."""
        _, model, tokenizer = restore_model(checkpoint, args.device)
        mask_id = tokenizer.require("mask", "masked_lm")
        mask = tokenizer.decode([mask_id], skip_special_tokens=False)
        if args.prompt is None or mask not in args.prompt:
            raise ConfigError(
                f"{model.model_type} learned masked_lm: it fills in {mask}, and writes nothing on. "
                f"Give --prompt with a {mask} in it, such as --prompt 'the {mask} of a function'"
            )
        ids: list[int] = []
        for number, piece in enumerate(args.prompt.split(mask)):
            ids += [mask_id] * (number > 0) + tokenizer.encode(piece)
        with use(model.config.get_device()):
            for guesses in _guesses(model, np.array(ids), mask_id):
                console.print(_listed(tokenizer, guesses), markup=False, highlight=False, soft_wrap=True)
        return 0


def _guesses(model: BaseLanguageModel, ids: Any, mask_token_id: int) -> list[list[tuple[int, float]]]:
    """For each masked token of (T,) ids the likeliest tokens in its place, with their probabilities."""
    with model.evaluating():
        logits = to_host(model(ids[None]).logits)[0].astype(np.float64)  # (T, V)
    found = []
    for row in logits[ids == mask_token_id]:
        probs = np.exp(row - row.max())
        probs /= probs.sum()
        found.append([(int(token), float(probs[token])) for token in np.argsort(-probs)[:_LISTED]])
    return found


def _listed(tokenizer: Tokenizer, guesses: list[tuple[int, float]]) -> str:
    return "  ".join(f"{tokenizer.decode([token])!r} {probability:.0%}" for token, probability in guesses)

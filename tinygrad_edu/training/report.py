"""What a run says of itself at the end: samples of text, figures, the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..data import Tokenizer
from ..errors import ShapeError
from ..metrics import LanguageScore
from ..models import BaseLanguageModel

if TYPE_CHECKING:
    from rich.table import Table


def generate_text(
    model: BaseLanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = 40,
    top_p: float | None = None,
    seed: int | None = None,
) -> str:
    """Continue `prompt`; returns prompt and continuation.

    The model reads an end-of-text token before the prompt, as before every document it learned from, and
    stops at the next one it draws. What does not fit into its max_seq_len is not generated.

    Parameters
    ----------
    model, tokenizer : that belong together
    prompt : may be empty
    max_new_tokens : at most so many
    temperature, top_k, top_p, seed : as :meth:`tinygrad_edu.models.BaseLanguageModel.generate` takes them

    Raises
    ------
    ShapeError
        If the prompt alone fills the model.
    """
    ids, length = prompt_ids(model, tokenizer, prompt, max_new_tokens)
    out = model.generate([ids], length, temperature, top_k, top_p, tokenizer.eos_token_id, seed=seed)
    return tokenizer.decode([int(token) for token in out[0]])


def prompt_ids(
    model: BaseLanguageModel, tokenizer: Tokenizer, prompt: str, max_new_tokens: int
) -> tuple[list[int], int]:
    """The ids that a model reads for a prompt, and the length it may write to; see :func:`generate_text`."""
    start = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = start + tokenizer.encode(prompt)
    if len(ids) >= model.max_seq_len:
        raise ShapeError(f"prompt: {len(ids)} tokens, wanted fewer than the model's max_seq_len {model.max_seq_len}")
    if not ids:
        raise ShapeError("prompt: it is empty, and the tokenizer has no end-of-text token to begin with; give one")
    return ids, min(model.max_seq_len, len(ids) + max_new_tokens)


def score_figures(score: LanguageScore) -> dict[str, Any]:
    """The figures of a split as plain data, for JSON."""
    return {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "accuracy": score.accuracy,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.n_tokens,
        "bytes": score.n_bytes,
    }


def score_table(scores: Mapping[str, LanguageScore], ngrams: Mapping[int, float], title: str = "") -> Table:
    """Figures of the model on each split, and of character n-grams beside them.

    Parameters
    ----------
    scores : name of a split to the model's score there
    ngrams : order to bits per byte, on the split named last
    title : above the table
    """
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("loss", "perplexity", "accuracy", "bits/byte"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, score in scores.items():
        loss, perplexity = f"{score.loss:.4f}", f"{score.perplexity:.2f}"
        table.add_row(name, loss, perplexity, f"{score.accuracy:.1%}", f"{score.bits_per_byte:.3f}")
    table.add_section()
    for order, bits in ngrams.items():
        best = " (best)" if bits == min(ngrams.values()) else ""
        table.add_row(f"{order}-gram of characters{best}", "", "", "", f"{bits:.3f}")
    return table


def verdict(score: LanguageScore, ngrams: Mapping[int, float]) -> str:
    """One sentence: does the model beat the best n-gram?"""
    order = min(ngrams, key=lambda n: ngrams[n])
    beats = "beats" if score.bits_per_byte < ngrams[order] else "does not beat"
    return (
        f"The model {beats} the best character n-gram, of order {order}: "
        f"{score.bits_per_byte:.3f} bits per byte against {ngrams[order]:.3f}."
    )

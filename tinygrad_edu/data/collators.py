"""Collators: a list of examples of any length to one batch of arrays, with labels for the objective.

An example is a list or array of ids, or a mapping with ``input_ids`` and, if wanted, ``attention_mask``,
``token_type_ids`` and ``labels`` of the same length. A batch is a dict of int64 NumPy arrays ``(batch, time)``,
as long as its longest example: ``input_ids``, ``attention_mask`` (1 at tokens, 0 at padding) and ``labels``
(-100 where nothing is to be predicted). Labels are not shifted: the model does that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, DtypeError
from .checks import IGNORE, check_integer, check_share, read_state
from .padding import Batch, Padding, padded, row_of
from .tokenizers import Tokenizer


class CausalLMDataCollator(Padding):
    """Batches for predicting the next token: labels are the ids themselves, -100 at padding.

    Parameters
    ----------
    tokenizer : Tokenizer or int
        Gives the id of padding, and the limit that ids are held to; or that id itself.
    pad_token_id : int, optional
        Instead of the tokenizer's. It may be one that also occurs in text, such as the end of text: what is
        padding follows from the lengths. Without any, examples of several lengths are an error.
    pad_to_multiple_of : int, optional
        Make the length of a batch a multiple of this.
    max_length : int, optional
        Cut examples to this many tokens.

    Raises
    ------
    ConfigError
        For arguments that are not allowed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | int | None = None,
        *,
        pad_token_id: int | None = None,
        pad_to_multiple_of: int | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__(tokenizer, pad_token_id, pad_to_multiple_of, max_length)

    def __call__(self, examples: Any) -> Batch:
        """Return the batch of some examples.

        Raises
        ------
        DataError
            When there are none, or one has no tokens, or none has the two that a prediction needs.
        ShapeError, DtypeError, RangeError, ConfigError
            When an example holds something else than ids of the vocabulary, or cannot be padded.
        """
        batch = self.batch(examples)
        if int(batch["attention_mask"].sum(axis=1).max()) < 2:
            raise DataError("examples: none has 2 tokens or more: one to predict from, one to predict")
        if "labels" not in batch:
            batch["labels"] = np.where(batch["attention_mask"] == 1, batch["input_ids"], IGNORE)
        return batch


class MaskedLMDataCollator(Padding):
    """Batches for filling in what is masked (Devlin et al., 2019).

    Each token that is neither special nor padding is chosen with probability `mlm_probability`. Of those
    chosen, 80% become the mask token, 10% a random ordinary token (which may be the same one), and 10% stay.
    Labels are the true ids at the chosen positions, -100 elsewhere. If chance chooses none in a whole batch,
    one token is chosen at random, so that the batch can be learnt from.

    What is drawn follows from the seed and from how many batches were made before, so a run that goes on
    from `state_dict` draws the same.

    Parameters
    ----------
    tokenizer : Tokenizer
        With a mask token.
    mlm_probability : float
        Above 0, at most 1.
    mask_replace_prob, random_replace_prob : float
        Shares of the chosen tokens that become the mask token, and a random one; what is left stays.
    pad_token_id, pad_to_multiple_of, max_length
        As for `CausalLMDataCollator`.
    seed : int

    Attributes
    ----------
    calls : int
        Batches made so far.

    Raises
    ------
    ConfigError
        For arguments that are not allowed, or when the tokenizer has no mask token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        mlm_probability: float = 0.15,
        *,
        mask_replace_prob: float = 0.8,
        random_replace_prob: float = 0.1,
        pad_token_id: int | None = None,
        pad_to_multiple_of: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(tokenizer, pad_token_id, pad_to_multiple_of, max_length)
        if self.tokenizer is None:
            raise ConfigError(f"tokenizer: {tokenizer!r}, wanted a tinygrad_edu.data.Tokenizer with a mask token")
        self.mask_token_id = self.tokenizer.require("mask", "masked language modelling")
        self.mlm_probability = check_share("mlm_probability", mlm_probability, above_zero=True)
        self.mask_replace_prob = check_share("mask_replace_prob", mask_replace_prob)
        self.random_replace_prob = check_share("random_replace_prob", random_replace_prob)
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-12:
            raise ConfigError(
                f"mask_replace_prob {mask_replace_prob} and random_replace_prob {random_replace_prob} add up to "
                "more than 1"
            )
        check_integer("seed", seed, 0)
        self.seed, self.calls = int(seed), 0
        self._special = np.array(self.tokenizer.special_token_ids, np.int64)
        self._ordinary = self.tokenizer.ordinary_token_ids()

    def __call__(self, examples: Any) -> Batch:
        """Return the batch of some examples, masked.

        Raises
        ------
        DataError
            When there are none, one has no tokens, or all tokens are special; or when examples bring labels,
            which are made here.
        ShapeError, DtypeError, RangeError, ConfigError
            As `CausalLMDataCollator`.
        """
        batch = self.batch(examples)
        if "labels" in batch:
            raise DataError("examples: have labels, which masking makes itself; leave them out")
        true = batch["input_ids"]
        eligible = (batch["attention_mask"] == 1) & ~np.isin(true, self._special)
        if not eligible.any():
            raise DataError("examples: no token can be masked, as all are special or padding")
        draw = np.random.default_rng([self.seed, self.calls])
        self.calls += 1
        chosen = eligible & (draw.random(true.shape) < self.mlm_probability)
        if not chosen.any():
            chosen.flat[draw.choice(np.flatnonzero(eligible))] = True
        fate = draw.random(true.shape)
        masked = fate < self.mask_replace_prob
        random = ~masked & (fate < self.mask_replace_prob + self.random_replace_prob)
        others = self._ordinary[draw.integers(len(self._ordinary), size=true.shape)]
        batch["input_ids"] = np.where(chosen & masked, self.mask_token_id, np.where(chosen & random, others, true))
        batch["labels"] = np.where(chosen, true, IGNORE)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return what decides the next draw, in types that JSON can hold."""
        return {
            "calls": self.calls,
            "seed": self.seed,
            "mlm_probability": self.mlm_probability,
            "mask_replace_prob": self.mask_replace_prob,
            "random_replace_prob": self.random_replace_prob,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the collator stood that gave `state`.

        Raises
        ------
        DataError
            When the state is of other settings (all differences are named), or damaged.
        """
        self.calls = read_state("collator", state, self.state_dict(), {"calls": None})["calls"]


class Seq2SeqDataCollator(Padding):
    """Batches for translation: ``input_ids`` and ``attention_mask`` of the source, ``labels`` of the target.

    An example is a pair (source, target) or a mapping with ``input_ids`` and ``labels``; each is a list or
    array of ids, or, if there is a tokenizer, a text. Labels are the target and the end token behind it (not
    twice), with -100 at padding. Source and target are padded each to its own length.

    Parameters
    ----------
    tokenizer : Tokenizer or int
        As for `CausalLMDataCollator`.
    pad_token_id, eos_token_id : int, optional
        Instead of the tokenizer's; an end token there must be.
    bos_token_id : int, optional
        If given, batches also have ``decoder_input_ids``: this id, then the labels but the last, with padding
        for -100. (The models of this library make them from the labels themselves.)
    pad_to_multiple_of : int, optional

    Raises
    ------
    ConfigError
        For arguments that are not allowed, or when there is no end token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | int | None = None,
        *,
        pad_token_id: int | None = None,
        eos_token_id: int | None = None,
        bos_token_id: int | None = None,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        super().__init__(tokenizer, pad_token_id, pad_to_multiple_of, None)
        for name, value in (("eos_token_id", eos_token_id), ("bos_token_id", bos_token_id)):
            if value is not None:
                check_integer(name, value, 0)
        if eos_token_id is None:
            if self.tokenizer is None:
                raise ConfigError("eos_token_id: None, wanted the id that ends a target, or a tokenizer that has one")
            eos_token_id = self.tokenizer.require("eos", "a target that ends")
        self.eos_token_id, self.bos_token_id = int(eos_token_id), bos_token_id

    def __call__(self, examples: Any) -> Batch:
        """Return the batch of some examples. Raises as `CausalLMDataCollator`, naming the example."""
        if isinstance(examples, Mapping | str) or not hasattr(examples, "__len__"):
            raise ConfigError(f"examples: {type(examples).__name__}, wanted a list of examples")
        sources, targets = [], []
        for number, example in enumerate(examples):
            if isinstance(example, Mapping):
                if example.keys() != {"input_ids", "labels"}:
                    raise DataError(f"example {number}: fields {sorted(example)}, wanted input_ids and labels")
                source, target = example["input_ids"], example["labels"]
            elif isinstance(example, tuple | list) and len(example) == 2:
                source, target = example
            else:
                raise DataError(f"example {number}: {type(example).__name__}, wanted a pair (source, target)")
            sources.append(self._ids(source, f"example {number}: source"))
            row = row_of(self._ids(target, f"example {number}: target"), f"example {number}: target", self.vocab_size)
            ends = len(row) and row[-1] == self.eos_token_id
            targets.append(row if ends else np.append(row, self.eos_token_id))
        batch = self.batch(sources)
        batch["labels"] = padded(targets, IGNORE, self.pad_to_multiple_of)
        if self.bos_token_id is not None:
            before = batch["labels"][:, :-1]
            first = np.full((len(before), 1), self.bos_token_id, np.int64)
            unknown = before == IGNORE
            known = np.where(unknown, self.pad_id(), before) if unknown.any() else before
            batch["decoder_input_ids"] = np.concatenate([first, known], axis=1)
        return batch

    def _ids(self, side: Any, where: str) -> Any:
        """Return the ids of a source or target; a text is encoded."""
        if not isinstance(side, str):
            return side
        if self.tokenizer is None:
            raise DtypeError(f"{where}: is a text, wanted ids, as there is no tokenizer")
        return self.tokenizer.encode(side)


Collator = CausalLMDataCollator | MaskedLMDataCollator | Seq2SeqDataCollator


def _setting(config: Any, name: str, default: Any) -> Any:
    """Return ``config.training.name``, or ``config.name``, of a mapping or an object, or the default."""

    def get(holder: Any, key: str) -> Any:
        return holder.get(key) if isinstance(holder, Mapping) else getattr(holder, key, None)

    for holder in (get(config, "training"), config):
        value = None if holder is None else get(holder, name)
        if value is not None:
            return value
    return default


def get_data_collator(config: Any, tokenizer: Tokenizer) -> Collator:
    """Return the collator of a configuration's objective.

    Parameters
    ----------
    config : mapping or object
        ``training.objective`` or ``objective``: ``causal_lm`` (the default), ``masked_lm`` or
        ``translation``; and in the same place ``mlm_probability`` (0.15) and ``seed`` (0).
    tokenizer : Tokenizer

    Raises
    ------
    ConfigError
        For another objective, or when the tokenizer lacks a special token that it needs.
    """
    objective = _setting(config, "objective", "causal_lm")
    if objective == "causal_lm":
        return CausalLMDataCollator(tokenizer)
    if objective == "masked_lm":
        probability, seed = _setting(config, "mlm_probability", 0.15), _setting(config, "seed", 0)
        return MaskedLMDataCollator(tokenizer, probability, seed=seed)
    if objective == "translation":
        return Seq2SeqDataCollator(tokenizer)
    raise ConfigError(f"objective: {objective!r}, wanted causal_lm, masked_lm or translation")

"""Writing on from a prompt, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..backend import Array, Generator, asarray, device_of, namespace, to_device, to_host
from ..errors import ConfigError, ShapeError, format_shape
from ..layers.embedding import check_ids
from ..layers.linear import linear
from .beam import BeamSettings, EarlyStopping, Hypothesis, beam_search
from .continuation import Continuation
from .core import ModelCore
from .sampling import check_sampling, choose_next


class GeneratingModel(ModelCore):
    """The part of :class:`BaseLanguageModel` that writes."""

    # -- what an architecture brings ------------------------------------------------------------------

    def new_caches(self, length: int) -> list[Any]:
        """What :meth:`features` may keep of the positions it has seen, empty, with room for `length` of them."""
        raise AssertionError(f"{type(self).__name__} must define new_caches")

    def next_logits(self, input_ids: Array, caches: list[Any] | None) -> Array:
        """Logits after the last of `input_ids`, (B, V); with caches, only ids that they have not seen."""
        x = self.features(input_ids) if caches is None else self.features(input_ids, caches=caches)
        bias = self.head_bias
        return linear(x[:, -1], self.head_weight.data, None if bias is None else bias.data)

    def continuation(
        self, input_ids: Array, length: int, use_cache: bool, attention_mask: Any = None
    ) -> tuple[Array, Continuation]:
        """What is written on from, (B, T), and what says what comes next.

        Parameters
        ----------
        input_ids : (B, T), checked
        length : to reach
        use_cache, attention_mask : as in :meth:`generate`
        """
        if attention_mask is not None:
            raise ConfigError(
                f"generate: {self.model_type} takes no attention_mask: what it goes on from has no padding; give "
                "prompts of one length"
            )
        return input_ids, Continuation(self, length, use_cache)

    # -- what all can do ------------------------------------------------------------------------------

    def generate(
        self,
        input_ids: Any,
        max_length: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | None = None,
        *,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        seed: int | None = None,
        use_cache: bool = True,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
        attention_mask: Any = None,
    ) -> Array:
        """Continue each sequence, token by token; or of a translating model, write the other one.

        Parameters
        ----------
        input_ids : (B, T) or (T,), the prompts, or what is to be translated
        max_length : length to reach, counting the prompt (of a translation its beginning, one token); or give
        max_new_tokens : tokens to add
        temperature : logits are divided by it; 0 takes the likeliest token (greedy)
        top_k : draw from the k likeliest only
        top_p : draw from the fewest tokens that together have this probability (Holtzman et al., 2020)
        eos_token_id : a sequence that reached it is done, and filled up with it; the config's if None, where
            it has one
        do_sample : False takes the likeliest token. None draws, but not where beams are searched, nor in a
            translation for which neither temperature nor top_k nor top_p is given
        seed : of the draws; None draws one
        use_cache : keep keys and values (or the state) of earlier positions instead of computing them again
        num_beams : above 1, search for the likeliest sequence as a whole with so many beams; nothing is drawn
        length_penalty, early_stopping : of that search; see :func:`tinygrad_edu.models.beam.beam_search`
        attention_mask : (B, T), 0 at padding, for what is to be translated

        Returns
        -------
        ids on the model's device, int64, prompt included: (B, L) or (L,), L <= the length asked for

        Raises
        ------
        ConfigError, ShapeError, DtypeError, RangeError
            Before anything is computed.
        NonFiniteError
            If the logits of a token are NaN or infinite, as weights from broken training give.
        """
        beams = BeamSettings(num_beams, length_penalty, early_stopping)
        draw = _Draw(temperature, top_k, top_p, do_sample, seed)
        eos = self._check_generation(draw, eos_token_id, num_beams > 1)
        ids, single = self._read_ids(input_ids)
        prompt, length, continuation = self._begin(ids, max_length, max_new_tokens, use_cache, attention_mask)
        with self.evaluating():
            if num_beams > 1:
                tokens = _columns(beam_search(continuation, prompt, length, beams, eos), eos)
            else:
                tokens = list(self._draw(prompt, length, draw, eos, continuation, nullcontext))
        xp, device = namespace(prompt), device_of(prompt)
        out = xp.concatenate([prompt.astype(xp.int64), *(to_device(new[:, None], device) for new in tokens)], axis=1)
        return out[0] if single else out

    def stream(
        self,
        input_ids: Any,
        max_length: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | None = None,
        *,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        seed: int | None = None,
        use_cache: bool = True,
        attention_mask: Any = None,
    ) -> Iterator[Array]:
        """As :meth:`generate`, but giving each token as it is chosen: (B,) int64 on the host, prompt not included.

        Raises
        ------
        ConfigError, ShapeError, DtypeError, RangeError
            At once, not when the first token is asked for.
        """
        draw = _Draw(temperature, top_k, top_p, do_sample, seed)
        eos = self._check_generation(draw, eos_token_id, False)
        ids, _ = self._read_ids(input_ids)
        prompt, length, continuation = self._begin(ids, max_length, max_new_tokens, use_cache, attention_mask)
        # Each step by itself is an evaluation: between two of them the caller may do with the model as it likes.
        return self._draw(prompt, length, draw, eos, continuation, self.evaluating)

    def _check_generation(self, draw: _Draw, eos_token_id: int | None, searched: bool) -> int | None:
        """Raise unless the model writes, and as `draw` says; the id of the end."""
        if not self.supports_generation:
            raise ConfigError(
                f"generate: {self.model_type} cannot generate: it learned {self.objective}, with both sides of a "
                "token in sight, and predicts no next token"
            )
        eos_token_id = self.default_eos_token_id if eos_token_id is None else eos_token_id
        check_sampling(draw.temperature, draw.top_k, draw.top_p, eos_token_id, self.vocab_size)
        if draw.do_sample is not None and not isinstance(draw.do_sample, bool):
            raise ConfigError(f"generate: do_sample must be True, False or None, got {draw.do_sample!r}")
        if searched and (draw.do_sample or draw.is_set):
            raise ConfigError(
                "generate: num_beams > 1 searches for the likeliest sequence and draws nothing; leave out do_sample, "
                "temperature, top_k and top_p, or set num_beams=1"
            )
        if draw.do_sample is None:
            draw.do_sample = draw.is_set or self.objective != "translation"
        return eos_token_id

    @property
    def default_eos_token_id(self) -> int | None:
        """The end of a sequence, for :meth:`generate`; None where it is not part of the config."""
        return None

    @property
    def max_generated_length(self) -> int:
        """Longest sequence that :meth:`generate` can give."""
        return self.max_seq_len

    def _read_ids(self, input_ids: Any) -> tuple[Array, bool]:
        """(B, T) ids, and whether there was only one sequence, (T,)."""
        ids = asarray_1d_or_2d(input_ids)
        if ids.size == 0:
            raise ShapeError(f"generate: the prompt is empty, got {format_shape(tuple(ids.shape))}")
        single = ids.ndim == 1
        ids = self._ids("input_ids", ids[None] if single else ids)
        check_ids("input_ids", ids, self.vocab_size)
        return ids, single

    def _begin(
        self, ids: Array, max_length: int | None, max_new_tokens: int | None, use_cache: bool, attention_mask: Any
    ) -> tuple[Array, int, Continuation]:
        """The prompt, the length to reach, and what says what comes next."""
        length = self._generation_length(self._prompt_length(ids), max_length, max_new_tokens)
        prompt, continuation = self.continuation(ids, length, use_cache, attention_mask)
        return prompt, length, continuation

    def _prompt_length(self, ids: Array) -> int:
        return int(ids.shape[1])

    def _generation_length(self, prompt: int, max_length: int | None, max_new_tokens: int | None) -> int:
        if (max_length is None) == (max_new_tokens is None):
            raise ConfigError("generate: give either max_length (counting the prompt) or max_new_tokens")
        for name, value in (("max_length", max_length), ("max_new_tokens", max_new_tokens)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ConfigError(f"generate: {name} must be an integer >= 0, got {value!r}")
        length = max_length if max_length is not None else prompt + (max_new_tokens or 0)
        if length < prompt:
            raise ConfigError(f"generate: max_length {length} is shorter than the prompt of {prompt} tokens")
        if length > self.max_generated_length:
            limit = (
                ""
                if self.max_generated_length == self.max_seq_len
                else f" and its beginning, {self.max_generated_length}"
            )
            raise ShapeError(f"generate: length {length} is beyond max_seq_len {self.max_seq_len}{limit}")
        return length

    def _draw(
        self,
        prompt: Array,
        length: int,
        draw: _Draw,
        eos_token_id: int | None,
        continuation: Continuation,
        evaluating: Callable[[], AbstractContextManager[None]],
    ) -> Iterator[Array]:
        batch, start = prompt.shape
        greedy, generator = draw.temperature == 0 or not draw.do_sample, Generator(draw.seed)
        done = [False] * batch
        unread = prompt
        for _ in range(start, length):
            with evaluating():
                logits = to_host(continuation.logits(unread))
            chosen = choose_next(logits, greedy, draw.temperature, draw.top_k, draw.top_p, generator)
            if eos_token_id is not None:
                chosen[done] = eos_token_id
                done = [before or token == eos_token_id for before, token in zip(done, chosen, strict=True)]
            yield chosen
            if eos_token_id is not None and all(done):
                return
            unread = to_device(chosen, device_of(prompt))[:, None]


@dataclass
class _Draw:
    """How the next token is chosen."""

    temperature: float
    top_k: int | None
    top_p: float | None
    do_sample: bool | None
    seed: int | None

    @property
    def is_set(self) -> bool:
        """Whether anything is asked for that is of no use but in drawing; a temperature of 0 draws nothing."""
        return self.temperature not in (0, 1) or self.top_k is not None or self.top_p is not None


def _columns(found: list[list[Hypothesis]], eos_token_id: int | None) -> list[Array]:
    """The best hypothesis of each sequence, token by token: (B,) each, ended ones filled up with the end."""
    best = [hypotheses[0].tokens for hypotheses in found]
    longest = max(len(tokens) for tokens in best)
    filled = [[*tokens.tolist(), *[eos_token_id] * (longest - len(tokens))] for tokens in best]
    return [to_host(list(column)).astype("int64") for column in zip(*filled, strict=True)]


def asarray_1d_or_2d(ids: Any) -> Array:
    """`ids`, given as an array or as lists, as an array of one or two axes."""
    try:
        ids = ids if hasattr(ids, "ndim") else asarray(ids)
    except ValueError:
        raise ShapeError("input_ids: the sequences of a batch must have one length") from None
    if ids.ndim not in (1, 2):
        raise ShapeError(f"input_ids: expected (batch, time) or (time,), got {format_shape(tuple(ids.shape))}")
    return ids

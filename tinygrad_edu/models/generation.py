"""Writing on from a prompt, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..backend import Array, Generator, asarray, device_of, namespace, to_device, to_host
from ..errors import ConfigError, ShapeError, format_shape
from ..layers.embedding import check_ids
from ..layers.linear import linear
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
        do_sample: bool = True,
        seed: int | None = None,
        use_cache: bool = True,
    ) -> Array:
        """Continue each sequence, token by token.

        Parameters
        ----------
        input_ids : (B, T) or (T,), the prompts
        max_length : length to reach, counting the prompt; or give
        max_new_tokens : tokens to add
        temperature : logits are divided by it; 0 takes the likeliest token (greedy)
        top_k : draw from the k likeliest only
        top_p : draw from the fewest tokens that together have this probability (Holtzman et al., 2020)
        eos_token_id : a sequence that reached it is done, and filled up with it
        do_sample : False takes the likeliest token
        seed : of the draws; None draws one
        use_cache : keep keys and values (or the state) of earlier positions instead of computing them again

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
        ids, length, single = self._prompt(input_ids, max_length, max_new_tokens)
        check_sampling(temperature, top_k, top_p, eos_token_id, self.vocab_size)
        greedy, generator = temperature == 0 or not do_sample, Generator(seed)
        with self.evaluating():
            tokens = list(
                self._draw(
                    ids, length, greedy, temperature, top_k, top_p, eos_token_id, generator, use_cache, nullcontext
                )
            )
        xp, device = namespace(ids), device_of(ids)
        out = xp.concatenate([ids.astype(xp.int64), *(to_device(new[:, None], device) for new in tokens)], axis=1)
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
        do_sample: bool = True,
        seed: int | None = None,
        use_cache: bool = True,
    ) -> Iterator[Array]:
        """As :meth:`generate`, but giving each token as it is chosen: (B,) int64 on the host, prompt not included.

        Raises
        ------
        ConfigError, ShapeError, DtypeError, RangeError
            At once, not when the first token is asked for.
        """
        ids, length, _ = self._prompt(input_ids, max_length, max_new_tokens)
        check_sampling(temperature, top_k, top_p, eos_token_id, self.vocab_size)
        greedy, generator = temperature == 0 or not do_sample, Generator(seed)
        # Each step by itself is an evaluation: between two of them the caller may do with the model as it likes.
        return self._draw(
            ids, length, greedy, temperature, top_k, top_p, eos_token_id, generator, use_cache, self.evaluating
        )

    def _prompt(self, input_ids: Any, max_length: int | None, max_new_tokens: int | None) -> tuple[Array, int, bool]:
        """The prompts as (B, T) ids, the length to reach, and whether there was only one, (T,)."""
        if not self.supports_generation:
            raise ConfigError(
                f"generate: {self.model_type} cannot generate: it learned {self.objective}, with both sides of a "
                "token in sight, and predicts no next token"
            )
        ids = asarray_1d_or_2d(input_ids)
        if ids.size == 0:
            raise ShapeError(f"generate: the prompt is empty, got {format_shape(tuple(ids.shape))}")
        single = ids.ndim == 1
        ids = self._ids("input_ids", ids[None] if single else ids)
        check_ids("input_ids", ids, self.vocab_size)
        return ids, self._generation_length(ids.shape[1], max_length, max_new_tokens), single

    def _generation_length(self, prompt: int, max_length: int | None, max_new_tokens: int | None) -> int:
        if (max_length is None) == (max_new_tokens is None):
            raise ConfigError("generate: give either max_length (counting the prompt) or max_new_tokens")
        for name, value in (("max_length", max_length), ("max_new_tokens", max_new_tokens)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ConfigError(f"generate: {name} must be an integer >= 0, got {value!r}")
        length = max_length if max_length is not None else prompt + (max_new_tokens or 0)
        if length < prompt:
            raise ConfigError(f"generate: max_length {length} is shorter than the prompt of {prompt} tokens")
        if length > self.max_seq_len:
            raise ShapeError(f"generate: length {length} is beyond max_seq_len {self.max_seq_len}")
        return length

    def _draw(
        self,
        ids: Array,
        length: int,
        greedy: bool,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        eos_token_id: int | None,
        generator: Generator,
        use_cache: bool,
        evaluating: Callable[[], AbstractContextManager[None]],
    ) -> Iterator[Array]:
        xp = namespace(ids)
        batch, start = ids.shape
        caches = self.new_caches(length) if use_cache else None
        done = [False] * batch
        unseen = ids
        for _ in range(start, length):
            with evaluating():
                logits = to_host(self.next_logits(unseen, caches))
            chosen = choose_next(logits, greedy, temperature, top_k, top_p, generator)
            if eos_token_id is not None:
                chosen[done] = eos_token_id
                done = [before or token == eos_token_id for before, token in zip(done, chosen, strict=True)]
            yield chosen
            if eos_token_id is not None and all(done):
                return
            new = to_device(chosen, device_of(ids))[:, None]
            unseen = xp.concatenate([unseen, new], axis=1) if caches is None else new


def asarray_1d_or_2d(ids: Any) -> Array:
    """`ids`, given as an array or as lists, as an array of one or two axes."""
    try:
        ids = ids if hasattr(ids, "ndim") else asarray(ids)
    except ValueError:
        raise ShapeError("input_ids: the sequences of a batch must have one length") from None
    if ids.ndim not in (1, 2):
        raise ShapeError(f"input_ids: expected (batch, time) or (time,), got {format_shape(tuple(ids.shape))}")
    return ids

"""Generation: the cache changes nothing, draws follow the exact distribution, ends and seeds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import Generator
from tinygrad_edu.models.sampling import choose_next

from .twin import TorchTransformer, build, draw_ids, torch

POSITIONS = ("learned", "sinusoidal", "rotary", "none")
VARIANTS = [
    *itertools.product(POSITIONS, ("pre", "post"), ("float64",)),
    *itertools.product(POSITIONS, ("pre",), ("float32",)),
]


@pytest.mark.parametrize(("position", "norm", "dtype"), VARIANTS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("prompt", [1, 5])
def test_the_cache_changes_no_token(position: str, norm: str, dtype: str, batch: int, prompt: int) -> None:
    model = build(position=position, norm_placement=norm, dtype=dtype, max_seq_len=40, d_model=16)
    ids = draw_ids(batch, prompt)
    fast = model.generate(ids, 40, do_sample=False)
    slow = model.generate(ids, 40, do_sample=False, use_cache=False)
    assert fast.shape == (batch, 40)
    assert fast.dtype == np.int64
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(fast[:, :prompt], ids)


@pytest.mark.parametrize("position", POSITIONS)
def test_the_cache_changes_no_draw(position: str) -> None:
    """Greedy sequences of a random model soon repeat themselves; drawn ones keep changing."""
    model = build(position=position, max_seq_len=40)
    options: dict[str, Any] = {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "seed": 4}
    fast = model.generate(draw_ids(3, 4), 40, **options)
    np.testing.assert_array_equal(fast, model.generate(draw_ids(3, 4), 40, use_cache=False, **options))
    assert len(set(fast[:, 4:].ravel().tolist())) > 7, "hardly a token differs: the test shows too little"


@pytest.mark.parametrize("position", POSITIONS)
def test_the_cache_gives_the_logits_of_the_whole_sequence(position: str) -> None:
    model = build(position=position)
    ids = draw_ids(2, 12)
    model.eval()
    with tg.inference():
        whole = model.forward(ids).logits
        caches = model.new_caches(12)
        np.testing.assert_allclose(model.next_logits(ids[:, :5], caches), whole[:, 4], rtol=1e-10)
        for end in range(6, 13):
            np.testing.assert_allclose(model.next_logits(ids[:, end - 1 : end], caches), whole[:, end - 1], rtol=1e-10)
        assert {cache.length for cache in caches} == {12}


@pytest.mark.parametrize("position", POSITIONS)
def test_greedy_takes_the_likeliest_token_of_torch(position: str) -> None:
    model = build(position=position)
    twin = TorchTransformer(model)
    wanted = draw_ids(2, 3)
    with torch.no_grad():
        for _ in range(9):
            chosen = twin(torch.tensor(wanted))[:, -1].argmax(-1).numpy()
            wanted = np.concatenate([wanted, chosen[:, None]], axis=1)
    np.testing.assert_array_equal(model.generate(draw_ids(2, 3), 12, temperature=0), wanted)
    np.testing.assert_array_equal(model.generate(draw_ids(2, 3), max_new_tokens=9, do_sample=False), wanted)
    np.testing.assert_array_equal(model.generate(draw_ids(2, 3), 12, top_k=1), wanted)
    np.testing.assert_array_equal(model.generate(draw_ids(2, 3), 12, top_p=1e-9), wanted)


def test_a_prompt_may_be_one_sequence_or_lists() -> None:
    model = build()
    row = draw_ids(1, 4)[0]
    wanted = model.generate(row[None], 9, do_sample=False)[0]
    for prompt in (row, row.tolist(), row.astype(np.int32), row.astype(np.uint16)):
        out = model.generate(prompt, 9, do_sample=False)
        assert out.shape == (9,)
        np.testing.assert_array_equal(out, wanted)
    np.testing.assert_array_equal(model.generate([row.tolist()] * 2, 9, do_sample=False), [wanted] * 2)


def test_nothing_to_add_gives_the_prompt_back() -> None:
    ids = draw_ids(2, 4)
    np.testing.assert_array_equal(build().generate(ids, 4), ids)
    np.testing.assert_array_equal(build().generate(ids, max_new_tokens=0), ids)


# -- the distribution --------------------------------------------------------------------------------


def exact(logits: list[float], temperature: float, top_k: int | None, top_p: float | None) -> list[float]:
    """The distribution to draw from, by the book: divide, keep k, normalise, keep the nucleus, normalise."""
    weights = [math.exp(z / temperature - max(logits) / temperature) for z in logits]
    if top_k is not None:
        least = sorted(weights, reverse=True)[min(top_k, len(weights)) - 1]
        weights = [w if w >= least else 0.0 for w in weights]
    total = sum(weights)
    probs = [w / total for w in weights]
    if top_p is not None:
        mass, kept = 0.0, set()
        for token in sorted(range(len(probs)), key=lambda i: -probs[i]):
            if mass >= top_p:
                break
            kept.add(token)
            mass += probs[token]
        probs = [p / mass if i in kept else 0.0 for i, p in enumerate(probs)]
    return probs


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 1.0, "top_k": None, "top_p": None},
    {"temperature": 0.5, "top_k": None, "top_p": None},
    {"temperature": 3.0, "top_k": None, "top_p": None},
    {"temperature": 1.0, "top_k": 3, "top_p": None},
    {"temperature": 1.0, "top_k": 1000, "top_p": None},
    {"temperature": 1.0, "top_k": None, "top_p": 0.6},
    {"temperature": 1.0, "top_k": None, "top_p": 1.0},
    {"temperature": 2.0, "top_k": 6, "top_p": 0.7},
]
DRAWS = 8000


def assert_drawn_from(tokens: np.ndarray, probs: list[float]) -> None:
    """Chi-square test at 1 in 10,000, and no token of probability 0 ever."""
    counts = np.bincount(tokens, minlength=len(probs))
    possible = np.array(probs) > 0
    assert not counts[~possible].any(), "a token outside top_k or top_p was drawn"
    expected = np.array(probs)[possible] * len(tokens)
    rare = expected < 5  # the test holds for cells that are not too small, so these are one cell
    seen, wanted = list(counts[possible][~rare]), list(expected[~rare])
    if rare.any():
        seen.append(counts[possible][rare].sum())
        wanted.append(expected[rare].sum())
    statistic = sum((s - w) ** 2 / w for s, w in zip(seen, wanted, strict=True))
    freedom = max(len(wanted) - 1, 1)
    # Wilson and Hilferty: (chi2 / f)^(1/3) is nearly normal with mean 1 - 2/9f and variance 2/9f.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 3.72, f"counts {seen} are not drawn from {wanted}"


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))
def test_draws_follow_the_exact_distribution(settings: dict[str, Any]) -> None:
    model = build()
    prompt = draw_ids(1, 5)
    logits = TorchTransformer(model)(torch.tensor(prompt))[0, -1].tolist()
    out = model.generate(np.repeat(prompt, DRAWS, axis=0), max_new_tokens=1, seed=1, **settings)
    assert_drawn_from(out[:, -1], exact(logits, **settings))


def test_the_second_token_is_drawn_given_the_first() -> None:
    model = build(vocab_size=4)
    prompt = draw_ids(1, 3, 4)
    out = model.generate(np.repeat(prompt, DRAWS, axis=0), max_new_tokens=2, seed=2)[:, 3:]
    twin = TorchTransformer(model)
    first = torch.softmax(twin(torch.tensor(prompt))[0, -1], -1).tolist()
    joint: list[float] = []
    for token in range(4):
        longer = torch.tensor([[*prompt[0], token]])
        joint += [first[token] * p for p in torch.softmax(twin(longer)[0, -1], -1).tolist()]
    assert_drawn_from(out[:, 0] * 4 + out[:, 1], joint)


def test_the_test_of_distributions_would_notice_a_wrong_one() -> None:
    tokens = np.random.default_rng(0).choice(4, DRAWS, p=[0.4, 0.3, 0.2, 0.1])
    assert_drawn_from(tokens, [0.4, 0.3, 0.2, 0.1])
    with pytest.raises(AssertionError, match="are not drawn from"):
        assert_drawn_from(tokens, [0.43, 0.27, 0.2, 0.1])
    with pytest.raises(AssertionError, match="outside top_k or top_p"):
        assert_drawn_from(tokens, [0.5, 0.3, 0.2, 0.0])


EDGES: list[tuple[str, list[float], dict[str, Any], set[int]]] = [
    ("ties with the k-th stay", [1.0, 2.0, 2.0, 0.0], {"top_k": 1}, {1, 2}),
    ("the token that crosses p stays", [math.log(p) for p in (0.5, 0.3, 0.2)], {"top_p": 0.6}, {0, 1}),
    ("p reached exactly is enough", [0.0, 0.0, -1e9, -1e9], {"top_p": 0.5}, {0}),
    ("at least one token stays", [3.0, 1.0, 0.0], {"top_p": 1e-12}, {0}),
    ("k first, then p", [math.log(p) for p in (0.4, 0.3, 0.2, 0.1)], {"top_k": 2, "top_p": 0.5}, {0}),
    ("huge logits do not overflow", [1e4, 1e4, -1e4], {}, {0, 1}),
    ("impossible tokens", [-math.inf, 0.0, -math.inf], {}, {1}),
    ("a tiny temperature is greedy", [1.0, 1.1, 0.9], {"temperature": 1e-3}, {1}),
]


@pytest.mark.parametrize(("what", "logits", "settings", "possible"), EDGES, ids=[row[0] for row in EDGES])
def test_edges_of_choosing(what: str, logits: list[float], settings: dict[str, Any], possible: set[int]) -> None:
    options = {"temperature": 1.0, "top_k": None, "top_p": None, **settings}
    chosen = choose_next(np.array([logits] * 500), False, generator=Generator(0), **options)
    assert set(chosen.tolist()) == possible


# -- the end of a sequence, and seeds ----------------------------------------------------------------


def test_a_sequence_that_ended_is_filled_up_with_eos() -> None:
    model = build(max_seq_len=60)
    prompt = draw_ids(6, 3)
    free = model.generate(prompt, 60, seed=3)
    eos = int(free[0, 20])  # a token that is drawn somewhere in the middle
    out = model.generate(prompt, 60, eos_token_id=eos, seed=3)
    ends = []
    for row, unbounded in zip(out, free, strict=True):
        at = [t for t in range(3, len(row)) if unbounded[t] == eos]
        end = at[0] if at else 60
        ends.append(end)
        np.testing.assert_array_equal(row[: end + 1], unbounded[: len(row)][: end + 1])
        assert (row[end:] == eos).all()
    assert len(set(ends)) > 1, "all ended together: the test shows too little"
    assert out.shape[1] == min(60, max(ends) + 1)


def test_generation_stops_when_all_sequences_ended() -> None:
    model = build(max_seq_len=60)
    prompt = draw_ids(1, 3)
    first = int(model.generate(prompt, 4, do_sample=False)[0, 3])
    out = model.generate(np.repeat(prompt, 2, axis=0), 60, eos_token_id=first, do_sample=False)
    np.testing.assert_array_equal(out, [[*prompt[0], first]] * 2)


def test_eos_in_the_prompt_ends_nothing() -> None:
    model = build()
    prompt = draw_ids(1, 4)
    eos = int(prompt[0, 1])
    out = model.generate(prompt, 12, do_sample=False, eos_token_id=eos)
    assert out.shape[1] > 4


def test_the_same_seed_draws_the_same_tokens() -> None:
    model = build()
    prompt = draw_ids(3, 2)
    first = model.generate(prompt, 12, seed=7)
    np.testing.assert_array_equal(first, model.generate(prompt, 12, seed=7))
    assert (first != model.generate(prompt, 12, seed=8)).any()
    unseeded = [model.generate(prompt, 12).tobytes() for _ in range(4)]
    assert len(set(unseeded)) > 1


@pytest.mark.parametrize("training", [True, False])
def test_generating_leaves_the_model_as_it_was(training: bool) -> None:
    """Dropout is off while it generates; weights, mode, generators and what a forward saved are untouched."""
    model = build(dropout=0.5).train(training)
    before = {name: value.tobytes() for name, value in model.state_dict().items()}
    state = model.generator.get_state()
    model.forward(draw_ids())
    after_forward = model.generator.get_state()
    outs = {model.generate(draw_ids(2, 3), 12, do_sample=False).tobytes() for _ in range(3)}
    assert len(outs) == 1
    assert model.training is training
    assert all(layer.training is training for layer in model.layers())
    assert model.generator.get_state() == after_forward
    assert (state != after_forward) is training
    assert {name: value.tobytes() for name, value in model.state_dict().items()} == before
    model.backward(np.ones((3, 9, 23)))  # the forward before it can still be gone back through


@pytest.mark.parametrize("temperature", [1e-5, 1e-100, 5e-324])
def test_a_temperature_near_zero_takes_the_likeliest(temperature: float) -> None:
    model = build()
    prompt = draw_ids(3, 2)
    wanted = model.generate(prompt, 12, temperature=0)
    np.testing.assert_array_equal(model.generate(prompt, 12, temperature=temperature, seed=1), wanted)
    drawn = model.generate(prompt, 12, temperature=temperature, top_k=3, top_p=0.9, seed=1)
    np.testing.assert_array_equal(drawn, wanted)


def test_a_layer_keeps_the_mode_it_was_given() -> None:
    model = build()
    model.train()
    frozen = model.model.blocks[0].eval()
    model.generate([1, 2], max_length=4, seed=0)
    model.token_losses(np.array([[1, 2, 3]]))
    assert model.training and model.model.blocks[1].training and not frozen.training

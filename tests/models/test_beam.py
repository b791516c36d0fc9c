"""Beam search: the exact best where all can be tried, Hugging Face's results elsewhere, caches, ends and mistakes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, NonFiniteError
from tinygrad_edu.models import create_model
from tinygrad_edu.models.beam import BeamSettings, beam_search
from tinygrad_edu.models.continuation import Continuation

from .twin import build, draw_ids, torch

EOS = 2


def log_probs_after(model: Any, prompt: list[int], written: tuple[int, ...]) -> np.ndarray:
    """Log-probabilities of the next token, with no cache and no search."""
    with model.evaluating():
        logits = model.forward([[*prompt, *written]]).logits[0, -1]
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())


def every_sequence(model: Any, prompt: list[int], steps: int) -> dict[tuple[int, ...], float]:
    """All that can be written within `steps` tokens, each with its log-probability."""
    open_ends: dict[tuple[int, ...], float] = {(): 0.0}
    found: dict[tuple[int, ...], float] = {}
    for n in range(1, steps + 1):
        further: dict[tuple[int, ...], float] = {}
        for written, before in open_ends.items():
            for token, value in enumerate(log_probs_after(model, prompt, written).tolist()):
                ended = token == EOS or n == steps
                (found if ended else further)[(*written, token)] = before + value
        open_ends = further
    return found


SMALL = {"vocab_size": 5, "max_seq_len": 8}


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0, -1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_room_for_all_beams_the_best_of_all_sequences_is_found(seed: int, penalty: float) -> None:
    model, prompts, steps = build(seed=seed, **SMALL), [[1, 0, 3], [4, 4, 1]], 5
    settings = BeamSettings(num_beams=5 ** (steps - 1), length_penalty=penalty, early_stopping="never")
    searched = model.generate(
        prompts,
        max_new_tokens=steps,
        eos_token_id=EOS,
        num_beams=settings.num_beams,
        length_penalty=penalty,
        early_stopping="never",
    )
    with model.evaluating():
        kept = beam_search(Continuation(model, 8), np.array(prompts), 8, settings, EOS)
    for prompt, row, hypotheses in zip(prompts, searched.tolist(), kept, strict=True):
        everything = {
            written: total / len(written) ** penalty for written, total in every_sequence(model, prompt, steps).items()
        }
        ranked = sorted(everything, key=lambda written: -everything[written])
        length = row.index(EOS, 3) + 1 if EOS in row[3:] else 8
        assert tuple(row[3:length]) == ranked[0]
        assert set(row[length:]) <= {EOS}
        for wanted, hypothesis in zip(ranked[:20], hypotheses, strict=False):  # and the runners-up in their order
            assert tuple(hypothesis.tokens.tolist()) == wanted
            assert hypothesis.score == pytest.approx(everything[wanted], rel=1e-10)


def test_the_likeliest_sequence_is_not_what_greedy_finds() -> None:
    """So that the test above could fail: few beams miss the best, and more beams come nearer."""
    scores: dict[int, list[float]] = {1: [], 2: [], 125: []}
    for seed in range(12):
        model = build(seed=seed, **SMALL)
        for beams, values in scores.items():
            settings = BeamSettings(beams, 0.0, "never")
            with model.evaluating():
                ((best, *_),) = beam_search(Continuation(model, 6), np.array([[1, 0]]), 6, settings, EOS)
            values.append(best.score)
    best = np.array(scores[125])
    assert (best >= np.array(scores[2]) - 1e-12).all() and (best >= np.array(scores[1]) - 1e-12).all()
    assert (best > np.array(scores[1]) + 1e-6).sum() >= 2
    assert np.mean(scores[1]) < np.mean(scores[2]) < np.mean(best)


@pytest.mark.parametrize("eos", [None, EOS])
@pytest.mark.parametrize("position", ["learned", "rotary"])
def test_one_beam_is_greedy(position: str, eos: int | None) -> None:
    model, ids = build(position=position, max_seq_len=30), draw_ids(3, 4)
    greedy = model.generate(ids, 30, do_sample=False, eos_token_id=eos)
    with model.evaluating():
        found = beam_search(Continuation(model, 30), ids, 30, BeamSettings(1), eos)
    for row, (best,) in zip(greedy[:, 4:].tolist(), found, strict=True):
        assert best.tokens.tolist() == row[: len(best.tokens)]
        assert set(row[len(best.tokens) :]) <= {eos}


def varied(kind: str, seed: int) -> Any:
    """A model of much variety: its tokens depend on more than the one before, and beams cross."""
    rng = np.random.default_rng(seed)
    if kind in ("lstm", "gru", "rnn"):
        settings = {"vocab_size": 23, "hidden_size": 8, "num_layers": 2, "dtype": "float64", "tied_head": False}
        model: Any = create_model({"architecture": kind, **settings, "max_seq_len": 24})
    else:
        model = build(position=kind, max_seq_len=24, tied_head=False)
    for parameter in model.parameters():
        if parameter.data.ndim == 2:
            parameter.data[...] = rng.normal(size=parameter.shape)
    return model


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "rotary", "none", "lstm", "gru", "rnn"])
def test_the_cache_changes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[list[int]] = []
    reorder = Continuation.reorder
    monkeypatch.setattr(Continuation, "reorder", lambda self, rows: (orders.append(rows.tolist()), reorder(self, rows)))
    ids = draw_ids(3, 4)
    for seed, eos in itertools.product(range(3), (None, 5)):
        model = varied(kind, seed)
        found = []
        for use_cache, rows in ((True, [0, 1, 2]), (False, [0, 1, 2]), (True, [2]), (False, [2])):
            with model.evaluating():
                continuation = Continuation(model, 24, use_cache)
                found.append(beam_search(continuation, ids[rows], 24, BeamSettings(4, 1.0, "never"), eos))
        with_cache, without, alone, alone_without = found
        for kept, wanted in zip([*with_cache, with_cache[2], *alone], [*without, *alone, *alone_without], strict=True):
            assert [h.tokens.tolist() for h in kept] == [h.tokens.tolist() for h in wanted]
            np.testing.assert_allclose([h.score for h in kept], [h.score for h in wanted], rtol=1e-9)
    crossed = [rows for rows in orders if len(set(rows)) < len(rows)]
    assert len(crossed) > 30, "beams hardly ever change places: the test shows too little"


GPT2_EOS = 11  # ends early and late, and as the penalty will have it


# -- as transformers has it ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2_pair() -> tuple[Any, Any]:
    """GPT-2 with the same random weights, theirs and ours; large ones, so that some tokens are far likelier."""
    transformers = pytest.importorskip("transformers")
    shape = {"vocab_size": 13, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    torch.manual_seed(3)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**shape, initializer_range=0.6, bos_token_id=None, eos_token_id=None)
    )
    theirs = theirs.double().eval()
    ours = create_model({"architecture": "gpt2", **shape, "dtype": "float64"})
    state = {name.removeprefix("transformer."): value.numpy() for name, value in theirs.state_dict().items()}
    names = {"token_embedding.weight": "wte.weight", "position.weight": "wpe.weight", "model.norm.": "ln_f."}
    inside = {
        "self_attn.in_proj_weight": "attn.c_attn.weight",
        "self_attn.in_proj_bias": "attn.c_attn.bias",
        "self_attn.out_proj": "attn.c_proj",
        "linear1": "mlp.c_fc",
        "linear2": "mlp.c_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
    }
    converted = {}
    for name in ours.state_dict():
        their_name = name
        for old, new in {**names, **inside, "model.": "", "blocks.": "h."}.items():
            their_name = their_name.replace(old, new)
        turned = ".attn.c_" in their_name or ".mlp.c_" in their_name
        converted[name] = state[their_name].T if turned else state[their_name]
    ours.load_state_dict(converted)
    return theirs, ours


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -0.5])
@pytest.mark.parametrize("beams", [2, 5, 9])
def test_the_same_sequences_as_transformers(
    gpt2_pair: tuple[Any, Any], beams: int, penalty: float, early_stopping: bool | str
) -> None:
    theirs, ours = gpt2_pair
    prompts = np.random.default_rng(beams).integers(0, 13, (6, 3))
    for eos in (GPT2_EOS, None):
        arguments = {"num_beams": beams, "length_penalty": penalty, "early_stopping": early_stopping}
        wanted = theirs.generate(
            torch.tensor(prompts),
            attention_mask=torch.ones(6, 3, dtype=torch.long),
            max_length=17,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos if eos is not None else 0,
            **arguments,
        ).numpy()
        np.testing.assert_array_equal(ours.generate(prompts, 17, eos_token_id=eos, **arguments), wanted)


def test_the_ends_in_that_comparison_come_early_and_late(gpt2_pair: tuple[Any, Any]) -> None:
    _, ours = gpt2_pair
    prompts = np.random.default_rng(3).integers(0, 13, (6, 3))
    lengths = {
        tuple(
            (ours.generate(prompts, 17, eos_token_id=GPT2_EOS, num_beams=3, length_penalty=penalty) != GPT2_EOS)
            .sum(1)
            .tolist()
        )
        for penalty in (-0.5, 0.0, 1.0, 2.0)
    }
    assert len(lengths) == 4, "the penalty changes nothing: the comparison shows too little"


# -- ends ---------------------------------------------------------------------------------------------


class Scripted:
    """Stands for a model: logits by what was written, whatever the prompt; counts what it is asked."""

    def __init__(self, table: dict[tuple[int, ...], list[float]], otherwise: list[float]):
        self.table, self.otherwise = table, otherwise
        self.rows: list[tuple[int, ...]] | None = None
        self.batches: list[int] = []

    def logits(self, new_ids: np.ndarray) -> np.ndarray:
        if self.rows is None:
            self.rows = [() for _ in new_ids]
        else:
            self.rows = [(*row, int(new)) for row, (new,) in zip(self.rows, new_ids, strict=True)]
        self.batches.append(len(self.rows))
        return np.log([self.table.get(row, self.otherwise) for row in self.rows])

    def reorder(self, rows: np.ndarray) -> None:
        assert self.rows is not None
        self.rows = [self.rows[i] for i in rows]


def search(script: Scripted, steps: int, settings: BeamSettings, batch: int = 1) -> Any:
    return beam_search(script, np.zeros((batch, 1), np.int64), 1 + steps, settings, EOS)  # type: ignore[arg-type]


def test_a_sequence_that_begins_less_likely_can_win() -> None:
    table = {(): [0.6, 0.4, 1e-9], (0,): [0.5, 0.499, 0.001], (1,): [0.001, 0.009, 0.99]}
    otherwise = [0.1, 0.1, 0.8]
    (greedy,) = search(Scripted(table, otherwise), 4, BeamSettings(1, 0.0))
    assert greedy[0].tokens.tolist()[0] == 0
    (found,) = search(Scripted(table, otherwise), 4, BeamSettings(2, 0.0))
    assert found[0].tokens.tolist() == [1, EOS]
    assert found[0].score == pytest.approx(math.log(0.4 * 0.99))
    (mean,) = search(Scripted(table, otherwise), 4, BeamSettings(2, 1.0))
    assert mean[0].score == pytest.approx(math.log(0.4 * 0.99) / 2)


def test_the_penalty_decides_between_short_and_long() -> None:
    table = {(): [0.55, 1e-9, 0.45], (0,): [0.9, 1e-9, 0.1], (0, 0): [1e-9, 1e-9, 1.0]}
    tokens = {
        penalty: search(Scripted(table, [1 / 3] * 3), 3, BeamSettings(3, penalty, "never"))[0][0].tokens.tolist()
        for penalty in (0.0, 2.0, -2.0)
    }
    assert tokens == {0.0: [0, 0, EOS], 2.0: [0, 0, EOS], -2.0: [EOS]}


def test_it_stops_when_all_are_done_and_drops_those_that_are() -> None:
    ends_at_once = Scripted({}, [0.05, 0.05, 0.9])
    search(ends_at_once, 50, BeamSettings(2, 1.0, early_stopping=True))
    assert len(ends_at_once.batches) == 2
    by_beginning = {(): [0.5, 0.5, 1e-9]}
    slow = Scripted(by_beginning, [0.45, 0.45, 0.1])
    search(slow, 12, BeamSettings(2, 1.0, early_stopping="never"))
    assert len(slow.batches) == 12

    class OneIsSlow(Scripted):
        """The first of two sequences never ends, the second at once."""

        def logits(self, new_ids: np.ndarray) -> np.ndarray:
            if self.rows is None:
                self.rows, self.slow = [() for _ in new_ids], [True, False]
            self.batches.append(len(new_ids))
            return np.log([[0.6, 0.4, 1e-12] if slow else [0.05, 0.05, 0.9] for slow in self.slow])

        def reorder(self, rows: np.ndarray) -> None:
            self.slow = [self.slow[i] for i in rows]

    mixed = OneIsSlow({}, [])
    slow_one, quick_one = search(mixed, 6, BeamSettings(2, 1.0, early_stopping=True), batch=2)
    assert mixed.batches == [2, 4, 2, 2, 2, 2]
    assert len(slow_one[0].tokens) == 6 and quick_one[0].tokens.tolist() == [EOS]


def test_tokens_that_are_impossible_never_come() -> None:
    with np.errstate(divide="ignore"):
        (found,) = search(Scripted({}, [0.7, 0.0, 0.3]), 3, BeamSettings(27, 0.0, "never"))
        assert {token for hypothesis in found for token in hypothesis.tokens.tolist()} == {0, EOS}
        assert len(found) == 4  # EOS, 0 EOS, 0 0 EOS, 0 0 0
        (only,) = search(Scripted({}, [0.0, 0.0, 1.0]), 9, BeamSettings(4, 0.0, "never"))
        assert [hypothesis.tokens.tolist() for hypothesis in only] == [[EOS]]


def test_nothing_to_add_gives_the_prompt_back() -> None:
    ids = draw_ids(2, 4)
    np.testing.assert_array_equal(build().generate(ids, 4, num_beams=3), ids)


def test_a_prompt_may_be_one_sequence() -> None:
    model, ids = build(), draw_ids(1, 4)
    one = model.generate(ids[0].tolist(), 9, num_beams=3)
    assert one.shape == (9,) and one.dtype == np.int64
    np.testing.assert_array_equal(one, model.generate(ids, 9, num_beams=3)[0])


def test_searching_leaves_the_model_as_it_was() -> None:
    model = build(dropout=0.3)
    model.train()
    first = model.generate(draw_ids(2, 4), 10, num_beams=3)
    np.testing.assert_array_equal(first, model.generate(draw_ids(2, 4), 10, num_beams=3))
    assert all(layer.training for layer in model.layers()) and not tg.backend.is_inference()


# -- mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 0}, "generate: num_beams must be an integer >= 1, got 0"),
        ({"num_beams": 2.0}, "generate: num_beams must be an integer >= 1, got 2.0"),
        ({"num_beams": True}, "generate: num_beams must be an integer >= 1, got True"),
        ({"num_beams": 2, "length_penalty": math.nan}, "generate: length_penalty must be a finite number, got nan"),
        ({"num_beams": 2, "length_penalty": "1"}, "generate: length_penalty must be a finite number, got '1'"),
        ({"num_beams": 2, "early_stopping": "ever"}, "early_stopping must be True, False or 'never', got 'ever'"),
        ({"num_beams": 2, "early_stopping": 1}, "early_stopping must be True, False or 'never', got 1"),
        ({"num_beams": 2, "do_sample": True}, "num_beams > 1 searches for the likeliest sequence and draws nothing"),
        ({"num_beams": 2, "temperature": 0.7}, "leave out do_sample, temperature, top_k and top_p, or set num_beams=1"),
        ({"num_beams": 2, "top_k": 5}, "num_beams > 1 searches"),
        ({"num_beams": 2, "top_p": 0.9}, "num_beams > 1 searches"),
        ({"do_sample": "no"}, "generate: do_sample must be True, False or None, got 'no'"),
        ({"attention_mask": [[1] * 4]}, "generate: custom_transformer takes no attention_mask"),
    ],
    ids=str,
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build().generate(draw_ids(1, 4), 9, **arguments)
    assert message in str(caught.value)


def test_weights_that_are_not_finite_are_an_error() -> None:
    model = build()
    model.model.norm.bias.data[0] = math.nan
    with pytest.raises(NonFiniteError, match="the logits of the next token are not finite"):
        model.generate(draw_ids(2, 4), 9, num_beams=3)


def test_counting_of_every_sequence() -> None:
    """The helper of this file: all sequences together have probability one."""
    found = every_sequence(build(**SMALL), [1, 0], 3)
    assert len(found) == sum(4**n for n in range(3)) + 4**3
    assert math.fsum(math.exp(value) for value in found.values()) == pytest.approx(1, rel=1e-12)
    assert all(EOS not in written[:-1] for written in itertools.islice(found, 50))

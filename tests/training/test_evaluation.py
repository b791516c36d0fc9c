"""Scores of every kind of model: that each token is asked for once, and that the figures are those of the formula."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.data import TokenLoader
from tinygrad_edu.errors import ConfigError, DataError
from tinygrad_edu.layers import Conv2d, Dropout, Linear, Sequential
from tinygrad_edu.losses import CrossEntropyLoss, MeanSquaredError
from tinygrad_edu.models import BaseLanguageModel, create_model
from tinygrad_edu.training import evaluate_batches, evaluate_language_model, evaluate_loss, masked_batches
from tinygrad_edu.training.batches import CountedBatches, one_pass
from tinygrad_edu.training.evaluation import EvaluationStopped
from tinygrad_edu.training.masking import masked_windows, window_of_each_token
from tinygrad_edu.training.trainable import LayerWithLoss

VOCAB, MASK = 13, 12
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, MASK, 71)
TOKEN_BYTES = np.arange(VOCAB)


def recurrent(**settings: Any) -> BaseLanguageModel:
    given = {"architecture": "lstm", "vocab_size": VOCAB, "hidden_size": 6, "dropout": 0.3, "dtype": "float64"}
    model = create_model({**given, **settings})
    for parameter in model.parameters():
        parameter.data *= 20 if parameter.shape[0] == 24 else 5  # so that the state matters
    return model


def masked_model() -> BaseLanguageModel:
    return recurrent(bidirectional=True, objective="masked_lm")


# -- models that carry their state -----------------------------------------------------------------


@pytest.mark.parametrize(("seq_len", "batch_size"), [(7, 1), (70, 1), (8, 3), (3, 5), (16, 200)])
def test_a_carried_state_is_carried_here_too(seq_len: int, batch_size: int) -> None:
    """As though each strand of the text were read at once, from its beginning to its end."""
    model = recurrent(carry_state=True)
    score = evaluate_language_model(model, IDS, seq_len=seq_len, batch_size=batch_size, token_bytes=TOKEN_BYTES)
    bounds = np.linspace(0, 70, min(batch_size, 70) + 1).astype(int)
    by_hand, right = 0.0, 0
    for start, end in pairwise(bounds):
        losses, correct = model.token_losses(IDS[None, start : end + 1])
        by_hand, right = by_hand + float(losses.sum()), right + int(correct.sum())
    assert (score.n_tokens, score.n_correct, score.n_bytes) == (70, right, IDS[1:].sum())
    assert score.total_nll == pytest.approx(by_hand, rel=1e-12)
    assert model.training and not model.carried_state()


def test_without_the_state_the_score_is_another() -> None:
    """The control: windows of their own see less of what stands before."""
    carried = evaluate_language_model(recurrent(carry_state=True), IDS, seq_len=4, batch_size=1)
    windows = evaluate_language_model(recurrent(), IDS, seq_len=4, batch_size=1)
    assert carried.n_tokens == windows.n_tokens and abs(carried.loss - windows.loss) > 1e-3


def test_some_chunks_of_strands_that_lie_over_all_of_the_text() -> None:
    model = recurrent(carry_state=True)
    score = evaluate_language_model(model, IDS, seq_len=4, batch_size=3, max_batches=2, token_bytes=TOKEN_BYTES)
    places = [start + 1 + within for start in (0, 23, 46) for within in range(8)]
    assert (score.n_tokens, score.n_bytes) == (24, IDS[places].sum())


# -- masked models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "seq_len", "stride"), [(71, 16, 8), (71, 16, 16), (71, 71, 30), (9, 16, 8), (17, 16, 1)]
)
def test_each_token_stands_near_the_middle_of_its_window(length: int, seq_len: int, stride: int) -> None:
    starts, window = window_of_each_token(length, seq_len, stride)
    first = starts[window]
    width = min(seq_len, length)
    place = np.arange(length) - first
    assert len(window) == length and (place >= 0).all() and (place < width).all()
    assert starts[-1] + width == length and (np.diff(starts) <= stride).all()
    middle = abs(starts[:, None] + (width - 1) / 2 - np.arange(length))  # (windows, tokens)
    assert (middle[window, np.arange(length)] <= middle.min(axis=0) + 0.5).all()


def test_pseudo_perplexity_masks_each_token_alone() -> None:
    model = masked_model()
    score = evaluate_language_model(model, IDS, seq_len=16, batch_size=5, mask_token_id=MASK, token_bytes=TOKEN_BYTES)
    starts, window = window_of_each_token(71, 16, 8)
    by_hand = 0.0
    for place, token in enumerate(IDS):
        start = starts[window[place]]
        row = IDS[start : start + 16].copy()
        row[place - start] = MASK
        with model.evaluating():
            logits = model(row[None]).logits[0, place - start]
        by_hand -= float(logits[token] - np.log(np.exp(logits).sum()))
    assert (score.n_tokens, score.n_bytes) == (71, IDS.sum())
    assert score.total_nll == pytest.approx(by_hand, rel=1e-10)
    assert score.bits_per_byte == pytest.approx(by_hand / math.log(2) / IDS.sum(), rel=1e-10)


def test_a_sample_of_the_positions_is_the_same_each_time() -> None:
    model = masked_model()

    def score(**options: Any) -> Any:
        return evaluate_language_model(model, IDS, seq_len=16, batch_size=4, mask_token_id=MASK, **options)

    part = score(fraction=0.5, seed=1)
    assert part.n_tokens == 36 and part == score(fraction=0.5, seed=1) and part != score(fraction=0.5, seed=2)
    assert score(max_batches=3).n_tokens == 12 and score(max_batches=99) == score()
    assert score(fraction=0.001).n_tokens == 1


def test_tokens_that_are_never_masked_are_not_scored() -> None:
    windows = list(masked_windows(IDS, 16, 8, 4, MASK, not_scored=(0, 5)))
    scored = np.concatenate([labels[labels != -100] for _, labels in windows])
    assert sorted(scored) == sorted(IDS[(IDS != 0) & (IDS != 5)])
    assert all(
        ((ids == MASK) == (labels != -100)).all() and ((labels != -100).sum(axis=1) == 1).all()
        for ids, labels in windows
    )
    with pytest.raises(DataError, match="tokens: none of 71 can be scored"):
        list(masked_windows(IDS, 16, 8, 4, MASK, not_scored=range(VOCAB)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "mask_token_id: lstm learned to predict masked tokens, and needs it"),
        ({"mask_token_id": MASK, "fraction": 0}, r"fraction: 0, wanted a number in \(0, 1\]"),
        ({"mask_token_id": MASK, "fraction": 1.5}, r"fraction: 1.5, wanted a number in \(0, 1\]"),
        ({"mask_token_id": MASK, "stride": 17}, "stride: 17, wanted 1 to seq_len 16"),
        ({"mask_token_id": MASK, "max_batches": 0}, "max_batches: 0, wanted at least 1"),
    ],
)
def test_scores_that_cannot_be_had(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_language_model(masked_model(), IDS, seq_len=16, **options)


def test_a_translator_has_no_score_on_text() -> None:
    model = recurrent()
    model.objective = "translation"
    with pytest.raises(ConfigError, match="lstm translates: score it on pairs, with evaluate_batches"):
        evaluate_language_model(model, IDS, seq_len=16)


class Collate:
    """Masks a third of the tokens, other ones at each call."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        ids = np.stack(examples)
        hidden = self.rng.random(ids.shape) < 1 / 3
        return {"input_ids": np.where(hidden, MASK, ids), "labels": np.where(hidden, ids, -100)}


def test_a_masked_loss_asks_the_same_each_time() -> None:
    model = masked_model()
    batches = masked_batches(IDS, Collate(), seq_len=10, batch_size=3)
    assert [len(batch["labels"]) for batch in batches] == [3, 3, 1]
    score = evaluate_batches(model, batches, token_bytes=TOKEN_BYTES)
    assert score == evaluate_batches(model, batches, token_bytes=TOKEN_BYTES)
    assert score == evaluate_batches(
        model, masked_batches(IDS, Collate(), seq_len=10, batch_size=3), token_bytes=TOKEN_BYTES
    )
    labels = np.concatenate([batch["labels"] for batch in batches])
    assert (score.n_tokens, score.n_bytes) == ((labels != -100).sum(), labels[labels != -100].sum())
    spread = masked_batches(IDS, Collate(), seq_len=10, batch_size=2, max_batches=2)
    rows = np.concatenate([np.where(b["labels"] == -100, b["input_ids"], b["labels"]) for b in spread])
    assert (rows == np.stack([IDS[at : at + 10] for at in (0, 20, 40, 60)])).all()
    with pytest.raises(DataError, match="tokens: 71 in the split, fewer than one window of seq_len 72"):
        masked_batches(IDS, Collate(), seq_len=72, batch_size=1)


# -- batches as they are ---------------------------------------------------------------------------


def test_batches_of_any_form() -> None:
    model = recurrent()
    ids = RNG.integers(0, MASK, (3, 9))
    labels = ids.copy()
    labels[1, 4:] = -100
    losses, correct = model.token_losses(ids, labels)
    score = evaluate_batches(model, [(ids, labels)], token_bytes=TOKEN_BYTES)
    assert score.total_nll == pytest.approx(float(losses.sum()), rel=1e-12)
    scored = labels[:, 1:]
    assert (score.n_tokens, score.n_correct) == (8 + 3 + 8, int(correct.sum()))
    assert score.n_bytes == scored[scored != -100].sum()
    assert score == evaluate_batches(model, [{"input_ids": ids, "labels": labels}], token_bytes=TOKEN_BYTES)
    assert score == evaluate_batches(model, iter([(ids, labels)]), token_bytes=TOKEN_BYTES)
    assert evaluate_batches(model, [(ids,), (ids,)], max_batches=1).n_tokens == 24
    assert evaluate_batches(model, [(ids.tolist(),)]).n_tokens == 24
    with pytest.raises(DataError, match="nothing is scored: there are no batches, or every label is -100"):
        evaluate_batches(model, [(ids, np.full_like(ids, -100))])
    with pytest.raises(EvaluationStopped):
        evaluate_batches(model, [(ids, labels)], stop=lambda: True)


def test_a_loader_gives_the_same_batches_at_each_evaluation() -> None:
    loader = TokenLoader(IDS, 2, 8, seed=3)
    next(iter(loader))
    before = loader.state_dict()
    first, second = [list(one_pass(loader)) for _ in range(2)]
    assert loader.state_dict() == before
    assert len(first) == len(loader) - 1  # what was left of the epoch
    assert all((one[0] == other[0]).all() for one, other in zip(first, second, strict=True))
    with pytest.raises(EvaluationStopped):
        evaluate_batches(recurrent(), loader, stop=lambda: True)
    assert loader.state_dict() == before


class Reversing:
    """Iterates the other way round at each pass; it does not know its place."""

    def __init__(self) -> None:
        self.items = [(1, 2), (3, 4), (5, 6)]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def test_batches_are_counted_for_loaders_that_do_not() -> None:
    loader = CountedBatches(Reversing())
    seen = iter(loader)
    assert [next(seen), next(seen)] == [(1, 2), (3, 4)]
    state = loader.state_dict()
    assert state == {"epoch": 0, "position": 2, "batches": 3}
    other = CountedBatches(Reversing())
    other.load_state_dict(state)
    assert list(other) == [(5, 6)] and (other.epoch, other.position) == (1, 0)
    assert list(other) == [(1, 2), (3, 4), (5, 6)]
    for wrong, message in [
        ({**state, "batches": 4}, "4 batches an epoch, this loader has 3"),
        ({**state, "position": -1}, "position is -1, wanted an integer of at least 0"),
        ({**state, "epoch": 1.5}, "epoch is 1.5, wanted an integer of at least 0"),
        ({}, r"fields \[\], wanted"),
        (3, "fields int, wanted"),
    ]:
        with pytest.raises(DataError, match=message):
            other.load_state_dict(wrong)  # type: ignore[arg-type]


# -- layers ----------------------------------------------------------------------------------------


def classifier() -> Any:
    generator = tg.backend.Generator(0)
    return Sequential(Linear(4, 3, generator=generator), Dropout(0.5, generator)).astype("float64")


def test_the_loss_of_a_classifier_over_unequal_batches() -> None:
    x, targets = RNG.normal(size=(11, 4)), RNG.integers(0, 3, 11)
    targets[2] = -100
    model = classifier()
    parts = [(x[:3], targets[:3]), (x[3:], targets[3:])]
    found = evaluate_loss(LayerWithLoss(model, CrossEntropyLoss(label_smoothing=0.3)), parts)
    logits = x @ model[0].weight.data.T + model[0].bias.data
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    counted = targets != -100
    expected = -log_probs[np.flatnonzero(counted), targets[counted]].mean()  # without dropout and smoothing
    right = (logits.argmax(axis=1) == targets)[counted].mean()
    assert found == {"loss": pytest.approx(expected, rel=1e-12), "accuracy": pytest.approx(right)}
    assert model.training and not any(layer._saved for layer in model.layers())
    nothing = (x[:2], np.full(2, -100))
    assert evaluate_loss(LayerWithLoss(model, CrossEntropyLoss(label_smoothing=0.3)), [*parts, nothing]) == found
    with pytest.raises(DataError, match="the batches have no targets"):
        evaluate_loss(LayerWithLoss(model, CrossEntropyLoss()), [nothing])
    with pytest.raises(EvaluationStopped):
        evaluate_loss(LayerWithLoss(model, CrossEntropyLoss()), parts, stop=lambda: True)


def test_the_loss_of_other_layers_and_models() -> None:
    x, y = RNG.normal(size=(7, 4)), RNG.normal(size=(7, 3))
    model = classifier()
    found = evaluate_loss(LayerWithLoss(model, MeanSquaredError()), [(x[:2], y[:2]), (x[2:], y[2:])])
    prediction = x @ model[0].weight.data.T + model[0].bias.data
    assert found == {"loss": pytest.approx(((prediction - y) ** 2).mean(), rel=1e-12)}
    language = recurrent()
    ids = RNG.integers(0, MASK, (3, 9))
    assert evaluate_loss(language, [(ids, ids)]) == evaluate_batches(language, [(ids, ids)])


def test_the_loss_of_a_model_that_brings_its_own() -> None:
    from tests.training.test_trainable import OwnLoss

    model, x = OwnLoss(), RNG.normal(size=(7, 4))
    found = evaluate_loss(model, [(x[:2],), (x[2:],)])
    output = x @ model.linear.weight.data.T + model.linear.bias.data
    assert found == {"loss": pytest.approx((output**2).sum() / 7, rel=1e-12)}
    assert all((parameter.grad == 0).all() for parameter in model.parameters()) and model.training


def test_the_classes_of_maps_are_on_their_second_axis() -> None:
    """Three classes, pictures of three by three: no shape says which axis is which."""
    rng = np.random.default_rng(0)
    net = Sequential(Conv2d(2, 3, 1))
    pictures, labels = rng.normal(size=(5, 2, 3, 3)).astype("float32"), rng.integers(0, 3, (5, 3, 3))
    found = evaluate_loss(LayerWithLoss(net, CrossEntropyLoss(label_smoothing=0.1)), [(pictures, labels)])
    logits = net(pictures)
    right = (logits.argmax(axis=1) == labels).mean()
    assert found["accuracy"] == pytest.approx(right)
    assert found["loss"] == pytest.approx(CrossEntropyLoss()(logits, labels), rel=1e-6)

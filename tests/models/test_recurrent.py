"""LSTM, GRU and RNN language models against a twin in torch, and what only recurrent models have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tinygrad_edu.errors import ConfigError, ShapeError
from tinygrad_edu.models import create_model

V, B, T = 23, 4, 7
KINDS = ("lstm", "gru", "rnn")
RNG = np.random.default_rng(5)
IDS = RNG.integers(0, V, (B, T))
LENGTHS = np.array([7, 3, 1, 5])
MASK = (np.arange(T) < LENGTHS[:, None]).astype(np.int64)


def build(kind: str, **settings: Any) -> Any:
    settings = {"vocab_size": V, "hidden_size": 6, "embedding_size": 5, "num_layers": 2, "dtype": "float64", **settings}
    model = create_model({"architecture": kind, **settings})
    for parameter in model.parameters():  # biases too, so that none is left out unnoticed
        parameter.data[...] = RNG.normal(size=parameter.shape) * 0.4
    return model


class Twin(torch.nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        c = model.config
        kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[model.model_type]
        extra = {"nonlinearity": c.nonlinearity} if model.model_type == "rnn" else {}
        self.embedding = torch.nn.Embedding(V, c.width)
        self.rnn = kind(c.width, c.hidden_size, c.num_layers, batch_first=True, bidirectional=c.bidirectional, **extra)
        features = c.hidden_size * (2 if c.bidirectional else 1)
        self.projection = torch.nn.Linear(features, c.width) if model.projection is not None else None
        self.head = torch.nn.Linear(c.width if c.tied_head else features, V)
        if c.tied_head:
            self.head.weight = self.embedding.weight
        self.double()
        state = {name: torch.from_numpy(values.copy()) for name, values in model.state_dict().items()}
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"head.weight"}

    def forward(self, ids: Any, lengths: Any) -> Any:
        x = self.embedding(ids)
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=T)
        return self.head(y if self.projection is None else self.projection(y))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tied_head": False},
        {"embedding_size": None},
        {"objective": "masked_lm", "bidirectional": True},
        {"objective": "masked_lm"},
        {"nonlinearity": "relu"},
    ],
    ids=lambda s: ",".join(s) or "default",
)
def test_logits_loss_and_every_gradient_are_torchs(kind: str, settings: dict[str, Any], padded: bool) -> None:
    if "nonlinearity" in settings and kind != "rnn":
        settings = {"num_layers": 1}
    model = build(kind, **settings)
    twin = Twin(model)
    lengths = LENGTHS if padded else np.full(B, T)
    labels = np.where(np.arange(T) < lengths[:, None], IDS, -100)
    mask = MASK if padded else None
    logits = twin(torch.from_numpy(IDS), torch.from_numpy(lengths))
    causal = model.objective == "causal_lm"
    scored, targets = (logits[:, :-1], labels[:, 1:]) if causal else (logits, labels)
    loss = torch.nn.functional.cross_entropy(scored.reshape(-1, V), torch.from_numpy(targets.copy()).reshape(-1))
    loss.backward()

    out = model(IDS, labels, mask)
    real = np.arange(T) < lengths[:, None]
    np.testing.assert_allclose(out.logits[real], logits.detach().numpy()[real], rtol=1e-9)
    np.testing.assert_allclose(out.loss, loss.item(), rtol=1e-9)
    wanted = dict(twin.named_parameters())
    for way in ("backward", "forward_backward"):
        model.zero_grad()
        if way == "backward":
            model.backward()
        else:
            np.testing.assert_allclose(model.forward_backward(IDS, labels, mask), loss.item(), rtol=1e-9)
        for name, parameter in model.named_parameters():
            gradient = wanted[name].grad.numpy()
            np.testing.assert_allclose(parameter.grad, gradient, rtol=1e-9, atol=1e-14, err_msg=f"{way}: {name}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_gradient_would_be_seen(kind: str) -> None:
    """The negative control of the test above: the gradient with another length differs."""
    model = build(kind)
    grads = []
    for lengths in (LENGTHS, np.full(B, T)):
        model.zero_grad()
        model.forward_backward(IDS, np.where(MASK, IDS, -100), (np.arange(T) < lengths[:, None]).astype(int))
        grads.append({name: parameter.grad.copy() for name, parameter in model.named_parameters()})
    # What follows the end of a causal sequence changes nothing that is scored ...
    np.testing.assert_allclose(grads[0]["rnn.weight_hh_l0"], grads[1]["rnn.weight_hh_l0"], rtol=1e-9)
    # ... but a label more does.
    model.zero_grad()
    model.forward_backward(IDS)
    assert np.abs(model.rnn.weight_hh_l0.grad - grads[0]["rnn.weight_hh_l0"]).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_generating_with_the_state_equals_generating_without(kind: str) -> None:
    model = build(kind)
    for options in ({"temperature": 0}, {"temperature": 1.3, "top_k": 9, "seed": 3}):
        with_state = model.generate(IDS[:, :3], max_new_tokens=12, **options)
        without = model.generate(IDS[:, :3], max_new_tokens=12, use_cache=False, **options)
        np.testing.assert_array_equal(with_state, without)


@pytest.mark.parametrize("kind", KINDS)
def test_carried_state_reads_a_text_in_chunks_as_if_it_were_whole(kind: str) -> None:
    """Losses of overlapping chunks are those of the whole text; the gradient is cut between chunks."""
    whole = build(kind)
    carrying = build(kind, carry_state=True)
    carrying.load_state_dict(whole.state_dict())
    text = RNG.integers(0, V, (B, 13))
    chunks = [text[:, :5], text[:, 4:9], text[:, 8:13]]
    losses = [carrying.forward_backward(chunk) for chunk in chunks]
    np.testing.assert_allclose(np.mean(losses), whole.forward_backward(text), rtol=1e-12)
    assert carrying.carried_state()["h"].shape == (2, B, 6)
    with pytest.raises(ShapeError, match="a batch of 2 cannot go on from the state of a batch of 4"):
        carrying.forward_backward(text[:2, :5])
    before = carrying.carried_state()
    carrying.token_losses(text)  # an evaluation neither uses nor changes it
    np.testing.assert_array_equal(carrying.carried_state()["h"], before["h"])
    carrying.forget_state()
    np.testing.assert_allclose(carrying.forward_backward(chunks[0]), losses[0], rtol=1e-12)


def test_the_gradient_is_truncated_at_the_cut() -> None:
    """The last chunk's gradient is that of its loss with the carried state held fixed: numerically."""
    model = build("lstm", carry_state=True, num_layers=1)
    text = RNG.integers(0, V, (B, 9))
    model.forward_backward(text[:, :5])
    state = {name: values.copy() for name, values in model.carried_state().items()}
    model.zero_grad()
    model.forward_backward(text[:, 4:])
    gradient = model.rnn.weight_hh_l0.grad.copy()
    direction = RNG.normal(size=gradient.shape)
    losses = []
    for step in (1e-6, -1e-6):
        model.rnn.weight_hh_l0.data += step * direction
        model.load_carried_state(state)
        losses.append(model.forward_backward(text[:, 4:]))
        model.rnn.weight_hh_l0.data -= step * direction
    np.testing.assert_allclose((losses[0] - losses[1]) / 2e-6, (gradient * direction).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bidirectional": True}, "bidirectional and objective causal_lm do not go together"),
        ({"bidirectional": True, "objective": "masked_lm", "carry_state": True}, "bidirectional and carry_state"),
        ({"num_layers": 0}, "num_layers must be an integer >= 1, got 0"),
        ({"dropout": 1.0}, "dropout must be a number in \\[0, 1\\), got 1.0"),
        ({"objective": "causal"}, "objective must be one of causal_lm, masked_lm, got 'causal'. Did you mean"),
        ({"hiden_size": 3}, "unknown key 'hiden_size'. Did you mean 'hidden_size'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("lstm", **settings)


@pytest.mark.parametrize("mask", [[[0, 1, 1, 1, 1, 1, 1]], [[1, 1, 0, 1, 1, 0, 0]], [[0] * 7]], ids=str)
def test_padding_must_stand_at_the_end(mask: list[list[int]]) -> None:
    with pytest.raises(ShapeError, match=r"attention_mask: row 1 must be ones and then zeros"):
        build("gru")(IDS[:2], None, np.concatenate([np.ones((1, T), int), mask]))


def test_a_masked_model_does_not_generate_and_says_why() -> None:
    model = build("lstm", objective="masked_lm", bidirectional=True)
    with pytest.raises(ConfigError, match="lstm cannot generate: it learned masked_lm"):
        model.generate(IDS, max_new_tokens=1)
    with pytest.raises(ConfigError, match="labels: lstm learns masked_lm and needs labels"):
        model.forward_backward(IDS)

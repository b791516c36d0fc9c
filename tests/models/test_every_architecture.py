"""What every architecture promises alike: clear refusals, exact parts, modes left as they were.

A further architecture adds a row to SMALL.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError, DtypeError, NonFiniteError, RangeError, ShapeError
from tinygrad_edu.models import available_architectures, create_model
from tinygrad_edu.optim import SGD

V, B, T, LONGEST = 19, 3, 6, 8
_RNN = {"hidden_size": 6, "embedding_size": 4, "num_layers": 2, "max_seq_len": LONGEST}
SMALL: dict[str, dict[str, Any]] = {
    "custom_transformer": {"d_model": 8, "n_heads": 2, "n_blocks": 2, "d_ffn": 12, "max_seq_len": LONGEST},
    "gpt2": {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": LONGEST},
    "bert": {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 12,
        "max_position_embeddings": LONGEST,
    },
    "lstm": _RNN,
    "gru": _RNN,
    "rnn": _RNN,
    "seq2seq": {
        "d_model": 8,
        "n_heads": 2,
        "n_blocks": 1,
        "d_ffn": 12,
        "max_seq_len": LONGEST,
    },
}
NAMES = list(SMALL)
RNG = np.random.default_rng(8)
IDS = RNG.integers(3, V, (B, T))
PARTLY = np.where(np.arange(T) < np.array([[6], [5], [3]]), IDS, -100)


def build(name: str, **settings: Any) -> Any:
    settings = {"vocab_size": V, "dtype": "float64", **SMALL[name], **settings}
    if settings.pop("no_dropout", True):
        rates = [key for key in create_model({"architecture": name, **settings}).config.get() if _is_rate(key)]
        settings |= dict.fromkeys(rates, 0.0)
    return create_model({"architecture": name, **settings})


def _is_rate(key: str) -> bool:
    return key == "dropout" or key.endswith(("_pdrop", "dropout_prob"))


def test_every_architecture_has_a_row() -> None:
    assert set(SMALL) == set(available_architectures())


REFUSED = [
    ("id -1", lambda: np.where(IDS[1, 2] == IDS, -1, IDS), RangeError, r"must be in \[0, 19\), got -1 at position"),
    ("id V", lambda: np.where(IDS[1, 2] == IDS, V, IDS), RangeError, r"must be in \[0, 19\), got 19 at position"),
    ("float ids", lambda: IDS * 1.0, DtypeError, "input_ids must be integers, got float64"),
    ("one axis", lambda: IDS[0], ShapeError, r"input_ids: expected \(batch, time\), got"),
    ("no batch", lambda: IDS[:0], ShapeError, r"input_ids: the batch is empty, got \(0, 6\)"),
    ("no time", lambda: IDS[:, :0], ShapeError, r"input_ids: the batch is empty, got \(3, 0\)"),
    ("too long", lambda: np.tile(IDS, 2), ShapeError, "sequence of length 12 is longer than max_seq_len 8"),
    ("ragged", lambda: [[1, 2], [3]], ShapeError, "input_ids: the sequences of a batch must have one length"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ids", "kind", "message"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_ids_that_cannot_be(name: str, ids: Any, kind: type[Exception], message: str) -> None:
    model = build(name)
    with pytest.raises(kind, match=message):
        model(ids(), IDS)
    assert not any(layer._saved for layer in model.layers())


LABELS = [
    ("class V", np.full((B, T), V), RangeError, r"labels: targets must be in \[0, 19\) or ignore_index -100, got 19"),
    ("class -1", np.full((B, T), -1), RangeError, "got -1 at position"),
    ("float", IDS * 1.0, DtypeError, "labels must be integers, got float64"),
    ("other batch", IDS[:2], ShapeError, "labels"),
    ("all ignored", np.full((B, T), -100), ConfigError, "every label of the batch is -100"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("labels", "kind", "message"), [row[1:] for row in LABELS], ids=[row[0] for row in LABELS])
def test_labels_that_cannot_be(name: str, labels: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        build(name).forward_backward(IDS, labels)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_cannot_be(name: str) -> None:
    model = build(name)
    with pytest.raises(ShapeError, match=r"attention_mask must have the shape of input_ids"):
        model(IDS, IDS, np.ones((B, T - 1), int))
    with pytest.raises(ConfigError, match=f"{name} takes no 'token_types'; it takes input_ids, labels, attention_mask"):
        model(IDS, IDS, token_types=IDS)


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward_equal_the_pass_without_logits(name: str) -> None:
    model = build(name)
    out = model(IDS, PARTLY)
    assert tuple(out.logits.shape[:2]) == (B, T) and out.logits.shape[-1] == V
    assert out["loss"] == out.loss == out[0]
    model.backward()
    wanted = {key: parameter.grad.copy() for key, parameter in model.named_parameters()}
    model.zero_grad()
    np.testing.assert_allclose(model.forward_backward(IDS, PARTLY), out.loss, rtol=1e-12)
    for key, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad, wanted[key], rtol=1e-9, atol=1e-15, err_msg=key)
    assert not any(layer._saved for layer in model.layers())
    assert np.abs(model.flat.grad).max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_parts_with_a_divisor_are_the_whole(name: str) -> None:
    model = build(name)
    whole = model.forward_backward(IDS, PARTLY)
    gradient = model.flat.grad.copy()
    model.zero_grad()
    parts = [(IDS[:1], PARTLY[:1]), (IDS[1:], PARTLY[1:])]
    count = sum(model.count_targets(*part) for part in parts)
    assert count == model.count_targets(IDS, PARTLY)
    loss = sum(model.forward_backward(*part, divisor=count) for part in parts)
    np.testing.assert_allclose(loss, whole, rtol=1e-12)
    np.testing.assert_allclose(model.flat.grad, gradient, rtol=1e-9, atol=1e-14)
    # The mean of the parts' means is another number: these have unequal numbers of targets.
    means = [model.forward_backward(*part) for part in parts]
    assert abs(np.mean(means) - whole) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_tokens_are_those_of_the_batch(name: str) -> None:
    model = build(name)
    losses, correct = model.token_losses(IDS, PARTLY)
    np.testing.assert_allclose(losses.sum() / model.count_targets(IDS, PARTLY), model(IDS, PARTLY).loss, rtol=1e-12)
    assert losses.shape == correct.shape and correct.dtype == bool
    assert model.training


@pytest.mark.parametrize("name", NAMES)
def test_label_smoothing_while_training_alone(name: str) -> None:
    model = build(name)
    plain = model.forward_backward(IDS, PARTLY)
    model.label_smoothing = 0.2
    smoothed = model.forward_backward(IDS, PARTLY)
    np.testing.assert_allclose(model(IDS, PARTLY).loss, smoothed, rtol=1e-12)
    assert abs(smoothed - plain) > 1e-6
    model.eval()
    np.testing.assert_allclose(model(IDS, PARTLY).loss, plain, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_steps_learn_and_a_broken_one_changes_nothing(name: str) -> None:
    model = build(name, dtype="float32")
    model.optimizer = SGD(model, lr=0.5, momentum=0.9)
    losses = [model.train_step(IDS, PARTLY)["loss"] for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    model.get_input_embeddings().weight.data[IDS[0, 0]] = math.nan
    before = model.flat.data.copy()
    with pytest.raises(NonFiniteError):
        model.train_step(IDS, PARTLY)
    np.testing.assert_array_equal(model.flat.data, before)


@pytest.mark.parametrize("name", NAMES)
def test_generating_or_saying_why_not(name: str) -> None:
    model = build(name)
    if not model.supports_generation:
        with pytest.raises(ConfigError, match=f"generate: {name} cannot generate: it learned masked_lm"):
            model.generate(IDS[:, :3], max_new_tokens=2)
        return
    greedy = model.generate(IDS[:, :3], max_new_tokens=4, do_sample=False)
    np.testing.assert_array_equal(
        greedy, model.generate(IDS[:, :3], max_new_tokens=4, do_sample=False, use_cache=False)
    )
    streamed = np.stack(list(model.stream(IDS[:, :3], max_new_tokens=4, do_sample=False)), axis=1)
    np.testing.assert_array_equal(greedy[:, -streamed.shape[1] :], streamed)
    for settings, kind, message in (
        ({"temperature": -1}, ConfigError, "temperature must be a finite number >= 0"),
        ({"top_p": 0}, ConfigError, r"top_p must be in \(0, 1\]"),
        ({"top_k": -1}, ConfigError, "top_k must be an integer >= 1"),
        ({"eos_token_id": V}, RangeError, r"eos_token_id must be an integer in \[0, 19\)"),
        ({"max_new_tokens": LONGEST + 1}, ShapeError, "max_seq_len 8"),
    ):
        with pytest.raises(kind, match=message):
            model.generate(IDS[:, :3], **{"max_new_tokens": 2, **settings})


@pytest.mark.parametrize("name", NAMES)
def test_a_vocabulary_grows_and_training_goes_on(name: str) -> None:
    model = build(name, dtype="float32")
    model.train_step(IDS, PARTLY)
    kept = model.get_input_embeddings().weight.data.copy()
    model.resize_token_embeddings(V + 4)
    np.testing.assert_array_equal(model.get_input_embeddings().weight.data[:V], kept)
    assert model.vocab_size == model.config.vocab_size == V + 4
    assert math.isfinite(model.train_step(IDS + 4, np.where(PARTLY < 0, PARTLY, PARTLY + 4))["loss"])
    with pytest.raises(ConfigError, match="vocab_size must be an integer >= 1, got 0"):
        model.resize_token_embeddings(0)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_goes_on_where_it_was(name: str, tmp_path: Any) -> None:
    model = build(name, dtype="float32", no_dropout=False)
    model.train_step(IDS, PARTLY)
    path = model.save_checkpoint(tmp_path)
    again = type(model).load_checkpoint(path)
    assert again.config == model.config
    for _ in range(2):
        assert again.train_step(IDS, PARTLY) == model.train_step(IDS, PARTLY)
    np.testing.assert_array_equal(again.flat.data, model.flat.data)


@pytest.mark.parametrize("name", NAMES)
def test_facts(name: str) -> None:
    info = build(name).get_model_info()
    model = build(name)
    assert model.get_parameter_count() == sum(p.size for p in model.parameters()) == info["parameters"]
    assert info["model_type"] == name and info["config"]["vocab_size"] == V


@pytest.mark.parametrize("name", NAMES)
def test_labels_left_out_leave_padding_out(name: str) -> None:
    model = build(name)
    mask = (PARTLY != -100).astype(np.int64)
    if model.objective != "causal_lm":
        with pytest.raises(ConfigError, match=f"labels: {name} learns .* and needs labels"):
            model.forward_backward(IDS, None, mask)
        return
    np.testing.assert_allclose(
        model.forward_backward(IDS, None, mask), model.forward_backward(IDS, PARTLY, mask), rtol=1e-12
    )
    assert model.count_targets(IDS, None, mask) == model.count_targets(IDS, PARTLY)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn"])
def test_a_carried_state_is_saved_cast_and_not_broken(name: str, tmp_path: Any) -> None:
    model = build(name, dtype="float32", carry_state=True)
    model.label_smoothing = 0.1
    model.train_step(IDS)
    again = type(model).load_checkpoint(model.save_checkpoint(tmp_path))
    assert again.label_smoothing == 0.1
    kept = {key: values.copy() for key, values in model.carried_state().items()}
    assert again.train_step(IDS) == model.train_step(IDS)

    weight = again.get_input_embeddings().weight.data
    before, state = weight.copy(), {key: values.copy() for key, values in again.carried_state().items()}
    weight[...] = math.nan
    with pytest.raises(NonFiniteError):
        again.train_step(IDS)
    weight[...] = before
    assert kept.keys() == state.keys()
    for key, values in again.carried_state().items():
        np.testing.assert_array_equal(values, state[key])
    assert math.isfinite(again.train_step(IDS)["loss"])

    model.astype("float64").optimizer = None
    assert model.carried_state()["h"].dtype == np.float64
    assert math.isfinite(model.train_step(IDS)["loss"])

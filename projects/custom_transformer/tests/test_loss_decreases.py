"""The model of this project: right shapes, and it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinygrad_edu.models import CustomTransformerConfig, CustomTransformerWrapper

VOCAB, BATCH, TIME = 97, 4, 24


def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (BATCH, TIME))


@pytest.fixture
def model() -> CustomTransformerWrapper:
    return CustomTransformerWrapper(
        CustomTransformerConfig(
            vocab_size=VOCAB, max_seq_len=32, n_blocks=2, n_heads=4, d_model=32, d_ffn=64, dropout=0.1, seed=0
        )
    )


def test_forward_pass(model: CustomTransformerWrapper) -> None:
    output = model.eval().forward(ids())
    assert output.logits.shape == (BATCH, TIME, VOCAB)
    assert output.logits.dtype == np.float32
    assert output.loss is None
    assert np.isfinite(output.logits).all()


def test_forward_with_labels(model: CustomTransformerWrapper) -> None:
    model.eval()
    output = model.forward(ids(), labels=ids())
    assert output["loss"] == output.loss
    assert abs(float(output.loss) - math.log(VOCAB)) < 0.2  # it knows nothing yet: as good as guessing
    logits = output.logits[:, :-1].astype(np.float64)  # labels are shifted inside
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    by_hand = -np.take_along_axis(log_probs, ids()[:, 1:, None], axis=-1).mean()
    assert float(output.loss) == pytest.approx(by_hand, rel=1e-5)
    labels = ids()
    labels[:, TIME // 2 :] = -100
    assert float(model.forward(ids(), labels=labels).loss) != pytest.approx(float(output.loss), rel=1e-5)


def test_train_step(model: CustomTransformerWrapper) -> None:
    before = {name: array.copy() for name, array in model.state_dict().items()}
    result = model.train_step(ids(), ids(), learning_rate=1e-3)
    assert isinstance(result["loss"], float)
    assert math.isfinite(result["loss"])
    unchanged = [name for name, array in model.state_dict().items() if np.array_equal(array, before[name])]
    assert unchanged == []


def test_loss_decreases_on_fixed_batch(model: CustomTransformerWrapper) -> None:
    losses = [model.train_step(ids(), ids(), learning_rate=5e-3)["loss"] for _ in range(50)]
    assert losses[-1] < losses[0] / 2


def test_no_nan_gradients(model: CustomTransformerWrapper) -> None:
    model.train()
    for _ in range(3):
        model.zero_grad()
        model.forward_backward(ids(), ids())
        for name, parameter in model.named_parameters():
            assert np.isfinite(parameter.grad).all(), name
            assert np.abs(parameter.grad).max() > 0, f"{name} has no gradient"
        model.train_step(ids(), ids(), learning_rate=1e-3)

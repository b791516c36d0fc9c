"""TextEncoder against torch.nn.TransformerEncoder between tables of tokens and positions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, DtypeError, RangeError, ShapeError
from tinygrad_edu.models import ConditionalUNet, Network, TextEncoder

from .vision_twins import TextTwin, compare, move

V, B, L, C = 19, 3, 5, 8
SMALL: dict[str, Any] = {"vocab_size": V, "max_seq_len": 7, "d_model": C, "n_blocks": 2, "n_heads": 2}
IDS = np.random.default_rng(2).integers(0, V, (B, L))
MASK = np.arange(L) < np.array([5, 3, 1])[:, None]


def draw(*shape: int, dtype: str = "float64", seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def build(dtype: str = "float64", **changes: Any) -> TextEncoder:
    return move(TextEncoder(**{**SMALL, **changes}, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("changes", [{}, {"d_ffn": 10, "n_blocks": 1, "n_heads": 4}], ids=["default", "other"])
@pytest.mark.parametrize("mask", [np.ones((B, L), bool), MASK], ids=["full", "padded"])
def test_outputs_and_every_gradient(mask: Any, changes: dict[str, Any], dtype: str) -> None:
    model = build(dtype, **changes)
    upstream = (draw(B, L, C, dtype=dtype, seed=4), draw(B, C, dtype=dtype, seed=5))
    compare(model, TextTwin(model.config), (IDS, mask), upstream)


def test_no_mask_is_nothing_padded_and_numbers_will_do() -> None:
    model = build()
    for one, other in zip(model(IDS), model(IDS.tolist(), np.ones((B, L))), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [y.shape for y in model(IDS)] == [(B, L, C), (B, C)]


def test_each_output_alone_may_have_a_gradient() -> None:
    model = build()
    dsequence, dvector = draw(B, L, C), draw(B, C)
    gradients = []
    for given in ((dsequence, None), (None, dvector), (dsequence, dvector)):
        model.zero_grad()
        model(IDS, MASK)
        model.backward(*given)
        gradients.append(model.flat.grad.copy())
    np.testing.assert_allclose(gradients[0] + gradients[1], gradients[2], rtol=1e-9, atol=1e-12)
    model(IDS, MASK)
    with pytest.raises(ConfigError, match="wanted the gradient of the sequence, of the vector, or of both"):
        model.backward(None)


def test_padding_changes_nothing() -> None:
    model = build()
    with tg.inference():
        sequence, vector = model(IDS, MASK)
        for row, length in enumerate(MASK.sum(axis=1)):
            alone = model(IDS[row : row + 1, :length])
            np.testing.assert_allclose(sequence[row, :length], alone[0][0], rtol=1e-9)
            np.testing.assert_allclose(vector[row], alone[1][0], rtol=1e-9)
        nothing, empty = model(IDS, np.zeros_like(MASK))
    assert np.isfinite(nothing).all() and not empty.any()


def test_text_to_image_all_the_way() -> None:
    """Encoder and network as one function: a central difference in every direction at once."""
    encoder = build()
    net = move(ConditionalUNet(2, base=8, channel_multipliers=(1, 2), blocks_per_level=1, attention_levels=(1,),
                               num_heads=2, num_groups=4, context_dim=C, dtype="float64"))  # fmt: skip
    x, t, dy = draw(B, 2, 6, 5), np.array([3, 0, 999]), draw(B, 2, 6, 5, seed=9)

    def loss() -> float:
        with tg.inference():
            return float((net(x, t, encoder(IDS, MASK)[0], MASK) * dy).sum())

    net(x, t, encoder(IDS, MASK)[0], MASK)
    _, dcontext = net.backward(dy)
    encoder.backward(dcontext)
    parameters = [*encoder.parameters(), *net.parameters()]
    directions = [draw(*parameter.shape, seed=seed) for seed, parameter in enumerate(parameters)]
    slope = sum(float((p.grad * v).sum()) for p, v in zip(parameters, directions, strict=True))
    values = []
    for step in (2, 1, -1, -2):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data += step * 1e-4 * direction
        values.append(loss())
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data -= step * 1e-4 * direction
    numeric = (-values[0] + 8 * values[1] - 8 * values[2] + values[3]) / 12e-4
    assert slope == pytest.approx(numeric, rel=1e-7)


def test_a_folder_keeps_it(tmp_path: Path) -> None:
    model = build("float32").eval()
    model.save_pretrained(tmp_path / "text")
    other = Network.from_pretrained(tmp_path / "text")
    assert isinstance(other, TextEncoder) and other.config == model.config
    for one, same in zip(model(IDS, MASK), other(IDS, MASK), strict=True):
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vocab_size": 0}, "vocab_size must be an integer >= 1, got 0"),
        ({"n_heads": 3}, "d_model must be divisible by n_heads, got 8 and 3"),
        ({"d_ffn": -1}, "d_ffn must be an integer >= 1, got -1"),
        ({"dropout": 1}, "dropout must be a number in [0, 1), got 1"),
    ],
)
def test_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(**changes)


@pytest.mark.parametrize(
    "ids, mask, error, message",
    [
        (IDS + V, None, RangeError, "ids must be in [0, 19), got"),
        (-IDS - 1, None, RangeError, "ids must be in [0, 19), got -"),
        (IDS / 2, None, DtypeError, "ids must be integers, got float64"),
        (IDS[0], None, ShapeError, "input_ids must be (batch, time), not empty, got (5,)"),
        (IDS[:, :0], None, ShapeError, "input_ids must be (batch, time), not empty, got (3, 0)"),
        (np.zeros((1, 8), int), None, ShapeError, "sequence of length 8 is longer than max_seq_len 7"),
        (IDS, MASK[:2], ShapeError, "mask must have the shape of input_ids, (3, 5), got (2, 5)"),
    ],
)
def test_inputs(ids: Any, mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        build()(ids, mask)

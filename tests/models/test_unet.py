"""UNet against its twin in torch, at sizes that halve evenly and sizes that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import CheckpointError, ConfigError, DtypeError, ShapeError
from tinygrad_edu.losses import MeanSquaredError
from tinygrad_edu.models import Network, UNet
from tinygrad_edu.optim import AdamW

from .vision_twins import UNetTwin, compare, load, move


def draw(*shape: int, dtype: str = "float64", seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


VARIANTS: list[dict[str, Any]] = [
    {},
    {"norm": "group", "num_groups": 2},
    {"up": "bilinear"},
    {"up": "bilinear", "norm": "group", "num_groups": 4},
    {"depth": 1},
    {"depth": 4, "base": 2},
]


def build(dtype: str = "float64", **changes: Any) -> UNet:
    return move(UNet(**{"in_channels": 3, "out_channels": 2, "base": 4, "depth": 2, "dtype": dtype, **changes}))


def name_of(variant: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in variant.items()) or "default"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [(32, 16), (19, 22)], ids=["even", "odd"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_output_and_every_gradient(variant: dict[str, Any], size: tuple[int, int], dtype: str) -> None:
    model = build(dtype, **variant)
    x, dy = draw(4, 3, *size, dtype=dtype), draw(4, 2, *size, dtype=dtype, seed=4)
    compare(model, UNetTwin(model.config), (x,), dy)


def test_evaluation_uses_running_statistics() -> None:
    model = build()
    with tg.inference():
        for seed in range(3):
            model(draw(2, 3, 8, 8, seed=seed) * 2 + 1)
    before = {name: values.copy() for name, values in model.state_dict().items()}
    compare(model.eval(), UNetTwin(model.config), (draw(1, 3, 9, 8),), draw(1, 2, 9, 8, seed=4))
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_the_weights_of_the_twin_come_back() -> None:
    model, other = build(), build(seed=1)
    twin = load(UNetTwin(model.config), model)
    other.load_state_dict(twin.state_dict())
    x = draw(1, 3, 8, 12)
    with tg.inference():
        np.testing.assert_array_equal(other.eval()(x), model.eval()(x))


def test_channels_last_in_memory_is_the_same_image() -> None:
    model = build("float32")
    x, dy = draw(2, 3, 11, 8, dtype="float32"), draw(2, 2, 11, 8, dtype="float32", seed=4)
    results = []
    for last in (False, True):
        given = [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, 3)), 3, 1) if last else a for a in (x, dy)]
        model.zero_grad()
        results.append((model(given[0]), model.backward(given[1]), model.flat.grad.copy()))
    for plain, lasting in zip(*results, strict=True):
        np.testing.assert_allclose(lasting, plain, rtol=1e-3, atol=1e-4 * np.abs(plain).max())


def test_at_base_64_it_has_the_31_million_parameters_of_the_paper() -> None:
    widths = [64, 128, 256, 512, 1024]
    down = sum(9 * inputs * c + 9 * c * c for inputs, c in zip([3, *widths], widths, strict=False))
    up = sum(9 * 2 * c * c + 9 * c * c + (4 * 2 * c * c + c) for c in widths[:-1])
    norms = 2 * (2 * sum(widths) + 2 * sum(widths[:-1]))
    with tg.backend.outline():
        assert UNet(3, 1, base=64).num_parameters() == down + up + norms + 64 + 1 == 31_037_633


def test_it_begins_with_signals_of_size_one() -> None:
    model = UNet(3, 2, base=8, norm="group")
    with tg.inference():
        y = model(draw(2, 3, 64, 64, dtype="float32"))
    assert 0.3 < y.std() < 3


def test_it_learns_to_mark_what_is_bright() -> None:
    model = UNet(1, 1, base=4, depth=2)
    rng, loss = np.random.default_rng(0), MeanSquaredError()
    optimizer = AdamW(model, lr=1e-2)
    losses = []
    for _ in range(80):
        x = rng.normal(size=(4, 1, 16, 16)).astype("float32")
        model.zero_grad()
        losses.append(loss(model(x), (x > 0).astype("float32")))
        model.backward(loss.backward())
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.25 * np.mean(losses[:3])


# -- on disk -----------------------------------------------------------------------------------------


def test_a_folder_holds_settings_weights_and_statistics(tmp_path: Path) -> None:
    model = build("float32", up="bilinear")
    model(draw(2, 3, 8, 8, dtype="float32"))
    model.clear_saved()
    model.save_pretrained(tmp_path / "unet")
    for kind in (UNet, Network):
        other = kind.from_pretrained(tmp_path / "unet")
        assert type(other) is UNet and not other.training and other.config == model.config
        for name, values in model.state_dict().items():
            np.testing.assert_array_equal(other.state_dict()[name], values, err_msg=name)
    assert UNet.from_pretrained(tmp_path / "unet", dtype="float64").head.weight.dtype == "float64"
    with pytest.raises(CheckpointError, match="holds 'config.json' already"):
        model.save_pretrained(tmp_path / "unet")
    model.save_pretrained(tmp_path / "unet", overwrite=True)


def test_a_damaged_folder(tmp_path: Path) -> None:
    build("float32").save_pretrained(tmp_path / "unet")
    with pytest.raises(ConfigError, match="unknown setting 'bas'. Did you mean 'base'"):
        UNet.from_pretrained(tmp_path / "unet", bas=8)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        UNet.from_pretrained(tmp_path / "other")
    config = tmp_path / "unet" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"base": 4', '"base": 8'))
    with pytest.raises(CheckpointError, match=r"does not hold a whole UNet: (?s:.*)misshapen: level.0.weight"):
        UNet.from_pretrained(tmp_path / "unet")
    config.write_text(text.replace('"unet"', '"unett"'))
    with pytest.raises(CheckpointError, match="holds a model of type 'unett', wanted unet. Did you mean 'unet'"):
        UNet.from_pretrained(tmp_path / "unet")
    config.write_text(text.replace('"base": 4', '"base": 0'))
    with pytest.raises(CheckpointError, match="base must be an integer >= 1, got 0"):
        UNet.from_pretrained(tmp_path / "unet")
    config.write_text(text)
    weights = tmp_path / "unet" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        UNet.from_pretrained(tmp_path / "unet")


# -- what a user can get wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"in_channels": 0}, "in_channels must be an integer >= 1, got 0"),
        ({"depth": 2.5}, "depth must be an integer >= 1, got 2.5"),
        ({"norm": "layer"}, "norm must be one of batch, group, got 'layer'"),
        ({"up": "bilinar"}, "up must be one of transpose, bilinear, got 'bilinar'. Did you mean 'bilinear'"),
        ({"norm": "group", "num_groups": 3}, "base must be divisible by num_groups, got 4 and 3"),
        ({"dropout": 1.0}, r"dropout must be a number in \[0, 1\), got 1.0"),
    ],
)
def test_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"UNetConfig:\n  out_channels .* got -1\n  base .* got 0\n  norm .* got 'no'"
    ):
        UNet(3, -1, base=0, norm="no")


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 4, 16, 16), "the image has 4 channels where 3 are wanted"),
        ((3, 16, 16), r"UNet: expected \(batch, 3, height, width\), got \(3, 16, 16\)"),
        ((0, 3, 16, 16), "the batch is empty"),
        ((2, 3, 16, 3), r"images must be at least 4 x 4, to be halved 2 times, got \(2, 3, 16, 3\)"),
    ],
)
def test_images(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build()(np.zeros(shape))


def test_integer_images_and_one_value_a_channel() -> None:
    with pytest.raises(DtypeError, match="x must hold floating-point numbers, got uint8; divide bytes by 255"):
        build()(np.zeros((2, 3, 8, 8), "uint8"))
    with pytest.raises(ShapeError, match="BatchNorm2d: the statistics of a batch need more than one value a channel"):
        build()(np.zeros((1, 3, 4, 4)))

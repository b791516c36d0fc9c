"""The models of images name no library: on a strict stand-in for CuPy they give what they give on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import to_device, to_host
from tinygrad_edu.models import ConditionalUNet, Network, ResNet18, TextEncoder, UNet

from .. import strict_cupy
from .vision_twins import move

NET: dict[str, Any] = {"in_channels": 2, "base": 8, "channel_multipliers": (1, 2), "blocks_per_level": 1,
                       "attention_levels": (1,), "num_heads": 2, "num_groups": 4}  # fmt: skip


def draw(*shape: int, seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


X, T, DROP = draw(2, 2, 7, 6), np.array([0, 7]), np.array([True, False])
MASK = np.array([[True, True, False], [True, False, False]])
CASES: dict[str, tuple[Any, dict[str, Any], tuple[Any, ...]]] = {
    "unet": (UNet, {"in_channels": 2, "out_channels": 2, "base": 4, "depth": 2}, (X,)),
    "unet, bilinear, group norm": (
        UNet,
        {
            "in_channels": 2,
            "out_channels": 2,
            "base": 4,
            "depth": 2,
            "norm": "group",
            "num_groups": 2,
            "up": "bilinear",
        },
        (X,),
    ),
    "resnet": (ResNet18, {"in_channels": 2, "num_classes": 3, "small_input": True}, (X,)),
    "conditional unet": (ConditionalUNet, NET, (X, T)),
    "conditional unet of classes": (ConditionalUNet, {**NET, "num_classes": 4}, (X, T, np.array([4, 1]), None, DROP)),
    "conditional unet of context": (
        ConditionalUNet,
        {**NET, "context_dim": 5, "scale_shift": True},
        (X, T, draw(2, 3, 5), MASK, DROP),
    ),
    "text encoder": (
        TextEncoder,
        {"vocab_size": 9, "d_model": 8, "n_heads": 2},
        (np.array([[1, 2, 0], [8, 3, 3]]), MASK),
    ),
}


@pytest.fixture
def strict() -> Iterator[Any]:
    with strict_cupy.strict_cuda() as module:
        yield module


def run(model: Any, inputs: tuple[Any, ...], device: str) -> dict[str, Any]:
    """Outputs, gradients and state after a forward and a backward."""
    outputs = model(*(value if value is None else to_device(value, device) for value in inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    upstream = [to_device(draw(*y.shape, seed=number), device) for number, y in enumerate(outputs)]
    returned = model.backward(*upstream)
    returned = returned if isinstance(returned, tuple) else (returned,)
    found = {f"y{i}": to_host(y) for i, y in enumerate(outputs)}
    found |= {f"dx{i}": to_host(dx) for i, dx in enumerate(returned) if dx is not None}
    found |= {f"gradient of {name}": to_host(parameter.grad) for name, parameter in model.named_parameters()}
    return found | {name: to_host(values) for name, values in model.state_dict().items()}


def compare(name: str) -> None:
    kind, settings, inputs = CASES[name]
    cpu = move(kind(**settings, dtype="float64"))
    with tg.use("cuda"):
        cuda = kind(**settings, dtype="float64", device="cuda")
        cuda.load_state_dict(cpu.state_dict())
        there = run(cuda, inputs, "cuda")
    here = run(cpu, inputs, "cpu")
    assert here.keys() == there.keys()
    for key, value in here.items():
        np.testing.assert_allclose(
            there[key], value, rtol=1e-8, atol=1e-11 * max(1.0, np.abs(value).max()), err_msg=key
        )


@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward(name: str, strict: Any) -> None:
    compare(name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_on_cuda(name: str) -> None:
    compare(name)


def test_from_a_folder_to_the_device(strict: Any, tmp_path: Path) -> None:
    model = UNet(2, 2, base=4, depth=1)
    model.save_pretrained(tmp_path / "net")
    other = Network.from_pretrained(tmp_path / "net", device="cuda")
    assert type(other.head.weight.data) is not np.ndarray
    x = X.astype("float32")
    with tg.inference(), tg.use("cuda"):
        y = other(to_device(x, "cuda"))
    with tg.inference():
        np.testing.assert_allclose(to_host(y), model.eval()(x), rtol=1e-4, atol=1e-5)

"""A whole model trained and sampled on the other device, beside the CPU: what single layers do not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import backend
from tinygrad_edu.backend import to_device, to_host
from tinygrad_edu.models import CustomTransformerConfig, CustomTransformerWrapper
from tinygrad_edu.optim import SGD, Adam, AdamW, clip_grad_norm_

SETTINGS = {"vocab_size": 31, "d_model": 16, "n_heads": 2, "n_blocks": 2, "d_ffn": 24, "max_seq_len": 12}
VARIANTS = {
    "default": {},
    "rotary": {"position": "rotary"},
    "sinusoidal, post-norm": {"position": "sinusoidal", "norm_placement": "post"},
    "dropout": {"dropout": 0.2},
    "own head": {"tied_head": False, "bias": False},
    "float64": {"dtype": "float64"},
}
OPTIMIZERS = {
    "SGD": lambda model: SGD(model, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda model: Adam(model, lr=1e-2, weight_decay=0.01),
    "AdamW": lambda model: AdamW(model, lr=1e-2),
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
optimizers = pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def train(device: str, variant: dict[str, Any]) -> tuple[list[float], np.ndarray]:
    """Losses of three steps, and what is generated then."""
    model = CustomTransformerWrapper(CustomTransformerConfig(**{**SETTINGS, **variant, "device": device}))
    ids = to_device(np.random.default_rng(0).integers(0, 31, (3, 12)), device)
    losses = [float(model.train_step(ids, ids, 1e-2)["loss"]) for _ in range(3)]
    model.eval()
    return losses, to_host(model.generate(ids[:1, :4], max_length=10, do_sample=False))


def compare(device: str, variant: dict[str, Any]) -> None:
    (here, text), (there, same_text) = train("cpu", variant), train(device, variant)
    np.testing.assert_allclose(there, here, rtol=1e-9 if "dtype" in variant else 1e-4)
    np.testing.assert_array_equal(same_text, text)


@variants
def test_on_a_strict_stand_in_for_cupy(variant: dict[str, Any], strict_cuda: Any) -> None:
    compare("cuda", variant)


@pytest.mark.gpu
@variants
def test_on_cuda(variant: dict[str, Any]) -> None:
    compare("cuda", variant)


def optimise(device: str, build: Any) -> dict[str, np.ndarray]:
    """Parameters after three clipped steps of a small network."""
    g = backend.Generator(0)
    model = tg.layers.Sequential(
        tg.layers.Linear(6, 9, generator=g), tg.layers.GELU(), tg.layers.Linear(9, 4, generator=g)
    )
    model.to(device).astype("float64").flatten()
    optimizer, loss = build(model), tg.losses.CrossEntropyLoss()
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, targets = to_device(rng.normal(size=(5, 6)), device), to_device(rng.integers(0, 4, 5), device)
        loss(model(x), targets)
        model.zero_grad()
        model.backward(loss.backward())
        clip_grad_norm_(model, 0.5)
        optimizer.step()
    return {name: to_host(value) for name, value in model.state_dict().items()}


def compare_optimizers(build: Any) -> None:
    here, there = optimise("cpu", build), optimise("cuda", build)
    for name in here:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-10, atol=1e-12, err_msg=name)


@optimizers
def test_optimizers_on_a_strict_stand_in_for_cupy(build: Any, strict_cuda: Any) -> None:
    compare_optimizers(build)


@pytest.mark.gpu
@optimizers
def test_optimizers_on_cuda(build: Any) -> None:
    compare_optimizers(build)


def test_masks_are_made_where_the_ids_are(strict_cuda: Any) -> None:
    from tinygrad_edu.layers import create_causal_mask, create_combined_mask, create_padding_mask

    ids = to_device(np.array([[5, 6, 0], [7, 0, 0]]), "cuda")
    for made in (create_padding_mask(ids, 0), create_combined_mask(ids, 0)):
        assert backend.device_of(made) == "cuda"
    with tg.use("cuda"):
        assert backend.device_of(create_causal_mask(3)) == "cuda"

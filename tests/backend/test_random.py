"""Generators: seeded, saved, restored, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import backend
from tinygrad_edu.backend import Generator, random_uniform
from tinygrad_edu.errors import CheckpointError, ConfigError


def draws(generator: Generator) -> list[Any]:
    return [
        generator.normal(2, 3).tolist(),
        generator.uniform(2, low=-1, high=1).tolist(),
        generator.integers(0, 9, 4).tolist(),
        generator.permutation(5).tolist(),
        generator.random(),
        generator.draw_seed(),
    ]


def test_the_same_seed_draws_the_same() -> None:
    assert draws(Generator(3)) == draws(Generator(3))
    assert draws(Generator(3)) != draws(Generator(4))


def test_a_state_goes_through_json_and_goes_on_exactly() -> None:
    generator = Generator(3)
    draws(generator)
    state = json.loads(json.dumps(generator.get_state()))
    wanted = draws(generator)
    other = Generator(99)
    other.set_state(state)
    assert draws(other) == wanted


@pytest.mark.parametrize(
    "state", [{}, {"state": {}}, {"state": {"state": "x", "inc": "1"}}, {"bit_generator": "MT19937", "state": {}}, None]
)
def test_a_state_that_is_none(state: Any) -> None:
    with pytest.raises(CheckpointError, match="not the state of a random generator"):
        Generator(0).set_state(state)


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True])
def test_seeds_that_are_none(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed must be an integer >= 0 or None, got "):
        Generator(seed)


def test_the_default_generator_can_be_seeded() -> None:
    before = backend.default_generator()
    try:
        backend.manual_seed(5)
        first = tg.layers.Linear(3, 2).weight.data
        backend.manual_seed(5)
        np.testing.assert_array_equal(tg.layers.Linear(3, 2).weight.data, first)
    finally:
        backend.random._default = before


def test_both_devices_start_alike(strict_cuda: Any) -> None:
    here = Generator(1).normal(3, 2)
    with tg.use("cuda"):
        there = Generator(1).normal(3, 2)
    assert backend.device_of(there) == "cuda"
    np.testing.assert_array_equal(backend.to_host(there), here)


def test_noise_is_the_same_on_both_devices(strict_cuda: Any) -> None:
    like = np.empty((5, 7), dtype="float32")
    for seed in (0, 12345, 2**63 - 1):
        here = random_uniform(like, seed)
        np.testing.assert_array_equal(backend.to_host(random_uniform(backend.to_device(like, "cuda"), seed)), here)


def test_moments() -> None:
    generator = Generator(0)
    normal = generator.normal(100_000, mean=2, std=3)
    assert normal.dtype == np.float32
    assert normal.mean() == pytest.approx(2, abs=0.05) and normal.std() == pytest.approx(3, abs=0.05)
    uniform = generator.uniform(100_000, low=-1, high=3, dtype="float64")
    assert uniform.dtype == np.float64
    assert uniform.min() >= -1 and uniform.max() < 3 and uniform.mean() == pytest.approx(1, abs=0.05)
    assert sorted(generator.permutation(9)) == list(range(9))

"""Seq2Seq and beam search name no library: on a strict stand-in for CuPy they give what they give on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import to_host
from tinygrad_edu.models import Seq2Seq, create_model

from .. import strict_cupy

SETTINGS: dict[str, Any] = {
    "vocab_size": 11,
    "max_seq_len": 8,
    "n_blocks": 1,
    "n_heads": 2,
    "d_model": 8,
    "d_ffn": 8,
    "dropout": 0.0,
    "dtype": "float64",
    "init_std": 1.0,
    "tied_head": False,
}
SOURCE = np.array([[3, 4, 5, 6], [7, 8, 0, 0]])
MASK = (SOURCE != 0).astype(np.int64)
TARGET = np.array([[5, 9, 2], [6, 2, -100]])


@pytest.fixture
def strict() -> Iterator[Any]:
    with strict_cupy.strict_cuda() as module:
        yield module


@pytest.mark.parametrize("settings", [{}, {"position": "learned", "checkpointing": True, "shared_embeddings": False}])
def test_steps_and_both_searches(strict: Any, settings: dict[str, Any]) -> None:
    cpu = Seq2Seq({**SETTINGS, **settings})
    with tg.use("cuda"):
        cuda = Seq2Seq({**SETTINGS, **settings, "device": "cuda"})
        cuda.load_state_dict(cpu.state_dict())
        for _ in range(2):
            results = [model.train_step(SOURCE, TARGET, 1e-2, attention_mask=MASK) for model in (cpu, cuda)]
            assert results[0] == pytest.approx(results[1], rel=1e-9)
        for name, value in cpu.state_dict().items():
            np.testing.assert_allclose(to_host(cuda.state_dict()[name]), value, rtol=1e-8, atol=1e-9)
        for arguments in ({}, {"num_beams": 3, "early_stopping": "never"}, {"num_beams": 2, "use_cache": False}):
            outs = [m.generate(SOURCE, 8, attention_mask=MASK, **arguments) for m in (cpu, cuda)]
            np.testing.assert_array_equal(to_host(outs[1]), outs[0])
            assert type(outs[1]) is not np.ndarray


@pytest.mark.parametrize("kind", ["custom_transformer", "lstm"])
def test_searching_on_from_a_prompt(strict: Any, kind: str) -> None:
    size = (
        {"d_model": 8, "n_heads": 2, "d_ffn": 8, "n_blocks": 1} if kind == "custom_transformer" else {"hidden_size": 8}
    )
    cpu = create_model({"architecture": kind, "vocab_size": 11, "dtype": "float64", **size})
    for parameter in cpu.parameters():
        parameter.data[...] = np.random.default_rng(parameter.size).normal(size=parameter.shape)
    with tg.use("cuda"):
        cuda = create_model({"architecture": kind, "vocab_size": 11, "dtype": "float64", **size, "device": "cuda"})
        cuda.load_state_dict(cpu.state_dict())
        for use_cache in (True, False):
            outs = [m.generate([[1, 2], [3, 4]], 9, num_beams=3, use_cache=use_cache) for m in (cpu, cuda)]
            np.testing.assert_array_equal(to_host(outs[1]), outs[0])

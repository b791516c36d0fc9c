"""Published models name no library: loaded onto a strict stand-in for CuPy they compute what they do on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import to_host
from tinygrad_edu.models import from_pretrained

from .. import strict_cupy
from .test_pretrained import assert_same, build


@pytest.fixture
def strict() -> Iterator[Any]:
    with strict_cupy.strict_cuda() as module:
        yield module


@pytest.mark.parametrize("name", ["gpt2", "bert", "lstm"])
def test_loading_training_resizing_and_saving(name: str, strict: Any, tmp_path: Path) -> None:
    rates = {"gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "lstm": ("dropout",)}
    rates["bert"] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    off = dict.fromkeys(rates[name], 0.0)
    folder = build(name, dtype="float64", **off).save_pretrained(tmp_path / "model")
    cpu = from_pretrained(folder)
    ids = np.random.default_rng(1).integers(1, 30, (3, 7))
    more: dict[str, Any] = {"token_type_ids": ids % 2, "position_ids": ids % 8} if name == "bert" else {}
    with tg.use("cuda"):
        cuda = from_pretrained(folder, device="cuda")
        assert all(type(p.data) is not np.ndarray for p in cuda.parameters())
        for size in (30, 35):
            for model in (cpu, cuda):
                model.resize_token_embeddings(size)
            for _ in range(2):
                results = [model.train_step(ids, ids, 1e-2, **more) for model in (cpu, cuda)]
                assert results[0] == pytest.approx(results[1], rel=1e-9)
        for key, value in cpu.state_dict().items():
            np.testing.assert_allclose(to_host(cuda.state_dict()[key]), value, rtol=1e-8, atol=1e-9, err_msg=key)
        cuda.save_pretrained(tmp_path / "from-cuda")
        again = from_pretrained(tmp_path / "from-cuda", device="cpu")
    back = from_pretrained(cpu.save_pretrained(tmp_path / "from-cpu"))
    for (key, one), (_, two) in zip(again.named_parameters(), back.named_parameters(), strict=True):
        np.testing.assert_allclose(one.data, two.data, rtol=1e-8, atol=1e-9, err_msg=key)


def test_the_padding_row_and_the_pooler(strict: Any) -> None:
    cpu = build("bert", dtype="float64", add_pooling_layer=True, pad_token_id=4, hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0)  # fmt: skip
    ids = np.random.default_rng(1).integers(0, 30, (3, 7))
    ids[0, :3] = 4
    sequence, pooled = cpu.bert(ids)
    cpu.bert.backward(sequence, pooled)
    with tg.use("cuda"):
        cuda = build("bert", **{**cpu.config.get(), "device": "cuda"})
        assert_same(cuda.to("cpu"), cpu)
        cuda.to("cuda")
        cuda.bert.backward(*cuda.bert(strict.asarray(ids)))
        for one, two in zip(cpu.parameters(), cuda.parameters(), strict=True):
            np.testing.assert_allclose(to_host(two.grad), one.grad, rtol=1e-9, atol=1e-12)

"""A published folder holds a model's buffers too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.backend import zeros
from tinygrad_edu.errors import CheckpointError
from tinygrad_edu.layers import Buffer
from tinygrad_edu.models import GPT2, GPT2Config, register_architecture, registry
from tinygrad_edu.storage import load_weights, save_weights

from .test_pretrained import SMALL

IDS = np.arange(6).reshape(2, 3)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An architecture that keeps, beside its weights, a mean and a count; forgotten again after the test."""
    monkeypatch.setattr(registry, "_architectures", dict(registry._architectures))

    @dataclasses.dataclass(kw_only=True)
    class Config(GPT2Config):
        pass

    @register_architecture("counting")
    class Counting(GPT2):
        config_class = Config

        def __init__(self, config: Any):
            super().__init__(config)
            self.average, self.count = Buffer(zeros(3)), Buffer(zeros(dtype="int64"))

    return Counting


def test_they_go_out_and_come_back(counting: Any, tmp_path: Path) -> None:
    model = counting(counting.config_class(**SMALL["gpt2"]))
    model.average.data[...], model.count.data[...] = [1.5, -2, 0], 7
    folder = model.save_pretrained(tmp_path / "out")
    other = counting.from_pretrained(folder)
    assert other.average.data.tolist() == [1.5, -2, 0] and other.average.dtype == np.float32
    assert int(other.count.data) == 7 and other.count.dtype == np.int64
    np.testing.assert_array_equal(other(IDS).logits, model.eval()(IDS).logits)
    assert other.get_parameter_count() == model.get_parameter_count()


def test_what_is_wrong_with_them_is_listed(counting: Any, tmp_path: Path) -> None:
    folder = counting(counting.config_class(**SMALL["gpt2"])).save_pretrained(tmp_path / "out")
    file = folder / "model.safetensors"
    arrays = dict(load_weights(file))
    del arrays["average"]
    arrays["count"] = arrays["count"].astype("float32")
    file.unlink()
    save_weights(file, arrays)
    with pytest.raises(CheckpointError) as found:
        counting.from_pretrained(folder)
    assert "missing: average (3,)" in str(found.value)
    assert "wrong type: count expected int64, got float32" in str(found.value)

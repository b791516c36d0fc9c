"""A model saved and loaded goes on exactly where it was."""

from __future__ import annotations

import numpy as np
import pytest

from tinygrad_edu.errors import CheckpointError
from tinygrad_edu.models import CustomTransformerWrapper
from tinygrad_edu.optim import SGD
from tinygrad_edu.storage import save_checkpoint

CONFIG = {"vocab_size": 23, "max_seq_len": 8, "n_blocks": 1, "n_heads": 2, "d_model": 8, "d_ffn": 16, "dropout": 0.2}
IDS = np.random.default_rng(0).integers(0, 23, (3, 8))


@pytest.mark.parametrize("optimizer", [None, lambda m: SGD(m, lr=0.1, momentum=0.9)], ids=["default", "sgd"])
def test_training_goes_on_bit_for_bit(tmp_path, optimizer):
    model = CustomTransformerWrapper(CONFIG)
    model.optimizer = optimizer(model) if optimizer else None
    for _ in range(3):
        model.train_step(IDS, IDS, 1e-2)
    folder = model.save_checkpoint(tmp_path / "run")
    twin = CustomTransformerWrapper.load_checkpoint(folder)
    assert twin.config == model.config
    for _ in range(3):
        assert twin.train_step(IDS, IDS, 1e-2) == model.train_step(IDS, IDS, 1e-2)
    for name, values in model.state_dict().items():
        assert values.tobytes() == twin.state_dict()[name].tobytes(), name


def test_an_untrained_model_has_no_optimizer(tmp_path):
    model = CustomTransformerWrapper(CONFIG)
    model.save_checkpoint(tmp_path)
    assert CustomTransformerWrapper.load_checkpoint(tmp_path).optimizer is None


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    folder = CustomTransformerWrapper(CONFIG).save_checkpoint(tmp_path / "damaged")
    weights = next(folder.glob("model*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(CheckpointError):
        CustomTransformerWrapper.load_checkpoint(folder)
    save_checkpoint(tmp_path / "other", 0, {"model": {}}, {"model": {"model_type": "bert"}})
    with pytest.raises(CheckpointError, match=r"expected a model of type 'custom_transformer', found 'bert'"):
        CustomTransformerWrapper.load_checkpoint(tmp_path / "other")
    save_checkpoint(tmp_path / "part", 0, {"model": {}}, {"model": {"model_type": "custom_transformer"}})
    with pytest.raises(CheckpointError, match="does not hold a whole CustomTransformerWrapper"):
        CustomTransformerWrapper.load_checkpoint(tmp_path / "part")

"""The settings files beside the programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["encoder", "abstractor", "decoder", "finetune"])
def test_epochs_are_the_only_limit(name: str) -> None:
    """A file that limited the steps as well would let ``--epochs`` ask for more in vain."""
    training = yaml.safe_load((HERE / f"{name}.yaml").read_text("utf-8"))["training"]
    assert training["num_epochs"] >= 1 and training.get("max_steps") is None

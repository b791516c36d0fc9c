"""From a checkpoint back to the settings of its run, whatever schema these had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from tinygrad_edu.errors import CheckpointError
from tinygrad_edu.storage import Checkpoint
from tinygrad_edu.training import FoundryConfig
from tinygrad_edu.training.assembly import config_of
from tinygrad_edu.training.schema import RunConfig, Section


class GardenSection(Section):
    beds: int = Field(default=2, ge=1, description="how many")


class GardenConfig(FoundryConfig):
    garden: GardenSection = GardenSection()


class WalledGardenConfig(GardenConfig):
    wall: GardenSection = GardenSection()


def checkpoint(settings: Any, **documents: Any) -> Checkpoint:
    return Checkpoint(path=Path("step-3"), step=3, arrays={}, documents={"config": settings, **documents})


NESTED = {"model": {"architecture": "gpt2", "transformer": {}}}


@pytest.mark.parametrize(
    ("settings", "schema"),
    [
        (NESTED, FoundryConfig),
        ({"model": {"d_model": 64}}, RunConfig),
        ({**NESTED, "garden": {"beds": 5}}, GardenConfig),
        ({**NESTED, "garden": {}, "wall": {"beds": 7}}, WalledGardenConfig),
    ],
    ids=["foundry", "flat", "own", "derived from one's own"],
)
def test_the_schema_is_the_one_that_the_settings_are_of(settings: Any, schema: type[Any]) -> None:
    config = config_of(checkpoint(settings))
    assert type(config) is schema
    if schema is WalledGardenConfig:
        assert (config.garden.beds, config.wall.beds) == (2, 7)


def test_settings_that_no_schema_allows() -> None:
    with pytest.raises(CheckpointError) as caught:
        config_of(checkpoint({**NESTED, "garten": {"beds": 5}}, data={"tokenizer_json": "{}"}))
    message = str(caught.value)
    assert "garten" in message and "step-3" in message
    assert "a schema of your own, import the module that defines it" in message


@pytest.mark.parametrize("settings", [None, "text", 3])
def test_a_checkpoint_without_settings(settings: Any) -> None:
    with pytest.raises(CheckpointError, match="step-3: holds no config; wanted a checkpoint of a training run"):
        config_of(checkpoint(settings))


def test_a_run_that_is_of_no_language_model() -> None:
    with pytest.raises(CheckpointError, match="step-3: holds no tokenizer, so it is not of a language model"):
        config_of(checkpoint({"model": {"base": 16}, "data": {"size": 32}}))

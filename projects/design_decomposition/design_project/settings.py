"""The settings that all programs of this project read: sections of a YAML file, checked before anything is done."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tinygrad_edu.training.schema import COMMON_RULES, BaseConfig, Rule, Section, TrainingSection, rule


class DesignData(Section):
    """Which synthetic designs, and where they lie."""

    folder: str = Field(
        default="runs/design_decomposition/data", min_length=1, description="of the designs; made if it is not there"
    )
    count: int = Field(default=12000, ge=100, description="designs in all; a tenth each for validation and testing")
    size: int = Field(default=32, ge=32, le=256, multiple_of=32, description="pixels along a side")
    n_colours: int = Field(default=8, ge=5, le=16, description="of the palette")
    seed: int = Field(default=0, ge=0, description="of the series of designs")


class DesignTraining(TrainingSection):
    """How to train, with what the stages of this project have besides."""

    learning_rate: float = Field(default=2e-3, gt=0, description="peak learning rate")
    batch_size: int = Field(default=32, ge=1, description="designs a step")
    eval_every: int | None = Field(default=None, ge=1, description="steps between evaluations, or null for an epoch")
    save_every: int | None = Field(default=None, ge=1, description="steps between checkpoints, or null for an epoch")
    plateau_patience: int | None = Field(
        default=None,
        ge=0,
        description="evaluations without a better loss before the rate is lowered, or null for never",
    )
    plateau_factor: float = Field(default=0.5, gt=0, lt=1, description="by which the rate is then multiplied")
    begin_with: str | None = Field(default=None, description="run or checkpoint whose weights a new run begins with")
    shown: int = Field(default=8, ge=1, le=64, description="designs in each picture of predictions")
    output_dir: str = Field(default="runs/design_decomposition", min_length=1, description="where run folders go")


class DesignConfig(BaseConfig):
    """What every stage has; a stage adds a section ``model`` of its own."""

    data: DesignData = DesignData()
    training: DesignTraining = DesignTraining()

    rules: ClassVar[tuple[Rule, ...]] = tuple(
        (paths, check) for paths, check in COMMON_RULES if all(path.startswith("training.") for path in paths)
    )


class EncoderModel(Section):
    """The U-Net that reads the maps off a picture."""

    base: int = Field(default=16, ge=1, description="channels of the first level; each level down doubles them")
    depth: int = Field(default=4, ge=1, description="how often the picture is halved")
    up: str = Field(default="transpose", pattern="^(transpose|bilinear)$", description="transpose or bilinear")


class EncoderConfig(DesignConfig):
    """Settings of ``train_encoder.py``."""

    model: EncoderModel = EncoderModel()

    rules: ClassVar[tuple[Rule, ...]] = (
        rule(
            ("model.depth", "data.size"),
            lambda c: 1 << c.model.depth <= c.data.size,
            "{model.depth} is more often than data.size {data.size} can be halved",
        ),
        *DesignConfig.rules,
    )


class AbstractorModel(Section):
    """The ResNet-18 that judges a design by its maps."""

    small_input: bool = Field(default=False, description="keep the maps' size in the first layers: slower, sees finer")


class AbstractorConfig(DesignConfig):
    """Settings of ``train_abstractor.py``."""

    model: AbstractorModel = AbstractorModel()

"""The settings of both programs: sections of a YAML file, checked before anything is done."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tinygrad_edu.training.schema import COMMON_RULES, BaseConfig, Rule, Section, TrainingSection, rule


class DigitsData(Section):
    """How scikit-learn's 1,797 digits are divided."""

    split_seed: int = Field(default=0, ge=0, description="decides which digits are held out")
    shifts: bool = Field(default=False, description="train on each digit also moved by a pixel, up, down, left, right")


class DigitsTraining(TrainingSection):
    """How to train; as everywhere, with a folder of its own."""

    output_dir: str = Field(default="runs/digits", min_length=1, description="where run folders go")


class DigitsConfig(BaseConfig):
    """What both programs have; each adds sections of its own."""

    data: DigitsData = DigitsData()
    training: DigitsTraining = DigitsTraining()

    rules: ClassVar[tuple[Rule, ...]] = tuple(
        (paths, check) for paths, check in COMMON_RULES if all(path.startswith("training.") for path in paths)
    )


class ClassifierModel(Section):
    """The convolutional network that tells digits apart."""

    base: int = Field(
        default=32, ge=1, description="channels of the first two convolutions; the third has twice as many"
    )
    features: int = Field(default=64, ge=2, description="numbers that a digit is before the last linear map")
    dropout: float = Field(default=0.3, ge=0, lt=1, description="share of them dropped in training")


class ClassifierConfig(DigitsConfig):
    """Settings of ``train_classifier.py``."""

    model: ClassifierModel = ClassifierModel()


class DiffusionModel(Section):
    """The U-Net that takes noise away."""

    base: int = Field(default=32, ge=4, multiple_of=4, description="channels of the first level")
    levels: int = Field(
        default=2, ge=1, le=3, description="sizes of picture it works at; each level doubles the channels"
    )
    blocks: int = Field(default=2, ge=1, description="residual blocks a level")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="inside the blocks")


class DiffusionProcessSection(Section):
    """What noise, and what is learned of it."""

    steps: int = Field(default=1000, ge=2, description="T, from a picture to noise")
    schedule: str = Field(default="cosine", pattern="^(cosine|linear)$", description="cosine or linear")
    prediction: str = Field(
        default="v", pattern="^(epsilon|v|x0)$", description="what the network says: epsilon, v or x0"
    )
    condition_dropout: float = Field(
        default=0.1, ge=0, lt=1, description="share of the digits shown without their class, for guidance"
    )


class Sampling(Section):
    """How pictures are drawn and judged."""

    steps: int = Field(default=50, ge=1, description="of DDIM")
    guidance: float = Field(default=1.5, ge=0, description="1 follows the network as it is, more the class above all")
    per_class: int = Field(default=100, ge=1, description="pictures of each class for the final figures")
    frames: int = Field(default=9, ge=2, description="of the denoising strip")
    classifier: str = Field(
        default="runs/digits/classifier", min_length=1, description="run of the network that judges"
    )
    seed: int = Field(default=0, ge=0, description="of the noise that pictures begin as")


class DiffusionConfig(DigitsConfig):
    """Settings of ``train_diffusion.py``."""

    model: DiffusionModel = DiffusionModel()
    process: DiffusionProcessSection = DiffusionProcessSection()
    sampling: Sampling = Sampling()

    rules: ClassVar[tuple[Rule, ...]] = (
        rule(
            ("sampling.steps", "process.steps"),
            lambda c: c.sampling.steps <= c.process.steps,
            "{sampling.steps} is more than process.steps {process.steps}",
        ),
        rule(
            ("sampling.frames", "sampling.steps"),
            lambda c: c.sampling.frames <= c.sampling.steps + 1,
            "{sampling.frames} frames are more than sampling.steps {sampling.steps} give",
        ),
        rule(
            ("sampling.guidance", "process.condition_dropout"),
            lambda c: c.sampling.guidance == 1 or c.process.condition_dropout > 0,
            "{sampling.guidance} needs a network that was also trained without classes: condition_dropout > 0",
        ),
        *DigitsConfig.rules,
    )

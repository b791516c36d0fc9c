"""The settings of the programs that paint: the decoder, its sampling, its fine-tuning."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from tinygrad_edu.training.schema import Rule, Section, rule

from .settings import DesignConfig

Counts = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
]


class DecoderModel(Section):
    """The conditional U-Net that paints a design from its meaning, and the diffusion around it."""

    base: int = Field(default=32, ge=4, description="channels of the first level")
    channel_multipliers: Counts = Field(
        default=(1, 2, 2), min_length=1, description="of the levels; the picture is halved between them"
    )
    blocks_per_level: int = Field(default=1, ge=1, description="residual blocks of a level on the way down")
    attention_levels: Counts = Field(default=(2,), description="levels whose blocks attend, 0 the largest picture")
    context_dim: int = Field(default=64, ge=1, description="width of the tokens that the meaning becomes")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="in the residual blocks")
    steps: int = Field(default=1000, ge=1, description="T of the diffusion")
    schedule: Literal["cosine", "linear"] = Field(default="cosine", description="of its noise")
    prediction: Literal["v", "epsilon", "x0"] = Field(default="v", description="what the network predicts")
    condition_dropout: float = Field(default=0.1, ge=0, lt=1, description="share of designs whose meaning is hidden")


class Sampling(Section):
    """How a trained decoder paints."""

    steps: int = Field(default=30, ge=1, description="of DDIM")
    guidance: float = Field(default=2.0, ge=0, description="how strongly the meaning is followed; 1 as learned")
    count: int = Field(default=600, ge=2, description="pictures that are measured, of test designs' meanings, at most")


_FEWER = rule(
    ("sampling.steps", "model.steps"),
    lambda c: c.sampling.steps <= c.model.steps,
    "{sampling.steps}, wanted at most model.steps {model.steps}",
)


class DecoderConfig(DesignConfig):
    """Settings of ``train_decoder.py`` and ``sample_decoder.py``."""

    model: DecoderModel = DecoderModel()
    sampling: Sampling = Sampling()

    rules: ClassVar[tuple[Rule, ...]] = (_FEWER, *DesignConfig.rules)


class Innovation(Section):
    """How the latent of a picture is improved."""

    count: int = Field(default=16, ge=1, description="latents, of test designs' meanings")
    sampling_steps: int = Field(default=8, ge=1, description="of DDIM, through all of which the gradient goes")
    ascent_steps: int = Field(default=20, ge=1, description="steps of gradient ascent")
    rate: float = Field(default=0.05, gt=0, lt=1, description="length of a step, as a share of the latent's")


class InnovateConfig(DesignConfig):
    """Settings of ``innovate.py``."""

    sampling: Sampling = Sampling()
    innovation: Innovation = Innovation()

    rules: ClassVar[tuple[Rule, ...]] = DesignConfig.rules


class Finetuning(Section):
    """What a trained decoder is fine-tuned towards."""

    reward_weight: float = Field(default=0.1, ge=0, description="lambda, of the grammar scores beside the loss")
    decoder: str | None = Field(default=None, description="run that it begins with, or null for decoder beside it")
    encoder: str | None = Field(default=None, description="run of the frozen encoder, or null for encoder beside it")
    abstractor: str | None = Field(default=None, description="run of the frozen abstractor, or null as well")
    judged: int = Field(default=32, ge=1, description="held-out designs whose scores are taken at each evaluation")


class FinetuneConfig(DesignConfig):
    """Settings of ``finetune_decoder.py``; its model is that of the decoder it begins with."""

    model: DecoderModel | None = Field(default=None, description="null: that of the decoder it begins with")
    sampling: Sampling = Sampling()
    finetune: Finetuning = Finetuning()

    rules: ClassVar[tuple[Rule, ...]] = DesignConfig.rules

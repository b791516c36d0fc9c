"""Diffusion: pictures from noise, by learning to take a little noise away."""

from .chain import DDIMChain
from .guidance import ClassifierFreeGuidance
from .predictions import PREDICTIONS, prediction_target, split_prediction, split_prediction_backward
from .process import DiffusionProcess
from .reward import RewardedDiffusion
from .samplers import (
    SPACINGS,
    DDIMSampler,
    DDPMSampler,
    Sampler,
    SamplingState,
    ddim_step,
    ddpm_step,
    draw_noise,
    sampling_times,
)
from .schedules import SCHEDULES, NoiseSchedule, cosine_betas, linear_betas, make_noise_schedule

__all__ = [
    "PREDICTIONS",
    "SCHEDULES",
    "SPACINGS",
    "ClassifierFreeGuidance",
    "DDIMChain",
    "DDIMSampler",
    "DDPMSampler",
    "DiffusionProcess",
    "NoiseSchedule",
    "RewardedDiffusion",
    "Sampler",
    "SamplingState",
    "cosine_betas",
    "ddim_step",
    "ddpm_step",
    "draw_noise",
    "linear_betas",
    "make_noise_schedule",
    "prediction_target",
    "sampling_times",
    "split_prediction",
    "split_prediction_backward",
]

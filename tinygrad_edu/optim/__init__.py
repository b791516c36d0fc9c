"""Optimizers, gradient clipping and learning-rate schedules."""

from . import schedules
from .adam import Adam, AdamW
from .base import Optimizer
from .clip import clip_factor, clip_grad_norm_, clip_grad_value_, first_nonfinite, grad_norm
from .ema import ExponentialMovingAverage
from .schedules import make_schedule
from .sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ExponentialMovingAverage",
    "Optimizer",
    "clip_factor",
    "clip_grad_norm_",
    "clip_grad_value_",
    "first_nonfinite",
    "grad_norm",
    "make_schedule",
    "schedules",
]

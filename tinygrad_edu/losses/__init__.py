"""Losses: layers of two arrays, ``forward(prediction, target) -> loss`` and ``backward() -> dprediction``."""

from .binary import (
    BCELoss,
    BCEWithLogitsLoss,
    binary_cross_entropy,
    binary_cross_entropy_backward,
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
)
from .common import check_targets
from .composite import CompositeLoss, Term, design_loss
from .cross_entropy import CrossEntropyLoss, cross_entropy, cross_entropy_backward
from .dice import DiceLoss, dice, dice_backward
from .head import linear_cross_entropy, linear_cross_entropy_grad
from .regression import (
    L1Loss,
    MeanSquaredError,
    SmoothL1Loss,
    absolute_error,
    absolute_error_backward,
    smooth_absolute_error,
    smooth_absolute_error_backward,
    squared_error,
    squared_error_backward,
)

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CompositeLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "L1Loss",
    "MeanSquaredError",
    "SmoothL1Loss",
    "Term",
    "absolute_error",
    "absolute_error_backward",
    "binary_cross_entropy",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    "check_targets",
    "cross_entropy",
    "cross_entropy_backward",
    "design_loss",
    "dice",
    "dice_backward",
    "linear_cross_entropy",
    "linear_cross_entropy_grad",
    "smooth_absolute_error",
    "smooth_absolute_error_backward",
    "squared_error",
    "squared_error_backward",
]

"""What can be hung onto a training run without touching its loop."""

from .base import Callback, StepReport
from .best import BestWeights
from .early_stopping import EarlyStopping
from .monitors import GradientStatistics, LearningRateMonitor
from .plateau import ReduceLROnPlateau
from .tensorboard import TensorBoard

__all__ = [
    "BestWeights",
    "Callback",
    "EarlyStopping",
    "GradientStatistics",
    "LearningRateMonitor",
    "ReduceLROnPlateau",
    "StepReport",
    "TensorBoard",
]

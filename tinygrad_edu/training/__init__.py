"""Training: settings, the trainer and its callbacks, history, checkpoints."""

from ..storage import (
    Checkpoint,
    CheckpointWarning,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    verify_checkpoint,
)
from .callbacks import (
    BestWeights,
    Callback,
    EarlyStopping,
    GradientStatistics,
    LearningRateMonitor,
    ReduceLROnPlateau,
    StepReport,
    TensorBoard,
)
from .config import RunConfig, TrainingSection, dump_config, load_config, make_config
from .evaluation import evaluate_batches, evaluate_language_model, evaluate_loss
from .fitting import EpochTrainer, TransformerTrainer, train_model
from .foundry_schema import FoundryConfig
from .history import History, JsonlHistory, RecordHistory, read_history
from .language_model_trainer import LanguageModelTrainer
from .masking import masked_batches
from .progress import ProgressBar
from .resume import ResumeWarning, trained_weights
from .trainable import LayerWithLoss, Trainable
from .trainer import Trainer, TrainerState, TrainingResult, make_optimizer

__all__ = [
    "BestWeights",
    "Callback",
    "Checkpoint",
    "CheckpointWarning",
    "EarlyStopping",
    "EpochTrainer",
    "FoundryConfig",
    "GradientStatistics",
    "History",
    "JsonlHistory",
    "LanguageModelTrainer",
    "LayerWithLoss",
    "LearningRateMonitor",
    "ProgressBar",
    "RecordHistory",
    "ReduceLROnPlateau",
    "ResumeWarning",
    "RunConfig",
    "StepReport",
    "TensorBoard",
    "Trainable",
    "Trainer",
    "TrainerState",
    "TrainingResult",
    "TrainingSection",
    "TransformerTrainer",
    "dump_config",
    "evaluate_batches",
    "evaluate_language_model",
    "evaluate_loss",
    "list_checkpoints",
    "load_checkpoint",
    "load_config",
    "load_weights",
    "make_config",
    "make_optimizer",
    "masked_batches",
    "read_history",
    "save_checkpoint",
    "save_weights",
    "train_model",
    "trained_weights",
    "verify_checkpoint",
]

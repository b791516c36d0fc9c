"""Files on disk that are either whole or not there: weights, JSON, and checkpoints with a manifest of sums.

It knows nothing of models: arrays by name and plain data go in and come out.
"""

from .checkpoint import (
    Checkpoint,
    CheckpointWarning,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from .files import encode_json, load_weights, save_weights, write_atomic
from .stored import StoredArray, StoredWeights, open_weights

__all__ = [
    "Checkpoint",
    "CheckpointWarning",
    "StoredArray",
    "StoredWeights",
    "encode_json",
    "list_checkpoints",
    "load_checkpoint",
    "load_weights",
    "open_weights",
    "save_checkpoint",
    "save_weights",
    "verify_checkpoint",
    "write_atomic",
]

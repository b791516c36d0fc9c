"""Models: layers assembled, behind one interface."""

from .base import BaseLanguageModel, ModelOutput
from .gpt2 import GPT2, GPT2Config
from .registry import (
    available_architectures,
    create_model,
    create_model_from_config,
    get_architecture,
    register_architecture,
)
from .transformer import CustomTransformer, CustomTransformerConfig, CustomTransformerWrapper

__all__ = [
    "GPT2",
    "BaseLanguageModel",
    "CustomTransformer",
    "CustomTransformerConfig",
    "CustomTransformerWrapper",
    "GPT2Config",
    "ModelOutput",
    "available_architectures",
    "create_model",
    "create_model_from_config",
    "get_architecture",
    "register_architecture",
]

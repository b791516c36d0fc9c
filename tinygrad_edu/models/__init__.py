"""Models: layers assembled, behind one interface."""

from .base import BaseLanguageModel, ModelOutput
from .transformer import CustomTransformer, CustomTransformerConfig, CustomTransformerWrapper

__all__ = [
    "BaseLanguageModel",
    "CustomTransformer",
    "CustomTransformerConfig",
    "CustomTransformerWrapper",
    "ModelOutput",
]

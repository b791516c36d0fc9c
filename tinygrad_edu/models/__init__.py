"""Models: layers assembled, behind one interface."""

from .base import BaseLanguageModel, ModelOutput
from .bert import BertConfig, BertForMaskedLM, BertModel
from .gpt2 import GPT2, GPT2Config
from .pretrained import from_pretrained
from .recurrent import (
    GRUConfig,
    GRULanguageModel,
    LSTMConfig,
    LSTMLanguageModel,
    RNNConfig,
    RNNLanguageModel,
)
from .registry import (
    available_architectures,
    create_model,
    create_model_from_config,
    get_architecture,
    register_architecture,
)
from .seq2seq import Seq2Seq, Seq2SeqConfig
from .transformer import CustomTransformer, CustomTransformerConfig, CustomTransformerWrapper

__all__ = [
    "GPT2",
    "BaseLanguageModel",
    "BertConfig",
    "BertForMaskedLM",
    "BertModel",
    "CustomTransformer",
    "CustomTransformerConfig",
    "CustomTransformerWrapper",
    "GPT2Config",
    "GRUConfig",
    "GRULanguageModel",
    "LSTMConfig",
    "LSTMLanguageModel",
    "ModelOutput",
    "RNNConfig",
    "RNNLanguageModel",
    "Seq2Seq",
    "Seq2SeqConfig",
    "available_architectures",
    "create_model",
    "create_model_from_config",
    "from_pretrained",
    "get_architecture",
    "register_architecture",
]

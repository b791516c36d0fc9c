"""Models: layers assembled, behind one interface."""

from .base import BaseLanguageModel, ModelOutput
from .bert import BertConfig, BertForMaskedLM, BertModel
from .conditional_unet import ConditionalUNet, ConditionalUNetConfig
from .gpt2 import GPT2, GPT2Config
from .network import Network
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
from .resnet import ResNet18, ResNetConfig
from .seq2seq import Seq2Seq, Seq2SeqConfig
from .text_encoder import TextEncoder, TextEncoderConfig
from .transformer import CustomTransformer, CustomTransformerConfig, CustomTransformerWrapper
from .unet import UNet, UNetConfig

__all__ = [
    "GPT2",
    "BaseLanguageModel",
    "BertConfig",
    "BertForMaskedLM",
    "BertModel",
    "ConditionalUNet",
    "ConditionalUNetConfig",
    "CustomTransformer",
    "CustomTransformerConfig",
    "CustomTransformerWrapper",
    "GPT2Config",
    "GRUConfig",
    "GRULanguageModel",
    "LSTMConfig",
    "LSTMLanguageModel",
    "ModelOutput",
    "Network",
    "RNNConfig",
    "RNNLanguageModel",
    "ResNet18",
    "ResNetConfig",
    "Seq2Seq",
    "Seq2SeqConfig",
    "TextEncoder",
    "TextEncoderConfig",
    "UNet",
    "UNetConfig",
    "available_architectures",
    "create_model",
    "create_model_from_config",
    "from_pretrained",
    "get_architecture",
    "register_architecture",
]

"""The textbook: one family a file, its ops (formula, forward, backward) and then its layers."""

from .activation import GELU, ReLU, Sigmoid, SiLU, Softmax, Tanh, make_activation
from .attention import MultiHeadAttention, keep_attention_weights
from .attention_ops import attention_weights
from .base import Buffer, Layer, Parameter
from .caches import KeyValueCache, MemoryCache
from .channel_norm import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm1d, InstanceNorm2d
from .checkpointing import checkpoint_backward, checkpoint_forward
from .containers import LayerList, Residual, Sequential
from .convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from .dropout import Dropout
from .embedding import Embedding
from .encoder_decoder import Transformer, TransformerDecoder, TransformerDecoderBlock, TransformerEncoder
from .flat import FlatParameters
from .flatten import Flatten
from .linear import Linear
from .masks import create_causal_mask, create_combined_mask, create_padding_mask
from .norm import LayerNorm, RMSNorm
from .pooling import AdaptiveAvgPool1d, AdaptiveAvgPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from .position import LearnedPositions, RotaryPositions, SinusoidalPositions
from .recurrent import GRU, LSTM, RNN
from .recurrent_cells import GRUCell, LSTMCell, RNNCell
from .skip import SkipConnection
from .spatial_attention import SpatialCrossAttention, SpatialSelfAttention
from .timestep import TimestepEmbedding
from .transformer import FeedForward, TransformerBlock, TransformerStack
from .upsample import Upsample

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "FeedForward",
    "FlatParameters",
    "Flatten",
    "GRUCell",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "KeyValueCache",
    "LSTMCell",
    "Layer",
    "LayerList",
    "LayerNorm",
    "LearnedPositions",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "MemoryCache",
    "MultiHeadAttention",
    "Parameter",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "Residual",
    "RotaryPositions",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SinusoidalPositions",
    "SkipConnection",
    "Softmax",
    "SpatialCrossAttention",
    "SpatialSelfAttention",
    "Tanh",
    "TimestepEmbedding",
    "Transformer",
    "TransformerBlock",
    "TransformerDecoder",
    "TransformerDecoderBlock",
    "TransformerEncoder",
    "TransformerStack",
    "Upsample",
    "attention_weights",
    "checkpoint_backward",
    "checkpoint_forward",
    "create_causal_mask",
    "create_combined_mask",
    "create_padding_mask",
    "keep_attention_weights",
    "make_activation",
]

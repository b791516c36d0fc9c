"""Kernels for the CPU: loops compiled by Numba, and BLAS called where it lies."""

from pathlib import Path

from .stale import discard_stale_code

discard_stale_code(Path(__file__).parent)  # before the modules below load what was kept

from . import (  # noqa: E402
    activation,
    attention,
    channel_norm,
    convolution,
    dropout,
    embedding,
    gemm,
    linear,
    losses,
    masks,
    norm,
    optim,
    pooling,
    position,
    recurrent_gru,
    recurrent_lstm,
    recurrent_rnn,
    upsample,
)

__all__ = [
    "activation",
    "attention",
    "channel_norm",
    "convolution",
    "dropout",
    "embedding",
    "gemm",
    "linear",
    "losses",
    "masks",
    "norm",
    "optim",
    "pooling",
    "position",
    "recurrent_gru",
    "recurrent_lstm",
    "recurrent_rnn",
    "upsample",
]

"""Kernels for the CPU: loops compiled by Numba, and BLAS called where it lies."""

from pathlib import Path

from .stale import discard_stale_code

discard_stale_code(Path(__file__).parent)  # before the modules below load what was kept

from . import activation, attention, dropout, embedding, gemm, linear, losses, norm, optim, position  # noqa: E402

__all__ = ["activation", "attention", "dropout", "embedding", "gemm", "linear", "losses", "norm", "optim", "position"]

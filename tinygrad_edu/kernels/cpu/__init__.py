"""Kernels for the CPU: loops compiled by Numba, and BLAS called where it lies."""

from . import activation, attention, dropout, embedding, gemm, linear, losses, norm, optim, position

__all__ = ["activation", "attention", "dropout", "embedding", "gemm", "linear", "losses", "norm", "optim", "position"]

"""Figures of merit. Arrays here are NumPy's: bring them to the host first."""

from tinygrad_edu.metrics.language import LanguageScore, bits_per_byte, perplexity, token_accuracy
from tinygrad_edu.metrics.ngrams import ngram_bits_per_byte

__all__ = ["LanguageScore", "bits_per_byte", "ngram_bits_per_byte", "perplexity", "token_accuracy"]

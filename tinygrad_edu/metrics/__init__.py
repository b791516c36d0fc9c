"""Figures of merit. Arrays here are NumPy's: bring them to the host first."""

from .language import LanguageScore, bits_per_byte, perplexity, token_accuracy
from .ngrams import ngram_bits_per_byte
from .translation import bleu, exact_match

__all__ = [
    "LanguageScore",
    "bits_per_byte",
    "bleu",
    "exact_match",
    "ngram_bits_per_byte",
    "perplexity",
    "token_accuracy",
]

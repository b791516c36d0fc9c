"""Tokenizers: one class for every kind, functions to train and to load them."""

from .factory import TokenizerFactory, train_joint_bpe_tokenizer, train_tokenizer_from_config
from .loading import corpus_tokenizer, load_tokenizer
from .special import END_NAMES, END_OF_TEXT, ROLES
from .tokenizer import Tokenizer, byte_alphabet
from .training import KINDS, train_bpe, train_character, train_sentencepiece, train_wordpiece

__all__ = [
    "END_NAMES",
    "END_OF_TEXT",
    "KINDS",
    "ROLES",
    "Tokenizer",
    "TokenizerFactory",
    "byte_alphabet",
    "corpus_tokenizer",
    "load_tokenizer",
    "train_bpe",
    "train_character",
    "train_joint_bpe_tokenizer",
    "train_sentencepiece",
    "train_tokenizer_from_config",
    "train_wordpiece",
]

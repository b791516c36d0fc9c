"""Corpora, tokenizers, token files and loaders: from text to batches of ids."""

from .corpora import Corpus, Documents, load_corpus
from .files import default_cache_dir
from .loader import TokenLoader, evaluation_windows
from .tokenizers import Tokenizer, corpus_tokenizer, load_tokenizer, train_bpe
from .tokens import TokenFile, TokenInfo, prepare_tokens, write_tokens

__all__ = [
    "Corpus",
    "Documents",
    "TokenFile",
    "TokenInfo",
    "TokenLoader",
    "Tokenizer",
    "corpus_tokenizer",
    "default_cache_dir",
    "evaluation_windows",
    "load_corpus",
    "load_tokenizer",
    "prepare_tokens",
    "train_bpe",
    "write_tokens",
]

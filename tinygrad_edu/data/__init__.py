"""Corpora, tokenizers, token files, collators and loaders: from text to batches of ids."""

from .collators import CausalLMDataCollator, MaskedLMDataCollator, Seq2SeqDataCollator, get_data_collator
from .corpora import Corpus, Documents, load_corpus
from .examples import DataLoader
from .files import default_cache_dir
from .loader import StreamLoader, TokenLoader, evaluation_windows
from .parallel import load_parallel_text, split_pairs
from .tokenizers import (
    KINDS,
    Tokenizer,
    TokenizerFactory,
    corpus_tokenizer,
    load_tokenizer,
    train_bpe,
    train_character,
    train_joint_bpe_tokenizer,
    train_sentencepiece,
    train_tokenizer_from_config,
    train_wordpiece,
)
from .tokens import TokenFile, TokenInfo, prepare_tokens, write_tokens
from .translation_tasks import TRANSLATION_TASKS, TranslationTask, make_task_pairs

__all__ = [
    "KINDS",
    "TRANSLATION_TASKS",
    "CausalLMDataCollator",
    "Corpus",
    "DataLoader",
    "Documents",
    "MaskedLMDataCollator",
    "Seq2SeqDataCollator",
    "StreamLoader",
    "TokenFile",
    "TokenInfo",
    "TokenLoader",
    "Tokenizer",
    "TokenizerFactory",
    "TranslationTask",
    "corpus_tokenizer",
    "default_cache_dir",
    "evaluation_windows",
    "get_data_collator",
    "load_corpus",
    "load_parallel_text",
    "load_tokenizer",
    "make_task_pairs",
    "prepare_tokens",
    "split_pairs",
    "train_bpe",
    "train_character",
    "train_joint_bpe_tokenizer",
    "train_sentencepiece",
    "train_tokenizer_from_config",
    "train_wordpiece",
    "write_tokens",
]

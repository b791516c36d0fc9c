from __future__ import annotations

import pytest

from tinygrad_edu.data import Corpus, Tokenizer, load_corpus, train_bpe

TEXTS = [
    f"Document {i}: the cat sat on mat {i * 7 % 13} — café, naïve, 日本語 {i}.\n\n  Indented {i}\n" for i in range(40)
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def docs() -> Corpus:
    return load_corpus("python-docs")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 320)


@pytest.fixture(scope="session")
def small() -> Corpus:
    return Corpus.from_texts(TEXTS, "small")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGRAD_EDU_CACHE", str(tmp_path / "cache"))

"""The built-in corpus: real, large enough, the same every time, and nothing leaks between its splits."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tinygrad_edu.data import python_docs
from tinygrad_edu.data.corpora import Corpus, load_corpus
from tinygrad_edu.errors import ConfigError, DataError


def paragraphs(text: str) -> set[str]:
    return {" ".join(part.split()).casefold() for part in re.split(r"\n\s*\n", text)}


def test_it_is_large_and_divided_80_10_10(docs):
    sizes = {split: part.n_bytes for split, part in docs.splits.items()}
    total = sum(sizes.values())
    assert total == docs.documents.n_bytes == sum(len(text.encode()) for text in docs.documents) > 1_500_000
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(sizes[split] / total - share) < 0.03, sizes


def test_no_paragraph_stands_twice(docs):
    seen: set[str] = set()
    for text in docs.documents:
        mine = paragraphs(text)
        assert not mine & seen
        seen |= mine


def test_both_sources_are_in_and_bundled_code_is_not():
    names = [name for name, _ in python_docs.python_docs()]
    assert "topics/assert" in names and "docstrings/json/decoder" in names
    assert len(set(names)) == len(names)
    assert not [name for name in names if re.search(r"/(test|tests|site-packages|encodings|idlelib)/", name)]


def test_a_documents_split_follows_from_its_name_alone():
    # Fixed values: changing them would move documents between train and test for people with trained models.
    found = [python_docs.split_of(f"topics/{name}") for name in ("assert", "strings", "global", "while")]
    assert found == ["train", "test", "validation", "validation"]


def test_another_process_gets_the_same_hash(docs):
    code = "from tinygrad_edu.data import load_corpus; print(load_corpus().content_hash)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == docs.content_hash


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (
            b'"""Module."""\nclass A:\n  "A doc"\n  def f(self):\n    """F\n    doc"""\n',
            ["Module.", "A doc", "F\ndoc"],
        ),
        (b"if True:\n  def f(): 'in if'\nelse:\n  async def g(): 'in else'\n", ["in if", "in else"]),
        (
            b"try:\n  pass\nexcept E:\n  def f(): 'handler'\nfinally:\n  def g(): 'final'\n",
            ["final", "handler"],
        ),
        (b"match x:\n  case 1:\n    def f(): 'case'\n", ["case"]),
        (b"x = lambda: 'no docstring'\n'nor this'\n", []),
        (b"print 'Python 2'\n", []),
        (b"x = 1\0\n", []),
        (b"# -*- coding: latin-1 -*-\n'''\xe9'''\n", ["é"]),
        (b"def f():\n  '\\d is an invalid escape'\n", ["\\d is an invalid escape"]),
    ],
)
@pytest.mark.filterwarnings("ignore")  # the last row; `python_docs` does the same
def test_docstrings(source, wanted):
    assert python_docs.docstrings(source, "m.py") == wanted


def test_repeated_paragraphs_are_dropped_everywhere_but_first():
    found = dict(
        python_docs.drop_repeated_paragraphs(
            iter(
                [
                    ("a", "One two.\n\nThree.\n \t\nOne   TWO."),
                    ("b", "one\ntwo.\n\nFour.\r\n\r\nFive."),
                    ("c", "three."),
                ]
            )
        )
    )
    assert found == {"a": "One two.\n\nThree.", "b": "Four.\n\nFive."}


def test_a_python_without_its_sources_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(python_docs, "_topic_documents", lambda: iter(()))
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda name: str(tmp_path))
    python_docs.python_docs.cache_clear()
    try:
        with pytest.raises(DataError, match=r"only 0 documents found.*without its sources, so give a text file"):
            load_corpus("python-docs")
    finally:
        python_docs.python_docs.cache_clear()


def test_it_has_no_columns():
    with pytest.raises(ConfigError, match="text_column: python-docs is plain text and has no column 'textbook'"):
        load_corpus("python-docs", text_column="textbook")


def test_a_subset_is_drawn_by_seed(docs):
    subsets = [load_corpus(use_subset=True, subset_size=60, seed=seed) for seed in (0, 0, 1)]
    assert [len(subset.documents) for subset in subsets] == [60, 60, 60]
    assert subsets[0].content_hash == subsets[1].content_hash != subsets[2].content_hash
    for split in ("train", "validation", "test"):  # a document keeps its split
        assert set(subsets[0].splits[split]) <= set(docs.splits[split])
    assert isinstance(docs, Corpus)

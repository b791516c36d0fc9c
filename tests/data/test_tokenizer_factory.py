"""Tokenizers trained on files and by configuration."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tinygrad_edu.data import (
    TokenizerFactory,
    load_tokenizer,
    train_joint_bpe_tokenizer,
    train_sentencepiece,
    train_tokenizer_from_config,
)
from tinygrad_edu.errors import ConfigError, DataError

from .conftest import TEXTS

TRAINERS = {
    "bpe": TokenizerFactory.train_bpe,
    "wordpiece": TokenizerFactory.train_wordpiece,
    "sentencepiece": TokenizerFactory.train_sentencepiece,
    "character": TokenizerFactory.train_character,
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", TRAINERS)
def test_on_files_and_on_texts_and_saved(kind, file, tmp_path):
    from tinygrad_edu.data.sources import document_size, read_text

    made = TRAINERS[kind](file, 300, save_dir=tmp_path / "saved")
    assert made.kind == kind
    assert load_tokenizer(tmp_path / "saved").to_json() == made.to_json()
    assert TRAINERS[kind]([str(file)], 300).to_json() == made.to_json()
    texts = list(read_text(file, document_size(file.stat().st_size)))
    assert TRAINERS[kind](texts=texts, vocab_size=300).to_json() == made.to_json()
    named = TRAINERS[kind](file, 300, special_tokens=["</s>", "<unk>", "<mask>"])
    assert (named.eos_token_id, named.unk_token_id, named.mask_token_id) == (0, 1, 2)


def test_several_files_tables_and_folders(file, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "zebra zebra"}\n' * 5)
    both = TokenizerFactory.train_character([file, tmp_path / "rows.jsonl"])
    assert both.unk_token_id not in both.encode("zebra")
    assert both.unk_token_id in TokenizerFactory.train_character(file).encode("zebra")
    assert TokenizerFactory.train_character(tmp_path).vocab_size == both.vocab_size


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"bad\.txt: no such file; to train on texts in memory, hand them over as texts="),
        (b"", r"no examples in .*bad\.txt: it is empty"),
        (b"\n\n \n", r"no examples in .*bad\.txt: it holds only blank lines"),
        (b"good\nb\xe9d\n", r"bad\.txt, line 2: byte 0xe9 at offset 6 of the file is not UTF-8"),
        ("a\n".encode("utf-16"), r"bad\.txt, line 1: .*it looks like UTF-16"),
        (b"a\0b", r"bad\.txt, line 1: NUL byte at offset 1"),
    ],
)
def test_bad_files(kind, content, message, file, tmp_path):
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        TRAINERS[kind]([file, path], 300, save_dir=tmp_path / "saved")
    assert not (tmp_path / "saved").exists()  # nothing half-made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither of files and texts given"),
        ({"files": "a.txt", "texts": ["a"]}, "both of files and texts given"),
        ({"files": []}, "files: an empty list"),
        ({"files": [3]}, "files: entry 0 is int, wanted a path"),
        ({"texts": "abc"}, "texts: one string, wanted an iterable of strings"),
        ({"texts": TEXTS, "vocab_size": None}, "vocab_size: None; wanted an integer of at least 1"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        TokenizerFactory.train_bpe(**arguments)


# -- by configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [dict, SimpleNamespace])
@pytest.mark.parametrize("kind", [*TRAINERS, "unigram"])
def test_from_a_configuration(kind, shape, file, tmp_path):
    config = shape(type=kind, vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], min_frequency=3)
    made = train_tokenizer_from_config(config, file, save_dir=tmp_path / "saved")
    assert (made.pad_token_id, made.eos_token_id, made.unk_token_id) == (0, 1, 2)
    name = "sentencepiece" if kind == "unigram" else kind
    assert made.kind == name
    direct = TRAINERS[name](file, 300, special_tokens=["<pad>", "</s>", "<unk>"], min_frequency=3)
    assert made.to_json() == direct.to_json() == load_tokenizer(tmp_path / "saved").to_json()


def test_defaults_of_a_configuration():
    made = train_tokenizer_from_config({"type": "unigram", "vocab_size": 90, "special_tokens": None}, texts=TEXTS)
    assert made.to_json() == train_sentencepiece(TEXTS, 90).to_json()
    assert train_tokenizer_from_config({"type": "character"}, texts=["ab"]).vocab_size == 6
    lower = train_tokenizer_from_config({"type": "wordpiece", "vocab_size": 150, "lowercase": True}, texts=TEXTS)
    assert lower.encode("The") == lower.encode("the")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "bpee", "vocab_size": 300}, "tokenizer type: 'bpee', wanted one of .*Did you mean 'bpe'"),
        ({"vocab_size": 300}, "config: has no type; wanted one of bpe, wordpiece, sentencepiece, character"),
        ({"type": "bpe"}, "config: has no vocab_size, which a bpe tokenizer needs"),
        ({"type": "bpe", "vocabsize": 300}, "'vocabsize' is not known; wanted .* Did you mean 'vocab_size'"),
        ({"type": "bpe", "vocab_size": "300"}, "vocab_size: '300'; wanted an integer"),
        ({"type": "bpe", "vocab_size": 300, "min_frequency": 0}, "min_frequency: 0; wanted"),
        ({"type": "bpe", "vocab_size": 300, "lowercase": True}, "lowercase is for a wordpiece tokenizer, not bpe"),
    ],
)
def test_configurations_that_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        train_tokenizer_from_config(config, texts=TEXTS)


# -- two languages ----------------------------------------------------------------------------------------


def test_one_tokenizer_for_two_languages(tmp_path):
    made = train_joint_bpe_tokenizer(["the cat"] * 9, ["die Katze"] * 9, 280, 2, tmp_path)
    assert (made.pad_token_id, made.bos_token_id, made.eos_token_id, made.unk_token_id) == (0, 1, 2, 3)
    assert len(made.encode("the")) == len(made.encode(" Katze")) == 1  # both were learnt
    assert made.encode("the", add_special_tokens=True) == [1, *made.encode("the"), 2]
    assert load_tokenizer(tmp_path).to_json() == made.to_json()


@pytest.mark.parametrize(
    ("src", "tgt", "error", "message"),
    [
        ([], ["a"], DataError, "src_texts: no text to train a tokenizer on"),
        (["a"], [" "], DataError, "tgt_texts: no text to train a tokenizer on"),
        (["a"], "b", ConfigError, "tgt_texts: one string, wanted an iterable of strings"),
        (["a"], [None], DataError, "wanted str"),
    ],
)
def test_languages_that_are_refused(src, tgt, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train_joint_bpe_tokenizer(src, tgt, 280, save_dir=tmp_path / "saved")
    assert not (tmp_path / "saved").exists()

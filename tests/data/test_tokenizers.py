"""Tokenizers: exact there and back for any text, the same at every training, clear about bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_edu.data import corpus_tokenizer, load_tokenizer, tokenizers, train_bpe
from tinygrad_edu.data.tokenizers import training
from tinygrad_edu.errors import ConfigError, DataError, DtypeError, RangeError

#: Any Unicode text: unpaired surrogates are not.
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


@given(text=UNICODE)
def test_any_text_comes_back_exactly(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= number < tokenizer.vocab_size for number in ids)
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "\r\n\t",
        "a<|endoftext|>b",
        "<|endoftext|>",
        "\ufeffmark",
        "e\u0301 \u00e9",
        "\U0010ffff",
        "\x85\u2028",
    ],
)
def test_awkward_texts_come_back_exactly(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.eos_token_id not in ids  # text cannot end a document


def test_the_byte_alphabet_is_that_of_the_tokenizers_library():
    from tokenizers import pre_tokenizers

    alphabet = tokenizers.byte_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))


def test_batches_equal_single_texts(texts, tokenizer):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_sizes_and_specials(tokenizer):
    assert tokenizer.vocab_size == 320
    assert tokenizer.eos_token_id == 0
    lengths = tokenizer.token_bytes()
    assert lengths.shape == (320,) and lengths[0] == 0 and (lengths[1:] >= 1).all()
    assert tokenizer.decode([0, *tokenizer.encode("a"), 0]) == "a"
    assert tokenizer.decode([0], skip_special_tokens=False) == "<|endoftext|>"
    assert tokenizer.decode(np.array(tokenizer.encode("numpy"), np.uint16)) == "numpy"


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        ([1, 320], RangeError, "ids: id 320 at position 1 has no token; wanted 0 to 319"),
        ([-1], RangeError, "ids: id -1 at position 0 has no token"),
        ([1.0], DtypeError, "ids: dtype float64, wanted integers"),
        (np.zeros((2, 2), int), DtypeError, "ids: 2 axes, wanted 1; decode one row at a time"),
    ],
)
def test_decode_refuses_what_is_no_id(tokenizer, ids, kind, message):
    with pytest.raises(kind, match=message):
        tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["a", 5], "text 1 is int, wanted str"), (["a", "b", "\ud800"], "text 2 holds an unpaired surrogate")],
)
def test_encode_refuses_what_is_no_text(tokenizer, texts, message):
    with pytest.raises(DtypeError, match=message):
        tokenizer.encode_batch(texts)


def test_training_gives_the_same_on_any_number_of_threads(texts, tokenizer):
    assert train_bpe(iter(texts), 320).fingerprint == tokenizer.fingerprint
    code = f"from tinygrad_edu.data import train_bpe; print(train_bpe({texts!r}, 320).fingerprint)"
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == tokenizer.fingerprint
    assert train_bpe(texts, 321).fingerprint != tokenizer.fingerprint
    assert train_bpe(texts[1:], 320).fingerprint != tokenizer.fingerprint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"vocab_size": 256},
            r"vocab_size: 256; wanted an integer of at least 257 \(256 bytes and 1 special\)",
        ),
        ({"vocab_size": 300.0}, "vocab_size: 300.0; wanted an integer of at least 1"),
        ({"vocab_size": 300, "special_tokens": "<|endoftext|>"}, "wanted a sequence of names"),
        ({"vocab_size": 300, "special_tokens": ("MASK",)}, "'MASK'; wanted names that begin and end with a sign"),
        ({"vocab_size": 300, "special_tokens": ("<a b>",)}, "'<a b>'; wanted names that begin and end with a sign"),
        ({"vocab_size": 300, "special_tokens": ("",)}, "''; wanted names that begin and end with a sign"),
        ({"vocab_size": 300, "special_tokens": (3,)}, r"special_tokens: \(3,\); wanted a sequence of names"),
        ({"vocab_size": 300, "special_tokens": ("</s>", "</s>")}, "names one twice"),
        ({"vocab_size": 300, "min_frequency": 0}, "min_frequency: 0; wanted an integer of at least 1"),
    ],
)
def test_training_refuses_bad_settings(texts, arguments, message):
    with pytest.raises(ConfigError, match=message):
        train_bpe(texts, **arguments)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_training_on_nothing(texts):
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_bpe(texts, 300)


def test_several_special_tokens(texts, tmp_path):
    made = train_bpe(texts, 300, special_tokens=("</s>", "<pad>", "<|endoftext|>"))
    again = load_tokenizer(made.save(tmp_path))
    assert made.eos_token_id == again.eos_token_id == 0
    assert list(again.token_bytes()[:4]) == [0, 0, 0, 1]


@pytest.mark.parametrize("name", ["tokenizer.json", "folder"])
def test_saved_and_loaded_is_the_same(tokenizer, tmp_path, name):
    file = tokenizer.save(tmp_path / name)
    assert file.name == "tokenizer.json"
    assert len(list(tmp_path.rglob("*.*"))) == (1 if name == "tokenizer.json" else 2)  # and tokenizer_config.json
    again = load_tokenizer(tmp_path / name)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.encode("<|endoftext|> the cat 日本") == tokenizer.encode("<|endoftext|> the cat 日本")


def test_gpt2s_two_files(texts, tmp_path, tokenizer):
    tokenizer._inner.model.save(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    again = load_tokenizer(tmp_path)
    assert again.eos_token_id == tokenizer.eos_token_id == 0
    assert again.encode_batch(texts) == tokenizer.encode_batch(texts)
    (tmp_path / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"vocab\.json and merges\.txt cannot be read"):
        load_tokenizer(tmp_path)


def test_padding_truncation_and_added_bos_of_a_foreign_file_are_off(texts, tmp_path):
    from tokenizers import processors

    inner = train_bpe(texts, 300)._inner
    inner.enable_truncation(3)
    inner.enable_padding(length=50)
    inner.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    again = load_tokenizer(tmp_path)
    assert again.decode(again.encode(texts[0]), skip_special_tokens=False) == texts[0]


def no_tokens(path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordPiece({}, unk_token="[UNK]")).save(str(path))


def few_bytes(path):
    from tokenizers import Tokenizer, decoders, models

    inner = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    inner.decoder = decoders.ByteLevel()
    inner.save(str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("{}"), r"tokenizer\.json: cannot be read as a tokenizer"),
        (lambda path: path.write_bytes(b"\x80\x04pickle"), r"tokenizer\.json: cannot be read as a tokenizer"),
        (no_tokens, r"tokenizer\.json: has no tokens"),
        (few_bytes, "254 of the 256 bytes have no token, the first 0x00"),
        (lambda path: None, r"tokenizer\.json: no such tokenizer file"),
    ],
)
def test_files_that_are_no_tokenizer(tmp_path, make, message):
    make(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


def test_the_hub_out_of_reach(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"tokenizer 'gpt2': the hub cannot be reached.*give a local tokenizer\.json"):
        load_tokenizer("gpt2")


def test_cached_by_content_and_settings(small, tmp_path, monkeypatch):
    first = corpus_tokenizer(small, 300)
    trained = []
    monkeypatch.setattr(training, "train_bpe", lambda *a, **k: trained.append(1) or train_bpe(*a, **k))
    assert corpus_tokenizer(small, 300).fingerprint == first.fingerprint and not trained
    corpus_tokenizer(small, 301)
    corpus_tokenizer(small, 300, min_frequency=3)
    corpus_tokenizer(small, 300, cache_dir=tmp_path / "elsewhere")
    assert len(trained) == 3
    assert len(list((tmp_path / "elsewhere" / "tokenizers").iterdir())) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "sum"])
def test_a_damaged_cache_is_made_anew(small, tmp_path, damage):
    first = corpus_tokenizer(small, 300, cache_dir=tmp_path)
    (file,) = (tmp_path / "tokenizers").glob("*.json")
    raw = file.read_bytes()
    if damage == "flip":
        rules = json.loads(raw)
        rules["model"]["merges"].pop()
        file.write_text(json.dumps(rules))
    elif damage == "truncate":
        file.write_bytes(raw[:-1])
    else:
        file.with_suffix(".sha256").write_bytes(b"\xff")
    with pytest.warns(UserWarning, match=r"damaged \(its SHA-256 is not that in .*trained anew"):
        again = corpus_tokenizer(small, 300, cache_dir=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert file.read_bytes() == raw
    corpus_tokenizer(small, 300, cache_dir=tmp_path)  # no warning now

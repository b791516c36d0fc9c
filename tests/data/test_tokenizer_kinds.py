"""Every kind of tokenizer: exact where it says so, the same at every training, the same in transformers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_edu.data import (
    KINDS,
    Tokenizer,
    corpus_tokenizer,
    load_tokenizer,
    prepare_tokens,
    train_bpe,
    train_character,
    train_sentencepiece,
    train_wordpiece,
)
from tinygrad_edu.data.tokenizers import training
from tinygrad_edu.errors import ConfigError, DataError, DtypeError, RangeError

from .conftest import TEXTS

SIZES = {"bpe": 300, "wordpiece": 150, "sentencepiece": 80, "character": 90}
#: Whose tokens together are the text, so that their bytes add up to its own.
LOSSLESS = ("bpe", "sentencepiece", "character")
ALPHABET = sorted(set("".join(TEXTS)))

#: Words that are spelt alike in many ways: all the ties that a trainer can meet.
ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TIED = [f"{a} hundred and {b}ty {c}" for a in ONES for b in ONES for c in ONES]


@pytest.fixture(scope="module", params=KINDS)
def made(request) -> Tokenizer:
    return training.train(request.param, TEXTS, SIZES[request.param])


@given(text=st.text(st.sampled_from(ALPHABET)))
def test_known_characters_come_back_exactly(text):
    for tokenizer in LOSSLESS_TOKENIZERS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


LOSSLESS_TOKENIZERS = [training.train(kind, TEXTS, SIZES[kind], min_frequency=1) for kind in LOSSLESS]


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_encoded_and_no_more_bytes_are_counted_than_it_has(text):
    for tokenizer in [*LOSSLESS_TOKENIZERS, WORDS]:
        ids = tokenizer.encode(text)
        assert set(ids) & set(tokenizer.special_token_ids) <= {tokenizer.unk_token_id}
        assert tokenizer.token_bytes()[ids].sum() <= len(text.encode()) or tokenizer.kind == "wordpiece"


WORDS = train_wordpiece(TEXTS, 150)


def test_wordpiece_counts_the_words_without_the_space_between(made):
    text = "the cat sat"
    assert WORDS.token_bytes()[WORDS.encode(text)].sum() == len(text) - 2
    assert WORDS.decode(WORDS.encode("the  cat\nsat, on")) == "the cat sat, on"


def test_an_unknown_character_counts_no_bytes():
    for tokenizer in (LOSSLESS_TOKENIZERS[1], LOSSLESS_TOKENIZERS[2], WORDS):
        ids = tokenizer.encode("☃")
        assert tokenizer.unk_token_id in ids and tokenizer.token_bytes()[ids].sum() == 0


@pytest.mark.parametrize(
    "text", ["<pad>", "a<unk>b", "[MASK]", "[CLS] [SEP]", "</s>", "<s><|endoftext|>", "<<pad>>", "\u2581", "\u2581<s>"]
)
def test_special_tokens_never_come_out_of_text(made, text):
    tokenizer = training.train(made.kind, [*TEXTS, *[text] * 50], 400)
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special_token_ids)
    if tokenizer.kind in LOSSLESS:
        assert tokenizer.decode(ids) == (text.replace("\u2581", " ") if tokenizer.kind == "sentencepiece" else text)


@pytest.mark.parametrize(
    ("kind", "roles"),
    [
        ("bpe", {"eos": 0}),
        ("wordpiece", {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}),
        ("sentencepiece", {"pad": 0, "bos": 1, "eos": 2, "unk": 3}),
        ("character", {"pad": 0, "bos": 1, "eos": 2, "unk": 3}),
    ],
)
def test_special_tokens_by_role(kind, roles):
    tokenizer = training.train(kind, TEXTS, SIZES[kind])
    found = {
        role: getattr(tokenizer, f"{role}_token_id") for role in ("pad", "unk", "mask", "bos", "eos", "cls", "sep")
    }
    assert found == {role: roles.get(role) for role in found}
    assert tokenizer.special_token_ids == tuple(sorted(roles.values()))
    assert tokenizer.end_token_id == roles.get("eos", roles.get("sep"))
    assert not tokenizer.token_bytes()[list(tokenizer.special_token_ids)].any()
    ordinary = tokenizer.ordinary_token_ids()
    assert sorted([*ordinary, *tokenizer.special_token_ids]) == list(range(tokenizer.vocab_size))


def test_a_role_that_is_missing():
    with pytest.raises(ConfigError, match="bpe-300: has no mask token, which filling in needs; train it with '<mask>'"):
        train_bpe(TEXTS, 300).require("mask", "filling in")
    assert WORDS.require("mask", "filling in") == WORDS.mask_token_id


# -- templates --------------------------------------------------------------------------------------------


def test_the_template_of_bert():
    a, b = WORDS.encode("the cat"), WORDS.encode("on mat 3")
    cls, sep = WORDS.cls_token_id, WORDS.sep_token_id
    assert WORDS.encode("the cat", add_special_tokens=True) == [cls, *a, sep]
    assert WORDS.encode("the cat", True, "on mat 3") == [cls, *a, sep, *b, sep]
    assert WORDS.encode_batch(["the cat"], True, ["on mat 3"]) == [[cls, *a, sep, *b, sep]]
    pair = WORDS.encode_pair("the cat", "on mat 3")
    assert pair["input_ids"] == [cls, *a, sep, *b, sep]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    with pytest.raises(ConfigError, match="pairs: 2, wanted as many as texts: 1"):
        WORDS.encode_batch(["a"], True, ["b", "c"])
    with pytest.raises(DtypeError, match="text 1 is int, wanted str"):
        WORDS.encode_batch(["a"], True, [3])


def test_templates_of_the_others():
    pieces = LOSSLESS_TOKENIZERS[1]
    assert pieces.encode("cat", True) == [pieces.bos_token_id, *pieces.encode("cat"), pieces.eos_token_id]
    plain = LOSSLESS_TOKENIZERS[0]
    assert plain.encode("cat", add_special_tokens=True) == plain.encode("cat")  # it has none


# -- the same at every training ---------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [TEXTS, TIED], ids=["texts", "ties"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_the_same_file(kind, texts):
    size = 300 if kind == "bpe" else 120
    first = training.train(kind, texts, size).to_json()
    for _ in range(3):
        assert training.train(kind, iter(texts), size).to_json() == first
    code = (
        "from tinygrad_edu.data.tokenizers import training; "
        f"print(training.train({kind!r}, {texts!r}, {size}).fingerprint)"
    )
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == training.train(kind, texts, size).fingerprint


def test_what_the_unigram_trainer_leaves_to_chance_is_settled():
    draw = random.Random(3)
    alphabet = list("abcdef")
    chosen = {"ab": -2.0, "a": -3.0, "cd": -4.5, "b": -5.0, "lowest": -8.0}
    put_back = ["c", "d", "e", "f"]
    results = set()
    for _ in range(20):
        draw.shuffle(put_back)
        pieces = {piece: score + draw.uniform(-1e-10, 1e-10) for piece, score in chosen.items()}
        pieces |= {piece: -9.0 + 1e-4 * step for step, piece in enumerate(put_back)}
        items = [("<unk>", 0.0), *pieces.items()]
        draw.shuffle(items)
        results.add(tuple(training._settled(dict(items), ["<unk>"], alphabet, 9)))
    (settled,) = results
    assert settled[:3] == (("<unk>", 0.0), ("ab", -2.0), ("a", -3.0))
    assert [piece for piece, _ in settled if len(piece) == 1 and piece in put_back] == ["f", "e", "d", "c"]
    assert len(settled) == 9 and {piece for piece, _ in settled} >= set(alphabet)  # "lowest" had to go


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "sentencepiece"])
def test_frequent_words_are_one_token(kind):
    tokenizer = training.train(kind, TIED, 300)
    found = [tokenizer.token_name(number) for number in tokenizer.encode("one hundred and one")]
    space = {"bpe": "\u0120", "wordpiece": "", "sentencepiece": "\u2581"}[kind]
    assert found == ["one", *(space + word for word in ("hundred", "and", "one"))]


def test_a_very_long_word_does_no_harm():
    tokenizer = train_sentencepiece([*TEXTS, "x" * 100_000, " " * 5_000 + "y"], 90)
    assert tokenizer.decode(tokenizer.encode("x" * 999)) == "x" * 999


# -- training on what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (
            "wordpiece",
            {"vocab_size": 20},
            r"vocab_size: 20; wanted an integer of at least \d+ .*or raise min_frequency",
        ),
        (
            "sentencepiece",
            {"vocab_size": 20},
            r"vocab_size: 20; wanted an integer of at least \d+ \(\d+ characters and 4",
        ),
        ("character", {"vocab_size": 4}, r"vocab_size: 4; wanted an integer of at least 5 \(1 character and 4 special"),
        (
            "bpe",
            {"vocab_size": 256},
            r"vocab_size: 256; wanted an integer of at least 257 \(256 bytes and 1 special\)$",
        ),
        ("wordpiece", {"vocab_size": True}, "vocab_size: True; wanted an integer of at least 1"),
        ("sentencepiece", {"vocab_size": 99, "min_frequency": 0}, "min_frequency: 0; wanted"),
        (
            "character",
            {"vocab_size": 99, "special_tokens": ["pad"]},
            "'pad'; wanted names that begin and end with a sign",
        ),
        ("word", {"vocab_size": 99}, "tokenizer type: 'word', wanted one of bpe, wordpiece.* Did you mean 'wordpiece'"),
    ],
)
def test_settings_that_are_refused(kind, arguments, message):
    with pytest.raises(ConfigError, match=message):
        training.train(kind, TEXTS, **arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ([], DataError, "texts: no text to train a tokenizer on"),
        (["", "\n \n"], DataError, "texts: no text to train a tokenizer on"),
        (iter(["  "]), DataError, "texts: no text to train a tokenizer on"),
        (["a", 3], DataError, "texts: text 1 is int, wanted str"),
        ("a text", ConfigError, "texts: one string, wanted an iterable of strings"),
    ],
)
def test_training_on_nothing(kind, texts, error, message):
    with pytest.raises(error, match=message):
        training.train(kind, texts, 400)


def test_characters_below_min_frequency_are_unknown():
    texts = ["aaaa bbbb", "c"]
    for train in (train_character, train_sentencepiece, train_wordpiece):
        tokenizer = train(texts, 30, min_frequency=2)
        assert tokenizer.encode("c")[-1] == tokenizer.unk_token_id
        assert tokenizer.unk_token_id not in tokenizer.encode("ab")
    with pytest.raises(DataError, match="no character occurs 9 times, as min_frequency asks"):
        train_character(texts, min_frequency=9)


def test_an_unknown_token_is_added_where_one_is_needed():
    for kind, name in (("wordpiece", "[UNK]"), ("sentencepiece", "<unk>"), ("character", "<unk>")):
        tokenizer = training.train(kind, TEXTS, 120, special_tokens=["<|endoftext|>"])
        assert tokenizer.special_token_ids == (0, 1) and tokenizer.token_name(1) == name
    assert train_bpe(TEXTS, 300).unk_token_id is None  # bytes are never unknown


def test_lowercase():
    tokenizer = train_wordpiece(TEXTS, 150, lowercase=True)
    assert tokenizer.encode("The CAFÉ") == tokenizer.encode("the cafe")
    assert WORDS.encode("The") != WORDS.encode("the")


# -- saved, loaded, and in other libraries ----------------------------------------------------------------


def test_saved_and_loaded(made, tmp_path):
    again = Tokenizer.from_pretrained(made.save(tmp_path).parent)
    assert (again.kind, again.vocab_size, again.fingerprint) == (made.kind, made.vocab_size, made.fingerprint)
    assert again.special_token_ids == made.special_token_ids
    assert again.to_json() == made.to_json()
    np.testing.assert_array_equal(again.token_bytes(), made.token_bytes())
    assert again.encode_batch(TEXTS, True) == made.encode_batch(TEXTS, True)


def test_the_tokenizers_library_reads_it(made, tmp_path):
    from tokenizers import Tokenizer as Inner

    inner = Inner.from_file(str(made.save(tmp_path)))
    for text in [*TEXTS, "☃ unknown  \n words"]:
        assert inner.encode(text, add_special_tokens=False).ids == made.encode(text)


@pytest.mark.parametrize("reader", ["AutoTokenizer", "PreTrainedTokenizerFast"])
def test_transformers_reads_it(made, tmp_path, reader):
    transformers = pytest.importorskip("transformers")
    made.save(tmp_path)
    theirs = getattr(transformers, reader).from_pretrained(tmp_path)
    for text in [*TEXTS, "☃ unknown  \n words"]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == made.encode(text)
        assert theirs(text)["input_ids"] == made.encode(text, add_special_tokens=True)
        assert theirs.decode(made.encode(text)) == made.decode(made.encode(text), skip_special_tokens=False)
    assert theirs("the cat", "on mat")["input_ids"] == made.encode("the cat", True, "on mat")
    for role in ("pad", "unk", "mask", "bos", "eos", "cls", "sep"):
        assert getattr(theirs, f"{role}_token_id") == getattr(made, f"{role}_token_id"), role
    assert len(theirs) == made.vocab_size


@pytest.mark.parametrize("value", ["<X1>", {"content": "<X1>", "special": True}])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_roles_that_files_beside_it_name(tmp_path, file, value):
    train_bpe(TEXTS, 300, special_tokens=("<|endoftext|>", "<X1>")).save(tmp_path / "tokenizer.json")
    assert load_tokenizer(tmp_path).pad_token_id is None
    (tmp_path / file).write_text(json.dumps({"pad_token": value, "bos_token": None}))
    assert load_tokenizer(tmp_path).pad_token_id == 1
    (tmp_path / file).write_text("[]")
    with pytest.raises(DataError, match=f"{file}: list, wanted an object"):
        load_tokenizer(tmp_path)
    (tmp_path / file).write_bytes(b"\xff{")
    with pytest.raises(DataError, match=f"{file}: cannot be read"):
        load_tokenizer(tmp_path)


def test_from_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    from tinygrad_edu.data import hub

    WORDS.save(tmp_path)
    monkeypatch.setattr(hub, "hub_answers", lambda: True)

    def download(name, file):
        assert name == "someone/words"
        if not (tmp_path / file).exists():
            raise FileNotFoundError("404")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    tokenizer = Tokenizer.from_pretrained("someone/words")
    assert tokenizer.fingerprint == WORDS.fingerprint and tokenizer.where == "someone/words"


# -- tokenizers from elsewhere ----------------------------------------------------------------------------


def foreign(model, **parts):
    from tokenizers import Tokenizer as Inner

    inner = Inner(model)
    for name, part in parts.items():
        setattr(inner, name, part)
    return inner


def test_without_an_unknown_token_unknown_characters_are_counted():
    from tokenizers import decoders, models, pre_tokenizers

    unigram = foreign(models.Unigram([("a", -1.0), ("b", -2.0)]))
    pieces = foreign(models.WordPiece({"a": 0, "b": 1, "##a": 2, "##b": 3}), pre_tokenizer=pre_tokenizers.Whitespace())
    letters = foreign(models.BPE({"a": 0, "b": 1}, []), decoder=decoders.Fuse())
    for inner, kind in ((unigram, "sentencepiece"), (pieces, "wordpiece"), (letters, "character")):
        tokenizer = Tokenizer(inner, "foreign")
        assert tokenizer.kind == kind and tokenizer.unk_token_id is None
        assert tokenizer.encode_batch(["ab", "ba"])
        with pytest.raises(
            DataError,
            match=r"text 1: 3 characters have no token \('x', 'y'\), and foreign has no unknown token",
        ):
            tokenizer.encode_batch(["ab", "axbyx"])
    with pytest.raises(DataError, match=r"12 characters have no token \('1', '2', '3', '4', '5', \.\.\.\)"):
        Tokenizer(letters, "foreign").encode("123456123456")


def test_a_sentencepiece_tokenizer_with_bytes():
    from tokenizers import decoders, models, normalizers

    byte = {f"<0x{value:02X}>": 3 + value for value in range(256)}
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **byte, "\u2581": 259, "a": 260, "\u2581a": 261}
    inner = foreign(
        models.BPE(vocabulary, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True),
        normalizer=normalizers.Replace(" ", "\u2581"),
        decoder=decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]),
    )
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer = Tokenizer(inner, "llama")
    assert tokenizer.kind == "sentencepiece" and tokenizer.eos_token_id == 2
    for text in ("a a", " a☃a", "é"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


def test_a_tokenizer_whose_bytes_cannot_be_told():
    from tokenizers import models, pre_tokenizers

    inner = foreign(
        models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"), pre_tokenizer=pre_tokenizers.Whitespace()
    )
    tokenizer = Tokenizer(inner, "words")
    assert tokenizer.kind == "other" and tokenizer.encode("a b") == [0, 1] and tokenizer.unk_token_id == 1
    with pytest.raises(DataError, match="words: a WordLevel tokenizer of a kind whose tokens need not be pieces"):
        tokenizer.token_bytes()


def test_decoding_an_unknown_id(made):
    with pytest.raises(RangeError, match=f"id {made.vocab_size} at position 1 has no token; wanted 0 to"):
        made.decode([0, made.vocab_size])
    with pytest.raises(RangeError, match="id -1 at position 0 has no token"):
        made.token_name(-1)


# -- of a corpus ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "unigram"])
def test_the_tokenizer_of_a_corpus(kind, small, tmp_path, monkeypatch):
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    size = 300 if kind == "bpe" else 120
    first = corpus_tokenizer(small, size, kind=kind, special_tokens=special, cache_dir=tmp_path)
    assert first.mask_token_id == 4 and first.kind == training.check_kind(kind)
    monkeypatch.setattr(training, "train", None)  # from the cache now
    again = corpus_tokenizer(small, size, kind=kind, special_tokens=special, cache_dir=tmp_path)
    assert again.to_json() == first.to_json() and again.special_token_ids == first.special_token_ids
    tokens = prepare_tokens(small, first, cache_dir=tmp_path)
    assert tokens["train"].ids[0] == first.sep_token_id  # what stands between documents
    assert (np.asarray(tokens["train"].ids) == first.sep_token_id).sum() == len(small.splits["train"]) + 1


def test_a_corpus_needs_a_token_that_ends_documents(small):
    with pytest.raises(ConfigError, match=r"special_tokens: \('<pad>',\) has none that ends a document; wanted one of"):
        corpus_tokenizer(small, 300, special_tokens=("<pad>",))
    with pytest.raises(ConfigError, match="tokenizer type: 'bp', wanted one of"):
        corpus_tokenizer(small, 300, kind="bp")

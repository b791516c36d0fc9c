"""Pairs from settings to batches, and texts to their translations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.data import Tokenizer, make_task_pairs, train_bpe, train_joint_bpe_tokenizer
from tinygrad_edu.errors import ConfigError, DataError, ShapeError
from tinygrad_edu.models import Seq2Seq, create_model
from tinygrad_edu.training import FoundryConfig
from tinygrad_edu.training.config import make_config
from tinygrad_edu.training.pairs import prepare_pairs, translate, use_tokens_of


def settings(*overrides: str, **data: Any) -> Any:
    values = {
        "model": {"architecture": "seq2seq", "max_seq_len": 20, "transformer": {"d_model": 16, "n_heads": 2}},
        "data": {"max_length": 20, **(data or {"task": "numbers", "task_size": 200})},
        "tokenizer": {"vocab_size": 300},
        "training": {"objective": "translation"},
    }
    return make_config(values, overrides, FoundryConfig)


def two_files(folder: Path, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    paths = {"src_path": folder / "a.txt", "tgt_path": folder / "b.txt"}
    for side, path in enumerate(paths.values()):
        path.write_text("".join(pair[side] + "\n" for pair in pairs))
    return {name: str(path) for name, path in paths.items()}


WORDS = [(f"eins {n} drei", f"one {n} three") for n in range(60)]


def test_a_task_by_split_with_one_tokenizer_and_batches_of_it() -> None:
    data = prepare_pairs(settings("model.max_seq_len=64", "data.max_length=64"))
    assert data.name == "numbers"
    assert {split: len(pairs) for split, pairs in data.pairs.items()} == {"train": 180, "validation": 10, "test": 10}
    assert data.left_out == 0
    assert data.pairs == make_task_pairs("numbers", 200)
    tokenizer = data.tokenizer
    for split, examples in data.examples.items():
        for (source, target), (source_ids, target_ids) in zip(data.pairs[split], examples, strict=True):
            assert (tokenizer.decode(source_ids), tokenizer.decode(target_ids)) == (source, target)
    batches = list(data.loader("train", 32, shuffle=True, seed=1))
    assert sum(len(batch["labels"]) for batch in batches) == 180
    for batch in batches:
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}
        ends = (batch["labels"] != -100).sum(axis=1) - 1
        assert (np.take_along_axis(batch["labels"], ends[:, None], 1) == tokenizer.eos_token_id).all()


def test_the_tokenizer_learns_from_training_pairs_alone() -> None:
    splits = make_task_pairs("numbers", 200)

    def trained_on(pairs: Sequence[tuple[str, str]]) -> Tokenizer:
        return train_joint_bpe_tokenizer([source for source, _ in pairs], [target for _, target in pairs], 300)

    tokenizer = prepare_pairs(settings()).tokenizer
    assert tokenizer.fingerprint == trained_on(splits["train"]).fingerprint
    assert tokenizer.fingerprint != trained_on([pair for pairs in splits.values() for pair in pairs]).fingerprint


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "sentencepiece", "character"])
def test_every_kind_of_tokenizer(kind: str) -> None:
    data = prepare_pairs(settings(f"tokenizer.type={kind}", "model.max_seq_len=128", "data.max_length=128"))
    assert data.tokenizer.kind == kind
    assert (data.tokenizer.pad_token_id, data.tokenizer.bos_token_id, data.tokenizer.eos_token_id) == (0, 1, 2)


def test_special_tokens_of_other_names_and_places(tmp_path: Path) -> None:
    special = "tokenizer.special_tokens=[<unk>, </s>, <pad>, <s>]"
    data = prepare_pairs(settings(special))
    tokenizer = data.tokenizer
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 3, 1)
    model = create_model({"architecture": "seq2seq", "vocab_size": tokenizer.vocab_size, "d_model": 16, "d_ffn": 16})
    use_tokens_of(model, tokenizer)
    assert (model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id) == (2, 3, 1)
    tokenizer.save(tmp_path / "own")
    loaded = prepare_pairs(settings(f"tokenizer.type={tmp_path / 'own'}"))
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    train_bpe(["a b c"] * 9, 280).save(tmp_path / "bare")
    with pytest.raises(ConfigError, match="has no pad token, which a model that translates needs"):
        prepare_pairs(settings(f"tokenizer.type={tmp_path / 'bare'}"))


def test_two_files(tmp_path: Path) -> None:
    data = prepare_pairs(settings(**two_files(tmp_path, WORDS)))
    assert {split: len(pairs) for split, pairs in data.pairs.items()} == {"train": 54, "validation": 3, "test": 3}
    assert sorted(pair for pairs in data.pairs.values() for pair in pairs) == sorted(WORDS)
    again = prepare_pairs(settings(**two_files(tmp_path, WORDS)))
    assert again.content_hash == data.content_hash and again.pairs == data.pairs
    changed = prepare_pairs(settings(**two_files(tmp_path, [*WORDS[:-1], ("eins", "uno")])))
    assert changed.content_hash != data.content_hash
    few = settings("data.use_subset=true", "data.subset_size=30", **two_files(tmp_path, WORDS))
    assert sum(map(len, prepare_pairs(few).pairs.values())) == 30


def test_pairs_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    long = [(f"eins {n} " + "drei " * 20, "x") for n in range(5)] + [(f"zwei {n}", "y " * 30) for n in range(4)]
    data = prepare_pairs(
        settings("tokenizer.vocab_size=260", "tokenizer.min_frequency=99", **two_files(tmp_path, [*WORDS, *long]))
    )
    kept = [pair for pairs in data.pairs.values() for pair in pairs]
    assert data.left_out == 9 and sorted(kept) == sorted(WORDS)
    for source, target in (ids for examples in data.examples.values() for ids in examples):
        assert len(source) <= 20 and len(target) + 1 <= 20
    with pytest.raises(DataError, match=r"of the 54 pairs of the split train none is at most data.max_length 3 tokens"):
        prepare_pairs(settings("data.max_length=3", **two_files(tmp_path, WORDS)))


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    paths = two_files(tmp_path, WORDS)
    Path(paths["tgt_path"]).write_text("one\n")
    with pytest.raises(DataError, match="has 60 lines, .* has 1; wanted as many in both"):
        prepare_pairs(settings(**paths))
    with pytest.raises(DataError, match="2 pairs are too few: none is left for train|none is left for training"):
        prepare_pairs(settings(**two_files(tmp_path, WORDS[:2])))
    with pytest.raises(DataError, match="no examples in"):
        prepare_pairs(settings(**two_files(tmp_path, [])))
    with pytest.raises(DataError, match=r"a.txt, line 2: is empty"):
        prepare_pairs(settings(**two_files(tmp_path, [("a", "b"), ("", "c"), ("d", "e"), ("f", "g")])))
    with pytest.raises(ConfigError, match="task: 'poems' is unknown; wanted numbers"):
        prepare_pairs(settings(task="poems"))


# -- translating ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Tokenizer]:
    """A model that knows some numbers by heart."""
    data = prepare_pairs(settings())
    model = Seq2Seq({"vocab_size": data.tokenizer.vocab_size, "d_model": 32, "d_ffn": 64, "n_blocks": 1,
                     "max_seq_len": 20, "dropout": 0.0, "init_std": 0.2})  # fmt: skip
    for _ in range(40):
        for batch in data.loader("train", 60, shuffle=True):
            model.train_step(**batch, learning_rate=3e-3)
    return model, data.tokenizer


def test_many_at_once_are_translated_as_each_alone(trained: tuple[Any, Tokenizer]) -> None:
    model, tokenizer = trained
    texts = [f"{n:,}" for n in (7, 1_234_567, 42, 999, 80_000, 31, 5_000_000, 12, 7)]
    for beams in (1, 3):
        together = translate(model, tokenizer, texts, num_beams=beams, batch_size=4)
        assert together == [translate(model, tokenizer, [text], num_beams=beams)[0] for text in texts]
        assert together[0] == together[-1] and len(set(together)) > 4
    assert all("<" not in text for text in together)
    assert translate(model, tokenizer, []) == []


def test_texts_that_cannot_be_translated(trained: tuple[Any, Tokenizer]) -> None:
    model, tokenizer = trained
    with pytest.raises(ShapeError, match="text 1: 0 tokens, wanted 1 to the model's max_seq_len 20"):
        translate(model, tokenizer, ["7", ""])
    with pytest.raises(ShapeError, match="text 0: 40 tokens, wanted 1 to"):
        translate(model, tokenizer, ["€€€€€€€€€€€€€ "])
    with pytest.raises(ConfigError, match="texts: one string, wanted a list of texts"):
        translate(model, tokenizer, "7")
    gpt2 = create_model({"architecture": "gpt2", "vocab_size": 300, "n_embd": 8, "n_head": 2, "n_layer": 1})
    with pytest.raises(ConfigError, match="translate: gpt2 learned causal_lm, and translates nothing"):
        translate(gpt2, tokenizer, ["7"])

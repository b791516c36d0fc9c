"""Parallel text: aligned files, and splits without a common source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_edu.data import load_parallel_text, split_pairs
from tinygrad_edu.errors import ConfigError, DataError


def write(folder, src, tgt):
    (folder / "src.txt").write_bytes(src)
    (folder / "tgt.txt").write_bytes(tgt)
    return folder / "src.txt", folder / "tgt.txt"


def test_lines_are_paired(tmp_path):
    paths = write(tmp_path, b"\xef\xbb\xbfone \r\ntwo\n\n", "eins\n zwei – 2".encode())
    assert load_parallel_text(*paths) == [("one", "eins"), ("two", "zwei – 2")]


@pytest.mark.parametrize(
    ("src", "tgt", "message"),
    [
        (b"a\nb\n", b"c\n", r"src\.txt has 2 lines, .*tgt\.txt has 1; wanted as many in both"),
        (b"a\n\nb\n", b"c\nd\ne\n", r"src\.txt, line 2: is empty; wanted a sentence"),
        (b"a\nb\nc\nd", b"c\n \n\t\ne\n", r"tgt\.txt, line 2: is empty \(and 1 more\)"),
        (b"a\nb\n", b"c\nd\xff\n", r"tgt\.txt, line 2: byte 0xff at offset 3 of the file is not UTF-8"),
        (b"", b"c\n", r"no examples in .*src\.txt: it holds no line of text"),
        (b"a\n", b"\n\n", r"no examples in .*tgt\.txt: it holds no line of text"),
        (b"a\0\n", b"c\n", r"src\.txt, line 1: NUL byte at offset 1"),
    ],
)
def test_files_that_are_refused(tmp_path, src, tgt, message):
    with pytest.raises(DataError, match=message):
        load_parallel_text(*write(tmp_path, src, tgt))


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: cannot be read: No such file"):
        load_parallel_text(tmp_path / "none.txt", tmp_path / "none.txt")


@given(
    sources=st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=3, max_size=60),
    validation=st.integers(0, 4),
    test=st.integers(0, 4),
    seed=st.integers(0, 5),
)
def test_no_source_is_in_two_splits_and_no_pair_is_lost(sources, validation, test, seed):
    pairs = [(source, str(number)) for number, source in enumerate(sources)]
    if len(set(sources)) <= validation + test:
        return
    splits = split_pairs(pairs, validation, test, seed)
    assert sorted(pair for split in splits.values() for pair in split) == sorted(pairs)
    held = [{source for source, _ in split} for split in splits.values()]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    for name, wanted in (("validation", validation), ("test", test)):
        assert len(splits[name]) >= wanted
        assert [int(target) for _, target in splits[name]] == sorted(int(target) for _, target in splits[name])
    assert splits == split_pairs(pairs, validation, test, seed)


def test_shares():
    pairs = [(str(i), "x") for i in range(200)]
    splits = split_pairs(pairs, 0.1, 0.05)
    assert {name: len(split) for name, split in splits.items()} == {"train": 170, "validation": 20, "test": 10}
    assert splits != split_pairs(pairs, 0.1, 0.05, seed=1)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (([("a", "b")], 1.0), ConfigError, "validation: 1.0, wanted a share below 1, or a number of pairs"),
        (([("a", "b")], -1), ConfigError, "validation: -1, wanted a share below 1"),
        (([("a", "b")], 0, float("nan")), ConfigError, "test: nan, wanted"),
        (([("a", "b")] * 5, 1, 0), DataError, "5 with 1 different sources; none is left for training after 1 for val"),
        (([], 0, 0), DataError, "pairs: 0 with 0 different sources"),
        ((["ab", "cd"],), DataError, "pairs: pair 0 is 'ab', wanted two texts"),
        (([("a", "b")], 0, 0, -1), ConfigError, "seed: -1"),
    ],
)
def test_splits_that_cannot_be(arguments, kind, message):
    with pytest.raises(kind, match=message):
        split_pairs(*arguments)

"""The loader: every window once an epoch, exact resuming; evaluation predicts every token exactly once."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_edu.data import StreamLoader, TokenLoader, evaluation_windows, write_tokens
from tinygrad_edu.errors import ConfigError, DataError, DtypeError, ShapeError


def epoch(loader):
    return np.concatenate([input_ids for input_ids, _ in loader])


@given(n=st.integers(5, 200), seq_len=st.integers(2, 12), batch_size=st.integers(1, 5), seed=st.integers(0, 9))
def test_windows_of_an_epoch_do_not_overlap_and_all_epochs_are_equally_long(n, seq_len, batch_size, seed):
    if n < seq_len:
        return
    ids = np.arange(n, dtype=np.uint16)
    loader = TokenLoader(ids, batch_size, seq_len, seed=seed, drop_last=False)
    offsets = set()
    for number in range(4):
        assert loader.epoch == number
        batches = list(loader)
        assert len(batches) == len(loader)
        rows = np.concatenate([input_ids for input_ids, _ in batches])
        assert rows.shape == (loader.windows, seq_len) and rows.dtype == np.int64
        assert (np.diff(rows, axis=1) == 1).all()  # each is a stretch of the text
        starts = np.sort(rows[:, 0])
        assert (np.diff(starts) == seq_len).all()  # side by side
        assert starts[0] < seq_len and n - starts[-1] - seq_len < 2 * seq_len - 1  # little is left out
        offsets.add(int(starts[0]))
    assert len(offsets) > 1 or n < 2 * seq_len or seq_len < 6


def test_labels_are_the_ids_in_an_array_of_their_own():
    input_ids, labels = next(iter(TokenLoader(np.arange(100), 3, 8)))
    assert input_ids.shape == labels.shape == (3, 8) and labels.dtype == np.int64
    np.testing.assert_array_equal(input_ids, labels)
    assert not np.shares_memory(input_ids, labels)


def test_seed_and_epoch_decide_the_order():
    ids = np.arange(1000)
    first, same, other = (TokenLoader(ids, 4, 10, seed=seed) for seed in (1, 1, 2))
    a, b = epoch(first), epoch(first)
    np.testing.assert_array_equal(a, epoch(same))
    assert not np.array_equal(a, b) and not np.array_equal(a, epoch(other))


def test_without_shuffling_the_text_comes_in_order_every_time():
    loader = TokenLoader(np.arange(47), 2, 10, shuffle=False)
    for _ in range(2):
        np.testing.assert_array_equal(epoch(loader).ravel(), np.arange(40))


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [3, 3]), (False, [3, 3, 1])])
def test_the_last_batch(drop_last, sizes):
    loader = TokenLoader(np.arange(79), 3, 10, drop_last=drop_last)
    assert len(loader) == len(sizes)
    assert [len(labels) for _, labels in loader] == sizes


def test_breaking_off_and_going_on_misses_nothing():
    whole = TokenLoader(np.arange(500), 4, 10)
    parts = TokenLoader(np.arange(500), 4, 10)
    wanted = epoch(whole)
    found = [ids for ids, _ in itertools.islice(parts, 5)] + [ids for ids, _ in parts]
    np.testing.assert_array_equal(np.concatenate(found), wanted)
    assert (parts.epoch, parts.position) == (1, 0)


@pytest.mark.parametrize("stop", [0, 1, 11, 12, 13, 24, 30])
def test_resuming_is_exact_at_any_batch(stop):
    def endless(loader):
        while True:
            yield from loader

    ids = np.arange(500)
    first = TokenLoader(ids, 4, 10, seed=5)
    assert len(first) == 12
    stream = endless(first)
    for _ in range(stop):
        next(stream)
    state = json.loads(json.dumps(first.state_dict()))  # as a checkpoint keeps it
    second = TokenLoader(ids, 4, 10, seed=5)
    second.load_state_dict(state)
    resumed = endless(second)
    for _ in range(30):
        for wanted, found in zip(next(stream), next(resumed), strict=True):
            np.testing.assert_array_equal(wanted, found)
    assert first.state_dict() == second.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3}, "batch_size 4, this loader has 3"),
        ({"seq_len": 9}, "seq_len 10, this loader has 9"),
        ({"seed": 1}, "seed 0, this loader has 1"),
        ({"shuffle": False}, "shuffle True, this loader has False"),
        (
            {"drop_last": False, "batch_size": 5},
            "drop_last True, this loader has False; batch_size 4, this loader has 5",
        ),
        ({"tokens": np.arange(501)}, "tokens 500, this loader has 501; data_sha256 '"),
        ({"tokens": np.arange(500)[::-1]}, "data_sha256 '"),
    ],
)
def test_a_state_from_elsewhere_is_refused(change, message):
    settings = {"tokens": np.arange(500), "batch_size": 4, "seq_len": 10}
    state = TokenLoader(**settings).state_dict()
    loader = TokenLoader(**{**settings, **change})
    with pytest.raises(DataError, match="comes from other data or settings: .*" + message):
        loader.load_state_dict(state)
    assert (loader.epoch, loader.position) == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": 13}, "position is 13, wanted an integer of at least 0 and at most 12"),
        ({"position": -1}, "position is -1"),
        ({"position": 1.0}, "position is 1.0"),
        ({"epoch": "2"}, "epoch is '2', wanted an integer of at least 0$"),
        ({"more": 1}, r"fields \[.*'more'.*\], wanted"),
    ],
)
def test_a_damaged_state_is_refused(change, message):
    loader = TokenLoader(np.arange(500), 4, 10)
    with pytest.raises(DataError, match=message):
        loader.load_state_dict({**loader.state_dict(), **change})
    with pytest.raises(DataError, match="fields list, wanted"):
        loader.load_state_dict([])
    assert (loader.epoch, loader.position) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((np.arange(9), 1, 10), DataError, "tokens: 9 in the split, fewer than one window of seq_len 10"),
        (
            (np.arange(30), 4, 10),
            DataError,
            r"2 windows of seq_len 10 in the split \(30 tokens\), fewer than one batch",
        ),
        ((np.arange(30), 0, 10), ConfigError, "batch_size: 0, wanted an integer of at least 1"),
        ((np.arange(30), 1, 1), ConfigError, "seq_len: 1, wanted an integer of at least 2"),
        ((np.arange(30), 1, 2.0), ConfigError, "seq_len: 2.0, wanted an integer"),
        ((np.arange(30.0), 1, 10), DtypeError, "tokens: dtype float64, wanted integers"),
        ((np.zeros((3, 10), int), 1, 10), ShapeError, r"tokens: shape \(3, 10\), wanted one axis"),
    ],
)
def test_loaders_that_cannot_be(arguments, kind, message):
    with pytest.raises(kind, match=message):
        TokenLoader(*arguments)


def test_a_token_file_is_read_as_its_ids(texts, tmp_path, tokenizer):
    file = write_tokens(tmp_path / "a.bin", texts, tokenizer)
    mapped, held = TokenLoader(file, 2, 16), TokenLoader(np.array(file.ids, np.int64), 2, 16)
    np.testing.assert_array_equal(epoch(mapped), epoch(held))
    assert mapped.state_dict()["data_sha256"] == file.sha256


@given(n=st.integers(2, 120), seq_len=st.integers(2, 20), data=st.data(), batch_size=st.integers(1, 4))
def test_evaluation_predicts_every_token_but_the_first_exactly_once(n, seq_len, data, batch_size):
    stride = data.draw(st.integers(1, seq_len - 1))
    ids = np.arange(n) + 1000
    predicted = []
    for input_ids, labels in evaluation_windows(ids, seq_len, stride, batch_size):
        assert input_ids.shape == labels.shape == (len(labels), seq_len) and len(labels) <= batch_size
        assert (labels[:, 0] == -100).all()  # never predicted, as the model shifts
        for row, target in zip(input_ids, labels, strict=True):
            for at in np.flatnonzero(target != -100):
                assert target[at] == row[at]
                context = row[:at]
                token = target[at] - 1000
                assert context[-1] == target[at] - 1 and (np.diff(context) == 1).all()
                assert len(context) >= min(token, seq_len - stride)
                predicted.append(int(token))
            assert set(row[row < 1000]) <= {0} and (target[row < 1000] == -100).all()  # padding
    assert predicted == list(range(1, n))


def test_evaluation_of_a_text_shorter_than_a_window_is_padded():
    ((input_ids, labels),) = evaluation_windows(np.array([7, 8, 9]), 5)
    np.testing.assert_array_equal(input_ids, [[7, 8, 9, 0, 0]])
    np.testing.assert_array_equal(labels, [[-100, 8, 9, -100, -100]])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((np.arange(9), 8, 8), ConfigError, r"stride: 8, wanted at most 7 \(seq_len 8 less 1\)"),
        ((np.arange(9), 8, 0), ConfigError, "stride: 0, wanted an integer of at least 1"),
        ((np.arange(9), 1), ConfigError, "seq_len: 1, wanted an integer of at least 2"),
        ((np.arange(1), 8), DataError, "tokens: 1 in the split, wanted at least 2"),
        ((np.arange(9.0), 8), DtypeError, "dtype float64"),
    ],
)
def test_evaluations_that_cannot_be(arguments, kind, message):
    with pytest.raises(kind, match=message):
        evaluation_windows(*arguments)


# -- windows through a collator ---------------------------------------------------------------------------


def test_windows_go_through_a_collator_and_resume_with_it(texts, tmp_path):
    from tinygrad_edu.data import MaskedLMDataCollator, train_wordpiece

    pieces = train_wordpiece(texts, 120)
    file = write_tokens(tmp_path / "a.bin", texts, pieces)  # [SEP] stands between documents
    assert file.ids[0] == pieces.sep_token_id

    def make():
        return TokenLoader(file, 4, 16, seed=1, collate=MaskedLMDataCollator(pieces, seed=2))

    first, second = make(), make()
    batches = list(first)
    assert all(batch["input_ids"].shape == (4, 16) and (batch["labels"] != -100).any() for batch in batches)
    state = json.loads(json.dumps(first.state_dict()))
    assert state["collate"]["calls"] == len(batches)
    second.load_state_dict(state)
    for wanted, found in zip(first, second, strict=True):
        for name in wanted:
            np.testing.assert_array_equal(wanted[name], found[name])
    with pytest.raises(DataError, match="has no collate"):
        make().load_state_dict(TokenLoader(file, 4, 16, seed=1).state_dict())
    with pytest.raises(ConfigError, match="collate: int, wanted a function"):
        TokenLoader(file, 4, 16, collate=3)


# -- strands ----------------------------------------------------------------------------------------------


@given(n=st.integers(2, 200), batch_size=st.integers(1, 6), seq_len=st.integers(2, 12), drop_last=st.booleans())
def test_strands_predict_every_token_once_and_go_on_where_the_row_before_ended(n, batch_size, seq_len, drop_last):
    strand = (n - 1) // batch_size
    if strand < (seq_len - 1 if drop_last else 1):
        return
    loader = StreamLoader(np.arange(n), batch_size, seq_len, drop_last=drop_last)
    for _ in range(2):  # every epoch alike
        batches = list(loader)
        assert len(batches) == len(loader)
        predicted, last = [], None
        for number, (input_ids, labels) in enumerate(batches):
            np.testing.assert_array_equal(input_ids, labels)
            assert not np.shares_memory(input_ids, labels)
            assert len(input_ids) == batch_size and input_ids.shape[1] >= 2
            assert input_ids.shape[1] == seq_len or (number == len(batches) - 1 and not drop_last)
            if last is not None:
                np.testing.assert_array_equal(input_ids[:, 0], last)
            last = input_ids[:, -1]
            assert (np.diff(input_ids, axis=1) == 1).all()
            predicted += input_ids[:, 1:].ravel().tolist()
        assert len(set(predicted)) == len(predicted)
        if not drop_last:
            assert sorted(predicted) == list(range(1, strand * batch_size + 1))
            assert n - 1 - strand * batch_size < batch_size


def test_strands_resume_exactly():
    first, second = StreamLoader(np.arange(500), 4, 10), StreamLoader(np.arange(500), 4, 10)
    list(itertools.islice(first, 5))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for (wanted, _), (found, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(wanted, found)
    assert (second.epoch, second.position) == (1, 0)
    with pytest.raises(DataError, match="drop_last False, this loader has True"):
        StreamLoader(np.arange(500), 4, 10, drop_last=True).load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"tokens": np.arange(4), "batch_size": 4}, DataError, "4 in the split give 4 strands of 0 tokens to predict"),
        ({"drop_last": True, "batch_size": 10}, DataError, "10 strands of 4 tokens to predict, fewer than 9"),
        ({"tokens": np.arange(0)}, DataError, "0 in the split give 2 strands of 0 tokens"),
        ({"seq_len": 1}, ConfigError, "seq_len: 1, wanted an integer of at least 2"),
        ({"batch_size": 0}, ConfigError, "batch_size: 0, wanted"),
        ({"tokens": np.zeros((2, 9), int)}, ShapeError, "wanted one axis"),
    ],
)
def test_strands_that_cannot_be(arguments, kind, message):
    settings = {"tokens": np.arange(50), "batch_size": 2, "seq_len": 10, **arguments}
    with pytest.raises(kind, match=message):
        StreamLoader(**settings)

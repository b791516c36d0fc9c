"""The general loader: each example once an epoch, exact resuming with the collator, little padding when sorted."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_edu.data import CausalLMDataCollator, DataLoader, MaskedLMDataCollator, train_wordpiece
from tinygrad_edu.data.examples import example_length
from tinygrad_edu.errors import ConfigError, DataError

from .conftest import TEXTS

PIECES = train_wordpiece(TEXTS, 120)


def ragged(n=300, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(5, 100, size=int(draw.integers(2, 60))) for _ in range(n)]


@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    sort=st.booleans(),
)
def test_each_example_once_an_epoch(n, batch_size, shuffle, drop_last, sort):
    if drop_last and n < batch_size:
        return
    length = (lambda i: i % 7) if sort else None
    loader = DataLoader(range(n), batch_size, None, shuffle, 3, drop_last, sort_by_length=sort, length=length)
    orders = []
    for number in range(2):
        assert (loader.epoch, loader.position) == (number, 0)
        batches = list(loader)
        assert len(batches) == len(loader)
        seen = [i for batch in batches for i in batch]
        assert len(set(seen)) == len(seen) == (n // batch_size * batch_size if drop_last else n)
        assert sum(len(batch) != batch_size for batch in batches) <= 1
        orders.append(seen)
    assert shuffle or orders[0] == orders[1]
    if not shuffle and not sort:
        assert orders[0] == list(range(len(orders[0])))


def test_epochs_and_seeds_have_orders_of_their_own():
    def orders(seed):
        loader = DataLoader(range(50), 5, shuffle=True, seed=seed)
        return list(loader), list(loader)

    first, second = orders(1)
    assert first != second and (first, second) == orders(1) and first != orders(2)[0]


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 17, 37, 38, 60])
def test_resuming_is_exact_at_any_batch_with_the_collator(stop, sort):
    def make():
        collator = MaskedLMDataCollator(PIECES, seed=2)
        return DataLoader(ragged(), 8, collator, shuffle=True, seed=5, sort_by_length=sort)

    def endless(loader):
        while True:
            yield from loader

    first, second = make(), make()
    assert len(first) == 38
    stream = endless(first)
    for _ in range(stop):
        next(stream)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    resumed = endless(second)
    for _ in range(50):
        wanted, found = next(stream), next(resumed)
        assert wanted.keys() == found.keys()
        for name in wanted:
            np.testing.assert_array_equal(wanted[name], found[name])
    assert first.state_dict() == second.state_dict()


def test_leaving_a_loop_and_going_on():
    loader = DataLoader(range(10), 3)
    assert list(itertools.islice(loader, 2)) == [[0, 1, 2], [3, 4, 5]]
    assert list(loader) == [[6, 7, 8], [9]]
    assert (loader.epoch, loader.position) == (1, 0)


def padding(loader):
    masks = [batch["attention_mask"] for batch in loader]
    return 1 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)


def test_sorting_saves_padding_and_keeps_batches_in_random_order():
    plain, by_length = (
        DataLoader(ragged(2000), 16, CausalLMDataCollator(0), shuffle=True, sort_by_length=sort)
        for sort in (False, True)
    )
    assert padding(plain) > 0.4
    assert padding(by_length) < 0.02
    widths = np.array([batch["input_ids"].shape[1] for batch in by_length])
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.3  # a curriculum would be near 1


@pytest.mark.parametrize(
    ("example", "length"),
    [
        ([1, 2, 3], (3,)),
        (([1, 2], [3]), (2, 1)),
        ({"input_ids": [1, 2], "labels": [3, 4]}, (2, 2)),
        ({"input_ids": [1, 2]}, (2,)),
    ],
)
def test_lengths(example, length):
    assert example_length(example) == length


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 7}, "batch_size 8, this loader has 7"),
        ({"shuffle": False}, "shuffle True, this loader has False"),
        ({"seed": 1}, "seed 0, this loader has 1"),
        ({"dataset": ragged(299)}, "examples 300, this loader has 299"),
        ({"dataset": ragged(300, seed=9)}, "data_sha256 '"),
        ({"collate_fn": MaskedLMDataCollator(PIECES, seed=8)}, "collator state .*: seed 0, this collator has 8"),
    ],
)
def test_a_state_from_elsewhere_is_refused(change, message):
    settings = {"dataset": ragged(), "batch_size": 8, "collate_fn": MaskedLMDataCollator(PIECES), "shuffle": True}
    first = DataLoader(**settings)
    next(iter(first))
    loader = DataLoader(**{**settings, **change})
    calls = loader.collate.calls
    with pytest.raises(DataError, match=message):
        loader.load_state_dict(first.state_dict())
    assert (loader.epoch, loader.position, loader.collate.calls) == (0, 0, calls)


def test_the_collators_state_belongs_to_the_loaders():
    with_state = DataLoader(ragged(), 8, MaskedLMDataCollator(PIECES))
    without = DataLoader(ragged(), 8, CausalLMDataCollator(0))
    with pytest.raises(DataError, match="loader state: has no collate"):
        with_state.load_state_dict(without.state_dict())
    with pytest.raises(DataError, match=r"loader state: fields \[.*'collate'"):
        without.load_state_dict(with_state.state_dict())


def test_data_that_is_new_at_each_reading_can_be_resumed():
    class Noise:
        def __len__(self):
            return 20

        def __getitem__(self, i):
            return np.random.default_rng().random(3)

    first, second = DataLoader(Noise(), 4), DataLoader(Noise(), 4)
    next(iter(first))
    second.load_state_dict(first.state_dict())
    assert second.position == 1


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: DataLoader([], 4), DataError, "dataset: has no examples"),
        (lambda: DataLoader(iter([1]), 4), ConfigError, "dataset: list_iterator, wanted a sequence"),
        (lambda: DataLoader({"a": 1}, 4), ConfigError, "dataset: dict, wanted a sequence"),
        (lambda: DataLoader([1], 0), ConfigError, "batch_size: 0, wanted an integer of at least 1"),
        (lambda: DataLoader([1], 2, drop_last=True), DataError, "1 examples, fewer than one batch of batch_size 2"),
        (lambda: DataLoader([1], 2, "stack"), ConfigError, "collate: str, wanted a function"),
        (lambda: DataLoader([1], 2, seed=0.5), ConfigError, "seed: 0.5, wanted an integer"),
        (lambda: DataLoader([1], 2, sort_by_length=True), ConfigError, "the length of a int is not known; give length"),
        (lambda: DataLoader([1], 2, length=len), ConfigError, "length: is given, but nothing is sorted"),
    ],
)
def test_loaders_that_cannot_be(make, kind, message):
    with pytest.raises(kind, match=message):
        make()

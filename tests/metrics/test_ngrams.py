"""Character n-grams against a plain dictionary implementation, and that each distribution sums to one."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict

import pytest

from tinygrad_edu.errors import ConfigError, DataError
from tinygrad_edu.metrics import ngram_bits_per_byte, ngrams

END = None  # the end symbol of the plain implementation


class Plain:
    """Witten-Bell as the textbook has it, one character at a time."""

    def __init__(self, documents: list[str], order: int) -> None:
        self.order = order
        self.following: dict[tuple, Counter] = defaultdict(Counter)
        for document in documents:
            for history, symbol in self.walk(document):
                for n in range(order):
                    self.following[history[len(history) - n :]][symbol] += 1

    def walk(self, document: str):
        row = [END] * (self.order - 1) + list(document) + [END]
        for at in range(self.order - 1, len(row)):
            yield tuple(row[at - self.order + 1 : at]), row[at]

    def probability(self, symbol, history: tuple) -> float:
        lower = self.probability(symbol, history[1:]) if history else 1 / ngrams.ALPHABET_SIZE
        seen = self.following.get(history)
        if not seen:
            return lower
        return (seen[symbol] + len(seen) * lower) / (seen.total() + len(seen))

    def bits_per_byte(self, documents: list[str]) -> float:
        bits = -sum(math.log2(self.probability(symbol, h)) for text in documents for h, symbol in self.walk(text))
        return bits / sum(len(text.encode()) for text in documents)


ENGLISH = ["the cat sat on the mat", "the dog sat on the log", "a cat and a dog", "aaaa", "x"]
HELD_OUT = ["the cat and the dog sat", "a frog, naïve: 日本", "mat", "\U0001f600"]


@pytest.mark.parametrize("order", [1, 2, 3, 5, 8])
def test_equal_to_the_plain_implementation(order):
    found = ngram_bits_per_byte(ENGLISH, HELD_OUT, orders=range(1, order + 1))
    for n in range(1, order + 1):
        assert found[n] == pytest.approx(Plain(ENGLISH, n).bits_per_byte(HELD_OUT), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_equal_where_keys_do_not_fit_in_64_bits(seed):
    draw = random.Random(seed)
    alphabet = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]  # 12 bits: 5 symbols in a key
    train = ["".join(draw.choices(alphabet[:20] if draw.random() < 0.8 else alphabet, k=60)) for _ in range(60)]
    test = [train[0][5:40], "".join(draw.choices(alphabet, k=50)), train[3] + train[4]]
    found = ngram_bits_per_byte(train, test, orders=(5, 6, 9, 12))
    for n, bits in found.items():
        assert bits == pytest.approx(Plain(train, n).bits_per_byte(test), rel=1e-12)


@pytest.mark.parametrize("history", ["", "t", "th", "zz", "é日"])
def test_the_distribution_sums_to_one_over_the_whole_alphabet(history):
    model = Plain(ENGLISH, 3)  # equal to ours, as shown above
    padded = (END, END, *history)[-2:]
    seen = {END, *"".join(ENGLISH)}
    unseen = model.probability("\U0010fffd", padded)
    total = sum(model.probability(symbol, padded) for symbol in seen) + (ngrams.ALPHABET_SIZE - len(seen)) * unseen
    assert total == pytest.approx(1.0, rel=1e-9)


def test_ours_sums_to_one_too():
    train = ["ab", "a", "ba", "b"]

    def cost(text):  # the probability of its characters and of the end, at order 1
        return 2 ** -(ngram_bits_per_byte(train, [text], (1,))[1] * len(text.encode()))

    end = cost("a") ** 2 / cost("aa")  # P(a)^2 P(end)^2 over P(a)^2 P(end)
    total = end + (cost("a") + cost("b") + (ngrams.ALPHABET_SIZE - 3) * cost("\u00e9")) / end
    assert total == pytest.approx(1.0, rel=1e-9)


def test_the_order_of_documents_does_not_matter_and_histories_do_not_cross_them():
    assert ngram_bits_per_byte(ENGLISH, HELD_OUT) == pytest.approx(ngram_bits_per_byte(ENGLISH[::-1], HELD_OUT[::-1]))


def test_generators_and_empty_documents():
    wanted = ngram_bits_per_byte(ENGLISH, HELD_OUT)
    assert ngram_bits_per_byte((t for t in [*ENGLISH, ""]), (t for t in ["", *HELD_OUT])) == wanted


def test_python_docs_reads_as_english_does():
    from tinygrad_edu.data import load_corpus

    splits = load_corpus().splits
    for split in ("validation", "test"):
        bits = ngram_bits_per_byte(splits["train"], splits[split])
        # The corpus varies with the Python version; a leak between the splits would read far below.
        assert 2.8 < bits[3] < 3.2 and 2.3 < bits[4] < 2.6 and 2.1 < bits[5] < 2.45 and 2.1 < bits[6] < 2.5, bits


def test_a_long_training_text_is_cut_with_a_warning():
    with pytest.warns(UserWarning, match=r"counted on the first 30 characters only \(max_train_chars\)") as caught:
        found = ngram_bits_per_byte(ENGLISH, HELD_OUT, (2,), max_train_chars=30)
    assert caught[0].filename == __file__
    assert found == ngram_bits_per_byte([ENGLISH[0], ENGLISH[1][:8]], HELD_OUT, (2,))


@pytest.mark.parametrize("orders", [(), (0,), (33,), (2.0,), (True,)])
def test_orders_that_cannot_be(orders):
    with pytest.raises(ConfigError, match="orders: .*wanted integers from 1 to 32"):
        ngram_bits_per_byte(ENGLISH, HELD_OUT, orders)


@pytest.mark.parametrize(("train", "test", "name"), [([], ["a"], "train_docs"), (["a"], ["", ""], "test_docs")])
def test_no_text(train, test, name):
    with pytest.raises(DataError, match=f"{name}: no text; wanted at least one character"):
        ngram_bits_per_byte(train, test)

r"""Character n-grams, the yardstick a language model has to beat.

Interpolated Witten-Bell (Witten and Bell, 1991; Chen and Goodman, 1999, section 2.4). With :math:`C(hc)` the
times that character :math:`c` follows the history :math:`h` in the training text, :math:`C(h)` their sum and
:math:`T(h)` the number of different characters seen there:

.. math:: P(c \mid h) = \frac{C(hc) + T(h) \, P(c \mid h')}{C(h) + T(h)}

where :math:`h'` is :math:`h` without its first character. A history never seen hands over to :math:`h'`
altogether. Order `n` has histories of `n - 1` characters; below order 1 stands the uniform distribution over
the whole alphabet: the 1,112,064 Unicode characters that UTF-8 can write, and the end of a document. So every
:math:`P(\cdot \mid h)` sums to one over that alphabet, and any text at all can be scored.

Each document ends with the end symbol, which is scored as a language model's end-of-text token is (it adds
bits but no bytes), and its first characters are predicted from that many end symbols before them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError

#: Unicode scalar values (0x110000 code points less 2,048 surrogates) and the end symbol.
ALPHABET_SIZE = 0x110000 - 0x800 + 1
_END = 0x110000  # stands for the end of a document among the code points

Integers = NDArray[np.int64]


def ngram_bits_per_byte(
    train_docs: Iterable[str],
    test_docs: Iterable[str],
    orders: Sequence[int] = (3, 4, 5, 6),
    *,
    max_train_chars: int = 20_000_000,
) -> dict[int, float]:
    """Return, for each order, the bits per UTF-8 byte that `test_docs` cost a model of `train_docs`.

    Parameters
    ----------
    train_docs, test_docs : iterable of str
        Documents; each is read once.
    orders : sequence of int
        Lengths of the n-grams, 1 to 32: order `n` predicts a character from the `n - 1` before it.
    max_train_chars : int
        Counting takes about 90 bytes of memory for each character. Of a longer training text only the
        first documents, up to this many characters, are counted, with a warning.

    Returns
    -------
    dict of int to float

    Raises
    ------
    ConfigError
        When an order, or `max_train_chars`, is not allowed.
    DataError
        When either text is empty.
    """
    if not orders or not all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 32 for n in orders):
        raise ConfigError(f"orders: {orders!r}, wanted integers from 1 to 32")
    if max_train_chars < 1:
        raise ConfigError(f"max_train_chars: {max_train_chars!r}, wanted at least 1")
    train = list(_up_to(train_docs, max_train_chars))
    test = [text for text in test_docs if text]
    if not train or not test:
        raise DataError(f"{'train_docs' if not train else 'test_docs'}: no text; wanted at least one character")
    n_bytes = sum(len(text.encode()) for text in test)
    bits = _bits(train, test, max(orders))
    return {n: bits[n] / n_bytes for n in orders}


def _up_to(documents: Iterable[str], limit: int) -> Iterable[str]:
    """Yield documents until they have `limit` characters; the one that would exceed it is cut."""
    left = limit
    for text in documents:
        if len(text) > left:
            warnings.warn(
                f"train_docs: n-grams are counted on the first {limit:,} characters only (max_train_chars)",
                stacklevel=3,
            )
            if left:
                yield text[:left]
            return
        if text:
            left -= len(text)
            yield text


def _symbols(documents: list[str], order: int) -> tuple[Integers, Integers]:
    """Return all code points in a row, and where those stand that are to be predicted.

    Every document is preceded by ``order - 1`` end symbols and followed by one, so that no history reaches
    into another document.
    """
    pad = order - 1
    lengths = np.array([len(text) for text in documents])
    starts = np.cumsum(lengths + pad + 1) - lengths - 1  # of the text of each document in the row
    row = np.full(int((lengths + pad + 1).sum()), _END, np.int64)
    scored = np.ones(len(row), bool)
    for text, start in zip(documents, starts.tolist(), strict=True):
        row[start : start + len(text)] = np.frombuffer(text.encode("utf-32-le"), "<u4")
        scored[start - pad : start] = False
    return row, np.flatnonzero(scored)


def _bits(train: list[str], test: list[str], order: int) -> dict[int, float]:
    """Return the total bits that `test` costs at each order up to `order`."""
    row_a, at_a = _symbols(train, order)
    row_b, at_b = _symbols(test, order)
    # Small numbers for the symbols, so that several fit in one 64-bit key.
    alphabet, row = np.unique(np.concatenate([row_a, row_b]), return_inverse=True)
    at = np.concatenate([at_a, at_b + len(row_a)])
    n_train, symbol_bits = len(at_a), len(alphabet).bit_length()
    symbol = row[at]
    history = np.zeros(len(at), np.int64)  # a number for what precedes each position, one for equal histories
    history_bits = 0
    probability = np.full(len(at_b), 1 / ALPHABET_SIZE)
    totals = {}
    for n in range(1, order + 1):
        if n > 1:
            # The oldest character goes to the low end; only equality of histories matters.
            history = history << symbol_bits | row[at - (n - 1)]
            history_bits += symbol_bits
            if history_bits + symbol_bits > 63:  # no room for a character: number those that occur from 0 on
                distinct, history = np.unique(history, return_inverse=True)
                history_bits = len(distinct).bit_length()
        key = history << symbol_bits | symbol
        probability = _interpolate(key[:n_train], key[n_train:], symbol_bits, probability)
        totals[n] = -float(np.log2(probability).sum())
    return totals


def _interpolate(train: Integers, test: Integers, symbol_bits: int, lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Witten-Bell's probability of each test n-gram, given that of the order below.

    A key holds the history in its upper bits and the character in its `symbol_bits` lower ones, so sorting
    brings the n-grams of one history together.
    """
    ngrams, counts = _count_sorted(np.sort(train))
    histories, types = _count_sorted(ngrams >> symbol_bits)  # T(h): n-grams that begin with h
    sums = np.add.reduceat(counts, np.cumsum(types) - types)  # C(h)
    count = _look_up(ngrams, counts, test)
    total = _look_up(histories, sums, test >> symbol_bits)
    different = _look_up(histories, types, test >> symbol_bits)
    seen = total > 0
    mixed = (count + different * lower) / np.maximum(total + different, 1)
    return np.where(seen, mixed, lower)


def _count_sorted(keys: Integers) -> tuple[Integers, Integers]:
    """Return the different values of a sorted array, and how often each occurs."""
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.diff(np.append(first, len(keys)))


def _look_up(keys: Integers, values: Integers, wanted: Integers) -> Integers:
    """Return the value of each wanted key, 0 where it does not occur; `keys` is sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)

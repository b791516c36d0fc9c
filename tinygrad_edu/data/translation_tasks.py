"""Small languages to translate between, made by rule: pairs without files, with one right answer each.

Whether a pair is for training or held out is decided by what it means, a number or a day, and not by how that is
written: a day that is held out is met in training in none of its notations.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, did_you_mean
from .checks import check_integer
from .corpora import SPLITS
from .parallel import Pair

# fmt: off
UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
# fmt: on
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ("", "thousand", "million")

# fmt: off
MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]
# fmt: on
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
FIRST_DAY, LAST_DAY = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)


# -- numbers ---------------------------------------------------------------------------------------


def number_words(number: int) -> str:
    """A number in English words.

    .. code-block:: text

        number = "zero" | [group "million"] [group "thousand"] [group]     (at least one of the three)
        group  = [digit "hundred"] [below]                                  (at least one of the two)
        below  = digit | teen | tens [digit]
        digit  = "one" ... "nine"      teen = "ten" ... "nineteen"      tens = "twenty" ... "ninety"

    Words are separated by spaces, without "and" and without hyphens.

    Parameters
    ----------
    number : int
        0 to 999,999,999.

    Raises
    ------
    ConfigError
        For another number.

    Examples
    --------
    >>> number_words(4217)
    'four thousand two hundred seventeen'
    """
    check_integer("number", number, 0)
    if number >= 1000 ** len(SCALES):
        raise ConfigError(f"number: {number:,}, wanted at most {1000 ** len(SCALES) - 1:,}")
    if number == 0:
        return UNITS[0]
    words: list[str] = []
    for power in reversed(range(len(SCALES))):
        group = number // 1000**power % 1000
        if group:
            words += [*_group_words(group), *([SCALES[power]] if power else [])]
    return " ".join(words)


def _group_words(group: int) -> list[str]:
    hundreds, below = divmod(group, 100)
    words = [UNITS[hundreds], "hundred"] if hundreds else []
    if below >= 20:
        words.append(TENS[below // 10])
        below %= 10
    return words + ([UNITS[below]] if below else [])


def _draw_number(draw: np.random.Generator) -> tuple[str, Pair]:
    """A number of 1 to 9 digits, each length as often as the others: 4,217 in digits and in words.

    In one of four about half of the digits become zeros, which would hardly ever come in a row otherwise: what is
    not said, as the thousands of 5,000,012, has to be learned too.
    """
    length = int(draw.integers(1, 3 * len(SCALES) + 1))
    digits = draw.integers(0, 10, length)
    if length > 1:
        digits[0] = draw.integers(1, 10)
        if draw.random() < 0.25:
            digits[1:] *= draw.integers(0, 2, length - 1)
    number = int("".join(map(str, digits.tolist())))
    return str(number), (f"{number:,}", number_words(number))


# -- dates -----------------------------------------------------------------------------------------


def ordinal(day: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``4th``, ``11th`` and so on."""
    suffix = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{suffix}"


#: The ways to write a date. Of numbers alone the sign between them tells the order: 3/5/2021 is in March, as in the
#: United States, 3.5.2021 in May, as in much of Europe.
NOTATIONS: dict[str, Callable[[datetime.date], str]] = {
    "March 5, 2021": lambda d: f"{MONTHS[d.month - 1]} {d.day}, {d.year}",
    "5 March 2021": lambda d: f"{d.day} {MONTHS[d.month - 1]} {d.year}",
    "5 Mar 2021": lambda d: f"{d.day} {MONTHS[d.month - 1][:3]} {d.year}",
    "Mar 5th, 2021": lambda d: f"{MONTHS[d.month - 1][:3]} {ordinal(d.day)}, {d.year}",
    "the 5th of March 2021": lambda d: f"the {ordinal(d.day)} of {MONTHS[d.month - 1]} {d.year}",
    "Friday, 5 March 2021": lambda d: f"{WEEKDAYS[d.weekday()]}, {d.day} {MONTHS[d.month - 1]} {d.year}",
    "3/5/2021": lambda d: f"{d.month}/{d.day}/{d.year}",
    "5.3.2021": lambda d: f"{d.day}.{d.month}.{d.year}",
    "05-MAR-2021": lambda d: f"{d.day:02d}-{MONTHS[d.month - 1][:3].upper()}-{d.year}",
    "20210305": lambda d: f"{d:%Y%m%d}",
}


def _draw_date(draw: np.random.Generator) -> tuple[str, Pair]:
    """A day of 1900 to 2099 in one of the notations, and as ISO 8601 has it: 2021-03-05."""
    day = FIRST_DAY + datetime.timedelta(days=int(draw.integers((LAST_DAY - FIRST_DAY).days + 1)))
    notation = list(NOTATIONS)[int(draw.integers(len(NOTATIONS)))]
    return day.isoformat(), (NOTATIONS[notation](day), day.isoformat())


# -- tasks -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TranslationTask:
    """A task by rule.

    Attributes
    ----------
    about : what is translated to what
    draw : a random pair, with what it means
    most : number of pairs that can be asked for
    """

    about: str
    draw: Callable[[np.random.Generator], tuple[str, Pair]]
    most: int


TRANSLATION_TASKS = {
    "numbers": TranslationTask("digits to English words", _draw_number, 10_000_000),
    "dates": TranslationTask("dates in ten notations to ISO 8601", _draw_date, 200_000),
}


def make_task_pairs(
    task: str, size: int, seed: int = 0, *, validation: float = 0.05, test: float = 0.05
) -> dict[str, list[Pair]]:
    """Make the pairs of a task, divided into ``train``, ``validation`` and ``test``.

    No source comes twice, and nothing that is held out, a number or a day, is in training in any notation: a hash of
    what is meant decides where it belongs. So more pairs, or another seed, never turn held-out meanings into
    training ones either.

    Parameters
    ----------
    task : str
        One of `TRANSLATION_TASKS`.
    size : int
        Number of pairs in all.
    seed : int
        Of the draws, through NumPy's generators.
    validation, test : float
        Shares, at least 0.001 and together below 1; of each split there is at least one pair.

    Raises
    ------
    ConfigError
        For a task that is unknown, or another argument that is not allowed.

    Examples
    --------
    >>> pairs = make_task_pairs("numbers", 100)
    >>> {split: len(some) for split, some in pairs.items()}
    {'train': 90, 'validation': 5, 'test': 5}
    """
    known = TRANSLATION_TASKS.get(task)
    if known is None:
        listed = ", ".join(f"{name} ({about.about})" for name, about in TRANSLATION_TASKS.items())
        raise ConfigError(f"task: {task!r} is unknown; wanted {listed}.{did_you_mean(str(task), TRANSLATION_TASKS)}")
    check_integer("size", size, len(SPLITS))
    check_integer("seed", seed, 0)
    if size > known.most:
        raise ConfigError(f"size: {size:,} pairs of {task}, wanted at most {known.most:,}")
    if not (min(validation, test) >= 0.001 and validation + test <= 0.999):
        raise ConfigError(f"validation, test: {validation!r} and {test!r}, wanted 0.001 or more, together below 1")
    wanted = {"validation": max(1, round(validation * size)), "test": max(1, round(test * size))}
    wanted = {"train": size - sum(wanted.values()), **wanted}
    pairs: dict[str, list[Pair]] = {split: [] for split in wanted}
    draw, seen = np.random.default_rng(seed), set[str]()
    while any(len(pairs[split]) < count for split, count in wanted.items()):
        meaning, pair = known.draw(draw)
        split = _split_of(f"{task} {meaning}", validation, test)
        if pair[0] not in seen and len(pairs[split]) < wanted[split]:
            seen.add(pair[0])
            pairs[split].append(pair)
    return pairs


def _split_of(meaning: str, validation: float, test: float) -> str:
    place = int.from_bytes(hashlib.sha256(meaning.encode()).digest()[:8]) / 2**64  # uniform in [0, 1)
    return "test" if place < test else "validation" if place < test + validation else "train"

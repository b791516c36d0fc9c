"""Made pairs: each is read back by rules of this file's own, and nothing held out is in training."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pytest

from tinygrad_edu.data import TRANSLATION_TASKS, make_task_pairs
from tinygrad_edu.data.translation_tasks import NOTATIONS, number_words, ordinal
from tinygrad_edu.errors import ConfigError

# -- numbers ------------------------------------------------------------------------------------------

# fmt: off
SMALL = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19,
}
# fmt: on
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
DIGIT = "|".join(list(SMALL)[:9])
BELOW = rf"(?:(?:{'|'.join(TENS)})(?: (?:{DIGIT}))?|(?:{'|'.join(reversed(SMALL))}))"
GROUP = rf"(?:(?:{DIGIT}) hundred(?: {BELOW})?|{BELOW})"
GRAMMAR = re.compile(rf"(?:(?P<million>{GROUP}) million ?)?(?:(?P<thousand>{GROUP}) thousand ?)?(?P<one>{GROUP})?")


def group_value(words: str | None) -> int:
    total = 0
    for word in (words or "").split():
        total = total * 100 if word == "hundred" else total + (SMALL | TENS)[word]
    return total


def read_number(text: str) -> int:
    """The inverse: words to the number, and no other words than those of the grammar."""
    if text == "zero":
        return 0
    match = GRAMMAR.fullmatch(text)
    assert match and text and text == text.strip(), f"not of the grammar: {text!r}"
    million, thousand, one = (group_value(match[name]) for name in ("million", "thousand", "one"))
    return million * 10**6 + thousand * 1000 + one


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (7, "seven"),
        (13, "thirteen"),
        (20, "twenty"),
        (42, "forty two"),
        (100, "one hundred"),
        (110, "one hundred ten"),
        (999, "nine hundred ninety nine"),
        (1000, "one thousand"),
        (4217, "four thousand two hundred seventeen"),
        (10_001, "ten thousand one"),
        (1_000_000, "one million"),
        (1_000_019, "one million nineteen"),
        (90_300_000, "ninety million three hundred thousand"),
        (999_999_999, "nine hundred ninety nine million nine hundred ninety nine thousand nine hundred ninety nine"),
    ],
)
def test_numbers_by_hand(number: int, words: str) -> None:
    assert number_words(number) == words
    assert read_number(words) == number


def test_every_number_of_four_digits_and_some_of_nine_comes_back() -> None:
    for number in [*range(10_000), *range(10_000, 10**9, 1_234_567)]:
        assert read_number(number_words(number)) == number


@pytest.mark.parametrize("text", ["twenty ten", "one hundred hundred", "two thousand three million", "eleven one", ""])
def test_the_inverse_takes_nothing_else(text: str) -> None:
    with pytest.raises(AssertionError):
        read_number(text)


# -- dates --------------------------------------------------------------------------------------------

#: Each notation as a pattern of this file's own, which must fit no other notation.
PATTERNS = {
    "March 5, 2021": (r"[A-Z][a-z]{2,8} \d{1,2}, \d{4}", "%B %d, %Y"),
    "5 March 2021": (r"\d{1,2} [A-Z][a-z]{2,8} \d{4}", "%d %B %Y"),
    "5 Mar 2021": (r"\d{1,2} [A-Z][a-z]{2} \d{4}", "%d %b %Y"),
    "Mar 5th, 2021": (r"[A-Z][a-z]{2} \d{1,2}(?:st|nd|rd|th), \d{4}", "%b %d, %Y"),
    "the 5th of March 2021": (r"the \d{1,2}(?:st|nd|rd|th) of [A-Z][a-z]{2,8} \d{4}", "the %d of %B %Y"),
    "Friday, 5 March 2021": (r"[A-Z][a-z]+day, \d{1,2} [A-Z][a-z]{2,8} \d{4}", "%A, %d %B %Y"),
    "3/5/2021": (r"\d{1,2}/\d{1,2}/\d{4}", "%m/%d/%Y"),
    "5.3.2021": (r"\d{1,2}\.\d{1,2}\.\d{4}", "%d.%m.%Y"),
    "05-MAR-2021": (r"\d{2}-[A-Z]{3}-\d{4}", "%d-%b-%Y"),
    "20210305": (r"\d{8}", "%Y%m%d"),
}


def read_date(text: str) -> datetime.date:
    """The inverse: any notation to the day."""
    days = set()
    for pattern, form in PATTERNS.values():
        if re.fullmatch(pattern, text):
            bare = re.sub(r"(\d)(?:st|nd|rd|th)", r"\1", text)
            bare = bare.title() if form == "%d-%b-%Y" else bare
            try:
                days.add(datetime.datetime.strptime(bare, form).date())
            except ValueError:
                continue  # "5 Mar 2021" looks like the notation of whole months, which "Mar" is none of
    assert len(days) == 1, f"{text!r} is read as {days}"
    return days.pop()


@pytest.mark.parametrize("notation", NOTATIONS)
def test_each_notation_is_written_as_its_name_and_read_back(notation: str) -> None:
    assert NOTATIONS[notation](datetime.date(2021, 3, 5)) == notation
    assert list(PATTERNS) == list(NOTATIONS)
    pattern, _ = PATTERNS[notation]
    for days in range(0, 73_048, 61):
        day = datetime.date(1900, 1, 1) + datetime.timedelta(days)
        assert re.fullmatch(pattern, NOTATIONS[notation](day))
        assert read_date(NOTATIONS[notation](day)) == day


def test_ordinals() -> None:
    assert [ordinal(day) for day in (1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 22, 23, 24, 30, 31)] == [
        *("1st", "2nd", "3rd", "4th", "10th", "11th", "12th", "13th", "20th", "21st", "22nd", "23rd", "24th"),
        *("30th", "31st"),
    ]


# -- pairs --------------------------------------------------------------------------------------------


def meaning(task: str, source: str) -> Any:
    return int(source.replace(",", "")) if task == "numbers" else read_date(source)


@pytest.mark.parametrize("task", TRANSLATION_TASKS)
def test_pairs_are_right_different_and_split_by_meaning(task: str) -> None:
    splits = make_task_pairs(task, 6000, seed=3)
    assert {split: len(pairs) for split, pairs in splits.items()} == {"train": 5400, "validation": 300, "test": 300}
    meanings = {}
    for split, pairs in splits.items():
        for source, target in pairs:
            if task == "numbers":
                number = read_number(target)
                assert source == f"{number:,}"
            else:
                assert target == read_date(source).isoformat()
        meanings[split] = {meaning(task, source) for source, _ in pairs}
    sources = [source for pairs in splits.values() for source, _ in pairs]
    assert len(set(sources)) == len(sources)
    # Another seed and size make other pairs, but none that is held out becomes one to train on, or the other way.
    others = make_task_pairs(task, 9000, seed=4)
    for split, pairs in others.items():
        meanings[split] |= {meaning(task, source) for source, _ in pairs}
    assert not meanings["train"] & meanings["test"]
    assert not meanings["train"] & meanings["validation"]
    assert not meanings["validation"] & meanings["test"]


@pytest.mark.parametrize("task", TRANSLATION_TASKS)
def test_a_seed_decides_the_pairs(task: str) -> None:
    assert make_task_pairs(task, 300, seed=1) == make_task_pairs(task, 300, seed=1)
    assert make_task_pairs(task, 300, seed=1) != make_task_pairs(task, 300, seed=2)


def test_all_lengths_and_all_notations_come() -> None:
    numbers = [source for pairs in make_task_pairs("numbers", 9000).values() for source, _ in pairs]
    counts = {digits: sum(len(n.replace(",", "")) == digits for n in numbers) for digits in range(1, 10)}
    assert counts[1] == 10 and all(count > 900 for digits, count in counts.items() if digits > 3)
    dates = [source for pairs in make_task_pairs("dates", 9000).values() for source, _ in pairs]
    for notation, (pattern, _) in PATTERNS.items():
        assert sum(bool(re.fullmatch(pattern, date)) for date in dates) > 750, notation


@pytest.mark.parametrize("size", [3, 4, 10])
def test_each_split_has_a_pair(size: int) -> None:
    splits = make_task_pairs("numbers", size)
    assert all(splits.values()) and sum(map(len, splits.values())) == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("number", 100), "task: 'number' is unknown; wanted numbers (digits to English words), dates (dates in ten"),
        (("number", 100), "Did you mean 'numbers'?"),
        ((None, 100), "task: None is unknown"),
        (("numbers", 2), "size: 2, wanted an integer of at least 3"),
        (("numbers", 2.5), "size: 2.5, wanted an integer"),
        (("dates", 200_001), "size: 200,001 pairs of dates, wanted at most 200,000"),
        (("dates", 100, -1), "seed: -1, wanted an integer of at least 0"),
    ],
)
def test_mistakes(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_task_pairs(*arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(("validation", "test"), [(0.0, 0.1), (0.5, 0.5), (0.1, -1.0), (float("nan"), 0.1)])
def test_shares(validation: float, test: float) -> None:
    with pytest.raises(ConfigError, match=r"validation, test: .*, wanted 0.001 or more, together below 1"):
        make_task_pairs("numbers", 100, validation=validation, test=test)


@pytest.mark.parametrize("number", [-1, 10**9, 1.5, "7"])
def test_numbers_that_have_no_words(number: Any) -> None:
    with pytest.raises(ConfigError, match=r"number: .*wanted"):
        number_words(number)

"""What synthetic designs say: headlines, and lines of body text, of a wanted width."""

from __future__ import annotations

import numpy as np

_LETTER = 0.8  # width of a capital beside its height, about
_SMALL = 1.6  # small letters to a width that is the height of their line

_HEADLINES = (
    *("GO", "ON", "NOW", "NEW", "ART", "SUN", "RUN", "TEA", "FUN", "SALE", "FREE", "OPEN", "JAZZ", "FILM", "LIVE"),
    *("HELLO", "MUSIC", "PARTY", "BOOKS", "DANCE", "NIGHT", "TODAY", "50% OFF", "SUMMER", "WINTER", "GARDEN"),
    *("MARKET", "CINEMA", "BAKERY", "CONCERT", "GALLERY", "BIG SALE", "OPEN DAY", "ART SHOW", "BOOK FAIR"),
    *("TEA HOUSE", "NEW SHOES", "CITY WALK", "FESTIVAL", "GAME NIGHT", "HALF PRICE", "JAZZ NIGHT", "LAST SEATS"),
    *("OLD HARBOUR", "SAVE THE DATE", "HOW IT WORKS", "WE ARE OPEN", "COME AS YOU ARE", "LEARN TO PAINT"),
    *("MEET THE MAKERS", "SATURDAY AT NINE", "FREE FOR EVERYONE", "MUSIC IN THE PARK", "THE NEW COLLECTION"),
    *("A GUIDE TO THE OLD TOWN", "EVERYTHING MUST GO TODAY", "OPEN ALL SUMMER UNTIL NINE"),
)
_LENGTHS = np.array([len(words) for words in _HEADLINES])

_TEXT = (
    "we open at nine and close when the last guest has gone home the garden is behind the house bring a friend and "
    "a warm coat there will be soup and bread and cake every ticket helps to mend the roof of the old hall ask for "
    "the plan at the door it is free for all under ten all hues and sizes are in stock while they last"
)
_BODY = _TEXT.split()


def headline(aspect: float, rng: np.random.Generator) -> str:
    """Words in capitals whose width is about `aspect` times their height."""
    off = np.abs(_LENGTHS - max(2, round(aspect / _LETTER)))
    return _HEADLINES[int(rng.choice(np.flatnonzero(off == off.min())))]


def body_line(aspect: float, rng: np.random.Generator) -> str:
    """A line of small letters whose width is about `aspect` times their height."""
    letters, at = max(3, round(_SMALL * aspect)), int(rng.integers(len(_BODY)))
    line = _BODY[at]
    while len(longer := f"{line} {_BODY[(at := at + 1) % len(_BODY)]}") <= letters + 2:
        line = longer
    return line

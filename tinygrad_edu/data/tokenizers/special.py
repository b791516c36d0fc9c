"""Special tokens: the parts they play, and the names they are known by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...errors import ConfigError

END_OF_TEXT = "<|endoftext|>"
#: Names by which the token that ends a document is found; the lowest id wins.
END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]")

#: The parts that special tokens play, each with the names by which the token is found.
ROLES: Mapping[str, tuple[str, ...]] = {
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|startoftext|>", "<|begin_of_text|>"),
    "eos": END_NAMES,
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
}

#: A name that no word of a text can be: letters between two signs, and no space.
_NAME = re.compile(r"[^\w\s]\S*\w\S*[^\w\s]")


def find_roles(
    ids: Mapping[str, int], added: Mapping[str, int], named: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Return the id of each role that has a token.

    Parameters
    ----------
    ids : mapping of str to int
        The vocabulary.
    added : mapping of str to int
        Of it, the tokens that no text is cut into; only these are known by their usual names, as an ordinary
        piece may be spelt alike.
    named : mapping of str to str, optional
        Names that the tokenizer's own configuration gives to roles; they go before the usual ones.
    """
    found = {}
    for role, names in ROLES.items():
        own = (named or {}).get(role, "")
        known = [ids[own]] if own in ids else [added[name] for name in names if name in added]
        if known:
            found[role] = min(known)
    return found


def check_special_tokens(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names as a tuple, or raise ConfigError saying which cannot be a special token."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"special_tokens: {names!r}; wanted a sequence of names")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"special_tokens: {name!r}; wanted names that begin and end with a sign, like <pad> or [MASK], "
                "so that no word of a text is taken for one"
            )
    if len(set(names)) != len(names):
        raise ConfigError(f"special_tokens: {tuple(names)!r} names one twice")
    return tuple(names)


def with_unknown(names: Sequence[str], usual: str) -> tuple[str, ...]:
    """Return the names, with the unknown token `usual` behind them if there is none among them."""
    return tuple(names) if any(name in ROLES["unk"] for name in names) else (*names, usual)

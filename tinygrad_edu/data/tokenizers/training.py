"""Training tokenizers: the same texts and settings always give the same tokenizer.

Byte-level BPE (Sennrich et al., 2016; on bytes: Radford et al., 2019), WordPiece (Schuster & Nakajima, 2012;
as in BERT, Devlin et al., 2019), SentencePiece's unigram model (Kudo, 2018) and single characters.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from ...errors import ConfigError, DataError, did_you_mean
from .special import END_OF_TEXT, ROLES, check_special_tokens, with_unknown
from .tokenizer import SPACE, Tokenizer, byte_alphabet

#: Kinds of tokenizer that can be trained, with the special tokens each has by default.
KINDS: dict[str, tuple[str, ...]] = {
    "bpe": (END_OF_TEXT,),
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "sentencepiece": ("<pad>", "<s>", "</s>", "<unk>"),
    "character": ("<pad>", "<s>", "</s>", "<unk>"),
}
#: Raise it when training changes what it gives, so that no old tokenizer is taken from the cache.
FORMAT = 3

#: Words of SentencePiece: with the space before them, or a stretch of white space that leaves its last
#: space to the word behind it. Of limited length, as the trainer's time grows with the square of it.
_LONGEST = 64
_WORDS = rf" ?\S{{1,{_LONGEST}}}|\s{{1,{_LONGEST}}}(?!\S)|\s"
#: Scores are rounded so: the trainer adds up in the order of a hash table, which differs at every run.
_DIGITS = 6


def check_kind(kind: str) -> str:
    """Return the kind by its usual name (``unigram`` is ``sentencepiece``), or raise ConfigError."""
    if kind == "unigram":
        return "sentencepiece"
    if kind not in KINDS:
        raise ConfigError(
            f"tokenizer type: {kind!r}, wanted one of {', '.join(KINDS)}.{did_you_mean(str(kind), KINDS)}"
        )
    return kind


def special_tokens_for(kind: str, special_tokens: Sequence[str] | None) -> tuple[str, ...]:
    """Return the special tokens to train with: the kind's own for None, and an unknown token where it is needed.

    Only bytes cover every text. All other kinds meet unknown characters, so one is added at the end if
    `special_tokens` names none.
    """
    names = check_special_tokens(KINDS[kind] if special_tokens is None else special_tokens)
    return names if kind == "bpe" else with_unknown(names, "[UNK]" if kind == "wordpiece" else "<unk>")


def check_settings(vocab_size: object, min_frequency: object) -> None:
    """Raise ConfigError unless both are integers of at least 1."""
    for name, value in (("vocab_size", vocab_size), ("min_frequency", min_frequency)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}: {value!r}; wanted an integer of at least 1")


def train(
    kind: str,
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] | None = None,
    min_frequency: int = 2,
    **options: Any,
) -> Tokenizer:
    """Train a tokenizer of a kind of `KINDS`; the rest is that of `train_bpe`."""
    trainers: dict[str, Callable[..., Tokenizer]] = {
        "bpe": train_bpe,
        "wordpiece": train_wordpiece,
        "sentencepiece": train_sentencepiece,
        "character": train_character,
    }
    chosen = trainers[check_kind(kind)]
    return chosen(texts, vocab_size, special_tokens=special_tokens, min_frequency=min_frequency, **options)


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] | None = (END_OF_TEXT,),
    min_frequency: int = 2,
) -> Tokenizer:
    """Train a byte-level BPE: any text can be encoded and comes back exactly.

    Parameters
    ----------
    texts : iterable of str
        Read once; need not fit in memory.
    vocab_size : int
        Ids wanted, the 256 bytes and the special tokens included. Fewer come out if the texts hold too few
        pairs that occur `min_frequency` times.
    special_tokens : sequence of str, optional
        Get the lowest ids in this order. Their names say what they are for: `ROLES`.
    min_frequency : int
        A pair must occur so often to be merged.

    Raises
    ------
    ConfigError
        When an argument has a value that is not allowed.
    DataError
        When there is no text.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    special = special_tokens_for("bpe", special_tokens)
    check_settings(vocab_size, min_frequency)
    _check_room(vocab_size, len(special), 256, "bytes")
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=sorted(byte_alphabet()),
        min_frequency=min_frequency,
        show_progress=False,
    )
    text = _Text(texts)
    inner.train_from_iterator(text, trainer)
    text.check()
    return _finish(inner, special, f"bpe-{vocab_size}")


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] | None = None,
    min_frequency: int = 2,
    lowercase: bool = False,
) -> Tokenizer:
    """Train a WordPiece tokenizer as BERT's: words and pieces (``##ing``) of words.

    White space between words is not kept, and with `lowercase` neither are capitals and accents, so a text
    comes back only in its words. A word that cannot be put together is ``[UNK]`` as a whole.

    Parameters
    ----------
    texts : iterable of str
        Read twice; an iterator is held in memory.
    vocab_size : int
        Ids wanted, the alphabet (within words and at their beginning) and the special tokens included.
    special_tokens : sequence of str, optional
        Default BERT's. ``[UNK]`` is added at the end if there is no unknown token among them.
    min_frequency : int
        A pair must occur so often to be merged, and a character to have a token at all.
    lowercase : bool
        BERT's "uncased".

    Raises
    ------
    ConfigError, DataError
        As `train_bpe`; and ConfigError when `vocab_size` does not hold the alphabet.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    special = special_tokens_for("wordpiece", special_tokens)
    check_settings(vocab_size, min_frequency)
    unknown = next(name for name in special if name in ROLES["unk"])
    normalizer, splitter = normalizers.BertNormalizer(lowercase=bool(lowercase)), pre_tokenizers.BertPreTokenizer()
    text = _Text(texts, twice=True)
    words = {word for t in text for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(t))}
    text.check()
    counts = Counter[str]()
    for t in text:
        counts.update(normalizer.normalize_str(t))
    within = sorted({c for word in words for c in word[1:] if counts[c] >= min_frequency})
    first = sorted({c for word in words for c in word if counts[c] >= min_frequency})
    _check_room(vocab_size, len(special), len(first) + len(within), "characters, at the beginning of words and within")

    def trainer(begin: list[str]) -> Any:
        return trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            special_tokens=begin,
            initial_alphabet=first,
            limit_alphabet=len(first),
            min_frequency=min_frequency,
            show_progress=False,
        )

    # The library numbers the characters within words in the order of a hash table, which differs at every
    # run, and so do the ties that the numbers decide. Handed over as special tokens they keep their order.
    draft = Inner(models.WordPiece(unk_token=unknown))
    draft.normalizer, draft.pre_tokenizer = normalizer, splitter
    draft.train_from_iterator(text, trainer([*special, *("##" + c for c in within)]))
    inner = Inner(models.WordPiece(draft.get_vocab(), unk_token=unknown))
    inner.normalizer, inner.pre_tokenizer, inner.decoder = normalizer, splitter, decoders.WordPiece()
    return _finish(inner, special, f"wordpiece-{vocab_size}")


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] | None = None,
    min_frequency: int = 2,
) -> Tokenizer:
    """Train SentencePiece's unigram model: the most probable way to put a text together from pieces.

    A space is written as U+2581 and belongs to the word behind it. Nothing is normalised, so a text comes
    back exactly, but for characters that are unknown and for U+2581 itself, which comes back as a space.

    Parameters
    ----------
    texts : iterable of str
        Read twice; an iterator is held in memory.
    vocab_size : int
        Ids wanted, the alphabet and the special tokens included. Fewer come out of a small text.
    special_tokens : sequence of str, optional
        Default ``<pad> <s> </s> <unk>``. ``<unk>`` is added at the end if there is no unknown token.
    min_frequency : int
        A character must occur so often to have a token. (Pieces are chosen by what they add to the
        likelihood of the text, not by how often they occur.)

    Raises
    ------
    ConfigError, DataError
        As `train_bpe`; and ConfigError when `vocab_size` does not hold the alphabet.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Inner

    special = special_tokens_for("sentencepiece", special_tokens)
    check_settings(vocab_size, min_frequency)
    unknown = next(name for name in special if name in ROLES["unk"])
    text = _Text(texts, twice=True)
    alphabet, rare = _alphabet(text, min_frequency)
    _check_room(vocab_size, len(special), len(alphabet), "characters")
    # The name of a special token is cut after its first sign, so that text never makes it one piece.
    names = "|".join(f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in special)
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(names), "isolated"),
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
        ]
    )
    draft = Inner(models.Unigram())
    draft.pre_tokenizer = splitter
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size + 1, special_tokens=list(special), unk_token=unknown, show_progress=False
    )
    drop = dict.fromkeys(map(ord, rare))
    # The trainer begins with the pieces that different things follow. After most whole words, and after many of
    # their endings, nothing ever does but the end of the word: so each frequent word is shown once more, with a
    # sign behind it that no text has.
    sign = next(chr(code) for code in range(0xE000, 0x110000) if chr(code) not in {*alphabet, *rare})
    words = Counter(word for t in text for word, _ in splitter.pre_tokenize_str(t.translate(drop)))
    whole = sorted(w.replace(SPACE, " ") for w, n in words.items() if n >= min_frequency and len(w) < _LONGEST)
    shown = (word + sign for word in whole if word.strip())
    draft.train_from_iterator(chain((t.translate(drop) for t in text), shown), trainer)
    pieces = dict(json.loads(draft.to_str())["model"]["vocab"])
    pieces.pop(sign, None)
    vocabulary = _settled(pieces, special, [c.replace(" ", SPACE) for c in alphabet], vocab_size)
    inner = Inner(models.Unigram(vocabulary, special.index(unknown), byte_fallback=False))
    inner.pre_tokenizer = splitter
    inner.decoder = decoders.Metaspace(prepend_scheme="never", split=False)
    return _finish(inner, special, f"sentencepiece-{vocab_size}")


def _settled(
    pieces: dict[str, float], special: Sequence[str], alphabet: Sequence[str], vocab_size: int
) -> list[tuple[str, float]]:
    """Return the pieces in an order, and with scores, that do not depend on the run.

    The trainer's sums differ in their last digits from run to run, so scores are rounded. Characters that
    its pruning took away it puts back with the lowest score of all and steps of 0.0001 above that, in the
    order of a hash table: here in the order of the alphabet.
    """
    ordinary = {piece: score for piece, score in pieces.items() if piece not in special}
    lowest = min(ordinary.values())
    put_back = []
    for piece in alphabet:
        steps = (ordinary.get(piece, lowest) - lowest) / 1e-4
        if abs(steps - round(steps)) < 1e-3 and round(steps) <= len(alphabet):
            put_back.append(piece)
    for step, piece in enumerate(put_back):
        ordinary[piece] = lowest + step * 1e-4
    scores = {piece: round(score, _DIGITS) for piece, score in ordinary.items()}
    required = set(alphabet)
    ranked = sorted(scores, key=lambda piece: (piece not in required, -scores[piece], piece))
    kept = ranked[: vocab_size - len(special)]
    kept.sort(key=lambda piece: (-scores[piece], piece))
    return [*((name, 0.0) for name in special), *((piece, scores[piece]) for piece in kept)]


def train_character(
    texts: Iterable[str],
    vocab_size: int | None = None,
    *,
    special_tokens: Sequence[str] | None = None,
    min_frequency: int = 1,
) -> Tokenizer:
    """Make a tokenizer whose tokens are single characters (Unicode code points).

    A text comes back exactly, but for characters that are unknown.

    Parameters
    ----------
    texts : iterable of str
        Read once.
    vocab_size : int, optional
        Ids at most, the special tokens included: the characters that occur most often have one. Default: all.
    special_tokens : sequence of str, optional
        Default ``<pad> <s> </s> <unk>``. ``<unk>`` is added at the end if there is no unknown token.
    min_frequency : int
        A character must occur so often to have a token.

    Raises
    ------
    ConfigError, DataError
        As `train_bpe`.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models

    special = special_tokens_for("character", special_tokens)
    check_settings(1 if vocab_size is None else vocab_size, min_frequency)
    if vocab_size is not None:
        _check_room(vocab_size, len(special), 1, "character")
    alphabet, _ = _alphabet(_Text(texts), min_frequency)
    if vocab_size is not None:
        alphabet = alphabet[: vocab_size - len(special)]
    unknown = next(name for name in special if name in ROLES["unk"])
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(alphabet)])}
    # A BPE that merges nothing: one token a character, in one pass.
    inner = Inner(models.BPE(vocabulary, [], unk_token=unknown))
    inner.decoder = decoders.Fuse()
    return _finish(inner, special, f"character-{len(vocabulary)}")


class _Text:
    """Texts to train on, checked and counted as they pass."""

    def __init__(self, texts: Iterable[str], *, twice: bool = False) -> None:
        if isinstance(texts, str):
            raise ConfigError("texts: one string, wanted an iterable of strings; put it in a list")
        self._texts = list(texts) if twice and iter(texts) is texts else texts
        self._seen = False

    def __iter__(self) -> Iterator[str]:
        for number, text in enumerate(self._texts):
            if not isinstance(text, str):
                raise DataError(f"texts: text {number} is {type(text).__name__}, wanted str")
            self._seen = self._seen or bool(text.strip())
            yield text

    def check(self) -> None:
        """Raise DataError if nothing but white space has passed."""
        if not self._seen:
            raise DataError("texts: no text to train a tokenizer on")


def _alphabet(text: _Text, min_frequency: int) -> tuple[list[str], list[str]]:
    """Return the characters of a text that are frequent enough, the most frequent first, and the others."""
    counts = Counter[str]()
    for t in text:
        counts.update(t)
    text.check()
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    kept = [character for character in ranked if counts[character] >= min_frequency]
    if not kept:
        raise DataError(f"texts: no character occurs {min_frequency} times, as min_frequency asks")
    return kept, ranked[len(kept) :]


def _check_room(vocab_size: int, special: int, alphabet: int, what: str) -> None:
    """Raise ConfigError unless the vocabulary holds the special tokens and the alphabet."""
    least = special + alphabet
    if vocab_size < least:
        raise ConfigError(
            f"vocab_size: {vocab_size!r}; wanted an integer of at least {least} ({alphabet} {what} and {special} "
            "special)" + ("" if what == "bytes" else "; or raise min_frequency, below which a character is unknown")
        )


def _finish(inner: Any, special: Sequence[str], where: str) -> Tokenizer:
    """Mark the special tokens, and add the template: ``[CLS] a [SEP] b [SEP]``, or ``<s> a </s>``."""
    from tokenizers import AddedToken, processors

    inner.add_special_tokens([AddedToken(name, special=True) for name in special])
    ids = {name: inner.token_to_id(name) for name in special}
    tokens = {role: next((name for name in special if name in names), None) for role, names in ROLES.items()}
    begin, end = (tokens["cls"], tokens["sep"]) if tokens["cls"] and tokens["sep"] else (tokens["bos"], tokens["eos"])
    if begin and end:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A {end}",
            pair=f"{begin} $A {end} $B:1 {end}:1",
            special_tokens=[(name, ids[name]) for name in {begin: 0, end: 0}],
        )
    return Tokenizer(inner, where)

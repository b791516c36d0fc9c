"""One face for every kind of tokenizer: text to ids and back, and what is known of each id.

The work is done by the `tokenizers` library. What it leaves to chance or lets pass is settled here: special
tokens never come out of text, a text that cannot be encoded is an error that counts what is unknown, and each
id has a known number of bytes of text, which bits per byte needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, DataError, DtypeError, RangeError
from ..files import whole_file
from .special import ROLES, find_roles

SPACE = "\u2581"  #: what stands for a space in the pieces of SentencePiece


def byte_alphabet() -> dict[str, int]:
    """Return the 256 characters in which byte-level tokens are written, each with the byte it stands for.

    Printable bytes of Latin-1 stand for themselves, the other 68 for the characters from U+0100 on (GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def kind_of(rules: Mapping[str, Any]) -> str:
    """Return the kind of a tokenizer from its rules: see `Tokenizer.kind`."""
    model, decoder = rules["model"], json.dumps(rules["decoder"])
    if model.get("type") == "WordPiece":
        return "wordpiece"
    if model.get("type") == "Unigram":
        return "sentencepiece"
    if model.get("type") == "BPE":
        if '"ByteLevel"' in decoder:
            return "bpe"
        if "\\u2581" in decoder:
            return "sentencepiece"
        if not model["merges"] and rules["pre_tokenizer"] is None:
            return "character"
    return "other"


class Tokenizer:
    """Text to ids and back, for any tokenizer of the `tokenizers` library.

    Special tokens never come out of text: ``<|endoftext|>`` written in a document is encoded as ordinary
    characters, so a document can neither end itself nor change in going there and back. (Only a unigram
    tokenizer from elsewhere may hold its special tokens among its ordinary pieces.)

    Parameters
    ----------
    inner : tokenizers.Tokenizer
        The tokenizer of the `tokenizers` library. Its padding and truncation are switched off.
    where : str
        Where it came from, for messages.
    roles : mapping of str to str, optional
        Names of the special tokens by role (``{"pad": "<pad>"}``), where they are not the usual ones.

    Attributes
    ----------
    kind : str
        ``bpe`` (on bytes), ``wordpiece``, ``sentencepiece`` (unigram, or BPE with a mark for the space),
        ``character`` or ``other``.
    vocab_size : int
        Number of ids, special ones included; every id is below it.
    pad_token_id, unk_token_id, mask_token_id, bos_token_id, eos_token_id, cls_token_id, sep_token_id : int or None
        Special tokens by the part they play, found by their names (`ROLES`).
    special_token_ids : tuple of int
        All special ids, ascending.
    fingerprint : str
        SHA-256, in hexadecimal, over vocabulary and rules: equal when every text is encoded equally.

    Raises
    ------
    DataError
        When it has no vocabulary, or is a byte-level BPE that lacks some of the 256 bytes.
    """

    def __init__(self, inner: Any, where: str = "tokenizer", roles: Mapping[str, str] | None = None) -> None:
        rules = json.loads(inner.to_str())
        self.kind = kind_of(rules)
        names: dict[str, int] = inner.get_vocab(with_added_tokens=True)
        if not names:
            raise DataError(f"{where}: has no tokens")
        if self.kind == "bpe":
            _check_bytes(rules["model"]["vocab"], where)
        inner.no_padding()
        inner.no_truncation()
        inner.encode_special_tokens = True
        self._inner, self._rules, self.where = inner, rules, where
        self._names = {number: name for name, number in names.items()}
        self._added = {token["id"]: token for token in rules["added_tokens"]}
        self.vocab_size = max(self._names) + 1
        special = {number for number, token in self._added.items() if token["special"]}
        by_role = find_roles(names, {token["content"]: number for number, token in self._added.items()}, roles)
        self.special_token_ids = tuple(sorted(special | set(by_role.values())))
        self.pad_token_id = by_role.get("pad")
        self.unk_token_id = by_role.get("unk", _unknown_of_model(rules["model"], names))
        self.mask_token_id = by_role.get("mask")
        self.bos_token_id = by_role.get("bos")
        self.eos_token_id = by_role.get("eos")
        self.cls_token_id = by_role.get("cls")
        self.sep_token_id = by_role.get("sep")
        self.fingerprint = _fingerprint(rules, self.kind)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> Tokenizer:
        """Load from a file, a folder or the hub: `tinygrad_edu.data.load_tokenizer`."""
        from .loading import load_tokenizer

        return load_tokenizer(name_or_path)

    @property
    def end_token_id(self) -> int | None:
        """What stands between documents: the end of text, or else the separator (as in BERT)."""
        return self.sep_token_id if self.eos_token_id is None else self.eos_token_id

    def require(self, role: str, purpose: str) -> int:
        """Return the id of the special token that plays `role`, such as ``mask``.

        Raises
        ------
        ConfigError
            When there is none, naming `purpose`, which cannot be served without it.
        """
        number: int | None = getattr(self, f"{role}_token_id")
        if number is None:
            raise ConfigError(
                f"{self.where}: has no {role} token, which {purpose} needs; train it with {ROLES[role][0]!r} or "
                f"{ROLES[role][1]!r} among special_tokens, or load one that has it"
            )
        return number

    def token_name(self, number: int) -> str:
        """Return the token of an id as it is written in the vocabulary. Raises RangeError as `decode` does."""
        self._check_ids([number])
        return self._names[number]

    def encode(self, text: str, add_special_tokens: bool = False, pair: str | None = None) -> list[int]:
        """Return the ids of `text`.

        Parameters
        ----------
        text : str
        add_special_tokens : bool
            Put in what the tokenizer's template asks for: ``[CLS] text [SEP]`` for BERT. A tokenizer without
            a template adds nothing.
        pair : str, optional
            A second text, behind the first: ``[CLS] text [SEP] pair [SEP]``.

        Raises
        ------
        DtypeError
            When `text` is not a string, or holds an unpaired surrogate, which no bytes stand for.
        DataError
            When it holds characters that have no token, and there is no unknown token: how many and which.
        """
        return self.encode_batch([text], add_special_tokens, None if pair is None else [pair])[0]

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = False, pairs: Sequence[str] | None = None
    ) -> list[list[int]]:
        """Return the ids of each text, encoded on all cores. Raises as `encode` does, with its position."""
        encodings = self._encode(texts, add_special_tokens, pairs, self._inner.encode_batch_fast)
        return [encoding.ids for encoding in encodings]

    def encode_pair(self, text: str, pair: str) -> dict[str, list[int]]:
        """Return ``input_ids`` and ``token_type_ids`` (0 in the first text, 1 in the second) of two texts."""
        encoding = self._encode([text], True, [pair], self._inner.encode_batch)[0]
        return {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}

    def _encode(
        self, texts: Sequence[str], add_special_tokens: bool, pairs: Sequence[str] | None, encode: Any
    ) -> list[Any]:
        texts = list(texts)
        if pairs is not None and len(pairs) != len(texts):
            raise ConfigError(f"pairs: {len(pairs)}, wanted as many as texts: {len(texts)}")
        given = texts if pairs is None else list(zip(texts, pairs, strict=True))
        both = texts if pairs is None else [*texts, *pairs]
        if self.kind == "character" and self.unk_token_id is None:
            self._refuse_unknown(both)  # the library would leave such characters out
        try:
            encodings: list[Any] = encode(given, add_special_tokens=add_special_tokens)
        except TypeError:
            _refuse_no_text(both)
            raise
        except Exception as error:  # the library raises bare Exception
            self._refuse_unknown(both)
            raise DataError(f"{self.where}: cannot encode the text: {error}") from error
        return encodings

    def _refuse_unknown(self, texts: Sequence[str]) -> None:
        """Raise DataError if a text holds characters that no token stands for."""
        _refuse_no_text(texts)
        for position, text in enumerate(texts):
            unknown = {character: count for character, count in Counter(text).items() if not self._knows(character)}
            if unknown:
                some = ", ".join(f"{character!r}" for character in sorted(unknown)[:5])
                more = ", ..." if len(unknown) > 5 else ""
                raise DataError(
                    f"text {position}: {sum(unknown.values()):,} characters have no token ({some}{more}), and "
                    f"{self.where} has no unknown token to stand for them; train it with one among special_tokens"
                )

    def _knows(self, character: str) -> bool:
        """Say whether a text of this one character can be encoded."""
        if self.kind == "character":
            return character in self._rules["model"]["vocab"]
        try:
            self._inner.encode(character)
        except Exception:  # the library raises bare Exception
            return False
        return True

    def _check_ids(self, numbers: Iterable[int]) -> None:
        for position, number in enumerate(numbers):
            if number not in self._names:
                raise RangeError(
                    f"ids: id {number} at position {position} has no token; wanted 0 to {self.vocab_size - 1}"
                )

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`. Bytes that are not UTF-8, as a cut-off text may end in, become U+FFFD.

        Raises
        ------
        RangeError
            When an id has no token, with its position.
        DtypeError
            When an id is not an integer.
        """
        values = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
        if values.size and values.dtype.kind not in "iu":
            raise DtypeError(f"ids: dtype {values.dtype}, wanted integers")
        if values.ndim != 1:
            raise DtypeError(f"ids: {values.ndim} axes, wanted 1; decode one row at a time")
        numbers = values.tolist()
        self._check_ids(numbers)
        text: str = self._inner.decode(numbers, skip_special_tokens=skip_special_tokens)
        return text

    def ordinary_token_ids(self) -> NDArray[np.int64]:
        """Return all ids that are not special, ascending: what a random token is drawn from."""
        return np.array(sorted(set(self._names) - set(self.special_token_ids)), np.int64)

    def token_bytes(self) -> NDArray[np.int64]:
        """Return how many bytes of text each id stands for, shape ``(vocab_size,)``; 0 for special tokens.

        Exact for ``bpe``: the lengths of a text's ids add up to its own. So they do for ``sentencepiece``
        and ``character`` tokenizers trained here, but for characters that fell to the unknown token, which
        counts 0. ``wordpiece`` does not keep the spaces between words; they count 0 as well. In each case
        the bytes counted are at most those of the text, so that bits per byte are never flattered. (A
        SentencePiece tokenizer from elsewhere that puts a space before the text counts that space too.)

        Raises
        ------
        DataError
            For a tokenizer of kind ``other``, whose pieces need not be pieces of the text.
        """
        if self.kind == "other":
            raise DataError(
                f"{self.where}: a {self._rules['model'].get('type') or 'different'} tokenizer of a kind whose tokens "
                "need not be pieces of the text; how many bytes each stands for cannot be told"
            )
        lengths = np.zeros(self.vocab_size, np.int64)
        for number, name in self._names.items():
            lengths[number] = self._length(name)
        for number, token in self._added.items():
            lengths[number] = len(token["content"].encode())
        lengths[list(self.special_token_ids)] = 0
        return lengths

    def _length(self, name: str) -> int:
        """Return the bytes of text that an ordinary token stands for."""
        model = self._rules["model"]
        if self.kind == "bpe":
            return len(name)  # one character of the alphabet is one byte
        if self.kind == "wordpiece":
            return len(name.removeprefix(model["continuing_subword_prefix"]).encode())
        if self.kind == "sentencepiece":
            if model["byte_fallback"] and len(name) == 6 and name.startswith("<0x"):
                return 1
            return len(name.replace(SPACE, " ").encode())
        return len(name.encode())

    def to_json(self) -> str:
        """Return the text of ``tokenizer.json``."""
        text: str = self._inner.to_str(pretty=True)
        return text

    def save(self, path: str | Path) -> Path:
        """Write the tokenizer to `path`: a ``.json`` file, or a folder.

        A folder gets a ``tokenizer.json`` and a ``tokenizer_config.json`` that names the special tokens, as
        ``transformers.AutoTokenizer.from_pretrained(folder)`` wants it.

        Returns
        -------
        Path
            The ``.json`` file, which `load_tokenizer` and the `tokenizers` library can read.
        """
        path = Path(path)
        alone = path.suffix == ".json"
        file = path if alone else path / "tokenizer.json"
        with whole_file(file) as out:
            out.write(self.to_json().encode())
        if not alone:
            with whole_file(path / "tokenizer_config.json") as out:
                out.write((json.dumps(self._config(), indent=2, ensure_ascii=False) + "\n").encode())
        return file

    def _config(self) -> dict[str, Any]:
        """Return what ``tokenizer_config.json`` says."""
        roles = {f"{role}_token": getattr(self, f"{role}_token_id") for role in ROLES}
        named = {key: self._names[number] for key, number in roles.items() if number is not None}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}

    def __repr__(self) -> str:
        return f"<Tokenizer {self.where}: {self.kind}, {self.vocab_size:,} ids, sha256 {self.fingerprint[:12]}>"


def _check_bytes(vocabulary: Mapping[str, int], where: str) -> None:
    lacking = [byte for character, byte in byte_alphabet().items() if character not in vocabulary]
    if lacking:
        raise DataError(
            f"{where}: {len(lacking)} of the 256 bytes have no token, the first 0x{min(lacking):02x}; "
            "text that holds them could not be encoded"
        )


def _unknown_of_model(model: Mapping[str, Any], names: Mapping[str, int]) -> int | None:
    """Return the id that the model itself gives to what it does not know, whatever its name."""
    if model.get("type") == "Unigram":
        number: int | None = model["unk_id"]
        return number
    return names.get(model.get("unk_token") or "")


def _refuse_no_text(texts: Sequence[Any]) -> None:
    """Raise DtypeError if one of `texts` is not a string of Unicode characters."""
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise DtypeError(f"text {position} is {type(text).__name__}, wanted str")
        with contextlib.suppress(UnicodeEncodeError):
            text.encode()
            continue
        raise DtypeError(f"text {position} holds an unpaired surrogate; it is not Unicode text")


def _fingerprint(rules: dict[str, Any], kind: str) -> str:
    """Hash what decides how text is encoded, in a form that is the same for old and new library versions."""
    model = rules["model"]
    if kind == "bpe":
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        essence = {"vocabulary": model["vocab"], "merges": merges}
    else:
        essence = {"model": model}
    essence |= {
        "added": sorted((token["id"], token["content"], token["special"]) for token in rules["added_tokens"]),
        "normalizer": rules["normalizer"],
        "pre_tokenizer": rules["pre_tokenizer"],
    }
    return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()

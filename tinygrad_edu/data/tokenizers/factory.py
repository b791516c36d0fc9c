"""Tokenizers trained on files: one function a kind, one that reads a configuration, one for two languages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError, did_you_mean
from ..sources import TABLE_SUFFIXES, FileSource, document_size, read_text
from . import training
from .tokenizer import Tokenizer

Files = str | Path | Sequence[str | Path]


class TokenizerFactory:
    """Train a tokenizer on files, or on texts in memory.

    All functions take

    files : path or sequence of paths, optional
        Plain text in UTF-8, or the tables that `load_corpus` reads (by suffix), or a folder of either.
    vocab_size, special_tokens, min_frequency
        As the function of `tinygrad_edu.data` that trains on texts: `train_bpe` and so on.
    texts : iterable of str, optional
        Instead of files.
    save_dir : path, optional
        A folder for ``tokenizer.json`` and ``tokenizer_config.json``: `Tokenizer.save`.

    and raise ConfigError for arguments that are not allowed, and DataError for files that are missing, empty,
    hold only blank lines, or are not UTF-8 (with line and byte offset).
    """

    @staticmethod
    def train_bpe(
        files: Files | None = None,
        vocab_size: int = 8000,
        *,
        special_tokens: Sequence[str] | None = None,
        min_frequency: int = 2,
        texts: Iterable[str] | None = None,
        save_dir: str | Path | None = None,
    ) -> Tokenizer:
        """Train a byte-level BPE."""
        return _train("bpe", files, texts, save_dir, vocab_size, special_tokens, min_frequency)

    @staticmethod
    def train_wordpiece(
        files: Files | None = None,
        vocab_size: int = 8000,
        *,
        special_tokens: Sequence[str] | None = None,
        min_frequency: int = 2,
        lowercase: bool = False,
        texts: Iterable[str] | None = None,
        save_dir: str | Path | None = None,
    ) -> Tokenizer:
        """Train a WordPiece tokenizer."""
        return _train(
            "wordpiece", files, texts, save_dir, vocab_size, special_tokens, min_frequency, lowercase=lowercase
        )

    @staticmethod
    def train_sentencepiece(
        files: Files | None = None,
        vocab_size: int = 8000,
        *,
        special_tokens: Sequence[str] | None = None,
        min_frequency: int = 2,
        texts: Iterable[str] | None = None,
        save_dir: str | Path | None = None,
    ) -> Tokenizer:
        """Train SentencePiece's unigram model."""
        return _train("sentencepiece", files, texts, save_dir, vocab_size, special_tokens, min_frequency)

    @staticmethod
    def train_character(
        files: Files | None = None,
        vocab_size: int | None = None,
        *,
        special_tokens: Sequence[str] | None = None,
        min_frequency: int = 1,
        texts: Iterable[str] | None = None,
        save_dir: str | Path | None = None,
    ) -> Tokenizer:
        """Make a tokenizer of single characters."""
        return _train("character", files, texts, save_dir, vocab_size, special_tokens, min_frequency)


def train_tokenizer_from_config(
    config: Mapping[str, Any] | Any,
    files: Files | None = None,
    *,
    texts: Iterable[str] | None = None,
    save_dir: str | Path | None = None,
) -> Tokenizer:
    """Train the tokenizer that a configuration describes.

    Parameters
    ----------
    config : mapping, or object with attributes
        ``type`` (``bpe``, ``wordpiece``, ``sentencepiece`` or ``unigram``, ``character``), ``vocab_size``,
        and, if wanted, ``special_tokens`` and ``min_frequency``.
    files, texts, save_dir
        As in `TokenizerFactory`.

    Raises
    ------
    ConfigError, DataError
        As `TokenizerFactory`; ConfigError when ``type`` or ``vocab_size`` is missing, or a mapping has a
        key that is not known.
    """
    known = ("type", "vocab_size", "special_tokens", "min_frequency", "lowercase")
    if isinstance(config, Mapping):
        other = [key for key in config if key not in known]
        if other:
            hint = did_you_mean(str(other[0]), known)
            raise ConfigError(f"config: {other[0]!r} is not known; wanted {', '.join(known)}.{hint}")
        values = dict(config)
    else:
        values = {name: getattr(config, name) for name in known if hasattr(config, name)}
    if values.get("type") is None:
        raise ConfigError(f"config: has no type; wanted one of {', '.join(training.KINDS)}")
    kind = training.check_kind(values["type"])
    if values.get("vocab_size") is None and kind != "character":
        raise ConfigError(f"config: has no vocab_size, which a {kind} tokenizer needs")
    options = {"lowercase": values["lowercase"]} if values.get("lowercase") is not None else {}
    if options and kind != "wordpiece":
        raise ConfigError(f"config: lowercase is for a wordpiece tokenizer, not {kind}")
    least = values.get("min_frequency")
    least = (1 if kind == "character" else 2) if least is None else least
    special = values.get("special_tokens")
    return _train(kind, files, texts, save_dir, values.get("vocab_size"), special, least, **options)


#: Special tokens of a translation model; the joint tokenizer has them as ids 0 to 3.
TRANSLATION_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")


def train_joint_bpe_tokenizer(
    src_texts: Iterable[str],
    tgt_texts: Iterable[str],
    vocab_size: int = 8000,
    min_frequency: int = 2,
    save_dir: str | Path | None = None,
) -> Tokenizer:
    """Train one byte-level BPE on both languages of a parallel text.

    Shared pieces (names, numbers, cognates) are spelt alike on both sides, and the two embeddings can be one
    (Sennrich et al., 2016). The special tokens are ``<pad>``, ``<s>``, ``</s>``, ``<unk>``, ids 0 to 3;
    ``<unk>`` never comes out of text, which bytes always cover.

    Parameters
    ----------
    src_texts, tgt_texts : iterable of str
        Neither may be empty.
    vocab_size, min_frequency
        As for `train_bpe`.
    save_dir : path, optional
        A folder to save it in.
    """

    def both() -> Iterator[str]:
        for name, texts in (("src_texts", src_texts), ("tgt_texts", tgt_texts)):
            if isinstance(texts, str):
                raise ConfigError(f"{name}: one string, wanted an iterable of strings")
            seen = False
            for text in texts:
                seen = seen or (isinstance(text, str) and bool(text.strip()))
                yield text
            if not seen:
                raise DataError(f"{name}: no text to train a tokenizer on")

    return _train("bpe", None, both(), save_dir, vocab_size, TRANSLATION_TOKENS, min_frequency)


def _train(
    kind: str,
    files: Files | None,
    texts: Iterable[str] | None,
    save_dir: str | Path | None,
    vocab_size: int | None,
    special_tokens: Sequence[str] | None,
    min_frequency: int,
    **options: Any,
) -> Tokenizer:
    if (files is None) == (texts is None):
        raise ConfigError(f"{'neither' if files is None else 'both'} of files and texts given; wanted one of them")
    if texts is None:
        assert files is not None
        texts = _FileTexts(files)
    settings: dict[str, Any] = {"special_tokens": special_tokens, "min_frequency": min_frequency, **options}
    # None is for the library of characters alone; elsewhere it is refused as any other value that is no number.
    tokenizer = training.train(kind, texts, vocab_size, **settings)  # type: ignore[arg-type]
    if save_dir is not None:
        tokenizer.save(Path(save_dir))
    return tokenizer


class _FileTexts:
    """The texts of some files, read anew at each iteration; none may be empty."""

    def __init__(self, files: Files) -> None:
        paths = [files] if isinstance(files, str | Path) else list(files)
        if not paths:
            raise ConfigError("files: an empty list, wanted at least one path")
        for number, path in enumerate(paths):
            if not isinstance(path, str | Path):
                raise ConfigError(f"files: entry {number} is {type(path).__name__}, wanted a path")
        self.paths = [Path(path).expanduser() for path in paths]
        for given in self.paths:
            if not given.exists():
                raise DataError(f"{given}: no such file; to train on texts in memory, hand them over as texts=...")

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            seen = False
            try:
                for text in self._read(path):
                    seen = seen or bool(text.strip())
                    yield text
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
            if not seen:
                found = "is empty" if path.is_file() and not path.stat().st_size else "holds only blank lines"
                raise DataError(f"no examples in {path}: it {found}")

    @staticmethod
    def _read(path: Path) -> Iterator[str]:
        if path.is_dir() or path.suffix.lower() in TABLE_SUFFIXES:
            return (text for text, _ in FileSource(path, None))
        return read_text(path, document_size(path.stat().st_size))

"""Token files: what they hold, and that damage is noticed and nothing half-written is left."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest

from tinygrad_edu.data import TokenFile, files, prepare_tokens, tokens, write_tokens
from tinygrad_edu.errors import ConfigError, DataError


@pytest.fixture
def file(texts, tmp_path, tokenizer):
    return write_tokens(tmp_path / "t" / "a.bin", texts, tokenizer, corpus_hash="c0")


def test_documents_begin_and_end_with_eos(texts, file, tokenizer):
    wanted = [0]
    for text in texts:
        wanted += [*tokenizer.encode(text), 0]
    assert file.ids.tolist() == wanted
    assert isinstance(file.ids, np.memmap) and not file.ids.flags.writeable
    assert (file.ids.dtype, len(file), file.vocab_size) == (np.dtype("<u2"), len(wanted), 320)
    assert file.text_bytes == sum(len(text.encode()) for text in texts) == tokenizer.token_bytes()[file.ids].sum()
    assert (file.info.documents, file.info.corpus, file.info.tokenizer) == (40, "c0", tokenizer.fingerprint)
    assert file.path.stat().st_size == 2 * len(wanted)
    assert TokenFile.open(file.path).ids.tolist() == wanted
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["a.bin", "a.json"]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, "u1"), (256, "u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4"), (50257, "<u2"), (1 << 32, "<u4")],
)
def test_the_smallest_type_that_fits(size, dtype):
    assert tokens.smallest_dtype(size) == np.dtype(dtype)


@pytest.mark.parametrize("size", [0, -1, (1 << 32) + 1])
def test_no_type_fits(size):
    with pytest.raises(ConfigError, match=f"vocab_size: {size}; wanted 1 to 4294967296"):
        tokens.smallest_dtype(size)


def test_batches_of_any_size_give_the_same_file(texts, tmp_path, tokenizer, file, monkeypatch):
    monkeypatch.setattr(tokens, "_CHUNK", 100)
    other = write_tokens(tmp_path / "b.bin", iter(texts), tokenizer)
    assert other.sha256 == file.sha256
    assert TokenFile.open(other.path).sha256 == file.sha256


def test_every_flipped_bit_and_every_truncation_is_noticed(file):
    raw = file.path.read_bytes()
    for at in range(0, len(raw), 97):
        file.path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(DataError, match=r"a\.bin: (SHA-256 .*; the file is damaged|id \d+ at position \d+)"):
            TokenFile.open(file.path)
        file.path.write_bytes(raw[:at])
        with pytest.raises(DataError, match=rf"a\.bin: {at:,} bytes, wanted {len(raw):,} "):
            TokenFile.open(file.path, verify=False)
    file.path.write_bytes(raw)
    assert TokenFile.open(file.path).sha256 == file.sha256


def test_an_id_beyond_the_vocabulary_is_noticed_whatever_the_hash_says(file):
    ids = file.ids.copy()
    ids[7] = 320
    file.path.write_bytes(ids.tobytes())
    with pytest.raises(DataError, match="id 320 at position 7, wanted below 320"):
        TokenFile.open(file.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(dtype="<i8"), "dtype '<i8', wanted '<u2' for a vocabulary of 320"),
        (lambda v: v.update(dtype="O"), "dtype 'O', wanted '<u2'"),
        (lambda v: v.update(format=2), "format 2, wanted 1"),
        (lambda v: v.update(count=v["count"] + 1), "bytes, wanted"),
        (lambda v: v.update(count=10**30), "bytes, wanted"),
        (lambda v: v.update(count=0), "count 0 and vocab_size 320, wanted at least 1 of each"),
        (lambda v: v.update(count="many"), "count is 'many', wanted a int"),
        (lambda v: v.update(count=True), "count is True, wanted a int"),
        (lambda v: v.update(documents=-1), "documents is -1, wanted a int that is not negative"),
        (lambda v: v.pop("sha256"), "fields .* wanted .*'sha256'"),
        (lambda v: v.update(more=1), "fields .*'more'"),
        (lambda v: v.update(sha256="0" * 64), "SHA-256 .*, wanted 0000"),
        (lambda v: v.update(vocab_size=400), "^$"),
    ],
)
def test_what_the_json_may_say(file, change, message):
    path = file.path.with_suffix(".json")
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    if message == "^$":  # a larger vocabulary of the same type is no contradiction
        assert TokenFile.open(file.path).vocab_size == 400
        return
    with pytest.raises(DataError, match=message):
        TokenFile.open(file.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "list, wanted an object"),
    ],
)
def test_what_is_no_description(file, content, message):
    file.path.with_suffix(".json").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.json: {message}"):
        TokenFile.open(file.path)


def test_missing_files(file):
    file.path.unlink()
    with pytest.raises(DataError, match=r"a\.bin: cannot be read: No such file"):
        TokenFile.open(file.path)
    file.path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"a\.json: cannot be read: No such file"):
        TokenFile.open(file.path)


def test_no_documents_and_no_end_of_text(texts, tmp_path, tokenizer, monkeypatch):
    with pytest.raises(DataError, match=r"a\.bin: no documents to write"):
        write_tokens(tmp_path / "a.bin", [], tokenizer)
    with pytest.raises(ConfigError, match=r"wanted a name that ends in \.bin"):
        write_tokens(tmp_path / "a.npy", texts, tokenizer)
    monkeypatch.setattr(tokenizer, "eos_token_id", None)
    with pytest.raises(ConfigError, match="has no end-of-text token, which separates documents"):
        write_tokens(tmp_path / "a.bin", texts, tokenizer)
    assert not list(tmp_path.iterdir())


def failing(texts, error):
    yield from texts
    raise error


@pytest.mark.parametrize(
    "error", [DataError("line 3"), OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_write_that_fails_leaves_the_old_file(texts, file, tokenizer, error):
    with pytest.raises(DataError if isinstance(error, Exception) else KeyboardInterrupt):
        write_tokens(file.path, failing(texts[:5], error), tokenizer)
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["a.bin", "a.json"]
    assert TokenFile.open(file.path).sha256 == file.sha256


def test_a_full_disk_is_named(texts, file, tokenizer, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write .*a\.bin: No space left on device"):
        write_tokens(file.path, texts[:5], tokenizer)
    assert TokenFile.open(file.path).sha256 == file.sha256
    assert len(list(file.path.parent.iterdir())) == 2


def test_what_a_killed_process_left_is_collected_a_day_later(file, texts, tokenizer):
    killed, running = (file.path.with_name(f".a.bin.{number}-00.tmp") for number in (1, 2))
    for path in (killed, running):
        path.write_bytes(b"half")
    os.utime(killed, (1e9, 1e9))
    write_tokens(file.path, texts, tokenizer)
    assert running.exists() and not killed.exists()


@pytest.mark.skipif("os.name == 'nt'")  # permissions are POSIX's
def test_files_have_the_permissions_that_the_user_gives_new_files(file):
    plain = file.path.with_name("plain")
    plain.write_text("")
    assert file.path.stat().st_mode == plain.stat().st_mode


def test_prepared_once_then_cached(small, tokenizer, tmp_path, monkeypatch):
    first = prepare_tokens(small, tokenizer)
    assert list(first) == ["train", "validation", "test"]
    assert first["train"].path.is_relative_to(tmp_path / "cache")
    for split, part in first.items():
        assert tokenizer.decode(part.ids) == "".join(small.splits[split])
        assert part.text_bytes == small.splits[split].n_bytes
    monkeypatch.setattr(tokens, "write_tokens", None)  # calling it now would be an error
    again = prepare_tokens(small, tokenizer)
    assert {split: part.sha256 for split, part in again.items()} == {
        split: part.sha256 for split, part in first.items()
    }


def test_a_damaged_cache_is_written_anew(small, tokenizer, tmp_path):
    first = prepare_tokens(small, tokenizer, cache_dir=tmp_path)["test"]
    first.path.write_bytes(first.path.read_bytes()[:-2])
    with pytest.warns(UserWarning, match=r"cached tokens are written anew: .*test\.bin: .* bytes, wanted"):
        again = prepare_tokens(small, tokenizer, cache_dir=tmp_path)["test"]
    assert again.sha256 == first.sha256
    prepare_tokens(small, tokenizer, cache_dir=tmp_path)  # no warning now


def test_a_cache_that_cannot_be_made(small, tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot create the folder .*file.*set TINYGRAD_EDU_CACHE"):
        prepare_tokens(small, tokenizer, cache_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("platform", "environment", "wanted"),
    [
        ("linux", {"TINYGRAD_EDU_CACHE": "/c"}, "/c"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/tinygrad_edu"),
        ("linux", {"HOME": "/h"}, "/h/.cache/tinygrad_edu"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Caches/tinygrad_edu"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/tinygrad_edu"),
    ],
)
@pytest.mark.skipif("os.name == 'nt'")  # the expected paths are written for POSIX
def test_the_platforms_cache_folder(monkeypatch, platform, environment, wanted):
    for name in ("TINYGRAD_EDU_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(files.sys, "platform", platform)
    assert files.default_cache_dir().as_posix() == wanted

"""The store of checkpoints: what it keeps, what it drops, what it refuses."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import pickle
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tinygrad_edu.errors import CheckpointError, ConfigError
from tinygrad_edu.storage import checkpoint as store
from tinygrad_edu.storage.checkpoint import (
    CheckpointWarning,
    collect_stale,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    verify_checkpoint,
)
from tinygrad_edu.storage.manifest import FORMAT, render_manifest


def arrays_of(step: int) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(step)
    weights = {"a.weight": rng.normal(size=(3, 4)).astype(np.float32), "a.bias": np.full(5, step, np.int64)}
    return {"model": weights, "optimizer": {"a.weight.exp_avg": rng.normal(size=(3, 4))}}


def save(root: Path, step: int, **options: object) -> Path:
    document = {"trainer": {"step": step}}
    return save_checkpoint(root, step, arrays_of(step), document, **options)  # type: ignore[arg-type]


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def steps(root: Path) -> list[int]:
    return [int(path.name.rpartition("-")[2]) for path in list_checkpoints(root)]


# -- round trip ------------------------------------------------------------------------------------


def test_round_trip_is_exact(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "new" / "root", 7, arrays_of(7), {"config": {"x": [1, 2.5, None, "é", True]}})
    found = load_checkpoint(path)
    assert (found.step, found.path, found.best, found.skipped) == (7, path, False, ())
    assert found.documents == {"config": {"x": [1, 2.5, None, "é", True]}}
    for group, wanted in arrays_of(7).items():
        assert set(found.arrays[group]) == set(wanted)
        for name, array in wanted.items():
            got = found.arrays[group][name]
            assert got.dtype == array.dtype and got.tobytes() == array.tobytes() and got.flags.writeable


BASE = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LAYOUTS = {
    "transposed": BASE.T,
    "strided": BASE[:, ::2, 1:3],
    "reversed": BASE[::-1],
    "broadcast": np.broadcast_to(np.float32(3), (4, 5)),
    "scalar": np.array(2.5),
    "numpy scalar": np.float64(1.5),
    "empty": np.zeros((0, 3), np.float32),
    "big endian": np.arange(5, dtype=">i4"),
    "fortran": np.asfortranarray(BASE),
    "bool": np.array([True, False]),
    "half": np.array([1, np.nan, np.inf], np.float16),
    "uint16": np.arange(4, dtype=np.uint16),
    "negative zero": np.array([-0.0]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_reads_back_as_it_was(tmp_path: Path, name: str) -> None:
    save_weights(tmp_path / "w.safetensors", {"x": LAYOUTS[name]})
    got = load_weights(tmp_path / "w.safetensors")["x"]
    wanted = np.asarray(LAYOUTS[name])
    assert got.shape == wanted.shape and got.dtype == wanted.dtype.newbyteorder("=")
    assert got.tobytes() == wanted.astype(got.dtype).tobytes()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["text"]), "array 'x': dtype <U4 cannot be saved; wanted one of"),
        (np.array([object()]), "array 'x': dtype object cannot be saved"),
        (np.zeros(2, np.complex128), "dtype complex128"),
        ([1.0, 2.0], "array 'x': found list, wanted an array"),
    ],
)
def test_arrays_that_cannot_be_kept(tmp_path: Path, array: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_weights(tmp_path / "w.safetensors", {"x": array})
    assert names(tmp_path) == []


def test_a_scrambling_writer_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.numpy

    genuine = safetensors.numpy.save

    def scrambling(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
        return genuine({name: np.ascontiguousarray(a[::-1]) for name, a in arrays.items()}, metadata=metadata)

    monkeypatch.setattr(safetensors.numpy, "save", scrambling)
    with pytest.raises(CheckpointError, match=r"array 'x': safetensors wrote other values than it was given"):
        save_weights(tmp_path / "w.safetensors", {"x": np.arange(4.0)})


def test_json_keeps_nan_infinity_and_every_bit_of_a_float(tmp_path: Path) -> None:
    document = {
        "best": math.inf,
        "loss": math.nan,
        "low": -math.inf,
        "tiny": 5e-324,
        "third": 1 / 3,
        "zero": -0.0,
    }
    document["numpy"] = np.float32(0.1)
    document["state"] = 2**127 + 1
    path = save_checkpoint(tmp_path, 1, {}, {"trainer": document})
    got = load_checkpoint(path).documents["trainer"]
    assert got["best"] == math.inf and math.isnan(got["loss"]) and got["low"] == -math.inf
    assert got["tiny"] == 5e-324 and got["third"] == 1 / 3 and math.copysign(1, got["zero"]) == -1
    assert got["numpy"] == float(np.float32(0.1)) and got["state"] == 2**127 + 1
    json.loads((path / "trainer.json").read_text(), parse_constant=pytest.fail)  # strictly JSON: no NaN literal


def itself() -> list[object]:
    result: list[object] = []
    result.append(result)
    return result


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": {1: 2}}, r"trainer\.a: key 1 cannot be kept in JSON; wanted text"),
        ({"a": [b"raw"]}, r"trainer\.a\[0\]: bytes cannot be kept in JSON"),
        ({"$float": "nan"}, r"trainer: key '\$float' cannot be kept"),
        ({"a": np.zeros(2)}, r"trainer\.a: ndarray cannot be kept in JSON"),
        ({"a": "\ud800"}, "trainer: cannot be kept in JSON: .*surrogates not allowed"),
        (itself(), "trainer: nested too deeply, or within itself"),
    ],
)
def test_documents_that_cannot_be_kept(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path, 1, {}, {"trainer": document})
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["", "../evil", "a/b", "a.b", "a\\b", ".hidden", "manifest"])
def test_names_of_parts_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"document name .* is not allowed"):
        save_checkpoint(tmp_path, 1, {}, {name: {}})
    with pytest.raises(CheckpointError, match=r"array name '__metadata__' is not allowed"):
        save_checkpoint(tmp_path, 1, {"model": {"__metadata__": np.zeros(1)}})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step is -1, wanted an integer >= 0"),
        ({"step": 1.5}, "step is 1.5, wanted an integer"),
        ({"step": True}, "step is True, wanted an integer"),
        ({"step": 1, "keep_last": 0}, "keep_last is 0, wanted an integer >= 1, or None"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        save_checkpoint(tmp_path, arrays={}, **arguments)  # type: ignore[arg-type]


# -- which are kept, which is taken ----------------------------------------------------------------


def test_last_and_best_are_kept(tmp_path: Path) -> None:
    for step, best in [(1, False), (2, True), (3, False), (4, False), (5, False)]:
        save(tmp_path, step, best=best, keep_last=2)
    assert steps(tmp_path) == [5, 4, 2]
    assert load_checkpoint(tmp_path).step == 5
    found = load_checkpoint(tmp_path, which="best")
    assert found.step == 2 and found.best
    save(tmp_path, 6, best=True, keep_last=1)  # the new best takes the old one's place
    assert steps(tmp_path) == [6]
    assert names(tmp_path) == ["0006-step-6"]


def test_all_are_kept_unless_told(tmp_path: Path) -> None:
    for step in range(4):
        save(tmp_path, step)
    assert steps(tmp_path) == [3, 2, 1, 0]


def test_newest_is_the_one_saved_last_not_the_one_with_the_most_steps(tmp_path: Path) -> None:
    for step in (100, 200, 150, 150):  # went on from step 100, and saved step 150 twice
        save(tmp_path, step)
    assert steps(tmp_path) == [150, 150, 200, 100]
    assert load_checkpoint(tmp_path).path.name == "0004-step-150"


def test_nothing_is_dropped_unless_the_new_one_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, keep_last=1)
    genuine = store.write_file

    def lying_disk(path: Path, data: bytes) -> None:
        genuine(path, data[:-1] + b"?" if path.name == "model.safetensors" else data)

    monkeypatch.setattr(store, "write_file", lying_disk)
    with pytest.raises(CheckpointError, match=r"model.safetensors: damaged"):
        save(tmp_path, 2, keep_last=1)
    with pytest.warns(CheckpointWarning):
        assert load_checkpoint(tmp_path).step == 1


def test_best_without_a_mark_is_the_newest(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    assert load_checkpoint(tmp_path, which="best").step == 2
    with pytest.raises(ConfigError, match=r"which is 'first', wanted 'last' or 'best'"):
        load_checkpoint(tmp_path, which="first")  # type: ignore[arg-type]


# -- falling back ----------------------------------------------------------------------------------


def damage(path: Path, offset: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_falls_back_to_the_newest_intact_one_and_says_so(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (1, 2, 3, 4)]
    damage(paths[3] / "model.safetensors")
    (paths[2] / "manifest.json").unlink()
    with pytest.warns(CheckpointWarning, match=r"took 0002-step-2 \(step 2\), because this cannot be used:") as caught:
        found = load_checkpoint(tmp_path)
    assert found.step == 2 and len(found.skipped) == 2
    assert "model.safetensors: damaged: SHA-256" in found.skipped[0]
    assert "manifest.json: missing" in found.skipped[1] and found.skipped[1] in str(caught[0].message)


def test_falls_back_from_a_damaged_best(tmp_path: Path) -> None:
    save(tmp_path, 1)
    best = save(tmp_path, 2, best=True)
    save(tmp_path, 3)
    damage(best / "manifest.json", 40)
    with pytest.warns(CheckpointWarning, match=r"took 0003-step-3"):
        assert load_checkpoint(tmp_path, which="best").step == 3


def test_a_checkpoint_asked_for_by_name_is_never_swapped(tmp_path: Path) -> None:
    intact, broken = save(tmp_path, 1), save(tmp_path, 2)
    damage(broken / "trainer.json")
    with pytest.raises(CheckpointError, match=r"trainer.json: damaged(.|\n)*intact beside it: .*0001-step-1"):
        load_checkpoint(broken)
    damage(intact / "trainer.json")
    with pytest.raises(CheckpointError, match=r"trainer.json: damaged: SHA-256") as caught:
        load_checkpoint(broken)
    assert "beside it" not in str(caught.value)


def test_all_that_is_wrong_is_listed(tmp_path: Path) -> None:
    for step in (1, 2):
        damage(save(tmp_path, step) / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"none of 2 checkpoints is intact:\n.*0002-step-2.*\n.*0001-step-1"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("none", "does not exist"), ("file", "not a folder"), ("empty", "holds no checkpoint")],
)
def test_nothing_to_load(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "root"
    if kind == "file":
        path.write_text("")
    elif kind == "empty":
        path.mkdir()
        (path / "notes.txt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "optimizer.safetensors", "trainer.json"])
def test_every_flipped_bit_and_every_truncation_is_refused(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 3, best=True) / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for offset in range(len(whole)):  # every byte, one bit of it by chance
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ (1 << int(rng.integers(8)))]) + whole[offset + 1 :])
        with pytest.raises(CheckpointError):
            verify_checkpoint(path.parent)
    for length in {0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path.parent)
    path.write_bytes(whole + b"\n")
    with pytest.raises(CheckpointError):
        load_checkpoint(path.parent)
    path.write_bytes(whole)
    assert load_checkpoint(path.parent).step == 3


def test_every_flipped_bit_in_a_weights_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, arrays_of(1)["model"])
    whole = path.read_bytes()
    for offset in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ (1 << bit)]) + whole[offset + 1 :])
            with pytest.raises(CheckpointError, match=r"w.safetensors"):
                load_weights(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"w.safetensors"):
            load_weights(path)


def test_weights_of_others_need_no_digest(tmp_path: Path) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file({"x": np.arange(3.0)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    assert load_weights(tmp_path / "other.safetensors")["x"].tolist() == [0, 1, 2]


def reforge(folder: Path, **changes: object) -> None:
    """Change the manifest and recompute its digest, as one who wants to do harm would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("sha256")
    (folder / "manifest.json").write_bytes(render_manifest({**manifest, **changes}))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    reforge(folder, files=files)


def header(text: bytes, payload: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + payload


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


TENSOR = b'{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,%s]}}'
HOSTILE_ARRAYS = {
    "pickle": pickle.dumps(Bomb()),
    "pickle in npz": b"PK\x03\x04" + pickle.dumps(Bomb()),
    "nothing": b"",
    "header longer than the file": header(b"{}", length=1 << 60),
    "header beyond 64 bits": header(b"{}", length=(1 << 64) - 1),
    "no json": header(b"hello"),
    "deep json": header(b"[" * 100_000),
    "bad utf-8": header(b'{"\xff":1}'),
    "sizes beyond the file": header(TENSOR % (b"1000000000", b"4000000000"), b"\0" * 16),
    "overflowing shape": header(TENSOR % (b"4611686018427387904,4,4", b"16"), b"\0" * 16),
    "negative shape": header(TENSOR % (b"-4", b"16"), b"\0" * 16),
    "shape against size": header(TENSOR % (b"5", b"16"), b"\0" * 16),
    "trailing bytes": header(TENSOR % (b"4", b"16"), b"\0" * 20),
    "unknown dtype": header(b'{"x":{"dtype":"F13","shape":[4],"data_offsets":[0,16]}}', b"\0" * 16),
    "dtype without a NumPy twin": header(b'{"x":{"dtype":"BF16","shape":[8],"data_offsets":[0,16]}}', b"\0" * 16),
    "overlap": header(
        b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"y":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
        b"\0" * 16,
    ),
}


@pytest.mark.parametrize("case", HOSTILE_ARRAYS)
def test_hostile_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "root", 1)
    replace_file(folder, "model.safetensors", HOSTILE_ARRAYS[case])
    with pytest.raises(CheckpointError, match=r"model.safetensors: "):
        load_checkpoint(folder)
    (tmp_path / "w.safetensors").write_bytes(HOSTILE_ARRAYS[case])
    with pytest.raises(CheckpointError, match=r"w.safetensors: "):
        load_weights(tmp_path / "w.safetensors")
    assert not (tmp_path / "exploded").exists()


HOSTILE_JSON = {
    "pickle": pickle.dumps(Bomb()),
    "nothing": b"",
    "deep": b"[" * 100_000,
    "bad utf-8": b'"\xff"',
    "nan": b'{"x": NaN}',
    "key twice": b'{"x": 1, "x": 2}',
    "huge integer": b"1" * 100_000,
    "false float": b'{"$float": "eval"}',
    "unhashable float": b'{"$float": [1]}',
    "float and more": b'{"$float": "nan", "x": 1}',
}


@pytest.mark.parametrize("case", HOSTILE_JSON)
def test_hostile_documents(tmp_path: Path, case: str) -> None:
    folder = save(tmp_path, 1)
    replace_file(folder, "trainer.json", HOSTILE_JSON[case])
    with pytest.raises(CheckpointError, match=r"trainer.json: not readable as JSON"):
        load_checkpoint(folder)
    (folder / "manifest.json").write_bytes(HOSTILE_JSON[case])
    with pytest.raises(CheckpointError, match=r"manifest.json: (not readable as JSON|not the manifest)"):
        load_checkpoint(folder)


@pytest.mark.parametrize("depth", [100, 300, 500, 700, 900, 5000, 50_000])
def test_deeply_nested_manifests(tmp_path: Path, depth: int) -> None:
    folder = save(tmp_path, 1)
    nested = "[" * depth + "]" * depth
    (folder / "manifest.json").write_text(f'{{"format": "{FORMAT}", "version": 1, "files": {nested}}}')
    with pytest.raises(CheckpointError, match=r"manifest.json: (not readable as JSON|damaged)"):
        load_checkpoint(folder)


ABOUT = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "format version 2, wanted at most 1: a newer release wrote it"),
        ({"version": "1"}, "damaged"),
        ({"version": None}, "damaged"),
        ({"format": "other"}, "not the manifest of a checkpoint"),
        ({"step": -1}, "field 'step' is -1, wanted an integer >= 0"),
        ({"step": 1.5}, "field 'step' is 1.5"),
        ({"step": True}, "field 'step' is True"),
        ({"best": "yes"}, "field 'best' is 'yes', wanted true or false"),
        ({"files": ["model.safetensors"]}, "field 'files' is list, wanted an object"),
        ({"files": {"../secret.json": ABOUT}}, r"file name '../secret.json' is not allowed"),
        ({"files": {"/etc/passwd": ABOUT}}, "file name '/etc/passwd' is not allowed"),
        ({"files": {"..\\secret.json": ABOUT}}, "is not allowed"),
        ({"files": {"C:secret.json": ABOUT}}, "is not allowed"),
        ({"files": {"secret.json\n": ABOUT}}, "is not allowed"),
        ({"files": {"weights.pkl": ABOUT}}, "file name 'weights.pkl' is not allowed"),
        ({"files": {"manifest.json": ABOUT}}, "file name 'manifest.json' is not allowed"),
        ({"files": {"a.json": {"size": -1, "sha256": ABOUT["sha256"]}}}, "size of 'a.json' is -1"),
        ({"files": {"a.json": {"size": 1, "sha256": "00"}}}, "sha256 of 'a.json' is '00'"),
        ({"files": {"a.json": None}}, "size of 'a.json' is None"),
        ({"files": {"a.json": ABOUT}}, "a.json: missing"),
        (
            {"files": {"trainer.json": {**ABOUT, "size": 1 << 60}}},
            "trainer.json: .* bytes long, wanted 1,152,921",
        ),
    ],
)
def test_hostile_manifests(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    (tmp_path / "secret.json").write_text("{}")
    folder = save(tmp_path / "root", 1)
    reforge(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need privileges on Windows")
def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    folder = save(tmp_path / "root", 1)
    target = tmp_path / "trainer.json"
    (folder / "trainer.json").replace(target)
    (folder / "trainer.json").symlink_to(target)
    with pytest.raises(CheckpointError, match=r"trainer.json: not a regular file"):
        load_checkpoint(folder)
    (folder / "trainer.json").unlink()
    os.mkfifo(folder / "trainer.json")  # reading it would wait for ever
    with pytest.raises(CheckpointError, match=r"trainer.json: not a regular file"):
        load_checkpoint(folder)
    elsewhere = save(tmp_path / "elsewhere", 9)
    (tmp_path / "root" / "0099-step-9").symlink_to(elsewhere)
    assert steps(tmp_path / "root") == [1]


def test_a_file_beside_the_parts_does_no_harm(tmp_path: Path) -> None:
    (save(tmp_path, 1) / ".DS_Store").write_bytes(b"\0")
    assert sorted(load_checkpoint(tmp_path).arrays) == ["model", "optimizer"]


# -- failures while writing ------------------------------------------------------------------------


PATH_OPEN = Path.open


class FullDisk:
    """A ``Path.open`` whose files together take `room` bytes, then raise ENOSPC, the last write cut short."""

    def __init__(self, room: int) -> None:
        self.room = room

    def open(self, path: Path, mode: str) -> object:
        disk, file = self, PATH_OPEN(path, mode)
        genuine = file.write

        class Limited:
            def __enter__(self) -> Limited:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

            def write(self, data: bytes) -> int:
                taken = min(len(data), disk.room)
                disk.room -= taken
                genuine(data[:taken])
                if taken < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return taken

        return Limited()


def fill_up(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    disk = FullDisk(room)
    monkeypatch.setattr(Path, "open", lambda path, mode: disk.open(path, mode))


def test_a_disk_that_fills_up_at_any_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = save(tmp_path, 1)
    needed = sum(file.stat().st_size for file in old.iterdir())
    for room in [*range(0, needed, 61), needed - 1]:
        fill_up(monkeypatch, room)
        with pytest.raises(CheckpointError, match=r"checkpoint of step 2 cannot be written to .*: No space left"):
            save(tmp_path, 2, keep_last=1)
        assert names(tmp_path) == [old.name]
        fill_up(monkeypatch, min(room, 100))
        with pytest.raises(CheckpointError, match=r"No space left on device; nothing was changed"):
            save_weights(tmp_path / "w.safetensors", arrays_of(1)["model"])
        assert names(tmp_path) == [old.name]
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).step == 1
    fill_up(monkeypatch, needed + 100)
    save(tmp_path, 2, keep_last=1)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).step == 2


@pytest.mark.parametrize(("call", "least"), [("fsync", 5), ("rename", 1), ("mkdir", 1)])
def test_any_failing_call_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, least: int
) -> None:
    old, genuine, failures = save(tmp_path, 1), getattr(os, call), 0
    for which in range(8):  # the first call fails, the second ...
        calls = itertools.count()

        def failing(*args: object, calls: Iterator[int] = calls, which: int = which, **options: object) -> object:
            if next(calls) == which:
                raise OSError(errno.EIO, "Input/output error")
            return genuine(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                save(tmp_path, 2)
            except CheckpointError:
                failures += 1
        assert old in list_checkpoints(tmp_path) and not list(tmp_path.glob(".tmp-*"))
        for path in list_checkpoints(tmp_path):  # the root is flushed after the rename: then both are there, whole
            verify_checkpoint(path)
    assert failures >= least


def test_ctrl_c_while_saving_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "fsync_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    assert names(tmp_path) == ["0001-step-1"]


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="permissions do not bind here"
)
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match=r"Permission denied; there was none before"):
            save(tmp_path / "root", 1)
    finally:
        tmp_path.chmod(0o700)


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(
        CheckpointError, match=r"checkpoint of step 1 cannot be written to .*root: .*; there was none before"
    ):
        save(tmp_path / "root", 1)


@pytest.mark.skipif(os.name == "nt", reason="Windows goes by age alone")
def test_stale_temporaries_are_collected_and_live_ones_left(tmp_path: Path) -> None:
    writer = store._writer().rpartition("-")[0]
    dead = tmp_path / f".tmp-{writer}-4194304999-aa"  # beyond any process number
    parent = tmp_path / f".tmp-{writer}-{os.getppid()}-bb"
    young = tmp_path / ".tmp-otherhost-1-cc"
    old = tmp_path / ".tmp-otherhost-2-dd"
    odd = tmp_path / ".tmp-odd"
    for path in (dead, parent, young, old, odd):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    os.utime(old, (0, 0))
    assert sorted(path.name for path in collect_stale(tmp_path)) == sorted([dead.name, old.name])
    save(tmp_path, 1)
    assert names(tmp_path) == sorted([parent.name, young.name, odd.name, "0001-step-1"])


# -- kill -9 ---------------------------------------------------------------------------------------

KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
import safetensors.numpy                                     # loaded before the fork: a child only saves
from tinygrad_edu.storage import load_checkpoint, save_checkpoint
root, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance, step, halfway = random.Random(seed), 0, 0
for _ in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            step += 1
            weights = np.full(60_000, step, np.float32)
            arrays = {"model": {"w": weights}, "optimizer": {"m": -weights}}
            save_checkpoint(root, step, arrays, {"trainer": {"step": step}}, keep_last=2, best=step % 7 == 0)
            os.write(writer, step.to_bytes(8, "little"))     # told only once it is safe
    os.close(writer)
    os.read(reader, 8)                                       # it is at work
    time.sleep(chance.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = b""
    while part := os.read(reader, 1 << 16):
        told += part
    os.close(reader)
    promised = int.from_bytes(told[-8:], "little") if told else step + 1
    halfway += any(name.startswith(".tmp-") for name in os.listdir(root))
    found = load_checkpoint(root)
    assert not found.skipped, found.skipped
    assert found.step >= promised, (found.step, promised)
    assert found.documents["trainer"]["step"] == found.step
    assert (found.arrays["model"]["w"] == found.step).all()
    assert (found.arrays["optimizer"]["m"] == -found.step).all()
    step = found.step
print(halfway)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_while_saving_loses_nothing(tmp_path: Path, kills: int) -> None:
    import subprocess

    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", KILLER, str(tmp_path), str(kills), "1"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > kills // 4  # the kills did come in the middle of a save
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last = load_checkpoint(tmp_path).step
    save(tmp_path, last + 1)
    assert not list(tmp_path.glob(".tmp-*"))

"""Designs on disk: what is written, what is read, exact resuming, and every kind of damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.data import DataLoader
from tinygrad_edu.data.designs import (
    FIELDS,
    SyntheticDesignDataset,
    feature_maps,
    grammar_scores,
    make_layout,
    render,
    stack_examples,
    write_designs,
)
from tinygrad_edu.errors import ConfigError, DataError, DtypeError, RangeError

pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_designs(tmp_path_factory.mktemp("designs") / "set", 30, seed=5)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def test_what_is_read_is_what_was_made(written: Path) -> None:
    splits = {name: SyntheticDesignDataset(written, name) for name in ("train", "validation", "test")}
    assert [len(designs) for designs in splits.values()] == [24, 3, 3]
    for name, first in (("train", 0), ("validation", 24), ("test", 27)):
        for at in range(len(splits[name])):
            layout, example = make_layout(5, first + at), splits[name][at]
            assert tuple(example) == FIELDS
            np.testing.assert_array_equal(example["image"], render(layout).astype(np.float32) / np.float32(255))
            maps = feature_maps(layout)
            np.testing.assert_array_equal(example["features"][:3], maps[:3])
            np.testing.assert_allclose(example["features"][3], maps[3], atol=0.5 / 255 + 1e-6)
            np.testing.assert_array_equal(example["grammar"], grammar_scores(layout))
            assert (example["goal"], example["format"]) == (layout.meta.goal, layout.meta.format)
            np.testing.assert_array_equal(example["tone"], np.float32(layout.meta.tone))
    assert sorted(path.name for path in written.parent.iterdir()) == ["set"]  # nothing temporary
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [*(f"{name}.npy" for name in FIELDS), "manifest.json"]
    )


def test_the_files_are_plain_numpy(written: Path) -> None:
    image = np.load(written / "image.npy", allow_pickle=False)
    assert image.shape == (30, 3, 32, 32) and image.dtype == np.uint8


def test_more_designs_and_larger_ones_begin_with_the_same(written: Path, tmp_path: Path) -> None:
    more = write_designs(tmp_path / "more", 40, seed=5, size=64)
    one, two = SyntheticDesignDataset(written)[:], SyntheticDesignDataset(more)[:24]
    for name in ("goal", "format", "tone", "grammar"):
        np.testing.assert_array_equal(one[name], two[name])
    assert two["image"].shape == (24, 3, 64, 64)


def test_writing_again_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    again = write_designs(tmp_path / "again", 30, seed=5)
    assert (again / "manifest.json").read_bytes() == (written / "manifest.json").read_bytes()
    other = write_designs(tmp_path / "other", 30, seed=6)
    assert (other / "image.npy").read_bytes() != (written / "image.npy").read_bytes()


def test_reading_some(written: Path) -> None:
    designs = SyntheticDesignDataset(written, fields=("image", "goal"))
    assert tuple(designs[0]) == ("image", "goal")
    batch = designs[np.array([3, 1, -1])]
    assert batch["image"].shape == (3, 3, 32, 32) and batch["image"].dtype == np.float32
    np.testing.assert_array_equal(batch["image"][2], designs[23]["image"])
    np.testing.assert_array_equal(designs[2:5]["goal"], [designs[at]["goal"] for at in (2, 3, 4)])
    stacked = stack_examples([designs[3], designs[1], designs[-1]])
    np.testing.assert_array_equal(stacked["image"], batch["image"])
    batch["goal"][0] = 9  # a copy, which may be changed
    assert designs[3]["goal"] != 9
    assert len(list(designs)) == 24  # iterating ends
    assert "24 designs to train, 32 pixels" in repr(designs)


def test_a_loader_goes_on_exactly(written: Path) -> None:
    def loader() -> DataLoader:
        return DataLoader(SyntheticDesignDataset(written), 5, stack_examples, shuffle=True, seed=3)

    whole, begun = loader(), loader()
    wanted = [batch["image"] for _ in range(2) for batch in whole]
    found = [batch["image"] for _, batch in zip(range(3), begun, strict=False)]
    resumed = loader()
    resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
    found += [batch["image"] for batch in resumed] + [batch["image"] for batch in resumed]
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_loader_does_not_go_on_in_other_designs(written: Path, tmp_path: Path) -> None:
    other = write_designs(tmp_path / "other", 30, seed=6)
    state = DataLoader(SyntheticDesignDataset(written), 5, stack_examples).state_dict()
    with pytest.raises(DataError, match="other data or settings"):
        DataLoader(SyntheticDesignDataset(other), 5, stack_examples).load_state_dict(state)


# -- writing that goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, error: Any) -> None:
    def interrupt(done: int, total: int) -> None:
        raise error

    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else DataError, match=r"No space left|^$"):
        write_designs(tmp_path / "set", 30, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_goes_when_it_is_old(tmp_path: Path) -> None:
    import os

    old, young = tmp_path / ".set.1-abcd.tmp", tmp_path / ".set.2-abcd.tmp"
    for folder in (old, young):
        folder.mkdir()
        (folder / "image.npy").write_bytes(b"half")
    os.utime(old, (1, 1))
    write_designs(tmp_path / "set", 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "set"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 9}, "count: 9, wanted an integer of at least 10"),
        ({"size": 48}, "size: 48, wanted a multiple of 32"),
        ({"n_colours": 3}, "n_colours: 3, wanted an integer from 5 to 16"),
        ({"seed": -1}, "seed: -1, wanted an integer of at least 0"),
        ({"validation": 0}, "validation: 0, wanted a share between 0 and 1"),
        ({"validation": 0.6, "test": 0.5}, "leave none to train on"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_designs(tmp_path / "set", **{"count": 30, **settings})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ConfigError, match="set is there already"):
        write_designs(tmp_path / "set", 30)


# -- damage ------------------------------------------------------------------------------------------------


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def flip(folder: Path) -> None:
    data = bytearray((folder / "features.npy").read_bytes())
    data[-1] ^= 1
    (folder / "features.npy").write_bytes(data)


def other_shape(folder: Path) -> None:
    from tinygrad_edu.data.designs.storage import sum_of

    np.save(folder / "tone.npy", np.zeros((30, 2), np.float32))
    edit(lambda m: m["files"].update({"tone.npy": sum_of(folder / "tone.npy")}))(folder)


def no_numpy(folder: Path) -> None:
    from tinygrad_edu.data.designs.storage import sum_of

    (folder / "tone.npy").write_bytes(b"x" * 500)
    edit(lambda m: m["files"].update({"tone.npy": sum_of(folder / "tone.npy")}))(folder)


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (
        lambda f: (f / "manifest.json").unlink(),
        "manifest.json: cannot be read: .*wanted a folder that write_designs made",
    ),
    (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: is not JSON"),
    (lambda f: (f / "manifest.json").write_text("[]"), "is not the manifest of a folder of designs"),
    (edit(lambda m: m.update(version=2)), "version 2, wanted at most 1: a newer release wrote it"),
    (edit(lambda m: m.update(version="1")), "version '1', wanted 1"),
    (edit(lambda m: m.update(count=-3)), "count is -3, wanted an integer >= 0"),
    (edit(lambda m: m.pop("seed")), "seed is None, wanted an integer >= 0"),
    (edit(lambda m: m.update(splits={"train": 30})), "splits is .*, wanted numbers of designs for train"),
    (edit(lambda m: m["splits"].update(train=25)), "splits have 31 designs, count is 30"),
    (edit(lambda m: m.update(goals=["sell"])), r"goals is \['sell'\], wanted"),
    (edit(lambda m: m["files"].pop("image.npy")), "files is .*, wanted one .npy for each"),
    (edit(lambda m: m["files"].update({"image.npy": 3})), "image.npy: .* bytes, wanted None"),
    (lambda f: (f / "image.npy").unlink(), "image.npy: cannot be read: No such file"),
    (
        lambda f: (f / "image.npy").write_bytes((f / "image.npy").read_bytes()[:-5]),
        "image.npy: .* bytes, wanted .*: cut off",
    ),
    (flip, "features.npy: damaged: SHA-256"),
    (other_shape, r"tone.npy: float32 \(30, 2\), wanted float32 \(30, 3\)"),
    (no_numpy, "tone.npy: is not a NumPy file"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[message[:24] for _, message in DAMAGES])
def test_damage_is_noticed(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    SyntheticDesignDataset(folder)
    damage(folder)
    with pytest.raises(DataError, match=message):
        SyntheticDesignDataset(folder)


def test_pickles_are_not_read(folder: Path) -> None:
    from tinygrad_edu.data.designs.storage import sum_of

    np.save(folder / "tone.npy", np.array([{"code": 1}] * 30), allow_pickle=True)
    edit(lambda m: m["files"].update({"tone.npy": sum_of(folder / "tone.npy")}))(folder)
    with pytest.raises(DataError, match="is not a NumPy file"):
        SyntheticDesignDataset(folder)


def test_names_and_numbers_that_there_are_not(written: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="split: 'training', wanted one of train, validation, test. Did you mean 'train'"
    ):
        SyntheticDesignDataset(written, "training")
    with pytest.raises(ConfigError, match="fields: 'images', wanted some of image, .*Did you mean 'image'"):
        SyntheticDesignDataset(written, fields=("images",))
    for fields in ("image", ()):
        with pytest.raises(ConfigError, match="fields"):
            SyntheticDesignDataset(written, fields=fields)
    with pytest.raises(DataError, match="cannot be read"):
        SyntheticDesignDataset(tmp_path / "nowhere")
    designs = SyntheticDesignDataset(written)
    for index in (24, -25, np.array([0, 24])):
        with pytest.raises(RangeError, match="is outside of the 24 designs of train"):
            designs[index]
    with pytest.raises(DtypeError, match="wanted an integer, a slice"):
        designs["goal"]
    with pytest.raises(DataError, match="there are none"):
        stack_examples([])

"""The programs on a few steps: what they write, stopping and resuming, and what users get wrong."""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training import load_config, make_config
from tinygrad_edu.training.history import JsonlHistory, read_history

pytest.importorskip("sklearn")

PROJECT = Path(__file__).resolve().parents[1]
SHORT = ("training.max_steps=6", "training.eval_every=3", "training.save_every=3", "training.batch_size=16")
CLASSIFIER = (*SHORT, "model.base=4", "model.features=8", "data.shifts=false")
DIFFUSION = (*SHORT, "model.base=8", "model.blocks=1", "process.steps=30", "sampling.steps=4")
DIFFUSION += ("sampling.frames=3", "sampling.per_class=2")


@pytest.fixture(scope="module", autouse=True)
def on_the_path() -> Iterator[None]:
    """The programs find their common modules because Python puts their folder first; so do these tests."""
    sys.path.insert(0, str(PROJECT))
    yield
    sys.path.remove(str(PROJECT))


@pytest.fixture(scope="module")
def programs(on_the_path: None) -> Any:
    """Their ``main`` functions."""
    names = ("train_classifier", "train_diffusion", "sample")
    found = [runpy.run_path(str(PROJECT / f"{name}.py"), run_name=name)["main"] for name in names]
    return SimpleNamespace(classifier=found[0], diffusion=found[1], sample=found[2])


@pytest.fixture(scope="module")
def judge(programs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the classifier, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    assert programs.classifier([*CLASSIFIER, f"training.output_dir={folder}"]) == 0
    return folder / "classifier"


def of_diffusion(folder: Path, judge: Path, *more: str) -> list[str]:
    given = (*DIFFUSION, f"training.output_dir={folder}", f"sampling.classifier={judge}", *more)
    options = [word for word in given if word.startswith("-")]
    return [*options, *{word.partition("=")[0]: word for word in given if not word.startswith("-")}.values()]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- the data ------------------------------------------------------------------------------------------------


def test_digits_are_divided_once_and_for_all() -> None:
    from digits_project.data import load_splits
    from digits_project.settings import DigitsData

    splits = load_splits(DigitsData())
    assert {name: len(digits) for name, digits in splits.items()} == {"train": 1259, "validation": 179, "test": 359}
    assert all(digits.images.shape[1:] == (1, 8, 8) for digits in splits.values())
    everything = np.concatenate([digits.images for digits in splits.values()])
    assert everything.min() == -1 and everything.max() == 1 and everything.dtype == np.float32
    again, other = load_splits(DigitsData()), load_splits(DigitsData(split_seed=1))
    np.testing.assert_array_equal(again["test"].labels, splits["test"].labels)
    assert (other["test"].labels != splits["test"].labels).any()
    rows = {name: {image.tobytes() for image in digits.images} for name, digits in splits.items()}
    assert not rows["train"] & rows["test"] and not rows["validation"] & rows["test"]


def test_moved_digits_are_the_same_one_pixel_off() -> None:
    from digits_project.data import load_splits
    from digits_project.settings import DigitsData

    plain, moved = (load_splits(DigitsData(shifts=shifts)) for shifts in (False, True))
    count = len(plain["train"])
    assert len(moved["train"]) == 5 * count and len(moved["test"]) == len(plain["test"])
    images, labels = moved["train"].images.reshape(5, count, 8, 8), moved["train"].labels.reshape(5, count)
    assert (labels == plain["train"].labels).all()
    np.testing.assert_array_equal(images[0], plain["train"].images[:, 0])
    np.testing.assert_array_equal(images[1, :, 1:], images[0, :, :-1])  # down
    np.testing.assert_array_equal(images[4, :, :, :-1], images[0, :, :, 1:])  # to the left
    assert (images[1, :, 0] == -1).all() and (images[4, :, :, -1] == -1).all()


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from digits_project.data import load_splits
    from digits_project.settings import DigitsData

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ConfigError, match=r"scikit-learn, which is not installed; run `pip install 'tinygrad_edu\["):
        load_splits(DigitsData())


# -- the networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_gradients_of_the_classifier(training: bool) -> None:
    from digits_project.classifier import DigitClassifier
    from digits_project.settings import ClassifierModel

    network = DigitClassifier(ClassifierModel(base=2, features=3), seed=1).train(training)
    x = np.random.default_rng(0).normal(size=(3, 1, 8, 8))
    tg.check.layer(network, x, seeds=2).raise_if_wrong()


def test_features_are_what_the_last_map_reads() -> None:
    from digits_project.classifier import DigitClassifier
    from digits_project.settings import ClassifierModel

    network = DigitClassifier(ClassifierModel(base=2, features=3))
    x = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype("float32")
    with network.evaluating():
        features = network.features(x)
        assert features.shape == (3, 3)
        np.testing.assert_allclose(network.head(features), network(x), rtol=1e-6)


# -- the programs --------------------------------------------------------------------------------------------


def test_the_classifier_writes_what_its_program_says(judge: Path, capsys: Any) -> None:
    assert set(files(judge)) - {"mistakes.png"} == {
        *("checkpoints", "config.yaml", "history.jsonl", "loss_curve.png", "results.json"),
        *("sample_after.png", "sample_before.png"),
    }
    results = json.loads((judge / "results.json").read_text())
    confusion = np.array(results["confusion"])
    assert results["steps"] == 6 and results["digits"] == {"train": 1259, "validation": 179, "test": 359}
    assert confusion.sum() == 359
    assert results["test"]["accuracy"] == pytest.approx(np.trace(confusion) / 359)
    evaluations = [record for record in read_history(judge / "history.jsonl") if record["event"] == "evaluation"]
    assert [record["step"] for record in evaluations] == [3, 6]
    assert all(0 <= record["accuracy"] <= 1 for record in evaluations)


def test_the_diffusion_writes_what_its_program_says(tmp_path: Path, programs: Any, judge: Path, capsys: Any) -> None:
    assert programs.diffusion(of_diffusion(tmp_path, judge)) == 0
    run, shown = tmp_path / "diffusion", capsys.readouterr().out
    assert files(run) == [
        *("checkpoints", "config.yaml", "denoising.png", "digits.png", "history.jsonl", "loss_curve.png"),
        *("results.json", "sample_after.png", "sample_before.png", "samples"),
    ]
    assert files(run / "samples") == ["step_000003.png", "step_000006.png"]
    for picture in ("denoising.png", "digits.png"):
        assert (run / picture).read_bytes().startswith(b"\x89PNG")
    results = json.loads((run / "results.json").read_text())
    assert results["fid"].keys() == {"drawn", "real", "noise"}
    assert {found["extractor"] for found in results["fid"].values()} == {"the digits classifier's 8 features"}
    assert results["fid"]["drawn"]["samples"] == [1259, 20] and results["fid"]["real"]["samples"] == [1259, 359]
    assert results["fid"]["real"]["value"] < results["fid"]["drawn"]["value"]
    assert results["fidelity"]["drawn"]["samples"] == 20 and 0 <= results["fidelity"]["drawn"]["chance"] <= 1
    for wanted in ("as asked", "by chance", "FID", "Inception Score", "real test digits"):
        assert wanted in shown
    judged = json.loads((judge / "results.json").read_text())["test"]["accuracy"]
    assert results["fidelity"]["real"]["accuracy"] == pytest.approx(judged)

    given = ["--checkpoint", str(run), "--output", str(tmp_path / "drawn.png")]
    for words, size in (
        (["--digits", "31415", "--rows", "2"], "2 x 5 pictures"),
        (["--digits", "07", "--strip", "--steps", "2", "--guidance", "3"], "2 x 3 pictures"),
    ):
        assert programs.sample([*given, *words]) == 0
        assert size in capsys.readouterr().out
        assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    for words, message in (
        (["--digits", "3x"], "--digits: '3x', wanted digits such as 3141"),
        (["--rows", "0"], "--rows: 0, wanted at least 1"),
        (["--guidance", "-1"], "sampling.guidance=-1.0: found -1.0, wanted at least 0"),
        (["--steps", "31"], "31 is more than process.steps 30"),
    ):
        assert programs.sample([*given, *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("kind", ["classifier", "diffusion"])
def test_ctrl_c_then_resume_is_as_if_nothing_had_been(
    kind: str, tmp_path: Path, programs: Any, judge: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise, times and dropped classes go on where they were; so do dropout, averages and running statistics."""
    on_record: Callable[..., None] = JsonlHistory.on_record

    def interrupt(self: Any, record: Any) -> None:
        on_record(self, record)
        if record["event"] == "train" and record["step"] == 4:
            os.kill(os.getpid(), signal.SIGINT)

    given = [*CLASSIFIER, f"training.output_dir={tmp_path}"] if kind == "classifier" else of_diffusion(tmp_path, judge)
    given = [*given, "training.log_every=1"]
    run = getattr(programs, kind)
    monkeypatch.setattr(JsonlHistory, "on_record", interrupt)
    assert run(["--name=stopped", *given]) == 130
    monkeypatch.undo()
    assert "a checkpoint is saved" in capsys.readouterr().out
    assert "results.json" not in files(tmp_path / "stopped")
    assert run(["--resume", str(tmp_path / "stopped")]) == 0
    assert re.search("^resumed .*4 steps are done", capsys.readouterr().out, flags=re.MULTILINE)
    assert run(["--name=whole", *given]) == 0
    a, b = (load_checkpoint(tmp_path / name / "checkpoints") for name in ("stopped", "whole"))
    assert a.step == b.step == 6
    for group, arrays in b.arrays.items():
        assert all(a.arrays[group][name].tobytes() == array.tobytes() for name, array in arrays.items()), group
    found, wanted = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("stopped", "whole"))
    del found["training_seconds"], wanted["training_seconds"]
    assert found == wanted


# -- what users get wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sampling.classifier=nowhere"], "there is no run nowhere; train one first: python projects/digits/train_"),
        (["data.split_seed=1"], "was trained with data.split_seed 0, wanted 1: it has learned from digits that are"),
        (["sampling.steps=31"], "sampling.steps=31: 31 is more than process.steps 30"),
        (["sampling.frames=9"], "9 frames are more than sampling.steps 4 give"),
        (["process.condition_dropout=0"], "1.5 needs a network that was also trained without classes"),
        (["model.base=9"], "model.base"),
        (["process.schedule=sine"], "process.schedule"),
    ],
)
def test_mistakes_leave_nothing_behind(
    words: list[str], message: str, tmp_path: Path, programs: Any, judge: Path, capsys: Any
) -> None:
    assert programs.diffusion(of_diffusion(tmp_path / "runs", judge, *words)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists() or files(tmp_path / "runs") == []


def test_drawing_wants_a_run(programs: Any, tmp_path: Path, capsys: Any) -> None:
    assert programs.sample(["--checkpoint", str(tmp_path / "none"), "--output", str(tmp_path / "picture.png")]) == 2
    assert "none; train one first: python projects/digits/train_diffusion.py" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_the_settings_files_are_valid() -> None:
    from digits_project.settings import ClassifierConfig, DiffusionConfig

    assert load_config(PROJECT / "classifier.yaml", schema=ClassifierConfig).data.shifts
    config = load_config(PROJECT / "diffusion.yaml", schema=DiffusionConfig)
    assert config.training.ema_decay is not None
    with pytest.raises(ConfigError, match=r"model\.bse.*Did you mean"):
        make_config({"model": {"bse": 3}}, schema=ClassifierConfig)


# -- the whole thing -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_classifier_gets_98_of_100_right_and_the_diffusion_draws_what_is_asked(
    tmp_path: Path, programs: Any
) -> None:
    out = f"training.output_dir={tmp_path}"
    assert programs.classifier([out]) == 0
    assert json.loads((tmp_path / "classifier" / "results.json").read_text())["test"]["accuracy"] >= 0.98
    assert programs.diffusion([out, f"sampling.classifier={tmp_path / 'classifier'}"]) == 0
    results = json.loads((tmp_path / "diffusion" / "results.json").read_text())
    assert results["fidelity"]["drawn"]["accuracy"] >= 0.9
    assert results["fid"]["drawn"]["value"] < 0.2 * results["fid"]["noise"]["value"]
    assert results["nearest"]["drawn"] > 0.5 * results["nearest"]["real"]  # no copies

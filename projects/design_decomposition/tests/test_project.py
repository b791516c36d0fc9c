"""The programs on a few designs: from making them to the report; resuming, measuring, and what users get wrong."""

from __future__ import annotations

import json
import math
import runpy
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.data.designs import FORMATS, GOALS, GRAMMAR
from tinygrad_edu.storage import list_checkpoints, load_checkpoint
from tinygrad_edu.training import load_config
from tinygrad_edu.training.history import read_history

pytest.importorskip("PIL")

PROJECT = Path(__file__).resolve().parents[1]
FIGURES = ["text_iou", "image_iou", "colour_accuracy", "hierarchy_mse"]


@pytest.fixture(scope="module")
def programs() -> Iterator[SimpleNamespace]:
    """The programs by name, each with its ``main``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT))
        names = ("generate_data", "train_encoder", "train_abstractor", "report", "run_all")
        mains = {name: runpy.run_path(str(PROJECT / f"{name}.py"), run_name=name)["main"] for name in names}
        yield SimpleNamespace(**mains)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, programs: Any) -> Path:
    folder = tmp_path_factory.mktemp("data") / "designs"
    assert programs.generate_data(["--folder", str(folder), "--count", "100"]) == 0
    return folder


def words(data: Path, folder: Path, *more: str) -> list[str]:
    """Settings of a small run. What comes later in `more` counts."""
    given = [f"data.folder={data}", "data.count=100", f"training.output_dir={folder}", "training.log_every=1"]
    given += ["training.batch_size=20", "training.shown=3"]
    keys = {word.partition("=")[0] for word in more}
    return [*more, *(word for word in given if word.partition("=")[0] not in keys)]


SMALL_NET = ["model.base=4", "model.depth=2"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, programs: Any, data: Path) -> Path:
    """Run folder of an encoder that was trained for two epochs of four steps."""
    folder = tmp_path_factory.mktemp("runs")
    assert programs.train_encoder([*words(data, folder, *SMALL_NET), "--epochs", "2", "--lr", "0.01"]) == 0
    return folder / "encoder"


@pytest.fixture(scope="module")
def abstractor(tmp_path_factory: pytest.TempPathFactory, programs: Any, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert programs.train_abstractor([*words(data, folder), "--epochs", "1"]) == 0
    return folder / "abstractor"


# -- the settings and the data -----------------------------------------------------------------------------


def test_the_settings_files_are_valid(programs: Any) -> None:
    from design_project.settings import AbstractorConfig, EncoderConfig

    for name, schema in (("encoder", EncoderConfig), ("abstractor", AbstractorConfig)):
        config = load_config(PROJECT / f"{name}.yaml", schema=schema)
        assert config.data == schema().data  # every stage reads the same designs


def test_the_data_is_made_once(programs: Any, data: Path, capsys: Any) -> None:
    before = (data / "manifest.json").stat().st_mtime_ns
    assert programs.generate_data(["--folder", str(data), "--count", "100"]) == 0
    shown = capsys.readouterr().out
    assert (data / "manifest.json").stat().st_mtime_ns == before
    assert "80 designs to train" in shown and "10 designs to test" in shown
    assert all(f"{name:<12} 0 |" in shown for name in GRAMMAR)
    assert programs.generate_data(["--folder", str(data), "--count", "100", "--seed", "1"]) == 2
    assert "holds other designs: seed 0, wanted 1" in capsys.readouterr().err
    assert programs.generate_data(["--folder", str(data), "--count", "5", "--size", "40"]) == 2
    shown = capsys.readouterr().err
    assert "data.count: found 5, wanted at least 100" in shown.replace("greater than or equal to", "at least")
    assert "data.size: found 40" in shown


# -- the encoder -------------------------------------------------------------------------------------------


def test_the_encoder_learns_and_leaves_all_its_files(encoder: Path) -> None:
    assert sorted(path.name for path in encoder.iterdir()) == [
        *("checkpoints", "config.yaml", "history.jsonl", "loss_curve.png", "predictions", "results.json"),
        *("sample_after.png", "sample_before.png"),
    ]
    assert sorted(path.name for path in (encoder / "predictions").iterdir()) == ["step_000004.png", "step_000008.png"]
    records = read_history(encoder / "history.jsonl")
    found = [record for record in records if record["event"] == "evaluation"]
    assert [record["step"] for record in found] == [4, 8]
    losses = [record["loss"] for record in records if record["event"] == "train"]
    assert losses[-1] < losses[0] and found[1]["loss"] < found[0]["loss"]
    results = json.loads((encoder / "results.json").read_text())
    assert list(results["figures"]) == ["loss", *FIGURES]
    assert [criterion["wanted"] for criterion in results["criteria"]] == ["> 0.9", "> 0.85", "> 0.8", "< 0.05"]
    for criterion, name in zip(results["criteria"], FIGURES, strict=True):
        assert criterion["value"] == results["figures"][name]
        bound = float(criterion["wanted"][2:])
        above = criterion["wanted"][0] == ">"
        assert criterion["met"] == (criterion["value"] > bound if above else criterion["value"] < bound)


def test_its_figures_are_those_of_the_whole_split(encoder: Path, data: Path) -> None:
    """The figures of results.json, computed once more in plain NumPy from the best checkpoint."""
    from design_project.networks import as_seen, build_encoder, load_trained
    from design_project.settings import EncoderConfig

    from tinygrad_edu.data.designs import SyntheticDesignDataset

    net, _ = load_trained(encoder, EncoderConfig, build_encoder)
    test = SyntheticDesignDataset(data, "test")[:]
    with net.evaluating():
        logits = np.asarray(net(as_seen(test["image"])))
    true, figures = test["features"], json.loads((encoder / "results.json").read_text())["figures"]
    for at, name in enumerate(("text_iou", "image_iou")):
        found, wanted = logits[:, at] > 0, true[:, at] > 0.5
        assert figures[name] == pytest.approx((found & wanted).sum() / (found | wanted).sum())
    assert figures["colour_accuracy"] == pytest.approx((logits[:, 2:10].argmax(axis=1) == true[:, 2]).mean())
    assert figures["hierarchy_mse"] == pytest.approx(((logits[:, 10] - true[:, 3]) ** 2).mean(), rel=1e-5)


def test_an_interrupted_run_goes_on_exactly(tmp_path: Path, programs: Any, data: Path, encoder: Path) -> None:
    """Two epochs at once, or one and then, from its checkpoint, another: the same weights to the last bit."""
    given = words(data, tmp_path, *SMALL_NET)
    assert programs.train_encoder([*given, "--epochs", "1", "--lr", "0.01"]) == 0
    (tmp_path / "encoder" / "results.json").unlink()
    resumed = ["--resume", str(tmp_path / "encoder"), "training.num_epochs=2"]
    assert programs.train_encoder(resumed) == 0
    one, two = (load_checkpoint(folder / "checkpoints") for folder in (encoder, tmp_path / "encoder"))
    assert one.step == two.step == 8
    for group in ("model", "optimizer"):
        assert one.arrays[group].keys() == two.arrays[group].keys()
        for name, values in one.arrays[group].items():
            np.testing.assert_array_equal(values, two.arrays[group][name], err_msg=name)
    assert any("running_mean" in name for name in one.arrays["model"])


def test_a_run_may_begin_with_the_weights_of_another(
    tmp_path: Path, programs: Any, data: Path, encoder: Path, capsys: Any
) -> None:
    def loss_at_start(*more: str) -> float:
        shutil.rmtree(tmp_path / "encoder", ignore_errors=True)
        given = words(data, tmp_path, *SMALL_NET, "training.max_steps=1", "training.warmup_steps=0")
        assert programs.train_encoder([*given, *more]) == 0
        records = read_history(tmp_path / "encoder" / "history.jsonl")
        return next(record["loss"] for record in records if record["event"] == "train")

    assert loss_at_start("--checkpoint", str(encoder)) < loss_at_start() - 0.02
    wrong = [*words(data, tmp_path / "new", "model.base=8", "model.depth=2"), "--checkpoint", str(encoder)]
    assert programs.train_encoder(wrong) == 1
    shown = capsys.readouterr().err
    assert "does not fit UNet" in shown and "misshapen" in shown
    assert not (tmp_path / "new").exists()  # nothing came about


def test_a_run_goes_on_without_the_one_it_began_with(
    tmp_path: Path, programs: Any, data: Path, encoder: Path, capsys: Any
) -> None:
    begun = shutil.copytree(encoder, tmp_path / "begun")
    given = words(data, tmp_path, *SMALL_NET, "--checkpoint", str(begun))
    assert programs.train_encoder([*given, "--epochs", "1"]) == 0
    shutil.rmtree(begun)
    assert programs.train_encoder(["--resume", str(tmp_path / "encoder"), "training.num_epochs=2"]) == 0


def test_accumulated_batches_make_a_step(tmp_path: Path, programs: Any, data: Path) -> None:
    given = words(data, tmp_path, *SMALL_NET, "training.batch_size=10", "training.gradient_accumulation_steps=2")
    assert programs.train_encoder([*given, "--epochs", "1"]) == 0
    assert json.loads((tmp_path / "encoder" / "results.json").read_text())["steps"] == 4


def test_the_rate_falls_on_a_plateau(tmp_path: Path, programs: Any, data: Path) -> None:
    given = words(data, tmp_path, *SMALL_NET, "training.plateau_patience=0", "training.learning_rate=1e-9")
    given += ["training.warmup_steps=0", "training.weight_decay=0"]
    assert programs.train_encoder([*given, "--epochs", "4"]) == 0
    records = read_history(tmp_path / "encoder" / "history.jsonl")
    rates = [record["learning_rate"] for record in records if record["event"] == "train"]
    assert rates[0] == 1e-9 and rates[-1] < 1e-9
    assert any(record["event"] == "plateau" for record in records)


def test_validate(programs: Any, data: Path, encoder: Path, capsys: Any) -> None:
    results = json.loads((encoder / "results.json").read_text())
    capsys.readouterr()
    assert programs.train_encoder(["--validate", "--checkpoint", str(encoder), "--split", "test", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in results["figures"]} == pytest.approx(results["figures"], rel=1e-6)
    one = list_checkpoints(encoder / "checkpoints")[0]
    assert programs.train_encoder(["--validate", "--checkpoint", str(one)]) == 0
    shown = capsys.readouterr().out
    assert "10 designs of the validation split" in shown and "text mask IoU" in shown
    assert programs.train_encoder(["--validate", f"training.output_dir={encoder.parent}", "--json"]) == 0


# -- the abstractor ----------------------------------------------------------------------------------------


def test_the_abstractor_and_its_figures(abstractor: Path, data: Path) -> None:
    from design_project.networks import build_abstractor, load_trained, soft_maps_of
    from design_project.settings import AbstractorConfig

    from tinygrad_edu.data.designs import SyntheticDesignDataset

    results = json.loads((abstractor / "results.json").read_text())
    assert len(results["criteria"]) == 6
    figures = results["figures"]
    net, _ = load_trained(abstractor, AbstractorConfig, build_abstractor)
    test = SyntheticDesignDataset(data, "test")[:]
    with net.evaluating():
        said = net(soft_maps_of(test["features"], 8))
    errors = np.abs(said["grammar"] - test["grammar"]).mean(axis=0)
    assert [figures[f"{name}_mae"] for name in GRAMMAR] == pytest.approx(errors.tolist(), rel=1e-5)
    assert figures["hierarchy_mae"] == pytest.approx(errors[3], rel=1e-5)
    for name in ("goal", "format"):
        assert figures[f"{name}_accuracy"] == pytest.approx((said[name].argmax(axis=1) == test[name]).mean())
    assert said["grammar"].min() >= 0 and said["grammar"].max() <= 1
    assert said["goal"].shape == (10, len(GOALS)) and said["format"].shape == (10, len(FORMATS))
    assert (abstractor / "predictions").is_dir() and math.isfinite(figures["loss"])


# -- the report --------------------------------------------------------------------------------------------


def test_the_report(tmp_path: Path, programs: Any, data: Path, encoder: Path, abstractor: Path, capsys: Any) -> None:
    for stage in (encoder, abstractor):
        shutil.copytree(stage, tmp_path / stage.name)
    assert programs.report(["--runs", str(tmp_path), "--data", str(data)]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") >= 8 and 'src="/' not in page and "http" not in page
    assert "of 10 are met" in page and "Not run yet" in page
    assert page.count('class="met"') + page.count('class="missed"') == 10
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "results.json").write_text(
        json.dumps({
            "stage": "samples",
            "figures": {"fid": 12.5},
            "criteria": [{"name": "<FID>", "value": 12.5, "wanted": "< 50", "met": True}],
            "tables": [{"title": "FID", "columns": ["of", "FID"], "rows": [["samples", 12.5]]}],
        })
    )  # fmt: skip
    assert programs.report(["--runs", str(tmp_path), "--data", str(data)]) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "of 11 are met" in page and "&lt;FID&gt;" in page and "<h3>FID</h3>" in page
    (tmp_path / "samples" / "results.json").write_text("{")
    assert programs.report(["--runs", str(tmp_path)]) == 1
    assert "results.json: cannot be read" in capsys.readouterr().err
    assert programs.report(["--runs", str(tmp_path / "none")]) == 2
    assert "holds no stage that is done" in capsys.readouterr().err


# -- what users get wrong ----------------------------------------------------------------------------------


def test_mistakes(tmp_path: Path, programs: Any, data: Path, encoder: Path, abstractor: Path, capsys: Any) -> None:
    def fails(program: Any, *given: str, status: int = 2) -> str:
        assert program(list(given)) == status
        return capsys.readouterr().err

    given = words(data, tmp_path)
    shown = fails(programs.train_encoder, *given, "model.bas=8", "model.depth=9", "--epochs", "0")
    assert "unknown key 'model.bas'. Did you mean 'model.base'" in shown and "training.num_epochs" in shown
    assert "model.depth" in fails(programs.train_encoder, *given, "model.depth=9")
    assert "found 48, wanted a multiple of 32" in fails(programs.train_encoder, *words(data, tmp_path, "data.size=48"))
    shown = fails(programs.train_encoder, *words(data, tmp_path, "data.n_colours=6"))
    assert "holds other designs: n_colours 8, wanted 6" in shown
    shown = fails(programs.train_encoder, *words(data, encoder.parent))
    assert "is not empty; choose another name, or --resume" in shown
    shown = fails(programs.train_encoder, "--validate", "--checkpoint", str(tmp_path / "none"), status=1)
    assert "none" in shown
    shown = fails(programs.train_encoder, "--validate", "--checkpoint", str(abstractor))
    assert "config.json" in shown and "small_input" in shown
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    (broken / "image.npy").write_bytes(b"")
    shown = fails(programs.train_encoder, *words(broken, tmp_path), status=1)
    assert "image.npy: 0 bytes, wanted" in shown
    assert not (tmp_path / "encoder").exists()


# -- the networks ------------------------------------------------------------------------------------------


def test_soft_maps(programs: Any, data: Path) -> None:
    from design_project.networks import SoftMaps, soft_maps_of

    from tinygrad_edu.data.designs import SyntheticDesignDataset

    features = SyntheticDesignDataset(data, "test")[:]["features"]
    maps = soft_maps_of(features, 8)
    assert maps.shape == (10, 11, 32, 32) and maps.dtype == np.float32
    np.testing.assert_array_equal(maps[:, :2], features[:, :2])
    np.testing.assert_array_equal(maps[:, 2:10].argmax(axis=1), features[:, 2])
    np.testing.assert_array_equal(maps[:, 2:10].sum(axis=1), 1)
    np.testing.assert_array_equal(maps[:, 10], features[:, 3])
    logits = np.random.default_rng(0).normal(size=(2, 11, 4, 4)) * 30
    soft = SoftMaps()(logits)
    np.testing.assert_allclose(soft[:, 2:10].sum(axis=1), 1)
    assert soft[:, :10].min() >= 0 and soft[:, :10].max() <= 1
    np.testing.assert_array_equal(soft[:, 10], logits[:, 10])


def test_every_second_design_is_mirrored_and_means_the_same(programs: Any, data: Path) -> None:
    """The scores of a mirrored layout are those of the layout: the formulas know no left and right."""
    from design_project.data import abstractor_batch

    from tinygrad_edu.data.designs import Box, SyntheticDesignDataset, feature_maps, grammar_scores, make_layout

    examples = [SyntheticDesignDataset(data, "test")[i] for i in range(5)]
    plain, mirrored = abstractor_batch(examples, 8), abstractor_batch(examples, 8, mirror=True)
    np.testing.assert_array_equal(mirrored["maps"][1::2], plain["maps"][1::2])
    np.testing.assert_array_equal(mirrored["maps"][::2], plain["maps"][::2, ..., ::-1])
    np.testing.assert_array_equal(mirrored["grammar"], plain["grammar"])
    for index in range(20):
        layout = make_layout(0, index)
        elements = tuple(
            replace(e, box=Box(32 - e.box.x - e.box.w, e.box.y, e.box.w, e.box.h)) for e in layout.elements
        )
        other = replace(layout, elements=elements)  # the papers stand in the middle of the canvas
        np.testing.assert_array_equal(feature_maps(other), feature_maps(layout)[..., ::-1])
        np.testing.assert_allclose(grammar_scores(other), grammar_scores(layout), atol=1e-6)


def test_gradients_of_what_lies_between_the_networks(programs: Any) -> None:
    from design_project.networks import SoftMaps

    from tinygrad_edu import check

    rng = np.random.default_rng(0)
    check.layer(SoftMaps(), rng.normal(size=(2, 11, 3, 3))).raise_if_wrong()


def test_the_gradient_of_a_score_reaches_the_picture(programs: Any) -> None:
    """Through both frozen networks, against differences of the score along a random direction, in float64."""
    from design_project.networks import Abstractor, Reader

    from tinygrad_edu.models.unet import UNet

    reader = Reader(UNet(3, 11, base=4, depth=2, seed=1).astype("float64"), Abstractor(8, seed=2).astype("float64"))
    rng = np.random.default_rng(0)
    x, direction = rng.normal(size=(2, 2, 3, 32, 32))
    before = {name: values.copy() for name, values in reader.state_dict().items()}
    answers = reader(x)
    weight = {name: rng.normal(size=values.shape) for name, values in answers.items()}
    dx = reader.backward(weight)

    def along(step: float) -> float:
        with reader.evaluating():
            found = reader(x + step * direction)
        return float(sum((weight[name] * found[name]).sum() for name in found))

    numeric = (along(1e-7) - along(-1e-7)) / 2e-7  # so little that hardly a ReLU changes sides
    assert float((dx * direction).sum()) == pytest.approx(numeric, rel=1e-4)
    for name, values in reader.state_dict().items():  # frozen: statistics too
        np.testing.assert_array_equal(values, before[name])
    assert all(not parameter.grad.any() for parameter in reader.parameters())
    assert not reader.train().training


def test_the_abstractor_alone_is_the_sum_of_its_losses(programs: Any) -> None:
    """Its loss over two parts of a batch, with one divisor, is that of the whole; so are the gradients."""
    from design_project.networks import Abstractor

    rng = np.random.default_rng(0)
    net = Abstractor(8, seed=3).astype("float64").eval()  # as batches meet in batch norm in training
    maps = rng.random((6, 11, 32, 32))
    targets = {
        "grammar": rng.random((6, 4)),
        "tone": rng.normal(size=(6, 3)),
        "goal": rng.integers(0, 4, 6),
        "format": rng.integers(0, 4, 6),
    }
    whole = net.forward_backward(maps, **targets)
    wanted = net.flat.grad.copy()
    net.zero_grad()
    parts = [
        net.forward_backward(maps[some], divisor=6, **{name: values[some] for name, values in targets.items()})
        for some in (slice(0, 2), slice(2, 6))
    ]
    assert sum(parts) == pytest.approx(whole)
    np.testing.assert_allclose(net.flat.grad, wanted, rtol=1e-9, atol=1e-12)
    assert net.count_targets(maps, **targets) == 6


# -- running everything ------------------------------------------------------------------------------------


def test_run_all_skips_resumes_and_stops(tmp_path: Path, programs: Any, monkeypatch: Any, capsys: Any) -> None:
    """The words that each step is run with; the steps themselves are tested above."""
    import subprocess

    asked: list[list[str]] = []

    def run(words: list[str], check: bool) -> Any:
        asked.append([Path(word).name if word.endswith(".py") else word for word in words[1:]])
        return SimpleNamespace(returncode=3 if "train_abstractor.py" in asked[-1][0] else 0)

    monkeypatch.setattr(subprocess, "run", run)
    for done in ("encoder", "decoder"):
        (tmp_path / done).mkdir()
    (tmp_path / "encoder" / "results.json").write_text("{}")
    (tmp_path / "abstractor").mkdir()
    (tmp_path / "abstractor" / "config.yaml").write_text("")  # killed before its first checkpoint
    assert programs.run_all(["--runs", str(tmp_path)]) == 3
    assert not (tmp_path / "abstractor").exists()
    assert [words[0] for words in asked] == ["train_abstractor.py"]
    assert f"training.output_dir={tmp_path}" in asked[0]
    shown = capsys.readouterr().out
    assert "encoder: done" in shown and "Stopped at abstractor" in shown
    (tmp_path / "decoder" / "checkpoints" / "0001-step-5").mkdir(parents=True)
    asked.clear()
    assert programs.run_all(["--runs", str(tmp_path), "--only", "encoder", "decoder"]) == 0
    assert asked == [
        ["train_decoder.py", "--resume", str(tmp_path / "decoder")],
        ["report.py", "--runs", str(tmp_path)],
    ]


@pytest.mark.slow
def test_everything_on_a_few_designs(tmp_path: Path) -> None:
    """All programs as a user runs them, one after the other, and once more: then there is nothing left to do."""
    import os
    import subprocess
    import sys

    words = [sys.executable, str(PROJECT / "run_all.py"), "--quick", "--runs", str(tmp_path)]
    paths = [str(PROJECT.parents[1]), os.environ.get("PYTHONPATH", "")]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    first = subprocess.run(words, capture_output=True, text=True, env=given, check=False, timeout=1800)
    assert first.returncode == 0, first.stdout + first.stderr
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Not run yet" not in page and page.count("data:image/png;base64,") > 15
    again = subprocess.run(words, capture_output=True, text=True, env=given, check=False, timeout=300)
    assert again.returncode == 0 and again.stdout.count(": done, in ") == 6

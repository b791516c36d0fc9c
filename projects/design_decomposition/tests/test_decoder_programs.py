"""The programs that paint, on a few designs: training, resuming, sampling, fine-tuning, innovation; users' mistakes."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.storage import list_checkpoints, load_checkpoint
from tinygrad_edu.training.history import read_history

pytest.importorskip("PIL")

PROJECT = Path(__file__).resolve().parents[1]
PROGRAMS = ("generate_data", "train_encoder", "train_abstractor", "train_decoder", "sample_decoder", "finetune_decoder")
SMALL = ["model.base=8", "model.channel_multipliers=[1,1]", "model.attention_levels=[1]", "model.context_dim=8"]
FEW = ["sampling.steps=3", "training.batch_size=20", "training.shown=2", "training.log_every=1"]


@pytest.fixture(scope="module")
def programs() -> Iterator[SimpleNamespace]:
    """The programs by name, each with its ``main``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PROJECT))
        names = (*PROGRAMS, "innovate")
        yield SimpleNamespace(
            **{name: runpy.run_path(str(PROJECT / f"{name}.py"), run_name=name)["main"] for name in names}
        )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, programs: Any) -> list[str]:
    """Settings of runs on 100 designs, in a folder that holds an encoder and an abstractor of one step."""
    runs = tmp_path_factory.mktemp("runs")
    assert programs.generate_data(["--folder", str(runs / "data"), "--count", "100"]) == 0
    settings = [f"data.folder={runs / 'data'}", "data.count=100", f"training.output_dir={runs}"]
    one_step = ["training.max_steps=1", "training.num_epochs=null", "training.warmup_steps=0"]
    assert programs.train_encoder([*settings, *one_step, "model.base=4", "model.depth=2"]) == 0
    assert programs.train_abstractor([*settings, *one_step]) == 0
    return settings


def runs_of(given: list[str]) -> Path:
    return Path(given[-1].partition("=")[2])


@pytest.fixture(scope="module")
def decoder(given: list[str], programs: Any) -> Path:
    """Run folder of a decoder that was trained for two epochs of four steps."""
    words = [*given, *SMALL, *FEW, "training.warmup_steps=0", "--epochs", "2", "--lr", "0.003"]
    assert programs.train_decoder(words) == 0
    return runs_of(given) / "decoder"


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same_weights(one: Path, two: Path) -> None:
    first, second = (load_checkpoint(folder / "checkpoints") for folder in (one, two))
    assert first.step == second.step
    for group in ("model", "optimizer", "ema"):
        assert first.arrays[group].keys() == second.arrays[group].keys()
        for name, array in first.arrays[group].items():
            assert array.tobytes() == second.arrays[group][name].tobytes(), (group, name)


# -- training ----------------------------------------------------------------------------------------------


def test_the_decoder_learns_and_leaves_all_its_files(decoder: Path) -> None:
    assert names(decoder) == [
        *("checkpoints", "config.yaml", "history.jsonl", "loss_curve.png", "predictions", "results.json"),
        *("sample_after.png", "sample_before.png"),
    ]
    assert names(decoder / "predictions") == ["step_000004.png", "step_000008.png"]
    records = read_history(decoder / "history.jsonl")
    losses = [record["loss"] for record in records if record["event"] == "evaluation"]
    assert losses[1] < losses[0] < 1.1  # of v, a network that gives 0 has about 1
    assert results(decoder)["figures"]["loss"] < 1.1


def test_an_interrupted_run_goes_on_exactly(tmp_path: Path, programs: Any, decoder: Path, given: list[str]) -> None:
    """Times, noise and hidden meanings are drawn on as if nothing had been."""
    words = [*given[:-1], f"training.output_dir={tmp_path}", *SMALL, *FEW, "training.warmup_steps=0"]
    words += ["--epochs", "2", "--lr", "0.003", "training.save_every=3", "training.keep_checkpoints=9"]
    assert programs.train_decoder(words) == 0
    run = tmp_path / "decoder"
    later = [path for path in list_checkpoints(run / "checkpoints") if load_checkpoint(path).step > 3]
    assert later and len(later) < len(list_checkpoints(run / "checkpoints"))
    for path in later:  # as if it had been stopped after step 3, in the middle of an epoch
        shutil.rmtree(path)
    (run / "results.json").unlink()
    assert programs.train_decoder(["--resume", str(run)]) == 0
    same_weights(decoder, run)


def test_validation_repeats(decoder: Path, programs: Any, given: list[str], capsys: Any) -> None:
    found = []
    for _ in range(2):
        assert programs.train_decoder(["--validate", "--checkpoint", str(decoder), "--split", "test", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["loss"])
    assert found[0] == found[1] == pytest.approx(results(decoder)["figures"]["loss"])


# -- sampling ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*features:UserWarning")
def test_samples_are_shown_and_measured(decoder: Path, programs: Any, given: list[str], capsys: Any) -> None:
    words = [*given, "sampling.steps=3", "sampling.count=10"]
    assert programs.sample_decoder([*words, "--guidance", "1.5"]) == 0
    folder = runs_of(given) / "samples"
    assert names(folder) == ["alike.png", "denoising.png", "results.json", "samples.png"]
    found = results(folder)
    assert [criterion["wanted"] for criterion in found["criteria"]] == ["< 50", "> 2", "> 2", "< 0.9"]
    assert set(found["pictures"]) == {"alike.png", "denoising.png", "samples.png"}
    figures = found["figures"]
    assert figures["fid"] > 0 and figures["fid_of_noise"] > 0 and 0 < figures["goal_chance"] <= 1
    assert figures["same_to_other_meaning"] == pytest.approx(
        figures["distance_same_meaning"] / figures["distance_other_meaning"]
    )
    capsys.readouterr()
    assert programs.sample_decoder([*words, "--guidance", "1.5", "--validate"]) == 0
    shown = capsys.readouterr().out
    assert f"{figures['goal_fidelity']:.4f}" in shown and "FID under the project's own extractor" in shown
    assert programs.sample_decoder(words) == 2  # it is there already
    assert "is not empty" in capsys.readouterr().err


def test_a_meaning_of_ones_own(decoder: Path, programs: Any, given: list[str], capsys: Any) -> None:
    words = [*given, "sampling.steps=3", "--count", "3", "--goal", "sell", "--format", "poster"]
    assert programs.sample_decoder([*words, "--tone", "1", "0", "-1", "--name", "mine"]) == 0
    assert names(runs_of(given) / "mine") == ["samples.png"]
    assert "3 designs painted" in capsys.readouterr().out


# -- fine-tuning and innovation ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*features:UserWarning")
def test_fine_tuning_before_and_after(decoder: Path, programs: Any, given: list[str]) -> None:
    few = [*FEW, "sampling.count=10", "finetune.judged=3", "training.warmup_steps=0", "training.eval_every=2"]
    words = [*given, *few, "training.max_steps=4", "finetune.reward_weight=5", "--lr", "0.001"]
    assert programs.finetune_decoder(words) == 0
    folder = runs_of(given) / "finetuned"
    figures = results(folder)["figures"]
    assert figures["grammar_rise"] == pytest.approx(figures["grammar_after"] - figures["grammar_before"])
    assert figures["grammar_rise"] != 0 and {"fid_before", "fid_after", "goal_fidelity_after"} <= set(figures)
    records = [record for record in read_history(folder / "history.jsonl") if record["event"] == "evaluation"]
    assert [record["step"] for record in records] == [2, 4] and all(0 <= record["grammar"] <= 1 for record in records)

    old, new = (load_checkpoint(run / "checkpoints") for run in (decoder, folder))
    assert old.arrays["model"].keys() == new.arrays["model"].keys()  # the frozen ones are not in it
    assert any((old.arrays["ema"][name] != array).any() for name, array in new.arrays["ema"].items())

    from design_project.decoder import load_decoder

    process, config = load_decoder(folder)  # and it paints as any decoder does
    assert config.model.base == 8 and process.prediction == "v"
    assert programs.sample_decoder([*given, "--checkpoint", str(folder), "--validate", *few[:1], few[4]]) == 0


def test_innovation_raises_every_latent_or_says_so(decoder: Path, programs: Any, given: list[str]) -> None:
    words = [*given, "innovation.count=4", "innovation.sampling_steps=3", "innovation.ascent_steps=4"]
    assert programs.innovate(words) == 0
    folder = runs_of(given) / "innovation"
    assert names(folder) == ["ascent.png", "innovation.png", "results.json"]
    found = results(folder)
    assert found["figures"]["share_raised"] == 1 and found["figures"]["least_rise"] > 0
    assert len(found["tables"][0]["rows"]) == 4 and all(criterion["met"] for criterion in found["criteria"])


# -- mistakes ------------------------------------------------------------------------------------------------


def test_what_is_refused(decoder: Path, programs: Any, given: list[str], tmp_path: Path, capsys: Any) -> None:
    elsewhere = [*given[:-1], f"training.output_dir={tmp_path}"]
    for program in (programs.sample_decoder, programs.innovate, programs.finetune_decoder):
        assert program(elsewhere) in (1, 2)
        assert "decoder" in capsys.readouterr().err
    assert programs.sample_decoder(elsewhere) == 2
    assert "train one first: python projects/design_decomposition/train_decoder.py" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())  # nothing is left half made
    wrong = [*given, "--format", "poster", "--name", "wrong"]
    assert programs.sample_decoder([*wrong, "--goal", "sel"]) == 2
    assert (
        "--goal: 'sel', wanted one of sell, inform, invite, entertain. Did you mean 'sell'?" in capsys.readouterr().err
    )
    assert programs.sample_decoder([*wrong, "--goal", "sell", "--tone", "2", "0", "0"]) == 2
    assert "--tone: 2.0 0.0 0.0, wanted numbers in [-1, 1]" in capsys.readouterr().err
    assert not (runs_of(given) / "wrong").exists()
    for words in (wrong, [*given, "--goal", "sell", "--format", "poster"], [*given, "--count", "0"], [*given, "fast"]):
        with pytest.raises(SystemExit):
            programs.sample_decoder(words)
    assert programs.sample_decoder([*given, "sampling.steps=0"]) == 2
    assert "sampling.steps" in capsys.readouterr().err
    assert programs.finetune_decoder([*given, "model.base=16", "--name", "other"]) == 2
    assert "model: is that of the decoder that fine-tuning begins with" in capsys.readouterr().err
    np.testing.assert_equal((runs_of(given) / "other").exists(), False)

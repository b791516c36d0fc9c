"""The logic of the benchmarks: formulas, ratios, agreement. Nothing here looks at a clock."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    process = importlib.import_module("bench.process")
    summary = importlib.import_module("bench.summary")
    transformer = importlib.import_module("bench.transformer")
    worker = importlib.import_module("bench.worker")
    workload = importlib.import_module("bench.workload")
    ops = importlib.import_module("bench.ops")
finally:
    sys.path.remove(str(ROOT / "benchmarks"))

SMALL = workload.Workload(vocab=20, batch=2, time=8, d_model=8, blocks=2, heads=2, ffn=12)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocab": 0}, "vocab must be >= 1, got 0"),
        ({"time": 1}, "time must be >= 2, a token and the next one, got 1"),
        ({"heads": 3}, "d_model must be divisible by heads, got 8 and 3"),
        ({"dtype": "float16"}, "dtype must be float32 or float64, got 'float16'"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
    ],
)
def test_a_wrong_workload_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_flops_are_those_of_every_product_of_the_step() -> None:
    """Added up product by product for a small model, with the causal triangle counted pair by pair."""
    w = SMALL
    rows, hd = w.batch * w.time, w.d_model // w.heads
    block = 2 * rows * w.d_model * (3 * w.d_model)  # queries, keys and values
    block += 2 * rows * w.d_model * w.d_model  # output projection
    block += 2 * (2 * rows * w.d_model * w.ffn)  # feed-forward part
    pairs = w.batch * w.heads * sum(1 for t in range(w.time) for s in range(w.time) if s <= t)
    block += 2 * (2 * pairs * hd)  # scores, and the weighted sum
    head = 2 * rows * w.d_model * w.vocab
    assert w.flops == 3 * (w.blocks * block + head)


def test_batches_are_the_same_for_everyone_and_in_range() -> None:
    first, second, other = (np.array(w.batches(3)) for w in (SMALL, SMALL, replace(SMALL, seed=1)))
    assert first.shape == (3, 2, 2, 8)
    assert first.dtype == np.int64
    assert (first == second).all()
    assert (first[:, 0] == first[:, 1]).all()  # labels are the ids
    assert first.min() >= 0
    assert first.max() < SMALL.vocab
    assert (other != first).any()


def run_of(seconds: list[float], peak: float | None = 100.0, gemm: float = 10.0) -> dict[str, object]:
    return {"seconds": seconds, "peak_mib": peak, "gemm_gflops": gemm, "first_seconds": 9.0}


def test_ratios_are_pairwise_medians() -> None:
    runs = {
        "ours": [run_of([1, 2, 30], 50), run_of([4], 60), run_of([1], 70)],
        "torch": [run_of([4], gemm=20), run_of([4], gemm=40), run_of([10], gemm=30)],
    }
    found = summary.summarize(SMALL, runs)
    speed = found["ratios"]["torch"]["speed"]
    assert speed == {"median": 2, "min": 1, "max": 10, "pairs": [2, 1, 10]}
    assert found["ratios"]["torch"]["memory"]["median"] == 0.6
    assert found["gemm_gflops"] == 30  # the better side's rate is the machine's
    ours = found["sides"]["ours"]
    assert ours["seconds"] == 2
    assert ours["tokens_per_second"] == SMALL.tokens / 2
    assert ours["gemm_share"] == pytest.approx(SMALL.flops / 2 / 1e9 / 30)


def test_memory_that_the_system_does_not_tell_is_left_out() -> None:
    runs = {"ours": [run_of([1], None)], "torch": [run_of([1], None)]}
    found = summary.summarize(SMALL, runs)
    assert found["sides"]["ours"]["peak_mib"] is None
    assert found["ratios"]["torch"]["memory"] is None


def sides(losses: list[float], norms: list[float]) -> dict[str, list[float]]:
    return {"losses": losses, "grad_norms": norms}


def test_agreement_reports_the_largest_difference() -> None:
    found = summary.check_agreement(sides([2.0, 1.0], [1.0, 1.0]), sides([2.0, 1.00001], [1.0, 1.0]), "float32")
    assert found["largest_relative_difference"]["losses"] == pytest.approx(1e-5, rel=1e-3)
    assert found["largest_relative_difference"]["grad_norms"] == 0


@pytest.mark.parametrize(
    "ours, theirs, message",
    [
        (sides([2.0], [1.0]), sides([2.001], [1.0]), "losses of step 0 are 2.0 .ours. and 2.001"),
        (sides([2.0, 1.0], [1.0, 1.0]), sides([2.0, 1.0], [1.0, 1.1]), "grad_norms of step 1"),
        (sides([float("nan")], [1.0]), sides([float("nan")], [1.0]), "losses of step 0"),
        (sides([2.0], [1.0]), sides([2.0, 1.0], [1.0, 1.0]), "losses: 1 steps on our side, 2 on theirs"),
    ],
)
def test_sides_that_do_not_agree_are_not_timed(ours: dict, theirs: dict, message: str) -> None:
    with pytest.raises(process.BenchmarkError, match=message):
        summary.check_agreement(ours, theirs, "float32")


def test_flatness() -> None:
    flat = summary.flatness([50.0] * 5 + [100.0] * 100, 10, 1.0)
    assert flat["flat"]
    assert flat["growth_mib"] == 0
    assert flat["kib_per_step"] == pytest.approx(0)
    leak = summary.flatness([100 + 0.5 * step for step in range(100)], 10, 1.0)
    assert not leak["flat"]
    assert leak["kib_per_step"] == pytest.approx(512)
    with pytest.raises(process.BenchmarkError, match="at least 20 steps"):
        summary.flatness([1.0] * 15, 10, 1.0)


def test_timing_counts_blocks_and_leaves_out_the_warm_up() -> None:
    seen: list[int] = []
    waits: list[int] = []
    found = worker.time_steps(seen.append, warmup=2, steps=5, block=2, synchronize=lambda: waits.append(len(seen)))
    assert seen == list(range(7))
    assert len(found["seconds"]) == 3  # 2 + 2 + 1
    assert waits == [1, 2, 4, 6, 7]
    assert found["first_seconds"] is not None


def test_memory_readings_follow_what_is_held() -> None:
    before = worker.peak_mib()
    if before is None:
        pytest.skip("this system does not tell a process its peak memory")
    held = np.ones(8 * 2**20)  # 64 MiB
    assert worker.peak_mib() >= before
    if worker.resident_mib() is not None:
        assert worker.resident_mib() > held.nbytes / 2**20
        assert worker.peak_mib() >= worker.resident_mib() - 1


def test_both_sides_have_their_own_process_and_settings() -> None:
    plan = transformer.Plan(SMALL, textbook=True, threads=2, torch_env={"A": "1"})
    common = {"OMP_NUM_THREADS": "2"}
    assert plan.sides() == {
        "ours": ("ours", {**common, "TINYGRAD_EDU_KERNELS": "on"}),
        "torch": ("twin", {**common, "A": "1"}),
        "textbook": ("ours", {**common, "TINYGRAD_EDU_KERNELS": "off"}),
    }
    json.dumps(plan.job("steps"))


def test_every_kernel_has_a_case() -> None:
    from tinygrad_edu import losses, models, optim  # noqa: F401  (ops register as their modules load)
    from tinygrad_edu.backend.dispatch import registered_kernels, registered_ops

    assert {name for name, _, _, _ in registered_kernels("cpu")} <= set(ops.CASES)
    assert set(ops.CASES) <= set(registered_ops())


@pytest.mark.parametrize("name", sorted(ops.CASES))
def test_a_case_gives_what_its_op_takes(name: str) -> None:
    """Compared with itself, an op differs by nothing: the arguments fit, in-place ops get equal copies."""
    from tinygrad_edu.backend import registered_ops

    found = ops.compare(name, "float64", registered_ops()[name].reference, SMALL, repeats=1)
    assert found["difference"] == 0


@pytest.mark.parametrize(
    "a, b, difference",
    [
        (np.array([1.0, 2.0]), np.array([1.0, 4.0]), 0.5),
        (np.array([np.inf, 1.0]), np.array([np.inf, 1.0]), 0),
        (np.zeros(2), np.zeros(3), np.inf),
        ((np.ones(1), None), (np.ones(1), None), 0),
        (np.zeros(0), np.zeros(0), 0),
    ],
)
def test_largest_difference(a: object, b: object, difference: float) -> None:
    assert ops.largest_difference(a, b) == difference


def test_a_record_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["anything/run.py", "transformer", "--vocab", "20"])
    path = process.save("transformer-cpu", {"benchmark": "transformer"}, tmp_path / "new")
    record = json.loads(path.read_text())
    assert record["command"] == "python benchmarks/run.py transformer --vocab 20"
    assert record["benchmark"] == "transformer"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    (tmp_path / "file").write_text("")
    with pytest.raises(process.BenchmarkError, match="--output: the result could not be written"):
        process.save("x", {}, tmp_path / "file")


def test_a_failing_process_shows_its_error() -> None:
    with pytest.raises(process.BenchmarkError, match="(?s)'ours' ended with status 1.*KeyError: 'nonsense'"):
        process.run_worker("ours", {"job": "nonsense"})


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["transformer", "--d-model", "10", "--heads", "3"], "divisible by heads, got 10 and 3"),
        (["transformer", "--torch-env", "OOPS"], "NAME=VALUE"),
        (["generate", "--tokens", "300"], "must fit in --time 256"),
        (["gpt2", "--width", "10", "--heads", "3"], "width must be divisible by heads, got 10 and 3"),
        (["bert", "--dropout", "1"], "dropout must be in \\[0, 1\\), got 1.0"),
        (["generate-gpt2", "--tokens", "1020"], "together must be <= 1024, got 1028"),
        (["memory", "--steps", "200", "--skip", "195"], "must be at least --skip \\+ 10"),
    ],
)
def test_mistakes_on_the_command_line_are_told_at_once(arguments: list[str], message: str) -> None:
    done = cli(*arguments, "--no-save")
    assert done.returncode == 2
    text = " ".join(done.stderr.replace("│", " ").split())
    assert re.search(message, text), text


def test_both_sides_train_the_same_model(tmp_path: Path) -> None:
    """Same weights, same data: three steps of each side, with AdamW and clipping, agree in float64."""
    pytest.importorskip("torch")
    w = replace(SMALL, dtype="float64", clip_norm=0.5)
    plan = transformer.Plan(w)
    job = plan.job("losses", steps=3, weights=str(tmp_path / "weights"))
    ours, theirs = (process.run_worker(side, job) for side in ("ours", "twin"))
    found = summary.check_agreement(ours, theirs, "float64")
    assert found["largest_relative_difference"]["losses"] < 1e-8
    assert min(ours["grad_norms"]) > w.clip_norm  # so that clipping was at work


def test_pins_are_dropped_from_the_environment_and_recorded(monkeypatch):
    monkeypatch.setattr(process, "_dropped", {})
    monkeypatch.setattr(process.os, "environ", {"OPENBLAS_CORETYPE": "Haswell", "MKL_NUM_THREADS": "1", "HOME": "/a"})
    assert process.drop_pins() == {"MKL_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Haswell"}
    assert process.os.environ == {"HOME": "/a"}
    assert process.machine()["dropped_from_environment"]["OPENBLAS_CORETYPE"] == "Haswell"

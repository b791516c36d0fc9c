"""The benchmarks of images: what they count, and that all sides compute the same. Nothing here looks at a clock."""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
try:
    convolution = importlib.import_module("bench.convolution")
    layers = importlib.import_module("bench.layers")
    process = importlib.import_module("bench.process")
    transformer = importlib.import_module("bench.transformer")
    vision = importlib.import_module("bench.vision")
finally:
    sys.path.remove(BENCHMARKS)

Convolution, Pictures = convolution.Convolution, vision.Pictures
UNET = Pictures("unet", batch=3, size=32, base=4, outputs=2, dtype="float64")
RESNET = Pictures("resnet", batch=3, size=33, outputs=5, optimizer="sgd", dtype="float64")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "vit"}, "kind must be unet or resnet, got 'vit'"),
        ({"size": 24}, "size must be divisible by 16 for the U-Net, got 24"),
        ({"kind": "resnet", "size": 16}, "size must be >= 32 for ResNet-18, got 16"),
        ({"optimizer": "adam"}, "optimizer must be one of adamw, sgd, got 'adam'"),
        ({"dtype": "float16"}, "dtype must be float32 or float64, got 'float16'"),
    ],
)
def test_a_wrong_workload_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(UNET, **change)


def test_a_wrong_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of 3x3, 1x1, strided, got '5x5'"):
        Convolution("5x5")


@pytest.mark.parametrize("w", [UNET, RESNET, replace(RESNET, size=64)], ids=lambda w: f"{w.kind}-{w.size}")
def test_flops_are_those_that_torch_counts(w: Any) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    sys.path.insert(0, BENCHMARKS)
    try:
        twin = importlib.import_module("bench.vision_twin")
    finally:
        sys.path.remove(BENCHMARKS)
    trainer = twin.Trainer(w, False)
    with FlopCounterMode(display=False) as counter:
        trainer.model(torch.from_numpy(w.batches(1)[0][0]))
    assert w.flops == 3 * counter.get_total_flops()


def test_flops_of_a_convolution() -> None:
    assert Convolution("3x3").flops == 3 * 2 * 16 * 64 * 64 * 9 * 64 * 64
    assert Convolution("strided").flops * 4 == Convolution("3x3").flops
    assert Convolution("1x1", 2, 10, 3, 5).flops == 3 * 2 * 2 * 100 * 3 * 5


def test_everyone_gets_the_same_images() -> None:
    for w in (UNET, RESNET):
        for one, other in zip(w.batches(2), w.batches(2), strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
        assert (w.batches(2)[0][0] != w.batches(2)[1][0]).any()


@pytest.mark.parametrize("w", [UNET, RESNET], ids=lambda w: w.kind)
def test_all_sides_train_the_same_network(w: Any) -> None:
    """Three steps from the same weights, clipped, in both of torch's formats."""
    pytest.importorskip("torch")
    plan = vision.PicturePlan(replace(w, clip_norm=0.1), pairs=1, steps=1, warmup=1)
    record = vision.train(plan, lambda now: None)
    agreement = record["agreement"]
    assert agreement["largest_relative_difference"]["losses"] < 1e-8
    assert min(agreement["ours"]["grad_norms"]) > 0.1
    assert len(set(agreement["ours"]["losses"])) == transformer.AGREEMENT_STEPS
    assert record["runs"].keys() == {"ours", "torch", "torch channels-last"}
    assert len({run["parameters"] for own in record["runs"].values() for run in own}) == 1
    # Timed runs begin at each side's own weights. Torch's are the same in either format, and so is what it learns.
    plain, last = (record["runs"][name][0]["loss_last"] for name in ("torch", "torch channels-last"))
    assert plain == pytest.approx(last, rel=1e-8)
    assert record["summary"]["fastest_other"] in ("torch", "torch channels-last")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", convolution.KINDS)
def test_all_sides_compute_the_same_convolution(kind: str, dtype: str) -> None:
    pytest.importorskip("torch")
    w = Convolution(kind, 2, 9, 6, 4, dtype)
    plan = convolution.Plan(w)
    sides = convolution.in_both_formats(layers.sides_of(plan, "vision_ours", "vision_twin"))
    job = layers.job_of(plan, job="results", layer=asdict(w))
    prints = {side: process.run_worker(module, job, env) for side, (module, env) in sides.items()}
    for side in ("torch", "torch channels-last"):
        assert layers.check_agreement(prints["ours"], prints[side], dtype) < (1e-5 if dtype == "float32" else 1e-13)
    assert prints["ours"].keys() == {"y", "dx", "dweight", "dbias"}

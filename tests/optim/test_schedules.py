"""Learning-rate schedules: closed forms, torch's schedulers, edges, bad arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.optim import make_schedule, schedules
from tinygrad_edu.optim.schedules import SCHEDULES, constant, cosine, linear, noam

torch = pytest.importorskip("torch")


def torch_rates(make: Callable[[Any], Any], lr: float, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


LR = torch.optim.lr_scheduler
AGAINST_TORCH: list[tuple[str, Any, Callable[[Any], Any]]] = [
    ("constant", constant(0.3), lambda o: LR.ConstantLR(o, factor=1.0)),
    ("linear", linear(0.3, 20), lambda o: LR.LinearLR(o, 1.0, 0.0, total_iters=20)),
    ("linear-min", linear(0.3, 20, min_lr=0.03), lambda o: LR.LinearLR(o, 1.0, 0.1, total_iters=20)),
    ("cosine", cosine(0.3, 20), lambda o: LR.CosineAnnealingLR(o, T_max=20)),
    ("cosine-min", cosine(0.3, 20, min_lr=0.05), lambda o: LR.CosineAnnealingLR(o, T_max=20, eta_min=0.05)),
    ("warmup", constant(0.3, 4), lambda o: LR.LinearLR(o, 1 / 5, 1.0, total_iters=4)),
]


@pytest.mark.parametrize(("name", "ours", "theirs"), AGAINST_TORCH, ids=[row[0] for row in AGAINST_TORCH])
def test_rates_are_those_of_torch(name: str, ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose([ours(t) for t in range(21)], torch_rates(theirs, 0.3, 21), rtol=1e-12, atol=1e-17)


# schedule, {step: rate}
POINTS: list[tuple[str, Any, dict[int, float]]] = [
    ("constant", constant(0.2), {0: 0.2, 1: 0.2, 10**9: 0.2}),
    ("constant-zero", constant(0.0), {0: 0.0, 7: 0.0}),
    ("constant-warmup", constant(0.2, 3), {0: 0.05, 1: 0.1, 2: 0.15, 3: 0.2, 4: 0.2}),
    ("linear", linear(1.0, 10), {0: 1.0, 5: 0.5, 9: 0.1, 10: 0.0, 11: 0.0, 10**6: 0.0}),
    ("linear-warmup", linear(1.0, 10, 2, 0.2), {0: 1 / 3, 1: 2 / 3, 2: 1.0, 6: 0.6, 10: 0.2, 99: 0.2}),
    ("linear-all-warmup", linear(1.0, 3, 3, 0.1), {0: 0.25, 2: 0.75, 3: 1.0, 4: 0.1}),
    ("linear-one-step", linear(1.0, 1), {0: 1.0, 1: 0.0}),
    ("cosine", cosine(1.0, 8), {0: 1.0, 4: 0.5, 8: 0.0, 9: 0.0, 10**6: 0.0}),
    ("cosine-warmup", cosine(1.0, 12, 4, 0.2), {0: 0.2, 3: 0.8, 4: 1.0, 8: 0.6, 12: 0.2, 13: 0.2}),
    ("cosine-eighth", cosine(1.0, 8), {2: 0.5 * (1 + math.sqrt(0.5)), 6: 0.5 * (1 - math.sqrt(0.5))}),
    ("cosine-one-step", cosine(1.0, 1), {0: 1.0, 1: 0.0}),
    ("noam", noam(64, 4), {0: 1 / 64, 1: 2 / 64, 3: 4 / 64, 15: 1 / 32, 63: 1 / 64}),
    ("noam-factor", noam(64, 4, 2.0), {3: 8 / 64}),
    (
        "noam-by-name",
        make_schedule("noam", lr=0.5, total_steps=9, warmup_steps=4),
        {0: 0.125, 3: 0.5, 15: 0.25},
    ),
]


@pytest.mark.parametrize(("name", "schedule", "points"), POINTS, ids=[row[0] for row in POINTS])
def test_rates_at_known_steps(name: str, schedule: Any, points: dict[int, float]) -> None:
    for step, rate in points.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-12, abs=1e-15), step


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_every_schedule_rises_then_never_rises_again(name: str, warmup: int) -> None:
    schedule = make_schedule(name, lr=0.4, total_steps=40, warmup_steps=warmup, d_model=64)
    rates = [schedule(step) for step in range(60)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(0.4, rel=1e-12)
    assert rates[0] > 0, "the first step must not be wasted"
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("width", [1, 64, 512])
def test_noam_by_name_peaks_at_lr_whatever_the_width(width: int) -> None:
    schedule = make_schedule("noam", lr=0.01, total_steps=100, warmup_steps=10, d_model=width)
    assert max(schedule(t) for t in range(100)) == pytest.approx(0.01, rel=1e-12)
    assert schedule(9) == pytest.approx(0.01, rel=1e-12)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_by_name_is_the_same_schedule(name: str) -> None:
    ours = make_schedule(name, lr=0.3, total_steps=30, warmup_steps=3, min_lr=0.0)
    direct = getattr(schedules, name)(0.3, 3) if name == "constant" else getattr(schedules, name)(0.3, 30, 3)
    assert [ours(t) for t in range(35)] == [direct(t) for t in range(35)]


WRONG: list[tuple[str, Callable[[], Any], str]] = [
    ("lr-negative", lambda: constant(-0.1), "constant: lr must be a finite number >= 0, got -0.1"),
    ("lr-nan", lambda: cosine(math.nan, 10), "cosine: lr must be a finite number >= 0, got nan"),
    ("lr-inf", lambda: linear(math.inf, 10), "linear: lr must be a finite number >= 0, got inf"),
    ("warmup", lambda: constant(0.1, -1), "constant: warmup_steps must be >= 0, got -1"),
    ("total", lambda: linear(0.1, 0), "linear: total_steps must be >= 1 and >= warmup_steps 0, got 0$"),
    (
        "total-warmup",
        lambda: cosine(0.1, 5, 6),
        "cosine: total_steps must be >= 1 and >= warmup_steps 6, got 5; so short a run wants fewer",
    ),
    ("min-lr", lambda: cosine(0.1, 5, 0, 0.2), r"cosine: min_lr must be in \[0, lr = 0.1\], got 0.2"),
    ("min-lr-neg", lambda: linear(0.1, 5, 0, -0.2), r"linear: min_lr must be in \[0, lr = 0.1\], got -0.2"),
    ("noam-width", lambda: noam(0), "noam: .* got d_model=0, warmup_steps=4000, factor=1.0"),
    ("noam-warmup", lambda: noam(8, 0), "noam: .* got d_model=8, warmup_steps=0, factor=1.0"),
    ("noam-factor", lambda: noam(8, 1, math.nan), "noam: .* got d_model=8, warmup_steps=1, factor=nan"),
    ("name", lambda: make_schedule("cosin", lr=1, total_steps=1), "got 'cosin'. Did you mean 'cosine'?"),
    (
        "name-far",
        lambda: make_schedule("x", lr=1, total_steps=1),
        "must be one of constant, linear, cosine, noam",
    ),
]


@pytest.mark.parametrize(("what", "make", "message"), WRONG, ids=[row[0] for row in WRONG])
def test_bad_arguments_are_refused(what: str, make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()

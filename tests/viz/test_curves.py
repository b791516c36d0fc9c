"""Pictures: that they are drawn of what there is, and written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tinygrad_edu.errors import ConfigError, DataError
from tinygrad_edu.optim import make_schedule
from tinygrad_edu.viz import curves, plot_history, plot_learning_rate
from tinygrad_edu.viz.curves import smooth


def records() -> list[dict[str, Any]]:
    steps = range(10, 200, 10)
    common = {"event": "train", "grad_norm": 1.0, "learning_rate": 1e-3}
    found: list[dict[str, Any]] = [{**common, "step": step, "loss": 6 / step**0.3} for step in steps]
    found.append({"event": "skipped", "step": 55, "loss": None, "grad_norm": None})
    found.append({"event": "evaluation", "step": 100, "loss": 2.5})
    return found


@pytest.mark.parametrize(
    "chosen",
    [
        records(),
        [r for r in records() if r["event"] == "train"][:1],
        [r for r in records() if r["event"] == "evaluation"],
        [{**r, "grad_norm": 0.0} if r["event"] == "train" else r for r in records()],
        [
            *records(),
            {"event": "train", "step": 300, "loss": float("nan"), "grad_norm": 0.0, "learning_rate": 0.0},
        ],
    ],
    ids=["all", "one record", "evaluations alone", "no gradient", "nan"],
)
def test_the_picture(tmp_path: Path, chosen: list[dict[str, Any]]) -> None:
    path = plot_history(chosen, tmp_path / "loss.png", title="a $run_of$ & <letters>")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [p.name for p in tmp_path.iterdir()] == ["loss.png"]


def test_pictures_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"loss.png: no training or evaluation records to draw"):
        plot_history([], tmp_path / "loss.png")
    with pytest.raises(DataError, match=r"loss.txt: cannot be drawn: .*txt"):
        plot_history(records(), tmp_path / "loss.txt")
    with pytest.raises(DataError, match=r"none.loss.png: cannot be written: No such file"):
        plot_history(records(), tmp_path / "none" / "loss.png")
    assert list(tmp_path.iterdir()) == []


def test_smoothing_starts_at_the_first_value() -> None:
    assert smooth([4.0, 4.0, 4.0], 0.9) == pytest.approx([4.0, 4.0, 4.0])
    assert smooth([1.0, 3.0], 0.5) == pytest.approx([1.0, (0.25 * 1 + 0.5 * 3) / 0.75])
    assert smooth([1.0, 3.0], 0.0) == [1.0, 3.0]


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures, as they are about to be saved."""
    figures: list[Any] = []
    genuine = curves.save_figure
    monkeypatch.setattr(
        curves, "save_figure", lambda figure, *rest: (figures.append(figure), genuine(figure, *rest))[1]
    )
    return figures


def test_what_the_picture_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    plot_history(records(), tmp_path / "loss.png")
    top, bottom, norms = figures[0].axes
    raw, smoothed, validation = top.lines
    assert list(raw.get_xdata()) == list(range(10, 200, 10)) and list(validation.get_ydata()) == [2.5]
    assert next(iter(raw.get_ydata())) == 6 / 10**0.3 and len(smoothed.get_ydata()) == 19
    assert [text.get_text() for text in top.texts] == ["2.500"]
    assert set(bottom.lines[0].get_ydata()) == {1e-3} and set(norms.lines[0].get_ydata()) == {1.0}
    assert (bottom.get_xlabel(), top.get_ylabel()) == ("step", "loss")
    plot_history([{**record, "tokens": 1} for record in records()], tmp_path / "loss.png")
    assert figures[1].axes[0].get_ylabel() == "loss (nats per token)"


def test_records_without_rates_make_a_picture_of_the_loss_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = drawn(monkeypatch)
    plot_history([{"event": "train", "step": 1, "loss": 1.0}], tmp_path / "loss.svg")
    assert len(figures[0].axes) == 1 and figures[0].axes[0].get_xlabel() == "step"


def test_the_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    schedule = make_schedule("noam", lr=0.01, total_steps=50_000, warmup_steps=4000)
    path = plot_learning_rate(schedule, 50_000, tmp_path / "rate.png", done=100, title="a $rate$")
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    line, point = figures[0].axes[0].lines
    steps, rates = list(line.get_xdata()), list(line.get_ydata())
    assert (steps[0], steps[-1], len(steps)) == (1, 50_000, 2001)
    assert all(rate == schedule(int(step) - 1) for step, rate in zip(steps, rates, strict=True))
    assert list(point.get_xdata()) == [100] and list(point.get_ydata()) == [schedule(99)]
    plot_learning_rate(schedule, 3, tmp_path / "rate.png")
    assert list(figures[1].axes[0].lines[0].get_xdata()) == [1, 2, 3]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_a_learning_rate_of_no_steps(tmp_path: Path, steps: Any) -> None:
    with pytest.raises(ConfigError, match="plot_learning_rate: steps must be an integer >= 1"):
        plot_learning_rate(lambda step: 1.0, steps, tmp_path / "rate.png")
    with pytest.raises(DataError, match=r"none.rate.png: cannot be written: No such file"):
        plot_learning_rate(lambda step: 1.0, 3, tmp_path / "none" / "rate.png")

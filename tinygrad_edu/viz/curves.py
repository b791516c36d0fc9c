"""Pictures of a training run: loss over steps, with learning rate and gradient norm below; the learning rate alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from .figure import new_figure, put_title, save_figure

_TRAIN, _VALIDATION, _QUIET = "#4c78a8", "#e45756", "#6b7280"


def smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, without the pull to zero at its start.

    Parameters
    ----------
    values : in order
    weight : of the past, in [0, 1)
    """
    result, total, norm = [], 0.0, 0.0
    for value in values:
        total = weight * total + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        result.append(total / norm)
    return result


def plot_history(records: Iterable[Mapping[str, Any]], path: str | Path, *, title: str = "", dpi: int = 150) -> Path:
    """Draw the history of a run into a picture file.

    Parameters
    ----------
    records : as :func:`tinygrad_edu.training.history.read_history` gives them
    path : of the picture; its suffix decides the format (``.png``, ``.svg``, ``.pdf``)
    title : above the picture
    dpi : dots an inch

    Returns
    -------
    Path
        Of the picture, written whole or not at all.

    Raises
    ------
    DataError
        If there is nothing to draw, or the picture cannot be written.
    """
    path = Path(path)
    train, validation = _series(records)
    if not train and not validation:
        raise DataError(f"{path}: no training or evaluation records to draw")
    rates = [r for r in train if "learning_rate" in r and "grad_norm" in r]
    figure = new_figure(8.0, 5.4 if rates else 4.0)
    top, *below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1)) if rates else [figure.subplots()]
    _draw_loss(top, train, validation)
    put_title(top, title)
    if rates:
        _draw_rates(below[0], rates)
    (below or [top])[-1].set_xlabel("step")
    for axes in (top, *below):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines["top"].set_visible(False)
    return save_figure(figure, path, dpi)


def plot_learning_rate(
    schedule: Callable[[int], float],
    steps: int,
    path: str | Path,
    *,
    done: int | None = None,
    title: str = "",
    dpi: int = 150,
) -> Path:
    """Draw the course of a learning rate into a picture file; see :func:`plot_history` for how.

    Parameters
    ----------
    schedule : learning rate of a step, counted from 0
    steps : how many to draw
    path : of the picture; its suffix decides the format
    done : steps that have been taken, marked by a point; None for no mark
    title : above the picture
    dpi : dots an inch

    Returns
    -------
    Path
        Of the picture, written whole or not at all.

    Raises
    ------
    ConfigError
        If `steps` is below 1.
    DataError
        If the picture cannot be written.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"plot_learning_rate: steps must be an integer >= 1, got {steps!r}")
    figure = new_figure(8.0, 3.0)
    axes = figure.subplots()
    drawn = sorted({round(step * (steps - 1) / 2000) for step in range(2001)})  # no more points than can be seen
    axes.plot([step + 1 for step in drawn], [schedule(step) for step in drawn], color=_QUIET, linewidth=1.6)
    if done:
        axes.plot([done], [schedule(done - 1)], color=_VALIDATION, marker="o", markersize=5)
    put_title(axes, title)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.grid(alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return save_figure(figure, Path(path), dpi)


def _series(records: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    finite = [r for r in records if isinstance(r.get("loss"), int | float) and math.isfinite(r["loss"])]
    return [r for r in finite if r["event"] == "train"], [r for r in finite if r["event"] == "evaluation"]


def _draw_loss(axes: Any, train: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> None:
    if train:
        steps, losses = [r["step"] for r in train], [r["loss"] for r in train]
        axes.plot(steps, losses, color=_TRAIN, alpha=0.25, linewidth=0.8)
        weight = len(losses) / (len(losses) + 30)  # a longer run stands more smoothing without lagging
        axes.plot(steps, smooth(losses, weight), color=_TRAIN, linewidth=1.8, label="training (smoothed)")
    if validation:
        steps, losses = [r["step"] for r in validation], [r["loss"] for r in validation]
        axes.plot(steps, losses, color=_VALIDATION, marker="o", markersize=3.5, linewidth=1.4, label="validation")
        best = min(validation, key=lambda r: r["loss"])
        axes.annotate(
            f"{best['loss']:.3f}",
            (best["step"], best["loss"]),
            textcoords="offset points",
            xytext=(0, 10),
            ha="right",
            color=_VALIDATION,
            fontsize=9,
        )
    tokens = any("tokens" in r for r in train) or any("perplexity" in r for r in validation)
    axes.set_ylabel("loss (nats per token)" if tokens or not train else "loss")
    axes.legend(frameon=False, loc="upper right")
    axes.spines["right"].set_visible(False)


def _draw_rates(axes: Any, train: Sequence[Mapping[str, Any]]) -> None:
    steps = [r["step"] for r in train]
    axes.plot(steps, [r["learning_rate"] for r in train], color=_QUIET, linewidth=1.4)
    axes.set_ylabel("learning rate", color=_QUIET)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    norms = axes.twinx()
    norms.plot(steps, [r["grad_norm"] for r in train], color=_TRAIN, alpha=0.45, linewidth=0.8)
    norms.set_ylabel("gradient norm", color=_TRAIN)
    norms.spines["top"].set_visible(False)
    if any(r["grad_norm"] and r["grad_norm"] > 0 for r in train):
        norms.set_yscale("log")

"""The picture of a training run: loss over steps, with learning rate and gradient norm below."""

from __future__ import annotations

import io
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError

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

    Draws on a figure of its own: no pyplot, no window, no change of matplotlib's global settings.

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    train, validation = _series(records)
    if not train and not validation:
        raise DataError(f"{path}: no training or evaluation records to draw")
    figure = Figure(figsize=(8.0, 5.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_loss(top, train, validation)
    if title:
        top.set_title(title.replace("$", r"\$"), loc="left", fontsize=11, fontweight="bold")
    _draw_rates(bottom, train)
    for axes in (top, bottom):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines["top"].set_visible(False)
    buffer = io.BytesIO()
    kind = path.suffix.removeprefix(".") or "png"
    try:
        figure.savefig(buffer, format=kind, dpi=dpi)
    except ValueError as error:  # an unknown format
        raise DataError(f"{path}: cannot be drawn: {error}") from error
    _write(path, buffer.getvalue())
    return path


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
    axes.set_ylabel("loss (nats per token)")
    axes.legend(frameon=False, loc="upper right")
    axes.spines["right"].set_visible(False)


def _draw_rates(axes: Any, train: Sequence[Mapping[str, Any]]) -> None:
    steps = [r["step"] for r in train]
    axes.plot(steps, [r["learning_rate"] for r in train], color=_QUIET, linewidth=1.4)
    axes.set_ylabel("learning rate", color=_QUIET)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.set_xlabel("step")
    norms = axes.twinx()
    norms.plot(steps, [r["grad_norm"] for r in train], color=_TRAIN, alpha=0.45, linewidth=0.8)
    norms.set_ylabel("gradient norm", color=_TRAIN)
    norms.spines["top"].set_visible(False)
    if any(r["grad_norm"] and r["grad_norm"] > 0 for r in train):
        norms.set_yscale("log")


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error

"""Better designs without any training: gradient ascent on the noise that a picture begins with."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_edu.backend import Array, asarray, namespace, to_host
from tinygrad_edu.data.designs import GRAMMAR
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.models.diffusion import DDIMChain

from .decoder import meaning_of
from .finetuning import GrammarScore
from .making import Making
from .painting import fidelity_figures, grammar_figures, read
from .pictures import save_grid
from .sampling import FIELDS, first_examples, painter_of
from .networks import as_shown
from .pictures import image_tile
from .stages import Criterion

CRITERIA = (
    Criterion("latents whose score rose, of all = 1", "share_raised", ">", 0.999),
    Criterion("mean grammar score, by how much it rose", "grammar_rise", ">", 0.0),
)


def ascend(
    chain: Layer, judge: Layer, latent: Array, condition: Array, *, steps: int, rate: float, told: Any = None
) -> tuple[Array, Array, NDArray[Any]]:
    r"""Gradient ascent on latents, each by itself.

    A latent is normal noise of d numbers, whose length is :math:`\sqrt d` but for a few percent; noise of another
    length paints nothing that was learned. So each step goes along the gradient by `rate` times that length, and back
    to the length it had. Steps get shorter to the end; of all that was tried the best is kept.

    Parameters
    ----------
    chain : from latents (B, ...) and a condition to pictures
    judge : from pictures to (B,) scores
    latent : (B, ...)
    steps, rate : how many, and the length of the first as a share of the latent's
    told : called with the number of each step and the scores

    Returns
    -------
    best : (B, ...), the best latents
    scores : (B,) theirs
    path : (steps + 1, B) scores on the way
    """
    xp, axes = namespace(latent), tuple(range(1, latent.ndim))
    length = xp.sqrt((latent**2).sum(axis=axes, keepdims=True))
    best, best_scores, path = latent, None, []
    for step in range(steps + 1):
        scores = judge(chain(latent, condition))
        path.append(to_host(scores))
        if told is not None:
            told(step, path[-1])
        if best_scores is None:
            best_scores = scores
        better = (scores > best_scores).reshape(-1, *(1,) * len(axes))
        best, best_scores = xp.where(better, latent, best), xp.maximum(best_scores, scores)
        dlatent = chain.backward(judge.backward(xp.ones_like(scores)))
        chain.zero_grad()  # all weights are frozen
        if step < steps:
            slope = xp.sqrt((dlatent**2).sum(axis=axes, keepdims=True))
            stride = rate * (1 - step / steps) * length / xp.maximum(slope, 1e-12)
            latent = latent + stride * dlatent
            latent = latent * (length / xp.sqrt((latent**2).sum(axis=axes, keepdims=True)))
    return best, best_scores, np.stack(path)


def innovate(making: Making) -> None:
    """Improve the latents of some pictures; show and measure them before and after."""
    began, config = time.perf_counter(), making.config
    settings, painter = config.innovation, painter_of(making)
    test = first_examples(making.designs("test", FIELDS[1:]), settings.count)
    meaning = meaning_of(test)
    start = painter.noise(len(meaning), config.data.size, config.training.seed)
    chain = DDIMChain(
        making.decoder.guided(painter.guidance).eval(), making.decoder.sampler("ddim", steps=settings.sampling_steps)
    ).eval()
    judge = GrammarScore(making.reader).eval()

    def told(step: int, scores: NDArray[Any]) -> None:
        if step % 5 == 0 or step == settings.ascent_steps:
            making.say(f"step {step}/{settings.ascent_steps}: mean grammar score {scores.mean():.4f}")

    condition = asarray(meaning)
    best, _, path = ascend(
        chain, judge, asarray(start), condition, steps=settings.ascent_steps, rate=settings.rate, told=told
    )
    sampler = making.decoder.sampler("ddim", steps=settings.sampling_steps)
    net = making.decoder.guided(painter.guidance)
    pictures = [to_host(sampler.sample(net, None, condition, start=latent)) for latent in (asarray(start), best)]
    found = [read(making.reader, picture) for picture in pictures]
    before, after = (one["grammar"].mean(axis=1) for one in found)
    figures = {
        "share_raised": float((after > before).mean()),
        "least_rise": float((after - before).min()),
        "grammar_rise": float((after - before).mean()),
    }
    asked = {name: test[name] for name in ("goal", "format", "tone")}
    for suffix, one in zip(("_before", "_after"), found, strict=True):
        figures |= grammar_figures(one["grammar"], suffix)
        if len(meaning) > 2:
            figures |= {f"{name}{suffix}": value for name, value in fidelity_figures(one, asked).items()}
    if making.folder is not None:
        shown = slice(0, 16)
        rows = [[image_tile(as_shown(image)) for image in row[shown]] for row in pictures]
        save_grid(making.place("innovation.png", "Pictures before (above) and after, of the same meanings"), rows)
        _draw(making.place("ascent.png", "Grammar score of each latent over the steps of its ascent"), path)
    rows_of = zip(*(one["grammar"] for one in found), before, after, strict=True)
    table = {
        "title": "Each latent, before and after",
        "columns": ["latent", *(f"{name.replace('_', ' ')}" for name in GRAMMAR), "mean"],
        "rows": [
            [number + 1, *(f"{a:.3f} → {b:.3f}" for a, b in zip([*one, first], [*other, second], strict=True))]
            for number, (one, other, first, second) in enumerate(rows_of)
        ],
    }
    making.finish(
        figures,
        CRITERIA,
        f"{len(meaning)} latents of test designs' meanings, {settings.ascent_steps} steps through "
        f"{settings.sampling_steps} of DDIM",
        time.perf_counter() - began,
        (table,),
    )


def _draw(path: Any, scores: NDArray[Any]) -> None:
    """A line for each latent."""
    from tinygrad_edu.viz.figure import new_figure, put_title, save_figure

    figure = new_figure(7.0, 3.0)
    axes = figure.subplots()
    axes.plot(scores, color="#4c78a8", linewidth=0.8, alpha=0.5)
    axes.plot(scores.mean(axis=1), color="#b91c1c", linewidth=2.0)
    axes.set(xlabel="step", ylabel="mean of the four scores")
    put_title(axes, "Each latent, and their mean")
    save_figure(figure, path, dpi=100)

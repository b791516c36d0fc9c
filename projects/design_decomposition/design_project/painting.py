"""Painting designs with a trained decoder, and reading what was painted with the trained encoder and abstractor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_edu.backend import Generator, asarray, device_of, inference, to_host
from tinygrad_edu.data.designs import GRAMMAR, TONES
from tinygrad_edu.metrics import conditioning_fidelity, fid, pearson_correlation
from tinygrad_edu.models.diffusion import DiffusionProcess, draw_noise

from .networks import Reader

EXTRACTOR = "the project's encoder and abstractor, 512 features"
_AT_ONCE = 100


@dataclass(frozen=True)
class Painter:
    """A decoder and how it is asked.

    Attributes
    ----------
    process : the decoder
    steps, guidance : of DDIM and of classifier-free guidance
    batch : pictures at a time
    """

    process: DiffusionProcess
    steps: int
    guidance: float
    batch: int = _AT_ONCE

    def noise(self, count: int, size: int, seed: int) -> NDArray[np.float32]:
        """What `count` pictures begin with, (count, 3, size, size), on the host: the same for the same seed."""
        return to_host(draw_noise((count, 3, size, size), Generator(seed), "cpu"))

    def paint(
        self, meaning: NDArray[Any], *, size: int | None = None, seed: int = 0, start: NDArray[Any] | None = None
    ) -> NDArray[np.float32]:
        """Pictures (N, 3, S, S) in [-1, 1] of meanings (N, 11), from noise drawn by `seed`, or from `start`."""
        if start is None:
            assert size is not None
            start = self.noise(len(meaning), size, seed)
        sampler = self.process.sampler("ddim", steps=self.steps)
        net, done = self.process.guided(self.guidance), []
        device = device_of(next(self.process.parameters()).data)
        from tinygrad_edu import use

        with use(device):
            for at in range(0, len(meaning), self.batch):
                rows = slice(at, at + self.batch)
                done.append(to_host(sampler.sample(net, None, asarray(meaning[rows]), start=asarray(start[rows]))))
        return np.concatenate(done)


def read(reader: Reader, pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What the frozen networks say of pictures (N, 3, S, S) in [-1, 1].

    Returns
    -------
    dict of ``grammar`` (N, 4), ``goal`` and ``format`` (N,) classes, ``tone`` (N, 3), ``features`` (N, 512)
    """
    parts: dict[str, list[Any]] = {}
    with inference():
        for at in range(0, len(pictures), _AT_ONCE):
            x = asarray(pictures[at : at + _AT_ONCE])
            answers = {**reader(x), "features": reader.features(x)}
            for name, values in answers.items():
                parts.setdefault(name, []).append(to_host(values))
    found = {name: np.concatenate(values) for name, values in parts.items()}
    return found | {name: found[name].argmax(axis=1) for name in ("goal", "format")}


def grammar_figures(grammar: NDArray[Any], suffix: str = "") -> dict[str, float]:
    """Mean scores of grammar (N, 4), and their mean: of each design first, so that its spread could be told."""
    figures = {f"{name}{suffix}": float(score) for name, score in zip(GRAMMAR, grammar.mean(axis=0), strict=True)}
    return {f"grammar{suffix}": float(grammar.mean()), **figures}


def fidelity_figures(found: dict[str, Any], asked: dict[str, Any]) -> dict[str, float]:
    """How often goal and format are read off the pictures as they were asked for, chance beside; and the tone."""
    classes = ("goal", "format")
    matched = conditioning_fidelity(
        {name: found[name] for name in classes}, {name: asked[name] for name in classes}, name=EXTRACTOR
    )
    figures = {}
    for name, fidelity in matched.items():
        figures |= {f"{name}_fidelity": fidelity.accuracy, f"{name}_chance": fidelity.chance}
    tone = pearson_correlation(found["tone"], asked["tone"], each=True)
    return figures | {f"{name}_correlation": float(r) for name, r in zip(TONES, tone, strict=True)}


def distance_figures(real: NDArray[Any], other: NDArray[Any], name: str) -> dict[str, float]:
    """The Fréchet distance of features."""
    return {name: float(fid(list(_chunks(real)), list(_chunks(other)), lambda features: features, name=EXTRACTOR))}


def _chunks(features: NDArray[Any]) -> list[NDArray[Any]]:
    return [features[at : at + 256] for at in range(0, len(features), 256)]


def likeness(features: NDArray[Any]) -> dict[str, float]:
    """How far apart pictures of one meaning are beside pictures of several, as distances of features.

    Parameters
    ----------
    features : (groups, each, D), of pictures of one meaning in a group
    """
    groups, each, _ = features.shape
    flat = features.reshape(groups * each, -1).astype(np.float64)
    square = (flat**2).sum(axis=1)
    apart = np.sqrt(np.maximum(square[:, None] + square - 2 * flat @ flat.T, 0))
    group = np.repeat(np.arange(groups), each)
    same, itself = group[:, None] == group, np.eye(len(flat), dtype=bool)
    return {
        "distance_same_meaning": float(apart[same & ~itself].mean()),
        "distance_other_meaning": float(apart[~same].mean()),
    }

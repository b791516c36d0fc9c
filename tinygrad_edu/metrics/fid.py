"""How good generated pictures are, as one network sees them: FID, Inception Score, and whether they are what was asked.

Each of these figures is one of the pictures *and* of the network that looks at them: a figure under one extractor
cannot be compared with one under another. So a result carries the extractor's name, and how many pictures there were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import to_host
from ..errors import ConfigError, ShapeError
from .checks import integers, real
from .distance import FeatureStatistics, distance_of

_SUM_TOLERANCE = 1e-3  # of float32 probabilities of many classes

Extractor = Callable[[Any], Any]


@dataclass(frozen=True)
class FrechetDistance:
    """A Fréchet distance, and of what; ``float(result)`` is the number.

    Attributes
    ----------
    value : the squared distance
    extractor : name of what made the features
    features : how many numbers a feature has
    samples : how many pictures of either side
    """

    value: float
    extractor: str
    features: int
    samples: tuple[int, int]

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        first, second = self.samples
        return (
            f"FID {self.value:.2f} under {self.extractor} ({self.features} features, {first:,} and {second:,} pictures)"
        )


def fid(real_images: Any, generated: Any, extractor: Extractor, *, name: str, batch_size: int = 256) -> FrechetDistance:
    """Fréchet inception distance (Heusel et al., 2017), under any extractor.

    Parameters
    ----------
    real_images, generated : arrays of pictures (N, ...); or iterables of batches; or
        :class:`~tinygrad_edu.metrics.FeatureStatistics`, so that those of the real ones need be made but once
    extractor : makes features (B, D) of a batch of pictures
    name : of the extractor, such as ``"digits classifier, 64 features"``; "FID" alone means Inception v3's 2,048
    batch_size : pictures at a time

    Raises
    ------
    ConfigError, ShapeError, DtypeError, NonFiniteError
        And what the extractor raises.

    Warns
    -----
    UserWarning
        If there are no more pictures than features.
    """
    _check_name(name)
    first = feature_statistics(real_images, extractor, batch_size)
    second = feature_statistics(generated, extractor, batch_size)
    return FrechetDistance(distance_of(first, second), name, first.dim, (first.count, second.count))


def feature_statistics(images: Any, extractor: Extractor, batch_size: int = 256) -> FeatureStatistics:
    """Mean and covariance of the features of pictures, a batch at a time; arguments as of :func:`fid`."""
    if isinstance(images, FeatureStatistics):
        return images
    statistics = FeatureStatistics()
    for batch in _batches(images, batch_size):
        features = np.asarray(to_host(extractor(batch)))
        if len(features) != len(batch):
            raise ShapeError(f"extractor: gave {len(features)} features for {len(batch)} pictures")
        statistics.add(features)
    return statistics


@dataclass(frozen=True)
class InceptionScore:
    """An Inception Score, and of what; ``float(result)`` is the mean over splits.

    Attributes
    ----------
    mean, std : over the splits
    splits : how many
    classifier : name of what gave the probabilities
    samples : how many pictures
    """

    mean: float
    std: float
    splits: int
    classifier: str
    samples: int

    def __float__(self) -> float:
        return self.mean

    def __str__(self) -> str:
        return (
            f"Inception Score {self.mean:.2f} ± {self.std:.2f} under {self.classifier} "
            f"({self.samples:,} pictures, {self.splits} splits)"
        )


def inception_score(
    images: Any, classifier: Extractor, *, name: str, splits: int = 10, batch_size: int = 256
) -> InceptionScore:
    """Inception Score (Salimans et al., 2016), under any classifier; of pictures or batches of them.

    Parameters
    ----------
    classifier : makes probabilities (B, classes) of a batch of pictures
    others : as of :func:`fid` and :func:`inception_score_of`
    """
    _check_name(name)
    parts = [np.asarray(to_host(classifier(batch))) for batch in _batches(images, batch_size)]
    if not parts:
        raise ShapeError("images: none, wanted at least one picture")
    mean, std = inception_score_of(np.concatenate(parts), splits)
    return InceptionScore(mean, std, splits, name, sum(map(len, parts)))


def inception_score_of(probabilities: NDArray[Any], splits: int = 10) -> tuple[float, float]:
    r"""Mean and standard deviation over splits of the Inception Score of class probabilities.

    .. math:: \exp\, \frac1N \sum_n \sum_c p_{nc} \log \frac{p_{nc}}{\bar p_c}

    between 1, where every picture has the same probabilities, and the number of classes, where each picture is
    surely of one class and all classes are equally frequent.

    Parameters
    ----------
    probabilities : (N, classes), rows that sum to 1
    splits : how many parts, in order, each scored by itself; from 1 to N

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
    ConfigError
        If a row is no distribution (logits, for example), or there are more splits than pictures.
    """
    p = real("probabilities", probabilities)
    if p.ndim != 2 or not p.size:
        raise ShapeError(f"probabilities: shape {p.shape}, wanted (pictures, classes)")
    if isinstance(splits, bool) or not isinstance(splits, int) or not 1 <= splits <= len(p):
        raise ConfigError(f"splits: {splits!r}, wanted an integer from 1 to the number of pictures, {len(p)}")
    wrong = np.flatnonzero((p.min(axis=1) < 0) | (np.abs(p.sum(axis=1) - 1) > _SUM_TOLERANCE))
    if wrong.size:
        row = p[wrong[0]]
        raise ConfigError(
            f"probabilities: row {wrong[0]} sums to {row.sum():.6g} with a least entry of {row.min():.6g}, "
            "wanted a distribution: no entry below 0, sum 1 (are these logits?)"
        )
    scores = [np.exp(_divergence(part).mean()) for part in np.array_split(p, splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _divergence(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of each row from the mean of all; 0 log 0 is 0."""
    ratio = np.where(p > 0, p, 1) / np.where(p > 0, p.mean(axis=0), 1)
    return np.asarray((p * np.log(ratio)).sum(axis=1))


@dataclass(frozen=True)
class Fidelity:
    """How often pictures are what was asked for, in one attribute.

    Attributes
    ----------
    accuracy : share of the pictures in which the classifier finds what was asked
    chance : the share that would come of pictures that know nothing of what was asked: of what was found, in any
        other order
    classifier : name of what looked
    samples : how many pictures
    """

    accuracy: float
    chance: float
    classifier: str
    samples: int

    def __float__(self) -> float:
        return self.accuracy

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.1%} as asked, {self.chance:.1%} by chance, under {self.classifier} "
            f"({self.samples:,} pictures)"
        )


def conditioning_fidelity(
    found: Mapping[str, NDArray[Any]], asked: Mapping[str, NDArray[Any]], *, name: str
) -> dict[str, Fidelity]:
    r"""How often a trained classifier finds in generated pictures what they were conditioned on, by attribute.

    Beside each accuracy stands chance, :math:`\sum_c P(\text{found} = c)\,P(\text{asked} = c)`: what the same
    findings would come to if they had nothing to do with what was asked.

    Parameters
    ----------
    found, asked : for each attribute the classes of all pictures, integers (N,); the same attributes
    name : of the classifier. What it gets right on real pictures is the highest that can be expected

    Raises
    ------
    ConfigError
        If the attributes differ, or there are none.
    ShapeError, DtypeError
    """
    _check_name(name)
    if not asked or set(found) != set(asked):
        raise ConfigError(f"found: attributes {sorted(found)}, wanted those that were asked for, {sorted(asked)}")
    result = {}
    for attribute in asked:
        mine, theirs = np.asarray(found[attribute]), np.asarray(asked[attribute])
        if mine.ndim != 1 or mine.shape != theirs.shape or not mine.size:
            raise ShapeError(
                f"found[{attribute!r}], asked[{attribute!r}]: shapes {mine.shape} and {theirs.shape}, "
                "wanted the same (pictures,)"
            )
        mine, theirs = integers(f"found[{attribute!r}]", mine), integers(f"asked[{attribute!r}]", theirs)
        chance = sum(float((mine == c).mean() * (theirs == c).mean()) for c in np.unique(theirs))
        result[attribute] = Fidelity(float((mine == theirs).mean()), chance, name, mine.size)
    return result


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"name: {name!r}, wanted that of the network, which the figure means nothing without")


def _batches(images: Any, batch_size: int) -> Iterator[Any]:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size: {batch_size!r}, wanted an integer >= 1")
    if hasattr(images, "shape"):
        for start in range(0, len(images), batch_size):
            yield images[start : start + batch_size]
    elif isinstance(images, Iterable):
        yield from images
    else:
        raise ConfigError(f"images: {type(images).__name__}, wanted an array of pictures, or batches of them")

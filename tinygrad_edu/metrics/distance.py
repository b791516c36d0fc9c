"""Statistics of features, and the Fréchet distance between two clouds of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ShapeError
from .checks import real

_ROUNDING = 1e-8  # of the largest eigenvalue: a covariance may have that much below zero


class FeatureStatistics:
    """Mean and covariance of features, batch by batch, in float64.

    Each batch brings its own mean and squares, which are joined by the formula of Chan, Golub & LeVeque (1983): the
    sum of squares about a mean that moves. The short way, a sum of squares less the square of a sum, cancels to
    nothing where a mean is large beside its deviation.

    Attributes
    ----------
    count : features added
    mean : (D,)

    Examples
    --------
    >>> statistics = FeatureStatistics()
    >>> statistics.add(np.array([[1.0, 0.0], [3.0, 4.0]]))
    >>> statistics.mean.tolist(), statistics.covariance.tolist()
    ([2.0, 2.0], [[2.0, 4.0], [4.0, 8.0]])
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros((0, 0))  # sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: NDArray[Any]) -> FeatureStatistics:
        """Those of one array, (N, D)."""
        statistics = cls()
        statistics.add(features)
        return statistics

    @property
    def dim(self) -> int:
        """D, how many numbers a feature has; 0 before any was added."""
        return len(self.mean)

    def add(self, features: NDArray[Any]) -> None:
        """Add a batch, (N, D).

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            For features that have not two axes, or not the D of those before; or that are no finite numbers.
        """
        batch = real("features", features)
        if batch.ndim != 2 or not batch.shape[1]:
            raise ShapeError(f"features: shape {batch.shape}, wanted (images, features)")
        if self.count and batch.shape[1] != self.dim:
            raise ShapeError(f"features: {batch.shape[1]} a row, wanted {self.dim} as before")
        if not len(batch):
            return
        if not self.count:
            self.mean = np.zeros(batch.shape[1])
            self._squares = np.zeros((batch.shape[1], batch.shape[1]))
        total = self.count + len(batch)
        own_mean = batch.mean(axis=0)
        centred, step = batch - own_mean, own_mean - self.mean
        self._squares += centred.T @ centred + np.outer(step, step) * (self.count * len(batch) / total)
        self.mean = self.mean + step * (len(batch) / total)
        self.count = total

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(D, D), with N - 1 below, as ``numpy.cov`` has it.

        Raises
        ------
        ConfigError
            For less than two features: they have no covariance.
        """
        if self.count < 2:
            raise ConfigError(f"features: {self.count} added, wanted at least 2 for a covariance")
        return self._squares / (self.count - 1)


def frechet_distance(
    mean1: NDArray[Any], covariance1: NDArray[Any], mean2: NDArray[Any], covariance2: NDArray[Any]
) -> float:
    r"""Squared Fréchet distance of two normal distributions (Dowson & Landau, 1982).

    .. math:: d^2 = |\mu_1 - \mu_2|^2 + \mathrm{tr}\,\Sigma_1 + \mathrm{tr}\,\Sigma_2
                    - 2\,\mathrm{tr}\,(\Sigma_1^{1/2}\,\Sigma_2\,\Sigma_1^{1/2})^{1/2}

    The last root is that of :math:`A A^\top` with :math:`A = \Sigma_1^{1/2}\,\Sigma_2^{1/2}`, so its trace is the sum
    of A's singular values. Nothing is squared and rooted again, no root of a matrix that is not symmetric is taken,
    and singular covariances (fewer samples than features) need no noise added to them. The distance of a
    distribution from itself comes to rounding, 1e-12 of its trace or less.

    Parameters
    ----------
    mean1, mean2 : (D,)
    covariance1, covariance2 : (D, D), symmetric, with no negative eigenvalue

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
    ConfigError
        If a covariance is none.
    """
    m1, m2 = real("mean1", mean1), real("mean2", mean2)
    c1, c2 = real("covariance1", covariance1), real("covariance2", covariance2)
    if m1.ndim != 1 or not m1.size or m1.shape != m2.shape:
        raise ShapeError(f"mean1, mean2: shapes {m1.shape} and {m2.shape}, wanted the same (features,)")
    for name, c in (("covariance1", c1), ("covariance2", c2)):
        if c.shape != 2 * m1.shape:
            raise ShapeError(f"{name}: shape {c.shape}, wanted {2 * m1.shape}, as the means are {m1.shape}")
    root = _root("covariance1", c1) @ _root("covariance2", c2)
    shared = np.linalg.svd(root, compute_uv=False).sum()
    distance = ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * shared
    return max(float(distance), 0.0)


def distance_of(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """:func:`frechet_distance` of the normal distributions with these means and covariances.

    Warns
    -----
    UserWarning
        If there are no more samples than features: the covariance is then singular, and the distance, which is
        biased upwards for any finite number of samples, says more about their number than about the pictures.

    Raises
    ------
    ConfigError, ShapeError
        For less than two samples, or features of two lengths.
    """
    if first.dim != second.dim:
        raise ShapeError(f"features: {first.dim} and {second.dim} a row, wanted as many")
    few = min(first.count, second.count)
    if few <= first.dim:
        warnings.warn(
            f"{few} samples for {first.dim} features: their covariance is singular, and the distance is mostly due to "
            "their number; take more than there are features, ten times as many if you can",
            stacklevel=2,
        )
    return frechet_distance(first.mean, first.covariance, second.mean, second.covariance)


def _root(name: str, covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric square root, by eigenvalues."""
    size = float(np.abs(covariance).max())
    if np.abs(covariance - covariance.T).max() > _ROUNDING * size:
        raise ConfigError(f"{name}: not symmetric, wanted a covariance")
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    if values[0] < -_ROUNDING * max(values[-1], 0.0) - np.finfo(float).tiny:
        raise ConfigError(f"{name}: an eigenvalue is {values[0]:.3g}, wanted none below 0: it is no covariance")
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)

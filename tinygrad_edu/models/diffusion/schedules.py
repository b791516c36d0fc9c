"""Noise schedules: how much of a picture is left, and how much noise has come, at each time of the diffusion."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backend import Array, asarray, device_of, namespace, to_host, use
from ...errors import ConfigError, DtypeError, RangeError, ShapeError, did_you_mean, format_shape

Times = Any
"""Times of a batch: one integer for all of it, or (B,) integers. Best on the host: see :func:`check_times`."""

_LEFT_AT_THE_END = 0.1  # of the picture's amplitude; with more, sampling from pure noise starts where no training was


def linear_betas(steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> NDArray[np.float64]:
    r"""Variances that rise linearly (Ho et al., 2020), :math:`\beta_t = \beta_0 + t\,(\beta_{T-1} - \beta_0)/(T-1)`.

    The default ends are for 1000 steps; for fewer, :math:`\beta` must be larger in proportion (1000/T times as
    large), or the last picture is not pure noise.

    Raises
    ------
    ConfigError
        Unless steps >= 1 and 0 < start <= end < 1.
    """
    _check_steps("linear_betas", steps)
    if not (is_number(start) and is_number(end) and 0 < start <= end < 1):
        raise ConfigError(f"linear_betas: 0 < start <= end < 1 is wanted, got start {start!r} and end {end!r}")
    return np.linspace(start, end, steps)


def cosine_betas(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NDArray[np.float64]:
    r"""Variances under which the picture goes as a squared cosine (Nichol & Dhariwal, 2021).

    .. math:: \bar\alpha(u) = \cos^2\!\Big(\frac{u + s}{1 + s}\,\frac\pi2\Big), \qquad
              \beta_t = \min\!\Big(1 - \frac{\bar\alpha((t+1)/T)}{\bar\alpha(t/T)},\; \beta_{max}\Big)

    Under the linear schedule small pictures are noise long before the end; this one spends its steps more evenly,
    and it fits any number of them.

    Raises
    ------
    ConfigError
        Unless steps >= 1, offset >= 0 and 0 < max_beta < 1.
    """
    _check_steps("cosine_betas", steps)
    if not is_number(offset) or offset < 0:
        raise ConfigError(f"cosine_betas: offset must be a number >= 0, got {offset!r}")
    if not is_number(max_beta) or not 0 < max_beta < 1:
        raise ConfigError(f"cosine_betas: max_beta must be in (0, 1), got {max_beta!r}")
    u = np.arange(steps + 1) / steps
    alphas_bar = np.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    return np.minimum(1 - alphas_bar[1:] / alphas_bar[:-1], max_beta)


def _check_steps(name: str, steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"{name}: steps must be an integer >= 1, got {steps!r}")


class NoiseSchedule:
    r"""What a sequence of variances :math:`\beta_t` makes of a picture; all numbers in float64, on the host.

    One step of the diffusion mixes in a little noise, :math:`q(x_t \mid x_{t-1}) = N(\sqrt{1-\beta_t}\,x_{t-1},
    \beta_t)`. With :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)` all steps up to t are one:

    .. math:: x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon, \qquad \epsilon \sim N(0, 1)

    Times run from 0 (one step of noise) to T - 1 (all of them), as in the code of Ho et al. and in `diffusers`; the
    picture itself has the time -1.

    Parameters
    ----------
    betas : (T,) variances in (0, 1)

    Attributes
    ----------
    steps : int, T
    betas, alphas_bar, snr : (T,) float64; the last is :math:`\bar\alpha_t / (1 - \bar\alpha_t)`, the ratio of signal
        to noise

    Raises
    ------
    ShapeError, ConfigError
        If `betas` is no list of numbers, or one is not in (0, 1).

    Warns
    -----
    UserWarning
        If more than a tenth of the picture is left at the end.

    Examples
    --------
    >>> schedule = make_noise_schedule("cosine", 1000)
    >>> x_t = schedule.add_noise(x0, t, noise)  # doctest: +SKIP
    """

    def __init__(self, betas: Any):
        betas = np.array(to_host(betas), dtype=np.float64)
        if betas.ndim != 1 or betas.size == 0:
            raise ShapeError(f"NoiseSchedule: betas must be (T,) with T >= 1, got {format_shape(betas.shape)}")
        wrong = np.flatnonzero(~((betas > 0) & (betas < 1)))
        if wrong.size:
            raise ConfigError(f"NoiseSchedule: betas must be in (0, 1), got {betas[wrong[0]]} at time {wrong[0]}")
        self.betas: NDArray[np.float64] = betas
        self.alphas_bar: NDArray[np.float64] = np.cumprod(1 - betas)
        self.snr: NDArray[np.float64] = self.alphas_bar / (1 - self.alphas_bar)
        # A last entry for the time -1, at which there is no noise: an index counted from the end finds it.
        self._alphas_bar: NDArray[np.float64] = np.append(self.alphas_bar, 1.0)
        left = math.sqrt(self.alphas_bar[-1])
        if left > _LEFT_AT_THE_END:
            warnings.warn(
                f"NoiseSchedule: after {self.steps} steps {left:.0%} of the picture's amplitude is left, but sampling "
                "starts from pure noise; use the cosine schedule, more steps, or larger betas",
                stacklevel=2,
            )

    @property
    def steps(self) -> int:
        return len(self.betas)

    def amplitudes(self, t: Times, x: Array) -> tuple[Any, Any]:
        r"""The factors :math:`\sqrt{\bar\alpha_t}` of the picture and :math:`\sqrt{1 - \bar\alpha_t}` of the noise.

        Parameters
        ----------
        t : an integer, or (B,) integers; -1 is the picture without noise
        x : (B, ...), whose device, type and number of axes the factors take

        Returns
        -------
        two floats, or two arrays (B, 1, ...)
        """
        alphas_bar = self._alphas_bar[t]
        return spread(np.sqrt(alphas_bar), x), spread(np.sqrt(1 - alphas_bar), x)

    def add_noise(self, x0: Array, t: Times, noise: Array) -> Array:
        r"""The picture at time t, :math:`x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon`.

        Parameters
        ----------
        x0, noise : (B, ...)
        t : an integer or (B,) integers in [0, T)

        Returns
        -------
        x_t : (B, ...)

        Raises
        ------
        ShapeError, DtypeError, RangeError
            If picture and noise have two shapes, or a time is none.
        """
        check_alike("add_noise", x0=x0, noise=noise)
        signal, amount = self.amplitudes(check_times("add_noise", t, self.steps, len(x0)), x0)
        return combine(signal, x0, amount, noise)

    def beta_between(self, t: Times, before: Times) -> Any:
        r"""The variance that comes in from time `before` to t, :math:`1 - \bar\alpha_t / \bar\alpha_{before}`."""
        return 1 - self._alphas_bar[t] / self._alphas_bar[before]

    def posterior_variance(self, t: Times, before: Times | None = None) -> Any:
        r"""Variance of :math:`q(x_{s} \mid x_t, x_0)` at an earlier time s, t - 1 if `before` is None.

        .. math:: \tilde\beta = \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t}\,
                  \Big(1 - \frac{\bar\alpha_t}{\bar\alpha_s}\Big)

        Returns
        -------
        float64, of the shape of t
        """
        before = t - 1 if before is None else before
        bar_t, bar_s = self._alphas_bar[t], self._alphas_bar[before]
        return (1 - bar_s) / (1 - bar_t) * self.beta_between(t, before)

    def posterior_mean(self, x0: Array, x_t: Array, t: Times, before: Times | None = None) -> Array:
        r"""Mean of :math:`q(x_s \mid x_t, x_0)`, where a picture that ends at :math:`x_t` was at an earlier time s.

        Both what is known of the beginning and of the end are normal, so by Bayes' rule their product is, with the
        mean (Ho et al., 2020, eq. 7; s = t - 1 if `before` is None)

        .. math:: \tilde\mu = \frac{\sqrt{\bar\alpha_s}\,\beta}{1 - \bar\alpha_t}\,x_0
                  + \frac{\sqrt{\bar\alpha_t / \bar\alpha_s}\,(1 - \bar\alpha_s)}{1 - \bar\alpha_t}\,x_t, \qquad
                  \beta = 1 - \bar\alpha_t / \bar\alpha_s

        Parameters
        ----------
        x0, x_t : (B, ...)
        t, before : integers, or (B,) integers; `before` >= -1 and less than t

        Returns
        -------
        (B, ...)
        """
        check_alike("posterior_mean", x0=x0, x_t=x_t)
        t = check_times("posterior_mean", t, self.steps, len(x0))
        before = t - 1 if before is None else before
        bar_t, bar_s, beta = self._alphas_bar[t], self._alphas_bar[before], self.beta_between(t, before)
        of_x0 = np.sqrt(bar_s) * beta / (1 - bar_t)
        of_x_t = np.sqrt(bar_t / bar_s) * (1 - bar_s) / (1 - bar_t)
        return combine(spread(of_x0, x0), x0, spread(of_x_t, x_t), x_t)

    def __repr__(self) -> str:
        return f"NoiseSchedule(steps={self.steps}, alphas_bar={self.alphas_bar[0]:.4g}..{self.alphas_bar[-1]:.3g})"


SCHEDULES: dict[str, Callable[..., NDArray[np.float64]]] = {"linear": linear_betas, "cosine": cosine_betas}


def make_noise_schedule(name: str = "cosine", steps: int = 1000, **options: float) -> NoiseSchedule:
    """A schedule by its name.

    Parameters
    ----------
    name : ``"linear"`` (:func:`linear_betas`) or ``"cosine"`` (:func:`cosine_betas`)
    steps : T
    options : ``start`` and ``end``, or ``offset`` and ``max_beta``

    Raises
    ------
    ConfigError
        For an unknown name or option, or a value out of range.
    """
    if name not in SCHEDULES:
        raise ConfigError(
            f"schedule: unknown name {name!r}, wanted one of {', '.join(SCHEDULES)}."
            f"{did_you_mean(str(name), SCHEDULES)}"
        )
    known = ("start", "end") if name == "linear" else ("offset", "max_beta")
    for option in options:
        if option not in known:
            raise ConfigError(
                f"schedule {name!r}: unknown option {option!r}, wanted {' or '.join(known)}."
                f"{did_you_mean(option, known)}"
            )
    return NoiseSchedule(SCHEDULES[name](steps, **options))


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number, and neither True nor False."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# -- times and factors ---------------------------------------------------------------------------------


def check_times(name: str, t: Times, steps: int, batch: int) -> Any:
    """The times t as a Python integer, or as int64 on the host, where the tables of a schedule are.

    Times that are on the host already cost no wait for a GPU.

    Raises
    ------
    DtypeError, ShapeError, RangeError
        Unless they are one integer or (batch,) integers, all in [0, steps).
    """
    if isinstance(t, bool) or (not hasattr(t, "dtype") and not isinstance(t, int | list | tuple)):
        raise DtypeError(f"{name}: t must be an integer or an array of integers, got {type(t).__name__}")
    times = np.asarray(t) if isinstance(t, int | list | tuple) else to_host(t)
    if times.dtype.kind not in "iu":
        raise DtypeError(f"{name}: t must be integers, got {times.dtype}")
    if times.shape not in ((), (batch,)):
        raise ShapeError(f"{name}: t must be one integer or ({batch},) as the batch, got {format_shape(times.shape)}")
    wrong = (times < 0) | (times >= steps)
    if wrong.any():
        found = int(times[wrong][0]) if times.ndim else int(times)
        where = f" at position {int(np.flatnonzero(wrong)[0])}" if times.ndim else ""
        raise RangeError(f"{name}: t must be in [0, {steps}), got {found}{where}")
    return int(times) if times.ndim == 0 else times.astype(np.int64)


def spread(factors: Any, x: Array) -> Any:
    """Factors of the host beside `x`: one number as a float, (B,) numbers as (B, 1, ...) of its type, on its device."""
    factors = np.asarray(factors)
    if factors.ndim == 0:
        return float(factors)
    with use(device_of(x)):
        return asarray(factors.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1)))


def combine(a: Any, x: Array, b: Any, y: Array) -> Array:
    """``a x + b y`` for factors that :func:`spread` gave, with no more temporaries than it takes."""
    if isinstance(a, float) and a == 0.0:
        return b * y
    z = a * x
    if not (isinstance(b, float) and b == 0.0):
        z += b * y
    return z


def check_alike(name: str, **arrays: Array) -> None:
    """Raise ShapeError unless all arrays have one shape (batch, ...), DeviceError unless they are on one device."""
    (first, x), *others = arrays.items()
    if not hasattr(x, "shape") or x.ndim < 1:
        raise ShapeError(f"{name}: {first} must be an array (batch, ...), got {_found(x)}")
    for other, y in others:
        if not hasattr(y, "shape") or tuple(y.shape) != tuple(x.shape):
            raise ShapeError(
                f"{name}: {first} and {other} must have one shape, got {format_shape(tuple(x.shape))} and {_found(y)}"
            )
    namespace(*arrays.values())  # arrays of two devices are an error


def _found(x: Any) -> str:
    return format_shape(tuple(x.shape)) if hasattr(x, "shape") else type(x).__name__

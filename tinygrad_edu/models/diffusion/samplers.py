"""From noise to pictures: ancestral sampling (DDPM) and the deterministic one in few steps (DDIM)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backend import Array, Generator, current_device, device_of, inference, namespace, to_device, use
from ...errors import ConfigError, NonFiniteError, ShapeError, did_you_mean, format_shape
from ...layers.base import Layer
from .predictions import check_prediction, noise_beside, split_prediction
from .schedules import NoiseSchedule, combine, is_number

SPACINGS = ("leading", "trailing", "linspace")


def sampling_times(steps_trained: int, steps: int, spacing: str = "leading") -> tuple[int, ...]:
    """The times that a sampler visits, the noisiest first.

    Parameters
    ----------
    steps_trained : T of the schedule
    steps : how many of them, n
    spacing : ``"leading"`` every (T // n)th from 0 on (it leaves out the noisiest), ``"trailing"`` every (T / n)th back
        from T - 1, ``"linspace"`` evenly from T - 1 to 0, both included. Names and numbers as in `diffusers` (table 2
        of Lin et al., 2023)

    Raises
    ------
    ConfigError
        Unless 1 <= steps <= steps_trained, or for an unknown spacing.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= steps_trained:
        raise ConfigError(
            f"sampler: steps must be an integer in [1, {steps_trained}] (those of training), got {steps!r}"
        )
    if spacing not in SPACINGS:
        raise ConfigError(
            f"sampler: unknown spacing {spacing!r}, wanted one of {', '.join(SPACINGS)}."
            f"{did_you_mean(str(spacing), SPACINGS)}"
        )
    if spacing == "leading":
        times = np.arange(steps) * (steps_trained // steps)
    elif spacing == "trailing":
        times = np.round(np.arange(steps_trained, 0, -steps_trained / steps))[:steps][::-1] - 1
    else:
        times = np.round(np.linspace(0, steps_trained - 1, steps))
    return tuple(int(t) for t in times[::-1])


def ddpm_step(
    schedule: NoiseSchedule, x0: Array, x_t: Array, t: int, before: int, fresh: Array | None, variance: str = "small"
) -> Array:
    r"""One ancestral step (Ho et al., 2020): a draw from :math:`q(x_s \mid x_t, x_0)` with the predicted picture.

    .. math:: x_s = \tilde\mu(x_0, x_t) + \sigma z, \qquad
              \sigma^2 = \tilde\beta \text{ (small) or } \beta \text{ (large)}

    The smaller is right for a single picture, the larger for pure noise; with many steps they hardly differ.

    Parameters
    ----------
    x0 : (B, ...) the picture as predicted; x_t : (B, ...)
    t, before : this time and the earlier one, -1 for the last step, which adds no noise
    fresh : z, (B, ...) normal numbers; not needed in the last step
    variance : ``"small"`` or ``"large"``
    """
    mean = schedule.posterior_mean(x0, x_t, t, before)
    if before < 0 or fresh is None:
        return mean
    spread = schedule.posterior_variance(t, before) if variance == "small" else schedule.beta_between(t, before)
    mean += math.sqrt(spread) * fresh
    return mean


def ddim_step(
    schedule: NoiseSchedule, x0: Array, noise: Array, t: int, before: int, eta: float = 0.0, fresh: Array | None = None
) -> Array:
    r"""One step of DDIM (Song, Meng & Ermon, 2021, eq. 12 and 16): mix the picture and the noise anew, with less noise.

    .. math:: x_s = \sqrt{\bar\alpha_s}\,x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\,\epsilon + \sigma z, \qquad
              \sigma = \eta\,\sqrt{\tilde\beta}

    With :math:`\eta = 0` nothing is drawn; with 1 it is :func:`ddpm_step` with the small variance.

    Parameters
    ----------
    x0, noise : (B, ...) as predicted
    t, before : this time and the earlier one, -1 for the last step
    eta : in [0, 1]
    fresh : z, (B, ...) normal numbers; not needed where eta is 0
    """
    sigma = eta * math.sqrt(schedule.posterior_variance(t, before))
    signal, amount = schedule.amplitudes(before, x0)
    direction = math.sqrt(max(amount**2 - sigma**2, 0.0))
    x = combine(signal, x0, direction, noise)
    if sigma > 0 and fresh is not None:
        x += sigma * fresh
    return x


@dataclass(frozen=True)
class SamplingState:
    """Where a sampler is.

    Attributes
    ----------
    step : how many steps are done, from 0 (pure noise) to `steps`
    steps : how many there are
    time : of `x` in the diffusion; -1 at the end
    x : (B, ...) the picture with the noise that is left
    x0 : (B, ...) the picture as the network sees it in there; None in the beginning
    """

    step: int
    steps: int
    time: int
    x: Array
    x0: Array | None


class Sampler(ABC):
    """What :class:`DDPMSampler` and :class:`DDIMSampler` share; they differ in :meth:`step`.

    Parameters
    ----------
    schedule : the one of training
    prediction : what the network predicts, ``"epsilon"``, ``"v"`` or ``"x0"``
    steps : how many; all those of training if None
    spacing : see :func:`sampling_times`
    clip : the predicted picture is kept within ±clip, where the data are; None for no limit. The noise is then what is
        left beside the clipped picture

    Attributes
    ----------
    times : the times it visits, the noisiest first
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        steps: int | None = None,
        *,
        spacing: str = "leading",
        clip: float | None = 1.0,
    ):
        check_prediction(prediction)
        if clip is not None and not (is_number(clip) and clip > 0):
            raise ConfigError(f"sampler: clip must be a number > 0 or None, got {clip!r}")
        self.schedule, self.prediction, self.clip = schedule, prediction, clip
        self.times = sampling_times(schedule.steps, schedule.steps if steps is None else steps, spacing)

    #: Whether steps draw fresh noise.
    draws = True

    @abstractmethod
    def step(self, x0: Array, noise: Array, x_t: Array, t: int, before: int, fresh: Array | None) -> Array:
        """From time t to the time `before`, given what the network says x_t is made of."""

    def split(self, output: Array, x_t: Array, t: int) -> tuple[Array, Array]:
        """Picture and noise as predicted, the picture clipped."""
        x0, noise = split_prediction(self.schedule, self.prediction, output, x_t, t)
        if self.clip is not None:
            x0 = x0.clip(-self.clip, self.clip)
            noise = noise_beside(self.schedule, x0, x_t, t)
        return x0, noise

    def iterate(
        self, net: Callable[..., Array], start: Array, condition: Any = None, *, generator: Generator | None = None
    ) -> Iterator[SamplingState]:
        """The states of sampling one by one: the noise, and what it is after each step.

        Parameters
        ----------
        net : ``net(x_t, t)`` with t (B,) integers, or ``net(x_t, t, condition)``; a layer runs in evaluation mode and
            keeps nothing for a backward pass
        start : (B, ...) normal numbers, pictures at the first of :attr:`times`
        condition : B rows of what the network was trained with, or None
        generator : draws the noise of the steps; a new one if None

        Raises
        ------
        ShapeError
            If the condition is not one row for each picture, or what the network returns is no picture.
        """
        if start.ndim < 2 or len(start) == 0:
            raise ShapeError(f"sampler: start must be (batch, ...), got {format_shape(tuple(start.shape))}")
        if condition is not None and len(condition) != len(start):
            raise ShapeError(f"sampler: {len(condition)} conditions for {len(start)} pictures; give one row for each")
        generator = Generator() if generator is None else generator
        x, steps = start, len(self.times)
        yield SamplingState(0, steps, self.times[0], x, None)
        for done, (t, before) in enumerate(zip(self.times, (*self.times[1:], -1), strict=True), start=1):
            output = self._ask(net, x, t, condition)
            x0, noise = self.split(output, x, t)
            fresh = None
            if self.draws and before >= 0:
                with use(device_of(x)):
                    fresh = generator.normal(*x.shape, dtype=x.dtype)
            x = self.step(x0, noise, x, t, before, fresh)
            yield SamplingState(done, steps, before, x, x0)

    @staticmethod
    def _ask(net: Callable[..., Array], x: Array, t: int, condition: Any) -> Array:
        times = namespace(x).full(len(x), t, dtype="int64")
        mode: AbstractContextManager[None] = net.evaluating() if isinstance(net, Layer) else nullcontext()
        with mode, inference():
            output = net(x, times) if condition is None else net(x, times, condition)
        if not hasattr(output, "shape") or tuple(output.shape) != tuple(x.shape):
            found = format_shape(tuple(output.shape)) if hasattr(output, "shape") else type(output).__name__
            raise ShapeError(
                f"sampler: the network must return what has the shape of its pictures, "
                f"{format_shape(tuple(x.shape))}, got {found}"
            )
        return output

    def sample(
        self,
        net: Callable[..., Array],
        shape: Sequence[int] | None = None,
        condition: Any = None,
        *,
        start: Array | None = None,
        seed: int | Generator | None = None,
        callback: Callable[[SamplingState], Any] | None = None,
    ) -> Array:
        """Pictures from noise.

        Parameters
        ----------
        net, condition : see :meth:`iterate`
        shape : (B, C, H, W), of noise that is drawn in the network's type, on its device
        start : the noise itself, instead of `shape`
        seed : of all that is drawn, so that the same seed gives the same pictures; or a generator
        callback : told of each state

        Returns
        -------
        (B, C, H, W)

        Raises
        ------
        ConfigError
            If not one of `shape` and `start` is given, or a length is none.
        NonFiniteError
            If the network gave NaN or infinity.
        """
        state = None
        for state in self._states(net, shape, condition, start, seed):
            if callback is not None:
                callback(state)
        assert state is not None
        return _finite(state.x)

    def strip(
        self,
        net: Callable[..., Array],
        shape: Sequence[int] | None = None,
        condition: Any = None,
        *,
        frames: int = 8,
        start: Array | None = None,
        seed: int | Generator | None = None,
        show: str = "x",
    ) -> Array:
        """How pictures come out of the noise: `frames` states, evenly spread, the noise first and the pictures last.

        Parameters
        ----------
        net, shape, condition, start, seed : see :meth:`sample`
        frames : at least 2
        show : ``"x"`` the pictures with their noise, ``"x0"`` what the network sees in them

        Returns
        -------
        (frames, B, C, H, W)
        """
        if isinstance(frames, bool) or not isinstance(frames, int) or not 2 <= frames <= len(self.times) + 1:
            raise ConfigError(f"strip: frames must be an integer in [2, {len(self.times) + 1}], got {frames!r}")
        if show not in ("x", "x0"):
            raise ConfigError(f"strip: show must be 'x' or 'x0', got {show!r}")
        wanted = {round(i * len(self.times) / (frames - 1)) for i in range(frames)}
        kept = [
            state.x if show == "x" or state.x0 is None else state.x0
            for state in self._states(net, shape, condition, start, seed)
            if state.step in wanted
        ]
        return _finite(namespace(kept[0]).stack(kept))

    def _states(
        self, net: Any, shape: Sequence[int] | None, condition: Any, start: Array | None, seed: int | Generator | None
    ) -> Iterator[SamplingState]:
        if (shape is None) == (start is None):
            raise ConfigError("sampler: give either shape, of the noise to begin with, or start, the noise itself")
        generator = seed if isinstance(seed, Generator) else Generator(seed)
        device, dtype = _home(net)
        if start is None:
            start = draw_noise(shape, generator, device, dtype)  # type: ignore[arg-type]
        if condition is not None:
            condition = to_device(condition, device_of(start))
        return self.iterate(net, start, condition, generator=generator)


def draw_noise(shape: Sequence[int], generator: Generator, device: str | None = None, dtype: Any = "float32") -> Array:
    """Normal numbers of `shape` on a device, to begin sampling with.

    Raises
    ------
    ConfigError
        If a length is no integer >= 1.
    """
    if (
        not isinstance(shape, Sequence)
        or len(shape) < 2
        or any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1 for n in shape)
    ):
        raise ConfigError(f"sampler: shape must be (batch, channels, height, width), integers >= 1, got {shape!r}")
    with use(current_device() if device is None else device):
        return generator.normal(*shape, dtype=dtype)


def _home(net: Any) -> tuple[str | None, Any]:
    """Device and type of the network's parameters; of nothing in particular if it has none."""
    first = next(net.parameters(), None) if isinstance(net, Layer) else None
    return (None, "float32") if first is None else (device_of(first.data), first.dtype)


def _finite(x: Array) -> Array:
    if not bool(namespace(x).isfinite(x).all()):
        raise NonFiniteError("sampler: the pictures hold NaN or infinity: the network gave such, or its weights are")
    return x


class DDPMSampler(Sampler):
    """Ancestral sampling (Ho et al., 2020): each step draws from what could have come before; see :func:`ddpm_step`.

    Parameters
    ----------
    schedule, prediction, steps, spacing, clip : see :class:`Sampler`. With fewer steps than those of training each
        bridges several (Nichol & Dhariwal, 2021)
    variance : ``"small"`` or ``"large"``

    Examples
    --------
    >>> sampler = DDPMSampler(make_noise_schedule("cosine"), "epsilon")  # doctest: +SKIP
    >>> pictures = sampler.sample(net, (16, 3, 32, 32), seed=0)  # doctest: +SKIP
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        steps: int | None = None,
        *,
        spacing: str = "leading",
        clip: float | None = 1.0,
        variance: str = "small",
    ):
        super().__init__(schedule, prediction, steps, spacing=spacing, clip=clip)
        if variance not in ("small", "large"):
            raise ConfigError(f"DDPMSampler: variance must be 'small' or 'large', got {variance!r}")
        self.variance = variance

    def step(self, x0: Array, noise: Array, x_t: Array, t: int, before: int, fresh: Array | None) -> Array:
        return ddpm_step(self.schedule, x0, x_t, t, before, fresh, self.variance)


class DDIMSampler(Sampler):
    """Sampling in few steps, by default without drawing anything on the way (Song et al., 2021); see :func:`ddim_step`.

    The picture is then a function of the noise it began with: near noise gives near pictures.

    Parameters
    ----------
    schedule, prediction, spacing, clip : see :class:`Sampler`
    steps : 20 to 100 usually suffice
    eta : in [0, 1]: how much noise is drawn anew at each step; 1 draws as much as DDPM

    Examples
    --------
    >>> sampler = DDIMSampler(make_noise_schedule("cosine"), "v", steps=50)  # doctest: +SKIP
    >>> pictures = sampler.sample(ClassifierFreeGuidance(net, 2.0), (16, 3, 32, 32), conditions)  # doctest: +SKIP
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        steps: int | None = 50,
        *,
        spacing: str = "trailing",
        clip: float | None = 1.0,
        eta: float = 0.0,
    ):
        super().__init__(schedule, prediction, steps, spacing=spacing, clip=clip)
        if not is_number(eta) or not 0 <= eta <= 1:
            raise ConfigError(f"DDIMSampler: eta must be a number in [0, 1], got {eta!r}")
        self.eta, self.draws = float(eta), eta > 0

    def step(self, x0: Array, noise: Array, x_t: Array, t: int, before: int, fresh: Array | None) -> Array:
        return ddim_step(self.schedule, x0, noise, t, before, self.eta, fresh)

"""Training a network to take noise away: the objective of DDPM around any network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...backend import Array, Generator, asarray, device_of, use
from ...errors import ConfigError, DataError, DtypeError, ShapeError, format_shape
from ...layers.base import Layer, check_probability
from ...losses import MeanSquaredError
from .guidance import ClassifierFreeGuidance, ask, first_of
from .predictions import check_prediction, prediction_target, snr_weight
from .samplers import DDIMSampler, DDPMSampler, Sampler
from .schedules import NoiseSchedule, Times, check_alike, check_times, is_number, make_noise_schedule


class DiffusionProcess(Layer):
    r"""A network and what it learns from: pictures with noise, of which it predicts the noise (Ho et al., 2020).

    .. math:: L = E_{t, \epsilon}\; w_t\, \lVert f(x_t, t, c) - \text{target} \rVert^2 / n, \qquad
              x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon

    The time t is uniform over the schedule, the target as in :mod:`.predictions`, n the numbers of a picture. It is
    :class:`~tinygrad_edu.training.Trainable` (a batch is ``(x0,)`` or ``(x0, condition)``), so that every trainer of
    the library takes it; the average of its weights is the trainer's ``ema_decay``. Times, noise and dropped conditions
    are drawn from :attr:`generator`, which is saved with checkpoints: a resumed run draws on.

    Parameters
    ----------
    net : a layer, ``net(x_t, t)`` or ``net(x_t, t, condition)`` with t (B,) int64; its ``backward(dy)`` returns the
        gradient of the pictures (alone, or first of several)
    schedule : a :class:`NoiseSchedule` or the name of one
    steps : T, for a name
    prediction : ``"epsilon"``, ``"v"`` or ``"x0"``
    condition_dropout : probability with which a picture's condition is put aside, so that the network also learns to
        do without and can be guided (:class:`ClassifierFreeGuidance`)
    null_condition : what then stands in its place, a number or an array; None where the network is told by ``drop=``,
        (B,) bool, as :class:`~tinygrad_edu.models.ConditionalUNet` is
    min_snr : the gamma of :func:`snr_weight`, 5 in its paper; None weighs all times alike
    seed : of the generator

    Attributes
    ----------
    generator : :class:`~tinygrad_edu.backend.Generator`

    Raises
    ------
    ConfigError
        For a name that is unknown or a value out of range.

    Examples
    --------
    >>> process = DiffusionProcess(net, "cosine", prediction="v", condition_dropout=0.1)  # doctest: +SKIP
    >>> train_model(process, [(pictures, classes), ...], ema_decay=0.999)  # doctest: +SKIP
    >>> process.sampler("ddim", steps=50).sample(process.guided(2.0), (16, 3, 32, 32), classes)  # doctest: +SKIP
    """

    unit = "examples"

    def __init__(
        self,
        net: Layer,
        schedule: NoiseSchedule | str = "cosine",
        steps: int = 1000,
        *,
        prediction: str = "epsilon",
        condition_dropout: float = 0.0,
        null_condition: Any = None,
        min_snr: float | None = None,
        seed: int | None = 0,
    ):
        super().__init__()
        if not isinstance(net, Layer):
            raise ConfigError(f"DiffusionProcess: net must be a layer, got {type(net).__name__}")
        check_prediction(prediction)
        check_probability("DiffusionProcess", condition_dropout=condition_dropout)
        if min_snr is not None and not (is_number(min_snr) and min_snr > 0):
            raise ConfigError(f"DiffusionProcess: min_snr must be a number > 0 or None, got {min_snr!r}")
        self.net = net
        self.schedule = schedule if isinstance(schedule, NoiseSchedule) else make_noise_schedule(schedule, steps)
        self.prediction, self.min_snr = prediction, min_snr
        self.condition_dropout, self.null_condition = condition_dropout, null_condition
        self.generator = Generator(seed)

    # -- the objective --------------------------------------------------------------------------------

    def forward(
        self,
        x0: Array,
        condition: Array | None = None,
        *,
        t: Times | None = None,
        noise: Array | None = None,
        divisor: float | None = None,
    ) -> Any:
        """The loss of a batch: of each picture the mean over its numbers, of these the mean.

        Parameters
        ----------
        x0 : (B, ...), in about [-1, 1]
        condition : B rows, or None
        t, noise : instead of drawn ones
        divisor : what the sum over pictures is divided by, B if None

        Raises
        ------
        ShapeError, DtypeError, RangeError
            For pictures that are no floating-point numbers of the network's type, times out of range, a condition or
            noise of another shape.
        """
        self._check(x0, condition)
        batch = len(x0)
        if t is None:
            t = self._draw_times(batch)
        with use(device_of(x0)):
            noise = self.generator.normal(*x0.shape, dtype=x0.dtype) if noise is None else noise
            check_alike("DiffusionProcess", x0=x0, noise=noise)
            host_t = np.broadcast_to(check_times("DiffusionProcess", t, self.schedule.steps, batch), (batch,))
            times = asarray(host_t.copy())
        drop = self._draw_drop(condition, batch)
        x_t = self.schedule.add_noise(x0, host_t, noise)
        output = ask(self.net, x_t, times, condition, drop, self.null_condition)
        target = prediction_target(self.schedule, self.prediction, x0, host_t, noise)
        weight = None
        if self.min_snr is not None:
            weight = snr_weight(self.schedule, self.prediction, host_t, self.min_snr, x0)
        loss = MeanSquaredError("sum", weight)
        share = (x0.size // batch) * (batch if divisor is None else divisor)
        value = loss(output, target) / share
        self.save(loss, share, host_t, drop)
        return value + self._further(output, x_t, host_t, batch if divisor is None else divisor)

    def backward(self, dloss: Any = 1.0) -> Any:
        """Accumulates the gradients of the network, and returns that of the pictures.

        Where the network's backward also returns the gradient of the condition, so does this, with zeros where the
        condition was dropped.
        """
        further = self._further_backward(dloss)  # what was saved last is taken first
        loss, share, t, drop = self.saved()
        doutput = loss.backward(dloss / share)
        gradients = self.net.backward(doutput if further is None else doutput + further[0])
        dx_t = first_of(gradients)
        if further is not None:
            dx_t = dx_t + further[1]
        a, s = self.schedule.amplitudes(t, dx_t)
        dx0 = a * dx_t  # by way of x_t
        if self.prediction == "v":  # by way of the target, a noise - s x0
            dx0 += s * doutput
        elif self.prediction == "x0":
            dx0 -= doutput
        if not isinstance(gradients, tuple):
            return dx0
        dcondition = gradients[1]
        if drop is not None and dcondition is not None:
            dcondition = dcondition * ~drop.reshape(-1, *(1,) * (dcondition.ndim - 1))
        return dx0, dcondition

    def _further(self, output: Array, x_t: Array, t: Any, pictures: float) -> Any:
        """What a kind of process adds to the loss, a sum over pictures divided by `pictures`."""
        return 0.0

    def _further_backward(self, dloss: Any) -> tuple[Array, Array] | None:
        """The gradients of what was added, for `output` and for `x_t`."""
        return None

    def _draw_times(self, batch: int) -> Any:
        with use("cpu"):  # the schedule's tables are there
            return self.generator.integers(0, self.schedule.steps, batch)

    def _draw_drop(self, condition: Array | None, batch: int) -> Array | None:
        """Whose condition is put aside in this batch, (B,) bool; None where none is."""
        if condition is None or not self.training or self.condition_dropout == 0:
            return None
        with use(device_of(condition)):
            return self.generator.uniform(batch) < self.condition_dropout

    def _check(self, x0: Array, condition: Array | None) -> None:
        if not hasattr(x0, "shape") or x0.ndim < 2 or x0.size == 0:
            found = format_shape(tuple(x0.shape)) if hasattr(x0, "shape") else type(x0).__name__
            raise ShapeError(f"DiffusionProcess: expected pictures (batch, ...), got {found}")
        if x0.dtype.kind != "f":
            raise DtypeError(
                f"DiffusionProcess: pictures must be floating-point numbers in about [-1, 1], got {x0.dtype}; "
                "of bytes take x / 127.5 - 1"
            )
        first = next(self.net.parameters(), None)
        if first is not None and first.dtype != x0.dtype:
            raise DtypeError(f"DiffusionProcess: the network is of {first.dtype}, the pictures are of {x0.dtype}")
        if condition is not None and (not hasattr(condition, "shape") or condition.shape[:1] != x0.shape[:1]):
            found = format_shape(tuple(condition.shape)) if hasattr(condition, "shape") else type(condition).__name__
            raise ShapeError(f"DiffusionProcess: condition must have a row for each of {len(x0)} pictures, got {found}")

    # -- training and evaluation ----------------------------------------------------------------------

    def _place(self, x0: Any, condition: Any) -> tuple[Array, Array | None]:
        """Arrays of a loader on the network's device."""
        first = next(self.net.parameters(), None)
        if first is None:
            return x0, condition
        with use(device_of(first.data)):
            return asarray(x0), None if condition is None else asarray(condition)

    def count_targets(self, x0: Any, condition: Any = None) -> int:
        """What the loss is the mean over: pictures."""
        return len(x0)

    def forward_backward(self, x0: Any, condition: Any = None, *, divisor: float | None = None) -> float:
        """Loss of a batch, with the gradients of the network accumulated; see :meth:`forward`.

        Out of training mode the loss is the one of :meth:`evaluate`: nothing is drawn.
        """
        self.clear_saved()  # what an interrupted step may have left
        x0, condition = self._place(x0, condition)
        t, noise = (None, None) if self.training else self._fixed(x0, 0)
        value = self.forward(x0, condition, t=t, noise=noise, divisor=divisor)
        self.backward()
        return float(value)

    def _fixed(self, x0: Array, seed: int) -> tuple[Any, Array]:
        """Times evenly spread over the schedule and noise that are the same at each evaluation."""
        batch, generator = len(x0), Generator(seed)
        t = ((np.arange(batch) + generator.random()) / batch * self.schedule.steps).astype(np.int64)
        with use(device_of(x0)):
            return t, generator.normal(*x0.shape, dtype=x0.dtype)

    def evaluate(self, batches: Iterable[Any], *, seed: int = 0) -> dict[str, float]:
        """The loss on held-out batches, each ``(x0,)`` or ``(x0, condition)``.

        The times of a batch are evenly spread and its noise comes from `seed`, so that two evaluations differ by the
        weights alone; of the generator nothing is drawn, and no condition is dropped.

        Returns
        -------
        ``{"loss": ...}``, as an ``evaluate`` of the trainer gives it

        Raises
        ------
        DataError
            If there are no pictures.
        """
        total = count = 0.0
        for number, batch in enumerate(batches):
            x0, condition = self._place(*(batch if len(batch) > 1 else (batch[0], None)))
            t, noise = self._fixed(x0, seed + number)
            with self.evaluating():
                total += float(self.forward(x0, condition, t=t, noise=noise)) * len(x0)
            count += len(x0)
        if not count:
            raise DataError("evaluate: the batches have no pictures")
        return {"loss": total / count}

    # -- sampling -------------------------------------------------------------------------------------

    def sampler(self, kind: str = "ddim", **options: Any) -> Sampler:
        """A sampler for this schedule and prediction.

        Parameters
        ----------
        kind : ``"ddim"`` or ``"ddpm"``
        options : of :class:`DDIMSampler` or :class:`DDPMSampler`
        """
        kinds: dict[str, type[Sampler]] = {"ddim": DDIMSampler, "ddpm": DDPMSampler}
        if kind not in kinds:
            raise ConfigError(f"sampler: unknown kind {kind!r}, wanted 'ddim' or 'ddpm'")
        return kinds[kind](self.schedule, self.prediction, **options)

    def guided(self, scale: float) -> ClassifierFreeGuidance:
        """The network under guidance, with the null condition of training; see :class:`ClassifierFreeGuidance`.

        Raises
        ------
        ConfigError
            If no condition was ever dropped in training, for then it knows no picture without one.
        """
        if self.condition_dropout == 0 and scale != 1:
            raise ConfigError(
                f"guided: scale {scale:g} needs a network that was trained with condition_dropout > 0, here it is 0"
            )
        return ClassifierFreeGuidance(self.net, scale, self.null_condition)

    def extra_repr(self) -> str:
        return f"{self.schedule!r}, prediction={self.prediction!r}, condition_dropout={self.condition_dropout:g}"

r"""What a network may predict of a noisy picture: the noise, the picture, or a mixture of both.

Given :math:`x_t = a\,x_0 + s\,\epsilon` with :math:`a = \sqrt{\bar\alpha_t}`, :math:`s = \sqrt{1 - \bar\alpha_t}`, each
of the three gives the other two:

=============  =============================  ================================  ==============================
prediction     target                         picture                           noise
=============  =============================  ================================  ==============================
``"epsilon"``  :math:`\epsilon`               :math:`(x_t - s\,\epsilon) / a`   itself
``"v"``        :math:`a\,\epsilon - s\,x_0`   :math:`a\,x_t - s\,v`             :math:`s\,x_t + a\,v`
``"x0"``       :math:`x_0`                    itself                            :math:`(x_t - a\,x_0) / s`
=============  =============================  ================================  ==============================

The noise is from Ho et al. (2020). At the noisy end it says little of the picture (a is nearly 0), as the picture says
little of the noise at the other; v (Salimans & Ho, 2022) is the direction in which :math:`x_t` turns, since
:math:`a^2 + s^2 = 1`, and good at both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend import Array
from ...errors import ConfigError, did_you_mean
from .schedules import NoiseSchedule, Times, check_alike, check_times, combine, spread

PREDICTIONS = ("epsilon", "v", "x0")


def check_prediction(prediction: str) -> None:
    """Raise ConfigError unless `prediction` is one of the three."""
    if prediction not in PREDICTIONS:
        raise ConfigError(
            f"prediction: unknown name {prediction!r}, wanted one of {', '.join(PREDICTIONS)}."
            f"{did_you_mean(str(prediction), PREDICTIONS)}"
        )


def prediction_target(schedule: NoiseSchedule, prediction: str, x0: Array, t: Times, noise: Array) -> Array:
    """What the network should say of ``add_noise(x0, t, noise)``; see the table of this module.

    Parameters
    ----------
    x0, noise : (B, ...)
    t : an integer or (B,) integers in [0, T)

    Returns
    -------
    (B, ...); `noise` or `x0` themselves, not copies, where these are the target
    """
    check_prediction(prediction)
    check_alike("prediction_target", x0=x0, noise=noise)
    if prediction == "epsilon":
        return noise
    if prediction == "x0":
        return x0
    a, s = schedule.amplitudes(check_times("prediction_target", t, schedule.steps, len(x0)), x0)
    return combine(a, noise, -s, x0)


def split_prediction(
    schedule: NoiseSchedule, prediction: str, output: Array, x_t: Array, t: Times
) -> tuple[Array, Array]:
    """Picture and noise that the network's `output` says :math:`x_t` is made of; see the table of this module.

    Parameters
    ----------
    output, x_t : (B, ...)
    t : an integer or (B,) integers in [0, T)

    Returns
    -------
    x0, noise : (B, ...)
    """
    check_prediction(prediction)
    check_alike("split_prediction", output=output, x_t=x_t)
    a, s = schedule.amplitudes(check_times("split_prediction", t, schedule.steps, len(x_t)), x_t)
    if prediction == "epsilon":
        return combine(1 / a, x_t, -s / a, output), output
    if prediction == "v":
        return combine(a, x_t, -s, output), combine(s, x_t, a, output)
    return output, noise_beside(schedule, output, x_t, t)


def split_prediction_backward(
    schedule: NoiseSchedule, prediction: str, dx0: Array, dnoise: Array, t: Times
) -> tuple[Array, Array]:
    """Gradient of :func:`split_prediction`, which is linear: the same factors, transposed.

    Returns
    -------
    doutput, dx_t : (B, ...)
    """
    a, s = schedule.amplitudes(check_times("split_prediction_backward", t, schedule.steps, len(dx0)), dx0)
    if prediction == "epsilon":
        return combine(-s / a, dx0, 1.0, dnoise), dx0 / a
    if prediction == "v":
        return combine(-s, dx0, a, dnoise), combine(a, dx0, s, dnoise)
    return combine(1.0, dx0, -a / s, dnoise), dnoise / s


def noise_beside(schedule: NoiseSchedule, x0: Array, x_t: Array, t: Times) -> Array:
    r"""The noise that :math:`x_t` holds beside the picture `x0`, :math:`(x_t - a\,x_0) / s`."""
    a, s = schedule.amplitudes(t, x_t)
    return combine(1 / s, x_t, -a / s, x0)


def snr_weight(schedule: NoiseSchedule, prediction: str, t: Times, gamma: float, x: Array) -> Any:
    r"""Min-SNR weights of the squared error (Hang et al., 2023), so that no noise level outweighs the others.

    :math:`\min(\mathrm{SNR}_t, \gamma)` times the squared error of the picture; of the noise that error is SNR times
    as large and of v SNR + 1 times, so these are divided by it.

    Returns
    -------
    a float, or (B, 1, ...) beside `x`
    """
    snr = schedule.snr[t]
    of_x0 = {"epsilon": snr, "v": snr + 1, "x0": 1.0}[prediction]
    return spread(np.minimum(snr, gamma) / of_x0, x)

"""DDIM as a layer: from noise to pictures, and gradients back from the pictures to the noise."""

from __future__ import annotations

from typing import Any

from ...backend import Array, namespace
from ...errors import ConfigError
from ...layers.base import Layer
from ...layers.checkpointing import checkpoint_backward, checkpoint_forward
from .guidance import first_of
from .predictions import split_prediction_backward
from .samplers import DDIMSampler


class DDIMChain(Layer):
    r"""The deterministic sampler as one function of the noise, with its gradient.

    Each step is linear in :math:`x_t` and in what the network says of it, so going back is going through the network
    once for each step, the last step first. With :math:`\hat x_0`, :math:`\hat\epsilon` from :math:`x_t` and the
    output, the picture clipped to c and the noise taken beside it,

    .. math:: x_s = a_s\,c + s_s\,(x_t - a_t\,c) / s_t

    and where the clip holds, :math:`\hat x_0` has no gradient.

    The network is called by gradient checkpointing: the memory is that of one call, whatever the number of steps, for
    one more forward pass. Gradients of its weights are accumulated as well; forget them where it is frozen.

    Parameters
    ----------
    net : a layer, ``net(x_t, t)`` or ``net(x_t, t, condition)``
    sampler : with eta 0

    Raises
    ------
    ConfigError
        For a sampler that draws.
    """

    def __init__(self, net: Layer, sampler: DDIMSampler):
        super().__init__()
        if not isinstance(sampler, DDIMSampler) or sampler.draws:
            raise ConfigError("DDIMChain: the sampler must be a DDIMSampler with eta 0; what draws has no gradient")
        self.net, self.sampler = net, sampler

    def forward(self, noise: Array, condition: Any = None) -> Array:
        """Pictures (B, ...) from noise (B, ...)."""
        xp, sampler = namespace(noise), self.sampler
        inside = []  # of each step, where the picture was not clipped
        x = noise
        for t, before in zip(sampler.times, (*sampler.times[1:], -1), strict=True):
            arguments = (x, xp.full(len(x), t, dtype="int64"), *(() if condition is None else (condition,)))
            output = checkpoint_forward(self.net, *arguments)
            x0, eps = sampler.split(output, x, t)
            inside.append(None if sampler.clip is None else abs(x0) < sampler.clip)
            x = sampler.step(x0, eps, x, t, before, None)
        self.save(inside)
        return x

    def backward(self, dx: Array) -> Array:
        """Gradient of the noise."""
        sampler, schedule = self.sampler, self.sampler.schedule
        inside = self.saved()
        steps = list(zip(sampler.times, (*sampler.times[1:], -1), inside, strict=True))
        for t, before, within in reversed(steps):
            signal, amount = schedule.amplitudes(before, dx)
            dx0, deps = signal * dx, amount * dx
            dx_t: Any = 0.0
            if within is not None:  # eps = (x_t - a x0) / s beside the clipped picture
                a, s = schedule.amplitudes(t, dx)
                dx_t = deps / s
                dx0 = (dx0 - (a / s) * deps) * within
                deps = namespace(dx).zeros_like(deps)
            doutput, through_split = split_prediction_backward(schedule, sampler.prediction, dx0, deps, t)
            dx = dx_t + through_split + first_of(checkpoint_backward(self.net, doutput))
        return dx

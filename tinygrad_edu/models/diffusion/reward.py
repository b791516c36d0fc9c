"""Fine-tuning a diffusion on what a frozen network thinks of its pictures."""

from __future__ import annotations

from typing import Any

from ...backend import Array
from ...errors import ConfigError, ShapeError, format_shape
from ...layers.base import Layer
from .predictions import split_prediction, split_prediction_backward
from .process import DiffusionProcess
from .schedules import is_number, spread


class RewardedDiffusion(DiffusionProcess):
    r"""The objective of DDPM, less a reward for the picture that the network sees in the noise.

    .. math:: L = L_{DDPM} - \lambda\, E_t\big[\bar\alpha_t\; r(\hat x_0)\big]

    A judge r gives each picture a number. The gradient goes from it through the predicted picture into the network,
    as in ReFL (Xu et al., 2023); the judge's own weights are not touched. Where there is much noise the predicted
    picture is a blur on which no judge is right, hence the factor :math:`\bar\alpha_t`, the share of the picture in
    :math:`x_t`. The first term keeps the network to pictures like those of its data.

    Its parameters are those of a :class:`DiffusionProcess` by the same names, so one goes on where the other ended.

    Parameters
    ----------
    net, schedule, steps, others : see :class:`DiffusionProcess`
    judge : a layer, (B, ...) pictures -> (B,) numbers, with a backward. It is no child: neither an optimizer nor a
        checkpoint knows it, and whether it is in evaluation mode is up to who made it. Should its backward accumulate
        gradients, they are forgotten
    reward_weight : lambda >= 0
    clip : the predicted picture is kept within ±clip, as in sampling; where it is, it has no gradient. Or None

    Attributes
    ----------
    reward : of the latest batch, the mean of the judge's numbers with the factors' sum as divisor

    Raises
    ------
    ConfigError
        For a judge that is no layer, or a weight below 0.
    """

    def __init__(
        self,
        net: Layer,
        judge: Layer,
        *arguments: Any,
        reward_weight: float = 0.1,
        clip: float | None = 1.0,
        **others: Any,
    ):
        super().__init__(net, *arguments, **others)
        if not isinstance(judge, Layer):
            raise ConfigError(f"RewardedDiffusion: judge must be a layer, got {type(judge).__name__}")
        if not is_number(reward_weight) or reward_weight < 0:
            raise ConfigError(f"RewardedDiffusion: reward_weight must be a number >= 0, got {reward_weight!r}")
        if clip is not None and not (is_number(clip) and clip > 0):
            raise ConfigError(f"RewardedDiffusion: clip must be a number > 0 or None, got {clip!r}")
        self._judge = (judge,)  # in a tuple, so that it is no child
        self.reward_weight, self.clip, self.reward = reward_weight, clip, 0.0

    @property
    def judge(self) -> Layer:
        """Who gives the rewards."""
        return self._judge[0]

    def _further(self, output: Array, x_t: Array, t: Any, pictures: float) -> Any:
        x0, _ = split_prediction(self.schedule, self.prediction, output, x_t, t)
        inside = None
        if self.clip is not None:
            inside = abs(x0) < self.clip
            x0 = x0.clip(-self.clip, self.clip)
        numbers = self.judge(x0)
        if tuple(numbers.shape) != (len(x0),):
            raise ShapeError(
                f"RewardedDiffusion: the judge must give ({len(x0)},) numbers, one a picture, "
                f"got {format_shape(tuple(numbers.shape))}"
            )
        share = spread(self.schedule.alphas_bar[t], numbers)
        self.save(share, inside, t, pictures)
        weighed = (share * numbers).sum()
        self.reward = weighed / share.sum()
        return -self.reward_weight / pictures * weighed

    def _further_backward(self, dloss: Any) -> tuple[Array, Array]:
        share, inside, t, pictures = self.saved()
        dx0 = self.judge.backward(-self.reward_weight / pictures * dloss * share)
        self.judge.zero_grad()
        if inside is not None:
            dx0 = dx0 * inside
        return split_prediction_backward(self.schedule, self.prediction, dx0, 0 * dx0, t)

    def clear_saved(self) -> None:
        """Forget what forwards saved, the judge's as well."""
        super().clear_saved()
        self.judge.clear_saved()

"""The exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..backend import Array, device_of, op, to_device, to_host
from ..errors import CheckpointError, ConfigError, format_shape
from ..layers.base import Layer
from .base import _check_number


@op
def ema_update(average: Array, data: Array, decay: float) -> None:
    r"""One step of an exponential moving average, in place.

    .. math:: a \leftarrow a + (1 - \beta)\,(\theta - a) = \beta a + (1 - \beta)\,\theta

    Parameters
    ----------
    average, data : (N,); only `average` is changed
    decay : :math:`\beta`
    """
    average += (1 - decay) * (data - average)


class ExponentialMovingAverage:
    r"""Keeps an average of the weights over about the last :math:`1/(1-\beta)` steps (Polyak & Juditsky, 1992).

    The average wanders less than the weights, and with a learning rate that has not fallen yet it usually
    predicts better. It begins as a copy of the weights. So that this beginning does not weigh on it for long,
    the decay rises to its value, as in TensorFlow: :math:`\beta_t = \min(\beta, (1+t)/(10+t))`.

    Buffers, such as running statistics, are averages already and are not averaged again: with the averaged weights
    go the buffers as the model has them, as in torch's ``AveragedModel`` by default.

    Parameters
    ----------
    model : any layer; its parameters are read at each :meth:`update`
    decay : :math:`\beta`, in (0, 1); 0.999 suits some thousand steps
    warmup : False for `decay` from the first step on

    Attributes
    ----------
    updates : how often :meth:`update` was called

    Raises
    ------
    ConfigError
        For a decay out of range or a model without parameters.

    Examples
    --------
    >>> ema = ExponentialMovingAverage(model, 0.999)  # doctest: +SKIP
    >>> optimizer.step(); ema.update()  # doctest: +SKIP
    >>> with ema.applied(model):  # doctest: +SKIP
    ...     score = evaluate(model)
    """

    def __init__(self, model: Layer, decay: float = 0.999, *, warmup: bool = True):
        _check_number("ExponentialMovingAverage", "decay", decay, 0, 1)
        if decay == 0:
            raise ConfigError("ExponentialMovingAverage: decay must be in (0, 1), got 0: that would be no average")
        self.model, self.decay, self.warmup = model, float(decay), bool(warmup)
        self.updates = 0
        self._applied = False
        self._arrays: list[Array] = []  # of the weights, a flat buffer or one each
        self._averages: list[Array] = []
        self._by_name: dict[str, Array] = {}
        if next(model.parameters(), None) is None:
            raise ConfigError("ExponentialMovingAverage: the model has no parameters to average")
        self._lay_out({})

    # -- where the averages lie -----------------------------------------------------------------------

    def _current(self) -> list[Array]:
        flat = self.model.__dict__.get("flat")
        if flat is not None and flat.holds(self.model):
            return [flat.data]
        return [parameter.data for parameter in self.model.parameters()]

    def _lay_out(self, kept: Mapping[str, Array]) -> None:
        """Averages beside the weights as these lie now: what `kept` has of them, and the weights for the rest."""
        self._arrays = self._current()
        self._averages = [array.copy() for array in self._arrays]
        self._by_name = self._names()
        for name, place in self._by_name.items():
            if name in kept:  # a table of ids may have grown: its new rows begin as they are
                values = to_host(kept[name])
                common = tuple(slice(min(sizes)) for sizes in zip(values.shape, place.shape, strict=True))
                place[common] = to_device(values[common].astype(place.dtype, copy=False), device_of(place))

    def _follow(self) -> None:
        """Lay the averages out anew if the model moved, was cast, flattened or resized."""
        current = self._current()
        if len(current) != len(self._arrays) or any(a is not b for a, b in zip(current, self._arrays, strict=True)):
            self._lay_out({name: to_host(values) for name, values in self._by_name.items()})

    def _names(self) -> dict[str, Array]:
        """The average of each parameter, a view, by the parameter's name."""
        named, flat = dict(self.model.named_parameters()), self.model.__dict__.get("flat")
        if flat is None or self._arrays[0] is not flat.data:
            return dict(zip(named, self._averages, strict=True))
        return {name: self._averages[0][place].reshape(named[name].shape) for name, place in flat.slices.items()}

    # -- use ------------------------------------------------------------------------------------------

    def update(self) -> None:
        """Take the weights as they are now into the average: call it after each step of the optimizer.

        Raises
        ------
        ConfigError
            Inside :meth:`applied`, where the weights are the average.
        """
        if self._applied:
            raise ConfigError("ExponentialMovingAverage.update: the averages are applied; leave applied() first")
        self._follow()
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        for average, array in zip(self._averages, self._arrays, strict=True):
            ema_update(average.reshape(-1), array.reshape(-1), decay)
        self.updates += 1

    @contextmanager
    def applied(self, model: Layer | None = None) -> Iterator[None]:
        """Within, the model has the averaged weights; afterwards its own again, whatever happened.

        Parameters
        ----------
        model : the model that it was made for, or another one of the same parameters

        Raises
        ------
        ConfigError
            If the averages are applied already.
        ShapeError
            If `model` has other parameters, listing all of them.
        """
        if self._applied:
            raise ConfigError("ExponentialMovingAverage.applied: the averages are applied already")
        self._follow()
        if model is not None and model is not self.model:
            own = {name: values.copy() for name, values in model.state_dict().items()}  # its buffers too
            model.load_state_dict(self.state_dict()["arrays"])
            try:
                yield
            finally:
                model.load_state_dict(own)
            return
        kept = [array.copy() for array in self._arrays]
        self._applied = True
        try:
            for array, average in zip(self._arrays, self._averages, strict=True):
                array[...] = average
            yield
        finally:
            for array, values in zip(self._arrays, kept, strict=True):
                array[...] = values
            self._applied = False

    # -- state ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """``{"decay", "warmup", "updates", "arrays"}``; all plain data but ``arrays``.

        ``arrays`` is a whole state of the model, ready for its ``load_state_dict``: the average of each parameter
        and each buffer as it is.
        """
        self._follow()
        return {
            "decay": self.decay,
            "warmup": self.warmup,
            "updates": self.updates,
            "arrays": self._by_name | {name: buffer.data for name, buffer in self.model.named_buffers()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave. The decay stays the one that this average was made with.

        Buffers in it are left alone: they are the model's, and are loaded with the model.

        Raises
        ------
        CheckpointError
            Listing all that does not fit; nothing is changed then.
        """
        self._follow()
        own = self._by_name
        absent = [f"missing: {key}" for key in ("updates", "arrays") if key not in state]
        buffers = dict(self.model.named_buffers())
        arrays = {name: values for name, values in state.get("arrays", {}).items() if name not in buffers}
        wrong = absent or [f"missing: {name}" for name in own if name not in arrays]
        wrong += [f"unexpected: {name}" for name in arrays if name not in own]
        for name, values in arrays.items():
            if name in own and tuple(values.shape) != tuple(own[name].shape):
                expected, found = (format_shape(tuple(array.shape)) for array in (own[name], values))
                wrong.append(f"misshapen: {name} expected {expected}, got {found}")
        updates = state.get("updates", 0)
        if isinstance(updates, bool) or not isinstance(updates, int) or updates < 0:
            wrong.append(f"updates must be an integer >= 0, got {updates!r}")
        if wrong:
            raise CheckpointError("the state does not fit ExponentialMovingAverage:\n  " + "\n  ".join(wrong))
        self.updates = updates
        self._lay_out(arrays)

    def __repr__(self) -> str:
        return f"ExponentialMovingAverage(decay={self.decay!r}, updates={self.updates})"

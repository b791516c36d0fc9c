"""What every optimizer shares: parameters in runs, state by parameter name, and the step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..backend import Array, device_of, to_device, to_host, zeros_like
from ..errors import CheckpointError, ConfigError, format_shape
from ..layers.base import Layer, Parameter


class Run:
    """Parameters that lie side by side in memory and are updated alike: one array for the kernel.

    Attributes
    ----------
    names : the parameters, in memory order
    data, grad : (N,), views
    state : one (N,) array for each of the optimizer's state names
    steps : updates done so far
    decay : whether weight decay applies
    """

    def __init__(self, names: list[str], data: Array, grad: Array, places: dict[str, slice], decay: bool):
        self.names, self.data, self.grad, self.places, self.decay = names, data, grad, places, decay
        self.state: dict[str, Array] = {}
        self.steps = 0


def _check_number(optimizer: str, name: str, value: Any, low: float, high: float = float("inf")) -> None:
    """Raise ConfigError unless `value` is a number in [low, high); NaN never is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        limit = f">= {low:g}" if high == float("inf") else f"in [{low:g}, {high:g})"
        raise ConfigError(f"{optimizer}: {name} must be a finite number {limit}, got {value!r}")


class Optimizer:
    """Base of the optimizers.

    Parameters
    ----------
    parameters : a layer, or pairs of name and parameter
    lr : learning rate >= 0
    hyperparameters : what else the step needs; saved with the state and listed in ``repr``

    Raises
    ------
    ConfigError
        For a hyperparameter out of range, or when there is nothing to optimize.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, parameters: Layer | Iterable[tuple[str, Parameter]], lr: float, **hyperparameters: Any):
        _check_number(type(self).__name__, "lr", lr, 0)
        self._layer = parameters if isinstance(parameters, Layer) else None
        self._named = dict(parameters.named_parameters() if isinstance(parameters, Layer) else parameters)
        if not self._named:
            raise ConfigError(f"{type(self).__name__}: there are no parameters to optimize")
        self.lr = lr
        self.hyperparameters: dict[str, Any] = hyperparameters
        self._runs: list[Run] = []
        self._data: list[Array] = []  # the arrays the runs were made of; a model that moved has others

    # -- runs -----------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """The parameters as runs, made anew when the model was moved, cast or laid flat since."""
        current = [parameter.data for parameter in self._named.values()]
        if len(current) != len(self._data) or any(a is not b for a, b in zip(current, self._data, strict=True)):
            kept = self._state_by_name() if self._runs else {}
            steps = {name: run.steps for run in self._runs for name in run.names}
            self._runs, self._data = self._make_runs(), current
            self._restore(kept, steps)
        return self._runs

    def _make_runs(self) -> list[Run]:
        flat = None if self._layer is None else self._layer.__dict__.get("flat")
        if flat is None or not flat.holds(self._layer):
            return [
                Run([name], p.data.reshape(-1), p.grad.reshape(-1), {name: slice(0, p.size)}, p.decay)
                for name, p in self._named.items()
            ]
        runs = []
        for decay in (True, False):
            names = [name for name in flat.slices if self._named[name].decay is decay]
            if names:
                start, end = flat.slices[names[0]].start, flat.slices[names[-1]].stop
                places = {n: slice(flat.slices[n].start - start, flat.slices[n].stop - start) for n in names}
                runs.append(Run(names, flat.data[start:end], flat.grad[start:end], places, decay))
        return runs

    def _split(self, run: Run) -> list[Run]:
        """A run for each parameter of `run`, when only some of them take a step."""
        parts = []
        for name in run.names:
            place = run.places[name]
            part = Run([name], run.data[place], run.grad[place], {name: slice(0, place.stop - place.start)}, run.decay)
            part.state = {key: values[place] for key, values in run.state.items()}
            part.steps = run.steps
            parts.append(part)
        return parts

    # -- the step -------------------------------------------------------------------------------------

    def step(self, learning_rate: float | None = None, only: Iterable[Parameter] | None = None) -> None:
        """Apply the gradients once.

        Parameters
        ----------
        learning_rate : for this step and those after it, where a schedule gives one
        only : the parameters to update; all of them if None
        """
        if learning_rate is not None:
            _check_number(type(self).__name__, "learning_rate", learning_rate, 0)
            self.lr = learning_rate
        runs = self.runs()
        if only is not None:
            wanted = {id(parameter) for parameter in only}
            chosen = {name for name, parameter in self._named.items() if id(parameter) in wanted}
            if chosen != set(self._named):
                self._runs = runs = [
                    part for run in runs for part in (self._split(run) if len(run.names) > 1 else [run])
                ]
                runs = [run for run in runs if run.names[0] in chosen]
        for run in runs:
            if not run.state:
                run.state = {name: zeros_like(run.data) for name in self.state_names}
            run.steps += 1
            self._apply(run)

    def _apply(self, run: Run) -> None:
        raise AssertionError(f"{type(self).__name__} must define _apply")

    # -- state ----------------------------------------------------------------------------------------

    def _state_by_name(self) -> dict[str, Array]:
        arrays = {}
        for run in self._runs:
            for key, values in run.state.items():
                for name in run.names:
                    arrays[f"{name}.{key}"] = values[run.places[name]].reshape(self._named[name].shape)
        return arrays

    def _restore(self, arrays: dict[str, Any], steps: dict[str, int]) -> None:
        for run in self._runs:
            run.steps = max((steps.get(name, 0) for name in run.names), default=0)
            for key in self.state_names:
                if not any(f"{name}.{key}" in arrays for name in run.names):
                    continue
                values = run.state.setdefault(key, zeros_like(run.data))
                for name in run.names:
                    host = to_host(arrays[f"{name}.{key}"]).reshape(-1).astype(values.dtype, copy=False)
                    values[run.places[name]] = to_device(host, device_of(values))

    def state_dict(self) -> dict[str, Any]:
        """``{"step", "steps", "hyperparameters", "arrays"}``: all plain data but ``arrays``, which are by name."""
        runs = self.runs()
        return {
            "step": max(run.steps for run in runs),
            "steps": {name: run.steps for run in runs for name in run.names},
            "hyperparameters": {"lr": self.lr, **self.hyperparameters},
            "arrays": self._state_by_name(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` gave, hyperparameters included.

        Raises
        ------
        CheckpointError
            Listing all that does not fit; nothing is changed then.
        """
        arrays, steps = state.get("arrays", {}), state.get("steps", {})
        wrong = [f"unexpected parameter: {name}" for name in steps if name not in self._named]
        started = {name for name in self._named if steps.get(name)}
        wanted = {f"{name}.{key}": self._named[name].shape for name in started for key in self.state_names}
        for name, shape in wanted.items():
            if name not in arrays:
                wrong.append(f"missing: {name}")
            elif tuple(arrays[name].shape) != shape:
                found = format_shape(tuple(arrays[name].shape))
                wrong.append(f"misshapen: {name} expected {format_shape(shape)}, got {found}")
        known = {"lr", *self.hyperparameters}
        wrong += [f"unexpected hyperparameter: {key}" for key in state.get("hyperparameters", {}) if key not in known]
        if wrong:
            raise CheckpointError(f"the state does not fit {type(self).__name__}:\n  " + "\n  ".join(wrong))
        hyperparameters = dict(state["hyperparameters"])
        self.lr = hyperparameters.pop("lr")
        self.hyperparameters.update(hyperparameters)
        self.runs()
        if len({steps.get(name, 0) for name in self._named}) > 1:  # parameters were stepped apart
            self._runs = [part for run in self._runs for part in self._split(run)]
        for run in self._runs:
            run.state = {}
        self._restore(arrays, steps)

    def __repr__(self) -> str:
        settings = {"lr": self.lr, **self.hyperparameters}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"

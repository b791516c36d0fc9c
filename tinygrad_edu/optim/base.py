"""What every optimizer shares: parameters in runs, state by parameter name, and the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from ..backend import Array, device_of, namespace, to_device, to_host, zeros_like
from ..errors import CheckpointError, ConfigError, format_shape
from ..layers.base import Layer, Parameter
from ..runtime import release_freed_memory

_WORTH_RELEASING = 64 << 20  # bytes


class Run:
    """Parameters that lie side by side in memory and are updated alike: one array for the kernel.

    Attributes
    ----------
    names : the parameters, in memory order
    data, grad : (N,), views
    places, shapes : where in them each parameter lies, and its shape when the run was made
    state : one (N,) array for each of the optimizer's state names
    steps : updates done so far
    decay : whether weight decay applies
    """

    def __init__(
        self,
        names: list[str],
        data: Array,
        grad: Array,
        places: dict[str, slice],
        shapes: dict[str, tuple[int, ...]],
        decay: bool,
    ):
        self.names, self.data, self.grad, self.decay = names, data, grad, decay
        self.places, self.shapes = places, shapes
        self.state: dict[str, Array] = {}
        self.steps = 0


def _check_number(optimizer: str, name: str, value: Any, low: float, high: float = float("inf")) -> None:
    """Raise ConfigError unless `value` is a number in [low, high); NaN never is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        limit = f">= {low:g}" if high == float("inf") else f"in [{low:g}, {high:g})"
        raise ConfigError(f"{optimizer}: {name} must be a finite number {limit}, got {value!r}")


class Optimizer(ABC):
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

    def __init__(self, parameters: Layer | Iterable[tuple[str, Parameter]], lr: float, **hyperparameters: Any):
        self._check({"lr": lr, **hyperparameters})
        self._layer = parameters if isinstance(parameters, Layer) else None
        self._named = dict(parameters.named_parameters() if isinstance(parameters, Layer) else parameters)
        if not self._named:
            raise ConfigError(f"{type(self).__name__}: there are no parameters to optimize")
        self.lr = float(lr)  # a NumPy scalar would turn float32 arithmetic into float64
        self.hyperparameters: dict[str, Any] = hyperparameters
        self._runs: list[Run] = []
        self._arrays: list[Array] = []  # what the runs are views of; a model that moved has others

    def __getstate__(self) -> dict[str, Any]:
        """For ``copy.deepcopy``: in a copy the runs are views of nothing that is trained, so they are made anew."""
        return {**self.__dict__, "_arrays": []}

    def _check(self, settings: dict[str, Any]) -> None:
        """Raise ConfigError unless every setting, lr among them, is in range."""
        _check_number(type(self).__name__, "lr", settings["lr"], 0)

    def _state_names(self, _settings: dict[str, Any]) -> tuple[str, ...]:
        """Names of the arrays that an optimizer with these settings keeps for each parameter."""
        return ()

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the arrays kept for each parameter."""
        return self._state_names(self.hyperparameters)

    # -- runs -----------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """The parameters as runs, made anew when an array of the model or of its gradients was replaced."""
        current = self._current_arrays()
        if len(current) != len(self._arrays) or any(a is not b for a, b in zip(current, self._arrays, strict=True)):
            kept = self._state_by_name() if self._runs else {}
            steps = {name: run.steps for run in self._runs for name in run.names}
            self._runs = self._make_runs()
            self._restore(kept, steps)
            self._arrays = self._current_arrays()
        return self._runs

    def _current_arrays(self) -> list[Array]:
        return [array for parameter in self._named.values() for array in (parameter.data, parameter.grad)]

    def _make_runs(self) -> list[Run]:
        flat = None if self._layer is None else self._layer.__dict__.get("flat")
        if flat is None or not flat.holds(self._layer):
            for parameter in self._named.values():  # of any other layout, reshape(-1) would be a copy
                if not parameter.data.flags.c_contiguous:
                    parameter.data = namespace(parameter.data).ascontiguousarray(parameter.data)
                if not parameter.grad.flags.c_contiguous:
                    parameter.grad = namespace(parameter.grad).ascontiguousarray(parameter.grad)
            return [
                Run([name], p.data.reshape(-1), p.grad.reshape(-1), {name: slice(0, p.size)}, {name: p.shape}, p.decay)
                for name, p in self._named.items()
            ]
        runs = []
        for decay in (True, False):
            names = [name for name in flat.slices if self._named[name].decay is decay]
            if names:
                start, end = flat.slices[names[0]].start, flat.slices[names[-1]].stop
                places = {n: slice(flat.slices[n].start - start, flat.slices[n].stop - start) for n in names}
                shapes = {n: self._named[n].shape for n in names}
                runs.append(Run(names, flat.data[start:end], flat.grad[start:end], places, shapes, decay))
        return runs

    def _split(self, run: Run) -> list[Run]:
        """A run for each parameter of `run`, when only some of them take a step."""
        if len(run.names) == 1:
            return [run]
        parts = []
        for name in run.names:
            place = run.places[name]
            part = Run(
                [name],
                run.data[place],
                run.grad[place],
                {name: slice(0, place.stop - place.start)},
                {name: run.shapes[name]},
                run.decay,
            )
            part.state = {key: values[place] for key, values in run.state.items()}
            part.steps = run.steps
            parts.append(part)
        return parts

    # -- the step -------------------------------------------------------------------------------------

    def step(
        self,
        learning_rate: float | None = None,
        only: Iterable[Parameter] | None = None,
        *,
        grad_scale: float = 1.0,
    ) -> None:
        """Apply the gradients once; they stay as they are.

        Parameters
        ----------
        learning_rate : for this step and those after it, where a schedule gives one
        only : the parameters to update; all of them if None
        grad_scale : each gradient counts so many times. With :func:`~tinygrad_edu.optim.clip_factor` the step is that
            of clipped gradients, without a pass over all of them that does nothing but multiply

        Raises
        ------
        ConfigError
            If the rate or the scale is out of range, or a parameter in `only` is none of this optimizer's.
        """
        if learning_rate is not None:
            _check_number(type(self).__name__, "learning_rate", learning_rate, 0)
        _check_number(type(self).__name__, "grad_scale", grad_scale, 0)
        chosen = set(self._named) if only is None else self._names_of(only)
        if learning_rate is not None:
            self.lr = float(learning_rate)
        if not chosen:  # a layer without parameters
            return
        runs = self.runs()
        if len(chosen) < len(self._named):
            self._runs = [part for run in runs for part in self._split(run)]
            runs = [run for run in self._runs if run.names[0] in chosen]
        for run in runs:
            if not run.state:
                if run.data.nbytes >= _WORTH_RELEASING:  # compiled code was loaded between the first step's arrays:
                    release_freed_memory()  # the heap is full of holes, which would be held beside the state for ever
                run.state = {name: zeros_like(run.data) for name in self.state_names}
            run.steps += 1
            self._apply(run, grad_scale)

    def _names_of(self, parameters: Iterable[Parameter]) -> set[str]:
        names = {id(parameter): name for name, parameter in self._named.items()}
        wanted = [id(parameter) for parameter in parameters]
        if any(key not in names for key in wanted):
            raise ConfigError(
                f"{type(self).__name__}: step got a parameter that is not among those it was made for; "
                "make the optimizer after the model is complete"
            )
        return {names[key] for key in wanted}

    @abstractmethod
    def _apply(self, run: Run, grad_scale: float) -> None:
        """Update `run`, whose ``steps`` counts this step already, with `grad_scale` times its gradient."""

    # -- state ----------------------------------------------------------------------------------------

    def _state_by_name(self) -> dict[str, Array]:
        arrays = {}
        for run in self._runs:
            for key, values in run.state.items():
                for name in run.names:
                    arrays[f"{name}.{key}"] = values[run.places[name]].reshape(run.shapes[name])
        return arrays

    def _restore(self, arrays: dict[str, Any], steps: dict[str, int]) -> None:
        """Fill the runs, whatever they held, from a state by name."""
        if len({steps.get(name, 0) for name in self._named}) > 1:  # parameters were stepped apart
            self._runs = [part for run in self._runs for part in self._split(run)]
        for run in self._runs:
            run.state, run.steps = {}, steps.get(run.names[0], 0)
            if not run.steps:
                continue
            for key in self.state_names:
                run.state[key] = values = zeros_like(run.data)
                for name in run.names:
                    host = to_host(arrays[f"{name}.{key}"]).astype(values.dtype, copy=False)
                    place = values[run.places[name]].reshape(run.shapes[name])
                    # A table of ids may have grown or shrunk: what both have is kept, and new rows begin at zero.
                    common = tuple(slice(min(sizes)) for sizes in zip(host.shape, place.shape, strict=True))
                    place[common] = to_device(host[common], device_of(values))

    def state_dict(self) -> dict[str, Any]:
        """``{"kind", "step", "steps", "hyperparameters", "arrays"}``; all plain data but ``arrays``."""
        runs = self.runs()
        return {
            "kind": type(self).__name__,
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
        wrong = self._mistakes(state)
        if wrong:
            raise CheckpointError(f"the state does not fit {type(self).__name__}:\n  " + "\n  ".join(wrong))
        hyperparameters = dict(state["hyperparameters"])
        self.lr = float(hyperparameters.pop("lr", self.lr))
        self.hyperparameters.update(hyperparameters)
        self.runs()
        self._restore(state["arrays"], state["steps"])

    def _mistakes(self, state: dict[str, Any]) -> list[str]:
        """All that is wrong with a state that is to be loaded."""
        absent = [f"missing: {key}" for key in ("kind", "hyperparameters", "steps", "arrays") if key not in state]
        if absent:
            return absent
        if state["kind"] != type(self).__name__:  # Adam and AdamW keep the same arrays, and mean another step by them
            return [f"it is the state of the optimizer {state['kind']}, wanted {type(self).__name__}"]
        arrays, steps = state["arrays"], state["steps"]
        wrong = [f"missing parameter: {name}" for name in self._named if name not in steps]
        wrong += [f"unexpected parameter: {name}" for name in steps if name not in self._named]
        wrong += [
            f"steps of {name} must be an integer >= 0, got {count!r}"
            for name, count in steps.items()
            if isinstance(count, bool) or not isinstance(count, int) or count < 0
        ]
        own = {"lr": self.lr, **self.hyperparameters}
        settings = {**own, **state["hyperparameters"]}
        wrong += [f"unexpected hyperparameter: {key}" for key in settings if key not in own]
        try:
            self._check(settings)
        except ConfigError as error:
            wrong.append(str(error))
        keys = self._state_names(settings)
        wanted = {f"{n}.{key}": p.shape for n, p in self._named.items() if steps.get(n) for key in keys}
        for name, shape in wanted.items():
            if name not in arrays:
                wrong.append(f"missing: {name}")
            elif tuple(arrays[name].shape) != shape:
                found = format_shape(tuple(arrays[name].shape))
                wrong.append(f"misshapen: {name} expected {format_shape(shape)}, got {found}")
        return wrong

    def __repr__(self) -> str:
        settings = {"lr": self.lr, **self.hyperparameters}
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in settings.items())})"

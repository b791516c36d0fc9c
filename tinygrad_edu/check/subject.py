"""What is checked, seen as one function: named float arrays in, arrays out, and its hand-written gradient.

The engine knows neither layers nor ops. It knows a :class:`Subject`: values by name, ``forward``, ``backward``.
Values are float64 arrays on the host; a subject brings them to its device and type, and the results back.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ..backend import Generator, default_generator, device_of, inference, to_device, to_host
from ..errors import ConfigError
from ..layers.base import Layer

Values = dict[str, np.ndarray]


class Fault(Exception):  # noqa: N818 - it becomes a report, and is no error of the program
    """A pass that breaks its contract so that no gradient can be compared (wrong count, an exception ...).

    Attributes
    ----------
    stage : ``"forward"`` or ``"backward"``
    """

    def __init__(self, message: str, stage: str = "backward"):
        super().__init__(message)
        self.stage = stage


def is_array(value: Any) -> bool:
    """Whether `value` is an array of any library."""
    return hasattr(value, "dtype") and hasattr(value, "shape") and hasattr(value, "ndim")


def is_float_array(value: Any) -> bool:
    """Whether `value` is an array of floating-point numbers."""
    return is_array(value) and getattr(value.dtype, "kind", "") == "f"


def to_list(result: Any) -> list[Any]:
    """What a forward or backward returned, as a list: nothing, one thing, or several, tuples in tuples laid flat."""
    return [] if result is None else list(_leaves(result))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def nest(like: Any, leaves: Iterator[Any]) -> Any:
    """The next of `leaves` in place of those of `like`, tuples where it has tuples or lists."""
    if isinstance(like, tuple | list):
        return tuple(nest(item, leaves) for item in like)
    return next(leaves)


def _spread(name: str, value: Any) -> tuple[Any, dict[str, Any]]:
    """A tuple that holds arrays as one value each: the names of its parts, nested as they are, and parts by name."""
    if not (isinstance(value, tuple | list) and any(map(is_array, _leaves(value)))):
        return name, {name: value}
    parts = [_spread(f"{name}[{i}]", item) for i, item in enumerate(value)]
    return tuple(form for form, _ in parts), {key: item for _, found in parts for key, item in found.items()}


def on_host(x: Any) -> np.ndarray:
    """A float64 copy of an array or number, on the host."""
    return np.array(to_host(x), dtype=np.float64)


class Subject(ABC):
    """A function to be checked.

    Attributes
    ----------
    name : what reports call it
    inputs : the arguments of forward by name, as the caller gave them (constants too); a tuple of arrays, such as
        the state of an LSTM, is one input for each, ``state[0]`` and ``state[1]``
    forms : for each argument of forward the name of its input, or a tuple of names
    values : the float64 values that are differentiated: inputs in forward's order, then parameters
    kinds : ``"input"`` or ``"parameter"`` for each of `values`
    dtype : the element type it computes in
    device : where it computes
    positional : how many of `inputs` are given by position
    takes_upstream : whether backward takes the gradient of the output; a loss's may not, and means 1
    """

    positional = 0
    takes_upstream = True

    def __init__(self, name: str, inputs: dict[str, Any], wrt: Iterable[str] | None, dtype: str, device: str):
        self.name, self.dtype, self.device = name, dtype, device
        self.forms: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}
        for key, value in inputs.items():
            self.forms[key], parts = _spread(key, value)
            self.inputs |= parts
        floats = [key for key, value in self.inputs.items() if is_float_array(value)]
        if wrt is None:
            chosen = floats
        else:
            chosen = [leaf for key in wrt for leaf in _leaves(self.forms.get(key, key))]
            wrong = [key for key in chosen if key not in floats]
            if wrong:
                raise ConfigError(
                    f"wrt: {name} has no floating-point input named {', '.join(map(repr, wrong))}; has {floats}"
                )
        self.values: Values = {key: on_host(value) for key, value in self.inputs.items() if key in chosen}
        self.kinds = dict.fromkeys(self.values, "input")

    def rename(self, names: Mapping[str, str]) -> None:
        """Call some arguments otherwise in the report."""

        def new(name: str) -> str:
            key = name.partition("[")[0]
            return names.get(key, key) + name.removeprefix(key)

        self.forms = {new(key): nest(form, map(new, _leaves(form))) for key, form in self.forms.items()}
        for table in ("inputs", "values", "kinds"):
            setattr(self, table, {new(key): value for key, value in getattr(self, table).items()})

    def place(self, value: Any) -> Any:
        """A fresh copy of an argument on this subject's device; floating-point arrays in its type."""
        if not is_array(value):
            return value
        host = np.array(to_host(value))
        return to_device(host.astype(self.dtype) if host.dtype.kind == "f" else host, self.device)

    def arguments(self, values: Values) -> dict[str, Any]:
        """Forward's arguments, with those that are differentiated taken from `values`."""
        return {key: self.place(values.get(key, value)) for key, value in self.inputs.items()}

    def gather(self, arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """What forward is called with, by position and by name: tuples put together again."""
        whole = {key: nest(form, (arguments[part] for part in _leaves(form))) for key, form in self.forms.items()}
        items = list(whole.items())
        return [value for _, value in items[: self.positional]], dict(items[self.positional :])

    def place_upstream(self, upstream: list[np.ndarray]) -> list[Any]:
        """Gradients of the outputs on this subject's device; that of a number is a number."""
        return [float(u) if u.ndim == 0 else self.place(u) for u in upstream]

    @abstractmethod
    def forward(self, values: Values) -> list[np.ndarray]:
        """Outputs at `values`, with the same random noise at every call."""

    @abstractmethod
    def backward(self, values: Values, upstream: list[np.ndarray]) -> Values:
        """Gradients of <upstream, outputs> at `values`, by name, as the hand-written backward gives them."""

    @abstractmethod
    def like(self, dtype: str) -> Subject:
        """The same subject, computing in `dtype`."""

    def match(self, gradients: list[Any], wanted: list[str]) -> Values:
        """Name what backward returned, one gradient for each differentiated input, in order."""
        if len(gradients) != len(wanted):
            found = {0: "nothing", 1: "one array"}.get(len(gradients), f"{len(gradients)} arrays")
            raise Fault(
                f"backward returned {found}; wanted {len(wanted)}, the gradient of {', '.join(wanted) or 'no input'}"
            )
        for key, gradient in zip(wanted, gradients, strict=True):
            if gradient is None:
                raise Fault(f"backward returned None for the gradient of {key}")
        return {key: on_host(gradient) for key, gradient in zip(wanted, gradients, strict=True)}


def bind(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names that `function` gives them, in its order; those left to their default are absent.

    Raises
    ------
    ConfigError
        If the function does not take these arguments.
    """
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{name}: forward{signature} does not take what was given: {error}") from None
    named: dict[str, Any] = {}
    for key, value in bound.arguments.items():
        kind = signature.parameters[key].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{key}{i}": item for i, item in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[key] = value
    return named


class LayerSubject(Subject):
    """A layer (or loss): its inputs, and every parameter below it. It works on a copy of the layer."""

    def __init__(
        self,
        layer: Layer,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        wrt: Iterable[str] | None = None,
        jitter: float = 0.25,
        seed: int = 0,
        device: str | None = None,
        dtype: str = "float64",
    ):
        if not isinstance(layer, Layer):
            raise ConfigError(f"check.layer: expected a Layer, got {type(layer).__name__}")
        name = type(layer).__name__
        for stage in ("forward", "backward"):
            if not callable(getattr(layer, stage, None)):
                raise Fault(f"{name} has no method named {stage}", stage)
        self.positional = len(args)
        super().__init__(
            name, bind(name, layer.forward, args, kwargs), wrt, dtype, device or _home(layer, (*args, *kwargs.values()))
        )
        self.layer = copy.deepcopy(layer).to(self.device).astype(dtype)
        self.takes_upstream = bool(inspect.signature(layer.backward).parameters)
        rng = np.random.default_rng([seed, 1])
        for key, parameter in self.layer.named_parameters():
            value = on_host(parameter.data)
            # Weights of one and biases of zero hide errors (a forgotten factor is a factor of one), so move them.
            size = float(np.sqrt(np.mean(value**2))) if value.size else 0.0
            self.values[key] = value + jitter * (size or 1.0) * rng.standard_normal(value.shape)
            self.kinds[key] = "parameter"
        self.load(self.values)
        # The default generator too: a layer may draw from it in forward.
        self._noise = [(g, g.get_state()) for g in (*self.layer.generators(), default_generator())]

    def like(self, dtype: str) -> LayerSubject:
        twin = copy.copy(self)
        twin.dtype = dtype
        twin.layer = copy.deepcopy(self.layer).astype(dtype)
        generators: list[Generator] = [*twin.layer.generators(), default_generator()]
        twin._noise = [(g, state) for g, (_, state) in zip(generators, self._noise, strict=True)]
        return twin

    def evaluating(self) -> LayerSubject:
        """The same layer in evaluation mode."""
        twin = self.like(self.dtype)
        twin.layer.eval()
        return twin

    def rewind(self) -> None:
        """Let the next forward draw the same noise as the first."""
        for generator, state in self._noise:
            generator.set_state(state)

    def load(self, values: Values) -> None:
        """Set the parameters to `values`."""
        for key, parameter in self.layer.named_parameters():
            parameter.data[...] = to_device(values[key].astype(self.dtype), self.device)

    def call(self, arguments: dict[str, Any]) -> Any:
        """Forward of the layer as it stands."""
        positional, named = self.gather(arguments)
        outputs = self.layer(*positional, **named)
        whole = outputs if isinstance(outputs, tuple | list) else (outputs,)
        self._output_form = nest(whole, itertools.repeat(None))
        return outputs

    def call_backward(self, upstream: list[Any]) -> list[Any]:
        """Backward of the layer as it stands."""
        if not self.takes_upstream:
            return to_list(self.layer.backward())
        return to_list(self.layer.backward(*nest(self._output_form, iter(upstream))))

    def forward(self, values: Values) -> list[np.ndarray]:
        self.load(values)
        self.rewind()
        with inference():
            outputs = self.call(self.arguments(values))
        return [on_host(y) for y in to_list(outputs)]

    def backward(self, values: Values, upstream: list[np.ndarray]) -> Values:
        self.load(values)
        self.layer.clear_saved()
        self.layer.zero_grad()
        self.rewind()
        self.call(self.arguments(values))
        return self.collect(self.call_backward(self.place_upstream(upstream)))

    def collect(self, returned: list[Any]) -> Values:
        """Gradients by name: of the inputs as `returned`, of the parameters as accumulated."""
        found = self.match(returned, [key for key, kind in self.kinds.items() if kind == "input"])
        return found | {key: on_host(parameter.grad) for key, parameter in self.layer.named_parameters()}


def _home(layer: Layer, inputs: Iterable[Any]) -> str:
    """The device of the layer's parameters, or else of its first array input."""
    for parameter in layer.parameters():
        return device_of(parameter.data)
    return next((device_of(value) for value in inputs if is_array(value)), "cpu")


class OpSubject(Subject):
    """A pair of functions, ``forward`` and ``backward``, as ops are.

    Backward is called by the names of its parameters: the first is the gradient of forward's first result, one
    named as an input of forward is that input, ``y`` is forward's first result, and the names left over are
    forward's further results, in order.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        wrt: Iterable[str] | None = None,
        device: str | None = None,
        dtype: str = "float64",
    ):
        self._forward, self._backward = forward, backward
        name = str(getattr(forward, "name", None) or getattr(forward, "__name__", type(forward).__name__))
        if device is None:
            device = next((device_of(value) for value in (*args, *kwargs.values()) if is_array(value)), "cpu")
        self.positional = len(args)
        super().__init__(name, bind(name, forward, args, kwargs), wrt, dtype, device)
        self._defaults = {
            key: parameter.default
            for key, parameter in inspect.signature(forward).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }

    def like(self, dtype: str) -> OpSubject:
        twin = copy.copy(self)
        twin.dtype = dtype
        return twin

    def call(self, arguments: dict[str, Any]) -> list[Any]:
        """All results of forward; the first is the output, the others are kept for backward."""
        positional, named = self.gather(arguments)
        return to_list(self._forward(*positional, **named))

    def call_backward(self, upstream: list[Any], arguments: dict[str, Any], results: list[Any]) -> list[Any]:
        """Call backward with what its parameters' names ask for."""
        parameters = inspect.signature(self._backward).parameters
        known = self._defaults | arguments
        kept = iter(results[1:])
        given: list[Any] = [upstream[0]]
        for key in list(parameters)[1:]:
            if key in known:
                given.append(known[key])
            elif key in ("y", "out", "output"):
                given.append(results[0])
            else:
                extra = next(kept, None)
                if extra is None and parameters[key].default is not inspect.Parameter.empty:
                    break
                if extra is None:
                    raise ConfigError(
                        f"check.op: cannot tell what backward's parameter {key!r} is: it is no input of {self.name} "
                        f"({', '.join(known)}), not 'y', and forward returned {len(results)} result(s). "
                        "Wrap backward in a lambda whose parameters have these names."
                    )
                given.append(extra)
        return to_list(self._backward(*given))

    def forward(self, values: Values) -> list[np.ndarray]:
        return [on_host(self.call(self.arguments(values))[0])]

    def backward(self, values: Values, upstream: list[np.ndarray]) -> Values:
        arguments = self.arguments(values)
        results = self.call(arguments)
        returned = self.call_backward(self.place_upstream(upstream), arguments, results)
        wanted = list(self.values)
        if len(returned) > len(wanted):  # a backward may return None for what has no gradient, such as a bias of None
            returned = [gradient for gradient in returned if gradient is not None]
        return self.match(returned, wanted)

"""What every layer shares: arrays that register by assignment, and a stack of what forward saved.

Nothing here records a graph. ``forward`` saves what its ``backward`` will need, ``backward`` takes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from ..backend import (
    Array,
    Generator,
    asarray,
    check_device,
    device_of,
    inference,
    is_inference,
    is_outline,
    outlined,
    to_device,
    to_host,
)
from ..errors import BackwardError, ConfigError, DtypeError, ShapeError, did_you_mean, format_shape
from .parameter import Buffer, Parameter

if TYPE_CHECKING:
    from ..optim.base import Optimizer

__all__ = [
    "Buffer",
    "Layer",
    "Parameter",
    "check_last_axis",
    "check_positive",
    "check_probability",
    "parameter",
]

_UNTAKEN_FORWARDS = 1000  # so many forwards without a backward are a leak, not a recurrence


class Layer:
    """A function with parameters that knows its own gradient.

    A subclass assigns parameters, buffers and child layers in ``__init__`` and writes ``forward`` and ``backward``.
    ``backward(dy)`` accumulates the gradient of each parameter and returns the gradient of each array that
    ``forward`` took, in order.

    Attributes
    ----------
    training : bool, switched by :meth:`train` and :meth:`eval`
    """

    _parameters: dict[str, Parameter]
    _buffers: dict[str, Buffer]
    _children: dict[str, Layer]
    _saved: list[tuple[Any, ...]]
    training: bool

    def __init__(self) -> None:
        self.__dict__.update(_parameters={}, _buffers={}, _children={}, _saved=[], training=True)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter | Buffer | Layer):
            if "_parameters" not in self.__dict__:
                raise BackwardError(
                    f"call super().__init__() first in {type(self).__name__}.__init__, before assigning {name!r}"
                )
            self._unregister(name)
            if isinstance(value, Parameter):
                self._parameters[name] = value
            elif isinstance(value, Buffer):
                self._buffers[name] = value
            else:
                self._children[name] = value
        elif "_parameters" in self.__dict__:
            kind = "Parameter" if name in self._parameters else "Buffer" if name in self._buffers else None
            if kind is not None and value is not None:
                raise ConfigError(
                    f"{type(self).__name__}.{name} is a {kind.lower()}: give a {kind}, or change its values with "
                    f"{name}.data[...] = ...; got {type(value).__name__}"
                )
            self._unregister(name)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._unregister(name)

    def _unregister(self, name: str) -> None:
        for registered in (self._parameters, self._buffers, self._children):
            registered.pop(name, None)

    # -- the contract ---------------------------------------------------------------------------------

    # Subclasses take and return the arrays their maths asks for, so the signature here is open.
    forward: Callable[..., Any]
    backward: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def update(self, optimizer: Optimizer) -> None:
        """Let `optimizer` apply the gradients of this layer's parameters and of its children's."""
        optimizer.step(only=self.parameters())

    def save(self, *values: Any) -> None:
        """Keep `values` for the backward pass, on a stack: a layer may run several times before its backward."""
        if is_inference():
            return
        self._saved.append(values)
        if len(self._saved) == _UNTAKEN_FORWARDS:
            warnings.warn(
                f"{type(self).__name__}: forward ran {_UNTAKEN_FORWARDS} times without a backward and holds the memory "
                "of them all; evaluate under `with tg.inference():`, or call clear_saved()",
                stacklevel=3,
            )

    def saved(self) -> Any:
        """Take back what the latest forward saved: a tuple, or the value itself if it was one.

        Raises
        ------
        BackwardError
            If there is no forward left whose backward has not been taken.
        """
        if not self._saved:
            raise BackwardError(
                f"{type(self).__name__}.backward: no forward to go back through. Each forward is taken by one backward "
                "(was backward called twice, or did forward run under tg.inference()?)"
            )
        values = self._saved.pop()
        return values[0] if len(values) == 1 else values

    def clear_saved(self) -> None:
        """Forget what forwards saved, here and in all children, as after an interrupted step."""
        for layer in self.layers():
            layer._saved.clear()

    # -- the tree -------------------------------------------------------------------------------------

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer (named `prefix`) and all below it, depth first, each once."""
        seen: set[int] = set()

        def walk(name: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
            if id(layer) in seen:
                return
            seen.add(id(layer))
            yield name, layer
            for child_name, child in layer._children.items():
                yield from walk(f"{name}.{child_name}" if name else child_name, child)

        yield from walk(prefix, self)

    def layers(self) -> Iterator[Layer]:
        """This layer and all below it."""
        return (layer for _, layer in self.named_layers())

    def named_state(self) -> Iterator[tuple[str, Parameter | Buffer]]:
        """Every parameter and buffer with its dotted name, in torch's order; a shared one once, by its first name.

        Of each layer the parameters, in order of assignment, then the buffers, then the same of its children.
        """
        seen: set[int] = set()
        for name, layer in self.named_layers():
            registered: dict[str, Parameter | Buffer] = {**layer._parameters, **layer._buffers}
            for own, held in registered.items():
                if id(held) not in seen:
                    seen.add(id(held))
                    yield (f"{name}.{own}" if name else own), held

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter with its dotted name, in order of assignment; a shared one once, by its first name."""
        return ((name, held) for name, held in self.named_state() if isinstance(held, Parameter))

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Every buffer with its dotted name, in order of assignment; a shared one once, by its first name."""
        return ((name, held) for name, held in self.named_state() if isinstance(held, Buffer))

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter, each once."""
        return (parameter for _, parameter in self.named_parameters())

    def buffers(self) -> Iterator[Buffer]:
        """Every buffer, each once."""
        return (buffer for _, buffer in self.named_buffers())

    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return sum(parameter.size for parameter in self.parameters())

    def generators(self) -> Iterator[Generator]:
        """Every random generator that this layer or a child holds, each once."""
        seen: set[int] = set()
        for layer in self.layers():
            generator = layer.__dict__.get("generator")
            if isinstance(generator, Generator) and id(generator) not in seen:
                seen.add(id(generator))
                yield generator

    # -- modes, gradients, types and places ----------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Switch to training (dropout on, statistics of the batch), here and below."""
        for layer in self.layers():
            layer.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation (dropout off, running statistics), here and below."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """``eval()`` and ``inference()`` for a while; each layer then has the mode again that it had before."""
        before = [(layer, layer.training) for layer in self.layers()]
        self.eval()
        try:
            with inference():
                yield
        finally:
            for layer, training in before:
                layer.training = training

    def zero_grad(self) -> None:
        """Forget all gradients."""
        flat = self.__dict__.get("flat")
        if flat is not None and flat.holds(self):
            flat.grad.fill(0)
            return
        for parameter in self.parameters():
            parameter.zero_grad()

    def _convert(self, change: Callable[[Array], Array]) -> Self:
        for parameter in self.parameters():
            if is_outline():
                parameter.data = outlined(parameter.shape, change(parameter.data.reshape(-1)[:1]).dtype)
            else:
                parameter.data = change(parameter.data)
            parameter.grad = None
        for buffer in self.buffers():
            buffer.data = change(buffer.data)
        self.clear_saved()
        for layer in self.layers():
            layer.__dict__.pop("flat", None)
        if self.__dict__.get("_flatten_again"):
            self.flatten()
        return self

    def astype(self, dtype: Any) -> Self:
        """Cast all parameters, and the buffers that hold floats, to `dtype` (float32 or float64).

        Gradients are forgotten.

        Raises
        ------
        DtypeError
            For another type: integers hold no weights, and float16 neither Adam's averages nor its eps.
        """
        for _, held in self.named_state():
            name = held.data.reshape(-1)[:0].astype(dtype).dtype.name
            if name not in ("float32", "float64"):
                raise DtypeError(f"{type(self).__name__}.astype: dtype must be float32 or float64, got {name}")
        return self._convert(lambda data: data.astype(dtype) if data.dtype.kind == "f" else data)

    def to(self, device: str) -> Self:
        """Move all parameters and buffers to ``"cpu"`` or ``"cuda"``. Gradients are forgotten.

        Raises
        ------
        DeviceError
            If the device is unknown, or is not there.
        """
        check_device(device)  # also where there is nothing to move
        return self._convert(lambda data: to_device(data, device))

    def flatten(self) -> Self:
        """Lay all parameters in one flat array, all gradients in another; they become views. Buffers stay apart."""
        from .flat import FlatParameters

        self._flatten_again = True
        if not is_outline():
            self.flat = FlatParameters(self)
        return self

    # -- copies ---------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """For ``copy.deepcopy`` and for other processes: all but the flat buffers, which a copy lays anew."""
        return {**self.__dict__, "flat": None} if "flat" in self.__dict__ else dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "flat" in state:  # copied one by one, the parameters would no longer be views of one buffer
            self.flatten()

    # -- state ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """All parameters and buffers by name: the arrays themselves, not copies, named and laid out as in torch.nn."""
        return {name: held.data for name, held in self.named_state()}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Copy values into the parameters and buffers, cast to their type. Nothing is changed unless all of it fits.

        Parameters
        ----------
        state : arrays by name, as :meth:`state_dict` gives (NumPy, CuPy or torch)
        strict : False to allow missing and unexpected names

        Raises
        ------
        ShapeError
            Listing *all* missing, unexpected and misshapen entries.
        DtypeError
            If `state` is no dict, or an entry is no array of real numbers, or one of fractions for an integer buffer.
        """
        if not isinstance(state, Mapping):
            raise DtypeError(f"load_state_dict: state must be a dict of arrays by name, got {type(state).__name__}")
        own = dict(self.named_state())
        wrong = []
        state = {name: values if hasattr(values, "shape") else asarray(values) for name, values in state.items()}
        if strict:
            wrong += [f"missing: {name} {format_shape(own[name].shape)}" for name in own if name not in state]
            wrong += [f"unexpected: {name}{did_you_mean(name, own)}" for name in state if name not in own]
        for name, held in own.items():
            if name in state and tuple(state[name].shape) != held.shape:
                found = format_shape(tuple(state[name].shape))
                wrong.append(f"misshapen: {name} expected {format_shape(held.shape)}, got {found}")
        if wrong:
            raise ShapeError(f"the state does not fit {type(self).__name__}:\n  " + "\n  ".join(wrong))
        arrays = {name: to_host(state[name]) for name in own if name in state}
        for name, values in arrays.items():
            if values.dtype.kind in "cOSUmM":
                raise DtypeError(f"load_state_dict: {name} must be an array of real numbers, got {values.dtype}")
            if own[name].dtype.kind in "iu" and (values.astype(own[name].dtype) != values).any():
                raise DtypeError(f"load_state_dict: {name} must be whole numbers ({own[name].dtype}), got {values}")
        for name, values in arrays.items():
            held = own[name]
            held.data[...] = to_device(values.astype(held.dtype), device_of(held.data))

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return ""

    def __repr__(self) -> str:
        if not self._children:
            return f"{type(self).__name__}({self.extra_repr()})"
        rows = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self._children.items()]
        return f"{type(self).__name__}(\n  " + "\n  ".join(rows) + "\n)"


# -- checks that several layers make of their arguments ----------------------------------------------------


def check_last_axis(layer: Layer, x: Array, size: int, axes: str = "..., ") -> None:
    """Raise ShapeError unless the last axis of `x` has length `size`."""
    if x.ndim == 0 or x.shape[-1] != size:
        raise ShapeError(
            f"{type(layer).__name__}: expected ({axes}{size}), got {format_shape(tuple(x.shape))}: "
            f"the last axis must have length {size}"
        )


def check_positive(layer: str, **values: Any) -> None:
    """Raise ConfigError unless every value is an integer >= 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{layer}: {name} must be an integer >= 1, got {value!r}")


def check_probability(layer: str, **values: Any) -> None:
    """Raise ConfigError unless every value is a number in [0, 1)."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ConfigError(f"{layer}: {name} must be a number in [0, 1), got {value!r}")


def parameter(values: Any, dtype: Any = "float32") -> Parameter:
    """A parameter from initial values, on the current device."""
    return Parameter(asarray(values, dtype=dtype))

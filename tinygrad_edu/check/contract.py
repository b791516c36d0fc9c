"""The promises that layers make to each other, each tried out: what a right gradient alone does not show."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import inference, to_host
from ..errors import BackwardError
from .engine import Examination
from .report import Finding
from .subject import Fault, LayerSubject, OpSubject, Subject, Values, is_array, on_host, to_list

TOLERANCE = 1e-11  # the same sums in another order
EPS32 = float(np.finfo(np.float32).eps)


class BrokenPromise(Exception):  # noqa: N818 - a finding, not an error of the program
    """A promise that is not kept; its text says how."""


def _close(a: np.ndarray, b: np.ndarray, rtol: float = TOLERANCE) -> bool:
    if a.shape != b.shape:
        return False
    size = float(np.max(np.abs(b), initial=0.0))
    return bool(np.all(np.abs(a - b) <= rtol * size + 1e-13))


def _same_gradients(found: Values, wanted: Values, what: str) -> None:
    for key, right in wanted.items():
        if not _close(found[key], right):
            raise BrokenPromise(f"the gradient of {key} {what}")


def _snapshot(arrays: list[Any]) -> list[np.ndarray | None]:
    return [np.array(to_host(a)) if is_array(a) else None for a in arrays]


def _unchanged(names: list[str], arrays: list[Any], before: list[np.ndarray | None], by: str) -> None:
    for name, array, old in zip(names, arrays, before, strict=True):
        if old is not None and not np.array_equal(np.array(to_host(array)), old, equal_nan=old.dtype.kind == "f"):
            raise BrokenPromise(f"{by} changed {name} in place; compute into a new array instead")


# -- layers ----------------------------------------------------------------------------------------------------


def _inputs_unchanged(subject: LayerSubject, upstream: list[np.ndarray]) -> None:
    """Neither pass changes an input, a parameter, or the gradient that came in; nor backward the output."""
    subject.load(subject.values)
    subject.rewind()
    arguments = subject.arguments(subject.values)
    parameters = dict(subject.layer.named_parameters())
    names = [*arguments, *parameters]
    arrays = [*arguments.values(), *(parameter.data for parameter in parameters.values())]
    before = _snapshot(arrays)
    outputs = to_list(subject.call(arguments))
    _unchanged(names, arrays, before, "forward")  # buffers may change there: that is what they are for
    buffers = dict(subject.layer.named_buffers())
    names, arrays = [*names, *buffers], [*arrays, *(buffer.data for buffer in buffers.values())]
    before = _snapshot(arrays)
    kept = _snapshot(outputs)
    gradients = subject.place_upstream(upstream)
    given = _snapshot(gradients)
    subject.call_backward(gradients)
    _unchanged(names, arrays, before, "backward")
    _unchanged(["the gradient it was given"] * len(gradients), gradients, given, "backward")
    _unchanged(["its own output"] * len(outputs), outputs, kept, "backward")


def _second_values(subject: LayerSubject) -> Values:
    """Other inputs, same parameters."""
    return {
        key: value[::-1] * 0.9 if subject.kinds[key] == "input" and value.ndim else value
        for key, value in subject.values.items()
    }


def _parameter_gradients(subject: LayerSubject) -> Values:
    return {key: on_host(parameter.grad) for key, parameter in subject.layer.named_parameters()}


def _stack(subject: LayerSubject, upstream: list[np.ndarray]) -> None:
    """Two forwards, then two backwards, latest first: as each pair by itself."""
    inputs = [key for key, kind in subject.kinds.items() if kind == "input"]
    values = [subject.values, _second_values(subject)]
    ups = [upstream, [0.5 - u for u in upstream]]
    if not subject.takes_upstream:
        ups[1] = upstream
    subject.load(subject.values)

    def start() -> None:
        subject.layer.clear_saved()
        subject.layer.zero_grad()
        subject.rewind()

    start()
    apart = []
    for value, u in zip(values, ups, strict=True):
        subject.call(subject.arguments(value))
        apart.append(subject.match(subject.call_backward(subject.place_upstream(u)), inputs))
    summed = _parameter_gradients(subject)
    start()
    for value in values:
        subject.call(subject.arguments(value))
    for value_number in (1, 0):
        try:
            returned = subject.call_backward(subject.place_upstream(ups[value_number]))
        except BackwardError:
            raise BrokenPromise(
                "of two forwards only the last was kept; keep values with self.save(...) and take them "
                "with self.saved(), which is a stack"
            ) from None
        _same_gradients(
            subject.match(returned, inputs),
            apart[value_number],
            "is wrong when forward runs twice before backward; keep values with self.save(...), which is a stack",
        )
    _same_gradients(_parameter_gradients(subject), summed, "is wrong when forward runs twice before backward")


def _accumulates(subject: LayerSubject, upstream: list[np.ndarray]) -> None:
    """Forward and backward again, without clearing: every parameter's gradient is doubled."""
    once = subject.backward(subject.values, upstream)
    subject.rewind()
    subject.call(subject.arguments(subject.values))
    subject.call_backward(subject.place_upstream(upstream))
    doubled = {key: 2 * once[key] for key, kind in subject.kinds.items() if kind == "parameter"}
    _same_gradients(
        _parameter_gradients(subject), doubled, "did not double after a second pass: add to it (parameter.accumulate)"
    )


def _backward_once(subject: LayerSubject, upstream: list[np.ndarray]) -> None:
    """Backward takes all that forward saved, and a second backward is an error."""
    subject.backward(subject.values, upstream)
    left = [name or "the layer itself" for name, layer in subject.layer.named_layers() if layer._saved]
    if left:
        raise BrokenPromise(f"backward left saved values behind in {', '.join(left)}: memory grows with every step")
    try:
        subject.call_backward(subject.place_upstream(upstream))
    except BackwardError:
        return
    except Exception as error:
        raise BrokenPromise(
            f"a second backward raised {type(error).__name__} where BackwardError is wanted: {error}"
        ) from None
    raise BrokenPromise(
        "a second backward on one forward raised nothing; keep values with self.save(...) "
        "and take them with self.saved()"
    )


def _inference_keeps_nothing(subject: LayerSubject, upstream: list[np.ndarray]) -> None:
    """Under inference() the same output, and nothing kept."""
    subject.load(subject.values)
    subject.layer.clear_saved()
    subject.rewind()
    learning = [on_host(y) for y in to_list(subject.call(subject.arguments(subject.values)))]
    subject.layer.clear_saved()
    subject.rewind()
    with inference():
        outputs = [on_host(y) for y in to_list(subject.call(subject.arguments(subject.values)))]
    kept = [name or "the layer itself" for name, layer in subject.layer.named_layers() if layer._saved]
    if kept:
        raise BrokenPromise(f"values were saved under inference() in {', '.join(kept)}")
    if not all(_close(a, b) for a, b in zip(outputs, learning, strict=True)):
        raise BrokenPromise("the output under inference() is another than outside of it")


def _evaluation(subject: LayerSubject, upstream: list[np.ndarray]) -> None:
    """After eval(): no noise, and the gradient is that of what is then computed."""
    evaluating = subject.evaluating()
    if any(layer.training for layer in evaluating.layer.layers()):
        raise BrokenPromise("eval() did not reach every layer below")
    evaluating.rewind()
    arguments = evaluating.arguments(evaluating.values)
    state = evaluating.layer.state_dict()
    before = _snapshot(list(state.values()))
    with inference():
        first, second = (to_list(evaluating.call(arguments)) for _ in range(2))
    if not all(np.array_equal(on_host(a), on_host(b)) for a, b in zip(first, second, strict=True)):
        raise BrokenPromise("two forwards after eval() differ: noise belongs to training alone")
    _unchanged(list(state), list(state.values()), before, "forward after eval()")
    if Examination(subject).joint_agrees() and not Examination(evaluating).joint_agrees():
        raise BrokenPromise("the gradient is right in training and wrong after eval()")


def _state(subject: LayerSubject, upstream: list[np.ndarray]) -> None:
    """state_dict() of one layer, loaded into another, makes it compute the same."""
    wanted = subject.forward(subject.values)
    state = {key: np.array(to_host(value)) for key, value in subject.layer.state_dict().items()}
    other = copy.deepcopy(subject.layer)
    for _, held in other.named_state():
        held.data[...] = 3  # an integer too may hold it
    other.load_state_dict(state)
    for (key, mine), (_, theirs) in zip(subject.layer.named_state(), other.named_state(), strict=True):
        if not np.array_equal(on_host(mine.data), on_host(theirs.data)):
            raise BrokenPromise(f"{key} is another after state_dict() and load_state_dict()")
    twin = subject.like(subject.dtype)
    twin.layer.load_state_dict(state)
    if not all(np.array_equal(a, b) for a, b in zip(twin.forward(subject.values), wanted, strict=True)):
        raise BrokenPromise("the output is another after state_dict() and load_state_dict()")


def _batch_independent(subject: LayerSubject, upstream: list[np.ndarray]) -> None:
    """Each example of a batch gives what it gives alone (noise off)."""
    whole = subject.evaluating()
    batch = next((int(v.shape[0]) for v in whole.inputs.values() if is_array(v) and v.ndim), 0)
    if batch < 2 or any(y.ndim == 0 or y.shape[0] != batch for y in upstream):
        return
    outputs = whole.forward(whole.values)
    gradients = whole.backward(whole.values, upstream)
    for place in (0, batch - 1):
        one = slice(place, place + 1)

        def cut(value: Any, one: slice = one) -> Any:
            return value[one] if is_array(value) and value.ndim and value.shape[0] == batch else value

        alone = whole.like(whole.dtype)
        alone.inputs = {key: cut(value) for key, value in whole.inputs.items()}
        alone.values = {key: cut(v) if whole.kinds[key] == "input" else v for key, v in whole.values.items()}
        for y, wanted in zip(alone.forward(alone.values), outputs, strict=True):
            if not _close(y, wanted[one]):
                raise BrokenPromise(f"the output for example {place} depends on the other examples of its batch")
        found = alone.backward(alone.values, [u[one] for u in upstream])
        inputs = {key: gradients[key][one] for key, kind in whole.kinds.items() if kind == "input"}
        _same_gradients(found, inputs, f"for example {place} depends on the other examples of its batch")


def _float32(subject: Subject, upstream: list[np.ndarray]) -> None:
    """float32 stays float32, and is as near to float64 as rounding allows."""
    single = subject.like("float32")
    values = {key: value.astype(np.float32).astype(np.float64) for key, value in subject.values.items()}
    ups = [u.astype(np.float32).astype(np.float64) for u in upstream]
    _check_types(single, values, ups)
    exact = dict(enumerate(subject.forward(values))) | subject.backward(values, ups)
    found = dict(enumerate(single.forward(values))) | single.backward(values, ups)
    largest = max([a.size for a in (*values.values(), *upstream)], default=1)
    size = max([float(np.max(np.abs(a), initial=0.0)) for a in exact.values()], default=0.0)
    for key, right in exact.items():
        # Intermediate values may be as large as the largest result, so that is what rounding is measured against.
        limit = 8 * EPS32 * max(largest, 1) ** 0.5 * max(size, 1.0)
        error = float(np.max(np.abs(found[key] - right), initial=0.0))
        if not error <= limit:
            what = "the output" if isinstance(key, int) else f"the gradient of {key}"
            raise BrokenPromise(
                f"{what} is off by {error:.2g} in float32, rounding explains {limit:.2g}: an unstable formula?"
            )


def _check_types(single: Subject, values: Values, upstream: list[np.ndarray]) -> None:
    arguments, ups = single.arguments(values), single.place_upstream(upstream)
    if isinstance(single, LayerSubject):
        single.load(values)
        single.rewind()
        outputs = to_list(single.call(arguments))
        gradients = single.call_backward(ups)
    else:
        assert isinstance(single, OpSubject)
        outputs = single.call(arguments)
        gradients = single.call_backward(ups, arguments, outputs)
    for what, arrays in (("forward", outputs), ("backward", gradients)):
        for array in arrays:
            if is_array(array) and array.dtype.kind == "f" and array.dtype != np.float32:
                raise BrokenPromise(
                    f"{what} gave {array.dtype} for float32: a NumPy float64 scalar or array promotes it"
                )


# -- ops -------------------------------------------------------------------------------------------------------


def _op_inputs_unchanged(subject: OpSubject, upstream: list[np.ndarray]) -> None:
    arguments = subject.arguments(subject.values)
    before = _snapshot(list(arguments.values()))
    results = subject.call(arguments)
    _unchanged(list(arguments), list(arguments.values()), before, "forward")
    gradients, kept = subject.place_upstream(upstream), _snapshot(results)
    given = _snapshot(gradients)
    subject.call_backward(gradients, arguments, results)
    _unchanged(list(arguments), list(arguments.values()), before, "backward")
    _unchanged(["the gradient it was given"] * len(gradients), gradients, given, "backward")
    _unchanged(["what forward returned"] * len(results), results, kept, "backward")


LAYER_PROMISES: dict[str, Callable[[LayerSubject, list[np.ndarray]], None]] = {
    "inputs unchanged": _inputs_unchanged,
    "a stack": _stack,
    "gradients accumulate": _accumulates,
    "one backward a forward": _backward_once,
    "inference keeps nothing": _inference_keeps_nothing,
    "train and eval": _evaluation,
    "state_dict": _state,
    "float32": _float32,
}
OP_PROMISES: dict[str, Callable[[OpSubject, list[np.ndarray]], None]] = {
    "inputs unchanged": _op_inputs_unchanged,
    "float32": _float32,
}


def promises(subject: Subject, upstream: list[np.ndarray], batched: bool) -> list[Finding]:
    """Try out every promise that applies to `subject`.

    Parameters
    ----------
    upstream : a gradient for each output
    batched : whether each example of a batch must be independent of the others
    """
    table: dict[str, Callable[..., None]] = dict(LAYER_PROMISES if isinstance(subject, LayerSubject) else OP_PROMISES)
    if batched and isinstance(subject, LayerSubject):
        table["examples are independent"] = _batch_independent
    findings = []
    for name, attempt in table.items():
        try:
            attempt(subject, upstream)
        except (BrokenPromise, Fault) as broken:
            findings.append(Finding(name, False, str(broken)))
        except Exception as error:
            findings.append(Finding(name, False, f"raised {type(error).__name__}: {error}"))
        else:
            findings.append(Finding(name, True))
        if isinstance(subject, LayerSubject):
            subject.layer.clear_saved()
    return findings


def adjoint_error(subject: OpSubject, name: str, rng: np.random.Generator) -> float:
    r"""How far :math:`\langle Jv, u\rangle = \langle v, J^\top u\rangle` is from holding, for a map linear in `name`.

    A linear map is its own derivative: J v is ``f(v) - f(0)``, without any differences to take.

    Returns
    -------
    float, relative to the size of the products that are summed
    """
    value = subject.values[name]
    direction = rng.standard_normal(value.shape)
    at = [subject.forward(subject.values | {name: x})[0] for x in (direction, np.zeros(value.shape))]
    image = at[0] - at[1]
    u = rng.standard_normal(image.shape)
    back = subject.backward(subject.values, [u])[name]
    size = float(np.sum(np.abs(image * u)) + np.sum(np.abs(direction * back)))
    return abs(float(np.sum(image * u)) - float(np.sum(direction * back))) / (size or 1.0)

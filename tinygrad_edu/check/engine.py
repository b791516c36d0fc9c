"""The check itself: the hand-written gradient against central differences and, where there is a twin, torch."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_host
from ..errors import ConfigError
from .diagnose import Context, explain, worst_entry
from .locate import backward_order, blame, trace
from .numeric import Derivative, directional, entry_gradient, inner, moved
from .report import Report, TensorResult
from .subject import Fault, LayerSubject, Subject, Values, is_array
from .twin import Twin

FLOOR = 1e-13  # absolute difference below which float64 results of order one count as equal
KINK = (
    "The forward has a kink or a tie at this input, so there is no derivative to compare with: "
    "check at an input a little way off."
)
FORWARD_WRONG = "Yours and numeric agree, torch differs: your backward fits your forward, and your forward is wrong."
UNSETTLED = (
    "The numeric derivative does not settle however small the step: the forward jumps near this input, "
    "or its result is so large that the differences drown in rounding."
)


def axis_names(shape: Sequence[int], kind: str, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names for the axes of a tensor: those given, or the usual ones for so many axes."""
    if given is not None and len(given) == len(shape):
        return tuple(given)
    usual: dict[int, tuple[str, ...]] = {1: ("channel",), 2: ("batch", "channel"), 3: ("batch", "time", "channel")}
    usual[4] = ("batch", "head", "time", "channel")
    if kind == "parameter":
        usual = {1: ("channel",), 2: ("out", "in")}
    return usual.get(len(shape), tuple(f"axis{i}" for i in range(len(shape))))


@dataclass
class Along:
    """Yours and numeric along one random direction.

    Attributes
    ----------
    agree : whether they do, within the tolerance
    error : their difference, relative to the size of the derivative
    yours, numeric : the two derivatives
    direction : by tensor name
    """

    agree: bool
    error: float
    yours: float
    numeric: Derivative
    direction: Values


class Examination:
    """One run of the check over one subject.

    Parameters
    ----------
    seeds : how many random directions, each with a random gradient of the output
    rtol : allowed difference between yours and numeric, relative to the size of the directional derivative
    torch_rtol : allowed difference from torch, relative to the largest entry of a tensor
    axes : names of axes by tensor name
    """

    def __init__(
        self,
        subject: Subject,
        twin: Twin | None = None,
        *,
        seeds: int = 3,
        seed: int = 0,
        rtol: float = 1e-7,
        torch_rtol: float = 1e-10,
        axes: Mapping[str, Sequence[str]] | None = None,
    ):
        self.subject, self.twin = subject, twin
        self.seeds, self.rtol, self.torch_rtol = seeds, rtol, torch_rtol
        self.rng = np.random.default_rng([seed, 2])
        self.axes = dict(axes or {})
        self.values = subject.values
        self.outputs = subject.forward(self.values)
        self._check_forward()

    def _check_forward(self) -> None:
        again = self.subject.forward(self.values)
        if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(self.outputs, again, strict=True)):
            raise Fault(
                "forward gave two different results for one input: let its random numbers come from a Generator that "
                "the layer holds as `self.generator`, so that the check can repeat them",
                "forward",
            )
        for y in self.outputs:
            if not np.all(np.isfinite(y)):
                bad = int(np.sum(~np.isfinite(y)))
                raise Fault(f"forward gave {bad} values that are not finite, of {y.size}", "forward")

    def upstream(self) -> list[np.ndarray]:
        """A random gradient for each output; never a sum, under which many wrong gradients look right."""
        if self.subject.takes_upstream:
            return [self.rng.standard_normal(y.shape) for y in self.outputs]
        return [np.ones(y.shape) for y in self.outputs]

    # -- numeric --------------------------------------------------------------------------------------

    def compare(self, yours: Values, names: Sequence[str], upstream: list[np.ndarray]) -> Along:
        """Yours and numeric along one random direction over the tensors `names` jointly."""
        direction = {name: self.rng.standard_normal(self.values[name].shape) for name in names}
        parts = [yours[name] * direction[name] for name in names]
        mine = float(sum(np.sum(part) for part in parts))
        size = float(np.sqrt(sum(np.sum(part**2) for part in parts)))
        numeric = directional(self.subject.forward, self.values, direction, upstream, 0.1 * self.rtol * size)
        scale = max(size, abs(numeric.value)) + FLOOR
        difference = abs(mine - numeric.value)
        finite = bool(np.isfinite(mine))
        agree = finite and numeric.settled and difference <= self.rtol * scale + numeric.noise
        error = 0.0 if difference <= FLOOR else difference / scale
        return Along(agree, error if finite else np.inf, mine, numeric, direction)

    def joint_agrees(self) -> bool:
        """Whether one random direction over everything agrees: the cheapest check that there is."""
        upstream = self.upstream()
        yours = self.gradients(upstream)
        if any(yours[name].shape != self.values[name].shape for name in self.values):
            return False
        return not self.values or self.compare(yours, list(self.values), upstream).agree

    def gradients(self, upstream: list[np.ndarray]) -> Values:
        """Yours; whatever backward raises becomes a :class:`Fault` that says where."""
        try:
            return self.subject.backward(self.values, upstream)
        except (Fault, ConfigError):  # a ConfigError is about how the check was called
            raise
        except Exception as error:
            raise Fault(f"backward raised {type(error).__name__}: {error} ({_origin(error)})") from error

    # -- the report -----------------------------------------------------------------------------------

    def report(self) -> Report:
        """All seeds, all tensors, and where something is wrong, what."""
        report = Report(self.subject.name, seeds=self.seeds)
        order, first = list(self.values), self.upstream()
        calls: dict[str, tuple[Any, ...]] = {}
        yours = self.gradients(first)
        if isinstance(self.subject, LayerSubject):
            layers, calls = trace(self.subject, first)
            order = backward_order(self.subject, layers)
        theirs: Values = {}
        if self.twin is not None:
            outputs, theirs = self.twin.run(self.values, first)
            report.tensors += self._compare_outputs(outputs)
        else:
            report.tensors += [
                TensorResult(_output_name(i, self.outputs), "output", y.shape, True) for i, y in enumerate(self.outputs)
            ]
        results = {name: self._tensor(name, yours, theirs, first) for name in order}
        for _ in range(self.seeds - 1):
            self._another_seed(results)
        report.tensors += results.values()
        if calls and not report.ok:
            report.place = blame(self.subject, calls, _is_right)  # type: ignore[arg-type]
        return report

    def _another_seed(self, results: dict[str, TensorResult]) -> None:
        """One more random direction over all tensors jointly; tensor by tensor only where that disagrees."""
        sound = [name for name, result in results.items() if result.ok]
        upstream = self.upstream()
        yours = self.gradients(upstream)
        misshapen = [name for name in sound if yours[name].shape != self.values[name].shape]
        if sound and (misshapen or not self.compare(yours, sound, upstream).agree):
            for name in sound:
                results[name] = self._tensor(name, yours, {}, upstream)

    def _compare_outputs(self, outputs: list[np.ndarray]) -> list[TensorResult]:
        results = []
        for i, (mine, torch) in enumerate(zip(self.outputs, outputs, strict=True)):
            name = _output_name(i, self.outputs)
            result = TensorResult(name, "output", mine.shape, True)
            results.append(result)
            worst = worst_entry(mine, torch)
            if mine.shape == torch.shape and worst is not None:
                result.error = _relative(mine, torch)
                result.yours, result.torch = float(mine[worst]), float(torch[worst])
            if mine.shape != torch.shape or not _close(mine, torch, self.torch_rtol):
                names = axis_names(mine.shape, "output", self.axes.get(name))
                result.ok, result.side, result.worst = False, "forward", dict(zip(names, worst or (), strict=False))
                result.verdict = "Your output differs from torch's: the forward is wrong."
                result.relation = explain(
                    mine, torch, Context(axis_names(torch.shape, "output"), lengths=self._lengths())
                )
        return results

    def _tensor(self, name: str, yours: Values, theirs: Values, upstream: list[np.ndarray]) -> TensorResult:
        """The result for one gradient."""
        gradient, value = yours[name], self.values[name]
        result = TensorResult(name, self.subject.kinds[name], value.shape, True)
        torch = theirs.get(name)
        if gradient.shape == value.shape:
            along = self.compare(yours, [name], upstream)
            result.error, result.yours, result.numeric = along.error, along.yours, along.numeric.value
            like_torch = torch is None or _close(gradient, torch, self.torch_rtol)
            if torch is not None:
                result.torch = float(np.sum(torch * along.direction[name]))
                result.error = max(result.error, _relative(gradient, torch))
            if along.agree and like_torch:
                return result
            if not along.numeric.settled and np.all(np.isfinite(gradient)):
                result.ok, result.side, result.verdict = False, "unknown", UNSETTLED
                return result
            if along.agree:
                assert torch is not None
                self._point_at(result, gradient, torch, torch)
                result.ok, result.side = False, "forward"
                result.verdict = FORWARD_WRONG
                return result
        self._wrong(result, gradient, torch, upstream)
        return result

    def _wrong(
        self, result: TensorResult, gradient: np.ndarray, torch: np.ndarray | None, upstream: list[np.ndarray]
    ) -> None:
        """Fill in a result that disagrees with the numeric gradient: entry by entry, and why."""
        name, value = result.name, self.values[result.name]
        agree = torch is not None and self.compare({name: torch}, [name], upstream).agree
        if torch is not None and agree:
            right = torch  # proved along a random direction; the derivative of every entry need not be taken
        else:
            right = entry_gradient(self.subject.forward, self.values, name, upstream, self.rng)
        result.ok, result.side = False, "backward"
        if gradient.shape == value.shape:
            worst = self._point_at(result, gradient, right, torch)
            if worst is not None:
                if self._has_kink(name, worst, upstream):
                    result.side, result.verdict = "unknown", KINK
                    return
                result.numeric = self._slope(name, worst, upstream)
            known = ~np.isnan(right)
            result.error = _relative(gradient[known], right[known])
        if torch is None:
            result.verdict = "Your backward is not the derivative of your forward: the backward is wrong."
        elif agree:
            result.verdict = "Numeric and torch agree: your forward is right, your backward is not."
        else:
            result.side = "both"
            result.verdict = "Yours, numeric and torch all differ: the backward is wrong, and the forward too."
        result.relation = explain(gradient, right, self._context(name, upstream))

    def _point_at(
        self, result: TensorResult, gradient: np.ndarray, right: np.ndarray, torch: np.ndarray | None
    ) -> tuple[int, ...] | None:
        """Set the columns to the entry that is worst."""
        worst = worst_entry(gradient, right)
        if worst is None:
            return None
        result.yours = result.numeric = float(gradient[worst])
        result.torch = None if torch is None else float(torch[worst])
        names = axis_names(gradient.shape, result.kind, self.axes.get(result.name))
        result.worst = dict(zip(names, worst, strict=True))
        return worst

    def _slope(self, name: str, index: tuple[int, ...], upstream: list[np.ndarray]) -> float:
        """The numeric derivative for one entry."""
        unit = np.zeros(self.values[name].shape)
        unit[index] = 1.0
        return directional(self.subject.forward, self.values, {name: unit}, upstream, 1e-10).value

    def _has_kink(self, name: str, index: tuple[int, ...], upstream: list[np.ndarray]) -> bool:
        """Whether the slopes on both sides of one entry differ, however near they are taken.

        Of a smooth function they come together as the step shrinks, also where the slope itself is zero.
        """
        unit = np.zeros(self.values[name].shape)
        unit[index] = 1.0
        here = self.subject.forward(self.values)

        def slopes(step: float) -> tuple[float, float]:
            plus, minus = (self.subject.forward(moved(self.values, {name: unit}, s)) for s in (step, -step))
            right = inner(upstream, [a - b for a, b in zip(plus, here, strict=True)]) / step
            return right, inner(upstream, [a - b for a, b in zip(here, minus, strict=True)]) / step

        (far_right, far_left), (right, left) = slopes(1e-4), slopes(1e-6)
        gap = abs(right - left)
        return gap > 0.5 * abs(far_right - far_left) and gap > 1e-3 * max(abs(right), abs(left), 1e-6)

    # -- what a diagnosis may compare with ------------------------------------------------------------

    def _lengths(self) -> dict[str, int]:
        lengths: dict[str, int] = {}
        for i, y in enumerate(self.outputs):
            names = axis_names(y.shape, "output", self.axes.get(_output_name(i, self.outputs)))
            lengths.update({f"`{axis}`": length for axis, length in zip(names, y.shape, strict=True)})
        for name, kind in self.subject.kinds.items():
            if kind == "input":
                shape = self.values[name].shape
                for axis, length in zip(axis_names(shape, kind, self.axes.get(name)), shape, strict=True):
                    lengths.setdefault(f"`{axis}`", length)
                if len(shape) > 1:
                    lengths.setdefault("all axes but the last", int(np.prod(shape[:-1])))
                lengths.setdefault(f"the whole of {name}", int(np.prod(shape)))
        return lengths

    def _context(self, name: str, upstream: list[np.ndarray]) -> Context:
        value, kind = self.values[name], self.subject.kinds[name]
        context = Context(axis_names(value.shape, kind, self.axes.get(name)), lengths=self._lengths())
        integers = [value for value in self.subject.inputs.values() if is_array(value) and value.dtype.kind in "iu"]
        context.ids = [np.asarray(to_host(ids), dtype=np.int64).ravel() for ids in integers]
        if kind == "input":
            context.related = {"the output": self.outputs[0]}
            if value.ndim and value.size:
                centred = value - value.mean(axis=-1, keepdims=True)
                context.related |= {name: value, f"{name} less its mean": centred}
        context.partial = lambda: self._partial(name, upstream)
        return context

    def _partial(self, name: str, upstream: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        """Gradient of one place along an axis of the output alone, for the first and last place of each axis."""
        y, parts = self.outputs[0], []
        if len(self.outputs) > 1 or self.values[name].size > 256:
            return []
        for axis, axis_name in enumerate(axis_names(y.shape, "output", self.axes.get("y"))[:-1]):
            for place in dict.fromkeys((0, y.shape[axis] - 1)):
                if y.shape[axis] < 2:
                    continue
                only = np.zeros(y.shape)
                where = (slice(None),) * axis + (place,)
                only[where] = upstream[0][where]
                gradient = entry_gradient(self.subject.forward, self.values, name, [only], self.rng)
                parts.append((f"{axis_name}={place}", gradient))
        return parts


def _is_right(subject: LayerSubject) -> bool:
    try:
        return Examination(subject).joint_agrees()
    except Fault:
        return False


def _output_name(index: int, outputs: list[np.ndarray]) -> str:
    return "y" if len(outputs) == 1 else f"y{index}"


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, relative to the largest entry of both."""
    if a.size == 0:
        return 0.0
    if not np.all(np.isfinite(a)):
        return float("inf")
    difference = float(np.max(np.abs(a - b)))
    return 0.0 if difference <= FLOOR else difference / float(max(np.max(np.abs(a)), np.max(np.abs(b))))


def _close(a: np.ndarray, b: np.ndarray, rtol: float) -> bool:
    if a.shape != b.shape:
        return False
    if a.size == 0:
        return True
    return bool(np.max(np.abs(a - b)) <= rtol * np.max(np.abs(b)) + FLOOR)


def _origin(error: BaseException) -> str:
    """File, line and function where `error` was raised, of the innermost code outside libraries if there is one."""
    frames = traceback.extract_tb(error.__traceback__)
    check = Path(__file__).parent
    engine = [f for f in frames if check not in Path(f.filename).parents]
    yours = [f for f in engine if check.parent not in Path(f.filename).parents and "site-packages" not in f.filename]
    frame = (yours or engine or list(frames))[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"

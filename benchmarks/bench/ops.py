"""Each registered kernel against its op, on the arrays that the op meets in a training step."""

from __future__ import annotations

import copy
import functools
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.recurrent import GATES
from bench.workload import IGNORED, Workload

Arguments = tuple[Any, ...]


class Shapes:
    """Random arrays in the shapes of the workload. B T are rows N; hd is the width of a head."""

    def __init__(self, w: Workload, dtype: str):
        self.w, self.dtype = w, np.dtype(dtype)
        self.rng = np.random.default_rng(w.seed)
        self.rows, self.head_dim = w.batch * w.time, w.d_model // w.heads
        # The (N, V) logits of the whole batch are never held; this is about a chunk of them.
        self.logit_rows = max(1, min(self.rows, 2**24 // w.vocab))

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(self.dtype)

    def x(self) -> np.ndarray:  # (B, T, C)
        return self.normal(self.w.batch, self.w.time, self.w.d_model)

    def hidden(self) -> np.ndarray:  # (B, T, F)
        return self.normal(self.w.batch, self.w.time, self.w.ffn)

    def heads(self) -> np.ndarray:  # (B, H, T, hd), strided as the packed projection leaves it
        packed = self.normal(self.w.batch, self.w.time, self.w.heads, self.head_dim)
        return packed.transpose(0, 2, 1, 3)

    def classes(self, rows: int) -> np.ndarray:
        targets = self.rng.integers(0, self.w.vocab, rows)
        targets[:: self.w.time] = IGNORED
        return targets

    def ids(self) -> np.ndarray:  # (B, T)
        return self.rng.integers(0, self.w.vocab, (self.w.batch, self.w.time))

    def parameters(self) -> int:
        w = self.w
        return w.vocab * w.d_model + w.blocks * (4 * w.d_model**2 + 2 * w.d_model * w.ffn)


def _reference(name: str, *args: Any) -> Any:
    from tinygrad_edu.backend import registered_ops

    return registered_ops()[name].reference(*args)


def _elementwise(s: Shapes) -> Arguments:
    return (s.hidden(),)


def _elementwise_backward(s: Shapes) -> Arguments:
    return s.hidden(), s.hidden()


def _attention(s: Shapes) -> Arguments:
    return s.heads(), s.heads(), s.heads(), None, True, 1 / math.sqrt(s.head_dim)


def _attention_backward(s: Shapes) -> Arguments:
    q, k, v, mask, causal, scale = _attention(s)
    y, lse = _reference("attention", q, k, v, mask, causal, scale)
    return s.heads(), q, k, v, mask, y, lse, causal, scale


def _layernorm_backward(s: Shapes) -> Arguments:
    x, weight = s.x(), s.normal(s.w.d_model)
    _, mean, rstd = _reference("layernorm", x, weight, weight, 1e-5)
    return s.x(), x, weight, mean, rstd


def _rmsnorm_backward(s: Shapes) -> Arguments:
    x, weight = s.x(), s.normal(s.w.d_model)
    return s.x(), x, weight, _reference("rmsnorm", x, weight, 1e-6)[1]


def _softmax(s: Shapes) -> Arguments:
    return s.normal(s.w.batch, s.w.heads, s.w.time, s.w.time), -1


def _softmax_backward(s: Shapes) -> Arguments:
    x, axis = _softmax(s)
    return x, _reference("softmax", x, axis), axis


def _cross_entropy(s: Shapes) -> Arguments:
    return s.normal(s.logit_rows, s.w.vocab), s.classes(s.logit_rows), None, IGNORED, 0.0


def _cross_entropy_backward(s: Shapes) -> Arguments:
    logits, targets, *rest = _cross_entropy(s)
    _, lse = _reference("cross_entropy", logits, targets, *rest)
    return s.normal(s.logit_rows), logits, targets, lse, *rest


def _masks(s: Shapes) -> Arguments:
    """Two masks a picture, 64 x 64, as logits lie behind a convolution; and what they should be."""
    shape = s.w.batch, 64, 64, 2
    return s.normal(*shape).transpose(0, 3, 1, 2), (s.rng.random((shape[0], 2, 64, 64)) < 0.3).astype(s.dtype)


def _dice(s: Shapes) -> Arguments:
    logits, targets = _masks(s)
    return _reference("sigmoid", logits), targets, 1.0, False


def _dice_backward(s: Shapes) -> Arguments:
    probabilities, targets, smooth, squared = _dice(s)
    scores, size = _reference("dice", probabilities, targets, smooth, squared)
    return s.normal(*scores.shape), probabilities, targets, scores, size, squared


def _head(s: Shapes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale = s.dtype.type(1 / math.sqrt(s.w.d_model))
    return s.normal(s.rows, s.w.d_model), s.normal(s.w.vocab, s.w.d_model) * scale, s.classes(s.rows)


def _linear_cross_entropy(s: Shapes) -> Arguments:
    x, weight, targets = _head(s)
    return x, weight, None, targets, IGNORED, 0.0


def _linear_cross_entropy_grad(s: Shapes) -> Arguments:
    x, weight, targets = _head(s)
    dlosses = np.full(s.rows, 1 / s.rows, dtype=s.dtype)
    return x, weight, None, targets, dlosses, np.zeros_like(weight), None, IGNORED, 0.0


def _adam_update(s: Shapes) -> Arguments:
    n = s.parameters()
    return s.normal(n), s.normal(n), s.normal(n), s.normal(n) ** 2, 3, 1e-3, 0.9, 0.999, 1e-8, 1e-2, True, 0.5


def _sgd_update(s: Shapes) -> Arguments:
    n = s.parameters()
    return s.normal(n), s.normal(n), s.normal(n), 1e-3, 0.9, False, 1e-2, 0.5


def _ema_update(s: Shapes) -> Arguments:
    n = s.parameters()
    return s.normal(n), s.normal(n), 0.999


def _rotary(s: Shapes) -> Arguments:
    angles = s.normal(s.w.time, s.head_dim // 2)
    return s.heads(), np.cos(angles), np.sin(angles)


def _recurrent(s: Shapes, name: str) -> Arguments:
    """One layer of width C over the sequences, time first."""
    width, rows = s.w.d_model, GATES[name] * s.w.d_model
    scale = s.dtype.type(1 / math.sqrt(width))
    states = [s.normal(s.w.batch, width) for _ in range(2 if name == "lstm" else 1)]
    parameters = [s.normal(*shape) * scale for shape in ((rows, width), (rows, width), (rows,), (rows,))]
    how = ("tanh",) if name == "rnn" else ()
    return s.x().swapaxes(0, 1), *states, *parameters, None, False, *how


def _recurrent_backward(s: Shapes, name: str) -> Arguments:
    x, *rest = _recurrent(s, name)
    count = 2 if name == "lstm" else 1
    y, *results = _reference(name, x, *rest)
    dstates = [s.normal(*state.shape) for state in results[:count]]
    weights, how = rest[count : count + 2], rest[count + 4 :]
    return s.normal(*y.shape), *dstates, x, *weights, *how, *results[count:], True


def _image(s: Shapes) -> np.ndarray:
    """(B, 32, 64, 64) as convolutions give it, channels-last in memory: a level of a U-Net."""
    return s.normal(s.w.batch, 64, 64, 32).transpose(0, 3, 1, 2)


ONE = (1, 1)


def _filters(s: Shapes) -> np.ndarray:
    """3x3, to as many channels as :func:`_image` has."""
    channels = _image(s).shape[1]
    return s.normal(channels, channels, 3, 3) * s.dtype.type(1 / math.sqrt(9 * channels))


def _convolution(s: Shapes) -> Arguments:
    weight = _filters(s)
    return _image(s), weight, s.normal(len(weight)), ONE, ONE, ONE, 1


def _convolution_input_gradient(s: Shapes) -> Arguments:
    dy = _image(s)
    return dy, _filters(s), dy.shape[2:], ONE, ONE, ONE, 1


def _batchnorm_backward(s: Shapes) -> Arguments:
    return _image(s), _image(s), s.normal(32), s.normal(32), abs(s.normal(32)), 1e-5


def _groupnorm_backward(s: Shapes) -> Arguments:
    statistics = s.normal(s.w.batch, 8), abs(s.normal(s.w.batch, 8))
    return _image(s), _image(s), 8, s.normal(32), *statistics, 1e-5


def _half_image(s: Shapes) -> np.ndarray:
    """(B, 32, 32, 32): a 64 x 64 image after pooling, or before it is enlarged."""
    return s.normal(s.w.batch, 32, 32, 32).transpose(0, 3, 1, 2)


_WINDOW = (3, 3), (2, 2), (1, 1)  # kernel, stride, padding: the first pooling of a ResNet


def _max_pool_backward(s: Shapes) -> Arguments:
    how = (*_WINDOW, (1, 1))
    _, winner = _reference("max_pool", _image(s), *how, False)
    return _half_image(s), winner, (64, 64), *how


ELEMENTWISE = ("erf", "relu", "gelu", "gelu_tanh", "sigmoid", "silu", "tanh")

CASES: dict[str, Callable[[Shapes], Arguments]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **{name: functools.partial(_recurrent, name=name) for name in GATES},
    **{f"{name}_backward": functools.partial(_recurrent_backward, name=name) for name in GATES},
    **{f"{name}_backward": _elementwise_backward for name in ELEMENTWISE if name != "erf"},
    "gemm": lambda s: (
        s.normal(s.rows, s.w.ffn).T,
        s.normal(s.rows, s.w.d_model),
        s.normal(s.w.ffn, s.w.d_model),
        True,
    ),
    "linear": lambda s: (s.x(), s.normal(3 * s.w.d_model, s.w.d_model), s.normal(3 * s.w.d_model)),
    "linear_backward": lambda s: (s.hidden(), s.x(), s.normal(s.w.ffn, s.w.d_model), True),
    "embedding": lambda s: (s.normal(s.w.vocab, s.w.d_model), s.ids()),
    "embedding_backward": lambda s: (s.x(), s.ids(), s.normal(s.w.vocab, s.w.d_model)),
    "rotary": _rotary,
    "softmax": _softmax,
    "softmax_backward": _softmax_backward,
    "attention": _attention,
    "attention_backward": _attention_backward,
    "dropout": lambda s: (s.x(), 0.1, 7),
    "random_uniform": lambda s: (s.x(), 7),
    "layernorm": lambda s: (s.x(), s.normal(s.w.d_model), s.normal(s.w.d_model), 1e-5),
    "layernorm_backward": _layernorm_backward,
    "rmsnorm": lambda s: (s.x(), s.normal(s.w.d_model), 1e-6),
    "rmsnorm_backward": _rmsnorm_backward,
    "convolution": _convolution,
    "convolution_input_gradient": _convolution_input_gradient,
    "convolution_weight_gradient": lambda s: (_image(s), _image(s), (3, 3), ONE, ONE, ONE, 1),
    "channel_sum": lambda s: (_image(s),),
    "max_pool": lambda s: (_image(s), *_WINDOW, (1, 1), False),
    "max_pool_backward": _max_pool_backward,
    "average_pool": lambda s: (_image(s), *_WINDOW, False, True, None),
    "average_pool_backward": lambda s: (_half_image(s), (64, 64), *_WINDOW, True, None),
    "adaptive_average_pool": lambda s: (_image(s), (1, 1)),
    "adaptive_average_pool_backward": lambda s: (s.normal(s.w.batch, 32, 1, 1), (64, 64)),
    "upsample_nearest": lambda s: (_half_image(s), (64, 64), (0.5, 0.5)),
    "upsample_nearest_backward": lambda s: (_image(s), (32, 32), (0.5, 0.5)),
    "upsample_linear": lambda s: (_half_image(s), (64, 64), (0.5, 0.5), False),
    "upsample_linear_backward": lambda s: (_image(s), (32, 32), (0.5, 0.5), False),
    "batchnorm": lambda s: (_image(s), s.normal(32), s.normal(32), 1e-5),
    "batchnorm_backward": _batchnorm_backward,
    "batchnorm_inference": lambda s: (_image(s), s.normal(32), s.normal(32), s.normal(32), abs(s.normal(32)), 1e-5),
    "batchnorm_inference_backward": _batchnorm_backward,
    "groupnorm": lambda s: (_image(s), 8, s.normal(32), s.normal(32), 1e-5),
    "groupnorm_backward": _groupnorm_backward,
    "cross_entropy": _cross_entropy,
    "cross_entropy_backward": _cross_entropy_backward,
    "binary_cross_entropy_with_logits": lambda s: (*_masks(s), None),
    "binary_cross_entropy_with_logits_backward": lambda s: (_masks(s)[0], *_masks(s), None),
    "dice": _dice,
    "dice_backward": _dice_backward,
    "linear_cross_entropy": _linear_cross_entropy,
    "linear_cross_entropy_grad": _linear_cross_entropy_grad,
    "squared_error": lambda s: (s.x(), s.x()),
    "squared_error_backward": lambda s: (s.x(), s.x(), s.x()),
    "adam_update": _adam_update,
    "ema_update": _ema_update,
    "sgd_update": _sgd_update,
    "squared_sum": lambda s: (s.normal(s.parameters()),),
}


def largest_difference(a: Any, b: Any) -> float:
    """The largest difference between two results, relative to the largest number of the second."""
    if isinstance(b, tuple | list):
        return max((largest_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if b is None or isinstance(b, bool | str):
        return 0.0 if a is b or a == b else math.inf
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        return math.inf
    if not b.size:
        return 0.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities too
    scale = float(np.abs(b[np.isfinite(b)]).max(initial=0.0)) or 1.0
    return float(np.abs(np.where(same, 0.0, a) - np.where(same, 0.0, b)).max()) / scale


def compare(name: str, dtype: str, kernel: Callable[..., Any], w: Workload, repeats: int) -> dict[str, Any]:
    """Time the op's readable form and its kernel in alternation, after holding their results together.

    What a function changes in place is part of its result. Each call of the check has its own copies; the
    timed calls reuse one set for each side.
    """
    from tinygrad_edu.backend import reference_ops, registered_ops

    reference = registered_ops()[name].reference
    arguments = CASES[name](Shapes(w, dtype))
    theirs, ours = copy.deepcopy(arguments), copy.deepcopy(arguments)
    with reference_ops():
        expected = reference(*theirs)
    difference = largest_difference((kernel(*ours), ours), (expected, theirs))
    del expected
    seconds: dict[str, list[float]] = {"op": [], "kernel": []}
    for _ in range(repeats):
        with reference_ops():  # also for the ops that the readable form calls
            start = time.perf_counter()
            reference(*theirs)
            seconds["op"].append(time.perf_counter() - start)
        start = time.perf_counter()
        kernel(*ours)
        seconds["kernel"].append(time.perf_counter() - start)
    pairs = [a / b for a, b in zip(seconds["op"], seconds["kernel"], strict=True)]
    return {
        "op": name,
        "dtype": dtype,
        "op_seconds": statistics.median(seconds["op"]),
        "kernel_seconds": statistics.median(seconds["kernel"]),
        "ratio": {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)},
        "difference": difference,
        "seconds": seconds,
    }


def compare_all(w: Workload, repeats: int, only: list[str]) -> list[dict[str, Any]]:
    """:func:`compare` for every kernel of the workload's device and type; `only` names some of them."""
    import tinygrad_edu.losses
    import tinygrad_edu.models
    import tinygrad_edu.optim  # noqa: F401  (ops register as their modules load)
    from tinygrad_edu.backend.dispatch import registered_kernels

    found = [(name, dtype, f) for name, _, dtype, f in registered_kernels(w.device) if dtype == w.dtype]
    unknown = [name for name in only if name not in {kernel for kernel, _, _ in found}]
    if unknown:
        raise SystemExit(f"no {w.dtype} kernel on {w.device} stands in for: {', '.join(unknown)}")
    missing = [name for name, _, _ in found if name not in CASES]
    if missing:
        raise SystemExit(f"benchmarks/bench/ops.py has no case for the kernels of: {', '.join(missing)}")
    return [compare(name, dtype, f, w, repeats) for name, dtype, f in found if not only or name in only]

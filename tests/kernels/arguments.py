"""How to draw the arguments of each op that has a kernel; those of images stand in `image_arguments`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.kernels.draw import Draw, Entry
from tests.kernels.image_arguments import IMAGE_ARGUMENTS
from tinygrad_edu import reference_ops
from tinygrad_edu.backend import registered_ops


def _one(d: Draw) -> tuple[Any, ...]:
    return (d.normal(*d.shape(), d.length(d.large), scale=d.choice(1.0, 4.0)),)


def _two(d: Draw) -> tuple[Any, ...]:
    shape = (*d.shape(), d.length(d.large))
    return d.normal(*shape), d.normal(*shape, scale=d.choice(1.0, 4.0))


def _gemm(d: Draw) -> tuple[Any, ...]:
    m, k, n = d.rows(), d.length(), d.length()
    a = d.normal(k, m).T if d.choice(True, False) else d.normal(m, k)
    b = d.normal(n, k).T if d.choice(True, False) else d.normal(k, n)
    how = d.choice("new", "out", "accumulate", "accumulate into columns", "accumulate into a transposed view")
    if how == "new":
        return a, b
    if how == "accumulate into columns":
        return a, b, d.normal(m, n + 3, layout="plain")[:, 1 : n + 1], True
    if how == "accumulate into a transposed view":
        return a, b, d.normal(n, m, layout="plain").T, True
    return a, b, d.normal(m, n, layout="plain"), how == "accumulate"


def _linear(d: Draw) -> tuple[Any, ...]:
    head, i, o = d.shape(), d.length(1), d.length(1)
    return d.normal(*head, i), d.normal(o, i), d.normal(o) if d.choice(True, False) else None


def _linear_backward(d: Draw) -> tuple[Any, ...]:
    head, i, o = d.shape(), d.length(1), d.length(1)
    there = d.choice(True, False)  # gradients of earlier uses, which are added to
    before = (d.normal(o, i, layout="plain"), d.normal(o, layout="plain")) if there else (None, None)
    return d.normal(*head, o), d.normal(*head, i), d.normal(o, i), d.choice(True, False), *before


def _embedding(d: Draw) -> tuple[Any, ...]:
    classes = d.length(1)
    return d.normal(classes, d.length(1), layout="plain"), d.ids(classes, *d.shape())


def _embedding_backward(d: Draw) -> tuple[Any, ...]:
    classes, width, shape = d.length(1), d.length(1), d.shape()
    return d.normal(*shape, width), d.ids(classes, *shape), d.normal(classes, width, layout="plain")


def _norm(d: Draw, parameters: int) -> tuple[Any, ...]:
    channels = d.length(1, 20)
    return d.normal(*d.shape(), channels), *(d.normal(channels, layout="plain") for _ in range(parameters)), 1e-5


def _norm_backward(d: Draw, mean: bool) -> tuple[Any, ...]:
    channels, head = d.length(1, 20), d.shape()
    x = d.normal(*head, channels)
    statistics = [abs(d.normal(*head, 1, layout="plain")) + 0.5]
    if mean:
        statistics.insert(0, d.normal(*head, 1, layout="plain"))
    return d.normal(*head, channels), x, d.normal(channels, layout="plain"), *statistics


def _heads(d: Draw) -> tuple[Any, ...]:
    """q, k, v, mask, causal, scale, dropout, seed; longer than one block of queries, or of keys, now and then.

    Few combinations of layouts, for each is compiled: contiguous, and as the layer cuts them out of its projection.
    """
    by_time = d.large or d.choice(True, False)
    batch, heads, dim = d.length(1 + by_time, 3), d.length(1 + by_time, 3), 33 if d.large else d.length(1, 9)
    queries = 131 if d.large else d.choice(2, 5, 128, 131) if by_time else d.choice(1, 2, 5, 131)
    keys = d.choice(queries, queries + 3, 2, 7, 530)

    def array(time: int) -> np.ndarray:
        if by_time:
            return d.normal(batch, time, heads, dim, layout="plain").transpose(0, 2, 1, 3)
        return d.normal(batch, heads, time, dim, layout="plain")

    mask = None
    if d.choice(True, False):
        mask = d.mask(batch, 1, 1, keys) if by_time else d.mask(batch, heads, queries, keys)
    dropout, seed = d.choice((0.0, 0), (0.3, 5), (0.5, 2**62 + 1))
    return array(queries), array(keys), array(keys), mask, d.choice(True, False), d.number(0.1, 1.0), dropout, seed


def _heads_backward(d: Draw) -> tuple[Any, ...]:
    q, k, v, mask, causal, scale, dropout, seed = _heads(d)
    with reference_ops():
        y, lse = registered_ops()["attention"](q, k, v, mask, causal, scale, dropout, seed)
    return d.normal(*y.shape, layout="plain"), q, k, v, mask, y, lse, causal, scale, dropout, seed


def _cross_entropy(d: Draw) -> tuple[Any, ...]:
    rows, classes, ignore_index = d.rows(), d.length(1, 40), d.choice(-100, 0)
    weight = abs(d.normal(classes, layout="plain")) if d.choice(True, False) else None
    logits = d.normal(rows, classes, scale=d.choice(1.0, 10.0))
    return logits, d.targets(classes, rows, ignore_index), weight, ignore_index, d.choice(0.0, 0.1, 1.0)


def _cross_entropy_backward(d: Draw) -> tuple[Any, ...]:
    logits, targets, weight, ignore_index, smoothing = _cross_entropy(d)
    with reference_ops():
        lse = registered_ops()["cross_entropy"](logits, targets, weight, ignore_index, smoothing)[1]
    return d.normal(len(targets)), logits, targets, lse, weight, ignore_index, smoothing


def _binary(d: Draw) -> tuple[Any, ...]:
    *head, last = shape = (*d.shape(), d.length(d.large))
    factors = d.choice((last,), shape, (*(1 for _ in head), last))
    weight = abs(d.normal(*factors)) + 0.1 if d.choice(True, False) else None
    return d.normal(*shape, scale=d.choice(1.0, 10.0)), d.fractions(*shape), weight


def _binary_backward(d: Draw) -> tuple[Any, ...]:
    logits, *rest = _binary(d)
    return d.normal(*logits.shape), logits, *rest


def _masks(d: Draw) -> tuple[Any, ...]:
    shape = (d.length(), d.length(), d.rows(), *d.choice((), (3,)))
    return d.fractions(*shape), d.fractions(*shape), d.number(0.1, 2.0), d.choice(True, False)


def _masks_backward(d: Draw) -> tuple[Any, ...]:
    probabilities, targets, smooth, squared = _masks(d)
    with reference_ops():
        scores, size = registered_ops()["dice"](probabilities, targets, smooth, squared)
    return d.normal(*scores.shape), probabilities, targets, scores, size, squared


def _head(d: Draw) -> tuple[Any, ...]:
    rows, width, classes = d.rows(), d.length(1), d.length(1, 40)
    bias = d.normal(classes, layout="plain") if d.choice(True, False) else None
    return (
        d.normal(rows, width),
        d.normal(classes, width),
        bias,
        d.targets(classes, rows, -100),
        -100,
        d.choice(0.0, 0.1),
    )


def _head_grad(d: Draw) -> tuple[Any, ...]:
    x, weight, bias, targets, ignore_index, smoothing = _head(d)
    dbias = None if bias is None else d.normal(*bias.shape, layout="plain")
    return (
        x,
        weight,
        bias,
        targets,
        d.normal(len(x)),
        d.normal(*weight.shape, layout="plain"),
        dbias,
        ignore_index,
        smoothing,
    )


def _adam(d: Draw) -> tuple[Any, ...]:
    n = d.rows()
    data, grad, first = (d.normal(n, layout="plain") for _ in range(3))
    second = abs(d.normal(n, layout="plain"))
    return (
        data,
        grad,
        first,
        second,
        d.length(1, 1000),
        1e-2,
        0.9,
        d.choice(0.95, 0.999),
        1e-8,
        d.choice(0.0, 0.1),
        d.choice(True, False),
        d.choice(1.0, 0.3),
    )


def _sgd(d: Draw) -> tuple[Any, ...]:
    n = d.rows()
    data, grad, velocity = (d.normal(n, layout="plain") for _ in range(3))
    decay, scale = d.choice(0.0, 0.1), d.choice(1.0, 0.3)
    if d.choice(True, False):
        return data, grad, None, 1e-2, 0.0, False, decay, scale
    return data, grad, velocity, 1e-2, 0.9, d.choice(True, False), decay, scale


def _average(d: Draw) -> tuple[Any, ...]:
    n = d.rows()
    return d.normal(n, layout="plain"), d.normal(n, layout="plain"), d.choice(0.1, 0.9, 0.9999)


def _dropout(d: Draw) -> tuple[Any, ...]:
    return d.normal(*d.shape(), d.length(d.large)), d.choice(0.0, 0.1, 0.5, 0.99), d.choice(0, 7, 2**63 - 1)


def _rotary(d: Draw) -> tuple[Any, ...]:
    length, half = d.length(d.large), d.length(8)
    return d.normal(*d.shape(), length, 2 * half), d.normal(length, half), d.normal(length, half)


GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def _recurrent(d: Draw, name: str) -> tuple[Any, ...]:
    """Widths that are whole tiles and that are not, one step and several, lengths of 1 and of all."""
    time, batch, inputs = d.choice(1, 2, 5), d.choice(0, 1, 3, 4, 9, 17), d.choice(1, 5, 32, 37)
    width = d.choice(1, 3, 8, 16, 33)
    if d.large:
        time, batch, width = 40, 9, 47
    rows = GATES[name] * width
    states = [d.normal(batch, width) for _ in range(2 if name == "lstm" else 1)]
    weights = [d.normal(rows, inputs, scale=0.3), d.normal(rows, width, scale=0.3)]
    biases = [d.normal(rows), d.normal(rows)] if d.choice(True, False) else [None, None]
    lengths = 1 + d.ids(time, batch) if d.choice(True, False) else None
    x = d.normal(batch, time, inputs).swapaxes(0, 1) if d.choice(True, False) else d.normal(time, batch, inputs)
    how = (d.choice("tanh", "relu"),) if name == "rnn" else ()
    return x, *states, *weights, *biases, lengths, d.choice(True, False), *how


def _recurrent_backward(d: Draw, name: str) -> tuple[Any, ...]:
    x, *rest = _recurrent(d, name)
    count = 2 if name == "lstm" else 1
    with reference_ops():
        y, *results = registered_ops()[name](x, *rest)
    dstates = [d.normal(*state.shape) for state in results[:count]]
    weights, how = rest[count : count + 2], rest[count + 4 :]
    return d.normal(*y.shape), *dstates, x, *weights, *how, *results[count:], d.choice(True, False)


ARGUMENTS: dict[str, Entry] = {
    **IMAGE_ARGUMENTS,
    **{name: Entry(lambda d, name=name: _recurrent(d, name), longer=2) for name in GATES},
    **{f"{name}_backward": Entry(lambda d, name=name: _recurrent_backward(d, name), longer=2) for name in GATES},
    "rotary": Entry(_rotary),
    **{name: Entry(_one) for name in ("gelu", "gelu_tanh", "silu", "relu", "sigmoid", "tanh", "erf")},
    **{f"{name}_backward": Entry(_two) for name in ("gelu", "gelu_tanh", "silu", "relu", "sigmoid", "tanh")},
    "gemm": Entry(_gemm, changed=(2,)),
    "linear": Entry(_linear),
    "linear_backward": Entry(_linear_backward, changed=(4, 5)),
    "embedding": Entry(_embedding),
    "embedding_backward": Entry(_embedding_backward, changed=(2,)),
    "layernorm": Entry(lambda d: _norm(d, 2), longer=4),
    "layernorm_backward": Entry(lambda d: _norm_backward(d, True)),
    "rmsnorm": Entry(lambda d: _norm(d, 1), longer=4),
    "rmsnorm_backward": Entry(lambda d: _norm_backward(d, False)),
    "attention": Entry(_heads),
    "attention_backward": Entry(_heads_backward),
    "cross_entropy": Entry(_cross_entropy),
    "cross_entropy_backward": Entry(_cross_entropy_backward),
    "binary_cross_entropy_with_logits": Entry(_binary),
    "binary_cross_entropy_with_logits_backward": Entry(_binary_backward),
    "dice": Entry(_masks),
    "dice_backward": Entry(_masks_backward),
    "linear_cross_entropy": Entry(_head),
    "linear_cross_entropy_grad": Entry(_head_grad, changed=(5, 6)),
    "dropout": Entry(_dropout),
    "random_uniform": Entry(lambda d: (d.normal(*d.shape()), d.choice(0, 7, 2**63 - 1), d.choice(None, (3, 5), ()))),
    "adam_update": Entry(_adam, changed=(0, 2, 3)),
    "sgd_update": Entry(_sgd, changed=(0, 2)),
    "ema_update": Entry(_average, changed=(0,)),
    "squared_sum": Entry(_one),
}  # fmt: skip

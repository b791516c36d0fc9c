"""Negative controls: backwards that are wrong on purpose must all be found, and the diagnosis must be right.

Each names the class of the library that it stands in for; the table's own rows then check it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import check, layers, losses
from tinygrad_edu.backend import erf, namespace
from tinygrad_edu.check.cases import CASES, Case
from tinygrad_edu.check.op_cases import OP_CASES
from tinygrad_edu.layers import Layer
from tinygrad_edu.layers.activation import sigmoid
from tinygrad_edu.layers.attention_ops import attention
from tinygrad_edu.layers.dropout import dropout
from tinygrad_edu.layers.linear import linear_backward
from tinygrad_edu.layers.norm import layernorm_backward, rmsnorm_backward

from .wrong_images import FORWARD_TOO, WRONG_IMAGES
from .wrong_norms import WRONG_NORMS
from .wrong_vision import WRONG_VISION


class SoftmaxWithoutProduct(layers.Softmax):
    def backward(self, dy: Any) -> Any:
        return dy * self.saved()


class SoftmaxForCrossEntropyOnly(layers.Softmax):
    """y (1 - y): the diagonal of the Jacobian alone."""

    def backward(self, dy: Any) -> Any:
        y = self.saved()
        return dy * y * (1 - y)


class _Norm(layers.LayerNorm):
    def parts(self, dy: Any) -> tuple[Any, Any, Any]:
        x, mean, rstd = self.saved()
        _, dweight, dbias = layernorm_backward(dy, x, self.weight.data, mean, rstd)
        self.weight.accumulate(dweight)
        self.bias.accumulate(dbias)
        return dy * self.weight.data, (x - mean) * rstd, rstd


class NormWithoutVariance(_Norm):
    def backward(self, dy: Any) -> Any:
        dxhat, _, rstd = self.parts(dy)
        return (dxhat - dxhat.mean(axis=-1, keepdims=True)) * rstd


class NormWithoutMean(_Norm):
    def backward(self, dy: Any) -> Any:
        dxhat, xhat, rstd = self.parts(dy)
        return (dxhat - xhat * (dxhat * xhat).mean(axis=-1, keepdims=True)) * rstd


class NormWithoutWeight(_Norm):
    def backward(self, dy: Any) -> Any:
        _, xhat, rstd = self.parts(dy)
        dx = dy - dy.mean(axis=-1, keepdims=True)
        return (dx - xhat * (dy * xhat).mean(axis=-1, keepdims=True)) * rstd


class NormWithSampleVariance(layers.LayerNorm):
    """The forward divides by n - 1; forward and backward fit each other, and only torch tells."""

    def forward(self, x: Any) -> Any:
        xp = namespace(x)
        n = x.shape[-1]
        centred = x - x.mean(axis=-1, keepdims=True)
        rstd = 1 / xp.sqrt((centred**2).sum(axis=-1, keepdims=True) / max(n - 1, 1) + self.eps)
        self.save(centred * rstd, rstd, n)
        return centred * rstd * self.weight.data + self.bias.data

    def backward(self, dy: Any) -> Any:
        xhat, rstd, n = self.saved()
        self.weight.accumulate((dy * xhat).sum(axis=(0, 1)))
        self.bias.accumulate(dy.sum(axis=(0, 1)))
        dxhat = dy * self.weight.data
        dx = dxhat - xhat * (dxhat * xhat).sum(axis=-1, keepdims=True) / max(n - 1, 1)
        return (dx - dx.mean(axis=-1, keepdims=True)) * rstd


class RMSNormWithoutStretch(layers.RMSNorm):
    def backward(self, dy: Any) -> Any:
        x, rrms = self.saved()
        self.weight.accumulate(rmsnorm_backward(dy, x, self.weight.data, rrms)[1])
        return dy * self.weight.data * rrms


class GELUBadConstant(layers.GELU):
    """0.0447 for 0.044715, in the backward only: an error of 1e-4."""

    def backward(self, dy: Any) -> Any:
        x = self.saved()
        if self.approximate == "none":
            return dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))
        t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.0447 * x**3))
        slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.0447 * x * x)
        return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


class GELUBadForward(layers.GELU):
    """0.0447 in both passes: the backward fits the forward, which is not GELU."""

    def forward(self, x: Any) -> Any:
        self.save(x)
        t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.0447 * x**3))
        return 0.5 * x * (1 + t) if self.approximate == "tanh" else 0.5 * x * (1 + erf(x / math.sqrt(2)))

    backward = GELUBadConstant.backward


class SigmoidOfInput(layers.Sigmoid):
    """y (1 - y) with x for y."""

    def forward(self, x: Any) -> Any:
        self.save(x)
        return sigmoid(x)


class _Linear(layers.Linear):
    def parts(self, dy: Any) -> tuple[Any, Any, Any]:
        dx, dweight, dbias = linear_backward(dy, self.saved(), self.weight.data, True)
        return dx, dweight, dbias


class LinearTransposed(_Linear):
    """Found wherever the shapes let it through: in the square row."""

    def backward(self, dy: Any) -> Any:
        dx, dweight, dbias = self.parts(dy)
        self.weight.accumulate(dweight.T)
        if self.bias is not None:
            self.bias.accumulate(dbias)
        return dx


class LinearScaled(_Linear):
    def backward(self, dy: Any) -> Any:
        dx, dweight, dbias = self.parts(dy)
        self.weight.accumulate(dweight)
        if self.bias is not None:
            self.bias.accumulate(dbias)
        return dx * 1.00001


class LinearMeanOverRows(_Linear):
    def backward(self, dy: Any) -> Any:
        dx, dweight, dbias = self.parts(dy)
        self.weight.accumulate(dweight)
        if self.bias is not None:
            self.bias.accumulate(dbias / dy[..., 0].size)
        return dx


class LinearFirstExampleOnly(_Linear):
    def backward(self, dy: Any) -> Any:
        dx, dweight, _ = self.parts(dy)
        self.weight.accumulate(dweight)
        if self.bias is not None:
            self.bias.accumulate(dy[0].reshape(-1, dy.shape[-1]).sum(axis=0))
        return dx


class LinearUnsummedBias(_Linear):
    def backward(self, dy: Any) -> Any:
        dx, dweight, _ = self.parts(dy)
        self.weight.accumulate(dweight)
        if self.bias is not None:
            self.bias.accumulate(dy)
        return dx


class LinearForgetsBias(_Linear):
    def backward(self, dy: Any) -> Any:
        dx, dweight, _ = self.parts(dy)
        self.weight.accumulate(dweight)
        return dx


class LinearNegative(_Linear):
    def backward(self, dy: Any) -> Any:
        dx, dweight, dbias = self.parts(dy)
        self.weight.accumulate(-dweight)
        if self.bias is not None:
            self.bias.accumulate(dbias)
        return dx


class LinearZero(layers.Linear):
    def backward(self, dy: Any) -> Any:
        return self.saved() * 0


class LinearReturnsNothing(_Linear):
    def backward(self, dy: Any) -> None:
        self.parts(dy)


class EmbeddingOverwrites(layers.Embedding):
    def backward(self, dy: Any) -> None:
        ids = self.saved()
        self.weight.grad[ids.reshape(-1)] += dy.reshape(-1, dy.shape[-1])


class DropoutUnscaled(layers.Dropout):
    def backward(self, dy: Any) -> Any:
        seed = self.saved()
        return dy if seed is None else dropout(dy, self.p, seed) * (1 - self.p) if self.p < 1 else dy * 0


class DropoutOtherNoise(layers.Dropout):
    def backward(self, dy: Any) -> Any:
        seed = self.saved()
        return dy if seed is None else self.apply(dy, seed + 1)


class PositionsOverwrite(layers.LearnedPositions):
    def backward(self, dy: Any) -> Any:
        start, length = self.saved()
        self.weight.grad[start : start + length] += dy[-1]
        return dy


class RotaryNotTurnedBack(layers.RotaryPositions):
    def backward(self, dy: Any) -> Any:
        start, end = self.saved()
        cos, sin = self._tables.like(dy)
        from tinygrad_edu.layers.position import rotary

        return rotary(dy, cos[start:end], sin[start:end])


class ResidualOnePath(layers.Residual):
    def backward(self, dy: Any) -> Any:
        return self.layer.backward(dy)


class CrossEntropyForgetsIgnored(losses.CrossEntropyLoss):
    def backward(self, dloss: Any = 1.0) -> Any:
        *kept, targets, lse, weight, divisor = self.saved()
        self.save(*kept, np.where(targets == self.ignore_index, 0, targets), lse, weight, divisor)
        return super().backward(dloss)


class CrossEntropyNotMean(losses.CrossEntropyLoss):
    def backward(self, dloss: Any = 1.0) -> Any:
        *kept, _ = self.saved()
        self.save(*kept, 1)
        return super().backward(dloss)


class CrossEntropyIgnoresUpstream(losses.CrossEntropyLoss):
    def backward(self, dloss: Any = 1.0) -> Any:
        return super().backward(1.0)


class SquaredErrorWithoutTwo(losses.MeanSquaredError):
    def backward(self, dloss: Any = 1.0) -> Any:
        return super().backward(dloss) / 2


class BlockWithoutSecondResidual(layers.TransformerBlock):
    def backward(self, dy: Any) -> Any:
        if self.norm_placement == "post":
            return super().backward(dy)
        dy = self.norm2.backward(self.feed_forward.backward(self.dropout2.backward(dy)))
        return dy + self.norm1.backward(self.self_attn.backward(self.dropout1.backward(dy)))


class AttentionWithSwappedKeysAndValues(layers.MultiHeadAttention):
    def backward(self, dy: Any) -> Any:
        saved = self.saved()
        query, memory, q, k, v, *rest = saved
        self.save(query, memory, q, v, k, *rest)
        return super().backward(dy)


# (stands in for, wrong class, row that must find it, a part of what the report says)
WRONG = [
    ("Softmax", SoftmaxWithoutProduct, "Softmax", "a multiple of the output"),
    ("Softmax", SoftmaxWithoutProduct, "Softmax (dim=1)", "Along `time` the error is a multiple of the output"),
    ("Softmax", SoftmaxForCrossEntropyOnly, "Softmax", "backward WRONG in dx"),
    ("LayerNorm", NormWithoutVariance, "LayerNorm", "the error is a multiple of x less its mean"),
    (
        "LayerNorm",
        NormWithoutMean,
        "LayerNorm",
        "The error is constant along `channel`: a mean over that axis is missing.",
    ),
    ("LayerNorm", NormWithoutWeight, "LayerNorm", "backward WRONG in dx   (weight, bias ok)"),
    ("LayerNorm", NormWithSampleVariance, "LayerNorm", "Your output differs from torch's: the forward is wrong."),
    ("RMSNorm", RMSNormWithoutStretch, "RMSNorm", "the error is a multiple of x:"),
    ("GELU", GELUBadConstant, "GELU (approximate='tanh')", "a constant in the formula is slightly off"),
    ("GELU", GELUBadForward, "GELU (approximate='tanh')", "forward WRONG"),
    ("Sigmoid", SigmoidOfInput, "Sigmoid", "backward WRONG in dx"),
    ("Linear", LinearTransposed, "Linear (square)", "It is transposed."),
    ("Linear", LinearTransposed, "Linear", "expected a gradient (7, 6), the parameter's shape, got (6, 7)"),
    (
        "Linear",
        LinearScaled,
        "Linear",
        "It is 1.00001 times the right gradient: a constant in the formula is slightly off",
    ),
    (
        "Linear",
        LinearMeanOverRows,
        "Linear",
        "It is 0.0833333 times the right gradient, 1/12, the length of all axes but the last",
    ),
    ("Linear", LinearFirstExampleOnly, "Linear", "Only batch=0 was counted: the sum over that axis is missing"),
    ("Linear", LinearUnsummedBias, "Linear", "sum it over the leading axes first"),
    ("Linear", LinearForgetsBias, "Linear", "It is zero everywhere"),
    ("Linear", LinearNegative, "Linear", "The sign is wrong."),
    ("Linear", LinearZero, "Linear", "It is zero everywhere"),
    ("Linear", LinearReturnsNothing, "Linear", "backward returned nothing; wanted 1, the gradient of x"),
    ("Embedding", EmbeddingOverwrites, "Embedding", "wrong only at ids that occur more than once"),
    ("Dropout", DropoutUnscaled, "Dropout (p=0.4)", "It is 0.6 times the right gradient: a constant factor is missing"),
    ("Dropout", DropoutOtherNoise, "Dropout (p=0.4)", "backward WRONG in dx"),
    ("LearnedPositions", PositionsOverwrite, "LearnedPositions", "Only batch=2 was counted"),
    ("RotaryPositions", RotaryNotTurnedBack, "RotaryPositions", "backward WRONG in dx"),
    (
        "Residual",
        ResidualOnePath,
        "Residual",
        "Each layer inside is right by itself: the fault is in ResidualOnePath's own code",
    ),
    ("CrossEntropyLoss", CrossEntropyForgetsIgnored, "CrossEntropyLoss (ignored targets)", "backward WRONG in dlogits"),
    (
        "CrossEntropyLoss",
        CrossEntropyNotMean,
        "CrossEntropyLoss",
        "It is 12 times the right gradient, 12 being the length of all axes but the last",
    ),
    ("CrossEntropyLoss", CrossEntropyIgnoresUpstream, "CrossEntropyLoss", "backward WRONG in dlogits"),
    (
        "MeanSquaredError",
        SquaredErrorWithoutTwo,
        "MeanSquaredError (reduction='sum')",
        "It is 0.5 times the right gradient",
    ),
    (
        "TransformerBlock",
        BlockWithoutSecondResidual,
        "TransformerBlock",
        "the fault is in BlockWithoutSecondResidual's own code",
    ),
    ("MultiHeadAttention", AttentionWithSwappedKeysAndValues, "MultiHeadAttention", "backward WRONG in in_proj_weight"),
    *WRONG_IMAGES,
    *WRONG_NORMS,
    *WRONG_VISION,
]


def row(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("of, wrong, name, says", WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_backward_is_found_and_explained(of: str, wrong: type[Layer], name: str, says: str) -> None:
    pytest.importorskip("torch")
    report = row(name).check(torch=True, mine={of: wrong})
    assert not report.ok
    assert says in " ".join(str(report).split()) or says in str(report)


@pytest.mark.parametrize(
    "of, wrong, name", [entry[:3] for entry in WRONG], ids=lambda value: getattr(value, "__name__", None)
)
def test_it_is_found_without_torch_too(of: str, wrong: type[Layer], name: str) -> None:
    """All but those whose forward is wrong in the same way: only another source can tell that."""
    report = row(name).check(mine={of: wrong}, contract=False)
    assert report.ok == (wrong in (NormWithSampleVariance, GELUBadForward, *FORWARD_TOO))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "of, wrong, name", [entry[:3] for entry in WRONG], ids=lambda value: getattr(value, "__name__", None)
)
def test_it_is_found_whatever_the_seed(of: str, wrong: type[Layer], name: str, seed: int) -> None:
    pytest.importorskip("torch")
    assert not row(name).check(torch=True, mine={of: wrong}, seed=seed, seeds=1, contract=False).ok


def attention_backward_without_delta(
    dy: Any,
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    y: Any,
    lse: Any,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    from tinygrad_edu.layers.attention_ops import _dropout_factor, masked_scores

    probs = np.exp(masked_scores(q, k, mask, causal, scale) - lse)
    dprobs, kept = dy @ v.swapaxes(-1, -2), probs
    if dropout:
        factor = _dropout_factor(probs, dropout, seed)
        dprobs, kept = dprobs * factor, probs * factor
    dscores = probs * dprobs * scale
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, kept.swapaxes(-1, -2) @ dy


def attention_backward_without_scale(*args: Any) -> Any:
    from tinygrad_edu.layers.attention_ops import attention_backward

    dq, dk, dv = attention_backward(*args)
    return dq / args[8], dk / args[8], dv


def attention_backward_of_all_heads(
    dy: Any,
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    y: Any,
    lse: Any,
    causal: bool,
    scale: float,
    dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    from tinygrad_edu.layers.attention_ops import attention_backward

    dq, dk, dv = attention_backward(dy, q, k, v, mask, y, lse, causal, scale, dropout, seed)
    return dq, dk, np.broadcast_to(dv.sum(axis=1, keepdims=True), dv.shape)


def softmax_backward_over_all(dy: Any, y: Any, axis: int) -> Any:
    return y * (dy - (dy * y).sum(keepdims=True))


def cross_entropy_backward_of_all_rows(
    dlosses: Any, logits: Any, targets: Any, lse: Any, weight: Any, ignore_index: int, label_smoothing: float
) -> Any:
    from tinygrad_edu.losses import cross_entropy_backward

    counted = np.ones_like(targets)
    return cross_entropy_backward(dlosses, logits, counted, lse, weight, ignore_index, label_smoothing)


WRONG_OPS = [
    ("attention", {"attention_backward": attention_backward_without_delta}, "backward WRONG in dq, dk (dv ok)"),
    (
        "attention (causal)",
        {"attention_backward": attention_backward_without_delta},
        "backward WRONG in dq, dk (dv ok)",
    ),
    (
        "attention (dropout)",
        {"attention_backward": attention_backward_without_delta},
        "backward WRONG in dq, dk (dv ok)",
    ),
    (
        "attention (dropout)",
        {
            "attention_backward": lambda dy, q, k, v, mask, y, lse, causal, scale, dropout, seed: (
                tg.backend.registered_ops()["attention_backward"](dy, q, k, v, mask, y, lse, causal, scale)
            )
        },
        "WRONG in dq, dk, dv",
    ),
    (
        "attention",
        {"attention_backward": attention_backward_of_all_heads},
        "It was summed over `head` and spread out again",
    ),
    ("softmax", {"softmax_backward": softmax_backward_over_all}, "a multiple of the output"),
    ("cross_entropy", {"cross_entropy_backward": cross_entropy_backward_of_all_rows}, "backward WRONG in dlogits"),
    (
        "linear",
        {
            "linear_backward": lambda dy, x, weight, with_bias: (
                dy @ weight,
                (dy.swapaxes(-1, -2) @ x)[0],
                dy.sum((0, 1)),
            )
        },
        "backward WRONG in dweight (dx, dbias ok)",
    ),
    (
        "linear",
        {
            "linear_backward": lambda dy, x, weight, with_bias: (
                dy @ weight,
                dy.reshape(-1, 7).T @ x.reshape(-1, 6),
                dy.sum(0),
            )
        },
        "The shape is (4, 7), wanted (7,): the sum over batch is missing.",
    ),
    ("relu", {"relu_backward": lambda dy, y: dy * (y > -10)}, "backward WRONG in dx"),
    ("tanh", {"tanh_backward": lambda dy, y: dy / (y - y)}, "72 of 72 entries are not finite"),
]


@pytest.mark.parametrize("name, mine, says", WRONG_OPS)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_a_wrong_op_is_found_and_explained(name: str, mine: dict[str, Any], says: str) -> None:
    case = next(case for case in OP_CASES if case.name == name)
    report = case.check(mine=mine)
    assert not report.ok
    assert says in " ".join(str(report).split())


def test_a_wrong_scale_shows_in_the_columns() -> None:
    case = next(case for case in OP_CASES if case.name == "attention")
    report = case.check(
        mine={
            "attention_backward": lambda dy, q, k, v, mask, y, lse, causal, scale: attention_backward_without_scale(
                dy, q, k, v, mask, y, lse, causal, scale
            )
        }
    )
    wrong = report.first_wrong
    assert wrong is not None and wrong.name == "q"
    assert wrong.yours == pytest.approx(wrong.numeric / 0.7, rel=1e-6)
    assert set(wrong.worst) == {"batch", "head", "time", "channel"}


def test_of_a_block_the_layer_that_is_wrong_is_named() -> None:
    block = layers.TransformerBlock(8, 2, 12, generator=tg.backend.Generator(0))
    block.norm1 = NormWithoutMean(8)
    report = check.layer(block, np.random.default_rng(0).normal(size=(3, 4, 8)))
    assert "The fault is in `norm1` (NormWithoutMean): checked by itself it is wrong too." in str(report)
    assert [tensor.name for tensor in report.wrong] == ["x"]


def test_the_first_wrong_tensor_is_the_first_on_the_way_back() -> None:
    mlp = layers.Sequential(
        layers.Linear(6, 5), layers.Tanh(), LinearNegative(5, 4), layers.Tanh(), layers.Linear(4, 3)
    )
    report = check.layer(mlp, np.random.default_rng(0).normal(size=(3, 6)))
    assert [tensor.name for tensor in report.tensors[1:]] == [
        "4.weight",
        "4.bias",
        "2.weight",
        "2.bias",
        "0.weight",
        "0.bias",
        "x",
    ]
    assert report.first_wrong is not None and report.first_wrong.name == "2.weight"


def test_attention_is_what_the_ops_say() -> None:
    """The wrong ops above stand in for one that is right: the same call with the library's own passes."""
    assert attention.name == "attention"
    assert all(case.check().ok for case in OP_CASES if case.of == "attention")

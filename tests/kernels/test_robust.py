"""Kernels under misuse: arrays that do not fit, mixed types, several threads, forked children, no place on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import gemm
from tinygrad_edu.errors import RangeError, ShapeError
from tinygrad_edu.layers import activation, channel_norm_ops, embedding, linear, norm, pooling_ops, position
from tinygrad_edu.layers import attention_ops as attention
from tinygrad_edu.losses import (
    cross_entropy,
    cross_entropy_backward,
    linear_cross_entropy,
    linear_cross_entropy_grad,
)
from tinygrad_edu.optim.adam import adam_update
from tinygrad_edu.optim.sgd import sgd_update

pytest.importorskip("numba")
from tinygrad_edu.kernels.cpu import blas, common


def f(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


IDS = np.zeros(4, dtype=np.int64)
HEADS = f(1, 2, 4, 6)

MISFITS: dict[str, tuple[Callable[[], Any], str]] = {
    "gelu_backward": (
        lambda: activation.gelu_backward(f(6), f(4, 6)),
        r"gelu_backward: dy must be \(4, 6\), got \(6,\)",
    ),
    "silu_backward": (lambda: activation.silu_backward(f(2, 6), f(4, 6)), r"silu_backward: dy must be \(4, 6\)"),
    "linear": (lambda: linear.linear(f(4, 6), f(3, 6), f(1)), r"linear: bias must be \(3,\), got \(1,\)"),
    "layernorm": (lambda: norm.layernorm(f(4, 6), f(6), f(1), 1e-5), r"layernorm: bias must be \(6,\), got \(1,\)"),
    "layernorm_backward": (
        lambda: norm.layernorm_backward(f(2, 6), f(4, 6), f(6), f(4, 1), f(4, 1)),
        r"layernorm_backward: dy must be \(4, 6\), got \(2, 6\)",
    ),
    "rmsnorm": (lambda: norm.rmsnorm(f(4, 6), f(5), 1e-5), r"rmsnorm: weight must be \(6,\), got \(5,\)"),
    "rmsnorm_backward": (
        lambda: norm.rmsnorm_backward(f(4, 6), f(4, 6), f(6), f(2, 1)),
        r"rmsnorm_backward: rrms must be \(4, 1\), got \(2, 1\)",
    ),
    "relu_backward": (lambda: activation.relu_backward(f(2, 6), f(4, 6)), r"relu_backward: dy must be \(4, 6\)"),
    "batchnorm": (
        lambda: channel_norm_ops.batchnorm(f(2, 3, 4, 4), f(3), f(1), 1e-5),
        r"batchnorm: bias must be \(3,\), got \(1,\)",
    ),
    "batchnorm_backward": (
        lambda: channel_norm_ops.batchnorm_backward(f(2, 3, 4, 4), f(2, 3, 4, 4), None, f(2), f(3), 1e-5),
        r"batchnorm_backward: mean must be \(1, 3\), got \(1, 2\)",
    ),
    "batchnorm_inference": (
        lambda: channel_norm_ops.batchnorm_inference(f(2, 3, 4, 4), None, None, f(3), f(1), 1e-5),
        r"batchnorm_inference: var must be \(3,\), got \(1,\)",
    ),
    "batchnorm_inference_backward": (
        lambda: channel_norm_ops.batchnorm_inference_backward(f(2, 3, 4), f(2, 3, 4, 4), f(3), f(3), f(3), 1e-5),
        r"batchnorm_inference_backward: dy must be \(2, 3, 4, 4\), got \(2, 3, 4\)",
    ),
    "groupnorm": (
        lambda: channel_norm_ops.groupnorm(f(2, 4, 3, 3), 2, f(3), f(4), 1e-5),
        r"groupnorm: weight must be \(4,\), got \(3,\)",
    ),
    "groupnorm_backward": (
        lambda: channel_norm_ops.groupnorm_backward(f(2, 4, 3, 3), f(2, 4, 3, 3), 2, None, f(2, 4), f(2, 2), 1e-5),
        r"groupnorm_backward: mean must be \(2, 2\), got \(2, 4\)",
    ),
    "max_pool_backward": (
        lambda: pooling_ops.max_pool_backward(
            f(2, 3, 2, 2), np.zeros((2, 3, 3, 2), np.uint8), (4, 4), (2, 2), (2, 2), (0, 0), (1, 1)
        ),
        r"max_pool_backward: dy must be \(2, 3, 3, 2\), got \(2, 3, 2, 2\)",
    ),
    "rotary, length": (
        lambda: position.rotary(f(4, 6), f(2, 3), f(2, 3)),
        r"rotary: cos must be \(4, 3\), got \(2, 3\)",
    ),
    "rotary, odd": (lambda: position.rotary(f(4, 7), f(4, 3), f(4, 3)), r"rotary: x must be \(4, 6\), got \(4, 7\)"),
    "attention": (
        lambda: attention.attention(HEADS, HEADS, HEADS[:, :, :2], None, False, 1.0),
        r"attention: v must be \(1, 2, 4, 6\), got \(1, 2, 2, 6\)",
    ),
    "attention_backward": (
        lambda: attention.attention_backward(
            HEADS[:, :, :2], HEADS, HEADS, HEADS, None, HEADS, f(1, 2, 4, 1), False, 1.0
        ),
        r"attention_backward: dy must be \(1, 2, 4, 6\), got \(1, 2, 2, 6\)",
    ),
    "cross_entropy_backward": (
        lambda: cross_entropy_backward(f(2), f(4, 3), IDS, f(4, 1), None, -100, 0.0),
        r"cross_entropy_backward: dlosses must be \(4,\), got \(2,\)",
    ),
    "cross_entropy, weight": (
        lambda: cross_entropy(f(4, 3), IDS, f(2), -100, 0.0),
        r"cross_entropy: weight must be \(3,\), got \(2,\)",
    ),
    "linear_cross_entropy": (
        lambda: linear_cross_entropy(f(4, 3), f(5, 3), f(2), IDS, -100, 0.0),
        r"linear_cross_entropy: bias must be \(5,\), got \(2,\)",
    ),
    "linear_cross_entropy_grad": (
        lambda: linear_cross_entropy_grad(f(4, 3), f(5, 3), None, IDS, f(2), f(5, 3), None, -100, 0.0),
        r"linear_cross_entropy_grad: dlosses must be \(4,\), got \(2,\)",
    ),
    "embedding_backward": (
        lambda: embedding.embedding_backward(f(2, 6), IDS, f(3, 6)),
        r"embedding_backward: dy must be \(4, 6\), got \(2, 6\)",
    ),
    "adam_update": (
        lambda: adam_update(f(9), f(3), f(9), f(9), 1, 0.1, 0.9, 0.999, 1e-8, 0.0, True, 1.0),
        r"adam_update: grad must be \(9,\), got \(3,\)",
    ),
    "sgd_update": (
        lambda: sgd_update(f(9), f(9), f(3), 0.1, 0.9, False, 0.0, 1.0),
        r"sgd_update: velocity must be \(9,\), got \(3,\)",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_no_kernel_reads_past_the_end_of_an_array_that_does_not_fit(name: str) -> None:
    call, message = MISFITS[name]
    with pytest.raises(ShapeError, match=message):
        call()


@pytest.mark.parametrize("target", [-1, 3, 10**9])
def test_no_kernel_reads_beside_the_classes(target: int) -> None:
    targets = np.array([0, target, -100, 2])
    with pytest.raises(RangeError, match=rf"targets must be in \[0, 3\) or -100, got {target}"):
        cross_entropy(f(4, 3), targets, None, -100, 0.0)
    with pytest.raises(RangeError, match=rf"targets must be in \[0, 3\) or -100, got {target}"):
        linear_cross_entropy_grad(f(4, 2), f(3, 2), None, targets, f(4), f(3, 2), None, -100, 0.0)
    with pytest.raises(RangeError, match=r"embedding_backward: ids must be in \[0, 2\), they run from "):
        embedding.embedding_backward(f(4, 3), targets, f(2, 3))


def test_a_layer_refuses_a_gradient_of_another_shape() -> None:
    for layer in (tg.layers.GELU(), tg.layers.SiLU(), tg.layers.LayerNorm(6), tg.layers.RMSNorm(6)):
        layer(f(4, 6))
        with pytest.raises(ShapeError, match=r"dy must be \(4, 6\), got \(6,\)"):
            layer.backward(f(6))


@pytest.mark.parametrize("model, data", [("float32", "float64"), ("float64", "float32")])
def test_mixed_types_run_the_op_in_the_wider_one(model: str, data: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 8))
    layers: list[Any] = [tg.layers.Linear(8, 8), tg.layers.LayerNorm(8), tg.layers.RMSNorm(8)]
    for layer in (layer.astype(model) for layer in layers):
        y, dx = layer(x.astype(data)), layer.backward(x.astype("float64"))
        assert y.dtype == dx.dtype == np.float64
        with tg.reference_ops():
            assert np.array_equal(y, layer(x.astype(data)))
    across = tg.layers.MultiHeadAttention(8, 2)
    y = across(x.astype("float32"), x)  # memory in float64: its bytes must not be read as float32
    with tg.reference_ops():
        np.testing.assert_allclose(y, across(x.astype("float32"), x), rtol=1e-5, atol=1e-6)
    assert activation.gelu_backward(x.astype("float32"), x).dtype == np.float64


def test_foreign_byte_order_runs_the_op() -> None:
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(">f4")
    for layer in (tg.layers.GELU(), tg.layers.LayerNorm(8), tg.layers.Linear(8, 8)):
        np.testing.assert_allclose(layer(x), layer(x.astype("float32")), rtol=1e-5, atol=1e-6)


def test_a_product_is_added_where_one_row_has_any_stride() -> None:
    out = np.zeros(5, dtype=np.float32)[:, None].T
    assert out.strides == (0, 4)
    assert gemm(f(1, 3), f(3, 5), out=out, accumulate=True).tolist() == [[3.0] * 5]
    records = np.zeros(4, dtype=[("skip", "u1", 2), ("row", "f4", 3)])
    records["row"] = np.arange(12).reshape(4, 3)
    assert records["row"].strides == (14, 4)
    total = gemm(records["row"], np.eye(3, dtype=np.float32), out=f(4, 3), accumulate=True)
    assert np.array_equal(total, np.arange(12).reshape(4, 3) + 1)


@pytest.mark.skipif(not blas.available, reason="NumPy without OpenBLAS has no attention kernel")
def test_threads_that_attend_together_leave_blas_its_threads() -> None:
    before = blas._get_threads()
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    seen: list[int] = []

    def first() -> None:
        with blas.one_thread():
            first_in.set()
            assert second_in.wait(10)
        first_out.set()

    def second() -> None:
        assert first_in.wait(10)
        with blas.one_thread():
            second_in.set()
            assert first_out.wait(10)
            seen.append(blas._get_threads())

    workers = [threading.Thread(target=work) for work in (first, second)]
    blas._set_threads(max(2, before))
    try:
        wanted = blas._get_threads()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert seen == [1]
        assert blas._get_threads() == wanted
    finally:
        blas._set_threads(before)


_LOOPS = """
import os, sys, threading
import tinygrad_edu as tg
import numpy as np
x = np.ones((64, 512), dtype=np.float32)
layer = tg.layers.LayerNorm(512)
"""


def _run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _LOOPS + script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_two_threads_may_call_kernels_on_the_weakest_layer_of_numba() -> None:
    done = _run(
        """
with tg.inference():
    threads = [threading.Thread(target=lambda: [layer(x) for _ in range(300)]) for _ in range(3)]
    [t.start() for t in threads]; [t.join() for t in threads]
import numba
print(numba.threading_layer())
""",
        NUMBA_THREADING_LAYER="workqueue",
        NUMBA_NUM_THREADS="2",
    )
    assert (done.returncode, done.stdout.strip()) == (0, "workqueue"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_may_call_kernels() -> None:
    done = _run(
        """
y = layer(x)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(layer(x), y) else 3)
print(os.waitpid(child, 0)[1])
"""
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


def test_kernels_work_where_nothing_can_be_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> Any:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(common.numba, "njit", refuse)
    with pytest.warns(UserWarning, match="compiled anew in each process.*no locator.*NUMBA_CACHE_DIR"):
        assert not common._can_keep()

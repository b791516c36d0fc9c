"""This library's side of :mod:`bench.vision` and :mod:`bench.convolution`, in a process of its own, without torch."""

from __future__ import annotations

from bench import ours  # first: it loads the library, which settles the thread pools before NumPy loads

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bench import worker
from bench.convolution import KINDS, Convolution
from bench.layers import fingerprint
from bench.vision import DEPTH, Pictures
from tinygrad_edu.backend import to_host
from tinygrad_edu.errors import NonFiniteError
from tinygrad_edu.layers import Conv2d
from tinygrad_edu.losses import CrossEntropyLoss, MeanSquaredError
from tinygrad_edu.models import ResNet18, UNet
from tinygrad_edu.optim import SGD, AdamW, clip_factor, grad_norm

# -- a training step -------------------------------------------------------------------------------


class Trainer:
    """A training step around a network of images, with the methods that :mod:`bench.ours` asks a model for."""

    def __init__(self, w: Pictures):
        common = {"seed": w.seed, "dtype": w.dtype}
        self.w = w
        self.model: Any = (
            UNet(w.channels, w.outputs, w.base, DEPTH, **common)
            if w.kind == "unet"
            else ResNet18(w.outputs, w.channels, **common)
        )
        self.loss = MeanSquaredError() if w.kind == "unet" else CrossEntropyLoss()
        self.optimizer = (
            AdamW(self.model, lr=w.learning_rate, weight_decay=w.weight_decay)
            if w.optimizer == "adamw"
            else SGD(self.model, lr=w.learning_rate, momentum=w.settings["momentum"])
        )

    def train_step(self, images: Any, targets: Any, learning_rate: float) -> dict[str, float]:
        """Forward, loss, backward, clipping, update."""
        self.model.zero_grad()
        loss = self.loss(self.model(images), targets)
        self.model.backward(self.loss.backward())
        norm = grad_norm(self.model)
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss}")
        self.optimizer.step(learning_rate, grad_scale=clip_factor(norm, self.w.clip_norm))
        return {"loss": loss, "grad_norm": norm}

    def num_parameters(self) -> int:
        return int(self.model.num_parameters())


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Time training steps."""
    return ours.time_training(job, Pictures(**job["workload"]), Trainer)


def losses(job: dict[str, Any]) -> dict[str, Any]:
    """Save the initial state for the twin, then follow a few steps."""
    w = Pictures(**job["workload"])
    trainer = Trainer(w)
    np.savez(f"{job['weights']}.npz", **{name: to_host(x) for name, x in trainer.model.state_dict().items()})
    return ours.follow_training(job, w, trainer)


# -- one convolution -------------------------------------------------------------------------------


def _step(w: Convolution) -> Callable[[int], dict[str, Any]]:
    """Forward and backward on images that lie channels-last, as this library's own layers lay them."""
    kernel, stride, padding = KINDS[w.kind]
    layer = Conv2d(w.in_channels, w.out_channels, kernel, stride, padding).astype(w.dtype)
    layer.load_state_dict(w.weights())
    x, dy = (np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for array in w.inputs())

    def step(_: int) -> dict[str, Any]:
        layer.zero_grad()
        y = layer(x)
        return {"y": y, "dx": layer.backward(dy), "dweight": layer.weight.grad, "dbias": layer.bias.grad}

    return step


def results(job: dict[str, Any]) -> dict[str, Any]:
    """Result and gradients, in a few numbers each."""
    return fingerprint(_step(Convolution(**job["layer"]))(0))


def memory(job: dict[str, Any]) -> dict[str, Any]:
    """What one step adds to the memory of the process beyond its inputs, in MiB."""
    w = Convolution(**job["layer"])
    _step(replace(w, batch=1, size=min(w.size, 16)))(0)  # loads and compiles
    step = _step(w)
    return {"grown_mib": worker.growth_mib(lambda: step(0))}


def timing(job: dict[str, Any]) -> dict[str, Any]:
    """Time steps."""
    w = Convolution(**job["layer"])
    timed = worker.time_steps(_step(w), job["warmup"], job["steps"], 1, lambda: None)
    peak, size = worker.peak_mib(), worker.gemm_size("cpu")
    a, out = np.ones((size, size), dtype=w.dtype), np.empty((size, size), dtype=w.dtype)
    rate = worker.gemm_rate(lambda: np.matmul(a, a, out=out), lambda: None, size)
    return {**timed, "peak_mib": peak, "gemm_gflops": rate, "facts": ours.facts()}


if __name__ == "__main__":
    ours.serve({"steps": steps, "losses": losses, "results": results, "memory": memory, "timing": timing})

"""U-Net, ResNet-18 and a convolution as a torch user would write them, in a process of its own, without tinygrad_edu.

Names of the state are this library's, which for ResNet-18 are the well-known ones. Images and modules lie in the memory
format that the environment names: torch is timed in both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench import twin, worker
from bench.convolution import FORMAT, KINDS, Convolution
from bench.layers import fingerprint
from bench.vision import DEPTH, STAGES, Pictures
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own custom)
from torch import Tensor, nn


def _format() -> torch.memory_format:
    found: torch.memory_format = getattr(torch, os.environ.get(FORMAT, "contiguous_format"))
    return found


# -- the networks ----------------------------------------------------------------------------------


class Skip(nn.Module):
    """x beside what is made of it."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], dim=1)


def _pair(inputs: int, outputs: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return layers


class UNet(nn.Module):
    def __init__(self, w: Pictures):
        super().__init__()
        self.base = w.base
        self.level = self._level(w.channels, 0)
        self.head = nn.Conv2d(w.base, w.outputs, 1)

    def _level(self, inputs: int, number: int) -> nn.Module:
        width = self.base << number
        if number == DEPTH:
            return nn.Sequential(*_pair(inputs, width))
        enlarge = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        below = nn.Sequential(nn.MaxPool2d(2), self._level(width, number + 1), enlarge)
        return nn.Sequential(*_pair(inputs, width), Skip(below), *_pair(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.level(x))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.downsample = None
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    def __init__(self, w: Pictures):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(w.channels, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = STAGES[0]
        for number, width in enumerate(STAGES, 1):
            stage = nn.Sequential(Block(inputs, width, 1 if number == 1 else 2), Block(width, width, 1))
            setattr(self, f"layer{number}", stage)
            inputs = width
        self.fc = nn.Linear(inputs, w.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3)))


# -- a training step -------------------------------------------------------------------------------


class Trainer(twin.Trainer):
    """A training step around a network of images."""

    def make_module(self) -> nn.Module:
        made = UNet(self.w) if self.w.kind == "unet" else ResNet(self.w)
        return made.to(memory_format=_format())

    def make_optimizer(self) -> None:
        s = self.w.settings
        if self.w.optimizer == "sgd":
            parameters = self.module.parameters()
            self.optimizer: Any = torch.optim.SGD(parameters, lr=s["learning_rate"], momentum=s["momentum"], fused=True)
        else:
            super().make_optimizer()

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        y = self.model(images.contiguous(memory_format=_format()))
        return F.mse_loss(y, targets) if self.w.kind == "unet" else F.cross_entropy(y, targets)


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Time training steps."""
    return twin.time_training(job, Pictures(**job["workload"]), Trainer)


def losses(job: dict[str, Any]) -> dict[str, Any]:
    """A few steps from the state that the other side saved."""
    trainer = Trainer(Pictures(**job["workload"]), job["compile"])
    with np.load(f"{job['weights']}.npz", allow_pickle=False) as arrays:
        trainer.module.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    return twin.follow_training(job, trainer)


# -- one convolution -------------------------------------------------------------------------------


def _step(w: Convolution) -> Callable[[int], dict[str, Any]]:
    kernel, stride, padding = KINDS[w.kind]
    kind = getattr(torch, w.dtype)
    layer = nn.Conv2d(w.in_channels, w.out_channels, kernel, stride, padding, dtype=kind)
    layer.load_state_dict({name: torch.from_numpy(values) for name, values in w.weights().items()})
    layer = layer.to(memory_format=_format())
    x, dy = (torch.from_numpy(array).contiguous(memory_format=_format()) for array in w.inputs())
    x.requires_grad_()

    def step(_: int) -> dict[str, Any]:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        y = layer(x)
        y.backward(dy)
        assert layer.bias is not None
        return {"y": y.detach(), "dx": x.grad, "dweight": layer.weight.grad, "dbias": layer.bias.grad}

    return step


def _set_threads(job: dict[str, Any]) -> None:
    if job["threads"] is not None:
        torch.set_num_threads(job["threads"])


def results(job: dict[str, Any]) -> dict[str, Any]:
    """Result and gradients, in a few numbers each."""
    _set_threads(job)
    return fingerprint({name: tensor.numpy() for name, tensor in _step(Convolution(**job["layer"]))(0).items()})


def memory(job: dict[str, Any]) -> dict[str, Any]:
    """What one step adds to the memory of the process beyond its inputs, in MiB."""
    _set_threads(job)
    w = Convolution(**job["layer"])
    _step(replace(w, batch=1, size=min(w.size, 16)))(0)
    step = _step(w)
    return {"grown_mib": worker.growth_mib(lambda: step(0))}


def timing(job: dict[str, Any]) -> dict[str, Any]:
    """Time steps."""
    _set_threads(job)
    w = Convolution(**job["layer"])
    timed = worker.time_steps(_step(w), job["warmup"], job["steps"], 1, lambda: None)
    peak, size = worker.peak_mib(), worker.gemm_size("cpu")
    a = torch.ones((size, size), dtype=getattr(torch, w.dtype))
    out = torch.empty_like(a)
    rate = worker.gemm_rate(lambda: torch.mm(a, a, out=out), lambda: None, size)
    return {**timed, "peak_mib": peak, "gemm_gflops": rate, "facts": twin.facts()}


if __name__ == "__main__":
    twin.serve({"steps": steps, "losses": losses, "results": results, "memory": memory, "timing": timing})

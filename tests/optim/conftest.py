"""A small model with every kind of parameter, and its twin made of torch leaves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tinygrad_edu as tg

torch = pytest.importorskip("torch")


class Pair:
    """The same parameters twice, in `model` and by name in `leaves`; gradients are set on both sides."""

    def __init__(self, dtype: str, flat: bool):
        generator = tg.backend.Generator(3)
        self.model = tg.layers.Sequential(
            tg.layers.Linear(5, 7, generator=generator),
            tg.layers.LayerNorm(7),
            tg.layers.Linear(7, 3, bias=False, generator=generator),
        ).astype(dtype)
        if flat:
            self.model.flatten()
        self.named = dict(self.model.named_parameters())
        self.leaves = {n: torch.tensor(p.data.copy(), requires_grad=True) for n, p in self.named.items()}
        self._rng = np.random.default_rng(11)

    def groups(self, weight_decay: float) -> list[dict[str, object]]:
        """torch's way to spare biases and norms from weight decay."""
        matrices = [leaf for leaf in self.leaves.values() if leaf.ndim >= 2]
        vectors = [leaf for leaf in self.leaves.values() if leaf.ndim < 2]
        return [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]

    def draw(self, scale: float = 1.0, names: list[str] | None = None) -> None:
        """Fresh random gradients on both sides, for all parameters or for those in `names` alone."""
        for name, parameter in self.named.items():
            if names is not None and name not in names:
                self.leaves[name].grad = None  # torch passes over such a parameter
                continue
            gradient = (self._rng.normal(size=parameter.shape) * scale).astype(parameter.dtype)
            parameter.grad[...] = gradient
            self.leaves[name].grad = torch.tensor(gradient)

    def values(self) -> dict[str, np.ndarray]:
        return {name: parameter.data.copy() for name, parameter in self.named.items()}

    def assert_same(self, *, exact: float | None = None) -> None:
        """Both sides hold the same values: within `exact` relative, or torch's default for the type."""
        for name, parameter in self.named.items():
            torch.testing.assert_close(
                torch.tensor(parameter.data),
                self.leaves[name].detach(),
                rtol=exact,
                atol=None if exact is None else exact,
                msg=lambda text, name=name: f"{name}: {text}",
            )


@pytest.fixture
def make_pair() -> Callable[..., Pair]:
    return lambda dtype="float64", flat=True: Pair(dtype, flat)

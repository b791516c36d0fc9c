"""Losses on masks that are wrong on purpose: each is found by the row that stands for the right one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tinygrad_edu import losses
from tinygrad_edu.check.cases import CASES
from tinygrad_edu.layers.activation import sigmoid_backward
from tinygrad_edu.layers.base import Layer
from tinygrad_edu.losses.dice import dice_backward


class DiceOverlapOnly(losses.DiceLoss):
    """As if the sum of the masks did not depend on the prediction."""

    def backward(self, dloss: Any = 1.0) -> Any:
        p, g, scores, size = self.saved()
        dscores = -dloss / scores.size * np.ones_like(scores)
        return sigmoid_backward(dice_backward(dscores, p, g, 0 * scores, size, self.squared), p)


class DiceWithoutActivation(losses.DiceLoss):
    def backward(self, dloss: Any = 1.0) -> Any:
        activation, self.activation = self.activation, None
        try:
            return super().backward(dloss)
        finally:
            self.activation = activation


class DiceOfSquaresWithoutTwo(losses.DiceLoss):
    def backward(self, dloss: Any = 1.0) -> Any:
        p, *rest = self.saved()
        self.save(p / 2 if self.squared else p, *rest)
        return super().backward(dloss)


class BinaryForgetsPosWeight(losses.BCEWithLogitsLoss):
    def backward(self, dloss: Any = 1.0) -> Any:
        pos_weight, self.pos_weight = self.pos_weight, None
        try:
            return super().backward(dloss)
        finally:
            self.pos_weight = pos_weight


class BinaryDividedByWeights(losses.BCEWithLogitsLoss):
    """The mean of weighted squared errors is; torch's binary cross-entropy is not."""

    mean_of_weights = True


class CompositeForgetsWeights(losses.CompositeLoss):
    def backward(self, dloss: Any = 1.0) -> Any:
        prediction = self.saved()
        dprediction = np.zeros_like(prediction)
        for term in reversed(self.terms):
            dprediction[:, term.prediction] += term.loss.backward(dloss)
        return dprediction


class CompositeOverwrites(losses.CompositeLoss):
    def backward(self, dloss: Any = 1.0) -> Any:
        prediction = self.saved()
        dprediction = np.zeros_like(prediction)
        for term in reversed(self.terms):
            dprediction[:, term.prediction] = term.loss.backward(dloss * term.weight)
        return dprediction


class MapGradientInRows(losses.CrossEntropyLoss):
    """Classes left on the last axis, where they were for the softmax."""

    def backward(self, dloss: Any = 1.0) -> Any:
        dlogits = super().backward(dloss)
        return np.moveaxis(dlogits, 1, -1).reshape(dlogits.shape) if dlogits.ndim == 4 else dlogits


SHARED = "CompositeLoss (one loss twice, on channels they share)"
WRONG = [
    (DiceOverlapOnly, "DiceLoss (reduction='mean')", "backward WRONG in dprediction"),
    (DiceWithoutActivation, "DiceLoss (reduction='sum')", "backward WRONG in dprediction"),
    (DiceOfSquaresWithoutTwo, "DiceLoss (probabilities, squared)", "backward WRONG in dprediction"),
    (BinaryForgetsPosWeight, "BCEWithLogitsLoss (weight, pos_weight, sum)", "backward WRONG in dprediction"),
    (BinaryDividedByWeights, "BCEWithLogitsLoss (weight, pos_weight, mean)", "the forward is wrong"),
    (CompositeForgetsWeights, SHARED, "backward WRONG in dprediction"),
    (CompositeOverwrites, SHARED, "backward WRONG in dprediction"),
    (MapGradientInRows, "CrossEntropyLoss (maps)", "backward WRONG in dlogits"),
]


@pytest.mark.parametrize("wrong, name, says", WRONG, ids=lambda value: getattr(value, "__name__", None))
def test_a_wrong_loss_is_found(wrong: type[Layer], name: str, says: str) -> None:
    pytest.importorskip("torch")
    case = next(case for case in CASES if case.name == name)
    assert case.check(torch=True).ok
    report = case.check(torch=True, mine={wrong.__bases__[0].__name__: wrong})
    assert not report.ok
    assert says in " ".join(str(report).split())

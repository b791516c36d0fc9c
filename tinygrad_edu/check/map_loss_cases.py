"""Rows of the tables for losses on maps and masks, and for the losses of single elements beside them.

Maps are (B, C, T, 3): what is time elsewhere is their height.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..backend import Array, asarray, namespace
from .case import CLASSES, DIM, Case, Draw, Inputs

if TYPE_CHECKING:
    from .op_cases import OpCase

WIDTH = 3
_CLASS_WEIGHTS = [0.5, 1.0, 2.0, 0.25, 1.5]
_ELEMENT_WEIGHTS = [0.5, 1.0, 2.0]  # along the width of a map
_CHANNEL_WEIGHTS = [[[0.5]], [[3.0]]]  # for each of two channels
_MAP_AXES = {"logits": ("batch", "class", "height", "width"), "y": ("batch", "height", "width")}
_MASK_AXES = {"prediction": ("batch", "channel", "height", "width")}


def _channels_last(x: Array) -> Array:
    """The same shape and values; in memory the channels of a pixel lie together."""
    return x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)


def _map(r: Draw, B: int, T: int) -> Inputs:
    return r.normal(B, CLASSES, T, WIDTH, scale=2), r.ids(CLASSES, B, T, WIDTH)


def _map_ignoring(ignored: int) -> Callable[[Draw, int, int], Inputs]:
    return lambda r, B, T: (r.normal(B, CLASSES, T, WIDTH, scale=2), r.targets(CLASSES, B, T, WIDTH, ignored=ignored))


def _flat_map(r: Draw, B: int, T: int) -> Inputs:
    logits, targets = _map(r, B, T)
    return _channels_last(logits), targets


def _cube(r: Draw, B: int, T: int) -> Inputs:
    """As many classes as rows and columns: shapes alone do not tell which axis is which."""
    return r.normal(B, CLASSES, CLASSES, CLASSES), r.ids(CLASSES, B, CLASSES, CLASSES)


def _masks(r: Draw, B: int, T: int) -> Inputs:
    """Logits and masks of numbers in (0, 1), channels-last."""
    return _channels_last(r.normal(B, 2, T, WIDTH)), _fractions(r, B, 2, T, WIDTH)


def _hard_masks(r: Draw, B: int, T: int) -> Inputs:
    return r.normal(B, 2, T, WIDTH), r.ids(2, B, 2, T, WIDTH) > 0


def _probabilities(r: Draw, B: int, T: int) -> Inputs:
    return _fractions(r, B, 2, T, WIDTH), r.ids(2, B, 2, T, WIDTH) > 0


def _fractions(r: Draw, *shape: int) -> Array:
    """Numbers between 0.05 and 0.95, away from the ends, where logarithms are cut off."""
    x = r.normal(*shape)
    return 0.5 + 0.45 * x / (1 + abs(x))


def _far_pair(r: Draw, B: int, T: int) -> Inputs:
    """A prediction and a target that differ by 0.05 at least, where the absolute value has its kink."""
    target = r.normal(B, T, DIM)
    return target + 0.3 * r.normal(B, T, DIM) + 0.03, target


def _design(r: Draw, B: int, T: int) -> Inputs:
    """What a network gives and what it should, with class ids in an array of floats."""
    masks, hierarchy = _fractions(r, B, 2, T, WIDTH), r.normal(B, 1, T, WIDTH)
    colour = r.ids(CLASSES, B, 1, T, WIDTH).astype(masks.dtype)
    target = namespace(masks).concatenate([masks, colour, hierarchy], axis=1)
    return _channels_last(r.normal(B, 2 + CLASSES + 1, T, WIDTH)), target


# -- twins -----------------------------------------------------------------------------------------------------


def _functional(name: str, **settings: Any) -> Callable[[], Any]:
    """A loss of torch.nn.functional; lists among `settings` become tensors, a weight is spread to the whole shape."""

    def build() -> Any:
        import torch

        given = {key: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for key, v in settings.items()}
        spread = "weight" in given and name != "cross_entropy"

        def call(prediction: Any, target: Any) -> Any:
            target = target if name == "cross_entropy" else target.to(prediction.dtype)
            more = {"weight": given["weight"].expand(prediction.shape)} if spread else {}
            return getattr(torch.nn.functional, name)(prediction, target, **{**given, **more})

        return call

    return build


def _dice(activation: str | None = "sigmoid", smooth: float = 1.0, power: int = 1, reduction: str = "mean") -> Any:
    """The Dice loss image by image and mask by mask, each a sum over a flat list of pixels."""

    def build() -> Any:
        import torch

        def call(prediction: Any, target: Any) -> Any:
            if activation == "sigmoid":
                prediction = torch.sigmoid(prediction)
            elif activation == "softmax":
                prediction = torch.softmax(prediction, 1)
            losses = []
            for p, g in zip(prediction.flatten(0, 1), target.to(prediction.dtype).flatten(0, 1), strict=True):
                p, g = p.flatten(), g.flatten()
                losses.append(1 - (2 * p @ g + smooth) / ((p**power).sum() + (g**power).sum() + smooth))
            each = torch.stack(losses).reshape(target.shape[:2])
            return each if reduction == "none" else getattr(each, reduction)()

        return call

    return build


def _design_torch() -> Any:
    from torch.nn.functional import cross_entropy, mse_loss

    dice = _dice()()

    def call(prediction: Any, target: Any) -> Any:
        colour = cross_entropy(prediction[:, 2 : 2 + CLASSES], target[:, 2].long())
        hierarchy = mse_loss(prediction[:, -1], target[:, 3])
        return dice(prediction[:, :2], target[:, :2]) + 0.5 * colour + hierarchy

    return call


# -- rows ------------------------------------------------------------------------------------------------------


def _row(*args: Any, **settings: Any) -> Case:
    return Case(*args, **{"loss": True, "batched": False, "axes": _MASK_AXES, **settings})


def _shared_channels(L: Any) -> Any:
    loss = L.BCEWithLogitsLoss()
    terms = [
        L.Term("both", loss, slice(0, 2), slice(0, 2), 0.3),
        L.Term("first", loss, slice(0, 1), slice(1, 2), 2.0),
    ]
    return L.CompositeLoss(terms)


_REDUCTIONS = ("mean", "sum", "none")

MAP_LOSSES = [
    _row("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(), _map, "maps", axes=_MAP_AXES,
         torch=_functional("cross_entropy")),
    _row("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(), _flat_map, "maps, channels-last", axes=_MAP_AXES,
         torch=_functional("cross_entropy")),
    _row("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(), _cube, "maps, as many classes as pixels", axes=_MAP_AXES,
         torch=_functional("cross_entropy")),
    *(_row("CrossEntropyLoss",
           lambda L, how=how: L.CrossEntropyLoss(asarray(_CLASS_WEIGHTS), 1, how, 0.3), _map_ignoring(1),
           f"maps, weight, label_smoothing, ignore_index=1, {how}", axes=_MAP_AXES,
           torch=_functional("cross_entropy", weight=_CLASS_WEIGHTS, ignore_index=1, reduction=how,
                             label_smoothing=0.3))
      for how in _REDUCTIONS),
    _row("CrossEntropyLoss", lambda L: L.CrossEntropyLoss(class_axis=1),
         lambda r, B, T: (r.normal(B, CLASSES, T), r.ids(CLASSES, B, T)), "class_axis=1", axes={},
         torch=_functional("cross_entropy")),
    *(_row("BCEWithLogitsLoss", lambda L, how=how: L.BCEWithLogitsLoss(reduction=how), _masks, f"reduction={how!r}",
           torch=_functional("binary_cross_entropy_with_logits", reduction=how)) for how in _REDUCTIONS),
    _row("BCEWithLogitsLoss", lambda L: L.BCEWithLogitsLoss(), _hard_masks, "boolean target",
         torch=_functional("binary_cross_entropy_with_logits")),
    *(_row("BCEWithLogitsLoss",
           lambda L, how=how: L.BCEWithLogitsLoss(asarray(_ELEMENT_WEIGHTS), how, asarray(_CHANNEL_WEIGHTS)), _masks,
           f"weight, pos_weight, {how}",
           torch=_functional("binary_cross_entropy_with_logits", weight=_ELEMENT_WEIGHTS, reduction=how,
                             pos_weight=_CHANNEL_WEIGHTS)) for how in _REDUCTIONS),
    *(_row("BCELoss", lambda L, how=how: L.BCELoss(reduction=how), _probabilities, f"reduction={how!r}",
           torch=_functional("binary_cross_entropy", reduction=how)) for how in _REDUCTIONS),
    _row("BCELoss", lambda L: L.BCELoss(asarray(_ELEMENT_WEIGHTS)), _probabilities, "weight",
         torch=_functional("binary_cross_entropy", weight=_ELEMENT_WEIGHTS)),
    *(_row("L1Loss", lambda L, how=how: L.L1Loss(how), _far_pair, f"reduction={how!r}",
           torch=_functional("l1_loss", reduction=how)) for how in _REDUCTIONS),
    *(_row("SmoothL1Loss", lambda L, how=how: L.SmoothL1Loss(how, 0.4), _far_pair, f"beta=0.4, {how}",
           torch=_functional("smooth_l1_loss", reduction=how, beta=0.4)) for how in _REDUCTIONS),
    *(_row("DiceLoss", lambda L, how=how: L.DiceLoss(reduction=how), _masks, f"reduction={how!r}",
           torch=_dice(reduction=how)) for how in _REDUCTIONS),
    *(_row("DiceLoss", lambda L, how=how: L.DiceLoss("softmax", 0.1, True, how), _hard_masks,
           f"softmax, smooth=0.1, squared, {how}", torch=_dice("softmax", 0.1, 2, how)) for how in _REDUCTIONS),
    _row("DiceLoss", lambda L: L.DiceLoss(None, squared=True), _probabilities, "probabilities, squared",
         torch=_dice(None, power=2)),
    _row("DiceLoss", lambda L: L.DiceLoss(), lambda r, B, T: (r.normal(B, 2, T), _fractions(r, B, 2, T)), "sequences",
         axes={}, torch=_dice()),
    _row("CompositeLoss", lambda L: L.design_loss(CLASSES), _design, "designs", torch=_design_torch),
    _row("CompositeLoss", _shared_channels, _masks, "one loss twice, on channels they share"),
]  # fmt: skip


def _elementwise(name: str) -> Any:
    """A function of torch.nn.functional, of each element; what else it takes by the names of the op's arguments."""

    def build() -> Any:
        import torch

        def call(prediction: Any, target: Any, *more: Any) -> Any:
            key = {"binary_cross_entropy_with_logits": "pos_weight", "smooth_l1_loss": "beta"}.get(name, "")
            return getattr(torch.nn.functional, name)(
                prediction, target, reduction="none", **dict(zip([key], more, strict=False))
            )

        return call

    return build


def _dice_op_torch(probabilities: Any, targets: Any, smooth: float, squared: bool) -> Any:
    return 1 - _dice(None, smooth, 2 if squared else 1, "none")()(probabilities, targets)


def map_loss_ops(row: type[OpCase]) -> list[OpCase]:
    """Rows of the table of ops, made by its class."""
    with_logits, plain, smooth = "binary_cross_entropy_with_logits", "binary_cross_entropy", "smooth_absolute_error"
    return [
        row(with_logits, f"{with_logits}_backward", lambda r, B, T: (*_masks(r, B, T), None), wrt=("logits",),
            torch=_elementwise(with_logits)),
        row(with_logits, f"{with_logits}_backward", lambda r, B, T: (*_masks(r, B, T), asarray(_CHANNEL_WEIGHTS)),
            "pos_weight", wrt=("logits",), torch=_elementwise(with_logits)),
        row(plain, f"{plain}_backward", lambda r, B, T: (_fractions(r, B, T, DIM), _fractions(r, B, T, DIM)),
            wrt=("probabilities",), torch=_elementwise(plain)),
        row("absolute_error", "absolute_error_backward", _far_pair, wrt=("prediction",),
            torch=_elementwise("l1_loss")),
        row(smooth, f"{smooth}_backward", lambda r, B, T: (*_far_pair(r, B, T), 0.4), wrt=("prediction",),
            torch=_elementwise("smooth_l1_loss")),
        *(row("dice", "dice_backward",
              lambda r, B, T, squared=squared: (  # type: ignore[misc]
                  _fractions(r, B, 2, T, WIDTH), _fractions(r, B, 2, T, WIDTH), 0.7, squared),
              "squared" if squared else "", wrt=("probabilities",), torch=lambda: _dice_op_torch)
          for squared in (False, True)),
    ]  # fmt: skip

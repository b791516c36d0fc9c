"""Rows of the table for the encoder-decoder transformer."""

from __future__ import annotations

from typing import Any

from . import twins
from .case import HEADS, Case, Draw, Inputs, Library

WIDTH, HIDDEN = 8, 12


def _two(r: Draw, B: int, T: int) -> Inputs:
    """What is decoded, and a longer memory."""
    return r.normal(B, T, WIDTH), r.normal(B, T + 2, WIDTH)


def _two_and_masks(r: Draw, B: int, T: int) -> Inputs:
    return (*_two(r, B, T), r.padding(B, T), r.mask(B, HEADS, T, T + 2))


def _padded(r: Draw, B: int, T: int) -> Inputs:
    """Source, target, and masks for the padding of either."""
    padding = r.padding(B, T + 2)
    return r.normal(B, T + 2, WIDTH), r.normal(B, T, WIDTH), padding, r.padding(B, T), padding


def _block(options: str = "", inputs: Any = _two, forward: Any = None, **settings: Any) -> Case:
    """A decoder block; torch has no rotary positions, other noise, and without biases no bias in norms either."""
    twin = None
    if not settings.keys() & {"dropout", "rotary", "attention_dropout", "bias"}:
        pre = settings.get("norm_placement", "pre") == "pre"
        twin = twins.decoder_block(WIDTH, HEADS, HIDDEN, pre, activation=settings.get("activation", "gelu"))

    def build(L: Library) -> Any:
        more = {**settings, "rotary": L.RotaryPositions(9, WIDTH // HEADS)} if "rotary" in settings else settings
        return L.TransformerDecoderBlock(WIDTH, HEADS, HIDDEN, generator=L.generator, **more)

    return Case("TransformerDecoderBlock", build, inputs, options, forward or {}, twin)


def _transformer(options: str, layers: tuple[int, int] = (2, 2), inputs: Any = _padded, **settings: Any) -> Case:
    def build(L: Library) -> Any:
        given = {"dropout": 0.0, **settings}
        return L.Transformer(WIDTH, HEADS, *layers, HIDDEN, generator=L.generator, **given)

    same = {key: value for key, value in settings.items() if key != "checkpointing"}
    twin = None if settings.keys() & {"dropout", "bias"} else twins.transformer(WIDTH, HEADS, layers, HIDDEN, **same)
    return Case("Transformer", build, inputs, options, torch=twin)


def _blocks(L: Library, kind: str, count: int) -> list[Any]:
    """Of the settings that torch.nn.Transformer gives its blocks."""
    make = getattr(L, kind)
    return [make(WIDTH, HEADS, HIDDEN, 0.0, "relu", "post", generator=L.generator) for _ in range(count)]


ENCODER_DECODER: list[Case] = [
    _block(),
    _block("post-norm", norm_placement="post"),
    _block("not causal", forward={"causal": False}),
    _block("masks", _two_and_masks),
    _block("post-norm, masks, relu", _two_and_masks, norm_placement="post", activation="relu"),
    _block("bias=False", bias=False),
    _block("dropout", dropout=0.3),
    _block("post-norm, dropout", norm_placement="post", dropout=0.3),
    _block("rotary, dropout of attention weights alone", rotary=True, attention_dropout=0.4),
    Case("TransformerEncoder",
         lambda L: L.TransformerEncoder(_blocks(L, "TransformerBlock", 2), L.LayerNorm(WIDTH)),
         lambda r, B, T: (r.normal(B, T, WIDTH), r.padding(B, T)), "padding mask",
         torch=twins.encoder(WIDTH, HEADS, 2, HIDDEN)),
    Case("TransformerEncoder",
         lambda L: L.TransformerEncoder(_blocks(L, "TransformerBlock", 2), None, True),
         lambda r, B, T: (r.normal(B, T, WIDTH),), "causal, no norm, checkpointing", {"causal": True}),
    Case("TransformerDecoder",
         lambda L: L.TransformerDecoder(_blocks(L, "TransformerDecoderBlock", 2), L.LayerNorm(WIDTH)),
         _two_and_masks, "masks", torch=twins.decoder(WIDTH, HEADS, 2, HIDDEN)),
    Case("TransformerDecoder",
         lambda L: L.TransformerDecoder(_blocks(L, "TransformerDecoderBlock", 2), None, True),
         _two, "no norm, checkpointing"),
    _transformer("post-norm, relu, padding"),
    _transformer("pre-norm, gelu, padding, unequal depths", (1, 3), norm_first=True, activation="gelu"),
    _transformer("bias=False", (1, 1), bias=False),
    _transformer("no masks", (1, 1), lambda r, B, T: (r.normal(B, T + 2, WIDTH), r.normal(B, T, WIDTH))),
    _transformer("dropout, checkpointing", dropout=0.3, checkpointing=True),
]  # fmt: skip

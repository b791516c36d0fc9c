"""CustomTransformer once more, in torch: gradients by autograd, parameters under the same names.

Nothing is shared with the library but the names: attention is torch's own, rotary positions are a product of
complex numbers, the loss is torch's cross_entropy of shifted logits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.models import CustomTransformerConfig, CustomTransformerWrapper

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

SMALL: dict[str, Any] = {
    "vocab_size": 23,
    "max_seq_len": 12,
    "n_blocks": 2,
    "n_heads": 2,
    "d_model": 8,
    "d_ffn": 20,
    "dtype": "float64",
}

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def rotate(x: Any, base: float = 10000.0) -> Any:
    """(..., T, hd): pair i of the two halves, as a complex number, times exp(i t / base^(2i/hd))."""
    time, dim = x.shape[-2:]
    angle = torch.arange(time, dtype=torch.float64)[:, None] * base ** (
        -torch.arange(0, dim, 2, dtype=torch.float64) / dim
    )
    turned = torch.complex(x[..., : dim // 2], x[..., dim // 2 :]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], dim=-1).to(x.dtype)


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int, bias: bool, rotary: bool):
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim)) if bias else None
        self.out_proj = nn.Linear(dim, dim, bias)

    def forward(self, x: Any, allowed: Any) -> Any:
        packed = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in packed.chunk(3, dim=-1))
        if self.rotary:
            q, k = rotate(q), rotate(k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, c: CustomTransformerConfig):
        super().__init__()
        self.pre = c.norm_placement == "pre"
        self.activation = ACTIVATIONS[c.activation]
        self.self_attn = SelfAttention(c.d_model, c.n_heads, c.bias, c.position == "rotary")
        self.linear1 = nn.Linear(c.d_model, c.d_ffn, c.bias)
        self.linear2 = nn.Linear(c.d_ffn, c.d_model, c.bias)
        self.norm1, self.norm2 = nn.LayerNorm(c.d_model, c.eps), nn.LayerNorm(c.d_model, c.eps)

    def forward(self, x: Any, allowed: Any) -> Any:
        def feed_forward(z: Any) -> Any:
            return self.linear2(self.activation(self.linear1(z)))

        if self.pre:
            x = x + self.self_attn(self.norm1(x), allowed)
            return x + feed_forward(self.norm2(x))
        x = self.norm1(x + self.self_attn(x, allowed))
        return self.norm2(x + feed_forward(x))


class TorchTransformer(nn.Module):
    """The same model, with the parameters of `model`."""

    def __init__(self, model: CustomTransformerWrapper):
        super().__init__()
        self.c = c = model.config
        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.position = nn.Embedding(c.max_seq_len, c.d_model) if c.position == "learned" else None
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_blocks))
        self.norm = nn.LayerNorm(c.d_model, c.eps) if c.norm_placement == "pre" else None
        self.head = None if c.tied_head else nn.Linear(c.d_model, c.vocab_size, bias=False)
        self.to(getattr(torch, c.dtype))
        self.load_state_dict({name: torch.tensor(value) for name, value in model.model.state_dict().items()})

    def waves(self, time: int) -> Any:
        """sin and cos of t / 10000^(2i/C), written out number by number."""
        table = torch.zeros(time, self.c.d_model, dtype=torch.float64)
        for t in range(time):
            for j in range(self.c.d_model):
                angle = t / 10000 ** ((j - j % 2) / self.c.d_model)
                table[t, j] = math.cos(angle) if j % 2 else math.sin(angle)
        return table.to(self.token_embedding.weight.dtype)

    def forward(self, ids: Any, attention_mask: Any = None) -> Any:
        time = ids.shape[1]
        x = self.token_embedding(ids)
        if self.position is not None:
            x = x + self.position.weight[:time]
        elif self.c.position == "sinusoidal":
            x = x + self.waves(time)
        allowed = torch.ones(time, time, dtype=torch.bool).tril()[None, None]
        if attention_mask is not None:
            allowed = allowed & attention_mask.bool()[:, None, None, :]
        for block in self.blocks:
            x = block(x, allowed)
        if self.norm is not None:
            x = self.norm(x)
        return F.linear(x, self.token_embedding.weight if self.head is None else self.head.weight)

    def loss(self, logits: Any, labels: Any) -> Any:
        """Mean over the labels that are not -100 of the cross-entropy with the next token."""
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def gradients(self) -> dict[str, np.ndarray]:
        return {name: parameter.grad.numpy() for name, parameter in self.named_parameters()}


def build(seed: int = 5, **changes: Any) -> CustomTransformerWrapper:
    """A small model whose every parameter, norms and biases too, is far from its start."""
    model = CustomTransformerWrapper({**SMALL, **changes})
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data += rng.normal(scale=0.3, size=parameter.shape).astype(parameter.dtype)
    return model


def draw_ids(batch: int = 3, time: int = 9, vocab: int = SMALL["vocab_size"], seed: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, (batch, time))


def gradients(model: CustomTransformerWrapper) -> dict[str, np.ndarray]:
    return {name: p.grad.copy() for name, p in model.model.named_parameters()}


def values(model: tg.layers.Layer) -> dict[str, np.ndarray]:
    return {name: p.data.copy() for name, p in model.named_parameters()}

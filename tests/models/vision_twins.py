"""The models of images once more, in torch: gradients by autograd, parameters under the same names.

Nothing is shared with the library but the names. ResNet-18 is written from the paper (He et al., 2015) with the names
of its well-known implementation, so that a state dict goes either way as it is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.layers.base import Layer

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


class Twin(nn.Module):
    """Remembers what it was made of, so that it can be made again."""

    def __new__(cls, *args: Any) -> Any:
        made = super().__new__(cls)
        object.__setattr__(made, "made_of", args)
        return made


# -- U-Net -----------------------------------------------------------------------------------------


class Beside(nn.Module):
    """x and what is made of it, filled with zeros to its size."""

    def __init__(self, inner: Any):
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        z = self.inner(x)
        rows, columns = x.shape[2] - z.shape[2], x.shape[3] - z.shape[3]
        return torch.cat([x, F.pad(z, (0, columns, 0, rows))], dim=1)


class UNetTwin(Twin):
    def __init__(self, c: Any):
        super().__init__()
        self.c = c
        self.level = self.make_level(c.in_channels, 0)
        self.head = nn.Conv2d(c.base, c.out_channels, 1)

    def norm(self, channels: int) -> Any:
        return nn.BatchNorm2d(channels) if self.c.norm == "batch" else nn.GroupNorm(self.c.num_groups, channels)

    def pair(self, inputs: int, outputs: int) -> list[Any]:
        first = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), self.norm(outputs), nn.ReLU()]
        return [*first, nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), self.norm(outputs), nn.ReLU()]

    def make_level(self, inputs: int, number: int) -> Any:
        width = self.c.base * 2**number
        if number == self.c.depth:
            return nn.Sequential(*self.pair(inputs, width))
        if self.c.up == "transpose":
            up: Any = nn.ConvTranspose2d(2 * width, width, 2, 2)
        else:
            up = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.Upsample(scale_factor=2, mode="bilinear"))
        below = nn.Sequential(nn.MaxPool2d(2), self.make_level(width, number + 1), up)
        return nn.Sequential(*self.pair(inputs, width), Beside(below), *self.pair(2 * width, width))

    def forward(self, x: Any) -> Any:
        return self.head(self.level(x))


# -- ResNet-18 -------------------------------------------------------------------------------------


class BasicBlockTwin(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNetTwin(Twin):
    def __init__(self, num_classes: int = 1000, in_channels: int = 3, heads: Any = None, small_input: bool = False):
        super().__init__()
        kernel, stride, padding = (3, 1, 1) if small_input else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.small_input = small_input
        inputs = 64
        for number, width in enumerate((64, 128, 256, 512), 1):
            first = BasicBlockTwin(inputs, width, 1 if number == 1 else 2)
            setattr(self, f"layer{number}", nn.Sequential(first, BasicBlockTwin(width, width, 1)))
            inputs = width
        if heads:
            self.heads = nn.Module()  # torch's own dict refuses names that a module has for a method
            self.heads._modules.update({name: nn.Linear(512, size) for name, size in heads.items()})
        else:
            self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        x = x if self.small_input else F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))
        return {name: head(x) for name, head in self.heads.named_children()} if hasattr(self, "heads") else self.fc(x)


# -- the network of a diffusion --------------------------------------------------------------------


class ResidualTwin(nn.Module):
    def __init__(self, inputs: int, outputs: int, embed: int, c: Any):
        super().__init__()
        self.scale_shift = c.scale_shift
        self.norm1, self.norm2 = nn.GroupNorm(c.num_groups, inputs), nn.GroupNorm(c.num_groups, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(embed, outputs * (2 if c.scale_shift else 1))
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Any, embedding: Any) -> Any:
        y = self.conv1(F.silu(self.norm1(x)))
        told = self.time_emb_proj(F.silu(embedding))[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            y = self.norm2(y) * (1 + scale) + shift
        else:
            y = self.norm2(y + told)
        return self.conv2(F.silu(y)) + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class AttentionTwin(nn.Module):
    def __init__(self, channels: int, c: Any, context: int | None = None):
        super().__init__()
        self.norm = nn.GroupNorm(c.num_groups, channels)
        self.to_width = nn.Linear(context, channels, bias=False) if context not in (None, channels) else None
        self.attention = nn.MultiheadAttention(channels, c.num_heads, batch_first=True)

    def forward(self, x: Any, context: Any = None, mask: Any = None) -> Any:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        memory = tokens if context is None else context if self.to_width is None else self.to_width(context)
        hidden = None if mask is None else ~mask
        y = self.attention(tokens, memory, memory, key_padding_mask=hidden, need_weights=False)[0]
        return x + y.transpose(1, 2).reshape(x.shape)


class AttendingTwin(nn.Module):
    def __init__(self, inputs: int, outputs: int, embed: int, c: Any, attend: bool):
        super().__init__()
        self.resnet = ResidualTwin(inputs, outputs, embed, c)
        self.attention = AttentionTwin(outputs, c) if attend else None
        self.cross_attention = AttentionTwin(outputs, c, c.context_dim) if attend and c.context_dim else None

    def forward(self, x: Any, embedding: Any, context: Any, mask: Any) -> Any:
        x = self.resnet(x, embedding)
        x = x if self.attention is None else self.attention(x)
        return x if self.cross_attention is None else self.cross_attention(x, context, mask)


class Conv(nn.Module):
    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, 1)

    def forward(self, x: Any) -> Any:
        return self.conv(x)


class ConditionTwin(nn.Module):
    """Classes: a table with a last row for none. Vectors: the place of those that are dropped is learned."""

    def __init__(self, c: Any, embed: int):
        super().__init__()
        self.c = c
        if c.num_classes:
            self.table = nn.Embedding(c.num_classes + 1, embed)
        else:
            self.nothing, self.pooled = nn.Parameter(torch.empty(c.context_dim)), nn.Linear(c.context_dim, embed)

    def forward(self, condition: Any, mask: Any, drop: Any) -> Any:
        if self.c.num_classes:
            ids = [self.c.num_classes if drop is not None and drop[i] else int(k) for i, k in enumerate(condition)]
            return self.table.weight[ids], None, None
        context = condition[:, None] if condition.ndim == 2 else condition
        mask = torch.ones(context.shape[:2], dtype=torch.bool) if mask is None else mask
        if drop is not None:
            mask = mask | drop[:, None]
        rows, vectors = [], []
        for i, row in enumerate(context):
            if drop is not None and drop[i]:
                row = self.nothing.expand(row.shape)
            rows.append(row)
            vectors.append(row[mask[i]].mean(dim=0))
        return self.pooled(torch.stack(vectors)), torch.stack(rows), mask


class ConditionalTwin(Twin):
    def __init__(self, c: Any):
        super().__init__()
        self.c, embed = c, 4 * c.base
        self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(c.base, embed), "linear_2": nn.Linear(embed, embed)})
        if c.num_classes or c.context_dim:
            self.condition = ConditionTwin(c, embed)
        self.conv_in = nn.Conv2d(c.in_channels, c.base, 3, padding=1)
        widths, count = [c.base * times for times in c.channel_multipliers], c.blocks_per_level
        down, up, kept, width = [], [], [c.base], c.base
        for level, own in enumerate(widths):
            for _ in range(count):
                down.append(AttendingTwin(width, own, embed, c, level in c.attention_levels))
                width = own
                kept += [width]
            if level + 1 < len(widths):
                down.append(Conv(width, 2))
                kept += [width]
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleList([AttendingTwin(width, width, embed, c, attend) for attend in (True, False)])
        for level in range(len(widths) - 1, -1, -1):
            for _ in range(count + 1):
                up.append(AttendingTwin(width + kept.pop(), widths[level], embed, c, level in c.attention_levels))
                width = widths[level]
            if level:
                up.append(Conv(width, 1))
        self.up = nn.ModuleList(up)
        self.conv_norm_out = nn.GroupNorm(c.num_groups, width)
        self.conv_out = nn.Conv2d(width, c.out_channels or c.in_channels, 3, padding=1)

    def time(self, t: Any) -> Any:
        """Sines and then cosines, number by number."""
        half = self.c.base // 2
        rows = []
        for step in t.tolist():
            angles = [step / 10000 ** (i / (half - 1)) for i in range(half)]
            rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
        table = torch.tensor(rows, dtype=self.conv_in.weight.dtype)
        return self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](table)))

    def forward(self, x: Any, t: Any, condition: Any = None, mask: Any = None, drop: Any = None) -> Any:
        embedding, context = self.time(t), None
        if condition is not None:
            vector, context, mask = self.condition(condition, mask, drop)
            embedding = embedding + vector
        x = self.conv_in(x)
        kept = [x]
        for layer in self.down:
            x = layer(x) if isinstance(layer, Conv) else layer(x, embedding, context, mask)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, embedding, context, mask)
        for layer in self.up:
            if isinstance(layer, Conv):
                x = layer(F.interpolate(x, kept[-1].shape[2:], mode="nearest"))
            else:
                x = layer(torch.cat([x, kept.pop()], dim=1), embedding, context, mask)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


# -- the encoder of text ---------------------------------------------------------------------------


class TextTwin(Twin):
    def __init__(self, c: Any):
        super().__init__()
        self.token_embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.position = nn.Embedding(c.max_seq_len, c.d_model)
        block = nn.TransformerEncoderLayer(
            c.d_model, c.n_heads, c.d_ffn or 4 * c.d_model, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, c.n_blocks, nn.LayerNorm(c.d_model), enable_nested_tensor=False)

    def forward(self, ids: Any, mask: Any) -> Any:
        x = self.token_embedding(ids) + self.position.weight[: ids.shape[1]]
        x = self.encoder(x, src_key_padding_mask=~mask)
        vectors = [row[seen].mean(dim=0) for row, seen in zip(x, mask, strict=True)]
        return x, torch.stack(vectors)


# -- together --------------------------------------------------------------------------------------


def move(model: Layer, seed: int = 5, scale: float = 0.1) -> Any:
    """Take every parameter, norms and biases too, far from its start."""
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data += rng.normal(scale=scale, size=parameter.shape).astype(parameter.dtype)
    return model


def load(twin: Any, model: Layer) -> Any:
    """`twin` with the state of `model`, of its type."""
    state = {name: torch.tensor(np.array(value)) for name, value in model.state_dict().items()}
    dtype = next(iter(state.values())).dtype
    twin = twin.to(dtype)
    twin.load_state_dict(state)  # strict: no name too many, none too few
    return twin.train(model.training)


def tensor(x: np.ndarray) -> Any:
    found = torch.tensor(x)
    return found.requires_grad_() if found.is_floating_point() else found


def assert_close(ours: Any, theirs: Any, what: str) -> None:
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
    size = max(1.0, float(np.abs(theirs).max()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12 * size, err_msg=what)


Found = dict[str, np.ndarray]


def ours(model: Any, inputs: tuple[Any, ...], upstream: Any) -> Found:
    """Outputs, gradients of inputs and of parameters, and the state after one forward and backward."""
    outputs = model(*inputs)
    gradients = model.backward(*upstream) if isinstance(upstream, tuple) else model.backward(upstream)
    found = _numbered("y", outputs) | _numbered("dx", gradients)
    found |= {f"gradient of {name}": parameter.grad for name, parameter in model.named_parameters()}
    return found | dict(model.state_dict())


def theirs(twin: Any, inputs: tuple[Any, ...], upstream: Any) -> Found:
    """The same of a twin in torch."""
    dtype = next(twin.parameters()).dtype
    given = [None if x is None else tensor(x if x.dtype.kind != "f" else x.astype(str(dtype)[6:])) for x in inputs]
    outputs = twin(*given)
    pairs = zip(_numbered("y", outputs).values(), _numbered("dy", upstream).values(), strict=True)
    sum((y * torch.tensor(dy, dtype=dtype)).sum() for y, dy in pairs).backward()
    found = _numbered("y", outputs) | _numbered("dx", tuple(x.grad for x in given if x is not None and x.requires_grad))
    for name, parameter in twin.named_parameters():  # torch has none for what was not used
        found[f"gradient of {name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    found |= dict(twin.state_dict())
    return {name: value.detach().numpy().copy() for name, value in found.items()}


def _numbered(name: str, values: Any) -> dict[str, Any]:
    """One value, a tuple of values or values by name, under names; nothing for None."""
    if values is None:
        return {}
    if isinstance(values, dict):
        return {f"{name}[{key}]": value for key, value in values.items()}
    return {f"{name}{i}": value for i, value in enumerate(values if isinstance(values, tuple) else (values,))}


def compare(model: Any, twin: Any, inputs: tuple[Any, ...], upstream: Any) -> None:
    """Outputs, all gradients and all running statistics of a model and its twin.

    In float64 number by number. In float32 both have errors, against the twin in float64; ours may be a little larger
    than torch's. 1e-4 of the whole is for a value that rounding takes over a rectifier's edge in one and not the other.
    """
    exact = load(type(twin)(*twin.made_of), model).double()
    single = next(model.parameters()).dtype == "float32"
    torchs = theirs(load(twin, model), inputs, upstream) if single else {}
    truth, found = theirs(exact, inputs, upstream), ours(model, inputs, upstream)
    assert found.keys() == truth.keys()
    for name, right in truth.items():
        if not single:
            assert_close(found[name], right, name)
            continue
        size = float(np.linalg.norm(right))
        error, allowed = (float(np.linalg.norm(values[name] - right)) for values in (found, torchs))
        told = f"{name}: off by {error:.3g} of {size:.3g}, torch by {allowed:.3g}"
        assert error <= 8 * allowed + 1e-4 * size + 1e-7, told

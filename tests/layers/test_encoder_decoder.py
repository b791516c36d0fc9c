"""The encoder-decoder transformer against torch's, in generation, and where it is used wrongly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import Generator
from tinygrad_edu.check.cases import CASES
from tinygrad_edu.errors import BackwardError, ConfigError, DtypeError, ShapeError
from tinygrad_edu.layers import (
    KeyValueCache,
    MemoryCache,
    MultiHeadAttention,
    RotaryPositions,
    Transformer,
    TransformerDecoderBlock,
    keep_attention_weights,
)

RNG = np.random.default_rng(3)
SRC, TGT, DY = (RNG.normal(size=shape) for shape in ((3, 6, 16), (3, 5, 16), (3, 5, 16)))
PADDING = (np.arange(6) < np.array([6, 4, 2])[:, None])[:, None, None]
TGT_PADDING = (np.arange(5) < np.array([3, 5, 4])[:, None])[:, None, None]


def make(dtype: str = "float64", **settings: Any) -> Transformer:
    settings = {"dropout": 0.0, **settings}
    return Transformer(16, 4, 2, 2, 24, generator=Generator(1), **settings).astype(dtype)


def torch_twin(model: Transformer, dtype: str, **settings: Any) -> Any:
    torch = pytest.importorskip("torch")
    twin = torch.nn.Transformer(16, 4, 2, 2, 24, 0.0, batch_first=True, **settings).to(getattr(torch, dtype))
    twin.load_state_dict({name: torch.tensor(values) for name, values in model.state_dict().items()})
    return twin


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("padded", [False, True], ids=["all", "padded"])
def test_outputs_and_every_gradient_are_torchs(dtype: str, norm_first: bool, activation: str, padded: bool) -> None:
    torch = pytest.importorskip("torch")
    settings = {"norm_first": norm_first, "activation": activation}
    model = make(dtype, **settings)
    for parameter in model.parameters():  # also where both begin with zeros or ones
        parameter.data[...] += RNG.normal(size=parameter.shape, scale=0.1)
    twin = torch_twin(model, dtype, **settings)
    src, tgt, dy = (x.astype(dtype) for x in (SRC, TGT, DY))
    their_src, their_tgt = (torch.tensor(x, requires_grad=True) for x in (src, tgt))
    ours = {"src_mask": PADDING, "tgt_mask": TGT_PADDING, "memory_mask": PADDING} if padded else {}
    hidden = torch.tensor(~PADDING[:, 0, 0])
    theirs = (
        {
            "src_key_padding_mask": hidden,
            "tgt_key_padding_mask": torch.tensor(~TGT_PADDING[:, 0, 0]),
            "memory_key_padding_mask": hidden,
        }
        if padded
        else {}
    )
    y = model(src, tgt, **ours)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    their_y = twin(their_src, their_tgt, tgt_mask=future, **theirs)
    their_y.backward(torch.tensor(dy))
    dsrc, dtgt = model.backward(dy)
    pairs = {"y": (y, their_y.detach()), "dsrc": (dsrc, their_src.grad), "dtgt": (dtgt, their_tgt.grad)}
    pairs |= {name: (p.grad, dict(twin.named_parameters())[name].grad) for name, p in model.named_parameters()}
    for name, (found, wanted) in pairs.items():
        if dtype == "float64":
            # Some are zero but for rounding: the bias of keys moves all scores of a row alike.
            size = float(wanted.abs().max())
            np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-9, atol=1e-9 * size + 1e-15, err_msg=name)
        else:
            torch.testing.assert_close(torch.tensor(found), wanted, msg=lambda text, name=name: f"{name}: {text}")


def test_it_begins_as_torchs_does() -> None:
    """Xavier's uniform for every matrix, zeros for the biases of attention."""
    model = Transformer(64, 4, 1, 1, 128, generator=Generator(0))
    for name, parameter in model.named_parameters():
        if parameter.data.ndim == 2:
            bound = np.sqrt(6 / sum(parameter.shape))
            assert 0.97 * bound < np.abs(parameter.data).max() <= bound, name
            assert abs(parameter.data.std() * np.sqrt(3) / bound - 1) < 0.05, name
        elif name.endswith(("in_proj_bias", "out_proj.bias")):
            assert not parameter.data.any(), name


def test_methods_of_layers_are_not_hidden_by_the_name_layers() -> None:
    model = make()
    assert not any(layer.training for layer in model.encoder.eval().layers())
    again = copy.deepcopy(model)
    assert list(again.state_dict()) == list(model.state_dict())
    assert again.encoder.blocks[0] is not model.encoder.blocks[0]


@pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
def test_caches_give_what_the_whole_target_gives(norm_first: bool) -> None:
    model = make(norm_first=norm_first)
    with tg.inference():
        whole = model(SRC, TGT, src_mask=PADDING, memory_mask=PADDING)
        memory, caches = model.encode(SRC, PADDING), model.new_caches(5)
        for first, last in ((0, 1), (1, 3), (3, 4), (4, 5)):
            y = model.decode(TGT[:, first:last], memory, memory_mask=PADDING, caches=caches)
            np.testing.assert_allclose(y, whole[:, first:last], rtol=1e-9, atol=1e-12)
    assert [cache.length for cache in caches] == [5, 5]


def test_the_memory_is_projected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = make(), []
    kept = MultiHeadAttention._keys_and_values
    monkeypatch.setattr(
        MultiHeadAttention, "_keys_and_values", lambda self, memory: calls.append(1) or kept(self, memory)
    )
    with tg.inference():
        memory, caches = model.encode(SRC), model.new_caches(5)
        for t in range(5):
            model.decode(TGT[:, t : t + 1], memory, caches=caches)
    assert len(calls) == 2  # once for each block of the decoder


def test_reordered_caches_go_on_from_other_sequences() -> None:
    """As beam search does: each row goes on from one of the rows before; there may be more rows, or fewer."""
    model, rows = make(), np.array([2, 0, 0, 1])
    with tg.inference():
        memory, caches = model.encode(SRC, PADDING), model.new_caches(5)
        model.decode(TGT[:, :3], memory, memory_mask=PADDING, caches=caches)
        for cache in caches:
            cache.reorder(rows)
        y = model.decode(TGT[rows, 3:4], memory[rows], memory_mask=PADDING[rows], caches=caches)
        whole = model.decode(TGT[:, :4], memory, memory_mask=PADDING)
    np.testing.assert_allclose(y, whole[rows, 3:4], rtol=1e-9, atol=1e-12)


def test_checkpointing_changes_no_gradient() -> None:
    found = []
    for checkpointing in (False, True):
        model = make(dropout=0.3, checkpointing=checkpointing)
        y = model(SRC, TGT, PADDING, TGT_PADDING, PADDING)
        found.append([y, *model.backward(DY), *(parameter.grad for parameter in model.parameters())])
        assert not any(layer._saved for layer in model.layers())
    for plain, again in zip(*found, strict=True):
        np.testing.assert_array_equal(again, plain)


def test_the_target_sees_neither_its_future_nor_padding_of_the_source() -> None:
    model = make()
    before = model(SRC, TGT, src_mask=PADDING, memory_mask=PADDING)
    src, tgt = SRC.copy(), TGT.copy()
    src[1, 4:], tgt[:, 3:] = 100, 100
    after = model(src, tgt, src_mask=PADDING, memory_mask=PADDING)
    np.testing.assert_allclose(after[:, :3], before[:, :3], rtol=1e-9)
    assert not np.allclose(after[:, 3:], before[:, 3:])


def test_attention_weights_of_both_kinds() -> None:
    model = make()
    with keep_attention_weights(model) as found:
        model(SRC, TGT, src_mask=PADDING, memory_mask=PADDING)
        assert [name for name in found if name.startswith("decoder.layers.0")] == [
            "decoder.layers.0.self_attn",
            "decoder.layers.0.multihead_attn",
        ]
        cross = found["decoder.layers.0.multihead_attn"].last_weights
        assert cross is not None and cross.shape == (3, 4, 5, 6)
        np.testing.assert_allclose(cross.sum(axis=-1), 1, rtol=1e-12)
        assert not cross[2, :, :, 2:].any()
        assert found["decoder.layers.1.self_attn"].last_weights[0, 0, 0, 1:].any() == False  # noqa: E712
    assert all(attention.last_weights is None and not attention.keep_weights for attention in found.values())


def test_wrong_inputs() -> None:
    model = make()
    with pytest.raises(ShapeError, match=r"src must be \(batch, time, 16\), got \(3, 6, 8\)"):
        model(SRC[..., :8], TGT)
    with pytest.raises(ShapeError, match=r"tgt must be \(batch, time, 16\), got \(3, 16\)"):
        model(SRC, TGT[:, 0])
    with pytest.raises(ShapeError, match="src has batch 2, tgt has batch 3"):
        model(SRC[:2], TGT)
    with pytest.raises(DtypeError, match="mask must be bool"):
        model(SRC, TGT, memory_mask=PADDING.astype(float))
    with pytest.raises(ShapeError, match=r"mask must be broadcastable .* here \(3, 4, 5, 6\), got \(3, 1, 1, 5\)"):
        model(SRC, TGT, memory_mask=TGT_PADDING)
    with pytest.raises(ConfigError, match="num_decoder_layers must be an integer >= 1, got 0"):
        Transformer(16, 4, 2, 0)
    with pytest.raises(ConfigError, match="TransformerDecoderBlock: norm_placement must be 'pre' or 'post'"):
        TransformerDecoderBlock(16, 4, 24, norm_placement="between")


def test_wrong_use_of_caches() -> None:
    model = make()
    memory = model.encode(SRC)
    with pytest.raises(BackwardError, match="a key/value cache has no backward"):
        model.decode(TGT, memory, caches=model.new_caches(5))
    with tg.inference():
        with pytest.raises(ConfigError, match="caches must be 2, one a block, got 1"):
            model.decode(TGT, memory, caches=model.new_caches(5)[:1])
        caches = model.new_caches(9)
        model.decode(TGT[:, :1], memory, caches=caches)
        with pytest.raises(ShapeError, match=r"holds a memory of \(batch, time\) \(3, 6\), got \(3, 4\)"):
            model.decode(TGT[:, 1:2], memory[:, :4], caches=caches)
        attention = MultiHeadAttention(16, 4).astype("float64")
        with pytest.raises(ConfigError, match="a MemoryCache cannot serve here: it keeps those of a memory"):
            attention(TGT, cache=MemoryCache())
        turning = MultiHeadAttention(16, 4, rotary=RotaryPositions(9, 4)).astype("float64")
        with pytest.raises(ConfigError, match="knows no position for rotary"):
            turning(TGT, SRC, cache=MemoryCache())


@pytest.mark.parametrize(
    "rows, error, message",
    [
        (np.array([0.0, 1.0]), DtypeError, "rows must be integers, got float64"),
        (np.array([[0, 1]]), ShapeError, r"rows must be \(batch,\), got \(1, 2\)"),
        (np.array([0, 3]), ShapeError, r"rows must be in \[0, 3\), they go from 0 to 3"),
        (np.array([-1]), ShapeError, r"they go from -1 to -1"),
        ([], DtypeError, "rows must be integers"),
    ],
)
def test_wrong_rows(rows: Any, error: type[Exception], message: str) -> None:
    own, heads = KeyValueCache(4), np.ones((3, 2, 1, 4))
    own.extend(heads, heads)
    memory = MemoryCache()
    memory.get(np.ones((3, 1, 8)), lambda _: (heads, heads))
    for cache in (own, memory):
        with pytest.raises(error, match=message):
            cache.reorder(rows)
        KeyValueCache(4).reorder([1])  # nothing to reorder yet
    assert own._keys is not None and len(own._keys) == 3


def test_its_rows_compare_with_torch() -> None:
    with_twin = {case.of for case in CASES if case.torch is not None}
    assert {"Transformer", "TransformerEncoder", "TransformerDecoder", "TransformerDecoderBlock"} <= with_twin

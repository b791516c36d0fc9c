"""ConditionalUNet against a twin in torch, and against diffusers' UNet2DModel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, DeviceError, DtypeError, RangeError, ShapeError
from tinygrad_edu.losses import MeanSquaredError
from tinygrad_edu.models import ConditionalUNet, Network
from tinygrad_edu.models.conditional_blocks import ResidualBlock
from tinygrad_edu.optim import AdamW

from .vision_twins import ConditionalTwin, compare, move, torch

B, L, D, K = 3, 4, 6, 5
SMALL: dict[str, Any] = {
    "in_channels": 2,
    "base": 8,
    "channel_multipliers": (1, 2),
    "blocks_per_level": 1,
    "attention_levels": (1,),
    "num_heads": 2,
    "num_groups": 4,
    "num_steps": 50,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "no condition": {},
    "classes": {"num_classes": K},
    "context": {"context_dim": D},
    "context as wide as the attention": {"context_dim": 16},
    "scale and shift": {"scale_shift": True, "num_classes": K},
    "three levels, two blocks": {"channel_multipliers": (1, 1, 2), "blocks_per_level": 2, "attention_levels": (0, 2)},
    "one level": {"channel_multipliers": (2,), "attention_levels": ()},
    "no attention but in the middle": {"attention_levels": (), "context_dim": D, "out_channels": 3},
}


def draw(*shape: int, dtype: str = "float64", seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def build(dtype: str = "float64", **changes: Any) -> ConditionalUNet:
    return move(ConditionalUNet(**{**SMALL, **changes}, dtype=dtype))


T = np.array([0, 49, 7])
IDS = np.array([0, K, 3])  # one of no class
MASK = np.array([[True, True, True, True], [True, False, True, False], [True, False, False, False]])
DROP = np.array([False, True, False])


def condition_of(model: ConditionalUNet, dtype: str = "float64") -> tuple[Any, ...]:
    c = model.config
    if c.num_classes:
        return (IDS,)
    return (draw(B, L, c.context_dim, dtype=dtype, seed=6),) if c.context_dim else ()


# -- gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [(8, 12), (7, 5)], ids=["even", "odd"])
@pytest.mark.parametrize("kind", VARIANTS)
def test_output_and_every_gradient(kind: str, size: tuple[int, int], dtype: str) -> None:
    model = build(dtype, **VARIANTS[kind])
    inputs = (draw(B, 2, *size, dtype=dtype), T, *condition_of(model, dtype))
    compare(model, ConditionalTwin(model.config), inputs, draw(B, model.out_channels, *size, dtype=dtype, seed=4))


@pytest.mark.parametrize("dropped", [False, True], ids=["none dropped", "one dropped"])
@pytest.mark.parametrize(
    "settings, condition",
    [
        ({"num_classes": K}, (IDS, None)),
        ({"context_dim": D}, (draw(B, L, D), None)),
        ({"context_dim": D}, (draw(B, L, D), MASK)),
        ({"context_dim": D}, (draw(B, D), None)),
    ],
    ids=["classes", "sequence", "padded sequence", "vector"],
)
def test_padding_and_conditions_put_aside(settings: Any, condition: Any, dropped: bool) -> None:
    model = build(**settings)
    inputs = (draw(B, 2, 6, 6), T, *condition, DROP if dropped else None)
    compare(model, ConditionalTwin(model.config), inputs, draw(B, 2, 6, 6, seed=4))


def test_the_rows_of_a_dropped_condition_get_no_gradient_and_its_place_does() -> None:
    model = build(context_dim=D)
    context = draw(B, L, D)
    model(draw(B, 2, 6, 6), T, context, drop=DROP)
    _, dcontext = model.backward(draw(B, 2, 6, 6, seed=4))
    assert not dcontext[1].any() and dcontext[0].all() and np.abs(model.condition.nothing.grad).min() > 0


def test_names_of_the_residual_block_are_those_of_diffusers() -> None:
    resnet = pytest.importorskip("diffusers.models.resnet")
    for scale_shift in (False, True):
        block = move(ResidualBlock(8, 12, 10, 4, scale_shift, 0.0, tg.backend.Generator(0)).astype("float64"))
        theirs = resnet.ResnetBlock2D(
            in_channels=8, out_channels=12, temb_channels=10, groups=4, eps=1e-5,
            time_embedding_norm="scale_shift" if scale_shift else "default",
        ).double()  # fmt: skip
        theirs.load_state_dict({name: torch.tensor(values) for name, values in block.state_dict().items()})
        x, embedding = draw(2, 8, 5, 6), draw(2, 10)
        wanted = theirs(torch.tensor(x), torch.tensor(embedding)).detach().numpy()
        told = tg.layers.SiLU()(embedding)  # there each block does that, here the network does it once
        np.testing.assert_allclose(block(x, told), wanted, rtol=1e-10)


def _diffusers_name(name: str) -> str:
    """The name in UNet2DModel (of two levels, one block each) of one of our parameters."""
    places = {
        "down.0": "down_blocks.0.resnets.0", "down.1": "down_blocks.0.downsamplers.0",
        "down.2": "down_blocks.1.resnets.0",
        "middle.0": "mid_block.resnets.0", "middle.1": "mid_block.resnets.1",
        "up.0": "up_blocks.0.resnets.0", "up.1": "up_blocks.0.resnets.1", "up.2": "up_blocks.0.upsamplers.0",
        "up.3": "up_blocks.1.resnets.0", "up.4": "up_blocks.1.resnets.1",
    }  # fmt: skip
    place = re.match(r"(down|middle|up)\.\d+", name)
    if place is None:
        return name.replace("condition.table", "class_embedding")
    name = name.replace(place[0], places[place[0]])
    if ".attention." in name:
        name = name.replace("resnets", "attentions").replace(".attention.norm", ".group_norm")
        return name.replace(".attention.attention.out_proj", ".to_out.0")
    return name.replace(".resnet.", ".")


def _to_diffusers(model: ConditionalUNet) -> dict[str, Any]:
    state = {}
    for ours, values in model.state_dict().items():
        name, values = _diffusers_name(ours), torch.tensor(values)
        packed = re.fullmatch(r"(.*)\.attention\.attention\.in_proj_(weight|bias)", name)
        if packed is None:
            state[name] = values
            continue
        for part, own in zip("qkv", values.chunk(3), strict=True):
            state[f"{packed[1]}.to_{part}.{packed[2]}"] = own
    return state


@pytest.mark.parametrize("scale_shift", [False, True])
def test_it_is_the_unet_of_diffusers(scale_shift: bool) -> None:
    """With classes and attention, at a size that halves evenly, which UNet2DModel needs."""
    diffusers = pytest.importorskip("diffusers")
    model = build(num_classes=K, scale_shift=scale_shift, channel_multipliers=(1, 2))
    theirs = diffusers.UNet2DModel(
        sample_size=8, in_channels=2, out_channels=2, freq_shift=1, flip_sin_to_cos=False,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=8, norm_num_groups=4, norm_eps=1e-5,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        num_class_embeds=K + 1, add_attention=True, attn_norm_num_groups=4,
    ).double().eval()  # fmt: skip
    theirs.load_state_dict(_to_diffusers(model))
    x = draw(B, 2, 8, 12)
    wanted = theirs(torch.tensor(x), torch.tensor(T), class_labels=torch.tensor(IDS)).sample.detach().numpy()
    np.testing.assert_allclose(model(x, T, IDS), wanted, rtol=1e-4, atol=1e-5)  # its table of the steps is of float32


# -- what it does ----------------------------------------------------------------------------------------


def test_it_begins_as_nothing() -> None:
    """The last convolution, and the last map of each branch, are zero; and yet it learns."""
    model = ConditionalUNet(**SMALL, context_dim=D, dtype="float64")
    x, context = draw(B, 2, 8, 8), draw(B, L, D)
    assert not model(x, T, context).any()
    model.backward(draw(B, 2, 8, 8, seed=4))
    assert np.abs(model.conv_out.weight.grad).max() > 0


def test_training_size_is_not_the_only_size() -> None:
    model = build("float32", channel_multipliers=(1, 1, 1), attention_levels=(2,), num_classes=K)
    for size in ((1, 1), (1, 9), (5, 3), (33, 17)):
        y = model(draw(B, 2, *size, dtype="float32"), T, IDS)
        assert y.shape == (B, 2, *size)
        assert model.backward(y).shape == (B, 2, *size)


def test_no_class_is_the_id_after_the_last() -> None:
    model = build(num_classes=K)
    x = draw(B, 2, 8, 8)
    np.testing.assert_array_equal(model.null_condition(B), [K, K, K])
    with tg.inference():
        nothing = model(x, T, model.null_condition(B))
        np.testing.assert_array_equal(model(x, T, np.array([1, 2, 3]), drop=np.ones(B, bool)), nothing)
        assert np.abs(model(x, T, np.array([1, 2, 3])) - nothing).min() > 0


def test_no_context_is_a_learned_vector() -> None:
    model = build(context_dim=D)
    x, null = draw(B, 2, 8, 8), model.null_condition(B)
    assert null.shape == (B, 1, D) and (null == model.condition.nothing.data).all()
    assert not np.shares_memory(null, model.condition.nothing.data)
    with tg.inference():
        nothing = model(x, T, null)
        np.testing.assert_allclose(model(x, T, draw(B, L, D), MASK, np.ones(B, bool)), nothing, rtol=1e-9, atol=1e-12)
    assert build().null_condition(B) is None


def test_what_is_padded_does_not_count() -> None:
    model = build(context_dim=D)
    x, context = draw(B, 2, 8, 8), draw(B, L, D)
    other = np.where(MASK[:, :, None], context, 1e3)
    with tg.inference():
        np.testing.assert_array_equal(model(x, T, context, MASK), model(x, T, other, MASK))
        alone = model(x[1:2], T[1:2], context[1:2, ::2])  # without its padding
        np.testing.assert_allclose(model(x, T, context, MASK)[1:2], alone, rtol=1e-9, atol=1e-12)
        nowhere = model(x, T, context, np.zeros_like(MASK))
    assert np.isfinite(nowhere).all()


def test_the_step_and_the_condition_are_heard() -> None:
    model = build(context_dim=D)
    x, context = draw(B, 2, 8, 8), draw(B, L, D)
    with tg.inference():
        y = model(x, T, context)
        assert (model(x, T[::-1].copy(), context) != y)[[0, 2]].all()
        assert (model(x, T, context[::-1]) != y)[[0, 2]].all()
        order = model(x, T, context[:, ::-1].copy())  # attention has no positions: those are the context's own
    np.testing.assert_allclose(order, y, rtol=1e-9, atol=1e-12)


def test_dropout_is_for_training() -> None:
    model = build("float32", dropout=0.5)
    x = draw(B, 2, 8, 8, dtype="float32")
    assert (model(x, T) != model(x, T)).any()
    model.eval()
    np.testing.assert_array_equal(model(x, T), model(x, T))


def test_it_learns_to_draw_by_class() -> None:
    """To say what class it is by the sign of the image, whatever the image was."""
    model = ConditionalUNet(**{**SMALL, "in_channels": 1}, num_classes=2)
    rng, loss, optimizer = np.random.default_rng(0), MeanSquaredError(), AdamW(model, lr=3e-3)
    values = []
    for _ in range(50):
        ids = rng.integers(0, 2, 8)
        x = rng.normal(size=(8, 1, 4, 4)).astype("float32")
        wanted = np.broadcast_to((2 * ids - 1)[:, None, None, None], x.shape).astype("float32")
        model.zero_grad()
        values.append(loss(model(x, rng.integers(0, 50, 8), ids), wanted))
        model.backward(loss.backward())
        optimizer.step()
    assert np.mean(values[:3]) > 0.5 and np.mean(values[-5:]) < 0.1


def test_a_folder_keeps_all_of_it(tmp_path: Path) -> None:
    model = build("float32", context_dim=D, scale_shift=True)
    model.save_pretrained(tmp_path / "net")
    other = Network.from_pretrained(tmp_path / "net")
    assert isinstance(other, ConditionalUNet) and other.config == model.config
    x, context = draw(B, 2, 8, 8, dtype="float32"), draw(B, D, dtype="float32")
    with tg.inference():
        np.testing.assert_array_equal(other(x, T, context), model.eval()(x, T, context))


# -- what a user can get wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"base": 6}, "num_groups must divide the channels of each level, 4 does not divide 6"),
        ({"num_heads": 3}, "num_heads must divide the channels where there is attention, 3 does not divide 16"),
        ({"attention_levels": (0, 2)}, "attention_levels must be in [0, 2), got 2"),
        ({"channel_multipliers": ()}, "channel_multipliers must have a number for each level, got none"),
        ({"channel_multipliers": (1, 0)}, "channel_multipliers must be a tuple of integers >= 1, got (1, 0)"),
        ({"channel_multipliers": 2}, "channel_multipliers must be a tuple of integers >= 1, got 2"),
        ({"num_classes": 2, "context_dim": 3}, "a condition is either classes or vectors, so one must be None"),
        ({"num_steps": 0}, "num_steps must be an integer >= 1, got 0"),
        ({"dropout": -1}, "dropout must be a number in [0, 1), got -1"),
        ({"base": 2, "num_groups": 1, "num_heads": 1}, "base must be at least 4"),
    ],
)
def test_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(**changes)


X = np.zeros((B, 2, 8, 8))
CONTEXT = np.zeros((B, L, D))
MISTAKES: list[tuple[str, dict[str, Any], tuple[Any, ...], type[Exception], str]] = [
    ("channels", {}, (X[:, :1], T), ShapeError, "the image has 1 channels where 2 are wanted"),
    ("axes", {}, (X[0], T), ShapeError, "expected (batch, 2, height, width), got (2, 8, 8)"),
    ("no images", {}, (X[:0], T[:0]), ShapeError, "the batch is empty"),
    ("no array", {}, (X.tolist(), T), DeviceError, "expected a NumPy or CuPy array, got builtins.list"),
    ("no array of a condition", {"context_dim": D}, (X, T, CONTEXT.tolist()), DeviceError, "got builtins.list"),
    ("bytes", {}, (X.astype("uint8"), T), DtypeError, "x must hold floating-point numbers, got uint8"),
    ("step too late", {}, (X, np.array([0, 50, 1])), RangeError, "t must be in [0, 50), got 50"),
    ("step negative", {}, (X, np.array([0, 4, -1])), RangeError, "t must be in [0, 50), got -1"),
    ("step of floats", {}, (X, T / 2), DtypeError, "t must be integers, the numbers of steps, got float64"),
    ("one step", {}, (X, np.array(3)), ShapeError, "t must be an array (batch,), a step for each example, got ()"),
    ("a plain step", {}, (X, 3), ShapeError, "t must be an array (batch,), a step for each example, got int"),
    ("few steps", {}, (X, T[:2]), ShapeError, "t must have a step for each of 3 images, got 2"),
    ("condition for nobody", {}, (X, T, IDS), ConfigError, "the network has neither num_classes nor context_dim"),
    ("drop for nobody", {}, (X, T, None, None, DROP), ConfigError, "drop was given, but the network has neither"),
    ("no class", {"num_classes": K}, (X, T), ConfigError, "condition is missing; for images without one give null"),
    ("class", {"num_classes": K}, (X, T, IDS + 1), RangeError,
     "condition (of 5 classes, and 5 for none): ids must be in [0, 6), got 6 at position (1,)"),
    ("class of floats", {"num_classes": K}, (X, T, IDS / 1), DtypeError, "ids must be integers, got float64"),
    ("few classes", {"num_classes": K}, (X, T, IDS[:2]), ShapeError,
     "condition must be class ids (batch,), here (3,), got (2,)"),
    ("mask of classes", {"num_classes": K}, (X, T, IDS, MASK), ConfigError, "a condition of classes has no padding"),
    ("no context", {"context_dim": D}, (X, T), ConfigError, "condition is missing"),
    ("width", {"context_dim": D}, (X, T, CONTEXT[..., 1:]), ShapeError, "condition must be (3, 6) or (3, length, 6)"),
    ("few contexts", {"context_dim": D}, (X, T, CONTEXT[:2]), ShapeError,
     "the batch being that of the images, got (2, 4, 6)"),
    ("no places", {"context_dim": D}, (X, T, CONTEXT[:, :0]), ShapeError, "condition is empty, got (3, 0, 6)"),
    ("ids", {"context_dim": D}, (X, T, CONTEXT.astype(int)), DtypeError, "condition must hold floating-point numbers"),
    ("mask", {"context_dim": D}, (X, T, CONTEXT, MASK[:, 1:]), ShapeError, "mask must be (batch, length)"),
    ("mask of ones", {"context_dim": D}, (X, T, CONTEXT, MASK * 1.0), DtypeError,
     "mask must be bool, False at padding, got float64"),
    ("drop of ones", {"context_dim": D}, (X, T, CONTEXT, None, DROP * 1), DtypeError, "drop must be bool, True where"),
    ("few drops", {"context_dim": D}, (X, T, CONTEXT, None, DROP[:2]), ShapeError,
     "drop must be (batch,), here (3,), got (2,)"),
]  # fmt: skip


@pytest.mark.parametrize(
    "settings, inputs, error, message", [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_inputs(settings: Any, inputs: Any, error: type[Exception], message: str) -> None:
    model = build(**settings)
    with pytest.raises(error, match=re.escape(message)):
        model(*inputs)
    assert not any(layer._saved for layer in model.layers() if layer is model)


def test_a_condition_of_another_type_changes_no_other_type() -> None:
    """A row of one-hots from NumPy is float64, and the network stays in float32 all the same."""
    model, rng = build(context_dim=D, dtype="float32"), np.random.default_rng(0)
    x, condition = rng.normal(size=X.shape).astype("float32"), rng.normal(size=CONTEXT.shape)
    for parameter in model.parameters():
        parameter.data += 0.1  # the last convolution begins as zeros
    y = model(x, T, condition)
    dx, dcondition = model.backward(y)
    assert y.dtype == dx.dtype == dcondition.dtype == "float32"
    np.testing.assert_array_equal(y, model(x, T, condition.astype("float32")))

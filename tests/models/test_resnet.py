"""ResNet18 against its twin in torch; published weights by their names; several heads at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import CheckpointError, ConfigError, ShapeError
from tinygrad_edu.losses import CrossEntropyLoss
from tinygrad_edu.models import Network, ResNet18
from tinygrad_edu.optim import SGD, AdamW
from tinygrad_edu.storage import save_weights

from .vision_twins import ResNetTwin, compare, load, move, nn, torch

HEADS = {"grammar": 4, "goal": 3, "train": 2}  # a name that a layer has for a method
VARIANTS: dict[str, dict[str, Any]] = {
    "published": {"num_classes": 5},
    "heads": {"in_channels": 4, "heads": HEADS},
    "small images": {"num_classes": 5, "small_input": True},
    "small images and heads": {"in_channels": 1, "heads": {"one": 1}, "small_input": True},
}
variants = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())


def draw(*shape: int, dtype: str = "float64", seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def build(dtype: str = "float64", **settings: Any) -> ResNet18:
    return move(ResNet18(**settings, dtype=dtype), scale=0.02)


def twin_of(model: ResNet18) -> ResNetTwin:
    c = model.config
    return ResNetTwin(c.num_classes, c.in_channels, c.heads, c.small_input)


def upstream(model: ResNet18, batch: int, dtype: str) -> Any:
    c = model.config
    if c.heads:
        return {name: draw(batch, size, dtype=dtype, seed=size) for name, size in c.heads.items()}
    return draw(batch, c.num_classes, dtype=dtype, seed=8)


@pytest.mark.parametrize(
    "kind, training, dtype",
    [
        *((kind, True, "float64") for kind in VARIANTS),
        *((kind, True, "float32") for kind in ("published", "small images")),
        *(("heads", False, dtype) for dtype in ("float64", "float32")),
    ],
)
def test_outputs_every_gradient_and_running_statistics(kind: str, training: bool, dtype: str) -> None:
    model = build(dtype, **VARIANTS[kind])
    size = (9, 10) if model.config.small_input else (33, 38)  # nowhere even all the way down
    if not training:
        with tg.inference():  # statistics of its own, not those of the start
            model(draw(2, model.config.in_channels, *size, dtype=dtype, seed=1))
    model.train(training)
    x = draw(3, model.config.in_channels, *size, dtype=dtype)
    compare(model, twin_of(model), (x,), upstream(model, 3, dtype))


def test_a_step_of_each_is_the_same_step() -> None:
    """Both learn from two batches, and have the same weights and running statistics then."""
    model = build(num_classes=4)
    twin = load(twin_of(model), model)
    ours, theirs = SGD(model, lr=0.1, momentum=0.9), torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    loss = CrossEntropyLoss()
    for step in range(2):
        x, labels = draw(4, 3, 33, 30, seed=step), np.array([0, 3, 1, step])
        model.zero_grad()
        loss(model(x), labels)
        model.backward(loss.backward())
        ours.step()
        theirs.zero_grad()
        nn.functional.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels)).backward()
        theirs.step()
    for name, values in twin.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], values.numpy(), rtol=1e-6, atol=1e-9, err_msg=name)


def test_names_and_shapes_are_the_published_ones() -> None:
    """The state of the well-known ResNet-18: 122 arrays, 11.7 million learned numbers."""
    model = ResNet18()
    state, theirs = model.state_dict(), ResNetTwin().state_dict()
    assert list(state) == list(theirs) and len(state) == 122
    assert {name: tuple(values.shape) for name, values in state.items()} == {
        name: tuple(values.shape) for name, values in theirs.items()
    }
    assert model.num_parameters() == 11_689_512
    for name in ("conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight",
                 "layer2.0.downsample.1.num_batches_tracked", "layer4.1.bn2.bias", "fc.weight"):  # fmt: skip
        assert name in state


def test_how_it_begins() -> None:
    model = ResNet18(num_classes=2, seed=1)
    conv = model.layer2[0].conv1.weight.data
    assert conv.std() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)  # fan_out
    assert (model.layer3[1].bn2.weight.data == 1).all()
    short = ResNet18(num_classes=2, zero_init_residual=True)
    assert all(not short.state_dict()[f"layer{i}.{j}.bn2.weight"].any() for i in range(1, 5) for j in range(2))


def test_backward_of_several_heads_adds_up() -> None:
    model = build(in_channels=4, heads=HEADS).eval()
    x, dy = draw(2, 4, 33, 32), {name: draw(2, size, seed=size) for name, size in HEADS.items()}
    with pytest.raises(ConfigError, match="missing 'goal'"):
        model(x)
        model.backward({"grammar": dy["grammar"], "train": dy["train"]})
    model.clear_saved()
    whole = (model(x), model.backward(dy))[1]
    parts = []
    for name in HEADS:
        model(x)
        parts.append(model.backward({key: value * (key == name) for key, value in dy.items()}))
    np.testing.assert_allclose(whole, sum(parts), rtol=1e-9, atol=1e-12)
    assert all(np.abs(part).max() > 0 for part in parts)
    model(x)
    with pytest.raises(ConfigError, match="unknown 'gaol'. Did you mean 'goal'"):
        model.backward({"grammar": dy["grammar"], "gaol": dy["goal"], "train": dy["train"]})
    model.clear_saved()
    model(x)
    with pytest.raises(ConfigError, match="wanted a dict of gradients by head, got ndarray"):
        model.backward(dy["goal"])


def test_features() -> None:
    model = build(num_classes=3).eval()
    x = draw(2, 3, 40, 40)
    features = model.features(x)
    np.testing.assert_allclose(features @ model.fc.weight.data.T + model.fc.bias.data, model(x), rtol=1e-9)
    model.backward(np.zeros((2, 3)))
    assert features.shape == (2, 512) and model.features_backward(draw(2, 512)).shape == x.shape


def test_it_learns_two_things_at_once() -> None:
    """Whether a picture is bright on the left, and whether at the top."""
    model = ResNet18(in_channels=1, heads={"left": 2, "top": 2}, small_input=True)
    optimizer, rng = AdamW(model, lr=1e-3), np.random.default_rng(0)
    losses = {name: CrossEntropyLoss() for name in model.config.heads}
    values = []
    for _ in range(12):
        left, top = rng.integers(0, 2, 8), rng.integers(0, 2, 8)
        x = rng.normal(size=(8, 1, 8, 8)).astype("float32")
        x[:, :, :, :4] += 3 * left[:, None, None, None]
        x[:, :, :4] += 3 * top[:, None, None, None]
        model.zero_grad()
        outputs = model(x)
        values.append(losses["left"](outputs["left"], left) + losses["top"](outputs["top"], top))
        model.backward({name: loss.backward() for name, loss in losses.items()})
        optimizer.step()
    assert np.mean(values[-3:]) < 0.5 * np.mean(values[:3])


# -- weights from elsewhere ------------------------------------------------------------------------------


@variants
def test_weights_go_either_way(settings: dict[str, Any], tmp_path: Path) -> None:
    """From torch's state dict and back; and by a safetensors file, from whose shapes the settings are read."""
    twin = twin_of(ResNet18(**settings))
    for parameter in twin.parameters():
        nn.init.normal_(parameter, std=0.05)
    x = draw(2, settings.get("in_channels", 3), 20, 17, dtype="float32")
    twin(torch.tensor(x))
    wanted = twin.eval()(torch.tensor(x))
    model = ResNet18(**settings)
    model.load_state_dict(twin.state_dict())
    found = model.eval()(x)
    file = tmp_path / "resnet18.safetensors"
    save_weights(file, {name: values.numpy() for name, values in twin.state_dict().items()})
    loaded = ResNet18.from_pretrained(file)
    assert not loaded.training and loaded.config.heads == model.config.heads
    again = loaded(x)
    for name in settings.get("heads", [...]):
        ours, same, theirs = (y[name] for y in (found, again, wanted))
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(ours, same)
    twin_of(model).load_state_dict(
        {name: torch.tensor(np.array(values)) for name, values in model.state_dict().items()}
    )


def test_published_weights_under_new_heads(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.safetensors"
    source = build("float32", num_classes=7)
    old = {name: values for name, values in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    save_weights(file, old)  # as files from before torch counted batches
    for settings in ({"heads": HEADS}, {"num_classes": 4}, {}):
        model = ResNet18.from_pretrained(file, **settings)
        state, head = model.state_dict(), ("fc.", "heads.")
        for name, values in source.state_dict().items():
            if not name.startswith(head) or not settings:
                np.testing.assert_array_equal(state[name], values, err_msg=name)
        assert [name for name in state if name.startswith(head)] == (
            [f"heads.{name}.{kind}" for name in HEADS for kind in ("weight", "bias")]
            if "heads" in settings
            else ["fc.weight", "fc.bias"]
        )
        assert model.config.num_classes == settings.get("num_classes", 7)


def test_files_that_are_no_weights_of_a_resnet(tmp_path: Path) -> None:
    for name in ("resnet18-f37072fd.pth", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"\x80\x02.")
        message = f"{name}: a .* file is a pickle, and reading one can run any code.*safetensors.torch.save_file"
        with pytest.raises(CheckpointError, match=message):
            ResNet18.from_pretrained(tmp_path / name)
    file = tmp_path / "weights.safetensors"
    save_weights(file, {"weight": np.zeros(3, "float32")})
    with pytest.raises(CheckpointError, match="has no conv1.weight"):
        ResNet18.from_pretrained(file)
    state = dict(build("float32", num_classes=7).state_dict())
    del state["layer3.0.conv2.weight"]
    state["layer1.0.bn1.bias"] = np.zeros(65, "float32")
    state["extra"] = np.zeros(2, "float32")
    save_weights(file, state)
    with pytest.raises(CheckpointError) as caught:
        ResNet18.from_pretrained(file)
    for line in (
        "missing: layer3.0.conv2.weight",
        "unexpected: extra",
        "misshapen: layer1.0.bn1.bias expected (64,), got",
    ):
        assert line in str(caught.value)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        ResNet18.from_pretrained(tmp_path / "nothing")


def test_a_folder_keeps_heads_and_statistics(tmp_path: Path) -> None:
    model = build("float32", in_channels=4, heads=HEADS)
    model(draw(2, 4, 33, 32, dtype="float32"))
    model.clear_saved()
    model.save_pretrained(tmp_path / "resnet")
    other = Network.from_pretrained(tmp_path / "resnet")
    assert isinstance(other, ResNet18) and other.config == model.config
    assert list(other.config.heads) == list(HEADS)
    for name, values in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], values, err_msg=name)
        assert other.state_dict()[name].dtype == values.dtype


# -- what a user can get wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_classes": 0}, "num_classes must be an integer >= 1, got 0"),
        ({"in_channels": "3"}, "in_channels must be an integer >= 1, got '3'"),
        ({"heads": {}}, "heads must be a dict of names, without dots, and integers >= 1, got {}"),
        ({"heads": {"a.b": 3}}, "heads must be a dict of names, without dots"),
        ({"heads": {"a": 0}}, "heads must be a dict of names, without dots, and integers >= 1, got {'a': 0}"),
        ({"heads": ["a"]}, "heads must be a dict of names, without dots"),
        ({"small_input": 1}, "small_input must be True or False, got 1"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        ResNet18(**settings)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 1, 32, 32), "the image has 1 channels where 3 are wanted"),
        ((3, 32, 32), "expected (batch, 3, height, width), got (3, 32, 32)"),
        ((0, 3, 32, 32), "the batch is empty, got (0, 3, 32, 32)"),
        ((2, 3, 0, 32), "images must be at least 1 x 1, got (2, 3, 0, 32)"),
    ],
)
def test_images(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(message)):
        ResNet18(2)(np.zeros(shape, "float32"))

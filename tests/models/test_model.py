"""What a model is besides its maths: outputs, state, flat buffers, seeds, and memory that does not grow."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ShapeError
from tinygrad_edu.models import (
    BaseLanguageModel,
    CustomTransformer,
    CustomTransformerConfig,
    CustomTransformerWrapper,
    ModelOutput,
)
from tinygrad_edu.optim import AdamW

from .twin import SMALL, build, draw_ids, gradients, values

# -- the output --------------------------------------------------------------------------------------


def test_an_output_is_read_by_attribute_key_and_order() -> None:
    output = build().forward(draw_ids(), labels=draw_ids())
    assert isinstance(output, ModelOutput)
    assert isinstance(output.loss, float)
    assert output.logits.shape == (3, 9, 23)
    assert output["loss"] is output.loss
    assert output["logits"] is output.logits
    assert output[0] is output.loss
    assert output[1] is output.logits
    loss, logits = output
    assert loss is output.loss
    assert logits is output.logits
    assert output.keys() == ["loss", "logits"]
    assert "loss" in output
    assert "attentions" not in output
    assert output["attentions"] is None


def test_an_output_without_a_loss_begins_with_the_logits() -> None:
    output = build().forward(draw_ids())
    assert output.loss is None
    assert output[0] is output.logits
    assert output.keys() == ["logits"]
    (logits,) = output
    assert logits is output.logits


def test_an_output_has_no_other_keys() -> None:
    output = ModelOutput(loss=1.0)
    with pytest.raises(KeyError, match="lose"):
        output["lose"]
    with pytest.raises(IndexError):
        output[1]


# -- the config --------------------------------------------------------------------------------------


def test_a_config_may_be_itself_a_dict_or_any_object() -> None:
    class Settings:
        vocab_size, d_model, n_heads, unrelated = 11, 8, 2, "ignored"

    wanted = CustomTransformerConfig(vocab_size=11, d_model=8, n_heads=2)
    assert CustomTransformerConfig.from_any(wanted) is wanted
    assert CustomTransformerConfig.from_any({"vocab_size": 11, "d_model": 8, "n_heads": 2}) == wanted
    assert CustomTransformerConfig.from_any(Settings()) == wanted


def test_a_config_answers_get() -> None:
    config = CustomTransformerConfig(vocab_size=11, dtype="float64")
    assert config.get("vocab_size") == 11
    assert config.get("nothing", 7) == 7
    assert config.get()["d_ffn"] == 512
    assert config.get_device() == "cpu"
    assert config.get_dtype() == "float64"
    assert CustomTransformerConfig(**config.get()) == config


def test_defaults_are_those_of_the_preset() -> None:
    config = CustomTransformerConfig()
    sizes = (
        config.vocab_size,
        config.max_seq_len,
        config.n_blocks,
        config.n_heads,
        config.d_model,
        config.d_ffn,
    )
    assert sizes == (50257, 256, 4, 4, 256, 512)


# -- parameters and state ----------------------------------------------------------------------------


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary", "none"])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_number_of_parameters(position: str, norm: str, tied: bool, bias: bool) -> None:
    model = build(position=position, norm_placement=norm, tied_head=tied, bias=bias)
    width, inner, vocab = 8, 20, 23
    block = 4 * width * width + 2 * width * inner + 4 * width + bias * (4 * width + inner + width)
    wanted = vocab * width * (1 if tied else 2) + 2 * block
    wanted += 12 * width * (position == "learned") + 2 * width * (norm == "pre")
    assert model.count_parameters() == model.num_parameters() == wanted
    info = model.get_model_info()
    assert info["parameters"] == wanted
    assert info["weight_bytes"] == 8 * wanted
    assert info["model_type"] == "custom_transformer"
    assert (info["vocab_size"], info["max_seq_len"]) == (23, 12)
    assert (info["device"], info["dtype"]) == ("cpu", "float64")
    assert info["config"] == model.config.get()


def test_a_model_is_a_layer_and_a_language_model() -> None:
    model = build()
    assert isinstance(model, tg.layers.Layer)
    assert isinstance(model, BaseLanguageModel)
    assert model.supports_generation


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("source", ["float32", "float64"])
def test_a_state_goes_from_model_to_model(tied: bool, source: str) -> None:
    first, second = build(seed=1, tied_head=tied, dtype=source), build(seed=2, tied_head=tied)
    state = {name: value.copy() for name, value in first.state_dict().items()}
    assert all((second.state_dict()[name] != value).any() for name, value in state.items())
    flat = second.flat.data
    second.load_state_dict(state)
    assert second.flat.data is flat, "loading must write into the flat buffer, not beside it"
    for name, value in state.items():
        np.testing.assert_array_equal(second.state_dict()[name], value, err_msg=name)
    ids = draw_ids()
    np.testing.assert_allclose(
        second.forward(ids).logits,
        first.forward(ids).logits,
        rtol=1e-12 if source == "float64" else 1e-3,
        atol=1e-5,
    )


def test_a_state_that_does_not_fit_is_told_whole_and_changes_nothing() -> None:
    model = build()
    before = values(model)
    state = {name: value * 0 for name, value in before.items()}
    del state["model.norm.bias"]
    state["model.blocks.0.norm1.wieght"] = np.zeros(8)
    state["model.position.weight"] = np.zeros((13, 8))
    with pytest.raises(ShapeError) as caught:
        model.load_state_dict(state)
    message = str(caught.value)
    assert "missing: model.norm.bias (8,)" in message
    assert "unexpected: model.blocks.0.norm1.wieght Did you mean 'model.blocks.0.norm1.weight'?" in message
    assert "misshapen: model.position.weight expected (12, 8), got (13, 8)" in message
    for name, value in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], value, err_msg=name)


def test_the_inner_model_has_the_same_parameters_under_shorter_names() -> None:
    model = build()
    inner = CustomTransformer(SMALL)
    inner.load_state_dict({name.removeprefix("model."): value for name, value in model.state_dict().items()})
    with tg.inference():
        np.testing.assert_array_equal(inner.forward(draw_ids()), model.forward(draw_ids()).logits)


# -- flat buffers ------------------------------------------------------------------------------------


def assert_flat(model: CustomTransformerWrapper) -> None:
    """Every parameter and gradient is a view of one buffer each, and the views do not overlap."""
    flat = model.flat
    assert flat.holds(model)
    flat.grad[...] = 0
    seen = 0
    for name, parameter in model.named_parameters():
        assert np.shares_memory(parameter.data, flat.data), name
        parameter.grad += 1
        seen += parameter.size
    assert flat.grad.sum() == seen == model.num_parameters()
    assert set(np.unique(flat.grad)) <= {0, 1}
    model.zero_grad()
    assert not flat.grad.any()


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (lambda model: model, 1e-14),
        (lambda model: model.astype("float32"), 1e-5),
        (lambda model: model.astype("float32").astype("float64"), 1e-5),
        (lambda model: model.to("cpu"), 1e-14),
        (lambda model: model.flatten(), 1e-14),
    ],
    ids=["new", "cast", "cast twice", "moved", "flattened again"],
)
def test_a_changed_model_is_still_flat_and_still_learns(change: Any, tolerance: float) -> None:
    """Also with an optimizer that was made, and had taken a step, before the change."""
    model, twin = build(), build()
    for each in (model, twin):
        each.train_step(draw_ids(seed=1), None, 0.01)
    assert change(model) is model
    assert_flat(model)
    for step in range(3):
        for each in (model, twin):
            each.train_step(draw_ids(seed=step), None, 0.01)
    after = values(model)
    for name, value in values(twin).items():
        if not name.endswith("in_proj_bias"):  # the key bias has gradient 0 but for rounding, see test_twin.py
            np.testing.assert_allclose(after[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def test_a_layer_without_parameters_can_be_laid_flat_and_cleared() -> None:
    layer = tg.layers.Sequential(tg.layers.GELU(), tg.layers.ReLU()).flatten()
    layer.zero_grad()
    assert not layer.flat.holds(layer)
    assert layer.astype("float64") is layer


def test_matrices_lie_first_so_that_decay_is_one_run() -> None:
    model = build()
    optimizer = AdamW(model)
    runs = optimizer.runs()
    assert [run.decay for run in runs] == [True, False]
    named = dict(model.named_parameters())
    assert all(named[name].data.ndim >= 2 for name in runs[0].names)
    assert all(named[name].data.ndim == 1 for name in runs[1].names)
    assert sorted(runs[0].names + runs[1].names) == sorted(named)


# -- dropout and seeds -------------------------------------------------------------------------------


def run(seed: int, dropout: float = 0.3, steps: int = 4) -> list[float]:
    model = CustomTransformerWrapper({**SMALL, "dropout": dropout, "seed": seed})
    return [model.train_step(draw_ids(seed=step), None, 0.01)["loss"] for step in range(steps)]


def test_the_same_seed_is_the_same_run() -> None:
    assert run(3) == run(3)
    assert run(3) != run(4)
    assert run(3) != run(3, dropout=0.0)


def test_a_run_continues_from_the_state_of_its_generators() -> None:
    first = CustomTransformerWrapper({**SMALL, "dropout": 0.3})
    first.train_step(draw_ids(), None, 0.01)
    (generator,) = first.generators()
    assert generator is first.generator
    second = CustomTransformerWrapper({**SMALL, "dropout": 0.3, "seed": 99})
    second.load_state_dict(first.state_dict())
    second.generator.set_state(generator.get_state())
    for model in (first, second):
        model.zero_grad()
    assert first.forward_backward(draw_ids()) == second.forward_backward(draw_ids())
    for name, gradient in gradients(first).items():
        np.testing.assert_array_equal(gradients(second)[name], gradient, err_msg=name)


def test_dropout_acts_while_training_only() -> None:
    model = build(dropout=0.5)
    ids = draw_ids()
    with tg.inference():
        model.train()
        drawn = {model.forward(ids).logits.tobytes() for _ in range(3)}
        model.eval()
        fixed = {model.forward(ids).logits.tobytes() for _ in range(3)}
        assert fixed == {build(dropout=0.0).forward(ids).logits.tobytes()}
    assert len(drawn) == 3
    assert len(fixed) == 1


def test_gradients_with_dropout_are_those_of_the_same_noise() -> None:
    """One direction, fourth-order difference, the generator put back before each evaluation."""
    model = build(dropout=0.4)
    ids = draw_ids()
    state = model.generator.get_state()

    def loss_at(step: float) -> float:
        model.generator.set_state(state)
        for (name, p), d in zip(model.named_parameters(), directions, strict=True):
            p.data[...] = start[name] + step * d
        with tg.inference():
            return model.forward(ids, labels=ids).loss

    rng = np.random.default_rng(0)
    start = values(model)
    directions = [rng.normal(size=p.shape) for p in model.parameters()]
    model.train()
    model.zero_grad()
    model.forward_backward(ids)
    slope = sum(float((p.grad * d).sum()) for p, d in zip(model.parameters(), directions, strict=True))
    h = 1e-4
    numeric = (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h)
    assert slope == pytest.approx(numeric, rel=1e-7)
    assert abs(slope) > 0.1


# -- learning, and memory ----------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [False, True], ids=["kernels", "textbook"])
def test_a_fixed_batch_is_learned_by_heart(reference: bool) -> None:
    model = CustomTransformerWrapper({**SMALL, "dtype": "float32"})
    ids = draw_ids(4, 12)
    with tg.reference_ops() if reference else tg.use("cpu"):
        losses = [model.train_step(ids, ids, 0.02)["loss"] for _ in range(60)]
    assert losses[0] == pytest.approx(np.log(23), rel=0.05)
    assert losses[-1] < 0.2 * losses[0]


def steps_and_memory(warm_up: int, steps: int) -> tuple[int, int]:
    """Bytes that Python and NumPy hold after `warm_up` steps, and after `steps` more."""
    model = CustomTransformerWrapper({**SMALL, "dtype": "float32", "dropout": 0.1})

    def train(count: int) -> int:
        for step in range(count):
            ids = draw_ids(4, 12, seed=step)
            model.train_step(ids, ids, 0.001)
            if step % 20 == 0:
                model.token_losses(ids)
                model.generate(ids[:, :3], 12)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        return train(warm_up), train(steps)
    finally:
        tracemalloc.stop()


# The smallest activation is (4, 12, 8) in float32. Python keeps freed tuples for later (2,000 of a length,
# 56 bytes each for a pair) and tracemalloc counts them as held: tens of kilobytes come, and no more.
ACTIVATION, FREE_LISTS = 4 * 12 * 8 * 4, 120_000


def test_memory_is_flat_over_sixty_steps() -> None:
    before, after = steps_and_memory(20, 60)
    assert after - before < 60 * ACTIVATION / 4, f"{after - before} bytes more after 60 steps"


@pytest.mark.slow
def test_memory_is_flat_over_a_thousand_steps() -> None:
    before, after = steps_and_memory(50, 1000)
    assert after - before < FREE_LISTS < 1000 * ACTIVATION / 10, f"{after - before} bytes more after 1,000 steps"


def test_the_test_of_memory_would_notice_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    forward = tg.layers.GELU.forward

    def leaking(self: Any, x: Any) -> Any:
        held.append(x[:1].copy())
        return forward(self, x)

    monkeypatch.setattr(tg.layers.GELU, "forward", leaking)
    before, after = steps_and_memory(20, 60)
    assert after - before > 60 * ACTIVATION / 4


@pytest.mark.slow
def test_the_process_does_not_grow_over_a_thousand_steps() -> None:
    """What tracemalloc cannot see: buffers of BLAS and Numba, memory the allocator does not give back."""
    resource = pytest.importorskip("resource")
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    model = CustomTransformerWrapper(
        {
            "vocab_size": 512,
            "d_model": 64,
            "n_heads": 4,
            "d_ffn": 128,
            "max_seq_len": 64,
            "n_blocks": 2,
            "dropout": 0.1,
        }
    )

    def peak_after(steps: int) -> int:
        for step in range(steps):
            ids = draw_ids(4, 64, 512, seed=step)
            model.train_step(ids, ids, 0.001)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    before = peak_after(100)
    grown = peak_after(1000) - before
    assert grown < 2 * 2**20, f"the peak grew by {grown} bytes over 1,000 steps"


def test_a_step_leaves_the_gradients_of_its_backward_pass() -> None:
    """Clipping is a factor in the update; whoever looks at a gradient afterwards sees it unclipped."""
    model, other = build(), build()
    model.clip_norm = 1e-3
    norm = model.train_step(draw_ids(), draw_ids())["grad_norm"]
    assert norm > 1
    other.forward_backward(draw_ids(), draw_ids())
    for name, gradient in gradients(other).items():
        np.testing.assert_array_equal(gradients(model)[name], gradient, err_msg=name)


def test_a_step_leaves_nothing_saved() -> None:
    model = build(dropout=0.2)
    model.train_step(draw_ids())
    assert not any(layer._saved for layer in model.layers())
    with tg.inference():
        model.forward(draw_ids(), labels=draw_ids())
    model.token_losses(draw_ids())
    model.generate(draw_ids(1, 3), 12)
    assert not any(layer._saved for layer in model.layers())


def test_an_interrupted_step_does_not_disturb_the_next() -> None:
    model, twin = build(), build()
    model.forward(draw_ids(2, 5))  # never taken back
    for each in (model, twin):
        each.zero_grad()
    assert model.forward_backward(draw_ids()) == twin.forward_backward(draw_ids())
    for name, gradient in gradients(twin).items():
        np.testing.assert_array_equal(gradients(model)[name], gradient, err_msg=name)
    assert not any(layer._saved for layer in model.layers())


def test_inputs_are_left_as_they_were() -> None:
    model = build()
    ids = draw_ids()
    labels, mask = np.where(ids > 15, -100, ids), (ids < 20).astype(np.int64)
    kept = ids.copy(), labels.copy(), mask.copy()
    for array in (ids, labels, mask):
        array.flags.writeable = False  # so that a write inside is an error there and then
    model.forward(ids, labels, mask)
    model.backward()
    model.forward_backward(ids, labels, mask)
    model.train_step(ids, labels, 0.01)
    model.token_losses(ids, labels, mask)
    model.generate(ids, 12)
    for array, copy in zip((ids, labels, mask), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64"])
def test_ids_of_any_integer_type_give_the_same(dtype: str) -> None:
    model = build()
    ids = draw_ids()
    with tg.inference():
        wanted = model.forward(ids, labels=ids)
        output = model.forward(ids.astype(dtype), labels=ids.astype(dtype))
    assert output.loss == wanted.loss
    np.testing.assert_array_equal(output.logits, wanted.logits)
    assert model.forward_backward(ids.astype(dtype)) == model.forward_backward(ids)

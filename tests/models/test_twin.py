"""CustomTransformer against its twin in torch: logits, loss, every gradient, and whole training steps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu import losses
from tinygrad_edu.optim import AdamW

from .twin import TorchTransformer, build, draw_ids, gradients, torch

# Every position type with both placements of the norm and both heads; then one option at a time.
VARIANTS: list[dict[str, Any]] = [
    {"position": position, "norm_placement": norm, "tied_head": tied}
    for position, norm, tied in itertools.product(
        ("learned", "sinusoidal", "rotary", "none"), ("pre", "post"), (True, False)
    )
] + [
    {"bias": False},
    {"n_blocks": 1, "n_heads": 1},
    {"n_heads": 4, "position": "rotary"},
    {"n_heads": 8},
    {"eps": 0.1},
    *({"activation": name} for name in ("gelu_tanh", "relu", "silu", "tanh", "sigmoid")),
]


def name_of(variant: dict[str, Any]) -> str:
    return "-".join(str(value) if isinstance(value, str) else f"{key}={value}" for key, value in variant.items())


def assert_close(ours: Any, theirs: Any, dtype: str, what: str) -> None:
    if dtype == "float64":
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12 * scale, err_msg=what)
    else:
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), msg=lambda text: f"{what}: {text}")


MASKS = {
    "none": None,
    "right": [[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7],
    "left": [[1] * 9, [0] * 3 + [1] * 6, [0] * 7 + [1] * 2],  # whole rows of the attention may look nowhere
    "holes": [[1, 0, 1, 1, 0, 1, 1, 1, 0], [1] * 9, [0, 0, 1, 0, 1, 1, 0, 1, 1]],
}


def torch_mask(mask: Any) -> Any:
    return None if mask is None else torch.tensor(mask)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_logits_loss_and_every_gradient(variant: dict[str, Any], dtype: str) -> None:
    model = build(dtype=dtype, **variant)
    twin = TorchTransformer(model)
    ids = draw_ids()
    labels = ids.copy()
    labels[0, 4:6] = labels[2, 8] = -100

    logits = twin(torch.tensor(ids))
    loss = twin.loss(logits, torch.tensor(labels))
    loss.backward()

    output = model.forward(ids, labels=labels)
    model.backward()
    assert_close(output.logits, logits.detach().numpy(), dtype, "logits")
    assert output.loss == pytest.approx(loss.item(), rel=1e-12 if dtype == "float64" else 1e-6)
    ours, theirs = gradients(model), twin.gradients()
    assert list(ours) == list(theirs)
    for name, gradient in theirs.items():
        assert_close(ours[name], gradient, dtype, name)


@pytest.mark.parametrize("name", [name for name in MASKS if name != "left"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_attention_masks(name: str, norm: str) -> None:
    mask = MASKS[name]
    model = build(norm_placement=norm)
    twin = TorchTransformer(model)
    ids = draw_ids()
    labels = ids.copy()
    if mask is not None:
        labels[np.array(mask) == 0] = -100
    # A first place that is masked may look nowhere at all, where torch gives NaN: see the next test.
    if mask is not None:
        mask = np.maximum(mask, np.arange(9) == 0)
    logits = twin(torch.tensor(ids), torch_mask(mask))
    twin.loss(logits, torch.tensor(labels)).backward()
    output = model.forward(ids, attention_mask=mask, labels=labels)
    model.backward()
    assert_close(output.logits, logits.detach().numpy(), "float64", "logits")
    ours = gradients(model)
    for parameter, gradient in twin.gradients().items():
        assert_close(ours[parameter], gradient, "float64", parameter)


def test_padding_on_the_left_is_finite_and_changes_nothing_that_counts() -> None:
    """With rotary positions, which see only distances, a padded sequence scores as it does alone."""
    model = build(position="rotary")
    ids, mask = draw_ids(), np.array(MASKS["left"])
    labels = np.where(mask == 1, ids, -100)
    output = model.forward(ids, attention_mask=mask, labels=labels)
    model.backward()
    assert np.isfinite(output.logits).all()
    assert all(np.isfinite(g).all() for g in gradients(model).values())
    with tg.inference():
        alone = model.forward(ids[1:2, 3:]).logits
    np.testing.assert_allclose(output.logits[1, 3:], alone[0], rtol=1e-9)


def test_a_later_token_changes_no_earlier_logit() -> None:
    model = build()
    ids = draw_ids(1, 9)
    other = ids.copy()
    other[0, 6] = (other[0, 6] + 1) % 23
    with tg.inference():
        first, second = model.forward(ids).logits, model.forward(other).logits
    np.testing.assert_array_equal(first[0, :6], second[0, :6])
    assert (first[0, 6:] != second[0, 6:]).any(axis=-1).all()


@pytest.mark.parametrize("mode", ["float64", "float32", "float32-textbook"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no-mask"])
def test_forward_backward_is_forward_then_backward(
    monkeypatch: pytest.MonkeyPatch, mode: str, tied: bool, masked: bool
) -> None:
    """The chunked head and loss, in three chunks of which the last is short, against whole logits."""
    dtype, _, reference = mode.partition("-")
    itemsize = np.dtype(dtype).itemsize
    monkeypatch.setattr(losses.head, "_CHUNK_BYTES", 64 * 23 * itemsize)
    kernels = pytest.importorskip("tinygrad_edu.kernels.cpu.losses")  # has no chunks of its own without Numba
    monkeypatch.setattr(kernels, "_CHUNK_BYTES", 64 * 23 * itemsize)
    model = build(tied_head=tied, dtype=dtype)
    ids = draw_ids(14, 11)  # 154 rows: 64, 64, 26
    labels = ids.copy()
    labels[3, 2:9] = -100
    mask = None
    if masked:
        mask = np.ones_like(ids)
        mask[5, 7:] = mask[13, 4:] = 0
    with tg.reference_ops() if reference else tg.use("cpu"):
        model.zero_grad()
        output = model.forward(ids, attention_mask=mask, labels=labels)
        model.backward()
        whole = gradients(model)
        model.zero_grad()
        loss = model.forward_backward(ids, labels, mask)
        chunked = gradients(model)
    assert loss == pytest.approx(output.loss, rel=1e-13 if dtype == "float64" else 1e-6)
    for name, gradient in whole.items():
        rtol, atol = (1e-10, 1e-14) if dtype == "float64" else (1e-4, 1e-7)
        np.testing.assert_allclose(chunked[name], gradient, rtol=rtol, atol=atol, err_msg=name)


def test_backward_from_given_logit_gradients() -> None:
    model = build()
    twin = TorchTransformer(model)
    ids = draw_ids()
    dlogits = np.random.default_rng(0).normal(size=(3, 9, 23))
    twin(torch.tensor(ids)).backward(torch.tensor(dlogits))
    model.forward(ids)
    model.backward(dlogits)
    ours = gradients(model)
    for name, gradient in twin.gradients().items():
        assert_close(ours[name], gradient, "float64", name)


def test_gradients_accumulate_over_batches() -> None:
    model = build()
    first, second = draw_ids(seed=1), draw_ids(seed=2)
    parts = []
    for ids in (first, second):
        model.zero_grad()
        model.forward_backward(ids)
        parts.append(gradients(model))
    model.zero_grad()
    model.forward_backward(first)
    model.forward_backward(second)
    for name, gradient in gradients(model).items():
        np.testing.assert_allclose(gradient, parts[0][name] + parts[1][name], rtol=1e-10, atol=1e-14, err_msg=name)


def torch_adamw(twin: TorchTransformer, lr: float, weight_decay: float) -> Any:
    matrices = [p for p in twin.parameters() if p.ndim >= 2]
    vectors = [p for p in twin.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def clip(twin: TorchTransformer, max_norm: float, exactly: bool) -> float:
    """torch's clipping, which divides by norm + 1e-6; or by the norm itself, as ours does."""
    if not exactly:
        return float(torch.nn.utils.clip_grad_norm_(twin.parameters(), max_norm))
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in twin.parameters()]))
    for p in twin.parameters():
        p.grad *= min(1.0, max_norm / norm)
    return norm


@pytest.mark.parametrize("exactly", [True, False], ids=["same-divisor", "torch-clipping"])
@pytest.mark.parametrize(
    ("dtype", "variant"),
    [
        ("float64", {}),
        ("float64", {"norm_placement": "post", "tied_head": False, "position": "rotary"}),
        ("float32", {}),
    ],
    ids=["float64", "float64-post-untied-rotary", "float32"],
)
def test_training_steps_are_those_of_torch(variant: dict[str, Any], dtype: str, exactly: bool) -> None:
    """AdamW, decay on matrices only, a changing rate, clipped steps and one that is not."""
    model = build(dtype=dtype, **variant)
    twin = TorchTransformer(model)
    model.optimizer = AdamW(model, lr=1.0, weight_decay=0.2)
    optimizer = torch_adamw(twin, 1.0, 0.2)
    norms = []
    for step in range(6):
        ids, lr = draw_ids(4, 10, seed=20 + step), 0.003 * (step + 1)
        model.clip_norm = 1e6 if step == 3 else 0.5
        result = model.train_step(ids, ids, lr)

        twin.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = twin.loss(twin(torch.tensor(ids)), torch.tensor(ids))
        loss.backward()
        norm = clip(twin, model.clip_norm, exactly)
        optimizer.step()

        tolerance = 1e-9 if dtype == "float64" and exactly else 1e-5
        assert result["loss"] == pytest.approx(loss.item(), rel=tolerance)
        assert result["grad_norm"] == pytest.approx(norm, rel=tolerance)
        assert result["learning_rate"] == lr
        norms.append(norm)
    assert max(norms) > 0.5, "no step was clipped, so the test shows too little"
    theirs = {name: p.detach().numpy() for name, p in twin.named_parameters()}
    for name, parameter in model.model.named_parameters():
        if dtype == "float64":
            rtol, atol = (1e-9, 1e-11) if exactly else (1e-5, 1e-7)
            np.testing.assert_allclose(parameter.data, theirs[name], rtol=rtol, atol=atol, err_msg=name)
            continue
        ours, wanted = parameter.data, theirs[name]
        if name.endswith("in_proj_bias"):
            # A key bias shifts all scores of a row alike and changes nothing: its gradient is 0 but for
            # rounding, which Adam, dividing by its size, makes as large as any other.
            ours, wanted = np.delete(ours, slice(8, 16)), np.delete(wanted, slice(8, 16))
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=2e-5, err_msg=name)


def test_token_losses_are_those_of_torch() -> None:
    model = build()
    twin = TorchTransformer(model)
    ids = draw_ids()
    labels = ids.copy()
    labels[1, 3:] = -100
    losses_, correct = model.token_losses(ids, labels)
    logits = twin(torch.tensor(ids))[:, :-1]
    targets = torch.tensor(labels)[:, 1:]
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    np.testing.assert_allclose(losses_, wanted.reshape(3, 8).detach().numpy(), rtol=1e-10)
    np.testing.assert_array_equal(correct, (logits.argmax(-1) == targets).numpy())
    assert not losses_[1, 2:].any()
    assert not correct[1, 2:].any()


def test_the_loss_of_an_untrained_model_is_that_of_guessing() -> None:
    """Small initial weights give nearly equal logits, so the loss starts at log V."""
    model = tg.models.CustomTransformerWrapper({"vocab_size": 500, "d_model": 32, "max_seq_len": 16})
    loss, _ = model.token_losses(draw_ids(8, 16, 500))
    assert loss.mean() == pytest.approx(math.log(500), rel=0.01)

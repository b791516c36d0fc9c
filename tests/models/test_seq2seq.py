"""Seq2Seq against a twin around torch.nn.Transformer, and what only a model of two texts has."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import ConfigError, DtypeError, RangeError, ShapeError
from tinygrad_edu.models import Seq2Seq, create_model, create_model_from_config
from tinygrad_edu.optim import SGD, AdamW

from .test_twin import assert_close
from .twin import ACTIVATIONS, torch

nn, F = torch.nn, torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # torch, of a way that it does not go

V, B, S, T = 19, 3, 7, 6
PAD, BOS, EOS = 0, 1, 2
SMALL: dict[str, Any] = {
    "vocab_size": V,
    "max_seq_len": 9,
    "n_blocks": 2,
    "n_heads": 2,
    "d_model": 8,
    "d_ffn": 12,
    "dropout": 0.0,
    "dtype": "float64",
}
RNG = np.random.default_rng(11)
SOURCE = RNG.integers(3, V, (B, S))
MASK = (np.arange(S) < np.array([7, 4, 1])[:, None]).astype(np.int64)
TARGET = RNG.integers(3, V, (B, T))
for _row, _length in enumerate((3, 6, 5)):  # each ends, and is ignored behind that
    TARGET[_row, _length - 1] = EOS
    TARGET[_row, _length:] = -100


def build(seed: int = 5, **changes: Any) -> Seq2Seq:
    """A small model whose every parameter, norms and biases too, is far from its start."""
    model = Seq2Seq({**SMALL, **changes})
    rng = np.random.default_rng(seed)
    for parameter in model.parameters():
        parameter.data[...] = rng.normal(size=parameter.shape) * (1.0 if parameter.data.ndim == 1 else 0.4)
    return model


def gradients(model: Seq2Seq) -> dict[str, np.ndarray]:
    return {name: parameter.grad.copy() for name, parameter in model.named_parameters()}


class Side(nn.Module):
    def __init__(self, c: Any):
        super().__init__()
        self.c = c
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.position = nn.Embedding(c.max_seq_len, c.d_model) if c.position == "learned" else None

    def forward(self, ids: Any) -> Any:
        x, time = self.embedding(ids), ids.shape[1]
        if self.c.scale_embeddings:
            x = x * self.c.d_model**0.5
        if self.position is not None:
            return x + self.position.weight[:time]
        if self.c.position == "sinusoidal":
            table = torch.zeros(time, self.c.d_model, dtype=x.dtype)
            for t, i in itertools.product(range(time), range(0, self.c.d_model, 2)):
                angle = t / 10000 ** (i / self.c.d_model)
                table[t, i], table[t, i + 1] = math.sin(angle), math.cos(angle)
            x = x + table
        return x


class Twin(nn.Module):
    def __init__(self, model: Seq2Seq):
        super().__init__()
        c = model.config
        self.source, self.target = Side(c), Side(c)
        self.transformer = nn.Transformer(
            c.d_model,
            c.n_heads,
            c.n_blocks,
            c.n_decoder_blocks or c.n_blocks,
            c.d_ffn,
            0.0,
            ACTIVATIONS[c.activation],
            layer_norm_eps=c.eps,
            batch_first=True,
            norm_first=c.norm_placement == "pre",
            bias=c.bias,
        )
        for norm in self.transformer.modules():
            if isinstance(norm, nn.LayerNorm) and norm.bias is None:  # of ours only the linear maps go without
                norm.bias = nn.Parameter(torch.empty(c.d_model))
        self.head = None if c.tied_head else nn.Linear(c.d_model, c.vocab_size, bias=False)
        if c.shared_embeddings:
            self.target.embedding = self.source.embedding
        self.to(getattr(torch, c.dtype))
        state = {name: torch.tensor(value) for name, value in model.state_dict().items()}
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"target.embedding.weight"}

    def forward(self, source: Any, decoder_ids: Any, mask: Any = None, decoder_mask: Any = None) -> Any:
        hidden = None if mask is None else torch.tensor(mask) == 0
        decoder_hidden = None if decoder_mask is None else torch.tensor(decoder_mask) == 0
        later = torch.ones(decoder_ids.shape[1], decoder_ids.shape[1], dtype=torch.bool).triu(1)
        x = self.transformer(
            self.source(torch.tensor(source)),
            self.target(torch.tensor(decoder_ids)),
            tgt_mask=later,
            src_key_padding_mask=hidden,
            tgt_key_padding_mask=decoder_hidden,
            memory_key_padding_mask=hidden,
        )
        return F.linear(x, self.target.embedding.weight if self.head is None else self.head.weight)


def shifted(labels: np.ndarray) -> np.ndarray:
    """By the book: place after place."""
    return np.array([[BOS, *(PAD if token == -100 else token for token in row[:-1])] for row in labels.tolist()])


VARIANTS: list[dict[str, Any]] = [
    *(
        {"position": position, "norm_placement": norm}
        for position, norm in itertools.product(("sinusoidal", "learned", "none"), ("pre", "post"))
    ),
    {"shared_embeddings": False},
    {"tied_head": False},
    {"shared_embeddings": False, "tied_head": False},
    {"scale_embeddings": False},
    {"n_decoder_blocks": 3, "n_blocks": 1},
    {"bias": False},
    {"activation": "relu", "norm_placement": "post"},
    {"eps": 0.1, "n_heads": 4},
    {"checkpointing": True},
]


def name_of(variant: dict[str, Any]) -> str:
    return "-".join(str(value) if isinstance(value, str) else f"{key}={value}" for key, value in variant.items())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_logits_loss_and_every_gradient(variant: dict[str, Any], padded: bool, dtype: str) -> None:
    model = build(dtype=dtype, **variant)
    twin = Twin(model)
    mask = MASK if padded else None
    logits = twin(SOURCE, shifted(TARGET), mask)
    loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor(TARGET).flatten())
    loss.backward()
    output = model.forward(SOURCE, labels=TARGET, attention_mask=mask)
    model.backward()
    assert_close(output.logits, logits.detach().numpy(), dtype, "logits")
    assert output.loss == pytest.approx(loss.item(), rel=1e-12 if dtype == "float64" else 1e-6)
    ours, theirs = gradients(model), {name: p.grad.numpy() for name, p in twin.named_parameters()}
    assert list(ours) == list(theirs)
    for name, gradient in theirs.items():
        assert np.abs(gradient).max() > 0, f"{name}: nothing is tested"
        assert_close(ours[name], gradient, dtype, name)


HOLES = np.array([[1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1]])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_masks_of_both_sides_and_what_the_decoder_reads(norm: str) -> None:
    model = build(norm_placement=norm)
    twin = Twin(model)
    decoder_ids = np.random.default_rng(3).integers(0, V, (B, T))
    logits = twin(SOURCE, decoder_ids, MASK, HOLES)
    F.cross_entropy(logits.flatten(0, 1), torch.tensor(TARGET).flatten()).backward()
    masks = {"attention_mask": MASK, "decoder_attention_mask": HOLES}
    output = model.forward(SOURCE, labels=TARGET, decoder_input_ids=decoder_ids, **masks)
    model.backward()
    assert_close(output.logits, logits.detach().numpy(), "float64", "logits")
    for name, parameter in twin.named_parameters():
        assert_close(gradients(model)[name], parameter.grad.numpy(), "float64", name)
    without = model.forward(SOURCE, decoder_input_ids=decoder_ids, **masks)
    assert without.loss is None
    np.testing.assert_array_equal(without.logits, output.logits)
    unmasked = model.forward(SOURCE, decoder_input_ids=decoder_ids, attention_mask=MASK)
    assert np.abs(unmasked.logits - output.logits)[[0, 2]].max() > 1e-3  # so the mask does something


def test_the_decoder_reads_the_labels_one_place_later() -> None:
    model = build()
    np.testing.assert_array_equal(model.shift_right(TARGET), shifted(TARGET))
    other = build(pad_token_id=5, bos_token_id=7)
    wanted = np.where(shifted(TARGET) == PAD, 5, shifted(TARGET))
    wanted[:, 0] = 7
    np.testing.assert_array_equal(other.shift_right(TARGET), wanted)


def test_padding_changes_nothing() -> None:
    """Each pair alone, cut to its length, has the losses that it has in the padded batch."""
    model = build()
    losses, correct = model.token_losses(SOURCE, TARGET, attention_mask=MASK)
    assert losses.shape == correct.shape == TARGET.shape
    for row in range(B):
        target, source = TARGET[row : row + 1, : (TARGET[row] != -100).sum()], SOURCE[row : row + 1, : MASK[row].sum()]
        alone, right = model.token_losses(source, target)
        np.testing.assert_allclose(losses[row, : alone.shape[1]], alone[0], rtol=1e-9)
        np.testing.assert_array_equal(correct[row, : alone.shape[1]], right[0])
        assert not losses[row, alone.shape[1] :].any()
    unmasked, _ = model.token_losses(SOURCE, TARGET)
    assert np.abs(unmasked - losses)[1:].max() > 1e-3  # without the mask, padding is read


def test_no_place_of_the_target_sees_a_later_one_and_all_see_all_of_the_source() -> None:
    model, decoder_ids = build(), shifted(TARGET)
    with tg.inference():
        before = model.forward(SOURCE, decoder_input_ids=decoder_ids).logits
        later = decoder_ids.copy()
        later[:, 4] = (later[:, 4] + 1) % V
        after = model.forward(SOURCE, decoder_input_ids=later).logits
        np.testing.assert_array_equal(before[:, :4], after[:, :4])
        assert (before[:, 4:] != after[:, 4:]).any(axis=-1).all()
        source = SOURCE.copy()
        source[:, -1] = (source[:, -1] + 1) % V
        assert (model.forward(source, decoder_input_ids=decoder_ids).logits != before).any(axis=-1).all()


# -- training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"tied_head": False, "shared_embeddings": False}], ids=["tied", "untied"])
def test_forward_backward_is_forward_then_backward(settings: dict[str, Any]) -> None:
    model = build(**settings)
    model.zero_grad()
    output = model.forward(SOURCE, labels=TARGET, attention_mask=MASK)
    model.backward()
    whole = gradients(model)
    model.zero_grad()
    assert model.forward_backward(SOURCE, TARGET, MASK) == pytest.approx(output.loss, rel=1e-12)
    for name, gradient in gradients(model).items():
        np.testing.assert_allclose(gradient, whole[name], rtol=1e-10, atol=1e-14, err_msg=name)
    count = model.count_targets(SOURCE, TARGET, MASK)
    assert count == (TARGET != -100).sum() == 14
    model.zero_grad()
    parts = [
        model.forward_backward(SOURCE[rows], TARGET[rows], attention_mask=MASK[rows], divisor=count)
        for rows in ([0], [1, 2])
    ]
    assert sum(parts) == pytest.approx(output.loss, rel=1e-12)
    for name, gradient in gradients(model).items():
        np.testing.assert_allclose(gradient, whole[name], rtol=1e-9, atol=1e-13, err_msg=name)


def test_label_smoothing_is_torchs_and_for_training_only() -> None:
    model = build()
    model.label_smoothing = 0.2
    model.train()
    logits = Twin(model)(SOURCE, shifted(TARGET), MASK)
    for smoothing in (0.2, 0.0):
        wanted = F.cross_entropy(logits.flatten(0, 1), torch.tensor(TARGET).flatten(), label_smoothing=smoothing)
        output = model.forward(SOURCE, labels=TARGET, attention_mask=MASK)
        assert output.loss == pytest.approx(wanted.item(), rel=1e-12)
        assert model.forward_backward(SOURCE, TARGET, MASK) == pytest.approx(wanted.item(), rel=1e-12)
        model.eval()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_checkpointing_gives_the_same_bits(dtype: str) -> None:
    losses, kept = [], []
    for checkpointing in (False, True):
        model = build(dtype=dtype, dropout=0.3, checkpointing=checkpointing)
        model.train()
        losses.append([model.forward_backward(SOURCE, TARGET, MASK) for _ in range(2)])
        kept.append(gradients(model))
    assert losses[0] == losses[1] and losses[0][0] != losses[0][1]
    assert all(kept[0][name].tobytes() == kept[1][name].tobytes() for name in kept[0])


def reversed_pairs(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sources of 2 to 4 ids, and the same backwards."""
    lengths = rng.integers(2, 5, batch)
    mask = (np.arange(4) < lengths[:, None]).astype(np.int64)
    source = rng.integers(3, 11, (batch, 4)) * mask
    target = np.full((batch, 5), -100)
    for row, length in enumerate(lengths.tolist()):
        target[row, : length + 1] = [*source[row, :length][::-1], EOS]
    return source, mask, target


def test_it_learns_to_reverse_and_both_searches_say_so() -> None:
    model = Seq2Seq({**SMALL, "n_blocks": 1, "d_model": 32, "d_ffn": 32, "dtype": "float32", "init_std": 0.2})
    rng = np.random.default_rng(0)
    losses = []
    for step in range(350):
        source, mask, target = reversed_pairs(rng, 24)
        rate = 6e-3 * min(1, step / 40) * (1 - step / 360)
        losses.append(model.train_step(source, target, rate, attention_mask=mask)["loss"])
    assert np.mean(losses[-20:]) < 0.2 * losses[0]
    source, mask, target = reversed_pairs(np.random.default_rng(1), 200)
    wanted = np.where(target == -100, EOS, target)
    for beams in (1, 4):
        found = model.generate(source, max_new_tokens=5, num_beams=beams, attention_mask=mask)[:, 1:]
        right = (found == wanted[:, : found.shape[1]]).all(axis=1)
        assert right.mean() > 0.9, f"{beams} beams: {right.mean():.0%}"


# -- the vocabulary, and on disk ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"shared_embeddings": False}, {"tied_head": False}, {"shared_embeddings": False, "tied_head": False}],
    ids=name_of,
)
@pytest.mark.parametrize("size", [V + 6, V - 4])
def test_every_table_is_resized(settings: dict[str, Any], size: int) -> None:
    model = build(**settings)
    model.optimizer = AdamW(model)
    kept = min(size, V)
    source, target = np.minimum(SOURCE, kept - 1), np.minimum(TARGET, kept - 1)
    model.train_step(source, target, 1e-3)
    before = model.state_dict()
    before = {name: value.copy() for name, value in before.items()}
    model.resize_token_embeddings(size)
    tables = {name for name, value in model.state_dict().items() if len(value) == size}
    expected = {"source.embedding.weight"}
    expected |= set() if model.config.shared_embeddings else {"target.embedding.weight"}
    expected |= set() if model.config.tied_head else {"head.weight"}
    assert tables == expected
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value[:kept], before[name][:kept])
    assert model.vocab_size == model.config.vocab_size == size
    logits = model.forward(source, labels=target).logits
    assert logits.shape == (B, T, size)
    newest = np.full((B, 2), size - 1)
    assert math.isfinite(model.train_step(newest, newest, 1e-3)["loss"])
    with pytest.raises(RangeError):
        model.forward(np.full((B, 2), size), labels=newest)


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_after_loading_training_goes_on_as_if_nothing_had_been(tmp_path: Path, optimizer: Any) -> None:
    model = build(dropout=0.2, dtype="float32", shared_embeddings=False)
    model.optimizer = optimizer(model)
    model.train_step(SOURCE, TARGET, 1e-2, attention_mask=MASK)
    model.save_checkpoint(tmp_path)
    again = Seq2Seq.load_checkpoint(tmp_path)
    assert again.config == model.config
    steps = [
        [m.train_step(SOURCE, TARGET, 1e-2, attention_mask=MASK)["loss"] for _ in range(3)] for m in (model, again)
    ]
    assert steps[0] == steps[1]
    for name, value in model.state_dict().items():
        assert value.tobytes() == again.state_dict()[name].tobytes()


def test_saved_for_others_and_loaded(tmp_path: Path) -> None:
    model = build(shared_embeddings=False, tied_head=False)
    model.save_pretrained(tmp_path / "model")
    again = Seq2Seq.from_pretrained(tmp_path / "model")
    assert {**again.config.get(), "dtype": ""} == {**model.config.get(), "dtype": ""}
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(again.state_dict()[name], value, rtol=1e-6)


# -- what can be looked at --------------------------------------------------------------------------------


def test_hidden_states_and_attentions() -> None:
    model = build(n_decoder_blocks=3)
    output = model.forward(
        SOURCE, labels=TARGET, attention_mask=MASK, output_hidden_states=True, output_attentions=True
    )
    shapes = [state.shape for state in output.hidden_states]
    assert shapes == [(B, S, 8)] * 3 + [(B, T, 8)] * 4
    np.testing.assert_allclose(output.hidden_states[-1] @ model.head_weight.data.T, output.logits, rtol=1e-10)
    shapes = [weights.shape for weights in output.attentions]
    assert shapes == [(B, 2, S, S)] * 2 + [(B, 2, T, T), (B, 2, T, S)] * 3
    for weights in output.attentions:
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
        if weights.shape[-1] == S:
            assert not np.where(MASK[:, None, None, :] == 0, weights, 0).any()
        elif weights.shape[-1] == T:
            assert not np.triu(weights, 1).any()
    memory = model.encode(SOURCE, (MASK != 0)[:, None, None, :])
    np.testing.assert_array_equal(output.hidden_states[2], memory)


# -- writing ------------------------------------------------------------------------------------------------


def by_hand(model: Seq2Seq, source: np.ndarray, mask: np.ndarray | None, steps: int) -> np.ndarray:
    """Greedy: the whole model again for each token."""
    ids = np.full((len(source), 1), BOS)
    for _ in range(steps):
        with model.evaluating():
            logits = model.forward(source, decoder_input_ids=ids, attention_mask=mask).logits
        ids = np.concatenate([ids, logits[:, -1].argmax(-1)[:, None]], axis=1)
    for row in ids:
        if EOS in row[1:]:
            row[row.tolist().index(EOS, 1) :] = EOS
    return ids


@pytest.mark.parametrize("position", ["sinusoidal", "learned", "none"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_greedy(position: str, dtype: str) -> None:
    for seed in range(4):
        model = build(seed=seed, position=position, dtype=dtype, tied_head=False)
        for mask in (None, MASK):
            wanted = by_hand(model, SOURCE, mask, 9)
            found = model.generate(SOURCE, 10, attention_mask=mask)
            np.testing.assert_array_equal(found, wanted[:, : found.shape[1]])
            assert (wanted[:, found.shape[1] :] == EOS).all() and found.dtype == np.int64
            for other in ({"use_cache": False}, {"temperature": 0}, {"top_k": 1}, {"do_sample": False}):
                np.testing.assert_array_equal(model.generate(SOURCE, 10, attention_mask=mask, **other), found)
            streamed = np.stack(list(model.stream(SOURCE, max_new_tokens=9, attention_mask=mask)), axis=1)
            np.testing.assert_array_equal(streamed, found[:, 1:])


@pytest.mark.parametrize("beams", [2, 5])
def test_beams_with_and_without_cache_and_alone(beams: int) -> None:
    lengths = set()
    for seed in range(6):
        model = build(seed=seed, tied_head=False)
        often = int(model.generate(SOURCE, 10)[0, 3 + seed])  # EOS hardly ever comes
        arguments = {"max_new_tokens": 9, "num_beams": beams, "early_stopping": "never", "eos_token_id": often}
        found = model.generate(SOURCE, attention_mask=MASK, **arguments)
        wanted = model.generate(SOURCE, attention_mask=MASK, use_cache=False, **arguments)
        np.testing.assert_array_equal(found, wanted)
        for row in range(B):
            alone = model.generate(SOURCE[row, : MASK[row].sum()], **arguments)
            np.testing.assert_array_equal(alone, found[row, : len(alone)])
            assert (found[row, len(alone) :] == often).all()
            lengths.add(len(alone))
            masked = model.generate(SOURCE[row], attention_mask=MASK[row].tolist(), **arguments)
            np.testing.assert_array_equal(masked, alone)
    assert len(lengths) > 1, "all end alike: the test shows too little"


def test_enough_beams_find_the_best_translation_of_all() -> None:
    model = build(vocab_size=5, seed=8)
    source = np.array([[3, 4, 1]])

    def log_probs(written: tuple[int, ...]) -> list[float]:
        with model.evaluating():
            logits = model.forward(source, decoder_input_ids=[[BOS, *written]]).logits[0, -1]
        return (logits - np.log(np.exp(logits).sum())).tolist()

    open_ends, finished = {(): 0.0}, {}
    for n in range(1, 5):
        further = {}
        for written, total in open_ends.items():
            for token, value in enumerate(log_probs(written)):
                (finished if token == EOS or n == 4 else further)[(*written, token)] = total + value
        open_ends = further
    for penalty in (0.0, 1.0, 2.0):
        best = max(finished, key=lambda written: finished[written] / len(written) ** penalty)
        arguments = {"num_beams": 125, "length_penalty": penalty, "early_stopping": "never"}
        assert tuple(model.generate(source, 5, **arguments)[0, 1:].tolist()) == best


def test_drawing_is_on_demand() -> None:
    model = build(tied_head=False)
    greedy = model.generate(SOURCE, 10)
    np.testing.assert_array_equal(model.generate(SOURCE, 10, seed=3), greedy)
    drawn = [model.generate(SOURCE, 10, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert drawn[0].shape != drawn[2].shape or (drawn[0] != drawn[2]).any()
    assert any(
        len(set(map(tuple, model.generate(np.repeat(SOURCE[:1], 20, 0), 10, seed=1, **settings).tolist()))) > 3
        for settings in ({"do_sample": True}, {"top_k": 5}, {"top_p": 0.9})
    )


def test_the_end_can_be_another_token() -> None:
    model = build(tied_head=False)
    free = model.generate(SOURCE[:1], 10, eos_token_id=EOS)[0].tolist()
    other = model.generate(SOURCE[:1], 10, eos_token_id=free[2])[0].tolist()
    assert other == free[: len(other)] and other[-1] == free[2]


# -- mistakes -----------------------------------------------------------------------------------------------


def calls(model: Seq2Seq, **arguments: Any) -> list[Any]:
    return [
        lambda: model.forward(**arguments),
        lambda: model.forward_backward(**arguments),
        lambda: model.token_losses(**arguments),
        lambda: model.train_step(**arguments),
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": TARGET[:2]}, ShapeError, "labels: expected a target for each of the 3 sources, got (2, 6)"),
        ({"labels": TARGET[:, :0]}, ShapeError, "labels: expected a target for each of the 3 sources, got (3, 0)"),
        ({"labels": TARGET[0]}, ShapeError, "labels: expected (batch, time), got (6,)"),
        ({"labels": np.full((B, 10), 4)}, ShapeError, "labels: target of length 10 is longer than max_seq_len 9"),
        ({"labels": TARGET * 1.0}, DtypeError, "labels must be integers, got float64"),
        ({"labels": np.full((B, T), V)}, RangeError, "labels"),
        ({"labels": np.full((B, T), -1)}, RangeError, "labels"),
        ({"input_ids": np.full((B, 10), 4)}, ShapeError, "sequence of length 10 is longer than max_seq_len 9"),
        ({"input_ids": np.full((B, S), V)}, RangeError, "input_ids: ids must be in [0, 19), got 19"),
        ({"input_ids": SOURCE[:, :0]}, ShapeError, "input_ids: the batch is empty, got (3, 0)"),
        ({"attention_mask": MASK[:, :3]}, ShapeError, "attention_mask must have the shape of input_ids, (3, 7)"),
        (
            {"decoder_input_ids": SOURCE},
            ShapeError,
            "decoder_input_ids must have the shape of labels, (3, 6), got (3, 7)",
        ),
        (
            {"decoder_input_ids": np.full((B, T), V)},
            RangeError,
            "decoder_input_ids: ids must be in [0, 19), got 19 at position (0, 0)",
        ),
        (
            {"decoder_attention_mask": MASK},
            ShapeError,
            "decoder_attention_mask must have the shape of the target, (3, 6), got (3, 7)",
        ),
        (
            {"token_type_ids": SOURCE},
            ConfigError,
            "seq2seq takes no 'token_type_ids'; it takes input_ids, labels, attention_mask, decoder_input_ids",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_inputs(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    model = build()
    for call in calls(model, **{"input_ids": SOURCE, "labels": TARGET, **changes}):
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)


def test_without_a_target() -> None:
    model = build()
    with pytest.raises(ConfigError, match="needs what the decoder reads; give labels or decoder_input_ids"):
        model.forward(SOURCE)
    for call in (model.forward_backward, model.token_losses, model.train_step):
        with pytest.raises(ConfigError, match="labels: seq2seq learns translation and needs labels"):
            call(SOURCE)
    with pytest.raises(ConfigError, match="every label of the batch is -100"):
        model.forward_backward(SOURCE, np.full((B, T), -100))
    with pytest.raises(ShapeError, match=r"decoder_input_ids must have batch 3, that of the source, got \(2, 4\)"):
        model.forward(SOURCE, decoder_input_ids=TARGET[:2, :4] * 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_length": 11}, ShapeError, "length 11 is beyond max_seq_len 9 and its beginning, 10"),
        ({"max_length": 0}, ConfigError, "max_length 0 is shorter than the prompt of 1 token"),
        ({}, ConfigError, "give either max_length (counting the prompt) or max_new_tokens"),
        ({"max_length": 5, "attention_mask": MASK[:, :4]}, ShapeError, "attention_mask must have the shape of"),
        ({"max_length": 5, "attention_mask": MASK[0]}, ShapeError, "attention_mask must have the shape of"),
        ({"max_length": 5, "num_beams": 2, "temperature": 0.5}, ConfigError, "num_beams > 1 searches"),
        ({"max_length": 5, "eos_token_id": V}, RangeError, "eos_token_id must be an integer in [0, 19), got 19"),
    ],
    ids=str,
)
def test_generating(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        build().generate(SOURCE, **arguments)
    assert message in str(caught.value)
    with pytest.raises(ShapeError, match="sequence of length 10 is longer than max_seq_len 9"):
        build().generate(np.full((1, 10), 4), 5)


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"d_model": 9, "eos_token_id": 40, "vocab_size": 20},
            ["d_model must be divisible by", "eos_token_id must be"],
        ),
        ({"pad_token_id": 2}, ["pad_token_id and eos_token_id must differ, both are 2"]),
        ({"position": "rotary"}, ["position must be one of sinusoidal, learned, none, got 'rotary'"]),
        ({"n_decoder_blocks": 0}, ["n_decoder_blocks must be an integer >= 1, got 0"]),
        ({"n_layers": 2}, ["unknown key 'n_layers'"]),
    ],
    ids=str,
)
def test_configs(settings: dict[str, Any], messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        create_model({"architecture": "seq2seq", **settings})
    assert all(message in str(caught.value) for message in messages)


def test_from_the_settings_of_a_run() -> None:
    shape = {"d_model": 16, "n_blocks": 1, "n_heads": 2, "d_ffn": None, "position": None, "activation": "relu"}
    run = {
        "model": {"architecture": "seq2seq", "max_seq_len": 30, "dropout": 0.3, "transformer": shape},
        "tokenizer": {"vocab_size": 50},
        "training": {"seed": 4, "objective": "translation", "device": "cpu"},
    }
    model = create_model_from_config(run)
    c = model.config
    assert isinstance(model, Seq2Seq) and model.objective == "translation" and model.supports_generation
    assert (c.d_model, c.d_ffn, c.n_blocks, c.max_seq_len, c.dropout, c.seed) == (16, 64, 1, 30, 0.3, 4)
    assert (c.position, c.activation, c.vocab_size) == ("sinusoidal", "relu", 50)

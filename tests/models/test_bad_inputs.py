"""Every input that a model must refuse, and the message it does it with; nothing has changed afterwards."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.errors import (
    BackwardError,
    ConfigError,
    DtypeError,
    NonFiniteError,
    RangeError,
    ShapeError,
    TinygradEduError,
)
from tinygrad_edu.models import CustomTransformerConfig, CustomTransformerWrapper
from tinygrad_edu.optim import AdamW

from .twin import build, draw_ids, values

Model = CustomTransformerWrapper


def with_value(array: np.ndarray, place: tuple[int, ...], value: Any) -> np.ndarray:
    changed = array.copy()
    changed[place] = value
    return changed


IDS = draw_ids(2, 6)
EMPTY_BATCH, EMPTY_TIME = np.zeros((0, 6), np.int64), np.zeros((2, 0), np.int64)

# what, input ids, error, message
BAD_IDS: list[tuple[str, Any, type[Exception], str]] = [
    (
        "negative",
        with_value(IDS, (1, 2), -1),
        RangeError,
        "ids must be in [0, 23), got -1 at position (1, 2)",
    ),
    (
        "too large",
        with_value(IDS, (0, 5), 23),
        RangeError,
        "ids must be in [0, 23), got 23 at position (0, 5)",
    ),
    (
        "first of two",
        with_value(with_value(IDS, (1, 0), 99), (1, 3), -7),
        RangeError,
        "got 99 at position (1, 0)",
    ),
    ("float", IDS.astype(np.float32), DtypeError, "input_ids must be integers, got float32"),
    ("bool", IDS > 3, DtypeError, "input_ids must be integers, got bool"),
    ("one axis", IDS[0], ShapeError, "input_ids: expected (batch, time), got (6,)"),
    ("three axes", IDS[None], ShapeError, "input_ids: expected (batch, time), got (1, 2, 6)"),
    (
        "ragged lists",
        [[1, 2, 3], [4]],
        ShapeError,
        "input_ids: the sequences of a batch must have one length",
    ),
    ("empty batch", EMPTY_BATCH, ShapeError, "input_ids: the batch is empty, got (0, 6)"),
    ("no time", EMPTY_TIME, ShapeError, "input_ids: the batch is empty, got (2, 0)"),
    (
        "too long",
        draw_ids(1, 13),
        ShapeError,
        "input_ids: sequence of length 13 is longer than max_seq_len 12",
    ),
]

CALLS: list[tuple[str, Callable[[Model, Any], Any]]] = [
    ("forward", lambda model, ids: model.forward(ids)),
    ("forward with labels", lambda model, ids: model.forward(ids, labels=ids)),
    ("forward_backward", lambda model, ids: model.forward_backward(ids)),
    ("train_step", lambda model, ids: model.train_step(ids, ids, 0.1)),
    ("token_losses", lambda model, ids: model.token_losses(ids)),
]


def assert_refused(call: Callable[[Model], Any], error: type[Exception], message: str) -> None:
    """The call raises that; weights and optimizer have not moved, and the model can still be trained."""
    model = build()
    before = values(model)
    with pytest.raises(error, match=re.escape(message)) as caught:
        call(model)
    assert isinstance(caught.value, TinygradEduError)
    for name, value in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], value, err_msg=name)
    if model.optimizer is not None:
        assert model.optimizer.state_dict()["step"] == 0
    assert model.train_step(IDS, IDS, 0.01)["loss"] == build().train_step(IDS, IDS, 0.01)["loss"]


@pytest.mark.parametrize(("call_name", "call"), CALLS, ids=[row[0].replace(" ", "-") for row in CALLS])
@pytest.mark.parametrize(
    ("what", "ids", "error", "message"), BAD_IDS, ids=[row[0].replace(" ", "-") for row in BAD_IDS]
)
def test_ids(what: str, ids: Any, error: type[Exception], message: str, call_name: str, call: Any) -> None:
    assert_refused(lambda model: call(model, ids), error, message)


# what, labels, error, message; positions are those of the labels as given, before they are shifted
BAD_LABELS: list[tuple[str, Any, type[Exception], str]] = [
    (
        "too large",
        with_value(IDS, (1, 3), 23),
        RangeError,
        "labels: targets must be in [0, 23) or ignore_index -100, got 23 at position (1, 3)",
    ),
    (
        "negative",
        with_value(IDS, (0, 1), -1),
        RangeError,
        "labels: targets must be in [0, 23) or ignore_index -100, got -1 at position (0, 1)",
    ),
    ("float", IDS.astype(float), DtypeError, "labels must be integers, got float64"),
    (
        "time",
        IDS[:, :5],
        ShapeError,
        "labels must have the shape of input_ids (they are shifted inside), got (2, 5) and (2, 6)",
    ),
    (
        "batch",
        IDS[:1],
        ShapeError,
        "labels must have the shape of input_ids (they are shifted inside), got (1, 6) and (2, 6)",
    ),
    ("one axis", IDS[0], ShapeError, "labels: expected (batch, time), got (6,)"),
]
LABEL_CALLS: list[tuple[str, Callable[[Model, Any, Any], Any]]] = [
    ("forward", lambda model, ids, labels: model.forward(ids, labels=labels)),
    ("forward_backward", lambda model, ids, labels: model.forward_backward(ids, labels)),
    ("train_step", lambda model, ids, labels: model.train_step(ids, labels)),
    ("token_losses", lambda model, ids, labels: model.token_losses(ids, labels)),
]


@pytest.mark.parametrize(("call_name", "call"), LABEL_CALLS, ids=[row[0] for row in LABEL_CALLS])
@pytest.mark.parametrize(
    ("what", "labels", "error", "message"), BAD_LABELS, ids=[row[0].replace(" ", "-") for row in BAD_LABELS]
)
def test_labels(what: str, labels: Any, error: type[Exception], message: str, call_name: str, call: Any) -> None:
    assert_refused(lambda model: call(model, IDS, labels), error, message)


@pytest.mark.parametrize(("call_name", "call"), LABEL_CALLS, ids=[row[0] for row in LABEL_CALLS])
def test_one_token_has_no_next(call_name: str, call: Any) -> None:
    one = IDS[:, :1]
    message = "labels: a sequence of length 1 has no next token to predict; at least 2 are needed"
    assert_refused(lambda model: call(model, one, one), ShapeError, message)
    assert build().forward(one).logits.shape == (2, 1, 23)  # without labels it is fine


@pytest.mark.parametrize("labels", [np.full_like(IDS, -100), with_value(np.full_like(IDS, -100), (slice(None), 0), 3)])
def test_a_step_without_any_label_learns_nothing_and_says_so(labels: np.ndarray) -> None:
    """Also when the only labels are at the first place, which no earlier token predicts."""
    message = "labels: every label of the batch is -100, so there is nothing to learn from"
    assert_refused(lambda model: model.forward_backward(IDS, labels), ConfigError, message)
    assert_refused(lambda model: model.train_step(IDS, labels), ConfigError, message)


def test_evaluating_without_any_label_warns_and_is_zero() -> None:
    model = build()
    with pytest.warns(UserWarning, match="every target is ignore_index; the mean of nothing is taken as 0"):
        output = model.forward(IDS, labels=np.full_like(IDS, -100))
    assert output.loss == 0.0
    losses, correct = model.token_losses(IDS, np.full_like(IDS, -100))
    assert not losses.any()
    assert not correct.any()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((2, 5)), "attention_mask must have the shape of input_ids, (2, 6), got (2, 5)"),
        (np.ones((2, 1, 1, 6)), "attention_mask must have the shape of input_ids, (2, 6), got (2, 1, 1, 6)"),
        (np.ones(6), "attention_mask must have the shape of input_ids, (2, 6), got (6,)"),
    ],
    ids=["time", "four axes", "one axis"],
)
def test_attention_mask(mask: np.ndarray, message: str) -> None:
    assert_refused(lambda model: model.forward(IDS, attention_mask=mask), ShapeError, message)
    assert_refused(lambda model: model.forward_backward(IDS, attention_mask=mask), ShapeError, message)


NAN, INF = math.nan, math.inf
BEYOND = "generate: length {} is beyond max_seq_len 12"
WHOLE = "generate: {} must be an integer >= 0, got {!r}"
TEMPERATURE = "generate: temperature must be a finite number >= 0 (0 is greedy), got {!r}"
TOP_P = "generate: top_p must be in (0, 1] or None, got {!r}"
TOP_K = "generate: top_k must be an integer >= 1 or None, got {!r}"
EOS = "generate: eos_token_id must be an integer in [0, 23), got {!r}"
PROMPT = IDS[:, :4]

# arguments of generate, error, message
BAD_GENERATE: list[tuple[str, Any, dict[str, Any], type[Exception], str]] = [
    ("past the end", PROMPT, {"max_length": 13}, ShapeError, BEYOND.format(13)),
    ("past, new", PROMPT, {"max_new_tokens": 9}, ShapeError, BEYOND.format(13)),
    ("long prompt", draw_ids(1, 13), {"max_length": 14}, ShapeError, BEYOND.format(14)),
    (
        "shorter",
        PROMPT,
        {"max_length": 3},
        ConfigError,
        "generate: max_length 3 is shorter than the prompt of 4 tokens",
    ),
    ("negative", PROMPT, {"max_new_tokens": -1}, ConfigError, WHOLE.format("max_new_tokens", -1)),
    ("fraction", PROMPT, {"max_length": 8.5}, ConfigError, WHOLE.format("max_length", 8.5)),
    ("text", PROMPT, {"max_new_tokens": "5"}, ConfigError, WHOLE.format("max_new_tokens", "5")),
    (
        "no length",
        PROMPT,
        {},
        ConfigError,
        "generate: give either max_length (counting the prompt) or max_new_tokens",
    ),
    ("two lengths", PROMPT, {"max_length": 8, "max_new_tokens": 4}, ConfigError, "give either max_length"),
    ("temperature", PROMPT, {"temperature": -0.1}, ConfigError, TEMPERATURE.format(-0.1)),
    ("temperature nan", PROMPT, {"temperature": NAN}, ConfigError, TEMPERATURE.format(NAN)),
    ("temperature inf", PROMPT, {"temperature": INF}, ConfigError, TEMPERATURE.format(INF)),
    ("temperature text", PROMPT, {"temperature": "hot"}, ConfigError, TEMPERATURE.format("hot")),
    ("top_p zero", PROMPT, {"top_p": 0.0}, ConfigError, TOP_P.format(0.0)),
    ("top_p above", PROMPT, {"top_p": 1.01}, ConfigError, TOP_P.format(1.01)),
    ("top_p nan", PROMPT, {"top_p": NAN}, ConfigError, TOP_P.format(NAN)),
    ("top_p text", PROMPT, {"top_p": "0.9"}, ConfigError, TOP_P.format("0.9")),
    ("top_k negative", PROMPT, {"top_k": -1}, ConfigError, TOP_K.format(-1)),
    ("top_k zero", PROMPT, {"top_k": 0}, ConfigError, TOP_K.format(0)),
    ("top_k fraction", PROMPT, {"top_k": 2.5}, ConfigError, TOP_K.format(2.5)),
    ("eos", PROMPT, {"eos_token_id": 23}, RangeError, EOS.format(23)),
    ("eos negative", PROMPT, {"eos_token_id": -1}, RangeError, EOS.format(-1)),
    ("eos fraction", PROMPT, {"eos_token_id": 1.5}, RangeError, EOS.format(1.5)),
    ("seed", PROMPT, {"seed": -1}, ConfigError, "seed must be an integer >= 0 or None, got -1"),
    ("empty prompt", EMPTY_TIME, {}, ShapeError, "generate: the prompt is empty, got (2, 0)"),
    ("empty batch", EMPTY_BATCH, {}, ShapeError, "generate: the prompt is empty, got (0, 6)"),
    ("empty list", [], {}, ShapeError, "generate: the prompt is empty"),
    ("ragged", [[1, 2], [3]], {}, ShapeError, "input_ids: the sequences of a batch must have one length"),
    ("float ids", PROMPT * 1.0, {}, DtypeError, "input_ids must be integers, got float64"),
    (
        "three axes",
        PROMPT[None],
        {},
        ShapeError,
        "input_ids: expected (batch, time) or (time,), got (1, 2, 4)",
    ),
    (
        "id -1",
        with_value(PROMPT, (1, 0), -1),
        {},
        RangeError,
        "ids must be in [0, 23), got -1 at position (1, 0)",
    ),
    (
        "id V",
        with_value(PROMPT, (0, 3), 23),
        {},
        RangeError,
        "ids must be in [0, 23), got 23 at position (0, 3)",
    ),
    (
        "id V, nothing new",
        with_value(PROMPT, (0, 3), 23),
        {"max_length": 4},
        RangeError,
        "got 23 at position (0, 3)",
    ),
]


@pytest.mark.parametrize(
    ("what", "prompt", "arguments", "error", "message"),
    BAD_GENERATE,
    ids=[row[0].replace(" ", "-") for row in BAD_GENERATE],
)
def test_generate(what: str, prompt: Any, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    if "length" not in what and not {"max_length", "max_new_tokens"} & set(arguments):
        arguments = {"max_length": 8, **arguments}
    assert_refused(lambda model: model.generate(prompt, **arguments), error, message)


# -- numbers that are not finite ---------------------------------------------------------------------


@pytest.mark.parametrize("reference", [False, True], ids=["kernels", "textbook"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("where", ["token_embedding.weight", "blocks.1.linear1.weight", "norm.bias"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_not_finite_stop_the_step(where: str, value: float, dtype: str, reference: bool) -> None:
    model = build(dtype=dtype)
    model.optimizer = AdamW(model)
    with np.errstate(invalid="ignore"):
        parameter = dict(model.model.named_parameters())[where]
        parameter.data.reshape(-1)[parameter.size // 2] = value
        before = values(model)
        ids = np.tile(np.arange(12), (2, 1))  # so that every row of the table up to the changed one is read
        message = "the loss is (nan|inf); the weights were not updated"
        mode = tg.reference_ops() if reference else tg.use("cpu")
        with mode, pytest.raises(NonFiniteError, match=message):
            model.train_step(ids, ids, 0.1)
    for name, weight in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], weight, err_msg=name)
    assert model.optimizer.state_dict()["step"] == 0
    assert not any(layer._saved for layer in model.layers()), "memory of the broken step is still held"


def test_a_gradient_that_is_not_finite_stops_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss with a broken gradient: it must neither be clipped nor applied."""
    model = build()
    model.optimizer = AdamW(model)
    before = values(model)
    inner = model.features_backward

    def broken(dx: Any) -> None:
        inner(dx)
        model.model.blocks[1].linear1.bias.grad[3] = NAN
        model.model.blocks[0].norm1.bias.grad[3] = INF

    monkeypatch.setattr(model, "features_backward", broken)
    with pytest.raises(
        NonFiniteError, match="the gradient norm is nan; first at parameter 'model.blocks.1.linear1.bias'"
    ):
        model.train_step(IDS, IDS, 0.1)
    for name, weight in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], weight, err_msg=name)
    assert model.optimizer.state_dict()["step"] == 0


@pytest.mark.parametrize("options", [{}, {"do_sample": False}, {"top_k": 3}, {"top_p": 0.5}])
def test_generating_from_weights_that_are_not_finite_is_an_error(options: dict[str, Any]) -> None:
    model = build()
    model.model.norm.weight.data[0] = NAN
    with pytest.raises(NonFiniteError, match="generate: the logits of the next token are not finite"):
        model.generate(PROMPT, 8, **options)


# -- the contract of forward and backward ------------------------------------------------------------


def test_backward_needs_a_forward() -> None:
    model = build()
    with pytest.raises(BackwardError, match="CustomTransformerWrapper.backward: no forward to go back through"):
        model.backward()
    model.forward(IDS, labels=IDS)
    model.backward()
    with pytest.raises(BackwardError, match="was backward called twice"):
        model.backward()


def test_backward_without_labels_needs_a_gradient() -> None:
    model = build()
    model.forward(IDS)
    with pytest.raises(ConfigError, match="forward had no labels, so dlogits must be given"):
        model.backward()


def test_training_under_inference_is_an_error() -> None:
    model = build()
    before = values(model)
    with tg.inference(), pytest.raises(BackwardError, match=r"did forward run under tg.inference\(\)"):
        model.train_step(IDS, IDS, 0.1)
    for name, weight in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], weight, err_msg=name)


@pytest.mark.parametrize("rate", [-0.1, NAN, INF])
def test_learning_rate(rate: float) -> None:
    message = f"AdamW: learning_rate must be a finite number >= 0, got {rate!r}"
    assert_refused(lambda model: model.train_step(IDS, IDS, rate), ConfigError, message)


@pytest.mark.parametrize("limit", [0, -1.0, NAN])
def test_clip_norm(limit: float) -> None:
    model = build()
    model.clip_norm = limit
    before = values(model)
    with pytest.raises(ConfigError, match=f"max_norm must be > 0, got {limit!r}"):
        model.train_step(IDS, IDS)
    for name, weight in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], weight, err_msg=name)


def test_a_model_for_cuda_without_cuda_says_what_is_missing() -> None:
    if tg.backend.cuda_available():
        pytest.skip("this machine has a GPU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy itself warns where it finds no CUDA
        with pytest.raises(tg.errors.DeviceError, match="device 'cuda' is not available: CuPy"):
            build(device="cuda")
        assert tg.backend.current_device() == "cpu"
        assert CustomTransformerConfig(device="auto").get_device() == "cpu"


# -- the config --------------------------------------------------------------------------------------

BAD_CONFIG: list[tuple[dict[str, Any], str]] = [
    ({"vocab_size": 0}, "vocab_size must be an integer >= 1, got 0"),
    ({"vocab_size": 10.0}, "vocab_size must be an integer >= 1, got 10.0"),
    ({"n_blocks": True}, "n_blocks must be an integer >= 1, got True"),
    ({"max_seq_len": "256"}, "max_seq_len must be an integer >= 1, got '256'"),
    ({"d_model": 10, "n_heads": 4}, "d_model must be divisible by n_heads, got 10 and 4"),
    ({"d_model": 12, "n_heads": 4, "position": "rotary"}, "position rotary needs an even head width, got 3"),
    ({"dropout": 1.0}, "dropout must be a number in [0, 1), got 1.0"),
    ({"dropout": -0.1}, "dropout must be a number in [0, 1), got -0.1"),
    ({"dropout": NAN}, "dropout must be a number in [0, 1), got nan"),
    ({"eps": -1.0}, "eps must be a number in [0, inf), got -1.0"),
    ({"init_std": INF}, "init_std must be a number in [0, inf), got inf"),
    ({"position": "rotory"}, "position must be one of learned, sinusoidal, rotary, none, got 'rotory'."),
    ({"position": "rotory"}, "Did you mean 'rotary'?"),
    ({"norm_placement": None}, "norm_placement must be one of pre, post, got None"),
    ({"activation": "gelo"}, "got 'gelo'. Did you mean 'gelu'?"),
    ({"device": "gpu"}, "device must be one of cpu, cuda, auto, got 'gpu'"),
    ({"dtype": "float16"}, "dtype must be one of float32, float64, got 'float16'"),
    ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ({"tied_head": "no"}, "tied_head must be True or False, got 'no'"),
    ({"bias": 1}, "bias must be True or False, got 1"),
]


@pytest.mark.parametrize(
    ("settings", "message"), BAD_CONFIG, ids=["-".join(row[0]) + f"-{i}" for i, row in enumerate(BAD_CONFIG)]
)
def test_config(settings: dict[str, Any], message: str) -> None:
    for make in (lambda: CustomTransformerConfig(**settings), lambda: CustomTransformerWrapper(settings)):
        with pytest.raises(ConfigError, match=re.escape(message)):
            make()


def test_all_mistakes_of_a_config_are_told_at_once() -> None:
    wrong = {"vocab_size": -1, "n_heads": 0, "dropout": 2, "position": "x", "seed": 1.5, "dmodel": 64}
    with pytest.raises(ConfigError) as caught:
        CustomTransformerWrapper(wrong)
    lines = str(caught.value).split("\n  ")
    assert lines[0] == "CustomTransformerConfig:"
    assert sorted(line.split()[0] for line in lines[1:]) == [
        "dropout",
        "n_heads",
        "position",
        "seed",
        "unknown",
        "vocab_size",
    ]
    assert "unknown key 'dmodel'. Did you mean 'd_model'?" in lines

"""Memory that is foretold, beside memory that is taken."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.backend import outline, reference_ops
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.models import BaseLanguageModel, create_model
from tinygrad_edu.models.footprint import MemoryFootprint
from tinygrad_edu.optim import SGD, Adam, AdamW

GPT2 = {"architecture": "gpt2", "vocab_size": 500, "n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 512}
BERT = {
    "architecture": "bert", "vocab_size": 500, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 512,
}  # fmt: skip
CUSTOM = {"architecture": "custom_transformer", "vocab_size": 500, "d_model": 128, "n_blocks": 3, "d_ffn": 512,
          "max_seq_len": 512}  # fmt: skip
SEQ2SEQ = {**CUSTOM, "architecture": "seq2seq", "n_blocks": 2}
LSTM, GRU, RNN = (
    {"architecture": name, "vocab_size": 200, "hidden_size": 128, "num_layers": 2} for name in ("lstm", "gru", "rnn")
)
CASES: list[tuple[dict[str, Any], int, int]] = [
    (GPT2, 8, 64),
    ({**GPT2, "n_embd": 256, "n_layer": 2, "n_inner": 512}, 4, 128),
    ({**GPT2, "vocab_size": 5000}, 4, 64),  # here the head is the worst moment
    ({**GPT2, "n_layer": 8, "checkpointing": True}, 8, 64),
    ({**GPT2, "dtype": "float64", "n_layer": 2}, 4, 64),
    (BERT, 8, 64),
    ({**BERT, "hidden_size": 256, "num_hidden_layers": 2}, 4, 128),
    ({**BERT, "vocab_size": 5000, "tie_word_embeddings": False}, 4, 64),
    ({**BERT, "num_hidden_layers": 8, "checkpointing": True}, 8, 64),
    (CUSTOM, 8, 64),
    ({**CUSTOM, "n_blocks": 6, "d_ffn": 256}, 2, 256),
    ({**CUSTOM, "norm_placement": "post", "position": "rotary"}, 8, 64),
    ({**CUSTOM, "activation": "relu", "dropout": 0.1, "tied_head": False, "vocab_size": 3000}, 8, 64),
    ({**CUSTOM, "activation": "tanh"}, 8, 64),
    (SEQ2SEQ, 8, 64),
    ({**SEQ2SEQ, "n_blocks": 5, "checkpointing": True}, 8, 64),
    (LSTM, 16, 64),
    ({**LSTM, "hidden_size": 256, "num_layers": 1}, 32, 32),
    ({**LSTM, "embedding_size": 64}, 16, 64),
    ({**LSTM, "bidirectional": True, "objective": "masked_lm"}, 16, 64),
    ({**LSTM, "vocab_size": 3000, "dropout": 0.1}, 16, 64),
    (GRU, 16, 64),
    ({**GRU, "num_layers": 4, "embedding_size": 64}, 16, 64),
    (RNN, 32, 64),
    ({**RNN, "bidirectional": True, "objective": "masked_lm"}, 32, 64),
]


def case_id(case: tuple[dict[str, Any], int, int]) -> str:
    settings, batch, time = case
    base = {"gpt2": GPT2, "bert": BERT, "custom_transformer": CUSTOM, "seq2seq": SEQ2SEQ}
    base |= {"lstm": LSTM, "gru": GRU, "rnn": RNN}
    own = base[settings["architecture"]]
    changes = [f"{key}={value}" for key, value in settings.items() if own.get(key) != value]
    return "-".join([settings["architecture"], *changes, f"{batch}x{time}"])


def step(model: BaseLanguageModel, batch: int, time: int) -> None:
    ids = np.random.default_rng(0).integers(0, model.vocab_size, (batch, time))
    model.train_step(ids, ids)


def measured(settings: dict[str, Any], batch: int, time: int, optimizer: Any = AdamW) -> tuple[int, int]:
    """Bytes that a model holds between two steps, and at the worst moment of one."""
    first = create_model(settings)
    first.optimizer = optimizer(first)
    step(first, batch, time)  # compiles what is not compiled yet
    del first
    gc.collect()
    tracemalloc.start()
    try:
        model = create_model(settings)
        model.optimizer = optimizer(model)
        step(model, batch, time)
        gc.collect()
        tracemalloc.reset_peak()
        between, _ = tracemalloc.get_traced_memory()
        step(model, batch, time)
        return between, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def foretold(settings: dict[str, Any], batch: int, time: int, optimizer: Any = "adamw") -> MemoryFootprint:
    with outline():
        model = create_model(settings)
    return model.get_memory_footprint(batch, time, optimizer)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_within_ten_percent_of_what_is_measured(case: tuple[dict[str, Any], int, int]) -> None:
    footprint = foretold(*case)
    between, peak = measured(*case)
    kept = footprint.parameters + footprint.gradients + footprint.optimizer
    assert kept == pytest.approx(between, rel=0.05)
    assert footprint.total == pytest.approx(peak, rel=0.1)
    assert footprint.activations == pytest.approx(peak - kept, rel=0.1)


def test_without_kernels_there_are_more_arrays_at_work() -> None:
    case = ({**GPT2, "n_layer": 2}, 4, 64)
    fast = foretold(*case)
    with reference_ops():
        footprint = foretold(*case)
        _, peak = measured(*case)
    assert footprint.activations > 1.1 * fast.activations
    assert footprint.total == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    ("name", "make", "arrays"),
    [
        ("adamw", AdamW, 2),
        ("adam", Adam, 2),
        ("sgd", SGD, 0),
        (None, SGD, 0),
    ],
)
def test_what_the_optimizer_keeps(name: str | None, make: Any, arrays: int) -> None:
    footprint = foretold(GPT2, 2, 16, name)
    between, _ = measured(GPT2, 2, 16, make)
    assert footprint.optimizer == arrays * footprint.parameters
    assert footprint.parameters * (2 + arrays) == pytest.approx(between, rel=0.05)


def test_an_optimizer_says_itself_what_it_keeps() -> None:
    model = create_model(GPT2)
    weights = model.flat.data.nbytes
    for optimizer, arrays in ((SGD(model, lr=0.1, momentum=0.9), 1), (SGD(model, lr=0.1), 0), (AdamW(model), 2)):
        assert model.get_memory_footprint(1, 8, optimizer).optimizer == arrays * weights


def test_it_takes_no_memory_to_know() -> None:
    tracemalloc.start()
    footprint = foretold({"architecture": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25}, 8, 1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert footprint.parameters == pytest.approx(4 * 1_557_611_200, rel=1e-3)
    assert footprint.total > 50e9
    assert peak < 16e6


def test_an_outline_says_what_the_model_says() -> None:
    assert foretold(BERT, 4, 32) == create_model(BERT).get_memory_footprint(4, 32)


def test_checkpointing_is_reflected() -> None:
    deep = {**GPT2, "n_layer": 12}
    plain, kept = foretold(deep, 8, 128), foretold({**deep, "checkpointing": True}, 8, 128)
    assert kept.activations < plain.activations / 4
    assert (kept.parameters, kept.optimizer) == (plain.parameters, plain.optimizer)


def test_it_adds_up_and_can_be_read() -> None:
    footprint = MemoryFootprint(2**20, 2**21, 0, 2**19)
    assert footprint.total == 2**20 + 2**21 + 2**19
    assert footprint.as_dict() == {
        "parameters": 2**20, "gradients": 2**21, "optimizer": 0, "activations": 2**19, "total": footprint.total,
    }  # fmt: skip
    assert str(footprint) == (
        "parameters 1.0 MiB, gradients 2.0 MiB, optimizer 0.0 MiB, activations 0.5 MiB, total 3.5 MiB"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "batch_size must be an integer >= 1, got 0"),
        ((2, True), "seq_len must be an integer >= 1, got True"),
        ((2, 2.0), "seq_len must be an integer >= 1, got 2.0"),
        ((2, 513), "seq_len 513 is longer than max_seq_len 512"),
        ((2, 8, "adamm"), r"optimizer must be one of adamw, adam, sgd, .*got 'adamm'. Did you mean 'adam"),
        ((2, 8, 3), "optimizer must be one of .*got 3"),
    ],
)
def test_questions_that_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with outline():
        model = create_model(GPT2)
    with pytest.raises(ConfigError, match=message):
        model.get_memory_footprint(*arguments)

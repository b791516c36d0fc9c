"""Models without values: the shapes are there, the memory is not."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import tinygrad_edu as tg
from tinygrad_edu.backend import Generator, is_outline, outline
from tinygrad_edu.layers import Linear
from tinygrad_edu.models import GPT2, BertForMaskedLM, CustomTransformerWrapper, LSTMLanguageModel


def test_a_generator_draws_nothing() -> None:
    generator = Generator(3)
    before = generator.get_state()
    with outline():
        assert is_outline()
        normal, uniform = generator.normal(1000, 1000), generator.uniform(7, dtype="float64")
    assert not is_outline()
    assert (normal.shape, normal.dtype, uniform.dtype) == ((1000, 1000), np.float32, np.float64)
    assert normal.strides == (0, 0)
    assert generator.get_state() == before


@pytest.mark.parametrize("kind", [GPT2, BertForMaskedLM, CustomTransformerWrapper, LSTMLanguageModel])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_names_shapes_and_types_are_those_of_the_model(kind: type, dtype: str) -> None:
    config = {"vocab_size": 300, "dtype": dtype}
    small = {
        LSTMLanguageModel: {"hidden_size": 24},
        GPT2: {"n_layer": 2, "n_embd": 24},
        BertForMaskedLM: {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 40},
    }
    config |= small.get(kind, {})
    whole = kind(config)
    with outline():
        model = kind(config)
    wanted = [(name, p.shape, p.dtype, p.decay) for name, p in whole.named_parameters()]
    assert [(name, p.shape, p.dtype, p.decay) for name, p in model.named_parameters()] == wanted
    model.flatten()
    model.load_state_dict(whole.state_dict())
    ids = np.arange(10).reshape(2, 5)
    with whole.evaluating(), model.evaluating():
        np.testing.assert_array_equal(model.forward(ids).logits, whole.forward(ids).logits)


def test_a_model_that_would_fit_into_no_memory_has_an_outline() -> None:
    tracemalloc.start()
    with outline():
        model = GPT2({"vocab_size": 10**9, "n_embd": 1200, "n_layer": 3})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.num_parameters() > 10**12
    assert peak < 2**22


def test_moving_and_casting_it_takes_no_memory_either() -> None:
    with outline():
        layer = Linear(10**5, 10**5).astype("float64").to("cpu")
    assert layer.weight.dtype == np.float64
    assert layer.weight.data.strides == (0, 0)


def test_outside_nothing_has_changed() -> None:
    with tg.backend.outline(), pytest.raises(ValueError):
        raise ValueError
    assert Linear(3, 2, generator=Generator(0)).weight.data.strides == (12, 4)

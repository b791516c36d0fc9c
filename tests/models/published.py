"""Models that ``transformers`` makes, with random weights, and what they give: the other side of the exchange."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.models import BaseLanguageModel
from tinygrad_edu.models.exchange import EXCHANGES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
logging.getLogger("transformers").setLevel(logging.ERROR)  # it explains at length what it loads
transformers.utils.logging.disable_progress_bar()

GPT2: dict[str, Any] = {
    "vocab_size": 37, "n_positions": 14, "n_embd": 12, "n_layer": 2, "n_head": 3,
    "bos_token_id": None, "eos_token_id": 36,
}  # fmt: skip
BERT: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 14,
}  # fmt: skip
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "gpt2": [
        {},
        {"n_inner": 17, "activation_function": "relu"},
        {"tie_word_embeddings": False, "activation_function": "gelu"},
        {"vocab_size": 5, "n_embd": 7, "n_head": 1, "n_layer": 1, "eos_token_id": None},
        {"layer_norm_epsilon": 0.1, "activation_function": "silu", "n_head": 12},
        {"activation_function": "tanh", "n_layer": 3},
    ],
    "bert": [
        {},
        {"hidden_act": "relu", "type_vocab_size": 3, "pad_token_id": 5},
        {"tie_word_embeddings": False, "hidden_act": "gelu_new"},
        {"vocab_size": 5, "hidden_size": 7, "num_attention_heads": 1, "num_hidden_layers": 1, "intermediate_size": 9},
        {"layer_norm_eps": 0.1, "hidden_act": "silu", "num_attention_heads": 12, "pad_token_id": None},
        {"hidden_act": "tanh", "num_hidden_layers": 3, "intermediate_size": 12},
    ],
}
CASES = [(name, changes) for name, variants in VARIANTS.items() for changes in variants]


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    name, changes = case
    return "-".join([name, *(f"{key}={value}" for key, value in changes.items())])


def theirs(name: str, dtype: str = "float64", seed: int = 0, **changes: Any) -> Any:
    """A model of transformers whose every parameter, norms and biases too, is far from its start."""
    torch.manual_seed(seed)
    if name == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**GPT2, **changes}))
    else:
        model = transformers.BertForMaskedLM(transformers.BertConfig(**{**BERT, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.to(getattr(torch, dtype)).eval()


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def by_their_names(model: BaseLanguageModel, what: str = "grad") -> dict[str, np.ndarray]:
    """Our gradients (or values) by their names and in their layout."""
    ours = {name: getattr(parameter, what) for name, parameter in model.named_parameters()}
    return EXCHANGES[model.model_type].to_theirs(model, ours)


def batch(name: str, vocab: int, segments: int = 2, length: int = 9, seed: int = 3) -> dict[str, np.ndarray]:
    """Ids and labels, some of them not counted; of BERT segments as well."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, vocab, (3, length))
    labels = ids.copy()
    labels[0, 4:6] = labels[2, 8] = -100
    inputs = {"input_ids": ids, "labels": labels}
    if name == "bert":
        inputs["labels"] = np.where(rng.random(ids.shape) < 0.5, rng.integers(0, vocab, ids.shape), -100)
        inputs["token_type_ids"] = rng.integers(0, segments, ids.shape)
    return inputs


def run_theirs(model: Any, inputs: dict[str, np.ndarray], **more: Any) -> Any:
    """Their output, with their gradients accumulated.

    Their causal loss casts to float32 on its way; in float64 it is computed here, of their logits.
    """
    output = model(**{name: torch.tensor(value) for name, value in inputs.items()}, **more)
    if model.config.model_type == "gpt2" and output.logits.dtype == torch.float64:
        labels = torch.tensor(inputs["labels"])[:, 1:]
        output.loss = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels.flatten())
    output.loss.backward()
    return output


def assert_close(ours: Any, wanted: Any, dtype: str, what: str) -> None:
    wanted = wanted.detach().numpy()
    if dtype == "float64":
        scale = max(1.0, float(np.abs(wanted).max(initial=0)))
        np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-12 * scale, err_msg=what)
    else:
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(wanted), msg=lambda text: f"{what}: {text}")


def assert_gradients(model: BaseLanguageModel, other: Any, dtype: str = "float64") -> None:
    """Every gradient of theirs is ours, and there are no others."""
    ours = by_their_names(model)
    wanted = {name: parameter.grad for name, parameter in other.named_parameters()}
    wanted = {name: grad for name, grad in wanted.items() if grad is not None}
    ours = {name: grad for name, grad in ours.items() if name in wanted or np.any(grad)}
    if not model.config.tie_word_embeddings:
        ours.pop("cls.predictions.bias", None)  # a second name, which their untied model never reads
    assert set(ours) == set(wanted)
    for name, gradient in wanted.items():
        assert_close(ours[name], gradient, dtype, name)

"""GPT-2 and BERT against ``transformers``: logits, loss, every gradient and what is in between, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinygrad_edu.models import create_model, from_pretrained
from tinygrad_edu.models.exchange import EXCHANGES, Layout

from .published import (
    BERT,
    CASES,
    GPT2,
    assert_close,
    assert_gradients,
    batch,
    by_their_names,
    case_id,
    run_theirs,
    saved,
    theirs,
    torch,
    transformers,
)

AUTO = {"gpt2": transformers.AutoModelForCausalLM, "bert": transformers.BertForMaskedLM}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_logits_loss_and_every_gradient(case: tuple[str, dict[str, Any]], dtype: str, tmp_path: Path) -> None:
    name, changes = case
    other = theirs(name, dtype, **changes)
    model = from_pretrained(saved(other, tmp_path))
    assert model.model_type == name
    assert str(next(model.parameters()).dtype) == dtype
    inputs = batch(name, model.vocab_size)
    wanted = run_theirs(other, inputs)
    output = model.forward(**inputs)
    model.backward()
    assert_close(output.logits, wanted.logits, dtype, "logits")
    assert output.loss == pytest.approx(wanted.loss.item(), rel=1e-12 if dtype == "float64" else 1e-6)
    assert_gradients(model, other, dtype)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_the_step_that_never_holds_the_logits_has_the_same_gradients(name: str, tmp_path: Path) -> None:
    other = theirs(name)
    model = from_pretrained(saved(other, tmp_path))
    inputs = batch(name, model.vocab_size)
    wanted = run_theirs(other, inputs)
    assert model.forward_backward(**inputs) == pytest.approx(wanted.loss.item(), rel=1e-12)
    assert_gradients(model, other)


MASKS = {
    "right": [[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7],
    "left": [[1] * 9, [0] * 3 + [1] * 6, [0] * 7 + [1] * 2],
    "holes": [[1, 0, 1, 1, 0, 1, 1, 1, 0], [1] * 9, [0, 0, 1, 0, 1, 1, 0, 1, 1]],
}


@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_padding(name: str, where: str, tmp_path: Path) -> None:
    other = theirs(name)
    model = from_pretrained(saved(other, tmp_path))
    mask = np.array(MASKS[where])
    inputs = {**batch(name, model.vocab_size), "attention_mask": mask}
    # What stands at padding counts for nothing; nor does what a causal model predicts from there.
    counted = mask.astype(bool)
    counted[:, 1:] &= mask[:, :-1].astype(bool) | (name == "bert")
    inputs["labels"] = np.where(counted, inputs["labels"], -100)
    wanted = run_theirs(other, inputs)
    output = model.forward(**inputs)
    model.backward()
    assert_close(output.logits[mask == 1], wanted.logits[torch.tensor(mask) == 1], "float64", "logits")
    assert output.loss == pytest.approx(wanted.loss.item(), rel=1e-12)
    assert_gradients(model, other)


def test_segments_and_positions_given(tmp_path: Path) -> None:
    other = theirs("bert", type_vocab_size=3)
    model = from_pretrained(saved(other, tmp_path))
    inputs = batch("bert", 37, segments=3)
    inputs["position_ids"] = np.random.default_rng(5).integers(0, 14, (3, 9))
    wanted = run_theirs(other, inputs)
    output = model.forward(**inputs)
    model.backward()
    assert_close(output.logits, wanted.logits, "float64", "logits")
    assert_gradients(model, other)
    plain = {name: inputs[name] for name in ("input_ids", "labels")}
    counted = np.arange(9)[None].repeat(3, axis=0)
    first, second = model.forward(**plain), model.forward(**plain, token_type_ids=counted * 0, position_ids=counted)
    np.testing.assert_allclose(first.logits, second.logits, rtol=1e-13)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_hidden_states_and_attentions(name: str, tmp_path: Path) -> None:
    other = theirs(name)
    other.set_attn_implementation("eager")  # the others never hold the weights
    model = from_pretrained(saved(other, tmp_path))
    inputs = batch(name, model.vocab_size)
    inputs["attention_mask"] = np.array(MASKS["right"])
    wanted = run_theirs(other, inputs, output_hidden_states=True, output_attentions=True)
    output = model.forward(**inputs, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == len(wanted.hidden_states) == 3
    assert len(output.attentions) == len(wanted.attentions) == 2
    for ours, hidden in zip(output.hidden_states, wanted.hidden_states, strict=True):
        assert_close(ours, hidden, "float64", "hidden states")
    for ours, weights in zip(output.attentions, wanted.attentions, strict=True):
        assert_close(ours, weights, "float64", "attention weights")
    model.clear_saved()


def test_the_pooler(tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = transformers.BertForPreTraining(transformers.BertConfig(**BERT)).double().eval()
    model = from_pretrained(saved(other, tmp_path), add_pooling_layer=True)
    inputs = batch("bert", 37)
    del inputs["labels"]
    wanted = other.bert(**{name: torch.tensor(value) for name, value in inputs.items()})
    sequence, pooled = model.bert(inputs["input_ids"], token_type_ids=inputs["token_type_ids"])
    assert_close(sequence, wanted.last_hidden_state, "float64", "sequence")
    assert_close(pooled, wanted.pooler_output, "float64", "pooled")
    rng = np.random.default_rng(2)
    dsequence, dpooled = rng.normal(size=sequence.shape), rng.normal(size=pooled.shape)
    torch.autograd.backward(
        [wanted.last_hidden_state, wanted.pooler_output], [torch.tensor(dsequence), torch.tensor(dpooled)]
    )
    model.bert.backward(dsequence, dpooled)
    ours = by_their_names(model)
    for name, parameter in other.bert.named_parameters():
        assert_close(ours[f"bert.{name}"], parameter.grad, "float64", name)


# -- the other way -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.parametrize("shards", [False, True])
def test_transformers_loads_what_we_save(case: tuple[str, dict[str, Any]], shards: bool, tmp_path: Path) -> None:
    name, changes = case
    model = create_model({"architecture": name, **(GPT2 if name == "gpt2" else BERT), **changes, "dtype": "float64"})
    rng = np.random.default_rng(4)
    for parameter in model.parameters():
        parameter.data += rng.normal(scale=0.3, size=parameter.shape)
    folder = model.save_pretrained(tmp_path / "model", max_shard_size=2000 if shards else "1GB")
    assert (folder / "model.safetensors.index.json").exists() is shards
    other, found = AUTO[name].from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    other.eval()
    inputs = batch(name, model.vocab_size)
    wanted = run_theirs(other, inputs)
    model.eval()
    output = model.forward(**inputs)
    model.backward()
    assert_close(output.logits, wanted.logits, "float64", "logits")
    assert_gradients(model, other)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_is_byte_for_byte(name: str, tied: bool, tmp_path: Path) -> None:
    other = theirs(name, "float32", tie_word_embeddings=tied)
    ours = from_pretrained(saved(other, tmp_path / "theirs"))
    again = AUTO[name].from_pretrained(ours.save_pretrained(tmp_path / "ours"))
    assert again.config.to_diff_dict() == {**other.config.to_diff_dict(), "dtype": "float32"}
    for (key, value), (known, wanted) in zip(again.state_dict().items(), other.state_dict().items(), strict=True):
        assert key == known
        if key == "cls.predictions.bias" and not tied:
            continue  # their untied model reads cls.predictions.decoder.bias alone
        assert torch.equal(value, wanted), key


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_settings_left_out_mean_what_they_mean_there(name: str) -> None:
    other = (transformers.GPT2Config if name == "gpt2" else transformers.BertConfig)()
    ours = create_outline(name).config
    exchange = EXCHANGES[name]
    for setting, value in ours.get().items():
        if setting not in (*exchange.own, "dtype"):
            wanted = getattr(other, setting)
            assert exchange.defaults.get(setting, value) == wanted, setting


def create_outline(name: str) -> Any:
    from tinygrad_edu.backend import outline

    with outline():
        return create_model({"architecture": name})


# -- that these tests can fail --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layout", "wrong"),
    [
        ("gpt2", Layout.TRANSPOSED, lambda theirs: theirs[0].T.copy().reshape(theirs[0].shape).T),
        ("bert", Layout.STACKED, lambda theirs: np.concatenate([theirs[0], theirs[2], theirs[1]])),
        ("bert", Layout.STACKED, lambda theirs: np.concatenate([theirs[1], theirs[0], theirs[2]])),
    ],
    ids=["no transpose", "k and v swapped", "q and k swapped"],
)
def test_a_wrong_layout_is_noticed(
    name: str, layout: Layout, wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = theirs(name)
    saved(other, tmp_path)
    right = Layout.ours
    monkeypatch.setattr(Layout, "ours", lambda self, parts: wrong(parts) if self is layout else right(self, parts))
    model = from_pretrained(tmp_path)
    inputs = batch(name, model.vocab_size)
    wanted = run_theirs(other, inputs)
    output = model.forward(**inputs)
    with pytest.raises(AssertionError):
        assert_close(output.logits, wanted.logits, "float64", "logits")
    model.clear_saved()


def test_a_padding_row_that_learns_is_noticed(tmp_path: Path) -> None:
    other = theirs("bert", pad_token_id=5)
    model = from_pretrained(saved(other, tmp_path))
    model.bert.word_embeddings.padding_idx = None
    inputs = batch("bert", 37)
    inputs["input_ids"][0, :3] = 5
    run_theirs(other, inputs)
    model.forward_backward(**inputs)
    with pytest.raises(AssertionError, match="word_embeddings"):
        assert_gradients(model, other)

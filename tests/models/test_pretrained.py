"""Folders of models: what is read from published ones, what is refused and how, and that saving is all or nothing."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tinygrad_edu.errors import CheckpointError, ConfigError
from tinygrad_edu.models import (
    GPT2,
    BaseLanguageModel,
    BertForMaskedLM,
    CustomTransformerWrapper,
    available_architectures,
    create_model,
    from_pretrained,
)
from tinygrad_edu.models.exchange import folder as folder_module

SMALL: dict[str, dict[str, Any]] = {
    "custom_transformer": {"vocab_size": 30, "d_model": 12, "n_heads": 2, "d_ffn": 20, "n_blocks": 2, "max_seq_len": 8},
    "gpt2": {"vocab_size": 30, "n_embd": 12, "n_head": 2, "n_layer": 2, "n_positions": 8},
    "bert": {
        "vocab_size": 30, "hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 20, "max_position_embeddings": 8,
    },
    "lstm": {"vocab_size": 30, "hidden_size": 10, "num_layers": 2},
    "gru": {"vocab_size": 30, "hidden_size": 10, "embedding_size": 6},
    "rnn": {
        "vocab_size": 30, "hidden_size": 10, "nonlinearity": "relu", "objective": "masked_lm", "bidirectional": True,
    },
    "seq2seq": {"vocab_size": 30, "d_model": 12, "n_heads": 2, "d_ffn": 20},
}  # fmt: skip


def build(name: str, seed: int = 3, **changes: Any) -> BaseLanguageModel:
    settings = {**SMALL.get(name, {"vocab_size": 30}), **changes}
    return create_model({"architecture": name, **settings, "seed": seed})


def values(model: BaseLanguageModel) -> dict[str, np.ndarray]:
    return {name: parameter.data.copy() for name, parameter in model.named_parameters()}


def assert_same(first: BaseLanguageModel, second: BaseLanguageModel) -> None:
    one, two = values(first), values(second)
    assert list(one) == list(two)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return dict(safetensors.numpy.load_file(folder / "model.safetensors"))


def put(folder: Path, arrays: dict[str, np.ndarray], **config: Any) -> Path:
    """Write weights as others do, without our digest, and change some settings."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    if config:
        document = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**document, **config}))
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    return build("gpt2").save_pretrained(tmp_path / "gpt2")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return build("bert").save_pretrained(tmp_path / "bert")


# -- every architecture ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", available_architectures())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_architecture_comes_back(name: str, dtype: str, tmp_path: Path) -> None:
    model = build(name, dtype=dtype)
    model.save_pretrained(tmp_path / "model")
    again = from_pretrained(tmp_path / "model")
    assert type(again) is type(model)
    assert {**again.config.get(), "seed": 3} == model.config.get()
    assert_same(model, again)
    assert not again.training
    assert_same(type(model).from_pretrained(tmp_path / "model"), model)


@pytest.mark.parametrize("name", available_architectures())
def test_what_comes_back_can_be_trained(name: str, tmp_path: Path) -> None:
    model = build(name)
    again = from_pretrained(model.save_pretrained(tmp_path / "model"))
    ids = np.random.default_rng(0).integers(0, 30, (3, 7))
    first = again.train_step(ids, ids)["loss"]
    for _ in range(5):
        last = again.train_step(ids, ids, 1e-2)["loss"]
    assert last < first
    assert again.flat.holds(again)


def test_a_model_that_was_cast_is_saved_as_it_is(tmp_path: Path) -> None:
    model = build("gpt2").astype("float64")
    again = from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert str(next(again.parameters()).dtype) == "float64"
    assert_same(model, again)


def test_settings_can_be_overridden(gpt2: Path) -> None:
    model = from_pretrained(gpt2, attn_pdrop=0.25, seed=11, dtype="float64", checkpointing=True)
    assert (model.config.attn_pdrop, model.config.seed, model.config.checkpointing) == (0.25, 11, True)
    assert str(next(model.parameters()).dtype) == "float64"


def test_the_base_class_takes_any_and_a_class_its_own(gpt2: Path, bert: Path) -> None:
    assert type(BaseLanguageModel.from_pretrained(bert)) is BertForMaskedLM
    assert type(GPT2.from_pretrained(gpt2)) is GPT2

    class Mine(GPT2):
        pass

    assert type(Mine.from_pretrained(gpt2)) is Mine
    with pytest.raises(CheckpointError, match="model of type 'bert', and GPT2 is of type 'gpt2'"):
        GPT2.from_pretrained(bert)
    with pytest.raises(CheckpointError, match="of type 'custom_transformer'"):
        CustomTransformerWrapper.from_pretrained(bert)


def test_nothing_is_drawn_for_weights_that_are_read(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygrad_edu.backend import Generator, is_outline

    draw = Generator.normal

    def refuse(self: Generator, *shape: int, **more: Any) -> Any:
        assert is_outline()
        return draw(self, *shape, **more)

    monkeypatch.setattr(Generator, "normal", refuse)
    from_pretrained(gpt2)


# -- files as they were published ------------------------------------------------------------------------------


def test_gpt2_without_prefix_and_with_masks(gpt2: Path) -> None:
    wanted = from_pretrained(gpt2)
    arrays = {name.removeprefix("transformer."): array for name, array in weights_of(gpt2).items()}
    for block in range(2):
        arrays[f"h.{block}.attn.bias"] = np.tril(np.ones((1, 1, 8, 8), "float32"))
        arrays[f"h.{block}.attn.masked_bias"] = np.array(-1e4, "float32")
    assert_same(from_pretrained(put(gpt2, arrays)), wanted)


def test_gpt2_with_its_tied_head_written_out(gpt2: Path) -> None:
    wanted = from_pretrained(gpt2)
    arrays = weights_of(gpt2)
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    assert_same(from_pretrained(put(gpt2, arrays)), wanted)
    del arrays["transformer.wte.weight"]  # the table under the head's name alone
    assert_same(from_pretrained(put(gpt2, arrays)), wanted)


def test_gpt2_with_another_head_is_not_taken_for_tied(gpt2: Path) -> None:
    arrays = weights_of(gpt2)
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"] + 1
    put(gpt2, arrays)
    with pytest.raises(CheckpointError, match=r"different: lm_head.weight .* tie_word_embeddings=False"):
        from_pretrained(gpt2)
    model = from_pretrained(gpt2, tie_word_embeddings=False)
    np.testing.assert_array_equal(model.head_weight.data, arrays["lm_head.weight"])


def old_bert(folder: Path) -> dict[str, np.ndarray]:
    """As google's own checkpoints were once converted: gamma and beta, a pooler, the sentence task, duplicates."""
    arrays = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in weights_of(folder).items()
    }
    rng = np.random.default_rng(1)
    for name, shape in {
        "bert.pooler.dense.weight": (12, 12),
        "bert.pooler.dense.bias": (12,),
        "cls.seq_relationship.weight": (2, 12),
        "cls.seq_relationship.bias": (2,),
    }.items():
        arrays[name] = rng.normal(size=shape).astype("float32")
    arrays["bert.embeddings.position_ids"] = np.arange(8)[None]
    arrays["cls.predictions.decoder.weight"] = arrays["bert.embeddings.word_embeddings.weight"]
    arrays["cls.predictions.decoder.bias"] = arrays["cls.predictions.bias"]
    return arrays


def test_bert_as_it_was_published(bert: Path) -> None:
    wanted = from_pretrained(bert)
    arrays = old_bert(bert)
    assert_same(from_pretrained(put(bert, arrays)), wanted)
    model = from_pretrained(bert, add_pooling_layer=True)
    np.testing.assert_array_equal(model.bert.pooler.dense.weight.data, arrays["bert.pooler.dense.weight"])


def test_a_pooler_is_kept_where_it_was_asked_for(tmp_path: Path) -> None:
    model = build("bert", add_pooling_layer=True)
    again = from_pretrained(model.save_pretrained(tmp_path / "model"))
    assert again.config.add_pooling_layer
    assert_same(model, again)


def test_bert_without_its_head(bert: Path) -> None:
    whole = from_pretrained(bert)
    arrays = {name.removeprefix("bert."): a for name, a in weights_of(bert).items() if not name.startswith("cls.")}
    put(bert, arrays)
    with pytest.raises(CheckpointError, match=r"missing: cls.predictions.bias \(30,\)") as caught:
        from_pretrained(bert)
    assert "new_head=True" in str(caught.value)
    assert str(caught.value).count("missing:") == 5
    model = from_pretrained(bert, new_head=True, seed=5)
    for name, array in values(model).items():
        if name.startswith("bert."):
            np.testing.assert_array_equal(array, values(whole)[name])
    assert 0.01 < model.transform.weight.data.std() < 0.03
    assert not np.any(model.decoder_bias.data)


def test_half_a_head_is_no_missing_head(bert: Path) -> None:
    arrays = weights_of(bert)
    del arrays["cls.predictions.transform.dense.weight"]
    put(bert, arrays)
    with pytest.raises(CheckpointError, match="missing: cls.predictions.transform.dense.weight") as caught:
        from_pretrained(bert, new_head=True)
    assert "draws one" not in str(caught.value)


def bfloat16_file(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write `arrays` cut to bfloat16; the values that are left."""
    header, payload, kept = {}, b"", {}
    for name, array in arrays.items():
        upper = (np.ascontiguousarray(array).view(np.uint32) >> 16).astype("<u2")
        place = [len(payload), len(payload) + upper.nbytes]
        header[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": place}
        payload += upper.tobytes()
        kept[name] = np.array([struct.unpack(">f", struct.pack(">HH", int(bits), 0))[0] for bits in upper.reshape(-1)])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + payload)
    return kept


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_becomes_float32(half: str, gpt2: Path) -> None:
    arrays = weights_of(gpt2)
    if half == "float16":
        arrays = {name: array.astype("float16") for name, array in arrays.items()}
        put(gpt2, arrays, dtype=half)
    else:
        arrays = bfloat16_file(gpt2 / "model.safetensors", arrays)
    model = from_pretrained(gpt2)
    table = model.get_input_embeddings().weight.data
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table.reshape(-1), arrays["transformer.wte.weight"].reshape(-1).astype("float32"))


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_float64_is_kept_where_the_config_says_so(key: str, gpt2: Path) -> None:
    arrays = {name: array.astype("float64") * 1.1 for name, array in weights_of(gpt2).items()}
    document = json.loads((gpt2 / "config.json").read_text())
    del document["dtype"]
    (gpt2 / "config.json").write_text(json.dumps(document))
    assert str(next(from_pretrained(put(gpt2, arrays)).parameters()).dtype) == "float32"
    model = from_pretrained(put(gpt2, arrays, **{key: "float64"}))
    np.testing.assert_array_equal(model.get_input_embeddings().weight.data, arrays["transformer.wte.weight"])


def test_shards(tmp_path: Path) -> None:
    model = build("bert")
    folder = model.save_pretrained(tmp_path / "model", max_shard_size="2KB")
    files = sorted(path.name for path in folder.iterdir())
    number = len(files) - 2
    assert number > 3
    shards = [f"model-{i:05d}-of-{number:05d}.safetensors" for i in range(1, number + 1)]
    assert files == ["config.json", *shards, "model.safetensors.index.json"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in values(model).values())
    assert set(index["weight_map"].values()) == {name for name in files if name.startswith("model-")}
    for name in set(index["weight_map"].values()):
        held = safetensors.numpy.load_file(folder / name)
        assert len(held) == 1 or sum(array.nbytes for array in held.values()) <= 2000
        assert all(index["weight_map"][key] == name for key in held)
    assert_same(from_pretrained(folder), model)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(7, 7), ("7", 7), ("200MB", 200 * 10**6), ("1.5 kb", 1500), ("2GiB", 2 * 2**30), ("1KiB", 1024)],
)
def test_sizes(size: int | str, wanted: int) -> None:
    assert folder_module.parse_size(size) == wanted


@pytest.mark.parametrize("size", [0, -1, True, 2.5, "", "MB", "5 parsecs", "-3MB", "0GB", None])
def test_sizes_that_are_none(size: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_shard_size must be a number of bytes, or text .*, got "):
        build("gru").save_pretrained(tmp_path / "model", max_shard_size=size)
    assert not any(tmp_path.iterdir())


# -- config.json ------------------------------------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        from_pretrained(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        from_pretrained(tmp_path / "file")


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no config.json, so this is no folder of a model"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config.json: not readable as JSON"),
        ("[1]", r"config.json: expected a JSON object, got list"),
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ("{}", r"model_type None is unknown; available are .*gpt2"),
        ('{"model_type": "gtp2"}', r"model_type 'gtp2' is unknown; available are .*Did you mean 'gpt2'\?"),
        ('{"model_type": ["gpt2"]}', "is unknown"),
        ('{"model_type": "llama"}', "model_type 'llama' is unknown; available are"),
    ],
)
def test_configs_that_are_none(text: str, message: str, gpt2: Path) -> None:
    (gpt2 / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(gpt2)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "is True there, and only False is computed here"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False there, and only True"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("gpt2", {"activation_function": "mish"}, "activation_function must be one of gelu_new, .*got 'mish'"),
        ("gpt2", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("gpt2", {"auto_map": {"AutoModel": "mine.Model"}}, "auto_map"),
        ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("gpt2", {"n_head": 5}, "n_embd must be divisible by n_head, got 12 and 5"),
        ("gpt2", {"n_layer": "2"}, "n_layer must be an integer >= 1, got '2'"),
        ("gpt2", {"eos_token_id": [1, 2]}, "eos_token_id must be an integer"),
        ("bert", {"is_decoder": True}, "is_decoder is True there"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key' there"),
        ("bert", {"pad_token_id": 30}, "pad_token_id must be below vocab_size 30, got 30"),
    ],
)
def test_what_is_not_computed_here(name: str, settings: dict[str, Any], message: str, request: Any) -> None:
    folder = request.getfixturevalue(name)
    with pytest.raises(ConfigError, match=message):
        from_pretrained(put(folder, weights_of(folder), **settings))


def test_all_mistakes_of_a_config_at_once(gpt2: Path) -> None:
    put(gpt2, weights_of(gpt2), scale_attn_weights=False, n_layer=0, activation_function="x")
    with pytest.raises(ConfigError) as caught:
        from_pretrained(gpt2, n_heads=3)
    message = str(caught.value)
    for part in ("unknown setting 'n_heads'. Did you mean 'n_head'?", "scale_attn_weights", "n_layer", "activation"):
        assert part in message


def test_one_end_of_text_in_a_list(gpt2: Path) -> None:
    assert from_pretrained(put(gpt2, weights_of(gpt2), eos_token_id=[7])).config.eos_token_id == 7


# -- weights ----------------------------------------------------------------------------------------------------


def test_all_mistakes_of_the_weights_at_once(gpt2: Path) -> None:
    arrays = weights_of(gpt2)
    del arrays["transformer.ln_f.bias"]
    arrays["transformer.h.0.attn.c_attn.weight"] = arrays["transformer.h.0.attn.c_attn.weight"].T
    arrays["transformer.h.1.mlp.c_fc.bias"] = arrays["transformer.h.1.mlp.c_fc.bias"].astype("int8")
    arrays["transformer.h.2.ln_1.weight"] = np.ones(12, "float32")
    put(gpt2, arrays)
    with pytest.raises(CheckpointError) as caught:
        from_pretrained(gpt2)
    message = str(caught.value)
    for part in (
        "do not fit GPT2",
        "missing: transformer.ln_f.bias (12,)",
        "misshapen: transformer.h.0.attn.c_attn.weight expected (12, 36), got (36, 12)",
        "wrong type: transformer.h.1.mlp.c_fc.bias expected float16, bfloat16, float32 or float64, got int8",
        "unexpected: transformer.h.2.ln_1.weight",
    ):
        assert part in message


def test_a_name_twice(bert: Path) -> None:
    arrays = weights_of(bert)
    arrays["bert.embeddings.LayerNorm.gamma"] = arrays["bert.embeddings.LayerNorm.weight"]
    with pytest.raises(CheckpointError, match="twice: .*are the same array"):
        from_pretrained(put(bert, arrays))


def test_sizes_beyond_all_memory_are_refused_before_anything_is_made(gpt2: Path) -> None:
    put(gpt2, weights_of(gpt2), vocab_size=10**12)
    with pytest.raises(CheckpointError, match=r"transformer.wte.weight expected \(1000000000000, 12\), got \(30, 12\)"):
        from_pretrained(gpt2)


def test_no_weights(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"there is no model.safetensors and no model.safetensors.index.json$"):
        from_pretrained(gpt2)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"])
def test_pickles_are_never_opened(name: str, gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    (gpt2 / name).write_bytes(b"\x80\x04cos\nsystem\n(S'touch exploded'\ntR.")
    with pytest.raises(CheckpointError, match=r"not read here.*AutoModel.from_pretrained\(folder\).save_pretrained"):
        from_pretrained(gpt2)
    assert not (gpt2 / "exploded").exists()
    if name == "pytorch_model.bin":
        with pytest.raises(CheckpointError, match="a pickle, and reading one can run any code"):
            from_pretrained(gpt2)


def damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        file.write_bytes(change(file.read_bytes()))

    return apply


def header_of(text: bytes, payload: bytes = b"\0" * 16) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(struct.pack("<Q", len(text)) + text + payload)


DAMAGES = {
    "cut in the middle": damaged(lambda data: data[: len(data) // 2]),
    "one byte short": damaged(lambda data: data[:-1]),
    "one byte more": damaged(lambda data: data + b"\0"),
    "empty": damaged(lambda data: b""),
    "a bit of a weight": damaged(lambda data: data[:-5] + bytes([data[-5] ^ 4]) + data[-4:]),
    "no header": damaged(lambda data: b"hello world"),
    "header beyond the file": damaged(lambda data: struct.pack("<Q", 1 << 50) + data[8:]),
    "sizes beyond the file": header_of(b'{"x":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'),
    "shape against size": header_of(b'{"x":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}}'),
    "unknown type": header_of(b'{"x":{"dtype":"F13","shape":[4],"data_offsets":[0,16]}}'),
    "a type without counterpart": header_of(b'{"x":{"dtype":"F8_E4M3","shape":[16],"data_offsets":[0,16]}}'),
    "a pickle": damaged(lambda data: b"\x80\x04cos\nsystem\n."),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files(name: str, gpt2: Path) -> None:
    DAMAGES[name](gpt2 / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
        from_pretrained(gpt2)


def test_a_folder_where_the_weights_should_be(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").unlink()
    (gpt2 / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="not a regular file"):
        from_pretrained(gpt2)


def test_weights_behind_a_link_as_hubs_keep_them(gpt2: Path, tmp_path: Path) -> None:
    wanted = from_pretrained(gpt2)
    (gpt2 / "model.safetensors").rename(tmp_path / "blob")
    (gpt2 / "model.safetensors").symlink_to(tmp_path / "blob")
    (gpt2 / "config.json").rename(tmp_path / "config-blob")
    (gpt2 / "config.json").symlink_to(tmp_path / "config-blob")
    assert_same(from_pretrained(gpt2), wanted)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return build("gpt2").save_pretrained(tmp_path / "sharded", max_shard_size="4KB")


def test_a_shard_is_absent(sharded: Path) -> None:
    gone = sorted(sharded.glob("model-*"))[1:3]
    for path in gone:
        path.unlink()
    with pytest.raises(CheckpointError) as caught:
        from_pretrained(sharded)
    for path in gone:
        assert f"{path}: missing" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: {}, "weight_map must be an object of names and files"),
        (lambda index: {"weight_map": ["x"]}, "weight_map must be an object"),
        (lambda index: {"weight_map": {"x": 3}}, "weight_map must be an object"),
        (lambda index: {"weight_map": {"x": "../secret.safetensors"}}, "which is no file of this folder"),
        (
            lambda index: {"weight_map": {**index["weight_map"], "more": min(index["weight_map"].values())}},
            "holds no more, though the index says so",
        ),
        (
            lambda index: {"weight_map": {k: v for k, v in index["weight_map"].items() if "wpe" not in k}},
            "holds transformer.wpe.weight, which the index does not say",
        ),
    ],
)
def test_an_index_that_does_not_fit(change: Callable[[Any], Any], message: str, sharded: Path) -> None:
    file = sharded / "model.safetensors.index.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(sharded)


# -- saving is all or nothing -----------------------------------------------------------------------------------


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    model, folder = build("gru"), tmp_path / "model"
    model.save_pretrained(folder)
    before = (folder / "model.safetensors").read_bytes()
    other = build("gru", seed=4)
    with pytest.raises(CheckpointError, match=r"holds 'config.json' already; .*overwrite=True"):
        other.save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    other.save_pretrained(folder, overwrite=True, max_shard_size="1KB")
    assert_same(from_pretrained(folder), other)
    assert not (folder / "model.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_no_part_of_a_model_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="holds 'thesis.tex', which is no part of a saved model"):
        build("gru").save_pretrained(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_and_one_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = build("gru")
    for folder in (tmp_path / "empty", tmp_path / "some" / "where"):
        assert_same(from_pretrained(model.save_pretrained(folder)), model)


def test_links_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a symbolic link; give the folder itself"):
        build("gru").save_pretrained(tmp_path / "link")
    with pytest.raises(CheckpointError, match="is a file; wanted a folder"):
        build("gru").save_pretrained(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be written: "):
        build("gru").save_pretrained(tmp_path / "file" / "below")
    assert not any((tmp_path / "there").iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind here")
def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot be written: Permission denied; nothing was changed"):
            build("gru").save_pretrained(tmp_path / "model")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("at", ["write_file", "encode_arrays", "fsync_folder", "_put_into_place"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_step_leaves_what_was_there(
    at: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = build("gru"), tmp_path / "model"
    model.save_pretrained(folder)

    def fail(*_args: Any, **_more: Any) -> None:
        raise error

    monkeypatch.setattr(folder_module, at, fail)
    message = "No space left on device; nothing was changed" if isinstance(error, OSError) else None
    with pytest.raises(CheckpointError if message else KeyboardInterrupt, match=message):
        build("gru", seed=9).save_pretrained(folder, overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert_same(from_pretrained(folder), model)


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = build("gru"), tmp_path / "model"
    model.save_pretrained(folder)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CheckpointError, match="Input/output error"):
        build("gru", seed=9).save_pretrained(folder, overwrite=True)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert_same(from_pretrained(folder), model)


def test_a_tokenizer_is_saved_beside(tmp_path: Path) -> None:
    from tinygrad_edu.data import load_tokenizer, train_bpe

    tokenizer = train_bpe(["a few words, and a few more"], vocab_size=270)
    folder = build("gpt2", vocab_size=270).save_pretrained(tmp_path / "model", tokenizer=tokenizer)
    assert load_tokenizer(folder).encode("a few") == tokenizer.encode("a few")
    build("gpt2", vocab_size=270).save_pretrained(folder, tokenizer=tokenizer, overwrite=True)
    with pytest.raises(ConfigError, match="tokenizer must have a method save"):
        build("gru").save_pretrained(tmp_path / "other", tokenizer=object())


def test_a_parameter_without_a_row_is_not_lost(tmp_path: Path) -> None:
    from tinygrad_edu.layers import Linear

    model = build("gpt2")
    model.more = Linear(2, 2)
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel has no name for: more.bias, more.weight"):
        model.save_pretrained(tmp_path / "model")
    assert not any(tmp_path.iterdir())


# -- the hub ----------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygrad_edu.data.hub.hub_answers", lambda: False)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["owner/no-such-model", "gpt2-that-is-nowhere"])
def test_a_name_on_the_hub_while_it_cannot_be_reached(name: str) -> None:
    message = rf"there is no folder '{name}' here, the hub cannot be reached, and its client's cache has no such model"
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(name)


@pytest.mark.parametrize("name", ["a/b/c", "./model", "../model", "/nowhere/model", "a b", ""])
def test_what_is_no_name_on_the_hub_asks_nobody(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygrad_edu.data.hub.hub_answers", lambda: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no (folder|config.json)"):
        from_pretrained(name)


def test_a_name_on_the_hub(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, tuple(allow_patterns)))
        return str(gpt2)

    monkeypatch.setattr("tinygrad_edu.data.hub.hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert_same(from_pretrained("owner/model"), from_pretrained(gpt2))
    ((name, patterns),) = asked
    assert name == "owner/model"
    assert not any("bin" in pattern for pattern in patterns)


def test_what_the_hub_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, allow_patterns: list[str]) -> str:
        raise ValueError("401 Client Error:\n  Repository Not Found")

    monkeypatch.setattr("tinygrad_edu.data.hub.hub_answers", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(CheckpointError, match="the hub says: 401 Client Error: Repository Not Found"):
        from_pretrained("owner/model")

"""Settings: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pydantic
import pytest
from hypothesis import given

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.training.config import (
    ModelSection,
    RunConfig,
    TrainingSection,
    config_differences,
    dump_config,
    load_config,
    make_config,
)
from tinygrad_edu.training.yaml_reader import SIZE_LIMIT, parse_yaml, read_yaml


def load(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "c.yaml", overrides)


# -- what is read ----------------------------------------------------------------------------------


def test_file_and_overrides(tmp_path: Path) -> None:
    text = "model:\n  d_model: 64\n  tied_head: false\ndata:\n"
    text += "training:\n  learning_rate: 1.0e-3\n  betas: [0.8, 0.9]\n"
    config = load(tmp_path, text, "training.max_steps=7", "model.d_model=32", "training.eps=1e-6")
    assert (config.model.d_model, config.model.tied_head, config.training.max_steps) == (32, False, 7)
    assert (config.training.learning_rate, config.training.eps, config.training.betas) == (
        1e-3,
        1e-6,
        (0.8, 0.9),
    )
    assert config.data == RunConfig().data


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("training.learning_rate=5e-3", "training", "learning_rate", 5e-3),
        ("training.learning_rate=1", "training", "learning_rate", 1.0),
        ("training.betas=[0.9, 0.99]", "training", "betas", (0.9, 0.99)),
        ("training.clip_norm=null", "training", "clip_norm", None),
        ("training.max_steps=1_000", "training", "max_steps", 1000),
        ("data.dataset=123", "data", "dataset", "123"),
        ("data.dataset=a=b", "data", "dataset", "a=b"),
        ("data.dataset=null", "data", "dataset", "null"),
        ("data.text_column=null", "data", "text_column", None),
        ("data.use_subset=false", "data", "use_subset", False),
        ("model.position=rotary", "model", "position", "rotary"),
        (" training.seed = 3 ", "training", "seed", 3),
    ],
)
def test_overrides(override: str, section: str, name: str, value: object) -> None:
    found = getattr(getattr(make_config({}, [override]), section), name)
    assert found == value and type(found) is type(value)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing\n") == RunConfig()


@given(
    learning_rate=st.floats(1e-300, 1e300),
    seed=st.integers(0, 2**63 - 1),
    dataset=st.text(min_size=1),
    max_steps=st.none() | st.integers(1),
)
def test_a_dumped_config_reads_back_the_same(
    learning_rate: float, seed: int, dataset: str, max_steps: int | None
) -> None:
    training = {"learning_rate": learning_rate, "seed": seed, "max_steps": max_steps}
    config = make_config({"training": training, "data": {"dataset": dataset}})
    document = parse_yaml(dump_config(config))
    assert not document.mistakes
    assert make_config(document.values) == config


def test_sections_can_be_made_in_python() -> None:
    assert RunConfig(training=TrainingSection(max_steps=3)).training.max_steps == 3
    with pytest.raises(pydantic.ValidationError, match="d_model: 128 is not a multiple of n_heads 5"):
        RunConfig(model=ModelSection(n_heads=5))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        RunConfig().training.seed = 1  # type: ignore[misc]


def test_differences() -> None:
    old = make_config({}).model_dump(mode="json")
    new = make_config({}, ["training.seed=1", "training.output_dir=x", "model.d_ffn=4"]).model_dump(mode="json")
    assert config_differences(old, new, ignore=["training.output_dir"]) == [
        "model.d_ffn: null before, 4 now",
        "training.seed: 0 before, 1 now",
    ]
    assert config_differences(old, old) == []


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  d_modle: 3", r"c.yaml, line 2: model.d_modle: unknown key. Did you mean 'd_model'\?"),
        ("model:\n  zzz: 3", r"line 2: model.zzz: unknown key; wanted one of d_model, n_blocks"),
        ("model:\n  batch_size: 3", r"unknown key. Did you mean 'training.batch_size'\?"),
        ("batch_size: 3", r"line 1: batch_size: unknown key. Did you mean 'training.batch_size'\?"),
        ("modle:\n  d_model: 3", r"line 1: modle: unknown key. Did you mean 'model'\?"),
        ("training: 3", r"line 1: training: found 3, wanted keys below it: batch_size"),
        ("training:\n  batch_size: 0", r"line 2: training.batch_size: found 0, wanted at least 1"),
        ("training:\n  batch_size: 8.0", r"training.batch_size: found 8.0, wanted a whole number"),
        ("training:\n  batch_size: true", r"training.batch_size: found true, wanted a whole number"),
        ("training:\n  batch_size: '8'", r'training.batch_size: found "8", wanted a whole number'),
        ("training:\n  batch_size:", r"training.batch_size: found null, wanted a whole number"),
        ("training:\n  learning_rate: .nan", r"training.learning_rate: found NaN, wanted .*finite"),
        ("training:\n  learning_rate: -0.1", r"training.learning_rate: found -0.1, wanted greater than 0"),
        ("training:\n  betas: [0.9, 1.0]", r"line 2: training.betas\[1\]: found 1.0, wanted less than 1"),
        ("training:\n  betas: [0.9]", r"training.betas\[1\]: missing"),
        ("training:\n  betas: 0.9", r"training.betas: found 0.9, wanted a list"),
        ("model:\n  dropout: 1", r"model.dropout: found 1, wanted less than 1"),
        ("model:\n  dropout: .inf", r"model.dropout: found Infinity, wanted"),
        (
            "model:\n  position: rotery",
            r"wanted 'learned', 'sinusoidal', 'rotary' or 'none'. Did you mean 'rotary'\?",
        ),
        ("model:\n  norm_placement: 3", r"model.norm_placement: found 3, wanted 'pre' or 'post'$"),
        ("model:\n  tied_head: 1", r"model.tied_head: found 1, wanted true or false"),
        ("data:\n  dataset: ''", r'data.dataset: found "", wanted text of at least 1 character'),
        ("data:\n  dataset: [a]", r'data.dataset: found \["a"\], wanted text'),
        ("tokenizer:\n  vocab_size: 200", r"tokenizer.vocab_size: found 200, wanted at least 257"),
        (
            "model:\n  d_model: 100\n  n_heads: 3",
            r"line 2: model.d_model: 100 is not a multiple of n_heads 3",
        ),
        (
            "model:\n  n_heads: 128\n  position: rotary",
            r"rotary wants an even d_model / n_heads, found 128 / 128",
        ),
        ("data:\n  max_length: 500", r"line 2: data.max_length: 500 is longer than model.max_seq_len 128"),
        (
            "data:\n  use_subset: true",
            r"data.subset_size: use_subset is true, so a number of documents is wanted",
        ),
        (
            "data:\n  text_column: body",
            r"data.text_column: python-docs has no columns; leave text_column out",
        ),
        ("tokenizer:\n  type: bep", r"line 2: tokenizer.type: 'bep' is neither bpe, nor gpt2, nor a file"),
        ("training:\n  min_learning_rate: 1.0", r"min_learning_rate: 1.0 is above learning_rate 0.001"),
        (
            "training:\n  eval_every: null\n  early_stopping_patience: 3",
            r"line 3: training.early_stopping_patience: 3 evaluations are waited for, but eval_every is null",
        ),
        ("training:\n  label_smoothing: 1.0", r"training.label_smoothing: found 1.0, wanted less than 1"),
        ("training:\n  ema_decay: 0.0", r"training.ema_decay: found 0.0, wanted greater than 0"),
        ("training:\n  gradient_accumulation_steps: 0", r"accumulation_steps: found 0, wanted at least 1"),
        ("training:\n  max_seconds: 0.0", r"training.max_seconds: found 0.0, wanted greater than 0"),
        (
            "training:\n  warmup_steps: 9\n  max_steps: 5",
            r"warmup_steps: 9 is more than max_steps 5; so short a run wants a shorter",
        ),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith("1 mistake in the configuration:\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.max_steps",
            r"override 'training.max_steps': wanted key=value, such as training.max_steps=100",
        ),
        (
            "max_steps=3",
            r"override max_steps=3: unknown key 'max_steps'. Did you mean 'training.max_steps'\?",
        ),
        ("training.epss=1", r"unknown key 'training.epss'. Did you mean 'training.eps'\?"),
        ("training=3", r"override training=3: unknown key 'training'"),
        ("=3", r"override =3: unknown key ''"),
        ("training.seed=-1", r"override training.seed=-1: found -1, wanted at least 0"),
        ("training.seed=x", r'override training.seed=x: found "x", wanted a whole number'),
        ("training.seed=", r'override training.seed=: found "", wanted a whole number'),
        ("data.use_subset=no", r'override data.use_subset=no: found "no", wanted true or false'),
        ("model.position=learnd", r"Did you mean 'learned'\?"),
        ("training.betas=[0.9,x]", r'override training.betas=\[0.9,x\]: found "x", wanted a number'),
        ("training.learning_rate=nan", r"override training.learning_rate=nan: found NaN, wanted"),
        ("model.n_heads=5", r"override model.n_heads=5: model.d_model: 128 is not a multiple of n_heads 5"),
    ],
)
def test_mistakes_in_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({}, [override])
    with pytest.raises(ConfigError, match=r"training.seed=2: training.seed was given before, as training.seed=1"):
        make_config({}, ["training.seed=1", "training.seed=2"])


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = "model:\n  d_model: 130\n  dropout: 2.0\n  dropout: 3.0\ntraining:\n  lr: 1e-3\n  batch_size: no\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, "foo", "training.seed=-1")
    lines = str(caught.value).splitlines()
    assert lines[0] == "9 mistakes in the configuration:"
    for wanted in [
        "line 4: model.dropout: given twice, first on line 3",
        "line 6: training.lr: 1e-3 is text",
        "line 7: training.batch_size: no means false",
        "override 'foo'",
        "line 3: model.dropout: found 2.0",
        "line 6: training.lr: unknown key",
        "line 7: training.batch_size: found false",
        "override training.seed=-1",
        "line 2: model.d_model: 130 is not a multiple of n_heads 4",
    ]:
        assert any(wanted in line for line in lines), wanted


def test_a_rule_waits_for_its_fields(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 mistake") as caught:
        load(tmp_path, "model:\n  d_model: 131\n  n_heads: 0\n")
    assert "multiple" not in str(caught.value)


# -- YAML's traps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "value"),
    [
        ("1e-3", r"1e-3 is text to YAML 1.1, not a number; write 1.0e-3", 1e-3),
        ("1.5e3", r"1.5e3 is text to YAML 1.1, not a number; write 1.5e\+3", 1500.0),
        ("no", r'no means false to YAML 1.1; write false, or "no" if text is meant', False),
        ("On", r'On means true to YAML 1.1; write true, or "On" if text is meant', True),
        ("1:30", r'1:30 is a number to base 60 in YAML 1.1; write "1:30"', "1:30"),
        ("1:30.5", r"to base 60", "1:30.5"),
        ("010", r"010 is an octal, hexadecimal or binary number", "010"),
        ("0x1F", r"write it in decimal", "0x1F"),
        ("2024-01-01", r'is read as a timestamp by YAML 1.1; write "2024-01-01"', "2024-01-01"),
        ("9" * 400, r"a number of 400 digits", 0),
        ("&a 1", r"anchor &a is not allowed; write the value out", 1),
        (
            "!!python/object/apply:os.system [ls]",
            r"tag !!python/object/apply:os.system is not allowed",
            ["ls"],
        ),
        ("!!int '3'", r"tag !!int is not allowed", 3),
        ("{x: 1, x: 2}", r"line 2: key.x: given twice, first on line 2; keep one of them", {"x": 1}),
        ("{1: 2}", r"key '1' is not text; put it in quotes if it is meant", {}),
        ("{[a]: 2}", r"key 'sequence' is not text", {}),
        ("{<<: {x: 1}}", r"merge keys \(<<\) are not allowed", {}),
    ],
)
def test_traps(text: str, message: str, value: object) -> None:
    document = parse_yaml(f"# comment\nkey: {text}", "f.yaml")
    assert len(document.mistakes) == 1
    assert document.mistakes[0].startswith("f.yaml, line 2: ")
    with pytest.raises(ConfigError, match=message):
        raise ConfigError(document.mistakes[0])
    assert document.values == {"key": value}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.0e-3", 1e-3),
        ("0.001", 1e-3),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("1_000", 1000),
        ("true", True),
        ("False", False),
        ("~", None),
        ("'no'", "no"),
        ('"1e-3"', "1e-3"),
        ("'2024-01-01'", "2024-01-01"),
        ("gpt2", "gpt2"),
        ("é", "é"),
        ("-.inf", float("-inf")),
    ],
)
def test_plain_values_are_taken_as_they_look(text: str, value: object) -> None:
    document = parse_yaml(f"key: {text}")
    assert document.mistakes == [] and document.values == {"key": value}
    assert type(document.values["key"]) is type(value)


def test_an_alias_bomb_stays_small() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdef", "bcdefg", strict=False))
    document = parse_yaml(bomb)
    assert len(document.mistakes) == 7 + 12
    assert document.values["g"] == [None, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1", r"line 1: found a sequence, wanted sections like 'training:'"),
        (b"text", r"found a scalar"),
        (b"a: [", r"c.yaml, line 1, column 5: not readable as YAML"),
        (b"a: 1\n  b: 2", r"line 2, column 4: not readable as YAML"),
        (b"\ta: 1", r"line 1, column 1: not readable as YAML: found character '\\t'"),
        (b"a: 1\n---\nb: 2", r"line 2, column 1: not readable as YAML"),
        (b"a: \x00", r"not readable as YAML"),
        (b"a: " + b"[" * 5000, r"nested too deeply"),
        (b"a: " + b"[" * 30 + b"]" * 30, r"line 1: nested too deeply"),
        (b"a: \xff", r"c.yaml: not UTF-8 text: byte 0xff at offset 3"),
        (b"#" * (SIZE_LIMIT + 1), r"1,048,577 bytes long, wanted at most 1,048,576 in a config"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "c.yaml")


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"confg.yaml: no such config file; there is: config.yaml"):
        read_yaml(tmp_path / "confg.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory|Permission denied"):
        read_yaml(tmp_path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(tmp_path / "c.yaml").values == {"a": 1}

"""docs/foundry-settings.md says what is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.training import FoundryConfig, load_config
from tinygrad_edu.training.foundry_sections import ARCHITECTURES
from tinygrad_edu.training.schema import TrainingSection, field_paths, section_type

DOCS = (Path(__file__).parents[2] / "docs" / "foundry-settings.md").read_text(encoding="utf-8")


def rows(schema: Any, section: str, leave_out: set[str]) -> list[str]:
    """The table of a section, and of those in it."""
    lines, inner = [f"| `{section}` | default | |", "|---|---|---|"], []
    for name, about in schema.model_fields.items():
        kind = section_type(about.annotation)
        if kind is not None:
            inner += rows(kind, f"{section}.{name}", set())
        elif name not in leave_out:
            default = "" if about.is_required() else f"`{json.dumps(about.default)}`"
            lines.append(f"| `{name}` | {default} | {about.description} |")
    return ["", *lines, *inner]


def test_every_setting_stands_in_the_tables_with_its_default() -> None:
    known = set(TrainingSection.model_fields)
    wanted: list[str] = []
    for name, about in FoundryConfig.model_fields.items():
        wanted += rows(about.annotation, name, known if name == "training" else set())
    shown = DOCS[DOCS.index("| `model` |") : DOCS.index("## A further architecture")]
    assert [line for line in shown.splitlines() if line.startswith("|")] == [line for line in wanted if line]
    assert sum(line.startswith("| `") for line in wanted) - 7 == len(set(field_paths(FoundryConfig))) - len(known)


def test_the_table_of_architectures() -> None:
    shown = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \|$", DOCS.partition("## Mistakes")[0], flags=re.MULTILINE)
    assert shown == [(n, a.section, ", ".join(f"`{o}`" for o in a.objectives)) for n, a in ARCHITECTURES.items()]


def test_its_example_is_read(tmp_path: Path) -> None:
    example = re.findall(r"```yaml\n(.*?)```", DOCS, flags=re.DOTALL)
    (tmp_path / "c.yaml").write_text(example[0], encoding="utf-8")
    config = load_config(tmp_path / "c.yaml", ["tokenizer.special_tokens=[<pad>,<mask>]"], FoundryConfig)
    assert config.model.rnn is not None and config.model.rnn.hidden_size == 256
    assert config.tokenizer.special_tokens == ("<pad>", "<mask>")


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (
            "model:\n  architecture: lstm\n  rnn:\n    bidirectional: true\n  bert: {}\ndata:\n  max_length: 512\n",
            ["model.rnn.n_layer=3"],
        ),
        ("model_type: gpt2\nn_embd: 64\nn_layer: 2\nlr: 1e-3\nvocab_size: 2000\n", []),
    ],
)
def test_the_mistakes_it_shows_are_told_so(
    text: str, overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config("c.yaml", overrides, FoundryConfig)
    assert f"```\n{caught.value}\n```" in DOCS


def test_its_python_prints_what_it_shows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ((code, output),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", DOCS, flags=re.DOTALL)
    monkeypatch.setitem(ARCHITECTURES, "bigram", ARCHITECTURES["gpt2"])  # so that the example's is taken out again
    exec(compile(code, "foundry-settings.md", "exec", dont_inherit=True), {"__name__": __name__})
    assert capsys.readouterr().out == output

"""docs/training.md says what is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tinygrad_edu.errors import ConfigError
from tinygrad_edu.training.config import load_config
from tinygrad_edu.training.schema import RunConfig

DOCS = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_setting_stands_in_the_table_with_its_default() -> None:
    documented = re.findall(r"^\| `(\w+)` \| (?:`(.*)`|default) \|(.*)\|$", DOCS, flags=re.MULTILINE)
    actual = []
    for section, field in RunConfig.model_fields.items():
        actual.append((section, "", " "))
        for name, about in field.annotation.model_fields.items():  # type: ignore[union-attr]
            actual.append((name, json.dumps(about.default), f" {about.description} "))
    assert documented == actual


def test_the_mistakes_it_shows_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("# a\nmodel:\n  d_modle: 3\n\ntraining:\n  learning_rate: 1e-3\n")
    with pytest.raises(ConfigError) as caught:
        load_config("c.yaml", ["training.seed=-1"])
    assert str(caught.value) in DOCS

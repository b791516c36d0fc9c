"""What README.md says is true: its code runs, its output is what is printed, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def run(code: str) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=env,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_layer_example_passes_and_its_mistake_is_named() -> None:
    example, right, wrong = blocks("python")[0], *blocks("text")
    assert "backward ok" in right
    assert run(example).split() == right.split()  # where lines break depends on the terminal
    assert example.count(".sum(") == 1
    assert run(example.replace(".sum(", ".mean(")).split() == wrong.split()
    assert "WRONG" in wrong


def test_the_model_example_learns_its_text() -> None:
    code = "import tinygrad_edu as tg\nimport numpy as np\n" + blocks("python")[1] + "print(text)"
    expected = re.search(r'`text` is then `(b".*?")`', README)
    assert expected is not None
    assert run(code).strip().replace("'", '"') == expected[1]


def test_the_pictures_example_learns_its_classes() -> None:
    code = "import numpy as np\n" + blocks("python")[2]
    assert float(run(code)) >= 0.9  # by chance 0.5


def test_the_commands_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for script in re.findall(r"python ((?:projects|benchmarks)/\S+?\.py)", README):
        assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("page", ["README.md", "benchmarks/README.md"])
def test_every_link_leads_to_a_file(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    missing = [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]
    assert not missing

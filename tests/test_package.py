"""The public face: what importing loads, how long it takes, what the package offers."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tinygrad_edu as tg

PACKAGE = Path(tg.__file__).parent
ROOT = PACKAGE.parent
# Not even when a room of the library is imported: these load inside the functions that need them.
HEAVY = {
    "numba",
    "cupy",
    "cupyx",
    "matplotlib",
    "datasets",
    "tokenizers",
    "torch",
    "transformers",
    "pandas",
    "pyarrow",
}


def python(code: str) -> str:
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_numpy_and_nothing_heavy():
    loaded = set(python("import sys, tinygrad_edu; print(*{m.partition('.')[0] for m in sys.modules})").split())
    assert "numpy" in loaded
    assert not loaded & (HEAVY | {"pydantic", "typer", "rich", "yaml", "safetensors", "scipy", "threadpoolctl"})


@pytest.mark.slow  # it needs a quiet machine, not much time
def test_importing_is_quick():
    code = "import time; t = time.perf_counter(); import tinygrad_edu; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.5  # 0.08 s were measured on an idle machine


def test_heavy_packages_are_never_imported_at_the_top_of_a_module():
    found = []
    for path in PACKAGE.rglob("*.py"):
        if "kernels" in path.parts:  # loaded at the first op that has a kernel
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            found += [f"{path.relative_to(ROOT)}:{node.lineno} {n}" for n in names if n.partition(".")[0] in HEAVY]
    assert not found


@pytest.mark.parametrize("room", tg._ROOMS)
def test_rooms_load_when_touched(room: str):
    assert python(f"import sys, tinygrad_edu as tg; print('tinygrad_edu.{room}' in sys.modules)") == "False"
    assert python(f"import tinygrad_edu as tg; print(tg.{room}.__name__)") == f"tinygrad_edu.{room}"


def test_dir_and_unknown_names():
    assert set(tg.__all__) <= set(dir(tg))
    with pytest.raises(
        AttributeError, match=r"module 'tinygrad_edu' has no attribute 'layer'\. Did you mean 'layers'\?"
    ):
        _ = tg.layer  # type: ignore[attr-defined]
    assert not hasattr(tg, "no_such_thing")


def test_the_backend_is_at_the_top():
    for name in ("use", "inference", "reference_ops", "namespace"):
        assert getattr(tg, name) is getattr(tg.backend, name)


def test_one_version_for_all():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "tinygrad_edu/__init__.py"
    try:
        assert importlib.metadata.version("tinygrad_edu") == tg.__version__
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is run from a checkout and not installed")


def test_the_doctor_knows_every_core_dependency():
    from tinygrad_edu.doctor.facts import REQUIRED

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(REQUIRED) == sorted(d.partition(">")[0] for d in project["dependencies"])


def test_the_command_line_answers():
    env = dict(os.environ, PYTHONPATH=str(ROOT), COLUMNS="200")
    command = [sys.executable, "-m", "tinygrad_edu"]
    done = subprocess.run([*command, "--version"], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tg.__version__
    done = subprocess.run([*command, "doctr"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such command 'doctr'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_the_user_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from tinygrad_edu import cli

    def fail() -> None:
        raise tg.errors.ConfigError("training.batch_size must be at least 1, got 0")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert capsys.readouterr().err == "error: training.batch_size must be at least 1, got 0\n"

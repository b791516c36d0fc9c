"""Compiled code does not outlive the source that it was made of."""

from __future__ import annotations

import os
import subprocess
import sys

from tinygrad_edu.kernels.cpu.stale import discard_stale_code

SHARED = "import numba\n\n@numba.njit(inline='always')\ndef f(x):\n    return x + {}\n"
LOOP = "import numba\nfrom shared import f\n\n@numba.njit(cache=True)\ndef g(x):\n    return f(x)\n"


def run(folder) -> str:
    code = "from main import g; print(g(1))"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_change_in_one_file_reaches_the_loops_of_another(tmp_path):
    (tmp_path / "shared.py").write_text(SHARED.format(1), encoding="utf-8")
    (tmp_path / "main.py").write_text(LOOP, encoding="utf-8")
    assert discard_stale_code(tmp_path)
    assert run(tmp_path) == "2"
    assert not discard_stale_code(tmp_path), "nothing has changed"
    assert list((tmp_path / "__pycache__").glob("*.nbc")), "compiled code is kept"
    (tmp_path / "shared.py").write_text(SHARED.format(10), encoding="utf-8")
    assert run(tmp_path) == "2", "Numba alone does not notice: the reason for all this"
    assert discard_stale_code(tmp_path)
    assert run(tmp_path) == "11"

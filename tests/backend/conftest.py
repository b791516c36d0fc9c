from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for strict_cupy, which several folders share


@pytest.fixture
def strict_cuda() -> Iterator[Any]:
    """``"cuda"`` is a stand-in for CuPy that refuses whatever CuPy would."""
    import strict_cupy

    with strict_cupy.strict_cuda() as module:
        yield module

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .. import strict_cupy


@pytest.fixture
def strict_cuda() -> Iterator[Any]:
    """``"cuda"`` is a stand-in for CuPy that refuses whatever CuPy would."""
    with strict_cupy.strict_cuda() as module:
        yield module

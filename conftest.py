"""What every test shares: settings before NumPy loads, Hypothesis profiles, tests that need a GPU."""

from __future__ import annotations

import os
import sys

# Two workers share two cores: one thread each for the matrix products. Numba keeps two, so that a race
# between the threads of a parallel kernel has a chance to show. What the user sets counts, as everywhere.
if "PYTEST_XDIST_WORKER" in os.environ and "numpy" not in sys.modules:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")

import tinygrad_edu as tg  # noqa: I001  (before NumPy: it settles the thread pools)

import hypothesis
import pytest

# No deadline: on a shared machine a slow example is no error. The same examples each time, so that `make test` says the
# same to everybody; HYPOTHESIS_PROFILE=explore draws new ones, and more.
hypothesis.settings.register_profile("same", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    if wanted and not tg.backend.cuda_available():
        skip = pytest.mark.skip(reason="needs a CUDA device and CuPy (`tinygrad-edu doctor` says what is missing)")
        for item in wanted:
            item.add_marker(skip)

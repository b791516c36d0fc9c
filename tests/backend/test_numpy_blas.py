"""Which of the BLAS libraries in a process is NumPy's own."""

from __future__ import annotations

import itertools

import pytest
import threadpoolctl

from tinygrad_edu.backend.gemm import numpy_blas

PLACES = {
    "a wheel": ("/env/site-packages/numpy.libs/libscipy_openblas64_-32a4b2a6.so", True),
    "a wheel of macOS": ("/env/numpy/.dylibs/libscipy_openblas64_.dylib", True),
    "the system's": ("/usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblasp-r0.3.21.so", True),
    "SciPy's": ("/home/numpy/env/site-packages/scipy.libs/libscipy_openblas-6cdc3b4a.so", False),
    "SciPy's of macOS": ("/env/scipy/.dylibs/libscipy_openblas.dylib", False),
}
OWN = [name for name, (_, own) in PLACES.items() if own]
OTHER = [name for name, (_, own) in PLACES.items() if not own]


def pool(name: str, api: str = "blas") -> dict[str, str]:
    return {"user_api": api, "filepath": PLACES[name][0], "name": name}


@pytest.mark.parametrize("own, other", list(itertools.product(OWN, OTHER)))
def test_numpys_library_is_told_from_scipys_in_any_order(monkeypatch: pytest.MonkeyPatch, own: str, other: str) -> None:
    for loaded in itertools.permutations([pool(own), pool(other), {"user_api": "openmp", "filepath": "/x/libgomp.so"}]):
        monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda loaded=loaded: list(loaded))
        found = numpy_blas()
        assert found is not None and found["name"] == own


def test_where_none_is_known_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: [pool("a wheel", "openmp")])
    assert numpy_blas() is None

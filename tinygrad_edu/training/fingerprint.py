"""What a run's last bits depend on besides its settings and data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

_PACKAGES = ("numpy", "numba", "cupy-cuda13x", "cupy-cuda12x")


def environment_fingerprint() -> dict[str, Any]:
    """Versions, processor and threads: where these are the same, the same run gives the same bits.

    Sums of floats depend on their order, and the order on the BLAS, the kernels it chose for this
    processor, and the number of threads.
    """
    from .. import __version__
    from ..backend import kernels_enabled
    from ..backend.gemm import numpy_blas

    found: dict[str, Any] = {
        "tinygrad_edu": __version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
    }
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["machine"] = f"{platform.system()} {platform.machine()}"
    found["kernels"] = "fused" if kernels_enabled() else "textbook"
    pool = numpy_blas()
    if pool is None:
        found["blas"] = "unknown to threadpoolctl"
    else:
        found["blas"] = f"{pool['internal_api']} {pool.get('version')} {pool.get('architecture', '')}".strip()
        found["blas threads"] = pool["num_threads"]
    try:
        import numba

        found["numba threads"] = numba.get_num_threads()
    except ImportError:
        pass
    return found


def fingerprint_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """``numpy: 2.3.0 before, 2.4.6 now`` and so on, for what differs."""
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{name}: {before.get(name, 'none')} before, {now.get(name, 'none')} now"
        for name in names
        if before.get(name) != now.get(name)
    ]

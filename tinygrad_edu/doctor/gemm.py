"""The rate of float32 matrix products: here, on one thread, and in fresh processes with other settings.

``python -m tinygrad_edu.doctor.gemm`` measures in its own process and prints JSON; that is how the rate under
another OpenBLAS core type is found, for OpenBLAS settles it as it loads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from .. import machine

SIZE = 1536  # 7 GFLOP: 16 ms at 450 GFLOP/s, and large enough that the rate no longer grows with the size
_BUDGET = 0.5  # seconds of repetitions


@dataclass(frozen=True)
class Rates:
    """Rates in GFLOP/s, float32, the median of several products.

    Attributes
    ----------
    here : float
        In this process, with all its threads.
    one_thread : float or None
        In this process, held to one thread; None where that cannot be done.
    fresh : dict
        In fresh processes, by core type; ``"automatic"`` is what OpenBLAS chooses when nothing is set.
    """

    here: float
    one_thread: float | None = None
    fresh: dict[str, float] = field(default_factory=dict)

    @property
    def expected(self) -> float:
        """The best rate seen on this machine, whatever the settings."""
        return max([self.here, *self.fresh.values()])


def rate(size: int = SIZE, budget: float = _BUDGET) -> float:
    """GFLOP/s of a float32 product of two (size, size) matrices: the median of at least 3 runs.

    Parameters
    ----------
    size : int
    budget : float
        Seconds after which no further run is started.
    """
    import numpy as np

    a = np.ones((size, size), dtype=np.float32)
    b = np.ones((size, size), dtype=np.float32)
    out = np.empty_like(a)
    np.matmul(a, b, out=out)
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < 3 or (time.perf_counter() - begin < budget and len(seconds) < 50):
        start = time.perf_counter()
        np.matmul(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(seconds)[len(seconds) // 2] / 1e9


def measure(size: int = SIZE, budget: float = _BUDGET) -> Rates:
    """All rates. Takes about 6 seconds on two cores."""
    from threadpoolctl import threadpool_limits

    from ..backend.gemm import numpy_blas

    first = rate(size, budget)
    blas = numpy_blas()
    if blas is None:
        return Rates(first)
    with threadpool_limits(limits=1, user_api="blas"):
        one = rate(size, budget)
    fresh = {}
    if blas.get("internal_api") == "openblas":
        for core_type in ["automatic", *_candidates(machine.cpu_info())]:
            found = rate_in_fresh_process(None if core_type == "automatic" else core_type, size, budget)
            if found is not None:
                fresh[core_type] = found
    # Once more at the end: other work on the machine must not pass for a wrong setting here.
    return Rates(max(first, rate(size, budget)), one, fresh)


def _candidates(cpu: machine.CpuInfo) -> list[str]:
    if cpu.has_avx512:
        return ["SkylakeX"]
    return ["Haswell"] if cpu.has_avx2 else []


def rate_in_fresh_process(
    core_type: str | None, size: int = SIZE, budget: float = _BUDGET, timeout: float = 120
) -> float | None:
    """The rate in a new process with `core_type` as ``OPENBLAS_CORETYPE`` (None: unset); None if it fails."""
    environment = dict(os.environ)
    environment.pop("OPENBLAS_CORETYPE", None)
    if core_type is not None:
        environment["OPENBLAS_CORETYPE"] = core_type
    root = str(Path(__file__).resolve().parents[2])  # found even where the package is not installed
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tinygrad_edu.doctor.gemm", str(size), str(budget)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=True)
        return float(json.loads(done.stdout)["rate"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None


if __name__ == "__main__":
    print(json.dumps({"rate": rate(int(sys.argv[1]), float(sys.argv[2]))}))

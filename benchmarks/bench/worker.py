"""What the worker processes of both sides share: answering a job, timing steps, and their own memory.

Standard library only, so that neither side carries the other's weight.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20
Job = Callable[[dict[str, Any]], dict[str, Any]]


def serve(jobs: dict[str, Job]) -> None:
    """Do the job in the JSON file ``sys.argv[1]`` and write its result to the file ``sys.argv[2]``."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = jobs[job["job"]](job)
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


def _status_kib(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), None)


def peak_mib() -> float | None:
    """The largest resident memory this process has had, in MiB; None where the system does not tell.

    On Linux this is VmHWM and not ``ru_maxrss``, in which a new process also inherits its parent's peak.
    """
    kib = _status_kib("VmHWM")
    if kib is not None:
        return kib / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def resident_mib() -> float | None:
    """The resident memory of this process now, in MiB; None outside Linux."""
    kib = _status_kib("VmRSS")
    return None if kib is None else kib / 1024


def growth_mib(step: Callable[[], Any]) -> float | None:
    """The most resident memory that `step` needs at once beyond what there was before, in MiB; None outside Linux.

    The kernel is told to forget the peak so far, which importing a library may have set.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    before = resident_mib()
    step()
    after = peak_mib()
    return None if before is None or after is None else after - before


def time_steps(
    step: Callable[[int], Any], warmup: int, steps: int, block: int, synchronize: Callable[[], None]
) -> dict[str, Any]:
    """Run `step(0), step(1), ...` and time them.

    Parameters
    ----------
    warmup : steps before the clock counts (compilation, caches, allocators)
    steps : timed steps
    block : steps between two looks at the clock, each after `synchronize()`: 1 on a CPU; more on a GPU, where
        a wait after each step would keep the host from running ahead

    Returns
    -------
    ``seconds``, one number a block, each the mean of its steps; ``first_seconds``, the first warm-up step
    """
    first = None
    for index in range(warmup):
        start = time.perf_counter()
        step(index)
        synchronize()
        first = time.perf_counter() - start if first is None else first
    seconds = []
    done = warmup
    while done < warmup + steps:
        count = min(block, warmup + steps - done)
        start = time.perf_counter()
        for index in range(done, done + count):
            step(index)
        synchronize()
        seconds.append((time.perf_counter() - start) / count)
        done += count
    return {"seconds": seconds, "first_seconds": first}


def gemm_rate(multiply: Callable[[], Any], synchronize: Callable[[], None], size: int, budget: float = 0.5) -> float:
    """GFLOP/s of `multiply`, a product of two (size, size) matrices: the median of at least 5 runs."""
    for _ in range(2):
        multiply()
    synchronize()
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < 5 or (time.perf_counter() - begin < budget and len(seconds) < 100):
        start = time.perf_counter()
        multiply()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds) / 1e9


def gemm_size(device: str) -> int:
    """Side of the matrices for the GEMM rate: large enough that the rate no longer grows with it."""
    return 1536 if device == "cpu" else 8192

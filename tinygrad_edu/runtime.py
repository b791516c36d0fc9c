"""Thread pools, the allocator and the cores we may use, settled before NumPy loads.

OpenBLAS, OpenMP and Numba read their settings from the environment once, when they load, so this module
runs first (``import tinygrad_edu`` calls :func:`apply`) and imports nothing but the standard library. A
variable that the user set is never touched. What was set, by whom and why, is in :func:`settings`; what in
the environment costs speed is in :func:`advice`.

What is set, and what it was measured to be worth (2 cores of a Zen 5 EPYC, NumPy 2.4.6, Numba 0.68, medians):

``OMP_WAIT_POLICY=passive``
    Numba's OpenMP threads otherwise spin after each parallel loop while OpenBLAS wants the cores. Five times
    a GEMM (256, 128) @ (128, 128) and an elementwise kernel, in alternation: 40.0 ms without, 0.24 ms with;
    (2048, 256) @ (256, 768): 40 to 44 ms without, 16 to 18 ms with. Numba's ``workqueue`` layer in place of
    ``omp`` was no better, so the layer is left alone.
``GOMP_SPINCOUNT=5000``
    With threads that sleep at once, starting and joining a parallel loop took 50 microseconds; with a spin of
    a thousand turns, 1.4 where loops follow each other. The training step below: 143 ms without, 136 ms with.
    Five thousand reach over the Python between two layers (two cores of a Zen 4, medians of 3 to 5 runs): a token of
    GPT-2 124M took 19.9 ms with a thousand and 18.0 with five, a step of a small LSTM 36 and 34; of small
    transformers the same. 30,000 and 100,000 turns are better still for the token (17 ms), but make the step of a
    transformer 5 and 20% longer, for then the loops' threads hold the cores that BLAS wants.
``OPENBLAS_THREAD_TIMEOUT=16``
    OpenBLAS's own threads spin for 2^26 cycles, some 15 ms, after each product, and hold a core that the next
    parallel loop wants. A training step at 4 blocks, width 256, batch 8 x 256, V 4,096: 174 ms by default,
    143 ms with 16 (4 to 18 are alike within the noise); the attention loops took half the time. The price is
    some 40 microseconds to wake a thread for the next product: the small alternation above takes 0.45 ms.
Allocator (glibc only)
    See :func:`_keep_freed_memory`. ``TINYGRAD_EDU_MALLOC=off`` leaves it as it is.
Thread counts in a container
    A container's CPU quota (``docker run --cpus=2``) is invisible to OpenBLAS and Numba, which start a thread
    for every core of the host and are then throttled. Under a quota of 1 core on 2, five products
    (2048, 256) @ (256, 4096) took 101 ms with two threads and 92 ms with one. Counts are set only where a
    quota is below the number of cores.
``NUMBA_NUM_THREADS``
    Numba does not read ``OMP_NUM_THREADS``. Where the user limits that one, Numba is told the same number.

``OPENBLAS_CORETYPE`` is *not* set: NumPy's OpenBLAS 0.3.23, 0.3.27, 0.3.29 and 0.3.31 each chose their
AVX-512 kernels by themselves on Zen 5, and another choice could take better ones away from a newer Xeon.
Where a user's environment names an older core type (Haswell), GEMM ran at 230 to 250 GFLOP/s instead of 455;
:func:`advice` and ``tinygrad-edu doctor`` say so.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from dataclasses import dataclass
from typing import Literal

from .machine import Cores, CpuInfo, cores, cpu_info

__all__ = [
    "Cores",
    "CpuInfo",
    "Setting",
    "advice",
    "apply",
    "cores",
    "cpu_info",
    "numpy_was_loaded_first",
    "original_environment",
    "settings",
]

_AVX512_CORES = {"skylakex", "cooperlake", "sapphirerapids"}
_AVX2_CORES = {"haswell", "zen"}

numpy_was_loaded_first: bool = "numpy" in sys.modules
"""Whether NumPy was imported before this library, so that its thread pools were already settled."""


@dataclass(frozen=True)
class Setting:
    """One thing that decides how fast arrays are worked on.

    Attributes
    ----------
    name : str
        An environment variable, or ``"malloc"`` for the allocator.
    value : str or None
        What holds now; None where nobody set it.
    source : {"user", "library", "default"}
        Who set it; ``"default"`` where it was left to the system.
    reason : str
        Why the library set it or left it alone.
    """

    name: str
    value: str | None
    source: Literal["user", "library", "default"]
    reason: str


_settings: list[Setting] = []
_original: dict[str, str | None] = {}  # variables that the library set: what they were before


def apply() -> None:
    """Settle the environment of this process. ``import tinygrad_edu`` calls it; further calls do nothing."""
    if _settings:
        return
    if "OMP_WAIT_POLICY" in os.environ:  # a spin count of ours would undo the policy that the user chose
        _note("OMP_WAIT_POLICY", "")
        _note("GOMP_SPINCOUNT", "follows OMP_WAIT_POLICY")
    else:
        _set(
            "OMP_WAIT_POLICY",
            "passive",
            "threads of one pool must not spin while another pool wants the cores",
        )
        _set("GOMP_SPINCOUNT", "5000", "a loop's threads wait some microseconds for the next loop, then they sleep")
    _set(
        "OPENBLAS_THREAD_TIMEOUT",
        "16",
        "OpenBLAS's threads sleep 2^16 cycles after a product, not 2^26, and leave the cores to the loops",
    )
    _limit_threads(cores())
    _note("OPENBLAS_CORETYPE", "OpenBLAS chooses its kernels by the CPU's instruction sets")
    _note("NUMBA_THREADING_LAYER", "Numba takes the first of tbb, omp and workqueue that is installed")
    _settings.append(_keep_freed_memory())


def settings() -> tuple[Setting, ...]:
    """What was settled, by whom, and why."""
    return tuple(_settings)


def original_environment() -> dict[str, str]:
    """A copy of the environment as it was before this library set anything.

    Child processes inherit ``os.environ``. One that must not run under our settings (another framework that
    is timed against this one) is started with ``env=runtime.original_environment()``.
    """
    environment = dict(os.environ)
    for name, before in _original.items():
        if before is None:
            environment.pop(name, None)
        else:
            environment[name] = before
    return environment


def advice() -> list[str]:
    """One line for each thing in the environment that costs speed, with what mends it."""
    lines = []
    if numpy_was_loaded_first:
        lines.append(
            "NumPy was imported before tinygrad_edu, so its thread pools could not be settled: "
            "write `import tinygrad_edu` above `import numpy`."
        )
    problem = core_type_problem(os.environ.get("OPENBLAS_CORETYPE"), cpu_info())
    if problem:
        lines.append(f"{problem}: run `unset OPENBLAS_CORETYPE`.")
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy.lower() == "active":
        lines.append(
            f"OMP_WAIT_POLICY={policy} lets idle threads hold the cores that the matrix products want: "
            "run `unset OMP_WAIT_POLICY`."
        )
    return lines


def core_type_problem(core_type: str | None, cpu: CpuInfo) -> str | None:
    """What is wrong with a value of ``OPENBLAS_CORETYPE`` on this CPU, or None.

    Parameters
    ----------
    core_type : str or None
        The variable's value; None or empty if nobody set it.
    cpu : CpuInfo
    """
    if not core_type or not cpu.features:
        return None
    name = core_type.lower()
    rank = 2 if name in _AVX512_CORES else 1 if name in _AVX2_CORES else 0
    best = 2 if cpu.has_avx512 else 1 if cpu.has_avx2 else 0
    levels = ("SSE or AVX", "AVX2", "AVX-512")
    if rank < best:
        held = f"OPENBLAS_CORETYPE={core_type} holds matrix products to {levels[rank]}"
        return f"{held} on a CPU that has {levels[best]}"
    if rank > best:
        return f"OPENBLAS_CORETYPE={core_type} asks for {levels[rank]}, which this CPU has not, and may crash"
    return None


def _set(name: str, value: str, reason: str) -> None:
    if name in os.environ:
        _settings.append(Setting(name, os.environ[name], "user", "set in the environment, left as it is"))
        return
    _original[name] = None
    os.environ[name] = value
    _settings.append(Setting(name, value, "library", reason))


def _note(name: str, reason: str) -> None:
    value = os.environ.get(name)
    if value is None:
        _settings.append(Setting(name, None, "default", reason))
    else:
        _settings.append(Setting(name, value, "user", "set in the environment, left as it is"))


def _limit_threads(found: Cores) -> None:
    quota_binds = found.usable < found.allowed
    because = f"the container may use {found.quota} of {found.allowed} cores"
    asked = os.environ.get("OMP_NUM_THREADS")
    numba_may_change = "numba" not in sys.modules  # it refuses another number once its threads run
    if asked is not None:
        _note("OMP_NUM_THREADS", "")
        _note("OPENBLAS_NUM_THREADS", "OpenBLAS follows OMP_NUM_THREADS")
        first = re.match(r"\s*([1-9][0-9]*)", asked)  # "4,2" gives one number for each level of nesting
        if first and numba_may_change:
            threads = min(int(first[1]), found.allowed)
            _set("NUMBA_NUM_THREADS", str(threads), "follows OMP_NUM_THREADS, which Numba does not read")
            return
    elif quota_binds:
        _set("OMP_NUM_THREADS", str(found.usable), because)
        _set("OPENBLAS_NUM_THREADS", str(found.usable), because)
    else:
        _note("OMP_NUM_THREADS", "a thread for each core")
        _note("OPENBLAS_NUM_THREADS", "a thread for each core")
    if quota_binds and numba_may_change:
        _set("NUMBA_NUM_THREADS", str(found.usable), because)
    else:
        _note("NUMBA_NUM_THREADS", "a thread for each core")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_MMAP_FROM = 64 << 20
_TRIM_FROM = 512 << 20
_MALLOC_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def _keep_freed_memory() -> Setting:
    """Let glibc keep freed arrays for the next step instead of giving them back to the kernel.

    A training step makes and frees the same arrays again and again. By default glibc returns each to the
    kernel, which must then hand out, and clear, every page anew. Arrays of up to 64 MB now stay in the heap,
    which is trimmed when 512 MB at its top are free. Three float32 arrays made and dropped (``a = 2 * x;
    b = a + x; c = maximum(a, b)``), median time and page faults a round:

    ====== ===================== =====================
    size   default               with this
    ====== ===================== =====================
    1 MB   1.57 ms, 736 faults   0.09 ms, 0 faults
    4 MB   3.2-4.3 ms, 1507      0.36-0.41 ms, 0
    16 MB  7.4-9.4 ms, 1525      3.1-4.5 ms, 0
    50 MB  18.7-23.1 ms, 1611    9.7-11.4 ms, 0
    ====== ===================== =====================

    A training step of the transformer (width 256, 4 blocks, batch 8, T 256) goes from 6,650 page faults to
    none at a vocabulary of 4,096 and from 11,100 to 4 at 50,257; its peak memory stays at 345 and 590 MB.
    What is given up: freed memory returns to the system only when the process ends or 512 MB lie free.
    """
    switch = os.environ.get("TINYGRAD_EDU_MALLOC", "")
    if switch.lower() in ("off", "0", "no"):
        return Setting("malloc", "default", "user", f"TINYGRAD_EDU_MALLOC={switch}")
    for name in _MALLOC_VARIABLES:
        if name in os.environ:
            return Setting("malloc", f"{name}={os.environ[name]}", "user", "set in the environment, left as it is")
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            raise OSError
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, ValueError):  # Windows, macOS, musl
        return Setting("malloc", None, "default", "not glibc, whose allocator alone needs it")
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    for size in (_MMAP_FROM, 32 << 20):  # some versions of glibc refuse more than 32 MB
        if mallopt(_M_MMAP_THRESHOLD, size) and mallopt(_M_TRIM_THRESHOLD, _TRIM_FROM):
            value = f"arrays up to {size >> 20} MB stay in the heap"
            return Setting("malloc", value, "library", "a step reuses its arrays without new page faults")
    return Setting("malloc", None, "default", "glibc refused other thresholds")


def release_freed_memory() -> None:
    """Give the system back what the heap holds of freed memory, as after a model was built; glibc only."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, ValueError):
        return
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    trim(0)

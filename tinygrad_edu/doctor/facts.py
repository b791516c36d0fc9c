"""What is installed, what is in use, and what it runs on: gathered here, judged in ``findings.py``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__, machine, runtime
from . import gemm
from .gpu import Gpu, examine_gpu

REQUIRED = (
    "numpy",
    "numba",
    "tokenizers",
    "datasets",
    "safetensors",
    "pydantic",
    "PyYAML",
    "typer",
    "rich",
    "matplotlib",
    "threadpoolctl",
)
OPTIONAL = ("llvmlite", "torch", "transformers")


@dataclass(frozen=True)
class Blas:
    """The library behind ``@``: its name and version, the kernels it chose, its threads."""

    library: str
    version: str | None = None
    kernels: str | None = None
    threads: int | None = None
    threading_layer: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class NumbaState:
    """Whether Numba compiles, on how many threads and through which layer; `error` says why not."""

    layer: str | None = None
    threads: int | None = None
    jit: bool = True
    error: str | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory: in the machine, free for use, and the container's limit (None without one)."""

    total: int | None = None
    available: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Facts:
    """All that the doctor looks at. Each can be made up, so that the judgement can be tested."""

    version: str = __version__
    python: str = ""
    system: str = ""
    windows: bool = False
    packages: dict[str, str | None] = field(default_factory=dict)
    cpu: machine.CpuInfo = field(default_factory=lambda: machine.CpuInfo("", "", frozenset()))
    cores: machine.Cores = field(default_factory=lambda: machine.Cores(1, 1))
    load: float | None = None
    memory: Memory = Memory()
    environment: dict[str, str] = field(default_factory=dict)
    settings: tuple[runtime.Setting, ...] = ()
    numpy_was_loaded_first: bool = False
    blas: Blas | None = None
    numba: NumbaState = NumbaState()
    gpu: Gpu = field(default_factory=lambda: Gpu("no-cupy"))
    rates: gemm.Rates | None = None

    def as_dict(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        plain = asdict(self)
        # Of hundreds of CPU flags these decide which kernels run.
        told = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512", "amx", "asimd", "sve", "bf16")
        plain["cpu"]["features"] = sorted(f for f in self.cpu.features if f.startswith(told))
        plain["cores"]["usable"] = self.cores.usable
        if self.rates is not None:
            plain["rates"]["expected"] = self.rates.expected
        return plain


def gather(*, measure: bool = True) -> Facts:
    """Look at this machine and this process.

    Parameters
    ----------
    measure : bool
        Whether to measure the rate of matrix products, which takes some seconds and starts processes.
    """
    blas = _blas()  # before Numba and CuPy load libraries of their own
    return Facts(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} ({platform.machine()})",
        windows=sys.platform == "win32",
        packages={name: _installed(name) for name in (*REQUIRED, *OPTIONAL)},
        cpu=machine.cpu_info(),
        cores=machine.cores(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        memory=memory(),
        environment={k: v for k, v in runtime.original_environment().items() if _matters(k)},
        settings=runtime.settings(),
        numpy_was_loaded_first=runtime.numpy_was_loaded_first,
        blas=blas,
        rates=gemm.measure() if measure else None,
        numba=_numba(),
        gpu=examine_gpu(),
    )


def _matters(name: str) -> bool:
    prefixes = ("OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "NUMBA_", "TINYGRAD_EDU_", "CUDA_", "CUPY_")
    return name.startswith(prefixes)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _blas() -> Blas | None:
    from ..backend.gemm import numpy_blas

    info = numpy_blas()
    if info is not None:
        return Blas(
            library=str(info.get("internal_api")),
            version=info.get("version"),
            kernels=info.get("architecture"),
            threads=info.get("num_threads"),
            threading_layer=info.get("threading_layer"),
            path=info.get("filepath"),
        )
    import numpy as np

    # threadpoolctl does not know Apple's Accelerate; NumPy itself says what it was built with.
    try:
        built: Any = np.show_config(mode="dicts")
        name = str(built["Build Dependencies"]["blas"]["name"])
    except (KeyError, TypeError):
        return None
    return None if name in ("none", "auto", "") else Blas(library=name)


def _numba() -> NumbaState:
    try:
        import numba
        from numba.core import config
    except Exception as error:  # an import can fail in many ways; each is told, none may stop the doctor
        return NumbaState(error=f"{type(error).__name__}: {error}")
    if config.DISABLE_JIT:
        return NumbaState(jit=False, threads=int(numba.get_num_threads()))
    try:
        import numpy as np

        def double(x: Any) -> Any:
            y = np.empty_like(x)
            for i in numba.prange(x.size):
                y[i] = 2 * x[i]
            return y

        numba.njit(parallel=True)(double)(np.ones(64, dtype=np.float32))
        return NumbaState(layer=str(numba.threading_layer()), threads=int(numba.get_num_threads()))
    except Exception as error:
        return NumbaState(error=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")


def memory(meminfo: Path = Path("/proc/meminfo"), mount: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Main memory in bytes; None for what the system does not tell."""
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        total = int(fields["MemTotal"].split()[0]) * 1024
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return Memory(total=_total_memory())
    limits = []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limits.append(int((mount / name).read_text()))
        except (OSError, ValueError):  # "max" means no limit
            continue
    limit = min((n for n in limits if n < total), default=None)
    return Memory(total, available, limit)


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None

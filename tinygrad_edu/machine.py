"""The machine: its CPU, and the cores that this process may use. Standard library only, for it runs first."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
AVX2 = frozenset({"avx2", "fma"})


@dataclass(frozen=True)
class CpuInfo:
    """The processor: vendor, model name and the instruction sets that it reports, in Linux's spelling."""

    vendor: str
    model: str
    features: frozenset[str]

    @property
    def has_avx512(self) -> bool:
        """Whether it has the four AVX-512 sets that OpenBLAS's kernels use."""
        return self.features >= AVX512

    @property
    def has_avx2(self) -> bool:
        return self.features >= AVX2


@dataclass(frozen=True)
class Cores:
    """How many cores there are, and how many of them this process may use.

    Attributes
    ----------
    logical : int
        Cores that the operating system shows.
    allowed : int
        Those that this process may run on (``taskset``, batch systems).
    quota : float or None
        The CPU time that the container may use, in cores; None without a limit.
    """

    logical: int
    allowed: int
    quota: float | None = None

    @property
    def usable(self) -> int:
        """Threads that are worth starting: the allowed cores, or the quota rounded up where that is fewer."""
        return self.allowed if self.quota is None else max(1, min(self.allowed, math.ceil(self.quota)))


@cache
def cpu_info() -> CpuInfo:
    """Vendor, model and features of the CPU; empty where the system does not tell.

    NumPy knows the features too, but only once it is loaded.
    """
    if sys.platform == "linux":
        try:
            return parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"))
        except OSError:
            pass
    if sys.platform == "darwin":
        return _cpu_info_macos()
    import platform

    return CpuInfo("", platform.processor() or platform.machine(), frozenset())


def parse_cpuinfo(text: str) -> CpuInfo:
    """The first processor of Linux's ``/proc/cpuinfo`` (x86 and ARM spell its fields differently)."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    flags = fields.get("flags") or fields.get("features") or ""
    vendor = fields.get("vendor_id") or fields.get("cpu implementer") or ""
    return CpuInfo(vendor, fields.get("model name", ""), frozenset(flags.lower().split()))


def _cpu_info_macos() -> CpuInfo:
    import subprocess

    names = ["machdep.cpu.brand_string", "machdep.cpu.features", "machdep.cpu.leaf7_features"]
    values = []
    for name in names:  # one by one: Apple silicon lacks the last two, and sysctl stops at the first it lacks
        try:
            done = subprocess.run(
                ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False
            )
            values.append(done.stdout.strip())
        except (OSError, subprocess.SubprocessError):
            values.append("")
    features = f"{values[1]} {values[2]}".lower().replace("avx1.0", "avx").split()
    return CpuInfo("Apple" if not features else "GenuineIntel", values[0], frozenset(features))


@cache
def cores() -> Cores:
    """The cores of the machine and what this process may use of them."""
    logical = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return Cores(logical, allowed, cpu_quota() if sys.platform == "linux" else None)


def cpu_quota(proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The tightest CPU limit of this process's control groups, in cores; None without one.

    Parameters
    ----------
    proc, mount : Path
        Where the kernel lists the groups and where they are mounted (versions 1 and 2 are both read).
    """
    try:
        groups = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except OSError:
        return None
    limits = []
    for _, controllers, path in (g for g in groups if len(g) == 3):
        if controllers == "":
            limits += [_quota_v2(d) for d in _with_parents(mount, path)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                limits += [_quota_v1(d) for d in _with_parents(mount / name, path)]
    return min((q for q in limits if q is not None), default=None)


def _with_parents(mount: Path, path: str) -> list[Path]:
    """The group's own folder and those above it: a limit on any of them holds."""
    parts = [p for p in path.split("/") if p not in ("", "..")]
    return [mount.joinpath(*parts[:n]) for n in range(len(parts), -1, -1)]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return None if quota <= 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None

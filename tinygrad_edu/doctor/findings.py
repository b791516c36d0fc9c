"""From facts to findings: what is in order, what is slow or wrong, and the line that mends it.

Each check is a pure function of :class:`Facts`, so that a table of made-up machines tests them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from .. import runtime
from .facts import OPTIONAL, Facts

Level = Literal["ok", "note", "slow", "wrong"]

SLOW_BELOW = 0.75  # of the best rate seen here; products measured twice in a row differ by up to a tenth
LITTLE_MEMORY = 1 << 30
_CPU_STILL = "everything runs on the CPU"


@dataclass(frozen=True)
class Finding:
    """One statement about this machine.

    Attributes
    ----------
    level : {"ok", "note", "slow", "wrong"}
    topic : str
        What it is about, in a word or two.
    text : str
        What was found.
    fix : str or None
        The exact line that mends it: for a shell, or for the top of a script.
    """

    level: Level
    topic: str
    text: str
    fix: str | None = None


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they are read."""
    return [finding for check in CHECKS for finding in check(facts)]


def _unset(facts: Facts, name: str) -> str:
    return f"set {name}=" if facts.windows else f"unset {name}"


def _export(facts: Facts, name: str, value: str | int) -> str:
    return f"set {name}={value}" if facts.windows else f"export {name}={value}"


def check_packages(facts: Facts) -> Iterator[Finding]:
    """Every core dependency is installed."""
    missing = [name for name, version in facts.packages.items() if version is None and name not in OPTIONAL]
    if missing:
        fix = f"python -m pip install {' '.join(missing)}"
        yield Finding("wrong", "packages", f"not installed: {', '.join(missing)}", fix)
    else:
        yield Finding("ok", "packages", "all packages that the library needs are installed")


def check_import_order(facts: Facts) -> Iterator[Finding]:
    """The library was imported before NumPy."""
    if facts.numpy_was_loaded_first:
        text = "NumPy was imported before tinygrad_edu, so its thread pools could not be settled"
        yield Finding("slow", "import order", text, "import tinygrad_edu  # above `import numpy`")


def check_blas(facts: Facts) -> Iterator[Finding]:
    """NumPy multiplies matrices with a library that knows this CPU."""
    blas = facts.blas
    if blas is None:
        text = "NumPy was built without a BLAS library and multiplies matrices by plain loops"
        yield Finding("slow", "BLAS", text, "python -m pip install --force-reinstall numpy")
        return
    problem = runtime.core_type_problem(facts.environment.get("OPENBLAS_CORETYPE"), facts.cpu)
    if problem and blas.library == "openblas":
        level: Level = "wrong" if "crash" in problem else "slow"
        yield Finding(level, "BLAS", problem, _unset(facts, "OPENBLAS_CORETYPE"))
        return
    kernels = f", {blas.kernels} kernels" if blas.kernels else ""
    version = f" {blas.version}" if blas.version else ""
    yield Finding("ok", "BLAS", f"{blas.library}{version}{kernels}")


def check_threads(facts: Facts) -> Iterator[Finding]:
    """Each pool runs as many threads as there are cores to use."""
    usable = facts.cores.usable
    pools = [
        ("BLAS", facts.blas.threads if facts.blas else None, "OPENBLAS_NUM_THREADS"),
        ("Numba", facts.numba.threads, "NUMBA_NUM_THREADS"),
    ]
    for pool, threads, variable in pools:
        if threads is None:
            continue
        if threads > usable:
            text = f"{threads} threads on {usable} usable cores"
            yield Finding("slow", f"{pool} threads", text, _export(facts, variable, usable))
        elif threads < usable:
            names = (variable, "OMP_NUM_THREADS")
            by = next((n for n in names if n in facts.environment), None)
            text = f"{threads} of {usable} usable cores" + (f", for {by}={facts.environment[by]}" if by else "")
            fix = _unset(facts, by) if by else _export(facts, variable, usable)
            yield Finding("slow", f"{pool} threads", text, fix)
        else:
            yield Finding("ok", f"{pool} threads", f"{threads}, one for each usable core")


def check_wait_policy(facts: Facts) -> Iterator[Finding]:
    """Idle OpenMP threads sleep rather than spin."""
    policy = facts.environment.get("OMP_WAIT_POLICY", "")
    if policy.lower() == "active":
        text = f"OMP_WAIT_POLICY={policy}: idle threads hold the cores that the matrix products want"
        yield Finding("slow", "idle threads", text, _unset(facts, "OMP_WAIT_POLICY"))


def check_numba(facts: Facts) -> Iterator[Finding]:
    """The fast kernels can be compiled and are in use."""
    numba = facts.numba
    if numba.error:
        text = f"Numba does not work, so the readable ops run in place of the kernels: {numba.error}"
        fix = "python -m pip install --force-reinstall numba"
        yield Finding("slow", "Numba", text, fix)
    elif not numba.jit:
        text = "NUMBA_DISABLE_JIT is set: the kernels run as plain Python"
        yield Finding("slow", "Numba", text, _unset(facts, "NUMBA_DISABLE_JIT"))
    elif numba.layer == "workqueue":
        text = "threading layer workqueue, which stops the process if two Python threads use it at once"
        yield Finding("note", "Numba", text, None if facts.system.startswith("Darwin") else "python -m pip install tbb")
    else:
        yield Finding("ok", "Numba", f"compiles, threading layer {numba.layer}")
    switch = facts.environment.get("TINYGRAD_EDU_KERNELS", "")
    if switch.lower() in ("off", "0", "no"):
        text = f"TINYGRAD_EDU_KERNELS={switch}: the readable ops run in place of the fast kernels"
        yield Finding("slow", "kernels", text, _unset(facts, "TINYGRAD_EDU_KERNELS"))


def check_malloc(facts: Facts) -> Iterator[Finding]:
    """Freed arrays stay in the heap."""
    setting = next((s for s in facts.settings if s.name == "malloc"), None)
    if setting is None or setting.source == "default":
        return
    if setting.source == "library":
        yield Finding("ok", "allocator", str(setting.value))
    else:
        name = setting.reason.partition("=")[0] if "=" in setting.reason else str(setting.value).partition("=")[0]
        text = f"left as it is for {name}; each step pays for fresh pages"
        yield Finding("note", "allocator", text, _unset(facts, name))


def check_memory(facts: Facts) -> Iterator[Finding]:
    """Enough memory is free to train."""
    memory = facts.memory
    free = memory.available
    if free is not None and free < LITTLE_MEMORY:
        text = f"only {free / 2**30:.1f} GiB free; a larger model would be swapped out or killed"
        yield Finding("slow", "memory", text)


def check_rate(facts: Facts) -> Iterator[Finding]:
    """Matrix products run as fast here as anywhere on this machine."""
    rates = facts.rates
    if rates is None:
        return
    share = rates.here / rates.expected
    text = f"{rates.here:.0f} GFLOP/s in float32, {share:.0%} of the best seen here ({rates.expected:.0f})"
    if share >= SLOW_BELOW:
        yield Finding("ok", "matrix products", text)
    else:
        yield Finding("slow", "matrix products", text, _rate_fix(facts))
    threads = facts.blas.threads if facts.blas else None
    if rates.one_thread and threads and threads > 1:
        gain = rates.here / rates.one_thread
        if gain < 0.6 * threads:
            busy = f" (load average {facts.load:.1f})" if facts.load is not None else ""
            text = f"{threads} threads are only {gain:.1f} times as fast as one: the cores are busy{busy}"
            yield Finding("note", "matrix products", text)


def _rate_fix(facts: Facts) -> str | None:
    assert facts.rates is not None
    fresh = facts.rates.fresh
    core_type = facts.environment.get("OPENBLAS_CORETYPE")
    best = max(fresh, key=lambda name: fresh[name], default=None)
    if core_type and best is not None and best.lower() != core_type.lower():
        return _unset(facts, "OPENBLAS_CORETYPE")
    if best not in (None, "automatic") and fresh.get("automatic", 0) < SLOW_BELOW * fresh[str(best)]:
        return _export(facts, "OPENBLAS_CORETYPE", str(best))
    return None  # threads, import order and load have findings of their own


def check_gpu(facts: Facts) -> Iterator[Finding]:
    """CUDA works, or it is said what keeps it from working."""
    gpu = facts.gpu
    if len(gpu.packages) > 1:
        keep = gpu.packages[-1]
        fix = f"python -m pip uninstall -y {' '.join(gpu.packages)} && python -m pip install '{keep}[ctk]'"
        yield Finding("wrong", "GPU", f"{len(gpu.packages)} copies of CuPy: {', '.join(gpu.packages)}", fix)
        return
    yield _GPU_STATES[gpu.state](facts)


def _works(facts: Facts) -> Finding:
    return Finding("ok", "GPU", f"CuPy {facts.gpu.cupy} on {'; '.join(facts.gpu.devices)}")


def _no_cupy(facts: Facts) -> Finding:
    hardware = facts.gpu.hardware
    if hardware is None:
        return Finding("ok", "GPU", f"no NVIDIA GPU and no CuPy; {_CPU_STILL}")
    text = f"there is a GPU ({hardware}) but no CuPy; {_CPU_STILL}"
    return Finding("slow", "GPU", text, f"python -m pip install '{_cupy_for(hardware)}[ctk]'")


def _cupy_does_not_import(facts: Facts) -> Finding:
    package = facts.gpu.packages[0] if facts.gpu.packages else "cupy-cuda13x"
    text = f"CuPy is installed but cannot be imported ({facts.gpu.detail}); {_CPU_STILL}"
    return Finding("wrong", "GPU", text, f"python -m pip install --force-reinstall '{package}[ctk]'")


def _no_device(facts: Facts) -> Finding:
    gpu = facts.gpu
    if gpu.hidden is not None:
        text = f"CUDA_VISIBLE_DEVICES={gpu.hidden!r} hides every GPU; {_CPU_STILL}"
        return Finding("note", "GPU", text, _unset(facts, "CUDA_VISIBLE_DEVICES"))
    text = f"CuPy {gpu.cupy} is installed, but CUDA finds no device ({gpu.detail}); {_CPU_STILL}"
    if gpu.hardware is None:
        return Finding("note", "GPU", text)
    wanted, package = _cupy_for(gpu.hardware), gpu.packages[0] if gpu.packages else ""
    if package and package != wanted:
        fix = f"python -m pip uninstall -y {package} && python -m pip install '{wanted}[ctk]'"
        return Finding("wrong", "GPU", f"{text}. The driver ({gpu.hardware}) is too old for {package}", fix)
    text += f". There is one, though ({gpu.hardware}): start a container with --gpus all, or update the driver"
    return Finding("wrong", "GPU", text)


def _device_fails(facts: Facts) -> Finding:
    package = facts.gpu.packages[0] if facts.gpu.packages else "cupy-cuda13x"
    text = f"a device is there but does not compute ({facts.gpu.detail})"
    return Finding("wrong", "GPU", text, f"python -m pip install '{package}[ctk]'")


def _cupy_for(hardware: str) -> str:
    """The build of CuPy for a driver: CUDA 13 needs driver 580 or later."""
    number = hardware.rpartition(",")[2].strip().partition(".")[0]
    return "cupy-cuda12x" if number.isdigit() and int(number) < 580 else "cupy-cuda13x"


_GPU_STATES: dict[str, Callable[[Facts], Finding]] = {
    "works": _works,
    "no-cupy": _no_cupy,
    "cupy-does-not-import": _cupy_does_not_import,
    "no-device": _no_device,
    "device-fails": _device_fails,
}

CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_packages,
    check_import_order,
    check_blas,
    check_threads,
    check_wait_policy,
    check_numba,
    check_malloc,
    check_memory,
    check_rate,
    check_gpu,
)

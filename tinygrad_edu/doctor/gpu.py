"""The state of CuPy, the driver and the devices. Nothing here may fail: a broken GPU never breaks the CPU."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["works", "no-cupy", "cupy-does-not-import", "no-device", "device-fails"]


@dataclass(frozen=True)
class Gpu:
    """What stands between this machine and ``tg.use("cuda")``.

    Attributes
    ----------
    state : str
        ``"works"`` if a product and a compiled kernel gave the right numbers on the device.
    detail : str
        The error, in its own words; empty where there is none.
    devices : tuple of str
        Name and memory of each device that CuPy sees.
    packages : tuple of str
        Installed distributions of CuPy; two of them break each other.
    cupy : str or None
        CuPy's version.
    runtime, driver : int or None
        CUDA versions as CUDA counts them (13000 is 13.0): of the libraries, and the newest for the driver.
    hardware : str or None
        NVIDIA's driver and GPU as ``nvidia-smi`` tells them, with or without CuPy.
    hidden : str or None
        The value of ``CUDA_VISIBLE_DEVICES`` if it hides every device.
    """

    state: State
    detail: str = ""
    devices: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    cupy: str | None = None
    runtime: int | None = None
    driver: int | None = None
    hardware: str | None = None
    hidden: str | None = None


def examine_gpu() -> Gpu:
    """Find out, step by step, how far CUDA works."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    common: dict[str, Any] = {
        "packages": _cupy_packages(),
        "hardware": _nvidia_smi(),
        "hidden": visible if visible is not None and visible.strip() in ("", "-1") else None,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns about what is told below, in better order
            import cupy
    except ModuleNotFoundError as error:
        missing = "" if error.name == "cupy" else _first_line(error)
        return Gpu("cupy-does-not-import" if missing else "no-cupy", missing, **common)
    except Exception as error:
        return Gpu("cupy-does-not-import", _first_line(error), **common)
    common["cupy"] = str(cupy.__version__)
    common["driver"] = _number(cupy.cuda.runtime.driverGetVersion)
    common["runtime"] = _number(cupy.cuda.runtime.runtimeGetVersion)
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        return Gpu("no-device", _first_line(error), **common)
    if count == 0:
        return Gpu("no-device", "no CUDA device", **common)
    try:
        devices = tuple(_describe(cupy, n) for n in range(count))
        wrong = _try_device(cupy)
    except Exception as error:
        return Gpu("device-fails", _first_line(error), **common)
    return Gpu("device-fails" if wrong else "works", wrong, devices=devices, **common)


def _try_device(cupy: Any) -> str:
    """A product (cuBLAS) and a compiled kernel (NVRTC): the two that a missing library shows up in."""
    a = cupy.arange(6, dtype=cupy.float32).reshape(2, 3)
    product = cupy.asnumpy(a @ a.T)
    if product.tolist() != [[5.0, 14.0], [14.0, 50.0]]:
        return f"a matrix product on the device is wrong: {product.tolist()}"
    square = cupy.ElementwiseKernel("float32 x", "float32 y", "y = x * x", "tinygrad_edu_doctor_square")
    squares = cupy.asnumpy(square(a)).ravel().tolist()
    return "" if squares == [0.0, 1.0, 4.0, 9.0, 16.0, 25.0] else f"a kernel on the device is wrong: {squares}"


def _describe(cupy: Any, number: int) -> str:
    properties = cupy.cuda.runtime.getDeviceProperties(number)
    name = properties["name"]
    name = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
    memory = properties["totalGlobalMem"] / 2**30
    return f"{name}, {memory:.0f} GiB, compute capability {properties['major']}.{properties['minor']}"


def _cupy_packages() -> tuple[str, ...]:
    names = {(dist.metadata["Name"] or "").lower() for dist in importlib.metadata.distributions()}
    return tuple(sorted(n for n in names if re.fullmatch(r"cupy|cupy[-_](cuda|rocm)[-_0-9a-z]+", n)))


def _nvidia_smi() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def _number(ask: Callable[[], Any]) -> int | None:
    try:
        return int(ask())
    except Exception:  # without a driver CUDA raises an error of its own for each question
        return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =\t")]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

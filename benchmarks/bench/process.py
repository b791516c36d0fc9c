"""Worker processes, and what is known about the machine without loading an array library."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
ROOT = BENCHMARKS.parent


class BenchmarkError(Exception):
    """A measurement that failed, or that shows something wrong."""


def run_worker(module: str, job: Mapping[str, Any], env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Do `job` in a fresh process of ``bench.<module>`` and return its result.

    Parameters
    ----------
    module : of :mod:`bench`; one whose name ends with ``twin`` does not find this library
    job : plain data, with the key ``"job"``
    env : variables to set on top of this process's own

    Raises
    ------
    BenchmarkError
        With the end of what the process wrote to its standard error.
    """
    found_in = [BENCHMARKS] if module.endswith("twin") else [BENCHMARKS, ROOT]
    environment = {**os.environ, **(env or {})}
    paths = [*map(str, found_in), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        asked, answered = Path(folder, "job.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(dict(job)), encoding="utf-8")
        command = [sys.executable, "-m", f"bench.{module}", str(asked), str(answered)]
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode or not answered.exists():
            end = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise BenchmarkError(f"the process {module!r} ended with status {done.returncode}:\n{end}")
        result: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
        return result


Sides = Mapping[str, tuple[str, Mapping[str, str]]]


def alternate(
    sides: Sides, job: Mapping[str, Any], pairs: int, say: Callable[[str], None]
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Do `job` on each side in turn, `pairs` times, always in a fresh process.

    Parameters
    ----------
    sides : by name, the worker module and its environment, in the order of a round
    job : for the workers, whose result must have ``facts``
    say : told what is done now

    Returns
    -------
    The results by side, in the order of the rounds, each with the load before it; and the facts by side.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for pair in range(pairs):
        for name, (module, env) in sides.items():
            say(f"pair {pair + 1} of {pairs}: {name}")
            before = load()
            runs[name].append({"load_before": before, **run_worker(module, job, env)})
    facts = {name: results[0]["facts"] for name, results in runs.items()}
    for result in (result for results in runs.values() for result in results):
        del result["facts"]
    return runs, facts


_PINS = ("GOMP_", "KMP_", "MKL_", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "OMP_", "OPENBLAS_", "TINYGRAD_EDU_")
_dropped: dict[str, str] = {}


def drop_pins() -> dict[str, str]:
    """Take out of the environment what would pin threads or BLAS kernels on either side, and return it.

    Such variables are often set for a whole machine or container, and hold back one side and not the other: both
    are measured as a user meets them who has set nothing.
    """
    for name in sorted(os.environ):
        if name.startswith(_PINS):
            _dropped[name] = os.environ.pop(name)
    return _dropped


def load() -> float | None:
    """Processes that wanted a core in the last minute, on average; None on Windows."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def machine() -> dict[str, Any]:
    """System, architecture, cores, memory and load; no host name."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count(),
        "memory_mib": _memory_mib(),
        "load_at_start": load(),
        "dropped_from_environment": dict(_dropped),
    }


def _memory_mib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    except (AttributeError, OSError, ValueError):  # Windows; a system without these names
        return None


def revision() -> str | None:
    """The commit that is measured, marked where the tree differs from it; None outside a git checkout."""
    try:
        done = [
            subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20)
            for arguments in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return done[0].stdout.strip() + ("+changes" if done[1].stdout.strip() else "")


def save(name: str, record: Mapping[str, Any], folder: Path) -> Path:
    """Write a record as JSON into `folder`, whole or not at all, and return where."""
    now = datetime.datetime.now(datetime.UTC)
    whole = {
        "format": 1,
        "time": now.isoformat(timespec="seconds"),
        "command": shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]]),
        "revision": revision(),
        **record,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{now:%Y%m%d-%H%M%S}.json"
        unfinished = path.with_name(path.name + ".part")
        unfinished.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise BenchmarkError(f"--output: the result could not be written to {folder}: {error}") from None
    return path

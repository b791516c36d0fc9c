"""From the raw numbers of the runs to the few that are shown. Pure functions of plain data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from bench.process import BenchmarkError
from bench.workload import Training

# Relative tolerances of (first loss, first norm, later losses, later norms). The first step differs by
# rounding alone. AdamW's first update is close to lr * sign(gradient), so where a gradient is all rounding
# the two sides take another step, and the later ones are looser.
TOLERANCES = {"float32": (1e-5, 1e-4, 1e-4, 1e-2), "float64": (1e-11, 1e-9, 1e-8, 1e-6)}


def check_agreement(ours: dict[str, Any], theirs: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Raise unless both sides had the same losses and gradient norms, from the same weights and data.

    Returns
    -------
    Both sides' numbers, and the largest relative differences.

    Raises
    ------
    BenchmarkError
        Naming the step, both values and the difference allowed: timing two different models means nothing.
    """
    first_loss, first_norm, later_loss, later_norm = TOLERANCES[dtype]
    worst = {"losses": 0.0, "grad_norms": 0.0}
    for key, first, later in (("losses", first_loss, later_loss), ("grad_norms", first_norm, later_norm)):
        if len(ours[key]) != len(theirs[key]):
            raise BenchmarkError(f"{key}: {len(ours[key])} steps on our side, {len(theirs[key])} on theirs")
        for step, (a, b) in enumerate(zip(ours[key], theirs[key], strict=True)):
            difference = abs(a - b) / abs(b) if b else abs(a)
            allowed = later if step else first
            if not (math.isfinite(a) and difference <= allowed):
                raise BenchmarkError(
                    f"the two sides do not train the same model: {key} of step {step} are {a!r} (ours) and "
                    f"{b!r} (torch), a relative difference of {difference:.1e} where {allowed:.0e} is allowed"
                )
            worst[key] = max(worst[key], difference)
    return {"ours": ours, "torch": theirs, "largest_relative_difference": worst}


def spread(pairs: Sequence[float]) -> dict[str, Any]:
    """Median and range of ratios pair by pair, and the ratios themselves."""
    return {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs), "pairs": list(pairs)}


def ratios(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """Their time over ours and our peak memory over theirs, pair by pair; memory is None where it is not known.

    Parameters
    ----------
    ours, theirs : results of workers, with ``seconds`` and ``peak_mib``, in the order of the pairs
    """
    pairs = list(zip(ours, theirs, strict=True))
    memory = [a["peak_mib"] / b["peak_mib"] for a, b in pairs if a["peak_mib"] and b["peak_mib"]]
    return {
        "speed": spread([statistics.median(b["seconds"]) / statistics.median(a["seconds"]) for a, b in pairs]),
        "memory": spread(memory) if memory else None,
    }


def figures(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Time and peak memory of one side's runs."""
    medians = [statistics.median(run["seconds"]) for run in results]
    peaks = [run["peak_mib"] for run in results if run["peak_mib"] is not None]
    return {
        "seconds": statistics.median(medians),
        "seconds_min": min(medians),
        "seconds_max": max(medians),
        "peak_mib": statistics.median(peaks) if peaks else None,
    }


def summarize(workload: Training, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Time, throughput, memory and GEMM share of each side, and the ratios of each pair.

    Parameters
    ----------
    runs : by side (``"ours"``, ``"torch"``, ``"textbook"``), the worker results in the order of the pairs

    Returns
    -------
    ``sides``, the figures of each; ``ratios``, by side other than ours, its time over ours and our peak
    memory over its, pair by pair with median, min and max; ``gemm_gflops``, the machine's rate in these runs
    """
    # The machine's rate is the best median of any side's own products, so that a slow BLAS on our side cannot
    # make our share of "the machine" look better.
    rate = max(statistics.median(run["gemm_gflops"] for run in results) for results in runs.values())
    sides = {}
    for name, results in runs.items():
        found = figures(results)
        gflops = workload.flops / found["seconds"] / 1e9
        sides[name] = {
            **found,
            "tokens_per_second": workload.tokens / found["seconds"],
            "gflops": gflops,
            "gemm_share": gflops / rate,
            "gemm_gflops": statistics.median(run["gemm_gflops"] for run in results),
            "first_step_seconds": statistics.median(run["first_seconds"] for run in results),
        }
    to_others = {name: ratios(runs["ours"], results) for name, results in runs.items() if name != "ours"}
    return {"sides": sides, "ratios": to_others, "gemm_gflops": rate}


def flatness(resident_mib: Sequence[float], skip: int, tolerance_mib: float) -> dict[str, Any]:
    """Whether memory stays flat over many steps.

    Parameters
    ----------
    resident_mib : after each step
    skip : first steps, in which allocator and caches fill up
    tolerance_mib : growth allowed between the first and the last tenth of the rest

    Returns
    -------
    ``growth_mib`` between those tenths' medians, ``kib_per_step`` by least squares, ``flat``
    """
    rest = list(resident_mib[skip:])
    if len(rest) < 10:
        raise BenchmarkError(f"at least {skip + 10} steps are needed to see whether memory is flat")
    tenth = len(rest) // 10
    growth = statistics.median(rest[-tenth:]) - statistics.median(rest[:tenth])
    slope = statistics.linear_regression(range(len(rest)), rest).slope
    return {
        "first_mib": statistics.median(rest[:tenth]),
        "last_mib": statistics.median(rest[-tenth:]),
        "growth_mib": growth,
        "kib_per_step": slope * 1024,
        "flat": growth <= tolerance_mib,
    }

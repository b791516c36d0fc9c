"""One layer, ours and torch's: held together, then timed in alternation, each side in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from bench.process import BenchmarkError, alternate, machine, run_worker
from bench.summary import spread

if TYPE_CHECKING:
    import numpy as np

TOLERANCES = {"float32": 1e-4, "float64": 1e-10}  # of norms and projections, relative to the norm


class LayerPlan(Protocol):
    """How a layer is run; fields as of :class:`bench.transformer.Plan`."""

    @property
    def pairs(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def torch_env(self) -> dict[str, str]: ...


Sides = Mapping[str, tuple[str, Mapping[str, str]]]


def sides_of(plan: LayerPlan, ours: str, theirs: str) -> Sides:
    """By name: the worker module and its environment, in the order of a round."""
    common = {} if plan.threads is None else {"OMP_NUM_THREADS": str(plan.threads)}
    return {
        "ours": (ours, {**common, "TINYGRAD_EDU_KERNELS": "on"}),
        "torch": (theirs, {**common, **plan.torch_env}),
    }


def job_of(plan: LayerPlan, **more: Any) -> dict[str, Any]:
    """What the workers are told beside the name of the job."""
    return {"warmup": plan.warmup, "steps": plan.steps, "threads": plan.threads, **more}


def compare(
    plan: LayerPlan,
    sides: Sides,
    job: dict[str, Any],
    dtype: str,
    say: Callable[[str], None],
    jobs: tuple[str, str] = ("results", "timing"),
) -> dict[str, Any]:
    """Hold the sides together, then time them. Of several sides of torch the fastest is what ours is set beside.

    Parameters
    ----------
    sides : ours under ``"ours"``, and one or more others
    job : as :func:`job_of` gives it
    jobs : the workers' names for computing fingerprints, and for timing

    Returns
    -------
    What a record holds of every layer: machine, facts, the largest difference, a summary and the runs.

    Raises
    ------
    BenchmarkError
        If a process fails or the sides do not agree.
    """
    facts = machine()
    others = [side for side in sides if side != "ours"]
    say("do both sides compute the same?")
    prints = {side: run_worker(module, {**job, "job": jobs[0]}, env) for side, (module, env) in sides.items()}
    difference = max(check_agreement(prints["ours"], prints[side], dtype) for side in others)
    runs, described = alternate(sides, {**job, "job": jobs[1]}, plan.pairs, say)
    medians = {side: [statistics.median(result["seconds"]) for result in own] for side, own in runs.items()}
    seconds = {side: statistics.median(values) for side, values in medians.items()}
    fastest = min(others, key=lambda side: seconds[side])
    return {
        "machine": facts,
        "facts": described,
        "largest_difference": difference,
        "summary": {
            "seconds": seconds,
            "fastest_other": fastest,
            "ratio": spread([b / a for a, b in zip(medians["ours"], medians[fastest], strict=True)]),
            "gemm_gflops": max(statistics.median(result["gemm_gflops"] for result in own) for own in runs.values()),
        },
        "runs": runs,
    }


def fingerprint(arrays: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """By name, the norm of an array, and its product with a random array: enough to tell two apart."""
    import numpy as np

    found = {}
    for name, array in arrays.items():
        values = np.asarray(array, dtype=np.float64).ravel()
        noise = np.random.default_rng(7).standard_normal(values.size)
        found[name] = [float(np.linalg.norm(values)), float(values @ noise)]
    return found


def check_agreement(ours: dict[str, list[float]], theirs: dict[str, list[float]], dtype: str) -> float:
    """The largest difference of norms and products, relative to the norm.

    Raises
    ------
    BenchmarkError
        If it is more than rounding, or the two sides do not have the same tensors.
    """
    if ours.keys() != theirs.keys():
        raise BenchmarkError(f"tensors of our side: {sorted(ours)}; of torch's: {sorted(theirs)}")
    worst = 0.0
    for name, wanted in theirs.items():
        for found, right in zip(ours[name], wanted, strict=True):
            difference = abs(found - right) / (wanted[0] or 1.0)
            if not difference <= TOLERANCES[dtype]:
                raise BenchmarkError(
                    f"the two sides do not compute the same: {name} differs by {difference:.1e} of its norm, "
                    f"where {TOLERANCES[dtype]:.0e} is allowed"
                )
            worst = max(worst, difference)
    return worst

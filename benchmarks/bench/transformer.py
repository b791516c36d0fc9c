"""Training steps of both sides in alternation, each in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.process import alternate, machine, run_worker
from bench.summary import check_agreement, summarize
from bench.workload import Training

AGREEMENT_STEPS = 3


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes
    ----------
    workload : what is trained
    pairs : how often each side runs, in alternation
    steps, warmup : timed steps of a run, and those before them
    compile : torch.compile for the twin
    textbook : also this library's readable ops without kernels, as a third side
    threads : for both sides; None for each side's own best choice
    torch_env : variables for torch's processes alone
    """

    workload: Training
    pairs: int = 5
    steps: int = 10
    warmup: int = 3
    compile: bool = False
    textbook: bool = False
    threads: int | None = None
    torch_env: dict[str, str] = field(default_factory=dict)

    def job(self, kind: str, **more: Any) -> dict[str, Any]:
        """A job for a worker."""
        block = 1 if self.workload.device == "cpu" else 10
        return {
            "job": kind,
            "workload": asdict(self.workload),
            "warmup": self.warmup,
            "steps": self.steps,
            "block": block,
            "compile": self.compile,
            "threads": self.threads,
            **more,
        }

    def sides(self) -> dict[str, tuple[str, dict[str, str]]]:
        """By name: the worker module and its environment, in the order of a round."""
        common = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        ours, twin = self.workload.modules
        sides = {
            "ours": (ours, {**common, "TINYGRAD_EDU_KERNELS": "on"}),
            "torch": (twin, {**common, **self.torch_env}),
        }
        if self.textbook:
            sides["textbook"] = (ours, {**common, "TINYGRAD_EDU_KERNELS": "off"})
        return sides


def run(plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Check that both sides train the same model, then time them.

    Parameters
    ----------
    say : told what is done now, and what a run gave

    Raises
    ------
    BenchmarkError
        If a process fails or the sides do not agree.
    """
    sides = plan.sides()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        say("do both sides train the same model?")
        job = plan.job("losses", steps=AGREEMENT_STEPS, weights=str(Path(folder, "weights")))
        results = {name: run_worker(module, job, env) for name, (module, env) in list(sides.items())[:2]}
    agreement = check_agreement(results["ours"], results["torch"], plan.workload.dtype)
    runs, described = alternate(sides, plan.job("steps"), plan.pairs, say)
    return {
        "benchmark": plan.workload.benchmark,
        "plan": asdict(plan),
        "model_flops_per_step": plan.workload.flops,
        "machine": facts,
        "facts": described,
        "agreement": agreement,
        "summary": summarize(plan.workload, runs),
        "runs": runs,
    }

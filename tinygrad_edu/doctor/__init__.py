"""What is installed and in use on this machine, what is wrong or slow, and the line that mends it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .facts import OPTIONAL, Facts, gather
from .findings import Finding, judge

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Facts", "Finding", "Report", "examine", "gather", "judge", "show"]

_LEVELS = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "slow": ("SLOW", "yellow"),
    "wrong": ("WRONG", "red"),
}


@dataclass(frozen=True)
class Report:
    """The facts of this machine and what follows from them."""

    facts: Facts
    findings: list[Finding]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: ``{"facts": {...}, "findings": [{"level", "topic", "text", "fix"}, ...]}``."""
        return {"facts": self.facts.as_dict(), "findings": [asdict(f) for f in self.findings]}


def examine(*, measure: bool = True) -> Report:
    """Gather the facts and judge them.

    Parameters
    ----------
    measure : bool
        Whether to measure the rate of matrix products, which takes some seconds.
    """
    facts = gather(measure=measure)
    return Report(facts, judge(facts))


def show(report: Report, console: Console | None = None) -> None:
    """Print a report for people to read; lines to run are never broken, so that they can be copied."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(soft_wrap=True, highlight=False)
    console.print(_fact_table(report.facts))
    console.print()
    for finding in report.findings:
        label, colour = _LEVELS[finding.level]
        console.print(Text(f"{label:<6}", style=colour) + Text(f"{finding.topic}: {finding.text}", style="default"))
        if finding.fix:
            console.print(Text("       run: ", style="default") + Text(finding.fix, style="bold"))
    mendable = sum(f.level in ("slow", "wrong") for f in report.findings)
    console.print()
    console.print(
        "All is well." if mendable == 0 else f"{mendable} finding{'s' * (mendable > 1)} to mend, marked above."
    )


def _fact_table(facts: Facts) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _fact_rows(facts):
        table.add_row(name, value)
    return table


def _fact_rows(facts: Facts) -> list[tuple[str, str]]:
    packages = ", ".join(f"{k} {v}" for k, v in facts.packages.items() if v or k not in OPTIONAL)
    cpu = facts.cpu
    sets = "AVX-512" if cpu.has_avx512 else "AVX2" if cpu.has_avx2 else "no AVX2 seen"
    quota = "" if facts.cores.quota is None else f", container's quota {facts.cores.quota:g}"
    memory = facts.memory
    sizes = [("", memory.total), (" free", memory.available), (" allowed by the container", memory.limit)]
    rows = [
        ("tinygrad_edu", facts.version),
        ("Python", f"{facts.python} on {facts.system}"),
        ("Packages", packages),
        ("CPU", f"{cpu.model or cpu.vendor or 'unknown'} ({sets})"),
        ("Cores", f"{facts.cores.usable} usable of {facts.cores.logical}{quota}"),
        (
            "Memory",
            ", ".join(f"{n / 2**30:.1f} GiB{what}" for what, n in sizes if n is not None) or "unknown",
        ),
    ]
    if facts.blas:
        blas = facts.blas
        parts = [blas.library, blas.version, f"{blas.kernels} kernels" if blas.kernels else None]
        parts += [f"{blas.threads} threads" if blas.threads else None, blas.threading_layer]
        rows.append(("BLAS", ", ".join(p for p in parts if p)))
    if facts.numba.layer:
        rows.append(("Numba", f"threading layer {facts.numba.layer}, {facts.numba.threads} threads"))
    if facts.rates:
        rates = {"here": facts.rates.here, "one thread": facts.rates.one_thread}
        rates |= {f"fresh process, {k}": v for k, v in facts.rates.fresh.items()}
        rows.append(("GFLOP/s", ", ".join(f"{k} {v:.0f}" for k, v in rates.items() if v)))
    rows += [
        (setting.name, f"{setting.value}  [dim]({setting.source}: {setting.reason})[/dim]")
        for setting in facts.settings
        if setting.value is not None
    ]
    gpu = facts.gpu
    if gpu.cupy:
        versions = [f"CuPy {gpu.cupy}"]
        versions += [f"CUDA {_cuda(gpu.runtime)}"] if gpu.runtime else []
        versions += [f"driver up to CUDA {_cuda(gpu.driver)}" if gpu.driver else "no driver"]
        rows.append(("GPU", ", ".join([*versions, *gpu.devices])))
    return rows


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"

"""Runs the whole project, from the designs to the report: what is done is skipped, what was interrupted goes on.

python projects/design_decomposition/run_all.py [--quick] [--only STAGE ...] [--runs DIR]

--quick runs everything on a few designs for a few steps, to see that it works, in a folder of its own.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUICK = ("data.count=200",)  # of every step


@dataclass(frozen=True)
class Step:
    """A program, the stage that it is, and what it is given with ``--quick``."""

    program: str
    stage: str
    quick: tuple[str, ...] = field(default=())


STEPS = (
    Step("train_encoder.py", "encoder", ("model.base=4", "training.num_epochs=1")),
    Step("train_abstractor.py", "abstractor", ("training.num_epochs=1",)),
    Step(
        "train_decoder.py",
        "decoder",
        ("model.base=8", "training.num_epochs=1", "training.warmup_steps=0", "sampling.steps=4"),
    ),
    Step("sample_decoder.py", "samples", ("sampling.steps=4", "sampling.count=16")),
    Step(
        "finetune_decoder.py",
        "finetuned",
        (
            "training.max_steps=2",
            "training.warmup_steps=0",
            "sampling.steps=4",
            "sampling.count=16",
            "finetune.judged=8",
        ),
    ),
    Step(
        "innovate.py", "innovation", ("innovation.count=4", "innovation.ascent_steps=2", "innovation.sampling_steps=2")
    ),
)


def run_step(step: Step, runs: Path, quick: bool) -> int:
    """Run one step, or go on with it, or leave it if it is done; the exit status."""
    folder = runs / step.stage
    if (folder / "results.json").is_file():
        print(f"== {step.stage}: done, in {folder}", flush=True)
        return 0
    words = [sys.executable, str(HERE / step.program)]
    if (folder / "checkpoints").is_dir() and any((folder / "checkpoints").iterdir()):
        words += ["--resume", str(folder)]
    else:
        # Killed before its first checkpoint, a run left nothing to go on from.
        shutil.rmtree(folder, ignore_errors=True)
        words += [f"training.output_dir={runs}", f"data.folder={runs / 'data'}"]
        words += [*QUICK, *step.quick] if quick else []
    print(f"== {step.stage}: {' '.join(words[1:])}", flush=True)
    began = time.perf_counter()
    status = subprocess.run(words, check=False).returncode
    print(f"== {step.stage}: exit status {status} after {time.perf_counter() - began:.0f} seconds", flush=True)
    return status


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the whole project.")
    parser.add_argument("--quick", action="store_true", help="a few designs and steps: does everything work?")
    parser.add_argument(
        "--only", nargs="+", choices=[step.stage for step in STEPS], metavar="STAGE", help="only these stages"
    )
    parser.add_argument("--runs", help="where the folders of the stages go")
    args = parser.parse_args(argv)
    runs = Path(args.runs or ("runs/design_decomposition_quick" if args.quick else "runs/design_decomposition"))
    try:
        for step in STEPS:
            if args.only is None or step.stage in args.only:
                status = run_step(step, runs, args.quick)
                if status:
                    print(f"Stopped at {step.stage}; the same command goes on from there.", flush=True)
                    return status
        if args.quick:
            print("== --quick shows that everything works; so little training meets no criterion", flush=True)
        return subprocess.run([sys.executable, str(HERE / "report.py"), "--runs", str(runs)], check=False).returncode
    except KeyboardInterrupt:  # the step was told too, and has saved what it had
        print("\nStopped; the same command goes on from there.", flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())

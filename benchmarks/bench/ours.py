"""This library's side, in a process of its own. torch is never imported here."""

from __future__ import annotations

import tinygrad_edu as tg  # first: it settles the thread pools before NumPy loads

import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import recurrent_ours, worker
from bench.workload import Workload
from tinygrad_edu.backend import device_of, kernels_enabled, synchronize, to_host
from tinygrad_edu.errors import TinygradEduError
from tinygrad_edu.models import CustomTransformerWrapper
from tinygrad_edu.optim import AdamW


def build(w: Workload) -> CustomTransformerWrapper:
    """The model with its optimizer."""
    model = CustomTransformerWrapper(w.model_config())
    model.clip_norm = w.clip_norm
    model.optimizer = AdamW(model, lr=w.learning_rate, weight_decay=w.weight_decay)
    return model


def facts() -> dict[str, Any]:
    """Versions, CPU, and the settings in force; no host names and no paths."""
    from importlib.metadata import PackageNotFoundError, version

    from threadpoolctl import threadpool_info

    versions = {"python": platform.python_version(), "tinygrad_edu": tg.__version__}
    for package in ("numpy", "numba", "cupy-cuda13x", "cupy-cuda12x"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cpu, cores = tg.runtime.cpu_info(), tg.runtime.cores()
    wanted = ("user_api", "internal_api", "version", "threading_layer", "architecture", "num_threads")
    return {
        "versions": versions,
        "cpu": cpu.model or platform.processor() or platform.machine(),
        "avx512": cpu.has_avx512,
        "cores": {"logical": cores.logical, "usable": cores.usable},
        "settings": {s.name: {"value": s.value, "source": s.source} for s in tg.runtime.settings()},
        "thread_pools": [{key: pool.get(key) for key in wanted} for pool in threadpool_info()],
        "kernels": kernels_enabled(),
        "advice": tg.runtime.advice(),
    }


def _gemm(w: Workload) -> float:
    size = worker.gemm_size(w.device)
    with tg.use(w.device):
        a, b = tg.backend.ones(size, size, dtype=w.dtype), tg.backend.ones(size, size, dtype=w.dtype)
    out = tg.backend.empty_like(a)
    return worker.gemm_rate(lambda: tg.backend.gemm(a, b, out=out), synchronize, size)


def _memory(w: Workload) -> dict[str, float | None]:
    if w.device == "cpu":
        return {"peak_mib": worker.peak_mib()}
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    return {  # the pool never gives memory back by itself, so what it holds at the end is its peak
        "peak_mib": cupy.get_default_memory_pool().total_bytes() / worker.MIB,
        "device_used_mib": (total - free) / worker.MIB,
        "host_peak_mib": worker.peak_mib(),
    }


def time_training(job: dict[str, Any], w: Any, build: Callable[[Any], Any]) -> dict[str, Any]:
    """Time steps of the model that `build` makes of the workload `w`."""
    start_mib = worker.resident_mib()
    model = build(w)
    batches = w.batches(8)
    losses = []

    def step(index: int) -> None:
        losses.append(model.train_step(*batches[index % len(batches)], w.learning_rate)["loss"])

    timing = worker.time_steps(step, job["warmup"], job["steps"], job["block"], synchronize)
    memory = _memory(w)  # before the matrices of the GEMM rate add to it
    return {
        **timing,
        **memory,
        "after_import_mib": start_mib,
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "parameters": model.num_parameters(),
        "gemm_gflops": _gemm(w),
        "facts": facts(),
    }


def follow_training(job: dict[str, Any], w: Any, model: Any) -> dict[str, Any]:
    """Losses of a few steps, and gradient norms before clipping."""
    metrics = [model.train_step(*batch, w.learning_rate) for batch in w.batches(job["steps"])]
    return {"losses": [m["loss"] for m in metrics], "grad_norms": [m["grad_norm"] for m in metrics]}


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Time training steps."""
    return time_training(job, Workload(**job["workload"]), build)


def losses(job: dict[str, Any]) -> dict[str, Any]:
    """Save the initial weights for the twin, then follow a few steps."""
    w = Workload(**job["workload"])
    model = build(w)
    np.savez(f"{job['weights']}.npz", **{name: to_host(x) for name, x in model.model.state_dict().items()})
    return follow_training(job, w, model)


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """Greedy generation with the cache, without it, and by a whole ``forward`` for each token, in alternation.

    ``generate(use_cache=False)`` computes the head for the last position alone; a user without ``generate`` would
    call ``forward``, which computes it for all.

    With the usual small initial weights a tied head repeats one token for ever, whatever the context, and a
    wrong cache would pass unseen. With larger ones the next token depends on every token before it.
    """
    w = Workload(**job["workload"])
    model = CustomTransformerWrapper({**w.model_config(), "init_std": 0.1})
    rng = np.random.default_rng(w.seed + 2)
    result: dict[str, Any] = {
        "with_cache": [],
        "without_cache": [],
        "forward_each_token": [],
        "differences": [],
        "distinct": [],
    }
    for repeat in range(job["repeats"] + 1):  # the first round warms up
        prompt = rng.integers(0, w.vocab, (1, job["prompt"]))
        texts = {}
        ways = {
            "with_cache": lambda ids: model.generate(ids, max_new_tokens=job["tokens"], temperature=0),
            "without_cache": lambda ids: model.generate(
                ids, max_new_tokens=job["tokens"], temperature=0, use_cache=False
            ),
            "forward_each_token": lambda ids: _by_forward(model, ids, job["tokens"]),
        }
        for name, way in ways.items():
            start = time.perf_counter()
            out = way(prompt)
            synchronize()
            if repeat:
                result[name].append(time.perf_counter() - start)
            texts[name] = to_host(out)
        for name in ("without_cache", "forward_each_token"):
            if not (texts["with_cache"] == texts[name]).all():
                result["differences"].append(first_difference(model, texts["with_cache"], texts[name]))
        result["distinct"].append(len(np.unique(texts["with_cache"])))
    return {**result, "facts": facts()}


def _by_forward(model: CustomTransformerWrapper, ids: Any, tokens: int) -> Any:
    """Greedy generation as one would write it with ``forward`` alone."""
    with tg.inference():
        for _ in range(tokens):
            logits = to_host(model.forward(ids).logits)
            ids = np.concatenate([ids, logits[:, -1].argmax(axis=-1)[:, None]], axis=1)
    return ids


def first_difference(model: Any, one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Where two texts (1, L) part, and how far apart the two likeliest logits are: a tie, or something wrong?"""
    place = int((one != other)[0].argmax())
    with tg.inference(), tg.use(device_of(next(model.parameters()).data)):
        logits = to_host(model.next_logits(tg.backend.asarray(one[:, :place]), None))[0]
    second, first = np.partition(logits, -2)[-2:]
    return {"position": place, "relative_gap_of_logits": float((first - second) / logits.std())}


def memory(job: dict[str, Any]) -> dict[str, Any]:
    """Resident memory after each of many training steps."""
    w = Workload(**job["workload"])
    model = build(w)
    batches = w.batches(8)
    resident = []
    for index in range(job["steps"]):
        model.train_step(*batches[index % len(batches)], w.learning_rate)
        resident.append(worker.resident_mib())
    return {"resident_mib": resident, "peak_mib": worker.peak_mib(), "facts": facts()}


def ops(job: dict[str, Any]) -> dict[str, Any]:
    """Each kernel against the op that it stands in for."""
    from bench.ops import compare_all

    return {"ops": compare_all(Workload(**job["workload"]), job["repeats"], job["only"]), "facts": facts()}


def serve(jobs: dict[str, worker.Job]) -> None:
    """Do the job that was asked for; a mistake in it is one message."""
    try:
        worker.serve(jobs)
    except TinygradEduError as error:
        raise SystemExit(str(error)) from None
    assert "torch" not in sys.modules, "torch was imported on this library's side"


def main() -> None:
    jobs: dict[str, worker.Job] = {
        "steps": steps,
        "losses": losses,
        "generate": generate,
        "memory": memory,
        "ops": ops,
        "recurrent": lambda job: recurrent_ours.timing(job, facts),
        "recurrent_results": recurrent_ours.results,
    }
    serve(jobs)


if __name__ == "__main__":
    main()

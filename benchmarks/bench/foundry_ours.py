"""This library's side of :mod:`bench.foundry`, in a process of its own. torch is never imported here."""

from __future__ import annotations

from bench import ours  # first: it loads the library, which settles the thread pools before NumPy loads

from dataclasses import replace
from typing import Any

import numpy as np

from bench import worker
from bench.foundry import Published, Writing, time_texts
from tinygrad_edu.backend import to_host
from tinygrad_edu.models import create_model, from_pretrained
from tinygrad_edu.optim import AdamW


def build(w: Published) -> Any:
    """The model with its optimizer."""
    model = create_model({"architecture": w.kind, **w.settings, "seed": w.seed})
    model.clip_norm = w.clip_norm
    model.optimizer = AdamW(model, lr=w.learning_rate, weight_decay=w.weight_decay)
    return model


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Time training steps."""
    return ours.time_training(job, Published(**job["workload"]), build)


def losses(job: dict[str, Any]) -> dict[str, Any]:
    """Save the initial weights for the twin, then follow a few steps."""
    w = replace(Published(**job["workload"]), dropout=0.0)  # the two sides would draw different masks
    model = build(w)
    model.save_pretrained(job["weights"])
    return ours.follow_training(job, w, model)


def save(job: dict[str, Any]) -> dict[str, Any]:
    """Save a model for both sides to write with."""
    build(Writing.of(job).model).save_pretrained(job["weights"])
    return {}


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Time greedy generation with the cache."""
    plan = Writing.of(job)
    model = from_pretrained(job["weights"])

    def continued(prompt: Any) -> Any:
        return to_host(model.generate(prompt, max_new_tokens=plan.tokens, do_sample=False))

    timed = time_texts(continued, plan.prompts())
    return {
        **timed,
        "peak_mib": worker.peak_mib(),
        "parameters": model.num_parameters(),
        "facts": ours.facts(),
    }


def partings(job: dict[str, Any]) -> dict[str, Any]:
    """Where pairs of texts part, and by how little our logits favour one token there."""
    model = from_pretrained(job["weights"])
    pairs = [[np.array([text]) for text in pair] for pair in job["pairs"]]
    return {"partings": [ours.first_difference(model, *pair) for pair in pairs]}


if __name__ == "__main__":
    ours.serve({"steps": steps, "losses": losses, "save": save, "write": write, "partings": partings})

"""The models of ``transformers`` on torch eager, in a process of its own, without tinygrad_edu.

They are trained as a careful torch user would: attention through ``scaled_dot_product_attention``, the key/value cache
off in training, fused AdamW, ``clip_grad_norm_``, and the loss that the models compute themselves.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in a local folder: no measurement waits for the network

from bench import twin, worker
from bench.foundry import Published, Writing, time_texts

try:
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel
except ImportError as error:
    raise SystemExit(f"transformers is needed beside torch ({error}): pip install 'tinygrad_edu[test]'") from None
import torch

CLASSES: dict[str, tuple[Any, Any]] = {
    "gpt2": (GPT2Config, GPT2LMHeadModel),
    "bert": (BertConfig, BertForMaskedLM),
}


class Trainer(twin.Trainer):
    """A training step around a model of ``transformers``."""

    def make_module(self) -> PreTrainedModel:
        config, model = CLASSES[self.w.kind]
        return model(config(**self.w.settings)).train()

    def loss(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        off = {"use_cache": False} if self.w.kind == "gpt2" else {}
        return self.model(input_ids=ids, labels=labels, **off).loss


class LoadedTrainer(Trainer):
    """The same, from the weights in a folder."""

    def __init__(self, w: Published, compiled: bool, folder: str):
        self.folder = folder
        super().__init__(w, compiled)

    def make_module(self) -> PreTrainedModel:
        return CLASSES[self.w.kind][1].from_pretrained(self.folder).train()


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """Time training steps."""
    return twin.time_training(job, Published(**job["workload"]), Trainer)


def losses(job: dict[str, Any]) -> dict[str, Any]:
    """A few steps from the weights that the other side saved."""
    return twin.follow_training(job, LoadedTrainer(Published(**job["workload"]), job["compile"], job["weights"]))


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Time greedy generation with the cache."""
    plan = Writing.of(job)
    model = GPT2LMHeadModel.from_pretrained(job["weights"]).eval()
    model.generation_config.pad_token_id = 0  # it warns without one; nothing is padded

    def continued(prompt: Any) -> Any:
        ids = torch.from_numpy(prompt)
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            max_new_tokens=plan.tokens,
            min_new_tokens=plan.tokens,
        ).numpy()

    prompts = plan.prompts()
    threads = twin.choose_threads(lambda index: continued(prompts[index]), plan.threads, "cpu")
    timed = time_texts(continued, prompts)
    return {
        **timed,
        "peak_mib": worker.peak_mib(),
        "parameters": model.num_parameters(),
        "threads": threads,
        "facts": twin.facts(),
    }


if __name__ == "__main__":
    twin.serve({"steps": steps, "losses": losses, "write": write})

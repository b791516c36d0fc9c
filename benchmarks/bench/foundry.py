"""GPT-2 and BERT, ours and those of ``transformers``: what is trained, and writing with the same weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.process import BenchmarkError, alternate, machine, run_worker
from bench.summary import figures, ratios
from bench.workload import IGNORED, training_flops

if TYPE_CHECKING:
    import numpy as np

POSITIONS = {"gpt2": 1024, "bert": 512}  # as published
TIE = 1e-4  # of the logits' standard deviation: closer than this, the two likeliest tokens are equally likely


@dataclass(frozen=True)
class Published:
    """A published architecture and the batches that it learns from.

    Attributes
    ----------
    kind : ``"gpt2"``, which learns the next token, or ``"bert"``, which learns those that are masked
    vocab, batch, time : vocabulary V, sequences B and tokens T of a batch
    width, layers, heads : C, L, H; the feed-forward part is 4 C wide inside
    dropout : on embeddings, branches and attention weights
    initializer_range : standard deviation of the initial weights
    masked : of a BERT's tokens, the part that is masked
    learning_rate, weight_decay, clip_norm : of AdamW and of the clipping by norm
    seed : of the initial weights and of the data

    Raises
    ------
    ValueError
        Naming the field, the value found and the value wanted.
    """

    modules: ClassVar[tuple[str, str]] = ("foundry_ours", "foundry_twin")
    dtype: ClassVar[str] = "float32"
    device: ClassVar[str] = "cpu"

    kind: str
    vocab: int
    batch: int
    time: int
    width: int
    layers: int
    heads: int
    dropout: float = 0.0
    initializer_range: float = 0.02
    masked: float = 0.15
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in POSITIONS:
            raise ValueError(f"kind must be one of {', '.join(POSITIONS)}, got {self.kind!r}")
        if self.width % self.heads:
            raise ValueError(f"width must be divisible by heads, got {self.width} and {self.heads}")
        if not 2 <= self.time <= POSITIONS[self.kind]:
            raise ValueError(f"time must be between 2 and {self.kind}'s {POSITIONS[self.kind]}, got {self.time}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    @property
    def benchmark(self) -> str:
        return self.kind

    @property
    def tokens(self) -> int:
        """Tokens of a step, B T."""
        return self.batch * self.time

    @property
    def labels(self) -> int:
        """Tokens of a batch that BERT must find: at least one."""
        return max(1, round(self.masked * self.tokens))

    @property
    def flops(self) -> int:
        """Operations of one training step by formula; see :func:`bench.workload.training_flops`."""
        causal = self.kind == "gpt2"
        rows, products = (
            (self.tokens, 2 * self.width * self.vocab)
            if causal
            else (
                self.labels,
                2 * self.width * (self.width + self.vocab),  # BERT's head has a map of its own before the table
            )
        )
        shape = (self.layers, self.batch, self.time, self.width, 4 * self.width)
        return training_flops(*shape, causal=causal, head=rows * products)

    def batches(self, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """`count` pairs of ids and labels, (B, T) int64, the same for everyone who asks.

        Ids are uniform. GPT-2's labels are the ids, which the model shifts. Of BERT's ids, as many as :attr:`labels`
        says are replaced by one id, that of the mask; the labels are what stood there, and -100 elsewhere.
        """
        import numpy as np

        rng = np.random.default_rng(self.seed + 1)
        found = []
        for _ in range(count):
            ids = rng.integers(1, self.vocab, (self.batch, self.time))  # 0 is BERT's padding
            labels = ids
            if self.kind == "bert":
                places = rng.permutation(self.tokens)[: self.labels]
                labels = np.full_like(ids, IGNORED)
                labels.flat[places] = ids.flat[places]
                ids.flat[places] = min(103, self.vocab - 1)  # [MASK] of the published vocabularies
            found.append((ids, labels))
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of either side's config class, which have the same names."""
        common = {"vocab_size": self.vocab, "initializer_range": self.initializer_range}
        if self.kind == "bert":
            return common | {
                "hidden_size": self.width,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "intermediate_size": 4 * self.width,
                "hidden_dropout_prob": self.dropout,
                "attention_probs_dropout_prob": self.dropout,
            }
        return common | {
            "n_embd": self.width,
            "n_layer": self.layers,
            "n_head": self.heads,
            "resid_pdrop": self.dropout,
            "embd_pdrop": self.dropout,
            "attn_pdrop": self.dropout,
            "bos_token_id": None,
            "eos_token_id": None,
        }


# -- writing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writing:
    """Greedy generation, one sequence after the other.

    Attributes
    ----------
    model : what writes; its ``initializer_range`` should be so large that the tokens vary
    prompt, tokens : length of a prompt, and how many tokens are added
    repeats : timed prompts of a run; one more comes before them
    pairs, threads, torch_env : as of :class:`bench.transformer.Plan`

    Raises
    ------
    ValueError
    """

    model: Published
    prompt: int = 8
    tokens: int = 100
    repeats: int = 5
    pairs: int = 3
    threads: int | None = None
    torch_env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        longest = POSITIONS[self.model.kind]
        if self.prompt + self.tokens > longest:
            raise ValueError(f"prompt and tokens together must be <= {longest}, got {self.prompt + self.tokens}")

    def prompts(self) -> np.ndarray:
        """(repeats + 1, 1, prompt) ids, the same for everyone who asks."""
        import numpy as np

        return np.random.default_rng(self.model.seed + 2).integers(
            0, self.model.vocab, (self.repeats + 1, 1, self.prompt)
        )

    @classmethod
    def of(cls, job: dict[str, Any]) -> Writing:
        """The writing that a worker is asked for."""
        return cls(**{**job["writing"], "model": Published(**job["writing"]["model"])})


def time_texts(write: Callable[[Any], Any], prompts: Any) -> dict[str, Any]:
    """Seconds of ``write(prompt)`` for each prompt but the first, and all texts: lists of ids, prompts included.

    Parameters
    ----------
    write : (1, T) ids -> (1, L) ids, both on the host
    """
    seconds, texts = [], []
    for prompt in prompts:
        start = time.perf_counter()
        text = write(prompt)
        seconds.append(time.perf_counter() - start)
        texts.append([int(token) for token in text[0]])
    return {"first_seconds": seconds[0], "seconds": seconds[1:], "texts": texts}


def differing(ours: Sequence[Any], theirs: Sequence[Any], length: int) -> list[tuple[list[int], list[int]]]:
    """Pairs of texts that are not equal, each pair once.

    Parameters
    ----------
    ours, theirs : results of :func:`time_texts`, in the order of the pairs
    length : that each text must have

    Raises
    ------
    BenchmarkError
        If a text has another length.
    """
    found: list[tuple[list[int], list[int]]] = []
    for a, b in zip(ours, theirs, strict=True):
        for pair in zip(a["texts"], b["texts"], strict=True):
            for side, text in zip(("ours", "torch"), pair, strict=True):
                if len(text) != length:
                    raise BenchmarkError(f"{side} wrote a text of {len(text)} tokens where {length} were asked for")
            if pair[0] != pair[1] and pair not in found:
                found.append(pair)
    return found


def run_writing(plan: Writing, say: Callable[[str], None]) -> dict[str, Any]:
    """Time both sides with the same weights, and hold their texts together.

    Raises
    ------
    BenchmarkError
        If a process fails, or a text has the wrong length.
    """
    common = {} if plan.threads is None else {"OMP_NUM_THREADS": str(plan.threads)}
    ours, twin = plan.model.modules
    sides = {
        "ours": (ours, {**common, "TINYGRAD_EDU_KERNELS": "on"}),
        "torch": (twin, {**common, **plan.torch_env}),
    }
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        say("saving the weights for both sides")
        job = {"writing": asdict(plan), "weights": str(Path(folder, "weights"))}
        run_worker(ours, {**job, "job": "save"}, sides["ours"][1])
        runs, described = alternate(sides, {**job, "job": "write"}, plan.pairs, say)
        pairs = differing(runs["ours"], runs["torch"], plan.prompt + plan.tokens)
        say("where the texts part")
        partings = run_worker(ours, {**job, "job": "partings", "pairs": pairs})["partings"] if pairs else []
    distinct = [len(set(text[plan.prompt :])) for text in runs["ours"][0]["texts"]]
    parameters = {result.pop("parameters") for results in runs.values() for result in results}
    for result in (result for results in runs.values() for result in results):
        del result["texts"]
    if len(parameters) != 1:
        raise BenchmarkError(f"the two sides have different numbers of parameters: {sorted(parameters)}")
    return {
        "benchmark": f"generate-{plan.model.kind}",
        "plan": asdict(plan),
        "parameters": parameters.pop(),
        "machine": facts,
        "facts": described,
        "partings": partings,
        "distinct": distinct,
        "summary": {
            "sides": {name: figures(results) for name, results in runs.items()},
            "ratios": {"torch": ratios(runs["ours"], runs["torch"])},
        },
        "runs": runs,
    }


def check_partings(partings: Sequence[dict[str, Any]]) -> None:
    """Raise unless texts part only where two tokens are as good as equally likely.

    Raises
    ------
    BenchmarkError
    """
    for parting in partings:
        if not parting["relative_gap_of_logits"] <= TIE:
            raise BenchmarkError(
                f"the two sides write different tokens, first at position {parting['position']}, where the two "
                f"likeliest logits are {parting['relative_gap_of_logits']:.1e} of their standard deviation apart "
                f"(below {TIE:.0e} it would be a tie)"
            )

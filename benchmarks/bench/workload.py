"""The training job that is timed: sizes, data, and how many operations it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

IGNORED = -100


@dataclass(frozen=True)
class Workload:
    """A decoder-only transformer and its batches; the defaults are the preset of the published figures.

    Attributes
    ----------
    vocab, batch, time : vocabulary V, sequences B and tokens T of a batch
    d_model, blocks, heads, ffn : width C, blocks L, heads H, width F inside the feed-forward part
    tied : whether the head is the token embedding again
    dtype : of weights and arithmetic
    device : ``"cpu"`` or ``"cuda"``
    learning_rate, weight_decay, clip_norm : of AdamW and of the clipping by norm
    seed : of the initial weights and of the data

    Raises
    ------
    ValueError
        Naming the field, the value found and the value wanted.
    """

    vocab: int = 50257
    batch: int = 8
    time: int = 256
    d_model: int = 256
    blocks: int = 4
    heads: int = 4
    ffn: int = 512
    tied: bool = True
    dtype: str = "float32"
    device: str = "cpu"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab", "batch", "d_model", "blocks", "heads", "ffn"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.time < 2:
            raise ValueError(f"time must be >= 2, a token and the next one, got {self.time}")
        if self.d_model % self.heads:
            raise ValueError(f"d_model must be divisible by heads, got {self.d_model} and {self.heads}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}")
        if self.device not in ("cpu", "cuda"):
            raise ValueError(f"device must be cpu or cuda, got {self.device!r}")

    @property
    def tokens(self) -> int:
        """Tokens of a step, B T."""
        return self.batch * self.time

    @property
    def flops(self) -> int:
        """Operations of one training step by formula; see :func:`training_flops`."""
        return training_flops(self)

    def batches(self, count: int) -> np.ndarray:
        """`count` batches of uniform token ids, (count, B, T), int64: the same for everyone who asks."""
        import numpy as np

        return np.random.default_rng(self.seed + 1).integers(0, self.vocab, (count, self.batch, self.time))

    def model_config(self) -> dict[str, Any]:
        """The settings of this library's CustomTransformer."""
        return {
            "vocab_size": self.vocab,
            "max_seq_len": self.time,
            "n_blocks": self.blocks,
            "n_heads": self.heads,
            "d_model": self.d_model,
            "d_ffn": self.ffn,
            "tied_head": self.tied,
            "dtype": self.dtype,
            "device": self.device,
            "seed": self.seed,
        }


def training_flops(w: Workload) -> int:
    """Model operations of a forward and backward pass: what the maths needs, whoever does it.

    A product of (M, K) and (K, N) takes 2 M K N. Only matrix products are counted: the four projections
    (8 C^2 a token), the feed-forward part (4 C F), the scores and the weighted sum over the causal triangle
    alone (4 C (T + 1) / 2 on average), and the head (2 C V). The backward pass has two products for each of
    the forward's, so the whole is three times the forward pass. What is computed again to save memory, the
    optimizer and everything elementwise count for nothing, so the share of the GEMM rate is never flattered.
    """
    per_token = w.blocks * (8 * w.d_model**2 + 4 * w.d_model * w.ffn) + 2 * w.d_model * w.vocab
    attention = w.blocks * w.batch * 2 * w.d_model * w.time * (w.time + 1)
    return 3 * (w.tokens * per_token + attention)

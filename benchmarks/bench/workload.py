"""The training job that is timed: sizes, data, and how many operations it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np

IGNORED = -100


class Training(Protocol):
    """What a comparison of training steps must know of what is trained.

    Attributes
    ----------
    modules : the worker modules of our side and of torch's
    dtype, device : of the arithmetic
    """

    modules: ClassVar[tuple[str, str]]
    dtype: str
    device: str

    @property
    def benchmark(self) -> str:
        """The name that its record has."""

    @property
    def tokens(self) -> int:
        """Tokens of a step."""

    @property
    def flops(self) -> int:
        """Operations of a step; see :func:`training_flops`."""


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

    benchmark: ClassVar[str] = "transformer"
    modules: ClassVar[tuple[str, str]] = ("ours", "twin")

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
        head = 2 * self.tokens * self.d_model * self.vocab
        return training_flops(self.blocks, self.batch, self.time, self.d_model, self.ffn, causal=True, head=head)

    def batches(self, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """`count` pairs of ids and labels, (B, T) int64, the same for everyone who asks.

        Ids are uniform, and the labels are the ids: it is the model that shifts them.
        """
        import numpy as np

        ids = np.random.default_rng(self.seed + 1).integers(0, self.vocab, (count, self.batch, self.time))
        return [(batch, batch) for batch in ids]

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


def training_flops(blocks: int, batch: int, time: int, width: int, ffn: int, *, causal: bool, head: int) -> int:
    """Model operations of a forward and backward pass: what the maths needs, whoever does it.

    A product of (M, K) and (K, N) takes 2 M K N. Only matrix products are counted: the four projections
    (8 C^2 a token), the feed-forward part (4 C F), the scores and the weighted sum (4 C for each pair of tokens of
    which one may see the other: of a causal model those of the triangle alone), and the head. The backward pass has
    two products for each of the forward's, so the whole is three times the forward pass. What is computed again to
    save memory, the optimizer and everything elementwise count for nothing, so the share of the GEMM rate is never
    flattered.

    Parameters
    ----------
    blocks, batch, time, width, ffn : L, B, T, C, F
    causal : whether a token sees only those before it, and itself
    head : operations of the head's forward pass, in which only tokens with a label need be
    """
    pairs = time * (time + 1) // 2 if causal else time * time
    per_token = 8 * width**2 + 4 * width * ffn
    return 3 * (blocks * (batch * time * per_token + batch * 4 * width * pairs) + head)

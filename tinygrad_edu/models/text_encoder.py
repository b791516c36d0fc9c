"""A small encoder of text: what a diffusion is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..backend import Array, Generator, asarray, device_of, namespace, use
from ..errors import ConfigError, ShapeError, format_shape
from ..layers import Dropout, Embedding, LayerNorm, LearnedPositions, TransformerBlock, TransformerEncoder
from ..layers.embedding import check_ids
from .config import ModelConfig, count, number, optional
from .network import Network


@dataclass
class TextEncoderConfig(ModelConfig):
    """Settings of :class:`TextEncoder`; all mistakes are reported at once.

    Attributes
    ----------
    vocab_size : V, token ids are in [0, V)
    max_seq_len : longest sequence
    d_model, n_blocks, n_heads : width, blocks, heads
    d_ffn : width inside the feed-forward part; None for 4 d_model
    dropout : in [0, 1)
    init_std : standard deviation of the initial tables
    seed, device, dtype : as in :class:`~tinygrad_edu.models.config.ModelConfig`
    """

    vocab_size: int = count()
    max_seq_len: int = count(64)
    d_model: int = count(128)
    n_blocks: int = count(2)
    n_heads: int = count(4)
    d_ffn: int | None = optional(count(1))
    dropout: float = number(0.0, 0.0, 1.0)
    init_std: float = number(0.02)

    @classmethod
    def _conflicts(cls, settings: dict[str, Any]) -> list[str]:
        width, heads = settings["d_model"], settings["n_heads"]
        return [f"d_model must be divisible by n_heads, got {width} and {heads}"] if width % heads else []


class TextEncoder(Network):
    """Token ids to a vector for each token and one for the whole: a transformer that looks both ways.

    Tokens and learned positions, blocks with their norms before the branches, and a last norm. The sequence is what
    the attention of a :class:`ConditionalUNet` looks at; the vector is its mean over the tokens that are no padding.

    Parameters
    ----------
    vocab_size, max_seq_len, d_model, n_blocks, n_heads, d_ffn, dropout, init_std : as in :class:`TextEncoderConfig`
    flat : whether to lay the parameters in one buffer; see :meth:`Layer.flatten`
    common : seed, device, dtype

    Raises
    ------
    ConfigError
        Listing every setting that is not allowed.

    Examples
    --------
    >>> encoder = TextEncoder(vocab_size=1000, d_model=64)
    >>> sequence, vector = encoder(ids, mask)  # (B, L, 64), (B, 64)
    >>> encoder.backward(dsequence, dvector)
    """

    model_type = "text_encoder"
    config_class: ClassVar[type[ModelConfig]] = TextEncoderConfig

    def __init__(
        self,
        vocab_size: int,
        max_seq_len: int = 64,
        d_model: int = 128,
        n_blocks: int = 2,
        n_heads: int = 4,
        d_ffn: int | None = None,
        dropout: float = 0.0,
        init_std: float = 0.02,
        *,
        flat: bool = True,
        **common: Any,
    ):
        super().__init__()
        self.config = c = TextEncoderConfig(
            vocab_size, max_seq_len, d_model, n_blocks, n_heads, d_ffn, dropout, init_std, **common
        )
        with use(c.device):
            self.generator = generator = Generator(c.seed)
            self.token_embedding = Embedding(vocab_size, d_model, generator, init_std)
            self.position = LearnedPositions(max_seq_len, d_model, generator, init_std)
            self.dropout = Dropout(dropout, generator)
            hidden = 4 * d_model if d_ffn is None else d_ffn
            blocks = (TransformerBlock(d_model, n_heads, hidden, dropout, generator=generator) for _ in range(n_blocks))
            self.encoder = TransformerEncoder(blocks, LayerNorm(d_model))
        self._settle(flat)

    def _inputs(self, input_ids: Any, mask: Any) -> tuple[Array, Array]:
        """Ids and mask, checked, on the device of the model."""
        c = self.config
        with use(device_of(self.token_embedding.weight.data)):
            ids = asarray(input_ids)
            mask = None if mask is None else asarray(mask) != 0
        if ids.ndim != 2 or ids.size == 0:
            raise ShapeError(
                f"TextEncoder: input_ids must be (batch, time), not empty, got {format_shape(tuple(ids.shape))}"
            )
        if ids.shape[1] > c.max_seq_len:
            raise ShapeError(
                f"TextEncoder: sequence of length {ids.shape[1]} is longer than max_seq_len {c.max_seq_len}"
            )
        check_ids("TextEncoder", ids, c.vocab_size)
        if mask is None:
            mask = namespace(ids).ones(ids.shape, dtype=bool)
        if mask.shape != ids.shape:
            raise ShapeError(
                f"TextEncoder: mask must have the shape of input_ids, {format_shape(tuple(ids.shape))}, "
                f"got {format_shape(tuple(mask.shape))}"
            )
        return ids, mask

    def forward(self, input_ids: Any, mask: Any = None) -> tuple[Array, Array]:
        """Encode a batch of texts.

        Parameters
        ----------
        input_ids : (B, L) integers in [0, V)
        mask : (B, L), False or 0 at padding

        Returns
        -------
        sequence : (B, L, C)
        vector : (B, C), the mean of the sequence over what is no padding; zeros where all is

        Raises
        ------
        ShapeError, DtypeError, RangeError
            For ids and masks that do not fit the model or each other.
        """
        ids, mask = self._inputs(input_ids, mask)
        x = self.dropout(self.position(self.token_embedding(ids)))
        x = self.encoder(x, mask[:, None, None, :])
        seen = mask[:, :, None].astype(x.dtype)
        share = seen / namespace(seen).maximum(seen.sum(axis=1, keepdims=True), 1)  # (B, L, 1)
        self.save(share)
        return x, (x * share).sum(axis=1)

    def backward(self, dsequence: Array | None, dvector: Array | None = None) -> None:
        """Accumulate all gradients, from that of the sequence, of the vector, or of both; ids have none."""
        share = self.saved()
        if dsequence is None and dvector is None:
            raise ConfigError("TextEncoder.backward: wanted the gradient of the sequence, of the vector, or of both")
        if dvector is not None:  # the mean passes to each token its share
            spread = dvector[:, None, :] * share
            dsequence = spread if dsequence is None else dsequence + spread
        dx = self.encoder.backward(dsequence)
        self.token_embedding.backward(self.position.backward(self.dropout.backward(dx)))

"""Attention masks: booleans, True where a query may look (as in torch's scaled_dot_product_attention)."""

from __future__ import annotations

from ..backend import Array, asarray, device_of, to_device
from ..errors import ShapeError, format_shape
from .base import check_positive


def create_padding_mask(input_ids: Array, pad_token_id: int) -> Array:
    """True at real tokens, False at padding.

    Parameters
    ----------
    input_ids : (B, T)

    Returns
    -------
    (B, 1, 1, T), the same for every head and query
    """
    if input_ids.ndim != 2:
        raise ShapeError(f"create_padding_mask: expected (batch, time) ids, got {format_shape(tuple(input_ids.shape))}")
    return (input_ids != pad_token_id)[:, None, None, :]


def create_causal_mask(length: int) -> Array:
    """True where the key is not later than the query: the lower triangle, (1, 1, length, length)."""
    check_positive("create_causal_mask", length=length)
    places = asarray(list(range(length)))
    return (places[:, None] >= places[None, :])[None, None]


def create_combined_mask(input_ids: Array, pad_token_id: int) -> Array:
    """True where the key is real and not later than the query.

    Parameters
    ----------
    input_ids : (B, T)

    Returns
    -------
    (B, 1, T, T)
    """
    padding = create_padding_mask(input_ids, pad_token_id)
    return padding & to_device(create_causal_mask(input_ids.shape[1]), device_of(input_ids))

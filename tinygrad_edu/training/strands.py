"""Scoring a recurrent model whose state goes on: the text in parallel strands, read from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backend import asarray, device_of, to_host, use
from ..errors import DataError
from ..layers.embedding import check_ids
from ..losses import linear_cross_entropy
from ..models import BaseLanguageModel
from ..models.base import IGNORE_INDEX

Ids = NDArray[Any]


def strand_losses(
    model: BaseLanguageModel, ids: Ids, seq_len: int, strands: int, max_chunks: int | None = None
) -> Iterator[tuple[Ids, Ids, Ids]]:
    """Loss of each token of a text but the first, the state carried from chunk to chunk.

    The text is cut into strands of (nearly) one length that begin with an empty state; each token is predicted
    from all that its strand has before it.

    Parameters
    ----------
    model : a causal model that keeps its state in caches
    ids : (tokens,) integers
    seq_len : tokens of a chunk
    strands : how many are read side by side
    max_chunks : read only so many chunks from the beginning of each strand, which lie evenly over the text

    Yields
    ------
    losses, correct : (strands, seq_len), 0 and False past the end of a strand
    scored : the ids that were predicted

    Raises
    ------
    DataError
        For a text of fewer than 2 tokens.
    """
    predictions = len(ids) - 1
    if predictions < 1:
        raise DataError(f"tokens: {len(ids)} in the split, wanted at least 2: one to predict from, one to predict")
    bounds = np.linspace(0, predictions, min(strands, predictions) + 1).astype(int)
    starts, lengths = bounds[:-1], np.diff(bounds)
    if max_chunks is not None:
        lengths = np.minimum(lengths, max_chunks * seq_len)
    caches = model.new_caches(int(lengths.max()))
    device = device_of(next(model.parameters()).data)
    for at in range(0, int(lengths.max()), seq_len):
        within = np.arange(at, min(at + seq_len, int(lengths.max())))
        inside = within < lengths[:, None]  # (strands, T); past the end only at the last chunk
        places = np.minimum(starts[:, None] + within, predictions - 1)
        targets = np.where(inside, ids[places + 1].astype(np.int64), IGNORE_INDEX)  # ids may be unsigned
        with use(device), model.evaluating():
            read = asarray(ids[places].astype(np.int64))
            check_ids("tokens", read, model.vocab_size)
            x = model.features(read, caches=caches)
            bias = model.head_bias
            losses, predicted = linear_cross_entropy(
                x.reshape(-1, x.shape[-1]),
                model.head_weight.data,
                None if bias is None else bias.data,
                asarray(targets).reshape(-1),
                IGNORE_INDEX,
                0.0,
            )
        yield (
            to_host(losses).reshape(targets.shape),
            to_host(predicted).reshape(targets.shape) == targets,
            targets[inside],
        )

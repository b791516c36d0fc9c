"""A language model on disk: config, weights, optimizer and generators, in one checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from .. import optim
from ..errors import CheckpointError, TinygradEduError
from ..storage import load_checkpoint, save_checkpoint
from .base import BaseLanguageModel

Model = TypeVar("Model", bound=BaseLanguageModel)


def save_model(model: BaseLanguageModel, path: str | os.PathLike[str], config: dict[str, Any]) -> Path:
    """Save `model` as a checkpoint in the folder `path`, atomically; see :func:`tinygrad_edu.storage.save_checkpoint`.

    Returns
    -------
    The folder of this checkpoint, inside `path`.
    """
    document: dict[str, Any] = {
        "model_type": model.model_type,
        "config": config,
        "clip_norm": model.clip_norm,
        "label_smoothing": model.label_smoothing,
        "generators": [generator.get_state() for generator in model.generators()],
        "optimizer": None,
    }
    arrays = {"model": model.state_dict()}
    if carried := model.carried_state():
        arrays["carried"] = carried
    step = 0
    if model.optimizer is not None:
        state = model.optimizer.state_dict()
        arrays["optimizer"] = state.pop("arrays")
        document["optimizer"] = {"type": type(model.optimizer).__name__, **state}
        step = state["step"]
    return save_checkpoint(path, step, arrays, {"model": document})


def load_model(kind: type[Model], path: str | os.PathLike[str]) -> Model:
    """The model that :func:`save_model` saved in `path`: the newest intact checkpoint there, or the one it names.

    Raises
    ------
    CheckpointError
        If it is damaged, or holds another kind of model.
    """
    checkpoint = load_checkpoint(path)
    document = checkpoint.documents.get("model")
    if not isinstance(document, dict) or document.get("model_type") != kind.model_type:
        found = document.get("model_type") if isinstance(document, dict) else None
        raise CheckpointError(f"{checkpoint.path}: expected a model of type {kind.model_type!r}, found {found!r}")
    try:
        model: Model = kind(document["config"])  # type: ignore[call-arg]  # every architecture takes its config
        model.clip_norm, model.label_smoothing = document["clip_norm"], document["label_smoothing"]
        model.load_state_dict(checkpoint.arrays["model"])
        model.load_carried_state(checkpoint.arrays.get("carried", {}))
        if document["optimizer"] is not None:
            state = dict(document["optimizer"])
            model.optimizer = getattr(optim, state.pop("type"))(model)
            model.optimizer.load_state_dict({**state, "arrays": checkpoint.arrays.get("optimizer", {})})
        for generator, generator_state in zip(model.generators(), document["generators"], strict=True):
            generator.set_state(generator_state)
    except (KeyError, AttributeError, TypeError, ValueError, TinygradEduError) as error:
        raise CheckpointError(f"{checkpoint.path} does not hold a whole {kind.__name__}: {error}") from error
    return model

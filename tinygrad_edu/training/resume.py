"""What a checkpoint holds of a run, and going on from it: everything that must fit is checked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from ..backend import to_host
from ..errors import CheckpointError, DataError, ShapeError
from ..storage import Checkpoint
from .config import config_differences
from .fingerprint import environment_fingerprint, fingerprint_differences
from .state import TrainerState

if TYPE_CHECKING:
    from .trainer import Trainer

#: Settings that may change on resuming: none of them touches a weight.
NEUTRAL = frozenset(
    f"training.{name}"
    for name in (
        *("output_dir", "log_every", "save_every", "eval_every", "eval_batches", "keep_checkpoints", "tensorboard"),
        *("sample_prompt", "sample_tokens", "max_seconds", "early_stopping_patience"),
    )
)
#: Under these schedules the learning rate does not depend on where training ends.
_OPEN_ENDED = ("constant", "noam")


class ResumeWarning(UserWarning):
    """The resumed run is not guaranteed to equal an uninterrupted one bit for bit."""


def snapshot(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """All that a resumed run needs: plain data, and arrays in groups.

    The group ``ema`` is there if averaged weights are kept: they are what was evaluated, and what the trained
    model is to be used with (:func:`trained_weights`). The group ``carried`` is the state that a recurrent
    model carries from batch to batch.
    """
    model, optimizer = trainer.model, trainer.optimizer.state_dict()
    arrays: dict[str, Mapping[str, Any]] = {"model": model.state_dict(), "optimizer": optimizer.pop("arrays")}
    average = None if trainer.ema is None else trainer.ema.state_dict()
    if average is not None:
        arrays["ema"] = average.pop("arrays")
    carried = model.carried_state() if hasattr(model, "carried_state") else {}
    if carried:
        arrays["carried"] = carried
    document = {
        "state": asdict(trainer.state),
        "loader": trainer.loader.state_dict(),
        "generators": [generator.get_state() for generator in model.generators()],
        "optimizer": optimizer,
        "ema": average,
        "callbacks": {callback.name: callback.state_dict() for callback in trainer.callbacks if callback.name},
        "fingerprint": environment_fingerprint(),
    }
    return document, {group: {name: to_host(a) for name, a in part.items()} for group, part in arrays.items()}


def trained_weights(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The weights to use a trained model with: the averaged ones, if the run kept such, else the model's own.

    Raises
    ------
    CheckpointError
        If it holds neither.
    """
    weights = checkpoint.arrays.get("ema") or checkpoint.arrays.get("model")
    if not weights:
        raise CheckpointError(f"{checkpoint.path}: holds no weights of a model")
    return weights


def restore(trainer: Trainer, checkpoint: Checkpoint, *, accept_changes: bool) -> None:
    """Put `trainer` where the run stood that saved `checkpoint`; see :meth:`Trainer.resume`."""
    document = checkpoint.documents.get("trainer")
    parts = ("state", "loader", "generators", "optimizer", "callbacks", "fingerprint")
    if not isinstance(document, Mapping) or any(part not in document for part in parts):
        raise CheckpointError(f"{checkpoint.path}: holds no state of a trainer (weights only?); it cannot be resumed")
    _check_config(trainer, checkpoint, accept_changes)
    _check_fingerprint(document["fingerprint"])
    try:
        _restore_model(trainer, checkpoint, document["generators"])
        _restore_optimizer(trainer, checkpoint, document["optimizer"])
        _restore_average(trainer, checkpoint, document.get("ema"), accept_changes)
        trainer.state = _state_from(document["state"])
        for callback in trainer.callbacks:
            if callback.name in document["callbacks"]:
                callback.load_state_dict(document["callbacks"][callback.name])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{checkpoint.path}: trainer.json does not fit: {error!r}") from error
    _restore_loader(trainer, document["loader"], checkpoint, accept_changes)


def _check_config(trainer: Trainer, checkpoint: Checkpoint, accept_changes: bool) -> None:
    before, now = checkpoint.documents.get("config"), trainer.documents.get("config")
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return
    neutral = set(NEUTRAL)
    if trainer.settings.schedule in _OPEN_ENDED:
        neutral |= {"training.max_steps", "training.num_epochs"}
    different = config_differences(before, now, ignore=neutral)
    if different and not accept_changes:
        listed = "".join(f"\n  {line}" for line in different)
        raise CheckpointError(
            f"{checkpoint.path}: was saved under other settings:{listed}\n"
            "Resume with the settings it was saved under, or accept the changes (--accept-changes)"
        )
    if different:
        _warn("settings have changed: " + "; ".join(different))


def _check_fingerprint(before: Mapping[str, Any]) -> None:
    different = fingerprint_differences(before, environment_fingerprint())
    if different:
        _warn("the machine or its software is another: " + "; ".join(different))


def _warn(reason: str) -> None:
    warnings.warn(
        f"the resumed run may differ in its last bits from an uninterrupted one: {reason}",
        ResumeWarning,
        stacklevel=5,
    )


def _restore_model(trainer: Trainer, checkpoint: Checkpoint, generators: Any) -> None:
    arrays = checkpoint.arrays.get("model", {})
    own = {name: array.dtype for name, array in trainer.model.state_dict().items()}
    found = {name: array.dtype for name, array in arrays.items()}
    other = [f"{n}: {found[n]}, wanted {own[n]}" for n in own if found.get(n, own[n]) != own[n]]
    if other:
        raise CheckpointError(f"{checkpoint.path}: weights of another dtype:\n  " + "\n  ".join(other))
    mine = list(trainer.model.generators())
    if len(generators) != len(mine):
        raise CheckpointError(
            f"{checkpoint.path}: {len(generators)} random generators, wanted {len(mine)}: another model"
        )
    try:
        trainer.model.load_state_dict(arrays)
    except ShapeError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    for generator, state in zip(mine, generators, strict=True):
        generator.set_state(state)
    if hasattr(trainer.model, "load_carried_state"):
        trainer.model.load_carried_state(checkpoint.arrays.get("carried", {}))


def _restore_optimizer(trainer: Trainer, checkpoint: Checkpoint, saved: Mapping[str, Any]) -> None:
    # Hyperparameters come from the settings of this run: equal to the saved ones, or accepted as changed.
    own = trainer.optimizer.state_dict()["hyperparameters"]
    state = {
        "kind": saved["kind"],
        "step": saved["step"],
        "steps": saved["steps"],
        "hyperparameters": {**own, "lr": saved["hyperparameters"]["lr"]},
        "arrays": checkpoint.arrays.get("optimizer", {}),
    }
    try:
        trainer.optimizer.load_state_dict(state)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def _restore_average(trainer: Trainer, checkpoint: Checkpoint, saved: Any, accept_changes: bool) -> None:
    """The averaged weights. Without saved ones they can only begin with the weights of this checkpoint."""
    if trainer.ema is None:
        if saved is not None and not accept_changes:
            raise CheckpointError(f"{checkpoint.path}: holds averaged weights, but ema_decay is null")
        return
    if saved is None and not accept_changes:
        raise CheckpointError(f"{checkpoint.path}: holds no averaged weights, but ema_decay is {trainer.ema.decay}")
    if saved is None:
        _warn("averaged weights were not kept before and begin with the weights as they are")
        saved = {"updates": 0}
        arrays = checkpoint.arrays["model"]
    else:
        arrays = checkpoint.arrays.get("ema", {})
    trainer.ema.load_state_dict({**saved, "arrays": arrays})


def _state_from(saved: Mapping[str, Any]) -> TrainerState:
    wanted = {field.name: type(field.default) for field in fields(TrainerState)}
    if saved.keys() != wanted.keys():
        raise CheckpointError(f"trainer state: fields {sorted(saved)}, wanted {sorted(wanted)}")
    for name, kind in wanted.items():
        if type(saved[name]) is not kind:
            raise CheckpointError(f"trainer state: {name} is {saved[name]!r}, wanted {kind.__name__}")
    return TrainerState(**saved)


def _restore_loader(trainer: Trainer, state: Any, checkpoint: Checkpoint, accept_changes: bool) -> None:
    try:
        trainer.loader.load_state_dict(state)
    except DataError as error:
        if not accept_changes:
            raise CheckpointError(
                f"{checkpoint.path}: {error}\nResume with the data it was saved under, or accept the change "
                "(--accept-changes): then this data is read from its beginning"
            ) from error
        _warn(f"the data is another and is read from its beginning: {error}")

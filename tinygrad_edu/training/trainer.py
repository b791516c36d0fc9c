"""The training loop: steps, evaluations, checkpoints, and stopping well."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ..errors import ConfigError, NonFiniteError
from ..layers.base import Layer
from ..metrics import LanguageScore
from ..optim import SGD, Adam, AdamW, ExponentialMovingAverage, Optimizer, clip_factor, grad_norm, make_schedule
from ..storage import Checkpoint, save_checkpoint
from .batches import Loader, as_loader, grouped
from .callbacks import Callback, EarlyStopping, StepReport, TensorBoard
from .diagnosis import locate_nonfinite
from .evaluation import EvaluationStopped
from .resume import restore, snapshot
from .schema import TrainingSection
from .signals import StopSignals
from .state import TrainerState, TrainingResult
from .trainable import Batch, LayerWithLoss, as_trainable, size_of, unit_of

__all__ = ["Evaluate", "Trainer", "TrainerState", "TrainingResult", "make_optimizer"]

#: Scores the model on held-out data: figures with ``"loss"`` among them, the lower the better. The function it is
#: given says whether to give up (by EvaluationStopped).
Evaluate = Callable[[Callable[[], bool]], LanguageScore | Mapping[str, Any]]


def make_optimizer(settings: TrainingSection, model: Layer) -> Optimizer:
    """The optimizer that `settings` name, over all parameters of `model`."""
    s = settings
    if s.optimizer == "sgd":
        return SGD(model, lr=s.learning_rate, momentum=s.momentum, weight_decay=s.weight_decay)
    kind = AdamW if s.optimizer == "adamw" else Adam
    return kind(model, lr=s.learning_rate, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay)


def _figures(score: LanguageScore | Mapping[str, Any]) -> dict[str, Any]:
    """What the history says of a score."""
    if not isinstance(score, LanguageScore):
        return dict(score)
    bits = score.bits_per_byte
    return {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "accuracy": score.accuracy,
        "bits_per_byte": bits if math.isfinite(bits) else None,
    }


class Trainer:
    """Trains a model: a language model, or any layer tree with a loss.

    Parameters
    ----------
    model : a language model of the library, or another :class:`~tinygrad_edu.training.Trainable`; with `loss`
        any layer
    loader : batches of training data, each a tuple (arguments by position) or a mapping (by name); a list of
        them will do
    settings : how to train
    loss : of a layer that brings none of its own; see :class:`~tinygrad_edu.training.LayerWithLoss`
    optimizer : what applies the gradients; made from `settings` if None
    evaluate : scores held-out data; without it nothing is evaluated and no checkpoint is marked best. Where
        averaged weights are kept, the model has them meanwhile
    callbacks : told of steps, records and checkpoints, in this order. Early stopping and TensorBoard are added
        where `settings` ask for them
    checkpoints : root folder of the checkpoints; without it none are saved
    documents : further JSON documents that go into every checkpoint; ``"config"`` is compared on resuming

    Attributes
    ----------
    state : :class:`TrainerState`
    total_steps : steps in all, from max_steps and num_epochs
    steps_per_epoch : steps that an epoch has, the last perhaps of fewer batches than the others
    ema : the averaged weights, or None
    unit : what is counted, ``"tokens"`` or ``"examples"``

    Raises
    ------
    ConfigError, DataError
        For a model without a loss, a loader without batches, settings that do not go together.

    Examples
    --------
    >>> trainer = Trainer(model, loader, TrainingSection(max_steps=100))  # doctest: +SKIP
    >>> trainer.fit().step  # doctest: +SKIP
    100
    """

    def __init__(
        self,
        model: Layer,
        loader: Any,
        settings: TrainingSection,
        *,
        loss: Layer | None = None,
        optimizer: Optimizer | None = None,
        evaluate: Evaluate | None = None,
        callbacks: Iterable[Callback] = (),
        checkpoints: str | Path | None = None,
        documents: Mapping[str, Any] | None = None,
    ):
        self.trainable = as_trainable(model, loss)
        self.model, self.settings = model, settings
        self.loader: Loader = as_loader(loader)
        self.unit = unit_of(self.trainable)
        self.optimizer = make_optimizer(settings, model) if optimizer is None else optimizer
        self.ema = None if settings.ema_decay is None else ExponentialMovingAverage(model, settings.ema_decay)
        self.evaluate = evaluate
        self.checkpoints = None if checkpoints is None else Path(checkpoints)
        self.documents = dict(documents or {})
        self.callbacks = tuple(callbacks)
        self._add_callbacks()
        self._smooth_labels()
        self.state = TrainerState()
        self.set_length(settings)
        self._signals = StopSignals()
        self._ended_by = ""
        self._saved_at: int | None = None
        self._newest: Path | None = None

    def _add_callbacks(self) -> None:
        """What the settings ask for and was not given."""
        s = self.settings
        if s.early_stopping_patience is not None and not self._has(EarlyStopping):
            if self.evaluate is None:
                raise ConfigError(
                    f"early_stopping_patience: {s.early_stopping_patience} evaluations are waited for, but there is "
                    "no validation data to evaluate on"
                )
            self.callbacks += (EarlyStopping(s.early_stopping_patience),)
        if s.tensorboard and not self._has(TensorBoard):
            if self.checkpoints is None:
                raise ConfigError(
                    "tensorboard: there is no run folder to write to; give callbacks=[TensorBoard(folder)] instead"
                )
            self.callbacks += (TensorBoard(self.checkpoints.parent / "tensorboard"),)

    def _has(self, kind: type[Callback]) -> bool:
        return any(isinstance(callback, kind) for callback in self.callbacks)

    def _smooth_labels(self) -> None:
        smoothing = self.settings.label_smoothing
        if isinstance(self.trainable, LayerWithLoss):  # a loss given with a smoothing of its own keeps it
            if not smoothing:
                return
            target = self.trainable.loss
        else:
            target = self.model
        if not hasattr(target, "label_smoothing"):
            if not smoothing:
                return
            raise ConfigError(f"label_smoothing: {smoothing}, but {type(target).__name__} has no labels to smooth")
        target.label_smoothing = smoothing

    def set_length(self, settings: TrainingSection) -> None:
        """Train under the length and schedule of `settings` from now on: longer, or with another course.

        All else that `settings` say counts as well, but what was made of them before: the optimizer, the
        averaged weights, the callbacks.
        """
        self.settings = settings
        self.steps_per_epoch = -(-len(self.loader) // settings.gradient_accumulation_steps)
        epochs = settings.num_epochs
        if epochs is None and settings.max_steps is None:
            epochs = 1
        limits = [settings.max_steps, None if epochs is None else epochs * self.steps_per_epoch]
        self.total_steps = min(limit for limit in limits if limit is not None)
        warmup = settings.warmup_steps
        self.schedule = make_schedule(
            settings.schedule,
            lr=settings.learning_rate,
            total_steps=self.total_steps,
            warmup_steps=self.total_steps // 20 if warmup is None else warmup,
            min_lr=settings.min_learning_rate,
        )

    # -- the loop -------------------------------------------------------------------------------------

    def fit(self) -> TrainingResult:
        """Train up to :attr:`total_steps`, to the time limit, or until SIGINT or SIGTERM.

        The first signal lets the step end, saves a checkpoint and returns; the second raises
        KeyboardInterrupt at once.

        Raises
        ------
        NonFiniteError
            If a loss or gradient is not finite and may not be skipped (any more); the weights are those
            from before that step.
        CheckpointError
            If a checkpoint cannot be written.
        """
        groups = self._groups()
        self._signals.requested, self._ended_by = False, ""
        with self._signals:
            try:
                for callback in self.callbacks:
                    callback.on_start(self)
                while True:
                    self._watch_the_time()
                    if self._evaluation_is_due():
                        self._evaluate()
                    if self._save_is_due():
                        self._save()
                    interrupted = self._signals.requested
                    if interrupted or self._ended_by or self.state.step >= self.total_steps:
                        break
                    self._step(next(groups))
                if self._ended_by and self.state.window_steps:
                    self._record_window(self.optimizer.lr)
                if self._saved_at != self.state.step:
                    self._save()
            finally:
                for callback in self.callbacks:
                    callback.on_end()
        return TrainingResult(self.state.step, interrupted, self._newest, self._ended_by)

    def stop(self) -> None:
        """End :meth:`fit` after the step at hand, as the first Ctrl-C does: to be gone on with."""
        self._signals.requested = True

    def finish(self, reason: str) -> None:
        """End :meth:`fit` after the step at hand as though it were the last: nothing is left to be done.

        Parameters
        ----------
        reason : what :attr:`TrainingResult.reason` then says
        """
        self._ended_by = self._ended_by or reason

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the model has the averaged weights; its own, if none are kept."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def _watch_the_time(self) -> None:
        limit = self.settings.max_seconds
        if limit is not None and self.state.seconds >= limit and self.state.step < self.total_steps:
            self.finish(f"{self.state.seconds:.1f} seconds of training, of max_seconds {limit:g}")

    def _groups(self) -> Iterator[list[Batch]]:
        """The batches of each step."""
        for group in grouped(self.loader, self.settings.gradient_accumulation_steps, self._forget_state):
            yield [Batch.of(batch) for batch in group]

    def _forget_state(self) -> None:
        """A recurrent model does not go on from the end of the text to its beginning, nor from NaN."""
        forget = getattr(self.model, "forget_state", None)
        if forget is not None:
            forget()

    def _step(self, group: list[Batch]) -> None:
        began = time.perf_counter()
        model, state, clip = self.model, self.state, self.settings.clip_norm
        learning_rate = self.schedule(state.step)
        model.train()
        model.zero_grad()
        buffers = [(buffer, buffer.data.copy()) for buffer in model.buffers()]
        loss = self._forward_backward(group)
        for callback in self.callbacks:
            callback.on_gradients(state.step + 1)
        norm = grad_norm(model, error_if_nonfinite=False)
        state.step += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            for buffer, values in buffers:  # one NaN would stay in a running mean for good
                buffer.data[...] = values
            self._skip_or_stop(loss, norm, group)
            return
        self.optimizer.step(learning_rate, grad_scale=clip_factor(norm, clip))
        if self.ema is not None:
            self.ema.update()
        state.skipped_in_row = 0
        seconds = time.perf_counter() - began
        tokens = sum(size_of(batch, self.unit) for batch in group)
        state.tokens += tokens
        state.seconds += seconds
        state.window_steps += 1
        state.window_loss += loss
        state.window_norm += norm
        state.window_tokens += tokens
        state.window_seconds += seconds
        report = StepReport(state.step, loss, norm, learning_rate, tokens, seconds)
        for callback in self.callbacks:
            callback.on_step(report)
        if state.step % self.settings.log_every == 0 or state.step == self.total_steps:
            self._record_window(learning_rate)

    def _forward_backward(self, group: list[Batch]) -> float:
        """Loss of all targets of the batches, and its gradient: the same as of one batch that holds them all."""
        if len(group) == 1:
            return float(self.trainable.forward_backward(*group[0].args, **group[0].named))
        divisor = sum(self.trainable.count_targets(*batch.args, **batch.named) for batch in group)
        if not divisor > 0:
            raise ConfigError(f"the {len(group)} batches of a step have no targets, so there is nothing to learn from")
        losses = [self.trainable.forward_backward(*batch.args, divisor=divisor, **batch.named) for batch in group]
        return math.fsum(map(float, losses))

    def _record_window(self, learning_rate: float) -> None:
        state, unit = self.state, self.unit
        record = {
            "event": "train",
            "step": state.step,
            "epoch": self.epoch,
            "loss": state.window_loss / state.window_steps,
            "grad_norm": state.window_norm / state.window_steps,
            "learning_rate": learning_rate,
            unit: state.tokens,
            f"{unit}_per_second": round(state.window_tokens / max(state.window_seconds, 1e-9), 1),
            "seconds": round(state.seconds, 3),
        }
        state.window_steps = state.window_tokens = 0
        state.window_loss = state.window_norm = state.window_seconds = 0.0
        self.record(record)

    @property
    def epoch(self) -> float:
        """Passes over the training data so far."""
        return round(self.loader.epoch + self.loader.position / len(self.loader), 6)

    def record(self, record: Mapping[str, Any]) -> None:
        """Put a line into the history: every callback is told of it.

        Parameters
        ----------
        record : plain data with at least ``"event"`` and ``"step"``
        """
        for callback in self.callbacks:
            callback.on_record(record)

    def _skip_or_stop(self, loss: float, norm: float, group: list[Batch]) -> None:
        """A step whose loss or gradient is not finite: leave it out if that is still allowed."""
        state, limit = self.state, self.settings.max_skipped_steps
        state.skipped += 1
        state.skipped_in_row += 1
        self._forget_state()
        if state.skipped_in_row <= limit:
            self.record({"event": "skipped", "step": state.step, "loss": loss, "grad_norm": norm})
            return
        where = locate_nonfinite(self.model, self.trainable, group)
        left_out = f", after {limit} skipped in a row" if limit else ""
        kept = f"; newest checkpoint: {self._newest}" if self._newest else ""
        raise NonFiniteError(
            f"step {state.step}{left_out}: loss {loss}, gradient norm {norm}: {where}. The weights are as "
            f"they were before it{kept}. A lower learning_rate, a longer warmup or max_skipped_steps may help"
        )

    # -- evaluation and checkpoints -------------------------------------------------------------------

    def _evaluation_is_due(self) -> bool:
        step, every = self.state.step, self.settings.eval_every
        if self.evaluate is None or every is None or step == 0 or self.state.evaluated_at == step:
            return False
        return step % every == 0 or step >= self.total_steps or bool(self._ended_by)

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        try:
            with self.averaged():
                score = self.evaluate(lambda: self._signals.requested)
        except EvaluationStopped:  # by a signal: it stays due, and a resumed run begins with it
            return
        state, figures = self.state, _figures(score)
        state.evaluated_at = state.step
        loss = float(figures["loss"])
        best = loss < state.best_loss
        if best:
            state.best_loss, state.best_step = loss, state.step
        self.record({"event": "evaluation", "step": state.step, "epoch": self.epoch, **figures, "best": best})
        if best:
            self._save(best=True)

    def _save_is_due(self) -> bool:
        step, every = self.state.step, self.settings.save_every
        return bool(every) and step > 0 and step % every == 0 and self._saved_at != step  # type: ignore[operator]

    def _save(self, *, best: bool = False) -> None:
        self._saved_at = self.state.step
        if self.checkpoints is None:
            return
        document, arrays = snapshot(self)
        self._newest = save_checkpoint(
            self.checkpoints,
            self.state.step,
            arrays,
            {**self.documents, "trainer": document},
            keep_last=self.settings.keep_checkpoints,
            best=best,
        )
        for callback in self.callbacks:
            callback.on_save(self._newest, best=best)

    def resume(self, checkpoint: Checkpoint, *, accept_changes: bool = False) -> None:
        """Go on from `checkpoint`, bit for bit as if it had never been interrupted.

        Parameters
        ----------
        checkpoint : as :func:`tinygrad_edu.storage.load_checkpoint` gives it
        accept_changes : go on although settings or data are others; what then cannot be taken over
            (the place in other data, averages that were not kept) begins anew, with a warning

        Raises
        ------
        CheckpointError
            Listing what does not fit the model, the optimizer, the settings or the data.
        """
        restore(self, checkpoint, accept_changes=accept_changes)
        self._saved_at, self._newest = self.state.step, checkpoint.path

"""The training loop: steps, evaluations, checkpoints, and stopping well."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data import TokenLoader
from ..errors import NonFiniteError
from ..metrics import LanguageScore
from ..models import BaseLanguageModel
from ..optim import SGD, Adam, AdamW, Optimizer, clip_grad_norm_, make_schedule
from ..storage import Checkpoint, save_checkpoint
from .callbacks import Callback, StepReport
from .diagnosis import locate_nonfinite
from .evaluation import EvaluationStopped
from .fingerprint import environment_fingerprint
from .schema import TrainingSection
from .signals import StopSignals

#: Scores the model on held-out text; the function it is given is evaluate_language_model's `stop`.
Evaluate = Callable[[Callable[[], bool]], LanguageScore]


@dataclass
class TrainerState:
    """All that the loop itself remembers, apart from weights, optimizer, generators and the loader.

    Attributes
    ----------
    step : steps done, skipped ones included
    tokens : seen in training
    seconds : spent in training steps, over all processes of a resumed run
    evaluated_at : step of the latest evaluation
    best_loss, best_step : of the lowest validation loss
    skipped, skipped_in_row : steps left out because of NaN or infinity
    window_* : sums since the latest line of the history
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    evaluated_at: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    window_steps: int = 0
    window_loss: float = 0.0
    window_norm: float = 0.0
    window_tokens: int = 0
    window_seconds: float = 0.0


@dataclass(frozen=True)
class TrainingResult:
    """How a call of :meth:`Trainer.fit` ended.

    Attributes
    ----------
    step : steps done in all
    interrupted : whether a signal (or :meth:`Trainer.stop`) ended it early
    checkpoint : the newest checkpoint, if any was saved
    """

    step: int
    interrupted: bool
    checkpoint: Path | None


def make_optimizer(settings: TrainingSection, model: BaseLanguageModel) -> Optimizer:
    """The optimizer that `settings` name, over all parameters of `model`."""
    s = settings
    if s.optimizer == "sgd":
        return SGD(model, lr=s.learning_rate, momentum=s.momentum, weight_decay=s.weight_decay)
    kind = AdamW if s.optimizer == "adamw" else Adam
    return kind(model, lr=s.learning_rate, betas=s.betas, eps=s.eps, weight_decay=s.weight_decay)


class Trainer:
    """Trains a language model.

    Parameters
    ----------
    model : any language model of the library
    loader : batches of training text
    settings : how to train
    optimizer : what applies the gradients; made from `settings` if None
    evaluate : scores held-out text; without it nothing is evaluated and no checkpoint is marked best
    callbacks : told of steps, records and checkpoints, in this order
    checkpoints : root folder of the checkpoints; without it none are saved
    documents : further JSON documents that go into every checkpoint; ``"config"`` is compared on resuming

    Attributes
    ----------
    state : :class:`TrainerState`
    total_steps : steps in all, from max_steps and num_epochs

    Examples
    --------
    >>> trainer = Trainer(model, loader, TrainingSection(max_steps=100))  # doctest: +SKIP
    >>> trainer.fit().step  # doctest: +SKIP
    100
    """

    def __init__(
        self,
        model: BaseLanguageModel,
        loader: TokenLoader,
        settings: TrainingSection,
        *,
        optimizer: Optimizer | None = None,
        evaluate: Evaluate | None = None,
        callbacks: Iterable[Callback] = (),
        checkpoints: str | Path | None = None,
        documents: Mapping[str, Any] | None = None,
    ):
        self.model, self.loader, self.settings = model, loader, settings
        self.optimizer = make_optimizer(settings, model) if optimizer is None else optimizer
        self.evaluate, self.callbacks = evaluate, tuple(callbacks)
        self.checkpoints = None if checkpoints is None else Path(checkpoints)
        self.documents = dict(documents or {})
        self.state = TrainerState()
        self.total_steps = self._count_steps()
        warmup = settings.warmup_steps
        self.schedule = make_schedule(
            settings.schedule,
            lr=settings.learning_rate,
            total_steps=self.total_steps,
            warmup_steps=self.total_steps // 20 if warmup is None else warmup,
            min_lr=settings.min_learning_rate,
        )
        self._signals = StopSignals()
        self._saved_at: int | None = None
        self._newest: Path | None = None

    def _count_steps(self) -> int:
        s = self.settings
        epochs = s.num_epochs if s.num_epochs is not None else None if s.max_steps is not None else 1
        limits = [s.max_steps, None if epochs is None else epochs * len(self.loader)]
        return min(limit for limit in limits if limit is not None)

    # -- the loop -------------------------------------------------------------------------------------

    def fit(self) -> TrainingResult:
        """Train up to :attr:`total_steps`, or until SIGINT or SIGTERM.

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
        batches = self._batches()
        self._signals.requested = False
        with self._signals:
            try:
                for callback in self.callbacks:
                    callback.on_start(self)
                while True:
                    if self._evaluation_is_due():
                        self._evaluate()
                    if self._save_is_due():
                        self._save()
                    interrupted = self._signals.requested
                    if interrupted or self.state.step >= self.total_steps:
                        break
                    self._step(*next(batches))
                if self._saved_at != self.state.step:
                    self._save()
            finally:
                for callback in self.callbacks:
                    callback.on_end()
        return TrainingResult(self.state.step, interrupted, self._newest)

    def stop(self) -> None:
        """End :meth:`fit` after the step at hand, as the first Ctrl-C does."""
        self._signals.requested = True

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        while True:
            yield from self.loader

    def _step(self, input_ids: Any, labels: Any) -> None:
        began = time.perf_counter()
        model, state, clip = self.model, self.state, self.settings.clip_norm
        learning_rate = self.schedule(state.step)
        model.train()
        model.zero_grad()
        loss = model.forward_backward(input_ids, labels)
        norm = clip_grad_norm_(model, math.inf if clip is None else clip, error_if_nonfinite=False)
        state.step += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._skip_or_stop(loss, norm, input_ids, labels)
            return
        self.optimizer.step(learning_rate)
        state.skipped_in_row = 0
        seconds = time.perf_counter() - began
        state.tokens += input_ids.size
        state.seconds += seconds
        state.window_steps += 1
        state.window_loss += loss
        state.window_norm += norm
        state.window_tokens += input_ids.size
        state.window_seconds += seconds
        report = StepReport(state.step, loss, norm, learning_rate, input_ids.size, seconds)
        for callback in self.callbacks:
            callback.on_step(report)
        if state.step % self.settings.log_every == 0 or state.step == self.total_steps:
            self._record_window(learning_rate)

    def _record_window(self, learning_rate: float) -> None:
        state = self.state
        record = {
            "event": "train",
            "step": state.step,
            "epoch": round(self.loader.epoch + self.loader.position / len(self.loader), 6),
            "loss": state.window_loss / state.window_steps,
            "grad_norm": state.window_norm / state.window_steps,
            "learning_rate": learning_rate,
            "tokens": state.tokens,
            "tokens_per_second": round(state.window_tokens / max(state.window_seconds, 1e-9), 1),
            "seconds": round(state.seconds, 3),
        }
        state.window_steps = state.window_tokens = 0
        state.window_loss = state.window_norm = state.window_seconds = 0.0
        self._record(record)

    def _record(self, record: Mapping[str, Any]) -> None:
        for callback in self.callbacks:
            callback.on_record(record)

    def _skip_or_stop(self, loss: float, norm: float, input_ids: Any, labels: Any) -> None:
        """A step whose loss or gradient is not finite: leave it out if that is still allowed."""
        state, limit = self.state, self.settings.max_skipped_steps
        state.skipped += 1
        state.skipped_in_row += 1
        if state.skipped_in_row <= limit:
            self._record({"event": "skipped", "step": state.step, "loss": loss, "grad_norm": norm})
            return
        where = locate_nonfinite(self.model, input_ids, labels)
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
        return step % every == 0 or step >= self.total_steps

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        try:
            score = self.evaluate(lambda: self._signals.requested)
        except EvaluationStopped:  # by a signal: it stays due, and a resumed run begins with it
            return
        state = self.state
        state.evaluated_at = state.step
        best = score.loss < state.best_loss
        if best:
            state.best_loss, state.best_step = score.loss, state.step
        bits = score.bits_per_byte
        self._record(
            {
                "event": "evaluation",
                "step": state.step,
                "loss": score.loss,
                "perplexity": score.perplexity,
                "accuracy": score.accuracy,
                "bits_per_byte": bits if math.isfinite(bits) else None,
                "best": best,
            }
        )
        if best:
            self._save(best=True)

    def _save_is_due(self) -> bool:
        step, every = self.state.step, self.settings.save_every
        return bool(every) and step > 0 and step % every == 0 and self._saved_at != step  # type: ignore[operator]

    def _save(self, *, best: bool = False) -> None:
        self._saved_at = self.state.step
        if self.checkpoints is None:
            return
        optimizer = self.optimizer.state_dict()
        self._newest = save_checkpoint(
            self.checkpoints,
            self.state.step,
            {"model": self.model.state_dict(), "optimizer": optimizer.pop("arrays")},
            {**self.documents, "trainer": self._document(optimizer)},
            keep_last=self.settings.keep_checkpoints,
            best=best,
        )
        for callback in self.callbacks:
            callback.on_save(self._newest, best=best)

    def _document(self, optimizer: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "state": asdict(self.state),
            "loader": self.loader.state_dict(),
            "generators": [generator.get_state() for generator in self.model.generators()],
            "optimizer": {"kind": type(self.optimizer).__name__, **optimizer},
            "callbacks": {callback.name: callback.state_dict() for callback in self.callbacks if callback.name},
            "fingerprint": environment_fingerprint(),
        }

    def resume(self, checkpoint: Checkpoint, *, accept_changes: bool = False) -> None:
        """Go on from `checkpoint`, bit for bit as if it had never been interrupted.

        Parameters
        ----------
        checkpoint : as :func:`tinygrad_edu.storage.load_checkpoint` gives it
        accept_changes : go on although settings or data are others; what then cannot be taken over
            (the place in other data) begins anew, with a warning

        Raises
        ------
        CheckpointError
            Listing what does not fit the model, the optimizer, the settings or the data.
        """
        from .resume import restore

        restore(self, checkpoint, accept_changes=accept_changes)
        self._saved_at, self._newest = self.state.step, checkpoint.path

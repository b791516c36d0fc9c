"""Training by epochs, in one call or one object: thin shells over the one :class:`~tinygrad_edu.training.Trainer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ConfigError
from ..layers.base import Layer
from ..metrics import LanguageScore
from ..optim import Optimizer
from .batches import as_loader
from .callbacks import BestWeights, Callback, EarlyStopping
from .config import make_config
from .evaluation import evaluate_loss
from .history import History, RecordHistory
from .progress import ProgressBar
from .schema import COMMON_RULES, BaseConfig, Rule, TrainingSection
from .trainable import as_trainable
from .trainer import Trainer


class _Settings(BaseConfig):
    training: TrainingSection = TrainingSection()

    rules: ClassVar[tuple[Rule, ...]] = tuple(
        (paths, check) for paths, check in COMMON_RULES if all(path.startswith("training.") for path in paths)
    )


def training_settings(**given: Any) -> TrainingSection:
    """Settings of a run from keyword arguments, by the names of :class:`TrainingSection`.

    Raises
    ------
    ConfigError
        Listing all that is unknown or not allowed.
    """
    try:
        return make_config({"training": given}, schema=_Settings, where="").training
    except ConfigError as error:
        # The arguments are no sections of a file, and what a section calls num_epochs is called epochs here.
        text = str(error).replace(": training.", "").replace("'training.", "'").replace("num_epochs", "epochs")
        raise ConfigError(text.replace(" in the configuration", " in the arguments")) from None


def check_epochs(name: str, epochs: Any) -> None:
    """Raise ConfigError unless `epochs` is an integer >= 1."""
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"{name}: {epochs!r}, wanted an integer >= 1")


class EpochTrainer:
    """Trains a model for some epochs, evaluates it after each, and can go on.

    Parameters
    ----------
    model, loss : a language model or another :class:`Trainable`; or any layer, with a loss
    train_loader, val_loader : loaders or lists of batches; see :class:`Trainer`
    optimizer : one that was made for the model, or the name of one
    callbacks : further ones
    checkpoints : where the best and the last one go; None for none
    progress : whether to show it in the terminal
    eval_every, log_every : steps between evaluations and lines of the history; an epoch if None
    settings : further ones of :class:`TrainingSection`

    Attributes
    ----------
    history : :class:`History` of all calls of :meth:`train`
    trainer : the :class:`Trainer` below; None before the first call

    Raises
    ------
    ConfigError, DataError
        At once, for arguments that are not allowed.
    """

    def __init__(
        self,
        model: Layer,
        train_loader: Any,
        val_loader: Any = None,
        *,
        loss: Layer | None = None,
        optimizer: Optimizer | str = "adamw",
        callbacks: Iterable[Callback] = (),
        checkpoints: str | Path | None = None,
        progress: bool = True,
        eval_every: int | None = None,
        log_every: int | None = None,
        **settings: Any,
    ):
        self.trainable = as_trainable(model, loss)
        self.model, self.loss = model, loss
        self.train_loader = as_loader(train_loader, "train_loader")
        self.val_loader: Any = None if val_loader is None else as_loader(val_loader, "val_loader")
        self.optimizer = optimizer if isinstance(optimizer, Optimizer) else None
        self.checkpoints = None if checkpoints is None else Path(checkpoints)
        steps_per_epoch = -(-len(self.train_loader) // max(1, settings.get("gradient_accumulation_steps") or 1))
        given = {"save_every": None, "warmup_steps": 0, **settings}
        if self.optimizer is None:
            given["optimizer"] = optimizer
        else:
            both = [name for name in ("weight_decay", "betas", "eps", "momentum") if name in settings]
            if both:
                raise ConfigError(f"{both[0]}: the optimizer that was given has its own; leave one of the two out")
            given.setdefault("learning_rate", self.optimizer.lr)
        given["eval_every"] = steps_per_epoch if eval_every is None else eval_every
        given["log_every"] = steps_per_epoch if log_every is None else log_every
        if given.get("early_stopping_patience") is not None and val_loader is None:
            raise ConfigError(
                f"early_stopping_patience: {given['early_stopping_patience']} evaluations are waited for, but there "
                "is no validation data: give some"
            )
        self.settings = training_settings(**given)
        self._records = RecordHistory()
        self._callbacks = [self._records, *callbacks, *([ProgressBar()] if progress else [])]
        self.trainer: Trainer | None = None

    @property
    def history(self) -> History:
        """What happened so far."""
        return self._records.history

    def train(self, epochs: int = 1) -> History:
        """Train for `epochs` more epochs, or until early stopping, the time limit or Ctrl-C.

        A schedule that falls to an end (linear, cosine) is laid out anew when training goes on: give all
        epochs at once if that is not wanted.

        Raises
        ------
        ConfigError
            If `epochs` is no integer >= 1, or too short for the warmup.
        NonFiniteError
            If loss or gradient become NaN or infinite.
        """
        check_epochs("epochs", epochs)
        done = 0 if self.trainer is None else round(self.trainer.state.step / self.trainer.steps_per_epoch)
        settings = self.settings.model_copy(update={"num_epochs": done + epochs})
        if self.trainer is None:
            self.trainer = self._make_trainer(settings)
        else:
            self.trainer.set_length(settings)
            for callback in self.trainer.callbacks:
                if isinstance(callback, EarlyStopping):  # asked to go on, it has its patience again
                    callback.waited = 0
        self.trainer.fit()
        return self.history

    def _make_trainer(self, settings: TrainingSection) -> Trainer:
        return Trainer(
            self.model,
            self.train_loader,
            settings,
            loss=self.loss,
            optimizer=self.optimizer,
            evaluate=None if self.val_loader is None else self._validate,
            callbacks=self._callbacks,
            checkpoints=self.checkpoints,
        )

    def _validate(self, stop: Callable[[], bool]) -> Any:
        return evaluate_loss(self.trainable, self.val_loader, stop=stop)

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the model has the averaged weights; its own, if none are kept."""
        return nullcontext() if self.trainer is None else self.trainer.averaged()

    def evaluate(self, loader: Any = None) -> Any:
        """Score the model on a loader, the validation loader if None; with the averaged weights, if such are kept.

        Returns
        -------
        Of a language model a :class:`~tinygrad_edu.metrics.LanguageScore` (loss, perplexity, accuracy), of others
        a dict with ``"loss"``, and of a classifier ``"accuracy"``.

        Raises
        ------
        ConfigError
            If there is no loader.
        """
        chosen = self.val_loader if loader is None else as_loader(loader)
        if chosen is None:
            raise ConfigError("evaluate: there is no val_loader; give a loader")
        with self.averaged():
            return evaluate_loss(self.trainable, chosen)

    def plot_training_history(self, path: str | Path, *, title: str = "") -> Path:
        """Draw losses, learning rate and gradient norm so far; see :func:`tinygrad_edu.viz.plot_history`."""
        return self.history.plot(path, title=title)

    def plot_learning_rate(self, path: str | Path, epochs: int | None = None, *, title: str = "") -> Path:
        """Draw the course of the learning rate over a training; see :func:`tinygrad_edu.viz.plot_learning_rate`.

        Parameters
        ----------
        path : of the picture
        epochs : of a training that has not begun yet; those of the one at hand if None
        title : above the picture

        Raises
        ------
        ConfigError
            If there was no training yet and `epochs` is not given.
        """
        from ..viz import plot_learning_rate

        if epochs is not None:
            check_epochs("epochs", epochs)
            trainer = self._make_trainer(self.settings.model_copy(update={"num_epochs": epochs}))
        elif self.trainer is not None:
            trainer = self.trainer
        else:
            raise ConfigError("plot_learning_rate: nothing was trained yet; give epochs=, for how long it would be")
        return plot_learning_rate(trainer.schedule, trainer.total_steps, path, done=trainer.state.step, title=title)


def train_model(
    model: Layer,
    train_dataloader: Any,
    val_dataloader: Any = None,
    epochs: int = 10,
    learning_rate: float | None = None,
    early_stopping_patience: int | None = None,
    *,
    loss: Layer | None = None,
    optimizer: Optimizer | str = "adamw",
    schedule: str = "constant",
    restore_best: bool = False,
    callbacks: Iterable[Callback] = (),
    checkpoints: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> History:
    """Train any model and return the history of it.

    Parameters
    ----------
    model : a language model, or any layer together with `loss`
    train_dataloader : batches: a loader, or a list of ``(inputs, targets)`` or of mappings
    val_dataloader : the same of held-out data, scored after each epoch
    epochs : passes over the training data
    learning_rate : its peak; that of a given optimizer, or else 1e-3, if None
    early_stopping_patience : epochs without a better validation loss after which training ends
    loss : such as :class:`~tinygrad_edu.losses.CrossEntropyLoss`
    optimizer : ``"adamw"``, ``"adam"``, ``"sgd"``, or one that was made for the model
    schedule : ``"constant"``, ``"linear"``, ``"cosine"`` or ``"noam"``
    restore_best : leave the model with the weights of the best evaluation instead of the last ones
    callbacks : such as :class:`GradientStatistics`
    checkpoints : folder for the best and the last checkpoint
    progress : whether to show it in the terminal
    settings : further ones, by their names in :class:`TrainingSection`: ``weight_decay``, ``clip_norm``,
        ``warmup_steps``, ``gradient_accumulation_steps``, ``ema_decay``, ``label_smoothing``, ``max_seconds`` ...

    Returns
    -------
    History
        A ``train`` record an epoch (mean loss of its steps) and an ``evaluation``; it draws itself. With
        ``ema_decay`` the model is left with its averaged weights.

    Raises
    ------
    ConfigError, DataError
        Before anything is trained, for what is not allowed: no epochs, an empty loader, no loss, early stopping
        without validation data.
    NonFiniteError
        If loss or gradient become NaN or infinite.

    Examples
    --------
    >>> history = train_model(net, train_batches, val_batches, epochs=5, loss=CrossEntropyLoss())  # doctest: +SKIP
    >>> history.plot("loss.png")  # doctest: +SKIP
    """
    check_epochs("epochs", epochs)
    best = BestWeights()
    if restore_best and val_dataloader is None:
        raise ConfigError(
            "restore_best: there is no validation data to tell the best weights by; give a val_dataloader"
        )
    if learning_rate is not None:
        settings["learning_rate"] = learning_rate
    shell = EpochTrainer(
        model,
        as_loader(train_dataloader, "train_dataloader"),
        None if val_dataloader is None else as_loader(val_dataloader, "val_dataloader"),
        loss=loss,
        optimizer=optimizer,
        callbacks=(*callbacks, *([best] if restore_best else [])),
        checkpoints=checkpoints,
        progress=progress,
        schedule=schedule,
        early_stopping_patience=early_stopping_patience,
        **settings,
    )
    history = shell.train(epochs)
    if best.weights is not None:
        model.load_state_dict(best.weights)
    elif shell.trainer is not None and shell.trainer.ema is not None:
        model.load_state_dict(shell.trainer.ema.state_dict()["arrays"])
    return history


class TransformerTrainer(EpochTrainer):
    """Trains a transformer as Vaswani et al. (2017) did: Adam, warmup, then a falling learning rate, smoothed labels.

    Parameters
    ----------
    model : any language model, seq2seq among them
    train_loader, val_loader : as :class:`Trainer` takes them
    learning_rate : the peak, reached after the warmup
    schedule : ``"noam"`` (inverse square root) or ``"cosine"``; the others do as well
    warmup_steps : steps of linear rise
    label_smoothing : part of the target that training gives to all tokens alike; the loss of evaluations is without
    betas, eps : of the optimizer
    others : as :class:`EpochTrainer` takes them

    Examples
    --------
    >>> trainer = TransformerTrainer(model, train_loader, val_loader, warmup_steps=400)  # doctest: +SKIP
    >>> history = trainer.train(epochs=10)  # doctest: +SKIP
    >>> trainer.perplexity(), trainer.plot_learning_rate("rate.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Layer,
        train_loader: Any,
        val_loader: Any = None,
        *,
        learning_rate: float = 1e-3,
        schedule: str = "noam",
        warmup_steps: int = 400,
        label_smoothing: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-9,
        log_every: int | None = 10,
        **others: Any,
    ):
        super().__init__(
            model,
            train_loader,
            val_loader,
            learning_rate=learning_rate,
            schedule=schedule,
            warmup_steps=warmup_steps,
            label_smoothing=label_smoothing,
            betas=betas,
            eps=eps,
            log_every=log_every,
            **others,
        )

    def perplexity(self, loader: Any = None) -> float:
        """``exp`` of the mean loss on a loader, the validation loader if None.

        Raises
        ------
        ConfigError
            If there is no loader, or the model predicts no tokens.
        """
        score = self.evaluate(loader)
        if not isinstance(score, LanguageScore):
            raise ConfigError(f"perplexity: {type(self.model).__name__} is no language model")
        return score.perplexity

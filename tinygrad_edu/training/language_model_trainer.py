"""A language model and its tokenizer: trained, saved, asked to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data import Tokenizer
from ..errors import ConfigError, TinygradEduError
from ..models import BaseLanguageModel
from .callbacks import Callback
from .evaluation import evaluate_batches
from .fitting import EpochTrainer, check_epochs
from .history import History, JsonlHistory
from .report import generate_text, score_figures
from .run_folder import CHECKPOINTS, create_run_folder


class LanguageModelTrainer(EpochTrainer):
    """Trains a language model on batches of tokens, keeps what comes of it in a folder, and lets it write.

    Parameters
    ----------
    model : a language model
    tokenizer : that made the tokens
    train_loader, val_loader : as :class:`Trainer` takes them
    learning_rate, schedule, warmup_steps : peak, course and rise of the learning rate
    others : as :class:`EpochTrainer` takes them

    Raises
    ------
    ConfigError
        If tokenizer and model do not go together, or an argument is not allowed.

    Examples
    --------
    >>> trainer = LanguageModelTrainer(model, tokenizer, train_loader, val_loader)  # doctest: +SKIP
    >>> trainer.train(num_epochs=3, save_dir="runs", model_name="small")  # doctest: +SKIP
    >>> trainer.evaluate()["perplexity"], trainer.generate("Once", max_length=50)  # doctest: +SKIP
    """

    model: BaseLanguageModel

    def __init__(
        self,
        model: BaseLanguageModel,
        tokenizer: Tokenizer,
        train_loader: Any,
        val_loader: Any = None,
        *,
        learning_rate: float = 1e-3,
        schedule: str = "cosine",
        warmup_steps: int | None = None,
        log_every: int | None = 10,
        **others: Any,
    ):
        if not isinstance(model, BaseLanguageModel):
            raise ConfigError(f"model: must be a language model, got {type(model).__name__}")
        if tokenizer.vocab_size > model.vocab_size:
            raise ConfigError(
                f"tokenizer: its {tokenizer.vocab_size:,} tokens are more than the model's vocab_size "
                f"{model.vocab_size:,}; model.resize_token_embeddings({tokenizer.vocab_size}) makes room"
            )
        super().__init__(
            model,
            train_loader,
            val_loader,
            learning_rate=learning_rate,
            schedule=schedule,
            warmup_steps=warmup_steps,
            log_every=log_every,
            **others,
        )
        self.tokenizer = tokenizer
        self.folder: Path | None = None
        self._bytes: Any = None

    def train(self, num_epochs: int = 1, save_dir: str | Path | None = None, model_name: str = "model") -> History:
        """Train for `num_epochs` more epochs.

        With `save_dir` everything goes into ``save_dir/model_name``, which must be new or empty the first time:
        ``history.jsonl``, ``loss_curve.png``, ``checkpoints/``, and when training is over the model and its
        tokenizer in ``model/``.

        Raises
        ------
        ConfigError
            If `num_epochs` is no integer >= 1, or the folder cannot be used.
        NonFiniteError
            If loss or gradient become NaN or infinite.
        """
        check_epochs("num_epochs", num_epochs)
        if save_dir is not None:
            self._settle_folder(Path(save_dir), model_name)
        history = super().train(num_epochs)
        if self.folder is not None:
            self.plot_training_history(self.folder / "loss_curve.png", title=model_name)
            self.save(self.folder / "model")
        return history

    def _settle_folder(self, save_dir: Path, name: str) -> None:
        if self.folder is not None:
            if self.folder != save_dir / name:
                raise ConfigError(f"save_dir: training began in {self.folder} and cannot move to {save_dir / name}")
            return
        if self.trainer is not None:
            raise ConfigError("save_dir: training began without a folder; give it from the first call on")
        self.folder = create_run_folder(save_dir, name)
        self.checkpoints = self.checkpoints or self.folder / CHECKPOINTS
        written: list[Callback] = [JsonlHistory(self.folder / "history.jsonl")]
        self._callbacks = [*written, *self._callbacks]

    def save(self, folder: str | Path) -> Path:
        """Write the model, with its averaged weights if such are kept, and the tokenizer; over an earlier one.

        ``from_pretrained(folder)`` and ``Tokenizer.from_pretrained(folder)`` read them, and for GPT-2 and BERT
        ``transformers`` does.

        Raises
        ------
        CheckpointError, DataError
            If they cannot be written.
        """
        with self.averaged():
            return self.model.save_pretrained(folder, tokenizer=self.tokenizer, overwrite=True)

    def evaluate(self, loader: Any = None) -> dict[str, Any]:
        """Loss, perplexity, accuracy and bits per byte on a loader, the validation loader if None.

        Raises
        ------
        ConfigError
            If there is no loader.
        """
        chosen = self.val_loader if loader is None else loader
        if chosen is None:
            raise ConfigError("evaluate: there is no val_loader; give a loader")
        with self.averaged():
            return score_figures(evaluate_batches(self.model, chosen, token_bytes=self._token_bytes()))

    def _validate(self, stop: Any) -> Any:
        return evaluate_batches(self.model, self.val_loader, token_bytes=self._token_bytes(), stop=stop)

    def _token_bytes(self) -> Any:
        """Bytes of text behind each id; None if this kind of tokenizer cannot tell."""
        if self._bytes is None:
            try:
                self._bytes = (self.tokenizer.token_bytes(),)
            except TinygradEduError:
                self._bytes = (None,)
        return self._bytes[0]

    def generate(
        self,
        prompt: str = "",
        max_length: int = 100,
        temperature: float = 0.8,
        *,
        top_k: int | None = 40,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Continue `prompt`; see :func:`tinygrad_edu.training.report.generate_text`.

        Parameters
        ----------
        prompt : may be empty, if the tokenizer has an end-of-text token to begin with
        max_length : tokens to reach, those of the prompt counted; what does not fit the model is not generated
        temperature, top_k, top_p, seed : as :meth:`BaseLanguageModel.generate` takes them

        Raises
        ------
        ConfigError, ShapeError
            If the model cannot generate, or `max_length` leaves no room for it.
        """
        used = len(self.tokenizer.encode(prompt)) + (self.tokenizer.eos_token_id is not None)
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length <= used:
            raise ConfigError(f"max_length: {max_length!r}, wanted an integer > {used}, the tokens of the prompt")
        with self.averaged():
            return generate_text(
                self.model,
                self.tokenizer,
                prompt,
                max_new_tokens=max_length - used,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=seed,
            )

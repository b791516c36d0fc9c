"""The settings of a training run: sections, defaults, limits, and the rules between fields."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ..errors import did_you_mean

Beta = Annotated[float, Field(ge=0, lt=1)]
#: YAML has lists where Python has tuples.
Betas = Annotated[tuple[Beta, Beta], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


class Section(BaseModel):
    """Base of all sections: unknown keys forbidden, no conversions, no NaN or infinity, no later change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)


class TransformerShape(Section):
    """What all transformers have."""

    d_model: int = Field(default=128, ge=1, description="width of the model")
    n_blocks: int = Field(default=4, ge=1, description="number of transformer blocks")
    n_heads: int = Field(default=4, ge=1, description="attention heads; must divide d_model")
    d_ffn: int | None = Field(
        default=None, ge=1, description="width inside the feed-forward part; 4 * d_model if not given"
    )
    position: Literal["learned", "sinusoidal", "rotary", "none"] = Field(
        default="learned", description="position encoding"
    )
    norm_placement: Literal["pre", "post"] = Field(default="pre", description="norms before or after each sub-layer")
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = Field(
        default="gelu", description="of the feed-forward part"
    )
    tied_head: bool = Field(default=True, description="output matrix = token embedding")
    init_std: float = Field(default=0.02, gt=0, description="standard deviation of the initial weights")


class ModelSection(TransformerShape):
    """The transformer of the project custom_transformer."""

    max_seq_len: int = Field(default=128, ge=2, description="longest sequence that the model can take, in tokens")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of activations dropped in training")


class DataSection(Section):
    """What text to train on."""

    dataset: str = Field(
        default="python-docs", min_length=1, description="python-docs, a file or folder, or a hub name"
    )
    text_column: str | None = Field(default=None, description="column or field that holds the text")
    max_length: int = Field(default=128, ge=2, description="tokens in one training sequence")
    use_subset: bool = Field(default=False, description="take only subset_size documents")
    subset_size: int | None = Field(default=None, ge=1, description="how many documents, with use_subset")


class TokenizerSection(Section):
    """How text becomes tokens."""

    type: str = Field(
        default="bpe",
        min_length=1,
        description="bpe (trained on the corpus), gpt2, or a folder or tokenizer.json",
    )
    vocab_size: int = Field(
        default=1024, ge=257, le=1_000_000, description="of bpe; 256 bytes and the end of text at least"
    )


class TrainingSection(Section):
    """How to train. Anything counted in steps may be null where that says "or never"."""

    batch_size: int = Field(default=8, ge=1, description="sequences a step")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate")
    min_learning_rate: float = Field(default=0.0, ge=0, description="where linear and cosine end")
    schedule: Literal["constant", "linear", "cosine", "noam"] = Field(
        default="cosine", description="course of the learning rate"
    )
    warmup_steps: int | None = Field(
        default=None, ge=0, description="steps of linear rise to the peak; a twentieth of all if not given"
    )
    num_epochs: int | None = Field(
        default=None, ge=1, description="passes over the training text; 1 if max_steps is not given either"
    )
    max_steps: int | None = Field(default=None, ge=1, description="steps at most")
    max_seconds: float | None = Field(default=None, gt=0, description="seconds of training steps at most")
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, description="batches whose gradients make one step together"
    )
    optimizer: Literal["adamw", "adam", "sgd"] = Field(default="adamw", description="what applies the gradients")
    weight_decay: float = Field(default=0.01, ge=0, description="on matrices; norms and biases do not decay")
    betas: Betas = Field(default=(0.9, 0.95), description="of adam and adamw")
    eps: float = Field(default=1e-8, gt=0, description="of adam and adamw")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient, or null not to clip")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="share of the target spread over the vocabulary, in training only"
    )
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="of the moving average of the weights that is evaluated, or null for none"
    )
    eval_every: int | None = Field(default=200, ge=1, description="steps between evaluations, or null for never")
    eval_batches: int | None = Field(
        default=16, ge=1, description="batches an evaluation during training, or null for all"
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        description="evaluations without a new best loss before training ends, or null for all steps",
    )
    save_every: int | None = Field(
        default=500, ge=1, description="steps between checkpoints, or null for only the last and the best"
    )
    log_every: int = Field(default=10, ge=1, description="steps between lines of the history")
    tensorboard: bool = Field(default=False, description="write the history for TensorBoard too (wants tensorboardX)")
    keep_checkpoints: int = Field(default=2, ge=1, description="newest checkpoints kept, besides the best")
    max_skipped_steps: int = Field(
        default=0, ge=0, description="steps in a row with NaN or infinity that may be skipped; 0 stops"
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="of initial weights, shuffles and dropout")
    device: Literal["cpu", "cuda", "auto"] = Field(default="cpu", description="where to train")
    sample_prompt: str = Field(default="Return ", description="what generated samples begin with")
    sample_tokens: int = Field(default=100, ge=1, description="length of generated samples, at most")
    output_dir: str = Field(default="runs", min_length=1, description="where run folders go")


# -- sections as a tree ----------------------------------------------------------------------------


def section_type(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, be it optional; None for a plain value."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def field_paths(schema: type[BaseModel], above: str = "") -> Iterator[str]:
    """Dotted paths of all plain values that a config may hold, in order."""
    for name, field in schema.model_fields.items():
        inner = section_type(field.annotation)
        if inner is None:
            yield above + name
        else:
            yield from field_paths(inner, f"{above}{name}.")


def leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each setting in nested mappings."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


# -- rules -----------------------------------------------------------------------------------------

#: A rule between fields: the fields that it looks at, the one that it speaks of first, and what is wrong (or None).
Rule = tuple[tuple[str, ...], Callable[[Any], str | None]]


def rule(paths: Sequence[str], holds: Callable[[Any], bool], message: str) -> Rule:
    """A rule whose message may use the fields, as in ``{model.d_model}``.

    Rules see a config whose fields are right by themselves, but raw: a list may stand for a tuple. A rule is
    left out where one of its `paths` has a mistake of its own, so these must name all that it reads.
    """
    return tuple(paths), lambda c: None if holds(c) else message.format(**vars(c))


def tokenizer_rule(*kinds: str) -> Rule:
    """The type is one of `kinds` or leads to a tokenizer: a misspelt name must not become a search on the hub."""

    def check(config: Any) -> str | None:
        name = config.tokenizer.type
        if name in kinds or "/" in name or os.path.exists(os.path.expanduser(name)):
            return None
        listed = ", nor ".join(kinds)
        return (
            f"{name!r} is neither {listed}, nor a file or folder, nor a hub name with a '/'.{did_you_mean(name, kinds)}"
        )

    return ("tokenizer.type",), check


#: Rules on data and training that hold for every project.
COMMON_RULES: tuple[Rule, ...] = (
    rule(
        ("data.max_length", "model.max_seq_len"),
        lambda c: c.data.max_length <= c.model.max_seq_len,
        "{data.max_length} is longer than model.max_seq_len {model.max_seq_len}",
    ),
    rule(
        ("data.subset_size", "data.use_subset"),
        lambda c: not c.data.use_subset or c.data.subset_size is not None,
        "use_subset is true, so a number of documents is wanted",
    ),
    rule(
        ("data.text_column", "data.dataset"),
        lambda c: c.data.text_column in (None, "text") or c.data.dataset != "python-docs",
        "python-docs has no columns; leave text_column out",
    ),
    rule(
        ("training.min_learning_rate", "training.learning_rate"),
        lambda c: c.training.min_learning_rate <= c.training.learning_rate,
        "{training.min_learning_rate} is above learning_rate {training.learning_rate}",
    ),
    rule(
        ("training.warmup_steps", "training.max_steps"),
        lambda c: (
            None in (c.training.max_steps, c.training.warmup_steps) or c.training.warmup_steps <= c.training.max_steps
        ),
        "{training.warmup_steps} is more than max_steps {training.max_steps}; so short a run wants a shorter warmup",
    ),
    rule(
        ("training.early_stopping_patience", "training.eval_every"),
        lambda c: c.training.early_stopping_patience is None or c.training.eval_every is not None,
        "{training.early_stopping_patience} evaluations are waited for, but eval_every is null: there are none",
    ),
)


class BaseConfig(Section):
    """Base of the settings of a project: its fields are sections, and :attr:`rules` hold between them."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def meant_by(cls, name: str, values: Mapping[str, Any]) -> str | None:
        """Path of the setting that an unknown key `name` means elsewhere, in a config that holds `values`."""
        return None

    @classmethod
    def in_new_form(cls, values: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]] | None:
        """If `values` have a form of former times: the same in today's, and paths not taken over, with the reason."""
        return None

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        view = SimpleNamespace(**{name: getattr(self, name) for name in type(self).model_fields})
        broken = [f"{paths[0]}: {text}" for paths, check in self.rules if (text := check(view))]
        if broken:
            raise PydanticCustomError("rules", "{broken}", {"broken": "; ".join(broken)})
        return self


class RunConfig(BaseConfig):
    """All settings of the project custom_transformer."""

    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    tokenizer: TokenizerSection = TokenizerSection()
    training: TrainingSection = TrainingSection()

    rules: ClassVar[tuple[Rule, ...]] = (
        rule(
            ("model.d_model", "model.n_heads"),
            lambda c: c.model.d_model % c.model.n_heads == 0,
            "{model.d_model} is not a multiple of n_heads {model.n_heads}",
        ),
        rule(
            ("model.position", "model.d_model", "model.n_heads"),
            lambda c: c.model.position != "rotary" or c.model.d_model // c.model.n_heads % 2 == 0,
            "rotary wants an even d_model / n_heads, found {model.d_model} / {model.n_heads}",
        ),
        tokenizer_rule("bpe", "gpt2"),
        *COMMON_RULES,
    )

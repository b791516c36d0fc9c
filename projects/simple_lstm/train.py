"""Learn a recurrent network by watching one: an LSTM that learns to spell the names of Unicode's characters.

    python projects/simple_lstm/train.py                       # a few minutes
    python projects/simple_lstm/train.py --model gru --epochs 3
    python projects/simple_lstm/train.py --output RUN --generate "LATIN SMALL"

The names, such as GREEK SMALL LETTER ALPHA, come with Python (module unicodedata). The model reads a name
character by character and at each one predicts the next. Read this file from the top: data, model, training,
figures, a look inside.
"""

from __future__ import annotations

import tinygrad_edu  # noqa: F401  (first: it settles the thread pools before NumPy loads)

import argparse
import math
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from tinygrad_edu.data import CausalLMDataCollator, DataLoader, Tokenizer, train_character
from tinygrad_edu.errors import ConfigError
from tinygrad_edu.layers.recurrent_ops import lstm
from tinygrad_edu.metrics import ngram_bits_per_byte
from tinygrad_edu.models import BaseLanguageModel, create_model, from_pretrained
from tinygrad_edu.storage import encode_json, write_atomic
from tinygrad_edu.training import LanguageModelTrainer, evaluate_batches
from tinygrad_edu.training.program import run_program
from tinygrad_edu.training.report import generate_text, score_figures, score_table, verdict
from tinygrad_edu.viz.figure import new_figure, put_title, save_figure

ORDERS = (3, 4, 5, 6, 7, 8, 9)  # of the n-grams that the model is compared with
LONGEST = 120  # characters, when it writes; the longest name has fewer
UNITS = 32  # shown in the picture

console = Console()


# -- the data ----------------------------------------------------------------------------------------


def unicode_names() -> list[str]:
    """All names that somebody chose, in the order of their characters.

    Left out are those made by rule, three quarters of them all: CJK UNIFIED IDEOGRAPH-4E00 and the like, which
    end in the character's number, and Hangul syllables. There is nothing to learn in a number.
    """
    names = []
    for code in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(code), "")
        if name and not name.endswith(f"-{code:04X}") and not name.startswith("HANGUL SYLLABLE "):
            names.append(name)
    return names


def split(names: list[str], seed: int) -> tuple[list[str], list[str], list[str]]:
    """Names to train on; to watch the training by; and for the figures at the end, met nowhere before."""
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    held_out = max(1, len(names) // 20)
    return shuffled[2 * held_out :], shuffled[held_out : 2 * held_out], shuffled[:held_out]


def loader_of(names: list[str], tokenizer: Tokenizer, batch_size: int, seed: int | None = None) -> DataLoader:
    """Batches of names of about one length, in a new order each epoch if there is a seed.

    A name becomes <end> n a m e <end>: the model also has to predict with which letter a name begins (what comes
    after the end of the one before), and where it ends. What is shorter than the longest name of its batch is
    padded; the collator's attention mask says by how much, and the recurrent layers stop there.
    """
    end = tokenizer.eos_token_id
    examples = [[end, *tokenizer.encode(name), end] for name in names]
    collate = CausalLMDataCollator(tokenizer)
    return DataLoader(examples, batch_size, collate, shuffle=seed is not None, seed=seed or 0, sort_by_length=True)


# -- samples, and a look inside ----------------------------------------------------------------------


def samples(model: BaseLanguageModel, tokenizer: Tokenizer, known: set[str], count: int = 8) -> list[str]:
    """Names that the model writes, each with whether it was learned by heart."""
    written = []
    for seed in range(count):
        name = generate_text(model, tokenizer, "", max_new_tokens=LONGEST, temperature=0.8, top_k=None, seed=seed)
        written.append(f"{name}   (a name it has read)" if name in known else name)
    return written


def draw_inside(model: Any, tokenizer: Tokenizer, name: str, path: Path) -> None:
    """A picture of one name: how many bits each character cost, the states, and of an LSTM its forget gates.

    The cell state of an LSTM is c_t = f_t * c_(t-1) + i_t * g_t: a unit whose forget gate f is 1 keeps what it
    knows, one whose f falls to 0 forgets it. In each column stands the character that is predicted, and the state
    that predicts it, which has read what is to its left. Look for units that forget when a word is over.
    """
    end = tokenizer.eos_token_id
    ids = np.array([[end, *tokenizer.encode(name), end]])  # (1, T + 2)
    losses, _ = model.token_losses(ids)  # (1, T + 1): for each character, and for the end
    with model.evaluating():
        x = model.embedding(ids[:, :-1])
        states = model.rnn(x)[0][0]  # (T + 1, H): of the last layer, after each character read
    panels = {"state h": (states, "RdBu", -1.0, 1.0)}
    if model.model_type == "lstm":
        layer, zeros = model.rnn, np.zeros((1, model.rnn.hidden_size), x.dtype)
        weights = [getattr(layer, f"{kind}_l0").data for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        *_, gates = lstm(x.swapaxes(0, 1), zeros, zeros, *weights, None, False)  # (T + 1, 1, 4 H), in order i, f, g, o
        panels["forget gate"] = (np.split(gates[:, 0], 4, axis=-1)[1], "viridis", 0.0, 1.0)

    predicted = [*name, "end"]
    figure = new_figure(max(7.0, 0.26 * len(predicted) + 1.5), 2.0 + 2.6 * len(panels))
    axes = figure.subplots(1 + len(panels), 1, sharex=True, height_ratios=[1.2] + [2.6] * len(panels))
    axes[0].bar(range(len(predicted)), losses[0] / math.log(2), color="#4c78a8")
    axes[0].set_ylabel("bits")
    axes[0].spines[["top", "right"]].set_visible(False)
    put_title(axes[0], f"{model.model_type}: what each character of {name} cost")
    for panel, (label, (values, colours, low, high)) in zip(axes[1:], panels.items(), strict=True):
        liveliest = np.argsort(-values.std(axis=0), kind="stable")[:UNITS]
        image = panel.imshow(values[:, liveliest].T, cmap=colours, vmin=low, vmax=high, aspect="auto")
        panel.set_ylabel(f"{label}: {len(liveliest)} units")
        panel.set_yticks([])
        figure.colorbar(image, ax=panel, pad=0.01)
    axes[-1].set_xticks(range(len(predicted)), ["␣" if c == " " else c for c in predicted])
    save_figure(figure, path)


# -- training ----------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> int:
    folder = Path(args.output or f"runs/simple_lstm/{args.model}_{time.strftime('%Y-%m-%d_%H-%M-%S')}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output: {folder} is there and not empty; give a new folder, or leave it out")
    names = unicode_names()
    if args.names is not None:
        names = sorted(np.random.default_rng(args.seed).choice(names, min(args.names, len(names)), replace=False))
    train_names, val_names, test_names = split([str(name) for name in names], args.seed)
    tokenizer = train_character(train_names, special_tokens=("<pad>", "</s>", "<unk>"))

    # Embedding -> recurrent layers -> head. The end of each step's state is all that it knows of what it read.
    model = create_model(
        {
            "architecture": args.model,
            "vocab_size": tokenizer.vocab_size,
            "embedding_size": min(64, args.hidden_size),
            "hidden_size": args.hidden_size,
            "num_layers": args.num_layers,
            "tied_head": False,
            "init_std": 1.0,
            "seed": args.seed,
        }
    )
    console.print(
        f"{len(train_names):,} names of Unicode {unicodedata.unidata_version} to learn from, {len(val_names):,} to "
        f"watch by, {len(test_names):,} kept for the end; {tokenizer.vocab_size} characters\n"
        f"{args.model} of {args.num_layers} x {args.hidden_size} units, {model.get_parameter_count():,} parameters",
        highlight=False,
    )
    known = set(train_names)
    before = samples(model, tokenizer, known)

    trainer = LanguageModelTrainer(
        model,
        tokenizer,
        loader_of(train_names, tokenizer, args.batch_size, args.seed),
        loader_of(val_names, tokenizer, args.batch_size),
        learning_rate=args.lr,
        schedule="cosine",  # large steps first, small ones at the end
        clip_norm=1.0,  # a gradient through many steps can grow without bound (Pascanu et al., 2013)
        seed=args.seed,
    )
    trainer.train(args.epochs, save_dir=folder.parent, model_name=folder.name)

    after = samples(model, tokenizer, known)
    token_bytes = tokenizer.token_bytes()  # of the names, all ASCII, a byte is a character
    test_loader = loader_of(test_names, tokenizer, args.batch_size)
    score = evaluate_batches(model, test_loader, token_bytes=token_bytes)
    ngrams = ngram_bits_per_byte(train_names, test_names, ORDERS)
    shown = next((name for name in test_names if 24 <= len(name) <= 36), test_names[0])
    draw_inside(model, tokenizer, shown, folder / "inside.png")
    results = {
        "model": args.model,
        "settings": {key: value for key, value in vars(args).items() if key not in ("output", "generate")},
        "parameters": model.get_parameter_count(),
        "names": {"train": len(train_names), "validation": len(val_names), "test": len(test_names)},
        "seconds": trainer.trainer.state.seconds if trainer.trainer else None,
        "test": score_figures(score),
        "ngram_bits_per_byte": {str(order): bits for order, bits in ngrams.items()},
        "samples": {"before": before, "after": after},
    }
    write_atomic(folder / "results.json", encode_json(results, "results"))

    for title, written in (("Before training it writes", before), ("Now it writes", after)):
        console.print(f"\n{title}:")
        for name in written:
            console.print(f"  {name}", markup=False, highlight=False, soft_wrap=True)
    console.print()
    console.print(score_table({"test names": score}, ngrams, "Names that it never read"))
    console.print(verdict(score, ngrams), markup=False, soft_wrap=True)
    console.print(f"Everything is in {folder}", markup=False, soft_wrap=True)
    return 0


def generate(args: argparse.Namespace) -> int:
    """Let a model that was trained before finish a name in five ways."""
    folder = Path(args.output) / "model"
    if not folder.is_dir():
        raise ConfigError(f"--output: {args.output} holds no finished run of this program; give its folder")
    model, tokenizer = from_pretrained(folder), Tokenizer.from_pretrained(folder)
    for seed in range(5):
        text = generate_text(model, tokenizer, args.generate, max_new_tokens=LONGEST, top_k=None, seed=args.seed + seed)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    return 0


# -- the command line --------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Train a recurrent network on the names of Unicode's characters.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", choices=("lstm", "gru", "rnn"), default="lstm", help="kind of recurrent layer")
    parser.add_argument("--epochs", type=int, default=6, help="passes over the names")
    parser.add_argument("--batch_size", type=int, default=64, help="names in a step")
    parser.add_argument("--hidden_size", type=int, default=192, help="units of the state")
    parser.add_argument("--num_layers", type=int, default=1, help="recurrent layers, one above the other")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate at its peak")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights, order and samples")
    parser.add_argument("--names", type=int, help="take only so many names, for a quick look")
    parser.add_argument("--output", metavar="DIR", help="folder of the run; a new one below runs/simple_lstm if none")
    parser.add_argument("--generate", metavar="PROMPT", help="instead of training, let the model of --output go on")
    args = parser.parse_args(argv)
    if args.names is not None and args.names < 40:
        parser.error(f"--names: {args.names}, wanted at least 40")
    if args.generate is not None and args.output is None:
        parser.error("--generate wants --output DIR, the folder of a finished run")
    return run_program(lambda: train(args) if args.generate is None else generate(args))


if __name__ == "__main__":
    sys.exit(main())

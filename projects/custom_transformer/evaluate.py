"""Evaluate a trained transformer, or let it write.

python projects/custom_transformer/evaluate.py --checkpoint RUN [--split test]
python projects/custom_transformer/evaluate.py --checkpoint RUN --generate --prompt "Return the"
"""

from __future__ import annotations

import tinygrad_edu as tg  # first: it settles the thread pools before NumPy loads

import argparse
import json
import sys
import warnings
from pathlib import Path

from rich.console import Console

from tinygrad_edu.metrics import ngram_bits_per_byte
from tinygrad_edu.training.assembly import prepare_data, restore_model
from tinygrad_edu.storage import load_checkpoint
from tinygrad_edu.training.evaluation import evaluate_language_model
from tinygrad_edu.training.program import run_program
from tinygrad_edu.training.report import generate_text, score_figures, score_table, verdict
from tinygrad_edu.training.run_folder import checkpoints_of

NGRAM_ORDERS = (3, 4, 5, 6)

console = Console()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a trained transformer, or let it write.")
    parser.add_argument("--checkpoint", required=True, help="a run folder, or one checkpoint in it")
    parser.add_argument("--which", choices=("last", "best"), default="last", help="of a run folder (default: last)")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test", help="default: test")
    parser.add_argument("--stride", type=int, help="tokens scored in each window (default: half of it)")
    parser.add_argument("--ngrams", action="store_true", help="measure character n-grams on the same split")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), help="default: where it was trained")
    writing = parser.add_argument_group("writing")
    writing.add_argument("--generate", action="store_true", help="write text instead of evaluating")
    writing.add_argument("--prompt", help="what to go on from (default: the run's sample_prompt)")
    writing.add_argument("--max-new-tokens", type=int, default=200, help="default: 200, or what fits the model")
    writing.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token; default: 0.8")
    writing.add_argument("--top-k", type=int, default=40, help="0 for no limit; default: 40")
    writing.add_argument("--top-p", type=float, help="default: no limit")
    writing.add_argument("--seed", type=int, help="default: a new one each time")
    args = parser.parse_args(argv)
    if args.prompt is not None and not args.generate:
        parser.error("--prompt is for --generate")
    if args.generate and (args.json or args.ngrams or args.stride is not None):
        parser.error("--json, --ngrams and --stride are for evaluating; --generate prints text alone")
    if args.max_new_tokens < 1:
        parser.error(f"--max-new-tokens: {args.max_new_tokens}, wanted at least 1")
    return args


def evaluate(args: argparse.Namespace) -> int:
    checkpoint = load_checkpoint(checkpoints_of(args.checkpoint), which=args.which)
    config, model, tokenizer = restore_model(checkpoint, args.device)
    with tg.use(model.config.get_device()):
        if args.generate:
            text = generate_text(
                model,
                tokenizer,
                config.training.sample_prompt if args.prompt is None else args.prompt,
                max_new_tokens=args.max_new_tokens,
                temperature=args.temperature,
                top_k=args.top_k or None,
                top_p=args.top_p,
                seed=args.seed,
            )
            console.print(text, markup=False, highlight=False, soft_wrap=True)
            return 0
        data = prepare_data(config, tokenizer)
        if data.corpus.content_hash != checkpoint.documents["data"].get("content_hash"):
            warnings.warn(
                f"{data.corpus.name} is not the text the model was trained on (another content hash): it may "
                "have seen this test text, and the figures cannot be compared with those of the run",
                stacklevel=1,
            )
        score = evaluate_language_model(
            model,
            data.tokens[args.split],
            seq_len=config.data.max_length,
            stride=args.stride,
            batch_size=config.training.batch_size,
            token_bytes=tokenizer.token_bytes(),
        )
    ngrams: dict[int, float] = {}
    if args.ngrams:
        ngrams = ngram_bits_per_byte(data.corpus.splits["train"], data.corpus.splits[args.split], orders=NGRAM_ORDERS)
    if args.json:
        about = {"checkpoint": str(checkpoint.path), "step": checkpoint.step, "split": args.split}
        beside = {"ngram_bits_per_byte": ngrams} if ngrams else {}
        print(json.dumps({**about, **score_figures(score), **beside}))
        return 0
    title = f"{Path(checkpoint.path).name}, {score.n_tokens:,} tokens of {data.corpus.name}"
    console.print(score_table({args.split: score}, ngrams, title))
    if ngrams:
        console.print(verdict(score, ngrams), markup=False, soft_wrap=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return run_program(lambda: evaluate(args))


if __name__ == "__main__":
    sys.exit(main())

"""The report as one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinygrad_edu.data.designs import FORMATS, GOALS, GRAMMAR, SyntheticDesignDataset
from tinygrad_edu.errors import ConfigError, DataError
from tinygrad_edu.storage import write_atomic
from tinygrad_edu.training.progress import format_seconds
from tinygrad_edu.viz.figure import new_figure, put_title, save_figure

from .pictures import colour_tile, image_tile, map_tile, save_grid

#: The stages in their order, with what each is.
STAGES = {
    "encoder": "Encoder: from the picture to the maps (U-Net)",
    "abstractor": "Abstractor: from the maps to grammar and meaning (ResNet-18)",
    "decoder": "Decoder: from the meaning to a picture (conditional diffusion)",
    "samples": "Samples of the decoder",
    "finetuned": "The decoder, fine-tuned for grammar",
    "innovation": "Innovation: gradient ascent on the latent",
}
#: Pictures that stages leave in their folders, besides those that results.json names.
_PICTURES = {
    "loss_curve.png": "Loss, learning rate and gradient norm over the steps",
    "sample_before.png": "Before training",
    "sample_after.png": "After training",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.8rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d1d5db; padding-bottom: .2rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .9rem .25rem 0; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 1px solid #9ca3af; }
.met { color: #15803d; font-weight: 600; } .missed { color: #b91c1c; font-weight: 600; } .quiet { color: #6b7280; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; image-rendering: auto; }
figcaption { color: #6b7280; font-size: .9rem; } details { margin: .6rem 0; }
"""


def write_page(runs: Path, data: Path, output: Path) -> Path:
    """Write the report of a folder of stages.

    Parameters
    ----------
    runs : holds a folder a stage
    data : the designs
    output : the page

    Raises
    ------
    ConfigError
        If no stage is done yet.
    DataError
        If results cannot be read, or the page cannot be written.
    """
    results = {stage: found for stage in STAGES if (found := read_results(runs / stage)) is not None}
    if not results:
        raise ConfigError(f"--runs: {runs} holds no stage that is done; run run_all.py, or one of the train programs")
    parts = ["<h1>Design decomposition</h1>", _criteria(results)]
    if (data / "manifest.json").is_file():
        parts.append(_designs(data))
    parts += [_stage(runs / stage, title, results.get(stage)) for stage, title in STAGES.items()]
    page = (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Design decomposition</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )
    try:
        write_atomic(output, page.encode())
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error.strerror or error}") from error
    return output


def read_results(folder: Path) -> dict[str, Any] | None:
    """The ``results.json`` of a stage, or None if it is not done.

    Raises
    ------
    DataError
        If there is one that cannot be read.
    """
    path = folder / "results.json"
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(results, dict) or not isinstance(results.get("figures"), dict):
        raise DataError(f"{path}: is not what a stage writes; wanted an object with figures")
    return results


def _text(value: Any) -> str:
    return html.escape(str(value))


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _text(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML already."""
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _criteria(results: Mapping[str, Any]) -> str:
    """All criteria of all stages: found, wanted, met or missed."""
    rows = []
    for stage, found in results.items():
        for criterion in found.get("criteria", ()):
            word = "met" if criterion["met"] else "missed"
            verdict = f'<span class="{word}">{word}</span>'
            rows.append(
                (stage, _text(criterion["name"]), _number(criterion["value"]), _text(criterion["wanted"]), verdict)
            )
    met = sum(">met<" in row[-1] for row in rows)
    title = f"<h2>Criteria</h2><p>{met} of {len(rows)} are met.</p>"
    return title + _table(("stage", "what", "found", "wanted", ""), [(_text(row[0]), *row[1:]) for row in rows])


def _stage(folder: Path, title: str, results: Mapping[str, Any] | None) -> str:
    parts = [f"<h2>{_text(title)}</h2>"]
    if results is None:
        return parts[0] + '<p class="quiet">Not run yet.</p>'
    facts = [_text(results.get("measured_on", ""))]
    if "parameters" in results:
        facts.append(f"{results['parameters']:,} parameters")
    if "training_seconds" in results:
        facts.append(f"{results.get('steps', 0):,} steps in {format_seconds(results['training_seconds'])}")
    parts.append(f'<p class="quiet">{"; ".join(fact for fact in facts if fact)}</p>')
    for table in results.get("tables", ()):
        cells = [[_number(cell) for cell in row] for row in table["rows"]]
        parts.append(f"<h3>{_text(table['title'])}</h3>" + _table([_text(c) for c in table["columns"]], cells))
    pictures = {**_PICTURES, **results.get("pictures", {})}
    parts += [_figure(folder / name, caption) for name, caption in pictures.items() if (folder / name).is_file()]
    rows = [(_text(name.replace("_", " ")), _number(value)) for name, value in results["figures"].items()]
    parts.append(f"<details><summary>All figures</summary>{_table(('', ''), rows)}</details>")
    return "".join(parts)


def _figure(path: Path, caption: str) -> str:
    """A picture, in the page itself."""
    source = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    shown = _text(caption)
    return f'<figure><img alt="{shown}" src="{source}"><figcaption>{shown}</figcaption></figure>'


def _designs(folder: Path) -> str:
    """What the designs look like, and how their scores are spread."""
    designs = SyntheticDesignDataset(folder, "train", verify=False)
    facts = f"{designs.count:,} designs of {designs.size} pixels, {designs.n_colours} colours, seed {designs.seed}"
    with tempfile.TemporaryDirectory() as scratch:
        sheet = save_grid(Path(scratch) / "sheet.png", contact_sheet(designs))
        spread = _draw_scores(designs[:]["grammar"], Path(scratch) / "scores.png")
        pictures = _figure(
            sheet,
            f"Designs by goal, from above: {', '.join(GOALS)}; each as picture, colour ids, and text (red), picture "
            "(green) and hierarchy (blue) in one",
        ) + _figure(spread, "The grammar scores of the designs to train on")
    return f'<h2>The designs</h2><p class="quiet">{_text(facts)}</p>{pictures}'


def contact_sheet(designs: SyntheticDesignDataset, each: int = 2) -> list[list[np.ndarray]]:
    """Rows of tiles: for each goal some designs of each format, as picture, colours, and the other maps in one."""
    about = SyntheticDesignDataset(designs.folder, designs.split, ("goal", "format"), verify=False)[:]
    rows = []
    for goal in range(len(GOALS)):
        numbers = [
            int(number)
            for form in range(len(FORMATS))
            for number in np.flatnonzero((about["goal"] == goal) & (about["format"] == form))[:each]
        ]
        some = [designs[number] for number in numbers]
        rows.append([image_tile(design["image"]) for design in some])
        rows.append([colour_tile(design["features"][2], designs.n_colours) for design in some])
        rows.append(
            [np.concatenate([map_tile(design["features"][c])[..., :1] for c in (0, 1, 3)], 2) for design in some]
        )
    return rows


def _draw_scores(scores: np.ndarray, path: Path) -> Path:
    figure = new_figure(10.0, 2.4)
    for at, axes in enumerate(figure.subplots(1, len(GRAMMAR), sharey=True)):
        axes.hist(scores[:, at], bins=20, range=(0, 1), color="#4c78a8")
        put_title(axes, GRAMMAR[at].replace("_", " "))
        axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, path, dpi=100)

"""What a trained decoder paints, shown and measured."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinygrad_edu.backend import asarray, to_host
from tinygrad_edu.data.designs import FORMATS, GOALS, SyntheticDesignDataset, stack_examples
from tinygrad_edu.errors import ConfigError, did_you_mean

from .decoder import meaning_of
from .making import Making
from .networks import as_seen, as_shown
from .painting import Painter, distance_figures, fidelity_figures, grammar_figures, likeness, read
from .pictures import image_tile, save_grid
from .stages import Criterion

CRITERIA = (
    Criterion("FID under the project's own extractor", "fid", "<", 50.0),
    Criterion("goal as asked, in multiples of chance", "goal_over_chance", ">", 2.0),
    Criterion("format as asked, in multiples of chance", "format_over_chance", ">", 2.0),
    Criterion("distance of pictures of one meaning, of several = 1", "same_to_other_meaning", "<", 0.9),
)
FIELDS = ("image", "goal", "format", "tone")
_REFERENCE = 2000  # real designs that FID compares with, at most
_SEEDS = 6  # pictures of one meaning


def painter_of(making: Making) -> Painter:
    """The decoder as the settings ask it."""
    sampling = making.config.sampling
    return Painter(making.decoder, sampling.steps, sampling.guidance, making.config.training.batch_size)


def first_examples(designs: SyntheticDesignDataset, count: int) -> dict[str, Any]:
    """The first designs of a split as one batch."""
    return stack_examples([designs[i] for i in range(min(count, len(designs)))])


def measure_samples(making: Making) -> None:
    """Paint the meanings of test designs, show and measure them."""
    began, config = time.perf_counter(), making.config
    painter, size = painter_of(making), config.data.size
    test = first_examples(making.designs("test", FIELDS), config.sampling.count)
    meaning, asked = meaning_of(test), {name: test[name] for name in ("goal", "format", "tone")}
    painted = painter.paint(meaning, size=size, seed=config.training.seed)
    figures = measure(making, painted, asked)

    real = read(making.reader, as_seen(test["image"]))
    figures |= {f"{name}_of_real": value for name, value in fidelity_figures(real, asked).items()}
    reference = read(making.reader, as_seen(first_examples(making.designs("train", ("image",)), _REFERENCE)["image"]))
    noise = painter.noise(len(painted), size, config.training.seed).clip(-1, 1)
    features = {"fid": figures.pop("features"), "fid_of_real": real["features"]}
    features["fid_of_noise"] = read(making.reader, noise)["features"]
    for name, values in features.items():
        figures |= distance_figures(reference["features"], values, name)

    groups = min(8, len(meaning))
    repeated = meaning[:groups].repeat(_SEEDS, axis=0)
    alike = painter.paint(repeated, size=size, seed=config.training.seed + 1)
    found = read(making.reader, alike)["features"].reshape(groups, _SEEDS, -1)
    figures |= likeness(found)
    figures["same_to_other_meaning"] = figures["distance_same_meaning"] / figures["distance_other_meaning"]
    if making.folder is not None:
        show(making, painter, alike.reshape(groups, _SEEDS, *alike.shape[1:]))
    making.finish(
        figures,
        CRITERIA,
        f"{len(painted):,} meanings of test designs; FID with {len(reference['features']):,} training designs",
        time.perf_counter() - began,
        (_table(figures),),
    )


def measure(making: Making, painted: NDArray[Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Figures of pictures (N, 3, S, S), and their ``features``."""
    found = read(making.reader, painted)
    figures: dict[str, Any] = fidelity_figures(found, asked)
    for name in ("goal", "format"):
        figures[f"{name}_over_chance"] = figures[f"{name}_fidelity"] / max(figures[f"{name}_chance"], 1e-9)
    return {**figures, **grammar_figures(found["grammar"]), "features": found["features"]}


def _table(figures: dict[str, float]) -> dict[str, Any]:
    rows: list[list[Any]] = [["FID", *(figures[f"fid{suffix}"] for suffix in ("", "_of_real", "_of_noise"))]]
    suffixes = ("fidelity", "fidelity_of_real", "chance")
    rows += [[f"{name} as asked", *(figures[f"{name}_{suffix}"] for suffix in suffixes)] for name in ("goal", "format")]
    columns = ["", "painted", "real test designs", "noise, chance"]
    return {"title": "Painted, real and chance", "columns": columns, "rows": rows}


def show(making: Making, painter: Painter, alike: NDArray[Any]) -> None:
    """Sheets of pictures: every goal in every format, pictures of one meaning, and how they come out of the noise."""
    size, seed = making.config.data.size, making.config.training.seed
    goals, formats = np.divmod(np.arange(len(GOALS) * len(FORMATS)), len(FORMATS))
    tone = np.zeros((len(goals), 3), np.float32)
    meaning = meaning_of({"goal": goals, "format": formats, "tone": tone}).repeat(2, axis=0)
    painted = painter.paint(meaning, size=size, seed=seed + 2).reshape(len(GOALS), -1, 3, size, size)
    caption = f"Goals from above: {', '.join(GOALS)}; formats from the left, two each: {', '.join(FORMATS)}"
    save_sheet(making.place("samples.png", caption), painted)
    save_sheet(making.place("alike.png", "A row is one meaning, each picture other noise"), alike)
    sampler = making.decoder.sampler("ddim", steps=painter.steps)
    start = asarray(painter.noise(4, size, seed + 3))
    strip = sampler.strip(
        making.decoder.guided(painter.guidance),
        None,
        asarray(meaning[[0, 9, 18, 27]]),
        start=start,
        frames=min(9, painter.steps + 1),
    )
    save_sheet(making.place("denoising.png", "From the noise to the picture"), to_host(strip).swapaxes(0, 1))


def save_sheet(path: Any, rows: NDArray[Any]) -> None:
    """Rows (R, N, 3, S, S) of pictures in [-1, 1] as one PNG."""
    save_grid(path, [[image_tile(as_shown(image)) for image in row] for row in rows])


def paint_one_meaning(making: Making, goal: str, form: str, tone: list[float], count: int) -> None:
    """Paint one meaning `count` times."""
    numbers = {"goal": [_number("--goal", goal, GOALS)] * count, "format": [_number("--format", form, FORMATS)] * count}
    if any(not -1 <= value <= 1 for value in tone):
        raise ConfigError(f"--tone: {' '.join(map(str, tone))}, wanted numbers in [-1, 1]")
    meaning = meaning_of({**numbers, "tone": np.tile(np.float32(tone), (count, 1))})
    seed = making.config.training.seed
    painted = painter_of(making).paint(meaning, size=making.config.data.size, seed=seed)
    path = making.place("samples.png", f"{goal}, {form}, tone {tone}")
    save_sheet(path, painted.reshape(1, *painted.shape))
    making.say(f"{count} designs painted: {path}")


def _number(option: str, name: str, names: tuple[str, ...]) -> int:
    if name not in names:
        raise ConfigError(f"{option}: {name!r}, wanted one of {', '.join(names)}.{did_you_mean(name, names)}")
    return names.index(name)

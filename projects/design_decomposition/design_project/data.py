"""The designs of a run: opened, or made first if they are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinygrad_edu.data import DataLoader
from tinygrad_edu.data.designs import SyntheticDesignDataset, stack_examples, write_designs
from tinygrad_edu.errors import ConfigError

from .networks import as_seen, soft_maps_of
from .settings import DesignData


def prepare_designs(data: DesignData, console: Any) -> Path:
    """The folder of the designs that the settings want, made now if it is not there.

    Raises
    ------
    ConfigError
        If other designs are in it.
    DataError
        If it is damaged, or cannot be written.
    """
    folder = Path(data.folder)
    if not folder.exists():
        _make(folder, data, console)
        return folder
    found = SyntheticDesignDataset(folder, verify=False)
    different = [
        f"{name} {getattr(found, name)}, wanted {getattr(data, name)}"
        for name in ("count", "size", "n_colours", "seed")
        if getattr(found, name) != getattr(data, name)
    ]
    if different:
        raise ConfigError(
            f"data.folder: {folder} holds other designs: {'; '.join(different)}. Give another folder, or remove it"
        )
    return folder


def _make(folder: Path, data: DesignData, console: Any) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("making designs"), MofNCompleteColumn(), BarColumn(None), TimeRemainingColumn())
    with Progress(*columns, console=console, expand=True, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=data.count)
        write_designs(
            folder,
            data.count,
            size=data.size,
            n_colours=data.n_colours,
            seed=data.seed,
            progress=lambda done, total: bar.update(task, completed=done),
        )
    console.print(f"{data.count:,} designs made in {folder}", markup=False, highlight=False, soft_wrap=True)


def encoder_batch(examples: list[Any]) -> tuple[Any, Any]:
    """Pictures as networks see them, and F_Tensors."""
    batch = stack_examples(examples)
    return as_seen(batch["image"]), batch["features"]


def abstractor_batch(examples: list[Any], n_colours: int, mirror: bool = False) -> dict[str, Any]:
    """Soft maps, and all that is to be told from them.

    With `mirror` every second design is seen from behind, left and right changed: its scores and its meaning are the
    same. Which ones these are changes with the order of the epoch, so no random numbers are needed that a resumed run
    would have to go on with.
    """
    batch = stack_examples(examples)
    maps = soft_maps_of(batch.pop("features"), n_colours)
    if mirror:
        maps[::2] = maps[::2, ..., ::-1].copy()
    return {"maps": maps, **batch}


def loader_of(designs: Any, batch_size: int, collate: Any, seed: int | None = None) -> DataLoader:
    """Batches of designs, shuffled if a seed is given; training leaves out a last one that is not full."""
    training = seed is not None
    full = training and len(designs) >= batch_size
    return DataLoader(designs, batch_size, collate, shuffle=training, seed=seed or 0, drop_last=full)

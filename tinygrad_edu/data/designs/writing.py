"""Making designs and writing them to disk, whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError
from ...storage import write_atomic
from ..checks import check_integer
from ..files import STALE_SECONDS
from .grammar import make_layout
from .layout import FORMATS, GOALS, TONES
from .maps import GRAMMAR, MAPS, feature_maps, grammar_scores
from .palette import check_colours
from .render import check_size, pillow, render
from .storage import FIELDS, KIND, MANIFEST, VERSION, arrays_of, stored_maps, sum_of

_FEWEST = 10

Progress = Callable[[int, int], None]


def write_designs(
    folder: str | Path,
    count: int,
    *,
    size: int = 32,
    n_colours: int = 8,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    progress: Progress | None = None,
) -> Path:
    """Make `count` designs and write them into a new folder.

    Design i depends on `seed`, i and `n_colours` alone: more of them, or larger pictures, begin with the same ones.
    Everything is written under a temporary name and renamed at the end: an interrupted run leaves nothing.

    Parameters
    ----------
    folder : that is not there yet
    count : at least 10
    size : pixels along a side, a multiple of 32 from 32 to 256
    n_colours : of the palette, 5 to 16
    seed : of the series
    validation, test : shares of the designs that are kept from training, the last ones by number
    progress : told now and then how many of how many are done

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ConfigError
        For arguments that are not allowed, a folder that is there, or without Pillow; nothing is written then.
    DataError
        When it cannot be written, as on a full disk.
    """
    check_integer("count", count, _FEWEST)
    check_integer("seed", seed, 0)
    check_size(size)
    check_colours(n_colours)
    pillow()
    splits = _split_sizes(int(count), validation, test)
    folder = Path(folder)
    if folder.is_symlink() or folder.exists():
        raise ConfigError(f"folder: {folder} is there already; wanted the name of one to be made")
    _remove_abandoned(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        _write_arrays(temporary, int(count), int(size), int(n_colours), int(seed), progress)
        manifest = {
            "kind": KIND,
            "version": VERSION,
            "count": int(count),
            "size": int(size),
            "n_colours": int(n_colours),
            "seed": int(seed),
            "splits": splits,
            "goals": list(GOALS),
            "formats": list(FORMATS),
            "tones": list(TONES),
            "grammar": list(GRAMMAR),
            "maps": list(MAPS),
            "made_with": _versions(),
            "files": {f"{name}.npy": sum_of(temporary / f"{name}.npy") for name in FIELDS},
        }
        write_atomic(temporary / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
        temporary.rename(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # only there if something failed
    return folder


def _write_arrays(folder: Path, count: int, size: int, n_colours: int, seed: int, progress: Progress | None) -> None:
    """The files of all fields, design by design; plain files, which Windows lets go as soon as they are closed."""
    kinds = arrays_of(count, size)
    with contextlib.ExitStack() as closing:
        files = {name: closing.enter_context((folder / f"{name}.npy").open("xb")) for name in kinds}
        for name, (shape, dtype) in kinds.items():
            header = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)
        for index in range(count):
            layout = make_layout(seed, index, n_colours)
            design = {
                "image": render(layout, size),
                "features": stored_maps(feature_maps(layout, size)),
                "goal": layout.meta.goal,
                "format": layout.meta.format,
                "tone": layout.meta.tone,
                "grammar": grammar_scores(layout),
            }
            for name, (_, dtype) in kinds.items():
                files[name].write(np.asarray(design[name], dtype).tobytes())
            if progress is not None and ((index + 1) % 100 == 0 or index + 1 == count):
                progress(index + 1, count)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed runs for this folder left beside it, once it is too old to be still written."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path)


def _split_sizes(count: int, validation: Any, test: Any) -> dict[str, int]:
    for name, share in (("validation", validation), ("test", test)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise ConfigError(f"{name}: {share!r}, wanted a share between 0 and 1")
    kept = {"validation": max(1, round(count * validation)), "test": max(1, round(count * test))}
    rest = count - sum(kept.values())
    if rest < 1:
        raise ConfigError(f"validation, test: {validation} and {test} of {count} designs leave none to train on")
    return {"train": rest, **kept}


def _versions() -> dict[str, str]:
    """Of what decides how a design looks."""
    import matplotlib

    import tinygrad_edu

    image = pillow()
    return {
        "tinygrad_edu": tinygrad_edu.__version__,
        "numpy": np.__version__,
        "pillow": image.__version__,
        "matplotlib": matplotlib.__version__,
    }

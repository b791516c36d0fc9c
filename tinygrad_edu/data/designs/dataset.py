"""Designs from disk, mapped into memory for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError, DataError, DtypeError, RangeError, did_you_mean
from .storage import FIELDS, SPLITS, open_arrays, read_manifest, read_maps


class SyntheticDesignDataset:
    """One split of a folder of designs; the arrays stay on disk until they are asked for.

    Parameters
    ----------
    folder : that :func:`write_designs` made
    split : ``"train"``, ``"validation"`` or ``"test"``
    fields : what an example has, of :data:`FIELDS`
    verify : compare the SHA-256 of all arrays, which reads them once; their lengths are compared in any case

    Attributes
    ----------
    size, n_colours, seed, count : of the whole folder
    goals, formats, tones, grammar : names of the classes and numbers

    Raises
    ------
    ConfigError
        For a split or field that there is not.
    DataError
        If a file is missing, cut off or changed, or was made by a newer version.

    Examples
    --------
    >>> designs = SyntheticDesignDataset("runs/designs", "train", ("image", "features"))  # doctest: +SKIP
    >>> loader = DataLoader(designs, 32, stack_examples, shuffle=True)  # doctest: +SKIP
    """

    def __init__(
        self, folder: str | Path, split: str = "train", fields: Sequence[str] = FIELDS, *, verify: bool = True
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"split: {split!r}, wanted one of {', '.join(SPLITS)}.{did_you_mean(str(split), SPLITS)}")
        unknown = [name for name in fields if name not in FIELDS]
        if unknown or isinstance(fields, str) or not fields:
            found = repr(unknown[0]) if unknown else repr(fields)
            hint = did_you_mean(str(unknown[0]), FIELDS) if unknown else ""
            raise ConfigError(f"fields: {found}, wanted some of {', '.join(FIELDS)}.{hint}")
        self.folder, self.split, self.fields = Path(folder), split, tuple(fields)
        self.manifest = read_manifest(self.folder)
        self.count, self.size = int(self.manifest["count"]), int(self.manifest["size"])
        self.n_colours, self.seed = int(self.manifest["n_colours"]), int(self.manifest["seed"])
        self.goals, self.formats = tuple(self.manifest["goals"]), tuple(self.manifest["formats"])
        self.tones, self.grammar = tuple(self.manifest["tones"]), tuple(self.manifest["grammar"])
        before = {"train": 0, "validation": 1, "test": 2}[split]
        sizes = [self.manifest["splits"][name] for name in SPLITS]
        self._first, self._length = sum(sizes[:before]), sizes[before]
        self._arrays = open_arrays(self.folder, self.manifest, verify)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        """One example, or those of a slice or an array of numbers, as a dict of arrays.

        Returns
        -------
        dict with the chosen fields
            ``image`` (3, S, S) float32 in [0, 1]; ``features`` (4, S, S) float32, see :func:`feature_maps`; ``goal``
            and ``format``, int64; ``tone`` (3,) and ``grammar`` (4,), float32. Several examples have one axis more.

        Raises
        ------
        RangeError, DtypeError
            For a number outside of the split, or something that is no number.
        """
        if isinstance(index, slice):
            chosen: Any = np.arange(*index.indices(self._length))
        else:
            chosen = np.asarray(index)
            if chosen.dtype.kind not in "iu":
                raise DtypeError(f"index: {index!r}, wanted an integer, a slice or an array of integers")
            if ((chosen < -self._length) | (chosen >= self._length)).any():
                raise RangeError(f"index: {index!r} is outside of the {self._length:,} designs of {self.split}")
            chosen = chosen % self._length
        return {name: self._read(name, self._first + chosen) for name in self.fields}

    def _read(self, name: str, at: Any) -> Any:
        values = self._arrays[name][at]
        if name == "image":
            return values.astype(np.float32) / np.float32(255)
        if name == "features":
            return read_maps(values)
        return np.array(values)  # a copy: what is mapped is read-only

    def __repr__(self) -> str:
        return f"<SyntheticDesignDataset {self.folder}: {self._length:,} designs to {self.split}, {self.size} pixels>"


def stack_examples(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch from examples: the arrays of each field on top of each other.

    Raises
    ------
    DataError
        If there are none.
    """
    if not examples:
        raise DataError("examples: there are none")
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

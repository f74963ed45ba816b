"""Columns of a logit store read a slab at a time, for what passes over all rows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.logit_store_file import REMEDY, SLAB_BYTES, open_hdf5, plain


class Columns:
    """The datasets of a store, read a slab at a time, so that no store has to fit into memory."""

    def __init__(self, store: LogitStore) -> None:
        """Of an opened store; entering the context raises ValueError where its file was replaced meanwhile."""
        self._store = store

    def __enter__(self) -> Any:
        self._file = open_hdf5(self._store.path, "r", remedy=REMEDY)
        if plain(self._file.attrs.get("content_sha256")) != self._store.summary.content_sha256:
            self._file.close()
            raise ValueError(f"{self._store.path}: found another store than the one checked before; start again")
        return self._file

    def __exit__(self, *error: object) -> None:
        self._file.close()


def slabs(rows: int, row_bytes: int) -> Iterator[slice]:
    """Spans of rows, in order, of about SLAB_BYTES each."""
    step = max(1, SLAB_BYTES // row_bytes)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def gather(dataset: Any, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Rows at rising positions, by windows of the file: naming single rows makes HDF5 slow."""
    step = max(1, SLAB_BYTES // (4 * dataset.shape[1]))
    parts = np.split(rows, np.flatnonzero(np.diff(rows // step)) + 1)
    return np.concatenate([dataset[part[0] : part[-1] + 1][part - part[0]] for part in parts])

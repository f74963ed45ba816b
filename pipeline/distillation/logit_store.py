"""Reads a logit store: one HDF5 file of teacher logits by clip and view.

The store in seven files, lowest first: `logit_store_format` (values), `logit_store_layout` (columns),
`logit_store_file` (open), `logit_store_check` (verify), this one (read), `logit_store_shards` (crash-safe work files),
`logit_store_writer` (publish). No other file of the project imports h5py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.distillation.logit_store_check import verify, verify_in_child
from pipeline.distillation.logit_store_file import (
    DAMAGE,
    REMEDY,
    content_problems,
    layout_problems,
    open_hdf5,
    plain,
    store_sizes,
    texts,
)
from pipeline.distillation.logit_store_format import (
    FINGERPRINT_PREFIX,
    PROVENANCE_PREFIX,
    Block,
    BlockRange,
    ClipTable,
    Scalar,
    StoreSpec,
    block_ranges,
    field_differences,
    row_crc32,
)
from pipeline.distillation.logit_store_layout import ROW_COLUMNS, StoreSummary

__all__ = [
    "Block",
    "BlockRange",
    "ClipTable",
    "LogitStore",
    "Scalar",
    "StoreSpec",
    "StoreSummary",
    "StoredRow",
    "block_ranges",
    "verify",
    "verify_in_child",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRow:
    """What the teacher said about one view of one clip."""

    logits: npt.NDArray[np.float32]
    """(K,), before softmax."""
    frame_indices: tuple[int, ...]
    """T positions in decoded order."""
    crop: tuple[int, int, int, int]
    """Top, left, height, width in pixels of the resized frame."""
    flip: bool
    pixel_crc32: int
    """crc32 of the view's uint8 pixels."""
    label: int
    """Class index, 0-based."""


class LogitStore:
    """A store opened for reading; `open` makes one.

    Up to a stated size it holds all rows in memory: forked workers share them, a spawned worker gets its own copy.
    A larger store is read row by row, with one handle a process. Either way every row is checked against its
    crc32 when it is read. Threads may share one store.
    """

    def __init__(self, path: Path, file: h5py.File, *, in_memory: bool) -> None:
        """Take over a sound, open file; callers use `open`."""
        sizes = store_sizes(file)
        self.path = path
        self.num_views, self.frames_per_view = sizes.views, sizes.frames
        self.class_names = tuple(texts(file["class_names"]))
        self.clip_ids = tuple(texts(file["clips/id"]))
        self.clip_sha256 = tuple(texts(file["clips/sha256"]))
        self.labels: npt.NDArray[np.int32] = file["clips/label"][:]
        self.num_frames: npt.NDArray[np.int32] = file["clips/num_frames"][:]
        attributes = {name: plain(value) for name, value in file.attrs.items()}
        self.fingerprint = _fields(attributes, FINGERPRINT_PREFIX)
        self.provenance = _fields(attributes, PROVENANCE_PREFIX)
        self.summary = read_summary(file, path)
        self._index = {clip_id: number for number, clip_id in enumerate(self.clip_ids)}
        names = (*ROW_COLUMNS, "rows/row_crc32")
        self._memory = {name: file[name][:] for name in names} if in_memory else None
        self._handle: tuple[int, Mapping[str, Any]] | None = None

    @classmethod
    def open(cls, path: Path, *, memory_limit_bytes: int = 1024**3, untrusted: bool = False) -> Self:
        """Open a store and check all of it.

        Args:
            path: the file.
            memory_limit_bytes: size of the row columns up to which they are held in memory; 0 reads lazily.
            untrusted: open it in a child process first, because libhdf5 itself can crash on hostile bytes.

        Raises:
            OSError: if the file cannot be read as HDF5.
            ValueError: if it is no logit store of this version, is incomplete, damaged, or holds links, types
                or filters that the layout does not know.
        """
        if untrusted and (problems := verify_in_child(path)):
            raise ValueError(f"{path}: {'; '.join(problems)}; {REMEDY}")
        with open_hdf5(path, "r", remedy=REMEDY) as file:
            try:
                problems = layout_problems(file) or content_problems(file)
                if not problems:
                    size = sum(file[name].nbytes for name in ROW_COLUMNS)
                    return cls(path, file, in_memory=size <= memory_limit_bytes)
            except DAMAGE as error:
                problems = [str(error)]
        raise ValueError(f"{path}: {'; '.join(problems)}; {REMEDY}")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the handle behind: one does not cross a process border."""
        return self.__dict__ | {"_handle": None}

    def differences(self, **fields: Scalar) -> list[str]:
        """A sentence (field, found, wanted) for every given field that the store's provenance does not equal."""
        return field_differences(self.provenance, fields)

    def require(self, **fields: Scalar) -> None:
        """Refuse a store whose rows depend on something else.

        Raises:
            ValueError: naming every given field that the store's fingerprint does not equal, or lacks.
        """
        if differences := field_differences(self.fingerprint, fields):
            raise ValueError(f"{self.path}: logits of another making: {'; '.join(differences)}; {REMEDY}")

    def require_clips(self, ids: Sequence[str], sha256: Sequence[str]) -> None:
        """Refuse a store that does not hold exactly these clips, in any order.

        Args:
            ids: clip ids.
            sha256: content hash of each clip's file.

        Raises:
            ValueError: naming the first few doubled, missing, extra or changed clips.
        """
        stored = dict(zip(self.clip_ids, self.clip_sha256, strict=True))
        wanted = dict(zip(ids, sha256, strict=True))
        faults = {
            "doubled in the list": [c for c, count in Counter(ids).items() if count > 1],
            "missing in the store": [c for c in wanted if c not in stored],
            "extra in the store": [c for c in stored if c not in wanted],
            "with another content hash": [c for c in wanted if stored.get(c, wanted[c]) != wanted[c]],
        }
        sentences = [f"{len(c)} clips {what} ({_some(c)})" for what, c in faults.items() if c]
        if sentences:
            raise ValueError(f"{self.path}: found {'; '.join(sentences)}, wanted the clips of the list; {REMEDY}")

    def row(self, clip_id: str, view: int) -> StoredRow:
        """The stored row of a clip and view.

        Args:
            clip_id: one of `clip_ids`.
            view: 0 to num_views - 1.

        Raises:
            ValueError: if the store has no such row, or the row does not match its crc32.
            OSError: if a store that is read row by row was damaged since it was opened.
        """
        clip = self._index.get(clip_id)
        if clip is None or not 0 <= view < self.num_views:
            wanted = f"one of {len(self.clip_ids)} clips and views 0 to {self.num_views - 1}"
            raise ValueError(f"{self.path}: found no row of clip {clip_id!r}, view {view}, wanted {wanted}; {REMEDY}")
        source, row = self._source(), view * len(self.clip_ids) + clip
        try:
            block = Block(**{name.rpartition("/")[2]: source[name][row : row + 1] for name in ROW_COLUMNS})
            crc32 = source["rows/row_crc32"][row]
        except DAMAGE as error:
            where = f"{self.path}: clip {clip_id!r}, view {view}"
            raise OSError(f"{where}: cannot be read, its bytes are damaged ({error}); {REMEDY}") from error
        label = int(self.labels[clip])
        if row_crc32([clip_id], [label], [view], block)[0] != crc32:
            raise ValueError(f"{self.path}: clip {clip_id!r}, view {view}: row does not match its crc32; {REMEDY}")
        top, left, height, width = block.crop[0].tolist()
        return StoredRow(
            logits=block.logits[0].copy(),
            frame_indices=tuple(block.frame_indices[0].tolist()),
            crop=(top, left, height, width),
            flip=bool(block.flip[0]),
            pixel_crc32=int(block.pixel_crc32[0]),
            label=label,
        )

    def _source(self) -> Mapping[str, Any]:
        """The columns by path. Two threads may both open the file at first; HDF5 then shares one."""
        if self._memory is not None:
            return self._memory
        handle = self._handle
        if handle is None or handle[0] != os.getpid():
            self._handle = None  # inherited by fork: not ours to read with
            file = open_hdf5(self.path, "r", remedy=REMEDY)
            try:
                digest = plain(file.attrs.get("content_sha256"))
                columns = {name: _column(file, name) for name in (*ROW_COLUMNS, "rows/row_crc32")}
            except DAMAGE as error:
                file.close()
                raise OSError(f"{self.path}: was damaged since it was opened ({error}); {REMEDY}") from error
            if digest != self.summary.content_sha256:
                file.close()
                raise ValueError(f"{self.path}: found another store than the one opened before; start the run again")
            self._handle = handle = (os.getpid(), columns)
        return handle[1]


class _Flags:
    """A column of bools read as the bytes they are: h5py converts them one by one and takes four times as long."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._stored = dataset.id

    def __getitem__(self, rows: slice) -> npt.NDArray[np.bool_]:
        found = np.empty(rows.stop - rows.start, np.uint8)
        chosen = self._stored.get_space()
        chosen.select_hyperslab((rows.start,), found.shape)
        self._stored.read(h5py.h5s.create_simple(found.shape), chosen, found, mtype=self._stored.get_type())
        return found.astype(np.bool_)


def _column(file: h5py.File, name: str) -> h5py.Dataset | _Flags:
    """A column to read single rows from, without a chunk cache: rows come in random order, so none is asked twice."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(0, 0, 0)
    dataset = h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access), readonly=True)
    return _Flags(dataset) if dataset.dtype == np.bool_ else dataset


def read_summary(file: h5py.File, path: Path) -> StoreSummary:
    """The figures of an open store."""
    return StoreSummary(
        rows=file["logits"].shape[0],
        bytes=path.stat().st_size,
        top1=float(file["summary/top1"][()]),
        top1_by_view=tuple(file["summary/by_view/top1"][:].tolist()),
        per_class_accuracy=tuple(file["summary/by_class/accuracy"][:].tolist()),
        content_sha256=str(file.attrs["content_sha256"]),
    )


def _fields(attributes: Mapping[str, Scalar], prefix: str) -> dict[str, Scalar]:
    return {name.removeprefix(prefix): value for name, value in attributes.items() if name.startswith(prefix)}


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")

"""Shards of a logit store: work files that finished blocks go into while the teacher runs.

A shard keeps its blocks in the order in which they came, and a table of which blocks those are. A block counts only
once its rows were flushed before its entry in that table, so a killed process loses the block in flight and nothing
else. Shards carry no fletcher32: a kill can tear the rewriting of a chunk between two pages, and one checksum over the
chunk would then lose the finished rows that share it. Every row's own crc32 does the checking.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Set
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.clips.files import check_room, reserve
from pipeline.distillation.logit_store_file import open_hdf5, plain, telling_hdf5_full
from pipeline.distillation.logit_store_format import (
    FINGERPRINT_PREFIX,
    FORMAT_VERSION,
    Block,
    BlockRange,
    Scalar,
    StoreSpec,
    block_range,
    check_block,
    clips_digest,
    field_differences,
    names_digest,
    num_blocks,
    row_crc32,
)
from pipeline.distillation.logit_store_layout import CHUNK_BYTES

SHARD_FORMAT = "dl-kdd-logit-shard"
REMEDY = "delete the shard and run the stage again"
GROWTH_SLOTS = 256  # a shard grows by this many blocks at once: fewer changes to the metadata that a kill could tear
INDEX_BYTES = 256 * 1024  # most that headers and chunk indices grow by with one block, and a new shard with them
UNUSED = -1


class Shard:
    """An open shard; slot s keeps one block in the rows s * block_rows and after.

    Args:
        path: the shard.
        mode: `r` or `r+`.
        spec: the store that it has to belong to.
        block_rows: rows of a block that it has to have; None takes the shard's own.

    Raises:
        ValueError: if it belongs to other logits, naming each field, found and wanted.
        OSError: if it is damaged, or another process writes it.
    """

    def __init__(self, path: Path, mode: Literal["r", "r+"], spec: StoreSpec, block_rows: int | None) -> None:
        self.path, self.spec = path, spec
        self.file = open_hdf5(path, mode, remedy=REMEDY)
        try:
            self.block_rows = self._check_key(block_rows)
            self.columns = {name: self.file[name] for name in (*_columns(spec), "done_block", "done_check")}
            self.slots = self._finished()
        except (KeyError, RuntimeError, OSError) as error:
            self.file.close()
            raise OSError(f"{path}: damaged shard ({error}); {REMEDY}") from error
        except BaseException:
            self.file.close()
            raise

    def span(self, number: int) -> BlockRange:
        """Where a block's rows belong."""
        return block_range(number, num_clips=len(self.spec.clips.ids), block_rows=self.block_rows)

    def crc32(self, number: int) -> npt.NDArray[np.uint32]:
        """(n,) crc32 of each row of a finished block."""
        return self._rows("row_crc32", number)

    def read(self, number: int) -> Block:
        """A finished block.

        Raises:
            ValueError: if a row does not match its crc32.
        """
        span = self.span(number)
        names = Block.__dataclass_fields__
        block = Block(**{name: self._rows(name, number) for name in names})
        bad = np.flatnonzero(self.crc32(number) != block_crc32(self.spec, span, block))
        if len(bad):
            clip_id = self.spec.clips.ids[span.start + int(bad[0])]
            raise ValueError(
                f"{self.path}: block {number}: found {len(bad)} rows that do not match their crc32, "
                f"the first one clip {clip_id!r}, view {span.view}; {REMEDY}"
            )
        return block

    def _rows(self, name: str, number: int) -> npt.NDArray[Any]:
        span, start = self.span(number), self.slots[number] * self.block_rows
        rows: npt.NDArray[Any] = self.columns[name][start : start + span.stop - span.start]
        return rows

    def _check_key(self, block_rows: int | None) -> int:
        found = {name: plain(value) for name, value in self.file.attrs.items()}
        if found.pop("format", None) != SHARD_FORMAT:
            raise ValueError(f"{self.path}: found no logit shard, wanted one; move the file away")
        rows = found.get("block_rows", 1) if block_rows is None else block_rows
        if type(rows) is not int or rows < 1:
            raise ValueError(f"{self.path}: block_rows: found {rows!r}, wanted at least 1; {REMEDY}")
        wanted = shard_key(self.spec, rows)
        differences = field_differences(found, wanted)
        differences += [f"{name}: found {found[name]!r}, wanted none" for name in found if name not in wanted]
        if differences:
            raise ValueError(f"{self.path}: shard of other logits: {'; '.join(differences)}; {REMEDY}")
        return rows

    def _finished(self) -> dict[int, int]:
        """Slot of each block whose entry matches its rows' checksums; a torn entry counts as not written."""
        numbers, entries = self.columns["done_block"][:], self.columns["done_check"][:]
        row_checks = self.columns["row_crc32"][:]
        slots = {}
        for slot in np.flatnonzero(numbers != UNUSED).tolist():
            number, start = int(numbers[slot]), slot * self.block_rows
            span = self.span(number)
            if entries[slot] == _entry_crc32(number, row_checks[start : start + span.stop - span.start]):
                slots[number] = slot
        return slots


class ShardWriter:
    """Writes finished blocks into a shard; opens a new one, or resumes one of the same clips and fingerprint.

    The number of views is not part of a shard's key: with more views, only the new ones are left to compute.

    Args:
        path: the shard, in the work folder. One process writes it at a time.
        spec: the whole store; the shard may end up with any part of its blocks.
        block_rows: rows of a block; `block_ranges(spec, block_rows)` numbers the blocks.
        fsync_interval_sec: longest time, >= 0, for which finished blocks are left to the system's cache. A killed
            process loses nothing of it, a power cut may.

    Raises:
        ValueError: if the shard belongs to other logits, naming each field, found and wanted.
        OSError: if the shard is damaged, or another process writes it.
    """

    def __init__(self, path: Path, spec: StoreSpec, block_rows: int, *, fsync_interval_sec: float = 30.0) -> None:
        self._path, self._spec = path, spec
        self._num_blocks = num_blocks(spec, block_rows)
        if not path.exists():
            _create_shard(path, spec, block_rows)
        self._shard = Shard(path, "r+", spec, block_rows)
        # A set kept up to date: made anew at each look, asking for every block of a large store would be quadratic.
        self._done = {number for number in self._shard.slots if number < self._num_blocks}
        self._next_slot = max(self._shard.slots.values(), default=-1) + 1
        self._fsync_interval_sec, self._fsynced = fsync_interval_sec, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def done(self) -> Set[int]:
        """Numbers of the finished blocks of this spec: rows flushed, then flagged. It grows with each one written."""
        return self._done

    def write(self, number: int, block: Block) -> None:
        """Write a block's rows, flush, flag it as done, flush.

        Raises:
            ValueError: if the block is done already, is none of the spec's, or does not fit its place.
        """
        if not 0 <= number < self._num_blocks or number in self._shard.slots:
            what = "finished already" if number in self._shard.slots else "none of the store's"
            raise ValueError(f"{self._path}: block {number} is {what}; write each of 0 to {self._num_blocks - 1} once")
        span, slot, columns = self._shard.span(number), self._next_slot, self._shard.columns
        check_block(block, self._spec, span)
        checks = block_crc32(self._spec, span, block)
        self._reserve()
        self._grow(slot + 1)
        start = slot * self._shard.block_rows
        for name, column in {**block.columns(), "row_crc32": checks}.items():
            columns[name][start : start + len(block)] = column
        self._shard.file.flush()
        columns["done_check"][slot], columns["done_block"][slot] = _entry_crc32(number, checks), number
        self._shard.file.flush()
        self._shard.slots[number], self._next_slot = slot, slot + 1
        self._done.add(number)
        if time.monotonic() - self._fsynced >= self._fsync_interval_sec:
            self._fsync()

    def read(self, number: int) -> Block:
        """A finished block, for comparison with a second forward pass.

        Raises:
            ValueError: if the block is not done, or its rows do not match their crc32.
        """
        if number not in self._shard.slots:
            raise ValueError(f"{self._path}: block {number} is not done; read one of `done`")
        return self._shard.read(number)

    def close(self) -> None:
        """Flush, fsync and close; a second call does nothing."""
        if not self._shard.file:
            return
        try:
            with telling_hdf5_full(self._path):
                self._shard.file.flush()
                self._fsync()
                size = self._shard.file.id.get_filesize()
                self._shard.file.close()
                os.truncate(self._path, size)  # what was reserved and not needed
        except RuntimeError as error:
            # What HDF5 cannot write out it reports so.
            raise OSError(f"{self._path}: cannot be written out ({error}); check the disk and start again") from error

    def _fsync(self) -> None:
        os.fsync(self._shard.file.id.get_vfd_handle())
        self._fsynced = time.monotonic()

    def _reserve(self) -> None:
        """Take the room that a block may need: HDF5 cannot go on with a file of which a write failed."""
        chunks = sum(math.prod(column.chunks) * column.dtype.itemsize for column in self._shard.columns.values())
        file = self._shard.file.id
        # A block may reach into a second chunk of each column.
        reserve(file.get_vfd_handle(), file.get_filesize(), 2 * chunks + INDEX_BYTES)

    def _grow(self, slots: int) -> None:
        # Each column by its own length: a kill while growing leaves some of them longer than others.
        for name, dataset in self._shard.columns.items():
            rows = 1 if name.startswith("done_") else self._shard.block_rows
            if len(dataset) < slots * rows:
                dataset.resize((slots + GROWTH_SLOTS) * rows, axis=0)


def shard_key(spec: StoreSpec, block_rows: int) -> dict[str, Scalar]:
    """What every block of a shard depends on; the number of views is not in it."""
    return {
        "format_version": FORMAT_VERSION,
        "block_rows": block_rows,
        "frames_per_view": spec.frames_per_view,
        "class_names": names_digest(spec.class_names),
        "clips": clips_digest(spec.clips),
        **{FINGERPRINT_PREFIX + name: value for name, value in spec.fingerprint.items()},
    }


def block_crc32(spec: StoreSpec, span: BlockRange, block: Block) -> npt.NDArray[np.uint32]:
    """(n,) crc32 of each row of a block in its place."""
    labels = spec.clips.labels[span.start : span.stop].tolist()
    return row_crc32(spec.clips.ids[span.start : span.stop], labels, [span.view] * len(block), block)


def fsync_path(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _columns(spec: StoreSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and width of each row column."""
    return {
        "logits": ("<f4", (len(spec.class_names),)),
        "frame_indices": ("<i4", (spec.frames_per_view,)),
        "crop": ("<i4", (4,)),
        "flip": ("|b1", ()),
        "pixel_crc32": ("<u4", ()),
        "row_crc32": ("<u4", ()),
    }


def _create_shard(path: Path, spec: StoreSpec, block_rows: int) -> None:
    """Create it beside its name first: a kill in here leaves no shard, rather than one that cannot be opened."""
    check_room(path, INDEX_BYTES)
    new = path.with_name(path.name + ".new")
    with h5py.File(new, "w", locking="best-effort") as file:
        for name, value in {"format": SHARD_FORMAT, **shard_key(spec, block_rows)}.items():
            file.attrs[name] = value
        for name, (dtype, width) in _columns(spec).items():
            block_bytes = block_rows * np.dtype(dtype).itemsize * int(np.prod(width))
            chunks = (block_rows * max(1, CHUNK_BYTES // block_bytes), *width)
            fill = np.nan if name == "logits" else None
            file.create_dataset(name, (0, *width), dtype, maxshape=(None, *width), chunks=chunks, fillvalue=fill)
        for name, dtype, unused in (("done_block", "<i4", UNUSED), ("done_check", "<u4", 0)):
            file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(4096,), fillvalue=unused)
    fsync_path(new)
    os.replace(new, path)
    fsync_path(path.parent)


def _entry_crc32(number: int, checks: npt.NDArray[np.uint32]) -> int:
    """Checksum of a block's number and its rows' checksums, little-endian."""
    return int(zlib.crc32(np.int32(number).tobytes() + checks.tobytes()))

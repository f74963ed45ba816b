"""Publishes a logit store: the shards' rows in canonical order, as one file that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.clips.files import check_room
from pipeline.distillation.logit_store import read_summary
from pipeline.distillation.logit_store_check import verify
from pipeline.distillation.logit_store_file import content_sha256, open_hdf5, telling_hdf5_full
from pipeline.distillation.logit_store_format import (
    FINGERPRINT_PREFIX,
    FORMAT,
    FORMAT_VERSION,
    PROVENANCE_PREFIX,
    Block,
    Scalar,
    StoreSpec,
    num_blocks,
    row_crc32,
)
from pipeline.distillation.logit_store_layout import COLUMNS, GROUPS, README, TEXT, TITLES, Sizes, StoreSummary, Tally
from pipeline.distillation.logit_store_shards import UNUSED, Shard, ShardWriter, fsync_path
from pipeline.distillation.logit_store_size import estimate_bytes

__all__ = ["ShardWriter", "publish"]

SLAB_ROWS = 4096  # rows in memory at once; fixed, so that the file's bytes do not depend on the blocks


def publish(target: Path, spec: StoreSpec, shards: Sequence[Path], *, minimum_top1: float) -> StoreSummary:
    """Write the store from its shards: beside the target, verified, then moved there in one step.

    The bytes depend on the rows and the spec alone, not on the number of shards or the order of writing.

    Args:
        target: the file to write or replace.
        spec: what the store holds.
        shards: files of `ShardWriter`, together holding every block; closed.
        minimum_top1: lowest accuracy of the stored logits, in [0, 1], that is believed.

    Raises:
        ValueError: if rows are missing, shards disagree, or top-1 is too low; nothing appears under the target.
        OSError: if a shard cannot be read or the written file does not verify.
    """
    partial = target.with_name(target.name + ".partial")
    # The estimate is within 2 %, and within 30 kB for small stores.
    check_room(target, round(1.02 * estimate_bytes(spec)) + 30_000)
    try:
        with (
            telling_hdf5_full(target, written=partial),
            _ShardSet(spec, shards) as source,
            h5py.File(partial, "w", locking="best-effort") as file,
        ):
            top1 = _write_store(file, spec, source.blocks())
        if top1 < minimum_top1:
            raise ValueError(
                f"{target}: top-1 of the teacher's logits over the training views: found {top1:.4f}, wanted at least "
                f"{minimum_top1:.4f}; a wrong normalisation or an untrained teacher is the usual cause: raise "
                "teacher.epochs, give teacher.weights, or lower logits.minimum_top1"
            )
        if problems := verify(partial):
            raise OSError(f"{target}: what was written does not verify: {'; '.join(problems)}; check the disk")
        with open_hdf5(partial, "r", remedy="check the disk") as file:
            summary = read_summary(file, partial)
        fsync_path(partial)
        os.replace(partial, target)
        fsync_path(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return summary


class _ShardSet:
    """All shards of a store, read in canonical order.

    Raises:
        ValueError: if there is none, or one belongs to other logits.
        OSError: if one is damaged, or a process still writes it.
    """

    def __init__(self, spec: StoreSpec, paths: Sequence[Path]) -> None:
        if not paths:
            raise ValueError("shards: found none, wanted at least one; run the stage that computes the logits")
        self._spec, self._shards = spec, list[Shard]()
        with ExitStack() as opened:
            for path in paths:
                block_rows = self._shards[0].block_rows if self._shards else None
                self._shards.append(Shard(path, "r", spec, block_rows))
                opened.callback(self._shards[-1].file.close)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def blocks(self) -> Iterator[Block]:
        """Every block of the store, in order.

        Raises:
            ValueError: if rows are missing, two shards disagree, or a row does not match its crc32.
        """
        owners = self._owners()
        self._check_complete(owners)
        for number, owner in enumerate(owners.tolist()):
            yield self._shards[owner].read(number)

    def _owners(self) -> npt.NDArray[np.int32]:
        """Index of the shard that holds each block."""
        owners = np.full(num_blocks(self._spec, self._shards[0].block_rows), UNUSED, np.int32)
        for index, shard in enumerate(self._shards):
            for number in shard.slots:
                if number >= len(owners):  # of a view beyond this spec's
                    continue
                if owners[number] != UNUSED:
                    other = self._shards[int(owners[number])]
                    if not np.array_equal(other.crc32(number), shard.crc32(number)):
                        raise ValueError(f"block {number}: {other.path} and {shard.path} differ; delete one of them")
                owners[number] = index
        return owners

    def _check_complete(self, owners: npt.NDArray[np.int32]) -> None:
        missing = [self._shards[0].span(int(number)) for number in np.flatnonzero(owners == UNUSED)]
        if missing:
            rows = sum(span.stop - span.start for span in missing)
            raise ValueError(
                f"shards: found {rows} of {self._spec.num_rows} rows missing, the first one clip "
                f"{self._spec.clips.ids[missing[0].start]!r}, view {missing[0].view}; run the stage again"
            )


def _write_store(file: h5py.File, spec: StoreSpec, blocks: Iterable[Block]) -> float:
    """Fill an empty file; returns the top-1."""
    sizes = Sizes(
        clips=len(spec.clips.ids),
        views=spec.num_views,
        frames=spec.frames_per_view,
        classes=len(spec.class_names),
    )
    _create_layout(file, sizes)
    texts = {"README": README, **TITLES, "class_names": spec.class_names}
    texts |= {"clips/id": spec.clips.ids, "clips/sha256": spec.clips.sha256}
    for name, text in texts.items():
        file[name][...] = text if isinstance(text, str) else np.array(text, dtype=object)
    file["clips/label"][...], file["clips/num_frames"][...] = spec.clips.labels, spec.clips.num_frames
    tally, start = Tally(sizes), 0
    for slab in _slabs(blocks, SLAB_ROWS):
        _write_slab(file, spec, tally, start, slab)
        start += len(slab)
    for name, table in tally.tables().items():
        file[name][...] = table
    attributes: dict[str, Scalar] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    attributes |= {FINGERPRINT_PREFIX + name: spec.fingerprint[name] for name in sorted(spec.fingerprint)}
    attributes |= {PROVENANCE_PREFIX + name: spec.provenance[name] for name in sorted(spec.provenance)}
    attributes |= {"default": "summary", "complete": True}
    for name, value in attributes.items():
        file.attrs[name] = value
    file.attrs["content_sha256"] = content_sha256(file)
    return float(file["summary/top1"][()])


def _create_layout(file: h5py.File, sizes: Sizes) -> None:
    for path, attributes in GROUPS.items():
        group = file.create_group(path)
        for name, value in attributes.items():
            group.attrs[name] = value
    for column in COLUMNS:
        chunks = column.chunks(sizes)
        dataset = file.create_dataset(
            column.path,
            column.shape(sizes),
            h5py.string_dtype() if column.dtype == TEXT else column.dtype,
            chunks=chunks,
            fletcher32=chunks is not None,
            fillvalue=np.nan if column.path == "logits" else None,
            track_times=False,
        )
        dataset.attrs["description"], dataset.attrs["units"] = column.description, column.units


def _write_slab(file: h5py.File, spec: StoreSpec, tally: Tally, start: int, slab: Block) -> None:
    rows = np.arange(start, start + len(slab), dtype=np.int32)
    views, clips = np.divmod(rows, np.int32(len(spec.clips.ids)))
    labels = spec.clips.labels[clips]
    ids = [spec.clips.ids[clip] for clip in clips]
    columns: dict[str, npt.NDArray[Any]] = {
        "rows/clip": clips,
        "rows/view": views,
        "rows/row_crc32": row_crc32(ids, labels.tolist(), views.tolist(), slab),
        "summary/by_row/row": rows,
        **tally.add(slab.logits, labels, views),
        **{("" if name == "logits" else "views/") + name: column for name, column in slab.columns().items()},
    }
    for path, column in columns.items():
        file[path][start : start + len(slab)] = column


def _slabs(blocks: Iterable[Block], rows: int) -> Iterator[Block]:
    """The same rows in slabs of a fixed length; the last one may be shorter."""
    pending: list[Block] = []
    for block in blocks:
        pending.append(block)
        if sum(len(part) for part in pending) >= rows:
            joined = Block.join(pending)
            whole = len(joined) - len(joined) % rows
            for start in range(0, whole, rows):
                yield joined.part(start, start + rows)
            pending = [joined.part(whole, len(joined))]
    if rest := Block.join(pending) if pending else None:
        yield rest

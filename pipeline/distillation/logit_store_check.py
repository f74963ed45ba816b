"""Checks a whole logit store: what opens, what the layout demands, what the hashes say, row by row.

A store may come from elsewhere and disks decay, so nothing is believed before it was compared with the layout.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.clips.memory_limit import MEGABYTE, MemoryLimit
from pipeline.distillation.logit_store_file import (
    DAMAGE,
    REMEDY,
    SLAB_BYTES,
    content_problems,
    layout_problems,
    open_hdf5,
    store_sizes,
    texts,
)
from pipeline.distillation.logit_store_format import Block, row_crc32
from pipeline.distillation.logit_store_layout import ROW_COLUMNS, Tally

UNREADABLE = "cannot be read:"
SPARE_MB, FILE_TIMES = 1000, 4
"""Memory of a check in a process of its own: so much, and so many times the size of the file."""
MAX_BAD_ROWS = 100  # listed one by one; beyond that their number says enough
CHECKED_BY_ROW = (
    *ROW_COLUMNS,
    *(f"rows/{name}" for name in ("clip", "view", "row_crc32")),
    *(f"summary/by_row/{name}" for name in ("confidence", "entropy", "correct")),
)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that is not to be believed."""

    row: int
    """Position in /logits."""
    clip: str
    """The clip that its place belongs to."""
    view: int
    """The view that its place belongs to."""
    fault: str
    """What is wrong with it."""

    def __str__(self) -> str:
        return f"row {self.row} (clip {self.clip!r}, view {self.view}): {self.fault}"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the check of a whole store found."""

    problems: tuple[str, ...] = ()
    """What is wrong, a sentence each; empty for a sound store."""
    bad_rows: tuple[BadRow, ...] = ()
    """The first MAX_BAD_ROWS of them, in order."""
    num_bad_rows: int = 0
    """How many there are in all."""


def verify(path: Path) -> list[str]:
    """Check a whole store: layout, every chunk, content hash, every row's crc32, order, finite values, summary.

    Returns:
        What is wrong, a sentence each; empty for a sound store. Damage is described, not raised.
    """
    return list(inspect(path).problems)


def inspect(path: Path) -> Findings:
    """`verify`, and the bad rows one by one."""
    try:
        with open_hdf5(path, "r", remedy=REMEDY) as file:
            if problems := layout_problems(file):
                return Findings(problems=tuple(problems))
            try:
                problems = content_problems(file)
            except DAMAGE as error:
                problems = [f"{UNREADABLE} {error}"]
            rows = _check_rows(file)
            return Findings(
                problems=(*problems, *rows.problems), bad_rows=rows.bad_rows, num_bad_rows=rows.num_bad_rows
            )
    except DAMAGE as error:
        # The caller names the file and the remedy already.
        reason = str(error).removeprefix(f"{path}: ").removesuffix(f"; {REMEDY}")
        return Findings(problems=(f"{UNREADABLE} {reason}",))


def verify_in_child(path: Path, *, timeout_sec: float = 3600.0) -> list[str]:
    """`verify` in a process of its own, for a file that may crash or hang libhdf5."""
    return list(inspect_in_child(path, timeout_sec=timeout_sec).problems)


def inspect_in_child(path: Path, *, timeout_sec: float = 3600.0) -> Findings:
    """`inspect` in a process of its own, for a file that may crash or hang libhdf5."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_findings, args=(path, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(timeout_sec):
            return Findings(problems=(f"libhdf5 was still reading after {timeout_sec:g} seconds",))
        answer = json.loads(receiver.recv_bytes())
        rows = tuple(BadRow(**row) for row in answer.pop("bad_rows"))
        return Findings(**answer | {"problems": tuple(answer["problems"]), "bad_rows": rows})
    except EOFError:
        child.join()
        return Findings(problems=(f"libhdf5 crashed while reading it (exit code {child.exitcode})",))
    finally:
        child.kill()
        child.join()
        receiver.close()


def _send_findings(path: Path, sender: Connection) -> None:
    # Texts may all lie in one place: a file of a few megabytes can ask for terabytes.
    allowed = MemoryLimit(SPARE_MB + FILE_TIMES * path.stat().st_size // MEGABYTE if path.is_file() else SPARE_MB)
    findings = inspect(path)
    if findings == Findings(problems=(f"{UNREADABLE} ",)):  # Python's own MemoryError has no words
        findings = Findings(problems=(f"{UNREADABLE} it needs more than {allowed.megabytes} MB of memory",))
    # Not pickled: what a hostile file made of this process's memory is not to be trusted.
    sender.send_bytes(json.dumps(asdict(findings)).encode())


def _check_rows(file: h5py.File) -> Findings:
    """Rows that cannot be read, lie in another order or do not match their crc32, and a summary of other rows."""
    sizes = store_sizes(file)
    ids, labels = texts(file["clips/id"]), file["clips/label"][:]
    if labels.min() < 0 or labels.max() >= sizes.classes:
        return Findings()  # reported as content; the rows cannot be counted
    tally, bad, bad_summary = Tally(sizes), _BadRows(ids), set()
    step = max(1, SLAB_BYTES // (4 * (sizes.classes + sizes.frames)))
    for start in range(0, sizes.rows, step):
        span = slice(start, min(start + step, sizes.rows))
        views, clips = np.divmod(np.arange(span.start, span.stop, dtype=np.int32), np.int32(sizes.clips))
        found, there = _read_rows(file, span)
        block = Block(**{name.rpartition("/")[2]: found[name] for name in ROW_COLUMNS})
        checks = row_crc32([ids[clip] for clip in clips], labels[clips].tolist(), views.tolist(), block)
        moved = (found["rows/clip"] != clips) | (found["rows/view"] != views)
        bad.add("lies in a damaged chunk", start, ~there)
        bad.add("is out of order", start, there & moved)
        bad.add("does not match its crc32", start, there & (checks != found["rows/row_crc32"]))
        bad.add("is not finite", start, there & ~np.isfinite(block.logits).all(axis=1))
        with np.errstate(invalid="ignore", over="ignore"):
            statistics = tally.add(block.logits, labels[clips], views)
        bad_summary |= {n for n, values in statistics.items() if not _close(found[n][there], values[there])}
    if "lies in a damaged chunk" not in bad.counts:
        bad_summary |= {name for name, table in tally.tables().items() if not _close(file[name][...], table)}
    problems = bad.problems() + [f"/{name}: found another value than the rows give" for name in sorted(bad_summary)]
    return Findings(problems=tuple(problems), bad_rows=bad.first_rows(), num_bad_rows=len(bad.faults))


def _read_rows(file: h5py.File, span: slice) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.bool_]]:
    """Every column of these rows, and which rows can be read in all of them; the others are zeros where damaged."""
    found, there = {}, np.ones(span.stop - span.start, np.bool_)
    for name in CHECKED_BY_ROW:
        dataset = file[name]
        try:
            found[name] = dataset[span]
            continue
        except DAMAGE:
            found[name] = np.zeros((len(there), *dataset.shape[1:]), dataset.dtype)
        length = dataset.chunks[0]  # a checksum covers a chunk, so its rows are lost together
        for start in range(span.start - span.start % length, span.stop, length):
            part = slice(max(start, span.start), min(start + length, span.stop))
            here = slice(part.start - span.start, part.stop - span.start)
            try:
                found[name][here] = dataset[part]
            except DAMAGE:
                there[here] = False
    return found, there


class _BadRows:
    """The faults of each bad row, and how many rows have each fault."""

    def __init__(self, ids: list[str]) -> None:
        self.faults, self.counts = dict[int, str](), dict[str, int]()
        self._ids = ids

    def add(self, fault: str, start: int, mask: npt.NDArray[np.bool_]) -> None:
        """Take the marked ones of the rows from `start` on."""
        for row in (start + np.flatnonzero(mask)).tolist():
            self.faults[row] = f"{self.faults[row]}, {fault}" if row in self.faults else fault
            self.counts[fault] = self.counts.get(fault, 0) + 1

    def first_rows(self) -> tuple[BadRow, ...]:
        """The first MAX_BAD_ROWS."""
        return tuple(self._bad_row(row) for row in sorted(self.faults)[:MAX_BAD_ROWS])

    def problems(self) -> list[str]:
        """A sentence for each fault; rows that are not finite are told by `content_problems`."""
        sentences = {
            "lies in a damaged chunk": "rows: found {} rows in chunks that do not match their checksum",
            "is out of order": "/rows: found {} rows in another order than by (view, clip)",
            "does not match its crc32": "/rows/row_crc32: found {} rows that do not match it",
        }
        said = []
        for fault, sentence in sentences.items():
            if fault in self.counts:
                first = self._bad_row(min(row for row, faults in self.faults.items() if fault in faults))
                where = f"row {first.row} (clip {first.clip!r}, view {first.view})"
                said.append(f"{sentence.format(self.counts[fault])}, the first is {where}")
        return said

    def _bad_row(self, row: int) -> BadRow:
        view, clip = divmod(row, len(self._ids))
        return BadRow(row=row, clip=self._ids[clip], view=view, fault=self.faults[row])


def _close(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> bool:
    # float32 rounding of another processor's exp and log; counts are equal or far away
    return bool(np.allclose(found, wanted, rtol=1e-5, atol=1e-5, equal_nan=True))

"""The layout of a logit store file: every group and column, and the statistics that its summary shows.

One table says what the writer creates, what the reader demands and what a viewer prints. No file is opened here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 32 * 1024
MIN_CHUNK_BYTES = 16 * 1024  # 16 to 64 KiB: one random row stays cheap to read
NARROW_BYTES = 256  # of a row; HDF5 spends about 50 bytes on each chunk, little beside 64 or more such rows
MAX_CONFUSION_BYTES = 16 * 1024  # of any store; a larger one has to be small beside its rows and clips
ROW_COLUMNS = ("logits", *(f"views/{name}" for name in ("frame_indices", "crop", "flip", "pixel_crc32")))
TEXT = "text"  # variable-length UTF-8; fixed-length strings cut a letter in half without a word

Attributes = Mapping[str, str | list[str]]

README = """Teacher logits by clip and view, made once so that a student can be trained without the teacher in memory.

Rows are ordered by (view, clip): with N clips, the row of clip number c and view v is v * N + c.
Row r says: clip /clips/id[/rows/clip[r]], seen as view /rows/view[r], gave the logits /logits[r]
(one a class of /class_names, before softmax). A view is replayed from /views: decode the frames
frame_indices[r], resize them, cut out crop[r] (top, left, height, width), mirror left to right where flip[r]
is 1. pixel_crc32[r] is the crc32 of the resulting uint8 pixels (T, H, W, C); other pixels mean that
the decoder or the transform has changed and the logits no longer belong to them.
row_crc32[r] covers, in this order: clip id (UTF-8), a zero byte, label and view (int32), and the row's logits,
frame_indices, crop, flip and pixel_crc32, little-endian.
The attributes fingerprint_* say what the rows depend on, provenance_* what else was recorded.
content_sha256 covers every dataset and attribute but itself. /summary holds tables and plots; /summary/confusion has
no rows where one cell for each pair of classes would be much beside the rows of the store.
"""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes that give every column its shape."""

    clips: int
    views: int
    frames: int
    classes: int

    @property
    def rows(self) -> int:
        """V * N."""
        return self.views * self.clips

    @property
    def confused(self) -> int:
        """Rows of the confusion: K, or 0 where its K * K cells would break the bound on a row's overhead.

        400 classes take 640 kB, which 3,000 rows would pay with 213 bytes each, nearly all of them zeros.
        """
        allowed = max(MAX_CONFUSION_BYTES, 4 * self.rows + 64 * self.clips)
        return self.classes if 4 * self.classes**2 <= allowed else 0


@dataclass(frozen=True)
class Column:
    """One dataset."""

    path: str
    dtype: str
    """A numpy dtype, or TEXT."""
    dims: tuple[str | int, ...]
    """Names of sizes in `Sizes`, or plain numbers."""
    units: str
    description: str

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape in a store of these sizes."""
        return tuple(dim if isinstance(dim, int) else getattr(sizes, dim) for dim in self.dims)

    def chunks(self, sizes: Sizes) -> tuple[int, ...] | None:
        """Chunk shape of MIN_CHUNK_BYTES to CHUNK_BYTES, so that the last chunk is nearly full.

        HDF5 stores whole chunks: what the last one lacks is lost, up to a whole chunk of wide rows. None for the small
        tables and for text, which lie in one piece: HDF5 has no fletcher32 for text, whose letters lie outside the
        chunks.
        """
        if self.dtype == TEXT or not self.dims or self.dims[0] not in ("clips", "rows"):
            return None
        rows, *width = self.shape(sizes)
        itemsize = np.dtype(self.dtype).itemsize
        columns = [min(size, CHUNK_BYTES // itemsize) for size in width]
        row_bytes = itemsize * math.prod(columns)
        return (_chunk_rows(rows, row_bytes), *columns)


def _chunk_rows(rows: int, row_bytes: int) -> int:
    """Rows of a chunk of MIN_CHUNK_BYTES to CHUNK_BYTES that leaves little room empty at the end; all if they fit.

    Of such lengths narrow rows take the shortest, which reads one row soonest, and wide rows the longest, which
    needs fewer chunks.
    """
    most, least = max(1, CHUNK_BYTES // row_bytes), max(1, math.ceil(MIN_CHUNK_BYTES / row_bytes))
    if rows <= most:
        return rows
    lengths = np.arange(least, most + 1)[:: 1 if row_bytes <= NARROW_BYTES else -1]
    empty = -rows % lengths * row_bytes
    # A sixteenth of a byte a row is nothing; where no length is that good, the best one.
    return int(lengths[np.argmax(empty <= max(rows // 16, int(empty.min())))])


COLUMNS = (
    Column("README", TEXT, (), "text", "what this file is and how to read a row"),
    Column("class_names", TEXT, ("classes",), "text", "class of each column of /logits"),
    Column("clips/id", TEXT, ("clips",), "text", "path of the video below the videos' root; sorted, unique"),
    Column("clips/label", "<i4", ("clips",), "class index", "true class, 0-based index into /class_names"),
    Column("clips/num_frames", "<i4", ("clips",), "frames", "decoded frames of the video"),
    Column("clips/sha256", TEXT, ("clips",), "hexadecimal", "sha256 of the video file"),
    Column("logits", "<f4", ("rows", "classes"), "logit", "teacher's output before softmax; NaN is an unwritten row"),
    Column("rows/clip", "<i4", ("rows",), "clip index", "0-based index into /clips"),
    Column("rows/view", "<i4", ("rows",), "view number", "0-based number of the view of this clip"),
    Column("rows/row_crc32", "<u4", ("rows",), "crc32", "checksum of the row with its key; see /README"),
    Column("views/frame_indices", "<i4", ("rows", "frames"), "frame index", "frames of the view, in decoded order"),
    Column("views/crop", "<i4", ("rows", 4), "pixels", "top, left, height, width in the resized frame"),
    Column("views/flip", "|b1", ("rows",), "boolean", "mirrored left to right, after the crop"),
    Column("views/pixel_crc32", "<u4", ("rows",), "crc32", "checksum of the view's uint8 pixels"),
    Column("summary/top1", "<f8", (), "fraction", "part of all rows whose largest logit is the true class"),
    Column("summary/by_view/title", TEXT, (), "text", "title of the plot"),
    Column("summary/by_view/view", "<i4", ("views",), "view number", "number of the view"),
    Column("summary/by_view/top1", "<f8", ("views",), "fraction", "top-1 accuracy of the view over all clips"),
    Column("summary/by_class/title", TEXT, (), "text", "title of the plot"),
    Column("summary/by_class/class", "<i4", ("classes",), "class index", "0-based index into /class_names"),
    Column("summary/by_class/accuracy", "<f8", ("classes",), "fraction", "top-1 of the class; NaN without clips"),
    Column("summary/by_class/rows", "<i4", ("classes",), "rows", "rows of the class, views times clips"),
    Column("summary/confusion/title", TEXT, (), "text", "title of the plot"),
    Column("summary/confusion/true", "<i4", ("confused",), "class index", "true class"),
    Column("summary/confusion/predicted", "<i4", ("classes",), "class index", "class of the largest logit"),
    Column("summary/confusion/rows", "<i4", ("confused", "classes"), "rows", "rows by true and predicted class"),
    Column("summary/by_row/title", TEXT, (), "text", "title of the plot"),
    Column("summary/by_row/row", "<i4", ("rows",), "row index", "row of /logits; view * N + clip"),
    Column("summary/by_row/confidence", "<f4", ("rows",), "probability", "largest softmax value, temperature 1"),
    Column("summary/by_row/entropy", "<f4", ("rows",), "nats", "entropy of the softmax, temperature 1"),
    Column("summary/by_row/correct", "|u1", ("rows",), "boolean", "1 where the largest logit is the true class"),
)

TITLES = {
    "summary/by_view/title": "Teacher's top-1 by view",
    "summary/by_class/title": "Teacher's top-1 by class",
    "summary/confusion/title": "Teacher's confusion",
    "summary/by_row/title": "Teacher's confidence by row",
}


def _plot(signal: str, *axes: str, more: Sequence[str] = ()) -> Attributes:
    attributes: dict[str, str | list[str]] = {"NX_class": "NXdata", "signal": signal, "axes": list(axes)}
    return attributes | ({"auxiliary_signals": list(more)} if more else {})


# h5web, myHDF5 and silx draw an NXdata group by themselves and find the first one by following `default`.
GROUPS: Mapping[str, Attributes] = {
    "clips": {},
    "rows": {},
    "views": {},
    "summary": {"NX_class": "NXentry", "default": "by_view"},
    "summary/by_view": _plot("top1", "view"),
    "summary/by_class": _plot("accuracy", "class"),
    "summary/confusion": _plot("rows", "true", "predicted"),
    "summary/by_row": _plot("confidence", "row", more=["entropy", "correct"]),
}


@dataclass(frozen=True, kw_only=True)
class StoreSummary:
    """The figures of a whole store."""

    rows: int
    bytes: int
    """Size of the file."""
    top1: float
    """Part of all rows whose largest logit is the true class, in [0, 1]."""
    top1_by_view: tuple[float, ...]
    per_class_accuracy: tuple[float, ...]
    """(K,), NaN for a class without clips."""
    content_sha256: str


class Tally:
    """Counts what the summary shows, a slab of rows at a time, so that no store has to fit into memory."""

    def __init__(self, sizes: Sizes) -> None:
        """Start with no rows."""
        self._sizes = sizes
        self._confusion = np.zeros((sizes.classes, sizes.classes), np.int64)
        self._correct_by_view = np.zeros(sizes.views, np.int64)

    def add(
        self, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], views: npt.NDArray[np.int32]
    ) -> dict[str, npt.NDArray[Any]]:
        """Count n rows.

        Args:
            logits: (n, K).
            labels: (n,) true classes.
            views: (n,) view numbers.

        Returns:
            The rows' part of the columns of /summary/by_row but `row`, by path.
        """
        shifted = logits.astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        total = powers.sum(axis=1)  # the softmax is powers / total, its largest value 1 / total
        predicted = logits.argmax(axis=1)
        correct = predicted == labels
        np.add.at(self._confusion, (labels, predicted), 1)
        np.add.at(self._correct_by_view, views[correct], 1)
        return {
            "summary/by_row/confidence": (1 / total).astype(np.float32),
            "summary/by_row/entropy": (np.log(total) - (powers * shifted).sum(axis=1) / total).astype(np.float32),
            "summary/by_row/correct": correct.astype(np.uint8),
        }

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        """The small tables of /summary by path, over the rows counted so far."""
        of_class = self._confusion.sum(axis=1)
        accuracy = np.full(self._sizes.classes, np.nan)
        np.divide(self._confusion.diagonal(), of_class, out=accuracy, where=of_class > 0)
        classes, confused = np.arange(self._sizes.classes, dtype=np.int32), self._sizes.confused
        return {
            "summary/top1": np.array(self._correct_by_view.sum() / self._sizes.rows),
            "summary/by_view/view": np.arange(self._sizes.views, dtype=np.int32),
            "summary/by_view/top1": self._correct_by_view / self._sizes.clips,
            "summary/by_class/class": classes,
            "summary/by_class/accuracy": accuracy,
            "summary/by_class/rows": of_class.astype(np.int32),
            "summary/confusion/true": classes[:confused],
            "summary/confusion/predicted": classes,
            "summary/confusion/rows": self._confusion[:confused].astype(np.int32),
        }

"""What a logit store holds, as plain values: its specification, its blocks of rows, its columns and its statistics.

No file is opened here; `logit_store` reads and verifies, `logit_store_writer` writes.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = "dl-kdd-logit-store"
FORMAT_VERSION = 1
FINGERPRINT_PREFIX = "fingerprint_"
PROVENANCE_PREFIX = "provenance_"
MAX_ATTRIBUTE_BYTES = 60_000  # viewers and the HDF5 object header stop at 64 KiB

Scalar = str | int | float | bool
Array = npt.NDArray[Any]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")


def leaves_root(clip_id: str) -> bool:
    """Whether a clip id, joined to the videos' root, would name a file outside of it."""
    # By hand: a path object for each of a million ids takes half the time of opening their store.
    return clip_id.startswith("/") or "\\" in clip_id or ".." in clip_id.split("/")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipTable:
    """The training clips, one row each, sorted by id.

    Raises:
        ValueError: on unsorted or doubled ids, columns of other lengths or dtypes, or values out of range.
    """

    ids: tuple[str, ...]
    """Path relative to the videos' root."""
    labels: npt.NDArray[np.int32]
    """(N,) class index, 0-based."""
    num_frames: npt.NDArray[np.int32]
    """(N,) decoded frames of the video, >= 1."""
    sha256: tuple[str, ...]
    """Content hash of the video file, 64 lower-case hexadecimal digits."""

    def __post_init__(self) -> None:
        count = len(self.ids)
        if count == 0:
            raise ValueError("clips: found none, wanted at least one; check the split list")
        for before, after in zip(self.ids, self.ids[1:], strict=False):
            if before >= after:
                what = "twice" if before == after else f"after {before!r}"
                raise ValueError(f"clips.ids: found {after!r} {what}, wanted sorted, unique ids; sort the clips by id")
        for name in ("labels", "num_frames"):
            _check_array(f"clips.{name}", getattr(self, name), np.int32, (count,))
        if self.labels.min() < 0 or self.num_frames.min() < 1:
            raise ValueError("clips: found a negative label or a clip without frames; check the split list")
        if len(self.sha256) != count:
            raise ValueError(f"clips.sha256: found {len(self.sha256)} hashes, wanted {count}, one a clip")
        for clip_id, digest in zip(self.ids, self.sha256, strict=True):
            _check_text("clips.ids", clip_id)
            if leaves_root(clip_id):
                raise ValueError(f"clips.ids: found {clip_id!r}, which leaves the videos' root; wanted a path below it")
            if not _SHA256.fullmatch(digest):
                raise ValueError(f"clips.sha256 of {clip_id!r}: found {digest!r}, wanted 64 lower-case hex digits")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreSpec:
    """What a store is going to hold: K classes, N clips, V views of T frames.

    Raises:
        ValueError: on a value that the format cannot hold, naming the field.
    """

    class_names: tuple[str, ...]
    clips: ClipTable
    num_views: int
    frames_per_view: int
    fingerprint: Mapping[str, Scalar]
    """What a row depends on: a store that differs in one of these is refused."""
    provenance: Mapping[str, Scalar]
    """What is recorded beside: a difference is worth one warning."""

    def __post_init__(self) -> None:
        if len(self.class_names) < 2 or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names: found {self.class_names!r}, wanted two or more different names")
        for name in self.class_names:
            _check_text("class_names", name)
        highest = int(self.clips.labels.max())
        if highest >= len(self.class_names):
            raise ValueError(f"clips.labels: found {highest}, wanted below {len(self.class_names)} (class_names)")
        for field, value in (("num_views", self.num_views), ("frames_per_view", self.frames_per_view)):
            if value < 1:
                raise ValueError(f"{field}: found {value}, wanted at least 1")
        if self.num_rows >= 2**31:  # the row axis of /summary/by_row is int32
            raise ValueError(f"num_views x clips: found {self.num_rows} rows, wanted below 2**31; lower num_views")
        for field in ("fingerprint", "provenance"):
            check_fields(field, getattr(self, field))

    @property
    def num_rows(self) -> int:
        """Rows of the whole store, V * N."""
        return self.num_views * len(self.clips.ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """The rows of one forward batch: n consecutive clips of one view."""

    logits: npt.NDArray[np.float32]
    """(n, K), before softmax."""
    frame_indices: npt.NDArray[np.int32]
    """(n, T), positions in decoded order."""
    crop: npt.NDArray[np.int32]
    """(n, 4): top, left, height, width in pixels of the resized frame."""
    flip: npt.NDArray[np.bool_]
    """(n,), mirrored left to right."""
    pixel_crc32: npt.NDArray[np.uint32]
    """(n,) crc32 of the view's uint8 pixels."""

    def __len__(self) -> int:
        return len(self.logits)

    def part(self, start: int, stop: int) -> Block:
        """The rows start to stop - 1."""
        return Block(**{name: column[start:stop] for name, column in self.columns().items()})

    def columns(self) -> dict[str, Array]:
        """The columns by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def join(blocks: Sequence[Block]) -> Block:
        """The rows of all blocks, one after the other."""
        columns = [block.columns() for block in blocks]
        return Block(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})


@dataclass(frozen=True, kw_only=True)
class BlockRange:
    """A fixed block of rows inside one view: the clips start to stop - 1."""

    number: int
    view: int
    start: int
    stop: int


def block_range(number: int, *, num_clips: int, block_rows: int) -> BlockRange:
    """The rows of a block. Blocks are numbered view by view, so a number never depends on how many views there are."""
    view, position = divmod(number, math.ceil(num_clips / block_rows))
    start = position * block_rows
    return BlockRange(number=number, view=view, start=start, stop=min(start + block_rows, num_clips))


def num_blocks(spec: StoreSpec, block_rows: int) -> int:
    """Number of blocks of the whole store."""
    if block_rows < 1:
        raise ValueError(f"block_rows: found {block_rows}, wanted at least 1")
    return spec.num_views * math.ceil(len(spec.clips.ids) / block_rows)


def block_ranges(spec: StoreSpec, block_rows: int) -> list[BlockRange]:
    """All blocks in canonical order: view by view, clips in order; a block never crosses a view."""
    clips = len(spec.clips.ids)
    return [block_range(n, num_clips=clips, block_rows=block_rows) for n in range(num_blocks(spec, block_rows))]


def check_block(block: Block, spec: StoreSpec, span: BlockRange) -> None:
    """Refuse a block that does not fit its place.

    Raises:
        ValueError: naming the column, or the clip and view of the first bad row.
    """
    rows, where = span.stop - span.start, f"block {span.number}"
    _check_array(f"{where}: logits", block.logits, np.float32, (rows, len(spec.class_names)))
    _check_array(f"{where}: frame_indices", block.frame_indices, np.int32, (rows, spec.frames_per_view))
    _check_array(f"{where}: crop", block.crop, np.int32, (rows, 4))
    _check_array(f"{where}: flip", block.flip, np.bool_, (rows,))
    _check_array(f"{where}: pixel_crc32", block.pixel_crc32, np.uint32, (rows,))
    num_frames = spec.clips.num_frames[span.start : span.stop, None]
    faults = {
        "logits that are not finite; check the teacher's weights and precision": ~np.isfinite(block.logits),
        "a frame index outside its video": (block.frame_indices < 0) | (block.frame_indices >= num_frames),
        "a crop box that is empty or starts outside the frame": block.crop < [0, 0, 1, 1],
    }
    for fault, mask in faults.items():
        bad = np.flatnonzero(mask.any(axis=1))
        if len(bad):
            clip_id = spec.clips.ids[span.start + int(bad[0])]
            raise ValueError(f"clip {clip_id!r}, view {span.view}: found {fault} ({len(bad)} rows of {where})")


def row_crc32(ids: Sequence[str], labels: Sequence[int], views: Sequence[int], block: Block) -> npt.NDArray[np.uint32]:
    """crc32 of each row with its key, so that a row in another row's place is found as surely as a changed one.

    The bytes: id in UTF-8, a zero, label and view (int32), then the row's logits, frame indices, crop, flip and
    pixel crc, little-endian. The view's integers are in it because a row whose view was changed is as wrong as
    one whose logits were.

    Args:
        ids: (n,) clip of each row.
        labels: (n,) its class index.
        views: (n,) its view number.
        block: n rows.

    Returns:
        (n,) checksums.
    """
    packed = np.concatenate(
        [np.ascontiguousarray(c.reshape(len(block), -1)).view(np.uint8) for c in block.columns().values()], axis=1
    )
    width, data = packed.shape[1], packed.tobytes()
    checks = np.empty(len(block), np.uint32)
    for row, (clip_id, label, view) in enumerate(zip(ids, labels, views, strict=True)):
        key = clip_id.encode() + b"\0" + struct.pack("<ii", label, view)
        checks[row] = zlib.crc32(data[row * width : (row + 1) * width], zlib.crc32(key))
    return checks


def clips_digest(clips: ClipTable) -> str:
    """One sha256 of the whole clip table."""
    digest = hashlib.sha256(clips.labels.astype("<i4").tobytes() + clips.num_frames.astype("<i4").tobytes())
    for clip_id, sha256 in zip(clips.ids, clips.sha256, strict=True):
        digest.update(f"{clip_id}\0{sha256}\n".encode())
    return digest.hexdigest()


def names_digest(class_names: Sequence[str]) -> str:
    """One sha256 of the class names in their order."""
    return hashlib.sha256("\0".join(class_names).encode()).hexdigest()


def field_differences(found: Mapping[str, Scalar], wanted: Mapping[str, Scalar]) -> list[str]:
    """A sentence for every wanted field that is lacking or another one. True is not 1."""
    sentences = []
    for name, value in wanted.items():
        if name not in found:
            sentences.append(f"{name}: found none, wanted {value!r}")
        elif found[name] != value or isinstance(found[name], bool) != isinstance(value, bool):
            sentences.append(f"{name}: found {found[name]!r}, wanted {value!r}")
    return sentences


def check_fields(what: str, values: Mapping[str, Scalar]) -> None:
    """Refuse names and values that a plain scalar attribute cannot hold."""
    for name, value in values.items():
        if not _FIELD_NAME.fullmatch(name):
            raise ValueError(f"{what}: found the name {name!r}, wanted letters, digits, '_' and '.'")
        if isinstance(value, str):
            _check_text(f"{what}.{name}", value, empty=True)
        elif not isinstance(value, bool | int | float):
            raise ValueError(f"{what}.{name}: found {type(value).__name__}, wanted str, int, float or bool")
        elif not math.isfinite(value) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise ValueError(f"{what}.{name}: found {value!r}, wanted a finite number of 64 bits")


def _check_text(what: str, text: str, *, empty: bool = False) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: found {text!r}, wanted text that UTF-8 can hold; rename it") from error
    if "\0" in text or size > MAX_ATTRIBUTE_BYTES or not (text or empty):
        raise ValueError(f"{what}: found {text[:80]!r}, wanted 1 to {MAX_ATTRIBUTE_BYTES} bytes without a zero byte")


def _check_array(what: str, array: Array, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{what}: found {array.dtype} {array.shape}, wanted {np.dtype(dtype)} {shape}")

"""Checks of a logit store against what it was made from: the videos, decoded again, and the teacher, asked again."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.dataset import DecodedFrames, FrameSource, ViewDataset
from pipeline.clips.files import sha256_of
from pipeline.clips.video import av_version, decode
from pipeline.clips.views import PIXEL_PATH, View, apply_view, pixel_crc32
from pipeline.distillation.fingerprint import fingerprint
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.logit_store_check import BadRow
from pipeline.distillation.logit_store_format import block_range, leaves_root
from pipeline.distillation.replay import StoredViews
from pipeline.enhancers.enhanced_frames import EnhancedFrames
from pipeline.inference.loading import Loaded, load_recogniser

ALONE_ROWS = 8  # rows a forward pass where the stored blocks are not known
MAX_SIDE = 16384  # pixels; a larger frame or view is no honest setting


@dataclass(frozen=True, kw_only=True)
class TeacherCheck:
    """What the teacher says now of rows that it was asked for once."""

    rows: int
    """Rows that were forwarded again."""
    batch: int
    """Rows a forward pass, at most."""
    largest: float
    """Largest absolute difference of a logit; NaN where the teacher's is none."""
    same_top1: int
    """Rows whose largest logit is still the same class."""
    bad_rows: tuple[BadRow, ...]
    """Those beyond the tolerance."""


def spread(total: int, count: int, *, seed: int) -> list[int]:
    """One drawn position out of each of `count` equal parts of 0 to total - 1; all of them where there are fewer.

    Raises:
        ValueError: count is below 1.
    """
    if count < 1:
        raise ValueError(f"rows to check: found {count}, wanted at least 1")
    if count >= total:
        return list(range(total))
    rng = np.random.default_rng(seed)
    borders = np.linspace(0, total, count + 1).astype(int)
    return [int(rng.integers(start, stop)) for start, stop in itertools.pairwise(borders)]


def check_pixels(store: LogitStore, videos: Path, count: int, *, seed: int) -> list[BadRow]:
    """Decode rows spread over the store again and compare their pixels' crc32.

    Args:
        store: the rows.
        videos: root that clip ids are relative to.
        count: how many rows.
        seed: draws them.

    Returns:
        The rows whose pixels are others, or do not decode, with the reason.

    Raises:
        ValueError: a clip id leaves the root, or the store was made by another pixel path.
    """
    _check_root(store, videos)
    frame_size, size, colour_range = _pixel_settings(store)
    bad = []
    for row in spread(store.summary.rows, count, seed=seed):
        number, clip = divmod(row, len(store.clip_ids))
        clip_id = store.clip_ids[clip]
        stored = store.row(clip_id, number)
        view = View(frame_indices=stored.frame_indices, crop=stored.crop, flip=stored.flip)
        try:
            _check_box(view.crop, frame_size)
            frames = decode(videos / clip_id, indices=view.frame_indices, size=frame_size, colour_range=colour_range)
            found = pixel_crc32(apply_view(frames, view, size))
            fault = "" if found == stored.pixel_crc32 else _pixel_fault(store, videos, clip, found, stored.pixel_crc32)
        except (OSError, ValueError) as error:
            fault = str(error)
        if fault:
            bad.append(BadRow(row=row, clip=clip_id, view=number, fault=fault))
    return bad


def check_teacher(
    store: LogitStore,
    videos: Path,
    clip_index: Path,
    checkpoint: Path,
    count: int,
    *,
    seed: int,
    tolerance: float,
    batch_size: int | None,
    device: torch.device,
) -> TeacherCheck:
    """Forward rows spread over the store again and compare their logits.

    Args:
        store: the rows.
        videos: root that clip ids are relative to.
        clip_index: clips.csv of the run.
        checkpoint: the teacher's.
        count: how many rows; whole blocks that hold at least as many, where blocks are known.
        seed: draws them.
        tolerance: largest absolute difference that is let pass.
        batch_size: rows of the blocks they were computed in; None takes what the store recorded, and without
            that small batches of the drawn rows alone. Other batches differ in the last bits.
        device: where to compute.

    Raises:
        ValueError: a clip id leaves the root, or the store is of another teacher, other views or other clips.
    """
    _check_root(store, videos)
    clips = of_subset(read_clips(clip_index), "train")
    teacher = load_recogniser(checkpoint, device=device, kind="teacher")
    _require_same_making(store, clips, checkpoint, teacher)
    rule = teacher.preprocessing.view_rule
    source = _frames_for(teacher, videos, device)
    dataset = ViewDataset(clips, source=source, view_of=StoredViews(store=store), size=rule.size)
    recorded = store.provenance.get("batch_size")
    rows_a_block = batch_size or (recorded if isinstance(recorded, int) and recorded > 0 else None)
    bad, largest, same, rows = [], 0.0, 0, 0
    for group in _groups(store, count, rows_a_block, seed=seed):
        # Clips are sorted by id here and there, so that a clip's position is the same in both.
        stored = [store.row(clips[row % len(clips)].id, row // len(clips)) for row in group]
        for each in stored:
            _check_box(each.crop, rule.frame_size, where=f"{store.path}: ")
        batch = torch.stack([dataset[divmod(row, len(clips))].pixels for row in group])
        with torch.no_grad():
            logits = teacher.recogniser(batch.to(device)).float().cpu().numpy()
        for row, was, now in zip(group, stored, logits, strict=True):
            view, clip = divmod(row, len(clips))
            distance = float(np.abs(now.astype(np.float64) - was.logits).max())
            largest, same = float(np.maximum(largest, distance)), same + int(now.argmax() == was.logits.argmax())
            if not distance <= tolerance:  # so that NaN is bad
                fault = f"the teacher's logits differ by up to {distance:.3g} (tolerance {tolerance:g})"
                bad.append(BadRow(row=row, clip=clips[clip].id, view=view, fault=fault))
        rows += len(group)
    return TeacherCheck(
        rows=rows, batch=rows_a_block or ALONE_ROWS, largest=largest, same_top1=same, bad_rows=tuple(bad)
    )


def _require_same_making(store: LogitStore, clips: Sequence[Clip], checkpoint: Path, teacher: Loaded) -> None:
    """Refuse to compare a teacher with logits of another one, of other views or of other clips."""
    pixels = teacher.preprocessing
    store.require(
        **fingerprint(
            teacher_sha256=sha256_of(checkpoint),
            class_names=class_names_in(clips),
            rule=pixels.view_rule,
            mode="fixed" if store.fingerprint.get("view_mode") == "fixed" else "consistent",
            colour_range=pixels.colour_range,
            enhancer_on=pixels.enhancer_on,
        )
    )
    store.require_clips([clip.id for clip in clips], [clip.sha256 for clip in clips])


def _groups(store: LogitStore, count: int, batch_size: int | None, *, seed: int) -> list[Sequence[int]]:
    """Rows that go through the teacher together."""
    if batch_size is None:
        rows = spread(store.summary.rows, count, seed=seed)
        return [rows[start : start + ALONE_ROWS] for start in range(0, len(rows), ALONE_ROWS)]
    clips = len(store.clip_ids)
    blocks = store.num_views * -(-clips // batch_size)
    spans = [
        block_range(number, num_clips=clips, block_rows=batch_size)
        for number in spread(blocks, -(-count // batch_size), seed=seed)
    ]
    return [range(span.view * clips + span.start, span.view * clips + span.stop) for span in spans]


def _frames_for(teacher: Loaded, videos: Path, device: torch.device) -> FrameSource:
    """Frames straight from the videos, enhanced where the teacher wants frames enhanced; nothing is kept on disk."""
    pixels = teacher.preprocessing
    decoded = DecodedFrames(videos=videos, frame_size=pixels.view_rule.frame_size, colour_range=pixels.colour_range)
    if pixels.enhancer_on != "frame":
        return decoded
    assert teacher.enhancer is not None, "enhancer_on is frame, so there has to be an enhancer"
    return EnhancedFrames(decoded, teacher.enhancer, device)


def _check_root(store: LogitStore, videos: Path) -> None:
    """Refuse before any file is opened: the store may name files that are none of its business."""
    if not videos.is_dir():
        raise ValueError(f"{videos}: found no folder, wanted the root that clip ids are relative to; give --videos")
    for clip_id in store.clip_ids:
        if leaves_root(clip_id):
            raise ValueError(
                f"{store.path}: clip id {clip_id!r} leaves the videos' root, wanted a path below it; run the logits "
                "stage again"
            )


def _pixel_settings(store: LogitStore) -> tuple[tuple[int, int], int, str]:
    """Frame size (height, width), side of the view and colour range, as the store's fingerprint has them."""
    found = store.fingerprint
    if found.get("pixel_path") != PIXEL_PATH:
        raise ValueError(
            f"{store.path}: pixel_path: found {found.get('pixel_path')!r}, wanted {PIXEL_PATH!r}; the conversion of "
            "pixels has changed since, run the logits stage again"
        )
    size, colour_range = found.get("view_size"), found.get("colour_range")
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(found.get("view_frame_size")))
    height, width = (int(sides[1]), int(sides[2])) if sides else (0, 0)
    known = isinstance(size, int) and colour_range in ("auto", "limited", "full")
    if not known or not all(1 <= side <= MAX_SIDE for side in (height, width, int(size or 0))):
        raise ValueError(
            f"{store.path}: view_frame_size, view_size, colour_range: found {found.get('view_frame_size')!r}, "
            f"{size!r}, {colour_range!r}, wanted HEIGHTxWIDTH and a side of 1 to {MAX_SIDE} pixels, and auto, limited "
            "or full; run the logits stage again"
        )
    return (height, width), int(size or 0), str(colour_range)


def _check_box(crop: tuple[int, int, int, int], frame_size: tuple[int, int], *, where: str = "") -> None:
    top, left, height, width = crop
    if not (0 <= top < top + height <= frame_size[0] and 0 <= left < left + width <= frame_size[1]):
        raise ValueError(f"{where}crop box {crop} is empty or lies outside the frame of {frame_size}; run logits again")


def _pixel_fault(store: LogitStore, videos: Path, clip: int, found: int, stored: int) -> str:
    """The two checksums, and whether the video or what reads it is another one."""
    reason = "the video file has changed since"
    if sha256_of(videos / store.clip_ids[clip]) == store.clip_sha256[clip]:
        versions = f"av {store.provenance.get('av')} then, {av_version()} now"
        reason = f"the video is the same, its decoding or conversion has changed ({versions})"
    return f"pixels of crc32 {found:08x}, stored {stored:08x}: {reason}"

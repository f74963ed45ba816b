"""Stored views seen again by the student, and the proof that they still give the teacher's pixels."""

import dataclasses
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import FrameSource
from pipeline.clips.video import Frames, probe
from pipeline.clips.views import View, apply_view, pixel_crc32
from pipeline.distillation.logit_store import LogitStore

CHECKED_ONE_IN = 100


@dataclass(frozen=True, kw_only=True)
class StoredViews:
    """The view of a clip in an epoch as the store holds it."""

    store: LogitStore

    def __call__(self, clip: Clip, epoch: int) -> View:
        """Replay view `epoch` mod V."""
        row = self.store.row(clip.id, epoch % self.store.num_views)
        return View(frame_indices=row.frame_indices, crop=row.crop, flip=row.flip)


@dataclass(frozen=True, kw_only=True)
class PixelCheck:
    """Compare the pixels of one view in a hundred with what the teacher's were made from."""

    store: LogitStore
    videos: Path
    colour_range: str
    strict: bool
    every: int = CHECKED_ONE_IN

    def __call__(self, clip: Clip, epoch: int, pixels: Frames) -> None:
        """Check a view, or leave it.

        Args:
            clip: whose view it is.
            epoch: 0-based; its view is `epoch` mod V.
            pixels: uint8 (T, S, S, 3), as the student sees them.

        Raises:
            ValueError: strict, and the pixels differ.
        """
        # Chosen by name, so that the choice does not depend on order or workers.
        if zlib.crc32(f"{epoch} {clip.id}".encode()) % self.every:
            return
        view = epoch % self.store.num_views
        stored = self.store.row(clip.id, view).pixel_crc32
        crc32 = pixel_crc32(pixels)
        if crc32 == stored:
            return
        info = probe(self.videos / clip.id, colour_range=self.colour_range)
        part = "the conversion to RGB" if info.luma_crc32 == clip.luma_crc32 else "the decoded luma"
        message = (
            f"{self.videos / clip.id}: view {view} gives pixels of crc32 {crc32:08x}, the store was made from "
            f"{stored:08x}; {part} has changed since. Remove the frame cache with `dlkdd clean`, run the stage "
            "logits again, or set student.pixel_check: warn"
        )
        if self.strict:
            raise ValueError(message)
        print(f"warning: {message}", file=sys.stderr, flush=True)


def check_views(check: PixelCheck, clips: Sequence[Clip], source: FrameSource, *, size: int) -> None:
    """Check the first stored view of all these clips, before any training is spent on them."""
    views, every = StoredViews(store=check.store), dataclasses.replace(check, every=1)
    for clip in clips:
        view = views(clip, 0)
        every(clip, 0, apply_view(source.frames(clip, view.frame_indices), view, size))


def stored_logits(store: LogitStore, clips: Sequence[Clip], indices: Tensor, epoch: int) -> Tensor:
    """The teacher's logits of a batch.

    Args:
        store: the rows.
        clips: the dataset's clips.
        indices: (B,) positions in `clips`.
        epoch: 0-based; its view is `epoch` mod V.

    Returns:
        float32 (B, K).
    """
    view = epoch % store.num_views
    rows = [torch.as_tensor(store.row(clips[int(index)].id, view).logits) for index in indices]
    return torch.stack(rows)

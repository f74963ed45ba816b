"""Clips and views to tensors: where frames come from, the decode-once cache, and what a data loader reads."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.clips.clip_index import Clip
from pipeline.clips.files import replacing
from pipeline.clips.video import Frames, av_version, decode
from pipeline.clips.views import (
    PIXEL_PATH,
    View,
    ViewRule,
    apply_view,
    centre_view,
    evaluation_views,
    pixel_crc32,
    training_view,
)


class FrameSource(Protocol):
    """Anything that gives a clip's resized frames."""

    def frames(self, clip: Clip, indices: Sequence[int] | None) -> Frames:
        """Frames at the indices (None: all), resized whole: uint8 (T, H, W, 3)."""
        ...


@dataclass(frozen=True, kw_only=True)
class DecodedFrames:
    """Frames straight from the video files."""

    videos: Path
    """Root that clip ids are relative to."""
    frame_size: tuple[int, int]
    """(height, width) of the resized frames in pixels."""
    colour_range: str
    """auto, limited or full."""

    def frames(self, clip: Clip, indices: Sequence[int] | None) -> Frames:
        """Decode; see FrameSource."""
        return decode(self.videos / clip.id, indices=indices, size=self.frame_size, colour_range=self.colour_range)


@dataclass(frozen=True, kw_only=True)
class CachedFrames:
    """All frames of every clip kept as uint8 .npy files, made at first use; the folder names the settings."""

    source: FrameSource
    folder: Path

    def frames(self, clip: Clip, indices: Sequence[int] | None) -> Frames:
        """Read from the cache, and fill it where the clip is not there yet; see FrameSource."""
        stored: Frames = np.load(self.fill(clip), mmap_mode="r")
        # Copied out of the read-only map: tensors made from it must be writable.
        return np.array(stored if indices is None else stored[list(indices)])

    def fill(self, clip: Clip) -> Path:
        """Keep a clip's frames if they are not there yet; gives their file."""
        path = self.folder / f"{clip.sha256}.npy"
        if path.exists():
            return path
        frames = self.source.frames(clip, None)
        # The process id keeps two readers of one clip apart; both write the same bytes.
        with replacing(path, owner=str(os.getpid())) as partial, partial.open("wb") as file:
            np.save(file, frames)
        return path


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """Whether and where frames are kept after the first decode."""

    folder: Path
    """Holds one folder for each settings."""
    mode: str
    """on, off, or auto: up to `limit_bytes` and half of the free space."""
    limit_bytes: float


def keep_frames(
    source: FrameSource, clips: Sequence[Clip], *, settings: object, frame_size: tuple[int, int], cache: CachePolicy
) -> FrameSource:
    """Put the decode-once cache before a source where that is wanted and fits.

    Args:
        source: what to keep.
        clips: all clips that will be read; their size is known beforehand.
        settings: everything but the file that the frames depend on; its repr names the folder.
        frame_size: (height, width) of the frames.
        cache: whether and where.

    Raises:
        OSError: `on`, and the disk has less space than the cache needs.
    """
    header = 128  # bytes of a .npy file
    needed = sum(clip.num_frames * frame_size[0] * frame_size[1] * 3 + header for clip in clips)
    cache.folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(repr((settings, PIXEL_PATH, frame_size)).encode()).hexdigest()[:16]
    kept = cache.folder / key
    there = sum(
        (kept / f"{clip.sha256}.npy").stat().st_size for clip in clips if (kept / f"{clip.sha256}.npy").exists()
    )
    free = shutil.disk_usage(cache.folder).free
    too_large = needed > cache.limit_bytes or needed - there > free / 2
    if cache.mode == "off" or (cache.mode == "auto" and too_large):
        print(
            f"frames of {len(clips)} clips: not kept ({needed / 1e6:.1f} MB, compute.cache: {cache.mode})", flush=True
        )
        return source
    if needed - there > free:
        raise OSError(
            f"{kept}: needs {needed - there} bytes more, {free} are free; free some, or set compute.cache: off"
        )
    print(f"frames of {len(clips)} clips: {needed / 1e6:.1f} MB in {kept}, {there / 1e6:.1f} MB are there", flush=True)
    return CachedFrames(source=source, folder=kept)


def open_dark_frames(
    clips: Sequence[Clip], videos: Path, *, frame_size: tuple[int, int], colour_range: str, cache: CachePolicy
) -> FrameSource:
    """Resized frames as filmed, through the decode-once cache where that is wanted and fits; see keep_frames."""
    return keep_frames(
        DecodedFrames(videos=videos, frame_size=frame_size, colour_range=colour_range),
        clips,
        settings=("dark", colour_range, av_version()),
        frame_size=frame_size,
        cache=cache,
    )


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One clip as seen in one epoch."""

    pixels: Tensor
    """uint8 (T, S, S, 3)."""
    label: int
    index: int
    """Position of the clip in the dataset."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of views."""

    pixels: Tensor
    """uint8 (B, T, S, S, 3)."""
    labels: Tensor
    """int64 (B,)."""
    indices: Tensor
    """int64 (B,): positions of the clips in the dataset."""

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from where a copy to the GPU need not wait; called by the loader."""
        return Batch(pixels=self.pixels.pin_memory(), labels=self.labels.pin_memory(), indices=self.indices)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            pixels=self.pixels.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            indices=self.indices,
        )


@dataclass(frozen=True, kw_only=True)
class DrawnViews:
    """The training view of a clip in an epoch, drawn; see training_view."""

    rule: ViewRule
    mode: str
    num_views: int | None

    def __call__(self, clip: Clip, epoch: int) -> View:
        """Draw."""
        return training_view(
            self.rule,
            mode=self.mode,
            clip_id=clip.id,
            num_frames=clip.num_frames,
            epoch=epoch,
            num_views=self.num_views,
        )


@dataclass(frozen=True, kw_only=True)
class CentreViews:
    """The centre view, whatever the epoch."""

    rule: ViewRule

    def __call__(self, clip: Clip, epoch: int) -> View:
        """Take the middle of the clip and of the frame."""
        return centre_view(self.rule, clip_id=clip.id, num_frames=clip.num_frames)


@dataclass(frozen=True, kw_only=True)
class EvaluationViews:
    """The views of a test clip by number; see evaluation_views."""

    rule: ViewRule
    clips: int
    crops: str

    def __call__(self, clip: Clip, number: int) -> View:
        """Take view `number`."""
        return self.of(clip)[number]

    def of(self, clip: Clip) -> tuple[View, ...]:
        """All views of a clip; as many of every clip."""
        return evaluation_views(
            self.rule, clip_id=clip.id, num_frames=clip.num_frames, clips=self.clips, crops=self.crops
        )


class ViewDataset(Dataset[Sample]):
    """Clips seen through views; an item's key is (epoch, position), so that workers need no shared state."""

    def __init__(
        self,
        clips: Sequence[Clip],
        *,
        source: FrameSource,
        view_of: Callable[[Clip, int], View],
        size: int,
        check: Callable[[Clip, int, int], None] | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            clips: what to see.
            source: where frames come from.
            view_of: (clip, epoch) -> view.
            size: side of the view in pixels.
            check: called with (clip, epoch, crc32 of the pixels) where a stored view is replayed.
        """
        self.clips = clips
        self._source = source
        self._view_of = view_of
        self._size = size
        self._check = check

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """See one clip."""
        epoch, index = key
        clip = self.clips[index]
        view = self._view_of(clip, epoch)
        pixels = apply_view(self._source.frames(clip, view.frame_indices), view, self._size)
        if self._check is not None:
            self._check(clip, epoch, pixel_crc32(pixels))
        return Sample(pixels=torch.from_numpy(pixels), label=clip.label, index=index)


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch as keys: shuffled as a function of (seed, epoch), or as listed."""

    def __init__(self, length: int, *, batch_size: int, seed: int | None) -> None:
        self._length = length
        self._batch_size = batch_size
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self._length // self._batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self._length)
        if self._seed is not None:
            np.random.Generator(np.random.Philox(key=[self._seed, self.epoch])).shuffle(order)
        for start in range(0, self._length, self._batch_size):
            yield [(self.epoch, int(index)) for index in order[start : start + self._batch_size]]


class Batches:
    """Batches of a dataset, epoch by epoch; iterate `of_epoch(t)`."""

    def __init__(self, dataset: ViewDataset, *, batch_size: int, seed: int | None, workers: int) -> None:
        """Set up the loader.

        Args:
            dataset: clips and views.
            batch_size: clips a batch; the last one may be smaller.
            seed: shuffles each epoch; None keeps the clips' order.
            workers: reading processes; 0 reads in this one. Changes no pixel and no order.
        """
        self._order = EpochOrder(len(dataset), batch_size=batch_size, seed=seed)
        self._loader = load_keys(dataset, self._order, workers=workers, persistent=True)

    def __len__(self) -> int:
        return len(self._order)

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        self._order.epoch = epoch
        return iter(self._loader)


def load_keys(
    dataset: ViewDataset, keys: Iterable[list[tuple[int, int]]], *, workers: int, persistent: bool = False
) -> "DataLoader[Batch]":
    """A loader of given batches of (epoch, position) keys, in their order."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate,
        persistent_workers=persistent and workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: the loader draws a seed for its workers, which must not move the model's dropout.
        generator=torch.Generator(),
    )


def _collate(samples: list[Sample]) -> Batch:
    return Batch(
        pixels=torch.stack([sample.pixels for sample in samples]),
        labels=torch.tensor([sample.label for sample in samples]),
        indices=torch.tensor([sample.index for sample in samples]),
    )

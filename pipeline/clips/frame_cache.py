"""Where a clip's resized frames come from: the video file, or the decode-once cache beside a run's unfinished work."""

import functools
import hashlib
import io
import itertools
import mmap
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.clips.clip_index import Clip
from pipeline.clips.files import replacing
from pipeline.clips.video import Frames, av_version, decode
from pipeline.clips.views import PIXEL_PATH

CropBox = tuple[int, int, int, int]
"""(top, left, height, width) in pixels of the resized frame."""

ABANDONED_SEC = 3600.0
"""A half-written clip that nobody has touched for so long was left by a killed process."""


class FrameSource(Protocol):
    """Anything that gives a clip's resized frames."""

    def frames(self, clip: Clip, indices: Sequence[int] | None, crop: CropBox | None = None) -> Frames:
        """Frames at the indices (None: all), resized whole, cut to the crop (None: uncut): uint8 (T, H, W, 3)."""
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

    def frames(self, clip: Clip, indices: Sequence[int] | None, crop: CropBox | None = None) -> Frames:
        """Decode; see FrameSource."""
        return decode(
            self.videos / clip.id,
            indices=indices,
            size=self.frame_size,
            colour_range=self.colour_range,
            crop=crop,
            num_frames=clip.num_frames,
        )


@dataclass(frozen=True, kw_only=True)
class CachedFrames:
    """All frames of every clip kept as uint8 .npy files, made at first use; the folder names the settings.

    A file is named by the hash of its video's content. Each reading compares its length and its header, which hold
    shape and type, with what the clip must have. Its pixels are not checked: a crc32 of all of them takes several
    times as long as reading a view. What the student reads is compared with the logit store's crc32 of the view.
    """

    source: FrameSource
    folder: Path
    frame_size: tuple[int, int]
    """(height, width) of the frames in pixels."""

    def frames(self, clip: Clip, indices: Sequence[int] | None, crop: CropBox | None = None) -> Frames:
        """Read from the cache, and fill it where the clip is not there yet; see FrameSource.

        Raises:
            ValueError: the kept file is not one of this clip, or is cut off.
        """
        top, left, height, width = crop or (0, 0, *self.frame_size)
        # Only the rows of the crop are touched, and copied once: tensors made from the copy must be writable.
        stored = self._mapped(clip)[:, top : top + height, left : left + width]
        chosen = slice(None) if indices is None else _steps(indices)
        return np.array(stored[chosen]) if isinstance(chosen, slice) else np.ascontiguousarray(stored[chosen])

    def fill(self, clip: Clip) -> Path:
        """Keep a clip's frames if they are not there yet; gives their file.

        Raises:
            ValueError: the video has another number of frames than the clip was listed with.
        """
        path = self.folder / f"{clip.sha256}.npy"
        if path.exists():
            return path
        frames = self.source.frames(clip, None)
        if len(frames) != clip.num_frames:
            raise ValueError(
                f"{clip.id}: found {len(frames)} frames, wanted the {clip.num_frames} it was listed with; the file "
                "changed since: run prepare again"
            )
        # The process id keeps two readers of one clip apart; both write the same bytes.
        with replacing(path, owner=str(os.getpid())) as partial, partial.open("wb") as file:
            # not np.save, whose error of a full disk has no number
            file.write(npy_header(frames.shape))
            file.write(frames.data)
        return path

    def _mapped(self, clip: Clip) -> Frames:
        """All frames of a clip, read-only."""
        path = self.fill(clip)
        shape = (clip.num_frames, *self.frame_size, 3)
        header, size = npy_header(shape), clip_bytes(clip, self.frame_size)
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if found else b""
        if found != size or mapped[: len(header)] != header:
            raise ValueError(
                f"{path}: found {found} bytes or another header, wanted the {size} bytes of uint8 frames {shape} of "
                f"{clip.id}; delete the file, it is made again, or run `dlkdd clean`"
            )
        return np.frombuffer(mapped, np.uint8, offset=len(header)).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class CachePolicy:
    """Whether and where frames are kept after the first decode."""

    folder: Path
    """Holds one folder for each settings."""
    mode: str
    """on, off, or auto: up to `limit_bytes` and half of the free space."""
    limit_bytes: float


def cache_policy(root: Path, *, mode: str, cache_gb: float) -> CachePolicy:
    """The decode-once cache of a run, beside its unfinished work in `root`."""
    return CachePolicy(folder=root / "frames", mode=mode, limit_bytes=cache_gb * 1e9)


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
    sizes = {clip.sha256: clip_bytes(clip, frame_size) for clip in clips}
    needed = sum(sizes.values())
    cache.folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(repr((settings, PIXEL_PATH, frame_size)).encode()).hexdigest()[:16]
    kept = cache.folder / key
    _remove_abandoned(kept)
    names = {path.stem for path in kept.glob("*.npy")}
    there = sum(size for name, size in sizes.items() if name in names)
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
    if there < needed:
        print(
            f"frames of {len(clips)} clips: {needed / 1e6:.1f} MB in {kept}, {there / 1e6:.1f} MB are there", flush=True
        )
    return CachedFrames(source=source, folder=kept, frame_size=frame_size)


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


@functools.lru_cache(maxsize=1024)
def npy_header(shape: tuple[int, ...]) -> bytes:
    """What a .npy file of uint8 in C order begins with; the pixels follow."""
    buffer = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def clip_bytes(clip: Clip, frame_size: tuple[int, int]) -> int:
    """Size of a clip's file in the cache."""
    shape = (clip.num_frames, *frame_size, 3)
    return len(npy_header(shape)) + clip.num_frames * frame_size[0] * frame_size[1] * 3


def _steps(indices: Sequence[int]) -> slice | list[int]:
    """The indices as a slice where they are evenly spaced: no copy of whole frames then."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    even = step > 0 and all(after - before == step for before, after in itertools.pairwise(indices))
    return slice(indices[0], indices[-1] + 1, step) if even else list(indices)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left half-written; what a living one writes is younger."""
    for path in folder.glob(".*.part"):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED_SEC:
                path.unlink()
        except FileNotFoundError:
            continue  # another process finished or removed it

"""What one video is like: what it holds, how dark and how noisy it is, and whether its tags fit its codes."""

import itertools
import statistics
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.files import sha256_of
from pipeline.clips.luma import luma_frames
from pipeline.clips.survey_entries import Entry
from pipeline.clips.video import Frames, VideoInfo, probe

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

# A codec rings past black by a few codes. Of 246 dark clips of ARID, tagged limited, none holds more than 0.065 % of
# its codes below 12; untagged phone videos that use the full range hold 0.2 to 41 %.
DARKEST_LIMITED = 12
LIKELY_FULL = 0.002
"""Share of codes below that from which a video was probably written in full range."""
CLIPPED_BLACK = 0.01
"""Share of codes at black (15 to 17), with none below, from which a full-range tag is probably wrong."""

BLOCK = 8
"""Side in pixels of the blocks that noise is measured in."""
MOVING = 3.0
"""Ratio to the median block's change above which a block moves; a codec leaves unlike amounts of noise in blocks."""
NOISE_PAIRS = 16
"""Most pairs of neighbouring frames that noise is measured between, spread over the video."""

UNEVEN = 0.25
"""Share of the usual time between two frames by which one may differ and still count as even."""


@dataclass(frozen=True, kw_only=True)
class VideoSurvey:
    """What was found in one video."""

    entry: Entry
    info: VideoInfo
    sha256: str
    """Of the file's bytes."""
    file_bytes: int
    duration_sec: float
    """From the first frame to the end of the last, by the frames' times; 0 where the file tells none."""
    luma_shares: "array[float]"
    """Share of each 8-bit luma code over all frames, 256 values; packed, for there may be many videos."""
    percentiles: tuple[int, ...]
    """Luma codes below which `PERCENTILES` percent of all codes lie, or at them."""
    low_share: float
    """Share of luma codes below 16, 0 to 1."""
    high_share: float
    """Share of luma codes above 235, 0 to 1."""
    likely_range: str
    """full or limited where the codes contradict the tag or what is assumed without one; else empty."""
    noise: float
    """Standard deviation of the noise of one frame in luma codes; see `pair_noise`."""
    frozen_share: float
    """Share of blocks that do not change at all between two frames: what a codec did not code, or a still picture."""
    repeated_share: float
    """Share of frames whose luma is that of the frame before, byte for byte."""
    uneven_share: float
    """Share of the times between frames that differ from the usual one by more than a quarter."""


@dataclass(frozen=True, kw_only=True)
class BadVideo:
    """A file that cannot be used."""

    id: str
    reason: str
    remedy: str


def survey_video(
    entry: Entry, root: Path, colour_range: str, prober: Callable[..., VideoInfo] = probe
) -> VideoSurvey | BadVideo:
    """Decode one video, and describe it or say why it cannot be used.

    Args:
        entry: which.
        root: what its id is relative to.
        colour_range: how RGB is made from it: auto, limited or full.
        prober: decodes it first. One with limits keeps what breaks a decoder from this process.
    """
    path = root / entry.id
    try:
        return _survey(entry, path, colour_range, prober)
    except (ValueError, OSError) as error:
        message = str(error).removeprefix(f"{path}: ")
        reason, _, remedy = message.partition("; ")
        return BadVideo(id=entry.id, reason=reason, remedy=remedy or "fetch it again, or leave it out")


def pair_noise(before: Frames, after: Frames) -> tuple[float, float]:
    """Noise of one frame from two neighbouring ones, and the share of blocks that do not change at all.

    Where nothing moves, two frames differ by their noise alone, so its standard deviation is that of the difference
    over the square root of 2. It is measured in blocks of 8 x 8 pixels, each freed of its mean, which takes flicker
    out. Blocks that change three times as much as the median block are taken for moving, and the median of the others
    counts, so that movement in less than half of the picture leaves it alone. Where a codec leaves most blocks as
    they were, the result is 0: that noise is gone from the file.

    Args:
        before: uint8 (H, W) luma.
        after: the same of the next frame.

    Returns:
        Standard deviation in luma codes, and a share of 0 to 1; 0 and 0 for a picture without a whole block.
    """
    rows, columns = before.shape[0] // BLOCK, before.shape[1] // BLOCK
    if rows * columns == 0:
        return 0.0, 0.0
    change = after[: rows * BLOCK, : columns * BLOCK].astype(np.float32) - before[: rows * BLOCK, : columns * BLOCK]
    blocks = change.reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2).reshape(-1, BLOCK * BLOCK)
    spread = blocks.std(axis=1, ddof=1)
    still = spread[spread <= MOVING * np.median(spread)]
    return float(np.median(still)) / float(np.sqrt(2)), float((~blocks.any(axis=1)).mean())


def likely_range(shares: Sequence[float], *, tagged: str, pix_fmt: str) -> str:
    """Which colour range a video was probably written in, where its codes contradict its tag; else empty.

    Codes above white say nothing: cameras record highlights there in limited range too.

    Args:
        shares: of each luma code, 256 values.
        tagged: limited, full, or unspecified, which is read as limited.
        pix_fmt: FFmpeg's name; RGB has no range.
    """
    if pix_fmt.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "pal8")):
        return ""
    below = sum(shares[:DARKEST_LIMITED])
    if tagged == "full" or pix_fmt.startswith("yuvj"):
        return "limited" if below == 0.0 and sum(shares[15:18]) >= CLIPPED_BLACK else ""
    return "full" if below >= LIKELY_FULL else ""


def uneven_share(times: Sequence[float]) -> float:
    """Share of the times between neighbouring frames that differ from the median by more than a quarter of it."""
    spacings = [after - before for before, after in itertools.pairwise(times)]
    if not spacings:
        return 0.0
    usual = statistics.median(spacings)
    return sum(abs(spacing - usual) > UNEVEN * usual for spacing in spacings) / len(spacings)


def _survey(entry: Entry, path: Path, colour_range: str, prober: Callable[..., VideoInfo]) -> VideoSurvey:
    info = prober(path, colour_range=colour_range)
    sha256 = sha256_of(path)
    if entry.sha256 is not None and entry.sha256 != sha256:
        raise ValueError(f"{path}: is another file than the one in clips.csv (sha256 {sha256[:12]}); run prepare again")
    counts, times, noise, frozen, repeated = _read_luma(path, info.num_frames)
    shares = counts / counts.sum()
    below = np.cumsum(shares)
    return VideoSurvey(
        entry=entry,
        info=info,
        sha256=sha256,
        file_bytes=path.stat().st_size,
        duration_sec=_duration(times, info),
        luma_shares=array("f", shares),
        # The last bits of the sum must not push 100 % of one code to the next.
        percentiles=tuple(int(np.searchsorted(below, percent / 100 - 1e-9)) for percent in PERCENTILES),
        low_share=float(shares[:16].sum()),
        high_share=float(shares[236:].sum()),
        likely_range=likely_range(shares.tolist(), tagged=info.colour_range, pix_fmt=info.pix_fmt),
        noise=noise,
        frozen_share=frozen,
        repeated_share=repeated,
        uneven_share=uneven_share(times),
    )


def _read_luma(path: Path, num_frames: int) -> tuple[NDArray[np.int64], list[float], float, float, float]:
    """Counts of the codes, times in seconds, noise, frozen blocks and repeated frames of a whole video."""
    spacing = max(1, (num_frames - 1) // NOISE_PAIRS)
    counts = np.zeros(256, np.int64)
    times: list[float] = []
    found: list[tuple[float, float]] = []
    repeated, crc = 0, None
    before: Frames | None = None
    for index, (luma, time) in enumerate(luma_frames(path)):
        counts += np.bincount(luma.ravel(), minlength=256)
        times += [] if time is None else [time]
        if before is not None:
            found.append(pair_noise(before, luma))
        before = luma.copy() if index % spacing == 0 and len(found) < NOISE_PAIRS else None
        last, crc = crc, zlib.crc32(np.ascontiguousarray(luma).data)
        repeated += crc == last
    noise, frozen = np.median([pair[0] for pair in found] or [0.0]), np.mean([pair[1] for pair in found] or [0.0])
    # Only whole sets of times can be compared with each other.
    times = times if len(times) == num_frames else []
    return counts, times, float(noise), float(frozen), repeated / max(1, num_frames - 1)


def _duration(times: Sequence[float], info: VideoInfo) -> float:
    if len(times) > 1:
        return times[-1] - times[0] + statistics.median(b - a for a, b in itertools.pairwise(times))
    return info.num_frames / info.fps if info.fps else 0.0

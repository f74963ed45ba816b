"""Frames enhanced once, before any crop, so that training does not wait for the enhancer."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from pipeline.clips.clip_index import Clip
from pipeline.clips.frame_cache import (
    CachedFrames,
    CachePolicy,
    CropBox,
    FrameSource,
    keep_frames,
    open_dark_frames,
)
from pipeline.clips.video import Frames, av_version
from pipeline.enhancers.build import enhancer_key

GOLDEN_RATIO = 0.6180339887
"""Its multiples by successive numbers lie far from each other, modulo 1."""
ENHANCED_VERSION = 1
"""Raise it with any change to how kept frames are enhanced or rounded."""


@dataclass(frozen=True)
class EnhancedFrames:
    """Another source's resized frames, enhanced and rounded to 8 bits."""

    source: FrameSource
    enhancer: nn.Module
    device: torch.device

    def frames(self, clip: Clip, indices: Sequence[int] | None, crop: CropBox | None = None) -> Frames:
        """Enhanced frames at the indices (None: all), cut after that, uint8 (T, H, W, 3)."""
        enhanced = enhance_pixels(self.enhancer, self.source.frames(clip, indices), device=self.device)
        if crop is None:
            return enhanced
        top, left, height, width = crop
        return np.ascontiguousarray(enhanced[:, top : top + height, left : left + width])


@torch.no_grad()
def enhance_pixels(enhancer: nn.Module, frames: Frames, *, device: torch.device) -> Frames:
    """Enhance frames, uint8 (T, H, W, 3) -> uint8 (T, H, W, 3).

    One frame at a time: the last bits of a convolution depend on how many frames go through it together, and a
    frame has to come out the same whether it is asked for alone or with others.
    """
    enhancer.eval()
    enhanced = np.empty_like(frames)
    for index, frame in enumerate(frames):
        pixels = torch.from_numpy(frame).to(device).permute(2, 0, 1)[None].float() / 255.0  # (H, W, C) -> (1, C, H, W)
        bright = (enhancer(pixels)[0] * 255.0).round().clamp(0, 255).to(torch.uint8)
        enhanced[index] = bright.permute(1, 2, 0).cpu().numpy()  # (C, H, W) -> (H, W, C)
    return enhanced


def reading_workers(source: FrameSource, workers: int) -> int:
    """Processes that may read from a source: none where it enhances as it reads, since that needs the device."""
    return 0 if isinstance(source, EnhancedFrames) else workers


def open_teacher_frames(
    clips: Sequence[Clip],
    videos: Path,
    enhancer: nn.Module | None,
    *,
    enhancer_on: str,
    frame_size: tuple[int, int],
    colour_range: str,
    cache: CachePolicy,
    device: torch.device,
) -> FrameSource:
    """The frames that a teacher's views are cut from, kept on disk where that is wanted and fits.

    Args:
        clips: all clips that will be read.
        videos: root that clip ids are relative to.
        enhancer: applied here where `enhancer_on` is `frame`; the recogniser applies it where it is `view`. None
            where it is `none`.
        enhancer_on: frame, view, or none (the teacher sees dark frames).
        frame_size: (height, width) of the resized frames.
        colour_range: auto, limited or full.
        cache: whether and where frames are kept.
        device: where to enhance.
    """
    dark = open_dark_frames(clips, videos, frame_size=frame_size, colour_range=colour_range, cache=cache)
    if enhancer_on != "frame":
        return dark
    assert enhancer is not None, "enhancer_on is frame, so there has to be an enhancer"
    made_by = (ENHANCED_VERSION, av_version(), str(torch.__version__), torch.get_num_threads(), str(device))
    settings = ("enhanced", colour_range, enhancer_key(enhancer), *made_by)
    enhanced = keep_frames(
        EnhancedFrames(dark, enhancer, device), clips, settings=settings, frame_size=frame_size, cache=cache
    )
    if isinstance(enhanced, CachedFrames):
        # Filled here, where the enhancer has all threads and the device, not by the loader's workers.
        # Processes that fill one folder begin far from each other, and each finds what the others have done.
        begin = int(len(clips) * (os.getpid() * GOLDEN_RATIO % 1))
        for clip in tqdm([*clips[begin:], *clips[:begin]], desc="enhance", unit="clip", disable=None):
            enhanced.fill(clip)
    return enhanced

"""Contact sheets of a dataset: a few videos of each class as they are and brightened."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.clips.survey_summary import by_class
from pipeline.clips.survey_video import VideoSurvey
from pipeline.clips.video import Frames, decode
from pipeline.pages.blocks import Block, Picture, Pictures, Text
from pipeline.pages.page import picture_of

THUMBNAIL = 152
"""Longer side of a thumbnail in pixels: two of them fit a phone's width."""
MOST_CLASSES = 200
BRIGHT = 0.4
"""Mean of a brightened thumbnail that the gamma is chosen for, 0 to 1."""
LARGEST_GAMMA = 6.0


def contact_sheets(videos: Sequence[VideoSurvey], root: Path, *, colour_range: str, per_class: int) -> list[Block]:
    """The middle frames of some videos of each class, from its darkest to its brightest, dark and brightened.

    Args:
        videos: all.
        root: what their ids are relative to.
        colour_range: how RGB is made from them.
        per_class: videos of each class.
    """
    groups = by_class(videos)
    blocks: list[Block] = [
        Text(
            text="The middle frame of a few videos of each class, from the darkest to the brightest: left as a player "
            "shows it, right brightened by the gamma that is said below it."
        )
    ]
    if len(groups) > MOST_CLASSES:
        blocks.append(Text(text=f"The first {MOST_CLASSES} of {len(groups)} classes."))
    for name, group in list(groups.items())[:MOST_CLASSES]:
        shown = [_picture(video, root, colour_range) for video in spread_by_luma(group, per_class)]
        blocks.append(Pictures(title=name or "No class", pictures=shown))
    return blocks


def spread_by_luma(videos: Sequence[VideoSurvey], count: int) -> list[VideoSurvey]:
    """Evenly spaced ones in the order of their mean luma, the darkest and the brightest among them."""
    ordered = sorted(videos, key=lambda video: (video.info.mean_luma, video.entry.id))
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def brighten(frame: Frames) -> tuple[Frames, float]:
    """A frame to the power of 1 / gamma, and the gamma, at least 1: the one that brings its mean to 0.4.

    Args:
        frame: uint8 (H, W, 3).
    """
    mean = max(float(frame.mean()) / 255, 1e-3)
    gamma = min(max(math.log(mean) / math.log(BRIGHT), 1.0), LARGEST_GAMMA)
    table = np.rint(255 * (np.arange(256) / 255) ** (1 / gamma)).astype(np.uint8)
    return table[frame], gamma


def _picture(video: VideoSurvey, root: Path, colour_range: str) -> Picture:
    entry, info = video.entry, video.info
    scale = min(1.0, THUMBNAIL / max(info.width, info.height))
    size = max(1, round(info.height * scale)), max(1, round(info.width * scale))
    (dark,) = decode(root / entry.id, indices=[info.num_frames // 2], size=size, colour_range=colour_range)
    bright, gamma = brighten(dark)
    return Picture(
        sources=[
            (picture_of(dark), f"{entry.id}, middle frame as it is"),
            (picture_of(bright), f"{entry.id}, middle frame brightened"),
        ],
        caption=f"{entry.id}: mean luma {info.mean_luma:.1f}, gamma {gamma:.1f}",
        width=THUMBNAIL,
    )

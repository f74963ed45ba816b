"""The luma of a video's frames as it was coded, with the frames' times."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.clips.video import Frames, decoded_frames, luma_of


def luma_frames(path: Path) -> Iterator[tuple[Frames, float | None]]:
    """Decode a whole video to its 8-bit luma codes.

    Yields:
        uint8 (H, W) luma as coded, before any orientation, valid until the next is asked for; and the frame's time in
        seconds, None where the file tells none.

    Raises:
        ValueError: the file is no video, or is damaged.
    """
    for frame in decoded_frames(path):
        yield luma_of(frame), frame.time

"""Which stream of an opened file is its video, and the shape of its pixels."""

from fractions import Fraction
from typing import Any

MAX_PIXELS = 2**26
"""Of a frame: 8192x8192, twice 8K. A header that declares more is damaged or means harm: one frame of 16,384x16,384
takes 400 MB before anything can be asked of it."""

SQUARE = Fraction(1)
"""The shape of a pixel, width over height, where nothing else is said."""

ATTACHED_PICTURE = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: the cover of a sound file


def video_stream(container: Any) -> Any:
    """The first video stream that is no attached picture; None where there is none.

    Args:
        container: av's, opened for reading.

    Raises:
        ValueError: there is no decoder for it, or its frames are declared larger than MAX_PIXELS; the message lacks
            the file's name.
    """
    for stream in container.streams.video:
        if int(stream.disposition) & ATTACHED_PICTURE:
            continue
        codec = stream.codec_context
        if codec is None:
            raise ValueError(
                "holds video of a codec that this build of FFmpeg does not know; re-encode it as H.264, or leave it "
                "out of the list"
            )
        if codec.width * codec.height > MAX_PIXELS:
            raise ValueError(
                f"declares frames of {codec.width}x{codec.height}, wanted at most {MAX_PIXELS} pixels; re-encode the "
                "video smaller, or leave it out of the list"
            )
        # Where the size changes on the way, the decoder itself refuses the frame.
        codec.options = {**codec.options, "max_pixels": str(MAX_PIXELS)}
        return stream
    return None


def pixel_shape(stream: Any, frame: Any) -> Fraction:
    """Width over height of a pixel of the oriented picture; 1 where the file tells none.

    Recorders of analogue cameras, for one, keep 704 pixels of a line that is shown 4:3.

    Args:
        stream: av's video stream.
        frame: one of its frames, which tells how it is turned.
    """
    shape = stream.sample_aspect_ratio
    if not shape or shape < 0:
        return SQUARE
    return 1 / Fraction(shape) if frame.rotation % 180 else Fraction(shape)

"""Whether decoding gives back what was written."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.clips.video import decode, write_video
from pipeline.doctor.findings import OK, PROBLEM, Finding

DECODER_REMEDY = "install av's own wheel: pip install --force-reinstall -c constraints.txt av"
LARGEST_BIAS = 0.1
"""Mean error of grey in codes. All 256 rounded to limited range and back are wrong by 0 on the average, a conversion
that cuts off instead of rounding by 1 or 2."""
PATCH = 16
"""Side in pixels of a patch of one grey: a macroblock of H.264."""


def decoder() -> Iterator[Finding]:
    """Write videos and read them back: a lossless one exactly, known greys without bias."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="dlkdd-doctor-") as folder:
        write_video(Path(folder) / "lossless.mp4", frames, fps=30, lossless=True)
        found = decode(Path(folder) / "lossless.mp4")
        greys = np.arange(256).reshape(16, 16).repeat(PATCH, axis=0).repeat(PATCH, axis=1)
        flat = np.repeat(greys[None, :, :, None], 3, axis=3).astype(np.uint8)
        # crf 0 keeps every code of limited range; only the conversions to it and back are left.
        write_video(Path(folder) / "greys.mp4", flat, fps=30, crf=0)
        errors = decode(Path(folder) / "greys.mp4").astype(int) - flat
    if found.shape != frames.shape:
        text = f"a lossless video of {len(frames)} frames comes back as {found.shape}"
        yield Finding(part="decoder", state=PROBLEM, found=text, remedy=DECODER_REMEDY)
    elif (found != frames).any():
        differing, largest = (found != frames).mean(), np.abs(found.astype(int) - frames).max()
        text = f"{100 * differing:.1f} % of a lossless video's codes come back changed, by up to {largest}"
        yield Finding(part="decoder", state=PROBLEM, found=text, remedy=DECODER_REMEDY)
    else:
        yield Finding(part="decoder", state=OK, found="a lossless video comes back bit by bit")
    bias, largest = errors.mean(), np.abs(errors).max()
    text = f"greys come back with a mean error of {bias:+.2f} codes, at most {largest}"
    if abs(bias) > LARGEST_BIAS or largest > 1:
        remedy = f"dark video loses its signal so: {DECODER_REMEDY}"
        yield Finding(part="greys", state=PROBLEM, found=text, remedy=remedy)
    else:
        yield Finding(part="greys", state=OK, found=text)

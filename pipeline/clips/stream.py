"""Videos one frame at a time: files with the time of every frame, live streams, and writing without holding all.

Beside video.py the only module that imports av.
"""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from pipeline.clips.catch_up import CatchUp
from pipeline.clips.live_address import DEVICE
from pipeline.clips.video import CONTAINERS, SAME_BYTES, SCALER, Frames, frames_of, open_video, set_up_decoder
from pipeline.clips.video_files import refuse_pictures
from pipeline.clips.video_stream import SQUARE, pixel_shape, video_stream

GUESSED_RATE = Fraction(30)
"""Frames a second where a file tells none; ARID's."""

TICKS = 90_000
"""Time stamps a second in written videos, as in MPEG's transport streams."""

# What a live source may use. `file`, `concat` and the like are absent: a playlist from a server must not open them.
PROTOCOLS = "rtsp,rtsps,rtp,udp,tcp,tls,http,https,httpproxy,crypto"
LIVE_CONTAINERS = CONTAINERS + ",rtsp,rtp,sdp,hls,mpjpeg"

JUMP_SEC, BACKWARDS_SEC = 10.0, 1.0
"""A live sender whose time stamps jump so far ahead, or back by this much, has been set anew."""


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A decoded frame of a file."""

    index: int
    """Position in decoded order, 0-based."""
    time: Fraction
    """Seconds since the first frame; grows with every frame."""
    lasts: Fraction
    """Seconds until the next frame; of the last frame that it stays, as far as the file tells."""
    picture: Any
    """An av.VideoFrame, for a FrameConverter."""
    pixel_shape: Fraction
    """Width over height of its pixels, oriented."""


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a video is, from decoding it whole."""

    num_frames: int
    seconds: Fraction
    """Until the last frame has gone."""


@dataclass(frozen=True, kw_only=True)
class LiveFrame:
    """A decoded frame of a live stream."""

    time: float
    """The sender's seconds since the first frame of this segment."""
    segment: int
    """Grows by one whenever the sender's clock is set anew."""
    lag: float
    """Seconds by which reading has fallen behind the sender."""
    picture: Any
    """An av.VideoFrame, for a FrameConverter."""
    pixel_shape: Fraction
    """Width over height of its pixels, oriented."""


def read_frames(path: Path) -> Iterator[TimedFrame]:
    """Decode a file frame by frame, in the order and number that `video.decode` counts.

    Times are the file's own time stamps. A frame without one, or with one that does not grow, comes one average
    spacing after the frame before it.

    Raises:
        ValueError: the file is no video, a picture, or damaged, or holds no frame.
    """
    refuse_pictures(path, early=True)
    frame = None
    try:
        for frame in _frames_of(path):
            yield frame
    except ValueError:
        refuse_pictures(path, early=False)
        raise
    if frame is None:
        raise ValueError(f"{path}: no frame decodes; re-encode the video or leave it out of the list")


def measure_length(path: Path, *, watch: Callable[[Fraction], None] | None = None) -> Length:
    """Decode a file whole, frame by frame, and count.

    Args:
        path: the video.
        watch: called with the time of each frame, to show progress.

    Raises:
        ValueError: see read_frames.
    """
    for frame in read_frames(path):
        if watch is not None:
            watch(frame.time)
    return Length(num_frames=frame.index + 1, seconds=frame.time + frame.lasts)


def has_sound(path: Path) -> bool:
    """Whether a video file holds sound as well."""
    with open_video(path) as container:
        return bool(container.streams.audio)


class AddFrame(Protocol):
    """Adds a frame to a video that is written."""

    def __call__(self, pixels: Frames, time_sec: Fraction, lasts: Fraction, shape: Fraction = SQUARE, /) -> None:
        """Add it.

        Args:
            pixels: uint8 (H, W, 3) RGB, H and W even and the same for all.
            time_sec: growing.
            lasts: seconds.
            shape: width over height of a pixel; the first frame's counts for all.
        """


@contextlib.contextmanager
def write_stream(path: Path, *, crf: int = 18, preset: str = "medium") -> Iterator[AddFrame]:
    """Give a function that adds one frame to an H.264 video; the file takes its name when the block ends well.

    Memory does not grow with the number of frames. Without a frame no file is written.

    Args:
        path: the file to write, .mp4 for a video that plays everywhere.
        crf: x264's constant rate factor, 0 (best) to 51.
        preset: x264's, from ultrafast to veryslow.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        # The index goes to the front, so that a browser plays the video while it loads.
        with av.open(f"file:{partial}", "w", options={"movflags": "faststart"}) as container:
            encoder = _Encoder(container, crf=crf, preset=preset)
            yield encoder.add
            encoder.finish()
        if encoder.started:
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(partial, path)
    except av.FFmpegError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}); check the folder and the free space") from error
    finally:
        partial.unlink(missing_ok=True)


class LiveVideo:
    """An open live stream."""

    def __init__(self, container: Any, *, timeout_sec: float) -> None:
        stream = video_stream(container)
        if stream is None:
            raise ValueError("holds no video stream")
        self._container = container
        self._stream = stream
        self._stream.thread_type, self._stream.codec_context.thread_count = "SLICE", 1
        self._timeout_sec = timeout_sec
        self.catch_up = CatchUp()
        self.damaged = 0
        """Packets and frames left out because they do not decode, as after a lost packet or before a key frame."""
        self.finished_file = bool(container.duration) and container.format.name != "rtsp"
        """The server gives a file of known length and not a live picture."""

    def frames(self) -> Iterator[LiveFrame]:
        """Decode until the sender ends; frames that do not decode are counted and left out.

        Raises:
            ValueError: packets come, but for three times the time-out no picture can be made of them.
        """
        segment, first, last, seen = 0, None, 0.0, time.monotonic()
        for packet in self._container.demux(self._stream):
            now = time.monotonic()
            if now - seen > 3 * self._timeout_sec:
                raise ValueError(f"sends packets, but for {now - seen:.0f} s none could be decoded")
            if self._drops(packet, now):
                continue
            for picture in self._pictures(packet):
                seen = time.monotonic()
                stamp = seen if picture.pts is None else float(picture.pts * picture.time_base)
                if first is not None and 0 < last - stamp < BACKWARDS_SEC:
                    stamp = last
                if first is not None and not 0 <= stamp - last <= JUMP_SEC:
                    first, segment = None, segment + 1
                    self.catch_up.restart()
                first = stamp if first is None else first
                last = stamp
                yield LiveFrame(
                    time=stamp - first,
                    segment=segment,
                    lag=self.catch_up.lag,
                    picture=picture,
                    pixel_shape=pixel_shape(self._stream, picture),
                )

    def _drops(self, packet: Any, now: float) -> bool:
        stamp = packet.dts if packet.pts is None else packet.pts
        # What the server gives from a file comes as fast as it is read, not as it was filmed.
        if stamp is None or self.finished_file:
            return False
        return self.catch_up.drops(float(stamp * packet.time_base), now=now, key=packet.is_keyframe)

    def _pictures(self, packet: Any) -> list[Any]:
        try:
            pictures = packet.decode()
        except av.FFmpegError:
            self.damaged += 1
            return []
        whole = [picture for picture in pictures if not picture.is_corrupt]
        self.damaged += len(pictures) - len(whole)
        return whole


@contextlib.contextmanager
def open_live(source: str, *, timeout_sec: float) -> Iterator[LiveVideo]:
    """Open a live stream.

    Args:
        source: a URL of one of `SCHEMES`, or a camera /dev/videoN.
        timeout_sec: how long to wait for the sender's first answer, and later for each packet.

    Raises:
        ValueError: it does not open, breaks off, or is silent for too long; says why, without the URL.
    """
    if DEVICE.fullmatch(source):
        how: dict[str, Any] = {"format": "v4l2"}
    else:
        options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": LIVE_CONTAINERS}
        # RTSP over TCP loses no packets; UDP where the server offers nothing else.
        how = {"options": options | ({"rtsp_flags": "prefer_tcp"} if source.lower().startswith("rtsp") else {})}
    began = time.monotonic()
    try:
        with av.open(source, timeout=(timeout_sec, timeout_sec), metadata_errors="replace", **how) as container:
            yield LiveVideo(container, timeout_sec=timeout_sec)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(_reason(error, began, timeout_sec)) from error


def _reason(error: BaseException, began: float, timeout_sec: float) -> str:
    # The time-out interrupts FFmpeg, which says then whatever the interrupted part makes of it.
    if isinstance(error, av.error.ExitError):
        return f"no answer for {timeout_sec:g} s"
    reason = getattr(error, "strerror", None) or str(error)
    if time.monotonic() - began >= timeout_sec and isinstance(error, av.InvalidDataError):
        return f"no answer for {timeout_sec:g} s ({reason})"
    return str(reason)


def _frames_of(path: Path) -> Iterator[TimedFrame]:
    with open_video(path) as container:
        stream = video_stream(container)
        set_up_decoder(stream)
        spacing = 1 / (stream.average_rate or GUESSED_RATE)
        first, time_sec, waiting = None, -spacing, None
        for index, frame in enumerate(frames_of(container, stream)):
            if frame.is_corrupt:
                raise ValueError(f"{path}: a frame is damaged; fetch or re-encode the video, or leave it out")
            stamp = None if frame.pts is None else frame.pts * frame.time_base
            first = stamp if first is None else first
            grown = time_sec + spacing
            time_sec = stamp - first if stamp is not None and stamp - first > time_sec else grown
            # A container's durations are those of coded order: a frame stays until the next one shown.
            if waiting is not None:
                yield dataclasses.replace(waiting, lasts=time_sec - waiting.time)
            lasts = frame.duration * frame.time_base if frame.duration and frame.time_base else spacing
            shape = pixel_shape(stream, frame)
            waiting = TimedFrame(index=index, time=time_sec, lasts=lasts, picture=frame, pixel_shape=shape)
        if waiting is not None:
            yield waiting


class _Encoder:
    def __init__(self, container: Any, *, crf: int, preset: str) -> None:
        self._container = container
        # No frames out of order: MP4 keeps what each packet lasts in coded order, which would give the last frame shown
        # another one's length.
        self._options = {"crf": str(crf), "preset": preset, "bf": "0", **SAME_BYTES}
        self._stream: Any = None
        self._scaler = VideoReformatter()
        self._last = -1

    @property
    def started(self) -> bool:
        return self._stream is not None

    def add(self, pixels: Frames, time_sec: Fraction, lasts: Fraction, shape: Fraction = SQUARE, /) -> None:
        if self._stream is None:
            self._start(pixels, shape)
        frame = self._scaler.reformat(
            av.VideoFrame.from_ndarray(pixels, format="rgb24"),
            format="yuv420p",
            interpolation=SCALER,
            dst_color_range=ColorRange.MPEG,
            dst_colorspace=Colorspace.ITU601,
            threads=1,
        )
        # Two frames of one tick would be refused by the container.
        self._last = max(round(time_sec * TICKS), self._last + 1)
        frame.pts, frame.duration, frame.time_base = self._last, round(lasts * TICKS), Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        if self.started:
            self._container.mux(self._stream.encode())

    def _start(self, pixels: Frames, shape: Fraction) -> None:
        self._stream = self._container.add_stream("libx264", rate=GUESSED_RATE, options=self._options)
        self._stream.height, self._stream.width = pixels.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.sample_aspect_ratio = shape
        context.time_base = Fraction(1, TICKS)
        # Else the last frame lasts as long as the rate says, which here says nothing.
        context.flags |= av.codec.context.Flags.frame_duration
        # Said outright, because players take BT.709 for large pictures that say nothing.
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU601

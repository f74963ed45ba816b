"""Video files: probe, decode chosen frames, write. Of all modules only this one and stream.py import av."""

import contextlib
import os
import platform
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.clips.files import FULL, telling_full_disk
from pipeline.clips.needed_frames import needed_frames
from pipeline.clips.video_stream import SQUARE, video_stream

Frames = NDArray[np.uint8]

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"})

# Containers that hold frames themselves. Playlists and concat scripts, which can name other files, are absent.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,mpeg,mpegts,asf,flv,ogg,h264,hevc,mjpeg,m4v,ivf"

# Fixed rounding, so that processors with other vector units give the same pixels. Full chroma interpolation goes
# through swscale's exact conversion: without it every code comes out one or two too low, a sixth of a dark signal.
SCALER = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT

# Of x264, for the same bytes from the same frames. Threads change its decisions; so do its AVX-512 routines, which look
# at memory that nothing wrote. Those up to SSE4.2 and up to AVX2 agree, and take no longer at our sizes.
SAME_BYTES = {"threads": "1"}
if platform.machine().lower() in ("x86_64", "amd64"):  # others have no such routines, nor this name for them
    SAME_BYTES["x264-params"] = "asm=sse4.2"

COLOUR_RANGES = {"auto": None, "limited": ColorRange.MPEG, "full": ColorRange.JPEG}

# Formats whose first plane is 8-bit luma as it was coded.
LUMA_FIRST = ("yuv4", "yuvj4", "nv12", "nv21", "gray")

# Sources that swscale gives the same codes in planes as in packed pixels (a test compares), and gives them sooner:
# only planes have vector code for full chroma. Where it widens chroma by 4, or scales up by rows, it rounds otherwise.
PLANAR = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "yuv420p10le", "nv12"})

# Containers whose header tells every packet's time stamp, so that frames can be skipped.
INDEXED_SUFFIXES = frozenset({".mp4", ".m4v", ".mov"})
# Larger videos are decoded from their start: their packets are not all held in memory.
SKIPPING_BYTES = 64_000_000
# FFmpeg decodes some frames on opening, to guess what the header of these containers says.
QUICK_OPEN = {"probesize": "32"}


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a whole decode of a video found."""

    num_frames: int
    """Frames that decode, counted."""
    fps: float
    """Average frame rate in frames a second; 0 where the file does not say."""
    width: int
    """Pixels, after orientation."""
    height: int
    """Pixels, after orientation."""
    rotation: int
    """Counter-clockwise degrees that orient the coded picture: 0, 90, 180 or 270."""
    pix_fmt: str
    """FFmpeg's name of the pixel format."""
    colour_range: str
    """As tagged: limited, full or unspecified."""
    mean_luma: float
    """Mean luma code over all frames, 0 to 255."""
    dark_share: float
    """Share of luma codes below 16, 0 to 1. In limited range they all become black."""
    luma_crc32: int
    """crc32 of all luma planes: tells a changed decoder from a changed conversion to RGB."""
    rgb_mean: tuple[float, float, float]
    """Mean of R, G, B in [0, 1] over evenly spaced frames."""
    rgb_square_mean: tuple[float, float, float]
    """Mean of the squares of R, G, B over the same frames."""


def decode(
    path: Path,
    *,
    indices: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    colour_range: str = "auto",
    crop: tuple[int, int, int, int] | None = None,
    num_frames: int | None = None,
) -> Frames:
    """Decode frames of a video to RGB, oriented as a player shows them.

    Args:
        path: the video file.
        indices: positions in decoded order, 0-based, in any order, repeats allowed; None for all frames.
        size: (height, width) in pixels to scale the whole frame to; None for the coded size.
        colour_range: auto (as tagged), limited or full.
        crop: box (top, left, height, width) of the scaled frame to give; None for all of it.
        num_frames: frames that the whole video decodes to, as counted before. With it, frames that nobody needs are
            skipped where that is exact; it changes no pixel.

    Returns:
        uint8 (T, H, W, 3), T = len(indices).

    Raises:
        ValueError: the file is no video, is damaged, or ends before a wanted frame.
    """
    convert = FrameConverter(size=size, colour_range=colour_range, crop=crop)
    if indices is None:
        frames: list[Frames] = []
        for index, frame in enumerate(decoded_frames(path)):
            frames.append(convert(frame))
            if frames[-1].shape != frames[0].shape:
                raise _other_size(path, index, frames[-1].shape, frames[0].shape)
        if not frames:
            raise ValueError(f"{path}: no frame decodes; re-encode the video or leave it out of the list")
        return np.stack(frames)
    if num_frames is not None:
        kept = _Kept(path, indices, convert)
        # Whatever goes wrong on the short way, the whole decode below finds again and names, or does not meet.
        with contextlib.suppress(ValueError):
            _take_needed(path, kept, num_frames)
        if not kept.missing:
            return kept.frames()
    kept = _Kept(path, indices, convert)
    for index, frame in enumerate(decoded_frames(path)):
        kept.take(index, frame)
        if not kept.missing:
            return kept.frames()
    number = len(set(indices))
    raise ValueError(
        f"{path}: frame {min(kept.missing)} is wanted, but only {number - len(kept.missing)} of {number} wanted "
        "frames decode; the file changed since it was listed: run prepare again"
    )


def probe(path: Path, *, colour_range: str = "auto", rgb_frames: int = 8) -> VideoInfo:
    """Decode a whole video once and describe it.

    Args:
        path: the video file.
        colour_range: how RGB is made from it: auto, limited or full.
        rgb_frames: about how many frames the RGB means are taken over.

    Raises:
        ValueError: the file is no video, is damaged, or holds no frame.
    """
    convert = FrameConverter(size=None, colour_range=colour_range)
    luma_counts = np.zeros(256, dtype=np.int64)
    sums, squares, sampled = np.zeros(3), np.zeros(3), 0
    with open_video(path) as container:
        stream = video_stream(container)
        fps, declared = float(stream.average_rate or 0), stream.frames
    # The declared count only spaces the samples: it may be wrong or absent, the decode below counts.
    spacing = max(1, (declared or 64) // rgb_frames)
    index, frame, crc = -1, None, 0
    for index, frame in enumerate(decoded_frames(path)):
        luma = np.ascontiguousarray(luma_of(frame))
        luma_counts += np.bincount(luma.ravel(), minlength=256)
        crc = zlib.crc32(luma.data, crc)
        if index % spacing == 0:
            pixels = convert(frame).reshape(-1, 3).astype(np.float64) / 255.0
            sums += pixels.mean(axis=0)
            squares += np.square(pixels).mean(axis=0)
            sampled += 1
    if frame is None:
        raise ValueError(f"{path}: no frame decodes; re-encode the video or leave it out of the list")
    turned = _quarter_turns(frame) % 2 == 1
    codes = luma_counts.sum()
    return VideoInfo(
        num_frames=index + 1,
        fps=round(fps, 6),
        width=frame.height if turned else frame.width,
        height=frame.width if turned else frame.height,
        rotation=_quarter_turns(frame) * 90,
        pix_fmt=frame.format.name,
        colour_range={1: "limited", 2: "full"}.get(int(frame.color_range), "unspecified"),
        mean_luma=float((luma_counts * np.arange(256)).sum() / codes),
        dark_share=float(luma_counts[:16].sum() / codes),
        luma_crc32=crc,
        rgb_mean=_triple(sums / sampled),
        rgb_square_mean=_triple(squares / sampled),
    )


class FrameConverter:
    """Turn decoded frames into oriented RGB with one reused scaler (building one a frame costs more)."""

    def __init__(
        self, *, size: tuple[int, int] | None, colour_range: str, crop: tuple[int, int, int, int] | None = None
    ) -> None:
        if colour_range not in COLOUR_RANGES:
            raise ValueError(f"views.colour_range: unknown value '{colour_range}'; known are auto, limited, full")
        self._size = size
        self._range = COLOUR_RANGES[colour_range]
        top, left, height, width = crop or (0, 0, None, None)
        self._rows = slice(top, None if height is None else top + height)
        self._columns = slice(left, None if width is None else left + width)
        # One each for what it does: a change of formats would build it anew.
        self._scaler, self._packer = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: Any) -> Frames:
        """Scale one av.VideoFrame and cut the crop out; uint8 (H, W, 3)."""
        pixels = np.empty(self.shape(frame), np.uint8)
        self.into(pixels, frame)
        return pixels

    def shape(self, frame: Any) -> tuple[int, int, int]:
        """Of the pixels that a frame gives."""
        height, width = self._scaled_size(frame)
        return len(range(height)[self._rows]), len(range(width)[self._columns]), 3

    def into(self, pixels: Frames, frame: Any) -> None:
        """Write a frame's pixels into an array of their shape."""
        turns = _quarter_turns(frame)
        height, width = self._scaled_size(frame)
        # The scaler works on the coded picture, so a quarter turn swaps what it is asked for.
        coded = self._scaled(frame, *((width, height) if turns % 2 else (height, width)))
        shown = np.rot90(coded, turns) if turns else coded
        pixels[...] = shown[self._rows, self._columns]

    def _scaled_size(self, frame: Any) -> tuple[int, int]:
        if self._size is not None:
            return self._size
        turned = _quarter_turns(frame) % 2 == 1
        return (frame.width, frame.height) if turned else (frame.height, frame.width)

    def _scaled(self, frame: Any, height: int, width: int) -> Frames:
        """The coded picture, uint8 (height, width, 3)."""
        # A filter of at least 3 rows, or none: with 2, packed pixels are rounded otherwise.
        same = frame.height == height or 8 * frame.height >= 9 * height
        planar = same and frame.format.name in PLANAR
        scaled = self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format="gbrp" if planar else "rgb24",
            interpolation=SCALER,
            src_color_range=self._range,
            threads=1,
        )
        if planar:
            scaled = self._packer.reformat(scaled, format="rgb24", interpolation=SCALER, threads=1)
        return _plane(scaled.planes[0], height, 3 * width).reshape(height, width, 3)


class _Kept:
    """The wanted frames of a video as they come."""

    def __init__(self, path: Path, indices: Sequence[int], convert: FrameConverter) -> None:
        self.missing = set(indices)
        self._path = path
        self._indices = indices
        self._convert = convert
        self._places: dict[int, int] = {}
        for place, index in enumerate(indices):
            self._places.setdefault(index, place)
        self._frames: Frames | None = None

    def take(self, index: int, frame: Any) -> None:
        """Convert and keep a frame, if it is wanted."""
        if index not in self.missing:
            return
        if self._frames is None:
            self._frames = np.empty((len(self._indices), *self._convert.shape(frame)), np.uint8)
        place = self._frames[self._places[index]]
        if self._convert.shape(frame) != place.shape:
            raise _other_size(self._path, index, self._convert.shape(frame), place.shape)
        self._convert.into(place, frame)
        self.missing.remove(index)

    def frames(self) -> Frames:
        """All that is wanted, in order, once nothing is missing."""
        assert self._frames is not None, "no frame was wanted"
        for place, index in enumerate(self._indices):
            if self._places[index] != place:
                self._frames[place] = self._frames[self._places[index]]
        return self._frames


def even_sides(frames: Frames) -> Frames:
    """The frames, uint8 (..., H, W, 3), without an odd last row or column: H.264 shares colour between pixel pairs."""
    height, width = (side // 2 * 2 for side in frames.shape[-3:-1])
    return np.ascontiguousarray(frames[..., :height, :width, :])


def write_video(
    path: Path,
    frames: Frames,
    *,
    fps: int | Fraction,
    crf: int = 18,
    lossless: bool = False,
    pixel_shape: Fraction = SQUARE,
) -> None:
    """Write frames as H.264, whole or not at all. The same frames give the same bytes.

    Args:
        path: the file to write; its suffix names the container (.mp4, .mkv, .avi, .mov).
        frames: uint8 (T, H, W, 3), RGB. H and W even unless lossless.
        fps: frames a second.
        crf: x264's constant rate factor, 0 (best) to 51.
        lossless: keep every RGB code (libx264rgb, crf 0).
        pixel_shape: width over height of a pixel; of 1 nothing is said, which players take for it.

    Raises:
        ValueError: frames of another shape or type.
        OSError: the file cannot be written.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(f"{path}: frames are {frames.dtype} {frames.shape}, wanted uint8 (T, H, W, 3) with T > 0")
    if not lossless and (frames.shape[1] % 2 or frames.shape[2] % 2):
        raise ValueError(
            f"{path}: frames of {frames.shape[2]}x{frames.shape[1]} cannot be coded with subsampled "
            "colour; use an even width and height, or lossless"
        )
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with telling_full_disk(path, written=partial):
            _write_whole(partial, frames, Fraction(fps), pixel_shape, crf=0 if lossless else crf, lossless=lossless)
            os.replace(partial, path)
    except av.FFmpegError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}); check the folder") from error
    finally:
        partial.unlink(missing_ok=True)


def av_version() -> str:
    """Version of the decoder, which the pixels may depend on."""
    return str(av.__version__)


def _write_whole(path: Path, frames: Frames, fps: Fraction, pixel_shape: Fraction, *, crf: int, lossless: bool) -> None:
    try:
        # A path that begins like an address must not be taken for one.
        with av.open(f"file:{path}", "w") as container:
            _encode(container, frames, fps, pixel_shape, crf=crf, lossless=lossless)
        with path.open("rb") as written:
            os.fsync(written.fileno())
    except av.FFmpegError as error:
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, error.strerror) from error


def _encode(container: Any, frames: Frames, fps: Fraction, pixel_shape: Fraction, *, crf: int, lossless: bool) -> None:
    stream = container.add_stream(
        "libx264rgb" if lossless else "libx264", rate=fps, options={"crf": str(crf), **SAME_BYTES}
    )
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = "rgb24" if lossless else "yuv420p"
    if pixel_shape != SQUARE:
        stream.codec_context.sample_aspect_ratio = pixel_shape
    if not lossless:
        stream.codec_context.color_range = ColorRange.MPEG
    scaler = VideoReformatter()
    for index, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        if not lossless:
            frame = scaler.reformat(
                frame, format="yuv420p", interpolation=SCALER, dst_color_range=ColorRange.MPEG, threads=1
            )
        frame.pts = index
        frame.time_base = 1 / fps
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


@contextlib.contextmanager
def open_video(path: Path, quick: bool = False) -> Iterator[Any]:
    """Open a local file for reading, and map FFmpeg's errors to ones that name the file and the remedy.

    Args:
        path: of a local file; others are never opened by what it holds.
        quick: look no further than the header (see QUICK_OPEN).

    Raises:
        ValueError: no such file, empty, of no known container, without video, or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the videos' root and the list")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; fetch it again or leave it out of the list")
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS} | (QUICK_OPEN if quick else {})
    try:
        # Tags are not ours to read, and those of old cameras are no UTF-8.
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            if _video_stream(path, container) is None:
                cover = "a cover picture and " if container.streams.video else ""
                raise ValueError(f"{path}: holds {cover}no video stream; leave it out of the list")
            yield container
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{path}: cannot be decoded as a video ({reason}); fetch or re-encode it, or leave it out of the list"
        ) from error


def decoded_frames(path: Path) -> Iterator[Any]:
    """All frames of a file in the order they are shown, as PyAV gives them; damaged ones are errors.

    Raises:
        ValueError: as open_video, or a frame is damaged.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        set_up_decoder(stream)
        for frame in frames_of(container, stream):
            _refuse_damage(path, frame)
            yield frame


def frames_of(container: Any, stream: Any) -> Iterator[Any]:
    """All frames of an opened video as av gives them."""
    for packet in container.demux(stream):
        # A packet of nothing stands for a frame that the recorder dropped; decoders refuse it. The one without a time
        # is av's own, which makes them give what they hold back.
        if packet.size or packet.dts is None:
            yield from packet.decode()


def _take_needed(path: Path, kept: _Kept, num_frames: int) -> None:
    """Take the wanted frames and decode no more than they need, where that is exact."""
    if path.suffix.lower() not in INDEXED_SUFFIXES or not path.is_file() or path.stat().st_size > SKIPPING_BYTES:
        return
    with open_video(path, quick=True) as container:
        set_up_decoder(video_stream(container))
        for index, frame in needed_frames(container, sorted(kept.missing), num_frames):
            _refuse_damage(path, frame)
            kept.take(index, frame)


def _video_stream(path: Path, container: Any) -> Any:
    try:
        return video_stream(container)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def set_up_decoder(stream: Any) -> None:
    """Let a file's video stream decode in this thread, and tell damage instead of painting it over."""
    # Frame threads beside torch can hang, and at these sizes they only cost.
    stream.thread_type = "SLICE"
    codec = stream.codec_context
    codec.thread_count = 1
    codec.options = {**codec.options, "err_detect": "crccheck+explode"}


def _other_size(path: Path, index: int, found: Sequence[int], wanted: Sequence[int]) -> ValueError:
    return ValueError(
        f"{path}: frame {index} is {found[1]}x{found[0]}, those before are {wanted[1]}x{wanted[0]}; re-encode the "
        "video to one size, or ask for a size to scale to"
    )


def _refuse_damage(path: Path, frame: Any) -> None:
    if frame.is_corrupt:
        raise ValueError(f"{path}: a frame is damaged; fetch or re-encode the video, or leave it out")


def _quarter_turns(frame: Any) -> int:
    turns: int = round(frame.rotation / 90) % 4
    return turns


def luma_of(frame: Any) -> Frames:
    """The luma codes of a frame as coded, uint8 (H, W)."""
    name = frame.format.name
    if not name.startswith(LUMA_FIRST) or frame.format.components[0].bits != 8:
        frame = frame.reformat(format="yuv444p", interpolation=SCALER, threads=1)
    return _plane(frame.planes[0], frame.height, frame.width)


def _plane(plane: Any, height: int, width: int) -> Frames:
    """A plane of bytes without the padding of its rows, uint8 (height, width)."""
    return np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[:height, :width]


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue

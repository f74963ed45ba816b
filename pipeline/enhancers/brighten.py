"""Brighten whole videos, and show on one sheet what each enhancer does to them and how long it takes."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from pipeline.clips.files import replacing
from pipeline.clips.stream import read_frames, write_stream
from pipeline.clips.video import FrameConverter, Frames, decode, even_sides, probe
from pipeline.clips.video_files import find_videos
from pipeline.enhancers.enhanced_frames import enhance_pixels


def brighten_videos(
    source: Path,
    out: Path,
    enhancer: nn.Module,
    *,
    device: torch.device,
    colour_range: str = "auto",
    crf: int = 18,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Enhance one video, or every video below a folder, at the size and frame rate that it has.

    Files that are there already are replaced, each in one step. Every frame keeps its time and pixels their shape,
    sound is left out. An odd last row or column is cut, because H.264 shares colour between pixel pairs. One frame at a
    time is decoded, enhanced and coded, so memory does not grow with a video's length.

    Args:
        source: a video, or a folder that is searched to any depth.
        out: the folder to write, outside source; paths below it are those below source with the suffix .mp4. For one
            video a name that ends in .mp4 is the file itself.
        enhancer: float32 (1, 3, H, W) in [0, 1] -> the same; moved to the device.
        device: where to enhance.
        colour_range: how RGB is made from the videos: auto (as tagged), limited or full.
        crf: x264's constant rate factor, 0 to 51.
        progress: called with (videos done, videos in all) after each video.

    Returns:
        The written files, sorted.

    Raises:
        ValueError: source and out do not fit, or videos do not decode (raised after all others are done).
        OSError: a file cannot be written.
    """
    targets = _plan(source, out)
    enhancer.to(device)
    broken = []
    for done, (target, video) in enumerate(targets.items(), start=1):
        try:
            _brighten(video, target, enhancer, device=device, colour_range=colour_range, crf=crf)
        except ValueError as error:
            broken.append(str(error))
        if progress is not None:
            progress(done, len(targets))
    if broken:
        raise ValueError(
            f"{source}: {len(broken)} of {len(targets)} videos do not decode, the others are bright in {out}:\n"
            + "\n".join(broken)
        )
    return list(targets)


def contact_sheet(
    source: Path,
    out: Path,
    enhancers: Mapping[str, nn.Module],
    *,
    device: torch.device,
    frames: int = 4,
    repeats: int = 5,
) -> dict[str, float]:
    """Draw frames as they are and as each enhancer gives them, a row each, with its name and time.

    Args:
        source: a video, or a folder that is searched to any depth; the first videos by path are shown.
        out: the PNG to write; its name ends so.
        enhancers: by the name that is written on the row; each float32 (1, 3, H, W) in [0, 1] -> the same.
        device: where to enhance; the enhancers are moved there.
        frames: how many frames a row, at least 1; they come evenly spaced from that many videos, or from all there
            are.
        repeats: how often each row is timed, at least 1, after one pass that is not.

    Returns:
        Milliseconds a frame by name, with the way to the device and back: the median over the repeats.

    Raises:
        ValueError: a number below 1, another name than a PNG's, no video, or one that does not decode.
        OSError: the picture cannot be written.
    """
    for name, value in (("frames", frames), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"{name}: found {value}, wanted at least 1")
    if out.suffix.lower() != ".png" or out.is_dir():
        raise ValueError(f"{out}: the sheet is a PNG; wanted a file's name that ends in .png")
    dark = _spread_frames(find_videos(source)[:frames], frames)
    rows, milliseconds = {"as filmed": dark}, {}
    for name, enhancer in enhancers.items():
        enhancer.to(device)
        bright, elapsed = _timed(enhancer, dark, device=device, repeats=repeats)
        milliseconds[name] = elapsed
        rows[f"{name}, {elapsed:.1f} ms a frame"] = bright
    _draw(out, rows)
    return milliseconds


def _plan(source: Path, out: Path) -> dict[Path, Path]:
    """Each file to write and its video, sorted by file."""
    videos = find_videos(source)
    if source.is_file():
        targets = {out if out.suffix.lower() == ".mp4" else out / f"{source.stem}.mp4": source}
    else:
        if out.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"{out}: lies inside {source}, so it would be brightened again; write to a folder outside")
        targets = {}
        for video in videos:
            target = out / video.relative_to(source).with_suffix(".mp4")
            if target in targets:
                raise ValueError(f"{video}: would be written as {target}, as {targets[target]} is; rename one of them")
            targets[target] = video
    originals = {video.resolve() for video in videos}
    for target in targets:
        if target.resolve() in originals:
            raise ValueError(f"{target}: is one of the videos to brighten; write to another folder")
    return dict(sorted(targets.items()))


def _brighten(
    video: Path, target: Path, enhancer: nn.Module, *, device: torch.device, colour_range: str, crf: int
) -> None:
    convert = FrameConverter(size=None, colour_range=colour_range)
    with write_stream(target, crf=crf) as add:
        for frame in read_frames(video):
            dark = convert(frame.picture)
            bright = enhance_pixels(enhancer, even_sides(dark[None]), device=device)[0]
            add(bright, frame.time, frame.lasts, frame.pixel_shape)


def _spread_frames(videos: Sequence[Path], count: int) -> list[Frames]:
    """Frames, uint8 (1, H, W, 3) each, from the middles of equal parts of the videos."""
    chosen = []
    for position, video in enumerate(videos):
        share = count // len(videos) + (position < count % len(videos))
        length = probe(video).num_frames
        indices = [(2 * part + 1) * length // (2 * share) for part in range(share)]
        chosen += [frame[None] for frame in decode(video, indices=indices)]
    return chosen


def _timed(
    enhancer: nn.Module, dark: Sequence[Frames], *, device: torch.device, repeats: int
) -> tuple[list[Frames], float]:
    # The first pass pays for memory and kernels. Frames come back to the CPU, which waits for the device.
    bright = [enhance_pixels(enhancer, frame, device=device) for frame in dark]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for frame in dark:
            enhance_pixels(enhancer, frame, device=device)
        seconds.append(time.perf_counter() - start)
    return bright, 1000 * statistics.median(seconds) / len(dark)


def _draw(out: Path, rows: Mapping[str, Sequence[Frames]]) -> None:
    columns = max(len(row) for row in rows.values())
    figure = Figure(figsize=(2.6 * columns, 2.3 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (title, row) in zip(axes, rows.items(), strict=True):
        line[0].set_title(title, loc="left", fontsize=9)
        for axis, frame in zip(line, row, strict=True):
            axis.imshow(frame[0])
            axis.set_axis_off()
    with replacing(out) as partial:
        figure.savefig(partial, format="png", dpi=100)

"""How near reading comes to the limits: the bare codec, other readers, the page cache, and no waiting at all.

python benchmarks/reading.py --out reading.json [--small] [--device cuda] [--part codec] [--arid FOLDER]

On one core, of 320x240 videos that are made here: 64 of 96 frames, resized to 128x170. Bare codec time is that of
decoding up to the last wanted frame and dropping the pixels. Others give the same size, bilinear: decord resizes
itself; torchcodec by its transform and, what turned out quicker, by torch afterwards. Neither gives the same codes:
both let swscale convert in its quick way, one or two codes too low.
"""

import dataclasses
import functools
import itertools
import os
import statistics
import tempfile
import time
import zlib
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np
import torch
from side_by_side import in_turn, print_ratio, ratio, write_report
from torch.nn import functional

from pipeline.clips import video
from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import Batches, DrawnViews, ViewDataset
from pipeline.clips.frame_cache import CachePolicy, DecodedFrames, open_dark_frames
from pipeline.clips.video import decode
from pipeline.clips.views import ViewRule, pixel_crc32

FRAMES, WANTED, SIZE, SIDE = 96, 64, (128, 170), 112
BATCH, WORKERS = 8, 2
PARTS = ("codec", "cache", "waiting", "growth")
VIEWS = {
    "spread": tuple(int((i + 0.5) * FRAMES / WANTED) for i in range(WANTED)),
    "consecutive": tuple(range((FRAMES - WANTED) // 2, (FRAMES + WANTED) // 2)),
}
RULE = ViewRule(
    frames=WANTED,
    sampling="consecutive",
    stride=1,
    jitter=0.0,
    loop=True,
    frame_size=SIZE,
    size=SIDE,
    scales=(SIDE / SIZE[0],),
    positions="random",
    flip=True,
    seed=0,
)


VIDEOS = {
    "quiet H.264": ("libx264", {"crf": "23"}, 2.6, VIEWS),
    "quiet MPEG-4": ("mpeg4", {"b": "2000k"}, 2.6, VIEWS),
    "noisy H.264": ("libx264", {"b": "2100k"}, 6.0, ("consecutive",)),
    "noisy MPEG-4": ("mpeg4", {"b": "2100k"}, 6.0, ("consecutive",)),
}
"""Codec, options, noise in codes, views. The quiet ones cost few bits and little decoding, so that converting weighs
most; the noisy ones have the bit rate of ARID's files, 2.1 Mbit/s."""


def make_videos(folder):
    """A dark moving picture with noise, coded in several ways; files by name."""
    rows, columns = np.mgrid[0:240, 0:320]
    wall = np.random.default_rng(0).integers(0, 20, (31, 48, 3)).repeat(8, axis=0).repeat(8, axis=1).astype(np.float64)
    paths = {}
    for name, (codec, options, noise, _) in VIDEOS.items():
        rng = np.random.default_rng(1)
        paths[name] = folder / f"{name.replace(' ', '-')}.mp4"
        with av.open(str(paths[name]), "w") as container:
            stream = container.add_stream(codec, rate=30, options={"threads": "1", **options})
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for number in range(FRAMES):
                lamp = 60 * np.exp(-(np.square(columns - 160 - 100 * np.sin(number / 10)) + (rows - 120) ** 2) / 800)
                picture = wall[:240, number % 32 : number % 32 + 320] + lamp[..., None]
                picture += rng.normal(0, noise, (240, 320, 1))
                frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return paths


def bare_codec(path, indices):
    """Decode up to the last wanted frame; no pixel is converted."""
    last = max(indices)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        for index, _ in enumerate(container.decode(stream)):
            if index == last:
                return


def our_reader(path, indices, count=FRAMES):
    """As stages read."""
    return decode(path, indices=indices, size=SIZE, num_frames=count)


def peers():
    """Other readers by name; those that cannot be imported are left out, and it is said."""
    found = {}
    try:
        import decord

        def by_decord(path, indices):
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), width=SIZE[1], height=SIZE[0], num_threads=1)
            return reader.get_batch(list(indices)).asnumpy()

        found["decord"] = by_decord
    except (ImportError, OSError, RuntimeError) as error:
        click.echo(f"decord: left out, cannot be imported ({error})")
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize

        def by_transform(path, indices):
            decoder = VideoDecoder(
                str(path), num_ffmpeg_threads=1, dimension_order="NHWC", transforms=[Resize(size=SIZE)]
            )
            return decoder.get_frames_at(list(indices)).data

        def by_torch(path, indices):
            frames = VideoDecoder(str(path), num_ffmpeg_threads=1).get_frames_at(list(indices)).data
            small = functional.interpolate(frames, size=SIZE, mode="bilinear", antialias=True)
            return small.permute(0, 2, 3, 1).contiguous()  # (T, C, H, W) -> (T, H, W, C)

        found |= {"torchcodec, resized by its transform": by_transform, "torchcodec, resized by torch": by_torch}
    except (ImportError, OSError, RuntimeError) as error:
        click.echo(f"torchcodec: left out, cannot be imported ({str(error).splitlines()[0]})")
    return found


def with_setting(name, value):
    """Our reader with a constant of its module changed."""

    def read(path, indices):
        kept = getattr(video, name)
        setattr(video, name, value)
        try:
            return our_reader(path, indices)
        finally:
            setattr(video, name, kept)

    return read


def converted(path, indices, convert):
    """Decode all, convert the wanted frames in another way, and stack them."""
    wanted, frames = set(indices), []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        scaler = av.video.reformatter.VideoReformatter()
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                frames.append(convert(scaler, frame))
            if index == max(indices):
                break
    return np.stack(frames)


def full_size_then_torch(path, indices):
    """Swscale's quick conversion at full size, resized by torch."""
    full = converted(path, indices, lambda scaler, frame: scaler.reformat(frame, format="rgb24").to_ndarray())
    return functional.interpolate(
        torch.from_numpy(full).permute(0, 3, 1, 2), size=SIZE, mode="bilinear", antialias=True
    )


def scaled_yuv_then_torch(path, indices):
    """Planes scaled as YUV, colour by a matrix in torch."""

    def scale(scaler, frame):
        small = scaler.reformat(
            frame, width=SIZE[1], height=SIZE[0], format="yuv444p", interpolation=video.SCALER, threads=1
        )
        return small.to_ndarray()

    planes = torch.from_numpy(converted(path, indices, scale)).float() - torch.tensor([16.0, 128, 128]).view(3, 1, 1)
    matrix = torch.tensor([[1.1644, 0, 1.596], [1.1644, -0.3918, -0.813], [1.1644, 2.0172, 0]])
    return torch.einsum("ij,tjhw->thwi", matrix, planes).round_().clamp_(0, 255).byte()


def a_scaler_a_frame(path, indices):
    """What a simple reader does."""

    def convert(_, frame):
        return frame.to_ndarray(format="rgb24", width=SIZE[1], height=SIZE[0], interpolation=video.SCALER)

    return converted(path, indices, convert)


LOST = {
    "packed pixels instead of planes": (with_setting("PLANAR", frozenset()), True),
    "no frame skipped": (functools.partial(our_reader, count=None), True),
    "FFmpeg's way of opening": (with_setting("QUICK_OPEN", {}), True),
    "a scaler a frame": (a_scaler_a_frame, True),
    "full size, resized by torch": (full_size_then_torch, False),
    "scaled as YUV, colour by torch": (scaled_yuv_then_torch, False),
}
"""Other ways that were tried, and whether they give the same pixels."""


def measure_codec(paths, arid, rounds):
    """Our reader against the codec and others; seconds by video and name."""
    others, seconds = peers(), {}
    sets = {f"{name}, {kind}": [(paths[name], VIEWS[kind])] for name in VIDEOS for kind in VIDEOS[name][-1]}
    sets |= {f"ARID, {name}": clips for name, clips in real_clips(arid).items()}
    for title, clips in sets.items():
        readers = {"bare codec": bare_codec, "reader": our_reader, **others}
        if title.startswith("ARID"):
            readers["reader"] = lambda path, indices: our_reader(path, indices, count=counted(path))
        found = in_turn(
            {name: functools.partial(read_all, read, clips) for name, read in readers.items()}, rounds=rounds
        )
        seconds[title] = {name: statistics.median(values) for name, values in found.items()}
        show_codec(title, found, len(clips))
    for title, path in itertools.islice(paths.items(), 2):
        # What runs after the dearest is slower; so that it is not the reader, one runs before it that is not shown.
        ways = {"": our_reader, "reader": our_reader} | {name: way for name, (way, _) in LOST.items()}
        run = {name: functools.partial(way, path, VIEWS["spread"]) for name, way in ways.items()}
        found = in_turn(run, rounds=rounds)
        for name, (_, same) in LOST.items():
            pixels = "same pixels" if same else "other pixels"
            print_ratio(f"{title}: {name} ({pixels}) / reader", ratio(found[name], found["reader"]))
    return seconds


def show_codec(title, found, clips):
    """The ratios of one kind of clip."""
    bare, ours = found["bare codec"], found["reader"]
    times = ", ".join(f"{name} {statistics.median(values) / clips * 1e3:.1f}" for name, values in found.items())
    click.echo(f"{title}, ms a clip: {times}")
    print_ratio(f"{title}: reader / bare codec", ratio(ours, bare), wanted="at most 1.5")
    for name, values in found.items():
        if name not in ("bare codec", "reader"):
            wanted = "below 1" if name == "decord" else "at most 1.1"
            print_ratio(f"{title}: reader / {name}", ratio(ours, values), wanted=wanted)


def read_all(read, clips):
    """Read one view of each clip."""
    for path, indices in clips:
        read(path, indices)


@functools.cache
def counted(path):
    """Frames of a video."""
    return video.probe(path).num_frames


def real_clips(arid):
    """Views of 64 frames, or two thirds where there are fewer, of clips of ARID, as filmed and as scaled down."""
    if arid is None:
        return {}
    kinds = {
        "320x240": sorted((arid / "originals").rglob("*.mp4")),
        "170x128": sorted((arid / "videos").rglob("*.mp4")),
    }
    clips = {}
    for name, paths in kinds.items():
        for path in paths[:: max(1, len(paths) // 6)][:6]:
            length = min(WANTED, counted(path) * 2 // 3)
            start = (counted(path) - length) // 2
            clips.setdefault(name, []).append((path, tuple(range(start, start + length))))
    return clips


def listed(paths, count, frames=FRAMES):
    """Rows of a clip index: the given videos by turns, each row with a content of its own."""
    empty = {field.name: 0 for field in dataclasses.fields(Clip)}
    return [
        Clip(**empty | {"id": paths[number % len(paths)], "num_frames": frames, "sha256": f"{number:064x}"})
        for number in range(count)
    ]


def views_of(clips, source, rule=RULE):
    """The clips as training sees them."""
    return ViewDataset(
        clips, source=source, view_of=DrawnViews(rule=rule, mode="consistent", num_views=None), size=SIDE
    )


def epoch_of(dataset, number=0):
    """See every clip once, in this process."""
    for index in range(len(dataset)):
        dataset[(number, index)]


def forget(folder):
    """Take a folder's files out of the page cache, by posix_fadvise(DONTNEED)."""
    for path in folder.rglob("*.npy"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read_file(path, offset, shape, indices, crop):
    """The crop of some frames out of a file that may hold more clips."""
    stored = np.memmap(path, np.uint8, "r", offset=offset, shape=shape)
    return np.array(stored[indices, crop[0] : crop[0] + crop[2], crop[1] : crop[1] + crop[3]])


def measure_cache(paths, folder, count, rounds):
    """An epoch that decodes against one from the cache; what checking all pixels and single files cost."""
    clips = listed([path.name for path in paths.values()], count)
    root = next(iter(paths.values())).parent
    decoded = DecodedFrames(videos=root, frame_size=SIZE, colour_range="auto")
    cached = open_dark_frames(
        clips, root, frame_size=SIZE, colour_range="auto",
        cache=CachePolicy(folder=folder / "cache", mode="on", limit_bytes=0),
    )  # fmt: skip
    fill = -time.perf_counter()
    for clip in clips:
        cached.fill(clip)
    fill += time.perf_counter()
    views = {"decoding": views_of(clips, decoded), "warm": views_of(clips, cached)}

    def cold():
        forget(folder)
        started = time.perf_counter()
        epoch_of(views["warm"])
        colds.append(time.perf_counter() - started)

    colds = []
    shape, pixels = (FRAMES, *SIZE, 3), FRAMES * SIZE[0] * SIZE[1] * 3
    crop, middle = (8, 29, SIDE, SIDE), slice(16, 16 + WANTED)
    files = [cached.fill(clip) for clip in clips]
    together = folder / "together.bin"
    with together.open("wb") as one:
        for path in files:
            one.write(path.read_bytes()[-pixels:])
    seen = views["warm"][(0, 0)].pixels.numpy()
    found = in_turn(
        {
            "decoding": lambda: epoch_of(views["decoding"]),
            "cold": cold,
            "warm": lambda: epoch_of(views["warm"]),
            "one file": lambda: [read_file(together, pixels * i, shape, middle, crop) for i in range(count)],
            "many files": lambda: [read_file(path, 128, shape, middle, crop) for path in files],
            "crc32 of a clip": lambda: [zlib.crc32(path.read_bytes()) for path in files],
            "crc32 of a view": lambda: [pixel_crc32(seen) for _ in files],
        },
        rounds=rounds,
    )
    found["cold"] = colds[1:]
    click.echo(
        f"cache, ms a clip: filled {fill / count * 1e3:.1f}, "
        + ", ".join(f"{name} {statistics.median(values) / count * 1e3:.2f}" for name, values in found.items())
    )
    print_ratio("an epoch decoded / from the warm cache", ratio(found["decoding"], found["warm"]), wanted="at least 5")
    print_ratio("an epoch decoded / from the cold cache", ratio(found["decoding"], found["cold"]))
    print_ratio("a view of many files / of one file, warm", ratio(found["many files"], found["one file"]))
    print_ratio("crc32 of a clip / reading a view, warm", ratio(found["crc32 of a clip"], found["warm"]))
    print_ratio("crc32 of a view / reading it, warm", ratio(found["crc32 of a view"], found["warm"]))
    return {name: statistics.median(values) / count for name, values in found.items()} | {"fill": fill / count}


def waiting(source, clips, step_sec, epochs, device):
    """Seconds waited and seconds in all, one of each an epoch; the first batch of an epoch is not counted."""
    batches = Batches(views_of(clips, source), batch_size=BATCH, seed=0, workers=WORKERS)
    waited, total = [], []
    for epoch in range(epochs + 1):
        batch_of = batches.of_epoch(epoch)
        next(batch_of)
        spent, started = 0.0, time.perf_counter()
        time.sleep(step_sec)
        while True:
            asked = time.perf_counter()
            batch = next(batch_of, None)
            spent += time.perf_counter() - asked
            if batch is None:
                break
            batch.to(device)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            time.sleep(step_sec)  # stands for a device that computes
        if epoch:
            waited.append(spent)
            total.append(time.perf_counter() - started)
    return waited, total


def measure_waiting(paths, folder, batches, epochs, device):
    """Share of the time that a step waits for its batch, from the warm cache and while decoding."""
    root = next(iter(paths.values())).parent
    cores = len(os.sched_getaffinity(0))
    shares = {}
    for name, path in paths.items():
        clips = listed([path.name], batches * BATCH)
        decoded = DecodedFrames(videos=root, frame_size=SIZE, colour_range="auto")
        cache = CachePolicy(folder=folder / f"waiting-{path.stem}", mode="on", limit_bytes=0)
        cached = open_dark_frames(clips, root, frame_size=SIZE, colour_range="auto", cache=cache)
        for clip in clips:
            cached.fill(clip)
        for kind, source, step_sec in (("warm cache", cached, 0.06), ("decoding", decoded, 0.2)):
            waited, total = waiting(source, clips, step_sec, epochs, device)
            shares[f"{name}, {kind}"] = [spent / all_of_it for spent, all_of_it in zip(waited, total, strict=True)]
            title = f"{name}: share of waiting, {kind}, {1e3 * step_sec:.0f} ms a step"
            print_ratio(title, ratio(waited, total), wanted="at most 0.05")
        codec = statistics.median(in_turn({"": lambda path=path: bare_codec(path, VIEWS["consecutive"])})[""])
        at_best = BATCH * codec / min(WORKERS, cores)
        click.echo(
            f"  {name}: {BATCH} clips x {codec * 1e3:.1f} ms of bare codec / {min(WORKERS, cores)} cores for "
            f"{WORKERS} workers = {at_best * 1e3:.0f} ms a batch at best; 200 ms a step are "
            f"{'enough' if at_best < 0.2 else 'too few'}"
        )
    return shares


def resident_bytes():
    """Resident memory of this process that is its own: pages of mapped files belong to the page cache."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise ValueError("/proc/self/status: found no RssAnon, wanted Linux; run with --part for the other parts")


def measure_growth(folder, counts, rounds):
    """An epoch's seconds a clip, and what the process keeps, by number of clips, from a warm cache of tiny frames."""
    frames, size = 8, (16, 16)
    rule = dataclasses.replace(RULE, frames=frames, frame_size=size, size=16, scales=(1.0,))
    pixels = np.zeros((frames, *size, 3), np.uint8)
    cache = CachePolicy(folder=folder / "growth", mode="on", limit_bytes=0)
    datasets, kept = {}, {}
    for count in counts:
        clips = listed(["none.mp4"], count, frames)
        source = open_dark_frames(clips, folder, frame_size=size, colour_range="auto", cache=cache)
        source.folder.mkdir(exist_ok=True)
        for clip in clips:
            np.save(source.folder / f"{clip.sha256}.npy", pixels)
        datasets[count] = views_of(clips, source, rule)
        before = resident_bytes()
        epoch_of(datasets[count])
        kept[count] = resident_bytes() - before
    found = in_turn({str(count): functools.partial(epoch_of, each) for count, each in datasets.items()}, rounds=rounds)
    each = {count: [seconds / count for seconds in found[str(count)]] for count in counts}
    for count in counts:
        click.echo(
            f"  {count:6} clips: {statistics.median(each[count]) * 1e6:6.0f} us a clip, "
            f"{kept[count] / count:6.0f} bytes a clip kept after an epoch"
        )
    print_ratio(
        f"us a clip at {counts[-1]} / at {counts[0]} clips", ratio(each[counts[-1]], each[counts[0]]), wanted="1"
    )
    return {str(count): {"sec_a_clip": statistics.median(each[count]), "kept_bytes": kept[count]} for count in counts}


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON to write.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where videos and caches are made.")
@click.option("--small", is_flag=True, help="Fewer clips and rounds.")
@click.option("--device", default="cpu", show_default=True, help="Where batches go: cpu or cuda.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Only these; all unless given.")
@click.option("--arid", type=click.Path(exists=True, path_type=Path), envvar="DLKDD_ARID6", help="Real clips.")
def main(out, folder, small, device, parts, arid):
    """Measure reading and print every ratio."""
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0)
    rounds = 7 if small else 15
    report = {"small": small, "frames": FRAMES, "wanted": WANTED, "size": SIZE}
    with tempfile.TemporaryDirectory(dir=folder, prefix="reading-") as made:
        paths = make_videos(Path(made))
        # One core, so that no reader gains by threads.
        os.sched_setaffinity(0, {min(cores)})
        if not parts or "codec" in parts:
            report["codec_sec"] = measure_codec(paths, arid, rounds)
        if not parts or "cache" in parts:
            report["cache_sec_a_clip"] = measure_cache(paths, Path(made), 8 if small else 24, rounds)
        if not parts or "growth" in parts:
            report["growth"] = measure_growth(Path(made), (10, 100) if small else (100, 1000, 10_000), 7)
        os.sched_setaffinity(0, cores)
        if not parts or "waiting" in parts:
            report["waiting"] = measure_waiting(paths, Path(made), 3 if small else 8, 6, torch.device(device))
    write_report(out, report)


if __name__ == "__main__":
    main()

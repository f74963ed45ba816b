"""What a logit store costs at scale: writing, publishing, checking, reading, memory and bytes a row.

python benchmarks/store.py --out store.json [--folder FOLDER] [--small]

Every phase runs in a process of its own, so that its peak memory is its own.
"""

import multiprocessing
import random
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np
from side_by_side import print_ratio, ratio, write_report

from pipeline.distillation.logit_store import Block, ClipTable, LogitStore, StoreSpec, block_ranges, verify
from pipeline.distillation.logit_store_writer import ShardWriter, publish

FRAMES = 16
FEW = (1_000, 1, 400)  # clips, views, classes
FULL = {"many clips": (1_000_000, 1, 400), "many views": (4_000, 100, 11)}
SMALL = {"many clips": (10_000, 1, 400), "many views": (400, 20, 11)}
SHOWN = ("write_rows_per_sec", "write_mb_per_sec", "publish_sec", "verify_sec", "load_mb_per_sec", "random_row_usec")


def make_spec(clips, views, classes):
    """Clips with ids as data sets have them, about 30 bytes, and their labels in equal shares."""
    labels = np.arange(clips, dtype=np.int64) * classes // clips
    return StoreSpec(
        class_names=tuple(f"class {number}" for number in range(classes)),
        clips=ClipTable(
            ids=tuple(f"class_{label:03}/video_{number:07}.mp4" for number, label in enumerate(labels.tolist())),
            labels=labels.astype(np.int32),
            num_frames=np.full(clips, 300, np.int32),
            sha256=tuple(f"{number:064x}" for number in range(clips)),
        ),
        num_views=views,
        frames_per_view=FRAMES,
        fingerprint={"teacher_sha256": "0" * 64},
        provenance={},
    )


def make_block(rows, classes):
    """Rows of noise; what they hold costs nothing to write or read."""
    rng = np.random.default_rng(0)
    return Block(
        logits=rng.standard_normal((rows, classes), dtype=np.float32),
        frame_indices=np.sort(rng.integers(0, 300, (rows, FRAMES)), axis=1).astype(np.int32),
        crop=rng.integers(1, 100, (rows, 4)).astype(np.int32),
        flip=rng.random(rows) < 0.5,
        pixel_crc32=rng.integers(0, 2**32, rows, dtype=np.uint32),
    )


def write(folder, size, block_rows):
    """Rows into a shard, block by block; the time of making them up is left out."""
    spec, block = make_spec(*size), make_block(block_rows, size[2])
    seconds = -time.perf_counter()
    with ShardWriter(folder / "shard.h5", spec, block_rows) as shard:
        for span in block_ranges(spec, block_rows):
            if span.number not in shard.done:
                shard.write(span.number, block.part(0, span.stop - span.start))
    seconds += time.perf_counter()
    row_bytes = 4 * (size[2] + FRAMES + 6) + 1
    return {
        "write_sec": seconds,
        "write_rows_per_sec": spec.num_rows / seconds,
        "write_mb_per_sec": spec.num_rows * row_bytes / seconds / 1e6,
    }


def publish_shard(folder, size, block_rows):
    """The shard into the store, which includes one `verify`."""
    spec = make_spec(*size)
    seconds = -time.perf_counter()
    summary = publish(folder / "logits.h5", spec, [folder / "shard.h5"], minimum_top1=0)
    seconds += time.perf_counter()
    beyond = summary.bytes - 4 * spec.num_rows * size[2]
    bound = spec.num_rows * (64 + 4 * FRAMES) + 320 * size[0]
    return {
        "publish_sec": seconds,
        "bytes": summary.bytes,
        "bytes_a_row_beyond_logits": beyond / spec.num_rows,
        "bound_a_row": bound / spec.num_rows,
    }


def check(folder, size, block_rows):
    """All that `verify` checks."""
    seconds = -time.perf_counter()
    problems = verify(folder / "logits.h5")
    seconds += time.perf_counter()
    if problems:
        raise ValueError(f"{folder}: what was just published does not verify: {'; '.join(problems)}; check the disk")
    return {"verify_sec": seconds}


def load(folder, size, block_rows):
    """The whole file: layout, content hash and finite values checked, all rows taken into memory."""
    path = folder / "logits.h5"
    seconds = -time.perf_counter()
    LogitStore.open(path, memory_limit_bytes=2**62)
    seconds += time.perf_counter()
    return {"load_sec": seconds, "load_mb_per_sec": path.stat().st_size / seconds / 1e6}


def read_lazily(folder, size, block_rows):
    """Single rows of a store that was opened, but not taken into memory."""
    seconds = -time.perf_counter()
    store = LogitStore.open(folder / "logits.h5", memory_limit_bytes=0)
    seconds += time.perf_counter()
    times = [random_rows(store, random.Random(seed), 500) for seed in range(6)]
    return {"open_sec": seconds, "random_row_usec": statistics.median(times[1:])}


def random_rows(store, rng, count):
    """Mean time of one random row, in microseconds."""
    wanted = [(clip, rng.randrange(store.num_views)) for clip in rng.choices(store.clip_ids, k=count)]
    seconds = -time.perf_counter()
    for clip, view in wanted:
        store.row(clip, view)
    return (seconds + time.perf_counter()) / count * 1e6


def compare(few, many, rounds):
    """Random rows of both stores in turn, the files in the page cache, the chunk cache off.

    Returns:
        Medians in microseconds, and the ratio; see side_by_side.ratio.
    """
    stores = [LogitStore.open(path, memory_limit_bytes=0) for path in (few, many)]
    times = [[random_rows(store, random.Random(number), 400) for store in stores] for number in range(rounds + 1)][1:]
    short, long = zip(*times, strict=True)
    return {
        "clips": [len(store.clip_ids) for store in stores],
        "random_row_usec": [statistics.median(short), statistics.median(long)],
        **ratio(long, short),
    }


def alone(function, *arguments):
    """Run in a new process; its figures and its peak resident memory in MB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def _with_peak(function, arguments):
    figures = function(*arguments)
    return figures, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(folder, size, block_rows):
    """All phases of one store, which stays; its shard does not."""
    folder.mkdir()
    figures = {"clips": size[0], "views": size[1], "classes": size[2], "frames": FRAMES, "peak_mb": {}}
    for phase in (write, publish_shard, check, load, read_lazily):
        found, figures["peak_mb"][phase.__name__] = alone(phase, folder, size, block_rows)
        figures |= found
    (folder / "shard.h5").unlink()
    return figures


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON to write.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Where the stores are built.")
@click.option("--small", is_flag=True, help="Small stores, in seconds.")
@click.option("--block-rows", type=click.IntRange(1), default=64, show_default=True, help="Rows written at once.")
@click.option("--rounds", type=click.IntRange(6), default=25, show_default=True, help="Rounds of the comparison.")
def main(out, folder, small, block_rows, rounds):
    """Write, publish, verify and read stores of many clips and of many views; print and save the figures."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="store-") as made:
        root, stores = Path(made), {}
        for name, size in {"few clips": FEW, **(SMALL if small else FULL)}.items():
            stores[name] = measure(root / name, size, block_rows)
            show(name, stores[name])
        paths = [root / name / "logits.h5" for name in ("few clips", "many clips")]
        both, peak = alone(compare, *paths, rounds)
    many, few = both["clips"][1], both["clips"][0]
    print_ratio(f"random row of {many:,} clips / of {few:,}", both, wanted="at most 1.5")
    report = {"small": small, "block_rows": block_rows, "stores": stores, "compared": both, "compared_peak_mb": peak}
    write_report(out, report)


def show(name, figures):
    """One store's figures."""
    size = f"{figures['clips']:,} clips x {figures['views']} views x {figures['classes']} classes"
    click.echo(f"{name}: {size}, {figures['bytes'] / 1e6:.1f} MB")
    for field in SHOWN:
        click.echo(f"  {field:26} {figures[field]:12,.1f}")
    beyond, bound = figures["bytes_a_row_beyond_logits"], figures["bound_a_row"]
    click.echo(
        f"  {'bytes_a_row_beyond_logits':26} {beyond:12,.1f}   (bound {bound:,.1f}, from a few thousand rows on)"
    )
    for phase, peak in figures["peak_mb"].items():
        click.echo(f"  peak memory {phase:14} {peak:12,.0f} MB")


if __name__ == "__main__":
    main()

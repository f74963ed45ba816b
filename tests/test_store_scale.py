"""What a large logit store costs: bytes, reads and memory are counted here, times measured by benchmarks/store.py."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.distillation.logit_store import Block, ClipTable, LogitStore, StoreSpec, block_ranges
from pipeline.distillation.logit_store_layout import COLUMNS, Sizes
from pipeline.distillation.logit_store_writer import ShardWriter, publish

ROOT = Path(__file__).parents[1]
PROC_IO = Path("/proc/self/io")
ROW_BY_ROW = 6  # columns that a row is put together from: logits, frame indices, crop, flip, pixel crc, row crc
ID_BYTES = 60
CLASS_OF = {"wide": (20_000, 1, 400), "tall": (400, 20, 11)}  # clips, views, classes


def make_spec(clips, views, classes, frames):
    labels = (np.arange(clips) * classes // clips).astype(np.int32)
    return StoreSpec(
        class_names=tuple(f"class {number}" for number in range(classes)),
        clips=ClipTable(
            ids=tuple(f"videos/{number:07}".ljust(ID_BYTES - 4, "_") + ".mp4" for number in range(clips)),
            labels=labels,
            num_frames=np.full(clips, 300, np.int32),
            sha256=tuple(f"{number:064x}" for number in range(clips)),
        ),
        num_views=views,
        frames_per_view=frames,
        fingerprint={"teacher": "abc"},
        provenance={},
    )


def make_block(spec, span):
    """Every value of a row is a function of its place in the store."""
    row = span.view * len(spec.clips.ids) + np.arange(span.start, span.stop)[:, None]
    return Block(
        logits=(row * 7 + np.arange(len(spec.class_names)) ** 2 % 1013).astype(np.float32),
        frame_indices=((row + np.arange(spec.frames_per_view)) % 300).astype(np.int32),
        crop=(row % 50 + np.array([0, 1, 112, 112])).astype(np.int32),
        flip=row[:, 0] % 3 == 0,
        pixel_crc32=(row[:, 0] * 2654435761 % 2**32).astype(np.uint32),
    )


def write_store(folder, spec, block_rows=256):
    """The published store; its shard stays beside it."""
    with ShardWriter(folder / "shard.h5", spec, block_rows) as shard:
        for span in block_ranges(spec, block_rows):
            if span.number not in shard.done:
                shard.write(span.number, make_block(spec, span))
    return publish(folder / "logits.h5", spec, [folder / "shard.h5"], minimum_top1=0)


@pytest.fixture(scope="module", params=CLASS_OF)
def large(request, tmp_path_factory):
    folder, spec = tmp_path_factory.mktemp(request.param), make_spec(*CLASS_OF[request.param], 16)
    write_store(folder, spec)
    return folder / "logits.h5", spec


@pytest.mark.parametrize("memory_limit_bytes", [0, 2**40])
def test_rows_of_a_large_store_come_back_as_written(large, memory_limit_bytes):
    path, spec = large
    store = LogitStore.open(path, memory_limit_bytes=memory_limit_bytes)
    spans = block_ranges(spec, 256)
    for span in [spans[0], *spans[5::29], spans[-1]]:
        block = make_block(spec, span)
        for offset in range(0, span.stop - span.start, 17):
            row = store.row(spec.clips.ids[span.start + offset], span.view)
            np.testing.assert_array_equal(row.logits, block.logits[offset])
            assert row.frame_indices == tuple(block.frame_indices[offset].tolist())
            assert row.crop == tuple(block.crop[offset].tolist())
            assert row.flip is bool(block.flip[offset])
            assert row.pixel_crc32 == int(block.pixel_crc32[offset])


# Bytes

# Clips, views, classes, frames: awkward numbers, around the sizes at which one chunk more or a confusion is needed.
GRID = [
    (3_001, 1, 400, 16),
    (3_000, 1, 11, 1),
    (5_003, 1, 101, 64),
    (10_007, 1, 400, 16),
    (2_503, 2, 101, 16),
    (607, 8, 51, 32),
    (401, 13, 400, 16),
    (409, 13, 65, 16),
    (53, 97, 2, 1),
    (53, 97, 11, 64),
    (53, 97, 64, 16),
    (53, 97, 101, 16),
    (83, 97, 400, 16),
    (84, 97, 400, 1),
]


@pytest.mark.parametrize("size", GRID, ids=lambda size: "x".join(map(str, size)))
def test_overhead_keeps_its_bound_from_five_thousand_rows_on(tmp_path, size):
    """64 + 4 T bytes a row and 320 a clip beyond the logits.

    The fixed part, about 60 kB and 110 bytes a class, is what rows have to outweigh: 3,000 rows of one view do, 5,000
    of many views up to 101 classes, and 8,000 of 100 views with 400 classes.
    """
    clips, views, classes, frames = size
    summary = write_store(tmp_path, make_spec(*size), block_rows=1024)
    rows = clips * views
    assert summary.bytes - 4 * rows * classes <= rows * (64 + 4 * frames) + 320 * clips


def test_chunks_waste_little_and_keep_to_16_to_64_kib():
    for rows, classes in itertools.product([*range(3_000, 4_200, 7), 60_013, 1_000_000], [2, 11, 51, 101, 400]):
        sizes = Sizes(clips=rows, views=1, frames=16, classes=classes)
        for column in COLUMNS:
            chunks = column.chunks(sizes)
            if chunks is None:
                continue
            row_bytes = np.dtype(column.dtype).itemsize * math.prod(column.shape(sizes)[1:])
            count = math.ceil(rows / chunks[0])
            assert count == 1 or 16 * 1024 <= chunks[0] * row_bytes <= 64 * 1024
            # Two bytes a row; equal parts of 32 KiB would lose up to ten of 3,000 rows of 400 classes.
            assert (count * chunks[0] - rows) * row_bytes <= 2 * rows


def test_a_confusion_is_stored_where_its_cells_are_small_beside_the_rows():
    def stored(clips, views, classes):
        return Sizes(clips=clips, views=views, frames=16, classes=classes).confused == classes

    assert stored(10, 1, 64)  # 16 KiB: small in any store
    assert stored(4_000, 100, 11)
    assert stored(1_000_000, 1, 400)
    assert not stored(3_000, 1, 400)  # 213 bytes a row, nearly all of them zeros


def test_a_store_without_a_confusion_is_whole(tmp_path):
    spec = make_spec(30, 2, 400, 1)
    write_store(tmp_path, spec)
    store = LogitStore.open(tmp_path / "logits.h5")
    assert len(store.summary.per_class_accuracy) == 400
    with h5py.File(tmp_path / "logits.h5") as file:
        assert file["summary/confusion/rows"].shape == (0, 400)
        assert file["summary/confusion/true"].shape == (0,)


# Reads and memory


@pytest.mark.skipif(not PROC_IO.exists(), reason="this system does not count a process's reads in /proc/self/io")
def test_a_random_row_takes_the_same_reads_of_a_store_of_any_size(tmp_path):
    """One chunk of at most 64 KiB a column, in 1,000 clips as in 20,000: nothing is searched and nothing read twice."""

    def counted():
        return {key: int(value) for key, value in (line.split(": ") for line in PROC_IO.read_text().splitlines())}

    for clips in (1_000, 20_000):
        (tmp_path / str(clips)).mkdir()
        spec = make_spec(clips, 1, 100, 16)
        write_store(tmp_path / str(clips), spec)
        store = LogitStore.open(tmp_path / str(clips) / "logits.h5", memory_limit_bytes=0)
        wanted = np.random.default_rng(0).choice(spec.clips.ids, 200).tolist()
        store.row(wanted[0], 0)  # opens the file
        for clip in wanted:  # now the chunks' addresses are known
            store.row(clip, 0)
        first, before = counted(), counted()  # counting reads a file too
        for clip in wanted:
            store.row(clip, 0)
        after = counted()
        reads, read = ((after[key] - before[key]) - (before[key] - first[key]) for key in ("syscr", "rchar"))
        assert reads == ROW_BY_ROW * len(wanted)
        # Four narrow columns of 16 KiB and two wide ones of 32, or all that a small store has.
        assert read <= (4 * 16 + 2 * 32) * 1024 * 1.2 * len(wanted)


def test_publishing_moves_no_more_than_a_few_mib_at_a_time(tmp_path, monkeypatch):
    """However many rows there are, so that memory holds the clips' columns and a slab of rows."""
    moved = []

    def watched(name, of_result):
        original = getattr(h5py.Dataset, name)

        def call(self, *args, **kwargs):
            result = original(self, *args, **kwargs)
            moved.append(np.asarray(result if of_result else args[1]).nbytes)
            return result

        monkeypatch.setattr(h5py.Dataset, name, call)

    watched("__getitem__", of_result=True)
    watched("__setitem__", of_result=False)
    spec = make_spec(400, 50, 400, 4)
    summary = write_store(tmp_path, spec)
    assert summary.bytes > 32e6
    assert 1e6 < max(moved) <= 8 * 1024**2
    assert sum(moved) > 4 * summary.bytes  # written, read, written, hashed, verified: the watch has seen all of it


def test_finished_blocks_are_counted_once_and_not_at_every_look(tmp_path):
    spec = make_spec(40, 2, 3, 1)
    with ShardWriter(tmp_path / "shard.h5", spec, 4) as shard:
        done = shard.done
        assert done == set()
        for number, span in enumerate(block_ranges(spec, 4)):
            shard.write(span.number, make_block(spec, span))
            assert len(done) == number + 1
        assert shard.done is done
    with ShardWriter(tmp_path / "shard.h5", make_spec(40, 1, 3, 1), 4) as shard:
        assert shard.done == set(range(10))  # the blocks of the view that this spec has


@pytest.mark.slow
def test_the_benchmark_measures_every_phase_and_keeps_the_bound(tmp_path):
    command = [sys.executable, "benchmarks/store.py", "--small", "--rounds", "6", "--folder", tmp_path / "stores"]
    done = subprocess.run([*command, "--out", tmp_path / "store.json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "random row of 10,000 clips / of 1,000 " in done.stdout
    report = json.loads((tmp_path / "store.json").read_text(encoding="utf-8"))
    assert report["compared"]["low"] <= report["compared"]["ratio"] <= report["compared"]["high"]
    assert [each["ratio"] for each in report["ratios"]] == [report["compared"]["ratio"]]
    for name in ("many clips", "many views"):
        figures = report["stores"][name]
        assert figures["bytes_a_row_beyond_logits"] <= figures["bound_a_row"]
        assert set(figures["peak_mb"]) == {"write", "publish_shard", "check", "load", "read_lazily"}
        assert all(figures[f"{what}_sec"] > 0 for what in ("write", "publish", "verify", "load", "open"))
    assert list((tmp_path / "stores").iterdir()) == []

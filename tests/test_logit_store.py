import fcntl
import hashlib
import itertools
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest

from pipeline.distillation import logit_store_file
from pipeline.distillation.logit_store import (
    Block,
    ClipTable,
    LogitStore,
    StoreSpec,
    block_ranges,
    verify,
    verify_in_child,
)
from pipeline.distillation.logit_store_layout import COLUMNS, GROUPS
from pipeline.distillation.logit_store_writer import ShardWriter, publish

BLOCK_ROWS = 8
FORK = multiprocessing.get_context("fork")
FLIPS = int(os.environ.get("DLKDD_FLIPS", "100"))  # damaged bytes, each in a copy of its own


def make_spec(num_clips=37, num_views=3, num_classes=5, frames=4):
    rng = np.random.default_rng(7)
    return StoreSpec(
        class_names=tuple(f"class {number} é" for number in range(num_classes)),
        clips=ClipTable(
            ids=tuple(f"videos/ü {number:05}.mp4" for number in range(num_clips)),
            labels=rng.integers(0, num_classes, num_clips).astype(np.int32),
            num_frames=rng.integers(30, 60, num_clips).astype(np.int32),
            sha256=tuple(hashlib.sha256(b"%d" % number).hexdigest() for number in range(num_clips)),
        ),
        num_views=num_views,
        frames_per_view=frames,
        fingerprint={"teacher": "abc", "view_size": 112, "gamma": 0.5, "enhance_view": True},
        provenance={"torch": "2.1", "views": num_views},
    )


def make_block(spec, span, seed=0):
    """Rows as a function of (seed, view, start): right in about two of three rows."""
    rng = np.random.default_rng([seed, span.view, span.start])
    rows = span.stop - span.start
    logits = rng.normal(size=(rows, len(spec.class_names))).astype(np.float32)
    logits[np.arange(rows), spec.clips.labels[span.start : span.stop]] += 2
    return Block(
        logits=logits,
        frame_indices=np.sort(rng.integers(0, 30, (rows, spec.frames_per_view)), axis=1).astype(np.int32),
        crop=rng.integers(1, 100, (rows, 4)).astype(np.int32),
        flip=rng.random(rows) < 0.5,
        pixel_crc32=rng.integers(0, 2**32, rows, dtype=np.uint32),
    )


def write_shard(path, spec, spans, block_rows=BLOCK_ROWS):
    with ShardWriter(path, spec, block_rows) as shard:
        for span in spans:
            shard.write(span.number, make_block(spec, span))
    return path


def write_store(folder, spec, block_rows=BLOCK_ROWS, name="logits.h5"):
    shard = write_shard(folder / f"{name}.shard", spec, block_ranges(spec, block_rows), block_rows)
    publish(folder / name, spec, [shard], minimum_top1=0.3)
    return folder / name


def same_block(found, wanted):
    pairs = zip(found.columns().values(), wanted.columns().values(), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.fixture(scope="module")
def spec():
    return make_spec()


@pytest.fixture(scope="module")
def sound(tmp_path_factory, spec):
    return write_store(tmp_path_factory.mktemp("sound"), spec)


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copy(sound, tmp_path / "copy.h5")


def rehash(path):
    """Make the content hash fit again, as a program that meddles thoroughly would."""
    with h5py.File(path, "r+") as file:
        file.attrs["content_sha256"] = logit_store_file.content_sha256(file)


def check_all_rows(store, spec):
    for span in block_ranges(spec, BLOCK_ROWS):
        block = make_block(spec, span)
        for offset, clip in enumerate(range(span.start, span.stop)):
            row = store.row(spec.clips.ids[clip], span.view)
            assert row.logits.dtype == np.float32
            np.testing.assert_array_equal(row.logits, block.logits[offset])
            assert row.frame_indices == tuple(block.frame_indices[offset].tolist())
            assert row.crop == tuple(block.crop[offset].tolist())
            assert row.flip is bool(block.flip[offset])
            assert row.pixel_crc32 == int(block.pixel_crc32[offset])
            assert row.label == int(spec.clips.labels[clip])
    return os.getpid()


# Reading


@pytest.mark.parametrize("memory_limit_bytes", [2**30, 0])
def test_rows_come_back_as_written(sound, spec, memory_limit_bytes):
    store = LogitStore.open(sound, memory_limit_bytes=memory_limit_bytes)
    check_all_rows(store, spec)
    assert store.class_names == spec.class_names
    assert store.clip_ids == spec.clips.ids
    assert store.clip_sha256 == spec.clips.sha256
    np.testing.assert_array_equal(store.labels, spec.clips.labels)
    np.testing.assert_array_equal(store.num_frames, spec.clips.num_frames)
    assert (store.num_views, store.frames_per_view) == (3, 4)
    assert store.fingerprint == spec.fingerprint
    assert [type(store.fingerprint[name]) for name in spec.fingerprint] == [str, int, float, bool]
    assert store.provenance == spec.provenance


@pytest.mark.parametrize("memory_limit_bytes", [2**30, 0])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_right_rows(sound, spec, memory_limit_bytes, method):
    store = LogitStore.open(sound, memory_limit_bytes=memory_limit_bytes)
    check_all_rows(store, spec)  # a lazy store now has an open handle, which no worker may use
    with multiprocessing.get_context(method).Pool(2) as pool:
        pids = pool.starmap(check_all_rows, [(store, spec)] * 3, chunksize=1)
    assert os.getpid() not in pids


class RowsOfClips:
    """The stored row of each clip and view, by the position in a list that is in another order than the store."""

    def __init__(self, store, spec):
        self.store, self.keys = store, [(c, v) for c in spec.clips.ids[::-1] for v in range(spec.num_views)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        row = self.store.row(*self.keys[index])
        return index, row.logits, row.pixel_crc32, row.flip


@pytest.mark.parametrize(
    ("method", "memory_limit_bytes"), [(None, 2**30), (None, 0), ("fork", 2**30), ("fork", 0), ("spawn", 0)]
)
def test_a_shuffled_loader_gets_the_right_rows(sound, spec, method, memory_limit_bytes):
    import torch  # here, so that the spawned processes of the other tests need not load it

    dataset = RowsOfClips(LogitStore.open(sound, memory_limit_bytes=memory_limit_bytes), spec)
    dataset[0]  # a lazy store now has an open handle
    blocks = {(span.view, span.start): make_block(spec, span) for span in block_ranges(spec, BLOCK_ROWS)}
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=5,
        shuffle=True,
        generator=torch.Generator().manual_seed(1),
        num_workers=2 if method else 0,
        multiprocessing_context=method,
    )
    seen = []
    for indices, logits, checksums, flips in loader:
        for position, index in enumerate(indices.tolist()):
            clip, view = dataset.keys[index]
            first, offset = divmod(spec.clips.ids.index(clip), BLOCK_ROWS)
            block = blocks[view, first * BLOCK_ROWS]
            np.testing.assert_array_equal(logits[position].numpy(), block.logits[offset])
            assert int(checksums[position]) == int(block.pixel_crc32[offset])
            assert bool(flips[position]) is bool(block.flip[offset])
            seen.append(index)
    assert sorted(seen) == list(range(len(dataset)))
    assert seen != sorted(seen)


def test_threads_share_a_lazy_store(sound, spec):
    store = LogitStore.open(sound, memory_limit_bytes=0)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(check_all_rows, [store] * 8, [spec] * 8)) == [os.getpid()] * 8


def test_lazy_worker_refuses_a_store_that_was_replaced(copy, spec, tmp_path):
    store = LogitStore.open(copy, memory_limit_bytes=0)
    os.replace(write_store(tmp_path, make_spec(num_views=2)), copy)
    with pytest.raises(ValueError, match="found another store than the one opened before"):
        store.row(spec.clips.ids[0], 0)


def test_readers_lock_where_they_can_and_read_where_they_cannot(sound):
    """HDF5's best effort: network file systems without locks refuse them with an error."""
    with logit_store_file.open_hdf5(sound, "r", remedy="") as file:
        assert file.id.get_access_plist().get_file_locking() == (True, True)  # lock; pass over missing locks


def test_changing_a_row_does_not_change_the_store(sound, spec):
    store = LogitStore.open(sound)
    store.row(spec.clips.ids[0], 0).logits[:] = 0
    assert store.row(spec.clips.ids[0], 0).logits.any()


@pytest.mark.parametrize(
    ("clip", "view"), [("videos/none.mp4", 0), ("videos/ü 00000.mp4", 3), ("videos/ü 00000.mp4", -1)]
)
def test_unknown_row_is_refused_by_name(sound, clip, view):
    with pytest.raises(ValueError, match=rf"no row of clip '{clip}', view {view}"):
        LogitStore.open(sound).row(clip, view)


@pytest.mark.parametrize(
    "altered", [{"teacher": "abd"}, {"view_size": 111}, {"gamma": 0.25}, {"enhance_view": 1}, {"new": 1}]
)
def test_each_altered_fingerprint_field_is_refused_by_name(sound, spec, altered):
    store = LogitStore.open(sound)
    store.require(**spec.fingerprint)
    ((name, value),) = altered.items()
    found = repr(spec.fingerprint[name]) if name in spec.fingerprint else "none"
    with pytest.raises(ValueError, match=f"{name}: found {found}, wanted {value!r}"):
        store.require(**{**spec.fingerprint, **altered})


def test_every_field_that_the_stages_write_is_refused_by_its_name(tmp_path):
    """Each one altered alone, whatever fields there are."""
    from pipeline.clips.views import ViewRule  # both load torch, which spawned processes of other tests need not
    from pipeline.distillation.fingerprint import fingerprint

    rule = ViewRule(
        frames=4,
        sampling="spread",
        stride=1,
        jitter=1.0,
        loop=True,
        frame_size=(40, 50),
        size=32,
        scales=(1.0, 0.8),
        positions="random",
        flip=True,
        seed=0,
    )
    fields = fingerprint(
        teacher_sha256="0" * 64,
        class_names=("a", "b"),
        rule=rule,
        mode="consistent",
        colour_range="auto",
        enhancer_on="view",
    )
    store = LogitStore.open(write_store(tmp_path, replace(make_spec(), fingerprint=fields)))
    store.require(**fields)
    for name, value in fields.items():
        other = f"{value}?" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1
        with pytest.raises(ValueError, match=re.escape(f"{name}: found {value!r}, wanted {other!r}")) as refused:
            store.require(**{**fields, name: other})
        assert str(refused.value).count("found") == 1


def test_all_differing_fields_are_listed(sound):
    with pytest.raises(ValueError, match=r"(?s)teacher: found 'abc', wanted 'x'.*gamma: found 0.5, wanted 0.25"):
        LogitStore.open(sound).require(teacher="x", view_size=112, gamma=0.25)


def test_provenance_differences_are_told_not_raised(sound):
    assert LogitStore.open(sound).differences(torch="2.2", views=3) == ["torch: found '2.1', wanted '2.2'"]


def test_clips_join_by_id_in_any_order(sound, spec):
    store = LogitStore.open(sound)
    store.require_clips(spec.clips.ids[::-1], spec.clips.sha256[::-1])
    ids, sha256 = list(spec.clips.ids), list(spec.clips.sha256)
    for message, changed_ids, changed_sha256 in [
        ("1 clips extra in the store .'videos/ü 00000.mp4'", ids[1:], sha256[1:]),
        ("1 clips missing in the store .'videos/new.mp4'", [*ids, "videos/new.mp4"], [*sha256, sha256[0]]),
        ("1 clips doubled in the list .'videos/ü 00003.mp4'", [*ids, ids[3]], [*sha256, sha256[3]]),
        ("1 clips with another content hash .'videos/ü 00000.mp4'", ids, [sha256[1], *sha256[1:]]),
        (r"37 clips with another content hash \(.*, \.\.\.\)", ids, [*sha256[1:], sha256[0]]),
    ]:
        with pytest.raises(ValueError, match=message):
            store.require_clips(changed_ids, changed_sha256)


# The file


def test_layout_is_the_stated_one(sound):
    wanted = {
        "README": ("O", ()),
        "class_names": ("O", (5,)),
        "clips/id": ("O", (37,)),
        "clips/label": ("int32", (37,)),
        "clips/num_frames": ("int32", (37,)),
        "clips/sha256": ("O", (37,)),
        "logits": ("float32", (111, 5)),
        "rows/clip": ("int32", (111,)),
        "rows/view": ("int32", (111,)),
        "rows/row_crc32": ("uint32", (111,)),
        "views/frame_indices": ("int32", (111, 4)),
        "views/crop": ("int32", (111, 4)),
        "views/flip": ("bool", (111,)),
        "views/pixel_crc32": ("uint32", (111,)),
    }
    with h5py.File(sound) as file:
        datasets = {}
        file.visititems(lambda path, item: datasets.update({path: item}) if isinstance(item, h5py.Dataset) else None)
        plain = {path: item for path, item in datasets.items() if not path.startswith("summary/")}
        assert {path: (str(item.dtype).replace("object", "O"), item.shape) for path, item in plain.items()} == wanted
        assert {"format", "format_version", "complete", "content_sha256", "default"} <= set(file.attrs)
        for item in datasets.values():
            assert item.ndim <= 2
            assert item.attrs["description"]
            assert item.attrs["units"]
            if item.dtype == object:
                assert tuple(h5py.check_string_dtype(item.dtype)) == ("utf-8", None)
            else:
                assert item.fletcher32 == (item.chunks is not None)
                assert item.compression is None
        assert np.isnan(file["logits"].fillvalue)


def test_nothing_in_the_file_tells_the_time(sound):
    with h5py.File(sound) as file:
        for path in [*GROUPS, *(column.path for column in COLUMNS)]:
            assert h5py.h5g.get_objinfo(file.id, path.encode()).mtime == 0


def test_default_leads_a_viewer_to_plots_with_numeric_axes(sound):
    with h5py.File(sound) as file:
        summary = file[file.attrs["default"]]
        assert summary[summary.attrs["default"]].attrs["signal"] == "top1"
        plots = [item for item in summary.values() if item.attrs.get("NX_class") == "NXdata"]
        assert len(plots) == 4
        for plot in plots:
            signal, axes = plot[plot.attrs["signal"]], [plot[name] for name in plot.attrs["axes"]]
            assert tuple(len(axis) for axis in axes) == signal.shape
            assert all(axis.dtype.kind in "iuf" for axis in axes)
            assert plot["title"].asstr()[()]


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump (hdf5-tools) is not installed")
def test_h5dump_prints_header_and_text(sound):
    header = subprocess.run(["h5dump", "-H", sound], capture_output=True, text=True, check=True).stdout
    assert 'DATASET "frame_indices"' in header
    assert "H5T_CSET_UTF8" in header
    ids = subprocess.run(["h5dump", "-d", "/clips/id", sound], capture_output=True, text=True, check=True).stdout
    assert '00003.mp4"' in ids  # h5dump escapes the letters before, which are not ASCII
    assert "\\000" not in ids


@pytest.mark.skipif(shutil.which("h5ls") is None, reason="h5ls (hdf5-tools) is not installed")
def test_h5ls_prints_every_column(sound):
    listing = subprocess.run(["h5ls", "-r", sound], capture_output=True, text=True, check=True).stdout
    listed = {line.split()[0].lstrip("/") for line in listing.splitlines() if " Dataset " in line}
    assert listed == {column.path for column in COLUMNS}


@pytest.mark.parametrize("frames", [1, 16, 64])
def test_overhead_stays_within_its_bound(tmp_path, frames):
    spec = make_spec(num_clips=400, num_views=25, num_classes=11, frames=frames)
    path = write_store(tmp_path, spec, block_rows=400)
    bound = 400 * 25 * (64 + 4 * frames + 4 * 11) + 320 * 400
    assert path.stat().st_size <= bound
    with h5py.File(path) as file:
        for column in ("logits", "rows/clip", "views/frame_indices"):
            size = file[column].id.get_chunk_info(0).size
            assert 16 * 1024 <= size <= 64 * 1024


def test_summary_is_the_hand_computed_one(tmp_path):
    labels, hashes = np.array([0, 1, 1], np.int32), make_spec().clips.sha256[:3]
    spec = StoreSpec(
        class_names=("a", "b", "c"),
        clips=ClipTable(ids=("x", "y", "z"), labels=labels, num_frames=labels + 1, sha256=hashes),
        num_views=2,
        frames_per_view=1,
        fingerprint={},
        provenance={},
    )
    rows = {
        "frame_indices": np.zeros((3, 1), np.int32),
        "crop": np.ones((3, 4), np.int32),
        "flip": np.zeros(3, bool),
        "pixel_crc32": np.zeros(3, np.uint32),
    }
    with ShardWriter(tmp_path / "shard", spec, 3) as shard:
        # view 0: a right, b right, b taken for c; view 1: undecided (the first class, right), b right, b taken for a
        shard.write(0, Block(logits=np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32), **rows))
        shard.write(1, Block(logits=np.array([[0, 0, 0], [0, 9, 0], [9, 0, 0]], np.float32), **rows))
    summary = publish(tmp_path / "store", spec, [tmp_path / "shard"], minimum_top1=4 / 6)
    assert (summary.rows, summary.top1, summary.top1_by_view) == (6, 4 / 6, (2 / 3, 2 / 3))
    np.testing.assert_array_equal(summary.per_class_accuracy, [1, 0.5, np.nan])
    assert summary.bytes == (tmp_path / "store").stat().st_size
    with h5py.File(tmp_path / "store") as file:
        table = file["summary"]
        np.testing.assert_array_equal(table["confusion/rows"], [[2, 0, 0], [1, 2, 1], [0, 0, 0]])
        np.testing.assert_array_equal(table["by_row/correct"], [1, 1, 0, 1, 1, 0])
        # float32 holds about 7 digits
        np.testing.assert_allclose(table["by_row/entropy"][3], np.log(3), rtol=1e-6)
        np.testing.assert_allclose(table["by_row/confidence"][3], 1 / 3, rtol=1e-6)


# Writing


def test_store_bytes_do_not_depend_on_shards_their_order_or_resumes(sound, spec, tmp_path):
    spans = block_ranges(spec, BLOCK_ROWS)
    three = [write_shard(tmp_path / f"{i}.shard", spec, spans[i::3][::-1]) for i in range(3)]
    publish(tmp_path / "three.h5", spec, three[::-1], minimum_top1=0.3)
    for part in (spans[5:9], spans[:5], spans[9:]):
        write_shard(tmp_path / "resumed.shard", spec, part)
    publish(tmp_path / "resumed.h5", spec, [tmp_path / "resumed.shard", three[1]], minimum_top1=0.3)
    assert (tmp_path / "three.h5").read_bytes() == sound.read_bytes()
    assert (tmp_path / "resumed.h5").read_bytes() == sound.read_bytes()
    other = write_store(tmp_path, spec, block_rows=37, name="other.h5")
    assert verify(other) == []


def test_more_or_fewer_views_keep_the_finished_blocks(spec, sound, tmp_path):
    two, three = replace(spec, num_views=2, provenance={"torch": "2.1", "views": 2}), spec
    shard = write_shard(tmp_path / "shard", two, block_ranges(two, BLOCK_ROWS))
    with ShardWriter(shard, three, BLOCK_ROWS) as writer:
        new = [span for span in block_ranges(three, BLOCK_ROWS) if span.number not in writer.done]
        assert {span.view for span in new} == {2}
    write_shard(shard, three, new)
    publish(tmp_path / "three.h5", three, [shard], minimum_top1=0.3)
    assert (tmp_path / "three.h5").read_bytes() == sound.read_bytes()
    summary = publish(tmp_path / "two.h5", two, [shard], minimum_top1=0.3)
    assert summary.rows == 2 * 37
    with ShardWriter(shard, two, BLOCK_ROWS) as writer:
        assert writer.done == {span.number for span in block_ranges(two, BLOCK_ROWS)}


def test_blocks_never_cross_a_view(spec):
    spans = block_ranges(spec, BLOCK_ROWS)
    rows = [(span.view, clip) for span in spans for clip in range(span.start, span.stop)]
    assert rows == list(itertools.product(range(3), range(37)))
    assert [span.number for span in spans] == list(range(15))
    assert {span.stop - span.start for span in spans} == {8, 5}


def killed_at(point, after, action, acknowledged):
    """Run the action, and SIGKILL this process before or after its n-th flush, fsync, rename or unlink."""
    count = itertools.count()

    def deadly(function):
        def call(*args, **kwargs):
            number = next(count)
            if number == point and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if number == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    h5py.File.flush = deadly(h5py.File.flush)
    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, deadly(getattr(os, name)))
    action(lambda number: os.write(acknowledged, bytes([number])))


def write_all(path, spec, acknowledge):
    with ShardWriter(path, spec, BLOCK_ROWS, fsync_interval_sec=0) as shard:
        for span in block_ranges(spec, BLOCK_ROWS):
            if span.number not in shard.done:
                shard.write(span.number, make_block(spec, span))
                acknowledge(span.number)


def in_child(target, *args, kill_after=None):
    """Exit code, and the block numbers that the child had acknowledged.

    `kill_after` (blocks, seconds) kills it so long after its so manieth acknowledgement.
    """
    reader, writer = os.pipe()
    process = FORK.Process(target=target, args=(*args, writer))
    process.start()
    os.close(writer)
    acknowledged = b""
    if kill_after:
        while len(acknowledged) < kill_after[0] and (number := os.read(reader, 1)):
            acknowledged += number
        process.join(kill_after[1])
        process.kill()
    process.join()
    acknowledged += os.read(reader, 65536)
    os.close(reader)
    return process.exitcode, set(acknowledged)


def check_resumable(path, spec, acknowledged):
    with ShardWriter(path, spec, BLOCK_ROWS) as shard:
        assert acknowledged <= shard.done
        for span in block_ranges(spec, BLOCK_ROWS):
            if span.number in shard.done:
                assert same_block(shard.read(span.number), make_block(spec, span))


def test_kill_before_and_after_every_flush_loses_no_acknowledged_block(tmp_path):
    spec = make_spec(num_clips=12, num_views=1)
    wanted = write_store(tmp_path, spec).read_bytes()
    for after in (False, True):
        for point in itertools.count():
            shard = tmp_path / f"{point}-{after}"
            code, acknowledged = in_child(killed_at, point, after, lambda ack, path=shard: write_all(path, spec, ack))
            if code == 0:
                break
            assert code == -signal.SIGKILL
            check_resumable(shard, spec, acknowledged)
            write_all(shard, spec, lambda number: None)
            if after:  # the shards of the first pass differ in nothing but the point of the kill
                publish(tmp_path / "resumed.h5", spec, [shard], minimum_top1=0.3)
                assert (tmp_path / "resumed.h5").read_bytes() == wanted
        assert point >= 11  # creating: fsync, rename, fsync; two blocks: flush, flush, fsync; closing: flush, fsync


def test_kill_at_random_loses_no_acknowledged_block(tmp_path):
    spec = make_spec(num_clips=300, num_views=2)
    rng = np.random.default_rng(0)
    shard, kept = tmp_path / "shard", set()
    for _ in range(12):
        when = int(rng.integers(1, 8)), rng.uniform(0, 0.01)
        _, acknowledged = in_child(killed_at, -1, False, lambda ack: write_all(shard, spec, ack), kill_after=when)
        kept |= acknowledged
        check_resumable(shard, spec, kept)
    write_all(shard, spec, lambda number: None)
    publish(tmp_path / "resumed.h5", spec, [shard], minimum_top1=0.3)
    assert (tmp_path / "resumed.h5").read_bytes() == write_store(tmp_path, spec).read_bytes()
    assert len(kept) >= 12


def test_kill_while_publishing_leaves_the_old_file_or_the_new_one(tmp_path):
    old, new = make_spec(num_views=1), make_spec(num_views=2)
    target = write_store(tmp_path, old)
    before = target.read_bytes()
    shard = write_shard(tmp_path / "shard", new, block_ranges(new, BLOCK_ROWS))
    wanted = write_store(tmp_path, new, name="wanted.h5").read_bytes()
    seen = set()
    for after in (False, True):
        for point in itertools.count():
            target.write_bytes(before)
            code, _ = in_child(killed_at, point, after, lambda ack: publish(target, new, [shard], minimum_top1=0.3))
            assert target.read_bytes() in (before, wanted)
            seen.add(target.read_bytes() == wanted)
            publish(target, new, [shard], minimum_top1=0.3)
            assert target.read_bytes() == wanted
            if code == 0:
                break
        assert point >= 3  # fsync, rename, fsync of the folder
    assert seen == {False, True}
    assert not list(tmp_path.glob("*.partial"))


def test_full_disk_leaves_nothing_under_the_target(tmp_path, spec):
    shard = write_shard(tmp_path / "shard", spec, block_ranges(spec, BLOCK_ROWS))

    def publish_on_a_full_disk(acknowledged):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            publish(tmp_path / "store.h5", spec, [shard], minimum_top1=0.3)
        except OSError:
            os.write(acknowledged, b"\1")

    assert in_child(publish_on_a_full_disk) == (0, {1})
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def altered_specs():
    spec = make_spec()
    clips = spec.clips
    sha256 = (clips.sha256[1], *clips.sha256[1:])
    return {
        "fingerprint_teacher: found 'abc', wanted 'x'": replace(spec, fingerprint={**spec.fingerprint, "teacher": "x"}),
        "fingerprint_new: found none, wanted 1": replace(spec, fingerprint={**spec.fingerprint, "new": 1}),
        "fingerprint_gamma: found 0.5, wanted none": replace(
            spec, fingerprint={name: value for name, value in spec.fingerprint.items() if name != "gamma"}
        ),
        "clips: found": replace(spec, clips=replace(clips, sha256=sha256)),
        "class_names: found": replace(spec, class_names=spec.class_names[::-1]),
        "frames_per_view: found 4, wanted 5": replace(spec, frames_per_view=5),
    }


@pytest.mark.parametrize("message", altered_specs())
def test_shard_of_other_logits_is_refused_by_name(tmp_path, spec, message):
    shard = write_shard(tmp_path / "shard", spec, block_ranges(spec, BLOCK_ROWS))
    other = altered_specs()[message]
    with pytest.raises(ValueError, match=f"shard of other logits: {message}"):
        ShardWriter(shard, other, BLOCK_ROWS)
    with pytest.raises(ValueError, match=f"shard of other logits: {message}"):
        publish(tmp_path / "store.h5", other, [shard], minimum_top1=0)
    assert not (tmp_path / "store.h5").exists()


def test_shard_of_other_blocks_is_refused(tmp_path, spec):
    spans = block_ranges(spec, BLOCK_ROWS)
    shard = write_shard(tmp_path / "shard", spec, spans)
    with pytest.raises(ValueError, match="block_rows: found 8, wanted 9"):
        ShardWriter(shard, spec, 9)
    other = write_shard(tmp_path / "other", spec, block_ranges(spec, 9)[:1], block_rows=9)
    with pytest.raises(ValueError, match="block_rows: found 9, wanted 8"):
        publish(tmp_path / "store.h5", spec, [shard, other], minimum_top1=0)
    for rows in (0, -1, 8.5, "many"):
        with h5py.File(shard, "r+") as file:
            file.attrs["block_rows"] = rows
        with pytest.raises(ValueError, match=f"shard: block_rows: found {rows!r}, wanted at least 1; delete the shard"):
            publish(tmp_path / "store.h5", spec, [shard], minimum_top1=0)


def test_damaged_shard_says_to_delete_it(tmp_path, spec):
    shard = write_shard(tmp_path / "shard", spec, block_ranges(spec, BLOCK_ROWS))
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(OSError, match=r"shard: .*delete the shard"):
        ShardWriter(shard, spec, BLOCK_ROWS)
    shard.write_bytes(b"")
    with pytest.raises(OSError, match=r"shard: .*delete the shard"):
        publish(tmp_path / "store.h5", spec, [shard], minimum_top1=0)


def test_changed_shard_row_is_found(tmp_path, spec):
    shard = write_shard(tmp_path / "shard", spec, block_ranges(spec, BLOCK_ROWS))
    with h5py.File(shard, "r+") as file:
        file["logits"][9, 2] += 1
    with (
        ShardWriter(shard, spec, BLOCK_ROWS) as writer,
        pytest.raises(
            ValueError, match=r"1 rows that do not match their crc32, the first one clip 'videos/ü 00009.mp4'"
        ),
    ):
        writer.read(1)
    with pytest.raises(ValueError, match="do not match their crc32"):
        publish(tmp_path / "store.h5", spec, [shard], minimum_top1=0)


def test_torn_entry_counts_as_not_written(tmp_path, spec):
    spans = block_ranges(spec, BLOCK_ROWS)
    shard = write_shard(tmp_path / "shard", spec, spans)
    with h5py.File(shard, "r+") as file:
        file["done_block"][14] = 2**24 + 14
    with ShardWriter(shard, spec, BLOCK_ROWS) as writer:
        assert writer.done == set(range(14))


def test_shard_that_another_process_writes_is_refused(tmp_path, spec):
    shard = write_shard(tmp_path / "shard", spec, [])
    with open(shard, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process is writing it"):
            ShardWriter(shard, spec, BLOCK_ROWS)


def test_blocks_are_written_once_and_in_their_place(tmp_path, spec):
    first, second, *_, last = block_ranges(spec, BLOCK_ROWS)
    with ShardWriter(tmp_path / "shard", spec, BLOCK_ROWS) as shard:
        shard.write(first.number, make_block(spec, first))
        with pytest.raises(ValueError, match="block 0 is finished already"):
            shard.write(first.number, make_block(spec, first))
        with pytest.raises(ValueError, match="block 15 is none of the store's"):
            shard.write(15, make_block(spec, first))
        with pytest.raises(ValueError, match="block 1 is not done"):
            shard.read(second.number)
        with pytest.raises(ValueError, match=r"block 14: logits: found float32 \(8, 5\), wanted float32 \(5, 5\)"):
            shard.write(last.number, make_block(spec, first))
        assert shard.done == {0}


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("logits", (2, 1), np.nan, r"clip 'videos/ü 00010.mp4', view 0: found logits that are not finite"),
        ("logits", (2, 1), np.inf, r"not finite; check the teacher's weights and precision \(1 rows of block 1\)"),
        ("frame_indices", (0, 3), 60, "a frame index outside its video"),
        ("frame_indices", (0, 0), -1, "a frame index outside its video"),
        ("crop", (1, 2), 0, "a crop box that is empty"),
        ("crop", (1, 0), -1, "starts outside the frame"),
    ],
)
def test_rows_that_cannot_be_right_are_refused(tmp_path, spec, column, row, value, message):
    block = make_block(spec, block_ranges(spec, BLOCK_ROWS)[1])
    getattr(block, column)[row] = value
    with ShardWriter(tmp_path / "shard", spec, BLOCK_ROWS) as shard:
        with pytest.raises(ValueError, match=message):
            shard.write(1, block)
        assert shard.done == set()


def test_wrong_dtype_is_refused(tmp_path, spec):
    block = make_block(spec, block_ranges(spec, BLOCK_ROWS)[0])
    with (
        ShardWriter(tmp_path / "shard", spec, BLOCK_ROWS) as shard,
        pytest.raises(ValueError, match="block 0: logits: found float64"),
    ):
        shard.write(0, replace(block, logits=block.logits.astype(np.float64)))


def test_missing_rows_are_counted_and_the_first_is_named(tmp_path, spec):
    spans = block_ranges(spec, BLOCK_ROWS)
    shard = write_shard(tmp_path / "shard", spec, spans[:6] + spans[7:14])
    with pytest.raises(
        ValueError, match=r"found 13 of 111 rows missing, the first one clip 'videos/ü 00008.mp4', view 1"
    ):
        publish(tmp_path / "store.h5", spec, [shard], minimum_top1=0)
    with pytest.raises(ValueError, match="shards: found none"):
        publish(tmp_path / "store.h5", spec, [], minimum_top1=0)
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_shards_that_disagree_are_refused(tmp_path, spec):
    spans = block_ranges(spec, BLOCK_ROWS)
    shard = write_shard(tmp_path / "shard", spec, spans)
    with ShardWriter(tmp_path / "other", spec, BLOCK_ROWS) as other:
        other.write(3, make_block(spec, spans[3], seed=1))
    with pytest.raises(ValueError, match=r"block 3: .*shard and .*other differ"):
        publish(tmp_path / "store.h5", spec, [shard, tmp_path / "other"], minimum_top1=0)


def test_untrained_teacher_is_refused_before_anything_appears(tmp_path, spec):
    shard = write_shard(tmp_path / "shard", spec, block_ranges(spec, BLOCK_ROWS))
    with pytest.raises(ValueError, match=r"found 0\.\d+, wanted at least 0.9900; a wrong normalisation"):
        publish(tmp_path / "store.h5", spec, [shard], minimum_top1=0.99)
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": ("b", "a")}, "found 'a' after 'b', wanted sorted"),
        ({"ids": ("a", "a")}, "found 'a' twice"),
        ({"ids": ("a", "b\udcff")}, "wanted text that UTF-8 can hold"),
        ({"ids": ("", "b")}, "wanted 1 to 60000 bytes"),
        ({"labels": np.array([0, -1], np.int32)}, "negative label"),
        ({"labels": np.array([0, 1])}, "clips.labels: found int64"),
        ({"num_frames": np.array([0, 1], np.int32)}, "without frames"),
        ({"sha256": ("0" * 64,)}, "found 1 hashes, wanted 2"),
        ({"sha256": ("0" * 64, "A" * 64)}, "wanted 64 lower-case hex digits"),
    ],
)
def test_clip_table_refuses_what_cannot_be_joined(change, message):
    ones = np.ones(2, np.int32)
    with pytest.raises(ValueError, match=message):
        ClipTable(**{"ids": ("a", "b"), "labels": ones, "num_frames": ones, "sha256": ("0" * 64, "1" * 64), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("a", "b")}, "clips.labels: found 4, wanted below 2"),
        ({"class_names": ("a",) * 5}, "two or more different names"),
        ({"num_views": 0}, "num_views: found 0"),
        ({"num_views": 2**27}, "rows, wanted below 2"),
        ({"fingerprint": {"a": float("nan")}}, "fingerprint.a: found nan, wanted a finite number"),
        ({"fingerprint": {"a": [1]}}, "fingerprint.a: found list"),
        ({"fingerprint": {"a/b": 1}}, "found the name 'a/b'"),
        ({"provenance": {"a": 2**63}}, "provenance.a"),
        ({"provenance": {"a": "x" * 70_000}}, "wanted 1 to 60000 bytes"),
    ],
)
def test_spec_refuses_what_the_format_cannot_hold(spec, change, message):
    with pytest.raises(ValueError, match=message):
        replace(spec, **change)


# Damage and foreign files


def test_flipped_bytes_of_rows_are_all_found(copy, sound):
    with h5py.File(sound) as file:
        spots = []
        for column in COLUMNS:
            if column.path.startswith(("logits", "rows/", "views/")):
                chunks = [file[column.path].id.get_chunk_info(i) for i in range(file[column.path].id.get_num_chunks())]
                spots += [chunk.byte_offset + i for chunk in chunks for i in range(chunk.size)]
    content = sound.read_bytes()
    rng = np.random.default_rng(0)
    for number, spot in enumerate(rng.choice(spots, FLIPS, replace=False).tolist()):
        damaged = bytearray(content)
        damaged[spot] ^= int(rng.integers(1, 256))
        copy.write_bytes(damaged)
        assert verify(copy) != [], spot
        if number % 10 == 0:
            with pytest.raises(ValueError, match=r"copy.h5: .*run the logits stage again"):
                LogitStore.open(copy)


def test_flipped_byte_of_a_clip_id_is_found(copy, sound):
    content = sound.read_bytes()
    assert content.count(b"00007.mp4") == 1
    copy.write_bytes(content.replace(b"00007.mp4", b"00006.mp4"))
    assert any("content_sha256" in problem for problem in verify(copy))


@pytest.mark.parametrize("column", ["logits", "views/frame_indices", "views/crop", "views/pixel_crc32"])
def test_swapped_rows_are_found_even_with_a_fitting_content_hash(copy, spec, column):
    with h5py.File(copy, "r+") as file:
        file[column][3:5] = file[column][3:5][::-1]
    rehash(copy)
    problems = verify(copy)
    assert (
        "/rows/row_crc32: found 2 rows that do not match it, the first is row 3 (clip 'videos/ü 00003.mp4', view 0)"
        in problems
    )
    with pytest.raises(ValueError, match=r"clip 'videos/ü 00003\.mp4', view 0: row does not match its crc32"):
        LogitStore.open(copy).row(spec.clips.ids[3], 0)


def test_changed_label_is_found_even_with_a_fitting_content_hash(copy):
    with h5py.File(copy, "r+") as file:
        labels = file["clips/label"][:]
        labels[0] = (labels[0] + 1) % 5
        file["clips/label"][:] = labels
    rehash(copy)
    assert any("/rows/row_crc32: found 3 rows" in problem for problem in verify(copy))


def test_summary_that_the_rows_do_not_give_is_found(copy):
    with h5py.File(copy, "r+") as file:
        file["summary/by_view/top1"][0] = 1.0
        file["summary/by_row/correct"][5] ^= 1
    rehash(copy)
    problems = verify(copy)
    assert "/summary/by_view/top1: found another value than the rows give" in problems
    assert "/summary/by_row/correct: found another value than the rows give" in problems


def replace_dataset(file, path, **options):
    data, attributes = file[path][...], dict(file[path].attrs)
    del file[path]
    file.create_dataset(path, **{"data": data, **options}).attrs.update(attributes)


def external_link(file):
    file.move("logits", "logits_elsewhere")
    file["logits"] = h5py.ExternalLink("other.h5", "/logits")


def soft_link(file):
    del file["rows/view"]
    file["rows/view"] = h5py.SoftLink("/rows/clip")


def virtual_dataset(file):
    layout = h5py.VirtualLayout((111, 5), "<f4")
    layout[:] = h5py.VirtualSource("missing.h5", "logits", (111, 5))
    del file["logits"]
    file.create_virtual_dataset("logits", layout, fillvalue=0).attrs.update(description="x", units="x")


def external_storage(file):
    del file["summary/by_view/top1"]
    file.create_dataset("summary/by_view/top1", (3,), "<f8", external=[("raw.bin", 0, 24)])


def object_references(file):
    del file["rows/clip"]
    file.create_dataset("rows/clip", (111,), h5py.ref_dtype)


def unwritten_rows(file):
    replace_dataset(file, "logits", data=None, shape=(111, 5), dtype="<f4", chunks=(64, 5), fletcher32=True)


FOREIGN = {
    "/logits: found a soft or external link": external_link,
    "/rows/view: found a soft or external link": soft_link,
    "/logits: found data of another file": virtual_dataset,
    "/summary/by_view/top1: found data of another file": external_storage,
    r"/views/crop: found the filters \[1\], wanted \[3\]": lambda f: replace_dataset(
        f, "views/crop", compression="gzip"
    ),
    "/rows/clip: found the type object": object_references,
    "/logits: found the type float64": lambda f: replace_dataset(
        f, "logits", data=f["logits"][:].astype("f8"), fletcher32=True
    ),
    "/class_names: found the type": lambda f: replace_dataset(f, "class_names", data=np.array([b"abcd"] * 5)),
    r"/views/flip: found the shape \(110,\)": lambda f: replace_dataset(
        f, "views/flip", data=f["views/flip"][:110], fletcher32=True
    ),
    "/logits: found 0 bytes stored": unwritten_rows,
    "/views/crop: found none, wanted a dataset": lambda f: f.move("views/crop", "views/box"),
    "/extra: found an object that the format does not know": lambda f: f.create_group("extra"),
    "format: found None": lambda f: f.attrs.pop("format"),
    "format_version: found 2, wanted 1": lambda f: f.attrs.modify("format_version", 2),
    "complete: found it unset": lambda f: f.attrs.modify("complete", False),
    "attribute: found Reference, wanted a plain scalar": lambda f: f.attrs.create(
        "fingerprint_x", f.ref, dtype=h5py.ref_dtype
    ),
    "content_sha256: found": lambda f: f.attrs.modify("fingerprint_teacher", "other"),
}


@pytest.mark.parametrize("message", FOREIGN)
def test_foreign_file_is_refused_by_name(copy, message):
    with h5py.File(copy, "r+") as file:
        FOREIGN[message](file)
    with pytest.raises(ValueError, match=message):
        LogitStore.open(copy)
    assert verify(copy) != []


def test_rows_without_a_number_are_refused_even_with_a_fitting_content_hash(copy):
    with h5py.File(copy, "r+") as file:
        file["logits"][7] = np.nan
    rehash(copy)
    with pytest.raises(ValueError, match="/logits: found 1 rows that are not finite"):
        LogitStore.open(copy)


def test_unsorted_ids_are_refused_even_with_a_fitting_content_hash(copy):
    with h5py.File(copy, "r+") as file:
        file["clips/id"][1] = file["clips/id"][0]
    rehash(copy)
    with pytest.raises(ValueError, match="/clips/id: found unsorted or doubled ids"):
        LogitStore.open(copy)


@pytest.mark.parametrize("size", [0, 100, 5000, -1])
def test_truncated_file_is_refused(copy, size):
    os.truncate(copy, size if size >= 0 else copy.stat().st_size - 1)
    with pytest.raises(OSError, match=r"copy.h5: cannot be opened as HDF5.*run the logits stage again"):
        LogitStore.open(copy)
    assert "cannot be opened as HDF5" in verify(copy)[0]


def test_missing_file_and_other_formats_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.h5: found no file"):
        LogitStore.open(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("logits" * 1000)
    with pytest.raises(OSError, match=r"text\.h5: cannot be opened as HDF5"):
        LogitStore.open(tmp_path / "text.h5")


def test_untrusted_file_is_opened_in_a_child_first(copy, spec):
    check_all_rows(LogitStore.open(copy, untrusted=True), spec)
    assert verify_in_child(copy, timeout_sec=0) == ["libhdf5 was still reading after 0 seconds"]
    os.truncate(copy, 5000)
    with pytest.raises(ValueError, match="cannot be opened as HDF5"):
        LogitStore.open(copy, untrusted=True)


class Crash:
    """Ends the process that unpickles it, as libhdf5 would on hostile bytes."""

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGSEGV,)


def test_crash_of_the_child_is_reported():
    assert verify_in_child(Crash()) == ["libhdf5 crashed while reading it (exit code -11)"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_text_that_a_thousand_rows_point_at_does_not_fill_the_memory(tmp_path):
    """HDF5 keeps texts apart from their column, so that a megabyte may stand in every row and once on the disk."""
    clips = 1500
    path = write_store(tmp_path, make_spec(num_clips=clips, num_views=1))
    with h5py.File(path, "r+") as file:
        file["clips/id"][0] = "x" * 10**6
        start = file["clips/id"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[start : start + 16 * clips] = data[start : start + 16] * clips  # length, heap and place of the first text
    path.write_bytes(data)
    (problem,) = verify_in_child(path)
    assert re.fullmatch(r"cannot be read: .*(allocation failed|MB of memory).*", problem)

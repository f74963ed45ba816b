"""Mutations of a logit store, applied and read in a child process, since libhdf5 may crash on them."""

import contextlib
import hashlib
import multiprocessing
import shutil
from pathlib import Path

import h5py
import numpy as np
from fuzz_cases import CPU_SECONDS, MEMORY_BYTES, cpu_limit, peak_bytes
from hypothesis import strategies as st

from pipeline.distillation import logit_store_file
from pipeline.distillation.logit_store import Block, ClipTable, LogitStore, StoreSpec, block_ranges, verify
from pipeline.distillation.logit_store_layout import COLUMNS, GROUPS
from pipeline.distillation.logit_store_writer import ShardWriter, publish

FORK = multiprocessing.get_context("fork")
HANG_SECONDS = 200  # of one case, on a busy machine; what libhdf5 does cannot be stopped from within
PATHS = tuple(column.path for column in COLUMNS)
# What h5py raises where a change cannot be made to this file; the case is then one change poorer.
IMPOSSIBLE = (OSError, LookupError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError, AttributeError)

HUGE = (2**16, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1)
VALUES = (
    *(0, -1, 7, 2**62, 1.5, float("nan"), float("inf"), True, "", "x", "x" * 3000, "ü", b"bytes", b"\xff\xfe"),
    *([1, 2], ["a", "b"], [], [b"a"], 1j, "dl-kdd-logit-store", np.float16(1), np.uint8(3), np.bool_(False)),
)
TYPES = ("<f4", ">f4", "<f8", "<f2", "<i8", ">i4", "|u1", "|b1", "S5", "S1", "c8", "text", "ascii", "ref", "pair")


def write_store(path):
    """A store of five clips, two views, three classes and two frames a view; returns its rows by (clip, view)."""
    rng = np.random.default_rng(0)
    spec = StoreSpec(
        class_names=("Run", "Walk", "Wave é"),
        clips=ClipTable(
            ids=tuple(f"Run/{number}.mp4" for number in range(5)),
            labels=np.array([0, 1, 2, 0, 1], np.int32),
            num_frames=np.full(5, 9, np.int32),
            sha256=tuple(hashlib.sha256(b"%d" % number).hexdigest() for number in range(5)),
        ),
        num_views=2,
        frames_per_view=2,
        fingerprint={"teacher": "abc", "size": 112, "gamma": 0.5, "flip": True},
        provenance={"torch": "2.1"},
    )
    shard = path.with_name("shard")
    with ShardWriter(shard, spec, 5) as writer:
        for span in block_ranges(spec, 5):
            block = Block(
                logits=rng.normal(size=(5, 3)).astype(np.float32),
                frame_indices=rng.integers(0, 9, (5, 2)).astype(np.int32),
                crop=rng.integers(1, 99, (5, 4)).astype(np.int32),
                flip=rng.random(5) < 0.5,
                pixel_crc32=rng.integers(0, 2**32, 5, dtype=np.uint32),
            )
            writer.write(span.number, block)
    publish(path, spec, [shard], minimum_top1=0)
    return rows_of(LogitStore.open(path))


def rows_of(store):
    """Every row of a store, comparable."""
    rows = {}
    for clip_id in store.clip_ids:
        for view in range(store.num_views):
            row = store.row(clip_id, view)
            rows[clip_id, view] = (
                *(row.logits.tobytes(), row.frame_indices, row.crop, row.flip, row.pixel_crc32, row.label),
            )
    return rows


def bytes_changes(size):
    """Changes of single bytes, of whole numbers and of the length; most of a small store is structure."""
    at = st.integers(0, size - 1)
    byte = st.tuples(st.just("byte"), at, st.integers(0, 255))
    number = st.tuples(st.just("number"), at, st.sampled_from([*HUGE, 0, 2**64 - 1]))
    move = st.tuples(st.just("move"), at, at)
    return st.one_of(
        *(byte, byte, byte, number, number, number, move, move),  # what keeps the file's length opens more often
        st.tuples(st.just("cut"), at, st.just(0)),
        st.tuples(st.just("append"), st.integers(1, 5000), st.just(0)),
    )


def structure_changes():
    """Changes that a program with h5py can make."""
    path = st.sampled_from(PATHS)
    place = st.sampled_from(("/", *GROUPS, *PATHS))
    name = st.sampled_from(
        ("format", "format_version", "complete", "content_sha256", "fingerprint_teacher", "x", "signal", "description")
    )
    return st.one_of(
        st.tuples(st.just("attribute"), place, name, st.integers(0, len(VALUES) - 1)),
        st.tuples(st.just("huge attribute"), place, name, st.sampled_from([100, 60_000, 10_000_000])),
        st.tuples(st.just("no attribute"), place, name, st.just(0)),
        st.tuples(st.just("remove"), st.sampled_from((*GROUPS, *PATHS)), st.just(""), st.just(0)),
        st.tuples(st.just("value"), path, st.integers(0, 99), st.sampled_from([0, -1, 1, 2**31 - 1, 1e30])),
        st.tuples(st.just("text"), path, st.integers(0, 4), st.sampled_from(["", "../x", "/x", "\0", "é", b"\xff"])),
        st.tuples(st.just("type"), path, st.sampled_from(TYPES), st.sampled_from([0, 1])),
        st.tuples(st.just("shape"), path, st.sampled_from(["", "0", "1", "double", "rank", "scalar", "null"]), path),
        st.tuples(st.just("declare"), path, st.sampled_from(HUGE), st.sampled_from([1, 5, 2**16, 2**28, 2**31])),
        st.tuples(st.just("filter"), path, st.sampled_from(["gzip", "lzf", "shuffle", "scaleoffset"]), st.just(0)),
        st.tuples(st.just("link"), path, path, st.sampled_from(["soft", "hard", "external", "group", "type"])),
        st.tuples(st.just("extra"), place, st.sampled_from(["x", "logits", "é"]), st.just(0)),
    )


def recipes(size):
    """How a case's file is made: changes of structure, whether the hash is made to fit again, changes of bytes."""
    return st.one_of(
        st.tuples(st.just([]), st.just(False), st.lists(bytes_changes(size), min_size=1, max_size=6)),
        st.tuples(st.lists(structure_changes(), min_size=1, max_size=4), st.booleans(), st.just([])),
        st.tuples(
            st.lists(structure_changes(), min_size=1, max_size=2),
            st.booleans(),
            st.lists(bytes_changes(size), min_size=1, max_size=2),
        ),
    )


def make_case(sound, path, recipe):
    """Write the file of a recipe."""
    structure, fitting, flips = recipe
    shutil.copyfile(sound, path)
    if structure:
        with h5py.File(path, "r+") as file:
            for change in structure:
                with contextlib.suppress(*IMPOSSIBLE):
                    _change(file, *change)
            if fitting:
                with contextlib.suppress(*IMPOSSIBLE):
                    if not logit_store_file.layout_problems(file):  # the reader stops there; a hash may take forever
                        file.attrs["content_sha256"] = logit_store_file.content_sha256(file)
    data = bytearray(path.read_bytes())
    for kind, at, value in flips:
        if kind == "byte":
            data[at % len(data)] = value
        elif kind == "number":
            data[at : at + 8] = value.to_bytes(8, "little")
        elif kind == "move":
            data[at : at + 8] = data[value : value + 8]
        elif kind == "cut":
            del data[at:]
        else:
            data += bytes(at)
        data = data or bytearray(1)
    path.write_bytes(data)


def _change(file, kind, path, more, last):
    if kind == "attribute":
        file[path].attrs[more] = VALUES[last]
    elif kind == "huge attribute":
        file[path].attrs[more] = np.zeros(last, np.uint8)
    elif kind == "no attribute":
        del file[path].attrs[more]
    elif kind == "remove":
        del file[path]
    elif kind == "value":
        flat = _data(file, path).reshape(-1)
        flat[more % len(flat)] = last
        file[path][...] = flat.reshape(file[path].shape)
    elif kind == "text":
        file[path][more] = last
    elif kind == "type":
        _replace(file, path, dtype=_type(more), data=None if last else _data(file, path))
    elif kind == "shape":
        _reshape(file, path, more, last)
    elif kind == "declare":
        dtype = file[path].dtype
        _replace(file, path, dtype=dtype, shape=(more,), chunks=(last,), fletcher32=True)
    elif kind == "filter":
        options = {"gzip": {"compression": "gzip"}, "lzf": {"compression": "lzf"}, "shuffle": {"shuffle": True}}
        _replace(file, path, data=_data(file, path), **options.get(more, {"scaleoffset": 0}))
    elif kind == "link":
        _link(file, path, more, last)
    else:
        file[path].create_dataset(more, data=[1, 2])


def _data(file, path):
    """All of a dataset that an earlier change has not declared huge."""
    if file[path].size > 10**6:
        raise ValueError(path)
    return file[path][...]


def _type(name):
    pair = np.dtype([("a", "<i4"), ("b", "<f4")])
    known = {"text": h5py.string_dtype(), "ascii": h5py.string_dtype("ascii"), "ref": h5py.ref_dtype, "pair": pair}
    return known[name] if name in known else np.dtype(name)


def _replace(file, path, **options):
    attributes, shape = dict(file[path].attrs), file[path].shape
    del file[path]
    if options.get("data") is None:
        options = {"shape": shape} | {name: value for name, value in options.items() if name != "data"}
    file.create_dataset(path, **options).attrs.update(attributes)


def _reshape(file, path, how, other):
    data = _data(file, path)
    shapes = {
        "0": lambda: data[:0],
        "1": lambda: data[:1],
        "double": lambda: np.concatenate([data, data]),
        "rank": lambda: data[None],
        "scalar": lambda: data.reshape(-1)[0],
        "null": lambda: h5py.Empty(data.dtype),
    }
    _replace(file, path, data=shapes[how]() if how else _data(file, other))


def _link(file, path, other, kind):
    del file[path]
    if kind == "group":
        file.create_group(path)
    elif kind == "type":
        file[path] = np.dtype("<f4")
    else:
        links = {"soft": lambda: h5py.SoftLink(f"/{other}"), "hard": lambda: file[other]}
        file[path] = links.get(kind, lambda: h5py.ExternalLink("other.h5", f"/{other}"))()


def read_case(path, rows, *, as_written, limit):
    """Open, read every row and verify: what was found, and what is wrong with that.

    Returns:
        `accepted` or a message of refusal, and a sentence where the reader broke its word.
    """
    problems = verify(path)
    try:
        store = LogitStore.open(path, memory_limit_bytes=limit)
    except (ValueError, OSError) as error:
        return str(error), None if problems else "open refuses what verify finds sound"
    try:
        found = rows_of(store)
    except (ValueError, OSError) as error:
        return str(error), None if problems else "a row is refused in a store that verify finds sound"
    if problems:  # what only a look at all rows finds
        return f"{path}: {problems[0]}", None
    if as_written and found != rows:
        return "accepted", "the rows are others than those that were written"
    return "accepted", None


def run_batch(sound, folder, rows, batch):
    """Read cases in one child; (recipe, message, fault) of each, the message None for the one that ended the child."""
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_read_batch, args=(sender, sound, folder, rows, batch))
    child.start()
    sender.close()
    done = []
    try:
        while len(done) < len(batch):
            if not receiver.poll(HANG_SECONDS):
                done.append((batch[len(done)], None, f"libhdf5 was still reading after {HANG_SECONDS} seconds"))
                break
            done.append((batch[len(done)], *receiver.recv()))
    except EOFError:
        child.join()
        done.append((batch[len(done)], None, f"the child ended with code {child.exitcode}"))
    finally:
        receiver.close()
        child.kill()
        child.join()
    return done


def _read_batch(sender, sound, folder, rows, batch):
    path = Path(folder) / "case.h5"
    for number, recipe in enumerate(batch):
        try:
            make_case(sound, path, recipe)
            before = peak_bytes()
            with cpu_limit(CPU_SECONDS):
                answer = read_case(path, rows, as_written=not recipe[1], limit=number % 2 * 10**6)
            if (added := peak_bytes() - before) > MEMORY_BYTES:
                answer = (answer[0], f"the peak rose by {added} bytes")
        except BaseException as error:
            answer = ("", f"{type(error).__name__}: {error}"[:500])
        sender.send(answer)

"""What the reader of a store keeps in memory, opens again, and refuses, at its very bounds."""

import dataclasses
import inspect
import os
import re

import h5py
import numpy as np
import pytest
from fuzz_stores import write_store

from pipeline.distillation import logit_store
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.logit_store_layout import ROW_COLUMNS

CLIP = "Run/3.mp4"


@pytest.fixture
def path(tmp_path):
    write_store(tmp_path / "logits.h5")
    return tmp_path / "logits.h5"


def test_rows_are_held_in_memory_up_to_the_limit_and_not_beyond(path):
    with h5py.File(path) as file:
        size = sum(file[name].nbytes for name in ROW_COLUMNS)

    def is_held(limit):
        store = LogitStore.open(path, memory_limit_bytes=limit)
        copied = path.with_name("copy.h5")
        os.replace(path, copied)
        try:
            store.row(CLIP, 0)
        except OSError:  # no file to read from
            return False
        else:
            return True
        finally:
            os.replace(copied, path)

    assert [is_held(limit) for limit in (0, size - 1, size, size + 1)] == [False, False, True, True]
    assert inspect.signature(LogitStore.open).parameters["memory_limit_bytes"].default == 2**30
    with pytest.raises(TypeError):
        LogitStore.open(path, 0)


@pytest.mark.parametrize("view", [-1, 2, 3, 100])
def test_a_view_that_is_not_there_is_refused_with_those_that_are(path, view):
    with pytest.raises(
        ValueError, match=rf"no row of clip '{CLIP}', view {view}, wanted one of 5 clips and views 0 to 1;"
    ):
        LogitStore.open(path).row(CLIP, view)


@pytest.mark.parametrize(("missing", "said"), [(1, "'a'"), (3, "'a', 'b', 'c'"), (4, "'a', 'b', 'c', ...")])
def test_the_first_three_clips_are_named_and_more_are_hinted_at(path, missing, said):
    store = LogitStore.open(path)
    ids, sha256 = [*store.clip_ids, *"abcdef"[:missing]], [*store.clip_sha256, *["0" * 64] * missing]
    with pytest.raises(ValueError, match=re.escape(f"{missing} clips missing in the store ({said}), wanted")):
        store.require_clips(ids, sha256)


def test_a_row_that_is_damaged_after_opening_is_named(path):
    store = LogitStore.open(path, memory_limit_bytes=0)
    with h5py.File(path) as file:
        place = file["logits"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(OSError, match=rf"clip '{CLIP}', view 0: cannot be read, its bytes are damaged"):
        store.row(CLIP, 0)


def test_a_store_that_lost_a_column_after_opening_is_named(path):
    store = LogitStore.open(path, memory_limit_bytes=0)
    with h5py.File(path, "r+") as file:
        del file["rows/row_crc32"]
    with pytest.raises(OSError, match=r"logits\.h5: was damaged since it was opened"):
        store.row(CLIP, 0)


def test_clips_without_a_hash_are_refused(path):
    store = LogitStore.open(path)
    with pytest.raises(ValueError, match="shorter"):
        store.require_clips(store.clip_ids, store.clip_sha256[:-1])


def test_a_stored_row_is_not_changed_by_accident(path):
    row = LogitStore.open(path).row(CLIP, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.label = 3
    assert len({row, LogitStore.open(path).row(CLIP, 0)}) == 2  # by identity: arrays have no truth to compare by


@pytest.mark.parametrize("crc32", [0, 2**32 - 1])
def test_a_checksum_that_is_smaller_or_greater_is_no_match(path, crc32):
    store = LogitStore.open(path, memory_limit_bytes=0)
    with h5py.File(path, "r+") as file:
        file["rows/row_crc32"][3] = crc32
    with pytest.raises(ValueError, match="row does not match its crc32"):
        store.row(CLIP, 0)


@pytest.mark.parametrize("digest", ["0" * 64, "f" * 64])
def test_a_store_put_in_the_place_of_another_is_refused_whatever_its_hash(path, digest):
    store = LogitStore.open(path, memory_limit_bytes=0)
    with h5py.File(path, "r+") as file:
        file.attrs["content_sha256"] = digest
    with pytest.raises(ValueError, match="found another store than the one opened before"):
        store.row(CLIP, 0)


@pytest.mark.parametrize("step", [1, -1])
def test_a_process_opens_the_file_once_and_none_reads_through_anothers_handle(path, monkeypatch, step):
    opened, real = [], logit_store.open_hdf5
    store = LogitStore.open(path, memory_limit_bytes=0)
    monkeypatch.setattr(logit_store, "open_hdf5", lambda *given, **more: opened.append(1) or real(*given, **more))
    wanted = store.row(CLIP, 0)
    store.row(CLIP, 1)
    assert len(opened) == 1
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + step)  # as in a process that was forked
    assert store.row(CLIP, 0).logits.tolist() == wanted.logits.tolist()
    store.row(CLIP, 1)
    assert len(opened) == 2


def test_flags_are_read_as_bytes_and_other_columns_as_they_are(path):
    """h5py converts bools one by one, which takes four times as long."""
    with h5py.File(path) as file:
        flags = logit_store._column(file, "views/flip")
        assert isinstance(flags, logit_store._Flags)
        assert flags[2:5].tolist() == file["views/flip"][2:5].tolist()
        assert flags[2:5].dtype == np.bool_
        for name in set(ROW_COLUMNS) - {"views/flip"}:
            assert isinstance(logit_store._column(file, name), h5py.Dataset)

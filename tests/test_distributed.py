"""Several processes fill one logit store: the bytes of one process, whoever is killed, stopped or added in between."""

import hashlib
import io
import os
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from processes import finish, needs_proc, ranks_of, start

from pipeline import presets
from pipeline.cli import cli
from pipeline.distillation.logit_store import Block, ClipTable, LogitStore, StoreSpec, block_ranges
from pipeline.distillation.logit_store_shards import Shard
from pipeline.distillation.logit_store_size import estimate_bytes
from pipeline.distillation.logit_store_writer import ShardWriter, publish
from pipeline.training.distributed import LAUNCHER, PROCESSES, launch, processes_to_start, wait_for_writers

ROOT = Path(__file__).parents[1]
OPTIONS = ["--clips", "clips.csv", "--videos", "rendered/videos", "--teacher", "teacher.safetensors"]
LONG = {"views": 40, "batch_size": 1}  # 440 blocks: long enough to be stopped in the middle
SHARDS = ".work/logits/shard-{}.h5"


@pytest.fixture(scope="module")
def long_bytes(with_teacher, tmp_path_factory, small_configs):
    """The store of an uninterrupted run of one process, with the settings LONG."""
    return whole(with_teacher, tmp_path_factory.mktemp("long") / "run", small_configs(logits=LONG))


def whole(run, folder, configs):
    fresh = run.copy(folder, configs)
    fresh.logits()
    return fresh["logits.h5"].read_bytes()


def run(folder, params, processes):
    return start(folder, params, ["logits", *OPTIONS, "--store", "logits.h5"], **{PROCESSES: str(processes)})


def wait_for_flushes(folder, process, count, limit_sec=120):
    """Until every rank has written a few blocks."""
    end = time.monotonic() + limit_sec
    for rank in range(count):
        path, seen = folder / SHARDS.format(rank), set()
        while len(seen) < 10:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < end, f"{path} never got a block"
            if path.exists():
                seen.add(path.stat().st_mtime_ns)
            time.sleep(0.0005)


def gone(pid):
    """Whether a process has ended; one that nobody has asked for its exit code yet has, too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def wait_until_gone(pids, limit_sec=60):
    end = time.monotonic() + limit_sec
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < end, f"still running: {pids}"
        time.sleep(0.01)


def kept(output):
    """(blocks kept, blocks in all) that a run said it goes on with."""
    words = next(line for line in output.splitlines() if "goes on with" in line).split()
    return int(words[words.index("with") + 1]), int(words[words.index("of") + 1])


def spec_of(store_path, num_views):
    store = LogitStore.open(store_path)
    clips = ClipTable(ids=store.clip_ids, labels=store.labels, num_frames=store.num_frames, sha256=store.clip_sha256)
    return StoreSpec(
        class_names=store.class_names,
        clips=clips,
        num_views=num_views,
        frames_per_view=store.frames_per_view,
        fingerprint=store.fingerprint,
        provenance=store.provenance,
    )


def blocks_in(shard, spec, batch_size):
    opened = Shard(shard, "r", spec, batch_size)
    with opened.file:
        return sorted(opened.slots)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_write_the_bytes_of_one_and_add_views_without_computing_any_again(
    with_teacher, tmp_path, small_params, small_configs, capsys
):
    two, three = small_configs(), small_configs(logits={"views": 3})
    folder = with_teacher.copy(tmp_path / "run").folder
    output = finish(run(folder, small_params(), 2))
    capsys.readouterr()
    assert (folder / "logits.h5").read_bytes() == whole(with_teacher, tmp_path / "two", two)
    # The second rank is silent.
    assert len(output.splitlines()) == len(capsys.readouterr().out.splitlines()), output
    batch_size, shards = two["logits"].batch_size, [folder / SHARDS.format(rank) for rank in range(2)]
    spec = spec_of(folder / "logits.h5", 3)
    before = [blocks_in(shard, spec, batch_size) for shard in shards]
    # 11 clips in blocks of 4: 3 blocks a view, taken in turns.
    assert before == [[0, 2, 4], [1, 3, 5]]

    assert kept(finish(run(folder, small_params(logits={"views": 3}), 2))) == (6, 9)
    assert [blocks_in(shard, spec, batch_size) for shard in shards] == [[0, 2, 4, 6, 8], [1, 3, 5, 7]]
    assert (folder / "logits.h5").read_bytes() == whole(with_teacher, tmp_path / "three", three)


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_proc
def test_killed_and_stopped_ranks_go_on_with_any_number_of_processes(with_teacher, long_bytes, tmp_path, small_params):
    folder = with_teacher.copy(tmp_path / "run").folder
    params = small_params(logits=LONG)
    with run(folder, params, 2) as process:
        ranks = ranks_of(process, 2)
        wait_for_flushes(folder, process, 2)
        os.kill(ranks[1], signal.SIGKILL)
        output = process.communicate()[0]
    assert process.returncode == 1
    assert "process 1 was ended by SIGKILL" in output
    assert all(gone(rank) for rank in ranks)
    assert not (folder / "logits.h5").exists()

    with run(folder, params, 3) as first:
        ranks = ranks_of(first, 3)
        wait_for_flushes(folder, first, 3)
        os.kill(ranks[0], signal.SIGSTOP)  # so that it is still at work when the next one comes
        with run(folder, params, 1) as second:
            line = second.stdout.readline()
            assert re.search(rf"process {ranks[0]} on .* is doing this stage already; waiting for it", line)
            first.send_signal(signal.SIGINT)
            os.kill(ranks[0], signal.SIGCONT)
            output = first.communicate()[0]
            assert first.returncode == 130, output
            assert output.count("stopped; start again to go on") == 1
            assert "Traceback" not in output
            assert all(gone(rank) for rank in ranks)
            after_kill = kept(output)[0]
            output = second.communicate()[0]
    assert second.returncode == 0, output
    assert 0 < after_kill < kept(output)[0] < kept(output)[1] == 440
    assert (folder / "logits.h5").read_bytes() == long_bytes


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills ranks with their launcher")
def test_a_killed_process_group_leaves_no_rank_behind(
    with_teacher, long_bytes, tmp_path, small_configs, small_params, capsys
):
    copied = with_teacher.copy(tmp_path / "run", small_configs(logits=LONG))
    with run(copied.folder, small_params(logits=LONG), 2) as process:
        ranks = ranks_of(process, 2)
        wait_for_flushes(copied.folder, process, 2)
        os.killpg(process.pid, signal.SIGKILL)  # of the launcher alone: ranks have groups of their own
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    wait_until_gone(ranks)
    assert not copied["logits.h5"].exists()
    copied.logits()
    done, total = kept(capsys.readouterr().out)
    assert 0 < done < total == 440
    assert copied["logits.h5"].read_bytes() == long_bytes


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_shard_is_checked_and_a_failing_rank_names_its_reason(with_teacher, tmp_path, small_configs, small_params):
    copied = with_teacher.copy(tmp_path / "run")
    copied.logits()
    spec, store = spec_of(copied["logits.h5"], 2), copied["logits.h5"]
    shards = [copied[SHARDS.format(number)] for number in (0, 1)]
    with ShardWriter(shards[0], spec, 4) as kept_blocks:
        found = kept_blocks.read(1)
    changed = Block(**found.columns() | {"logits": found.logits + np.float32(0.5)})
    with ShardWriter(shards[1], spec, 4) as writer:
        writer.write(1, changed)
    store.unlink()
    with run(copied.folder, small_params(), 2) as process:
        output = process.communicate()[0]
    assert process.returncode == 1
    assert "process 1: Error: .work/logits/shard-1.h5: the first kept block does not come out the same" in output
    assert "Error: logits: " in output
    assert "process 1 failed with exit code 1" in output
    assert not store.exists()


def test_equal_blocks_in_two_shards_are_taken_once(with_teacher, tmp_path, capsys):
    copied = with_teacher.copy(tmp_path / "run")
    copied.logits()
    before = copied["logits.h5"].read_bytes()
    copied["logits.h5"].unlink()
    shutil.copy(copied[SHARDS.format(0)], copied[SHARDS.format(7)])
    capsys.readouterr()
    copied.logits()
    assert kept(capsys.readouterr().out) == (6, 6)
    assert copied["logits.h5"].read_bytes() == before


def test_a_start_waits_for_readers_that_still_hold_a_shard(with_teacher, tmp_path, monkeypatch):
    copied = with_teacher.copy(tmp_path / "run")
    copied.logits()
    shard = copied[SHARDS.format(0)]
    said = io.StringIO()  # what pytest captures it empties when it is read, and may lose what comes meanwhile
    monkeypatch.setattr(sys, "stderr", said)
    with ShardWriter(shard, spec_of(copied["logits.h5"], 2), 4):
        waiting = threading.Thread(target=wait_for_writers, args=[[shard]])
        waiting.start()
        end = time.monotonic() + 60
        while "waiting for that one to end" not in said.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
        assert f"{shard}: a process of an earlier run still has it open" in said.getvalue()
        assert waiting.is_alive()
    waiting.join(60)
    assert not waiting.is_alive()


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_a_bad_number_of_processes_is_refused(monkeypatch, value):
    monkeypatch.delenv(LAUNCHER, raising=False)
    monkeypatch.setenv(PROCESSES, value)
    with pytest.raises(ValueError, match=rf"\$DLKDD_PROCESSES: found '{value}', wanted a whole number of at least 1"):
        processes_to_start()


def test_one_process_is_the_default_and_a_rank_starts_no_others(monkeypatch):
    monkeypatch.delenv(LAUNCHER, raising=False)
    monkeypatch.delenv(PROCESSES, raising=False)
    assert processes_to_start() == 1
    monkeypatch.setenv(PROCESSES, "3")
    assert processes_to_start() == 3
    monkeypatch.setenv(LAUNCHER, "1")
    assert processes_to_start() == 1


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", r"\$DLKDD_PROCESSES: found 3, wanted at most 2, the number of GPUs"),
        ("cuda:1", r"compute\.device: found 'cuda:1' with \$DLKDD_PROCESSES=3, wanted auto, cuda or cpu"),
    ],
)
def test_more_processes_than_gpus_are_refused(monkeypatch, device, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=message):
        launch(["logits"], processes=3, device=torch.device(device))


def dry_run(folder, monkeypatch, processes=1):
    monkeypatch.setenv(PROCESSES, str(processes))
    before = state(folder)
    options = ["--store", "logits.h5", "--params", "params.yaml", "--dry-run"]
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(cli, ["logits", *OPTIONS, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert state(folder) == before
    return dict(line.split(": ", 1) for line in result.output.splitlines())


def state(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(
    with_teacher, tmp_path, small_configs, small_params, monkeypatch
):
    copied = with_teacher.copy(tmp_path / "run")
    presets.write_params(copied["params.yaml"], small_params(logits={"views": 3}), name="demo", force=True)
    said = dry_run(copied.folder, monkeypatch)
    assert said["rows"].startswith("33 (11 clips x 3 views, 11 classes, 4 frames a view)")
    assert said["kept"].startswith("0 rows in 0 shards")
    assert "for 33 rows, from one block of 4 rows" in said["time"]

    copied.logits()  # 2 of the 3 views
    said = dry_run(copied.folder, monkeypatch, processes=2)
    assert said["kept"].startswith("22 rows in 1 shards")
    assert "for 11 rows" in said["time"]
    assert "2 processes" in said["time"]

    copied.configs = small_configs(logits={"views": 3})
    copied.logits()
    said = dry_run(copied.folder, monkeypatch)
    assert said["time"] == "every row is kept, the store is only written out"

    # Rows of another batch size do not count, and stay.
    presets.write_params(copied["params.yaml"], small_params(logits={"batch_size": 2}), name="demo", force=True)
    assert dry_run(copied.folder, monkeypatch)["kept"].startswith("0 rows in 0 shards")


@pytest.mark.parametrize(
    ("clips", "views", "classes", "frames"),
    [(100, 100, 11, 16), (1500, 1, 200, 16), (300, 40, 20, 8), (40, 200, 6, 32)],
)
def test_the_estimated_size_is_within_2_percent_of_the_files(tmp_path, clips, views, classes, frames):
    rng = np.random.default_rng(0)
    spec = StoreSpec(
        class_names=tuple(f"class {number}" for number in range(classes)),
        clips=ClipTable(
            ids=tuple(f"Run/Run_{number:05d}.mp4" for number in range(clips)),
            labels=np.arange(clips, dtype=np.int32) % classes,
            num_frames=np.full(clips, 90, np.int32),
            sha256=tuple(hashlib.sha256(bytes([number % 256])).hexdigest() for number in range(clips)),
        ),
        num_views=views,
        frames_per_view=frames,
        fingerprint={f"field_{number}": "a value of some length" for number in range(16)},
        provenance={"torch": "2.8.0", "num_views": views},
    )
    shard, store = tmp_path / "shard-0.h5", tmp_path / "logits.h5"
    with ShardWriter(shard, spec, clips) as writer:
        for span in block_ranges(spec, clips):
            writer.write(
                span.number,
                Block(
                    logits=rng.normal(size=(clips, classes)).astype(np.float32),
                    frame_indices=np.zeros((clips, frames), np.int32),
                    crop=np.ones((clips, 4), np.int32),
                    flip=np.zeros(clips, np.bool_),
                    pixel_crc32=np.zeros(clips, np.uint32),
                ),
            )
    publish(store, spec, [shard], minimum_top1=0.0)
    assert estimate_bytes(spec) == pytest.approx(store.stat().st_size, rel=0.02)

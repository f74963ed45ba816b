"""Full disks and failing writes: what stood before stays whole, and the message says what is missing and what to do.

Two ways to make a write fail inside any library: a limit on the size of files, and a small file system in memory.
"""

import contextlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from micro import Run

from pipeline import presets
from pipeline.clips.clip_index import read_clips
from pipeline.clips.frame_cache import CachedFrames, CachePolicy, open_dark_frames
from pipeline.clips.video import write_video
from pipeline.presets import ARID_CLASSES
from pipeline.training.checkpoint import save_state

resource = pytest.importorskip("resource", reason="this system has no limits on the size of files")

SAID = (
    r"(the disk is full|files may not grow that large here): it needs more than the (\d+) bytes that could be written, "
    r"\d+ are free beside them; .*What `dvc repro` removed before is brought back by `dvc checkout`"
)
REFUSED = r"the disk is full: it needs \d+ bytes, \d+ are free; .*is brought back by `dvc checkout`"
"""Where the size is known beforehand."""


@contextlib.contextmanager
def files_of_at_most(size):
    """No file of this process grows beyond so many bytes; the kernel refuses the write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


STAGES = {
    "prepare": "clips.csv",
    "enhancer": "enhancer.safetensors",
    "teacher": "teacher.safetensors",
    "logits": "logits.h5",
    "student": "student.safetensors",
    "baseline": "baseline.safetensors",
    "evaluate": "predictions.csv",
    "report": "report.html",
}


def start(run, stage):
    """A stage with its usual arguments."""
    arguments = {"prepare": [ARID_CLASSES], "report": [run.folder.parents[1] / "params.yaml"]}
    getattr(run, stage)(*arguments.get(stage, []))


@pytest.fixture(scope="module")
def done(tmp_path_factory, small_configs, small_params):
    """A whole run; tests copy it."""
    run = Run(tmp_path_factory.mktemp("done") / "data/micro", small_configs())
    run.folder.mkdir(parents=True)
    presets.write_params(run.folder.parents[1] / "params.yaml", small_params(), name="demo", force=False)
    run.render()
    for stage in STAGES:
        start(run, stage)
    return run


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"logits"}))
def test_a_stage_that_cannot_write_keeps_the_old_out_and_goes_on_when_it_can(done, tmp_path, stage):
    shutil.copy(done.folder.parents[1] / "params.yaml", tmp_path)
    run = done.copy(tmp_path / "data/micro", work=False)
    out = run[STAGES[stage]]
    whole = out.read_bytes()
    out.write_bytes(b"an older one")
    before = {path.name for path in run.folder.iterdir()}
    for share in (4, 2):
        with files_of_at_most(len(whole) // share), pytest.raises(OSError, match=SAID) as caught:
            start(run, stage)
        named = str(caught.value).partition(": ")[0]
        assert named.startswith(str(run.folder)), named
        assert out.read_bytes() == b"an older one"
        assert {path.name for path in run.folder.iterdir()} - before <= {".work"}  # nothing half-written
    start(run, stage)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("free_kb", [8, 300, 600])
def test_a_store_on_a_full_disk_is_whole_or_old(done, small_disk, free_kb):
    run = done.copy(small_disk / "run", work=False)
    whole = run["logits.h5"].read_bytes()
    run["logits.h5"].write_bytes(b"an older one")
    rest = small_disk / "rest"
    rest.write_bytes(bytes(shutil.disk_usage(small_disk).free - 1024 * free_kb))
    # A process of its own: HDF5 is in no good state after a write that failed.
    params = done.folder.parents[1] / "params.yaml"
    places = {"clips": "clips.csv", "videos": "rendered/videos", "teacher": "teacher.safetensors", "store": "logits.h5"}
    named = [part for name, place in places.items() for part in (f"--{name}", run[place])]
    command = [sys.executable, "-m", "pipeline", "logits", *named, "--params", params]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1, failed.stderr
    assert re.search(rf"{SAID}|{REFUSED}", failed.stderr), failed.stderr
    assert "Traceback" not in failed.stderr
    assert run["logits.h5"].read_bytes() == b"an older one"
    rest.unlink()
    subprocess.run(command, check=True, capture_output=True)
    assert run["logits.h5"].read_bytes() == whole


def test_kept_frames_training_states_and_videos_name_the_file_and_leave_none(done, tmp_path, small_disk):
    clip = read_clips(done["clips.csv"])[0]
    policy = CachePolicy(folder=small_disk / "frames", mode="on", limit_bytes=1e9)
    kept = open_dark_frames([clip], done.videos, frame_size=(64, 88), colour_range="auto", cache=policy)
    assert isinstance(kept, CachedFrames)
    noise = np.random.default_rng(0).integers(0, 256, (4, 200, 200, 3), dtype=np.uint8)
    writers = {
        rf"frames/\w+/{clip.sha256}\.npy": lambda: kept.fill(clip),
        "state.pt": lambda: save_state(small_disk / "state.pt", {"weights": torch.zeros(100_000)}),
        "noise.mp4": lambda: write_video(small_disk / "noise.mp4", noise, fps=30, lossless=True),
    }
    rest = small_disk / "rest"
    rest.write_bytes(bytes(shutil.disk_usage(small_disk).free - 16_384))
    for name, write in writers.items():
        with pytest.raises(OSError, match=f"{name}: {SAID}") as caught:
            write()
        assert int(re.search(SAID, str(caught.value))[2]) <= 16_384
        assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["rest"]
    rest.unlink()
    for write in writers.values():
        write()
    assert len([path for path in small_disk.rglob("*") if path.is_file()]) == 3

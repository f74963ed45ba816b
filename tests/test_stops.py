"""Killed stages go on from what they finished and end in the bytes of a run that was never stopped."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from micro import FIGURES, Run

from pipeline import presets
from pipeline.clips.files import replacing
from pipeline.presets import ARID_CLASSES

ROOT = Path(__file__).parents[1]
LONGER = {
    "teacher": {"epochs": 8},
    "student": {"epochs": 8},
    "enhancer": {"steps": 200},
    "logits": {"views": 8, "batch_size": 2},
}


OPTIONS_OF = {"MODEL_CARD.md": "--card"}

# Stage: what it needs, what it writes, and the file whose appearance says that it has finished a part.
STAGES = {
    "render": (["--out", "rendered"], ["rendered"], ".work/render/rendered/videos/Run"),
    "prepare": (
        [
            "--run",
            "demo",
            "--videos",
            "rendered/videos",
            "--train",
            "rendered/train.txt",
            "--test",
            "rendered/test.txt",
            "--clips",
            "clips.csv",
            "--statistics",
            "statistics.json",
            "--quarantine",
            "quarantine.csv",
        ],
        ["clips.csv", "statistics.json", "quarantine.csv"],
        ".work/prepare/probed.jsonl",
    ),
    "enhancer": (
        ["--checkpoint", "enhancer.safetensors", "--contact-sheet", "enhancer.png", "--figures", "enhancer.json"],
        ["enhancer.safetensors", "enhancer.png", "enhancer.json"],
        ".work/enhancer/state.pt",
    ),
    "teacher": (
        ["--statistics", "statistics.json", "--enhancer", "enhancer.safetensors", "--card", "teacher.json"],
        ["teacher.safetensors", "teacher.json", "teacher_curve.csv"],
        ".work/teacher/state.pt",
    ),
    "logits": (["--teacher", "teacher.safetensors", "--store", "logits.h5"], ["logits.h5"], ".work/logits/shard-0.h5"),
    "student": (
        ["--statistics", "statistics.json", "--store", "logits.h5", "--teacher-card", "teacher.json"],
        ["student.safetensors", "student_curve.csv"],
        ".work/student/state.pt",
    ),
    "evaluate": (
        [part for kind in ("baseline", "teacher", "student") for part in (f"--{kind}", f"{kind}.safetensors")]
        + [part for name in FIGURES for part in (OPTIONS_OF.get(name, f"--{name.split('.')[0]}"), name)],
        list(FIGURES),
        ".work/evaluate/key",
    ),
    "baseline": (
        ["--statistics", "statistics.json"],
        ["baseline.safetensors", "baseline_curve.csv"],
        ".work/baseline/state.pt",
    ),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory, small_configs):
    run = Run(tmp_path_factory.mktemp("whole") / "micro", small_configs(**LONGER))
    run.folder.mkdir()
    run.render()
    run.prepare(ARID_CLASSES)
    for stage in ("enhancer", "teacher", "logits", "student", "baseline", "evaluate"):
        getattr(run, stage)()
    return run


def start(stage, folder, params):
    presets.write_params(folder / "params.yaml", params, name="demo", force=True)
    arguments = list(STAGES[stage][0])
    if stage not in ("render", "prepare"):
        arguments += ["--clips", "clips.csv", "--videos", "rendered/videos"]
    if stage in ("teacher", "student", "baseline"):
        arguments += ["--checkpoint", f"{stage}.safetensors", "--curve", f"{stage}_curve.csv"]
        arguments += ["--timings", f"{stage}_timings.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", stage, *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path, process, limit_sec=120):
    """Until the stage has finished a part; the file is looked for, nothing is slept through blindly."""
    end = time.monotonic() + limit_sec
    while not (path.exists() and (path.is_dir() or path.stat().st_size)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, f"{path} never appeared"
        time.sleep(0.002)
    # A shard is there before its first block: wait for some flushes.
    seen = set()
    while path.suffix == ".h5" and len(seen) < 10:
        seen.add(path.stat().st_mtime_ns)
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.0005)


def content(folder, outs):
    files = [
        path for out in outs for path in ([folder / out] if (folder / out).is_file() else (folder / out).rglob("*"))
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_goes_on_and_ends_in_the_same_bytes(done, tmp_path, small_params, stage):
    _, outs, sign = STAGES[stage]
    folder = done.copy(tmp_path / done.folder.name).folder
    for out in outs:
        shutil.rmtree(folder / out) if (folder / out).is_dir() else (folder / out).unlink()
    params = small_params(**LONGER)
    with start(stage, folder, params) as process:
        wait_for(folder / sign, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert content(folder, outs[:1]) == {}
    with start(stage, folder, params) as process:
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert content(folder, outs) == content(done.folder, outs)
    if stage in ("teacher", "student", "baseline", "enhancer", "logits"):
        assert "goes on" in output


def test_ctrl_c_exits_130_and_leaves_no_out(done, tmp_path, small_params):
    folder = done.copy(tmp_path / done.folder.name).folder
    (folder / "teacher.safetensors").unlink()
    with start("teacher", folder, small_params(**LONGER)) as process:
        wait_for(folder / ".work/teacher/state.pt", process)
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130
    assert "stopped; start again to go on" in output
    assert not (folder / "teacher.safetensors").exists()


def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "out"
    path.write_text("old")

    def write():
        with replacing(path) as partial:
            partial.write_text("ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"out: the disk is full: it needs more than the \d+ bytes.*`dvc checkout`"):
        write()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]

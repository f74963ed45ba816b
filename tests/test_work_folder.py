import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.training import work_folder as module
from pipeline.training.work_folder import clean, work_folder, work_key, work_root

ROOT = Path(__file__).parents[1]


def hold(out, stage="student", **changes):
    given = {"settings": {"lr": 1.0}, "inputs": []} | changes
    return work_folder(stage, out=out, **given)


def test_work_of_the_same_key_is_kept_and_of_another_removed(tmp_path):
    out = tmp_path / "run" / "student.safetensors"
    source = tmp_path / "clips.csv"
    source.write_text("a")
    with hold(out, inputs=[source]) as work:
        (work / "state").write_text("x")
    with hold(out, inputs=[source]) as work:
        assert (work / "state").exists()
    with hold(out, inputs=[source], settings={"lr": 2.0}) as work:
        assert not (work / "state").exists()
        (work / "state").write_text("x")
    source.write_text("b")
    with hold(out, inputs=[source], settings={"lr": 2.0}) as work:
        assert not (work / "state").exists()
        (work / "state").write_text("x")
    with hold(out, inputs=[source], settings={"lr": 2.0}, fresh=True) as work:
        assert not (work / "state").exists()


def test_changed_code_is_another_key(tmp_path, monkeypatch):
    before = work_key("student", settings={}, inputs=[])
    assert before == work_key("student", settings={}, inputs=[])
    changed = tmp_path / "losses.py"
    changed.write_text("# changed")
    real = module.source_files
    monkeypatch.setattr(
        module, "source_files", lambda name: [changed if p.name == "losses.py" else p for p in real(name)]
    )
    assert work_key("student", settings={}, inputs=[]) != before


def test_another_stage_clears_unfinished_work_but_not_rows_and_frames(tmp_path):
    out = tmp_path / "run" / "x"
    for stage in ("teacher", "logits"):
        with hold(out, stage) as work:
            (work / "state").write_text("x")
    frames = work_root(out) / "frames"
    frames.mkdir()
    with hold(out, "student"):
        assert not (work_root(out) / "teacher").exists()
        assert (work_root(out) / "logits" / "state").exists()
        assert frames.exists()


def test_a_missing_input_names_the_file(tmp_path):
    with (
        pytest.raises(ValueError, match=r"none\.csv: no such file"),
        hold(tmp_path / "x", inputs=[tmp_path / "none.csv"]),
    ):
        pass


def test_a_second_process_waits_and_names_the_first(tmp_path):
    out = tmp_path / "run" / "x"
    code = (
        "import sys; from pathlib import Path; from pipeline.training.work_folder import work_folder\n"
        f"with work_folder('student', out=Path({str(out)!r}), settings={{}}, inputs=[]) as work:\n"
        "    print('holding', flush=True); sys.stdin.readline(); (work / 'done').write_text('x')"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as first:
        assert first.stdout.readline() == "holding\n"
        with subprocess.Popen(command, **pipes) as second:
            message = second.stderr.readline()
            found = re.search(r"process (\d+) on (\S+), since (.+) is doing this stage already", message)
            assert found[1] == str(first.pid)
            assert found[2] == socket.gethostname()
            since = datetime.strptime(found[3], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
            assert timedelta(0) <= datetime.now(UTC) - since < timedelta(minutes=5)
            with pytest.raises(ValueError, match=rf"student\.lock: process {first.pid} on .*; wait for it, or stop it"):
                clean(tmp_path / "run")
            first.communicate("go\n")
            # Only now the second holds it, and finds what the first finished.
            assert second.stdout.readline() == "holding\n"
            assert (work_root(out) / "student" / "done").exists()
            second.communicate("go\n")
    assert first.returncode == second.returncode == 0


def test_clean_counts_what_it_removes(tmp_path):
    left = tmp_path / "run" / ".work" / "frames" / "a.npy"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"123")
    assert clean(tmp_path / "run") == 3
    assert not (tmp_path / "run" / ".work").exists()

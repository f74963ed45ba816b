"""Several tasks at once, and what ends it."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.studies.at_once import run_at_once

ROOT = Path(__file__).parents[1]
PATIENCE = 60
"""Seconds after which a test has failed; what it waits for comes at once."""


def wait_until(happened):
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # one that has ended and that nobody has asked for is in the table still
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def meet(folder, seed):
    """Ends once another seed's process is there at the same time; the third finds both gone."""
    (folder / f"{seed}").write_text(str(os.getpid()))
    if seed < 2:
        wait_until((folder / f"{1 - seed}").exists)
    else:
        assert any(not is_there(int((folder / f"{other}").read_text())) for other in (0, 1))


def fail_first(folder, seed):
    """Seed 0 has a problem, seed 1 ends after the one that waits has seen that."""
    (folder / f"{seed}").touch()
    if seed == 0:
        wait_until((folder / "1").exists)
        (folder / "pid").write_text(str(os.getpid()))
        raise ValueError("clip 3 is no clip")
    wait_until((folder / "pid").exists)
    wait_until(lambda: not is_there(int((folder / "pid").read_text())))
    (folder / "1 is through").touch()


def break_down(seed):
    if seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    raise KeyError(seed)


def wait_for_ever(folder, seed):
    (folder / f"{seed}").write_text(str(os.getpid()))
    (folder / f"{seed}").rename(folder / f"{seed} is there")
    time.sleep(10 * PATIENCE)


def test_as_many_as_asked_for_work_at_once(tmp_path):
    run_at_once(functools.partial(meet, tmp_path), [0, 1, 2], jobs=2)
    assert len(list(tmp_path.iterdir())) == 3


def test_after_a_failure_none_is_started_and_those_that_run_end(tmp_path):
    with pytest.raises(ChildProcessError, match=r"^0: clip 3 is no clip; not started: 2; 3$"):
        run_at_once(functools.partial(fail_first, tmp_path), [0, 1, 2, 3], jobs=2)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "pid", "1 is through"}


def test_a_process_without_words_is_told_of(capfd):
    with pytest.raises(ChildProcessError, match=r"^1: its process was ended by SIGKILL; fewer --jobs"):
        run_at_once(break_down, [1], jobs=2)
    with pytest.raises(ChildProcessError, match=r"^0: its process failed with exit code 1, see above"):
        run_at_once(break_down, [0], jobs=2)
    assert "KeyError: 0" in capfd.readouterr().err


@pytest.mark.parametrize("stopped_by", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_waits(tmp_path, stopped_by):
    # A shell in the background lets its programs ignore Ctrl-C.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "import sys, functools, pathlib, test_at_once as t; "
    code += "t.run_at_once(functools.partial(t.wait_for_ever, pathlib.Path(sys.argv[1])), [0, 1, 2], jobs=2)"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL) as waiting:
        there = [tmp_path / f"{seed} is there" for seed in (0, 1)]
        wait_until(lambda: all(path.exists() for path in there))
        waiting.send_signal(stopped_by)
        assert waiting.wait(PATIENCE)
        wait_until(lambda: not any(is_there(int(path.read_text())) for path in there))
    assert not (tmp_path / "2 is there").exists()

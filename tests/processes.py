"""The command line in a process group of its own, and the ranks that it starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import presets

ROOT = Path(__file__).parents[1]

needs_proc = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="finds the ranks through Linux' /proc"
)


def start(folder, params, arguments, *, before=(), **environment):
    """Write params.yaml and start a subcommand beside it; what it prints comes through a pipe."""
    presets.write_params(folder / "params.yaml", params, name="demo", force=True)
    return subprocess.Popen(
        [sys.executable, *before, "-m", "pipeline", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process):
    """Wait for the end, which must be a good one; what was printed."""
    with process:
        output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


def ranks_of(process, count, limit_sec=120):
    """Process ids of a launcher's ranks, in order, once all have started."""
    end, found = time.monotonic() + limit_sec, {}
    while len(found) < count:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, "the ranks never started"
        time.sleep(0.01)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            try:
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            found |= {int(v.removeprefix(b"RANK=")): int(child) for v in variables if v.startswith(b"RANK=")}
    return [found[rank] for rank in range(count)]

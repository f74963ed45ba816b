"""Processes that a soak starts and kills, each in a session of its own, and the clones that they run in."""

import importlib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from ruamel.yaml import YAML

RUN = "demo"
SMALL = {
    "render": {"train_clips_per_class": 1, "test_clips_per_class": 1, "num_frames": 10, "frame_size": [32, 44]},
    "views": {"frames": 4, "frame_size": [32, 44], "size": 32},
    "enhancer": {"steps": 40, "batch_size": 2, "lr": 0.01},
    "teacher": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0},
    "student": {"epochs": 2, "batch_size": 4, "warmup_epochs": 0},
    "logits": {"views": 8, "batch_size": 2, "minimum_top1": 0.0},
    "evaluate": {"bootstrap": 100},
    "compute": {"device": "cpu", "threads": 1, "workers": 0},
}
"""What differs from the demo: 22 clips of 4 frames of 32x32, 2 epochs, 48 blocks of logits."""

LIMIT_SEC = 600
"""How long a start may take before it counts as hanging."""


class Started:
    """A process that was started, the first of its own session and group."""

    def __init__(self, pid, log):
        self.pid, self.log = pid, log
        self.began = time.monotonic()
        self._handle = os.pidfd_open(pid)
        self._code = None

    def ended(self, within_sec=0.0):
        """Whether it ends within so many seconds."""
        return self._code is not None or bool(select.select([self._handle], [], [], max(0.0, within_sec))[0])

    def kill(self, *, alone=False):
        """SIGKILL to its whole group, or to it alone."""
        (os.kill if alone else os.killpg)(self.pid, signal.SIGKILL)

    def code(self):
        """Its exit code, or minus the signal that ended it; waits for the end."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._handle)
        return self._code

    def said(self):
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def start(work, *, folder, log, environment=None):
    """Fork a process that does `work()` in a folder, with what it prints in a log.

    Raises:
        RuntimeError: this process has threads, whose locks a child could inherit without their owners.
    """
    threads = os.listdir("/proc/self/task")
    if len(threads) > 1:
        raise RuntimeError(f"found {len(threads)} threads, wanted 1 before a fork; set OMP_NUM_THREADS=1")
    sys.stdout.flush()
    sys.stderr.flush()
    log.unlink(missing_ok=True)  # an orphan of an earlier start may still write into the old one
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run_as_child(work, folder, log, environment or {}, writer)
    os.close(writer)
    os.read(reader, 1)  # it has a session of its own now, and can be killed
    os.close(reader)
    return Started(pid, log)


def program(arguments, *, code):
    """Work for `start`: become `python ARGUMENTS` on the code of a clone."""

    def work():
        os.execve(sys.executable, [sys.executable, *arguments], os.environ | {"PYTHONPATH": str(code)})

    return work


def left_behind(pid, limit_sec=30.0):
    """Processes of a killed start that are still there after a while: of its session, or ranks that it launched."""
    end = time.monotonic() + limit_sec
    while (found := _descendants(pid)) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def running_stage(dvc):
    """The stage that a dvc process runs now, or None; dvc names it to its child in $DVC_STAGE."""
    for task in Path(f"/proc/{dvc}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                stages = [variable for variable in variables if variable.startswith(b"DVC_STAGE=")]
                if stages:
                    return stages[0].decode().partition("=")[2].partition("@")[0]
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread or a child that has ended
    return None


def session_of(pid):
    """The session of a process, which is that of the dvc that ran it; None where it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def clone(repository, folder):
    """A clone of the repository's HEAD with a small demo run; returns its folder."""
    subprocess.run(["git", "clone", "--quiet", "--local", str(repository), str(folder)], check=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    return folder


def commit_of(folder):
    """The commit that is checked out, shortened."""
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def import_from(code):
    """Have this process and its forks import the project from a clone."""
    sys.path.insert(0, str(code))
    import pipeline

    found = Path(pipeline.__file__).resolve().parents[1]
    if found != code.resolve():
        raise RuntimeError(f"imported pipeline from {found}, wanted {code}; run the soak as a program of its own")


def import_stage(code, stage):
    """Import once what every start needs, so that a fork has it already."""
    import_from(code)
    for module in ("pipeline.cli", "pipeline.training.machine", f"stages.{stage}"):
        importlib.import_module(module)
    import torch

    torch.set_num_threads(1)


def subcommand(arguments, preparations):
    """Do what `dlkdd` does with these arguments, after those preparations that are not None."""
    from pipeline.cli import main

    for prepare in preparations:
        if prepare is not None:
            prepare()
    sys.argv = ["dlkdd", *arguments]
    main()


def write_params(folders):
    """Write the small run's params.yaml into clones; `import_from` comes first."""
    from pipeline import presets

    params = presets.demo()
    for section, values in SMALL.items():
        params[section] |= values
    for folder in folders:
        presets.write_params(folder / "params.yaml", params, name=RUN, force=True)


def stage_commands(code):
    """Subcommand and options of each stage, as dvc.yaml has them, in its order."""
    yaml = YAML(typ="safe")
    names = {"key": RUN, "item.run": RUN}
    inputs = yaml.load(code / "params.yaml")["inputs"][RUN]
    names |= {f"item.{name}": value for name, value in inputs.items()}
    commands = {}
    for stage, entry in yaml.load(code / "dvc.yaml")["stages"].items():
        text = entry.get("do", entry)["cmd"]
        commands[stage] = shlex.split(re.sub(r"\$\{(.+?)\}", lambda found: names[found[1]], text))[1:]
    return commands


def _run_as_child(work, folder, log, environment, ready):
    code = 0
    try:
        os.setsid()
        # What starts a soak in the background has it ignore Ctrl-C, and children inherit that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(folder)
        os.environ |= environment
        os.write(ready, b".")
        os.close(ready)
        work()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # whatever it is, this child must not go on as a second soak
        traceback.print_exc()
        code = 70  # EX_SOFTWARE of sysexits.h
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _descendants(pid):
    launched = f"DLKDD_LAUNCHER={pid}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if state in "ZX" or int(entry.name) == os.getpid():
                continue
            if int(session) == pid or launched in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended meanwhile, or belongs to somebody else
    return found

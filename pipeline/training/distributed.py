"""Several processes that share the work of one stage, started through torch.distributed.run.

On one machine `$DLKDD_PROCESSES` asks for them. The process that was started is then the launcher: it computes
nothing, watches its ranks and ends them all when one fails or when it is stopped. Each rank runs the same subcommand
again and finds its number in its environment.

On several machines the user starts the same subcommand on each of them, here with one GPU each:

    torchrun --nnodes 2 --node-rank 0 --master-addr HOST --master-port 29500 -m pipeline student ...
    torchrun --nnodes 2 --node-rank 1 --master-addr HOST --master-port 29500 -m pipeline student ...

Where RANK, WORLD_SIZE and MASTER_ADDR are set and no launcher of ours is, a stage joins that world and starts nothing.
The first rank alone prints, holds the work folder and writes the results, on its machine. Each machine needs the
videos and the files that the stage reads, at the paths given there; what is kept of finished epochs is read by the
first rank and sent to all. Only the stage logits needs a folder that all machines share, for its unfinished work.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Sent = TypeVar("Sent")

PROCESSES = "DLKDD_PROCESSES"
WORLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR")  # what torchrun, and most cluster schedulers, give each process
LAUNCHER = "DLKDD_LAUNCHER"  # set for the ranks alone: the process id of their launcher

# One rank may enhance frames or publish for hours while the others wait; one that dies is noticed by the launcher.
PATIENCE = timedelta(days=30)

PR_SET_PDEATHSIG = 1  # from Linux' prctl.h


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that share the work, seen from one of them."""

    rank: int = 0
    """Number of this one, 0-based."""
    size: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """Whether this is the one that prints, holds the work folder and writes the result."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all have come here.

        Raises:
            ConnectionError: another one has ended.
        """
        if self.size > 1:
            with self.meeting():
                dist.barrier()

    def from_first(self, value: Sent) -> Sent:
        """What the first one gives here, at all of them; what the others give is not looked at.

        Raises:
            ConnectionError: another one has ended.
        """
        if self.size == 1:
            return value
        box = [value if self.first else None]
        with self.meeting():
            dist.broadcast_object_list(box, src=0)
        received: Sent = box[0]  # type: ignore[assignment]
        return received

    def total(self, values: Tensor) -> Tensor:
        """The sum of all ranks' tensors, of one shape and on the device of the ranks' work; written into `values`.

        Raises:
            ConnectionError: another one has ended.
        """
        if self.size > 1:
            with self.meeting():
                dist.all_reduce(values)
        return values

    @contextlib.contextmanager
    def meeting(self) -> Iterator[None]:
        """Say in plain words that another process has ended, where torch finds it out.

        Raises:
            ConnectionError: another one has ended.
        """
        try:
            yield
        except RuntimeError as error:
            # Every other RuntimeError, such as full GPU memory, is none of this; gloo has no class of its own.
            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise ConnectionError(
                f"process {self.rank} of {self.size} waited for another one that has ended; what is finished is "
                "kept, start again"
            ) from error


def processes_to_start() -> int:
    """What `$DLKDD_PROCESSES` asks for; 1 where it is unset, and in a rank, whoever started it.

    Raises:
        ValueError: no whole number of at least 1.
    """
    if _in_a_world():
        return 1
    text = os.environ.get(PROCESSES, "").strip() or "1"
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ValueError(f"${PROCESSES}: found {text!r}, wanted a whole number of at least 1; set it so, or unset it")
    return int(text)


def launch(arguments: Sequence[str], *, processes: int, device: torch.device) -> None:
    """Run a subcommand in several processes, as the last thing that this one does, and wait for all of them.

    Args:
        arguments: the subcommand and its options.
        processes: how many, >= 2.
        device: cpu, or cuda: rank r computes on GPU r.

    Raises:
        ValueError: more processes than GPUs, or one GPU named for all of them.
        ChildProcessError: one of them failed; the others were ended.
        KeyboardInterrupt: stopped by Ctrl-C; all of them were ended.
        SystemExit: stopped by another signal, with 128 plus its number; all of them were ended.
    """
    _check_devices(processes, device)
    # Only a launcher needs these, and they take time to load.
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # The ranks import this very code, wherever the command is run.
    code = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"PYTHONPATH": os.pathsep.join(code), "PYTHONSAFEPATH": "1", LAUNCHER: str(os.getpid())}
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    with tempfile.TemporaryDirectory(prefix="dlkdd-") as logs:
        options = ["--standalone", f"--nproc-per-node={processes}", "--local-addr=127.0.0.1", f"--log-dir={logs}"]
        try:
            torchrun.main([*options, *_quiet_but_first(processes), "--module", "pipeline", *arguments])
        except SignalException as stopped:
            if stopped.sigval == signal.SIGINT:
                raise KeyboardInterrupt from stopped
            raise SystemExit(128 + stopped.sigval) from stopped
        except ChildFailedError as failed:
            ends = "; ".join(_how_it_ended(rank, failure.exitcode) for rank, failure in sorted(failed.failures.items()))
            raise ChildProcessError(
                f"{arguments[0]}: {ends}; all {processes} were ended. What is finished is kept, start again"
            ) from failed


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Meet the other ranks where this process is one, on the GPU of its number where the device is cuda.

    Whatever the others print goes nowhere; their errors are seen.

    Raises:
        ValueError: one GPU named for all ranks, or a machine with fewer GPUs than ranks.
    """
    if not _in_a_world():
        yield Ranks()
        return
    if LAUNCHER in os.environ:
        _end_with_the_launcher()
        # Ctrl-C ends a rank at once, which costs no finished block; as an exception it could get lost in a callback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    ranks = Ranks(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]))
    gpu = None if device.type != "cuda" else _own_gpu(ranks, device)
    if gpu is not None:
        # From here on "cuda" means this one: its number must not get into names of kept frames.
        torch.cuda.set_device(gpu)
    dist.init_process_group("gloo" if gpu is None else "nccl", timeout=PATIENCE, device_id=gpu)
    with contextlib.ExitStack() as stack:
        if not ranks.first:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        yield ranks
    dist.destroy_process_group()


def wait_for_writers(paths: Sequence[Path]) -> None:
    """Wait until no process has any of these HDF5 files open, by the lock that HDF5 itself puts on them.

    The processes that read clips for a rank outlive a killed one by some seconds, and hold its files until then.
    """
    for path in paths:
        with path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"{path}: a process of an earlier run still has it open; waiting for that one to end"
                print(message, file=sys.stderr, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)


def _in_a_world() -> bool:
    """Whether this process is one of several that somebody has started, a launcher of ours or the user."""
    return LAUNCHER in os.environ or all(name in os.environ for name in WORLD)


def _own_gpu(ranks: Ranks, device: torch.device) -> torch.device:
    """The GPU of this rank on its machine."""
    if device.index is not None:
        raise ValueError(
            f"compute.device: found '{device}' with {ranks.size} processes, wanted auto, cuda or cpu: each process "
            "takes a GPU of its own"
        )
    count = torch.cuda.device_count()
    # By hand on machines of as many GPUs each: torchrun gives the number itself.
    number = int(os.environ.get("LOCAL_RANK", ranks.rank % count))
    if number >= count:
        raise ValueError(
            f"LOCAL_RANK: found {number}, but torch sees {count} GPUs here; start at most {count} processes on this "
            "machine, or set compute.device: cpu"
        )
    return torch.device("cuda", number)


def _check_devices(processes: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    if device.index is not None:
        raise ValueError(
            f"compute.device: found '{device}' with ${PROCESSES}={processes}, wanted auto, cuda or cpu: each process "
            f"takes a GPU of its own; set compute.device: auto, or unset ${PROCESSES}"
        )
    if processes > torch.cuda.device_count():
        raise ValueError(
            f"${PROCESSES}: found {processes}, wanted at most {torch.cuda.device_count()}, the number of GPUs: each "
            "process takes one of its own; lower it, or set compute.device: cpu"
        )


def _quiet_but_first(processes: int) -> list[str]:
    """Options of torchrun: only rank 0 prints and draws progress bars; errors of the others are passed on."""
    others = range(1, processes)
    return [
        "--redirects=" + ",".join(f"{rank}:1" for rank in others),
        "--tee=" + ",".join(f"{rank}:2" for rank in others),
        "--log-line-prefix-template=process ${rank}: ",
    ]


def _how_it_ended(rank: int, code: int) -> str:
    return f"process {rank} " + (
        f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    )


def _end_with_the_launcher() -> None:
    """Let the system kill this rank when its launcher is killed, since nobody would then end it with the others.

    Only Linux can do so. Elsewhere ranks without a launcher finish their work, and hold the work folder till then.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != int(os.environ[LAUNCHER]):
        raise ChildProcessError("the launching process has ended; start again")

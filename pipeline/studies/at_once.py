"""Tasks, in several processes at once."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar, cast

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Running:
    """A process that works at a task."""

    name: str
    process: SpawnProcess
    words: Connection
    """Its end of a pipe: why it failed, where it knows."""

    def failure(self) -> str | None:
        """Once it has ended: how it failed; None where it did not."""
        self.process.join()
        code, told = self.process.exitcode or 0, ""
        with contextlib.closing(self.words), contextlib.suppress(EOFError):
            told = self.words.recv_bytes().decode()
        if told or not code:
            return told or None
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}; fewer --jobs take less memory"
        return f"its process failed with exit code {code}, see above"


def run_at_once(work: Callable[[T], None], tasks: Sequence[T], *, jobs: int) -> None:
    """Work at each task in a process of its own, some at a time; the next one starts when one has ended.

    Where this process is stopped or killed, they end with it.

    Args:
        work: takes a task; can be pickled.
        tasks: in the order in which they start; can be pickled, and named by str().
        jobs: processes at a time, at least 1.

    Raises:
        ChildProcessError: some failed; those that ran beside them have come to their end, and no other was started.
    """
    context = multiprocessing.get_context("spawn")  # a fork beside torch's threads can hang
    waiting, failed = list(tasks), list[str]()
    running: dict[int, _Running] = {}
    try:
        while running or (waiting and not failed):
            while waiting and not failed and len(running) < jobs:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_work_here, args=(work, waiting[0], sender))
                process.start()
                sender.close()
                running[process.sentinel] = _Running(name=str(waiting.pop(0)), process=process, words=receiver)
            for ended in wait(list(running)):
                one = running.pop(cast(int, ended))
                if (failure := one.failure()) is not None:
                    failed.append(f"{one.name}: {failure}")
    finally:
        for one in running.values():
            one.process.terminate()
    if failed:
        raise ChildProcessError(
            "; ".join(failed) + (f"; not started: {'; '.join(map(str, waiting))}" if waiting else "")
        )


def _work_here(work: Callable[[T], None], task: T, words: Connection) -> None:
    """In the new process: work, and tell why it failed."""
    # Ctrl-C ends it at once, without a traceback of each; what a stage has finished is kept.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        work(task)
    except (ValueError, OSError) as error:
        words.send_bytes(str(error).encode())
        raise SystemExit(1) from error


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

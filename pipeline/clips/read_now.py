"""Which clip each reading process is at, so that one that dies does not take the name with it."""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator

import torch
from torch.utils.data import get_worker_info

NONE = -1


class ReadNow:
    """A place for each reading process, shared by all.

    Args:
        workers: reading processes; 0 where the main process reads itself.
    """

    def __init__(self, workers: int) -> None:
        self._places = torch.full((workers, 2), NONE, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def begin(self, index: int) -> None:
        """Note that this process reads a clip."""
        self._note(index)

    def end(self) -> None:
        """Note that it is done with it."""
        self._note(NONE)

    def left_by(self, death: str) -> list[int]:
        """Positions of the clips that dead processes were reading.

        Args:
            death: what torch says of them; it names their process ids.
        """
        dead = {int(number) for number in re.findall(r"\d+", death)}
        return [index for process, index in self._places.tolist() if process in dead and index != NONE]

    def _note(self, index: int) -> None:
        worker = get_worker_info()
        if worker is not None:
            self._places[worker.id, 0] = os.getpid()
            self._places[worker.id, 1] = index


@contextlib.contextmanager
def without_torchs_alarm() -> Iterator[None]:
    """Take back the handler that torch installs when reading processes start.

    It raises wherever the main process happens to be when one of them dies, in the midst of a step too. Without it the
    same error comes where the batch is asked for that will not come.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # else it is none of Python's
            signal.signal(signal.SIGCHLD, before)

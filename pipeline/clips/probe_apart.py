"""Probe videos in a child process whose memory and time are limited: a file that breaks the decoder costs no run.

Run as a module it is that child: a line of json in, a line of json out. No pickle comes back, since what a hostile
file made of the child's memory is not to be trusted.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.clips.memory_limit import MemoryLimit
from pipeline.clips.video import VideoInfo, probe

MEMORY_MB, SECONDS = 2000, 600.0
"""Limits where nobody chose others. 8K in 10 bits with 16 reference frames takes 1.7 GB."""


class Prober:
    """Calls `probe` in a child process, which is started again after a video has ended it.

    Use it in a `with` block, which ends the child. Memory is limited where the system can do that (Linux).

    Args:
        memory_mb: what decoding one video may take, in MiB, beside the program itself.
        seconds: how long one video may take.
    """

    def __init__(self, *, memory_mb: int, seconds: float) -> None:
        self.memory_mb = memory_mb
        self.seconds = seconds
        self._child: subprocess.Popen[str] | None = None

    def __call__(self, path: Path, *, colour_range: str = "auto") -> VideoInfo:
        """Decode a whole video once and describe it; see `probe`.

        Raises:
            ValueError: as `probe`, or the video needs more memory or time than allowed, or its decoder crashes.
            ChildProcessError: the child fails for a reason that is not the video's.
        """
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps({"path": str(path), "colour_range": colour_range}) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):
            raise self._death(path, self._end())
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        for name in ("rgb_mean", "rgb_square_mean"):
            answer[name] = tuple(answer[name])
        return VideoInfo(**answer)

    def __enter__(self) -> "Prober":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _running(self) -> "subprocess.Popen[str]":
        if self._child is None:
            # Modules are found where this process finds them, and never in the current folder alone.
            places = {"PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(self.memory_mb), str(self.seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | places,
            )
        return self._child

    def _end(self) -> int:
        """End the child, if there is one; its exit status."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        # What it answers no longer counts, so closing its input may fail.
        for pipe in (child.stdout, child.stdin):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        return child.wait()

    def _death(self, path: Path, status: int) -> Exception:
        """What to raise of a child that gave no answer."""
        if status >= 0:
            return ChildProcessError(f"{path}: the process that probes videos ended with status {status}; see above")
        if -status == signal.SIGALRM:
            return ValueError(
                f"{path}: takes longer than {self.seconds:g} s to decode; raise prepare.max_seconds, shorten the "
                "video, or leave it out of the list"
            )
        return ValueError(
            f"{path}: ends its decoder by {signal.Signals(-status).name}, for a defect of the file or want of memory "
            f"({self.memory_mb} MB are allowed); re-encode it or leave it out of the list"
        )


def main() -> None:
    """Answer questions until the input ends."""
    seconds = float(sys.argv[2])
    # Ctrl-C reaches all processes of a terminal; the one that asks ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    allowed = MemoryLimit(int(sys.argv[1]))
    for line in sys.stdin:
        question = json.loads(line)
        # Without a handler the alarm ends the process wherever it is, also inside a decoder.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        answer = _answer(Path(question["path"]), question["colour_range"], allowed)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(path: Path, colour_range: str, allowed: MemoryLimit) -> dict[str, Any]:
    try:
        return dataclasses.asdict(probe(path, colour_range=colour_range))
    except (ValueError, MemoryError) as error:
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            return {
                "error": f"{path}: needs more than {allowed.megabytes} MB to be decoded; raise prepare.max_memory_mb, "
                "or leave it out of the list"
            }
        # Decoders call a frame invalid that they found no memory for.
        hint = hasattr(error.__cause__, "strerror") and allowed.was_nearly_used()
        note = f" (perhaps for want of memory: prepare.max_memory_mb allows {allowed.megabytes})" if hint else ""
        return {"error": f"{error}{note}"}


if __name__ == "__main__":
    main()

"""Look at every video of a dataset before anything is trained."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from pipeline.clips.probe_apart import MEMORY_MB, SECONDS, Prober
from pipeline.clips.survey_entries import Entry
from pipeline.clips.survey_video import BadVideo, VideoSurvey, survey_video


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found in a dataset."""

    videos: tuple[VideoSurvey, ...]
    """In the order of the entries."""
    bad: tuple[BadVideo, ...]
    other_suffixes: dict[str, int]
    """Files below the root that no video suffix marks, by suffix."""


def survey_all(
    entries: Sequence[Entry], root: Path, *, colour_range: str, processes: int
) -> Iterator[VideoSurvey | BadVideo]:
    """Look into every video, in the order of the entries; a bad file is told of and does not stop the others.

    Args:
        entries: which.
        root: what their ids are relative to.
        colour_range: how RGB is made from them: auto, limited or full.
        processes: that share the work; changes nothing but the time.

    Raises:
        ValueError: the number of processes is below 1.
        ChildProcessError: a process died, of a file that breaks the decoder or for want of memory.
    """
    if processes < 1:
        raise ValueError(f"--processes: found {processes}, wanted at least 1")
    if processes == 1:
        with Prober(memory_mb=MEMORY_MB, seconds=SECONDS) as prober:
            yield from (survey_video(entry, root, colour_range, prober) for entry in entries)
        return
    # Spawned, because a fork beside the decoder's or torch's threads can hang.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin_to_look) as pool:
        waiting = [pool.submit(_survey_here, entry, root, colour_range) for entry in entries]
        done = 0
        try:
            for result in waiting:
                yield result.result()
                done += 1
        except BrokenProcessPool as error:
            near = ", ".join(entry.id for entry in entries[done : done + processes])
            raise ChildProcessError(
                f"{root}: a process that looked into videos died, near {near}; --processes 1 shows at which one, and "
                "takes less memory"
            ) from error
        finally:
            for result in waiting:
                result.cancel()


def usable_processes() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def collect(results: Iterable[VideoSurvey | BadVideo], other_suffixes: dict[str, int]) -> Survey:
    """Put what `survey_all` gives together."""
    found = list(results)
    return Survey(
        videos=tuple(result for result in found if isinstance(result, VideoSurvey)),
        bad=tuple(result for result in found if isinstance(result, BadVideo)),
        other_suffixes=other_suffixes,
    )


_prober: Prober | None = None


def _begin_to_look() -> None:
    """Set up a process that looks into videos."""
    global _prober
    # Ctrl-C reaches all processes of a terminal; the one that waits for the others stops them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prober = Prober(memory_mb=MEMORY_MB, seconds=SECONDS)


def _survey_here(entry: Entry, root: Path, colour_range: str) -> VideoSurvey | BadVideo:
    assert _prober is not None, "the process was not set up"
    return survey_video(entry, root, colour_range, _prober)

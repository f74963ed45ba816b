"""Where a process can be killed: just before or just after its n-th flush, fsync, rename or unlink."""

import functools
import itertools
import json
import os
import signal
from collections import Counter
from dataclasses import dataclass

import h5py

CALLS = {
    "flush": ((h5py.h5f, "flush"),),  # where h5py.File.flush ends, too
    "fsync": ((os, "fsync"), (os, "fdatasync")),
    "rename": ((os, "replace"), (os, "rename")),
    "unlink": ((os, "unlink"), (os, "remove")),
}
"""The functions behind each kind of point, by module and name."""

SIDES = ("before", "after")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A moment in the life of a process."""

    kind: str
    """A key of CALLS."""
    number: int
    """Which call of the kind, 0-based."""
    side: str
    """before or after the call."""


def watch(reached):
    """Have `reached(point)` called around every such call of this process from now on."""
    for kind, places in CALLS.items():
        numbers = itertools.count()
        for module, name in places:
            setattr(module, name, _watched(getattr(module, name), kind, numbers, reached))


def count_calls():
    """Count the calls from now on; the counter that is returned grows with them."""
    counts = Counter()
    watch(lambda point: counts.update([point.kind] if point.side == "before" else []))
    return counts


def write_counts(path):
    """Count calls from now on and write their numbers when this child ends."""
    counts, leave = count_calls(), os._exit

    def leave_with_counts(code):
        path.write_text(json.dumps(counts))
        leave(code)

    os._exit = leave_with_counts


def kill_at(point):
    """Have the process group of this process killed once the point is reached."""
    watch(lambda reached: _end() if reached == point else None)


def _watched(function, kind, numbers, reached):
    @functools.wraps(function)
    def call(*args, **kwargs):
        number = next(numbers)
        reached(Point(kind=kind, number=number, side="before"))
        try:
            return function(*args, **kwargs)
        finally:
            # Also where the call failed: unlinking what is not there is how a finished file is tidied up after.
            reached(Point(kind=kind, number=number, side="after"))

    return call


def _end():
    os.killpg(os.getpgrp(), signal.SIGKILL)
    while True:  # nothing of the program may run until the signal arrives
        signal.pause()

"""A bound on the memory of a process that reads what may be hostile."""

import re
from pathlib import Path

MEGABYTE = 2**20


class MemoryLimit:
    """Lets this process take so much more address space than it has now, where the system can tell (Linux)."""

    def __init__(self, megabytes: int) -> None:
        self.megabytes = megabytes
        self._start = _status_bytes("VmSize")
        if self._start is None:
            return
        import resource  # where /proc is there

        limit = self._start + megabytes * MEGABYTE
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

    def was_nearly_used(self) -> bool:
        """Whether more than half of it was in use at some time."""
        peak = _status_bytes("VmPeak")
        return self._start is not None and peak is not None and peak - self._start > self.megabytes * MEGABYTE // 2


def _status_bytes(name: str) -> int | None:
    """A figure of this process in bytes, as Linux gives it."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None

"""How far the trainings of a study are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Progress:
    """All trainings of a call, in however many processes."""

    records: tuple[Path, ...]
    """Where each one's answers are kept."""
    before: int
    """How many were kept when the call began."""
    began: float
    """time.time() then: a clock that processes share."""

    def told(self, now: float) -> str:
        """How many are kept, and about how long the others take, as those of this call took on average.

        Args:
            now: time.time().
        """
        kept = _kept(self.records)
        counted = f"{kept} of {len(self.records)}"
        left = len(self.records) - kept
        if not left:
            return counted
        minutes = math.ceil((now - self.began) / max(1, kept - self.before) * left / 60)
        hours, minutes = divmod(minutes, 60)
        return f"{counted}, about {f'{hours} h ' if hours else ''}{minutes} min left"


def begun(records: Iterable[Path], now: float) -> Progress:
    """Of a call that begins now."""
    paths = tuple(records)
    return Progress(records=paths, before=_kept(paths), began=now)


def _kept(records: tuple[Path, ...]) -> int:
    return sum(path.is_file() for path in records)

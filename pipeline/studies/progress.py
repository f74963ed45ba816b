"""How far the trainings of a study are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.mapping_file import read_json
from pipeline.studies.prepared import TRAIN_AGAIN


@dataclass(frozen=True, kw_only=True)
class Progress:
    """All trainings of a call, in however many processes."""

    records: tuple[Path, ...]
    """Where each one's answers and seconds are kept."""
    jobs: int = 1
    """Trainings at once."""

    def told(self) -> str:
        """How many are kept, and about how long the others take, as long as those on average.

        Raises:
            ValueError: what is kept is damaged.
        """
        kept = [path for path in self.records if path.is_file()]
        left = len(self.records) - len(kept)
        counted = f"{len(kept)} of {len(self.records)}"
        if not kept or not left:
            return counted
        took = [read_json(path, remedy=TRAIN_AGAIN, keys=("seconds",))["seconds"] for path in kept]
        minutes = math.ceil(sum(took) / len(took) * math.ceil(left / self.jobs) / 60)
        hours, minutes = divmod(minutes, 60)
        return f"{counted}, about {f'{hours} h ' if hours else ''}{minutes} min left"


def progress_of(records: Iterable[Path], *, jobs: int = 1) -> Progress:
    """Of a call that wants these trainings, each once."""
    return Progress(records=tuple(dict.fromkeys(records)), jobs=jobs)

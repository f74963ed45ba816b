"""Learning curves that grow while a stage trains, written by DVCLive in `dvc exp run`.

The stage's own curve is an out, and there when it ends. These files are for looking at meanwhile and no out: nothing
depends on them, and the network is the same with and without.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.training.loop import Show


@contextlib.contextmanager
def live_curves(folder: Path | None) -> Iterator[Show]:
    """Give the function that shows epochs as they end; it does nothing outside of `dvc exp run`.

    The files begin anew each time, with the epochs of before, so that a stage that was killed while a line was written
    goes on with a whole file, and no epoch is missing or there twice.

    Args:
        folder: where DVCLive writes, a file a figure in plots/metrics/; None shows nothing.

    Raises:
        OSError: the files cannot be written.
    """
    # DVC sets it in the stages of an experiment, and in no others.
    if folder is None or "DVC_EXP_BASELINE_REV" not in os.environ:
        yield lambda rows: None
        return
    # Imported here: it takes DVC with it, which no other training needs.
    from dvclive.live import Live

    shutil.rmtree(folder, ignore_errors=True)
    # The experiment is saved by `dvc exp run`, and a dvc.yaml below data/ would be one more for DVC to read.
    with Live(str(folder), save_dvc_exp=False, dvcyaml=None) as live:

        def show(rows: Sequence[Mapping[str, float]]) -> None:
            for row in rows[live.step :]:
                for name, value in row.items():
                    if name != "epoch":
                        live.log_metric(name, value)
                live.next_step()

        yield show

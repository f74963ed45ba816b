"""`dlkdd store`: look into a logit store, check it, copy it, compare two."""

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.commands.options import FOLDER, PATH, device_options

STORE = click.argument("file", type=PATH)


@click.group()
def store() -> None:
    """Look into a logit store, check it, copy it, compare two.

    \b
    Examples:
      dlkdd store info data/demo/logits.h5
      dlkdd store verify data/demo/logits.h5 --views 20 --videos data/demo/rendered/videos
      dlkdd store show data/demo/logits.h5 Run/Run_garage_10.mp4
      dlkdd store export data/demo/logits.h5 --csv logits.csv
      dlkdd store diff A.h5 B.h5
    """  # noqa: D301


@store.command()
@STORE
def info(file: Path) -> None:
    """Print what FILE holds, what its rows depend on, how good its teacher is and how large it is.

    \b
    Example:
      dlkdd store info data/demo/logits.h5
    """  # noqa: D301
    from pipeline.distillation.store_report import facts, open_store

    click.echo(facts(open_store(file)))


@store.command()
@STORE
@click.option("--views", type=click.IntRange(min=1), help="Decode this many rows again and compare their pixels.")
@click.option("--with-teacher", type=click.IntRange(min=1), help="Ask the teacher for this many rows again.")
@click.option("--videos", type=FOLDER, help="Root that clip ids are relative to.")
@click.option("--teacher", type=PATH, help="The teacher's checkpoint.")
@click.option("--clips", type=PATH, help="clips.csv of the run.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=1e-3, show_default=True, help="Of a logit, for --with-teacher."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="logits.batch_size of the run: the blocks come out the same then."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws the rows.")
@device_options
def verify(
    file: Path,
    views: int | None,
    with_teacher: int | None,
    videos: Path | None,
    teacher: Path | None,
    clips: Path | None,
    tolerance: float,
    batch_size: int | None,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Check all of FILE; exits 1 with the list of bad rows where anything is wrong.

    \b
    Examples:
      dlkdd store verify FILE
      dlkdd store verify FILE --views 20 --videos ROOT
      dlkdd store verify FILE --with-teacher 20 --teacher CHECKPOINT --videos ROOT --clips clips.csv
    """  # noqa: D301
    if (views or with_teacher) and videos is None:
        raise click.UsageError("--views and --with-teacher need --videos, the root that clip ids are relative to")
    if with_teacher and (teacher is None or clips is None):
        raise click.UsageError("--with-teacher needs --teacher and --clips, the checkpoint and the clips of the run")
    _check_file(file)
    if videos is None or not (views or with_teacher):
        return
    from pipeline.distillation.logit_store import LogitStore
    from pipeline.store_checks import check_pixels, check_teacher
    from pipeline.training.machine import set_up_machine

    opened, chosen, wrong = LogitStore.open(file), set_up_machine(device, threads), []
    if views:
        changed = check_pixels(opened, videos, views, seed=seed)
        click.echo(f"pixels: {min(views, opened.summary.rows)} rows decoded again, {len(changed)} of them differ")
        wrong += _listed(changed, "rows of other pixels")
    if with_teacher and teacher is not None and clips is not None:
        asked = check_teacher(
            opened,
            videos,
            clips,
            teacher,
            with_teacher,
            seed=seed,
            tolerance=tolerance,
            batch_size=batch_size,
            device=chosen,
        )
        click.echo(
            f"teacher: {asked.rows} rows forwarded again, up to {asked.batch} at once: largest difference "
            f"{asked.largest:.3g} (tolerance {tolerance:g}), same top-1 in {asked.same_top1}"
        )
        wrong += _listed(asked.bad_rows, "rows of other logits than the teacher's")
    if wrong:
        raise ValueError(f"{file}: found {' and '.join(wrong)}; bring the videos back, or run the logits stage again")


@store.command()
@STORE
@click.argument("clip")
@click.option("--temperature", type=float, default=5.0, show_default=True, help="Of the softmax; 5 is the paper's.")
@click.option("--view", type=click.IntRange(min=0), help="Show this view alone.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes shown a view.")
def show(file: Path, clip: str, temperature: float, view: int | None, top: int) -> None:
    """Print views and soft targets of CLIP, its path below the videos' root.

    \b
    Example:
      dlkdd store show FILE Run/Run_garage_10.mp4 --temperature 1 --view 0
    """  # noqa: D301
    from pipeline.distillation.store_report import open_store, show_clip

    click.echo(show_clip(open_store(file), clip, temperature=temperature, view=view, top=top))


@store.command()
@STORE
@click.option("--csv", "table", type=PATH, help="Rows as a table: key, view and the logits by class name.")
@click.option("--npz", "arrays", type=PATH, help="Every dataset as a numpy array of the same name.")
def export(file: Path, table: Path | None, arrays: Path | None) -> None:
    """Copy FILE into a csv or a npz file.

    \b
    Example:
      dlkdd store export data/demo/logits.h5 --csv logits.csv --npz logits.npz
    """  # noqa: D301
    from pipeline.distillation.store_export import export_csv, export_npz
    from pipeline.distillation.store_report import open_store

    if table is None and arrays is None:
        raise click.UsageError("nothing to write: give --csv OUT.csv, --npz OUT.npz or both")
    opened = open_store(file)
    for out, write in ((table, export_csv), (arrays, export_npz)):
        if out is not None:
            write(opened, out)
            click.echo(f"{out}: {opened.summary.rows} rows, {out.stat().st_size} bytes")


@store.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Changed clips to list.")
def diff(a: Path, b: Path, limit: int) -> None:
    """Compare the logits of A and B by clip and view; exits 1 where they have no row or other classes in common.

    \b
    Example:
      dlkdd store diff A.h5 B.h5 --limit 5
    """  # noqa: D301
    from pipeline.distillation.store_diff import compare, difference_text
    from pipeline.distillation.store_report import open_store

    click.echo(difference_text(compare(open_store(a), open_store(b)), limit=limit))


def _check_file(file: Path) -> None:
    """Check everything that the file alone can tell, in a process of its own.

    Raises:
        OSError: there is no such file; ValueError: it is not sound. What was found is printed before.
    """
    from pipeline.distillation.logit_store_check import inspect_in_child
    from pipeline.distillation.logit_store_file import REMEDY
    from pipeline.distillation.store_report import printable

    if not file.is_file():
        raise FileNotFoundError(f"{file}: found no file, wanted a logit store; {REMEDY}")
    found = inspect_in_child(file)
    for problem in found.problems:
        click.echo(printable(problem))
    for row in found.bad_rows:
        click.echo(f"  {printable(str(row))}")
    if found.num_bad_rows > len(found.bad_rows):
        click.echo(f"  and {found.num_bad_rows - len(found.bad_rows)} other bad rows")
    if found.problems:
        raise ValueError(f"{file}: not sound: {len(found.problems)} problems, {found.num_bad_rows} bad rows; {REMEDY}")
    click.echo(f"{file}: sound: layout, chunk checksums, content hash, completeness, row crc32, order, finite values")


def _listed(rows: Sequence[object], what: str) -> list[str]:
    """Print bad rows; gives their number in words, or nothing where there are none."""
    from pipeline.distillation.store_report import printable

    for row in rows:
        click.echo(f"  {printable(str(row))}")
    return [f"{len(rows)} {what}"] if rows else []

"""`dlkdd inspect`: what a dataset is like before anything is trained."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.options import FOLDER, PATH

if TYPE_CHECKING:
    from pipeline.clips.survey_entries import Entry


@click.command()
@click.argument("source", type=PATH)
@click.option("--videos", type=FOLDER, help="Root that the ids of a clips.csv are relative to.")
@click.option("--html", "page", type=PATH, help="Also write a page with drawings and contact sheets.")
@click.option("--json", "figures", type=PATH, help="Also write everything that was found, a record a video.")
@click.option("--processes", type=click.IntRange(1), help="Processes that share the work.  [one a CPU]")
@click.option(
    "--colour-range",
    type=click.Choice(["auto", "limited", "full"]),
    default="auto",
    show_default=True,
    help="How the page's pictures are made from luma.",
)
@click.option(
    "--scene-pattern", help="Regular expression whose groups name the scene. [ARID's names: Class_scene_clip]"
)
@click.option("--per-class", type=click.IntRange(0), default=3, show_default=True, help="Videos of a class pictured.")
def inspect(
    source: Path,
    videos: Path | None,
    page: Path | None,
    figures: Path | None,
    processes: int | None,
    colour_range: str,
    scene_pattern: str | None,
    per_class: int,
) -> int:
    """Look into every video of SOURCE, a folder or a run's clips.csv: bad files, doubles, light, noise, balance.

    \b
    Examples:
      dlkdd inspect VIDEOS --html dataset.html
      dlkdd inspect data/demo/clips.csv --videos data/demo/rendered/videos --json dataset.json

    In a folder, train/ and test/ and the like are subsets and the next folders classes. Exits 1 where a file cannot be
    used.
    """  # noqa: D301 (click wants the character itself, which a raw docstring does not hold)
    from tqdm import tqdm

    from pipeline.clips import survey as looking
    from pipeline.clips.files import refuse_overwriting
    from pipeline.clips.survey_findings import find
    from pipeline.clips.survey_summary import summarise, write_json
    from pipeline.clips.survey_text import as_text
    from pipeline.pages.dataset_page import dataset_page
    from pipeline.pages.page import write_page

    root, entries, others = _entries(source, videos, scene_pattern)
    read = [*([source] if source.is_file() else []), *(root / entry.id for entry in entries)]
    refuse_overwriting({"--html": page, "--json": figures}, read)
    used = min(processes or looking.usable_processes(), len(entries))
    results = looking.survey_all(entries, root, colour_range=colour_range, processes=max(1, used))
    found = looking.collect(tqdm(results, desc="inspect", total=len(entries), unit="video", disable=None), others)
    summary = summarise(found)
    findings = find(found, summary)
    text = as_text(found, summary, findings, source=str(source))
    # A file's name may hold bytes that are no text.
    click.echo(text.encode(errors="backslashreplace").decode())
    if figures is not None:
        settings = {"source": str(source), "colour_range": colour_range}
        write_json(figures, found, summary, findings, settings=settings)
    if page is not None:
        content = dataset_page(
            found,
            summary,
            findings,
            source=str(source),
            root=root,
            colour_range=colour_range,
            per_class=per_class,
        )
        write_page(page, content)
    for written in (figures, page):
        if written is not None:
            click.echo(str(written))
    return 1 if found.bad else 0


def _entries(
    source: Path, videos: Path | None, scene_pattern: str | None
) -> tuple[Path, "list[Entry]", dict[str, int]]:
    """The videos' root, the videos, and the other files by suffix."""
    from pipeline.clips.lists import has_video_suffix
    from pipeline.clips.survey_entries import entries_of_clips, entries_of_folder
    from pipeline.config import require_pattern
    from pipeline.presets import ARID_SCENES

    if source.is_file() and has_video_suffix(source.name):
        raise click.UsageError(
            f"{source}: is a video, wanted a folder of videos or a run's clips.csv; name the folder that it is in"
        )
    if source.is_file() or source.suffix.lower() == ".csv":
        if videos is None or scene_pattern is not None:
            raise click.UsageError(
                "a clips.csv tells the scenes by itself and needs --videos, the root that its ids are relative to"
            )
        return videos, entries_of_clips(source), {}
    if videos is not None:
        raise click.UsageError("--videos goes with a clips.csv; a folder of videos is its own root")
    pattern = ARID_SCENES if scene_pattern is None else scene_pattern
    require_pattern("--scene-pattern", pattern)
    return source, *entries_of_folder(source, scene_pattern=pattern)


COMMANDS = (inspect,)

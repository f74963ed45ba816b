"""Write the page of a run: results, mistakes, curves, frames, cost and provenance, in one file for a browser."""

from pathlib import Path

from pipeline.pages.report import write_report


def run(folder: Path, out: Path, *, videos: Path | None, params: Path, surroundings: bool = False) -> None:
    """Write the page of the run whose files lie in a folder.

    The same files, parameters, versions and git commit give the same bytes. What is no input of the stage is
    therefore left out of its page: dvc.lock, which is written anew while the stages run, and cost.json. The commit is
    the one checked out while the page is written; a later one alone writes no new page.

    Args:
        folder: of the run, data/<run>.
        out: the page, html.
        videos: root that clip ids are relative to; None leaves frames out.
        params: params.yaml.
        surroundings: show dvc.lock and cost.json after all.

    Raises:
        ValueError: the run has not been evaluated, or a file is damaged.
        OSError: a video cannot be read, or the page cannot be written.
    """
    write_report(folder, out, videos=videos, params=params, surroundings=surroundings)

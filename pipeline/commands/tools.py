"""Subcommands beside the stages: darkening, results, cleaning up."""

from pathlib import Path

import click

from pipeline.commands.options import FOLDER, PATH, params_option
from pipeline.params import read_params


@click.command()
@click.argument("root", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--ev", type=float, required=True, help="Exposure in EV; -5 keeps 1/32 of the light.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same noise.")
@click.option("--crf", type=int, default=18, show_default=True, help="x264's constant rate factor.")
def darken(root: Path, out: Path, ev: float, seed: int, crf: int) -> None:
    """Write darkened copies of all videos below ROOT into OUT, by a physical model of a camera in the dark."""
    from tqdm import tqdm

    from pipeline.clips.low_light import darken_video_folder

    with tqdm(desc="darken", unit="video", disable=None) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        written = darken_video_folder(root, out, exposure_ev=ev, seed=seed, crf=crf, progress=advance)
    click.echo(f"{len(written)} videos at {ev:+g} EV in {out}")


@click.command()
@click.argument("runs", nargs=-1)
@click.option("--into", type=PATH, help="Also write the tables into this document, between its markers.")
@params_option
def table(runs: tuple[str, ...], into: Path | None, params: Path) -> None:
    """Print the results of RUNS (default: all of params.yaml) and where their files lie."""
    from pipeline.table import as_text, read_results, write_into

    for run in runs or read_params(params)["runs"]:
        folder = Path("data") / run
        results = read_results(folder, run)
        click.echo(as_text(results, folder))
        if into is not None:
            write_into(into, results)


@click.command()
@click.argument("runs", nargs=-1)
@params_option
def clean(runs: tuple[str, ...], params: Path) -> None:
    """Remove unfinished work, kept logit rows and cached frames of RUNS (default: all of params.yaml)."""
    from pipeline.training.work_folder import clean as clean_run

    for run in runs or read_params(params)["runs"]:
        click.echo(f"{run}: {clean_run(Path('data') / run)} bytes freed")


COMMANDS = (darken, table, clean)

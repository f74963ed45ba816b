"""`dlkdd report`: the page of a run, also a stage of dvc.yaml."""

from pathlib import Path

import click

from pipeline.commands.options import FOLDER, params_option, required_path
from pipeline.config import ComputeConfig
from pipeline.params import read_section


@click.command()
@click.option("--folder", type=FOLDER, required=True, help="Folder of the run's files.")
@click.option("--videos", type=FOLDER, help="Root that clip ids are relative to. [no frames are shown]")
@required_path("--out", "Page to write, html.")
@click.option("--surroundings", is_flag=True, help="Also show dvc.lock and cost.json, see above.")
@params_option
def report(folder: Path, videos: Path | None, out: Path, surroundings: bool, params: Path) -> None:
    """Write the page of a run, for a browser: results, curves, mistakes, frames, cost, provenance.

    The stage's page depends on the run's files, parameters, installed versions and git commit alone. With
    --surroundings it also compares the files with dvc.lock, shows all of params.yaml, and what `dlkdd cost` wrote into
    the folder's cost.json; such a page changes with each of them.

    \b
    Examples:
      dlkdd report --folder data/demo --videos data/demo/rendered/videos --out report.html --surroundings
      dlkdd report --folder data/demo --out without_frames.html
    """  # noqa: D301
    from pipeline.training.machine import set_up_machine
    from stages import report as stage

    # The enhanced frames are few, and computed on a CPU they are the same bytes beside every GPU.
    set_up_machine("cpu", read_section(params, ComputeConfig).threads)
    stage.run(folder, out, videos=videos, params=params, surroundings=surroundings)


COMMANDS = (report,)

"""Kills the pipeline again and again, and compares what it ends in with undisturbed runs in another clone.

python tests/soak.py logits --kills 200 --seed 0 [--log FILE]
python tests/soak.py repro --kills 100 --seed 0 [--log FILE]

The last line gives the counts; the exit code is 1 where anything differed, failed or lay half-written under its name.
Linux only: processes are found through /proc.
"""

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

# Before numpy and torch are imported: a pool of threads would not survive a fork, and equal bytes want one thread.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}

import click
from soak_logits import LogitsSoak
from soak_repro import ReproSoak

ROOT = Path(__file__).resolve().parents[1]

CHAIN = ("render", "prepare", "enhancer", "teacher", "logits", "student")
"""Stages of which each needs all before it; baseline does not."""


@contextmanager
def working_folder(folder):
    """A temporary folder that goes away, or the given one, which must not exist and stays."""
    if folder is not None:
        yield folder.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="dlkdd-soak-"))
    try:
        yield made / "soak"
    finally:
        shutil.rmtree(made, ignore_errors=True)


def soak_options(command):
    """Add what both soaks take."""
    path = click.Path(path_type=Path)
    for option in (
        click.option("--seed", default=0, show_default=True, help="Same seed, same draws of kills."),
        click.option("--log", type=path, help="Write a line of json for each start into this file."),
        click.option("--folder", type=path, help="New folder for the clones, which stays; else a temporary one."),
        click.option("--repository", type=path, default=ROOT, help="What is cloned instead of this project."),
    ):
        command = option(command)
    return command


def soak_logits(kills, *, folder, repository=ROOT, processes=0.0, pairs=0.0, **options):
    """Run the soak of the stage `logits`; returns its exit code. Options are those of `LogitsSoak`."""
    soak = LogitsSoak(folder, repository, **options)
    soak.set_up(ways=["fork"] + ["process"] * (processes > 0) + ["pair"] * (pairs > 0))
    soak.soak(kills, processes=processes, pairs=pairs)
    print(soak.summary(), flush=True)
    return 1 if soak.problems else 0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli():
    """Kill the pipeline again and again, and compare what it ends in with undisturbed runs."""


@cli.command()
@click.option("--kills", default=200, show_default=True, help="Kills that have to hit.")
@click.option("--processes", default=0.05, show_default=True, help="Share of starts that are no forks.")
@click.option("--pairs", default=0.04, show_default=True, help="Share of starts with $DLKDD_PROCESSES=2.")
@soak_options
def logits(kills, seed, log, folder, repository, processes, pairs):
    """Kill the stage `logits` after delays, and before and after its flushes, fsyncs, renames and unlinks."""
    with working_folder(folder) as place:
        shares = {"processes": processes, "pairs": pairs}
        sys.exit(soak_logits(kills, folder=place, repository=repository, seed=seed, log=log, **shares))


@cli.command()
@click.option("--kills", default=100, show_default=True, help="Kills that have to hit, shared by the eight stages.")
@click.option("--orphans", default=0.2, show_default=True, help="Share of kills of dvc alone, without its stage.")
@click.option("--upto", type=click.Choice(CHAIN), help="Run and kill the pipeline up to this stage only.")
@soak_options
def repro(kills, seed, log, folder, repository, orphans, upto):
    """Kill `dvc repro` of a whole small run in each of its stages."""
    with working_folder(folder) as place:
        soak = ReproSoak(place, repository, seed=seed, log=log, orphans=orphans, upto=upto)
        soak.set_up()
        soak.soak(kills)
        print(soak.summary(), flush=True)
        sys.exit(1 if soak.problems else 0)


if __name__ == "__main__":
    cli()

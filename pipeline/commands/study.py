"""`dlkdd study`: the same training with many seeds, with its controls, and what can be concluded."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.options import FOLDER, PATH, machine, params_option, run_names
from pipeline.params import read_inputs

if TYPE_CHECKING:
    from pipeline.studies.prepared import Study

SUBSET = click.option(
    "--on",
    "subset",
    type=click.Choice(["test", "holdout"]),
    default="test",
    show_default=True,
    help="Clips to measure; holdout: the scenes that prepare.holdout sets aside, to choose a recipe on.",
)
FOLDER_OPTION = click.option("--folder", type=FOLDER, help="Where trainings are kept. [data/RUN/study]")
DEFAULT = ("baseline", "teacher", "student")


@click.group()
def study() -> None:
    """Train a prepared run again with many seeds, and its controls; keep what each training answered.

    `dlkdd table --studies FOLDER` prints what was saved.

    \b
    Examples:
      dlkdd study run night --seeds 0-9
      dlkdd study run night --seeds 0-9 --variant smoothed --variant shuffled --variant dark-student
      dlkdd study save night studies/night.json --title "night shift"
    """  # noqa: D301


@study.command("run")
@click.argument("run", shell_complete=run_names)
@click.option("--seeds", default="0-9", show_default=True, help="Such as 0-9 or 0,3,5.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    default=DEFAULT,
    show_default=True,
    help="baseline, teacher, student, dark-teacher, dark-student, smoothed, shuffled, or your own: "
    "'NAME STAGE SECTION.KEY=VALUE ...'. Give it again for more.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Trainings at once, each in a process of compute.threads threads; those of one seed that share a teacher, or "
    "an enhancer of their own, come one after the other.",
)
@FOLDER_OPTION
@SUBSET
@params_option
def run_study(
    run: str,
    seeds: str,
    variants: tuple[str, ...],
    jobs: int,
    folder: Path | None,
    subset: str,
    params: Path,
) -> None:
    """Train and measure RUN with every seed, but for what is kept already.

    RUN needs its clips.csv, statistics.json and enhancer.safetensors: `dvc repro enhancer@RUN` makes them. A seed sets
    views.seed, teacher.seed and student.seed. dark-teacher sees dark frames and teaches dark-student; smoothed and
    shuffled are taught by labels smoothed to the soft targets' entropy, and by the logits of other clips of the class.

    \b
    Example:
      dlkdd study run night --seeds 0-4 --variant 'squared student student.scale_by_temperature_squared=true'
    """  # noqa: D301
    from pipeline.studies.at_once import run_at_once
    from pipeline.studies.runner import all_of, missing_chains, train, train_chain
    from pipeline.studies.variants import variant_of

    prepared, chosen = _prepared(run, folder, subset, params), [variant_of(text) for text in variants]
    numbers = numbers_in(seeds)
    chains, progress = missing_chains(prepared, chosen, numbers), all_of(prepared, chosen, numbers, jobs=jobs)
    if jobs == 1:
        train(prepared, chosen, numbers, progress=progress)
    else:
        run_at_once(partial(train_chain, prepared, progress), chains, jobs=jobs)


@study.command()
@click.argument("run", shell_complete=run_names)
@click.argument("file", type=PATH)
@click.option("--title", help="What the table calls it. [RUN]")
@click.option("--pool", help="Row that it shares with the other splits of its data set. [none]")
@click.option("--scenes", type=PATH, help="Table of `path` and `scene` of clips whose names do not tell the scene.")
@click.option("--recipes", type=click.IntRange(0), help="Settings tried on clips set aside before. [0]")
@click.option("--note", help="Printed below the table, such as what the test clips were used for before. [none]")
@click.option(
    "--add",
    is_flag=True,
    help="Keep the trainings that FILE holds already, of other seeds or variants, and what it says of the study where "
    "you say nothing.",
)
@FOLDER_OPTION
@SUBSET
@params_option
def save(
    run: str,
    file: Path,
    title: str | None,
    pool: str | None,
    scenes: Path | None,
    recipes: int | None,
    note: str | None,
    add: bool,
    folder: Path | None,
    subset: str,
    params: Path,
) -> None:
    """Write everything that was found of RUN into FILE, json, for `dlkdd table --studies`.

    With --add, one file gathers the seeds that several machines have trained.

    \b
    Example:
      dlkdd study save night studies/night.json --scenes scenes.tsv --recipes 4
    """  # noqa: D301
    from pipeline.studies.gathered import gather, read_scenes
    from pipeline.studies.joined import added
    from pipeline.studies.saved import Words, read, write

    kept = read(file) if add and file.exists() else None
    unsaid = Words(title=run, note="", pool="", recipes=0) if kept is None else kept.words()
    given: dict[str, Any] = {"title": title, "note": note, "pool": pool, "recipes": recipes}
    found = gather(
        _prepared(run, folder, subset, params),
        replace(unsaid, **{name: value for name, value in given.items() if value is not None}),
        scenes={} if scenes is None else read_scenes(scenes),
    )
    if kept is not None:
        found = added(kept, found)
    write(file, found)
    trained = ", ".join(f"{name} x{len(variant.hits)}" for name, variant in found.variants.items())
    click.echo(f"{file}: {trained}; {len(found.groups)} clips of {len(set(found.groups))} scenes")


def _prepared(run: str, folder: Path | None, subset: str, params: Path) -> "Study":
    """The study of a run, on this machine."""
    import torch

    from pipeline.inference.cost import device_name
    from pipeline.pages.report_origin import commit_of
    from pipeline.studies.prepared import Study
    from pipeline.version import VERSION

    chosen, code = machine(params), Path(__file__).parents[2]
    threads = f"{chosen['compute'].threads} thread{'s' * (chosen['compute'].threads != 1)}"
    data = Path("data") / run
    videos = Path(read_inputs(params, run).videos)
    # Sums over longer vectors end in other digits, and from them trainings grow apart.
    vectors = f", {torch.backends.cpu.get_cpu_capability()}" if chosen["device"].type == "cpu" else ""
    return Study(
        folder=data,
        videos=videos,
        params=params,
        kept=folder or data / "study",
        subset=subset,
        device=chosen["device"],
        # an installed copy may lie in somebody else's repository
        commit=commit_of(code) if (code / "dvc.yaml").is_file() else f"of version {VERSION}",
        hardware=f"{device_name(chosen['device'])}{vectors}, {threads}, {chosen['compute'].precision}",
    )


def numbers_in(seeds: str) -> list[int]:
    """`0-3,7` as numbers, each once.

    Raises:
        click.UsageError: it is written otherwise, or holds no number.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", seeds):
        raise click.UsageError(f"--seeds {seeds}: wanted numbers and ranges, such as 0-9 or 0,3,5")
    found: list[int] = []
    for part in seeds.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise click.UsageError(f"--seeds {seeds}: holds no number; write the smaller one first")
    return list(dict.fromkeys(found))

"""Subcommands beside the stages: darkening, brightening, results, cost, speed, cleaning up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from click.core import ParameterSource

from pipeline.commands.options import FOLDER, PATH, device_options, machine, params_option, run_names
from pipeline.config import ENHANCERS, MODELS, StudentConfig, TeacherConfig, ViewsConfig, plain
from pipeline.params import read_inputs, read_params, read_section

MOST_EV = 30
"""Stops of light that `darken` takes away or adds; the first 20 leave nothing of 8 bits."""


@click.command()
@click.argument("root", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--ev", type=float, required=True, help="Exposure in EV; -5 keeps 1/32 of the light.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same noise.")
@click.option("--crf", type=click.IntRange(0, 51), default=18, show_default=True, help="x264's constant rate factor.")
def darken(root: Path, out: Path, ev: float, seed: int, crf: int) -> None:
    """Write darkened copies of all videos below ROOT into OUT, by a physical model of a camera in the dark.

    \b
    Example:
      dlkdd darken VIDEOS DARK --ev -5
    """  # noqa: D301
    from pipeline.clips.darkened_folder import darken_video_folder

    if not -MOST_EV <= ev <= MOST_EV:  # NaN too
        raise click.UsageError(f"--ev: found {ev}, wanted {-MOST_EV} to {MOST_EV}")
    with _bar("darken") as advance:
        written = darken_video_folder(root, out, exposure_ev=ev, seed=seed, crf=crf, progress=advance)
    click.echo(f"{len(written)} videos at {ev:+g} EV in {out}")


@click.command()
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option("--enhancer", type=click.Choice(ENHANCERS), default="zero_dce", show_default=True, help="The method.")
@click.option("--weights", type=PATH, help="For zero_dce: a run's enhancer.safetensors, or the published file.")
@click.option("--gamma", type=float, default=1.8, show_default=True, help="For gamma: above 1 brightens.")
@click.option("--crf", type=click.IntRange(0, 51), default=18, show_default=True, help="x264's constant rate factor.")
@click.option("--sheet", is_flag=True, help="Write a picture of all methods side by side, with ms a frame, instead.")
@device_options
def brighten(
    source: Path,
    out: Path,
    enhancer: str,
    weights: Path | None,
    gamma: float,
    crf: int,
    sheet: bool,
    device: str,
    threads: int,
) -> None:
    """Write brightened copies of SOURCE, a video or a folder of them, into OUT; or one picture of all methods.

    \b
    Examples:
      dlkdd brighten night.mp4 bright.mp4 --weights data/demo/enhancer.safetensors
      dlkdd brighten VIDEOS BRIGHT --enhancer lime
      dlkdd brighten VIDEOS sheet.png --sheet
    """  # noqa: D301
    from pipeline.enhancers.brighten import brighten_videos, contact_sheet
    from pipeline.inference.loading import open_enhancer
    from pipeline.training.machine import set_up_machine

    given = click.get_current_context().get_parameter_source
    for option, value, effective in (
        ("enhancer", enhancer, not sheet),
        ("gamma", gamma, sheet or enhancer == "gamma"),
        ("crf", crf, not sheet),
    ):
        if given(option) is ParameterSource.COMMANDLINE and not effective:
            raise click.UsageError(f"--{option} {value} has no effect here; leave it out")
    chosen = set_up_machine(device, threads)
    if sheet:
        names = [name for name in ENHANCERS if name != "none" and (name != "zero_dce" or weights is not None)]
        shown = {name: open_enhancer(name, weights if name == "zero_dce" else None, gamma=gamma) for name in names}
        for name, milliseconds in contact_sheet(source, out, shown, device=chosen).items():
            click.echo(f"{name:<10}{milliseconds:10.1f} ms a frame")
        if weights is None:
            click.echo("zero_dce is left out: it needs --weights")
        click.echo(str(out))
        return
    model = open_enhancer(enhancer, weights, gamma=gamma)
    with _bar("brighten") as advance:
        written = brighten_videos(source, out, model, device=chosen, crf=crf, progress=advance)
    click.echo(f"{len(written)} videos by {enhancer} in {out}")


@click.command()
@click.option("--model", type=click.Choice(MODELS), default="r2plus1d_34", show_default=True, help="Backbone.")
@click.option(
    "--head", type=click.Choice(["attention", "average"]), default="attention", show_default=True, help="Head."
)
@click.option("--frames", type=int, default=64, show_default=True, help="Frames a view.")
@click.option("--size", type=int, default=112, show_default=True, help="Side of the view in pixels.")
@click.option("--classes", type=int, default=11, show_default=True, help="Number of classes.")
@click.option(
    "--enhancer", type=click.Choice(ENHANCERS), default="zero_dce", show_default=True, help="Of the enhancement-based."
)
@click.option("--repeats", type=int, default=5, show_default=True, help="Timed forward passes; the median counts.")
@click.option("--into", type=PATH, help="Also write the table into this document, and its figures as json beside it.")
@device_options
def cost(
    model: str,
    head: str,
    frames: int,
    size: int,
    classes: int,
    enhancer: str,
    repeats: int,
    into: Path | None,
    device: str,
    threads: int,
) -> None:
    """Count and measure what an answer costs: student, enhancement-based and two-stream (the paper's Table 5).

    \b
    Example:
      dlkdd cost --model r2plus1d_tiny --frames 16 --size 56 --into cost.md
    """  # noqa: D301
    from pipeline.inference.cost_table import run
    from pipeline.training.machine import set_up_machine

    if into is not None and into.suffix.lower() != ".md":
        raise click.UsageError(f"--into {into}: wanted a document that ends in .md; the figures go beside it as json")
    text = run(
        None if into is None else into.with_suffix(".json"),
        into,
        model=model,
        head=head,
        frames=frames,
        size=size,
        num_classes=classes,
        enhancer=enhancer,
        repeats=repeats,
        device=set_up_machine(device, threads),
    )
    click.echo(text)


@click.command()
@click.argument("runs", nargs=-1, shell_complete=run_names)
@click.option("--into", type=PATH, help="Also write the tables into this document, between its markers.")
@click.option("--paper", is_flag=True, help="Print the paper's Tables 1 to 4 with all evaluated runs beside them.")
@click.option("--studies", type=PATH, help="Print the studies in this folder or file, which `dlkdd study save` wrote.")
@click.option("--by-class", is_flag=True, help="Of --studies: the clips of each class alone.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "latex"]),
    default="markdown",
    help="Of --paper and --studies. [markdown]",
)
@params_option
def table(
    runs: tuple[str, ...],
    into: Path | None,
    paper: bool,
    studies: Path | None,
    by_class: bool,
    form: str,
    params: Path,
) -> None:
    """Print the results of RUNS (default: all of params.yaml) and where their files lie.

    With --studies and --into, tables go between the lines `<!-- NAME -->` and `<!-- end NAME -->`, NAME being the
    folder's name, or the file's without .json; with --by-class `NAME by class`.

    \b
    Examples:
      dlkdd table demo
      dlkdd table --paper --format latex
      dlkdd table --studies docs/results/studies
      dlkdd table --studies docs/results/studies --into docs/results.md
      dlkdd table --studies docs/results/studies/arid-forward.json --by-class
    """  # noqa: D301
    from pipeline.studies.table import class_table, read_studies
    from pipeline.studies.table import tables as study_tables
    from pipeline.tables.paper_runs import read_runs
    from pipeline.tables.paper_tables import build_tables
    from pipeline.tables.paper_text import as_latex, as_markdown
    from pipeline.tables.run_table import as_text, read_results, write_block, write_into

    if by_class and studies is None:
        raise click.UsageError("--by-class goes with --studies; `dlkdd report` has the classes of a run")
    if paper or studies is not None:
        if runs or (paper and (into is not None or studies is not None)):
            raise click.UsageError(
                "--paper takes all evaluated runs in data/, --studies all files of its folder; each prints alone, "
                "leave RUNS out, and with --paper --into as well"
            )
        if into is not None and form == "latex":
            raise click.UsageError("--into writes Markdown; leave --format latex out")
        if studies is None:
            tables = build_tables(read_runs(Path("data")))
        else:
            found = read_studies(studies)
            tables = [class_table(found)] if by_class else study_tables(found)
        click.echo(as_latex(tables) if form == "latex" else as_markdown(tables))
        if into is not None and studies is not None:
            name = studies.resolve().name.removesuffix(".json") + (" by class" if by_class else "")
            write_block(into, name, as_markdown(tables))
        return
    for run in runs or read_params(params)["runs"]:
        folder = Path("data") / run
        results = read_results(folder, run)
        click.echo(as_text(results, folder))
        if into is not None:
            write_into(into, results)


@click.command()
@click.argument("run", shell_complete=run_names)
@click.option(
    "--section",
    type=click.Choice(["student", "teacher"]),
    default="student",
    show_default=True,
    help="Network to train.",
)
@click.option("--batches", type=click.IntRange(1), default=10, show_default=True, help="Timed batches of each kind.")
@click.option("--json", "out", type=PATH, help="Also write the figures as json.")
@params_option
def bench(run: str, section: str, batches: int, out: Path | None, params: Path) -> None:
    """Measure how fast this machine reads RUN's clips and trains on them, and how long training waits for clips.

    \b
    Example:
      dlkdd bench demo --section teacher --json speed.json
    """  # noqa: D301
    from pipeline import speed
    from pipeline.clips.clip_index import class_names_in, of_subset, read_clips
    from pipeline.clips.views import view_rule

    chosen = machine(params)
    views, folder = read_section(params, ViewsConfig), Path("data") / run
    network = read_section(params, TeacherConfig if section == "teacher" else StudentConfig)
    clips = read_clips(folder / "clips.csv")
    work = speed.Workload(
        clips=of_subset(clips, "train"),
        videos=Path(read_inputs(params, run).videos),
        rule=view_rule(plain(views)),
        colour_range=views.colour_range,
        settings=plain(network),
        num_classes=len(class_names_in(clips)),
        precision=chosen["compute"].precision,
        workers=chosen["compute"].workers,
    )
    found = speed.measure(work, batches=batches, device=chosen["device"], folder=folder)
    click.echo(speed.as_text(found))
    if out is not None:
        speed.write(out, found)


@click.command()
@click.argument("runs", nargs=-1, shell_complete=run_names)
@params_option
def clean(runs: tuple[str, ...], params: Path) -> None:
    """Remove unfinished work, kept logit rows and cached frames of RUNS (default: all of params.yaml).

    \b
    Example:
      dlkdd clean demo
    """  # noqa: D301
    from pipeline.training.work_folder import clean as clean_run

    for run in runs or read_params(params)["runs"]:
        click.echo(f"{run}: {clean_run(Path('data') / run)} bytes freed")


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over videos; gives the function to call with (done, total)."""
    from tqdm import tqdm

    with tqdm(desc=title, unit="video", disable=None) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


COMMANDS = (darken, brighten, table, cost, bench, clean)

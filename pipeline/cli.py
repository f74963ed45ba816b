"""The command line: converts arguments, calls a stage, maps errors to messages and exit codes."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pipeline import config as sections
from pipeline import presets
from pipeline.config import read_inputs, read_params, read_section

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dl-kdd")
def cli() -> None:
    """Distil a student that recognises actions in dark video (DL-KDD).

    `dlkdd use` chooses the parameters, `dvc repro` runs the stages.
    """


def main() -> None:
    """Run the command line; exits 0 when done, 1 on an error, 2 on wrong usage, 130 on Ctrl-C."""
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        # DVC looks at the exit code alone: with 0 it would take a partial output for a finished one.
        click.echo("stopped; start again to go on from what is finished", err=True)
        sys.exit(130)
    except (ValueError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def params_option(command: Command) -> Command:
    """Add --params."""
    default = Path("params.yaml")
    return click.option("--params", type=PATH, default=default, show_default=True, help="Parameters' file.")(command)


def stage_options(command: Command) -> Command:
    """Add what every stage takes."""
    fresh = click.option("--fresh", is_flag=True, help="Start anew instead of from what an earlier run finished.")
    return params_option(fresh(command))


def required_path(name: str, text: str) -> Callable[[Command], Command]:
    """A required option that names a file or folder."""
    return click.option(name, type=PATH, required=True, help=text)


clips_option = required_path("--clips", "clips.csv of the run.")
videos_option = required_path("--videos", "Root that clip ids are relative to.")
checkpoint_option = required_path("--checkpoint", "Checkpoint to write.")
curve_option = required_path("--curve", "Learning curve to write, csv.")
timings_option = required_path("--timings", "Seconds and memory to write, json.")
statistics_option = required_path("--statistics", "Figures of the dark training frames, from prepare.")


@cli.command()
@click.argument("name")
@click.option("--videos", type=FOLDER, help="Root that the lists' paths are relative to.")
@click.option("--lists", type=FOLDER, help="Folder of ARID's lists, for `arid`.")
@click.option("--train", type=PATH, help="List, or folder of class folders, of the training clips.")
@click.option("--test", type=PATH, help="The same of the test clips.")
@click.option("--classes", type=PATH, help="Table of class ids and names, where the lists hold ids.")
@click.option("--folder", type=FOLDER, help="Folder of class folders, perhaps below train/ and test/.")
@click.option("--model", type=click.Choice(sections.MODELS), help="Backbone of teacher and student. [r2plus1d_34]")
@click.option("--head", type=click.Choice(["attention", "average"]), help="What follows the backbone.")
@click.option("--frames", type=int, help="Frames a view.")
@click.option("--sampling", type=click.Choice(["consecutive", "spread"]), help="How a view takes them.")
@click.option("--size", type=int, help="Side of the view in pixels.")
@click.option("--flip/--no-flip", default=None, help="Mirror half of the training views.")
@click.option("--epochs", type=int, help="Epochs of teacher and student.")
@click.option("--batch-size", type=int, help="Clips a step, of teacher and student.")
@click.option("--views", type=int, help="Views of every clip in the logit store.")
@click.option("--seed", type=int, help="Seed of views, order and weights.")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Set any other value.")
@click.option("--force", is_flag=True, help="Replace an edited params.yaml.")
@params_option
def use(name: str, params: Path, force: bool, assignments: tuple[str, ...], **options: Any) -> None:
    r"""Write params.yaml: NAME is `demo`, `arid`, or what you call your own clips.

    \b
    dlkdd use demo
    dlkdd use arid --videos ROOT --lists FOLDER
    dlkdd use night --train LIST --test LIST --classes TABLE --videos ROOT
    dlkdd use night --folder ROOT --model r2plus1d_tiny --size 64
    """
    values = _chosen_preset(name, options)
    if options["size"] is not None:
        values = presets.set_size(values, options["size"])
    both = [f"{section}.{{}}" for section in ("teacher", "student")]
    targets = {"head": both, "epochs": both, "batch-size": both, "frames": ["views.{}"], "sampling": ["views.{}"]}
    targets |= {"flip": ["views.{}"], "views": ["logits.{}"], "seed": ["views.{}", *both]}
    changes = [
        f"{place.format(key.replace('-', '_'))}={str(value).lower()}"
        for key, places in targets.items()
        if (value := options[key.replace("-", "_")]) is not None
        for place in places
    ]
    values = presets.override(values, [*changes, *assignments])
    presets.write_params(params, values, name=name, force=force)
    click.echo(f"{params}: runs {', '.join(values['runs'])}; now `dvc repro`")


def _chosen_preset(name: str, options: dict[str, Any]) -> presets.Params:
    needed = {"demo": (), "arid": ("videos", "lists")}.get(
        name, ("videos", "train", "test", "classes", "folder", "model")
    )
    known = ("videos", "lists", "train", "test", "classes", "folder", "model")
    for key in known:
        if options[key] is not None and key not in needed:
            raise click.UsageError(f"--{key} does not go with `dlkdd use {name}`; use --set for single values")
    model = options["model"] or "r2plus1d_34"
    if name == "demo":
        return presets.demo()
    if name == "arid":
        if options["videos"] is None or options["lists"] is None:
            raise click.UsageError("arid needs --videos ROOT and --lists FOLDER")
        return presets.arid(options["videos"], options["lists"])
    if options["folder"] is not None:
        return presets.own_folder(name, options["folder"], model=model)
    missing = [f"--{key}" for key in ("train", "test", "videos") if options[key] is None]
    if missing:
        raise click.UsageError(f"{name}: {', '.join(missing)} missing; give lists and --videos, or --folder")
    return presets.own(
        name,
        videos=options["videos"],
        train=options["train"],
        test=options["test"],
        classes=options["classes"],
        model=model,
    )


@cli.command()
@required_path("--out", "Folder to write: videos, lists, what each clip shows.")
@click.option("--train-clips", "train_clips_per_class", type=int, help="Training clips of each class.")
@click.option("--test-clips", "test_clips_per_class", type=int, help="Test clips of each class.")
@click.option("--frames", "num_frames", type=int, help="Frames a clip.")
@click.option("--exposure-ev", type=float, help="Exposure in EV; -5 keeps 1/32 of the light.")
@click.option("--lit-twin", is_flag=True, default=None, help="Also write every clip as it was before the darkening.")
@click.option("--seed", type=int, help="Same seed, same clips.")
@stage_options
def render(out: Path, params: Path, fresh: bool, **options: Any) -> None:
    """Render dark-action clips; values not given are those of params.yaml."""
    from stages import render as stage

    given = {key: value for key, value in options.items() if value is not None}
    config = dataclasses.replace(read_section(params, sections.RenderConfig), **given)
    stage.run(out, config=config, fresh=fresh)


@cli.command()
@click.option("--run", required=True, help="Run whose class names in params.yaml are used.")
@videos_option
@required_path("--train", "Training list, or folder of class folders.")
@required_path("--test", "Test list, or folder of class folders.")
@required_path("--clips", "clips.csv to write.")
@required_path("--statistics", "Figures of the training frames to write, json.")
@required_path("--quarantine", "List of bad videos to write, csv.")
@stage_options
def prepare(
    run: str,
    videos: Path,
    train: Path,
    test: Path,
    clips: Path,
    statistics: Path,
    quarantine: Path,
    params: Path,
    fresh: bool,
) -> None:
    """List the clips, look into every video, refuse bad ones and leaks."""
    from stages import prepare as stage

    stage.run(
        videos,
        train,
        test,
        clips,
        statistics,
        quarantine,
        class_names=read_inputs(params, run).classes,
        config=read_section(params, sections.PrepareConfig),
        colour_range=read_section(params, sections.ViewsConfig).colour_range,
        fresh=fresh,
    )


@cli.command()
@clips_option
@videos_option
@checkpoint_option
@required_path("--contact-sheet", "Picture of raw and enhanced frames to write, png.")
@required_path("--figures", "What the enhancer does to held-out frames, json.")
@stage_options
def enhancer(
    clips: Path, videos: Path, checkpoint: Path, contact_sheet: Path, figures: Path, params: Path, fresh: bool
) -> None:
    """Train Zero-DCE on the run's own frames, or load given weights."""
    from stages import enhancer as stage

    stage.run(
        clips,
        videos,
        checkpoint,
        contact_sheet,
        figures,
        config=read_section(params, sections.EnhancerConfig),
        views=read_section(params, sections.ViewsConfig),
        **_machine(params),
        fresh=fresh,
    )


@cli.command()
@clips_option
@videos_option
@required_path("--enhancer", "The enhancer's checkpoint.")
@checkpoint_option
@required_path("--card", "What the teacher's logits are known by, to write, json.")
@curve_option
@timings_option
@stage_options
def teacher(
    clips: Path,
    videos: Path,
    enhancer: Path,
    checkpoint: Path,
    card: Path,
    curve: Path,
    timings: Path,
    params: Path,
    fresh: bool,
) -> None:
    """Train the teacher on enhanced views."""
    from stages import teacher as stage

    stage.run(
        clips,
        videos,
        enhancer,
        checkpoint,
        card,
        curve,
        timings,
        config=read_section(params, sections.TeacherConfig),
        enhancer_on=read_section(params, sections.EnhancerConfig).on,
        views=read_section(params, sections.ViewsConfig),
        **_machine(params),
        fresh=fresh,
    )


@cli.command()
@clips_option
@videos_option
@required_path("--teacher", "The teacher's checkpoint.")
@required_path("--store", "Logit store to write, HDF5.")
@stage_options
def logits(clips: Path, videos: Path, teacher: Path, store: Path, params: Path, fresh: bool) -> None:
    """Store the teacher's logits for V views of every training clip."""
    from stages import logits as stage

    stage.run(
        clips,
        videos,
        teacher,
        store,
        config=read_section(params, sections.LogitsConfig),
        mode=read_section(params, sections.ViewsConfig).mode,
        **_machine(params),
        fresh=fresh,
    )


@cli.command()
@clips_option
@videos_option
@statistics_option
@required_path("--store", "Logit store of the teacher.")
@required_path("--teacher-card", "The teacher's card; its weights are not opened.")
@checkpoint_option
@curve_option
@timings_option
@stage_options
def student(
    clips: Path,
    videos: Path,
    statistics: Path,
    store: Path,
    teacher_card: Path,
    checkpoint: Path,
    curve: Path,
    timings: Path,
    params: Path,
    fresh: bool,
) -> None:
    """Train the student on dark views, labels and stored logits."""
    from stages import student as stage

    stage.run(
        clips,
        videos,
        statistics,
        store,
        teacher_card,
        checkpoint,
        curve,
        timings,
        config=read_section(params, sections.StudentConfig),
        num_views=read_section(params, sections.LogitsConfig).views,
        views=read_section(params, sections.ViewsConfig),
        **_machine(params),
        fresh=fresh,
    )


@cli.command()
@clips_option
@videos_option
@statistics_option
@checkpoint_option
@curve_option
@timings_option
@stage_options
def baseline(
    clips: Path,
    videos: Path,
    statistics: Path,
    checkpoint: Path,
    curve: Path,
    timings: Path,
    params: Path,
    fresh: bool,
) -> None:
    """Train the student's classifier without soft targets."""
    from stages import baseline as stage

    stage.run(
        clips,
        videos,
        statistics,
        checkpoint,
        curve,
        timings,
        config=read_section(params, sections.BaselineConfig, extra=sections.STUDENT_ONLY),
        num_views=read_section(params, sections.LogitsConfig).views,
        views=read_section(params, sections.ViewsConfig),
        **_machine(params),
        fresh=fresh,
    )


@cli.command()
@clips_option
@videos_option
@required_path("--baseline", "The baseline's checkpoint.")
@required_path("--teacher", "The teacher's checkpoint.")
@required_path("--student", "The student's checkpoint.")
@required_path("--metrics", "Figures with intervals to write, json.")
@required_path("--details", "Figures per class and confusion to write, json.")
@required_path("--predictions", "Every model's answer for every test clip to write, csv.")
@required_path("--confusion", "Actual and predicted class for plots to write, csv.")
@params_option
def evaluate(
    clips: Path,
    videos: Path,
    baseline: Path,
    teacher: Path,
    student: Path,
    metrics: Path,
    details: Path,
    predictions: Path,
    confusion: Path,
    params: Path,
) -> None:
    """Measure all three models on the test clips."""
    from stages import evaluate as stage

    stage.run(
        clips,
        videos,
        {"baseline": baseline, "teacher": teacher, "student": student},
        metrics,
        details,
        predictions,
        confusion,
        config=read_section(params, sections.EvaluateConfig),
        **_machine(params),
    )


@cli.command()
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


@cli.command()
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


@cli.command()
@click.argument("runs", nargs=-1)
@params_option
def clean(runs: tuple[str, ...], params: Path) -> None:
    """Remove unfinished work, kept logit rows and cached frames of RUNS (default: all of params.yaml)."""
    from pipeline.training.work_folder import clean as clean_run

    for run in runs or read_params(params)["runs"]:
        click.echo(f"{run}: {clean_run(Path('data') / run)} bytes freed")


def _machine(params: Path) -> dict[str, Any]:
    """The section `compute` as its config and as the device; also sets torch's threads."""
    from pipeline.training.machine import set_up_machine

    compute = read_section(params, sections.ComputeConfig)
    return {"compute": compute, "device": set_up_machine(compute.device, compute.threads)}

"""One subcommand a stage of dvc.yaml, and `live`, which trains as the stage student does."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from pipeline import config as sections
from pipeline.commands.live import live
from pipeline.commands.options import (
    checkpoint_option,
    clips_option,
    curve_option,
    in_several_processes,
    machine,
    params_option,
    required_path,
    run_names,
    stage_options,
    statistics_option,
    timings_option,
    videos_option,
)
from pipeline.params import read_inputs, read_section


@click.command()
@required_path("--out", "Folder to write: videos, lists, what each clip shows.")
@click.option("--train-clips", "train_clips_per_class", type=int, help="Training clips of each class.")
@click.option("--test-clips", "test_clips_per_class", type=int, help="Test clips of each class.")
@click.option("--train-scenes", type=int, help="Scenes of the training clips.")
@click.option("--test-scenes", type=int, help="Other scenes, of the test clips.")
@click.option("--frames", "num_frames", type=int, help="Frames a clip.")
@click.option("--exposure-ev", type=float, help="Exposure in EV; -5 keeps 1/32 of the light.")
@click.option("--lit-twin", is_flag=True, default=None, help="Also write every clip as it was before the darkening.")
@click.option("--seed", type=int, help="Same seed, same clips.")
@stage_options
def render(out: Path, params: Path, fresh: bool, **options: Any) -> None:
    """Render dark-action clips; values not given are those of params.yaml.

    \b
    Example:
      dlkdd render --out CLIPS --train-clips 100 --exposure-ev -4 --lit-twin
    """  # noqa: D301
    from stages import render as stage

    given = {key: value for key, value in options.items() if value is not None}
    config = dataclasses.replace(read_section(params, sections.RenderConfig), **given)
    stage.run(out, config=config, fresh=fresh)
    click.echo(f"{config.train_clips_per_class} training and {config.test_clips_per_class} test clips a class in {out}")


@click.command()
@click.option("--run", required=True, shell_complete=run_names, help="Run whose class names in params.yaml are used.")
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
    """List the clips, look into every video, refuse bad ones and leaks.

    \b
    Example:
      dlkdd prepare --run demo --videos data/demo/rendered/videos \\
        --train data/demo/rendered/train.txt --test data/demo/rendered/test.txt \\
        --clips clips.csv --statistics statistics.json --quarantine bad.csv
    """  # noqa: D301
    from stages import prepare as stage

    inputs = read_inputs(params, run)
    stage.run(
        videos,
        train,
        test,
        clips,
        statistics,
        quarantine,
        class_names=inputs.classes,
        class_ids=inputs.class_ids,
        config=read_section(params, sections.PrepareConfig),
        colour_range=read_section(params, sections.ViewsConfig).colour_range,
        fresh=fresh,
    )


@click.command()
@clips_option
@videos_option
@checkpoint_option
@required_path("--contact-sheet", "Picture of raw and enhanced frames to write, png.")
@required_path("--figures", "What the enhancer does to held-out frames, json.")
@stage_options
def enhancer(
    clips: Path, videos: Path, checkpoint: Path, contact_sheet: Path, figures: Path, params: Path, fresh: bool
) -> None:
    """Train Zero-DCE on the run's own frames, load given weights, or take a method without weights.

    \b
    Example:
      dlkdd enhancer --clips data/demo/clips.csv \\
        --videos data/demo/rendered/videos --checkpoint enhancer.safetensors \\
        --contact-sheet enhancer.png --figures enhancer.json
    """  # noqa: D301
    from stages import enhancer as stage

    stage.run(
        clips,
        videos,
        checkpoint,
        contact_sheet,
        figures,
        config=read_section(params, sections.EnhancerConfig),
        views=read_section(params, sections.ViewsConfig),
        **machine(params),
        fresh=fresh,
    )


@click.command()
@clips_option
@videos_option
@statistics_option
@required_path("--enhancer", "The enhancer's checkpoint.")
@checkpoint_option
@required_path("--card", "What the teacher's logits are known by, to write, json.")
@curve_option
@timings_option
@stage_options
def teacher(
    clips: Path,
    videos: Path,
    statistics: Path,
    enhancer: Path,
    checkpoint: Path,
    card: Path,
    curve: Path,
    timings: Path,
    params: Path,
    fresh: bool,
) -> None:
    """Train the teacher on enhanced views, or what it is compared with (teacher.input).

    $DLKDD_PROCESSES processes train one network, each on a GPU of its own where compute.device is a GPU.

    \b
    Example:
      dlkdd teacher --clips data/demo/clips.csv \\
        --videos data/demo/rendered/videos \\
        --statistics data/demo/statistics.json \\
        --enhancer data/demo/enhancer.safetensors --checkpoint t.safetensors \\
        --card t.json --curve t_curve.csv --timings t_timings.json
    """  # noqa: D301
    computer, config = machine(params), read_section(params, sections.TeacherConfig)
    if in_several_processes(computer["device"], micro_batches=config.micro_batches):
        return
    # A launcher does without the stage's imports.
    from stages import teacher as stage

    stage.run(
        clips,
        videos,
        statistics,
        enhancer,
        checkpoint,
        card,
        curve,
        timings,
        config=config,
        enhancer_on=read_section(params, sections.EnhancerConfig).on,
        views=read_section(params, sections.ViewsConfig),
        **computer,
        fresh=fresh,
    )


@click.command()
@clips_option
@videos_option
@required_path("--teacher", "The teacher's checkpoint.")
@required_path("--store", "Logit store to write, HDF5.")
@click.option("--dry-run", is_flag=True, help="Only print rows, bytes and the estimated time; keep nothing.")
@stage_options
def logits(clips: Path, videos: Path, teacher: Path, store: Path, dry_run: bool, params: Path, fresh: bool) -> None:
    """Store the teacher's logits for V views of every training clip.

    $DLKDD_PROCESSES processes share the work, each on a GPU of its own where compute.device is a GPU.

    \b
    Example:
      dlkdd logits --clips data/demo/clips.csv \\
        --videos data/demo/rendered/videos \\
        --teacher data/demo/teacher.safetensors --store logits.h5 --dry-run
    """  # noqa: D301
    from pipeline.training.distributed import processes_to_start

    computer = machine(params)
    if not dry_run and in_several_processes(computer["device"]):
        return
    # A launcher does without the stage's imports.
    from stages import logits as stage

    config, mode = read_section(params, sections.LogitsConfig), read_section(params, sections.ViewsConfig).mode
    if dry_run:
        processes = processes_to_start()
        stage.dry_run(clips, videos, teacher, store, config=config, mode=mode, **computer, processes=processes)
    else:
        stage.run(clips, videos, teacher, store, config=config, mode=mode, **computer, fresh=fresh)


@click.command()
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
    """Train the student on dark views, labels and stored logits.

    $DLKDD_PROCESSES processes train one network, each on a GPU of its own where compute.device is a GPU.

    \b
    Example:
      dlkdd student --clips data/demo/clips.csv \\
        --videos data/demo/rendered/videos \\
        --statistics data/demo/statistics.json --store data/demo/logits.h5 \\
        --teacher-card data/demo/teacher.json --checkpoint s.safetensors \\
        --curve s_curve.csv --timings s_timings.json
    """  # noqa: D301
    computer, config = machine(params), read_section(params, sections.StudentConfig)
    if in_several_processes(computer["device"], micro_batches=config.micro_batches):
        return
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
        config=config,
        num_views=read_section(params, sections.LogitsConfig).views,
        views=read_section(params, sections.ViewsConfig),
        **computer,
        fresh=fresh,
    )


@click.command()
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
    """Train the student's classifier without soft targets.

    $DLKDD_PROCESSES processes train one network, each on a GPU of its own where compute.device is a GPU.

    \b
    Example:
      dlkdd baseline --clips data/demo/clips.csv \\
        --videos data/demo/rendered/videos \\
        --statistics data/demo/statistics.json --checkpoint b.safetensors \\
        --curve b_curve.csv --timings b_timings.json
    """  # noqa: D301
    computer = machine(params)
    config = read_section(params, sections.BaselineConfig, extra=sections.STUDENT_ONLY)
    if in_several_processes(computer["device"], micro_batches=config.micro_batches):
        return
    from stages import baseline as stage

    stage.run(
        clips,
        videos,
        statistics,
        checkpoint,
        curve,
        timings,
        config=config,
        num_views=read_section(params, sections.LogitsConfig).views,
        views=read_section(params, sections.ViewsConfig),
        **computer,
        fresh=fresh,
    )


@click.command()
@clips_option
@videos_option
@required_path("--baseline", "The baseline's checkpoint.")
@required_path("--teacher", "The teacher's checkpoint.")
@required_path("--student", "The student's checkpoint.")
@required_path("--metrics", "Figures with intervals to write, json.")
@required_path("--details", "Figures by class, confidence and darkness to write, json.")
@required_path("--predictions", "Every model's answer for every test clip to write, csv.")
@required_path("--confusion", "Actual and predicted class for plots to write, csv.")
@required_path("--card", "Model card to write beside the student's checkpoint, MODEL_CARD.md.")
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
    card: Path,
    params: Path,
) -> None:
    """Measure all three models on the test clips, by class and by darkness too, and write the student's card.

    \b
    Example:
      dlkdd evaluate --clips data/demo/clips.csv \\
        --videos data/demo/rendered/videos \\
        --baseline data/demo/baseline.safetensors \\
        --teacher data/demo/teacher.safetensors \\
        --student data/demo/student.safetensors \\
        --metrics data/demo/metrics.json \\
        --details data/demo/details.json \\
        --predictions data/demo/predictions.csv \\
        --confusion data/demo/confusion.csv --card data/demo/MODEL_CARD.md
    """  # noqa: D301
    from stages import evaluate as stage

    stage.run(
        clips,
        videos,
        {"baseline": baseline, "teacher": teacher, "student": student},
        metrics,
        details,
        predictions,
        confusion,
        card,
        config=read_section(params, sections.EvaluateConfig),
        **machine(params),
    )


COMMANDS = (render, prepare, enhancer, teacher, logits, student, baseline, evaluate, live)

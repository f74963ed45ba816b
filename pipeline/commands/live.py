"""The subcommand `live`: the student's training with the teacher in memory, to compare cached logits with."""

from pathlib import Path

import click

from pipeline import config as sections
from pipeline.commands.options import (
    checkpoint_option,
    clips_option,
    curve_option,
    in_several_processes,
    machine,
    required_path,
    stage_options,
    statistics_option,
    timings_option,
    videos_option,
)
from pipeline.params import read_section


@click.command()
@clips_option
@videos_option
@statistics_option
@required_path("--teacher", "The teacher's checkpoint; it takes the place of the student's --store.")
@checkpoint_option
@curve_option
@timings_option
@stage_options
def live(
    clips: Path,
    videos: Path,
    statistics: Path,
    teacher: Path,
    checkpoint: Path,
    curve: Path,
    timings: Path,
    params: Path,
    fresh: bool,
) -> None:
    """Train the student with the teacher in memory instead of stored logits, to compare the two.

    No stage of the pipeline. With the same parameters it sees the views that the store would hold, so the student
    comes out the same but for rounding. $DLKDD_PROCESSES processes train one network.

    \b
    Example:
      dlkdd live --clips data/demo/clips.csv \\
        --videos data/demo/rendered/videos \\
        --statistics data/demo/statistics.json \\
        --teacher data/demo/teacher.safetensors --checkpoint l.safetensors \\
        --curve l_curve.csv --timings l_timings.json
    """  # noqa: D301
    computer, config = machine(params), read_section(params, sections.StudentConfig)
    if in_several_processes(computer["device"], micro_batches=config.micro_batches):
        return
    from pipeline.commands import live_student

    live_student.run(
        clips,
        videos,
        statistics,
        teacher,
        checkpoint,
        curve,
        timings,
        config=config,
        num_views=read_section(params, sections.LogitsConfig).views,
        views=read_section(params, sections.ViewsConfig),
        **computer,
        fresh=fresh,
    )

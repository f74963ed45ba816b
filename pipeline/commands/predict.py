"""`dlkdd predict`: answers to video files and live streams."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pipeline.commands.options import FOLDER, PATH, device_options

if TYPE_CHECKING:
    from pipeline.inference.windows import Span

LIVE_OPTIONS = ("duration", "timeout", "retries")
FILE_OPTIONS = ("videos",)

SECONDS = click.FloatRange(0, min_open=True)


class SpanType(click.ParamType):  # type: ignore[type-arg]
    """A stretch of a video: 2 or 0.5s in seconds, 16f in frames."""

    name = "SPAN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Span":
        """Parse."""
        from pipeline.inference.windows import parse_span

        try:
            return parse_span(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("checkpoint", type=PATH)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--stride", type=SpanType(), help="Answer windows this far apart: 2 or 0.5s in seconds, 16f in frames.")
@click.option(
    "--window", type=SpanType(), help="Length of a window. [what a view covers; 4 where views spread over whole clips]"
)
@click.option("--clips", type=click.IntRange(1), default=1, show_default=True, help="Starts in time to average over.")
@click.option(
    "--crops",
    type=click.Choice(["centre", "five", "ten"]),
    default="centre",
    show_default=True,
    help="Crops to average over.",
)
@click.option(
    "--average",
    type=click.Choice(["logits", "probabilities"]),
    default="logits",
    show_default=True,
    help="What is averaged.",
)
@click.option("--format", "form", type=click.Choice(["json", "csv"]), default="json", show_default=True, help="Lines.")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Best classes to name.")
@click.option(
    "--threshold", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="No label below this probability."
)
@click.option("--out", type=PATH, help="Write the answers into this file instead of standard output.")
@click.option("--save-video", type=PATH, help="Draw the answers into copies: an .mp4 for one video, else a folder.")
@click.option("--videos", type=FOLDER, help="Root that paths in lists are relative to. [the list's folder]")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Views seen together.")
@click.option("--duration", type=SECONDS, help="End a stream this many seconds after its first frame.")
@click.option("--timeout", type=SECONDS, default=10.0, show_default=True, help="Seconds of a stream's silence.")
@click.option("--retries", type=click.IntRange(0), default=5, show_default=True, help="Tries to connect again.")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="Of the network."
)
@device_options
def predict(
    checkpoint: Path,
    sources: tuple[str, ...],
    stride: "Span | None",
    window: "Span | None",
    clips: int,
    crops: str,
    average: str,
    form: str,
    top: int,
    threshold: float,
    out: Path | None,
    save_video: Path | None,
    videos: Path | None,
    batch_size: int,
    duration: float | None,
    timeout: float,
    retries: int,
    precision: str,
    device: str,
    threads: int,
) -> None:
    """Say what is done in each SOURCE, by a teacher, student or baseline from its CHECKPOINT.

    A SOURCE is a video, a folder, a quoted pattern, a list, - for a list on standard input, or one live stream:
    rtsp://, http://, udp://, tcp:// or /dev/video0. Each file gets one answer, as in the test, and with --stride one
    for each window. Answers go to standard output a line each, everything else to standard error. Exits 1 where a
    file was broken, after the others.

    \b
    Examples:
      dlkdd predict student.safetensors night.mp4 --save-video seen.mp4
      dlkdd predict student.safetensors VIDEOS --format csv --out answers.csv
      dlkdd predict student.safetensors long.mp4 --stride 2 --threshold 0.5
      find . -name '*.mp4' | dlkdd predict student.safetensors -
      dlkdd predict student.safetensors rtsp://camera/stream --duration 60
    """  # noqa: D301
    from pipeline.clips.files import refuse_overwriting
    from pipeline.commands import predict_run
    from pipeline.inference.answers import AnswerFormat
    from pipeline.inference.live_stream import LiveSettings
    from pipeline.inference.predictor import Protocol

    live = _check_kind(sources)
    if live and save_video is not None and save_video.suffix.lower() != ".mp4":
        raise click.UsageError(f"--save-video {save_video}: wanted a file that ends in .mp4")
    video = save_video if save_video is not None and save_video.suffix.lower() == ".mp4" else None
    named = [Path(source) for source in sources if not live and Path(source).is_file()]
    refuse_overwriting({"--save-video": video, "--out": out}, [checkpoint, *named])
    protocol = Protocol(clips=clips, crops=crops, average=average)
    predictor = predict_run.load(
        checkpoint, protocol, batch_size=batch_size, device=device, threads=threads, precision=precision
    )
    names = predictor.class_names
    wanted = predict_run.Wanted(
        predictor=predictor,
        window=window,
        stride=stride,
        form=AnswerFormat(form=form, class_names=names, top=min(top, len(names)), threshold=threshold, live=live),
        out=out,
        save_video=save_video,
    )
    if live:
        settings = LiveSettings(
            windows=wanted.rule(stride=predict_run.LIVE_STRIDE),
            duration_sec=duration,
            timeout_sec=timeout,
            retries=retries,
        )
        code = predict_run.on_stream(sources[0], settings, wanted)
    else:
        code = predict_run.on_files(sources, videos, wanted)
    click.get_current_context().exit(code)


def _check_kind(sources: tuple[str, ...]) -> bool:
    """Whether the source is a stream; refuses mixtures and options that would have no effect."""
    from pipeline.clips.live_address import SCHEMES, is_live

    live = [source for source in sources if is_live(source)]
    if live and len(sources) > 1:
        raise click.UsageError("a live stream goes alone; start one command for each stream and one for the files")
    for source in sources:
        if "://" in source and not live:
            scheme = source.partition("://")[0]
            raise click.UsageError(f"{scheme}:// is no known stream; known are {', '.join(SCHEMES)}")
    given = click.get_current_context().get_parameter_source
    for option in FILE_OPTIONS if live else LIVE_OPTIONS:
        if given(option) is ParameterSource.COMMANDLINE:
            kind = "files" if live else "a live stream"
            raise click.UsageError(f"--{option} goes with {kind} alone; leave it out")
    return bool(live)


COMMANDS = (predict,)

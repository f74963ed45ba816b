"""`dlkdd export`: a trained model for programs that know nothing of this project."""

from pathlib import Path

import click

from pipeline.commands.options import PATH


@click.command()
@click.argument("checkpoint", type=PATH)
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "torch"]),
    default="onnx",
    show_default=True,
    help="ONNX for ONNX Runtime and others, or torch.export's .pt2.",
)
@click.option("--out", type=PATH, help="File to write. [CHECKPOINT with .onnx or .pt2 in place of its suffix]")
@click.option(
    "--videos",
    type=PATH,
    multiple=True,
    help="Video, or folder of them, to compare with the checkpoint on; may be given again. [seeded noise]",
)
@click.option("--conv2d", is_flag=True, help="Without 3D convolutions, for engines that have none.")
def export(checkpoint: Path, form: str, out: Path | None, videos: tuple[Path, ...], conv2d: bool) -> None:
    """Export CHECKPOINT to a file that runs without this project, with a json beside it that says how to feed it.

    \b
    Example:
      dlkdd export data/demo/student.safetensors --videos data/demo/rendered/videos
    """  # noqa: D301
    from pipeline.inference.export import as_text, run

    click.echo(as_text(run(checkpoint, form=form, out=out, videos=videos, conv2d=conv2d)))


COMMANDS = (export,)

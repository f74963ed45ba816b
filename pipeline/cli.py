"""The command line: the group of all subcommands; maps errors to messages and exit codes."""

import sys

import click

from pipeline.commands import doctor, export, inspect, predict, report, stages, tools
from pipeline.commands.store import store
from pipeline.commands.study import study
from pipeline.commands.terminal import plain_output, show_traceback
from pipeline.commands.use import use


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dl-kdd")
def cli() -> None:
    """Distil a student that recognises actions in dark video (DL-KDD).

    `dlkdd use` chooses the parameters, `dvc repro` runs the stages.

    \b
    Example:
      dlkdd use demo
      dvc repro
      dlkdd table demo
    """  # noqa: D301


for _command in (
    use,
    *stages.COMMANDS,
    *report.COMMANDS,
    store,
    study,
    *tools.COMMANDS,
    *inspect.COMMANDS,
    *predict.COMMANDS,
    *export.COMMANDS,
    *doctor.COMMANDS,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; exits 0 when done, 1 on an error, 2 on wrong usage, 130 on Ctrl-C."""
    sys.excepthook = show_traceback
    with plain_output():
        code = _exit_code()
    sys.exit(code)


def _exit_code() -> int:
    try:
        # With colours, as else click drops their codes, and with them a part of the name that held them.
        code = cli.main(standalone_mode=False, color=True)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        # DVC looks at the exit code alone: with 0 it would take a partial output for a finished one.
        goes_on = set(sys.argv[1:2]) & {command.name for command in stages.COMMANDS if command is not stages.evaluate}
        click.echo("stopped" + ("; start again to go on from what is finished" if goes_on else ""), err=True)
        return 130
    except (ValueError, OSError) as error:
        click.echo(f"Error: {error}", err=True, color=True)
        return 1
    return code if isinstance(code, int) else 0

"""`dlkdd doctor`: whether this machine and this folder are fit for the pipeline."""

from pathlib import Path

import click

from pipeline.commands.options import FOLDER, params_option


@click.command()
@click.option("--folder", type=FOLDER, default=Path(), help="The repository's root, where runs lie. [.]")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as json.")
@params_option
def doctor(folder: Path, as_json: bool, params: Path) -> None:
    """Look at libraries, GPU, decoder, memory, disk, git and DVC; exits 1 where there is a problem.

    \b
    Examples:
      dlkdd doctor
      dlkdd doctor --json > doctor.json
    """  # noqa: D301
    from pipeline.doctor import findings as text
    from pipeline.doctor.examination import findings

    found = []
    for finding in findings(folder, params):
        found.append(finding)
        if not as_json:
            click.echo(text.as_line(finding))
    click.echo(text.as_json(found) if as_json else text.summary(found))
    if any(finding.state == text.PROBLEM for finding in found):
        click.get_current_context().exit(1)


COMMANDS = (doctor,)

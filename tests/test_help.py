"""Help texts: -h everywhere, with examples that the command itself understands; completion for shells."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline import presets
from pipeline.cli import cli

ROOT = Path(__file__).parents[1]


def commands_below(group, path=()):
    """(words after `dlkdd`, command) of a group and of everything in it."""
    yield path, group
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands_below(command, (*path, name))


COMMANDS = dict(commands_below(cli))


def help_of(path):
    result = CliRunner().invoke(cli, [*path, "-h"])
    assert result.exit_code == 0, result.output
    return result.output


def examples_in(text):
    """The commands of `dlkdd` in a help text after the word Example, as their words; other programs are left out."""
    after = text[text.index("Example") :].split("Options:")[0].replace("\\\n", " ")
    found = []
    for line in after.splitlines()[1:]:
        words = shlex.split(line)
        if "dlkdd" in words:
            words = words[words.index("dlkdd") + 1 :]
            ends = [words.index(mark) for mark in (">", "|") if mark in words]
            found.append(words[: min(ends, default=len(words))])
    return found


def understood(words):
    """The path of the command that an example calls, after its options were parsed as for a real call.

    Raises:
        click.UsageError: no such option, a value it does not take, or one that is missing.
    """
    path, rest, command, parent = (), list(words), cli, click.Context(cli, **cli.context_settings)
    while isinstance(command, click.Group):
        if not rest or rest[0] not in command.commands:
            raise click.UsageError(f"no command in {words}")
        path = (*path, rest.pop(0))
        command = command.commands[path[-1]]
    with command.make_context(path[-1], rest, parent=parent):
        return path


@pytest.mark.parametrize("path", sorted(COMMANDS), ids=" ".join)
def test_every_help_has_an_example_that_the_command_understands(path):
    text = help_of(path)
    assert "-h, --help" in text
    assert "\\b" not in text
    examples = examples_in(text)
    assert examples
    for example in examples:
        called = understood(example)
        assert called[: len(path)] == path, f"{example} is an example of another command"


@pytest.mark.parametrize("path", sorted(COMMANDS), ids=" ".join)
def test_examples_stand_on_lines_of_their_own(path):
    for line in help_of(path).splitlines():
        assert line.count("dlkdd ") <= 1, line


@pytest.mark.parametrize(
    "words",
    [
        "table demo --nonsense",
        "teacher --clips clips.csv",
        "store verify",
        "store nothing",
        "predict c.safetensors a.mp4 --top none",
    ],
)
def test_a_wrong_example_would_be_seen(words):
    with pytest.raises(click.UsageError):
        understood(words.split())


def test_examples_are_read_with_their_pipes_and_continued_lines():
    text = "Examples:\n  find . | dlkdd predict a -\n  dlkdd clean \\\n    demo\n  dvc repro\n  dlkdd doctor > x\n"
    assert examples_in(text) == [["predict", "a", "-"], ["clean", "demo"], ["doctor"]]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_is_given_a_script_that_asks_this_command():
    script = complete("bash_source")
    assert "_DLKDD_COMPLETE=bash_complete" in script
    assert "complete -o nosort -F _dlkdd_completion dlkdd" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("dlkdd ", {*cli.commands}),
        ("dlkdd re", {"render", "report"}),
        ("dlkdd store ", {"info", "verify", "show", "export", "diff"}),
        ("dlkdd report --su", {"--surroundings"}),
        ("dlkdd use ar", {"arid", "arid15"}),
        ("dlkdd table ", {"night-1", "night-2"}),
        ("dlkdd bench night-2", {"night-2"}),
        ("dlkdd table --params nothing.yaml ", set()),
    ],
)
def test_a_shell_is_told_commands_options_and_runs(tmp_path, small_params, words, wanted):
    params = small_params()
    params |= {"runs": ["night-1", "night-2"], "rendered": []}
    params["inputs"] = dict.fromkeys(params["runs"], params["inputs"]["demo"])
    presets.write_params(tmp_path / "params.yaml", params, name="night", force=False)
    typed = words.split(" ")
    answer = complete("bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(typed) - 1), cwd=tmp_path)
    assert {line.split(",")[1] for line in answer.splitlines() if line} == wanted


def complete(instruction, cwd=None, **more):
    """What `dlkdd` prints when a shell asks."""
    # -m names the command after the package: the variable must be the one of the installed `dlkdd`.
    code = "import sys; sys.argv = ['dlkdd']; from pipeline.cli import main; main()"
    environment = os.environ | {"_DLKDD_COMPLETE": instruction, "PYTHONPATH": str(ROOT)} | more
    asked = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert asked.stderr == ""
    return asked.stdout

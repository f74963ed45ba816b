"""What several subcommands share: completion of runs' names, and the start of several processes of one subcommand."""

import click
import pytest
import torch
from click.testing import CliRunner

from pipeline import presets
from pipeline.cli import cli
from pipeline.commands import options
from pipeline.training import distributed

CPU = torch.device("cpu")


@pytest.fixture
def completed():
    """What a shell is offered after some words."""

    def complete(*words):
        context = click.Context(cli.commands["table"])
        if words:
            context.params["params"] = words[0]
        return options.run_names(context, None, words[1] if len(words) > 1 else "")

    return complete


def test_a_shell_is_offered_the_runs_that_begin_so_and_none_of_a_broken_file(completed, tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    params = presets.demo()
    presets.write_params(path, params, name="demo", force=False)
    assert completed(path) == completed(path, "de") == ["demo"]
    assert completed(path, "x") == []
    path.write_text("runs: [")
    assert completed(path) == []
    monkeypatch.chdir(tmp_path)
    assert completed() == []


def test_several_processes_get_the_options_as_they_were_typed(monkeypatch):
    started = []
    monkeypatch.setattr(distributed, "launch", lambda command, **how: started.append((command, how)))

    @click.command()
    @click.option("--clips", type=options.PATH)
    @click.option("--views", type=int)
    @click.option("--fresh", is_flag=True)
    @click.option("--dry-run", is_flag=True)
    def stage(**given):
        click.echo(options.in_several_processes(CPU, micro_batches=4))

    said = CliRunner().invoke(stage, ["--clips", "-a b.csv", "--fresh"])
    assert (said.exit_code, said.output, started) == (0, "False\n", [])
    monkeypatch.setenv("DLKDD_PROCESSES", "2")
    said = CliRunner().invoke(stage, ["--clips", "-a b.csv", "--fresh"])
    assert (said.exit_code, said.output) == (0, "True\n")
    assert started == [(["stage", "--clips", "-a b.csv", "--fresh"], {"processes": 2, "device": CPU})]
    monkeypatch.setenv("DLKDD_PROCESSES", "3")
    said = CliRunner().invoke(stage, [])
    assert isinstance(said.exception, ValueError)
    assert "micro_batches" in str(said.exception)
    assert len(started) == 1


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("kd_weight=3", "wanted SECTION.KEY=VALUE"),
        ("student.colour=3", "unknown key 'student.colour'; known are .*kd_weight"),
        ("pupil.lr=3", "unknown key 'pupil.lr'; known are .*student"),
    ],
)
def test_a_set_value_without_a_place_is_refused_with_the_places(assignment, said):
    with pytest.raises(ValueError, match=f"--set {assignment}: {said}"):
        presets.override(presets.demo(), [assignment])


def test_a_set_value_keeps_numbers_with_a_point():
    params = presets.override(presets.demo(), ["student.kd_weight=2", "views.scales=[1, 0.5]"])
    assert params["student"]["kd_weight"] == 2.0
    assert isinstance(params["student"]["kd_weight"], float)
    assert params["views"]["scales"] == [1, 0.5]


def test_the_papers_protocols_set_where_crops_come_from():
    views = presets.set_protocol(presets.demo(), "resize")["views"]
    assert (views["frame_size"], views["scales"]) == ([views["size"]] * 2, [1.0])
    views = presets.set_protocol(presets.demo(), "darklight")["views"]
    assert (views["scales"], views["positions"]) == ([1.0, 0.875, 0.75, 0.66], "fixed")


def test_weights_that_are_not_here_are_told_when_they_are_chosen(tmp_path):
    """Not refused: the run may be meant for another machine."""
    here = tmp_path / "here.pt"
    here.touch()
    words = ["use", "demo", "--params", str(tmp_path / "params.yaml"), "--set", f"student.weights={here}"]
    said = CliRunner().invoke(cli, [*words, "--set", "teacher.weights=away.pt"])
    assert said.exit_code == 0, said.output
    assert said.stderr == "warning: teacher.weights: away.pt: no such file here, and teacher needs it\n"

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipeline import cli as entry
from pipeline import presets
from pipeline.cli import cli
from pipeline.clips.video import decode
from pipeline.config import SECTION_TYPES, plain
from pipeline.params import read_params, read_section
from pipeline.presets import is_edited

ROOT = Path(__file__).parents[1]


def call(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def dlkdd(*arguments, cwd):
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def make_clips(root, make_video, classes=("Run", "Walk"), subsets=("train", "test")):
    for seed, (subset, name) in enumerate((s, n) for s in subsets for n in classes):
        make_video(root / subset / name / f"{name}_{seed}_1.mp4", seed=seed)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_has_help_and_the_readme_names_it(name):
    command = cli.commands[name]
    assert command.help
    for option in command.params:
        assert isinstance(option, click.Argument) or option.help, f"{name} {option.name}"
    assert f"dlkdd {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_committed_parameters_are_the_demos(tmp_path):
    assert call("use", "demo", "--params", tmp_path / "params.yaml").exit_code == 0
    assert (tmp_path / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_an_edited_file_is_replaced_only_by_force(tmp_path):
    path = tmp_path / "params.yaml"
    assert call("use", "demo", "--params", path).exit_code == 0
    assert not is_edited(path)
    assert call("use", "demo", "--params", path).exit_code == 0
    path.write_text(path.read_text().replace("kd_weight: 1.5", "kd_weight: 1.0"))
    result = call("use", "demo", "--params", path)
    assert isinstance(result.exception, ValueError)
    assert "was edited since" in str(result.exception)
    assert "kd_weight: 1.0" in path.read_text()
    assert call("use", "demo", "--params", path, "--force").exit_code == 0
    assert "kd_weight: 1.5" in path.read_text()


def test_options_reach_teacher_and_student(tmp_path, make_video):
    make_clips(tmp_path / "clips", make_video)
    path = tmp_path / "params.yaml"
    given = [
        "--model",
        "r2plus1d_tiny",
        "--size",
        "64",
        "--frames",
        "8",
        "--no-flip",
        "--epochs",
        "3",
        "--head",
        "average",
    ]
    given += [
        "--views",
        "2",
        "--batch-size",
        "4",
        "--seed",
        "9",
        "--set",
        "student.kd_weight=1",
        "--set",
        "teacher.lr=3e-4",
    ]
    result = call("use", "night", "--folder", tmp_path / "clips", "--params", path, *given)
    assert result.exit_code == 0, result.exception
    sections = {name: plain(read_section(path, kind)) for name, kind in SECTION_TYPES.items()}
    for name in ("teacher", "student"):
        assert {key: sections[name][key] for key in ("model", "epochs", "batch_size", "head", "seed")} == {
            "model": "r2plus1d_tiny",
            "epochs": 3,
            "batch_size": 4,
            "head": "average",
            "seed": 9,
        }
    assert (sections["views"]["frames"], sections["views"]["flip"], sections["views"]["seed"]) == (8, False, 9)
    assert (sections["views"]["size"], sections["views"]["frame_size"]) == (64, [73, 97])
    assert (sections["logits"]["views"], sections["student"]["kd_weight"], sections["teacher"]["lr"]) == (2, 1.0, 3e-4)
    inputs = read_params(path)["inputs"]["night"]
    assert inputs["classes"] == ["Run", "Walk"]
    assert inputs["train"] == str(tmp_path / "clips" / "train")


@pytest.mark.parametrize(
    ("given", "views"),
    [
        ((), 25),
        (("--epochs", "40"), 40),
        (("--epochs", "40", "--views", "7"), 7),
        (("--set", "logits.views=7"), 7),
        (("--set", "student.epochs=9"), 9),
        (("--set", "views.mode=fixed"), 1),
    ],
)
def test_a_view_is_stored_for_each_epoch_unless_another_number_is_given(tmp_path, make_video, given, views):
    make_clips(tmp_path / "clips", make_video)
    path, model = tmp_path / "params.yaml", ("--model", "r2plus1d_tiny")
    result = call("use", "night", "--folder", tmp_path / "clips", "--params", path, *model, *given)
    assert result.exit_code == 0, result.exception
    assert read_params(path)["logits"]["views"] == views


def test_wrong_epochs_are_named_and_not_the_views_that_follow_them(tmp_path, make_video):
    make_clips(tmp_path / "clips", make_video)
    for given, message in (("0", "found 0, wanted at least 1"), ("2.5", "found 2.5"), ("abc", "found 'abc'")):
        result = call(
            *("use", "night", "--folder", tmp_path / "clips", "--params", tmp_path / "params.yaml"),
            *("--set", f"student.epochs={given}"),
        )
        assert str(result.exception).startswith(f"student.epochs: {message}")


def test_the_demo_keeps_its_views_whatever_its_epochs(tmp_path):
    result = call("use", "demo", "--epochs", "3", "--params", tmp_path / "params.yaml")
    assert result.exit_code == 0, result.exception
    assert read_params(tmp_path / "params.yaml")["logits"]["views"] == 5


def test_arid_has_the_papers_numbers(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "mapping_table.txt").write_text("0\tDrink\n1\tJump\n")
    for split in (1, 2, 3):
        for part in ("train", "test"):
            (lists / f"ARID_split{split}_{part}.txt").write_text(f"0\t{split % 2}\tDrink/{part}_{split}_1.avi\n")
    path = tmp_path / "params.yaml"
    result = call("use", "arid", "--videos", tmp_path, "--lists", lists, "--params", path)
    assert result.exit_code == 0, result.exception
    params = read_params(path)
    assert params["runs"] == ["arid-1", "arid-2", "arid-3"]
    student = params["student"]
    paper = {"model": "r2plus1d_34", "head": "attention", "epochs": 30, "batch_size": 8, "lr": 1e-4}
    paper |= {"weight_decay": 1e-5, "kd_weight": 1.5, "kd_decay": 0.95, "temperature": 5.0}
    assert {key: student[key] for key in paper} == paper
    assert (params["views"]["frames"], params["views"]["size"]) == (64, 112)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["use", "Night!", "--folder", "clips"], "wanted lower-case letters"),
        (["use", "night", "--folder", "nowhere"], "nowhere: no such folder; check --folder"),
        (["use", "night", "--folder", "clips", "--set", "student.temprature=1"], "unknown key 'student.temprature'"),
        (["use", "night", "--folder", "clips", "--set", "views.scales=[1"], "the value is no YAML"),
        (["use", "night", "--folder", "clips/train/Run"], "the list is empty"),
        (["use", "night", "--folder", "clips", "--set", "nonsense"], "wanted SECTION.KEY=VALUE"),
        (["use", "night", "--folder", "clips", "--epochs", "0"], "epochs: found 0, wanted at least 1"),
        (["table", "--params", "none.yaml"], "no such file; run `dlkdd use demo`"),
    ],
)
def test_errors_exit_1_with_a_whole_message_and_no_traceback(tmp_path, make_video, arguments, message):
    make_clips(tmp_path / "clips", make_video)
    result = dlkdd(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_options_that_do_nothing_are_refused(tmp_path):
    result = dlkdd("use", "demo", "--videos", ".", cwd=tmp_path)
    assert result.returncode == 2
    assert "--videos does not go with `dlkdd use demo`" in result.stderr


def test_wrong_usage_exits_2(tmp_path):
    result = dlkdd("use", "night", cwd=tmp_path)
    assert result.returncode == 2
    assert "--videos, --train, --test missing" in result.stderr


def test_darken_writes_copies_that_are_darker(tmp_path, make_video):
    frames = make_video(tmp_path / "lit" / "a" / "b.mp4", height=32, width=48, lossless=False)
    result = call("darken", tmp_path / "lit", tmp_path / "dark", "--ev", "-4")
    assert result.exit_code == 0, result.exception

    assert decode(tmp_path / "dark" / "a" / "b.mp4").mean() < 0.6 * frames.mean()


def test_render_writes_any_number_with_twins(tmp_path):
    presets.write_params(tmp_path / "params.yaml", presets.demo(), name="demo", force=False)
    given = [
        "--train-clips",
        "1",
        "--test-clips",
        "1",
        "--frames",
        "4",
        "--exposure-ev",
        "-3",
        "--lit-twin",
        "--seed",
        "4",
    ]
    result = call("render", "--out", tmp_path / "out", "--params", tmp_path / "params.yaml", *given)
    assert result.exit_code == 0, result.exception
    dark, lit = (
        {p.relative_to(tmp_path / "out" / name) for p in (tmp_path / "out" / name).rglob("*.mp4")}
        for name in ("videos", "lit")
    )
    assert len(dark) == 22
    assert dark == lit


def test_clean_frees_what_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    presets.write_params(Path("params.yaml"), presets.demo(), name="demo", force=False)
    left = Path("data/demo/.work/frames/x.npy")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"12345")
    result = call("clean")
    assert "demo: 5 bytes freed" in result.output
    assert not left.parent.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["brighten", "a.mp4", "b.mp4", "--enhancer", "lime", "--threads", "0"], "threads: found 0, wanted at least 1"),
        (["brighten", "a.mp4", "b.mp4", "--crf", "99"], "99 is not in the range 0<=x<=51"),
        (["brighten", "a.mp4", "b.mp4", "--enhancer", "lime", "--gamma", "5"], "--gamma 5.0 has no effect here"),
        (["brighten", "a.mp4", "b.png", "--sheet", "--enhancer", "lime"], "--enhancer lime has no effect here"),
        (["brighten", "a.mp4", "b.png", "--sheet", "--crf", "20"], "--crf 20 has no effect here"),
        (["darken", "A", "B", "--ev", "nan"], "--ev: found nan, wanted -30 to 30"),
        (["darken", "A", "B", "--ev", "1e6"], "--ev: found 1000000.0, wanted -30 to 30"),
        (["darken", "A", "B", "--ev", "-5", "--seed", "-1"], "-1 is not in the range"),
        (["predict", "s.safetensors", "a.mp4", "--device", "mps"], "found 'mps', wanted auto, cpu, cuda or cuda:N"),
        (["predict", "s.safetensors", "a.mp4", "--threads", "999999"], "found 999999, wanted at most 1024"),
        (["brighten", "a.mp4", "b.mp4"], "zero_dce needs weights"),
        (["cost", "--into", "x.json"], "wanted a document that ends in .md"),
        (["table", "demo", "--paper"], "--paper takes all evaluated runs"),
    ],
)
def test_tools_refuse_what_they_cannot_do_before_any_work(tmp_path, make_video, arguments, message):
    make_video(tmp_path / "a.mp4")
    result = dlkdd(*arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "b.mp4").exists()


def test_the_tools_brighten_print_tables_and_count_cost(tmp_path, make_video, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "videos/a.mp4", level=40)
    assert "1 videos by gamma in bright" in call("brighten", "videos", "bright", "--enhancer", "gamma").output
    assert decode(tmp_path / "bright/a.mp4").mean() > decode(tmp_path / "videos/a.mp4").mean() + 10
    Path("data").mkdir()
    assert "### Table 4" in call("table", "--paper").output
    assert r"\begin{tabular}" in call("table", "--paper", "--format", "latex").output
    small = ["--model", "r2plus1d_tiny", "--frames", "4", "--size", "32", "--repeats", "1", "--threads", "1"]
    result = call("cost", *small, "--into", "cost.md")
    assert result.exit_code == 0, result.output
    assert "| student |" in Path("cost.md").read_text()
    assert Path("cost.json").exists()


@pytest.mark.parametrize(("command", "said"), [("student", "stopped; start again to go on"), ("predict", "stopped\n")])
def test_only_a_stage_that_was_stopped_is_said_to_go_on(monkeypatch, capsys, command, said):
    def stopped(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry.cli, "main", stopped)
    monkeypatch.setattr("sys.argv", ["dlkdd", command])
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith(said)

"""The stage `report`: the same inputs give the same page, and nothing else comes into it."""

import csv
import dataclasses
import json
import shutil
import subprocess

import pytest
from click.testing import CliRunner
from micro import Run

from pipeline import presets
from pipeline.cli import cli
from pipeline.clips.clip_index import clips_to_text, read_clips
from pipeline.pages.run_files import FILES
from pipeline.presets import ARID_CLASSES


@pytest.fixture(scope="module")
def done(tmp_path_factory, small_configs, small_params):
    """A finished run with its params.yaml beside the folder data; tests copy it."""
    base = tmp_path_factory.mktemp("report")
    presets.write_params(base / "params.yaml", small_params(), name="demo", force=False)
    run = Run(base / "data/demo", small_configs())
    run.folder.mkdir(parents=True)
    run.render()
    run.prepare(ARID_CLASSES)
    for stage in ("enhancer", "teacher", "logits", "student", "baseline", "evaluate"):
        getattr(run, stage)()
    run.report(base / "params.yaml")
    return run


def params_of(run):
    return run.folder.parents[1] / "params.yaml"


def a_copy(done, folder):
    shutil.copy(params_of(done), folder / "params.yaml")
    return done.copy(folder / "data/demo")


def page_of(run):
    run.report(params_of(run))
    return run["report.html"].read_bytes()


def test_a_page_elsewhere_and_later_is_the_same_bytes(done, tmp_path):
    before = done["report.html"].read_bytes()
    assert b"Best and worst clips" in before
    assert page_of(a_copy(done, tmp_path)) == before


def test_the_commit_alone_of_what_is_no_input_of_the_stage_changes_its_page(done, tmp_path):
    run = a_copy(done, tmp_path)
    before = page_of(run).decode()
    assert before.count("Commit not in a git repository.") == 1
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {}}))
    run["cost.json"].write_text('{"methods": {}, "machine": {}}')
    (tmp_path / "params.yaml").write_text("# another comment\n" + params_of(run).read_text().replace("\n  ", "\n    "))
    if shutil.which("git"):
        git = ["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t"]
        for arguments in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "."]):
            subprocess.run([*git, *arguments], check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        before = before.replace("not in a git repository", commit)
        # Stages run with a dvc.lock that is not committed yet.
        subprocess.run([*git, "add", "dvc.lock"], check=True)
    assert page_of(run).decode() == before


def test_every_file_is_named_and_a_changed_parameter_changes_its_value_alone(done, tmp_path):
    run = a_copy(done, tmp_path)
    before = page_of(run).decode()
    for name in FILES:
        assert f">{name}<" in before
    assert str(tmp_path) not in before
    params = params_of(run).read_text()
    params_of(run).write_text(params.replace("kd_weight: 1.5", "kd_weight: 0.75"))
    after = page_of(run).decode()
    assert before != after
    assert after.replace("0.75", "1.5") == before.replace("0.75", "1.5")


def test_a_run_without_labels_has_a_page(done, tmp_path):
    run = a_copy(done, tmp_path)
    clips = read_clips(run["clips.csv"])
    without = [dataclasses.replace(clip, label=-1, class_name="") if clip.subset == "test" else clip for clip in clips]
    run["clips.csv"].write_text(clips_to_text(without))
    run.evaluate()
    page = page_of(run).decode()
    assert "11 test clips without labels" in page
    assert "Calibration</h2>" not in page


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "{", "is no json"),
        ("metrics.json", "{}", "found no n;"),
        ("metrics.json", '{"n": 11}', "baseline: found no top1, top1_low"),
        ("details.json", "[]", "found list, wanted an object"),
        ("details.json", '{"student": {"per_class": {"Run": {}}}}', "lacks 'Run'"),
        ("statistics.json", '{"mean": []}', "found no std, mean_luma, dark_share"),
        ("enhancer.json", "{}", "found no dark_mean"),
        ("student_timings.json", '{"seconds": 3}', "found no peak_memory_bytes"),
        ("teacher_curve.csv", "epoch,loss\n0,x\n", "a row without numbers"),
        ("predictions.csv", "id,class\na,b\n", "a row lacks 'baseline'"),
        ("clips.csv", "id\n", "clips.csv"),
        ("enhancer.safetensors", "", "enhancer.safetensors"),
    ],
)
def test_a_damaged_file_is_named_and_the_page_before_stays(done, tmp_path, name, content, message):
    run = a_copy(done, tmp_path)
    before = run["report.html"].read_bytes()
    run[name].write_text(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
        page_of(run)
    assert message in str(caught.value)
    assert run["report.html"].read_bytes() == before
    assert not list(run.folder.glob(".report*"))


def test_a_missing_video_is_named_and_nothing_is_written(done, tmp_path):
    run = a_copy(done, tmp_path)
    run["report.html"].unlink()
    with run["predictions.csv"].open() as file:
        answers = list(csv.DictReader(file))
    for answer in answers:
        (run.videos / answer["id"]).unlink()
    with pytest.raises((ValueError, OSError), match=r"\.mp4"):
        page_of(run)
    assert not list(run.folder.glob("*report*"))


def test_the_command_writes_the_stages_page_and_on_demand_one_with_its_surroundings(done, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    run = a_copy(done, tmp_path)
    given = ["report", "--folder", str(run.folder), "--videos", str(run.videos), "--params", str(params_of(run))]
    result = CliRunner().invoke(cli, [*given, "--out", str(tmp_path / "a.html")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.html").read_bytes() == done["report.html"].read_bytes()
    git = ["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "."]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    result = CliRunner().invoke(cli, [*given, "--out", str(tmp_path / "b.html"), "--surroundings"])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "b.html").read_text()
    assert f"Commit {commit}." in page
    assert "no dvc.lock" in page

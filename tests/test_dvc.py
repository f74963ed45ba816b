"""The pipeline as DVC runs it, in a copy of the project with a small run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from micro import RESULTS

from pipeline import presets

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "*_cache", "__pycache__", "data", "*.egg-info", "tmp", "cache", ".hypothesis"
)
BIN = Path(sys.executable).parent
resource = pytest.importorskip("resource", reason="this system has no limits on the size of files")

pytestmark = pytest.mark.skipif(
    shutil.which("git") is None or not (BIN / "dvc").exists() or not (BIN / "dlkdd").exists(),
    reason="needs git, and dvc and dlkdd beside this Python",
)

LONG = pytest.mark.skipif(
    "DLKDD_LONG" not in os.environ, reason="test_soak.py repeats and kills a repro too; set DLKDD_LONG=1 to run it"
)


class Project:
    """A copy of the project under git, with a small demo run."""

    def __init__(self, folder, params):
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
        (folder / "dvc.lock").unlink(missing_ok=True)
        presets.write_params(folder / "params.yaml", params, name="demo", force=True)
        for arguments in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "."],
        ):
            subprocess.run(["git", *arguments], cwd=folder, check=True)

    def start(self, *arguments, **more):
        # The copy's own code runs, not the project's that is installed beside this Python.
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(self.folder)}
        environment |= {"DVC_NO_ANALYTICS": "1", "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t"}
        environment |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}
        return subprocess.Popen(
            [BIN / "dvc", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **more,
        )

    def dvc(self, *arguments):
        with self.start(*arguments) as process:
            output = process.communicate()[0]
        assert process.returncode == 0, output
        return output

    def ran(self, *arguments):
        """Stages that a command ran."""
        return [
            line.split("'")[1].split("@")[0] for line in self.dvc(*arguments).splitlines() if "Running stage" in line
        ]

    def results(self):
        return {name: (self.folder / "data/demo" / name).read_bytes() for name in RESULTS}

    def edit(self, name, old, new):
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def project(tmp_path_factory, small_params):
    made = Project(tmp_path_factory.mktemp("dvc") / "project", small_params(teacher={"epochs": 4}))
    made.first = made.ran("repro")
    return made


def test_a_bare_repro_runs_every_stage_and_a_second_one_none(project):
    assert sorted(project.first) == sorted(
        ["render", "prepare", "enhancer", "teacher", "logits", "student", "baseline", "evaluate", "report"]
    )
    assert project.ran("repro") == []
    assert "student@demo" in project.dvc("dag")


def test_metrics_and_plots_show(project):
    shown = project.dvc("metrics", "show", "--md")
    assert "student.top1" in shown
    assert "teacher.calibration_error" in shown
    assert "file://" in project.dvc("plots", "show")
    page = (project.folder / "dvc_plots" / "index.html").read_text()
    for plot in ("student_curve.csv", "teacher_curve.csv", "confusion.csv"):
        assert plot in page


def test_the_page_is_an_out_that_the_same_inputs_give_again(project):
    page = project.folder / "data/demo/report.html"
    before = page.read_bytes()
    assert b"Learning curves" in before
    assert b"Right and sure" in before or b"Wrong and sure" in before
    assert project.ran("repro", "--force", "--single-item", "report@demo") == ["report"]
    assert page.read_bytes() == before
    assert "data/demo/report.html" in (project.folder / "dvc.lock").read_text()


@LONG
def test_outs_of_a_repeated_run_are_the_same_bytes(project):
    before = project.results()
    assert "evaluate" in project.ran("repro", "--force")
    assert project.results() == before


def test_a_changed_kd_weight_reruns_the_student_and_what_follows(project):
    project.edit("params.yaml", "kd_weight: 1.5", "kd_weight: 0.5")
    assert "student.kd_weight" in project.dvc("params", "diff")
    assert project.ran("repro") == ["student", "evaluate", "report"]
    project.edit("params.yaml", "kd_weight: 0.5", "kd_weight: 1.5")
    # The run cache gives back what was computed before; if with the timings of another time, the page tells of those.
    assert project.ran("repro") in ([], ["report"])


def test_a_changed_help_text_reruns_nothing(project):
    project.edit("pipeline/commands/options.py", "Start anew instead", "Begin anew instead")
    project.edit("pipeline/config.py", "Passes over the training clips.", "Passes over all training clips.")
    assert project.ran("repro") == []


def test_an_experiment_runs_what_its_parameter_changes(project):
    output = project.dvc("exp", "run", "-S", "student.kd_weight=0")
    assert "Running stage 'student@demo'" in output
    assert "Running stage 'teacher@demo'" not in output
    assert "kd_weight: 0" in (project.folder / "params.yaml").read_text()
    # The student's curve grew while it trained, and only in the experiment.
    data = project.folder / "data/demo"
    shown, kept = (data / "live/student/plots/metrics/loss.tsv").read_text(), (data / "student_curve.csv").read_text()
    assert [line.split("\t")[1] for line in shown.splitlines()] == [line.split(",")[1] for line in kept.splitlines()]
    assert os.listdir(data / "live") == ["student"]
    assert "file://" in project.dvc("plots", "show", "data/demo/live/student/plots/metrics")
    assert "loss.tsv" in (project.folder / "dvc_plots/index.html").read_text()
    listed = subprocess.run(["git", "ls-files"], cwd=project.folder, capture_output=True, text=True, check=True).stdout
    assert "data/demo/live" not in listed
    results = project.results()
    project.ran("repro", "--force", "--single-item", "student@demo")
    assert project.results() == results
    project.edit("params.yaml", "kd_weight: 0\n", "kd_weight: 1.5\n")
    project.dvc("repro")


def test_a_write_that_fails_says_how_to_get_the_old_file_back(project):
    student = project.folder / "data/demo/student.safetensors"
    old, largest = student.read_bytes(), student.stat().st_size - 1000

    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    project.edit("params.yaml", "kd_decay: 0.95", "kd_decay: 0.8")
    with project.start("repro", "student@demo", preexec_fn=no_large_files) as process:
        output = process.communicate()[0]
    assert process.returncode != 0
    assert re.search(
        r"\.(safetensors|pt): files may not grow that large here: it needs more than the \d+ bytes", output
    )
    assert "What `dvc repro` removed before is brought back by `dvc checkout`" in output
    assert not student.exists()
    project.edit("params.yaml", "kd_decay: 0.8", "kd_decay: 0.95")
    project.dvc("checkout")
    assert student.read_bytes() == old


@LONG
def test_a_killed_repro_goes_on_and_ends_in_the_same_bytes(project):
    project.edit("params.yaml", "kd_decay: 0.95", "kd_decay: 0.9")
    state = project.folder / "data/demo/.work/student/state.pt"
    shutil.rmtree(state.parent.parent)
    with project.start("repro") as process:
        end = time.monotonic() + 120
        while not state.exists() and time.monotonic() < end:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert state.exists()
    assert not (project.folder / "data/demo/student.safetensors").exists()
    output = project.dvc("repro")
    assert "goes on after epoch" in output
    resumed = project.results()
    shutil.rmtree(state.parent.parent)
    output = project.dvc("repro", "--force", "--single-item", "student@demo")
    assert "goes on after epoch" not in output
    assert project.results() == resumed

"""Each part made to fail, and the answer then: what was found, how bad it is, what to do."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pipeline import presets
from pipeline.cli import cli
from pipeline.config import ComputeConfig
from pipeline.doctor import arithmetic, decoding, examination, libraries, machine, project
from pipeline.doctor.findings import OK, PROBLEM, STATES, WARNING, Finding, as_json, as_line, examine, summary
from pipeline.params import parse
from pipeline.training.precision import Mismatch

CPU = torch.device("cpu")
GIB = 2**30


def only(findings):
    (finding,) = findings
    return finding


def by_part(findings):
    return {finding.part: finding for finding in findings}


def compute(**changes):
    return parse(ComputeConfig, presets.demo()["compute"] | changes, where="compute")


def call(*arguments):
    return CliRunner().invoke(cli, ["doctor", *map(str, arguments)])


# The whole of it.


def test_every_part_is_named_and_what_this_project_needs_is_sound_here(tmp_path):
    presets.write_params(tmp_path / "params.yaml", presets.demo(), name="demo", force=False)
    result = call("--folder", tmp_path, "--params", tmp_path / "params.yaml", "--json")
    content = json.loads(result.output)
    # Memory and disk are as they are here.
    assert result.exit_code == (content["state"] == PROBLEM)
    parts = {finding["part"] for finding in content["findings"]}
    wanted = {"python", "torch", "torchvision", "av", "h5py", "dvc", "numpy", "av loads", "h5py loads", "bf16"}
    wanted |= {"bf16 Conv3d", "decoder", "greys", "memory", "disk", "threads", "parameters", "git", "dvc", "dvc.lock"}
    assert wanted <= parts
    assert {"GPU", "cuda:0"} & parts
    bad = {finding["part"] for finding in content["findings"] if finding["state"] == PROBLEM}
    assert bad <= {"memory", "disk"}, content
    for finding in content["findings"]:
        assert finding["state"] in STATES
        assert finding["found"]
        assert finding["remedy"] or finding["state"] == OK


@pytest.mark.parametrize(("state", "code"), [(OK, 0), (WARNING, 0), (PROBLEM, 1)])
def test_a_problem_and_nothing_less_exits_1(monkeypatch, state, code):
    given = [Finding(part="a", state=OK, found="fine"), Finding(part="b", state=state, found="x", remedy="do y")]
    monkeypatch.setattr(examination, "findings", lambda folder, params: iter(given))
    shown = call()
    assert shown.exit_code == code
    assert f"{state:<8} b                  x\n{' ' * 28}-> do y\n" in shown.output
    assert shown.output.splitlines()[-1] == summary(given)
    as_data = call("--json")
    assert as_data.exit_code == code
    assert json.loads(as_data.output)["state"] == state


def test_a_check_that_fails_is_a_problem_and_the_others_go_on():
    def broken():
        raise ImportError("libfoo.so: cannot open shared object file")
        yield

    good = Finding(part="b", state=OK, found="fine")
    first, second = examine({"a": broken, "b": lambda: [good]})
    assert (first.part, first.state) == ("a", PROBLEM)
    assert "ImportError: libfoo.so" in first.found
    assert first.remedy
    assert second == good
    assert as_line(good) == "ok       b                  fine"
    assert json.loads(as_json([good, first]))["state"] == PROBLEM
    assert summary([good, first]) == "1 ok, 0 warnings, 1 problems"


def test_a_check_that_does_not_answer_in_time_is_a_warning():
    def slow():
        raise subprocess.TimeoutExpired(["/usr/bin/git", "status"], 60)
        yield

    def keyless():
        yield {}["runs"]

    late, wrong = examine({"git": slow, "parameters": keyless})
    assert (late.part, late.state, late.found) == ("git", WARNING, "git did not answer in 60 s")
    assert late.remedy
    assert wrong.state == PROBLEM


def test_a_torch_that_does_not_load_is_reported_with_all_that_does_without(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pipeline.cli import main; main()"
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, "doctor", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = {finding["part"]: finding for finding in json.loads(done.stdout)["findings"]}
    for part in ("GPU", "bf16"):
        assert found[part]["state"] == PROBLEM
        assert "libcudart.so.13: cannot open" in found[part]["found"]
    for part in ("python", "av loads", "decoder", "memory", "disk", "threads", "parameters"):
        assert found[part]["state"] != PROBLEM, found[part]


# Libraries.


def test_an_old_python_is_a_problem(monkeypatch):
    monkeypatch.setattr(libraries, "OLDEST_PYTHON", (99, 0))
    finding = only(libraries.python())
    assert finding.state == PROBLEM
    assert "3.11 or newer" in finding.remedy


@pytest.fixture
def versions(monkeypatch):
    """Change installed versions; None is not installed."""

    def change(**changes):
        real = importlib.metadata.version

        def version(name):
            found = changes.get(name, real(name) if name not in changes else None)
            if found is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(importlib.metadata, "version", version)

    return change


def test_missing_and_old_libraries_are_problems_and_bounds_are_those_of_the_project(monkeypatch, versions):
    wanted = ["torch>=2.8", "av >= 18.0", "scipy>=1.13", "tqdm", 'onnx>=99; extra == "export"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: wanted)
    versions(torch="2.8.0+cu126", av="17.10.1", scipy=None, tqdm="0.1")
    found = by_part(libraries.packages())
    assert (found["torch"].state, found["torch"].found) == (OK, "2.8.0+cu126")
    assert (found["av"].state, found["av"].found) == (PROBLEM, "17.10.1, wanted 18.0 or newer")
    assert (found["scipy"].state, found["scipy"].found) == (PROBLEM, "is not installed, wanted 1.13 or newer")
    assert "pip install" in found["scipy"].remedy
    assert found["others"].found == "tqdm 0.1"
    assert "onnx" not in found


def test_versions_are_compared_as_numbers():
    numbers = libraries._numbers
    assert numbers("2.15.0+cu132") > numbers("2.8") > numbers("2.7.1")
    assert numbers("3.0.0rc1") >= numbers("3.0")


def test_a_torch_with_slow_bf16_convolutions_is_a_warning(versions):
    versions(torch="2.9.1")
    findings = [finding for finding in libraries.packages() if finding.part == "torch"]
    assert [finding.state for finding in findings] == [OK, WARNING]


def test_a_project_that_is_not_installed_is_a_warning(monkeypatch):
    monkeypatch.setattr(libraries, "DISTRIBUTION", "no-such-distribution")
    first = next(iter(libraries.packages()))
    assert (first.part, first.state) == ("no-such-distribution", WARNING)


def test_what_only_export_needs_may_be_absent(monkeypatch):
    monkeypatch.setattr(libraries, "EXPORT", ("numpy", "no_such_package"))
    finding = only(libraries.optional())
    assert finding.state == OK
    assert "no_such_package not installed" in finding.found
    assert ".[export]" in finding.remedy


def test_a_library_that_ends_its_process_is_a_problem(monkeypatch):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    loads = {"av": ("FFmpeg", code), "h5py": ("HDF5", "import no_such_module"), "numpy": ("NumPy", "print(1)")}
    monkeypatch.setattr(libraries, "LOADS", loads)
    found = by_part(libraries.loading())
    assert (found["av loads"].state, found["av loads"].found) == (PROBLEM, "ended with -11")
    assert found["h5py loads"].found == "ModuleNotFoundError: No module named 'no_such_module'"
    assert "--force-reinstall -c constraints.txt h5py" in found["h5py loads"].remedy
    assert (found["numpy loads"].state, found["numpy loads"].found) == (OK, "NumPy 1")


# The machine.


def test_a_gpu_is_named_with_memory_and_driver(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    about = SimpleNamespace(name="A GPU", total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(machine, "driver_version", lambda: "580.1")
    finding = only(machine.gpu())
    assert (finding.part, finding.state) == ("cuda:0", OK)
    assert "A GPU, 24.0 GiB, driver 580.1" in finding.found


@pytest.mark.parametrize(("hidden", "remedy"), [(None, "newer driver"), ("", "CUDA_VISIBLE_DEVICES is ''")])
def test_a_driver_without_a_gpu_for_torch_is_a_warning(monkeypatch, hidden, remedy):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "driver_version", lambda: "580.1")
    if hidden is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    finding = only(machine.gpu())
    assert finding.state == WARNING
    assert remedy in finding.remedy


def test_no_gpu_at_all_is_said_and_is_no_fault(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "driver_version", lambda: None)
    assert only(machine.gpu()).state == OK


def test_the_drivers_version_is_what_nvidia_smi_says(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.82.07\necho 580.82.07\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.driver_version() == "580.82.07"
    program.write_text("#!/bin/sh\necho no devices were found\nexit 6\n")
    assert machine.driver_version() is None
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.driver_version() is None


@pytest.mark.parametrize(("available", "state"), [(1, PROBLEM), (3, WARNING), (16, OK)])
def test_little_memory_is_a_warning_and_too_little_a_problem(monkeypatch, available, state):
    monkeypatch.setattr(machine, "memory_bytes", lambda: (32 * GIB, available * GIB))
    found = by_part(machine.memory())
    assert found["memory"].state == state
    assert found["memory"].found == f"{available:.1f} of 32.0 GiB available"


def test_memory_is_a_part_of_the_machines():
    total, available = machine.memory_bytes()
    assert 0 < available <= total
    assert total > 2**28


def test_what_was_read_from_files_is_no_used_memory_of_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    for name, text in (("memory.max", "1000000\n"), ("memory.current", "950000\n")):
        (tmp_path / name).write_text(text)
    assert machine.memory_bytes() == (1_000_000, 50_000)
    (tmp_path / "memory.stat").write_text("anon 300000\nfile 650000\ninactive_file 600000\nactive_file 50000\n")
    assert machine.memory_bytes() == (1_000_000, 650_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_bytes()[0] > 1_000_000


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "state"), [(0.1, PROBLEM), (5, WARNING), (50, OK)])
def test_little_disk_is_a_warning_and_too_little_a_problem(monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(100 * GIB, 0, int(free * GIB)))
    finding = only(machine.disk(tmp_path))
    assert finding.state == state
    assert bool(finding.remedy) == (state != OK)


def test_a_folder_that_is_not_there_is_a_problem(tmp_path):
    finding = only(examine({"disk": lambda: machine.disk(tmp_path / "absent")}))
    assert finding.state == PROBLEM
    assert "absent" in finding.found


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
def test_little_shared_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Usage(64 * 2**20, 0, 0))
    finding = by_part(machine.memory())["shared memory"]
    assert finding.state == WARNING
    assert "--shm-size" in finding.remedy


def test_more_threads_than_cores_are_a_warning():
    assert only(machine.threads(compute(threads=1), {})).state == OK
    finding = only(machine.threads(compute(threads=4096), {"OMP_NUM_THREADS": "3"}))
    assert finding.state == WARNING
    assert "compute.threads 4096" in finding.found
    assert "OMP_NUM_THREADS=3" in finding.found
    assert only(machine.threads(None, {})).state == OK


# Self-tests.


@pytest.mark.parametrize(("wanted", "state"), [(False, WARNING), (True, PROBLEM)])
def test_wrong_bf16_is_a_problem_only_where_it_is_asked_for(monkeypatch, wanted, state):
    wrong = [Mismatch(what="weight gradient of TimeConv", frames=2, error=float("nan"))] * 5
    monkeypatch.setattr(arithmetic, "bf16_mismatches", lambda device, *, plain: [] if plain else wrong)
    found = by_part(arithmetic.bf16(CPU, wanted=wanted))
    assert found["bf16"].state == state
    assert "weight gradient of TimeConv over 2 frames (nan)" in found["bf16"].found
    assert "and 2 more" in found["bf16"].found
    assert "compute.precision: fp32" in found["bf16"].remedy
    assert found["bf16 Conv3d"].state == OK


def test_wrong_plain_3d_convolutions_are_reported_apart_and_concern_other_trunks(monkeypatch):
    wrong = [Mismatch(what="weight gradient of Conv3d 3x1x1", frames=2, error=3.0)]
    monkeypatch.setattr(arithmetic, "bf16_mismatches", lambda device, *, plain: wrong if plain else [])
    found = by_part(arithmetic.bf16(CPU, wanted=True))
    assert found["bf16"].state == OK
    assert found["bf16 Conv3d"].state == WARNING
    assert "R(2+1)D trunks are not concerned" in found["bf16 Conv3d"].remedy


def test_a_device_without_bf16_is_a_warning(monkeypatch):
    def cannot(device, *, plain):
        raise RuntimeError("bf16 is not supported")

    monkeypatch.setattr(arithmetic, "bf16_mismatches", cannot)
    assert {finding.state for finding in arithmetic.bf16(CPU, wanted=False)} == {WARNING}
    assert by_part(arithmetic.bf16(CPU, wanted=True))["bf16"].state == PROBLEM


def test_the_precision_asked_for_is_that_of_the_parameters(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(examination, "_bf16", lambda *, wanted: asked.append(wanted) or [])
    for number, precision in enumerate(("fp32", "bf16")):
        values = presets.demo()
        values["compute"]["precision"] = precision
        path = tmp_path / f"{number}.yaml"
        presets.write_params(path, values, name="demo", force=False)
        checks = {}
        monkeypatch.setattr(examination, "examine", lambda given, checks=checks: checks.update(given) or iter(()))
        examination.findings(tmp_path, path)
        checks["bf16"]()
    assert asked == [False, True]


def test_a_decoder_that_changes_one_code_or_drops_a_frame_is_a_problem(monkeypatch):
    real = decoding.decode
    assert by_part(decoding.decoder())["decoder"].state == OK

    def one_off(path):
        frames = real(path)
        if path.name == "lossless.mp4":
            frames[3, 5, 7, 1] ^= 2
        return frames

    monkeypatch.setattr(decoding, "decode", one_off)
    found = by_part(decoding.decoder())
    assert found["decoder"].state == PROBLEM
    assert "by up to 2" in found["decoder"].found
    assert found["greys"].state == OK
    monkeypatch.setattr(decoding, "decode", lambda path: real(path)[: 5 if path.name == "lossless.mp4" else None])
    assert "6 frames comes back as (5, 48, 64, 3)" in by_part(decoding.decoder())["decoder"].found


@pytest.mark.parametrize("lost", [1, 2])
def test_a_conversion_that_cuts_codes_off_is_a_problem(monkeypatch, lost):
    real = decoding.decode

    def cut_off(path):
        frames = real(path)
        return np.maximum(frames, lost) - lost if path.name == "greys.mp4" else frames

    monkeypatch.setattr(decoding, "decode", cut_off)
    found = by_part(decoding.decoder())
    assert found["greys"].state == PROBLEM
    assert f"mean error of -{lost - 1}.9" in found["greys"].found or f"mean error of -{lost}.0" in found["greys"].found
    assert found["decoder"].state == OK


# The folder.


def test_parameters_that_no_stage_can_read_are_a_problem(tmp_path):
    path = tmp_path / "params.yaml"
    assert only(project.parameters(path)).state == WARNING
    presets.write_params(path, presets.demo(), name="demo", force=False)
    good = only(project.parameters(path))
    assert (good.state, good.found) == (OK, f"{path}: runs demo")
    path.write_text(path.read_text().replace("temperature:", "temprature:"))
    finding = only(examine({"parameters": lambda: project.parameters(path)}))
    assert finding.state == PROBLEM
    assert "unknown key 'temprature'" in finding.found


def run_git(folder, *arguments):
    settings = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *settings, *arguments], check=True, capture_output=True)


def test_git_names_the_commit_and_what_changed_since(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert only(project.git(tmp_path)).state == WARNING
    run_git(tmp_path, "init")
    assert only(project.git(tmp_path)).state == WARNING  # no commit yet
    (tmp_path / "a").write_text("1")
    run_git(tmp_path, "add", "a")
    run_git(tmp_path, "commit", "-m", "first")
    clean = only(project.git(tmp_path))
    assert clean.state == OK
    assert "changed" not in clean.found
    (tmp_path / "a").write_text("2")
    assert only(project.git(tmp_path)).found == f"{clean.found}, 1 files changed since"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(project.git(tmp_path)).found == "no git"


@pytest.mark.parametrize(
    ("settings", "local", "state"),
    [
        ("[core]\n    analytics = false\n", None, OK),
        ("[core]\n    analytics = true\n", None, WARNING),
        ("['remote \"store\"']\n    url = /x\n", None, WARNING),  # DVC's default is on
        ("[core]\n    analytics = false\n", "[core]\n    analytics = true\n", WARNING),  # this user's own comes last
        ("", "[core]\n    analytics = false\n", OK),
    ],
)
def test_analytics_that_are_on_are_a_warning(tmp_path, settings, local, state):
    assert only(project.dvc(tmp_path)).state == WARNING  # no .dvc
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(settings)
    if local is not None:
        (tmp_path / ".dvc" / "config.local").write_text(local)
    assert only(project.dvc(tmp_path)).state == state


LOCK = """schema: '2.0'
stages:
  student@demo:
    cmd: dlkdd student
    deps:
    - path: code.py
      hash: md5
      md5: {md5}
      size: 5
    - path: videos
      hash: md5
      md5: 0123.dir
      size: 100
      nfiles: 2
    params:
      params.yaml:
        student.lr: 0.001
        views:
          frames: 8
    outs:
    - path: model.bin
      hash: md5
      md5: 0f000000000000000000000000000000
      size: {large}
"""


@pytest.fixture
def locked(tmp_path):
    """A folder whose dvc.lock is up to date; the large file's md5 is wrong, since only its size is looked at."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "code.py").write_text("a = 1")
    large = project.HASHED_BYTES + 1
    (tmp_path / "model.bin").write_bytes(bytes(large))
    (tmp_path / "params.yaml").write_text("student: {lr: 0.001, epochs: 3}\nviews: {frames: 8}\n")
    (tmp_path / "dvc.lock").write_text(LOCK.format(md5=hashlib.md5(b"a = 1").hexdigest(), large=large))
    return tmp_path


def test_a_lock_that_is_up_to_date_is_ok_and_so_is_none(locked, tmp_path):
    finding = only(project.dvc_lock(locked))
    assert (finding.state, finding.found) == (OK, "1 finished stages, as far as small files tell")
    (locked / "dvc.lock").unlink()
    assert only(project.dvc_lock(locked)).state == OK


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("code.py", "a = 2", "code.py changed"),
        ("code.py", "a = 10", "code.py changed"),
        ("code.py", None, "code.py is gone"),
        ("model.bin", "short", "model.bin changed"),
        ("params.yaml", "student: {lr: 0.1}\nviews: {frames: 8}\n", "student.lr was 0.001"),
        ("params.yaml", "student: {lr: 0.001}\n", "views was {'frames': 8}"),
        ("params.yaml", None, "student.lr was 0.001"),
    ],
)
def test_a_lock_that_is_out_of_date_names_stage_and_reason(locked, file, content, reason):
    if content is None:
        (locked / file).unlink()
    else:
        (locked / file).write_text(content)
    finding = only(project.dvc_lock(locked))
    assert finding.state == WARNING
    assert finding.found == f"1 of 1 stages are out of date: student@demo: {reason}"
    assert "dvc repro" in finding.remedy


def test_a_lock_that_is_no_yaml_is_a_problem(locked):
    (locked / "dvc.lock").write_text("stages: [\n<<<<<<< HEAD")
    finding = only(examine({"dvc.lock": lambda: project.dvc_lock(locked)}))
    assert finding.state == PROBLEM
    assert "is no YAML" in finding.found

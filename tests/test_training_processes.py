"""Several processes train one network: the result of one process that passes the same parts one by one."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from click.testing import CliRunner
from processes import ROOT, finish, needs_proc, ranks_of, start
from torch import nn

from pipeline import presets
from pipeline.cli import cli
from pipeline.clips.dataset import Batch
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.distributed import LAUNCHER, PROCESSES, WORLD, Ranks, joined, processes_to_start
from pipeline.training.loop import Schedule, train_one_epoch
from pipeline.training.parts import Part, Share, Step, check_parts, share_of
from pipeline.training.together import RunningStatistics, Together

CPU = torch.device("cpu")
LONG = pytest.mark.skipif("DLKDD_LONG" not in os.environ, reason="takes half a minute; set DLKDD_LONG=1 to run it")
OUTS = {
    "teacher": ["--enhancer", "enhancer.safetensors", "--card", "teacher.json"],
    "student": ["--store", "logits.h5", "--teacher-card", "teacher.json"],
    "baseline": [],
}


@pytest.fixture(scope="module")
def trained(with_teacher, tmp_path_factory):
    """A run with a teacher and its logits."""
    run = with_teacher.copy(tmp_path_factory.mktemp("trained") / "micro")
    run.logits()
    return run


def command(stage):
    files = ["--clips", "clips.csv", "--videos", "rendered/videos", "--statistics", "statistics.json", *OUTS[stage]]
    written = ["--checkpoint", f"{stage}.safetensors", "--curve", f"{stage}_curve.csv"]
    return [stage, *files, *written, "--timings", f"{stage}_timings.json"]


def losses(path):
    with path.open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def differences(first, second):
    """Largest difference of each tensor of two checkpoints."""
    found, wanted = load_checkpoint(first)[0], load_checkpoint(second)[0]
    assert found.keys() == wanted.keys()
    return {name: float((found[name].double() - wanted[name].double()).abs().max()) for name in wanted}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("stage", "batch_size", "micro_batches", "epochs"),
    [
        pytest.param("student", 12, 4, 20, marks=LONG),  # 11 clips, a step an epoch: parts of 3, 3, 3 and 2
        ("teacher", 4, 2, 7),  # 3 steps an epoch, the last part with 1 clip
        ("baseline", 10, 2, 10),  # batches of 10 and 1: for the last one a process has nothing to do
    ],
)
def test_two_processes_train_as_one_that_passes_the_same_parts(
    trained, tmp_path, small_params, small_configs, stage, batch_size, micro_batches, epochs
):
    # The paper's learning rate: with ten times as much, a change of the first weights by 1e-7 alone moves the loss of
    # one process by 0.04 in 20 steps, since Adam's first steps are as long for gradients of rounding as for others.
    settings = {"batch_size": batch_size, "micro_batches": micro_batches, "epochs": epochs, "lr": 1e-4}
    section = "teacher" if stage == "teacher" else "student"
    one = trained.copy(tmp_path / "one", small_configs(**{section: settings}))
    getattr(one, stage)()
    two = trained.copy(tmp_path / "two")
    finish(start(two.folder, small_params(**{section: settings}), command(stage), **{PROCESSES: "2"}))
    found, wanted = losses(two[f"{stage}_curve.csv"]), losses(one[f"{stage}_curve.csv"])
    assert len(wanted) == epochs
    assert found == pytest.approx(wanted, abs=1e-4)
    # Weights, and batch normalisation's running statistics and counts; no loss depends on the bias of the keys, whose
    # gradient is rounding alone: it may go up to two learning rates apart a step.
    apart = differences(one[f"{stage}.safetensors"], two[f"{stage}.safetensors"])
    assert apart.pop("classifier.head.attention.key.bias") < 2e-4 * 3 * epochs
    assert max(apart.values()) < 1e-4, {name: value for name, value in apart.items() if value >= 1e-4}
    # Uncut batches give another result: what is compared above depends on the parts.
    uncut = trained.copy(tmp_path / "uncut", small_configs(**{section: settings | {"micro_batches": 1}}))
    getattr(uncut, stage)()
    assert max(differences(one[f"{stage}.safetensors"], uncut[f"{stage}.safetensors"]).values()) > 1e-2


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def torchrun(node, port):
    where = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    return ["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1", *where]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_machines_without_a_shared_folder_train_one_student_and_go_on(trained, tmp_path, small_params):
    def nodes(folders, params):
        port = free_port()
        processes = [
            subprocess.Popen(
                [sys.executable, *torchrun(node, port), "-m", "pipeline", *command("student")],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for node, folder in enumerate(folders)
            if not presets.write_params(folder / "params.yaml", params[node], name="demo", force=True)
        ]
        return [process.communicate()[0] for process in processes], [process.returncode for process in processes]

    changes = {"micro_batches": 2, "epochs": 4, "lr": 1e-3}
    folders = [trained.copy(tmp_path / name).folder for name in ("first", "second")]
    (said, other), codes = nodes(folders, [small_params(student=changes)] * 2)
    assert codes == [0, 0], said + other
    assert "frames of 11 clips" in said
    assert "frames of 11 clips" not in other
    assert (folders[0] / "student.safetensors").exists()
    assert not (folders[1] / "student.safetensors").exists()
    assert not (folders[1] / ".work/student").exists()
    alone = trained.copy(tmp_path / "alone")
    finish(start(alone.folder, small_params(student=changes), command("student"), **{PROCESSES: "2"}))
    assert alone["student.safetensors"].read_bytes() == (folders[0] / "student.safetensors").read_bytes()

    # Another machine with other parameters is refused.
    (said, other), codes = nodes(folders, [small_params(student=changes), small_params(student=changes | {"lr": 2e-3})])
    assert 0 not in codes
    assert "process 1 of 2 found parameters, input files, code or versions of hash" in other


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_proc
def test_a_killed_rank_ends_the_training_and_the_next_start_goes_on(trained, tmp_path, small_params):
    params = small_params(student={"micro_batches": 2, "epochs": 30})
    whole = trained.copy(tmp_path / "whole")
    finish(start(whole.folder, params, command("student"), **{PROCESSES: "2"}))
    cut = trained.copy(tmp_path / "cut")
    with start(cut.folder, params, command("student"), **{PROCESSES: "2"}) as process:
        ranks = ranks_of(process, 2)
        end = time.monotonic() + 120
        while not (cut.folder / ".work/student/state.pt").exists():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < end, "no epoch was finished"
            time.sleep(0.002)
        os.kill(ranks[1], signal.SIGKILL)
        output = process.communicate()[0]
    assert process.returncode == 1
    assert "process 1 was ended by SIGKILL" in output
    assert not cut["student.safetensors"].exists()
    output = finish(start(cut.folder, params, command("student"), **{PROCESSES: "2"}))
    assert "student: goes on after epoch" in output
    assert output.count("student: goes on after epoch") == 1
    assert cut["student.safetensors"].read_bytes() == whole["student.safetensors"].read_bytes()


@pytest.mark.parametrize("stage", sorted(OUTS))
def test_a_number_of_processes_that_cannot_share_the_batch_is_refused(tmp_path, small_params, monkeypatch, stage):
    for name in (LAUNCHER, *WORLD):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(PROCESSES, "3")
    monkeypatch.chdir(tmp_path)
    section = {"teacher" if stage == "teacher" else "student": {"micro_batches": 4}}
    presets.write_params(tmp_path / "params.yaml", small_params(**section), name="demo", force=True)
    result = CliRunner().invoke(cli, command(stage))
    assert isinstance(result.exception, ValueError)
    assert str(result.exception).startswith(f"{stage}: found 3 processes and micro_batches: 4, wanted a number of")


def test_a_world_that_the_user_started_is_joined_and_starts_no_other(monkeypatch):
    for name in (LAUNCHER, *WORLD):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(PROCESSES, "2")
    assert processes_to_start() == 2
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    assert processes_to_start() == 1
    with joined(CPU) as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_processes_take_every_part_once_in_neighbouring_shares(size):
    for clips in range(1, 13):
        shares = [share_of(clips, part_size=2, ranks=Ranks(rank=rank, size=size)) for rank in range(size)]
        taken = [number for share in shares for number in range(share.first, share.first + share.own)]
        assert taken == list(range(-(-clips // 2)))
        assert [share.later for share in shares] == [len(taken) - share.first - share.own for share in shares]
    full = [share_of(24, part_size=2, ranks=Ranks(rank=rank, size=size)) for rank in range(size)]
    assert {share.own for share in full} == {12 // size}


def test_processes_that_divide_the_parts_pass():
    for processes in (1, 2, 4, 8):
        check_parts("student", micro_batches=8, processes=processes)
    with pytest.raises(ValueError, match=r"found 3 processes and micro_batches: 8.*\(1, 2, 4, 8\).*multiple of 3"):
        check_parts("student", micro_batches=8, processes=3)


def a_batch(clips, seed):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        pixels=torch.randn(clips, 5, generator=generator),
        labels=torch.randint(3, (clips,), generator=generator),
        indices=torch.arange(clips),
    )


def test_parts_add_up_to_the_gradient_of_the_whole_batch():
    batches = [a_batch(8, 0), a_batch(5, 1)]  # the last one is cut into 3, 3 ... as far as it reaches
    rows, weights = {}, {}
    for size in (8, 3):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        steps = []
        for batch in batches:
            cuts = [slice(start, start + size) for start in range(0, len(batch.labels), size)]
            parts = [
                Part(
                    batch=Batch(pixels=batch.pixels[cut], labels=batch.labels[cut], indices=batch.indices[cut]),
                    clips=len(batch.labels[cut]),
                    seed=None,
                )
                for cut in cuts
            ]
            share = Share(count=len(parts), first=0, own=len(parts))
            steps.append(Step(clips=len(batch.labels), share=share, parts=parts))
        rows[size] = train_one_epoch(
            Together(model),
            steps,
            lambda logits, batch, epoch: nn.functional.cross_entropy(logits, batch.labels),
            torch.optim.SGD(model.parameters(), lr=0.5),
            Schedule(lr=0.5, shape="constant", warmup_steps=0, total_steps=2),
            epoch=0,
            first_step=0,
            device=CPU,
        )
        weights[size] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.allclose(weights[3], weights[8], atol=1e-6)
    assert rows[3] == pytest.approx(rows[8], abs=1e-6)
    assert torch.isfinite(weights[8]).all()


class Alone:
    """Stands for all ranks: collects what each gives, then gives each the sum."""

    def __init__(self):
        self.given, self.sum = [], None

    def total(self, values):
        self.given.append(values.clone())
        return self.sum if self.sum is not None else torch.zeros_like(values)


@pytest.mark.parametrize("passes", [1, 2])  # a part's passes through the trunk: one stream, or two
@pytest.mark.parametrize("owns", [[2, 2], [3, 1], [0, 1], [1, 0, 2]])
def test_running_statistics_of_apart_processes_add_up_to_those_of_one(owns, passes):
    def norms():
        torch.manual_seed(0)
        made = nn.Sequential(nn.BatchNorm1d(4, momentum=0.3), nn.BatchNorm1d(4, momentum=0.05)).train()
        made(3 * torch.randn(16, 4) + 1)  # not where statistics start
        return made

    data = [[torch.randn(6, 4) * (1 + part) + part for _ in range(passes)] for part in range(sum(owns))]
    whole = norms()
    for part in data:
        for seen in part:
            whole(seen)

    def rank(number, ranks):
        model, first = norms(), sum(owns[:number])
        statistics = RunningStatistics(model)
        statistics.begin()
        for part in data[first : first + owns[number]] or data[:1]:  # an idle process takes the first one along
            for seen in part:
                model(seen)
        statistics.merge(Share(count=len(data), first=first, own=owns[number]), ranks)
        return model

    ranks = Alone()
    for number in range(len(owns)):
        rank(number, ranks)
    ranks.sum = torch.stack(ranks.given).sum(0)
    for number in range(len(owns)):
        for name, value in rank(number, ranks).state_dict().items():
            assert torch.allclose(value, whole.state_dict()[name], atol=1e-5), (number, name)

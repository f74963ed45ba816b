"""The teacher in memory gives the student what the store gives: losses, gradients, and the weights in the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from micro import CPU, Run

from pipeline import presets
from pipeline.clips.clip_index import class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batches, DecodedFrames, DrawnViews, ViewDataset
from pipeline.clips.views import view_rule
from pipeline.commands import live_student
from pipeline.config import plain
from pipeline.distillation.live import LiveTeacher
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.losses import student_loss
from pipeline.distillation.replay import StoredViews, stored_logits
from pipeline.inference.loading import load_recogniser
from pipeline.presets import ARID_CLASSES
from pipeline.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
EPOCHS = 4


@pytest.fixture(scope="module", params=["frame", "view"])
def taught(request, tmp_path_factory, small_configs):
    """A run with a store that holds a view for every epoch; the enhancer before or after the crop."""
    # Adam's first steps are as long as the learning rate wherever a gradient's sign is, also where rounding decides
    # on that: the paper's small rate keeps it small on machines where the teacher's last bits depend on the batch.
    student = {"epochs": EPOCHS, "lr": 1e-4}
    configs = small_configs(enhancer={"on": request.param}, logits={"views": EPOCHS}, student=student)
    run = Run(tmp_path_factory.mktemp(request.param) / "micro", configs)
    run.folder.mkdir()
    run.render()
    run.prepare(ARID_CLASSES)
    for stage in ("enhancer", "teacher", "logits", "student", "baseline"):
        getattr(run, stage)()
    return run


def files(run, name):
    inputs = [run["clips.csv"], run.videos, run["statistics.json"], run["teacher.safetensors"]]
    return [*inputs, *(run[f"{name}{end}"] for end in (".safetensors", "_curve.csv", "_timings.json"))]


def settings(run):
    return {"num_views": run.configs["logits"].views, "views": run.configs["views"], **run.machine()}


def open_teacher(run, **changes):
    train = of_subset(read_clips(run["clips.csv"]), "train")
    names = class_names_in(read_clips(run["clips.csv"]))
    given = {"class_names": names, "work": run["live.safetensors"], **settings(run)} | changes
    names = given.pop("class_names")
    return live_student.open_teacher(run["teacher.safetensors"], train, run.videos, names, **given)


def test_a_step_with_cached_logits_has_the_live_teachers_loss_and_gradients(taught):
    train = of_subset(read_clips(taught["clips.csv"]), "train")
    store = LogitStore.open(taught["logits.h5"])
    live = open_teacher(taught)
    loaded = load_recogniser(taught["student.safetensors"], device=CPU, training_form=True)
    student, rule = loaded.recogniser, loaded.preprocessing.view_rule
    decoded = DecodedFrames(videos=taught.videos, frame_size=rule.frame_size, colour_range="auto")
    dataset = ViewDataset(train, source=decoded, view_of=StoredViews(store=store), size=rule.size)
    epoch = EPOCHS + 3  # once round: its view is 3
    batch = next(Batches(dataset, batch_size=5, seed=7, workers=0).of_epoch(epoch))
    assert batch.indices.tolist() != sorted(batch.indices.tolist())

    def step(targets):
        torch.manual_seed(0)
        student.train().zero_grad()
        loss = student_loss(student(batch.pixels), batch.labels, targets, temperature=5.0, weight=1.5)
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])

    def equal(first, second):
        # The stored rows went through the teacher in other batches: the last bits of float32 differ.
        return first[0] == pytest.approx(second[0], abs=1e-5) and torch.allclose(first[1], second[1], atol=1e-5)

    answer = live(batch, epoch)
    assert not answer.requires_grad
    assert equal(step(stored_logits(store, train, batch.indices, epoch)), step(answer))
    assert not equal(step(stored_logits(store, train, (batch.indices + 1) % len(train), epoch)), step(answer))
    assert not equal(step(stored_logits(store, train, batch.indices, epoch + 1)), step(answer))


def test_the_live_teacher_learns_nothing_and_drops_nothing(taught):
    teacher = load_recogniser(taught["teacher.safetensors"], device=CPU, training_form=True).recogniser.train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    train, rule = of_subset(read_clips(taught["clips.csv"]), "train"), view_rule(plain(taught.configs["views"]))
    drawn = DrawnViews(rule=rule, mode="consistent", num_views=1)
    decoded = DecodedFrames(videos=taught.videos, frame_size=rule.frame_size, colour_range="auto")
    live = LiveTeacher(teacher, train, view_of=drawn, size=rule.size, bright=decoded, device=CPU)
    dataset = ViewDataset(train, source=decoded, view_of=drawn, size=rule.size)
    batch = next(Batches(dataset, batch_size=4, seed=None, workers=0).of_epoch(0))
    assert torch.equal(live(batch, 0), live(batch, 0))  # no dropout
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not live(batch, 0).requires_grad


def test_a_student_taught_live_ends_as_one_taught_by_the_store(taught, tmp_path):
    run = taught.copy(tmp_path / "copy")
    run["logits.h5"].unlink()
    presets.write_params(run["params.yaml"], params_of(run), name="demo", force=True)
    given = ["--clips", "clips.csv", "--videos", "rendered/videos", "--statistics", "statistics.json"]
    given += ["--teacher", "teacher.safetensors", "--checkpoint", "live.safetensors"]
    given += ["--curve", "live_curve.csv", "--timings", "live_timings.json"]
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", "live", *given],
        cwd=run.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(run["live_timings.json"].read_text())["seconds"] > 0
    curves = [
        [[float(value) for value in row.split(",")] for row in run[f"{name}_curve.csv"].read_text().splitlines()[1:]]
        for name in ("live", "student", "baseline")
    ]
    assert curves[0] == [pytest.approx(row, abs=1e-4) for row in curves[1]]
    assert abs(curves[0][-1][1] - curves[2][-1][1]) > 1e-2  # what the soft targets make in the loss
    (live, record), (cached, other) = (load_checkpoint(run[f"{name}.safetensors"]) for name in ("live", "student"))
    assert live.keys() == cached.keys()
    for name, tensor in cached.items():
        if not name.endswith("key.bias"):  # no loss depends on it: its gradient is rounding, which Adam blows up
            assert torch.allclose(live[name].double(), tensor.double(), atol=1e-3), name
    assert record.kind == other.kind == "student"
    assert set(record.settings) - set(other.settings) == {"live_teacher"}


def params_of(run):
    params = presets.demo()
    for section in ("views", "student", "logits", "enhancer", "teacher", "compute"):
        params[section] = plain(run.configs[section])
    return params


def test_a_live_teacher_of_other_classes_or_views_is_refused(taught, small_configs):
    with pytest.raises(ValueError, match=r"teacher\.safetensors: class names: found .*wanted those of the student"):
        open_teacher(taught, class_names=("Sit", "Stand"))
    with pytest.raises(ValueError, match=r"teacher\.safetensors: views: found .*seed=0.*wanted .*seed=5"):
        open_teacher(taught, views=small_configs(views={"seed": 5})["views"])


def test_independent_views_are_the_students_alone(taught, small_configs):
    train = of_subset(read_clips(taught["clips.csv"]), "train")
    store, live = LogitStore.open(taught["logits.h5"]), None
    live = open_teacher(taught, views=small_configs(views={"mode": "independent"})["views"])
    rule = view_rule(plain(taught.configs["views"]))
    decoded = DecodedFrames(videos=taught.videos, frame_size=rule.frame_size, colour_range="auto")
    own = DrawnViews(rule=rule, mode="independent", num_views=None)
    batch = next(
        Batches(
            ViewDataset(train, source=decoded, view_of=own, size=rule.size), batch_size=4, seed=1, workers=0
        ).of_epoch(1)
    )
    # The teacher answers for the views that a store holds.
    assert torch.allclose(live(batch, 1), stored_logits(store, train, batch.indices, 1), atol=1e-5)

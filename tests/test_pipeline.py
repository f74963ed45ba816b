import csv
import dataclasses
import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from micro import CPU, RESULTS, Run

from pipeline.clips.clip_index import clips_to_text, of_subset, read_clips
from pipeline.clips.dataset import DecodedFrames, DrawnViews
from pipeline.clips.views import apply_view, evaluation_views, view_rule
from pipeline.config import plain
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.replay import StoredViews
from pipeline.enhancers.gamma import Gamma
from pipeline.inference.loading import load_recogniser
from pipeline.presets import ARID_CLASSES
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.machine import set_up_machine
from pipeline.training.precision import check_precision
from stages.logits import believable_top1


@pytest.fixture(scope="module")
def done(tmp_path_factory, small_configs):
    """A finished run; tests copy it."""
    run = Run(tmp_path_factory.mktemp("run") / "micro", small_configs())
    run.folder.mkdir()
    run.render()
    run.prepare(ARID_CLASSES)
    run.enhancer()
    run.teacher()
    run.logits()
    run.student()
    run.baseline()
    run.evaluate()
    return run


def weights(path):
    return load_checkpoint(path)[0]


def test_all_results_are_there_and_tell_what_was_measured(done):
    metrics = json.loads(done["metrics.json"].read_text())
    assert metrics["n"] == 11
    for model in ("baseline", "teacher", "student"):
        figures = metrics[model]
        assert figures["top1_low"] <= figures["top1"] <= figures["top1_high"]
        assert figures["top1"] <= figures["top5"] <= 1
    details = json.loads(done["details.json"].read_text())
    confusion = details["student"]["confusion"]
    assert np.trace(confusion) == round(metrics["student"]["top1"] * 11)
    assert sum(part["n"] for part in details["darkness"]["bins"]) == 11
    assert [part["ev"] for part in details["darkness"]["stress"]] == [0, -1, -2, -3, -4, -5]
    card = done["MODEL_CARD.md"].read_text()
    assert all(
        done.hashes([f"{model}.safetensors"])[f"{model}.safetensors"] in card for model in details["checkpoints"]
    )
    assert len(done["predictions.csv"].read_text().splitlines()) == 12


def test_outs_hold_no_path_of_this_machine(done):
    for path in done.folder.iterdir():
        if path.is_file():
            assert str(done.folder.parent).encode() not in path.read_bytes(), path.name


def test_another_run_gives_the_same_bytes_with_workers_and_without_cache(done, tmp_path, small_configs):
    again = Run(tmp_path / "micro", small_configs(compute={"workers": 2, "cache": "off"}))
    again.folder.mkdir()
    again.render()
    again.prepare(ARID_CLASSES)
    for stage in ("enhancer", "teacher", "logits", "student", "baseline", "evaluate"):
        getattr(again, stage)()
    assert again.hashes() == done.hashes()


def test_kd_weight_zero_gives_the_baselines_weights(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy", small_configs(student={"kd_weight": 0.0}))
    run.student()
    baseline, plain_student = weights(done["baseline.safetensors"]), weights(run["student.safetensors"])
    distilled = weights(done["student.safetensors"])
    assert baseline.keys() == plain_student.keys()
    for name, tensor in baseline.items():
        assert tensor.numpy().tobytes() == plain_student[name].numpy().tobytes(), name
    assert any(not torch.equal(baseline[name], distilled[name]) for name in baseline)


def test_every_step_of_the_student_has_the_settings_loss(done, tmp_path, small_configs, monkeypatch):
    from stages import student as stage

    steps, targets = [], []
    loss, of_store = stage.student_loss, stage.soft_targets

    def recorded_loss(*arguments, **options):
        steps.append(options)
        return loss(*arguments, **options)

    def recorded_targets(kind, *arguments, **options):
        targets.append((kind, options))
        return of_store(kind, *arguments, **options)

    monkeypatch.setattr(stage, "student_loss", recorded_loss)
    monkeypatch.setattr(stage, "soft_targets", recorded_targets)
    given = {"kd_weight": 0.8, "kd_decay": 0.25, "temperature": 3.0, "scale_by_temperature_squared": True, "seed": 5}
    run = done.copy(tmp_path / "copy", small_configs(student={**given, "soft_targets": "smoothed"}))
    run.student()
    assert targets == [("smoothed", {"temperature": 3.0, "seed": 5})]
    # 11 clips in batches of 4: three steps in each of two epochs, the weight 0.8, then 0.8 * 0.25 (Eq. 8)
    assert [step.pop("weight") for step in steps] == pytest.approx([0.8] * 3 + [0.2] * 3)
    assert steps == [{"temperature": 3.0, "scale_by_temperature_squared": True}] * 6


def test_the_student_trains_without_the_teachers_weights(done, tmp_path):
    run = done.copy(tmp_path / "copy")
    for name in ("teacher.safetensors", "enhancer.safetensors", "student.safetensors"):
        run[name].unlink()
    run.student()
    assert run.hashes(["student.safetensors"]) == done.hashes(["student.safetensors"])


def test_weights_that_are_not_there_are_named_before_any_work(done, tmp_path, small_configs):
    absent = {"weights": str(tmp_path / "absent.pth")}
    run = done.copy(tmp_path / "copy", small_configs(teacher=absent, student=absent))
    before = run.hashes()
    for stage in (run.teacher, run.student, run.baseline):
        with pytest.raises(ValueError, match=r"absent\.pth: no such weights; check the keys `weights` in params\.yaml"):
            stage()
    assert run.hashes() == before


def test_the_student_refuses_the_store_of_another_teacher(done, tmp_path):
    run = done.copy(tmp_path / "copy")
    card = json.loads(run["teacher.json"].read_text())
    run["teacher.json"].write_text(json.dumps(card | {"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"teacher_sha256.*wanted.*0000"):
        run.student()


@pytest.mark.parametrize(
    ("change", "field"),
    [({"seed": 5}, "view_seed"), ({"flip": False}, "view_flip"), ({"scales": [1.0]}, "view_scales")],
)
def test_the_student_refuses_a_store_of_other_views(done, tmp_path, small_configs, change, field):
    run = done.copy(tmp_path / "copy", small_configs(views=change))
    with pytest.raises(ValueError, match=field):
        run.student()


def test_the_student_refuses_a_store_of_other_clips(done, tmp_path):
    run = done.copy(tmp_path / "copy")
    clips = run["clips.csv"].read_text()
    sha256 = next(clip for clip in read_clips(run["clips.csv"]) if clip.subset == "train").sha256
    run["clips.csv"].write_text(clips.replace(sha256, "f" * 64))
    with pytest.raises(ValueError, match=r"sha256|content"):
        run.student()


def test_changed_pixels_are_noticed_without_a_teacher(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy")
    train = of_subset(read_clips(run["clips.csv"]), "train")
    other = sorted(run.videos.rglob("*.mp4"))[-1].read_bytes()
    (run.videos / train[0].id).write_bytes(other)
    with pytest.raises(ValueError, match=re.escape(train[0].id) + r".*the decoded luma has changed"):
        run.student()


def test_a_teacher_that_knows_nothing_fails_the_gate(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy", small_configs(logits={"minimum_top1": 1.0}))
    before = run.hashes(["logits.h5"])
    with pytest.raises(ValueError, match=r"top-1.*found.*wanted at least 1"):
        run.logits()
    assert run.hashes(["logits.h5"]) == before


def test_the_gate_asks_for_twice_chance_but_never_for_perfection():
    assert believable_top1(2) == 0.75
    assert believable_top1(3) == pytest.approx(2 / 3)
    assert believable_top1(11) == pytest.approx(2 / 11)


def test_more_views_add_to_the_kept_rows(done, tmp_path, small_configs, capsys):
    run = done.copy(tmp_path / "copy", small_configs(logits={"views": 3}), work=True)
    run.logits()
    assert "goes on with 6 of 9 blocks kept" in capsys.readouterr().out
    fresh = done.copy(tmp_path / "fresh", run.configs)
    fresh.logits()
    assert run.hashes(["logits.h5"]) == fresh.hashes(["logits.h5"])


def test_fixed_views_are_centre_views_and_allow_one(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy", small_configs(views={"mode": "fixed"}))
    with pytest.raises(ValueError, match=r"logits\.views: found 2, wanted 1"):
        run.logits()
    run.configs = small_configs(views={"mode": "fixed"}, logits={"views": 1})
    run.logits()
    store = LogitStore.open(run["logits.h5"])
    row = store.row(store.clip_ids[0], 0)
    assert row.crop == (0, 6, 32, 32)
    assert row.flip is False
    run.student()


def test_independent_views_train_on_the_same_store(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy", small_configs(views={"mode": "independent"}))
    run["logits.h5"].unlink()
    run.logits()  # drawn from another seed than the student's own views, which therefore are other ones
    assert run.hashes(["logits.h5"]) == done.hashes(["logits.h5"])
    run.student()
    assert run.hashes(["student.safetensors"]) != done.hashes(["student.safetensors"])


def test_an_unfrozen_enhancer_learns_and_travels_with_the_teacher(done, tmp_path, small_configs):
    changes = {"teacher": {"unfreeze_enhancer": True}}
    run = done.copy(tmp_path / "copy", small_configs(**changes))
    with pytest.raises(ValueError, match=r"unfreeze_enhancer: true needs enhancer\.on: view"):
        run.teacher()
    run.configs = small_configs(**changes, enhancer={"on": "view"})
    run.teacher()
    given, learnt = weights(run["enhancer.safetensors"]), weights(run["teacher.safetensors"])
    assert any(not torch.equal(given[name], learnt[f"enhancer.{name}"]) for name in given)
    run["enhancer.safetensors"].unlink()
    run.logits()


def test_two_streams_train_and_evaluate_through_the_same_stages(done, tmp_path, small_configs):
    """DarkLight: dark and gamma-corrected frames through one trunk."""
    changes = {"teacher": {"input": "both", "normalization": "kinetics"}, "enhancer": {"on": "view", "name": "gamma"}}
    run = done.copy(tmp_path / "run", small_configs(**changes))
    run.enhancer()
    run.teacher()
    loaded = load_recogniser(run["teacher.safetensors"], device=CPU)
    assert loaded.record.model["streams"] == 2
    assert isinstance(loaded.enhancer, Gamma)
    assert loaded.recogniser.two_streams
    run.logits()
    run.student()
    run.evaluate()
    protocol = json.loads(run["details.json"].read_text())["protocol"]
    assert (protocol["teacher_input"], protocol["enhancer"]) == ("both", "gamma")
    assert protocol["enhancer_weights"] is None
    metrics = json.loads(run["metrics.json"].read_text())
    assert 0 <= metrics["teacher"]["top1"] <= 1
    with pytest.raises(ValueError, match=r"teacher\.input: both needs enhancer\.on: view, found 'frame'"):
        done.copy(tmp_path / "frame", small_configs(teacher={"input": "both"})).teacher()


def test_a_teacher_of_dark_input_is_the_baseline(done, tmp_path, small_configs):
    """The control without light: with a view for every epoch in the store, nothing is left that differs."""
    run = done.copy(tmp_path / "run", small_configs(teacher={"input": "dark"}))
    run.teacher()
    teacher = load_recogniser(run["teacher.safetensors"], device=CPU, training_form=True)
    baseline = load_recogniser(run["baseline.safetensors"], device=CPU, training_form=True)
    assert teacher.enhancer is None
    assert teacher.preprocessing.mean == baseline.preprocessing.mean
    for name, tensor in baseline.recogniser.state_dict().items():
        assert torch.equal(teacher.recogniser.state_dict()[name], tensor), name
    run.logits()
    run.student()


@pytest.mark.parametrize("name", ["histogram", "lime", "retinex", "none"])
def test_every_method_can_light_the_teacher(done, tmp_path, small_configs, name):
    smaller = {"frame_size": [16, 22], "size": 16}  # some methods take a second a frame of the run's size
    changes = {"enhancer": {"name": name}, "teacher": {"epochs": 1}, "views": smaller}
    run = done.copy(tmp_path / "run", small_configs(**changes))
    run.enhancer()
    run.teacher()
    run.logits()
    figures = json.loads(run["enhancer.json"].read_text())
    if name == "none":
        assert figures["enhanced_mean"] == figures["dark_mean"]
    else:
        assert figures["enhanced_mean"] > figures["dark_mean"]
    assert load_recogniser(run["teacher.safetensors"], device=CPU).preprocessing.enhancer == {"name": name}


@pytest.mark.parametrize(("over", "crops", "count"), [("logits", "ten", 20), ("probabilities", "five", 10)])
def test_a_test_clip_of_many_views_gets_their_average(done, tmp_path, small_configs, over, crops, count):
    # Unlike crops and mirrors, so that one left out would show.
    config = small_configs(evaluate={"clips": 2, "crops": crops, "average": over}, views={"size": 24})
    run = done.copy(tmp_path / "run", config)
    run.baseline()
    run.teacher()
    run.logits()
    run.student()
    run.evaluate()
    loaded = load_recogniser(run["student.safetensors"], device=CPU)
    rule = loaded.preprocessing.view_rule
    with run["predictions.csv"].open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    clip = of_subset(read_clips(run["clips.csv"]), "test")[3]
    views = evaluation_views(rule, clip_id=clip.id, num_frames=clip.num_frames, clips=2, crops=crops)
    frames = DecodedFrames(videos=run.videos, frame_size=rule.frame_size, colour_range="auto")
    pixels = [apply_view(frames.frames(clip, view.frame_indices), view, rule.size) for view in views]
    with torch.no_grad():
        logits = torch.stack([loaded.recogniser(torch.from_numpy(each)[None])[0] for each in pixels]).double()
    wanted = logits.softmax(1).mean(0) if over == "probabilities" else logits.mean(0).softmax(0)
    assert len(pixels) == count
    assert rows[clip.id]["student"] == loaded.record.class_names[int(wanted.argmax())]
    assert float(rows[clip.id]["student_probability"]) == pytest.approx(float(wanted.max()), abs=1e-4)  # 4 digits kept


def test_ten_crops_are_refused_where_mirrors_mean_something_else(done, tmp_path, small_configs):
    config = small_configs(evaluate={"crops": "ten"}, views={"flip": False})
    run = done.copy(tmp_path / "run", config)
    run.baseline()
    with pytest.raises(ValueError, match=r"evaluate\.crops: ten mirrors clips"):
        run.evaluate()


def test_clips_without_labels_are_predicted_and_not_measured(done, tmp_path, capsys):
    run = done.copy(tmp_path / "run")
    clips = read_clips(run["clips.csv"])
    without = [dataclasses.replace(clip, label=-1, class_name="") if clip.subset == "test" else clip for clip in clips]
    run["clips.csv"].write_text(clips_to_text(without))
    run.evaluate()
    assert json.loads(run["metrics.json"].read_text()) == {"n": 0}
    assert "11 test clips without labels: predictions only" in capsys.readouterr().out
    with run["predictions.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11
    assert all(row["student"] and row["class"] == "" for row in rows)
    assert run["confusion.csv"].read_text() == "actual,predicted\n"
    # one label left: measured on that clip alone
    first = next(index for index, clip in enumerate(clips) if clip.subset == "test")
    without[first] = clips[first]
    run["clips.csv"].write_text(clips_to_text(without))
    run.evaluate()
    assert json.loads(run["metrics.json"].read_text())["n"] == 1


def test_a_student_of_another_model_and_head_trains_on_the_same_logits(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy", small_configs(student={"head": "average", "normalization": "kinetics"}))
    run.student()
    record = load_checkpoint(run["student.safetensors"])[1]
    assert record.model["head"] == "average"
    assert record.preprocessing.mean == (0.43216, 0.394666, 0.37645)


def test_a_nan_loss_stops_and_keeps_the_last_state(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy", small_configs(student={"lr": 1e30, "epochs": 4}))
    with pytest.raises(
        ValueError,
        match=r"baseline: the loss is (nan|inf) in epoch \d.*Lower baseline\.lr|weights are not finite after epoch",
    ):
        run.baseline()
    assert run.hashes(["baseline.safetensors"]) == done.hashes(["baseline.safetensors"])


def test_select_best_needs_held_out_scenes_and_uses_them(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy", small_configs(student={"select": "best"}))
    with pytest.raises(ValueError, match=r"prepare\.holdout"):
        run.baseline()
    wide = {"render": {"train_clips_per_class": 3}, "prepare": {"holdout": 1}}
    held = Run(tmp_path / "held", small_configs(**wide, student={"select": "best"}))
    held.folder.mkdir()
    held.render()
    held.prepare(ARID_CLASSES)
    scenes = {
        subset: {c.scene for c in of_subset(read_clips(held["clips.csv"]), subset)}
        for subset in ("train", "holdout", "test")
    }
    assert len(scenes["holdout"]) == 1
    assert not scenes["holdout"] & (scenes["train"] | scenes["test"])
    held.baseline()
    curve = held["baseline_curve.csv"].read_text().splitlines()
    assert curve[0] == "epoch,loss,top1,lr,holdout_top1"


def test_a_resumed_training_equals_an_uninterrupted_one(done, tmp_path, small_configs):
    from pipeline.training import loop

    run = done.copy(tmp_path / "copy")
    run["baseline.safetensors"].unlink()
    kept = loop.save_state

    def stop_after_one(path, state):
        kept(path, state)
        raise KeyboardInterrupt

    loop.save_state = stop_after_one
    try:
        with pytest.raises(KeyboardInterrupt):
            run.baseline()
    finally:
        loop.save_state = kept
    assert not run["baseline.safetensors"].exists()
    assert (run.folder / ".work" / "baseline" / "state.pt").exists()
    run.baseline()
    assert run.hashes(["baseline.safetensors"]) == done.hashes(["baseline.safetensors"])


def test_the_work_of_other_settings_is_not_resumed(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "copy", work=True)
    assert (run.folder / ".work" / "frames").is_dir()
    run.configs = small_configs(student={"seed": 1})
    run.baseline()
    first = run.hashes(["baseline.safetensors"])
    fresh = done.copy(tmp_path / "fresh", run.configs)
    fresh.baseline()
    assert first == fresh.hashes(["baseline.safetensors"]) != done.hashes(["baseline.safetensors"])


def test_parts_and_checkpointed_activations_reach_every_training(done, tmp_path, small_configs):
    parts = {section: {"micro_batches": 2} for section in ("teacher", "student")}
    cut = done.copy(tmp_path / "cut", small_configs(**parts))
    kept = done.copy(tmp_path / "kept", small_configs(**parts, compute={"checkpoint_activations": True}))
    for stage in ("baseline", "teacher"):
        getattr(cut, stage)()
        getattr(kept, stage)()
        # Weights, running statistics and record: nothing is told of the memory that was saved.
        assert cut.hashes([f"{stage}.safetensors"]) == kept.hashes([f"{stage}.safetensors"])
        assert cut.hashes([f"{stage}.safetensors"]) != done.hashes([f"{stage}.safetensors"])


def test_a_run_in_bf16_says_so_everywhere_and_takes_no_store_of_fp32(done, tmp_path, small_configs):
    try:
        check_precision(CPU, "bf16")
    except ValueError as error:
        pytest.skip(f"this machine cannot do it: {error}")
    run = done.copy(tmp_path / "run", small_configs(compute={"precision": "bf16"}))
    with pytest.raises(ValueError, match=r"precision.*(float32.*bfloat16|bfloat16.*float32)"):
        run.student()
    for stage in ("teacher", "logits", "student", "baseline", "evaluate"):
        getattr(run, stage)()
    assert LogitStore.open(run["logits.h5"]).fingerprint["precision"] == "bfloat16"
    for kind in ("teacher", "student", "baseline"):
        assert load_checkpoint(run[f"{kind}.safetensors"])[1].settings["precision"] == "bf16"
        assert all(tensor.dtype != torch.bfloat16 for tensor in weights(run[f"{kind}.safetensors"]).values())
        assert run.hashes([f"{kind}.safetensors"]) != done.hashes([f"{kind}.safetensors"])
    assert json.loads(run["details.json"].read_text())["protocol"]["precision"] == "bf16"
    assert json.loads(done["details.json"].read_text())["protocol"]["precision"] == "fp32"


@pytest.mark.parametrize("stage", ["teacher", "logits", "student", "baseline", "evaluate"])
def test_a_machine_that_computes_wrongly_is_refused_by_every_stage(done, tmp_path, monkeypatch, stage):
    def refuse(device, precision):
        raise ValueError(f"{device} computes wrongly in {precision}")

    module = "pipeline.training.dark_training" if stage in ("student", "baseline") else f"stages.{stage}"
    monkeypatch.setattr(sys.modules[module], "check_precision", refuse)
    run = done.copy(tmp_path / "run")
    before = run.hashes()
    with pytest.raises(ValueError, match="cpu computes wrongly in fp32"):
        getattr(run, stage)()
    assert run.hashes() == before


def test_work_can_lie_elsewhere(done, tmp_path, monkeypatch):
    monkeypatch.setenv("DLKDD_WORK", str(tmp_path / "elsewhere"))
    run = done.copy(tmp_path / "copy")
    run.baseline()
    assert not (run.folder / ".work").exists()
    assert (tmp_path / "elsewhere" / "copy" / "baseline" / "state.pt").exists()
    assert os.listdir(tmp_path / "elsewhere") == ["copy"]


def test_views_and_pixels_replay_as_they_were_drawn(done):
    store = LogitStore.open(done["logits.h5"])
    train = of_subset(read_clips(done["clips.csv"]), "train")
    rule = view_rule(plain(done.configs["views"]))
    drawn = DrawnViews(rule=rule, mode="consistent", num_views=store.num_views)
    for clip in train:
        for epoch in range(4):
            assert StoredViews(store=store)(clip, epoch) == drawn(clip, epoch)
    assert dataclasses.asdict(rule)["frames"] == store.frames_per_view


def test_results_list_names_files_that_stages_write(done):
    assert all(done[name].is_file() for name in RESULTS)


@pytest.fixture
def as_before(monkeypatch):
    """Undoes what a deterministic GPU sets for the whole process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # known to monkeypatch, which takes back what is set later
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)


def test_the_deterministic_mode_of_a_gpu_is_torchs_and_a_cpu_needs_none(monkeypatch, as_before):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    set_up_machine("cpu", 1, deterministic=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    set_up_machine("cuda", 1, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_up_machine("cuda", 1)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_deterministic_gpu_trains_the_same_bytes_twice(done, tmp_path, monkeypatch, as_before):
    runs = [done.copy(tmp_path / name) for name in "ab"]
    for run in runs:
        device = set_up_machine("cuda", 1, deterministic=True)
        machine = {"compute": run.configs["compute"], "device": device}
        monkeypatch.setattr(run, "machine", lambda machine=machine: machine)
        for stage in ("teacher", "logits", "student"):
            getattr(run, stage)()
    names = ["teacher.safetensors", "logits.h5", "student.safetensors"]
    assert runs[0].hashes(names) == runs[1].hashes(names)

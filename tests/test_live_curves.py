"""Curves that grow while a stage trains in an experiment: they are whole, and change nothing else."""

import csv
import json
import os
import sys

import pytest
from micro import Run

from pipeline.presets import ARID_CLASSES
from pipeline.training import loop
from pipeline.training.distributed import Ranks
from pipeline.training.live_curves import live_curves

FIGURES = ("loss", "top1", "lr")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, small_configs):
    """A run up to `prepare`; tests copy it."""
    run = Run(tmp_path_factory.mktemp("live") / "micro", small_configs(student={"epochs": 3}))
    run.folder.mkdir()
    run.render()
    run.prepare(ARID_CLASSES)
    return run


@pytest.fixture
def experiment(monkeypatch, tmp_path):
    """The environment of a stage of `dvc exp run`, outside of any repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0" * 40)
    monkeypatch.setenv("DVC_EXP_NAME", "dark-night")
    monkeypatch.setenv("DVC_STUDIO_OFFLINE", "true")


def shown(folder):
    """Figures by name, and the steps they were logged for."""
    found = {}
    for name in FIGURES:
        with (folder / f"plots/metrics/{name}.tsv").open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        found[name] = [float(row[name]) for row in rows]
        assert [int(row["step"]) for row in rows] == list(range(len(rows)))
    return found


def curve_of(run):
    with run["baseline_curve.csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in FIGURES}


def trained(prepared, folder):
    run = prepared.copy(folder)
    run.baseline()
    return run


def stopping_after(epochs):
    """A stand-in for `save_state` that is stopped, as by Ctrl-C, once the state of that many epochs is kept."""
    kept = loop.save_state

    def save(path, state):
        kept(path, state)
        if len(state["curve"]) == epochs:
            raise KeyboardInterrupt

    return save


def test_without_an_experiment_nothing_is_written_and_dvclive_is_not_imported(prepared, tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_EXP_BASELINE_REV", raising=False)
    monkeypatch.setitem(sys.modules, "dvclive", None)
    assert not (trained(prepared, tmp_path / "run").folder / "live").exists()


def test_an_experiment_ends_in_the_bytes_of_a_plain_run(prepared, tmp_path, experiment, monkeypatch):
    live = trained(prepared, tmp_path / "a")
    monkeypatch.delenv("DVC_EXP_BASELINE_REV")
    plain = trained(prepared, tmp_path / "b")
    for name in ("baseline.safetensors", "baseline_curve.csv"):
        assert live[name].read_bytes() == plain[name].read_bytes()
    assert shown(live["live/baseline"]) == curve_of(plain)
    assert not (plain.folder / "live").exists()
    # Nothing for DVC to read, and no repository made.
    assert not list(tmp_path.rglob("dvc.yaml"))
    assert not (tmp_path / ".dvc").exists()
    assert json.loads(live["live/baseline/metrics.json"].read_text())["step"] == 2


def test_an_epoch_is_shown_before_the_next_one_ends(prepared, tmp_path, experiment, monkeypatch):
    kept, seen = loop.save_state, []
    run = prepared.copy(tmp_path / "run")

    def save(path, state):
        folder = run["live/baseline"]
        seen.append(len(shown(folder)["loss"]) if (folder / "plots").exists() else 0)
        kept(path, state)

    monkeypatch.setattr(loop, "save_state", save)
    run.baseline()
    assert seen == [0, 1, 2]


def test_a_stopped_stage_goes_on_with_a_whole_curve(prepared, tmp_path, experiment, monkeypatch):
    run = prepared.copy(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_state", stopping_after(2))
        with pytest.raises(KeyboardInterrupt):
            run.baseline()
    # The second epoch is kept and was not shown; and as after a kill, a line is torn.
    loss = run["live/baseline/plots/metrics/loss.tsv"]
    assert len(shown(run["live/baseline"])["loss"]) == 1
    loss.write_bytes(loss.read_bytes()[:-4])
    run["live/baseline/metrics.json"].write_text("{")
    run.baseline()
    assert shown(run["live/baseline"]) == curve_of(run)
    assert (
        run["baseline.safetensors"].read_bytes()
        == trained(prepared, tmp_path / "b")["baseline.safetensors"].read_bytes()
    )


def test_a_training_with_other_settings_begins_a_new_curve(prepared, tmp_path, experiment, small_configs):
    run = trained(prepared, tmp_path / "run")
    before = shown(run["live/baseline"])
    run.configs = small_configs(student={"epochs": 2, "seed": 3})
    run.baseline()
    after = shown(run["live/baseline"])
    assert after == curve_of(run)
    assert after["loss"] != before["loss"][:2]


def test_the_first_of_several_processes_alone_shows_its_curve(experiment, tmp_path, monkeypatch):
    from pipeline.training import classification

    asked = []
    monkeypatch.setattr(classification, "live_curves", lambda folder: asked.append(folder) or live_curves(None))
    monkeypatch.setattr(classification, "Steps", lambda *given, **more: [])
    monkeypatch.setattr(classification, "fit", lambda *given, **more: None)
    for ranks in (Ranks(), Ranks(rank=1, size=2)):
        train(ranks, tmp_path)
    assert asked == [tmp_path / "live" / "student", None]


def train(ranks, folder):
    import torch

    from pipeline.training.classification import train_classifier

    class Rule:
        size = 8

    settings = {"micro_batches": 2, "batch_size": 2, "seed": 0, "lr": 0.1, "weight_decay": 0.0}
    settings |= {"schedule": "constant", "warmup_epochs": 0, "epochs": 1, "select": "last"}
    train_classifier(
        torch.nn.Linear(2, 2), train=[], holdout=[], source=None, rule=Rule(), view_of=None, check=None, loss_of=None,
        settings=settings, workers=0, device=torch.device("cpu"), work=folder, title="student", ranks=ranks,
        live=folder / "live",
    )  # fmt: skip


def test_dvclives_own_switch_to_resume_changes_nothing(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("DVCLIVE_RESUME", "1")
    rows = [{"epoch": float(epoch), "loss": 1.0 / (epoch + 1), "top1": 0.5, "lr": 0.1} for epoch in range(3)]
    for count in (2, 3):
        with live_curves(tmp_path / "live") as show:
            show(rows[:count])
            show(rows[:count])
    assert shown(tmp_path / "live")["loss"] == [row["loss"] for row in rows]
    assert os.listdir(tmp_path) == ["live"]

"""`dlkdd bench` reads and trains on a run's own clips, and its figures belong together."""

import json

import pytest
import torch
from click.testing import CliRunner
from micro import Run

from pipeline import presets, speed
from pipeline.cli import cli
from pipeline.clips.clip_index import of_subset, read_clips
from pipeline.clips.views import view_rule
from pipeline.config import plain
from pipeline.presets import ARID_CLASSES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_configs):
    made = Run(tmp_path_factory.mktemp("speed") / "data" / "demo", small_configs())
    made.folder.mkdir(parents=True)
    made.render()
    made.prepare(ARID_CLASSES)
    return made


def workload(run, **changes):
    views = run.configs["views"]
    values = {
        "clips": of_subset(read_clips(run["clips.csv"]), "train")[:5],
        "videos": run.videos,
        "rule": view_rule(plain(views)),
        "colour_range": views.colour_range,
        "settings": plain(run.configs["student"]),
        "num_classes": len(ARID_CLASSES),
        "precision": "fp32",
        "workers": 0,
    }
    return speed.Workload(**values | changes)


@pytest.mark.parametrize("workers", [0, 1])
def test_figures_are_positive_and_fit_each_other(run, tmp_path, workers):
    found = speed.measure(workload(run, workers=workers), batches=3, device=CPU, folder=tmp_path)
    assert found.batch_size == 4
    assert found.synthetic_clips_per_sec == pytest.approx(4 / found.step_sec)
    assert min(found.decoding_clips_per_sec, found.cached_clips_per_sec) > 0
    assert 0 <= found.waiting_for_the_cache < 1
    assert 0 < found.waiting_while_decoding < 1
    assert 0 < found.mfu < 1  # no network keeps the units busier than a large matrix product does
    assert list(tmp_path.iterdir()) == []


def test_a_step_counts_three_forward_passes_of_a_batch(run, tmp_path):
    one, two = (
        speed.measure(
            workload(run, settings=plain(run.configs["student"]) | {"batch_size": size}),
            batches=1,
            device=CPU,
            folder=tmp_path,
        ).step_flop
        for size in (1, 2)
    )
    assert two == 2 * one
    assert one % 6 == 0  # 3 passes of 2 operations a multiply-accumulate


@pytest.mark.parametrize("changes", [{"batches": 0}, {"clips": []}])
def test_nothing_to_measure_is_refused(run, tmp_path, changes):
    work = workload(run, **{key: value for key, value in changes.items() if key == "clips"})
    with pytest.raises(ValueError, match="wanted at least 1 of each"):
        speed.measure(work, batches=changes.get("batches", 1), device=CPU, folder=tmp_path)


def test_the_command_prints_and_writes_the_figures(run, tmp_path, monkeypatch, small_params):
    root = run.folder.parents[1]
    monkeypatch.chdir(root)
    params = small_params() | {"runs": ["demo"]}
    presets.write_params(root / "params.yaml", params, name="demo", force=True)
    text = (root / "params.yaml").read_text(encoding="utf-8")
    assert "inputs" in text
    (root / "params.yaml").write_text(text.replace("data/demo/rendered/videos", str(run.videos)), encoding="utf-8")
    outcome = CliRunner().invoke(cli, ["bench", "demo", "--batches", "1", "--json", str(tmp_path / "speed.json")])
    assert outcome.exit_code == 0, outcome.output
    assert "waiting while decoding" in outcome.output
    found = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert found["step_flop"] / found["step_sec"] / found["matmul_flop_per_sec"] == pytest.approx(found["mfu"])

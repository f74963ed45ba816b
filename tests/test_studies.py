"""Studies: trainings compared over seeds and scenes, from the trainings themselves to the table."""

import copy
import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from micro import CPU, Run, small_configs, small_params
from ruamel.yaml import YAML

from pipeline import presets
from pipeline.cli import cli
from pipeline.commands.study import numbers_in
from pipeline.studies import runner
from pipeline.studies.bootstrap import bootstrap
from pipeline.studies.gathered import _groups, gather, read_scenes
from pipeline.studies.joined import added, pooled
from pipeline.studies.prepared import Study, made_from
from pipeline.studies.runner import missing_chains, train
from pipeline.studies.saved import SINCE, Saved, Trained, Words, read, write
from pipeline.studies.table import class_table, difference, share, tables
from pipeline.studies.variants import VARIANTS, settings_for, variant_of
from pipeline.tables.paper_text import as_markdown

ROOT = Path(__file__).parents[1]

# --- statistics ---


def test_a_mean_without_spread_has_no_interval():
    found = bootstrap(np.ones((3, 8)), list("aabbccdd"), resamples=100, seed=0)
    assert (found.mean, found.low, found.high) == (1, 1, 1)
    assert (found.clips, found.groups, found.seeds) == (8, 4, 3)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Seeds, scenes and clips each move the answers; 95 % of the intervals ought to hold the mean of all."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        of_seed, of_scene = rng.normal(0, 1, (12, 1)), np.repeat(rng.normal(0, 1, 20), 5)
        values = of_seed + of_scene + rng.normal(0, 2, (12, 100))
        found = bootstrap(values, np.repeat(np.arange(20), 5).tolist(), resamples=400, seed=trial)
        held += found.low <= 0 <= found.high
    assert 0.88 <= held / 300 <= 0.98  # percentiles of 12 seeds are a little too narrow


def test_with_few_scenes_the_intervals_are_too_narrow():
    """As the tables' notes and docs/use_study.md say."""
    held = {}
    for scenes in (3, 8):
        rng, held[scenes], groups = np.random.default_rng(1), 0, np.repeat(np.arange(scenes), 5).tolist()
        for trial in range(300):
            of_seed, of_scene = rng.normal(0, 1, (10, 1)), np.repeat(rng.normal(0, 1, scenes), 5)
            values = of_seed + of_scene + rng.normal(0, 2, (10, 5 * scenes))
            found = bootstrap(values, groups, resamples=400, seed=trial)
            held[scenes] += (found.low <= 0 <= found.high) / 300
    assert 0.70 <= held[3] <= 0.90
    assert held[3] + 0.03 < held[8] <= 0.97


def test_with_few_seeds_the_intervals_are_too_narrow():
    """As the tables' notes and docs/use_study.md say."""
    held, groups = {}, np.repeat(np.arange(20), 5).tolist()
    for seeds in (3, 10):
        rng, held[seeds] = np.random.default_rng(2), 0
        for trial in range(300):
            of_seed, of_scene = rng.normal(0, 1, (seeds, 1)), np.repeat(rng.normal(0, 1, 20), 5)
            values = of_seed + of_scene + rng.normal(0, 2, (seeds, 100))
            found = bootstrap(values, groups, resamples=400, seed=trial)
            held[seeds] += (found.low <= 0 <= found.high) / 300
    assert 0.70 <= held[3] <= 0.90
    assert held[3] + 0.03 < held[10] <= 0.97


def test_where_only_single_answers_differ_the_interval_is_too_wide():
    """As docs/use_study.md says: what is each answer's own is drawn with the seeds, with the clips, and with both."""
    rng = np.random.default_rng(3)
    widths, needed = [], 2 * 1.96 / np.sqrt(10 * 96)
    for trial in range(40):
        found = bootstrap(rng.normal(0, 1, (10, 96)), list(range(96)), resamples=400, seed=trial)
        widths.append(found.high - found.low)
    assert 1.5 <= np.mean(widths) / needed <= 1.8


def test_scenes_and_seeds_that_differ_widen_the_interval():
    def width(values, groups):
        found = bootstrap(values, groups, resamples=2000, seed=0)
        return found.high - found.low

    scenes, clips = np.repeat(np.arange(6), 10).tolist(), list(range(60))
    by_scene = np.tile(np.repeat([0.0, 1.0], 30), (4, 1))
    assert width(by_scene, scenes) > 2 * width(by_scene, clips)
    by_seed = np.tile([[0.0], [1.0], [0.0], [1.0]], (1, 60))
    assert width(by_seed, clips) > 0.7
    assert width(by_seed[:1], clips) == 0


def test_the_mean_is_over_clips_and_not_over_scenes():
    found = bootstrap(np.array([[1.0, 1.0, 1.0, 0.0]]), list("aaab"), resamples=50, seed=0)
    assert found.mean == 0.75


def test_kept_draws_are_those_that_are_drawn_anew(monkeypatch):
    # 2,500 resamples are drawn in three parts; other values must not find the draws of these used up
    values, groups = np.random.default_rng(0).normal(size=(2, 3, 12)), list("aaabbbcccddd")
    of_kept = [bootstrap(value, groups, resamples=2500, seed=1) for value in (values[0], *values)]
    monkeypatch.setattr("pipeline.studies.bootstrap.KEPT_GROUPS", 3)
    assert of_kept == [bootstrap(value, groups, resamples=2500, seed=1) for value in (values[0], *values)]
    assert of_kept[0] == of_kept[1] != of_kept[2]


@pytest.mark.parametrize(("shape", "groups"), [((0, 3), "abc"), ((2, 0), ""), ((2, 3), "ab")])
def test_a_bootstrap_of_nothing_is_refused(shape, groups):
    with pytest.raises(ValueError, match="bootstrap: found"):
        bootstrap(np.zeros(shape), list(groups), resamples=10, seed=0)


# --- variants ---


def test_a_variant_is_found_by_name_or_made_of_its_changes():
    assert variant_of("smoothed") is VARIANTS["smoothed"]
    made = variant_of("squared student student.scale_by_temperature_squared=true logits.views=1")
    assert (made.name, made.stage) == ("squared", "student")
    assert made.changes == ("student.scale_by_temperature_squared=true", "logits.views=1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wanted one of baseline"),
        ("bright", "wanted one of baseline"),
        ("x pupil student.lr=1", "found the stage 'pupil'"),
        ("student student student.lr=1", "wanted a new name"),
        ("../x student student.lr=1", "wanted a new name"),
        ("trained student student.lr=1", "wanted a new name"),
        ("x teacher student.lr=1", "variant x: student.lr has no effect on a teacher here"),
        ("x baseline enhancer.name=gamma", "enhancer.name has no effect on a baseline"),
        ("x baseline student.kd_weight=1", "student.kd_weight has no effect on a baseline"),
        ("x student render.seed=1", "render.seed has no effect on a student"),
        ("x student student.lr=1 evaluate.bootstrap=1", "evaluate.bootstrap has no effect on a student"),
        ("x student views.seed=1", "views.seed is set by the study's seeds"),
    ],
)
def test_an_unknown_variant_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        variant_of(text)


def test_settings_take_the_changes_and_one_seed_for_all_that_training_draws():
    params = small_params()
    found = settings_for(params, ("student.kd_weight=3",), seed=7)
    assert found.configs["student"].kd_weight == 3.0
    assert {found.values[section]["seed"] for section in ("views", "teacher", "student")} == {7}
    assert found.values["render"]["seed"] == found.values["enhancer"]["seed"] == 0
    assert found.configs["baseline"].seed == 7
    assert params["student"]["kd_weight"] == 1.5
    with pytest.raises(ValueError, match=r"unknown key 'student\.colour'"):
        settings_for(params, ("student.colour=3",), seed=0)
    with pytest.raises(ValueError, match=r"logits\.views: views\.mode: fixed has one view a clip"):
        settings_for(params, ("views.mode=fixed", "logits.views=3"), seed=0)
    with pytest.raises(ValueError, match=r"enhancer\.name=gamma: has no effect where teacher\.input is dark"):
        settings_for(params, ("teacher.input=dark", "enhancer.name=gamma"), seed=0)


# --- trainings ---

TWO = {"render": {"train_clips_per_class": 2}}
"""Of each class, so that logits can be shuffled within it."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run as `dvc repro enhancer` leaves it, with its params.yaml."""
    root = tmp_path_factory.mktemp("studies")
    params, configs = small_params(**TWO), small_configs(**TWO)
    run = Run(root / "data" / "demo", configs)
    run.render()
    run.prepare(presets.demo()["inputs"]["demo"]["classes"])
    run.enhancer()
    params["inputs"]["demo"]["videos"] = str(run.videos)
    presets.write_params(root / "params.yaml", params, name="demo", force=True)
    return root


@pytest.fixture
def study(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    folder = tmp_path / "copy" / "data" / "demo"
    return Study(
        folder=folder,
        videos=folder / "rendered/videos",
        params=tmp_path / "copy" / "params.yaml",
        kept=folder / "study",
        subset="test",
        device=CPU,
        commit="abc",
        hardware="a machine",
    )


def answers(study, variant, seed):
    return json.loads(study.record(variant, seed).read_text())["answers"]


def test_a_study_answers_as_the_stages_do_and_trains_nothing_twice(study, monkeypatch, capsys):
    variants = [VARIANTS[name] for name in ("baseline", "teacher", "student")]
    train(study, variants, [0])
    told = capsys.readouterr().out
    assert "demo student seed 0: 0." in told
    assert re.search("baseline seed 0: .* s; 1 of 3, about .* min left\n", told)
    assert told.endswith("; 3 of 3\n")
    run = Run(study.folder, small_configs(**TWO))
    for stage in ("teacher", "logits", "student", "baseline", "evaluate"):
        getattr(run, stage)()
    with (study.folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [presets.demo()["inputs"]["demo"]["classes"][label] for label in answers(study, "student", 0)]
    assert names == [row["student"] for row in rows]
    assert [clip.id for clip in study.clips()] == [row["id"] for row in rows]
    for stage in ("teacher", "logits", "student", "baseline"):
        monkeypatch.setattr(getattr(runner, stage), "run", None)
    capsys.readouterr()
    train(study, variants, [0])
    assert capsys.readouterr().out == ""


def test_controls_share_the_teacher_and_are_trainings_of_their_own(study):
    names = ("student", "smoothed", "shuffled", "dark-teacher", "dark-student")
    train(study, [VARIANTS[name] for name in names], [3])
    trained = {path.name for path in (study.root / "trained").iterdir()}
    assert len([name for name in trained if name.startswith("teacher-")]) == 2
    assert {"student-3", "smoothed-3", "shuffled-3", "dark-student-3"} <= trained
    students = [study.root / f"trained/{name}-3/student.safetensors" for name in names if name != "dark-teacher"]
    assert len({path.read_bytes() for path in students}) == 4


def test_a_variant_of_another_enhancer_makes_it_itself(study):
    variants = [variant_of(text) for text in ("gamma student enhancer.name=gamma", "view teacher enhancer.on=view")]
    train(study, [VARIANTS["teacher"], *variants], [0])
    cards = {
        path.parent.name: json.loads(path.read_text()) for path in study.root.glob("trained/teacher-*/teacher.json")
    }
    assert sorted(card["preprocessing"]["enhancer"]["name"] for card in cards.values()) == ["gamma", *["zero_dce"] * 2]
    assert len(list(study.root.glob("trained/enhancer-*-0/enhancer.safetensors"))) == 1
    train(study, [variant_of("light teacher enhancer.name=gamma")], [0])
    assert len(list(study.root.glob("trained/teacher-*"))) == len(cards)


def test_an_enhancer_of_frames_of_another_size_is_another_one(study):
    params = YAML(typ="safe").load(study.params.read_text())
    made = [
        runner._enhancer(study, settings_for(params, ["enhancer.name=gamma", *views], seed=0), 0)
        for views in ([], ["views.frame_size=[80, 100]"], ["views.colour_range=full"], ["views.flip=false"])
    ]
    assert made[0] == made[3]  # which does not depend on how views are drawn
    assert len(set(made)) == 3


def test_a_run_prepared_anew_shares_no_teacher_with_what_it_was(study):
    train(study, [VARIANTS["teacher"]], [0])
    text = study.statistics.read_text()
    study.statistics.write_text(text + "\n")
    with pytest.raises(
        ValueError,
        match=r"teacher/0\.json: statistics\.json: was trained with sha256 \w+, found sha256 \w+ now; set it",
    ):
        train(study, [VARIANTS["teacher"]], [0])
    shutil.rmtree(study.root / "teacher")
    train(study, [VARIANTS["teacher"]], [0])
    assert len(list((study.root / "trained").glob("teacher-*"))) == 2


def test_what_is_kept_is_looked_at_before_anything_is_trained(study):
    chosen = [VARIANTS["teacher"], VARIANTS["baseline"]]
    for variant, seed in ((chosen[0], 1), (chosen[1], 0)):
        settings = settings_for(YAML(typ="safe").load(study.params.read_text()), variant.changes, seed=seed)
        record = study.record(variant.name, seed)
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"made_from": made_from(study, variant, settings)}))
    assert [str(chain) for chain in missing_chains(study, chosen, [0, 1])] == ["seed 0, teacher", "seed 1, baseline"]
    study.record("baseline", 1).write_text(study.record("baseline", 0).read_text())
    with pytest.raises(ValueError, match=r"baseline/1\.json: student\.seed: was trained with 0, found 1 now; set it"):
        missing_chains(study, chosen, [0, 1])
    with pytest.raises(ValueError, match=r"holds no labelled holdout clip"):
        missing_chains(dataclasses.replace(study, subset="holdout"), chosen, [0])
    study.enhancer.unlink()
    with pytest.raises(ValueError, match=r"enhancer\.safetensors: no such file"):
        missing_chains(study, [VARIANTS["dark-teacher"]], [0])


def test_two_variants_of_one_name_are_refused_and_one_given_twice_is_trained_once(study):
    other = variant_of("mine teacher teacher.epochs=9")
    with pytest.raises(
        ValueError, match=r"variant mine: is given twice, of student with \['student\.lr=1e-3'\] and of teacher"
    ):
        missing_chains(study, [variant_of("mine student student.lr=1e-3"), other, VARIANTS["baseline"]], [0])
    assert [str(chain) for chain in missing_chains(study, [other, other], [0])] == ["seed 0, mine"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_command_refuses_what_does_not_fit_before_it_trains(study, monkeypatch, jobs):
    monkeypatch.chdir(study.params.parent)
    record = study.record("baseline", 1)
    record.parent.mkdir(parents=True)
    record.write_text('{"made_from": {"stage": "teacher"}}')
    command = ["study", "run", "demo", "--variant", "baseline", "--seeds", "0-1", "--jobs", str(jobs)]
    result = CliRunner().invoke(cli, command)
    assert "baseline/1.json: stage: was trained with teacher, found baseline now" in str(result.exception)
    assert not (study.root / "trained").exists()


def test_trainings_at_once_answer_as_one_after_the_other(study, tmp_path):
    other = shutil.copytree(study.params.parent, tmp_path / "other")

    def run(cwd, *arguments):
        # teachers read both kinds of frames that are kept once for all
        chosen = ("--variant", "teacher", "--variant", "slow teacher teacher.lr=1e-4", "--seeds", "1")
        command = [sys.executable, "-m", "pipeline", "study", "run", "demo", *chosen]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, *arguments], cwd=cwd, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    mine = other / "mine"
    mine.mkdir()
    (other / "params.yaml").rename(other / "others.yaml")
    run(study.params.parent)
    told = run(other, "--jobs", "2", "--params", "others.yaml", "--folder", mine)
    assert told.endswith("; 2 of 2\n")  # of both processes
    at_once = dataclasses.replace(study, kept=mine)
    for name in ("teacher", "slow"):
        assert answers(study, name, 1) == answers(at_once, name, 1)


def test_a_kept_baseline_is_of_its_views_and_not_of_the_soft_targets(study):
    """Another weight of the soft targets, or another enhancer, trains the same baseline; other views another one."""
    params = YAML(typ="safe").load(study.params.read_text())
    study.enhancer.unlink()

    def origin(*changes, variant="baseline"):
        return made_from(study, VARIANTS[variant], settings_for(params, changes, seed=0))

    others = ("student.kd_weight=3", "student.temperature=2", "logits.batch_size=3", "enhancer.gamma=2")
    assert origin() == origin(*others)
    for change in ("logits.views=3", "views.jitter=0.5", "student.lr=0.5", "evaluate.crops=five"):
        changed = {name for name, value in origin(change).items() if value != origin()[name]}
        assert changed == {change.partition("=")[0]}
    dark = VARIANTS["dark-student"].changes
    assert origin(*dark, variant="dark-student") == origin(*dark, "logits.minimum_top1=0.9", variant="dark-student")
    with pytest.raises(ValueError, match=r"enhancer\.safetensors: no such file; run `dvc repro enhancer@demo` first"):
        made_from(study, VARIANTS["student"], settings_for(params, (), seed=0))


def test_another_seed_and_other_settings_are_other_trainings(study):
    train(study, [VARIANTS["baseline"]], [0, 1])
    folders = [study.root / "trained" / f"baseline-{seed}" / "baseline.safetensors" for seed in (0, 1)]
    assert folders[0].read_bytes() != folders[1].read_bytes()
    params = YAML(typ="safe").load(study.params.read_text())
    params["student"]["lr"] = 0.5
    presets.write_params(study.params, params, name="demo", force=True)
    with pytest.raises(
        ValueError, match=r"baseline/0\.json: student\.lr: was trained with 0\.\d+, found 0\.5 now; set it back"
    ):
        train(study, [VARIANTS["baseline"]], [0])
    kept = study.root / "baseline/0.json"
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "made_from": None}))
    with pytest.raises(ValueError, match=r"baseline/0\.json: does not say what it was made from.*; remove the folder"):
        train(study, [VARIANTS["baseline"]], [0])
    study.statistics.unlink()
    with pytest.raises(ValueError, match=r"statistics\.json: no such file; run `dvc repro enhancer@demo` first"):
        train(study, [VARIANTS["baseline"]], [0])
    with pytest.raises(ValueError, match=r"clips\.csv: holds no labelled holdout clip; set prepare\.holdout"):
        train(dataclasses.replace(study, subset="holdout"), [VARIANTS["baseline"]], [0])


# --- saved, and in a table ---

WORDS = Words(title="night", note="", pool="", recipes=2)


def saved(**variants):
    """Eight clips of four scenes, two seeds; hits as texts by variant."""
    return Saved(
        **dataclasses.asdict(WORDS),
        commit="abc",
        hardware="a machine",
        clips_sha256="0" * 64,
        mean_luma=8.0,
        subset="test",
        classes=4,
        train_clips=20,
        groups=tuple("aabbccdd"),
        class_names=("Drink", "Jump", "Run", "Wave"),
        labels=(0, 1, 0, 1, 0, 1, 3, 3),
        settings={},
        variants={
            name: Trained(
                stage=VARIANTS[name].stage if name in VARIANTS else "student",
                changes=(),
                seconds=1800.0,
                hits={str(seed): hits for seed, hits in enumerate(texts)},
            )
            for name, texts in variants.items()
        },
    )


def test_a_difference_is_paired_by_seed_and_clip():
    found = saved(student=("11110000", "11111111"), baseline=("11100000", "11111110"), teacher=("11110000",))
    assert share(found, "student").mean == 12 / 16
    gain = difference(found, "student", "baseline")
    assert (gain.mean, gain.seeds, gain.groups) == (2 / 16, 2, 4)
    assert difference(found, "student", "teacher").mean == 0  # of the one seed that both have
    assert difference(found, "student", "teacher").seeds == 1
    assert difference(found, "student", "smoothed") is None
    # One clip more for every seed and in every scene: whatever is drawn, the difference is the same.
    paired = saved(student=("11101010", "01111111"), baseline=("01000000", "00010101"))
    gain = difference(paired, "student", "baseline")
    assert (gain.low, gain.mean, gain.high) == (0.5, 0.5, 0.5)


def test_few_common_seeds_are_told_where_each_variant_has_enough():
    texts = {str(seed): "11110000" for seed in range(18)}
    found = saved(student=(), baseline=())
    seeds = {"student": range(10), "baseline": range(8, 18)}
    hits = {name: {str(seed): texts[str(seed)] for seed in of} for name, of in seeds.items()}
    for name, kept in hits.items():
        found.variants[name] = dataclasses.replace(found.variants[name], hits=kept)
    compared, about = tables([found])
    assert compared.rows[0][6].endswith(" x2")
    assert about.notes[0].endswith("; the intervals of fewer than 8 seeds are too narrow")
    found.variants["baseline"] = dataclasses.replace(found.variants["baseline"], hits=hits["student"])
    assert tables([found])[1].notes[0].endswith("; x10: of ten seeds")


def test_a_study_of_further_variants_alone_stands_in_their_table():
    alone = dataclasses.replace(saved(mine=["11110000", "11110000"]), title="alone")
    main, further, about = tables([alone, saved(baseline=["11110000", "11110000"])])
    assert [row[0] for row in main.rows] == ["night"]
    assert [row[:2] for row in further.rows] == [("alone", "mine")]
    assert [row[0] for row in about.rows] == ["alone", "night"]
    assert [table.title for table in tables([alone])] == ["Further variants", "The studies"]


def test_the_table_shows_means_intervals_and_dashes():
    one = saved(student=("11110000",), baseline=("11100000",))
    table, _ = tables([one])
    (row,) = table.rows
    assert row[:2] == ("night", "8 / 4")
    assert row[2] == "0.375 (-) x1"  # one seed shows no spread
    assert row[3] == "-"
    assert row[5] == "-"
    assert row[6] == "+0.125 (-) x1"
    assert table.notes == ()
    assert "| night | 8 / 4 | 0.375 (" in as_markdown([table])
    two = saved(student=("11110000", "10110000"), baseline=("11100000", "11000000", "11000000"))
    table, _ = tables([dataclasses.replace(two, groups=tuple("abcdefgh"))])
    assert re.fullmatch(r"0\.438 \(0\.\d{3} to 0\.\d{3}\) x2", table.rows[0][4])
    assert re.fullmatch(r"\+0\.125 \([+-]0\.\d{3} to \+0\.\d{3}\) x2", table.rows[0][6])
    one_scene, _ = tables([dataclasses.replace(two, groups=("a",) * 8)])
    assert one_scene.rows[0][4] == "0.438 (-) x2"
    controls = tables([saved(student=("11110000",), shuffled=("11100000",))])[1]
    assert controls.rows[0][controls.header.index("student - shuffled")].startswith("+0.125 (")
    answered = {"teacher": ("11110000",), "dark-teacher": ("11100000",), "baseline": ("11000000",)}
    _, light, _ = tables([saved(**answered)])
    assert light.header[2:] == (
        "teacher",
        "dark-teacher",
        "baseline",
        "teacher - dark-teacher",
        "dark-teacher - baseline",
    )
    assert [cell.split()[0] for cell in light.rows[0][2:]] == ["0.500", "0.375", "0.250", "+0.125", "+0.125"]


def test_the_last_table_says_what_the_studies_are():
    one = saved(student=("11110000",), baseline=("11100000",))
    other = dataclasses.replace(one, title="other", note="opened before", commit=f"{'a' * 40}; xyz")
    about = tables([one, other])[-1]
    shown = dict(zip(about.header, about.rows[1], strict=True))
    assert shown == {
        "data": "other",
        "clips": "8 test",
        "classes": "4",
        "chance": "0.250",
        "mean luma": "8.0",
        "training clips": str(one.train_clips),
        "recipes": "2",
        "commit": "aaaaaaa; xyz",
        "hardware": "a machine",
        "hours": "1.0",
    }
    assert about.notes[2:] == ("night; other: 4 scenes: the intervals are too narrow", "other: opened before")


def test_splits_are_told_of_one_by_one_and_their_scenes_together_too():
    splits = [dataclasses.replace(saved(student=("11110000",)), title=f"split {number}", pool="all") for number in "12"]
    splits[1] = dataclasses.replace(splits[1], groups=tuple("efgh" * 2))
    about = tables(splits)[-1]
    assert [row[0] for row in about.rows] == ["split 1", "split 2"]
    assert "split 1; split 2: 4 scenes: the intervals are too narrow" in about.notes
    assert not any(note.startswith("all: ") for note in about.notes)  # of eight scenes
    splits[1] = dataclasses.replace(splits[1], groups=tuple("cdefcdef"))
    assert "all: 6 scenes: the intervals are too narrow" in tables(splits)[-1].notes


@pytest.mark.parametrize(
    ("groups", "counted", "words"),
    [
        (tuple("abcdefgh"), "8 / 8", None),
        (("clip:1", *"abcdefg"), "8 / 7", "1 clips of unknown scenes are drawn one by one: too narrow where they share "
         "some; 7 scenes: the intervals are too narrow"),
        (("a",) * 8, "8 / 1", "one scene shows no spread: no intervals"),
        (tuple(f"clip:{name}" for name in "abcdefgh"), "8 / unknown", "8 clips of unknown scenes are drawn one by one: "
         "too narrow where they share some"),
    ],
)  # fmt: skip
def test_few_and_unknown_scenes_are_told(groups, counted, words):
    found = dataclasses.replace(saved(student=("11110000",) * 8), groups=groups)
    table, about = tables([found])
    assert table.rows[0][1] == counted
    assert about.notes[2:] == (() if words is None else (f"night: {words}",))


def test_further_variants_stand_beside_what_they_change():
    found = saved(student=("11110000",), baseline=("10000000",))
    squared = Trained(stage="student", changes=("student.x=1", "student.y=2"), seconds=1, hits={"0": "11111000"})
    table = tables([dataclasses.replace(found, variants=found.variants | {"squared": squared})])[1]
    (row,) = table.rows
    assert row[:4] == ("night", "squared", "student", "student.x=1 student.y=2")
    assert [cell.split()[0] for cell in row[4:]] == ["0.625", "+0.125", "+0.500"]


def test_the_clips_of_each_class_are_compared_alone():
    found = saved(teacher=("11110001", "11110011"), baseline=("10100000", "10100001"), student=("10110000",))
    table = class_table([found])
    names = ("teacher", "baseline", "student", "teacher - baseline", "student - baseline")
    shown = [(row[1], row[2], *(row[table.header.index(name)].split(" ")[0] for name in names)) for row in table.rows]
    assert shown == [
        ("Drink", "3 / 3", "0.667", "0.667", "0.667", "+0.000", "+0.000"),
        ("Jump", "3 / 3", "0.667", "0.000", "0.333", "+0.667", "+0.333"),  # none of Run was tested
        ("Wave", "2 / 1", "0.750", "0.250", "0.000", "+0.500", "+0.000"),
    ]
    assert table.rows[2][3:6] == ("0.250 (-) x2", "0.750 (-) x2", "0.000 (-) x1")
    # The student, of one seed, and Wave, of one scene, have none.
    assert (
        "if none of the 2 differences with an interval were there, about 0.1 of them would stand in" in table.notes[0]
    )
    assert len(table.notes) == 1
    apart = dataclasses.replace(found, groups=("clip:a", *found.groups[1:]))
    assert (
        class_table([apart]).notes[1]
        == "clips of unknown scenes are drawn one by one: too narrow where they share some"
    )
    # All classes together are all clips, as the bootstrap sees them.
    parts = [found.of_class(label) for label in range(4)]
    assert sum(part.hits("teacher", ["0", "1"]).sum() for part in parts) == found.hits("teacher", ["0", "1"]).sum()
    assert sorted(group for part in parts for group in part.groups) == sorted(found.groups)
    with pytest.raises(ValueError, match="night: labels: found none, wanted those of the clips; save the study again"):
        class_table([dataclasses.replace(found, labels=(), class_names=())])


def lit_and_dark():
    lit = dataclasses.replace(
        saved(student=("11111111", "11111100"), baseline=("11111100", "11111100"), teacher=("11110000",)),
        title="day",
        mean_luma=80.0,
        settings={"render": {"exposure_ev": 0.0}, "student": {"lr": 1}},
    )
    dark = dataclasses.replace(
        saved(student=("11111100", "11110000"), baseline=("11000000", "11000000", "11110000")),
        settings={"render": {"exposure_ev": -5.0}, "student": {"lr": 1}},
    )
    return lit, dark


def darkness(studies):
    """The table of what darkness costs, where there is one."""
    return [table for table in tables(studies) if table.title.startswith("What darkness costs")]


def test_darkness_costs_what_the_same_trainings_lose_on_the_same_clips():
    lit, dark = lit_and_dark()
    dusk = dataclasses.replace(dark, title="dusk", mean_luma=40.0, variants=lit.variants)
    (costs,) = darkness([dark, lit, dusk])
    assert [row[:2] for row in costs.rows] == [("day to dusk", "8 / 4"), ("day to night", "8 / 4")]
    cells = dict(zip(costs.header, costs.rows[1], strict=True))
    # of the student by seed 8 to 6 and 6 to 4, of the baseline 6 to 2 twice
    assert cells["student"].startswith("-0.250 (")
    assert cells["baseline"].startswith("-0.500 (")
    assert cells["baseline"].endswith(" x2")
    assert cells["student - baseline"].startswith("+0.250 (")
    assert (cells["teacher"], cells["student - teacher"]) == ("-", "-")
    assert costs.rows[0][2] == "+0.000 (+0.000 to +0.000) x2"
    assert costs.notes == ("the intervals of fewer than 8 seeds are too narrow",)
    # Another study in that light, of other seeds, hides none.
    others = {name: dataclasses.replace(found, hits={"9": "11111111"}) for name, found in lit.variants.items()}
    again = dataclasses.replace(lit, title="again", variants=others)
    (costs,) = darkness([again, dark, lit])
    assert [row[0] for row in costs.rows] == ["day to night"]


@pytest.mark.parametrize(
    "other",
    [
        {"clips_sha256": "1" * 64},
        {"groups": tuple("aaaaaaab")},
        {"subset": "holdout"},
        {"settings": {"render": {"exposure_ev": -5.0}, "student": {"lr": 2}}},
        {"mean_luma": 79.9},
    ],
    ids=lambda other: next(iter(other)),
)
def test_nothing_else_than_darkness_is_said_to_cost(other):
    lit, dark = lit_and_dark()
    assert darkness([lit, dark])
    assert not darkness([lit, dataclasses.replace(dark, **other)])


def test_splits_in_the_dark_are_compared_with_splits_in_the_light_all_together():
    (lit, dark), late = lit_and_dark(), {"clips_sha256": "1" * 64}
    days = [dataclasses.replace(lit, pool="days"), dataclasses.replace(lit, pool="days", title="late", **late)]
    nights = [dataclasses.replace(dark, pool="nights"), dataclasses.replace(dark, pool="nights", title="l", **late)]
    (costs,) = darkness([*nights, *days])
    assert [row[:2] for row in costs.rows] == [("days to nights", "16 / 4")]
    days[1] = dataclasses.replace(days[1], clips_sha256="2" * 64)
    assert not darkness([*nights, *days])


def test_splits_of_one_data_set_share_a_row():
    first = dataclasses.replace(saved(student=("11110000", "11111111"), baseline=("11110000",)), pool="all nights")
    second = dataclasses.replace(
        saved(student=("11000000",), baseline=("10000000",), teacher=("10000000",)), title="late", pool="all nights"
    )
    table = tables([first, second, saved(student=("11110000",))])[0]
    assert [row[0] for row in table.rows] == ["night", "late", "all nights", "night"]
    both = pooled([first, second])
    assert both.groups == tuple("aabbccdd" * 2)
    assert both.variants["student"].hits == {"0": "1111000011000000"}
    assert set(both.variants) == {"student", "baseline"}
    assert (both.labels, both.class_names) == (first.labels * 2, first.class_names)
    old = dataclasses.replace(second, labels=(), class_names=())
    assert (pooled([first, old]).labels, pooled([old, first]).class_names) == ((), ())
    assert difference(both, "student", "baseline").mean == 1 / 16
    assert difference(both, "student", "baseline").groups == 4
    assert (both.train_clips, both.commit, both.recipes) == (20, "abc", 2)
    more = pooled([first, dataclasses.replace(second, commit="def", hardware="b", recipes=5, mean_luma=60.0)])
    assert (more.commit, more.hardware, more.recipes) == ("abc; def", "a machine; b", 5)
    assert more.mean_luma == (first.mean_luma + 60) / 2
    other = Trained(stage="student", changes=("student.lr=2",), seconds=1, hits={"0": "11000000"})
    for change, said in (
        ({"class_names": tuple("abcd")}, "late: classes: found a, b, c, d, wanted those of night, Drink, Jump, Run, W"),
        ({"classes": 5}, "late: found test clips of 5 classes, wanted those of night, test and 4"),
        ({"settings": {"student": {"lr": 2}}}, "late: settings: found student.lr: 2, wanted student.lr: None of night"),
        ({"variants": second.variants | {"student": other}}, "late: student: found student with"),
    ):
        with pytest.raises(ValueError, match=said):
            pooled([first, dataclasses.replace(second, **change)])


def test_trainings_of_several_machines_come_together_in_one_file():
    one = saved(student=("11110000", "11111111"), baseline=("11110000",))
    more = Trained(stage="student", changes=(), seconds=100.0, hits={"1": "11111111", "7": "00001111"})
    other = dataclasses.replace(
        one, commit="def; abc", hardware="another", recipes=4, variants={"student": more, "shuffled": more}
    )
    both = added(one, other)
    assert both.variants["student"].hits == {"0": "11110000", "1": "11111111", "7": "00001111"}
    assert both.variants["student"].seconds == 1800 + 50  # seed 1 is not paid twice
    assert both.variants["baseline"] == one.variants["baseline"]
    assert both.variants["shuffled"] == more
    assert (both.commit, both.hardware, both.recipes) == ("abc; def", "a machine; another", 4)
    assert added(both, both) == both


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subset": "holdout"}, "subset: found holdout, wanted test"),
        ({"classes": 5}, "classes: found 5, wanted 4"),
        ({"train_clips": 21}, "training clips: found 21, wanted 20"),
        ({"groups": tuple("aabbccde")}, "scenes: found 5 of 8 clips, wanted those of the file"),
        ({"clips_sha256": "1" * 64}, "ids, labels and subsets: found 111111111111, wanted 000000000000"),
        ({"mean_luma": 11.3}, "mean luma: found 11.3, wanted 8 of the file; these are the same clips in other light"),
        ({"settings": {"student": {"lr": 2}}}, r"settings: found student\.lr: 2, wanted student\.lr: 1 of the file"),
        ({"settings": {}}, r"settings: found student\.lr: None, wanted student\.lr: 1 of the file"),
        (
            {"variants": {"student": Trained(stage="student", changes=("a",), seconds=1, hits={})}},
            r"student: found student with \['a'\], wanted student with \[\], as elsewhere under this name",
        ),
        (
            {"variants": {"student": Trained(stage="student", changes=(), seconds=1, hits={"0": "0" * 8})}},
            "student, seed 0: found",
        ),
    ],
)
def test_trainings_of_another_study_are_not_added(change, said):
    kept = dataclasses.replace(saved(student=("11110000",)), settings={"student": {"lr": 1, "seed": 3}})
    other = {"student": {"lr": 1, "seed": 4}, "compute": {"threads": 3}, "evaluate": {"bootstrap": 5}}
    assert added(kept, dataclasses.replace(kept, settings=other, mean_luma=8.04)).variants == kept.variants
    with pytest.raises(ValueError, match=r"settings: found prepare\.seed: 4, wanted prepare\.seed: None"):
        added(kept, dataclasses.replace(kept, settings=kept.settings | {"prepare": {"seed": 4, "max_seconds": 9}}))
    with pytest.raises(ValueError, match=r"settings: found evaluate\.crops: five, wanted evaluate\.crops: None"):
        added(kept, dataclasses.replace(kept, settings=kept.settings | {"evaluate": {"crops": "five"}}))
    with pytest.raises(ValueError, match=said):
        added(kept, dataclasses.replace(kept, **change))


def test_a_clip_without_a_scene_is_its_own_and_not_named(study):
    clips = [dataclasses.replace(clip, scene=clip.id) for clip in study.clips()]
    groups = _groups(clips, {})
    assert len(set(groups)) == len(clips)
    assert not any(clip.id in group or group in clip.id for clip, group in zip(clips, groups, strict=True))
    assert all(group.startswith("clip:") for group in groups)
    assert _groups(clips, {clips[0].id: "yard"})[0] == "yard"


def test_a_study_reads_back_and_a_damaged_file_is_named(tmp_path):
    path, found = tmp_path / "night.json", saved(student=("11110000",))
    write(path, found)
    assert read(path) == found
    sound = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in sound.items() if name not in SINCE}))
    assert read(path) == dataclasses.replace(found, labels=(), class_names=())  # as earlier versions wrote it
    for change, said in (
        ({"variants": {"student": {"hits": {}}}}, "is no study"),
        ({"variants": []}, "is no study"),
        ({"groups": ["a", "b"]}, "holds no hits of 2 clips"),
        ({"labels": [0]}, "labels: found 1 of 4 names, wanted one of each of 8 clips, among 4 classes"),
        ({"labels": [4] * 8}, "labels: found 8 of 4 names"),
        ({"labels": [[0]] * 8}, "is no study"),
        ({"labels": [0.0] * 8}, "is no study"),
        ({"class_names": []}, "labels: found 8 of 0 names"),
        (
            {"variants": {"student": {"stage": "student", "changes": [], "seconds": 1, "hits": {"0": "1111000x"}}}},
            "holds no hits of 8",
        ),
        (
            {"variants": {"student": {"stage": "student", "changes": [], "seconds": 1, "hits": {"x": "11110000"}}}},
            "student, seed x",
        ),
    ):
        path.write_text(json.dumps(sound | change))
        with pytest.raises(ValueError, match=rf"night\.json: .*{said}.*; save the study again"):
            read(path)


def test_scenes_come_from_a_table_where_names_do_not_tell_them(study, tmp_path):
    train(study, [VARIANTS["baseline"]], [0, 1])
    clips = study.clips()
    table = tmp_path / "scenes.tsv"
    table.write_text("path\tclass\tscene\n" + "".join(f"{clip.id}\tx\tone\n" for clip in clips[:5]))
    found = gather(study, WORDS, scenes=read_scenes(table))
    assert found.groups[:5] == ("one",) * 5
    assert len(set(gather(study, WORDS, scenes={}).groups)) == len({clip.scene for clip in clips})
    right = sum(answer == clip.label for answer, clip in zip(answers(study, "baseline", 1), clips, strict=True))
    assert found.variants["baseline"].hits["1"].count("1") == right
    for text, said in (("a,b\n", "found the columns"), ("", "found the columns")):
        table.write_text(text)
        with pytest.raises(ValueError, match=rf"scenes\.tsv: {said}"):
            read_scenes(table)
    table.write_bytes(b"path\xff")
    with pytest.raises(ValueError, match=r"scenes\.tsv: is no UTF-8"):
        read_scenes(table)
    shutil.rmtree(study.root)
    with pytest.raises(ValueError, match=r"study/test: holds no training; run `dlkdd study run demo`"):
        gather(study, WORDS, scenes={})


def test_the_commands_train_save_and_print(study, monkeypatch):
    monkeypatch.chdir(study.params.parent)
    for command in (
        ["study", "run", "demo", "--seeds", "0", "--variant", "baseline"],
        ["study", "run", "demo", "--seeds", "0", "--variant", "free student student.kd_weight=0"],
        ["study", "save", "demo", "studies/night.json", "--title", "the night", "--recipes", "3"],
        ["study", "save", "demo", "studies/night.json", "--note", "seen", "--add"],
        ["table", "--studies", "studies"],
        ["table", "--studies", "studies", "--format", "latex"],
    ):
        result = CliRunner().invoke(cli, command)
        assert result.exit_code == 0, (result.output, result.exception)
    assert "the night" in result.output
    found = read(study.params.parent / "studies/night.json")
    # what was said before stays
    assert found.words() == Words(title="the night", note="seen", pool="", recipes=3)
    # without soft targets the student is the baseline
    assert found.variants["free"].hits == found.variants["baseline"].hits
    assert found.variants["free"].changes == ("student.kd_weight=0",)
    assert f", {torch.backends.cpu.get_cpu_capability()}, 1 thread, fp32" in found.hardware
    assert CliRunner().invoke(cli, ["table", "--studies", "studies", "demo"]).exit_code == 2
    assert CliRunner().invoke(cli, ["table", "--paper", "--into", "a.md"]).exit_code == 2
    document = Path("a.md")
    document.write_text("before\n<!-- studies -->\nold\n<!-- end studies -->\nafter\n")
    shown = CliRunner().invoke(cli, ["table", "--studies", "studies", "--into", "a.md"]).output
    assert document.read_text() == f"before\n<!-- studies -->\n{shown}<!-- end studies -->\nafter\n"
    document.write_text("<!-- night by class -->\n<!-- end night by class -->\n")
    words = ["table", "--studies", "studies/night.json", "--by-class", "--into", "a.md"]
    shown = CliRunner().invoke(cli, words).output
    assert document.read_text() == f"<!-- night by class -->\n{shown}<!-- end night by class -->\n"
    tested = [clip.label for clip in study.clips()]
    assert found.labels == tuple(tested)
    assert [row.split(" | ")[1] for row in shown.splitlines() if row.startswith("| the night")] == [
        name for label, name in enumerate(found.class_names) if label in tested
    ]
    result = CliRunner().invoke(cli, ["table", "--by-class"])
    assert (result.exit_code, "--by-class goes with --studies" in result.output) == (2, True)


def test_a_saved_study_names_no_folder_of_its_machine(study, tmp_path):
    weights = tmp_path / "mine.safetensors"
    train(study, [VARIANTS["baseline"]], [0])
    shutil.copy(study.root / "trained/baseline-0/baseline.safetensors", weights)
    shutil.rmtree(study.root)
    params = YAML(typ="safe").load(study.params.read_text())
    params["teacher"]["weights"] = str(weights)
    presets.write_params(study.params, params, name="demo", force=True)
    train(study, [variant_of(f"mine baseline student.weights={weights}")], [0])
    write(tmp_path / "a.json", gather(study, WORDS, scenes={}))
    text = (tmp_path / "a.json").read_text()
    assert str(weights.parent) not in text
    assert "student.weights=mine.safetensors" in text
    assert '"weights": "mine.safetensors, sha256 ' in text


def test_trainings_of_other_settings_or_clips_are_not_saved_together(study):
    train(study, [VARIANTS["baseline"]], [0])
    kept = study.record("baseline", 0)
    record, params = json.loads(kept.read_text()), YAML(typ="safe").load(study.params.read_text())
    other = copy.deepcopy(params)
    other["student"]["lr"] = 0.5
    presets.write_params(study.params, other, name="demo", force=True)
    with pytest.raises(
        ValueError, match=r"baseline/0\.json: student\.lr: was trained with 0\.\d+, found 0\.5 now; set"
    ):
        gather(study, WORDS, scenes={})
    presets.write_params(study.params, params, name="demo", force=True)
    assert gather(study, WORDS, scenes={}).settings["student"]["lr"] == params["student"]["lr"]
    with pytest.raises(ValueError, match=r"scenes: found none of the \d+ clips, wanted paths such as"):
        gather(study, WORDS, scenes={"elsewhere.mp4": "one"})
    train(study, [variant_of("mine baseline student.lr=0.002")], [0])
    train(study, [variant_of("mine baseline student.lr=0.001")], [1])
    with pytest.raises(ValueError, match=r"mine, seed 1: found baseline with .*; remove it to train again"):
        gather(study, WORDS, scenes={})
    kept.write_text(json.dumps({key: value for key, value in record.items() if key != "hardware"}))
    with pytest.raises(ValueError, match=r"0\.json: found no hardware; remove it to train again"):
        gather(study, WORDS, scenes={})


def test_held_out_clips_choose_no_epoch_of_what_they_measure(study):
    with (study.clip_index).open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = next(number for number, row in enumerate(rows) if row["subset"] == "train")
    rows[first]["subset"] = "holdout"
    with (study.clip_index).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    params = YAML(typ="safe").load(study.params.read_text())
    params["prepare"]["holdout"] = 1
    presets.write_params(study.params, params, name="demo", force=True)
    study = dataclasses.replace(study, subset="holdout")
    with pytest.raises(ValueError, match=r"student\.select: best picks the epoch on the held-out clips"):
        train(study, [variant_of("best baseline student.select=best")], [0])
    train(study, [VARIANTS["baseline"]], [0])
    assert len(answers(study, "baseline", 0)) == 1


@pytest.mark.parametrize(("text", "numbers"), [("0-3", [0, 1, 2, 3]), ("5", [5]), ("1,4-5,1", [1, 4, 5])])
def test_seeds_are_numbers_and_ranges(text, numbers):
    assert numbers_in(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-3", "3-1", "1,,2"])
def test_other_seeds_are_wrong_usage(text):
    result = CliRunner().invoke(cli, ["study", "run", "demo", "--seeds", text])
    assert result.exit_code != 0

"""What benchmarks/studies.py compares, without training it."""

import csv
import dataclasses
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import studies  # noqa: E402 (benchmarks are no package)
from click.testing import CliRunner  # noqa: E402

from pipeline import presets  # noqa: E402
from pipeline.studies.variants import settings_for, variant_of  # noqa: E402


def test_every_study_can_be_written_as_parameters():
    for plan in studies.PLANS.values():
        params = presets.demo() if plan.preset == "demo" else presets.tiny()
        changed = presets.override(params, plan.settings)
        assert set(changed) == set(params)
        assert studies.numbers_in(plan.seeds)
        assert (plan.subset == "holdout") == (changed["prepare"]["holdout"] > 0)


@pytest.mark.parametrize("path", sorted((ROOT / "docs/results").glob("*/*.json")), ids=lambda path: path.stem)
def test_a_saved_study_can_be_added_to_by_its_plan(path):
    """Its settings are still those of the saved trainings, but for files of this and that machine."""
    if path.stem not in studies.PLANS:
        pytest.skip("no plan has this name")
    plan, saved = studies.PLANS[path.stem], json.loads(path.read_text(encoding="utf-8"))
    for words in ("title", "note", "pool", "recipes"):
        assert saved[words] == getattr(plan, words)
    rendered = plan.preset == "demo"
    params = presets.demo() if rendered else presets.set_size(presets.tiny(), 64)
    params["views"]["flip"] = "--no-flip" not in plan.use
    params = presets.override(params, plan.settings)
    for section in ("views", "enhancer", "teacher", "logits", "student", *(("render", "prepare") if rendered else ())):
        kept = {key: value for key, value in saved["settings"][section].items() if key != "weights"}
        assert kept == {
            key: value for key, value in json.loads(json.dumps(params[section])).items() if key != "weights"
        }


def test_recipes_are_chosen_on_clips_that_no_study_tests():
    """Rendered ones on other clips in training scenes, real ones on the scene that every split trains on."""
    recipe, rendered = studies.PLANS["recipe-rendered"], studies.PLANS["rendered-5"]
    seeds = [presets.override(presets.demo(), plan.settings)["render"]["seed"] for plan in (recipe, rendered)]
    assert len({*seeds, presets.demo()["render"]["seed"]}) == 3
    baselines = [variant_of(text).stage for text in recipe.variants].count("baseline")
    assert baselines == rendered.recipes
    assert recipe.subset == "holdout"
    assert rendered.subset == "test"
    assert studies.PLANS["recipe-egogest"].apart == "sc03"


def test_no_name_is_refused():
    result = CliRunner().invoke(studies.main, [])
    assert result.exit_code == 2
    assert "wanted the name of a study" in result.output


def test_a_scene_is_set_apart_whole(tmp_path):
    (tmp_path / "scenes.tsv").write_text("path\tclass\tscene\na/1.mp4\ta\tsc03\na/2.mp4\ta\tsc01\nb/1.mp4\tb\tsc03\n")
    (tmp_path / "split1_train.txt").write_bytes(b"0\t0\ta/1.mp4\r\n1\t0\ta/2.mp4\r\n2\t1\tb/1.mp4\r\n")
    place = tmp_path / "place"
    place.mkdir()
    train, apart = studies.set_apart(studies.PLANS["recipe-egogest"], tmp_path, place)
    assert train.read_text() == "1\t0\ta/2.mp4\n"
    assert apart.read_text() == "0\t0\ta/1.mp4\n2\t1\tb/1.mp4\n"


def test_no_test_list_of_the_real_gestures_holds_the_scene_of_the_recipes(egogest10):
    with (egogest10 / "scenes.tsv").open(newline="") as file:
        apart = {row["path"] for row in csv.DictReader(file, delimiter="\t") if row["scene"] == "sc03"}
    assert len(apart) > 30
    for split in (1, 2, 3):
        tested = {line.split("\t")[2] for line in (egogest10 / f"split{split}_test.txt").read_text().splitlines()}
        assert not tested & apart


def test_a_study_of_other_settings_is_not_gone_on_with(tmp_path):
    plan = studies.PLANS["rendered-5"]
    (tmp_path / "made_for.json").write_text("[]")
    with pytest.raises(SystemExit, match="holds this study with other settings; remove it"):
        studies.prepare(plan, tmp_path, None, ())


def test_a_study_goes_on_when_its_words_or_variants_change(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "dlkdd", lambda *words, cwd: None)
    plan = studies.PLANS["rendered-5"]
    studies.prepare(plan, tmp_path, None, ())
    studies.prepare(dataclasses.replace(plan, note="new", title="new", recipes=9, seeds="0"), tmp_path, None, ())
    for other in ({"settings": ()}, {"use": ("--no-flip",)}, {"exposure": -1}, {"lists": ("a", "b")}, {"apart": "sc"}):
        with pytest.raises(SystemExit, match="other settings"):
            studies.prepare(dataclasses.replace(plan, **other), tmp_path, None, ())
    with pytest.raises(SystemExit, match="other settings"):
        studies.prepare(plan, tmp_path, None, ("student.weights=a",))


def test_whole_studies_or_single_variants_start_from_the_pretrained_network(monkeypatch, tmp_path):
    """Without training: what is prepared, and which variants are trained then."""
    prepared, trained = {}, {}
    monkeypatch.setattr(studies, "pretrained", lambda folder, name: folder / name / "weights.safetensors")
    monkeypatch.setattr(
        studies, "prepare", lambda plan, place, root, more: prepared.update({plan.name: more}) or "night"
    )
    monkeypatch.setattr(
        studies, "train", lambda run, place, seeds, variants, *_: trained.update({place.name: variants})
    )
    monkeypatch.setattr(studies, "dlkdd", lambda *words, cwd: None)
    folder = tmp_path / "studies"
    options = ["--root", tmp_path, "--folder", folder, "--into", tmp_path / "saved"]
    result = CliRunner().invoke(studies.main, ["recipe-egogest", "egogest-8-1", "lit-egogest-5-1", *map(str, options)])
    assert result.exit_code == 0, result.output
    weights, lit = (str(folder / name / "weights.safetensors") for name in (studies.PRETRAINED, studies.LIT))
    assert prepared == {
        "recipe-egogest": (),
        "egogest-8-1": (f"teacher.weights={weights}", f"student.weights={weights}"),
        "lit-egogest-5-1": (f"teacher.weights={lit}", f"student.weights={lit}"),
    }
    recipes = [variant_of(text) for text in trained["recipe-egogest"]]
    starts = {
        recipe.name: settings_for(presets.tiny(), recipe.changes, seed=0).values["student"]["weights"]
        for recipe in recipes
    }
    assert starts == {name: weights if "pretrained" in name else None for name in starts}
    assert len(starts) == studies.PLANS["egogest-8-1"].recipes
    assert trained["egogest-8-1"] == list(studies.MAIN)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--only"], "--only: wanted a --variant"), (["--seeds", "3-1"], "--seeds 3-1: holds no number")],
)
def test_wrong_usage_is_refused_before_anything_is_prepared(words, said, monkeypatch):
    monkeypatch.setattr(studies, "prepare", lambda *_: pytest.fail("prepared"))
    result = CliRunner().invoke(studies.main, ["rendered-5", *words])
    assert result.exit_code == 2
    assert said in result.output

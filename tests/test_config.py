import re

import pytest
from ruamel.yaml import YAML

from pipeline import presets
from pipeline.config import (
    MODELS,
    SECTION_TYPES,
    BaselineConfig,
    ComputeConfig,
    EnhancerConfig,
    StudentConfig,
    TeacherConfig,
    ViewsConfig,
    plain,
)
from pipeline.models.classifier import TRUNKS
from pipeline.params import parse, read_inputs, read_params, read_section


def write(path, **changes):
    presets.write_params(path, presets.demo(), name="demo", force=True)
    params = YAML(typ="safe", pure=True).load(path.read_text())
    for section, values in changes.items():
        if isinstance(values, dict):
            params[section] |= values
        else:
            params[section] = values
    with path.open("w") as file:
        YAML(typ="safe", pure=True).dump(params, file)
    return path


@pytest.mark.parametrize("section", SECTION_TYPES)
def test_every_section_reads_back_as_it_was_written(tmp_path, section):
    path = write(tmp_path / "params.yaml")
    assert plain(read_section(path, SECTION_TYPES[section])) == presets.demo()[section]


def test_the_baseline_reads_the_students_section_without_the_soft_targets(tmp_path):
    path = write(tmp_path / "params.yaml")
    extra = ("kd_weight", "kd_decay", "temperature", "scale_by_temperature_squared", "soft_targets", "pixel_check")
    baseline = read_section(path, BaselineConfig, extra=extra)
    assert plain(baseline) == {key: value for key, value in presets.demo()["student"].items() if key not in extra}
    with pytest.raises(ValueError, match="unknown key 'kd_"):
        read_section(path, BaselineConfig)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (StudentConfig, {"temprature": 5.0}, r"student: unknown key 'temprature'; known keys are model.*temperature"),
        (StudentConfig, {"epochs": "ten"}, r"student\.epochs: found 'ten' \(str\), wanted int"),
        (StudentConfig, {"epochs": True}, r"student\.epochs: found True \(bool\), wanted int"),
        (StudentConfig, {"epochs": 2.5}, r"student\.epochs: found 2\.5 \(float\), wanted int"),
        (StudentConfig, {"epochs": 0}, r"student\.epochs: found 0, wanted at least 1"),
        (StudentConfig, {"lr": None}, r"student\.lr: found None"),
        (StudentConfig, {"lr": float("nan")}, r"student\.lr: found nan, wanted a number"),
        (StudentConfig, {"temperature": 0}, r"student\.temperature: found 0\.0, wanted more than 0"),
        (StudentConfig, {"kd_decay": 1.5}, r"student\.kd_decay: found 1\.5, wanted 0 to 1"),
        (StudentConfig, {"kd_decay": 0.0}, r"student\.kd_decay: found 0\.0, wanted more than 0"),
        (StudentConfig, {"micro_batches": 0}, r"student\.micro_batches: found 0, wanted at least 1"),
        (TeacherConfig, {"micro_batches": 3}, r"teacher\.micro_batches: found 3, wanted a divisor of .*batch_size 8"),
        (StudentConfig, {"micro_batches": 16}, r"student\.micro_batches: found 16, wanted a divisor of .*batch_size 8"),
        (ComputeConfig, {"precision": "fp16"}, r"compute\.precision: found 'fp16', wanted one of fp32, bf16"),
        (
            ComputeConfig,
            {"checkpoint_activations": 1},
            r"compute\.checkpoint_activations: found 1 \(int\), wanted bool",
        ),
        (TeacherConfig, {"model": "r2plus1d_tny"}, r"teacher\.model: found 'r2plus1d_tny', wanted one of r2plus1d_18"),
        (TeacherConfig, {"head": "bert"}, r"teacher\.head: found 'bert', wanted one of attention, average"),
        (ViewsConfig, {"frame_size": [64]}, r"views\.frame_size: found \[64\], wanted a list of 2"),
        (ViewsConfig, {"size": 99}, r"views\.size: found 99, wanted 1 to the short side"),
        (ViewsConfig, {"scales": []}, r"views\.scales: found none"),
        (EnhancerConfig, {"on": "never"}, r"enhancer\.on: found 'never', wanted one of frame, view"),
    ],
)
def test_bad_values_name_place_found_and_wanted(kind, changes, message):
    section = kind.__name__.removesuffix("Config").lower()
    with pytest.raises(ValueError, match=message):
        parse(kind, presets.demo()[section] | changes, where=section)


def test_the_known_models_are_those_that_can_be_built():
    assert set(MODELS) == set(TRUNKS)


def test_combinations_that_would_fail_late_are_refused_at_once(tmp_path):
    for section, values, message in (
        ("views", {"mode": "fixed"}, r"logits\.views: views\.mode: fixed has one view"),
        ("student", {"select": "best"}, r"student\.select: best needs held-out scenes"),
    ):
        params = presets.demo()
        params[section] |= values
        with pytest.raises(ValueError, match=message):
            presets.write_params(tmp_path / "params.yaml", params, name="demo", force=False)


def test_a_missing_key_is_named():
    values = presets.demo()["student"]
    del values["lr"]
    with pytest.raises(ValueError, match="student: key 'lr' is missing; known keys are model"):
        parse(StudentConfig, values, where="student")


def test_files_that_are_no_parameters_are_refused(tmp_path):
    path = tmp_path / "params.yaml"
    with pytest.raises(ValueError, match="no such file; run `dlkdd use demo`"):
        read_params(path)
    for text, message in {
        "a: [": "is no YAML",
        "- 1": "found list, wanted a mapping",
        "x: 1": "unknown section 'x'",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            read_params(path)
    with pytest.raises(ValueError, match=r"found runs \['other'\].*inputs of \['demo'\]"):
        read_params(write(path, runs=["other"], rendered=[]))
    with pytest.raises(ValueError, match=r"inputs: no run 'night'; known runs are demo"):
        read_inputs(write(path), "night")


def test_plain_words_stay_words_and_short_numbers_numbers(tmp_path):
    path = tmp_path / "params.yaml"
    presets.write_params(path, presets.demo(), name="demo", force=True)
    text = path.read_text().replace("on: frame", "on: view").replace("lr: 0.004", "lr: 2e-3")
    path.write_text(text)
    assert read_section(path, EnhancerConfig).on == "view"
    assert read_section(path, TeacherConfig).lr == 0.002


def test_values_that_nobody_chose_follow_the_teachers_input_and_the_backbone():
    def settled(chosen=(), **teacher):
        params = presets.paper()
        params["teacher"] |= teacher
        return presets.settle(params, chosen)

    assert settled()["enhancer"]["name"] == "zero_dce"
    assert settled(input="both")["enhancer"]["name"] == "gamma"  # DarkLight's
    assert settled(input="dark")["enhancer"]["name"] == "none"
    assert settled(("enhancer.name",), input="both")["enhancer"]["name"] == "zero_dce"
    assert settled()["teacher"]["normalization"] == "kinetics"
    assert settled(model="swin3d_b")["teacher"]["normalization"] == "imagenet"
    assert settled(("teacher.normalization",), model="swin3d_b")["teacher"]["normalization"] == "kinetics"


def test_an_enhancer_without_weights_cannot_be_unfrozen(tmp_path):
    params = presets.paper()
    params["teacher"]["unfreeze_enhancer"], params["enhancer"]["name"] = True, "lime"
    with pytest.raises(ValueError, match=r"true has nothing to train in enhancer\.name: lime"):
        presets.write_params(tmp_path / "params.yaml", params, name="arid", force=False)

"""Small files of values by name, json and YAML: what is none of them is refused by its name, with what to do."""

import contextlib
import dataclasses
import json

import pytest
import torch
from fuzz_bytes import any_file
from fuzz_cases import CASES, fuzzed, new_reader, printed_readers
from fuzz_weights import record_of, with_record
from hypothesis import given

from pipeline.clips.darkened_folder import darken_video_folder
from pipeline.clips.video import VideoInfo
from pipeline.dvc_lock import read_lock
from pipeline.enhancers.build import build_enhancer
from pipeline.mapping_file import MAX_DEPTH, parse_yaml, read_json, read_yaml
from pipeline.presets import demo, override
from pipeline.tables.run_table import DIFFERENCES, FIGURES, MODELS, TIMINGS, read_metrics, read_results
from pipeline.training.checkpoint import Record, save_checkpoint
from pipeline.training.classification import read_statistics
from pipeline.training.loaded_enhancer import load_enhancer
from stages.prepare import probe_all

MISREAD = ("{", "[" * 100_000, "\ufeff\x00", "9" * 5000)
LOCK = """schema: '2.0'
stages:
  student@demo:
    cmd: dlkdd student
    deps: [{path: code.py, hash: md5, md5: 0f0f, size: 5}]
    params: {params.yaml: {student.lr: 0.001}}
    outs: [{path: model.bin, hash: md5, md5: 0f, size: 9}]
"""


@pytest.fixture(scope="module", autouse=True)
def _counts():
    with printed_readers():
        yield


def test_json_and_yaml_give_what_they_hold(tmp_path):
    path = tmp_path / "a"
    path.write_text('{"mean": [1, 2.5], "on": true}')
    wanted = {"mean": [1, 2.5], "on": True}
    assert read_json(path, remedy="", keys=("mean", "on")) == read_yaml(path, remedy="") == wanted
    path.write_text("")
    assert read_yaml(path, remedy="") == {}
    # 1.2 and not 1.1, as DVC reads it
    assert parse_yaml("{on: on, lr: 1e-3, no: 0o17}") == {"on": "on", "lr": 1e-3, "no": 15}
    assert parse_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@pytest.mark.parametrize("text", [*MISREAD, "[]", "3", "null", '{"a": 1}'])
def test_what_is_no_json_of_the_keys_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: (is no json|found (no b$|\w+, wanted an object)).*|; do this$"):
        read_json(path, remedy="do this", keys=("b",))
    path.write_bytes(b"\xff{}")
    with pytest.raises(ValueError, match=r"a\.json: is no json .*utf-8.*; do this"):
        read_json(path, remedy="do this")
    path.unlink()
    with pytest.raises(ValueError, match=r"a\.json: no such file; do this"):
        read_json(path, remedy="do this")


@pytest.mark.parametrize(
    "text", [*MISREAD[:2], "[]", "a: {<<: {b: 1}}", "a: !!timestamp 2001-99-99", "[" * (MAX_DEPTH + 1), "a: !!int x"]
)
def test_what_is_no_mapping_in_yaml_is_refused(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"(?s)a\.yaml: (is no YAML|found list, wanted a mapping).*; do this"):
        read_yaml(path, remedy="do this")
    path.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match=r"a\.yaml: is no YAML .*utf-8.*; do this"):
        read_yaml(path, remedy="do this")


@pytest.mark.parametrize("text", ["2001-99-99", "!!int x", "[" * 1000, "!!bool x", "9" * 5000])
def test_a_set_value_that_is_no_yaml_is_refused_by_its_assignment(text):
    with pytest.raises(ValueError, match=r"--set student\.epochs=.*: the value is no YAML"):
        override(demo(), [f"student.epochs={text}"])


def test_a_lock_gives_its_stages_and_one_that_is_none_is_refused_by_the_stage(tmp_path):
    path = tmp_path / "dvc.lock"
    path.write_text(LOCK)
    assert read_lock(path)["student@demo"]["outs"] == [{"path": "model.bin", "hash": "md5", "md5": "0f", "size": 9}]
    for old, new in (
        ("[{path: code.py, hash: md5, md5: 0f0f, size: 5}]", "5"),
        ("path: code.py", "path: 5"),
        ("[{path: model.bin", "[7, {path: model.bin"),
        ("md5: 0f,", "md5: [],"),
        ("{params.yaml: {student.lr: 0.001}}", "{params.yaml: 3}"),
        ("{params.yaml: {student.lr: 0.001}}", "[]"),
    ):
        assert old in LOCK
        path.write_text(LOCK.replace(old, new))
        with pytest.raises(ValueError, match=r"dvc\.lock: student@demo: is no finished stage; a kill tears it"):
            read_lock(path)
    for cut in range(LOCK.index("outs"), len(LOCK)):  # a kill while DVC writes: refused, or what is there is whole
        path.write_text(LOCK[:cut])
        with contextlib.suppress(ValueError):
            assert all(entry["md5"] for entry in read_lock(path)["student@demo"].get("outs", []))
    path.write_text("stages: []")
    with pytest.raises(ValueError, match=r"dvc\.lock: stages: found list, wanted a mapping"):
        read_lock(path)


def whole_metrics():
    figures = dict.fromkeys(FIGURES, 0.5)
    others = {f"student_minus_{other}": dict.fromkeys(DIFFERENCES, 0.1) for other in ("baseline", "teacher")}
    return {"n": 4, **dict.fromkeys(MODELS, figures), **others}


@pytest.mark.parametrize("name", [*MODELS, "student_minus_baseline", "student_minus_teacher"])
def test_metrics_without_a_figure_are_refused_by_its_name(tmp_path, name):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(whole_metrics()))
    assert read_metrics(path) == whole_metrics()
    key = (FIGURES if name in MODELS else DIFFERENCES)[-1]
    figures = {other: value for other, value in whole_metrics()[name].items() if other != key}
    for found in (figures, None, [key]):
        path.write_text(json.dumps(whole_metrics() | {name: found}))
        with pytest.raises(ValueError, match=rf"metrics\.json: {name}: found no .*{key}; run `dvc repro`"):
            read_metrics(path)
    path.write_text('{"n": 0}')
    assert read_metrics(path) == {"n": 0}


def test_a_run_whose_timings_lack_a_figure_is_refused_by_the_file(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(whole_metrics()))
    (tmp_path / "statistics.json").write_text('{"leaks": {}}')
    for model in MODELS:
        (tmp_path / f"{model}_timings.json").write_text(json.dumps(dict.fromkeys(TIMINGS, 1)))
    assert read_results(tmp_path, "night")["metrics"]["n"] == 4
    (tmp_path / "student_timings.json").write_text('{"seconds": 3}')
    with pytest.raises(ValueError, match=r"student_timings\.json: found no peak_memory_bytes; run `dvc repro`"):
        read_results(tmp_path, "night")


@pytest.mark.parametrize("value", [[1, 2], "abc", None, [1, 2, "3"], [1, 2, True], {"r": 1}, [[1, 2, 3]]])
def test_statistics_without_three_numbers_are_refused_by_key(tmp_path, value):
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps({"mean": [0.1, 0.2, 0], "std": [1, 2, 3.5]}))
    assert read_statistics(path) == ([0.1, 0.2, 0], [1, 2, 3.5])
    path.write_text(json.dumps({"mean": [0.1, 0.2, 0], "std": value}))
    with pytest.raises(ValueError, match=r"statistics\.json: std: found .*, wanted three numbers; run `dlkdd prepare`"):
        read_statistics(path)


@pytest.mark.parametrize(
    "line", ["{", "[]", "5", '{"listed": "a"}', "[" * 100_000, json.dumps({"listed": 5}), "\udcff"]
)
def test_a_journal_that_prepare_did_not_write_is_refused_by_line(tmp_path, line):
    journal = tmp_path / "probed.jsonl"
    names = ["listed", "stamp", "id", "sha256", *(field.name for field in dataclasses.fields(VideoInfo))]
    sound = json.dumps(dict.fromkeys(names, "a"))
    journal.write_text(f"{sound}\n")
    assert probe_all([], look=None, journal=journal) == ({}, {})
    journal.write_text(f"{sound}\n{line}\n", errors="surrogateescape")
    with pytest.raises(ValueError, match=r"probed\.jsonl, line 2: (is no json|found no probed video).*; delete it"):
        probe_all([], look=None, journal=journal)
    assert len(journal.read_bytes().splitlines()) == 2


def test_a_folder_with_another_record_of_darkening_is_refused_by_the_record(tmp_path, make_video):
    make_video(tmp_path / "lit/a.mp4")
    (tmp_path / "dark").mkdir()
    for text, said in (("[]", "found list, wanted an object"), ("{}", "found no settings"), ("{", "is no json")):
        (tmp_path / "dark/darken.json").write_text(text)
        with pytest.raises(ValueError, match=rf"darken\.json: {said}.*; use another folder"):
            darken_video_folder(tmp_path / "lit", tmp_path / "dark", exposure_ev=-3.0, seed=0)


def write_enhancer(path, name="zero_dce"):
    record = Record(kind="enhancer", class_names=(), model={"name": name}, preprocessing=None, settings={}, metrics={})
    save_checkpoint(path, build_enhancer("zero_dce").state_dict(), record)
    return path


def test_an_enhancer_is_loaded_and_one_of_another_record_refused_by_name(tmp_path):
    path = write_enhancer(tmp_path / "enhancer.safetensors")
    enhancer, record = load_enhancer(path)
    assert record.model == {"name": "zero_dce"}
    assert not enhancer.training
    for name, tensor in build_enhancer("zero_dce").state_dict().items():
        assert torch.equal(enhancer.state_dict()[name], tensor)
    whole = record_of(path.read_bytes())
    for model, said in (
        ({"name": "sun"}, "record.model: enhancer.name: unknown name 'sun'"),
        ({"name": 5}, "record.model.name: found 5, wanted str"),
        ({}, "record.model: found no name"),
        ({"name": "gamma", "gamma": -1.0}, "record.model: .*gamma"),
        ({"name": "gamma"}, "found shape .*, wanted no such entry"),
    ):
        path.write_bytes(with_record(path.read_bytes(), whole | {"model": model}))
        with pytest.raises(ValueError, match=rf"enhancer\.safetensors: .*{said}"):
            load_enhancer(path)


def test_fuzzed_files_of_a_run_give_their_values_or_an_error(tmp_path):
    lock, metrics, path = new_reader("dvc.lock"), new_reader("metrics.json"), tmp_path / "file"

    @fuzzed()
    @given(any_file([LOCK.encode()]))
    def read_locks(data):
        path.write_bytes(data)
        for stage in (lock.read(path, lambda: read_lock(path)) or {}).values():
            assert all(isinstance(entry["path"], str) for entry in (*stage.get("deps", []), *stage.get("outs", [])))

    @fuzzed()
    @given(any_file([json.dumps(whole_metrics()).encode()]))
    def read_figures(data):
        path.write_bytes(data)
        found = metrics.read(path, lambda: read_metrics(path))
        assert found is None or not found["n"] or all(set(FIGURES) <= set(found[model]) for model in MODELS)

    read_locks()
    read_figures()
    assert min(lock.cases, metrics.cases) >= CASES

"""What fuzzing found: inputs that once ended a reader with another error than its own, hung it or passed it by."""

import io
import json
import os
import shutil
import zipfile

import h5py
import pytest
import torch
from fuzz_cases import Reader
from fuzz_stores import write_store
from fuzz_texts import CLIPS
from fuzz_weights import STATE, put_together, record_of, saved, with_record
from random_checkpoint import write_checkpoint
from safetensors.torch import save_file

from pipeline import presets
from pipeline.clips.clip_index import read_clips
from pipeline.clips.lists import read_class_table, read_list, scene_of
from pipeline.config import SECTION_TYPES, RunInputs
from pipeline.distillation.logit_store import LogitStore, verify
from pipeline.distillation.logit_store_file import content_sha256
from pipeline.inference.loading import load_recogniser, open_enhancer
from pipeline.inference.sidecar import model_card
from pipeline.models.state_dicts import read_state_dict
from pipeline.params import parse, read_params
from pipeline.training.checkpoint import load_checkpoint, load_state

MILLIONS = 10**7


def refusal(path, load):
    """The message of a refusal that names the file, with the limits of a fuzz case."""
    reader = Reader("found")
    messages = []

    def kept():
        try:
            return load()
        except (ValueError, OSError) as error:
            messages.append(str(error))
            raise

    assert reader.read(path, kept) is None
    return messages[0]


# --- lists ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0\t²\ta.mp4\n", ":1: found '0\t²\ta.mp4', wanted `index TAB"),  # a digit to isdigit() and none to int()
        ("0\t--5\ta.mp4\n", ":1: found '0\t--5\ta.mp4'"),
        (f"0\t{'9' * 5000}\ta.mp4\n", ":1: found '0\t999"),
        (f"path,label\na.mp4,{'9' * 5000}\n", ":2: found class id 999"),
        (f"a.mp4 {'9' * 5000}\n", ":1: found 'a.mp4 999"),
        (f"path,label\n{'x' * 140_000},1\n", ":2: found 'xxx"),  # beyond csv's limit of a field
        (f"path,label\n{'x' * 300}/a.mp4,1\n", ":2: path 'xxx"),  # a name that no file can have
        (f"a 1{' ' * MILLIONS}x\n", ":1: found 'a 1  "),  # once one regular expression, for days
        (f"{'1 ' * (MILLIONS // 2)}x\n", ":1: found '1 1 1"),
        ("x" * MILLIONS, ":1: found 'xxx"),
    ],
)
def test_a_list_that_no_reader_takes_is_refused_by_line_at_once(tmp_path, text, said):
    path = tmp_path / "list.txt"
    path.write_text(text)
    assert said in refusal(path, lambda: read_list(path, videos=tmp_path))


@pytest.mark.parametrize(("name", "said"), [(b"\xff.mp4", "no UTF-8"), (b"a\rb.mp4", "a line break in its name")])
def test_a_file_whose_name_no_list_can_hold_is_named(tmp_path, name, said):
    (tmp_path / "all/Run").mkdir(parents=True)
    (tmp_path / "all/Run" / os.fsdecode(name)).touch()
    assert said in refusal(tmp_path / "all", lambda: read_list(tmp_path / "all", videos=tmp_path))


def test_a_class_table_of_long_lines_and_ids_is_read_or_refused_at_once(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text(f"1 a{' ' * MILLIONS}b\n")
    ((only,), (name,)) = read_class_table(path)
    assert (only, len(name)) == (1, MILLIONS + 2)
    path.write_text(f"{'9' * 5000}\tRun\n")
    assert ":1: found '999" in refusal(path, lambda: read_class_table(path))


def test_a_group_of_the_scene_pattern_that_takes_no_part_is_left_out():
    assert scene_of("b_1.mp4", r"(a)?(b)_\d") == "b"


# --- clips.csv ---


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"," + b"ab" * 32, b"", ":2: found another number of fields"),  # once a clip without a hash
        (b"ab" * 32, b"ab" * 32 + b",more", ":2: found another number of fields"),
        (b"12.5", b"nan", ":2: field mean_luma: found 'nan', wanted a number"),
        (b"12.5", b"1e999", "field mean_luma"),
        (b"0.75", b"1.5", ":2: field dark_share: found 1.5, wanted 0 to 1"),
        (b",24,", b"," + b"9" * 5000 + b",", "field num_frames: found '999"),
        (b",24,", b",2147483648,", "field num_frames: found 2147483648, wanted 1 to 2147483647"),
        (b",24,", b",2_4,", "field num_frames"),
        (b",24,", ",٢٤,".encode(), "field num_frames"),
        (b",train,", b"," + b"9" * 5000 + b",", ":2: found subset '999"),  # once in a message of 5000 characters
        (b"Run/a.mp4", b"../a.mp4", ":2: field id: found '../a.mp4', wanted a path below"),
        (b"Run/a.mp4", b"\xff", "is no csv in UTF-8"),
        (b"Run/a.mp4", b'"Run/a.mp4', "is no csv in UTF-8 ("),
        (b"Run/a.mp4", b"x" * 140_000, "is no csv in UTF-8 (field larger than field limit"),
    ],
)
def test_a_clips_csv_that_prepare_did_not_write_is_refused_by_field(tmp_path, old, new, said):
    path = tmp_path / "clips.csv"
    path.write_bytes(CLIPS)
    assert len(read_clips(path)) == 3
    path.write_bytes(CLIPS.replace(old, new, 1))
    assert said in refusal(path, lambda: read_clips(path))


# --- params.yaml ---

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: 5\n", "runs: found 5, wanted names of runs"),
        ("runs: [1, a]\n", "runs: found [1, 'a'], wanted names of runs"),
        ("runs: [a]\nrendered: [[a]]\ninputs: {a: 1}\n", "rendered: found [['a']], wanted names of runs"),
        ("inputs: [[a]]\n", "inputs: found list, wanted a mapping"),
        ("views: 2001-99-99\n", "is no YAML (month must be in 1..12)"),
        ("views: !!bool x\n", "is no YAML"),
        ("views: !!int ''\n", "is no YAML"),
        ("views: !!int x\n", "is no YAML"),
        (f"views: {'9' * 5000}\n", "is no YAML"),
        ("views:\n " + "- " * 2000, "is no YAML (maximum recursion"),
        ("views: " + "[" * 100_000, "is no YAML (found more than 50 open brackets)"),
        ("views: " + "x" * MILLIONS, f"found {MILLIONS + 7} bytes, wanted at most"),
        (MERGES, "found `<<`, write the keys out"),
        (LAUGHS + "runs: *a39\n", "unknown section 'a0'"),
        ("runs: &a [*a]\n", "runs: found [[[...]]], wanted names of runs"),
    ],
)
def test_a_params_yaml_that_no_reader_takes_is_refused_by_name_at_once(tmp_path, text, said):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert said in refusal(path, lambda: read_params(path))


def test_aliases_of_aliases_do_not_fill_a_message(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(f"inputs:\n  {LAUGHS.replace(chr(10), chr(10) + '  ')}\nruns: *a39\n")
    assert "runs: found [[" in refusal(path, lambda: read_params(path))


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("prepare", {"scene_pattern": "("}, "prepare.scene_pattern: found '(', which is no regular expression"),
        ("prepare", {"scene_pattern": "a{99999999999}"}, "which is no regular expression"),
        ("views", {"seed": -1}, "views.seed: found -1, wanted 0 to 4294967295"),
        ("student", {"seed": 2**60}, "student.seed: found 1152921504606846976, wanted 0 to"),  # overflowed in training
        ("student", {"epochs": 16**5000}, "student.epochs: found a number of 20001 bits"),  # 0xfff... has no limit
        ("student", {"lr": 10**400}, "student.lr: found a number of 1329 bits (int), wanted float"),
        ("student", {"lr": float("inf")}, "student.lr: found inf, wanted a number"),
        ("teacher", {"weights": "a\0b"}, "teacher.weights: found 'a\\x00b', wanted text"),
        ("teacher", {"weights": "\ud800"}, "teacher.weights: found '\\ud800', wanted text"),
        ("teacher", {"head": "x" * 9000}, "teacher.head: found 'xxx"),
        ("views", {"size": 10**6}, "params.yaml: views.size: found 1000000, wanted 1 to"),  # the file is named
    ],
)
def test_a_value_that_no_stage_can_take_is_refused_by_key(tmp_path, section, values, said):
    where = f"{tmp_path / 'params.yaml'}: {section}"
    whole = presets.demo()[section] | values
    message = refusal(tmp_path / "params.yaml", lambda: parse(SECTION_TYPES[section], whole, where=where))
    assert said in message


def test_a_class_name_that_stands_twice_in_the_inputs_is_refused(tmp_path):
    inputs = presets.demo()["inputs"]["demo"] | {"classes": ["Run", "Run"], "class_ids": [0, 1]}
    where = f"{tmp_path / 'params.yaml'}: inputs.demo"
    assert "found a name twice" in refusal(tmp_path, lambda: parse(RunInputs, inputs, where=where))


# --- checkpoints ---


def changed(tree, place, value):
    """The tree with another value at a place such as `model.name`; None takes it out."""
    *holders, key = place.split(".")
    for name in holders:
        tree = tree[name]
    tree[key] = value
    if value is None:
        del tree[key]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("class_names", "abc", "record.class_names: found 'abc', wanted tuple"),  # once three classes
        ("class_names", 5, "record.class_names: found 5"),
        ("class_names", ["a", "b", "\ud800"], "record.class_names: found '\\ud800', wanted str"),
        ("kind", "pupil", "record.kind: found 'pupil', wanted one of enhancer"),
        ("model.num_classes", 2**60, "record.model.num_classes: found 1152921504606846976, where other parts"),
        ("model.num_frames", 2**60, "record.model.num_frames: found 1152921504606846976, where other parts"),
        ("model.num_classes", "3", "record.model.num_classes: found '3', wanted int"),
        ("model.extra", 1, "record.model: found an unknown 'extra'"),
        ("model.seed", 1, "record.model: found an unknown 'seed'"),
        ("model.name", None, "record.model: found no name"),
        ("model.name", "r3d", "record: backbone: unknown name 'r3d'"),
        ("model.head", "average", "wanted no such entry"),
        ("preprocessing.mean", [0.4, 0.4], "record.preprocessing.mean: found (0.4, 0.4), which no stage writes"),
        ("preprocessing.std", [0.0, 1, 1], "record.preprocessing.std: found (0.0, 1.0, 1.0), which no stage writes"),
        ("preprocessing.mean", [float("nan")] * 3, "record.preprocessing.mean: found nan"),
        ("preprocessing.enhancer", {"name": "gamma", "x": 1}, "record.preprocessing.enhancer: found an unknown 'x'"),
        ("preprocessing.input", "both", "record.preprocessing.input: found both, of other streams"),
        ("preprocessing.view_rule.frames", 2**40, "view_rule.frames: found 1099511627776, which no stage writes"),
        ("preprocessing.view_rule.frame_size", [1], "view_rule.frame_size: found 1 values, wanted 2"),
        ("preprocessing.view_rule", None, "record.preprocessing: found no view_rule"),
        ("metrics", None, "record: found no metrics"),
        ("version", None, "is of another version of the format"),
    ],
)
def test_a_record_that_no_stage_writes_is_refused_by_its_place(tmp_path, place, value, said):
    path = write_checkpoint(tmp_path / "student.safetensors")
    record = record_of(path.read_bytes())
    changed(record, place, value)
    path.write_bytes(with_record(path.read_bytes(), record))
    assert said in refusal(path, lambda: load_recogniser(path, device=torch.device("cpu")))


@pytest.mark.parametrize("record", ["[" * 100_000, "5", "null", "{", "NaN", '{"format": ' + "9" * 5000 + "}"])
def test_a_record_that_is_no_json_of_a_checkpoint_is_refused(tmp_path, record):
    path = write_checkpoint(tmp_path / "student.safetensors")
    path.write_bytes(with_record(path.read_bytes(), record))
    assert "record: is no json" in (message := refusal(path, lambda: load_checkpoint(path))) or (
        "another version of the format" in message
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(next(iter(tensors))), "found no such entry, wanted shape"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), "extra: found shape (2,), wanted no such entry"),
        (
            lambda tensors: tensors.update({"classifier.head.position": torch.ones(1, 9, 9)}),
            "head.position: found shape (1, 9, 9)",
        ),
        (
            lambda tensors: tensors.update(
                {"classifier.head.classifier.bias": torch.ones(3, dtype=torch.int64)},
            ),
            "classifier.bias: found type torch.int64, wanted torch.float32",
        ),
    ],
)
def test_weights_of_another_network_than_the_record_says_are_refused_by_entry(tmp_path, change, said):
    path = write_checkpoint(tmp_path / "student.safetensors", weights=change)
    assert said in refusal(path, lambda: load_recogniser(path, device=torch.device("cpu")))


@pytest.mark.parametrize(("place", "value"), [("enhancer_on", "frame"), ("enhancer", None)])
def test_two_streams_without_an_enhancer_of_views_are_refused_by_name(tmp_path, place, value):
    path = write_checkpoint(tmp_path / "student.safetensors", light="both")
    record = record_of(path.read_bytes())
    changed(record, f"preprocessing.{place}", value)
    path.write_bytes(with_record(path.read_bytes(), record))
    assert "wanted view and an enhancer" in refusal(path, lambda: load_recogniser(path, device=torch.device("cpu")))


def test_an_enhancer_with_a_record_or_weights_of_another_is_refused_by_name(tmp_path):
    path = write_checkpoint(tmp_path / "enhancer.safetensors", kind="enhancer")
    assert "record.model: found an unknown" in refusal(path, lambda: open_enhancer("zero_dce", path))
    record = record_of(path.read_bytes()) | {"model": {"name": "zero_dce"}}
    path.write_bytes(with_record(path.read_bytes(), record))
    assert "e_conv1.weight: found no such entry" in refusal(path, lambda: open_enhancer("zero_dce", path))


# --- weights ---


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (lambda: torch.zeros(3, device="meta"), "device meta"),
        (lambda: torch.eye(3).to_sparse(), "layout torch.sparse_coo"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), "type torch.quint8"),
        (lambda: torch.zeros(1).expand(2**20, 2**20), "1099511627776 numbers in a file of"),  # a terabyte to look at
        (lambda: torch.zeros(3).to(torch.float8_e4m3fn), "numbers of type torch.float8_e4m3fn"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of torch, about quantised and old storages
def test_tensors_without_plain_numbers_are_refused_by_entry(tmp_path, tensor, said):
    path = tmp_path / "weights.pth"
    path.write_bytes(saved({"a": tensor()}))
    message = refusal(path, lambda: read_state_dict(path))
    assert f"a: found a tensor of type {said}" in message or said in message


def test_a_number_type_that_torch_cannot_check_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(3).to(torch.float8_e5m2)}, path)
    assert "a: found numbers of type torch.float8_e5m2" in refusal(path, lambda: read_state_dict(path))


def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path):
    path, sound = tmp_path / "weights.pth", tmp_path / "sound.pth"
    sound.write_bytes(saved(STATE | {"zeros": torch.zeros(2**22)}))
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert path.stat().st_size < 10**5
    assert "do not load" in refusal(path, lambda: read_state_dict(path))
    assert len(read_state_dict(sound)[0]) == 4


def test_a_pickle_that_asks_for_more_memory_than_there_is_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    # bytearray(2 ** 62), in the old form's place of its magic number
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x08\0\0\0\0\0\0\0\x40\x85R.")
    assert "found" in refusal(path, lambda: read_state_dict(path))


@pytest.mark.parametrize("new_form", [True, False])
def test_a_name_of_a_million_characters_is_refused_at_once(tmp_path, new_form):
    path, sound = tmp_path / "weights.pth", saved(STATE, new_form=new_form)
    long = b"collections\n" + b"x" * 10**6 + b"\n"  # torch would search its own message of it for hours
    if new_form:
        with zipfile.ZipFile(io.BytesIO(sound)) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name).replace(b"collections\nOrderedDict\n", long))
    else:
        path.write_bytes(sound.replace(b"collections\nOrderedDict\n", long))
    assert "do not load, cut short or damaged" in refusal(path, lambda: read_state_dict(path))


def test_a_header_of_long_names_does_not_fill_the_message(tmp_path):
    path = tmp_path / "student.safetensors"
    entries = {"a" * 70_000: {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}
    path.write_bytes(put_together(entries, bytes(8)))
    assert "is damaged or no safetensors file" in refusal(path, lambda: load_checkpoint(path))


def test_a_state_of_a_training_that_does_not_load_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "state.pt"
    moved = saved(STATE) + b" " * 2**16  # torch looks for its parts before the file's beginning
    for content, said in (
        (b"x", "found 1 bytes that do not load"),
        (saved([1]), "found a list"),
        (moved, "cannot be read ([Errno 22] Invalid argument)"),
    ):
        path.write_bytes(content)
        message = refusal(path, lambda: load_state(path))
        assert said in message
        assert "delete it, and the training starts over" in message
        assert "weights_only" not in message  # torch's advice to run it


# --- beside a checkpoint, and stores ---


def test_figures_and_a_card_that_cannot_be_read_are_refused_by_name(tmp_path):
    checkpoint, card, metrics = (tmp_path / name for name in ("s.safetensors", "MODEL_CARD.md", "metrics.json"))
    card.write_text("ab\n")
    for text in ("{", "[1]", '{"student": {}}', '{"n": 3, "student": 5}', "[" * 100_000):
        metrics.write_text(text)
        assert refusal(metrics, lambda: model_card(checkpoint, "ab", "student"))
    metrics.write_text(json.dumps({"n": 3, "student": {"top1": 0.5}}))
    assert model_card(checkpoint, "ab", "student")["figures"] == {"n": 3, "top1": 0.5}
    card.write_bytes(b"\xff")
    assert "no UTF-8 text" in refusal(card, lambda: model_card(checkpoint, "ab", "student"))


def test_a_store_that_is_damaged_while_it_is_read_names_itself_and_the_row(tmp_path):
    path, other = tmp_path / "sound.h5", tmp_path / "other.h5"
    write_store(path)
    with h5py.File(path) as file:
        at = file["logits"].id.get_chunk_info(0).byte_offset
    for damage, said in (
        (lambda data: data[:at] + b"\xff" + data[at + 1 :], "clip 'Run/0.mp4', view 0: cannot be read"),
        (lambda data: data[:100], "cannot be opened as HDF5"),
    ):
        shutil.copyfile(path, other)
        store = LogitStore.open(other, memory_limit_bytes=0)
        other.write_bytes(damage(other.read_bytes()))
        assert said in refusal(other, lambda store=store: store.row("Run/0.mp4", 0))


@pytest.mark.parametrize("column", ["class_names", "clips/id", "clips/sha256"])
def test_text_that_is_no_utf8_is_found_by_the_check_as_by_opening(tmp_path, column):
    path = tmp_path / "logits.h5"
    write_store(path)
    with h5py.File(path, "r+") as file:
        file[column][0] = b"\xff"
        file.attrs["content_sha256"] = content_sha256(file)
    assert f"/{column}: is no UTF-8 text" in refusal(path, lambda: LogitStore.open(path))
    assert any(f"/{column}: is no UTF-8 text" in problem for problem in verify(path))

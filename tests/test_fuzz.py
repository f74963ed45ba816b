"""Every reader of text from elsewhere: whatever the bytes, only its documented errors come out, and name the file.

By default fifty cases a reader; DLKDD_FUZZ=10000 for the full number, DLKDD_FUZZ_SEED for other cases, -s to see
what was refused. Readers of binary files: test_fuzz_binaries.py; what was found: test_fuzz_found.py.
"""

import contextlib
import copy
from dataclasses import astuple

import pytest
from fuzz_bytes import any_file, changed_tree, mutated
from fuzz_cases import CASES, fuzzed, new_reader, printed_readers
from fuzz_texts import CLIPS, LISTS, TABLES, YAML_NASTY, as_yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline import presets
from pipeline.clips.clip_index import clips_to_text, leaves_root, read_clips
from pipeline.clips.lists import class_names_of, find_video, label_of, read_class_table, read_list
from pipeline.config import SECTION_TYPES, STUDENT_ONLY, BaselineConfig, plain
from pipeline.params import parse, read_inputs, read_params


@pytest.fixture(scope="module", autouse=True)
def lines():
    """One line a reader at the end."""
    with printed_readers():
        yield


# --- lists and tables ---


def test_a_split_list_gives_lines_that_can_be_used_or_is_refused_by_name(tmp_path):
    lists, path, ids = new_reader("split list"), tmp_path / "list.txt", range(-1, 10)

    @fuzzed()
    @given(any_file(LISTS))
    def run(data):
        path.write_bytes(data)
        for line in lists.read(path, lambda: read_list(path, videos=tmp_path)) or ():
            assert line.path == line.path.strip() != ""
            assert not leaves_root(line.path)
            assert str(path) in line.place
            assert line.label is None or line.class_name is None
            for use, arguments in (
                (find_video, (tmp_path, line.path)),
                (label_of, (line, [str(number) for number in ids], ids)),
                (class_names_of, ([[line]],)),
            ):
                with contextlib.suppress(ValueError):
                    use(*arguments)

    run()
    assert lists.cases >= CASES


def test_a_class_table_gives_names_by_id_or_is_refused_by_name(tmp_path):
    tables, path = new_reader("class table"), tmp_path / "classes.txt"

    @fuzzed()
    @given(any_file(TABLES))
    def run(data):
        path.write_bytes(data)
        if (found := tables.read(path, lambda: read_class_table(path))) is None:
            return
        ids, names = found
        path.write_text("".join(f"{number}\t{name}\n" for number, name in zip(ids, names, strict=True)), newline="")
        assert read_class_table(path) == found

    run()
    assert tables.cases >= CASES


def test_clips_csv_reads_back_as_written_or_is_refused_by_name(tmp_path):
    clips, path = new_reader("clips.csv"), tmp_path / "clips.csv"
    header, _, body = CLIPS.partition(b"\n")

    @fuzzed()
    @given(st.one_of(any_file([CLIPS]), mutated([body]).map(lambda rows: header + b"\n" + rows)))
    def run(data):
        path.write_bytes(data)
        if (found := clips.read(path, lambda: read_clips(path))) is None:
            return
        text = clips_to_text(found)  # six digits of a number with a point, as prepare writes it
        path.write_text(text, encoding="utf-8", newline="")
        again = read_clips(path)
        assert clips_to_text(again) == text
        for before, after in zip(found, again, strict=True):
            for old, new in zip(astuple(before), astuple(after), strict=True):
                assert new == (pytest.approx(old, rel=1e-5, abs=0) if isinstance(old, float) else old)

    run()
    assert clips.cases >= CASES


# --- params.yaml ---


def read_all(path):
    """Every section of a params.yaml, and the inputs of its runs."""
    params = read_params(path)
    sections = {
        name: parse(kind, params[name], where=f"{path}: {name}")
        for name, kind in SECTION_TYPES.items()
        if name in params
    }
    for run in params.get("inputs") or {}:
        sections[run] = read_inputs(path, run)
    return sections


def test_params_yaml_gives_sections_that_write_back_equal_or_is_refused_by_name(tmp_path):
    params, path = new_reader("params.yaml"), tmp_path / "params.yaml"
    whole = presets.demo()
    # One section a file: the reader of YAML takes most of the time.
    seeds = [as_yaml({name: whole[name]}) for name in SECTION_TYPES]
    seeds.append(as_yaml({name: whole[name] for name in ("runs", "rendered", "inputs")}))

    @fuzzed()
    @given(any_file(seeds, YAML_NASTY))
    def run(data):
        path.write_bytes(data)
        for name, config in (params.read(path, lambda: read_all(path)) or {}).items():
            assert parse(type(config), copy.deepcopy(plain(config)), where=name) == config

    run()
    assert params.cases >= CASES


def test_a_section_takes_no_value_that_it_cannot_give_back(tmp_path):
    sections, path = new_reader("sections of params.yaml"), tmp_path / "params.yaml"
    whole = presets.demo()

    @fuzzed()
    @given(st.data())
    def run(data):
        name = data.draw(st.sampled_from([*SECTION_TYPES]))
        values = data.draw(changed_tree(whole[name]))
        where = f"{path}: {name}"
        config = sections.read(path, lambda: parse(SECTION_TYPES[name], values, where=where))
        if config is not None:
            assert parse(type(config), plain(config), where=where) == config
        if name == "student":
            sections.read(path, lambda: parse(BaselineConfig, values, where=where, extra=STUDENT_ONLY))

    run()
    assert sections.cases >= CASES

import functools
import json
import re
from pathlib import Path

import pytest

from pipeline import presets
from pipeline.cli import cli
from pipeline.studies.table import class_table, read_studies
from pipeline.studies.table import tables as study_tables
from pipeline.tables.paper_text import as_markdown as studies_markdown
from pipeline.tables.run_table import as_markdown, as_text, comparison, read_results, write_into

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDS = sorted((ROOT / "docs" / "results").glob("*.json"))


def block(text, run):
    found = re.search(rf"<!-- {re.escape(run)} -->\n(.*?)\n<!-- end {re.escape(run)} -->", text, re.DOTALL)
    return found and found[1]


def test_there_are_results_of_rendered_and_of_real_clips():
    assert {path.stem for path in RECORDS} >= {"demo", "arid6", "egogest-1"}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_tables_in_the_documents_are_their_json(path):
    results = json.loads(path.read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert block(text, results["run"]) == as_markdown(results)


@functools.cache
def tables_of(folder):
    """The tables of saved studies, whose ten thousand draws take a while."""
    return study_tables(read_studies(ROOT / "docs" / "results" / folder))


def studies_by_title():
    """The first table's rows: cells by column."""
    table = tables_of("studies")[0]
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


def numbers(cell):
    """Of a cell such as `+0.017 (-0.006 to +0.045) x10`: the value, and the ends of its interval."""
    return [float(number) for number in re.findall(r"[+-]?\d\.\d+", cell)]


@pytest.mark.parametrize("folder", ["studies", "recipes"])
def test_tables_of_studies_in_the_documents_are_their_json(folder):
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert block(text, folder) == studies_markdown(tables_of(folder))


@pytest.mark.parametrize("name", ["arid-forward", "arid-back"])
def test_tables_by_class_in_the_documents_are_their_json(name):
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = class_table(read_studies(ROOT / "docs" / "results" / "studies" / f"{name}.json"))
    assert block(text, f"{name} by class") == studies_markdown([table])


def test_the_readmes_rows_of_studies_are_those_of_the_results():
    found = studies_by_title()
    table = re.search(r"^\| data \|.*?(?=\n\n)", README, re.DOTALL | re.MULTILINE)[0]
    header, _, *rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()]
    assert {"rendered, -5 EV", "EgoGestAR, -8 EV, all splits"} < {title for title, *_ in rows}
    assert {"baseline", "teacher", "student", "student - teacher", "teacher - baseline"} < set(header)
    for row in rows:
        # without the number of seeds, and some columns alone
        wanted = [found[row[0]][name].partition(" x")[0] for name in header]
        assert row == wanted, row[0]


def test_the_student_cannot_be_told_from_the_baseline_in_any_row_as_the_readme_says():
    assert "in no row can the student be told from the baseline" in README
    assert "gains of up to five points" in README
    ends = {}
    for title, row in studies_by_title().items():
        _, low, high = numbers(row["student - baseline"])
        assert low <= 0 <= high, title
        ends[title] = high
    assert round(max(high for title, high in ends.items() if f"| {title} |" in README), 2) == 0.05


def test_rendered_rows_from_nothing_end_within_the_intervals_of_the_first():
    found = studies_by_title()
    repeats = [row for title, row in found.items() if title.startswith("rendered, -5 EV, again")]
    assert len(repeats) == 2
    for model in ("baseline", "teacher", "student"):
        _, low, high = numbers(found["rendered, -5 EV"][model])
        for row in repeats:
            assert low <= numbers(row[model])[0] <= high, (model, row)


def test_the_demos_figures_in_the_readme_are_those_of_its_json():
    results = json.loads((ROOT / "docs" / "results" / "demo.json").read_text(encoding="utf-8"))
    shown = as_text(results, Path("data/demo"))
    assert shown in README


def test_the_readme_names_only_commands_and_files_that_exist():
    for command in re.findall(r"dlkdd ([a-z]+)", README):
        assert command in cli.commands, command
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z]+)`", README):
        assert re.search(rf"^{target}:", targets, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    options = {
        option
        for command in cli.commands.values()
        for each in command.params
        for option in [*each.opts, *each.secondary_opts]
    }
    for line in re.findall(r"^dlkdd .*", README, re.MULTILINE):
        for option in re.findall(r" (--[a-z-]+)", line):
            assert option in options, line


def test_the_choices_name_parameters_that_exist_and_their_defaults():
    text = (ROOT / "docs" / "choices.md").read_text(encoding="utf-8")
    params = presets.paper()
    named = set(re.findall(r"`([a-z]+)\.([a-z_]+)`", text)) - {("cost", "md"), ("dvc", "yaml")}
    assert len(named) > 25
    for section, key in named:
        assert key in params[section], f"{section}.{key}"
    rows = {row.split("|")[2].strip(): row.split("|")[3].strip() for row in text.splitlines() if row.startswith("| ")}
    for name, said in rows.items():
        # Rows of one parameter whose default is one word or number.
        match = re.fullmatch(r"`([a-z]+)\.([a-z_]+)`", name)
        value = re.match(r"`?([\w.-]+)`?", said)
        if match and value and name != "`inputs.ug2-1.class_ids`":
            found = params[match[1]][match[2]]
            shown = str(found).lower() if isinstance(found, bool) else "null" if found is None else str(found)
            assert value[1] == shown or float(value[1]) == found, name
    # What the other rows say.
    views, evaluate, student = params["views"], params["evaluate"], params["student"]
    assert (student["model"], student["weights"], student["schedule"], student["warmup_epochs"]) == (
        "r2plus1d_34",
        None,
        "constant",
        0,
    )
    assert (views["frame_size"], views["scales"], views["positions"]) == ([128, 170], [1.0, 0.875, 0.75, 0.66], "fixed")
    assert (views["sampling"], views["frames"], views["stride"], views["loop"]) == ("consecutive", 64, 1, True)
    assert (evaluate["clips"], evaluate["crops"], evaluate["average"]) == (1, "centre", "logits")
    assert (params["enhancer"]["gamma"], params["enhancer"]["gamma_table"]) == (1.8, False)
    assert (student["seed"], views["seed"], student["kd_weight"], student["temperature"]) == (0, 0, 1.5, 5.0)


def test_writing_a_table_needs_its_markers(tmp_path):
    results = json.loads(RECORDS[0].read_text(encoding="utf-8")) | {"run": "x"}
    document = tmp_path / "a.md"
    document.write_text("before\n<!-- x -->\nold\n<!-- end x -->\nafter\n")
    write_into(document, results)
    text = document.read_text()
    assert block(text, "x") == as_markdown(results)
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    document.write_text("nothing")
    with pytest.raises(ValueError, match="holds no lines `<!-- x -->`"):
        write_into(document, results)


def a_run(folder, metrics, statistics):
    files = {
        f"{model}_timings": {"seconds": 1.0, "peak_memory_bytes": 10} for model in ("baseline", "teacher", "student")
    }
    for name, content in (files | {"metrics": metrics, "statistics": statistics}).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return read_results(folder, "night-1")


def test_leaks_stand_under_the_table_in_text_and_in_markdown(tmp_path):
    metrics = json.loads(RECORDS[0].read_text(encoding="utf-8"))["metrics"] | {"n": 96}
    clean = a_run(tmp_path, metrics, {"leaks": {}, "clips": {"test": {"Run": 60, "Walk": 40}}})
    leaking = a_run(tmp_path, metrics, {"leaks": {"same_scene": 3}, "clips": {"test": {"Run": 60, "Walk": 40}}})
    note = leaking["leak_note"]
    # Of all test clips, not of the 96 labelled ones.
    assert note.startswith("3 of 100 test clips ")
    assert clean["leak_note"] == ""
    plain = as_text(clean, tmp_path).splitlines()
    assert as_text(leaking, tmp_path).splitlines() == [*plain[:5], note, *plain[5:]]
    assert plain[4].startswith("student ")
    assert f"\n* {note}.\n" in as_markdown(leaking)
    assert as_markdown(leaking).replace(f"* {note}.\n", "") == as_markdown(clean)
    assert as_markdown(clean) == as_markdown({key: clean[key] for key in ("run", "metrics", "timings")})


def test_a_run_without_labels_names_its_predictions_instead_of_figures(tmp_path):
    results = a_run(tmp_path, {"n": 0}, {"leaks": {"same_clip": 2}, "clips": {"test": {"unlabelled": 90}}})
    said = "no labels: predictions in data/night-1/predictions.csv"
    text = as_text(results, Path("data/night-1")).splitlines()
    assert text[0] == f"night-1: {said}"
    assert text[1].startswith("2 of 90 test clips ")
    assert text[-1].startswith("enhanced frames ")
    assert as_markdown(results).splitlines() == [f"* {said}", f"* {results['leak_note']}."]


def test_leaks_in_the_form_of_an_earlier_version_ask_for_a_new_run(tmp_path):
    with pytest.raises(
        ValueError, match=r"statistics\.json: leaks: found \['a'\], wanted counts by kind; run `dvc repro`"
    ):
        a_run(tmp_path, {"n": 0}, {"leaks": ["a"]})


def test_no_document_or_code_names_this_machine():
    code = [path for folder in ("pipeline", "stages", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *code, ROOT / "dvc.yaml", ROOT / "Makefile"]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/(home|root|Users|work)/", text), path


@pytest.mark.parametrize(("p_value", "said"), [(0.5, "p = 0.50: not told apart"), (0.0049, "p < 0.005: told apart")])
def test_a_small_p_value_is_not_said_to_be_none(p_value, said):
    found = dict.fromkeys(("difference", "difference_low", "difference_high", "only_first", "only_second"), 0)
    metrics = {"n": 9, "student_minus_teacher": found | {"p_value": p_value}}
    assert f"sign test {said} by these 9 clips" in comparison(metrics, "teacher")


def test_the_licence_of_every_pinned_package_is_listed():
    pinned = re.findall(r"^([\w.-]+)==([\w.+-]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w.+-]+) \| \S.* \|$", (ROOT / "docs/licences.md").read_text("utf-8"), re.M)
    assert len(pinned) > 100
    assert rows == [("package", "version"), *pinned]

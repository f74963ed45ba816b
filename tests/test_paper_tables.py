import itertools
import json
import re
import shutil
import subprocess

import pytest

from pipeline.tables import paper_rows, paper_tables
from pipeline.tables.paper_runs import read_runs
from pipeline.tables.paper_tables import build_tables
from pipeline.tables.paper_text import as_latex, as_markdown

# Typed from the paper.
TABLE_1 = """
I3D-RGB | - | Original | Original | 68.29
I3D Two-stream | Two-Stream | Original + Optical Flow | Original + Optical Flow | 72.78
3D-ResNet-101 | - | Original | Original | 71.57
3D-ResNext-101 | - | Original | Original | 74.73
Video-Swin-B | - | Original | Original | 89.79
DarkLight | Two-Stream | Original + GIC | Original + GIC | 94.04
DTCM | - | ZeroDCE | ZeroDCE | 96.36
R(2+1)D-GCN+BERT | - | ZeroDCE | ZeroDCE | 96.60
DL-KDD (Ours) | KD | Original + ZeroDCE | Original | 97.64
"""
TABLE_2 = """
I3D-RGB | 48.75
I3D Two-stream | 51.24
DarkLight | 84.13
R(2+1)D-GCN+BERT | 86.93
DL-KDD (Ours) | 88.12
"""
TABLE_3 = """
I3D-RGB | 32.25 / 65.35
3D-ResNext-101 | 37.23 / 68.86
DarkLight | 42.27 / 70.47
DTCM | 46.68 / 75.92
DL-KDD (Ours) | 52.26 / 80.18
"""
TABLE_4 = """
Backbone Only | 92.97
DL-KDD-Teacher | 95.73
DL-KDD-Student (Ours) | 97.64
"""

PROTOCOL = {
    "teacher_input": "enhanced",
    "enhancer": "zero_dce",
    "enhancer_weights": "e" * 64,
    "model": "r2plus1d_34",
    "head": "attention",
    "weights": "abc" + "0" * 61,
    "frames": 64,
    "size": 112,
    "frame_size": [128, 170],
    "clips": 1,
    "crops": "centre",
    "average": "logits",
    "epochs": 30,
    "kd_weight": 1.5,
    "kd_decay": 0.95,
    "temperature": 5.0,
    "scale_by_temperature_squared": False,
    "seed": 0,
}
NO_LEAKS = {"same_clip": 0, "same_content": 0, "same_scene": 0, "same_name": 0, "examples": []}
TWO_STREAMS = {"teacher_input": "both", "enhancer": "gamma", "enhancer_weights": None}


@pytest.fixture(autouse=True)
def lists_of_any_length(monkeypatch):
    """Runs here are tested on 100 clips; what is said of other numbers than the published ones has its own test."""
    monkeypatch.setattr(paper_tables, "TEST_CLIPS", {})


@pytest.fixture
def data(tmp_path):
    """An empty folder of runs; `make_run` fills it."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def make_run(data):
    """Write the three files of an evaluated run; top-1 of baseline, teacher and student, and the top-5 of all."""

    def make(run, top1=(0.5, 0.6, 0.7), *, n=100, top5=0.9, leaks=NO_LEAKS, **protocol):
        folder = data / run
        folder.mkdir()
        models = ("baseline", "teacher", "student")
        figures = {model: {"top1": share, "top5": top5} for model, share in zip(models, top1, strict=True)}
        files = {
            "metrics": {"n": n, **(figures if n else {})},
            "details": {"class_names": ["Run"], "protocol": PROTOCOL | protocol},
            "statistics": {"leaks": leaks, "clips": {"train": {"Run": 9}, "test": {"Run": n or 90}}},
        }
        for name, content in files.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return folder

    return make


def tables_of(data):
    return build_tables(read_runs(data))


def rows_of(table):
    """Cells after the name, by name without its footnote numbers."""
    return {re.sub(r" \[[\d, ]+\]$", "", row[0]): row[1:] for row in table.rows}


def notes_of(table, name):
    """The numbered footnotes that a row refers to."""
    (cell,) = (row[0] for row in table.rows if re.sub(r" \[[\d, ]+\]$", "", row[0]) == name)
    numbers = re.search(r"\[([\d, ]+)\]$", cell)[1].split(", ")
    found = [note for number in numbers for note in table.notes if note.startswith(f"[{number}] ")]
    assert len(found) == len(numbers)
    return found


def test_rows_and_figures_are_those_of_the_paper_in_its_order_and_nothing_run_is_a_dash(data):
    tables = tables_of(data)
    assert len(tables) == 4
    for table, printed in zip(tables, (TABLE_1, TABLE_2, TABLE_3, TABLE_4), strict=True):
        expected = [tuple(line.split(" | ")) for line in printed.strip().splitlines()]
        lead = len(expected[0])
        assert [row[:lead] for row in table.rows] == expected
        assert {row[lead:] for row in table.rows} == {("-",) * 5}
        assert table.header[lead - 1] == "Paper"
        assert all(len(row) == len(table.header) for row in table.rows)


def test_mean_and_standard_deviation_are_those_worked_out_by_hand(data, make_run):
    for split, student, n in ((1, 0.95, 823), (2, 0.96, 859), (3, 0.985, 852)):
        make_run(f"arid-{split}", (0.9, 0.93, student), n=n)
    first, _, _, fourth = tables_of(data)
    # Mean (95 + 96 + 98.5) / 3 = 96.5; deviations -1.5, -0.5, 2; squares 2.25 + 0.25 + 4 = 6.5; sqrt(6.5 / 2) = 1.803.
    ours = ("95.00 (n = 823)", "96.00 (n = 859)", "98.50 (n = 852)", "96.50", "1.80")
    assert rows_of(first)["DL-KDD (Ours)"][-5:] == ours
    assert rows_of(fourth)["DL-KDD-Student (Ours)"][-5:] == ours
    assert rows_of(fourth)["DL-KDD-Teacher"][-2:] == ("93.00", "0.00")
    assert rows_of(fourth)["Backbone Only"][1] == "90.00 (n = 823)"


def test_a_mean_over_fewer_splits_says_so(data, make_run):
    make_run("arid-1", (0.5, 0.5, 0.6))
    make_run("arid-3", (0.5, 0.5, 0.8))
    make_run("arid15-1", (0.5, 0.5, 0.6))
    make_run("dark48-2", (0.5, 0.5, 0.6))
    first, second, third, _ = tables_of(data)
    # Deviations -10 and 10: sqrt(200 / 1) = 14.14.
    expected = ("60.00 (n = 100)", "-", "80.00 (n = 100)", "70.00 (2 of 3 splits)", "14.14")
    assert rows_of(first)["DL-KDD (Ours)"][-5:] == expected
    assert rows_of(second)["DL-KDD (Ours)"][-5:] == ("60.00 (n = 100)", "-", "-", "60.00", "-")
    expected = ("-", "60.00 / 90.00 (n = 100)", "-", "60.00 / 90.00 (1 of 3 splits)", "-")
    assert rows_of(third)["DL-KDD (Ours)"][-5:] == expected


def test_top_5_has_its_own_mean_and_standard_deviation(data, make_run):
    for split, top1, top5 in ((1, 0.5, 0.80), (2, 0.6, 0.82), (3, 0.7, 0.84)):
        make_run(f"dark48-{split}", (0.4, 0.4, top1), top5=top5)
    assert rows_of(tables_of(data)[2])["DL-KDD (Ours)"][-2:] == ("60.00 / 82.00", "10.00 / 2.00")


def test_our_results_stand_beside_the_rows_they_are_comparable_with(data, make_run):
    make_run("arid-1", (0.11, 0.12, 0.13))
    make_run("arid-twostream-1", (0.21, 0.22, 0.23), **TWO_STREAMS)
    make_run("arid-swin-1", (0.31, 0.32, 0.33), model="swin3d_b")
    make_run("arid15-twostream-1", (0.41, 0.42, 0.43), **TWO_STREAMS)
    make_run("dark48-twostream-1", (0.51, 0.52, 0.53), **TWO_STREAMS)
    first, second, third, fourth = tables_of(data)

    def split_1(table):
        return {name: cells[-5].split()[0] for name, cells in rows_of(table).items() if cells[-5] != "-"}

    assert split_1(first) == {
        "Video-Swin-B": "31.00",
        "DarkLight": "22.00",
        "DL-KDD (Ours)": "13.00",
        "ours: backbone only, r2plus1d_34": "11.00",
        "ours: teacher on ZeroDCE input, r2plus1d_34": "12.00",
        "ours: teacher on ZeroDCE input, swin3d_b, runs tagged swin": "32.00",
        "ours: student of a teacher on ZeroDCE input, swin3d_b, runs tagged swin": "33.00",
        "ours: backbone only, r2plus1d_34, runs tagged twostream": "21.00",
        "ours: student of a teacher on Original + GIC input, r2plus1d_34, runs tagged twostream": "23.00",
    }
    assert split_1(second)["DarkLight"] == "42.00"
    assert split_1(third)["DarkLight"] == "52.00"
    assert split_1(fourth) == {"Backbone Only": "11.00", "DL-KDD-Teacher": "12.00", "DL-KDD-Student (Ours)": "13.00"}


@pytest.mark.parametrize(
    ("protocol", "rows"),
    [
        (
            {"enhancer": "lime", "enhancer_weights": None},
            {
                "ours: backbone only, r2plus1d_34": ("-", "Original", "Original", "-"),
                "ours: teacher on LIME input, r2plus1d_34": ("-", "LIME", "LIME", "-"),
                "ours: student of a teacher on LIME input, r2plus1d_34": ("KD", "Original + LIME", "Original", "-"),
            },
        ),
        (
            {"teacher_input": "dark", "enhancer": "none", "enhancer_weights": None, "model": "r3d_18"},
            {
                "ours: backbone only, r3d_18": ("-", "Original", "Original", "-"),
                "ours: teacher on Original input, r3d_18": ("-", "Original", "Original", "-"),
                "ours: student of a teacher on Original input, r3d_18": ("KD", "Original", "Original", "-"),
            },
        ),
    ],
    ids=["other enhancer", "control in the dark"],
)
def test_what_the_paper_has_no_row_for_stands_below_its_rows(data, make_run, protocol, rows):
    make_run("arid-1", **protocol)
    first = tables_of(data)[0]
    assert {row[5:] for row in first.rows[:9]} == {("-",) * 5}
    assert {name: cells[:4] for name, cells in list(rows_of(first).items())[9:]} == rows


def test_the_plain_runs_go_before_tagged_ones_and_these_become_rows_of_their_own(data, make_run):
    make_run("arid-1", (0.1, 0.2, 0.3))
    make_run("arid-again-1", (0.4, 0.5, 0.6), seed=1)
    first, _, _, fourth = tables_of(data)
    tagged = "ours: student of a teacher on ZeroDCE input, r2plus1d_34, runs tagged again"
    for table, row in ((first, "DL-KDD (Ours)"), (fourth, "DL-KDD-Student (Ours)")):
        assert rows_of(table)[row][-5] == "30.00 (n = 100)"
        assert rows_of(table)[tagged][-5] == "60.00 (n = 100)"


def test_plain_runs_that_do_not_fit_leave_the_row_to_the_tagged_ones_that_do(data, make_run):
    make_run("arid-1", (0.1, 0.2, 0.3), enhancer="lime", enhancer_weights=None)
    make_run("arid-zerodce-1", (0.4, 0.5, 0.6))
    assert rows_of(tables_of(data)[0])["DL-KDD (Ours)"][-5] == "60.00 (n = 100)"


def test_table_4_holds_nothing_but_dl_kdd_runs(data, make_run):
    make_run("arid-1", model="r2plus1d_tiny")
    fourth = tables_of(data)[3]
    assert len(fourth.rows) == 3
    assert {row[2:] for row in fourth.rows} == {("-",) * 5}


@pytest.mark.parametrize(
    ("key", "value"), [("temperature", 4.0), ("seed", 1), ("frame_size", [64, 86]), ("weights", None), ("more", 1)]
)
def test_splits_of_different_protocols_are_never_averaged(data, make_run, key, value):
    make_run("arid-kd-1")
    make_run("arid-kd-2", **{key: value})
    with pytest.raises(ValueError, match=rf"protocol\.{key}: found arid-kd-1: .*, arid-kd-2: .*; wanted one value"):
        tables_of(data)


def test_other_tags_may_differ_in_protocol(data, make_run):
    make_run("arid-1")
    make_run("arid-hot-1", temperature=9.0)
    assert len(tables_of(data)) == 4


def test_footnotes_say_how_each_row_was_made_and_tested(data, make_run):
    make_run("arid-1")
    make_run("arid-2")
    make_run("arid-lime-1", enhancer="lime", enhancer_weights=None, crops="ten", clips=3)
    first = tables_of(data)[0]
    (note,) = notes_of(first, "DL-KDD (Ours)")
    assert note == (
        "[1] arid-1, arid-2: r2plus1d_34 with the head attention from the weights abc000000000; 64 frames of 112 x 112 "
        "pixels, cropped from 128 x 170; teacher's input enhanced, enhancer zero_dce with the weights eeeeeeeeeeee; 30 "
        "epochs; soft targets weighted 1.5, times 0.95 each epoch, at temperature 5, without its square as a factor; "
        "seed 0. Test: 1 clip(s) a video, crops centre, average of logits."
    )
    (note,) = notes_of(first, "ours: teacher on LIME input, r2plus1d_34, runs tagged lime")
    assert "arid-lime-1: " in note
    assert "enhancer lime;" in note
    assert note.endswith("Test: 3 clip(s) a video, crops ten, average of logits.")
    assert any("does not say how many clips and crops" in note for note in first.notes)


def test_other_networks_and_random_weights_are_no_reproduction(data, make_run):
    make_run("arid-1", weights=None)
    make_run("arid-small-1", model="r2plus1d_tiny")
    make_run("arid-swin-1", model="swin3d_b")
    first, _, _, fourth = tables_of(data)
    random = "Not a reproduction of the paper: it starts from random weights, not from pretrained ones."
    assert notes_of(first, "DL-KDD (Ours)")[1].endswith(random)
    assert notes_of(fourth, "Backbone Only")[1].endswith(random)
    small = notes_of(first, "ours: backbone only, r2plus1d_tiny, runs tagged small")
    assert small[1].endswith("the network is r2plus1d_tiny, not the paper's r2plus1d_34.")
    # Video-Swin-B is the network of its own row, and not that of DL-KDD.
    assert len(notes_of(first, "Video-Swin-B")) == 1
    assert len(notes_of(first, "ours: teacher on ZeroDCE input, swin3d_b, runs tagged swin")) == 2


def test_whatever_differs_from_the_paper_is_said_below_its_row(data, make_run, monkeypatch):
    monkeypatch.setattr(paper_tables, "TEST_CLIPS", paper_rows.TEST_CLIPS)
    make_run("arid-1", n=823, student_lr=1e-4, student_batch_size=8)
    make_run("arid-short-1", n=12, epochs=2, temperature=3.0, frames=4, enhancer_weights=None, student_lr=1e-3)
    first = tables_of(data)[0]
    assert len(notes_of(first, "DL-KDD (Ours)")) == 1
    short = notes_of(first, "ours: student of a teacher on ZeroDCE input, r2plus1d_34, runs tagged short")[1]
    assert short.endswith(
        "Not a reproduction of the paper: frames is 4, not 64; temperature is 3.0, not 5.0; student_lr is 0.001, not "
        "0.0001; epochs is 2, not 30; Zero-DCE was trained on the run's own frames, not published weights; "
        "arid-short-1 was tested on 12 clips, the published list has 823."
    )


def test_a_student_without_soft_targets_or_with_another_head_is_not_dl_kdd(data, make_run):
    make_run("arid-1", kd_weight=0.0)
    make_run("arid-2", kd_weight=0.0)
    make_run("arid-average-1", head="average")
    first, _, _, fourth = tables_of(data)
    assert rows_of(first)["DL-KDD (Ours)"][-5:] == ("-",) * 5
    assert rows_of(fourth)["DL-KDD-Student (Ours)"][-5:] == ("-",) * 5
    assert rows_of(fourth)["Backbone Only"][-5] == "50.00 (n = 100)"


def test_an_enhancer_trained_on_the_runs_own_frames_is_told_from_the_published_one(data, make_run):
    make_run("arid-1", enhancer_weights=None)
    assert "enhancer zero_dce trained on the run's own frames" in notes_of(tables_of(data)[0], "DL-KDD (Ours)")[0]


def attainable(percent, n):
    """Whether some k of n is `percent`, printed with two decimals."""
    return any(f"{100 * hits / n:.2f}" == percent for hits in range(n + 1))


def test_what_the_footnotes_say_of_the_papers_figures_is_true(data):
    first, _, third, fourth = tables_of(data)
    for table in (first, fourth):
        assert "97.64, 95.73 and 92.97 are not attainable as k/823, k/859 or k/852" in " ".join(table.notes)
    assert "52.26 and 80.18 are not attainable as k/1763" in " ".join(third.notes)
    assert "80.18 is no k/5289" in " ".join(third.notes)
    assert not any(attainable(*case) for case in itertools.product(("97.64", "95.73", "92.97"), (823, 859, 852)))
    assert not attainable("52.26", 1763)
    assert not attainable("80.18", 1763)
    assert not attainable("80.18", 3 * 1763)
    # The mean of three splits of 1763 clips each is k/5289; 52.26 is one.
    assert attainable("52.26", 3 * 1763)


def test_leaks_are_named_by_run(data, make_run):
    make_run("dark48-1", n=1763, leaks=NO_LEAKS | {"same_scene": 139})
    make_run("dark48-2", n=1763)
    _, _, third, _ = tables_of(data)
    notes = [note for note in third.notes if note.startswith("dark48-")]
    assert len(notes) == 1
    assert notes[0].startswith("dark48-1: 139 of 1763 test clips ")


def test_runs_without_labels_have_no_row_and_are_listed(data, make_run):
    make_run("arid-1", n=0)
    make_run("arid-2", (0.1, 0.2, 0.3), temperature=4.0)
    make_run("ug2-1", n=0, leaks=NO_LEAKS | {"same_clip": 2})
    first, *_, last = tables_of(data)
    assert rows_of(first)["DL-KDD (Ours)"][-5:] == ("-", "30.00 (n = 100)", "-", "30.00 (1 of 3 splits)", "-")
    assert "arid-1: no labels, so no figures; predictions in data/arid-1/predictions.csv." in first.notes
    assert last.title.startswith("UG2+ (in no table of the paper)")
    assert last.rows == ()
    assert last.notes[0].startswith("ug2-1: 2 of 90 test clips ")
    assert last.notes[1].startswith("ug2-1: no labels")


def test_labelled_runs_of_a_data_set_that_the_paper_lacks_have_rows_of_their_own(data, make_run):
    make_run("ug2-1", (0.1, 0.2, 0.3))
    last = tables_of(data)[-1]
    assert [row[1] for row in last.rows] == ["-"] * 3
    assert [row[2] for row in last.rows] == [f"{share}.00 (n = 100)" for share in (10, 20, 30)]


def test_only_evaluated_runs_of_the_papers_data_sets_are_read(data, make_run):
    make_run("arid-gic2-3", n=7)
    make_run("arid15-1")
    for other in ("demo", "arid6", "arid6-1", "arid-Tag-1", "night-1"):
        make_run(other)
    (data / "arid-2").mkdir()
    (data / "README.md").write_text("")
    runs = read_runs(data)
    assert [(run.run, run.dataset, run.tag, run.split) for run in runs] == [
        ("arid-gic2-3", "arid", "gic2", 3),
        ("arid15-1", "arid15", "", 1),
    ]
    assert runs[0].n == 7
    assert runs[0].figures["student"]["top1"] == 0.7
    assert runs[0].protocol["temperature"] == 5.0
    assert runs[0].leaks == ""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metrics", '{"n": 1', "is no json"),
        ("metrics", "[]", "wanted an object"),
        ("metrics", '{"n": true}', "n: found True, wanted int"),
        ("metrics", '{"n": -1}', "n: found -1"),
        ("metrics", '{"n": 5, "baseline": {}}', "baseline.top1: missing"),
        ("metrics", '{"n": 5, "baseline": {"top1": NaN}}', "baseline.top1: found nan, wanted 0 to 1"),
        ("metrics", '{"n": 5, "baseline": {"top1": 0.5}}', "teacher.top1: missing"),
        ("details", "{}", "protocol.teacher_input: missing"),
        ("details", json.dumps({"protocol": PROTOCOL | {"seed": "0"}}), "protocol.seed: found '0', wanted int"),
        ("details", json.dumps({"protocol": PROTOCOL | {"weights": 3}}), "protocol.weights: found 3"),
        ("statistics", '{"leaks": ["same clip: a"]}', "leaks: found"),
        ("statistics", None, "no such file"),
        ("details", None, "no such file"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(data, make_run, name, text, said):
    path = make_run("arid-1") / f"{name}.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(ValueError, match=rf"arid-1/{name}\.json: .*{re.escape(said.split(': ')[-1])}") as raised:
        read_runs(data)
    assert said in str(raised.value)


def test_a_missing_folder_and_a_split_without_a_column_are_refused(data, make_run):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        read_runs(data / "nowhere")
    make_run("arid-4")
    with pytest.raises(ValueError, match=r"arid-4: found split 4, wanted one of 1, 2, 3"):
        read_runs(data)


@pytest.fixture
def full(data, make_run):
    """Tables of runs that bring every kind of row and footnote."""
    make_run("arid-1")
    make_run("arid-2")
    make_run("arid-tiny-1", model="r2plus1d_tiny", weights=None)
    make_run("dark48-1", leaks=NO_LEAKS | {"same_scene": 3, "same_name": 1})
    make_run("ug2-1", n=0)
    return tables_of(data)


def test_markdown_has_a_heading_a_table_and_footnotes_each(full):
    blocks = as_markdown(full).split("\n\n")
    headings = [block for block in blocks if block.startswith("### ")]
    assert [heading[4:11] for heading in headings] == ["Table 1", "Table 2", "Table 3", "Table 4", "UG2+ (i"]
    grids = [block.splitlines() for block in blocks if block.startswith("|")]
    assert len(grids) == 4
    for lines, table in zip(grids, full, strict=False):
        assert {line.count(" | ") for line in lines} == {len(table.header) - 1}
        assert lines[1] == "|" + " --- |" * len(table.header)
    assert (
        "| DL-KDD (Ours) [1] | KD | Original + ZeroDCE | Original | 97.64 | 70.00 (n = 100) | 70.00 (n = 100) | - | "
        in (as_markdown(full))
    )
    assert "\n* [1] arid-1, arid-2: r2plus1d_34 " in as_markdown(full)


def unescaped(text, characters):
    return re.findall(rf"(?<!\\)[{re.escape(characters)}]", text)


def test_latex_is_balanced_and_escaped(full):
    text = as_latex(full)
    assert not unescaped(text, "_%#$^~<>|")
    assert r"r2plus1d\_34" in text
    assert r"accuracy (\%)" in text
    assert len(unescaped(text, "{")) == len(unescaped(text, "}"))
    opened = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    for body, table in zip(re.findall(r"\\begin\{tabular\}(.*?)\\end\{tabular\}", text, re.DOTALL), full, strict=False):
        widths = [float(width) for width in re.findall(r"p\{([\d.]+)\\linewidth\}", body)]
        assert len(widths) == len(table.header)
        # Rounded to three places each; what is left of the line are the gaps between columns.
        assert sum(widths) == pytest.approx(0.88, abs=0.0005 * len(widths))
        lines = [line for line in body.splitlines() if line.endswith(r"\tabularnewline")]
        assert len(lines) == 1 + len(table.rows)
        assert {len(unescaped(line, "&")) for line in lines} == {len(table.header) - 1}
    # A bare bracket may be read as the option of the command before it.
    assert not re.search(r"(?<!\{)\[|\](?!\})", text)
    assert set(text) <= set(map(chr, range(128)))


def test_characters_that_latex_gives_a_meaning_to_are_escaped_one_by_one(data, make_run):
    make_run("arid-1", average=r"a&b%c$d#e_f{g}h~i^j\k<l>m|n")
    escaped = (
        r"a\&b\%c\$d\#e\_f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k\textless{}l\textgreater{}m"
        r"\textbar{}n"
    )
    assert escaped in as_latex(tables_of(data))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_without_any_package(full, tmp_path):
    document = "\n".join([r"\documentclass{article}", r"\begin{document}", as_latex(full), r"\end{document}", ""])
    (tmp_path / "tables.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "tables.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:]

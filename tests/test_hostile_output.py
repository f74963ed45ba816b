"""What is printed and written of names that come from anywhere: nothing of them steers a terminal, is a formula in a
spreadsheet or changes a page."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import click
import h5py
import numpy as np
import pytest
from random_checkpoint import write_checkpoint
from test_store_commands import write_store
from tqdm import tqdm

from pipeline import cli, presets
from pipeline.clips.clip_index import Clip, clips_to_text
from pipeline.clips.files import sha256_of
from pipeline.clips.plain_text import cell, from_cell, one_line, visible
from pipeline.clips.video import probe, write_video
from pipeline.commands.terminal import PlainStream, plain_output
from pipeline.doctor import examination
from pipeline.doctor.findings import Finding
from pipeline.inference.model_card import escaped
from pipeline.inference.overlay import drawable
from pipeline.pages.blocks import Cell, Charts, Code, Facts, Folded, Listing, Page, Picture, Pictures, Section, Table
from pipeline.pages.blocks import Text as Paragraph
from pipeline.pages.charts import Interval, bar_chart, interval_chart, line_chart
from pipeline.pages.page import render_page
from pipeline.tables.paper_text import Table as PaperTable
from pipeline.tables.paper_text import as_latex, as_markdown

ROOT = Path(__file__).parents[1]

# Typed from the Unicode charts: C0 but tab and line feed, DEL and C1, the two separators, bidi controls.
CODES = [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F)]
CODES = [chr(code) for code in (*CODES, *range(0x2066, 0x206A))]

EVIL = "MARK\x1b[31m\x1b]0;t\x07\x9b2J\u202egnp.exe"
"""A name with a word that is found again, colours, a window's title, a bell, a C1 code and a bidi override."""
CLASSES = (f"={EVIL}", "-1+1|<b>&`$_%", EVIL)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Bytes(io.BytesIO):
    """What a stream writes to, which may say that it is a terminal."""

    def __init__(self, *, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


def run_main(*arguments, stdin=b"", terminal=False):
    """The whole program in this process, as a terminal or a pipe sees it."""
    written = {name: Bytes(terminal=terminal) for name in ("stdout", "stderr")}
    streams = {name: io.TextIOWrapper(bytes_, encoding="utf-8", newline="") for name, bytes_ in written.items()}
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    hook, code = sys.excepthook, 0
    try:
        with mock.patch.multiple(sys, argv=["dlkdd", *map(str, arguments)], stdin=given, **streams):
            cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.excepthook = hook
    out, err = (bytes_.getvalue().decode("utf-8") for bytes_ in written.values())
    return Ended(code=code, out=out, err=err)


def codes_in(text):
    return [code for code in CODES if code in text]


# --- what is shown of a text ---


def test_every_code_is_shown_as_an_escape_and_nothing_else_is_touched():
    assert [visible(code) for code in CODES if codes_in(visible(code))] == []
    others = [chr(code) for code in range(0x3000) if chr(code) not in CODES]
    assert visible("".join(others)) == "".join(others)
    assert (
        visible("a\x1b[2J\rb\x9b\x7f\u202e\u2067\u2028c\td\ne")
        == r"a\x1b[2J\rb\u009b\u007f\u202e\u2067\u2028c" + "\td\ne"
    )
    assert one_line("a\tb\nc\rd") == r"a\tb\nc\rd"
    for text in ("走る é 😀 \u200d", "\\x1b", "שלום"):
        assert one_line(text) == text


def test_json_stays_json_of_the_same_values():
    value = {"".join(CODES): ["".join(CODES), '\n\t"\\']}
    for ascii_alone in (True, False):
        shown = visible(json.dumps(value, ensure_ascii=ascii_alone))
        assert codes_in(shown) == []
        assert json.loads(shown) == value


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_a_cell_is_no_formula_and_its_text_comes_back(start):
    for text in (f"{start}1+1", f" {start}1", start, f"'{start}1"):
        assert not cell(text).startswith(FORMULA_STARTS)
        assert not cell(text).strip().startswith(FORMULA_STARTS[:4])
        assert from_cell(cell(text)) == text
    assert cell(f"a{start}1") == f"a{start}1"
    assert len({cell(text) for text in (f"{start}1", f"'{start}1", f"''{start}1")}) == 3


# --- terminals ---


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stream_passes_no_code_on(terminal):
    raw = Bytes(terminal=terminal)
    stream = PlainStream(raw, encoding="utf-8", errors="backslashreplace")
    for code in CODES:
        print(f"a{code}b", file=stream)
        stream.write(f"{code}b{code}")
    stream.writelines(CODES)
    print("\udcff", file=stream, flush=True)
    text = raw.getvalue().decode("utf-8")
    # At the start of a line, going back to it moves nothing.
    assert codes_in(text.replace("\r", "") if terminal else text) == []
    assert "a\r" not in text
    assert "\\udcff" in text


def test_bars_work_on_a_terminal_and_their_titles_steer_nothing():
    def bars(kind, title):
        raw = Bytes(terminal=True)
        stream = kind(raw, encoding="utf-8", newline="")
        with tqdm(desc=title, total=3, file=stream, mininterval=0) as outer:
            for _ in range(3):
                with tqdm(desc=title, total=2, file=stream, mininterval=0, leave=False) as inner:
                    inner.update(2)
                outer.update()
        stream.flush()
        return raw.getvalue()

    with mock.patch.object(tqdm, "format_meter", staticmethod(meter)):
        given = bars(io.TextIOWrapper, "harmless")
        assert bars(PlainStream, "harmless") == given
        evil = bars(PlainStream, f"\r{EVIL}").decode()
    assert b"\x1b[A" in given
    assert "MARK" in evil
    assert set(codes_in(evil.replace("\x1b[A", ""))) == {"\r"}
    assert "\rMARK" not in evil


def meter(n, total, elapsed, prefix="", **more):
    """A bar without times."""
    return f"{prefix} {n} of {total}"


def test_streams_are_given_back_as_they_were():
    for kind in ("utf-8", "ascii"):
        raw = Bytes(terminal=False)
        stream = io.TextIOWrapper(raw, encoding=kind, newline="")
        with mock.patch.multiple(sys, stdout=stream, stderr=stream):
            with plain_output():
                print("é\x1b")
                click.echo("é\x1b", color=True)
            assert sys.stdout is stream
            print("\x1b")
            stream.flush()
        assert raw.getvalue().decode("utf-8") == "é\\x1b\n" * 2 + "\x1b\n"


def test_an_unexpected_error_is_told_without_codes():
    def broken(**more):
        raise RuntimeError(EVIL)

    raw = Bytes(terminal=False)
    stream, hook = io.TextIOWrapper(raw, encoding="utf-8", newline=""), sys.excepthook
    with mock.patch.multiple(sys, argv=["dlkdd"], stderr=stream), mock.patch.object(cli.cli, "main", broken):
        try:
            with pytest.raises(RuntimeError) as error:
                cli.main()
            sys.excepthook(error.type, error.value, error.tb)
        finally:
            sys.excepthook = hook
    stream.flush()
    assert "RuntimeError: MARK\\x1b" in raw.getvalue().decode()
    assert codes_in(raw.getvalue().decode()) == []


def test_a_process_ends_quietly_and_with_an_error_where_output_cannot_be_written(tmp_path):
    """Not with a file cut off and exit code 0, and nothing of the streams is left to complain of."""
    command = [sys.executable, "-m", "pipeline"]
    told = subprocess.run([*command, "table", EVIL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith(f"Error: data/{visible(EVIL)}/")
    assert told.stderr.count("\n") == 1
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        cut = subprocess.run(
            [*command, "--help"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert cut.returncode == 1
    assert cut.stderr.startswith("Error: [Errno 28]")


# --- all commands ---


@pytest.fixture(scope="module")
def night(tmp_path_factory, small_params):
    """A run without training whose videos, classes, run's name and checkpoints are hostile."""
    base = tmp_path_factory.mktemp("night")
    params = small_params(evaluate={"stress_ev": []})
    videos = base / "videos"
    clips = []
    for number, name in enumerate([f"{EVIL}.mp4", "-o.mp4", "line\nline.mp4", "d.mp4"]):
        path, label = videos / CLASSES[number % 3].replace("/", "|") / name, number % 3
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = np.random.default_rng(number // 2).integers(0, 60, (6, 32, 44, 3), dtype=np.uint8)
        write_video(base / "a.mp4", frames, fps=30, lossless=True)
        (base / "a.mp4").rename(path)
        info = probe(path)
        values = {key: getattr(info, key) for key in Clip.__dataclass_fields__ if hasattr(info, key)}
        clip_id = path.relative_to(videos).as_posix()
        more = {"label": label, "class_name": CLASSES[label], "scene": clip_id, "sha256": sha256_of(path)}
        clips += [Clip(id=clip_id, subset=subset, **values, **more) for subset in ("train", "test")]
    folder = base / "data/night"
    folder.mkdir(parents=True)
    (folder / "clips.csv").write_text(clips_to_text(clips), newline="")
    configs = {"student": params["student"], "teacher": params["teacher"]}
    for seed, kind in enumerate(("baseline", "teacher", "student")):
        settings = configs["teacher" if kind == "teacher" else "student"] | {"enhancer": None}
        write_checkpoint(folder / f"{kind}.safetensors", kind=kind, seed=seed, classes=CLASSES, settings=settings)
    ids = sorted({clip.id for clip in clips})
    labels = [next(clip.label for clip in clips if clip.id == clip_id) for clip_id in ids]
    for seed, name in enumerate(("logits.h5", "other.h5")):
        logits = np.random.default_rng(seed).normal(0, 3, (8, 3)).astype(np.float32)
        write_store(folder / name, logits, ids=ids, names=CLASSES, labels=labels, weights=f"{name} {EVIL}")
    place = {"videos": str(videos), "train": str(videos), "test": str(videos), "class_ids": [0, 1, 2]}
    params |= {"runs": ["night"], "rendered": [], "inputs": {"night": place | {"classes": list(CLASSES)}}}
    params["prepare"] |= {"on_leak": "report", "max_bad": 9}
    presets.write_params(base / "params.yaml", params, name="night", force=False)
    return base


def evaluated(*more):
    models = [
        part for kind in ("baseline", "teacher", "student") for part in (f"--{kind}", f"data/night/{kind}.safetensors")
    ]
    outs = {"metrics": "metrics.json", "details": "details.json", "predictions": "predictions.csv"}
    outs |= {"confusion": "confusion.csv", "card": "MODEL_CARD.md"}
    named = [part for key, name in outs.items() for part in (f"--{key}", f"data/night/{name}")]
    return ["evaluate", "--clips", "data/night/clips.csv", "--videos", "videos", *models, *named, *more]


STAGE = ["--videos", "videos", "--clips", EVIL]
TRAINS = [*STAGE, "--statistics", "x", "--checkpoint", "x", "--curve", "x", "--timings", "x"]
H5, BAD = "data/night/logits.h5", "data/night/bad.h5"
PREDICT = ("predict", "data/night/student.safetensors", "--device", "cpu", "--threads", "1")
SMALL = ["--model", "r2plus1d_tiny", "--frames", "4", "--size", "32", "--repeats", "1", "--threads", "1"]

COMMANDS = {
    "use": [["use", EVIL], ["use", "mine", "--folder", EVIL]],
    "render": [["render", "--out", "x", "--params", EVIL]],
    "prepare": [
        ["prepare", "--run", "night", "--videos", "videos", "--train", "videos", "--test", "videos",
         "--clips", "new/clips.csv", "--statistics", "new/s.json", "--quarantine", "new/bad.csv"],
    ],
    "enhancer": [["enhancer", *STAGE, "--checkpoint", "x", "--contact-sheet", "x", "--figures", "x"]],
    "teacher": [["teacher", *TRAINS, "--enhancer", "x", "--card", "x"]],
    "logits": [["logits", *STAGE, "--teacher", "x", "--store", "x"]],
    "student": [["student", *TRAINS, "--store", "x", "--teacher-card", "x"]],
    "baseline": [["baseline", *TRAINS]],
    "live": [["live", *TRAINS, "--teacher", "x"]],
    "study run": [["study", "run", EVIL], ["study", "run", "night", "--variant", EVIL]],
    "study save": [["study", "save", EVIL, "x.json"]],
    "evaluate": [evaluated(), evaluated("--clips", EVIL), evaluated("--baseline", "stranger.safetensors")],
    "report": [["report", "--out", "r.html", "--folder", folder] for folder in ("data/night", EVIL)],
    "table": [["table", EVIL], ["table", "--paper"], ["table", "--paper", "--format", "latex"]],
    "store info": [["store", "info", H5]],
    "store verify": [["store", "verify", EVIL], ["store", "verify", BAD]],
    "store show": [["store", "show", H5, f"={EVIL}/{EVIL}.mp4"], ["store", "show", H5, EVIL]],
    "store export": [["store", "export", H5, "--csv", f"{EVIL}.csv"]],
    "store diff": [["store", "diff", H5, "data/night/other.h5"]],
    "darken": [["darken", "broken", "dark", "--ev", "-1"]],
    "brighten": [["brighten", "broken", "bright", "--enhancer", "gamma", "--threads", "1"]],
    "cost": [["cost", *SMALL, "--into", f"{EVIL}.md"]],
    "bench": [["bench", EVIL]],
    "clean": [["clean", EVIL]],
    "inspect": [["inspect", "videos", "--processes", "1"], ["inspect", "broken", "--processes", "1"]],
    "predict": [
        *([*PREDICT, "--format", form, "--", "videos", "broken"]
          for form in ("json", "csv")),
        [*PREDICT, EVIL],
        [*PREDICT, f"videos/={EVIL}", "--save-video", f"{EVIL}.mp4"],
    ],
    "export": [["export", EVIL], ["export", "data/night/student.safetensors", "--format", "torch", "--videos", EVIL]],
    "doctor": [["doctor"], ["doctor", "--json"]],
}  # fmt: skip
SILENT = [evaluated(), ["report", "--out", "r.html", "--folder", "data/night"], ["store", "verify", BAD]]
"""Calls that say no name."""


def leaves(group, before=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*before, name))
        else:
            yield " ".join((*before, name))


def test_no_command_was_forgotten():
    assert sorted(COMMANDS) == sorted(leaves(cli.cli))


@pytest.mark.parametrize("terminal", [False, True])
def test_no_command_passes_codes_on_from_names(night, monkeypatch, terminal):
    monkeypatch.chdir(night)
    made_hostile(night)
    monkeypatch.setattr(examination, "findings", lambda *_: [Finding(part="git", state="ok", found=EVIL, remedy=EVIL)])
    for name, calls in COMMANDS.items():
        for call in calls[:1] if terminal and name in ("inspect", "predict", "store info") else calls * (not terminal):
            result = run_main(*call, terminal=terminal)
            both = result.out + result.err
            if terminal:
                both = re.sub(r"\r(?!MARK)|(\x1b\[A)+", "", both)
            assert codes_in(both) == [], (call, both)
            assert call in SILENT or "MARK" in both, (call, both)
            assert "Traceback" not in both
            assert result.code in (0, 1, 2), (call, both)


def made_hostile(base):
    """What the commands need beside the run: broken videos, an exported run's figures, another's checkpoint."""
    (base / "broken").mkdir(exist_ok=True)
    (base / "broken" / f"{EVIL}.mp4").write_bytes(b"no video")
    (base / f"{EVIL}.md").write_text("no markers")
    shutil.copy(base / H5, base / BAD)
    with h5py.File(base / BAD, "r+") as file:
        file["logits"][0, 0] += 1  # the row's checksum tells
    write_checkpoint(base / "stranger.safetensors", kind="baseline", classes=(EVIL, "b", "c"))
    folder = base / "data/arid-1"
    folder.mkdir(exist_ok=True)
    protocol = {
        "teacher_input": "enhanced", "enhancer": EVIL, "enhancer_weights": None, "model": f"{EVIL}\n|", "head": EVIL,
        "weights": EVIL, "frames": 4, "size": 32, "frame_size": [32, 44], "clips": 1, "crops": EVIL, "average": EVIL,
        "epochs": 1, "kd_weight": 1.0, "kd_decay": 1.0, "temperature": 5.0, "scale_by_temperature_squared": False,
        "seed": 0,
    }  # fmt: skip
    figures = {kind: {"top1": 0.5, "top5": 0.5} for kind in ("baseline", "teacher", "student")}
    (folder / "metrics.json").write_text(json.dumps({"n": 2, **figures}))
    (folder / "details.json").write_text(json.dumps({"protocol": protocol}))
    (folder / "statistics.json").write_text(json.dumps({"leaks": {}}))


def test_a_line_end_in_a_name_gives_no_line_of_its_own(night, monkeypatch):
    monkeypatch.chdir(night)
    Path("set").mkdir()
    Path("set/a\nError: all is lost.mp4").write_bytes(b"no video")
    for call in (
        ["inspect", "set", "--processes", "1"],
        [*PREDICT, "set"],
        [*PREDICT, "set", "--format", "csv"],
    ):
        result = run_main(*call)
        both = result.out + result.err
        assert r"a\nError: all is lost.mp4" in both
        assert not [line for line in both.splitlines() if line.startswith("Error: all is lost")]


# --- spreadsheets ---


def cells_of(text):
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len({len(row) for row in rows}) == 1
    return rows


def formulas(rows):
    """Texts that a spreadsheet would take for a formula; numbers are what float reads."""

    def is_number(text):
        try:
            float(text)
        except ValueError:
            return False
        return True

    return [text for row in rows for text in row if text.startswith(FORMULA_STARTS) and not is_number(text)]


def test_no_csv_that_people_open_holds_a_formula(night, monkeypatch):
    monkeypatch.chdir(night)
    assert run_main(*evaluated()).code == 0
    assert run_main("store", "export", H5, "--csv", "export.csv").code == 0
    # A path that begins with a hyphen, as it stands in a folder that was named so.
    (night / "-videos").mkdir(exist_ok=True)
    (night / "-videos/a.mp4").write_bytes((night / "videos" / CLASSES[1] / "-o.mp4").read_bytes())
    answers = run_main(*PREDICT, "--format", "csv", "--", "-videos").out
    texts = {name: Path(name).read_text(encoding="utf-8") for name in ("export.csv",)}
    texts |= {
        name: (night / "data/night" / name).read_text(encoding="utf-8") for name in ("predictions.csv", "confusion.csv")
    }
    for name, text in (texts | {"answers": answers}).items():
        rows = cells_of(text)
        assert len(rows) > 1, name
        assert formulas(rows) == [], name
    assert cells_of(answers)[1][0] == "'-videos/a.mp4"
    assert any(row[0].startswith("'=") for row in cells_of(texts["predictions.csv"]))
    # Numbers stay numbers, below zero too.
    assert any(float(value) < 0 for row in cells_of(texts["export.csv"])[1:] for value in row[6:])


# --- pages, Markdown, LaTeX, pictures ---


class Tags(HTMLParser):
    """The elements of a page with the names of their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.values = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.values += [value for _, value in attrs if value]

    def handle_endtag(self, tag):
        self.tags.append(f"/{tag}")

    def handle_data(self, data):
        self.text += data


def page_of(name):
    """A page with a name wherever one can stand."""
    table = Table(caption=name, headers=[name, "b"], rows=[[name, Cell(text=name, value=1.0, heat=3)]], sortable=True)
    interval = Interval(name=name, series=name, value=0.5, low=0.1, high=0.9)
    charts = [
        interval_chart(name, [interval, Interval(name="b", series="b", value=0.5, low=0.1, high=0.9)], x_label=name),
        bar_chart(name, {name: {name: 1.0, "b": 2.0}}, x_label=name),
        line_chart(name, {name: [(0, 1), (1, 2)], "b": [(0, 1)]}, x_label=name, y_label=name),
    ]
    picture = Picture(sources=[("data:image/png;base64,", name)], caption=name, width=9)
    blocks = [
        Paragraph(text=name, tone="note", more=name), Facts(items=[(name, name)]), table, Charts(charts=charts),
        Pictures(title=name, pictures=[picture]), Listing(items=[name]), Code(label=name, text=name),
        Folded(title=name, blocks=[Paragraph(text=name)]),
    ]  # fmt: skip
    return render_page(
        Page(title=name, lead=[name], sections=[Section(id="a", title=name, blocks=blocks)], footer=name)
    )


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "' onload='alert(1)",
        "</style></script><svg onload=alert(1)>",
        "]]>--><!--",
        "{{ 7 * 7 }}{% raw %}",
        "&lt;b&gt; &amp;amp;",
        "javascript:alert(1)",
        EVIL,
        "\u202eRTL\u2066 שלום\n`|$%\\_",
    ],
)
def test_a_name_changes_nothing_of_a_page_but_its_text(name):
    page, wanted = Tags(page_of(name)), Tags(page_of("harmless"))
    assert page.tags == wanted.tags
    assert codes_in(page_of(name)) == []
    assert visible(name) in page.text
    assert visible(name) in page.values


def test_codes_in_a_model_card_are_shown_or_blanks():
    assert escaped("a\u202eb\x1b[1m\x9bc\u2067") == r"a\\u202eb \[1m c\\u2067"
    assert codes_in("".join(map(escaped, CODES))) == []


def test_tables_hold_any_text():
    table = PaperTable(title="t", header=("a", "b"), rows=(("x|y\\|z\nw", "<b>\u202e"),), notes=("n\no\x1b",))
    text = as_markdown([table])
    assert text.splitlines()[-3:] == [r"| x\|y\\\|z\\nw | &lt;b>\\u202e |", "", r"* n\no\x1b"]
    hostile = r"& % $ # _ { } ~ ^ \ < > | [ ] \input{/etc/passwd} $x$ %" + "\n\n\x1b"
    latex = as_latex([PaperTable(title=hostile, header=("a",), rows=((hostile,),), notes=(hostile,))])
    spelt = (
        r"\& \% \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{} \textgreater{} "
        r"\textbar{} {[} {]} \textbackslash{}input\{/etc/passwd\} \$x\$ \%\textbackslash{}n\textbackslash{}n"
        r"\textbackslash{}x1b"
    )
    assert latex.count(spelt) == 3


@pytest.mark.parametrize("name", [*CLASSES, "a\nb\tc", "שלום\u202e", "\udcff", "%s %d {0}", "😀" * 50, ""])
def test_pictures_are_written_on_in_plain_letters(name):
    assert re.fullmatch("[ -~]*", drawable(name, 7))

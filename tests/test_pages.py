"""Pages: they hold what the files say, need nothing but themselves, and work for everybody."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from micro import Run

from pipeline.clips.clip_index import Clip, clips_to_text
from pipeline.clips.survey import collect, survey_all
from pipeline.clips.survey_entries import entries_of_folder
from pipeline.clips.survey_findings import find
from pipeline.clips.survey_summary import summarise
from pipeline.pages.blocks import Page, Section, Table, Text
from pipeline.pages.charts import Interval, bar_chart, histogram, interval_chart, line_chart
from pipeline.pages.dataset_page import dataset_page
from pipeline.pages.dataset_pictures import brighten, spread_by_luma
from pipeline.pages.drawing import ticks
from pipeline.pages.page import render_page, write_page
from pipeline.pages.report import write_report
from pipeline.pages.report_answers import reliability
from pipeline.pages.report_frames import surest
from pipeline.pages.run_files import Answer, read_run
from pipeline.presets import ARID_CLASSES, ARID_SCENES
from pipeline.training.checkpoint import Record, save_checkpoint
from pipeline.training.metrics import compare, describe, reliability_bins, top_k_hits

EVIL = "<script>alert(1)</script>"
EVIL_FILE = 'Run/"><img src=x onerror=alert(2)>.mp4'
NAMES = ("Run", "Walk", EVIL)
MODELS = ("baseline", "teacher", "student")
CLIPS = 30


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's files with random answers, a class named like a script, and videos; no training."""
    base = tmp_path_factory.mktemp("pages")
    folder, videos = base / "data" / "night", base / "videos"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = np.arange(CLIPS) % 3
    logits = {kind: rng.normal(0, 1, (CLIPS, 3)).astype(np.float32) for kind in MODELS}
    for position, kind in enumerate(MODELS):
        logits[kind][np.arange(CLIPS), labels] += position
    figures = {kind: describe(logits[kind], labels, NAMES, bins=5, resamples=20, seed=0) for kind in MODELS}
    details = {kind: {key: figures[kind].pop(key) for key in ("per_class", "confusion")} for kind in MODELS}
    for kind in MODELS:
        details[kind]["reliability"] = reliability_bins(logits[kind], labels, bins=5)
    details |= {"class_names": list(NAMES), "protocol": {"frames": 4, "crops": "centre"}}
    hits = {kind: top_k_hits(logits[kind], labels, 1) for kind in MODELS}
    metrics = {"n": CLIPS, **figures}
    metrics |= {f"student_minus_{other}": compare(hits["student"], hits[other]) for other in ("baseline", "teacher")}
    ids = [EVIL_FILE, *(f"Run/{number}.mp4" for number in range(1, CLIPS))]
    chances = {kind: np.exp(values) / np.exp(values).sum(axis=1, keepdims=True) for kind, values in logits.items()}
    rows = [["id", "class", *(f"{kind}{end}" for kind in MODELS for end in ("", "_probability"))]]
    for index in range(CLIPS):
        answers = [(NAMES[chances[kind][index].argmax()], f"{chances[kind][index].max():.4f}") for kind in MODELS]
        rows.append([ids[index], NAMES[labels[index]], *(value for pair in answers for value in pair)])
    write_csv(folder / "predictions.csv", rows)
    for kind in MODELS:
        (folder / f"{kind}.safetensors").write_bytes(kind.encode())
        (folder / f"{kind}_timings.json").write_text('{"seconds": 12.3, "peak_memory_bytes": 900000000}')
        write_csv(
            folder / f"{kind}_curve.csv", [["epoch", "loss", "top1", "lr"], [0, 1.1, 0.3, 0.1], [1, 0.9, 0.4, 0.0]]
        )
    counts = {"test": dict.fromkeys(NAMES, 10), "train": dict.fromkeys(NAMES, 20)}
    statistics = {"clips": counts, "leaks": {"same_scene": 2}, "doubled": [f"same content: a, {EVIL}"]}
    statistics |= {"mean": [0.1] * 3, "std": [0.1] * 3, "mean_luma": 20.5, "dark_share": 0.01}
    contents = {"metrics": metrics, "details": details, "statistics": statistics}
    contents["teacher"] = {"preprocessing": {"colour_range": "auto", "view_rule": {"frame_size": [24, 32]}}}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    model = {"name": "gamma", "gamma": 2.2, "gamma_table": False}
    record = Record(kind="enhancer", class_names=(), model=model, preprocessing=None, settings={}, metrics={})
    save_checkpoint(folder / "enhancer.safetensors", {}, record)
    (folder / "clips.csv").write_text(
        clips_to_text([a_clip(name, int(label)) for name, label in zip(ids, labels, strict=True)])
    )
    (base / "params.yaml").write_text(f"runs: [night]  # {EVIL}\n")
    return base, ids, videos


def a_clip(name, label):
    return Clip(
        id=name, label=label, class_name=NAMES[label], subset="test", scene=name, num_frames=6, fps=30.0, width=32,
        height=24, rotation=0, pix_fmt="yuv420p", colour_range="limited", mean_luma=20.0, dark_share=0.0,
        luma_crc32=0, sha256="0" * 64,
    )  # fmt: skip


@pytest.fixture
def report(run, make_video):
    """The run's page."""
    base, ids, videos = run
    for seed, name in enumerate(ids):
        if not (videos / name).exists():
            make_video(videos / name, seed=seed, num_frames=6, level=40)
    out = base / "report.html"
    if not out.exists():
        write_report(base / "data/night", out, videos=videos, params=base / "params.yaml", surroundings=True)
    return out


def a_dataset(root, make_video):
    for number in range(8):
        make_video(
            root
            / ("train" if number < 5 else "test")
            / ("Run", EVIL.replace("/", "|"))[number % 2]
            / f"a_1_{number}.mp4",
            seed=number,
        )
    (root / "train/Run/broken<b>.mp4").write_bytes(b"")
    entries, others = entries_of_folder(root, scene_pattern=ARID_SCENES)
    survey = collect(survey_all(entries, root, colour_range="auto", processes=1), others)
    summary = summarise(survey)
    return survey, summary, find(survey, summary)


@pytest.fixture
def dataset(tmp_path, make_video):
    """A dataset's page."""
    survey, summary, findings = a_dataset(tmp_path / "set", make_video)
    page = dataset_page(
        survey, summary, findings, source=f"night {EVIL}", root=tmp_path / "set", colour_range="auto", per_class=2
    )
    write_page(tmp_path / "dataset.html", page)
    return tmp_path / "dataset.html"


@pytest.fixture(params=["report", "dataset"])
def page(request):
    return request.getfixturevalue(request.param)


class Reader(HTMLParser):
    """Tags with their attributes, headings, and what is written between tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.headings, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.text += data

    def all(self, *names):
        return [attributes for tag, attributes in self.tags if tag in names]


def test_a_page_names_nothing_outside_itself(page):
    found = Reader(page.read_text())
    for tag, attributes in found.tags:
        for name in ("src", "href", "srcset", "poster", "action", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value[:50])
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
    assert not re.search(r"url\(|@import", page.read_text())


def test_the_policy_allows_the_pages_own_style_and_script_alone(page):
    text = page.read_text()
    policy = Reader(text).all("meta")[1]["content"]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'"
    assert parts["img-src"] == "data:"
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert parts[f"{tag}-src"] == f"'sha256-{digest}'"


def test_names_are_escaped_wherever_they_stand(page):
    text = page.read_text()
    found = Reader(text)
    assert text.count("<script>") == 1
    assert len(found.all("img")) == len([each for each in found.all("img") if each["src"].startswith("data:")])
    assert "<script>alert(1)<" in found.text


def test_headings_ids_tables_pictures_and_landmarks_are_in_order(page):
    found = Reader(page.read_text())
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(found.headings, found.headings[1:], strict=False))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"][1:] for attributes in found.all("a")]
    assert set(links) <= set(ids)
    assert {attributes["aria-labelledby"] for attributes in found.all("section")} <= set(ids)
    for attributes in found.all("img"):
        assert attributes["alt"]
    for attributes in found.all("svg"):
        assert (attributes["role"], bool(attributes["aria-label"])) == ("img", True)
    assert all(attributes["scope"] in ("col", "row") for attributes in found.all("th"))
    assert len(found.all("table")) == len(found.all("caption"))
    for tag in ("main", "nav", "header", "footer", "h1", "title"):
        assert len(found.all(tag)) == 1, tag
    assert found.all("html")[0]["lang"] == "en"


def test_the_same_files_give_the_same_page(run, report):
    base, _, videos = run
    write_report(
        base / "data/night", base / "again.html", videos=videos, params=base / "params.yaml", surroundings=True
    )
    assert (base / "again.html").read_bytes() == report.read_bytes()


def test_a_report_says_what_the_files_say(run, report):
    base, _, _ = run
    text = Reader(report.read_text()).text
    metrics = json.loads((base / "data/night/metrics.json").read_text())
    for kind in MODELS:
        assert f"{metrics[kind]['top1']:.3f}" in text
        assert f"{metrics[kind]['top1_low']:.3f} - {metrics[kind]['top1_high']:.3f}" in text
        assert hashlib.sha256(kind.encode()).hexdigest() in text
    with (base / "data/night/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    apart = [row["id"] for row in rows if row["student"] != row["teacher"]]
    assert 0 < len(apart) < CLIPS
    assert f"answer {len(apart)} of {CLIPS} test clips differently" in text
    body = report.read_text().split("Clips on which student and teacher disagree</caption>")[1].split("</table>")[0]
    assert len(re.findall("<tr>", body)) == len(apart) + 1
    both = sum(row["student"] == row["class"] == row["teacher"] for row in rows)
    table = report.read_text().split("<caption>Student and teacher</caption>")[1].split("</table>")[0]
    assert re.search(rf'student right</th><td class="n">{both}</td>', table)
    assert "2 of 30 test clips share their source with a training clip" in text
    assert "Not there, and so not shown: quarantine.csv, enhancer.json, enhancer.png, logits.h5." in text
    assert "runs: [night]" in text
    for title in ("Right and sure", "Wrong and sure", "Loss", "Calibration", "Confusion"):
        assert title in text


def test_frames_are_shown_dark_and_enhanced(report):
    pictures = [attributes for attributes in Reader(report.read_text()).all("img") if "frames" in attributes["alt"]]
    assert len(pictures) % 2 == 0
    assert len(pictures) >= 8
    import cv2

    means = []
    for attributes in pictures:
        data = np.frombuffer(base64.b64decode(attributes["src"].split(",")[1]), np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert picture.shape == (24, 3 * 32, 3)
        means.append(picture.mean())
    assert all(enhanced > dark + 20 for dark, enhanced in zip(means[::2], means[1::2], strict=True))


def test_a_darkness_curve_is_shown_when_evaluate_has_written_one(run, report):
    assert "By darkness" not in report.read_text()
    base, _, _ = run
    folder = base / "dark" / "night"
    shutil.copytree(base / "data/night", folder)
    details = json.loads((folder / "details.json").read_text())
    figures = {"top1": 0.5, "top1_low": 0.4, "top1_high": 0.6}
    each = dict.fromkeys(MODELS, figures) | {"n": 15}
    details["darkness"] = {
        "bins": [{"low": 10, "high": 20, **each}],
        "stress": [{"ev": -1, **each}, {"ev": 0, **each}],
        "note": EVIL,
    }
    (folder / "details.json").write_text(json.dumps(details))
    write_report(folder, base / "dark.html", videos=None, params=base / "params.yaml", surroundings=True)
    found = Reader((base / "dark.html").read_text()).text
    for part in ("By darkness", "10 to 20, n 15", "Top-1 over synthetic darkening", "0.500 (0.400 - 0.600)", EVIL):
        assert part in found
    assert "Best and worst clips" not in found


def test_a_run_without_labels_has_a_page_without_figures(run, tmp_path):
    base, _, _ = run
    folder = tmp_path / "night"
    shutil.copytree(base / "data/night", folder)
    (folder / "metrics.json").write_text('{"n": 0}')
    (folder / "details.json").write_text(json.dumps({"class_names": list(NAMES), "protocol": {}}))
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.reader(file))
    write_csv(folder / "predictions.csv", [rows[0], *([row[0], "", *row[2:]] for row in rows[1:])])
    write_report(folder, tmp_path / "a.html", videos=base / "videos", params=tmp_path / "none.yaml", surroundings=True)
    text = Reader((tmp_path / "a.html").read_text()).text
    assert "30 test clips without labels" in text
    assert "Calibration" not in text


def test_missing_and_damaged_files_are_refused_by_name(run, tmp_path):
    base, _, _ = run
    with pytest.raises(ValueError, match=r"metrics\.json: no such file; run `dvc repro` first"):
        read_run(tmp_path)
    for name, content, message in (
        ("details.json", "{", r"details\.json: is no json"),
        ("statistics.json", "[]", r"statistics\.json: found list, wanted an object"),
        ("predictions.csv", "id,class\na,b\n", r"predictions\.csv: a row lacks 'baseline'"),
        ("student_curve.csv", "epoch,loss\n0,x\n", r"student_curve\.csv: found a row without numbers"),
    ):
        shutil.copytree(base / "data/night", tmp_path / name)
        (tmp_path / name / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            write_report(
                tmp_path / name, tmp_path / "a.html", videos=None, params=base / "params.yaml", surroundings=True
            )
    assert not (tmp_path / "a.html").exists()


def test_files_are_held_against_dvc_lock_and_the_commit_is_named(run, tmp_path):
    base, _, _ = run
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "data" / "night"
    shutil.copytree(base / "data/night", folder)
    (tmp_path / "params.yaml").write_text("runs: [night]\n")
    md5 = hashlib.md5(b"student").hexdigest()
    outs = [
        {"path": "data/night/student.safetensors", "md5": md5},
        {"path": "data/night/metrics.json", "md5": "0" * 32},
    ]
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"x": {"cmd": "x", "outs": outs}}}))
    git = ["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/results.md").touch()
    for arguments in (["init", "-q"], ["add", "params.yaml", "docs"], ["commit", "-qm", "."]):
        subprocess.run([*git, *arguments], check=True)
    (tmp_path / "docs/results.md").write_text("0.9\n")  # results that are saved here change no code
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    write_report(folder, tmp_path / "a.html", videos=None, params=tmp_path / "params.yaml", surroundings=True)
    text = (tmp_path / "a.html").read_text()
    assert f"Commit {commit}." in text
    rows = dict(
        re.findall(r'<th scope="row">([\w.]+)</th><td class="n">\d+</td><td>\w{64}</td><td>([\w ]+)</td>', text)
    )
    assert (rows["student.safetensors"], rows["metrics.json"]) == ("the same", "another")
    assert rows["teacher.json"] == "not in it"
    (tmp_path / "params.yaml").write_text("runs: [night, day]\n")
    write_report(folder, tmp_path / "a.html", videos=None, params=tmp_path / "params.yaml", surroundings=True)
    assert f"Commit {commit}, with changed files." in (tmp_path / "a.html").read_text()


def test_what_the_stages_write_makes_a_page(tmp_path, small_configs):
    done = Run(tmp_path / "micro", small_configs())
    done.folder.mkdir()
    done.render()
    done.prepare(ARID_CLASSES)
    for stage in ("enhancer", "teacher", "logits", "student", "baseline", "evaluate"):
        getattr(done, stage)()
    write_report(done.folder, tmp_path / "a.html", videos=done.videos, params=tmp_path / "none.yaml", surroundings=True)
    found = Reader((tmp_path / "a.html").read_text())
    titles = ("Results", "Teacher against student", "By class", "Confusion", "Calibration", "Learning curves")
    for title in (*titles, "Best and worst clips", "Enhancer", "Data", "Cost", "Where it comes from"):
        assert title in found.text
    assert "Not there" not in found.text


def an_answer(number, probability, *, right=True, class_name="Run"):
    answers = dict.fromkeys(MODELS, class_name if right else "other")
    return Answer(
        id=str(number), class_name=class_name, answers=answers, probabilities=dict.fromkeys(MODELS, probability)
    )


def test_the_bins_of_evaluate_are_drawn_with_wilsons_intervals():
    found = {"low": 0.5, "high": 0.6, "count": 2, "confidence": 0.525, "accuracy": 0.5}
    (drawn,) = reliability([found])
    assert (drawn.low, drawn.high, drawn.count, drawn.confidence, drawn.accuracy) == (0.5, 0.6, 2, 0.525, 0.5)
    # Of 1 in 2.
    assert (drawn.accuracy_low, drawn.accuracy_high) == (
        pytest.approx(0.0945, abs=1e-4),
        pytest.approx(0.9055, abs=1e-4),
    )


def test_the_surest_clips_come_from_many_classes_first():
    sure = [an_answer(0, 0.99), an_answer(1, 0.98), an_answer(2, 0.5, class_name="Walk")]
    assert [answer.id for answer in surest(sure, 2)] == ["0", "2"]
    assert [answer.id for answer in surest(sure, 3)] == ["0", "2", "1"]
    assert surest([], 3) == []


def test_brightening_brings_the_mean_to_its_target_and_leaves_bright_frames_alone():
    dark = np.full((8, 8, 3), 20, np.uint8)
    bright, gamma = brighten(dark)
    assert bright.mean() / 255 == pytest.approx(0.4, abs=0.01)
    assert gamma == pytest.approx(np.log(20 / 255) / np.log(0.4))
    lit = np.full((8, 8, 3), 200, np.uint8)
    assert brighten(lit)[1] == 1.0
    assert np.array_equal(brighten(lit)[0], lit)
    assert brighten(np.zeros((4, 4, 3), np.uint8))[1] == 6.0


def test_contact_sheets_hold_the_darkest_and_the_brightest(tmp_path, make_video):
    for level in (200, 20, 120, 60, 250):
        make_video(tmp_path / f"{level}.mp4", level=level)
    entries, others = entries_of_folder(tmp_path, scene_pattern="")
    videos = collect(survey_all(entries, tmp_path, colour_range="auto", processes=1), others).videos
    shown = [video.entry.id for video in spread_by_luma(videos, 3)]
    assert (shown[0], shown[-1], len(shown)) == ("20.mp4", "250.mp4", 3)
    assert len(spread_by_luma(videos, 9)) == 5


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 88, [0, 20, 40, 60, 80]),
        (-0.5, 0.5, [-0.4, -0.2, 0, 0.2, 0.4]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


def test_charts_have_their_figures_as_a_table_and_their_text_inside_the_drawing():
    interval = Interval(name=EVIL, series="student", value=0.5, low=0.1, high=0.9)
    charts = [
        line_chart("Line", {"student": [(0, 1.0), (1, 2.0)], EVIL: [(0, 3.0)]}, x_label=EVIL, y_label="y"),
        interval_chart("Intervals", [interval], x_label="x"),
        bar_chart("Bars", {EVIL: {"train": 3, "test": 1}, "Run": {"train": 2}}, x_label="videos"),
        histogram("Columns", [0, 1, 2], [3, 0], x_label="x", y_label="y", marks={EVIL: 1.0}),
        histogram("None", [0, 1], [0], x_label="x", y_label="y"),
    ]
    for chart in charts:
        assert "<script" not in chart.svg
        assert chart.table.rows or chart.title == "None"
        for x in re.findall(r' (?:x|x1|x2|cx)="([\d.-]+)"', chart.svg):
            assert 0 <= float(x) <= 360
        for y in re.findall(r' (?:y|y1|y2|cy)="([\d.-]+)"', chart.svg):
            assert 0 <= float(y) <= chart.height
    assert list(charts[0].table.rows[1]) == ["1", "2", ""]
    assert list(charts[2].table.rows[0]) == [EVIL, "3", "1"]


# The browser


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium and no google-chrome is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page in the browser, with what it complained of and asked for."""

    def __init__(self, browser, path, *, width=1280, scheme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        # Whatever is asked for beside the page itself is noted and refused.
        self.context.route(lambda url: not url.startswith(("file:", "data:")), self.refuse)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.own = path.as_uri()
        self.page.goto(self.own)

    def refuse(self, route):
        self.requests.append(route.request.url)
        route.abort()

    def __enter__(self):
        return self.page

    def __exit__(self, *error):
        outside = [url for url in self.requests if url != self.own and not url.startswith((f"{self.own}#", "data:"))]
        self.context.close()
        if error[0] is None:
            assert self.complaints == []
            assert outside == []


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_follows_the_system_and_a_button_changes_it(browser, page):
    with Opened(browser, page, scheme="dark") as shown:
        dark = background(shown)
        button = shown.get_by_role("button", name="Dark colours")
        assert button.get_attribute("aria-pressed") == "true"
        button.click()
        light = background(shown)
        assert button.get_attribute("aria-pressed") == "false"
        button.click()
        assert background(shown) == dark != light
        button.click()
        shown.reload()
        # It is remembered.
        assert background(shown) == light
    with Opened(browser, page, scheme="light") as shown:
        assert background(shown) == light


def test_tables_sort_and_filter(browser, page):
    caption = "Videos" if page.name == "dataset.html" else "Clips on which student and teacher disagree"
    with Opened(browser, page) as shown:
        block = shown.locator(".sortable").filter(has=shown.locator("caption", has_text=re.compile(f"^{caption}$")))
        column = 9 if page.name == "dataset.html" else 3
        header = block.locator("thead th").nth(column)

        def values():
            cells = block.locator(f"tbody tr:visible td:nth-child({column + 1})").all_inner_texts()
            return [float(cell) for cell in cells]

        before = values()
        assert len(before) > 5
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert values() == sorted(before)
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "descending"
        assert values() == sorted(before, reverse=True)
        block.locator("thead th").first.get_by_role("button").click()
        assert header.get_attribute("aria-sort") is None
        names = block.locator("tbody th").all_inner_texts()
        word = names[2]
        block.get_by_role("searchbox").fill(word.upper())
        assert block.locator("tbody tr:visible").count() == sum(word in name for name in names)
        assert f"of {len(names)} rows" in block.get_by_role("status").inner_text()
        block.get_by_role("searchbox").fill("")
        assert block.locator("tbody tr:visible").count() == len(names)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_overflows_with_everything_open(browser, page, width):
    with Opened(browser, page, width=width) as shown:
        shown.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        too_wide = shown.evaluate(
            """() => [...document.querySelectorAll('main *')].filter((each) =>
              !each.closest('.scroll, pre, svg, .unseen') && each.getBoundingClientRect().right > innerWidth + 1
            ).map((each) => each.outerHTML.slice(0, 80))"""
        )
        assert too_wide == []
        # Small print stays readable: the drawings' text as it is on the screen.
        sizes = shown.evaluate(
            """() => [...document.querySelectorAll('svg')].map((each) =>
              12 * each.getBoundingClientRect().width / 360)"""
        )
        assert min(sizes) > 9


def test_the_keyboard_reaches_everything(browser, page):
    with Opened(browser, page) as shown:
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.textContent") == "Skip to the content"
        box = shown.locator(".skip").bounding_box()
        assert box["x"] >= 0
        shown.keyboard.press("Enter")
        assert shown.evaluate("document.activeElement.id") == "main"
        shown.locator("#theme").focus()
        assert shown.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        shown.keyboard.press("Space")
        assert shown.locator("#theme").get_attribute("aria-pressed") == "true"
        first = shown.locator("details summary").first
        first.focus()
        shown.keyboard.press("Enter")
        assert first.evaluate("each => each.parentElement.open")
        # Whatever scrolls sideways can be scrolled by keys, and has a name.
        unreachable = shown.evaluate(
            """() => [...document.querySelectorAll('.scroll, pre')].filter((each) =>
              each.tabIndex !== 0 || !each.getAttribute('aria-label')).length"""
        )
        assert unreachable == 0


def test_everything_has_a_name_and_pictures_load(browser, page):
    with Opened(browser, page) as shown:
        assert shown.get_by_role("main").count() == 1
        assert shown.get_by_role("navigation", name="Sections").count() == 1
        nameless = shown.evaluate(
            """() => [...document.querySelectorAll('button, summary, a, input')].filter((each) =>
              !(each.textContent.trim() || each.getAttribute('aria-label') || each.labels?.length)
            ).map((each) => each.outerHTML)"""
        )
        assert nameless == []
        broken = shown.evaluate("[...document.images].filter((each) => !each.complete || !each.naturalWidth).length")
        assert broken == 0
        assert shown.evaluate("document.images.length") > 3
        for link in shown.get_by_role("navigation").get_by_role("link").all():
            link.click()
            target = shown.evaluate("decodeURIComponent(location.hash.slice(1))")
            assert shown.locator(f"#{target} h2").is_visible()


CONTRAST = """() => {
  const parse = (text) => {
    const numbers = text.match(/-?[\\d.]+(e-?\\d+)?/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return [...numbers.slice(0, 3).map((each) => each * scale), numbers.length > 3 ? numbers[3] : 1];
  };
  const over = (top, bottom) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * bottom[i]).concat(1);
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((each) => each / 255)
      .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (each) => {
    const layers = [];
    for (let node = each; node; node = node.parentElement) layers.push(parse(getComputedStyle(node).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const poor = [];
  const texts = [...document.querySelectorAll('body *')].filter((each) =>
    [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) &&
    !each.closest('script, style, .unseen'));
  for (const each of texts) {
    const style = getComputedStyle(each);
    const colour = parse(each.closest('svg') ? style.fill : style.color);
    const back = behind(each);
    const [a, b] = [luminance(over(colour, back)), luminance(back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([ratio, each.outerHTML.slice(0, 100)]);
  }
  return [texts.length, poor];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_asks_for(browser, page, scheme):
    with Opened(browser, page, scheme=scheme) as shown:
        shown.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        count, poor = shown.evaluate(CONTRAST)
        assert count > 100
        assert poor == []


def test_a_script_that_came_in_by_a_template_would_not_run(browser, tmp_path):
    """The policy is a second wall behind the escaping: even unescaped, a name could not run."""
    page = Page(title="x", lead=[], sections=[Section(id="a", title="a", blocks=[Text(text="MARK")])], footer="")
    text = render_page(page).replace("MARK", "<script>document.title = 'hacked'</script><img src=x onerror=alert(1)>")
    (tmp_path / "a.html").write_text(text)
    opened = Opened(browser, tmp_path / "a.html")
    assert opened.page.title() == "x"
    assert len(opened.complaints) >= 2
    assert all("Content Security Policy" in complaint for complaint in opened.complaints)
    opened.context.close()


def test_an_empty_table_and_a_page_without_sections_are_laid_out():
    table = Table(caption="none", headers=["a"], rows=[], sortable=True)
    text = render_page(Page(title="x", lead=[], sections=[Section(id="a", title="a", blocks=[table])], footer=""))
    assert "<tbody>" in text
    assert "<h1>x</h1>" in render_page(Page(title="x", lead=[], sections=[], footer=""))


def test_the_templates_lie_beside_the_code():
    folder = Path(__file__).parents[1] / "pipeline" / "pages" / "templates"
    assert {path.name for path in folder.iterdir()} == {"page.html", "page.css", "page.js"}
    assert "pipeline.pages = templates/*" in (folder.parents[2] / "setup.cfg").read_text()

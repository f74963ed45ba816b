"""MODEL_CARD.md: what it says is what the run's files hold, and no name can change what it shows."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from micro import FIGURES
from random_checkpoint import write_checkpoint
from safetensors import SafetensorError

from pipeline.clips.clip_index import Clip, clips_to_text
from pipeline.clips.files import sha256_of
from pipeline.clips.video import probe
from pipeline.config import plain
from pipeline.enhancers.zero_dce import OFFICIAL_SHA256
from pipeline.inference import export, model_card
from pipeline.inference.model_card import escaped
from pipeline.training import checkpoint
from pipeline.training.checkpoint import load_checkpoint
from stages import evaluate

CPU = torch.device("cpu")
MODELS = ("baseline", "teacher", "student")
NAMES = ("<script>alert(1)</script>", "a|b *c* `d` [e](http://f) &amp; _g_", "Run\n# Heading")


class Made:
    """An evaluated run whose classes are named like attacks; models of random weights."""

    def __init__(self, folder, make_video, configs, *, lit=None):
        self.folder, videos = folder, folder / "videos"
        self.checkpoints = {}
        for seed, kind in enumerate(MODELS):
            settings = plain(configs["teacher" if kind == "teacher" else "student"])
            settings |= {"enhancer": {"name": "gamma", "weights": lit}} if kind == "teacher" else {}
            path = folder / f"{kind}.safetensors"
            light = "view" if kind == "teacher" else "none"
            self.checkpoints[kind] = write_checkpoint(
                path, kind=kind, seed=seed, light=light, classes=NAMES, settings=settings
            )
        self.clips = []
        for number in range(12):
            name = f"place{number}/{number}.mp4"
            make_video(videos / name, num_frames=5, height=48, width=64, seed=number, level=60)
            info, label, train = probe(videos / name), number % 3, number >= 9
            self.clips.append(
                Clip(
                    id=name, label=label, class_name=NAMES[label], subset="train" if train else "test",
                    scene=f"place{number}", num_frames=info.num_frames, fps=info.fps, width=64, height=48, rotation=0,
                    pix_fmt=info.pix_fmt, colour_range=info.colour_range, mean_luma=10.0 + number,
                    dark_share=info.dark_share, luma_crc32=info.luma_crc32, sha256=sha256_of(videos / name),
                )
            )  # fmt: skip
        self.configs = configs

    def evaluate(self, clips=None, **changes):
        index = self.folder / "clips.csv"
        index.write_text(clips_to_text(clips or self.clips))
        outs = FIGURES
        evaluate.run(
            index,
            self.folder / "videos",
            self.checkpoints,
            *[self.folder / name for name in outs],
            config=dataclasses.replace(self.configs["evaluate"], **changes),
            compute=self.configs["compute"],
            device=CPU,
        )
        return (self.folder / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.fixture
def made(tmp_path, make_video, small_configs):
    return Made(tmp_path / "night|<b>", make_video, small_configs())


class Shown(HTMLParser):
    """Tags, and the cells of tables as a reader sees them."""

    def __init__(self):
        super().__init__()
        self.tags, self.rows, self.cell = [], [], None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.cell = ""

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self.cell)
            self.cell = None


def shown(card):
    markdown_it = pytest.importorskip("markdown_it")
    page = Shown()
    page.feed(markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(card))
    return page


def test_names_show_as_they_stand_and_change_nothing_else(made):
    page = shown(made.evaluate())
    assert set(page.tags) <= {"h1", "h2", "h3", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    cells = [cell for row in page.rows for cell in row]
    seen = [re.sub(r"\s", " ", name) for name in NAMES]
    assert set(seen) <= set(cells)
    assert ", ".join(seen) in cells
    assert page.tags.count("h1") == 1


@pytest.mark.parametrize("text", [*NAMES, "a\\|b", "\\", "$x$ ~y~ #1", "snake_case_name", "_x", "\u2028# a"])
def test_escaped_text_stays_one_cell(text):
    page = shown(f"| h | i |\n|---|---|\n| {escaped(text)} | end |\n")
    # A renderer drops blanks at a cell's ends.
    assert page.rows[1] == [re.sub(r"[\n\u2028]", " ", text).strip(), "end"]
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td"}


def test_the_card_says_the_figures_and_hashes_of_the_run(made):
    card = made.evaluate(stress_ev=(0.0, -2.0))
    metrics = json.loads((made.folder / "metrics.json").read_text())
    rows = {tuple(row[:1]): row for row in shown(card).rows if row}
    for kind in MODELS:
        found = metrics[kind]
        said = f"{found['top1']:.3f} ({found['top1_low']:.3f} to {found['top1_high']:.3f})"
        assert any(row[0] == kind and row[1] == said and row[-1] == "9" for row in shown(card).rows)
        assert [kind, f"{kind}.safetensors", sha256_of(made.checkpoints[kind])] in shown(card).rows
    assert ["clips", "clips.csv", sha256_of(made.folder / "clips.csv")] in shown(card).rows
    assert rows[("-2",)][1] == "9"
    assert rows[("train",)][1:4] == ["3", "0", "3"]
    assert rows[("test",)][4] == "10.0 - 14.0 - 18.0"
    assert "No test clip was found in train again" in card
    assert "unknown here" in card
    assert "darker ones were tried by darkening alone" in card
    assert "darker ones were not tried" in made.evaluate(stress_ev=())


def test_the_card_says_what_is_subtracted_from_a_view(made):
    records = {kind: load_checkpoint(path)[1] for kind, path in made.checkpoints.items()}
    said = "each pixel's mean over the view's frames is subtracted"
    assert said not in "\n".join(model_card._model("night", records))
    still = dataclasses.replace(records["student"].preprocessing, remove_temporal_mean=True)
    records["student"] = dataclasses.replace(records["student"], preprocessing=still)
    assert said in "\n".join(model_card._model("night", records))


def test_want_of_memory_is_no_damaged_checkpoint(made, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)")

    monkeypatch.setattr(checkpoint, "safe_open", full)
    with pytest.raises(OSError, match="cannot be read for want of memory"):
        load_checkpoint(made.checkpoints["student"])


def test_a_leak_and_a_licence_that_is_known_are_named(tmp_path, make_video, small_configs):
    made = Made(tmp_path / "night", make_video, small_configs(), lit=OFFICIAL_SHA256)
    clips = [
        dataclasses.replace(clip, scene="place9") if clip.id.startswith("place0/") else clip for clip in made.clips
    ]
    card = made.evaluate(clips)
    assert "Leak between train and test: 1 of 9 test clips shares its source with a training clip." in card
    assert "CC BY-NC 4.0: no commercial use" in card


def test_a_card_without_labels_says_that_nothing_was_measured(made):
    clips = [
        dataclasses.replace(clip, label=-1, class_name="") if clip.subset == "test" else clip for clip in made.clips
    ]
    card = made.evaluate(clips)
    assert "The test clips have no labels: nothing was measured." in card
    assert "by darkness" not in card
    assert sha256_of(made.checkpoints["student"]) in card


@pytest.mark.parametrize("kind", MODELS)
def test_export_joins_the_card_and_the_figures_of_its_checkpoint(made, kind):
    made.evaluate()
    about = export.run(made.checkpoints[kind], form="torch").about
    metrics = json.loads((made.folder / "metrics.json").read_text())
    card = {"name": "MODEL_CARD.md", "sha256": sha256_of(made.folder / "MODEL_CARD.md")}
    assert about["model_card"] == {**card, "figures": {"n": 9, **metrics[kind]}}


def test_a_checkpoint_trained_again_is_not_joined_to_the_old_card(made, capsys):
    made.evaluate()
    write_checkpoint(made.checkpoints["student"], seed=7, classes=NAMES)
    assert export.run(made.checkpoints["student"], form="torch").about["model_card"] is None
    assert "does not name student.safetensors's sha256" in capsys.readouterr().out

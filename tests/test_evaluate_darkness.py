"""Top-1 by darkness, over synthetic exposure, and what evaluate says of confidence and disagreement."""

import csv
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from random_checkpoint import CLASSES, write_checkpoint

from pipeline import presets
from pipeline.clips.clip_index import Clip, clips_to_text
from pipeline.clips.dataset import CachePolicy, DecodedFrames
from pipeline.clips.files import sha256_of
from pipeline.clips.low_light import srgb_to_linear
from pipeline.clips.video import probe
from pipeline.config import EvaluateConfig, plain
from pipeline.inference import stress
from pipeline.inference.darkness import by_luma
from pipeline.inference.loading import load_recogniser
from pipeline.inference.stress import choose_clips, darkened, stress_logits
from pipeline.inference.tested_clips import clip_logits, protocol_views
from pipeline.params import parse
from pipeline.training.metrics import agreement, bootstrap_top1, describe, reliability_bins
from stages import evaluate

CPU = torch.device("cpu")
MODELS = ("baseline", "teacher", "student")
OUTS = ("metrics.json", "details.json", "predictions.csv", "confusion.csv", "MODEL_CARD.md")


def clip_of(videos, name, label, **changes):
    info = probe(videos / name)
    clip = Clip(
        id=name, label=label, class_name=CLASSES[label], subset="test", scene=name, num_frames=info.num_frames,
        fps=info.fps, width=info.width, height=info.height, rotation=0, pix_fmt=info.pix_fmt,
        colour_range=info.colour_range, mean_luma=info.mean_luma, dark_share=info.dark_share,
        luma_crc32=info.luma_crc32, sha256=sha256_of(videos / name),
    )  # fmt: skip
    return dataclasses.replace(clip, **changes)


class Evaluated:
    """Rendered test clips and three checkpoints of random weights."""

    def __init__(self, folder, make_video, small_configs, light="view"):
        self.folder, self.videos, self.configs = folder, folder / "videos", small_configs
        self.clips = []
        for number in range(9):
            make_video(self.videos / f"{number}.mp4", num_frames=6, height=48, width=64, seed=number, level=200)
            self.clips.append(clip_of(self.videos, f"{number}.mp4", number % 3))
        defaults = small_configs()
        self.checkpoints = {
            kind: write_checkpoint(
                folder / f"{kind}.safetensors",
                kind=kind,
                seed=seed,
                light=light if kind == "teacher" else "none",
                settings=plain(defaults["teacher"]) | {"enhancer": None}
                if kind == "teacher"
                else plain(defaults["student"]),
            )
            for seed, kind in enumerate(MODELS)
        }
        self.cache = CachePolicy(folder=folder / "frames", mode="on", limit_bytes=1e9)

    def evaluate(self, clips=None, outs=OUTS, **changes):
        (self.folder / "clips.csv").write_text(clips_to_text(clips or self.clips))
        configs = self.configs(evaluate=changes)
        evaluate.run(
            self.folder / "clips.csv",
            self.videos,
            self.checkpoints,
            *[self.folder / name for name in outs],
            config=configs["evaluate"],
            compute=configs["compute"],
            device=CPU,
        )
        return json.loads((self.folder / "metrics.json").read_text()), json.loads(
            (self.folder / "details.json").read_text()
        )

    def loaded(self):
        return {kind: load_recogniser(path, device=CPU) for kind, path in self.checkpoints.items()}


@pytest.fixture
def tested(tmp_path, make_video, small_configs):
    return Evaluated(tmp_path, make_video, small_configs)


# --- figures ---


def test_parts_by_luma_hold_as_many_clips_each_and_their_own_hits():
    luma = np.arange(100, dtype=float)[::-1] / 2
    right = luma >= 25  # the lighter half
    parts = by_luma(luma, {"student": right, "teacher": ~right}, bins=4, resamples=100, seed=0)
    assert [part["n"] for part in parts] == [25] * 4
    assert [part["student"]["top1"] for part in parts] == [0, 0, 1, 1]
    assert [part["teacher"]["top1"] for part in parts] == [1, 1, 0, 0]
    assert parts[0]["low"] == 0
    assert parts[-1]["high"] == 49.5
    assert all(after["low"] == before["high"] for before, after in itertools.pairwise(parts))


@pytest.mark.parametrize(
    ("luma", "counts"), [([20.0] * 5, [5]), ([20.0, 20.0, 20.0, 40.0], [3, 1]), ([7.0], [1]), ([1.0, 5.0], [1, 1])]
)
def test_clips_of_one_luma_stay_in_one_part_and_no_part_is_empty(luma, counts):
    parts = by_luma(np.array(luma), {"student": np.ones(len(luma), bool)}, bins=4, resamples=100, seed=0)
    assert [part["n"] for part in parts] == counts


def test_the_bootstraps_interval_is_that_of_the_binomial_that_it_draws_from():
    from scipy.stats import binom

    hits = np.arange(80) < 52
    found = bootstrap_top1(hits, resamples=20_000, seed=1)
    assert found["top1"] == 0.65
    # Hits of a resample are binomial (80, 0.65); its quantiles are whole clips, and 20 000 draws may miss by one.
    assert found["top1_low"] == pytest.approx(binom.ppf(0.025, 80, 0.65) / 80, abs=1.01 / 80)
    assert found["top1_high"] == pytest.approx(binom.ppf(0.975, 80, 0.65) / 80, abs=1.01 / 80)
    assert bootstrap_top1(hits, resamples=200, seed=1) == bootstrap_top1(hits, resamples=200, seed=1)


def test_clips_that_are_all_right_get_wilsons_interval_and_not_one_without_width():
    # By hand: 1 / (1 + z^2 / n) with z = 1.959964 and n = 10.
    assert bootstrap_top1(np.ones(10, bool), resamples=100, seed=0)["top1_low"] == pytest.approx(0.72247, abs=1e-4)
    assert bootstrap_top1(np.zeros(10, bool), resamples=100, seed=0)["top1_high"] == pytest.approx(0.27753, abs=1e-4)


def test_reliability_bins_add_up_to_the_calibration_error():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (200, 5)).astype(np.float32), rng.integers(0, 5, 200)
    parts = reliability_bins(logits, labels, bins=15)
    assert sum(part["count"] for part in parts) == 200
    error = sum(part["count"] * abs(part["confidence"] - part["accuracy"]) for part in parts) / 200
    wanted = describe(logits, labels, tuple("ABCDE"), bins=15, resamples=100, seed=0)["calibration_error"]
    assert error == pytest.approx(wanted, abs=1e-6)  # torchmetrics' sums in float32
    assert all(part["low"] <= part["confidence"] < part["high"] for part in parts)
    certain = np.array([[200.0, 0.0]], np.float32)
    assert reliability_bins(certain, np.array([0]), bins=10)[0]["high"] == 1.0


def test_agreement_counts_the_four_cases():
    first, second = np.array([1, 1, 1, 0, 0, 0], bool), np.array([1, 1, 0, 1, 0, 0], bool)
    found = agreement(first, second, names=("student", "teacher"))
    assert found == {"both_right": 2, "only_student": 1, "only_teacher": 1, "both_wrong": 2}


# --- the stress curve ---


def test_chosen_clips_are_of_all_classes_alike_whatever_the_order(tested):
    clips = [
        dataclasses.replace(tested.clips[0], id=f"{label}/{number}", label=label)
        for label, count in enumerate((2, 20, 20))
        for number in range(count)
    ]
    chosen = [clips[position] for position in choose_clips(clips, 12, seed=0)]
    assert [sum(clip.label == label for clip in chosen) for label in range(3)] == [2, 5, 5]
    turned = clips[::-1]
    assert {turned[position].id for position in choose_clips(turned, 12, seed=0)} == {clip.id for clip in chosen}
    assert {clips[position].id for position in choose_clips(clips, 12, seed=1)} != {clip.id for clip in chosen}
    assert choose_clips(clips, 1000, seed=0) == list(range(42))


def test_darkened_frames_hold_the_light_that_the_exposure_leaves():
    frames = np.full((4, 40, 40, 3), 200, np.uint8)
    assert darkened(frames, 0, clip_id="a", seed=0) is frames
    linear = {ev: srgb_to_linear(darkened(frames, ev, clip_id="a", seed=0) / 255.0).mean() for ev in (-1.0, -2.0)}
    lit = srgb_to_linear(np.array(200 / 255.0))
    # The tone curve's toe takes up to a third of the light at these codes.
    assert 0.65 * lit / 2 < linear[-1.0] <= 1.02 * lit / 2
    assert 0.65 * lit / 4 < linear[-2.0] <= 1.02 * lit / 4
    again = darkened(frames, -2.0, clip_id="a", seed=0)
    assert np.array_equal(again, darkened(frames, -2.0, clip_id="a", seed=0))
    assert not np.array_equal(again, darkened(frames, -2.0, clip_id="b", seed=0))
    assert not np.array_equal(again, darkened(frames, -2.0, clip_id="a", seed=1))


@pytest.mark.parametrize("light", ["frame", "view", "both"])
@pytest.mark.parametrize(("clips", "crops", "over"), [(1, "centre", "logits"), (2, "five", "probabilities")])
def test_an_exposure_that_changes_nothing_gives_the_logits_of_the_test(
    tmp_path, make_video, small_configs, monkeypatch, light, clips, crops, over
):
    tested = Evaluated(tmp_path, make_video, small_configs, light=light)
    monkeypatch.setattr(stress, "darken", lambda frames, camera, rng: frames)
    loaded = tested.loaded()
    views = {kind: protocol_views(each, clips=clips, crops=crops) for kind, each in loaded.items()}
    shared = {"over": over, "batch_size": 4, "device": CPU}
    decoded = DecodedFrames(videos=tested.videos, frame_size=(32, 44), colour_range="auto")
    found = stress_logits(
        loaded, views, dict.fromkeys(MODELS, decoded), tested.clips, exposures=[-1.0, -2.0], seed=0, **shared
    )
    for kind in MODELS:
        wanted = clip_logits(
            loaded[kind], tested.clips, tested.videos, views=views[kind], workers=0, cache=tested.cache, **shared
        )
        assert found[kind].shape == (2, 9, 3)
        # 1e-5: the views pass the network in other batches.
        np.testing.assert_allclose(found[kind][0], wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[kind][1], wanted, rtol=0, atol=1e-5)


def test_clips_are_decoded_once_for_all_models_and_exposures(tested):
    asked = []

    class Counted(DecodedFrames):
        def frames(self, clip, indices, crop=None):
            asked.append((clip.id, crop))
            return super().frames(clip, indices, crop)

    source = Counted(videos=tested.videos, frame_size=(32, 44), colour_range="auto")
    loaded = tested.loaded()
    views = {kind: protocol_views(each, clips=1, crops="five") for kind, each in loaded.items()}
    stress_logits(
        loaded, views, dict.fromkeys(MODELS, source), tested.clips, exposures=[-1.0, -3.0], over="logits",
        batch_size=3, seed=0, device=CPU,
    )  # fmt: skip
    assert asked == [(clip.id, None) for clip in tested.clips]


def test_a_teacher_of_enhanced_frames_sees_darkened_frames_enhanced(tested, monkeypatch):
    """Not enhanced frames darkened: the enhancer is handed what the dark model gave."""
    path = write_checkpoint(tested.folder / "lit.safetensors", kind="teacher", light="frame")
    loaded = {"teacher": load_recogniser(path, device=CPU)}
    given = []
    enhance = stress.enhance_pixels
    monkeypatch.setattr(
        stress, "enhance_pixels", lambda enhancer, frames, device: given.append(frames) or enhance(
            enhancer, frames, device=device)
    )  # fmt: skip
    clip = tested.clips[0]
    source = DecodedFrames(videos=tested.videos, frame_size=(32, 44), colour_range="auto")
    views = {"teacher": protocol_views(loaded["teacher"], clips=1, crops="centre")}
    stress_logits(
        loaded, views, {"teacher": source}, [clip], exposures=[-2.0], over="logits", batch_size=2, seed=3, device=CPU
    )
    frames = source.frames(clip, views["teacher"].of(clip)[0].frame_indices)
    assert np.array_equal(given[0], darkened(frames, -2.0, clip_id=clip.id, seed=3))


# --- the stage ---


def test_evaluate_writes_bins_curve_confidence_disagreement_and_hashes(tested, capsys):
    metrics, details = tested.evaluate(luma_bins=3, stress_ev=[0, -1, -5])
    bins, curve = details["darkness"]["bins"], details["darkness"]["stress"]
    assert [part["n"] for part in bins] == [3, 3, 3]
    assert [(part["ev"], part["n"]) for part in curve] == [(0, 9), (-1, 9), (-5, 9)]
    for kind in MODELS:
        assert sum(part[kind]["top1"] * part["n"] for part in bins) == pytest.approx(metrics[kind]["top1"] * 9)
        # Nothing is darkened at 0 EV, and all clips were chosen.
        assert curve[0][kind]["top1"] == metrics[kind]["top1"]
        assert curve[0][kind]["top1_low"] <= curve[0][kind]["top1"] <= curve[0][kind]["top1_high"]
        assert sum(part["count"] for part in details[kind]["reliability"]) == 9
        assert all({"precision", "recall"} <= set(found) for found in details[kind]["per_class"].values())
        assert details["checkpoints"][kind] == sha256_of(tested.checkpoints[kind])
    with (tested.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    cases = [(row["student"] == row["class"], row["teacher"] == row["class"]) for row in rows]
    assert details["disagreement"] == {
        "both_right": cases.count((True, True)),
        "only_student": cases.count((True, False)),
        "only_teacher": cases.count((False, True)),
        "both_wrong": cases.count((False, False)),
    }
    assert "9 of 9 clips at 2 darker exposures: " in capsys.readouterr().out


def test_clips_at_0_ev_keep_their_answers_where_only_some_are_chosen(tested):
    _, details = tested.evaluate(stress_ev=[0], stress_clips=6)
    (part,) = details["darkness"]["stress"]
    chosen = {tested.clips[position].id for position in choose_clips(tested.clips, 6, seed=0)}
    with (tested.folder / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["id"] in chosen]
    assert part["n"] == len(rows) == 6
    for kind in MODELS:
        assert part[kind]["top1"] == pytest.approx(sum(row[kind] == row["class"] for row in rows) / 6)


def test_no_exposures_darken_nothing_and_change_no_other_figure(tested, monkeypatch):
    metrics, details = tested.evaluate(stress_ev=[-1])
    monkeypatch.setattr(stress, "darken", lambda *_: pytest.fail("darkened"))
    without, others = tested.evaluate(stress_ev=[])
    assert without == metrics
    assert others["darkness"].pop("stress") == []
    details["darkness"].pop("stress")
    assert others == details


def test_clips_without_labels_are_neither_binned_nor_darkened(tested):
    clips = [
        dataclasses.replace(clip, label=-1, class_name="") if number < 6 else clip
        for number, clip in enumerate(tested.clips)
    ]
    _, details = tested.evaluate(clips, stress_ev=[0, -1])
    assert sum(part["n"] for part in details["darkness"]["bins"]) == 3
    assert [part["n"] for part in details["darkness"]["stress"]] == [3, 3]
    clips = [dataclasses.replace(clip, label=-1, class_name="") for clip in tested.clips]
    metrics, details = tested.evaluate(clips)
    assert metrics == {"n": 0}
    assert "darkness" not in details
    assert set(details["checkpoints"]) == set(MODELS)


def test_another_evaluation_writes_the_same_bytes(tested):
    tested.evaluate(stress_ev=[0, -2])
    before = {name: (tested.folder / name).read_bytes() for name in OUTS}
    tested.evaluate(stress_ev=[0, -2])
    assert {name: (tested.folder / name).read_bytes() for name in OUTS} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stress_ev": [0.0, 1.0]}, r"evaluate\.stress_ev: found \[0\.0, 1\.0\], wanted different stops from -20 to 0"),
        ({"stress_ev": [-1.0, -1.0]}, r"evaluate\.stress_ev: found .*, wanted different stops"),
        ({"stress_ev": [-21.0]}, r"evaluate\.stress_ev"),
        ({"stress_clips": 0}, r"evaluate\.stress_clips: found 0, wanted at least 1"),
        ({"luma_bins": 0}, r"evaluate\.luma_bins: found 0, wanted at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        parse(EvaluateConfig, presets.demo()["evaluate"] | changes, where="evaluate")

"""A dataset is looked at before training: bad files, doubles, light, noise, tags, balance."""

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.clips.clip_index import Clip, clips_to_text
from pipeline.clips.files import sha256_of
from pipeline.clips.survey import collect, survey_all
from pipeline.clips.survey_entries import Entry, entries_of_clips, entries_of_folder
from pipeline.clips.survey_findings import find, luma_told_by_class
from pipeline.clips.survey_summary import summarise
from pipeline.clips.survey_text import as_text
from pipeline.clips.survey_video import PERCENTILES, likely_range, pair_noise, survey_video, uneven_share
from pipeline.clips.video import probe
from pipeline.presets import ARID_SCENES

ROOT = Path(__file__).parents[1]


def call(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def write_codes(path, luma, *, colour_range=1, pix_fmt="yuv420p", times=None):
    """Write luma planes, uint8 (T, H, W), without any loss: what is read back must be these codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"qp": "0", "threads": "1"})
        stream.height, stream.width = luma.shape[1:]
        stream.pix_fmt = pix_fmt
        stream.codec_context.color_range = colour_range
        if colour_range == 1:
            # x264 writes the tag of the limited range only together with others.
            stream.codec_context.colorspace = 6
        stream.codec_context.time_base = stream.time_base = Fraction(1, 3000)
        for index, plane in enumerate(luma):
            frame = av.VideoFrame(luma.shape[2], luma.shape[1], pix_fmt)
            for number, target in enumerate(frame.planes):
                rows = np.frombuffer(target, np.uint8).reshape(-1, target.line_size)
                rows[:, : target.width] = plane if number == 0 else 128
            frame.color_range = colour_range
            frame.time_base = Fraction(1, 3000)
            frame.pts = 100 * index if times is None else times[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def codes(shape=(6, 32, 48), low=16, high=236, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8)


def entry(name, class_name="", subset=""):
    return Entry(id=name, class_name=class_name, subset=subset, scene=name)


def looked_at(root, **changes):
    entries, others = entries_of_folder(root, scene_pattern=ARID_SCENES)
    return collect(survey_all(entries, root, **({"colour_range": "auto", "processes": 1} | changes)), others)


def findings_of(survey):
    return find(survey, summarise(survey))


def test_luma_figures_are_those_of_the_codes(tmp_path):
    luma = codes(low=0, high=256)
    write_codes(tmp_path / "a.mp4", luma, colour_range=2)
    found = survey_video(entry("a.mp4"), tmp_path, "auto")
    assert np.allclose(np.array(found.luma_shares) * luma.size, np.bincount(luma.ravel(), minlength=256), atol=1e-4)
    ordered = np.sort(luma.ravel())
    # The smallest code that at least so many percent of the codes do not exceed.
    assert found.percentiles == tuple(ordered[int(np.ceil(p / 100 * luma.size)) - 1] for p in PERCENTILES)
    assert found.low_share == pytest.approx((luma < 16).mean())
    assert found.high_share == pytest.approx((luma > 235).mean())
    assert found.sha256 == sha256_of(tmp_path / "a.mp4")
    assert found.duration_sec == pytest.approx(6 / 30)


def test_each_video_weighs_the_same_in_the_datasets_luma(tmp_path):
    write_codes(tmp_path / "short.mp4", np.full((2, 16, 16), 20, np.uint8))
    write_codes(tmp_path / "long.mp4", np.full((20, 16, 16), 40, np.uint8))
    luma = summarise(looked_at(tmp_path))["luma"]
    assert luma["mean"] == pytest.approx(30)
    assert (luma["percentiles"]["25"], luma["percentiles"]["75"]) == (20, 40)
    assert luma["contrast"]["largest"] == 0


@pytest.mark.parametrize(("tag", "name"), [(0, "unspecified"), (1, "limited")])
def test_codes_far_outside_the_limited_range_tell_of_a_lost_full_range_tag(tmp_path, tag, name):
    write_codes(tmp_path / "a.mp4", codes(low=0, high=60), colour_range=tag)
    found = survey_video(entry("a.mp4"), tmp_path, "auto")
    assert (found.info.colour_range, found.likely_range) == (name, "full")
    text = findings_of(collect([found], {}))[0]
    assert (text.kind, text.ids) == ("problem", ("a.mp4",))
    assert "views.colour_range: full" in text.remedy


def test_codes_that_fit_their_tag_are_left_alone(tmp_path):
    dark = codes(low=16, high=60)
    # A codec's ringing: a few codes just below black.
    dark[:, 0, :4] = 13
    for tag in (0, 1):
        write_codes(tmp_path / f"{tag}.mp4", dark, colour_range=tag)
        assert survey_video(entry(f"{tag}.mp4"), tmp_path, "auto").likely_range == ""
    write_codes(tmp_path / "full.mp4", codes(low=0, high=60), colour_range=2)
    assert survey_video(entry("full.mp4"), tmp_path, "auto").likely_range == ""


def test_highlights_above_white_are_noted_and_no_wrong_tag(tmp_path):
    write_codes(tmp_path / "a.mp4", codes(low=200, high=256), colour_range=1)
    found = survey_video(entry("a.mp4"), tmp_path, "auto")
    assert found.likely_range == ""
    (note,) = (finding for finding in findings_of(collect([found], {})) if "above white" in finding.text)
    assert (note.kind, note.ids) == ("note", ("a.mp4",))


def test_a_full_range_tag_on_limited_codes_is_told():
    shares = np.zeros(256)
    shares[[16, 30, 60]] = 0.2, 0.4, 0.4
    assert likely_range(shares.tolist(), tagged="full", pix_fmt="yuvj420p") == "limited"
    # RGB has no range, and a scene whose darkest code is a bright one says nothing.
    assert likely_range(shares.tolist(), tagged="full", pix_fmt="gbrp") == ""
    shares[[16, 90]] = 0.0, 0.2
    assert likely_range(shares.tolist(), tagged="full", pix_fmt="yuvj420p") == ""


def test_real_dark_clips_are_tagged_as_they_were_written(arid6):
    root = arid6 / "videos"
    entries = entries_of_folder(root, scene_pattern=ARID_SCENES)[0][::25]
    found = list(survey_all(entries, root, colour_range="auto", processes=1))
    assert [video.likely_range for video in found] == [""] * len(entries)
    assert all(video.info.colour_range == "limited" for video in found)
    # Dark night scenes through a codec: some noise is left, and some blocks are frozen.
    assert all(0 < video.noise < 5 for video in found)
    assert all(0 < video.frozen_share < 0.6 for video in found)


def test_noise_is_that_of_the_still_pixels_whatever_moves_or_flickers():
    rng = np.random.default_rng(0)
    scene = rng.integers(60, 180, (96, 128)).astype(np.float64)
    for deviation in (1.0, 3.0):
        before, after = (scene + rng.normal(0, deviation, scene.shape) for _ in range(2))
        after[:, :50] = rng.integers(0, 255, (96, 50))  # something moves through two fifths of the picture
        noise, frozen = pair_noise(
            *(np.rint(frame + 9 * place).astype(np.uint8) for place, frame in enumerate((before, after)))
        )
        # Rounding adds a variance of 1/12. The median of 108 blocks of 64 pixels errs by about 1 %.
        assert noise == pytest.approx(np.sqrt(deviation**2 + 1 / 12), rel=0.04)
        assert frozen == 0


def test_stillness_has_no_noise_and_unchanged_blocks_are_counted():
    still = codes((2, 40, 40))
    assert pair_noise(still[0], still[0]) == (0.0, 1.0)
    half = still[0].copy()
    half[:8, :8] += 1
    assert pair_noise(still[0], half)[1] == pytest.approx(24 / 25)
    assert pair_noise(still[0][:5, :5], still[1][:5, :5]) == (0.0, 0.0)


def test_repeated_frames_and_uneven_times_are_found(tmp_path):
    luma = codes((10, 16, 16))
    luma[3] = luma[2]
    even, uneven = [100 * step for step in range(10)], [0, 100, 200, 300, 700, 800, 900, 1000, 1100, 1200]
    write_codes(tmp_path / "even.mp4", luma, times=even)
    write_codes(tmp_path / "uneven.mkv", luma, times=uneven)
    first, second = (survey_video(entry(name), tmp_path, "auto") for name in ("even.mp4", "uneven.mkv"))
    assert first.repeated_share == pytest.approx(1 / 9)
    assert (first.uneven_share, second.uneven_share) == (0.0, pytest.approx(1 / 9))
    # Matroska's time stamps are whole milliseconds: 33, 33, 34 count as even.
    assert uneven_share([0.0, 0.033, 0.066, 0.1]) == 0.0
    assert any("uneven times" in finding.text for finding in findings_of(collect([first, second], {})))


def test_a_folder_tells_subsets_classes_and_scenes(tmp_path, make_video):
    names = ["train/Run/Run_1_1.mp4", "test/Run/Run_1_2.mp4", "test/Walk/deep/Walk_2_1.MKV", "stray.mp4"]
    for seed, name in enumerate(names):
        make_video(tmp_path / name, seed=seed)
    for name in (".hidden/a.mp4", "train/Run/.part.mp4", "notes.txt", "train/README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    entries, others = entries_of_folder(tmp_path, scene_pattern=ARID_SCENES)
    found = {each.id: (each.subset, each.class_name, each.scene) for each in entries}
    assert found == {
        "stray.mp4": ("", "", "stray.mp4"),
        "test/Run/Run_1_2.mp4": ("test", "Run", "Run/Run/1"),
        "test/Walk/deep/Walk_2_1.MKV": ("test", "Walk", "Walk/deep/Walk/2"),
        "train/Run/Run_1_1.mp4": ("train", "Run", "Run/Run/1"),
    }
    assert others == {".txt": 1, "no suffix": 1}
    survey = looked_at(tmp_path)
    texts = [finding.text for finding in findings_of(survey)]
    assert "1 of 2 scenes, by the videos' names, lie in several subsets" in texts
    assert "no video in train of Walk" in texts
    assert any("no video suffix marks" in text for text in texts)


def test_copies_are_found_and_weigh_by_where_they_lie(tmp_path, make_video):
    make_video(tmp_path / "train/Run/a.mp4")
    for copy in ("train/Run/b.mp4", "test/Run/a.mp4", "train/Walk/a.mp4"):
        (tmp_path / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "train/Run/a.mp4", tmp_path / copy)
    doubled = {finding.text: finding for finding in findings_of(looked_at(tmp_path)) if "same content" in finding.text}
    assert {text: finding.kind for text, finding in doubled.items()} == {
        "the same content lies in more than one subset (1 times)": "problem",
        "the same content lies in more than one class (1 times)": "problem",
    }
    (tmp_path / "test/Run/a.mp4").unlink()
    (tmp_path / "train/Walk/a.mp4").unlink()
    (note,) = (finding for finding in findings_of(looked_at(tmp_path)) if "same content" in finding.text)
    assert (note.kind, note.ids) == ("note", ("train/Run/a.mp4", "train/Run/b.mp4"))


def test_bad_files_are_named_with_reason_and_remedy_and_do_not_stop_the_others(tmp_path, make_video):
    make_video(tmp_path / "set/Run/good.mp4", lossless=False)
    content = (tmp_path / "set/Run/good.mp4").read_bytes()
    bad = {"empty.mp4": b"", "half.mp4": content[: len(content) // 2], "text.mp4": b"no video\n" * 99}
    for name, data in bad.items():
        (tmp_path / "set/Run" / name).write_bytes(data)
    result = call("inspect", tmp_path / "set", "--json", tmp_path / "out.json", "--processes", "1")
    assert result.return_value == 1, result.exception
    found = json.loads((tmp_path / "out.json").read_text())
    assert [each["id"] for each in found["bad"]] == [f"Run/{name}" for name in bad]
    assert [each["id"] for each in found["videos"]] == ["Run/good.mp4"]
    for each in found["bad"]:
        assert each["reason"]
        assert "leave it out" in each["remedy"]
        assert str(tmp_path) not in each["reason"]
        assert f"bad  {each['id']}: {each['reason']}" in result.output
    assert found["findings"][0]["kind"] == "problem"


def test_a_dataset_of_bad_files_alone_is_told_and_has_a_page(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.mp4").write_bytes(b"")
    result = call("inspect", tmp_path / "set", "--html", tmp_path / "a.html")
    assert result.return_value == 1, result.exception
    assert "0 videos" in result.output
    assert "the file is empty" in (tmp_path / "a.html").read_text()


def test_a_name_that_is_no_text_is_told_in_all_outputs(tmp_path, make_video):
    make_video(tmp_path / "set/Run/good.mp4")
    odd = os.fsdecode(b"\xff\xfe.mp4")
    try:
        shutil.copy(tmp_path / "set/Run/good.mp4", tmp_path / "set/Run" / odd)
    except OSError:
        pytest.skip("this file system takes text alone for names")
    result = call("inspect", tmp_path / "set", "--html", tmp_path / "a.html", "--json", tmp_path / "a.json")
    assert result.exception is None
    assert "\\udcff\\udcfe.mp4" in result.output
    assert "&#56575;" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert odd in [Path(each["id"]).name for each in json.loads((tmp_path / "a.json").read_text())["videos"]]


def test_the_number_of_processes_changes_nothing(tmp_path, make_video):
    for number in range(5):
        make_video(tmp_path / f"set/Run/{number}.mp4", seed=number)
    (tmp_path / "set/Run/2.mp4").write_bytes(b"")
    outs = [tmp_path / "one.json", tmp_path / "two.json"]
    for processes, out in enumerate(outs, start=1):
        command = [
            sys.executable,
            "-m",
            "pipeline",
            "inspect",
            "set",
            "--json",
            str(out),
            "--processes",
            str(processes),
        ]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
    assert outs[0].read_bytes() == outs[1].read_bytes()


def row(path, root, **changes):
    """A line of clips.csv as prepare would write it."""
    info = probe(root / path)
    values = {"id": path, "label": 0, "class_name": "Run", "subset": "train", "scene": "yard"}
    values |= {"sha256": sha256_of(root / path)} | changes
    names = ("num_frames", "fps", "width", "height", "rotation", "pix_fmt", "colour_range", "mean_luma", "dark_share")
    return Clip(**values, **{name: getattr(info, name) for name in (*names, "luma_crc32")})


def test_a_clips_csv_tells_class_subset_and_scene_and_a_changed_file_is_bad(tmp_path, make_video):
    root = tmp_path / "videos"
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        make_video(root / name, seed=seed)
    rows = [row("a.mp4", root), row("b.mp4", root, subset="test"), row("c.mp4", root, subset="test")]
    (tmp_path / "clips.csv").write_text(clips_to_text(rows))
    make_video(root / "c.mp4", seed=9)
    entries = entries_of_clips(tmp_path / "clips.csv")
    survey = collect(survey_all(entries, root, colour_range="auto", processes=1), {})
    assert [(video.entry.id, video.entry.subset) for video in survey.videos] == [("a.mp4", "train"), ("b.mp4", "test")]
    (bad,) = survey.bad
    assert bad.id == "c.mp4"
    assert "is another file than the one in clips.csv" in bad.reason
    assert bad.remedy == "run prepare again"
    assert any("scenes" in finding.text and finding.ids == ("yard",) for finding in findings_of(survey))
    result = call("inspect", tmp_path / "clips.csv", "--videos", root, "--processes", "1")
    assert result.return_value == 1, result.exception
    assert "train (1), test (1)" in result.output or "test (1), train (1)" in result.output


def test_brightness_that_gives_the_class_away_is_told_and_chance_is_not(tmp_path):
    for number in range(12):
        write_codes(
            tmp_path / f"set/{'AB'[number % 2]}/{number}.mp4", np.full((2, 16, 16), 20 + 20 * (number % 2), np.uint8)
        )
    told = looked_at(tmp_path / "set")
    assert luma_told_by_class(told.videos) == pytest.approx(1)
    assert any("brightness may give the class away" in finding.text for finding in findings_of(told))
    rng = np.random.default_rng(0)
    for number in range(40):
        level = int(rng.integers(16, 100))
        write_codes(tmp_path / f"random/{'AB'[number % 2]}/{number}.mp4", np.full((2, 16, 16), level, np.uint8))
    assert luma_told_by_class(looked_at(tmp_path / "random").videos) < 0.2


def test_uneven_classes_short_videos_shapes_and_rates_are_told(tmp_path, make_video):
    for number in range(6):
        make_video(tmp_path / f"Run/{number}.mp4", seed=number, num_frames=20)
    make_video(tmp_path / "Walk/short.mp4", num_frames=3)
    make_video(tmp_path / "Walk/tall.mp4", height=64, width=32, num_frames=20, seed=20)
    texts = " | ".join(finding.text for finding in findings_of(looked_at(tmp_path)))
    assert "classes are uneven: 6 videos of Run, 2 of Walk" in texts
    assert "1 of 8 videos have fewer than 16 frames" in texts
    assert "frames have 2 shapes: 32x24 (7), 32x64 (1)" in texts


def test_ten_bit_grey_and_turned_videos_are_looked_at(tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, which writes these videos, is not installed")
    write_codes(tmp_path / "set/plain.mp4", codes())

    def ffmpeg(*arguments):
        subprocess.run(["ffmpeg", "-loglevel", "error", "-i", tmp_path / "set/plain.mp4", *arguments], check=True)

    ffmpeg("-pix_fmt", "yuv420p10le", tmp_path / "set/ten.mp4")
    ffmpeg("-pix_fmt", "gray", "-c:v", "ffv1", tmp_path / "set/gray.mkv")
    ffmpeg("-c", "copy", "-metadata:s:v", "rotate=90", tmp_path / "set/turned.mp4")
    survey = looked_at(tmp_path / "set")
    assert not survey.bad
    by_id = {video.entry.id: video for video in survey.videos}
    assert by_id["ten.mp4"].info.pix_fmt == "yuv420p10le"
    assert by_id["gray.mkv"].info.pix_fmt == "gray"
    assert by_id["ten.mp4"].info.mean_luma == pytest.approx(by_id["plain.mp4"].info.mean_luma, abs=1.5)
    assert (by_id["turned.mp4"].info.width, by_id["turned.mp4"].info.height) == (32, 48)
    assert any("stored turned" in finding.text for finding in findings_of(survey))


def test_nothing_to_look_at_and_wrong_usage_are_refused(tmp_path):
    for name in ("of", "none"):
        (tmp_path / name).mkdir()
    (tmp_path / "of" / "a.mp4").write_bytes(b"")
    for arguments, message in (
        ([tmp_path / "nowhere"], "no such folder"),
        ([tmp_path / "none"], "holds no video"),
        ([tmp_path / "clips.csv"], "needs --videos"),
        ([tmp_path, "--videos", tmp_path], "a folder of videos is its own root"),
        ([tmp_path / "clips.csv", "--videos", tmp_path], "clips.csv: no such file"),
        ([tmp_path / "of" / "a.mp4"], "a.mp4: is a video, wanted a folder of videos"),
        ([tmp_path, "--scene-pattern", "("], "--scene-pattern: found '(', which is no regular expression"),
        ([tmp_path / "of", "--html", tmp_path], "is a folder, wanted the name of a file"),
        ([tmp_path / "of", "--html", "a.out", "--json", "a.out"], "--json a.out: would overwrite what --html writes"),
        ([tmp_path / "of", "--json", tmp_path / "of" / "a.mp4"], "a.mp4, which is read; write to another file"),
    ):
        result = call("inspect", *arguments)
        assert message in str(getattr(result.exception, "message", result.exception))


def test_the_text_names_what_is_found(tmp_path, make_video):
    make_video(tmp_path / "Run/a.mp4", num_frames=20)
    survey = looked_at(tmp_path)
    summary = summarise(survey)
    text = as_text(survey, summary, find(survey, summary), source="X")
    assert text.splitlines()[0].startswith("X: 1 videos, 1 classes")
    for word in ("32x24 (1)", "30 (1)", "luma code", "noise", "rotation        0 (1)"):
        assert word in text

"""Answers to video files: the same as the test's, by windows, drawn into the video, and what is refused."""

import csv
import functools
import io
import json
import random
import re
import shutil
import subprocess
import weakref
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from micro import FIGURES
from random_checkpoint import CLASSES, write_checkpoint

from pipeline.cli import cli
from pipeline.clips.clip_index import Clip, clips_to_text
from pipeline.clips.files import sha256_of
from pipeline.clips.stream import has_sound, measure_length, read_frames, write_stream
from pipeline.clips.video import FrameConverter, decode, probe, write_video
from pipeline.config import plain
from pipeline.inference.loading import load_recogniser
from pipeline.inference.overlay import Labelling, draw, drawable, prepare, write_overlay
from pipeline.inference.predictor import Answer, Predictor, Protocol
from pipeline.inference.windows import (
    KeptFrame,
    Span,
    Window,
    WindowRule,
    parse_span,
    slide,
    whole_file,
)
from stages import evaluate

CPU = torch.device("cpu")


def predict(*arguments, stdin=None):
    """Run the command; its result, with the answers of standard output parsed."""
    given = ["predict", *map(str, arguments), "--device", "cpu", "--threads", "1"]
    result = CliRunner().invoke(cli, given, input=stdin)
    if isinstance(result.exception, BaseException) and not isinstance(result.exception, SystemExit):
        result.told = f"{result.stderr}{result.exception}"
    else:
        result.told = result.stderr
    result.answers = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return result


def ffmpeg(*arguments):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, which makes the videos of this test, is not installed")
    subprocess.run(["ffmpeg", "-loglevel", "error", "-y", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "student.safetensors")


@pytest.fixture(scope="module")
def spread(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("spread") / "student.safetensors", sampling="spread")


# --- the same answers as the test's ---


def clip_of(videos, name, label):
    info = probe(videos / name)
    return Clip(
        id=name,
        label=label,
        class_name=CLASSES[label],
        subset="test",
        scene=name,
        num_frames=info.num_frames,
        fps=info.fps,
        width=info.width,
        height=info.height,
        rotation=info.rotation,
        pix_fmt=info.pix_fmt,
        colour_range=info.colour_range,
        mean_luma=info.mean_luma,
        dark_share=info.dark_share,
        luma_crc32=info.luma_crc32,
        sha256=sha256_of(videos / name),
    )


@pytest.mark.parametrize(
    ("light", "sampling", "protocol"),
    [
        ("frame", "consecutive", {"clips": 1, "crops": "centre", "average": "logits"}),
        ("view", "spread", {"clips": 2, "crops": "five", "average": "logits"}),
        ("both", "consecutive", {"clips": 3, "crops": "ten", "average": "probabilities"}),
    ],
)
def test_predict_gives_the_answers_of_evaluate(
    tmp_path, make_video, small_configs, monkeypatch, light, sampling, protocol
):
    # One shorter than a view, one longer, one upright.
    for seed, (name, shape) in enumerate({"a.mp4": (9, 48, 64), "b.mp4": (3, 48, 64), "c.mkv": (12, 64, 40)}.items()):
        frames, height, width = shape
        make_video(tmp_path / "videos" / name, num_frames=frames, height=height, width=width, seed=seed, level=60)
    index = tmp_path / "clips.csv"
    rows = [clip_of(tmp_path / "videos", name, label) for label, name in enumerate(["a.mp4", "b.mp4", "c.mkv"])]
    index.write_text(clips_to_text(rows))
    configs = small_configs(evaluate={**protocol, "batch_size": 2})
    settings = {"student": plain(configs["student"]), "teacher": plain(configs["teacher"]) | {"enhancer": None}}
    checkpoints = {
        kind: write_checkpoint(
            tmp_path / f"{kind}.safetensors",
            kind=kind,
            seed=seed,
            sampling=sampling,
            light=light if kind == "teacher" else "none",
            settings=settings["teacher" if kind == "teacher" else "student"],
        )
        for seed, kind in enumerate(["baseline", "teacher", "student"])
    }
    logits = {}
    measure = evaluate.measure
    monkeypatch.setattr(evaluate, "measure", lambda values, *more: logits.update(values) or measure(values, *more))
    outs = [tmp_path / name for name in FIGURES]
    machine = {"compute": configs["compute"], "device": CPU}
    evaluate.run(index, tmp_path / "videos", checkpoints, *outs, config=configs["evaluate"], **machine)
    written = list(csv.DictReader(outs[2].open()))

    options = [part for name, value in protocol.items() for part in (f"--{name}", value)]
    for kind, path in checkpoints.items():
        answers = predict(path, tmp_path / "videos", *options).answers
        assert [Path(answer["source"]).name for answer in answers] == [row["id"] for row in written]
        wanted = torch.from_numpy(logits[kind]).softmax(dim=1)
        # 1e-5: the views pass the network in other batches; and the sixth place is rounded.
        found = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        for answer, row in zip(answers, written, strict=True):
            assert answer["label"] == row[kind]
            # predictions.csv has four places.
            assert answer["probability"] == pytest.approx(float(row[f"{kind}_probability"]), abs=5e-5 + 1e-5)
        assert [answer["looped"] for answer in answers] == [False, True, False]

        predictor = Predictor(
            load_recogniser(path, device=CPU), protocol=Protocol(**protocol), batch_size=3, device=CPU
        )
        for row, each in zip(logits[kind], rows, strict=True):
            windows = whole_file(tmp_path / "videos" / each.id, predictor.preprocessing)
            (answer,) = predictor.answers(windows, name=each.id)
            np.testing.assert_allclose(answer.logits, row, rtol=0, atol=1e-5)


def test_ten_crops_of_a_model_that_saw_no_mirrored_clip_are_refused(tmp_path, make_video):
    path = write_checkpoint(tmp_path / "c.safetensors", flip=False)
    make_video(tmp_path / "a.mp4")
    assert "take five" in predict(path, tmp_path / "a.mp4", "--crops", "ten").told


# --- windows ---


def frames_at(times, lasts):
    return [
        KeptFrame(index=index, time=time, lasts=lasts, pixels=np.full((1, 1, 3), index % 256, np.uint8))
        for index, time in enumerate(times)
    ]


def wanted_windows(frames, rule):
    """By the definition, from the whole list: (first index, last index) of every window."""
    length, stride = rule.length, rule.stride
    end = frames[-1].time + frames[-1].lasts
    found, step = [], 0
    while True:
        start = step * stride.value
        begun = [frame for frame in frames if (frame.time if stride.unit == "s" else frame.index) >= start]
        if not begun:
            break
        if length.unit == "f":
            inside, whole = begun[: int(length.value)], len(begun) >= length.value
        else:
            opening = start if stride.unit == "s" else begun[0].time
            inside = [frame for frame in begun if frame.time < opening + length.value]
            whole = end >= opening + length.value
        if not whole:
            break
        if inside:
            found.append((inside[0].index, inside[-1].index))
        step += 1
    covered = found[-1][1] if found else -1
    if begun and covered < frames[-1].index:
        if length.unit == "f":
            tail = frames[-int(length.value) :]
        else:
            tail = [frame for frame in frames if frame.time >= end - length.value] or frames[-1:]
        found.append((tail[0].index, frames[-1].index))
    return found


def random_case(seed):
    rng = random.Random(seed)
    # Steady, variable, and with a long gap; in hundredths of a second, so that borders are met exactly.
    steps = [rng.choice([3, 4, rng.randint(1, 30), rng.choice([4, 300])]) for _ in range(rng.randint(0, 60))]
    times = [Fraction(sum(steps[:count]), 100) for count in range(len(steps) + 1)]

    def span():
        if rng.random() < 0.5:
            return Span(value=Fraction(rng.randint(1, 200), 100), unit="s")
        return Span(value=Fraction(rng.randint(1, 20)), unit="f")

    return frames_at(times, Fraction(rng.randint(0, 4), 100)), WindowRule(length=span(), stride=span())


def test_windows_are_those_of_the_definition_for_any_frame_times():
    for seed in range(500):
        frames, rule = random_case(seed)
        found = list(slide(iter(frames), rule, most=10_000, name="x"))
        assert [window.number for window in found] == list(range(len(found)))
        by_time = {float(frame.time): frame.index for frame in frames}
        ranges = [(by_time[window.start], by_time[window.start] + window.num_frames - 1) for window in found]
        assert ranges == wanted_windows(frames, rule), (seed, rule)


def test_windows_over_a_long_video_keep_no_more_frames_than_one_window():
    class Pixels(np.ndarray):
        """An array that can be counted while it lives."""

    live, most = set(), 0

    def frames():
        nonlocal most
        for index in range(5000):
            pixels = np.zeros((1, 1, 3), np.uint8).view(Pixels)
            live.add(index)
            weakref.finalize(pixels, live.discard, index)
            frame = KeptFrame(index=index, time=Fraction(index, 30), lasts=Fraction(1, 30), pixels=pixels)
            del pixels
            yield frame
            del frame
            most = max(most, len(live))

    rule = WindowRule(length=Span(value=Fraction(2), unit="s"), stride=Span(value=Fraction(1), unit="s"))
    count = sum(1 for _ in slide(frames(), rule, most=1000, name="x"))
    assert count == 166
    # 60 frames a window; the one before it may still be in use.
    assert most <= 125


def test_windows_that_wait_for_a_batch_keep_no_frames(checkpoint):
    loaded = load_recogniser(checkpoint, device=CPU)
    protocol = Protocol(clips=1, crops="centre", average="logits")
    predictor = Predictor(loaded, protocol=protocol, batch_size=8, device=CPU)
    rule = loaded.preprocessing.view_rule
    live, most = set(), 0

    def windows():
        nonlocal most
        for number in range(20):
            frames = np.zeros((rule.frames, *rule.frame_size, 3), np.uint8)
            live.add(number)
            weakref.finalize(frames, live.discard, number)
            take = functools.partial(np.take, frames, axis=0)
            del frames
            yield Window(number=number, start=number, end=number + 1, num_frames=rule.frames, take=take)
            del take
            most = max(most, len(live))

    assert [answer.number for answer in predictor.answers(windows(), name="night.mp4")] == list(range(20))
    assert most <= 2  # the one in hand, and the one that is made


def test_a_window_too_long_for_memory_is_refused():
    rule = WindowRule(length=Span(value=Fraction(100), unit="s"), stride=Span(value=Fraction(1), unit="s"))
    frames = frames_at([Fraction(index, 30) for index in range(100)], Fraction(1, 30))
    with pytest.raises(ValueError, match=r"night\.mp4: a window of 100 s holds more than 50 frames.*--window"):
        list(slide(frames, rule, most=50, name="night.mp4"))


@pytest.mark.parametrize(
    ("text", "span"),
    [("2", (2, "s")), ("0.5s", (Fraction(1, 2), "s")), ("16f", (16, "f")), ("1e-1", (Fraction(1, 10), "s"))],
)
def test_spans_are_seconds_or_frames(text, span):
    assert parse_span(text) == Span(value=Fraction(span[0]), unit=span[1])


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "1.5f", "0f", "nan", "inf", "1/0", "1e400", "1e-9"])
def test_other_spans_are_refused(checkpoint, text):
    result = predict(checkpoint, "a.mp4", "--stride", text)
    assert result.exit_code == 2 or "wanted" in result.told
    assert "wanted" in result.told


def write_variable(path, times, *, height=32, width=48):
    """A video of frames at these times, each of one grey level."""
    ends = [*times[1:], 2 * times[-1] - times[-2]]
    with write_stream(path) as add:
        for index, (time, end) in enumerate(zip(times, ends, strict=True)):
            add(np.full((height, width, 3), 20 + 8 * index % 200, np.uint8), time, end - time)


def test_windows_of_a_variable_rate_have_its_true_times(tmp_path, checkpoint):
    # A second at 20 frames, then two at 4.
    times = [Fraction(index, 20) for index in range(20)] + [1 + Fraction(index, 4) for index in range(8)]
    write_variable(tmp_path / "a.mp4", times)
    answers = predict(checkpoint, tmp_path / "a.mp4", "--window", "1", "--stride", "1").answers
    assert [(answer["start"], answer["frames"]) for answer in answers] == [(0, 20), (1, 4), (2, 4)]
    assert [answer["end"] for answer in answers] == [1, 2, 3]
    assert [answer["window"] for answer in answers] == [0, 1, 2]
    (whole,) = predict(checkpoint, tmp_path / "a.mp4").answers
    assert (whole["start"], whole["end"], whole["frames"]) == (0, 3, 28)


def test_a_windows_end_does_not_hang_on_the_order_in_which_frames_are_coded(tmp_path, checkpoint):
    # 30 frames a second for half of one, then 5 a second; with B-frames a frame's own duration is another one's.
    times = "setpts='if(lt(N,15),N/30,0.5+(N-15)/5)/TB'"
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=30:duration=1", "-vf", times, "-fps_mode", "passthrough"]
    ffmpeg(
        *source, "-enc_time_base", "1/90000", "-c:v", "libx264", "-bf", "3", "-pix_fmt", "yuv420p", tmp_path / "a.mp4"
    )
    frames = list(read_frames(tmp_path / "a.mp4"))
    assert len(frames) == 30
    for frame, after in pairwise(frames):
        assert frame.time + frame.lasts == after.time
    answers = predict(checkpoint, tmp_path / "a.mp4", "--window", "0.5", "--stride", "0.5").answers
    assert [answer["end"] for answer in answers[:3]] == pytest.approx([0.5, 1.1, 1.5], abs=2e-3)


def test_a_windows_answer_is_that_of_a_video_cut_there(tmp_path, make_video, checkpoint):
    frames = make_video(tmp_path / "long.mp4", num_frames=20, height=48, width=64)
    answers = predict(checkpoint, tmp_path / "long.mp4", "--stride", "3f", "--batch-size", "3").answers
    # A view covers four frames; the last window ends with the video.
    starts = [0, 3, 6, 9, 12, 15, 16]
    assert [round(answer["start"] * 30) for answer in answers] == starts
    for start, answer in zip(starts, answers, strict=True):
        write_video(tmp_path / "cut.mp4", frames[start : start + 4], fps=30, lossless=True)
        (cut,) = predict(checkpoint, tmp_path / "cut.mp4").answers
        assert answer["probabilities"] == pytest.approx(cut["probabilities"], abs=2e-6)


def test_spread_views_get_windows_of_a_stated_length(tmp_path, spread):
    write_variable(tmp_path / "a.mp4", [Fraction(index, 10) for index in range(25)])
    result = predict(spread, tmp_path / "a.mp4", "--stride", "1")
    assert "windows of 4 s, 1 s apart" in result.told
    assert [(answer["start"], answer["end"]) for answer in result.answers] == [(0, 2.5)]
    assert len(predict(spread, tmp_path / "a.mp4", "--window", "0.5").answers) == 5


def test_a_long_video_with_one_answer_gets_a_hint(tmp_path, checkpoint):
    write_variable(tmp_path / "a.mp4", [Fraction(8 * index) for index in range(5)])
    assert "one answer for all of its" in predict(checkpoint, tmp_path / "a.mp4").told
    assert "one answer" not in predict(checkpoint, tmp_path / "a.mp4", "--stride", "8").told


# --- sources ---


def test_files_folders_patterns_and_lists_are_found(tmp_path, make_video, checkpoint, monkeypatch):
    names = ["x/a.mp4", "x/y/b.mkv", "z/c with space.avi"]
    for seed, name in enumerate(names):
        make_video(tmp_path / name, seed=seed)
    (tmp_path / "x" / "notes.txt").write_text("no video")
    (tmp_path / "x" / ".hidden.mp4").write_text("no video")
    monkeypatch.chdir(tmp_path)
    a, b, c = names
    Path("lists").mkdir()
    Path("plain.txt").write_text("\n".join(names) + "\n\n")
    Path("lists/plain.txt").write_text(a)
    Path("arid.txt").write_text("0\t0\tx/a.avi\n1\t2\tx/y/b.avi\n")
    Path("table.csv").write_text("path,label\nx/a.mp4,Run\n")

    def found(*arguments, **more):
        result = predict(checkpoint, *arguments, **more)
        assert result.exit_code == 0, result.told
        return [answer["source"] for answer in result.answers]

    assert found(c, "x") == [c, a, b]
    assert found("x/*.mp4") == [a]
    assert found("**/*.m*") == [a, b]
    assert found("plain.txt") == names
    assert found("lists/plain.txt", "--videos", ".") == [a]
    assert found("arid.txt") == [a, b]
    assert found("table.csv") == [a]
    assert found("-", stdin="x/a.mp4\r\n\n" + str(tmp_path / c) + "\n") == [a, str(tmp_path / c)]
    assert found("-", c, "--videos", "x", stdin="a.mp4\n") == ["x/a.mp4", c]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent.mp4", "absent.mp4: no such file, folder or pattern"),
        ("*.absent", "no file matches this pattern"),
        ("empty", "holds no video"),
        ("list.txt", "the list is empty"),
        ("latin.txt", "is no UTF-8 text"),
        ("words.txt", "wanted `index TAB class id TAB path`"),
        ("-", "named no video"),
        ("ftp://host/a.mp4", "ftp:// is no known stream; known are rtsp"),
    ],
)
def test_a_source_that_means_nothing_is_refused(tmp_path, checkpoint, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("list.txt").write_text("\n")
    Path("latin.txt").write_bytes(b"caf\xe9.mp4")
    Path("words.txt").write_text("neither path nor list\n")
    result = predict(checkpoint, given, "--out", "answers.jsonl", stdin="")
    assert result.exit_code in (1, 2)
    assert message in result.told
    assert not Path("answers.jsonl").exists()


def test_a_broken_file_is_told_with_its_remedy_and_the_rest_goes_on(tmp_path, make_video, checkpoint):
    make_video(tmp_path / "in" / "a.mp4", lossless=False, num_frames=30)
    whole = (tmp_path / "in" / "a.mp4").read_bytes()
    (tmp_path / "in" / "b.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "in" / "c.mp4").write_bytes(b"")
    make_video(tmp_path / "in" / "d.mp4")
    for more in ([], ["--stride", "1"]):
        result = predict(checkpoint, tmp_path / "in", *more)
        assert result.exit_code == 1
        assert {Path(answer["source"]).name for answer in result.answers} == {"a.mp4", "d.mp4"}
        assert "b.mp4: cannot be decoded as a video" in result.told
        assert "c.mp4: the file is empty; fetch it again" in result.told
        assert "2 of 4 videos could not be predicted" in result.told
    listed = tmp_path / "list.txt"
    listed.write_text("in/absent.mp4\nin/a.mp4\n")
    result = predict(checkpoint, listed)
    assert (result.exit_code, len(result.answers)) == (1, 1)
    assert "absent.mp4: no such file" in result.told


def test_a_damaged_middle_is_told(tmp_path, checkpoint):
    write_variable(tmp_path / "a.mp4", [Fraction(index, 30) for index in range(200)], height=64, width=96)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    start, end = len(content) // 2, len(content) * 4 // 5
    content[start:end] = bytes(end - start)
    (tmp_path / "a.mp4").write_bytes(content)
    for more in ([], ["--stride", "20f"]):
        result = predict(checkpoint, tmp_path / "a.mp4", *more)
        assert result.exit_code == 1
        assert re.search(r"a\.mp4: (cannot be decoded|a frame is damaged).*; fetch or re-encode", result.told)


# --- unusual videos ---


@pytest.mark.parametrize(
    ("name", "how", "upright"),
    [
        ("portrait.mp4", ["-vf", "transpose=1"], True),
        ("tenbit.mkv", ["-pix_fmt", "yuv420p10le"], False),
        ("gray.mkv", ["-pix_fmt", "gray", "-c:v", "ffv1"], False),
        ("full.mp4", ["-pix_fmt", "yuvj420p"], False),
        ("mpeg4.avi", ["-c:v", "mpeg4"], False),
        ("raw.h264", ["-f", "h264"], False),
        ("odd.mkv", ["-vf", "crop=97:65", "-pix_fmt", "yuv444p"], False),
        ("stream.ts", ["-f", "mpegts"], False),
    ],
)
def test_unusual_videos_get_answers_and_overlays(tmp_path, checkpoint, name, how, upright):
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=128x96:rate=25:duration=0.6", *how, tmp_path / name)
    result = predict(checkpoint, tmp_path / name, "--save-video", tmp_path / "seen.mp4")
    assert result.exit_code == 0, result.told
    (answer,) = result.answers
    assert (answer["frames"], answer["looped"]) == (15, False)
    info = probe(tmp_path / "seen.mp4")
    assert (info.height > info.width) is upright
    assert (info.num_frames, info.pix_fmt) == (15, "yuv420p")


def test_a_rotated_video_is_seen_and_drawn_as_a_player_shows_it(tmp_path, make_video, checkpoint):
    make_video(tmp_path / "a.mp4", height=48, width=64)
    ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", "-metadata:s:v", "rotate=90", tmp_path / "turned.mp4")
    upright = decode(tmp_path / "turned.mp4")
    assert upright.shape[1:3] == (64, 48)
    write_video(tmp_path / "upright.mp4", upright, fps=30, lossless=True)
    names = ("turned.mp4", "upright.mp4", "a.mp4")
    turned, wanted, lying = (
        answer["probabilities"]["Jump"] for answer in predict(checkpoint, *(tmp_path / name for name in names)).answers
    )
    # Resizing before or after the turn rounds differently.
    assert turned == pytest.approx(wanted, abs=0.01)
    assert abs(lying - wanted) > 0.02
    predict(checkpoint, tmp_path / "turned.mp4", "--save-video", tmp_path / "seen.mp4")
    info = probe(tmp_path / "seen.mp4")
    assert (info.height, info.width, info.rotation) == (320, 240, 0)


def test_a_turned_video_of_pixels_that_are_no_squares_is_drawn_as_a_player_shows_it(tmp_path, checkpoint):
    frames = np.full((8, 48, 64, 3), 60, np.uint8)
    write_video(tmp_path / "a.mp4", frames, fps=25, pixel_shape=Fraction(12, 11))
    ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", "-metadata:s:v", "rotate=90", tmp_path / "turned.mp4")
    for name, shape in (("a.mp4", Fraction(12, 11)), ("turned.mp4", Fraction(11, 12))):
        assert {frame.pixel_shape for frame in read_frames(tmp_path / name)} == {shape}
        predict(checkpoint, tmp_path / name, "--save-video", tmp_path / "seen.mp4")
        assert {frame.pixel_shape for frame in read_frames(tmp_path / "seen.mp4")} == {shape}
        (tmp_path / "seen.mp4").unlink()


def test_a_short_video_is_looped_and_says_so(tmp_path, make_video, checkpoint):
    frames = make_video(tmp_path / "a.mp4", num_frames=3)
    make_video(tmp_path / "one.mp4", num_frames=1)
    # The first one of four frames again, as the view starts over.
    write_video(tmp_path / "b.mp4", np.concatenate([frames, frames[:1]]), fps=30, lossless=True)
    short, one, whole = predict(checkpoint, *(tmp_path / name for name in ("a.mp4", "one.mp4", "b.mp4"))).answers
    assert (short["looped"], one["looped"], whole["looped"]) == (True, True, False)
    assert short["probabilities"] == pytest.approx(whole["probabilities"], abs=2e-6)


def test_a_checkpoint_that_forbids_looping_refuses_a_short_video(tmp_path, make_video):
    path = write_checkpoint(tmp_path / "c.safetensors", loop=False)
    make_video(tmp_path / "a.mp4", num_frames=3)
    result = predict(path, tmp_path / "a.mp4")
    assert result.exit_code == 1
    assert "a.mp4: has 3 frames, the view needs 4" in result.told


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("a.jpg", ["-frames:v", "1"], r"a.jpg: is a picture \(JPEG\), wanted a video"),
        ("a.png", ["-frames:v", "1"], r"a.png: is a picture \(PNG\), wanted a video"),
        ("a.gif", [], r"a.gif: is a picture \(GIF\), wanted a video"),
        ("sound.mp4", ["-vn", "-t", "0.2"], "sound.mp4: holds no video stream"),
        ("sound.wav", ["-vn", "-t", "0.2"], "sound.wav: cannot be decoded as a video"),
    ],
)
def test_what_is_no_video_is_refused_clearly(tmp_path, checkpoint, name, how, message):
    inputs = ["-f", "lavfi", "-i", "testsrc=size=64x48:duration=0.2", "-f", "lavfi", "-i", "sine=duration=0.2"]
    ffmpeg(*inputs, *how, tmp_path / name)
    result = predict(checkpoint, tmp_path / name)
    assert result.exit_code == 1
    assert result.answers == []
    assert re.search(message, result.told), result.told


def test_the_cover_picture_of_a_song_is_no_video(tmp_path, checkpoint):
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48", "-frames:v", "1", tmp_path / "cover.jpg")
    song = ["-map", "0:a", "-map", "1:v", "-c:v", "copy", "-disposition:v", "attached_pic"]
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", "-i", tmp_path / "cover.jpg", *song, tmp_path / "song.m4a")
    result = predict(checkpoint, tmp_path / "song.m4a")
    assert (result.exit_code, result.answers) == (1, [])
    assert "song.m4a: holds a cover picture and no video stream" in result.told


# --- what is written ---


def test_json_and_csv_say_the_same(tmp_path, make_video, checkpoint):
    make_video(tmp_path / "a.mp4")
    make_video(tmp_path / "b.mp4", num_frames=3, seed=1)
    lines = predict(checkpoint, tmp_path, "--top", "2").answers
    rows = list(csv.DictReader(io.StringIO(predict(checkpoint, tmp_path, "--top", "2", "--format", "csv").stdout)))
    assert len(lines) == len(rows) == 2
    for line, row in zip(lines, rows, strict=True):
        assert row["source"] == line["source"]
        assert [float(row[key]) for key in ("window", "start", "end", "frames")] == [
            line[key] for key in ("window", "start", "end", "frames")
        ]
        assert row["looped"] == str(line["looped"]).lower()
        assert {name: float(row[f"p_{name}"]) for name in CLASSES} == line["probabilities"]
        best, second = line["top"]
        assert (row["label"], float(row["probability"])) == (best["label"], best["probability"])
        assert (row["label_2"], float(row["probability_2"])) == (second["label"], second["probability"])
        ranking = sorted(line["probabilities"], key=line["probabilities"].get, reverse=True)
        assert [each["label"] for each in line["top"]] == ranking[:2]
        assert line["label"] == ranking[0]
        # Three numbers of six places.
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=2e-6)


def test_below_the_threshold_there_is_no_label(tmp_path, make_video, checkpoint):
    make_video(tmp_path / "a.mp4")
    (certain,) = predict(checkpoint, tmp_path / "a.mp4").answers
    best = certain["probability"]
    (line,) = predict(checkpoint, tmp_path / "a.mp4", "--threshold", best + 0.01).answers
    assert (line["label"], line["top"]) == (None, certain["top"])
    (line,) = predict(checkpoint, tmp_path / "a.mp4", "--threshold", best - 0.01).answers
    assert line["label"] == certain["label"]
    text = predict(checkpoint, tmp_path / "a.mp4", "--threshold", best + 0.01, "--format", "csv").stdout
    assert next(csv.DictReader(io.StringIO(text)))["label"] == "unknown"


def test_answers_go_into_a_file_that_is_whole_or_absent(tmp_path, make_video, checkpoint):
    make_video(tmp_path / "in" / "a.mp4")
    result = predict(checkpoint, tmp_path / "in", "--out", tmp_path / "new" / "answers.jsonl")
    assert result.stdout == ""
    assert json.loads((tmp_path / "new" / "answers.jsonl").read_text())["frames"] == 12
    # One broken file among others: what the others gave stays.
    (tmp_path / "in" / "b.mp4").write_bytes(b"")
    assert predict(checkpoint, tmp_path / "in", "--out", tmp_path / "new" / "answers.jsonl").exit_code == 1
    assert len((tmp_path / "new" / "answers.jsonl").read_text().splitlines()) == 1
    # An error that ends the run leaves the older file.
    predict(checkpoint, tmp_path / "in", "--save-video", tmp_path / "in", "--out", tmp_path / "new" / "answers.jsonl")
    assert len((tmp_path / "new" / "answers.jsonl").read_text().splitlines()) == 1
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_names_of_any_letters_come_through(tmp_path, make_video):
    classes = ("<script>alert(1)</script>", 'say "hi", twice', "走る")
    path = write_checkpoint(tmp_path / "c.safetensors", classes=classes)
    video = tmp_path / "caf\udce9 ü\n.mp4"  # a byte that is no UTF-8
    make_video(tmp_path / "a.mp4")
    shutil.move(tmp_path / "a.mp4", video)
    result = predict(path, video, "--save-video", tmp_path / "seen.mp4")
    assert result.exit_code == 0, result.told
    (answer,) = result.answers
    assert tuple(answer["probabilities"]) == classes
    assert answer["source"] == str(video)
    assert "class '走る' is drawn as 'class 2'" in result.told
    text = predict(path, video, "--format", "csv").stdout
    assert next(csv.reader(io.StringIO(text)))[-3:] == [f"p_{name}" for name in classes]


def test_an_answer_that_is_no_number_is_refused(tmp_path, make_video):
    def spoil(tensors):
        name = next(name for name in tensors if name.endswith("weight"))
        tensors[name].view(-1)[0] = float("nan")

    path = write_checkpoint(tmp_path / "c.safetensors", weights=spoil)
    make_video(tmp_path / "a.mp4")
    result = predict(path, tmp_path / "a.mp4")
    assert result.exit_code == 1
    assert "the checkpoint's answer is no number" in result.told


def test_other_files_than_checkpoints_are_refused(tmp_path, make_video, checkpoint):
    make_video(tmp_path / "a.mp4")
    assert "is damaged or no safetensors file" in predict(tmp_path / "a.mp4", tmp_path / "a.mp4").told
    old = tmp_path / "old.safetensors"
    version = b'\\"version\\": '
    content = checkpoint.read_bytes()
    at = content.index(version) + len(version)
    old.write_bytes(content[:at] + b"1" + content[at + 1 :])
    assert "is of another version of the format" in predict(old, tmp_path / "a.mp4").told


# --- overlays ---


def times_of(path):
    return [float(frame.time) for frame in read_frames(path)]


def test_an_overlay_keeps_every_frame_at_its_time(tmp_path, checkpoint):
    times = [Fraction(index, 20) for index in range(20)] + [1 + Fraction(index, 4) for index in range(8)]
    write_variable(tmp_path / "a.mp4", times, height=240, width=320)
    before = decode(tmp_path / "a.mp4").astype(int)
    assert predict(checkpoint, tmp_path / "a.mp4", "--save-video", tmp_path / "seen.mp4").exit_code == 0
    # Time stamps count in 1/90000 s.
    assert measure_length(tmp_path / "seen.mp4").seconds == measure_length(tmp_path / "a.mp4").seconds == 3
    assert times_of(tmp_path / "seen.mp4") == pytest.approx([float(time) for time in times], abs=1e-4)
    after = decode(tmp_path / "seen.mp4").astype(int)
    # Away from the text only the second coding changes something.
    assert np.abs(after - before)[:, 120:, 160:].mean() < 2
    assert np.abs(after - before)[:, 8:40, 8:80].mean() > 10


def test_a_frame_shows_the_answer_of_the_nearest_window(tmp_path):
    labelling = Labelling(class_names=("One", "Two"), top=1, threshold=0.0)
    write_variable(tmp_path / "a.mp4", [Fraction(index, 10) for index in range(20)], height=240, width=320)

    def answer(number, start, end, probabilities):
        values = np.array(probabilities, np.float32)
        return Answer(
            number=number, start=start, end=end, num_frames=10, logits=values, probabilities=values, looped=False
        )

    answers = [answer(0, 0.0, 1.0, [0.9, 0.1]), answer(1, 1.0, 2.0, [0.1, 0.9])]
    write_overlay(tmp_path / "a.mp4", tmp_path / "seen.mp4", answers, labelling, colour_range="auto")
    seen = decode(tmp_path / "seen.mp4").astype(int)
    convert = FrameConverter(size=None, colour_range="auto")
    for frame in read_frames(tmp_path / "a.mp4"):
        lines = [("One", 0.9)] if frame.index < 10 else [("Two", 0.9)]
        wanted = draw(prepare(convert(frame.picture)), lines).astype(int)
        other = draw(prepare(convert(frame.picture)), [("Two", 0.9)] if frame.index < 10 else [("One", 0.9)])
        corner = np.s_[:40, :100]
        assert np.abs(seen[frame.index] - wanted)[corner].mean() < np.abs(seen[frame.index] - other)[corner].mean()


def test_an_overlay_plays_in_browsers_and_players(tmp_path, make_video, checkpoint):
    make_video(tmp_path / "a.mp4")
    predict(checkpoint, tmp_path / "a.mp4", "--save-video", tmp_path / "seen.mp4")
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe, an independent reader, is not installed")
    command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(tmp_path / "seen.mp4")]
    (stream,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["streams"]
    assert (stream["codec_name"], stream["pix_fmt"], stream["color_range"]) == ("h264", "yuv420p", "tv")
    assert (stream["color_space"], stream["nb_frames"]) == ("bt470bg", "12")
    # Small videos are enlarged until text can be read.
    assert (stream["width"], stream["height"]) == (320, 240)
    # The index stands before the pictures.
    content = (tmp_path / "seen.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_sound_is_left_out_and_said(tmp_path, checkpoint):
    inputs = ["-f", "lavfi", "-i", "testsrc=size=64x48:duration=0.5", "-f", "lavfi", "-i", "sine=duration=0.5"]
    ffmpeg(*inputs, tmp_path / "a.mp4")
    assert has_sound(tmp_path / "a.mp4")
    result = predict(checkpoint, tmp_path / "a.mp4", "--save-video", tmp_path / "seen.mp4")
    assert "has no sound" in result.told
    assert not has_sound(tmp_path / "seen.mp4")


def test_overlays_of_a_folder_keep_its_paths_and_never_meet(tmp_path, make_video, checkpoint, monkeypatch):
    for name in ("in/x/1.mp4", "in/y/1.mp4", "in/y/1.mkv", "1.mp4"):
        make_video(tmp_path / name, num_frames=4)
    monkeypatch.chdir(tmp_path)
    result = predict(checkpoint, "in", "1.mp4", "--save-video", "out")
    assert result.exit_code == 0, result.told
    found = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert found == ["1.mp4", "x/1.mp4", "y/1-2.mp4", "y/1.mp4"]


def test_overlays_that_would_do_harm_are_refused(tmp_path, make_video, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.mp4", "in/b.mp4"):
        make_video(tmp_path / name)
    before = sha256_of(Path("in/a.mp4"))
    assert "is one file for 2 videos" in predict(checkpoint, "in", "--save-video", "seen.mp4").told
    assert "lies inside in" in predict(checkpoint, "in", "--save-video", "in/seen").told
    assert "is the video itself" in predict(checkpoint, "in/a.mp4", "--save-video", "in").told
    assert "would overwrite in/a.mp4, which is read" in predict(checkpoint, "in/a.mp4", "--save-video", "in/a.mp4").told
    assert sha256_of(Path("in/a.mp4")) == before
    lines = predict(checkpoint, "-", "--save-video", "s.mp4", stdin="in/a.mp4\nin/b.mp4\n")
    assert "several videos" in lines.told
    assert [answer["source"] for answer in lines.answers] == ["in/a.mp4"]
    Path("seen").write_text("a file")
    assert "seen: is a file, wanted a folder" in predict(checkpoint, "in", "--save-video", "seen").told


def test_overlays_never_fall_on_another_video_that_is_read(tmp_path, make_video, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("A/x.mp4", "D/x.mp4", "E/x.avi", "E/x.mp4")):
        make_video(tmp_path / name, seed=seed)
    before = {path: sha256_of(path) for path in Path().rglob("x.*")}
    for sources, out in ((["A/x.mp4", "D/x.mp4"], "D"), (["E/*"], "E")):
        result = predict(checkpoint, *sources, "--save-video", out)
        assert result.exit_code != 0
        assert not result.answers
        assert "is another video that is read; write to another folder" in result.told
    # On standard input what comes later is not known: then that one is not predicted.
    result = predict(checkpoint, "-", "--save-video", "D", stdin=f"{tmp_path}/D/x.mp4\n{tmp_path}/A/x.mp4\n.\n")
    assert result.exit_code == 1
    assert "D/x.mp4 is the video itself" in result.told
    assert "D/x.mp4 is another video that is read" in result.told
    assert ".: is a folder, wanted a video" in result.told
    result = predict(checkpoint, "-", "--save-video", "new", stdin="\ufeffA/x.mp4\nnew/A/x.mp4\n")
    assert [answer["source"] for answer in result.answers] == ["A/x.mp4"]
    assert "new/A/x.mp4: is an overlay that was written just now" in result.told
    assert {path: sha256_of(path) for path in before} == before


def test_answers_are_never_written_over_what_is_read(tmp_path, make_video, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "in/a.mp4")
    shutil.copy(checkpoint, "student.safetensors")
    Path("list.txt").write_text("in/a.mp4\n")
    kept = [Path("in/a.mp4"), Path("student.safetensors"), Path("list.txt")]
    before = [sha256_of(path) for path in kept]
    for source, out in (
        *(("in/a.mp4", "in/a.mp4"), ("in", "in/a.mp4"), ("list.txt", "list.txt"), ("list.txt", "in/a.mp4")),
        *(("in", "student.safetensors"),),
    ):
        result = predict("student.safetensors", source, "--out", out)
        assert result.exit_code != 0
        assert f"--out {out}: would overwrite " in result.told
    both = predict("student.safetensors", "in/a.mp4", "--save-video", "s.mp4", "--out", "s.mp4")
    assert "--out s.mp4: would overwrite what --save-video writes" in both.told
    folder = predict("student.safetensors", "in/a.mp4", "--out", "in")
    assert "in: is a folder, wanted the name of a file" in folder.told
    assert not Path("s.mp4").exists()
    late = predict("student.safetensors", "-", "--out", "in/a.mp4", stdin="in/a.mp4\n")
    assert "--out in/a.mp4: would overwrite" in late.told
    assert [sha256_of(path) for path in kept] == before


def test_a_stream_that_never_opens_leaves_earlier_answers(tmp_path, checkpoint):
    (tmp_path / "answers.jsonl").write_text("last night's\n")
    result = predict(
        *(checkpoint, "tcp://127.0.0.1:9", "--timeout", "1", "--retries", "0"),
        *("--out", tmp_path / "answers.jsonl"),
    )
    assert result.exit_code != 0
    assert "given up after 1 tries" in result.told
    assert (tmp_path / "answers.jsonl").read_text() == "last night's\n"


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("Run", "Run"),
        ("Été", "Ete"),
        ("<b>", "<b>"),
        ("Straße", "Stra?e"),
        ("走る", "class 7"),
        ("走る場", "class 7"),
        ("", ""),
    ],
)
def test_class_names_are_drawn_in_letters_that_the_font_has(name, drawn):
    assert drawable(name, 7) == drawn


@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (900, 2), (240, 320), (1080, 1920), (241, 427)])
def test_any_picture_can_be_drawn_on(shape):
    picture = prepare(np.zeros((*shape, 3), np.uint8))
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert min(picture.shape[:2]) >= 240
    lines = [("a very long name of a class " * 5, 1.0), ("b", 0.0), ("unknown", float("nan"))]
    assert draw(picture, lines).max() > 100
    assert not draw(prepare(np.zeros((*shape, 3), np.uint8)), []).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.mp4", "--duration", "5"], "--duration goes with a live stream alone"),
        (["a.mp4", "--retries", "5"], "--retries goes with a live stream alone"),
        (["udp://127.0.0.1:9", "--videos", "."], "--videos goes with files alone"),
        (["udp://127.0.0.1:9", "a.mp4"], "a live stream goes alone"),
        (["udp://127.0.0.1:9", "--save-video", "folder"], "wanted a file that ends in .mp4"),
        ([], "Missing argument"),
    ],
)
def test_options_that_do_nothing_are_refused(checkpoint, options, message):
    result = predict(checkpoint, *options)
    told = f"{result.told}{result.output}"
    assert result.exit_code == 2
    assert message in told


# --- real clips ---


def test_real_dark_clips_get_answers_and_overlays(tmp_path, arid6, spread):
    clips = sorted((arid6 / "videos").rglob("*.mp4"))[::60]
    result = predict(spread, *clips, "--save-video", tmp_path / "seen")
    assert result.exit_code == 0, result.told
    assert len(result.answers) == len(clips) > 2
    for clip, answer in zip(clips, result.answers, strict=True):
        info = probe(clip)
        seen = probe(tmp_path / "seen" / clip.name)
        assert (answer["source"], answer["frames"]) == (str(clip), info.num_frames)
        assert seen.num_frames == info.num_frames
        # The picture stays dark: the bright text covers little.
        assert seen.mean_luma < info.mean_luma + 15


def windows_of(count):
    return [
        Window(number=number, start=0.0, end=1.0, num_frames=4, take=lambda _: np.zeros((4, 32, 44, 3), np.uint8))
        for number in range(count)
    ]


def test_batches_change_no_answer_and_no_order(checkpoint):
    loaded = load_recogniser(checkpoint, device=CPU)
    protocol = Protocol(clips=1, crops="five", average="logits")
    found = {}
    for size in (1, 4, 100):
        predictor = Predictor(loaded, protocol=protocol, batch_size=size, device=CPU)
        answers = list(predictor.answers(windows_of(7), name="x"))
        assert [answer.number for answer in answers] == list(range(7))
        found[size] = np.stack([answer.logits for answer in answers])
    np.testing.assert_allclose(found[1], found[100], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[4], found[100], rtol=0, atol=1e-5)

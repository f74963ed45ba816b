"""Brightening whole videos, and the sheet that compares enhancers."""

import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.clips.stream import measure_length, read_frames, write_stream
from pipeline.clips.video import decode, probe, write_video
from pipeline.enhancers.brighten import brighten_videos, contact_sheet
from pipeline.enhancers.build import build_enhancer

CPU = torch.device("cpu")


def gamma():
    return build_enhancer("gamma", gamma=2.0)


def brightened(source, out, **more):
    return brighten_videos(source, out, gamma(), device=CPU, crf=0, **more)


def test_a_video_is_brightened_at_its_size_rate_and_length(tmp_path):
    dark = np.full((7, 24, 34, 3), 16, dtype=np.uint8)
    write_video(tmp_path / "a.mkv", dark, fps=25, lossless=True)
    written = brightened(tmp_path / "a.mkv", tmp_path / "out")
    assert written == [tmp_path / "out" / "a.mp4"]
    info = probe(written[0])
    assert (info.num_frames, info.fps, info.height, info.width) == (7, 25, 24, 34)
    # 255 sqrt(16 / 255) = 63.9. Limited range has 219 codes for 256: a step of 1.2, at both ends of the way
    np.testing.assert_allclose(decode(written[0]).astype(float), 63.9, rtol=0, atol=2)


def test_a_folder_is_brightened_with_its_relative_paths(tmp_path, make_video):
    dark = {
        name: make_video(tmp_path / "in" / name, seed=seed, level=60) for seed, name in enumerate(["x/a.mkv", "b.avi"])
    }
    (tmp_path / "in" / "notes.txt").write_text("no video")
    (tmp_path / "in" / ".hidden.mp4").write_text("no video")
    told = []
    written = brightened(tmp_path / "in", tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert written == [tmp_path / "out" / "b.mp4", tmp_path / "out" / "x" / "a.mp4"]
    assert told == [(1, 2), (2, 2)]
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == written
    for path, name in zip(written, ["b.avi", "x/a.mkv"], strict=True):
        wanted = 255 * (dark[name] / 255) ** 0.5
        # Blocks of 8 pixels of one colour, of which subsampled colour blurs the edges: the middles are compared.
        found = decode(path)[:, 3::8, 3::8].astype(float)
        np.testing.assert_allclose(found, wanted[:, 3::8, 3::8], rtol=0, atol=8)


def test_one_video_can_be_written_to_a_named_file(tmp_path, make_video):
    make_video(tmp_path / "a.mkv")
    assert brightened(tmp_path / "a.mkv", tmp_path / "b" / "bright.mp4") == [tmp_path / "b" / "bright.mp4"]
    assert probe(tmp_path / "b" / "bright.mp4").num_frames == 12


def test_a_long_video_passes_frame_by_frame(tmp_path, make_video):
    make_video(tmp_path / "a.mkv", num_frames=40)
    live, most = set(), []

    class Counting(torch.nn.Module):
        def forward(self, frames):
            assert len(frames) == 1
            bright = frames.sqrt()
            live.add(id(bright))
            weakref.finalize(bright, live.discard, id(bright))
            most.append(len(live))
            return bright

    brighten_videos(tmp_path / "a.mkv", tmp_path / "out", Counting(), device=CPU)
    assert probe(tmp_path / "out" / "a.mp4").num_frames == len(most) == 40
    assert max(most) <= 2


def test_frames_keep_their_times(tmp_path):
    times = [Fraction(0), Fraction(1, 30), Fraction(1, 2), Fraction(2)]
    with write_stream(tmp_path / "a.mp4") as add:
        for time, end in zip(times, [*times[1:], Fraction(3)], strict=True):
            add(np.full((24, 32, 3), 16, np.uint8), time, end - time)
    brightened(tmp_path / "a.mp4", tmp_path / "out")
    assert [frame.time for frame in read_frames(tmp_path / "out" / "a.mp4")] == times
    assert measure_length(tmp_path / "out" / "a.mp4").seconds == 3


def test_pixels_keep_their_shape(tmp_path):
    write_video(tmp_path / "a.mp4", np.full((3, 24, 32, 3), 16, np.uint8), fps=25, pixel_shape=Fraction(12, 11))
    brightened(tmp_path / "a.mp4", tmp_path / "out")
    assert {frame.pixel_shape for frame in read_frames(tmp_path / "out" / "a.mp4")} == {Fraction(12, 11)}


def test_an_odd_last_row_and_column_are_cut(tmp_path):
    dark = np.full((3, 25, 33, 3), 16, dtype=np.uint8)
    write_video(tmp_path / "a.mkv", dark, fps=30, lossless=True)
    info = probe(brightened(tmp_path / "a.mkv", tmp_path / "out")[0])
    assert (info.height, info.width) == (24, 32)


def test_the_colour_range_that_is_given_counts(tmp_path):
    # Code 16 in a limited-range file is black; read as full range it is dark grey.
    write_video(tmp_path / "a.mp4", np.zeros((3, 24, 32, 3), dtype=np.uint8), fps=30)
    as_tagged = decode(brightened(tmp_path / "a.mp4", tmp_path / "auto")[0])
    as_full = decode(brightened(tmp_path / "a.mp4", tmp_path / "full", colour_range="full")[0])
    assert as_tagged.max() <= 2
    assert as_full.min() >= 50


def test_bad_videos_are_named_and_the_others_are_finished(tmp_path, make_video):
    for name in ("a.mkv", "c.mkv"):
        make_video(tmp_path / "in" / name)
    (tmp_path / "in" / "b.mkv").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"1 of 3 videos do not decode(.|\n)*in/b\.mkv: cannot be decoded"):
        brightened(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["a.mp4", "c.mp4"]


def test_an_older_output_is_replaced_and_survives_a_failure(tmp_path, make_video):
    make_video(tmp_path / "a.mkv")
    target = tmp_path / "out" / "a.mp4"
    target.parent.mkdir()
    target.write_bytes(b"older")

    class Failing(torch.nn.Module):
        def forward(self, frames):
            raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="gone"):
        brighten_videos(tmp_path / "a.mkv", target.parent, Failing(), device=CPU)
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"older"]
    brightened(tmp_path / "a.mkv", target.parent)
    assert probe(target).num_frames == 12
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("out", ["in", "in/bright"])
def test_an_output_inside_the_source_is_refused(tmp_path, make_video, out):
    make_video(tmp_path / "in" / "a.mkv")
    with pytest.raises(ValueError, match="lies inside"):
        brightened(tmp_path / "in", tmp_path / out)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.mkv"]


def test_a_source_that_would_be_overwritten_is_refused(tmp_path, make_video):
    dark = make_video(tmp_path / "in" / "in" / "a.mp4", lossless=False)
    before = (tmp_path / "in" / "in" / "a.mp4").read_bytes()
    for source, out in (("in/in/a.mp4", "in/in/a.mp4"), ("in/in/a.mp4", "in/in")):
        with pytest.raises(ValueError, match="is one of the videos to brighten"):
            brightened(tmp_path / source, tmp_path / out)
    assert (tmp_path / "in" / "in" / "a.mp4").read_bytes() == before
    assert len(dark) == 12


def test_two_videos_of_one_output_are_refused(tmp_path, make_video):
    for name in ("a.mkv", "a.avi"):
        make_video(tmp_path / "in" / name)
    with pytest.raises(ValueError, match=r"a\.mkv: would be written as .*a\.mp4, as .*a\.avi is"):
        brightened(tmp_path / "in", tmp_path / "out")


def test_a_source_without_a_video_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such video or folder"):
        brightened(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no video"):
        brightened(tmp_path / "empty", tmp_path / "out")


def test_the_sheet_has_a_row_for_the_dark_frames_and_one_for_each_enhancer(tmp_path, make_video):
    for seed, name in enumerate(["a.mkv", "b.mkv"]):
        make_video(tmp_path / "in" / name, seed=seed, level=40)
    enhancers = {"none": build_enhancer("none"), "gamma": gamma()}
    found = contact_sheet(
        tmp_path / "in", tmp_path / "sheets" / "sheet.png", enhancers, device=CPU, frames=3, repeats=2
    )
    assert list(found) == ["none", "gamma"]
    assert all(milliseconds > 0 for milliseconds in found.values())
    assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["sheet.png"]
    with Image.open(tmp_path / "sheets" / "sheet.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    rows = np.array_split(pixels, 3)
    # The paper around the pictures is white; only pictures are coloured.
    dark, same, bright = (row[np.ptp(row, axis=-1) > 8].mean() for row in rows)
    assert same == pytest.approx(dark, rel=0.05)
    assert bright > 2 * dark


def test_the_sheet_shows_evenly_spaced_frames_of_the_first_videos(tmp_path, make_video):
    for seed, name in enumerate(["a.mkv", "b.mkv", "c.mkv"]):
        make_video(tmp_path / name, seed=seed)
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, frames):
            seen.append((frames[0].permute(1, 2, 0) * 255).round().byte().numpy())
            return frames

    contact_sheet(tmp_path, tmp_path / "sheet.png", {"watched": Watched()}, device=CPU, frames=4, repeats=1)
    # 4 frames of 3 videos of 12: the first gives two, the middles of its halves; the others the middle one
    wanted = [
        decode(tmp_path / name)[index] for name, index in [("a.mkv", 3), ("a.mkv", 9), ("b.mkv", 6), ("c.mkv", 6)]
    ]
    assert np.array_equal(seen[:4], wanted)
    assert len(seen) == 8  # once to show, once to time
    seen.clear()
    contact_sheet(tmp_path, tmp_path / "sheet.png", {"watched": Watched()}, device=CPU, frames=2, repeats=1)
    assert np.array_equal(seen[:2], [decode(tmp_path / name)[6] for name in ("a.mkv", "b.mkv")])


@pytest.mark.parametrize("field", ["frames", "repeats"])
def test_a_sheet_of_nothing_is_refused(tmp_path, make_video, field):
    make_video(tmp_path / "a.mkv")
    with pytest.raises(ValueError, match=f"{field}: found 0, wanted at least 1"):
        contact_sheet(tmp_path, tmp_path / "sheet.png", {"gamma": gamma()}, device=CPU, **{field: 0})


def test_a_sheet_never_takes_the_place_of_a_video_or_folder(tmp_path, make_video):
    video = tmp_path / "a.mp4"
    make_video(video)
    before = video.read_bytes()
    (tmp_path / "folder.png").mkdir()
    for out in (video, tmp_path / "folder.png", tmp_path / "new"):
        with pytest.raises(ValueError, match="the sheet is a PNG; wanted a file's name that ends in"):
            contact_sheet(video, out, {"none": torch.nn.Identity()}, device=torch.device("cpu"))
    assert video.read_bytes() == before

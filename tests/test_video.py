import re
import shutil
import subprocess
import zlib
from fractions import Fraction

import numpy as np
import pytest

from pipeline.clips import video
from pipeline.clips.needed_frames import DECODE, SKIP_ALL, SKIP_UNREFERENCED, is_idr, plan_packets
from pipeline.clips.stream import write_stream
from pipeline.clips.video import FrameConverter, decode, probe, write_video


def test_lossless_video_round_trips_and_indices_choose_frames(tmp_path, make_video):
    path = tmp_path / "a.mp4"
    frames = make_video(path)
    assert np.array_equal(decode(path), frames)
    assert np.array_equal(decode(path, indices=[7, 2, 2]), frames[[7, 2, 2]])


def write_at_once(path, frames):
    write_video(path, frames, fps=15)


def write_one_by_one(path, frames):
    with write_stream(path) as add:
        for place, frame in enumerate(frames):
            add(frame, Fraction(place, 15), Fraction(1, 15))


@pytest.mark.parametrize("writes", [write_at_once, write_one_by_one])
@pytest.mark.parametrize("height_width", [(64, 86), (64, 96), (32, 48)])
def test_the_same_frames_give_the_same_bytes(tmp_path, height_width, writes):
    # Noise over a picture that moves, as the demo's clips are, several times: what an encoder reads without having
    # written it is another thing from time to time.
    rng = np.random.default_rng(0)
    still = rng.integers(0, 60, (*height_width, 3))
    frames = np.stack([np.roll(still, step, 1) + rng.integers(0, 12, still.shape) for step in range(24)])
    written = set()
    for time in range(8):
        writes(tmp_path / f"{time}.mp4", frames.astype(np.uint8))
        written.add((tmp_path / f"{time}.mp4").read_bytes())
    assert len(written) == 1


def test_probe_counts_frames_and_measures_luma(tmp_path):
    path = tmp_path / "a.mp4"
    frames = np.full((6, 32, 48, 3), 0, np.uint8)
    frames[:, 16:] = 255
    write_video(path, frames, fps=25, crf=0)
    info = probe(path)
    assert (info.num_frames, info.fps, info.width, info.height) == (6, 25.0, 48, 32)
    # Limited range: black is 16, white 235.
    assert info.mean_luma == pytest.approx((16 + 235) / 2, abs=0.5)
    assert info.dark_share == 0.0
    assert info.rgb_mean == pytest.approx((0.5, 0.5, 0.5), abs=0.01)
    assert info.rgb_square_mean == pytest.approx((0.5, 0.5, 0.5), abs=0.01)


def test_grey_levels_come_back_as_they_were(tmp_path):
    path = tmp_path / "a.mp4"
    frames = np.repeat(np.arange(1, 255, 5, dtype=np.uint8), 32 * 48 * 3).reshape(-1, 32, 48, 3)
    write_video(path, frames, fps=30, crf=0)
    error = decode(path).astype(int) - frames
    # 219 luma codes stand for 255 levels, so single levels move by one; there must be no bias.
    assert np.abs(error).max() <= 1
    assert abs(error.mean()) < 0.25


def test_the_range_parameter_keeps_codes_below_16(tmp_path):
    path = tmp_path / "a.mp4"
    frames = np.full((4, 32, 48, 3), 4, np.uint8)
    write_video(path, frames, fps=25, crf=0)
    assert decode(path, colour_range="limited").mean() == pytest.approx(4, abs=1)
    # Read as full range, the limited-range code 16 + 4 * 219 / 255 = 19.4 comes through as it is.
    assert decode(path, colour_range="full").mean() == pytest.approx(19.4, abs=1)


def ffmpeg(*arguments):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, an independent decoder, is not installed")
    return subprocess.run(["ffmpeg", "-loglevel", "error", *arguments], check=True, capture_output=True).stdout


def test_rotation_is_applied_as_ffmpeg_applies_it(tmp_path, make_video):
    path, turned = tmp_path / "a.mp4", tmp_path / "b.mp4"
    frames = make_video(path)
    ffmpeg("-i", path, "-c", "copy", "-metadata:s:v", "rotate=90", turned)
    raw = ffmpeg("-i", turned, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    shown = np.frombuffer(raw, np.uint8).reshape(12, 32, 24, 3)
    assert not np.array_equal(shown, frames.reshape(shown.shape))
    info = probe(turned)
    assert (info.width, info.height) == (24, 32)
    assert info.rotation in (90, 270)
    assert np.array_equal(decode(turned), shown)
    assert decode(turned, size=(64, 48)).shape == (12, 64, 48, 3)


def test_luma_is_ffmpegs_exactly_and_colour_within_four_codes(tmp_path):
    path = tmp_path / "a.mp4"
    rows, columns = np.mgrid[0:48, 0:64]
    smooth = np.stack([rows + 60, columns + 60, 120 + (rows - columns) // 2], axis=-1)
    # Smooth colour, and four codes: the versions of swscale differ in how they widen the colour planes.
    write_video(path, np.stack([smooth + 10 * t for t in range(3)]).astype(np.uint8), fps=30, crf=0)
    planes = np.frombuffer(ffmpeg("-i", path, "-f", "rawvideo", "-"), np.uint8).reshape(3, -1)
    assert probe(path).luma_crc32 == zlib.crc32(np.ascontiguousarray(planes[:, : 48 * 64]).data)
    scale = "scale=flags=bilinear+accurate_rnd+bitexact,format=rgb24"
    raw = ffmpeg("-i", path, "-vf", scale, "-f", "rawvideo", "-")
    colours = np.frombuffer(raw, np.uint8).reshape(3, 48, 64, 3)
    assert np.abs(decode(path).astype(int) - colours).max() <= 4


SIZES = [(48, 64), (42, 64), (30, 40), (48, 30), (31, 41), (49, 64), (64, 80), (96, 128)]


@pytest.mark.parametrize("name", sorted(video.PLANAR))
@pytest.mark.parametrize("colour_range", ["auto", "limited", "full"])
def test_planes_hold_the_codes_of_packed_pixels(name, colour_range, monkeypatch):
    """For every source that takes the quick way, scaled down, not at all and up."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    frame = video.av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=name)
    planar = [FrameConverter(size=size, colour_range=colour_range)(frame) for size in SIZES]
    monkeypatch.setattr(video, "PLANAR", frozenset())
    packed = [FrameConverter(size=size, colour_range=colour_range)(frame) for size in SIZES]
    for size, one, other in zip(SIZES, planar, packed, strict=True):
        assert np.array_equal(one, other), size


def test_a_crop_is_cut_from_the_scaled_and_turned_frame(tmp_path, make_video):
    path, turned = tmp_path / "a.mp4", tmp_path / "b.mp4"
    make_video(path, lossless=False)
    ffmpeg("-i", path, "-c", "copy", "-metadata:s:v", "rotate=90", turned)
    for each, size in ((path, (18, 20)), (turned, (20, 18)), (turned, None)):
        whole = decode(each, size=size)
        assert np.array_equal(decode(each, size=size, crop=(3, 5, 9, 11)), whole[:, 3:12, 5:16])


MOVING = "-f lavfi -i testsrc2=duration=1.5:rate=30:size=96x64 -pix_fmt yuv420p"
CODED = {
    "short groups": "-c:v libx264 -g 7",
    "open groups": "-c:v libx264 -g 7 -x264-params open-gop=1:b-pyramid=strict:bframes=5",
    "no key frame but the first": "-c:v libx264 -x264-params intra-refresh=1:keyint=8",
    "fields": "-c:v libx264 -g 9 -x264-params interlaced=1:bff=1",
    "many in between": "-c:v libx264 -g 15 -x264-params bframes=8:b-adapt=0:weightp=2:ref=8",
    "one after another": "-c:v libx264 -bf 0 -refs 1 -g 300",
    "10 bits": "-c:v libx264 -pix_fmt yuv420p10le -g 10",
    "full range": "-c:v libx264 -g 7 -vf scale=out_range=full -color_range pc",
    "uneven times": "-vf select='mod(n\\,5)' -vsync vfr -c:v libx264 -g 10",
    "Xvid": "-c:v libxvid -bf 2 -g 12",
    "MPEG-4": "-c:v mpeg4 -bf 2 -g 12",
}


@pytest.mark.parametrize("kind", sorted(CODED))
def test_skipping_frames_changes_no_pixel(tmp_path, kind):
    path = tmp_path / "a.mp4"
    ffmpeg(*MOVING.split(), *CODED[kind].split(), path)
    whole = decode(path, size=(32, 48))
    count = len(whole)
    rng = np.random.default_rng(0)
    middle = range(count // 2, count // 2 + 6)
    chosen = [middle, range(1, count, 3), [count - 1], [0], [9, 2, 2, 9], rng.integers(0, count, 8).tolist()]
    for indices in chosen:
        found = decode(path, indices=list(indices), size=(32, 48), num_frames=count)
        assert np.array_equal(found, whole[list(indices)]), list(indices)


@pytest.mark.parametrize("told", [44, 46])
def test_a_wrong_count_of_frames_costs_time_and_changes_no_pixel(tmp_path, told):
    path = tmp_path / "a.mp4"
    ffmpeg(*MOVING.split(), *CODED["short groups"].split(), path)
    whole = decode(path)
    assert len(whole) == 45
    assert np.array_equal(decode(path, indices=[40, 3], num_frames=told), whole[[40, 3]])
    with pytest.raises(ValueError, match="frame 45 is wanted, but only 1 of 2"):
        decode(path, indices=[3, 45], num_frames=told)


def test_only_needed_packets_are_decoded():
    # Coded: I0 P4 b2 (referred to) b1 b3, then a new start I5 P9 b7 b6 b8.
    times = [0, 40, 20, 10, 30, 50, 90, 70, 60, 80]
    starts = [True] + [False] * 4 + [True] + [False] * 4

    def modes(*wanted):
        return list(plan_packets(times, starts, wanted).modes)

    assert modes(0) == [DECODE]
    assert modes(3) == [SKIP_UNREFERENCED] * 4 + [DECODE]
    assert modes(5) == [SKIP_ALL] * 5 + [DECODE]
    assert modes(6, 9) == [SKIP_ALL] * 5 + [SKIP_UNREFERENCED, DECODE, SKIP_UNREFERENCED, DECODE]
    assert modes(4, 5) == [SKIP_UNREFERENCED, DECODE] + [SKIP_UNREFERENCED] * 3 + [DECODE]
    assert plan_packets(times, starts, [6, 9]).index_of == {60: 6, 90: 9}
    assert plan_packets(times, starts, [10]) is None
    assert plan_packets([0, 10, 10], [True, False, False], [1]) is None


def test_a_start_after_which_an_earlier_picture_is_shown_is_none_for_that_picture():
    # An open group: the picture at 25 comes after the I picture at 30 and refers to the one before it.
    times, starts = [0, 10, 30, 25, 40], [True, False, True, False, False]
    assert plan_packets(times, starts, [2]).modes[:3] == (SKIP_UNREFERENCED,) * 3
    assert plan_packets(times, starts, [3]).modes == (SKIP_ALL, SKIP_ALL, DECODE)


def test_a_recovery_point_is_no_start():
    def unit(kind, size=3):
        return (1 + size).to_bytes(4, "big") + bytes([kind]) + bytes(size)

    assert is_idr(unit(7) + unit(8) + unit(6) + unit(0x65), 4)
    assert not is_idr(unit(6) + unit(0x41), 4)
    assert not is_idr(unit(6), 4)
    assert is_idr(b"\x00\x03\x65\x00\x00", 2)


def test_bad_files_are_refused_by_name_and_reason(tmp_path, make_video):
    good = tmp_path / "good.mp4"
    make_video(good, lossless=False)
    content = good.read_bytes()
    bad = {
        "missing.mp4": (None, "no such file"),
        "empty.mp4": (b"", "the file is empty"),
        "truncated.mp4": (content[: len(content) // 2], "cannot be decoded"),
        "text.mp4": (b"no video at all\n" * 100, "cannot be decoded"),
        "playlist.mp4": (f"#EXTM3U\n#EXTINF:1,\n{good}\n#EXT-X-ENDLIST\n".encode(), "cannot be decoded"),
        "concat.mp4": (f"ffconcat version 1.0\nfile {good}\n".encode(), "cannot be decoded"),
    }
    for name, (data, reason) in bad.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=re.escape(name) + ".*" + reason):
            probe(tmp_path / name)
        with pytest.raises(ValueError, match=re.escape(name) + ".*" + reason):
            decode(tmp_path / name)
        with pytest.raises(ValueError, match=re.escape(name) + ".*" + reason):
            decode(tmp_path / name, indices=[1], num_frames=12)


def test_audio_alone_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", path)
    with pytest.raises(ValueError, match=r"sound\.mp4: holds no video stream"):
        probe(path)


def test_a_frame_beyond_the_end_is_an_error_not_another_frame(tmp_path, make_video):
    make_video(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="frame 12 is wanted, but only 1 of 2"):
        decode(tmp_path / "a.mp4", indices=[3, 12])


def test_writing_refuses_other_shapes_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match="wanted uint8"):
        write_video(path, np.zeros((2, 8, 8, 3), np.float32), fps=30)
    with pytest.raises(ValueError, match="even width and height"):
        write_video(path, np.zeros((2, 9, 8, 3), np.uint8), fps=30)
    assert list(tmp_path.iterdir()) == []


def test_real_dark_clips_decode_to_the_frames_they_declare(arid6):
    for path in sorted((arid6 / "videos").rglob("*.mp4"))[::50]:
        info = probe(path)
        whole = decode(path, size=(64, 85))
        assert whole.shape == (info.num_frames, 64, 85, 3)
        indices = [*range(7, 31), info.num_frames - 2]
        assert np.array_equal(decode(path, indices=indices, size=(64, 85), num_frames=info.num_frames), whole[indices])
        assert 33 <= info.num_frames <= 105
        assert 7 <= info.mean_luma <= 52

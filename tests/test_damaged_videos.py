"""Every kind of video gives right frames or a clear error, within its limits of time and memory.

What is right is what the program ffmpeg decodes, of another version than the library that is tested.
"""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from damaged_videos import (
    CODED,
    H264,
    MOVING,
    SIZES,
    SOUND,
    ffmpeg,
    make_coded,
    truncated,
    with_damage,
    with_declared_frames,
    with_declared_size,
)

from pipeline.clips import probe_apart
from pipeline.clips.probe_apart import Prober
from pipeline.clips.video import decode, decoded_frames

LIMITS = {"memory_mb": 500, "seconds": 20.0}
CLEAR = r"; .*(leave it out|re-encode|fetch)"
"""Every message ends in what to do."""


@pytest.fixture(scope="module")
def prober():
    with Prober(**LIMITS) as child:
        yield child


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """Makes a sound video of a kind, once."""
    folder, made = tmp_path_factory.mktemp("coded"), {}

    def make(name):
        if name not in made:
            made[name] = make_coded(folder, name)
        return made[name]

    return make


def planes_of(frame):
    """The codes of a frame as ffmpeg writes them, without the padding of rows."""
    packed = len(frame.planes) == 1 and not frame.format.name.startswith("gray")
    size = frame.format.padded_bits_per_pixel // 8 if packed else -(-frame.format.components[0].bits // 8)
    rows = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]
    return b"".join(
        each[: plane.height, : plane.width * size].tobytes() for each, plane in zip(rows, frame.planes, strict=True)
    )


def first_video(path):
    """Let ffmpeg write every frame of the video as it is, none twice and none left out."""
    return "-i", path, "-map", "0:V:0", "-fps_mode", "passthrough", "-f", "rawvideo"


def assert_planes_are_ffmpegs(path, info):
    """Each code as it was coded."""
    frames = list(decoded_frames(path))
    raw = ffmpeg("-noautorotate", *first_video(path), "-pix_fmt", info.pix_fmt, "-")
    assert b"".join(map(planes_of, frames)) == raw
    assert info.num_frames == len(frames)


def assert_frames_are_ffmpegs(path, info):
    """Planes exactly, RGB within 2 codes."""
    assert_planes_are_ffmpegs(path, info)
    scaler = ("-sws_flags", "bilinear+accurate_rnd+bitexact+full_chroma_int")
    shown = ffmpeg(*first_video(path), *scaler, "-pix_fmt", "rgb24", "-")
    found = decode(path)
    assert found.shape == (info.num_frames, info.height, info.width, 3)
    wanted = np.frombuffer(shown, np.uint8).reshape(found.shape)
    # the versions of swscale round otherwise
    assert int(np.abs(wanted.astype(int) - found).max()) <= 2


COLOUR_EDGES = {"av1.mkv"}
"""Whose encoder leaves edges in the colour, at which the versions of the scaler differ."""


@pytest.mark.parametrize("name", [*CODED, *SIZES])
def test_every_coding_gives_ffmpegs_frames(coded, prober, name):
    compare = assert_planes_are_ffmpegs if name in COLOUR_EDGES else assert_frames_are_ffmpegs
    compare(coded(name), prober(coded(name)))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos_are_shown_upright(coded, prober, tmp_path, degrees):
    path = tmp_path / "turned.mp4"
    ffmpeg("-i", coded("plain.mp4"), "-c", "copy", "-metadata:s:v", f"rotate={degrees}", path)
    info = prober(path)
    assert info.rotation == degrees
    assert_frames_are_ffmpegs(path, info)


def sound(folder):
    """Sound alone."""
    ffmpeg(*SOUND.split(), folder / "sound.mp4")
    return folder / "sound.mp4"


def cover(folder):
    """Sound with a cover picture, which FFmpeg gives as a video of one frame."""
    ffmpeg("-f", "lavfi", "-i", "color=red:size=32x32", "-frames:v", "1", folder / "cover.png")
    codes = ["-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v:0", "attached_pic"]
    ffmpeg(*SOUND.split(), "-i", folder / "cover.png", *codes, folder / "song.m4a")
    return folder / "song.m4a"


def subtitles(folder):
    """Text alone."""
    (folder / "text.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nnothing\n\n")
    ffmpeg("-i", folder / "text.srt", folder / "text.mkv")
    return folder / "text.mkv"


def two_streams(folder):
    """Sound before the video, and a second video."""
    size = MOVING.format(size="64x48").split()
    maps = ["-map", "1:a", "-map", "0:v", "-map", "2:v"]
    other = ["-f", "lavfi", "-i", "color=red:duration=0.8:rate=15:size=32x32"]
    ffmpeg(*size, *SOUND.split(), *other, *maps, *H264.split(), "-pix_fmt", "yuv420p", folder / "two.mkv")
    return folder / "two.mkv"


def latin_tags(folder):
    """A title that is no UTF-8, as cameras of before wrote."""
    source = make_coded(folder, "mpeg4.avi")
    tagged = folder / "tagged.avi"
    ffmpeg("-i", source, "-c", "copy", "-metadata", "title=Xabc", tagged)
    tagged.write_bytes(tagged.read_bytes().replace(b"Xabc", b"\xe9t\xe9\xff"))
    assert b"\xe9t\xe9\xff" in tagged.read_bytes()
    return tagged


def changing_size(folder):
    """Two sizes one behind the other in one stream."""
    parts = []
    for number, size in enumerate(("64x48", "96x64")):
        parts.append(folder / f"{number}.ts")
        ffmpeg(*MOVING.format(size=size).split(), "-c:v", "mpeg2video", parts[-1])
    whole = folder / "changing.ts"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    return whole


def unknown_codec(folder):
    """A codec that no library knows."""
    source = make_coded(folder, "mjpeg.avi")
    path = folder / "unknown.avi"
    path.write_bytes(source.read_bytes().replace(b"MJPG", b"QQQQ"))
    return path


def renamed(source, name):
    """One kind's bytes under another kind's suffix."""

    def make(folder):
        path = folder / name
        path.write_bytes(make_coded(folder, source).read_bytes())
        return path

    return make


def of_bytes(source, name, change):
    """A sound file with other bytes."""

    def make(folder):
        path = folder / name
        path.write_bytes(change(make_coded(folder, source).read_bytes()))
        return path

    return make


def of_content(name, content):
    """A file of such content."""

    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


# Kind -> how it is made and what is wanted: frames as ffmpeg gives them, or a message.
SOUND_ONES = {
    "mp4 named avi": renamed("plain.mp4", "a.avi"),
    "avi named mp4": renamed("mpeg4.avi", "a.mp4"),
    "webm named mov": renamed("vp9.webm", "a.mov"),
    "sound first and two videos": two_streams,
    "tags in Latin-1": latin_tags,
    "header of 100,000 frames": of_bytes(
        "mpeg4.avi", "many.avi", lambda content: with_declared_frames(content, 100_000)
    ),
    "header of 3 frames": of_bytes("mpeg4.avi", "few.avi", lambda content: with_declared_frames(content, 3)),
    "header of no frames": of_bytes("mpeg4.avi", "none.avi", lambda content: with_declared_frames(content, 0)),
}
BROKEN = {
    "no byte": (of_content("empty.mp4", b""), "the file is empty"),
    "zeros": (of_content("zeros.mp4", bytes(10_000)), "cannot be decoded"),
    "noise": (of_content("noise.avi", np.random.default_rng(0).bytes(10_000)), "cannot be decoded"),
    "text": (of_content("text.mp4", b"no video at all\n" * 200), "cannot be decoded"),
    "playlist": (of_content("list.mp4", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"), "cannot be decoded"),
    "sound alone": (sound, "holds no video stream"),
    "sound with a cover": (cover, "holds a cover picture and no video stream"),
    "text stream alone": (subtitles, "holds no video stream"),
    "unknown codec": (unknown_codec, "codec that this build of FFmpeg does not know"),
    "declared 12,000x12,000": (
        of_bytes("raw.avi", "large.avi", lambda content: with_declared_size(content, 12_000, 12_000)),
        "frames of 12000x12000, wanted at most",
    ),
    "declared 16,384x16,384": (
        of_bytes("raw.avi", "larger.avi", lambda content: with_declared_size(content, 16_384, 16_384)),
        "cannot be decoded",
    ),
    "JPEGs of 16,384x16,384": (
        of_bytes("mjpeg.avi", "jpegs.avi", lambda content: with_declared_size(content, 16_384, 16_384)),
        "cannot be decoded",
    ),
}
SOURCES = ("plain.mp4", "fragments.mp4", "mpeg4.avi", "vp9.webm", "h264.ts", "mjpeg.avi", "hevc-10-bit.mkv", "mpeg2.ts")


CUT_WITHIN = ("h264.ts", "mpeg2.ts")
"""Where the last frame may be one of which a part is missing, and neither container nor codec tells."""


@pytest.mark.parametrize("kind", SOUND_ONES)
def test_odd_but_sound_files_give_ffmpegs_frames(prober, tmp_path, kind):
    path = SOUND_ONES[kind](tmp_path)
    assert_frames_are_ffmpegs(path, prober(path))


@pytest.mark.parametrize("kind", BROKEN)
def test_files_without_frames_are_refused_by_name_and_reason(prober, tmp_path, kind):
    make, reason = BROKEN[kind]
    path = make(tmp_path)
    for read in (prober, decode):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{reason}.*{CLEAR}"):
            read(path)


def test_frames_of_changing_size_are_scaled_to_one_or_refused(prober, tmp_path):
    path = changing_size(tmp_path)
    info = prober(path)
    assert (info.width, info.height) == (96, 64)
    assert 20 < info.num_frames <= 24  # the decoder needs a whole picture to begin the second part with
    whole = decode(path, size=(48, 64))
    assert np.array_equal(whole[[3, 20]], decode(path, indices=[3, 20], size=(48, 64)))
    for indices in (None, [3, 20]):
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: .*96x64.*64x48; re-encode"):
            decode(path, indices=indices)


def probed_or_refused(prober, path):
    """What was found, or None after a message that names the file and what to do."""
    try:
        return prober(path)
    except ValueError as error:
        message = str(error)
    assert re.search(f"^{re.escape(str(path))}: .*{CLEAR}", message), message
    return None


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("source", SOURCES)
def test_what_is_cut_off_gives_the_first_frames_or_an_error(coded, prober, tmp_path, source, quarters):
    whole = coded(source)
    path = tmp_path / f"cut{whole.suffix}"
    path.write_bytes(truncated(whole.read_bytes(), quarters))
    info = probed_or_refused(prober, path)
    if info is None:
        return
    assert 0 < info.num_frames < 12
    whole_ones = info.num_frames - (source in CUT_WITHIN)
    assert np.array_equal(decode(path)[:whole_ones], decode(whole)[:whole_ones])
    assert_planes_are_ffmpegs(path, info)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("source", [*SOURCES, "ffv1-checked.mkv", "av1.mkv", "xvid.avi", "prores.mov"])
def test_damaged_packets_give_ffmpegs_frames_or_an_error(coded, prober, tmp_path, source, seed):
    whole = coded(source)
    path = tmp_path / f"damaged{whole.suffix}"
    content = whole.read_bytes()
    path.write_bytes(with_damage(content, start=len(content) // 3, seed=seed))
    info = probed_or_refused(prober, path)
    if info is None:
        return
    assert info.num_frames <= 12
    assert_planes_are_ffmpegs(path, info)


def test_a_child_that_needs_too_much_is_ended_and_the_next_video_is_probed(coded, tmp_path, monkeypatch):
    path = coded("plain.mp4")
    with Prober(memory_mb=500, seconds=20) as sound_one:
        wanted = sound_one(path)
    large = tmp_path / "large.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=red:size=4096x4096:duration=0.1:rate=15", "-c:v", "ffv1", large)
    with Prober(memory_mb=64, seconds=20) as small:
        with pytest.raises(ValueError, match=r"large\.mkv: needs more than 64 MB.*raise prepare\.max_memory_mb"):
            small(large)
        assert small(path) == wanted
    with Prober(memory_mb=500, seconds=0.001) as hasty:
        with pytest.raises(ValueError, match=r"large\.mkv: takes longer than 0\.001 s.*raise prepare\.max_seconds"):
            hasty(large)
        with pytest.raises(ValueError, match=r"plain\.mp4: takes longer"):
            hasty(path)


def test_a_crash_of_the_decoder_is_an_error_of_the_video(coded):
    path = coded("plain.mp4")
    with Prober(**LIMITS) as prober:
        wanted = prober(path)
        os.kill(prober._child.pid, signal.SIGSEGV)
        with pytest.raises(ValueError, match=r"plain\.mp4: ends its decoder by SIGSEGV.*re-encode it or leave it out"):
            prober(path)
        assert prober(path) == wanted


def test_a_child_that_cannot_work_is_no_error_of_the_video(coded, monkeypatch):
    monkeypatch.setattr(probe_apart.sys, "executable", "/bin/false")
    with Prober(**LIMITS) as prober, pytest.raises(ChildProcessError, match="ended with status 1"):
        prober(coded("plain.mp4"))


def test_the_child_imports_no_more_than_it_needs():
    code = "import sys, pipeline.clips.probe_apart; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "av" in loaded
    assert not {"torch", "h5py", "click", "dvc"} & set(loaded)


def test_names_of_any_bytes_reach_the_child(coded, prober, tmp_path):
    path = tmp_path / os.fsdecode(b"a \xff'\n.mp4")
    path.write_bytes(coded("plain.mp4").read_bytes())
    assert prober(path) == prober(coded("plain.mp4"))
    assert json.loads(json.dumps(str(path))) == str(path)

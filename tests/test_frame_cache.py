import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from micro import Run

from pipeline.clips import frame_cache
from pipeline.clips.clip_index import of_subset, read_clips
from pipeline.clips.dataset import Batches, ViewDataset, load_keys
from pipeline.clips.frame_cache import (
    CachedFrames,
    CachePolicy,
    DecodedFrames,
    keep_frames,
    npy_header,
    open_dark_frames,
)
from pipeline.clips.video import decode
from pipeline.clips.views import View, apply_view
from pipeline.presets import ARID_CLASSES

SIZE = (24, 32)


@dataclass(frozen=True)
class ListedClip:
    """What reading needs of a row of clips.csv."""

    id: str
    sha256: str
    num_frames: int = 12
    label: int = 0


@pytest.fixture
def clips(tmp_path, make_video):
    made = []
    for number in range(5):
        path = tmp_path / f"{number}.mp4"
        make_video(path, seed=number)
        made.append(ListedClip(path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
    return made


def opened(clips, folder, *, mode="on", limit=1e9, colour_range="auto", frame_size=SIZE):
    cache = CachePolicy(folder=folder / "cache", mode=mode, limit_bytes=limit)
    return open_dark_frames(clips, folder, frame_size=frame_size, colour_range=colour_range, cache=cache)


def kept_files(folder):
    return sorted(path for path in (folder / "cache").rglob("*") if path.is_file())


@pytest.mark.parametrize("indices", [None, [0], [3, 4, 5], [1, 4, 7], [7, 2, 2], [11, 0, 1], [5, 4, 3]])
@pytest.mark.parametrize("crop", [None, (0, 0, 24, 32), (5, 7, 16, 16)])
def test_the_cache_gives_what_decoding_gives(tmp_path, clips, indices, crop):
    source = opened(clips, tmp_path)
    whole = decode(tmp_path / clips[1].id, size=SIZE)
    wanted = whole if indices is None else whole[indices]
    if crop is not None:
        wanted = wanted[:, crop[0] : crop[0] + crop[2], crop[1] : crop[1] + crop[3]]
    for each in (source, source, source.source):
        found = each.frames(clips[1], indices, crop)
        assert np.array_equal(found, wanted)
        assert found.flags.writeable
        assert found.flags.c_contiguous


def test_the_size_is_printed_beforehand_and_is_that_of_the_files(tmp_path, clips, capsys):
    source = opened(clips, tmp_path)
    needed = 5 * (128 + 12 * 24 * 32 * 3)
    assert f"frames of 5 clips: {needed / 1e6:.1f} MB in" in capsys.readouterr().out
    assert kept_files(tmp_path) == []
    for clip in clips:
        source.fill(clip)
    assert sum(path.stat().st_size for path in kept_files(tmp_path)) == needed
    opened(clips, tmp_path)
    assert capsys.readouterr().out == ""  # nothing is left to do
    kept_files(tmp_path)[0].unlink()
    opened(clips, tmp_path)
    assert capsys.readouterr().out.endswith(f"{needed * 4 / 5 / 1e6:.1f} MB are there\n")


def test_a_kept_file_opens_as_any_npy_file(tmp_path, clips):
    path = opened(clips, tmp_path).fill(clips[0])
    assert np.array_equal(np.load(path), decode(tmp_path / clips[0].id, size=SIZE))
    assert path.read_bytes()[:128] == npy_header((12, *SIZE, 3))


@pytest.mark.parametrize(
    ("mode", "limit", "free_share", "kept"),
    [
        ("on", 0, 1.1, True),
        ("off", 1e9, 9, False),
        ("auto", 1e9, 2.1, True),
        ("auto", 1e9, 1.9, False),
        ("auto", 1e5, 9, False),
    ],
)
def test_the_disk_and_the_limit_are_asked_first(tmp_path, clips, monkeypatch, mode, limit, free_share, kept):
    needed = 5 * (128 + 12 * 24 * 32 * 3)
    disk = shutil.disk_usage(tmp_path)._replace(free=int(free_share * needed))
    monkeypatch.setattr(frame_cache.shutil, "disk_usage", lambda path: disk)
    assert isinstance(opened(clips, tmp_path, mode=mode, limit=limit), CachedFrames) == kept


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, clips, monkeypatch):
    disk = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(frame_cache.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(OSError, match=r"138880 bytes more, 1000 are free.*compute\.cache: off"):
        opened(clips, tmp_path)
    assert kept_files(tmp_path) == []


def test_files_belong_to_content_and_settings(tmp_path, clips, make_video):
    first = opened(clips, tmp_path)
    others = [opened(clips, tmp_path, colour_range="full"), opened(clips, tmp_path, frame_size=(12, 16))]
    assert len({source.folder for source in (first, *others)}) == 3
    before = first.fill(clips[0])
    # The same name with other content, and other names with the same content.
    make_video(tmp_path / "0.mp4", seed=9)
    changed = ListedClip("0.mp4", hashlib.sha256((tmp_path / "0.mp4").read_bytes()).hexdigest())
    assert first.fill(changed) != before
    assert not np.array_equal(first.frames(changed, None), first.frames(clips[0], None))
    assert first.fill(ListedClip("another.mp4", clips[0].sha256)) == before


def test_a_video_that_changed_its_length_is_refused(tmp_path, clips, make_video):
    make_video(tmp_path / "0.mp4", num_frames=9)
    with pytest.raises(ValueError, match=r"0\.mp4: found 9 frames, wanted the 12 it was listed with.*run prepare"):
        opened(clips, tmp_path).frames(clips[0], [0])
    assert kept_files(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut", "emptied", "longer", "header"])
def test_a_damaged_file_is_refused_by_name_and_made_again_once_removed(tmp_path, clips, damage):
    source = opened(clips, tmp_path)
    path = source.fill(clips[0])
    wanted = path.read_bytes()
    flipped = bytes([*wanted[:40], wanted[40] ^ 1, *wanted[41:]])
    path.write_bytes({"cut": wanted[:-1], "emptied": b"", "longer": wanted + b"\0", "header": flipped}[damage])
    with pytest.raises(ValueError, match=f"{path.name}: found .* wanted the {len(wanted)} bytes .*delete the file"):
        source.frames(clips[0], [2])
    path.unlink()
    source.frames(clips[0], [2])
    assert path.read_bytes() == wanted


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from pipeline.clips import frame_cache
from test_frame_cache import ListedClip, opened
def header_and_death(shape):
    os.kill(os.getpid(), signal.SIGKILL)
clips = [ListedClip("0.mp4", sys.argv[2])]
source = opened(clips, Path(sys.argv[1]))
frame_cache.npy_header = header_and_death
source.fill(clips[0])
"""


def test_a_kill_while_writing_leaves_no_file_of_that_name(tmp_path, clips):
    here = Path(__file__).parent
    command = [sys.executable, "-c", KILLED, tmp_path, clips[0].sha256, here]
    died = subprocess.run(command, cwd=here.parent, env=os.environ | {"PYTHONPATH": str(here.parent)})
    assert died.returncode == -signal.SIGKILL
    (partial,) = kept_files(tmp_path)
    assert partial.suffix == ".part"
    source = opened(clips, tmp_path)
    assert np.array_equal(source.frames(clips[0], None), decode(tmp_path / "0.mp4", size=SIZE))
    # It may be another process's work until an hour has passed.
    assert partial.exists()
    os.utime(partial, (time.time() - 3700,) * 2)
    opened(clips, tmp_path)
    assert [path.suffix for path in kept_files(tmp_path)] == [".npy"]


def _fill_all(clips, folder):
    source = opened(clips, folder, mode="auto")
    for clip in clips:
        source.fill(clip)


def test_two_processes_fill_one_cache_at_once(tmp_path, clips):
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_fill_all, args=(clips, tmp_path)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    files = kept_files(tmp_path)
    assert [path.stem for path in files] == sorted(clip.sha256 for clip in clips)
    source = opened(clips, tmp_path)
    for clip in clips:
        assert np.array_equal(source.frames(clip, None), decode(tmp_path / clip.id, size=SIZE))


VIEW = View(frame_indices=(2, 3, 4, 5), crop=(3, 4, 18, 20), flip=True)


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("crop", [(3, 4, 16, 16), (3, 4, 18, 20), (0, 0, 24, 32)])
def test_a_view_is_the_same_wherever_it_is_cut(tmp_path, clips, mode, crop):
    view = View(frame_indices=VIEW.frame_indices, crop=crop, flip=True)
    dataset = ViewDataset(clips, source=opened(clips, tmp_path, mode=mode), view_of=lambda clip, epoch: view, size=16)
    frames = decode(tmp_path / clips[2].id, indices=view.frame_indices, size=SIZE)
    assert np.array_equal(dataset[(0, 2)].pixels.numpy(), apply_view(frames, view, 16))


def seen(clip, epoch):
    return VIEW


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_clips_in_order_whatever_reads_them(tmp_path, clips, workers):
    dataset = ViewDataset(clips, source=opened(clips, tmp_path), view_of=seen, size=16)
    batches = Batches(dataset, batch_size=2, seed=None, workers=workers)
    for _ in range(2):
        found = list(batches.of_epoch(0))
        assert [batch.indices.tolist() for batch in found] == [[0, 1], [2, 3], [4]]
        for batch in found:
            for pixels, index in zip(batch.pixels, batch.indices.tolist(), strict=True):
                assert np.array_equal(pixels.numpy(), dataset[(0, index)].pixels.numpy())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_clip_is_named_in_its_own_words_by_any_reader(tmp_path, clips, workers):
    bad = tmp_path / clips[3].id
    bad.write_bytes(bad.read_bytes()[:200])
    source = opened(clips, tmp_path, mode="off")
    with pytest.raises(ValueError) as here:
        source.frames(clips[3], [2])
    keys = [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
    batches = iter(load_keys(ViewDataset(clips, source=source, view_of=seen, size=16), keys, workers=workers))
    assert len(next(batches).labels) == 2
    with pytest.raises(ValueError) as found:
        next(batches)
    assert str(found.value) == str(here.value)
    assert str(found.value).startswith(f"{bad}: cannot be decoded as a video (")
    assert str(found.value).endswith("fetch or re-encode it, or leave it out of the list")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_written_is_an_os_error_in_any_reader(tmp_path, clips, workers):
    source = opened(clips, tmp_path)
    source.folder.write_text("in the way")
    dataset = ViewDataset(clips, source=source, view_of=seen, size=16)
    with pytest.raises(OSError, match=source.folder.name) as found:
        list(load_keys(dataset, [[(0, 0)]], workers=workers))
    assert "Traceback" not in str(found.value)


class Deadly:
    """A source of frames that one clip kills, once there is a file that says so."""

    def __init__(self, source, clip_id, now):
        self.source, self.clip_id, self.now = source, clip_id, now

    def frames(self, clip, indices, crop=None):
        if clip.id == self.clip_id:
            # Earlier it would take batches with it that it has read, but that have not left it.
            while not self.now.exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.frames(clip, indices, crop)


def test_a_reader_that_dies_names_the_clip_that_it_was_reading(tmp_path, clips):
    source = Deadly(opened(clips, tmp_path), clips[3].id, tmp_path / "now")
    keys = [[(0, 0), (0, 1)], [(0, 2)], [(0, 4), (0, 3)]]
    batches = iter(load_keys(ViewDataset(clips, source=source, view_of=seen, size=16), keys, workers=2))
    before = [next(batches).indices.tolist() for _ in range(2)]
    assert before == [[0, 1], [2]]
    (tmp_path / "now").touch()
    with pytest.raises(ChildProcessError, match=rf"died while it read {clips[3].id} \(.*pid.*compute\.workers: 0"):
        next(batches)


@pytest.fixture(scope="module")
def done(tmp_path_factory, small_configs):
    """A run up to its logits, with nothing kept, and its student's bytes."""
    run = Run(tmp_path_factory.mktemp("cache") / "run", small_configs(compute={"cache": "off"}))
    run.folder.mkdir()
    run.render()
    run.prepare(ARID_CLASSES)
    run.enhancer()
    run.teacher()
    run.logits()
    run.student()
    return run


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_training_is_the_same_without_with_and_from_a_filled_cache(done, tmp_path, small_configs, workers):
    wanted = done.hashes(["student.safetensors"])
    assert list((done.folder / ".work" / "frames").rglob("*.npy")) == []
    run = done.copy(tmp_path / "run", small_configs(compute={"cache": "on", "workers": workers}))
    for _ in ("made", "found"):
        run["student.safetensors"].unlink()
        run.student()
        assert run.hashes(["student.safetensors"]) == wanted
        files = sorted((run.folder / ".work" / "frames").rglob("*.npy"))
        assert len(files) == len(of_subset(read_clips(run["clips.csv"]), "train"))
        shutil.rmtree(run.folder / ".work" / "student")


def test_the_student_notices_a_kept_pixel_that_changed(done, tmp_path, small_configs):
    run = done.copy(tmp_path / "run", small_configs(compute={"cache": "on"}))
    clips = read_clips(run["clips.csv"])
    views = run.configs["views"]
    cache = CachePolicy(folder=run.folder / ".work" / "frames", mode="on", limit_bytes=0)
    source = open_dark_frames(
        clips, run.videos, frame_size=tuple(views.frame_size), colour_range=views.colour_range, cache=cache
    )
    path = source.fill(of_subset(clips, "train")[0])
    content = bytearray(path.read_bytes())
    content[128:] = bytes(code ^ 1 for code in content[128:])
    path.write_bytes(content)
    run["student.safetensors"].unlink()
    with pytest.raises(ValueError, match="crc32"):
        run.student()


def test_frames_of_any_source_can_be_kept(tmp_path, clips):
    """The crc of what comes back is that of what was kept, whatever made it."""

    class Negative(DecodedFrames):
        def frames(self, clip, indices, crop=None):
            return 255 - super().frames(clip, indices, crop)

    cache = CachePolicy(folder=tmp_path / "cache", mode="on", limit_bytes=0)
    negative = Negative(videos=tmp_path, frame_size=SIZE, colour_range="auto")
    kept = keep_frames(negative, clips, settings="negative", frame_size=SIZE, cache=cache)
    dark = opened(clips, tmp_path)
    assert kept.folder != dark.folder
    assert zlib.crc32(kept.frames(clips[0], None)) == zlib.crc32(255 - dark.frames(clips[0], None))

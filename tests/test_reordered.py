"""What benchmarks/reordered.py makes of videos: classes that time alone tells apart."""

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import reordered
import studies

from pipeline.clips.lists import read_class_table, read_list
from pipeline.clips.video import decode, write_video


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_every_order_holds_each_frame_once_and_is_none_of_the_others(count):
    frames = np.arange(count)
    made = {order: tuple(reordered.reordered(frames, order)) for order in reordered.ORDERS}
    assert all(sorted(order) == list(range(count)) for order in made.values())
    assert len(set(made.values())) == (4 if count > 2 else count)


def test_orders_are_what_they_are_called():
    frames = np.arange(7)
    assert list(reordered.reordered(frames, "swapped")) == [4, 5, 6, 0, 1, 2, 3]
    assert list(reordered.reordered(frames, "folded")) == [0, 2, 4, 6, 5, 3, 1]


def test_the_lists_name_the_videos_of_their_order_and_both_subsets_stay_apart(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    for name, level in (("a/1.mp4", 10), ("b/1.mp4", 60), ("b/2.mp4", 110)):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        # Each frame 12 codes lighter than the one before: its place can be read from it.
        frames = np.tile(level + 12 * np.arange(8, dtype=np.uint8)[:, None, None, None], (32, 32, 3))
        write_video(videos / name, frames, fps=30, lossless=True)
    (tmp_path / "one.txt").write_text("0\t7\ta/1.mp4\n1\t8\tb/1.avi\n")
    (tmp_path / "two.txt").write_text("0\t8\tb/2.mp4\n")
    words = [videos, tmp_path / "one.txt", tmp_path / "two.txt", out]
    result = CliRunner().invoke(reordered.main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    ids, names = read_class_table(out / "mapping_table.txt")
    plan = studies.PLANS["pretext"]
    lists = [read_list(out / name, videos=out / "videos") for name in plan.lists]
    assert [len(listed) for listed in lists] == [8, 4]
    for level, listed in zip((10, 60, 110), (lists[0][:4], lists[0][4:], lists[1]), strict=True):
        for line in listed:
            means = decode(out / "videos" / line.path).mean(axis=(1, 2, 3))
            wanted = reordered.reordered(level + 12 * np.arange(8), names[ids.index(line.label)])
            assert np.abs(means - wanted).max() < 6


def test_two_videos_of_one_new_name_are_refused(tmp_path):
    for name in ("a/b_1.mp4", "a_b/1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        write_video(tmp_path / name, np.zeros((4, 33, 32, 3), np.uint8), fps=30, lossless=True)
    (tmp_path / "one.txt").write_text("0\t0\ta/b_1.mp4\n")
    (tmp_path / "two.txt").write_text("0\t0\ta_b/1.mp4\n")
    words = [tmp_path, tmp_path / "one.txt", tmp_path / "two.txt", tmp_path / "out"]
    result = CliRunner().invoke(reordered.main, list(map(str, words)))
    assert (result.exit_code, "a_b/1.mp4: would be written as a_b_1.mp4, as a/b_1.mp4 is" in result.output) == (1, True)
    # an odd row is cut, and the first list was written whole
    assert decode(tmp_path / "out/videos/folded/a_b_1.mp4").shape == (4, 32, 32, 3)

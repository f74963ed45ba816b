import json
import shutil

import numpy as np
import pytest

from pipeline import presets
from pipeline.clips.clip_index import class_names_in, clips_to_text, read_clips
from pipeline.clips.video import write_video
from pipeline.config import PrepareConfig
from pipeline.params import parse
from stages import prepare

CLASSES = ("Run", "Walk")


@pytest.fixture
def dataset(tmp_path, make_video):
    """Two scenes a class for training, one for the test."""
    lists = {"train": [], "test": []}
    names = [("train", 1), ("train", 2), ("test", 3)]
    for label, name in enumerate(CLASSES):
        for subset, scene in names:
            path = f"{name}/{name}_{scene}_1.mp4"
            make_video(tmp_path / "videos" / path, seed=10 * label + scene, num_frames=5 + scene, level=40)
            lists[subset].append(f"{len(lists[subset])}\t{label}\t{path}\n")
    for subset, lines in lists.items():
        (tmp_path / f"{subset}.txt").write_text("".join(lines))
    return tmp_path


def run(folder, train="train.txt", test="test.txt", classes=CLASSES, **changes):
    config = parse(PrepareConfig, presets.paper()["prepare"] | changes, where="prepare")
    outs = [folder / name for name in ("clips.csv", "statistics.json", "quarantine.csv")]
    places = folder / "videos", folder / train, folder / test
    prepare.run(*places, *outs, class_names=classes, config=config, colour_range="auto")
    return {clip.id: clip for clip in read_clips(outs[0])}


def test_clips_are_listed_with_what_was_found_in_them(dataset):
    clips = run(dataset)
    assert sorted(clips) == list(clips)
    clip = clips["Walk/Walk_2_1.mp4"]
    assert (clip.label, clip.class_name, clip.subset, clip.scene) == (1, "Walk", "train", "Walk/Walk/2")
    assert (clip.num_frames, clip.fps, clip.width, clip.height) == (7, 30.0, 32, 24)
    assert len(clip.sha256) == 64
    assert [c.subset for c in clips.values()].count("test") == 2
    statistics = json.loads((dataset / "statistics.json").read_text())
    assert statistics["clips"] == {"test": {"Run": 1, "Walk": 1}, "train": {"Run": 2, "Walk": 2}}


def test_mean_and_std_are_those_of_the_training_pixels(dataset):
    flat = {"Run/Run_1_1.mp4": 10, "Run/Run_2_1.mp4": 30, "Walk/Walk_1_1.mp4": 10, "Walk/Walk_2_1.mp4": 30}
    for path, level in flat.items():
        write_video(dataset / "videos" / path, np.full((4, 24, 32, 3), level, np.uint8), fps=30, lossless=True)
    run(dataset, on_leak="report")
    statistics = json.loads((dataset / "statistics.json").read_text())
    assert statistics["mean"] == pytest.approx([20 / 255] * 3, abs=1e-6)
    assert statistics["std"] == pytest.approx([10 / 255] * 3, abs=1e-6)


def test_every_bad_video_is_named_in_one_go(dataset):
    videos = dataset / "videos"
    (videos / "Run/Run_1_1.mp4").write_bytes(b"")
    (videos / "Walk/Walk_1_1.mp4").write_bytes(b"text")
    (videos / "Walk/Walk_3_1.mp4").unlink()
    with pytest.raises(ValueError, match=r"3 bad videos, prepare\.max_bad allows 2") as caught:
        run(dataset, max_bad=2)
    for part in ("Run_1_1.mp4: the file is empty", "Walk_1_1.mp4: cannot be decoded", "Walk_3_1.mp4: no such file"):
        assert part in str(caught.value)
    assert not (dataset / "clips.csv").exists()


def test_allowed_bad_videos_go_into_the_quarantine_file(dataset):
    (dataset / "videos/Run/Run_1_1.mp4").write_bytes(b"")
    clips = run(dataset, max_bad=1)
    assert "Run/Run_1_1.mp4" not in clips
    lines = (dataset / "quarantine.csv").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("Run/Run_1_1.mp4,Run/Run_1_1.mp4: the file is empty")


def test_the_same_clip_in_train_and_test_is_a_leak(dataset):
    (dataset / "test.txt").write_text("0\t0\tRun/Run_1_1.mp4\n1\t1\tWalk/Walk_3_1.mp4\n")
    # The same file has the same content, too.
    with pytest.raises(ValueError, match=r"1 leaks: same clip: Run/Run_1_1\.mp4 \(train, Run\), Run/Run_1_1"):
        run(dataset)
    run(dataset, on_leak="report")
    both = [clip for clip in read_clips(dataset / "clips.csv") if clip.id == "Run/Run_1_1.mp4"]
    assert [clip.subset for clip in both] == ["train", "test"]


def test_a_clip_listed_twice_in_one_subset_is_refused(dataset):
    lines = (dataset / "train.txt").read_text()
    (dataset / "train.txt").write_text(lines + lines.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"train\.txt:5: Run/Run_1_1\.mp4 stands already at .*train\.txt:1"):
        run(dataset, on_leak="report")


def test_the_same_content_twice_in_train_is_told_but_allowed(dataset, capsys):
    shutil.copy(dataset / "videos/Run/Run_1_1.mp4", dataset / "videos/Run/Run_2_1.mp4")
    run(dataset)
    assert "warning: doubled: same content: Run/Run_1_1.mp4" in capsys.readouterr().out


def test_the_same_content_under_another_name_is_a_leak(dataset):
    shutil.copy(dataset / "videos/Run/Run_1_1.mp4", dataset / "videos/Run/Run_3_1.mp4")
    with pytest.raises(ValueError, match=r"same content: Run/Run_1_1\.mp4 \(train, Run\), Run/Run_3_1\.mp4 \(test"):
        run(dataset)
    run(dataset, on_leak="report")
    assert len(json.loads((dataset / "statistics.json").read_text())["leaks"]) == 1


def test_a_class_without_training_clips_is_refused(dataset):
    (dataset / "train.txt").write_text("0\t0\tRun/Run_1_1.mp4\n")
    with pytest.raises(ValueError, match=r"class 1 \(Walk\) has no training clip"):
        run(dataset)


def test_a_named_class_without_any_clip_is_refused(dataset):
    with pytest.raises(ValueError, match=r"class 2 \(Wave\) has no training clip"):
        run(dataset, classes=(*CLASSES, "Wave"))


def test_a_run_without_test_clips_is_refused(dataset):
    for name in ("Run", "Walk"):
        (dataset / f"videos/{name}/{name}_3_1.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="no test clip is left"):
        run(dataset, max_bad=2)


def test_held_out_clips_are_whole_scenes_of_train(dataset):
    clips = run(dataset, holdout=2)
    held = {clip.scene for clip in clips.values() if clip.subset == "holdout"}
    assert len(held) == 2
    assert not held & {clip.scene for clip in clips.values() if clip.subset != "holdout"}
    assert len(class_names_in(list(clips.values()))) == 2
    with pytest.raises(ValueError, match=r"prepare\.holdout: 3 scenes wanted, but only 2"):
        run(dataset, holdout=3)


def test_one_list_for_both_is_split_by_scenes(dataset):
    whole = (dataset / "train.txt").read_text() + (dataset / "test.txt").read_text()
    (dataset / "all.txt").write_text(whole)
    clips = run(dataset, train="all.txt", test="all.txt", test_share=0.34, seed=1)
    scenes = {subset: {c.scene for c in clips.values() if c.subset == subset} for subset in ("train", "test")}
    assert len(scenes["test"]) == 2
    assert not scenes["test"] & scenes["train"]


def test_what_was_probed_before_a_stop_is_not_probed_again(dataset, monkeypatch):
    probed = []
    real = prepare.probe

    def counted(path, **more):
        if len(probed) == 3:
            raise KeyboardInterrupt
        probed.append(path.name)
        return real(path, **more)

    monkeypatch.setattr(prepare, "probe", counted)
    with pytest.raises(KeyboardInterrupt):
        run(dataset)
    journal = dataset / ".work/prepare/probed.jsonl"
    journal.write_text(journal.read_text() + '{"listed": "torn')
    again = []
    monkeypatch.setattr(prepare, "probe", lambda path, **more: again.append(path.name) or real(path, **more))
    stopped = run(dataset)
    assert len(again) == 3
    assert not set(again) & set(probed)
    shutil.rmtree(dataset / ".work")
    assert run(dataset) == stopped


def test_clips_csv_reads_back_and_refuses_what_it_did_not_write(dataset, tmp_path):
    clips = list(run(dataset).values())
    path = tmp_path / "copy.csv"
    path.write_text(clips_to_text(clips))
    text = path.read_text()
    assert read_clips(path) == clips
    for old, new, message in (
        ("num_frames", "frames", "found the columns"),
        (",train,", ",trian,", "subset 'trian'"),
        (",30,", ",often,", "field fps: found 'often', wanted a number"),
        (text.splitlines()[2], text.splitlines()[1], "stands twice"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            read_clips(path)
    with pytest.raises(ValueError, match="no such file; run `dlkdd prepare`"):
        read_clips(tmp_path / "none.csv")

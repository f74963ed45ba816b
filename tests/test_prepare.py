import json
import shutil
from dataclasses import fields

import numpy as np
import pytest

from pipeline import presets
from pipeline.clips.clip_index import Clip, class_names_in, clips_to_text, find_leaks, leak_note, read_clips
from pipeline.clips.lists import read_class_table, read_list, scene_of
from pipeline.clips.video import write_video
from pipeline.config import PrepareConfig, RenderConfig
from pipeline.datasets import DARK48_SOURCES
from pipeline.params import parse
from stages import prepare, render

CLASSES = ("Run", "Walk")
NO_LEAKS = {"same_clip": 0, "same_content": 0, "same_scene": 0, "same_name": 0, "examples": []}


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


def run(folder, train="train.txt", test="test.txt", classes=CLASSES, class_ids=None, **changes):
    config = parse(PrepareConfig, presets.paper()["prepare"] | changes, where="prepare")
    outs = [folder / name for name in ("clips.csv", "statistics.json", "quarantine.csv")]
    places = folder / "videos", folder / train, folder / test
    ids = list(range(len(classes))) if class_ids is None else class_ids
    prepare.run(*places, *outs, class_names=classes, class_ids=ids, config=config, colour_range="auto")
    return {clip.id: clip for clip in read_clips(outs[0])}


def leaks_of(folder):
    return json.loads((folder / "statistics.json").read_text())["leaks"]


def a_clip(clip_id, subset, label, *, pattern="", sha256=None):
    """A row of which only id, subset, class and content matter."""
    blank = {field.name: field.type() for field in fields(Clip)}
    told = {"id": clip_id, "subset": subset, "scene": scene_of(clip_id, pattern), "sha256": sha256 or clip_id}
    return Clip(**blank | told | {"label": label, "class_name": "" if label < 0 else f"class{label}"})


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
    assert statistics["leaks"] == NO_LEAKS


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
    with pytest.raises(ValueError, match=r"1 of 2 test clips is a training clip as well") as caught:
        run(dataset)
    assert "same clip: Run/Run_1_1.mp4 (train, Run), Run/Run_1_1.mp4 (test, Run)" in str(caught.value)
    assert "set prepare.on_leak: report" in str(caught.value)
    run(dataset, on_leak="report")
    # The same file has the same content and the same scene, but no other name or class.
    found = leaks_of(dataset)
    assert [found[kind] for kind in ("same_clip", "same_content", "same_scene", "same_name")] == [1, 0, 1, 0]
    both = [clip for clip in read_clips(dataset / "clips.csv") if clip.id == "Run/Run_1_1.mp4"]
    assert [clip.subset for clip in both] == ["train", "test"]


def test_a_clip_listed_twice_in_one_subset_is_refused(dataset):
    lines = (dataset / "train.txt").read_text()
    (dataset / "train.txt").write_text(lines + lines.splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"train\.txt:5: Run/Run_1_1\.mp4 stands already at .*train\.txt:1"):
        run(dataset, on_leak="report")


def test_a_clip_listed_with_two_suffixes_in_one_subset_is_refused(dataset):
    lines = (dataset / "train.txt").read_text()
    (dataset / "train.txt").write_text(lines + "9\t0\tRun/Run_1_1.avi\n")
    with pytest.raises(ValueError, match=r"train\.txt:5: Run/Run_1_1\.avi stands already at .*train\.txt:1"):
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
    assert leaks_of(dataset) == NO_LEAKS | {
        "same_content": 1,
        "examples": ["same content: Run/Run_1_1.mp4 (train, Run), Run/Run_3_1.mp4 (test, Run)"],
    }


def test_a_scene_in_train_and_test_is_a_leak(dataset, make_video, capsys):
    make_video(dataset / "videos/Walk/Walk_2_9.mp4", seed=99, level=40)
    (dataset / "test.txt").write_text("0\t0\tRun/Run_3_1.mp4\n1\t1\tWalk/Walk_2_9.mp4\n")
    with pytest.raises(ValueError, match=r"1 of 2 test clips shares its source.*Walk_2_1\.mp4 \(train, Walk\), Walk"):
        run(dataset)
    run(dataset, on_leak="report")
    told = "warning: leak between train and test: 1 of 2 test clips shares its source with a training clip\n"
    assert capsys.readouterr().out.count(told) == 1
    assert leaks_of(dataset)["same_scene"] == 1
    # Without a pattern every clip is a scene of its own.
    run(dataset, scene_pattern="")
    assert leaks_of(dataset) == NO_LEAKS


def test_a_scene_in_the_folders_of_train_and_test_is_a_leak(dataset, make_video):
    for subset, clip in (("train", 1), ("test", 2)):
        for name in CLASSES:
            scene = 4 if name == "Walk" else clip
            make_video(dataset / f"videos/{subset}/{name}/{name}_{scene}_{clip}.mp4", seed=clip, level=40)
    with pytest.raises(
        ValueError, match=r"1 of 2 .* source.*train/Walk/Walk_4_1\.mp4 \(train, Walk\), test/Walk/Walk_4_2"
    ):
        run(dataset, train="videos/train", test="videos/test")


def test_leaks_are_counted_by_test_clips():
    clips = [
        a_clip("a/x_1.mp4", "train", 0, pattern=DARK48_SOURCES),
        a_clip("a/x_2.mp4", "holdout", 0, pattern=DARK48_SOURCES),
        a_clip("a/y_1.mp4", "train", 0, pattern=DARK48_SOURCES, sha256="y"),
        a_clip("a/z_1.mp4", "train", 0, pattern=DARK48_SOURCES),
        # Source x: another part of it, and a copy under another class.
        a_clip("a/x_3.mp4", "test", 0, pattern=DARK48_SOURCES),
        a_clip("b/x_2.mp4", "test", 1, pattern=DARK48_SOURCES),
        # The content of y under a name of its own.
        a_clip("a/w_1.mp4", "test", 0, pattern=DARK48_SOURCES, sha256="y"),
        # z itself, and a copy of z of which nobody says what it shows.
        a_clip("a/z_1.mp4", "test", 0, pattern=DARK48_SOURCES),
        a_clip("c/z_1.mp4", "test", -1, pattern=DARK48_SOURCES),
        a_clip("b/q_1.mp4", "test", 1, pattern=DARK48_SOURCES),
    ]
    found = find_leaks(clips)
    assert {kind: found[kind] for kind in found if kind != "examples"} == {
        "same_clip": 1,
        "same_content": 1,
        "same_scene": 4,
        "same_name": 1,
    }
    assert len(found["examples"]) == 7
    assert "same name: a/x_2.mp4 (holdout, class0), b/x_2.mp4 (test, class1)" in found["examples"]


def test_at_most_ten_examples_show_every_kind_of_leak():
    names = [f"x_{number}.mp4" for number in range(20)]
    clips = [a_clip(f"a/{name}", "train", 0, pattern=DARK48_SOURCES) for name in names]
    clips += [a_clip(f"b/{name}", "test", 1, pattern=DARK48_SOURCES) for name in names]
    examples = find_leaks(clips)["examples"]
    assert len(examples) == 10
    assert {text.split(":")[0] for text in examples} == {"same scene", "same name"}


def test_a_clip_without_a_scene_in_its_name_shares_none():
    clips = [a_clip("odd.mp4", subset, 0, pattern=DARK48_SOURCES) for subset in ("train", "test")]
    found = find_leaks(clips)
    assert (found["same_clip"], found["same_scene"]) == (1, 0)


def test_the_same_names_in_two_classes_of_an_ordinary_data_set_are_no_leak():
    pattern = presets.paper()["prepare"]["scene_pattern"]
    for name in ("001.mp4", "clip_7_3.mp4"):
        clips = [a_clip(f"a/{name}", "train", 0, pattern=pattern), a_clip(f"b/{name}", "test", 1, pattern=pattern)]
        assert find_leaks(clips) == NO_LEAKS


def test_the_footnote_counts_leaks_and_is_empty_without():
    assert leak_note(NO_LEAKS, 60) == ""
    assert leak_note(NO_LEAKS | {"same_scene": 139, "same_name": 12}, 1763) == (
        "139 of 1763 test clips share their source with a training clip; "
        "12 have a copy in train under another class name"
    )
    assert leak_note(NO_LEAKS | {"same_clip": 1}, 60) == "1 of 60 test clips is a training clip as well"


def test_the_rendered_clips_share_no_scene(tmp_path):
    config = presets.demo()["render"] | {"train_clips_per_class": 2, "test_clips_per_class": 2, "num_frames": 2}
    config |= {"frame_size": [32, 32]}
    render.run(tmp_path, config=parse(RenderConfig, config, where="render"))
    pattern = presets.demo()["prepare"]["scene_pattern"]
    lists = {subset: read_list(tmp_path / f"{subset}.txt", videos=tmp_path) for subset in ("train", "test")}
    clips = [a_clip(line.path, subset, line.label, pattern=pattern) for subset in lists for line in lists[subset]]
    assert all(clip.scene != clip.id for clip in clips)
    assert find_leaks(clips) == NO_LEAKS


def test_the_gestures_and_the_dark_clips_raise_no_false_alarm(egogest10, arid6):
    pattern = presets.paper()["prepare"]["scene_pattern"]
    pairs = [(egogest10 / f"split{n}_train.txt", egogest10 / f"split{n}_test.txt") for n in (1, 2, 3)]
    for train, test in [*pairs, (arid6 / "train.txt", arid6 / "validate.txt")]:
        clips = [
            a_clip(line.path, subset, line.label, pattern=pattern)
            for path, subset in ((train, "train"), (test, "test"))
            for line in read_list(path, videos=path.parent / "videos")
        ]
        assert find_leaks(clips) == NO_LEAKS


def test_an_unlabelled_test_list_goes_through(dataset, capsys):
    for number in range(2):
        shutil.move(dataset / f"videos/{CLASSES[number]}/{CLASSES[number]}_3_1.mp4", dataset / f"videos/{number}.mp4")
    (dataset / "test.csv").write_text("VideoID,Video\n0,0.mp4\n1,1.mp4\n")
    clips = run(dataset, test="test.csv")
    assert [(clips[name].label, clips[name].class_name, clips[name].subset) for name in ("0.mp4", "1.mp4")] == [
        (-1, "", "test"),
        (-1, "", "test"),
    ]
    assert class_names_in(list(clips.values())) == CLASSES
    assert "6 clips: 2 test, 4 train (2 without a label)" in capsys.readouterr().out
    statistics = json.loads((dataset / "statistics.json").read_text())
    assert statistics["clips"]["test"] == {"unlabelled": 2}
    # Only a test clip may lack its label.
    text = (dataset / "clips.csv").read_text()
    (dataset / "clips.csv").write_text(text.replace("0.mp4,-1,,test", "0.mp4,-1,,train"))
    with pytest.raises(ValueError, match=r"clips\.csv:2: found subset 'train', label -1"):
        read_clips(dataset / "clips.csv")


def test_a_training_clip_without_a_label_is_refused_by_name(dataset):
    (dataset / "train.csv").write_text("path,label\nRun/Run_1_1.mp4,0\nWalk/Walk_1_1.mp4,\n")
    with pytest.raises(ValueError, match=r"train\.csv:3: Walk/Walk_1_1\.mp4 has no label"):
        run(dataset, train="train.csv")
    assert not (dataset / "clips.csv").exists()


def test_class_ids_that_start_at_five_become_indices(dataset):
    (dataset / "table.txt").write_text("5\tRun\n6\tWalk\n")
    rows = [f"{n},{c}/{c}_{n}_1.mp4,{5 + CLASSES.index(c)}" for c in ("Walk", "Run") for n in (1, 2)]
    (dataset / "train.csv").write_text("\n".join(["VideoID,Video,ClassID", *rows]) + "\n")
    (dataset / "test.csv").write_text("VideoID,Video\n0,Run/Run_3_1.mp4\n")
    ids, names = read_class_table(dataset / "table.txt")
    clips = run(dataset, train="train.csv", test="test.csv", classes=names, class_ids=ids)
    assert {clip.class_name: clip.label for clip in clips.values()} == {"Run": 0, "Walk": 1, "": -1}
    with pytest.raises(ValueError, match=r"train\.csv:2: class id 6 of Walk/Walk_1_1\.mp4 is none of 0, 1"):
        run(dataset, train="train.csv", test="test.csv", classes=names)


def test_lists_like_those_of_dark48_are_read_and_their_leaks_reported(tmp_path, make_video, capsys):
    """Names as they are there: a leading '-', one file in two classes, parts of one source on both sides."""
    subsets = {
        "train": ["up/-abc_3.mp4 0", "up/yt-x_4_71.mp4 0", "down/GlsbWeh0UhA_000002_000012.mp4 1"],
        "test": ["down/-abc_3.mp4 1", "up/-abc_9.mp4 0", "up/yt-x_5_71.mp4 0", "down/GlsbWeh0UhB_000002_000012.mp4 1"],
    }
    for subset, lines in subsets.items():
        (tmp_path / f"{subset}.txt").write_text("\n".join(lines))
        for seed, line in enumerate(lines):
            make_video(tmp_path / "videos" / line.rsplit(" ")[0], seed=10 * len(lines) + seed, num_frames=4, level=40)
    changes = {"classes": ("up", "down"), "scene_pattern": DARK48_SOURCES}
    with pytest.raises(ValueError, match=r"2 of 4 test clips share .*; 1 has a copy in train under another class name"):
        run(tmp_path, **changes)
    clips = run(tmp_path, **changes, on_leak="report")
    assert [clips[name].label for name in ("up/-abc_3.mp4", "down/-abc_3.mp4")] == [0, 1]
    found = leaks_of(tmp_path)
    assert [found[kind] for kind in ("same_clip", "same_content", "same_scene", "same_name")] == [0, 0, 2, 1]
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: leak between train and test: 2 of 4 test clips share their source with a training clip",
        "warning: leak between train and test: 1 of 4 test clips has a copy in train under another class name",
    ]


def test_frame_counts_that_differ_from_the_decoded_ones_are_told_once(dataset, capsys):
    # The fixture's clips have 5 frames and one more for each number of the scene.
    rows = ["Run/Run_1_1 6 0", "Run/Run_2_1 9 0", "Walk/Walk_1_1 6 1", "Walk/Walk_2_1 2 1"]
    (dataset / "frames.txt").write_text("\n".join(rows))
    clips = run(dataset, train="frames.txt")
    assert clips["Walk/Walk_2_1.mp4"].num_frames == 7
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [
        "warning: 2 of 4 clips have another number of frames than the list says, by up to 5 "
        "(Walk/Walk_2_1: listed 2, decoded 7)"
    ]
    (dataset / "frames.txt").write_text("\n".join(row for row in rows if "_1_1" in row))
    run(dataset, train="frames.txt")
    assert "warning" not in capsys.readouterr().out


def test_one_frame_list_for_both_is_split_by_scenes_as_well(dataset, make_video):
    rows = []
    for label, name in enumerate(CLASSES):
        for scene in (1, 2, 3):
            make_video(dataset / f"videos/{name}/{name}_{scene}_2.mp4", seed=50 + 10 * label + scene, level=40)
            rows += [f"{name}/{name}_{scene}_{number} 9 {label}" for number in (1, 2)]
    (dataset / "all.txt").write_text("\n".join(rows))
    # A scene on both sides would be refused as a leak.
    clips = run(dataset, train="all.txt", test="all.txt", test_share=0.5)
    assert [clip.subset for clip in clips.values()].count("test") == 6


def test_a_class_without_training_clips_is_refused(dataset):
    (dataset / "train.txt").write_text("0\t0\tRun/Run_1_1.mp4\n")
    with pytest.raises(ValueError, match=r"class 1 \(Walk\) has no training clip"):
        run(dataset)


def test_a_class_without_a_test_clip_is_told(dataset, capsys):
    run(dataset)
    assert "no test clip of" not in capsys.readouterr().out
    lines = (dataset / "test.txt").read_text().splitlines()
    (dataset / "test.txt").write_text("".join(f"{line}\n" for line in lines if "Walk" not in line))
    run(dataset)
    assert "warning: no test clip of Walk: nothing is measured of them" in capsys.readouterr().out


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
    real = prepare.Prober.__call__

    def counted(prober, path, **more):
        if len(probed) == 3:
            raise KeyboardInterrupt
        probed.append(path.name)
        return real(prober, path, **more)

    monkeypatch.setattr(prepare.Prober, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        run(dataset)
    journal = dataset / ".work/prepare/probed.jsonl"
    journal.write_text(journal.read_text() + '{"listed": "torn')
    again = []
    monkeypatch.setattr(
        prepare.Prober, "__call__", lambda prober, path, **more: again.append(path.name) or real(prober, path, **more)
    )
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


def test_a_wrong_root_is_said_once_and_not_for_every_video(dataset):
    for video in (dataset / "videos").rglob("*.mp4"):
        video.unlink()
    with pytest.raises(ValueError, match=r"none of the \d+ listed videos can be read there, .*is it the root"):
        run(dataset)


@pytest.mark.parametrize("linked", ["Walk/Walk_1_1.mp4", "Walk"])
def test_links_below_the_root_are_followed_or_refused(dataset, linked):
    wanted = run(dataset)
    place = dataset / "videos" / linked
    elsewhere = dataset / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    assert run(dataset) == wanted
    with pytest.raises(ValueError, match=rf"Walk_1_1\.mp4: \S+/{linked} is a link, wanted files below the root alone"):
        run(dataset, links=False)
    # the root itself may be one
    place.unlink()
    elsewhere.rename(place)
    (dataset / "videos").rename(dataset / "root")
    (dataset / "videos").symlink_to(dataset / "root")
    assert run(dataset, links=False) == wanted


def test_videos_beyond_the_limits_are_bad_and_the_others_are_listed(dataset):
    write_video(dataset / "videos/Walk/Walk_1_1.mp4", np.zeros((2, 4000, 4000, 3), np.uint8), fps=30)
    clips = run(dataset, max_bad=1, max_memory_mb=64)
    assert len(clips) == 5
    assert "want of memory: prepare.max_memory_mb allows 64" in (dataset / "quarantine.csv").read_text()
    with pytest.raises(ValueError, match=r"none of the 6 listed.*takes longer than 0\.0001 s.*prepare\.max_seconds"):
        run(dataset, max_bad=6, max_seconds=0.0001)

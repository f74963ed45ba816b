import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

from pipeline.clips.low_light import darken, draw_low_light
from pipeline.clips.rendered import DARKNESS, MOTION, draw_clip, render_clip
from pipeline.clips.rendered_figure import place_limbs, project
from pipeline.clips.rendered_motion import CLASS_NAMES, draw_motion
from pipeline.clips.rendered_scene import (
    SCENES,
    TEST_SCENES,
    TRAIN_SCENES,
    paint_scene,
    pan_scene,
    scene_named,
    scenes_of,
)
from pipeline.clips.video import decode, write_video
from pipeline.config import RenderConfig
from stages.render import run

ARID = ("Drink", "Jump", "Pick", "Pour", "Push", "Run", "Sit", "Stand", "Turn", "Walk", "Wave")
TIMES = np.arange(24) / 15.0
SMALL = RenderConfig(
    train_clips_per_class=1,
    test_clips_per_class=1,
    train_scenes=8,
    test_scenes=4,
    num_frames=3,
    frame_size=(32, 44),
    fps=15,
    exposure_ev=-5.0,
    lit_twin=False,
    crf=18,
    seed=4,
)


def frames_of(class_name, number=0, seed=0, subset="train"):
    clip = draw_clip(seed, subset, class_name, number)
    return render_clip(clip, num_frames=6, frame_size=(48, 64), fps=15)


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_classes_are_arids_in_its_order():
    assert CLASS_NAMES == ARID


@pytest.mark.parametrize("class_name", ARID)
def test_same_key_gives_the_same_frames(class_name):
    first, again = frames_of(class_name), frames_of(class_name)
    assert first.dtype == np.uint8
    assert first.shape == (6, 48, 64, 3)
    assert np.array_equal(first, again)


def test_every_part_of_the_key_changes_the_frames():
    first = frames_of("Walk")
    for other in (
        frames_of("Walk", number=8),  # the same scene
        frames_of("Walk", seed=1),
        frames_of("Walk", subset="test"),
        frames_of("Run"),
    ):
        assert not np.array_equal(first, other)


def test_frames_do_not_depend_on_what_was_rendered_before():
    first = frames_of("Pour")
    frames_of("Jump", number=3)
    assert np.array_equal(frames_of("Pour"), first)


def test_train_and_test_share_no_scene():
    names = [scene.name for scene in TRAIN_SCENES + TEST_SCENES]
    assert len(set(names)) == len(names) == 12
    pictures = [paint_scene(scene, 32, 44) for scene in TRAIN_SCENES + TEST_SCENES]
    for index, picture in enumerate(pictures):
        # Other walls, things or colours, beyond the grain's 5 %.
        assert all(np.abs(picture - other).mean() > 0.005 for other in pictures[:index])


def test_drawn_scenes_follow_the_made_ones_and_differ_from_all():
    assert scenes_of("train", 8) == TRAIN_SCENES
    assert scenes_of("test", 3) == TEST_SCENES[:3]
    scenes = [*scenes_of("train", 30), *scenes_of("test", 30)]
    assert scenes[:8] == list(TRAIN_SCENES)
    assert scenes[30:34] == list(TEST_SCENES)
    assert len({scene.name for scene in scenes}) == 60
    pictures = [paint_scene(scene, 32, 44) for scene in scenes]
    for index, picture in enumerate(pictures):
        assert all(np.abs(picture - other).mean() > 0.005 for other in pictures[:index])
    made, drawn = [picture.mean() for picture in pictures[:8]], [picture.mean() for picture in pictures[8:30]]
    assert min(made) / 1.5 < np.mean(drawn) < max(made) * 1.5
    for subset, scene in (("train", scenes[29]), ("test", scenes[59]), ("test", scenes[31])):
        assert scene_named(subset, scene.name) == scene
    for name in ("test4", "train9", "foo", "test"):
        with pytest.raises(ValueError, match=f"rendered scene '{name}': wanted library, .*, or test5 and on"):
            scene_named("test", name)
    with pytest.raises(ValueError, match="rendered scenes: found 0, wanted at least 1"):
        scenes_of("train", 0)


def test_clips_take_the_scenes_in_turn_and_are_painted_in_the_drawn_ones():
    clips = [draw_clip(0, "test", "Run", number, num_scenes=20) for number in range(40)]
    assert [clip.scene for clip in clips] == [scene.name for scene in scenes_of("test", 20)] * 2
    again = draw_clip(0, "test", "Run", 25)
    # All but the scene and its light are drawn as ever.
    assert dataclasses.replace(clips[25], scene=again.scene, lamp=again.lamp, warmth=again.warmth) == again
    frames = render_clip(clips[5], num_frames=2, frame_size=(32, 44), fps=15)
    in_another = render_clip(dataclasses.replace(clips[5], scene="test9"), num_frames=2, frame_size=(32, 44), fps=15)
    assert not np.array_equal(frames, in_another)


@pytest.mark.parametrize(("subset", "count"), [("train", 16), ("test", 8)])
def test_every_class_is_in_every_scene_equally_often(subset, count):
    places = {name: Counter(draw_clip(0, subset, name, n).scene for n in range(count)) for name in ARID}
    wanted = {scene.name: count // len(SCENES[subset]) for scene in SCENES[subset]}
    assert all(found == wanted for found in places.values())


def looks(clip):
    """Each drawn attribute of a clip as one of a few levels."""
    body = clip.body
    return {
        "shirt": body.shirt,
        "trousers": body.trousers,
        "sleeves": body.long_sleeves,
        "skin": body.skin,
        "hair": body.hair,
        "held": body.held,
        "hand": body.right_handed,
        "height": body.height > 0.78,
        "build": body.build > 1.075,
        "faces right": np.cos(clip.facing) > 0,
        "light side": clip.light[0] > 0,
        "ambient": clip.ambient > 0.475,
        "level": clip.level > 0.19,
        "centre": clip.centre > 0.5,
        "pan": int(clip.pan_start * 2),
    }


def test_body_clothes_light_and_camera_are_independent_of_the_class():
    clips = {name: [looks(draw_clip(0, "train", name, n)) for n in range(200)] for name in ARID}
    for attribute in clips["Drink"][0]:
        levels = sorted({look[attribute] for group in clips.values() for look in group})
        table = np.array([[sum(look[attribute] == level for look in clips[name]) for level in levels] for name in ARID])
        assert len(levels) > 1
        expected = table.sum(axis=0) * table.sum(axis=1, keepdims=True) / table.sum()
        freedom = (len(ARID) - 1) * (len(levels) - 1)
        # Mean `freedom`, standard deviation sqrt(2 freedom); over 15 attributes 4 deviations stay unlikely.
        assert ((table - expected) ** 2 / expected).sum() < freedom + 4 * np.sqrt(2 * freedom)


def test_darkness_is_drawn_without_a_look_at_the_class():
    gains = [
        [np.log(draw_low_light(draw_clip(0, "train", name, n).rng(DARKNESS), -5.0).shot_gain) for n in range(100)]
        for name in ARID
    ]
    means = np.mean(gains, axis=1)
    # Standard error of one class's mean; 4 of them, over 11 classes.
    assert np.abs(means - means.mean()).max() < 4 * np.std(gains) / 10


def test_stand_is_sit_backwards():
    sit, stand = (draw_motion(name, TIMES, np.random.default_rng(5)) for name in ("Sit", "Stand"))
    for joint in ("thigh", "knee", "lean"):
        assert np.array_equal(getattr(sit, joint), getattr(stand, joint)[::-1])
    assert sit.thigh[-1, 0] > 1.0 > 0.5 > sit.thigh[0, 0]


def test_run_steps_faster_and_goes_further_than_walk():
    walks = [draw_motion("Walk", TIMES, np.random.default_rng(seed)) for seed in range(20)]
    runs = [draw_motion("Run", TIMES, np.random.default_rng(seed)) for seed in range(20)]
    assert max(np.ptp(walk.travel) for walk in walks) < min(np.ptp(run.travel) for run in runs)
    speed = [[np.abs(np.diff(motion.thigh[:, 0])).mean() for motion in group] for group in (walks, runs)]
    assert max(speed[0]) < min(speed[1])


def test_only_jump_and_run_leave_the_floor():
    lifted = {name for name in ARID if draw_motion(name, TIMES, np.random.default_rng(0)).lift.max() > 0}
    assert lifted == {"Jump", "Run"}


@pytest.mark.parametrize("class_name", ARID)
def test_limbs_keep_their_length(class_name):
    clip = draw_clip(0, "train", class_name, 1)
    limbs = place_limbs(clip.body, draw_motion(class_name, TIMES, clip.rng(0)))
    for limb in limbs:
        lengths = np.linalg.norm(limb.end - limb.start, axis=1)
        # A trunk joins hip and shoulder lines that are turned together, so all limbs are rigid to rounding.
        assert np.ptp(lengths) < 1e-9


@pytest.mark.parametrize("class_name", ARID)
def test_lowest_ankle_stands_on_the_floor_unless_lifted(class_name):
    motion = draw_motion(class_name, TIMES, np.random.default_rng(2))
    limbs = place_limbs(draw_clip(0, "train", class_name, 1).body, motion)
    lowest = np.min([limb.end[:, 1] for limb in limbs if limb.radii == (0.042, 0.03)], axis=0)
    np.testing.assert_allclose(lowest, 0.04 + motion.lift, atol=1e-9)


@pytest.mark.parametrize("class_name", ARID)
def test_every_action_moves_a_limb_far_enough_to_be_seen(class_name):
    for number in range(8):
        clip = draw_clip(0, "train", class_name, number)
        motion = draw_motion(class_name, TIMES, clip.rng(MOTION))
        limbs = place_limbs(clip.body, motion)
        seen = project(limbs, facing=clip.facing + motion.turn, scale=50.0, feet=(0 * TIMES, 60.0), build=1.0)
        # In the middle 16 frames a hand, a knee or the head goes at least 4 of the figure's 50 pixels.
        assert np.ptp(seen.ends[4:20], axis=0).max() > 4.0


def test_pan_by_whole_pixels_cuts_the_scene_and_wraps_round():
    wall = paint_scene(TRAIN_SCENES[0], 32, 44)
    assert np.array_equal(pan_scene(wall, 5.0, 0.0, 44), wall[:, 5:49])
    assert np.array_equal(pan_scene(wall, 88.0 + 5.0, 0.0, 44), wall[:, 5:49])
    assert np.array_equal(pan_scene(wall, 0.0, 2.0, 44)[2:], wall[:-2, :44])


@pytest.mark.parametrize("wrong", [{"subset": "val"}, {"class_name": "Fly"}, {"number": -1}, {"seed": -1}])
def test_unknown_clips_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted train or test"):
        draw_clip(**{"seed": 0, "subset": "train", "class_name": "Sit", "number": 0, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"train_clips_per_class": 0},
        {"test_clips_per_class": 0},
        {"num_frames": 1},
        {"frame_size": (33, 44)},
        {"crf": 99},
    ],
)
def test_unfit_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="render"):
        dataclasses.replace(SMALL, **wrong)


def test_stage_writes_dark_clips_their_twins_and_arids_lists(tmp_path):
    out = tmp_path / "rendered"
    run(out, config=dataclasses.replace(SMALL, lit_twin=True, test_clips_per_class=2))
    lines = [line.split("\t") for line in (out / "test.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == [str(index) for index in range(22)]
    assert [line[1] for line in lines] == [str(label) for label in range(11) for _ in range(2)]
    table = dict(line.split("\t") for line in (out / "mapping_table.txt").read_text().splitlines())
    assert table == {str(label): name for label, name in enumerate(ARID)}
    records = json.loads((out / "clips.json").read_text())
    for _, label, path in lines:
        assert path.startswith(f"{table[label]}/{table[label]}_{records[path]['scene']}_")
        dark, lit = decode(out / "videos" / path), decode(out / "lit" / path)
        assert dark.shape == lit.shape == (3, 32, 44, 3)
        # Five stops leave 1/32 of a mean of about 0.19, code 22 of 255; noise and codec move it a little.
        assert dark.mean() < 30 < 90 < lit.mean()
    assert len(records) == 33
    assert [path.name for path in (tmp_path / ".work" / "render").iterdir()] == ["key"]


def test_lit_twin_leaves_the_dark_clips_as_they_are(tmp_path):
    run(tmp_path / "a", config=SMALL)
    run(tmp_path / "b", config=dataclasses.replace(SMALL, lit_twin=True))
    assert files_below(tmp_path / "a" / "videos") == files_below(tmp_path / "b" / "videos")


def test_stage_darkens_the_rendered_clip_with_the_recorded_camera(tmp_path):
    run(tmp_path / "out", config=SMALL)
    clip = draw_clip(4, "train", "Run", 0)
    rng = clip.rng(DARKNESS)
    camera = draw_low_light(rng, -5.0)
    path = "Run/Run_office_0.mp4"
    assert json.loads((tmp_path / "out" / "clips.json").read_text())[path]["low_light"] == {
        **dataclasses.asdict(camera),
        "white_balance": list(camera.white_balance),
    }
    expected = darken(render_clip(clip, num_frames=3, frame_size=(32, 44), fps=15), camera, rng)
    write_video(tmp_path / "expected.mp4", expected, fps=15, crf=18)
    assert (tmp_path / "out" / "videos" / path).read_bytes() == (tmp_path / "expected.mp4").read_bytes()


def test_killed_render_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    run(tmp_path / "whole", config=SMALL)
    written = []

    def write_seven(path, frames, **settings):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(path)
        real_write(path, frames, **settings)

    import stages.render

    real_write = stages.render.write_video
    monkeypatch.setattr(stages.render, "write_video", write_seven)
    out = tmp_path / "other" / "killed"
    with pytest.raises(KeyboardInterrupt):
        run(out, config=SMALL)
    assert not out.exists()
    finished = {path: path.stat().st_mtime_ns for path in written}
    monkeypatch.setattr(stages.render, "write_video", real_write)
    run(out, config=SMALL)
    assert files_below(out) == files_below(tmp_path / "whole")
    moved = {
        out / path.relative_to(out.parent / ".work" / "render" / out.name): time for path, time in finished.items()
    }
    assert all(path.stat().st_mtime_ns == time for path, time in moved.items())
    assert len(moved) == 7


def test_work_of_other_settings_is_not_mixed_in(tmp_path):
    work = tmp_path / ".work" / "render"
    stale = work / "out" / "videos" / "Drink" / "Drink_office_0.mp4"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of another seed")
    (work / "key").write_text("of another seed")
    run(tmp_path / "out", config=SMALL)
    assert decode(tmp_path / "out" / "videos" / "Drink" / "Drink_office_0.mp4").shape == (3, 32, 44, 3)


def test_stage_touches_no_folder_that_holds_something_else(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="not empty"):
        run(tmp_path / "mine", config=SMALL)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"

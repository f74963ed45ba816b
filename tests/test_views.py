import dataclasses

import numpy as np
import pytest

from pipeline.clips.views import (
    View,
    ViewRule,
    apply_view,
    centre_view,
    draw_view,
    evaluation_views,
    pixel_crc32,
    training_view,
    view_fields,
    view_rule,
)

RULE = ViewRule(
    frames=4,
    sampling="consecutive",
    stride=2,
    jitter=1.0,
    loop=True,
    frame_size=(20, 30),
    size=16,
    scales=(1.0, 0.8, 0.6),
    positions="random",
    flip=True,
    seed=3,
)


def drawn(rule=RULE, number=0, clip_id="a/b.mp4", num_frames=50):
    return draw_view(rule, clip_id=clip_id, num_frames=num_frames, number=number)


def test_a_view_depends_on_seed_clip_and_number_alone():
    first = drawn()
    for number in range(5):
        drawn(number=number)
    assert drawn() == first
    others = [drawn(number=1), drawn(clip_id="a/c.mp4"), drawn(dataclasses.replace(RULE, seed=4))]
    assert first not in others
    assert len(set(others)) == 3


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        (
            {},
            View(frame_indices=(4, 6, 8, 10), crop=(8, 17, 12, 12), flip=False),
            View(frame_indices=(39, 41, 43, 45), crop=(0, 1, 16, 20), flip=True),
        ),
        (
            {"sampling": "spread", "jitter": 0.5},
            View(frame_indices=(9, 21, 31, 46), crop=(0, 1, 20, 20), flip=False),
            View(frame_indices=(5, 16, 30, 45), crop=(4, 13, 16, 16), flip=True),
        ),
        (
            {"positions": "fixed", "flip": False},
            View(frame_indices=(4, 6, 8, 10), crop=(3, 3, 12, 12), flip=False),
            View(frame_indices=(39, 41, 43, 45), crop=(0, 6, 16, 20), flip=False),
        ),
        (
            {"positions": "fixed", "frame_size": (40, 50)},
            View(frame_indices=(4, 6, 8, 10), crop=(18, 8, 22, 24), flip=False),
            View(frame_indices=(39, 41, 43, 45), crop=(0, 16, 32, 34), flip=True),
        ),
    ],
)
def test_a_later_version_draws_the_same_views(changes, first, second):
    """Stores keep what was drawn, but seeds, and results that name them, would mean something else."""
    rule = dataclasses.replace(RULE, **changes)
    assert (drawn(rule), drawn(rule, number=1)) == (first, second)


def test_independent_views_are_those_of_the_next_seed_and_stay_the_same_in_a_later_version():
    given = {"mode": "independent", "clip_id": "a/b.mp4", "num_frames": 50, "num_views": 2}
    assert training_view(RULE, epoch=0, **given) == View(frame_indices=(8, 10, 12, 14), crop=(0, 0, 12, 16), flip=False)
    assert training_view(RULE, epoch=2, **given) == drawn(dataclasses.replace(RULE, seed=4), number=2)


def test_drawn_places_reach_the_last_row_and_column_of_a_frame_and_the_last_start():
    rule = dataclasses.replace(RULE, frame_size=(27, 33), scales=(0.45,))  # crops of 12: odd room on both sides
    views = [drawn(rule, number=number, num_frames=20) for number in range(600)]
    assert {view.crop[0] for view in views} == set(range(16))
    assert {view.crop[1] for view in views} == set(range(22))
    assert {view.frame_indices[0] for view in views} == set(range(14))


def test_drawn_views_stay_inside_video_and_frame():
    for number in range(200):
        view = drawn(number=number)
        top, left, height, width = view.crop
        assert 0 <= top <= 20 - height
        assert 0 <= left <= 30 - width
        assert height in (20, 16, 12)
        assert width in (20, 16, 12)
        assert np.diff(view.frame_indices).tolist() == [2, 2, 2]
        assert 0 <= min(view.frame_indices) <= max(view.frame_indices) < 50


def test_every_start_position_and_both_flips_are_drawn():
    views = [drawn(number=number, num_frames=9) for number in range(200)]
    assert {view.frame_indices[0] for view in views} == {0, 1, 2}
    # Binomial(200, 1/2): 70 to 130 leaves out less than one seed in 10^4.
    assert 70 < sum(view.flip for view in views) < 130


def test_a_video_as_long_as_a_view_is_seen_from_its_first_frame():
    assert {drawn(number=number, num_frames=7).frame_indices for number in range(20)} == {(0, 2, 4, 6)}


def test_flip_false_gives_the_same_views_unflipped():
    still = dataclasses.replace(RULE, flip=False)
    for number in range(20):
        assert drawn(still, number=number) == dataclasses.replace(drawn(number=number), flip=False)


def test_a_short_video_loops_from_its_first_frame():
    assert drawn(num_frames=3).frame_indices == (0, 2, 1, 0)
    spread = dataclasses.replace(RULE, sampling="spread")
    assert drawn(spread, num_frames=3).frame_indices == (0, 1, 2, 0)


def test_a_short_video_is_refused_where_looping_is_forbidden():
    with pytest.raises(ValueError, match=r"a/b\.mp4: has 6 frames, the view needs 7; set views\.loop: true"):
        drawn(dataclasses.replace(RULE, loop=False), num_frames=6)


def test_spread_takes_one_frame_of_each_equal_part():
    spread = dataclasses.replace(RULE, sampling="spread")
    for number in range(50):
        parts = np.array(drawn(spread, number=number, num_frames=40).frame_indices) // 10
        assert parts.tolist() == [0, 1, 2, 3]


def test_jitter_is_the_share_of_the_part_that_frames_come_from():
    def indices(jitter):
        rule = dataclasses.replace(RULE, sampling="spread", jitter=jitter)
        return np.array([drawn(rule, number=number, num_frames=400).frame_indices for number in range(50)])

    assert (indices(0.0) == [50, 150, 250, 350]).all()
    inside = indices(0.2) % 100
    assert 40 <= inside.min() < 43
    assert 57 < inside.max() < 60


def test_the_centre_view_is_the_middle():
    view = centre_view(RULE, clip_id="a", num_frames=17)
    assert view == View(frame_indices=(5, 7, 9, 11), crop=(2, 7, 16, 16), flip=False)
    spread = centre_view(dataclasses.replace(RULE, sampling="spread"), clip_id="a", num_frames=40)
    assert spread.frame_indices == (5, 15, 25, 35)


def test_epoch_t_uses_view_t_mod_v_but_independent_does_not():
    def seen(mode, epoch):
        return training_view(RULE, mode=mode, clip_id="a", num_frames=50, epoch=epoch, num_views=3)

    assert seen("consistent", 5) == seen("consistent", 2) == drawn(clip_id="a", number=2)
    assert seen("independent", 5) != seen("independent", 2)
    assert seen("independent", 2) != seen("consistent", 2)
    assert seen("fixed", 5) == centre_view(RULE, clip_id="a", num_frames=50)


def test_applying_a_view_crops_then_flips():
    frames = np.arange(2 * 20 * 30 * 3, dtype=np.uint32).reshape(2, 20, 30, 3).astype(np.uint8)
    view = View(frame_indices=(0, 1), crop=(3, 9, 11, 11), flip=True)
    assert np.array_equal(apply_view(frames, view, 11), frames[:, 3:14, 9:20][:, :, ::-1])


def test_a_resized_crop_keeps_flat_colour_and_orientation():
    frames = np.zeros((1, 20, 30, 3), np.uint8)
    frames[:, :, :15] = (200, 100, 50)
    seen = apply_view(frames, View(frame_indices=(0,), crop=(0, 5, 20, 20), flip=False), 16)
    assert seen.shape == (1, 16, 16, 3)
    assert seen[0, 0, 0].tolist() == [200, 100, 50]
    assert seen[0, -1, -1].tolist() == [0, 0, 0]


def test_a_crop_is_resized_between_pixel_centres_and_without_aliasing():
    ramp = np.broadcast_to(np.arange(0, 80, 10, dtype=np.uint8)[None, None, :, None], (1, 8, 8, 3))
    seen = apply_view(np.ascontiguousarray(ramp), View(frame_indices=(0,), crop=(0, 0, 8, 8), flip=False), 4)
    assert seen[0, 1, 1:3, 0].tolist() == [25, 45]  # between the 3rd and 4th, and the 5th and 6th
    checks = np.indices((8, 8)).sum(axis=0) % 2 * 200
    fine = np.broadcast_to(checks[None, :, :, None], (1, 8, 8, 3)).astype(np.uint8)
    seen = apply_view(fine, View(frame_indices=(0,), crop=(0, 0, 8, 8), flip=False), 3)
    assert np.abs(seen.astype(int) - 100).max() < 25


def test_a_rule_is_read_from_settings_and_written_as_plain_fields():
    settings = dataclasses.asdict(RULE) | {"frame_size": [20, 30], "scales": [1.0, 0.8, 0.6], "mode": "consistent"}
    assert view_rule(settings) == RULE
    fields = view_fields(RULE, mode="independent", colour_range="full")
    assert fields["view_frame_size"] == "20x30"
    assert fields["view_scales"] == "1.0x0.8x0.6"
    assert (fields["view_stride"], fields["view_flip"], fields["colour_range"]) == (2, True, "full")
    # what is stored does not tell them apart
    assert fields == view_fields(RULE, mode="consistent", colour_range="full")
    assert fields["view_mode"] == "drawn"
    assert view_fields(RULE, mode="fixed", colour_range="full") == fields | {"view_mode": "fixed"}
    for made in (ViewRule, View):
        with pytest.raises(TypeError):
            made(1, 2, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RULE.seed = 4


def test_the_crc_tells_one_changed_code():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    before = pixel_crc32(pixels)
    pixels[1, 3, 3, 2] = 1
    assert pixel_crc32(pixels) != before


# DarkLight's frames and views: 112x112 of 128 x 170, 64 frames in a row.
DARKLIGHT = dataclasses.replace(
    RULE, frames=64, stride=1, frame_size=(128, 170), size=112, scales=(1.0, 0.875, 0.75, 0.66), positions="fixed"
)


def test_fixed_positions_are_darklights_thirteen_cut_off_at_the_border():
    crops = {drawn(DARKLIGHT, number=number).crop for number in range(3000)}
    # Steps of 4 rows and 14 columns; all nine of the even grid and the four between.
    steps = [(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4), (4, 0), (4, 2), (4, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
    assert {(top, left) for top, left, _, _ in crops} == {(4 * row, 14 * column) for row, column in steps}
    sides = (128, 112, 96, 84)
    pairs = [(tall, wide) for i, tall in enumerate(sides) for j, wide in enumerate(sides) if abs(i - j) <= 1]
    wanted = {
        (4 * row, 14 * column, min(tall, 128 - 4 * row), min(wide, 170 - 14 * column))
        for row, column in steps
        for tall, wide in pairs
    }
    assert len(pairs) == 10
    assert crops == wanted  # 130 equally likely: 3,000 draws miss one with a chance of 1e-8
    assert (16, 56, 112, 114) in crops  # the cut-off that DarkLight's code makes of 128 x 128


def test_the_plain_resize_shows_the_whole_frame():
    rule = dataclasses.replace(DARKLIGHT, frame_size=(112, 112), scales=(1.0,), positions="random")
    assert {drawn(rule, number=number).crop for number in range(20)} == {(0, 0, 112, 112)}
    assert centre_view(rule, clip_id="a.mp4", num_frames=80).crop == (0, 0, 112, 112)


def test_one_clip_and_the_centre_crop_are_darklights_validation_view():
    (view,) = evaluation_views(DARKLIGHT, clip_id="a.mp4", num_frames=81, clips=1, crops="centre")
    assert view == centre_view(DARKLIGHT, clip_id="a.mp4", num_frames=81)
    assert view.crop == (8, 29, 112, 112)
    assert view.frame_indices == tuple(range(8, 72))  # floor((81 - 64) / 2)


def test_ten_crops_are_corners_and_centre_and_their_mirrors():
    views = evaluation_views(DARKLIGHT, clip_id="a.mp4", num_frames=64, clips=1, crops="ten")
    places = [(0, 0), (0, 58), (16, 0), (16, 58), (8, 29)]
    assert [view.crop for view in views] == [(top, left, 112, 112) for top, left in places] * 2
    assert [view.flip for view in views] == [False] * 5 + [True] * 5
    five = evaluation_views(DARKLIGHT, clip_id="a.mp4", num_frames=64, clips=1, crops="five")
    assert five == views[:5]
    rule = dataclasses.replace(RULE, frame_size=(40, 50))  # more than twice the crop
    five = evaluation_views(rule, clip_id="a.mp4", num_frames=64, clips=1, crops="five")
    assert [view.crop[:2] for view in five] == [(0, 0), (0, 34), (24, 0), (24, 34), (12, 17)]


def test_clips_in_time_are_evenly_spaced_and_symmetric():
    views = evaluation_views(DARKLIGHT, clip_id="a.mp4", num_frames=124, clips=3, crops="centre")
    assert [view.frame_indices[0] for view in views] == [10, 30, 50]  # 60 frames of room: 1/6, 1/2, 5/6
    short = evaluation_views(DARKLIGHT, clip_id="a.mp4", num_frames=40, clips=3, crops="centre")
    assert {view.frame_indices[:41] for view in short} == {(*range(40), 0)}
    spread = dataclasses.replace(RULE, sampling="spread")
    views = evaluation_views(spread, clip_id="a.mp4", num_frames=40, clips=2, crops="centre")
    assert [view.frame_indices for view in views] == [(2, 12, 22, 32), (7, 17, 27, 37)]  # 1/4 and 3/4 of each part


def test_test_views_stand_on_whole_pixels_where_the_room_is_odd():
    rule = dataclasses.replace(RULE, frame_size=(21, 31))
    views = evaluation_views(rule, clip_id="a.mp4", num_frames=50, clips=1, crops="five")
    assert views[-1].crop == (2, 7, 16, 16)
    assert evaluation_views(rule, clip_id="a.mp4", num_frames=50, clips=1, crops="centre")[0].crop == (2, 7, 16, 16)
    fixed = dataclasses.replace(rule, positions="fixed")
    crops = [drawn(fixed, number).crop for number in range(30)] + [views[-1].crop]
    assert all(isinstance(side, int) for crop in crops for side in crop)


@pytest.mark.parametrize("num_frames", [7, 8, 20])
def test_a_video_that_is_long_enough_needs_no_loop(num_frames):
    assert drawn(dataclasses.replace(RULE, loop=False), num_frames=num_frames) == drawn(num_frames=num_frames)


def test_a_crop_smaller_than_the_view_is_enlarged():
    frames = np.full((2, 20, 30, 3), 77, np.uint8)
    view = View(frame_indices=(0, 1), crop=(3, 4, 8, 10), flip=False)
    assert apply_view(frames, view, 16).tolist() == np.full((2, 16, 16, 3), 77).tolist()


def test_three_clips_of_a_spread_view_take_the_sixths_of_each_part():
    rule = dataclasses.replace(RULE, sampling="spread")
    views = evaluation_views(rule, clip_id="a.mp4", num_frames=60, clips=3, crops="centre")
    assert [view.frame_indices for view in views] == [
        (start, start + 15, start + 30, start + 45) for start in (2, 7, 12)
    ]

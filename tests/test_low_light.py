import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

from pipeline.clips.darkened_folder import darken_video_folder
from pipeline.clips.low_light import (
    LowLight,
    darken,
    develop,
    draw_low_light,
    expose,
    linear_to_srgb,
    srgb_to_linear,
)
from pipeline.clips.stream import read_frames, write_stream
from pipeline.clips.video import decode, write_video

# Fine steps and no noise; the tests below turn single terms on.
CLEAN = LowLight(
    exposure_ev=0.0,
    shot_gain=0.0,
    read_std=0.0,
    row_std=0.0,
    pattern_std=0.0,
    adc_bits=16,
    black_level=1 / 16,
    white_balance=(1.0, 1.0, 1.0),
    toe=1.0,
)
GREY = 160


def flat(value=GREY, frames=24, height=48, width=64):
    return np.full((frames, height, width, 3), value, dtype=np.uint8)


def sensed(low_light, seed=0, frames=None):
    """Linear signal before the tone curve, float64 (T, H, W, 3)."""
    codes = expose(flat() if frames is None else frames, low_light, np.random.default_rng(seed))
    share = codes / (2**low_light.adc_bits - 1)
    return (share - low_light.black_level) / (1 - low_light.black_level)


def test_srgb_curve_has_the_standard_values():
    # IEC 61966-2-1: code 0.5 is 0.21404 of the light, the linear part ends at 0.04045.
    np.testing.assert_allclose(
        srgb_to_linear(np.array([0.0, 0.04045, 0.5, 1.0])), [0, 0.0031308, 0.21404, 1], atol=2e-6
    )
    codes = np.linspace(0, 1, 256)
    # The two published branches meet to 1e-7 only.
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(codes)), codes, atol=1e-6)


def test_without_noise_and_dimming_every_code_comes_back():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    assert np.array_equal(darken(ramp, CLEAN, np.random.default_rng(0)), ramp)


@pytest.mark.parametrize("exposure_ev", [0.0, -1.0, -3.0, -5.0])
def test_mean_signal_halves_with_every_stop(exposure_ev):
    low_light = dataclasses.replace(CLEAN, exposure_ev=exposure_ev, shot_gain=1e-3, read_std=1e-3)
    expected = srgb_to_linear(np.array(GREY / 255)) * 2.0**exposure_ev
    signal = sensed(low_light)
    # Standard error of the mean over 220,000 values, five times.
    assert abs(signal.mean() - expected) < 5 * np.sqrt((1e-3 * expected + 1e-6) / signal.size) + 1 / 2**16


def test_white_balance_keeps_the_mean_and_makes_weak_channels_noisier():
    low_light = dataclasses.replace(CLEAN, exposure_ev=-2.0, read_std=2e-3, white_balance=(2.0, 1.0, 1.5))
    linear = srgb_to_linear(darken(flat(200), low_light, np.random.default_rng(0)) / 255.0)
    expected = srgb_to_linear(np.array(200 / 255)) / 4
    # Half a step of 8 bits is about 0.002 of the light here.
    np.testing.assert_allclose(linear.mean(axis=(0, 1, 2)), expected, atol=2e-3)
    spread = linear.std(axis=(0, 1, 2))
    # 8-bit steps add a little to every channel; the gain's effect is 2 and 1.5.
    assert spread[0] / spread[1] == pytest.approx(2.0, rel=0.15)
    assert spread[2] / spread[1] == pytest.approx(1.5, rel=0.15)


@pytest.mark.parametrize("exposure_ev", [-1.0, -4.0])
def test_variance_over_time_is_shot_plus_read_plus_row(exposure_ev):
    low_light = dataclasses.replace(
        CLEAN, exposure_ev=exposure_ev, shot_gain=2e-3, read_std=3e-3, row_std=1e-3, pattern_std=4e-3
    )
    light = srgb_to_linear(np.array(GREY / 255)) * 2.0**exposure_ev
    variance = sensed(low_light).var(axis=0, ddof=1).mean()
    # 48 rows a frame limit the row term; the whole is known to about 1 %.
    assert variance == pytest.approx(2e-3 * light + 3e-3**2 + 1e-3**2, rel=0.04)


def test_shot_noise_has_the_third_moment_of_a_poisson_count():
    signal = sensed(dataclasses.replace(CLEAN, exposure_ev=-5.0, shot_gain=2e-3))
    light = srgb_to_linear(np.array(GREY / 255)) / 32
    skewness = ((signal - signal.mean()) ** 3).mean() / signal.std() ** 3
    # A Poisson count of mean n has skewness 1 / sqrt(n), a Gaussian none; 220,000 values know it to 0.01.
    assert skewness == pytest.approx(np.sqrt(2e-3 / light), rel=0.05)


def test_row_noise_is_constant_along_a_row_and_new_in_every_frame():
    signal = sensed(dataclasses.replace(CLEAN, row_std=3e-3))
    assert np.ptp(signal, axis=(2, 3)).max() == 0
    rows = signal[:, :, 0, 0]
    assert rows.std() == pytest.approx(3e-3, rel=0.1)  # 1,152 draws: 2 % standard error
    # Independent rows of 48 values correlate by about 0.15.
    assert abs(np.corrcoef(rows[0], rows[1])[0, 1]) < 0.6


def test_fixed_pattern_is_constant_over_the_clip_and_differs_between_pixels():
    signal = sensed(dataclasses.replace(CLEAN, pattern_std=3e-3))
    assert np.ptp(signal, axis=0).max() == 0
    assert signal[0].std() == pytest.approx(3e-3, rel=0.05)  # 9,216 draws: under 1 % standard error


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_converter_gives_whole_codes_of_its_range(bits):
    low_light = dataclasses.replace(CLEAN, adc_bits=bits, read_std=0.5)
    codes = expose(flat(), low_light, np.random.default_rng(0))
    assert codes.min() == 0
    assert codes.max() == 2**bits - 1


def test_drawn_read_noise_follows_shot_noise():
    drawn = [draw_low_light(np.random.default_rng(seed), -5.0) for seed in range(400)]
    log_shot = np.log([camera.shot_gain for camera in drawn])
    log_read = 2 * np.log([camera.read_std for camera in drawn])
    slope, offset = np.polyfit(log_shot, log_read, 1)
    # Brooks et al. 2019: 2.18 and 1.20, spread 0.26; 400 draws know slope and offset to 0.02 and 0.15.
    assert slope == pytest.approx(2.18, abs=0.08)
    assert offset == pytest.approx(1.20, abs=0.6)
    assert np.std(log_read - 2.18 * log_shot - 1.20) == pytest.approx(0.26, rel=0.15)
    assert {camera.exposure_ev for camera in drawn} == {-5.0}


def test_same_random_state_gives_the_same_pixels_and_another_gives_others():
    low_light = draw_low_light(np.random.default_rng(0), -5.0)
    first, again, other = (darken(flat(frames=3), low_light, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_toe_darkens_shadows_only_and_keeps_black_and_white():
    codes = np.array([0, 2**12, 2**16 - 1], dtype=np.uint16).reshape(1, 1, 3, 1).repeat(3, axis=-1)
    camera = dataclasses.replace(CLEAN, black_level=0.0)
    plain, crushed = (develop(codes, dataclasses.replace(camera, toe=toe))[0, 0, :, 0] for toe in (1.0, 1.3))
    assert (crushed[0], crushed[2]) == (plain[0], plain[2]) == (0, 255)
    assert crushed[1] < plain[1]


@pytest.mark.parametrize(
    "change", [{"read_std": -1.0}, {"adc_bits": 4}, {"white_balance": (0.5, 1.0, 1.0)}, {"toe": 0.5}]
)
def test_impossible_cameras_are_refused(change):
    with pytest.raises(ValueError, match="low light"):
        dataclasses.replace(CLEAN, **change)


def test_frames_of_another_type_are_refused():
    with pytest.raises(ValueError, match="wanted uint8"):
        darken(flat().astype(np.float32), CLEAN, np.random.default_rng(0))


@pytest.fixture
def lit_folder(tmp_path):
    root = tmp_path / "lit"
    rng = np.random.default_rng(0)
    for name in ("Jump/a.mp4", "Jump/b.mp4", "c.mkv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(60, 250, (4, 4, 5, 3), dtype=np.uint8)
        write_video(root / name, blocks.repeat(8, axis=1).repeat(8, axis=2), fps=15)
    return root


def contents(folder, names):
    return {name: (folder / name).read_bytes() for name in names}


def test_darkened_folder_keeps_paths_frame_count_and_rate(lit_folder, tmp_path):
    calls = []
    out = tmp_path / "dark"
    names = darken_video_folder(lit_folder, out, exposure_ev=-4.0, seed=3, progress=lambda *at: calls.append(at))
    assert names == ["Jump/a.mp4", "Jump/b.mp4", "c.mp4"]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    for name in names:
        dark = decode(out / name)
        assert dark.shape == (4, 32, 40, 3)
        assert dark.mean() < 60
        # Matroska keeps whole milliseconds.
        assert [float(frame.time) for frame in read_frames(out / name)] == pytest.approx(
            [index / 15 for index in range(4)], abs=1e-3
        )
    settings = json.loads((out / "darken.json").read_text())["settings"]
    assert (settings["exposure_ev"], settings["seed"]) == (-4.0, 3)


def test_frames_of_a_variable_rate_keep_their_times(lit_folder, tmp_path):
    """As phones film in the dark, where they expose longer."""
    shown = [(Fraction(0), Fraction(1, 30)), (Fraction(1, 30), Fraction(1, 10)), (Fraction(2, 15), Fraction(1, 5))]
    with write_stream(lit_folder / "phone.mp4") as add:
        for level, (time, lasts) in zip((90, 150, 210), shown, strict=True):
            add(flat(level, frames=1)[0], time, lasts)
    out = tmp_path / "dark"
    darken_video_folder(lit_folder, out, exposure_ev=-1.0, seed=3)
    dark = list(read_frames(out / "phone.mp4"))
    assert [(frame.time, frame.lasts) for frame in dark] == shown
    means = decode(out / "phone.mp4").mean(axis=(1, 2, 3))
    assert list(means) == sorted(means)
    assert means[-1] < 180


def test_pixels_keep_their_shape(lit_folder, tmp_path):
    """As analogue cameras' recorders write them."""
    write_video(lit_folder / "wide.mp4", flat(frames=3), fps=25, pixel_shape=Fraction(12, 11))
    with write_stream(lit_folder / "variable.mp4") as add:
        for time in (Fraction(0), Fraction(1, 25), Fraction(1)):
            add(flat(frames=1)[0], time, Fraction(1, 25), Fraction(59, 54))
    out = tmp_path / "dark"
    darken_video_folder(lit_folder, out, exposure_ev=-1.0, seed=3)
    found = {name: next(read_frames(out / name)).pixel_shape for name in ("wide.mp4", "variable.mp4", "c.mp4")}
    assert found == {"wide.mp4": Fraction(12, 11), "variable.mp4": Fraction(59, 54), "c.mp4": 1}


def test_darkening_depends_on_neither_order_nor_number_of_videos(lit_folder, tmp_path):
    names = darken_video_folder(lit_folder, tmp_path / "all", exposure_ev=-4.0, seed=3)
    (lit_folder / "Jump" / "a.mp4").unlink()
    fewer = darken_video_folder(lit_folder, tmp_path / "fewer", exposure_ev=-4.0, seed=3)
    assert fewer == names[1:]
    assert contents(tmp_path / "fewer", fewer) == contents(tmp_path / "all", fewer)
    darken_video_folder(lit_folder, tmp_path / "seed", exposure_ev=-4.0, seed=4)
    assert contents(tmp_path / "seed", fewer) != contents(tmp_path / "all", fewer)


def test_stopped_darkening_goes_on_and_keeps_what_is_finished(lit_folder, tmp_path):
    names = darken_video_folder(lit_folder, tmp_path / "whole", exposure_ev=-4.0, seed=3)

    def stop(done, total):
        raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        darken_video_folder(lit_folder, out, exposure_ev=-4.0, seed=3, progress=stop)
    finished = (out / names[0]).stat().st_mtime_ns
    assert not (out / names[1]).exists()
    assert darken_video_folder(lit_folder, out, exposure_ev=-4.0, seed=3) == names
    assert (out / names[0]).stat().st_mtime_ns == finished
    assert contents(out, [*names, "darken.json"]) == contents(tmp_path / "whole", [*names, "darken.json"])


def test_a_changed_source_is_darkened_again_and_the_others_are_kept(lit_folder, tmp_path):
    out = tmp_path / "dark"
    names = darken_video_folder(lit_folder, out, exposure_ev=-4.0, seed=3)
    before, kept = contents(out, names), (out / names[1]).stat().st_mtime_ns
    (lit_folder / "Jump" / "a.mp4").write_bytes((lit_folder / "Jump" / "b.mp4").read_bytes())
    assert darken_video_folder(lit_folder, out, exposure_ev=-4.0, seed=3) == names
    after = contents(out, names)
    assert [name for name in names if after[name] != before[name]] == ["Jump/a.mp4"]
    assert (out / names[1]).stat().st_mtime_ns == kept
    # One that was away for a while is compared with what it was before.
    (lit_folder / "Jump" / "b.mp4").rename(tmp_path / "away.mp4")
    darken_video_folder(lit_folder, out, exposure_ev=-4.0, seed=3)
    (other,) = lit_folder.glob("c.*")
    (lit_folder / "Jump" / "b.mp4").write_bytes(other.read_bytes())
    darken_video_folder(lit_folder, out, exposure_ev=-4.0, seed=3)
    assert contents(out, names)["Jump/b.mp4"] != before["Jump/b.mp4"]
    record = json.loads((out / "darken.json").read_text())
    (out / "darken.json").write_text(json.dumps({**record, "sources": []}))
    with pytest.raises(ValueError, match=r"darken\.json: sources: found list, wanted a mapping"):
        darken_video_folder(lit_folder, out, exposure_ev=-4.0, seed=3)


def test_broken_video_is_named_after_all_others_are_done(lit_folder, tmp_path):
    (lit_folder / "Jump" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"1 of 3 videos do not decode(.|\n)*a\.mp4"):
        darken_video_folder(lit_folder, tmp_path / "dark", exposure_ev=-4.0, seed=3)
    assert (tmp_path / "dark" / "Jump" / "b.mp4").is_file()
    assert (tmp_path / "dark" / "c.mp4").is_file()


def test_unfit_folders_are_refused(lit_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in (".trash/a.mp4", "Jump/._a.mp4"):
        (tmp_path / "hidden" / name).parent.mkdir(parents=True)
        (tmp_path / "hidden" / name).write_bytes(b"left by another program")
    for root, out, reason in (
        (tmp_path / "none", tmp_path / "dark", "is no folder"),
        (tmp_path / "empty", tmp_path / "dark", "holds no video"),
        (lit_folder, lit_folder / "dark", "lies inside"),
        (tmp_path / "hidden", tmp_path / "dark", "holds no video"),
    ):
        with pytest.raises(ValueError, match=reason):
            darken_video_folder(root, out, exposure_ev=-4.0, seed=3)
    darken_video_folder(lit_folder, tmp_path / "dark", exposure_ev=-4.0, seed=3)
    with pytest.raises(ValueError, match="was darkened with"):
        darken_video_folder(lit_folder, tmp_path / "dark", exposure_ev=-2.0, seed=3)
    (lit_folder / "c.mp4").write_bytes((lit_folder / "Jump" / "a.mp4").read_bytes())
    with pytest.raises(ValueError, match="rename one of the two"):
        darken_video_folder(lit_folder, tmp_path / "other", exposure_ev=-4.0, seed=3)

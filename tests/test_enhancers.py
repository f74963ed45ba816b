"""Every enhancer against an independent form of it, written with plain NumPy and dense matrices."""

import dataclasses
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.clips.dataset import CachedFrames, CachePolicy
from pipeline.clips.video import decode
from pipeline.enhancers.build import NAMES, build_enhancer, enhancer_key
from pipeline.enhancers.enhanced_frames import enhance_pixels, open_teacher_frames
from pipeline.enhancers.lime import Lime, illumination_step, smooth_illumination
from pipeline.enhancers.retinex import separate
from pipeline.enhancers.zero_dce import load_official

BRIGHTENING = ("gamma", "histogram", "lime", "retinex")
"""Those that brighten without any training."""


def dark_frame(height=12, width=16, seed=0):
    """A dark ramp with an edge and noise, float32 (1, 3, H, W)."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0.02, 0.2, width)[None, :] * np.linspace(1.0, 0.6, height)[:, None]
    ramp[height // 3 :, width // 2 :] *= 0.4
    frame = ramp[..., None] * np.array([1.0, 0.8, 0.6]) + rng.uniform(0, 0.02, (height, width, 3))
    return torch.from_numpy(frame).float().permute(2, 0, 1)[None]


def as_array(frames):
    """(1, 3, H, W) -> float64 (H, W, 3)."""
    return frames[0].permute(1, 2, 0).double().numpy()


@pytest.fixture(params=NAMES)
def enhancer(request):
    return build_enhancer(request.param).eval()


def dense_differences(height, width, *, wrap):
    """Down differences above right ones, (2 H W, H W), built entry by entry."""
    pixels = height * width
    matrix = np.zeros((2 * pixels, pixels))
    for y in range(height):
        for x in range(width):
            for part, (to_y, to_x) in enumerate([(y + 1, x), (y, x + 1)]):
                if wrap or (to_y < height and to_x < width):
                    row, own = part * pixels + y * width + x, y * width + x
                    matrix[row, (to_y % height) * width + to_x % width] += 1
                    matrix[row, own] -= 1
    return matrix


# --- by name


def test_names_are_those_of_the_parameters():
    assert NAMES == config.ENHANCERS


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown name 'kind'; known names are zero_dce, gamma, histogram, lime, retinex, none"
    ):
        build_enhancer("kind")


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_a_gamma_that_is_not_above_0_is_refused(gamma):
    with pytest.raises(ValueError, match=r"enhancer\.gamma: found .*wanted a number above 0"):
        build_enhancer("gamma", gamma=gamma)


@torch.no_grad()
def test_shape_and_dtype_are_kept(enhancer):
    for frames in (dark_frame(), dark_frame(9, 11).expand(2, 3, 9, 11)):
        enhanced = enhancer(frames)
        assert enhanced.shape == frames.shape
        assert enhanced.dtype == torch.float32
        assert enhanced.device == frames.device


@torch.no_grad()
@pytest.mark.parametrize("value", [0.0, 1.0, 0.5 / 255])
def test_frames_of_one_value_stay_finite_and_in_range(enhancer, value):
    enhanced = enhancer(torch.full((1, 3, 8, 8), value))
    assert torch.isfinite(enhanced).all()
    assert enhanced.min() >= 0
    assert enhanced.max() <= 1


@torch.no_grad()
def test_black_stays_black_and_white_white(enhancer):
    for value in (0.0, 1.0):
        frame = torch.full((1, 3, 8, 8), value)
        # LIME and retinex find white's illumination by sums, a few roundings below 1.
        torch.testing.assert_close(enhancer(frame), frame, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_batch_equals_its_frames_one_by_one(enhancer):
    frames = torch.cat([dark_frame(seed=seed) for seed in range(3)])
    one_by_one = torch.cat([enhancer(frame[None]) for frame in frames])
    # Convolutions add in another order for another number of frames; the others are per frame or per value.
    torch.testing.assert_close(enhancer(frames), one_by_one, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BRIGHTENING)
def test_a_dark_ramp_becomes_brighter(name):
    dark = dark_frame()
    assert build_enhancer(name)(dark).mean() > 1.3 * dark.mean()


def test_none_gives_its_input_back():
    dark = dark_frame()
    assert build_enhancer("none")(dark) is dark


@pytest.mark.parametrize("name", [name for name in NAMES if name != "zero_dce"])
def test_methods_without_weights_have_an_empty_state_dict(name):
    module = build_enhancer(name)
    assert module.state_dict() == {}
    module.load_state_dict({})


@torch.no_grad()
def test_real_dark_frames_become_brighter(arid6):
    video = min(arid6.rglob("*.mp4"))
    pixels = decode(video, indices=[10], size=(64, 85))
    dark = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    for name in NAMES:
        if name == "zero_dce" and os.environ.get("DLKDD_ZERO_DCE"):
            module = load_official(Path(os.environ["DLKDD_ZERO_DCE"]))[0]
        else:
            module = build_enhancer(name)
        enhanced = module(dark)
        assert torch.isfinite(enhanced).all(), name
        assert enhanced.min() >= 0, name
        assert enhanced.max() <= 1 + 1e-6, name  # Zero-DCE's eight rounds in float32
        if name in BRIGHTENING or (name == "zero_dce" and os.environ.get("DLKDD_ZERO_DCE")):
            assert enhanced.mean() > 1.3 * dark.mean(), name


# --- keys


def test_keys_tell_kind_settings_and_weights_apart():
    variants = [build_enhancer(name) for name in NAMES]
    variants += [build_enhancer("gamma", gamma=2.0), build_enhancer("gamma", gamma_table=True)]
    variants += [build_enhancer("zero_dce", seed=1), Lime(alpha=0.2)]
    keys = [enhancer_key(variant) for variant in variants]
    assert len(set(keys)) == len(variants)
    assert enhancer_key(build_enhancer("gamma", gamma=2.0)) == keys[len(NAMES)]


def test_a_key_follows_a_single_weight():
    module = build_enhancer("zero_dce")
    before = enhancer_key(module)
    with torch.no_grad():
        module.e_conv7.bias[3] += 1e-3
    assert enhancer_key(module) != before


# --- gamma


@pytest.mark.parametrize("gamma", [1.8, 2.0, 2.5, 10.0])
def test_gammas_table_is_darklights_for_all_256_codes(gamma):
    codes = np.arange(256)
    wanted = [int(255 * (code / 255) ** (1 / gamma)) for code in codes]  # int() rounds down
    frames = (torch.arange(256).float() / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    found = build_enhancer("gamma", gamma=gamma, gamma_table=True)(frames) * 255
    assert found.round().flatten(1)[0, :256].int().tolist() == wanted
    # the result is a code again: float32 rounding only
    torch.testing.assert_close(found, found.round(), rtol=0, atol=1e-4)


def test_gammas_table_has_values_worked_out_by_hand():
    # gamma 2: 255 sqrt(64 / 255) = 127.75, 255 sqrt(1 / 255) = 15.97
    table = build_enhancer("gamma", gamma=2.0, gamma_table=True)
    found = table(torch.tensor([0, 1, 64, 255]).float().view(1, 1, 2, 2).expand(1, 3, 2, 2) / 255) * 255
    assert found[0, 0].flatten().round().int().tolist() == [0, 15, 127, 255]


def test_a_table_of_gamma_1_changes_no_code():
    frames = (torch.arange(256).float() / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(build_enhancer("gamma", gamma=1.0, gamma_table=True)(frames), frames)


def test_gamma_without_a_table_is_the_power_itself():
    dark = dark_frame()
    wanted = as_array(dark) ** (1 / 1.8)
    np.testing.assert_allclose(as_array(build_enhancer("gamma")(dark)), wanted, rtol=0, atol=1e-6)  # float32


# --- histogram


def equalised_by_hand(codes):
    """The YCrCb round trip in 14-bit fixed point (BT.601), and a cumulative histogram, on uint8 (H, W, 3)."""
    r, g, b = (codes[..., channel].astype(int) for channel in range(3))
    half = 1 << 13
    y = (4899 * r + 9617 * g + 1868 * b + half) >> 14  # 0.299, 0.587, 0.114
    cr = np.clip(((r - y) * 11682 + half >> 14) + 128, 0, 255) - 128  # 0.713
    cb = np.clip(((b - y) * 9241 + half >> 14) + 128, 0, 255) - 128  # 0.564
    counts = np.array([(y == code).sum() for code in range(256)])
    smallest = counts.nonzero()[0][0]
    if counts[smallest] < y.size:
        up_to = counts.cumsum() - counts[smallest]
        y = np.rint(up_to * 255 / (y.size - counts[smallest])).astype(int)[y]
    red = y + (cr * 22987 + half >> 14)  # 1.403
    green = y + (cr * -11698 + cb * -5636 + half >> 14)  # -0.714, -0.344
    blue = y + (cb * 29049 + half >> 14)  # 1.773
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 255)


@pytest.mark.parametrize("seed", range(3))
def test_histogram_equals_a_cumulative_histogram_by_hand(seed):
    codes = np.random.default_rng(seed).integers(0, 60, (20, 30, 3), dtype=np.uint8)
    frames = torch.from_numpy(codes).permute(2, 0, 1)[None].float() / 255
    found = as_array(build_enhancer("histogram")(frames)) * 255
    # A quotient halfway between two codes may be rounded to either.
    assert np.abs(np.rint(found) - equalised_by_hand(codes)).max() <= 1
    assert (np.rint(found) == equalised_by_hand(codes)).mean() > 0.99


@pytest.mark.parametrize("name", ["gamma", "histogram"])
@pytest.mark.parametrize("off", [-0.4, 0.4])
def test_methods_on_codes_take_the_nearest_code(name, off):
    codes = torch.randint(1, 255, (1, 3, 16, 16), generator=torch.Generator().manual_seed(3)).float()
    module = build_enhancer(name, gamma_table=True)
    assert torch.equal(module((codes + off) / 255), module(codes / 255))


def test_histogram_spreads_a_grey_ramp_over_all_codes():
    # 4 codes, as many pixels each: the shares above the smallest are 0, 1/3, 2/3, 1
    codes = torch.tensor([10, 11, 12, 13]).repeat(4, 1).float().expand(1, 3, 4, 4) / 255
    found = build_enhancer("histogram")(codes)[0, :, 0] * 255
    assert found.round().int().tolist() == [[0, 85, 170, 255]] * 3


# --- LIME


def lime_by_dense_algebra(rough, *, alpha=0.1, rho=2.0):
    """ADMM with the T step as a dense system of all pixels; gives T and the number of rounds."""
    height, width = rough.shape
    d = dense_differences(height, width, wrap=True)
    t0 = rough.ravel()
    weights = 1 / (np.abs(d @ t0) + 1)
    g, z, u = np.zeros(len(d)), np.zeros(len(d)), 1.0
    for round_number in range(1, 100):
        t = np.linalg.solve(2 * np.eye(t0.size) + u * d.T @ d, 2 * t0 + d.T @ (u * g - z))
        moved = d @ t + z / u
        limit = alpha * weights / u
        g = np.where(moved > limit, moved - limit, np.where(moved < -limit, moved + limit, 0.0))
        z = z + u * (d @ t - g)
        u *= rho
        if np.linalg.norm(d @ t - g) <= 1e-3 * np.linalg.norm(t0):
            return t.reshape(rough.shape), round_number
    raise AssertionError("ADMM by dense algebra does not end")


@pytest.mark.parametrize(("height", "width", "penalty"), [(5, 6, 1.0), (6, 5, 8.0), (4, 7, 100.0), (3, 3, 2.0)])
def test_limes_fourier_solution_equals_a_dense_one(height, width, penalty):
    rng = np.random.default_rng(height)
    rough, pull = rng.random((height, width)), rng.normal(size=(2, height, width))
    d = dense_differences(height, width, wrap=True)
    wanted = np.linalg.solve(2 * np.eye(rough.size) + penalty * d.T @ d, 2 * rough.ravel() + d.T @ pull.ravel())
    found = illumination_step(rough, pull, penalty=penalty)
    np.testing.assert_allclose(found.ravel(), wanted, rtol=0, atol=1e-12)  # float64, condition at most 400


def test_limes_illumination_equals_admm_by_dense_algebra():
    rough = as_array(dark_frame(7, 9)).max(axis=2)
    wanted, rounds = lime_by_dense_algebra(rough)
    assert rounds > 2
    found = smooth_illumination(rough, alpha=0.1, rho=2.0)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)  # float64, the same rounds


def test_lime_divides_by_the_illumination_to_the_power_of_gamma():
    dark = dark_frame(7, 9)
    frame = as_array(dark)
    illumination = np.clip(lime_by_dense_algebra(frame.max(axis=2))[0], 1 / 255, 1)
    wanted = np.clip(frame / illumination[..., None] ** 0.7, 0, 1)
    np.testing.assert_allclose(as_array(build_enhancer("lime")(dark)), wanted, rtol=0, atol=1e-6)  # float32 result


def test_limes_illumination_is_smoother_than_the_first_guess_and_keeps_its_mean():
    rough = as_array(dark_frame(24, 32)).max(axis=2)
    smooth = smooth_illumination(rough, alpha=0.1, rho=2.0)
    assert np.abs(np.diff(smooth, axis=1)).sum() < 0.9 * np.abs(np.diff(rough, axis=1)).sum()
    # The T step and periodic differences leave the mean alone.
    assert smooth.mean() == pytest.approx(rough.mean(), rel=1e-9)


# --- retinex


@dataclasses.dataclass
class DenseRetinex:
    """The rounds of the weighted variational model with dense systems, and its objective."""

    s: np.ndarray
    c1: float = 0.01
    c2: float = 0.1
    penalty: float = 1.0

    def __post_init__(self):
        self.d = dense_differences(*self.s.shape, wrap=False)

    def rounds(self, count):
        s, d, one = self.s.ravel(), self.d, np.eye(self.s.size)
        r, light, b = np.zeros_like(s), s.copy(), np.zeros(len(d))
        for _ in range(count):
            on_r = np.diag(np.tile(np.exp(r), 2)) @ d
            on_light = np.diag(np.tile(np.exp(light), 2)) @ d
            x, limit = on_r @ r + b, 1 / (2 * self.penalty)
            split = np.where(x > limit, x - limit, np.where(x < -limit, x + limit, 0.0))
            weight = self.c1 * self.penalty
            r = np.linalg.solve(one + weight * on_r.T @ on_r, s - light + weight * on_r.T @ (split - b))
            r = np.minimum(r, 0)
            b = b + on_r @ r - split
            light = np.maximum(np.linalg.solve(one + self.c2 * on_light.T @ on_light, s - r), s)
        return r.reshape(self.s.shape), light.reshape(self.s.shape)

    def objective(self, r, light):
        r, light = r.ravel(), light.ravel()
        fit = ((r + light - self.s.ravel()) ** 2).sum()
        roughness = np.abs(np.tile(np.exp(r), 2) * (self.d @ r)).sum()
        return fit + self.c1 * roughness + self.c2 * ((np.tile(np.exp(light), 2) * (self.d @ light)) ** 2).sum()


def separated(logs, rounds):
    return separate(logs, reflectance_weight=0.01, illumination_weight=0.1, penalty=1.0, rounds=rounds)


def dark_logs(height=8, width=10):
    return np.log(np.maximum(as_array(dark_frame(height, width)).max(axis=2) * 255, 1))


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_retinex_equals_its_rounds_by_dense_algebra(rounds):
    logs = dark_logs()
    found, wanted = separated(logs, rounds), DenseRetinex(logs).rounds(rounds)
    for one, other in zip(found, wanted, strict=True):
        # Systems are solved to 1e-6 of a right side of norm 20; 1e-3 is a quarter of a code in a frame of 255.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 10), (24, 32)])
def test_retinexs_objective_falls_from_round_to_round(shape):
    logs = dark_logs(*shape)
    model = DenseRetinex(logs)
    found = [model.objective(np.zeros_like(logs), logs)]
    found += [model.objective(*separated(logs, rounds)) for rounds in range(1, 11)]
    assert all(later < earlier for earlier, later in itertools.pairwise(found)), found


def test_retinex_keeps_its_bounds_and_its_product():
    logs = dark_logs(24, 32)
    r, light = separated(logs, 15)
    assert (r <= 0).all()
    assert (light >= logs).all()
    assert np.abs(r + light - logs).mean() < 0.05  # the product is the frame but for what is smoothed away
    assert np.abs(np.diff(light, axis=1)).mean() < 0.8 * np.abs(np.diff(logs, axis=1)).mean()


def test_retinex_brightens_the_illumination_alone_and_keeps_the_hue():
    dark = dark_frame(8, 10)
    frame = as_array(dark)
    codes = np.maximum(frame.max(axis=2) * 255, 1)
    r, light = DenseRetinex(np.log(codes)).rounds(15)
    value = np.exp(r) * (np.exp(light) / 255) ** (1 / 2.2)
    found = as_array(build_enhancer("retinex")(dark))
    # the systems' accuracy, see above; and float32
    np.testing.assert_allclose(found.max(axis=2), np.clip(value, 0, 1), rtol=2e-3, atol=0)
    np.testing.assert_allclose(found / found.max(axis=2, keepdims=True), frame / frame.max(axis=2, keepdims=True), 1e-5)


# --- frames for a teacher


@dataclasses.dataclass(frozen=True)
class ListedClip:
    """What a frame source asks a clip for."""

    id: str = "a.mkv"
    num_frames: int = 3
    sha256: str = "0" * 64


def opened(folder, enhancer, enhancer_on):
    return open_teacher_frames(
        [ListedClip()],
        folder,
        enhancer,
        enhancer_on=enhancer_on,
        frame_size=(24, 32),
        colour_range="auto",
        cache=CachePolicy(folder=folder / "cache", mode="on", limit_bytes=1e9),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(("name", "enhancer_on"), [(None, "none"), ("gamma", "view")])
def test_teacher_that_enhances_nothing_or_later_gets_the_dark_frames(tmp_path, make_video, name, enhancer_on):
    dark = make_video(tmp_path / "a.mkv", num_frames=3, level=60)
    source = opened(tmp_path, None if name is None else build_enhancer(name), enhancer_on)
    assert np.array_equal(source.frames(ListedClip(), None), dark)


def test_teacher_gets_enhanced_frames_from_a_cache_of_their_own_for_each_setting(tmp_path, make_video):
    dark = make_video(tmp_path / "a.mkv", num_frames=3, level=60)
    folders = set()
    for gamma in (1.8, 2.5):
        source = opened(tmp_path, build_enhancer("gamma", gamma=gamma), "frame")
        assert isinstance(source, CachedFrames)
        wanted = np.rint(255 * (dark / 255.0) ** (1 / gamma))
        # float32 against float64: a value halfway between codes may fall on either side
        assert np.abs(source.frames(ListedClip(), None) - wanted).max() <= 1
        folders.add(source.folder)
    assert len(folders) == 2


@pytest.mark.parametrize("name", NAMES)
def test_enhanced_frames_do_not_depend_on_how_many_are_asked_for(name):
    frames = (torch.cat([dark_frame(seed=seed) for seed in range(3)]) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    module, cpu = build_enhancer(name), torch.device("cpu")
    together = enhance_pixels(module, frames, device=cpu)
    for index in range(3):
        assert np.array_equal(enhance_pixels(module, frames[index : index + 1], device=cpu)[0], together[index])

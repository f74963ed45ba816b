"""Zero-DCE against a plain form and the official weights' outputs; its losses against hand-made values."""

import hashlib
import itertools
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pipeline.enhancers.zero_dce import ZeroDCE, load_official
from pipeline.enhancers.zero_reference import (
    colour_constancy,
    exposure,
    spatial_consistency,
    total_variation,
    zero_reference_loss,
)
from pipeline.models.recogniser import ENHANCED_AT_ONCE, Recogniser


@pytest.fixture(scope="module")
def official():
    path = os.environ.get("DLKDD_ZERO_DCE")
    if not path:
        pytest.skip("DLKDD_ZERO_DCE does not name the official weights, which are not ours to ship")
    model, sha256 = load_official(Path(path))
    assert sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if sha256 != "a4395acb874f320375d9704997cef874eaaaaa26a1777ceb29a92b70f74c3612":
        pytest.skip("DLKDD_ZERO_DCE names other weights than the authors' Epoch99.pth")
    return model


@pytest.fixture
def strong():
    """A network whose curves are far from flat."""
    torch.manual_seed(5)
    model = ZeroDCE(seed=0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def frames(count=2, height=12, width=10):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(2))


def test_official_weights_brighten_a_ramp_as_published(official):
    ramp = (torch.arange(192) / 191).reshape(1, 3, 8, 8)
    with torch.no_grad():
        enhanced = official(ramp)
    assert enhanced.mean().item() == pytest.approx(0.635623, abs=2e-6)  # six digits were written down
    torch.testing.assert_close(enhanced[0, :, 0, 0], torch.tensor([0.0, 0.5199069, 0.8496198]), rtol=0, atol=1e-6)


def test_official_weights_brighten_a_constant_as_published(official):
    with torch.no_grad():
        enhanced = official(torch.full((1, 3, 16, 16), 0.1))
    assert enhanced.mean().item() == pytest.approx(0.450015, abs=2e-6)
    torch.testing.assert_close(enhanced[0, :, 8, 8], torch.tensor([0.4586315, 0.4739174, 0.4663206]), rtol=0, atol=1e-6)


def test_official_weights_are_those_of_the_published_sums(official):
    state = official.state_dict()
    sums = {"e_conv1.weight": -1.156577, "e_conv4.weight": 23.401970, "e_conv7.weight": -70.942961}
    for key, wanted in (sums | {"e_conv7.bias": -0.457705}).items():
        assert state[key].double().sum().item() == pytest.approx(wanted, abs=1e-6)
    assert not official.training


def test_official_weights_leave_black_and_white_exactly_as_they_are(official):
    for value in (0.0, 1.0):
        constant = torch.full((1, 3, 16, 16), value)
        with torch.no_grad():
            assert torch.equal(official(constant), constant)


def test_official_file_has_the_published_size(official):
    assert Path(os.environ["DLKDD_ZERO_DCE"]).stat().st_size == 320_017


def test_entries_have_the_published_names_and_shapes():
    wanted = {
        "e_conv1": (32, 3, 3, 3),
        "e_conv2": (32, 32, 3, 3),
        "e_conv3": (32, 32, 3, 3),
        "e_conv4": (32, 32, 3, 3),
        "e_conv5": (32, 64, 3, 3),
        "e_conv6": (32, 64, 3, 3),
        "e_conv7": (24, 64, 3, 3),
    }
    found = {key: tuple(tensor.shape) for key, tensor in ZeroDCE(seed=0).state_dict().items()}
    weights = {f"{name}.weight": shape for name, shape in wanted.items()}
    assert found == weights | {f"{name}.bias": shape[:1] for name, shape in wanted.items()}
    assert all(tensor.dtype == torch.float32 for tensor in ZeroDCE(seed=0).state_dict().values())


def test_a_pixel_costs_the_published_number_of_multiplications():
    with FlopCounterMode(display=False) as counter:
        ZeroDCE(seed=0)(frames(2, 8, 8))
    # two operations for each multiplication and addition
    assert counter.get_total_flops() == 2 * 79_200 * 2 * 8 * 8


def test_network_equals_the_plain_formulas(strong):
    model, x = strong.double(), frames().double()
    w = model.state_dict()

    def conv(number, *inputs):
        joined = torch.cat(inputs, 1)
        return F.conv2d(joined, w[f"e_conv{number}.weight"], w[f"e_conv{number}.bias"], padding=1)

    c1 = conv(1, x).clamp(min=0)
    c2 = conv(2, c1).clamp(min=0)
    c3 = conv(3, c2).clamp(min=0)
    c4 = conv(4, c3).clamp(min=0)
    c5 = conv(5, c3, c4).clamp(min=0)
    c6 = conv(6, c2, c5).clamp(min=0)
    maps = torch.tanh(conv(7, c1, c6))
    wanted = x.clone()
    for n in range(8):
        for channel in range(3):
            value, strength = wanted[:, channel], maps[:, 3 * n + channel]
            wanted[:, channel] = value + strength * (value**2 - value)
    enhanced, found_maps = model.enhance_with_maps(x)
    torch.testing.assert_close(found_maps, maps, rtol=0, atol=1e-13)  # float64 rounding
    torch.testing.assert_close(enhanced, wanted, rtol=0, atol=1e-13)
    assert maps.abs().max() > 0.5  # else the curve would hardly be tested


def test_black_and_white_stay_exactly_what_they_are(strong):
    for value in (0.0, 1.0):
        constant = torch.full((1, 3, 9, 9), value)
        assert torch.equal(strong(constant), constant)


def test_enhanced_frames_stay_in_range(strong):
    enhanced = strong(frames(8))
    assert enhanced.min() >= 0
    assert enhanced.max() <= 1 + 1e-6  # eight rounds of float32 rounding


def test_negative_maps_brighten(strong):
    torch.nn.init.constant_(strong.e_conv7.bias, -20.0)
    dark = 0.1 * frames()
    assert (strong(dark) >= dark).all()


def test_network_has_the_published_number_of_weights():
    parameters = dict(ZeroDCE(seed=0).named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == 79_416
    assert sum(parameter.numel() for name, parameter in parameters.items() if name.endswith(".bias")) == 216


def test_first_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    first = ZeroDCE(seed=7).state_dict()
    torch.manual_seed(2)
    second, other = ZeroDCE(seed=7).state_dict(), ZeroDCE(seed=8).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["e_conv1.weight"], other["e_conv1.weight"])
    # 18,432 draws: the standard deviation is known to 0.5 %
    assert first["e_conv5.weight"].std().item() == pytest.approx(0.02, rel=0.03)
    assert torch.equal(first["e_conv5.bias"], torch.zeros(32))


@pytest.mark.parametrize("num_frames", [1, 16, 37])
def test_a_frozen_enhancer_gets_a_few_frames_at_a_time_and_chunks_change_nothing(strong, num_frames):
    sizes = []

    class Watched(torch.nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return strong(x)

    plain = Recogniser(torch.nn.Identity(), mean=(0.0,) * 3, std=(1.0,) * 3, enhancer=Watched())
    pixels = torch.randint(0, 256, (2, num_frames, 8, 8, 3), dtype=torch.uint8)
    found = plain(pixels)
    assert not found.requires_grad
    assert max(sizes) <= ENHANCED_AT_ONCE
    assert sum(sizes) == 2 * num_frames
    whole = strong((pixels.float() / 255).flatten(0, 1).permute(0, 3, 1, 2)).detach()
    wanted = whole.view(2, num_frames, 3, 8, 8).transpose(1, 2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)  # float32, other order of summation


class Metered(torch.nn.Module):
    """Notes what every pass of an enhancer takes from memory on the CPU, in bytes beyond its input and output."""

    def __init__(self, enhancer):
        super().__init__()
        self.enhancer = enhancer
        self.peaks, self.kept = [], []

    def forward(self, x):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            enhanced = self.enhancer(x)
        # The sizes of allocations, and less than 0 of what is given back, in order of time.
        events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
        sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
        output = enhanced.nbytes
        self.peaks.append(max(itertools.accumulate(sizes)) - output)
        self.kept.append(sum(sizes) - output)
        return enhanced


def test_an_enhancers_peak_memory_does_not_grow_with_the_number_of_frames(strong):
    peaks = {}
    for num_frames in (16, 64):
        meter = Metered(strong)
        classifier = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
        recogniser = Recogniser(classifier, mean=(0.0,) * 3, std=(1.0,) * 3, enhancer=meter)
        recogniser(torch.randint(0, 256, (1, num_frames, 64, 64, 3), dtype=torch.uint8))
        peaks[num_frames] = max(meter.peaks)
        assert meter.kept == [0] * len(meter.kept)  # nothing stays, such as what a gradient would need
    # to 1 %: convolutions may keep a little memory of their own from call to call
    assert peaks[64] == pytest.approx(peaks[16], rel=0.01)
    # The seventh layer's 64 input and 24 output planes of a chunk are in memory together: the meter sees them.
    plane = 16 * 64 * 64 * 4
    assert peaks[16] >= (64 + 24) * plane
    # All frames at once would take about four times as much, but for the convolutions' own memory.
    meter = Metered(strong)
    with torch.no_grad():
        meter(torch.rand(64, 3, 64, 64))
    assert meter.peaks[0] > 3 * peaks[16]


def test_saved_weights_are_read_back_with_the_files_sha256(tmp_path, strong):
    path = tmp_path / "weights.pth"
    torch.save(strong.state_dict(), path, _use_new_zipfile_serialization=False)
    model, sha256 = load_official(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert torch.equal(model(frames()), strong(frames()))


def test_weights_of_zero_dce_plus_plus_are_refused_by_name(tmp_path):
    # its convolutions come in two parts under other names
    names = {
        "e_conv1.depth_conv.weight": torch.zeros(3, 1, 3, 3),
        "e_conv1.point_conv.weight": torch.zeros(32, 3, 1, 1),
    }
    path = tmp_path / "Epoch99.pth"
    torch.save(names, path)
    with pytest.raises(
        ValueError, match=r"found the weights of Zero-DCE\+\+ .*e_conv1\.depth_conv.* wanted .* Zero-DCE;"
    ):
        load_official(path)


def test_weights_of_another_enhancer_are_refused_by_the_missing_entry(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(ValueError, match=r"e_conv1\.weight: found no such entry, wanted shape \(32, 3, 3, 3\)"):
        load_official(path)


def test_weights_of_another_width_are_refused_by_the_differing_shape(tmp_path):
    state = ZeroDCE(seed=0).state_dict()
    state["e_conv7.weight"], state["e_conv7.bias"] = torch.zeros(3, 64, 3, 3), torch.zeros(3)
    path = tmp_path / "Epoch99.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"e_conv7\.weight: found shape \(3, 64, 3, 3\), wanted \(24, 64, 3, 3\)"):
        load_official(path)


def test_cut_weights_are_refused(tmp_path):
    path = tmp_path / "Epoch99.pth"
    torch.save(ZeroDCE(seed=0).state_dict(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"Epoch99\.pth: found \d+ bytes that do not load"):
        load_official(path)


def test_spatial_consistency_of_an_evenly_brighter_frame_counts_the_border():
    # 2x2 regions, each 0.2 brighter: the two inner differences stay, the two towards the border change by 0.2
    found = spatial_consistency(torch.full((1, 3, 8, 8), 0.3), torch.full((1, 3, 8, 8), 0.1))
    assert found.item() == pytest.approx(2 * 0.2**2, rel=1e-5)


def test_spatial_consistency_of_one_brighter_region():
    enhanced = torch.zeros(1, 3, 8, 8)
    enhanced[:, :, :4, :4] = 0.4
    # that region differs from four neighbours, the two regions beside it from one
    wanted = (4 * 0.4**2 + 0.4**2 + 0.4**2) / 4
    assert spatial_consistency(enhanced, torch.zeros(1, 3, 8, 8)).item() == pytest.approx(wanted, rel=1e-5)


def test_spatial_consistency_compares_the_mean_of_the_channels_over_regions():
    enhanced = torch.zeros(1, 3, 8, 8)
    enhanced[:, 0, 0, 0] = 0.3 * 16 * 3  # the mean over 16 pixels and 3 channels is 0.3
    wanted = 6 * 0.3**2 / 4
    assert spatial_consistency(enhanced, torch.zeros(1, 3, 8, 8)).item() == pytest.approx(wanted, rel=1e-5)


def test_unchanged_frames_are_spatially_consistent():
    assert spatial_consistency(frames(), frames()).item() == 0


def test_exposure_is_the_squared_distance_of_patches_from_the_wanted_brightness():
    enhanced = torch.full((1, 3, 16, 32), 0.5, dtype=torch.float64)
    enhanced[:, :, :, 16:] = 0.9
    assert exposure(enhanced).item() == pytest.approx((0.1**2 + 0.3**2) / 2, rel=1e-5)
    assert exposure(enhanced, wanted=0.9).item() == pytest.approx(0.4**2 / 2, rel=1e-5)
    # one row of two patches of 16 becomes a patch of 16 that no longer tells the halves apart
    enhanced = torch.cat([enhanced[..., 8:24]] * 2, dim=3)
    assert exposure(enhanced).item() == pytest.approx(0.1**2, rel=1e-5)
    assert exposure(enhanced, patch=8).item() == pytest.approx((0.1**2 + 0.3**2) / 2, rel=1e-5)


def test_colour_constancy_is_the_root_of_fourth_powers():
    colour = torch.tensor([0.5, 0.3, 0.1]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    wanted = (0.2**4 + 0.4**4 + 0.2**4) ** 0.5
    assert colour_constancy(colour).item() == pytest.approx(wanted, rel=1e-5)
    grey = torch.full((1, 3, 4, 4), 0.5)
    assert colour_constancy(torch.cat([colour, grey])).item() == pytest.approx(wanted / 2, rel=1e-5)


def test_colour_constancy_of_a_grey_frame_has_a_gradient_of_zero():
    grey = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    colour_constancy(grey).backward()
    assert torch.equal(grey.grad, torch.zeros_like(grey))


def test_total_variation_counts_both_directions_and_sums_channels():
    across = torch.tensor([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0]])
    down = torch.tensor([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    # across: 2 * (1 + 4 + 1 + 4) / (2 * 2) = 5; down: 2 * (4 + 4 + 4) / (1 * 3) = 8
    assert total_variation(across[None, None]).item() == pytest.approx(5)
    assert total_variation(down[None, None]).item() == pytest.approx(8)
    assert total_variation(torch.stack([across, down])[None]).item() == pytest.approx(13)
    assert total_variation(torch.stack([across, down])[:, None]).item() == pytest.approx(6.5)


def test_whole_loss_is_the_weighted_sum(strong):
    dark = 0.2 * frames(2, 16, 16)
    enhanced, maps = strong.enhance_with_maps(dark)
    parts = {
        "spatial_weight": spatial_consistency(enhanced, dark),
        "exposure_weight": exposure(enhanced),
        "colour_weight": colour_constancy(enhanced),
        "variation_weight": total_variation(maps),
    }
    nothing = dict.fromkeys(parts, 0.0)
    for name, part in parts.items():
        found = zero_reference_loss(dark, enhanced, maps, **(nothing | {name: 2.0}))
        assert found.item() == pytest.approx(2 * part.item(), rel=1e-6)
    wanted = sum(weight * part for weight, part in zip((1, 10, 5, 200), parts.values(), strict=True))
    assert zero_reference_loss(dark, enhanced, maps).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_frames_smaller_than_a_patch_are_refused():
    with pytest.raises(ValueError, match="found 12x10 pixels, wanted at least one patch of 16x16"):
        zero_reference_loss(frames(), frames(), torch.zeros(2, 24, 12, 10))


def test_a_few_steps_of_the_losses_teach_the_network_to_brighten():
    model = ZeroDCE(seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    dark = 0.15 * frames(2, 32, 32)
    for _ in range(40):
        enhanced, maps = model.enhance_with_maps(dark)
        loss = zero_reference_loss(dark, enhanced, maps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert enhanced.mean() > 2 * dark.mean()

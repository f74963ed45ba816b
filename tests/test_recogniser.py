"""From pixels to logits: normalisation, streams, and what the enhancer may do."""

import pytest
import torch
from torch import nn
from torchvision.models import video

from pipeline.enhancers.zero_dce import ZeroDCE
from pipeline.models.recogniser import NORMALIZATIONS, Recogniser

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.4, 0.2)
DARK = ((0.02, 0.03, 0.04), (0.05, 0.1, 0.2))


class Keep(nn.Module):
    """Gives back the mean of everything that it is called with."""

    def forward(self, *streams):
        self.streams = streams
        return torch.stack([stream.mean((1, 2, 3, 4)) for stream in streams], dim=1)


class Brighten(nn.Module):
    """Doubles, up to 1, and counts the frames of each call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, frames):
        self.calls.append(len(frames))
        return (2 * frames).clamp(max=1)


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (2, 5, 4, 6, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def by_hand(pixels, mean, std, gain=1.0):
    frames = (gain * pixels.double() / 255).clamp(max=1)
    return ((frames - torch.tensor(mean).double()) / torch.tensor(std).double()).permute(0, 4, 1, 2, 3)


def test_dark_views_are_scaled_and_normalised(pixels):
    keep = Keep()
    Recogniser(keep, mean=MEAN, std=STD)(pixels)
    torch.testing.assert_close(keep.streams[0].double(), by_hand(pixels, MEAN, STD), rtol=0, atol=1e-5)  # float32


def test_two_streams_are_dark_and_enhanced_each_with_its_own_statistics(pixels):
    keep = Keep()
    Recogniser(keep, mean=MEAN, std=STD, enhancer=Brighten(), dark_stream=DARK)(pixels)
    dark, bright = keep.streams
    torch.testing.assert_close(dark.double(), by_hand(pixels, *DARK), rtol=0, atol=1e-5)
    torch.testing.assert_close(bright.double(), by_hand(pixels, MEAN, STD, gain=2.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("kinetics", video.R2Plus1D_18_Weights.DEFAULT),
        ("kinetics", video.R3D_18_Weights.DEFAULT),
        ("kinetics", video.MC3_18_Weights.DEFAULT),
        ("imagenet", video.Swin3D_B_Weights.DEFAULT),
    ],
)
def test_normalisations_are_those_of_torchvisions_weights(name, weights):
    wanted = weights.transforms()
    assert NORMALIZATIONS[name] == (tuple(wanted.mean), tuple(wanted.std))


def test_two_streams_need_an_enhancer():
    with pytest.raises(ValueError, match="dark_stream: two streams need an enhancer, found none"):
        Recogniser(Keep(), mean=MEAN, std=STD, dark_stream=DARK)


def test_frames_pass_the_enhancer_a_few_at_a_time_in_order(pixels):
    bright, keep = Brighten(), Keep()
    Recogniser(keep, mean=MEAN, std=STD, enhancer=bright, enhanced_at_once=4)(pixels)
    assert bright.calls == [4, 4, 2]
    torch.testing.assert_close(keep.streams[0].double(), by_hand(pixels, MEAN, STD, gain=2.0), rtol=0, atol=1e-5)


def test_a_trained_enhancer_in_parts_has_the_gradients_of_one_pass(pixels):
    def gradients(at_once):
        enhancer = ZeroDCE(seed=0)
        model = Recogniser(Keep(), mean=MEAN, std=STD, enhancer=enhancer, train_enhancer=True, enhanced_at_once=at_once)
        model(pixels).square().sum().backward()
        return [parameter.grad for parameter in enhancer.parameters()]

    for parts, whole in zip(gradients(3), gradients(100), strict=True):
        assert whole.any()
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)  # other order of float32 sums


def test_a_frozen_enhancer_gets_no_gradient(pixels):
    enhancer = ZeroDCE(seed=0)
    model = Recogniser(nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 4 * 6, 2)), mean=MEAN, std=STD, enhancer=enhancer)
    model(pixels).sum().backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in enhancer.parameters())

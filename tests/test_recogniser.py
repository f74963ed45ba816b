"""From pixels to logits: normalisation, streams, and what the enhancer may do."""

import pytest
import torch
from torch import nn
from torchvision.models import video

from pipeline.enhancers.zero_dce import ZeroDCE
from pipeline.models.classifier import build_classifier
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


def test_without_the_temporal_mean_a_still_scene_is_zero_in_all_streams(pixels):
    given = {"mean": MEAN, "std": STD, "enhancer": Brighten(), "dark_stream": DARK, "remove_temporal_mean": True}
    keep, plain = Keep(), Keep()
    Recogniser(keep, **given)(pixels)
    Recogniser(plain, **given | {"remove_temporal_mean": False})(pixels)
    for found, whole in zip(keep.streams, plain.streams, strict=True):
        wanted = whole.double() - whole.double().mean(dim=2, keepdim=True)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)
        assert found.abs().max() > 0.1
    Recogniser(keep, **given)(pixels[:, :1].expand_as(pixels))
    assert all(stream.abs().max() < 1e-5 for stream in keep.streams)


def test_around_another_classifier_every_setting_stays_and_the_enhancer_is_a_frozen_copy(pixels):
    parts = {"enhancer": ZeroDCE(seed=0), "train_enhancer": True, "dark_stream": DARK}
    mine = Recogniser(Keep(), mean=MEAN, std=STD, **parts, remove_temporal_mean=True, enhanced_at_once=3)
    other = Keep()
    copied = mine.with_classifier(other, precision="bf16")
    assert copied.classifier is other

    def settings(model):
        return {name: value for name, value in vars(model).items() if not name.startswith("_")}

    assert settings(copied) == settings(mine) | {"precision": "bf16", "train_enhancer": False}
    assert all(torch.equal(buffer, copied.get_buffer(name)) for name, buffer in mine.named_buffers())
    frozen, trained = list(copied.enhancer.parameters()), list(mine.enhancer.parameters())
    assert not any(weight.requires_grad for weight in frozen)
    assert all(weight.requires_grad for weight in trained)
    assert all(torch.equal(one, two) and one is not two for one, two in zip(frozen, trained, strict=True))


def test_a_precision_that_there_is_not_is_refused():
    for make in (
        lambda: Recogniser(Keep(), mean=MEAN, std=STD, precision="fp16"),
        lambda: Recogniser(Keep(), mean=MEAN, std=STD).with_classifier(Keep(), precision="fp16"),
    ):
        with pytest.raises(ValueError, match="precision: found 'fp16', wanted one of fp32, bf16"):
            make()


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


def of_precision(precision, **more):
    classifier = build_classifier("r2plus1d_tiny", num_classes=5, num_frames=8, head_dropout=0.0, seed=0)
    return Recogniser(classifier, mean=MEAN, std=STD, precision=precision, **more)


@pytest.fixture
def clip():
    return torch.randint(0, 60, (2, 8, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_bfloat16_gives_float32_logits_near_those_of_float32(clip):
    with torch.no_grad():
        exact, rounded = of_precision("fp32").eval()(clip), of_precision("bf16").eval()(clip)
    assert exact.dtype == rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    # 2**-9 a rounding, some tens of them one behind another
    assert (rounded - exact).abs().max() <= 0.05 * exact.abs().max()


def test_bfloat16_trains_float32_weights_in_about_the_same_direction(clip):
    """Rounding the weights themselves to 8 bits turns the gradient as far: ReLUs and small batches amplify both."""

    def gradient(precision, rounded=False):
        torch.manual_seed(0)  # the head's dropout
        model = of_precision(precision).train()
        if rounded:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.copy_(weight.bfloat16())
        torch.nn.functional.cross_entropy(model(clip), torch.tensor([0, 3])).backward()
        assert {weight.grad.dtype for weight in model.parameters()} == {torch.float32}
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    exact = gradient("fp32")
    bf16, rounded = (
        1 - torch.cosine_similarity(other, exact, dim=0) for other in (gradient("bf16"), gradient("fp32", rounded=True))
    )
    assert rounded > 0
    assert bf16 < 4 * rounded  # inputs, outputs and what flows back are rounded beside the weights


def test_bfloat16_keeps_the_small_signal_of_dark_clips():
    """What comes out of the first normalisation is that of float32: before it, black is a constant that hides much."""
    dark = torch.randint(0, 12, (2, 8, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    seen = {}
    for name in ("fp32", "bf16"):
        model = of_precision(name).train()
        model.classifier.trunk.stem[1].register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.detach().clone()})
        )
        model(dark)
    assert torch.equal(seen["fp32"], seen["bf16"])


def test_colours_are_scaled_in_float32_also_for_bfloat16(pixels):
    keep = Keep()
    bright = Brighten()
    Recogniser(keep, mean=MEAN, std=STD, precision="bf16", enhancer=bright, dark_stream=DARK)(pixels)
    torch.testing.assert_close(keep.streams[0].double(), by_hand(pixels, *DARK), rtol=0, atol=1e-5)
    torch.testing.assert_close(keep.streams[1].double(), by_hand(pixels, MEAN, STD, gain=2.0), rtol=0, atol=1e-5)


def test_bfloat16_moves_enhanced_frames_by_less_than_a_code():
    enhancer, keep = ZeroDCE(seed=0), {name: Keep() for name in ("fp32", "bf16")}
    with torch.no_grad():
        for weight in enhancer.parameters():
            weight.mul_(4)  # curves about as strong as those of the published weights
        dark = torch.randint(0, 40, (1, 2, 24, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        for name, seen in keep.items():
            Recogniser(seen, mean=(0.0,) * 3, std=(1.0,) * 3, enhancer=enhancer, precision=name)(dark)
    fp32, bf16 = (seen.streams[0] * 255 for seen in keep.values())
    assert (fp32 - dark.permute(0, 4, 1, 2, 3)).abs().max() > 5
    assert 0 < (bf16 - fp32).abs().max() < 1


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="precision: found 'half', wanted one of fp32, bf16"):
        Recogniser(Keep(), mean=MEAN, std=STD, precision="half")

"""The R(2+1)D trunks against torchvision, plain 3D convolutions and the published counts."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import r2plus1d_18 as torchvision_r2plus1d_18

from pipeline.models.r2plus1d import (
    Projection,
    SpaceConv,
    TimeConv,
    matched_mid_planes,
    r2plus1d_18,
    r2plus1d_34,
    r2plus1d_tiny,
)
from pipeline.models.temporal_attention import TemporalAttention


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def count_macs(model, x):
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 2  # it counts 2 for a multiply-accumulate


def test_18_layers_load_torchvisions_weights_strictly_and_give_its_outputs():
    theirs = torchvision_r2plus1d_18().eval()
    for module in theirs.modules():  # statistics that would show a wrong eps or a swapped layer
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    with torch.device("meta"):  # spares drawing weights that are replaced
        ours = r2plus1d_18().eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state, strict=True, assign=True)
    x = torch.randn(2, 3, 9, 24, 20)
    with torch.no_grad():
        found = ours(x)
        wanted = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(theirs.stem(x)))))
    # other summation order in float32 through 37 convolutions
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(
    ("conv", "padding"),
    [
        (SpaceConv(6, 8), (0, 1, 1)),
        (SpaceConv(6, 8, kernel=7, stride=2), (0, 3, 3)),
        (TimeConv(6, 8), (1, 0, 0)),
        (TimeConv(6, 8, stride=2), (1, 0, 0)),
        (Projection(6, 8, time_stride=2, space_stride=2), (0, 0, 0)),
        (Projection(6, 8, time_stride=1, space_stride=2), (0, 0, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 6, 5, 9, 8), (2, 6, 2, 7, 7), (1, 6, 1, 6, 6)])
def test_2d_form_of_a_convolution_equals_the_3d_one_in_outputs_and_gradients(conv, padding, shape, contiguous):
    x = torch.randn(shape)
    if not contiguous:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_(True)
    found = conv(x)
    wanted = F.conv3d(x, conv.weight, stride=conv.stride, padding=padding)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)  # sums of at most 300 float32 products
    upstream = torch.randn_like(wanted)
    pairs = zip(
        torch.autograd.grad(found, (x, conv.weight), upstream),
        torch.autograd.grad(wanted, (x, conv.weight), upstream),
        strict=True,
    )
    for ours, plain in pairs:
        assert ours.shape == plain.shape
        # weight gradients sum some hundred products of unit size
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_convolution_over_time_is_right_in_both_its_forms_on_either_side_of_their_boundary(monkeypatch, frames, stride):
    conv = TimeConv(TimeConv.MANY_CHANNELS, 8, stride=stride)
    x = torch.randn(2, TimeConv.MANY_CHANNELS, frames, 14, 14).contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_(True)
    # the sum of three shifted products, in float64
    exact, weight = x.detach().double().requires_grad_(True), conv.weight.detach().double().requires_grad_(True)
    padded = F.pad(exact, (0, 0, 0, 0, 1, 1))
    taps = [torch.einsum("bcthw,oc->bothw", padded[:, :, k : k + frames], weight[:, :, k, 0, 0]) for k in range(3)]
    wanted = sum(taps)[:, :, ::stride]
    upstream = torch.randn(wanted.shape)
    reference = (wanted, *torch.autograd.grad(wanted, (exact, weight), upstream.double()))
    calls = []
    plain = nn.Conv3d.forward
    monkeypatch.setattr(nn.Conv3d, "forward", lambda self, x: calls.append(x.shape) or plain(self, x))
    for area in (14 * 14, 14 * 14 + 1):
        monkeypatch.setattr(TimeConv, "LARGE_MAP", area)
        out = conv(x)
        assert len(calls) == 1  # the first time in 3D, the second not
        for found, right in zip((out, *torch.autograd.grad(out, (x, conv.weight), upstream)), reference, strict=True):
            # float32 sums of up to 3,136 products round to some 1e-6 of the largest
            torch.testing.assert_close(found.double(), right, rtol=0, atol=1e-5 * right.abs().max().item())


@pytest.mark.parametrize("frames", [5, 16])
def test_gradients_of_a_training_step_are_those_of_plain_3d_convolutions(frames):
    ours = r2plus1d_tiny().double()
    plain = copy.deepcopy(ours)
    for module in plain.modules():
        if isinstance(module, nn.Conv3d):
            module.forward = functools.partial(nn.Conv3d.forward, module)
    x = torch.randn(2, 3, frames, 24, 24, dtype=torch.float64)
    upstream = torch.randn(1, dtype=torch.float64)
    for trunk in (ours, plain):
        (trunk(x).square().mean() * upstream).backward()
    for (name, weight), twin in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert weight.grad.any(), name
        # float64 rounds at 1e-16, and sums of some thousands of products come one behind another
        torch.testing.assert_close(weight.grad, twin.grad, rtol=1e-10, atol=1e-10 * twin.grad.abs().max().item())


@pytest.mark.parametrize(
    ("planes", "mid"),
    [
        ((64, 64), 144),
        ((64, 128), 230),
        ((128, 128), 288),
        ((128, 256), 460),
        ((256, 256), 576),
        ((256, 512), 921),
        ((512, 512), 1152),
    ],
)
def test_middle_channels_are_those_of_the_paper(planes, mid):
    assert matched_mid_planes(*planes) == mid


def test_34_layers_have_the_weights_of_the_published_checkpoints():
    with torch.device("meta"):
        trunk = r2plus1d_34()
    state = trunk.state_dict()
    assert sum(parameter.numel() for parameter in trunk.parameters()) == 63_491_975
    assert len(state) == 416 - 2  # without fc.weight and fc.bias
    shapes = {
        "stem.0.weight": (45, 3, 1, 7, 7),
        "stem.1.running_var": (45,),
        "stem.3.weight": (64, 45, 3, 1, 1),
        "layer1.2.conv1.0.0.weight": (144, 64, 1, 3, 3),
        "layer1.2.conv2.0.3.weight": (64, 144, 3, 1, 1),
        "layer2.0.conv1.0.0.weight": (230, 64, 1, 3, 3),
        "layer2.0.conv1.0.3.weight": (128, 230, 3, 1, 1),
        "layer2.0.conv2.0.0.weight": (288, 128, 1, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "layer3.0.conv1.0.0.weight": (460, 128, 1, 3, 3),
        "layer3.0.conv2.0.1.bias": (576,),
        "layer3.5.conv1.1.weight": (256,),
        "layer4.0.conv1.0.0.weight": (921, 256, 1, 3, 3),
        "layer4.0.conv2.0.0.weight": (1152, 512, 1, 3, 3),
        "layer4.2.conv2.1.running_mean": (512,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert not any(key.startswith("layer1.0.downsample") for key in state)


def test_34_layers_normalise_with_the_eps_of_the_published_weights_and_a_chosen_momentum():
    with torch.device("meta"):
        trunk = r2plus1d_34(bn_momentum=0.9)
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm3d)]
    assert len(norms) == sum(isinstance(module, nn.Conv3d) for module in trunk.modules()) == 69
    assert {norm.eps for norm in norms} == {1e-3}
    assert {norm.momentum for norm in norms} == {0.9}
    with torch.device("meta"):
        default = r2plus1d_34()
    assert {module.momentum for module in default.modules() if isinstance(module, nn.BatchNorm3d)} == {0.1}


def test_34_layers_cost_the_published_304_7_gmac_for_64_frames():
    with torch.device("meta"):
        trunk, x = r2plus1d_34().eval(), torch.empty(1, 3, 64, 112, 112)
    # stem and stages, each given to 0.0001
    wanted = 3.0617 + 133.1775 + 86.7555 + 65.5740 + 16.1422
    assert count_macs(trunk, x) / 1e9 == pytest.approx(wanted, abs=3e-4)


def test_tiny_classifier_is_small_and_cheap():
    trunk = r2plus1d_tiny().eval()
    head = TemporalAttention(trunk.feature_channels, trunk.num_time_tokens(16), 48).eval()
    model = nn.Sequential(trunk, head)
    assert sum(parameter.numel() for parameter in model.parameters()) <= 600_000
    assert count_macs(model, torch.randn(1, 3, 16, 56, 56)) <= 0.25e9


def test_tiny_keeps_every_fourth_step_in_time():
    trunk = r2plus1d_tiny()
    assert trunk.strides[0] == 4
    assert trunk.num_time_tokens(16) == 4


@pytest.mark.parametrize("build", [r2plus1d_tiny, r2plus1d_18])
def test_counted_time_tokens_and_strides_are_those_of_the_features(build):
    with torch.device("meta"):  # shapes without arithmetic
        trunk = build().eval()
    time_stride, space_stride = trunk.strides
    for frames in (1, 2, 7, 9, 16):
        shape = trunk(torch.empty(1, 3, frames, 20, 36, device="meta")).shape
        wanted = -(-frames // time_stride), -(-20 // space_stride), -(-36 // space_stride)
        assert tuple(shape) == (1, trunk.feature_channels, *wanted)
        assert trunk.num_time_tokens(frames) == shape[2]


def test_34_layers_turn_64_frames_into_8_tokens():
    with torch.device("meta"):
        trunk = r2plus1d_34()
    assert [trunk.num_time_tokens(frames) for frames in (64, 32, 16, 8)] == [8, 4, 2, 1]
    assert trunk.strides == (8, 16)


def test_every_stage_mixes_neighbouring_frames():
    trunk = r2plus1d_tiny().eval()
    x = torch.randn(1, 3, 16, 32, 32, requires_grad=True)
    for name, stage in trunk.named_children():
        features = stage(x)
        middle = features.shape[2] // 2
        (gradient,) = torch.autograd.grad(features[:, :, middle].sum(), x)
        reached = gradient.abs().sum((0, 1, 3, 4)).count_nonzero().item()
        assert reached >= 3, name
        x = features.detach().requires_grad_(True)


def test_features_of_a_view_do_not_depend_on_its_batch():
    trunk = r2plus1d_tiny().eval()
    x = torch.randn(3, 3, 8, 32, 32)
    with torch.no_grad():
        together, alone = trunk(x), trunk(x[1:2])
    # the batch size may choose another order of summation
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_memory_layout_of_the_input_changes_nothing_and_the_features_stay_channels_last():
    trunk = r2plus1d_tiny().eval()
    x = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        plain, last = trunk(x), trunk(x.contiguous(memory_format=torch.channels_last_3d))
    assert torch.equal(plain, last)
    assert plain.is_contiguous(memory_format=torch.channels_last_3d)


def test_first_convolutions_keep_the_variance_of_the_gradient():
    weight = r2plus1d_tiny().layer4[0].conv2[0][0].weight
    assert weight.shape == (112, 112, 1, 3, 3)
    # Kaiming, fan out, ReLU: 2 / (112 * 9); 112,896 draws give the variance to 0.4 %
    assert weight.var().item() == pytest.approx(2 / (112 * 9), rel=0.02)


@pytest.mark.parametrize("shape", [(3, 8, 32, 32), (2, 8, 3, 32, 32)])
def test_other_tensors_than_batches_of_views_are_refused(shape):
    with pytest.raises(ValueError, match=r"batch of views: found shape .*, wanted \(B, 3, T, H, W\)"):
        r2plus1d_tiny()(torch.zeros(shape))

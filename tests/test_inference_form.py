"""Networks rewritten for inference against the form that was trained."""

import pytest
import torch
from torch import nn

from pipeline.enhancers.gamma import Gamma
from pipeline.inference.rates import matmul_flops
from pipeline.models.classifier import build_classifier
from pipeline.models.inference_form import FoldedR2Plus1D, folded, for_inference
from pipeline.models.r2plus1d import r2plus1d_tiny
from pipeline.models.recogniser import NORMALIZATIONS, Recogniser

MEAN, STD = NORMALIZATIONS["kinetics"]
CPU = torch.device("cpu")


def classifier_of(name, *, frames=9, seed=0, **more):
    """In evaluation mode, with statistics and scales that would show a normalisation left out or put elsewhere."""
    classifier = build_classifier(name, num_classes=11, num_frames=frames, head_dropout=0.5, seed=seed, **more)
    generator = torch.Generator().manual_seed(seed)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(std=0.2, generator=generator)
    return classifier.eval()


def views(batch, frames, size, seed=1):
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


def in_float32(module):
    return {name for name, weight in module.named_parameters() if weight.dtype == torch.float32}


def distance(found, wanted):
    """Largest difference, relative to the largest of what is wanted."""
    return ((found.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()


@pytest.mark.parametrize(
    ("name", "frames", "size", "head"),
    [
        ("r2plus1d_tiny", 16, 56, "attention"),
        ("r2plus1d_tiny", 1, 20, "average"),
        ("r2plus1d_18", 9, 40, "attention"),
        ("r2plus1d_34", 8, 32, "attention"),
        ("r3d_18", 5, 32, "average"),
        ("mc3_18", 3, 32, "attention"),
        ("swin3d_b", 2, 32, "attention"),
    ],
)
def test_inference_form_gives_the_logits_of_the_training_form(name, frames, size, head):
    classifier, x = classifier_of(name, frames=frames, head=head), views(3, frames, size)
    with torch.no_grad():
        wanted, found = classifier(x), for_inference(classifier)(x)
    assert distance(found, wanted) <= 1e-4  # other roundings of float32 through up to 69 convolutions
    assert torch.equal(found.argmax(1), wanted.argmax(1))
    assert not any(isinstance(module, nn.BatchNorm3d) for module in for_inference(classifier).modules())


@pytest.mark.parametrize("name", ["r2plus1d_tiny", "r2plus1d_18"])
def test_inference_form_is_exact_but_for_rounding(name):
    """In float64 the two forms differ by float32's rounding of the folded weights alone."""
    classifier, x = classifier_of(name), views(2, 9, 24).double()
    rewritten = for_inference(classifier).double()
    rounding = 69 * 2**-24  # at most half a unit in the last place for each of the convolutions one behind another
    with torch.no_grad():
        trunk = rewritten.trunk
        features = trunk.blocks(trunk.stem(x.permute(0, 2, 3, 4, 1).contiguous()).relu_()).permute(0, 4, 1, 2, 3)
        assert distance(features, classifier.double().trunk(x)) <= rounding


def test_folding_a_bias_and_a_normalisation_equals_doing_both():
    torch.manual_seed(0)
    conv, norm = nn.Conv3d(3, 5, (1, 3, 3)).double(), nn.BatchNorm3d(5, eps=1e-3).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.01, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 4, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        weight, bias = folded(conv, norm)
        found = torch.nn.functional.conv3d(x, weight.double(), bias.double())
        assert distance(found, norm(conv(x))) <= 1e-6  # the weights come back in float32


def test_zero_channels_fill_the_middle_up_to_eight():
    trunk = for_inference(classifier_of("r2plus1d_18").trunk)
    middles = {module.out_channels for name, module in trunk.named_modules() if name.endswith("space")}
    assert middles == {48, 144, 232, 288, 464, 576, 928, 1152}
    assert not trunk.stem.space.weight[45:].any()
    assert not trunk.stem.time.weight[:, 45:].any()


def test_the_trained_network_stays_as_it_is():
    classifier = classifier_of("r2plus1d_tiny")
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    rewritten = for_inference(classifier)
    with torch.no_grad():
        for weight in rewritten.parameters():
            weight.fill_(7)
    assert all(torch.equal(before[key], tensor) for key, tensor in classifier.state_dict().items())
    training = classifier.train()
    for_inference(training)
    assert training.training


def test_the_inference_form_says_of_itself_what_its_trunk_says():
    trunk = r2plus1d_tiny()
    rewritten = for_inference(trunk)
    assert isinstance(rewritten, FoldedR2Plus1D)
    assert (rewritten.feature_channels, rewritten.strides) == (trunk.feature_channels, trunk.strides)
    assert [rewritten.num_time_tokens(t) for t in (1, 7, 16)] == [trunk.num_time_tokens(t) for t in (1, 7, 16)]
    with pytest.raises(ValueError, match=r"batch of views: found shape .*, wanted \(B, 3, T, H, W\)"):
        rewritten(torch.zeros(2, 8, 3, 32, 32))


def test_a_recogniser_keeps_its_streams_enhancer_and_statistics():
    model = Recogniser(
        classifier_of("r2plus1d_tiny", frames=8, streams=2),
        mean=MEAN,
        std=STD,
        enhancer=Gamma(gamma=1.8),
        dark_stream=((0.02, 0.03, 0.04), (0.05, 0.1, 0.2)),
        enhanced_at_once=3,
    ).eval()
    pixels = torch.randint(0, 60, (2, 8, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rewritten = for_inference(model)
    assert isinstance(rewritten, Recogniser)
    assert rewritten.enhanced_at_once == 3
    with torch.no_grad():
        assert distance(rewritten(pixels), model(pixels)) <= 1e-4


def test_bfloat16_halves_the_trunks_weights_and_keeps_the_answer():
    classifier, x = classifier_of("r2plus1d_tiny"), views(4, 9, 40)
    rewritten = for_inference(classifier, precision="bf16")
    assert in_float32(rewritten.trunk) == {"stem.space.weight", "stem.space.bias"}
    with torch.no_grad():
        found, wanted = rewritten(x), classifier(x)
    assert found.dtype == torch.float32
    # 2**-9 a rounding, through 19 convolutions and as many roundings of what lies between them
    assert distance(found, wanted) <= 0.1


@pytest.mark.parametrize(
    ("name", "frames", "size", "exact"),
    [
        ("r2plus1d_tiny", 8, 32, {"stem.space.weight", "stem.space.bias"}),
        ("r3d_18", 1, 8, {"stem.0.weight", "stem.0.bias"}),
    ],
)
def test_a_bfloat16_recogniser_is_rewritten_in_its_own_precision(name, frames, size, exact):
    model = Recogniser(classifier_of(name, frames=frames), mean=MEAN, std=STD, precision="bf16").eval()
    rewritten = for_inference(model)
    assert rewritten.precision == "bf16"
    assert in_float32(rewritten.classifier.trunk) == exact
    shape = (2, frames, size, size, 3)
    pixels = torch.randint(0, 60, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        assert rewritten(pixels).dtype == torch.float32
        assert distance(rewritten(pixels), model(pixels)) <= 0.1  # both rounded to 8 bits, in other places


def test_gradients_pass_the_inference_form():
    classifier, x = classifier_of("r2plus1d_tiny"), views(2, 9, 24).requires_grad_()
    wanted, found = (
        torch.autograd.grad(model(x).square().sum(), x)[0] for model in (classifier, for_inference(classifier))
    )
    # a ReLU whose input rounds to the other side of zero lets one more gradient pass
    assert (found - wanted).norm() <= 1e-3 * wanted.norm()


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="precision: found 'fp8', wanted one of fp32, bf16"):
        for_inference(r2plus1d_tiny(), precision="fp8")
    with pytest.raises(ValueError, match="precision: found 'fp8', wanted one of fp32, bf16"):
        matmul_flops(CPU, "fp8")
    with pytest.raises(ValueError, match="device: found 'meta', wanted cpu or cuda"):
        matmul_flops(torch.device("meta"), "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_rate_of_matrix_products_is_that_of_some_machine(precision):
    assert 1e8 < matmul_flops(CPU, precision) < 1e15  # from one emulated core to far more than any CPU


def test_a_rewritten_bfloat16_recogniser_sees_dark_clips_as_exactly_as_the_training_form():
    """Black minus the mean is a large constant in every pixel, which bfloat16 must not meet before it is taken away."""
    model = Recogniser(classifier_of("r2plus1d_tiny", frames=8), mean=MEAN, std=STD).eval()
    pixels = torch.randint(0, 12, (4, 8, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rewritten = for_inference(model, precision="bf16")
    space = rewritten.classifier.trunk.stem.space
    seen = {}
    space.register_forward_hook(lambda module, inputs, output: seen.update(out=output))
    with torch.no_grad():
        rewritten(pixels)
        views = (pixels.permute(0, 4, 1, 2, 3).float() / 255 - model.mean) / model.std
        wanted = torch.nn.functional.conv2d(
            views.transpose(1, 2).flatten(0, 1), space.weight, space.bias, stride=2, padding=2
        ).relu()  # bent in place behind the hook
    assert distance(seen["out"], wanted) <= 1e-5  # float32

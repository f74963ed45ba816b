"""Published checkpoints by their names and shapes. No released file was at hand: the tables below are typed out."""

import pytest
import torch
from torchvision.models import video

from pipeline.models.classifier import build_classifier, load_weights

NORM = ("weight", "bias", "running_mean", "running_var")

# Stage -> (blocks, channels in, channels out, middle of the first convolution, of the second one, of all others).
IG65M = {
    1: (3, 64, 64, 144, 144, 144),
    2: (4, 64, 128, 230, 288, 288),
    3: (6, 128, 256, 460, 576, 576),
    4: (3, 256, 512, 921, 1152, 1152),
}


def norm(name, channels):
    return {f"{name}.{part}": (channels,) for part in NORM} | {f"{name}.num_batches_tracked": ()}


def block(name, ins, outs, first, second, *, projected):
    shapes = {}
    for conv, (channels, mid) in {"conv1": (ins, first), "conv2": (outs, second)}.items():
        shapes[f"{name}.{conv}.0.0.weight"] = (mid, channels, 1, 3, 3)
        shapes |= norm(f"{name}.{conv}.0.1", mid)
        shapes[f"{name}.{conv}.0.3.weight"] = (outs, mid, 3, 1, 1)
        shapes |= norm(f"{name}.{conv}.1", outs)
    if projected:
        shapes[f"{name}.downsample.0.weight"] = (outs, ins, 1, 1, 1)
        shapes |= norm(f"{name}.downsample.1", outs)
    return shapes


def ig65m_shapes(classes):
    """Entries of `r2plus1d_34_*.pth` as published: torchvision's naming, the wider second convolutions."""
    shapes = {"stem.0.weight": (45, 3, 1, 7, 7), **norm("stem.1", 45)}
    shapes |= {"stem.3.weight": (64, 45, 3, 1, 1), **norm("stem.4", 64)}
    for stage, (blocks, ins, outs, first, second, inner) in IG65M.items():
        shapes |= block(f"layer{stage}.0", ins, outs, first, second, projected=stage > 1)
        for index in range(1, blocks):
            shapes |= block(f"layer{stage}.{index}", outs, outs, inner, inner, projected=False)
    return shapes | {"fc.weight": (classes, 512), "fc.bias": (classes,)}


def wrapped_shapes(prefix, tokens, classes):
    """Entries of public late-temporal-modelling (`bert`) and DarkLight (`self_attention`) checkpoints."""
    trunk = {}
    for key, shape in ig65m_shapes(1).items():
        part, _, rest = key.partition(".")
        if part != "fc":
            trunk[f"features.{0 if part == 'stem' else part.removeprefix('layer')}.{rest}"] = shape
    inner = f"{prefix}.transformer_blocks.0"
    head = {f"{prefix}.clsToken": (1, 1, 512), f"{prefix}.embedding.learnedPosition.pe": (1, tokens + 1, 512)}
    for layer in ("linear_layers.0", "linear_layers.1", "linear_layers.2", "output_linear"):
        head |= {f"{inner}.attention.{layer}.weight": (512, 512), f"{inner}.attention.{layer}.bias": (512,)}
    head |= {f"{inner}.feed_forward.w_1.weight": (2048, 512), f"{inner}.feed_forward.w_1.bias": (2048,)}
    head |= {f"{inner}.feed_forward.w_2.weight": (512, 2048), f"{inner}.feed_forward.w_2.bias": (512,)}
    for sublayer in ("input_sublayer", "output_sublayer"):
        head |= {f"{inner}.{sublayer}.norm.a_2": (512,), f"{inner}.{sublayer}.norm.b_2": (512,)}
    return trunk | head | {"fc_action.weight": (classes, 512), "fc_action.bias": (classes,)}


def fill(shapes):
    """Tensors whose values tell the entries apart, without drawing 64 million numbers each."""
    return {
        key: torch.tensor(index) if shape == () else torch.full((1,), float(index)).expand(shape).contiguous()
        for index, (key, shape) in enumerate(shapes.items())
    }


@pytest.fixture
def model():
    def build(**options):
        defaults = {"num_classes": 11, "num_frames": 64, "head_dropout": 0.8, "seed": 0}
        return build_classifier("r2plus1d_34", **(defaults | options))

    return build


@pytest.mark.parametrize(("classes", "weights"), [(487, 63_741_806), (359, 63_676_142), (400, 63_697_175)])
def test_the_typed_tables_have_the_published_sizes(classes, weights):
    shapes = ig65m_shapes(classes)
    assert len(shapes) == 416
    counted = [shape for key, shape in shapes.items() if key.endswith((".weight", ".bias"))]
    assert sum(torch.Size(shape).numel() for shape in counted) == weights


@pytest.mark.parametrize("classes", [487, 359, 400])  # clip8, clip32, and both that were tuned on Kinetics
def test_ig65m_files_load_strictly_with_their_classifier_dropped_or_kept(tmp_path, model, classes):
    path, state = tmp_path / "r2plus1d_34.pth", fill(ig65m_shapes(classes))
    torch.save(state, path)
    dropped = model()
    load_weights(dropped, path)
    kept = model(head="average", num_classes=classes)
    load_weights(kept, path, up_to="classifier")
    for classifier in (dropped, kept):
        found = classifier.trunk.state_dict()
        assert set(found) == {key for key in state if not key.startswith("fc.")}
        assert all(torch.equal(found[key], state[key]) for key in found)
    assert torch.equal(kept.head.classifier.weight, state["fc.weight"])
    assert torch.equal(kept.head.classifier.bias, state["fc.bias"])


@pytest.mark.parametrize("prefix", ["bert", "self_attention"])
def test_wrapped_files_load_strictly_into_trunk_and_head(tmp_path, model, prefix):
    path, state = tmp_path / "model_best.pth.tar", fill(wrapped_shapes(prefix, 8, 11))
    torch.save({"epoch": 3, "arch": "rgb", "state_dict": state}, path)
    classifier = model()
    load_weights(classifier, path, up_to="classifier")
    found, inner = classifier.state_dict(), f"{prefix}.transformer_blocks.0"
    for name, key in {
        "trunk.stem.3.weight": "features.0.3.weight",
        "trunk.layer2.0.conv2.0.0.weight": "features.2.0.conv2.0.0.weight",
        "trunk.layer4.2.conv2.1.running_var": "features.4.2.conv2.1.running_var",
        "head.class_token": f"{prefix}.clsToken",
        "head.position": f"{prefix}.embedding.learnedPosition.pe",
        "head.attention.query.weight": f"{inner}.attention.linear_layers.0.weight",
        "head.attention.key.bias": f"{inner}.attention.linear_layers.1.bias",
        "head.attention.value.weight": f"{inner}.attention.linear_layers.2.weight",
        "head.attention.output.bias": f"{inner}.attention.output_linear.bias",
        "head.feed_forward.0.weight": f"{inner}.feed_forward.w_1.weight",
        "head.feed_forward.3.bias": f"{inner}.feed_forward.w_2.bias",
        "head.norm1.gain": f"{inner}.input_sublayer.norm.a_2",
        "head.norm2.bias": f"{inner}.output_sublayer.norm.b_2",
        "head.classifier.weight": "fc_action.weight",
    }.items():
        assert torch.equal(found[name], state[key]), name
    # every value of the file arrived once: nothing was dropped or written twice
    assert sorted(float(value.flatten()[0]) for value in found.values()) == [float(n) for n in range(len(state))]


def test_a_wrapped_file_of_other_classes_gives_its_trunk_and_attention(tmp_path, model):
    path, state = tmp_path / "hmdb51.pth", fill(wrapped_shapes("bert", 8, 51))
    torch.save({f"module.{key}": value for key, value in state.items()}, path)  # saved from nn.DataParallel
    classifier = model()
    before = classifier.head.classifier.weight.clone()
    load_weights(classifier, path, up_to="head")
    assert torch.equal(classifier.head.class_token, state["bert.clsToken"])
    assert torch.equal(classifier.head.classifier.weight, before)
    with pytest.raises(ValueError, match=r"head\.classifier\.weight: found shape \(51, 512\), wanted \(11, 512\)"):
        load_weights(classifier, path, up_to="classifier")


def test_a_two_stream_file_wants_two_streams(tmp_path, model):
    path = tmp_path / "darklight.pth"
    torch.save(fill(wrapped_shapes("self_attention", 16, 11)), path)
    load_weights(model(streams=2), path, up_to="classifier")
    with pytest.raises(ValueError, match=r"head\.position: found shape \(1, 17, 512\), wanted \(1, 9, 512\)"):
        load_weights(model(), path, up_to="classifier")


def test_torchvisions_generic_34_layers_do_not_fit_and_the_first_difference_is_named(tmp_path, model):
    shapes = ig65m_shapes(400) | {"layer2.0.conv2.0.0.weight": (230, 128, 1, 3, 3)}
    path = tmp_path / "untweaked.pth"
    torch.save(fill(shapes), path)
    with pytest.raises(
        ValueError, match=r"trunk\.layer2\.0\.conv2\.0\.0\.weight: found shape \(230, 128, 1, 3, 3\), wan"
    ):
        load_weights(model(), path)


def test_an_entry_that_nobody_knows_is_named_as_it_stands_in_the_file(tmp_path, model):
    path = tmp_path / "odd.pth"
    torch.save(fill(wrapped_shapes("bert", 8, 11) | {"bert.mask_token": (1, 512)}), path)
    with pytest.raises(ValueError, match=r"odd\.pth: bert\.mask_token: found shape \(1, 512\), wanted no such entry"):
        load_weights(model(), path)


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "mc3_18"])
def test_torchvisions_networks_load_whole_and_give_its_logits(tmp_path, name):
    torch.manual_seed(0)
    theirs = getattr(video, name)(num_classes=7).eval()
    path = tmp_path / f"{name}.pth"
    torch.save(theirs.state_dict(), path)
    ours = build_classifier(name, num_classes=7, num_frames=9, head="average", head_dropout=0.0, seed=1).eval()
    load_weights(ours, path, up_to="classifier")
    x = torch.randn(2, 3, 9, 40, 36)
    with torch.no_grad():
        # r2plus1d_18 sums in another order, in float32 through 37 convolutions
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)


def test_swin_loads_whole_and_gives_torchvisions_logits(tmp_path):
    torch.manual_seed(0)
    theirs = video.swin3d_b(num_classes=7).eval()
    path = tmp_path / "swin3d_b.pth"
    torch.save(theirs.state_dict(), path)
    ours = build_classifier("swin3d_b", num_classes=7, num_frames=8, head="average", head_dropout=0.0, seed=1).eval()
    load_weights(ours, path, up_to="classifier")
    x = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)  # the same layers, one mean elsewhere


@pytest.mark.parametrize(
    ("name", "frames", "tokens", "channels"),
    [("r3d_18", 64, 8, 512), ("mc3_18", 64, 64, 512), ("swin3d_b", 64, 32, 1024), ("swin3d_b", 9, 5, 1024)],
)
def test_every_backbone_feeds_the_attention_head(name, frames, tokens, channels):
    with torch.device("meta"):
        classifier = build_classifier(name, num_classes=5, num_frames=frames, head_dropout=0.0, seed=0).eval()
        logits = classifier(torch.empty(2, 3, frames, 112, 112))
    assert logits.shape == (2, 5)
    assert classifier.head.position.shape == (1, tokens + 1, channels)


def test_momentum_reaches_torchvisions_norms():
    with torch.device("meta"):
        classifier = build_classifier("r3d_18", num_classes=5, num_frames=8, head_dropout=0.0, bn_momentum=0.9, seed=0)
    assert {m.momentum for m in classifier.modules() if isinstance(m, torch.nn.BatchNorm3d)} == {0.9}


def test_a_checkpoint_of_this_project_is_a_pretrained_file_too(tmp_path):
    options = {"num_classes": 6, "num_frames": 8, "head_dropout": 0.5}
    first, other = (build_classifier("r2plus1d_tiny", **options, seed=seed) for seed in (1, 2))
    path = tmp_path / "teacher.pth"
    state = {f"classifier.{key}": value for key, value in first.state_dict().items()}
    torch.save(state | {"enhancer.e_conv1.bias": torch.zeros(32)}, path)
    load_weights(other, path, up_to="classifier")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in first.state_dict().items())
    with pytest.raises(ValueError, match="weights_up_to: found 'fc', wanted one of backbone, head, classifier"):
        load_weights(other, path, up_to="fc")


def test_two_streams_share_the_trunk_and_double_the_steps():
    with torch.device("meta"):
        model = build_classifier("r2plus1d_34", num_classes=11, num_frames=64, head_dropout=0.8, streams=2, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 66_659_218
    model = build_classifier("r2plus1d_tiny", num_classes=4, num_frames=8, head_dropout=0.0, streams=2, seed=0).eval()
    dark, bright = torch.randn(2, 1, 3, 8, 32, 32).unbind(0)
    tokens = torch.cat([model.trunk(dark), model.trunk(bright)], dim=2)
    assert torch.equal(model(dark, bright), model.head(tokens))
    assert not torch.allclose(model(dark, bright), model(bright, dark), atol=1e-5)
    with pytest.raises(ValueError, match="streams: found 3, wanted 1 or 2"):
        build_classifier("r2plus1d_tiny", num_classes=4, num_frames=8, head_dropout=0.0, streams=3, seed=0)

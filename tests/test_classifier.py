"""Classifiers by name: their first weights, pretrained trunks, refusals."""

import hashlib
import os
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.models.classifier import TRUNKS, build_classifier, load_weights
from pipeline.models.r2plus1d import r2plus1d_tiny
from pipeline.models.state_dicts import read_state_dict
from pipeline.models.temporal_attention import AverageHead, TemporalAttention


def build(name="r2plus1d_tiny", **options):
    defaults = {"num_classes": 6, "num_frames": 8, "head_dropout": 0.5, "seed": 3}
    return build_classifier(name, **(defaults | options))


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first) and first.keys() == second.keys()


def copy_state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture
def pretrained():
    torch.manual_seed(17)
    state = r2plus1d_tiny().state_dict()
    return state | {"fc.weight": torch.randn(359, 112), "fc.bias": torch.randn(359)}


@pytest.mark.parametrize("head", ["attention", "average"])
def test_classifier_maps_views_to_one_row_of_logits_each(head):
    logits = build(head=head)(torch.randn(2, 3, 8, 32, 32))
    assert logits.shape == (2, 6)
    assert logits.dtype == torch.float32


def test_first_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    first = build().state_dict()
    torch.manual_seed(2)
    torch.rand(5)
    second = build().state_dict()
    assert same(first, second)
    other = build(seed=4).state_dict()
    assert not torch.equal(first["trunk.stem.0.weight"], other["trunk.stem.0.weight"])
    assert not torch.equal(first["head.position"], other["head.position"])


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    wanted = torch.rand(4)
    torch.manual_seed(1)
    build()
    assert torch.equal(torch.rand(4), wanted)


def test_both_heads_of_a_seed_share_the_trunk():
    attention, average = build(head="attention"), build(head="average")
    assert same(attention.trunk.state_dict(), average.trunk.state_dict())
    assert isinstance(attention.head, TemporalAttention)
    assert isinstance(average.head, AverageHead)


def test_options_reach_the_layers():
    classifier = build(bn_momentum=0.9, keep_probability=0.8, head_dropout=0.3, num_frames=16)
    norms = [module for module in classifier.modules() if isinstance(module, nn.BatchNorm3d)]
    assert {norm.momentum for norm in norms} == {0.9}
    assert classifier.head.keep_probability == 0.8
    assert classifier.head.classifier_dropout.p == 0.3
    assert classifier.head.num_tokens == classifier.trunk.num_time_tokens(16)
    assert build(head="average", head_dropout=0.3).head.classifier_dropout.p == 0.3


def test_papers_classifier_has_the_published_number_of_weights():
    for classes, count in ((11, 66_655_122), (48, 66_674_103)):
        with torch.device("meta"):
            model = build("r2plus1d_34", num_classes=classes, num_frames=64, head_dropout=0.8)
        assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_every_weight_of_the_tiny_classifier_learns():
    classifier = build(num_frames=16, head_dropout=0.0)
    classifier(torch.randn(2, 3, 16, 32, 32)).square().sum().backward()
    still = [name for name, p in classifier.named_parameters() if p.grad is None or not p.grad.any()]
    # softmax does not see what is added to every key's score
    assert still in ([], ["head.attention.key.bias"])


@pytest.mark.slow
def test_exported_classifier_takes_any_number_of_views_and_gives_the_same_logits():
    classifier = build().eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(classifier, (torch.randn(2, 3, 8, 32, 32),), dynamic_shapes=(batch,))
    x = torch.randn(3, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), classifier(x), rtol=0, atol=1e-5)  # float32 rounding


def test_bfloat16_training_has_finite_gradients_near_those_of_float32():
    def gradients(enabled):
        classifier = build(num_frames=8, head="average", head_dropout=0.0)  # two steps in time in the last stage
        views = torch.randn(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = classifier(views)
        torch.nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])).backward()
        return {name: parameter.grad for name, parameter in classifier.named_parameters()}

    wanted, found = gradients(False), gradients(True)
    for name in (
        "trunk.layer4.0.conv1.0.3.weight",
        "trunk.layer4.0.conv2.0.3.weight",
        "head.classifier.weight",
    ):
        # 8 bits of mantissa through a dozen layers; a wrong kernel gives NaN or an unrelated direction
        assert torch.cosine_similarity(wanted[name].flatten(), found[name].flatten(), dim=0) > 0.95, name


def test_unknown_names_and_impossible_numbers_are_refused():
    known = ", ".join(TRUNKS)
    with pytest.raises(ValueError, match=f"unknown name 'resnet'; known names are {known}"):
        build("resnet")
    with pytest.raises(ValueError, match="head: unknown name 'max'; known names are attention, average"):
        build(head="max")
    with pytest.raises(ValueError, match="num_classes: found 0, wanted at least 1"):
        build(num_classes=0)
    with pytest.raises(ValueError, match="num_frames: found 0, wanted at least 1"):
        build(num_frames=0)
    with pytest.raises(ValueError, match=r"head_dropout: found 1\.5, wanted a number in \[0, 1\]"):
        build(head_dropout=1.5)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pretrained_trunk_is_loaded_and_the_head_kept(tmp_path, pretrained, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(pretrained, path) if suffix == ".safetensors" else torch.save(pretrained, path)
    classifier = build()
    head = copy_state(classifier.head)
    sha256 = load_weights(classifier, path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same({k: v for k, v in pretrained.items() if not k.startswith("fc.")}, classifier.trunk.state_dict())
    assert same(head, classifier.head.state_dict())


def test_old_form_of_torch_save_is_read(tmp_path, pretrained):
    path = tmp_path / "weights.pth"
    torch.save(pretrained, path, _use_new_zipfile_serialization=False)
    assert same(pretrained, read_state_dict(path)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update({"layer2.0.conv1.0.0.weight": torch.zeros(1, 2, 1, 3, 3)}),
            r"weights\.pth: trunk\.layer2\.0\.conv1\.0\.0\.weight: found shape \(1, 2, 1, 3, 3\), wanted \(32, 8, ",
        ),
        (
            lambda state: state.pop("stem.3.weight"),
            r"stem\.3\.weight: found no such entry, wanted shape \(8, ",
        ),
        (
            lambda state: state.update({"layer5.0.weight": torch.zeros(2)}),
            r"layer5\.0\.weight: found shape \(2,\), wanted no such entry; choose the backbone",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_their_first_differing_entry(tmp_path, pretrained, change, message):
    path = tmp_path / "weights.pth"
    change(pretrained)
    torch.save(pretrained, path)
    classifier = build()
    before = copy_state(classifier)
    with pytest.raises(ValueError, match=message):
        load_weights(classifier, path)
    assert same(before, classifier.state_dict())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_weights_cut_or_altered_anywhere_are_refused_or_read_as_tensors(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.arange(50.0), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=f"found {size} bytes (that|of)"):
            read_state_dict(path)
    rng = random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            state, _ = read_state_dict(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 - either outcome is right, another exception is not
        else:
            assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_cut_files_of_the_present_forms_are_refused(tmp_path, pretrained, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(pretrained, path) if suffix == ".safetensors" else torch.save(pretrained, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cut short or damaged; fetch the file again, wanted a state dict"):
        load_weights(build(), path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, torch.zeros(2)])
def test_other_objects_than_state_dicts_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"weights\.pth: found a \w+ .*wanted a state dict"):
        read_state_dict(path)


class Payload:
    """Unpickling this with code allowed would make a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("new_form", [True, False])
def test_a_crafted_pickle_is_refused_without_being_run(tmp_path, new_form):
    path, made = tmp_path / "weights.pth", tmp_path / "made"
    torch.save({"a": torch.zeros(2), "b": Payload(made)}, path, _use_new_zipfile_serialization=new_form)
    with pytest.raises(ValueError, match="a pickle of other objects than tensors, refused and not run; save") as error:
        read_state_dict(path)
    assert "weights_only" not in str(error.value)  # no advice to run it
    assert not made.exists()
    torch.load(path, weights_only=False)  # the payload works where code is allowed
    assert made.is_dir()


def test_a_file_of_other_classes_than_tensors_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(2), "b": random.Random}, path)
    with pytest.raises(ValueError, match="a pickle of other objects"):
        read_state_dict(path)


def test_a_web_page_under_the_name_is_no_checkpoint(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"found 22 bytes that are no checkpoint; check the path") as error:
        read_state_dict(path)
    assert "weights_only" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(ValueError, match="a: found values that are not finite"):
        read_state_dict(path)


def test_missing_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pth: no such weights; check the path"):
        load_weights(build(), tmp_path / "absent.pth")

"""Computing activations again on the way back changes no weight, no statistic and no draw, and keeps less of them."""

import pytest
import torch
from torch import nn

from pipeline.models.classifier import build_classifier
from pipeline.models.r2plus1d import r2plus1d_34
from pipeline.models.torchvision_trunks import r3d_18
from pipeline.training import activations
from pipeline.training.activations import blocks_of, checkpoint_activations

SIZES = {"r2plus1d_tiny": (4, 8, 32), "r3d_18": (2, 4, 32), "swin3d_b": (1, 4, 32)}  # clips, frames, side


def trained(name, *, checkpointed, precision="fp32", steps=2):
    """Weights and buffers after some steps with dropout, and the bytes that autograd kept in the last one."""
    classifier = build_classifier(name, num_classes=3, num_frames=SIZES[name][1], head_dropout=0.5, seed=0).train()
    if checkpointed:
        checkpoint_activations(classifier.trunk)
    weights = {parameter.untyped_storage().data_ptr() for parameter in classifier.parameters()}
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01)
    clips, frames, side = SIZES[name]
    torch.manual_seed(1)
    for _ in range(steps):
        kept = {}
        views = torch.randn(clips, 3, frames, side, side)

        def keep(tensor, kept=kept):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        ):
            logits = classifier(views).float()
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, torch.arange(clips) % 3).backward()
        optimizer.step()
    return classifier.state_dict(), sum(kept.values())


def same(first, second):
    assert first.keys() == second.keys()
    return all(first[name].numpy().tobytes() == second[name].numpy().tobytes() for name in first)


@pytest.mark.parametrize(
    ("name", "precision"), [("r2plus1d_tiny", "fp32"), ("r2plus1d_tiny", "bf16"), ("r3d_18", "fp32")]
)
def test_weights_and_running_statistics_are_the_same_bytes_and_less_is_kept(name, precision):
    plain, kept = trained(name, checkpointed=False, precision=precision)
    again, kept_less = trained(name, checkpointed=True, precision=precision)
    assert same(plain, again)
    assert any(name.endswith("num_batches_tracked") and int(value) == 2 for name, value in again.items())
    assert kept_less < kept / 2


@pytest.mark.slow
def test_random_depth_of_a_transformer_drops_the_same_blocks():
    plain, kept = trained("swin3d_b", checkpointed=False, steps=1)
    again, kept_less = trained("swin3d_b", checkpointed=True, steps=1)
    assert same(plain, again)
    assert kept_less < kept / 2


def test_statistics_that_are_updated_twice_would_be_seen(monkeypatch):
    plain, _ = trained("r2plus1d_tiny", checkpointed=False)
    monkeypatch.setattr(activations, "_statistics_kept", lambda block: activations.contextlib.nullcontext())
    twice, _ = trained("r2plus1d_tiny", checkpointed=True)
    assert not same(plain, twice)
    assert {int(value) for name, value in twice.items() if name.endswith("num_batches_tracked")} == {4}


def test_a_trunk_is_cut_into_its_stem_and_residual_blocks():
    for trunk, blocks in ((r2plus1d_34(), 16), (r3d_18(), 8)):
        found = list(blocks_of(trunk))
        assert found[0] is trunk.stem
        layers = [block for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4) for block in layer]
        assert found[1:] == layers
        assert len(layers) == blocks
        inside = {id(parameter) for block in found for parameter in block.parameters()}
        assert inside == {id(parameter) for parameter in trunk.parameters()}

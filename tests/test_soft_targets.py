"""The controls of distillation: what they keep of the teacher's logits, and what they take away."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.config import SOFT_TARGETS
from pipeline.distillation.soft_targets import gap_of_entropy, mean_entropy, soft_targets, within_classes

CLASSES = ("Jump", "Run", "Walk")
CLIPS = [SimpleNamespace(id=f"{CLASSES[n % 3]}/{n}.mp4", label=n % 3) for n in range(12)]
VIEWS = 2
EVERYONE = torch.arange(len(CLIPS))


@pytest.fixture
def store():
    """As a store answers, with logits that tell clip and view."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 6, (len(CLIPS), VIEWS, len(CLASSES))).astype(np.float32)
    places = {clip.id: place for place, clip in enumerate(CLIPS)}
    return SimpleNamespace(
        num_views=VIEWS,
        class_names=CLASSES,
        logits=logits,
        row=lambda name, view: SimpleNamespace(logits=logits[places[name], view]),
    )


def entropy_of(logits, temperature):
    soft = torch.softmax(logits.double() / temperature, dim=1)
    return -(soft * soft.log()).sum(dim=1)


def test_the_teachers_targets_are_the_stored_logits(store):
    targets = soft_targets("teacher", store, CLIPS, temperature=5.0, seed=0)
    for epoch in range(5):
        assert targets(EVERYONE, epoch).numpy().tolist() == store.logits[:, epoch % VIEWS].tolist()
    assert targets(torch.tensor([4, 1]), 3).numpy().tolist() == store.logits[[4, 1], 1].tolist()


def test_shuffled_targets_are_those_of_another_clip_of_the_class_each_once(store):
    targets = soft_targets("shuffled", store, CLIPS, temperature=5.0, seed=0)
    found, own = targets(EVERYONE, 0).numpy(), store.logits[:, 0]
    places = [next(place for place, row in enumerate(own) if (row == one).all()) for one in found]
    assert sorted(places) == list(range(len(CLIPS)))
    assert all(place != other for place, other in enumerate(places))
    assert all(CLIPS[place].label == CLIPS[other].label for place, other in enumerate(places))
    assert (targets(EVERYONE, 1).numpy() == store.logits[places, 1]).all()  # the same clip in all epochs
    again = soft_targets("shuffled", store, CLIPS, temperature=5.0, seed=0)
    other = soft_targets("shuffled", store, CLIPS, temperature=5.0, seed=1)
    assert torch.equal(again(EVERYONE, 0), targets(EVERYONE, 0))
    assert not torch.equal(other(EVERYONE, 0), targets(EVERYONE, 0))


def test_a_class_of_one_clip_cannot_be_shuffled():
    with pytest.raises(ValueError, match=r"soft_targets: shuffled: Walk/2\.mp4 is the only training clip"):
        within_classes(CLIPS[:5], seed=0)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_smoothed_targets_have_the_mean_entropy_of_the_stored_ones_and_the_label_first(store, temperature):
    targets = soft_targets("smoothed", store, CLIPS, temperature=temperature, seed=0)(EVERYONE, 0)
    stored = torch.from_numpy(store.logits).flatten(0, 1)
    wanted = float(entropy_of(stored, temperature).mean())
    assert mean_entropy(store, CLIPS, temperature=temperature) == pytest.approx(wanted, rel=1e-12)
    assert entropy_of(targets, temperature).tolist() == pytest.approx([wanted] * len(CLIPS), rel=1e-5)
    assert targets.argmax(dim=1).tolist() == [clip.label for clip in CLIPS]
    # Label smoothing: all other classes share alike.
    soft = torch.softmax(targets.double() / temperature, dim=1).sort(dim=1).values
    assert torch.allclose(soft[:, 0], soft[:, 1], rtol=1e-9)
    assert targets.dtype == torch.float32


@pytest.mark.parametrize("classes", [2, 11, 700])
def test_the_gap_gives_its_entropy_back(classes):
    assert gap_of_entropy(math.log(classes), classes) == pytest.approx(0, abs=1e-6)
    for share in (0.01, 0.3, 0.9):
        gap = gap_of_entropy(share * math.log(classes), classes)
        logits = torch.zeros(1, classes, dtype=torch.float64)
        logits[0, 0] = gap
        assert float(entropy_of(logits, 1.0)) == pytest.approx(share * math.log(classes), rel=1e-9)
        eps = classes / (classes - 1 + math.exp(gap))
        assert float(torch.softmax(logits, dim=1)[0, 0]) == pytest.approx(1 - eps + eps / classes, rel=1e-9)


def test_an_unknown_kind_is_refused(store):
    with pytest.raises(ValueError, match=f"found 'labels', wanted one of {', '.join(SOFT_TARGETS)}"):
        soft_targets("labels", store, CLIPS, temperature=5.0, seed=0)

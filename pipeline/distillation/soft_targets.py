"""What a student is taught by: its teacher's logits, or controls that keep some of what they hold and take the rest.

Smoothed labels soften by the same mean entropy and know nothing of the teacher. Shuffled logits know which classes it
finds alike, and nothing of the clip. A student's gain over them is of what they lack.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.clips.clip_index import Clip
from pipeline.config import SOFT_TARGETS
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.replay import stored_logits

HALVINGS = 60


class SoftTargets(Protocol):
    """Gives the logits of a batch's soft targets."""

    def __call__(self, indices: Tensor, epoch: int) -> Tensor:
        """(B,) positions among the training clips, and an epoch from 0 -> float32 (B, K)."""
        ...


def soft_targets(kind: str, store: LogitStore, clips: Sequence[Clip], *, temperature: float, seed: int) -> SoftTargets:
    """The soft targets of a kind.

    Args:
        kind: teacher, the stored logits; smoothed, the labels smoothed to the mean entropy of the stored soft
            targets; or shuffled, the stored logits of another clip of the same class, the same one in all epochs.
        store: the teacher's logits.
        clips: the training clips.
        temperature: tau, at which the entropy is the same, above 0.
        seed: of the shuffling.

    Raises:
        ValueError: an unknown kind, or a class of one clip, which cannot be shuffled.
    """
    if kind == "teacher":
        return _Stored(store=store, clips=clips)
    if kind == "shuffled":
        return _Stored(store=store, clips=within_classes(clips, seed=seed))
    if kind == "smoothed":
        entropy = mean_entropy(store, clips, temperature=temperature)
        gap = temperature * gap_of_entropy(entropy, len(store.class_names))
        return _Smoothed(labels=torch.tensor([clip.label for clip in clips]), gap=gap, width=len(store.class_names))
    raise ValueError(f"student.soft_targets: found {kind!r}, wanted one of {', '.join(SOFT_TARGETS)}")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    store: LogitStore
    clips: Sequence[Clip]

    def __call__(self, indices: Tensor, epoch: int) -> Tensor:
        return stored_logits(self.store, self.clips, indices, epoch)


@dataclass(frozen=True, kw_only=True)
class _Smoothed:
    labels: Tensor
    gap: float
    width: int

    def __call__(self, indices: Tensor, epoch: int) -> Tensor:
        return self.gap * torch.nn.functional.one_hot(self.labels[indices], self.width).float()


def within_classes(clips: Sequence[Clip], *, seed: int) -> list[Clip]:
    """For every clip another one of its class, each exactly once.

    Raises:
        ValueError: a class has one clip alone.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    others = list(clips)
    for label in sorted({clip.label for clip in clips}):
        own = [position for position, clip in enumerate(clips) if clip.label == label]
        if len(own) == 1:
            raise ValueError(
                f"student.soft_targets: shuffled: {clips[own[0]].id} is the only training clip of its class; take "
                "teacher or smoothed"
            )
        order = rng.permutation(own).tolist()
        for position, other in zip(order, [*order[1:], order[0]], strict=True):
            others[position] = clips[other]
    return others


def mean_entropy(store: LogitStore, clips: Sequence[Clip], *, temperature: float) -> float:
    """Entropy in nats of softmax(logits / temperature), averaged over all views of the clips."""
    everyone = torch.arange(len(clips))
    views = [stored_logits(store, clips, everyone, view) for view in range(store.num_views)]
    soft = (torch.cat(views).double() / temperature).log_softmax(dim=1)
    return float(-(soft.exp() * soft).sum(dim=1).mean())


def gap_of_entropy(entropy: float, classes: int) -> float:
    """How far one class's logit stands above all others, which are equal, where the softmax has this entropy.

    Args:
        entropy: in nats, from 0 to log(classes).
        classes: K, at least 2.

    Returns:
        At least 0. With it the label's share is 1 - eps + eps / K, and each other's is eps / K, where
        eps = K / (K - 1 + exp(gap)): label smoothing.
    """
    low, high = 0.0, 100.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _entropy_of_gap(middle, classes) > entropy else (low, middle)
    return (low + high) / 2


def _entropy_of_gap(gap: float, classes: int) -> float:
    share = 1 / (1 + (classes - 1) * np.exp(-gap))
    other = np.exp(-gap) * share
    return float(np.log1p((classes - 1) * np.exp(-gap)) + (classes - 1) * other * gap)

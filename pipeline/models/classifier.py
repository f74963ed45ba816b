"""A classifier of views: a trunk and a head, built by name from a seed; and reading pretrained weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from pipeline.models.r2plus1d import r2plus1d_18, r2plus1d_34, r2plus1d_tiny
from pipeline.models.state_dicts import check_state_dict, read_state_dict, to_classifier_names
from pipeline.models.temporal_attention import AverageHead, TemporalAttention
from pipeline.models.torchvision_trunks import mc3_18, r3d_18, swin3d_b


class Trunk(Protocol):
    """What a feature network says of itself; its call maps (B, 3, T, H, W) to (B, C, T', H', W')."""

    feature_channels: int
    """C."""

    def num_time_tokens(self, num_frames: int) -> int:
        """T' of T frames."""
        ...


TRUNKS: dict[str, Callable[..., nn.Module]] = {
    "r2plus1d_18": r2plus1d_18,
    "r2plus1d_34": r2plus1d_34,
    "r2plus1d_tiny": r2plus1d_tiny,
    "r3d_18": r3d_18,
    "mc3_18": mc3_18,
    "swin3d_b": swin3d_b,
}
"""Trunk builders by name; each takes `bn_momentum`."""

HEADS = ("attention", "average")

# How much of a pretrained file is used -> what is left out, by the names of Classifier.
PARTS = {"backbone": ("head.",), "head": ("head.classifier.",), "classifier": ()}


class Classifier(nn.Module):
    """A trunk followed by a head, for one stream of views or for two that share the trunk."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor, second: Tensor | None = None) -> Tensor:
        """Classify a batch of views.

        Args:
            x: float32 (B, 3, T, H, W), normalised colours.
            second: the second stream, of the same shape: its features follow the first one's in time, so that the
                head sees twice as many steps (DarkLight). Each stream passes the trunk by itself, since in
                training batch normalisation has to see them apart.

        Returns:
            Logits (B, K).
        """
        features = self.trunk(x)
        if second is not None:
            features = torch.cat([features, self.trunk(second)], dim=2)  # (B, C, T', H', W') -> (B, C, 2 T', H', W')
        return cast(Tensor, self.head(features))


def build_classifier(
    name: str,
    *,
    num_classes: int,
    num_frames: int,
    head: str = "attention",
    head_dropout: float,
    keep_probability: float = 1.0,
    bn_momentum: float = 0.1,
    streams: int = 1,
    seed: int,
) -> Classifier:
    """Build a classifier on the CPU. Its first weights are a function of the arguments alone.

    Args:
        name: of the trunk, a key of `TRUNKS`.
        num_classes: K.
        num_frames: T of the views; the attention head has a position for each of their steps in time.
        head: "attention" or "average" (over time and space).
        head_dropout: before the last linear layer, in [0, 1].
        keep_probability: of the attention head's tokens in training, in (0, 1]; 1 masks nothing.
        bn_momentum: weight of the new batch in the running statistics.
        streams: 1, or 2 for a head that sees the steps in time of two streams.
        seed: of the first weights.

    Raises:
        ValueError: the trunk or the head is unknown, or a number is out of its range.
    """
    if name not in TRUNKS:
        raise ValueError(f"backbone: unknown name {name!r}; known names are {', '.join(TRUNKS)}")
    if head not in HEADS:
        raise ValueError(f"head: unknown name {head!r}; known names are {', '.join(HEADS)}")
    for field, value in (("num_classes", num_classes), ("num_frames", num_frames)):
        if value < 1:
            raise ValueError(f"{field}: found {value}, wanted at least 1")
    if streams not in (1, 2):
        raise ValueError(f"streams: found {streams}, wanted 1 or 2")
    if not 0 <= head_dropout <= 1:
        raise ValueError(f"head_dropout: found {head_dropout}, wanted a number in [0, 1]; 0 drops nothing")
    # The first weights come from the CPU's generator alone; torch.manual_seed would reseed the GPUs' too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        trunk = TRUNKS[name](bn_momentum=bn_momentum)
        about = cast(Trunk, trunk)
        channels = about.feature_channels
        if head == "average":
            return Classifier(trunk, AverageHead(channels, num_classes, classifier_dropout=head_dropout))
        attention = TemporalAttention(
            channels,
            streams * about.num_time_tokens(num_frames),
            num_classes,
            classifier_dropout=head_dropout,
            keep_probability=keep_probability,
        )
        return Classifier(trunk, attention)


def load_weights(classifier: Classifier, path: Path, *, up_to: str = "backbone") -> str:
    """Start a classifier from a pretrained file.

    Args:
        classifier: changed in place, and only if every entry fits.
        path: `.pth` or `.safetensors`; see `to_classifier_names` for the names that are known.
        up_to: "backbone" takes the trunk alone; "head" also the head but for its last linear layer; "classifier"
            takes all. What the file holds beyond that is left out, anything else that does not fit is refused.

    Returns:
        The file's sha256, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file holds no state dict, or that of another network; names the first entry that differs.
    """
    if up_to not in PARTS:
        raise ValueError(f"weights_up_to: found '{up_to}', wanted one of {', '.join(PARTS)}")
    state, sha256 = read_state_dict(path)
    found, wanted = (
        {key: value for key, value in entries.items() if not key.startswith(PARTS[up_to])}
        for entries in (to_classifier_names(state), classifier.state_dict())
    )
    check_state_dict(
        found, wanted, path, remedy="choose the backbone and head that the file was made for, or weights_up_to"
    )
    classifier.load_state_dict(found, strict=False)  # the check above was the strict one
    return sha256

"""A classifier of views: a trunk and a head, built by name from a seed; and reading pretrained weights."""

import hashlib
import io
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.models.r2plus1d import R2Plus1D, r2plus1d_18, r2plus1d_34, r2plus1d_tiny
from pipeline.models.temporal_attention import AverageHead, TemporalAttention

TRUNKS: dict[str, Callable[..., R2Plus1D]] = {
    "r2plus1d_18": r2plus1d_18,
    "r2plus1d_34": r2plus1d_34,
    "r2plus1d_tiny": r2plus1d_tiny,
}
"""Trunk builders by name; each takes `bn_momentum`."""

HEADS = ("attention", "average")


_DAMAGED = (
    safetensors.SafetensorError,
    pickle.UnpicklingError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What the readers raise on cut or altered files; torch unpickles them step by step, so nearly anything."""


class Classifier(nn.Module):
    """A trunk followed by a head."""

    def __init__(self, trunk: R2Plus1D, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Classify a batch of views.

        Args:
            x: float32 (B, 3, T, H, W), normalised colours.

        Returns:
            Logits (B, K).
        """
        return cast(Tensor, self.head(self.trunk(x)))


def build_classifier(
    name: str,
    *,
    num_classes: int,
    num_frames: int,
    head: str = "attention",
    head_dropout: float,
    keep_probability: float = 1.0,
    bn_momentum: float = 0.1,
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
    if not 0 <= head_dropout <= 1:
        raise ValueError(f"head_dropout: found {head_dropout}, wanted a number in [0, 1]; 0 drops nothing")
    # The first weights come from the CPU's generator alone; torch.manual_seed would reseed the GPUs' too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        trunk = TRUNKS[name](bn_momentum=bn_momentum)
        channels = trunk.feature_channels
        if head == "average":
            return Classifier(trunk, AverageHead(channels, num_classes, classifier_dropout=head_dropout))
        attention = TemporalAttention(
            channels,
            trunk.num_time_tokens(num_frames),
            num_classes,
            classifier_dropout=head_dropout,
            keep_probability=keep_probability,
        )
        return Classifier(trunk, attention)


def load_trunk(classifier: Classifier, path: Path) -> str:
    """Start the trunk from a pretrained state dict; the head stays as it is.

    Args:
        classifier: changed in place, and only if every entry fits.
        path: `.pth` or `.safetensors`, with torchvision's flat names; entries of its own last layer (`fc.`,
            `classifier.`) are dropped.

    Returns:
        The file's sha256, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file holds no state dict, or that of another network.
    """
    state, sha256 = read_state_dict(path)
    state = {key: value for key, value in state.items() if not key.startswith(("fc.", "classifier."))}
    check_state_dict(
        state, classifier.trunk.state_dict(), path, remedy="choose the backbone that the file was made for"
    )
    classifier.trunk.load_state_dict(state)
    return sha256


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read a state dict onto the CPU, never running code from the file.

    Args:
        path: `.safetensors`, or what `torch.save` wrote, in its new form or the old one.

    Returns:
        The tensors by key, and the file's sha256 in hexadecimal.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such weights; check the path in params.yaml")
    data = path.read_bytes()
    wanted = "wanted a state dict: tensors by name"
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load(data)
        else:
            state = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except _DAMAGED as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path}: found {len(data)} bytes that do not load ({reason}), {wanted}; "
            "fetch the file again, or save model.state_dict() anew"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ValueError(f"{path}: found a {type(state).__name__} of other things, {wanted}; save model.state_dict()")
    return dict(state), hashlib.sha256(data).hexdigest()


def check_state_dict(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, *, remedy: str) -> None:
    """Check that two state dicts have the same keys and shapes.

    Args:
        found: of the file.
        wanted: of the network.
        path: of the file, for the message.
        remedy: what to do about it, for the message.

    Raises:
        ValueError: names the first entry that differs, in the network's order, and then in the file's.
    """
    for key, tensor in wanted.items():
        shape = tuple(tensor.shape)
        if key not in found:
            raise ValueError(f"{path}: {key}: found no such entry, wanted shape {shape}; {remedy}")
        if found[key].shape != tensor.shape:
            raise ValueError(f"{path}: {key}: found shape {tuple(found[key].shape)}, wanted {shape}; {remedy}")
    for key, tensor in found.items():
        if key not in wanted:
            raise ValueError(f"{path}: {key}: found shape {tuple(tensor.shape)}, wanted no such entry; {remedy}")

"""From the uint8 pixels of views to logits: scaling, optional enhancement, normalisation, classifier."""

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# (mean, std) of R, G, B in [0, 1].
NORMALIZATIONS = {
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),  # Kinetics-400, torchvision's video nets
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's image nets
}

ENHANCED_AT_ONCE = 16
"""Frames that pass through the enhancer together: its memory must not grow with T."""

PRECISIONS = ("fp32", "bf16")
"""What convolutions and matrix products compute in."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std of R, G, B in [0, 1]."""


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")


class Recogniser(nn.Module):
    """A classifier with everything before it that happens on the device."""

    mean: Tensor
    std: Tensor
    dark_mean: Tensor
    dark_std: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        enhancer: nn.Module | None = None,
        train_enhancer: bool = False,
        dark_stream: Statistics | None = None,
        remove_temporal_mean: bool = False,
        enhanced_at_once: int = ENHANCED_AT_ONCE,
        precision: str = "fp32",
    ) -> None:
        """Keep the parts.

        Args:
            classifier: float32 (B, 3, T, S, S), normalised -> logits (B, K).
            mean: of R, G, B in [0, 1].
            std: of R, G, B in [0, 1], above 0.
            enhancer: dark frames (N, 3, S, S) in [0, 1] -> enhanced frames; None sees the frames as they are.
            train_enhancer: let gradients through the enhancer; otherwise it is frozen.
            dark_stream: mean and std of the dark frames, for a classifier of two streams: it is called with the
                dark views first and the enhanced ones second.
            remove_temporal_mean: subtract each pixel's mean over a view's frames from them, last of all before the
                classifier: what stands still becomes zero, and a scene cannot be learnt by heart.
            enhanced_at_once: frames that pass the enhancer together.
            precision: "fp32", or "bf16" for convolutions and matrix products in bfloat16, of the enhancer too: that
                moves the frames of Zero-DCE by about half an 8-bit code at most. Weights and their gradients, the
                scaling of colours and the logits stay float32.

        Raises:
            ValueError: two streams without an enhancer, or an unknown precision.
        """
        _check_precision(precision)
        if dark_stream is not None and enhancer is None:
            raise ValueError("dark_stream: two streams need an enhancer, found none; give one or leave it out")
        super().__init__()
        self.classifier = classifier
        self.enhancer = enhancer
        self.train_enhancer = train_enhancer
        self.remove_temporal_mean = remove_temporal_mean
        self.enhanced_at_once = enhanced_at_once
        self.precision = precision
        self.two_streams = dark_stream is not None
        if enhancer is not None:
            enhancer.requires_grad_(train_enhancer)
        dark_mean, dark_std = (mean, std) if dark_stream is None else dark_stream
        for name, values in (("mean", mean), ("std", std), ("dark_mean", dark_mean), ("dark_std", dark_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of views.

        Args:
            pixels: uint8 (B, T, S, S, 3), RGB.

        Returns:
            float32 (B, K), before softmax.
        """
        frames = pixels.permute(0, 1, 4, 2, 3).float() / 255.0  # (B, T, H, W, C) -> (B, T, C, H, W)
        with self._in_precision(pixels.device):
            seen = frames if self.enhancer is None else self._enhance(frames).float()
        views = (seen.transpose(1, 2) - self.mean) / self.std  # (B, T, C, H, W) -> (B, C, T, H, W)
        streams: tuple[Tensor, ...] = (views,)
        if self.two_streams:
            streams = ((frames.transpose(1, 2) - self.dark_mean) / self.dark_std, views)
        if self.remove_temporal_mean:
            streams = tuple(stream - stream.mean(dim=2, keepdim=True) for stream in streams)
        with self._in_precision(pixels.device):
            logits: Tensor = self.classifier(*streams)
        return logits.float()

    def with_classifier(self, classifier: nn.Module, *, precision: str) -> "Recogniser":
        """The same recogniser around another classifier, on its device; the enhancer is a copy, and frozen.

        Raises:
            ValueError: unknown precision.
        """
        _check_precision(precision)
        # What stands in the memo is not copied: a copy has the other classifier.
        other = copy.deepcopy(self, {id(self.classifier): classifier})
        other.precision, other.train_enhancer = precision, False
        if other.enhancer is not None:
            other.enhancer.requires_grad_(False)
        return other.to(self.mean.device)

    def _in_precision(self, device: torch.device) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)

    def _enhance(self, frames: Tensor) -> Tensor:
        assert self.enhancer is not None
        flat = frames.flatten(0, 1)  # (B, T, C, H, W) -> (B * T, C, H, W)
        chunks = torch.split(flat, self.enhanced_at_once)
        if self.train_enhancer and torch.is_grad_enabled():
            # Done again on the way back instead of kept: 64 frames' maps would be larger than the classifier's.
            return torch.cat([checkpoint(self.enhancer, chunk, use_reentrant=False) for chunk in chunks]).view_as(
                frames
            )
        with torch.no_grad():
            return torch.cat([self.enhancer(chunk) for chunk in chunks]).view_as(frames)

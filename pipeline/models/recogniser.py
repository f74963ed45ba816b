"""From the uint8 pixels of views to logits: scaling, optional enhancement, normalisation, classifier."""

import torch
from torch import Tensor, nn

# (mean, std) of R, G, B in [0, 1].
NORMALIZATIONS = {
    "kinetics": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),  # Kinetics-400, torchvision's video nets
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision's image nets
}

ENHANCED_AT_ONCE = 16
"""Frames that pass through the enhancer together where no gradient is wanted: memory must not grow with T."""


class Recogniser(nn.Module):
    """A classifier with everything before it that happens on the device."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        enhancer: nn.Module | None = None,
        train_enhancer: bool = False,
    ) -> None:
        """Keep the parts.

        Args:
            classifier: float32 (B, 3, T, S, S), normalised -> logits (B, K).
            mean: of R, G, B in [0, 1].
            std: of R, G, B in [0, 1], above 0.
            enhancer: dark frames (N, 3, S, S) in [0, 1] -> enhanced frames; None sees the frames as they are.
            train_enhancer: let gradients through the enhancer; otherwise it is frozen.
        """
        super().__init__()
        self.classifier = classifier
        self.enhancer = enhancer
        self.train_enhancer = train_enhancer
        if enhancer is not None:
            enhancer.requires_grad_(train_enhancer)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of views.

        Args:
            pixels: uint8 (B, T, S, S, 3), RGB.

        Returns:
            float32 (B, K), before softmax.
        """
        frames = pixels.permute(0, 1, 4, 2, 3).float() / 255.0  # (B, T, H, W, C) -> (B, T, C, H, W)
        if self.enhancer is not None:
            frames = self._enhance(frames)
        views = frames.transpose(1, 2)  # (B, T, C, H, W) -> (B, C, T, H, W)
        logits: Tensor = self.classifier((views - self.mean) / self.std)
        return logits

    def _enhance(self, frames: Tensor) -> Tensor:
        assert self.enhancer is not None
        flat = frames.flatten(0, 1)  # (B, T, C, H, W) -> (B * T, C, H, W)
        if self.train_enhancer:
            return torch.as_tensor(self.enhancer(flat)).view_as(frames)
        with torch.no_grad():
            enhanced = torch.cat([self.enhancer(chunk) for chunk in torch.split(flat, ENHANCED_AT_ONCE)])
        return enhanced.view_as(frames)

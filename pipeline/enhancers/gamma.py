"""Gamma intensity correction (GIC): every value to the power of 1 / gamma."""

import torch
from torch import Tensor, nn


class Gamma(nn.Module):
    """GIC, exact or by DarkLight's table of 8-bit codes.

    Args:
        gamma: above 0; above 1 brightens. DarkLight's README has 1.8, the script that comes with ARID 10.
        table: round the frame to 8-bit codes v and give floor(255 (v / 255)^(1 / gamma)), as DarkLight does;
            otherwise the power itself, without any rounding.

    Raises:
        ValueError: gamma is not above 0.
    """

    codes: Tensor

    def __init__(self, *, gamma: float, table: bool = False) -> None:
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"enhancer.gamma: found {gamma}, wanted a number above 0; 1 changes nothing")
        self.gamma = gamma
        self.table = table
        powers = (torch.arange(256, dtype=torch.float64) / 255) ** (1 / gamma)
        # No part of the state dict: it follows from gamma.
        self.register_buffer("codes", (255 * powers).floor().float() / 255, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Enhance frames, float32 (N, 3, H, W) in [0, 1]; same shape, range, device and dtype."""
        if not self.table:
            return frames ** (1 / self.gamma)
        return self.codes[(frames * 255).round().long()].to(frames.dtype)

    def extra_repr(self) -> str:
        """The settings, for print and for the enhancer's key."""
        return f"gamma={self.gamma}, table={self.table}"

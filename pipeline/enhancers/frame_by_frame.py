"""What the methods without weights have in common: they take one frame at a time, on the CPU."""

import abc

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Pixels = NDArray[np.float64]
"""One frame, (H, W, 3), RGB in [0, 1]; or one value a pixel, (H, W)."""


class FrameByFrame(nn.Module, abc.ABC):
    """An enhancer that works on NumPy arrays. Subclasses say what happens to a frame in `enhance_frame`."""

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Enhance frames, float32 (N, 3, H, W) in [0, 1]; same shape, range, device and dtype, no gradient."""
        enhanced = torch.empty_like(frames)
        for index, frame in enumerate(frames):
            pixels = frame.permute(1, 2, 0).cpu().double().numpy()  # (C, H, W) -> (H, W, C)
            bright = torch.from_numpy(self.enhance_frame(pixels))
            enhanced[index] = bright.permute(2, 0, 1).to(frames)  # (H, W, C) -> (C, H, W)
        return enhanced

    @abc.abstractmethod
    def enhance_frame(self, frame: Pixels) -> Pixels:
        """Enhance one frame, float64 (H, W, 3) in [0, 1]; the result has the same shape and range."""


def periodic_difference(values: Pixels) -> Pixels:
    """The next pixel's value less the pixel's own, (2, H, W): down, then right; the last is followed by the first.

    Args:
        values: (H, W).
    """
    return np.stack([np.roll(values, -1, axis=axis) - values for axis in (0, 1)])


def periodic_difference_transposed(differences: Pixels) -> Pixels:
    """The transpose of `periodic_difference` as a matrix, (2, H, W) -> (H, W)."""
    total: Pixels = sum(
        (np.roll(part, 1, axis=axis) - part for axis, part in enumerate(differences)),
        start=np.zeros(differences.shape[1:]),
    )
    return total


def shrink(values: Pixels, threshold: Pixels | float) -> Pixels:
    """Move values towards 0 by a threshold >= 0, and to 0 where they lie closer: the step of an L1 norm in ADMM."""
    shrunk: Pixels = np.sign(values) * np.maximum(np.abs(values) - threshold, 0.0)
    return shrunk

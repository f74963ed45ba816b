"""LIME: divide a frame by its illumination, a map that is smoothed but for its own edges.

Guo, Li and Ling, "LIME: Low-Light Image Enhancement via Illumination Map Estimation", IEEE TIP 2017 (on the web
2016). The first guess of the illumination is T0 = max(R, G, B); the map is the T that minimises

    ||T - T0||^2 + alpha ||W * grad T||_1,    W = 1 / (|grad T0| + 1)    (the paper's weight strategy 2)

by ADMM, and the frame becomes frame / T^gamma. Numbers are those of the script that comes with ARID (alpha 0.1,
rho 2, gamma 0.7, first penalty 1, a 1 in the weight's denominator), which are not all the paper's. Two things differ
from that script: it solves for T with an approximation of the Laplacian in one dimension, here it is the true one
of the periodic frame in two; and T is kept at or above one 8-bit code, so that a black frame divides by something.
"""

import numpy as np
import scipy.fft

from pipeline.enhancers.frame_by_frame import (
    FrameByFrame,
    Pixels,
    periodic_difference,
    periodic_difference_transposed,
    shrink,
)

LEAST = 1 / 255
"""Smallest illumination that a frame is divided by: one 8-bit code."""

STOP = 1e-3
"""ADMM ends where ||grad T - G|| is at most this share of ||T0||."""

MOST_ROUNDS = 40
"""The penalty doubles each round, so that it ends long before; the bound only makes sure."""


class Lime(FrameByFrame):
    """LIME.

    Args:
        alpha: weight of the illumination's smoothness.
        rho: what the penalty is multiplied by each round, above 1.
        gamma: exponent of the illumination; below 1 brightens less.
    """

    def __init__(self, *, alpha: float = 0.1, rho: float = 2.0, gamma: float = 0.7) -> None:
        super().__init__()
        self.alpha = alpha
        self.rho = rho
        self.gamma = gamma

    def enhance_frame(self, frame: Pixels) -> Pixels:
        """Divide by the illumination, clipped to [0, 1]; see FrameByFrame."""
        illumination = smooth_illumination(frame.max(axis=2), alpha=self.alpha, rho=self.rho)
        divisor = np.clip(illumination, LEAST, 1.0) ** self.gamma
        return np.clip(frame / divisor[..., None], 0.0, 1.0)

    def extra_repr(self) -> str:
        """The settings, for print and for the enhancer's key."""
        return f"alpha={self.alpha}, rho={self.rho}, gamma={self.gamma}"


def smooth_illumination(rough: Pixels, *, alpha: float, rho: float) -> Pixels:
    """Find T by ADMM: the T step, the shrinkage of its gradient G, the multiplier Z, a larger penalty.

    Args:
        rough: T0, (H, W) in [0, 1].
        alpha: weight of the L1 norm.
        rho: growth of the penalty, above 1.

    Returns:
        T, (H, W); not clipped.
    """
    threshold = alpha / (np.abs(periodic_difference(rough)) + 1.0)
    wanted = STOP * float(np.linalg.norm(rough))
    gradient = np.zeros((2, *rough.shape))
    multiplier = np.zeros_like(gradient)
    penalty, smooth = 1.0, rough
    for _ in range(MOST_ROUNDS):
        smooth = illumination_step(rough, penalty * gradient - multiplier, penalty=penalty)
        found = periodic_difference(smooth)
        gradient = shrink(found + multiplier / penalty, threshold / penalty)
        multiplier = multiplier + penalty * (found - gradient)
        penalty *= rho
        if float(np.linalg.norm(found - gradient)) <= wanted:
            break
    return smooth


def illumination_step(rough: Pixels, pull: Pixels, *, penalty: float) -> Pixels:
    """Solve (2 + u D'D) T = 2 T0 + D' (u G - Z) by Fourier transform, with D the periodic differences.

    Args:
        rough: T0, (H, W).
        pull: u G - Z, (2, H, W).
        penalty: u, above 0.

    Returns:
        T, (H, W).
    """
    height, width = rough.shape
    # |e^iw - 1|^2 = 2 - 2 cos w: what a periodic difference does to the amplitude of frequency w, squared
    down = 2 - 2 * np.cos(2 * np.pi * scipy.fft.fftfreq(height))
    right = 2 - 2 * np.cos(2 * np.pi * scipy.fft.rfftfreq(width))
    right_side = 2 * rough + periodic_difference_transposed(pull)
    spectrum = scipy.fft.rfft2(right_side) / (2 + penalty * (down[:, None] + right))
    solved: Pixels = scipy.fft.irfft2(spectrum, s=rough.shape)
    return solved

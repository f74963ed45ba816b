"""Retinex: separate a frame into reflectance and illumination, and brighten the illumination alone.

Fu, Zeng, Huang, Zhang and Ding, "A Weighted Variational Model for Simultaneous Reflectance and Illumination
Estimation", CVPR 2016. V, the largest of R, G and B, is a product; with s = log V, r = log reflectance and
l = log illumination the model is

    min ||r + l - s||^2 + c1 ||e^r . grad r||_1 + c2 ||e^l . grad l||^2    with r <= 0 and s <= l.

The weights e^r and e^l are those of the previous round, which makes each round's problem convex; a split d for the
L1 term (ADMM, penalty c1 lambda) leaves two linear systems, one for r and one for l, and the bounds are kept by
cutting. The brightened value is e^r . 255 (e^l / 255)^(1 / 2.2); hue and saturation stay, so that R, G and B are
multiplied by what V is multiplied by.

c1 = 0.01, c2 = 0.1, lambda = 1, gamma 2.2 and the stop at relative changes of 1e-3 are what a public
re-implementation gives as the paper's; the paper itself was not at hand. Three things are uncertain, and were decided
here:

* V counts in 8-bit codes, 1 to 255. In [0, 1] a dark frame's e^l is so small that nothing is smoothed, and the
  method becomes plain gamma 2.2.
* The systems are solved with the weight of every pixel. The paper solves them by Fourier transform, which
  takes one weight a frame; frames do not wrap round here.
* At most 15 rounds, as in a public re-implementation. They have not settled by then: r still changes by some
  percent a round, and further rounds smooth the illumination more and dim the picture (two dark frames of ARID
  have a mean of 0.23 and 0.22 after 15 rounds, and of 0.17 after 60).
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from pipeline.enhancers.frame_by_frame import FrameByFrame, Pixels, shrink

WHITE = 255.0
"""The largest code; 1 is the smallest value that has a logarithm here."""

STOP = 1e-3
"""Relative change of r and of l between rounds below which the rounds end."""

ACCURACY = 1e-6
"""Residual of a linear system, as a share of its right side. Far below what 8 bits show."""

Vector = NDArray[np.float64]


class Retinex(FrameByFrame):
    """The weighted variational model.

    Args:
        reflectance_weight: c1.
        illumination_weight: c2.
        penalty: lambda, of the split.
        gamma: the illumination is taken to the power of 1 / gamma; above 1 brightens.
        rounds: most rounds.
    """

    def __init__(
        self,
        *,
        reflectance_weight: float = 0.01,
        illumination_weight: float = 0.1,
        penalty: float = 1.0,
        gamma: float = 2.2,
        rounds: int = 15,
    ) -> None:
        super().__init__()
        self.reflectance_weight = reflectance_weight
        self.illumination_weight = illumination_weight
        self.penalty = penalty
        self.gamma = gamma
        self.rounds = rounds

    def enhance_frame(self, frame: Pixels) -> Pixels:
        """Brighten the illumination, clipped to [0, 1]; see FrameByFrame."""
        codes = np.maximum(frame.max(axis=2) * WHITE, 1.0)
        reflectance, illumination = separate(
            np.log(codes),
            reflectance_weight=self.reflectance_weight,
            illumination_weight=self.illumination_weight,
            penalty=self.penalty,
            rounds=self.rounds,
        )
        bright = np.exp(reflectance) * WHITE * (np.exp(illumination) / WHITE) ** (1 / self.gamma)
        enhanced: Pixels = np.clip(frame * (bright / codes)[..., None], 0.0, 1.0)
        return enhanced

    def extra_repr(self) -> str:
        """The settings, for print and for the enhancer's key."""
        return (
            f"reflectance_weight={self.reflectance_weight}, illumination_weight={self.illumination_weight}, "
            f"penalty={self.penalty}, gamma={self.gamma}, rounds={self.rounds}"
        )


def separate(
    logs: Pixels, *, reflectance_weight: float, illumination_weight: float, penalty: float, rounds: int
) -> tuple[Pixels, Pixels]:
    """Separate logarithms into those of reflectance and illumination.

    Args:
        logs: s, (H, W), of codes in [1, 255].
        reflectance_weight: c1.
        illumination_weight: c2.
        penalty: lambda.
        rounds: most rounds.

    Returns:
        r and l, (H, W) each, r <= 0 and l >= s.
    """
    differences = _differences(*logs.shape)
    s: Vector = logs.ravel()
    r, light = np.zeros_like(s), s.copy()
    multiplier: Vector = np.zeros(differences.shape[0])
    strength = reflectance_weight * penalty
    for _ in range(rounds):
        # A pixel's weight is that of both its differences, down and right.
        r_weights, light_weights = np.tile(np.exp(r), 2), np.tile(np.exp(light), 2)
        split = shrink(r_weights * (differences @ r) + multiplier, 1 / (2 * penalty))
        pulled = differences.T @ (r_weights * (split - multiplier))
        new_r = np.minimum(_solve(differences, strength * r_weights**2, s - light + strength * pulled, start=r), 0.0)
        multiplier = multiplier + r_weights * (differences @ new_r) - split
        new_light = np.maximum(_solve(differences, illumination_weight * light_weights**2, s - new_r, start=light), s)
        settled = _change(r, new_r) <= STOP and _change(light, new_light) <= STOP
        r, light = new_r, new_light
        if settled:
            break
    return r.reshape(logs.shape), light.reshape(logs.shape)


def _differences(height: int, width: int) -> scipy.sparse.csr_array:
    """The matrix of all differences to the next pixel, down and then right, 0 for the last; (2 H W, H W)."""

    def along(length: int) -> scipy.sparse.csr_array:
        own = -np.ones(length)
        own[-1] = 0.0
        return scipy.sparse.diags_array([own, np.ones(length - 1)], offsets=[0, 1], shape=(length, length)).tocsr()

    down = scipy.sparse.kron(along(height), scipy.sparse.eye_array(width))
    right = scipy.sparse.kron(scipy.sparse.eye_array(height), along(width))
    return scipy.sparse.vstack([down, right]).tocsr()


def _solve(differences: scipy.sparse.csr_array, weights: Vector, right_side: Vector, *, start: Vector) -> Vector:
    """Solve (1 + D' weights D) x = right side by conjugate gradients, faster here than factors of the matrix."""
    pixels = right_side.size
    matrix = scipy.sparse.eye_array(pixels) + differences.T @ scipy.sparse.diags_array(weights) @ differences
    # The diagonal alone as preconditioner: weights differ by up to 255^2 between dark and bright pixels.
    preconditioner = scipy.sparse.diags_array(1 / matrix.diagonal())
    conjugate_gradients: Callable[..., tuple[Vector, int]] = scipy.sparse.linalg.cg
    solved, failed = conjugate_gradients(matrix.tocsr(), right_side, x0=start, rtol=ACCURACY, M=preconditioner)
    if failed:
        raise ValueError(
            f"retinex: found a system of {pixels} pixels that {failed} steps do not solve; choose another enhancer"
        )
    return solved


def _change(old: Vector, new: Vector) -> float:
    """The relative change; from 0 it is infinite, unless nothing changed."""
    moved, size = float(np.linalg.norm(new - old)), float(np.linalg.norm(old))
    return moved / size if size > 0 else (float("inf") if moved > 0 else 0.0)

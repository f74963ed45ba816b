"""The four losses that train Zero-DCE on dark frames alone, without a bright twin to compare with.

Formulas and default weights are those of the authors' code, which differs in places from their paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_NEIGHBOURS = ((0, -1), (0, 1), (-1, 0), (1, 0))  # left, right, up, down


def spatial_consistency(enhanced: Tensor, frames: Tensor) -> Tensor:
    """How much the contrast between neighbouring 4x4 regions changed.

    The mean over regions i of sum_j ((Y_i - Y_j) - (I_i - I_j))^2, with j the four neighbours and Y, I the
    brightness of a region after and before. Beyond the border the brightness is 0.

    Args:
        enhanced: (N, 3, H, W) in [0, 1].
        frames: (N, 3, H, W) in [0, 1], before.
    """
    # (Y_i - Y_j) - (I_i - I_j) = D_i - D_j with D = Y - I: one difference image will do
    change = F.avg_pool2d((enhanced - frames).mean(1, keepdim=True), 4)
    padded = F.pad(change, (1, 1, 1, 1))
    height, width = change.shape[2:]
    total = torch.zeros_like(change)
    for down, right in _NEIGHBOURS:
        neighbour = padded[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        total = total + (change - neighbour).square()
    return total.mean()


def exposure(enhanced: Tensor, *, wanted: float = 0.6, patch: int = 16) -> Tensor:
    """How far the brightness of patches is from the wanted one: the mean over patches of (Y - wanted)^2.

    Args:
        enhanced: (N, 3, H, W) in [0, 1], at least a patch high and wide.
        wanted: brightness in [0, 1].
        patch: side of a patch in pixels; rows and columns that do not fill a patch do not count.
    """
    brightness = F.avg_pool2d(enhanced.mean(1, keepdim=True), patch)
    return (brightness - wanted).square().mean()


def colour_constancy(enhanced: Tensor) -> Tensor:
    """How far a frame's colour is from grey: the mean over frames of sqrt((R-G)^4 + (R-B)^4 + (G-B)^4).

    R, G and B are the frame's channel means.

    Args:
        enhanced: (N, 3, H, W) in [0, 1].
    """
    red, green, blue = enhanced.mean((2, 3)).unbind(1)
    squares = torch.stack([(red - green).square(), (red - blue).square(), (green - blue).square()], dim=1)
    # A norm, not the root of a sum of squares: the root's gradient at a grey frame would be NaN.
    distances: Tensor = torch.linalg.vector_norm(squares, dim=1)
    return distances.mean()


def total_variation(maps: Tensor) -> Tensor:
    """How rough the curve maps are: 2 (sum dy^2 / ((H-1) W) + sum dx^2 / (H (W-1))) / N, over all channels.

    Args:
        maps: (N, C, H, W), at least 2 high and wide.
    """
    count, _, height, width = maps.shape
    down = maps.diff(dim=2).square().sum() / ((height - 1) * width)
    right = maps.diff(dim=3).square().sum() / (height * (width - 1))
    return 2 * (down + right) / count


def zero_reference_loss(
    frames: Tensor,
    enhanced: Tensor,
    maps: Tensor,
    *,
    wanted_exposure: float = 0.6,
    exposure_patch: int = 16,
    spatial_weight: float = 1.0,
    exposure_weight: float = 10.0,
    colour_weight: float = 5.0,
    variation_weight: float = 200.0,
) -> Tensor:
    """The weighted sum of the four losses.

    Args:
        frames: (N, 3, H, W) in [0, 1], dark.
        enhanced: (N, 3, H, W) in [0, 1].
        maps: (N, 24, H, W), the curve maps that enhanced them.
        wanted_exposure: brightness in [0, 1] that patches should have.
        exposure_patch: side of a patch in pixels.
        spatial_weight: of `spatial_consistency`.
        exposure_weight: of `exposure`.
        colour_weight: of `colour_constancy`.
        variation_weight: of `total_variation`.

    Raises:
        ValueError: the frames are smaller than a patch.
    """
    if min(frames.shape[2:]) < exposure_patch:
        raise ValueError(
            f"frames: found {frames.shape[2]}x{frames.shape[3]} pixels, wanted at least one patch of "
            f"{exposure_patch}x{exposure_patch}; give larger frames or a smaller patch"
        )
    return (
        spatial_weight * spatial_consistency(enhanced, frames)
        + exposure_weight * exposure(enhanced, wanted=wanted_exposure, patch=exposure_patch)
        + colour_weight * colour_constancy(enhanced)
        + variation_weight * total_variation(maps)
    )

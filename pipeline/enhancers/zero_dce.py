"""Zero-DCE: brightens a frame by eight rounds of a curve whose strength a small network sets for each pixel.

Guo et al., "Zero-Reference Deep Curve Estimation for Low-Light Image Enhancement", CVPR 2020. The authors'
weights are for non-commercial use, so they do not come with this program: `load_official` reads them from
where the user keeps them.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.models.state_dicts import check_state_dict, read_state_dict

OFFICIAL_SHA256 = "a4395acb874f320375d9704997cef874eaaaaa26a1777ceb29a92b70f74c3612"
"""Of the authors' Epoch99.pth."""

ROUNDS = 8
WIDTH = 32


class ZeroDCE(nn.Module):
    """The curve network and the curve. Layer names are those of the published weights; 79,416 weights.

    Args:
        seed: of the first weights, normal with standard deviation 0.02; torch's global generator is left
            alone.
    """

    def __init__(self, *, seed: int) -> None:
        super().__init__()

        def conv(in_planes: int, out_planes: int) -> nn.Conv2d:
            return nn.Conv2d(in_planes, out_planes, kernel_size=3, padding=1)

        self.e_conv1 = conv(3, WIDTH)
        self.e_conv2 = conv(WIDTH, WIDTH)
        self.e_conv3 = conv(WIDTH, WIDTH)
        self.e_conv4 = conv(WIDTH, WIDTH)
        self.e_conv5 = conv(2 * WIDTH, WIDTH)
        self.e_conv6 = conv(2 * WIDTH, WIDTH)
        self.e_conv7 = conv(2 * WIDTH, 3 * ROUNDS)
        generator = torch.Generator().manual_seed(seed)
        for layer in self.children():
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)

    def curve_maps(self, frames: Tensor) -> Tensor:
        """Draw the curves' strengths.

        Args:
            frames: float32 (N, 3, H, W) in [0, 1], not normalised.

        Returns:
            A: (N, 24, H, W) in [-1, 1]; three channels (red, green, blue) for each round. Negative brightens.
        """
        c1 = self.e_conv1(frames).relu()
        c2 = self.e_conv2(c1).relu()
        c3 = self.e_conv3(c2).relu()
        c4 = self.e_conv4(c3).relu()
        c5 = self.e_conv5(torch.cat([c3, c4], dim=1)).relu()
        c6 = self.e_conv6(torch.cat([c2, c5], dim=1)).relu()
        maps: Tensor = self.e_conv7(torch.cat([c1, c6], dim=1)).tanh()
        return maps

    def enhance_with_maps(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Enhance frames and give the curve maps too, as training needs them.

        Args:
            frames: float32 (N, 3, H, W) in [0, 1], not normalised.

        Returns:
            The enhanced frames (N, 3, H, W) in [0, 1], and the maps A (N, 24, H, W).
        """
        maps = self.curve_maps(frames)
        enhanced = frames
        for strength in maps.chunk(ROUNDS, dim=1):
            enhanced = enhanced + strength * (enhanced.square() - enhanced)
        return enhanced, maps

    def forward(self, frames: Tensor) -> Tensor:
        """Enhance frames, float32 (N, 3, H, W) in [0, 1]; the result has the same shape and range.

        Every round is x + A (x^2 - x), under which 0 and 1 stay what they are.
        """
        return self.enhance_with_maps(frames)[0]


def load_official(path: Path) -> tuple[ZeroDCE, str]:
    """Read published Zero-DCE weights (`Epoch99.pth`).

    Args:
        path: the authors' file, a pickle with tensors of a GPU; it is mapped to the CPU and no code in it is
            run.

    Returns:
        The network in evaluation mode, and the file's sha256 in hexadecimal.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged, holds something else, or another network (Zero-DCE++ has a file of
        that name).
    """
    state, sha256 = read_state_dict(path)
    # Zero-DCE++ splits each convolution in one over space and one over channels.
    split = next((key for key in state if ".depth_conv." in key or ".point_conv." in key), None)
    if split is not None:
        raise ValueError(
            f"{path}: found the weights of Zero-DCE++ (it holds {split}), wanted those of Zero-DCE; both are "
            "published as Epoch99.pth, take the larger one of 320,017 bytes"
        )
    model = ZeroDCE(seed=0)
    remedy = "take Zero-DCE's own weights, not those of another enhancer"
    check_state_dict(state, model.state_dict(), path, remedy=remedy)
    model.load_state_dict(state)
    return model.eval(), sha256

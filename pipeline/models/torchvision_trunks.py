"""Torchvision's other video networks as trunks: r3d_18, mc3_18 and swin3d_b, under torchvision's own weight names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

if TYPE_CHECKING:
    from torchvision.models import video


class ResNetTrunk(nn.Module):
    """Stem and four stages of a torchvision video ResNet; no pooling and no classifier.

    Args:
        network: torchvision's network; its parts are taken over.
        bn_momentum: weight of the new batch in the running statistics (PyTorch's meaning).
    """

    def __init__(self, network: video.VideoResNet, *, bn_momentum: float) -> None:
        super().__init__()
        self.stem = network.stem
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        self.feature_channels = 512
        entries = [module for name, module in self.named_modules() if name.endswith(".0.conv1.0")]
        self.time_stride = math.prod(entry.stride[0] for entry in entries if isinstance(entry, nn.Conv3d))
        """Of the first block of each stage; 8 for r3d_18, 1 for mc3_18."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = bn_momentum

    def num_time_tokens(self, num_frames: int) -> int:
        """Steps in time that are left of `num_frames` frames."""
        return -(-num_frames // self.time_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Extract features: (B, 3, T, H, W), normalised colours -> (B, 512, T', H / 16, W / 16), rounding up."""
        return cast(Tensor, self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x))))))


class SwinTrunk(nn.Module):
    """A torchvision Video Swin Transformer without pooling and classifier; patches of 2 frames of 4x4 pixels."""

    def __init__(self, network: video.SwinTransformer3d) -> None:
        super().__init__()
        self.patch_embed = network.patch_embed
        self.pos_drop = network.pos_drop
        self.features = network.features
        self.norm = network.norm
        self.feature_channels = int(network.num_features)

    def num_time_tokens(self, num_frames: int) -> int:
        """Steps in time that are left of `num_frames` frames: one for two frames, rounding up."""
        return -(-num_frames // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Extract features: (B, 3, T, H, W), normalised colours -> (B, 1024, T / 2, H / 32, W / 32), rounding up."""
        tokens = self.norm(self.features(self.pos_drop(self.patch_embed(x))))  # (B, T', H', W', C)
        return cast(Tensor, tokens.permute(0, 4, 1, 2, 3))


def r3d_18(*, bn_momentum: float = 0.1) -> ResNetTrunk:
    """3x3x3 convolutions throughout: 33.2 M weights, stride 8 over time."""
    return ResNetTrunk(_networks().r3d_18(weights=None), bn_momentum=bn_momentum)


def mc3_18(*, bn_momentum: float = 0.1) -> ResNetTrunk:
    """3x3x3 convolutions in the first stage, 1x3x3 after it: 11.5 M weights, stride 1 over time."""
    return ResNetTrunk(_networks().mc3_18(weights=None), bn_momentum=bn_momentum)


def swin3d_b(*, bn_momentum: float = 0.1) -> SwinTrunk:
    """The base Video Swin Transformer: 87.6 M weights, stride 2 over time.

    Args:
        bn_momentum: accepted as by all builders, and without effect: there is no batch normalisation.
    """
    return SwinTrunk(_networks().swin3d_b(weights=None))


def _networks() -> Any:
    """Torchvision's video networks, imported where one is built: that takes as long as importing torch itself."""
    from torchvision.models import video

    return video

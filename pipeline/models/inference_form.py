"""Classifiers rewritten for inference: the same function with fewer passes through memory.

Batch normalisation in evaluation mode is a scale and a shift of each channel, so it goes into the weights of the
convolution before it. Exact up to rounding; the network it was made from stays as it is.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.classifier import Classifier
from pipeline.models.r2plus1d import Block, R2Plus1D, check_views, without_autocast
from pipeline.models.recogniser import PRECISIONS, Recogniser
from pipeline.models.torchvision_trunks import ResNetTrunk

MULTIPLE = 8
"""Middle channels are filled up with zeros to a multiple of this: vectors and matrix units take as many at once."""
DTYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16), strict=True))


def for_inference(module: nn.Module, *, precision: str | None = None) -> nn.Module:
    """Rewrite a network for inference, in evaluation mode.

    R(2+1)D trunks are rebuilt of 2D convolutions on channels-last memory, torchvision's ResNet trunks keep their 3D
    convolutions; both lose their normalisations. Heads, enhancers and other trunks are copied. Gradients pass, but the
    result is not to be trained: nothing normalises any more.

    Args:
        module: a recogniser, a classifier or a trunk; stays as it is and shares no weight with the result.
        precision: "fp32" or "bf16", of the rewritten trunk's weights and arithmetic; None takes the recogniser's own,
            and "fp32" for anything else.

    Raises:
        ValueError: unknown precision.
    """
    if precision is None:
        precision = module.precision if isinstance(module, Recogniser) else "fp32"
    if precision not in PRECISIONS:
        raise ValueError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    with torch.no_grad():
        return _rewritten(module, precision).eval()


def _rewritten(module: nn.Module, precision: str) -> nn.Module:
    if isinstance(module, Recogniser):
        return module.with_classifier(_rewritten(module.classifier, precision), precision=precision)
    if isinstance(module, Classifier):
        return Classifier(_rewritten(module.trunk, precision), copy.deepcopy(module.head))
    if isinstance(module, R2Plus1D):
        return FoldedR2Plus1D(module, DTYPES[precision])
    if isinstance(module, ResNetTrunk):
        return FoldedResNet(module, DTYPES[precision])
    return copy.deepcopy(module)


def folded(conv: nn.Conv3d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that gives what this one and the normalisation behind it give together.

    Args:
        conv: with or without bias.
        norm: its batch normalisation, of which the running statistics count.

    Returns:
        The weight, in the convolution's shape, and the bias (C',), both computed in float64 and given in float32.
    """
    assert isinstance(norm, nn.BatchNorm3d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    before = 0.0 if conv.bias is None else conv.bias.double()
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1, 1)
    bias = norm.bias.double() + (before - norm.running_mean.double()) * scale
    return weight.float(), bias.float()


class FoldedHalves(nn.Module):
    """A (2+1)D convolution with its middle and last normalisation: over space, bent, over time.

    Works on (B, T, H, W, C), contiguous, in which both 2D convolutions' reshapes are views.

    Args:
        layers: SpaceConv, normalisation, ReLU, TimeConv.
        norm: the normalisation behind them.
    """

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        over_space, middle_norm, _, over_time = layers
        assert isinstance(over_space, nn.Conv3d)
        assert isinstance(over_time, nn.Conv3d)
        space_weight, space_bias = folded(over_space, middle_norm)
        time_weight, time_bias = folded(over_time, norm)
        missing = -len(space_bias) % MULTIPLE
        # A channel of zeros stays zero behind the ReLU and meets weights of zero.
        space_weight = F.pad(space_weight.squeeze(2), (0, 0, 0, 0, 0, 0, 0, missing))
        time_weight = F.pad(time_weight.squeeze(4), (0, 0, 0, 0, 0, missing))
        kernel, stride = over_space.kernel_size[1], over_space.stride[1]
        self.space = _conv2d(space_weight, F.pad(space_bias, (0, missing)), (stride, stride), (kernel // 2,) * 2)
        self.time = _conv2d(time_weight, time_bias, (over_time.stride[0], 1), (1, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, T', H', W', C')."""
        batch, time = x.shape[:2]
        middle = self.space(x.flatten(0, 1).permute(0, 3, 1, 2)).relu_().permute(0, 2, 3, 1)  # (B*T, H', W', M)
        height, width, channels = middle.shape[1:]
        lines = middle.reshape(batch, time, height * width, channels).permute(0, 3, 1, 2)  # (B, M, T, H'*W')
        # only behind the stem's first half another dtype
        out = self.time(lines.to(self.time.weight.dtype)).permute(0, 2, 3, 1)  # (B, T', H'*W', C')
        return cast(Tensor, out.reshape(batch, out.shape[1], height, width, out.shape[3]))


class FoldedBlock(nn.Module):
    """A residual block on (B, T, H, W, C)."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.first, self.second = (
            FoldedHalves(list(cast(nn.Sequential, conv[0])), conv[1]) for conv in (block.conv1, block.conv2)
        )
        self.shortcut: nn.Linear | None = None
        if block.downsample is not None:
            project = block.downsample[0]
            assert isinstance(project, nn.Conv3d)
            weight, bias = folded(project, block.downsample[1])
            with torch.device("meta"):
                self.shortcut = nn.Linear(weight.shape[1], weight.shape[0])
            self.shortcut.weight, self.shortcut.bias = nn.Parameter(weight.flatten(1)), nn.Parameter(bias)
            self.time_stride, self.space_stride, _ = project.stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, H, W, C) to (B, T', H', W', C')."""
        shortcut = x
        if self.shortcut is not None:
            shortcut = self.shortcut(x[:, :: self.time_stride, :: self.space_stride, :: self.space_stride])
        return cast(Tensor, self.second(self.first(x).relu_()).add_(shortcut).relu_())


class FoldedR2Plus1D(nn.Module):
    """An R(2+1)D trunk for inference; see `R2Plus1D`.

    Args:
        trunk: with trained weights and running statistics.
        dtype: of weights and arithmetic but for the stem's first convolution, which stays float32; see `Stem`.
    """

    def __init__(self, trunk: R2Plus1D, dtype: torch.dtype) -> None:
        super().__init__()
        layers = list(trunk.stem)
        self.stem = FoldedHalves(layers[:4], layers[4])
        stages = (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4)
        self.blocks = nn.Sequential(*(FoldedBlock(cast(Block, block)) for stage in stages for block in stage))
        self.feature_channels, self.strides = trunk.feature_channels, trunk.strides
        self.stem.time.to(dtype)
        self.blocks.to(dtype)

    def num_time_tokens(self, num_frames: int) -> int:
        """Steps in time that are left of `num_frames` frames."""
        return -(-num_frames // self.strides[0])

    def forward(self, x: Tensor) -> Tensor:
        """Extract features: (B, 3, T, H, W), normalised colours -> float32 (B, feature_channels, T', H', W').

        Raises:
            ValueError: the input is not a batch of views.
        """
        check_views(x)
        x = x.permute(0, 2, 3, 4, 1).contiguous()  # (B, T, H, W, C)
        with without_autocast(x.device):  # the layers have their types
            features = self.blocks(self.stem(x).relu_())
        return cast(Tensor, features.permute(0, 4, 1, 2, 3).float())


class FoldedResNet(nn.Module):
    """One of torchvision's video ResNets as a trunk for inference; see `ResNetTrunk`.

    Args:
        trunk: with trained weights and running statistics.
        dtype: of weights and arithmetic behind the stem, which stays float32; see `r2plus1d.Stem`.
    """

    def __init__(self, trunk: ResNetTrunk, dtype: torch.dtype) -> None:
        super().__init__()
        copied = copy.deepcopy(trunk)
        for layers in [module for module in copied.modules() if isinstance(module, nn.Sequential)]:
            for at, (conv, norm) in enumerate(itertools.pairwise(layers)):
                if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                    weight, bias = folded(conv, norm)
                    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
                    layers[at + 1] = nn.Identity()
        self.stem = copied.stem
        self.stages = nn.Sequential(copied.layer1, copied.layer2, copied.layer3, copied.layer4).to(dtype)
        self.feature_channels, self.time_stride, self.dtype = trunk.feature_channels, trunk.time_stride, dtype

    def num_time_tokens(self, num_frames: int) -> int:
        """Steps in time that are left of `num_frames` frames."""
        return -(-num_frames // self.time_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Extract features: (B, 3, T, H, W), normalised colours -> float32 (B, 512, T', H', W')."""
        with without_autocast(x.device):  # the layers have their types
            return cast(Tensor, self.stages(self.stem(x).to(self.dtype)).float())


def _conv2d(weight: Tensor, bias: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> nn.Conv2d:
    out_planes, in_planes, height, width = weight.shape
    with torch.device("meta"):  # spares drawing weights that are replaced
        conv = nn.Conv2d(in_planes, out_planes, (height, width), stride=stride, padding=padding)
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    conv.bias = nn.Parameter(bias)
    return conv

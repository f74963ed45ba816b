"""R(2+1)D feature networks: every 3D convolution is one over space followed by one over time.

Parameter names and shapes are torchvision's (`stem.0.weight`, `layer2.0.conv1.0.3.weight`, ...), so that its
published weights load as they are. The arithmetic is the same too, but is done by 2D convolutions where they are
quicker: see `SpaceConv` and `TimeConv`.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MidPlanes = Callable[[int, int], int]
"""(input channels, output channels) of a (2+1)D convolution -> channels between its two halves."""
Norm = Callable[[int], nn.Module]
"""Channels -> their normalisation."""


def matched_mid_planes(in_planes: int, out_planes: int) -> int:
    """Channels that give a (2+1)D convolution as many weights as a 3x3x3 one (R(2+1)D, section 3.5)."""
    return 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes)


def check_views(x: Tensor) -> None:
    """Refuse what is no batch of views (B, 3, T, H, W), with a ValueError."""
    if x.ndim != 5 or x.shape[1] != 3:
        raise ValueError(
            f"batch of views: found shape {tuple(x.shape)}, wanted (B, 3, T, H, W); "
            "stack the views and put the colours before time"
        )


class SpaceConv(nn.Conv3d):
    """Convolution (1, k, k) with stride (1, s, s), without bias.

    Time is folded into the batch and the work given to a 2D convolution: on a CPU a training step of the tiny
    network takes 1.5 times as long with plain 3D convolutions. In channels-last memory both reshapes are
    views. The weight keeps its 3D shape (out, in, 1, k, k).
    """

    def __init__(self, in_planes: int, out_planes: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            in_planes,
            out_planes,
            kernel_size=(1, kernel, kernel),
            stride=(1, stride, stride),
            padding=(0, kernel // 2, kernel // 2),
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, C', T, H', W')."""
        batch, channels, time, height, width = x.shape
        frames = x.permute(0, 2, 3, 4, 1).reshape(batch * time, height, width, channels)
        out = F.conv2d(
            frames.permute(0, 3, 1, 2),
            self.weight.squeeze(2),
            stride=self.stride[1:],
            padding=self.kernel_size[1] // 2,
        )
        out = out.permute(0, 2, 3, 1)  # (B*T, H', W', C')
        return out.reshape(batch, time, *out.shape[1:]).permute(0, 4, 1, 2, 3)


class TimeConv(nn.Conv3d):
    """Convolution (3, 1, 1) with stride (s, 1, 1), without bias, done as a 2D convolution over T x (H*W).

    On a CPU in float32 the 2D form's way back is slow over large maps, and there the 3D form is kept: forward and back
    together take 0.34 to 0.53 of the time over maps of 28x28 and more, 0.49 to 0.83 over 14x14, but 1.1 over 7x7, and
    1.8 with 8 channels. In bfloat16 never: on a CPU the 3D form's weight gradient is then wrong for T = 2 (torch 2.13
    and 2.15), the 2D form's is right.
    """

    LARGE_MAP = 14 * 14
    """H*W from which the 3D form is the quicker one to train on a CPU."""
    MANY_CHANNELS = 32
    """Input channels from which it is."""

    def __init__(self, in_planes: int, out_planes: int, *, stride: int = 1) -> None:
        super().__init__(
            in_planes, out_planes, kernel_size=(3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, C', T', H, W)."""
        batch, channels, time, height, width = x.shape
        if self._better_3d(x, height * width):
            return super().forward(x)
        lines = x.permute(0, 2, 3, 4, 1).reshape(batch, time, height * width, channels)
        out = F.conv2d(lines.permute(0, 3, 1, 2), self.weight.squeeze(4), stride=(self.stride[0], 1), padding=(1, 0))
        out = out.permute(0, 2, 3, 1)  # (B, T', H*W, C')
        return out.reshape(batch, out.shape[1], height, width, out.shape[3]).permute(0, 4, 1, 2, 3)

    def _better_3d(self, x: Tensor, area: int) -> bool:
        if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        return area >= self.LARGE_MAP and self.in_channels >= self.MANY_CHANNELS


class Projection(nn.Conv3d):
    """The shortcut of a block that changes shape: a strided 1x1x1 convolution without bias."""

    def __init__(self, in_planes: int, out_planes: int, *, time_stride: int, space_stride: int) -> None:
        stride = (time_stride, space_stride, space_stride)
        super().__init__(in_planes, out_planes, kernel_size=1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, C', T', H', W')."""
        time_stride, space_stride, _ = self.stride
        kept = x[:, :, ::time_stride, ::space_stride, ::space_stride].permute(0, 2, 3, 4, 1)  # channels last
        return F.linear(kept, self.weight.flatten(1)).permute(0, 4, 1, 2, 3)


def _halves(
    in_planes: int,
    mid: int,
    out_planes: int,
    norm: Norm,
    *,
    kernel: int = 3,
    time_stride: int = 1,
    space_stride: int = 1,
) -> list[nn.Module]:
    """The layers of one (2+1)D convolution: over space, normalised, bent, over time."""
    return [
        SpaceConv(in_planes, mid, kernel=kernel, stride=space_stride),
        norm(mid),
        nn.ReLU(inplace=True),
        TimeConv(mid, out_planes, stride=time_stride),
    ]


class Stem(nn.Sequential):
    """The first layers, of which the first convolution and its normalisation work in float32 under autocast too.

    A dark view is a small signal on a large constant, black minus the mean, which only this normalisation takes away.
    In bfloat16 the logits of r2plus1d_tiny on clips of codes below 30 differ by 0.27 of their norm from those of
    float32, and by 0.06 this way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, T, H, W) to (B, C, T, H', W')."""
        convolution, norm, *others = self
        with without_autocast(x.device):
            x = norm(convolution(x))
        for layer in others:
            x = layer(x)
        return x


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switches automatic bfloat16 off, where it is on."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


class Block(nn.Module):
    """A residual block: two (2+1)D convolutions, with normalisation, around a shortcut.

    Args:
        in_planes: channels that come in.
        planes: channels that go out.
        mids: channels between the halves of the first and of the second convolution.
        norm: makes the normalisation of so many channels.
        time_stride: stride over time.
        space_stride: stride over height and width.
    """

    def __init__(
        self,
        in_planes: int,
        planes: int,
        *,
        mids: tuple[int, int],
        norm: Norm,
        time_stride: int = 1,
        space_stride: int = 1,
    ) -> None:
        super().__init__()
        first = _halves(in_planes, mids[0], planes, norm, time_stride=time_stride, space_stride=space_stride)
        second = _halves(planes, mids[1], planes, norm)
        # nested as in torchvision, for the names of the weights
        self.conv1 = nn.Sequential(nn.Sequential(*first), norm(planes), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(nn.Sequential(*second), norm(planes))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if in_planes != planes or (time_stride, space_stride) != (1, 1):
            project = Projection(in_planes, planes, time_stride=time_stride, space_stride=space_stride)
            self.downsample = nn.Sequential(project, norm(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, planes, T', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return cast(Tensor, self.relu(self.conv2(self.conv1(x)) + shortcut))


class R2Plus1D(nn.Module):
    """An R(2+1)D trunk: a stem, then four stages of residual blocks; no pooling and no classifier.

    Args:
        blocks: number of blocks of each stage.
        widths: channels of each stage; the stem gives `widths[0]`.
        stem_mid: channels between the two halves of the stem.
        stem_kernel: side of the stem's spatial kernel, odd.
        time_strides: stride over time of each stage's first block.
        space_strides: stride over height and width of each stage's first block; the stem has 2 of its own.
        mid_planes: gives the channels between the two halves of a (2+1)D convolution.
        second_mid_from_planes: size the middle of a block's second convolution by that convolution's own
            input, as Caffe2 and the ig65m weights do; otherwise by the block's input, as torchvision does.
        bn_eps: eps of every batch normalisation.
        bn_momentum: weight of the new batch in the running statistics (PyTorch's meaning).
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        widths: Sequence[int],
        stem_mid: int = 45,
        stem_kernel: int = 7,
        time_strides: Sequence[int] = (1, 2, 2, 2),
        space_strides: Sequence[int] = (1, 2, 2, 2),
        mid_planes: MidPlanes = matched_mid_planes,
        second_mid_from_planes: bool = False,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm3d, eps=bn_eps, momentum=bn_momentum)

        def stage(ins: int, planes: int, count: int, time_stride: int, space_stride: int) -> nn.Sequential:
            first, inner = mid_planes(ins, planes), mid_planes(planes, planes)
            mids = (first, inner if second_mid_from_planes else first)
            entry = Block(ins, planes, mids=mids, norm=norm, time_stride=time_stride, space_stride=space_stride)
            return nn.Sequential(
                entry, *(Block(planes, planes, mids=(inner, inner), norm=norm) for _ in range(count - 1))
            )

        stem = _halves(3, stem_mid, widths[0], norm, kernel=stem_kernel, space_stride=2)
        self.stem = Stem(*stem, norm(widths[0]), nn.ReLU(inplace=True))
        inputs = (widths[0], *widths[:-1])
        stages = zip(inputs, widths, blocks, time_strides, space_strides, strict=True)
        self.layer1, self.layer2, self.layer3, self.layer4 = (stage(*arguments) for arguments in stages)
        self.feature_channels = widths[-1]
        self.strides = (math.prod(time_strides), 2 * math.prod(space_strides))
        """Total stride over (time, space)."""
        self._initialise()

    def _initialise(self) -> None:
        """Kaiming-normal convolutions (fan out, ReLU), as torchvision starts its video networks."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def num_time_tokens(self, num_frames: int) -> int:
        """Steps in time that are left of `num_frames` frames: every stride of 2 halves, rounding up."""
        return -(-num_frames // self.strides[0])

    def forward(self, x: Tensor) -> Tensor:
        """Extract features.

        Args:
            x: (B, 3, T, H, W), normalised colours.

        Returns:
            (B, feature_channels, T', H', W'), each size divided by its total stride, rounding up.

        Raises:
            ValueError: the input is not a batch of views.
        """
        check_views(x)
        # in this layout the convolutions' reshapes copy nothing
        x = x.contiguous(memory_format=torch.channels_last_3d)
        return cast(Tensor, self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x))))))


def r2plus1d_18(*, bn_momentum: float = 0.1) -> R2Plus1D:
    """Torchvision's 18-layer network: 31.3 M weights, stride 8 over time."""
    return R2Plus1D(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), bn_momentum=bn_momentum)


def r2plus1d_34(*, bn_momentum: float = 0.1) -> R2Plus1D:
    """The 34-layer network of the ig65m weights, the paper's backbone: 63.5 M weights, stride 8 over time.

    Args:
        bn_momentum: the reference code trains with 0.9, which makes the running statistics nearly those of
            the last batch; 0.1 is PyTorch's default.
    """
    return R2Plus1D(
        blocks=(3, 4, 6, 3),
        widths=(64, 128, 256, 512),
        second_mid_from_planes=True,
        bn_eps=1e-3,  # the published weights were trained with it
        bn_momentum=bn_momentum,
    )


def r2plus1d_tiny(*, bn_momentum: float = 0.1) -> R2Plus1D:
    """A small network for short clips of about 56x56, quick to train on a CPU: stride 4 over time.

    Space shrinks early, because what costs time here is moving large maps through memory; time shrinks late,
    so that two stages see the motion between all frames. Widths are multiples of 8, which fill the
    processor's vectors.
    """
    return R2Plus1D(
        blocks=(1, 1, 1, 1),
        widths=(8, 32, 64, 112),
        stem_mid=8,
        stem_kernel=5,
        time_strides=(1, 1, 2, 2),
        space_strides=(2, 2, 2, 1),
        mid_planes=_as_wide_as_output,
        bn_momentum=bn_momentum,
    )


def _as_wide_as_output(in_planes: int, out_planes: int) -> int:
    return out_planes

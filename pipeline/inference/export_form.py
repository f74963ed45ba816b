"""A recogniser as one graph, from uint8 frames to logits, for engines that know nothing of this project."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from pipeline.enhancers.frame_by_frame import FrameByFrame
from pipeline.inference.loading import Loaded
from pipeline.models.recogniser import Recogniser

INPUT, OUTPUT = "frames", "logits"
"""Names of the graph's input and output."""


class ByTime(Recogniser):
    """A recogniser that enhances in parts of each clip's time, whatever the number of clips.

    `Recogniser` cuts all frames of a batch into parts together. Their number depends on the batch, and a graph has to
    hold for every batch.
    """

    def _enhance(self, frames: Tensor) -> Tensor:
        assert self.enhancer is not None
        enhanced = [
            # (B, t, C, H, W) -> (B * t, C, H, W) and back
            self.enhancer(part.flatten(0, 1)).reshape(-1, *part.shape[1:])
            for part in torch.split(frames, self.enhanced_at_once, dim=1)
        ]
        return torch.cat(enhanced, dim=1)


class Conv3dAs2d(nn.Module):
    """A 3D convolution done by a 2D one: the frames that a step in time sees are stacked as its channels.

    Args:
        conv: zero-padded, without groups or dilation.

    Raises:
        ValueError: another kind of convolution.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        plain = conv.groups == 1 and set(conv.dilation) == {1} and conv.padding_mode == "zeros"
        if not plain or isinstance(conv.padding, str):
            raise ValueError(f"conv2d: found {conv}, wanted zero padding in numbers, one group and no dilation")
        self.time_kernel, self.time_stride, self.time_padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        self.stride, self.padding = conv.stride[1:], conv.padding[1:]
        weight = conv.weight.detach().transpose(1, 2).flatten(1, 2)  # (C', C, k, h, w) -> (C', k * C, h, w)
        self.weight = nn.Parameter(weight.contiguous())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T, H, W) to (B, C', T', H', W')."""
        padded = F.pad(x, (0, 0, 0, 0, self.time_padding, self.time_padding))
        steps = (padded.shape[2] - self.time_kernel) // self.time_stride + 1
        span = (steps - 1) * self.time_stride + 1
        seen = [padded[:, :, first : first + span : self.time_stride] for first in range(self.time_kernel)]
        frames = torch.cat(seen, dim=1).transpose(1, 2).flatten(0, 1)  # (B * T', k * C, H, W)
        out = F.conv2d(frames, self.weight, self.bias, stride=self.stride, padding=self.padding)
        return out.reshape(-1, steps, *out.shape[1:]).transpose(1, 2)  # (B * T', C', H', W') -> (B, C', T', H', W')


def export_form(loaded: Loaded, *, where: object, conv2d: bool = False) -> nn.Module:
    """What is exported of a checkpoint: uint8 (B, T, S, S, 3) -> float32 logits (B, K).

    Args:
        loaded: the checkpoint in float32, in evaluation mode; stays as it is.
        where: names the checkpoint in errors.
        conv2d: replace every 3D convolution by 2D ones.

    Raises:
        ValueError: the checkpoint is in training mode, or enhances in a way that no graph can hold.
    """
    recogniser, pixels = loaded.recogniser, loaded.preprocessing
    if pixels.enhancer_on == "frame":
        raise ValueError(
            f"{where}: enhancer.on: found 'frame', which enhances and rounds whole frames before they are cropped, "
            "outside of what is exported; wanted 'view' or 'none': export the student, or train a teacher with "
            "enhancer.on: view"
        )
    in_numpy = next((part for part in recogniser.modules() if isinstance(part, FrameByFrame)), None)
    if in_numpy is not None:
        raise ValueError(
            f"{where}: enhancer: found {type(in_numpy).__name__}, which works in NumPy and not in a graph; wanted "
            "zero_dce, gamma or none: export the student, or train a teacher with one of these"
        )
    training = [name or "the recogniser" for name, module in recogniser.named_modules() if module.training]
    if training:
        raise ValueError(f"{where}: {training[0]} is in training mode, which would be exported silently; call eval()")
    form = copy.deepcopy(recogniser)
    form.__class__ = ByTime  # a copy, so that settings that are added later are kept too
    form.precision = "fp32"
    if conv2d:
        _replace_conv3d(form)
    for tensor in (*form.parameters(), *form.buffers()):
        tensor.data = tensor.data.contiguous()  # other layouts are written with a warning
    return form.eval().requires_grad_(False)


def as_graph(form: nn.Module, *, frames: int, size: int) -> ExportedProgram:
    """Trace a form for any number of clips.

    Args:
        form: uint8 (B, T, S, S, 3) -> logits (B, K), on the CPU.
        frames: T.
        size: S, in pixels.
    """
    # Two clips: with one, the number of clips would silently become a constant.
    example = torch.zeros(2, frames, size, size, 3, dtype=torch.uint8)
    graph = export(form, (example,), dynamic_shapes=({0: Dim("batch")},))
    for node in graph.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine, and would be written into the file
    return graph


def has_conv3d(graph: ExportedProgram) -> bool:
    """Whether a convolution works on five axes."""
    convolutions = [node for node in graph.graph.nodes if str(node.target).startswith("aten.conv")]
    return any(node.args[0].meta["val"].ndim == 5 for node in convolutions)


def _replace_conv3d(form: nn.Module) -> None:
    for module in list(form.modules()):
        for name, child in module.named_children():
            # Subclasses with a forward of their own already work by 2D convolutions.
            if isinstance(child, nn.Conv3d) and type(child).forward is nn.Conv3d.forward:
                setattr(module, name, Conv3dAs2d(child))

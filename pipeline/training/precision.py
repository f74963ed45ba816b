"""Whether a machine computes in bfloat16 what it computes in float32: outputs and gradients of convolutions.

Some releases of torch do not, and say nothing: on CPUs with bfloat16 units torch 2.13 and 2.15 give the weight
gradient of a 3x1x1 `nn.Conv3d` over exactly two frames as noise or NaN.
"""

import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.models.r2plus1d import Projection, SpaceConv, TimeConv
from pipeline.models.recogniser import PRECISIONS

FRAMES = (1, 2, 3, 4, 8)
"""T of the tested convolutions: what the strides leave of 8, 16 and 64 frames, and an odd one."""
TOLERANCE = 0.02
"""Largest relative error that rounding explains: bfloat16 keeps 8 bits, which gives 0.003 to 0.006 here. A kernel that
leaves out one of its 27 products gives 0.2."""


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """One tensor that is wrong in bfloat16."""

    what: str
    """Output, input gradient or weight gradient, and of which convolution."""
    frames: int
    """T."""
    error: float
    """Norm of the difference over the norm of the float32 tensor; NaN where the tensor holds one."""


def check_precision(device: torch.device, precision: str) -> None:
    """Refuse a precision in which this machine computes something wrong, before anything is trained with it.

    Args:
        device: where the classifier will run.
        precision: "fp32", which needs no test, or "bf16".

    Raises:
        ValueError: the precision is unknown, the machine cannot do it, or it gives wrong outputs or gradients in the
            convolutions of the R(2+1)D trunks.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"compute.precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return
    remedy = "set compute.precision: fp32, or install another version of torch"
    where = f"torch {torch.__version__} on {device} ({device_name(device)})"
    try:
        wrong = bf16_mismatches(device)
    except RuntimeError as error:
        raise ValueError(f"compute.precision: found bf16, which {where} cannot do: {error}; {remedy}") from error
    if wrong:
        listed = "; ".join(f"{each.what} over {each.frames} frames ({each.error:.2g})" for each in wrong)
        raise ValueError(
            f"compute.precision: found bf16, in which {where} computes wrongly: {listed}; wanted relative errors of "
            f"at most {TOLERANCE} from float32; {remedy}"
        )


def bf16_mismatches(device: torch.device, *, plain: bool = False) -> list[Mismatch]:
    """Compare convolutions under bfloat16 autocast with the same ones in float32 on the CPU.

    Each stands alone: behind a ReLU, rounding alone moves gradients by some percent, and an error could hide in that.

    Args:
        device: where bfloat16 is tried.
        plain: try `nn.Conv3d` as it comes, as torchvision's trunks hold it, instead of the R(2+1)D trunks' own forms.

    Returns:
        The tensors that are wrong; none on a sound machine.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):  # no first weights, which would be drawn from the generator that training draws from
        convolutions = list(_convolutions(plain))
    return [
        mismatch
        for name, conv in convolutions
        for frames in FRAMES
        for mismatch in _compare(name, conv, frames, device, generator)
    ]


def device_name(device: torch.device) -> str:
    """The accelerator's own name, or the kind of CPU with the widest vectors that torch uses on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _convolutions(plain: bool) -> Iterator[tuple[str, nn.Conv3d]]:
    """Convolutions of a residual stage at about its real width, with and without stride."""
    for stride in (1, 2):
        end = f" with stride {stride}"
        if plain:
            for time, space in ((1, 3), (3, 1), (3, 3)):
                kernel, padding = (time, space, space), (time // 2, space // 2, space // 2)
                conv = nn.Conv3d(64, 64, kernel, stride=stride, padding=padding, bias=False)
                yield f"Conv3d {time}x{space}x{space}{end}", conv
        else:
            yield f"SpaceConv{end}", SpaceConv(64, 144, stride=stride)
            yield f"TimeConv{end}", TimeConv(144, 64, stride=stride)
    if not plain:
        yield "Projection", Projection(64, 128, time_stride=2, space_stride=2)


def _compare(
    name: str, conv: nn.Conv3d, frames: int, device: torch.device, generator: torch.Generator
) -> Iterator[Mismatch]:
    x = torch.randn(2, conv.in_channels, frames, 7, 7, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(conv.weight.shape, generator=generator) / math.sqrt(conv.weight[0].numel())
    upstream = torch.randn(conv(x.to("meta")).shape, generator=generator)
    wanted = _outputs_and_gradients(conv, (x, weight, upstream), torch.device("cpu"), torch.float32)
    found = _outputs_and_gradients(conv, (x, weight, upstream), device, torch.bfloat16)
    for kind, ours, reference in zip(("output", "input gradient", "weight gradient"), found, wanted, strict=True):
        error = ((ours - reference).norm() / reference.norm()).item()
        if not error <= TOLERANCE:  # NaN too
            yield Mismatch(what=f"{kind} of {name}", frames=frames, error=error)


def _outputs_and_gradients(
    conv: nn.Conv3d, tensors: Sequence[Tensor], device: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    """Output, input gradient and weight gradient, as float32 on the CPU."""
    x, weight, upstream = (tensor.to(device) for tensor in tensors)
    x.requires_grad_()
    weight.requires_grad_()
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = torch.func.functional_call(conv, {"weight": weight}, (x,))
    gradients = torch.autograd.grad(out, (x, weight), upstream.to(out.dtype))
    return [tensor.detach().float().cpu() for tensor in (out, *gradients)]

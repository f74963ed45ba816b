"""What a prediction costs: operations, memory and time of the methods that Table 5 of the paper compares.

Three units are easily mixed up: a multiply-accumulate (MAC), an operation (FLOP; a MAC is two), and the number that
fvcore prints under the name of flops: a MAC is one, and an element that a batch normalisation gives is two.
"""

import platform
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pipeline.enhancers.build import build_enhancer
from pipeline.enhancers.frame_by_frame import FrameByFrame
from pipeline.models.classifier import build_classifier
from pipeline.models.recogniser import ENHANCED_AT_ONCE, NORMALIZATIONS, Recogniser

ENHANCED, AT_ONCE = "enhancement-based", "enhancement-based, all frames at once"
TWO_STREAM, STUDENT = "two-stream", "student"
MEMORY_SOURCES = {
    "cpu": "highest running sum of what torch's CPU allocator gave and took back (torch.profiler)",
    "cuda": "torch.cuda.max_memory_allocated",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is compared."""

    model: str
    """The trunk, a key of `TRUNKS`."""
    head: str
    """attention or average."""
    frames: int
    """T."""
    size: int
    """S, in pixels."""
    num_classes: int
    """K."""
    enhancer: str
    """Of the enhancement-based method."""


PAPER_SETTING = Setting(model="r2plus1d_34", head="attention", frames=64, size=112, num_classes=11, enhancer="zero_dce")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a forward pass does, counted. Of element-wise arithmetic only batch normalisation is, in `fvcore_style`."""

    parameters: int
    """Weights, of the enhancer too."""
    macs: int
    """Multiply-accumulates of convolutions, linear layers and matrix products."""
    flops: int
    """Operations: twice `macs`."""
    conv_macs: int
    """The convolutions' share of `macs`."""
    batch_norm_layers: int
    """Calls of a batch normalisation."""
    batch_norm_elements: int
    """Elements that they give."""
    fvcore_style: int
    """`macs` and two for each of `batch_norm_elements`: fvcore's "flops" of a network in evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a forward pass needs on a device."""

    weights_bytes: int
    """Weights and buffers, of the enhancer too."""
    input_bytes: int
    """The pixels that go in."""
    peak_bytes: int
    """Most memory that the pass holds at once, beyond weights and input."""
    latency_sec: float
    """Median over the repeats."""
    fastest_sec: float
    """The shortest repeat."""
    slowest_sec: float
    """The longest repeat."""


def count(recogniser: nn.Module, views_shape: Sequence[int]) -> Counts:
    """Count a forward pass without doing it: on the meta device, which has shapes and no memory.

    Args:
        recogniser: from pixels to logits; stays as it is, on any device.
        views_shape: of the uint8 pixels, (B, T, S, S, 3).

    Raises:
        ValueError: an enhancer works in NumPy, where nothing can be counted.
    """
    for module in recogniser.modules():
        if isinstance(module, FrameByFrame):
            raise ValueError(
                f"enhancer: found {type(module).__name__}, which works in NumPy, wanted one made of torch's "
                "operations; count the recogniser without it"
            )
    conv_macs: list[int] = []
    normed: list[int] = []

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            conv_macs.append(output.numel() * module.weight[0].numel())  # weight: (C', C / groups, *kernel)
        elif isinstance(module, _BatchNorm):
            normed.append(output.numel())

    on_meta = {name: tensor.to("meta") for name, tensor in _tensors(recogniser)}
    pixels = torch.empty(tuple(views_shape), dtype=torch.uint8, device="meta")
    with register_module_forward_hook(add), torch.no_grad(), FlopCounterMode(display=False) as counter:
        functional_call(recogniser, on_meta, (pixels,))
    flops = counter.get_total_flops()  # 2 for a multiply-accumulate, and nothing else
    return Counts(
        parameters=sum(weight.numel() for weight in recogniser.parameters()),
        macs=flops // 2,
        flops=flops,
        conv_macs=sum(conv_macs),
        batch_norm_layers=len(normed),
        batch_norm_elements=sum(normed),
        fvcore_style=flops // 2 + 2 * sum(normed),
    )


def measure(recogniser: nn.Module, pixels: Tensor, *, device: torch.device, repeats: int) -> Measured:
    """Measure forward passes in evaluation mode, without gradients: one to warm up, one for memory, the rest for time.

    Args:
        recogniser: from pixels to logits; is moved to the device and set to evaluation mode.
        pixels: uint8 (B, T, S, S, 3).
        device: a CPU or a CUDA device. `MEMORY_SOURCES` says where its memory figure comes from: on a CPU what
            libraries and NumPy take past torch's allocator is not seen.
        repeats: passes that are timed, at least 1.

    Raises:
        ValueError: another kind of device, or no repeats.
    """
    if device.type not in MEMORY_SOURCES:
        raise ValueError(f"device: found '{device}', wanted cpu or cuda, whose memory torch can tell")
    if repeats < 1:
        raise ValueError(f"repeats: found {repeats}, wanted at least 1")
    recogniser.to(device).eval()
    pixels = pixels.to(device)
    latencies = []
    with torch.inference_mode():
        recogniser(pixels)
        peak = (_cuda_peak if device.type == "cuda" else _cpu_peak)(recogniser, pixels)
        for _ in range(repeats):
            _wait_for(device)
            start = time.perf_counter()
            recogniser(pixels)
            _wait_for(device)
            latencies.append(time.perf_counter() - start)
    return Measured(
        weights_bytes=sum(tensor.nbytes for _, tensor in _tensors(recogniser)),
        input_bytes=pixels.nbytes,
        peak_bytes=peak,
        latency_sec=statistics.median(latencies),
        fastest_sec=min(latencies),
        slowest_sec=max(latencies),
    )


def compare(setting: Setting, *, repeats: int, device: torch.device) -> dict[str, Any]:
    """Every method's figures, as a record for JSON."""
    in_numpy = isinstance(build_enhancer(setting.enhancer), FrameByFrame)
    countable = replace(setting, enhancer="none") if in_numpy else setting
    shape = (1, setting.frames, setting.size, setting.size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    methods, average = {}, {}
    for name in (ENHANCED, AT_ONCE, TWO_STREAM, STUDENT):
        if name == AT_ONCE and setting.frames <= ENHANCED_AT_ONCE:
            continue  # they are all at once anyway
        with torch.device("meta"):  # spares drawing weights
            counts = count(_build(name, countable), shape)
            if replace(setting, num_classes=PAPER_SETTING.num_classes) == PAPER_SETTING:
                average[name] = asdict(count(_build(name, replace(setting, head="average")), shape))
        measured = measure(_build(name, setting), pixels, device=device, repeats=repeats)
        methods[name] = asdict(counts) | asdict(measured)
    return {
        "setting": asdict(setting) | {"repeats": repeats, "enhancer_counted": not in_numpy},
        "machine": {
            "device": device.type,
            "name": device_name(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "methods": methods,
        "average_head": average,
    }


def _build(method: str, setting: Setting) -> Recogniser:
    classifier = build_classifier(
        setting.model,
        num_classes=setting.num_classes,
        num_frames=setting.frames,
        head=setting.head,
        head_dropout=0.0,
        streams=2 if method == TWO_STREAM else 1,
        seed=0,
    )
    mean, std = NORMALIZATIONS["kinetics"]
    enhancer = {STUDENT: None, TWO_STREAM: "gamma"}.get(method, setting.enhancer)
    return Recogniser(
        classifier,
        mean=mean,
        std=std,
        enhancer=None if enhancer is None else build_enhancer(enhancer),
        dark_stream=(mean, std) if method == TWO_STREAM else None,
        enhanced_at_once=setting.frames if method == AT_ONCE else ENHANCED_AT_ONCE,
    )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _cpu_peak(recogniser: nn.Module, pixels: Tensor) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        recogniser(pixels)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()  # below 0 where memory is given back
        peak = max(peak, held)
    return peak


def _cuda_peak(recogniser: nn.Module, pixels: Tensor) -> int:
    before = torch.cuda.memory_allocated(pixels.device)
    torch.cuda.reset_peak_memory_stats(pixels.device)
    recogniser(pixels)
    _wait_for(pixels.device)
    return torch.cuda.max_memory_allocated(pixels.device) - before


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """What a processor or GPU calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    linux = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", linux.read_text(), re.MULTILINE) if linux.exists() else None
    return found[1].strip() if found else platform.machine()

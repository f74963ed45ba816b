"""What a prediction costs: operations, memory and time of the methods that Table 5 of the paper compares.

Three units are easily mixed up: a multiply-accumulate (MAC), an operation (FLOP; a MAC is two), and the number that
fvcore prints under the name of flops: a MAC is one, and an element that a batch normalisation gives is two.
"""

import json
import platform
import re
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pipeline.clips.files import replacing
from pipeline.enhancers.build import build_enhancer
from pipeline.enhancers.frame_by_frame import FrameByFrame
from pipeline.models.classifier import build_classifier
from pipeline.models.recogniser import ENHANCED_AT_ONCE, NORMALIZATIONS, Recogniser

ENHANCED, AT_ONCE = "enhancement-based", "enhancement-based, all frames at once"
TWO_STREAM, STUDENT = "two-stream", "student"
PAPER_SETTING = {"model": "r2plus1d_34", "head": "attention", "frames": 64, "size": 112, "enhancer": "zero_dce"}
# GFLOPs and MB in Table 5. It has one enhancement-based row; AT_ONCE is where its memory fits.
PAPER_GFLOPS = {AT_ONCE: 310.28, STUDENT: 305.51}
PAPER_MB = {AT_ONCE: 2133, TWO_STREAM: 1599, STUDENT: 1599}
MARKERS = ("<!-- cost -->", "<!-- end cost -->")
MEMORY_SOURCES = {
    "cpu": "highest running sum of what torch's CPU allocator gave and took back (torch.profiler)",
    "cuda": "torch.cuda.max_memory_allocated",
}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a forward pass does, counted. Element-wise arithmetic is in none of the figures but `fvcore_style`."""

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
                f"enhancer: found {type(module).__name__}, which works in NumPy, wanted one made of torch's operations; "
                "count the recogniser without it"
            )
    conv_macs = batch_norm_layers = batch_norm_elements = 0

    def add_conv(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal conv_macs
        assert isinstance(module.weight, Tensor)
        conv_macs += output.numel() * module.weight[0].numel()  # weight: (C', C / groups, *kernel)

    def add_batch_norm(_: nn.Module, __: object, output: Tensor) -> None:
        nonlocal batch_norm_layers, batch_norm_elements
        batch_norm_layers += 1
        batch_norm_elements += output.numel()

    tensors = dict(_tensors(recogniser))
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    pixels = torch.empty(tuple(views_shape), dtype=torch.uint8, device="meta")
    hooks = []
    try:
        for module in recogniser.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                hooks.append(module.register_forward_hook(add_conv))
            elif isinstance(module, _BatchNorm):
                hooks.append(module.register_forward_hook(add_batch_norm))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(recogniser, on_meta, (pixels,))
    finally:
        for hook in hooks:
            hook.remove()
    flops = counter.get_total_flops()
    macs = flops // 2  # it counts 2 for a multiply-accumulate, and nothing else
    return Counts(
        parameters=sum(weight.numel() for weight in recogniser.parameters()),
        macs=macs,
        flops=flops,
        conv_macs=conv_macs,
        batch_norm_layers=batch_norm_layers,
        batch_norm_elements=batch_norm_elements,
        fvcore_style=macs + 2 * batch_norm_elements,
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


def compare(
    *,
    model: str,
    head: str,
    frames: int,
    size: int,
    num_classes: int,
    enhancer: str,
    repeats: int,
    device: torch.device,
) -> dict[str, Any]:
    """Count and measure all methods on one clip of random pixels, with random weights: neither changes a figure.

    At the paper's setting the methods are counted with an average head too, as the paper must have counted them.

    Args:
        model: the trunk, a key of `TRUNKS`.
        head: "attention" or "average".
        frames: T.
        size: S, in pixels.
        num_classes: K.
        enhancer: of the enhancement-based method; the two-stream method has gamma correction.
        repeats: passes that are timed, at least 1.
        device: to measure on; the threads are those that torch is set to.

    Returns:
        A record for JSON: `setting`, `machine`, and by method `methods` and `average_head`.

    Raises:
        ValueError: an unknown name, or a number out of its range.
    """
    if size < 1:
        raise ValueError(f"size: found {size}, wanted at least 1 pixel")
    setting = {"model": model, "head": head, "frames": frames, "size": size, "enhancer": enhancer}
    shape = (1, frames, size, size, 3)

    def build(method: str, *, head: str, enhancer: str) -> Recogniser:
        classifier = build_classifier(
            model,
            num_classes=num_classes,
            num_frames=frames,
            head=head,
            head_dropout=0.0,
            streams=2 if method == TWO_STREAM else 1,
            seed=0,
        )
        mean, std = NORMALIZATIONS["kinetics"]
        return Recogniser(
            classifier,
            mean=mean,
            std=std,
            enhancer={STUDENT: None, TWO_STREAM: build_enhancer("gamma")}.get(method, build_enhancer(enhancer)),
            dark_stream=(mean, std) if method == TWO_STREAM else None,
            enhanced_at_once=frames if method == AT_ONCE else ENHANCED_AT_ONCE,
        )

    counted = not isinstance(build_enhancer(enhancer), FrameByFrame)
    names = [ENHANCED, AT_ONCE, TWO_STREAM, STUDENT]
    if frames <= ENHANCED_AT_ONCE:
        names.remove(AT_ONCE)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    methods, average = {}, {}
    for name in names:
        with torch.device("meta"):
            counts = count(build(name, head=head, enhancer=enhancer if counted else "none"), shape)
            if setting == PAPER_SETTING:
                average[name] = asdict(count(build(name, head="average", enhancer=enhancer), shape))
        recogniser = build(name, head=head, enhancer=enhancer)
        methods[name] = asdict(counts) | asdict(measure(recogniser, pixels, device=device, repeats=repeats))
    return {
        "setting": setting | {"num_classes": num_classes, "repeats": repeats, "enhancer_counted": counted},
        "machine": {
            "device": device.type,
            "name": _device_name(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "methods": methods,
        "average_head": average,
    }


def table(record: Mapping[str, Any]) -> str:
    """A record of `compare` as Markdown: the table, at the paper's setting beside Table 5, and what it says."""
    methods, average, repeats = record["methods"], record["average_head"], record["setting"]["repeats"]
    header = ["method", "parameters, M", "GMAC", "GFLOP", "weights, MB", "peak memory, MB", "latency, s"]
    if average:
        header += ["counted as the paper does, G", "paper: GFLOPs", "paper: memory, MB"]
    rows = [header, ["---"] * len(header)]
    for name, figures in methods.items():
        latency = f"{figures['latency_sec']:.3g}"
        if repeats > 1:
            latency += f" ({figures['fastest_sec']:.3g} - {figures['slowest_sec']:.3g})"
        parameters, weights = figures["parameters"] / 1e6, figures["weights_bytes"] / 1e6
        macs, flops, peak = _giga(figures["macs"]), _giga(figures["flops"]), f"{figures['peak_bytes'] / 1e6:.1f}"
        row = [name, f"{parameters:.2f}", macs, flops, f"{weights:.1f}", peak, latency]
        if average:
            paper = "doubled" if name == TWO_STREAM else str(PAPER_GFLOPS.get(name, "-"))
            row += [_giga(average[name]["fvcore_style"]), paper, str(PAPER_MB.get(name, "-"))]
        rows.append(row)
    notes = _notes(record) + (_paper_notes(record) if average else [])
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + [""] + [f"* {note}" for note in notes])


def run(
    out_json: Path | None,
    out_markdown: Path | None,
    *,
    model: str,
    head: str,
    frames: int,
    size: int,
    num_classes: int,
    enhancer: str,
    repeats: int,
    device: torch.device,
) -> str:
    """Compare the methods, see `compare`, and write what was found.

    Args:
        out_json: where the record goes; None writes none.
        out_markdown: a document whose text between the lines `<!-- cost -->` and `<!-- end cost -->` becomes the
            table; where there is no such document, one of nothing else is made. None writes none.
        model: see `compare`, as for all that follow.
        head: same.
        frames: same.
        size: same.
        num_classes: same.
        enhancer: same.
        repeats: same.
        device: same.

    Returns:
        The table as text, to print.

    Raises:
        ValueError: an unknown name, a number out of its range, or a document without these lines.
        OSError: a file cannot be written.
    """
    if out_markdown is not None:
        _with_table(out_markdown, "")  # refuses before the long work
    record = compare(
        model=model,
        head=head,
        frames=frames,
        size=size,
        num_classes=num_classes,
        enhancer=enhancer,
        repeats=repeats,
        device=device,
    )
    text = table(record)
    if out_json is not None:
        with replacing(out_json) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if out_markdown is not None:
        document = _with_table(out_markdown, text)
        with replacing(out_markdown) as partial:
            partial.write_text(document, encoding="utf-8")
    return text


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


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    linux = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", linux.read_text(), re.MULTILINE) if linux.exists() else None
    return found[1].strip() if found else platform.machine()


def _giga(value: float) -> str:
    return f"{value / 1e9:.2f}" if value >= 1e10 else f"{value / 1e9:.4f}"


def _notes(record: Mapping[str, Any]) -> list[str]:
    """What holds at every setting."""
    methods, setting, machine = record["methods"], record["setting"], record["machine"]
    student = methods[STUDENT]
    operations = ", ".join(
        f"{name} {_giga(figures['macs'])} GMAC ({100 * (figures['macs'] / student['macs'] - 1):+.1f} %)"
        for name, figures in methods.items()
        if name in (ENHANCED, TWO_STREAM)
    )
    memory = ", ".join(
        f"{name} {(figures['peak_bytes'] - student['peak_bytes']) / 1e6:+.1f} MB"
        for name, figures in methods.items()
        if name != STUDENT
    )
    frames, size = setting["frames"], setting["size"]
    notes = [
        f"{setting['model']} with the {setting['head']} head, {setting['num_classes']} classes, one clip of "
        f"3x{frames}x{size}x{size}, enhancer {setting['enhancer']}, {min(frames, ENHANCED_AT_ONCE)} frames at a time "
        f"unless said otherwise. fp32 on {machine['device']} ({machine['name']}), {machine['threads']} threads, torch "
        f"{machine['torch']}; latency is the median of {setting['repeats']} passes after the warm-up.",
        f"Peak memory: {MEMORY_SOURCES[machine['device']]}, in one pass, beyond the weights and the input of "
        f"{student['input_bytes'] / 1e6:.1f} MB; 1 MB = 10^6 bytes.",
        f"Operations: student {_giga(student['macs'])} GMAC, which is {student['flops'] / 1e9:.1f} GFLOP at two "
        f"operations for a multiply-accumulate; {operations}.",
        f"Memory: the student's peak is {student['peak_bytes'] / 1e6:.1f} MB ({student['peak_bytes'] / 2**20:.1f} MiB); "
        f"beyond it {memory}.",
    ]
    if not setting["enhancer_counted"]:
        notes.append(
            f"{setting['enhancer']} works in NumPy: its own arithmetic and memory are in no figure but latency."
        )
    return notes


def _paper_notes(record: Mapping[str, Any]) -> list[str]:
    """How the paper's figures come about, as far as they can be found again."""
    methods, average = record["methods"], record["average_head"]
    student, enhanced = average[STUDENT], average[ENHANCED]
    paper, added = PAPER_GFLOPS[STUDENT], PAPER_GFLOPS[AT_ONCE] - PAPER_GFLOPS[STUDENT]
    frames = record["setting"]["frames"]
    zero_dce = enhanced["macs"] - student["macs"]
    two_stream = average[TWO_STREAM]["fvcore_style"]
    return [
        f"The paper's {paper} are multiply-accumulates, as fvcore counts: {student['macs'] / 1e9:.4f} G of the network "
        "with a plain average in place of the attention head, and 2 for each of the "
        f"{student['batch_norm_elements']:,} elements that its {student['batch_norm_layers']} batch normalisations "
        f"give: {student['fvcore_style'] / 1e9:.4f} G. With the attention head it is "
        f"{methods[STUDENT]['fvcore_style'] / 1e9:.4f} G. For the two-stream method, whose number the paper does not "
        f"print, it is {two_stream / 1e9:.2f} G.",
        f"The paper's {PAPER_GFLOPS[AT_ONCE]} cannot be reproduced: the same count of the enhancement-based method is "
        f"{enhanced['fvcore_style'] / 1e9:.2f}. Zero-DCE on {frames} frames adds {zero_dce / 1e9:.2f} G, not the "
        f"paper's {added:.2f}, which is one frame's share of the backbone ({paper} / {frames} = {paper / frames:.3f}), "
        f"or {added * 1e9 * frames / zero_dce:.1f} frames of Zero-DCE at {zero_dce / frames / 1e9:.6f} G each.",
        f"The paper's memory differs by {PAPER_MB[AT_ONCE]} - {PAPER_MB[STUDENT]} = "
        f"{PAPER_MB[AT_ONCE] - PAPER_MB[STUDENT]} MB; compare what all frames at once add above.",
    ]


def _with_table(document: Path, text: str) -> str:
    """The document with another table between its markers."""
    start, end = MARKERS
    if not document.exists():
        return f"{start}\n{text}\n{end}\n"
    old = document.read_text(encoding="utf-8")
    before, found, rest = old.partition(f"{start}\n")
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{document}: holds no lines `{start}` and `{end}`; add them where the table shall stand")
    return f"{before}{start}\n{text}\n{end}{after}"

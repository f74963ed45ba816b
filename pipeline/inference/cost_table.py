"""What a prediction costs, as a table beside the paper's Table 5."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.clips.files import replacing
from pipeline.inference.cost import AT_ONCE, ENHANCED, MEMORY_SOURCES, STUDENT, TWO_STREAM, Setting, compare
from pipeline.models.recogniser import ENHANCED_AT_ONCE

# GFLOPs and MB in Table 5. It has one enhancement-based row, and only AT_ONCE needs so much more memory.
PAPER_GFLOPS = {AT_ONCE: 310.28, STUDENT: 305.51}
PAPER_MB = {AT_ONCE: 2133, TWO_STREAM: 1599, STUDENT: 1599}
MARKERS = ("<!-- cost -->", "<!-- end cost -->")


def table(record: Mapping[str, Any]) -> str:
    """A record that `run` wrote as Markdown: the table, at the paper's setting beside Table 5, and what it says."""
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
    """Count and measure all methods on one clip of random pixels, with random weights: neither changes a figure.

    At the paper's setting the methods are counted with an average head too, as the paper must have counted them.

    Args:
        out_json: where the record goes; None writes none.
        out_markdown: a document whose text between the lines `<!-- cost -->` and `<!-- end cost -->` becomes the
            table; where there is no such document, one of nothing else is made. None writes none.
        model: the trunk, a key of `TRUNKS`.
        head: "attention" or "average".
        frames: T.
        size: S, in pixels.
        num_classes: K.
        enhancer: of the enhancement-based method; the two-stream method has gamma correction.
        repeats: passes that are timed, at least 1.
        device: to measure on, with as many threads as torch is set to.

    Returns:
        The table as text, to print.

    Raises:
        ValueError: an unknown name, a number out of its range, or a document without these lines.
        OSError: a file cannot be written.
    """
    if out_markdown is not None:
        _with_table(out_markdown, "")  # refuses before the long work
    for field, value in (("frames", frames), ("size", size)):
        if value < 1:
            raise ValueError(f"{field}: found {value}, wanted at least 1")
    setting = Setting(model=model, head=head, frames=frames, size=size, num_classes=num_classes, enhancer=enhancer)
    record = compare(setting, repeats=repeats, device=device)
    text = table(record)
    if out_json is not None:
        with replacing(out_json) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if out_markdown is not None:
        document = _with_table(out_markdown, text)
        with replacing(out_markdown) as partial:
            partial.write_text(document, encoding="utf-8")
    return text


def _giga(value: float) -> str:
    return f"{value / 1e9:.2f}" if value >= 1e10 else f"{value / 1e9:.4f}"


def _mega(value: int) -> str:
    return f"{value / 1e6:.1f} MB ({value / 2**20:.1f} MiB)"


def _notes(record: Mapping[str, Any]) -> list[str]:
    """What holds at every setting."""
    methods, setting, machine = record["methods"], record["setting"], record["machine"]
    student = methods[STUDENT]
    operations = ", ".join(
        f"{name} {_giga(figures['macs'])} GMAC ({figures['macs'] / student['macs']:.3f} times the student's)"
        for name, figures in methods.items()
        if name in (ENHANCED, TWO_STREAM)
    )
    memory = "; ".join(
        f"{name} {_mega(figures['peak_bytes'] - student['peak_bytes'])} more"
        for name, figures in methods.items()
        if name != STUDENT
    )
    frames, size, enhancer = setting["frames"], setting["size"], setting["enhancer"]
    notes = [
        f"{setting['model']} with the {setting['head']} head, {setting['num_classes']} classes, one clip of "
        f"3x{frames}x{size}x{size}; enhancer {enhancer}, {min(frames, ENHANCED_AT_ONCE)} frames at a time unless said "
        f"otherwise. Float32 on {machine['device']} ({machine['name']}), threads: {machine['threads']}, torch "
        f"{machine['torch']}. Latency is the median after a warm-up, repeats: {setting['repeats']}.",
        f"Peak memory is what a pass holds beyond the weights and the input of {student['input_bytes'] / 1e6:.1f} MB: "
        f"{MEMORY_SOURCES[machine['device']]}. 1 MB is 10^6 bytes, 1 MiB 2^20.",
        f"Operations: student {_giga(student['macs'])} GMAC, which is {_giga(student['flops'])} GFLOP at two "
        f"operations for a multiply-accumulate; {operations}.",
        f"Memory: student {_mega(student['peak_bytes'])}; {memory}.",
    ]
    if not setting["enhancer_counted"]:
        notes.append(f"{enhancer} works in NumPy: its own arithmetic and memory are in no figure but the latency.")
    return notes


def _paper_notes(record: Mapping[str, Any]) -> list[str]:
    """How the paper's figures come about, as far as they can be found again."""
    methods, average, frames = record["methods"], record["average_head"], record["setting"]["frames"]
    student, enhanced = average[STUDENT], average[ENHANCED]
    paper, paper_enhanced = PAPER_GFLOPS[STUDENT], PAPER_GFLOPS[AT_ONCE]
    zero_dce = enhanced["macs"] - student["macs"]
    added = methods[AT_ONCE]["peak_bytes"] - methods[STUDENT]["peak_bytes"]
    return [
        f"The paper's {paper} counts as fvcore does: {student['macs'] / 1e9:.4f} G multiply-accumulates of the network "
        f"with a plain average in place of the attention head, and 2 for each of the "
        f"{student['batch_norm_elements']:,} elements that its {student['batch_norm_layers']} batch normalisations "
        f"give, together {student['fvcore_style'] / 1e9:.4f} G. With the attention head they are "
        f"{methods[STUDENT]['fvcore_style'] / 1e9:.4f} G. The two-stream method, whose number is missing in the paper, "
        f"comes to {average[TWO_STREAM]['fvcore_style'] / 1e9:.2f} G.",
        f"The paper's {paper_enhanced} could not be reproduced: the same count of the enhancement-based method is "
        f"{enhanced['fvcore_style'] / 1e9:.2f} G. Zero-DCE on {frames} frames adds {zero_dce / 1e9:.2f} G, and the "
        f"paper only {paper_enhanced - paper:.2f}. That is one frame's share of the backbone, {paper} / {frames} = "
        f"{paper / frames:.3f}, or {(paper_enhanced - paper) * 1e9 * frames / zero_dce:.1f} frames of Zero-DCE at "
        f"{zero_dce / frames / 1e9:.6f} G each.",
        f"The paper's memory differs by {PAPER_MB[AT_ONCE]} - {PAPER_MB[STUDENT]} = "
        f"{PAPER_MB[AT_ONCE] - PAPER_MB[STUDENT]} MB; enhancing all frames at once adds {_mega(added)} here. So its "
        "one enhancement-based row stands beside that method.",
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

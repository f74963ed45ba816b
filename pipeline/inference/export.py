"""Export a checkpoint to a file that runs without this project, with a json that says how to feed it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.clips.files import replacing, sha256_of
from pipeline.inference.export_form import INPUT, OUTPUT, as_graph, export_form, has_conv3d
from pipeline.inference.exported_file import (
    OPSET,
    PACKAGES,
    SUFFIXES,
    check_format,
    check_size,
    open_graph,
    write_graph,
)
from pipeline.inference.loading import load_recogniser
from pipeline.inference.parity import Parity, check_parity, measure, open_views
from pipeline.inference.sidecar import describe, sidecar_of


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    path: Path
    """The file."""
    sidecar: Path
    """The json beside it."""
    about: dict[str, Any]
    """What the json says."""
    parity: Parity
    """How far its logits lie from the checkpoint's."""


def run(
    checkpoint: Path, *, form: str, out: Path | None = None, videos: Sequence[Path] = (), conv2d: bool = False
) -> Exported:
    """Write the file and its json, both or none, after comparing its logits with the checkpoint's.

    Args:
        checkpoint: of a student, baseline or teacher.
        form: onnx or torch.
        out: the file to write; None takes the checkpoint's name with the format's suffix. The json's name is this
            one's with `.json` behind it.
        videos: videos and folders that parity is measured on; none for seeded noise.
        conv2d: without 3D convolutions, for engines that have none. Changes nothing in an R(2+1)D trunk, which has
            none in any case.

    Raises:
        ValueError: the checkpoint cannot be exported, a package is missing, a video is bad, or the logits differ.
        OSError: the files cannot be written.
    """
    check_format(form)
    out = checkpoint.with_suffix(SUFFIXES[form]) if out is None else out
    if out.suffix != SUFFIXES[form]:
        raise ValueError(f"{out}: found '{out.suffix}', wanted a name that ends in {SUFFIXES[form]} for format {form}")
    loaded = load_recogniser(checkpoint, device=torch.device("cpu"))
    pixels = loaded.preprocessing
    module = export_form(loaded, where=checkpoint, conv2d=conv2d)
    check_size(module, form)
    views = open_views(pixels, videos)
    graph = as_graph(module, frames=pixels.view_rule.frames, size=pixels.view_rule.size)
    in_3d = has_conv3d(graph)
    assert not (conv2d and in_3d), "every 3D convolution was replaced"
    sidecar = sidecar_of(out)
    # The file takes its place first: a file without its json is unfinished, a json beside another file misleads.
    with replacing(sidecar) as text, replacing(out) as partial:
        write_graph(graph, partial, form)
        parity = measure(open_graph(partial, form), loaded.recogniser, views.pixels)
        check_parity(parity, where=checkpoint)
        file = {"name": out.name, "sha256": sha256_of(partial), "bytes": partial.stat().st_size, "format": form}
        file |= {"convolutions": "2D and 3D" if in_3d else "2D"} | ({"opset": OPSET} if form == "onnx" else {})
        about = describe(
            loaded.record,
            pixels,
            file=file,
            checkpoint=checkpoint,
            views=views,
            parity=parity,
            packages=PACKAGES[form],
        )
        # Names of files may hold bytes that are no text; JSON reads the escapes back.
        about_json = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        text.write_text(about_json, encoding="utf-8", errors="backslashreplace")
        sidecar.unlink(missing_ok=True)
    return Exported(path=out, sidecar=sidecar, about=about, parity=parity)


def as_text(exported: Exported) -> str:
    """What was written, as lines for a terminal."""
    about, parity = exported.about, exported.parity
    file, on = about["file"], about["parity"]
    shape = ", ".join(str(side) for side in about["input"]["shape"])
    lines = [
        f"{exported.path}: {file['bytes'] / 1e6:.1f} MB, {file['format']}, convolutions {file['convolutions']}",
        f"uint8 {INPUT} ({shape}) -> float32 {OUTPUT} (batch, {len(about['classes'])})",
        f"largest difference from the checkpoint {parity.largest_difference:.2g}, {parity.relative:.2g} of the largest "
        f"logit, on {on['views']} views of {on['on']}",
        f"how to feed it: {exported.sidecar}",
    ]
    if on["on"] != "real clips":
        lines.append("measured on noise alone: give --videos to measure on your own clips")
    return "\n".join(lines)

"""Exported graphs as files: ONNX and torch's .pt2, written and run."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram, load, save

from pipeline.clips.video import Frames
from pipeline.inference.export_form import INPUT, OUTPUT

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
OPSET = 20
"""Of ONNX; the first with the attention head's activation, GELU, as one operation."""
LARGEST_ONNX_BYTES = 2**31 - 2**24
"""Of weights: a protobuf message ends below 2 GiB, and the graph needs some of it."""

Run = Callable[[Frames], NDArray[np.float32]]
"""uint8 (B, T, S, S, 3) -> float32 logits (B, K)."""


def check_format(form: str) -> None:
    """Refuse a format that cannot be written here, before any work.

    Raises:
        ValueError: the format is unknown, or a package that it needs is not installed.
    """
    if form not in SUFFIXES:
        raise ValueError(f"format: unknown name {form!r}; known names are {', '.join(SUFFIXES)}")
    missing = [name for name in PACKAGES[form] if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"format {form}: needs {', '.join(missing)}, not installed; run `pip install -e '.[export]'`, or take "
            "another format"
        )


def check_size(module: nn.Module, form: str) -> None:
    """Refuse weights that do not fit into one file of the format.

    Raises:
        ValueError: more than 2 GB of them, and ONNX.
    """
    weights = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if form == "onnx" and weights > LARGEST_ONNX_BYTES:
        raise ValueError(
            f"format onnx: found {weights} bytes of weights, wanted at most {LARGEST_ONNX_BYTES}: a larger file has to "
            "be cut up, and a part of it could get lost; take --format torch"
        )


def write_graph(graph: ExportedProgram, path: Path, form: str) -> None:
    """Write a graph as one file, which names nothing of this machine.

    Args:
        graph: from uint8 frames to logits.
        path: the file to write; whether it is replaced in one step is the caller's concern.
        form: onnx or torch.
    """
    if form == "torch":
        # Through an open file: torch refuses names that do not end in .pt2.
        with path.open("wb") as file:
            save(graph, file)
        return
    program = torch.onnx.export(
        graph, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    assert program is not None
    model: Any = program.model_proto
    _tidy(model)
    path.write_bytes(model.SerializeToString())


def open_graph(path: Path, form: str) -> Run:
    """Open a written file by its own engine, ONNX Runtime or torch, on the CPU, and by nothing of this project."""
    if form == "onnx":
        import onnxruntime  # type: ignore[import-untyped]

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda pixels: np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])
    with path.open("rb") as file:
        module = load(file).module()

    @torch.inference_mode()
    def run(pixels: Frames) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = module(torch.from_numpy(pixels)).numpy()
        return logits

    return run


def _tidy(model: Any) -> None:
    """Name the free axis, and leave out where in Python each operation came from: it fills a fifth of a small file."""
    graph = model.graph
    for values in (graph.input, graph.output):
        values[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]  # derived, under the old name of the axis
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")

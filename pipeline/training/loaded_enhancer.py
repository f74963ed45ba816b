"""Enhancers from the checkpoints of the stage enhancer."""

from pathlib import Path

from torch import nn

from pipeline.enhancers.build import build_enhancer
from pipeline.models.state_dicts import check_state_dict
from pipeline.training.checkpoint import REMEDY, Record, arguments_for, load_checkpoint


def load_enhancer(path: Path) -> tuple[nn.Module, Record]:
    """The enhancer of a checkpoint, on the CPU and in evaluation mode, and the checkpoint's record.

    Raises:
        ValueError: the file is missing, damaged, of another kind, or its record and weights do not fit; names it.
        OSError: the file cannot be read.
    """
    tensors, record = load_checkpoint(path, kind="enhancer")
    arguments = arguments_for(build_enhancer, record.model, where=f"{path}: record.model")
    try:
        enhancer = build_enhancer(**arguments)
    except ValueError as error:
        raise ValueError(f"{path}: record.model: {error}; {REMEDY}") from error
    check_state_dict(tensors, enhancer.state_dict(), path, remedy=REMEDY)
    enhancer.load_state_dict(tensors)
    return enhancer.eval(), record

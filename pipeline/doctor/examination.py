"""All that `dlkdd doctor` looks at, in its order."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.config import ComputeConfig
from pipeline.doctor import libraries, machine, project
from pipeline.doctor.findings import Check, Finding, examine
from pipeline.params import read_section


def findings(folder: Path, params: Path) -> Iterator[Finding]:
    """Look at libraries, machine and folder, one thing after the other.

    Args:
        folder: where runs lie: the repository's root.
        params: params.yaml.
    """
    compute = _compute(params)
    checks: dict[str, Check] = {
        "python": libraries.python,
        "packages": libraries.packages,
        "export": libraries.optional,
        "loading": libraries.loading,
        "GPU": machine.gpu,
        "bf16": partial(_bf16, wanted=compute is not None and compute.precision == "bf16"),
        "decoder": _decoder,
        "memory": machine.memory,
        "disk": partial(machine.disk, folder),
        "threads": partial(machine.threads, compute, os.environ),
        "parameters": partial(project.parameters, params),
        "git": partial(project.git, folder),
        "dvc": partial(project.dvc, folder),
        "dvc.lock": partial(project.dvc_lock, folder),
    }
    return examine(checks)


def _compute(params: Path) -> ComputeConfig | None:
    """The section of the machine; None where the file cannot be read, which `project.parameters` reports."""
    try:
        return read_section(params, ComputeConfig)
    except (OSError, ValueError):
        return None


# What needs torch or av is imported when its turn comes: where one does not load, the rest is still reported.


def _bf16(*, wanted: bool) -> Iterator[Finding]:
    import torch

    from pipeline.doctor import arithmetic

    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device in devices:
        yield from arithmetic.bf16(torch.device(device), wanted=wanted)


def _decoder() -> Iterator[Finding]:
    from pipeline.doctor import decoding

    yield from decoding.decoder()

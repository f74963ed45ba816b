"""The machine that a stage runs on: device, threads, and how memory is given back."""

import ctypes
import os

import torch

# Parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3

MOST_THREADS = 1024
"""More would use up the memory for stacks."""


def set_up_machine(device: str, threads: int, *, deterministic: bool = False) -> torch.device:
    """Choose the device, set torch's threads and keep freed memory for the next step.

    Args:
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
        threads: CPU threads of torch, at least 1.
        deterministic: on a GPU, take only algorithms that give the same bytes each time; a CPU's do.

    Raises:
        ValueError: no such device, or a number of threads that no machine has.
    """
    if threads < 1:
        raise ValueError(f"threads: found {threads}, wanted at least 1")
    if threads > MOST_THREADS:
        raise ValueError(f"threads: found {threads}, wanted at most {MOST_THREADS}; as many as cores are enough")
    keep_freed_memory()
    # Some launchers set one thread through the environment; the parameter is what the bytes are promised for.
    torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    unknown = f"compute.device or --device: found '{device}', wanted auto, cpu, cuda or cuda:N"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(unknown) from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"{unknown}: others are not tested")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"compute.device or --device: found '{device}', but torch sees {torch.cuda.device_count()} GPUs; "
            "set it to cpu or auto"
        )
    # TF32 keeps 10 bits of float32's 23; repeated runs must choose the same algorithms.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    if chosen.type == "cuda":
        # read by cuBLAS when it is first used; one of the two values for which it promises equal results
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)
    return chosen


def keep_freed_memory() -> None:
    """Let glibc keep what tensors free: a training step asks for the same sizes again, and fresh pages cost time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc has it
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_TOP_PAD, 1 << 26)

"""What a machine can compute, measured: the rate against which a network's own is held."""

import time

import torch

from pipeline.models.recogniser import PRECISIONS

LARGEST = {"cpu": 2048, "cuda": 8192}
"""Most rows of the square matrices: there, products and not memory take the time."""
SMALLEST, ENOUGH_SEC = 128, 0.05
"""Matrices grow from here until one product takes so long: a CPU without bfloat16 units is a thousand times slower."""
ROUNDS = 5
"""Products that are timed; the fastest counts, since everything else on the machine only slows them."""


def matmul_flops(device: torch.device, precision: str) -> float:
    """Rate of a square matrix product, the most that convolutions can hope for.

    Args:
        device: a CPU, with as many threads as torch is set to, or a CUDA device. float32 on a GPU is TF32 where
            torch is set to it.
        precision: "fp32" or "bf16".

    Returns:
        Operations a second, two for a multiply-accumulate.

    Raises:
        ValueError: another kind of device, or an unknown precision.
    """
    if device.type not in LARGEST:
        raise ValueError(f"device: found '{device}', wanted cpu or cuda")
    if precision not in PRECISIONS:
        raise ValueError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    side, seconds = SMALLEST, _product_sec(SMALLEST, dtype, device)
    while seconds < ENOUGH_SEC and side < LARGEST[device.type]:
        side *= 2
        seconds = _product_sec(side, dtype, device)
    return 2 * side**3 / seconds


def _product_sec(side: int, dtype: torch.dtype, device: torch.device) -> float:
    left, right = (torch.full((side, side), 0.5, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    with torch.inference_mode():
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            out = left @ right
            out[0, 0].item()  # waits for a GPU
            seconds.append(time.perf_counter() - started)
    return min(seconds[1:])  # the first one warms up

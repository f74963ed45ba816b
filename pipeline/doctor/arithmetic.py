"""Whether bfloat16 is computed as float32 is."""

from collections.abc import Iterator

import torch

from pipeline.doctor.findings import OK, PROBLEM, WARNING, Finding
from pipeline.training.precision import TOLERANCE, bf16_mismatches


def bf16(device: torch.device, *, wanted: bool) -> Iterator[Finding]:
    """Outputs and gradients in bfloat16 against float32: of the trunks' own convolutions, and of Conv3d as it comes.

    Args:
        device: to try.
        wanted: whether params.yaml asks for bfloat16; then an error stops the stages, and is a problem.
    """
    bad = PROBLEM if wanted else WARNING
    remedy = "keep compute.precision: fp32, or install another version of torch"
    plain_remedy = f"R(2+1)D trunks are not concerned; with r3d_18 and mc3_18 {remedy}"
    for part, plain, worst, cure in (
        ("bf16", False, bad, remedy),
        ("bf16 Conv3d", True, WARNING, plain_remedy),
    ):
        try:
            wrong = bf16_mismatches(device, plain=plain)
        except RuntimeError as error:
            yield Finding(part=part, state=worst, found=f"{device} cannot do it: {error}", remedy=cure)
            continue
        if wrong:
            listed = "; ".join(f"{each.what} over {each.frames} frames ({each.error:.2g})" for each in wrong[:3])
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            found = f"torch {torch.__version__} on {device} computes wrongly: {listed}{more}"
            yield Finding(part=part, state=worst, found=found, remedy=cure)
        else:
            found = f"outputs and gradients on {device} within {TOLERANCE} of float32"
            yield Finding(part=part, state=OK, found=found)

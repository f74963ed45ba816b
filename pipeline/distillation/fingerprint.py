"""What a row of the logit store depends on, and what is recorded beside it: the same words for writer and reader."""

import json
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.clips.video import av_version
from pipeline.clips.views import ViewRule, view_fields
from pipeline.version import VERSION

Scalar = str | int | float | bool

PRECISION_NAMES = {"fp32": "float32", "bf16": "bfloat16"}
"""What the teacher computed in -> what the store calls it."""


def fingerprint(
    *,
    teacher_sha256: str,
    class_names: Sequence[str],
    rule: ViewRule,
    mode: str,
    colour_range: str,
    enhancer_on: str,
    precision: str = "fp32",
) -> dict[str, Scalar]:
    """Fields that must be equal in the store and at its reader.

    Raises:
        ValueError: the teacher's precision is none of `PRECISION_NAMES`.
    """
    if precision not in PRECISION_NAMES:
        raise ValueError(f"precision: found {precision!r}, wanted one of {', '.join(PRECISION_NAMES)}")
    return {
        "teacher_sha256": teacher_sha256,
        "class_names": json.dumps(list(class_names)),
        "enhancer_on": enhancer_on,
        "precision": PRECISION_NAMES[precision],
        **view_fields(rule, mode=mode, colour_range=colour_range),
    }


def provenance(*, num_views: int, split_sha256: str) -> dict[str, Scalar]:
    """Fields that are recorded; a difference is worth one warning."""
    return {
        "dl_kdd": VERSION,
        "num_views": num_views,
        "split_sha256": split_sha256,
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
        "av": av_version(),
    }

"""Train the baseline: the student's classifier on the same dark views, without soft targets (the paper's backbone)."""

from pathlib import Path

import torch
from torch import Tensor

from pipeline.clips.clip_index import read_clips
from pipeline.clips.dataset import Batch, DrawnViews, FrameSource
from pipeline.clips.views import view_rule
from pipeline.config import BaselineConfig, ComputeConfig, ViewsConfig, plain
from pipeline.distillation.losses import cross_entropy
from pipeline.training.dark_training import Lessons, train_dark
from pipeline.training.distributed import joined


def run(
    clip_index: Path,
    videos: Path,
    statistics: Path,
    checkpoint: Path,
    curve: Path,
    timings: Path,
    *,
    config: BaselineConfig,
    num_views: int,
    views: ViewsConfig,
    compute: ComputeConfig,
    device: torch.device,
    fresh: bool = False,
) -> None:
    """Write the baseline's checkpoint; views, order, first weights and dropout are the student's.

    Where this process is one of several, all train one network, and the first one writes.

    Raises:
        ValueError: as in `train_dark`.
    """

    def loss_of(logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        return cross_entropy(logits, batch.labels)

    def lessons(source: FrameSource) -> Lessons:
        drawn = DrawnViews(rule=view_rule(plain(views)), mode=views.mode, num_views=num_views)
        return Lessons(view_of=drawn, loss_of=loss_of)

    with joined(device) as ranks:
        train_dark(
            "baseline",
            read_clips(clip_index),
            videos,
            statistics,
            checkpoint,
            curve,
            timings,
            lessons=lessons,
            inputs=[clip_index, statistics],
            config=config,
            num_views=num_views,
            views=views,
            compute=compute,
            device=device,
            ranks=ranks,
            fresh=fresh,
        )

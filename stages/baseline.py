"""Train the baseline: the student's classifier on the same dark views, without soft targets (the paper's backbone)."""

from pathlib import Path

import torch
from torch import Tensor

from pipeline.clips.clip_index import class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, DrawnViews, open_dark_frames
from pipeline.clips.views import view_rule
from pipeline.config import BaselineConfig, ComputeConfig, ViewsConfig, plain
from pipeline.distillation.losses import cross_entropy
from pipeline.training.checkpoint import save_checkpoint
from pipeline.training.classification import (
    build_dark,
    dark_record,
    train_classifier,
    weights_files,
    write_curve,
    write_timings,
)
from pipeline.training.work_folder import cache_policy, work_folder, work_root


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
    """Write the baseline's checkpoint; views, order, first weights and dropout are the student's."""
    clips = read_clips(clip_index)
    train, holdout, names = of_subset(clips, "train"), of_subset(clips, "holdout"), class_names_in(clips)
    rule = view_rule(plain(views))
    settings = {"baseline": plain(config), "views": plain(views), "num_views": num_views, "device": str(device)}
    inputs = [clip_index, statistics, *weights_files(config.weights)]

    def loss_of(logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        return cross_entropy(logits, batch.labels)

    with work_folder("baseline", out=checkpoint, settings=settings, inputs=inputs, fresh=fresh) as work:
        model = build_dark(plain(config), statistics, num_classes=len(names), num_frames=rule.frames)
        trained = train_classifier(
            model.recogniser,
            train=train,
            holdout=holdout,
            source=open_dark_frames(
                train + holdout,
                videos,
                frame_size=rule.frame_size,
                colour_range=views.colour_range,
                cache=cache_policy(work_root(checkpoint), mode=compute.cache, cache_gb=compute.cache_gb),
            ),
            rule=rule,
            view_of=DrawnViews(rule=rule, mode=views.mode, num_views=num_views),
            check=None,
            loss_of=loss_of,
            settings=plain(config),
            workers=compute.workers,
            device=device,
            work=work,
            title="baseline",
        )
        described = plain(config) | {"mode": views.mode, "num_views": num_views, "train_clips": len(train)}
        record = dark_record("baseline", names, model, rule, views.colour_range, described, trained)
        write_curve(curve, trained.curve)
        write_timings(timings, trained)
        save_checkpoint(checkpoint, trained.weights, record)

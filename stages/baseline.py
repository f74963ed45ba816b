"""Train the baseline: the student's classifier on the same dark views, without soft targets (the paper's backbone)."""

from pathlib import Path

import torch
from torch import Tensor

from pipeline.clips.clip_index import class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, DrawnViews, open_dark_frames
from pipeline.clips.frame_cache import cache_policy
from pipeline.clips.views import view_rule
from pipeline.config import BaselineConfig, ComputeConfig, ViewsConfig, plain
from pipeline.distillation.losses import cross_entropy
from pipeline.training.checkpoint import save_checkpoint
from pipeline.training.classification import (
    build_dark,
    dark_record,
    first_ones_folder,
    train_classifier,
    weights_files,
    write_curve,
    write_timings,
)
from pipeline.training.distributed import joined
from pipeline.training.precision import check_precision
from pipeline.training.work_folder import work_root


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
        ValueError: the machine computes wrongly in this precision, or as in `train_classifier`.
    """
    clips = read_clips(clip_index)
    train, holdout, names = of_subset(clips, "train"), of_subset(clips, "holdout"), class_names_in(clips)
    rule = view_rule(plain(views))
    settings = {"baseline": plain(config), "views": plain(views), "num_views": num_views, "device": str(device)}
    settings["precision"] = compute.precision
    inputs = [clip_index, statistics, *weights_files(config.weights)]

    def loss_of(logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        return cross_entropy(logits, batch.labels)

    with (
        joined(device) as ranks,
        first_ones_folder(ranks, "baseline", out=checkpoint, settings=settings, inputs=inputs, fresh=fresh) as work,
    ):
        check_precision(device, compute.precision)
        model = build_dark(
            plain(config),
            statistics,
            num_classes=len(names),
            num_frames=rule.frames,
            precision=compute.precision,
        )
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
            ranks=ranks,
            checkpointed=compute.checkpoint_activations,
            live=checkpoint.parent / "live",
        )
        if not ranks.first:
            return
        described = plain(config) | {"mode": views.mode, "num_views": num_views, "train_clips": len(train)}
        described["precision"] = compute.precision
        record = dark_record("baseline", names, model, rule, views.colour_range, described, trained)
        write_curve(curve, trained.curve)
        write_timings(timings, trained)
        save_checkpoint(checkpoint, trained.weights, record)

"""Train the student: dark views against labels and the teacher's stored logits (Eq. 2 and 4-8)."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, DrawnViews, FrameSource
from pipeline.clips.files import sha256_of
from pipeline.clips.views import ViewRule, view_rule
from pipeline.config import ComputeConfig, StudentConfig, ViewsConfig, plain
from pipeline.distillation.fingerprint import fingerprint, provenance
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.losses import kd_weight_at, student_loss
from pipeline.distillation.replay import PixelCheck, StoredViews, check_views
from pipeline.distillation.soft_targets import soft_targets
from pipeline.mapping_file import read_json
from pipeline.training.dark_training import Lessons, train_dark
from pipeline.training.distributed import joined
from pipeline.training.loop import LossOf


def run(
    clip_index: Path,
    videos: Path,
    statistics: Path,
    logit_store: Path,
    teacher_card: Path,
    checkpoint: Path,
    curve: Path,
    timings: Path,
    *,
    config: StudentConfig,
    num_views: int,
    views: ViewsConfig,
    compute: ComputeConfig,
    device: torch.device,
    fresh: bool = False,
) -> None:
    """Write the student's checkpoint. The teacher's weights are never opened.

    Where this process is one of several, all train one network, and the first one writes.

    Raises:
        ValueError: the store is damaged, or of another teacher, class list, view setting, precision or set of clips;
            or as in `train_dark`.
    """
    clips = read_clips(clip_index)
    train, names, rule = of_subset(clips, "train"), class_names_in(clips), view_rule(plain(views))
    store = open_store(
        logit_store,
        teacher_card,
        train,
        names,
        rule,
        views,
        num_views=num_views,
        precision=compute.precision,
        split_sha256=sha256_of(clip_index),
    )
    check = PixelCheck(
        store=store, videos=videos, colour_range=views.colour_range, strict=config.pixel_check == "strict"
    )
    replayed = views.mode != "independent"
    targets = soft_targets(config.soft_targets, store, train, temperature=config.temperature, seed=config.seed)

    def logits_of(batch: Batch, epoch: int) -> Tensor:
        return targets(batch.indices, epoch)

    def lessons(source: FrameSource) -> Lessons:
        check_views(check, train[: config.batch_size], source, size=rule.size)
        drawn = DrawnViews(rule=rule, mode=views.mode, num_views=None)
        return Lessons(
            view_of=StoredViews(store=store) if replayed else drawn,
            loss_of=distillation_loss(logits_of, config),
            check=check if replayed else None,
        )

    with joined(device) as ranks:
        train_dark(
            "student",
            clips,
            videos,
            statistics,
            checkpoint,
            curve,
            timings,
            lessons=lessons,
            inputs=[clip_index, statistics, logit_store],
            config=config,
            num_views=num_views,
            views=views,
            compute=compute,
            device=device,
            ranks=ranks,
            fresh=fresh,
        )


def distillation_loss(logits_of: Callable[[Batch, int], Tensor], config: StudentConfig) -> LossOf:
    """Eq. 8 of a batch, with the weight that the soft targets have in its epoch.

    Args:
        logits_of: (batch, epoch) -> the teacher's logits, float32 (B, K), on any device.
        config: weights and temperature.
    """

    def loss_of(logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        return student_loss(
            logits,
            batch.labels,
            logits_of(batch, epoch).to(logits.device, non_blocking=True),
            temperature=config.temperature,
            weight=kd_weight_at(epoch, config.kd_weight, config.kd_decay),
            scale_by_temperature_squared=config.scale_by_temperature_squared,
        )

    return loss_of


def open_store(
    path: Path,
    teacher_card: Path,
    train: list[Clip],
    class_names: tuple[str, ...],
    rule: ViewRule,
    views: ViewsConfig,
    *,
    num_views: int,
    precision: str,
    split_sha256: str,
) -> LogitStore:
    """Open the store and refuse it unless it is this teacher's, of these views and of these clips."""
    remedy = "run `dlkdd teacher` (or `dvc repro`) first"
    card = read_json(teacher_card, remedy=remedy, keys=("sha256", "preprocessing"))
    teacher_sha256, preprocessing = card["sha256"], card["preprocessing"]
    if not isinstance(teacher_sha256, str) or not isinstance(preprocessing, dict) or "enhancer_on" not in preprocessing:
        raise ValueError(f"{teacher_card}: is no teacher's card; {remedy}")
    store = LogitStore.open(path)
    store.require(
        **fingerprint(
            teacher_sha256=teacher_sha256,
            class_names=class_names,
            rule=rule,
            mode=views.mode,
            colour_range=views.colour_range,
            enhancer_on=preprocessing["enhancer_on"],
            precision=precision,
        )
    )
    store.require_clips([clip.id for clip in train], [clip.sha256 for clip in train])
    differences = store.differences(**provenance(num_views=num_views, split_sha256=split_sha256))
    if differences:
        print(f"warning: {path}: made under other circumstances: {'; '.join(differences)}", file=sys.stderr, flush=True)
    return store

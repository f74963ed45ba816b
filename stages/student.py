"""Train the student: dark views against labels and the teacher's stored logits (Eq. 2 and 4-8)."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, DrawnViews, open_dark_frames
from pipeline.clips.files import sha256_of
from pipeline.clips.views import ViewRule, view_rule
from pipeline.config import ComputeConfig, StudentConfig, ViewsConfig, plain
from pipeline.distillation.fingerprint import fingerprint, provenance
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.losses import kd_weight_at, student_loss
from pipeline.distillation.replay import PixelCheck, StoredViews, check_views, stored_logits
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

    Raises:
        ValueError: the store is damaged, or of another teacher, class list, view setting or set of clips.
    """
    clips = read_clips(clip_index)
    train, holdout, names = of_subset(clips, "train"), of_subset(clips, "holdout"), class_names_in(clips)
    rule = view_rule(plain(views))
    store = open_store(
        logit_store, teacher_card, train, names, rule, views, num_views=num_views, split_sha256=sha256_of(clip_index)
    )
    settings = {"student": plain(config), "views": plain(views), "num_views": num_views, "device": str(device)}
    inputs = [clip_index, statistics, logit_store, *weights_files(config.weights)]

    def loss_of(logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        return student_loss(
            logits,
            batch.labels,
            stored_logits(store, train, batch.indices, epoch).to(logits.device, non_blocking=True),
            temperature=config.temperature,
            weight=kd_weight_at(epoch, config.kd_weight, config.kd_decay),
            scale_by_temperature_squared=config.scale_by_temperature_squared,
        )

    with work_folder("student", out=checkpoint, settings=settings, inputs=inputs, fresh=fresh) as work:
        model = build_dark(plain(config), statistics, num_classes=len(names), num_frames=rule.frames)
        source = open_dark_frames(
            train + holdout,
            videos,
            frame_size=rule.frame_size,
            colour_range=views.colour_range,
            cache=cache_policy(work_root(checkpoint), mode=compute.cache, cache_gb=compute.cache_gb),
        )
        replayed = views.mode != "independent"
        check = PixelCheck(
            store=store, videos=videos, colour_range=views.colour_range, strict=config.pixel_check == "strict"
        )
        check_views(check, train[: config.batch_size], source, size=rule.size)
        trained = train_classifier(
            model.recogniser,
            train=train,
            holdout=holdout,
            source=source,
            rule=rule,
            view_of=StoredViews(store=store) if replayed else DrawnViews(rule=rule, mode=views.mode, num_views=None),
            check=check if replayed else None,
            loss_of=loss_of,
            settings=plain(config),
            workers=compute.workers,
            device=device,
            work=work,
            title="student",
        )
        described = plain(config) | {"mode": views.mode, "num_views": num_views, "train_clips": len(train)}
        record = dark_record("student", names, model, rule, views.colour_range, described, trained)
        write_curve(curve, trained.curve)
        write_timings(timings, trained)
        save_checkpoint(checkpoint, trained.weights, record)


def open_store(
    path: Path,
    teacher_card: Path,
    train: list[Clip],
    class_names: tuple[str, ...],
    rule: ViewRule,
    views: ViewsConfig,
    *,
    num_views: int,
    split_sha256: str,
) -> LogitStore:
    """Open the store and refuse it unless it is this teacher's, of these views and of these clips."""
    if not teacher_card.is_file():
        raise ValueError(f"{teacher_card}: no such file; run `dlkdd teacher` (or `dvc repro`) first")
    try:
        card = json.loads(teacher_card.read_text(encoding="utf-8"))
        teacher_sha256, enhancer_on = card["sha256"], card["preprocessing"]["enhancer_on"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{teacher_card}: is no teacher's card ({error}); run `dlkdd teacher` again") from error
    store = LogitStore.open(path)
    store.require(
        **fingerprint(
            teacher_sha256=teacher_sha256,
            class_names=class_names,
            rule=rule,
            mode=views.mode,
            colour_range=views.colour_range,
            enhancer_on=enhancer_on,
        )
    )
    store.require_clips([clip.id for clip in train], [clip.sha256 for clip in train])
    differences = store.differences(**provenance(num_views=num_views, split_sha256=split_sha256))
    if differences:
        print(f"warning: {path}: made under other circumstances: {'; '.join(differences)}", file=sys.stderr, flush=True)
    return store

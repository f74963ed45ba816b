"""Train the student: dark views against labels and the teacher's stored logits (Eq. 2 and 4-8)."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pipeline.clips.clip_index import Clip, class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, DrawnViews, FrameSource, open_dark_frames
from pipeline.clips.files import sha256_of
from pipeline.clips.frame_cache import cache_policy
from pipeline.clips.views import View, ViewRule, view_rule
from pipeline.config import ComputeConfig, StudentConfig, ViewsConfig, plain
from pipeline.distillation.fingerprint import fingerprint, provenance
from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.losses import kd_weight_at, student_loss
from pipeline.distillation.replay import PixelCheck, StoredViews, check_views
from pipeline.distillation.soft_targets import soft_targets
from pipeline.mapping_file import read_json
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
from pipeline.training.distributed import Ranks, joined
from pipeline.training.precision import check_precision
from pipeline.training.work_folder import work_root


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a student learns from beside the labels: which views it sees, and the teacher's logits of them."""

    view_of: Callable[[Clip, int], View]
    """(training clip, epoch) -> view."""
    logits_of: Callable[[Batch, int], Tensor]
    """(batch, epoch) -> the teacher's logits, float32 (B, K), on any device."""
    check: PixelCheck | None = None
    """Of the stored views' pixels."""
    described: Mapping[str, object] = field(default_factory=dict)
    """What the student's record says of them."""


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
            the machine computes wrongly in this precision; or as in `train_classifier`.
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
            logits_of=logits_of,
            check=check if replayed else None,
        )

    with joined(device) as ranks:
        train_student(
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


def train_student(
    clips: Sequence[Clip],
    videos: Path,
    statistics: Path,
    checkpoint: Path,
    curve: Path,
    timings: Path,
    *,
    lessons: Callable[[FrameSource], Lessons],
    inputs: Sequence[Path],
    config: StudentConfig,
    num_views: int,
    views: ViewsConfig,
    compute: ComputeConfig,
    device: torch.device,
    ranks: Ranks,
    fresh: bool,
    stage: str = "student",
    module: str | None = None,
) -> None:
    """Train a student, wherever its teacher's logits come from, and write checkpoint, curve and timings.

    Args:
        clips: of the run.
        videos: root that clip ids are relative to.
        statistics: of the dark training frames.
        checkpoint: to write.
        curve: to write.
        timings: to write.
        lessons: given the source of dark frames.
        inputs: files that the result depends on, but for pretrained weights.
        config: the section of params.yaml.
        num_views: V.
        views: the section of params.yaml.
        compute: the machine.
        device: where to train.
        ranks: the processes that train together.
        fresh: start anew.
        stage: names work folder and messages.
        module: whose code this is; None for the stage's own.
    """
    train, holdout, names = of_subset(clips, "train"), of_subset(clips, "holdout"), class_names_in(clips)
    rule = view_rule(plain(views))
    settings = {"student": plain(config), "views": plain(views), "num_views": num_views, "device": str(device)}
    settings["precision"] = compute.precision
    inputs = [*inputs, *weights_files(config.weights)]
    with first_ones_folder(
        ranks, stage, out=checkpoint, settings=settings, inputs=inputs, fresh=fresh, module=module
    ) as work:
        check_precision(device, compute.precision)
        model = build_dark(
            plain(config), statistics, num_classes=len(names), num_frames=rule.frames, precision=compute.precision
        )
        source = open_dark_frames(
            train + holdout,
            videos,
            frame_size=rule.frame_size,
            colour_range=views.colour_range,
            cache=cache_policy(work_root(checkpoint), mode=compute.cache, cache_gb=compute.cache_gb),
        )
        learnt = lessons(source)

        def loss_of(logits: Tensor, batch: Batch, epoch: int) -> Tensor:
            return student_loss(
                logits,
                batch.labels,
                learnt.logits_of(batch, epoch).to(logits.device, non_blocking=True),
                temperature=config.temperature,
                weight=kd_weight_at(epoch, config.kd_weight, config.kd_decay),
                scale_by_temperature_squared=config.scale_by_temperature_squared,
            )

        trained = train_classifier(
            model.recogniser,
            train=train,
            holdout=holdout,
            source=source,
            rule=rule,
            view_of=learnt.view_of,
            check=learnt.check,
            loss_of=loss_of,
            settings=plain(config),
            workers=compute.workers,
            device=device,
            work=work,
            title=stage,
            ranks=ranks,
            checkpointed=compute.checkpoint_activations,
            live=checkpoint.parent / "live",
        )
        if not ranks.first:
            return
        described = plain(config) | {"mode": views.mode, "num_views": num_views, "train_clips": len(train)}
        described |= {"precision": compute.precision, **learnt.described}
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

"""Training on dark views, as student and baseline do it: they differ in what they learn from alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipeline.clips.clip_index import Clip, class_names_in, of_subset
from pipeline.clips.dataset import FrameSource, open_dark_frames
from pipeline.clips.frame_cache import cache_policy
from pipeline.clips.video import Frames
from pipeline.clips.views import View, ViewRule, view_rule
from pipeline.config import BaselineConfig, ComputeConfig, StudentConfig, ViewsConfig, plain
from pipeline.models.recogniser import Recogniser
from pipeline.training.checkpoint import Preprocessing, Record, save_checkpoint
from pipeline.training.classification import (
    first_ones_folder,
    new_classifier,
    normalization,
    read_statistics,
    train_classifier,
    weights_files,
    write_curve,
    write_timings,
)
from pipeline.training.distributed import Ranks
from pipeline.training.loop import LossOf
from pipeline.training.precision import check_precision
from pipeline.training.work_folder import work_root


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a classifier of dark views learns from."""

    view_of: Callable[[Clip, int], View]
    """(training clip, epoch) -> view."""
    loss_of: LossOf
    check: Callable[[Clip, int, Frames], None] | None = None
    """Of the views' pixels; see ViewDataset."""
    described: Mapping[str, object] = field(default_factory=dict)
    """What the checkpoint's record says of them."""


def train_dark(
    kind: str,
    clips: Sequence[Clip],
    videos: Path,
    statistics: Path,
    checkpoint: Path,
    curve: Path,
    timings: Path,
    *,
    lessons: Callable[[FrameSource], Lessons],
    inputs: Sequence[Path],
    config: StudentConfig | BaselineConfig,
    num_views: int,
    views: ViewsConfig,
    compute: ComputeConfig,
    device: torch.device,
    ranks: Ranks,
    fresh: bool,
    stage: str | None = None,
    module: str | None = None,
) -> None:
    """Train a classifier of dark views, and write checkpoint, curve and timings.

    Args:
        kind: student or baseline, for the record.
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
        stage: names work folder and messages; None for the kind.
        module: whose code this is; None for the stage's own.

    Raises:
        ValueError: the machine computes wrongly in this precision, or as in `train_classifier`.
    """
    stage = stage or kind
    train, holdout, names = of_subset(clips, "train"), of_subset(clips, "holdout"), class_names_in(clips)
    rule = view_rule(plain(views))
    settings = {kind: plain(config), "views": plain(views), "num_views": num_views, "device": str(device)}
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
        trained = train_classifier(
            model.recogniser,
            train=train,
            holdout=holdout,
            source=source,
            rule=rule,
            view_of=learnt.view_of,
            check=learnt.check,
            loss_of=learnt.loss_of,
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
        record = Record(
            kind=kind,
            class_names=names,
            model=model.arguments,
            preprocessing=model.preprocessing(rule, views.colour_range),
            # The hash instead of the path: no record may depend on where a user keeps things.
            settings={**described, "weights": model.origin},
            metrics=trained.curve[trained.epoch],
        )
        write_curve(curve, trained.curve)
        write_timings(timings, trained)
        save_checkpoint(checkpoint, trained.weights, record)


@dataclass(frozen=True, kw_only=True)
class DarkModel:
    """A new classifier of dark views, and what its record needs."""

    recogniser: Recogniser
    arguments: dict[str, Any]
    """Rebuild the network."""
    origin: str | None
    """sha256 of the pretrained trunk."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def preprocessing(self, rule: ViewRule, colour_range: str) -> Preprocessing:
        """What is to be done to a video before it."""
        return Preprocessing(
            view_rule=rule,
            colour_range=colour_range,
            mean=self.mean,
            std=self.std,
            enhancer_on="none",
            input="dark",
            remove_temporal_mean=self.recogniser.remove_temporal_mean,
        )


def build_dark(
    settings: Mapping[str, Any], statistics: Path, *, num_classes: int, num_frames: int, precision: str = "fp32"
) -> DarkModel:
    """Build the network of a student or baseline from the same section of params.yaml.

    Args:
        settings: the section.
        statistics: prepare's figures of the dark training frames.
        num_classes: K.
        num_frames: T.
        precision: see Recogniser.
    """
    mean, std = normalization(settings["normalization"], read_statistics(statistics))
    classifier, arguments, origin = new_classifier(settings, num_classes=num_classes, num_frames=num_frames)
    recogniser = Recogniser(
        classifier,
        mean=mean,
        std=std,
        remove_temporal_mean=settings["remove_temporal_mean"],
        precision=precision,
    )
    return DarkModel(recogniser=recogniser, arguments=arguments, origin=origin, mean=mean, std=std)

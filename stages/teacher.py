"""Train the teacher: the classifier on enhanced views of the training clips, with cross-entropy (Eq. 1 and 3).

With other inputs the same stage trains what the teacher is compared with: two streams (DarkLight), or dark views alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.clips.clip_index import class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, DrawnViews
from pipeline.clips.files import replacing
from pipeline.clips.frame_cache import cache_policy
from pipeline.clips.views import ViewRule, view_rule
from pipeline.config import ComputeConfig, TeacherConfig, ViewsConfig, plain
from pipeline.distillation.losses import cross_entropy
from pipeline.enhancers.enhanced_frames import open_teacher_frames, reading_workers
from pipeline.models.recogniser import Recogniser, Statistics
from pipeline.training.checkpoint import Preprocessing, Record, file_card, save_checkpoint
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
from pipeline.training.distributed import joined
from pipeline.training.loaded_enhancer import load_enhancer
from pipeline.training.precision import check_precision
from pipeline.training.work_folder import work_root


def run(
    clip_index: Path,
    videos: Path,
    statistics: Path,
    enhancer_checkpoint: Path,
    checkpoint: Path,
    card: Path,
    curve: Path,
    timings: Path,
    *,
    config: TeacherConfig,
    enhancer_on: str,
    views: ViewsConfig,
    compute: ComputeConfig,
    device: torch.device,
    fresh: bool = False,
) -> None:
    """Write the teacher's checkpoint with the enhancer inside, and the card by which its logits are known.

    Where this process is one of several, all train one network, and the first one writes.

    Raises:
        ValueError: the frames are enhanced before the crop, where the model has to see them dark as well; the machine
            computes wrongly in this precision; or as in `train_classifier`.
    """
    enhancer_on = _where_enhanced(config, enhancer_on)
    clips = read_clips(clip_index)
    train, holdout, names = of_subset(clips, "train"), of_subset(clips, "holdout"), class_names_in(clips)
    rule = view_rule(plain(views))
    settings = {"teacher": plain(config), "on": enhancer_on, "rule": rule, "range": views.colour_range}
    settings |= {"device": str(device), "precision": compute.precision}
    inputs = [clip_index, statistics, enhancer_checkpoint, *weights_files(config.weights)]
    with (
        joined(device) as ranks,
        first_ones_folder(ranks, "teacher", out=checkpoint, settings=settings, inputs=inputs, fresh=fresh) as work,
    ):
        check_precision(device, compute.precision)
        light = _load_light(enhancer_checkpoint, statistics, config, device=device)
        model = _build(
            light,
            config,
            enhancer_on=enhancer_on,
            num_classes=len(names),
            num_frames=rule.frames,
            precision=compute.precision,
        )

        def loss_of(logits: Tensor, batch: Batch, epoch: int) -> Tensor:
            return cross_entropy(logits, batch.labels)

        read = train + holdout
        begin = len(read) * ranks.rank // ranks.size  # each begins elsewhere and finds what the others have enhanced
        source = open_teacher_frames(
            read[begin:] + read[:begin],
            videos,
            light.enhancer,
            enhancer_on=enhancer_on,
            frame_size=views.frame_size,
            colour_range=views.colour_range,
            cache=cache_policy(work_root(checkpoint), mode=compute.cache, cache_gb=compute.cache_gb),
            device=device,
        )
        trained = train_classifier(
            model.recogniser,
            train=train,
            holdout=holdout,
            source=source,
            rule=rule,
            view_of=DrawnViews(rule=rule, mode="consistent", num_views=None),
            check=None,
            loss_of=loss_of,
            settings=plain(config),
            workers=reading_workers(source, compute.workers),
            device=device,
            work=work,
            title="teacher",
            ranks=ranks,
            checkpointed=compute.checkpoint_activations,
            live=checkpoint.parent / "live",
        )
        if not ranks.first:
            return
        model.recogniser.load_state_dict(trained.weights)
        record = Record(
            kind="teacher",
            class_names=names,
            model=model.arguments,
            preprocessing=_preprocessing(light, rule, views.colour_range, enhancer_on=enhancer_on, config=config),
            settings=plain(config)
            | {"weights": model.origin, "enhancer": light.settings, "precision": compute.precision},
            metrics=trained.curve[trained.epoch],
        )
        write_curve(curve, trained.curve)
        write_timings(timings, trained)
        save_checkpoint(checkpoint, _parts(model, light), record)
        with replacing(card) as partial:
            partial.write_text(json.dumps(file_card(checkpoint, record), indent=1, sort_keys=True) + "\n", "utf-8")


@dataclass(frozen=True, kw_only=True)
class _Light:
    """What the teacher's light comes from, and how its frames are normalised."""

    enhancer: nn.Module | None
    arguments: Mapping[str, Any] | None
    """Build the enhancer."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dark: Statistics
    """Mean and std of the dark frames."""
    settings: Mapping[str, Any] | None
    """How the enhancer was made; its `weights` is the sha256 of a given file, None where it was trained or has none."""


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A new teacher, and what its record needs."""

    recogniser: Recogniser
    arguments: dict[str, Any]
    """Rebuild the classifier."""
    origin: str | None
    """sha256 of the pretrained trunk."""


def _build(
    light: _Light, config: TeacherConfig, *, enhancer_on: str, num_classes: int, num_frames: int, precision: str
) -> _Model:
    """The network of one or two streams, which enhances by itself where the views are enhanced."""
    two = config.input == "both"
    classifier, arguments, origin = new_classifier(
        plain(config), num_classes=num_classes, num_frames=num_frames, streams=2 if two else 1
    )
    recogniser = Recogniser(
        classifier,
        mean=light.mean,
        std=light.std,
        enhancer=light.enhancer if enhancer_on == "view" else None,
        train_enhancer=config.unfreeze_enhancer,
        dark_stream=light.dark if two else None,
        remove_temporal_mean=config.remove_temporal_mean,
        precision=precision,
    )
    return _Model(recogniser=recogniser, arguments=arguments, origin=origin)


def _parts(model: _Model, light: _Light) -> dict[str, Tensor]:
    """The enhancer travels with the classifier: these are the only weights that the stage logits reads."""
    parts = {f"classifier.{name}": tensor for name, tensor in model.recogniser.classifier.state_dict().items()}
    if light.enhancer is not None:
        parts |= {f"enhancer.{name}": tensor for name, tensor in light.enhancer.state_dict().items()}
    return parts


def _where_enhanced(config: TeacherConfig, enhancer_on: str) -> str:
    """frame, view, or none for dark input; refuses what cannot be had where frames are enhanced before the crop."""
    for name, wanted in (
        ("unfreeze_enhancer: true", config.unfreeze_enhancer),
        ("input: both", config.input == "both"),
    ):
        if wanted and enhancer_on != "view":
            raise ValueError(f"teacher.{name} needs enhancer.on: view, found '{enhancer_on}'")
    return "none" if config.input == "dark" else enhancer_on


def _preprocessing(
    light: _Light, rule: ViewRule, colour_range: str, *, enhancer_on: str, config: TeacherConfig
) -> Preprocessing:
    seen = config.input
    dark_mean, dark_std = light.dark if seen == "both" else (None, None)
    return Preprocessing(
        view_rule=rule,
        colour_range=colour_range,
        mean=light.mean,
        std=light.std,
        enhancer_on=enhancer_on,
        input=seen,
        enhancer=light.arguments,
        dark_mean=dark_mean,
        dark_std=dark_std,
        remove_temporal_mean=config.remove_temporal_mean,
    )


def _load_light(checkpoint: Path, statistics: Path, config: TeacherConfig, *, device: torch.device) -> _Light:
    dark = normalization(config.normalization, read_statistics(statistics))
    if config.input == "dark":
        return _Light(enhancer=None, arguments=None, mean=dark[0], std=dark[1], dark=dark, settings=None)
    enhancer, record = load_enhancer(checkpoint)
    if config.unfreeze_enhancer and not list(enhancer.parameters()):
        raise ValueError(
            f"teacher.unfreeze_enhancer: true has nothing to train in {record.model['name']}; set it to false"
        )
    for name in ("mean", "std"):
        if name not in record.metrics:
            raise ValueError(f"{checkpoint}: record.metrics: found no {name}; run `dlkdd enhancer` again")
    mean, std = normalization(config.normalization, (record.metrics["mean"], record.metrics["std"]))
    return _Light(
        enhancer=enhancer.to(device),
        arguments=dict(record.model),
        mean=mean,
        std=std,
        dark=dark,
        settings=dict(record.settings),
    )

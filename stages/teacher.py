"""Train the teacher: the classifier on enhanced views of the training clips, with cross-entropy (Eq. 1 and 3)."""

import json
from pathlib import Path

import torch
from torch import Tensor

from pipeline.clips.clip_index import class_names_in, of_subset, read_clips
from pipeline.clips.dataset import Batch, DrawnViews
from pipeline.clips.files import replacing
from pipeline.clips.views import view_rule
from pipeline.config import ComputeConfig, TeacherConfig, ViewsConfig, plain
from pipeline.distillation.losses import cross_entropy
from pipeline.enhancers.enhanced_frames import open_teacher_frames, reading_workers
from pipeline.enhancers.zero_dce import ZeroDCE
from pipeline.models.recogniser import Recogniser
from pipeline.training.checkpoint import Preprocessing, Record, file_card, load_checkpoint, save_checkpoint
from pipeline.training.classification import (
    new_classifier,
    normalization,
    train_classifier,
    weights_files,
    write_curve,
    write_timings,
)
from pipeline.training.work_folder import cache_policy, work_folder, work_root


def run(
    clip_index: Path,
    videos: Path,
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
    """Write the teacher's checkpoint with the enhancer inside, and the card by which its logits are known."""
    if config.unfreeze_enhancer and enhancer_on != "view":
        raise ValueError(f"teacher.unfreeze_enhancer: true needs enhancer.on: view, found '{enhancer_on}'")
    clips = read_clips(clip_index)
    train, holdout, names = of_subset(clips, "train"), of_subset(clips, "holdout"), class_names_in(clips)
    rule = view_rule(plain(views))
    settings = {"teacher": plain(config), "on": enhancer_on, "rule": rule, "range": views.colour_range}
    settings["device"] = str(device)
    inputs = [clip_index, enhancer_checkpoint, *weights_files(config.weights)]
    with work_folder("teacher", out=checkpoint, settings=settings, inputs=inputs, fresh=fresh) as work:
        tensors, enhancer_record = load_checkpoint(enhancer_checkpoint, kind="enhancer")
        enhancer = ZeroDCE(seed=0).to(device)
        enhancer.load_state_dict(tensors)
        measured = (enhancer_record.metrics["mean"], enhancer_record.metrics["std"])
        mean, std = normalization(config.normalization, measured)
        classifier, arguments, origin = new_classifier(plain(config), num_classes=len(names), num_frames=rule.frames)
        recogniser = Recogniser(
            classifier,
            mean=mean,
            std=std,
            enhancer=enhancer if enhancer_on == "view" else None,
            train_enhancer=config.unfreeze_enhancer,
        )

        def loss_of(logits: Tensor, batch: Batch, epoch: int) -> Tensor:
            return cross_entropy(logits, batch.labels)

        source = open_teacher_frames(
            train + holdout,
            videos,
            enhancer,
            enhancer_on=enhancer_on,
            frame_size=views.frame_size,
            colour_range=views.colour_range,
            cache=cache_policy(work_root(checkpoint), mode=compute.cache, cache_gb=compute.cache_gb),
            device=device,
        )
        trained = train_classifier(
            recogniser,
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
        )
        recogniser.load_state_dict(trained.weights)
        record = Record(
            kind="teacher",
            class_names=names,
            model=arguments,
            preprocessing=Preprocessing(
                view_rule=rule, colour_range=views.colour_range, mean=mean, std=std, enhancer_on=enhancer_on
            ),
            settings=plain(config) | {"weights": origin},
            metrics=trained.curve[trained.epoch],
        )
        write_curve(curve, trained.curve)
        write_timings(timings, trained)
        # The enhancer travels with the classifier: these are the only weights that the stage logits reads.
        parts = {f"classifier.{name}": tensor for name, tensor in classifier.state_dict().items()}
        parts |= {f"enhancer.{name}": tensor for name, tensor in enhancer.state_dict().items()}
        save_checkpoint(checkpoint, parts, record)
        with replacing(card) as partial:
            partial.write_text(json.dumps(file_card(checkpoint, record), indent=1, sort_keys=True) + "\n", "utf-8")

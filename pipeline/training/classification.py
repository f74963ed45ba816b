"""What teacher, student and baseline have in common: build, train and describe a classifier of views."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.clips.clip_index import Clip
from pipeline.clips.dataset import Batches, CentreViews, FrameSource, ViewDataset
from pipeline.clips.files import replacing
from pipeline.clips.views import View, ViewRule
from pipeline.models.classifier import Classifier, build_classifier, load_weights
from pipeline.models.recogniser import NORMALIZATIONS, Recogniser
from pipeline.training.checkpoint import Preprocessing, Record
from pipeline.training.loop import LossOf, Schedule, Trained, fit


def new_classifier(
    settings: Mapping[str, Any], *, num_classes: int, num_frames: int, streams: int = 1
) -> tuple[Classifier, dict[str, Any], str | None]:
    """Build a classifier from a section of params.yaml.

    Returns:
        The network, the arguments that rebuild it, and the sha256 of the pretrained weights it starts from.
    """
    arguments = {
        "name": settings["model"],
        "num_classes": num_classes,
        "num_frames": num_frames,
        "head": settings["head"],
        "head_dropout": settings["head_dropout"],
        "keep_probability": settings["keep_probability"],
        "bn_momentum": settings["bn_momentum"],
        "streams": streams,
    }
    classifier = build_classifier(seed=settings["seed"], **arguments)
    weights = settings["weights"]
    if weights is None:
        return classifier, arguments, None
    return classifier, arguments, load_weights(classifier, Path(weights), up_to=settings["weights_up_to"])


def weights_files(weights: str | None) -> list[Path]:
    """The pretrained file as an input of a stage: unfinished work belongs to its content, not to its name."""
    return [] if weights is None else [Path(weights)]


def normalization(
    name: str, measured: tuple[Sequence[float], Sequence[float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of R, G, B by name; `dataset` is what was measured on the training frames."""
    mean, std = measured if name == "dataset" else NORMALIZATIONS[name]
    return tuple(mean), tuple(std)


def read_statistics(path: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std of R, G, B over the dark training frames, as prepare measured them."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run `dlkdd prepare` (or `dvc repro`) first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["mean"], content["std"]
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: holds no mean and std ({error}); run `dlkdd prepare` again") from error


def train_classifier(
    recogniser: Recogniser,
    *,
    train: Sequence[Clip],
    holdout: Sequence[Clip],
    source: FrameSource,
    rule: ViewRule,
    view_of: Callable[[Clip, int], View],
    check: Callable[[Clip, int, int], None] | None,
    loss_of: LossOf,
    settings: Mapping[str, Any],
    workers: int,
    device: torch.device,
    work: Path,
    title: str,
) -> Trained:
    """Train with AdamW from the last finished epoch on.

    Args:
        recogniser: pixels -> logits.
        train: training clips; positions in batches refer to them.
        holdout: clips of held-out scenes, seen through their centre view; may be empty.
        source: frames.
        rule: what views are drawn from.
        view_of: (clip, epoch) -> view of a training clip.
        check: see ViewDataset.
        loss_of: see LossOf.
        settings: epochs, batch_size, lr, weight_decay, schedule, warmup_epochs, select, seed.
        workers: reading processes.
        device: where to train.
        work: folder of the state of finished epochs.
        title: for messages.
    """
    recogniser.to(device)
    batch_size, seed = settings["batch_size"], settings["seed"]
    seen = ViewDataset(train, source=source, view_of=view_of, size=rule.size, check=check)
    held = ViewDataset(holdout, source=source, view_of=CentreViews(rule=rule), size=rule.size)
    batches = Batches(seen, batch_size=batch_size, seed=seed, workers=workers)
    weights = [weight for weight in recogniser.parameters() if weight.requires_grad]
    return fit(
        recogniser,
        batches,
        loss_of,
        torch.optim.AdamW(weights, lr=settings["lr"], weight_decay=settings["weight_decay"]),
        Schedule(
            lr=settings["lr"],
            shape=settings["schedule"],
            warmup_steps=settings["warmup_epochs"] * len(batches),
            total_steps=settings["epochs"] * len(batches),
        ),
        epochs=settings["epochs"],
        seed=seed,
        device=device,
        state_file=work / "state.pt",
        holdout=Batches(held, batch_size=batch_size, seed=None, workers=workers) if holdout else None,
        select=settings["select"],
        title=title,
    )


def write_curve(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Write the learning curve as csv, one row an epoch."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(curve[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in curve)


def write_timings(path: Path, trained: Trained) -> None:
    """Write what differs from run to run: seconds and memory."""
    content = {"seconds": round(trained.seconds, 2), "peak_memory_bytes": trained.peak_memory_bytes}
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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


def build_dark(settings: Mapping[str, Any], statistics: Path, *, num_classes: int, num_frames: int) -> DarkModel:
    """Build the network of a student or baseline from the same section of params.yaml.

    Args:
        settings: the section.
        statistics: prepare's figures of the dark training frames.
        num_classes: K.
        num_frames: T.
    """
    mean, std = normalization(settings["normalization"], read_statistics(statistics))
    classifier, arguments, origin = new_classifier(settings, num_classes=num_classes, num_frames=num_frames)
    recogniser = Recogniser(classifier, mean=mean, std=std)
    return DarkModel(recogniser=recogniser, arguments=arguments, origin=origin, mean=mean, std=std)


def dark_record(
    kind: str,
    class_names: tuple[str, ...],
    model: DarkModel,
    rule: ViewRule,
    colour_range: str,
    settings: Mapping[str, Any],
    trained: Trained,
) -> Record:
    """The record of a student's or baseline's checkpoint."""
    return Record(
        kind=kind,
        class_names=class_names,
        model=model.arguments,
        preprocessing=Preprocessing(
            view_rule=rule, colour_range=colour_range, mean=model.mean, std=model.std, enhancer_on="none", input="dark"
        ),
        # The hash instead of the path: no record may depend on where a user keeps things.
        settings={**settings, "weights": model.origin},
        metrics=trained.curve[trained.epoch],
    )

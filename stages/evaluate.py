"""Measure baseline, teacher and student on the test clips: one centre view a clip, the same for all three."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.clips.clip_index import Clip, of_subset, read_clips
from pipeline.clips.dataset import Batches, CachePolicy, CentreViews, ViewDataset, open_dark_frames
from pipeline.clips.files import replacing
from pipeline.config import ComputeConfig, EvaluateConfig, plain
from pipeline.enhancers.enhanced_frames import open_teacher_frames, reading_workers
from pipeline.inference.loading import Loaded, load_recogniser
from pipeline.training.loop import predict
from pipeline.training.metrics import compare, describe, top_k_hits
from pipeline.training.work_folder import cache_policy, work_folder, work_root

MODELS = ("baseline", "teacher", "student")
DETAILS = ("per_class", "confusion")
"""Figures that go into the details' file: too many for a table of metrics."""


def run(
    clip_index: Path,
    videos: Path,
    checkpoints: Mapping[str, Path],
    metrics: Path,
    details: Path,
    predictions: Path,
    confusion: Path,
    *,
    config: EvaluateConfig,
    compute: ComputeConfig,
    device: torch.device,
) -> None:
    """Write metrics.json, details.json, predictions.csv and the student's confusion.csv.

    Args:
        clip_index: clips.csv.
        videos: root that clip ids are relative to.
        checkpoints: by model: baseline, teacher, student.
        metrics: figures with intervals, and how the models stand to each other.
        details: per class and confusion.
        predictions: every test clip with every model's answer.
        confusion: actual and predicted class of every test clip, for plots.
        config: the section of params.yaml.
        compute: the machine.
        device: where to evaluate.
    """
    clips = of_subset(read_clips(clip_index), "test")
    if not clips:
        raise ValueError(f"{clip_index}: holds no test clip; give prepare a test list")
    labels = np.array([clip.label for clip in clips], np.int64)
    inputs = [clip_index, *checkpoints.values()]
    # Nothing is kept, but two evaluations of a run must not write at once.
    with work_folder("evaluate", out=metrics, settings=plain(config), inputs=inputs):
        logits: dict[str, NDArray[np.float32]] = {}
        names: tuple[str, ...] = ()
        cache = cache_policy(work_root(metrics), mode=compute.cache, cache_gb=compute.cache_gb)
        for kind in MODELS:
            loaded = load_recogniser(checkpoints[kind], device=device, kind=kind)
            names = loaded.record.class_names
            _check_classes(checkpoints[kind], names, clips)
            logits[kind] = _logits(loaded, clips, videos, cache, config, compute, device)
        figures, more = measure(logits, labels, names, config)
        _write_json(details, {"class_names": list(names), **more})
        header = ["id", "class", *(f"{kind}{part}" for kind in MODELS for part in ("", "_probability"))]
        _write_rows(predictions, header, _predictions(clips, logits, names))
        answers = logits["student"].argmax(axis=1)
        pairs = [[clip.class_name, names[answer]] for clip, answer in zip(clips, answers, strict=True)]
        _write_rows(confusion, ["actual", "predicted"], pairs)
        _write_json(metrics, figures)
    print(", ".join(f"{kind} {figures[kind]['top1']:.3f}" for kind in MODELS) + f" top-1 on {len(clips)} test clips")


def measure(
    logits: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], names: tuple[str, ...], config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures of all models and of how they stand to each other, and the details apart."""
    bins, resamples, seed = config.calibration_bins, config.bootstrap, config.seed
    figures: dict[str, Any] = {"n": len(labels)}
    for kind in MODELS:
        figures[kind] = describe(logits[kind], labels, names, bins=bins, resamples=resamples, seed=seed)
    more = {kind: {key: figures[kind].pop(key) for key in DETAILS} for kind in MODELS}
    hits = {kind: top_k_hits(logits[kind], labels, 1) for kind in MODELS}
    for other in ("baseline", "teacher"):
        figures[f"student_minus_{other}"] = compare(hits["student"], hits[other])
    return figures, more


def _logits(
    loaded: Loaded,
    clips: Sequence[Clip],
    videos: Path,
    cache: CachePolicy,
    config: EvaluateConfig,
    compute: ComputeConfig,
    device: torch.device,
) -> NDArray[np.float32]:
    """Logits of the test clips, (N, K); all about the pixels comes from the checkpoint."""
    pixels = loaded.preprocessing
    rule = pixels.view_rule
    size, colours = rule.frame_size, pixels.colour_range
    if loaded.enhancer is None:
        source = open_dark_frames(clips, videos, frame_size=size, colour_range=colours, cache=cache)
    else:
        source = open_teacher_frames(
            clips,
            videos,
            loaded.enhancer,
            enhancer_on=pixels.enhancer_on,
            frame_size=size,
            colour_range=colours,
            cache=cache,
            device=device,
        )
    dataset = ViewDataset(clips, source=source, view_of=CentreViews(rule=rule), size=rule.size)
    batches = Batches(
        dataset, batch_size=config.batch_size, seed=None, workers=reading_workers(source, compute.workers)
    )
    return predict(loaded.recogniser, batches, device=device).numpy()


def _check_classes(checkpoint: Path, names: Sequence[str], clips: Sequence[Clip]) -> None:
    for clip in clips:
        if clip.label >= len(names) or names[clip.label] != clip.class_name:
            raise ValueError(
                f"{checkpoint}: clip {clip.id} is of class {clip.label} ({clip.class_name}), the checkpoint knows "
                f"{list(names)}; train again on this clips.csv"
            )


def _predictions(
    clips: Sequence[Clip], logits: Mapping[str, NDArray[np.float32]], names: Sequence[str]
) -> list[list[str]]:
    probabilities = {kind: torch.from_numpy(values).softmax(dim=1).numpy() for kind, values in logits.items()}
    rows = []
    for index, clip in enumerate(clips):
        row = [clip.id, clip.class_name]
        for kind in MODELS:
            answer = int(logits[kind][index].argmax())
            row += [names[answer], f"{probabilities[kind][index, answer]:.4f}"]
        rows.append(row)
    return rows


def _write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")

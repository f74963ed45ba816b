"""Measure baseline, teacher and student on the test clips, through the same views: one centre view, or an average."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.clips.clip_index import Clip, of_subset, read_clips
from pipeline.clips.dataset import Batches, CachePolicy, EvaluationViews, ViewDataset, open_dark_frames
from pipeline.clips.files import replacing
from pipeline.config import ComputeConfig, EvaluateConfig, plain
from pipeline.enhancers.enhanced_frames import open_teacher_frames, reading_workers
from pipeline.inference.averaging import average
from pipeline.inference.loading import Loaded, load_recogniser
from pipeline.training.checkpoint import Record
from pipeline.training.loop import predict
from pipeline.training.metrics import compare, describe, top_k_hits
from pipeline.training.precision import check_precision
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

    Test clips without a label are predicted and not measured; where none has one, metrics.json says `n: 0` alone.

    Args:
        clip_index: clips.csv.
        videos: root that clip ids are relative to.
        checkpoints: by model: baseline, teacher, student.
        metrics: figures with intervals, and how the models stand to each other.
        details: the protocol, and figures per class and confusion.
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
    known = labels >= 0
    inputs = [clip_index, *checkpoints.values()]
    # Nothing is kept, but two evaluations of a run must not write at once.
    with work_folder("evaluate", out=metrics, settings=plain(config), inputs=inputs):
        check_precision(device, compute.precision)
        logits: dict[str, NDArray[np.float32]] = {}
        records: dict[str, Record] = {}
        cache = cache_policy(work_root(metrics), mode=compute.cache, cache_gb=compute.cache_gb)
        for kind in MODELS:
            loaded = load_recogniser(checkpoints[kind], device=device, kind=kind, precision=compute.precision)
            records[kind] = loaded.record
            _check_classes(checkpoints[kind], loaded.record.class_names, clips)
            logits[kind] = _logits(loaded, clips, videos, cache, config, compute, device)
        names = records["student"].class_names
        figures: dict[str, Any] = {"n": 0}
        more: dict[str, Any] = {}
        if known.any():
            of_known = {kind: values[known] for kind, values in logits.items()}
            figures, more = measure(of_known, labels[known], names, config)
        _write_json(
            details, {"class_names": list(names), "protocol": protocol(records, config, compute.precision), **more}
        )
        header = ["id", "class", *(f"{kind}{part}" for kind in MODELS for part in ("", "_probability"))]
        _write_rows(predictions, header, _predictions(clips, logits, names))
        answers = logits["student"].argmax(axis=1)
        pairs = [[c.class_name, names[answer]] for c, answer in zip(clips, answers, strict=True) if c.label >= 0]
        _write_rows(confusion, ["actual", "predicted"], pairs)
        _write_json(metrics, figures)
    if not known.any():
        print(f"{len(clips)} test clips without labels: predictions only")
        return
    top1 = ", ".join(f"{kind} {figures[kind]['top1']:.3f}" for kind in MODELS)
    without = f", {int((~known).sum())} more without a label" if not known.all() else ""
    print(f"{top1} top-1 on {int(known.sum())} test clips{without}")


def protocol(records: Mapping[str, Record], config: EvaluateConfig, precision: str) -> dict[str, Any]:
    """What a result depends on, as a table has to name it; from the checkpoints alone and the test's settings."""
    teacher, student = records["teacher"], records["student"]
    light, pixels = teacher.preprocessing, student.preprocessing
    assert light is not None
    assert pixels is not None
    chosen = ("model", "head", "weights", "epochs", "kd_weight", "kd_decay", "temperature")
    # The rest too, under longer names: splits that differ in any of it must not share a mean.
    more = {f"teacher_{name}": value for name, value in teacher.settings.items()}
    more |= {f"student_{name}": value for name, value in student.settings.items()}
    more |= {f"view_{name}": value for name, value in dataclasses.asdict(pixels.view_rule).items()}
    return {
        **more,
        "enhancer_on": light.enhancer_on,
        "enhancer_settings": dict(light.enhancer or {}),
        "colour_range": pixels.colour_range,
        "teacher_input": light.input,
        "enhancer": "none" if light.enhancer is None else light.enhancer["name"],
        "enhancer_weights": (teacher.settings["enhancer"] or {}).get("weights"),
        **{name: student.settings[name] for name in (*chosen, "scale_by_temperature_squared", "seed")},
        "frames": pixels.view_rule.frames,
        "size": pixels.view_rule.size,
        "frame_size": list(pixels.view_rule.frame_size),
        "clips": config.clips,
        "crops": config.crops,
        "average": config.average,
        "precision": precision,
    }


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
    """Logits of the test clips averaged over their views, (N, K); all about the pixels comes from the checkpoint."""
    pixels = loaded.preprocessing
    rule = pixels.view_rule
    if config.crops == "ten" and not rule.flip:
        raise ValueError("evaluate.crops: ten mirrors clips, the model was trained with views.flip: false; set five")
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
    views = EvaluationViews(rule=rule, clips=config.clips, crops=config.crops)
    dataset = ViewDataset(clips, source=source, view_of=views, size=rule.size)
    batches = Batches(
        dataset, batch_size=config.batch_size, seed=None, workers=reading_workers(source, compute.workers)
    )
    count = len(views.of(clips[0]))
    answers = torch.stack([predict(loaded.recogniser, batches, device=device, epoch=view) for view in range(count)])
    return average(answers, over=config.average).numpy()


def _check_classes(checkpoint: Path, names: Sequence[str], clips: Sequence[Clip]) -> None:
    for clip in clips:
        if clip.label < 0:
            continue
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

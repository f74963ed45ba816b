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
from pipeline.clips.dataset import CachePolicy
from pipeline.clips.files import replacing, sha256_of
from pipeline.clips.frame_cache import cache_policy
from pipeline.clips.plain_text import cell
from pipeline.config import ComputeConfig, EvaluateConfig, plain
from pipeline.inference.darkness import by_luma
from pipeline.inference.loading import Loaded, load_recogniser
from pipeline.inference.model_card import model_card
from pipeline.inference.stress import stress_curve
from pipeline.inference.tested_clips import clip_logits, protocol_views
from pipeline.training.checkpoint import Record
from pipeline.training.metrics import agreement, compare, describe, reliability_bins, top_k_hits
from pipeline.training.precision import check_precision
from pipeline.training.work_folder import work_folder, work_root

MODELS = ("baseline", "teacher", "student")
DETAILS = ("per_class", "confusion")
"""Figures of `describe` that go into the details' file: too many for a table of metrics."""


def run(
    clip_index: Path,
    videos: Path,
    checkpoints: Mapping[str, Path],
    metrics: Path,
    details: Path,
    predictions: Path,
    confusion: Path,
    card: Path,
    *,
    config: EvaluateConfig,
    compute: ComputeConfig,
    device: torch.device,
) -> None:
    """Write metrics.json, details.json, predictions.csv, the student's confusion.csv and MODEL_CARD.md.

    Test clips without a label are predicted and not measured; where none has one, metrics.json says `n: 0` alone.

    Args:
        clip_index: clips.csv.
        videos: root that clip ids are relative to.
        checkpoints: by model: baseline, teacher, student.
        metrics: figures with intervals, and how the models stand to each other.
        details: the protocol, the checkpoints' sha256, and figures by class, confidence and darkness.
        predictions: every test clip with every model's answer.
        confusion: actual and predicted class of every test clip, for plots.
        card: the model card, beside the student's checkpoint so that `dlkdd export` finds it.
        config: the section of params.yaml.
        compute: the machine.
        device: where to evaluate.
    """
    all_clips = read_clips(clip_index)
    clips = of_subset(all_clips, "test")
    if not clips:
        raise ValueError(f"{clip_index}: holds no test clip; give prepare a test list")
    labels = np.array([clip.label for clip in clips], np.int64)
    known = labels >= 0
    inputs = [clip_index, *checkpoints.values()]
    # Nothing is kept, but two evaluations of a run must not write at once.
    with work_folder("evaluate", out=metrics, settings=plain(config), inputs=inputs):
        check_precision(device, compute.precision)
        logits: dict[str, NDArray[np.float32]] = {}
        loaded: dict[str, Loaded] = {}
        cache = cache_policy(work_root(metrics), mode=compute.cache, cache_gb=compute.cache_gb)
        for kind in MODELS:
            loaded[kind] = load_recogniser(checkpoints[kind], device=device, kind=kind, precision=compute.precision)
            _check_classes(checkpoints[kind], loaded[kind].record.class_names, clips)
            logits[kind] = clip_logits(
                loaded[kind],
                clips,
                videos,
                views=protocol_views(loaded[kind], clips=config.clips, crops=config.crops),
                over=config.average,
                batch_size=config.batch_size,
                workers=compute.workers,
                cache=cache,
                device=device,
            )
        records = {kind: each.record for kind, each in loaded.items()}
        files = {what: (path.name, sha256_of(path)) for what, path in {**checkpoints, "clips": clip_index}.items()}
        names = records["student"].class_names
        figures: dict[str, Any] = {"n": 0}
        more: dict[str, Any] = {"class_names": list(names), "protocol": protocol(records, config, compute.precision)}
        more["checkpoints"] = {kind: files[kind][1] for kind in MODELS}
        if known.any():
            of_known = {kind: values[known] for kind, values in logits.items()}
            figures, measured = measure(of_known, labels[known], names, config)
            labelled = [clip for clip in clips if clip.label >= 0]
            more |= measured
            more["darkness"] = darkness(loaded, labelled, of_known, videos, cache, config, device)
        _write_answers(predictions, confusion, clips, logits, names)
        _write_json(details, more)
        run_name = card.resolve().parent.name
        text = model_card(run_name, clips=all_clips, records=records, files=files, figures=figures, details=more)
        with replacing(card) as partial:
            partial.write_text(text, encoding="utf-8")
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
    more: dict[str, Any] = {kind: {key: figures[kind].pop(key) for key in DETAILS} for kind in MODELS}
    for kind in MODELS:
        more[kind]["reliability"] = reliability_bins(logits[kind], labels, bins=bins)
    hits = {kind: top_k_hits(logits[kind], labels, 1) for kind in MODELS}
    more["disagreement"] = agreement(hits["student"], hits["teacher"], names=("student", "teacher"))
    for other in ("baseline", "teacher"):
        figures[f"student_minus_{other}"] = compare(hits["student"], hits[other])
    return figures, more


def darkness(
    loaded: Mapping[str, Loaded],
    clips: Sequence[Clip],
    logits: Mapping[str, NDArray[np.float32]],
    videos: Path,
    cache: CachePolicy,
    config: EvaluateConfig,
    device: torch.device,
) -> dict[str, Any]:
    """Top-1 by luma as filmed and over synthetic exposure; of labelled clips and their logits by model."""
    labels = np.array([clip.label for clip in clips], np.int64)
    drawn: dict[str, int] = {"resamples": config.bootstrap, "seed": config.seed}
    hits = {kind: top_k_hits(values, labels, 1) for kind, values in logits.items()}
    curve = stress_curve(
        loaded,
        clips,
        logits,
        videos,
        views={kind: protocol_views(each, clips=config.clips, crops=config.crops) for kind, each in loaded.items()},
        exposures=config.stress_ev,
        most_clips=config.stress_clips,
        over=config.average,
        batch_size=config.batch_size,
        cache=cache,
        device=device,
        **drawn,
    )
    luma = np.array([clip.mean_luma for clip in clips])
    return {"bins": by_luma(luma, hits, bins=config.luma_bins, **drawn), "stress": curve}


def _check_classes(checkpoint: Path, names: Sequence[str], clips: Sequence[Clip]) -> None:
    for clip in clips:
        if clip.label < 0:
            continue
        if clip.label >= len(names) or names[clip.label] != clip.class_name:
            raise ValueError(
                f"{checkpoint}: clip {clip.id} is of class {clip.label} ({clip.class_name}), the checkpoint knows "
                f"{list(names)}; train again on this clips.csv"
            )


def _write_answers(
    predictions: Path,
    confusion: Path,
    clips: Sequence[Clip],
    logits: Mapping[str, NDArray[np.float32]],
    names: Sequence[str],
) -> None:
    """Both are also opened in spreadsheets, so texts are cells that are no formulas; `from_cell` gives them back."""
    header = ["id", "class", *(f"{kind}{part}" for kind in MODELS for part in ("", "_probability"))]
    _write_rows(predictions, header, _predictions(clips, logits, names))
    answers = logits["student"].argmax(axis=1)
    pairs = [
        [cell(clip.class_name), cell(names[answer])]
        for clip, answer in zip(clips, answers, strict=True)
        if clip.label >= 0
    ]
    _write_rows(confusion, ["actual", "predicted"], pairs)


def _predictions(
    clips: Sequence[Clip], logits: Mapping[str, NDArray[np.float32]], names: Sequence[str]
) -> list[list[str]]:
    probabilities = {kind: torch.from_numpy(values).softmax(dim=1).numpy() for kind, values in logits.items()}
    rows = []
    for index, clip in enumerate(clips):
        row = [cell(clip.id), cell(clip.class_name)]
        for kind in MODELS:
            answer = int(logits[kind][index].argmax())
            row += [cell(names[answer]), f"{probabilities[kind][index, answer]:.4f}"]
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

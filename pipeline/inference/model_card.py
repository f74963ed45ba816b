"""MODEL_CARD.md: what a run's student is, what it was trained and tested on, and where nothing is known of it."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.clips.clip_index import SUBSETS, UNLABELLED, Clip, find_leaks, leak_note
from pipeline.clips.plain_text import visible
from pipeline.enhancers.zero_dce import OFFICIAL_SHA256
from pipeline.training.checkpoint import Record

MOST_CLASSES_SHOWN = 60
"""Classes up to which each one's precision and recall is shown; details.json has them all."""

Figures = Mapping[str, Any]


def model_card(
    name: str,
    *,
    clips: Sequence[Clip],
    records: Mapping[str, Record],
    files: Mapping[str, tuple[str, str]],
    figures: Figures,
    details: Figures,
) -> str:
    """The card, as Markdown (GitHub's, with tables); names of classes and files cannot change what it shows.

    Args:
        name: of the run.
        clips: all of clips.csv.
        records: of the checkpoints by model: baseline, teacher and student.
        files: name and sha256 of files, by what they are: the same checkpoints, and clips.csv.
        figures: what metrics.json says.
        details: what details.json says: protocol, and where clips have labels also figures by class and darkness.
    """
    parts = [
        _model(name, records),
        _data(clips, records),
        _training(records),
        _test(figures, details, tuple(records)),
        _limits(clips, figures, details, records["student"]),
        _files(files),
    ]
    return "\n".join(line for part in parts for line in part)


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it stands, on one line; also inside a table's cell."""
    line = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    line = visible(line)  # what is left: codes that turn the order of letters
    line = re.sub(r"([\\`*\[\]|~#$])", r"\\\1", line)
    # Inside a word it means nothing.
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield f"|{'---|' * len(headers)}"
    for row in rows:
        yield f"| {' | '.join(escaped(str(cell)) for cell in row)} |"
    yield ""


def _model(name: str, records: Mapping[str, Record]) -> Iterator[str]:
    student = records["student"]
    pixels, light, model = student.preprocessing, records["teacher"].preprocessing, student.model
    assert pixels is not None
    assert light is not None
    rule = pixels.view_rule
    seen = {"dark": "dark frames too", "both": "dark and enhanced frames"}.get(light.input, "enhanced frames")
    yield f"# Student of {escaped(name)}"
    yield ""
    yield (
        f"Says which of {len(student.class_names)} actions a short video shows that was filmed in the dark. It learnt "
        f"from dark frames, labels and the stored answers of a teacher that saw {seen}; to use it, neither teacher nor "
        "enhancer is needed."
    )
    yield ""
    yield "## Model"
    yield ""
    took = f"{rule.frames} frames, {rule.sampling}" + (f", stride {rule.stride}" if rule.stride > 1 else "")
    height, width = rule.frame_size
    rows = [
        ("network", f"{model['name']}, head {model.get('head', 'attention')}"),
        ("input", f"{took}; resized to {height} x {width} (height x width), cut to {rule.size} x {rule.size}"),
        ("colours", f"RGB, range {pixels.colour_range}; mean {_rounded(pixels.mean)}, std {_rounded(pixels.std)}"),
        *([("then", "each pixel's mean over the view's frames is subtracted")] if pixels.remove_temporal_mean else []),
        ("pixel path", pixels.pixel_path),
        ("output", f"{len(student.class_names)} logits, in the order of the classes"),
        ("classes", ", ".join(student.class_names)),
    ]
    yield from _table(("", ""), rows)


def _data(clips: Sequence[Clip], records: Mapping[str, Record]) -> Iterator[str]:
    yield "## Data"
    yield ""
    rows: list[Sequence[object]] = []
    for subset in SUBSETS:
        inside = [clip for clip in clips if clip.subset == subset]
        if not inside:
            continue
        luma = np.array([clip.mean_luma for clip in inside])
        rates = sorted({f"{clip.fps:g}" for clip in inside if clip.fps > 0}, key=float)
        rows.append(
            (
                subset,
                len(inside),
                sum(clip.label == UNLABELLED for clip in inside),
                len({clip.scene for clip in inside if clip.scene != clip.id}) or "not told",
                f"{luma.min():.1f} - {np.median(luma):.1f} - {luma.max():.1f}",
                " - ".join(rates[:: max(1, len(rates) - 1)]) or "not told",
            )
        )
    headers = ("subset", "clips", "without label", "scenes", "mean luma code: least, median, most", "frames a second")
    yield from _table(headers, rows)
    note = leak_note(find_leaks(clips), sum(clip.subset == "test" for clip in clips))
    yield (
        f"Leak between train and test: {note}."
        if note
        else ("No test clip was found in train again, by name, content or scene, as far as names and hashes tell.")
    )
    yield ""
    yield from _licence(records)
    yield ""


def _licence(records: Mapping[str, Record]) -> Iterator[str]:
    yield (
        "Licence: the terms of these clips are not recorded and so unknown here; whoever passes the weights on has to "
        "look them up."
    )
    started = sorted({record.settings["weights"] for record in records.values() if record.settings.get("weights")})
    if started:
        yield f"Training started from a pretrained file (sha256 {', '.join(started)}), whose terms hold as well."
    light = records["teacher"].settings.get("enhancer") or {}
    if light.get("weights") == OFFICIAL_SHA256:
        yield "The teacher saw through Zero-DCE's published weights, CC BY-NC 4.0: no commercial use."


def _training(records: Mapping[str, Record]) -> Iterator[str]:
    yield "## Training"
    yield ""
    keys = list(dict.fromkeys(key for record in records.values() for key in record.settings))
    rows = [(key, *(_value(record.settings[key]) if key in record.settings else "" for record in records.values()))
            for key in keys]  # fmt: skip
    ended = list(dict.fromkeys(key for record in records.values() for key in record.metrics))
    rows += [
        (f"ended with {key}", *(_value(record.metrics.get(key, "")) for record in records.values())) for key in ended
    ]
    yield from _table(("setting", *records), rows)


def _test(figures: Figures, details: Figures, models: Sequence[str]) -> Iterator[str]:
    yield "## Test"
    yield ""
    protocol = details["protocol"]
    times = "the middle" if protocol["clips"] == 1 else f"{protocol['clips']} places in time"
    crops = "the centre crop" if protocol["crops"] == "centre" else f"{protocol['crops']} crops"
    yield (
        f"A test video is seen at {times}, through {crops}; the mean is that of {protocol['average']}; computed in "
        f"{protocol['precision']}. Intervals are 95 %, over clips; the spread over seeds of training is not in them."
    )
    yield ""
    if figures["n"] == 0:
        yield "The test clips have no labels: nothing was measured."
        yield ""
        return
    measures = [key for key in figures["student"] if f"{key}_low" in figures["student"]]
    rows: list[Sequence[object]] = [
        (model, *(_interval(figures[model], key) for key in measures), figures["n"]) for model in models
    ]
    yield from _table(("model", *(key.replace("_", " ") for key in measures), "clips"), rows)
    differences = [
        (f"student - {other}", _interval(figures[f"student_minus_{other}"], "difference"),
         f"{figures[f'student_minus_{other}']['p_value']:.2g}")
        for other in ("baseline", "teacher")
    ]  # fmt: skip
    yield from _table(("top-1", "difference", "p (sign test)"), differences)
    yield from _darkness(details["darkness"], models)
    counts = details["disagreement"]
    yield (
        f"Student and teacher: both right on {counts['both_right']} clips, the student alone on "
        f"{counts['only_student']}, the teacher alone on {counts['only_teacher']}, neither on {counts['both_wrong']}."
    )
    yield ""
    per_class = details["student"]["per_class"]
    if len(per_class) <= MOST_CLASSES_SHOWN:
        yield "### The student by class"
        yield ""
        rows = [
            (name, found["n"], f"{found['precision']:.3f}", _interval(found, "recall"))
            for name, found in per_class.items()
        ]
        yield from _table(("class", "clips", "precision", "recall"), rows)


def _darkness(darkness: Figures, models: Sequence[str]) -> Iterator[str]:
    yield "### Top-1 by darkness"
    yield ""
    rows = [
        (f"{part['low']:.1f} to {part['high']:.1f}", part["n"], *(_interval(part[model], "top1") for model in models))
        for part in darkness["bins"]
    ]
    yield from _table(("mean luma code", "clips", *models), rows)
    if darkness["stress"]:
        yield (
            "Some of the clips darkened further by a model of a camera (linear light, noise, quantisation), in stops; "
            "0 is the clip as it is:"
        )
        yield ""
        rows = [
            (f"{part['ev']:g}", part["n"], *(_interval(part[model], "top1") for model in models))
            for part in darkness["stress"]
        ]
        yield from _table(("EV", "clips", *models), rows)


def _limits(clips: Sequence[Clip], figures: Figures, details: Figures, student: Record) -> Iterator[str]:
    tested = [clip for clip in clips if clip.subset == "test"]
    luma = [clip.mean_luma for clip in tested]
    yield "## Limits"
    yield ""
    yield f"* Every video gets one of the {len(student.class_names)} classes, also one that shows none of them."
    yield (
        "* Not tested: other cameras, places, people, actions, lengths and frame rates than those of the test clips "
        "above, several actions at once, long videos, live streams."
    )
    beyond = (
        "darker ones were tried by darkening alone, which adds noise to clips that hold some already."
        if details.get("darkness", {}).get("stress")
        else "darker ones were not tried."
    )
    yield f"* Test clips have mean luma codes of {min(luma):.1f} to {max(luma):.1f}; {beyond} Lighter ones were not."
    yield "* Whether it answers alike for all people was not tested: the clips do not say who is in them."
    yield f"* One training (seed {student.settings.get('seed', 'unknown')}); other seeds give other figures."
    if figures["n"]:
        yield f"* {figures['n']} clips: differences within the intervals above may be chance."
    yield "* No figure here says that it is fit to decide alone where someone may come to harm."
    yield ""


def _files(files: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    yield "## Files"
    yield ""
    yield from _table(("what", "file", "sha256"), [(what, *each) for what, each in files.items()])
    yield "The list of clips names the sha256 of every video."
    yield ""


def _interval(found: Figures, key: str) -> str:
    return f"{found[key]:.3f} ({found[f'{key}_low']:.3f} to {found[f'{key}_high']:.3f})"


def _rounded(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)

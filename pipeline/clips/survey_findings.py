"""What deserves attention in a dataset before training, each with a remedy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.clips.survey import Survey
from pipeline.clips.survey_video import VideoSurvey

PROBLEM, NOTE = "problem", "note"

IMBALANCE = 3.0
"""Largest class over smallest from which it is worth a note."""
MANY_ABOVE_WHITE = 0.01
MANY_REPEATED = 0.1
MANY_FROZEN = 0.5
LUMA_BY_CLASS = 0.5
"""Share of the variance of mean luma that lies between classes, from which brightness may give the class away."""
LUMA_BY_SUBSET = 1.5
"""Ratio of median mean luma between two subsets from which they differ in darkness."""
SHORT = 16
"""Frames below which a video is short for every view in use."""

MAX_NAMED = 5
"""Videos that the terminal names for one finding; the page and the json have them all."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something to know before training."""

    kind: str
    """problem: results would be wrong; note: worth a look."""
    text: str
    remedy: str
    """Empty where nothing has to be done."""
    ids: tuple[str, ...] = ()
    """The videos that it is about."""


def find(survey: Survey, summary: Mapping[str, Any]) -> list[Finding]:
    """All findings, problems first."""
    found = [
        *_files(survey, summary),
        *_doubled(summary),
        *_ranges(survey.videos),
        *_classes(summary),
        *_shapes(survey.videos, summary),
        *_times(survey.videos, summary),
        *_light(survey.videos),
        *_scenes(summary),
    ]
    return sorted(found, key=lambda finding: finding.kind != PROBLEM)


def listed(counts: Mapping[str, int]) -> str:
    """Values and how often each occurs: `30 (5), 25 (1)`."""
    shown = [f"{value} ({count})" for value, count in list(counts.items())[:MAX_NAMED]]
    return ", ".join(shown) + (f" and {len(counts) - MAX_NAMED} more" if len(counts) > MAX_NAMED else "")


def _files(survey: Survey, summary: Mapping[str, Any]) -> Iterator[Finding]:
    if survey.bad:
        total = len(survey.bad) + summary["videos"]
        yield Finding(
            kind=PROBLEM,
            text=f"{len(survey.bad)} of {total} files cannot be used",
            remedy="mend or remove them; each one's reason and remedy are listed",
            ids=tuple(bad.id for bad in survey.bad),
        )
    if summary["other_suffixes"]:
        yield Finding(
            kind=NOTE,
            text=f"files that no video suffix marks are left out: {listed(summary['other_suffixes'])}",
            remedy="rename or convert them if they are videos",
        )


def _doubled(summary: Mapping[str, Any]) -> Iterator[Finding]:
    groups = summary["doubles"]
    for key, kind, text, remedy in (
        ("subset", PROBLEM, "the same content lies in more than one subset", "a test must be new: keep one copy"),
        ("class_name", PROBLEM, "the same content lies in more than one class", "keep it in the right class"),
        ("", NOTE, "the same content lies under several names", "keep one of each, unless they should weigh more"),
    ):
        matching = [group for group in groups if key and len({double[key] for double in group}) > 1]
        if not key:
            matching = [g for g in groups if len({(double["subset"], double["class_name"]) for double in g}) == 1]
        if matching:
            ids = tuple(double["id"] for group in matching for double in group)
            yield Finding(kind=kind, text=f"{text} ({len(matching)} times)", remedy=remedy, ids=ids)


def _ranges(videos: Sequence[VideoSurvey]) -> Iterator[Finding]:
    said = {
        "full": "are tagged limited, or untagged and so read as limited, yet many codes lie below black: probably full "
        "range, and the darkest detail would be cut off",
        "limited": "are tagged full range, yet hold no code below black and many at it: probably limited range, and "
        "black would come out grey",
    }
    for likely, text in said.items():
        ids = tuple(video.entry.id for video in videos if video.likely_range == likely)
        if not ids:
            continue
        remedy = f"compare --colour-range auto and {likely} on the page, then set views.colour_range: {likely}"
        if len(ids) < len(videos):
            remedy += "; it holds for all videos of a run, so mend the tags where only some are wrong"
        yield Finding(kind=PROBLEM, text=f"{len(ids)} of {len(videos)} videos {text}", remedy=remedy, ids=ids)
    bright = tuple(
        video.entry.id
        for video in videos
        if video.high_share > MANY_ABOVE_WHITE and video.info.colour_range != "full" and not video.likely_range
    )
    if bright:
        yield Finding(
            kind=NOTE,
            text=f"{len(bright)} of {len(videos)} videos hold more than {MANY_ABOVE_WHITE:.0%} of their codes above "
            "white, which come out as one white",
            remedy="a camera's highlights, or full range without its tag; views.colour_range: full keeps them",
            ids=bright,
        )


def _classes(summary: Mapping[str, Any]) -> Iterator[Finding]:
    classes = dict(summary["classes"])
    without = classes.pop("", None)
    if without:
        yield Finding(kind=NOTE, text=f"{without['videos']} of {summary['videos']} videos lie in no class", remedy="")
    if not classes:
        return
    sizes = {name: figures["videos"] for name, figures in classes.items()}
    most, least = max(sizes, key=lambda name: sizes[name]), min(sizes, key=lambda name: sizes[name])
    if sizes[most] >= IMBALANCE * sizes[least]:
        yield Finding(
            kind=NOTE,
            text=f"classes are uneven: {sizes[most]} videos of {most}, {sizes[least]} of {least}",
            remedy="read recall by class, not top-1 alone",
        )
    for subset in summary["subsets"]:
        missing = [name for name, figures in classes.items() if subset not in figures["by_subset"]]
        if missing and subset != "none named":
            trained = subset.lower().startswith("train")
            remedy = "it cannot be learned: add videos, or leave the class out" if trained else ""
            kind = PROBLEM if trained else NOTE
            yield Finding(kind=kind, text=f"no video in {subset} of {', '.join(missing)}", remedy=remedy)


def _shapes(videos: Sequence[VideoSurvey], summary: Mapping[str, Any]) -> Iterator[Finding]:
    ratios = {round(video.info.width / video.info.height, 1) for video in videos}
    if len(ratios) > 1:
        yield Finding(
            kind=NOTE,
            text=f"frames have {len(ratios)} shapes: {listed(summary['sizes'])}",
            remedy="every frame is resized to views.frame_size whole, so some are stretched; crop them before",
        )
    turned = tuple(video.entry.id for video in videos if video.info.rotation)
    if turned:
        yield Finding(
            kind=NOTE, text=f"{len(turned)} of {len(videos)} videos are stored turned; they are read upright", remedy=""
        )


def _times(videos: Sequence[VideoSurvey], summary: Mapping[str, Any]) -> Iterator[Finding]:
    uneven = tuple(video.entry.id for video in videos if video.uneven_share > 0)
    if uneven:
        yield Finding(
            kind=NOTE,
            text=f"{len(uneven)} of {len(videos)} videos have uneven times between frames",
            remedy="a view counts frames, so its speed varies; re-encode at a constant rate (ffmpeg -vf fps=30)",
            ids=uneven,
        )
    if len(summary["fps"]) > 1:
        rates = listed(summary["fps"])
        yield Finding(
            kind=NOTE, text=f"{len(summary['fps'])} frame rates: {rates}", remedy="a view counts frames, not seconds"
        )
    short = tuple(video.entry.id for video in videos if video.info.num_frames < SHORT)
    if short:
        yield Finding(
            kind=NOTE,
            text=f"{len(short)} of {len(videos)} videos have fewer than {SHORT} frames",
            remedy="a longer view starts over with views.loop: true",
            ids=short,
        )
    for share, at_least, text in (
        ("repeated_share", MANY_REPEATED, "repeat more than a tenth of their frames"),
        ("frozen_share", MANY_FROZEN, "leave more than half of the picture without any change from frame to frame"),
    ):
        ids = tuple(video.entry.id for video in videos if getattr(video, share) > at_least)
        if ids:
            remedy = "a still scene, a dropped frame, or a codec that took the dark for nothing: look at them"
            yield Finding(kind=NOTE, text=f"{len(ids)} of {len(videos)} videos {text}", remedy=remedy, ids=ids)


def _light(videos: Sequence[VideoSurvey]) -> Iterator[Finding]:
    share = luma_told_by_class(videos)
    if share > LUMA_BY_CLASS:
        yield Finding(
            kind=NOTE,
            text=f"{share:.0%} of the variance of mean luma lies between classes: brightness may give the class away",
            remedy="compare the student with a class guessed from brightness alone",
        )
    lumas: dict[str, list[float]] = {}
    for video in videos:
        if video.entry.subset:
            lumas.setdefault(video.entry.subset, []).append(video.info.mean_luma)
    medians = {subset: float(np.median(values)) for subset, values in sorted(lumas.items())}
    if medians and max(medians.values()) > LUMA_BY_SUBSET * max(min(medians.values()), 1.0):
        told = ", ".join(f"{subset} {median:.0f}" for subset, median in medians.items())
        yield Finding(kind=NOTE, text=f"the subsets differ in darkness: median mean luma {told}", remedy="")


def luma_told_by_class(videos: Sequence[VideoSurvey]) -> float:
    """Share of the variance of mean luma that lies between classes, corrected for chance; 0 of fewer than two.

    Epsilon squared of a one-way analysis of variance: on average 0 where classes do not differ.
    """
    groups: dict[str, list[float]] = {}
    for video in videos:
        groups.setdefault(video.entry.class_name, []).append(video.info.mean_luma)
    values = np.array([value for group in groups.values() for value in group])
    total = float(np.square(values - values.mean()).sum()) if len(values) else 0.0
    if len(groups) < 2 or len(values) <= len(groups) or total == 0.0:
        return 0.0
    inside = sum(float(np.square(np.array(group) - np.mean(group)).sum()) for group in groups.values())
    return max(0.0, 1.0 - inside / (len(values) - len(groups)) * (len(values) - 1) / total)


def _scenes(summary: Mapping[str, Any]) -> Iterator[Finding]:
    shared = summary["scenes"]["in_several_subsets"]
    if shared:
        yield Finding(
            kind=NOTE,
            text=f"{len(shared)} of {summary['scenes']['count']} scenes, by the videos' names, lie in several subsets",
            remedy="a test in known scenes flatters: give whole scenes to one subset, unless the names mean otherwise",
            ids=tuple(shared),
        )

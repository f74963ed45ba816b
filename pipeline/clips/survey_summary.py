"""What the videos of a dataset tell together: counts, sizes, light, noise, doubles, scenes; and all of it as json."""

import dataclasses
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clips.files import replacing
from pipeline.clips.survey import Survey
from pipeline.clips.survey_video import PERCENTILES, VideoSurvey

FORMAT = "dl-kdd inspect"
VERSION = 1


def summarise(survey: Survey) -> dict[str, Any]:
    """Figures over all readable videos, as plain values.

    In the luma figures each video weighs the same, however long it is; codes are 8-bit luma as coded, 0 to 255.
    """
    videos = survey.videos
    return {
        "videos": len(videos),
        "bad": len(survey.bad),
        "bytes": sum(video.file_bytes for video in videos),
        "duration_sec": sum(video.duration_sec for video in videos),
        "classes": _classes(videos),
        "subsets": _counts(videos, lambda video: video.entry.subset or "none named"),
        "sizes": _counts(videos, lambda video: f"{video.info.width}x{video.info.height}"),
        "fps": _counts(videos, lambda video: f"{video.info.fps:g}"),
        "pix_fmts": _counts(videos, lambda video: video.info.pix_fmt),
        "colour_ranges": _counts(videos, lambda video: video.info.colour_range),
        "likely_ranges": _counts(videos, lambda video: video.likely_range or "as tagged"),
        "rotations": _counts(videos, lambda video: str(video.info.rotation)),
        "uneven_rate": sum(video.uneven_share > 0 for video in videos),
        "num_frames": spread(video.info.num_frames for video in videos),
        "video_sec": spread(video.duration_sec for video in videos),
        "luma": _luma(videos),
        "noise": spread(video.noise for video in videos),
        "frozen_share": spread(video.frozen_share for video in videos),
        "repeated_share": spread(video.repeated_share for video in videos),
        "scenes": _scenes(videos),
        "doubles": doubles(videos),
        "other_suffixes": survey.other_suffixes,
    }


def spread(values: Iterable[float]) -> dict[str, float]:
    """Least, 5 %, median, 95 % and largest of some values; zeros of none."""
    found = np.array(list(values) or [0.0], np.float64)
    low, middle, high = (float(value) for value in np.percentile(found, (5, 50, 95)))
    return {"least": float(found.min()), "p5": low, "median": middle, "p95": high, "largest": float(found.max())}


def doubles(videos: Sequence[VideoSurvey]) -> list[list[dict[str, str]]]:
    """Groups of entries with the same bytes, each entry with its id, class and subset."""
    groups: dict[str, list[VideoSurvey]] = defaultdict(list)
    for video in videos:
        groups[video.sha256].append(video)
    return [
        [{"id": v.entry.id, "class_name": v.entry.class_name, "subset": v.entry.subset} for v in group]
        for group in groups.values()
        if len(group) > 1
    ]


def by_class(videos: Sequence[VideoSurvey]) -> dict[str, list[VideoSurvey]]:
    """The videos of each class, classes and videos sorted by name."""
    groups: dict[str, list[VideoSurvey]] = defaultdict(list)
    for video in sorted(videos, key=lambda video: video.entry.id):
        groups[video.entry.class_name].append(video)
    return dict(sorted(groups.items()))


def write_json(
    path: Path, survey: Survey, summary: Mapping[str, Any], findings: Sequence[Any], *, settings: Mapping[str, Any]
) -> None:
    """Write all that was found: settings, findings, summary, bad files, and a record a video."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "settings": dict(settings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "summary": summary,
        "bad": [dataclasses.asdict(bad) for bad in survey.bad],
        "videos": [_record(video) for video in survey.videos],
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _record(video: VideoSurvey) -> dict[str, Any]:
    """One video flat, without its 256 shares, which the percentiles stand for."""
    fields = {field.name: getattr(video, field.name) for field in dataclasses.fields(video)}
    entry, info = dataclasses.asdict(fields.pop("entry")), dataclasses.asdict(fields.pop("info"))
    del fields["luma_shares"], entry["sha256"]
    percentiles = dict(zip(map(str, PERCENTILES), fields.pop("percentiles"), strict=True))
    return entry | info | fields | {"luma_percentiles": percentiles}


def _counts(videos: Sequence[VideoSurvey], key: Callable[[VideoSurvey], str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(sorted(Counter(key(video) for video in videos).items(), key=lambda item: (-item[1], item[0])))


def _classes(videos: Sequence[VideoSurvey]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "videos": len(group),
            "by_subset": dict(sorted(Counter(video.entry.subset for video in group).items())),
            "median_luma": statistics.median(video.info.mean_luma for video in group),
            "scenes": len({video.entry.scene for video in group}),
        }
        for name, group in by_class(videos).items()
    }


def _luma(videos: Sequence[VideoSurvey]) -> dict[str, Any]:
    shares = np.zeros(256)
    for video in videos:
        shares += np.array(video.luma_shares) / len(videos)
    codes, below = np.arange(256), np.cumsum(shares)
    contrasts = [_deviation(np.array(video.luma_shares, np.float64), codes) for video in videos]
    return {
        "mean": float(shares @ codes),
        "percentiles": {str(p): min(255, int(np.searchsorted(below, p / 100 - 1e-9))) for p in PERCENTILES},
        "low_share": float(shares[:16].sum()),
        "high_share": float(shares[236:].sum()),
        "mean_of_videos": spread(video.info.mean_luma for video in videos),
        "contrast": spread(contrasts),
        "shares": [round(float(share), 7) for share in shares],
    }


def _deviation(shares: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
    """Standard deviation of codes that come in these shares."""
    mean = float(np.dot(shares, codes))
    return float(np.sqrt(np.dot(shares, np.square(codes - mean))))


def _scenes(videos: Sequence[VideoSurvey]) -> dict[str, Any]:
    """How the names group the videos; a video whose name tells no scene is one of its own."""
    subsets: dict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    told = [video for video in videos if video.entry.scene != video.entry.id]
    for video in told:
        counts[video.entry.scene] += 1
        subsets[video.entry.scene].add(video.entry.subset)
    return {
        "told": len(told),
        "count": len(counts),
        "largest": dict(counts.most_common(20)),
        "in_several_subsets": sorted(scene for scene, found in subsets.items() if len(found - {""}) > 1),
    }
